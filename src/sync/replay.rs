//! Which datagrams of a counter that only rises have come before: control and relay datagrams of one
//! worker of the peer. What is lost is not missed.

/// How far behind the highest sequence one is still taken.
pub const WINDOW: u64 = 1024;

const WORDS: usize = WINDOW as usize / 64;

/// The sequences that have come.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The highest that has come; 0 when none has.
    highest: u64,
    /// What is not above this is not taken.
    floor: u64,
    /// Bit (sequence modulo window) of those that have come.
    come: [u64; WORDS],
}

impl Default for Replay {
    fn default() -> Self {
        Replay::begin(1)
    }
}

impl Replay {
    /// Nothing has come, and nothing before `first` is taken. With a peer that has just been accepted
    /// that is the sequence of the HELLO that it was accepted for.
    pub const fn begin(first: u64) -> Self {
        let before = first.saturating_sub(1);
        Replay { highest: before, floor: before, come: [0; WORDS] }
    }

    /// Takes a datagram with this sequence; says whether it is to be applied. It is not when it has
    /// come before, or is too old to tell. 0 never is.
    #[must_use]
    pub fn take(&mut self, sequence: u64) -> bool {
        if sequence <= self.floor {
            return false;
        }
        let (word, bit) = ((sequence / 64) as usize % WORDS, 1 << (sequence % 64));
        if sequence <= self.highest {
            if self.highest - sequence >= WINDOW || self.come[word] & bit != 0 {
                return false;
            }
        } else {
            if sequence - self.highest >= WINDOW {
                self.come.fill(0);
            } else {
                for new in self.highest + 1..=sequence {
                    self.come[(new / 64) as usize % WORDS] &= !(1 << (new % 64));
                }
            }
            self.highest = sequence;
        }
        self.come[word] |= bit;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn edges() {
        let mut replay = Replay::default();
        assert!(!replay.take(0) && replay.take(5) && !replay.take(5) && replay.take(4));
        assert!(replay.take(5 + WINDOW) && !replay.take(5) && replay.take(6) && !replay.take(6));
        assert!(replay.take(u64::MAX) && !replay.take(u64::MAX) && !replay.take(7 + WINDOW));
        assert!(replay.take(u64::MAX - WINDOW + 1) && !replay.take(u64::MAX - WINDOW));
        let mut replay = Replay::begin(100);
        assert!(!replay.take(99) && replay.take(101) && replay.take(100) && !replay.take(100));
    }

    proptest! {
        #[test]
        fn each_once(sequences in prop::collection::vec(
            prop_oneof![1u64..3000, 1u64..100, 1_000_000u64..1_001_500], 0..500)
        ) {
            let (mut replay, mut taken, mut highest) = (Replay::default(), HashSet::new(), 0);
            for sequence in sequences {
                let fits = sequence + WINDOW > highest;
                prop_assert_eq!(replay.take(sequence), fits && taken.insert(sequence));
                highest = highest.max(sequence);
            }
        }
    }
}
