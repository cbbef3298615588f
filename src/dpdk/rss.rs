//! Receive side scaling: lets the port's hardware put a packet into the queue of the worker that
//! owns it (design §3), as far as it can. Software steering corrects what it cannot.

use super::capabilities::RssFields;
use crate::datapath::snapshot::{BUCKETS, Side};

/// The hash key of the steering function, 40 bytes as in the Microsoft RSS specification.
pub(super) type Key = [u8; 40];

/// The packets that RSS spreads: TCP and UDP by address and port, other IP by address.
const PROTOCOLS: u64 = dpdk_sys::DPDK_ETH_RSS_IPV4
    | dpdk_sys::DPDK_ETH_RSS_NONFRAG_IPV4_TCP
    | dpdk_sys::DPDK_ETH_RSS_NONFRAG_IPV4_UDP
    | dpdk_sys::DPDK_ETH_RSS_IPV6
    | dpdk_sys::DPDK_ETH_RSS_NONFRAG_IPV6_TCP
    | dpdk_sys::DPDK_ETH_RSS_NONFRAG_IPV6_UDP;

const SOURCE_ONLY: u64 = dpdk_sys::DPDK_ETH_RSS_L3_SRC_ONLY | dpdk_sys::DPDK_ETH_RSS_L4_SRC_ONLY;
const DESTINATION_ONLY: u64 =
    dpdk_sys::DPDK_ETH_RSS_L3_DST_ONLY | dpdk_sys::DPDK_ETH_RSS_L4_DST_ONLY;

/// The hash functions to try on a port that offers `offered`, the best first; the last is none.
pub(super) fn candidates(offered: u64, side: Side) -> Vec<(RssFields, u64)> {
    let protocols = offered & PROTOCOLS;
    let mut candidates = Vec::new();
    if protocols != 0 {
        let outer = match side {
            Side::Client => Some((RssFields::SourceOnly, SOURCE_ONLY)),
            Side::Server => Some((RssFields::DestinationOnly, DESTINATION_ONLY)),
            // The outer endpoint is the source of some packets and the destination of others.
            Side::Both => None,
        };
        if let Some((fields, bits)) = outer.filter(|(_, bits)| offered & bits == *bits) {
            candidates.push((fields, protocols | bits));
        }
        candidates.push((RssFields::All, protocols));
    }
    candidates.push((RssFields::None, 0));
    candidates
}

/// Whether a driver offers RSS but does not spread packets by it: net_null has nothing to spread, and
/// net_tap does it only for `rte_flow` rules (the kernel spreads over its queues in its own way).
pub(super) fn is_pretence(driver: &str) -> bool {
    matches!(driver, "net_null" | "net_tap")
}

/// What a port offers, in the words of [`super::Capabilities`].
pub(super) fn offered(bits: u64) -> Vec<RssFields> {
    let mut fields = Vec::new();
    if bits & PROTOCOLS != 0 {
        fields.push(RssFields::All);
        if bits & SOURCE_ONLY == SOURCE_ONLY {
            fields.push(RssFields::SourceOnly);
        }
        if bits & DESTINATION_ONLY == DESTINATION_ONLY {
            fields.push(RssFields::DestinationOnly);
        }
    }
    fields
}

/// The key in the length the port wants; `None` when that cannot be served. Address and port of one
/// endpoint take 18 bytes of input, for which the first 22 bytes of the key count: more are filler.
pub(super) fn key_of_length(key: &Key, len: usize) -> Option<Vec<u8>> {
    (len >= key.len()).then(|| key.iter().copied().cycle().take(len).collect())
}

/// The redirection table: bucket → queue of the worker that owns it. The port indexes it by the low
/// bits of the hash, so a table that is a multiple of 128 holds the 128 buckets again and again; a
/// smaller one cannot hold them and just spreads.
pub(super) fn table(
    size: u16,
    worker_of: &[u8; BUCKETS],
    rx_queues: u16,
) -> Vec<dpdk_sys::rte_eth_rss_reta_entry64> {
    let group = dpdk_sys::RTE_ETH_RETA_GROUP_SIZE as usize;
    let mut groups =
        vec![dpdk_sys::rte_eth_rss_reta_entry64::default(); usize::from(size).div_ceil(group)];
    for i in 0..usize::from(size) {
        let entry = &mut groups[i / group];
        entry.mask |= 1 << (i % group);
        entry.reta[i % group] = u16::from(worker_of[i % BUCKETS]) % rx_queues.max(1);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_hash_for_the_side_comes_first() {
        let all = PROTOCOLS | SOURCE_ONLY | DESTINATION_ONLY;
        let first = |offered, side| candidates(offered, side)[0];
        assert_eq!(first(all, Side::Client), (RssFields::SourceOnly, PROTOCOLS | SOURCE_ONLY));
        assert_eq!(
            first(all, Side::Server),
            (RssFields::DestinationOnly, PROTOCOLS | DESTINATION_ONLY)
        );
        assert_eq!(first(all, Side::Both), (RssFields::All, PROTOCOLS));
        assert_eq!(first(PROTOCOLS | DESTINATION_ONLY, Side::Client), (RssFields::All, PROTOCOLS));
        assert_eq!(first(SOURCE_ONLY, Side::Client), (RssFields::None, 0));
        assert_eq!(candidates(all, Side::Client).last(), Some(&(RssFields::None, 0)));
        assert_eq!(SOURCE_ONLY, (1 << 63) | (1 << 61));
        assert_eq!(DESTINATION_ONLY, (1 << 62) | (1 << 60));
    }

    #[test]
    fn tables_repeat_the_buckets() {
        let worker_of = std::array::from_fn(|i| (i % 3) as u8);
        let groups = table(512, &worker_of, 3);
        assert_eq!(groups.len(), 8);
        for i in 0..512 {
            assert_eq!(usize::from(groups[i / 64].reta[i % 64]), (i % 128) % 3);
        }
        assert!(groups.iter().all(|g| g.mask == u64::MAX));
        // Fewer queues than workers: wrapped.
        assert_eq!(table(128, &worker_of, 2)[0].reta[2], 0);
        assert_eq!(table(32, &worker_of, 3)[0].mask, u64::from(u32::MAX));
        assert!(table(0, &worker_of, 3).is_empty());
    }

    #[test]
    fn keys_are_filled_up() {
        let key: Key = std::array::from_fn(|i| i as u8);
        let long = key_of_length(&key, 52).unwrap();
        assert_eq!(long[..40], key);
        assert_eq!(long[40..], key[..12]);
        assert_eq!(key_of_length(&key, 0), None);
        assert_eq!(key_of_length(&key, 16), None);
    }
}
