//! curl through the VIP to nginx: every mode, both families, one, two and four workers.

use std::collections::BTreeMap;

use crate::rig::{Family, Mode, Plan, Rig, WEB, vip};

/// Sends `count` requests, each on a connection of its own; how many each server answered. None
/// may fail.
pub(crate) fn requests(rig: &Rig, family: Family, count: usize) -> BTreeMap<String, usize> {
    // curl reads [1-400] in an IPv6 URL as the address, so the VIP goes by a name.
    let resolve = format!("vip:{WEB}:{}", vip(family));
    let url = format!("http://vip/?[1-{count}]");
    let close = "Connection: close";
    let output = rig
        .client
        .command("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--resolve", &resolve])
        .args(["--header", close, "--write-out", " %{http_code}\\n", &url])
        .output()
        .expect("curl starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut answers = BTreeMap::new();
    let mut good = 0;
    for line in text.lines() {
        if let Some(server) = line.strip_suffix(" 200") {
            *answers.entry(server.to_owned()).or_insert(0) += 1;
            good += 1;
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(good, count, "answers of {family:?}: {answers:?}\n{errors}");
    answers
}

fn both_families(mode: Mode, workers: usize) {
    let rig = Rig::start(Plan::new(mode, workers));
    for family in Family::BOTH {
        let answers = requests(&rig, family, 100);
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["server1", "server2"], "{family:?}");
    }
    let service = rig.service_view("web");
    assert_eq!(service.sessions_created, 200);
    assert!(service.forward_packets >= 200 * 4, "{service:?}");
    if mode == Mode::Dr {
        assert_eq!(service.reply_packets, 0, "replies go to the client directly");
    } else {
        assert!(service.reply_packets >= 200 * 4, "{service:?}");
    }
    rig.finish();
}

#[test]
fn nat_1_worker() {
    both_families(Mode::Nat, 1);
}

#[test]
fn nat_2_workers() {
    both_families(Mode::Nat, 2);
}

#[test]
fn nat_4_workers() {
    both_families(Mode::Nat, 4);
}

#[test]
fn fullnat_1_worker() {
    both_families(Mode::FullNat, 1);
}

#[test]
fn fullnat_2_workers() {
    both_families(Mode::FullNat, 2);
}

#[test]
fn fullnat_4_workers() {
    both_families(Mode::FullNat, 4);
}

#[test]
fn dr_1_worker() {
    both_families(Mode::Dr, 1);
}

#[test]
fn dr_2_workers() {
    both_families(Mode::Dr, 2);
}

/// 400 connections to servers of weights 1 and 3. The smooth weighted round robin of one worker
/// never strays from the ideal by a whole connection; those of several workers add up.
fn weights(workers: usize) {
    let rig = Rig::start(Plan::new(Mode::Nat, workers).weights(&[1, 3]));
    for family in Family::BOTH {
        let answers = requests(&rig, family, 400);
        assert!(answers["server1"].abs_diff(100) < workers, "{family:?}: {answers:?}");
        assert_eq!(answers["server1"] + answers["server2"], 400);
        for (n, server) in rig.servers.iter().enumerate() {
            let view = rig.servers_view();
            let address = server.addresses[usize::from(family == Family::V6)];
            let row = view.iter().find(|s| s.service == "web" && s.address.ip() == address);
            let row = row.expect("the server is listed");
            assert_eq!(row.weight, [1, 3][n]);
            assert_eq!(row.sessions_created, answers[&server.name] as u64, "{family:?} {row:?}");
        }
    }
    rig.finish();
}

#[test]
fn weights_1_worker() {
    weights(1);
}

#[test]
fn weights_2_workers() {
    weights(2);
}
