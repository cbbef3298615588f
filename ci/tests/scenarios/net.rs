//! The network of the scenarios: a switch with a client side and a server side, and the snapshot
//! that configures it, put together by hand.
//!
//! ```text
//!  client 198.51.100.7 ── router 192.0.2.1 ── front [switch] back ── servers 10.0.0.11 …
//!         2001:db8:99::7         2001:db8:1::1                        2001:db8:2::11 …
//! ```
//! One-armed, router and servers are on the same port, `front`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt::datapath::snapshot::{
    BUCKETS, LocalAddress, LocalAddresses, Mac, Port, PortId, PortRole, Route, RouteTarget, Server,
    Service, Side, Snapshot, Timeouts,
};
use shunt::sched::SchedulerKind;
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::flow::Protocol;

pub const FRONT: PortId = PortId(0);
pub const BACK: PortId = PortId(1);
/// The exception tap of `front`.
pub const TAP: PortId = PortId(2);

pub const FRONT_MAC: Mac = [2, 0, 0, 0, 0, 0xf0];
pub const BACK_MAC: Mac = [2, 0, 0, 0, 0, 0xb0];
pub const ROUTER_MAC: Mac = [2, 0, 0, 0, 1, 1];

/// The MAC address of the server whose address ends in `n`.
pub const fn server_mac(n: u8) -> Mac {
    [2, 0, 0, 0, 2, n]
}

pub const TIMEOUTS: Timeouts = Timeouts::DEFAULT;
/// Short ones, so that little time has to pass for all states.
pub const SHORT_TIMEOUTS: Timeouts = Timeouts {
    tcp_syn: 1000,
    tcp_established: 4000,
    tcp_fin: 500,
    udp: 2000,
    tcp_syn_received: 1500,
    tcp_fin_wait: 2500,
    tcp_time_wait: 700,
    tcp_close: 300,
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn pick(self, v4: &str, v6: &str) -> IpAddr {
        ip(if self == Family::V4 { v4 } else { v6 })
    }
    pub fn client(self) -> IpAddr {
        self.pick("198.51.100.7", "2001:db8:99::7")
    }
    pub fn vip(self) -> IpAddr {
        self.pick("192.0.2.10", "2001:db8:1::10")
    }
    pub fn front(self) -> IpAddr {
        self.pick("192.0.2.2", "2001:db8:1::2")
    }
    pub fn back(self) -> IpAddr {
        self.pick("10.0.0.1", "2001:db8:2::1")
    }
    pub fn router(self) -> IpAddr {
        self.pick("192.0.2.1", "2001:db8:1::1")
    }
    pub fn lip(self) -> IpAddr {
        self.pick("10.0.0.200", "2001:db8:2::200")
    }
    /// The server whose IPv4 address ends in `n`, and its IPv6 address.
    pub fn server(self, n: u8) -> IpAddr {
        self.pick(&format!("10.0.0.{n}"), &format!("2001:db8:2::{n}"))
    }
}

/// A snapshot in the making.
#[derive(Clone)]
pub struct Net {
    pub snapshot: Snapshot,
}

impl Net {
    /// Client side and server side on two ports.
    pub fn two_armed(workers: usize) -> Self {
        let mut net = Net::empty(workers);
        net.port("front", FRONT_MAC, Side::Client, "192.0.2.2", "2001:db8:1::2");
        net.port("back", BACK_MAC, Side::Server, "10.0.0.1", "2001:db8:2::1");
        net.routes(FRONT, BACK);
        net
    }

    /// All on one port.
    pub fn one_armed(workers: usize) -> Self {
        let mut net = Net::empty(workers);
        net.port("front", FRONT_MAC, Side::Both, "192.0.2.2", "2001:db8:1::2");
        net.routes(FRONT, FRONT);
        net
    }

    fn empty(workers: usize) -> Self {
        Net {
            snapshot: Snapshot {
                generation: 1,
                worker_of: std::array::from_fn(|bucket| (bucket % workers) as u8),
                ..Default::default()
            },
        }
    }

    pub fn workers(&self) -> usize {
        usize::from(*self.snapshot.worker_of.iter().max().unwrap()) + 1
    }

    fn port(&mut self, name: &str, mac: Mac, side: Side, v4: &str, v6: &str) {
        let id = PortId(self.snapshot.ports.len() as u8);
        let (v4, v6): (Ipv4Addr, Ipv6Addr) = (v4.parse().unwrap(), v6.parse().unwrap());
        self.snapshot.ports.push(Port {
            name: name.into(),
            mac,
            mtu: 1500,
            role: PortRole::Wire { side, exception: None },
            ipv4: Some(v4),
            ipv6: Some(v6),
            full_checksums: false,
            ..Default::default()
        });
        self.snapshot.lips.push(LocalAddresses::default());
        self.local(v4.into(), LocalAddress::Port(id));
        self.local(v6.into(), LocalAddress::Port(id));
    }

    pub fn local(&mut self, address: IpAddr, what: LocalAddress) {
        match address {
            IpAddr::V4(a) => self.snapshot.local_v4.insert(a, what),
            IpAddr::V6(a) => self.snapshot.local_v6.insert(a, what),
        };
    }

