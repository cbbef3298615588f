//! Two nodes that were set up wrongly say so.

use super::rig::{Forwarding, KEY, Pair};
use super::{one_at_a_time, plan};

/// Starts both nodes and waits until `shunt ha` of each says what is wrong, and how to mend it.
fn both_say(mut pair: Pair, problem: &str) {
    for node in &mut pair.nodes {
        node.spawn();
    }
    for node in &mut pair.nodes {
        node.wait_ready();
        let mut sentence = None;
        node.wait_for("it has seen what is wrong", |node| {
            sentence = node.ha().and_then(|ha| ha.problem(problem));
            sentence.is_some()
        });
        let text = node.shunt(&["ha"]);
        assert!(text.contains("mend: "), "{sentence:?} in:\n{text}");
    }
    // They hear each other's adverts all the same. The first to be master remains it: the other does not
    // know the sessions.
    pair.wait_for("one of them is master", |pair| pair.active().len() == 1);
    pair.finish();
}

#[test]
fn another_key() {
    let _alone = one_at_a_time();
    let plan = plan(Forwarding::FullNat);
    let pair = Pair::new(plan.clone());
    let config = plan.config(1, &pair.nodes[1].directory);
    pair.nodes[1].configure(&config, &KEY.replace("5b1f", "0000"));
    both_say(pair, "wrong_key");
}

#[test]
fn the_same_number() {
    let _alone = one_at_a_time();
    let mut plan = plan(Forwarding::FullNat);
    plan.ids = [1, 1];
    both_say(Pair::new(plan), "duplicate_node");
}
