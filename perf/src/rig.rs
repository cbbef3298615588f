//! A worker's data path on frames that cost nothing, so that a bench sees it alone.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::frame::{Frame, RxChecksum};
use shunt::datapath::outbox::Outbox;
use shunt::datapath::pipeline::Pipeline;
use shunt::datapath::setup::Setup;
use shunt::datapath::snapshot::{
    BUCKETS, LocalAddress, LocalAddresses, Port, PortId, PortRole, Route, RouteTarget, Server,
    Service, Side, Snapshot, Timeouts,
};
use shunt::io::{BURST, Burst};
use shunt::sched::SchedulerKind;
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::flow::Protocol;

use crate::traffic::{
    self, CLIENT_MAC, DUT_MAC, GATEWAY, Kind, SERVER_MAC, VIP, VIP_PORT, Way, local_address,
    server_address,
};

/// The only port.
pub const PORT: PortId = PortId(0);
/// Real servers of each family.
const SERVERS: usize = 16;
/// FullNAT local addresses of each family.
const LOCAL_ADDRESSES: usize = 8;

/// The virtual address of IPv6.
pub const VIP_V6: Ipv6Addr = v6(0x0a, 0);
/// The gateway to the clients of IPv6.
pub const GATEWAY_V6: Ipv6Addr = v6(0x01, 0);

/// The client of flow 0 of IPv6; see [`crate::template`].
pub const CLIENT_V6: Ipv6Addr = v6(0x0d, 0);

/// 2001:db8:0:NET::HOST.
const fn v6(net: u16, host: u32) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, (host >> 16) as u16, host as u16)
}

/// One-armed: clients behind a gateway, servers on the link, a UDP service of both families.
pub fn snapshot(mode: Mode) -> Arc<Snapshot> {
    let on_link = RouteTarget { port: PORT, via: None };
    let route = |to: &str, via: Option<IpAddr>| Route {
        to: to.parse::<IpNet>().expect("a network"),
        target: RouteTarget { port: PORT, via },
    };
    let addresses: Vec<IpAddr> = (0..SERVERS)
        .map(|i| server_address(i).into())
        .chain((0..SERVERS).map(|i| v6(0x0b, i as u32).into()))
        .collect();
    let lips = LocalAddresses {
        v4: (0..LOCAL_ADDRESSES).map(local_address).collect(),
        v6: (0..LOCAL_ADDRESSES).map(|i| v6(0x0c, i as u32)).collect(),
    };
    let lip = LocalAddress::Lip(PORT);
    let local_v4 = lips.v4.iter().map(|a| (*a, lip)).chain([(VIP, LocalAddress::Vip)]).collect();
    let local_v6 = lips.v6.iter().map(|a| (*a, lip)).chain([(VIP_V6, LocalAddress::Vip)]).collect();
    Arc::new(Snapshot {
        generation: 1,
        node_id: 0,
        ports: vec![Port {
            name: "both".into(),
            mac: DUT_MAC,
            mtu: 1500,
            role: PortRole::Wire { side: Side::Both, exception: None },
            ipv4: None,
            ipv6: None,
            full_checksums: false,
            ..Default::default()
        }],
        lips: vec![lips],
        routes_v4: vec![route("10.0.0.0/15", None), route("0.0.0.0/0", Some(GATEWAY.into()))],
        routes_v6: vec![route("2001:db8:0:b::/64", None), route("::/0", Some(GATEWAY_V6.into()))],
        services: vec![Service {
            name: "bench".into(),
            protocol: Protocol::Udp,
            listen: vec![SocketAddr::new(VIP.into(), VIP_PORT)],
            mode,
            scheduler: SchedulerKind::Rr,
            timeouts: Timeouts { udp: 900_000, ..Timeouts::DEFAULT },
            servers: (0..addresses.len()).map(|i| ServerId(i as u16)).collect(),
            ..Default::default()
        }],
        servers: addresses
            .into_iter()
            .map(|address| Server {
                service: ServiceId(0),
                address,
                port: VIP_PORT,
                weight: 1,
                up: true,
                route: on_link,
                ..Default::default()
            })
            .collect(),
        listeners_v4: HashMap::from_iter([((VIP, VIP_PORT, Protocol::Udp), ServiceId(0))]),
        listeners_v6: HashMap::from_iter([((VIP_V6, VIP_PORT, Protocol::Udp), ServiceId(0))]),
        local_v4,
        local_v6,
        worker_of: [0; BUCKETS],
        ..Default::default()
    })
}

