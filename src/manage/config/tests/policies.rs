//! What a service does with its sessions beyond forwarding them.

use super::*;
use crate::datapath::policy::{MidStream, OnServerDown};

fn web(given: &str, expected: &str) {
    one(
        "name = \"web\"",
        &format!("name = \"web\"\n{given}"),
        &format!("f.toml:31: [[service]] {expected}"),
    );
}

fn dns(given: &str, expected: &str) {
    one(
        "name = \"dns\"",
        &format!("name = \"dns\"\n{given}"),
        &format!("f.toml:45: [[service]] {expected}"),
    );
}

#[test]
fn values() {
    web(
        "mid_stream = \"keep\"",
        "mid_stream: \"keep\" is unknown; expected \"drop\", \"reset\", \"adopt\"",
    );
    web("reset_on_expiry = 1", "reset_on_expiry: is an integer; expected true or false");
    web(
        "on_server_down = \"reset\"",
        "on_server_down: \"reset\" is unknown; expected \"keep\", \"end\"",
    );
    web("mss = 87", "mss: 87 is out of range; expected 0 or 88 to 9176");
    web("mss = 9177", "mss: 9177 is out of range; expected 0 to 9176");
    web("dscp = 64", "dscp: 64 is out of range; expected 0 to 63");
    web("dscp = \"EF\"", "dscp: is a string; expected 0 to 63");
}

#[test]
fn what_udp_does_not_have() {
    for given in ["mid_stream = \"drop\"", "reset_on_expiry = false", "mss = 0"] {
        let key = given.split_once(' ').unwrap().0;
        dns(given, &format!("{key}: only for protocol = \"tcp\"; leave it out"));
    }
}

#[test]
fn connections_are_adopted_by_what_is_deterministic() {
    for kind in ["sh", "maglev"] {
        let given = format!("name = \"web\"\nmid_stream = \"adopt\"\nscheduler = \"{kind}\"");
        expect(&[("name = \"web\"", &given)], &[]);
    }
    for kind in ["rr", "wrr", "lc", "wlc", "sed", "nq"] {
        web(
            &format!("mid_stream = \"adopt\"\nscheduler = \"{kind}\""),
            &format!(
                "mid_stream: \"adopt\" needs a scheduler that gives a client the same server every \
                 time, and \"{kind}\" does not; expected scheduler = \"sh\" or \"maglev\""
            ),
        );
    }
    expect(
        &[("name = \"web\"", "name = \"web\"\nmode = \"fullnat\"\nmid_stream = \"adopt\"")],
        &[
            "f.toml:32: [[service]] mid_stream: \"adopt\" cannot find the local port of a connection in mode \"fullnat\"; expected \"drop\", \"reset\"",
            "f.toml:32: [[service]] mid_stream: \"adopt\" needs a scheduler that gives a client the same server every time, and \"wrr\" does not; expected scheduler = \"sh\" or \"maglev\"",
        ],
    );
}

#[test]
fn defaults_and_what_is_given() {
    let policies = |changes: &[(&str, &str)]| {
        let mut text = BASE.to_owned();
        for (from, to) in changes {
            text = text.replacen(from, to, 1);
        }
        let config = parse(&text, "f.toml").unwrap();
        [config.services[0].policy, config.services[1].policy]
    };
    let [web, dns] = policies(&[]);
    let plain = Policy::default();
    assert_eq!(web, Policy { mid_stream: MidStream::Reset, reset_on_expiry: true, ..plain });
    assert_eq!(dns, Policy { on_server_down: OnServerDown::End, ..plain });
    let given = "mid_stream = \"drop\"\nreset_on_expiry = false\non_server_down = \"end\"\n\
                 mss = 1400\ndscp = 0\n";
    let [web, dns] = policies(&[
        ("name = \"web\"\n", &format!("name = \"web\"\n{given}")),
        ("name = \"dns\"\n", "name = \"dns\"\non_server_down = \"keep\"\ndscp = 63\n"),
    ]);
    let end = OnServerDown::End;
    assert_eq!(web, Policy { on_server_down: end, mss: 1400, dscp: Some(0), ..plain });
    assert_eq!(dns, Policy { dscp: Some(63), ..plain });
}

#[test]
fn each_state_of_tcp_has_its_timeout() {
    let keys = [
        ("tcp_syn", 1_000),
        ("tcp_syn_received", 2_000),
        ("tcp_established", 3_000),
        ("tcp_fin_wait", 4_000),
        ("tcp_time_wait", 5_000),
        ("tcp_close", 6_000),
    ];
    let lines: String = keys.iter().map(|(key, ms)| format!("{key} = {}\n", ms / 1_000)).collect();
    let text = BASE.replacen("[service.timeouts]\n", &format!("[service.timeouts]\n{lines}"), 1);
    let services = parse(&text, "f.toml").unwrap().services;
    let expected = Timeouts {
        tcp_syn: 1_000,
        tcp_syn_received: 2_000,
        tcp_established: 3_000,
        tcp_fin_wait: 4_000,
        tcp_time_wait: 5_000,
        tcp_close: 6_000,
        tcp_fin: 20_000,
        udp: 40_000,
    };
    assert_eq!(services[0].timeouts, expected);
    assert_eq!(services[1].timeouts, Timeouts { udp: 40_000, ..Timeouts::DEFAULT });
    for (key, _) in keys {
        one(
            "udp = 40",
            &format!("udp = 40\n{key} = 0"),
            &format!("f.toml:29: [timeouts] {key}: 0 is out of range; expected 1 to 86400"),
        );
    }
}
