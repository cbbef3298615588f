//! What each source prefix may still do: a table of fixed size.
//!
//! Sources are told apart by a keyed hash of 64 bits of service and prefix, and found in a set of
//! eight. A source that is new to a full set takes the place of the one idle for longest, which then
//! begins anew with full buckets when it comes back; one with half-open sessions keeps its place, so
//! that their number stays right. When all eight have some, the new source is let through without a
//! limit of its own, and counted: the limits of the whole service still hold.

use std::net::IpAddr;

use super::limiter::Refill;
use crate::session::ServiceId;
use crate::session::key::KeyHasher;
use crate::wire::flow::{Address, FlowKey, Protocol};

/// Sources that one worker remembers: 2 MiB, allocated when a service first has such a limit.
pub(super) const SOURCES: usize = 65_536;
/// Sources in a set.
const WAYS: usize = 8;

/// A source of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceKey(u64);

impl SourceKey {
    /// The key of the first `mask` bits (`mask_v6` in IPv6) of an address.
    pub(super) fn new(
        hasher: &KeyHasher,
        service: ServiceId,
        source: IpAddr,
        mask: u8,
        mask_v6: u8,
    ) -> Self {
        // A client of a session between families counts as what it is.
        let hash = match source.to_canonical() {
            IpAddr::V4(a) => {
                let kept = u32::MAX.checked_shl(u32::from(32 - mask.min(32))).unwrap_or(0);
                hash(hasher, service, std::net::Ipv4Addr::from_bits(a.to_bits() & kept))
            }
            IpAddr::V6(a) => {
                let kept = u128::MAX.checked_shl(u32::from(128 - mask_v6.min(128))).unwrap_or(0);
                hash(hasher, service, std::net::Ipv6Addr::from_bits(a.to_bits() & kept))
            }
        };
        // 0 is a free place.
        SourceKey(hash.max(1))
    }
}

fn hash<A: Address>(hasher: &KeyHasher, service: ServiceId, prefix: A) -> u64 {
    let (dst, sport) = (A::UNSPECIFIED, service.0);
    hasher.hash(&FlowKey { src: prefix, dst, sport, dport: 0, protocol: Protocol::Tcp })
}

/// How the buckets of a source fill, for each limit that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceRefills {
    pub(super) connections: Option<Refill>,
    pub(super) packets: Option<Refill>,
}

/// What is known of a source: 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    key: u64,
    /// When the buckets were as they are.
    last: u32,
    /// Its sessions whose handshake is not complete.
    pub(super) half_open: u32,
    /// Millionths of a token.
    connections: u64,
    packets: u64,
}

const _: () = assert!(size_of::<Source>() == 32);

const FREE: Source = Source { key: 0, last: 0, half_open: 0, connections: 0, packets: 0 };

impl Source {
    /// Whether it may open a connection.
    pub(super) fn has_connection(&self, refills: &SourceRefills) -> bool {
        refills.connections.is_none() || Refill::take(self.connections).is_some()
    }

    /// Opens a connection, which it may.
    pub(super) fn take_connection(&mut self, refills: &SourceRefills) {
        if refills.connections.is_some() {
            self.connections = Refill::take(self.connections).unwrap_or(0);
        }
    }

    /// Whether it may send a packet, which then counts.
    pub(super) fn take_packet(&mut self, refills: &SourceRefills) -> bool {
        if refills.packets.is_none() {
            return true;
        }
        let rest = Refill::take(self.packets);
        self.packets = rest.unwrap_or(self.packets);
        rest.is_some()
    }

    fn refill(&mut self, refills: &SourceRefills, now: u32) {
        let elapsed = now.wrapping_sub(self.last);
        self.last = now;
        if let Some(refill) = &refills.connections {
            self.connections = refill.after(self.connections, elapsed);
        }
        if let Some(refill) = &refills.packets {
            self.packets = refill.after(self.packets, elapsed);
        }
    }
}

/// The table. See the module.
#[derive(Debug, Default)]
pub(super) struct SourceTable {
    sets: Box<[[Source; WAYS]]>,
}

impl SourceTable {
    /// All places free, room for so many sources (a power of two, at least eight).
    pub(super) fn new(sources: usize) -> Self {
        debug_assert!(sources.is_power_of_two() && sources >= WAYS);
        SourceTable { sets: vec![[FREE; WAYS]; sources / WAYS].into_boxed_slice() }
    }

    /// Whether there is no room at all.
    pub(super) fn is_unused(&self) -> bool {
        self.sets.is_empty()
    }

    /// The half-open sessions of all sources.
    pub(super) fn half_open(&self) -> u64 {
        self.sets.iter().flatten().map(|source| u64::from(source.half_open)).sum()
    }

