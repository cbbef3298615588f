//! What one worker keeps for egress SNAT, in one family: the mappings, and which ports it may give.

use hashbrown::HashMap;

use super::rules::MAX_SNATS;
use crate::datapath::counters::WorkerCounters;
use crate::datapath::family::Family;
use crate::datapath::snapshot::{BUCKETS, Snapshot};
use crate::session::bucket_ports::BucketPorts;
use crate::session::mappings::{Mappings, Refusal, Request};
use crate::session::{Entry, Table};
use crate::wire::flow::{Address, FlowKey, Protocol};
use crate::wire::toeplitz::Toeplitz;

/// Endpoints of a pool that are looked at for a new mapping, shared by its addresses: what a packet
/// for which nothing is free costs. An address has 256 ports in a bucket, so of a pool of up to 16
/// addresses every endpoint is tried, and of a larger one some ports of every address.
const PROBES: usize = 4096;

/// The state.
#[derive(Debug)]
pub struct SnatState<A> {
    /// None as long as the configuration had no rule for this family.
    mappings: Option<Mappings<A>>,
    ports: Option<(u8, BucketPorts)>,
    /// By rule: the most mappings of a source on this worker.
    limits: Vec<Option<u32>>,
}

impl<A> Default for SnatState<A> {
    fn default() -> Self {
        SnatState { mappings: None, ports: None, limits: Vec::new() }
    }
}

/// A session's endpoints as SNAT sees them, whoever opened it.
#[derive(Clone, Copy, Debug)]
pub struct Ends<A> {
    /// The host inside.
    pub inside: (A, u16),
    /// From the remote endpoint to that of the pool.
    pub outer: FlowKey<A>,
    /// Whether it was opened from inside.
    pub from_inside: bool,
}

impl<A: Address> Ends<A> {
    /// Of a session in [`Mode::Snat`](crate::session::Mode::Snat).
    pub fn of(entry: &Entry<A>) -> Self {
        // Whoever opens it keeps its address only when it is outside.
        let from_inside = (entry.local, entry.local_port) != (entry.client, entry.client_port);
        if from_inside {
            let inside = (entry.client, entry.client_port);
            Ends { inside, outer: entry.reply_key(), from_inside }
        } else {
            let inside = (entry.server, entry.server_port);
            Ends { inside, outer: entry.forward_key(), from_inside }
        }
    }
}

impl<A: Family> SnatState<A> {
    /// Takes a new configuration; mappings stay. Memory for mappings is taken with the first one that
    /// has rules: as many as the worker has sessions, since each has one at least.
    pub fn configure(
        &mut self,
        snapshot: &Snapshot,
        toeplitz: &Toeplitz,
        worker: u8,
        table: &Table<A>,
    ) {
        let rules = snapshot.snat.list();
        if !snapshot.snat.has_family(A::V6) {
            return;
        }
        // A worker has its part of the ports, so it has its part of the limit.
        let own = snapshot.worker_of.iter().filter(|w| **w == worker).count() as u64;
        let share = |limit: u32| (u64::from(limit) * own).div_ceil(BUCKETS as u64) as u32;
        let limit = |limit: u32| (limit > 0).then(|| share(limit));
        self.limits = rules.iter().map(|rule| limit(rule.ports_per_source)).collect();
        self.mappings.get_or_insert_with(|| {
            let limits = rules.iter().any(|rule| rule.ports_per_source > 0);
            let peers = rules.iter().any(|rule| Mappings::<A>::needs_peers(rule.policy));
            Mappings::new(table.capacity(), MAX_SNATS, table.hasher(), limits, peers)
        });
        if self.ports.as_ref().is_none_or(|(node_id, _)| *node_id != snapshot.node_id) {
            let bucket_of = |port| A::bucket(toeplitz, A::UNSPECIFIED, port);
            self.ports = Some((snapshot.node_id, BucketPorts::new(snapshot.node_id, bucket_of)));
        }
    }

