//! The fields of the commands' `--json` that the tests look at.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

/// `shunt servers --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Servers {
    pub(crate) servers: Vec<Server>,
}

/// A real server of a service.
#[derive(Debug, Deserialize)]
pub(crate) struct Server {
    pub(crate) service: String,
    pub(crate) address: SocketAddr,
    pub(crate) weight: u16,
    pub(crate) up: bool,
    pub(crate) health: Option<Health>,
    pub(crate) sessions_created: u64,
}

/// Its health check.
#[derive(Debug, Deserialize)]
pub(crate) struct Health {
    pub(crate) latency_ms: Option<f64>,
}

/// `shunt services --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Services {
    pub(crate) services: Vec<Service>,
}

/// A service.
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) mode: String,
    pub(crate) scheduler: String,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) up: bool,
    pub(crate) servers_total: u64,
    pub(crate) sessions_active: u64,
    pub(crate) sessions_created: u64,
    pub(crate) forward_packets: u64,
    pub(crate) reply_packets: u64,
}

/// `shunt workers --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Workers {
    pub(crate) workers: Vec<Worker>,
}

/// A worker.
#[derive(Debug, Deserialize)]
pub(crate) struct Worker {
    pub(crate) rx_packets: u64,
    pub(crate) handed_in_packets: u64,
    pub(crate) tx_packets: u64,
    pub(crate) handed_off_packets: u64,
    pub(crate) consumed_packets: u64,
    pub(crate) held_packets: u64,
    pub(crate) dropped_packets: u64,
    pub(crate) unaccounted_packets: i64,
    pub(crate) resets_sent: u64,
    pub(crate) sessions_ended_with_server: u64,
    pub(crate) icmp_errors: u64,
    pub(crate) fragments: u64,
    pub(crate) fragments_held: u64,
}

impl Worker {
    /// What came in and is not accounted for: 0, or the counters are wrong.
    pub(crate) fn missing(&self) -> i128 {
        let input = i128::from(self.rx_packets) + i128::from(self.handed_in_packets);
        let output = [
            self.tx_packets,
            self.handed_off_packets,
            self.consumed_packets,
            self.held_packets,
            self.dropped_packets,
        ];
        input - output.into_iter().map(i128::from).sum::<i128>()
    }
}

/// `shunt sessions --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Sessions {
    pub(crate) matching: u64,
    pub(crate) truncated: bool,
    pub(crate) sessions: Vec<Session>,
}

/// A session.
#[derive(Debug, Deserialize)]
pub(crate) struct Session {
    pub(crate) service: String,
    pub(crate) protocol: String,
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) state: String,
    pub(crate) mode: String,
}

/// `shunt snat --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Snats {
    pub(crate) snats: Vec<Snat>,
}

/// A rule of egress SNAT.
#[derive(Debug, Deserialize)]
pub(crate) struct Snat {
    pub(crate) name: String,
    pub(crate) mappings_v4: u64,
    pub(crate) mappings_v6: u64,
    pub(crate) sessions_created: u64,
    pub(crate) forward_packets: u64,
    pub(crate) reply_packets: u64,
    pub(crate) refused_packets: u64,
}

/// `shunt drops --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Drops {
    pub(crate) drops: Vec<Drop>,
}

/// A drop reason.
#[derive(Debug, Deserialize)]
pub(crate) struct Drop {
    pub(crate) reason: String,
    pub(crate) packets: u64,
}

/// `shunt neighbors --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Neighbors {
    pub(crate) neighbors: Vec<Neighbor>,
}

/// A next hop.
#[derive(Debug, Deserialize)]
pub(crate) struct Neighbor {
    pub(crate) port: String,
    pub(crate) address: IpAddr,
    pub(crate) mac: Option<String>,
    pub(crate) state: String,
}

/// `shunt ports --json`
#[derive(Debug, Deserialize)]
pub(crate) struct Ports {
    pub(crate) ports: Vec<Port>,
}

/// A port.
#[derive(Debug, Deserialize)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) vlan: u16,
    pub(crate) mtu_bytes: u16,
    pub(crate) role: String,
    pub(crate) link_up: bool,
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
}
