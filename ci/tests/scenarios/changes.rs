//! What a step of a scenario changes in the counters: exactly what is named, nothing else.

use std::collections::BTreeMap;

use shunt::datapath::counters::{Cell, WorkerCounters};
use shunt::datapath::snapshot::{PortId, Snapshot};
use shunt::session::{ServerId, ServiceId};
use shunt::wire::DropReason;

/// Counters by name, or differences of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub BTreeMap<String, i64>);

impl Changes {
    pub fn none() -> Self {
        Changes::default()
    }

    pub fn add(mut self, name: impl Into<String>, n: i64) -> Self {
        let name = name.into();
        let value = self.0.entry(name.clone()).or_default();
        *value += n;
        if *value == 0 {
            self.0.remove(&name);
        }
        self
    }

    /// A frame of this length is received.
    pub fn rx(self, port: PortId, bytes: &[u8]) -> Self {
        let p = port.0;
        self.add("rx", 1)
            .add(format!("port{p}.rx_packets"), 1)
            .add(format!("port{p}.rx_bytes"), bytes.len() as i64)
    }

    fn out(self, port: PortId, bytes: &[u8]) -> Self {
        let p = port.0;
        self.add(format!("port{p}.tx_packets"), 1)
            .add(format!("port{p}.tx_bytes"), bytes.len() as i64)
    }

    /// A received frame is transmitted.
    pub fn tx(self, port: PortId, bytes: &[u8]) -> Self {
        self.out(port, bytes).add("tx", 1)
    }

    /// A frame of our own is transmitted.
    pub fn originated(self, port: PortId, bytes: &[u8]) -> Self {
        self.out(port, bytes).add("originated", 1)
    }

    /// A received frame is given to the kernel.
    pub fn punted(self, tap: PortId, bytes: &[u8]) -> Self {
        self.tx(tap, bytes).add("punted", 1)
    }

    pub fn consumed(self) -> Self {
        self.add("consumed", 1)
    }

    pub fn held(self, n: i64) -> Self {
        self.add("held", n)
    }

    pub fn dropped(self, reason: DropReason) -> Self {
        self.add(format!("drop.{reason}"), 1)
    }

    /// A session is created or, with −1, ended.
    pub fn session(self, server: ServerId, v6: bool, n: i64) -> Self {
        let what = if n > 0 { "created" } else { "ended" };
        self.add(format!("server{}.{what}", server.0), n.abs())
            .add(if v6 { "sessions_v6" } else { "sessions_v4" }, n)
    }

    /// A packet from a client goes to the server.
    pub fn forward(self, server: ServerId, bytes: &[u8]) -> Self {
        let s = server.0;
        self.add(format!("server{s}.forward_packets"), 1)
            .add(format!("server{s}.forward_bytes"), bytes.len() as i64)
    }

    /// A packet comes from the server.
    pub fn reply(self, server: ServerId, bytes: &[u8]) -> Self {
        let s = server.0;
        self.add(format!("server{s}.reply_packets"), 1)
            .add(format!("server{s}.reply_bytes"), bytes.len() as i64)
    }

