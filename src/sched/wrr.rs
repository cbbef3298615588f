//! Smooth weighted round robin, nginx's algorithm: shares exactly by weight over each cycle, and
//! the turns of a server spread evenly over the cycle.
//!
//! Each server has a credit. At each pick every eligible server earns its weight, the one with the
//! most credit is picked and pays the sum of all weights. A server that is down neither earns nor
//! pays. After `sum of weights / gcd` picks all credits are where they were.

use super::Candidate;

/// The most picks that the seed skips at the start.
const SKIP: u64 = 64;
/// Credits stay within this many times the sum of weights. By itself the algorithm stays well
/// within; a credit earned under weights that were much larger must not dominate for long.
const BOUND: i64 = 8;

/// The state: a credit for each server.
#[derive(Clone, Debug)]
pub struct WeightedRoundRobin {
    credits: Vec<i64>,
    /// Picks to skip before the first.
    skip: u64,
    /// The sum of weights of the last pick.
    total: i64,
}

impl WeightedRoundRobin {
    pub(super) fn new(seed: u64) -> Self {
        WeightedRoundRobin { credits: Vec::new(), skip: seed % SKIP, total: 0 }
    }

    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        self.pick_among(candidates, |_| true)
    }

    /// Picks among the eligible candidates that `admit` accepts.
    pub(super) fn pick_among(
        &mut self,
        candidates: &[Candidate],
        admit: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        self.resize(candidates.len());
        for _ in 0..std::mem::take(&mut self.skip) {
            self.round(candidates, &admit)?;
        }
        self.round(candidates, &admit)
    }

    fn round(
        &mut self,
        candidates: &[Candidate],
        admit: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        let (mut total, mut best) = (0, None);
        for (i, (candidate, credit)) in candidates.iter().zip(&mut self.credits).enumerate() {
            if !candidate.eligible() || !admit(candidate) {
                continue;
            }
            *credit += i64::from(candidate.weight);
            total += i64::from(candidate.weight);
            // The first of equals.
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((i, *credit));
            }
        }
        let (picked, _) = best?;
        self.credits[picked] -= total;
        if total != self.total {
            self.total = total;
            for credit in &mut self.credits {
                *credit = (*credit).clamp(-BOUND * total, BOUND * total);
            }
        }
        Some(picked)
    }

    /// New servers have no credit.
    pub(super) fn resize(&mut self, servers: usize) {
        if self.credits.len() != servers {
            self.credits.resize(servers, 0);
        }
    }

    pub(super) fn reconfigure(
        &mut self,
        old: &Self,
        servers: usize,
        old_position: impl Fn(usize) -> Option<usize>,
    ) {
        self.resize(servers);
        for (i, credit) in self.credits.iter_mut().enumerate() {
            *credit = old_position(i).and_then(|p| old.credits.get(p)).copied().unwrap_or(0);
        }
        self.skip = old.skip;
        self.total = old.total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::servers;
    use proptest::prelude::*;

    fn take(s: &mut WeightedRoundRobin, list: &[Candidate], n: usize) -> Vec<usize> {
        (0..n).map(|_| s.pick(list).unwrap()).collect()
    }

    fn counts(picks: &[usize], servers: usize) -> Vec<u32> {
        (0..servers).map(|i| picks.iter().filter(|&&p| p == i).count() as u32).collect()
    }

    #[test]
    fn the_example_of_nginx() {
        let mut s = WeightedRoundRobin::new(0);
        assert_eq!(take(&mut s, &servers(&[5, 1, 1]), 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(s.credits, [0, 0, 0]);
    }

    #[test]
    fn a_seed_starts_within_the_cycle() {
        let list = servers(&[5, 1, 1]);
        let cycle = take(&mut WeightedRoundRobin::new(0), &list, 80);
        for seed in 0..64 {
            let mut s = WeightedRoundRobin::new(seed);
            assert_eq!(take(&mut s, &list, 7), cycle[seed as usize..][..7]);
        }
    }

    #[test]
    fn equal_weights_never_give_two_in_a_row() {
        for n in 2..20 {
            let picks = take(&mut WeightedRoundRobin::new(n), &servers(&vec![9; n as usize]), 100);
            assert!(picks.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn a_change_of_weight_does_not_start_over() {
        let mut s = WeightedRoundRobin::new(0);
        assert_eq!(take(&mut s, &servers(&[1, 1, 1]), 2), [0, 1]);
        assert_eq!(take(&mut s, &servers(&[1, 1, 2]), 2), [2, 2]);
        let mut list = servers(&[1, 1, 2]);
        list[2].available = false;
        assert_eq!(counts(&take(&mut s, &list, 100), 3), [50, 50, 0]);
    }

    #[test]
    fn huge_weights_leave_no_long_debt() {
        let mut s = WeightedRoundRobin::new(0);
        assert_eq!(take(&mut s, &servers(&[65_535, 65_534]), 1), [0]);
        let picks = take(&mut s, &servers(&[1, 1]), 100);
        assert!(picks[..20].contains(&0), "{picks:?}");
        assert_eq!(counts(&picks[60..], 2), [20, 20]);
    }

    proptest! {
        /// From any starting point each full cycle has each server exactly by its weight.
        #[test]
        fn shares_are_exact_over_a_cycle(
            weights in prop::collection::vec(0u32..20, 1..12),
            seed: u64,
            offset in 0usize..50,
        ) {
            prop_assume!(weights.iter().any(|&w| w > 0));
            let list = servers(&weights);
            let mut s = WeightedRoundRobin::new(seed);
            take(&mut s, &list, offset);
            let cycle = weights.iter().sum::<u32>() as usize;
            for _ in 0..3 {
                prop_assert_eq!(&counts(&take(&mut s, &list, cycle), weights.len()), &weights);
            }
        }

        /// At no moment is a server ahead of its share by a whole session, and no server comes three
        /// times in a row unless it has more than half of the weight (twice happens, where one
        /// cycle ends and the next begins).
        #[test]
        fn turns_are_spread(weights in prop::collection::vec(1u32..8, 2..6)) {
            let list = servers(&weights);
            let total: u32 = weights.iter().sum();
            let mut s = WeightedRoundRobin::new(0);
            let picks = take(&mut s, &list, 2 * total as usize);
            for three in picks.windows(3) {
                let run = three[0] == three[1] && three[1] == three[2];
                prop_assert!(!run || 2 * weights[three[0]] > total, "{:?}", picks);
            }
            for n in 1..=total as usize {
                for (i, &count) in counts(&picks[..n], weights.len()).iter().enumerate() {
                    let share = f64::from(weights[i]) * n as f64 / f64::from(total);
                    prop_assert!(f64::from(count) < share + 1.0, "{:?}", picks);
                }
            }
        }
    }
}
