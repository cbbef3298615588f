//! The established path: the packet of a known session, rewritten as the session says.

use super::extras;
use super::family::{self, Family};
use super::frame::Frame;
use super::hops::{Hop, Hops};
use super::icmp;
use super::new_flow;
use super::pipeline::{Item, Lane, Notice, Shared};
use super::snapshot::{PortId, Server, Snapshot};
use super::verdict::Verdict;
use crate::rewrite::ethernet;
use crate::rewrite::nat::Deltas;
use crate::rewrite::transport_checksum;
use crate::session::{Direction, Entry, HopRef, Mode, SessionId, tcp_state};
use crate::wire::DropReason;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Flow, Protocol, tcp_flags};

/// Acts on a packet whose session is known.
#[inline(always)]
pub(super) fn act<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Verdict {
    let flow = &item.flow;
    let entry = lane.table.get_mut(id);
    // First of all: a packet that ends here moves nothing of its session.
    if entry.mode.translates() && flow.hop_limit <= 1 {
        return icmp::time_exceeded(shared, frame, flow, now);
    }
    if entry.protocol == Protocol::Tcp
        && !tcp_state::is_steady(entry.state, flow.tcp_flags)
        && !follow_tcp(shared, lane, id, direction, flow.tcp_flags, now)
    {
        return new_flow::replace(shared, lane, frame, item, id, now);
    }
    let entry = lane.table.get_mut(id);
    entry.last_seen = now;

    let hop_ref = match direction {
        Direction::Forward => entry.forward_hop,
        Direction::Reply => entry.reply_hop,
    };
    // Copied, 16 bytes, so that it need not be looked up again for the Ethernet header.
    let (hop_ref, hop) = match shared.hops.get(hop_ref) {
        Some(hop) => (hop_ref, *hop),
        None => match renew_hop(shared, entry, direction) {
            Ok(renewed) => renewed,
            Err(reason) => return Verdict::Drop(reason),
        },
    };

    if flow.frame_len > shared.fits_all_ports
        && let Some(mtu) = exceeded_mtu(shared, hop.port, flow)
    {
        return icmp::packet_too_big(shared, frame, flow, mtu, now);
    }
    if !entry.extras.is_empty()
        && let Some(verdict) =
            extras::apply(shared, &mut lane.table, frame, item, id, direction, now)
    {
        return verdict;
    }
    let entry = lane.table.get(id);
    if entry.mode.translates() {
        let deltas = Deltas { ip: entry.delta_ip, transport: entry.delta_transport };
        match direction {
            Direction::Forward => {
                A::translate(frame.bytes_mut(), &entry.reply_key().reversed(), deltas);
            }
            Direction::Reply => {
                A::translate(frame.bytes_mut(), &entry.forward_key().reversed(), deltas.reversed());
            }
        }
    }
    if item.fill_checksum {
        transport_checksum::fill::<A>(frame.bytes_mut(), flow);
    }

    let server = shared.counters.server(entry.server_id);
    let bytes = frame.bytes().len() as u64;
    match direction {
        Direction::Forward => {
            server.forward_packets.add(1);
            server.forward_bytes.add(bytes);
        }
        Direction::Reply => {
            server.reply_packets.add(1);
            server.reply_bytes.add(bytes);
        }
    }
    if !hop.ready {
        return hold(shared, hop_ref, now);
    }
    ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
    Verdict::Forward(hop.port)
}

/// The MTU of the port if the packet is longer.
#[cold]
fn exceeded_mtu<A: Family, F: Frame>(
    shared: &Shared<F>,
    port: PortId,
    flow: &Flow<A>,
) -> Option<u16> {
    let mtu = shared.snapshot.ports[usize::from(port.0)].mtu;
    (usize::from(flow.frame_len) > ETHERNET + usize::from(mtu)).then_some(mtu)
}

/// Holds a packet until its next hop is known.
#[cold]
fn hold<F: Frame>(shared: &mut Shared<F>, hop_ref: HopRef, now: u32) -> Verdict {
    // Asked is asked for a second: not while the question would be lost.
    if !shared.notices.is_full()
        && let Some((port, address)) = shared.hops.should_ask(hop_ref, now)
    {
        shared.notify(Notice::Wanted(port, address));
    }
    Verdict::Hold(hop_ref)
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
        Some((id, direction)) => act(shared, lane, frame, item, id, direction, now),
        None => new_flow::open(shared, lane, frame, item, now),
    }
}

/// Follows the TCP connection through a segment that may change its state. `false` when the segment
/// is the SYN of a new connection that must not use the old session.
#[cold]
fn follow_tcp<A: Family, F: Frame>(
    shared: &Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    direction: Direction,
    flags: u8,
    now: u32,
) -> bool {
    use crate::session::TcpState::{Closed, FinBoth, SynSent};
    let entry = lane.table.get(id);
    // Of SNAT, either side may open.
    let opens = (direction == Direction::Forward || entry.mode == Mode::Snat)
        && flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    let server = shared.snapshot.servers.get(usize::from(entry.server_id.0));
    let server_up = server.is_some_and(|server| server.up);
    if opens && (matches!(entry.state, FinBoth | Closed) || (entry.state == SynSent && !server_up))
    {
        return false;
    }
    let state = tcp_state::next(entry.mode, entry.state, direction, flags);
    if state != entry.state {
        // A session may outlive its service in the configuration; it then keeps its timeout.
        let service = shared.snapshot.services.get(usize::from(entry.service.0));
        let timeout =
            service.map_or(entry.timeout, |service| tcp_state::timeout(state, &service.timeouts));
        lane.table.set_state(id, state, timeout, now);
    }
    true
}

/// Looks a session's next hop up again, since routes changed.
#[cold]
fn renew_hop<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    direction: Direction,
) -> Result<(HopRef, Hop), DropReason> {
    let Shared { snapshot, hops, .. } = shared;
    let renewed = match direction {
        Direction::Forward => {
            let server = snapshot.servers.get(usize::from(entry.server_id.0));
            entry.forward_hop = match server {
                Some(server) if server.address == entry.server.into() => {
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
