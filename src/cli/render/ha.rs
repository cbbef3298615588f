//! `shunt ha`

use std::fmt::Write;

use crate::cli::format::{count, duration, plural, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::pair_types::{Ha, IgnoredAdverts, Pair, Peer, Sync};

/// This node, the peer and what goes between them; the groups; what is wrong.
pub(in crate::cli) fn text(answer: &Ha) -> String {
    match &answer.pair {
        Some(pair) => pair_text(pair),
        None => {
            "This node has no peer. The section [ha] of the configuration makes it one of a pair; \
                 conf/pair-a.toml and conf/full.toml show how.\n"
                .to_owned()
        }
    }
}

fn pair_text(pair: &Pair) -> String {
    let mut out = String::new();
    let mut line = |subject: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{subject:<9} {text}");
    };
    let node = &pair.node;
    let boot = node.boot.as_ref().map(|boot| format!(", start {boot}")).unwrap_or_default();
    line(
        "node",
        format!("{} (id {}) at {}, shunt {}{boot}", node.name, node.id, node.address, node.version),
    );
    line("mode", pair.mode.clone());
    line("peer", peer_text(&pair.peer));
    line(
        "sessions",
        format!(
            "{} of this node, {} not known to the peer; {} of the peer, {}",
            count(pair.sync.own_sessions),
            count(pair.sync.unprotected_sessions),
            count(pair.sync.foreign_sessions),
            match (pair.peer.alive, node.synced) {
                (_, true) => "which are all".to_owned(),
                (true, false) if node.buckets_synced + node.buckets_lacking >= node.buckets =>
                    format!(
                        "all but {} that could not be taken in",
                        count(pair.sync.lacking_sessions)
                    ),
                (true, false) => format!(
                    "{}{} of {} buckets are equal",
                    joining_text(&pair.sync),
                    node.buckets_synced,
                    node.buckets
                ),
                (false, false) => "which is not heard".to_owned(),
            }
        ),
    );
    line("key", key_text(&pair.sync));
    for (subject, text) in sync_text(&pair.sync).into_iter().chain(adverts_text(pair)) {
        line(subject, text);
    }
    if !pair.groups.is_empty() {
        out.push('\n');
        out.push_str(&groups_text(pair));
    }
    if !pair.problems.is_empty() {
        out.push('\n');
    }
    for problem in &pair.problems {
        let severity = if problem.severity == "bad" { "BAD" } else { &problem.severity };
        let _ = writeln!(out, "{severity:<4}  {}", problem.text);
        if let Some(mend) = &problem.mend {
            let _ = writeln!(out, "      mend: {mend}");
        }
    }
    out
}

/// How far a bulk walk of the peer has come.
fn joining_text(s: &Sync) -> String {
    if s.joining_total == 0 {
        return String::new();
    }
    let percent = percent(s.joining_imported, s.joining_total);
    format!(
        "imported {} of {} ({percent:.1} %), ",
        count(s.joining_imported),
        count(s.joining_total)
    )
}

fn percent(done: u64, total: u64) -> f64 {
    done.min(total) as f64 * 100.0 / total.max(1) as f64
}

fn peer_text(peer: &Peer) -> String {
    let Peer { address, id, .. } = peer;
    let since = duration(peer.since_ms);
    let Some(boot) = &peer.boot else {
        return format!("{address} (id {id}), not heard so far, for {since}");
    };
    let state = match (peer.alive, peer.leaving) {
        (true, false) => "there",
        (true, true) => "stopping",
        (false, true) => "stopped",
        (false, false) => "not heard",
    };
    let config = match peer.config_equal {
        Some(true) => ", configuration alike",
        Some(false) => ", CONFIGURATION DIFFERS",
        None => "",
    };
    let all = match (peer.alive, peer.synced, peer.lacking_sessions) {
        (true, true, _) => ", has all sessions of this node".to_owned(),
        (true, false, 0) => ", does not have all sessions of this node yet".to_owned(),
        (true, false, n) => {
            format!(", has all sessions of this node but {} that it could not take in", count(n))
        }
        (false, ..) => String::new(),
    };
    let restarted = match peer.restarted_ago_ms.map(duration) {
        Some(ago) if peer.restarts == 1 => format!(", restarted once, {ago} ago"),
        Some(ago) => format!(", restarted {} times, the last {ago} ago", peer.restarts),
        None => String::new(),
    };
    format!(
        "{address} (id {id}), {state} for {since}{restarted}, shunt {}, start {boot}, {}{config}{all}",
        peer.version,
        plural(peer.workers as usize, "worker")
    )
}

