//! One node: its workers, its virtual routers, and what the management thread does between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::ha::Masters;
use shunt::datapath::pipeline::Pipeline;
use shunt::datapath::replica::PairSetup;
use shunt::datapath::setup::Setup;
use shunt::datapath::snapshot::{BUCKETS, PortId, Snapshot};
use shunt::datapath::sync_counters::SyncCounters;
use shunt::io::memory::{MemoryFrame, MemoryIo};
use shunt::manage::ha::{Action, Pair, PairConfig};
use shunt::session::marks::Tally;
use shunt::session::{Direction, Entry, Table};
use shunt::sync::Keys;
use shunt::sync::control::VersionText;
use shunt::wire::flow::{Address, FlowKey, Protocol};
use shunt::worker::control::{Command, Event, NeighborUpdate};
use shunt::worker::{Peers, Worker};

use crate::net::{BACK, FRONT, Family, ROUTER_MAC, server_mac};
use crate::network;
use crate::plan::{KEYS, Plan, Settings};
use crate::random::Random;

const SESSIONS: usize = 256;
/// The most frames that wait for a worker at a port.
const RING: usize = 1024;
/// A node that stands still gets packets of routers for so long.
const DETOUR_MS: u64 = 300;
/// From one advert to the next.
const ADVERT_MS: u32 = 100;

/// A frame that a node has sent.
pub type Sent = (PortId, Vec<u8>);

/// A session as the checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub local: SocketAddr,
    pub server: SocketAddr,
    pub tcp: bool,
}

pub struct Node {
    pub id: usize,
    pub workers: Vec<Worker<MemoryIo>>,
    commands: Vec<Producer<Command>>,
    events: Vec<Consumer<Event>>,
    pub counters: Vec<Arc<WorkerCounters>>,
    pair: Option<Pair>,
    pub masters: Masters,
    snapshot: Arc<Snapshot>,
    /// What its clock shows at the time 0.
    clock: u32,
    pub frozen_at: u64,
    pub frozen_until: u64,
    salt: u64,
}

impl Node {
    pub fn start(
        plan: &Plan,
        id: usize,
        workers: usize,
        settings: &Settings,
        now: u64,
        random: &mut Random,
    ) -> Self {
        let snapshot = network::snapshot(plan, id, workers, settings);
        let counters: Arc<[_]> = (0..workers).map(|_| Arc::new(WorkerCounters::new())).collect();
        // At times just before it wraps.
        let clock = match random.chance(300) {
            true => u32::MAX - random.below(8_000) as u32,
            false => random.next() as u32,
        };
        let pair = PairSetup {
            keys: Keys::parse(KEYS[0]).unwrap(),
            boot: random.next() | 1,
            secret: u128::from(random.next()),
            version: VersionText::new("simulated"),
            // The time of day is the same on both, to a second.
            clock_ms: (random.below(1_000) as u32).wrapping_sub(clock),
        };
        let mut node = Node {
            id,
            workers: Vec::new(),
            commands: Vec::new(),
            events: Vec::new(),
            counters: counters.to_vec(),
            pair: None,
            masters: Masters::default(),
            snapshot: snapshot.clone(),
            clock,
            frozen_at: 0,
            frozen_until: 0,
            salt: random.next(),
        };
        for (number, peers) in Peers::mesh(workers).into_iter().enumerate() {
            let setup = Setup {
                ports_start: random.next(),
                all_counters: counters.clone(),
                worker: number as u8,
                sessions_v4: SESSIONS,
                sessions_v6: SESSIONS,
                seed: random.next(),
                advise: |_, _| {},
                cookie_secret: 1,
                pair: Some(pair.clone()),
            };
            let pipeline = Pipeline::new(&setup, snapshot.clone(), counters[number].clone());
            let (to_worker, from_management) = RingBuffer::new(1024);
            let (to_management, from_worker) = RingBuffer::new(1024);
            let io = MemoryIo::new(snapshot.ports.len());
            node.workers.push(Worker::new(io, pipeline, peers, from_management, to_management));
            node.commands.push(to_worker);
            node.events.push(from_worker);
        }
        for family in Family::BOTH {
            node.resolve(FRONT, family.router(), ROUTER_MAC);
            for n in 11..16 {
                node.resolve(BACK, family.server(n), server_mac(n));
            }
        }
        if !plan.active_active {
            let config = PairConfig {
                advert_interval_ms: ADVERT_MS,
                ..PairConfig::new(&snapshot, vec![if id == 0 { 200 } else { 100 }])
            };
            node.pair = Pair::new(&config, &snapshot, now);
        }
        node
    }

