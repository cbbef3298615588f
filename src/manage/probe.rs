//! The frames that ask for a neighbor's MAC address: ARP requests (RFC 826) and neighbor
//! solicitations (RFC 4861 section 4.3).

use std::net::IpAddr;

use crate::datapath::snapshot::{Mac, PortId, Snapshot};
use crate::wire::{arp, ethernet, ndp};

/// The frame that asks for the MAC address of `address` on `port`: to `unicast` when the host is
/// known and only has to confirm, else to everyone (ARP) or to the solicited-node group (NDP).
///
/// `None` when the port does not exist or has no address of that family to ask with.
pub fn probe_frame(
    snapshot: &Snapshot,
    port: PortId,
    address: IpAddr,
    unicast: Option<Mac>,
) -> Option<Vec<u8>> {
    let port = snapshot.ports.get(usize::from(port.0))?;
    Some(match address {
        IpAddr::V4(target) => {
            let request = arp::Repr::request(port.mac, port.ipv4?, target);
            request.frame(unicast.unwrap_or(ethernet::BROADCAST)).to_vec()
        }
        IpAddr::V6(target) => {
            let source = port.ipv6?;
            match unicast {
                Some(mac) => ndp::Repr::unicast_solicitation(port.mac, source, target).frame(mac),
                None => {
                    let question = ndp::Repr::solicitation(port.mac, source, target);
                    question.frame(ethernet::multicast_v6(question.dst))
                }
            }
            .to_vec()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing::snapshot;
    use std::net::Ipv6Addr;

    use etherparse::{EtherType, LinkSlice, NetSlice, SlicedPacket, TransportSlice};

    fn ethernet_of(packet: &SlicedPacket<'_>) -> (Mac, Mac, EtherType) {
        match packet.link.as_ref().unwrap() {
            LinkSlice::Ethernet2(e) => (e.destination(), e.source(), e.ether_type()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_arp_request_byte_by_byte() {
        let s = snapshot();
        let frame = probe_frame(&s, PortId(1), "10.0.0.11".parse().unwrap(), None).unwrap();
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0, 0, 1, 10, 0, 0, 1,
            0, 0, 0, 0, 0, 0, 10, 0, 0, 11,
        ];
        assert_eq!(frame, expected);
        let again = probe_frame(&s, PortId(1), "10.0.0.11".parse().unwrap(), Some([4; 6])).unwrap();
        assert_eq!(again[..6], [4; 6]);
        assert_eq!(again[6..], frame[6..]);
    }

    #[test]
    fn a_neighbor_solicitation_read_by_another_parser() {
        let s = snapshot();
        let target: Ipv6Addr = "2001:db8:2::12:3456".parse().unwrap();
        for unicast in [None, Some([4; 6])] {
            let frame = probe_frame(&s, PortId(1), target.into(), unicast).unwrap();
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let (to, from, kind) = ethernet_of(&packet);
            assert_eq!(from, [2, 0, 0, 0, 0, 1]);
            assert_eq!(kind, EtherType::IPV6);
            let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("not IPv6") };
            let header = ip.header();
            assert_eq!(header.source_addr(), "2001:db8:2::1".parse::<Ipv6Addr>().unwrap());
            assert_eq!(header.hop_limit(), 255);
            let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
            match unicast {
                None => {
                    assert_eq!(header.destination_addr(), group);
                    assert_eq!(to, [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
                }
                Some(mac) => {
                    assert_eq!(header.destination_addr(), target);
                    assert_eq!(to, mac);
                }
            }
            let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
                panic!("not ICMPv6")
            };
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (135, 0));
            assert_eq!(icmp.payload()[..16], target.octets());
            assert_eq!(icmp.payload()[16..], [1, 1, 2, 0, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn a_port_without_an_address_of_the_family_cannot_ask() {
        let mut s = snapshot();
        s.ports[1].ipv6 = None;
        assert_eq!(probe_frame(&s, PortId(1), "2001:db8:2::5".parse().unwrap(), None), None);
        assert_eq!(probe_frame(&s, PortId(9), "10.0.0.11".parse().unwrap(), None), None);
    }
}
