//! The server with the least load in proportion to its weight: weighted least connections (`wlc`)
//! counts the open sessions, shortest expected delay (`sed`) one more, the one to be placed, and so
//! prefers the strong among idle servers. Among equals (all idle, most often) smooth weighted round
//! robin decides, so that short sessions spread by weight too.

use std::cmp::Ordering;

use super::Candidate;
use super::wrr::WeightedRoundRobin;

/// Weighted least connections.
pub(super) type WeightedLeastConnections = LeastLoad<0>;
/// Shortest expected delay.
pub(super) type ShortestExpectedDelay = LeastLoad<1>;

/// The state: whose turn it is among equals. `ADDED` is what a server's load is beyond its open
/// sessions.
#[derive(Clone, Debug)]
pub struct LeastLoad<const ADDED: u64> {
    turns: WeightedRoundRobin,
}

impl<const ADDED: u64> LeastLoad<ADDED> {
    pub(super) fn new(seed: u64) -> Self {
        LeastLoad { turns: WeightedRoundRobin::new(seed) }
    }

    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let least = candidates
            .iter()
            .filter(|c| c.eligible())
            .reduce(|least, c| if Self::compare(c, least).is_lt() { c } else { least })?;
        self.turns.pick_among(candidates, |c| Self::compare(c, least).is_eq())
    }

    pub(super) fn resize(&mut self, servers: usize) {
        self.turns.resize(servers);
    }

    pub(super) fn reconfigure(
        &mut self,
        old: &Self,
        servers: usize,
        old_position: impl Fn(usize) -> Option<usize>,
    ) {
        self.turns.reconfigure(&old.turns, servers, old_position);
    }

    /// Compares load / weight, without the division.
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        let product = |x: u32, weight: u32| (u64::from(x) + ADDED) * u64::from(weight);
        product(a.active, b.weight).cmp(&product(b.active, a.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::servers;
    use proptest::prelude::*;

    #[test]
    fn sessions_that_stay_are_spread_by_weight() {
        let mut s = WeightedLeastConnections::new(1);
        let mut list = servers(&[1, 2, 3, 0]);
        for _ in 0..60 {
            let i = s.pick(&list).unwrap();
            list[i].active += 1;
        }
        assert_eq!(list.iter().map(|c| c.active).collect::<Vec<_>>(), [10, 20, 30, 0]);
    }

    #[test]
    fn sessions_that_end_at_once_are_spread_by_weight_too() {
        let mut s = WeightedLeastConnections::new(1);
        let list = servers(&[1, 2, 3]);
        let mut counts = [0; 3];
        for _ in 0..600 {
            counts[s.pick(&list).unwrap()] += 1;
        }
        assert_eq!(counts, [100, 200, 300]);
    }

    #[test]
    fn the_strong_come_first_and_shares_follow_the_weights() {
        let mut s = ShortestExpectedDelay::new(0);
        let mut list = servers(&[1, 2, 6, 0]);
        let mut first = Vec::new();
        for n in 0..90 {
            let i = s.pick(&list).unwrap();
            list[i].active += 1;
            if n < 3 {
                first.push(i);
            }
        }
        assert_eq!(first, [2, 2, 2], "1/6, 2/6, 3/6 = 1/2 by turn");
        assert_eq!(list.iter().map(|c| c.active).collect::<Vec<_>>(), [10, 20, 60, 0]);
    }

    /// Picks one of these servers and sees that no other has less load in proportion.
    fn picks_the_least<const ADDED: u64>(
        list: Vec<(u32, u32)>,
        seed: u64,
    ) -> Result<(), TestCaseError> {
        let list: Vec<_> = list
            .into_iter()
            .map(|(weight, active)| Candidate { weight, active, ..Candidate::default() })
            .collect();
        let picked = list[LeastLoad::<ADDED>::new(seed).pick(&list).unwrap()];
        let load = |c: Candidate| u128::from(c.active) + u128::from(ADDED);
        for other in &list {
            prop_assert!(
                load(picked) * u128::from(other.weight) <= load(*other) * u128::from(picked.weight)
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn nobody_has_a_lower_ratio(
            list in prop::collection::vec((1u32..=65_535, 0u32..=u32::MAX), 1..20),
            seed: u64,
        ) {
            picks_the_least::<0>(list.clone(), seed)?;
            picks_the_least::<1>(list, seed)?;
        }
    }
}
