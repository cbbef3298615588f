//! `shunt services`

use crate::cli::format::{count, rate};
use crate::cli::table::{Number, Table, Text};
use crate::manage::api::types::{Services, SynProxy};

/// One row for each service; in = from clients, out = from servers.
pub(in crate::cli) fn text(answer: &Services) -> String {
    let mut table = Table::new(&[
        Text("SERVICE"),
        Text("LISTEN"),
        Text("MODE"),
        Text("SCHEDULER"),
        Text("STATE"),
        Text("SYN PROXY"),
        Number("SERVERS"),
        Number("SESSIONS"),
        Number("TOTAL"),
        Number("NEW/s"),
        Number("IN p/s"),
        Number("OUT p/s"),
        Number("IN bit/s"),
        Number("OUT bit/s"),
    ]);
    for s in &answer.services {
        let listen: Vec<String> =
            s.listen.iter().map(|at| format!("{} {at}", s.protocol)).collect();
        table.row([
            s.name.clone(),
            listen.join("\n"),
            s.mode.clone(),
            s.hash_on.as_ref().map_or(s.scheduler.clone(), |on| format!("{} {on}", s.scheduler)),
            if s.up { "up" } else { "DOWN" }.into(),
            syn_proxy(s.syn_proxy.as_ref()),
            format!("{}/{}", s.servers_up, s.servers_total),
            count(s.traffic.sessions_active),
            count(s.traffic.sessions_created),
            rate(s.traffic.sessions_per_second),
            rate(s.traffic.forward_pps),
            rate(s.traffic.reply_pps),
            rate(s.traffic.forward_bps),
            rate(s.traffic.reply_bps),
        ]);
    }
    table.text()
}

/// What it does now, and for `auto` that it may change.
fn syn_proxy(proxy: Option<&SynProxy>) -> String {
    let Some(proxy) = proxy else { return "off".into() };
    let now = if proxy.workers_on > 0 { "on" } else { "off" };
    match proxy.policy.as_str() {
        "auto" => format!("auto: {now}"),
        _ => now.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::api::types::{Service, Traffic};

    #[test]
    fn exact_text() {
        let web = Service {
            name: "web".into(),
            protocol: "tcp".into(),
            listen: vec!["192.0.2.10:80".parse().unwrap(), "[2001:db8:1::10]:80".parse().unwrap()],
            mode: "nat".into(),
            scheduler: "wrr".into(),
            hash_on: None,
            max_connections: 0,
            persistence_seconds: 0,
            up: true,
            servers_up: 1,
            servers_total: 2,
            traffic: Traffic {
                sessions_active: 17,
                sessions_created: 123_456,
                sessions_per_second: 42,
                forward_pps: 1_500,
                reply_bps: 2_500_000,
                ..Traffic::default()
            },
            syn_proxy: Some(SynProxy {
                policy: "auto".into(),
                workers_on: 2,
                ..SynProxy::default()
            }),
        };
        let dns = Service {
            name: "dns".into(),
            protocol: "udp".into(),
            listen: vec!["192.0.2.10:53".parse().unwrap()],
            scheduler: "maglev".into(),
            hash_on: Some("source".into()),
            up: false,
            servers_up: 0,
            servers_total: 1,
            traffic: Traffic::default(),
            syn_proxy: None,
            ..web.clone()
        };
        assert_eq!(
            text(&Services { services: vec![web, dns] }),
            "\
SERVICE  LISTEN                   MODE  SCHEDULER      STATE  SYN PROXY  SERVERS  SESSIONS    TOTAL  NEW/s  IN p/s  OUT p/s  IN bit/s  OUT bit/s
web      tcp 192.0.2.10:80        nat   wrr            up     auto: on       1/2        17  123.5 k     42   1.5 k        0         0      2.5 M
         tcp [2001:db8:1::10]:80
dns      udp 192.0.2.10:53        nat   maglev source  DOWN   off            0/1         0        0      0       0        0         0          0
"
        );
    }
}
