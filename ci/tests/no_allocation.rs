//! The worker allocates nothing for packets: not for established or new sessions, not for those
//! that end, not for what it drops, answers, holds or hands over.
//!
//! Allocations are counted only while a worker takes its turn, and only on its thread, so that
//! what the test itself allocates (the frames) does not count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use rtrb::{Consumer, Producer, RingBuffer};
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::filter::{Action, Filters, Rule};
use shunt::datapath::guard::Guard;
use shunt::datapath::ha::{Channel, Ha};
use shunt::datapath::limits::Limits;
use shunt::datapath::mirror::{Mirror, MirrorId};
use shunt::datapath::pipeline::Pipeline;
use shunt::datapath::prefix_set::PrefixSet;
use shunt::datapath::replica::PairSetup;
use shunt::datapath::selection::Persistence;
use shunt::datapath::setup::Setup;
use shunt::datapath::snapshot::{
    LocalAddress, LocalAddresses, Port, PortId, PortRole, Route, RouteTarget, Server, Service,
    Side, Snapshot, SynProxy, Timeouts,
};
use shunt::io::memory::{MemoryFrame, MemoryIo};
use shunt::sched::SchedulerKind;
use shunt::session::syn_cookie::{Claim, SynCookies};
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::sync::VersionText;
use shunt::sync::keys::Keys;
use shunt::wire::DropReason;
use shunt::wire::flow::{FlowKey, Protocol};
use shunt::worker::control::{Command, Event, NeighborUpdate};
use shunt::worker::{Peers, Worker};

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // The thread may be on its way out, with its variables gone.
    if COUNTING.try_with(Cell::get).unwrap_or(false) {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    }
}