fn key_text(s: &Sync) -> String {
    match &s.other_key {
        Some(other) => format!("signs with {}, accepts {other} as well", s.signing_key),
        None => format!("signs with {}, accepts no other", s.signing_key),
    }
}

fn sync_text(s: &Sync) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        (
            "sent",
            format!(
                "{} datagrams ({}/s), {} records ({}/s); {} not acknowledged yet, {} sent again",
                count(s.sent_datagrams),
                rate(s.sent_datagrams_per_second),
                count(s.sent_records),
                rate(s.sent_records_per_second),
                count(s.lag_datagrams),
                count(s.repeated_datagrams)
            ),
        ),
        (
            "received",
            format!(
                "{} datagrams ({}/s), {} records ({}/s); {} missed at first",
                count(s.received_datagrams),
                rate(s.received_datagrams_per_second),
                count(s.received_records),
                rate(s.received_records_per_second),
                count(s.missed_datagrams)
            ),
        ),
    ];
    if s.walk_total > 0 {
        let percent = percent(s.walk_sent, s.walk_total);
        let text = format!(
            "{percent:.1} %: {} of {} sessions told to the peer",
            count(s.walk_sent),
            count(s.walk_total)
        );
        lines.push(("walk", text));
    }
    if s.relayed_packets + s.relay_answered_packets + s.relay_refused_packets > 0 {
        let text = format!(
            "{} packets given to the peer; {} taken from it met a session, {} none",
            count(s.relayed_packets),
            count(s.relay_answered_packets),
            count(s.relay_refused_packets)
        );
        lines.push(("relay", text));
    }
    let seldom = [
        (s.conflicts, "sessions with two servers, settled"),
        (s.digest_mismatches, "buckets that differed, told anew"),
        (s.gone, "datagrams not kept any more"),
        (s.refused_sessions, "attempts to take a session in that failed"),
        (s.streams_lost, "times that datagrams of the peer were lost for good"),
        (s.records_lost, "records lost between workers"),
        (s.send_failed, "datagrams without a buffer"),
        (s.relay_failed_packets, "packets that could not be given to the peer"),
        (s.bad_mac, "datagrams with a wrong key"),
        (s.replayed, "old datagrams"),
        (s.wrong_version, "datagrams of another version"),
        (s.duplicate_node, "datagrams of another node with this id"),
        (s.unproven, "datagrams of an unproven start of the peer"),
        (s.malformed, "datagrams that cannot be read"),
        (s.clock_jumps, "leaps of the clock"),
    ];
    let seldom: Vec<_> = seldom
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| match n {
            1 => format!("1 {}", what.replacen("s ", " ", 1)),
            _ => format!("{} {what}", count(n)),
        })
        .collect();
    for (i, text) in seldom.into_iter().enumerate() {
        lines.push((if i == 0 { "so far" } else { "" }, text));
    }
    lines
}

/// The adverts of VRRP that are not heeded.
fn adverts_text(pair: &Pair) -> Vec<(&'static str, String)> {
    let adverts = |n: u64| match n {
        1 => "1 advert".to_owned(),
        _ => format!("{} adverts", count(n)),
    };
    let mut lines = Vec::new();
    for ignored in &pair.ignored_adverts {
        let IgnoredAdverts { vrid, source, .. } = ignored;
        let whose = match (ignored.of_this_node, ignored.of_peer) {
            (true, true) => {
                format!("group {vrid} from {source}, before that was known to be the peer")
            }
            (true, false) => format!("group {vrid} from {source}, not the peer"),
            (false, _) => format!("VRID {vrid} from {source}, not one of ours"),
        };
        let (n, ago) = (adverts(ignored.adverts), duration(ignored.last_ago_ms));
        lines.push(format!("{n} for {whose}; the last {ago} ago"));
    }
    if pair.ignored_adverts_of_others > 0 {
        lines.push(format!("{} from others", adverts(pair.ignored_adverts_of_others)));
    }
    if pair.sync.vrrp_invalid > 0 {
        let n = adverts(pair.sync.vrrp_invalid);
        lines.push(format!("{n} with a wrong TTL, version, length or checksum"));
    }
    let subjects = std::iter::once("ignored").chain(std::iter::repeat(""));
    subjects.zip(lines).collect()
}

