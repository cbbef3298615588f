//! When both nodes know a session: what each has seen of it is put together; and when they have two
//! of the same endpoints, one gives way.

use std::cmp::Ordering;

use super::channel;
use super::gauges;
use super::import::{self, is_tcp, of_a_copy};
use super::tell;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Lane;
use crate::datapath::note::Place;
use crate::datapath::shared::Shared;
use crate::session::connection;
use crate::session::sequence::later;
use crate::session::{Direction, Extras, SessionId, TcpState, tcp_state};
use crate::sync::session::{Reason, Session, Touch};

/// Two sessions were seen at the same time when it is not more than so many milliseconds apart.
const RECENT_MS: u32 = 1_000;

/// The state of the copy that a record makes.
pub(super) fn state_of<A>(record: &Session<A>) -> TcpState {
    of_a_copy(record.state)
}

/// The owner says what it knows of a session that is here too.
pub(super) fn merge<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    record: &Session<A>,
    place: Place,
    now: u32,
) {
    let Some(replica) = &shared.replica else { return };
    let Some(marks) = &mut lane.marks else { return };
    let bucket = marks.bucket(id);
    let (node, walk) = (replica.node, replica.walk_of[bucket]);
    let confirmed = marks.walk(id) == walk;
    marks.confirm(id, walk);
    let foreign = marks.is_foreign(id);
    if !foreign {
        // Both claim it: they were apart. Node 0 keeps it.
        if node == 0 {
            marks.loosen(id);
            if !confirmed {
                gauges::has_come(shared, bucket);
            }
            advance(shared, lane, id, state_of(record), record.idle, now);
            return;
        }
        marks.cede(id, record.identity(), now);
    }
    // What was seen here after that is still to be told.
    if record.idle <= now.wrapping_sub(lane.table.get(id).last_seen) {
        marks.heard(id, now);
    }
    if !confirmed {
        gauges::has_come(shared, bucket);
    }
    // What came before it says how the session is now.
    if foreign && place == Place::Late {
        advance(shared, lane, id, state_of(record), record.idle, now);
        return;
    }
    // What this node has seen itself may be further than what the owner has.
    let entry = lane.table.get(id);
    let (forward_end, reply_end, scales) = (entry.forward_end, entry.reply_end, entry.scales);
    let introduced = !entry.extras.has(Extras::INTRODUCED);
    let seen_here = lane.table.get(id).last_seen;
    import::update(lane, id, record);
    let entry = lane.table.get_mut(id);
    if scales.known(Direction::Forward) && entry.scales.known(Direction::Forward) {
        entry.forward_end = later(forward_end, entry.forward_end);
    }
    if scales.known(Direction::Reply) && entry.scales.known(Direction::Reply) {
        entry.reply_end = later(reply_end, entry.reply_end);
    }
    if introduced {
        entry.extras = entry.extras.without(Extras::INTRODUCED.with(Extras::TOLD));
    }
    entry.last_seen = seen_here;
    advance(shared, lane, id, state_of(record), record.idle, now);
}

/// The other node has seen packets of a session.
pub(super) fn touch<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    touch: &Touch<A>,
    now: u32,
) {
    let has_peer = shared.replica.as_ref().is_some_and(|replica| replica.has_peer());
    let Some(marks) = &mut lane.marks else { return };
    let entry = lane.table.get_mut(id);
    // What was seen here after that is still to be told.
    if touch.idle <= now.wrapping_sub(entry.last_seen) {
        marks.heard(id, now);
    }
    if marks.is_foreign(id) {
        // Its owner asks before it ends the session, or has doubts about it.
        let asks = touch.idle >= entry.timeout || touch.state == TcpState::Contested;
        let idle = now.wrapping_sub(entry.last_seen);
        if has_peer && asks && idle < touch.idle {
            let answer = Touch::from_entry(entry, marks.born(id), now);
            marks.heard(id, now);
            channel::push(shared, &answer, now);
        }
    } else {
        marks.loosen(id);
        // The peer has seen a segment after the one that is doubted.
        let later = touch.idle < now.wrapping_sub(entry.last_seen);
        if later && entry.state == TcpState::Contested && touch.state == TcpState::Established {
            set_state(shared, lane, id, TcpState::Established, now);
        }
    }
    let entry = lane.table.get_mut(id);
    let begins = entry.state == TcpState::SynSent && touch.state == TcpState::SynSent;
    if begins && touch.idle <= now.wrapping_sub(entry.last_seen) {
        // The client has begun anew there: what is shifted is so from there.
        entry.forward_end = touch.forward_end;
        if entry.extras.has(Extras::PROXY_V1.with(Extras::PROXY_V2)) {
            lane.table.aside_mut(id).shift_at = touch.forward_end;
        }
    }
    let entry = lane.table.get_mut(id);
    if entry.scales.known(Direction::Forward) {
        entry.forward_end = later(entry.forward_end, touch.forward_end);
    }
    // Before the SYN-ACK the server has no mark.
    if entry.scales.known(Direction::Reply) && touch.state != TcpState::SynSent {
        entry.reply_end = later(entry.reply_end, touch.reply_end);
    }
    let mut state = of_a_copy(touch.state);
    // The client's part of the handshake was quicker than the peer's word of the SYN-ACK.
    if (entry.state, state) == (TcpState::SynSent, TcpState::SynReceived)
        && connection::confirmed(entry.reply_end, touch.reply_end)
    {
        state = TcpState::Established;
        tell::changed(shared, lane, id, false);
    }
    advance(shared, lane, id, state, touch.idle, now);
}

