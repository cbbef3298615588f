//! From IPv4 to IPv6 and back (RFC 7915): the IP header of a TCP or UDP packet becomes one of the
//! other family.
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
//! DF is as RFC 7915 5.1 wants it: an IPv6 host that is told of a short path makes its packets no
//! shorter than 1280 bytes, so those of 1260 or less are left to be fragmented by routers.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Address;
use crate::wire::{checksum, ip_protocol, ipv4, ipv6};

/// By how many bytes an IPv6 header is longer.
pub const DIFFERENCE: usize = ipv6::HEADER_LEN - ipv4::HEADER_LEN;

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

/// Makes an IPv6 packet between mapped addresses an IPv4 packet, which begins [`DIFFERENCE`] bytes
/// into `frame`: those are to be trimmed. `false`, and nothing changed, when it is something else than
/// TCP or UDP over IPv6 without extension headers, or an address is not mapped.
pub fn to_v4(frame: &mut [u8]) -> bool {
    if frame.get(12..14) != Some(&[0x86, 0xdd]) {
        return false;
    }
    let Some(old) = frame.get(ETHERNET..Ipv6Addr::TRANSPORT) else { return false };
    let header = ipv6::Packet::new_unchecked(old);
    let (Some(src), Some(dst)) = (header.src().to_ipv4_mapped(), header.dst().to_ipv4_mapped())
    else {
        return false;
    };
    let (protocol, ttl) = (old[6], header.hop_limit());
    if !matches!(protocol, ip_protocol::TCP | ip_protocol::UDP) {
        return false;
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
    true
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
            prop_assert!(to_v4(&mut frame));
            prop_assert_eq!(&frame[DIFFERENCE..], &v4[..]);
            // Datagrams without a checksum get one.
            if udp {
                let mut without = v4.clone();
                without[40..42].fill(0);
                prop_assert_eq!(crossed(&without), v6);
            }
        }
    }

    #[test]
    fn only_mapped_addresses_have_a_way_back() {
        let (_, v6) = both([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 0, 64, false, b"x");
        for at in [22, 38] {
            let mut frame = v6.clone();
            frame[at] = 0x20;
            let before = frame.clone();
            assert!(!to_v4(&mut frame));
            assert_eq!(frame, before);
        }
    }
}
