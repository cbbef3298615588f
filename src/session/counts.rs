//! A bounded multiset of keys: how often each was counted and not yet taken back.
//!
//! All memory is allocated by the constructor; counting touches one chain of a hash table that has
//! as many chains as there can be keys.

use super::key::KeyHasher;
use super::wheel::NIL;
use crate::wire::flow::{Address, FlowKey, Protocol};

/// A key with its count.
#[derive(Clone, Copy, Debug)]
struct Slot<A> {
    key: FlowKey<A>,
    count: u32,
    /// Of the chain, or of the free list.
    next: u32,
}

/// The multiset.
#[derive(Debug)]
pub struct Counts<A> {
    hasher: KeyHasher,
    heads: Box<[u32]>,
    slots: Box<[Slot<A>]>,
    free: u32,
    len: usize,
}

impl<A: Address> Counts<A> {
    /// Room for that many different keys (below 2^31).
    pub fn new(capacity: usize, hasher: KeyHasher) -> Self {
        let nothing = FlowKey {
            src: A::UNSPECIFIED,
            dst: A::UNSPECIFIED,
            sport: 0,
            dport: 0,
            protocol: Protocol::Udp,
        };
        let last = capacity.saturating_sub(1);
        let next = |i| if i < last { i as u32 + 1 } else { NIL };
        let slot = |i| Slot { key: nothing, count: 0, next: next(i) };
        Counts {
            hasher,
            heads: vec![NIL; capacity.max(1).next_power_of_two()].into(),
            slots: (0..capacity).map(slot).collect(),
            free: if capacity == 0 { NIL } else { 0 },
            len: 0,
        }
    }

    /// How often the key is counted.
    pub fn get(&self, key: &FlowKey<A>) -> u32 {
        self.find(self.chain(key), key).map_or(0, |at| self.slots[at as usize].count)
    }

    /// Counts the key once more. `false` when it is new and there is no room.
    pub fn add(&mut self, key: &FlowKey<A>) -> bool {
        let chain = self.chain(key);
        if let Some(at) = self.find(chain, key) {
            self.slots[at as usize].count += 1;
            return true;
        }
        if self.free == NIL {
            return false;
        }
        let at = self.free;
        let slot = &mut self.slots[at as usize];
        self.free = slot.next;
        *slot = Slot { key: *key, count: 1, next: self.heads[chain] };
        self.heads[chain] = at;
        self.len += 1;
        true
    }

    /// Takes one count back; a key that is not there is left alone.
    pub fn remove(&mut self, key: &FlowKey<A>) {
        let chain = self.chain(key);
        let Some(at) = self.find(chain, key) else { return };
        let slot = &mut self.slots[at as usize];
        slot.count -= 1;
        if slot.count > 0 {
            return;
        }
        let next = std::mem::replace(&mut slot.next, self.free);
        self.free = at;
        self.len -= 1;
        if self.heads[chain] == at {
            self.heads[chain] = next;
            return;
        }
        let mut before = self.heads[chain];
        while self.slots[before as usize].next != at {
            before = self.slots[before as usize].next;
        }
        self.slots[before as usize].next = next;
    }

    /// How many different keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn chain(&self, key: &FlowKey<A>) -> usize {
        self.hasher.hash(key) as usize & (self.heads.len() - 1)
    }

    fn find(&self, chain: usize, key: &FlowKey<A>) -> Option<u32> {
        let mut at = self.heads[chain];
        while at != NIL {
            let slot = &self.slots[at as usize];
            if slot.key == *key {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    fn key(n: u8) -> FlowKey<Ipv4Addr> {
        let (src, dst) = (Ipv4Addr::from([10, 0, 0, n]), Ipv4Addr::UNSPECIFIED);
        FlowKey { src, dst, sport: 0, dport: 0, protocol: Protocol::Tcp }
    }

    proptest! {
        #[test]
        fn it_counts_as_a_map_does(ops in prop::collection::vec((any::<bool>(), 0u8..24), 0..400)) {
            const CAPACITY: usize = 16;
            let mut counts = Counts::new(CAPACITY, KeyHasher::new(3));
            let mut model: HashMap<u8, u32> = HashMap::new();
            for (add, n) in ops {
                if add {
                    let room = model.contains_key(&n) || model.len() < CAPACITY;
                    prop_assert_eq!(counts.add(&key(n)), room);
                    if room {
                        *model.entry(n).or_default() += 1;
                    }
                } else {
                    counts.remove(&key(n));
                    if let Some(count) = model.get_mut(&n) {
                        *count -= 1;
                    }
                    model.retain(|_, count| *count > 0);
                }
                prop_assert_eq!(counts.len(), model.len());
                prop_assert_eq!(counts.is_empty(), model.is_empty());
                for n in 0..24 {
                    prop_assert_eq!(counts.get(&key(n)), model.get(&n).copied().unwrap_or(0));
                }
            }
        }
    }

    #[test]
    fn without_room_nothing_is_counted() {
        let mut counts = Counts::new(0, KeyHasher::new(3));
        assert!(!counts.add(&key(1)));
        counts.remove(&key(1));
        assert_eq!(counts.get(&key(1)), 0);
    }
}
