//! Correction (design §6): a packet in mid-stream without a session is perhaps of a session that only
//! the peer knows. It is given to the peer, once: on a network that both are on with the peer's MAC
//! address, otherwise in a datagram of the channel.
//!
//! A packet of a server that comes right after the peer's word of its session may have overtaken that
//! on its way through the ports: so it first goes through the pipeline once more.

use super::channel;
use super::state::{self, Joining};
use crate::datapath::crossed;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::note::Note;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::{PortId, PortRole};
use crate::datapath::steer;
use crate::datapath::verdict::Verdict;
use crate::rewrite::ethernet::set_addresses;
use crate::sync::datagram::{self, HEADER, Kind, SERVING};
use crate::wire::flow::{self, Parsed};
use crate::wire::{DropReason, ethernet};

/// After so many milliseconds without a word of the peer, a node that has begun opens sessions.
const ALONE_MS: u32 = 500;

/// Gives the packet to the peer, if it is one that the peer may know; `of_server`: it came from a real
/// server. `None` when this node has to decide.
#[cold]
#[inline(never)]
pub(in crate::datapath) fn give<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    of_server: bool,
    now: u32,
) -> Option<Verdict> {
    let channel = state::channel(shared).filter(|channel| channel.relay)?;
    let replica = shared.replica.as_ref()?;
    if !replica.has_peer() {
        return None;
    }
    let note = if shared.steered { Note::decode(frame.note()) } else { Note::None };
    let port = frame.rx_port();
    if is_given(shared, frame) {
        shared.counters.sync.relay_refused.add(1);
        return None;
    }
    if matches!(note, Note::Server { .. } | Note::Hairpin) {
        // It was decided that it is ours before the worker of its client was asked; or it has an outer
        // endpoint of ours for a source, which would look forged from now on.
        return None;
    }
    if of_server && note != Note::Again {
        as_received(shared, frame);
        return Some(Verdict::HandOff(shared.worker, Note::Again));
    }
    let port_mac = shared.snapshot.ports[usize::from(port.0)].mac;
    let replica = shared.replica.as_mut()?;
    if !replica.relays.take(now) {
        shared.counters.sync.relay_failed.add(1);
        return None;
    }
    if let Some(Some(mac)) = replica.neighbors.get(usize::from(port.0)).copied() {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&mac);
        addresses[6..].copy_from_slice(&port_mac);
        as_received(shared, frame);
        set_addresses(frame.bytes_mut(), &addresses);
        shared.counters.sync.relayed.add(1);
        return Some(Verdict::Forward(port));
    }
    // The networks have nothing in common but the channel.
    let sent = replica.peer_mac.filter(|_| {
        let whole = frame.bytes().len() + channel::overhead(&channel) + HEADER + 1;
        let mtu = usize::from(shared.mtu(channel.port)) + ethernet::HEADER_LEN;
        whole <= mtu && {
            as_received(shared, frame);
            frame.prepend(channel::overhead(&channel) + HEADER + 1)
        }
    });
    let Some(peer_mac) = sent else {
        shared.counters.sync.relay_failed.add(1);
        return None;
    };
    let start = channel::overhead(&channel);
    frame.bytes_mut()[start + HEADER] = port.0;
    let channel_mac = shared.snapshot.ports[usize::from(channel.port.0)].mac;
    let replica = shared.replica.as_mut()?;
    let header = channel::next_header(replica, Kind::Relay, SERVING);
    datagram::seal(&mut frame.bytes_mut()[start..], &header, &replica.setup.keys);
    channel::address(frame.bytes_mut(), &channel, channel_mac, Some(peer_mac));
    shared.counters.sync.relayed.add(1);
    Some(Verdict::Forward(channel.port))
}

/// Makes of a packet between the families what came.
fn as_received<F: Frame>(shared: &Shared<F>, frame: &mut F) {
    if shared.snapshot.crosses {
        crossed::make_v4(frame);
    }
}

