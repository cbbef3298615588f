//! What a node cannot do: it says so in a counter, and goes on.

use std::net::SocketAddr;

use shunt::session::{Mode, ServerId};
use shunt::sync::Flags;
use shunt::sync::record::Record;
use shunt::wire::DropReason::HandOffFull;
use shunt::worker::HAND_OFF_PACKETS;

use super::states::short;
use super::{Pair, Wire, is_session};
use crate::changes::Changes;
use crate::frames::{SYN, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net};

fn long(workers: usize) -> Net {
    let mut net = short(Mode::Nat)(workers);
    net.snapshot.services[1].timeouts.udp = 60_000;
    net
}

/// What a node says of itself, as the other one has heard it: whether it has all, and how many it lacks.
fn says(pair: &Pair, node: usize) -> (Flags, u64) {
    let sync = &pair.nodes[1 - node].counters[0].sync;
    (Flags(sync.peer_flags.get() as u8), sync.peer_lacking.get())
}

fn open(pair: &mut Pair, node: usize, n: u16) {
    let client = SocketAddr::new(Family::V4.client(), 40_000 + n);
    let vip = SocketAddr::new(Family::V4.vip(), 53);
    let bytes = pair.nodes[node].by_client(udp(client, vip)).bytes();
    pair.inject(node, FRONT, &bytes);
}

#[test]
fn without_a_frame_the_peer_asks_later() {
    for workers in [[1, 1], [2, 2]] {
        let mut pair = Pair::new(workers, Wire::Own, long);
        // Those it has at hand are used up by what it says anyway.
        for worker in &mut pair.nodes[0].workers {
            worker.io().most = Some(0);
        }
        for _ in 0..100 {
            pair.pass(50, 1);
            if pair.sum(0, |c| c.sync.send_failed.get()) > 2 {
                break;
            }
        }
        assert!(pair.sum(0, |c| c.sync.send_failed.get()) > 2);
        pair.begin();
        let failed = pair.sum(0, |c| c.sync.send_failed.get());
        open(&mut pair, 0, 1);
        assert_eq!(pair.sent[0].len(), 1, "the packet is forwarded all the same");
        assert!(pair.said[0].is_empty());
        assert_eq!(pair.sum(0, |c| c.sync.send_failed.get()), failed + 1);
        assert_eq!(pair.nodes[1].sessions(), 0);
        for worker in &mut pair.nodes[0].workers {
            worker.io().most = None;
        }
        pair.pass(400, 1);
        assert_eq!(pair.nodes[1].sessions(), 1);
        assert!(pair.sum(0, |c| c.sync.repeated.get()) > 0);
        pair.settle();
        assert_eq!([pair.owns(0), pair.owns(1)], [(1, 0), (0, 1)]);
    }
}

/// A node that stood still for more than a second says so, by one worker, and finds its way back.
#[test]
fn a_leap_of_the_clock_is_counted_once() {
    for workers in [[1, 1], [3, 2]] {
        for (leap, expected) in [(1_000, 0), (1_001, 1)] {
            let mut pair = Pair::new(workers, Wire::Own, long);
            let jumps =
                |pair: &Pair| [0, 1].map(|node| pair.sum(node, |c| c.sync.clock_jumps.get()));
            let node = &mut pair.nodes[0];
            node.now = node.now.wrapping_add(leap);
            node.settle();
            pair.carry();
            assert_eq!(jumps(&pair), [expected, 0], "{workers:?}, {leap} ms");
            pair.settle();
            assert!(pair.has_peer(0) && pair.has_peer(1));
            assert_eq!(jumps(&pair), [expected, 0], "{workers:?}, {leap} ms, later");
        }
    }
}

