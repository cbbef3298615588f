//! The index of a session table: from the hash of a key to the slab, through one cache line.
//!
//! Buckets of 64 bytes hold up to [`SLOTS`] keys, each as a 16-bit tag and a 32-bit [`Ref`]. A key
//! has two buckets, its primary and its secondary; it lives in the primary unless that was full. A
//! bucket counts the keys whose primary it is and which live elsewhere, so that a lookup reads the
//! secondary only when there is something to find. All operations touch a bounded number of
//! buckets; the index never grows and never rehashes.
//!
//! The index does not know keys. Who looks something up verifies the key behind a [`Ref`].

use super::entry::Direction;
use crate::prefetch;

/// Keys per bucket.
pub const SLOTS: usize = 10;
/// Buckets beyond what the load asks for, so that a tiny index does not depend on luck.
const SPARE_BUCKETS: usize = 6;

/// Where a key leads: an entry of the slab, and which of the entry's two keys it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref(u32);

impl Ref {
    const REPLY: u32 = 1 << 31;

    /// A reference to slab entry `index` (below 2^31).
    #[inline(always)]
    pub fn new(index: u32, direction: Direction) -> Self {
        debug_assert!(index < Self::REPLY);
        Ref(match direction {
            Direction::Forward => index,
            Direction::Reply => index | Self::REPLY,
        })
    }

    /// The slab entry.
    #[inline(always)]
    pub fn index(self) -> u32 {
        self.0 & !Self::REPLY
    }

    /// Which of its keys.
    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0 & Self::REPLY == 0 { Direction::Forward } else { Direction::Reply }
    }
}

/// One cache line: tags as four 16-bit lanes per word, the last two lanes not being tags.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// Tag of slot `s` in lane `s % 4` of word `s / 4`; 0: empty. Lane 2 of the last word: how many
    /// keys have this as their primary and live in their secondary.
    words: [u64; 3],
    refs: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// A 1 in each lane.
const ONES: u64 = 0x0001_0001_0001_0001;
/// The top bit of each lane.
const TOPS: u64 = 0x8000_8000_8000_8000;
/// The top bits of the lanes of the last word that are tags.
const LAST_TOPS: u64 = 0x0000_0000_8000_8000;
/// Where the overflow count begins in the last word.
const OVERFLOW_SHIFT: u32 = 32;

impl Bucket {
    const EMPTY: Bucket = Bucket { words: [0; 3], refs: [0; SLOTS] };

    /// The slots whose tag is `tag`, without a branch.
    ///
    /// The first slot given is exact. Later ones may be false (a borrow out of a matching lane
    /// makes the lane above look equal when it differs in its lowest bit only); that costs the
    /// caller a comparison that he has to make anyway.
    #[inline(always)]
    fn matching(&self, tag: u16) -> Matches {
        let wanted = u64::from(tag) * ONES;
        let zero_lanes = |word: u64| {
            let x = word ^ wanted;
            x.wrapping_sub(ONES) & !x
        };
        // Word w's lane l becomes bit 16 l + 12 + w.
        Matches(
            (zero_lanes(self.words[0]) & TOPS) >> 3
                | (zero_lanes(self.words[1]) & TOPS) >> 2
                | (zero_lanes(self.words[2]) & LAST_TOPS) >> 1,
        )
    }

    #[inline(always)]
    fn overflow(&self) -> u16 {
        (self.words[2] >> OVERFLOW_SHIFT) as u16
    }

    fn change_overflow(&mut self, by: i16) {
        // It cannot wrap around: each key counted holds a slot of another bucket, and an attacker
        // who fills buckets at will would have to know the secret of the hash.
        let count = self.overflow().wrapping_add_signed(by);
        self.words[2] =
            self.words[2] & !(0xffff << OVERFLOW_SHIFT) | u64::from(count) << OVERFLOW_SHIFT;
    }

    fn set(&mut self, slot: usize, tag: u16, reference: u32) {
        let shift = (slot % 4) * 16;
        let word = &mut self.words[slot / 4];
        *word = *word & !(0xffff << shift) | u64::from(tag) << shift;
        self.refs[slot] = reference;
    }

