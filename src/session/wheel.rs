//! A hierarchical timing wheel whose lists run through the entries themselves.
//!
//! Three levels of 256, 256 and 64 slots with ticks of 128 ms, 32.8 s and 2.3 h: deadlines up to
//! 149 h ahead find their slot, later ones the farthest. Since each level is a range of bits of
//! the millisecond clock and that clock wraps on a multiple of the largest level, wrapping needs
//! no care anywhere.
//!
//! The wheel only proposes: [`Wheel::next_due`] takes an entry out whose slot has come due, and
//! the caller, who knows the true deadline, ends it or files it again. So a packet need not touch
//! the wheel, and moving an entry to a finer level is the same operation as a deadline that has
//! moved. An entry is proposed at most one tick (128 ms) after the deadline it was filed with, plus
//! the time until the next call.
//!
//! Every operation is O(1), `next_due` up to a bounded number of empty ticks.

/// Log2 of the finest tick in milliseconds.
const TICK_BITS: u32 = 7;
/// The finest tick, milliseconds.
pub const TICK: u32 = 1 << TICK_BITS;
/// Per level: lowest bit of the clock it looks at, and the number of its slots.
const LEVELS: [Level; 3] = [
    Level { shift: TICK_BITS, slots: 256, base: 0 },
    Level { shift: TICK_BITS + 8, slots: 256, base: 256 },
    Level { shift: TICK_BITS + 16, slots: 64, base: 512 },
];
const SLOT_COUNT: usize = 576;
/// Deadlines farther away than this, in milliseconds, are filed here.
const HORIZON: u32 = (1 << (TICK_BITS + 22)) - TICK;

/// No entry.
pub const NIL: u32 = u32::MAX;
/// Marks a `prev` link as a slot number.
const SLOT: u32 = 1 << 31;

struct Level {
    shift: u32,
    slots: u32,
    base: u32,
}

impl Level {
    /// The slot that `time` falls into.
    #[inline(always)]
    const fn slot(&self, time: u32) -> u32 {
        self.base + ((time >> self.shift) & (self.slots - 1))
    }

    /// Whether one of its ticks begins at `time`.
    #[inline(always)]
    const fn begins(&self, time: u32) -> bool {
        time & ((1 << self.shift) - 1) == 0
    }
}

/// The entries that a wheel links: two words of each, by index below 2^31.
pub trait Links {
    /// The next link.
    fn next(&self, index: u32) -> u32;
    /// Sets the next link.
    fn set_next(&mut self, index: u32, link: u32);
    /// The previous link.
    fn prev(&self, index: u32) -> u32;
    /// Sets the previous link.
    fn set_prev(&mut self, index: u32, link: u32);
    /// Hints that the entry is read soon.
    fn prefetch(&self, index: u32);
}

/// The wheel. All times are milliseconds, wrapping.
pub struct Wheel {
    heads: Box<[u32; SLOT_COUNT]>,
    /// The tick that is being worked off, a multiple of [`TICK`].
    clock: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

impl Wheel {
    /// What it takes on the heap, bytes.
    pub const MEMORY_BYTES: usize = size_of::<[u32; SLOT_COUNT]>();

    /// An empty wheel at time 0; see [`Wheel::restart`].
    pub fn new() -> Self {
        Wheel { heads: Box::new([NIL; SLOT_COUNT]), clock: 0 }
    }

    /// Puts the clock to `now`. Only for a wheel without entries.
    #[inline]
    pub fn restart(&mut self, now: u32) {
        self.clock = now & !(TICK - 1);
    }

    /// Files an entry that is in no list. `deadline` may have passed; it is then due with the next
    /// tick. It must be less than 2^31 ms from the wheel's clock.
    #[inline]
    pub fn file<L: Links + ?Sized>(&mut self, links: &mut L, index: u32, deadline: u32) {
        let slot = self.slot_for(deadline);
        let head = &mut self.heads[slot as usize];
        links.set_next(index, *head);
        links.set_prev(index, SLOT | slot);
        if *head != NIL {
            links.set_prev(*head, index);
        }
        *head = index;
    }

