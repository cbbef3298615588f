//! From the bytes of a frame to the [`Flow`] the data path works on, or the reason to drop it.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address of one family: [`Ipv4Addr`] or [`Ipv6Addr`]. The data path is generic over it, so
/// each family has its own compact session table and its own machine code.
pub trait Address:
    Copy + Eq + Ord + Hash + fmt::Debug + fmt::Display + Into<IpAddr> + Send + 'static
{
    /// The all-zero address.
    const UNSPECIFIED: Self;
    /// Whether this is the IPv6 family.
    const V6: bool;
    /// The address as two 64-bit words, for hashing.
    fn folded(self) -> [u64; 2];
    /// The address in that family, if `ip` is of it.
    fn from_ip(ip: IpAddr) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const UNSPECIFIED: Self = Ipv4Addr::UNSPECIFIED;
    const V6: bool = false;
    #[inline(always)]
    fn folded(self) -> [u64; 2] {
        [u64::from(u32::from_ne_bytes(self.octets())), 0]
    }
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for Ipv6Addr {
    const UNSPECIFIED: Self = Ipv6Addr::UNSPECIFIED;
    const V6: bool = true;
    #[inline(always)]
    fn folded(self) -> [u64; 2] {
        let v = u128::from_ne_bytes(self.octets());
        [v as u64, (v >> 64) as u64]
    }
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        }
    }
}

/// The transport protocols that have sessions. The value is the IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp = 6,
    /// UDP (RFC 768).
    Udp = 17,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        self as u8
    }
    /// "tcp" or "udp", as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Addresses, ports and protocol of a packet, as it stands on the wire: the key of the session
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, host order.
    pub sport: u16,
    /// Destination port, host order.
    pub dport: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl<A: Address> fmt::Display for FlowKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst): (IpAddr, IpAddr) = (self.src.into(), self.dst.into());
        write!(
            f,
            "{} {} -> {}",
            self.protocol,
            std::net::SocketAddr::new(src, self.sport),
            std::net::SocketAddr::new(dst, self.dport)
        )
    }
}