/// What becomes of a packet that would open a session, as long as this node does not know all sessions
/// that there are: the peer perhaps has one for it, and knows which local endpoints are in use.
pub(in crate::datapath) fn postpone<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    now: u32,
) -> Option<Verdict> {
    let replica = shared.replica.as_ref()?;
    match replica.joining {
        Joining::Over => None,
        _ if is_given(shared, frame) => None,
        joining => {
            let waited = matches!(joining, Joining::Since(at) if now.wrapping_sub(at) >= ALONE_MS);
            let given = give(shared, frame, false, now);
            // In a moment it is known whether there is a peer, and where.
            given.or((!waited).then_some(Verdict::Drop(DropReason::NoSession)))
        }
    }
}

/// Takes notice of a packet that has met its session: perhaps one that the peer has given to us.
#[inline(always)]
pub(in crate::datapath) fn met<F: Frame>(shared: &Shared<F>, frame: &F) {
    if shared.replica.is_some() && is_given(shared, frame) {
        shared.counters.sync.relay_answered.add(1);
    }
}

/// Whether the peer has given us the packet.
#[inline(always)]
pub(in crate::datapath) fn is_given<F: Frame>(shared: &Shared<F>, frame: &F) -> bool {
    is_from_peer(shared, frame) || shared.steered && Note::decode(frame.note()) == Note::Relayed
}

/// Whether it came from the peer on a network that both are on.
#[inline(always)]
fn is_from_peer<F: Frame>(shared: &Shared<F>, frame: &F) -> bool {
    let Some(replica) = &shared.replica else { return false };
    let mac = replica.neighbors.get(usize::from(frame.rx_port().0)).copied().flatten();
    mac.is_some_and(|mac| frame.bytes().get(6..12) == Some(&mac[..]))
}

/// The peer has given us a packet in a datagram: it is taken out and goes to its worker.
pub(super) fn arrive<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    range: std::ops::Range<usize>,
    _now: u32,
) -> Verdict {
    let refused = Verdict::Drop(DropReason::SyncRefused);
    let Some(replica) = &mut shared.replica else { return refused };
    let start = range.start;
    let opened = datagram::open(&frame.bytes()[range], &replica.setup.keys);
    let (header, port) = match opened {
        Ok((header, &[port, _, ..])) => (header, PortId(port)),
        Ok(_) => {
            shared.counters.sync.malformed.add(1);
            return refused;
        }
        Err(reason) => return channel::refuse(shared, reason),
    };
    if header.kind != Kind::Relay || replica.peer != Some(header.boot) {
        shared.counters.sync.unproven.add(1);
        return refused;
    }
    if !channel::is_fresh(replica, &header) {
        shared.counters.sync.replayed.add(1);
        return refused;
    }
    let known = shared.snapshot.ports.get(usize::from(port.0));
    let Some((mac, role)) = known.map(|port| (port.mac, port.role)) else {
        shared.counters.sync.malformed.add(1);
        return refused;
    };
    if !matches!(role, PortRole::Wire { .. })
        || !frame.trim_front(start + HEADER + 1)
        || frame.bytes().len() < ethernet::HEADER_LEN
    {
        shared.counters.sync.malformed.add(1);
        return refused;
    }
    frame.set_rx_port(port);
    // Whatever it was to the peer: here it is for us.
    frame.bytes_mut()[..6].copy_from_slice(&mac);
    let owner = match flow::parse(frame.bytes(), &mac, false) {
        Ok(Parsed::V4(flow)) => owner(shared, role, &flow.key),
        Ok(Parsed::V6(flow)) => owner(shared, role, &flow.key),
        _ => {
            shared.counters.sync.malformed.add(1);
            return refused;
        }
    };
    Verdict::HandOff(owner, Note::Relayed)
}

fn owner<A: Family, F>(shared: &Shared<F>, role: PortRole, key: &flow::FlowKey<A>) -> u8 {
    steer::owner(&shared.snapshot, shared.toeplitz, role, key)
}
