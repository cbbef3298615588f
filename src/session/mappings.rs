//! The mappings of egress SNAT on one worker: which endpoint of the address pool stands for which
//! endpoint inside, and towards whom.
//!
//! RFC 4787 names what a NAT may depend on ([`Behavior`]), of the mapping (when is the same outer
//! endpoint used again?) and of the filter (who may send to it?). The textbooks' names:
//!
//! | mapping | filtering | |
//! |---|---|---|
//! | endpoint-independent | endpoint-independent | full cone |
//! | endpoint-independent | address-dependent | (address-)restricted cone |
//! | endpoint-independent | address-and-port-dependent | port-restricted cone |
//! | address-and-port-dependent | address-and-port-dependent | symmetric |
//!
//! A mapping lives as long as it has sessions. Its outer endpoint is its own as far as someone could
//! otherwise not tell whom a packet is for, which is what mapping and filter both depend on at
//! least: a symmetric NAT uses one outer endpoint towards every remote endpoint at the same time.
//!
//! The table is bounded and allocated by the constructor; an operation follows one chain of a hash
//! table that has as many chains as there can be mappings.

use super::counts::Counts;
use super::key::KeyHasher;
use super::wheel::NIL;
use crate::wire::flow::{Address, FlowKey, Protocol};

/// On what of the remote endpoint a mapping or a filter depends (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behavior {
    /// Nothing: the same for every remote endpoint.
    EndpointIndependent,
    /// Its address.
    AddressDependent,
    /// Its address and port.
    AddressAndPortDependent,
}

impl Behavior {
    /// All, from the least dependent on.
    pub const ALL: [Behavior; 3] = [
        Behavior::EndpointIndependent,
        Behavior::AddressDependent,
        Behavior::AddressAndPortDependent,
    ];

    /// What of a remote endpoint counts.
    fn part_of<A: Address>(self, (address, port): (A, u16)) -> (A, u16) {
        match self {
            Behavior::EndpointIndependent => (A::UNSPECIFIED, 0),
            Behavior::AddressDependent => (address, 0),
            Behavior::AddressAndPortDependent => (address, port),
        }
    }
}

/// How a NAT behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When the outer endpoint of a mapping is used again.
    pub mapping: Behavior,
    /// Who may send to it.
    pub filtering: Behavior,
}

impl Policy {
    /// How far an outer endpoint belongs to one mapping.
    fn exclusive(self) -> Behavior {
        self.mapping.min(self.filtering)
    }

    /// Whether the addresses a mapping talks to must be remembered: those of its sessions do not
    /// follow from the mapping.
    fn remembers_peers(self) -> bool {
        self.mapping == Behavior::EndpointIndependent
            && self.filtering == Behavior::AddressDependent
    }
}

/// Why there is no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint of the pool is free.
    Exhausted,
    /// The inside address has as many ports as it may.
    SourceLimit,
    /// The table is full.
    Full,
    /// No mapping has this outer endpoint, or none that this sender could mean.
    NoMapping,
    /// The filter does not let the sender in.
    Filtered,
}

/// An inside endpoint that wants to talk to a remote one.
#[derive(Clone, Copy, Debug)]
pub struct Request<A> {
    /// From the inside endpoint to the remote one.
    pub key: FlowKey<A>,
    /// The rule, for [`Mappings::of_rule`].
    pub rule: u16,
    /// Its behavior.
    pub policy: Policy,
    /// The most mappings the inside address may have; `None` for no limit.
    pub limit: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot<A> {
    /// From the inside endpoint to as much of the remote one as the mapping depends on.
    inner: FlowKey<A>,
    /// From as much of the remote endpoint as the outer endpoint is bound to, to the outer endpoint.
    outer: FlowKey<A>,
    sessions: u32,
    next_inner: u32,
    next_outer: u32,
    rule: u16,
    /// Whether it counts among the ports of its source.
    counted: bool,
    remembers_peers: bool,
}

/// The table.
#[derive(Debug)]
pub struct Mappings<A> {
    hasher: KeyHasher,
    slots: Box<[Slot<A>]>,
    /// By the hash of `inner` and of `outer`.
    heads: [Box<[u32]>; 2],
    free: u32,
    len: usize,
    by_rule: Box<[u32]>,
    /// How many mappings an inside address has.
    sources: Counts<A>,
    /// How many sessions an outer endpoint has with a remote address.
    peers: Counts<A>,
}

const INNER: usize = 0;
const OUTER: usize = 1;

impl<A: Address> Mappings<A> {
    /// Room for `capacity` mappings (below 2^31) of that many rules. `limits` says that a rule limits
    /// the ports of a source, `peers` that one [needs the peers](Policy) of its mappings; without,
    /// no memory is taken for them.
    pub fn new(
        capacity: usize,
        rules: usize,
        hasher: KeyHasher,
        limits: bool,
        peers: bool,
    ) -> Self {
        let nothing = FlowKey {
            src: A::UNSPECIFIED,
            dst: A::UNSPECIFIED,
            sport: 0,
            dport: 0,
            protocol: Protocol::Udp,
        };
        let slot = |i: usize| Slot {
            inner: nothing,
            outer: nothing,
            sessions: 0,
            next_inner: if i + 1 < capacity { i as u32 + 1 } else { NIL },
            next_outer: NIL,
            rule: 0,
            counted: false,
            remembers_peers: false,
        };
        let heads = || vec![NIL; capacity.max(1).next_power_of_two()].into_boxed_slice();
        Mappings {
            hasher,
            slots: (0..capacity).map(slot).collect(),
            heads: [heads(), heads()],
            free: if capacity == 0 { NIL } else { 0 },
            len: 0,
            by_rule: vec![0; rules].into(),
            sources: Counts::new(if limits { capacity } else { 0 }, hasher),
            peers: Counts::new(if peers { capacity } else { 0 }, hasher),
        }
    }

