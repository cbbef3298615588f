//! `shunt filters`

use crate::cli::format::{bytes, count};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::Filters;

/// One row for each rule, in their order.
pub(in crate::cli) fn text(answer: &Filters) -> String {
    if answer.filters.is_empty() {
        return "There is no filter.\n".into();
    }
    let columns = [Number("#"), Text("FILTER"), Text("ACTION"), Number("PACKETS"), Number("BYTES")];
    let mut table = Table::new(&columns);
    for (number, f) in (1..).zip(&answer.filters) {
        table.row([
            format!("{number}"),
            f.name.clone(),
            f.action.clone(),
            count(f.packets),
            bytes(f.bytes),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::Filter;

    #[test]
    fn exact_text() {
        assert_eq!(text(&Filters { filters: vec![] }), "There is no filter.\n");
        let filter = |name: &str, action: &str, packets| Filter {
            name: name.into(),
            action: action.into(),
            packets,
            bytes: packets * 64,
        };
        let filters = vec![filter("blocked", "drop", 1_234_567), filter("new-ssh", "limit", 3)];
        assert_eq!(
            text(&Filters { filters }),
            "\
#  FILTER   ACTION  PACKETS     BYTES
1  blocked  drop      1.2 M  75.4 MiB
2  new-ssh  limit         3     192 B
"
        );
    }
}
