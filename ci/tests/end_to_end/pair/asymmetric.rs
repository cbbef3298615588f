//! Active/active: clients reach the VIP by one node, the servers answer by the other.

use super::rig::backend::LINES;
use super::rig::storm::storm;
use super::rig::{Forwarding, Pair, config};
use super::{one_at_a_time, plan};

/// Not one of 2,000 new connections fails, though no node sees both directions of any.
#[test]
fn forward_and_reply_by_different_nodes() {
    const CONNECTIONS: usize = 2_000;
    let _alone = one_at_a_time();
    let mut plan = plan(Forwarding::FullNat);
    plan.active_active = true;
    let mut pair = Pair::new(plan);
    pair.asymmetric();
    pair.nodes.iter_mut().for_each(|node| node.spawn());
    pair.nodes.iter_mut().for_each(|node| node.wait_ready());
    pair.wait_for("both nodes have all sessions", |pair| pair.both_synced());

    let to = config::listen(LINES);
    let outcome = storm(&pair.fabric.client, &to, CONNECTIONS, 50);
    let corrections = pair.corrections();
    eprintln!("{outcome:?}, {corrections} corrections");
    assert_eq!((outcome.tried, outcome.failed), (CONNECTIONS, 0), "{:?}", outcome.why);
    pair.finish();
}
