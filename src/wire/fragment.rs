//! Fragments of TCP and UDP packets (RFC 791 3.2, RFC 8200 4.5).
//!
//! [`parse`] reads what [`super::flow::parse`] has refused as a fragment. A [`Fragment`] it returns
//! promises that
//! - its lengths lie within the frame and its piece within 65,535 bytes,
//! - a piece but the last is a multiple of eight bytes, and none is empty,
//! - the first has the whole TCP or UDP header and no other begins inside it (RFC 1858, RFC 3128),
//! - the addresses can be on a wire and are those of single hosts.
//!
//! IPv4 has no options, and in IPv6 the fragment header is the only extension header, as in packets
//! that are no fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::{get_u16, get_u32};
use super::flow::{Protocol, bad_tcp_flags, is_bad_tcp_flags, is_martian_v4, tcp_flags};
use super::{DropReason, ethernet, ip_protocol, ipv4, ipv6, tcp, udp};

use super::ethernet::HEADER_LEN as ETHERNET;

/// Length of the IPv6 fragment header in bytes.
pub const HEADER_LEN_V6: usize = 8;
/// Offset of the identification in the IPv6 fragment header, in bytes.
pub const IDENT_V6: usize = 4;

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub ident: u32,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// A fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<A> {
    /// Whose fragment it is.
    pub packet: Packet<A>,
    /// Where its piece begins in the packet, in bytes.
    pub offset: u32,
    /// How long its piece is, in bytes.
    pub len: u32,
    /// Whether others follow behind it.
    pub more: bool,
    /// Where its piece begins in the frame, in bytes.
    pub at: usize,
    /// Source and destination port, in the first fragment.
    pub ports: Option<(u16, u16)>,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Length of the frame without padding.
    pub frame_len: u16,
}

/// A fragment of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// IPv4.
    V4(Fragment<Ipv4Addr>),
    /// IPv6.
    V6(Fragment<Ipv6Addr>),
}

/// Reads a frame with a fragment in it.
///
/// # Errors
/// [`DropReason::Fragment`] for other protocols and for groups, and what is wrong with a fragment of
/// TCP or UDP.
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let ethernet = ethernet::Packet::new_checked(frame)?;
    if ethernet::is_multicast(&ethernet.dst()) {
        return Err(DropReason::Fragment);
    }
    match ethernet.ether_type() {
        ethernet::EtherType::IPV4 => parse_v4(frame).map(Parsed::V4),
        ethernet::EtherType::IPV6 => parse_v6(frame).map(Parsed::V6),
        _ => Err(DropReason::Fragment),
    }
}

/// The destination of a packet, if the frame holds an IP header.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    let ethernet = ethernet::Packet::new_checked(frame).ok()?;
    let packet = &frame[ETHERNET..];
    match ethernet.ether_type() {
        ethernet::EtherType::IPV4 => Some(ipv4::Packet::new_checked(packet).ok()?.dst().into()),
        ethernet::EtherType::IPV6 => Some(ipv6::Packet::new_checked(packet).ok()?.dst().into()),
        _ => None,
    }
}

fn parse_v4(frame: &[u8]) -> Result<Fragment<Ipv4Addr>, DropReason> {
    let packet = ipv4::Packet::new_checked(&frame[ETHERNET..])?;
    let (src, dst) = (packet.src(), packet.dst());
    let first_of = |address: Ipv4Addr| address.octets()[0];
    if is_martian_v4(first_of(src)) || matches!(first_of(dst), 0 | 127) {
        return Err(DropReason::Martian);
    }
    if first_of(dst) >= 224 {
        return Err(DropReason::Fragment);
    }
    if packet.header_len() != ipv4::HEADER_LEN {
        return Err(DropReason::IpOptions);
    }
    let piece = Piece {
        protocol: packet.protocol(),
        offset: packet.fragment_offset(),
        more: packet.more_fragments(),
        bytes: packet.payload(),
        // The header comes to it again when the packet is put together.
        max: usize::from(u16::MAX) - ipv4::HEADER_LEN,
    };
    let (protocol, ports) = piece.check()?;
    let ident = u32::from(packet.ident());
    Ok(Fragment {
        packet: Packet { src, dst, ident, protocol },
        offset: piece.offset as u32,
        len: piece.bytes.len() as u32,
        more: piece.more,
        at: ETHERNET + ipv4::HEADER_LEN,
        ports,
        hop_limit: packet.ttl(),
        frame_len: ETHERNET as u16 + packet.total_len(),
    })
}

