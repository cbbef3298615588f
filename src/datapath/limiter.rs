//! A token bucket: a rate, and how much may come at once.

/// Parts of a token in which the bucket counts, so that rates far below one token a millisecond are
/// exact.
const MICRO: u64 = 1_000_000;

/// How a bucket fills: shared by all buckets of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refill {
    micro_per_ms: u64,
    burst_micro: u64,
}

impl Refill {
    /// `per_second` tokens come in, up to `burst` (at least one).
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self::shared(per_second, burst, 1)
    }

    /// The part of one of `sharers` in a common rate and burst: an equal one, but always a burst of
    /// one token. Parts are cut off at a thousandth of a token per second.
    pub const fn shared(per_second: u32, burst: u32, sharers: u32) -> Self {
        let sharers = if sharers == 0 { 1 } else { sharers as u64 };
        let part = burst as u64 * MICRO / sharers;
        Refill {
            // Per millisecond a thousandth of a token, which is a thousand millionths.
            micro_per_ms: per_second as u64 * (MICRO / 1000) / sharers,
            burst_micro: if part < MICRO { MICRO } else { part },
        }
    }

    /// What a full bucket holds, in millionths of a token.
    #[inline]
    pub const fn full(&self) -> u64 {
        self.burst_micro
    }

    /// What a bucket holds that held `micro` so many milliseconds ago.
    #[inline]
    pub const fn after(&self, micro: u64, elapsed_ms: u32) -> u64 {
        let filled = micro.saturating_add((elapsed_ms as u64).saturating_mul(self.micro_per_ms));
        if filled < self.burst_micro { filled } else { self.burst_micro }
    }

    /// What is left when a token is taken; `None` when there is no whole one.
    #[inline]
    pub const fn take(micro: u64) -> Option<u64> {
        micro.checked_sub(MICRO)
    }
}

/// A token bucket in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    refill: Refill,
    micro: u64,
    last: Option<u32>,
}

impl TokenBucket {
    /// Full, with room for `burst` tokens (at least one), `per_second` coming in.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self::full(Refill::new(per_second, burst))
    }

    /// Full.
    pub const fn full(refill: Refill) -> Self {
        TokenBucket { refill, micro: refill.full(), last: None }
    }

    /// Whether there is a token. `now` in milliseconds, wrapping.
    #[inline]
    pub fn has(&mut self, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.last.unwrap_or(now));
        self.last = Some(now);
        self.micro = self.refill.after(self.micro, elapsed);
        self.micro >= MICRO
    }

    /// Takes a token if there is one. `now` in milliseconds, wrapping.
    #[inline]
    pub fn take(&mut self, now: u32) -> bool {
        let has = self.has(now);
        if has {
            self.micro -= MICRO;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(2000, 3);
        let now = u32::MAX;
        assert_eq!((0..5).filter(|_| bucket.take(now)).count(), 3);
        // Two tokens a millisecond, across the wrap of the clock.
        assert_eq!((0..5).filter(|_| bucket.take(now.wrapping_add(1))).count(), 2);
        assert_eq!((0..5).filter(|_| bucket.take(now.wrapping_add(1000))).count(), 3);
    }

    #[test]
    fn one_token_in_three_seconds_and_four_thousand_million_in_one() {
        let mut slow = TokenBucket::full(Refill::shared(1, 1, 3));
        assert!(slow.take(0));
        let first = (1..10_000).find(|&now| slow.take(now));
        assert_eq!(first, Some(3004), "0.333 tokens a second: cut off in the third digit");
        let mut fast = TokenBucket::new(u32::MAX, u32::MAX);
        assert!(fast.take(0));
        assert!(fast.take(u32::MAX));
        assert_eq!(fast.micro, (u64::from(u32::MAX) - 1) * MICRO);
    }

    #[test]
    fn shares_have_a_token_each_at_least() {
        let share = Refill::shared(10, 10, 4);
        assert_eq!((share.micro_per_ms, share.burst_micro), (2500, 2_500_000));
        assert_eq!(Refill::shared(1, 1, 64).burst_micro, MICRO);
        assert_eq!(Refill::new(5, 0).burst_micro, MICRO);
    }

    proptest! {
        /// No more than the burst and the rate over the time that has passed, and no less than the
        /// rate when there is always somebody to take.
        #[test]
        fn conserves_tokens(
            per_second in 1..100_000u32,
            burst in 1..100u32,
            start in any::<u32>(),
            steps in prop::collection::vec((0..2000u32, 0..200usize), 1..50),
        ) {
            let mut bucket = TokenBucket::new(per_second, burst);
            let mut taken = (0..burst).filter(|_| bucket.take(start)).count() as u64;
            prop_assert_eq!(taken, u64::from(burst));
            let (mut elapsed, mut dry) = (0u64, true);
            for (ms, tries) in steps {
                elapsed += u64::from(ms);
                let now = start.wrapping_add(elapsed as u32);
                let got = (0..tries).filter(|_| bucket.take(now)).count();
                prop_assert!(got as u64 <= u64::from(burst));
                let came = u64::from(ms) * u64::from(per_second);
                dry &= got < tries && came <= u64::from(burst - 1) * 1000;
                taken += got as u64;
                let most = u64::from(burst) + elapsed * u64::from(per_second) / 1000;
                prop_assert!(taken <= most, "{taken} of {most}");
                if dry {
                    // Nothing overflowed, so all that came in was taken, but for a part of one.
                    prop_assert!(taken + 1 >= most, "{taken} of {most}");
                }
            }
        }
    }
}
