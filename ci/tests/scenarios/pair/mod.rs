//! Two nodes and the wire between them: what one says to the other is carried over by the test, which
//! may lose it, and is accounted for in the counters of both.

mod association;
mod conflicts;
mod endings;
mod failures;
mod forwarding;
mod introductions;
mod keys;
mod losses;
mod outgoing;
mod persistence;
mod place;
mod protection;
mod relay;
mod relay_besides;
mod states;
mod talk;
mod walks;

use self::place::{AHEAD, UDP_PORT, connected, group_mac, setup};
pub use self::place::{BOOTS, KEY, Wire, datagram_frame, forged, keys, mac, place, seed};

use std::net::SocketAddr;

use shunt::datapath::snapshot::PortId;
use shunt::io::memory::MemoryFrame;
use shunt::sync::datagram::{self, Header, Kind, SERVING};
use shunt::sync::keys::Keys;
use shunt::sync::record::{self, Record};

use crate::changes::Changes;
use crate::net::Net;
use crate::rig::{Rig, Sent, hex};

/// For how long a node waits before it believes that the peer is gone, and a little more.
pub const DEAD_MS: u32 = 3_100;
/// Longer than from one digest of every bucket to the next.
pub const DIGEST_MS: u32 = 600;

/// A datagram of the channel.
#[derive(Clone, Debug)]
pub struct Said {
    pub header: Header,
    pub records: Vec<Record>,
    /// The whole frame.
    pub frame: Vec<u8>,
}

impl Said {
    fn is_stream(&self) -> bool {
        self.header.kind == Kind::Stream
    }
    pub fn count(&self, which: impl Fn(&Record) -> bool) -> i64 {
        self.records.iter().filter(|record| which(record)).count() as i64
    }
}

pub fn is_session(record: &Record) -> bool {
    matches!(record, Record::SessionV4(_) | Record::SessionV6(_))
}
pub fn is_close(record: &Record) -> bool {
    matches!(record, Record::CloseV4(_) | Record::CloseV6(_))
}
pub fn is_touch(record: &Record) -> bool {
    matches!(record, Record::TouchV4(_) | Record::TouchV6(_))
}

/// Whether a datagram is lost: of which node, and what it says.
type Loss = Box<dyn FnMut(usize, &Said) -> bool>;

pub struct Pair {
    pub nodes: [Rig; 2],
    pub wire: Wire,
    /// By node: what it has said since the last step.
    pub said: [Vec<Said>; 2],
    /// By node: what else it has sent.
    pub sent: [Sent; 2],
    /// By node: all that it has sent, of each worker in its order.
    pub all: [Sent; 2],
    pub lose: Loss,
    /// Those that the test reads the channel with.
    pub keys: Keys,
    /// By node: what the datagrams that went and came have changed.
    explained: [Changes; 2],
    make: Box<dyn Fn(usize) -> Net>,
    sessions: usize,
    boots: [u64; 2],
    workers: [usize; 2],
}

impl Pair {
    /// Two nodes with these numbers of workers, which do not know each other yet. `make` makes what both
    /// have in common.
    pub fn apart(workers: [usize; 2], wire: Wire, make: impl Fn(usize) -> Net + 'static) -> Self {
        Self::with_sessions(workers, wire, 1000, make)
    }

    pub fn with_sessions(
        workers: [usize; 2],
        wire: Wire,
        sessions: usize,
        make: impl Fn(usize) -> Net + 'static,
    ) -> Self {
        let make: Box<dyn Fn(usize) -> Net> = Box::new(make);
        let node = |node: usize| start(&make, node, workers[node], wire, sessions, BOOTS[node]);
        let mut nodes = [node(0), node(1)];
        nodes[1].now = nodes[0].now.wrapping_add(AHEAD);
        let mut pair = Pair {
            nodes,
            wire,
            said: Default::default(),
            sent: Default::default(),
            all: Default::default(),
            lose: Box::new(|_, _| false),
            keys: keys(),
            explained: Default::default(),
            make,
            sessions,
            boots: BOOTS,
            workers,
        };
        for node in 0..2 {
            pair.nodes[node].warm();
        }
        pair
    }

