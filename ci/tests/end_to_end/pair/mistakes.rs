//! Two nodes that were set up wrongly say so.

use std::thread;
use std::time::{Duration, Instant};

use super::rig::{Forwarding, KEY, Pair, Plan};
use super::takeover::takes_back;
use super::{NONE, one_at_a_time, plan};

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

/// A server is missing in the file of the node that returns: it leaves the addresses to the other one, whose
/// connections to that server it would break. Both say so, and with the right file it takes back.
#[test]
fn a_server_that_one_node_does_not_have() {
    const HELD: usize = 200;
    let _alone = one_at_a_time();
    let mut pair = Pair::start(plan(Forwarding::FullNat));
    let load = pair.load(HELD, Duration::from_millis(50), NONE);
    pair.nodes[0].kill();
    pair.wait_for("node 1 is master", |pair| pair.nodes[1].is_master());
    load.flows_again();
    pair.wait_for("nothing of node 1 is protected", |pair| {
        let ha = pair.nodes[1].ha().expect("node 1 runs");
        !ha.has_peer() && ha.counter("unprotected_sessions") >= HELD as u64
    });

    let fewer = Plan { servers: 1, ..pair.plan.clone() };
    let node = &mut pair.nodes[0];
    node.configure(&fewer.config(0, &node.directory), KEY);
    node.start();
    pair.wait_for("both say that sessions are lacking", |pair| {
        let says = |node: usize, kind| pair.nodes[node].ha().and_then(|ha| ha.problem(kind));
        says(0, "import_refused").is_some() && says(1, "peer_lacks").is_some()
    });
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        assert_eq!(pair.active(), [1]);
        thread::sleep(Duration::from_millis(50));
    }
    let [a, b] = [0, 1].map(|node| pair.nodes[node].ha().expect("both run"));
    let lacking = a.counter("lacking_sessions");
    // However often it has asked for them.
    assert!(!a.is_synced() && (1..HELD as u64).contains(&lacking), "{a:?}");
    assert_eq!(b.counter("unprotected_sessions"), lacking);
    let text = pair.nodes[0].shunt(&["ha"]);
    assert!(text.contains(&format!("all but {lacking} that could not be taken in")), "{text}");
    assert!(text.contains("ha.preempt_unsynced = true"), "{text}");
    let text = pair.nodes[1].shunt(&["ha"]);
    let says = format!("all sessions of this node but {lacking} that it could not take in");
    assert!(text.contains(&says), "{text}");
    let log = pair.nodes[0].log_text();
    assert!(
        log.contains("that it could not take in")
            && !log.contains("has all sessions of the peer 192.0.2.3\n"),
        "{log}"
    );
    load.flows_again();

    pair.nodes[0].stop();
    let node = &mut pair.nodes[0];
    node.configure(&pair.plan.config(0, &node.directory), KEY);
    node.spawn();
    takes_back(&mut pair, HELD);
    load.flows_again();
    let report = load.finish();
    assert!(report.is_good(), "{report}");
    pair.finish();
}
