//! What the two nodes say of what they have of each other: how many sessions of a node would break with it,
//! and how far the other one is.

use std::net::SocketAddr;
use std::sync::Arc;

use shunt::datapath::ha::{Channel, Ha};
use shunt::session::Mode;
use shunt::sync::record::Record;

use super::states::short;
use super::{Pair, Wire};
use crate::frames::udp;
use crate::net::{FRONT, Family, Net};

fn long(workers: usize) -> Net {
    let mut net = short(Mode::Nat)(workers);
    net.snapshot.services[1].timeouts.udp = 600_000;
    net
}

fn open(pair: &mut Pair, node: usize, n: u16) {
    let client = SocketAddr::new(Family::V4.client(), 1024 + 7 * n);
    let vip = SocketAddr::new(Family::V4.vip(), 53);
    let bytes = pair.nodes[node].by_client(udp(client, vip)).bytes();
    pair.inject(node, FRONT, &bytes);
}

/// How many sessions a node says the other does not know.
fn unprotected(pair: &Pair, node: usize) -> u64 {
    pair.sum(node, |c| c.sync.unprotected.get())
}

/// A node sends so many sessions in a second of a walk.
fn slow(pair: &mut Pair, node: usize, rate: u32) {
    let rig = &mut pair.nodes[node];
    let ha = rig.net.snapshot.ha.take().unwrap();
    let channel = Channel { rate, ..ha.channel };
    rig.net.snapshot.ha = Some(Arc::new(Ha { channel, ..Ha::clone(&ha) }));
    rig.reconfigure();
}

/// How far a node says it is: how many sessions have come, and how many there are.
fn progress(pair: &Pair, node: usize) -> (u64, u64) {
    let sum = |cell: fn(&shunt::datapath::sync_counters::SyncCounters) -> u64| {
        pair.sum(node, |c| cell(&c.sync))
    };
    (sum(|s| s.joining_imported.get()), sum(|s| s.joining_total.get()))
}

/// Without a peer nothing is protected. When it comes back with what it had, all is as soon as that is known.
#[test]
fn without_a_peer_no_session_is_protected() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, long);
        for n in 0..30 {
            open(&mut pair, usize::from(n % 3 == 0), n);
        }
        pair.settle();
        assert_eq!([pair.owns(0), pair.owns(1)], [(20, 10), (10, 20)]);
        assert_eq!([unprotected(&pair, 0), unprotected(&pair, 1)], [0, 0]);
        // What is lost of the stream counts before the peer does.
        pair.cut();
        open(&mut pair, 0, 100);
        pair.pass(200, 1);
        assert!(pair.has_peer(0));
        assert_eq!([unprotected(&pair, 0), unprotected(&pair, 1)], [1, 0]);
        pair.part();
        assert_eq!([unprotected(&pair, 0), unprotected(&pair, 1)], [31, 30], "{workers:?}");
        open(&mut pair, 0, 101);
        pair.pass(2, 1);
        assert_eq!(unprotected(&pair, 0), 32);
        pair.heal();
        pair.settle();
        assert_eq!(pair.owns(0).0 + pair.owns(1).0, 32);
        assert_eq!([unprotected(&pair, 0), unprotected(&pair, 1)], [0, 0]);
    }
}

/// The peer comes back with all that it had, and finds that before its request for all has come.
#[test]
fn a_peer_that_needs_no_walk_protects_what_it_has() {
    let mut pair = Pair::new([1, 1], Wire::Own, long);
    for n in 0..30 {
        open(&mut pair, 0, n);
    }
    pair.settle();
    // Node 0 alone hears nothing any more.
    pair.lose = Box::new(|node, _| node == 1);
    pair.pass(3_100, 10);
    assert!(!pair.has_peer(0) && pair.has_peer(1));
    assert_eq!(unprotected(&pair, 0), 30);
    pair.heal();
    pair.begin();
    pair.pass(1_000, 1);
    assert!(pair.has_peer(0));
    // As long as the peer may have said that of what was.
    assert_eq!(unprotected(&pair, 0), 30);
    pair.pass(2_500, 5);
    assert_eq!(pair.told(1, |record| matches!(record, Record::Want(_))), 0);
    assert_eq!([unprotected(&pair, 0), unprotected(&pair, 1)], [0, 0]);
    assert_eq!([pair.owns(0), pair.owns(1)], [(30, 0), (0, 30)]);
}

