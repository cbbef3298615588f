//! The worker: one thread on one core that owns a shard of the sessions and its queues of every
//! port, and takes each packet from reception to transmission itself.
//!
//! [`Worker::poll`] is one turn of the loop and takes the time as an argument, so tests and
//! simulation turn it by hand; [`Worker::run`] turns it until told to stop.

pub mod affinity;
pub mod control;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use self::control::{Command, Event, NeighborUpdate, SessionQuery};
use crate::datapath::counters::WorkerCounters;
use crate::datapath::frame::Frame;
use crate::datapath::note::Note;
use crate::datapath::notice::Notice;
use crate::datapath::outbox::Outbox;
use crate::datapath::pipeline::Pipeline;
use crate::datapath::snapshot::PortId;
use crate::io::{Burst, BurstIo, Queue};
use crate::wire::DropReason;

/// Packets that may be on their way to one worker, in the rings of all others together.
pub const HAND_OFF_PACKETS: usize = 2048;
/// The least that a ring between two workers holds.
const HAND_OFF_RING: usize = 128;
/// Sessions looked at for expiry per turn and family, at the least. After a busy turn it is twice as
/// many as packets came, so that sessions end faster than a flood can open them.
const EXPIRY_BUDGET: usize = 64;
/// Entries looked at for a session list per turn.
const LIST_BUDGET: usize = 256;
/// Turns between two looks at the command queue.
const COMMAND_INTERVAL: u64 = 16;
/// Events that must find room before a notice is sent: the answers to commands are never lost.
const EVENT_RESERVE: usize = 16;
/// The same before a notice that is not urgent is sent.
const EVENT_RESERVE_URGENT: usize = 2 * EVENT_RESERVE;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Poll for ever.
    Spin,
    /// Give the CPU up after a run of empty polls.
    Yield,
}

/// The rings of one worker to and from the others.
pub struct Peers<F> {
    inbound: Vec<Consumer<F>>,
    /// By worker; none to itself.
    outbound: Vec<Option<Producer<F>>>,
}

impl<F> Peers<F> {
    /// One ring for each ordered pair of that many workers.
    pub fn mesh(workers: usize) -> Vec<Self> {
        let room = (HAND_OFF_PACKETS / workers.saturating_sub(1).max(1)).max(HAND_OFF_RING);
        let mut peers: Vec<Self> =
            (0..workers).map(|_| Peers { inbound: Vec::new(), outbound: Vec::new() }).collect();
        for from in 0..workers {
            for to in 0..workers {
                if from == to {
                    peers[from].outbound.push(None);
                } else {
                    let (producer, consumer) = RingBuffer::new(room);
                    peers[from].outbound.push(Some(producer));
                    peers[to].inbound.push(consumer);
                }
            }
        }
        peers
    }
}

/// Drops what a ring did not take.
#[cold]
fn lose<F: Frame>(counters: &WorkerCounters, queue: &mut Queue<F>) {
    counters.drops_of(DropReason::HandOffFull).add(queue.len() as u64);
    let of_peer = |frame: &&F| matches!(Note::decode(frame.note()), Note::Records { .. });
    counters.sync.records_lost.add(queue.iter().filter(of_peer).count() as u64);
    queue.clear();
}

/// One worker.
pub struct Worker<Io: BurstIo> {
    io: Io,
    pipeline: Pipeline<Io::Frame>,
    counters: Arc<WorkerCounters>,
    ports: usize,
    peers: Peers<Io::Frame>,
    burst: Burst<Io::Frame>,
    /// Packets that go through the pipeline once more.
    again: Queue<Io::Frame>,
    outbox: Outbox<Io::Frame>,
    commands: Consumer<Command>,
    events: Producer<Event>,
    query: Option<Box<SessionQuery>>,
    turn: u64,
}

impl<Io: BurstIo> Worker<Io> {
    /// A worker on these ports (all of the pipeline's snapshot), with its end of the queues to the
    /// management thread.
    pub fn new(
        io: Io,
        pipeline: Pipeline<Io::Frame>,
        peers: Peers<Io::Frame>,
        commands: Consumer<Command>,
        events: Producer<Event>,
    ) -> Self {
        let ports = pipeline.snapshot().ports.len();
        let mut outbox = Outbox::new(ports, peers.outbound.len());
        outbox.configure(pipeline.snapshot());
        Worker {
            counters: pipeline.counters().clone(),
            outbox,
            ports,
            io,
            pipeline,
            peers,
            burst: Burst::new(),
            again: Queue::new(),
            commands,
            events,
            query: None,
            turn: 0,
        }
    }

