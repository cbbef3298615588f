//! From IPv4 to IPv6 and back (RFC 7915): the IP header of a TCP or UDP packet, or of a fragment of
//! one, becomes one of the other family.
//!
//! An IPv4 address is known in IPv6 as the mapped one, `::ffff:a.b.c.d` (RFC 4291 2.5.5.2). Its sum
//! is that of the IPv4 address, in one's complement, and so the transport checksum, pseudo header
//! included, is right in either family and stays as it is; only a UDP checksum that is missing is
//! computed (RFC 7915 4.5).
//!
//! | IPv4 | IPv6 |
//! |---|---|
//! | type of service | traffic class |
//! | TTL | hop limit; neither is lowered here |
//! | protocol | next header |
//! | identification: the transport checksum; DF: set in packets longer than 1260 bytes | |
//! | | flow label: 0 |
//!
//! A fragment has a fragment header in IPv6, and takes its identification along.
//!
//! DF is as RFC 7915 5.1 wants it: an IPv6 host that is told of a short path makes its packets no
//! shorter than 1280 bytes, so those of 1260 or less are left to be fragmented by routers.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Address;
use crate::wire::fragment::{HEADER_LEN_V6 as FRAGMENT_HEADER, IDENT_V6};
use crate::wire::{checksum, ip_protocol, ipv4, ipv6};

/// By how many bytes an IPv6 header is longer.
pub const DIFFERENCE: usize = ipv6::HEADER_LEN - ipv4::HEADER_LEN;

/// By how many bytes an IPv6 header with a fragment header is longer.
pub const FRAGMENT_DIFFERENCE: usize = DIFFERENCE + FRAGMENT_HEADER;

/// The longest IPv4 packet that IPv6 packets of a size every IPv6 path takes become, in bytes.
const LEAST_V4: u16 = 1280 - DIFFERENCE as u16;

/// Makes an IPv4 packet an IPv6 packet between mapped addresses. `frame` begins with [`DIFFERENCE`]
/// bytes of room (content undefined), and a frame follows that parsing returned as an IPv4 flow.
pub fn to_v6(frame: &mut [u8]) {
    let Some(old) = frame.get(DIFFERENCE + ETHERNET..DIFFERENCE + Ipv4Addr::TRANSPORT) else {
        return;
    };
    let header = ipv4::Packet::new_unchecked(old);
    let (src, dst) = (header.src().to_ipv6_mapped(), header.dst().to_ipv6_mapped());
    let (class, ttl, protocol) = (old[1], old[8], old[9]);
    let length = u16::from_be_bytes([old[2], old[3]]).saturating_sub(ipv4::HEADER_LEN as u16);
    frame.copy_within(DIFFERENCE..DIFFERENCE + 12, 0);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    ipv6::Repr { src, dst, next_header: protocol, hop_limit: ttl, payload_len: length }
        .emit(&mut frame[ETHERNET..]);
    frame[ETHERNET] |= class >> 4;
    frame[ETHERNET + 1] |= class << 4;
    if protocol == ip_protocol::UDP {
        fill_missing_checksum(&mut frame[Ipv6Addr::TRANSPORT..], src, dst);
    }
}

/// Makes a fragment of an IPv4 packet one of an IPv6 packet between mapped addresses. `frame` begins
/// with [`FRAGMENT_DIFFERENCE`] bytes of room (content undefined), and a frame follows that
/// [`crate::wire::fragment::parse`] has read. A UDP checksum that is missing stays so: it cannot be
/// computed without the other fragments.
pub fn fragment_to_v6(frame: &mut [u8]) {
    const START: usize = FRAGMENT_DIFFERENCE + ETHERNET;
    let Some(old) = frame.get(START..START + ipv4::HEADER_LEN) else { return };
    let header = ipv4::Packet::new_unchecked(old);
    let (src, dst) = (header.src().to_ipv6_mapped(), header.dst().to_ipv6_mapped());
    let (class, ttl, protocol) = (header.traffic_class(), header.ttl(), header.protocol());
    let (offset, more) = (header.fragment_offset() as u16, u16::from(header.more_fragments()));
    let (ident, total_len) = (header.ident(), header.total_len());
    let length = total_len.saturating_sub(ipv4::HEADER_LEN as u16) + FRAGMENT_HEADER as u16;
    frame.copy_within(FRAGMENT_DIFFERENCE..FRAGMENT_DIFFERENCE + 12, 0);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    ipv6::Repr {
        src,
        dst,
        next_header: ip_protocol::FRAGMENT,
        hop_limit: ttl,
        payload_len: length,
    }
    .emit(&mut frame[ETHERNET..]);
    frame[ETHERNET] |= class >> 4;
    frame[ETHERNET + 1] |= class << 4;
    let fragment = &mut frame[Ipv6Addr::TRANSPORT..Ipv6Addr::TRANSPORT + FRAGMENT_HEADER];
    fragment[..2].copy_from_slice(&[protocol, 0]);
    set_u16(fragment, 2, offset | more);
    set_u32(fragment, IDENT_V6, ident.into());
}

