//! Shortest expected delay: the server that would have the fewest open sessions in proportion to
//! its weight with this one added. Unlike `wlc` it prefers the strong among idle servers. Among
//! equals smooth weighted round robin decides.

use std::cmp::Ordering;

use super::Candidate;
use super::wrr::WeightedRoundRobin;

/// The state: whose turn it is among equals.
#[derive(Clone, Debug)]
pub struct ShortestExpectedDelay {
    turns: WeightedRoundRobin,
}

impl ShortestExpectedDelay {
    pub(super) fn new(seed: u64) -> Self {
        ShortestExpectedDelay { turns: WeightedRoundRobin::new(seed) }
    }

    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let least = candidates
            .iter()
            .filter(|c| c.eligible())
            .reduce(|least, c| if compare(c, least).is_lt() { c } else { least })?;
        self.turns.pick_among(candidates, |c| compare(c, least).is_eq())
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
}

/// Compares (active + 1) / weight, without the division.
fn compare(a: &Candidate, b: &Candidate) -> Ordering {
    let delay = |active: u32, weight: u32| (u64::from(active) + 1) * u64::from(weight);
    delay(a.active, b.weight).cmp(&delay(b.active, a.weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::servers;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn nobody_would_be_quicker(
            list in prop::collection::vec((1u32..=65_535, 0u32..=u32::MAX), 1..20),
            seed: u64,
        ) {
            let list: Vec<_> = list
                .into_iter()
                .map(|(weight, active)| Candidate { weight, active, ..Candidate::default() })
                .collect();
            let picked = list[ShortestExpectedDelay::new(seed).pick(&list).unwrap()];
            for other in &list {
                prop_assert!(
                    (u128::from(picked.active) + 1) * u128::from(other.weight)
                        <= (u128::from(other.active) + 1) * u128::from(picked.weight)
                );
            }
        }
    }
}