    /// Whether a rule with this policy needs the `peers` of [`Mappings::new`].
    pub fn needs_peers(policy: Policy) -> bool {
        policy.remembers_peers()
    }

    /// The outer endpoint for a new session from inside: that of the mapping there is, or the first
    /// of `candidates` that is free. The session is counted; [`Mappings::release`] takes it back.
    pub fn take(
        &mut self,
        request: &Request<A>,
        candidates: impl IntoIterator<Item = (A, u16)>,
    ) -> Result<(A, u16), Refusal> {
        let Request { key, rule, policy, limit } = *request;
        let remote = (key.dst, key.dport);
        let (dst, dport) = policy.mapping.part_of(remote);
        let inner = FlowKey { dst, dport, ..key };
        let at = match self.find(INNER, &inner) {
            Some(at) => at,
            None => {
                let source = source_key(&inner);
                if limit.is_some_and(|limit| self.sources.get(&source) >= limit) {
                    return Err(Refusal::SourceLimit);
                }
                if self.free == NIL {
                    return Err(Refusal::Full);
                }
                let bound_to = policy.exclusive();
                let outer = candidates
                    .into_iter()
                    .map(|pool| outer_key(pool, remote, key.protocol, bound_to))
                    .find(|outer| self.find(OUTER, outer).is_none())
                    .ok_or(Refusal::Exhausted)?;
                let counted = limit.is_some() && self.sources.add(&source);
                self.insert(Slot {
                    inner,
                    outer,
                    sessions: 0,
                    next_inner: NIL,
                    next_outer: NIL,
                    rule,
                    counted,
                    remembers_peers: policy.remembers_peers(),
                })
            }
        };
        Ok(self.count_session(at, remote))
    }

    /// The inside endpoint for a packet from outside without a session; `key` is the packet's, from
    /// the remote endpoint to the outer one. The session it opens is counted.
    pub fn admit(&mut self, key: &FlowKey<A>, policy: Policy) -> Result<(A, u16), Refusal> {
        let (remote, pool) = ((key.src, key.sport), (key.dst, key.dport));
        let bound_to = policy.exclusive();
        let outer = outer_key(pool, remote, key.protocol, bound_to);
        let at = self.find(OUTER, &outer).ok_or(Refusal::NoMapping)?;
        let slot = &self.slots[at as usize];
        let inside = (slot.inner.src, slot.inner.sport);
        let known = match policy.filtering {
            Behavior::EndpointIndependent => true,
            // That the outer endpoint is bound to the address says that the mapping is.
            Behavior::AddressDependent => {
                bound_to == Behavior::AddressDependent || self.peers.get(&peer_key(key)) > 0
            }
            // A session would have been found.
            Behavior::AddressAndPortDependent => false,
        };
        if !known {
            return Err(Refusal::Filtered);
        }
        self.count_session(at, remote);
        Ok(inside)
    }

