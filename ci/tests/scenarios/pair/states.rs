//! How sessions change and end, and who says so.

use std::collections::HashSet;
use std::net::SocketAddr;

use shunt::session::{Mode, ServerId, TcpState};

use super::forwarding::ends;
use super::talk::Talk;
use super::{DEAD_MS, Pair, Wire, is_close, is_session, is_touch};
use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, RST, SYN, SYN_ACK, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net, SHORT_TIMEOUTS};
use crate::rig::Rig;

/// The states of all sessions of a node, in the order of their clients' ports.
pub fn states(pair: &Pair, node: usize) -> Vec<TcpState> {
    let mut found = Vec::new();
    for worker in &pair.nodes[node].workers {
        let pipeline = worker.pipeline();
        let mut cursor = 0;
        pipeline.sessions_v4().walk(&mut cursor, usize::MAX, |_, entry| {
            found.push((entry.client_port, entry.state));
        });
        let mut cursor = 0;
        pipeline.sessions_v6().walk(&mut cursor, usize::MAX, |_, entry| {
            found.push((entry.client_port, entry.state));
        });
    }
    found.sort_by_key(|(port, _)| *port);
    found.into_iter().map(|(_, state)| state).collect()
}

pub fn short(mode: Mode) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers).usual(mode);
        for service in &mut net.snapshot.services {
            service.timeouts = SHORT_TIMEOUTS;
        }
        net
    }
}

fn client(n: u16) -> SocketAddr {
    SocketAddr::new(Family::V4.client(), 40_000 + n)
}

fn web() -> SocketAddr {
    SocketAddr::new(Family::V4.vip(), 80)
}

fn dns() -> SocketAddr {
    SocketAddr::new(Family::V4.vip(), 53)
}

/// A packet of the client comes in at a node.
fn ask(pair: &mut Pair, node: usize, n: u16) {
    let bytes = pair.nodes[node].by_client(udp(client(n), dns())).bytes();
    pair.inject(node, FRONT, &bytes);
}

#[test]
fn the_copy_is_in_the_state_of_the_owner() {
    use TcpState::{Closed, Established, FinBoth, FinClient, SynReceived, SynSent, TimeWait};
    for workers in [[1, 1], [2, 3]] {
        let mut talk = Talk::new(workers, Wire::Own, 0, short(Mode::Nat));
        let (c, vip) = (client(1), web());
        let ends = talk.begin(tcp(c, vip, SYN));
        let both = |talk: &Talk, own, copy| {
            assert_eq!((states(&talk.pair, 0), states(&talk.pair, 1)), (vec![own], vec![copy]));
        };
        both(&talk, SynSent, SynSent);
        talk.server("SYN-ACK", 0, tcp(ends.server, ends.local, SYN_ACK));
        // The acknowledgment that follows says more.
        both(&talk, SynReceived, SynSent);
        assert_eq!(talk.pair.told(0, is_session), 0);
        talk.client("ACK", 0, tcp(c, vip, ACK));
        both(&talk, Established, Established);
        assert_eq!(talk.pair.told(0, is_session), 1);
        talk.client("data", 0, tcp(c, vip, PSH_ACK).payload(b"GET /"));
        assert_eq!(talk.pair.told(0, is_session), 0, "data is nothing new");
        talk.client("FIN", 0, tcp(c, vip, FIN_ACK).seq(ISN + 6));
        both(&talk, FinClient, FinClient);
        talk.server("FIN", 0, tcp(ends.server, ends.local, FIN_ACK).ack(ISN + 7));
        both(&talk, FinBoth, FinBoth);
        talk.client("ACK", 0, tcp(c, vip, ACK).seq(ISN + 7).ack(ISN + 2));
        both(&talk, TimeWait, TimeWait);
        talk.wait(1_200);
        assert_eq!([talk.pair.owns(0), talk.pair.owns(1)], [(0, 0), (0, 0)]);

        // Each FIN and the reset pass through another node.
        let c = client(2);
        let ends = talk.begin(tcp(c, vip, SYN));
        talk.server("SYN-ACK", 1, tcp(ends.server, ends.local, SYN_ACK));
        talk.client("ACK", 1, tcp(c, vip, ACK));
        both(&talk, Established, Established);
        assert!(talk.pair.told(1, is_touch) > 0);
        talk.client("FIN", 0, tcp(c, vip, FIN_ACK));
        talk.server("FIN", 1, tcp(ends.server, ends.local, FIN_ACK).ack(ISN + 2));
        both(&talk, FinBoth, FinBoth);
        talk.wait(5_000);
        assert_eq!([talk.pair.owns(0), talk.pair.owns(1)], [(0, 0), (0, 0)]);

        for node in 0..2 {
            let c = client(3);
            let ends = talk.begin(tcp(c, vip, SYN));
            talk.server("SYN-ACK", 0, tcp(ends.server, ends.local, SYN_ACK));
            talk.client("ACK", 0, tcp(c, vip, ACK));
            talk.client("RST", node, tcp(c, vip, RST));
            if node == 0 {
                both(&talk, Closed, Closed);
            } else {
                // Of numbers it has not seen it does not know which is exact.
                talk.client("RST", 0, tcp(c, vip, RST));
                both(&talk, Closed, Closed);
            }
            talk.wait(1_000);
            assert_eq!([talk.pair.owns(0), talk.pair.owns(1)], [(0, 0), (0, 0)]);
        }
        // The same client once more, with the same ports.
        talk.begin(tcp(client(1), vip, SYN));
    }
}

