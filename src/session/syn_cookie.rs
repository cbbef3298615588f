//! SYN cookies (RFC 4987 3.6): what Shunt must remember of a client's SYN travels in the initial
//! sequence number of its own SYN-ACK and comes back, acknowledged, with the client's ACK. Nothing is
//! kept, so a flood of SYNs costs no memory.
//!
//! | bits of the cookie | meaning |
//! |---|---|
//! | 31–5 | the first 27 bits of a MAC |
//! | 4–1 | which size of [`MSS`] is the largest that the client's is not below |
//! | 0 | the lowest bit of the time counter |
//!
//! The MAC is SipHash-2-4 over both endpoints, the client's initial sequence number, the MSS index,
//! the time counter, and whether the client sent timestamps. The counter goes up every 65.5 s; a
//! cookie is good while it is that of its SYN or the next, so for 65 to 131 seconds. It comes from
//! the clock in milliseconds, 16 bits of it, and wraps with the clock after 49.7 days.
//!
//! Keys follow from a secret and change every 256 counts (4.7 hours); cookies of the key before are
//! good as long as their count is. All who have the secret and the same clock accept each other's
//! cookies. A second secret may be accepted beside it, while the secret is being changed.
//!
//! Of all 2^32 acknowledgment numbers 32 are good for a given segment, two counts of 16 sizes: a
//! guess is right once in 2^27 (134 million) times, with a second secret once in 2^26.
//!
//! A client that sends timestamps (RFC 7323) gets more options: the [`Offer`] it made stands in the
//! lowest bits of the timestamp it is answered with, which it echoes (as Linux does). It is not
//! protected, since a client that forges it deceives only itself.

use siphasher::sip::SipHasher24;

use crate::wire::flow::{Address, FlowKey};

/// The segment sizes that a cookie can tell, in bytes, ascending. A client's MSS is rounded down to
/// one of them; those of common links are here as they are. 88 stands for all below 216.
pub const MSS: [u16; 16] =
    [88, 216, 536, 966, 1024, 1220, 1280, 1340, 1360, 1380, 1400, 1420, 1440, 1452, 1460, 8940];
/// For how long a cookie may be good, at the most, in milliseconds.
pub const VALIDITY_MS: u32 = 2 << COUNT_SHIFT;

/// A count is 2^16 ms.
const COUNT_SHIFT: u32 = 16;
/// A key serves 2^8 counts.
const KEY_SHIFT: u32 = 8;
/// The bits of the cookie that are not MAC.
const DATA_BITS: u32 = 5;
/// Bits of a timestamp that carry an [`Offer`].
const OFFER_BITS: u32 = 6;
/// No window scale in an [`Offer`].
const NO_SCALE: u32 = 15;

/// What a cookie vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<A> {
    /// Addresses and ports of packets from the client.
    pub key: FlowKey<A>,
    /// The client's initial sequence number.
    pub isn: u32,
    /// Whether the client sends timestamps.
    pub timestamps: bool,
}

/// Mints and verifies cookies.
#[derive(Clone, Debug)]
pub struct SynCookies {
    /// Mints.
    first: Secret,
    /// Is accepted as well.
    second: Option<Secret>,
}

#[derive(Clone, Debug)]
struct Secret {
    secret: u128,
    /// Of the present generation and the one before.
    keys: [Key; 2],
}

#[derive(Clone, Copy, Debug)]
struct Key {
    generation: u8,
    hasher: SipHasher24,
}

impl SynCookies {
    /// Those of this secret, which nobody outside may know.
    pub fn new(secret: u128) -> Self {
        SynCookies { first: Secret::new(secret), second: None }
    }

    /// Mints those of `secret` from now on, and accepts those of `other` too.
    pub fn change(&mut self, secret: u128, other: Option<u128>) {
        *self = SynCookies { first: Secret::new(secret), second: other.map(Secret::new) };
    }

    /// The initial sequence number to answer a SYN with. `mss` is the client's. `now` in
    /// milliseconds, wrapping.
    pub fn mint<A: Address>(&mut self, claim: &Claim<A>, mss: u16, now: u32) -> u32 {
        let index = MSS.iter().rposition(|&size| size <= mss).unwrap_or(0) as u8;
        self.first.cookie(claim, index, count(now))
    }

