//! `shunt workers`

use super::balance;
use crate::cli::format::{count, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::{Worker, Workers};

/// For each worker: its load; what came, what became of it, and whether it adds up; what is not zero of
/// the rest.
pub(in crate::cli) fn text(answer: &Workers) -> String {
    let mut load = Table::new(&[
        Number("WORKER"),
        Number("CORE"),
        Number("BUSY"),
        Number("IN p/s"),
        Number("OUT p/s"),
        Number("SESSIONS"),
        Number("EXPIRED"),
    ]);
    let mut packets = Table::new(&[
        Number("WORKER"),
        Number("IN"),
        Number("HANDED IN"),
        Number("OUT"),
        Number("HANDED OFF"),
        Number("CONSUMED"),
        Number("HELD"),
        Number("DROPPED"),
        Number("TO KERNEL"),
        Number("MADE"),
        Text("PACKETS"),
    ]);
    for w in &answer.workers {
        load.row([
            w.worker.to_string(),
            w.core.to_string(),
            format!("{:.1} %", w.busy_percent),
            rate(w.rx_pps),
            rate(w.tx_pps),
            count(w.sessions_v4 + w.sessions_v6),
            count(w.sessions_expired),
        ]);
        packets.row([
            w.worker.to_string(),
            count(w.rx_packets),
            count(w.handed_in_packets),
            count(w.tx_packets),
            count(w.handed_off_packets),
            count(w.consumed_packets),
            count(w.held_packets),
            count(w.dropped_packets),
            count(w.punted_packets),
            count(w.originated_packets),
            balance(w.unaccounted_packets),
        ]);
    }
    format!("{}\n{}{}{}", load.text(), packets.text(), seldom(answer), besides(answer))
}

/// What many nodes have none of: a table of the columns that have something other than 0.
fn seldom(answer: &Workers) -> String {
    type Value = fn(&Worker) -> u64;
    let columns: [(&str, Value); 6] = [
        ("WITH SERVER", |w| w.sessions_ended_with_server),
        ("RESETS", |w| w.resets_sent),
        ("ICMP ERRORS", |w| w.icmp_errors),
        ("FRAGMENTS", |w| w.fragments),
        ("PERSISTENT", |w| w.persistent_clients),
        ("EVENTS LOST", |w| w.events_lost),
    ];
    let has_some = |(_, value): &(&str, Value)| answer.workers.iter().any(|w| value(w) > 0);
    let columns: Vec<_> = columns.into_iter().filter(has_some).collect();
    if columns.is_empty() {
        return String::new();
    }
    let names = columns.iter().map(|(name, _)| Number(name));
    let mut table = Table::new(&[Number("WORKER")].into_iter().chain(names).collect::<Vec<_>>());
    for w in &answer.workers {
        let values = columns.iter().map(|(_, value)| count(value(w)));
        table.row([w.worker.to_string()].into_iter().chain(values));
    }
    format!("\n{}", table.text())
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
    if !out.is_empty() {
        out.insert(0, '\n');
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
            text(&Workers { workers: vec![worker.clone()] }),
            "\
WORKER  CORE    BUSY  IN p/s  OUT p/s  SESSIONS  EXPIRED
     0     3  12.3 %      10        9        22        6

WORKER    IN  HANDED IN  OUT  HANDED OFF  CONSUMED  HELD  DROPPED  TO KERNEL  MADE  PACKETS
     0  1000          5  990           4         7     1        2          3     8  1 in flight

WORKER  WITH SERVER  RESETS  ICMP ERRORS  FRAGMENTS  PERSISTENT
     0            5      14            9         11          12

2 sessions are half-open
1500 copies for mirrors made, 1 missed
9 packets of sources without a place of their own
3 packets had no room for the TOA option
4 connections of clients that could not be remembered
"
        );

        // Nothing of what is seldom, and all of it in large numbers.
        let calm = Worker {
            sessions_ended_with_server: 0,
            resets_sent: 0,
            icmp_errors: 0,
            fragments: 0,
            persistent_clients: 0,
            sessions_half_open: 0,
            sources_untracked: 0,
            mirrored_packets: 0,
            mirror_missed_packets: 0,
            toa_no_room: 0,
            persistence_full: 0,
            ..worker.clone()
        };
        let few = text(&Workers { workers: vec![calm] });
        assert_eq!(few.lines().count(), 5, "{few}");
        const MANY: u64 = 999_900_000_000;
        let busy = Worker {
            worker: 63,
            core: 1023,
            rx_packets: MANY,
            rx_pps: MANY,
            handed_in_packets: MANY,
            tx_packets: MANY,
            tx_pps: MANY,
            handed_off_packets: MANY,
            punted_packets: MANY,
            consumed_packets: MANY,
            held_packets: MANY,
            dropped_packets: MANY,
            originated_packets: MANY,
            unaccounted_packets: 1_000_000,
            events_lost: MANY,
            ..worker
        };
        for line in text(&Workers { workers: vec![busy] }).lines() {
            assert!(line.chars().count() <= 120, "{}: {line}", line.chars().count());
        }
    }
}
