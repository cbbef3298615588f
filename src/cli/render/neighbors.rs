//! `shunt neighbors`

use crate::cli::format::{count, duration};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::Neighbors;

/// One row for each next hop.
pub(in crate::cli) fn text(answer: &Neighbors) -> String {
    let mut table = Table::new(&[
        Text("PORT"),
        Text("ADDRESS"),
        Text("MAC"),
        Text("STATE"),
        Number("HEARD AGO"),
    ]);
    let unknown = || "-".to_string();
    for n in &answer.neighbors {
        table.row([
            n.port.clone(),
            n.address.to_string(),
            n.mac.clone().unwrap_or_else(unknown),
            n.state.clone(),
            n.heard_ago_ms.map_or_else(unknown, duration),
        ]);
    }
    let mut out = table.text();
    if answer.refused > 0 {
        let (refused, capacity) = (count(answer.refused), answer.capacity);
        out.push_str(&format!("refused {refused} times: the table is full ({capacity})\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::Neighbor;

    #[test]
    fn exact_text() {
        let known = Neighbor {
            port: "back".into(),
            address: "10.0.0.11".parse().unwrap(),
            mac: Some("02:00:00:00:00:11".into()),
            state: "reachable".into(),
            heard_ago_ms: Some(12_400),
        };
        let unknown = Neighbor {
            address: "2001:db8::1".parse().unwrap(),
            mac: None,
            state: "failed".into(),
            heard_ago_ms: None,
            ..known.clone()
        };
        let mut answer = Neighbors { neighbors: vec![known, unknown], capacity: 8_192, refused: 0 };
        let table = "\
PORT  ADDRESS      MAC                STATE      HEARD AGO
back  10.0.0.11    02:00:00:00:00:11  reachable        12s
back  2001:db8::1  -                  failed             -
";
        assert_eq!(text(&answer), table);
        answer.refused = 7;
        assert_eq!(text(&answer), format!("{table}refused 7 times: the table is full (8192)\n"));
    }
}
