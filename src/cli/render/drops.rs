//! `shunt drops`

use crate::cli::format::{count, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::Drops;

/// One row for each reason that occurred, or with `all` for each there is.
pub(in crate::cli) fn text(answer: &Drops, all: bool) -> String {
    let shown: Vec<_> =
        answer.drops.iter().map(|d| &d.count).filter(|c| all || c.packets > 0).collect();
    if shown.is_empty() {
        return "No packet was dropped.\n".into();
    }
    let mut table =
        Table::new(&[Text("REASON"), Number("PACKETS"), Number("p/s"), Text("MEANING")]);
    for c in shown {
        table.row([c.reason.clone(), count(c.packets), rate(c.pps), c.help.clone()]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::{Drop, DropCount};

    fn drops(packets: u64) -> Drops {
        let drop = |reason: &str, packets| Drop {
            count: DropCount {
                reason: reason.into(),
                help: format!("It is {reason}."),
                packets,
                pps: packets / 10,
            },
            packets_by_worker: vec![packets],
        };
        Drops { dropped_packets: packets, drops: vec![drop("land", 0), drop("martian", packets)] }
    }

    #[test]
    fn exact_text() {
        assert_eq!(text(&drops(0), false), "No packet was dropped.\n");
        assert_eq!(
            text(&drops(1_234_567), false),
            "\
REASON   PACKETS      p/s  MEANING
martian    1.2 M  123.5 k  It is martian.
"
        );
        assert_eq!(
            text(&drops(12), true),
            "\
REASON   PACKETS  p/s  MEANING
land           0    0  It is land.
martian       12    1  It is martian.
"
        );
    }
}