#[test]
fn a_full_table_refuses_copies_and_the_owner_goes_on() {
    let mut pair = Pair::with_sessions([1, 1], Wire::Own, 16, long);
    pair.join();
    for n in 0..16 {
        open(&mut pair, usize::from(n % 2), n);
    }
    pair.part();
    // Of these there is no copy, and no room for one.
    for node in 0..2u16 {
        pair.begin();
        open(&mut pair, usize::from(node), 100 + node);
        assert_eq!(pair.sent[usize::from(node)], [], "full");
    }
    let mut pair = Pair::with_sessions([1, 1], Wire::Own, 16, long);
    pair.part_at_once();
    // Until then each leaves new sessions to the other, if there is one.
    pair.pass(6_000, 20);
    for n in 0..20 {
        open(&mut pair, usize::from(n % 2), n);
    }
    pair.heal();
    pair.pass(3_000, 5);
    assert!(pair.has_peer(0) && pair.has_peer(1));
    for node in 0..2 {
        let (own, copies) = pair.owns(node);
        assert_eq!((own, copies), (10, 6), "node {node}");
        assert!(pair.sum(node, |c| c.sync.import_refused.get()) >= 4);
        // It has all that it can take, and says so on both sides.
        assert!(pair.is_settled(node) && !pair.is_synced(node));
        assert_eq!(pair.lacks(node), 4);
        assert_eq!(says(&pair, node), (Flags::LACKING, 4));
        assert_eq!(says(&pair, 1 - node), (Flags::LACKING, 4));
        // Its own work as before.
        for n in (0..20).filter(|n| usize::from(n % 2) == node) {
            pair.begin();
            open(&mut pair, node, n);
            assert_eq!(pair.sent[node].len(), 1);
        }
    }
    // When there is room again, what is missing comes.
    pair.pass(70_000, 20);
    assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
    open(&mut pair, 0, 1);
    pair.pass(2, 1);
    assert_eq!([pair.owns(0), pair.owns(1)], [(1, 0), (0, 1)]);
    pair.settle();
    assert_eq!([pair.lacks(0), pair.lacks(1)], [0, 0]);
    assert_eq!([says(&pair, 0), says(&pair, 1)], [(Flags::SYNCED, 0); 2]);
}

/// A node with a smaller table, and one without the server, has all that it can take. It does not ask all
/// the time for the rest: the peer would send all its sessions each time.
#[test]
fn what_cannot_be_taken_is_asked_for_ever_more_seldom() {
    fn longer(workers: usize) -> Net {
        let mut net = long(workers);
        net.snapshot.services[1].timeouts.udp = 600_000;
        net
    }
    const ALL: usize = 40;
    for workers in [[1, 1], [2, 1]] {
        for room in [Some(16), None] {
            let what = format!("{workers:?}, room for {room:?}");
            let mut pair = Pair::with_sessions(workers, Wire::Own, 64, longer);
            pair.join();
            for n in 0..ALL as u16 {
                open(&mut pair, 0, n);
            }
            pair.sessions = room.unwrap_or(64);
            pair.restart(1);
            if room.is_none() {
                pair.nodes[1].net.snapshot.servers[2].port = 5354;
                pair.nodes[1].reconfigure();
            }
            pair.join_until(Pair::is_settled);
            let taken = room.unwrap_or(0);
            assert_eq!(pair.nodes[1].sessions(), taken, "{what}");
            let refused = pair.sum(1, |c| c.sync.import_refused.get());
            let mut asked = Vec::new();
            for second in 0..240u32 {
                pair.begin();
                pair.pass(1_000, 20);
                assert!(pair.is_synced(0) && pair.is_settled(1), "{what}");
                // However often it has asked.
                assert_eq!(pair.lacks(1), (ALL - taken) as u64, "{what}");
                assert_eq!(says(&pair, 1), (Flags::LACKING, pair.lacks(1)), "{what}");
                let asks = pair.told(1, |record| matches!(record, Record::Want(_)));
                // Each worker of the peer is asked.
                asked.extend((asks > 0).then_some(second));
                assert!(asks == 0 || asks == workers[0] as i64, "{what}: {asks}");
            }
            let pauses: Vec<u32> = asked.windows(2).map(|two| two[1] - two[0]).collect();
            // Twice as long each time, up to a minute; a turn of time is 20 ms.
            assert_eq!(pauses.last(), Some(&60), "{what}: {asked:?}");
            assert!(pauses.iter().sum::<u32>() >= 150, "{what}: {asked:?}");
            let doubles = |two: &[u32]| two[1].abs_diff((2 * two[0]).min(60)) <= 4 || two[1] == 60;
            assert!(pauses.windows(2).all(doubles), "{what}: {asked:?}");
            let more = pair.sum(1, |c| c.sync.import_refused.get()) - refused;
            assert_eq!(more, (asked.len() * (ALL - taken)) as u64, "{what}");
            let (all, taken) = (ALL as u64, taken as u64);
            assert_eq!([pair.owns(0), pair.owns(1)], [(all, 0), (0, taken)], "{what}");
            if room.is_none() {
                // What a new configuration has is asked for at once.
                pair.nodes[1].net.snapshot.servers[2].port = 5353;
                pair.nodes[1].reconfigure();
                pair.pass(1_000, 5);
                assert_eq!([pair.owns(0), pair.owns(1)], [(all, 0), (0, all)], "{what}");
                assert!(pair.is_synced(1), "{what}");
                assert_eq!((pair.lacks(1), says(&pair, 1)), (0, (Flags::SYNCED, 0)), "{what}");
            }
        }
    }
}

