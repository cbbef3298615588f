//! `shunt status`

use std::fmt::Write;

use super::balance;
use crate::cli::format::{count, duration, plural, rate};
use crate::manage::api::types::{PairSummary, Status};

/// The node at a glance, one subject to a line.
pub(in crate::cli) fn text(s: &Status) -> String {
    let mut out = String::new();
    let mut line = |subject: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{subject:<9} {text}");
    };
    line(
        "node",
        format!(
            "{} (id {}), shunt {}, up {}, configuration {}",
            s.node,
            s.node_id,
            s.version,
            duration(s.uptime_ms),
            s.generation
        ),
    );
    let sessions = s.sessions_v4 + s.sessions_v6;
    let share = sessions as f64 * 100.0 / s.sessions_capacity.max(1) as f64;
    line(
        "sessions",
        format!(
            "{} of {} ({share:.1} %), {} new/s",
            count(sessions),
            count(s.sessions_capacity),
            rate(s.sessions_per_second)
        ),
    );
    line("receive", format!("{} packets/s, {} bit/s", rate(s.rx_pps), rate(s.rx_bps)));
    line("transmit", format!("{} packets/s, {} bit/s", rate(s.tx_pps), rate(s.tx_bps)));
    line("services", format!("{} up, {} down", s.services_up, s.services_down));
    if !s.syn_proxy_on.is_empty() {
        line("syn proxy", format!("on for {}", s.syn_proxy_on.join(", ")));
    }
    let unknown = match s.servers_unknown {
        0 => String::new(),
        n => format!(", {n} not checked yet"),
    };
    line("servers", format!("{} up, {} down{unknown}", s.servers_up, s.servers_down));
    if let Some(pair) = &s.pair {
        line("pair", pair_text(pair));
    }
    for (i, w) in s.workers.iter().enumerate() {
        let subject = if i == 0 { "workers" } else { "" };
        let balance = balance(w.unaccounted_packets);
        line(subject, format!("{} on core {}: packets {balance}", w.worker, w.core));
    }
    let total = format!("{} packets, {} packets/s", count(s.dropped_packets), rate(s.dropped_pps));
    line("drops", total);
    for drop in &s.worst_drops {
        let packets = count(drop.packets);
        line("", format!("{packets} {} ({}/s): {}", drop.reason, rate(drop.pps), drop.help));
    }
    out
}

fn pair_text(pair: &PairSummary) -> String {
    let groups = pair.groups.iter().map(|(vrid, state)| format!("group {vrid} {state}, "));
    let peer = match (pair.peer_alive, pair.synced) {
        (true, true) => "is there, all its sessions are here",
        (true, false) => "is there, not all its sessions are here",
        (false, _) => "is not heard",
    };
    let problems = match pair.problems {
        0 => String::new(),
        n => format!("; {}: see shunt ha", plural(n as usize, "problem")),
    };
    format!("{}peer {} {peer}{problems}", groups.collect::<String>(), pair.peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::{DropCount, WorkerBalance};

    #[test]
    fn exact_text() {
        let status = Status {
            version: "0.1.0".into(),
            node: "lb-a".into(),
            node_id: 0,
            uptime_ms: 192_000,
            generation: 4,
            sessions_v4: 200_000,
            sessions_v6: 345,
            sessions_capacity: 4_000_000,
            sessions_per_second: 12_345,
            rx_pps: 8_600_000,
            rx_bps: 4_400_000_000,
            tx_pps: 999,
            tx_bps: 500_000,
            services_up: 2,
            services_down: 1,
            servers_up: 4,
            servers_down: 3,
            workers: vec![
                WorkerBalance { worker: 0, core: 1, unaccounted_packets: 0 },
                WorkerBalance { worker: 1, core: 2, unaccounted_packets: 12 },
            ],
            dropped_packets: 1_234,
            dropped_pps: 5,
            worst_drops: vec![DropCount {
                reason: "no_session".into(),
                help: "In mid-stream and no session is known for it.".into(),
                packets: 1_200,
                pps: 5,
            }],
            syn_proxy_on: vec!["web".into(), "mail".into()],
            servers_unknown: 0,
            pair: None,
        };
        assert_eq!(
            text(&status),
            "\
node      lb-a (id 0), shunt 0.1.0, up 3m12s, configuration 4
sessions  200.3 k of 4.0 M (5.0 %), 12.3 k new/s
receive   8.6 M packets/s, 4.4 G bit/s
transmit  999 packets/s, 500.0 k bit/s
services  2 up, 1 down
syn proxy on for web, mail
servers   4 up, 3 down
workers   0 on core 1: packets balanced
          1 on core 2: packets 12 in flight
drops     1234 packets, 5 packets/s
          1200 no_session (5/s): In mid-stream and no session is known for it.
"
        );
        let pair = |peer_alive, synced, problems| {
            let groups = vec![(10, "master".into()), (11, "backup".into())];
            let peer = "192.0.2.3".parse().unwrap();
            let pair = Some(PairSummary { peer, peer_alive, synced, groups, problems });
            let text = text(&Status { pair, ..status.clone() });
            text.lines().find(|line| line.starts_with("pair")).unwrap().to_owned()
        };
        assert_eq!(
            pair(true, true, 0),
            "pair      group 10 master, group 11 backup, peer 192.0.2.3 is there, all its sessions are \
             here"
        );
        assert_eq!(
            pair(false, false, 2),
            "pair      group 10 master, group 11 backup, peer 192.0.2.3 is not heard; 2 problems: see \
             shunt ha"
        );
        let starting = Status { servers_unknown: 2, ..status };
        assert!(text(&starting).contains("\nservers   4 up, 3 down, 2 not checked yet\n"));
    }
}
