//! A small configuration and its snapshot, for the tests of the management thread.

use std::net::{IpAddr, SocketAddr};

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::datapath::counters::WorkerCounters;

use crate::datapath::ha::{Channel, Group, Ha};
use crate::datapath::snapshot::{
    self as snap, BUCKETS, LocalAddress, LocalAddresses, PortId, PortRole, Route, RouteTarget,
    Side, Snapshot, Timeouts,
};
use crate::manage::config::{self, Config, Health, HealthCheck, Idle};
use crate::manage::port_view::{HardwareStatistics, Link, PortView};
use crate::manage::workers::WorkerHandle;
use crate::sched::SchedulerKind;
use crate::session::{Mode, ServerId, ServiceId, TcpState};
use crate::wire::flow::Protocol;
use crate::worker::control::{Command, Event, SessionRow};

const TIMEOUTS: Timeouts = Timeouts::DEFAULT;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Ports `front` and `back`; service `web` (checked, servers 10.0.0.11:8080 and, behind the gateway
/// 10.0.0.254, 10.9.0.12:8080) and service `dns` (not checked, server 10.0.0.13:53).
pub(crate) fn config() -> Config {
    let port = |name: &str, side, address: &str| config::Port {
        name: name.into(),
        device: format!("net_null_{name}"),
        side,
        addresses: vec![address.parse().unwrap()],
        local_addresses: Vec::new(),
        mtu: 1500,
        exception: None,
        full_checksums: false,
        vlan: 0,
    };
    let server = |address: &str, weight| config::Server {
        address: addr(address),
        weight,
        ..Default::default()
    };
    Config {
        node: config::Node {
            name: "lb-a".into(),
            id: 0,
            workers: vec![0, 1],
            idle: Idle::Yield,
            sessions: 100_000,
        },
        dpdk: config::Dpdk {
            memory_mb: 256,
            hugepages: false,
            allow: Vec::new(),
            vdevs: Vec::new(),
            extra_args: Vec::new(),
        },
        ports: vec![
            port("front", Side::Client, "192.0.2.2/24"),
            port("back", Side::Server, "10.0.0.1/24"),
        ],
        routes: vec![config::Route { to: "10.9.0.0/16".parse().unwrap(), via: ip("10.0.0.254") }],
        neighbors: vec![config::Neighbor {
            address: ip("10.0.0.13"),
            mac: [2, 0, 0, 0, 0, 0x13],
            port: "back".into(),
        }],
        services: vec![
            config::Service {
                name: "web".into(),
                protocol: Protocol::Tcp,
                listen: vec![addr("192.0.2.10:80")],
                mode: Mode::Nat,
                scheduler: SchedulerKind::Wrr,
                timeouts: TIMEOUTS,
                health: Some(Health {
                    check: HealthCheck::Tcp,
                    interval_ms: 1_000,
                    timeout_ms: 500,
                    rise: 2,
                    fall: 3,
                    proxy_protocol: None,
                    port: None,
                }),
                servers: vec![server("10.0.0.11:8080", 3), server("10.9.0.12:8080", 1)],
                ..Default::default()
            },
            config::Service {
                name: "dns".into(),
                protocol: Protocol::Udp,
                listen: vec![addr("192.0.2.10:53")],
                mode: Mode::Nat,
                scheduler: SchedulerKind::Rr,
                timeouts: TIMEOUTS,
                health: None,
                servers: vec![server("10.0.0.13:53", 1)],
                ..Default::default()
            },
        ],
        api: config::Api { socket: "/run/shunt.sock".into() },
        snats: Vec::new(),
        guard: config::Guard::default(),
        ha: None,
        warnings: Vec::new(),
    }
}

/// `[ha]` for [`config`]: group 10 has the virtual address; the peer is 192.0.2.3.
pub(crate) fn ha() -> config::Ha {
    let key = "0123456789abcdef".repeat(4);
    config::Ha {
        mode: config::PairMode::ActiveBackup,
        groups: vec![config::VirtualRouter {
            vrid: 10,
            priority: 200,
            addresses: vec![ip("192.0.2.10")],
        }],
        peer: ip("192.0.2.3"),
        source: ip("192.0.2.2"),
        advert_interval_ms: 1_000,
        preempt: true,
        preempt_delay_s: 0,
        preempt_unsynced: false,
        virtual_mac: true,
        track_ports: vec!["front".into(), "back".into()],
        port_drop: 255,
        track_services: Vec::new(),
        service_drop: 50,
        sync_group: addr("239.255.19.19:8849"),
        sync_port: "front".into(),
        key_file: "/etc/shunt/sync.key".into(),
        keys: crate::sync::keys::Keys::parse(&key).unwrap(),
        sync_rate: 200_000,
        relay: true,
    }
}

/// What [`config`] compiles to, as far as the management thread looks at it.
pub(crate) fn snapshot() -> Snapshot {
    let port = |name: &str, n: u8, side, v4: &str, v6: &str| snap::Port {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, n],
        mtu: 1500,
        role: PortRole::Wire { side, exception: None },
        ipv4: Some(v4.parse().unwrap()),
        ipv6: Some(v6.parse().unwrap()),
        full_checksums: false,
        ..Default::default()
    };
    let back = PortId(1);
    let on_link = RouteTarget { port: back, via: None };
    let by_gateway = RouteTarget { port: back, via: Some(ip("10.0.0.254")) };
    let config = config();
    let mut services = Vec::new();
    let mut servers = Vec::new();
    for (i, s) in config.services.iter().enumerate() {
        let mut ids = Vec::new();
        for server in &s.servers {
            ids.push(ServerId(servers.len() as u16));
            let near = server.address.ip().to_string().starts_with("10.0.0.");
            servers.push(snap::Server {
                service: ServiceId(i as u16),
                address: server.address.ip(),
                port: server.address.port(),
                weight: server.weight,
                up: true,
                route: if near { on_link } else { by_gateway },
                ..Default::default()
            });
        }
        services.push(snap::Service {
            name: s.name.clone(),
            protocol: s.protocol,
            listen: s.listen.clone(),
            mode: s.mode,
            scheduler: s.scheduler,
            timeouts: s.timeouts,
            servers: ids,
            ..Default::default()
        });
    }
    Snapshot {
        generation: 1,
        node_id: 0,
        ports: vec![
            port("front", 0, Side::Client, "192.0.2.2", "2001:db8:1::2"),
            port("back", 1, Side::Server, "10.0.0.1", "2001:db8:2::1"),
        ],
        lips: vec![LocalAddresses::default(); 2],
        routes_v4: vec![
            Route { to: "10.0.0.0/24".parse().unwrap(), target: on_link },
            Route { to: "10.9.0.0/16".parse().unwrap(), target: by_gateway },
        ],
        services,
        servers,
        worker_of: [0; BUCKETS],
        ..Default::default()
    }
}

