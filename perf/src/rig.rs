//! A worker on ports that cost nothing, so that a bench sees the data path alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use hashbrown::HashMap;
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::frame::{Frame, RxChecksum};
use shunt::datapath::pipeline::{Pipeline, Setup};
use shunt::datapath::snapshot::{
    BUCKETS, LocalAddress, LocalAddresses, Port, PortId, PortRole, Route, RouteTarget, Server,
    Service, Side, Snapshot, Timeouts,
};
use shunt::sched::SchedulerKind;
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::flow::Protocol;

/// The MAC address of the only port.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC address of the hosts.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The virtual port.
pub const VIP_PORT: u16 = 80;
/// The port of the only device.
pub const PORT: PortId = PortId(0);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The real servers: 10.0.0.11 and on.
pub fn server_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + index as u8)
}

/// One-armed: clients behind a gateway, servers on the link, a UDP service on the VIP.
pub fn snapshot(mode: Mode, servers: usize, lips: usize) -> Arc<Snapshot> {
    let on_link = RouteTarget { port: PORT, via: None };
    Arc::new(Snapshot {
        generation: 1,
        node_id: 0,
        ports: vec![Port {
            name: "both".into(),
            mac: OWN_MAC,
            mtu: 1500,
            role: PortRole::Wire { side: Side::Both, exception: None },
            ipv4: Some(Ipv4Addr::new(192, 0, 2, 2)),
            ipv6: None,
            full_checksums: false,
        }],
        lips: vec![LocalAddresses {
            v4: (0..lips).map(|i| Ipv4Addr::new(10, 0, 1, i as u8 + 1)).collect(),
            v6: Vec::new(),
        }],
        routes_v4: vec![
            Route { to: "10.0.0.0/16".parse().expect("network"), target: on_link },
            Route {
                to: "0.0.0.0/0".parse().expect("network"),
                target: RouteTarget { port: PORT, via: Some(IpAddr::V4(GATEWAY)) },
            },
        ],
        routes_v6: Vec::new(),
        services: vec![Service {
            name: "bench".into(),
            protocol: Protocol::Udp,
            listen: vec![SocketAddr::new(VIP.into(), VIP_PORT)],
            mode,
            scheduler: SchedulerKind::Rr,
            timeouts: Timeouts {
                tcp_syn: 5_000,
                tcp_established: 900_000,
                tcp_fin: 10_000,
                udp: 900_000,
            },
            servers: (0..servers).map(|i| ServerId(i as u16)).collect(),
        }],
        servers: (0..servers)
            .map(|i| Server {
                service: ServiceId(0),
                address: server_address(i).into(),
                port: 8080,
                weight: 1,
                up: true,
                route: on_link,
            })
            .collect(),
        listeners_v4: HashMap::from_iter([((VIP, VIP_PORT, Protocol::Udp), ServiceId(0))]),
        listeners_v6: HashMap::new(),
        local_v4: HashMap::from_iter([(VIP, LocalAddress::Vip)].into_iter().chain(
            (0..lips).map(|i| (Ipv4Addr::new(10, 0, 1, i as u8 + 1), LocalAddress::Lip(PORT))),
        )),
        local_v6: HashMap::new(),
        worker_of: [0; BUCKETS],
    })
}

/// A pipeline with all next hops known.
pub fn pipeline<F: Frame>(snapshot: Arc<Snapshot>, sessions: usize) -> Pipeline<F> {
    let setup =
        Setup { worker: 0, sessions_v4: sessions, sessions_v6: 16, seed: 7, advise: |_, _| {} };
    let mut pipeline = Pipeline::new(&setup, snapshot.clone(), Arc::new(WorkerCounters::new()));
    pipeline.neighbor(PORT, GATEWAY.into(), Some(HOST_MAC));
    for server in &snapshot.servers {
        pipeline.neighbor(PORT, server.address, Some(HOST_MAC));
    }
    pipeline
}

/// The frame of client `flow`: 64 bytes on the wire (60 without FCS).
pub fn client_frame(flow: usize) -> [u8; 60] {
    let client = Ipv4Addr::from(0x6440_0000 + (flow / 60_000) as u32);
    let mut frame = Vec::with_capacity(60);
    PacketBuilder::ethernet2(HOST_MAC, OWN_MAC)
        .ipv4(client.octets(), VIP.octets(), 64)
        .udp(1024 + (flow % 60_000) as u16, VIP_PORT)
        .write(&mut frame, &[0; 18])
        .expect("a Vec takes it");
    frame.try_into().expect("60 bytes")
}

/// A frame of fixed size that is copied into a ring of buffers, as a NIC would.
pub struct BenchFrame {
    /// The bytes.
    pub bytes: Box<[u8; 128]>,
    /// How many of them count.
    pub len: usize,
}

impl Frame for BenchFrame {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
    #[inline(always)]
    fn is_segmented(&self) -> bool {
        false
    }
    fn prepend(&mut self, _: usize) -> bool {
        false
    }
    fn trim_front(&mut self, _: usize) -> bool {
        false
    }
    fn set_len(&mut self, len: usize) -> bool {
        self.len = len;
        true
    }
    #[inline(always)]
    fn rx_port(&self) -> PortId {
        PORT
    }
    #[inline(always)]
    fn rx_checksum(&self) -> RxChecksum {
        RxChecksum::default()
    }
}