/// Makes an IPv6 packet between mapped addresses, or a fragment of one, an IPv4 packet, and returns
/// how many bytes into `frame` it begins: those are to be trimmed. `None`, and nothing changed, when
/// it is something else than TCP or UDP over IPv6 without extension headers but that of a fragment,
/// or an address is not mapped.
pub fn to_v4(frame: &mut [u8]) -> Option<usize> {
    if frame.get(12..14) != Some(&[0x86, 0xdd]) {
        return None;
    }
    let old = frame.get(ETHERNET..Ipv6Addr::TRANSPORT)?;
    let header = ipv6::Packet::new_unchecked(old);
    let (src, dst) = (header.src().to_ipv4_mapped()?, header.dst().to_ipv4_mapped()?);
    let (protocol, ttl) = (old[6], header.hop_limit());
    if protocol == ip_protocol::FRAGMENT {
        return fragment_to_v4(frame, src, dst);
    }
    if !matches!(protocol, ip_protocol::TCP | ip_protocol::UDP) {
        return None;
    }
    let class = old[0] << 4 | old[1] >> 4;
    let payload_len = u16::from_be_bytes([old[4], old[5]]);
    let at = Ipv6Addr::TRANSPORT + if protocol == ip_protocol::UDP { 6 } else { 16 };
    let ident = frame.get(at..at + 2).map_or(0, |sum| u16::from_be_bytes([sum[0], sum[1]]));
    frame.copy_within(..12, DIFFERENCE);
    frame[DIFFERENCE + 12..DIFFERENCE + 14].copy_from_slice(&[0x08, 0x00]);
    let start = DIFFERENCE + ETHERNET;
    let dont_fragment = payload_len > LEAST_V4 - ipv4::HEADER_LEN as u16;
    ipv4::Repr { src, dst, protocol, ttl, ident, dont_fragment, payload_len }
        .emit(&mut frame[start..]);
    if class != 0 {
        frame[start + 1] = class;
        ipv4::Packet::new_unchecked(&mut frame[start..]).fill_checksum();
    }
    Some(DIFFERENCE)
}

/// The same of a fragment. Routers may cut it further, whatever its length (RFC 7915 5.1.1).
fn fragment_to_v4(frame: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) -> Option<usize> {
    const START: usize = FRAGMENT_DIFFERENCE + ETHERNET;
    let old = ipv6::Packet::new_unchecked(frame.get(ETHERNET..START + ipv4::HEADER_LEN)?);
    let (class, ttl) = (old.traffic_class(), old.hop_limit());
    let payload_len = old.payload_len().saturating_sub(FRAGMENT_HEADER as u16);
    let header = &frame[Ipv6Addr::TRANSPORT..Ipv6Addr::TRANSPORT + FRAGMENT_HEADER];
    let (protocol, place, ident) = (header[0], get_u16(header, 2), get_u32(header, IDENT_V6));
    if !matches!(protocol, ip_protocol::TCP | ip_protocol::UDP) {
        return None;
    }
    frame.copy_within(..12, FRAGMENT_DIFFERENCE);
    frame[START - 2..START].copy_from_slice(&[0x08, 0x00]);
    let ident = ident as u16;
    ipv4::Repr { src, dst, protocol, ttl, ident, dont_fragment: false, payload_len }
        .emit(&mut frame[START..]);
    let header = &mut frame[START..START + ipv4::HEADER_LEN];
    header[ipv4::field::TRAFFIC_CLASS] = class;
    set_u16(header, ipv4::field::FRAGMENT, place >> 3 | (place & 1) << 13);
    ipv4::Packet::new_unchecked(header).fill_checksum();
    Some(FRAGMENT_DIFFERENCE)
}

/// Makes an IPv6 packet without extension headers a fragment of itself: the first and the last.
/// `frame` begins with room for the fragment header, and the packet's frame follows.
pub fn insert_fragment_header(frame: &mut [u8], ident: u32) {
    if frame.len() < Ipv6Addr::TRANSPORT + FRAGMENT_HEADER {
        return;
    }
    frame.copy_within(FRAGMENT_HEADER..FRAGMENT_HEADER + Ipv6Addr::TRANSPORT, 0);
    let next = ETHERNET + ipv6::field::NEXT_HEADER;
    let protocol = std::mem::replace(&mut frame[next], ip_protocol::FRAGMENT);
    let fragment = &mut frame[Ipv6Addr::TRANSPORT..Ipv6Addr::TRANSPORT + FRAGMENT_HEADER];
    fragment[..4].copy_from_slice(&[protocol, 0, 0, 0]);
    set_u32(fragment, IDENT_V6, ident);
}

/// Says of a frame with a part of an IPv6 fragment where the part begins in it, in bytes, and whether
/// another part follows; corrects the length.
pub fn set_fragment(frame: &mut [u8], offset: u16, more: bool) {
    let Some(payload_len) = frame.len().checked_sub(Ipv6Addr::TRANSPORT) else { return };
    set_u16(frame, ETHERNET + ipv6::field::PAYLOAD_LEN, payload_len as u16);
    let at = Ipv6Addr::TRANSPORT + 2;
    let place = (get_u16(frame, at) + offset) | u16::from(more);
    set_u16(frame, at, place);
}

