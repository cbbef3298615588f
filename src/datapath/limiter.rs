//! A token bucket, for what a worker does on behalf of a packet that nobody pays for: ICMP errors,
//! packets to the kernel.

/// A token bucket in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: u32,
    burst: u32,
    per_ms: u32,
    last: Option<u32>,
}

impl TokenBucket {
    /// Full, with room for `burst` tokens, `per_second` (at least 1,000) coming in.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        TokenBucket { tokens: burst, burst, per_ms: per_second / 1000, last: None }
    }

    /// Takes a token if there is one. `now` in milliseconds, wrapping.
    pub fn take(&mut self, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.last.unwrap_or(now));
        self.last = Some(now);
        self.tokens =
            self.tokens.saturating_add(elapsed.saturating_mul(self.per_ms)).min(self.burst);
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(2000, 3);
        let now = u32::MAX;
        assert_eq!((0..5).filter(|_| bucket.take(now)).count(), 3);
        // Two tokens a millisecond, across the wrap of the clock.
        assert_eq!((0..5).filter(|_| bucket.take(now.wrapping_add(1))).count(), 2);
        assert_eq!((0..5).filter(|_| bucket.take(now.wrapping_add(1000))).count(), 3);
    }
}
