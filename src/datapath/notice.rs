//! What the data path tells the management thread.

use std::net::IpAddr;

use super::snapshot::{Mac, PortId};

/// What the data path tells the management thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A packet needs this next hop and it is unknown.
    Wanted(PortId, IpAddr),
    /// ARP or neighbor discovery told the MAC address of a host.
    Seen(PortId, IpAddr, Mac),
    /// The path to a server that is reached by a tunnel takes packets of this length, outer headers
    /// included, and no longer ones.
    PathMtu(IpAddr, u16),
}
