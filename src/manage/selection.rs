//! From the configuration of how services select their servers to what the workers use.

use std::sync::Arc;

use super::compile::crossed;
use super::config::{self, Config};
use crate::datapath::quic_route::Quic;
use crate::datapath::selection::{Persistence, Selection};
use crate::session::{ServerId, ServiceId};

/// Scopes of persistence groups begin here; below are those of services for themselves.
const GROUPS: u16 = 0x8000;

/// The selection of a service, whose servers have these ids. Its placements are made later.
pub(super) fn compile(
    config: &Config,
    service: &config::Service,
    servers: &[ServerId],
    id: ServiceId,
) -> Selection {
    let selection = &service.selection;
    Selection {
        hash_on: selection.hash_on,
        placements: [None, None],
        max_connections: selection.max_connections,
        overflow: selection.overflow,
        persistence: selection.persistence.as_ref().map(|p| Persistence {
            life_ms: p.seconds * 1_000,
            mask_v4: p.mask,
            mask_v6: p.mask_v6,
            scope: p.group.as_ref().map_or(id.0, |group| GROUPS + group_number(config, group)),
        }),
        one_packet: selection.one_packet,
        quic: selection.quic.map(|quic| Arc::new(connection_ids(&quic, service, servers))),
    }
}

/// The position of the first service of the group.
fn group_number(config: &Config, group: &str) -> u16 {
    let of_group = |s: &config::Service| {
        s.selection.persistence.as_ref().is_some_and(|p| p.group.as_deref() == Some(group))
    };
    config.services.iter().position(of_group).unwrap_or(0) as u16
}

fn connection_ids(quic: &config::Quic, service: &config::Service, servers: &[ServerId]) -> Quic {
    let mut ids = Quic::new(quic.config_rotation, quic.server_id_length, quic.cid_length);
    for (server, id) in service.servers.iter().zip(servers) {
        if let Some(name) = &server.quic_server_id {
            for v6 in [false, true] {
                // A tunnel takes clients of either family. Sessions between families are IPv6 sessions.
                if service.mode.tunnels()
                    || server.address.is_ipv6() == v6
                    || v6 && crossed(service)
                {
                    ids.add(v6, name, *id);
                }
            }
        }
    }
    ids
}
