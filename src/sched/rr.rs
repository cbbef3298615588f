//! Round robin: each server in its turn. Weights do not count, except that 0 means none.

use super::Candidate;

/// The state: where the search for the next server begins.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    pub(super) fn new(seed: u64) -> Self {
        RoundRobin { next: seed as usize }
    }

    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let picked = self.order(candidates.len()).find(|&i| candidates[i].eligible())?;
        self.took(picked);
        Some(picked)
    }

    /// The positions of `n` servers in the order of their turns.
    pub(super) fn order(&self, n: usize) -> impl Iterator<Item = usize> {
        let start = if n == 0 { 0 } else { self.next % n };
        (start..n).chain(0..start)
    }

    /// That server has had its turn.
    pub(super) fn took(&mut self, position: usize) {
        self.next = position + 1;
    }

    /// The server whose turn it is keeps it, or the first in turn that is still there.
    pub(super) fn reconfigure(
        &mut self,
        old: &Self,
        servers: usize,
        old_position: impl Fn(usize) -> Option<usize>,
    ) {
        // Turns come by ascending old position from `old.next` on, and then from 0.
        let turn = |new: &usize| old_position(*new).map(|p| (p < old.next, p));
        if let Some(next) = (0..servers).filter(|i| turn(i).is_some()).min_by_key(turn) {
            self.next = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::servers;

    fn take(s: &mut RoundRobin, list: &[Candidate], n: usize) -> Vec<usize> {
        (0..n).map(|_| s.pick(list).unwrap()).collect()
    }

    #[test]
    fn in_turn_whatever_the_weights() {
        let mut s = RoundRobin::new(0);
        assert_eq!(take(&mut s, &servers(&[1, 100, 7]), 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn those_down_are_passed_over_and_come_back_in_place() {
        let mut s = RoundRobin::new(0);
        let mut list = servers(&[1, 1, 1, 0]);
        list[1].available = false;
        assert_eq!(take(&mut s, &list, 3), [0, 2, 0]);
        list[1].available = true;
        assert_eq!(take(&mut s, &list, 3), [1, 2, 0]);
    }
}
