//! Packets in mid-stream that only the other node knows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shunt::datapath::filter::{Action, Filters, Rule};
use shunt::datapath::guard::Guard;
use shunt::datapath::ha::Ha;
use shunt::datapath::policy::MidStream;
use shunt::io::memory::MemoryFrame;
use shunt::session::{Mode, ServerId};
use shunt::sync::datagram::Kind;
use shunt::wire::DropReason::NoSession;

use super::states::short;
use super::{Pair, Wire, group_mac, is_session, mac};
use crate::changes::Changes;
use crate::frames::{ACK, ISN, PSH_ACK, Packet, RST, SYN, SYN_ACK, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net, ip};
use crate::rig::hex;

fn policy(mode: Mode, mid_stream: MidStream) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = short(mode)(workers);
        net.snapshot.services[0].policy.mid_stream = mid_stream;
        net
    }
}

pub struct Ends {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub local: SocketAddr,
    pub server: SocketAddr,
    id: ServerId,
}

/// A connection that only node 0 knows: what it says of it is lost.
pub fn known_to_one(pair: &mut Pair, family: Family) -> Ends {
    pair.lose = Box::new(|node, said| node == 0 && said.header.kind == Kind::Stream);
    let client = SocketAddr::new(family.client(), 40_001);
    let vip = SocketAddr::new(family.vip(), 80);
    pair.begin();
    let bytes = pair.nodes[0].by_client(tcp(client, vip, SYN)).bytes();
    pair.inject(0, FRONT, &bytes);
    let (local, server) = super::forwarding::ends(&pair.sent[0][0].1);
    for packet in [tcp(server, local, SYN_ACK), tcp(client, vip, ACK)] {
        let from_server = packet.src == server;
        let (port, packet) = match from_server {
            true => (BACK, pair.nodes[0].by_server(11, packet)),
            false => (FRONT, pair.nodes[0].by_client(packet)),
        };
        pair.inject(0, port, &packet.bytes());
    }
    pair.pass(1, 1);
    assert_eq!((pair.nodes[0].sessions(), pair.nodes[1].sessions()), (1, 0));
    let id = ServerId(u16::from(family == Family::V6));
    Ends { client, vip, local, server, id }
}

/// The hand-offs of a packet that comes in next at a node.
pub fn hops(pair: &Pair, node: usize, outer: SocketAddr) -> i64 {
    let rig = &pair.nodes[node];
    i64::from(rig.net.owner(outer) != rig.turn % rig.workers.len())
}

#[test]
fn on_a_common_network_the_peer_gets_the_frame() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for workers in [[1, 1], [1, 2], [2, 1], [2, 3]] {
            for family in Family::BOTH {
                let mut pair = Pair::new(workers, Wire::Own, policy(mode, MidStream::Reset));
                let ends = known_to_one(&mut pair, family);
                let c = tcp(ends.client, ends.vip, PSH_ACK).payload(b"GET /");
                let s = tcp(ends.server, ends.local, PSH_ACK).ack(ISN + 6).payload(b"200 OK");
                for (port, packet, outer) in [(FRONT, c, ends.client), (BACK, s, ends.local)] {
                    let came = match port {
                        FRONT => pair.nodes[1].by_client(packet.clone()),
                        _ => pair.nodes[1].by_server(11, packet.clone()),
                    };
                    let given = came.clone().macs(mac(1, port), mac(0, port)).bytes();
                    let changes = Changes::none().tx(port, &given).add("sync.relayed", 1);
                    // A segment of a server goes through the pipeline once more.
                    let again = i64::from(port == BACK);
                    let changes = changes.add("handed_off", again).add("handed_in", again);
                    let expected = vec![(port, given.clone())];
                    pair.begin();
                    let hop = hops(&pair, 1, outer);
                    let changes = changes.add("handed_off", hop).add("handed_in", hop);
                    pair.step(
                        "given",
                        1,
                        (port, &came.bytes()),
                        None,
                        &expected,
                        [changes, Changes::none()],
                    );

                    // The peer does with it what it does with any.
                    let (to, out) = match port {
                        FRONT => {
                            let (src, dst) = (ends.local, ends.server);
                            (
                                BACK,
                                pair.nodes[0].to_server(11, Packet { src, dst, ttl: 63, ..packet }),
                            )
                        }
                        _ => {
                            let (src, dst) = (ends.vip, ends.client);
                            (FRONT, pair.nodes[0].to_client(Packet { src, dst, ttl: 63, ..packet }))
                        }
                    };
                    let out = out.bytes();
                    let changes = Changes::none().tx(to, &out).add("sync.relay_answered", 1);
                    let changes = match port {
                        FRONT => changes.forward(ends.id, &given),
                        _ => changes.reply(ends.id, &given),
                    };
                    let expected = vec![(to, out)];
                    pair.step(
                        "answered",
                        0,
                        (port, &given),
                        Some(outer),
                        &expected,
                        [changes, Changes::none()],
                    );
                }
                pair.heal();
                pair.settle();
            }
        }
    }
}

