//! The Toeplitz hash of receive side scaling (RSS), by tables, over the outer endpoint (design §3).
//!
//! The input is the address in network order and then the port in network order: 6 bytes for IPv4,
//! 18 for IPv6, as a NIC feeds them to the hash when it is told to take the source (or the
//! destination) only. The steering bucket is the low 7 bits of the hash, as a NIC indexes a
//! redirection table of 128 entries. Every node uses the same [`KEY`].
//!
//! The hash is linear over GF(2): the hash of the input is the XOR of what each of its bytes gives
//! alone, so it takes one table of 256 entries per byte position. For steering only the low 7 bits
//! are needed, and tables of bytes (1.5 kB for IPv4, 4.5 kB for IPv6) stay in the first-level cache.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The number of steering buckets.
pub const BUCKETS: usize = 128;

/// The key: the one of Microsoft's RSS specification, "Verifying the RSS hash calculation". It is
/// the default key of most NIC drivers, so hardware that can't take another still agrees with
/// the software, and there are published results to verify an implementation with. It is also good
/// at this task: for any address the 65,536 ports fall evenly into the buckets, 512 into each, and
/// any 1,024 consecutive ports that start at a multiple of 1,024 do too, 8 into each. With a key that
/// repeats every 16 bits (the "symmetric" ones) equal bits of address and port cancel out.
///
/// The 40 bytes serve an input of 36 bytes, the longest RSS knows (IPv6 addresses and ports).
pub const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The longest input in bytes: an IPv6 address and a port.
const INPUT: usize = 18;

/// The hash with [`KEY`], built at compile time.
pub static STEERING: Toeplitz = Toeplitz::new(&KEY);

/// The Toeplitz hash with one key, as tables.
#[derive(Clone, Debug)]
pub struct Toeplitz {
    /// What the low 7 bits of the hash owe to a byte of the input, by position and value.
    buckets: [[u8; 256]; INPUT],
    /// What the hash owes to a byte of the input.
    hashes: [[u32; 256]; INPUT],
}

impl Toeplitz {
    /// Builds the tables for a key.
    pub const fn new(key: &[u8; 40]) -> Self {
        let mut hashes = [[0; 256]; INPUT];
        let mut buckets = [[0; 256]; INPUT];
        let mut position = 0;
        while position < INPUT {
            // Bit i of the input contributes the 32 bits of the key that start at bit i.
            let window = (key[position] as u64) << 32
                | (key[position + 1] as u64) << 24
                | (key[position + 2] as u64) << 16
                | (key[position + 3] as u64) << 8
                | key[position + 4] as u64;
            let mut value = 1;
            while value < 256 {
                // All but the lowest set bit is already known.
                let bit = (value as u8).trailing_zeros();
                let hash = hashes[position][value & (value - 1)] ^ (window >> (bit + 1)) as u32;
                hashes[position][value] = hash;
                buckets[position][value] = (hash as usize % BUCKETS) as u8;
                value += 1;
            }
            position += 1;
        }
        Toeplitz { buckets, hashes }
    }

    /// The hash of an IPv4 endpoint.
    #[inline]
    pub fn hash_v4(&self, ip: Ipv4Addr, port: u16) -> u32 {
        let [high, low] = port.to_be_bytes();
        let mut hash = self.hashes[4][usize::from(high)] ^ self.hashes[5][usize::from(low)];
        for (table, byte) in self.hashes.iter().zip(ip.octets()) {
            hash ^= table[usize::from(byte)];
        }
        hash
    }

    /// The hash of an IPv6 endpoint.
    #[inline]
    pub fn hash_v6(&self, ip: Ipv6Addr, port: u16) -> u32 {
        let [high, low] = port.to_be_bytes();
        let mut hash = self.hashes[16][usize::from(high)] ^ self.hashes[17][usize::from(low)];
        for (table, byte) in self.hashes.iter().zip(ip.octets()) {
            hash ^= table[usize::from(byte)];
        }
        hash
    }

    /// The steering bucket of an IPv4 endpoint, below [`BUCKETS`].
    #[inline(always)]
    pub fn bucket_v4(&self, ip: Ipv4Addr, port: u16) -> usize {
        let [high, low] = port.to_be_bytes();
        let mut bits = self.buckets[4][usize::from(high)] ^ self.buckets[5][usize::from(low)];
        for (table, byte) in self.buckets.iter().zip(ip.octets()) {
            bits ^= table[usize::from(byte)];
        }
        // Lets the compiler see the range, for the index into `worker_of`.
        usize::from(bits) % BUCKETS
    }

