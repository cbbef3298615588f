//! ICMP errors from IPv4 to IPv6 and back (RFC 7915 4.2, 4.3, 5.2, 5.3): the error about a packet
//! that [`super::crossing`] has made becomes one about the packet it was made of.
//!
//! Between families an error is built anew, with the quote's header in the other family and its
//! addresses mapped. What is in it beyond that (addresses, ports and sequence numbers of the other
//! side) is translated in IPv6, by difference, as in errors within one family
//! ([`super::icmp_error`]): after [`to_v6`], before [`to_v4`].
//!
//! An extension (RFC 4884) goes along where the other family has a place for its length, and is cut
//! where the packet ends.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::crossing::DIFFERENCE;
use crate::wire::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Address;
use crate::wire::fragment::{HEADER_LEN_V6 as FRAGMENT_HEADER, IDENT_V6};
use crate::wire::quoted::Quoted;
use crate::wire::{icmpv4, icmpv6, ip_protocol, ipv4, ipv6};

/// What every IPv6 path takes, and the longest error there is (RFC 8200 5, RFC 4443 2.4 c), in bytes.
pub const LEAST_V6: u16 = 1280;
/// Length of the ICMP header before the quote, in both families.
const ICMP_HEADER: usize = icmpv4::HEADER_LEN;
/// The least length of a quote that an extension follows (RFC 4884 4).
const QUOTE_MIN: usize = 128;
/// Path MTUs there are (RFC 1191 7.1): the next lower one is meant by a router that gives none.
const PLATEAUS: [u16; 6] = [32_000, 17_914, 8166, 4352, 2002, 1492];

/// Room for a frame with an error in it.
pub type Buffer = [u8; ETHERNET + LEAST_V6 as usize];

/// The MTU of the ports on both sides, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtus {
    /// Of the one that IPv4 packets come or leave by.
    pub v4: u16,
    /// Of the one that IPv6 packets come or leave by.
    pub v6: u16,
}

/// Type, code and the second word of an error.
type Kind = (u8, u8, u32);

/// Makes of an ICMPv4 error the ICMPv6 error between mapped addresses, and returns the length of its
/// frame. `frame` is one that parsing has called ICMP, `end` where its packet ends; `quoted` is what
/// was read of its quote. The MAC addresses are left out. `None` for what has no counterpart.
pub fn to_v6<A>(
    frame: &[u8],
    end: usize,
    quoted: &Quoted<A>,
    mtus: Mtus,
    made: &mut Buffer,
) -> Option<usize> {
    let packet = ipv4::Packet::new_unchecked(frame.get(ETHERNET..end)?);
    let message = frame.get(Ipv4Addr::TRANSPORT..end)?;
    let quote = message.get(ICMP_HEADER..)?;
    let (kind, code, rest) = kind_to_v6(message, mtus)?;
    let (original, extension) = split(quote, usize::from(message[5]) * 4);
    let inner = ipv4::Packet::new_unchecked(original);
    let (transport, protocol) = (quoted.transport, quoted.key.protocol.number());
    let (data, first) = (original.get(transport..)?, inner.more_fragments());
    let header_len = ipv6::HEADER_LEN + if first { FRAGMENT_HEADER } else { 0 };

    let room = &mut made[..ETHERNET + usize::from(LEAST_V6.min(mtus.v6))];
    let start = Ipv6Addr::TRANSPORT + ICMP_HEADER;
    let inner_len = usize::from(inner.total_len()).saturating_sub(transport);
    let header = room.get_mut(start..start + header_len)?;
    ipv6::Repr {
        src: inner.src().to_ipv6_mapped(),
        dst: inner.dst().to_ipv6_mapped(),
        next_header: if first { ip_protocol::FRAGMENT } else { protocol },
        hop_limit: inner.ttl(),
        payload_len: (inner_len + header_len - ipv6::HEADER_LEN).min(usize::from(u16::MAX)) as u16,
    }
    .emit(header);
    set_class(header, inner.traffic_class());
    if first {
        let fragment = &mut header[ipv6::HEADER_LEN..];
        fragment.copy_from_slice(&[protocol, 0, 0, 1, 0, 0, 0, 0]);
        set_u32(fragment, IDENT_V6, inner.ident().into());
    }
    let extensible = matches!(kind, icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED);
    let extension = extension.filter(|_| extensible);
    let (len, quote_len) = fill(room, start, header_len, data, extension, 8);

    room[12..14].copy_from_slice(&[0x86, 0xdd]);
    let (src, dst) = (packet.src().to_ipv6_mapped(), packet.dst().to_ipv6_mapped());
    let outer = &mut room[ETHERNET..];
    ipv6::Repr {
        src,
        dst,
        next_header: ip_protocol::ICMPV6,
        hop_limit: packet.ttl(),
        payload_len: (len - Ipv6Addr::TRANSPORT) as u16,
    }
    .emit(outer);
    set_class(outer, packet.traffic_class());
    let message = &mut room[Ipv6Addr::TRANSPORT..len];
    message[..2].copy_from_slice(&[kind, code]);
    set_u32(message, 4, rest);
    if extension.is_some() {
        message[4] = (quote_len / 8) as u8;
    }
    icmpv6::Packet::new_unchecked(message).fill_checksum(src, dst);
    Some(len)
}

