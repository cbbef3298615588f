//! The receiving side of one stream of the peer: which datagrams are new, which are missing, and when
//! to ask for them.
//!
//! What comes is taken at once, in whatever order. Behind the highest sequence a window of [`WINDOW`]
//! is remembered. A gap in it is asked for [`FIRST_MS`] after it was found, since it may only be
//! reordered, and again after [`AGAIN_MS`], doubled each time up to [`LONGEST_MS`] as long as
//! nothing comes of it. What is neither to be had any more nor in the window is lost, and the caller
//! then asks for all sessions of the stream anew.

use super::control::{Ack, Nak};

/// How many sequences are remembered.
pub const WINDOW: u64 = 4096;
/// How long after it was found a gap is asked for first, in milliseconds.
pub const FIRST_MS: u32 = 1;
/// When it is asked for again.
pub const AGAIN_MS: u32 = 10;
/// The longest time between two requests.
pub const LONGEST_MS: u32 = 100;
/// The most datagrams one [`Nak`] asks for.
pub const MAX_ASKED: u16 = 64;
/// The most [`Nak`]s of one round of requests.
pub const MAX_NAKS: u8 = 16;

/// No stream gets so far: whoever says so is not believed.
const MAX_SEQUENCE: u64 = 1 << 62;
const WORDS: usize = WINDOW as usize / 64;

/// What a sequence number says about its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the highest yet: to be applied.
    New,
    /// It fills a gap: to be applied.
    Late,
    /// It has come before.
    Duplicate,
    /// It is too old to tell, or was given up.
    TooOld,
}

impl Taken {
    /// Whether the datagram is to be applied.
    pub const fn is_fresh(self) -> bool {
        matches!(self, Taken::New | Taken::Late)
    }
}

/// Requests that are being made.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Where to look for the next gap.
    next: u64,
    /// Up to and with which sequence.
    end: u64,
    /// How many requests are left.
    left: u8,
}

/// The receiving side of one stream of the peer.
#[derive(Clone, Debug)]
pub struct Receiver {
    worker: u8,
    /// Everything up to and with this has come or is given up. Not below `highest` − [`WINDOW`].
    contiguous: u64,
    /// The highest sequence that is known of.
    highest: u64,
    /// Which of the [`WINDOW`] sequences up to `highest` have come: bit (sequence modulo window).
    come: [u64; WORDS],
    /// Sequences that were found missing.
    missed: u64,
    /// Something was given up since [`Receiver::lost`].
    lost: bool,
    /// What is missing up to here was asked for.
    asked: u64,
    /// When something was found missing beyond `asked`, and the highest sequence then.
    found: Option<(u32, u64)>,
    /// When to ask again for what was asked for.
    again_at: u32,
    /// How long was waited for that, in milliseconds.
    wait: u32,
    /// The first gap was filled since the last round.
    moved: bool,
    round: Option<Round>,
}

impl Receiver {
    /// Of the stream of this worker of the peer. `first` is the first sequence that is heard of: that
    /// of the first datagram, or one more than the one in the peer's HELLO. What was before is not
    /// asked for.
    pub const fn begin(worker: u8, first: u64) -> Self {
        let first = if first > MAX_SEQUENCE { MAX_SEQUENCE } else { first };
        let before = first.saturating_sub(1);
        Receiver {
            worker,
            contiguous: before,
            highest: before,
            come: [0; WORDS],
            missed: 0,
            lost: false,
            asked: before,
            found: None,
            again_at: 0,
            wait: AGAIN_MS,
            moved: false,
            round: None,
        }
    }

    /// Takes a datagram with this sequence.
    pub fn take(&mut self, sequence: u64) -> Taken {
        if sequence > MAX_SEQUENCE {
            return Taken::TooOld;
        }
        if sequence > self.highest {
            self.missed += sequence - self.highest - 1;
            self.raise(sequence);
            self.set(sequence);
            return Taken::New;
        }
        if self.highest - sequence >= WINDOW {
            return Taken::TooOld;
        }
        if self.come[word(sequence)] & bit(sequence) != 0 {
            return Taken::Duplicate;
        }
        if sequence <= self.contiguous {
            return Taken::TooOld;
        }
        self.set(sequence);
        Taken::Late
    }

