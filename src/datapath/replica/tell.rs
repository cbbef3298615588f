//! What the peer is told of sessions.

use super::channel;
use super::state::{Change, Replica};
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Lane;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::Snapshot;
use crate::session::marks::Marks;
use crate::session::persistence::Placed;
use crate::session::{Due, Entry, SessionId, TcpState, Then};
use crate::sync::identity::identity;
use crate::sync::session::{Close, Persist, Reason, Session, Touch};

/// How long the peer has to say that a session lives, in milliseconds.
pub(super) const ANSWER_MS: u32 = 500;
/// For how long a session outlives its timeout, at the most, when the peer cannot be asked, in
/// milliseconds: a peer that is not heard at all is found dead much sooner.
const UNHEARD_MS: u32 = 10_000;

/// Takes notice of a session that this node has made.
pub(in crate::datapath) fn created<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    now: u32,
) {
    let (Some(replica), Some(marks)) = (&mut shared.replica, &mut lane.marks) else { return };
    let bucket = bucket_of(&shared.snapshot, shared.toeplitz, lane.table.get(id));
    marks.begin(id, replica.next_born(), bucket, now);
    queue::<A>(replica, marks, id);
    replica.urgent = true;
}

/// Takes notice of a change of state; `urgent`: the peer must know before the packet is on its way.
pub(in crate::datapath) fn changed<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    urgent: bool,
) {
    let (Some(replica), Some(marks)) = (&mut shared.replica, &mut lane.marks) else { return };
    queue::<A>(replica, marks, id);
    replica.urgent |= urgent;
}

/// Takes notice of what a segment has done to a session that was so before.
pub(in crate::datapath) fn followed<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    before: &Entry<A>,
    now: u32,
) {
    let Some(marks) = &lane.marks else { return };
    let Entry { state, forward_end, .. } = *lane.table.get(id);
    match (before.state, state) {
        // The client has begun anew with another number: what is shifted is so from there.
        (TcpState::SynSent, TcpState::SynSent) if forward_end != before.forward_end => {
            changed(shared, lane, id, true);
        }
        (before, after) if before == after => {}
        // A new connection in the place of one that was over, with the same server.
        (TcpState::FinBoth, TcpState::SynSent)
        | (TcpState::FinBoth | TcpState::TimeWait | TcpState::Closed, TcpState::SynReceived) => {
            let entry = *lane.table.get(id);
            ended(shared, &mut lane.marks, id, &entry, Reason::REPLACED, now);
            created(shared, lane, id, now);
        }
        // A doubt is this node's own; the answer to the SYN follows the SYN so soon that the peer
        // makes nothing of it, unless it sees the client's part of the connection.
        (_, TcpState::Contested) => {}
        (_, TcpState::SynReceived) if !marks.is_loose(id) => {}
        _ => changed(shared, lane, id, false),
    }
}

/// Puts a session on the list of changes.
fn queue<A: Family>(replica: &mut Replica, marks: &mut Marks, id: SessionId) {
    if replica.changes.is_full() {
        // The peer learns it by the next change, or at half of the timeout.
        return;
    }
    if marks.queue(id) {
        replica.changes.push(Change { v6: A::V6, id });
    }
}

/// Takes notice of the end of a session that is still in its table.
pub(in crate::datapath) fn ended<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    marks: &mut Option<Marks>,
    id: SessionId,
    entry: &Entry<A>,
    reason: Reason,
    now: u32,
) {
    let (Some(replica), Some(marks)) = (&mut shared.replica, marks) else { return };
    let born = marks.born(id);
    if marks.end(id, identity(entry, born)) && replica.has_peer() {
        channel::push(shared, &Close::from_entry(entry, born, reason), now);
    }
}