    fn resolve(&mut self, port: PortId, address: IpAddr, mac: [u8; 6]) {
        let update = NeighborUpdate::Resolved(mac);
        self.command(|| Command::Neighbor { port, address, update });
    }

    fn command(&mut self, make: impl Fn() -> Command) {
        for commands in &mut self.commands {
            commands.push(make()).expect("a worker does not obey");
        }
    }

    /// Gets another configuration.
    pub fn configure(&mut self, plan: &Plan, settings: &Settings) {
        self.snapshot = network::snapshot(plan, self.id, self.workers.len(), settings);
        let snapshot = self.snapshot.clone();
        self.command(|| Command::Snapshot(snapshot.clone()));
    }

    /// Uses [`KEYS`] of this number from now on.
    pub fn set_keys(&mut self, number: usize) {
        let keys = Keys::parse(KEYS[number]).unwrap();
        self.command(|| Command::Keys(Box::new(keys.clone())));
    }

    /// One that has had [`KEYS`] of this number from its start on.
    pub fn with_keys(mut self, number: usize) -> Self {
        self.set_keys(number);
        self
    }

    /// The node is about to stop.
    pub fn leave(&mut self, now: u64) {
        if let Some(pair) = &mut self.pair {
            pair.leave(now);
        }
        self.command(|| Command::Leave);
    }

    pub fn is_frozen(&self, now: u64) -> bool {
        now < self.frozen_until
    }

    /// Whether routers send it packets: for a while also when it stands still.
    pub fn is_reached(&self, now: u64) -> bool {
        !self.is_frozen(now) || now < self.frozen_at + DETOUR_MS
    }

    /// A frame comes in. Those of one flow come to one worker, whichever that is.
    pub fn arrive(&mut self, port: PortId, frame: &[u8]) {
        let end = frame.len().min(if frame[12] == 8 { 38 } else { 58 });
        let hash = frame[26.min(end)..end]
            .iter()
            .fold(self.salt, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        let worker = (hash >> 20) as usize % self.workers.len();
        let ring = &mut self.workers[worker].io().rx[usize::from(port.0)];
        if ring.len() < RING {
            ring.push_back(MemoryFrame::new(port, frame));
        }
    }

    /// Turns the workers until nothing moves, or for a while. Returns what they send.
    pub fn turn(&mut self, now: u64, slow: Option<&mut Random>) -> Vec<Sent> {
        let clock = self.clock.wrapping_add(now as u32);
        let mut sent = Vec::new();
        if let Some(random) = slow {
            for _ in 0..random.between(1, 2 * self.workers.len() as u64) {
                let worker = random.below(self.workers.len() as u64) as usize;
                self.poll(worker, clock, &mut sent);
            }
        } else {
            loop {
                let moved: usize =
                    (0..self.workers.len()).map(|worker| self.poll(worker, clock, &mut sent)).sum();
                if moved == 0 {
                    break;
                }
            }
        }
        self.manage(now);
        sent
    }

    fn poll(&mut self, worker: usize, clock: u32, sent: &mut Vec<Sent>) -> usize {
        let worker = &mut self.workers[worker];
        let moved = worker.poll(clock);
        // The port of the channel is served first.
        for port in [FRONT, BACK] {
            sent.extend(worker.io().sent(port).into_iter().map(|frame| (port, frame)));
        }
        moved
    }

    /// What the management thread does.
    fn manage(&mut self, now: u64) {
        let (synced, heard) = (self.is_synced(), self.has_peer());
        let lacking = heard && !synced && self.is_settled();
        for worker in 0..self.events.len() {
            while let Ok(event) = self.events[worker].pop() {
                match event {
                    Event::Vrrp(advert) => {
                        if let Some(pair) = &mut self.pair {
                            pair.heard(now, &advert);
                        }
                    }
                    Event::NeighborWanted { port, address } => {
                        panic!("node {}: no neighbor {address} on port {}", self.id, port.0);
                    }
                    _ => {}
                }
            }
        }
        let Some(pair) = &mut self.pair else { return };
        pair.set_synced(synced);
        pair.set_lacking(lacking);
        pair.set_peer_heard(heard);
        pair.tick(now);
        let actions: Vec<Action> = pair.drain().collect();
        for action in actions {
            match action {
                Action::Transmit { port, frame } => {
                    self.commands[0].push(Command::Transmit { port, frame }).unwrap();
                }
                Action::Masters(masters) => {
                    self.masters = masters;
                    self.command(|| Command::Masters(masters));
                }
                Action::Log(..) => {}
            }
        }
    }

    /// Whether the peer is there.
    pub fn has_peer(&self) -> bool {
        self.counters[0].sync.peer_alive.get() != 0
    }

    /// Whether it has found its copies equal to what the peer has.
    pub fn is_synced(&self) -> bool {
        self.has_peer()
            && self
                .counters
                .iter()
                .all(|c| c.sync.buckets_synced.get() == c.sync.buckets_owned.get())
    }

    /// Whether it has all that it can take in.
    fn is_settled(&self) -> bool {
        let sum = |of: fn(&SyncCounters) -> u64| self.count(|counters| of(&counters.sync));
        sum(|s| s.buckets_synced.get() + s.buckets_lacking.get()) == sum(|s| s.buckets_owned.get())
    }

    /// What it says of the channel, for whoever looks for a fault.
    pub fn summary(&self) -> String {
        let sync = |of: fn(&SyncCounters) -> u64| self.count(|counters| of(&counters.sync));
        format!(
            "node {}: peer {}, synced {}, own {}, copies {}, mismatches {}, walks {}, imported {}, \
             refused {}, conflicts {}",
            self.id,
            self.has_peer(),
            self.is_synced(),
            sync(|s| s.own_sessions.get()),
            sync(|s| s.foreign_sessions.get()),
            sync(|s| s.digest_mismatches.get()),
            sync(|s| s.walks.get()),
            sync(|s| s.imported.get()),
            sync(|s| s.import_refused.get()),
            sync(|s| s.conflicts.get()),
        )
    }

    /// Another number whenever a session has come or gone.
    pub fn changes(&self) -> u64 {
        let open = self.workers.iter().map(|worker| {
            let pipeline = worker.pipeline();
            (pipeline.sessions_v4().len() + pipeline.sessions_v6().len()) as u64
        });
        let count =
            self.count(|c| c.sync.imported.get() + c.sync.conflicts.get() + c.expired.get());
        open.sum::<u64>() | count << 32
    }

    /// The sum of a counter over all workers.
    pub fn count(&self, of: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| of(counters)).sum()
    }

