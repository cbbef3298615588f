//! What is done to fragments beside their rewrite: copies, limits, marks; and datagrams that are
//! decided on one by one.

use std::net::SocketAddr;

use shunt::datapath::limits::Limits;
use shunt::datapath::mirror::MirrorId;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason;
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::fragments::{ORDERS, ident, refused, split, step};
use crate::frames::{Packet, source_port, time_exceeded, udp, with_class};
use crate::mirror::{SENSOR, copied, with_sensor};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC};
use crate::rig::Rig;

const PIECE: usize = 1448;
/// DSCP 46 (EF), ECN 0.
const EF: u8 = 46 << 2;

/// Fragments are copied as they come, those that wait when they go on; what leaves is marked.
#[test]
fn copies_and_marks() {
    for workers in [1, 2, 4] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
            for family in Family::BOTH {
                let mut net = with_sensor(Net::two_armed(workers).usual(mode), 1, None);
                net.snapshot.services[1].mirror = Some(MirrorId(0));
                net.snapshot.services[1].policy.dscp = Some(46);
                let mut rig = Rig::new(net);
                let client = SocketAddr::new(family.client(), 40_003);
                let vip = SocketAddr::new(family.vip(), 53);
                let port = if mode == Mode::Dr { 53 } else { 5353 };
                let server = SocketAddr::new(family.server(11), port);
                let id = ServerId(2 + u16::from(family == Family::V6));
                let sent = rig.send(FRONT, &rig.by_client(udp(client, vip)).bytes());
                let local = match mode {
                    Mode::FullNat => SocketAddr::new(family.lip(), source_port(&sent[0].1)),
                    _ => client,
                };
                let packet = udp(client, vip).payload(&[3; 2000]);
                let out = match mode {
                    Mode::Dr => packet.clone(),
                    _ => Packet { src: local, dst: server, ttl: 63, ..packet.clone() },
                };
                let whole = with_class(rig.to_server(11, out).bytes(), EF);
                let pieces = split(&rig.by_client(packet).bytes(), 77, PIECE);
                let number = |sent: &[(_, Vec<u8>)]| {
                    if mode == Mode::Dr { 77 } else { ident(&sent[0].1) }
                };
                let waits = Changes::none().held(1).add("fragments_held", 1);
                step(&mut rig, "early", FRONT, &pieces[1], waits, |_| Vec::new());
                let mut changes = Changes::none().held(-1);
                for (piece, out) in pieces.iter().zip(split(&whole, 0, PIECE)) {
                    changes = copied(changes.forward(id, piece).tx(BACK, &out), piece);
                    changes = changes.add("fragments", 1);
                }
                step(&mut rig, "both", FRONT, &pieces[0], changes, |sent| {
                    let out = split(&whole, number(sent), PIECE);
                    let out = out.into_iter().map(|out| (BACK, out));
                    out.chain(pieces.iter().map(|piece| (SENSOR, piece.clone()))).collect()
                });
                if mode == Mode::Dr {
                    continue;
                }
                let answer = udp(server, local).payload(&[4; 1440]);
                let pieces = split(&rig.by_server(11, answer).bytes(), 78, PIECE);
                let [piece] = &pieces[..] else { panic!("one piece") };
                let out = udp(vip, client).payload(&[4; 1440]).ttl(63);
                let out = with_class(rig.to_client(out).bytes(), EF);
                if family == Family::V6 {
                    // A fragment that is all of its packet.
                    let changes =
                        Changes::none().reply(id, piece).tx(FRONT, &split(&out, 0, PIECE)[0]);
                    let changes = copied(changes, piece).add("fragments", 1);
                    step(&mut rig, "answer", BACK, piece, changes, |sent| {
                        let out = split(&out, ident(&sent[0].1), PIECE).remove(0);
                        vec![(FRONT, out), (SENSOR, piece.clone())]
                    });
                }
            }
        }
    }
}

/// A fragment counts as a packet, whichever part of a datagram it is.
#[test]
fn the_rate_of_packets() {
    for mode in [Mode::Nat, Mode::Dr] {
        for family in Family::BOTH {
            for of_source in [false, true] {
                let mut net = Net::two_armed(1).usual(mode);
                let limits = &mut net.snapshot.services[1].limits;
                *limits = match of_source {
                    true => Limits { source_packets_per_second: 4, ..Limits::default() },
                    false => Limits { packets_per_second: 4, ..Limits::default() },
                };
                let why =
                    if of_source { DropReason::SourcePacketRate } else { DropReason::PacketRate };
                let mut rig = Rig::new(net);
                let client = SocketAddr::new(family.client(), 40_003);
                let vip = SocketAddr::new(family.vip(), 53);
                assert_eq!(rig.send(FRONT, &rig.by_client(udp(client, vip)).bytes()).len(), 1);
                let packet = rig.by_client(udp(client, vip).payload(&[3; 4000])).bytes();
                let pieces = split(&packet, 77, PIECE);
                for piece in &pieces {
                    assert_eq!(rig.send(FRONT, piece).len(), 1);
                }
                let pieces = split(&packet, 78, PIECE);
                for piece in &pieces {
                    refused(&mut rig, "above the rate", FRONT, piece, why);
                }
                // A quarter of a second is one packet more.
                rig.now = rig.now.wrapping_add(250);
                let pieces = split(&packet, 79, PIECE);
                assert_eq!(rig.send(FRONT, &pieces[0]).len(), 1);
                refused(&mut rig, "one more", FRONT, &pieces[1], why);
            }
        }
    }
}