/// What is to be done about a session that came due: `None` when it is this node's and ends as any
/// other does.
pub(in crate::datapath) fn due<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    marks: &mut Option<Marks>,
    due: Due,
    id: SessionId,
    entry: &Entry<A>,
    now: u32,
) -> Option<Then> {
    let (Some(replica), Some(marks)) = (&mut shared.replica, marks) else {
        return (due == Due::Half).then_some(Then::GoesOn);
    };
    if due == Due::Half && !marks.is_foreign(id) && !marks.is_told(id) {
        queue::<A>(replica, marks, id);
    }
    let foreign = marks.is_foreign(id);
    let (has_peer, is_silent) = (replica.has_peer(), replica.silent_at.is_some());
    let since_lost = replica.lost_at.map(|lost_at| now.wrapping_sub(lost_at));
    let idle = now.wrapping_sub(entry.last_seen);
    let since_told = now.wrapping_sub(marks.told(id));
    // Packets came since the other node was told: it is told again.
    if has_peer && idle < since_told && told_of(entry) {
        let touch = Touch::from_entry(entry, marks.born(id), now);
        marks.heard(id, now);
        channel::push(shared, &touch, now);
    }
    match due {
        Due::Half => {
            marks.ask(id, false);
            Some(Then::GoesOn)
        }
        // What the peer saw before it was gone it has perhaps not told.
        Due::Over if !foreign && since_lost.is_some_and(|since| since < entry.timeout) => {
            Some(Then::After(entry.timeout - since_lost.unwrap_or(0)))
        }
        // The peer perhaps sees what this node does not, and has not told yet.
        Due::Over if !foreign && has_peer && asks(entry) && !marks.ask(id, true) => {
            let touch = Touch::from_entry(entry, marks.born(id), now);
            marks.heard(id, now);
            channel::push(shared, &touch, now);
            Some(Then::After(ANSWER_MS))
        }
        // The question or its answer is perhaps lost, as long as the peer does not hear this node; but
        // that may be so for good.
        Due::Over
            if !foreign
                && asks(entry)
                && is_silent
                && idle < entry.timeout.saturating_add(UNHEARD_MS) =>
        {
            Some(Then::After(ANSWER_MS))
        }
        // Its owner ends it, or says that it lives.
        Due::Over if foreign => Some(Then::After((entry.timeout / 2).max(1_000))),
        // The peer was asked when the time was over, and has said nothing.
        Due::Over if since_told <= idle - entry.timeout => None,
        // The owner that is gone perhaps saw packets later than it has told.
        Due::Over if marks.was_foreign(id) && since_told < entry.timeout + entry.timeout / 2 => {
            let left = entry.timeout + entry.timeout / 2 - since_told;
            Some(Then::After(left))
        }
        // What the peer saw before it was gone it has perhaps not told.
        Due::Over if !foreign && since_lost.is_some_and(|since| since < entry.timeout) => {
            Some(Then::After(entry.timeout - since_lost.unwrap_or(0)))
        }
        // The peer perhaps sees what this node does not, and has not told yet.
        Due::Over if has_peer && asks(entry) => {
            let touch = Touch::from_entry(entry, marks.born(id), now);
            marks.heard(id, now);
            channel::push(shared, &touch, now);
            Some(Then::After(ANSWER_MS))
        }
        Due::Over => None,
    }
}

/// Takes notice of a copy that becomes a session of this node: its owner has ended it.
pub(super) fn adopted<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    now: u32,
) {
    let entry = *lane.table.get(id);
    ended(shared, &mut lane.marks, id, &entry, Reason::EXPIRED, now);
    created(shared, lane, id, now);
    if let Some(marks) = &mut lane.marks {
        marks.loosen(id);
    }
}

/// Whether the peer is asked before a session of this node ends by timeout: not when the connection is
/// over, or was never there.
pub(super) fn asks<A>(entry: &Entry<A>) -> bool {
    use TcpState::{Contested, Established, FinClient, FinServer, Udp};
    matches!(entry.state, Established | Contested | FinClient | FinServer | Udp)
}

/// Whether this node has seen nothing of a session since the peer told of it, or was lost: perhaps the
/// peer sees its packets, and says so to nobody. It then ends without a word to its ends.
pub(in crate::datapath) fn is_unseen<A, F>(
    shared: &Shared<F>,
    marks: &Option<Marks>,
    id: SessionId,
    entry: &Entry<A>,
    now: u32,
) -> bool {
    let (Some(replica), Some(marks)) = (&shared.replica, marks) else { return false };
    let idle = now.wrapping_sub(entry.last_seen);
    let is_before = |at: u32| idle >= now.wrapping_sub(at);
    marks.was_foreign(id) && is_before(marks.told(id)) || replica.lost_at.is_some_and(is_before)
}

