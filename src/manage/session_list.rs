//! Lists of sessions: every worker is asked, and the answers are merged.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::worker::control::{SessionFilter, SessionQuery, SessionRow};

/// Milliseconds a worker has to answer.
pub(super) const ANSWER_WITHIN_MS: u64 = 2_000;
/// The most lists that are made at a time.
const AT_A_TIME: usize = 8;

/// A merged list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SessionList {
    /// The owning worker and the session, by client; at most the limit.
    pub(super) rows: Vec<(usize, SessionRow)>,
    /// How many match, listed or not.
    pub(super) matching: u64,
    /// Workers that did not answer in time.
    pub(super) silent: Vec<usize>,
}

#[derive(Debug)]
struct Pending {
    list: SessionList,
    limit: usize,
    deadline_ms: u64,
    reply: oneshot::Sender<SessionList>,
}

/// The lists that are being made. `silent` of a pending list holds the workers still to answer.
#[derive(Debug, Default)]
pub(super) struct SessionLists {
    next_id: u64,
    pending: HashMap<u64, Pending>,
}

impl SessionLists {
    /// Starts a list of at most `limit` sessions of workers `0..workers`. Returns the query to send to
    /// each of them and where the list will come, or `None` when too many are being made already.
    pub(super) fn start(
        &mut self,
        now_ms: u64,
        filter: SessionFilter,
        limit: usize,
        workers: usize,
    ) -> Option<(Vec<SessionQuery>, oneshot::Receiver<SessionList>)> {
        if self.pending.len() >= AT_A_TIME {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let (reply, list) = oneshot::channel();
        let queries = (0..workers)
            .map(|_| SessionQuery {
                id,
                filter: filter.clone(),
                rows: Vec::with_capacity(limit),
                matching: 0,
                cursor: 0,
            })
            .collect();
        let pending = Pending {
            list: SessionList { silent: (0..workers).collect(), ..SessionList::default() },
            limit,
            deadline_ms: now_ms + ANSWER_WITHIN_MS,
            reply,
        };
        self.pending.insert(id, pending);
        Some((queries, list))
    }

    /// Takes a worker's answer in. One that comes too late is let go.
    pub(super) fn answer(&mut self, worker: usize, query: SessionQuery) {
        let Some(pending) = self.pending.get_mut(&query.id) else { return };
        let Some(at) = pending.list.silent.iter().position(|&w| w == worker) else { return };
        pending.list.silent.remove(at);
        pending.list.matching += query.matching;
        pending.list.rows.extend(query.rows.into_iter().map(|row| (worker, row)));
        if pending.list.silent.is_empty() {
            self.finish(query.id);
        }
    }

    /// Finishes the lists whose time is up with the answers they have.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let over: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, p)| p.deadline_ms <= now_ms)
            .map(|(&id, _)| id)
            .collect();
        for id in over {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(Pending { mut list, limit, reply, .. }) = self.pending.remove(&id) else { return };
        list.rows.sort_by_key(|(_, row)| (row.client, row.vip));
        list.rows.truncate(limit);
        // Nobody waits any more when the client has hung up.
        let _ = reply.send(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing::row;

    fn filled(mut query: SessionQuery, matching: u64, clients: &[&str]) -> SessionQuery {
        query.matching = matching;
        query.rows.extend(clients.iter().map(|c| row(c)));
        query
    }

    #[test]
    fn answers_are_merged_sorted_and_cut() {
        let mut lists = SessionLists::default();
        let (mut queries, mut list) = lists.start(0, SessionFilter::default(), 3, 2).expect("room");
        assert!(queries.iter().all(|q| q.rows.capacity() == 3));
        let (second, first) = (queries.pop().unwrap(), queries.pop().unwrap());
        lists.answer(1, filled(second, 7, &["198.51.100.9:5", "198.51.100.1:9"]));
        assert!(list.try_recv().is_err());
        lists.answer(0, filled(first, 2, &["198.51.100.1:7", "198.51.100.2:1"]));
        let list = list.try_recv().unwrap();
        assert_eq!(list.matching, 9);
        assert!(list.silent.is_empty());
        assert_eq!(
            list.rows,
            [(0, row("198.51.100.1:7")), (1, row("198.51.100.1:9")), (0, row("198.51.100.2:1"))]
        );
    }

    #[test]
    fn a_silent_worker_is_named_and_its_late_answer_is_let_go() {
        let mut lists = SessionLists::default();
        let (mut queries, mut list) =
            lists.start(10, SessionFilter::default(), 5, 2).expect("room");
        let (second, first) = (queries.pop().unwrap(), queries.pop().unwrap());
        lists.answer(0, filled(first, 1, &["198.51.100.1:7"]));
        lists.tick(2_009);
        assert!(list.try_recv().is_err());
        lists.tick(2_010);
        let list = list.try_recv().unwrap();
        assert_eq!((list.rows.len(), list.silent), (1, vec![1]));
        lists.answer(1, second);
        assert!(lists.pending.is_empty());
    }

    #[test]
    fn only_so_many_at_a_time() {
        let mut lists = SessionLists::default();
        let held: Vec<_> =
            (0..AT_A_TIME).map(|_| lists.start(0, SessionFilter::default(), 1, 1)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(lists.start(0, SessionFilter::default(), 1, 1).is_none());
        lists.tick(ANSWER_WITHIN_MS);
        assert!(lists.start(0, SessionFilter::default(), 1, 1).is_some());
    }
}
