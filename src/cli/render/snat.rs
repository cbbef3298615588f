//! `shunt snat`

use crate::cli::format::{count, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::Snats;

/// One row for each rule.
pub(in crate::cli) fn text(answer: &Snats) -> String {
    let mut table = Table::new(&[
        Text("SNAT"),
        Text("MAPPING"),
        Text("FILTERING"),
        Number("ADDRESSES"),
        Number("PORTS"),
        Number("MAPPINGS"),
        Number("SESSIONS"),
        Number("TOTAL"),
        Number("NEW/s"),
        Number("OUT p/s"),
        Number("IN p/s"),
        Number("NO PORT"),
        Number("LIMITED"),
        Number("REFUSED"),
    ]);
    for s in &answer.snats {
        table.row([
            s.name.clone(),
            s.mapping.clone(),
            s.filtering.clone(),
            count(s.addresses),
            count(s.ports),
            count(s.mappings_v4 + s.mappings_v6),
            count(s.traffic.sessions_active),
            count(s.traffic.sessions_created),
            rate(s.traffic.sessions_per_second),
            rate(s.traffic.forward_pps),
            rate(s.traffic.reply_pps),
            count(s.exhausted_packets),
            count(s.limited_packets),
            count(s.refused_packets),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::{Snat, Traffic};

    #[test]
    fn exact_text() {
        let snat = Snat {
            name: "egress".into(),
            mapping: "endpoint_independent".into(),
            filtering: "address_and_port_dependent".into(),
            addresses: 2,
            ports: 64_512,
            mappings_v4: 7,
            mappings_v6: 1,
            traffic: Traffic { sessions_active: 9, sessions_created: 30, ..Traffic::default() },
            exhausted_packets: 1,
            limited_packets: 2,
            refused_packets: 3,
        };
        assert_eq!(
            text(&Snats { snats: vec![snat] }),
            "\
SNAT    MAPPING               FILTERING                   ADDRESSES  PORTS  MAPPINGS  SESSIONS  TOTAL  NEW/s  OUT p/s  IN p/s  NO PORT  LIMITED  REFUSED
egress  endpoint_independent  address_and_port_dependent          2  64512         8         9     30      0        0       0        1        2        3
"
        );
    }
}