    /// The steering bucket of an IPv6 endpoint, below [`BUCKETS`].
    #[inline(always)]
    pub fn bucket_v6(&self, ip: Ipv6Addr, port: u16) -> usize {
        let [high, low] = port.to_be_bytes();
        let mut bits = self.buckets[16][usize::from(high)] ^ self.buckets[17][usize::from(low)];
        for (table, byte) in self.buckets.iter().zip(ip.octets()) {
            bits ^= table[usize::from(byte)];
        }
        usize::from(bits) % BUCKETS
    }

    /// The steering bucket of an endpoint of either family, below [`BUCKETS`].
    #[inline(always)]
    pub fn bucket_of(&self, ip: impl Into<IpAddr>, port: u16) -> usize {
        match ip.into() {
            IpAddr::V4(ip) => self.bucket_v4(ip, port),
            IpAddr::V6(ip) => self.bucket_v6(ip, port),
        }
    }
}

/// The steering bucket of a hash, below [`BUCKETS`].
#[inline(always)]
pub const fn bucket(hash: u32) -> usize {
    hash as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, as Microsoft specifies it: for each set bit of the input, from the left, XOR in
    /// the leftmost 32 bits of the key; then shift the key left by one.
    fn reference(key: &[u8; 40], input: &[u8]) -> u32 {
        let mut result = 0;
        for bit in 0..input.len() * 8 {
            if input[bit / 8] & (0x80 >> (bit % 8)) != 0 {
                for i in 0..32 {
                    let at = bit + i;
                    let key_bit = u32::from(key[at / 8] >> (7 - at % 8) & 1);
                    result ^= key_bit << (31 - i);
                }
            }
        }
        result
    }

    fn input(ip: impl Into<IpAddr>, port: u16) -> Vec<u8> {
        let mut input = match ip.into() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        input.extend(port.to_be_bytes());
        input
    }

    fn tuple(src: &str, dst: &str, ports: Option<(u16, u16)>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ip in [src, dst] {
            let ip: IpAddr = ip.parse().unwrap();
            bytes.extend(&input(ip, 0)[..if ip.is_ipv4() { 4 } else { 16 }]);
        }
        for port in ports.iter().flat_map(|p| [p.0, p.1]) {
            bytes.extend(port.to_be_bytes());
        }
        bytes
    }

    /// Microsoft, "Verifying the RSS hash calculation": source, destination, hash with ports, hash
    /// of the addresses alone.
    #[test]
    fn the_published_results() {
        #[rustfmt::skip]
        let vectors = [
            ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51ccc178, 0x323e8fc2),
            ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xc626b0ea, 0xd718262a),
            ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5c2b394a, 0xd2d0a5de),
            ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xafc7327f, 0x82989176),
            ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10e828a2, 0x5d1809c5),
            ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207d3d, 0x2cc18cd5),
            ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xdde51bbf, 0x0f0c461c),
            ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251,
             "fe80::200:f8ff:fe21:67cf", 38024, 0x02d1feef, 0x4b61e985),
        ];
        for (src, sport, dst, dport, with_ports, addresses) in vectors {
            let full = tuple(src, dst, Some((sport, dport)));
            assert_eq!(reference(&KEY, &full), with_ports, "{src}:{sport} {dst}:{dport}");
            assert_eq!(reference(&KEY, &tuple(src, dst, None)), addresses, "{src} {dst}");
        }
    }

    #[test]
    fn ports_of_any_address_fill_the_buckets_evenly() {
        // The hash is linear, so what holds for one address holds for all.
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        for ip in addresses {
            let mut all = [0; BUCKETS];
            for first in (0..=u16::MAX).step_by(1024) {
                let mut seen = [0; BUCKETS];
                for port in first..=first + 1023 {
                    seen[STEERING.bucket_of(ip, port)] += 1;
                    all[STEERING.bucket_of(ip, port)] += 1;
                }
                assert_eq!(seen, [8; BUCKETS], "{ip}, ports from {first}");
            }
            assert_eq!(all, [512; BUCKETS], "{ip}");
        }
    }

    proptest! {
        #[test]
        fn tables_agree_with_the_reference(
            key in prop::collection::vec(any::<u8>(), 40), v4: Ipv4Addr, v6: Ipv6Addr, port: u16,
        ) {
            let random: [u8; 40] = key.try_into().unwrap();
            for (key, toeplitz) in [(KEY, &STEERING), (random, &Toeplitz::new(&random))] {
                let expected = reference(&key, &input(v4, port));
                prop_assert_eq!(toeplitz.hash_v4(v4, port), expected);
                prop_assert_eq!(toeplitz.bucket_v4(v4, port), bucket(expected));
                prop_assert_eq!(toeplitz.bucket_of(v4, port), expected as usize % 128);
                let expected = reference(&key, &input(v6, port));
                prop_assert_eq!(toeplitz.hash_v6(v6, port), expected);
                prop_assert_eq!(toeplitz.bucket_v6(v6, port), bucket(expected));
                prop_assert_eq!(toeplitz.bucket_of(v6, port), expected as usize % 128);
            }
        }
    }
}
