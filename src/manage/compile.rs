//! From a configuration and the facts of the running ports to the [`Snapshot`] the workers use.
//!
//! Pure: the same arguments give the same snapshot.
//!
//! Ids follow the order of the configuration. Ports: the wire ports as they stand in the file, then
//! their exception taps in the same order. Services: as they stand. Servers: numbered over all
//! services. They are thus stable as long as the configuration is: state of servers and ports may
//! change from one snapshot to the next, the lists may not. A reload with other lists needs a
//! registry that gives out the ids.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::config::network::{lookup, routes};
use super::config::{self, Config, PairMode};
use super::ha::PairConfig;
use super::{digest, guard, selection};
use crate::datapath::ha::{Channel, Group, Ha};
use crate::datapath::snapshot::{
    BUCKETS, LocalAddress, LocalAddresses, Mac, Port, PortId, PortRole, Route, RouteTarget, Server,
    Service, Snapshot, Snat, SnatRules,
};
use crate::session::mappings::Policy;
use crate::session::{Mode, ServerId, ServiceId};

/// What a [`PortId`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// `config.ports[index]`, on the wire.
    Wire {
        /// Index into `config.ports`.
        index: usize,
    },
    /// The exception tap of `config.ports[index]`.
    Exception {
        /// Index into `config.ports`.
        index: usize,
    },
}

/// What only a running port knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: Mac,
    /// The largest IP packet it takes, in bytes.
    pub mtu: u16,
}

/// What changes about a server while the configuration stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Whether its health check passes (or it has none).
    pub up: bool,
    /// A weight that was set by command, in place of the configured one.
    pub weight: Option<u16>,
}

impl ServerState {
    /// Up, with the weight of the configuration.
    pub const UP: ServerState = ServerState { up: true, weight: None };
}

/// What each port is, by [`PortId`].
pub fn port_uses(config: &Config) -> Vec<PortUse> {
    let wires = (0..config.ports.len()).map(|index| PortUse::Wire { index });
    let taps = config.ports.iter().enumerate().filter(|(_, port)| port.exception.is_some());
    wires.chain(taps.map(|(index, _)| PortUse::Exception { index })).collect()
}

/// The port with whose id the frames of a port's device come in: that of the device's untagged
/// port, or else of its first.
pub fn receiving_port(config: &Config, index: usize) -> PortId {
    let device = &config.ports[index].device;
    let of_device = || config.ports.iter().zip(0..).filter(|(port, _)| port.device == *device);
    let untagged = of_device().find(|(port, _)| port.vlan == 0);
    PortId(untagged.or_else(|| of_device().next()).map_or(index as u8, |(_, id)| id))
}

/// As [`receiving_port`], if the device carries a VLAN.
fn trunk(config: &Config, index: usize) -> Option<PortId> {
    let device = &config.ports[index].device;
    let tagged = |port: &config::Port| port.device == *device && port.vlan != 0;
    config.ports.iter().any(tagged).then(|| receiving_port(config, index))
}

/// The id of a server: `config.services[service].servers[server]`.
pub fn server_id(config: &Config, service: usize, server: usize) -> ServerId {
    let before: usize = config.services[..service].iter().map(|s| s.servers.len()).sum();
    ServerId((before + server) as u16)
}

/// The fixed neighbors of the configuration with their ports.
pub fn fixed_neighbors(config: &Config) -> Vec<(PortId, IpAddr, Mac)> {
    let fixed = |n: &config::Neighbor| Some((port_id(config, &n.port)?, n.address, n.mac));
    config.neighbors.iter().filter_map(fixed).collect()
}