/// Computes the checksum of a UDP datagram that has none.
fn fill_missing_checksum(payload: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) {
    let Some(header) = payload.first_chunk::<8>() else { return };
    if header[6..] != [0, 0] {
        return;
    }
    let length = u16::from_be_bytes([header[4], header[5]]);
    let Some(datagram) = payload.get_mut(..usize::from(length)) else { return };
    let pseudo = checksum::pseudo_v6(src, dst, ip_protocol::UDP, u32::from(length));
    let sum = !checksum::add(pseudo, checksum::sum(datagram));
    let sum = if sum == 0 { 0xffff } else { sum };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{IpDscp, IpEcn, IpFragOffset, Ipv4Header, Ipv6Header, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    /// The packet in both families, all its fields by etherparse.
    fn both(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        class: u8,
        ttl: u8,
        udp: bool,
        data: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let build = |mapped: bool| {
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip = if mapped {
                let (src, dst) = (src.to_ipv6_mapped(), dst.to_ipv6_mapped());
                ethernet.ip(etherparse::IpHeaders::Ipv6(
                    Ipv6Header {
                        traffic_class: class,
                        hop_limit: ttl,
                        source: src.octets(),
                        destination: dst.octets(),
                        ..Default::default()
                    },
                    Default::default(),
                ))
            } else {
                let mut header =
                    Ipv4Header::new(0, ttl, etherparse::IpNumber(0), src.octets(), dst.octets())
                        .unwrap();
                header.dscp = IpDscp::try_new(class >> 2).unwrap();
                header.ecn = IpEcn::try_new(class & 3).unwrap();
                header.dont_fragment = false;
                header.fragment_offset = IpFragOffset::ZERO;
                ethernet.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
            };
            let mut bytes = Vec::new();
            if udp {
                ip.udp(1000, 53).write(&mut bytes, data).unwrap();
            } else {
                ip.tcp(1000, 80, 7, 500).ack(9).write(&mut bytes, data).unwrap();
            }
            bytes
        };
        let (mut v4, v6) = (build(false), build(true));
        let at = 34 + if udp { 6 } else { 16 };
        v4.copy_within(at..at + 2, 18);
        ipv4::Packet::new_unchecked(&mut v4[14..]).fill_checksum();
        (v4, v6)
    }

    fn crossed(v4: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xee; DIFFERENCE];
        frame.extend(v4);
        to_v6(&mut frame);
        frame
    }

    proptest! {
        #[test]
        fn there_and_back(
            src: Ipv4Addr, dst: Ipv4Addr, class: u8, ttl: u8, udp: bool,
            data in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let (v4, v6) = both(src, dst, class, ttl, udp, &data);
            let mut frame = crossed(&v4);
            prop_assert_eq!(&frame, &v6);
            prop_assert_eq!(to_v4(&mut frame), Some(DIFFERENCE));
            prop_assert_eq!(&frame[DIFFERENCE..], &v4[..]);
            // Datagrams without a checksum get one.
            if udp {
                let mut without = v4.clone();
                without[40..42].fill(0);
                prop_assert_eq!(crossed(&without), v6);
            }
        }
    }

    proptest! {
        /// A fragment of either packet is the fragment of the other.
        #[test]
        fn fragments_there_and_back(
            src: Ipv4Addr, dst: Ipv4Addr, class: u8, ttl: u8, udp: bool, ident: u16, more: bool,
            units in 0u16..8000, data in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let (mut v4, mut v6) = both(src, dst, class, ttl, udp, &data);
            let place = units | u16::from(more) << 13;
            v4[18..20].copy_from_slice(&ident.to_be_bytes());
            v4[20..22].copy_from_slice(&place.to_be_bytes());
            ipv4::Packet::new_unchecked(&mut v4[14..]).fill_checksum();
            let place_v6 = (units << 3 | u16::from(more)).to_be_bytes();
            let number = ident.to_be_bytes();
            let fragment = [v6[20], 0, place_v6[0], place_v6[1], 0, 0, number[0], number[1]];
            let payload_len = u16::from_be_bytes([v6[18], v6[19]]) + 8;
            v6[18..20].copy_from_slice(&payload_len.to_be_bytes());
            v6[20] = 44;
            v6.splice(54..54, fragment);
            let mut frame = vec![0xee; FRAGMENT_DIFFERENCE];
            frame.extend(&v4);
            fragment_to_v6(&mut frame);
            prop_assert_eq!(&frame, &v6);
            prop_assert_eq!(to_v4(&mut frame), Some(FRAGMENT_DIFFERENCE));
            prop_assert_eq!(&frame[FRAGMENT_DIFFERENCE..], &v4[..]);
        }
    }

    #[test]
    fn only_mapped_addresses_have_a_way_back() {
        let (_, v6) = both([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 0, 64, false, b"x");
        for at in [22, 38] {
            let mut frame = v6.clone();
            frame[at] = 0x20;
            let before = frame.clone();
            assert_eq!(to_v4(&mut frame), None);
            assert_eq!(frame, before);
        }
    }
}