    fn tag(&self, slot: usize) -> u16 {
        (self.words[slot / 4] >> ((slot % 4) * 16)) as u16
    }

    /// Puts a key into an empty slot, if there is one.
    fn put(&mut self, tag: u16, reference: u32) -> bool {
        match self.matching(0).next() {
            Some(slot) => {
                self.set(slot, tag, reference);
                true
            }
            None => false,
        }
    }

    /// Empties the slot that holds `reference`, if one does.
    fn take(&mut self, tag: u16, reference: u32) -> bool {
        let slot = self.matching(tag).find(|&s| self.refs[s] == reference && self.tag(s) == tag);
        match slot {
            Some(slot) => {
                self.set(slot, 0, 0);
                true
            }
            None => false,
        }
    }
}

/// A set of slots, lowest lane first.
#[derive(Clone, Copy)]
struct Matches(u64);

impl Iterator for Matches {
    type Item = usize;
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some((bit & 3) * 4 + (bit >> 4))
    }
}

/// The index.
pub struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    /// An empty index for `keys` keys at a load of 0.78. `advise` is called with address and
    /// length of its memory before that is touched.
    pub fn new(keys: usize, advise: impl FnOnce(usize, usize)) -> Self {
        let count = (keys * 100).div_ceil(SLOTS * 78) + SPARE_BUCKETS;
        assert!(count <= 1 << 32, "more buckets than a 32-bit hash can tell apart");
        let mut buckets = Vec::with_capacity(count);
        let spare = buckets.spare_capacity_mut();
        advise(spare.as_ptr().addr(), size_of_val(spare));
        buckets.resize(count, Bucket::EMPTY);
        Index { buckets: buckets.into_boxed_slice() }
    }

    /// Hints that the primary bucket of `hash` is read soon.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch::read(&self.buckets[self.primary(hash)]);
    }

    /// The first key whose tag is that of `hash`, in the primary bucket or else in the secondary.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<Ref> {
        let bucket = &self.buckets[self.primary(hash)];
        if let Some(slot) = bucket.matching(tag(hash)).next() {
            return Some(Ref(bucket.refs[slot]));
        }
        if bucket.overflow() == 0 {
            return None;
        }
        let bucket = &self.buckets[self.secondary(hash)];
        bucket.matching(tag(hash)).next().map(|slot| Ref(bucket.refs[slot]))
    }

    /// The key of this hash that `verify` accepts.
    #[inline]
    pub fn find(&self, hash: u64, verify: impl Fn(Ref) -> bool) -> Option<Ref> {
        let tag = tag(hash);
        let within = |bucket: &Bucket| {
            bucket
                .matching(tag)
                .filter(|&slot| bucket.tag(slot) == tag)
                .map(|slot| Ref(bucket.refs[slot]))
                .find(|&r| verify(r))
        };
        let primary = &self.buckets[self.primary(hash)];
        match within(primary) {
            None if primary.overflow() != 0 => within(&self.buckets[self.secondary(hash)]),
            found => found,
        }
    }

    /// Adds a key. When both of its buckets are full, one key of theirs is moved to that key's other
    /// bucket; `hash_of` gives the hash of a key in the index. `false`, and no key added, when none
    /// of them can move: at the full load that is one insertion in some 10^11.
    pub fn insert(&mut self, hash: u64, reference: Ref, hash_of: impl Fn(Ref) -> u64) -> bool {
        let (primary, secondary) = (self.primary(hash), self.secondary(hash));
        let tag = tag(hash);
        if self.buckets[primary].put(tag, reference.0) {
            return true;
        }
        if self.buckets[secondary].put(tag, reference.0) {
            self.buckets[primary].change_overflow(1);
            return true;
        }
        if let Some(slot) = self.make_room(primary, &hash_of) {
            self.buckets[primary].set(slot, tag, reference.0);
            return true;
        }
        if let Some(slot) = self.make_room(secondary, &hash_of) {
            self.buckets[secondary].set(slot, tag, reference.0);
            self.buckets[primary].change_overflow(1);
            return true;
        }
        false
    }

    /// Copies one key of a full bucket to that key's other bucket. The caller then overwrites the
    /// slot given.
    #[cold]
    fn make_room(&mut self, bucket: usize, hash_of: &impl Fn(Ref) -> u64) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.move_away(bucket, slot, hash_of))
    }

    fn move_away(&mut self, from: usize, slot: usize, hash_of: &impl Fn(Ref) -> u64) -> bool {
        let reference = self.buckets[from].refs[slot];
        let hash = hash_of(Ref(reference));
        let (primary, secondary) = (self.primary(hash), self.secondary(hash));
        let (to, overflow) = if primary == from { (secondary, 1) } else { (primary, -1) };
        if !self.buckets[to].put(tag(hash), reference) {
            return false;
        }
        self.buckets[primary].change_overflow(overflow);
        true
    }

    /// Removes a key. `false` when it is not there.
    pub fn remove(&mut self, hash: u64, reference: Ref) -> bool {
        let (primary, secondary) = (self.primary(hash), self.secondary(hash));
        if self.buckets[primary].take(tag(hash), reference.0) {
            return true;
        }
        if self.buckets[secondary].take(tag(hash), reference.0) {
            self.buckets[primary].change_overflow(-1);
            return true;
        }
        false
    }

    /// Address and length in bytes of its memory.
    pub fn memory(&self) -> (usize, usize) {
        (self.buckets.as_ptr().addr(), size_of_val(&*self.buckets))
    }

    /// From the upper half of the hash, reduced to the number of buckets by multiplication.
    #[inline(always)]
    fn primary(&self, hash: u64) -> usize {
        self.reduce((hash >> 32) as u32)
    }

    /// From the lower half.
    #[inline(always)]
    fn secondary(&self, hash: u64) -> usize {
        self.reduce(hash as u32)
    }

    #[inline(always)]
    fn reduce(&self, half: u32) -> usize {
        ((u64::from(half) * self.buckets.len() as u64) >> 32) as usize
    }

    /// How many keys and overflow counts there are: reads the whole index.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, usize) {
        let keys = |b: &Bucket| (0..SLOTS).filter(|&s| b.tag(s) != 0).count();
        (
            self.buckets.iter().map(keys).sum(),
            self.buckets.iter().map(|b| usize::from(b.overflow())).sum(),
        )
    }
}

