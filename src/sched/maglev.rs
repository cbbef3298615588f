//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4), with weights: a table in which each server holds a share of the entries
//! by its weight, made so that few entries change hands when a server comes or goes.
//!
//! Each server has a permutation of the entries that follows from its address and port. The servers
//! take the entries in turns, each the first of its permutation that is free. With weights the turn
//! of a server comes at the times 0, 1/w, 2/w, …: with equal weights that is the paper's algorithm,
//! and every server has at least one entry.
//!
//! The table has the servers that are up and have weight. It is made in the management thread and
//! shared by all workers; nothing in it depends on the order of the servers in the configuration, so
//! both nodes of a pair agree.
//!
//! # Size
//!
//! The number of entries is a prime, chosen by the number of servers that the configuration has, up
//! or not, since a change of the size moves nearly every client. The paper wants a hundred entries
//! for each server, so that shares differ by 1 % at most. An entry has 2 bytes.
//!
//! | servers | entries | memory |
//! |---|---|---|
//! | to 160 | 16,381 | 32 KiB |
//! | to 655 | 65,537 | 128 KiB |
//! | more | 655,373 | 1.3 MB |
//!
//! To make one takes 0.2 ms for 3 servers, 0.6 ms for 100, 4 ms for 600 and 53 ms for 5,000 on one core
//! of an AMD EPYC: `cargo bench -p perf --no-default-features --bench parts -- maglev`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::hash;
use super::{Candidate, Member};

/// Most servers, and the entries they need.
const SIZES: [(usize, u32); 3] = [(160, 16_381), (655, 65_537), (usize::MAX, 655_373)];
/// Entries looked at for a server that can be picked, before the list of servers is.
const TRIES: usize = 64;
/// In the table while it is made: nobody's entry. Positions are below.
const FREE: u16 = u16::MAX;

/// How many entries the table of a service with that many configured servers has.
pub fn size_for(servers: usize) -> u32 {
    SIZES.iter().find(|(most, _)| servers <= *most).map_or(SIZES[2].1, |(_, size)| *size)
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Positions among the candidates. Empty when there is no server.
    entries: Box<[u16]>,
}

/// A server while the table is made.
struct Filler {
    position: u16,
    weight: u64,
    /// The next entry of its permutation, and the step to the one after.
    next: u32,
    skip: u32,
    turns: u64,
}

impl Filler {
    fn new(member: &Member, size: u32) -> Self {
        let name = |suffix: u8| {
            let mut hash = hash::endpoint(member.server.ip(), member.server.port());
            for _ in 0..=suffix {
                hash = hash::again(hash);
            }
            hash
        };
        Filler {
            position: member.position,
            weight: u64::from(member.weight),
            next: (name(0) % u64::from(size)) as u32,
            skip: (name(1) % u64::from(size - 1)) as u32 + 1,
            turns: 0,
        }
    }

    /// When its next turn is.
    fn due(&self) -> u64 {
        (self.turns << 32) / self.weight
    }

    /// Takes the first free entry of its permutation.
    fn take(&mut self, entries: &mut [u16]) {
        let size = entries.len() as u32;
        loop {
            let at = self.next as usize;
            // Both are below the size, which is below 2^31.
            self.next += self.skip;
            if self.next >= size {
                self.next -= size;
            }
            if entries[at] == FREE {
                entries[at] = self.position;
                self.turns += 1;
                return;
            }
        }
    }
}

