//! Which real server gets a new session: one file per scheduler.
//!
//! A scheduler sees a service's servers as a list of [`Candidate`]s in a fixed order and answers
//! with a position. What it remembers is per position: a change of weight, load or availability
//! leaves it alone, a changed list is told by [`Scheduler::reconfigure`]. Servers that are down or
//! have weight 0 are never picked.
//!
//! `pick` allocates nothing once it has seen as many candidates as there are, or after
//! [`Scheduler::resize`]. It reads the list once or twice.
//!
//! Each worker has schedulers of its own. The seed gives each a starting point of its own, so that
//! a few sessions spread over many workers do not all go to the first server.
#![forbid(unsafe_code)]

mod lc;
mod rr;
mod wlc;
mod wrr;

use std::fmt;
use std::str::FromStr;

use lc::LeastConnections;
use rr::RoundRobin;
use wlc::WeightedLeastConnections;
use wrr::WeightedRoundRobin;

/// The schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchedulerKind {
    /// Round robin.
    Rr,
    /// Smooth weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
}

impl SchedulerKind {
    /// All of them.
    pub const ALL: [SchedulerKind; 4] =
        [SchedulerKind::Rr, SchedulerKind::Wrr, SchedulerKind::Lc, SchedulerKind::Wlc];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            SchedulerKind::Rr => "rr",
            SchedulerKind::Wrr => "wrr",
            SchedulerKind::Lc => "lc",
            SchedulerKind::Wlc => "wlc",
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No scheduler has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scheduler; expected one of rr, wrr, lc, wlc")]
pub struct UnknownScheduler;

impl FromStr for SchedulerKind {
    type Err = UnknownScheduler;
    fn from_str(name: &str) -> Result<Self, UnknownScheduler> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownScheduler)
    }
}

/// A real server as a scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its weight, at most 65,535; 0 takes no new sessions.
    pub weight: u32,
    /// Its open sessions.
    pub active: u32,
    /// Whether it is up.
    pub available: bool,
}

impl Candidate {
    #[inline]
    fn eligible(&self) -> bool {
        self.available && self.weight != 0
    }
}

/// A scheduler with its state, for one service on one worker.
#[derive(Clone, Debug)]
pub enum Scheduler {
    /// See [`SchedulerKind::Rr`].
    Rr(RoundRobin),
    /// See [`SchedulerKind::Wrr`].
    Wrr(WeightedRoundRobin),
    /// See [`SchedulerKind::Lc`].
    Lc(LeastConnections),
    /// See [`SchedulerKind::Wlc`].
    Wlc(WeightedLeastConnections),
}

