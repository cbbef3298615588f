//! Two nodes that find each other, over a line that loses, with one who records and replays, in
//! virtual time.

use super::streams::Random;
use super::*;
use crate::sync::association::{HURRY_MS, INTERVAL_MS, REMEMBERED, SLOT_MS};
use std::collections::HashSet;

const DEAD_AFTER_MS: u32 = 3000;

fn about() -> About {
    About {
        workers: 2,
        flags: Flags::default(),
        stream: 0,
        config: 5,
        version: VersionText::new("0.1.0"),
        lacking: 0,
    }
}

/// What a node sends: a HELLO, or with none something else.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    header: Header,
    hello: Option<Hello>,
}

/// A process on a node, and what it has accepted in its life.
struct Process {
    association: Association,
    replay: Replay,
    sequence: u64,
    accepted: HashSet<(u64, u64)>,
}

impl Process {
    fn new(node: u8, boot: u64) -> Self {
        Process {
            association: Association::new(node, boot, u128::from(boot) << 64 | 7, DEAD_AFTER_MS),
            replay: Replay::default(),
            sequence: 0,
            accepted: HashSet::new(),
        }
    }

    fn send(&mut self, node: u8, hello: Option<Hello>) -> Datagram {
        self.sequence += 1;
        let header = Header {
            kind: Kind::Control,
            node,
            worker: 0,
            to: SERVING,
            repeated: false,
            boot: self.association.boot(),
            sequence: self.sequence,
        };
        Datagram { header, hello }
    }

    fn greet(&mut self, node: u8, now: u32) -> Datagram {
        let hello = self.association.hello(now, &about());
        self.send(node, Some(hello))
    }

    /// As a worker does it. Says whether the datagram was accepted, and whether a HELLO is to be sent.
    fn receive(&mut self, now: u32, datagram: &Datagram) -> (bool, bool) {
        let Datagram { header, hello } = datagram;
        let is_known = self.association.accepts(header.boot);
        if is_known && !self.replay.take(header.sequence) {
            return (false, false);
        }
        let Some(hello) = hello else {
            if is_known {
                self.association.refresh(now);
            }
            return (is_known, false);
        };
        match self.association.heard(now, header, hello) {
            Heard::Accepted { new } => {
                assert!(!(new && is_known));
                if !new && !is_known {
                    assert!(self.replay.take(header.sequence), "a proof is never a replay");
                }
                if new {
                    self.replay = Replay::begin(header.sequence);
                    assert!(self.replay.take(header.sequence));
                }
                (true, false)
            }
            Heard::Unproven { answer_now } => (false, answer_now),
            _ => (false, false),
        }
    }
}

#[test]
fn two_nodes_meet_in_three_datagrams() {
    let (mut a, mut b) = (Process::new(0, 10), Process::new(1, 20));
    let first = a.greet(0, 0);
    assert_eq!(b.receive(5, &first), (false, true));
    let second = b.greet(1, 5);
    assert_eq!(a.receive(5, &second), (true, false));
    assert!(!a.association.is_due(HURRY_MS - 1) && a.association.is_due(HURRY_MS));
    let third = a.greet(0, 10);
    assert_eq!(b.receive(10, &third), (true, false));
    assert_eq!((a.association.peer_boot(), b.association.peer_boot()), (Some(20), Some(10)));
    assert_eq!(a.association.peer_hello(), second.hello);
    assert_eq!(a.association.peer_challenge(), second.hello.unwrap().challenge);
    // Then there is no hurry.
    assert!(!a.association.is_due(10 + INTERVAL_MS - 1) && a.association.is_due(10 + INTERVAL_MS));
    // What was heard too soon after a HELLO is answered when it is time.
    let mut c = Process::new(1, 30);
    let hello = c.greet(1, 12);
    assert_eq!(a.receive(12, &hello), (false, false));
    assert!(!a.association.is_due(19) && a.association.is_due(20));
}