/// Makes the snapshot.
///
/// `config` has been validated. `facts` are those of every port and `servers` is the state of every
/// server, by id. A server without a route, which validation refuses, is down.
///
/// # Panics
/// When `facts` or `servers` is not as long as the configuration says.
pub fn compile(
    config: &Config,
    facts: &[PortFacts],
    servers: &[ServerState],
    generation: u64,
) -> Snapshot {
    let uses = port_uses(config);
    assert_eq!(facts.len(), uses.len(), "facts of every port, taps included");
    let routes = routing_table(config);
    let (routes_v4, routes_v6) = routes.iter().cloned().partition(|r| r.to.addr().is_ipv4());
    let mut snapshot = Snapshot {
        generation,
        node_id: config.node.id,
        ports: ports(config, &uses, facts),
        lips: lips(config, &uses),
        routes_v4,
        routes_v6,
        services: Vec::with_capacity(config.services.len()),
        servers: Vec::with_capacity(servers.len()),
        listeners_v4: HashMap::new(),
        listeners_v6: HashMap::new(),
        local_v4: HashMap::new(),
        local_v6: HashMap::new(),
        worker_of: worker_of(config.node.workers.len()),
        snat: SnatRules::default(),
        guard: Arc::new(guard::compile(config)),
        crosses: config.services.iter().any(crossed),
        ha: None,
    };
    snapshot.ha = config.ha.as_ref().map(|pair| Arc::new(ha(config, pair)));
    for (service, id) in config.services.iter().zip(0..) {
        add_service(&mut snapshot, config, service, ServiceId(id), &routes, servers);
    }
    assert_eq!(servers.len(), snapshot.servers.len(), "the state of every server");
    add_local_addresses(&mut snapshot, config);
    snapshot.set_snats(config.snats.iter().map(|rule| snat(rule, &routes)).collect());
    snapshot.prepare();
    snapshot
}

/// The pair. The port to the peer is that of the configuration, which has been validated.
fn ha(config: &Config, pair: &config::Ha) -> Ha {
    let mut ha = Ha {
        groups: Vec::with_capacity(pair.groups.len()),
        group_of_v4: HashMap::new(),
        group_of_v6: HashMap::new(),
        channel: Channel {
            port: port_id(config, &pair.sync_port).unwrap_or_default(),
            group: pair.sync_group,
            source: pair.source,
            peer: pair.peer,
            rate: pair.sync_rate,
            relay: pair.relay,
            config_digest: digest::of(config),
        },
    };
    for (group, number) in pair.groups.iter().zip(0..) {
        ha.groups.push(Group { vrid: group.vrid, virtual_mac: pair.virtual_mac });
        for address in &group.addresses {
            match address {
                IpAddr::V4(ip) => _ = ha.group_of_v4.insert(*ip, number),
                IpAddr::V6(ip) => _ = ha.group_of_v6.insert(*ip, number),
            }
        }
    }
    ha
}

/// The wire port of that name.
pub(super) fn port_id(config: &Config, name: &str) -> Option<PortId> {
    let at = config.ports.iter().position(|port| port.name == name)?;
    u8::try_from(at).ok().map(PortId)
}

/// What the virtual routers need besides the snapshot; `None` when there are none.
pub fn pair(config: &Config) -> Option<PairConfig> {
    let pair = config.ha.as_ref()?;
    if pair.mode == PairMode::ActiveActive {
        return None;
    }
    let service = |name: &String| {
        let at = config.services.iter().position(|service| service.name == *name)?;
        Some(ServiceId(at as u16))
    };
    Some(PairConfig {
        priorities: pair.groups.iter().map(|group| group.priority).collect(),
        advert_interval_ms: pair.advert_interval_ms.into(),
        preempt: pair.preempt,
        preempt_delay_ms: u64::from(pair.preempt_delay_s) * 1_000,
        preempt_unsynced: pair.preempt_unsynced,
        track_ports: pair.track_ports.iter().filter_map(|name| port_id(config, name)).collect(),
        port_drop: pair.port_drop,
        track_services: pair.track_services.iter().filter_map(service).collect(),
        service_drop: pair.service_drop,
    })
}

/// The worker of each steering bucket: in turn, as the redirection table of a NIC does it unless
/// told otherwise. Shares differ by at most one bucket.
pub fn worker_of(workers: usize) -> [u8; BUCKETS] {
    std::array::from_fn(|bucket| (bucket % workers) as u8)
}

fn routing_table(config: &Config) -> Vec<Route> {
    let addresses = config
        .ports
        .iter()
        .zip(0..)
        .flat_map(|(port, id)| port.addresses.iter().map(move |address| (PortId(id), address)));
    routes(addresses, config.routes.iter().map(|r| (r.to, r.via)))
}

