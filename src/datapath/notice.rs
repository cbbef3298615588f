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
    /// The peer's port has this address.
    PeerAddress(IpAddr),
    /// A VRRP advert that is formally right (TTL, checksum) was heard.
    Vrrp(Advert),
}

impl Notice {
    /// Whether it must get through however much else there is to tell: a flood of ARP must not let a
    /// master seem silent.
    pub(crate) const fn is_urgent(&self) -> bool {
        matches!(self, Notice::Vrrp(_) | Notice::PeerAddress(_))
    }
}

/// A VRRP advert as it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The port it came by.
    pub port: PortId,
    /// Its sender.
    pub source: IpAddr,
    /// The virtual router.
    pub vrid: u8,
    /// The sender's priority; 0 when it leaves.
    pub priority: u8,
    /// Its advertisement interval, in centiseconds.
    pub interval_cs: u16,
    /// How many addresses it names.
    pub addresses: u8,
}
