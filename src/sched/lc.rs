//! Least connections: the server with the fewest open sessions; among equals, in turn.

use super::Candidate;
use super::rr::RoundRobin;

/// The state: whose turn it is among equals.
#[derive(Clone, Debug)]
pub struct LeastConnections {
    turns: RoundRobin,
}

impl LeastConnections {
    pub(super) fn new(seed: u64) -> Self {
        LeastConnections { turns: RoundRobin::new(seed) }
    }

    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        // `min_by_key` gives the first of equals.
        let picked = self
            .turns
            .order(candidates.len())
            .filter(|&i| candidates[i].eligible())
            .min_by_key(|&i| candidates[i].active)?;
        self.turns.took(picked);
        Some(picked)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::servers;
    use proptest::prelude::*;

    #[test]
    fn among_equals_in_turn() {
        let mut s = LeastConnections::new(0);
        let mut list = servers(&[1, 1, 9, 1]);
        list[1].active = 1;
        let picks: Vec<_> = (0..5).map(|_| s.pick(&list).unwrap()).collect();
        assert_eq!(picks, [0, 2, 3, 0, 2]);
    }

    #[test]
    fn sessions_that_stay_are_spread_evenly() {
        let mut s = LeastConnections::new(3);
        let mut list = servers(&[1, 1, 1]);
        list[0].active = 5;
        for _ in 0..10 {
            let i = s.pick(&list).unwrap();
            list[i].active += 1;
        }
        assert_eq!(list.iter().map(|c| c.active).collect::<Vec<_>>(), [5, 5, 5]);
    }

    proptest! {
        #[test]
        fn nobody_has_fewer(actives in prop::collection::vec(0u32..5, 1..20), seed: u64) {
            let mut list = servers(&vec![2; actives.len()]);
            for (c, active) in list.iter_mut().zip(&actives) {
                c.active = *active;
            }
            let picked = LeastConnections::new(seed).pick(&list).unwrap();
            prop_assert_eq!(Some(&actives[picked]), actives.iter().min());
        }
    }
}
