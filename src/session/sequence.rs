//! How far the stream of each side of a TCP connection has come, as the middle sees it, and which
//! numbers may belong to it.
//!
//! An [`Entry`] has a **mark** for each side, in its own numbering (before any shift): the highest
//! number that the *other* side has acknowledged, which is what that one accepts next. So whoever
//! forges segments of one side only does not move the mark by which they are judged. In one-way modes
//! the server's acknowledgements are not seen: the client's mark is the number after the last byte
//! that came from it. A FIN moves its sender's own mark to its end. The established path moves a mark
//! with one comparison ([`Entry::advance`]). Numbers wrap, so "ahead" and "behind" mean half of the
//! number space each; a window is at most 1 GiB (RFC 7323 2.3), a quarter of it.
//!
//! A mark is what the middle can know: a sender is ahead of it by what it has in flight, and
//! acknowledgements that are lost behind the middle make it run ahead of the receiver. So a number is
//! judged by its distance from the mark ([`near`], [`Scales::window`]) and only the exact one is taken
//! for certain.

use super::entry::{Direction, Entry};
use crate::wire::flow::Address;

/// How far the mark of a side moves with one segment of an established connection without further
/// proof, and the least window that is granted to one: 16 MiB, above what operating systems use
/// unless told otherwise.
pub const STRIDE: u32 = 1 << 24;
/// The largest shift of a window (RFC 7323 2.3).
pub const MAX_SCALE: u8 = 14;
/// In place of a window scale: nothing is known of that side's numbers; its next segment tells them.
const UNKNOWN: u8 = 15;

/// The window scales of both sides, or that nothing is known of a side's numbers. One byte: the
/// client's in the lower half, the server's in the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales(u8);

impl Scales {
    /// Nothing is known of either side: of a session that was not opened by a SYN seen here.
    pub const UNKNOWN: Scales = Scales(UNKNOWN << 4 | UNKNOWN);

    /// Both marks are right, and windows may be as large as they get.
    pub const WIDEST: Scales = Scales(MAX_SCALE << 4 | MAX_SCALE);

    /// As a number.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The scales of a number; every one has a meaning.
    pub const fn from_bits(bits: u8) -> Self {
        Scales(bits)
    }

    /// Sets the scale of the side that sends in `direction`; its mark is then taken to be right.
    /// Above [`MAX_SCALE`] counts as that.
    pub fn set(&mut self, direction: Direction, scale: u8) {
        let scale = scale.min(MAX_SCALE);
        self.0 = match direction {
            Direction::Forward => self.0 & 0xf0 | scale,
            Direction::Reply => self.0 & 0x0f | scale << 4,
        };
    }

    /// Forgets the scale of the side that sends in `direction`: nothing is known of its numbers.
    pub fn forget(&mut self, direction: Direction) {
        self.0 = match direction {
            Direction::Forward => self.0 | UNKNOWN,
            Direction::Reply => self.0 | UNKNOWN << 4,
        };
    }

    const fn get(self, direction: Direction) -> u8 {
        match direction {
            Direction::Forward => self.0 & 15,
            Direction::Reply => self.0 >> 4,
        }
    }

    /// Whether the mark of the side that sends in `direction` says something.
    pub const fn known(self, direction: Direction) -> bool {
        self.get(direction) != UNKNOWN
    }

    /// The largest window that the side which sends in `direction` can open, at least [`STRIDE`].
    pub const fn window(self, direction: Direction) -> u32 {
        let scale = self.get(direction);
        let window = 1 << (16 + if scale > MAX_SCALE { MAX_SCALE } else { scale });
        if window < STRIDE { STRIDE } else { window }
    }
}

/// Whether `number` is at most `reach` (up to 1 GiB) before or behind `mark`.
#[inline(always)]
pub const fn near(number: u32, mark: u32, reach: u32) -> bool {
    number.wrapping_sub(mark).wrapping_add(reach) <= 2 * reach
}

/// The later of two numbers that are near each other.
#[inline(always)]
pub const fn later(a: u32, b: u32) -> u32 {
    if (b.wrapping_sub(a) as i32) > 0 { b } else { a }
}

impl<A: Address> Entry<A> {
    /// Moves the mark of the side that sends in `direction` on to `number`, unless that is behind it.
    /// `false`, and nothing moved, when it is far from it: [`super::connection::resume`] then has to
    /// look.
    #[inline(always)]
    pub fn advance(&mut self, direction: Direction, number: u32) -> bool {
        let mark = match direction {
            Direction::Forward => &mut self.forward_end,
            Direction::Reply => &mut self.reply_end,
        };
        if !near(number, *mark, STRIDE) {
            return false;
        }
        *mark = later(*mark, number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reply};
    use proptest::prelude::*;

    #[test]
    fn scales_are_of_each_side() {
        let mut scales = Scales::UNKNOWN;
        assert!(!scales.known(Forward) && !scales.known(Reply));
        assert_eq!(scales.window(Forward), 1 << 30);
        scales.set(Forward, 7);
        assert!(scales.known(Forward) && !scales.known(Reply));
        scales.set(Reply, 200);
        assert!(scales.known(Reply));
        assert_eq!((scales.window(Forward), scales.window(Reply)), (STRIDE, 1 << 30));
        scales.set(Forward, 10);
        assert_eq!((scales.window(Forward), scales.window(Reply)), (1 << 26, 1 << 30));
        scales.set(Forward, 0);
        scales.set(Reply, 9);
        assert_eq!((scales.window(Forward), scales.window(Reply)), (STRIDE, 1 << 25));
    }

    #[test]
    fn near_has_edges() {
        for mark in [0, 1, 1 << 31, u32::MAX] {
            for reach in [0, 1, STRIDE, 1 << 30] {
                assert!(near(mark, mark, reach));
                assert!(near(mark.wrapping_add(reach), mark, reach));
                assert!(near(mark.wrapping_sub(reach), mark, reach));
                assert!(!near(mark.wrapping_add(reach + 1), mark, reach));
                assert!(!near(mark.wrapping_sub(reach + 1), mark, reach));
            }
        }
    }

    proptest! {
        #[test]
        fn the_later_of_two(a: u32, ahead in 1u32..1 << 31) {
            let b = a.wrapping_add(ahead);
            prop_assert_eq!(later(a, b), b);
            prop_assert_eq!(later(b, a), b);
            prop_assert_eq!(later(a, a), a);
        }

        #[test]
        fn distance_is_modular(mark: u32, number: u32, reach in 0u32..=1 << 30) {
            let distance = i64::from(number.wrapping_sub(mark) as i32).abs();
            prop_assert_eq!(near(number, mark, reach), distance <= i64::from(reach));
        }
    }
}
