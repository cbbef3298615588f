//! TCP on the established path: where a segment stands in its connection. The rules are
//! [`crate::session::connection`]'s; this reads the segment and writes the session. A SYN has its
//! maximum segment size clamped here, too.

use super::extras;
use super::family::Family;
use super::frame::Frame;
use super::lane::Lane;
use super::shared::Shared;
use crate::rewrite::mss;
use crate::session::connection::{self, Connection, Outcome, Segment};
use crate::session::{Aside, Direction, Entry, Extras, SessionId, Table, TcpState, tcp_state};
use crate::wire::flow::{Flow, tcp_flags};
use crate::wire::{DropReason, tcp, tcp_option};

/// Moves the mark of the other side on to what a steady segment acknowledges; in one-way modes the
/// client's, too. `false` when it is far from there: [`resume`] then has to look.
#[inline(always)]
pub(super) fn advance<A: Family>(
    entry: &mut Entry<A>,
    direction: Direction,
    frame: &[u8],
    flow: &Flow<A>,
) -> bool {
    // Parsing has seen the whole header.
    let Some(start) = frame.get(A::TRANSPORT..A::TRANSPORT + 16) else { return true };
    let ack = u32::from_be_bytes([start[8], start[9], start[10], start[11]]);
    if entry.mode.one_way() {
        let seq = u32::from_be_bytes([start[4], start[5], start[6], start[7]]);
        let header = A::TRANSPORT as u32 + u32::from(start[12] >> 4) * 4;
        let end = seq.wrapping_add(u32::from(flow.frame_len).wrapping_sub(header));
        return entry.advance(Direction::Forward, end) & entry.advance(Direction::Reply, ack);
    }
    entry.advance(direction.turned(), ack)
}

/// The same of a session whose numbers are shifted ([`Extras::SHIFTED`]).
#[cold]
#[inline(never)]
pub(super) fn advance_shifted<A: Family>(
    table: &mut Table<A>,
    id: SessionId,
    direction: Direction,
    frame: &[u8],
    flow: &Flow<A>,
) -> bool {
    let segment = read(table.get(id), table.aside(id), direction, frame, flow);
    table.get_mut(id).advance(direction.turned(), segment.ack)
}

/// Takes a mark up again that a segment of an established connection is far from.
#[cold]
#[inline(never)]
pub(super) fn resume<A: Family>(
    lane: &mut Lane<A>,
    id: SessionId,
    direction: Direction,
    frame: &[u8],
    flow: &Flow<A>,
) {
    let loose = is_loose(lane, id);
    let table = &mut lane.table;
    let segment = read(table.get(id), table.aside(id), direction, frame, flow);
    let entry = table.get_mut(id);
    let mut followed = connection_of(entry);
    if loose {
        connection::loosen(&mut followed, direction, &segment);
    }
    connection::resume(&mut followed, direction, &segment);
    take_over(entry, &followed);
}

/// Follows the connection through a segment that may change its state. The reason, if the segment is
/// dropped: it has then changed nothing.
#[cold]
#[inline(never)]
pub(super) fn follow<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    direction: Direction,
    frame: &mut F,
    flow: &Flow<A>,
    now: u32,
) -> Result<Outcome, DropReason> {
    let loose = is_loose(lane, id);
    let table = &mut lane.table;
    let entry = table.get(id);
    let segment = read(entry, table.aside(id), direction, frame.bytes(), flow);
    let opens = direction == Direction::Forward
        && segment.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    let server = shared.snapshot.servers.get(usize::from(entry.server_id.0));
    let restarts = opens && entry.mode.one_way() && entry.state == TcpState::FinBoth;
    if opens
        && (entry.state == TcpState::SynSent || restarts)
        && !server.is_some_and(|server| server.up)
    {
        return Ok(Outcome::Reopen);
    }
    let mut followed = connection_of(entry);
    if loose {
        connection::loosen(&mut followed, direction, &segment);
    }
    let outcome = connection::follow(&mut followed, direction, &segment);
    match outcome {
        Outcome::Pass => {}
        Outcome::Drop => return Err(DropReason::TcpOutOfWindow),
        Outcome::Reopen => return Ok(Outcome::Reopen),
    }
    if let Some(reason) = extras::police(shared, entry, frame, direction, now) {
        return Err(reason);
    }
    if restarts {
        let Shared { limits, counters, .. } = &mut *shared;
        limits.admit(entry.service, true, entry.client.into(), counters, now)?;
    }
    let entry = table.get_mut(id);
    take_over(entry, &followed);
    let service = shared.snapshot.services.get(usize::from(entry.service.0));
    if followed.state != entry.state {
        // A session may outlive its service in the configuration; it then keeps its timeout.
        let timeout = service
            .map_or(entry.timeout, |service| tcp_state::timeout(followed.state, &service.timeouts));
        let before = entry.state;
        table.set_state(id, followed.state, timeout, now);
        shared.limits.moved(table.get(id), before, &shared.counters);
    }
    if segment.flags & tcp_flags::SYN != 0
        && let Some(service) = service
        && service.policy.mss != 0
    {
        mss::clamp::<A>(frame.bytes_mut(), service.policy.mss);
    }
    Ok(Outcome::Pass)
}