    /// The sessions of a bucket: own, and copies.
    pub fn tallies(&self, bucket: usize) -> [Tally; 2] {
        assert!(bucket < BUCKETS);
        let all = self.workers.iter().map(|worker| worker.pipeline().tallies(bucket));
        all.fold([Tally::default(); 2], |[own, copies], (a, b)| [own.with(a), copies.with(b)])
    }

    /// All sessions, sorted.
    pub fn sessions(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for worker in &self.workers {
            collect(worker.pipeline().sessions_v4(), &mut rows);
            collect(worker.pipeline().sessions_v6(), &mut rows);
        }
        rows.sort();
        rows
    }

    /// The session of a client's packets.
    pub fn session(&self, client: SocketAddr, vip: SocketAddr, protocol: Protocol) -> Option<Row> {
        self.workers.iter().find_map(|worker| match (client.ip(), vip.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let key = FlowKey { src, dst, sport: client.port(), dport: vip.port(), protocol };
                look_up::<Ipv4Addr>(worker.pipeline().sessions_v4(), &key)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let key = FlowKey { src, dst, sport: client.port(), dport: vip.port(), protocol };
                look_up::<Ipv6Addr>(worker.pipeline().sessions_v6(), &key)
            }
            _ => None,
        })
    }
}

fn look_up<A: Address>(table: &Table<A>, key: &FlowKey<A>) -> Option<Row> {
    let (id, direction) = table.find(table.hash(key), key)?;
    (direction == Direction::Forward).then(|| row(table.get(id)))
}

fn collect<A: Address>(table: &Table<A>, rows: &mut Vec<Row>) {
    table.walk(&mut 0, usize::MAX, |_, entry| rows.push(row(entry)));
}

fn row<A: Address>(entry: &Entry<A>) -> Row {
    let at = |address: A, port| SocketAddr::new(address.into(), port);
    Row {
        client: at(entry.client, entry.client_port),
        vip: at(entry.vip, entry.vip_port),
        local: at(entry.local, entry.local_port),
        server: at(entry.server, entry.server_port),
        tcp: entry.protocol == Protocol::Tcp,
    }
}