/// Makes of an ICMPv6 error between mapped addresses about a packet between mapped addresses the
/// ICMPv4 error, as [`to_v6`] does the other way.
pub fn to_v4<A>(
    frame: &[u8],
    end: usize,
    quoted: &Quoted<A>,
    mtus: Mtus,
    made: &mut Buffer,
) -> Option<usize> {
    let packet = ipv6::Packet::new_unchecked(frame.get(ETHERNET..end)?);
    let message = frame.get(Ipv6Addr::TRANSPORT..end)?;
    let quote = message.get(ICMP_HEADER..)?;
    let transport = quoted.transport;
    let fragment = fragment_header(quote, transport);
    let (kind, code, rest) = kind_to_v4(message, mtus, fragment.is_some())?;
    let extended = matches!(message[0], icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED);
    let (original, extension) =
        split(quote, if extended { usize::from(message[4]) * 8 } else { 0 });
    let inner = ipv6::Packet::new_unchecked(original);
    let data = original.get(transport..)?;

    let room = &mut made[..ETHERNET + usize::from(LEAST_V6.min(mtus.v4))];
    let start = Ipv4Addr::TRANSPORT + ICMP_HEADER;
    let extensions = (transport - ipv6::HEADER_LEN) as u16;
    // What the quote says it was may be more than an IPv4 packet takes.
    let most = u16::MAX - ipv4::HEADER_LEN as u16;
    let payload_len = inner.payload_len().saturating_sub(extensions).min(most);
    // As super::crossing has it; the sender may have had it otherwise.
    let long = payload_len > LEAST_V6 - ipv6::HEADER_LEN as u16;
    let header = room.get_mut(start..start + ipv4::HEADER_LEN)?;
    ipv4::Repr {
        src: inner.src().to_ipv4_mapped()?,
        dst: inner.dst().to_ipv4_mapped()?,
        protocol: quoted.key.protocol.number(),
        ttl: inner.hop_limit(),
        ident: fragment.map_or(0, |header| get_u32(header, IDENT_V6) as u16),
        dont_fragment: fragment.is_none() && long,
        payload_len,
    }
    .emit(header);
    header[ipv4::field::TRAFFIC_CLASS] = inner.traffic_class();
    if fragment.is_some_and(|header| header[3] & 1 != 0) {
        header[ipv4::field::FRAGMENT] |= 0x20;
    }
    ipv4::Packet::new_unchecked(header).fill_checksum();
    let (len, quote_len) = fill(room, start, ipv4::HEADER_LEN, data, extension, 4);

    room[12..14].copy_from_slice(&[0x08, 0x00]);
    let outer = &mut room[ETHERNET..];
    ipv4::Repr {
        src: packet.src().to_ipv4_mapped()?,
        dst: packet.dst().to_ipv4_mapped()?,
        protocol: ip_protocol::ICMP,
        ttl: packet.hop_limit(),
        ident: 0,
        dont_fragment: true,
        payload_len: (len - Ipv4Addr::TRANSPORT) as u16,
    }
    .emit(outer);
    outer[ipv4::field::TRAFFIC_CLASS] = packet.traffic_class();
    ipv4::Packet::new_unchecked(outer).fill_checksum();
    let message = &mut room[Ipv4Addr::TRANSPORT..len];
    message[..2].copy_from_slice(&[kind, code]);
    set_u32(message, 4, rest);
    if extension.is_some() {
        message[5] = (quote_len / 4) as u8;
    }
    icmpv4::Packet::new_unchecked(message).fill_checksum();
    Some(len)
}

