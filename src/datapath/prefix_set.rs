//! A set of IP prefixes of both families: is this address in one of them?
//!
//! A compressed multibit trie for each family. The prefixes, without those that another covers, lie
//! in one sorted array: the leaves. A node tells the prefixes below it apart by the six bits that
//! follow all they have in common, so each step on the way down takes at least six bits of the
//! address: at most 6 steps for IPv4 and 22 for IPv6, however many prefixes there are (three or four
//! for a million random ones). Bits that were skipped are compared once, at the leaf. The 64
//! children of a node are stored as runs of equal ones: a bitmap marks where a run begins.
//!
//! Memory: a leaf is 5 bytes for IPv4 and 17 for IPv6; the nodes above it cost 10 to 15 bytes a
//! prefix. A million prefixes take at most 20 MB in IPv4 and 32 MB in IPv6.
//!
//! Immutable once built. Building sorts the prefixes and takes well under a second for a million.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use ipnet::IpNet;

/// Address bits that one node looks at.
const STRIDE: u8 = 6;
/// Prefixes of one family: nodes take less than 16 words for each, and are numbered by words.
const MAX_LEAVES: usize = 1 << 27;
/// Children of a node.
const FAN_OUT: usize = 1 << STRIDE;

/// A set of prefixes. See the module.
#[derive(Clone, Default, PartialEq)]
pub struct PrefixSet {
    v4: Trie<u32>,
    v6: Trie<u128>,
}

impl PrefixSet {
    /// The set of these prefixes; bits behind a prefix do not matter.
    ///
    /// # Panics
    /// With 2^27 prefixes of a family or more.
    pub fn new(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(p) => v4.push((p.network().to_bits(), p.prefix_len())),
                IpNet::V6(p) => v6.push((p.network().to_bits(), p.prefix_len())),
            }
        }
        PrefixSet { v4: Trie::new(v4), v6: Trie::new(v6) }
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.v4.leaves.is_empty() && self.v6.leaves.is_empty()
    }

    /// How many prefixes there are, without those that lie within another.
    pub fn len(&self) -> usize {
        self.v4.leaves.len() + self.v6.leaves.len()
    }

    /// Whether the address is in one of the prefixes.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.contains_v4(a),
            IpAddr::V6(a) => self.contains_v6(a),
        }
    }

    /// As [`PrefixSet::contains`], for IPv4.
    #[inline]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.contains(address.to_bits())
    }

    /// As [`PrefixSet::contains`], for IPv6.
    #[inline]
    pub fn contains_v6(&self, address: Ipv6Addr) -> bool {
        self.v6.contains(address.to_bits())
    }

    /// The memory of the set, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.v4.memory_bytes() + self.v6.memory_bytes()
    }
}

impl FromIterator<IpNet> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        PrefixSet::new(prefixes)
    }
}

/// A million prefixes are nothing to print.
impl fmt::Debug for PrefixSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrefixSet({} IPv4, {} IPv6)", self.v4.leaves.len(), self.v6.leaves.len())
    }
}

/// An address as a number.
trait Bits: Copy + Ord + Default {
    const LEN: u8;
    /// The bits `at..at + 6` as a number; those behind the end are 0.
    fn slot(self, at: u8) -> usize;
    /// How many leading bits are the same.
    fn common(self, other: Self) -> u8;
}

macro_rules! bits {
    ($($number:ty),*) => {$(
        impl Bits for $number {
            const LEN: u8 = <$number>::BITS as u8;
            #[inline(always)]
            fn slot(self, at: u8) -> usize {
                ((self << at) >> (Self::LEN - STRIDE)) as usize
            }
            #[inline(always)]
            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
        }
    )*};
}
bits!(u32, u128);

/// What a child of a node is: nothing, a leaf or a node.
#[derive(Clone, Copy, PartialEq)]
struct Child(u32);

impl Child {
    const NONE: Child = Child(u32::MAX);
    const LEAF: u32 = 1 << 31;
}

/// A prefix. Packed, since leaves are looked at one at a time, in no order: what counts is that they
/// are few cache lines, and that one leaf is one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, packed)]
struct Leaf<B> {
    bits: B,
    length: u8,
}

/// A node is [`HEADER`] words and then its runs, so that most steps on the way down touch one cache
/// line: where the six bits are that tell the children apart, and a bitmap, lower half first, whose
/// bit i says that child i begins a run of equal children. A node's number is where it begins.
#[derive(Clone, PartialEq)]
struct Trie<B: Copy> {
    root: Child,
    nodes: Vec<u32>,
    /// Sorted; none covers another.
    leaves: Vec<Leaf<B>>,
}

