//! The verdict on a server from the outcomes of its checks.

/// Counts good and bad checks in a row. A server is down until its first check, whose outcome
/// decides alone; from then on `rise` good ones bring it up and `fall` bad ones take it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    rise: u32,
    fall: u32,
    up: bool,
    decided: bool,
    /// Checks in a row that contradict `up`.
    against: u32,
}

impl HealthState {
    /// Not checked yet, down. `rise` and `fall` of 0 count as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        HealthState { rise: rise.max(1), fall: fall.max(1), up: false, decided: false, against: 0 }
    }

    /// Whether the server gets new sessions.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether it was checked at all.
    pub fn is_decided(&self) -> bool {
        self.decided
    }

    /// Takes in the outcome of a check. `Some(up)` when the verdict is new: the first one, or another
    /// than before.
    pub fn record(&mut self, good: bool) -> Option<bool> {
        if !self.decided {
            self.decided = true;
            self.up = good;
            return Some(good);
        }
        if good == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if good { self.rise } else { self.fall };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.up = good;
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdicts(rise: u32, fall: u32, checks: &str) -> String {
        let mut state = HealthState::new(rise, fall);
        checks
            .chars()
            .map(|c| match state.record(c == '+') {
                Some(true) => 'U',
                Some(false) => 'D',
                None => '.',
            })
            .collect()
    }

    #[test]
    fn the_first_check_decides() {
        assert!(!HealthState::new(2, 3).is_up());
        assert!(!HealthState::new(2, 3).is_decided());
        assert_eq!(verdicts(2, 3, "+"), "U");
        assert_eq!(verdicts(2, 3, "-"), "D");
    }

    #[test]
    fn rise_and_fall_count_in_a_row() {
        assert_eq!(verdicts(2, 3, "+--+---"), "U.....D");
        assert_eq!(verdicts(2, 3, "-+-++-"), "D...U.");
        assert_eq!(verdicts(0, 0, "+-+"), "UDU");
        assert_eq!(verdicts(1, 1, "--++"), "D.U.");
    }

    proptest! {
        /// A verdict changes exactly when the last `rise` (or `fall`) checks since the previous
        /// change all contradict it.
        #[test]
        fn agrees_with_the_definition(
            rise in 1u32..5, fall in 1u32..5, checks in prop::collection::vec(any::<bool>(), 1..60)
        ) {
            let mut state = HealthState::new(rise, fall);
            let mut changed_at = 0;
            let mut up = checks[0];
            for (i, &good) in checks.iter().enumerate() {
                let verdict = state.record(good);
                if i == 0 {
                    prop_assert_eq!(verdict, Some(good));
                    continue;
                }
                let needed = if up { fall } else { rise } as usize;
                let run = checks[changed_at + 1..=i].iter().rev().take_while(|&&c| c != up).count();
                if run == needed {
                    up = !up;
                    changed_at = i;
                    prop_assert_eq!(verdict, Some(up));
                } else {
                    prop_assert_eq!(verdict, None);
                }
                prop_assert_eq!(state.is_up(), up);
            }
        }
    }
}
