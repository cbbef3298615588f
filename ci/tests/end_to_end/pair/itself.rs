//! The rig with one node that has no pair: when these fail, nothing that a pair does can be trusted.

use std::time::Duration;

use super::rig::storm::{counter, storm};
use super::rig::{Forwarding, Pair, config};
use super::{one_at_a_time, plan};

#[test]
fn one_node() {
    let _alone = one_at_a_time();
    let mut plan = plan(Forwarding::FullNat);
    plan.ha = false;
    let mut pair = Pair::new(plan);
    pair.nodes[0].start();
    pair.assert_answering(0);

    let load = pair.load(200, Duration::from_millis(50), Duration::from_millis(20));
    let mut download = pair.download(20, 1);
    load.flows_again();

    // A cable out for a while: a gap, and nothing worse.
    load.mark();
    pair.fabric.cable("front0", false);
    std::thread::sleep(Duration::from_millis(300));
    pair.fabric.cable("front0", true);
    load.flows_again();
    let report = load.report();
    assert!(report.gap >= Duration::from_millis(300), "{report}");
    assert!(download.is_running() || download.received() == 20_000_000);
    let report = load.finish();
    assert!(report.is_good(), "{report}");
    download.finish().expect("the download is right");

    let before = counter(&pair.fabric.client, "TCPSynRetrans");
    let storm = storm(&pair.fabric.client, &config::listen(super::rig::backend::LINES), 500, 50);
    assert_eq!((storm.tried, storm.failed), (500, 0), "{:?}", storm.why);
    assert!(counter(&pair.fabric.client, "TCPSynRetrans") - before <= storm.repeated as u64);
    pair.finish();
}

/// A node that dies takes its connections with it, and the load says so.
#[test]
fn the_load_notices() {
    let _alone = one_at_a_time();
    let mut plan = plan(Forwarding::FullNat);
    plan.ha = false;
    let mut pair = Pair::new(plan);
    pair.nodes[0].start();
    let load = pair.load(50, Duration::from_millis(50), Duration::from_millis(50));
    pair.nodes[0].kill();
    assert!(pair.answering().is_empty());
    pair.nodes[0].start();
    // Its sessions are gone; a segment in mid-stream is reset.
    pair.wait_for("every connection is reset", |_| load.report().broken.len() == 50);
    let report = load.finish();
    assert!(!report.is_good(), "{report}");
    pair.finish();
}