    /// Turns until `stop` is set.
    pub fn run(&mut self, idle: Idle, stop: &AtomicBool) {
        /// Empty polls before the CPU is given up, and before the thread sleeps.
        const YIELD_AFTER: u32 = 64;
        const SLEEP_AFTER: u32 = 2048;
        const SLEEP: Duration = Duration::from_micros(50);
        let start = Instant::now();
        let mut empty: u32 = 0;
        // The first turn has something to say to the peer.
        self.restock();
        while !stop.load(Ordering::Relaxed) {
            let now = start.elapsed().as_millis() as u32;
            if self.poll(now) != 0 {
                empty = 0;
                continue;
            }
            empty = empty.saturating_add(1);
            match idle {
                Idle::Spin => std::hint::spin_loop(),
                Idle::Yield if empty > SLEEP_AFTER => std::thread::sleep(SLEEP),
                Idle::Yield if empty > YIELD_AFTER => std::thread::yield_now(),
                Idle::Yield => std::hint::spin_loop(),
            }
        }
    }

    /// One turn: a burst from every port and every other worker, then timers and commands, each a
    /// bounded amount. Returns how many packets came in.
    pub fn poll(&mut self, now: u32) -> usize {
        let mut received = 0;
        // What comes back now has come back after the ports were looked at once more.
        let again = self.again.len();
        for turn in 0..self.ports {
            let port = self.outbox.in_turn(turn);
            received += self.poll_port(PortId(port as u8), now);
        }
        for peer in 0..self.peers.inbound.len() {
            received += self.poll_peer(peer, now);
        }
        if again != 0 {
            self.poll_again(again, now);
            received += again;
        }
        if self.pipeline.expire(now, EXPIRY_BUDGET.max(2 * received), &mut self.outbox) {
            self.flush();
        }
        self.restock();
        self.turn = self.turn.wrapping_add(1);
        if received == 0 || self.turn.is_multiple_of(COMMAND_INTERVAL) {
            self.control(now);
        }
        self.counters.polls.add(1);
        if received != 0 {
            self.counters.busy_polls.add(1);
        }
        received
    }

    #[inline(always)]
    fn poll_port(&mut self, port: PortId, now: u32) -> usize {
        let n = self.io.receive(port, &mut self.burst);
        if n == 0 {
            return 0;
        }
        self.counters.rx.add(n as u64);
        if self.pipeline.is_trunk(port) {
            self.pipeline.sort_vlans(port, &mut self.burst);
        } else {
            let bytes: usize = self.burst.iter().map(|frame| frame.bytes().len()).sum();
            let counters = self.counters.port(port);
            counters.rx_packets.add(n as u64);
            counters.rx_bytes.add(bytes as u64);
        }
        self.pipeline.process(&mut self.burst, false, now, &mut self.outbox);
        self.flush();
        // Mirrors may need one for each packet of the next burst.
        self.restock();
        n
    }

    fn poll_peer(&mut self, peer: usize, now: u32) -> usize {
        let ring = &mut self.peers.inbound[peer];
        let n = ring.slots().min(self.burst.remaining_capacity());
        if n == 0 {
            return 0;
        }
        let Ok(chunk) = ring.read_chunk(n) else { return 0 };
        self.burst.extend(chunk);
        self.counters.handed_in.add(n as u64);
        self.pipeline.process(&mut self.burst, true, now, &mut self.outbox);
        self.flush();
        self.restock();
        n
    }

    /// Takes what this worker gave itself through the pipeline.
    #[cold]
    fn poll_again(&mut self, waiting: usize, now: u32) {
        let n = waiting.min(self.burst.remaining_capacity());
        self.burst.extend(self.again.drain(..n));
        self.counters.handed_in.add(n as u64);
        self.pipeline.process(&mut self.burst, true, now, &mut self.outbox);
        self.flush();
    }

    /// Gives the pipeline empty frames in place of those it has used.
    #[inline]
    fn restock(&mut self) {
        for _ in 0..self.pipeline.wants_frames() {
            let Some(frame) = self.io.allocate() else { break };
            self.pipeline.restock(frame);
        }
    }

