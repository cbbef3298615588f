//! How sessions end on two nodes: by time, with their server, when they are in doubt, and when the same
//! endpoints begin anew. Only the owner ends a session, and only it speaks to the ends.

use std::net::SocketAddr;

use shunt::datapath::policy::OnServerDown;
use shunt::session::{Mode, ServerId, TcpState};
use shunt::sync::record::Record;

use super::states::{short, states};
use super::talk::Talk;
use super::{DEAD_MS, Pair, Wire, by_port, is_close, is_session, is_touch};
use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, RST, SYN, SYN_ACK, tcp};
use crate::net::{BACK, FRONT, Family, Net};
use crate::rig::{Rig, Sent, hex};

const WORKERS: [[usize; 2]; 2] = [[1, 1], [2, 3]];
const WEB: ServerId = ServerId(0);

fn client() -> SocketAddr {
    SocketAddr::new(Family::V4.client(), 40_001)
}

fn vip() -> SocketAddr {
    SocketAddr::new(Family::V4.vip(), 80)
}

fn server() -> SocketAddr {
    SocketAddr::new(Family::V4.server(11), 8080)
}

/// A service that tells both ends when it ends a session, and ends those of a server that is down.
fn strict(workers: usize) -> Net {
    let mut net = short(Mode::Nat)(workers);
    let policy = &mut net.snapshot.services[0].policy;
    (policy.reset_on_expiry, policy.on_server_down) = (true, OnServerDown::End);
    net
}

/// A handshake that a node sees all of.
fn connect(pair: &mut Pair, node: usize) {
    let rig = &pair.nodes[node];
    let frames = [
        (FRONT, rig.by_client(tcp(client(), vip(), SYN)).bytes()),
        (BACK, rig.by_server(11, tcp(server(), client(), SYN_ACK)).bytes()),
        (FRONT, rig.by_client(tcp(client(), vip(), ACK)).bytes()),
    ];
    for (port, bytes) in frames {
        pair.inject(node, port, &bytes);
    }
    pair.pass(2, 1);
    assert_eq!([pair.owns(node), pair.owns(1 - node)], [(1, 0), (0, 1)]);
    pair.begin();
}

/// What a node sends when it ends that connection.
fn resets(rig: &Rig) -> Sent {
    let packet = |src, dst| tcp(src, dst, RST | ACK).seq(ISN + 1).ack(ISN + 1).window(0);
    vec![
        (FRONT, rig.to_client(packet(vip(), client())).bytes()),
        (BACK, rig.to_server(11, packet(client(), server())).bytes()),
    ]
}

fn ended_with(resets: &Sent) -> Changes {
    let changes = Changes::none().session(WEB, false, -1).add("resets", 2);
    resets.iter().fold(changes, |changes, (port, bytes)| changes.originated(*port, bytes))
}

/// The copy is idle for more than twice as long as a session may be, and the word of its end is lost.
#[test]
fn only_the_owner_resets_a_connection_whose_time_is_over() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, strict);
            connect(&mut pair, owner);
            // That the owner lives is heard.
            pair.lose = Box::new(move |node, said| node == owner && said.is_stream());
            for _ in 0..9 {
                pair.pass(1_000, 10);
                // Nobody reads what they tell the management thread.
                (0..2).for_each(|node| drop(pair.nodes[node].events()));
            }
            let frames = resets(&pair.nodes[owner]);
            assert_eq!(hex(&by_port(&pair.sent[owner])), hex(&frames), "{workers:?} {owner}");
            assert_eq!(hex(&pair.sent[other]), hex(&[]), "{workers:?} {owner}");
            let ended = ended_with(&frames).add("expired", 1);
            assert_eq!(pair.unexplained(owner).without("sync."), ended);
            assert_eq!(pair.unexplained(other).without("sync."), Changes::none());
            assert_eq!([pair.owns(owner), pair.owns(other)], [(0, 0), (0, 1)]);
            let first = pair.said[owner].iter().filter(|said| !said.header.repeated);
            assert_eq!(first.map(|said| said.count(is_close)).sum::<i64>(), 1);
            assert_eq!(pair.told(other, is_close), 0);
            pair.heal();
            pair.begin();
            pair.settle();
            assert_eq!([pair.owns(owner), pair.owns(other)], [(0, 0), (0, 0)]);
            assert_eq!(hex(&pair.sent[other]), hex(&[]), "{workers:?} {owner}");
        }
    }
}

