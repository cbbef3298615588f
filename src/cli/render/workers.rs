//! `shunt workers`

use super::balance;
use crate::cli::format::{count, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::{Worker, Workers};

/// One row for each worker: what came, what became of it, and whether it adds up.
pub(in crate::cli) fn text(answer: &Workers) -> String {
    let mut table = Table::new(&[
        Number("WORKER"),
        Number("CORE"),
        Number("BUSY"),
        Number("IN p/s"),
        Number("OUT p/s"),
        Number("IN"),
        Number("HANDED IN"),
        Number("OUT"),
        Number("HANDED OFF"),
        Number("CONSUMED"),
        Number("HELD"),
        Number("DROPPED"),
        Number("TO KERNEL"),
        Number("MADE"),
        Number("SESSIONS"),
        Number("EXPIRED"),
        Number("WITH SERVER"),
        Number("RESETS"),
        Number("ICMP ERRORS"),
        Number("FRAGMENTS"),
        Number("PERSISTENT"),
        Number("EVENTS LOST"),
        Text("PACKETS"),
    ]);
    for w in &answer.workers {
        table.row([
            w.worker.to_string(),
            w.core.to_string(),
            format!("{:.1} %", w.busy_percent),
            rate(w.rx_pps),
            rate(w.tx_pps),
            count(w.rx_packets),
            count(w.handed_in_packets),
            count(w.tx_packets),
            count(w.handed_off_packets),
            count(w.consumed_packets),
            count(w.held_packets),
            count(w.dropped_packets),
            count(w.punted_packets),
            count(w.originated_packets),
            count(w.sessions_v4 + w.sessions_v6),
            count(w.sessions_expired),
            count(w.sessions_ended_with_server),
            count(w.resets_sent),
            count(w.icmp_errors),
            count(w.fragments),
            count(w.persistent_clients),
            count(w.events_lost),
            balance(w.unaccounted_packets),
        ]);
    }
    table.text() + &besides(answer)
}

/// What few nodes have: a line for each that is not zero.
fn besides(answer: &Workers) -> String {
    let sum = |of: fn(&Worker) -> u64| answer.workers.iter().map(of).sum::<u64>();
    let (made, missed) = (sum(|w| w.mirrored_packets), sum(|w| w.mirror_missed_packets));
    let (half_open, untracked) = (sum(|w| w.sessions_half_open), sum(|w| w.sources_untracked));
    let mut out = String::new();
    if half_open > 0 {
        out += &format!("{} sessions are half-open\n", count(half_open));
    }
    if made + missed > 0 {
        out += &format!("{} copies for mirrors made, {} missed\n", count(made), count(missed));
    }
    if untracked > 0 {
        out += &format!("{} packets of sources without a place of their own\n", count(untracked));
    }
    let (no_room, forgotten) = (sum(|w| w.toa_no_room), sum(|w| w.persistence_full));
    if no_room > 0 {
        out += &format!("{} packets had no room for the TOA option\n", count(no_room));
    }
    if forgotten > 0 {
        out +=
            &format!("{} connections of clients that could not be remembered\n", count(forgotten));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_text() {
        let worker = Worker {
            worker: 0,
            core: 3,
            rx_packets: 1_000,
            rx_pps: 10,
            handed_in_packets: 5,
            tx_packets: 990,
            tx_pps: 9,
            handed_off_packets: 4,
            punted_packets: 3,
            consumed_packets: 7,
            held_packets: 1,
            dropped_packets: 2,
            originated_packets: 8,
            unaccounted_packets: 1,
            sessions_v4: 20,
            sessions_v6: 2,
            sessions_expired: 6,
            persistent_clients: 12,
            persistence_full: 4,
            busy_percent: 12.34,
            icmp_errors: 9,
            fragments: 11,
            fragments_held: 1,
            events_lost: 0,
            toa_no_room: 3,
            commands_waiting: 0,
            resets_sent: 14,
            sessions_ended_with_server: 5,
            sessions_half_open: 2,
            sources_untracked: 9,
            mirrored_packets: 1_500,
            mirror_missed_packets: 1,
        };
        assert_eq!(
            text(&Workers { workers: vec![worker] }),
            "\
WORKER  CORE    BUSY  IN p/s  OUT p/s    IN  HANDED IN  OUT  HANDED OFF  CONSUMED  HELD  DROPPED  TO KERNEL  MADE  SESSIONS  EXPIRED  WITH SERVER  RESETS  ICMP ERRORS  FRAGMENTS  PERSISTENT  EVENTS LOST  PACKETS
     0     3  12.3 %      10        9  1000          5  990           4         7     1        2          3     8        22        6            5      14            9         11          12            0  1 in flight
2 sessions are half-open
1500 copies for mirrors made, 1 missed
9 packets of sources without a place of their own
3 packets had no room for the TOA option
4 connections of clients that could not be remembered
"
        );
    }
}