/// Tells the peer where a client of a persistent service goes.
pub(in crate::datapath) fn placed<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    scope: u16,
    client: A,
    placed: Placed,
    life_ms: u32,
    now: u32,
) {
    if shared.replica.as_ref().is_some_and(|replica| replica.has_peer()) {
        let record =
            Persist { scope: u64::from(scope), life: life_ms, client, server_ip: placed.server };
        channel::push(shared, &record, now);
    }
}

/// Writes the changes of this burst into the stream. What must leave ahead of the burst is sent.
pub(in crate::datapath) fn tell_changes<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<std::net::Ipv4Addr>,
    v6: &mut Lane<std::net::Ipv6Addr>,
    now: u32,
) {
    let Some(replica) = &mut shared.replica else { return };
    if replica.changes.is_empty() {
        return;
    }
    let changes = std::mem::take(&mut replica.changes);
    for change in &changes {
        if change.v6 {
            tell(shared, v6, change.id, now);
        } else {
            tell(shared, v4, change.id, now);
        }
    }
    let Some(replica) = &mut shared.replica else { return };
    if std::mem::take(&mut replica.urgent) {
        channel::send_open(shared, now);
    }
}

/// Writes one session into the stream: the whole of it when it is own, what was seen of it when it is
/// the peer's.
fn tell<A: Family, F: Frame>(shared: &mut Shared<F>, lane: &mut Lane<A>, id: SessionId, now: u32) {
    let (Some(replica), Some(marks)) = (&shared.replica, &mut lane.marks) else { return };
    if !marks.unqueue(id) {
        return;
    }
    let entry = lane.table.get(id);
    if !told_of(entry) {
        return;
    }
    let has_peer = replica.has_peer();
    if marks.is_foreign(id) {
        if has_peer {
            let touch = Touch::from_entry(entry, marks.born(id), now);
            marks.heard(id, now);
            channel::push(shared, &touch, now);
        }
        return;
    }
    let new = !marks.is_told(id);
    let record = session(&shared.snapshot, lane, id, now);
    if let Some(marks) = &mut lane.marks {
        marks.tell(id, record.identity(), now);
    }
    match has_peer {
        true if new => channel::push_new(shared, &record, now),
        true => channel::push(shared, &record, now),
        false => {}
    }
}

/// Whether the peer is told of it at all: of a handshake that is still Shunt's own it can make nothing,
/// and the client's next segment opens it there anew, by its cookie.
pub(super) fn told_of<A>(entry: &Entry<A>) -> bool {
    entry.state != TcpState::SynProxied
}

/// The record of a session.
pub(super) fn session<A: Family>(
    snapshot: &Snapshot,
    lane: &Lane<A>,
    id: SessionId,
    now: u32,
) -> Session<A> {
    let (entry, aside) = (lane.table.get(id), lane.table.aside(id));
    let born = lane.marks.as_ref().map_or(0, |marks| marks.born(id));
    let mut record = Session::from_entry(entry, aside, born, now);
    if entry.server == A::UNSPECIFIED {
        let server = snapshot.servers.get(usize::from(entry.server_id.0));
        record.server_ip = server.map(|server| server.address);
    }
    record
}

/// The steering bucket of a session.
pub(super) fn bucket_of<A: Family>(
    snapshot: &Snapshot,
    toeplitz: &crate::wire::toeplitz::Toeplitz,
    entry: &Entry<A>,
) -> usize {
    use crate::datapath::snat::state::Ends;
    use crate::session::Mode;
    if entry.mode != Mode::Snat {
        return A::outer_bucket(toeplitz, entry.client, entry.client_port);
    }
    let (address, port) = Ends::of(entry).inside;
    let (address, port) = A::inside(snapshot).steers_by(address, port, entry.protocol);
    A::bucket(toeplitz, address, port)
}
