//! The packets whose fragments a worker collects: which ports they have, which of their bytes were
//! seen, and the fragments that came before the first.
//!
//! A fragment but the first has no ports, so it has to follow the first. All fragments of a packet
//! meet at one worker (see [`super::fragment_path`]), which remembers a packet until it has seen all
//! of it and keeps early fragments until the first one comes. Nothing is put together.
//!
//! All of it is bounded and allocated at the start: [`PACKETS`] packets in buckets, each forgotten
//! [`FORGET_MS`] after its first fragment at the latest, and [`MAX_HELD`] waiting fragments, each
//! dropped after [`HOLD_MS`]. What floods the table pushes out what is older than
//! [`GIVE_WAY_MS`], and what floods the waiting room pushes out the oldest: fragments of one packet
//! come together, so those of honest senders have gone on by then.

use super::fragment_idents::Idents;
use super::fragment_ranges::{Added, Ranges};
use super::fragment_room::{NIL, Room};
use crate::session::ServerId;
use crate::session::key::KeyHasher;
use crate::wire::DropReason;
use crate::wire::flow::{Address, FlowKey};
use crate::wire::fragment::{Fragment, Packet};

/// Packets that are remembered, for each family.
pub const PACKETS: usize = 4096;
/// Places a packet can have, by the hash of its addresses and number.
const WAYS: usize = 8;
/// Fragments that wait for their first, for each family.
pub const MAX_HELD: usize = 512;
/// Fragments of one packet that wait; the longest packet has 54 when the MTU is 1280.
pub const MAX_HELD_PER_PACKET: u16 = 64;
/// How long a fragment waits for the first of its packet, in milliseconds.
pub const HOLD_MS: u32 = 2000;
/// How long a packet is remembered that does not become complete, in milliseconds.
pub const FORGET_MS: u32 = 5000;
/// How long a packet keeps its place in a full table, in milliseconds.
pub const GIVE_WAY_MS: u32 = 250;

/// What the first fragment tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// The new identification: see [`super::fragment_idents`].
    pub ident: u32,
    /// The real server of the packet, where its service decides on each ([`super::one_packet`]).
    /// Only known where the fragments meet.
    pub server: Option<ServerId>,
}

/// What becomes of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It goes on.
    Bound(Binding),
    /// It waits: to be given to [`Fragments::hold`] with this, before the next burst.
    Early(u16),
    /// It is dropped, and so many that waited are too.
    Refused(DropReason, usize),
}

/// A packet.
#[derive(Clone, Debug)]
struct Entry<A> {
    packet: Option<Packet<A>>,
    since: u32,
    binding: Option<Binding>,
    refused: Option<DropReason>,
    ranges: Ranges,
    /// Fragments that are held or about to be; as long as there are any the entry stays.
    waiting: u16,
    /// Places of those that wait for the first fragment, oldest first.
    first: u16,
    last: u16,
}

/// The fragmented packets of one family at one worker.
#[derive(Debug)]
pub struct Fragments<A, F> {
    hasher: KeyHasher,
    idents: Idents,
    entries: Box<[Entry<A>]>,
    room: Room<F>,
}

impl<A: Address, F> Fragments<A, F> {
    /// Without packets. `seed` is secret.
    pub fn new(idents: Idents, seed: u64) -> Self {
        let entry = Entry {
            packet: None,
            since: 0,
            binding: None,
            refused: None,
            ranges: Ranges::default(),
            waiting: 0,
            first: NIL,
            last: NIL,
        };
        Fragments {
            hasher: KeyHasher::new(seed),
            idents,
            entries: vec![entry; PACKETS].into_boxed_slice(),
            room: Room::new(MAX_HELD),
        }
    }

    /// The numbers for translated packets.
    pub fn idents(&mut self) -> &mut Idents {
        &mut self.idents
    }

    /// How many fragments are held.
    #[inline]
    pub fn held(&self) -> usize {
        self.room.len()
    }

