//! How a service selects its servers, and what is made for that when the configuration or the state
//! of a server changes.

use std::net::SocketAddr;
use std::sync::Arc;

use super::quic_route::Quic;
use super::snapshot::{Server, Service, Snapshot};
use crate::sched::{HashOn, Member, Placement, SchedulerKind};
use crate::session::ServerId;

/// The settings of a service beside its scheduler.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// What `sh` and `maglev` place a session by.
    pub hash_on: HashOn,
    /// What they place it on, for IPv4 and for IPv6 clients; made by [`Snapshot::prepare`].
    pub placements: [Option<Arc<Placement>>; 2],
    /// The most open connections; 0 for no limit.
    pub max_connections: u32,
    /// What happens when a server has as many connections as it may.
    pub overflow: Overflow,
    /// Whether a client's connections go to one server.
    pub persistence: Option<Persistence>,
    /// Whether every datagram is a decision of its own and no session is kept.
    pub one_packet: bool,
    /// How servers write their connection ids, if sessions go by those.
    pub quic: Option<Arc<Quic>>,
}

/// What happens when the chosen server has as many connections as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The scheduler chooses another; when all have, the client is refused.
    #[default]
    Next,
    /// The client is refused.
    Refuse,
}

/// The persistence of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Milliseconds that a client is remembered after its last new connection.
    pub life_ms: u32,
    /// Leading bits of an IPv4 address that make a client, 1 to 32.
    pub mask_v4: u8,
    /// The same for IPv6, 1 to 128.
    pub mask_v6: u8,
    /// Equal for services that send a client to the same address.
    pub scope: u16,
}

/// How many clients a worker with room for that many sessions remembers, in each family.
pub fn persistent_clients(sessions: usize) -> usize {
    (sessions / 4).clamp(1_024, 1 << 20)
}

/// Whether the server takes sessions of IPv6 (else IPv4) clients of its service.
pub fn serves(service: &Service, server: &Server, v6: bool) -> bool {
    // A tunnel takes either family to either. Sessions between families are IPv6 sessions.
    service.mode.tunnels() || server.address.is_ipv6() == v6 || service.crossed && v6
}

/// The servers of a service for one family of clients, in the order of the configuration, and
/// whether each is on duty: a backup server is when no other is up with weight.
pub fn servers(
    snapshot: &Snapshot,
    service: &Service,
    v6: bool,
) -> impl Iterator<Item = (ServerId, bool)> {
    let of_family = move |id: &&ServerId| serves(service, server(snapshot, **id), v6);
    let primary = service.servers.iter().filter(of_family).any(|id| {
        let server = server(snapshot, *id);
        !server.backup && server.up && server.weight != 0
    });
    let on_duty = move |id: &ServerId| (*id, !(server(snapshot, *id).backup && primary));
    service.servers.iter().filter(of_family).map(on_duty)
}

fn server(snapshot: &Snapshot, id: ServerId) -> &Server {
    &snapshot.servers[usize::from(id.0)]
}

impl Snapshot {
    /// Makes what the services' schedulers work with; to be called when services and servers are
    /// complete, and again when the state of a server has changed. What has not changed is kept.
    /// For each `maglev` service whose servers have changed it takes about a millisecond to 160
    /// servers, ten to 655, and above that some tenths of a second.
    pub fn prepare(&mut self) {
        for index in 0..self.services.len() {
            if !self.services[index].scheduler.hashes() {
                continue;
            }
            let placements = [false, true].map(|v6| self.placement(&self.services[index], v6));
            self.services[index].selection.placements = placements;
        }
    }

    fn placement(&self, service: &Service, v6: bool) -> Option<Arc<Placement>> {
        let members: Vec<Member> = servers(self, service, v6)
            .zip(0..)
            .map(|((id, on_duty), position)| {
                let server = server(self, id);
                // A table is made of those that are up; a list stays as it is.
                let takes_part =
                    on_duty && (server.up || service.scheduler != SchedulerKind::Maglev);
                Member {
                    server: SocketAddr::new(server.address, server.port),
                    weight: if takes_part { u32::from(server.weight) } else { 0 },
                    position,
                }
            })
            .collect();
        let old = service.selection.placements[usize::from(v6)].as_ref();
        if members.is_empty() {
            return None;
        }
        Placement::make(service.scheduler, members, old)
    }
}