/// The tag of a hash, never 0. Both halves are in it: the buckets are chosen by the upper bits of
/// one half each, and in whichever bucket a key lives, the other half still tells it apart.
#[inline(always)]
fn tag(hash: u64) -> u16 {
    ((hash ^ (hash >> 32)) as u16).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::key::split_mix;

    fn forward(i: u32) -> Ref {
        Ref::new(i, Direction::Forward)
    }

    #[test]
    fn a_ref_keeps_index_and_direction() {
        for direction in [Direction::Forward, Direction::Reply] {
            let r = Ref::new(0x7fff_fffe, direction);
            assert_eq!((r.index(), r.direction()), (0x7fff_fffe, direction));
        }
    }

    #[test]
    fn matching_finds_each_slot_and_not_the_overflow_count() {
        for slot in 0..SLOTS {
            let mut bucket = Bucket::EMPTY;
            bucket.change_overflow(0x1234);
            bucket.set(slot, 0x1234, 5);
            assert_eq!(bucket.matching(0x1234).collect::<Vec<_>>(), [slot]);
            assert_eq!(bucket.overflow(), 0x1234);
            assert_eq!(bucket.tag(slot), 0x1234);
        }
        let mut full = Bucket::EMPTY;
        for i in 0..SLOTS {
            assert!(full.put(7, i as u32));
        }
        assert!(!full.put(7, 99));
        let mut slots: Vec<_> = full.matching(7).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..SLOTS).collect::<Vec<_>>());
        assert_eq!(full.matching(8).next(), None);
    }

    #[test]
    fn the_first_match_is_exact_when_neighbours_differ_by_one() {
        let mut bucket = Bucket::EMPTY;
        for (slot, tag) in [(0, 8), (1, 9), (2, 8), (3, 9), (4, 9), (5, 8)] {
            bucket.set(slot, tag, 0);
        }
        for tag in [8, 9] {
            let first = bucket.matching(tag).next().unwrap();
            assert_eq!(bucket.tag(first), tag);
        }
        assert_eq!(bucket.matching(7).next(), None);
    }

    #[test]
    fn filled_to_its_load_and_emptied_again() {
        let n = 100_000;
        let mut state = 3;
        let hashes: Vec<u64> = (0..n).map(|_| split_mix(&mut state)).collect();
        let mut index = Index::new(n, |_, _| ());
        for (i, &hash) in hashes.iter().enumerate() {
            assert!(index.insert(hash, forward(i as u32), |r| hashes[r.index() as usize]), "{i}");
        }
        let (keys, overflow) = index.census();
        assert_eq!(keys, n);
        assert!(overflow > 0 && overflow < n / 10, "{overflow} keys in their secondary bucket");
        for (i, &hash) in hashes.iter().enumerate() {
            let r = forward(i as u32);
            assert_eq!(index.find(hash, |found| found == r), Some(r));
            assert!(index.candidate(hash).is_some());
        }
        for (i, &hash) in hashes.iter().enumerate() {
            assert!(index.remove(hash, forward(i as u32)));
            assert!(!index.remove(hash, forward(i as u32)));
        }
        assert_eq!(index.census(), (0, 0));
    }

    #[test]
    fn refuses_when_nothing_can_move() {
        let mut index = Index::new(1, |_, _| ());
        // All keys have the same two buckets: 20 fit, then none.
        let hash = 0x0000_0000_ffff_ffff;
        for i in 0..20 {
            assert!(index.insert(hash, forward(i), |_| hash));
        }
        assert!(!index.insert(hash, forward(20), |_| hash));
        assert_eq!(index.census(), (20, 10));
        assert!(index.remove(hash, forward(3)));
        assert!(index.insert(hash, forward(20), |_| hash));
        assert_eq!(index.find(hash, |r| r == forward(20)), Some(forward(20)));
    }

    #[test]
    fn makes_room_in_the_secondary_when_the_primary_is_stuck() {
        let mut index = Index::new(1, |_, _| ());
        let stuck = 0;
        let new = 0x0000_0000_ffff_ffff;
        // The secondary is full of keys that are there at home; one of them has another place.
        let home = 0xffff_ffff_ffff_ffff;
        let movable = 0xffff_ffff_8000_0000;
        assert_eq!(index.primary(new), index.primary(stuck));
        assert_eq!(index.primary(stuck), index.secondary(stuck));
        assert_eq!(index.primary(movable), index.secondary(new));
        let hash_of = |r: Ref| match r.index() {
            0..10 => stuck,
            15 => movable,
            10..20 => home,
            _ => new,
        };
        for i in 0..21 {
            assert!(index.insert(hash_of(forward(i)), forward(i), hash_of), "{i}");
        }
        assert_eq!(index.census(), (21, 2));
        for i in 0..21 {
            let r = forward(i);
            assert_eq!(index.find(hash_of(r), |found| found == r), Some(r), "{i}");
        }
        assert!(!index.insert(new, forward(21), hash_of));
    }

    #[test]
    fn makes_room_by_moving_a_key_to_its_other_bucket() {
        let mut index = Index::new(1, |_, _| ());
        let last = index.buckets.len() - 1;
        let (movable, fixed) = (0x0000_0000_8000_0000, 0x0000_0000_ffff_ffff);
        assert!(index.secondary(movable) != last && index.secondary(fixed) == last);
        let hash_of = |r: Ref| if r.index() == 4 { movable } else { fixed };
        for i in 0..20 {
            assert!(index.insert(hash_of(forward(i)), forward(i), hash_of));
        }
        assert!(index.insert(fixed, forward(20), hash_of));
        assert_eq!(index.census(), (21, 11));
        for i in 0..21 {
            let r = forward(i);
            assert_eq!(index.find(hash_of(r), |found| found == r), Some(r), "{i}");
        }
    }
}