    /// Takes note of a fragment and says what becomes of it. `now` in milliseconds, wrapping.
    pub fn see(&mut self, fragment: &Fragment<A>, now: u32) -> Seen {
        // A packet in one fragment has nothing to do with others of its number (RFC 6946).
        if let Some((sport, dport)) = fragment.ports
            && !fragment.more
        {
            let ident = self.idents.take();
            return Seen::Bound(Binding { sport, dport, ident, server: None });
        }
        let Some(at) = self.place(&fragment.packet, now) else {
            return Seen::Refused(DropReason::FragmentTableFull, 0);
        };
        let entry = &mut self.entries[usize::from(at)];
        if let Some(reason) = entry.refused {
            return Seen::Refused(reason, 0);
        }
        match entry.ranges.add(fragment.offset, fragment.len, fragment.more) {
            Added::New => {}
            // What was seen is on its way or waits: this one is not needed.
            Added::Duplicate => return Seen::Refused(DropReason::FragmentOverlap, 0),
            Added::Overlap => return self.refuse(at, DropReason::FragmentOverlap),
            Added::TooManyGaps => return self.refuse(at, DropReason::FragmentQueueFull),
        }
        if let Some((sport, dport)) = fragment.ports {
            let ident = self.idents.take();
            let entry = &mut self.entries[usize::from(at)];
            entry.binding = Some(Binding { sport, dport, ident, server: None });
            let first = std::mem::replace(&mut entry.first, NIL);
            self.room.make_ready(first);
        }
        let entry = &mut self.entries[usize::from(at)];
        if let Some(binding) = entry.binding {
            self.forget_if_done(at);
            return Seen::Bound(binding);
        }
        if entry.waiting == MAX_HELD_PER_PACKET {
            return self.refuse(at, DropReason::FragmentQueueFull);
        }
        entry.waiting += 1;
        Seen::Early(at)
    }

    /// Remembers the real server of a packet whose first fragment was seen just now.
    pub fn decide(&mut self, packet: &Packet<A>, server: ServerId) {
        let start = self.bucket(packet);
        let places = &mut self.entries[start..start + WAYS];
        let place = places.iter_mut().find(|entry| entry.packet.as_ref() == Some(packet));
        if let Some(binding) = place.and_then(|entry| entry.binding.as_mut()) {
            binding.server = Some(server);
        }
    }

    /// Keeps a fragment that was [`Seen::Early`]. Where there is no room the oldest goes: returns
    /// why a fragment, this or that, was dropped.
    pub fn hold(&mut self, at: u16, frame: F, now: u32) -> Option<DropReason> {
        let entry = &mut self.entries[usize::from(at)];
        if let Some(reason) = entry.refused {
            entry.waiting -= 1;
            return Some(reason);
        }
        let mut dropped = None;
        if self.room.is_full() {
            dropped = Some(DropReason::FragmentQueueFull);
            if !self.drop_oldest() {
                self.entries[usize::from(at)].waiting -= 1;
                return dropped;
            }
        }
        let entry = &mut self.entries[usize::from(at)];
        if entry.binding.is_some() {
            // The first fragment came later in the same burst.
            self.room.put_ready(at, frame, now);
            return dropped;
        }
        let place = self.room.put(at, frame, now);
        if entry.first == NIL {
            entry.first = place;
        } else {
            self.room.link(entry.last, place);
        }
        entry.last = place;
        dropped
    }

    /// Takes a fragment whose first has come.
    pub fn release(&mut self) -> Option<(F, Binding)> {
        let (at, frame) = self.room.take_ready()?;
        let entry = &mut self.entries[usize::from(at)];
        entry.waiting -= 1;
        let binding = entry.binding?;
        self.forget_if_done(at);
        Some((frame, binding))
    }

    /// Drops a fragment that has waited too long. Returns whether there was one.
    pub fn expire(&mut self, now: u32) -> bool {
        match self.room.oldest() {
            Some((_, since)) if now.wrapping_sub(since) >= HOLD_MS => self.drop_oldest(),
            _ => false,
        }
    }

    /// The first of the places that a packet can have.
    fn bucket(&self, packet: &Packet<A>) -> usize {
        let ident = packet.ident;
        let hash = self.hasher.hash(&FlowKey {
            src: packet.src,
            dst: packet.dst,
            sport: (ident >> 16) as u16,
            dport: ident as u16,
            protocol: packet.protocol,
        });
        hash as usize % (PACKETS / WAYS) * WAYS
    }

    /// The place of a packet, which may be new.
    fn place(&mut self, packet: &Packet<A>, now: u32) -> Option<u16> {
        let start = self.bucket(packet);
        // The place to take if the packet is new: a free one, or that which is given up most easily.
        let mut best = None;
        for (at, entry) in self.entries[start..start + WAYS].iter_mut().enumerate() {
            let age = now.wrapping_sub(entry.since);
            if entry.waiting == 0 && age >= FORGET_MS {
                entry.packet = None;
            }
            if entry.packet.as_ref() == Some(packet) {
                return Some((start + at) as u16);
            }
            let ease = match entry.packet {
                None => u32::MAX,
                Some(_) if entry.waiting == 0 && age >= GIVE_WAY_MS => age,
                Some(_) => continue,
            };
            if best.is_none_or(|(most, _)| ease > most) {
                best = Some((ease, start + at));
            }
        }
        let (_, at) = best?;
        let entry = &mut self.entries[at];
        entry.packet = Some(*packet);
        entry.since = now;
        entry.binding = None;
        entry.refused = None;
        entry.ranges = Ranges::default();
        entry.first = NIL;
        Some(at as u16)
    }

