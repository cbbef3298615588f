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
//! `sh` and `maglev` place a session by a hash of what it comes from ([`hash`]) on what was made for
//! that of the list ([`Placement`]); the others ignore the hash.
//!
//! Each worker has schedulers of its own. The seed gives each a starting point of its own, so that
//! a few sessions spread over many workers do not all go to the first server.
#![forbid(unsafe_code)]

pub mod hash;
mod lc;
mod least_load;
pub mod maglev;
mod nq;
mod placement;
mod rr;
pub mod sh;
mod wrr;

use std::fmt;
use std::str::FromStr;

pub use hash::HashOn;
use lc::LeastConnections;
use least_load::{ShortestExpectedDelay, WeightedLeastConnections};
use maglev::Maglev;
use nq::NeverQueue;
use placement::Made;
pub use placement::{Member, Placement};
use rr::RoundRobin;
use sh::SourceHash;
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
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Source hash on a weighted list.
    Sh,
    /// Maglev hashing.
    Maglev,
}

impl SchedulerKind {
    /// All of them.
    pub const ALL: [SchedulerKind; 8] = [
        SchedulerKind::Rr,
        SchedulerKind::Wrr,
        SchedulerKind::Lc,
        SchedulerKind::Wlc,
        SchedulerKind::Sed,
        SchedulerKind::Nq,
        SchedulerKind::Sh,
        SchedulerKind::Maglev,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            SchedulerKind::Rr => "rr",
            SchedulerKind::Wrr => "wrr",
            SchedulerKind::Lc => "lc",
            SchedulerKind::Wlc => "wlc",
            SchedulerKind::Sed => "sed",
            SchedulerKind::Nq => "nq",
            SchedulerKind::Sh => "sh",
            SchedulerKind::Maglev => "maglev",
        }
    }

    /// Whether it places sessions by a hash, and so alike on all workers and nodes.
    pub const fn hashes(self) -> bool {
        matches!(self, SchedulerKind::Sh | SchedulerKind::Maglev)
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No scheduler has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scheduler; expected one of rr, wrr, lc, wlc, sed, nq, sh, maglev")]
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
    /// Whether it was tried for this session already, in vain.
    pub excluded: bool,
}

impl Default for Candidate {
    /// Up, weight 1, idle.
    fn default() -> Self {
        Candidate { weight: 1, active: 0, available: true, excluded: false }
    }
}

impl Candidate {
    /// Whether it can be picked.
    #[inline]
    pub fn eligible(&self) -> bool {
        self.available && self.weight != 0 && !self.excluded
    }
}

/// The first that can be picked from the place on that the hash gives.
fn first_from(candidates: &[Candidate], hash: u64) -> Option<usize> {
    let start = hash::below(hash, candidates.len() as u64) as usize;
    (start..candidates.len()).chain(0..start).find(|&i| candidates[i].eligible())
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
    /// See [`SchedulerKind::Sed`].
    Sed(ShortestExpectedDelay),
    /// See [`SchedulerKind::Nq`].
    Nq(NeverQueue),
    /// See [`SchedulerKind::Sh`].
    Sh(SourceHash),
    /// See [`SchedulerKind::Maglev`].
    Maglev(Maglev),
}

