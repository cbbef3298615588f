//! What is printed.

use std::fmt::Write;
use std::fs;
use std::process::Command;

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
    let _ = writeln!(text, "kernel   {}", first_line("/proc/sys/kernel/osrelease"));
    let _ = writeln!(text, "dpdk     {}", Eal::version());
    for build in &bench.builds {
        let version = run(Command::new(build).arg("--version"));
        let _ = writeln!(text, "shunt    {version}, {}", build.display());
    }
    let changed = run(Command::new("git").args(["status", "--porcelain", "-uno"]));
    let commit = run(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    let changed = if changed.is_empty() { "" } else { " with changes" };
    let _ = writeln!(text, "commit   {commit}{changed}");
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
    let min = rates.iter().copied().fold(f64::NAN, f64::min);
    let max = rates.iter().copied().fold(f64::NAN, f64::max);
    let mut line = format!(
        "{:<24} {:>8} {:>9} {:>7} {:>13} {:>10} {:>7}  {}",
        row.device.to_string(),
        flows(row.flows),
        row.direction,
        number(median(&rates), 2),
        format!("{} … {}", number(Some(min), 2), number(Some(max), 2)),
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

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.digits$}"),
        _ => "–".to_owned(),
    }
}

fn flows(n: u32) -> String {
    match n {
        n if n >= 1 << 20 => format!("{} M", n >> 20),
        n => format!("{} k", n >> 10),
    }
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{}, {count} cores", field("model name").unwrap_or_else(|| "unknown".to_owned()))
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn run(command: &mut Command) -> String {
    command
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}