fn ports(config: &Config, uses: &[PortUse], facts: &[PortFacts]) -> Vec<Port> {
    let tap_of = |wire: usize| {
        let is_its_tap = |u: &PortUse| *u == PortUse::Exception { index: wire };
        uses.iter().position(is_its_tap).map(|id| PortId(id as u8))
    };
    let port = |(used, facts): (&PortUse, &PortFacts)| match *used {
        PortUse::Wire { index } => {
            let port = &config.ports[index];
            Port {
                name: port.name.clone(),
                mac: facts.mac,
                mtu: port.mtu.min(facts.mtu),
                role: PortRole::Wire { side: port.side, exception: tap_of(index) },
                ipv4: port.addresses.iter().find_map(|a| match a {
                    IpNet::V4(a) => Some(a.addr()),
                    IpNet::V6(_) => None,
                }),
                ipv6: port.addresses.iter().find_map(|a| match a {
                    IpNet::V4(_) => None,
                    IpNet::V6(a) => Some(a.addr()),
                }),
                full_checksums: port.full_checksums,
                vlan: port.vlan,
                trunk: trunk(config, index),
            }
        }
        // The addresses are the kernel's there, and its packets pass unchanged.
        PortUse::Exception { index } => Port {
            name: config.ports[index].exception.clone().unwrap_or_default(),
            mac: facts.mac,
            mtu: config.ports[index].mtu.min(facts.mtu),
            role: PortRole::Exception { wire: PortId(index as u8) },
            ipv4: None,
            ipv6: None,
            full_checksums: false,
            vlan: 0,
            trunk: None,
        },
    };
    uses.iter().zip(facts).map(port).collect()
}

fn lips(config: &Config, uses: &[PortUse]) -> Vec<LocalAddresses> {
    let mut lips = vec![LocalAddresses::default(); uses.len()];
    for (port, lips) in config.ports.iter().zip(&mut lips) {
        for address in &port.local_addresses {
            match address {
                IpAddr::V4(a) => lips.v4.push(*a),
                IpAddr::V6(a) => lips.v6.push(*a),
            }
        }
    }
    lips
}

fn add_service(
    snapshot: &mut Snapshot,
    config: &Config,
    service: &config::Service,
    id: ServiceId,
    routes: &[Route],
    states: &[ServerState],
) {
    let mut ids = Vec::with_capacity(service.servers.len());
    for server in &service.servers {
        let number = snapshot.servers.len();
        let state = states[number];
        let route = lookup(routes, server.address.ip());
        ids.push(ServerId(number as u16));
        snapshot.servers.push(Server {
            service: id,
            address: server.address.ip(),
            port: server.address.port(),
            weight: state.weight.unwrap_or(server.weight),
            up: state.up && route.is_some(),
            route: route.unwrap_or(RouteTarget { port: PortId(0), via: None }),
            inner_mac: server.inner_mac.unwrap_or_default(),
            backup: server.backup,
            max_connections: server.max_connections,
        });
    }
    for listen in &service.listen {
        let (port, protocol) = (listen.port(), service.protocol);
        match listen.ip() {
            IpAddr::V4(ip) => _ = snapshot.listeners_v4.insert((ip, port, protocol), id),
            IpAddr::V6(ip) => _ = snapshot.listeners_v6.insert((ip, port, protocol), id),
        }
    }
    snapshot.services.push(Service {
        name: service.name.clone(),
        protocol: service.protocol,
        listen: service.listen.clone(),
        mode: service.mode,
        scheduler: service.scheduler,
        timeouts: service.timeouts,
        selection: selection::compile(config, service, &ids, id),
        servers: ids,
        policy: service.policy,
        limits: service.limits,
        mirror: service.mirror.as_ref().and_then(|name| guard::mirror_id(config, name)),
        introduction: service.introduction,
        crossed: crossed(service),
        tunnel_port: service.tunnel_port,
        vni: service.vni,
        syn_proxy: service.syn_proxy,
    });
}

/// Whether clients of one family meet servers of the other alone.
pub(super) fn crossed(service: &config::Service) -> bool {
    let only = |v4: bool| service.servers.iter().all(|s| s.address.is_ipv4() == v4);
    let listens = |v4: bool| service.listen.iter().any(|l| l.is_ipv4() == v4);
    service.mode == Mode::FullNat
        && !service.servers.is_empty()
        && (only(true) && listens(false) || only(false) && listens(true))
}