impl Table {
    /// The table of these servers with `size` entries, a prime above their number and below 2^20.
    /// Those of weight 0 have no part in it.
    pub fn new(members: &[Member], size: u32) -> Self {
        let mut sorted: Vec<&Member> = members.iter().filter(|m| m.weight != 0).collect();
        sorted.sort_by_key(|m| m.server);
        let mut fillers: Vec<Filler> = sorted.iter().map(|m| Filler::new(m, size)).collect();
        if fillers.is_empty() {
            return Table::default();
        }
        let mut entries = vec![FREE; size as usize].into_boxed_slice();
        let mut turns: BinaryHeap<_> = (0..fillers.len()).map(|i| Reverse((0, i))).collect();
        for _ in 0..size {
            let Some(mut first) = turns.peek_mut() else { break };
            let Reverse((_, index)) = *first;
            fillers[index].take(&mut entries);
            *first = Reverse((fillers[index].due(), index));
        }
        Table { entries }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no server.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The scheduler; it has no state of its own.
#[derive(Clone, Debug, Default)]
pub struct Maglev {
    table: Arc<Table>,
}

impl Maglev {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Maglev { table }
    }

    pub(super) fn pick(&self, candidates: &[Candidate], hash: u64) -> Option<usize> {
        let entries = &self.table.entries;
        if entries.is_empty() {
            return super::first_from(candidates, hash);
        }
        // Those that the table has are up. One that may not be picked (it has as many connections
        // as it may) gives way to the next entry's, which is as good as chosen by chance.
        let start = hash::below(hash, entries.len() as u64) as usize;
        entries[start..]
            .iter()
            .chain(entries.iter())
            .take(TRIES)
            .map(|entry| usize::from(*entry))
            .find(|&position| candidates.get(position).is_some_and(Candidate::eligible))
            .or_else(|| super::first_from(candidates, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{members, servers};
    use proptest::prelude::*;

    fn counts(table: &Table, servers: usize) -> Vec<u32> {
        let mut counts = vec![0; servers];
        table.entries.iter().for_each(|position| counts[usize::from(*position)] += 1);
        counts
    }

    #[test]
    fn sizes_are_primes() {
        for (_, size) in SIZES {
            assert!((2..size).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
        assert_eq!(
            [1, 160, 161, 655, 656, 16_384].map(size_for),
            [16_381, 16_381, 65_537, 65_537, 655_373, 655_373]
        );
    }

    /// The fraction of entries that change hands when one of `n` servers goes, of which 1/n have to.
    fn moved(n: usize, gone: usize, size: u32) -> (f64, f64) {
        let weights = vec![1; n];
        let all = members(&weights);
        let mut less = all.clone();
        less[gone].weight = 0;
        let (before, after) = (Table::new(&all, size), Table::new(&less, size));
        let (mut lost, mut others) = (0u32, 0u32);
        for (a, b) in before.entries.iter().zip(&after.entries) {
            assert_ne!(usize::from(*b), gone);
            if usize::from(*a) == gone {
                lost += 1;
            } else if a != b {
                others += 1;
            }
        }
        (f64::from(lost) / f64::from(size), f64::from(others) / f64::from(size))
    }

    #[test]
    fn few_clients_move_when_a_server_goes() {
        for n in [2, 3, 5, 10, 50, 160, 500] {
            let size = size_for(n);
            for gone in [0, n / 2] {
                let (lost, others) = moved(n, gone, size);
                let ideal = 1.0 / n as f64;
                println!(
                    "{n:3} servers, {size} entries: {:.3} % had to move (ideal {:.3} %), {:.3} % of \
                     the others moved",
                    lost * 100.0,
                    ideal * 100.0,
                    others * 100.0
                );
                assert!((lost - ideal).abs() <= 1.0 / f64::from(size), "the server's share");
                assert!(others <= 0.03, "{n} servers: {others} moved besides");
            }
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = [1, 2, 3, 10, 0, 100];
        let table = Table::new(&members(&weights), 16_381);
        let counts = counts(&table, weights.len());
        for (count, weight) in counts.iter().zip(weights) {
            let ideal = 16_381.0 * f64::from(weight) / 116.0;
            assert!((f64::from(*count) - ideal).abs() <= 2.0, "{counts:?}");
        }
    }

    #[test]
    fn the_smallest_weight_has_an_entry() {
        let mut weights = vec![65_535; 655];
        weights[7] = 1;
        let counts = counts(&Table::new(&members(&weights), 65_537), 655);
        assert_eq!(counts[7], 1);
        assert!(counts.iter().enumerate().all(|(i, n)| i == 7 || (100..=101).contains(n)));
    }

    #[test]
    fn a_server_that_is_full_gives_way_without_moving_others() {
        let weights = [1; 8];
        let maglev = Maglev::new(Arc::new(Table::new(&members(&weights), 16_381)));
        let (all, mut less) = (servers(&weights), servers(&weights));
        less[3].excluded = true;
        let mut took = [0u32; 8];
        for n in 0..20_000u32 {
            let hash = hash::bytes(&n.to_be_bytes());
            let (a, b) = (maglev.pick(&all, hash).unwrap(), maglev.pick(&less, hash).unwrap());
            if a == 3 {
                took[b] += 1;
            } else {
                assert_eq!(a, b);
            }
        }
        assert_eq!(took[3], 0);
        assert!(took.iter().enumerate().all(|(i, n)| i == 3 || *n > 200), "{took:?}");
        less.iter_mut().for_each(|c| c.excluded = true);
        assert_eq!(maglev.pick(&less, 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// The order of the configuration does not matter, nor what else there was.
        #[test]
        fn nodes_agree(weights in prop::collection::vec(0u32..20, 1..30), turn in 0usize..30) {
            let list = members(&weights);
            let mut turned = list.clone();
            turned.rotate_left(turn % list.len());
            for (position, member) in turned.iter_mut().enumerate() {
                member.position = position as u16;
            }
            let (a, b) = (Table::new(&list, 16_381), Table::new(&turned, 16_381));
            prop_assert_eq!(a.len(), b.len());
            for (a, b) in a.entries.iter().zip(&b.entries) {
                prop_assert_eq!(list[usize::from(*a)].server, turned[usize::from(*b)].server);
            }
        }
    }
}