impl Scheduler {
    /// A scheduler that starts at a point given by `seed` (of which all bits count).
    pub fn new(kind: SchedulerKind, seed: u64) -> Self {
        match kind {
            SchedulerKind::Rr => Scheduler::Rr(RoundRobin::new(seed)),
            SchedulerKind::Wrr => Scheduler::Wrr(WeightedRoundRobin::new(seed)),
            SchedulerKind::Lc => Scheduler::Lc(LeastConnections::new(seed)),
            SchedulerKind::Wlc => Scheduler::Wlc(WeightedLeastConnections::new(seed)),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> SchedulerKind {
        match self {
            Scheduler::Rr(_) => SchedulerKind::Rr,
            Scheduler::Wrr(_) => SchedulerKind::Wrr,
            Scheduler::Lc(_) => SchedulerKind::Lc,
            Scheduler::Wlc(_) => SchedulerKind::Wlc,
        }
    }

    /// The position of the server for a new session; `None` when none is up and has weight.
    #[inline]
    pub fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        match self {
            Scheduler::Rr(s) => s.pick(candidates),
            Scheduler::Wrr(s) => s.pick(candidates),
            Scheduler::Lc(s) => s.pick(candidates),
            Scheduler::Wlc(s) => s.pick(candidates),
        }
    }

    /// Makes room for `servers` candidates, so that [`Scheduler::pick`] need not.
    pub fn resize(&mut self, servers: usize) {
        match self {
            Scheduler::Wrr(s) => s.resize(servers),
            Scheduler::Wlc(s) => s.resize(servers),
            Scheduler::Rr(_) | Scheduler::Lc(_) => (),
        }
    }

    /// Takes on the state of `old`, the scheduler of this service before its list of servers
    /// changed to `servers` candidates. `old_position` says where a server of the new list was in
    /// the old one. Nothing is taken over from a scheduler of another kind. Allocates nothing after
    /// `resize(servers)`.
    pub fn reconfigure(
        &mut self,
        old: &Scheduler,
        servers: usize,
        old_position: impl Fn(usize) -> Option<usize>,
    ) {
        match (self, old) {
            (Scheduler::Rr(s), Scheduler::Rr(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Wrr(s), Scheduler::Wrr(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Lc(s), Scheduler::Lc(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Wlc(s), Scheduler::Wlc(old)) => s.reconfigure(old, servers, old_position),
            (s, _) => s.resize(servers),
        }
    }
}

#[cfg(test)]
fn servers(weights: &[u32]) -> Vec<Candidate> {
    weights.iter().map(|&weight| Candidate { weight, active: 0, available: true }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_read_back() {
        for kind in SchedulerKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(Scheduler::new(kind, 0).kind(), kind);
        }
        assert_eq!("maglev".parse::<SchedulerKind>(), Err(UnknownScheduler));
    }

    #[test]
    fn nobody_is_picked_when_nobody_can_be() {
        for kind in SchedulerKind::ALL {
            let mut s = Scheduler::new(kind, 5);
            assert_eq!(s.pick(&[]), None);
            let mut list = servers(&[0, 7]);
            list[1].available = false;
            assert_eq!(s.pick(&list), None);
            list[1].available = true;
            assert_eq!(s.pick(&list), Some(1));
        }
    }

    #[test]
    fn workers_start_at_different_servers() {
        let list = servers(&[3, 3, 3, 3]);
        for kind in SchedulerKind::ALL {
            let mut first = [0; 4];
            for seed in 0..64 {
                first[Scheduler::new(kind, seed).pick(&list).unwrap()] += 1;
            }
            assert_eq!(first, [16; 4], "{kind}");
        }
    }

    #[test]
    fn a_new_list_keeps_the_rotation() {
        for kind in SchedulerKind::ALL {
            // Position 2 goes, a new server comes first.
            let (old_list, new_list) = (servers(&[1, 1, 1]), servers(&[1, 1, 1]));
            let mut old = Scheduler::new(kind, 0);
            assert_eq!(old.pick(&old_list), Some(0), "{kind}");
            let mut new = Scheduler::new(kind, 1);
            new.resize(3);
            new.reconfigure(&old, 3, |new| new.checked_sub(1));
            // The old 0, now 1, has just had its turn: the old 1, now 2, is due before it.
            let order: Vec<_> = (0..3).map(|_| new.pick(&new_list).unwrap()).collect();
            let turn = |server| order.iter().position(|&p| p == server).unwrap();
            assert!(turn(2) < turn(1), "{kind}: {order:?}");
        }
    }

    proptest! {
        /// Only servers that are up and have weight, whatever the list does between two picks.
        #[test]
        fn picks_are_eligible(
            kind in 0usize..4,
            seed: u64,
            lists in prop::collection::vec(
                prop::collection::vec((0u32..=65_535, 0u32..=u32::MAX, any::<bool>()), 0..20), 1..50)
        ) {
            let mut s = Scheduler::new(SchedulerKind::ALL[kind], seed);
            for list in lists {
                let list: Vec<_> = list
                    .into_iter()
                    .map(|(weight, active, available)| Candidate { weight, active, available })
                    .collect();
                match s.pick(&list) {
                    Some(i) => prop_assert!(list[i].eligible()),
                    None => prop_assert!(list.iter().all(|c| !c.eligible())),
                }
            }
        }
    }
}