    /// The same, once both have the whole table of the other.
    pub fn new(workers: [usize; 2], wire: Wire, make: impl Fn(usize) -> Net + 'static) -> Self {
        let mut pair = Self::apart(workers, wire, make);
        pair.join();
        pair
    }

    /// Lets time pass until both are in sync.
    pub fn join(&mut self) {
        self.join_until(Pair::is_synced);
    }

    /// Lets time pass until both are so.
    pub fn join_until(&mut self, there: impl Fn(&Pair, usize) -> bool) {
        for _ in 0..100 {
            self.pass(20, 1);
            if (0..2).all(|node| there(self, node)) {
                // The first digest, walk and list of ports are over.
                self.pass(1_100, 5);
                assert!((0..2).all(|node| there(self, node)));
                self.begin();
                return;
            }
        }
        panic!("not in sync: {:?}", [0, 1].map(|node| self.nodes[node].changes()));
    }

    /// A new process in the place of a node's.
    pub fn restart(&mut self, node: usize) {
        self.boots[node] += 0x10;
        let (workers, now) = (self.workers[node], self.nodes[node].now);
        self.nodes[node] =
            start(&self.make, node, workers, self.wire, self.sessions, self.boots[node]);
        // Its clock begins anew too, but the pair's does not: see `setup`.
        self.nodes[node].now = now;
        self.nodes[node].warm();
    }

    pub fn sum(
        &self,
        node: usize,
        cell: impl Fn(&shunt::datapath::counters::WorkerCounters) -> u64,
    ) -> u64 {
        self.nodes[node].counters.iter().map(|counters| cell(counters)).sum()
    }

    pub fn is_synced(&self, node: usize) -> bool {
        self.sum(node, |c| c.sync.buckets_synced.get()) == 128
            && self.sum(node, |c| c.sync.buckets_owned.get()) == 128
    }

    /// Whether it has all that it can take in, and knows what it lacks.
    pub fn is_settled(&self, node: usize) -> bool {
        let lacking = self.sum(node, |c| c.sync.buckets_lacking.get());
        assert_eq!(lacking == 0, self.lacks(node) == 0);
        self.sum(node, |c| c.sync.buckets_synced.get()) + lacking == 128
    }

    /// How many sessions it could not take in.
    pub fn lacks(&self, node: usize) -> u64 {
        self.sum(node, |c| c.sync.sessions_lacking.get())
    }

    pub fn has_peer(&self, node: usize) -> bool {
        self.sum(node, |c| c.sync.peer_alive.get()) == 1
    }

    /// How many sessions a node has: its own, and copies.
    pub fn owns(&self, node: usize) -> (u64, u64) {
        let own = self.sum(node, |c| c.sync.own_sessions.get());
        let foreign = self.sum(node, |c| c.sync.foreign_sessions.get());
        assert_eq!((own + foreign) as usize, self.nodes[node].sessions(), "node {node}");
        (own, foreign)
    }

    /// Whatever happened before does not count.
    pub fn begin(&mut self) {
        self.carry();
        for node in 0..2 {
            self.nodes[node].changes();
            self.nodes[node].events();
        }
        self.said = Default::default();
        self.sent = Default::default();
        self.all = Default::default();
        self.explained = Default::default();
    }

    /// Lets time pass on both nodes.
    pub fn pass(&mut self, ms: u32, step: u32) {
        let mut left = ms;
        while left > 0 {
            let step = step.min(left);
            left -= step;
            for node in 0..2 {
                self.nodes[node].now = self.nodes[node].now.wrapping_add(step);
                self.nodes[node].settle();
            }
            self.carry();
        }
    }

    /// A frame comes in at a node; nothing else happens.
    pub fn inject(&mut self, node: usize, port: PortId, bytes: &[u8]) {
        self.nodes[node].arrive(MemoryFrame::new(port, bytes));
        self.nodes[node].settle();
        self.carry();
    }

    /// Carries what the nodes say over to the other one until they have nothing more to say.
    pub fn carry(&mut self) {
        loop {
            let mut moved = false;
            for node in 0..2 {
                for (port, bytes) in self.nodes[node].sent_in_order() {
                    self.all[node].push((port, bytes.clone()));
                    let Some(said) = self.read(node, port, &bytes) else {
                        self.sent[node].push((port, bytes));
                        continue;
                    };
                    moved = true;
                    self.explain_sent(node, &said);
                    if !(self.lose)(node, &said) {
                        self.deliver(1 - node, &said);
                    }
                    self.said[node].push(said);
                }
            }
            if !moved {
                break;
            }
        }
    }

