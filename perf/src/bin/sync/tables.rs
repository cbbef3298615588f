//! What is printed.

use std::fmt::Write;
use std::time::Duration;

use perf::report::{self, median, number, range};
use shunt::session::Mode;

use crate::bulk::Bulk;
use crate::family;
use crate::latency::{Latency, Load};
use crate::rate::Rate;

/// A row of rates.
pub(crate) struct RateRow {
    pub(crate) mode: Mode,
    pub(crate) v6: bool,
    /// Of so many datagrams one is lost on the wire; 0 for none.
    pub(crate) lose_each: u32,
    /// Each round, without and with a pair.
    pub(crate) rounds: Vec<(Rate, Rate)>,
}

/// A mode, a number of flows, and each round's Mpps without and with a pair.
type ForwardingRow = (Mode, u32, Vec<(f64, f64)>);

/// What is measured, on what.
pub(crate) fn heading() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!(
        "command  perf/sync {}\n\
         cpu      {}\n\
         kernel   {}\n\
         commit   {}\n\
         rig      two workers in one process, each on a core of its own, rings in memory as the wire;\n\
         \x20        no drivers: packets are made and vanish at the ports\n\n",
        arguments.join(" "),
        report::cpu(),
        report::kernel(),
        report::commit()
    )
}

fn mode_name(mode: Mode) -> String {
    format!("{mode:?}").to_lowercase()
}

/// The table of latencies.
pub(crate) fn latency(rows: &[(Mode, bool, Load, Latency)]) -> String {
    let mut text =
        "Latency: from the SYN in node A's ring to the session in node B's table, µs\n\n"
            .to_owned();
    let _ = writeln!(
        text,
        "{:<13} {:<22} {:>8} {:>7} {:>7} {:>7} {:>8} {:>9} {:>9} {:>6}",
        "mode",
        "node A also forwards",
        "samples",
        "min",
        "p50",
        "p99",
        "p99.9",
        "max",
        "SYN first",
        "lost"
    );
    for (mode, v6, load, latency) in rows {
        let load = match load {
            Load::Idle => "nothing".to_owned(),
            Load::Paced(_) | Load::Full => format!("{:.2} Mpps", latency.background / 1e6),
        };
        let load = match rows.iter().any(|(.., l, _)| *l == Load::Full) && latency.background > 2e6
        {
            true => format!("{load}, its most"),
            false => load,
        };
        let at = |share| number(latency.percentile(share), 2);
        let _ = writeln!(
            text,
            "{:<13} {:<22} {:>8} {:>7} {:>7} {:>7} {:>8} {:>9} {:>9} {:>6}",
            format!("{} {}", mode_name(*mode), family(*v6)),
            load,
            latency.samples(),
            at(0.0),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            format!("{}/{}", latency.late, thousands(latency.syns as f64)),
            latency.lost
        );
    }
    text.push_str(
        "\nSYN first: SYNs that left node A before the record of their session, of all\n\n",
    );
    text
}

/// The table of rates.
pub(crate) fn rate(connections: u32, rounds: u32, rows: &[RateRow]) -> String {
    let mut text = format!(
        "Rate: node A flooded with SYNs, {} connections, {rounds} rounds, medians; sessions per second\n\n",
        thousands(f64::from(connections))
    );
    let _ = writeln!(
        text,
        "{:<13} {:>6} {:>7} {:>7} {:>15} {:>6} {:>8} {:>9} {:>5} {:>6} {:>8} {:>5} {:>7} {:>9} {:>7}",
        "mode",
        "lossy",
        "no peer",
        "peer",
        "min … max",
        "ratio",
        "imported",
        "behind ms",
        "lag",
        "missed",
        "repeated",
        "walks",
        "lacking",
        "SYN first",
        "dropped"
    );
    for row in rows {
        let of = |f: fn(&(Rate, Rate)) -> f64| row.rounds.iter().map(f).collect::<Vec<_>>();
        let middle = |f: fn(&(Rate, Rate)) -> f64| median(&of(f));
        let count = |f: fn(&(Rate, Rate)) -> f64| number(middle(f), 0);
        let thousand = |f| number(middle(f).map(|n| n / 1e3), 0) + " k";
        let _ = writeln!(
            text,
            "{:<13} {:>6} {:>7} {:>7} {:>15} {:>6} {:>8} {:>9} {:>5} {:>6} {:>8} {:>5} {:>7} {:>9} {:>7}",
            format!("{} {}", mode_name(row.mode), family(row.v6)),
            match row.lose_each {
                0 => "no".to_owned(),
                each => format!("{} %", 100.0 / f64::from(each)),
            },
            thousand(|(alone, _)| alone.created),
            thousand(|(_, paired)| paired.created),
            range(&of(|(_, paired)| paired.created / 1e3), 0) + " k",
            number(middle(|(alone, paired)| paired.created / alone.created), 3),
            thousand(|(_, paired)| paired.imported),
            number(middle(|(_, paired)| paired.behind_ms), 2),
            count(|(_, paired)| paired.lag as f64),
            count(|(_, paired)| paired.missed as f64),
            count(|(_, paired)| paired.repeated as f64),
            count(|(_, paired)| paired.walks as f64),
            count(|(_, paired)| paired.lacking as f64),
            count(|(_, paired)| paired.late as f64),
            count(|(alone, paired)| (alone.dropped + paired.dropped) as f64),
        );
        let failed: u64 = row.rounds.iter().map(|(_, paired)| paired.failed).sum();
        if failed != 0 {
            let _ = writeln!(text, "  {failed} datagrams found no buffer, in all rounds");
        }
    }
    text.push_str(
        "\nlossy: datagrams lost on the wire, either way; ratio: peer ÷ no peer of the same round; behind:\n\
         how long after node A's last session node B had its last; lag: datagrams not acknowledged when\n\
         node A was through; walks: of the whole table, for what could not be repeated; lacking: sessions\n\
         that node B does not have in the end\n\n",
    );
    text
}

