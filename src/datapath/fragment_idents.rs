//! New identifications for fragmented packets whose source address is translated.
//!
//! A translated source address stands for several hosts, and several workers use it. So each worker
//! numbers the packets that it collects the fragments of, all workers together never twice within
//! the range of a number (RFC 6864 4.3), and in an order that others do not know (RFC 7739).

use crate::session::key::split_mix;

/// Numbers that fit into a [`Note`](super::note::Note) beside two ports.
pub const BITS_V6: u32 = 24;
/// The width of the field in IPv4.
pub const BITS_V4: u32 = 16;

/// The numbers of one worker.
#[derive(Clone, Debug)]
pub struct Idents {
    bits: u32,
    worker: u32,
    /// Bits of a number that say whose it is.
    worker_bits: u32,
    next: u32,
    factors: [u32; 2],
}

impl Idents {
    /// Numbers of that many bits. `seed` is not known to others.
    pub fn new(bits: u32, worker: u8, seed: u64) -> Self {
        let mut state = seed;
        let mut factor = || split_mix(&mut state) as u32 | 1;
        let factors = [factor(), factor()];
        let next = split_mix(&mut state) as u32;
        Idents { bits, worker: worker.into(), worker_bits: 0, next, factors }
    }

    /// Shares the numbers with so many workers, this one included.
    pub fn share(&mut self, workers: usize) {
        self.worker_bits = workers.next_power_of_two().trailing_zeros();
    }

    /// A number that was not given for as long as possible.
    pub fn take(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        let bits = self.bits - self.worker_bits;
        let mask = (1 << bits) - 1;
        // Each step is a permutation of the numbers of so many bits.
        let mut number = self.next & mask;
        for factor in self.factors {
            number = number.wrapping_mul(factor) & mask;
            number ^= number >> (bits / 2);
        }
        number << self.worker_bits | self.worker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_once_among_all_workers() {
        for workers in [1, 2, 3, 4, 8] {
            let mut seen = vec![false; 1 << BITS_V4];
            for worker in 0..workers {
                let mut idents = Idents::new(BITS_V4, worker as u8, 7 + worker as u64);
                idents.share(workers);
                let share = (1 << BITS_V4) / workers.next_power_of_two();
                for _ in 0..share {
                    let ident = idents.take() as usize;
                    assert!(!std::mem::replace(&mut seen[ident], true), "{ident} twice");
                }
                let again = idents.take() as usize;
                assert!(seen[again]);
            }
        }
    }

    #[test]
    fn another_seed_another_order() {
        let [mut a, mut b] = [1, 2].map(|seed| Idents::new(BITS_V6, 0, seed));
        let first = |idents: &mut Idents| [(); 4].map(|()| idents.take());
        let (a, b) = (first(&mut a), first(&mut b));
        assert_ne!(a, b);
        assert!(a.windows(2).any(|w| w[1] != w[0] + 1));
        assert!(a.iter().all(|n| n >> BITS_V6 == 0));
    }
}
