//! What is lost on the wire is asked for; what cannot be had any more is sent anew.

use std::net::SocketAddr;

use shunt::session::Mode;
use shunt::sync::record::Record;

use super::states::short;
use super::{Pair, Wire, is_close, is_session};
use crate::frames::udp;
use crate::net::{FRONT, Family, Net};

fn open(pair: &mut Pair, node: usize, n: u16) {
    let client = SocketAddr::new(Family::V4.client(), 1024 + n);
    let vip = SocketAddr::new(Family::V4.vip(), 53);
    let bytes = pair.nodes[node].by_client(udp(client, vip)).bytes();
    pair.inject(node, FRONT, &bytes);
}

fn long(workers: usize) -> Net {
    let mut net = short(Mode::FullNat)(workers);
    net.snapshot.services[1].timeouts.udp = 8_000;
    net
}

fn asks(record: &Record) -> bool {
    matches!(record, Record::Nak(_))
}
fn wants(record: &Record) -> bool {
    matches!(record, Record::Want(_))
}

#[test]
fn one_lost_datagram_is_repeated() {
    for workers in [[1, 1], [1, 2], [2, 1], [2, 3]] {
        for node in 0..2 {
            let mut pair = Pair::new(workers, Wire::Own, long);
            // In the middle: the next one shows that it is missing.
            let mut lost = false;
            pair.lose = Box::new(move |from, said| {
                from == node && said.count(is_session) > 0 && !std::mem::replace(&mut lost, true)
            });
            open(&mut pair, node, 1);
            assert_eq!(pair.nodes[1 - node].sessions(), 0);
            pair.pass(600, 1);
            assert_eq!(pair.nodes[1 - node].sessions(), 1);
            assert_eq!(pair.sum(node, |c| c.sync.repeated.get()), 1);
            assert_eq!(pair.sum(1 - node, |c| c.sync.missed.get()), 1);
            assert_eq!(pair.sum(1 - node, |c| c.sync.imported.get()), 1);
            assert!(pair.told(1 - node, asks) >= 1);
            // Nothing is left over, and nothing was sent anew.
            assert_eq!(pair.sum(node, |c| c.sync.lag.get()), 0);
            assert_eq!(pair.sum(node, |c| c.sync.unprotected.get()), 0);
            assert_eq!(pair.told(0, wants) + pair.told(1, wants), 0);
            assert_eq!(pair.sum(1 - node, |c| c.sync.replayed.get()), 0);
            pair.settle();
        }
    }
}

#[test]
fn half_of_all_datagrams_may_be_lost() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, long);
        let mut random = 0x9e37_79b9_u32;
        pair.lose = Box::new(move |_, _| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 31 == 0
        });
        for n in 0..100 {
            open(&mut pair, usize::from(n % 2), n);
            pair.pass(3, 1);
        }
        pair.pass(1_500, 1);
        let copies = [pair.owns(0).1, pair.owns(1).1];
        assert!(copies.iter().all(|copies| *copies > 45), "{copies:?} in spite of the loss");
        pair.heal();
        pair.settle();
        assert_eq!([pair.owns(0), pair.owns(1)], [(50, 50), (50, 50)]);
        pair.pass(12_000, 10);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
    }
}

#[test]
fn what_is_not_kept_any_more_is_sent_anew() {
    for workers in [[1, 1], [1, 2]] {
        let mut pair = Pair::with_sessions(workers, Wire::Own, 3000, long);
        pair.join();
        // These are known, and end while nothing is heard.
        for n in 0..20 {
            open(&mut pair, 0, n);
        }
        pair.pass(2, 1);
        assert_eq!(pair.owns(1), (0, 20));
        pair.lose = Box::new(|node, said| node == 0 && said.is_stream());
        pair.pass(9_000, 10);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 20)]);
        pair.begin();
        for n in 0..1_200 {
            open(&mut pair, 0, 100 + n);
        }
        assert!(pair.sum(0, |c| c.sync.unprotected.get()) == 0 || pair.owns(1) == (0, 20));
        pair.begin();
        pair.heal();
        pair.settle();
        assert_eq!([pair.owns(0), pair.owns(1)], [(1_200, 0), (0, 1_200)]);
        assert!(pair.told(0, |record| matches!(record, Record::Gone(_))) > 0);
        assert!(pair.told(1, wants) > 0);
        assert_eq!(pair.told(0, is_close), 0);
        assert_eq!(pair.sum(1, |c| c.sync.replayed.get()), 0);
        pair.pass(12_000, 10);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
    }
}

/// The end of a session comes before the word of its beginning: the copy is found out.
#[test]
fn a_session_that_comes_after_its_end_does_not_stay() {
    let mut pair = Pair::new([1, 1], Wire::Own, |workers| {
        let mut net = long(workers);
        net.snapshot.services[1].timeouts.udp = 300;
        net
    });
    let mut lost = false;
    let mut asked = 0;
    pair.lose = Box::new(move |from, said| {
        if from == 0 && said.count(is_session) > 0 && !said.header.repeated {
            return !std::mem::replace(&mut lost, true);
        }
        asked += i32::from(from == 1 && said.count(asks) > 0);
        from == 1 && said.count(asks) > 0 && asked < 8
    });
    open(&mut pair, 0, 1);
    pair.pass(4_000, 1);
    assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
    pair.settle();
}

/// The owner of all sessions restarts before its peer has found it dead: what the peer said of its own
/// sessions while it still took the copies for the other's says nothing to the new start.
#[test]
fn a_node_that_begins_again_is_not_synced_before_it_is_known() {
    let mut pair = Pair::new([1, 1], Wire::Own, |workers| {
        let mut net = long(workers);
        net.snapshot.services[1].timeouts.udp = 3_600_000;
        net
    });
    for n in 0..100 {
        open(&mut pair, 0, 7 * n);
    }
    pair.pass(1_000, 5);
    assert_eq!([pair.owns(0), pair.owns(1)], [(100, 0), (0, 100)]);
    let (mut owner, mut wrong) = (0, Vec::new());
    for round in 0..60u32 {
        pair.pass(1 + 9 * round, 1);
        pair.restart(owner);
        // The first hello of the new start is heard before one of the other node.
        let (mut spoke, new) = (false, owner);
        pair.lose = Box::new(move |from, said| {
            spoke |= from == new;
            !spoke && said.header.kind == shunt::sync::datagram::Kind::Control
        });
        for ms in 0..3_000u32 {
            pair.pass(1, 1);
            if pair.is_synced(owner) {
                let has = pair.nodes[owner].sessions();
                if has != 100 {
                    let mut back = 0;
                    while pair.nodes[owner].sessions() != 100 && back < 5000 {
                        pair.pass(1, 1);
                        back += 1;
                    }
                    wrong.push((round, owner, ms, has, back));
                }
                break;
            }
        }
        pair.heal();
        pair.settle();
        owner = 1 - owner;
    }
    assert!(
        wrong.is_empty(),
        "synced without the sessions (round, node, ms, has, complete after): {wrong:?}"
    );
}
