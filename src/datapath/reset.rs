//! Resets that Shunt sends to the ends of a connection whose session it ends, so that neither keeps
//! a connection that nothing leads to any more; and how it sends segments of its own.
//!
//! A receiver accepts a reset only with the very next number of its peer (RFC 5961 3.2): the marks
//! of the session, in the numbering that this end knows. When nothing is known of a side's numbers,
//! the other end gets no reset.

use super::established;
use super::family::Family;
use super::frame::Frame;
use super::segment;
use super::shared::Shared;
use super::snapshot::Service;
use super::tunnel;
use crate::rewrite::ethernet;
use crate::session::{Aside, Direction, Entry, Extras, TcpState};
use crate::wire::flow::{FlowKey, Protocol, tcp_flags};

/// How long the end of a session is put off for want of a frame to tell its ends with, in
/// milliseconds.
pub(super) const PATIENCE_MS: u32 = 10_000;

/// Tells the ends of a session that expires, if its service wants it. `false` when there are no frames
/// for it now: the session should end a little later.
#[inline]
pub(super) fn on_expiry<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    aside: &Aside,
    now: u32,
) -> bool {
    let wanted = |service: &Service| service.policy.reset_on_expiry;
    if !has_ends(entry)
        || !shared.snapshot.services.get(usize::from(entry.service.0)).is_some_and(wanted)
    {
        return true;
    }
    if !has_room(shared) {
        let late = now.wrapping_sub(entry.last_seen.wrapping_add(entry.timeout));
        if late < PATIENCE_MS {
            return false;
        }
    }
    tell_both(shared, entry, aside, now);
    true
}

/// Whether the ends of a session hold a connection that they could be told about: one that a
/// handshake has begun and no end has closed for good.
pub(super) fn has_ends<A>(entry: &Entry<A>) -> bool {
    use TcpState::{Contested, Established, FinClient, FinServer, SynReceived};
    entry.protocol == Protocol::Tcp
        && matches!(entry.state, SynReceived | Established | Contested | FinClient | FinServer)
}

/// Whether there are frames for both ends of a session now.
pub(super) fn has_room<F: Frame>(shared: &Shared<F>) -> bool {
    shared.room_to_originate() >= 2
}

/// Sends a reset to both ends of a connection, as far as their numbers and next hops are known.
#[cold]
#[inline(never)]
pub(super) fn tell_both<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    aside: &Aside,
    now: u32,
) {
    tell(shared, entry, aside, Direction::Reply, now);
    tell(shared, entry, aside, Direction::Forward, now);
}

/// Sends a reset to one end of a connection: with [`Direction::Forward`] to the server, as if it
/// came from the client; with [`Direction::Reply`] to the client. Says whether it was sent.
#[cold]
#[inline(never)]
pub(super) fn tell<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    aside: &Aside,
    direction: Direction,
    now: u32,
) -> bool {
    if entry.protocol != Protocol::Tcp || !entry.scales.known(direction) {
        return false;
    }
    let flags = tcp_flags::RST | tcp_flags::ACK;
    let sent = send(shared, entry, direction, numbers(entry, aside, direction), flags, 0, now);
    if sent {
        shared.counters.resets.add(1);
    }
    sent
}

/// Sends a segment of Shunt's own to one end of a connection, with sequence and acknowledgement number
/// as that end counts. Says whether it was sent.
pub(super) fn send<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    direction: Direction,
    (seq, ack): (u32, u32),
    flags: u8,
    window: u16,
    now: u32,
) -> bool {
    let hop_ref = entry.hop(direction);
    // The reply hop of a one-way session leads to the server: replies do not come this way.
    let known = match direction {
        Direction::Reply if entry.mode.one_way() => None,
        _ => shared.hops.get(hop_ref).copied(),
    };
    let (hop_ref, hop) = match known {
        Some(hop) => (hop_ref, hop),
        None => match established::renew_hop(shared, &mut { *entry }, direction) {
            Ok(renewed) => renewed,
            Err(_) => return false,
        },
    };
    if !hop.ready {
        established::ask(shared, hop_ref, now);
        return false;
    }
    let Some(mut frame) = shared.take_spare(segment::frame_len::<A>(0)) else { return false };
    let key = key(entry, direction);
    segment::emit(frame.bytes_mut(), &key, seq, ack, flags, window, 0);
    if direction == Direction::Forward
        && entry.mode.tunnels()
        && !tunnel::wrap(shared, &mut frame, &key, entry.server_id)
    {
        return false;
    }
    ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
    shared.originate(hop.port, frame);
    true
}

/// The marks as sequence and acknowledgement number of a segment in `direction`, as the receiver counts.
pub(super) fn numbers<A>(entry: &Entry<A>, aside: &Aside, direction: Direction) -> (u32, u32) {
    let shifted = entry.extras.has(Extras::SHIFTED);
    let (forward, reply) = if shifted { (aside.forward_shift, aside.reply_shift) } else { (0, 0) };
    match direction {
        Direction::Forward => (entry.forward_end.wrapping_add(forward), entry.reply_end),
        Direction::Reply => (entry.reply_end.wrapping_add(reply), entry.forward_end),
    }
}

/// The endpoints as the receiver knows them.
fn key<A: Family>(entry: &Entry<A>, direction: Direction) -> FlowKey<A> {
    match direction {
        Direction::Reply => entry.forward_key().reversed(),
        Direction::Forward if entry.mode.translates() => entry.reply_key().reversed(),
        Direction::Forward => entry.forward_key(),
    }
}
