//! Two nodes that were apart and both have a session of the same client.

use std::net::SocketAddr;

use shunt::session::Mode;
use shunt::wire::flow::Protocol;

use super::{Pair, Wire};
use crate::frames::{ACK, SYN, SYN_ACK, tcp};
use crate::net::{BACK, FRONT, Family, Net};

fn net(mode: Mode) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers);
        let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), 80));
        let id = net.service(Protocol::Tcp, &listen, mode);
        for n in 11..13 {
            for family in Family::BOTH {
                net.server(id, family.server(n), 8080);
            }
        }
        for family in Family::BOTH {
            net.lip(BACK, family.lip());
        }
        net
    }
}

/// A client's SYN at a node, and if `accepted` the rest of the handshake. Gives the server.
fn connect(pair: &mut Pair, node: usize, client: SocketAddr, accepted: bool) -> SocketAddr {
    let family = if client.is_ipv6() { Family::V6 } else { Family::V4 };
    let vip = SocketAddr::new(family.vip(), 80);
    pair.begin();
    let bytes = pair.nodes[node].by_client(tcp(client, vip, SYN)).bytes();
    pair.inject(node, FRONT, &bytes);
    assert_eq!(pair.sent[node].len(), 1);
    let frame = pair.sent[node][0].1.clone();
    let (local, server) = super::forwarding::ends(&frame);
    if accepted {
        let bytes = pair.nodes[node].by_server(frame[5], tcp(server, local, SYN_ACK)).bytes();
        pair.inject(node, BACK, &bytes);
        let bytes = pair.nodes[node].by_client(tcp(client, vip, ACK)).bytes();
        pair.inject(node, FRONT, &bytes);
        assert_eq!(pair.sent[node].len(), 3);
    }
    pair.pass(2, 1);
    server
}

/// Where a client's next segment leaves for on a node.
fn goes_to(pair: &mut Pair, node: usize, client: SocketAddr) -> SocketAddr {
    let family = if client.is_ipv6() { Family::V6 } else { Family::V4 };
    pair.begin();
    let packet = tcp(client, SocketAddr::new(family.vip(), 80), ACK);
    let bytes = pair.nodes[node].by_client(packet).bytes();
    pair.inject(node, FRONT, &bytes);
    assert_eq!(pair.sent[node].len(), 1);
    super::forwarding::ends(&pair.sent[node][0].1).1
}

/// Lets each node have servers of its own for new sessions.
fn choose_differently(pair: &mut Pair) {
    for (node, unwanted) in [[2, 3], [0, 1]].into_iter().enumerate() {
        for id in unwanted {
            pair.nodes[node].net.snapshot.servers[id].weight = 0;
        }
        pair.nodes[node].reconfigure();
    }
}

fn client(family: Family, n: u16) -> SocketAddr {
    SocketAddr::new(family.client(), 40_000 + n)
}

#[test]
fn of_two_sessions_of_a_client_one_remains() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for workers in [[1, 1], [2, 3]] {
            for family in Family::BOTH {
                // Of two alike node 0's remains; else the connection that exists.
                for (accepted, remains) in
                    [([false, false], 0), ([true, true], 0), ([true, false], 0), ([false, true], 1)]
                {
                    let mut pair = Pair::new(workers, Wire::Own, net(mode));
                    pair.part();
                    choose_differently(&mut pair);
                    let servers = [0, 1]
                        .map(|node| connect(&mut pair, node, client(family, 1), accepted[node]));
                    assert_ne!(servers[0], servers[1]);
                    let what = format!("{mode:?} {workers:?} {family:?} {accepted:?}");
                    pair.heal();
                    pair.settle();
                    for node in 0..2 {
                        assert_eq!(pair.nodes[node].sessions(), 1, "{what}: node {node}");
                        let to = goes_to(&mut pair, node, client(family, 1));
                        assert_eq!(to, servers[remains], "{what}: node {node}");
                    }
                    let own = if remains == 0 { [(1, 0), (0, 1)] } else { [(0, 1), (1, 0)] };
                    assert_eq!([pair.owns(0), pair.owns(1)], own, "{what}");
                    let conflicts = [0, 1].map(|node| pair.sum(node, |c| c.sync.conflicts.get()));
                    // Who hears of the other's session first gives way, or has it so.
                    assert!(conflicts.iter().sum::<u64>() >= 1, "{what}: {conflicts:?}");
                }
            }
        }
    }
}