/// Brings a session to the later of the state it is in and another, and to the later time.
fn advance<A: Family, F>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    other: TcpState,
    idle: u32,
    now: u32,
) {
    let entry = lane.table.get_mut(id);
    let seen = now.wrapping_sub(idle.min(i32::MAX as u32));
    if (seen.wrapping_sub(entry.last_seen) as i32) > 0 {
        entry.last_seen = seen;
    }
    if !is_tcp(entry.protocol) {
        return;
    }
    let state = join(entry.state, other);
    if state == entry.state {
        return;
    }
    set_state(shared, lane, id, state, now);
}

/// Changes the state of a session, and its timeout with it; it was not seen by that.
fn set_state<A: Family, F>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    state: TcpState,
    now: u32,
) {
    let entry = lane.table.get(id);
    let (before, last_seen) = (entry.state, entry.last_seen);
    let timeout = match shared.snapshot.services.get(usize::from(entry.service.0)) {
        Some(service) => tcp_state::timeout(state, &service.timeouts),
        None => match snat_timeouts(shared, entry.service.0) {
            Some(timeouts) => tcp_state::timeout(state, &timeouts),
            None => entry.timeout,
        },
    };
    lane.table.set_state(id, state, timeout, now);
    lane.table.get_mut(id).last_seen = last_seen;
    shared.limits.moved(lane.table.get(id), before, &shared.counters);
}

/// The timeouts of the rule of egress SNAT that has this number among the services.
fn snat_timeouts<F>(shared: &Shared<F>, service: u16) -> Option<tcp_state::Timeouts> {
    let rules = &shared.snapshot.snat;
    let first = rules.service_id(0).0;
    let rule = service.checked_sub(first)?;
    rules.list().get(usize::from(rule)).map(|rule| rule.timeouts)
}

/// The later of two states of one connection, each seen on another path. A FIN of each side makes two.
pub(super) fn join(a: TcpState, b: TcpState) -> TcpState {
    use TcpState::{FinBoth, FinClient, FinServer};
    match (a, b) {
        (FinClient, FinServer) | (FinServer, FinClient) => FinBoth,
        _ if rank(b) > rank(a) => b,
        _ => a,
    }
}

const fn rank(state: TcpState) -> u8 {
    match state {
        TcpState::Udp => 0,
        TcpState::SynProxied => 1,
        TcpState::SynSent => 2,
        TcpState::SynReceived => 3,
        // A doubt is of the node that has it.
        TcpState::Established | TcpState::Contested => 4,
        TcpState::FinClient | TcpState::FinServer => 5,
        TcpState::FinBoth => 6,
        TcpState::TimeWait => 7,
        TcpState::Closed => 8,
    }
}

/// How much a session is worth when another of the same endpoints is there as well.
const fn worth(state: TcpState) -> u8 {
    match state {
        TcpState::Established | TcpState::Contested | TcpState::FinClient | TcpState::FinServer => {
            2
        }
        TcpState::Udp | TcpState::SynSent | TcpState::SynReceived | TcpState::SynProxied => 1,
        TcpState::FinBoth | TcpState::TimeWait | TcpState::Closed => 0,
    }
}

/// Whether the session here makes room for the peer's, which has another server or other endpoints. It
/// is then gone.
///
/// A copy does: its owner says that there is another. Of two own ones the connection that exists stays;
/// of two alike that with the later packet, and of these node 0's.
pub(super) fn gives_way<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    record: &Session<A>,
    now: u32,
) -> bool {
    let foreign = lane.marks.as_ref().is_none_or(|marks| marks.is_foreign(id));
    if !foreign {
        shared.counters.sync.conflicts.add(1);
        let node = shared.replica.as_ref().map_or(0, |replica| replica.node);
        let (own, other) = (worth(lane.table.get(id).state), worth(record.state));
        // A node that stood still has old ones.
        let own_idle = now.wrapping_sub(lane.table.get(id).last_seen);
        let stays = match own.cmp(&other) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal if own_idle.abs_diff(record.idle) > RECENT_MS => own_idle < record.idle,
            Ordering::Equal => node == 0,
        };
        if stays {
            return false;
        }
    }
    remove(shared, lane, id, now);
    true
}

/// Ends a session here. The peer hears of it if it was this node's.
pub(super) fn remove<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    now: u32,
) {
    lane.end(shared, id, Reason::REPLACED, now);
}
