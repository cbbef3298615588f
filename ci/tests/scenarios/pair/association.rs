//! Two nodes find each other, and nobody else has anything to say.

use std::net::SocketAddr;

use shunt::session::Mode;
use shunt::sync::control::{Flags, Hello};
use shunt::sync::datagram::{Header, Kind, SERVING};
use shunt::sync::keys::Keys;
use shunt::sync::record::{Emit, Record};
use shunt::sync::{VersionText, Want};
use shunt::wire::DropReason::SyncRefused;

use super::states::short;
use super::{BOOTS, Pair, Said, Wire, forged, is_session, keys};
use crate::changes::Changes;
use crate::frames::{mend_ipv4_checksum, udp};
use crate::net::{FRONT, Family};

/// A process that is not in the pair.
const STRANGER: u64 = 0x5742_a46e_0000_0001;

fn refused(counter: &str) -> Changes {
    Changes::none().dropped(SyncRefused).add(format!("sync.{counter}"), 1)
}

fn header(kind: Kind, node: u8, boot: u64, sequence: u64) -> Header {
    Header { kind, node, worker: 0, to: SERVING, repeated: false, boot, sequence }
}

fn bytes(record: &impl Emit) -> Vec<u8> {
    let mut bytes = vec![0; record.length()];
    record.emit(&mut bytes);
    bytes
}

fn hello(challenge: u64, echo: u64, peer_boot: u64) -> Vec<u8> {
    bytes(&Hello {
        challenge,
        echo,
        peer_boot,
        workers: 1,
        flags: Flags::default(),
        stream: 0,
        config: 0xc0f1,
        version: VersionText::new("1.2.3"),
        lacking: 0,
    })
}

fn open(pair: &mut Pair, node: usize, n: u16) {
    let client = SocketAddr::new(Family::V4.client(), 40_000 + n);
    let vip = SocketAddr::new(Family::V4.vip(), 53);
    let bytes = pair.nodes[node].by_client(udp(client, vip)).bytes();
    pair.inject(node, FRONT, &bytes);
}

#[test]
fn two_nodes_find_each_other() {
    for wire in Wire::ALL {
        for workers in [[1, 1], [1, 2], [2, 1], [2, 3], [4, 3]] {
            let mut pair = Pair::apart(workers, wire, short(Mode::Nat));
            pair.pass(150, 1);
            assert!(pair.has_peer(0) && pair.has_peer(1), "{wire:?} {workers:?}");
            pair.join();
            for node in 0..2 {
                let what = format!("{wire:?} {workers:?}, node {node}");
                let one = &pair.nodes[node].counters[0].sync;
                assert_eq!(one.peer_boot.get(), BOOTS[1 - node], "{what}");
                assert_eq!(one.peer_workers.get(), workers[1 - node] as u64, "{what}");
                assert_eq!(one.peer_config.get(), 0xc0f1, "{what}");
                assert_eq!(one.peer_version[0].get().to_be_bytes(), *b"1.2.3\0\0\0", "{what}");
                assert_eq!(one.peer_flags.get(), 1, "{what}: in sync");
                for (name, n) in [
                    ("bad_mac", pair.sum(node, |c| c.sync.bad_mac.get())),
                    ("replayed", pair.sum(node, |c| c.sync.replayed.get())),
                    ("malformed", pair.sum(node, |c| c.sync.malformed.get())),
                    ("missed", pair.sum(node, |c| c.sync.missed.get())),
                    ("mismatches", pair.sum(node, |c| c.sync.digest_mismatches.get())),
                    ("duplicates", pair.sum(node, |c| c.sync.duplicate_node.get())),
                    ("lag", pair.sum(node, |c| c.sync.lag.get())),
                ] {
                    assert_eq!(n, 0, "{what}: {name}");
                }
            }
            // From now on everything that happens is explained by what is said.
            pair.wait("nothing happens", 3_000, 1, [Changes::none(), Changes::none()]);
            assert_eq!(pair.told(0, is_session), 0);
        }
    }
}