/// The client's part of the handshake comes to the owner before the other node's word of the SYN-ACK.
#[test]
fn a_client_is_quicker_than_the_word_of_its_syn_ack() {
    use TcpState::{Established, SynReceived, SynSent};
    for (ack, expected) in [(ISN + 1, Established), (ISN + 0x2_0000, SynReceived)] {
        for workers in [[1, 1], [2, 3]] {
            let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
            pair.lose = Box::new(|node, said| node == 1 && said.is_stream());
            let server = SocketAddr::new(Family::V4.server(11), 8080);
            let syn = pair.nodes[0].by_client(tcp(client(1), web(), SYN)).bytes();
            pair.inject(0, FRONT, &syn);
            let syn_ack = pair.nodes[1].by_server(11, tcp(server, client(1), SYN_ACK)).bytes();
            pair.inject(1, BACK, &syn_ack);
            let ack = pair.nodes[0].by_client(tcp(client(1), web(), ACK).ack(ack)).bytes();
            pair.inject(0, FRONT, &ack);
            // Nor does what follows say so.
            let data = tcp(client(1), web(), PSH_ACK).payload(b"GET /");
            let data = pair.nodes[0].by_client(data).bytes();
            pair.inject(0, FRONT, &data);
            let data = tcp(server, client(1), PSH_ACK).ack(ISN + 6).payload(b"HTTP");
            let data = pair.nodes[0].by_server(11, data).bytes();
            pair.inject(0, BACK, &data);
            let last = tcp(client(1), web(), ACK).seq(ISN + 6).ack(ISN + 5);
            let last = pair.nodes[0].by_client(last).bytes();
            pair.inject(0, FRONT, &last);
            assert_eq!(states(&pair, 0), [SynSent]);
            pair.heal();
            pair.pass(400, 10);
            assert_eq!((states(&pair, 0), states(&pair, 1)), (vec![expected], vec![expected]));
        }
    }
}

#[test]
fn the_owner_ends_a_session_and_says_so() {
    for workers in [[1, 1], [2, 3]] {
        for owner in 0..2 {
            let mut talk = Talk::new(workers, Wire::Own, owner, short(Mode::Nat));
            let first = udp(client(1), dns());
            talk.begin(first);
            let id = ServerId(2);
            let gone = Changes::none().session(id, false, -1);
            let own = gone.clone().add("expired", 1).add("sync.own_sessions", -1);
            let copy = gone.add("sync.foreign_sessions", -1);
            let changes = if owner == 0 { [own, copy] } else { [copy, own] };
            talk.pair.wait("it expires", 3_500, 10, changes);
            assert_eq!(talk.pair.told(owner, is_close), 1);
            assert_eq!(talk.pair.told(1 - owner, is_close), 0);
        }
    }
}

