//! Properties of parsing and rewriting: whatever the bytes, and with etherparse as the judge of
//! what they say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::sample::Index;
use shunt::datapath::snapshot::Mac;
use shunt::rewrite::nat::{Deltas, Translate};
use shunt::wire::DropReason;
use shunt::wire::flow::{self, Address, Flow, FlowKey, Parsed, Protocol};

use crate::frames::{Packet, mend_ipv4_checksum, tcp, udp};

const MAC: Mac = [2, 0, 0, 0, 0, 0xf0];

/// Addresses that can be on a wire, one host's.
fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        any::<u128>().prop_map(|n| IpAddr::V6((n >> 3 | 1 << 125).into())).boxed()
    } else {
        (1u8..=223, any::<[u8; 3]>())
            .prop_map(|(a, [b, c, d])| {
                Ipv4Addr::new(if a == 127 { 126 } else { a }, b, c, d).into()
            })
            .boxed()
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    const FLAGS: [u8; 9] = [0x02, 0x10, 0x11, 0x12, 0x18, 0x04, 0x14, 0x38, 0xc2];
    let addresses = any::<bool>().prop_flat_map(|v6| (address(v6), address(v6)));
    let transport = (any::<bool>(), prop::sample::select(&FLAGS[..]), any::<u8>());
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    (addresses, any::<(u16, u16)>(), transport, payload).prop_map(
        |((src, dst), ports, (is_tcp, flags, ttl), payload)| {
            let (src, dst) = (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1));
            let packet = if is_tcp { tcp(src, dst, flags) } else { udp(src, dst) };
            packet.macs([2, 0, 0, 0, 9, 9], MAC).ttl(ttl).payload(&payload)
        },
    )
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    /// Near the headers, where it matters most.
    FlipHeader(Index, u8),
    Cut(Index),
    Grow(u8),
    MendChecksum,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        1 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        1 => (any::<Index>(), 0u8..8).prop_map(|(i, b)| Mutation::Flip(i, b)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(i, b)| Mutation::FlipHeader(i, b)),
        1 => any::<Index>().prop_map(Mutation::Cut),
        1 => any::<u8>().prop_map(Mutation::Grow),
        2 => Just(Mutation::MendChecksum),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        match mutation {
            Mutation::Grow(n) => bytes.extend(std::iter::repeat_n(*n, usize::from(*n))),
            _ if bytes.is_empty() => (),
            Mutation::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Mutation::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Mutation::FlipHeader(at, bit) => {
                let at = 12 + at.index(42);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Mutation::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Mutation::MendChecksum => {
                if bytes.len() >= 34 && bytes[14] == 0x45 {
                    mend_ipv4_checksum(bytes);
                }
            }
        }
    }
}

/// What etherparse says of a frame that `parse` accepted, compared with what `parse` says.
fn agrees<A: Address>(bytes: &[u8], flow: &Flow<A>) {
    let end = usize::from(flow.frame_len);
    assert!(end <= bytes.len() && bytes.len() >= A::MIN_FRAME);
    assert_eq!(bytes[..6], MAC);
    let sliced = SlicedPacket::from_ethernet(&bytes[..end]).unwrap();
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.options().len(), 0);
            assert!(!header.more_fragments() && header.fragments_offset().value() == 0);
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header.slice());
            assert_eq!(sum.ones_complement(), 0);
            assert_eq!(usize::from(header.total_len()) + 14, end);
            (header.source_addr().into(), header.destination_addr().into(), header.ttl())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert!(ip.extensions().is_empty());
            assert_eq!(usize::from(header.payload_length()) + 54, end);
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((src, dst, ttl), (flow.key.src.into(), flow.key.dst.into(), flow.hop_limit));
    let (sport, dport, protocol, flags) = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            (tcp.source_port(), tcp.destination_port(), Protocol::Tcp, tcp.slice()[13] & 0x3f)
        }
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port(), Protocol::Udp, 0),
        other => panic!("{other:?}"),
    };
    let key = &flow.key;
    assert_eq!((sport, dport), (key.sport, key.dport));
    assert_eq!((protocol, flags), (key.protocol, flow.tcp_flags));
    assert!(!(src == dst && sport == dport), "land");
    assert!(!src.is_multicast() && !src.is_loopback() && !src.is_unspecified());
    assert!(!dst.is_multicast() && !dst.is_loopback() && !dst.is_unspecified());
    if protocol == Protocol::Tcp {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        assert_ne!(flags & (SYN | RST | 0x10), 0);
        assert!(flags & SYN == 0 || flags & (FIN | RST) == 0);
    }
}