/// A node that is flooded with HELLOs of earlier starts still answers each that lives, and its peer.
#[test]
fn a_flood_of_replays_does_not_keep_nodes_apart() {
    let (mut a, mut b) = (Process::new(0, 10), Process::new(1, 20));
    let old: Vec<_> = (100..300).map(|boot| Process::new(1, boot).greet(1, 0)).collect();
    let mut random = Random::new(1);
    let mut met_at = None;
    for now in 0..10_000 {
        for _ in 0..3 {
            a.receive(now, &old[random.below(200) as usize]);
        }
        if a.association.is_due(now) {
            let hello = a.greet(0, now);
            b.receive(now, &hello);
        }
        if b.association.is_due(now) {
            let hello = b.greet(1, now);
            a.receive(now, &hello);
        }
        if a.association.accepts(20) && b.association.accepts(10) {
            met_at = met_at.or(Some(now));
        }
    }
    assert!(met_at.is_some_and(|at| at < 1000), "{met_at:?}");
}

#[test]
fn the_peer_is_there_as_long_as_it_is_heard() {
    let (mut a, mut b) = met();
    assert!(a.association.alive(10 + DEAD_AFTER_MS - 1));
    let other = b.send(1, None);
    assert_eq!(a.receive(3000, &other), (true, false));
    assert!(a.association.alive(3000 + DEAD_AFTER_MS - 1));
    assert!(!a.association.alive(3000 + DEAD_AFTER_MS));
    assert!(!a.association.alive(3000), "once dead it is heard or stays dead");
    assert_eq!(a.association.peer_boot(), Some(20));
    // The same start again: it has to prove anew that it lives, and no recording does.
    let last = b.greet(1, 3000);
    for old in [other, last] {
        assert!(!a.receive(9000, &old).0);
        assert!(!a.association.alive(9000) && !a.association.accepts(20));
    }
    a.association.refresh(9000);
    assert!(!a.association.alive(9000));
    let hello = a.greet(0, 9000);
    b.receive(9000, &hello);
    let hello = b.greet(1, 9010);
    assert_eq!(a.receive(9010, &hello), (true, false));
    assert!(a.association.alive(9010) && a.association.accepts(20));
    // Its sequences went on.
    assert_eq!(a.receive(9010, &hello), (false, false));
    assert_eq!(a.receive(9010, &other), (false, false));
}

#[test]
fn who_has_said_that_it_stops_is_soon_gone() {
    let (mut a, mut b) = met();
    let about = About { flags: Flags::LEAVING, ..about() };
    let hello = b.association.hello(1_000, &about);
    let hello = b.send(1, Some(hello));
    assert!(a.receive(1_000, &hello).0);
    assert!(a.association.alive(1_199));
    // As long as it speaks it is there.
    let other = b.send(1, None);
    assert!(a.receive(1_199, &other).0);
    assert!(a.association.alive(1_398));
    assert!(!a.association.alive(1_399));
}

/// What proved the peer to live just before it died proves nothing just after, though the clock has
/// hardly moved.
#[test]
fn the_last_words_of_the_dead_are_not_heard_again() {
    let (mut a, mut b) = met();
    let hello = a.greet(0, DEAD_AFTER_MS);
    b.receive(DEAD_AFTER_MS, &hello);
    // It comes after the peer has been found dead, so it might be held back as well.
    let late = b.greet(1, DEAD_AFTER_MS + 5);
    assert!(!a.association.alive(DEAD_AFTER_MS + 10));
    assert!(!a.receive(DEAD_AFTER_MS + 11, &late).0);
    // A process that lives is back with the next two.
    let hello = a.greet(0, DEAD_AFTER_MS + 20);
    b.receive(DEAD_AFTER_MS + 20, &hello);
    let hello = b.greet(1, DEAD_AFTER_MS + 30);
    assert_eq!(a.receive(DEAD_AFTER_MS + 30, &hello), (true, false));
}

/// Nodes 0 and 1 with boots 10 and 20 that have accepted each other at 10 ms.
fn met() -> (Process, Process) {
    let (mut a, mut b) = (Process::new(0, 10), Process::new(1, 20));
    let hello = a.greet(0, 0);
    b.receive(0, &hello);
    let hello = b.greet(1, 10);
    a.receive(10, &hello);
    let hello = a.greet(0, 10);
    b.receive(10, &hello);
    assert!(a.association.accepts(20) && b.association.accepts(10));
    (a, b)
}