    /// Empties the outbox. What a port or ring does not take is dropped and counted.
    #[inline(always)]
    fn flush(&mut self) {
        for turn in 0..self.outbox.ports.len() {
            let port = self.outbox.in_turn(turn);
            let queue = &mut self.outbox.ports[port];
            if queue.frames.is_empty() {
                continue;
            }
            if queue.vlan != 0 {
                self.counters.drops_of(DropReason::NoHeadroom).add(queue.tag());
            }
            let queued = queue.frames.len();
            let port = PortId(port as u8);
            let mut bytes = queue.bytes;
            let sent = self.io.transmit(port, &mut queue.frames);
            let port_counters = self.counters.port(port);
            let sent_mask = ((1u128 << sent) - 1) as u64;
            let originated = (queue.originated & sent_mask).count_ones() as usize;
            if sent < queued {
                bytes -= queue.frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
                let refused_answers = (queue.originated & !sent_mask).count_ones() as usize;
                // An answer that is refused was never a received packet: the request was counted
                // when it was consumed.
                let refused = queued - sent - refused_answers;
                self.counters.drops_of(DropReason::TxRefused).add(refused as u64);
                port_counters.tx_refused.add((queued - sent) as u64);
                queue.frames.clear();
            }
            self.counters.originated.add(originated as u64);
            self.counters.tx.add((sent - originated) as u64);
            port_counters.tx_packets.add(sent as u64);
            port_counters.tx_bytes.add(bytes as u64);
            queue.originated = 0;
            queue.bytes = 0;
        }
        for (queue, ring) in self.outbox.workers.iter_mut().zip(&mut self.peers.outbound) {
            if queue.is_empty() {
                continue;
            }
            let Some(ring) = ring else {
                let n = queue.len().min(self.again.remaining_capacity());
                self.again.extend(queue.drain(..n));
                self.counters.handed_off.add(n as u64);
                self.counters.drops_of(DropReason::HandOffFull).add(queue.len() as u64);
                queue.clear();
                continue;
            };
            let n = ring.slots().min(queue.len());
            if let Ok(chunk) = ring.write_chunk_uninit(n) {
                chunk.fill_from_iter(queue.drain(..n));
            }
            self.counters.handed_off.add(n as u64);
            if !queue.is_empty() {
                lose(&self.counters, queue);
            }
        }
    }

    /// Everything between this worker and the management thread.
    fn control(&mut self, now: u32) {
        while self.events.slots() > 0 {
            let Ok(command) = self.commands.pop() else { break };
            self.obey(command, now);
        }
        while self.pipeline.release(now, &mut self.outbox) {
            self.flush();
        }
        self.flush();
        self.report();
        self.list_sessions(now);
    }

    fn obey(&mut self, command: Command, now: u32) {
        match command {
            Command::Snapshot(snapshot) => {
                let old = self.pipeline.configure(snapshot);
                self.outbox.configure(self.pipeline.snapshot());
                self.event(Event::Retired(old));
            }
            Command::Neighbor { port, address, update } => {
                let mac = match update {
                    NeighborUpdate::Resolved(mac) => Some(mac),
                    NeighborUpdate::Failed => None,
                };
                self.pipeline.neighbor(port, address, mac);
                while self.pipeline.release(now, &mut self.outbox) {
                    self.flush();
                }
                self.flush();
            }
            Command::Transmit { port, frame } => {
                self.transmit(port, &frame);
                self.event(Event::Transmitted(frame));
            }
            Command::PathMtu { address, mtu } => self.pipeline.path_mtu(address, mtu, now),
            Command::Masters(masters) => self.pipeline.set_masters(masters),
            Command::Keys(keys) => {
                self.pipeline.set_keys(&keys);
                self.event(Event::KeysTaken(keys));
            }
            Command::Leave => self.pipeline.leave(now),
            Command::ListSessions(query) => {
                // One list at a time: an unfinished one is answered as far as it got.
                if let Some(unfinished) = self.query.replace(query) {
                    self.event(Event::Sessions(unfinished));
                }
            }
        }
    }

    /// Sends a frame that the management thread made.
    fn transmit(&mut self, port: PortId, bytes: &[u8]) {
        let frame = self.io.allocate().and_then(|mut frame| {
            frame.set_len(bytes.len()).then(|| {
                frame.bytes_mut().copy_from_slice(bytes);
                frame
            })
        });
        if let Some(frame) = frame
            && usize::from(port.0) < self.ports
        {
            self.outbox.to_port(port, frame, true);
            self.flush();
        }
    }

    /// Passes on what the data path has to tell.
    fn report(&mut self) {
        while let Some(notice) = self.pipeline.notice() {
            let reserve = if notice.is_urgent() { EVENT_RESERVE } else { EVENT_RESERVE_URGENT };
            if self.events.slots() <= reserve {
                self.counters.events_lost.add(1);
                continue;
            }
            self.event(match notice {
                Notice::Wanted(port, address) => Event::NeighborWanted { port, address },
                Notice::Seen(port, address, mac) => Event::NeighborSeen { port, address, mac },
                Notice::PathMtu(address, mtu) => Event::PathMtu { address, mtu },
                Notice::PeerAddress(address) => Event::PeerAddress(address),
                Notice::Vrrp(advert) => Event::Vrrp(advert),
            });
        }
    }

    fn list_sessions(&mut self, now: u32) {
        if let Some(query) = &mut self.query
            && self.events.slots() > 0
            && sessions::list(&self.pipeline, query, LIST_BUDGET, now)
            && let Some(query) = self.query.take()
        {
            self.event(Event::Sessions(query));
        }
    }

    /// The callers have made sure that there is room.
    fn event(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            self.counters.events_lost.add(1);
        }
    }

    /// The ports, for tests and simulation.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// The data path, for tests and simulation.
    pub fn pipeline(&self) -> &Pipeline<Io::Frame> {
        &self.pipeline
    }
}