/// A pipeline with all next hops known, and the queues it empties into.
pub struct Rig {
    pipeline: Pipeline<BenchFrame>,
    burst: Burst<BenchFrame>,
    out: Outbox<BenchFrame>,
    spare: Vec<BenchFrame>,
}

impl Rig {
    /// With room for so many sessions of each family.
    pub fn new(mode: Mode, sessions_v4: usize, sessions_v6: usize) -> Self {
        let snapshot = snapshot(mode);
        let setup = Setup {
            ports_start: 0,
            worker: 0,
            sessions_v4,
            sessions_v6,
            seed: 7,
            cookie_secret: 7,
            pair: None,
            all_counters: Arc::default(),
            advise: |_, _| {},
        };
        let mut pipeline = Pipeline::new(&setup, snapshot.clone(), Arc::new(WorkerCounters::new()));
        for gateway in [IpAddr::V4(GATEWAY), IpAddr::V6(GATEWAY_V6)] {
            pipeline.neighbor(PORT, gateway, Some(CLIENT_MAC));
        }
        for server in &snapshot.servers {
            pipeline.neighbor(PORT, server.address, Some(SERVER_MAC));
        }
        Rig {
            pipeline,
            burst: Burst::new(),
            out: Outbox::new(1, 1),
            spare: (0..BURST).map(|_| BenchFrame { bytes: Box::new([0; 128]), len: 0 }).collect(),
        }
    }

    /// Copies a burst of frames in, as a NIC would, and sends it through the data path.
    ///
    /// # Panics
    /// Unless all of them were forwarded.
    #[inline(always)]
    pub fn forward<'a>(&mut self, mut next: impl FnMut() -> &'a [u8], now: u32) {
        for mut frame in self.spare.drain(..) {
            let bytes = next();
            frame.bytes[..bytes.len()].copy_from_slice(bytes);
            frame.len = bytes.len();
            self.burst.push(frame);
        }
        self.pipeline.process(&mut self.burst, false, now, &mut self.out);
        let queue = &mut self.out.ports[0];
        self.spare.extend(queue.frames.drain(..));
        assert!(self.spare.len() == BURST && queue.originated == 0, "a frame was not forwarded");
    }

    /// Ends sessions whose time has come.
    pub fn expire(&mut self, now: u32) {
        self.pipeline.expire(now, 64, &mut self.out);
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.pipeline.sessions_v4().len() + self.pipeline.sessions_v6().len()
    }
}

/// The IPv4 frame of client `flow`, without FCS.
pub fn client_frame(flow: u32) -> [u8; 60] {
    let head = traffic::head(&Way::of_client(flow), Kind::Udp, flow, 60).0;
    *head.first_chunk().expect("a head has 64 bytes")
}

/// The IPv6 frame of client `flow`, without FCS.
pub fn client_frame_v6(flow: u32) -> [u8; 66] {
    let (address, port) = traffic::client(flow);
    etherparse_frame(
        etherparse::PacketBuilder::ethernet2(CLIENT_MAC, DUT_MAC)
            .ipv6(v6(0x0d, address.into()).octets(), VIP_V6.octets(), 64)
            .udp(port, VIP_PORT),
    )
}

fn etherparse_frame<const N: usize>(
    builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>,
) -> [u8; N] {
    let mut frame = Vec::with_capacity(N);
    builder.write(&mut frame, &[0; 4]).expect("a Vec takes it");
    frame.try_into().expect("the length is known")
}

/// A frame of fixed size.
pub struct BenchFrame {
    bytes: Box<[u8; 128]>,
    len: usize,
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
    fn set_rx_port(&mut self, _: PortId) {}
    fn note(&self) -> u64 {
        0
    }
    fn set_note(&mut self, _: u64) {}
    #[inline(always)]
    fn rx_checksum(&self) -> RxChecksum {
        RxChecksum::default()
    }
}
