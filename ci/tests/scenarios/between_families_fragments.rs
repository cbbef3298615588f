//! Fragments of NAT64 and NAT46, byte for byte, and packets that become fragments since they are
//! longer in IPv6.

use std::net::SocketAddr;
use std::ops::Range;

use shunt::datapath::snapshot::PortId;
use shunt::wire::DropReason;
use shunt::wire::flow::Protocol;

use crate::between_families::{Packet, Talk, net, talks};
use crate::changes::Changes;
use crate::fragments::{ORDERS, ident, part, refused, step};
use crate::frames::{mend_ipv4_checksum, packet_too_big, time_exceeded};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, ROUTER_MAC};
use crate::rig::{Rig, with_headroom, without_headroom};

/// An IPv6 packet of 1280 bytes has so many bytes after a fragment header.
const FIRST: usize = 1232;

/// What leaves for a fragment with these bytes: where it is longer than 1500 bytes, in two.
fn leaving(range: &Range<usize>, v6: bool) -> Vec<Range<usize>> {
    if v6 && range.len() + 48 > 1500 {
        vec![range.start..range.start + FIRST, range.start + FIRST..range.end]
    } else {
        vec![range.clone()]
    }
}

/// A packet of this direction, as it comes and as it leaves.
fn crossing(talk: &Talk, to_server: bool, data: &[u8]) -> (PortId, Vec<u8>, PortId, Vec<u8>) {
    if to_server {
        let packet = talk.by_client(false).data(data);
        (FRONT, packet.sent(), BACK, talk.to_server(&packet).made())
    } else {
        let packet = talk.by_server().data(data);
        (BACK, packet.sent(), FRONT, talk.to_client(&packet).made())
    }
}

/// What a fragment that came changes in the counters when these leave for it.
fn counted(changes: Changes, talk: &Talk, to_server: bool, to: PortId, out: &[Vec<u8>]) -> Changes {
    let whole = out.concat();
    let changes = match to_server {
        true => changes.forward(talk.id(), &whole),
        false => changes.reply(talk.id(), &whole),
    };
    let last = out.len() - 1;
    let changes = out[..last].iter().fold(changes, |changes, out| changes.originated(to, out));
    changes.tx(to, &out[last]).add("fragments", 1)
}

fn open(talk: &mut Talk) {
    let first = talk.by_client(true);
    assert_eq!(talk.rig.send(FRONT, &first.sent()).len(), 1);
    let answer = Packet { syn: true, ..talk.by_server() };
    assert_eq!(talk.rig.send(BACK, &answer.sent()).len(), 1);
    talk.rig.send(FRONT, &talk.by_client(false).sent());
}

