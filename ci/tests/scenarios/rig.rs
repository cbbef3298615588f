//! Workers on wires in memory, in virtual time, and the check that a step did what it should and
//! nothing else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::pipeline::Pipeline;
use shunt::datapath::replica::PairSetup;
use shunt::datapath::setup::Setup;
use shunt::datapath::snapshot::{Mac, PortId};
use shunt::io::memory::{HEADROOM, MemoryFrame, MemoryIo};
use shunt::session::ServerId;
use shunt::worker::control::{Command, Event, NeighborUpdate};
use shunt::worker::{Peers, Worker};

use crate::changes::Changes;
use crate::frames::Packet;
use crate::net::{Family, Net, ROUTER_MAC, server_mac};

/// Of the SYN cookies of every rig: the same as those of a pair, which follow from its key.
pub fn cookie_secret() -> u128 {
    let (secret, _) = crate::pair::keys().derive("shunt SYN cookies");
    secret.iter().fold(0, |secret, byte| secret << 8 | u128::from(*byte))
}

/// Of the hashes of every rig that is not told otherwise; each worker has one more.
pub const SEED: u64 = 0x5eed;

/// Frames by the port they left from.
pub type Sent = Vec<(PortId, Vec<u8>)>;

pub struct Rig {
    pub net: Net,
    pub workers: Vec<Worker<MemoryIo>>,
    pub commands: Vec<Producer<Command>>,
    pub events: Vec<Consumer<Event>>,
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Milliseconds.
    pub now: u32,
    /// The worker whose queue the next frame arrives in: each in turn, whatever the steering says.
    pub turn: usize,
    before: Changes,
}

impl Rig {
    /// Room for 1,000 sessions of each family on each worker; no neighbors known.
    pub fn cold(net: Net) -> Self {
        Self::with_sessions(net, 1000)
    }

    pub fn with_sessions(net: Net, sessions: usize) -> Self {
        Self::build(net, sessions, SEED, None)
    }

    /// A node of a pair, or one by itself, with a seed of its own.
    pub fn build(mut net: Net, sessions: usize, seed: u64, pair: Option<PairSetup>) -> Self {
        net.snapshot.prepare();
        let snapshot = Arc::new(net.snapshot.clone());
        let (mut workers, mut commands, mut events, mut counters) =
            (vec![], vec![], vec![], vec![]);
        let all_counters: Arc<[_]> =
            (0..net.workers()).map(|_| Arc::new(WorkerCounters::new())).collect();
        for (number, peers) in Peers::mesh(net.workers()).into_iter().enumerate() {
            let own = all_counters[number].clone();
            let setup = Setup {
                ports_start: 0,
                all_counters: all_counters.clone(),
                worker: number as u8,
                sessions_v4: sessions,
                sessions_v6: sessions,
                seed: seed + number as u64,
                advise: |_, _| {},
                cookie_secret: cookie_secret(),
                pair: pair.clone(),
            };
            let pipeline = Pipeline::new(&setup, snapshot.clone(), own.clone());
            let (to_worker, from_management) = RingBuffer::new(64);
            let (to_management, from_worker) = RingBuffer::new(64);
            let io = MemoryIo::new(snapshot.ports.len());
            workers.push(Worker::new(io, pipeline, peers, from_management, to_management));
            commands.push(to_worker);
            events.push(from_worker);
            counters.push(own);
        }
        // Just before the clock wraps, so that every scenario crosses it.
        let now = u32::MAX - 500;
        Rig { net, workers, commands, events, counters, now, turn: 0, before: Changes::none() }
    }

    /// As [`Rig::cold`], with the router and the servers 11 to 19 resolved.
    pub fn new(net: Net) -> Self {
        Self::warmed(Self::cold(net))
    }

    pub fn warmed(mut self) -> Self {
        self.warm();
        self
    }

    /// Resolves the router and the servers 11 to 19.
    pub fn warm(&mut self) {
        let back = self.net.server_side();
        for family in Family::BOTH {
            self.resolve(PortId(0), family.router(), ROUTER_MAC);
            for n in 11..20 {
                self.resolve(back, family.server(n), server_mac(n));
            }
        }
    }

