//! `shunt sessions`

use std::fmt::Write;

use crate::cli::format::{count, duration};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::Sessions;

/// One row for each session, and below them what is missing.
pub(in crate::cli) fn text(answer: &Sessions) -> String {
    // In fullnat the server sees another client than the client is.
    let translated = answer.sessions.iter().any(|s| s.local != s.client);
    let mut columns = vec![Text("SERVICE"), Text("PROTOCOL"), Text("CLIENT"), Text("VIP")];
    if translated {
        columns.push(Text("LOCAL"));
    }
    columns.extend([
        Text("SERVER"),
        Text("STATE"),
        Number("AGE"),
        Number("IDLE"),
        Number("EXPIRES"),
        Number("WORKER"),
    ]);
    let mut table = Table::new(&columns);
    for s in &answer.sessions {
        let mut row =
            vec![s.service.clone(), s.protocol.clone(), s.client.to_string(), s.vip.to_string()];
        if translated {
            row.push(s.local.to_string());
        }
        row.extend([
            s.server.to_string(),
            s.state.clone(),
            duration(s.age_ms),
            duration(s.idle_ms),
            duration(s.expires_ms),
            s.worker.to_string(),
        ]);
        table.row(row);
    }
    let mut out = table.text();
    // Writing to a String cannot fail.
    if answer.truncated {
        let (shown, matching) = (answer.sessions.len(), count(answer.matching));
        let _ = writeln!(out, "{shown} of {matching} matching sessions; --limit shows more");
    }
    for worker in &answer.silent_workers {
        let _ = writeln!(out, "worker {worker} did not answer: its sessions are missing");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::Session;

    fn session() -> Session {
        Session {
            worker: 1,
            service: "web".into(),
            protocol: "tcp".into(),
            client: "198.51.100.7:40000".parse().unwrap(),
            vip: "192.0.2.10:80".parse().unwrap(),
            local: "198.51.100.7:40000".parse().unwrap(),
            server: "10.0.0.11:8080".parse().unwrap(),
            state: "established".into(),
            mode: "nat".into(),
            age_ms: 61_000,
            idle_ms: 250,
            expires_ms: 899_750,
        }
    }

    #[test]
    fn exact_text() {
        let answer = Sessions {
            matching: 1,
            truncated: false,
            silent_workers: vec![],
            sessions: vec![session()],
        };
        assert_eq!(
            text(&answer),
            "\
SERVICE  PROTOCOL  CLIENT              VIP            SERVER          STATE          AGE   IDLE  EXPIRES  WORKER
web      tcp       198.51.100.7:40000  192.0.2.10:80  10.0.0.11:8080  established  1m01s  250ms   14m59s       1
"
        );
    }

    #[test]
    fn local_addresses_and_what_is_missing() {
        let fullnat = Session { local: "10.0.0.1:2000".parse().unwrap(), ..session() };
        let answer = Sessions {
            matching: 250_000,
            truncated: true,
            silent_workers: vec![0, 2],
            sessions: vec![fullnat],
        };
        assert_eq!(
            text(&answer),
            "\
SERVICE  PROTOCOL  CLIENT              VIP            LOCAL          SERVER          STATE          AGE   IDLE  EXPIRES  WORKER
web      tcp       198.51.100.7:40000  192.0.2.10:80  10.0.0.1:2000  10.0.0.11:8080  established  1m01s  250ms   14m59s       1
1 of 250.0 k matching sessions; --limit shows more
worker 0 did not answer: its sessions are missing
worker 2 did not answer: its sessions are missing
"
        );
    }
}