#[test]
fn a_copy_lives_as_long_as_its_owner_does_not_end_it() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
        ask(&mut pair, 0, 1);
        // Whatever the owner says of it now is lost; that it lives is heard.
        pair.lose = Box::new(|node, said| node == 0 && said.is_stream());
        for _ in 0..8 {
            pair.pass(1_000, 10);
            ask(&mut pair, 0, 1);
        }
        assert!(pair.has_peer(1));
        assert_eq!([pair.owns(0), pair.owns(1)], [(1, 0), (0, 1)]);
        pair.heal();
        pair.settle();
        pair.pass(2_500, 10);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
    }
}

#[test]
fn packets_that_only_the_other_node_sees_keep_a_session() {
    for workers in [[1, 1], [2, 3]] {
        for owner in 0..2 {
            let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
            ask(&mut pair, owner, 1);
            pair.begin();
            for _ in 0..20 {
                pair.pass(500, 10);
                ask(&mut pair, 1 - owner, 1);
            }
            assert_eq!(pair.owns(owner), (1, 0));
            assert_eq!(pair.owns(1 - owner), (0, 1));
            let touches = pair.told(1 - owner, is_touch);
            assert!((5..=15).contains(&touches), "{touches} in ten seconds");
            assert_eq!(pair.told(owner, is_close), 0);
            pair.pass(3_500, 10);
            assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
            assert_eq!(pair.told(owner, is_close), 1);
        }
    }
}

#[test]
fn who_survives_owns_all_and_ends_it() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
        let open = |pair: &mut Pair, node: usize, n: u16| {
            let bytes = pair.nodes[node].by_client(tcp(client(n), web(), SYN)).bytes();
            pair.inject(node, FRONT, &bytes);
            let server = SocketAddr::new(Family::V4.server(11), 8080);
            let bytes = pair.nodes[node].by_server(11, tcp(server, client(n), SYN_ACK)).bytes();
            pair.inject(node, crate::net::BACK, &bytes);
            let bytes = pair.nodes[node].by_client(tcp(client(n), web(), ACK)).bytes();
            pair.inject(node, FRONT, &bytes);
        };
        for n in 0..6 {
            open(&mut pair, usize::from(n % 2), n);
        }
        pair.pass(2, 1);
        assert_eq!([pair.owns(0), pair.owns(1)], [(3, 3), (3, 3)]);
        assert_eq!(states(&pair, 1), vec![TcpState::Established; 6]);
        pair.part();
        assert_eq!([pair.owns(0), pair.owns(1)], [(6, 0), (6, 0)]);
        // Whoever still has packets keeps its session, whose ever it was.
        for _ in 0..10 {
            pair.pass(500, 10);
            for n in [0, 1] {
                let packet = tcp(client(n), web(), PSH_ACK).payload(b"x");
                let bytes = pair.nodes[1].by_client(packet).bytes();
                pair.inject(1, FRONT, &bytes);
            }
        }
        pair.pass(2_000, 10);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (2, 0)]);
        pair.pass(8_000, 10);
        assert_eq!(pair.owns(1), (0, 0));
    }
}