const HEADER: usize = 3;

impl<B: Copy> Default for Trie<B> {
    fn default() -> Self {
        Trie { root: Child::NONE, nodes: Vec::new(), leaves: Vec::new() }
    }
}

impl<B: Bits> Trie<B> {
    fn new(mut prefixes: Vec<(B, u8)>) -> Self {
        // A prefix comes right before what it covers.
        prefixes.sort_unstable();
        prefixes.dedup_by(|next, kept| next.0.common(kept.0) >= kept.1);
        assert!(prefixes.len() < MAX_LEAVES, "more prefixes than a set can number");
        let leaves = prefixes.iter().map(|&(bits, length)| Leaf { bits, length }).collect();
        drop(prefixes);
        let mut trie = Trie { leaves, ..Trie::default() };
        trie.root = trie.build(0, trie.leaves.len());
        trie.nodes.shrink_to_fit();
        trie
    }

    /// Makes what leads to the leaves `from..to`. Goes no deeper than the address has strides.
    fn build(&mut self, from: usize, to: usize) -> Child {
        match to - from {
            0 => return Child::NONE,
            1 => return Child(from as u32 | Child::LEAF),
            _ => {}
        }
        let bits = |leaf: Leaf<B>| leaf.bits;
        // None covers another, so each is longer than what the first and the last have in common.
        let at = bits(self.leaves[from]).common(bits(self.leaves[to - 1]));
        let mut starts = 0u64;
        let mut runs = ArrayVec::<Child, FAN_OUT>::new();
        let mut run = |slot: usize, child| {
            starts |= 1 << slot;
            runs.push(child);
        };
        let (mut leaf, mut free) = (from, 0);
        while leaf < to {
            let slot = bits(self.leaves[leaf]).slot(at);
            if slot > free {
                run(free, Child::NONE);
            }
            let (first, length) = (leaf, self.leaves[leaf].length);
            leaf += 1;
            // A short prefix takes several slots.
            free = slot + (1 << (at + STRIDE).saturating_sub(length));
            while leaf < to && bits(self.leaves[leaf]).slot(at) < free {
                leaf += 1;
            }
            run(slot, self.build(first, leaf));
        }
        if free < FAN_OUT {
            run(free, Child::NONE);
        }
        let node = self.nodes.len() as u32;
        self.nodes.extend([u32::from(at), starts as u32, (starts >> 32) as u32]);
        self.nodes.extend(runs.iter().map(|child| child.0));
        Child(node)
    }

    #[inline]
    fn contains(&self, address: B) -> bool {
        let mut child = self.root;
        while child.0 & Child::LEAF == 0 {
            let node = &self.nodes[child.0 as usize..];
            let starts = u64::from(node[1]) | u64::from(node[2]) << 32;
            let up_to_slot = u64::MAX >> (FAN_OUT - 1 - address.slot(node[0] as u8));
            let run = (starts & up_to_slot).count_ones() as usize - 1;
            child = Child(node[HEADER + run]);
        }
        if child == Child::NONE {
            return false;
        }
        let Leaf { bits, length } = self.leaves[(child.0 & !Child::LEAF) as usize];
        bits.common(address) >= length
    }

    fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<u32>() + self.leaves.capacity() * size_of::<Leaf<B>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    fn set(prefixes: &[&str]) -> PrefixSet {
        prefixes.iter().map(|p| p.parse::<IpNet>().unwrap()).collect()
    }

    fn in_set(prefixes: &[&str], address: &str) -> bool {
        set(prefixes).contains(address.parse().unwrap())
    }

    #[test]
    fn the_edges() {
        let none = set(&[]);
        assert!(none.is_empty() && !none.contains("10.0.0.1".parse().unwrap()));
        assert!(!none.contains("::".parse().unwrap()));
        assert!(in_set(&["0.0.0.0/0"], "255.255.255.255"));
        assert!(!in_set(&["0.0.0.0/0"], "::1"));
        assert!(in_set(&["::/0"], "ffff::"));
        assert!(in_set(&["10.0.0.1/32"], "10.0.0.1"));
        assert!(!in_set(&["10.0.0.1/32"], "10.0.0.0"));
        let two = ["10.0.0.0/8", "255.255.255.255/32"];
        assert!(in_set(&two, "10.255.255.255") && in_set(&two, "255.255.255.255"));
        assert!(!in_set(&two, "11.0.0.0") && !in_set(&two, "255.255.255.254"));
    }