/// RFC 7915 4.2.
fn kind_to_v6(message: &[u8], mtus: Mtus) -> Option<Kind> {
    const NO_ROUTE: Kind = (icmpv6::UNREACHABLE, 0, 0);
    const PROHIBITED: Kind = (icmpv6::UNREACHABLE, 1, 0);
    Some(match (message[0], message[1]) {
        (icmpv4::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => NO_ROUTE,
        // The pointer is to the next header.
        (icmpv4::UNREACHABLE, 2) => (icmpv6::PARAMETER_PROBLEM, 1, 6),
        (icmpv4::UNREACHABLE, 3) => (icmpv6::UNREACHABLE, 4, 0),
        (icmpv4::UNREACHABLE, 4) => {
            let mtu = match get_u16(message, 6) {
                0 => plateau_below(get_u16(message, ICMP_HEADER + ipv4::field::TOTAL_LEN)),
                mtu => mtu,
            };
            let longer = |mtu: u16| u32::from(mtu) + DIFFERENCE as u32;
            let mtu = longer(mtu).min(longer(mtus.v4)).min(mtus.v6.into());
            (icmpv6::PACKET_TOO_BIG, 0, mtu.max(LEAST_V6.into()))
        }
        (icmpv4::UNREACHABLE, 9 | 10 | 13 | 15) => PROHIBITED,
        (icmpv4::TIME_EXCEEDED, code) => (icmpv6::TIME_EXCEEDED, code, 0),
        (icmpv4::PARAMETER_PROBLEM, 0 | 2) => {
            (icmpv6::PARAMETER_PROBLEM, 0, pointer_to_v6(message[4])?)
        }
        _ => return None,
    })
}

/// RFC 7915 5.2. `fragment`: whether the quoted packet has a fragment header.
fn kind_to_v4(message: &[u8], mtus: Mtus, fragment: bool) -> Option<Kind> {
    Some(match (message[0], message[1]) {
        (icmpv6::UNREACHABLE, 0 | 2 | 3) => (icmpv4::UNREACHABLE, 1, 0),
        (icmpv6::UNREACHABLE, 1) => (icmpv4::UNREACHABLE, 10, 0),
        (icmpv6::UNREACHABLE, 4) => (icmpv4::UNREACHABLE, 3, 0),
        (icmpv6::PACKET_TOO_BIG, _) => {
            let shorter = (DIFFERENCE + if fragment { FRAGMENT_HEADER } else { 0 }) as u32;
            // Nobody need believe in less (RFC 8201 4).
            let mtu = get_u32(message, 4).max(LEAST_V6.into()).min(mtus.v6.into());
            let mtu = mtu.saturating_sub(shorter).min(mtus.v4.into());
            (icmpv4::UNREACHABLE, 4, mtu)
        }
        (icmpv6::TIME_EXCEEDED, code) => (icmpv4::TIME_EXCEEDED, code, 0),
        (icmpv6::PARAMETER_PROBLEM, 0) => {
            let pointer = pointer_to_v4(get_u32(message, 4))?;
            (icmpv4::PARAMETER_PROBLEM, 0, u32::from(pointer) << 24)
        }
        (icmpv6::PARAMETER_PROBLEM, 1) => (icmpv4::UNREACHABLE, 2, 0),
        _ => return None,
    })
}

/// RFC 7915 figure 3: the field of the IPv6 header that a field of the IPv4 header became.
fn pointer_to_v6(pointer: u8) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer.into(),
        2 | 3 => 4,
        8 => 7,
        9 => 6,
        12..=15 => 8,
        16..=19 => 24,
        _ => return None,
    })
}

