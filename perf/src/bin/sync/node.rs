//! Two nodes of a pair, each a real worker on a core of its own, joined by wires in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hashbrown::HashMap;
use perf::rig::{self, GATEWAY_V6, VIP_V6};
use perf::ring::{self, CHANNEL, FRONT, Inlet, Outlet, RingIo};
use perf::traffic::{CLIENT_MAC, GATEWAY, SERVER_MAC, VIP, VIP_PORT};
use rtrb::{Consumer, Producer, RingBuffer};
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::ha::{Channel, Ha};
use shunt::datapath::pipeline::Pipeline;
use shunt::datapath::replica::PairSetup;
use shunt::datapath::setup::Setup;
use shunt::datapath::snapshot::{
    BUCKETS, LocalAddress, LocalAddresses, Port, Route, RouteTarget, Server, Service, Snapshot,
    Timeouts,
};
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::sync::control::VersionText;
use shunt::sync::keys::Keys;
use shunt::wire::flow::Protocol;
use shunt::worker::control::{Command, Event};
use shunt::worker::{Peers, Worker, affinity};

/// Frames that may be on a wire at a time: as many as a network card's queue of the usual length.
const WIRE: usize = 1024;
/// Empty frames of each node.
const FRAMES: usize = 4096;
/// The longest idle time there is in a measurement: no session ends by itself.
const TIMEOUT_MS: u32 = 3_600_000;
/// How long two nodes may take to find each other and to become synced.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Turns between two looks at what the worker has to tell the management thread.
const EVENT_INTERVAL: u32 = 1024;

/// Sessions per second of a bulk walk when nothing else is said: the default of `[ha] sync_rate`.
pub(crate) const DEFAULT_RATE: u32 = 200_000;

/// What the nodes of a measurement are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How sessions are forwarded.
    pub(crate) mode: Mode,
    /// Room for sessions.
    pub(crate) sessions_v4: usize,
    /// The same of IPv6.
    pub(crate) sessions_v6: usize,
    /// Whether they are a pair; otherwise each is alone.
    pub(crate) pair: bool,
    /// Sessions per second of a bulk walk.
    pub(crate) rate: u32,
}

/// A node, on the thread that made it.
pub(crate) struct Node {
    worker: Worker<RingIo>,
    start: Instant,
    turns: u32,
    events: Consumer<Event>,
    _commands: Producer<Command>,
    /// Its counters.
    pub(crate) counters: Arc<WorkerCounters>,
    /// The other one's.
    pub(crate) peer: Arc<WorkerCounters>,
    pair: bool,
    over: Arc<AtomicBool>,
}

impl Node {
    /// One turn of the worker, as its own loop takes it.
    #[inline(always)]
    pub(crate) fn turn(&mut self) {
        let elapsed = self.start.elapsed();
        self.worker.io().feed.tick(elapsed.as_nanos() as u64);
        self.worker.poll(elapsed.as_millis() as u32);
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(EVENT_INTERVAL) {
            while self.events.pop().is_ok() {}
        }
    }

    /// Whether the other node's part is over.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Turns until something is so. An error when it takes too long, or when the other node is gone.
    pub(crate) fn turn_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while !is_so(self) {
            self.turn();
            if self.turns.is_multiple_of(EVENT_INTERVAL) && Instant::now() > deadline {
                bail!("{what}: not within {patience:?}; {:?}", self.counters.sync);
            }
            if self.turns.is_multiple_of(EVENT_INTERVAL) && self.is_over() {
                bail!("{what}: the other node has ended");
            }
        }
        Ok(())
    }

    /// Turns for so long.
    pub(crate) fn turn_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.turn();
        }
    }

    /// Turns until both nodes are synced, if they are a pair.
    pub(crate) fn turn_until_synced(&mut self) -> anyhow::Result<()> {
        if self.pair {
            let both = |node: &mut Node| is_synced(&node.counters) && is_synced(&node.peer);
            self.turn_until("both nodes synced", PATIENCE, both)?;
        }
        Ok(())
    }

    /// Its ports.
    pub(crate) fn io(&mut self) -> &mut RingIo {
        self.worker.io()
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        let pipeline = self.worker.pipeline();
        pipeline.sessions_v4().len() + pipeline.sessions_v6().len()
    }
}

