//! What is done to the packets of some sessions beyond the rewrite ([`Extras`]): one call from the
//! established path, before addresses and ports are rewritten.

use super::crossed;
use super::family::Family;
use super::frame::Frame;
use super::introduce;
use super::lane::Item;
use super::mirror;
use super::shared::Shared;
use super::snat::hairpin;
use super::syn_proxy;
use super::verdict::Verdict;
use crate::rewrite::dscp;
use crate::rewrite::sequence::{self, Shifts};
use crate::session::{Direction, Entry, Extras, SessionId, Table};
use crate::wire::DropReason;
use crate::wire::flow::tcp_flags::SYN;

/// Does what the session's extras say; `policed` if [`police`] was asked already. The verdict, if the
/// packet ends here.
#[allow(clippy::too_many_arguments, reason = "the packet's context and whether it was counted")]
#[inline(never)]
pub(super) fn apply<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    policed: bool,
    now: u32,
) -> Option<Verdict> {
    let entry = table.get(id);
    let extras = entry.extras;
    debug_assert!(extras != Extras::NONE);
    if !policed && let Some(reason) = police(shared, entry, frame, direction, now) {
        return Some(Verdict::Drop(reason));
    }
    to_any_packet(shared, entry, frame);
    if extras.has(Extras::INTRODUCED) {
        introduce::apply(shared, table, frame, item, id, direction);
    } else if extras.has(Extras::SHIFTED) {
        let mut shifts = Shifts::from(table.aside(id));
        // A SYN and its answer come before all that was put into the stream, also when they come late.
        if item.flow.tcp_flags & SYN != 0 {
            shifts.forward = 0;
        }
        sequence::shift::<A>(frame.bytes_mut(), direction, shifts);
    }
    if extras.has(Extras::PROXIED) {
        syn_proxy::adapt::<A>(frame.bytes_mut(), table.aside(id).note, direction);
    }
    // The last of all, for it rewrites the packet.
    if extras.has(Extras::HAIRPIN) {
        return hairpin::apply(shared, table, frame, item, id, direction);
    }
    // The last: it is no packet of this family any more.
    if extras.has(Extras::CROSSED) {
        return Some(crossed::leave(shared, table, frame, item, id, direction, now));
    }
    None
}

/// Counts a packet against the rate limit of its session. The reason, if the packet is dropped: the
/// sensor has then got it.
pub(super) fn police<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    frame: &F,
    direction: Direction,
    now: u32,
) -> Option<DropReason> {
    let extras = entry.extras;
    if !extras.has(Extras::POLICED) || direction == Direction::Reply {
        return None;
    }
    let refused = shared.limits.police(entry, &shared.counters, now);
    if refused.is_some() && extras.has(Extras::MIRRORED) {
        mirror::of_service(shared, entry.service, frame);
    }
    refused
}

/// The part that fragments have in common with whole packets.
pub(super) fn to_any_packet<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    frame: &mut F,
) {
    let extras = entry.extras;
    // First, since the sensor gets what was received.
    if extras.has(Extras::MIRRORED) {
        mirror::of_service(shared, entry.service, frame);
    }
    if extras.has(Extras::MARKED) {
        mark(shared, entry, frame);
    }
}

/// Gives the packet the DSCP of its service, in either direction.
fn mark<A: Family, F: Frame>(shared: &Shared<F>, entry: &Entry<A>, frame: &mut F) {
    let service = shared.snapshot.services.get(usize::from(entry.service.0));
    if let Some(dscp) = service.and_then(|service| service.policy.dscp) {
        dscp::set::<A>(frame.bytes_mut(), dscp);
    }
}
