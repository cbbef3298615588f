//! `shunt servers`

use crate::cli::format::{count, duration, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::{Server, Servers};

/// One row for each real server of each service.
pub(in crate::cli) fn text(answer: &Servers) -> String {
    let mut table = Table::new(&[
        Text("SERVICE"),
        Text("SERVER"),
        Number("WEIGHT"),
        Text("STATE"),
        Number("SINCE"),
        Text("CHECK"),
        Number("ms"),
        Number("SESSIONS"),
        Number("TOTAL"),
        Number("NEW/s"),
        Number("IN p/s"),
        Number("OUT p/s"),
        Text("PROBLEM"),
    ]);
    let no_health = || "-".to_string();
    for s in &answer.servers {
        let health = s.health.as_ref();
        table.row([
            s.service.clone(),
            s.address.to_string(),
            s.weight.to_string(),
            state(s).into(),
            health.map_or_else(no_health, |h| duration(h.changed_ago_ms)),
            health.map_or_else(no_health, |h| h.check.clone()),
            health.and_then(|h| h.latency_ms).map_or_else(no_health, |ms| format!("{ms:.1}")),
            count(s.traffic.sessions_active),
            count(s.traffic.sessions_created),
            rate(s.traffic.sessions_per_second),
            rate(s.traffic.forward_pps),
            rate(s.traffic.reply_pps),
            problem(s),
        ]);
    }
    table.text()
}

/// Why it is down, or what will go wrong next.
fn problem(server: &Server) -> String {
    let down = server.health.as_ref().and_then(|h| h.error.clone());
    let scarce = server.local_ports.filter(|ports| ports.are_scarce() && ports.total > 0);
    down.or_else(|| {
        let percent = scarce.map(|ports| ports.used * 100 / ports.total)?;
        Some(format!(
            "{percent} % of its local ports are used: add local_addresses to port {}",
            server.port
        ))
    })
    .unwrap_or_default()
}

fn state(server: &Server) -> &'static str {
    match server {
        Server { up: true, backup: true, .. } => "backup",
        Server { up: true, .. } => "up",
        server if server.is_unknown() => "unknown",
        _ => "DOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::{Health, LocalPorts, Traffic};

    #[test]
    fn exact_text() {
        let up = Server {
            service: "web".into(),
            address: "10.0.0.11:8080".parse().unwrap(),
            port: "back".into(),
            via: None,
            weight: 10,
            backup: false,
            max_connections: 0,
            up: true,
            health: Some(Health {
                check: "http".into(),
                checks: 120,
                changed_ago_ms: 119_000,
                latency_ms: Some(0.42),
                error: None,
            }),
            local_ports: None,
            traffic: Traffic { sessions_active: 3, sessions_created: 999, ..Traffic::default() },
        };
        let down = Server {
            address: "10.0.0.12:8080".parse().unwrap(),
            up: false,
            health: Some(Health {
                changed_ago_ms: 900,
                error: Some("connection refused".into()),
                ..up.health.clone().unwrap()
            }),
            ..up.clone()
        };
        let new = Server {
            up: false,
            health: Some(Health {
                checks: 0,
                changed_ago_ms: 10,
                latency_ms: None,
                ..up.health.clone().unwrap()
            }),
            traffic: Traffic::default(),
            ..up.clone()
        };
        let backup = Server { backup: true, ..up.clone() };
        let unchecked = Server { service: "dns".into(), health: None, ..up.clone() };
        let scarce = LocalPorts { used: 24_192, total: 32_256 };
        let scarce = Server { local_ports: Some(scarce), ..unchecked.clone() };
        assert_eq!(
            text(&Servers { servers: vec![up, down, new, backup, unchecked, scarce] }),
            "\
SERVICE  SERVER          WEIGHT  STATE    SINCE  CHECK   ms  SESSIONS  TOTAL  NEW/s  IN p/s  OUT p/s  PROBLEM
web      10.0.0.11:8080      10  up       1m59s  http   0.4         3    999      0       0        0
web      10.0.0.12:8080      10  DOWN     900ms  http   0.4         3    999      0       0        0  connection refused
web      10.0.0.11:8080      10  unknown   10ms  http     -         0      0      0       0        0
web      10.0.0.11:8080      10  backup   1m59s  http   0.4         3    999      0       0        0
dns      10.0.0.11:8080      10  up           -  -        -         3    999      0       0        0
dns      10.0.0.11:8080      10  up           -  -        -         3    999      0       0        0  75 % of its local ports are used: add local_addresses to port back
"
        );
    }
}
