//! Source hash: a client's hash points at a place of a list in which each server has as many places
//! as its weight. Clients stay with their server whatever becomes of the others, but for a change of
//! the list or of a weight, which moves many: `maglev` moves few.
//!
//! The list has every server with weight, up or not. When the server at the place cannot be picked,
//! the client is hashed again, so that the clients of a server that is down spread over all others;
//! after a few times the next one in the list is taken.

use std::sync::Arc;

use super::hash::{again, below};
use super::{Candidate, Member};

/// Times that a client is hashed before the next in the list is taken.
const TRIES: usize = 16;

/// The list, made once for all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The servers by identity: where the places of each end, and its position among the candidates.
    ends: Box<[(u64, u16)]>,
}

impl List {
    /// The list of these servers. It does not depend on their order, only on who they are and on
    /// their weights.
    pub fn new(members: &[Member]) -> Self {
        let mut sorted: Vec<&Member> = members.iter().filter(|m| m.weight != 0).collect();
        sorted.sort_by_key(|m| m.server);
        let mut end = 0;
        let ends = sorted.into_iter().map(|m| {
            end += u64::from(m.weight);
            (end, m.position)
        });
        List { ends: ends.collect() }
    }

    /// The index of the server at the place of this hash.
    fn place(&self, hash: u64) -> usize {
        let total = self.ends.last().map_or(0, |(end, _)| *end);
        let place = below(hash, total);
        self.ends.partition_point(|(end, _)| *end <= place)
    }
}

/// The scheduler; it has no state of its own.
#[derive(Clone, Debug, Default)]
pub struct SourceHash {
    list: Arc<List>,
}

impl SourceHash {
    pub(super) fn new(list: Arc<List>) -> Self {
        SourceHash { list }
    }

    pub(super) fn pick(&self, candidates: &[Candidate], hash: u64) -> Option<usize> {
        let ends = &self.list.ends;
        let eligible = |index: usize| {
            let position = usize::from(ends[index].1);
            candidates.get(position).is_some_and(Candidate::eligible).then_some(position)
        };
        if ends.is_empty() {
            return super::first_from(candidates, hash);
        }
        let mut hash = hash;
        for _ in 0..TRIES {
            if let Some(position) = eligible(self.list.place(hash)) {
                return Some(position);
            }
            hash = again(hash);
        }
        let start = self.list.place(hash);
        let found = (start..ends.len()).chain(0..start).find_map(eligible);
        // The list is as old as the candidates, or nobody on it has weight.
        found.or_else(|| super::first_from(candidates, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{members, servers};

    fn clients() -> impl Iterator<Item = u64> {
        (0..40_000u32).map(|n| crate::sched::hash::bytes(&n.to_be_bytes()))
    }

    #[test]
    fn shares_follow_the_weights_and_clients_stay() {
        let weights = [1, 2, 0, 5];
        let sh = SourceHash::new(Arc::new(List::new(&members(&weights))));
        let list = servers(&weights);
        let mut counts = [0u32; 4];
        for hash in clients() {
            let picked = sh.pick(&list, hash).unwrap();
            assert_eq!(sh.pick(&list, hash), Some(picked));
            counts[picked] += 1;
        }
        for (count, expected) in counts.iter().zip([5_000u32, 10_000, 0, 25_000]) {
            assert!(count.abs_diff(expected) <= 400, "{counts:?}");
        }
    }

    #[test]
    fn only_the_clients_of_a_server_that_is_down_move_and_they_spread() {
        let weights = [1; 5];
        let sh = SourceHash::new(Arc::new(List::new(&members(&weights))));
        let (all, mut less) = (servers(&weights), servers(&weights));
        less[2].available = false;
        let mut took = [0u32; 5];
        for hash in clients() {
            let (before, after) = (sh.pick(&all, hash).unwrap(), sh.pick(&less, hash).unwrap());
            if before == 2 {
                took[after] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(took[2], 0);
        assert!(
            took.iter().enumerate().all(|(i, n)| i == 2 || n.abs_diff(2_000) < 200),
            "{took:?}"
        );
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let weights = [3, 1, 4, 2];
        let list = members(&weights);
        let mut turned: Vec<Member> = list.iter().rev().copied().collect();
        for (position, member) in turned.iter_mut().enumerate() {
            member.position = position as u16;
        }
        let (a, b) = (List::new(&list), List::new(&turned));
        let (a, b) = (SourceHash::new(Arc::new(a)), SourceHash::new(Arc::new(b)));
        let (of_a, mut of_b) = (servers(&weights), servers(&weights));
        of_b.reverse();
        for hash in clients() {
            let (a, b) = (a.pick(&of_a, hash).unwrap(), b.pick(&of_b, hash).unwrap());
            assert_eq!(list[a].server, turned[b].server);
        }
    }

    #[test]
    fn one_that_is_left_is_found() {
        let weights = [1; 300];
        let sh = SourceHash::new(Arc::new(List::new(&members(&weights))));
        let mut list = servers(&weights);
        list.iter_mut().for_each(|c| c.available = false);
        list[123].available = true;
        assert!(clients().take(200).all(|hash| sh.pick(&list, hash) == Some(123)));
        list[123].available = false;
        assert_eq!(sh.pick(&list, 7), None);
    }
}