#[test]
fn every_order_both_ways() {
    let data: Vec<u8> = (0..4000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    for mut talk in talks() {
        open(&mut talk);
        let mut used = std::collections::HashSet::new();
        for (round, order) in ORDERS.into_iter().enumerate() {
            for to_server in [true, false] {
                // As from a link of 1500 bytes in IPv4, where each is too long for one in IPv6; and
                // such as fit.
                for size in [1480, 1440] {
                    let what = format!("{:?} {} {order:?} {size}", talk.clients, talk.protocol);
                    let (from, whole, to, made) = crossing(&talk, to_server, &data);
                    let len = whole.len() - if whole[12] == 0x86 { 54 } else { 34 };
                    let ranges: Vec<_> =
                        (0..len).step_by(size).map(|at| at..len.min(at + size)).collect();
                    assert_eq!(ranges.len(), 3);
                    let old = 0x0001_2340 + round as u32;
                    let v6 = made[12] == 0x86;
                    let (mut known, mut early) = (None, Vec::new());
                    for &n in &order {
                        let piece = part(&whole, old, ranges[n].clone());
                        if n != 0 && known.is_none() {
                            let changes = Changes::none().held(1).add("fragments_held", 1);
                            step(&mut talk.rig, &what, from, &piece, changes, |_| Vec::new());
                            early.push(n);
                            continue;
                        }
                        let gone: Vec<_> = std::iter::once(n).chain(early.drain(..)).collect();
                        let mut changes = Changes::none().held(1 - gone.len() as i64);
                        for &n in &gone {
                            let out: Vec<_> = leaving(&ranges[n], v6)
                                .into_iter()
                                .map(|range| part(&made, 0, range))
                                .collect();
                            changes = counted(changes, &talk, to_server, to, &out);
                        }
                        step(&mut talk.rig, &what, from, &piece, changes, |sent| {
                            let number = *known.get_or_insert_with(|| ident(&sent[0].1));
                            let out = gone.iter().flat_map(|&n| leaving(&ranges[n], v6));
                            let mut out: Vec<_> =
                                out.map(|range| (to, part(&made, number, range))).collect();
                            // First halves go ahead of their burst.
                            let mut sorted = sent.to_vec();
                            sorted.sort();
                            out.sort();
                            assert_eq!(sorted, out, "{what}");
                            sent.to_vec()
                        });
                    }
                    let number = known.expect("one went out");
                    assert!(used.insert(number as u16), "{what}: {number} twice");
                }
            }
        }
    }
}

#[test]
fn a_first_fragment_opens_a_session() {
    for workers in [1, 2, 4] {
        for clients in Family::BOTH {
            let mut talk = Talk::new(workers, clients, Protocol::Udp, 40_000, false);
            let (_, whole, _, made) = crossing(&talk, true, &[3; 1600]);
            let late = part(&whole, 5, 1440..1608);
            let what = "before there is a session";
            let waits = Changes::none().held(1).add("fragments_held", 1);
            step(&mut talk.rig, what, FRONT, &late, waits, |_| Vec::new());
            let out = [0..1440, 1440..1608].map(|range| part(&made, 0, range));
            let mut changes = Changes::none().held(-1).session(talk.id(), true, 1);
            for out in &out {
                changes = counted(changes, &talk, true, BACK, std::slice::from_ref(out));
            }
            let first = part(&whole, 5, 0..1440);
            step(&mut talk.rig, what, FRONT, &first, changes, |sent| {
                let number = ident(&sent[0].1);
                [0..1440, 1440..1608].map(|range| (BACK, part(&made, number, range))).to_vec()
            });
            assert_eq!(talk.rig.sessions(), 1);
        }
    }
}

/// Numbers of fragments that go from IPv6 to IPv4 and those that were IPv4 all the time meet at one
/// server, from one address.
#[test]
fn numbers_of_both_families() {
    for workers in [1, 3] {
        let mut rig = Rig::new(net(workers, Family::V4, true));
        let mut seen = std::collections::HashSet::new();
        let mut talk = Talk::new(1, Family::V6, Protocol::Udp, 20_000, true);
        for n in 0..200 {
            for clients in Family::BOTH {
                talk.client = SocketAddr::new(clients.client(), 20_000 + n);
                talk.vip.set_ip(clients.vip());
                let whole = talk.by_client(false).data(&[3; 1600]).sent();
                let sent: Vec<_> = [0..1440, 1440..1608]
                    .into_iter()
                    .flat_map(|range| rig.send(FRONT, &part(&whole, 7, range)))
                    .collect();
                assert_eq!(sent.len(), 2);
                assert_eq!(ident(&sent[0].1), ident(&sent[1].1));
                assert!(seen.insert(ident(&sent[0].1)), "a number twice");
            }
        }
    }
}

#[test]
fn fragments_that_are_dropped() {
    for workers in [1, 2] {
        for clients in Family::BOTH {
            // A connection is opened by whole segments only.
            let mut talk = Talk::new(workers, clients, Protocol::Tcp, 40_000, false);
            let (_, whole, _, _) = crossing(&talk, true, &[3; 1600]);
            for range in [0..1440, 1440..1620] {
                let piece = part(&whole, 5, range);
                refused(&mut talk.rig, "no session", FRONT, &piece, DropReason::NoSession);
            }
            // A stray answer.
            let mut talk = Talk::new(workers, clients, Protocol::Udp, 40_000, false);
            let (_, whole, _, _) = crossing(&talk, false, &[3; 1600]);
            for range in [0..1440, 1440..1608] {
                let piece = part(&whole, 6, range);
                refused(&mut talk.rig, "stray", BACK, &piece, DropReason::NoSession);
            }
            // Addresses that no wire has.
            if clients == Family::V6 {
                let (_, mut whole, _, _) = crossing(&talk, true, &[3; 1600]);
                whole[22..38].copy_from_slice(
                    &std::net::Ipv4Addr::new(10, 0, 0, 11).to_ipv6_mapped().octets(),
                );
                let piece = part(&whole, 7, 0..1440);
                refused(&mut talk.rig, "mapped", FRONT, &piece, DropReason::Martian);
                continue;
            }
            // Without a checksum, which cannot be computed of a part.
            let (_, mut whole, _, _) = crossing(&talk, true, &[3; 1600]);
            whole[40..42].fill(0);
            let why = DropReason::FragmentBetweenFamilies;
            refused(&mut talk.rig, "no checksum", FRONT, &part(&whole, 8, 0..1440), why);
            assert_eq!(talk.rig.sessions(), 0);
        }
    }
}

#[test]
fn errors_about_fragments() {
    for clients in Family::BOTH {
        let mut talk = Talk::new(1, clients, Protocol::Udp, 40_000, false);
        open(&mut talk);
        let (own, to, macs) = (clients.front(), talk.client.ip(), (FRONT_MAC, ROUTER_MAC));
        let spent = talk.by_client(false).data(&[3; 800]).ttl(1).sent();
        let pieces = [part(&spent, 9, 0..400), part(&spent, 9, 400..808)];
        let error = time_exceeded(macs, own, to, &pieces[0]);
        let why = DropReason::HopLimitExceeded;
        let changes = Changes::none().dropped(why).originated(FRONT, &error);
        step(&mut talk.rig, "spent", FRONT, &pieces[0], changes, |_| vec![(FRONT, error)]);
        if clients == Family::V4 {
            refused(&mut talk.rig, "spent, second", FRONT, &pieces[1], why);
            continue;
        }
        talk.rig.net.snapshot.ports[1].mtu = 1300;
        talk.rig.reconfigure();
        let (_, whole, _, made) = crossing(&talk, true, &[3; 3000]);
        // 1300 bytes in IPv4.
        let sent = talk.rig.send(FRONT, &part(&whole, 10, 0..1280));
        assert_eq!(sent, [(BACK, part(&made, ident(&sent[0].1), 0..1280))]);
        let long = part(&whole, 11, 0..1288);
        let error = packet_too_big(macs, own, to, &long[..14 + 1280 - 48], 1320);
        let why = DropReason::PacketTooBig;
        let changes = Changes::none().dropped(why).originated(FRONT, &error);
        step(&mut talk.rig, "long", FRONT, &long, changes, |_| vec![(FRONT, error)]);
    }
}

/// A whole packet that may be fragmented, and is too long as IPv6.
#[test]
fn what_may_be_fragmented_leaves_in_two() {
    for workers in [1, 2] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut talk = Talk::new(workers, Family::V4, protocol, 40_000, false);
            open(&mut talk);
            let header = if protocol == Protocol::Tcp { 20 } else { 8 };
            let mut numbers = std::collections::HashSet::new();
            for len in [1460, 1461, 1479, 1480] {
                let packet = talk.by_client(false).data(&vec![5; len - header]);
                let sent = packet.bytes(|_| 0x1234, false);
                let made = talk.to_server(&packet).made();
                if len == 1460 {
                    talk.forward("fits", &sent, made, false);
                    continue;
                }
                let out = [0..FIRST, FIRST..len].map(|range| part(&made, 0, range));
                let changes =
                    counted(Changes::none(), &talk, true, BACK, &out).add("fragments", -1);
                step(&mut talk.rig, "two", FRONT, &sent, changes, |sent| {
                    let number = ident(&sent[0].1);
                    assert!(number >> 31 == 1 && numbers.insert(number));
                    [0..FIRST, FIRST..len].map(|range| (BACK, part(&made, number, range))).to_vec()
                });
            }
        }
    }
}