    /// Takes an entry out of its list.
    #[inline]
    pub fn unlink<L: Links + ?Sized>(&mut self, links: &mut L, index: u32) {
        let (next, prev) = (links.next(index), links.prev(index));
        if prev & SLOT == 0 {
            links.set_next(prev, next);
        } else {
            self.heads[(prev & !SLOT) as usize] = next;
        }
        if next != NIL {
            links.set_prev(next, prev);
        }
    }

    /// Takes out the next entry whose slot is due at `now`, advancing the clock over at most
    /// `*ticks` empty ticks, which are subtracted. `None` when nothing more is due or the ticks are
    /// used up.
    ///
    /// The caller files the entry again if `now` is before its deadline.
    #[inline]
    pub fn next_due<L: Links + ?Sized>(
        &mut self,
        links: &mut L,
        now: u32,
        ticks: &mut u32,
    ) -> Option<u32> {
        loop {
            // A slot worked off stays empty until the clock moves on: what is filed meanwhile is
            // due at least one tick of that level later (and less than a turn).
            for level in LEVELS.iter().rev() {
                if !level.begins(self.clock) {
                    continue;
                }
                let index = self.heads[level.slot(self.clock) as usize];
                if index != NIL {
                    let next = links.next(index);
                    if next != NIL {
                        links.prefetch(next);
                    }
                    self.unlink(links, index);
                    return Some(index);
                }
            }
            if *ticks == 0 || (now.wrapping_sub(self.clock) as i32) < TICK as i32 {
                return None;
            }
            *ticks -= 1;
            self.clock = self.clock.wrapping_add(TICK);
        }
    }

    /// Whether no entry is filed: looks at every slot.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.heads.iter().all(|&head| head == NIL)
    }

