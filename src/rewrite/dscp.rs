//! The differentiated services code point (RFC 2474): the upper six bits of IPv4's type of service
//! and of IPv6's traffic class. The lower two are ECN's (RFC 3168) and stay.

use crate::wire::checksum;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Address;

/// Sets the DSCP (0 to 63) of a frame that parsing returned as a flow of family `A`, and updates the
/// IPv4 header checksum. A shorter frame is left alone.
pub fn set<A: Address>(frame: &mut [u8], dscp: u8) {
    let Some(packet) = frame.get_mut(ETHERNET..A::TRANSPORT) else { return };
    let old = u16::from_be_bytes([packet[0], packet[1]]);
    // IPv6: version, class and the start of the flow label share the first word.
    let (mask, shift) = if A::V6 { (0x0fc0, 6) } else { (0x00fc, 2) };
    let new = old & !mask | u16::from(dscp) << shift & mask;
    packet[..2].copy_from_slice(&new.to_be_bytes());
    if !A::V6 {
        let sum = u16::from_be_bytes([packet[10], packet[11]]);
        let sum = checksum::apply(sum, checksum::delta16(old, new));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use etherparse::{IpHeaders, SlicedPacket};
    use proptest::prelude::*;

    #[test]
    fn short_frames_are_left_alone() {
        let mut frame = [0x45; 33];
        set::<Ipv4Addr>(&mut frame, 63);
        set::<Ipv6Addr>(&mut frame, 63);
        assert_eq!(frame, [0x45; 33]);
    }

    proptest! {
        #[test]
        fn only_the_code_point_changes(v6: bool, class: u8, label in 0u32..1 << 20, dscp in 0u8..64) {
            let ethernet = || etherparse::PacketBuilder::ethernet2([2; 6], [3; 6]);
            let build = |class: u8| {
                let mut bytes = Vec::new();
                if v6 {
                    let header = etherparse::Ipv6Header {
                        traffic_class: class,
                        flow_label: label.try_into().unwrap(),
                        hop_limit: 9,
                        source: [1; 16],
                        destination: [7; 16],
                        ..Default::default()
                    };
                    let ip = IpHeaders::Ipv6(header, Default::default());
                    ethernet().ip(ip).udp(1, 2).write(&mut bytes, b"abc").unwrap();
                } else {
                    let mut header = etherparse::Ipv4Header::new(
                        0, 9, etherparse::IpNumber::UDP, [1; 4], [7; 4],
                    ).unwrap();
                    header.dscp = (class >> 2).try_into().unwrap();
                    header.ecn = (class & 3).try_into().unwrap();
                    let ip = IpHeaders::Ipv4(header, Default::default());
                    ethernet().ip(ip).udp(1, 2).write(&mut bytes, b"abc").unwrap();
                }
                bytes
            };
            let mut frame = build(class);
            if v6 { set::<Ipv6Addr>(&mut frame, dscp) } else { set::<Ipv4Addr>(&mut frame, dscp) }
            prop_assert_eq!(&frame, &build(dscp << 2 | class & 3));
            prop_assert!(SlicedPacket::from_ethernet(&frame).is_ok());
        }
    }
}
