//! A new version is put on both nodes, one after the other, in the middle of the day.

use std::fs;
use std::time::Duration;

use super::rig::{Forwarding, Pair};
use super::takeover::{takes_back, unharmed};
use super::{SHUNT, one_at_a_time, plan};

/// The backup is stopped and started with the new binary; the active node hands over by its stop, is
/// started with the new binary, and takes back.
#[test]
fn planned_upgrade() {
    const HELD: usize = 300;
    let _alone = one_at_a_time();
    let mut pair = Pair::start(plan(Forwarding::FullNat));
    let load = pair.load(HELD, Duration::from_millis(50), Duration::from_millis(20));
    let mut download = pair.download(100, 12);
    let new = pair.directory().join("new-shunt");
    fs::copy(SHUNT, &new).expect("a copy of the binary");

    pair.nodes[1].stop();
    assert_eq!(pair.active(), [0]);
    pair.nodes[1].shunt = new.clone();
    pair.nodes[1].spawn();
    pair.wait_for("node 1 has all sessions", |pair| {
        pair.nodes[1].is_synced() && pair.nodes[1].sessions() >= HELD as u64
    });
    assert_eq!(pair.active(), [0]);

    pair.nodes[0].stop();
    pair.wait_for("node 1 is master", |pair| pair.nodes[1].is_master());
    load.flows_again();
    pair.assert_answering(1);
    pair.nodes[0].shunt = new;
    pair.nodes[0].spawn();
    takes_back(&mut pair, HELD);
    load.flows_again();
    assert!(download.is_running(), "the download was over before the upgrade");
    unharmed(load, download);
    pair.finish();
}
