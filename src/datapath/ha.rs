//! What the data path knows of the pair (design §6): the groups of addresses that one of the two nodes
//! answers for at a time, and the channel on which sessions are kept alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hashbrown::HashMap;

use super::snapshot::{Mac, PortId};

/// The most groups a node can have: a bit each in [`Masters`].
pub const MAX_GROUPS: usize = 32;

/// A virtual router: addresses that move together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The virtual router id, 1 to 255.
    pub vrid: u8,
    /// Whether its addresses have the virtual MAC address (RFC 5798 7.3), else that of the port.
    pub virtual_mac: bool,
}

impl Group {
    /// The virtual MAC address of its IPv4 addresses (RFC 5798 7.3).
    pub const fn mac_v4(&self) -> Mac {
        [0, 0, 0x5e, 0, 1, self.vrid]
    }

    /// The virtual MAC address of its IPv6 addresses.
    pub const fn mac_v6(&self) -> Mac {
        [0, 0, 0x5e, 0, 2, self.vrid]
    }
}

/// The groups that this node is master of: bit i is [`Ha::groups`]`[i]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Masters(pub u32);

impl Masters {
    /// Whether this node is master of the group.
    pub const fn has(self, group: u8) -> bool {
        self.0 >> group & 1 != 0
    }
}

/// The channel to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The port it is on.
    pub port: PortId,
    /// The multicast group and UDP port. Its family is that of `source`.
    pub group: SocketAddr,
    /// Our address on the port.
    pub source: IpAddr,
    /// The peer's address on the same network.
    pub peer: IpAddr,
    /// Sessions per second that this node sends in a bulk walk, over all workers.
    pub rate: u32,
    /// Whether packets in mid-stream without a session are given to the peer.
    pub relay: bool,
    /// A digest of what must be alike on both nodes.
    pub config_digest: u64,
}

/// The pair, in a snapshot. A node without a peer has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ha {
    /// The groups; none in active/active.
    pub groups: Vec<Group>,
    /// The group of an address, as an index into `groups`. An address without one is always ours.
    pub group_of_v4: HashMap<Ipv4Addr, u8>,
    /// See `group_of_v4`.
    pub group_of_v6: HashMap<Ipv6Addr, u8>,
    /// The channel to the peer.
    pub channel: Channel,
}