/// The same as one of a pair with the peer 192.0.2.3: group 0 (VRID 10, with virtual MAC addresses) has
/// the VIPs 192.0.2.10, 192.0.2.9 and 2001:db8:1::10, and the LIP 10.0.0.200 on `back`.
pub(crate) fn paired_snapshot() -> Snapshot {
    let mut snapshot = snapshot();
    let mut group_of_v4 = hashbrown::HashMap::new();
    for (last, local) in [
        ([192, 0, 2, 10], LocalAddress::Vip),
        ([192, 0, 2, 9], LocalAddress::Vip),
        ([10, 0, 0, 200], LocalAddress::Lip(PortId(1))),
    ] {
        snapshot.local_v4.insert(last.into(), local);
        group_of_v4.insert(last.into(), 0);
    }
    let v6 = "2001:db8:1::10".parse().unwrap();
    snapshot.local_v6.insert(v6, LocalAddress::Vip);
    snapshot.ha = Some(Arc::new(Ha {
        groups: vec![Group { vrid: 10, virtual_mac: true }],
        group_of_v4,
        group_of_v6: [(v6, 0)].into_iter().collect(),
        channel: Channel {
            port: PortId(0),
            group: addr("239.255.19.19:8849"),
            source: ip("192.0.2.2"),
            peer: ip("192.0.2.3"),
            rate: 200_000,
            relay: true,
            config_digest: 0,
        },
    }));
    snapshot
}

/// The worker's ends of the queues.
pub(crate) struct FakeWorker {
    commands: Consumer<Command>,
    events: Producer<Event>,
    pub(crate) counters: Arc<WorkerCounters>,
}

impl FakeWorker {
    /// The commands that have come.
    pub(crate) fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.commands.pop().ok()).collect()
    }

    /// Sends an event.
    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event).expect("room for an event");
    }
}

/// `n` workers on cores 4, 5, …
pub(crate) fn workers(n: usize) -> (Vec<WorkerHandle>, Vec<FakeWorker>) {
    (0..n)
        .map(|i| {
            let (to_worker, commands) = RingBuffer::new(64);
            let (from_worker, events) = RingBuffer::new(64);
            let counters = Arc::new(WorkerCounters::new());
            let handle = WorkerHandle {
                commands: to_worker,
                events,
                counters: Arc::clone(&counters),
                core: 4 + i,
            };
            (handle, FakeWorker { commands, events: from_worker, counters })
        })
        .unzip()
}

/// The ports of [`snapshot`] on devices that are always well.
pub(crate) fn port_views() -> Vec<PortView> {
    snapshot()
        .ports
        .into_iter()
        .enumerate()
        .map(|(i, port)| PortView {
            id: PortId(i as u8),
            device: format!("net_null_{}", port.name),
            name: port.name,
            driver: "net_null".into(),
            mac: port.mac,
            mtu: port.mtu,
            capabilities_text: "1 queue pair; checksums in software".into(),
            capabilities: serde_json::json!({ "queues": 1 }),
            link: Box::new(|| Link { up: true, speed_mbps: Some(10_000) }),
            statistics: Box::new(|| HardwareStatistics {
                rx_packets: 1_234,
                rx_missed_packets: 2,
                ..HardwareStatistics::default()
            }),
        })
        .collect()
}

/// An established session of `client`.
pub(crate) fn row(client: &str) -> SessionRow {
    SessionRow {
        protocol: Protocol::Tcp,
        client: client.parse().unwrap(),
        vip: "192.0.2.10:80".parse().unwrap(),
        local: client.parse().unwrap(),
        server: "10.0.0.11:8080".parse().unwrap(),
        state: TcpState::Established,
        mode: Mode::Nat,
        service: ServiceId(0),
        server_id: ServerId(0),
        age_ms: 61_000,
        idle_ms: 250,
        expires_ms: 899_750,
    }
}