    /// The client's MSS, rounded down to one of [`MSS`], if the cookie is one that was minted for
    /// this claim and is not too old.
    pub fn verify<A: Address>(&mut self, claim: &Claim<A>, cookie: u32, now: u32) -> Option<u16> {
        let present = count(now);
        let minted =
            if present & 1 == (cookie & 1) as u16 { present } else { present.wrapping_sub(1) };
        let index = (cookie >> 1) as u8 & 15;
        let mut secrets = [Some(&mut self.first), self.second.as_mut()].into_iter().flatten();
        let good = secrets.any(|secret| secret.cookie(claim, index, minted) == cookie);
        good.then_some(MSS[usize::from(index)])
    }
}

impl Secret {
    fn new(secret: u128) -> Self {
        Secret { secret, keys: keys(secret, 0) }
    }

    fn cookie<A: Address>(&mut self, claim: &Claim<A>, mss_index: u8, count: u16) -> u32 {
        let mac = self.key(count).hash(&message(claim, mss_index, count)[..message_len::<A>()]);
        let data = u32::from(mss_index) << 1 | u32::from(count & 1);
        (mac >> 32) as u32 & !((1 << DATA_BITS) - 1) | data
    }

    fn key(&mut self, count: u16) -> SipHasher24 {
        let generation = (count >> KEY_SHIFT) as u8;
        if let Some(key) = self.keys.iter().find(|key| key.generation == generation) {
            return key.hasher;
        }
        self.keys = keys(self.secret, generation);
        self.keys[0].hasher
    }
}

fn count(now: u32) -> u16 {
    (now >> COUNT_SHIFT) as u16
}

/// The keys of a generation and of the one before.
fn keys(secret: u128, generation: u8) -> [Key; 2] {
    let root = SipHasher24::new_with_keys(secret as u64, (secret >> 64) as u64);
    [generation, generation.wrapping_sub(1)].map(|generation| {
        let hasher =
            SipHasher24::new_with_keys(root.hash(&[generation, 0]), root.hash(&[generation, 1]));
        Key { generation, hasher }
    })
}

const fn message_len<A: Address>() -> usize {
    if A::V6 { 44 } else { 20 }
}

/// What the MAC is over, in the first [`message_len`] bytes.
fn message<A: Address>(claim: &Claim<A>, mss_index: u8, count: u16) -> [u8; 44] {
    let mut message = [0; 44];
    message[..2].copy_from_slice(&claim.key.sport.to_be_bytes());
    message[2..4].copy_from_slice(&claim.key.dport.to_be_bytes());
    message[4..8].copy_from_slice(&claim.isn.to_be_bytes());
    message[8..10].copy_from_slice(&count.to_be_bytes());
    message[10] = mss_index;
    message[11] = u8::from(claim.timestamps);
    let (src, dst) = (claim.key.src.folded(), claim.key.dst.folded());
    if A::V6 {
        for (at, word) in [src[0], src[1], dst[0], dst[1]].into_iter().enumerate() {
            message[12 + 8 * at..20 + 8 * at].copy_from_slice(&word.to_ne_bytes());
        }
    } else {
        message[12..16].copy_from_slice(&(src[0] as u32).to_ne_bytes());
        message[16..20].copy_from_slice(&(dst[0] as u32).to_ne_bytes());
    }
    message
}

/// What a client offers beyond its MSS: it is answered with the same, as far as Shunt has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offer {
    /// The scale of its windows, 0 to 14.
    pub window_scale: Option<u8>,
    /// Selective acknowledgments.
    pub sack: bool,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: bool,
}

impl Offer {
    /// The timestamp to answer with: the clock with the offer in its lowest bits. `now` in
    /// milliseconds, wrapping. It may be up to 63 ms ahead of the clock.
    pub fn timestamp(&self, now: u32) -> u32 {
        let scale = self.window_scale.map_or(NO_SCALE, u32::from);
        let bits = scale | u32::from(self.sack) << 4 | u32::from(self.ecn) << 5;
        now >> OFFER_BITS << OFFER_BITS | bits
    }