fn snat(rule: &config::Snat, routes: &[Route]) -> Snat {
    // The port that answers for an address is the one by which it would be reached.
    let port = |address| lookup(routes, address).map_or(PortId(0), |way| way.port);
    Snat {
        name: rule.name.clone(),
        sources: rule.sources.clone(),
        pool: rule.pool.iter().map(|address| (*address, port(*address))).collect(),
        ports: rule.ports.clone(),
        policy: Policy { mapping: rule.mapping, filtering: rule.filtering },
        ports_per_source: rule.ports_per_source,
        hairpin: rule.hairpin,
        forwards: rule.forwards.clone(),
        timeouts: rule.timeouts,
    }
}

fn add_local_addresses(snapshot: &mut Snapshot, config: &Config) {
    let mut add = |address, local| match address {
        IpAddr::V4(ip) => _ = snapshot.local_v4.insert(ip, local),
        IpAddr::V6(ip) => _ = snapshot.local_v6.insert(ip, local),
    };
    for listen in config.services.iter().flat_map(|s| &s.listen) {
        add(listen.ip(), LocalAddress::Vip);
    }
    for (port, id) in config.ports.iter().zip(0..) {
        for address in &port.addresses {
            add(address.addr(), LocalAddress::Port(PortId(id)));
        }
        for lip in &port.local_addresses {
            add(*lip, LocalAddress::Lip(PortId(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::datapath::quic_route::Quic;
    use crate::datapath::snapshot::{Side, Timeouts};
    use crate::sched::SchedulerKind;
    use crate::wire::flow::Protocol;

    const CONFIG: &str = r#"
[node]
id = 1
workers = [1, 2, 3]
[dpdk]
vdevs = ["net_tap0", "net_tap1"]
[[port]]
name = "front"
device = "net_tap0"
side = "client"
addresses = ["192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64"]
mtu = 1400
exception = "sl-front"
[[port]]
name = "back"
device = "net_tap1"
side = "server"
addresses = ["10.0.0.2/24", "2001:db8:1::2/64"]
local_addresses = ["10.0.0.100", "2001:db8:1::100", "10.0.0.101"]
exception = "sl-back"
full_checksums = true
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[route]]
to = "10.9.0.0/16"
via = "10.0.0.1"
[[route]]
to = "10.8.0.0/24"
via = "10.0.0.9"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:12"
port = "back"
[[service]]
name = "web"
protocol = "tcp"
listen = ["192.0.2.10:80", "[2001:db8::10]:80"]
scheduler = "wlc"
[service.timeouts]
tcp_fin = 20
[[service.server]]
address = "10.0.0.11:8080"
weight = 10
[[service.server]]
address = "10.9.0.12:8080"
[[service.server]]
address = "[2001:db8:1::11]:8080"
[[service]]
name = "dns"
protocol = "udp"
listen = ["192.0.2.10:53"]
mode = "fullnat"
[[service.server]]
address = "10.0.0.11:53"
weight = 7
"#;

    fn config() -> Config {
        config::parse(CONFIG, "test").unwrap()
    }

    fn facts(last: u8, mtu: u16) -> PortFacts {
        PortFacts { mac: [2, 0, 0, 0, 0, last], mtu }
    }

    fn snapshot() -> Snapshot {
        let facts = [facts(0, 9000), facts(1, 1500), facts(2, 1500), facts(3, 1300)];
        let states = [
            ServerState::UP,
            ServerState { up: false, weight: None },
            ServerState::UP,
            ServerState { up: true, weight: Some(0) },
        ];
        compile(&config(), &facts, &states, 5)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// All sessions between families are IPv6 sessions, also those that lead to IPv4 servers.
    #[test]
    fn connection_ids_name_servers_of_the_other_family() {
        for (listen, server, families) in [
            ("[2001:db8::10]:443", "10.0.0.11:443", &[false, true][..]),
            ("192.0.2.11:443", "[2001:db8:1::11]:443", &[true]),
            ("192.0.2.11:443", "10.0.0.11:443", &[false]),
        ] {
            let text = format!(
                "{CONFIG}[[service]]\nname = \"quic\"\nprotocol = \"udp\"\nlisten = [\"{listen}\"]\n\
                 mode = \"fullnat\"\nscheduler = \"maglev\"\nhash_on = \"quic_cid\"\n\
                 [service.quic]\nserver_id_length = 2\n\
                 [[service.server]]\naddress = \"{server}\"\nquic_server_id = \"0a0b\"\n"
            );
            let config = config::parse(&text, "test").unwrap();
            let facts = [facts(0, 1500), facts(1, 1500), facts(2, 1500), facts(3, 1500)];
            let snapshot = compile(&config, &facts, &[ServerState::UP; 5], 1);
            let mut ids = Quic::new(0, 2, 0);
            for v6 in families {
                ids.add(*v6, &[0x0a, 0x0b], ServerId(4));
            }
            let quic = snapshot.services[2].selection.quic.as_deref();
            assert_eq!(quic, Some(&ids), "{listen} {server}");
        }
    }

    #[test]
    fn ids_follow_the_configuration() {
        let config = config();
        assert_eq!(
            port_uses(&config),
            [
                PortUse::Wire { index: 0 },
                PortUse::Wire { index: 1 },
                PortUse::Exception { index: 0 },
                PortUse::Exception { index: 1 },
            ]
        );
        assert_eq!(server_id(&config, 0, 2), ServerId(2));
        assert_eq!(server_id(&config, 1, 0), ServerId(3));
        assert_eq!(fixed_neighbors(&config), [(PortId(1), ip("10.0.0.12"), [2, 0, 0, 0, 0, 0x12])]);
    }

    #[test]
    fn ports_are_those_of_the_file_and_their_taps() {
        let s = snapshot();
        assert_eq!((s.generation, s.node_id), (5, 1));
        let names: Vec<_> = s.ports.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["front", "back", "sl-front", "sl-back"]);
        let roles: Vec<_> = s.ports.iter().map(|p| p.role).collect();
        assert_eq!(
            roles,
            [
                PortRole::Wire { side: Side::Client, exception: Some(PortId(2)) },
                PortRole::Wire { side: Side::Server, exception: Some(PortId(3)) },
                PortRole::Exception { wire: PortId(0) },
                PortRole::Exception { wire: PortId(1) },
            ]
        );
        let rest: Vec<_> =
            s.ports.iter().map(|p| (p.mac[5], p.mtu, p.ipv4, p.ipv6, p.full_checksums)).collect();
        let (v4, v6) = (|t: &str| t.parse().ok(), |t: &str| t.parse().ok());
        assert_eq!(
            rest,
            [
                (0, 1400, v4("192.0.2.2"), v6("2001:db8::2"), false),
                (1, 1500, v4("10.0.0.2"), v6("2001:db8:1::2"), true),
                (2, 1400, None, None, false),
                (3, 1300, None, None, false),
            ]
        );
        let lips: Vec<_> = s.lips.iter().map(|l| (l.v4.len(), l.v6.len())).collect();
        assert_eq!(lips, [(0, 0), (2, 1), (0, 0), (0, 0)]);
        assert_eq!(s.lips[1].v4, [[10, 0, 0, 100], [10, 0, 0, 101]].map(Ipv4Addr::from));
    }

    #[test]
    fn routes_stand_longest_prefix_first() {
        let s = snapshot();
        let show = |routes: &[Route]| -> Vec<_> {
            routes
                .iter()
                .map(|r| {
                    let via = r.target.via.map_or("link".to_owned(), |via| via.to_string());
                    format!("{} {} {via}", r.to, r.target.port.0)
                })
                .collect()
        };
        assert_eq!(
            show(&s.routes_v4),
            [
                "192.0.2.0/24 0 link",
                "10.0.0.0/24 1 link",
                "10.8.0.0/24 1 10.0.0.9",
                "10.9.0.0/16 1 10.0.0.1",
                "0.0.0.0/0 0 192.0.2.1",
            ]
        );
        assert_eq!(show(&s.routes_v6), ["2001:db8::/64 0 link", "2001:db8:1::/64 1 link"]);
    }

    #[test]
    fn services_and_servers() {
        let s = snapshot();
        let (web, dns) = (&s.services[0], &s.services[1]);
        assert_eq!(s.services.len(), 2);
        assert_eq!((web.name.as_str(), web.protocol), ("web", Protocol::Tcp));
        assert_eq!((web.mode, web.scheduler), (Mode::Nat, SchedulerKind::Wlc));
        assert_eq!(web.listen, config().services[0].listen);
        let timeouts = Timeouts { tcp_fin: 20_000, ..Timeouts::DEFAULT };
        assert_eq!(web.timeouts, timeouts);
        assert_eq!(web.servers, [ServerId(0), ServerId(1), ServerId(2)]);
        assert_eq!((dns.name.as_str(), dns.protocol), ("dns", Protocol::Udp));
        assert_eq!((dns.mode, dns.scheduler), (Mode::FullNat, SchedulerKind::Wrr));
        assert_eq!(dns.servers, [ServerId(3)]);

        let servers: Vec<_> = s
            .servers
            .iter()
            .map(|s| (s.service.0, s.address, s.port, s.weight, s.up, s.route.port.0, s.route.via))
            .collect();
        assert_eq!(
            servers,
            [
                (0, ip("10.0.0.11"), 8080, 10, true, 1, None),
                (0, ip("10.9.0.12"), 8080, 1, false, 1, Some(ip("10.0.0.1"))),
                (0, ip("2001:db8:1::11"), 8080, 1, true, 1, None),
                (1, ip("10.0.0.11"), 53, 0, true, 1, None),
            ]
        );
    }

    #[test]
    fn listeners_and_local_addresses() {
        let s = snapshot();
        let vip = "192.0.2.10".parse().unwrap();
        let vip6 = "2001:db8::10".parse().unwrap();
        assert_eq!(s.listeners_v4.len(), 2);
        assert_eq!(s.listeners_v4[&(vip, 80, Protocol::Tcp)], ServiceId(0));
        assert_eq!(s.listeners_v4[&(vip, 53, Protocol::Udp)], ServiceId(1));
        assert_eq!(s.listeners_v6.len(), 1);
        assert_eq!(s.listeners_v6[&(vip6, 80, Protocol::Tcp)], ServiceId(0));

        let mut v4: Vec<_> = s.local_v4.iter().map(|(ip, l)| (ip.to_string(), *l)).collect();
        v4.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(
            v4,
            [
                ("10.0.0.100".to_owned(), LocalAddress::Lip(PortId(1))),
                ("10.0.0.101".to_owned(), LocalAddress::Lip(PortId(1))),
                ("10.0.0.2".to_owned(), LocalAddress::Port(PortId(1))),
                ("192.0.2.10".to_owned(), LocalAddress::Vip),
                ("192.0.2.2".to_owned(), LocalAddress::Port(PortId(0))),
                ("192.0.2.3".to_owned(), LocalAddress::Port(PortId(0))),
            ]
        );
        let mut v6: Vec<_> = s.local_v6.iter().map(|(ip, l)| (ip.to_string(), *l)).collect();
        v6.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(
            v6,
            [
                ("2001:db8:1::100".to_owned(), LocalAddress::Lip(PortId(1))),
                ("2001:db8:1::2".to_owned(), LocalAddress::Port(PortId(1))),
                ("2001:db8::10".to_owned(), LocalAddress::Vip),
                ("2001:db8::2".to_owned(), LocalAddress::Port(PortId(0))),
            ]
        );
    }

    #[test]
    fn the_pair() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "{CONFIG}[ha]\ngroup = 10\npeer = \"2001:db8:1::3\"\nsync_port = \"back\"\nkey_file = \
             \"{}\"\nvirtual_mac = false\npreempt_delay_s = 30\npreempt_unsynced = true\ntrack_services = [\"dns\"]\nsync_rate = 5_000\n[[ha.extra_group]]\ngroup = 11\n\
             addresses = [\"10.0.0.101\", \"2001:db8:1::100\"]\n",
            key.display()
        );
        let config = config::parse(&text, "test").unwrap();
        let facts = [facts(0, 1500); 4];
        let ha = compile(&config, &facts, &[ServerState::UP; 4], 1).ha.unwrap();
        let group = |vrid| Group { vrid, virtual_mac: false };
        assert_eq!(ha.groups, [group(10), group(11)]);
        let groups = |main: &[&str], extra: &[&str]| -> Vec<(IpAddr, u8)> {
            let of = |list: &[&str], n| list.iter().map(|a| (ip(a), n)).collect::<Vec<_>>();
            [of(main, 0), of(extra, 1)].concat()
        };
        let mut v4: Vec<_> = ha.group_of_v4.iter().map(|(a, g)| (IpAddr::V4(*a), *g)).collect();
        v4.sort();
        assert_eq!(
            v4,
            [groups(&["10.0.0.100"], &["10.0.0.101"]), groups(&["192.0.2.10"], &[])].concat()
        );
        let mut v6: Vec<_> = ha.group_of_v6.iter().map(|(a, g)| (IpAddr::V6(*a), *g)).collect();
        v6.sort();
        assert_eq!(v6, groups(&["2001:db8::10"], &["2001:db8:1::100"]));
        assert_eq!(
            ha.channel,
            Channel {
                port: PortId(1),
                group: "[ff12::8849]:8849".parse().unwrap(),
                source: ip("2001:db8:1::2"),
                peer: ip("2001:db8:1::3"),
                rate: 5_000,
                relay: true,
                config_digest: digest::of(&config),
            }
        );
        assert_eq!(
            pair(&config),
            Some(PairConfig {
                priorities: vec![100, 100],
                advert_interval_ms: 1_000,
                preempt: true,
                preempt_delay_ms: 30_000,
                preempt_unsynced: true,
                track_ports: vec![PortId(0), PortId(1)],
                port_drop: 255,
                track_services: vec![ServiceId(1)],
                service_drop: 50,
            })
        );
        let mut config = config;
        config.ha.as_mut().unwrap().mode = PairMode::ActiveActive;
        assert_eq!(pair(&config), None);
    }

    #[test]
    fn ports_that_share_a_device() {
        let of = |front: u16, back: u16, device: &str| {
            let text = CONFIG
                .replace("side = \"client\"", &format!("side = \"client\"\nvlan = {front}"))
                .replace("\"net_tap1\"\nside", &format!("\"{device}\"\nvlan = {back}\nside"));
            let config = config::parse(&text, "test").unwrap();
            let facts = [facts(0, 9000); 4];
            let snapshot = compile(&config, &facts, &[ServerState::UP; 4], 1);
            let ports: Vec<_> = snapshot.ports[..2].iter().map(|p| (p.vlan, p.trunk)).collect();
            assert_eq!(snapshot.ports[2].trunk, None, "a tap is a device of its own");
            ports
        };
        let (first, second) = (Some(PortId(0)), Some(PortId(1)));
        assert_eq!(of(0, 0, "net_tap1"), [(0, None), (0, None)]);
        assert_eq!(of(7, 0, "net_tap1"), [(7, first), (0, None)]);
        assert_eq!(of(7, 8, "net_tap0"), [(7, first), (8, first)]);
        assert_eq!(of(0, 8, "net_tap0"), [(0, first), (8, first)]);
        assert_eq!(of(7, 0, "net_tap0"), [(7, second), (0, second)]);
    }

    #[test]
    fn services_between_families() {
        let crossed = |mode: &str, listen: &str, servers: &[&str]| {
            let mut config = config();
            let service = &mut config.services[1];
            service.mode = if mode == "nat" { Mode::Nat } else { Mode::FullNat };
            service.listen = listen.split(' ').map(|l| l.parse().unwrap()).collect();
            let server = service.servers[0].clone();
            let address = |s: &&str| s.parse().unwrap();
            service.servers = servers
                .iter()
                .map(|s| config::Server { address: address(s), ..server.clone() })
                .collect();
            let states = vec![ServerState::UP; 3 + servers.len()];
            let snapshot = compile(&config, &[facts(0, 1500); 4], &states, 1);
            assert_eq!(snapshot.crosses, snapshot.services[1].crossed);
            snapshot.crosses
        };
        let (v4, v6) = ("192.0.2.10:53", "[2001:db8::10]:53");
        let (s4, s6) = ("10.0.0.11:53", "[2001:db8:1::11]:53");
        let both = format!("{v4} {v6}");
        for (listen, servers, expected) in [
            (v4, &[s4][..], false),
            (v6, &[s6], false),
            (v6, &[s4], true),
            (v4, &[s6], true),
            (&both, &[s4], true),
            (&both, &[s6], true),
            (&both, &[s4, s6], false),
        ] {
            assert_eq!(crossed("fullnat", listen, servers), expected, "{listen} {servers:?}");
            assert!(!crossed("nat", listen, servers));
        }
    }

    #[test]
    fn buckets_are_spread_evenly() {
        assert_eq!(worker_of(1), [0; BUCKETS]);
        let shares = |workers: usize| {
            let mut shares = vec![0; workers];
            worker_of(workers).iter().for_each(|w| shares[usize::from(*w)] += 1);
            shares
        };
        assert_eq!(shares(2), [64, 64]);
        assert_eq!(shares(3), [43, 43, 42]);
        assert_eq!(shares(64), [2; 64]);
        assert_eq!(snapshot().worker_of[..4], [0, 1, 2, 0]);
    }
}