fn parse_v6(frame: &[u8]) -> Result<Fragment<Ipv6Addr>, DropReason> {
    let packet = ipv6::Packet::new_checked(&frame[ETHERNET..])?;
    let (src, dst) = (packet.src(), packet.dst());
    let bad = |a: Ipv6Addr| a.is_loopback() || a.is_unspecified();
    if bad(src) || bad(dst) || src.is_multicast() {
        return Err(DropReason::Martian);
    }
    if dst.is_multicast() || packet.next_header() != ip_protocol::FRAGMENT {
        return Err(DropReason::Fragment);
    }
    let Some((header, bytes)) = packet.payload().split_at_checked(HEADER_LEN_V6) else {
        return Err(DropReason::BadFragment);
    };
    let offset_and_flags = get_u16(header, 2);
    let piece = Piece {
        protocol: header[0],
        offset: usize::from(offset_and_flags & 0xfff8),
        more: offset_and_flags & 1 != 0,
        bytes,
        max: usize::from(u16::MAX),
    };
    let (protocol, ports) = piece.check()?;
    Ok(Fragment {
        packet: Packet { src, dst, ident: get_u32(header, IDENT_V6), protocol },
        offset: piece.offset as u32,
        len: bytes.len() as u32,
        more: piece.more,
        at: ETHERNET + ipv6::HEADER_LEN + HEADER_LEN_V6,
        ports,
        hop_limit: packet.hop_limit(),
        frame_len: (ETHERNET + ipv6::HEADER_LEN) as u16 + packet.payload_len(),
    })
}

/// What both families have in a fragment.
struct Piece<'a> {
    protocol: u8,
    offset: usize,
    more: bool,
    bytes: &'a [u8],
    /// How long the packet may be, in bytes without the IP header.
    max: usize,
}