    /// A datagram comes to a node.
    pub fn deliver(&mut self, node: usize, said: &Said) {
        self.explain_received(node, said);
        self.nodes[node].arrive(MemoryFrame::new(self.wire.port(), &said.frame));
        self.nodes[node].settle();
    }

    /// The datagram in a frame that a node sent, whose headers have to be right.
    pub fn read(&self, node: usize, port: PortId, frame: &[u8]) -> Option<Said> {
        let v6 = self.wire == Wire::OwnV6;
        let start = 14 + if v6 { 40 } else { 20 } + 8;
        if port != self.wire.port() || frame.get(start - 6..start - 4)? != UDP_PORT.to_be_bytes() {
            return None;
        }
        let datagram = &frame[start..];
        let (header, records) = datagram::open(datagram, &self.keys).ok()?;
        let (group, peer) = (self.wire.group(), self.wire.address(1 - node));
        let (to, to_mac) = match header.kind {
            Kind::Relay => (peer, mac(1 - node, port)),
            _ => (group, group_mac(group)),
        };
        assert_eq!(header.node as usize, node);
        let expected =
            datagram_frame(mac(node, port), to_mac, self.wire.address(node), to, datagram);
        assert_eq!(hex(&[(port, frame.to_vec())]), hex(&[(port, expected)]), "headers");
        let records = match header.kind {
            Kind::Relay => Vec::new(),
            _ => record::records(records).map(|record| record.unwrap()).collect(),
        };
        Some(Said { header, records, frame: frame.to_vec() })
    }

    fn explain_sent(&mut self, node: usize, said: &Said) {
        let port = self.wire.port();
        if said.header.kind == Kind::Relay {
            // A packet that was received: `tx`.
            return;
        }
        let mut changes =
            Changes::none().originated(port, &said.frame).add("sync.sent_datagrams", 1);
        if said.header.repeated {
            changes = changes.add("sync.repeated", 1);
        } else {
            changes = changes.add("sync.sent_records", said.records.len() as i64);
        }
        changes = changes
            .add("sync.naks_sent", said.count(|record| matches!(record, Record::Nak(_))))
            .add("sync.gone", said.count(|record| matches!(record, Record::Gone(_))));
        if !said.header.repeated {
            changes =
                changes.add("sync.walks", said.count(|record| matches!(record, Record::Begin(_))));
        }
        self.explained[node] = std::mem::take(&mut self.explained[node]).with(&changes);
    }

    fn explain_received(&mut self, node: usize, said: &Said) {
        let rig = &self.nodes[node];
        let workers = rig.workers.len();
        let receiver = rig.turn % workers;
        let mut changes = Changes::none().rx(self.wire.port(), &said.frame);
        if said.header.kind != Kind::Relay {
            let target = match said.header.to {
                SERVING => usize::from(said.header.worker) % workers,
                worker => usize::from(worker) % workers,
            };
            let round = if said.is_stream() { workers - 1 } else { 0 };
            let hops = (usize::from(receiver != target) + round) as i64;
            changes = changes
                .consumed()
                .add("sync.received_datagrams", 1)
                .add("sync.received_records", said.records.len() as i64)
                .add("handed_off", hops)
                .add("handed_in", hops);
        }
        self.explained[node] = std::mem::take(&mut self.explained[node]).with(&changes);
    }

    /// What has changed on a node beyond what the datagrams that went and came explain.
    pub fn unexplained(&mut self, node: usize) -> Changes {
        self.nodes[node].changes().since(&std::mem::take(&mut self.explained[node]))
    }