/// A segment of the client that says nothing new passes through a node.
fn pass_through(pair: &mut Pair, node: usize) {
    let bytes = pair.nodes[node].by_client(tcp(client(), vip(), ACK)).bytes();
    pair.inject(node, FRONT, &bytes);
}

/// The packets pass through the other node, whose words of that are lost: the owner lets the session expire,
/// and it goes on as the other node's.
#[test]
fn what_lives_elsewhere_outlives_its_owners_patience() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
            connect(&mut pair, owner);
            // That it is there is heard.
            pair.lose = Box::new(move |node, said| node == other && said.is_stream());
            for _ in 0..5 {
                pair.pass(1_000, 10);
                pass_through(&mut pair, other);
            }
            assert_eq!([pair.owns(owner), pair.owns(other)], [(0, 0), (1, 0)], "{workers:?}");
            assert_eq!((pair.told(owner, is_close), pair.told(other, is_close)), (1, 0));
            pair.heal();
            pair.settle();
            assert_eq!([pair.owns(owner), pair.owns(other)], [(0, 1), (1, 0)], "{workers:?}");
            for node in 0..2 {
                assert_eq!(states(&pair, node), [TcpState::Established]);
                assert_eq!(pair.sum(node, |c| c.sync.conflicts.get()), 0);
            }
            pair.pass(6_000, 10);
            assert_eq!([pair.owns(owner), pair.owns(other)], [(0, 0), (0, 0)]);
        }
    }
}

/// While nothing at all is heard of the peer, nobody knows whether a session lives: it does not end, and
/// neither end hears of it.
#[test]
fn nothing_expires_while_the_peer_is_silent() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, strict);
            connect(&mut pair, owner);
            pair.pass(3_500, 10);
            pair.begin();
            pair.cut();
            pass_through(&mut pair, other);
            // Its time is over after half a second of these.
            pair.pass(2_500, 10);
            assert!(pair.has_peer(owner));
            assert_eq!([pair.owns(owner), pair.owns(other)], [(1, 0), (0, 1)], "{workers:?}");
            assert_eq!(hex(&pair.sent[owner]), hex(&[]), "{workers:?} {owner}");
            pair.heal();
            pair.pass(1_000, 5);
            assert_eq!([pair.owns(owner), pair.owns(other)], [(1, 0), (0, 1)], "{workers:?}");
            assert_eq!(hex(&pair.sent[owner]), hex(&[]), "{workers:?} {owner}");
            // It ends all the same; words that come late make it live as much longer.
            pair.pass(6_000, 10);
            assert_eq!(hex(&by_port(&pair.sent[owner])), hex(&resets(&pair.nodes[owner])));
            assert_eq!([pair.owns(owner), pair.owns(other)], [(0, 0), (0, 0)], "{workers:?}");
        }
    }
}

fn find_down(pair: &mut Pair, node: usize) {
    pair.nodes[node].net.snapshot.servers[0].up = false;
    pair.nodes[node].reconfigure();
}

/// One node cannot reach the server, the one that owns the session can.
#[test]
fn a_server_that_is_down_ends_no_copies() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, strict);
            connect(&mut pair, owner);
            find_down(&mut pair, other);
            pair.pass(200, 1);
            for node in 0..2 {
                assert_eq!(hex(&pair.sent[node]), hex(&[]), "{workers:?} {owner}: {node}");
                assert_eq!(pair.unexplained(node), Changes::none(), "{workers:?} {owner}: {node}");
            }
            assert_eq!(states(&pair, other), [TcpState::Established]);

            pair.begin();
            find_down(&mut pair, owner);
            pair.pass(200, 1);
            let frames = resets(&pair.nodes[owner]);
            assert_eq!(hex(&by_port(&pair.sent[owner])), hex(&frames), "{workers:?} {owner}");
            assert_eq!(hex(&pair.sent[other]), hex(&[]), "{workers:?} {owner}");
            let own = ended_with(&frames).add("ended_with_server", 1).add("sync.own_sessions", -1);
            assert_eq!(pair.unexplained(owner), own);
            let copy = Changes::none().session(WEB, false, -1).add("sync.foreign_sessions", -1);
            assert_eq!(pair.unexplained(other), copy);
        }
    }
}