/// Begins a session that was made from a segment of the client in mid-stream, which was passed on:
/// established in all likelihood, but nobody has confirmed it yet.
pub(super) fn adopt<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut Table<A>,
    id: SessionId,
    segment: &Segment,
    now: u32,
) {
    let entry = table.get_mut(id);
    let mut adopted = connection_of(entry);
    connection::adopt(&mut adopted, segment);
    take_over(entry, &adopted);
    let service = shared.snapshot.services.get(usize::from(entry.service.0));
    let timeout = service
        .map_or(entry.timeout, |service| tcp_state::timeout(adopted.state, &service.timeouts));
    let before = entry.state;
    table.set_state(id, adopted.state, timeout, now);
    shared.limits.moved(table.get(id), before, &shared.counters);
}

/// Whether the peer sees packets of the session too, or did: what is known of it here may be old.
fn is_loose<A: Family>(lane: &Lane<A>, id: SessionId) -> bool {
    lane.marks.as_ref().is_some_and(|marks| marks.is_loose(id))
}

fn connection_of<A>(entry: &Entry<A>) -> Connection {
    Connection {
        mode: entry.mode,
        state: entry.state,
        forward_end: entry.forward_end,
        reply_end: entry.reply_end,
        scales: entry.scales,
        doubt: entry.doubt,
    }
}

/// All but the state.
fn take_over<A>(entry: &mut Entry<A>, connection: &Connection) {
    entry.forward_end = connection.forward_end;
    entry.reply_end = connection.reply_end;
    entry.scales = connection.scales;
    entry.doubt = connection.doubt;
}

fn read<A: Family>(
    entry: &Entry<A>,
    aside: &Aside,
    direction: Direction,
    frame: &[u8],
    flow: &Flow<A>,
) -> Segment {
    let segment = first(frame, flow);
    Segment { ack: segment.ack.wrapping_sub(shift_of(entry, aside, direction)), ..segment }
}

/// By how much the acknowledgements of a side are shifted: by as much as the other side's numbers on
/// their way there.
fn shift_of<A>(entry: &Entry<A>, aside: &Aside, direction: Direction) -> u32 {
    match direction {
        _ if !entry.extras.has(Extras::SHIFTED) => 0,
        Direction::Forward => aside.reply_shift,
        Direction::Reply => aside.forward_shift,
    }
}

/// Reads a segment of which no session is known.
pub(super) fn first<A: Family>(frame: &[u8], flow: &Flow<A>) -> Segment {
    let packet = tcp::Packet::new_unchecked(&frame[A::TRANSPORT..usize::from(flow.frame_len)]);
    Segment {
        flags: flow.tcp_flags,
        seq: packet.seq(),
        len: packet.sequence_len(),
        ack: packet.ack(),
        scale: match flow.tcp_flags & tcp_flags::SYN {
            0 => 0,
            _ => window_scale(packet.options()).unwrap_or(0),
        },
    }
}

/// The window scale option (RFC 7323 2.2).
fn window_scale(options: &[u8]) -> Option<u8> {
    tcp_option::iter(options).find_map(|option| match (option.kind, option.data) {
        (tcp_option::WINDOW_SCALE, &[scale]) => Some(scale),
        _ => None,
    })
}
