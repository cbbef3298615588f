//! One session: what the established path needs, in one cache line for IPv4 and two for IPv6.
//!
//! | field | meaning |
//! |---|---|
//! | client, vip | the outer pair: source and destination of a packet from the client |
//! | local, server | the inner pair: source and destination of that packet towards the server |
//! | | (all but `fullnat`: local = client; `dr` and tunnels: server = the real server's address, |
//! | | never written; unspecified when it is of the other family: look it up by `server_id`) |
//! | end | TCP: how far the stream of each side has come |
//! | delta | one's-complement difference the forward rewrite makes to the checksums |

use super::doubt::Doubt;
use super::sequence::Scales;
use crate::wire::flow::{Address, FlowKey, Protocol};

/// Index of a service in the snapshot; stable while the service exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ServiceId(pub u16);

/// Index of a real server of a service in the snapshot; stable while the server exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ServerId(pub u16);

/// A next hop of the worker that owns the session: index and generation in its hop table. A stale
/// generation means that the hop was given up; it is then looked up again by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HopRef {
    /// Index into the worker's hop table.
    pub index: u16,
    /// Must equal the generation of that hop.
    pub generation: u16,
}

/// How packets are forwarded (design §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Destination rewritten to the real server; replies come back through Shunt.
    Nat,
    /// Source rewritten too, to a local address and port.
    FullNat,
    /// Direct server return: only the Ethernet header changes.
    Dr,
    /// Egress SNAT: a session between a host inside and one outside. Opened from inside its source
    /// is rewritten to an endpoint of a pool, opened from outside the destination from there.
    Snat,
    /// The packet goes in an IP header to the real server, which answers directly.
    Ipip,
    /// The same in GRE.
    Gre,
    /// The same in generic UDP encapsulation.
    Gue,
    /// The same in VXLAN.
    Vxlan,
}

impl Mode {
    /// The mode with this number (`as u8`), for those that come from elsewhere.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Mode::Nat,
            1 => Mode::FullNat,
            2 => Mode::Dr,
            3 => Mode::Snat,
            4 => Mode::Ipip,
            5 => Mode::Gre,
            6 => Mode::Gue,
            7 => Mode::Vxlan,
            _ => return None,
        })
    }

    /// Whether addresses and ports are rewritten, and replies come back through Shunt.
    #[inline(always)]
    pub const fn translates(self) -> bool {
        matches!(self, Mode::Nat | Mode::FullNat | Mode::Snat)
    }

    /// Whether packets go to the real server in a tunnel. Its family may then be another than that
    /// of the session.
    #[inline(always)]
    pub const fn tunnels(self) -> bool {
        matches!(self, Mode::Ipip | Mode::Gre | Mode::Gue | Mode::Vxlan)
    }

    /// Whether servers answer clients directly, so that Shunt sees one direction only.
    #[inline(always)]
    pub const fn one_way(self) -> bool {
        !self.translates()
    }
}

/// What is done to a session's packets beyond its rewrite: a set of bits, empty for most sessions,
/// so that the established path has one test for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extras(u16);

impl Extras {
    /// Nothing.
    pub const NONE: Extras = Extras(0);
    /// Its packets are counted against a rate limit.
    pub const POLICED: Extras = Extras(1);
    /// Its packets are copied to a sensor's port.
    pub const MIRRORED: Extras = Extras(2);
    /// Sequence numbers differ between its two sides by [`super::Aside::forward_shift`] and
    /// [`super::Aside::reply_shift`].
    pub const SHIFTED: Extras = Extras(4);
    /// The client's address is still to be told to the server in the stream or in an option.
    pub const INTRODUCED: Extras = Extras(8);
    /// Its packets are marked (DSCP).
    pub const MARKED: Extras = Extras(16);
    /// Client and server are of two families.
    pub const CROSSED: Extras = Extras(1 << 10);
    /// Both ends are inside and meet at an address of an SNAT pool.
    pub const HAIRPIN: Extras = Extras(1 << 15);
    /// The server is told the client's address by a PROXY protocol header, version 1 (without this
    /// and [`Extras::PROXY_V2`]: by the TOA option).
    pub const PROXY_V1: Extras = Extras(1 << 11);
    /// The same, version 2.
    pub const PROXY_V2: Extras = Extras(1 << 12);
    /// With [`Extras::INTRODUCED`]: a packet that told the server is perhaps on its way.
    pub const TOLD: Extras = Extras(1 << 13);
    /// Its handshake was Shunt's (SYN proxy); [`super::Aside::note`] says where the server differs from
    /// what the client was promised.
    pub const PROXIED: Extras = Extras(32);