#[test]
fn what_is_not_the_peer() {
    let (mut a, mut b) = met();
    let hello = Hello { echo: 0, ..b.greet(1, 20).hello.unwrap() };
    let any = b.send(1, None).header;
    let header = |node, worker, boot| Header { node, worker, boot, ..any };
    let mut heard =
        |node, worker, boot| a.association.heard(20, &header(node, worker, boot), &hello);
    assert_eq!(heard(0, 0, 10), Heard::Echo);
    assert_eq!(heard(0, 0, 11), Heard::OwnNode);
    assert_eq!(heard(2, 0, 20), Heard::Stranger);
    assert_eq!(heard(1, 0, 0), Heard::Superseded);
    // The HELLO of another worker says that the peer lives, and nothing of its boots.
    assert_eq!(heard(1, 1, 20), Heard::Accepted { new: false });
    assert_eq!(heard(1, 1, 21), Heard::Unproven { answer_now: false });
    assert_eq!(heard(1, 0, 21), Heard::Unproven { answer_now: true });
    assert!(a.association.accepts(20) && !a.association.accepts(21));
}

#[test]
fn a_start_that_was_superseded_does_not_come_back() {
    let (mut a, mut b) = met();
    let mut after = Process::new(1, 21);
    // The old process still runs, and knows what it would have to echo.
    meet(&mut a, &mut after, 100);
    assert_eq!(a.association.peer_boot(), Some(21));
    for now in (200..1000).step_by(10) {
        let hello = a.greet(0, now);
        b.receive(now, &hello);
        let mut hello = b.greet(1, now);
        let challenge = a.association.hello(now, &about()).challenge;
        for echo in [hello.hello.unwrap().echo, challenge] {
            hello.hello = hello.hello.map(|hello| Hello { echo, peer_boot: 10, ..hello });
            let heard = a.association.heard(now, &hello.header, &hello.hello.unwrap());
            assert_eq!(heard, Heard::Superseded);
        }
    }
    // As many of them are remembered as there is room for.
    for boot in 22..22 + REMEMBERED as u64 {
        meet(&mut a, &mut Process::new(1, boot), 1000 + boot as u32 * 100);
        assert_eq!(a.association.peer_boot(), Some(boot));
    }
    let hello = b.greet(1, 99_000).hello.unwrap();
    for boot in 22..21 + REMEMBERED as u64 {
        let header = Process::new(1, boot).send(1, None).header;
        assert_eq!(a.association.heard(99_000, &header, &hello), Heard::Superseded);
    }
}

fn meet(a: &mut Process, b: &mut Process, start: u32) {
    for now in start..start + 100 {
        if a.association.is_due(now) {
            let hello = a.greet(0, now);
            b.receive(now, &hello);
        }
        if b.association.is_due(now) {
            let hello = b.greet(1, now);
            a.receive(now, &hello);
        }
    }
}

#[test]
fn an_echo_is_good_for_a_while() {
    for (late, expected) in [(0, true), (SLOT_MS - 1, true), (2 * SLOT_MS, false)] {
        for start in [0, 5000, u32::MAX - SLOT_MS, u32::MAX - 10] {
            let (mut a, mut b) = (Process::new(0, 10), Process::new(1, 20));
            let hello = b.greet(1, start);
            a.receive(start, &hello);
            let hello = a.greet(0, start);
            b.receive(start, &hello);
            let proof = b.greet(1, start);
            let now = start.wrapping_add(late);
            assert_eq!(a.receive(now, &proof).0, expected, "{late} ms after {start}");
        }
    }
}

#[test]
fn a_held_back_echo_is_worth_nothing_after_another_start_was_accepted() {
    let mut a = Process::new(0, 10);
    let mut old = Process::new(1, 20);
    let hello = old.greet(1, 0);
    a.receive(0, &hello);
    let hello = a.greet(0, 0);
    old.receive(0, &hello);
    let held_back = old.greet(1, 0);
    meet(&mut a, &mut Process::new(1, 21), 1);
    assert_eq!(a.association.peer_boot(), Some(21));
    assert!(!a.receive(200, &held_back).0);
    assert_eq!(a.association.peer_boot(), Some(21));
}

