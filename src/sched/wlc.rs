//! Weighted least connections: the server with the fewest open sessions in proportion to its
//! weight. Among equals (all idle, most often) smooth weighted round robin decides, so that short
//! sessions spread by weight too.

use super::Candidate;
use super::wrr::WeightedRoundRobin;

/// The state: whose turn it is among equals.
#[derive(Clone, Debug)]
pub struct WeightedLeastConnections {
    turns: WeightedRoundRobin,
}

impl WeightedLeastConnections {
    pub(super) fn new(seed: u64) -> Self {
        WeightedLeastConnections { turns: WeightedRoundRobin::new(seed) }
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

/// Compares active / weight, without the division.
fn compare(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let product = |x: u32, y: u32| u64::from(x) * u64::from(y);
    product(a.active, b.weight).cmp(&product(b.active, a.weight))
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

    proptest! {
        #[test]
        fn nobody_has_a_lower_ratio(
            list in prop::collection::vec((1u32..=65_535, 0u32..=u32::MAX), 1..20),
            seed: u64,
        ) {
            let list: Vec<_> = list
                .into_iter()
                .map(|(weight, active)| Candidate { weight, active, ..Candidate::default() })
                .collect();
            let picked = list[WeightedLeastConnections::new(seed).pick(&list).unwrap()];
            for other in &list {
                prop_assert!(
                    u64::from(picked.active) * u64::from(other.weight)
                        <= u64::from(other.active) * u64::from(picked.weight)
                );
            }
        }
    }
}