#[test]
fn nothing_is_given_twice() {
    for workers in [[1, 1], [2, 3]] {
        for mid_stream in [MidStream::Drop, MidStream::Reset] {
            let mut pair = Pair::new(workers, Wire::Own, policy(Mode::Nat, mid_stream));
            for node in 0..2 {
                let client = SocketAddr::new(Family::V4.client(), 40_001 + node as u16);
                let vip = SocketAddr::new(Family::V4.vip(), 80);
                let packet = tcp(client, vip, ACK);
                let came = pair.nodes[node].by_client(packet.clone());
                let given = came.clone().macs(mac(node, FRONT), mac(1 - node, FRONT)).bytes();
                let changes = Changes::none().tx(FRONT, &given).add("sync.relayed", 1);
                let expected = vec![(FRONT, given.clone())];
                pair.step(
                    "given",
                    node,
                    (FRONT, &came.bytes()),
                    Some(client),
                    &expected,
                    [changes, Changes::none()],
                );

                pair.begin();
                pair.inject(1 - node, FRONT, &given);
                assert_eq!(pair.sum(1 - node, |c| c.sync.relay_refused.get()), 1);
                let sent = std::mem::take(&mut pair.sent[1 - node]);
                match mid_stream {
                    MidStream::Reset => {
                        // By its own routes: to the peer, an address of ours would look forged.
                        let reset = tcp(vip, client, RST).seq(ISN + 1).window(0);
                        let reset = pair.nodes[1 - node].to_client(reset).bytes();
                        assert_eq!(hex(&sent), hex(&[(FRONT, reset)]));
                    }
                    _ => assert_eq!(sent, []),
                }
            }
            assert_eq!(
                [pair.sum(0, |c| c.sync.relayed.get()), pair.sum(1, |c| c.sync.relayed.get())],
                [1, 1]
            );
        }
    }
}

/// Networks with nothing in common but the channel: the packet goes in a datagram.
#[test]
fn without_a_common_network_the_packet_goes_by_the_channel() {
    for workers in [[1, 1], [1, 2], [2, 1], [2, 3]] {
        for family in Family::BOTH {
            let mut pair = Pair::new(workers, Wire::Apart, policy(Mode::Nat, MidStream::Drop));
            let ends = known_to_one(&mut pair, family);
            pair.pass(200, 1);
            for payload in [&b"GET /"[..], &[0x5a; 1_300]] {
                let packet = tcp(ends.client, ends.vip, PSH_ACK).payload(payload);
                let came = pair.nodes[1].by_client(packet.clone()).bytes();
                let out = Packet { src: ends.local, dst: ends.server, ttl: 63, ..packet };
                let out = pair.nodes[0].to_server(11, out).bytes();
                pair.begin();
                pair.inject(1, FRONT, &came);
                assert_eq!(
                    pair.sent[0],
                    [(BACK, out)],
                    "{workers:?}: the same as if it had come there"
                );
                assert_eq!(pair.sent[1], []);
                let relayed: Vec<_> =
                    pair.said[1].iter().filter(|said| said.header.kind == Kind::Relay).collect();
                assert_eq!(relayed.len(), 1);
                // Untouched, with the port before it.
                let datagram = &relayed[0].frame[42 + 48..];
                assert_eq!(datagram[0], FRONT.0);
                assert_eq!(datagram[1..], came[..]);
                let frame = relayed[0].frame.clone();
                pair.begin();
                // A recording of it is of no use.
                pair.nodes[0].arrive(MemoryFrame::new(Wire::Apart.port(), &frame));
                pair.nodes[0].settle();
                pair.carry();
                assert_eq!(pair.sent[0], []);
            }
            let sync = [0, 1].map(|node| {
                [
                    pair.sum(node, |c| c.sync.relayed.get()),
                    pair.sum(node, |c| c.sync.relay_answered.get()),
                    pair.sum(node, |c| c.sync.relay_refused.get()),
                    pair.sum(node, |c| c.sync.replayed.get()),
                ]
            });
            assert_eq!(sync, [[0, 2, 0, 2], [2, 0, 0, 0]], "{workers:?}");

            // The other way it is known to nobody: it comes to nothing.
            pair.begin();
            let stray = tcp(SocketAddr::new(family.client(), 50_000), ends.vip, ACK);
            let bytes = pair.nodes[0].by_client(stray).bytes();
            pair.inject(0, FRONT, &bytes);
            assert_eq!((pair.sent[0].len(), pair.sent[1].len()), (0, 0));
            assert_eq!(pair.sum(0, |c| c.sync.relayed.get()), 1);
            assert_eq!(pair.sum(1, |c| c.sync.relay_refused.get()), 1);

            // With the headers of the datagram it would be too long.
            let long = tcp(ends.client, ends.vip, PSH_ACK).payload(&[0x5a; 1_440 - 20]);
            let bytes = pair.nodes[1].by_client(long).bytes();
            let changes = Changes::none().dropped(NoSession).add("sync.relay_failed", 1);
            pair.step(
                "too long",
                1,
                (FRONT, &bytes),
                Some(ends.client),
                &vec![],
                [changes, Changes::none()],
            );
        }
    }
}