fn check(bytes: &[u8]) -> Result<Parsed, DropReason> {
    let parsed = flow::parse(bytes, &MAC, false);
    match &parsed {
        Ok(Parsed::V4(flow)) => agrees(bytes, flow),
        Ok(Parsed::V6(flow)) => agrees(bytes, flow),
        Ok(Parsed::Icmpv4 { frame_len, .. }) => {
            assert!((34..=bytes.len()).contains(&usize::from(*frame_len)));
        }
        Ok(Parsed::Icmpv6 { frame_len, .. }) => {
            assert!((54..=bytes.len()).contains(&usize::from(*frame_len)));
        }
        Ok(Parsed::Arp | Parsed::OtherIp { .. } | Parsed::OtherEtherType) => (),
        Err(reason) => {
            // A reason that the frame itself gives.
            let lax = LaxSlicedPacket::from_ethernet(bytes);
            if *reason == DropReason::VlanTagged {
                assert!(lax.is_ok_and(|packet| !packet.link_exts.is_empty()));
            }
            if *reason == DropReason::NotOurMac {
                assert_ne!(bytes[..6], MAC);
            }
        }
    }
    parsed
}

/// There and back again.
fn there_and_back<A: Translate>(packet: &Packet, to: &Packet, flow: &Flow<A>, key: FlowKey<A>) {
    let original = packet.bytes();
    let deltas = Deltas::between(&flow.key, &key);
    let mut frame = original.clone();
    A::translate(&mut frame, &key, deltas);
    let expected = Packet { ttl: packet.ttl.wrapping_sub(1), ..to.clone() };
    assert_eq!(frame, expected.bytes(), "as if built anew");
    A::translate(&mut frame, &flow.key, deltas.reversed());
    let expected = Packet { ttl: packet.ttl.wrapping_sub(2), ..packet.clone() };
    assert_eq!(frame, expected.bytes(), "and back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&bytes);
    }

    /// Bytes that begin as a frame for us.
    #[test]
    fn any_bytes_after_a_good_start(
        ether_type in prop::sample::select(&[0x0800u16, 0x86dd, 0x0806, 0x8100][..]),
        first in prop::sample::select(&[0x45u8, 0x46, 0x60, 0x65, 0x00][..]),
        mut bytes in prop::collection::vec(any::<u8>(), 15..200),
        mend: bool,
    ) {
        bytes[..6].copy_from_slice(&MAC);
        bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
        bytes[14] = first;
        if mend && bytes.len() >= 34 && first == 0x45 {
            bytes[16] = 0;
            bytes[20..22].fill(0);
            mend_ipv4_checksum(&mut bytes);
        }
        let _ = check(&bytes);
    }

    #[test]
    fn mutated_packets(packet in packet(), mutations in prop::collection::vec(mutation(), 1..6)) {
        let mut bytes = packet.bytes();
        mutate(&mut bytes, &mutations);
        let _ = check(&bytes);
    }

    #[test]
    fn good_packets_are_accepted(packet in packet(), padding in 0usize..20) {
        prop_assume!(packet.src != packet.dst);
        let mut bytes = packet.bytes();
        let len = bytes.len();
        bytes.resize(len + padding, 0);
        match check(&bytes).unwrap() {
            Parsed::V4(flow) => prop_assert_eq!(usize::from(flow.frame_len), len),
            Parsed::V6(flow) => prop_assert_eq!(usize::from(flow.frame_len), len),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn rewriting_there_and_back_is_the_identity(
        packet in packet(), v4: (Ipv4Addr, Ipv4Addr), v6: (Ipv6Addr, Ipv6Addr), ports: (u16, u16),
    ) {
        // A packet with less ends here.
        prop_assume!(packet.src != packet.dst && packet.ttl >= 2);
        let mut to = packet.clone();
        match check(&packet.bytes()).unwrap() {
            Parsed::V4(flow) => {
                to.src = SocketAddr::new(v4.0.into(), ports.0);
                to.dst = SocketAddr::new(v4.1.into(), ports.1);
                let key = FlowKey {
                    src: v4.0, dst: v4.1, sport: ports.0, dport: ports.1, protocol: packet.protocol,
                };
                there_and_back(&packet, &to, &flow, key);
            }
            Parsed::V6(flow) => {
                to.src = SocketAddr::new(v6.0.into(), ports.0);
                to.dst = SocketAddr::new(v6.1.into(), ports.1);
                let key = FlowKey {
                    src: v6.0, dst: v6.1, sport: ports.0, dport: ports.1, protocol: packet.protocol,
                };
                there_and_back(&packet, &to, &flow, key);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
