//! The node's neighbor table: which MAC address a next hop has, by ARP (RFC 826) and neighbor
//! discovery (RFC 4861).
//!
//! This is the authoritative table; the workers keep copies of what they use. It does no input or
//! output of its own: it is told what happened and the time, and leaves [`Action`]s to be drained.
//!
//! ```text
//!            wanted, keep                 3 probes unanswered
//!   (none) ───────────────▶ incomplete ───────────────────────▶ failed ──60 s──▶ (none)
//!      │ seen                  │ seen                             │ seen, wanted
//!      └──────────────────▶ reachable ◀───────────────────────────┘ (wanted: incomplete)
//!                            │    ▲ seen
//!                       30 s ▼    │       3 unicast probes unanswered
//!                           probing ──────────────────────────────────▶ failed
//! ```
//!
//! A host that is *kept* (a real server's next hop, a gateway) is resolved from the start and tried
//! again for ever; a *fixed* one comes from the configuration, never expires and is never probed.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::datapath::snapshot::{Mac, PortId};
use crate::worker::control::NeighborUpdate;

/// The most entries the table has.
pub const CAPACITY: usize = 8_192;
/// Milliseconds from one probe to the next.
pub const PROBE_INTERVAL_MS: u64 = 1_000;
/// Probes without an answer after which a host has failed.
pub const PROBES: u32 = 3;
/// Milliseconds for which an answer is believed (RFC 4861 section 10, REACHABLE_TIME).
pub const REACHABLE_MS: u64 = 30_000;
/// Milliseconds after which a kept host that failed is tried again.
pub const RETRY_MS: u64 = 5_000;
/// Milliseconds for which a failed host that is not kept is remembered.
pub const FAILED_MS: u64 = 60_000;

/// What the owner of the table has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell every worker.
    Tell {
        /// The port the host is on.
        port: PortId,
        /// Its address.
        address: IpAddr,
        /// What changed.
        update: NeighborUpdate,
    },
    /// Send an ARP request or neighbor solicitation.
    Probe {
        /// The port the host is on.
        port: PortId,
        /// The address asked for.
        address: IpAddr,
        /// The MAC address to ask; `None` asks everyone on the link.
        unicast: Option<Mac>,
    },
}

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From the configuration.
    Fixed,
    /// Asked for, no answer yet.
    Incomplete,
    /// Answered within [`REACHABLE_MS`].
    Reachable,
    /// Still used, being asked again.
    Probing,
    /// Did not answer.
    Failed,
}

impl State {
    /// The name in `shunt neighbors`.
    pub const fn name(self) -> &'static str {
        match self {
            State::Fixed => "fixed",
            State::Incomplete => "incomplete",
            State::Reachable => "reachable",
            State::Probing => "probing",
            State::Failed => "failed",
        }
    }
}

/// One entry, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The port it is on.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, when known.
    pub mac: Option<Mac>,
    /// Its state.
    pub state: State,
    /// Milliseconds since the host was last heard of; `None` when it never was.
    pub heard_ago_ms: Option<u64>,
}

type Key = (PortId, IpAddr);

#[derive(Debug)]
struct Entry {
    state: State,
    /// Known in `Fixed`, `Reachable` and `Probing`.
    mac: Option<Mac>,
    keep: bool,
    /// Probes sent since the state was entered.
    probes: u32,
    heard_ms: Option<u64>,
    /// When [`Neighbors::tick`] has to look at it; `None` for `Fixed`.
    due_ms: Option<u64>,
}

/// The neighbor table.
#[derive(Debug)]
pub struct Neighbors {
    entries: HashMap<Key, Entry>,
    /// Every entry's `due_ms`, soonest first.
    due: BTreeSet<(u64, Key)>,
    actions: Vec<Action>,
    capacity: usize,
    refused: u64,
}