/// A server answers so fast that its segment is looked at before the word of its session: it is looked at
/// again when that has come.
#[test]
fn an_answer_that_overtakes_the_word_of_its_session_waits_for_it() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut pair = Pair::new([1, 1], Wire::Own, policy(mode, MidStream::Drop));
        pair.lose = Box::new(|node, said| node == 0 && said.count(is_session) > 0);
        let client = SocketAddr::new(Family::V4.client(), 40_001);
        let vip = SocketAddr::new(Family::V4.vip(), 80);
        pair.begin();
        let bytes = pair.nodes[0].by_client(tcp(client, vip, SYN)).bytes();
        pair.inject(0, FRONT, &bytes);
        let (local, server) = super::forwarding::ends(&pair.sent[0][0].1);
        let word = pair.said[0].iter().find(|said| said.count(is_session) > 0).unwrap().clone();
        let answer = pair.nodes[1].by_server(11, tcp(server, local, SYN_ACK)).bytes();
        pair.begin();
        let rig = &mut pair.nodes[1];
        rig.arrive(MemoryFrame::new(BACK, &answer));
        let now = rig.now;
        rig.workers[0].poll(now);
        assert_eq!(rig.sessions(), 0);
        rig.arrive(MemoryFrame::new(Wire::Own.port(), &word.frame));
        rig.workers[0].poll(now);
        pair.carry();
        let out = tcp(vip, client, SYN_ACK).ttl(63);
        let out = pair.nodes[1].to_client(out).bytes();
        assert_eq!(pair.sent[1], [(FRONT, out)]);
        assert_eq!(pair.sum(1, |c| c.sync.relayed.get()), 0);
        assert_eq!(pair.nodes[1].changes().0.get("handed_off"), Some(&1));
    }
}

/// Where it is switched off (`relay = false`), the policy alone speaks, of what the peer knows as well.
#[test]
fn without_relay_a_node_decides_for_itself() {
    for wire in [Wire::Own, Wire::Apart] {
        let mut pair = Pair::new([1, 1], wire, policy(Mode::Nat, MidStream::Drop));
        for rig in &mut pair.nodes {
            let mut ha = Ha::clone(rig.net.snapshot.ha.as_ref().unwrap());
            ha.channel.relay = false;
            rig.net.snapshot.ha = Some(Arc::new(ha));
            rig.reconfigure();
        }
        pair.settle();
        let ends = known_to_one(&mut pair, Family::V4);
        let packet = tcp(ends.client, ends.vip, PSH_ACK).payload(b"GET /");
        let bytes = pair.nodes[1].by_client(packet).bytes();
        let changes = [Changes::none().dropped(NoSession), Changes::none()];
        pair.step("dropped", 1, (FRONT, &bytes), Some(ends.client), &vec![], changes);
    }
}

