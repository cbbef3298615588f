//! What session sync between two nodes costs, and how fast it is.
//!
//! Two real workers, each on a core of its own, joined by single-producer rings in memory as the wire.
//! Ports cost nothing: packets are made where a network card would give them and vanish where it would
//! send them, so the figures are those of the data path and of the sync protocol, without drivers, and
//! without the time that a real wire takes.
//!
//! - latency: from the SYN in node A's ring to the session in node B's table;
//! - rate: node A flooded with SYNs, with a peer and without;
//! - bulk: node B joins empty when node A has a million sessions;
//! - forwarding: packets of established sessions, with a peer and without.

mod bulk;
mod forwarding;
mod latency;
mod node;
mod rate;
mod tables;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use shunt::session::Mode;

use self::latency::Load;
use self::tables::RateRow;

/// Measures session sync between two nodes and prints tables.
#[derive(Parser, Debug)]
#[command(name = "perf/sync")]
struct Arguments {
    /// Fewer and shorter rounds, fewer sessions.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds of the parts but latency.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Sessions to be timed in each row of latency.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    samples: Option<u32>,
    /// Connections of each flood.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=4_000_000))]
    connections: Option<u32>,
    /// Sessions on the node that the other one joins.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    sessions: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Latency,
    Rate,
    Bulk,
    Forwarding,
}

fn main() -> anyhow::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let quick = arguments.quick;
    let is_wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    print!("{}", tables::heading());
    if is_wanted(Part::Latency) {
        latencies(arguments.samples.unwrap_or(if quick { 20_000 } else { 100_000 }))?;
    }
    let rounds = arguments.rounds.unwrap_or(if quick { 2 } else { 5 });
    if is_wanted(Part::Rate) {
        let connections = arguments.connections.unwrap_or(if quick { 500_000 } else { 2_000_000 });
        rates(connections, rounds)?;
    }
    if is_wanted(Part::Bulk) {
        let sessions = arguments.sessions.unwrap_or(1_000_000);
        let sample = Duration::from_millis(if quick { 500 } else { 2000 });
        bulks(sessions, if quick { 1 } else { rounds.min(3) }, sample)?;
    }
    if is_wanted(Part::Forwarding) {
        let sample = Duration::from_millis(if quick { 300 } else { 1000 });
        forwardings(if quick { 3 } else { rounds.max(7) }, sample)?;
    }
    Ok(())
}

fn latencies(samples: u32) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (mode, v6, load) in [
        (Mode::Nat, false, Load::Idle),
        (Mode::FullNat, true, Load::Idle),
        (Mode::Nat, false, Load::Paced(1_000_000)),
        (Mode::Nat, false, Load::Full),
    ] {
        eprintln!("latency: {mode:?}, {}, {load:?} …", family(v6));
        rows.push((mode, v6, load, latency::measure(mode, v6, load, samples)?));
    }
    print!("{}", tables::latency(&rows));
    Ok(())
}

fn rates(connections: u32, rounds: u32) -> anyhow::Result<()> {
    let cases = [
        (Mode::Nat, false, 0),
        (Mode::Nat, true, 0),
        (Mode::FullNat, false, 0),
        (Mode::FullNat, true, 0),
        (Mode::Nat, false, 1000),
    ];
    let mut rows =
        cases.map(|(mode, v6, lose_each)| RateRow { mode, v6, lose_each, rounds: Vec::new() });
    for round in 1..=rounds {
        for row in &mut rows {
            let RateRow { mode, v6, lose_each, .. } = *row;
            eprintln!("rate, round {round}/{rounds}: {mode:?}, {}, {lose_each} …", family(v6));
            let alone = rate::measure(mode, v6, false, connections, 0)?;
            let paired = rate::measure(mode, v6, true, connections, lose_each)?;
            row.rounds.push((alone, paired));
        }
    }
    print!("{}", tables::rate(connections, rounds, &rows));
    Ok(())
}

fn bulks(sessions: u32, rounds: u32, sample: Duration) -> anyhow::Result<()> {
    let cases = [(node::DEFAULT_RATE, true), (10_000_000, true), (10_000_000, false)];
    let mut rows = cases.map(|(rate, busy)| (rate, busy, Vec::new()));
    for round in 1..=rounds {
        for (rate, busy, results) in &mut rows {
            eprintln!("bulk, round {round}/{rounds}: {rate}/s, busy: {busy} …");
            results.push(bulk::measure(*rate, sessions, *busy, sample)?);
        }
    }
    print!("{}", tables::bulk(sessions, rounds, &rows));
    Ok(())
}

fn forwardings(rounds: u32, sample: Duration) -> anyhow::Result<()> {
    let cases = [
        (Mode::Nat, 1 << 10),
        (Mode::Nat, 1 << 16),
        (Mode::FullNat, 1 << 10),
        (Mode::FullNat, 1 << 16),
    ];
    let mut rows = cases.map(|(mode, flows)| (mode, flows, Vec::new()));
    for round in 1..=rounds {
        for (mode, flows, results) in &mut rows {
            eprintln!("forwarding, round {round}/{rounds}: {mode:?}, {flows} flows …");
            // Which one is first changes from round to round.
            let one = |pair| forwarding::measure(*mode, *flows, pair, sample);
            let (alone, paired) = match round % 2 {
                0 => {
                    let paired = one(true)?;
                    (one(false)?, paired)
                }
                _ => (one(false)?, one(true)?),
            };
            results.push((alone, paired));
        }
    }
    print!("{}", tables::forwarding(rounds, sample, &rows));
    Ok(())
}

/// The name of a family.
fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}