/// One-packet services: all of a datagram goes to one server, and nothing is left of it.
mod one_packet {
    use super::*;

    fn net(workers: usize, mode: Mode) -> Net {
        let mut net = Net::two_armed(workers);
        let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), 53));
        let id = net.service(Protocol::Udp, &listen, mode);
        for n in [11, 12] {
            for family in Family::BOTH {
                net.server(id, family.server(n), if mode == Mode::Dr { 53 } else { 5353 });
            }
        }
        net.snapshot.services[0].selection.one_packet = true;
        net
    }

    fn number(mode: Mode, sent: &[u8]) -> u32 {
        if mode == Mode::Dr { 0x1234 } else { ident(sent) }
    }

    #[test]
    fn the_fragments_of_a_datagram_go_to_one_server() {
        for workers in [1, 2, 4] {
            for mode in [Mode::Nat, Mode::Dr] {
                for family in Family::BOTH {
                    let mut rig = Rig::new(net(workers, mode));
                    let client = SocketAddr::new(family.client(), 40_003);
                    let packet = udp(client, SocketAddr::new(family.vip(), 53)).payload(&[3; 4000]);
                    let mut servers = Vec::new();
                    for order in ORDERS {
                        let pieces = split(&rig.by_client(packet.clone()).bytes(), 0x1234, PIECE);
                        rig.changes();
                        let sent: Vec<_> =
                            order.iter().flat_map(|&n| rig.send(FRONT, &pieces[n])).collect();
                        assert_eq!(sent.len(), 3, "{order:?}");
                        let n = sent[0].1[5];
                        let out = match mode {
                            Mode::Dr => packet.clone(),
                            _ => {
                                let dst = SocketAddr::new(family.server(n), 5353);
                                Packet { dst, ttl: 63, ..packet.clone() }
                            }
                        };
                        let whole = rig.to_server(n, out).bytes();
                        let out = split(&whole, number(mode, &sent[0].1), PIECE);
                        let mut expected: Vec<_> = out.into_iter().map(|b| (BACK, b)).collect();
                        let mut sent = sent;
                        sent.sort();
                        expected.sort();
                        assert_eq!(sent, expected);
                        let id = ServerId(u16::from(n - 11) * 2 + u16::from(family == Family::V6));
                        let mut changes = Changes::none().add("fragments", 3);
                        for (piece, (_, out)) in pieces.iter().zip(&expected) {
                            changes = changes.rx(FRONT, piece).forward(id, piece).tx(BACK, out);
                        }
                        let waited = order.iter().position(|n| *n == 0).unwrap() as i64;
                        let changes = changes.add("fragments_held", waited);
                        let mut seen = rig.changes();
                        // At their home they are forwarded, whoever received them.
                        let handed =
                            ["handed_off", "handed_in"].map(|n| seen.0.remove(n).unwrap_or(0));
                        assert!(handed[0] == handed[1] && handed[0] <= 3, "{handed:?}");
                        assert_eq!(seen, changes);
                        assert_eq!(rig.sessions(), 0);
                        servers.push(n);
                    }
                    if workers == 1 {
                        assert_eq!(servers, [11, 12, 11, 12, 11, 12], "each for itself");
                    }
                }
            }
        }
    }

    #[test]
    fn answers_in_fragments() {
        for workers in [1, 2, 4] {
            for family in Family::BOTH {
                for order in ORDERS {
                    let mut rig = Rig::new(net(workers, Mode::Nat));
                    let client = SocketAddr::new(family.client(), 40_003);
                    let server = SocketAddr::new(family.server(12), 5353);
                    let answer = rig.by_server(12, udp(server, client).payload(&[4; 4000])).bytes();
                    let pieces = split(&answer, 9, PIECE);
                    let sent: Vec<_> =
                        order.iter().flat_map(|&n| rig.send(BACK, &pieces[n])).collect();
                    let vip = SocketAddr::new(family.vip(), 53);
                    let out = rig.to_client(udp(vip, client).payload(&[4; 4000]).ttl(63)).bytes();
                    let mut expected: Vec<_> = split(&out, ident(&sent[0].1), PIECE)
                        .into_iter()
                        .map(|out| (FRONT, out))
                        .collect();
                    let mut sent = sent;
                    sent.sort();
                    expected.sort();
                    assert_eq!(sent, expected, "{order:?}");
                    let replies = |n: u16| {
                        let id = ServerId(n * 2 + u16::from(family == Family::V6));
                        rig.counters.iter().map(|c| c.server(id).reply_packets.get()).sum::<u64>()
                    };
                    assert_eq!((replies(0), replies(1)), (0, 3));
                    assert_eq!(rig.sessions(), 0);
                }
            }
        }
    }

    #[test]
    fn what_is_dropped() {
        for workers in [1, 2] {
            for family in Family::BOTH {
                let mut rig = Rig::new(net(workers, Mode::Nat));
                let (client, vip) = (family.client(), SocketAddr::new(family.vip(), 53));
                let pieces = |rig: &Rig, src, ttl, number| {
                    let packet = udp(SocketAddr::new(src, 40_003), vip).payload(&[3; 2000]);
                    split(&rig.by_client(packet.ttl(ttl)).bytes(), number, 400)
                };
                let spoofed = pieces(&rig, family.front(), 64, 1);
                for piece in &spoofed[..2] {
                    refused(&mut rig, "spoofed", FRONT, piece, DropReason::SpoofedLocal);
                }
                let spent = pieces(&rig, client, 1, 2);
                let error =
                    time_exceeded((FRONT_MAC, ROUTER_MAC), family.front(), client, &spent[0]);
                let why = DropReason::HopLimitExceeded;
                let changes = Changes::none().dropped(why).originated(FRONT, &error);
                step(&mut rig, "spent", FRONT, &spent[0], changes, |_| vec![(FRONT, error)]);
                for server in &mut rig.net.snapshot.servers {
                    server.up = false;
                }
                rig.reconfigure();
                let nowhere = pieces(&rig, client, 64, 3);
                for piece in &nowhere[..2] {
                    refused(&mut rig, "no server", FRONT, piece, DropReason::NoServer);
                }
                assert_eq!(rig.sessions(), 0);
            }
        }
    }

    /// Limits, copies and marks hold for datagrams without a session, whole or not.
    #[test]
    fn copies_marks_and_limits() {
        for mode in [Mode::Nat, Mode::Dr] {
            for family in Family::BOTH {
                let mut net = with_sensor(net(1, mode), 1, None);
                let service = &mut net.snapshot.services[0];
                service.mirror = Some(MirrorId(0));
                service.policy.dscp = Some(46);
                service.limits.packets_per_second = 3;
                let mut rig = Rig::new(net);
                let client = SocketAddr::new(family.client(), 40_003);
                let vip = SocketAddr::new(family.vip(), 53);
                let id = |n: u16| ServerId(n * 2 + u16::from(family == Family::V6));
                let out_of = |rig: &Rig, n: u8, payload: &[u8]| {
                    let packet = match mode {
                        Mode::Dr => udp(client, vip),
                        _ => udp(client, SocketAddr::new(family.server(n), 5353)).ttl(63),
                    };
                    with_class(rig.to_server(n, packet.payload(payload)).bytes(), EF)
                };
                let whole = rig.by_client(udp(client, vip)).bytes();
                let out = out_of(&rig, 11, b"hello");
                let changes = copied(Changes::none().forward(id(0), &whole).tx(BACK, &out), &whole);
                let expected = [(BACK, out), (SENSOR, whole.clone())];
                rig.step("whole", FRONT, &whole, None, changes, &expected);
                let packet = rig.by_client(udp(client, vip).payload(&[3; 2000])).bytes();
                let out = out_of(&rig, 12, &[3; 2000]);
                for (n, piece) in split(&packet, 0x1234, PIECE).iter().enumerate() {
                    let changes = Changes::none().forward(id(1), piece).add("fragments", 1);
                    let changes = copied(changes.tx(BACK, &split(&out, 0, PIECE)[n]), piece);
                    step(&mut rig, "piece", FRONT, piece, changes, |sent| {
                        let out = split(&out, number(mode, &sent[0].1), PIECE).swap_remove(n);
                        vec![(BACK, out), (SENSOR, piece.clone())]
                    });
                }
                let why = DropReason::PacketRate;
                let changes = copied(Changes::none().dropped(why), &whole);
                rig.step("above", FRONT, &whole, None, changes, &[(SENSOR, whole.clone())]);
            }
        }
    }

    /// Datagrams that never become complete leave room for others, and no session.
    #[test]
    fn no_more_packets_than_the_table_holds() {
        for family in Family::BOTH {
            let mut rig = Rig::new(net(1, Mode::Dr));
            let client = SocketAddr::new(family.client(), 40_003);
            let packet = udp(client, SocketAddr::new(family.vip(), 53)).payload(&[9; 40]);
            let whole = rig.by_client(packet).bytes();
            rig.changes();
            for ident in 0..16_384 {
                rig.send(FRONT, &split(&whole, ident, 16)[0]);
            }
            let full = rig.changes().0["drop.fragment_table_full"];
            assert!((12_288..12_500).contains(&full), "4,096 have a place: {full} were refused");
            assert_eq!(rig.sessions(), 0);
        }
    }
}
