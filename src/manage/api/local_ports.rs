//! How far the local ports of FullNAT are used up, server by server: the forecast of exhaustion.
//!
//! The workers' pools are theirs alone. But a FullNAT session holds exactly one port, and a LIP has
//! the same number of ports for every real server, so the count of open sessions tells.

use std::collections::HashMap;
use std::net::IpAddr;

use super::types::LocalPorts;
use crate::datapath::snapshot::Snapshot;
use crate::session::ports::FIRST_PORT;
use crate::session::{Mode, ServerId};

/// Local ports of one LIP that one node may use: every other one from the first.
const PORTS_OF_A_LIP: u64 = (u16::MAX as u64 + 1 - FIRST_PORT as u64) / 2;

/// By server: the local ports towards it; `None` in other modes. `active` gives the open sessions of
/// a server; services that share a real server share its ports.
pub(super) fn usage(
    snapshot: &Snapshot,
    active: impl Fn(ServerId) -> u64,
) -> Vec<Option<LocalPorts>> {
    let backend = |id: usize| {
        let server = &snapshot.servers[id];
        let service = &snapshot.services[usize::from(server.service.0)];
        (service.mode == Mode::FullNat).then_some((server.address, server.port, service.protocol))
    };
    let mut used = HashMap::new();
    for id in 0..snapshot.servers.len() {
        if let Some(backend) = backend(id) {
            *used.entry(backend).or_insert(0) += active(ServerId(id as u16));
        }
    }
    (0..snapshot.servers.len())
        .map(|id| {
            let used = *used.get(&backend(id)?)?;
            let server = &snapshot.servers[id];
            let lips = &snapshot.lips[usize::from(server.route.port.0)];
            let lips = match server.address {
                IpAddr::V4(_) => lips.v4.len(),
                IpAddr::V6(_) => lips.v6.len(),
            };
            Some(LocalPorts { used, total: lips as u64 * PORTS_OF_A_LIP })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::compile::{PortFacts, ServerState, compile};

    #[test]
    fn services_that_share_a_server_share_its_ports() {
        let service = |name: &str, port: u16, mode: &str, servers: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nmode = \"{mode}\"\n\
                 listen = [\"10.0.0.10:{port}\"]\n{servers}"
            )
        };
        let server = |n: u8| format!("[[service.server]]\naddress = \"10.0.0.{n}:80\"\n");
        let text = format!(
            "[node]\nworkers = [0]\n[dpdk]\nvdevs = [\"net_null0\"]\n[[port]]\nname = \"p\"\n\
             device = \"net_null0\"\nside = \"both\"\naddresses = [\"10.0.0.2/24\"]\n\
             local_addresses = [\"10.0.0.3\", \"10.0.0.4\"]\n{}{}{}",
            service("a", 80, "fullnat", &(server(11) + &server(12))),
            service("b", 81, "fullnat", &server(11)),
            service("c", 82, "nat", &server(11)),
        );
        let config = crate::manage::config::parse(&text, "test").expect("a valid configuration");
        let facts = [PortFacts { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }];
        let snapshot = compile(&config, &facts, &[ServerState::UP; 4], 1);
        let usage = usage(&snapshot, |id| [100, 20, 3, 7][usize::from(id.0)]);
        let total = 2 * 32_256;
        assert_eq!(
            usage,
            [
                Some(LocalPorts { used: 103, total }),
                Some(LocalPorts { used: 20, total }),
                Some(LocalPorts { used: 103, total }),
                None
            ]
        );
    }
}