    /// Adds every counter of a worker but those of its loop and the gauge of half-open sessions. Those that are zero are left out.
    pub fn read(&mut self, counters: &WorkerCounters, snapshot: &Snapshot) {
        let mut put = |name: String, cell: &Cell| {
            if cell.get() != 0 {
                *self.0.entry(name).or_default() += cell.get() as i64;
            }
        };
        let c = counters;
        for (name, cell) in [
            ("rx", &*c.rx),
            ("handed_in", &c.handed_in),
            ("handed_off", &c.handed_off),
            ("tx", &c.tx),
            ("punted", &c.punted),
            ("consumed", &c.consumed),
            ("held", &c.held),
            ("originated", &c.originated),
            ("sessions_v4", &c.sessions_v4),
            ("sessions_v6", &c.sessions_v6),
            ("expired", &c.expired),
            ("persistent_clients", &c.persistent_clients),
            ("persistence_full", &c.persistence_full),
            ("events_lost", &c.events_lost),
            ("resets", &c.resets),
            ("ended_with_server", &c.ended_with_server),
            ("sources_untracked", &c.sources_untracked),
            ("mirrored", &c.mirrored),
            ("mirror_missed", &c.mirror_missed),
            ("fragments", &c.fragments),
            ("fragments_held", &c.fragments_held),
            ("toa_no_room", &c.toa_no_room),
            ("icmp_errors", &c.icmp_errors),
            ("vrrp_invalid", &c.sync.vrrp_invalid),
        ] {
            put(name.into(), cell);
        }
        let s = &c.sync;
        for (name, cell) in [
            ("sent_datagrams", &s.sent_datagrams),
            ("sent_records", &s.sent_records),
            ("send_failed", &s.send_failed),
            ("repeated", &s.repeated),
            ("received_datagrams", &s.received_datagrams),
            ("received_records", &s.received_records),
            ("bad_mac", &s.bad_mac),
            ("replayed", &s.replayed),
            ("wrong_version", &s.wrong_version),
            ("duplicate_node", &s.duplicate_node),
            ("unproven", &s.unproven),
            ("malformed", &s.malformed),
            ("missed", &s.missed),
            ("streams_lost", &s.streams_lost),
            ("naks_sent", &s.naks_sent),
            ("gone", &s.gone),
            ("imported", &s.imported),
            ("import_refused", &s.import_refused),
            ("conflicts", &s.conflicts),
            ("records_lost", &s.records_lost),
            ("digest_mismatches", &s.digest_mismatches),
            ("walks", &s.walks),
            ("relayed", &s.relayed),
            ("relay_answered", &s.relay_answered),
            ("relay_refused", &s.relay_refused),
            ("relay_failed", &s.relay_failed),
            ("clock_jumps", &s.clock_jumps),
            ("own_sessions", &s.own_sessions),
            ("foreign_sessions", &s.foreign_sessions),
            ("buckets_synced", &s.buckets_synced),
            ("buckets_lacking", &s.buckets_lacking),
            ("sessions_lacking", &s.sessions_lacking),
            ("buckets_owned", &s.buckets_owned),
        ] {
            put(format!("sync.{name}"), cell);
        }
        for &reason in DropReason::ALL {
            put(format!("drop.{reason}"), c.drops_of(reason));
        }
        for rule in 0..snapshot.guard.filters.rules().len() {
            put(format!("filter{rule}.packets"), &c.filter(rule).packets);
            put(format!("filter{rule}.bytes"), &c.filter(rule).bytes);
        }
        for port in 0..snapshot.ports.len() {
            let p = c.port(PortId(port as u8));
            for (name, cell) in [
                ("rx_packets", &p.rx_packets),
                ("rx_bytes", &p.rx_bytes),
                ("tx_packets", &p.tx_packets),
                ("tx_bytes", &p.tx_bytes),
                ("tx_refused", &p.tx_refused),
            ] {
                put(format!("port{port}.{name}"), cell);
            }
        }
        for service in 0..snapshot.services.len() {
            let s = c.service(ServiceId(service as u16));
            for (name, cell) in [
                ("syn_cookies_sent", &s.syn_cookies_sent),
                ("syn_cookies_accepted", &s.syn_cookies_accepted),
                ("syn_cookies_rejected", &s.syn_cookies_rejected),
                ("syn_proxied", &s.syn_proxied),
            ] {
                put(format!("service{service}.{name}"), cell);
            }
        }
        for server in 0..snapshot.servers.len() {
            let s = c.server(ServerId(server as u16));
            for (name, cell) in [
                ("created", &s.created),
                ("ended", &s.ended),
                ("forward_packets", &s.forward_packets),
                ("forward_bytes", &s.forward_bytes),
                ("reply_packets", &s.reply_packets),
                ("reply_bytes", &s.reply_bytes),
            ] {
                put(format!("server{server}.{name}"), cell);
            }
        }
    }

    /// Both.
    pub fn with(mut self, other: &Changes) -> Changes {
        for (name, value) in &other.0 {
            self = self.add(name.clone(), *value);
        }
        self
    }

    /// The same but for those whose name begins so.
    pub fn without(mut self, start: &str) -> Changes {
        self.0.retain(|name, _| !name.starts_with(start));
        self
    }

    /// Of these only those that say that sessions came or went.
    pub fn of_sessions(mut self) -> Changes {
        self.0.retain(|name, _| {
            name.starts_with("sessions_v") || name.ends_with(".created") || name.ends_with(".ended")
        });
        self
    }

    /// What has changed since `before`.
    pub fn since(&self, before: &Changes) -> Changes {
        let mut changes = self.clone();
        for (name, value) in &before.0 {
            changes = changes.add(name.clone(), -value);
        }
        changes
    }
}
