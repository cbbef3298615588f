//! Which real server a client was sent to: a bounded table of one worker and one address family.
//!
//! Buckets of eight places; a client may be in either of two. An entry lives until its time has
//! come, whatever happens to sessions; its place is then free, and a slow sweep keeps the count. A
//! full table refuses: it never ends an entry that is alive. No operation depends on how many
//! entries there are.
//!
//! `now` and times are milliseconds on a clock that wraps; entries live at most [`MAX_LIFE`].

use std::net::{IpAddr, Ipv4Addr};

use super::entry::ServerId;
use super::key::KeyHasher;
use crate::wire::flow::{Address, FlowKey, Protocol};

/// The longest life of an entry, in milliseconds (12.4 days).
pub const MAX_LIFE: u32 = 1 << 30;
/// Places of a bucket.
const WAYS: usize = 8;

/// Who is remembered: a client (its address under the mask) among the services of a scope, which is
/// a service or a group of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<A> {
    /// The address, masked.
    pub address: A,
    /// The service or group.
    pub scope: u16,
}

/// Where a client was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The server, of the service that the client came for last.
    pub server_id: ServerId,
    /// Its address, by which the other services of a group know it.
    pub server: IpAddr,
}

#[derive(Clone, Copy)]
struct Slot<A> {
    client: Client<A>,
    placed: Placed,
    /// When its life ends.
    ends: u32,
    used: bool,
}

/// The table. See the module.
pub struct Persistence<A> {
    hasher: KeyHasher,
    /// A power of two of buckets, or none.
    slots: Box<[Slot<A>]>,
    live: usize,
    /// The bucket that is swept next.
    hand: usize,
}

impl<A: Address> Persistence<A> {
    /// A table without room. `seed` keys the hash: it must not be known to clients.
    pub fn new(seed: u64) -> Self {
        Persistence { hasher: KeyHasher::new(seed), slots: Box::default(), live: 0, hand: 0 }
    }

    /// Makes room for at least that many clients, if there is none yet.
    pub fn allocate(&mut self, clients: usize) {
        if self.slots.is_empty() {
            let buckets = clients.div_ceil(WAYS).next_power_of_two();
            let client = Client { address: A::UNSPECIFIED, scope: 0 };
            let placed =
                Placed { server_id: ServerId(0), server: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
            let unused = Slot { client, placed, ends: 0, used: false };
            self.slots = vec![unused; buckets * WAYS].into();
        }
    }

    /// How many entries there are, those included whose life is over but that were not swept yet.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many entries there can be.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Where the client was sent.
    pub fn find(&self, client: &Client<A>, now: u32) -> Option<Placed> {
        let slot = &self.slots[self.position(client)?];
        slot.is_alive(now).then_some(slot.placed)
    }

    /// Remembers for `life` milliseconds where the client was sent, in place of what was known of
    /// it. `false` when there is no room.
    pub fn put(&mut self, client: Client<A>, placed: Placed, life: u32, now: u32) -> bool {
        let at = match self.position(&client).or_else(|| self.room(&client, now)) {
            Some(at) => at,
            None => return false,
        };
        self.live += usize::from(!self.slots[at].used);
        let ends = now.wrapping_add(life.min(MAX_LIFE));
        self.slots[at] = Slot { client, placed, ends, used: true };
        true
    }

    /// The same, unless where it was sent is known by what was said later.
    pub fn put_if_later(&mut self, client: Client<A>, placed: Placed, life: u32, now: u32) -> bool {
        let known = self.position(&client).map(|at| &self.slots[at]);
        match known.filter(|slot| slot.is_alive(now)) {
            Some(slot) if slot.ends.wrapping_sub(now) > life => true,
            _ => self.put(client, placed, life, now),
        }
    }

    /// Visits the entries that are alive in at most `budget` places from `cursor` on, which starts at 0
    /// and is moved on, each with the milliseconds it still lives. Returns whether it has come to the
    /// end.
    pub fn walk(
        &self,
        cursor: &mut usize,
        budget: usize,
        now: u32,
        mut visit: impl FnMut(Client<A>, Placed, u32),
    ) -> bool {
        let start = (*cursor).min(self.slots.len());
        let end = start.saturating_add(budget).min(self.slots.len());
        for slot in self.slots[start..end].iter().filter(|slot| slot.is_alive(now)) {
            visit(slot.client, slot.placed, slot.ends.wrapping_sub(now));
        }
        *cursor = end;
        end == self.slots.len()
    }

    /// Takes entries whose life is over out of the next bucket. To be called often: at least once
    /// for each bucket in twelve days.
    pub fn sweep(&mut self, now: u32) {
        if self.live == 0 {
            return;
        }
        let bucket = self.hand & (self.slots.len() / WAYS - 1);
        self.hand = bucket + 1;
        for slot in &mut self.slots[bucket * WAYS..][..WAYS] {
            if slot.used && !slot.is_alive(now) {
                slot.used = false;
                self.live -= 1;
            }
        }
    }

    /// Where the two buckets of the client begin.
    fn buckets(&self, client: &Client<A>) -> [usize; 2] {
        let hash = self.hasher.hash(&FlowKey {
            src: client.address,
            dst: A::UNSPECIFIED,
            sport: client.scope,
            dport: 0,
            protocol: Protocol::Udp,
        });
        let mask = (self.slots.len() / WAYS).wrapping_sub(1);
        [hash as usize & mask, (hash >> 32) as usize & mask].map(|bucket| bucket * WAYS)
    }

    fn position(&self, client: &Client<A>) -> Option<usize> {
        if self.live == 0 {
            return None;
        }
        let is_client = |at: &usize| self.slots[*at].used && self.slots[*at].client == *client;
        self.buckets(client).into_iter().find_map(|start| (start..start + WAYS).find(is_client))
    }

    /// A place for the client in the emptier of its buckets.
    fn room(&self, client: &Client<A>, now: u32) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let free = |at: &usize| !self.slots[*at].used || !self.slots[*at].is_alive(now);
        let [a, b] = self.buckets(client).map(|start| {
            let mut places = (start..start + WAYS).filter(free);
            (places.next(), places.count())
        });
        if a.1 >= b.1 { a.0.or(b.0) } else { b.0.or(a.0) }
    }
}

