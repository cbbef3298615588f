//! The active node goes away, the other takes over; it comes back, and takes back.

use std::time::Duration;

use super::rig::{Download, Forwarding, Load, Pair, Plan};
use super::{one_at_a_time, plan};

/// How the active node goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// Its process is killed.
    Kill,
    /// It is asked to stop.
    Stop,
    /// The cable towards the clients is pulled, which also carries the channel.
    PullFront,
    /// The cable towards the servers is pulled.
    PullBack,
}

impl Event {
    fn begin(self, pair: &mut Pair) {
        match self {
            Event::Kill => pair.nodes[0].kill(),
            Event::Stop => pair.nodes[0].stop(),
            Event::PullFront => pair.fabric.cable("front0", false),
            Event::PullBack => pair.fabric.cable("back0", false),
        }
    }

    fn end(self, pair: &mut Pair) {
        match self {
            Event::Kill | Event::Stop => pair.nodes[0].spawn(),
            Event::PullFront => pair.fabric.cable("front0", true),
            Event::PullBack => pair.fabric.cable("back0", true),
        }
    }
}

/// Away and back again, with `held` connections.
fn take_over(plan: Plan, event: Event, held: usize, pace: Duration) {
    let _alone = one_at_a_time();
    let mut pair = Pair::start(plan);
    pair.assert_answering(0);
    let load = pair.load(held, pace, Duration::from_millis(20));
    let mut download = pair.download(100, 8);

    event.begin(&mut pair);
    pair.wait_for("node 1 is master", |pair| pair.nodes[1].is_master());
    load.flows_again();
    pair.assert_answering(1);
    assert!(download.is_running(), "the download was over before the event");
    eprintln!("{event:?}, away: {}", load.report());

    load.mark();
    event.end(&mut pair);
    takes_back(&mut pair, held);
    load.flows_again();
    // It knew its servers before new connections came to it.
    assert_eq!(pair.nodes[0].dropped("no_server"), 0);
    if matches!(event, Event::Kill | Event::Stop) {
        pair.wait_for("node 1 says of its peer that it restarted", says_it_restarted);
    }
    eprintln!("{event:?}, back: {}", load.report());
    unharmed(load, download);
    pair.finish();
}

/// Whether node 1 says that its peer, which is there, restarted once. The last word of its log is true.
fn says_it_restarted(pair: &mut Pair) -> bool {
    let node = &pair.nodes[1];
    let Some(ha) = node.ha() else { return false };
    assert!(ha.has_peer(), "{ha:?}");
    assert!(ha.peer_restarts() <= 1, "{ha:?}");
    let log = node.log_text();
    let words = ["is there", "has restarted", "is not heard any more", "was stopped"];
    let of_peer =
        |line: &&str| line.contains("the peer ") && words.iter().any(|word| line.contains(word));
    let last = log.lines().rfind(of_peer).unwrap_or_default();
    ha.peer_restarts() == 1
        && last.contains("restarted")
        && node.shunt(&["ha"]).contains(", restarted once, ")
}

/// Node 0 returns: it stays backup until it has every session, then it is the only master.
pub(super) fn takes_back(pair: &mut Pair, held: usize) {
    let mut seen = Vec::new();
    pair.wait_for("node 0 has taken back", |pair| {
        let Some(ha) = pair.nodes[0].ha() else { return false };
        let now = (ha.is_synced(), ha.is_master());
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        assert_ne!(now, (false, true), "master without all sessions: {seen:?} {ha:?}");
        now == (true, true) && pair.active() == [0]
    });
    assert!(pair.nodes[0].sessions() >= held as u64, "{} sessions", pair.nodes[0].sessions());
    pair.assert_answering(0);
}

/// Nothing that a user does has noticed anything.
pub(super) fn unharmed(load: Load, download: Download) {
    download.finish().expect("the download is right");
    let report = load.finish();
    eprintln!("in the end: {report}");
    assert!(report.is_good(), "{report}");
}

/// A thousand sessions, and a slow walk, so that the way back takes a while.
#[test]
fn killed_fullnat() {
    let mut plan = plan(Forwarding::FullNat);
    plan.ha_keys = "sync_rate = 1_000\n".into();
    take_over(plan, Event::Kill, 1_000, Duration::from_millis(200));
}

/// Nodes with different numbers of workers.
#[test]
fn killed_nat() {
    let mut plan = plan(Forwarding::Nat);
    plan.workers = [2, 1];
    take_over(plan, Event::Kill, 200, Duration::from_millis(50));
}

#[test]
fn killed_dr() {
    take_over(plan(Forwarding::Dr), Event::Kill, 200, Duration::from_millis(50));
}

/// The addresses keep the MAC addresses of the ports.
#[test]
fn stopped() {
    let mut plan = plan(Forwarding::FullNat);
    plan.workers = [1, 2];
    plan.ha_keys = "virtual_mac = false\n".into();
    take_over(plan, Event::Stop, 200, Duration::from_millis(50));
}

#[test]
fn front_pulled() {
    take_over(plan(Forwarding::FullNat), Event::PullFront, 200, Duration::from_millis(50));
}

#[test]
fn back_pulled() {
    take_over(plan(Forwarding::Nat), Event::PullBack, 200, Duration::from_millis(50));
}
