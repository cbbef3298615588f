//! The hash by which `sh` and `maglev` place a client: SipHash-1-3 under a fixed key, so that all
//! workers, both nodes of a pair and the same node after a restart place it alike.
//!
//! The key is public. Who can choose addresses at will can make many of them meet one server; what
//! must not be steered that way is scheduled by load (`wlc`).

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// The key: the digits of π behind the point, as in Blowfish. It is part of the protocol between
/// two nodes and never changes.
const KEY: (u64, u64) = (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);

/// What a client is placed by: the words that are hashed differ in their first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HashOn {
    /// The source address.
    #[default]
    Source,
    /// The source address and port.
    SourcePort,
    /// The virtual address and port.
    Destination,
    /// The destination connection id of QUIC.
    QuicCid,
}

impl HashOn {
    /// All of them.
    pub const ALL: [HashOn; 4] =
        [HashOn::Source, HashOn::SourcePort, HashOn::Destination, HashOn::QuicCid];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            HashOn::Source => "source",
            HashOn::SourcePort => "source_port",
            HashOn::Destination => "destination",
            HashOn::QuicCid => "quic_cid",
        }
    }
}

/// The hash of some bytes.
pub fn bytes(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(KEY.0, KEY.1).hash(bytes)
}

/// The hash of an address.
pub fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => bytes(&a.octets()),
        IpAddr::V6(a) => bytes(&a.octets()),
    }
}

/// The hash of an address and port.
pub fn endpoint(address: IpAddr, port: u16) -> u64 {
    let mut text = [0; 18];
    let [high, low] = port.to_be_bytes();
    match address {
        IpAddr::V4(a) => {
            text[..4].copy_from_slice(&a.octets());
            [text[4], text[5]] = [high, low];
            bytes(&text[..6])
        }
        IpAddr::V6(a) => {
            text[..16].copy_from_slice(&a.octets());
            [text[16], text[17]] = [high, low];
            bytes(&text)
        }
    }
}

/// Another hash of what has this one: the next word of SplitMix64.
pub(super) fn again(hash: u64) -> u64 {
    let mut z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash made a number below `n`, of equal shares (Lemire 2016).
pub(super) fn below(hash: u64, n: u64) -> u64 {
    ((u128::from(hash) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down: nodes of different versions place a client alike.
    #[test]
    fn the_hash_is_fixed() {
        let v4: IpAddr = "198.51.100.7".parse().unwrap();
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        let hashes = [address(v4), address(v6), endpoint(v4, 443), endpoint(v6, 443)];
        // By another implementation of SipHash-1-3.
        let expected = [
            11_561_762_762_650_132_376,
            18_206_759_800_930_774_513,
            16_890_842_647_747_274_409,
            15_991_085_037_271_236_758,
        ];
        assert_eq!(hashes, expected);
    }

    #[test]
    fn shares_are_equal() {
        let mut shares = [0u32; 7];
        for n in 0..70_000u32 {
            shares[below(address(std::net::Ipv4Addr::from(n).into()), 7) as usize] += 1;
        }
        assert!(shares.iter().all(|s| s.abs_diff(10_000) < 400), "{shares:?}");
    }
}
