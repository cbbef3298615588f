//! The packet that an ICMP error quotes (RFC 792, RFC 4443 3, RFC 1812 4.3.2.3).
//!
//! A quote is a packet as it was when it could not go on, cut off somewhere: of the transport header
//! only the first eight bytes are certain. IPv4 options and IPv6 extension headers may have been put
//! in on the way and are stepped over, the latter up to [`MAX_EXTENSIONS`]. Lengths and checksums of
//! the quoted packet are not checked: routers have been seen to change them before they quote.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::bytes::{get, get_u16, get_u32};
use super::flow::{FlowKey, Protocol};
use super::{ip_protocol, ipv4, ipv6};

/// Bytes of the transport header that every quote has (RFC 792).
pub const TRANSPORT_MIN: usize = 8;
/// IPv6 extension headers that are stepped over; no sender needs more (RFC 8200 4.1).
pub const MAX_EXTENSIONS: usize = 8;

/// What a quote says of the quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Its addresses, ports and protocol.
    pub key: FlowKey<A>,
    /// Where its transport header begins, in bytes from the start of the quote.
    pub transport: usize,
    /// How many bytes of the transport header and what follows are quoted, [`TRANSPORT_MIN`] at
    /// the least.
    pub available: usize,
    /// TCP: its sequence number.
    pub sequence: u32,
}

/// Why a quote does not lead to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Too short, of another IP version, too many extension headers, or a fragment without ports.
    Malformed,
    /// A protocol without sessions.
    OtherProtocol,
}

/// Reads a quoted IPv4 packet.
///
/// # Errors
/// See [`Unusable`].
pub fn parse_v4(quote: &[u8]) -> Result<Quoted<Ipv4Addr>, Unusable> {
    if quote.len() < ipv4::HEADER_LEN {
        return Err(Unusable::Malformed);
    }
    let packet = ipv4::Packet::new_unchecked(quote);
    let transport = packet.header_len();
    if packet.version() != 4 || transport < ipv4::HEADER_LEN || packet.fragment_offset() != 0 {
        return Err(Unusable::Malformed);
    }
    let endpoints = endpoints(quote, transport, packet.protocol())?;
    Ok(endpoints.between(packet.src(), packet.dst(), transport))
}

/// Reads a quoted IPv6 packet.
///
/// # Errors
/// See [`Unusable`].
pub fn parse_v6(quote: &[u8]) -> Result<Quoted<Ipv6Addr>, Unusable> {
    if quote.len() < ipv6::HEADER_LEN {
        return Err(Unusable::Malformed);
    }
    let packet = ipv6::Packet::new_unchecked(quote);
    if packet.version() != 6 {
        return Err(Unusable::Malformed);
    }
    let (mut next, mut at) = (packet.next_header(), ipv6::HEADER_LEN);
    for _ in 0..MAX_EXTENSIONS {
        let units = |bytes: &[u8]| usize::from(bytes[at + 1]);
        let length = match next {
            _ if !ip_protocol::is_extension_header(next) || next == ip_protocol::ESP => break,
            _ if quote.len() < at + 8 => return Err(Unusable::Malformed),
            ip_protocol::FRAGMENT if get_u16(quote, at + 2) & 0xfff8 != 0 => {
                return Err(Unusable::Malformed);
            }
            ip_protocol::FRAGMENT => 8,
            ip_protocol::AUTHENTICATION => (units(quote) + 2) * 4,
            _ => (units(quote) + 1) * 8,
        };
        next = quote[at];
        at += length;
    }
    if ip_protocol::is_extension_header(next) && next != ip_protocol::ESP {
        return Err(Unusable::Malformed);
    }
    let endpoints = endpoints(quote, at, next)?;
    Ok(endpoints.between(packet.src(), packet.dst(), at))
}

/// What the first bytes of a quoted transport header say.
struct Endpoints {
    sport: u16,
    dport: u16,
    protocol: Protocol,
    sequence: u32,
    available: usize,
}

impl Endpoints {
    fn between<A>(self, src: A, dst: A, transport: usize) -> Quoted<A> {
        let Endpoints { sport, dport, protocol, sequence, available } = self;
        let key = FlowKey { src, dst, sport, dport, protocol };
        Quoted { key, transport, available, sequence }
    }
}

fn endpoints(quote: &[u8], transport: usize, protocol: u8) -> Result<Endpoints, Unusable> {
    let protocol = match protocol {
        ip_protocol::TCP => Protocol::Tcp,
        ip_protocol::UDP => Protocol::Udp,
        ip_protocol::ICMP if is_echo_request(quote, transport, 8) => Protocol::Icmp,
        ip_protocol::ICMPV6 if is_echo_request(quote, transport, 128) => Protocol::Icmp,
        _ => return Err(Unusable::OtherProtocol),
    };
    let available = quote.len().saturating_sub(transport);
    if available < TRANSPORT_MIN {
        return Err(Unusable::Malformed);
    }
    let word = |at: usize| u16::from_be_bytes(get(quote, transport + at));
    let (sport, dport) = match protocol {
        Protocol::Icmp => (word(4), 0),
        Protocol::Tcp | Protocol::Udp => (word(0), word(2)),
    };
    Ok(Endpoints {
        sport,
        dport,
        protocol,
        sequence: match protocol {
            Protocol::Tcp => get_u32(quote, transport + 4),
            Protocol::Udp | Protocol::Icmp => 0,
        },
        available,
    })
}