impl Piece<'_> {
    /// The protocol, and the ports if it is the first piece.
    fn check(&self) -> Result<(Protocol, Option<(u16, u16)>), DropReason> {
        let (protocol, header_len) = match self.protocol {
            ip_protocol::TCP => (Protocol::Tcp, tcp::HEADER_LEN),
            ip_protocol::UDP => (Protocol::Udp, udp::HEADER_LEN),
            // What is behind ESP is none of ours, as in packets that are no fragments.
            other if ip_protocol::is_extension_header(other) && other != ip_protocol::ESP => {
                return Err(DropReason::ExtensionHeader);
            }
            _ => return Err(DropReason::Fragment),
        };
        let len = self.bytes.len();
        if len == 0 || (self.more && !len.is_multiple_of(8)) || self.offset + len > self.max {
            return Err(DropReason::BadFragment);
        }
        if self.offset != 0 {
            let inside = self.offset < header_len;
            return if inside { Err(DropReason::TinyFragment) } else { Ok((protocol, None)) };
        }
        if len < header_len {
            return Err(DropReason::TinyFragment);
        }
        if protocol == Protocol::Tcp {
            self.check_tcp()?;
        } else {
            let length = usize::from(get_u16(self.bytes, 4));
            // A fragment that is all of its packet (RFC 6946) has all of the datagram.
            if length < udp::HEADER_LEN || (!self.more && length > len) {
                return Err(DropReason::BadUdpHeader);
            }
        }
        Ok((protocol, Some((get_u16(self.bytes, 0), get_u16(self.bytes, 2)))))
    }

    fn check_tcp(&self) -> Result<(), DropReason> {
        let header_len = usize::from(self.bytes[12] >> 4) * 4;
        if header_len < tcp::HEADER_LEN {
            return Err(DropReason::BadTcpHeader);
        }
        if header_len > self.bytes.len() {
            return Err(DropReason::TinyFragment);
        }
        let flags = self.bytes[13] & 0x3f;
        if is_bad_tcp_flags(flags) {
            return Err(bad_tcp_flags(flags));
        }
        // No stack fragments what opens a connection or ends it at once; who does wants to get round
        // those who look.
        if flags & (tcp_flags::SYN | tcp_flags::RST) != 0 {
            return Err(DropReason::BadFragment);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with a fragment: an offset in bytes, whether more follow, and a piece.
    fn frame(v6: bool, protocol: u8, offset: u16, more: bool, piece: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        if v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((piece.len() as u16 + 8).to_be_bytes());
            bytes.extend([44, 64]);
            bytes.extend([0x20; 32]);
            bytes.extend([protocol, 0]);
            bytes.extend((offset | u16::from(more)).to_be_bytes());
            bytes.extend([0xaa, 0xbb, 0xcc, 0xdd]);
        } else {
            bytes.extend([0x08, 0x00, 0x45, 0]);
            bytes.extend((piece.len() as u16 + 20).to_be_bytes());
            bytes.extend([0xcc, 0xdd]);
            bytes.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
            bytes.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        }
        bytes.extend(piece);
        bytes
    }

    type Summary = (u32, Protocol, u32, u32, bool, Option<(u16, u16)>);

    fn read(bytes: &[u8]) -> Result<Summary, DropReason> {
        fn summary<A>(f: Fragment<A>, bytes: &[u8]) -> Summary {
            assert_eq!(usize::from(f.frame_len), f.at + f.len as usize);
            assert!(usize::from(f.frame_len) <= bytes.len() && f.hop_limit == 64);
            (f.packet.ident, f.packet.protocol, f.offset, f.len, f.more, f.ports)
        }
        match parse(bytes)? {
            Parsed::V4(fragment) => Ok(summary(fragment, bytes)),
            Parsed::V6(fragment) => Ok(summary(fragment, bytes)),
        }
    }

    const UDP: [u8; 16] = [0, 53, 0x9c, 0x40, 0x0f, 0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

    fn tcp(flags: u8, offset: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0, 80, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 0, 2, offset << 4, flags];
        bytes.resize(len, 7);
        bytes
    }

    #[test]
    fn first_and_later_fragments() {
        for v6 in [false, true] {
            let ident = if v6 { 0xaabb_ccdd } else { 0xccdd };
            let first = frame(v6, 17, 0, true, &UDP);
            let expected = (ident, Protocol::Udp, 0, 16, true, Some((53, 40_000)));
            assert_eq!(read(&first), Ok(expected));
            let last = frame(v6, 17, 2960, false, &UDP[..9]);
            assert_eq!(read(&last), Ok((ident, Protocol::Udp, 2960, 9, false, None)));
            let first = frame(v6, 6, 0, true, &tcp(0x10, 5, 24));
            let expected = (ident, Protocol::Tcp, 0, 24, true, Some((80, 40_000)));
            assert_eq!(read(&first), Ok(expected));
            // Padding is not part of it.
            let mut padded = last.clone();
            padded.extend([0; 20]);
            assert_eq!(read(&padded), read(&last));
        }
    }

    #[test]
    fn what_is_wrong_with_a_fragment() {
        use DropReason::{
            BadFragment, BadTcpHeader, BadUdpHeader, ExtensionHeader, Fragment, TinyFragment,
            XmasScan,
        };
        for v6 in [false, true] {
            let last = if v6 { 65_528 } else { 65_504 };
            let cases = [
                (frame(v6, 1, 0, true, &UDP), Fragment),
                (frame(v6, 60, 0, true, &UDP), ExtensionHeader),
                (frame(v6, 17, 0, true, &UDP[..15]), BadFragment),
                (frame(v6, 17, 8, false, &[]), BadFragment),
                (frame(v6, 17, last, false, &UDP), BadFragment),
                (frame(v6, 17, 0, false, &UDP[..7]), TinyFragment),
                (frame(v6, 17, 0, true, &[0; 8]), BadUdpHeader),
                (frame(v6, 17, 0, false, &UDP), BadUdpHeader),
                (frame(v6, 6, 0, true, &tcp(0x10, 5, 16)), TinyFragment),
                (frame(v6, 6, 0, true, &tcp(0x10, 7, 24)), TinyFragment),
                (frame(v6, 6, 0, true, &tcp(0x10, 4, 24)), BadTcpHeader),
                (frame(v6, 6, 0, true, &tcp(0x29, 5, 24)), XmasScan),
                (frame(v6, 6, 0, true, &tcp(0x02, 5, 24)), BadFragment),
                (frame(v6, 6, 0, true, &tcp(0x14, 5, 24)), BadFragment),
                (frame(v6, 6, 8, true, &UDP), TinyFragment),
                (frame(v6, 6, 16, true, &UDP), TinyFragment),
            ];
            for (bytes, reason) in cases {
                assert_eq!(read(&bytes), Err(reason), "IPv6: {v6}, {bytes:x?}");
            }
            let most = frame(v6, 17, last, false, &UDP[..if v6 { 7 } else { 11 }]);
            assert!(read(&most).is_ok());
            let mut group = frame(v6, 17, 0, true, &UDP);
            group[0] |= 1;
            assert_eq!(read(&group), Err(Fragment));
        }
    }

    proptest! {
        #[test]
        fn any_bytes(v6: bool, protocol: u8, offset: u16, more: bool,
                     piece in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..120) {
            for protocol in [protocol, 6, 17] {
                let bytes = frame(v6, protocol, offset & !7, more, &piece);
                let _ = read(&bytes);
                let _ = read(&bytes[..cut.min(bytes.len())]);
            }
        }
    }
}