    /// The offer in such a timestamp.
    pub fn of_timestamp(timestamp: u32) -> Self {
        let scale = timestamp & 15;
        Offer {
            window_scale: (scale != NO_SCALE).then_some(scale as u8),
            sack: timestamp >> 4 & 1 == 1,
            ecn: timestamp >> 5 & 1 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::wire::flow::Protocol;

    const SECRET: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    const COUNT: u32 = 1 << COUNT_SHIFT;

    fn claim<A>(src: A, dst: A, sport: u16, isn: u32, timestamps: bool) -> Claim<A> {
        let key = FlowKey { src, dst, sport, dport: 80, protocol: Protocol::Tcp };
        Claim { key, isn, timestamps }
    }

    fn v4() -> Claim<Ipv4Addr> {
        let (client, vip) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 10));
        claim(client, vip, 40_000, 0x1020_3040, true)
    }

    fn v6() -> Claim<Ipv6Addr> {
        let (client, vip) = ("2001:db8:99::7".parse().unwrap(), "2001:db8:1::10".parse().unwrap());
        claim(client, vip, 40_000, 0x1020_3040, true)
    }

    /// SipHash-2-4's own test vector: the hash is the one that others compute.
    #[test]
    fn the_hash_is_siphash_2_4() {
        let hasher = SipHasher24::new_with_keys(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(hasher.hash(&message), 0xa129_ca61_49be_45e5);
    }

    /// Computed by an implementation of its own (SipHash in Python, from the paper).
    #[test]
    fn golden_vectors() {
        let mut cookies = SynCookies::new(SECRET);
        assert_eq!(cookies.mint(&v4(), 1460, 0), 0x179b_a4bc);
        assert_eq!(cookies.mint(&v4(), 1460, COUNT), 0xee6a_d2fd);
        assert_eq!(cookies.mint(&v6(), 1440, 0xffff_ffff), 0x89b4_92f9);
        let plain = Claim { timestamps: false, ..v6() };
        assert_eq!(cookies.mint(&plain, 536, 300 * COUNT), 0x18c8_38e4);
    }

    #[test]
    fn a_cookie_is_good_in_its_count_and_the_next() {
        let mut cookies = SynCookies::new(SECRET);
        // Also over the end of a key and of the clock.
        for start in [0, COUNT, 255 * COUNT, 256 * COUNT, 0u32.wrapping_sub(COUNT)] {
            for into in [0, 1000, COUNT - 1] {
                let minted = start.wrapping_add(into);
                let cookie = cookies.mint(&v4(), 1400, minted);
                let mut good = |at: u32| cookies.verify(&v4(), cookie, at) == Some(1400);
                assert!(good(minted) && good(start.wrapping_add(2 * COUNT - 1)), "{start} {into}");
                for later in [2, 3, 4, 5, 256, 257, 1000] {
                    assert!(!good(start.wrapping_add(later * COUNT)), "{start}: {later} counts");
                }
                assert!(!good(start.wrapping_sub(1)), "{start}: before it was minted");
            }
        }
    }

    #[test]
    fn keys_rotate_and_differ_by_secret() {
        let mut cookies = SynCookies::new(SECRET);
        let hash = |cookies: &mut SynCookies, count| cookies.first.key(count).hash(b"x");
        let (first, same, next) =
            (hash(&mut cookies, 0), hash(&mut cookies, 255), hash(&mut cookies, 256));
        assert_eq!(first, same);
        assert_ne!(first, next);
        assert_eq!(hash(&mut cookies, 255), first, "the key before is still accepted");
        assert_eq!(cookies.first.keys.map(|key| key.generation), [1, 0]);
        let mut other = SynCookies::new(SECRET + 1);
        let mut third = SynCookies::new(SECRET + (1 << 64));
        assert_ne!(hash(&mut other, 0), first);
        assert_ne!(hash(&mut third, 0), first);
        assert_eq!(other.verify(&v4(), cookies.mint(&v4(), 1460, 0), 0), None);
    }

    #[test]
    fn sizes_are_rounded_down() {
        let mut cookies = SynCookies::new(SECRET);
        assert!(MSS.is_sorted());
        let rounded = [
            (0, 88),
            (88, 88),
            (215, 88),
            (535, 216),
            (536, 536),
            (1459, 1452),
            (1460, 1460),
            (8939, 1460),
            (8960, 8940),
            (65_535, 8940),
        ];
        for (mss, expected) in rounded {
            let cookie = cookies.mint(&v4(), mss, 7);
            assert_eq!(cookies.verify(&v4(), cookie, 7), Some(expected), "{mss}");
        }
    }

    /// Of random numbers one in 2^27 is a good cookie: of two million, none or hardly one.
    #[test]
    fn a_guess_is_hardly_ever_right() {
        let mut cookies = SynCookies::new(SECRET);
        let mut state = 1u64;
        let right = (0..2_000_000)
            .filter(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                cookies.verify(&v4(), (state >> 32) as u32, 5).is_some()
            })
            .count();
        assert!(right <= 1, "{right}");
    }

