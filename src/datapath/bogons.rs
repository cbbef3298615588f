//! Source addresses that do not come from the Internet.

use super::prefix_set::PrefixSet;

/// The special-purpose networks that are not globally reachable (RFC 6890 and the IANA registries
/// it founded), multicast and deprecated site-local addresses. Of 2001::/23 only what has a purpose
/// of its own is in it: parts of that block are globally reachable.
const NETWORKS: [&str; 31] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The set of them.
pub(super) fn bogons() -> PrefixSet {
    NETWORKS.iter().filter_map(|network| network.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_one() {
        assert_eq!(bogons().len(), NETWORKS.len());
    }

    #[test]
    fn private_and_public_addresses() {
        let bogons = bogons();
        for inside in ["10.1.2.3", "100.127.255.255", "198.19.0.1", "2001:db8::1", "fd00::1"] {
            assert!(bogons.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.9.9.9", "100.128.0.0", "198.20.0.1", "2001:4860::8", "2a00::1"] {
            assert!(!bogons.contains(outside.parse().unwrap()), "{outside}");
        }
    }
}