    fn routes(&mut self, front: PortId, back: PortId) {
        self.route("192.0.2.0/24", front, None);
        self.route("2001:db8:1::/64", front, None);
        self.route("10.0.0.0/24", back, None);
        self.route("2001:db8:2::/64", back, None);
        self.route("0.0.0.0/0", front, Some("192.0.2.1"));
        self.route("::/0", front, Some("2001:db8:1::1"));
    }

    /// Adds a route before those with a shorter prefix.
    pub fn route(&mut self, to: &str, port: PortId, via: Option<&str>) {
        let to: ipnet::IpNet = to.parse().unwrap();
        let list = match to {
            ipnet::IpNet::V4(_) => &mut self.snapshot.routes_v4,
            ipnet::IpNet::V6(_) => &mut self.snapshot.routes_v6,
        };
        list.retain(|route| route.to != to);
        list.push(Route { to, target: RouteTarget { port, via: via.map(ip) } });
        list.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
    }

    /// Gives `front` an exception tap.
    pub fn with_tap(mut self) -> Self {
        let mut tap = self.snapshot.ports[0].clone();
        let id = PortId(self.snapshot.ports.len() as u8);
        tap.name = "sl-front".into();
        tap.role = PortRole::Exception { wire: FRONT };
        if let PortRole::Wire { exception, .. } = &mut self.snapshot.ports[0].role {
            *exception = Some(id);
        }
        self.snapshot.ports.push(tap);
        self.snapshot.lips.push(LocalAddresses::default());
        self
    }

    pub fn service(&mut self, protocol: Protocol, listen: &[SocketAddr], mode: Mode) -> ServiceId {
        let id = ServiceId(self.snapshot.services.len() as u16);
        self.snapshot.services.push(Service {
            name: format!("service-{}", id.0),
            protocol,
            listen: listen.to_vec(),
            mode,
            scheduler: SchedulerKind::Wrr,
            timeouts: TIMEOUTS,
            servers: Vec::new(),
            ..Default::default()
        });
        for at in listen {
            self.local(at.ip(), LocalAddress::Vip);
            match at.ip() {
                IpAddr::V4(a) => {
                    self.snapshot.listeners_v4.insert((a, at.port(), protocol), id);
                }
                IpAddr::V6(a) => {
                    self.snapshot.listeners_v6.insert((a, at.port(), protocol), id);
                }
            }
        }
        id
    }

    pub fn server(&mut self, service: ServiceId, address: IpAddr, port: u16) -> ServerId {
        let id = ServerId(self.snapshot.servers.len() as u16);
        let routes = match address {
            IpAddr::V4(_) => &self.snapshot.routes_v4,
            IpAddr::V6(_) => &self.snapshot.routes_v6,
        };
        let route = routes.iter().find(|r| r.to.contains(&address)).unwrap().target;
        self.snapshot.servers.push(Server {
            service,
            address,
            port,
            weight: 1,
            up: true,
            route,
            ..Default::default()
        });
        self.snapshot.services[usize::from(service.0)].servers.push(id);
        id
    }

    pub fn lip(&mut self, port: PortId, address: IpAddr) {
        self.local(address, LocalAddress::Lip(port));
        let lips = &mut self.snapshot.lips[usize::from(port.0)];
        match address {
            IpAddr::V4(a) => lips.v4.push(a),
            IpAddr::V6(a) => lips.v6.push(a),
        }
    }

    /// The usual services of one mode: TCP port 80 (service 0, server 0 for IPv4 and 1 for IPv6)
    /// and UDP port 53 (service 1, servers 2 and 3), on the same VIPs. The servers listen on 8080
    /// and 5353, or in direct return on the service's own ports.
    pub fn usual(mut self, mode: Mode) -> Self {
        for (protocol, port, rport) in [(Protocol::Tcp, 80, 8080), (Protocol::Udp, 53, 5353)] {
            let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), port));
            let service = self.service(protocol, &listen, mode);
            for family in Family::BOTH {
                let rport = if mode == Mode::Dr { port } else { rport };
                self.server(service, family.server(11), rport);
            }
        }
        if mode == Mode::FullNat {
            let server_side = self.server_side();
            for family in Family::BOTH {
                self.lip(server_side, family.lip());
            }
        }
        self
    }

    /// The port that servers are on.
    pub fn server_side(&self) -> PortId {
        match self.snapshot.ports[0].role {
            PortRole::Wire { side: Side::Both, .. } => FRONT,
            _ => BACK,
        }
    }

    pub fn server_side_mac(&self) -> Mac {
        self.snapshot.ports[usize::from(self.server_side().0)].mac
    }

    /// The worker that owns an outer endpoint: the Toeplitz hash bit by bit, as Microsoft's RSS
    /// specification has it.
    pub fn owner(&self, outer: SocketAddr) -> usize {
        let mut input = match outer.ip() {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        input.extend(outer.port().to_be_bytes());
        let bit = |bytes: &[u8], i: usize| u32::from(bytes[i / 8] >> (7 - i % 8) & 1);
        let mut hash = 0u32;
        for i in (0..input.len() * 8).filter(|&i| bit(&input, i) == 1) {
            hash ^= (0..32).fold(0, |window, j| window << 1 | bit(&RSS_KEY, i + j));
        }
        usize::from(self.snapshot.worker_of[hash as usize % BUCKETS])
    }
}

/// The key of Microsoft's "Verifying the RSS hash calculation".
const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