// SAFETY: every call goes to `System` with the arguments it came with, so `System`'s guarantees are
// this allocator's; counting touches only thread-local cells that need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are `System::alloc`'s preconditions.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from `System` by one of these methods, with this layout.
        unsafe { System.realloc(block, layout, size) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` by one of these methods, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FRONT: PortId = PortId(0);
const BACK: PortId = PortId(1);
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xf0], [2, 0, 0, 0, 0, 0xb0]];
const HOST: [u8; 6] = [2, 0, 0, 0, 9, 9];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn server_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + n)
}

/// Filters that match and pass, and a mirror of every other packet to the servers' port.
fn guard() -> Guard {
    let everybody = PrefixSet::new(["0.0.0.0/0".parse().unwrap()]);
    let list = Some(Arc::new(PrefixSet::new(["203.0.113.0/24".parse().unwrap()])));
    let limit = Action::Limit { rate: 1_000_000, burst: 1_000_000 };
    Guard {
        filters: Filters::new(vec![
            Rule { list, action: Action::Drop, ..Rule::default() },
            Rule { sources: Some(everybody.clone()), action: limit, ..Rule::default() },
        ]),
        mirrors: vec![Mirror {
            name: "ids".into(),
            port: BACK,
            sample: 2,
            matching: Some(everybody),
        }],
        bogons: false,
        reverse_path: true,
    }
}

/// Two ports; TCP 80 and UDP 53 with so many servers each.
fn snapshot(workers: u8, mode: Mode, scheduler: SchedulerKind, servers: u8) -> Snapshot {
    let port = |name: &str, side, address: [u8; 4], mac| Port {
        name: name.into(),
        mac,
        mtu: 1500,
        role: PortRole::Wire { side, exception: None },
        ipv4: Some(address.into()),
        ipv6: None,
        full_checksums: false,
        ..Default::default()
    };
    let on_link = |port| RouteTarget { port, via: None };
    let route = |to: &str, port| Route { to: to.parse().unwrap(), target: on_link(port) };
    let lip = Ipv4Addr::new(10, 0, 0, 200);
    let mut snapshot = Snapshot {
        generation: 1,
        node_id: 0,
        ports: vec![
            port("front", Side::Client, [192, 0, 2, 2], MACS[0]),
            port("back", Side::Server, [10, 0, 0, 1], MACS[1]),
        ],
        lips: vec![LocalAddresses::default(), LocalAddresses { v4: vec![lip], v6: Vec::new() }],
        // Clients are on the link: each is a next hop of its own.
        routes_v4: vec![route("10.0.0.0/24", BACK), route("0.0.0.0/0", FRONT)],
        routes_v6: Vec::new(),
        services: Vec::new(),
        servers: Vec::new(),
        listeners_v4: Default::default(),
        listeners_v6: Default::default(),
        local_v4: [(VIP, LocalAddress::Vip), (lip, LocalAddress::Lip(BACK))].into_iter().collect(),
        local_v6: Default::default(),
        worker_of: std::array::from_fn(|bucket| bucket as u8 % workers),
        guard: Arc::new(guard()),
        ..Default::default()
    };
    for (id, (protocol, port)) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)].into_iter().enumerate()
    {
        let id = ServiceId(id as u16);
        snapshot.listeners_v4.insert((VIP, port, protocol), id);
        let mut service = Service {
            name: protocol.name().into(),
            protocol,
            listen: vec![SocketAddr::new(VIP.into(), port)],
            mode,
            scheduler,
            timeouts: Timeouts::DEFAULT,
            servers: Vec::new(),
            limits: Limits {
                connections_per_second: 1_000_000,
                packets_per_second: 1_000_000,
                half_open: 1_000_000,
                source_connections_per_second: 1_000_000,
                source_packets_per_second: 1_000_000,
                source_half_open: 1_000_000,
                ..Limits::default()
            },
            mirror: Some(MirrorId(0)),
            ..Default::default()
        };
        for n in 0..servers {
            service.servers.push(ServerId(snapshot.servers.len() as u16));
            snapshot.servers.push(Server {
                service: id,
                address: server_address(n).into(),
                port,
                weight: u16::from(n) + 1,
                up: true,
                route: on_link(BACK),
                ..Default::default()
            });
        }
        if scheduler.hashes() && protocol == Protocol::Tcp {
            // Limits that are looked at and never reached, and clients that are remembered.
            service.selection.max_connections = 1_000_000;
            service.selection.persistence =
                Some(Persistence { life_ms: 60_000, mask_v4: 24, mask_v6: 64, scope: id.0 });
        }
        snapshot.services.push(service);
    }
    snapshot.prepare();
    snapshot
}

struct Rig {
    workers: Vec<Worker<MemoryIo>>,
    commands: Vec<Producer<Command>>,
    events: Vec<Consumer<Event>>,
    counters: Vec<Arc<WorkerCounters>>,
    now: u32,
    turn: usize,
}

impl Rig {
    fn new(snapshot: Snapshot, workers: usize, sessions: usize) -> Self {
        Self::of_pair(snapshot, workers, sessions, None)
    }

    fn of_pair(
        snapshot: Snapshot,
        workers: usize,
        sessions: usize,
        pair: Option<PairSetup>,
    ) -> Self {
        let all: Arc<[_]> = (0..workers).map(|_| Arc::new(WorkerCounters::new())).collect();
        let snapshot = Arc::new(snapshot);
        let mut rig = Rig {
            workers: vec![],
            commands: vec![],
            events: vec![],
            counters: vec![],
            now: 0,
            turn: 0,
        };
        for (number, peers) in Peers::mesh(workers).into_iter().enumerate() {
            let counters = all[number].clone();
            let setup = Setup {
                ports_start: 0,
                all_counters: if pair.is_some() { all.clone() } else { Arc::default() },
                worker: number as u8,
                sessions_v4: sessions,
                sessions_v6: 16,
                seed: 1,
                cookie_secret: 1,
                pair: pair.clone(),
                advise: |_, _| {},
            };
            let pipeline = Pipeline::new(&setup, snapshot.clone(), counters.clone());
            let mut io = MemoryIo::new(2);
            for port in 0..2 {
                io.rx[port].reserve(8192);
                io.tx[port].reserve(32_768);
            }
            let (to_worker, commands) = RingBuffer::new(64);
            let (events, from_worker) = RingBuffer::new(256);
            rig.workers.push(Worker::new(io, pipeline, peers, commands, events));
            rig.commands.push(to_worker);
            rig.events.push(from_worker);
            rig.counters.push(counters);
        }
        rig
    }

    /// Everything that has arrived, counted.
    fn turn(&mut self) {
        self.work();
        for worker in &mut self.workers {
            for port in 0..2 {
                worker.io().tx[port].clear();
            }
        }
    }

    /// The same; what was sent stays on the wires.
    fn work(&mut self) {
        // The port's buffers are there beforehand, as those of a NIC are: one more for each packet
        // that may be copied, and twice what a pipeline keeps.
        let waiting: usize = self
            .workers
            .iter_mut()
            .flat_map(|w| w.io().rx.iter().map(|q| q.len()).collect::<Vec<_>>())
            .sum();
        for worker in &mut self.workers {
            let pool = &mut worker.io().pool;
            pool.resize_with(2 * waiting + 256, || MemoryFrame::new(FRONT, &[]));
        }
        loop {
            let mut moved = 0;
            for worker in &mut self.workers {
                COUNTING.set(true);
                moved += worker.poll(self.now);
                COUNTING.set(false);
            }
            if moved == 0 {
                break;
            }
        }
        for events in &mut self.events {
            while events.pop().is_ok() {}
        }
        assert!(self.counters.iter().all(|c| c.balanced()));
    }

    fn pass(&mut self, ms: u32) {
        for _ in (0..ms).step_by(100) {
            self.now += 100;
            self.turn();
        }
    }

    /// Commands are not the packet path: not counted.
    fn command(&mut self, make: impl Fn() -> Command) {
        for (commands, worker) in self.commands.iter_mut().zip(&mut self.workers) {
            commands.push(make()).unwrap();
            worker.poll(self.now);
        }
    }

    fn resolve(&mut self, port: PortId, address: Ipv4Addr) {
        let update = NeighborUpdate::Resolved(HOST);
        self.command(|| Command::Neighbor { port, address: address.into(), update });
    }

    fn arrive(&mut self, port: PortId, bytes: &[u8]) {
        self.turn += 1;
        let worker = self.turn % self.workers.len();
        self.workers[worker].io().rx[usize::from(port.0)].push_back(MemoryFrame::new(port, bytes));
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|c| c.drops_of(reason).get()).sum()
    }
}

fn packet(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: Option<u8>, ttl: u8) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(HOST, MACS[0]).ipv4(src.0.octets(), dst.0.octets(), ttl);
    let mut bytes = Vec::new();
    match flags {
        None => ip.udp(src.1, dst.1).write(&mut bytes, b"hello").unwrap(),
        Some(flags) => {
            ip.tcp(src.1, dst.1, 1, 1024).write(&mut bytes, b"hello").unwrap();
            bytes[47] = flags;
        }
    }
    bytes
}

/// The two fragments of a packet, the second first.
fn fragments(packet: &[u8], ident: u16) -> [Vec<u8>; 2] {
    [(8..packet.len() - 34, false), (0..8, true)].map(|(piece, more)| {
        let (mut header, payload) = etherparse::Ipv4Header::from_slice(&packet[14..]).unwrap();
        header.identification = ident;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = (piece.start as u16 / 8).try_into().unwrap();
        header.set_payload_len(piece.len()).unwrap();
        let mut bytes = packet[..14].to_vec();
        header.write(&mut bytes).unwrap();
        bytes.extend(&payload[piece]);
        bytes.resize(60, 0);
        bytes
    })
}

/// The error about a packet that a router behind could not forward.
fn unreachable(packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(HOST, MACS[1])
        .ipv4([10, 0, 0, 99], CLIENT.octets(), 64)
        .icmpv4_raw(3, 1, [0; 4])
        .write(&mut bytes, &packet[14..])
        .unwrap();
    bytes
}

/// A few thousand packets of every kind.
fn traffic(rig: &mut Rig, mode: Mode) {
    for port in 0..1000 {
        let client = (CLIENT, 2000 + port);
        rig.arrive(FRONT, &packet(client, (VIP, 80), Some(0x02), 64));
        rig.arrive(FRONT, &packet(client, (VIP, 53), None, 64));
        rig.arrive(FRONT, &packet(client, (VIP, 81), Some(0x02), 64));
        rig.arrive(FRONT, &packet(client, (VIP, 53), None, 1));
        rig.arrive(FRONT, &packet((CLIENT, 1), (VIP, 80), Some(0x10), 64));
        rig.arrive(FRONT, &packet(client, (VIP, 53), None, 64)[..30]);
        for fragment in fragments(&packet(client, (VIP, 53), None, 64), port) {
            rig.arrive(FRONT, &fragment);
        }
    }
    rig.turn();
    for port in 0..1000 {
        for n in 0..2 {
            let forwarded = packet((CLIENT, 2000 + port), (server_address(n), 53), None, 63);
            rig.arrive(BACK, &unreachable(&forwarded));
        }
    }
    rig.turn();
    for flags in [0x10, 0x18, 0x11] {
        for port in 0..1000 {
            rig.arrive(FRONT, &packet((CLIENT, 2000 + port), (VIP, 80), Some(flags), 64));
            for n in 0..2 {
                if mode == Mode::Nat {
                    let server = (server_address(n), 80);
                    let mut answer = packet(server, (CLIENT, 2000 + port), Some(0x12), 64);
                    answer[..6].copy_from_slice(&MACS[1]);
                    rig.arrive(BACK, &answer);
                }
            }
        }
        rig.turn();
    }
    for n in 0..100 {
        let mut request = Vec::new();
        PacketBuilder::ethernet2(HOST, MACS[0])
            .ipv4(CLIENT.octets(), VIP.octets(), 64)
            .icmpv4_echo_request(n, n)
            .write(&mut request, b"ping")
            .unwrap();
        rig.arrive(FRONT, &request);
        let arp = etherparse::ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            etherparse::ArpOperation::REQUEST,
            &HOST,
            &CLIENT.octets(),
            &[0; 6],
            &VIP.octets(),
        )
        .unwrap();
        let mut request = Vec::new();
        PacketBuilder::ethernet2(HOST, [0xff; 6]).arp(arp).write(&mut request).unwrap();
        rig.arrive(FRONT, &request);
        // Held until it is given up.
        let stranger = Ipv4Addr::new(198, 51, 100, 100 + n as u8 % 50);
        rig.arrive(FRONT, &packet((stranger, 5), (VIP, 53), None, 64));
    }
    rig.turn();
    // All sessions end.
    rig.pass(150_000);
    let sessions: usize =
        rig.workers.iter().map(|worker| worker.pipeline().sessions_v4().len()).sum();
    assert_eq!(sessions, 0);
}

/// The health of servers changes all the time; taking that in must not cost what listing ports does.
#[test]
fn a_change_of_health_does_not_list_local_ports_again() {
    let cost = |lips: u8| {
        let mut snapshot = snapshot(1, Mode::FullNat, SchedulerKind::Wrr, 3);
        for n in 1..lips {
            let lip = Ipv4Addr::new(10, 0, 0, 200 + n);
            snapshot.lips[1].v4.push(lip);
            snapshot.local_v4.insert(lip, LocalAddress::Lip(BACK));
        }
        let mut rig = Rig::new(snapshot.clone(), 1, 64);
        // The first turn stocks spare frames.
        rig.turn();
        allocations();
        snapshot.servers[0].up = false;
        rig.commands[0].push(Command::Snapshot(Arc::new(snapshot))).unwrap();
        rig.turn();
        allocations()
    };
    let cost = [1, 2, 20].map(cost);
    // The list of addresses itself may grow.
    assert!(cost.iter().all(|&n| n < 40), "{cost:?}");
}

fn allocations() -> u64 {
    ALLOCATIONS.replace(0)
}

#[test]
fn packets_cost_no_allocation() {
    // The counter counts.
    COUNTING.set(true);
    let block = Vec::<u8>::with_capacity(100);
    COUNTING.set(false);
    assert_eq!((allocations(), block.capacity()), (1, 100));

    for workers in [1, 2] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
            for scheduler in SchedulerKind::ALL {
                let first = snapshot(workers, mode, scheduler, 2);
                let mut rig = Rig::new(first, usize::from(workers), 4096);
                for n in 0..4 {
                    rig.resolve(BACK, server_address(n));
                }
                rig.resolve(FRONT, CLIENT);
                traffic(&mut rig, mode);
                assert_eq!(allocations(), 0, "{workers} workers, {mode:?}, {scheduler}");
                let copies: u64 = rig.counters.iter().map(|c| c.mirrored.get()).sum();
                let matched: u64 = rig.counters.iter().map(|c| c.filter(1).packets.get()).sum();
                assert!(copies > 5000 && matched > 8_000, "{copies} copies, {matched} matched");
                let sent: u64 = rig.counters.iter().map(|c| c.tx.get()).sum();
                assert!(sent > 5000, "{sent}");
                assert!(rig.drops(DropReason::HopLimitExceeded) == 1000 || mode == Mode::Dr);
                assert!(rig.drops(DropReason::NoSession) >= 1000);
                let of = |cell: fn(&WorkerCounters) -> u64| -> u64 {
                    rig.counters.iter().map(|c| cell(c)).sum()
                };
                assert_eq!(of(|c| c.fragments.get()), 2000);
                // Of two that arrive at two workers the first may be the first to come home.
                let held = of(|c| c.fragments_held.get());
                assert!(held == 1000 || (workers == 2 && held > 100), "{held}");
                assert!(of(|c| c.icmp_errors.get()) == 1000 || mode != Mode::Nat);
                // With another list of servers, from the first packet on.
                let next = Arc::new(snapshot(workers, mode, scheduler, 4));
                rig.command(|| Command::Snapshot(next.clone()));
                traffic(&mut rig, mode);
                assert_eq!(allocations(), 0, "after a change: {mode:?}, {scheduler}");
            }
        }
    }
}

/// A flood of SYNs to a proxied service, clients that return their cookies, a server that is asked
/// three times and says nothing.
#[test]
fn the_syn_proxy_costs_none() {
    let mut first = snapshot(1, Mode::Nat, SchedulerKind::Wrr, 2);
    first.services[0].syn_proxy = SynProxy::On;
    let mut rig = Rig::new(first, 1, 4096);
    for n in 0..2 {
        rig.resolve(BACK, server_address(n));
    }
    rig.resolve(FRONT, CLIENT);
    let segment = |port: u16, ack: Option<u32>| {
        let ip = PacketBuilder::ethernet2(HOST, MACS[0]).ipv4(CLIENT.octets(), VIP.octets(), 64);
        let tcp = match ack {
            None => ip.tcp(port, 80, 7, 1024).syn(),
            Some(ack) => ip.tcp(port, 80, 8, 1024).ack(ack),
        };
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, b"").unwrap();
        bytes
    };
    let mut cookies = SynCookies::new(1);
    allocations();
    for port in 0..8000 {
        rig.arrive(FRONT, &segment(1024 + port, None));
        rig.turn();
    }
    for sport in 1024..4096 {
        let (src, dst) = (CLIENT, VIP);
        let key = FlowKey { src, dst, sport, dport: 80, protocol: Protocol::Tcp };
        let claim = Claim { key, isn: 7, timestamps: false };
        let cookie = cookies.mint(&claim, 536, rig.now);
        rig.arrive(FRONT, &segment(sport, Some(cookie.wrapping_add(1))));
        rig.arrive(FRONT, &segment(sport, Some(cookie)));
        rig.turn();
    }
    assert_eq!(rig.workers[0].pipeline().sessions_v4().len(), 3072);
    rig.pass(10_000);
    assert_eq!(rig.workers[0].pipeline().sessions_v4().len(), 0);
    // SYNs and resets of its own, besides the answers and the copies for the mirror.
    let counters = &rig.counters[0];
    let own = counters.originated.get() - counters.consumed.get() - counters.mirrored.get();
    assert_eq!((own, allocations()), (2880, 0));
    let service = rig.counters[0].service(ServiceId(0));
    assert_eq!((service.syn_cookies_sent.get(), service.syn_cookies_accepted.get()), (8000, 3072));
    assert_eq!(service.syn_cookies_rejected.get() + rig.drops(DropReason::SynProxyWaiting), 3072);
}

/// Egress SNAT: mappings that come and go, in the cheapest and the dearest behavior, pings, packets
/// that are let in and that are not, hairpins.
#[test]
fn egress_snat_costs_none() {
    use shunt::datapath::snapshot::Snat;
    use shunt::session::mappings::{Behavior, Policy};
    let pool = Ipv4Addr::new(203, 0, 113, 5);
    let inside = |n: u16| (Ipv4Addr::new(10, 0, 0, 100), 2000 + n);
    let from_inside = |bytes: Vec<u8>| [&MACS[1], &bytes[6..]].concat();
    for (mapping, filtering) in [
        (Behavior::EndpointIndependent, Behavior::AddressDependent),
        (Behavior::EndpointIndependent, Behavior::EndpointIndependent),
        (Behavior::AddressAndPortDependent, Behavior::AddressAndPortDependent),
    ] {
        let mut first = snapshot(2, Mode::Nat, SchedulerKind::Wrr, 2);
        first.set_snats(vec![Snat {
            sources: vec!["10.0.0.0/24".parse().unwrap()],
            pool: vec![(pool.into(), FRONT)],
            policy: Policy { mapping, filtering },
            ports_per_source: 60_000,
            ..Default::default()
        }]);
        let mut rig = Rig::new(first, 2, 4096);
        rig.resolve(FRONT, CLIENT);
        rig.resolve(BACK, inside(0).0);
        allocations();
        for _ in 0..3 {
            for n in 0..1000 {
                for flags in [None, Some(0x02), Some(0x10)] {
                    rig.arrive(BACK, &from_inside(packet(inside(n), (CLIENT, 53), flags, 64)));
                }
                rig.arrive(BACK, &from_inside(packet(inside(n), (pool, 3000 + n), None, 64)));
                rig.arrive(FRONT, &packet((CLIENT, 53), (pool, 3000 + n), None, 64));
                rig.arrive(FRONT, &packet((CLIENT, 54), (pool, 3000 + n), None, 64));
                let mut ping = Vec::new();
                PacketBuilder::ethernet2(HOST, MACS[1])
                    .ipv4(inside(0).0.octets(), CLIENT.octets(), 64)
                    .icmpv4_echo_request(n, n)
                    .write(&mut ping, b"ping")
                    .unwrap();
                rig.arrive(BACK, &ping);
            }
            rig.turn();
            let sessions: usize =
                rig.workers.iter().map(|worker| worker.pipeline().sessions_v4().len()).sum();
            assert!(sessions > 3000, "{sessions}");
            rig.pass(950_000);
            assert!(rig.workers.iter().all(|worker| worker.pipeline().snat_is_empty()));
        }
        assert_eq!(allocations(), 0, "{mapping:?} {filtering:?}");
    }
}

/// Clients that nobody has seen, each a next hop that never answers, push one another out of the
/// table of next hops.
#[test]
fn next_hops_that_come_and_go_cost_none() {
    let first = snapshot(1, Mode::Nat, SchedulerKind::Rr, 1);
    let mut rig = Rig::new(first, 1, 200_000);
    rig.resolve(BACK, server_address(0));
    for n in 0..100_000u32 {
        let client = Ipv4Addr::from(0x0b00_0000 + n);
        rig.arrive(FRONT, &packet((client, 5), (VIP, 53), None, 64));
        if n % 4096 == 0 {
            rig.turn();
        }
    }
    rig.turn();
    assert_eq!(rig.drops(DropReason::NeighborTableFull), 0);
    assert_eq!(rig.workers[0].pipeline().sessions_v4().len(), 100_000);
    assert_eq!(allocations(), 0);
}

/// Two nodes with a channel on the servers' network.
struct Pair {
    nodes: [Rig; 2],
    /// Nothing comes over.
    cut: bool,
}

impl Pair {
    const MACS: [[[u8; 6]; 2]; 2] = [MACS, [[2, 0, 0, 0, 0, 0xf1], [2, 0, 0, 0, 0, 0xb1]]];

    fn new(workers: [u8; 2], mode: Mode) -> Self {
        let node = |node: u8| {
            let own = Ipv4Addr::new(10, 0, 0, 1 + node);
            let workers = workers[usize::from(node)];
            let mut snapshot = snapshot(workers, mode, SchedulerKind::Maglev, 2);
            snapshot.guard = Arc::default();
            for service in &mut snapshot.services {
                service.mirror = None;
                service.limits = Limits::default();
            }
            snapshot.node_id = node;
            for (port, mac) in snapshot.ports.iter_mut().zip(Pair::MACS[usize::from(node)]) {
                port.mac = mac;
            }
            snapshot.ports[1].ipv4 = Some(own);
            snapshot.local_v4.insert(own, LocalAddress::Port(BACK));
            snapshot.ha = Some(Arc::new(Ha {
                groups: Vec::new(),
                group_of_v4: Default::default(),
                group_of_v6: Default::default(),
                channel: Channel {
                    port: BACK,
                    group: "239.255.19.19:8849".parse().unwrap(),
                    source: own.into(),
                    peer: Ipv4Addr::new(10, 0, 0, 2 - node).into(),
                    rate: 200_000,
                    relay: true,
                    config_digest: 1,
                },
            }));
            let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
            let setup = PairSetup {
                keys: Keys::parse(key).unwrap(),
                boot: 0x1000 + u64::from(node),
                secret: u128::from(node),
                version: VersionText::new("1"),
                clock_ms: 0,
            };
            let mut rig = Rig::of_pair(snapshot, usize::from(workers), 8192, Some(setup));
            for n in 0..2 {
                rig.resolve(BACK, server_address(n));
            }
            rig.resolve(FRONT, CLIENT);
            rig
        };
        Pair { nodes: [node(0), node(1)], cut: false }
    }

    /// Everything that has arrived, and what each says to the other about it.
    fn turn(&mut self) {
        loop {
            let mut said = 0;
            for from in 0..2 {
                self.nodes[from].work();
                let mut frames = Vec::new();
                for worker in &mut self.nodes[from].workers {
                    worker.io().tx[0].clear();
                    frames.append(&mut worker.io().tx[1]);
                }
                let of_channel = |frame: &[u8]| frame.get(36..38) == Some(&8849u16.to_be_bytes());
                use shunt::datapath::frame::Frame;
                frames.retain(|frame| of_channel(frame.bytes()) && !self.cut);
                said += frames.len();
                for frame in frames {
                    self.nodes[1 - from].arrive(BACK, frame.bytes());
                }
            }
            if said == 0 {
                break;
            }
        }
    }

    fn pass(&mut self, ms: u32, step: u32) {
        for _ in (0..ms).step_by(step as usize) {
            for node in &mut self.nodes {
                node.now += step;
            }
            self.turn();
        }
    }

    fn sum(&self, cell: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.nodes.iter().flat_map(|node| &node.counters).map(|counters| cell(counters)).sum()
    }

    fn sessions(&self) -> [usize; 2] {
        [0, 1].map(|node| {
            let workers = &self.nodes[node].workers;
            workers.iter().map(|worker| worker.pipeline().sessions_v4().len()).sum()
        })
    }

    fn packet(&mut self, node: usize, src: u16, dport: u16, flags: Option<u8>) {
        let mut bytes = packet((CLIENT, src), (VIP, dport), flags, 64);
        bytes[..6].copy_from_slice(&Pair::MACS[node][0]);
        self.nodes[node].arrive(FRONT, &bytes);
    }
}

/// Two nodes that tell each other of all their sessions: hellos, digests, new sessions and their
/// changes, what is lost and repeated, packets given to the peer, a parting and the walks after it.
#[test]
fn a_pair_costs_none() {
    for (workers, mode) in [([1, 1], Mode::Nat), ([1, 2], Mode::FullNat), ([2, 3], Mode::Nat)] {
        let mut pair = Pair::new(workers, mode);
        pair.turn();
        allocations();
        pair.pass(2_000, 10);
        assert_eq!(pair.sum(|c| c.sync.peer_alive.get()), 2);
        assert_eq!(pair.sum(|c| c.sync.buckets_synced.get()), 256);
        for round in 0..2 {
            for n in 0..1000u16 {
                let node = usize::from(n % 2);
                pair.packet(node, 2000 + n, 80, Some(0x02));
                pair.packet(node, 2000 + n, 53, None);
                // Of these one knows nothing, nor does the other.
                pair.packet(node, 20_000 + n, 80, Some(0x10));
                if n % 100 == 99 {
                    pair.pass(2, 1);
                }
            }
            pair.pass(50, 1);
            assert_eq!(pair.sessions(), [2000, 2000], "{workers:?} {mode:?}");
            for flags in [0x10, 0x18, 0x11] {
                for n in 0..1000 {
                    pair.packet(usize::from(n % 3 == 0), 2000 + n, 80, Some(flags));
                    pair.packet(usize::from(n % 3 == 0), 2000 + n, 53, None);
                }
                pair.pass(20, 1);
            }
            // Datagrams are lost.
            pair.cut = true;
            for n in 0..200 {
                pair.packet(usize::from(n % 2), 10_000 + n, 53, None);
            }
            pair.pass(100, 10);
            pair.cut = false;
            pair.pass(1_000, 10);
            assert_eq!(pair.sessions(), [2200, 2200]);
            // They part and meet again.
            pair.cut = true;
            pair.pass(3_500, 100);
            assert_eq!(pair.sum(|c| c.sync.peer_alive.get()), 0);
            for n in 0..200 {
                pair.packet(usize::from(n % 2), 12_000 + n, 53, None);
            }
            pair.cut = false;
            pair.pass(3_000, 10);
            assert_eq!(pair.sum(|c| c.sync.buckets_synced.get()), 256);
            let sessions = pair.sessions();
            assert!(sessions[0] == sessions[1] && sessions[0] > 400, "{sessions:?}");
            // All sessions end, half as late as else where a node has them of the other.
            pair.pass(200_000, 100);
            assert_eq!(pair.sessions(), [0, 0], "round {round}");
        }
        assert_eq!(allocations(), 0, "{workers:?} {mode:?}");
        for (what, n) in [
            ("imported", pair.sum(|c| c.sync.imported.get())),
            ("repeated", pair.sum(|c| c.sync.repeated.get())),
            ("walks", pair.sum(|c| c.sync.walks.get())),
            ("relayed", pair.sum(|c| c.sync.relayed.get())),
        ] {
            assert!(n > 0, "{what}");
        }
    }
}