    /// Drops all there is of a packet, and what is still to come.
    fn refuse(&mut self, at: u16, reason: DropReason) -> Seen {
        let entry = &mut self.entries[usize::from(at)];
        entry.refused = Some(reason);
        let first = std::mem::replace(&mut entry.first, NIL);
        let dropped = self.room.remove(first);
        entry.waiting -= dropped as u16;
        Seen::Refused(reason, dropped)
    }

    fn forget_if_done(&mut self, at: u16) {
        let entry = &mut self.entries[usize::from(at)];
        if entry.waiting == 0 && entry.ranges.is_complete() {
            entry.packet = None;
        }
    }

    /// Drops the fragment that has waited for longest; `false` when none waits for its first.
    fn drop_oldest(&mut self) -> bool {
        let Some((at, _)) = self.room.oldest() else { return false };
        let entry = &mut self.entries[usize::from(at)];
        // The oldest of all is the oldest of its packet.
        entry.first = self.room.remove_first(entry.first);
        entry.waiting -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::fragment_idents::BITS_V4;
    use super::*;
    use crate::wire::flow::Protocol;
    use std::net::Ipv4Addr;

    type Table = Fragments<Ipv4Addr, u32>;

    fn table() -> Table {
        Fragments::new(Idents::new(BITS_V4, 1), 7)
    }

    /// A piece of eight bytes, the first with ports.
    fn piece(ident: u32, n: u32, more: bool) -> Fragment<Ipv4Addr> {
        let (src, dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        Fragment {
            packet: Packet { src, dst, ident, protocol: Protocol::Udp },
            offset: n * 8,
            len: 8,
            more,
            at: 34,
            ports: (n == 0).then_some((53, 40_000)),
            hop_limit: 64,
            frame_len: 42,
        }
    }

    fn early(seen: Seen) -> u16 {
        match seen {
            Seen::Early(at) => at,
            other => panic!("{other:?}"),
        }
    }

    fn bound(seen: Seen) -> Binding {
        match seen {
            Seen::Bound(binding) => binding,
            other => panic!("{other:?}"),
        }
    }

    /// Puts fragments of a packet in, each in a burst of its own.
    fn wait(table: &mut Table, ident: u32, pieces: impl IntoIterator<Item = u32>, now: u32) {
        for n in pieces {
            let at = early(table.see(&piece(ident, n, true), now));
            assert_eq!(table.hold(at, ident << 16 | n, now), None);
        }
    }

    #[test]
    fn those_that_come_before_the_first_follow_it() {
        let mut table = table();
        wait(&mut table, 5, [2, 1], 0);
        wait(&mut table, 6, [1], 0);
        let at = early(table.see(&piece(5, 3, false), 0));
        // In one burst with the one before it.
        let binding = bound(table.see(&piece(5, 0, true), 0));
        assert_eq!((binding.sport, binding.dport), (53, 40_000));
        assert_eq!(table.hold(at, 53, 0), None);
        for frame in [5 << 16 | 2, 5 << 16 | 1, 53] {
            assert_eq!(table.release(), Some((frame, binding)));
        }
        assert_eq!(table.release(), None);
        assert_eq!(table.held(), 1);
        // The packet was complete and is forgotten: the same number is another packet.
        let other = bound(table.see(&piece(5, 0, true), 0));
        assert_ne!(other.ident, binding.ident);
        assert_eq!(bound(table.see(&piece(5, 1, false), 0)), other);
    }

    #[test]
    fn waiting_ends() {
        let mut table = table();
        let start = u32::MAX - 10;
        wait(&mut table, 1, [1], start);
        wait(&mut table, 2, [1, 2], start.wrapping_add(100));
        assert!(!table.expire(start.wrapping_add(HOLD_MS - 1)));
        let now = start.wrapping_add(HOLD_MS);
        assert!(table.expire(now) && !table.expire(now));
        assert_eq!(table.held(), 2);
        let binding = bound(table.see(&piece(2, 0, true), now));
        assert_eq!(table.release(), Some((2 << 16 | 1, binding)));
        // What may go does not expire.
        assert!(!table.expire(now.wrapping_add(HOLD_MS)));
        assert_eq!(table.release(), Some((2 << 16 | 2, binding)));
    }

    #[test]
    fn packets_are_forgotten() {
        let mut table = table();
        let first = bound(table.see(&piece(1, 0, true), 0));
        assert_eq!(bound(table.see(&piece(1, 1, true), FORGET_MS - 1)), first);
        early(table.see(&piece(1, 2, true), FORGET_MS));
    }

    #[test]
    fn an_overlap_ends_the_packet() {
        let mut table = table();
        wait(&mut table, 1, [3, 4], 0);
        let mut wide = piece(1, 2, true);
        wide.len = 16;
        // One is still on its way to the waiting room.
        let at = early(table.see(&piece(1, 6, true), 0));
        let refused = Seen::Refused(DropReason::FragmentOverlap, 2);
        assert_eq!(table.see(&wide, 0), refused);
        assert_eq!(table.hold(at, 0, 0), Some(DropReason::FragmentOverlap));
        assert_eq!(table.held(), 0);
        let refused = Seen::Refused(DropReason::FragmentOverlap, 0);
        assert_eq!(table.see(&piece(1, 0, true), 0), refused);
        // A doubled fragment does no harm.
        let binding = bound(table.see(&piece(2, 0, true), 0));
        assert_eq!(table.see(&piece(2, 0, true), 0), refused);
        assert_eq!(bound(table.see(&piece(2, 1, false), 0)), binding);
    }

    #[test]
    fn one_packet_has_a_bounded_part_of_the_room() {
        let mut table = table();
        wait(&mut table, 1, 1..=u32::from(MAX_HELD_PER_PACKET), 0);
        let next = piece(1, 1 + u32::from(MAX_HELD_PER_PACKET), true);
        let all = usize::from(MAX_HELD_PER_PACKET);
        let refused = Seen::Refused(DropReason::FragmentQueueFull, all);
        assert_eq!(table.see(&next, 0), refused);
        assert_eq!(table.held(), 0);
    }

    #[test]
    fn in_a_full_room_the_oldest_goes() {
        let mut table = table();
        for ident in 0..MAX_HELD as u32 {
            wait(&mut table, ident, [1], 0);
        }
        let at = early(table.see(&piece(9999, 1, true), 0));
        assert_eq!(table.hold(at, 1, 0), Some(DropReason::FragmentQueueFull));
        assert_eq!(table.held(), MAX_HELD);
        // It was the first that came; the second is still there.
        bound(table.see(&piece(0, 0, true), 0));
        assert_eq!(table.release(), None);
        for ident in 1..MAX_HELD as u32 {
            bound(table.see(&piece(ident, 0, true), 0));
        }
        let at = early(table.see(&piece(10_000, 1, true), 0));
        assert_eq!(table.hold(at, 2, 0), Some(DropReason::FragmentQueueFull));
        bound(table.see(&piece(10_000, 0, true), 0));
        let at = early(table.see(&piece(10_001, 1, true), 0));
        assert_eq!(table.hold(at, 3, 0), Some(DropReason::FragmentQueueFull));
        let released: Vec<_> = std::iter::from_fn(|| table.release()).map(|r| r.0).collect();
        assert_eq!(released.len(), MAX_HELD);
        assert_eq!((released[0], table.held()), (1 << 16 | 1, 0));
        assert!(table.room.is_sound());
    }

    #[test]
    fn a_full_table_refuses_until_the_oldest_may_go() {
        let mut table = table();
        let full = Seen::Refused(DropReason::FragmentTableFull, 0);
        let mut refused = 0;
        for ident in 0..4 * PACKETS as u32 {
            match table.see(&piece(ident, 0, true), 0) {
                Seen::Bound(_) => {}
                other => {
                    assert_eq!(other, full);
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 3 * PACKETS, "every place is taken");
        assert_eq!(table.see(&piece(99_999, 0, true), GIVE_WAY_MS - 1), full);
        bound(table.see(&piece(99_999, 0, true), GIVE_WAY_MS));
        // A packet with fragments that wait keeps its place.
        let mut table = self::table();
        for ident in 0..MAX_HELD as u32 {
            wait(&mut table, ident, [1], 0);
        }
        for ident in 1000..1000 + 4 * PACKETS as u32 {
            table.see(&piece(ident, 0, true), FORGET_MS);
        }
        for ident in 0..MAX_HELD as u32 {
            bound(table.see(&piece(ident, 0, true), FORGET_MS));
            assert!(table.release().is_some(), "{ident}");
        }
    }
}
