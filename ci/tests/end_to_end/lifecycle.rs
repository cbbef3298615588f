//! Starting, stopping, and the sentences that say why it does not start.

use std::path::Path;

use crate::http::requests;
use crate::rig::{Family, Mode, Plan, Rig, SHUNT};

#[test]
fn stops_clean_and_starts_again() {
    let mut rig = Rig::start(Plan::new(Mode::Nat, 2));
    let taps = rig.lb.ip("-oneline link show");
    assert!(taps.contains("sl-front") && taps.contains("sl-back"), "{taps}");
    requests(&rig, Family::V4, 10);
    // What makes other programs read their configuration again must not take the node down.
    rig.signal_shunt(libc::SIGHUP);
    requests(&rig, Family::V4, 10);
    rig.assert_balanced();
    rig.stop_shunt();
    rig.assert_no_taps();
    assert!(!rig.directory().join("shunt.sock").exists(), "the control socket is left behind");

    let config = rig.directory().join("shunt.toml");
    rig.run_shunt(&config);
    for family in Family::BOTH {
        requests(&rig, family, 10);
    }
    rig.finish();
}

/// Runs a configuration that cannot start. It must end with status 1 and one sentence on standard
/// error that holds each of `words`; the sentence, whatever DPDK itself has printed before it.
fn refused(rig: &Rig, config: &str, words: &[&str]) {
    let path = rig.write_config("wrong.toml", config);
    let output = rig
        .lb
        .command("timeout")
        .args(["20", SHUNT, "run", "--config"])
        .arg(&path)
        .output()
        .expect("the binary starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "for {words:?}:\n{error}");
    assert!(!error.contains("panicked"), "{error}");
    let sentence = error.trim_end().lines().last().unwrap_or_default();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}; all of it:\n{error}");
    }
    rig.assert_no_taps();
}

/// Replaces a part that must be there.
fn changed(config: &str, from: &str, to: &str) -> String {
    assert!(config.contains(from), "{from:?} is not in:\n{config}");
    config.replace(from, to)
}

#[test]
fn start_up_problems_say_the_mend() {
    let rig = Rig::without_shunt(Plan::new(Mode::Nat, 2));
    let good = rig.config();

    // A device that does not exist: the interface, and the driver.
    refused(
        &rig,
        &changed(&good, "iface=front", "iface=absent"),
        &["net_af_packet0", "`absent`", "ip link"],
    );
    refused(&rig, &changed(&good, "net_af_packet0", "net_absent0"), &["net_absent0"]);
    // A core that is not on this machine.
    refused(&rig, &changed(&good, "workers = [0,", "workers = [999,"), &["999", "node.workers"]);
    // Two workers, one queue.
    refused(
        &rig,
        &changed(&good, "iface=front,qpairs=2", "iface=front,qpairs=1"),
        &["net_af_packet0", "qpairs=2"],
    );
    // More hugepage memory than any machine has.
    let memory = changed(&good, "memory_mb = 512", "memory_mb = 1_048_576");
    let memory = changed(&memory, "hugepages = false", "hugepages = true");
    refused(&rig, &memory, &["memory_mb", "vm.nr_hugepages", "hugepages = false"]);
}

/// A second process with the configuration of a running one, or with its taps, touches nothing.
#[test]
fn a_second_shunt_leaves_the_first_alone() {
    let rig = Rig::start(Plan::new(Mode::Nat, 1));
    let good = rig.config();
    let taps = || rig.lb.ip("-oneline address show");
    let before = taps();
    let second = |config: &str, words: &[&str]| {
        let path = rig.write_config("second.toml", config);
        let mut command = rig.lb.command("timeout");
        let output = command.args(["20", SHUNT, "run", "--config"]).arg(&path).output();
        let output = output.expect("the binary starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let sentence = error.trim_end().lines().last().unwrap_or_default();
        assert!(words.iter().all(|word| sentence.contains(word)), "{words:?}: {error}");
        assert_eq!(taps(), before);
    };
    second(&good, &["another shunt runs on", "shunt.sock"]);
    second(&changed(&good, "shunt.sock", "other.sock"), &["sl-front", "already"]);
    for family in Family::BOTH {
        requests(&rig, family, 10);
    }
    assert!(rig.servers_view().iter().all(|s| s.up));
    rig.finish();
}

/// On a host that forwards, and has no route to the clients, the kernel would tell the servers that
/// they cannot be reached.
#[test]
fn a_kernel_that_forwards_is_kept_out() {
    const FORWARDING: [&str; 2] =
        ["net.ipv4.conf.front.forwarding", "net.ipv4.conf.back.forwarding"];
    let mut rig = Rig::without_shunt(Plan::new(Mode::Nat, 1));
    for key in FORWARDING {
        rig.lb.sysctl(key, "1");
    }
    let config = changed(&rig.config(), "exception = \"sl-front\"", "exception = \"\"");
    let config = rig.write_config("shunt.toml", &config);
    rig.run_shunt(&config);
    requests(&rig, Family::V4, 100);
    rig.stop_shunt();
    for key in FORWARDING {
        let output = rig.lb.command("sysctl").args(["-n", key]).output().expect("sysctl starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "{key} is as it was");
    }
    rig.assert_no_taps();
}

/// Mistakes in the file are all reported, each with its line and key; `check` says the same.
#[test]
fn a_wrong_file_changes_nothing() {
    let rig = Rig::without_shunt(Plan::new(Mode::Nat, 1));
    let good = rig.config();
    let wrong = changed(&good, "idle = \"yield\"", "idle = \"sleep\"");
    let wrong = changed(&wrong, "side = \"server\"", "sides = \"server\"");
    let path = rig.write_config("wrong.toml", &wrong);
    let line_of = |text: &str| 1 + wrong.lines().position(|l| l.contains(text)).expect("there");
    for arguments in [&["run", "--config"][..], &["check"]] {
        let output = rig.lb.command(SHUNT).args(arguments).arg(&path).output().expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        for (key, line) in [("idle", line_of("idle = ")), ("sides", line_of("sides = "))] {
            let place = format!("wrong.toml:{line}:");
            let found = error.lines().any(|l| l.contains(&place) && l.contains(key));
            assert!(found, "no line with {place} and {key}:\n{error}");
        }
    }
    rig.assert_no_taps();
    let good = rig.write_config("good.toml", &good);
    assert_eq!(check(&good), (Some(0), true));
}

/// `shunt check FILE`: its exit status, and whether standard error stayed empty.
fn check(path: &Path) -> (Option<i32>, bool) {
    let output = std::process::Command::new(SHUNT).arg("check").arg(path).output().expect("starts");
    (output.status.code(), output.stderr.is_empty())
}
