//! The configuration as a worker sees it: immutable, behind one `Arc`, swapped as a whole.
//!
//! Ids (ports, services, servers) are indexes into the snapshot's vectors. They are given by the
//! management thread and are stable from one snapshot to the next as long as the thing exists, so a
//! session may keep them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::guard::Guard;
use super::ha::Ha;
use super::limits::Limits;
use super::mirror::MirrorId;
use super::policy::Policy;
use super::selection::Selection;
pub use super::snat::rules::{Forward, Snat, SnatRules};
use crate::rewrite::proxy_protocol::Version;
use crate::sched::SchedulerKind;
pub use crate::session::Timeouts;
use crate::session::{Mode, ServerId, ServiceId};
use crate::wire::flow::Protocol;

/// Index of a port in [`Snapshot::ports`]. Exception taps are ports too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortId(pub u8);

/// The number of steering buckets (design §3); the same on every node.
pub use crate::wire::toeplitz::BUCKETS;

/// A MAC address.
pub use crate::wire::ethernet::Mac;

/// Where clients and servers are, seen from a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients only: packets are steered by their source.
    Client,
    /// Real servers: packets are steered by their destination, but those that go to a VIP by their
    /// source.
    Server,
    /// Both (one-armed).
    Both,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRole {
    /// On the wire. `exception` is the tap by which the kernel shares it.
    Wire {
        /// Where clients and servers are.
        side: Side,
        /// The tap of the exception path.
        exception: Option<PortId>,
    },
    /// A tap to the kernel; what comes from it leaves by port `wire`.
    Exception {
        /// The port it belongs to.
        wire: PortId,
    },
}

/// A port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name in the configuration.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// What it is for.
    pub role: PortRole,
    /// The first address of each family: the source of ARP, NDP and ICMP errors.
    pub ipv4: Option<Ipv4Addr>,
    /// See `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// Recompute TCP/UDP checksums in full instead of updating them, since senders on this port
    /// leave them unfinished.
    pub full_checksums: bool,
    /// The VLAN whose tag its frames carry on the wire; 0 for none.
    pub vlan: u16,
    /// When VLANs share its device: the port with whose id frames of the device come in, which is
    /// the untagged one or else the first. `None` for a port with a device of its own and no VLAN.
    pub trunk: Option<PortId>,
}

/// An address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// A service listens on it. Answered for on every port.
    Vip,
    /// An address of a port: packets for it go to the kernel.
    Port(PortId),
    /// A FullNAT source address on that port.
    Lip(PortId),
    /// An address of a pool of SNAT. Answered for on that port.
    Pool(PortId),
}

/// A way out: the port and the next hop's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// The port to leave by.
    pub port: PortId,
    /// The gateway; `None` when the destination is on the link.
    pub via: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destinations.
    pub to: IpNet,
    /// The way out.
    pub target: RouteTarget,
}

/// Whether Shunt completes handshakes with clients before it asks a server (SYN proxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SynProxy {
    /// Never.
    #[default]
    Off,
    /// Always.
    On,
    /// While there are many SYNs.
    Auto {
        /// SYNs per second from which it is on; each worker has its share.
        above: u32,
    },
}

/// A virtual server.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in the configuration.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where it listens.
    pub listen: Vec<std::net::SocketAddr>,
    /// The forwarding mode.
    pub mode: Mode,
    /// The scheduler.
    pub scheduler: SchedulerKind,
    /// Its timeouts.
    pub timeouts: Timeouts,
    /// Its servers of both families, in the order of the configuration.
    pub servers: Vec<ServerId>,
    /// What it does with its sessions beyond forwarding them.
    pub policy: Policy,
    /// What it and its sources may do at most.
    pub limits: Limits,
    /// Where its packets are copied to.
    pub mirror: Option<MirrorId>,
    /// How servers are told the client's address.
    pub introduction: Introduction,
    /// FullNAT: all servers are of one family, and serve clients of the other too.
    pub crossed: bool,
    /// UDP destination port of a tunnel (`gue`, `vxlan`).
    pub tunnel_port: u16,
    /// VXLAN network identifier, 24 bits (`vxlan`).
    pub vni: u32,
    /// How it selects among them beyond the scheduler.
    pub selection: Selection,
    /// Whether handshakes with clients are Shunt's; only of services that are TCP and translate.
    pub syn_proxy: SynProxy,
}

/// How the servers of a FullNAT service are told the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Introduction {
    /// They are not, or see it anyway.
    #[default]
    None,
    /// By a header of the PROXY protocol, version 1, at the beginning of the stream.
    ProxyV1,
    /// The same, version 2.
    ProxyV2,
    /// By the TOA option of TCP.
    Toa,
}

