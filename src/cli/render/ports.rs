//! `shunt ports`

use std::fmt::Write;

use crate::cli::format::{bytes, count, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::{Port, Ports};

/// One row for each port, then what each can do.
pub(in crate::cli) fn text(answer: &Ports) -> String {
    let mut table = Table::new(&[
        Text("PORT"),
        Text("DEVICE"),
        Text("DRIVER"),
        Text("ROLE"),
        Text("LINK"),
        Text("MAC"),
        Number("MTU"),
        Number("IN"),
        Number("IN"),
        Number("IN p/s"),
        Number("OUT"),
        Number("OUT"),
        Number("OUT p/s"),
        Number("REFUSED"),
        Number("MISSED"),
        Number("ERRORS"),
    ]);
    for p in &answer.ports {
        let errors = p.hardware.rx_errors + p.hardware.rx_no_buffer + p.hardware.tx_errors;
        table.row([
            p.name.clone(),
            device(p),
            p.driver.clone(),
            p.role.clone(),
            link(p),
            p.mac.clone(),
            p.mtu_bytes.to_string(),
            count(p.rx_packets),
            bytes(p.rx_bytes),
            rate(p.rx_pps),
            count(p.tx_packets),
            bytes(p.tx_bytes),
            rate(p.tx_pps),
            count(p.tx_refused_packets),
            count(p.hardware.rx_missed_packets),
            count(errors),
        ]);
    }
    let mut out = table.text();
    if answer.ports.iter().any(|p| !p.capabilities_text.is_empty()) {
        out.push('\n');
    }
    for p in answer.ports.iter().filter(|p| !p.capabilities_text.is_empty()) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: {}", p.name, p.capabilities_text);
    }
    out
}

fn device(port: &Port) -> String {
    match port.vlan {
        0 => port.device.clone(),
        vlan => format!("{} vlan {vlan}", port.device),
    }
}

fn link(port: &Port) -> String {
    match (port.link_up, port.speed_mbps) {
        (false, _) => "DOWN".into(),
        (true, None) => "up".into(),
        (true, Some(mbps)) if mbps >= 1_000 => format!("{} Gbit/s", f64::from(mbps) / 1_000.0),
        (true, Some(mbps)) => format!("{mbps} Mbit/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::HardwareStatistics;

    #[test]
    fn exact_text() {
        let front = Port {
            name: "front".into(),
            device: "net_af_packet0".into(),
            vlan: 100,
            driver: "net_af_packet".into(),
            role: "client".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu_bytes: 1500,
            link_up: true,
            speed_mbps: Some(2_500),
            capabilities_text: "1 queue pair; checksums in software".into(),
            capabilities: serde_json::Value::Null,
            rx_packets: 120_000,
            rx_bytes: 7_680_000,
            rx_pps: 1_000,
            rx_bps: 512_000,
            tx_packets: 5,
            tx_bytes: 300,
            tx_pps: 0,
            tx_bps: 0,
            tx_refused_packets: 1,
            hardware: HardwareStatistics {
                rx_missed_packets: 2,
                rx_errors: 1,
                tx_errors: 3,
                ..HardwareStatistics::default()
            },
        };
        let tap = Port {
            name: "sl-front".into(),
            role: "exception".into(),
            link_up: false,
            capabilities_text: String::new(),
            vlan: 0,
            ..front.clone()
        };
        assert_eq!(
            text(&Ports { ports: vec![front, tap] }),
            "\
PORT      DEVICE                   DRIVER         ROLE       LINK        MAC                 MTU       IN       IN  IN p/s  OUT    OUT  OUT p/s  REFUSED  MISSED  ERRORS
front     net_af_packet0 vlan 100  net_af_packet  client     2.5 Gbit/s  02:00:00:00:00:01  1500  120.0 k  7.3 MiB   1.0 k    5  300 B        0        1       2       4
sl-front  net_af_packet0           net_af_packet  exception  DOWN        02:00:00:00:00:01  1500  120.0 k  7.3 MiB   1.0 k    5  300 B        0        1       2       4

front: 1 queue pair; checksums in software
"
        );
    }
}
