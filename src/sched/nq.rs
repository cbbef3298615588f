//! Never queue: an idle server if there is one, else the one with the shortest expected delay
//! (`sed`). Among idle servers smooth weighted round robin decides.

use super::Candidate;
use super::least_load::ShortestExpectedDelay;
use super::wrr::WeightedRoundRobin;

/// The state: whose turn it is among idle servers, and that of `sed`.
#[derive(Clone, Debug)]
pub struct NeverQueue {
    idle: WeightedRoundRobin,
    busy: ShortestExpectedDelay,
}

impl NeverQueue {
    pub(super) fn new(seed: u64) -> Self {
        NeverQueue { idle: WeightedRoundRobin::new(seed), busy: ShortestExpectedDelay::new(seed) }
    }

    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        self.idle.pick_among(candidates, |c| c.active == 0).or_else(|| self.busy.pick(candidates))
    }

    pub(super) fn resize(&mut self, servers: usize) {
        self.idle.resize(servers);
        self.busy.resize(servers);
    }

    pub(super) fn reconfigure(
        &mut self,
        old: &Self,
        servers: usize,
        old_position: impl Fn(usize) -> Option<usize> + Copy,
    ) {
        self.idle.reconfigure(&old.idle, servers, old_position);
        self.busy.reconfigure(&old.busy, servers, old_position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::servers;

    #[test]
    fn the_idle_first_then_the_quickest() {
        let mut s = NeverQueue::new(0);
        let mut list = servers(&[1, 9, 9, 9]);
        list[3].available = false;
        list[1].active = 1;
        let mut picks = Vec::new();
        for _ in 0..5 {
            let i = s.pick(&list).unwrap();
            list[i].active += 1;
            picks.push(i);
        }
        // Server 0 is idle and so gets one, though its expected delay is the longest.
        picks[..2].sort_unstable();
        assert_eq!(picks[..2], [0, 2]);
        assert!(picks[2..].iter().all(|i| [1, 2].contains(i)), "{picks:?}");
        assert_eq!(list.iter().map(|c| c.active).sum::<u32>(), 6);
    }
}