impl<A> Slot<A> {
    fn is_alive(&self, now: u32) -> bool {
        self.used && self.ends.wrapping_sub(now) as i32 > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv6Addr;

    fn client(n: u32) -> Client<Ipv4Addr> {
        Client { address: n.into(), scope: 3 }
    }

    fn placed(n: u16) -> Placed {
        Placed { server_id: ServerId(n), server: Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into() }
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let mut table = Persistence::<Ipv6Addr>::new(1);
        let client = Client { address: Ipv6Addr::LOCALHOST, scope: 0 };
        let placed = Placed { server_id: ServerId(1), server: Ipv6Addr::LOCALHOST.into() };
        assert!(!table.put(client, placed, 1000, 0));
        assert_eq!(table.find(&client, 0), None);
        table.sweep(0);
        table.allocate(1);
        assert_eq!(table.capacity(), WAYS);
        assert!(table.put(client, placed, 1000, 0));
        table.allocate(1000);
        assert_eq!(table.find(&client, 999), Some(placed));
    }

    #[test]
    fn an_entry_lives_its_time_across_the_wrap_of_the_clock() {
        let mut table = Persistence::new(1);
        table.allocate(64);
        let now = u32::MAX - 10;
        assert!(table.put(client(1), placed(1), 1000, now));
        assert_eq!(table.find(&client(1), now.wrapping_add(999)), Some(placed(1)));
        assert_eq!(table.find(&client(1), now.wrapping_add(1000)), None);
        let other = Client { scope: 4, ..client(1) };
        assert_eq!(table.find(&other, now), None);
        // A new connection: another server, another 1000 ms.
        assert!(table.put(client(1), placed(2), 1000, now.wrapping_add(500)));
        assert_eq!(table.find(&client(1), now.wrapping_add(1499)), Some(placed(2)));
        assert_eq!(table.len(), 1);
        for _ in 0..table.capacity() / WAYS {
            table.sweep(now.wrapping_add(1500));
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_full_table_refuses_until_entries_have_ended() {
        let mut table = Persistence::new(5);
        table.allocate(1024);
        let refused = (0..4096).filter(|n| !table.put(client(*n), placed(1), 1000, 0)).count();
        assert_eq!(refused, 4096 - table.len());
        assert!(table.len() > 1000 && table.len() <= 1024, "{}", table.len());
        let first = (0..4096).find(|n| table.find(&client(*n), 0).is_none()).unwrap();
        assert!(first > 800, "two choices fill it well: {first}");
        // Those that are in may be renewed, and all give way when their time has come.
        assert!(table.put(client(0), placed(2), 1000, 0));
        assert!((5000..5500).all(|n| table.put(client(n), placed(3), 1000, 1000)));
        assert!((5000..5500).all(|n| table.find(&client(n), 1000) == Some(placed(3))));
    }

    proptest! {
        #[test]
        fn as_a_map_would(steps in prop::collection::vec((0u32..40, 0u16..9, 1u32..50, 0u32..20), 1..200)) {
            let mut table = Persistence::new(9);
            table.allocate(512);
            let mut map = HashMap::new();
            let mut now = 0u32;
            for (n, server, life, passed) in steps {
                now += passed;
                let expected = map.get(&n).filter(|(_, ends)| *ends > now).map(|(p, _)| *p);
                prop_assert_eq!(table.find(&client(n), now), expected);
                prop_assert!(table.put(client(n), placed(server), life, now));
                map.insert(n, (placed(server), now + life));
                table.sweep(now);
            }
        }
    }
}
