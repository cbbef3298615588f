//! The nodes lose sight of each other while clients and servers see both.

use std::thread;
use std::time::{Duration, Instant};

use super::rig::view::HaView;
use super::rig::{Forwarding, Pair};
use super::takeover::unharmed;
use super::{NONE, one_at_a_time, plan};

const PACE: Duration = Duration::from_millis(50);

/// The channel is cut for a while. Nobody takes over, and what was opened meanwhile is made up for
/// when it is whole again: the active node can be killed.
#[test]
fn channel_cut() {
    let _alone = one_at_a_time();
    let mut pair = Pair::start(plan(Forwarding::FullNat));
    let before = pair.load(200, PACE, Duration::from_millis(20));

    pair.fabric.sync(false);
    let meanwhile = pair.load(200, PACE, NONE);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        assert_eq!(pair.active(), [0]);
        thread::sleep(PACE);
    }
    pair.fabric.sync(true);
    pair.wait_for("node 1 has the sessions of that time", |pair| {
        let told = |ha: HaView| ha.has_peer() && ha.counter("unprotected_sessions") == 0;
        pair.nodes[0].ha().is_some_and(told)
            && pair.nodes[1].is_synced()
            && pair.nodes[1].sessions() >= 400
    });
    assert_eq!(pair.active(), [0]);
    let mut download = pair.download(100, 8);

    pair.nodes[0].kill();
    pair.wait_for("node 1 is master", |pair| pair.nodes[1].is_master());
    before.flows_again();
    meanwhile.flows_again();
    pair.assert_answering(1);
    assert!(download.is_running(), "the download was over before the event");
    let report = meanwhile.finish();
    assert!(report.is_good(), "{report}");
    unharmed(before, download);
    pair.finish();
}

/// Two masters, each with all the sessions there were. No connection breaks, and when they see each
/// other again exactly one remains.
#[test]
fn split_brain() {
    let _alone = one_at_a_time();
    let mut pair = Pair::start(plan(Forwarding::FullNat));
    let load = pair.load(200, PACE, NONE);
    let mut download = pair.download(100, 4);
    let ports = ["front0", "front1", "back0", "back1"];

    pair.fabric.apart(&ports, true);
    pair.wait_for("both are master", |pair| pair.active() == [0, 1]);
    assert_eq!(pair.answering().len(), 2, "both answer for the VIP");
    load.flows_again();
    thread::sleep(Duration::from_secs(1));

    pair.fabric.apart(&ports, false);
    pair.wait_settled(0);
    load.flows_again();
    pair.assert_answering(0);
    assert!(download.is_running(), "the download was over before the event");
    unharmed(load, download);
    pair.finish();
}