/// A datagram of the peer's goes from worker to worker. Where the way is full it is lost to the rest, which
/// find out what they lack.
#[test]
fn records_that_do_not_get_to_all_workers_are_counted_and_sent_anew() {
    let client = |n: u16| SocketAddr::new(Family::V4.client(), 40_000 + n);
    let mut pair = Pair::new([1, 2], Wire::Own, long);
    let n = (0..).find(|n| pair.nodes[1].net.owner(client(*n)) == 1).unwrap();
    pair.lose = Box::new(|from, said| from == 0 && said.count(is_session) > 0);
    pair.begin();
    open(&mut pair, 0, n);
    let said = pair.said[0].iter().find(|said| said.count(is_session) > 0).unwrap().clone();
    pair.heal();

    // The second worker does not get a turn, and has as many packets before it as there may be.
    let rig = &mut pair.nodes[1];
    let nobodys = rig.by_client(udp(client(n), SocketAddr::new(Family::V4.vip(), 54))).bytes();
    for _ in 0..HAND_OFF_PACKETS {
        rig.workers[0].io().arrive(FRONT, &nobodys);
    }
    let now = rig.now;
    while rig.workers[0].poll(now) > 0 {}
    rig.changes();
    rig.workers[0].io().arrive(Wire::Own.port(), &said.frame);
    rig.workers[0].poll(now);
    let lost = Changes::none()
        .rx(Wire::Own.port(), &said.frame)
        .dropped(HandOffFull)
        .add("sync.records_lost", 1)
        .add("sync.received_datagrams", 1)
        .add("sync.received_records", said.records.len() as i64);
    assert_eq!(rig.changes(), lost);
    // A packet that is lost there is none of the peer's.
    rig.workers[0].io().arrive(FRONT, &nobodys);
    rig.workers[0].poll(now);
    assert_eq!(rig.changes(), Changes::none().rx(FRONT, &nobodys).dropped(HandOffFull));

    rig.settle();
    assert_eq!(rig.sessions(), 0);
    pair.settle();
    assert_eq!([pair.owns(0), pair.owns(1)], [(1, 0), (0, 1)]);
    assert_eq!(pair.sum(1, |c| c.sync.records_lost.get()), 1);
}

#[test]
fn a_server_that_the_peer_does_not_have_is_refused() {
    let mut pair = Pair::new([1, 1], Wire::Own, long);
    pair.nodes[1].net.snapshot.services[0].servers.remove(0);
    pair.nodes[1].net.snapshot.servers[0].port = 8081;
    pair.nodes[1].reconfigure();
    let client = SocketAddr::new(Family::V4.client(), 40_001);
    let packet = tcp(client, SocketAddr::new(Family::V4.vip(), 80), SYN);
    let bytes = pair.nodes[0].by_client(packet.clone()).bytes();
    let out = crate::frames::Packet {
        dst: SocketAddr::new(Family::V4.server(11), 8080),
        ttl: 63,
        ..packet.clone()
    };
    let out = pair.nodes[0].to_server(11, out).bytes();
    let own = Changes::none()
        .session(ServerId(0), false, 1)
        .forward(ServerId(0), &bytes)
        .tx(BACK, &out)
        .add("sync.own_sessions", 1);
    let other = Changes::none().add("sync.import_refused", 1);
    let expected = vec![(BACK, out)];
    pair.step("SYN", 0, (FRONT, &bytes), Some(client), &expected, [own, other]);
    // With the same configuration it is had at the next request.
    let snapshot = pair.nodes[0].net.snapshot.clone();
    pair.nodes[1].net.snapshot.services[0].servers = snapshot.services[0].servers.clone();
    pair.nodes[1].net.snapshot.servers[0].port = 8080;
    pair.nodes[1].reconfigure();
    let bytes = pair.nodes[0].by_client(packet).bytes();
    for _ in 0..4 {
        pair.pass(800, 1);
        pair.inject(0, FRONT, &bytes);
    }
    assert_eq!([pair.owns(0), pair.owns(1)], [(1, 0), (0, 1)]);
}