/// What becomes of two nodes in 20 seconds: their processes are stopped and started, the line is
/// cut, datagrams are lost or come late, and one who has recorded all of them replays them. Then for two seconds nothing is
/// lost and nobody starts, but the replays go on.
fn run(seed: u64, loss: u64, [restarts, cuts]: [u64; 2], replays: u64, delay: u64) {
    let mut random = Random::new(seed);
    let mut nodes = [Process::new(0, 1000), Process::new(1, 1001)];
    let mut next_boot = 1002;
    // When the process with this boot was stopped, from 1000 on.
    let mut stopped = vec![None, None];
    let mut recorded: Vec<Datagram> = Vec::new();
    let mut under_way: Vec<(u32, Datagram)> = Vec::new();
    let quiet = 20_000;
    // From when on the line is cut.
    let mut cut = 0;
    let mut met_at = None;
    for now in 0..quiet + 2000 {
        if random.below(100_000) < cuts {
            cut = now + 1 + random.below(6000) as u32;
        }
        for node in 0..2u8 {
            let this = &mut nodes[usize::from(node)];
            if now < quiet && random.below(100_000) < restarts {
                stopped[(this.association.boot() - 1000) as usize] = Some(now);
                *this = Process::new(node, next_boot);
                stopped.push(None);
                next_boot += 1;
            }
            let mut sent = Vec::new();
            if this.association.is_due(now) {
                sent.push(this.greet(node, now));
            }
            if random.percent(1) {
                sent.push(this.send(node, None));
            }
            for datagram in sent {
                recorded.push(datagram);
                if now >= quiet || now >= cut && !random.percent(loss) {
                    under_way.push((now + random.below(delay + 1) as u32, datagram));
                }
            }
            for _ in 0..random.below(replays + 1) {
                if random.percent(5) && !recorded.is_empty() {
                    let datagram = recorded[random.below(recorded.len() as u64) as usize];
                    under_way.push((now, datagram));
                }
            }
        }
        let (arrived, later) = under_way.into_iter().partition(|(at, _)| *at <= now);
        under_way = later;
        let arrived: Vec<(u32, Datagram)> = arrived;
        for (_, datagram) in arrived {
            for node in 0..2u8 {
                let this = &mut nodes[usize::from(node)];
                let before = this.association.peer_boot();
                let was_accepted = this.association.accepts(datagram.header.boot);
                let (accepted, _) = this.receive(now, &datagram);
                let Header { boot, sequence, .. } = datagram.header;
                if !accepted {
                    assert_eq!(this.association.peer_boot(), before);
                    continue;
                }
                assert_ne!(datagram.header.node, node);
                assert!(this.accepted.insert((boot, sequence)), "{seed}: a replay was accepted");
                // Boots count up, so what was accepted must not be before what was.
                assert!(before <= Some(boot), "{seed}: {before:?}, then {boot}");
                if !was_accepted {
                    let stopped = stopped[(boot - 1000) as usize];
                    let is_recent = stopped.is_none_or(|at| now - at < 2 * SLOT_MS);
                    assert!(is_recent, "{seed}: {boot} was stopped at {stopped:?}, now {now}");
                }
            }
        }
        nodes.iter_mut().for_each(|node| _ = node.association.alive(now));
        let [a, b] = &mut nodes;
        let accept_each_other = a.association.accepts(b.association.boot())
            && b.association.accepts(a.association.boot());
        if now >= quiet && accept_each_other && met_at.is_none() {
            met_at = Some(now);
        }
        assert!(met_at.is_none() || accept_each_other, "{seed}: they lost each other at {now}");
    }
    assert!(met_at.is_some(), "{seed}: they did not meet in two seconds");
    let end = quiet + 2000;
    assert!(nodes.iter_mut().all(|node| node.association.alive(end)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nodes_find_each_other_and_take_no_replay(
        seed: u64, loss in 0u64..80, changes in [0u64..200, 0u64..50], replays in 0u64..4,
        delay in 0u64..20,
    ) {
        run(seed, loss, changes, replays, delay);
    }
}