/// RFC 7915 figure 6, the other way.
fn pointer_to_v4(pointer: u32) -> Option<u8> {
    Some(match pointer {
        0 | 1 => pointer as u8,
        4 | 5 => 2,
        6 => 9,
        7 => 8,
        8..=23 => 12,
        24..=39 => 16,
        _ => return None,
    })
}

/// What a router means that does not say its MTU about a packet of this length.
fn plateau_below(length: u16) -> u16 {
    PLATEAUS.into_iter().find(|plateau| *plateau < length).unwrap_or(LEAST_V6)
}

/// The quoted packet, and the extension behind it when its length is given.
fn split(quote: &[u8], length: usize) -> (&[u8], Option<&[u8]>) {
    match quote.split_at_checked(length) {
        Some((original, extension)) if length != 0 && !extension.is_empty() => {
            (original, Some(extension))
        }
        _ => (quote, None),
    }
}

/// Writes what follows the quoted IP header, which is there, and the extension, as far as there is
/// room. Returns where the frame ends and the length of the quote, of `unit` bytes if an extension
/// follows.
fn fill(
    room: &mut [u8],
    start: usize,
    header_len: usize,
    data: &[u8],
    extension: Option<&[u8]>,
    unit: usize,
) -> (usize, usize) {
    // The length of the quote is a byte that counts units.
    let most = ((room.len() - start) / unit).min(255) * unit;
    let mut put = |at: usize, bytes: &[u8]| {
        let end = room.len().min(at + bytes.len());
        room[at..end].copy_from_slice(&bytes[..end - at]);
        end
    };
    let Some(extension) = extension else {
        let end = put(start + header_len, data);
        return (end, end - start);
    };
    let data = &data[..data.len().min(most - header_len)];
    let end = put(start + header_len, data);
    let quote_len = (end - start).next_multiple_of(unit).max(QUOTE_MIN);
    let padded = put(end, &[0; QUOTE_MIN][..(start + quote_len - end).min(QUOTE_MIN)]);
    (put(padded, extension), quote_len)
}

