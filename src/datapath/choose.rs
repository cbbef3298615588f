//! A new session gets its real server.

use super::family::Family;
use super::pipeline::{Item, Lane, Shared};
use super::snapshot::Service;
use crate::sched::{HashOn, hash};
use crate::session::{ServerId, ServiceId};
use crate::wire::DropReason;

/// The server for a new session of the service that the client's packet opens.
#[cold]
#[inline(never)]
pub(super) fn server<A: Family, F>(
    shared: &Shared<F>,
    lane: &mut Lane<A>,
    item: &Item<A>,
    service_id: ServiceId,
) -> Result<ServerId, DropReason> {
    let service = &shared.snapshot.services[usize::from(service_id.0)];
    let hash = if service.scheduler.hashes() { placed_by(service, item) } else { 0 };
    lane.balancer.pick(service_id, hash).ok_or(DropReason::NoServer)
}

/// The hash of what the service places sessions by.
fn placed_by<A: Family>(service: &Service, item: &Item<A>) -> u64 {
    let key = &item.flow.key;
    match service.selection.hash_on {
        HashOn::Source => hash::address(key.src.into()),
        HashOn::SourcePort | HashOn::QuicCid => hash::endpoint(key.src.into(), key.sport),
        HashOn::Destination => hash::endpoint(key.dst.into(), key.dport),
    }
}
