//! What every measurement prints: the machine, the commit, and numbers of several rounds.

use std::fs;
use std::process::Command;

/// The model of the CPU, and how many there are.
pub fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{}, {count} cores", field("model name").unwrap_or_else(|| "unknown".to_owned()))
}

/// The release of the kernel.
pub fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.lines().next().unwrap_or_default().to_owned()
}

/// The commit of the working directory, and whether files differ from it.
pub fn commit() -> String {
    let changed = run(Command::new("git").args(["status", "--porcelain", "-uno"]));
    let commit = run(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    let changed = if changed.is_empty() { "" } else { " with changes" };
    format!("{commit}{changed}")
}

/// What a program prints; nothing when it cannot be started.
pub fn run(command: &mut Command) -> String {
    command
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// The median of those that are numbers.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// With so many digits, or a dash.
pub fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.digits$}"),
        _ => "–".to_owned(),
    }
}

/// The least and the greatest, with so many digits.
pub fn range(values: &[f64], digits: usize) -> String {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (min, max) = (finite().reduce(f64::min), finite().reduce(f64::max));
    format!("{} … {}", number(min, digits), number(max, digits))
}

/// The value below which this share of the sorted samples is (the nearest rank).
pub fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_rounds() {
        assert_eq!(median(&[3.0, 1.0, f64::NAN, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(range(&[2.0, f64::NAN, 1.0], 1), "1.0 … 2.0");
        assert_eq!(range(&[], 1), "– … –");
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&samples, 0.5), Some(500));
        assert_eq!(percentile(&samples, 0.999), Some(999));
        assert_eq!(percentile(&samples, 1.0), Some(1000));
        assert_eq!(percentile(&[7], 0.001), Some(7));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
