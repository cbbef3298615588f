//! The established path: the packet of a known session, rewritten as the session says.

use super::connection;
use super::crossed;
use super::extras;
use super::family::{self, Family};
use super::frame::Frame;
use super::hops::{Hop, Hops};
use super::icmp;
use super::lane::{Crossed, Item, Lane};
use super::new_flow;
use super::notice::Notice;
use super::onward;
use super::replica;
use super::shared::Shared;
use super::snapshot::{PortId, Server, Snapshot};
use super::syn_proxy;
use super::tunnel;
use super::verdict::Verdict;
use crate::rewrite::ethernet;
use crate::rewrite::transport_checksum;
use crate::session::connection::Outcome;
use crate::session::{Direction, Entry, Extras, HopRef, SessionId, tcp_state};
use crate::wire::DropReason;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Protocol;

/// Acts on a packet whose session is known.
#[inline(never)]
pub(super) fn act<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Verdict {
    match forward(shared, lane, frame, item, id, direction, now) {
        Ok(port) => Verdict::Forward(port),
        Err(verdict) => verdict,
    }
}

/// The same for the hot path: the port the packet leaves by, or what else becomes of it.
#[inline(always)]
pub(super) fn forward<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Result<PortId, Verdict> {
    let flow = &item.flow;
    let entry = lane.table.get_mut(id);
    // First of all: a packet that ends here moves nothing of its session.
    if entry.mode.translates() && flow.hop_limit <= 1 {
        return Err(icmp::time_exceeded(shared, frame, flow, now));
    }
    let mut policed = false;
    if entry.protocol == Protocol::Tcp {
        if tcp_state::is_steady(entry.state, flow.tcp_flags) {
            let near = match entry.extras.has(Extras::SHIFTED) {
                false => connection::advance(entry, direction, frame.bytes(), flow),
                true => {
                    let table = &mut lane.table;
                    connection::advance_shifted(table, id, direction, frame.bytes(), flow)
                }
            };
            if !near {
                connection::resume(lane, id, direction, frame.bytes(), flow);
            }
        } else {
            if let Some(verdict) = syn_proxy::follow(shared, lane, frame, item, id, direction, now)
            {
                return Err(verdict);
            }
            let before = *lane.table.get(id);
            match connection::follow(shared, lane, id, direction, frame, flow, now) {
                Ok(Outcome::Reopen) => {
                    return Err(new_flow::replace(shared, lane, frame, item, id, now));
                }
                Ok(_) => {
                    policed = true;
                    replica::followed(shared, lane, id, &before, now);
                }
                Err(reason) => return Err(Verdict::Drop(reason)),
            }
        }
    }
    let entry = lane.table.get_mut(id);
    entry.last_seen = now;

    let hop_ref = entry.hop(direction);
    let hop_ref = match shared.hops.get(hop_ref) {
        Some(_) => hop_ref,
        None => match renew_hop(shared, entry, direction) {
            Ok((renewed, _)) => renewed,
            Err(reason) => return Err(Verdict::Drop(reason)),
        },
    };

    if frame.bytes().len() > usize::from(shared.fits_all_ports)
        && let Some(mtu) = exceeded_mtu(shared, frame, hop_ref, entry, direction, item)
    {
        return Err(icmp::packet_too_big(shared, frame, flow, mtu, now));
    }
    if !entry.extras.is_empty() {
        let introduced = entry.extras.has(Extras::INTRODUCED);
        let verdict =
            extras::apply(shared, &mut lane.table, frame, item, id, direction, policed, now);
        if introduced && !lane.table.get(id).extras.has(Extras::INTRODUCED) {
            replica::changed(shared, lane, id, false);
        }
        if let Some(verdict) = verdict {
            return Err(verdict);
        }
    }
    let entry = lane.table.get_mut(id);
    if entry.mode.translates() {
        onward::translate(entry, frame.bytes_mut(), direction);
    } else {
        if entry.mode.tunnels() {
            if item.fill_checksum {
                transport_checksum::fill::<A>(frame.bytes_mut(), flow);
            }
            let Some(hop) = shared.hops.get(hop_ref) else {
                return Err(Verdict::Drop(DropReason::NoRoute));
            };
            let hop = (hop_ref, *hop);
            return Err(tunnel::forward(shared, frame, flow, entry.server_id, hop, now));
        }
    }
    let entry = lane.table.get(id);
    if item.fill_checksum {
        transport_checksum::fill::<A>(frame.bytes_mut(), flow);
    }

    shared.counters.server(entry.server_id).count(direction, frame.bytes().len());
    match shared.hops.get(hop_ref) {
        Some(hop) if hop.ready => {
            ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
            Ok(hop.port)
        }
        _ => Err(hold(shared, hop_ref, now)),
    }
}

