//! The two address families, as records hold them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::flow::Address;

/// An address family as records hold it. Records of IPv6 have the type number after that of IPv4.
pub trait Wire: Address {
    /// Length of an address in bytes.
    const LEN: usize;
    /// The address as words that are the same on every machine.
    fn words(self) -> [u64; 2];
    /// Writes the address to the first [`Wire::LEN`] bytes of `to`. Panics when there are fewer.
    fn put(self, to: &mut [u8]);
    /// The address in the first [`Wire::LEN`] bytes of `from`; `None` when there are fewer.
    fn get(from: &[u8]) -> Option<Self>;
}

impl Wire for Ipv4Addr {
    const LEN: usize = 4;
    #[inline(always)]
    fn words(self) -> [u64; 2] {
        [u64::from(self.to_bits()), 0]
    }
    #[inline(always)]
    fn put(self, to: &mut [u8]) {
        to[..Self::LEN].copy_from_slice(&self.octets());
    }
    #[inline(always)]
    fn get(from: &[u8]) -> Option<Self> {
        from.first_chunk::<4>().map(|octets| Self::from(*octets))
    }
}

impl Wire for Ipv6Addr {
    const LEN: usize = 16;
    #[inline(always)]
    fn words(self) -> [u64; 2] {
        let bits = self.to_bits();
        [(bits >> 64) as u64, bits as u64]
    }
    #[inline(always)]
    fn put(self, to: &mut [u8]) {
        to[..Self::LEN].copy_from_slice(&self.octets());
    }
    #[inline(always)]
    fn get(from: &[u8]) -> Option<Self> {
        from.first_chunk::<16>().map(|octets| Self::from(*octets))
    }
}
