//! The keys of the pair are changed while it runs.

use std::time::Duration;

use super::rig::{Forwarding, KEY, Pair};
use super::takeover::takes_back;
use super::{one_at_a_time, plan};

/// A second key.
const NEW: &str = "c1700f9a3c2b4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6\n";

/// Gives a node another key file, tells it to read it, and waits until it uses it.
fn change(pair: &mut Pair, node: usize, file: &str) {
    let config = pair.plan.config(node, &pair.nodes[node].directory);
    let node = &mut pair.nodes[node];
    let before = node.ha().expect("it answers").keys();
    node.configure(&config, file);
    node.signal(libc::SIGHUP);
    node.wait_for("it uses the new keys", |node| node.ha().is_some_and(|ha| ha.keys() != before));
}

/// The new key is added on both, then signs on both, then the old one goes: no connection notices, no
/// datagram is refused, and what the nodes have told each other meanwhile is enough to take over.
#[test]
fn changed_without_a_gap() {
    const HELD: usize = 100;
    let _alone = one_at_a_time();
    let mut pair = Pair::start(plan(Forwarding::FullNat));
    let load = pair.load(HELD, Duration::from_millis(50), Duration::from_millis(20));
    let [old, new] = [KEY.to_owned(), NEW.to_owned()];

    // A file with a mistake is named, and changes nothing.
    let node = &mut pair.nodes[0];
    let before = node.ha().expect("it answers").keys();
    let config = pair.plan.config(0, &node.directory);
    node.configure(&config, "not a key\n");
    node.signal(libc::SIGHUP);
    node.wait_for("it has said what is wrong", |node| {
        node.log_text().contains("sync.key: line 1: character 1 is not a hexadecimal digit")
    });
    assert_eq!(node.ha().expect("it answers").keys(), before);

    for file in [format!("{old}{new}"), format!("{new}{old}"), new] {
        for node in [0, 1] {
            change(&mut pair, node, &file);
        }
        load.flows_again();
    }
    assert_ne!(pair.nodes[0].ha().expect("it answers").keys(), before);
    for node in &pair.nodes {
        let ha = node.ha().expect("it answers");
        assert_eq!((ha.counter("bad_mac"), ha.problem("wrong_key")), (0, None), "{ha:?}");
        assert!(ha.has_peer() && ha.is_synced(), "{ha:?}");
    }

    pair.nodes[0].kill();
    pair.wait_for("node 1 is master", |pair| pair.nodes[1].is_master());
    load.flows_again();
    pair.nodes[0].spawn();
    takes_back(&mut pair, HELD);
    load.flows_again();
    let report = load.finish();
    assert!(report.is_good(), "{report}");
    pair.finish();
}