    /// The slot that comes due at the first tick not before `deadline`, or on its way there.
    #[inline]
    fn slot_for(&self, deadline: u32) -> u32 {
        let due = deadline.wrapping_add(TICK - 1) & !(TICK - 1);
        let ahead = (due.wrapping_sub(self.clock) as i32).clamp(TICK as i32, HORIZON as i32) as u32;
        let due = self.clock.wrapping_add(ahead);
        let level = if ahead >> LEVELS[1].shift == 0 {
            &LEVELS[0]
        } else if ahead >> LEVELS[2].shift == 0 {
            &LEVELS[1]
        } else {
            &LEVELS[2]
        };
        level.slot(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Entries of a test: links and true deadlines.
    #[derive(Default)]
    struct Entries {
        links: Vec<(u32, u32)>,
    }

    impl Links for Entries {
        fn next(&self, index: u32) -> u32 {
            self.links[index as usize].0
        }
        fn set_next(&mut self, index: u32, link: u32) {
            self.links[index as usize].0 = link;
        }
        fn prev(&self, index: u32) -> u32 {
            self.links[index as usize].1
        }
        fn set_prev(&mut self, index: u32, link: u32) {
            self.links[index as usize].1 = link;
        }
        fn prefetch(&self, _: u32) {}
    }

    fn filed(start: u32, deadlines: &[u32]) -> (Wheel, Entries) {
        let mut wheel = Wheel::new();
        wheel.restart(start);
        let mut entries = Entries { links: vec![(0, 0); deadlines.len()] };
        for (i, &ahead) in deadlines.iter().enumerate() {
            wheel.file(&mut entries, i as u32, start.wrapping_add(ahead));
        }
        (wheel, entries)
    }

    #[test]
    fn an_entry_is_proposed_in_its_tick() {
        let (mut wheel, mut entries) = filed(0, &[1000]);
        let mut ticks = 100;
        assert_eq!(wheel.next_due(&mut entries, 1023, &mut ticks), None);
        assert_eq!(ticks, 100 - 1023 / TICK);
        assert_eq!(wheel.next_due(&mut entries, 1024, &mut ticks), Some(0));
        assert_eq!(wheel.next_due(&mut entries, 1024, &mut ticks), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_with_the_next_tick() {
        let (mut wheel, mut entries) = filed(5000, &[u32::MAX - 2000]);
        assert_eq!(wheel.next_due(&mut entries, 5000, &mut 9), None);
        assert_eq!(wheel.next_due(&mut entries, 5128, &mut 9), Some(0));
    }

    #[test]
    fn unlinking_works_at_head_middle_and_tail() {
        for gone in 0..3 {
            let (mut wheel, mut entries) = filed(0, &[10, 20, 30]);
            wheel.unlink(&mut entries, gone);
            let mut rest: Vec<u32> =
                std::iter::from_fn(|| wheel.next_due(&mut entries, 128, &mut 9)).collect();
            rest.sort_unstable();
            assert_eq!(rest, (0..3).filter(|&i| i != gone).collect::<Vec<_>>());
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn an_entry_moves_through_the_levels() {
        // Due in 4 h: filed in the third level, then the second, then the first.
        let deadline = 4 * 3_600_000;
        let (mut wheel, mut entries) = filed(0, &[deadline]);
        let mut visits = Vec::new();
        let mut ticks = u32::MAX;
        for now in (0..=deadline + TICK).step_by(TICK as usize) {
            while let Some(i) = wheel.next_due(&mut entries, now, &mut ticks) {
                visits.push(now);
                if now < deadline {
                    wheel.file(&mut entries, i, deadline);
                }
            }
        }
        assert_eq!(visits, [1 << 23, deadline >> 15 << 15, deadline]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn beyond_the_horizon_an_entry_waits_in_the_farthest_slot() {
        let deadline = 10 * 86_400_000;
        let (mut wheel, mut entries) = filed(0, &[deadline]);
        let (mut visits, mut now) = (0, 0);
        while wheel.next_due(&mut entries, now, &mut u32::MAX.clone()).is_none() || now < deadline {
            visits += u32::from(wheel.is_empty());
            if wheel.is_empty() {
                wheel.file(&mut entries, 0, deadline);
            }
            now += 1 << 20;
        }
        assert!(wheel.is_empty() && now - deadline <= 1 << 20 && visits < 10, "{visits} visits");
    }

    /// A time span for any of the levels.
    fn span() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..300, 0u32..40_000, 0u32..10_000_000, 0u32..50_000_000]
    }

    proptest! {
        /// Never early, and late by less than a tick when called at every tick; also over the wrap
        /// of the clock, and with entries that are refiled and unlinked in between.
        #[test]
        fn ends_on_time(
            start in prop_oneof![any::<u32>(), Just(u32::MAX - 1000), Just(0u32.wrapping_sub(1 << 23))],
            mut ahead in prop::collection::vec(span(), 1..40),
            changes in prop::collection::vec((span(), 0usize..40, span()), 0..20),
        ) {
            let (mut wheel, mut entries) = filed(start, &ahead);
            let mut changes: Vec<_> =
                changes.into_iter().filter(|change| change.1 < ahead.len()).collect();
            changes.sort_unstable();
            changes.reverse();
            let mut left = ahead.len();
            let mut ended = vec![false; ahead.len()];
            let mut elapsed = 0u32;
            while left > 0 {
                let now = start.wrapping_add(elapsed);
                while let Some(i) = wheel.next_due(&mut entries, now, &mut u32::MAX.clone()) {
                    let deadline = ahead[i as usize];
                    if elapsed < deadline {
                        wheel.file(&mut entries, i, start.wrapping_add(deadline));
                        continue;
                    }
                    prop_assert!(elapsed < deadline + 2 * TICK, "due {} at {}", deadline, elapsed);
                    ended[i as usize] = true;
                    left -= 1;
                }
                while let Some(&(at, i, new)) = changes.last() && at <= elapsed {
                    changes.pop();
                    if !ended[i] {
                        wheel.unlink(&mut entries, i as u32);
                        ahead[i] = elapsed + new;
                        wheel.file(&mut entries, i as u32, now.wrapping_add(new));
                    }
                }
                elapsed += TICK;
            }
            prop_assert!(wheel.is_empty());
        }
    }
}