impl Introduction {
    /// The version of the PROXY protocol header, if there is one.
    pub const fn proxy_protocol(self) -> Option<Version> {
        match self {
            Introduction::ProxyV1 => Some(Version::V1),
            Introduction::ProxyV2 => Some(Version::V2),
            Introduction::None | Introduction::Toa => None,
        }
    }
}

/// A real server of one service.
#[derive(Clone, Debug)]
pub struct Server {
    /// The service it belongs to.
    pub service: ServiceId,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight; 0 takes no new sessions.
    pub weight: u16,
    /// Whether its health check passes (or it has none).
    pub up: bool,
    /// The way to it.
    pub route: RouteTarget,
    /// MAC address of its tunnel device (`vxlan`).
    pub inner_mac: Mac,
    /// Takes new sessions only when no other server of the service is up with weight.
    pub backup: bool,
    /// The most open connections; 0 for no limit.
    pub max_connections: u32,
}

/// The local addresses (LIPs) of FullNAT on a port, one family after the other.
#[derive(Clone, Debug, Default)]
pub struct LocalAddresses {
    /// IPv4 LIPs.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 LIPs.
    pub v6: Vec<Ipv6Addr>,
}

/// The whole configuration of the data path.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    /// 0 or 1 in a pair; partitions the FullNAT ports.
    pub node_id: u8,
    /// By [`PortId`].
    pub ports: Vec<Port>,
    /// LIPs by [`PortId`].
    pub lips: Vec<LocalAddresses>,
    /// Longest prefix first; connected networks included.
    pub routes_v4: Vec<Route>,
    /// See `routes_v4`.
    pub routes_v6: Vec<Route>,
    /// By [`ServiceId`].
    pub services: Vec<Service>,
    /// By [`ServerId`].
    pub servers: Vec<Server>,
    /// Which service listens.
    pub listeners_v4: HashMap<(Ipv4Addr, u16, Protocol), ServiceId>,
    /// See `listeners_v4`.
    pub listeners_v6: HashMap<(Ipv6Addr, u16, Protocol), ServiceId>,
    /// Our addresses.
    pub local_v4: HashMap<Ipv4Addr, LocalAddress>,
    /// See `local_v4`.
    pub local_v6: HashMap<Ipv6Addr, LocalAddress>,
    /// The worker that owns each steering bucket.
    pub worker_of: [u8; BUCKETS],
    /// Egress SNAT; see [`Snapshot::set_snats`].
    pub snat: SnatRules,
    /// The packet filter and what else is looked at before any session.
    pub guard: Arc<Guard>,
    /// Whether a service is [crossed](Service::crossed).
    pub crosses: bool,
    /// The pair this node is one of.
    pub ha: Option<Arc<Ha>>,
}

impl Snapshot {
    /// How many workers there are.
    pub fn workers(&self) -> u32 {
        self.worker_of.iter().max().map_or(1, |last| u32::from(*last) + 1)
    }
}

/// A plain service without a name: what a test, or a key the file leaves out, does not say.
impl Default for Service {
    fn default() -> Self {
        Service {
            name: String::new(),
            protocol: Protocol::Tcp,
            listen: Vec::new(),
            mode: Mode::Nat,
            scheduler: SchedulerKind::Wrr,
            timeouts: Timeouts::default(),
            servers: Vec::new(),
            policy: Policy::default(),
            limits: Limits::default(),
            mirror: None,
            introduction: Introduction::None,
            crossed: false,
            tunnel_port: 0,
            vni: 0,
            selection: Selection::default(),
            syn_proxy: SynProxy::Off,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            service: ServiceId(0),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            weight: 1,
            up: true,
            route: RouteTarget { port: PortId(0), via: None },
            inner_mac: [0; 6],
            backup: false,
            max_connections: 0,
        }
    }
}

impl Default for Port {
    fn default() -> Self {
        Port {
            name: String::new(),
            mac: [0; 6],
            mtu: 1500,
            role: PortRole::Wire { side: Side::Both, exception: None },
            ipv4: None,
            ipv6: None,
            full_checksums: false,
            vlan: 0,
            trunk: None,
        }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot {
            generation: 0,
            node_id: 0,
            ports: Vec::new(),
            lips: Vec::new(),
            routes_v4: Vec::new(),
            routes_v6: Vec::new(),
            services: Vec::new(),
            servers: Vec::new(),
            listeners_v4: HashMap::new(),
            listeners_v6: HashMap::new(),
            local_v4: HashMap::new(),
            local_v6: HashMap::new(),
            worker_of: [0; BUCKETS],
            snat: SnatRules::default(),
            guard: Arc::default(),
            crosses: false,
            ha: None,
        }
    }
}