/// With its owner gone the session is this node's to end. Neither end hears of it: the owner perhaps
/// forwarded packets of it up to the last moment, of which this node does not know the numbers.
#[test]
fn what_was_the_others_goes_with_its_server() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, strict);
            connect(&mut pair, owner);
            find_down(&mut pair, other);
            pair.cut();
            pair.pass(DEAD_MS, 10);
            assert!(!pair.has_peer(other));
            let ended = Changes::none().session(WEB, false, -1).add("ended_with_server", 1);
            assert_eq!(pair.unexplained(other).without("sync."), ended);
            assert_eq!(hex(&pair.sent[other]), hex(&[]));
            assert_eq!(pair.owns(owner), (1, 0), "it goes on where its server is up");
        }
    }
}

/// A reset in the window that is not the next number: perhaps forged. The segment that shows it is passes
/// through the other node.
#[test]
fn who_has_seen_more_settles_a_doubt() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
            connect(&mut pair, owner);
            let reset = pair.nodes[owner].by_client(tcp(client(), vip(), RST).seq(ISN + 500));
            pair.inject(owner, FRONT, &reset.bytes());
            assert_eq!(states(&pair, owner), [TcpState::Contested]);
            pair.pass(10, 1);
            let alive = pair.nodes[other].by_client(tcp(client(), vip(), ACK));
            pair.inject(other, FRONT, &alive.bytes());
            pair.begin();
            pair.pass(1_000, 1);
            let touched = |node: usize| -> Vec<TcpState> {
                let records = pair.said[node].iter().flat_map(|said| &said.records);
                let state = |record: &Record| match record {
                    Record::TouchV4(touch) => Some(touch.state),
                    _ => None,
                };
                records.filter_map(state).collect()
            };
            assert_eq!(touched(owner), [TcpState::Contested], "it asks once");
            assert_eq!(touched(other), [TcpState::Established], "and is answered");
            for node in 0..2 {
                assert_eq!(hex(&pair.sent[node]), hex(&[]), "{workers:?} {owner}: {node}");
                assert_eq!(pair.unexplained(node), Changes::none(), "{workers:?} {owner}: {node}");
                assert_eq!(states(&pair, node), [TcpState::Established]);
            }
            // It has its full time again.
            pair.pass(2_500, 10);
            assert_eq!([pair.owns(owner), pair.owns(other)], [(1, 0), (0, 1)]);
        }
    }
}

/// The other node has seen nothing either: the end is asked, by the owner.
#[test]
fn in_doubt_the_owner_asks_the_end_when_the_other_node_knows_nothing() {
    for workers in WORKERS {
        for owner in 0..2 {
            let other = 1 - owner;
            let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
            connect(&mut pair, owner);
            let reset = pair.nodes[owner].by_client(tcp(client(), vip(), RST).seq(ISN + 500));
            pair.inject(owner, FRONT, &reset.bytes());
            pair.begin();
            pair.pass(2_500, 1);
            let question = tcp(vip(), client(), ACK).seq(ISN).window(512);
            let question = pair.nodes[owner].to_client(question).bytes();
            let asked = Changes::none().originated(FRONT, &question);
            assert_eq!(hex(&pair.sent[owner]), hex(&[(FRONT, question)]), "{workers:?} {owner}");
            assert_eq!(hex(&pair.sent[other]), hex(&[]), "{workers:?} {owner}");
            assert_eq!(pair.unexplained(owner), asked);
            assert_eq!(pair.unexplained(other), Changes::none());
            assert!(pair.told(owner, is_touch) > 0);
            assert_eq!(pair.told(other, is_touch), 0);
        }
    }
}