/// The longest packet that leaves by the port if this one is longer. Ethernet padding, which may be
/// what makes the frame long, is cut off.
#[cold]
fn exceeded_mtu<A: Family, F: Frame>(
    shared: &Shared<F>,
    frame: &mut F,
    hop: HopRef,
    entry: &Entry<A>,
    direction: Direction,
    item: &Item<A>,
) -> Option<u16> {
    let flow = &item.flow;
    frame.set_len(usize::from(flow.frame_len));
    // With its outer headers it is longer still, or it leaves in fragments: judged there.
    if entry.mode.tunnels() || item.crossed == Crossed::Divisible {
        return None;
    }
    let port = shared.hops.get(hop)?.port;
    let mtu = shared.mtu(port);
    let mtu = mtu.saturating_add(crossed::shortened(entry, direction));
    (usize::from(flow.frame_len) > ETHERNET + usize::from(mtu)).then_some(mtu)
}

/// Holds a packet until its next hop is known.
#[cold]
pub(super) fn hold<F: Frame>(shared: &mut Shared<F>, hop_ref: HopRef, now: u32) -> Verdict {
    ask(shared, hop_ref, now);
    Verdict::Hold(hop_ref)
}

/// Asks the management thread for a next hop, unless it was asked just now.
pub(super) fn ask<F: Frame>(shared: &mut Shared<F>, hop_ref: HopRef, now: u32) {
    // Asked is asked for a second: not while the question would be lost.
    if shared.has_room_to_notify()
        && let Some((port, address)) = shared.hops.should_ask(hop_ref, now)
    {
        shared.notify(Notice::Wanted(port, address));
    }
}

/// A packet whose session the tag comparison did not find at once: another session shares its tag,
/// an earlier packet of this burst made it, or it is new.
#[cold]
#[inline(never)]
pub(super) fn miss<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Verdict {
    match lane.table.find(item.hash, &item.flow.key) {
        Some((id, direction)) => {
            replica::met(shared, frame);
            act(shared, lane, frame, item, id, direction, now)
        }
        None => new_flow::open(shared, lane, frame, item, now),
    }
}

/// The next hop of a session's packets in this direction.
#[cold]
pub(super) fn next_hop<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    direction: Direction,
) -> Result<(HopRef, Hop), DropReason> {
    let hop_ref = entry.hop(direction);
    match shared.hops.get(hop_ref) {
        Some(hop) => Ok((hop_ref, *hop)),
        None => renew_hop(shared, entry, direction),
    }
}

/// Looks a session's next hop up again, since routes changed.
#[cold]
pub(super) fn renew_hop<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    direction: Direction,
) -> Result<(HopRef, Hop), DropReason> {
    let Shared { snapshot, hops, .. } = shared;
    let renewed = match direction {
        Direction::Forward => {
            let server = snapshot.servers.get(usize::from(entry.server_id.0));
            entry.forward_hop = match server {
                Some(server)
                    if A::from_ip(server.address).unwrap_or(A::UNSPECIFIED) == entry.server =>
                {
                    hop_to_server(hops, snapshot, server)?
                }
                // The configuration does not have it any more.
                _ => hop_to(hops, snapshot, entry.server)?,
            };
            entry.forward_hop
        }
        Direction::Reply => {
            entry.reply_hop = hop_to(hops, snapshot, entry.client)?;
            entry.reply_hop
        }
    };
    let hop = hops.get(renewed).ok_or(DropReason::NoRoute)?;
    Ok((renewed, *hop))
}

/// The next hop towards a real server.
pub(super) fn hop_to_server<F: Frame>(
    hops: &mut Hops<F>,
    snapshot: &Snapshot,
    server: &Server,
) -> Result<HopRef, DropReason> {
    let (port, address) = family::next_hop(server.route, server.address);
    hops.resolve(port, address, &snapshot.ports[usize::from(port.0)].mac)
}

/// The next hop towards any host.
pub(super) fn hop_to<A: Family, F: Frame>(
    hops: &mut Hops<F>,
    snapshot: &Snapshot,
    host: A,
) -> Result<HopRef, DropReason> {
    let (port, address) = A::route(snapshot, host).ok_or(DropReason::NoRoute)?;
    hops.resolve(port, address, &snapshot.ports[usize::from(port.0)].mac)
}