    /// Takes a session back that [`Mappings::take`] or [`Mappings::admit`] has counted, and with the
    /// last one the mapping. `key` goes from the remote endpoint to the outer one. The policy may have
    /// changed meanwhile. A session that has no mapping (a forwarded port's) is left alone.
    pub fn release(&mut self, inside: (A, u16), key: &FlowKey<A>) {
        let (remote, pool) = ((key.src, key.sport), (key.dst, key.dport));
        let found = Behavior::ALL.into_iter().find_map(|bound_to| {
            let at = self.find(OUTER, &outer_key(pool, remote, key.protocol, bound_to))?;
            let inner = &self.slots[at as usize].inner;
            ((inner.src, inner.sport) == inside).then_some(at)
        });
        let Some(at) = found else { return };
        let slot = &mut self.slots[at as usize];
        slot.sessions -= 1;
        let (last, counted, inner, rule) =
            (slot.sessions == 0, slot.counted, slot.inner, slot.rule);
        if slot.remembers_peers {
            self.peers.remove(&peer_key(key));
        }
        if last {
            if counted {
                self.sources.remove(&source_key(&inner));
            }
            self.by_rule[usize::from(rule)] -= 1;
            self.remove(at);
        }
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing at all is remembered.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.sources.is_empty() && self.peers.is_empty()
    }

    /// How many mappings a rule has.
    pub fn of_rule(&self, rule: u16) -> u32 {
        self.by_rule.get(usize::from(rule)).copied().unwrap_or(0)
    }

    /// How many rules it was made for.
    pub fn rules(&self) -> usize {
        self.by_rule.len()
    }

    /// Counts one more session of a mapping; gives its outer endpoint.
    fn count_session(&mut self, at: u32, remote: (A, u16)) -> (A, u16) {
        let slot = &mut self.slots[at as usize];
        slot.sessions += 1;
        let pool = (slot.outer.dst, slot.outer.dport);
        if slot.remembers_peers {
            let key = outer_key(pool, remote, slot.outer.protocol, Behavior::AddressDependent);
            // There is room: no more peers than sessions, and no more sessions than slots.
            self.peers.add(&key);
        }
        pool
    }

    fn insert(&mut self, mut slot: Slot<A>) -> u32 {
        let at = self.free;
        self.free = self.slots[at as usize].next_inner;
        let (inner, outer) = (self.chain(&slot.inner), self.chain(&slot.outer));
        slot.next_inner = std::mem::replace(&mut self.heads[INNER][inner], at);
        slot.next_outer = std::mem::replace(&mut self.heads[OUTER][outer], at);
        self.by_rule[usize::from(slot.rule)] += 1;
        self.slots[at as usize] = slot;
        self.len += 1;
        at
    }

    fn remove(&mut self, at: u32) {
        for side in [INNER, OUTER] {
            let chain = self.chain(self.slots[at as usize].key(side));
            let next = self.slots[at as usize].next(side);
            let mut before = self.heads[side][chain];
            if before == at {
                self.heads[side][chain] = next;
                continue;
            }
            while self.slots[before as usize].next(side) != at {
                before = self.slots[before as usize].next(side);
            }
            *self.slots[before as usize].next_mut(side) = next;
        }
        self.slots[at as usize].next_inner = self.free;
        self.free = at;
        self.len -= 1;
    }

    fn chain(&self, key: &FlowKey<A>) -> usize {
        self.hasher.hash(key) as usize & (self.heads[INNER].len() - 1)
    }

    fn find(&self, side: usize, key: &FlowKey<A>) -> Option<u32> {
        let mut at = self.heads[side][self.chain(key)];
        while at != NIL {
            let slot = &self.slots[at as usize];
            if slot.key(side) == key {
                return Some(at);
            }
            at = slot.next(side);
        }
        None
    }
}

impl<A> Slot<A> {
    fn key(&self, side: usize) -> &FlowKey<A> {
        if side == INNER { &self.inner } else { &self.outer }
    }
    fn next(&self, side: usize) -> u32 {
        if side == INNER { self.next_inner } else { self.next_outer }
    }
    fn next_mut(&mut self, side: usize) -> &mut u32 {
        if side == INNER { &mut self.next_inner } else { &mut self.next_outer }
    }
}

fn outer_key<A: Address>(
    (dst, dport): (A, u16),
    remote: (A, u16),
    protocol: Protocol,
    bound_to: Behavior,
) -> FlowKey<A> {
    let (src, sport) = bound_to.part_of(remote);
    FlowKey { src, dst, sport, dport, protocol }
}

/// A remote address and an outer endpoint.
fn peer_key<A: Address>(key: &FlowKey<A>) -> FlowKey<A> {
    FlowKey { sport: 0, ..*key }
}

/// An inside address, whatever its port and protocol.
fn source_key<A: Address>(inner: &FlowKey<A>) -> FlowKey<A> {
    FlowKey { src: inner.src, dst: A::UNSPECIFIED, sport: 0, dport: 0, protocol: Protocol::Udp }
}

#[cfg(test)]
mod tests;
