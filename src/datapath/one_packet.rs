//! Services whose every datagram is a decision of its own (`one_packet`): no session is kept.
//!
//! A datagram is forwarded by a session that lives in a spare entry of the table for just that long,
//! so everything that happens to packets of sessions happens to it. In `nat` the server's answer
//! finds its virtual address by the server's own address and port, which belong to one service.
//!
//! The fragments of a datagram go to one server: where they meet, that is remembered with the ports
//! of the first ([`super::fragments`]), for as long as the packet is not complete.

use hashbrown::HashMap;

use super::choose;
use super::established;
use super::family::Family;
use super::fragment_path;
use super::fragments::Binding;
use super::frame::Frame;
use super::icmp;
use super::lane::{Item, Lane};
use super::new_flow;
use super::selection;
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::verdict::Verdict;
use crate::rewrite::fragment::TranslateFragment;
use crate::session::{Direction, Mode, ServerId, ServiceId, SessionId};
use crate::wire::DropReason;
use crate::wire::flow::{Flow, FlowKey, Protocol};
use crate::wire::fragment::Fragment;

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
    let (from_client, ids) = origin(lane, &item.flow.key)?;
    Some(pass(shared, lane, frame, item, &from_client, ids, Direction::Reply, now))
}

/// Whose answer this is: the key of a client's datagram, and service and server.
fn origin<A: Family>(
    lane: &Lane<A>,
    key: &FlowKey<A>,
) -> Option<(FlowKey<A>, (ServiceId, ServerId))> {
    if key.protocol != Protocol::Udp {
        return None;
    }
    let origin = lane.origins.get(&(key.src, key.sport))?;
    let from_client = FlowKey {
        src: key.dst,
        dst: origin.vip,
        sport: key.dport,
        dport: origin.port,
        protocol: key.protocol,
    };
    Some((from_client, (origin.service_id, origin.server_id)))
}

/// Chooses the server of a datagram by its first fragment. `None` when it is for another service.
pub(super) fn choose<A: Family, F: Frame>(
    shared: &Shared<F>,
    lane: &mut Lane<A>,
    frame: &F,
    flow: &Flow<A>,
) -> Option<Result<ServerId, DropReason>> {
    let service_id = service(&shared.snapshot, &flow.key)?;
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    Some(choose::scheduled(shared, lane, service_id, choose::placed_by(service, flow, frame)))
}

/// The one-packet service that a client's datagram is for.
fn service<A: Family>(snapshot: &Snapshot, key: &FlowKey<A>) -> Option<ServiceId> {
    let service_id = A::listener(snapshot, key)?;
    let service = &snapshot.services[usize::from(service_id.0)];
    service.selection.one_packet.then_some(service_id)
}

/// Forwards a fragment of a client's datagram or of a server's answer. `None` when it is none of a
/// one-packet service.
#[cold]
#[inline(never)]
pub(super) fn fragment<A: Family + TranslateFragment, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    fragment: &Fragment<A>,
    binding: Binding,
    now: u32,
) -> Option<Verdict> {
    let key = fragment_path::flow(fragment, binding).key;
    let (key, ids, direction) = match service(&shared.snapshot, &key) {
        Some(service_id) => {
            if A::local(&shared.snapshot, key.src).is_some() {
                return Some(Verdict::Drop(DropReason::SpoofedLocal));
            }
            // Without one the first fragment was dropped.
            let Some(server_id) = binding.server else {
                return Some(Verdict::Drop(DropReason::NoServer));
            };
            (key, (service_id, server_id), Direction::Forward)
        }
        None => {
            let (from_client, ids) = origin(lane, &key)?;
            (from_client, ids, Direction::Reply)
        }
    };
    let verdict = borrow(shared, lane, &key, ids, now, |shared, lane, id| {
        fragment_path::act(shared, lane, frame, fragment, binding, (id, direction), now)
    });
    Some(verdict)
}

/// Forwards the packet as one of a session with this key.
#[expect(clippy::too_many_arguments, reason = "what a packet on its way needs")]
fn pass<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    key: &FlowKey<A>,
    ids: (ServiceId, ServerId),
    direction: Direction,
    now: u32,
) -> Verdict {
    borrow(shared, lane, key, ids, now, |shared, lane, id| {
        established::act(shared, lane, frame, item, id, direction, now)
    })
}

/// Makes a session with this key for as long as `act` takes.
fn borrow<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    key: &FlowKey<A>,
    (service_id, server_id): (ServiceId, ServerId),
    now: u32,
    act: impl FnOnce(&mut Shared<F>, &mut Lane<A>, SessionId) -> Verdict,
) -> Verdict {
    match new_flow::new_session(shared, lane, key, service_id, server_id) {
        Ok(session) => {
            let id = lane.table.borrow_spare(session, now);
            lane.table.get_mut(id).extras = shared.limits.extras(service_id);
            let verdict = act(shared, lane, id);
            lane.table.return_spare();
            verdict
        }
        Err(reason) => Verdict::Drop(reason),
    }
}