/// Whether the peer is there and all buckets were found equal.
pub(crate) fn is_synced(counters: &WorkerCounters) -> bool {
    let sync = &counters.sync;
    sync.peer_alive.get() == 1 && sync.buckets_synced.get() == BUCKETS as u64
}

/// Packets that were dropped, for whatever reason.
pub(crate) fn dropped(counters: &WorkerCounters) -> u64 {
    counters.drops.iter().map(|drops| drops.get()).sum()
}

/// The ends of the wires of one node.
struct Ends {
    to_peer: Outlet,
    from_peer: Inlet,
    /// From the client on node B's thread to node A.
    clients: Clients,
}

enum Clients {
    In(Inlet),
    Out(Outlet),
}

/// Says that a node's part is over, in whatever way.
struct AtEnd(Arc<AtomicBool>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes both nodes, each on a thread of its own core, and gives them to `a` and `b`; the latter gets
/// a wire into node A's front as well. When one is through, the other is told ([`Node::is_over`]).
pub(crate) fn run<X: Send, Y: Send>(
    plan: Plan,
    a: impl FnOnce(&mut Node) -> anyhow::Result<X> + Send,
    b: impl FnOnce(&mut Node, Outlet) -> anyhow::Result<Y> + Send,
) -> anyhow::Result<(X, Y)> {
    let cores = affinity::cores();
    let [core_a, core_b] = *cores.first_chunk().context("two cores are needed")?;
    let start = Instant::now();
    let counters = [0, 1].map(|_| Arc::new(WorkerCounters::new()));
    let (a_to_b, b_from_a) = ring::wire(WIRE);
    let (b_to_a, a_from_b) = ring::wire(WIRE);
    let (clients, front) = ring::wire(WIRE);
    let ends_a = Ends { to_peer: a_to_b, from_peer: a_from_b, clients: Clients::In(front) };
    let ends_b = Ends { to_peer: b_to_a, from_peer: b_from_a, clients: Clients::Out(clients) };
    let over = Arc::new(AtomicBool::new(false));
    let (over, counters) = (&over, &counters);
    std::thread::scope(|scope| {
        let one = scope.spawn(move || {
            let _end = AtEnd(over.clone());
            let (mut node, _) = make(plan, 0, core_a, start, counters, ends_a, over)?;
            a(&mut node)
        });
        let other = scope.spawn(move || {
            let _end = AtEnd(over.clone());
            let (mut node, clients) = make(plan, 1, core_b, start, counters, ends_b, over)?;
            b(&mut node, clients.context("node B has the clients")?)
        });
        let (one, other) = (one.join(), other.join());
        let panicked = |_| anyhow::anyhow!("a node's thread panicked");
        Ok((one.map_err(panicked)??, other.map_err(panicked)??))
    })
}

/// Makes a node on the calling thread.
fn make(
    plan: Plan,
    id: u8,
    core: usize,
    start: Instant,
    counters: &[Arc<WorkerCounters>; 2],
    ends: Ends,
    over: &Arc<AtomicBool>,
) -> anyhow::Result<(Node, Option<Outlet>)> {
    if !affinity::pin(core) {
        bail!("there is no core {core} on this machine");
    }
    ring::stock_up(FRAMES, 2 * FRAMES + 2 * WIRE);
    let own = counters[usize::from(id)].clone();
    let snapshot = Arc::new(snapshot(&plan, id)?);
    let setup = Setup {
        ports_start: 0,
        worker: 0,
        sessions_v4: plan.sessions_v4,
        sessions_v6: plan.sessions_v6,
        seed: 7 + u64::from(id),
        cookie_secret: 7,
        pair: plan.pair.then(|| pair_setup(id)).transpose()?,
        all_counters: Arc::from([own.clone()]),
        advise: advise_huge_pages,
    };
    let mut pipeline = Pipeline::new(&setup, snapshot.clone(), own.clone());
    for gateway in [IpAddr::V4(GATEWAY), IpAddr::V6(GATEWAY_V6)] {
        pipeline.neighbor(FRONT, gateway, Some(CLIENT_MAC));
    }
    for server in &snapshot.servers {
        pipeline.neighbor(FRONT, server.address, Some(SERVER_MAC));
    }
    let (commands, commands_out) = RingBuffer::new(16);
    let (events_in, events) = RingBuffer::new(1024);
    let mut io = RingIo::new(ends.to_peer, ends.from_peer);
    let clients = match ends.clients {
        Clients::In(front) => {
            io.from_clients = Some(front);
            None
        }
        Clients::Out(outlet) => Some(outlet),
    };
    let peers = Peers::mesh(1).pop().context("a mesh of one")?;
    let worker = Worker::new(io, pipeline, peers, commands_out, events_in);
    let peer = counters[usize::from(1 - id)].clone();
    let pair = plan.pair;
    let node = Node {
        worker,
        start,
        turns: 0,
        events,
        _commands: commands,
        counters: own,
        peer,
        pair,
        over: over.clone(),
    };
    Ok((node, clients))
}

fn pair_setup(id: u8) -> anyhow::Result<PairSetup> {
    Ok(PairSetup {
        keys: Keys::parse(&"0123456789abcdef".repeat(4))?,
        boot: 0x1000 + u64::from(id),
        secret: 0x5ec2e7 + u128::from(id),
        version: VersionText::new("perf"),
        clock_ms: 0,
    })
}

/// The rig's configuration with a TCP service beside that of UDP, and a port to the peer.
fn snapshot(plan: &Plan, id: u8) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot::clone(&rig::snapshot(plan.mode));
    let address = |id: u8| Ipv4Addr::new(198, 51, 100, 1 + id);
    snapshot.node_id = id;
    snapshot.ports.push(Port {
        name: "channel".into(),
        mac: [2, 0, 0, 0, 1, id],
        ipv4: Some(address(id)),
        ..Default::default()
    });
    snapshot.lips.push(LocalAddresses::default());
    let target = RouteTarget { port: CHANNEL, via: None };
    snapshot.routes_v4.insert(0, Route { to: "198.51.100.0/24".parse()?, target });
    snapshot.local_v4.insert(address(id), LocalAddress::Port(CHANNEL));

    let timeouts = Timeouts {
        tcp_syn: TIMEOUT_MS,
        tcp_established: TIMEOUT_MS,
        udp: TIMEOUT_MS,
        ..Timeouts::DEFAULT
    };
    let (udp, tcp) = (ServiceId(0), ServiceId(1));
    snapshot.services[usize::from(udp.0)].timeouts = timeouts;
    let first = snapshot.servers.len();
    let same = snapshot.servers.clone().into_iter();
    snapshot.servers.extend(same.map(|server| Server { service: tcp, ..server }));
    snapshot.services.push(Service {
        name: "tcp".into(),
        protocol: Protocol::Tcp,
        servers: (first..snapshot.servers.len()).map(|id| ServerId(id as u16)).collect(),
        ..snapshot.services[usize::from(udp.0)].clone()
    });
    snapshot.listeners_v4.insert((VIP, VIP_PORT, Protocol::Tcp), tcp);
    snapshot.listeners_v6.insert((VIP_V6, VIP_PORT, Protocol::Tcp), tcp);

    snapshot.ha = plan.pair.then(|| {
        Arc::new(Ha {
            groups: Vec::new(),
            group_of_v4: HashMap::new(),
            group_of_v6: HashMap::new(),
            channel: Channel {
                port: CHANNEL,
                group: SocketAddr::from((Ipv4Addr::new(239, 255, 19, 19), 8849)),
                source: address(id).into(),
                peer: address(1 - id).into(),
                rate: plan.rate,
                relay: true,
                config_digest: 1,
            },
        })
    });
    snapshot.prepare();
    Ok(snapshot)
}

/// What the program does for its tables; without DPDK it does not have it.
#[cfg(feature = "dpdk")]
fn advise_huge_pages(address: usize, len: usize) {
    shunt::dpdk::advise_huge_pages(address, len);
}

#[cfg(not(feature = "dpdk"))]
fn advise_huge_pages(address: usize, len: usize) {
    const HUGE_PAGE: usize = 2 << 20;
    let start = address.next_multiple_of(HUGE_PAGE);
    let end = (address + len) / HUGE_PAGE * HUGE_PAGE;
    if start < end {
        // SAFETY: MADV_HUGEPAGE changes how memory is backed and never what it holds; a range that
        // is not mapped is an error the kernel returns.
        unsafe {
            libc::madvise(
                std::ptr::without_provenance_mut(start),
                end - start,
                libc::MADV_HUGEPAGE,
            );
        }
    }
}
