//! Two groups of addresses, each node master of one: how they share the load, and when a group moves.

use std::thread;
use std::time::{Duration, Instant};

use super::rig::backend::LINES;
use super::rig::config::{self, GROUP, SECOND_GROUP, SECOND_VIPS, VIPS};
use super::rig::{Forwarding, Load, LoadPlan, Node, Pair};
use super::{one_at_a_time, plan};

/// How long node 0 leaves a master of lower priority alone.
const DELAY: Duration = Duration::from_secs(2);

/// The groups that each node is master of.
fn masters(pair: &Pair) -> [Vec<u64>; 2] {
    [0, 1].map(|node| pair.nodes[node].ha().map_or_else(Vec::new, |ha| ha.masters()))
}

/// Waits until these groups are each node's.
fn wait_masters(pair: &mut Pair, what: &str, groups: [&[u8]; 2]) {
    let wanted =
        groups.map(|groups| groups.iter().map(|vrid| u64::from(*vrid)).collect::<Vec<_>>());
    pair.wait_for(what, |pair| masters(pair) == wanted);
}

/// Exactly these nodes answer for the VIPs of the two groups.
fn assert_answering(pair: &Pair, nodes: [usize; 2]) {
    for (vip, node) in [VIPS[0], SECOND_VIPS[0]].into_iter().zip(nodes) {
        assert_eq!(pair.answering_for(vip), [format!("front{node}")], "who answers for {vip}");
    }
}

fn priority(node: &Node, vrid: u8) -> (u64, String) {
    node.ha().map_or_else(Default::default, |ha| ha.priority(vrid))
}

/// The service that both track has no server for node 0 alone: its group moves, and comes back a while
/// after the service does. A tracked port of node 1 loses its link: its group moves, and does not come
/// back, since node 1 does not preempt. No connection through either group notices.
#[test]
fn each_node_is_master_of_one() {
    let _alone = one_at_a_time();
    let mut plan = plan(Forwarding::FullNat);
    // A machine busy with something else may be late with a few.
    plan.advert_interval_ms = 200;
    plan.priorities = [150, 100];
    plan.second = Some([100, 150]);
    plan.ha_keys = "track_services = [\"web\"]\nservice_drop = 150\nport_drop = 70\n".to_owned();
    plan.node_keys = ["preempt_delay_s = 2\n", "preempt = false\n"].map(str::to_owned);
    plan.health_keys = "interval_ms = 500\ntimeout_ms = 500\nrise = 1\nfall = 3\n".to_owned();
    // Else the kernel keeps what is sent by a port without link until that is back, an advert of the old
    // priority among it.
    plan.vdev_keys = ",qdisc_bypass=0".to_owned();
    let mut pair = Pair::new(plan);
    // The first has both groups; the other takes what it is better for.
    pair.nodes[1].start();
    wait_masters(&mut pair, "node 1 is alone", [&[], &[GROUP, SECOND_GROUP]]);
    pair.nodes[0].start();
    wait_masters(&mut pair, "each has its group", [&[GROUP], &[SECOND_GROUP]]);
    pair.wait_for("both nodes have all sessions", |pair| pair.both_synced());
    assert_answering(&pair, [0, 1]);
    for node in &pair.nodes {
        assert!(!node.log_text().contains("has no server up"), "before the first verdict");
    }

    let to = [config::listen(LINES), config::second_listen(LINES)].concat();
    let pace = Duration::from_millis(50);
    let load = LoadPlan { to, held: 100, pace, new_every: Duration::from_millis(20) };
    let load = Load::start(&pair.fabric.client, load);
    let mut downloads = pair.downloads([VIPS[0], SECOND_VIPS[0]], 80, 8);

    let web = pair.plan.forwarding.web_port();
    pair.fabric.checks(0, web, false);
    wait_masters(&mut pair, "node 1 has both groups", [&[], &[GROUP, SECOND_GROUP]]);
    assert_answering(&pair, [1, 1]);
    let (left, why) = priority(&pair.nodes[0], GROUP);
    assert!(left == 0 && why.contains("service web has no server up: -150"), "{left}: {why}");
    load.flows_again();
    assert!(downloads.iter_mut().all(|download| download.is_running()), "over too early");
    eprintln!("moved: {}", load.report());

    let back = Instant::now();
    pair.fabric.checks(0, web, true);
    wait_masters(&mut pair, "each has its group again", [&[GROUP], &[SECOND_GROUP]]);
    let waited = back.elapsed();
    assert!(waited >= DELAY, "it took its group back after {waited:?}");
    assert_eq!(priority(&pair.nodes[0], GROUP).0, 150);
    load.flows_again();

    pair.fabric.cable("front1", false);
    wait_masters(&mut pair, "node 0 has both groups", [&[GROUP, SECOND_GROUP], &[]]);
    let (left, why) = priority(&pair.nodes[1], SECOND_GROUP);
    assert!(left == 80 && why.contains("port front has no link: -70"), "{left}: {why}");
    load.flows_again();
    pair.fabric.cable("front1", true);
    pair.wait_for("the port is back", |pair| priority(&pair.nodes[1], SECOND_GROUP).0 == 150);
    thread::sleep(Duration::from_secs(1));
    let groups = [GROUP, SECOND_GROUP].map(u64::from).to_vec();
    assert_eq!(masters(&pair), [groups, vec![]], "node 1 does not take it back");
    assert_answering(&pair, [0, 0]);

    for download in downloads {
        download.finish().expect("the download is right");
    }
    let report = load.finish();
    assert!(report.is_good(), "{report}");
    pair.finish();
}
