//! Rates of counters over the last second.

/// The rates of a fixed list of counters.
#[derive(Debug, Default)]
pub(super) struct Rates {
    sampled_ms: Option<u64>,
    last: Vec<u64>,
    per_second: Vec<u64>,
}

impl Rates {
    /// Takes the counters' values at `now_ms`; always the same counters in the same order.
    pub(super) fn sample(&mut self, now_ms: u64, values: impl IntoIterator<Item = u64>) {
        let values: Vec<u64> = values.into_iter().collect();
        let elapsed = self.sampled_ms.map(|then| now_ms.saturating_sub(then)).unwrap_or(0);
        self.per_second = match elapsed {
            0 => vec![0; values.len()],
            ms => values
                .iter()
                .zip(&self.last)
                .map(|(new, old)| {
                    (u128::from(new.wrapping_sub(*old)) * 1_000 / u128::from(ms)) as u64
                })
                .collect(),
        };
        self.last = values;
        self.sampled_ms = Some(now_ms);
    }

    /// The rate of the counter at `index`, per second; 0 before the second sample.
    pub(super) fn get(&self, index: usize) -> u64 {
        self.per_second.get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_whatever_the_time_between_samples() {
        let mut r = Rates::default();
        assert_eq!(r.get(0), 0);
        r.sample(5_000, [1_000, 7]);
        assert_eq!((r.get(0), r.get(1)), (0, 0));
        r.sample(7_000, [4_000, 7]);
        assert_eq!((r.get(0), r.get(1)), (1_500, 0));
        r.sample(7_500, [4_100, 8]);
        assert_eq!((r.get(0), r.get(1), r.get(2)), (200, 2, 0));
    }
}