#[test]
fn what_is_not_of_the_peer_is_counted_and_nothing_else() {
    for wire in [Wire::Front, Wire::Own, Wire::OwnV6] {
        let mut pair = Pair::new([1, 1], wire, short(Mode::Nat));
        pair.begin();
        open(&mut pair, 1, 1);
        pair.pass(150, 1);
        let session = pair.said[1].iter().find(|said| said.count(is_session) > 0).unwrap().clone();
        let is_hello = |said: &&Said| said.count(|r| matches!(r, Record::Hello(_))) > 0;
        let greeting = pair.said[1].iter().find(is_hello).unwrap().clone();
        let own = pair.said[0].iter().find(is_hello).unwrap().clone();
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 1), (1, 0)]);
        let port = wire.port();
        let start = if wire == Wire::OwnV6 { 62 } else { 42 };
        let mut step = |what: &str, frame: &[u8], changes: Changes| {
            pair.step(what, 0, (port, frame), None, &vec![], [changes, Changes::none()]);
        };

        let other = Keys::parse(&super::KEY.chars().rev().collect::<String>()).unwrap();
        let next = header(Kind::Control, 1, BOOTS[1], 1_000_000);
        let want = bytes(&Want(u128::MAX));
        step("another key", &forged(wire, 1, &next, &want, &other), refused("bad_mac"));
        let mut frame = forged(wire, 1, &next, &want, &keys());
        *frame.last_mut().unwrap() ^= 1;
        step("a wrong MAC", &frame, refused("bad_mac"));
        let mut frame = session.frame.clone();
        frame[start + 2] = 2;
        step("another version", &frame, refused("wrong_version"));
        let mut frame = session.frame.clone();
        frame[start] = b'X';
        step("something else", &frame, refused("malformed"));

        let twin = header(Kind::Control, 0, STRANGER, 1);
        let frame = forged(wire, 1, &twin, &hello(1, 0, 0), &keys());
        step("this node's id", &frame, refused("duplicate_node"));
        let dropped = Changes::none().dropped(SyncRefused);
        step("our own, come back", &own.frame, dropped);
        step("a stream again", &session.frame, refused("replayed"));
        step("a hello again", &greeting.frame, refused("replayed"));
        let old = header(Kind::Control, 1, BOOTS[1], 0);
        step("too old", &forged(wire, 1, &old, &want, &keys()), refused("replayed"));

        // Of a node that may be the peer's next start, but has not proved it.
        let stream = header(Kind::Stream, 1, STRANGER, 1);
        let mut record = session.frame[start + 48..].to_vec();
        record[2] ^= 1;
        step("a strange stream", &forged(wire, 1, &stream, &record, &keys()), refused("unproven"));
        let control = header(Kind::Control, 1, STRANGER, 1);
        // A hello answers it, which `step` has accounted for.
        let frame = forged(wire, 1, &control, &hello(1, 0x1234, BOOTS[0]), &keys());
        step("an unproven hello", &frame, refused("unproven"));
        let worker = Header { worker: 200, ..header(Kind::Stream, 1, BOOTS[1], 1) };
        step("no such worker", &forged(wire, 1, &worker, &record, &keys()), refused("malformed"));

        // Cut short, the lengths right.
        for (what, length, counter) in
            [("before the header ends", 47, "malformed"), ("in a record", 60, "bad_mac")]
        {
            let datagram = &session.frame[start..start + length];
            let from = super::mac(1, port);
            let to: [u8; 6] = session.frame[..6].try_into().unwrap();
            let (src, dst) = (wire.address(1), wire.group());
            let frame = super::datagram_frame(from, to, src, dst, datagram);
            step(what, &frame, refused(counter));
        }
        let other_version = pair.nodes[0].counters[0].sync.other_version.get();
        assert_eq!(other_version, 2);
        // Whatever was tried: the peer is there and its session as well.
        assert!(pair.has_peer(0));
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 1), (1, 0)]);
        pair.settle();
    }
}

/// Frames that are not of the channel although they look like it go where they went before.
#[test]
fn other_groups_and_ports_are_not_the_channels() {
    let mut pair = Pair::new([1, 1], Wire::Own, short(Mode::Nat));
    pair.begin();
    pair.pass(150, 1);
    let said = pair.said[1][0].clone();
    let port = Wire::Own.port();
    let mut other_group = said.frame.clone();
    other_group[33] ^= 1;
    mend_ipv4_checksum(&mut other_group);
    let mut other_port = said.frame.clone();
    other_port[37] ^= 1;
    for frame in [other_group, other_port] {
        pair.begin();
        pair.nodes[0].changes();
        pair.inject(0, port, &frame);
        let changes = pair.nodes[0].changes();
        assert_eq!(changes.0.get("sync.received_datagrams"), None, "{changes:?}");
        assert_eq!(changes.0.iter().filter(|(name, _)| name.starts_with("drop.")).count(), 1);
    }
    // The group's datagrams count only where the channel is.
    pair.begin();
    pair.inject(0, FRONT, &said.frame);
    assert_eq!(pair.nodes[0].changes().0.get("sync.received_datagrams"), None);
}

/// A recording of the peer does not bring it back to life.
#[test]
fn a_recording_does_not_revive_the_peer() {
    for workers in [[1, 1], [2, 2]] {
        let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
        open(&mut pair, 1, 1);
        pair.begin();
        pair.pass(500, 1);
        let recorded = pair.said[1].clone();
        pair.part();
        for said in &recorded {
            pair.nodes[0]
                .arrive(shunt::io::memory::MemoryFrame::new(Wire::Own.port(), &said.frame));
            pair.nodes[0].settle();
            pair.pass(1, 1);
            assert!(!pair.has_peer(0), "{said:?}");
        }
        // A new start is the peer, and the one before is never again.
        pair.restart(1);
        pair.heal();
        pair.join();
        for said in &recorded {
            pair.nodes[0]
                .arrive(shunt::io::memory::MemoryFrame::new(Wire::Own.port(), &said.frame));
            pair.nodes[0].settle();
        }
        pair.pass(200, 1);
        assert_eq!(pair.nodes[0].counters[0].sync.peer_boot.get(), BOOTS[1] + 0x10);
        pair.settle();
    }
}

