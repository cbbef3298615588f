//! New identifications for fragmented packets whose source address is translated.
//!
//! A translated source address stands for several hosts, and several workers use it. So each worker
//! numbers the packets that it collects the fragments of, all workers together never twice within
//! the range of a number (RFC 6864 4.3), and in an order that others do not know (RFC 7739).

use crate::session::key::split_mix;

/// Numbers that fit into a [`Note`](super::note::Note) beside two ports.
pub const BITS_V6: u32 = 24;
/// Those of packets that Shunt cuts itself.
pub const BITS_CUT: u32 = 31;
/// The width of the field in IPv4.
pub const BITS_V4: u32 = 16;

/// The numbers of one worker. The lower 16 bits are as good as the whole number: they are all that
/// is left of it when a fragment goes from IPv6 to IPv4.
#[derive(Clone, Debug)]
pub struct Idents {
    bits: u32,
    part: u32,
    /// Bits of a number that say whose it is.
    part_bits: u32,
    next: u32,
    factors: [u32; 2],
}

impl Idents {
    /// Numbers of that many bits, 16 to 31. `seed` is not known to others.
    pub fn new(bits: u32, seed: u64) -> Self {
        let mut state = seed;
        let mut factor = || split_mix(&mut state) as u32 | 1;
        let factors = [factor(), factor()];
        let next = split_mix(&mut state) as u32;
        Idents { bits, part: 0, part_bits: 0, next, factors }
    }

    /// Shares the numbers with so many, of whom this is number `part` from 0.
    pub fn share(&mut self, parts: usize, part: usize) {
        self.part_bits = parts.next_power_of_two().trailing_zeros();
        self.part = part as u32;
    }

    /// A number that was not given for as long as possible.
    pub fn take(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        let bits = BITS_V4 - self.part_bits;
        let mask = (1 << bits) - 1;
        // Each step is a permutation of the numbers of so many bits.
        let mut number = self.next & mask;
        for factor in self.factors {
            number = number.wrapping_mul(factor) & mask;
            number ^= number >> (bits / 2);
        }
        let round = (self.next >> bits) & ((1 << (self.bits - BITS_V4)) - 1);
        round << BITS_V4 | number << self.part_bits | self.part
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
                let mut idents = Idents::new(BITS_V4, 7 + worker as u64);
                idents.share(workers, worker);
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
        let [mut a, mut b] = [1, 2].map(|seed| Idents::new(BITS_V6, seed));
        let first = |idents: &mut Idents| [(); 4].map(|()| idents.take());
        let (a, b) = (first(&mut a), first(&mut b));
        assert_ne!(a, b);
        assert!(a.windows(2).any(|w| w[1] != w[0] + 1));
        assert!(a.iter().all(|n| n >> BITS_V6 == 0));
    }

    /// Twice the numbers of 16 bits: all different, and each half of them in 16 bits as well.
    #[test]
    fn the_lower_bits_are_numbers_too() {
        let mut idents = Idents::new(BITS_V6, 5);
        let mut whole = std::collections::HashSet::new();
        for _ in 0..2 {
            let mut low = std::collections::HashSet::new();
            for _ in 0..1 << BITS_V4 {
                let ident = idents.take();
                assert!(whole.insert(ident), "{ident} twice");
                low.insert(ident as u16);
            }
            assert_eq!(low.len(), 1 << BITS_V4);
        }
    }
}
