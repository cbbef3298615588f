//! Persistence: connections of one client go to one real server.
//!
//! What is known of a client is kept by one worker, the owner of the bucket of the client's masked
//! address and port 0. Its connections, spread over the workers by port, ask there: the worker of a
//! session hands the packet that opens it to the client's owner, which looks the server up or lets
//! its scheduler choose, and hands the packet back with the answer. On one worker that is a lookup.
//!
//! - An entry lives `seconds` after the last new connection, whether or not there are sessions.
//! - A server that is down loses the client: the scheduler chooses anew and the entry with it.
//! - A server with weight 0, and a backup that is not needed any more, keeps its clients, but their
//!   entries are not renewed: after `seconds` it has none.
//! - A server with as many connections as it may have keeps the entry; the connection goes the way
//!   of `overflow`.
//! - A server that cannot have the connection (another service has its reply addresses and ports there)
//!   keeps the entry; the connection goes to the next one.
//! - In a full table a client is not remembered: its connection is scheduled, and counted in
//!   `persistence_full`.

use std::net::IpAddr;

use super::choose;
use super::connection_limit;
use super::crossed;
use super::family::Family;
use super::frame::Frame;
use super::lane::Lane;
use super::note::Note;
use super::replica;
use super::selection::{self, Overflow, Persistence};
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::verdict::Verdict;
use crate::session::persistence::{Client, Placed};
use crate::session::{ServerId, ServiceId};
use crate::wire::DropReason;
use crate::wire::flow::Flow;

/// Hands the packet to the owner of what is known of its client, if that is another worker and has
/// not answered yet.
pub(super) fn ask<A: Family, F: Frame>(
    shared: &Shared<F>,
    frame: &F,
    flow: &Flow<A>,
    service_id: ServiceId,
) -> Option<Verdict> {
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    let persistence = service.selection.persistence.as_ref()?;
    if !shared.several_workers || answer(shared, frame, service_id).is_some() {
        return None;
    }
    let client = client(persistence, flow);
    let owner = shared.snapshot.worker_of[A::bucket(shared.toeplitz, client.address, 0)];
    let question = Note::WhichServer { service_id, asked_by: shared.worker };
    (owner != shared.worker).then_some(Verdict::HandOff(owner, question))
}

/// Answers the worker that has handed this packet over with its question. `None` when it came with
/// none.
pub(super) fn tell<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    flow: &Flow<A>,
    now: u32,
) -> Option<Verdict> {
    if !shared.steered {
        return None;
    }
    let Note::WhichServer { service_id, asked_by } = Note::decode(frame.note()) else {
        return None;
    };
    let Some(service) = shared.snapshot.services.get(usize::from(service_id.0)) else {
        return Some(Verdict::Drop(DropReason::NoService));
    };
    let hash = choose::placed_by(service, flow, frame);
    let server = server(shared, lane, frame, flow, service_id, hash, now);
    lane.balancer.readmit(service_id);
    Some(match server {
        Ok(server_id) => Verdict::HandOff(asked_by, Note::Server { service_id, server_id }),
        Err(reason) => choose::refused(shared, frame, flow, reason, now),
    })
}

/// Whether the packet was here before, and comes back with the answer of the worker that was asked.
pub(super) fn is_answered<F: Frame>(shared: &Shared<F>, frame: &F) -> bool {
    shared.steered && matches!(Note::decode(frame.note()), Note::Server { .. })
}

/// The server that another worker has said is this client's.
fn answer<F: Frame>(shared: &Shared<F>, frame: &F, asked: ServiceId) -> Option<ServerId> {
    if !shared.steered {
        return None;
    }
    match Note::decode(frame.note()) {
        Note::Server { service_id, server_id } if service_id == asked => {
            let server = shared.snapshot.servers.get(usize::from(server_id.0))?;
            (server.service == asked && server.up).then_some(server_id)
        }
        _ => None,
    }
}