    /// The peer says that this is the last sequence it has sent (in its HELLO): so what is missing at
    /// the end of the stream is found.
    pub fn heard_highest(&mut self, sequence: u64) {
        if sequence > self.highest && sequence <= MAX_SEQUENCE {
            self.missed += sequence - self.highest;
            self.raise(sequence);
        }
    }

    /// The peer says that nothing up to and with this sequence is to be had any more.
    pub fn gone(&mut self, through: u64) {
        if through <= MAX_SEQUENCE {
            self.heard_highest(through);
            self.give_up(through);
        }
    }

    /// The next request for what is missing, if there is one to be sent now. The caller sends all that
    /// there are, at most [`MAX_NAKS`] at a time.
    pub fn missing(&mut self, now: u32) -> Option<Nak> {
        if !self.has_gap() {
            (self.found, self.round) = (None, None);
            return None;
        }
        let round = match self.round {
            Some(round) => round,
            None => self.next_round(now)?,
        };
        let gap = self.find(round.next.max(self.contiguous + 1), round.end, false);
        let Some(from) = gap.filter(|_| round.left > 0) else {
            // All was asked for, or all up to where there were too many gaps.
            self.asked = self.asked.max(gap.map_or(round.end, |from| from - 1));
            self.round = None;
            return None;
        };
        let end = round.end.min(from + u64::from(MAX_ASKED) - 1);
        let next = self.find(from, end, true).unwrap_or(end + 1);
        self.round = Some(Round { next, left: round.left - 1, ..round });
        Some(Nak { worker: self.worker, from, count: (next - from) as u16 })
    }

    /// Whether something is missing.
    pub const fn has_gap(&self) -> bool {
        self.contiguous < self.highest
    }

    /// Everything up to and with this sequence has come or is given up.
    pub const fn contiguous(&self) -> u64 {
        self.contiguous
    }

    /// The highest sequence that is known of.
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// What the peer is told of its stream now and then.
    pub const fn ack(&self) -> Ack {
        Ack { worker: self.worker, contiguous: self.contiguous, highest: self.highest }
    }

    /// How many sequences were found missing up to now, whether or not they came later.
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether something was given up since this was asked last. The caller then wants all buckets
    /// anew.
    pub const fn lost(&mut self) -> bool {
        std::mem::replace(&mut self.lost, false)
    }

    /// The round of requests that begins now, if it is time for one.
    fn next_round(&mut self, now: u32) -> Option<Round> {
        if std::mem::replace(&mut self.moved, false) && self.wait > AGAIN_MS {
            // Asking helps: it need not wait as long as it did when nothing came of it.
            self.wait = AGAIN_MS;
            self.again_at = earlier(self.again_at, now.wrapping_add(AGAIN_MS));
        }
        let first = self.contiguous + 1;
        let is_asked = self.asked >= first;
        if is_asked && is_past(now, self.again_at) {
            self.wait = LONGEST_MS.min(self.wait * 2);
            self.again_at = now.wrapping_add(self.wait);
            return Some(Round { next: first, end: self.asked, left: MAX_NAKS });
        }
        // What was never asked for does not wait for what was.
        let unasked = first.max(self.asked + 1);
        if self.found.is_none() {
            self.find(unasked, self.highest, false)?;
            self.found = Some((now, self.highest));
        }
        let (_, end) = self.found.take_if(|(at, _)| now.wrapping_sub(*at) >= FIRST_MS)?;
        if !is_asked {
            self.wait = AGAIN_MS;
            self.again_at = now.wrapping_add(AGAIN_MS);
        }
        Some(Round { next: unasked, end, left: MAX_NAKS })
    }

    /// `sequence` is the highest now.
    fn raise(&mut self, sequence: u64) {
        if sequence - self.highest >= WINDOW {
            self.come.fill(0);
        } else {
            for new in self.highest + 1..=sequence {
                self.come[word(new)] &= !bit(new);
            }
        }
        self.highest = sequence;
        self.give_up(sequence.saturating_sub(WINDOW));
    }

    /// Does not wait any more for what is missing up to and with this sequence.
    fn give_up(&mut self, through: u64) {
        if through > self.contiguous {
            self.lost = true;
            self.contiguous = through;
            self.advance();
        }
    }