/// Without a peer each node decides for itself.
#[test]
fn alone_a_node_decides_for_itself() {
    let mut pair = Pair::new([1, 1], Wire::Own, policy(Mode::Nat, MidStream::Drop));
    pair.part();
    let client = SocketAddr::new(Family::V4.client(), 40_001);
    let packet = tcp(client, SocketAddr::new(Family::V4.vip(), 80), ACK);
    let bytes = pair.nodes[0].by_client(packet).bytes();
    let changes = Changes::none().dropped(NoSession);
    pair.step("dropped", 0, (FRONT, &bytes), Some(client), &vec![], [changes, Changes::none()]);
}

/// A connection that neither knows is adopted by who was asked second, with one hand-over.
#[test]
fn the_peer_adopts_what_neither_knows() {
    for workers in [[1, 1], [2, 3]] {
        for wire in [Wire::Own, Wire::Apart] {
            let mut pair = Pair::new(workers, wire, policy(Mode::Nat, MidStream::Adopt));
            pair.begin();
            let client = SocketAddr::new(Family::V4.client(), 40_001);
            let packet = tcp(client, SocketAddr::new(Family::V4.vip(), 80), ACK);
            let bytes = pair.nodes[0].by_client(packet).bytes();
            pair.inject(0, FRONT, &bytes);
            if wire == Wire::Own {
                let (port, given) = pair.sent[0][0].clone();
                pair.inject(1, port, &given);
            }
            pair.pass(2, 1);
            assert_eq!([pair.owns(0), pair.owns(1)], [(0, 1), (1, 0)], "{workers:?} {wire:?}");
            assert_eq!(pair.sent[1].len(), 1);
            assert_eq!(pair.sent[1][0].0, BACK);
        }
    }
}

/// A filter that lets through what the services need and nothing else.
#[test]
fn the_packet_filter_does_not_see_the_channel() {
    for wire in Wire::ALL {
        for workers in [[1, 1], [2, 3]] {
            let make = |workers: usize| {
                let mut net = policy(Mode::Nat, MidStream::Drop)(workers);
                let udp = Rule { action: Action::Drop, protocol: Some(17), ..Rule::default() };
                net.snapshot.guard =
                    Arc::new(Guard { filters: Filters::new(vec![udp]), ..Guard::default() });
                net
            };
            // They come to terms, and have each other's sessions.
            let mut pair = Pair::new(workers, wire, make);
            for node in 0..2 {
                assert_eq!(pair.sum(node, |c| c.filter(0).packets.get()), 0, "{wire:?}");
            }
            if wire == Wire::Apart {
                let ends = known_to_one(&mut pair, Family::V4);
                pair.pass(200, 1);
                let packet = tcp(ends.client, ends.vip, PSH_ACK).payload(b"GET /");
                let came = pair.nodes[1].by_client(packet).bytes();
                pair.begin();
                pair.inject(1, FRONT, &came);
                assert_eq!((pair.sent[0].len(), pair.sent[1].len()), (1, 0));
            }
            // What is like it is seen: other ports, others than the peer to this node alone.
            let (port, own, peer) = (wire.port(), wire.address(0), wire.address(1));
            let stranger = match own {
                IpAddr::V4(_) => ip("192.168.77.9"),
                IpAddr::V6(_) => ip("2001:db8:77::9"),
            };
            let (group, unicast) = (group_mac(wire.group()), mac(0, port));
            for (src, dst, to, dport, sees) in [
                (peer, own, unicast, 8849, 0),
                (peer, own, unicast, 8850, 1),
                (stranger, own, unicast, 8849, 1),
                (peer, wire.group(), group, 8849, 0),
                (peer, wire.group(), group, 8850, 1),
            ] {
                let (src, dst) = (SocketAddr::new(src, 8849), SocketAddr::new(dst, dport));
                let before = pair.sum(0, |c| c.filter(0).packets.get());
                let bytes = udp(src, dst).macs(mac(1, port), to).bytes();
                pair.inject(0, port, &bytes);
                let seen = pair.sum(0, |c| c.filter(0).packets.get()) - before;
                assert_eq!(seen, sees, "{wire:?}: {src} -> {dst}");
            }
        }
    }
}