/// The server of this client, if the service is persistent, else the scheduler's choice.
pub(super) fn server<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &F,
    flow: &Flow<A>,
    service_id: ServiceId,
    hash: u64,
    now: u32,
) -> Result<ServerId, DropReason> {
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    let Some(persistence) = &service.selection.persistence else {
        return choose::scheduled(shared, lane, service_id, hash);
    };
    let overflow = |lane: &mut Lane<A>| match service.selection.overflow {
        Overflow::Refuse => Err(DropReason::ServerLimit),
        Overflow::Next => choose::scheduled(shared, lane, service_id, hash),
    };
    if let Some(server) = answer(shared, frame, service_id) {
        return match connection_limit::server_is_full(shared, server) {
            true => overflow(lane),
            false => Ok(server),
        };
    }
    let client = client(persistence, flow);
    let known = lane.persistence.find(&client, now);
    let known = known.and_then(|placed| same_server(&shared.snapshot, service_id, placed));
    let server = match known {
        Some(server) if connection_limit::server_is_full(shared, server) => return overflow(lane),
        // It keeps the client, but not for longer.
        Some(server) if !lane.balancer.takes_sessions(server) => return Ok(server),
        Some(server) => server,
        None => choose::scheduled(shared, lane, service_id, hash)?,
    };
    let address = shared.snapshot.servers[usize::from(server.0)].address;
    let placed = Placed { server_id: server, server: address };
    let life_ms = persistence.life_ms;
    if !lane.persistence.put(client, placed, life_ms, now) {
        shared.counters.persistence_full.add(1);
    }
    replica::placed(shared, client.scope, client.address, placed, life_ms, now);
    Ok(server)
}

/// The server of the service where the client was sent: the same, or for another service of the
/// group the one with the same address. `None` when it is down or the service has none.
fn same_server(snapshot: &Snapshot, service_id: ServiceId, placed: Placed) -> Option<ServerId> {
    let at = |id: ServerId| snapshot.servers.get(usize::from(id.0));
    let fits = |id: &ServerId| {
        at(*id).is_some_and(|s| s.service == service_id && s.up && s.address == placed.server)
    };
    if fits(&placed.server_id) {
        return Some(placed.server_id);
    }
    snapshot.services[usize::from(service_id.0)].servers.iter().copied().find(fits)
}

fn client<A: Family>(persistence: &Persistence, flow: &Flow<A>) -> Client<A> {
    let length = match A::V6 {
        // An IPv4 client of servers of the other family.
        true if crossed::is_mapped(flow.key.src) => 96 + persistence.mask_v4,
        true => persistence.mask_v6,
        false => persistence.mask_v4,
    };
    Client { address: masked(flow.key.src, length), scope: persistence.scope }
}

/// The address with all bits behind the first `length` cleared.
fn masked<A: Family>(address: A, length: u8) -> A {
    let masked: IpAddr = match address.into() {
        IpAddr::V4(a) => {
            let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            std::net::Ipv4Addr::from(u32::from(a) & !host).into()
        }
        IpAddr::V6(a) => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            std::net::Ipv6Addr::from(u128::from(a) & !host).into()
        }
    };
    A::from_ip(masked).unwrap_or(address)
}

/// How many clients a worker remembers: a quarter of its sessions, when a service asks for it.
pub(super) fn clients(snapshot: &Snapshot, sessions: usize) -> usize {
    let persistent = |s: &super::snapshot::Service| s.selection.persistence.is_some();
    if snapshot.services.iter().any(persistent) {
        selection::persistent_clients(sessions)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn masks() {
        let v4 = Ipv4Addr::new(198, 51, 100, 203);
        let of = |length| masked(v4, length).to_string();
        assert_eq!(of(32), "198.51.100.203");
        assert_eq!(of(24), "198.51.100.0");
        assert_eq!(of(25), "198.51.100.128");
        assert_eq!(of(1), "128.0.0.0");
        let v6: Ipv6Addr = "2001:db8:aaaa:bbbb:cccc::1".parse().unwrap();
        let of = |length| masked(v6, length).to_string();
        assert_eq!(of(128), v6.to_string());
        assert_eq!(of(64), "2001:db8:aaaa:bbbb::");
        assert_eq!(of(49), "2001:db8:aaaa:8000::");
    }
}