/// A node that stood still has old sessions: the one that was used later remains, unless that was at about
/// the same time, or only one of the connections exists.
#[test]
fn of_two_alike_that_which_was_used_later_remains() {
    for workers in [[1, 1], [2, 3]] {
        for mode in [Mode::Nat, Mode::FullNat] {
            // Whether they were accepted, which is used last, and how much later, in milliseconds.
            for (accepted, last, later, remains) in [
                ([true, true], 0, 1_500, 0),
                ([true, true], 1, 1_500, 1),
                ([true, true], 0, 800, 0),
                ([true, true], 1, 800, 0),
                ([false, false], 0, 1_500, 0),
                ([false, false], 1, 1_500, 1),
                ([true, false], 1, 1_500, 0),
                ([false, true], 0, 1_500, 1),
            ] {
                let what = format!("{workers:?} {mode:?} {accepted:?} {last} {later}");
                let mut pair = Pair::new(workers, Wire::Own, net(mode));
                pair.part();
                choose_differently(&mut pair);
                let client = client(Family::V4, 1);
                let mut servers = [client; 2];
                for node in [1 - last, last] {
                    servers[node] = connect(&mut pair, node, client, accepted[node]);
                    if node != last {
                        pair.pass(later, 10);
                    }
                }
                pair.heal();
                pair.settle();
                for node in 0..2 {
                    assert_eq!(pair.nodes[node].sessions(), 1, "{what}: node {node}");
                    let to = goes_to(&mut pair, node, client);
                    assert_eq!(to, servers[remains], "{what}: node {node}");
                }
                let owns = [pair.owns(remains), pair.owns(1 - remains)];
                assert_eq!(owns, [(1, 0), (0, 1)], "{what}");
            }
        }
    }
}

#[test]
fn what_both_own_goes_to_node_0() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, net(Mode::FullNat));
        for n in 0..20 {
            connect(&mut pair, usize::from(n % 2), client(Family::V4, n), true);
        }
        assert_eq!([pair.owns(0), pair.owns(1)], [(10, 10), (10, 10)]);
        for _ in 0..2 {
            pair.part();
            assert_eq!([pair.owns(0), pair.owns(1)], [(20, 0), (20, 0)]);
            pair.heal();
            pair.settle();
            assert_eq!([pair.owns(0), pair.owns(1)], [(20, 0), (0, 20)]);
            assert_eq!(
                [pair.sum(0, |c| c.sync.conflicts.get()), pair.sum(1, |c| c.sync.conflicts.get())],
                [0, 0]
            );
        }
        for n in 0..20 {
            let to = [0, 1].map(|node| goes_to(&mut pair, node, client(Family::V4, n)));
            assert_eq!(to[0], to[1]);
        }
    }
}

/// Only one of the two notices that the other is gone.
#[test]
fn a_silence_in_one_direction_heals() {
    for deaf in 0..2 {
        let mut pair = Pair::new([1, 2], Wire::Own, net(Mode::Nat));
        for n in 0..20 {
            connect(&mut pair, usize::from(n % 2), client(Family::V4, n), true);
        }
        pair.lose = Box::new(move |from, _| from != deaf);
        pair.pass(super::DEAD_MS + 500, 10);
        assert!(!pair.has_peer(deaf) && pair.has_peer(1 - deaf));
        for n in 20..40 {
            connect(&mut pair, usize::from(n % 2), client(Family::V4, n), true);
        }
        pair.heal();
        pair.settle();
        let owns = [pair.owns(0), pair.owns(1)];
        assert_eq!((owns[0].0 + owns[0].1, owns[1].0 + owns[1].1), (40, 40));
        assert_eq!(owns[0].0, owns[1].1, "each has one owner: {owns:?}");
    }
}