/// FullNAT's ports are parted between the nodes, and stay so whoever lives.
#[test]
fn local_ports_of_the_other_node_are_not_given_out() {
    for workers in [[1, 1], [1, 2], [2, 3]] {
        let make = |workers| {
            let mut net = short(Mode::FullNat)(workers);
            net.snapshot.services[1].timeouts.udp = 60_000;
            net
        };
        let mut pair = Pair::new(workers, Wire::Own, make);
        let mut seen = HashSet::new();
        let open = |pair: &mut Pair, node: usize, n: u16| {
            pair.begin();
            ask(pair, node, n);
            pair.pass(1, 1);
            assert_eq!(pair.sent[node].len(), 1, "{n}");
            ends(&pair.sent[node][0].1).0
        };
        for n in 0..200 {
            assert!(seen.insert(open(&mut pair, usize::from(n % 2), n)), "{n}: used twice");
        }
        let used = |pair: &Pair, node: usize| -> usize {
            let workers = &pair.nodes[node].workers;
            workers.iter().map(|worker| worker.pipeline().local_ports(ServerId(2)).0).sum()
        };
        assert_eq!([used(&pair, 0), used(&pair, 1)], [100, 100], "each its own");
        // Node 0 is gone for a while; node 1 goes on with its own ports.
        pair.cut();
        pair.pass(DEAD_MS, 10);
        for n in 200..250 {
            assert!(seen.insert(open(&mut pair, 1, n)), "{n}: used twice");
        }
        // It comes back with nothing, and gets its sessions from node 1.
        pair.restart(0);
        pair.heal();
        pair.join();
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 250), (250, 0)]);
        assert_eq!([used(&pair, 0), used(&pair, 1)], [100, 150]);
        for n in 250..350 {
            assert!(seen.insert(open(&mut pair, usize::from(n % 2), n)), "{n}: used twice");
        }
        // What comes back finds its session on either.
        pair.begin();
        let server = SocketAddr::new(Family::V4.server(11), 5353);
        for (i, local) in seen.iter().enumerate() {
            let node = i % 2;
            let answer = |rig: &Rig| rig.by_server(11, udp(server, *local)).bytes();
            let bytes = answer(&pair.nodes[node]);
            pair.inject(node, crate::net::BACK, &bytes);
        }
        assert_eq!(pair.sent[0].len() + pair.sent[1].len(), 350);
        assert_eq!(
            [pair.sum(0, |c| c.sync.relayed.get()), pair.sum(1, |c| c.sync.relayed.get())],
            [0, 0]
        );
    }
}

/// A node that stops says so, and is heard to its last word.
#[test]
fn a_node_that_leaves_is_heard_until_it_is_silent() {
    let mut pair = Pair::new([2, 1], Wire::Own, short(Mode::Nat));
    ask(&mut pair, 0, 1);
    pair.nodes[0].command(|| shunt::worker::control::Command::Leave);
    pair.pass(5, 1);
    assert_eq!(pair.sum(1, |c| c.sync.peer_flags.get()) & 2, 2, "it has said so");
    assert!(pair.has_peer(1));
    assert_eq!(pair.owns(1), (0, 1));
    pair.part();
    assert!(!pair.has_peer(1));
}

/// After a parting every session was the other's at some time: it ends all the same, and not much later.
#[test]
fn what_was_the_others_ends_in_time() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
        for n in 0..10 {
            let node = usize::from(n % 2);
            let bytes = pair.nodes[node].by_client(tcp(client(n), web(), SYN)).bytes();
            pair.inject(node, FRONT, &bytes);
            let server = SocketAddr::new(Family::V4.server(11), 8080);
            let bytes = pair.nodes[node].by_server(11, tcp(server, client(n), SYN_ACK)).bytes();
            pair.inject(node, crate::net::BACK, &bytes);
            let bytes = pair.nodes[node].by_client(tcp(client(n), web(), ACK)).bytes();
            pair.inject(node, FRONT, &bytes);
        }
        pair.pass(2, 1);
        pair.part();
        pair.heal();
        pair.pass(200, 1);
        assert_eq!([pair.owns(0), pair.owns(1)], [(10, 0), (0, 10)]);
        // Half of the timeout more than else from when they told each other, and the time to ask.
        pair.pass(SHORT_TIMEOUTS.tcp_established / 2 * 3 + 1_000, 10);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
    }
}