    /// Tells every worker a neighbor.
    pub fn resolve(&mut self, port: PortId, address: IpAddr, mac: Mac) {
        self.neighbor(port, address, NeighborUpdate::Resolved(mac));
    }

    pub fn neighbor(&mut self, port: PortId, address: IpAddr, update: NeighborUpdate) {
        self.command(|| Command::Neighbor { port, address, update });
    }

    /// Gives every worker the configuration in `self.net`.
    pub fn reconfigure(&mut self) {
        self.net.snapshot.prepare();
        let snapshot = Arc::new(self.net.snapshot.clone());
        self.command(|| Command::Snapshot(snapshot.clone()));
    }

    /// Gives every worker a command and lets it obey.
    pub fn command(&mut self, make: impl Fn() -> Command) {
        for commands in &mut self.commands {
            commands.push(make()).unwrap();
        }
        self.settle();
    }

    /// Lets time pass without a packet: every worker takes a turn each 100 ms.
    pub fn pass(&mut self, ms: u32) {
        for step in (0..ms).step_by(100).skip(1).chain([ms]) {
            let now = self.now.wrapping_add(step);
            for worker in &mut self.workers {
                worker.poll(now);
            }
        }
        self.now = self.now.wrapping_add(ms);
        self.settle();
    }

    /// Turns every worker until nothing moves.
    pub fn settle(&mut self) {
        loop {
            let now = self.now;
            let moved: usize = self.workers.iter_mut().map(|worker| worker.poll(now)).sum();
            if moved == 0 {
                break;
            }
        }
        self.assert_balanced();
    }

    pub fn assert_balanced(&self) {
        for (worker, counters) in self.counters.iter().enumerate() {
            assert!(counters.balanced(), "worker {worker}: {counters:?}");
            // Whichever way sessions have ended.
            let pipeline = self.workers[worker].pipeline();
            if pipeline.sessions_v4().is_empty() && pipeline.sessions_v6().is_empty() {
                assert_eq!(counters.half_open.get(), 0, "worker {worker}: half-open sessions");
            }
        }
    }

    /// Takes what all workers have sent on all ports.
    pub fn sent(&mut self) -> Sent {
        let mut sent = Sent::new();
        for port in 0..self.net.snapshot.ports.len() {
            let port = PortId(port as u8);
            for worker in &mut self.workers {
                sent.extend(worker.io().sent(port).into_iter().map(|bytes| (port, bytes)));
            }
        }
        sent
    }

    /// Takes what all workers have sent, of each worker in the order in which it went out.
    pub fn sent_in_order(&mut self) -> Sent {
        self.workers.iter_mut().flat_map(|worker| worker.io().sent_in_order()).collect()
    }

    /// Takes all events of all workers, but for retired snapshots.
    pub fn events(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        for events in &mut self.events {
            while let Ok(event) = events.pop() {
                if !matches!(event, Event::Retired(_)) {
                    all.push(event);
                }
            }
        }
        all
    }

    /// What has changed since the last call.
    pub fn changes(&mut self) -> Changes {
        let mut now = Changes::none();
        for counters in &self.counters {
            now.read(counters, &self.net.snapshot);
        }
        let changes = now.since(&self.before);
        self.before = now;
        changes
    }

    /// Puts a frame into the queue of the worker whose turn it is and returns that worker.
    pub fn arrive(&mut self, frame: MemoryFrame) -> usize {
        use shunt::datapath::frame::Frame;
        let worker = self.turn % self.workers.len();
        self.turn += 1;
        let port = usize::from(frame.rx_port().0);
        self.workers[worker].io().rx[port].push_back(frame);
        worker
    }

    /// A frame comes in; returns what goes out. No counter is looked at.
    pub fn send(&mut self, port: PortId, bytes: &[u8]) -> Sent {
        self.arrive(MemoryFrame::new(port, bytes));
        self.settle();
        self.sent()
    }

