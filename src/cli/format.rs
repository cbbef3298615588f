//! Numbers and times as people read them.

/// A count or a rate: exact below 100,000, then with one decimal and k, M, G or T (powers of 1000).
pub(super) fn count(n: u64) -> String {
    if n < 100_000 {
        n.to_string()
    } else {
        scaled(n as f64, 1_000.0, &["", " k", " M", " G", " T"])
    }
}

/// Bytes: exact below 1024, then with one decimal and KiB, MiB, GiB or TiB.
pub(super) fn bytes(n: u64) -> String {
    if n < 1_024 {
        format!("{n} B")
    } else {
        scaled(n as f64, 1_024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
    }
}

/// A rate: exact below 1000, then with one decimal and k, M, G or T (powers of 1000).
pub(super) fn rate(n: u64) -> String {
    if n < 1_000 { n.to_string() } else { scaled(n as f64, 1_000.0, &["", " k", " M", " G", " T"]) }
}

/// A time in its two largest units: `250ms`, `12s`, `3m12s`, `2h05m`, `3d04h`.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, 0) => format!("{ms}ms"),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

/// `1 port`, `2 ports`
pub(super) fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// With one decimal in the unit that leaves it below `step`.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would be rounded up to a whole step belongs to the next unit.
    while value >= step - 0.05 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{value:.1}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (n, text) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100.0 k"),
            (999_940, "999.9 k"),
            (999_950, "1.0 M"),
            (19_300_000, "19.3 M"),
            (4_000_000_000, "4.0 G"),
            (u64::MAX, "18446744.1 T"),
        ] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn rates() {
        for (n, text) in [(999, "999"), (1_000, "1.0 k"), (12_345, "12.3 k"), (8_600_000, "8.6 M")]
        {
            assert_eq!(rate(n), text);
        }
    }

    #[test]
    fn byte_counts() {
        for (n, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (4_718_592, "4.5 MiB"),
            (1_073_741_823, "1.0 GiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn durations() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_999, "1s"),
            (59_999, "59s"),
            (60_000, "1m00s"),
            (192_000, "3m12s"),
            (7_500_000, "2h05m"),
            (86_400_000 * 3 + 3_600_000 * 4, "3d04h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn plurals() {
        assert_eq!([0, 1, 2].map(|n| plural(n, "port")), ["0 ports", "1 port", "2 ports"]);
    }
}