    /// Every bit that means something.
    const KNOWN: Extras = Extras::POLICED
        .with(Extras::MIRRORED)
        .with(Extras::SHIFTED)
        .with(Extras::INTRODUCED)
        .with(Extras::MARKED)
        .with(Extras::PROXIED)
        .with(Extras::CROSSED)
        .with(Extras::PROXY_V1)
        .with(Extras::PROXY_V2)
        .with(Extras::TOLD)
        .with(Extras::HAIRPIN);

    /// The set as a number.
    pub const fn to_bits(self) -> u16 {
        self.0
    }
    /// The set of a number that comes from elsewhere, unless it has a bit that means nothing.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Extras::KNOWN.0 == 0 { Some(Extras(bits)) } else { None }
    }

    /// Whether there is nothing to do.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether one of `those` is in the set.
    #[inline(always)]
    pub const fn has(self, those: Extras) -> bool {
        self.0 & those.0 != 0
    }
    /// The set with `those`.
    #[must_use]
    pub const fn with(self, those: Extras) -> Extras {
        Extras(self.0 | those.0)
    }
    /// The set without `those`.
    #[must_use]
    pub const fn without(self, those: Extras) -> Extras {
        Extras(self.0 & !those.0)
    }
}

/// Which way a packet of a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the real server.
    Forward,
    /// From the real server to the client.
    Reply,
}

impl Direction {
    /// The other way.
    #[inline(always)]
    #[must_use]
    pub const fn turned(self) -> Self {
        match self {
            Direction::Forward => Direction::Reply,
            Direction::Reply => Direction::Forward,
        }
    }
}

/// The state of a session: TCP as seen in the middle, or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// Not TCP.
    Udp,
    /// The client's SYN was seen.
    SynSent,
    /// The server's SYN-ACK was seen.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// The client has sent FIN.
    FinClient,
    /// The server has sent FIN.
    FinServer,
    /// Both have sent FIN.
    FinBoth,
    /// RST was seen that its receiver accepts.
    Closed,
    /// Both have sent FIN, and the last one was acknowledged.
    TimeWait,
    /// Established, but RST was seen that is perhaps not its sender's, or it was taken up in
    /// mid-stream and not yet confirmed.
    Contested,
    /// The client has completed Shunt's own handshake (SYN proxy) and the server was sent a SYN.
    SynProxied,
}

impl TcpState {
    /// The state with this number (`as u8`), for those that come from elsewhere.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => TcpState::Udp,
            1 => TcpState::SynSent,
            2 => TcpState::SynReceived,
            3 => TcpState::Established,
            4 => TcpState::FinClient,
            5 => TcpState::FinServer,
            6 => TcpState::FinBoth,
            7 => TcpState::Closed,
            8 => TcpState::TimeWait,
            9 => TcpState::Contested,
            10 => TcpState::SynProxied,
            _ => return None,
        })
    }
}