/// Whether the quoted packet is an echo request, which has type `kind` and code 0.
fn is_echo_request(quote: &[u8], transport: usize, kind: u8) -> bool {
    quote.get(transport..transport + 2) == Some(&[kind, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const DST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    fn v4(protocol: u8, options: &[u8], fragment: u16, transport: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[0] = 0x45 + (options.len() / 4) as u8;
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&[192, 0, 2, 10]);
        bytes[16..20].copy_from_slice(&[198, 51, 100, 7]);
        bytes.extend(options);
        bytes.extend(transport);
        bytes
    }

    fn v6(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        bytes[6] = first;
        bytes[8..24].copy_from_slice(&SRC.octets());
        bytes[24..40].copy_from_slice(&DST.octets());
        bytes.extend(rest);
        bytes
    }

    const TCP: [u8; 8] = [0, 80, 0x9c, 0x40, 1, 2, 3, 4];

    #[test]
    fn eight_bytes_and_options() {
        for options in [&[][..], &[1; 40]] {
            let quoted = parse_v4(&v4(6, options, 0x4000, &TCP)).unwrap();
            assert_eq!(quoted.key.src, Ipv4Addr::new(192, 0, 2, 10));
            assert_eq!(quoted.key.dst, Ipv4Addr::new(198, 51, 100, 7));
            assert_eq!((quoted.key.sport, quoted.key.dport), (80, 40_000));
            assert_eq!(quoted.key.protocol, Protocol::Tcp);
            assert_eq!(quoted.transport, 20 + options.len());
            assert_eq!((quoted.available, quoted.sequence), (8, 0x0102_0304));
        }
    }

    #[test]
    fn what_has_no_ports() {
        let cases = [
            (v4(6, &[], 0, &TCP[..7]), Unusable::Malformed),
            (v4(17, &[], 1, &TCP), Unusable::Malformed),
            (v4(1, &[], 0, &TCP), Unusable::OtherProtocol),
            (v6(6, &TCP), Unusable::Malformed),
            (v4(6, &[], 0, &[])[..19].to_vec(), Unusable::Malformed),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse_v4(&bytes), Err(expected), "{bytes:x?}");
        }
        let mut short_header = v4(6, &[], 0, &TCP);
        short_header[0] = 0x44;
        assert_eq!(parse_v4(&short_header), Err(Unusable::Malformed));
        // The first fragment has ports.
        assert!(parse_v4(&v4(17, &[], 0x2000, &TCP)).is_ok());
    }

    #[test]
    fn extension_headers_up_to_the_bound() {
        // Destination options of 16 bytes, then as many of 8 bytes as asked for, then UDP.
        let chain = |more: usize| {
            let mut rest = vec![60, 1];
            rest.extend([0; 14]);
            for n in 0..more {
                rest.extend([if n + 1 == more { 17 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
            }
            rest.extend([0, 53, 0x9c, 0x40, 0, 8, 0, 0]);
            v6(0, &rest)
        };
        let quoted = parse_v6(&chain(MAX_EXTENSIONS - 1)).unwrap();
        assert_eq!(quoted.transport, 40 + 16 + 8 * (MAX_EXTENSIONS - 1));
        assert_eq!((quoted.key.src, quoted.key.dst), (SRC, DST));
        assert_eq!((quoted.key.sport, quoted.key.dport), (53, 40_000));
        assert_eq!((quoted.key.protocol, quoted.sequence), (Protocol::Udp, 0));
        assert_eq!(parse_v6(&chain(MAX_EXTENSIONS)), Err(Unusable::Malformed));

        // Authentication (4-byte units, less two), then a first fragment; then a later one.
        let mut rest = vec![44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        rest.extend([6, 0, 0, 1, 0, 0, 0, 9]);
        rest.extend(TCP);
        let quoted = parse_v6(&v6(51, &rest)).unwrap();
        assert_eq!((quoted.transport, quoted.sequence), (60, 0x0102_0304));
        rest[15] = 9;
        assert_eq!(parse_v6(&v6(51, &rest)), Err(Unusable::Malformed));

        assert_eq!(parse_v6(&v6(50, &TCP)), Err(Unusable::OtherProtocol));
        assert_eq!(parse_v6(&v6(58, &TCP)), Err(Unusable::OtherProtocol));
        assert_eq!(parse_v6(&v6(60, &[6, 200, 0, 0, 0, 0, 0, 0])), Err(Unusable::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..120), next in 0usize..8) {
            let _ = (parse_v4(&bytes), parse_v6(&bytes));
            if bytes.len() > 40 {
                bytes[0] = 0x60;
                bytes[6] = [0, 6, 17, 43, 44, 51, 60, 135][next];
                if let Ok(quoted) = parse_v6(&bytes) {
                    prop_assert!(quoted.transport + quoted.available == bytes.len());
                    prop_assert!(quoted.available >= TRANSPORT_MIN);
                }
                bytes[0] = 0x4f;
                if let Ok(quoted) = parse_v4(&bytes) {
                    prop_assert!(quoted.transport + quoted.available == bytes.len());
                }
            }
        }
    }
}