/// Two processes have the peer's id, by mistake or since one was started anew while the other stood still:
/// the second is asked to prove that it lives, and the first is the peer until it does.
#[test]
fn another_start_of_the_peer_is_asked_for_a_proof() {
    let wire = Wire::Own;
    let mut pair = Pair::new([1, 1], wire, short(Mode::Nat));
    open(&mut pair, 1, 1);
    pair.pass(2, 1);
    pair.begin();
    let mut sequence = 0;
    let mut says = |pair: &mut Pair, challenge: u64, echo: u64| {
        sequence += 1;
        let header = header(Kind::Control, 1, STRANGER, sequence);
        let frame = forged(wire, 1, &header, &hello(challenge, echo, BOOTS[0]), &keys());
        pair.nodes[0].arrive(shunt::io::memory::MemoryFrame::new(wire.port(), &frame));
        pair.nodes[0].settle();
        // Its turn, and that of the peer.
        pair.pass(130, 1);
    };
    let peer = |pair: &Pair| pair.nodes[0].counters[0].sync.peer_boot.get();
    let unproven = |pair: &Pair| pair.nodes[0].counters[0].sync.unproven.get();
    let asked = |pair: &Pair| {
        let records = pair.said[0].iter().flat_map(|said| &said.records);
        let to_stranger = |record: &Record| match record {
            Record::Hello(hello) if hello.peer_boot == STRANGER => Some(*hello),
            _ => None,
        };
        records.filter_map(to_stranger).collect::<Vec<_>>()
    };
    // Neither nothing nor a guess proves anything.
    for (challenge, echo) in [(0x1111, 0), (0x2222, 0x1234)] {
        pair.begin();
        let before = unproven(&pair);
        says(&mut pair, challenge, echo);
        let asked = asked(&pair);
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0].echo, challenge);
        assert_eq!((peer(&pair), unproven(&pair)), (BOOTS[1], before + 1));
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 1), (1, 0)]);
    }
    pair.begin();
    says(&mut pair, 0x3333, 0);
    let proof = asked(&pair)[0].challenge;
    pair.begin();
    says(&mut pair, 0x4444, proof);
    assert_eq!(peer(&pair), STRANGER);
    assert_eq!(pair.owns(0), (1, 0), "whose sessions they were is gone");
    // The first one still runs, and is not the peer any more.
    let replayed = pair.sum(0, |c| c.sync.replayed.get());
    pair.pass(300, 1);
    assert_eq!(peer(&pair), STRANGER);
    assert!(pair.sum(0, |c| c.sync.replayed.get()) > replayed);
    assert_eq!(pair.owns(0), (1, 0));
}

/// A process that restarts again and again gets the whole table each time.
#[test]
fn a_restart_is_noticed_at_once() {
    for workers in [[1, 1], [1, 2], [3, 2]] {
        let mut pair = Pair::new(workers, Wire::Own, |workers| {
            let mut net = short(Mode::Nat)(workers);
            net.snapshot.services[1].timeouts.udp = 60_000;
            net
        });
        for n in 0..50 {
            open(&mut pair, usize::from(n % 2), n);
        }
        for restarts in 0..3 {
            let node = restarts % 2;
            pair.restart(node);
            assert_eq!(pair.nodes[node].sessions(), 0);
            pair.join();
            assert_eq!(pair.owns(node), (0, 50), "restart {restarts}");
            assert_eq!(pair.owns(1 - node), (50, 0), "restart {restarts}");
        }
    }
}

/// A worker whose turns are rare does what is due in each, whatever comes in it.
#[test]
fn with_rare_turns_the_nodes_stay_together() {
    for workers in [[1, 1], [2, 2]] {
        let mut pair = Pair::new(workers, Wire::Own, short(Mode::Nat));
        for n in 0..10 {
            open(&mut pair, usize::from(n % 2), n);
            pair.pass(1_000, 100);
            assert!(pair.has_peer(0) && pair.has_peer(1));
        }
        pair.pass(8_000, 100);
        assert_eq!([pair.owns(0), pair.owns(1)], [(0, 0), (0, 0)]);
        assert!(pair.is_synced(0) && pair.is_synced(1));
    }
}

/// Perhaps there is a peer that has a session for the packet: a node that has just begun waits for it,
/// and gives packets to it as long as it does not know its sessions.
#[test]
fn a_node_that_has_just_begun_opens_nothing_at_first() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::apart(workers, Wire::Own, short(Mode::Nat));
        pair.cut();
        pair.pass(2, 1);
        pair.begin();
        open(&mut pair, 0, 1);
        assert_eq!((pair.sent[0].len(), pair.nodes[0].sessions()), (0, 0), "too early");
        assert_eq!(pair.nodes[0].changes().0.get("drop.no_session"), Some(&1));
        pair.pass(600, 10);
        pair.begin();
        open(&mut pair, 0, 1);
        assert_eq!((pair.sent[0].len(), pair.nodes[0].sessions()), (1, 1), "alone");
    }
}
