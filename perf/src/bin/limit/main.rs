//! How fast is Shunt beside the same device with no load balancer in the way?
//!
//! Two rigs, each with one core for the device under test:
//!
//! 1. virtio_user ⇄ vhost: the generator (core 0) and the device under test (core 1) exchange frames
//!    in shared memory;
//! 2. net_pcap with `infinite_rx`: the driver replays a capture of N flows for ever and drops what is
//!    sent, so the device under test is alone on core 1.
//!
//! The yardstick is testpmd on the same device and core. All rows are measured in turn, several
//! times over, and a row's ratio is to the yardstick of the same round, so that a noisy moment
//! meets all alike; the table shows medians.

mod config;
mod process;
mod report;
mod rig;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;

use self::rig::{Bench, Device, Measured, Rig, Row};

/// Measures Shunt beside testpmd and prints a table with ratios.
#[derive(Parser)]
#[command(name = "perf/limit")]
struct Arguments {
    /// One round of 2 s for each row, and fewer rows.
    #[arg(long)]
    quick: bool,
    /// Rounds.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long)]
    seconds: Option<u32>,
    /// Only this rig: 1 or 2.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    rig: Option<u8>,
    /// Only rows of Shunt in this mode; testpmd stays.
    #[arg(long, value_parser = ["nat", "fullnat", "dr"])]
    mode: Option<String>,
    /// Only rows with at most so many flows.
    #[arg(long)]
    max_flows: Option<u32>,
    /// The shunt binary to measure; the default is beside this program. May be given several times:
    /// rows of each are then measured in turn, to compare builds.
    #[arg(long, value_name = "FILE")]
    shunt: Vec<PathBuf>,
    /// Measure each row of Shunt once more with `[ha]` in the configuration: the channel on the same
    /// port, and no peer there.
    #[arg(long)]
    sync: bool,
    /// Also write the results there, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let beside =
        std::env::current_exe()?.parent().context("a program is in a directory")?.to_owned();
    let mut builds = arguments.shunt.clone();
    if builds.is_empty() {
        builds.push(beside.join("shunt"));
    }
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 });
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 2 } else { 4 });
    let rows = rows(&arguments, builds.len());
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the generator, one for the device under test");
    }

    let bench = Bench::new(beside, builds, seconds)?;
    print!("{}", report::heading(&bench, rounds, seconds));
    let mut results: Vec<Vec<Measured>> = vec![Vec::new(); rows.len()];
    for round in 1..=rounds {
        for (row, results) in rows.iter().zip(&mut results) {
            eprint!("round {round}/{rounds}: {row} … ");
            match bench.measure(row) {
                Ok(measured) => {
                    eprintln!("{:.2} Mpps{}", measured.mpps, measured.remark());
                    results.push(measured);
                }
                Err(error) => {
                    eprintln!("failed: {error:#}");
                    results.push(Measured::failed(format!("{error:#}")));
                }
            }
        }
    }
    print!("{}", report::table(&rows, &results));
    if let Some(path) = arguments.json {
        let json = serde_json::to_string_pretty(&report::json(&rows, &results))?;
        std::fs::write(&path, json).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

/// The rows in the order of the table.
fn rows(arguments: &Arguments, builds: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |rig, device, flows, direction| rows.push(Row { rig, device, flows, direction });
    let modes = ["nat", "fullnat", "dr"].into_iter();
    let modes: Vec<&'static str> =
        modes.filter(|m| arguments.mode.as_deref().is_none_or(|only| only == *m)).collect();
    // Each build, and beside it the same with a channel.
    let devices = |mode| {
        let with = if arguments.sync { &[false, true][..] } else { &[false] };
        let of = move |build| with.iter().map(move |&sync| Device::Shunt { mode, build, sync });
        (0..builds).flat_map(of)
    };
    let flows = |all: [u32; 3]| {
        let most = arguments.max_flows.unwrap_or(if arguments.quick { 1 << 16 } else { 1 << 20 });
        all.into_iter().filter(move |&n| n <= most)
    };
    if arguments.rig != Some(2) {
        for mode in ["io", "5tswap"] {
            add(Rig::Virtio, Device::Testpmd(mode), 1 << 10, "forward");
        }
        for &mode in &modes {
            for flows in flows([1 << 10, 1 << 16, 1 << 20]) {
                for device in devices(mode) {
                    add(Rig::Virtio, device, flows, "forward");
                }
                if mode != "dr" && (flows == 1 << 10 || !arguments.quick) {
                    for device in devices(mode) {
                        add(Rig::Virtio, device, flows, "reply");
                    }
                }
            }
        }
    }
    if arguments.rig != Some(1) {
        for flows in flows([1 << 10, 1 << 14, 1 << 16]) {
            add(Rig::Pcap, Device::Testpmd("macswap"), flows, "forward");
        }
        for &mode in &modes {
            for flows in flows([1 << 10, 1 << 14, 1 << 16]) {
                for device in devices(mode) {
                    add(Rig::Pcap, device, flows, "forward");
                }
            }
        }
    }
    rows
}