/// The incarnations that a node tells of in this step, in their order: ended or there.
fn told(pair: &Pair, node: usize) -> Vec<(bool, u32)> {
    let records = pair.said[node].iter().flat_map(|said| &said.records);
    let incarnation = |record: &Record| match record {
        Record::CloseV4(close) => Some((true, close.born)),
        Record::SessionV4(session) => Some((false, session.born)),
        _ => None,
    };
    records.filter_map(incarnation).collect()
}

/// The client uses its port again with a number that says nothing; the server, which knows nothing of the
/// old connection, accepts it. Node 0 has made the session, either node sees it begin anew.
#[test]
fn a_session_that_begins_anew_is_another_on_both_nodes() {
    const AGAIN: u32 = ISN - 0x1000;
    for mode in [Mode::Nat, Mode::FullNat] {
        for workers in WORKERS {
            for node in 0..2 {
                let mut talk = Talk::new(workers, Wire::Own, 0, short(mode));
                let both = |talk: &Talk, state| {
                    assert_eq!(states(&talk.pair, 0), [state], "{mode:?} {workers:?} {node}");
                    assert_eq!(states(&talk.pair, 1), [state], "{mode:?} {workers:?} {node}");
                };
                let ends = talk.begin(tcp(client(), vip(), SYN));
                let born = told(&talk.pair, 0)[0].1;
                let c = |flags| tcp(client(), vip(), flags);
                let s = |flags| tcp(ends.server, ends.local, flags);
                talk.server("SYN-ACK", 0, s(SYN_ACK));
                talk.client("ACK", 0, c(ACK));
                talk.client("FIN", 0, c(FIN_ACK));
                talk.server("FIN", 0, s(FIN_ACK).ack(ISN + 2));
                talk.client("the last ACK", 0, c(ACK).seq(ISN + 2).ack(ISN + 2));
                both(&talk, TcpState::TimeWait);

                talk.client("SYN again", node, c(SYN).seq(AGAIN));
                both(&talk, TcpState::TimeWait);
                let syn_ack = s(SYN_ACK).ack(AGAIN + 1);
                let make = move |rig: &Rig| rig.by_server(11, syn_ack.clone()).bytes();
                let copied = Changes::none()
                    .add("server0.created", 1)
                    .add("server0.ended", 1)
                    .add("sync.imported", 1);
                // Whose it was knows of two for a moment; the one that is over gives way.
                let (own, other) = match node {
                    0 => (Changes::none(), copied),
                    _ => (
                        Changes::none()
                            .add("sync.own_sessions", 1)
                            .add("sync.foreign_sessions", -1),
                        copied
                            .add("sync.conflicts", 1)
                            .add("sync.own_sessions", -1)
                            .add("sync.foreign_sessions", 1),
                    ),
                };
                talk.send("SYN-ACK", node, BACK, ends.local, make, [own, other]);
                both(&talk, TcpState::SynReceived);
                let ended = (true, born);
                match node {
                    0 => {
                        let records = told(&talk.pair, 0);
                        assert_eq!((records.len(), records[0]), (2, ended));
                        assert!(!records[1].0 && records[1].1 != born, "another incarnation");
                    }
                    _ => {
                        assert_eq!(told(&talk.pair, 0), [ended]);
                        assert_eq!(talk.pair.told(1, is_session), 1);
                        assert_ne!(told(&talk.pair, 1), [(false, born)]);
                    }
                }
                let c = |flags| tcp(client(), vip(), flags).seq(AGAIN + 1);
                talk.client("ACK", 1 - node, c(ACK));
                both(&talk, TcpState::Established);
                talk.client("request", node, c(PSH_ACK).payload(b"GET /"));
                talk.server("response", 1 - node, s(PSH_ACK).ack(AGAIN + 6).payload(b"200 OK"));
                // It outlives the old one.
                talk.wait(1_500);
                both(&talk, TcpState::Established);
                talk.pair.settle();
                let owns = [talk.pair.owns(node), talk.pair.owns(1 - node)];
                assert_eq!(owns, [(1, 0), (0, 1)], "{mode:?} {workers:?}");
            }
        }
    }
}
