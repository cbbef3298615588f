//! Services whose every datagram is a decision of its own (`one_packet`): no session is kept.
//!
//! A datagram is forwarded by a session that lives in a spare entry of the table for just that long,
//! so everything that happens to packets of sessions happens to it. In `nat` the server's answer
//! finds its virtual address by the server's own address and port, which belong to one service.

use hashbrown::HashMap;

use super::choose;
use super::established;
use super::family::Family;
use super::frame::Frame;
use super::icmp;
use super::lane::{Item, Lane};
use super::new_flow;
use super::selection;
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::verdict::Verdict;
use crate::session::{Direction, Mode, ServerId, ServiceId};
use crate::wire::flow::{FlowKey, Protocol};

/// Where the answers of a server come from: its service and virtual address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin<A> {
    service_id: ServiceId,
    server_id: ServerId,
    vip: A,
    port: u16,
}

/// The servers of one-packet services, by the address and port they answer from.
pub(super) type Origins<A> = HashMap<(A, u16), Origin<A>>;

/// The servers of this family that answer by way of Shunt.
pub(super) fn origins<A: Family>(snapshot: &Snapshot) -> Origins<A> {
    let mut origins = Origins::new();
    for (service, id) in snapshot.services.iter().zip(0..) {
        if !service.selection.one_packet || service.mode != Mode::Nat {
            continue;
        }
        let listen = service.listen.iter().find_map(|at| Some((A::from_ip(at.ip())?, at.port())));
        let Some((vip, port)) = listen else { continue };
        for (server_id, _) in selection::servers(snapshot, service, A::V6) {
            let server = &snapshot.servers[usize::from(server_id.0)];
            if let Some(address) = A::from_ip(server.address) {
                let origin = Origin { service_id: ServiceId(id), server_id, vip, port };
                origins.insert((address, server.port), origin);
            }
        }
    }
    origins
}

/// Forwards a client's datagram.
#[cold]
#[inline(never)]
pub(super) fn forward<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service_id: ServiceId,
    now: u32,
) -> Verdict {
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    if service.mode.translates() && item.flow.hop_limit <= 1 {
        return icmp::time_exceeded(shared, frame, &item.flow, now);
    }
    let hash = choose::placed_by(service, &item.flow, frame);
    match choose::scheduled(shared, lane, service_id, hash) {
        Ok(server_id) => {
            let key = item.flow.key;
            pass(shared, lane, frame, item, &key, (service_id, server_id), Direction::Forward, now)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Forwards a server's answer. `None` when it is none of a one-packet service.
#[cold]
#[inline(never)]
pub(super) fn reply<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Option<Verdict> {
    let key = &item.flow.key;
    if key.protocol != Protocol::Udp {
        return None;
    }
    let origin = *lane.origins.get(&(key.src, key.sport))?;
    let from_client = FlowKey {
        src: key.dst,
        dst: origin.vip,
        sport: key.dport,
        dport: origin.port,
        protocol: key.protocol,
    };
    let ids = (origin.service_id, origin.server_id);
    Some(pass(shared, lane, frame, item, &from_client, ids, Direction::Reply, now))
}

/// Forwards the packet as one of a session with this key.
#[expect(clippy::too_many_arguments, reason = "what a packet on its way needs")]
fn pass<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    key: &FlowKey<A>,
    (service_id, server_id): (ServiceId, ServerId),
    direction: Direction,
    now: u32,
) -> Verdict {
    match new_flow::new_session(shared, lane, key, service_id, server_id) {
        Ok(session) => {
            let id = lane.table.borrow_spare(session, now);
            lane.table.get_mut(id).extras = shared.limits.extras(service_id);
            let verdict = established::act(shared, lane, frame, item, id, direction, now);
            lane.table.return_spare();
            verdict
        }
        Err(reason) => Verdict::Drop(reason),
    }
}