    /// A frame comes in: exactly `expected` goes out and exactly `changes` happens to the counters.
    /// `outer` is the endpoint the packet is steered by; `None` for packets that are dealt with by
    /// whoever receives them.
    pub fn step(
        &mut self,
        what: &str,
        port: PortId,
        bytes: &[u8],
        outer: Option<SocketAddr>,
        changes: Changes,
        expected: &[(PortId, Vec<u8>)],
    ) {
        self.step_frame(what, MemoryFrame::new(port, bytes), outer, changes, expected);
    }

    pub fn step_frame(
        &mut self,
        what: &str,
        frame: MemoryFrame,
        outer: Option<SocketAddr>,
        changes: Changes,
        expected: &[(PortId, Vec<u8>)],
    ) {
        use shunt::datapath::frame::Frame;
        // Whatever happened before is not this step's.
        self.changes();
        self.sent();
        let mut changes = changes.rx(frame.rx_port(), frame.bytes());
        let receiver = self.arrive(frame);
        if outer.is_some_and(|outer| self.net.owner(outer) != receiver) {
            changes = changes.add("handed_off", 1).add("handed_in", 1);
        }
        self.settle();
        let workers = self.workers.len();
        assert_eq!(hex(&self.sent()), hex(expected), "{what}, {workers} workers: frames");
        assert_eq!(self.changes(), changes, "{what}, {workers} workers: counters");
    }

    /// Time passes: exactly `changes` happens, and no frame goes out.
    pub fn wait(&mut self, what: &str, ms: u32, changes: Changes) {
        self.changes();
        self.sent();
        self.pass(ms);
        assert_eq!(hex(&self.sent()), hex(&[]), "{what}: frames");
        assert_eq!(self.changes(), changes, "{what}: counters");
    }

    /// A packet from the client by way of the router, as it comes in at `front`.
    pub fn by_client(&self, packet: Packet) -> Packet {
        let mac = self.net.snapshot.ports[0].mac;
        packet.macs(ROUTER_MAC, mac)
    }

    /// A packet as it leaves towards the client.
    pub fn to_client(&self, packet: Packet) -> Packet {
        let mac = self.net.snapshot.ports[0].mac;
        packet.macs(mac, ROUTER_MAC)
    }

    /// A packet from server `n`, as it comes in on the server side.
    pub fn by_server(&self, n: u8, packet: Packet) -> Packet {
        packet.macs(server_mac(n), self.net.server_side_mac())
    }

    /// A packet as it leaves towards server `n`.
    pub fn to_server(&self, n: u8, packet: Packet) -> Packet {
        packet.macs(self.net.server_side_mac(), server_mac(n))
    }

    pub fn sessions(&self) -> usize {
        let both = |w: &Worker<MemoryIo>| {
            w.pipeline().sessions_v4().len() + w.pipeline().sessions_v6().len()
        };
        self.workers.iter().map(both).sum()
    }

    /// Sessions of a server that are open, by its counters.
    pub fn active(&self, server: ServerId) -> u64 {
        let one =
            |c: &Arc<WorkerCounters>| c.server(server).created.get() - c.server(server).ended.get();
        self.counters.iter().map(one).sum()
    }
}

/// A frame that begins where its buffer does.
pub fn without_headroom(port: PortId, bytes: &[u8]) -> MemoryFrame {
    with_headroom(0, port, bytes)
}

/// A frame that begins so many bytes behind its buffer.
pub fn with_headroom(headroom: usize, port: PortId, bytes: &[u8]) -> MemoryFrame {
    use shunt::datapath::frame::Frame;
    let mut frame = MemoryFrame::new(port, bytes);
    assert!(frame.prepend(HEADROOM - headroom));
    frame.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    assert!(frame.set_len(bytes.len()));
    frame
}

/// Frames as one can compare them by eye.
pub fn hex(frames: &[(PortId, Vec<u8>)]) -> Vec<String> {
    frames
        .iter()
        .map(|(port, bytes)| {
            let words: Vec<String> =
                bytes.chunks(2).map(|w| w.iter().map(|b| format!("{b:02x}")).collect()).collect();
            format!("port {}: {}", port.0, words.join(" "))
        })
        .collect()
}
