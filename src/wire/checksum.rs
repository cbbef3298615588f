//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Three kinds of `u16` meet here, all in host order:
//!
//! - a **sum**: the folded one's-complement sum of the 16-bit words of some bytes. It is 0 only
//!   when all the bytes are 0; a sum that is congruent to zero otherwise is 0xffff.
//! - a **checksum**: the field in a header, the complement of a sum.
//! - a **delta**: what a rewrite adds to the sum (new minus old). Every function here that returns
//!   a delta returns a value from 1 to 0xffff, with 0xffff for "no difference", so that [`apply`]
//!   gives what a full recomputation gives. 0 is accepted as a delta too: it leaves the checksum
//!   as it is, bit by bit.
//!
//! One's complement has two zeros, 0x0000 and 0xffff. A recomputed checksum is 0xffff only when
//! the sum of everything it covers is 0, which a pseudo header or an IPv4 header never lets happen.
//! [`apply`] with a delta from here never returns 0xffff, so it agrees with the recomputation bit by
//! bit; and applying a delta and then its negation restores every checksum but 0xffff, which no
//! correct sender of TCP or IPv4 emits (it comes back as 0x0000). UDP writes 0xffff where the
//! checksum is 0, and 0 for "none": [`apply_udp`] keeps to that and restores every value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The difference that decrementing the TTL makes to the sum of an IPv4 header.
pub const TTL_DECREMENT: u16 = !0x0100;

/// Folds a sum of 16-bit words to 16 bits. 0 stays 0; nothing else becomes 0.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The sum of `bytes` as 16-bit words in network order; an odd last byte counts as the high half
/// of a word (RFC 1071 2). Any alignment and any length up to 16 GiB.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on the byte order if the result is swapped back (RFC 1071 2.B), so
    // words are added as the machine loads them, in two halves so that no carry is lost.
    let (chunks, mut rest) = bytes.as_chunks::<8>();
    let mut total: u64 = 0;
    for chunk in chunks {
        let word = u64::from_ne_bytes(*chunk);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    if let Some((word, tail)) = rest.split_first_chunk() {
        total += u64::from(u32::from_ne_bytes(*word));
        rest = tail;
    }
    if let Some((word, tail)) = rest.split_first_chunk() {
        total += u64::from(u16::from_ne_bytes(*word));
        rest = tail;
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold(total))
}

/// The sum of two sums, or the delta of two deltas made one after the other.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    // Two 16-bit numbers carry once at most.
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// The sum of the pseudo header of TCP (RFC 9293 3.1) and UDP (RFC 768) over IPv4. `len` is that
/// of the transport header and data, in bytes.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> u16 {
    let (src, dst) = (u64::from(u32::from(src)), u64::from(u32::from(dst)));
    fold(src + dst + u64::from(protocol) + u64::from(len))
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6 over IPv6 (RFC 8200 8.1). `len` is that of
/// the transport header and data, in bytes.
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> u16 {
    let (src, dst) = (u64::from(sum(&src.octets())), u64::from(sum(&dst.octets())));
    fold(src + dst + u64::from(protocol) + u64::from(len))
}

/// The sum of the pseudo header of either family. `len` is that of the transport header and data,
/// in bytes. Addresses of two families are a mistake of the caller; the sum is then of no use.
#[inline]
pub fn pseudo(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, protocol: u8, len: usize) -> u16 {
    let (src, dst) = (sum_of_address(src.into()), sum_of_address(dst.into()));
    fold(u64::from(src) + u64::from(dst) + u64::from(protocol) + len as u64)
}

/// Whether bytes of this sum, the checksum field and any pseudo header included, are sound.
#[inline(always)]
pub const fn verify(sum: u16) -> bool {
    sum == 0xffff
}

/// The delta of a 16-bit word that changes from `old` to `new`.
#[inline(always)]
pub const fn delta16(old: u16, new: u16) -> u16 {
    // The 0xffff adds nothing in one's complement and keeps the result from being 0.
    fold(0xffff + (!old) as u64 + new as u64)
}

/// The delta of an address that changes from `old` to `new`.
#[inline]
pub fn delta_address(old: impl Into<IpAddr>, new: impl Into<IpAddr>) -> u16 {
    delta16(sum_of_address(old.into()), sum_of_address(new.into()))
}

/// The delta of the way back.
#[inline(always)]
pub const fn negate(delta: u16) -> u16 {
    add(0xffff, !delta)
}

/// The checksum after a rewrite of this delta: ~(~HC + delta), RFC 1624 equation 3.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !add(!checksum, delta)
}

/// As [`apply`], for UDP: no checksum (0) remains none, and a checksum of 0 is written as 0xffff
/// (RFC 768).
#[inline(always)]
pub const fn apply_udp(checksum: u16, delta: u16) -> u16 {
    let updated = apply(checksum, delta);
    // Masks instead of branches: all ones when the condition holds.
    let was_none = 0u16.wrapping_sub((checksum == 0) as u16);
    let is_zero = 0u16.wrapping_sub((updated == 0) as u16);
    (updated | is_zero) & !was_none
}

