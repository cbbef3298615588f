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

/// A service is another on one node: both say that the configurations differ, and in what. When the file is
/// mended and the node runs with it, neither does.
#[test]
fn another_service() {
    let _alone = one_at_a_time();
    let mut pair = Pair::new(plan(Forwarding::FullNat));
    let right = pair.plan.config(1, &pair.nodes[1].directory);
    let wrong = right.replacen("mode = \"fullnat\"\n", "mode = \"fullnat\"\nmss = 1400\n", 1);
    assert_ne!(wrong, right);
    pair.nodes[1].configure(&wrong, KEY);
    pair.nodes.iter_mut().for_each(|node| node.spawn());
    let sentence = "the configurations of the two nodes differ in what must be alike: services";
    for node in &mut pair.nodes {
        node.wait_ready();
        node.wait_for("it has seen what is wrong", |node| {
            node.ha().is_some_and(|ha| ha.problem("config_differs").is_some())
        });
        let ha = node.ha().expect("it answers");
        assert_eq!(ha.problem("config_differs").as_deref(), Some(sentence), "{ha:?}");
        assert_eq!(ha.is_alike(), Some(false));
        let text = node.shunt(&["ha"]);
        for part in [", CONFIGURATION DIFFERS", sentence, "mend: compare the files"] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
        assert!(node.log_text().contains(sentence));
    }

    pair.nodes[1].stop();
    pair.nodes[1].configure(&right, KEY);
    pair.nodes[1].start();
    for node in &mut pair.nodes {
        node.wait_for("the configurations are alike", |node| {
            let ha = node.ha().expect("it answers");
            ha.is_alike() == Some(true) && ha.problem("config_differs").is_none()
        });
        let text = node.shunt(&["ha"]);
        assert!(text.contains(", configuration alike") && !text.contains("differ"), "{text}");
    }
    pair.nodes[0].wait_for("its log says so as well", |node| {
        node.log_text().contains("the configurations of the two nodes are alike again")
    });
    pair.wait_settled(0);
    pair.finish();
}

#[test]
fn the_same_number() {
    let _alone = one_at_a_time();
    let mut plan = plan(Forwarding::FullNat);
    plan.ids = [1, 1];
    both_say(Pair::new(plan), "duplicate_node");
}
