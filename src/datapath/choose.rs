//! A new session gets its real server. Whoever is named first decides:
//!
//! 1. the connection id, in a service that routes QUIC by it ([`super::quic_route`]);
//! 2. the client's persistence ([`super::persist`]), on the worker that owns it;
//! 3. the scheduler, with the limits of connections ([`super::connection_limit`]).
//!
//! A server that is chosen and cannot have the session (another has its reply addresses and ports,
//! no local port is free) gives way to the next one of the scheduler.

use super::connection_limit;
use super::family::Family;
use super::frame::Frame;
use super::icmp;
use super::lane::{Item, Lane};
use super::new_flow;
use super::persist;
use super::quic_route;
use super::refuse;
use super::selection::Overflow;
use super::shared::Shared;
use super::snapshot::Service;
use super::verdict::Verdict;
use crate::sched::{HashOn, hash};
use crate::session::{ServerId, ServiceId, SessionId};
use crate::wire::DropReason;
use crate::wire::flow::{Flow, Protocol};

/// Servers that are tried for one session.
const TRIES: usize = 8;

/// Makes a session for the client's packet, which no session knows and which may open one.
///
/// The verdict, if there is none, may be that the packet goes to another worker with a question; it
/// then comes back and is here again, with the answer.
pub(super) fn session<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service_id: ServiceId,
    now: u32,
) -> Result<SessionId, Verdict> {
    make(shared, lane, frame, item, service_id, true, now)
}

/// The same for the first fragment of a datagram, which goes by neither connection id nor what another
/// worker knows: its note has its ports.
pub(super) fn session_here<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service_id: ServiceId,
    now: u32,
) -> Result<SessionId, Verdict> {
    make(shared, lane, frame, item, service_id, false, now)
}

#[cold]
#[inline(never)]
fn make<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service_id: ServiceId,
    whole: bool,
    now: u32,
) -> Result<SessionId, Verdict> {
    let flow = &item.flow;
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    if service.mode.translates() && flow.hop_limit <= 1 {
        return Err(icmp::time_exceeded(shared, frame, flow, now));
    }
    if lane.table.len() == lane.table.capacity() {
        return Err(Verdict::Drop(DropReason::SessionTableFull));
    }
    if connection_limit::service_is_full(shared, service_id) {
        return Err(refuse::refuse(shared, frame, flow, DropReason::ServiceLimit, now));
    }
    let named = match whole {
        true => quic_route::server(&shared.snapshot, service_id, frame, flow),
        false => None,
    };
    let elsewhere = persist::ask(shared, frame, flow, service_id);
    let hash = placed_by(service, flow, frame);
    if named.is_none()
        && whole
        && let Some(ask) = elsewhere
    {
        return Err(ask);
    }
    let tcp = flow.key.protocol == Protocol::Tcp;
    let source = flow.key.src.into();
    let admitted = shared.limits.admit(service_id, tcp, source, &shared.counters, now);
    admitted.map_err(Verdict::Drop)?;
    let server = match (named, elsewhere) {
        (Some(server), _) => Ok(server),
        (None, Some(_)) => scheduled(shared, lane, service_id, hash),
        (None, None) => persist::server(shared, lane, frame, flow, service_id, hash, now),
    };
    let result =
        server.and_then(|server| create(shared, lane, flow, service_id, server, hash, now));
    lane.balancer.readmit(service_id);
    result.map_err(|reason| refused(shared, frame, flow, reason, now))
}

/// The verdict on a packet that gets no session for this reason.
pub(super) fn refused<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    reason: DropReason,
    now: u32,
) -> Verdict {
    match reason {
        DropReason::ServerLimit => refuse::refuse(shared, frame, flow, reason, now),
        reason => Verdict::Drop(reason),
    }
}

/// Makes the session with this server, or with the next ones if it cannot have it. Those that were
/// tried stay excluded until they are readmitted.
fn create<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    flow: &Flow<A>,
    service_id: ServiceId,
    first: ServerId,
    hash: u64,
    now: u32,
) -> Result<SessionId, DropReason> {
    let mut server = first;
    for _ in 1..TRIES {
        match new_flow::create_with(shared, lane, &flow.key, service_id, server, now) {
            Err(reason @ (DropReason::ReplyTupleInUse | DropReason::LocalPortsExhausted)) => {
                lane.balancer.exclude(server);
                // The reason of the first one says more than that all were tried.
                server = scheduled(shared, lane, service_id, hash).map_err(|_| reason)?;
            }
            result => return result,
        }
    }
    new_flow::create_with(shared, lane, &flow.key, service_id, server, now)
}

/// The scheduler's choice among the servers that have room for a connection.
pub(super) fn scheduled<A: Family, F>(
    shared: &Shared<F>,
    lane: &mut Lane<A>,
    service_id: ServiceId,
    hash: u64,
) -> Result<ServerId, DropReason> {
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    let mut none = DropReason::NoServer;
    for tried in 0.. {
        let server = lane.balancer.pick(service_id, hash).ok_or(none)?;
        if !connection_limit::server_is_full(shared, server) {
            return Ok(server);
        }
        none = DropReason::ServerLimit;
        if service.selection.overflow == Overflow::Refuse {
            break;
        }
        if tried < TRIES {
            lane.balancer.exclude(server);
        } else {
            // Many are full: all of those at once.
            for id in &service.servers {
                if connection_limit::server_is_full(shared, *id) {
                    lane.balancer.exclude(*id);
                }
            }
        }
    }
    Err(none)
}

/// The hash of what the service places sessions by; 0 when its scheduler looks at none.
pub(super) fn placed_by<A: Family, F: Frame>(service: &Service, flow: &Flow<A>, frame: &F) -> u64 {
    let key = &flow.key;
    if !service.scheduler.hashes() {
        return 0;
    }
    match service.selection.hash_on {
        HashOn::Source => hash::address(key.src.into()),
        HashOn::SourcePort => hash::endpoint(key.src.into(), key.sport),
        HashOn::Destination => hash::endpoint(key.dst.into(), key.dport),
        HashOn::QuicCid => quic_route::connection_id(service, frame, flow)
            .map_or_else(|| hash::endpoint(key.src.into(), key.sport), hash::bytes),
    }
}