    #[test]
    fn what_is_covered_counts_once() {
        let s = set(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "11.0.0.0/8", "10.0.0.0/8"]);
        assert_eq!(s.len(), 2);
        assert_eq!(format!("{s:?}"), "PrefixSet(2 IPv4, 0 IPv6)");
    }

    /// Every prefix of a chain in which each leaves the other half to the next: the deepest trie.
    #[test]
    fn the_deepest_trie() {
        let chain = |len: u8| Ipv6Net::new(Ipv6Addr::from_bits(1 << (128 - len)), len).unwrap();
        let s = PrefixSet::new((1..=128).map(|len| IpNet::V6(chain(len))));
        assert_eq!(s.len(), 128);
        for len in 1..=128 {
            assert!(s.contains_v6(chain(len).network()) && s.contains_v6(chain(len).broadcast()));
        }
        assert!(!s.contains_v6(Ipv6Addr::UNSPECIFIED));
    }

    /// A million prefixes, scattered as badly as can be: what the module says about memory.
    #[test]
    fn a_million_prefixes_take_so_much_memory() {
        const MILLION: u32 = 1_000_000;
        let scattered = |i: u32| i.wrapping_mul(0x9e37_79b1);
        let v4 = PrefixSet::new(
            (0..MILLION)
                .map(|i| IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(scattered(i)), 32).unwrap())),
        );
        assert_eq!(v4.len(), MILLION as usize);
        let bytes = v4.memory_bytes();
        assert!((10_000_000..20_000_000).contains(&bytes), "{bytes}");
        let v6 = PrefixSet::new((0..MILLION).map(|i| {
            let bits = (0x2001_0000 + u128::from(i % 50)) << 96
                | u128::from(scattered(i)) << 64
                | u128::from(scattered(i / 2));
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(bits), 64).unwrap())
        }));
        assert_eq!(v6.len(), MILLION as usize);
        let bytes = v6.memory_bytes();
        assert!((20_000_000..32_000_000).contains(&bytes), "{bytes}");
        for i in (0..MILLION).step_by(997) {
            assert!(v4.contains_v4(Ipv4Addr::from_bits(scattered(i))));
            assert!(!v4.contains_v4(Ipv4Addr::from_bits(scattered(MILLION + i))));
        }
    }

    /// Prefixes that are often close to one another, and addresses close to them.
    fn v4() -> impl Strategy<Value = (u32, u8)> {
        let bits = prop_oneof![any::<u32>(), (0..64u32).prop_map(|n| 0x0a00_0000 | n)];
        (bits, 0..=32u8)
    }

    fn v6() -> impl Strategy<Value = (u128, u8)> {
        let bits = prop_oneof![any::<u128>(), (0..64u128).prop_map(|n| 0x2001 << 112 | n)];
        (bits, 0..=128u8)
    }

    proptest! {
        #[test]
        fn as_a_list_says_v4(
            prefixes in prop::collection::vec(v4().prop_filter("not all", |p| p.1 > 2), 0..200),
            addresses in prop::collection::vec(v4(), 100),
        ) {
            let nets: Vec<_> = prefixes
                .iter()
                .map(|&(bits, len)| Ipv4Net::new(Ipv4Addr::from_bits(bits), len).unwrap())
                .collect();
            let set = PrefixSet::new(nets.iter().copied().map(IpNet::V4));
            let near = prefixes.iter().flat_map(|p| [p.0, p.0 ^ 1, p.0 ^ 1 << (p.1 % 32)]);
            for bits in addresses.iter().map(|a| a.0).chain(near) {
                let address = Ipv4Addr::from_bits(bits);
                let expected = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(address.into()), expected, "{}", address);
            }
        }

        #[test]
        fn as_a_list_says_v6(
            prefixes in prop::collection::vec(v6().prop_filter("not all", |p| p.1 > 2), 0..200),
            addresses in prop::collection::vec(v6(), 100),
        ) {
            let nets: Vec<_> = prefixes
                .iter()
                .map(|&(bits, len)| Ipv6Net::new(Ipv6Addr::from_bits(bits), len).unwrap())
                .collect();
            let set = PrefixSet::new(nets.iter().copied().map(IpNet::V6));
            let near = prefixes.iter().flat_map(|p| [p.0, p.0 ^ 1, p.0 ^ 1 << (p.1 % 128)]);
            for bits in addresses.iter().map(|a| a.0).chain(near) {
                let address = Ipv6Addr::from_bits(bits);
                let expected = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(address.into()), expected, "{}", address);
            }
        }
    }
}