/// The fragment header before the transport header, if there is one.
fn fragment_header(quote: &[u8], transport: usize) -> Option<&[u8]> {
    let (mut next, mut at) = (quote[ipv6::field::NEXT_HEADER], ipv6::HEADER_LEN);
    while at < transport {
        let header = quote.get(at..at + FRAGMENT_HEADER)?;
        let units = usize::from(header[1]);
        at += match next {
            ip_protocol::FRAGMENT => return Some(header),
            ip_protocol::AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        next = header[0];
    }
    None
}

/// Sets the traffic class of a new IPv6 header.
fn set_class(header: &mut [u8], class: u8) {
    let word = get_u16(header, 0) | u16::from(class) << 4;
    set_u16(header, 0, word);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::icmp_error::IcmpError;
    use super::*;

    const MTUS: Mtus = Mtus { v4: 1500, v6: 1500 };

    /// A port unreachable between these about a UDP packet between those, with an extension of so
    /// many bytes.
    fn error(
        addresses: [Ipv4Addr; 4],
        class: u8,
        data: &[u8],
        cut: usize,
        extension: usize,
    ) -> Vec<u8> {
        let [src, dst, from, to] = addresses.map(|a| a.octets());
        let mut quote = Vec::new();
        etherparse::PacketBuilder::ipv4(from, to, 9).udp(7, 8).write(&mut quote, data).unwrap();
        quote[1] = class;
        ipv4::Packet::new_unchecked(&mut quote[..]).fill_checksum();
        quote.truncate(28 + cut);
        let mut rest = [0; 4];
        if extension != 0 {
            quote.resize(quote.len().next_multiple_of(4).max(QUOTE_MIN), 0);
            rest[1] = (quote.len() / 4) as u8;
            quote.resize(quote.len() + extension, 0xee);
        }
        let mut bytes = Vec::new();
        let start = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let icmp = start.ipv4(src, dst, 60).icmpv4_raw(3, 3, rest);
        icmp.write(&mut bytes, &quote).unwrap();
        bytes
    }

    fn crossed(v4: &[u8], made: &mut Buffer) -> usize {
        let quoted = Ipv4Addr::quoted(&v4[42..]).unwrap();
        to_v6(v4, v4.len(), &quoted, MTUS, made).unwrap()
    }

    #[test]
    fn a_quote_may_say_any_length() {
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let v4 = error([address; 4], 0, &[7; 20], 20, 0);
        let mut made = [0; size_of::<Buffer>()];
        let len = crossed(&v4, &mut made);
        let mut v6 = made[..len].to_vec();
        v6[66..68].fill(0xff);
        let quoted = Ipv6Addr::quoted(&v6[62..]).unwrap();
        let len = to_v4(&v6, len, &quoted, MTUS, &mut made).unwrap();
        assert!(len > 62);
        assert_eq!(get_u16(&made, 44), u16::MAX);
    }

    proptest! {
        /// What is not cut comes back as it was, but for the identification of the quoted packet,
        /// DF, and padding that an extension needs.
        #[test]
        fn there_and_back(
            addresses: [Ipv4Addr; 4], class: u8, cut in 0usize..200,
            data in prop::collection::vec(any::<u8>(), 0..200), extension in 0usize..40,
        ) {
            let mut v4 = error(addresses, class, &data, cut, extension);
            let mut made = [0; size_of::<Buffer>()];
            let len = crossed(&v4, &mut made);
            let v6 = made[..len].to_vec();
            prop_assert!(Ipv6Addr::is_sound(&v6, len));
            let quoted = Ipv6Addr::quoted(&v6[62..]).unwrap();
            let len = to_v4(&v6, len, &quoted, MTUS, &mut made).unwrap();
            let back = &mut made[..len];
            prop_assert!(Ipv4Addr::is_sound(back, len));
            let inner = ipv4::Packet::new_unchecked(&back[42..]);
            prop_assert!(inner.verify_checksum());
            back[..12].copy_from_slice(&v4[..12]);
            let blank = |frame: &mut [u8]| {
                for at in [36..38, 46..50, 52..54] {
                    frame[at].fill(0);
                }
            };
            blank(&mut v4);
            blank(back);
            if extension == 0 {
                prop_assert_eq!(&back[..], &v4[..]);
            } else {
                let quote = usize::from(v4[39]) * 4;
                prop_assert_eq!(&back[42..42 + quote], &v4[42..42 + quote]);
                let end = back.len() - extension;
                prop_assert_eq!(&back[end..], &v4[v4.len() - extension..]);
                prop_assert_eq!(usize::from(back[39]) * 4, end - 42);
            }
        }

        #[test]
        fn any_bytes(
            mut frame in prop::collection::vec(any::<u8>(), 90..1500), kind in 0u8..16, code in 0u8..4,
            first: u8, next in 0usize..6, mtu in 68u16..9000,
        ) {
            let mtus = Mtus { v4: mtu, v6: mtu.max(1280) };
            let mut made = [0; size_of::<Buffer>()];
            let end = frame.len();
            (frame[34], frame[35], frame[42]) = (kind, code, 0x45 | first & 0x0f);
            if let Ok(quoted) = Ipv4Addr::quoted(&frame[42..]) {
                let _ = to_v6(&frame, end, &quoted, mtus, &mut made);
            }
            (frame[54], frame[55], frame[62]) = (kind, code, 0x60);
            frame[68] = [6, 17, 44, 60, 51, 0][next];
            for mapped in [22, 38, 70, 86] {
                if let Some(prefix) = frame.get_mut(mapped..mapped + 12) {
                    prefix.copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                }
            }
            if let Ok(quoted) = Ipv6Addr::quoted(&frame[62..]) {
                let _ = to_v4(&frame, end, &quoted, mtus, &mut made);
            }
        }
    }
}