impl Scheduler {
    /// A scheduler that starts at a point given by `seed` (of which all bits count).
    pub fn new(kind: SchedulerKind, seed: u64) -> Self {
        match kind {
            SchedulerKind::Rr => Scheduler::Rr(RoundRobin::new(seed)),
            SchedulerKind::Wrr => Scheduler::Wrr(WeightedRoundRobin::new(seed)),
            SchedulerKind::Lc => Scheduler::Lc(LeastConnections::new(seed)),
            SchedulerKind::Wlc => Scheduler::Wlc(WeightedLeastConnections::new(seed)),
            SchedulerKind::Sed => Scheduler::Sed(ShortestExpectedDelay::new(seed)),
            SchedulerKind::Nq => Scheduler::Nq(NeverQueue::new(seed)),
            SchedulerKind::Sh => Scheduler::Sh(SourceHash::default()),
            SchedulerKind::Maglev => Scheduler::Maglev(Maglev::default()),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> SchedulerKind {
        match self {
            Scheduler::Rr(_) => SchedulerKind::Rr,
            Scheduler::Wrr(_) => SchedulerKind::Wrr,
            Scheduler::Lc(_) => SchedulerKind::Lc,
            Scheduler::Wlc(_) => SchedulerKind::Wlc,
            Scheduler::Sed(_) => SchedulerKind::Sed,
            Scheduler::Nq(_) => SchedulerKind::Nq,
            Scheduler::Sh(_) => SchedulerKind::Sh,
            Scheduler::Maglev(_) => SchedulerKind::Maglev,
        }
    }

    /// Places sessions by this from now on. Without it, or with that of another kind, `sh` and
    /// `maglev` take the first server from a place in the list on.
    pub fn place(&mut self, placement: Option<&Placement>) {
        match (self, placement.map(|p| &p.made)) {
            (Scheduler::Sh(s), Some(Made::List(list))) => *s = SourceHash::new(list.clone()),
            (Scheduler::Sh(s), _) => *s = SourceHash::default(),
            (Scheduler::Maglev(s), Some(Made::Table(table))) => *s = Maglev::new(table.clone()),
            (Scheduler::Maglev(s), _) => *s = Maglev::default(),
            _ => (),
        }
    }

    /// The position of the server for a new session; `None` when none can be picked. `hash` is that
    /// of what the service places sessions by ([`HashOn`]); only schedulers that
    /// [hash](SchedulerKind::hashes) look at it.
    #[inline]
    pub fn pick(&mut self, candidates: &[Candidate], hash: u64) -> Option<usize> {
        match self {
            Scheduler::Rr(s) => s.pick(candidates),
            Scheduler::Wrr(s) => s.pick(candidates),
            Scheduler::Lc(s) => s.pick(candidates),
            Scheduler::Wlc(s) => s.pick(candidates),
            Scheduler::Sed(s) => s.pick(candidates),
            Scheduler::Nq(s) => s.pick(candidates),
            Scheduler::Sh(s) => s.pick(candidates, hash),
            Scheduler::Maglev(s) => s.pick(candidates, hash),
        }
    }

    /// Makes room for `servers` candidates, so that [`Scheduler::pick`] need not.
    pub fn resize(&mut self, servers: usize) {
        match self {
            Scheduler::Wrr(s) => s.resize(servers),
            Scheduler::Wlc(s) => s.resize(servers),
            Scheduler::Sed(s) => s.resize(servers),
            Scheduler::Nq(s) => s.resize(servers),
            Scheduler::Rr(_) | Scheduler::Lc(_) | Scheduler::Sh(_) | Scheduler::Maglev(_) => (),
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
        old_position: impl Fn(usize) -> Option<usize> + Copy,
    ) {
        match (self, old) {
            (Scheduler::Rr(s), Scheduler::Rr(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Wrr(s), Scheduler::Wrr(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Lc(s), Scheduler::Lc(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Wlc(s), Scheduler::Wlc(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Sed(s), Scheduler::Sed(old)) => s.reconfigure(old, servers, old_position),
            (Scheduler::Nq(s), Scheduler::Nq(old)) => s.reconfigure(old, servers, old_position),
            (s, _) => s.resize(servers),
        }
    }
}

#[cfg(test)]
fn servers(weights: &[u32]) -> Vec<Candidate> {
    weights.iter().map(|&weight| Candidate { weight, ..Candidate::default() }).collect()
}

/// Servers 10.0.0.0:80 and on, of these weights.
#[cfg(test)]
fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(n, &weight): (usize, &u32)| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n as u32);
        Member { server: (address, 80).into(), weight, position: n as u16 }
    };
    weights.iter().enumerate().map(member).collect()
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
        assert_eq!("dh".parse::<SchedulerKind>(), Err(UnknownScheduler));
    }

    #[test]
    fn nobody_is_picked_when_nobody_can_be() {
        for kind in SchedulerKind::ALL {
            let mut s = Scheduler::new(kind, 5);
            assert_eq!(s.pick(&[], 9), None);
            let mut list = servers(&[0, 7]);
            list[1].available = false;
            assert_eq!(s.pick(&list, 9), None);
            list[1].available = true;
            assert_eq!(s.pick(&list, 9), Some(1));
            list[1].excluded = true;
            assert_eq!(s.pick(&list, 9), None);
        }
    }

    #[test]
    fn workers_start_at_different_servers() {
        let list = servers(&[3, 3, 3, 3]);
        for kind in SchedulerKind::ALL.into_iter().filter(|kind| !kind.hashes()) {
            let mut first = [0; 4];
            for seed in 0..64 {
                first[Scheduler::new(kind, seed).pick(&list, 0).unwrap()] += 1;
            }
            assert_eq!(first, [16; 4], "{kind}");
        }
    }

    #[test]
    fn a_new_list_keeps_the_rotation() {
        for kind in SchedulerKind::ALL.into_iter().filter(|kind| !kind.hashes()) {
            // Position 2 goes, a new server comes first.
            let (old_list, new_list) = (servers(&[1, 1, 1]), servers(&[1, 1, 1]));
            let mut old = Scheduler::new(kind, 0);
            assert_eq!(old.pick(&old_list, 0), Some(0), "{kind}");
            let mut new = Scheduler::new(kind, 1);
            new.resize(3);
            new.reconfigure(&old, 3, |new| new.checked_sub(1));
            // The old 0, now 1, has just had its turn: the old 1, now 2, is due before it.
            let order: Vec<_> = (0..3).map(|_| new.pick(&new_list, 0).unwrap()).collect();
            let turn = |server| order.iter().position(|&p| p == server).unwrap();
            assert!(turn(2) < turn(1), "{kind}: {order:?}");
        }
    }

    proptest! {
        /// Only servers that are up and have weight, whatever the list does between two picks.
        #[test]
        fn picks_are_eligible(
            kind in 0usize..8,
            seed: u64,
            placed: bool,
            lists in prop::collection::vec(
                prop::collection::vec((0u32..=65_535, 0u32..=u32::MAX, any::<bool>()), 0..20), 1..50)
        ) {
            let mut s = Scheduler::new(SchedulerKind::ALL[kind], seed);
            for (n, list) in lists.into_iter().enumerate() {
                let weights: Vec<u32> = list.iter().map(|(weight, ..)| *weight).collect();
                if placed && n % 3 == 0 {
                    s.place(Placement::make(s.kind(), members(&weights), None).as_deref());
                }
                let list: Vec<_> = list
                    .into_iter()
                    .map(|(weight, active, available)| {
                        Candidate { weight, active, available, excluded: false }
                    })
                    .collect();
                match s.pick(&list, seed.wrapping_mul(n as u64 + 1)) {
                    Some(i) => prop_assert!(list[i].eligible()),
                    None => prop_assert!(list.iter().all(|c| !c.eligible())),
                }
            }
        }
    }
}