    /// The endpoint of the pool for a new session of a host inside; `key` goes from it to the remote
    /// endpoint.
    pub fn take(
        &mut self,
        snapshot: &Snapshot,
        toeplitz: &Toeplitz,
        hash: u64,
        key: &FlowKey<A>,
        rule: u16,
    ) -> Result<(A, u16), Refusal> {
        let (Some(mappings), Some((_, ports))) = (&mut self.mappings, &self.ports) else {
            return Err(Refusal::Exhausted);
        };
        let snat = &snapshot.snat.list()[usize::from(rule)];
        let inside = A::inside(snapshot);
        let pool = &inside.pool_of[usize::from(rule)];
        let bucket = A::bucket(toeplitz, key.src, key.sport);
        // The same address for all ports of a host (RFC 4787 REQ-2, "paired") as long as it has
        // ports, on every worker and node; at a port that nobody outside can foretell.
        let paired = paired_with(key.src);
        let each = (PROBES / pool.len().max(1)).max(1);
        let is_free = |(address, port): &(A, u16)| {
            !is_forwarded(&inside.external, *address, *port, key.protocol)
        };
        let candidates = (0..pool.len()).flat_map(|i| {
            let address = pool[(paired + i) % pool.len()];
            let of_address = A::bucket(toeplitz, address, 0);
            let list = ports.of(of_address, bucket, &snat.ports);
            let start = if list.is_empty() { 0 } else { hash as usize % list.len() };
            let around = list[start..].iter().chain(&list[..start]);
            around.map(move |port| (address, *port)).filter(is_free).take(each)
        });
        let limit = self.limits.get(usize::from(rule)).copied().flatten();
        let request = Request { key: *key, rule, policy: snat.policy, limit };
        mappings.take(&request, candidates)
    }

    /// Takes the mapping of a session that the peer has made. `false` when another has it, or there is
    /// no room.
    pub fn claim(&mut self, snapshot: &Snapshot, entry: &Entry<A>) -> bool {
        let Some(mappings) = &mut self.mappings else { return false };
        let Ends { inside, outer, .. } = Ends::of(entry);
        let pool = (outer.dst, outer.dport);
        let rules = A::inside(snapshot);
        if is_forwarded(&rules.external, pool.0, pool.1, entry.protocol) {
            return true;
        }
        let Some(rule) = rules.rule_of_pool(pool.0) else { return false };
        let Some(snat) = snapshot.snat.list().get(usize::from(rule)) else { return false };
        let key = FlowKey { dst: inside.0, dport: inside.1, ..outer }.reversed();
        let request = Request { key, rule, policy: snat.policy, limit: None };
        match mappings.take(&request, [pool]) {
            Ok(taken) if taken == pool => true,
            Ok(taken) => {
                // The host has another endpoint here.
                mappings.release(inside, &FlowKey { dst: taken.0, dport: taken.1, ..outer });
                false
            }
            Err(_) => false,
        }
    }

    /// The host inside for a packet from outside without a session.
    pub fn admit(
        &mut self,
        snapshot: &Snapshot,
        key: &FlowKey<A>,
        rule: u16,
    ) -> Result<(A, u16), Refusal> {
        let mappings = self.mappings.as_mut().ok_or(Refusal::NoMapping)?;
        mappings.admit(key, snapshot.snat.list()[usize::from(rule)].policy)
    }

    /// Gives back what a session that has ended had.
    pub fn release(&mut self, entry: &Entry<A>) {
        let ends = Ends::of(entry);
        self.give_back(ends.inside, &ends.outer);
    }

    /// Gives back what a session had; `outer` goes from the remote endpoint to that of the pool.
    pub fn give_back(&mut self, inside: (A, u16), outer: &FlowKey<A>) {
        if let Some(mappings) = &mut self.mappings {
            mappings.release(inside, outer);
        }
    }

    /// Writes down how many mappings each of so many rules has.
    pub fn report(&self, rules: usize, counters: &WorkerCounters) {
        let Some(mappings) = &self.mappings else { return };
        for rule in 0..rules as u16 {
            let counters = counters.snat(rule);
            let gauge = if A::V6 { &counters.mappings_v6 } else { &counters.mappings_v4 };
            gauge.set(u64::from(mappings.of_rule(rule)));
        }
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.mappings.as_ref().is_none_or(Mappings::is_empty)
    }
}

/// Endpoints of forwarded ports are never given out.
fn is_forwarded<A: Address>(
    external: &HashMap<(A, u16, Protocol), (A, u16)>,
    address: A,
    port: u16,
    protocol: Protocol,
) -> bool {
    !external.is_empty() && external.contains_key(&(address, port, protocol))
}

/// Spreads hosts over the addresses of a pool.
fn paired_with<A: Address>(source: A) -> usize {
    let [a, b] = source.folded();
    ((a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}