    fn set(&mut self, sequence: u64) {
        self.come[word(sequence)] |= bit(sequence);
        if sequence == self.contiguous + 1 {
            self.advance();
        }
    }

    /// Moves on to the first gap.
    fn advance(&mut self) {
        let gap = self.find(self.contiguous + 1, self.highest, false);
        self.contiguous = gap.map_or(self.highest, |gap| gap - 1);
        self.moved = true;
    }

    /// The first sequence in `from..=end`, which is in the window, that has come, or has not.
    fn find(&self, from: u64, end: u64, come: bool) -> Option<u64> {
        let mut sequence = from;
        while sequence <= end {
            let bits = self.come[word(sequence)];
            let wanted = (if come { bits } else { !bits }) >> (sequence % 64);
            if wanted != 0 {
                let found = sequence + u64::from(wanted.trailing_zeros());
                return (found <= end).then_some(found);
            }
            sequence = (sequence / 64 + 1) * 64;
        }
        None
    }
}

const fn word(sequence: u64) -> usize {
    (sequence / 64) as usize % WORDS
}

const fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

const fn is_past(now: u32, at: u32) -> bool {
    now.wrapping_sub(at) as i32 >= 0
}

const fn earlier(a: u32, b: u32) -> u32 {
    if is_past(a, b) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naks(receiver: &mut Receiver, now: u32) -> Vec<(u64, u16)> {
        std::iter::from_fn(|| receiver.missing(now)).map(|nak| (nak.from, nak.count)).collect()
    }

    #[test]
    fn in_order() {
        let mut receiver = Receiver::begin(3, 1);
        for sequence in 1..10_000 {
            assert_eq!(receiver.take(sequence), Taken::New);
            assert_eq!(receiver.take(sequence), Taken::Duplicate);
            assert!(!receiver.has_gap() && receiver.missing(0).is_none());
        }
        assert_eq!(receiver.ack(), Ack { worker: 3, contiguous: 9_999, highest: 9_999 });
        assert_eq!(receiver.take(9_999 - 4095), Taken::Duplicate);
        assert_eq!(receiver.take(9_999 - 4096), Taken::TooOld);
        assert_eq!((receiver.missed(), receiver.lost()), (0, false));
    }

    #[test]
    fn joining_in_mid_stream() {
        let mut receiver = Receiver::begin(0, 500);
        assert_eq!(receiver.take(500), Taken::New);
        assert_eq!(receiver.take(499), Taken::TooOld);
        assert_eq!((receiver.has_gap(), receiver.contiguous(), receiver.missed()), (false, 500, 0));
        // Of a stream without datagrams yet.
        let mut receiver = Receiver::begin(0, 1);
        receiver.heard_highest(0);
        assert!(!receiver.has_gap());
        assert_eq!(receiver.take(0), Taken::TooOld);
        assert_eq!(receiver.take(1), Taken::New);
    }

    #[test]
    fn a_gap_is_asked_for_and_again_less_and_less_often() {
        let mut receiver = Receiver::begin(0, 1);
        receiver.take(1);
        receiver.take(4);
        let start = u32::MAX - 5;
        let mut asked = Vec::new();
        for ms in 0..400u32 {
            let now = start.wrapping_add(ms);
            if naks(&mut receiver, now) == [(2, 2)] {
                asked.push(ms);
            }
        }
        assert_eq!(asked, [1, 11, 31, 71, 151, 251, 351]);
        assert_eq!(receiver.take(3), Taken::Late);
        assert_eq!((receiver.contiguous(), receiver.missed()), (1, 2));
        assert_eq!(receiver.take(2), Taken::Late);
        assert_eq!((receiver.contiguous(), receiver.has_gap()), (4, false));
        assert_eq!(naks(&mut receiver, start.wrapping_add(1000)), []);
    }

    #[test]
    fn what_is_reordered_is_not_asked_for() {
        let mut receiver = Receiver::begin(0, 1);
        for now in 0..1000 {
            let first = u64::from(now) * 2 + 1;
            receiver.take(first + 1);
            assert_eq!(naks(&mut receiver, now), []);
            receiver.take(first);
            assert_eq!(naks(&mut receiver, now), []);
        }
    }

    #[test]
    fn several_gaps_and_newer_ones() {
        let mut receiver = Receiver::begin(0, 1);
        for sequence in [1, 3, 5, 6, 200] {
            receiver.take(sequence);
        }
        assert_eq!(naks(&mut receiver, 0), []);
        assert_eq!(
            naks(&mut receiver, 1),
            [(2, 1), (4, 1), (7, 64), (71, 64), (135, 65 - 1), (199, 1)]
        );
        // A newer gap is asked for before the older ones are again.
        receiver.take(202);
        assert_eq!(naks(&mut receiver, 2), []);
        assert_eq!(naks(&mut receiver, 3), [(201, 1)]);
        for sequence in 7..200 {
            receiver.take(sequence);
        }
        assert_eq!(naks(&mut receiver, 10), []);
        assert_eq!(naks(&mut receiver, 11), [(2, 1), (4, 1), (201, 1)]);
        // What came of it makes the next request come sooner.
        for now in 12..200 {
            naks(&mut receiver, now);
        }
        receiver.take(2);
        let next = (200..).find(|now| !naks(&mut receiver, *now).is_empty());
        assert!(next.is_some_and(|now| now <= 211), "{next:?}");
    }

    #[test]
    fn a_round_is_bounded() {
        let mut receiver = Receiver::begin(0, 1);
        for sequence in (2..=200).step_by(2) {
            receiver.take(sequence);
        }
        naks(&mut receiver, 0);
        let mut all = Vec::new();
        for now in 1..20 {
            let asked = naks(&mut receiver, now);
            assert!(asked.len() <= usize::from(MAX_NAKS));
            all.extend(asked.iter().map(|(from, _)| *from));
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, (1..200).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn the_end_of_the_stream_is_missing() {
        let mut receiver = Receiver::begin(0, 1);
        receiver.take(1);
        receiver.heard_highest(3);
        receiver.heard_highest(2);
        naks(&mut receiver, 0);
        assert_eq!(naks(&mut receiver, 1), [(2, 2)]);
        assert_eq!(
            (receiver.missed(), receiver.take(3), receiver.take(2)),
            (2, Taken::Late, Taken::Late)
        );
        assert!(!receiver.has_gap());
    }

    #[test]
    fn what_is_gone_is_lost() {
        let mut receiver = Receiver::begin(0, 1);
        for sequence in [1, 4, 7] {
            receiver.take(sequence);
        }
        receiver.gone(2);
        assert_eq!((receiver.contiguous(), receiver.lost(), receiver.lost()), (2, true, false));
        assert_eq!(receiver.take(2), Taken::TooOld);
        receiver.gone(3);
        assert_eq!((receiver.contiguous(), receiver.lost()), (4, true));
        receiver.gone(4);
        assert!(!receiver.lost());
        receiver.gone(9);
        assert_eq!((receiver.contiguous(), receiver.highest(), receiver.lost()), (9, 9, true));
    }

    #[test]
    fn what_leaves_the_window_is_lost() {
        let mut receiver = Receiver::begin(0, 1);
        receiver.take(1);
        for sequence in 3..=2 + WINDOW {
            receiver.take(sequence);
        }
        assert_eq!((receiver.contiguous(), receiver.lost()), (2 + WINDOW, true));
        receiver.take(1 << 40);
        assert_eq!((receiver.contiguous(), receiver.lost()), ((1 << 40) - WINDOW, true));
        assert_eq!(receiver.take((1 << 40) - WINDOW + 1), Taken::Late);
    }

    #[test]
    fn no_number_is_too_much() {
        for first in [0, 1, MAX_SEQUENCE, u64::MAX] {
            let mut receiver = Receiver::begin(0, first);
            for sequence in [0, 1, 5000, MAX_SEQUENCE - 1, MAX_SEQUENCE, u64::MAX] {
                receiver.take(sequence);
                receiver.heard_highest(sequence);
                for now in 0..5 {
                    naks(&mut receiver, now);
                }
                receiver.gone(sequence);
            }
            assert!(receiver.highest() <= MAX_SEQUENCE);
        }
    }
}
