//! The keyed hash of a [`FlowKey`].
//!
//! Folded multiplication as in wyhash: two 64-bit words, each XORed with a secret word, are
//! multiplied to 128 bits and the halves XORed. The secret comes from a seed that nobody outside
//! knows, so that a client cannot choose addresses and ports that all meet in one bucket. It is no
//! cryptographic hash and never leaves the machine.

use crate::wire::flow::{Address, FlowKey};

/// The hash function of one table: it differs from table to table by its secret.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    secret: [u64; 6],
}

impl KeyHasher {
    /// The hash function with the secret that follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        KeyHasher { secret: std::array::from_fn(|_| split_mix(&mut state)) }
    }

    /// The hash of `key`: all 64 bits are usable.
    #[inline(always)]
    pub fn hash<A: Address>(&self, key: &FlowKey<A>) -> u64 {
        let s = &self.secret;
        let (src, dst) = (key.src.folded(), key.dst.folded());
        let ports = u64::from(key.sport)
            | u64::from(key.dport) << 16
            | u64::from(key.protocol.number()) << 32;
        let body = if A::V6 {
            let addresses =
                fold(src[0] ^ s[0], src[1] ^ s[1]).wrapping_add(fold(dst[0] ^ s[2], dst[1] ^ s[3]));
            fold(addresses ^ s[4], ports ^ s[5])
        } else {
            fold((src[0] | dst[0] << 32) ^ s[0], ports ^ s[1])
        };
        // A second multiplication, since the low bits of the first depend on few input bits.
        fold(body ^ s[2], s[3] | 1)
    }
}

/// The 128-bit product, its halves XORed.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// SplitMix64 (Steele, Lea, Flood 2014): the next word of the sequence.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::flow::Protocol;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(src: u32, dst: u32, sport: u16, dport: u16, protocol: Protocol) -> FlowKey<Ipv4Addr> {
        FlowKey { src: src.into(), dst: dst.into(), sport, dport, protocol }
    }

    /// χ² of `hashes` over 256 classes of the byte at `shift`. Its expected value is 255, its
    /// standard deviation √510 ≈ 22.6.
    fn chi_squared(hashes: &[u64], shift: u32) -> f64 {
        let mut classes = [0u32; 256];
        for h in hashes {
            classes[(h >> shift) as usize & 255] += 1;
        }
        let expected = hashes.len() as f64 / 256.0;
        classes.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn every_byte_is_uniform_for_consecutive_keys() {
        let hasher = KeyHasher::new(7);
        let ports: Vec<u64> = (0..60_000u32)
            .map(|i| hasher.hash(&v4(0x0a00_0001, 0xc000_020a, i as u16 + 1024, 80, Protocol::Tcp)))
            .collect();
        let clients: Vec<u64> = (0..60_000u32)
            .map(|i| hasher.hash(&v4(0x0a00_0001u32.swap_bytes() + i, 9, 1024, 80, Protocol::Udp)))
            .collect();
        let clients_v6: Vec<u64> = (0..60_000u128)
            .map(|i| {
                hasher.hash(&FlowKey::<Ipv6Addr> {
                    src: (0x2001_0db8 << 96 | i).into(),
                    dst: (0x2001_0db8 << 96 | 0xffff << 64).into(),
                    sport: 5000,
                    dport: 443,
                    protocol: Protocol::Tcp,
                })
            })
            .collect();
        for hashes in [&ports, &clients, &clients_v6] {
            for shift in (0..64).step_by(8) {
                let x = chi_squared(hashes, shift);
                assert!((120.0..400.0).contains(&x), "byte at bit {shift}: chi squared {x}");
            }
        }
    }

    #[test]
    fn every_field_and_the_seed_matter() {
        let base = v4(1, 2, 3, 4, Protocol::Tcp);
        let hash = |key| KeyHasher::new(1).hash(&key);
        for other in [
            v4(9, 2, 3, 4, Protocol::Tcp),
            v4(1, 9, 3, 4, Protocol::Tcp),
            v4(1, 2, 9, 4, Protocol::Tcp),
            v4(1, 2, 3, 9, Protocol::Tcp),
            v4(1, 2, 3, 4, Protocol::Udp),
            v4(2, 1, 4, 3, Protocol::Tcp),
        ] {
            assert_ne!(hash(base), hash(other), "{other:?}");
        }
        assert_ne!(KeyHasher::new(1).hash(&base), KeyHasher::new(2).hash(&base));
        assert_eq!(KeyHasher::new(1).hash(&base), KeyHasher::new(1).hash(&base));
    }
}