    proptest! {
        #[test]
        fn every_cookie_verifies_and_only_for_its_own_claim(
            src: Ipv4Addr, dst: Ipv4Addr, src6: Ipv6Addr, dst6: Ipv6Addr, sport: u16, isn: u32,
            timestamps: bool, secret: u128, now: u32, mss: u16, flip in 0..96u32,
        ) {
            let mut cookies = SynCookies::new(secret);
            let claim4 = claim(src, dst, sport, isn, timestamps);
            let cookie = cookies.mint(&claim4, mss, now);
            let carried = cookies.verify(&claim4, cookie, now);
            prop_assert!(carried.is_some_and(|size| size <= mss.max(88)));
            prop_assert_eq!(cookies.clone().verify(&claim4, cookie, now), carried);
            // One bit of the claim is another.
            let (mut other, bit) = (claim4, flip % 32);
            match flip / 32 {
                0 => other.key.src = Ipv4Addr::from_bits(src.to_bits() ^ 1 << bit),
                1 => other.key.dst = Ipv4Addr::from_bits(dst.to_bits() ^ 1 << bit),
                _ => other.isn ^= 1 << bit,
            }
            prop_assert_eq!(cookies.verify(&other, cookie, now), None);
            other = claim4;
            other.timestamps = !timestamps;
            prop_assert_eq!(cookies.verify(&other, cookie, now), None);
            other = claim4;
            other.key.sport ^= 1 << (flip % 16);
            prop_assert_eq!(cookies.verify(&other, cookie, now), None);
            other = claim4;
            other.key.dport ^= 1 << (flip % 16);
            prop_assert_eq!(cookies.verify(&other, cookie, now), None);

            let claim6 = claim(src6, dst6, sport, isn, timestamps);
            let cookie = cookies.mint(&claim6, mss, now);
            prop_assert_eq!(cookies.verify(&claim6, cookie, now), carried);
            let mut other = claim6;
            other.key.src = Ipv6Addr::from_bits(src6.to_bits() ^ 1 << flip);
            prop_assert_eq!(cookies.verify(&other, cookie, now), None);
            // One bit of the cookie's MAC is another.
            prop_assert_eq!(cookies.verify(&claim6, cookie ^ 1 << (5 + flip % 27), now), None);
        }

        #[test]
        fn an_offer_travels_in_a_timestamp(
            window_scale in prop::option::of(0..=14u8), sack: bool, ecn: bool, now: u32,
        ) {
            let offer = Offer { window_scale, sack, ecn };
            let timestamp = offer.timestamp(now);
            prop_assert_eq!(Offer::of_timestamp(timestamp), offer);
            prop_assert!((timestamp.wrapping_sub(now) as i32).abs() < 64);
        }
    }

    #[test]
    fn a_second_secret_is_accepted_and_does_not_mint() {
        let claim = Claim {
            key: FlowKey {
                src: std::net::Ipv4Addr::new(192, 0, 2, 1),
                dst: std::net::Ipv4Addr::new(198, 51, 100, 1),
                sport: 1_000,
                dport: 80,
                protocol: Protocol::Tcp,
            },
            isn: 7,
            timestamps: false,
        };
        let (mut old, mut new) = (SynCookies::new(1), SynCookies::new(2));
        let [of_old, of_new] = [&mut old, &mut new].map(|cookies| cookies.mint(&claim, 1460, 0));
        let mut node = SynCookies::new(1);
        let verify =
            |node: &mut SynCookies| [of_old, of_new].map(|c| node.verify(&claim, c, 9).is_some());
        assert_eq!((verify(&mut node), node.mint(&claim, 1460, 0)), ([true, false], of_old));
        node.change(1, Some(2));
        assert_eq!((verify(&mut node), node.mint(&claim, 1460, 0)), ([true, true], of_old));
        node.change(2, Some(1));
        assert_eq!((verify(&mut node), node.mint(&claim, 1460, 0)), ([true, true], of_new));
        node.change(2, None);
        assert_eq!(verify(&mut node), [false, true]);
    }
}
