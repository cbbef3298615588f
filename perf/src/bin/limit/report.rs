//! What is printed.

use std::fmt::Write;
use std::process::Command;

use perf::report::{commit, cpu, kernel, median, number, range, run};
use serde_json::{Value, json};
use shunt::dpdk::Eal;

use super::rig::{Bench, Device, Measured, Rig, Row};

/// The share of testpmd's rate that Shunt must reach with 1 k sessions.
const TARGET_VIRTIO: f64 = 0.45;
const TARGET_PCAP: f64 = 0.20;
/// The share of its own rate at 1 k flows that Shunt must reach with 64 k, on the second rig.
const TARGET_FLOWS: f64 = 0.50;

/// What is measured, on what.
pub(crate) fn heading(bench: &Bench, rounds: usize, seconds: u32) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "cpu      {}", cpu());
    let _ = writeln!(text, "kernel   {}", kernel());
    let _ = writeln!(text, "dpdk     {}", Eal::version());
    for build in &bench.builds {
        let version = run(Command::new(build).arg("--version"));
        let _ = writeln!(text, "shunt    {version}, {}", build.display());
    }
    let _ = writeln!(text, "commit   {}", commit());
    let _ = writeln!(
        text,
        "frames   64 bytes, UDP; generator on core 0, device under test on core 1\n\
         rounds   {rounds} of {seconds} s per row, all rows in turn; medians\n"
    );
    text
}

/// The table.
pub(crate) fn table(rows: &[Row], results: &[Vec<Measured>]) -> String {
    let mut text = String::new();
    for (rig, title) in [
        (Rig::Virtio, "Rig 1: virtio_user ⇄ vhost, one-armed"),
        (Rig::Pcap, "Rig 2: net_pcap, infinite_rx, what is sent is dropped"),
    ] {
        if !rows.iter().any(|row| row.rig == rig) {
            continue;
        }
        let yardstick = yardstick(rig);
        let _ = writeln!(text, "{title}\n");
        let _ = writeln!(
            text,
            "{:<24} {:>8} {:>9} {:>7} {:>13} {:>10} {:>7}  target",
            "device under test",
            "flows",
            "direction",
            "Mpps",
            "min … max",
            format!("÷ {yardstick}"),
            "lost %"
        );
        for (row, measured) in rows.iter().zip(results).filter(|(row, _)| row.rig == rig) {
            text += &line(row, measured, rows, results);
        }
        text.push('\n');
    }
    text
}

fn line(row: &Row, measured: &[Measured], rows: &[Row], results: &[Vec<Measured>]) -> String {
    let rates: Vec<f64> = measured.iter().map(|m| m.mpps).filter(|r| r.is_finite()).collect();
    let ratio = ratio_to(measured, of_yardstick(row.rig, rows, results));
    let loss = median(&measured.iter().filter_map(|m| m.loss_percent).collect::<Vec<_>>());
    let mut line = format!(
        "{:<24} {:>8} {:>9} {:>7} {:>13} {:>10} {:>7}  {}",
        row.device.to_string(),
        flows(row.flows),
        row.direction,
        number(median(&rates), 2),
        range(&rates, 2),
        number(ratio, 3),
        number(loss, 2),
        target(row, measured, ratio, rows, results)
    );
    line.truncate(line.trim_end().len());
    for problem in measured.iter().filter_map(|m| m.problem.as_ref()) {
        let _ = write!(line, "\n    problem: {problem}");
    }
    line.push('\n');
    line
}

/// What the row must reach, and whether it does.
fn target(
    row: &Row,
    measured: &[Measured],
    ratio: Option<f64>,
    rows: &[Row],
    results: &[Vec<Measured>],
) -> String {
    if !matches!(row.device, Device::Shunt { .. }) || row.direction != "forward" {
        return String::new();
    }
    let verdict = |got: Option<f64>, target: f64| match got {
        Some(got) if got >= target => "met",
        Some(_) => "MISSED",
        None => "not measured",
    };
    match (row.rig, row.flows) {
        (Rig::Virtio, 1024) => format!("≥ {TARGET_VIRTIO:.2} {}", verdict(ratio, TARGET_VIRTIO)),
        (Rig::Pcap, 1024) => format!("≥ {TARGET_PCAP:.2} {}", verdict(ratio, TARGET_PCAP)),
        (Rig::Pcap, 65_536) => {
            let few = rows.iter().position(|other| *other == Row { flows: 1024, ..*row });
            let share = few.and_then(|few| ratio_to(measured, &results[few]));
            format!(
                "≥ {TARGET_FLOWS:.2} of 1 k flows ({}) {}",
                number(share, 2),
                verdict(share, TARGET_FLOWS)
            )
        }
        _ => String::new(),
    }
}

/// The forwarding mode of testpmd that a rig's ratios are to.
fn yardstick(rig: Rig) -> &'static str {
    match rig {
        Rig::Virtio => "5tswap",
        Rig::Pcap => "macswap",
    }
}

/// The results of the yardstick at 1 k flows.
fn of_yardstick<'a>(rig: Rig, rows: &[Row], results: &'a [Vec<Measured>]) -> &'a [Measured] {
    let device = Device::Testpmd(yardstick(rig));
    rows.iter()
        .position(|row| row.rig == rig && row.device == device && row.flows == 1024)
        .map_or(&[], |i| &results[i])
}

/// The median of the ratios of the rounds.
fn ratio_to(measured: &[Measured], yardstick: &[Measured]) -> Option<f64> {
    median(&measured.iter().zip(yardstick).map(|(m, y)| m.mpps / y.mpps).collect::<Vec<_>>())
}

/// The results for programs.
pub(crate) fn json(rows: &[Row], results: &[Vec<Measured>]) -> Value {
    rows.iter()
        .zip(results)
        .map(|(row, measured)| {
            let ratio = ratio_to(measured, of_yardstick(row.rig, rows, results));
            json!({ "row": row, "ratio": ratio, "rounds": measured })
        })
        .collect()
}

fn flows(n: u32) -> String {
    match n {
        n if n >= 1 << 20 => format!("{} M", n >> 20),
        n => format!("{} k", n >> 10),
    }
}