fn groups_text(pair: &Pair) -> String {
    let mut table = Table::new(&[
        Number("GROUP"),
        Text("STATE"),
        Text("FOR"),
        Text("PRIORITY"),
        Text("MASTER"),
        Number("ADDRESSES"),
        Text("ADVERTS"),
        Text("WHY"),
    ]);
    for group in &pair.groups {
        let priority = match group.effective_priority {
            effective if effective == group.priority => group.priority.to_string(),
            effective => format!("{effective} of {}", group.priority),
        };
        table.row([
            group.vrid.to_string(),
            group.state.clone(),
            duration(group.since_ms),
            priority,
            group.master.map_or_else(|| "-".into(), |master| master.to_string()),
            group.addresses.len().to_string(),
            format!(
                "{} sent, {} heard, {} ignored",
                count(group.adverts_sent),
                count(group.adverts_heard),
                count(group.adverts_ignored)
            ),
            group.why.clone(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::pair_types::{Group, Node, Problem};

    fn pair() -> Pair {
        let ip = |text: &str| text.parse().unwrap();
        Pair {
            mode: "active-backup".into(),
            node: Node {
                name: "lb-a".into(),
                id: 0,
                version: "0.1.0".into(),
                boot: Some("00000000000000b0".into()),
                address: ip("192.0.2.2"),
                config: "0000000000000005".into(),
                synced: true,
                buckets_synced: 128,
                buckets_lacking: 0,
                buckets: 128,
            },
            groups: vec![
                Group {
                    vrid: 10,
                    addresses: vec![ip("192.0.2.10"), ip("10.0.0.100")],
                    state: "master".into(),
                    priority: 200,
                    effective_priority: 200,
                    why: String::new(),
                    since_ms: 192_000,
                    master: Some(ip("192.0.2.2")),
                    adverts_sent: 190,
                    adverts_heard: 0,
                    adverts_ignored: 0,
                },
                Group {
                    vrid: 11,
                    addresses: vec![ip("192.0.2.20")],
                    state: "fault".into(),
                    priority: 100,
                    effective_priority: 0,
                    why: "port back has no link".into(),
                    since_ms: 5_000,
                    master: None,
                    adverts_sent: 1,
                    adverts_heard: 7,
                    adverts_ignored: 3,
                },
            ],
            ignored_adverts: vec![],
            ignored_adverts_of_others: 0,
            peer: Peer {
                address: ip("192.0.2.3"),
                id: 1,
                alive: true,
                since_ms: 190_000,
                version: "0.1.0".into(),
                boot: Some("00000000000000b1".into()),
                restarts: 0,
                restarted_ago_ms: None,
                workers: 2,
                synced: true,
                lacking_sessions: 0,
                leaving: false,
                config_equal: Some(true),
            },
            sync: Sync {
                port: "front".into(),
                signing_key: "0123abcd".into(),
                own_sessions: 12_345,
                foreign_sessions: 678,
                unprotected_sessions: 12,
                lag_datagrams: 2,
                sent_datagrams: 5_000,
                sent_datagrams_per_second: 100,
                sent_records: 50_000,
                sent_records_per_second: 1_000,
                received_datagrams: 400,
                received_datagrams_per_second: 9,
                received_records: 900,
                received_records_per_second: 20,
                repeated_datagrams: 3,
                missed_datagrams: 1,
                ..Sync::default()
            },
            problems: vec![],
        }
    }

    #[test]
    fn exact_text() {
        assert_eq!(
            text(&Ha { pair: Some(pair()) }),
            "\
node      lb-a (id 0) at 192.0.2.2, shunt 0.1.0, start 00000000000000b0
mode      active-backup
peer      192.0.2.3 (id 1), there for 3m10s, shunt 0.1.0, start 00000000000000b1, 2 workers, configuration alike, has all sessions of this node
sessions  12345 of this node, 12 not known to the peer; 678 of the peer, which are all
key       signs with 0123abcd, accepts no other
sent      5000 datagrams (100/s), 50000 records (1.0 k/s); 2 not acknowledged yet, 3 sent again
received  400 datagrams (9/s), 900 records (20/s); 1 missed at first

GROUP  STATE   FOR    PRIORITY  MASTER     ADDRESSES  ADVERTS                       WHY
   10  master  3m12s  200       192.0.2.2          2  190 sent, 0 heard, 0 ignored
   11  fault   5s     0 of 100  -                  1  1 sent, 7 heard, 3 ignored    port back has no link
"
        );
    }

    #[test]
    fn a_pair_in_trouble() {
        let mut pair = pair();
        pair.groups.clear();
        pair.mode = "active-active".into();
        (pair.node.boot, pair.node.synced, pair.node.buckets_synced) = (None, false, 40);
        (pair.peer.config_equal, pair.peer.synced) = (Some(false), false);
        pair.sync.other_key = Some("4567cdef".into());
        pair.sync.walk_sent = 250_000;
        pair.sync.walk_total = 1_000_000;
        pair.sync.relayed_packets = 7;
        pair.sync.bad_mac = 5;
        pair.sync.clock_jumps = 1;
        pair.sync.vrrp_invalid = 1;
        (pair.peer.restarts, pair.peer.restarted_ago_ms) = (3, Some(12_000));
        let ignored = |source: &str, vrid, of_this_node, adverts| IgnoredAdverts {
            source: source.parse().unwrap(),
            vrid,
            of_this_node,
            of_peer: false,
            adverts,
            last_ago_ms: 250,
        };
        pair.ignored_adverts =
            vec![ignored("192.0.2.77", 10, true, 3), ignored("fe80::77", 51, false, 1)];
        let of_peer = IgnoredAdverts { of_peer: true, ..ignored("10.0.0.3", 10, true, 2) };
        pair.ignored_adverts.insert(0, of_peer);
        pair.ignored_adverts_of_others = 2;
        let problem = |severity: &str, text: &str, mend: Option<&str>| Problem {
            kind: "x".into(),
            severity: severity.into(),
            text: text.into(),
            mend: mend.map(str::to_owned),
        };
        pair.problems = vec![
            problem("bad", "the configurations differ", Some("compare the files")),
            problem("info", "this node does not have all sessions yet", None),
        ];
        let shown = text(&Ha { pair: Some(pair.clone()) });
        assert_eq!(
            shown.lines().skip(1).collect::<Vec<_>>(),
            [
                "mode      active-active",
                "peer      192.0.2.3 (id 1), there for 3m10s, restarted 3 times, the last 12s ago, shunt 0.1.0, start 00000000000000b1, 2 workers, CONFIGURATION DIFFERS, does not have all sessions of this node yet",
                "sessions  12345 of this node, 12 not known to the peer; 678 of the peer, 40 of 128 buckets are equal",
                "key       signs with 0123abcd, accepts 4567cdef as well",
                "sent      5000 datagrams (100/s), 50000 records (1.0 k/s); 2 not acknowledged yet, 3 sent again",
                "received  400 datagrams (9/s), 900 records (20/s); 1 missed at first",
                "walk      25.0 %: 250.0 k of 1.0 M sessions told to the peer",
                "relay     7 packets given to the peer; 0 taken from it met a session, 0 none",
                "so far    5 datagrams with a wrong key",
                "          1 leap of the clock",
                "ignored   2 adverts for group 10 from 10.0.0.3, before that was known to be the peer; the last 250ms ago",
                "          3 adverts for group 10 from 192.0.2.77, not the peer; the last 250ms ago",
                "          1 advert for VRID 51 from fe80::77, not one of ours; the last 250ms ago",
                "          2 adverts from others",
                "          1 advert with a wrong TTL, version, length or checksum",
                "",
                "BAD   the configurations differ",
                "      mend: compare the files",
                "info  this node does not have all sessions yet",
            ]
        );
        (pair.sync.joining_imported, pair.sync.joining_total) = (500, 2_000);
        let shown = text(&Ha { pair: Some(pair.clone()) });
        let joins = "sessions  12345 of this node, 12 not known to the peer; 678 of the peer, imported 500 of 2000 (25.0 %), 40 of 128 buckets are equal";
        assert_eq!(shown.lines().nth(3), Some(joins));
        pair.peer.alive = false;
        pair.peer.config_equal = None;
        (pair.peer.restarts, pair.peer.restarted_ago_ms) = (1, Some(190_000));
        let line =
            |pair: &Pair| text(&Ha { pair: Some(pair.clone()) }).lines().nth(2).unwrap().to_owned();
        assert_eq!(
            line(&pair),
            "peer      192.0.2.3 (id 1), not heard for 3m10s, restarted once, 3m10s ago, shunt 0.1.0, start 00000000000000b1, 2 workers"
        );
        pair.peer.boot = None;
        assert_eq!(line(&pair), "peer      192.0.2.3 (id 1), not heard so far, for 3m10s");
    }

    #[test]
    fn what_could_not_be_taken_in() {
        let mut pair = pair();
        (pair.node.synced, pair.node.buckets_synced, pair.node.buckets_lacking) = (false, 126, 2);
        (pair.sync.lacking_sessions, pair.sync.refused_sessions) = (3, 12);
        (pair.peer.synced, pair.peer.lacking_sessions) = (false, 4);
        let shown = text(&Ha { pair: Some(pair) });
        for line in [
            "sessions  12345 of this node, 12 not known to the peer; 678 of the peer, all but 3 that could not be taken in",
            "so far    12 attempts to take a session in that failed",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{shown}");
        }
        let peer = shown.lines().nth(2).unwrap();
        let says = ", has all sessions of this node but 4 that it could not take in";
        assert!(peer.ends_with(says), "{peer}");
    }

    #[test]
    fn a_node_without_a_peer() {
        let text = text(&Ha { pair: None });
        assert!(text.starts_with("This node has no peer. The section [ha] "), "{text}");
    }
}