#[inline]
fn sum_of_address(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(a) => fold(u64::from(u32::from(a))),
        IpAddr::V6(a) => sum(&a.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Word by word, straight from RFC 1071 section 1.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: HC 0xdd2f, a field goes from 0x5555 to 0x3285.
        assert_eq!(apply(0xdd2f, delta16(0x5555, 0x3285)), 0x0000);
        assert_eq!(apply(0x0000, negate(delta16(0x5555, 0x3285))), 0xdd2f);
    }

    #[test]
    fn fold_keeps_zero_and_makes_none() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0xffff), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0xffff_0000_0000_0000), 0xffff);
        assert_eq!(fold(0xffff_ffff_ffff_fffe), 0xfffe);
    }

    #[test]
    fn deltas_are_never_zero() {
        assert_eq!(delta16(0xffff, 0), 0xffff);
        assert_eq!(delta16(0, 0xffff), 0xffff);
        assert_eq!(delta16(0, 0), 0xffff);
        assert_eq!(delta16(7, 7), 0xffff);
        assert_eq!(negate(0xffff), 0xffff);
        assert_eq!(negate(0), 0xffff);
        assert_eq!(delta16(0x4011, 0x3f11), TTL_DECREMENT);
    }

    #[test]
    fn every_checksum_is_restored() {
        for delta in [1, 2, 0x00ff, 0x7fff, 0x8000, 0xfffe, 0xffff] {
            for checksum in 0..=0xffffu16 {
                let there = apply(checksum, delta);
                assert_ne!(there, 0xffff);
                let back = apply(there, negate(delta));
                assert_eq!(back, if checksum == 0xffff { 0 } else { checksum });

                let there = apply_udp(checksum, delta);
                assert_eq!(there == 0, checksum == 0);
                assert_eq!(apply_udp(there, negate(delta)), checksum);
            }
        }
    }

    #[test]
    fn delta_zero_changes_nothing() {
        for checksum in 0..=0xffffu16 {
            assert_eq!(apply(checksum, 0), checksum);
            assert_eq!(apply_udp(checksum, 0), checksum);
        }
    }

    #[test]
    fn a_sum_of_zero_words_is_zero() {
        for len in 0..40 {
            assert_eq!(sum(&vec![0; len]), 0);
        }
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_rfc(bytes in prop::collection::vec(any::<u8>(), 0..200), skip in 0usize..9) {
            let bytes = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(sum(bytes), reference(bytes));
        }

        #[test]
        fn pseudo_headers_agree_with_their_bytes(
            src4: Ipv4Addr, dst4: Ipv4Addr, src6: Ipv6Addr, dst6: Ipv6Addr, protocol: u8, len: u16,
        ) {
            let mut v4 = Vec::new();
            v4.extend(src4.octets());
            v4.extend(dst4.octets());
            v4.extend([0, protocol]);
            v4.extend(len.to_be_bytes());
            prop_assert_eq!(pseudo_v4(src4, dst4, protocol, len), reference(&v4));
            prop_assert_eq!(pseudo(src4, dst4, protocol, len.into()), reference(&v4));

            let mut v6 = Vec::new();
            v6.extend(src6.octets());
            v6.extend(dst6.octets());
            v6.extend(u32::from(len).to_be_bytes());
            v6.extend([0, 0, 0, protocol]);
            prop_assert_eq!(pseudo_v6(src6, dst6, protocol, len.into()), reference(&v6));
            prop_assert_eq!(pseudo(src6, dst6, protocol, len.into()), reference(&v6));
        }

        /// An IPv4 header whose addresses and TTL change: updated = recomputed, and back again.
        #[test]
        fn delta_of_an_ipv4_header(
            mut header in prop::array::uniform20(any::<u8>()), src: Ipv4Addr, dst: Ipv4Addr, ttl: u8,
        ) {
            header[0] = 0x45;
            header[10..12].fill(0);
            let checksum = !reference(&header);
            let old = header;
            header[8] = ttl;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let address = |b: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(b).unwrap());
            let word = |b: &[u8; 20]| u16::from_be_bytes([b[8], b[9]]);
            let delta = add(
                delta16(word(&old), word(&header)),
                add(
                    delta_address(address(&old[12..16]), src),
                    delta_address(address(&old[16..20]), dst),
                ),
            );
            prop_assert_ne!(delta, 0);
            prop_assert_eq!(apply(checksum, delta), !reference(&header));
            prop_assert_eq!(apply(!reference(&header), negate(delta)), checksum);
        }

        /// A TCP or UDP segment of either family whose addresses and ports change.
        #[test]
        fn delta_of_a_segment(
            segment in prop::collection::vec(any::<u8>(), 8..60),
            v4: bool, udp: bool,
            old6: (Ipv6Addr, Ipv6Addr), new6: (Ipv6Addr, Ipv6Addr),
            old4: (Ipv4Addr, Ipv4Addr), new4: (Ipv4Addr, Ipv4Addr),
            ports: (u16, u16),
        ) {
            let (old, new): ((IpAddr, IpAddr), (IpAddr, IpAddr)) = if v4 {
                ((old4.0.into(), old4.1.into()), (new4.0.into(), new4.1.into()))
            } else {
                ((old6.0.into(), old6.1.into()), (new6.0.into(), new6.1.into()))
            };
            let protocol = if udp { 17 } else { 6 };
            let recomputed = |(src, dst): (IpAddr, IpAddr), segment: &[u8]| {
                let c = !add(pseudo(src, dst, protocol, segment.len()), reference(segment));
                if udp && c == 0 { 0xffff } else { c }
            };
            let apply = |c, d| if udp { apply_udp(c, d) } else { apply(c, d) };

            let before = recomputed(old, &segment);
            let mut rewritten = segment.clone();
            rewritten[..2].copy_from_slice(&ports.0.to_be_bytes());
            rewritten[2..4].copy_from_slice(&ports.1.to_be_bytes());
            let after = recomputed(new, &rewritten);

            let old_ports = [
                u16::from_be_bytes([segment[0], segment[1]]),
                u16::from_be_bytes([segment[2], segment[3]]),
            ];
            let delta = add(
                add(delta_address(old.0, new.0), delta_address(old.1, new.1)),
                add(delta16(old_ports[0], ports.0), delta16(old_ports[1], ports.1)),
            );
            prop_assert_eq!(apply(before, delta), after);
            prop_assert_eq!(apply(after, negate(delta)), before);
        }
    }
}
