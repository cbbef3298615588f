//! Ends the sessions of servers that went down or left, when their service says so: a walk over the
//! session table, a bounded stretch of it each turn.

use arrayvec::ArrayVec;

use super::family::Family;
use super::frame::Frame;
use super::lane::Lane;
use super::policy::OnServerDown;
use super::replica;
use super::reset;
use super::shared::Shared;
use super::snapshot::{Server, Service, Snapshot};
use super::syn_proxy;
use crate::session::{Entry, SessionId, TcpState};
use crate::sync::session::Reason;
use crate::wire::flow::Protocol;

/// Entries looked at each turn.
const ENTRIES_PER_TURN: usize = 128;
/// Entries looked at before the sessions found are ended.
const STRETCH: usize = 16;
/// Turns that the walk waits at one place for frames to tell the ends with.
const PATIENCE: u16 = 1024;

/// Where the walk is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    cursor: usize,
    running: bool,
    waited: u16,
}

impl Sweep {
    /// Begins, or begins again.
    pub(super) fn start(&mut self) {
        *self = Sweep { cursor: 0, running: true, waited: 0 };
    }
}

/// Whether between two configurations a server went down or left whose sessions are to end.
pub(super) fn needed(old: &Snapshot, new: &Snapshot) -> bool {
    old.servers.iter().enumerate().any(|(id, before)| {
        let service = usize::from(before.service.0);
        let ends = |snapshot: &Snapshot| {
            snapshot.services.get(service).is_some_and(ends_sessions)
                && !is_up(snapshot, id, before)
        };
        ends(new) && !ends(old)
    })
}

fn ends_sessions(service: &Service) -> bool {
    service.policy.on_server_down == OnServerDown::End
}

fn is_up(snapshot: &Snapshot, id: usize, server: &Server) -> bool {
    let found = snapshot.servers.get(id);
    found.is_some_and(|s| {
        s.up && (s.service, s.address, s.port) == (server.service, server.address, server.port)
    })
}

/// Whether the session is one of a server that is down or gone, and not about to end by itself.
fn is_stranded<A: Family>(snapshot: &Snapshot, entry: &Entry<A>) -> bool {
    use TcpState::{Closed, FinBoth, TimeWait};
    let Some(service) = snapshot.services.get(usize::from(entry.service.0)) else { return false };
    if !ends_sessions(service) || matches!(entry.state, Closed | FinBoth | TimeWait) {
        return false;
    }
    let Some(server) = snapshot.servers.get(usize::from(entry.server_id.0)) else { return true };
    let another = server.service != entry.service
        || A::from_ip(server.address).is_some_and(|address| address != entry.server);
    another || !server.up
}

/// Walks on.
#[inline]
pub(super) fn walk<A: Family, F: Frame>(lane: &mut Lane<A>, shared: &mut Shared<F>, now: u32) {
    if lane.sweep.running {
        stretch(lane, shared, now);
    }
}

#[cold]
#[inline(never)]
fn stretch<A: Family, F: Frame>(lane: &mut Lane<A>, shared: &mut Shared<F>, now: u32) {
    for _ in 0..ENTRIES_PER_TURN / STRETCH {
        let begin = lane.sweep.cursor;
        let mut found = ArrayVec::<SessionId, STRETCH>::new();
        let snapshot = &shared.snapshot;
        let marks = &lane.marks;
        let at_end = lane.table.walk(&mut lane.sweep.cursor, STRETCH, |id, entry| {
            // What is the peer's ends there: this node may see the server down when the peer does not.
            let foreign = marks.as_ref().is_some_and(|marks| marks.is_foreign(id));
            if !foreign && is_stranded(snapshot, entry) {
                found.push(id);
            }
        });
        for id in found {
            let (entry, aside) = (*lane.table.get(id), *lane.table.aside(id));
            let unseen = replica::is_unseen(shared, &lane.marks, id, &entry, now);
            let tell = !unseen && entry.protocol == Protocol::Tcp && reset::has_ends(&entry);
            if tell && !reset::has_room(shared) && lane.sweep.waited < PATIENCE {
                lane.sweep.waited += 1;
                lane.sweep.cursor = begin;
                return;
            }
            if tell {
                reset::tell_both(shared, &entry, &aside, now);
            } else if entry.state == TcpState::SynProxied {
                syn_proxy::expired(shared, &entry, &aside);
            }
            lane.end(shared, id, Reason::WITHDRAWN, now);
            shared.counters.ended_with_server.add(1);
        }
        lane.sweep.waited = 0;
        if at_end {
            lane.sweep.running = false;
            return;
        }
    }
}
