//! The frames that ask for a neighbor's MAC address: ARP requests (RFC 826) and neighbor
//! solicitations (RFC 4861 section 4.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::datapath::snapshot::{Mac, PortId, Snapshot};

const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const OPTION_SOURCE_LINK_ADDRESS: u8 = 1;
/// The shortest Ethernet frame, without FCS.
const MIN_FRAME: usize = 60;

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
        IpAddr::V4(target) => arp_request(port.mac, port.ipv4?, target, unicast),
        IpAddr::V6(target) => neighbor_solicitation(port.mac, port.ipv6?, target, unicast),
    })
}

fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr, unicast: Option<Mac>) -> Vec<u8> {
    let mut frame = ethernet(unicast.unwrap_or([0xff; 6]), mac, ETHER_TYPE_ARP);
    frame.extend([0, 1, 0x08, 0, 6, 4]); // Ethernet, IPv4, lengths of their addresses
    frame.extend(ARP_REQUEST.to_be_bytes());
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame.resize(MIN_FRAME, 0);
    frame
}

fn neighbor_solicitation(
    mac: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
    unicast: Option<Mac>,
) -> Vec<u8> {
    let group = solicited_node(target);
    let (destination, destination_mac) = match unicast {
        Some(mac) => (target, mac),
        None => (group, multicast_mac(group)),
    };
    let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([OPTION_SOURCE_LINK_ADDRESS, 1]); // length in units of 8 bytes
    message.extend(mac);
    let checksum = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(destination_mac, mac, ETHER_TYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([NEXT_HEADER_ICMPV6, 255]); // a hop limit below 255 is ignored (section 7.1.1)
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

fn ethernet(destination: Mac, source: Mac, ether_type: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ether_type.to_be_bytes());
    frame
}

/// The solicited-node multicast address (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

/// The MAC address of an IPv6 multicast group (RFC 2464 section 7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The ICMPv6 checksum over the pseudo header (RFC 8200 section 8.1) and a message of even length.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u16).to_be_bytes();
    let pseudo = [source.octets(), destination.octets()].concat();
    let mut sum = u32::from(NEXT_HEADER_ICMPV6) + u32::from(u16::from_be_bytes(length));
    for word in pseudo.chunks_exact(2).chain(message.chunks_exact(2)) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing::snapshot;
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
        assert_eq!(frame[..42], expected);
        assert_eq!(frame[42..], [0; 18]);
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