/// One session. 64 bytes for IPv4, 128 for IPv6.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Entry<A> {
    /// The client's address.
    pub client: A,
    /// The virtual address.
    pub vip: A,
    /// Source address towards the server: the client's, or the LIP in FullNAT.
    pub local: A,
    /// The real server's address.
    pub server: A,
    /// The client's port.
    pub client_port: u16,
    /// The virtual port.
    pub vip_port: u16,
    /// Source port towards the server.
    pub local_port: u16,
    /// The real server's port.
    pub server_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// TCP state.
    pub state: TcpState,
    /// Forwarding mode.
    pub mode: Mode,
    /// Whether the slab slot holds a session.
    pub(super) live: bool,
    /// When the last packet was seen, in milliseconds (wrapping); of a session in doubt, or when its
    /// end was asked last.
    pub last_seen: u32,
    /// Idle time after which the session ends, in milliseconds.
    pub timeout: u32,
    /// TCP: how far the client's stream has come, as the client counts ([`super::sequence`]).
    pub forward_end: u32,
    /// The service.
    pub service: ServiceId,
    /// The real server.
    pub server_id: ServerId,
    /// Next hop towards the server.
    pub forward_hop: HopRef,
    /// Next hop towards the client.
    pub reply_hop: HopRef,
    /// Checksum difference of the forward rewrite, IPv4 header (RFC 1624, one's complement).
    pub delta_ip: u16,
    /// Checksum difference of the forward rewrite, TCP/UDP (includes the pseudo header).
    pub delta_transport: u16,
    /// TCP: how far the server's stream has come, as the server counts ([`super::sequence`]).
    pub reply_end: u32,
    /// What is done to the session's packets beyond the rewrite.
    pub extras: Extras,
    /// TCP: the window scales, and whether the marks say something.
    pub scales: Scales,
    /// TCP: of a session in [`TcpState::Contested`], why it is, and how often was asked.
    pub doubt: Doubt,
}

const _: () = assert!(size_of::<Entry<std::net::Ipv4Addr>>() == 64);
const _: () = assert!(size_of::<Entry<std::net::Ipv6Addr>>() == 128);

impl<A> Entry<A> {
    /// The next hop of packets that come in this direction.
    #[inline(always)]
    pub fn hop(&self, direction: Direction) -> HopRef {
        match direction {
            Direction::Forward => self.forward_hop,
            Direction::Reply => self.reply_hop,
        }
    }
}

impl<A: Address> Entry<A> {
    /// The key of packets from the client.
    #[inline(always)]
    pub fn forward_key(&self) -> FlowKey<A> {
        FlowKey {
            src: self.client,
            dst: self.vip,
            sport: self.client_port,
            dport: self.vip_port,
            protocol: self.protocol,
        }
    }

    /// The key of packets from the real server (does not come in `dr`).
    #[inline(always)]
    pub fn reply_key(&self) -> FlowKey<A> {
        FlowKey {
            src: self.server,
            dst: self.local,
            sport: self.server_port,
            dport: self.local_port,
            protocol: self.protocol,
        }
    }

    /// The key of packets that come in this direction.
    #[inline(always)]
    pub fn key(&self, direction: Direction) -> FlowKey<A> {
        match direction {
            Direction::Forward => self.forward_key(),
            Direction::Reply => self.reply_key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_number_is_found_by_it() {
        for bits in 0..=u8::MAX {
            assert_eq!(Mode::from_bits(bits).is_some(), bits <= Mode::Vxlan as u8);
            assert!(Mode::from_bits(bits).is_none_or(|mode| mode as u8 == bits));
            assert_eq!(TcpState::from_bits(bits).is_some(), bits <= TcpState::SynProxied as u8);
            assert!(TcpState::from_bits(bits).is_none_or(|state| state as u8 == bits));
        }
    }

    #[test]
    fn extras_have_eleven_bits() {
        let known = (0..16).filter(|bit| Extras::from_bits(1 << bit).is_some()).count();
        assert_eq!(known, 11);
        let all = Extras::KNOWN;
        assert_eq!(Extras::from_bits(all.to_bits()), Some(all));
        assert_eq!(Extras::from_bits(all.to_bits() | 1 << 6), None);
    }
}