/// The sessions of a node that [`joining`] begins with.
const ALL: u64 = 400;

/// A node begins again beside one with [`ALL`] sessions, which tells it a thousand in a second.
fn joining(workers: [usize; 2]) -> Pair {
    let mut pair = Pair::new(workers, Wire::Own, long);
    for n in 0..ALL as u16 {
        open(&mut pair, 0, n);
    }
    slow(&mut pair, 0, 1_000);
    pair.restart(1);
    pair.begin();
    pair
}

/// While a walk is on, what it has not come to is not protected, and what has not been acknowledged: there
/// are never more copies missing than the owner says.
#[test]
fn what_a_joining_node_has_not_been_told_is_not_protected() {
    for workers in [[1, 1], [1, 2], [2, 1], [2, 3]] {
        let mut pair = joining(workers);
        let (mut between, mut before) = (0, ALL);
        for ms in 0..1_500u16 {
            // New ones are told when they begin, and in the walk.
            if ms % 16 == 0 && pair.has_peer(0) {
                open(&mut pair, 0, 1_000 + ms);
            }
            pair.pass(1, 1);
            let (own, copies) = (pair.owns(0).0, pair.nodes[1].sessions() as u64);
            let now = unprotected(&pair, 0);
            let peer = pair.has_peer(0);
            assert!(now + copies >= own, "{workers:?}, {ms}: {now} of {own}, {copies} copies");
            assert!(now <= before + 1 || !peer, "{workers:?}, {ms}: {now}, before {before}");
            before = now;
            between += u32::from(now > 1 && now < ALL);
        }
        assert!(between > 200, "{workers:?}: for {between} ms");
        pair.settle();
        assert_eq!((unprotected(&pair, 0), pair.owns(1)), (0, (0, pair.owns(0).0)), "{workers:?}");
    }
}

/// Of those that the peer could not take in it says how many there are.
#[test]
fn what_the_peer_could_not_take_in_is_not_protected() {
    for workers in [[1, 1], [2, 1], [1, 2]] {
        let mut pair = Pair::new(workers, Wire::Own, long);
        for n in 0..30 {
            open(&mut pair, 0, n);
        }
        pair.restart(1);
        pair.nodes[1].net.snapshot.servers[2].port = 5354;
        pair.nodes[1].reconfigure();
        pair.join_until(Pair::is_settled);
        // Asked for again and again.
        for second in 0..20 {
            pair.pass(1_000, 10);
            assert_eq!((pair.lacks(1), unprotected(&pair, 0)), (30, 30), "{second}");
        }
        pair.nodes[1].net.snapshot.servers[2].port = 5353;
        pair.nodes[1].reconfigure();
        pair.settle();
        pair.pass(200, 5);
        assert_eq!((pair.lacks(1), unprotected(&pair, 0)), (0, 0), "{workers:?}");
    }
}

/// Digests are compared behind a walk: until then a node that joins says how many sessions have come, of how
/// many.
#[test]
fn a_joining_node_says_how_far_it_is() {
    for workers in [[1, 1], [1, 2], [2, 1], [2, 3]] {
        let mut pair = joining(workers);
        let mut seen = Vec::new();
        for _ in 0..150 {
            pair.pass(10, 1);
            let (imported, total) = progress(&pair, 1);
            assert_eq!(progress(&pair, 0), (0, 0), "{workers:?}");
            if total == 0 {
                continue;
            }
            assert!(imported <= total && total <= ALL, "{workers:?}: {imported} of {total}");
            assert_eq!(imported, pair.nodes[1].sessions() as u64, "{workers:?}");
            assert!(!pair.is_synced(1), "{workers:?}: then there is nothing to say");
            seen.push((imported, total));
        }
        assert!(seen.len() > 20 && seen.is_sorted(), "{workers:?}: {seen:?}");
        assert_eq!(seen.last().unwrap().1, ALL, "{workers:?}: {seen:?}");
        if workers[1] == 1 {
            assert!(seen.iter().all(|(_, total)| *total == ALL), "{workers:?}: {seen:?}");
        }
        pair.settle();
        assert_eq!(progress(&pair, 1), (0, 0), "{workers:?}");
        // A repetition of what was refused or differed is no join.
        open(&mut pair, 0, 1_000);
        pair.settle();
        assert_eq!(progress(&pair, 1), (0, 0), "{workers:?}");
    }
}
