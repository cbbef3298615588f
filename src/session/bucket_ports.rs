//! Which ports of an address fall into a steering bucket, without a list for each address.
//!
//! The Toeplitz hash is linear: `bucket(address, port) = bucket(address, 0) ^ bucket(0, port)`. So
//! one list of all ports, by the bucket they have with the unspecified address, serves every address
//! of a family. The two nodes of a pair share the ports between them by their lowest bit, as FullNAT
//! does ([`super::ports`]).

use std::ops::RangeInclusive;

use crate::wire::toeplitz::BUCKETS;

/// All ports of one node and one address family, by bucket.
#[derive(Debug)]
pub struct BucketPorts {
    /// Ascending within each bucket.
    ports: Box<[u16]>,
    /// Where each bucket begins; one more for the end.
    starts: [u32; BUCKETS + 1],
}

impl BucketPorts {
    /// Lists the ports from 1 to 65535 whose lowest bit is `node_id`. `bucket_of` gives the bucket,
    /// below 128, of the unspecified address with that port.
    pub fn new(node_id: u8, bucket_of: impl Fn(u16) -> usize) -> Self {
        let mut by_bucket = vec![Vec::new(); BUCKETS];
        for port in (1..=u16::MAX).filter(|port| port & 1 == u16::from(node_id)) {
            by_bucket[bucket_of(port)].push(port);
        }
        let mut starts = [0; BUCKETS + 1];
        for (bucket, list) in by_bucket.iter().enumerate() {
            starts[bucket + 1] = starts[bucket] + list.len() as u32;
        }
        BucketPorts { ports: by_bucket.concat().into(), starts }
    }

    /// The ports of `range` that fall into `bucket` together with an address whose own bucket (with
    /// port 0) is `of_address`; ascending.
    pub fn of(&self, of_address: usize, bucket: usize, range: &RangeInclusive<u16>) -> &[u16] {
        let class = (of_address ^ bucket) % BUCKETS;
        let all = &self.ports[self.starts[class] as usize..self.starts[class + 1] as usize];
        let first = all.partition_point(|port| port < range.start());
        let end = all.partition_point(|port| port <= range.end());
        &all[first..end.max(first)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::toeplitz::STEERING;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn ports(node_id: u8, v6: bool) -> BucketPorts {
        let zero: IpAddr =
            if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        BucketPorts::new(node_id, |port| STEERING.bucket_of(zero, port))
    }

    #[test]
    fn they_are_the_ports_that_the_hash_puts_there() {
        for (v6, address) in [(false, "203.0.113.5"), (true, "2001:db8::5")] {
            let address: IpAddr = address.parse().unwrap();
            let mut seen = 0;
            for node in [0, 1] {
                let ports = ports(node, v6);
                for bucket in 0..BUCKETS {
                    let list = ports.of(STEERING.bucket_of(address, 0), bucket, &(1024..=65_535));
                    assert_eq!(list.len(), 252);
                    assert!(list.is_sorted());
                    for &port in list {
                        assert_eq!(STEERING.bucket_of(address, port), bucket, "{address} {port}");
                        assert!(port >= 1024 && port & 1 == u16::from(node));
                    }
                    seen += list.len();
                }
            }
            assert_eq!(seen, 64_512);
        }
    }

    /// What makes a short range of ports usable: no bucket goes without.
    #[test]
    fn each_kilo_of_ports_has_four_for_each_node_and_bucket() {
        for (node, v6) in [(0, false), (1, false), (0, true), (1, true)] {
            let ports = ports(node, v6);
            for first in (1024..=u16::MAX).step_by(1024) {
                for bucket in 0..BUCKETS {
                    assert_eq!(ports.of(0, bucket, &(first..=first + 1023)).len(), 4);
                }
            }
        }
    }

    #[test]
    fn a_range_cuts_both_ends() {
        let ports = ports(0, false);
        let all = ports.of(7, 9, &(1..=u16::MAX)).to_vec();
        let (first, last) = (all[3], all[10]);
        assert_eq!(ports.of(7, 9, &(first..=last)), &all[3..=10]);
        assert_eq!(ports.of(7, 9, &(first + 1..=last - 1)), &all[4..10]);
        assert_eq!(ports.of(7, 9, &(first..=first)), &[first]);
        let (low, high) = (all[3] + 1, all[3]);
        assert_eq!(ports.of(7, 9, &(low..=high)), &[] as &[u16]);
    }
}