    /// The source, its buckets filled up to `now`; entered if it is new. `None` when it is new and
    /// has no place.
    pub(super) fn enter(
        &mut self,
        key: SourceKey,
        refills: &SourceRefills,
        now: u32,
    ) -> Option<&mut Source> {
        let set = set_of(&mut self.sets, key)?;
        if let Some(way) = set.iter().position(|source| source.key == key.0) {
            let source = &mut set[way];
            source.refill(refills, now);
            return Some(source);
        }
        // The first free place, or else the one that is idle for longest.
        let idle = |source: &Source| match source.key {
            0 => u64::MAX,
            _ => u64::from(now.wrapping_sub(source.last)),
        };
        let source = set.iter_mut().filter(|s| s.half_open == 0).max_by_key(|s| idle(s))?;
        let full = |refill: Option<Refill>| refill.map_or(0, |refill| refill.full());
        *source = Source {
            key: key.0,
            last: now,
            half_open: 0,
            connections: full(refills.connections),
            packets: full(refills.packets),
        };
        Some(source)
    }

    /// The source, if it has a place.
    pub(super) fn find(&mut self, key: SourceKey) -> Option<&mut Source> {
        set_of(&mut self.sets, key)?.iter_mut().find(|source| source.key == key.0)
    }
}

fn set_of(sets: &mut [[Source; WAYS]], key: SourceKey) -> Option<&mut [Source; WAYS]> {
    let mask = sets.len().wrapping_sub(1);
    sets.get_mut((key.0 >> 32) as usize & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refills() -> SourceRefills {
        SourceRefills { connections: Some(Refill::new(1, 2)), packets: Some(Refill::new(1000, 5)) }
    }

    fn key(n: u64) -> SourceKey {
        SourceKey(n << 32 | 1)
    }

    #[test]
    fn keys_are_those_of_prefixes() {
        let hasher = KeyHasher::new(1);
        let key = |service, address: &str, mask, mask_v6| {
            SourceKey::new(&hasher, ServiceId(service), address.parse().unwrap(), mask, mask_v6)
        };
        assert_eq!(key(0, "10.0.0.1", 24, 64), key(0, "10.0.0.9", 24, 64));
        assert_ne!(key(0, "10.0.0.1", 32, 64), key(0, "10.0.0.9", 32, 64));
        assert_ne!(key(0, "10.0.0.1", 24, 64), key(1, "10.0.0.1", 24, 64));
        assert_eq!(key(0, "10.0.0.1", 0, 64), key(0, "11.0.0.9", 0, 64));
        assert_eq!(key(0, "2001:db8::1", 32, 64), key(0, "2001:db8::2", 32, 64));
        assert_ne!(key(0, "2001:db8::1", 32, 128), key(0, "2001:db8::2", 32, 128));
        assert_eq!(key(0, "2001:db8::1", 32, 0), key(0, "3001::", 32, 0));
    }

    #[test]
    fn a_source_has_its_own_buckets() {
        let mut table = SourceTable::new(64);
        let refills = refills();
        for n in 0..2 {
            let source = table.enter(key(n), &refills, 100).unwrap();
            for _ in 0..2 {
                assert!(source.has_connection(&refills));
                source.take_connection(&refills);
            }
            assert!(!source.has_connection(&refills));
            assert_eq!((0..9).filter(|_| source.take_packet(&refills)).count(), 5);
        }
        let source = table.enter(key(0), &refills, 102).unwrap();
        assert!(!source.has_connection(&refills));
        assert_eq!((0..9).filter(|_| source.take_packet(&refills)).count(), 2);
        assert!(table.enter(key(0), &refills, 1100).unwrap().has_connection(&refills));
    }

    #[test]
    fn a_full_set_gives_up_the_idlest_that_has_no_half_open_session() {
        let mut table = SourceTable::new(8);
        let refills = refills();
        // Across the wrap of the clock; 2 is the idlest, but has a half-open session.
        for n in 0..8 {
            let idle = if n == 2 { 900 } else { 500 + 10 * n as u32 };
            table.enter(key(n), &refills, 100u32.wrapping_sub(idle)).unwrap();
        }
        table.find(key(2)).unwrap().half_open = 1;
        assert!(table.enter(key(8), &refills, 100).is_some());
        assert!(table.find(key(7)).is_none(), "idle for 570 ms");
        assert!((0..7).all(|n| table.find(key(n)).is_some()));
        for n in [0, 1, 3, 4, 5, 6, 8] {
            table.find(key(n)).unwrap().half_open = 1;
        }
        assert!(table.enter(key(9), &refills, 200).is_none());
        table.find(key(4)).unwrap().half_open = 0;
        assert!(table.enter(key(9), &refills, 200).is_some());
    }
}