    /// A frame comes in at a node, and a millisecond passes: the node sends exactly these, and exactly
    /// so much changes on it and on the other node beyond what the channel explains. `outer` is as in
    /// [`Rig::step`].
    #[track_caller]
    pub fn step(
        &mut self,
        what: &str,
        node: usize,
        (port, bytes): (PortId, &[u8]),
        outer: Option<SocketAddr>,
        expected: &Sent,
        [own, other]: [Changes; 2],
    ) {
        self.begin();
        let mut own = own.rx(port, bytes);
        let receiver = self.nodes[node].turn % self.nodes[node].workers.len();
        if outer.is_some_and(|outer| self.nodes[node].net.owner(outer) != receiver) {
            own = own.add("handed_off", 1).add("handed_in", 1);
        }
        self.inject(node, port, bytes);
        self.pass(1, 1);
        let at = format!("{what}, node {node} of {:?} workers, {:?}", self.workers, self.wire);
        // The port of the channel is served first: only the order on each port is anybody's business.
        assert_eq!(hex(&by_port(&self.sent[node])), hex(&by_port(expected)), "{at}: frames");
        assert_eq!(hex(&self.sent[1 - node]), hex(&[]), "{at}: frames of the other");
        assert_eq!(self.unexplained(node), own, "{at}: counters");
        assert_eq!(self.unexplained(1 - node), other, "{at}: counters of the other");
    }

    /// Time passes: nothing leaves but what is said, and exactly so much changes on the two nodes.
    #[track_caller]
    pub fn wait(&mut self, what: &str, ms: u32, step: u32, changes: [Changes; 2]) {
        self.begin();
        self.pass(ms, step);
        for (node, changes) in changes.into_iter().enumerate() {
            assert_eq!(hex(&self.sent[node]), hex(&[]), "{what}: frames of node {node}");
            assert_eq!(self.unexplained(node), changes, "{what}: counters of node {node}");
        }
    }

    /// In the last step the node has told of a session before any packet of it left, by whatever port.
    #[track_caller]
    pub fn assert_told_first(&self, node: usize) {
        let tells = |(port, bytes): &(PortId, Vec<u8>)| {
            let said = self.read(node, *port, bytes);
            said.map(|said| said.count(is_session) > 0)
        };
        let told = self.all[node].iter().position(|frame| tells(frame) == Some(true));
        let left = self.all[node].iter().position(|frame| tells(frame).is_none());
        let (told, left) = (told.expect("nothing was told"), left.expect("nothing left"));
        assert!(told < left, "the packet left first");
    }

    /// How many records of a kind a node has said since the last step.
    pub fn told(&self, node: usize, which: impl Fn(&Record) -> bool + Copy) -> i64 {
        self.said[node].iter().map(|said| said.count(which)).sum()
    }

    /// Nothing of either node comes to the other.
    pub fn cut(&mut self) {
        self.lose = Box::new(|_, _| true);
    }

    /// Everything does again.
    pub fn heal(&mut self) {
        self.lose = Box::new(|_, _| false);
    }

    /// Parts the nodes until each believes that the other is gone.
    pub fn part(&mut self) {
        self.cut();
        self.pass(DEAD_MS, 10);
        assert!(!self.has_peer(0) && !self.has_peer(1));
        self.begin();
    }

    /// The same of nodes that have never met.
    pub fn part_at_once(&mut self) {
        self.cut();
        // For a moment each waits for the other before it opens sessions.
        self.pass(600, 10);
        assert!(!self.has_peer(0) && !self.has_peer(1));
    }

    /// Lets time pass until both have found all copies right, for a while.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..10 {
            self.pass(DIGEST_MS, 5);
            let before = [0, 1].map(|node| self.sum(node, |c| c.sync.digest_mismatches.get()));
            self.pass(DIGEST_MS, 5);
            let after = [0, 1].map(|node| self.sum(node, |c| c.sync.digest_mismatches.get()));
            if before == after && self.is_synced(0) && self.is_synced(1) {
                return;
            }
        }
        panic!("they do not agree: {:?}", [self.owns(0), self.owns(1)]);
    }
}

fn by_port(frames: &Sent) -> Sent {
    let mut frames = frames.clone();
    frames.sort_by_key(|(port, _)| port.0);
    frames
}

fn start(
    make: &dyn Fn(usize) -> Net,
    node: usize,
    workers: usize,
    wire: Wire,
    sessions: usize,
    boot: u64,
) -> Rig {
    let net = connected(place(make(workers), node, wire), node, wire);
    Rig::build(net, sessions, seed(node), Some(setup(node, boot)))
}