/// Two frames do not wait for a next hop.
#[test]
fn two_halves_and_no_neighbor() {
    let net = net(1, Family::V6, false);
    let talk = Talk::new(1, Family::V4, Protocol::Udp, 40_000, false);
    let mut rig = Rig::cold(net);
    let packet = talk.by_client(false).data(&[5; 1472]);
    let sent = packet.bytes(|_| 0x1234, false);
    let why = DropReason::NeighborUnresolved;
    let changes = Changes::none().session(talk.id(), true, 1).dropped(why);
    step(&mut rig, "whole", FRONT, &sent, changes, |_| Vec::new());
    let mut piece = part(&sent, 7, 0..1480);
    piece[20] |= 0x20;
    mend_ipv4_checksum(&mut piece);
    let changes = Changes::none().dropped(why).add("fragments", 1);
    step(&mut rig, "fragment", FRONT, &piece, changes, |_| Vec::new());
}

/// The headers of an IPv6 fragment are 28 bytes longer than those of an IPv4 one.
#[test]
fn without_headroom_nothing_becomes_an_ipv6_fragment() {
    let mut talk = Talk::new(1, Family::V4, Protocol::Udp, 40_000, false);
    open(&mut talk);
    let dropped = || Changes::none().dropped(DropReason::NoHeadroom);
    let (_, mut whole, ..) = crossing(&talk, true, &[3; 1472]);
    let piece = without_headroom(FRONT, &part(&whole, 5, 0..1440));
    talk.rig.step_frame("a fragment", piece, None, dropped(), &[]);
    // Room for the IPv6 header, and not for the fragment header behind it.
    whole[20] &= !0x40;
    mend_ipv4_checksum(&mut whole);
    let frame = with_headroom(20, FRONT, &whole);
    talk.rig.step_frame("too long in IPv6", frame, None, dropped(), &[]);
    assert_eq!(talk.rig.send(FRONT, &whole).len(), 2);
}