/// The table of bulk walks.
pub(crate) fn bulk(sessions: u32, rounds: u32, rows: &[(u32, bool, Vec<Bulk>)]) -> String {
    let mut text = format!(
        "Bulk: node B joins when node A has {} sessions, {rounds} rounds, medians\n\n",
        thousands(f64::from(sessions))
    );
    let _ = writeln!(
        text,
        "{:>11} {:>8} {:>15} {:>9} {:>9} {:>6} {:>7} {:>12} {:>7} {:>7} {:>6}",
        "sync_rate",
        "synced s",
        "min … max",
        "walk s",
        "sessions",
        "walks",
        "missed",
        "Mpps before",
        "during",
        "after",
        "ratio"
    );
    for (rate, busy, results) in rows {
        let of = |f: fn(&Bulk) -> f64| results.iter().map(f).collect::<Vec<_>>();
        let middle = |f, digits| number(median(&of(f)), digits);
        let packets = |f| if *busy { middle(f, 2) } else { "idle".to_owned() };
        let _ = writeln!(
            text,
            "{:>11} {:>8} {:>15} {:>9} {:>9} {:>6} {:>7} {:>12} {:>7} {:>7} {:>6}",
            rate,
            middle(|b| b.synced, 2),
            range(&of(|b| b.synced), 2),
            middle(|b| b.took_in, 2),
            middle(|b| b.sessions as f64, 0),
            middle(|b| b.walks as f64, 0),
            middle(|b| b.missed as f64, 0),
            packets(|b| b.before),
            packets(|b| b.during),
            packets(|b| b.after),
            packets(|b| b.during / b.before)
        );
    }
    text.push_str(
        "\nsynced: from node B's first turn until all buckets are equal; walk: from its first session to\n\
         its last; Mpps: established packets that node A forwards, before, during and after the walk\n\n",
    );
    text
}

/// The table of what a peer costs in forwarding.
pub(crate) fn forwarding(rounds: u32, sample: Duration, rows: &[ForwardingRow]) -> String {
    let mut text = format!(
        "Forwarding: packets of established sessions (UDP, IPv4), Mpps; {rounds} rounds of {sample:?}, \
         medians\n\n"
    );
    let _ = writeln!(
        text,
        "{:<9} {:>7} {:>8} {:>15} {:>10} {:>15} {:>7} {:>15}",
        "mode", "flows", "no peer", "min … max", "with peer", "min … max", "ratio", "min … max"
    );
    for (mode, flows, results) in rows {
        let alone: Vec<f64> = results.iter().map(|(alone, _)| *alone).collect();
        let paired: Vec<f64> = results.iter().map(|(_, paired)| *paired).collect();
        let ratios: Vec<f64> = results.iter().map(|(alone, paired)| paired / alone).collect();
        let _ = writeln!(
            text,
            "{:<9} {:>7} {:>8} {:>15} {:>10} {:>15} {:>7} {:>15}",
            mode_name(*mode),
            format!("{} k", flows >> 10),
            number(median(&alone), 2),
            range(&alone, 2),
            number(median(&paired), 2),
            range(&paired, 2),
            number(median(&ratios), 3),
            range(&ratios, 3)
        );
    }
    text.push('\n');
    text
}

fn thousands(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{} M", n / 1e6),
        n if n >= 1e3 => format!("{:.0} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}