impl Default for Neighbors {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Neighbors {
    /// An empty table of at most `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Neighbors {
            entries: HashMap::new(),
            due: BTreeSet::new(),
            actions: Vec::new(),
            capacity,
            refused: 0,
        }
    }

    /// Puts a fixed entry in, whatever was known before.
    pub fn fix(&mut self, port: PortId, address: IpAddr, mac: Mac) {
        let key = (port, address);
        self.forget(key);
        self.entries.insert(
            key,
            Entry {
                state: State::Fixed,
                mac: Some(mac),
                keep: true,
                probes: 0,
                heard_ms: None,
                due_ms: None,
            },
        );
        self.tell(key, NeighborUpdate::Resolved(mac));
    }

    /// Keeps a host resolved from now on.
    pub fn keep(&mut self, now_ms: u64, port: PortId, address: IpAddr) {
        let key = (port, address);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.keep = true;
            if entry.state == State::Failed {
                self.ask_from_the_start(now_ms, key);
            }
        } else if self.create(key, true) {
            self.ask_from_the_start(now_ms, key);
        }
    }

    /// A worker has packets for this host and does not know its MAC address.
    pub fn wanted(&mut self, now_ms: u64, port: PortId, address: IpAddr) {
        let key = (port, address);
        match self.entries.get(&key) {
            Some(Entry { mac: Some(mac), .. }) => {
                let mac = *mac;
                self.tell(key, NeighborUpdate::Resolved(mac));
            }
            // The answer to the probes under way is told to every worker.
            Some(Entry { state: State::Incomplete, .. }) => {}
            Some(_) => self.ask_from_the_start(now_ms, key),
            None => {
                if self.create(key, false) {
                    self.ask_from_the_start(now_ms, key);
                } else {
                    self.tell(key, NeighborUpdate::Failed);
                }
            }
        }
    }

    /// ARP or neighbor discovery told the MAC address of a host.
    ///
    /// A host we did not ask about is remembered too: it asked for one of our addresses and is about
    /// to talk to us.
    pub fn seen(&mut self, now_ms: u64, port: PortId, address: IpAddr, mac: Mac) {
        let key = (port, address);
        if !self.entries.contains_key(&key) && !self.create(key, false) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.state == State::Fixed {
            return;
        }
        let changed = entry.mac != Some(mac);
        entry.state = State::Reachable;
        entry.mac = Some(mac);
        entry.probes = 0;
        entry.heard_ms = Some(now_ms);
        self.schedule(key, Some(now_ms + REACHABLE_MS));
        if changed {
            self.tell(key, NeighborUpdate::Resolved(mac));
        }
    }

    /// Lets the time pass. Call it often: an entry is looked at when its time has come.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some(&(due, key)) = self.due.first() {
            if due > now_ms {
                break;
            }
            self.expire(now_ms, key);
        }
    }

    /// What has to be done, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// All entries, by port and address.
    pub fn list(&self, now_ms: u64) -> Vec<Neighbor> {
        let mut list: Vec<Neighbor> = self
            .entries
            .iter()
            .map(|(&(port, address), e)| Neighbor {
                port,
                address,
                mac: e.mac,
                state: e.state,
                heard_ago_ms: e.heard_ms.map(|heard| now_ms.saturating_sub(heard)),
            })
            .collect();
        list.sort_by_key(|n| (n.port, n.address));
        list
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How often a host was not taken in since the table was full.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The time of `key` has come.
    fn expire(&mut self, now_ms: u64, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        match entry.state {
            State::Reachable => {
                entry.state = State::Probing;
                entry.probes = 0;
                self.probe(now_ms, key);
            }
            State::Incomplete | State::Probing if entry.probes < PROBES => self.probe(now_ms, key),
            State::Incomplete | State::Probing => {
                entry.state = State::Failed;
                entry.mac = None;
                let patience = if entry.keep { RETRY_MS } else { FAILED_MS };
                self.schedule(key, Some(now_ms + patience));
                self.tell(key, NeighborUpdate::Failed);
            }
            State::Failed if entry.keep => self.ask_from_the_start(now_ms, key),
            State::Failed => self.forget(key),
            State::Fixed => self.schedule(key, None),
        }
    }

    fn ask_from_the_start(&mut self, now_ms: u64, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = State::Incomplete;
            entry.mac = None;
            entry.probes = 0;
        }
        self.probe(now_ms, key);
    }

    fn probe(&mut self, now_ms: u64, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.probes += 1;
        let unicast = entry.mac;
        self.actions.push(Action::Probe { port: key.0, address: key.1, unicast });
        self.schedule(key, Some(now_ms + PROBE_INTERVAL_MS));
    }

    fn tell(&mut self, key: Key, update: NeighborUpdate) {
        self.actions.push(Action::Tell { port: key.0, address: key.1, update });
    }

    /// Makes an entry, if need be in place of a failed one. `false` when the table is full.
    fn create(&mut self, key: Key, keep: bool) -> bool {
        if self.entries.len() >= self.capacity {
            let failed = self
                .entries
                .iter()
                .find(|(_, e)| e.state == State::Failed && !e.keep)
                .map(|e| *e.0);
            match failed {
                Some(failed) => self.forget(failed),
                None => {
                    self.refused += 1;
                    return false;
                }
            }
        }
        self.entries.insert(
            key,
            Entry {
                state: State::Incomplete,
                mac: None,
                keep,
                probes: 0,
                heard_ms: None,
                due_ms: None,
            },
        );
        true
    }

    fn forget(&mut self, key: Key) {
        self.schedule(key, None);
        self.entries.remove(&key);
    }

    fn schedule(&mut self, key: Key, due_ms: Option<u64>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(old) = std::mem::replace(&mut entry.due_ms, due_ms) {
            self.due.remove(&(old, key));
        }
        if let Some(new) = due_ms {
            self.due.insert((new, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const PORT: PortId = PortId(1);
    const M1: Mac = [2, 0, 0, 0, 0, 1];
    const M2: Mac = [2, 0, 0, 0, 0, 2];

    fn host(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
    }

    fn probe(n: u8, unicast: Option<Mac>) -> Action {
        Action::Probe { port: PORT, address: host(n), unicast }
    }

    fn resolved(n: u8, mac: Mac) -> Action {
        Action::Tell { port: PORT, address: host(n), update: NeighborUpdate::Resolved(mac) }
    }

    fn failed(n: u8) -> Action {
        Action::Tell { port: PORT, address: host(n), update: NeighborUpdate::Failed }
    }

    /// Everything that happens up to and including `until`, with its time, in steps of 1 ms.
    fn run(table: &mut Neighbors, from: u64, until: u64) -> Vec<(u64, Action)> {
        let mut all = Vec::new();
        for now in from..=until {
            table.tick(now);
            all.extend(table.drain().map(|a| (now, a)));
        }
        all
    }

    fn drained(table: &mut Neighbors) -> Vec<Action> {
        table.drain().collect()
    }

    fn state(table: &Neighbors, n: u8) -> Option<State> {
        table.entries.get(&(PORT, host(n))).map(|e| e.state)
    }

    #[test]
    fn a_wanted_host_is_asked_three_times_then_fails_and_is_forgotten() {
        let mut t = Neighbors::default();
        t.wanted(100, PORT, host(1));
        assert_eq!(drained(&mut t), [probe(1, None)]);
        t.wanted(150, PORT, host(1));
        assert_eq!(drained(&mut t), [], "asked for once only");
        assert_eq!(
            run(&mut t, 150, 10_000),
            [(1_100, probe(1, None)), (2_100, probe(1, None)), (3_100, failed(1))]
        );
        assert_eq!(state(&t, 1), Some(State::Failed));
        assert_eq!(run(&mut t, 10_001, 63_100), []);
        assert!(t.is_empty());
        assert!(t.due.is_empty());
    }

    #[test]
    fn a_failed_host_that_is_wanted_again_is_asked_again() {
        let mut t = Neighbors::default();
        t.wanted(0, PORT, host(1));
        run(&mut t, 0, 4_000);
        t.wanted(4_000, PORT, host(1));
        assert_eq!(drained(&mut t), [probe(1, None)]);
        t.seen(4_001, PORT, host(1), M1);
        assert_eq!(drained(&mut t), [resolved(1, M1)]);
    }

    #[test]
    fn a_reachable_host_is_probed_by_unicast_and_fails_when_silent() {
        let mut t = Neighbors::default();
        t.wanted(0, PORT, host(1));
        t.seen(5, PORT, host(1), M1);
        assert_eq!(drained(&mut t), [probe(1, None), resolved(1, M1)]);
        assert_eq!(
            run(&mut t, 5, 40_000),
            [
                (30_005, probe(1, Some(M1))),
                (31_005, probe(1, Some(M1))),
                (32_005, probe(1, Some(M1))),
                (33_005, failed(1)),
            ]
        );
    }

    #[test]
    fn an_answer_to_a_unicast_probe_tells_nobody_anything_new() {
        let mut t = Neighbors::default();
        t.seen(0, PORT, host(1), M1);
        assert_eq!(drained(&mut t), [resolved(1, M1)]);
        assert_eq!(run(&mut t, 0, 30_000), [(30_000, probe(1, Some(M1)))]);
        assert_eq!(state(&t, 1), Some(State::Probing));
        t.seen(30_001, PORT, host(1), M1);
        assert_eq!(drained(&mut t), []);
        assert_eq!(state(&t, 1), Some(State::Reachable));
        assert_eq!(run(&mut t, 30_001, 60_001), [(60_001, probe(1, Some(M1)))]);
    }

    #[test]
    fn a_changed_mac_is_told_at_once() {
        let mut t = Neighbors::default();
        t.seen(0, PORT, host(1), M1);
        t.seen(1, PORT, host(1), M1);
        t.seen(2, PORT, host(1), M2);
        assert_eq!(drained(&mut t), [resolved(1, M1), resolved(1, M2)]);
    }

    #[test]
    fn a_worker_that_has_forgotten_is_told_again() {
        let mut t = Neighbors::default();
        t.seen(0, PORT, host(1), M1);
        t.fix(PORT, host(2), M2);
        drained(&mut t);
        t.wanted(10, PORT, host(1));
        t.wanted(10, PORT, host(2));
        assert_eq!(drained(&mut t), [resolved(1, M1), resolved(2, M2)]);
    }

    #[test]
    fn a_fixed_host_never_changes_and_is_never_probed() {
        let mut t = Neighbors::default();
        t.wanted(0, PORT, host(1));
        t.fix(PORT, host(1), M1);
        t.keep(0, PORT, host(1));
        t.seen(1, PORT, host(1), M2);
        assert_eq!(drained(&mut t), [probe(1, None), resolved(1, M1)]);
        assert_eq!(run(&mut t, 0, 100_000), []);
        assert_eq!(
            t.list(7),
            [Neighbor {
                port: PORT,
                address: host(1),
                mac: Some(M1),
                state: State::Fixed,
                heard_ago_ms: None
            }]
        );
    }

    #[test]
    fn a_kept_host_is_tried_for_ever() {
        let mut t = Neighbors::default();
        t.keep(0, PORT, host(1));
        t.keep(0, PORT, host(1));
        let mut expected = Vec::new();
        for round in 0..3 {
            let start = round * (3 * PROBE_INTERVAL_MS + RETRY_MS);
            expected.push((start, probe(1, None)));
            expected.push((start + 1_000, probe(1, None)));
            expected.push((start + 2_000, probe(1, None)));
            expected.push((start + 3_000, failed(1)));
        }
        assert_eq!(run(&mut t, 0, 23_999), expected);
        t.seen(24_000, PORT, host(1), M1);
        t.keep(24_000, PORT, host(1));
        assert_eq!(drained(&mut t), [resolved(1, M1)]);
    }

    #[test]
    fn keep_takes_over_a_host_that_was_learnt() {
        let mut t = Neighbors::default();
        t.seen(0, PORT, host(1), M1);
        t.keep(1, PORT, host(1));
        assert_eq!(drained(&mut t), [resolved(1, M1)]);
        run(&mut t, 1, 33_000);
        assert_eq!(state(&t, 1), Some(State::Failed));
        assert_eq!(run(&mut t, 33_001, 38_000), [(38_000, probe(1, None))]);
    }

    #[test]
    fn a_full_table_refuses_and_says_so_but_makes_room_of_failed_ones() {
        let mut t = Neighbors::new(2);
        t.seen(0, PORT, host(1), M1);
        t.wanted(0, PORT, host(2));
        drained(&mut t);
        t.wanted(1, PORT, host(3));
        assert_eq!(drained(&mut t), [failed(3)], "packets that wait are not kept waiting");
        t.seen(1, PORT, host(4), M2);
        assert_eq!(drained(&mut t), []);
        assert_eq!((t.len(), t.refused()), (2, 2));
        run(&mut t, 1, 3_000);
        assert_eq!(state(&t, 2), Some(State::Failed));
        t.wanted(3_001, PORT, host(3));
        assert_eq!(drained(&mut t), [probe(3, None)]);
        assert_eq!((state(&t, 2), t.len(), t.refused()), (None, 2, 2));
    }

    #[test]
    fn the_same_address_on_two_ports_is_two_hosts() {
        let mut t = Neighbors::default();
        t.seen(0, PORT, host(1), M1);
        t.seen(3, PortId(2), host(1), M2);
        let list = t.list(10);
        assert_eq!(
            list.iter().map(|n| (n.port, n.mac, n.heard_ago_ms)).collect::<Vec<_>>(),
            [(PORT, Some(M1), Some(10)), (PortId(2), Some(M2), Some(7))]
        );
    }

    #[derive(Clone, Debug)]
    enum Op {
        Wanted(u8),
        Seen(u8, u8),
        Keep(u8),
        Fix(u8),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u8..12).prop_map(Op::Wanted),
            (0u8..12, 0u8..3).prop_map(|(n, m)| Op::Seen(n, m)),
            (0u8..3).prop_map(Op::Keep),
            (0u8..2).prop_map(Op::Fix),
            (0u64..40_000).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Whatever happens: what the workers were told agrees with the table, the bound holds, every
        /// entry that can expire is due, and no host is asked twice at the same instant.
        #[test]
        fn workers_and_table_agree(ops in prop::collection::vec(op(), 1..120)) {
            let mut t = Neighbors::new(8);
            let mut now = 0u64;
            let mut told: HashMap<IpAddr, Option<Mac>> = HashMap::new();
            for op in ops {
                match op {
                    Op::Wanted(n) => t.wanted(now, PORT, host(n)),
                    Op::Seen(n, m) => t.seen(now, PORT, host(n), [2, 0, 0, 0, 0, m]),
                    Op::Keep(n) => t.keep(now, PORT, host(n)),
                    Op::Fix(n) if t.len() < 8 => t.fix(PORT, host(n), M1),
                    Op::Fix(_) => {}
                    Op::Pass(ms) => { now += ms; t.tick(now); }
                }
                let mut probed = Vec::new();
                for action in t.drain() {
                    match action {
                        Action::Tell { address, update: NeighborUpdate::Resolved(mac), .. } => {
                            told.insert(address, Some(mac));
                        }
                        Action::Tell { address, .. } => { told.insert(address, None); }
                        Action::Probe { address, .. } => probed.push(address),
                    }
                }
                let asked = probed.len();
                probed.sort();
                probed.dedup();
                prop_assert_eq!(asked, probed.len());
                prop_assert!(t.len() <= 8);
                for n in t.list(now) {
                    prop_assert_eq!(told.get(&n.address).copied().flatten(), n.mac);
                }
                let timed = t.entries.values().filter(|e| e.state != State::Fixed).count();
                prop_assert_eq!(t.due.len(), timed);
                prop_assert!(t.due.iter().all(|(due, _)| *due > now));
            }
        }
    }
}
