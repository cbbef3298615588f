//! The data path of one worker: a burst of frames in, a verdict for each out.
//!
//! A burst goes through the stages together, so that the memory one packet needs is fetched while
//! the others are worked on:
//!
//! 1. **parse** – bytes become a flow or a drop reason; what is not TCP or UDP is dealt with by
//!    [`super::local`];
//! 2. **steer** – packets of other workers leave the burst (skipped with one worker);
//! 3. **hash**, prefetch the index bucket;
//! 4. **compare tags**, prefetch the entry;
//! 5. **verify** the key;
//! 6. **act** – an established session is a precomputed rewrite that touches nothing but the entry
//!    and the next hop ([`super::established`]); a miss goes to [`super::new_flow`];
//! 7. **queue** towards ports and workers ([`Outbox`]); the worker transmits.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::HashSet;

use super::balancer::Balancer;
use super::counters::WorkerCounters;
use super::crossed;
use super::established;
use super::family::Family;
use super::fragment_idents::{BITS_V4, BITS_V6, Idents};
use super::fragments::Fragments;
use super::frame::Frame;
use super::guard::{self, GuardState};
use super::hops::{Hops, Released};
use super::icmp_error;
use super::limiter::TokenBucket;
use super::limits::Limiters;
use super::local;
use super::local_ports::LocalPorts;
use super::mirror::Samplers;
use super::new_flow;
use super::note::Note;
use super::one_packet::{self, Origins};
use super::outbox::Outbox;
use super::persist;
use super::reset;
use super::snapshot::{Mac, PortId, PortRole, Snapshot};
use super::snat;
use super::steer;
use super::sweep::{self, Sweep};
use super::syn_proxy::{self, Retries, SynState};
use super::tunnel::Tunnels;
use super::verdict::Verdict;
use super::vlan::{self, Trunks};
use crate::io::{BURST, Burst};
use crate::session::persistence::Persistence;
use crate::session::{Aside, Direction, Entry, ServerId, SessionId, Table, TcpState};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{self, Flow, Parsed, Sink};
use crate::wire::toeplitz::{STEERING, Toeplitz};
use crate::wire::{DropReason, flow::Address};

/// ICMP errors a worker sends per second, and at once.
const ICMP_ERRORS: TokenBucket = TokenBucket::new(1000, 100);
/// Packets a worker passes to the kernel per second, and at once: the kernel must not become the
/// way to stop the switch.
const PUNTS: TokenBucket = TokenBucket::new(50_000, 1000);
/// Notices kept for the management thread until the worker fetches them.
const NOTICES: usize = 2 * BURST;

/// What the data path tells the management thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A packet needs this next hop and it is unknown.
    Wanted(PortId, std::net::IpAddr),
    /// ARP or neighbor discovery told the MAC address of a host.
    Seen(PortId, std::net::IpAddr, Mac),
    /// The path to a server that is reached by a tunnel takes packets of this length, outer headers
    /// included, and no longer ones.
    PathMtu(std::net::IpAddr, u16),
}

/// How to build a pipeline.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This worker's number, from 0.
    pub worker: u8,
    /// How many IPv4 sessions it can hold.
    pub sessions_v4: usize,
    /// How many IPv6 sessions it can hold.
    pub sessions_v6: usize,
    /// Secret of the session hash.
    pub seed: u64,
    /// The counters of all workers, this one's included; they are read where connections are
    /// limited. Empty when this one is alone.
    pub all_counters: Arc<[Arc<WorkerCounters>]>,
    /// Called with the address and length of each large block of memory before it is touched: the
    /// moment to ask for huge pages.
    pub advise: fn(usize, usize),
    /// Secret of the SYN cookies, the same for all workers of the node.
    pub cookie_secret: u128,
}

/// What both families share.
pub(super) struct Shared<F> {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) worker: u8,
    pub(super) several_workers: bool,
    /// A frame (without FCS) of this length fits through every port.
    pub(super) fits_all_ports: u16,
    pub(super) toeplitz: &'static Toeplitz,
    pub(super) hops: Hops<F>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) notices: ArrayVec<Notice, NOTICES>,
    pub(super) icmp_errors: TokenBucket,
    pub(super) punts: TokenBucket,
    pub(super) tunnels: Tunnels,
    trunks: Trunks,
    /// Empty frames for what Shunt sends without having received it; the worker restocks them.
    spare: Burst<F>,
    /// Such frames, complete, with the ports they leave by.
    made: ArrayVec<(PortId, F), BURST>,
    pub(super) guard: GuardState,
    pub(super) samplers: Samplers,
    pub(super) limits: Limiters,
    /// How many of the frames `made`, the first, go ahead of the burst.
    ahead: usize,
    pub(super) syn: SynState,
    /// IPv4 packets of this burst that go on in the IPv6 lane.
    pub(super) crossed: Batch<Ipv6Addr>,
    /// See [`Setup::all_counters`].
    pub(super) all_counters: Arc<[Arc<WorkerCounters>]>,
    /// Whether the burst comes from another worker (or from this one, once more): its notes count.
    pub(super) steered: bool,
}

impl<F: Frame> Shared<F> {
    /// A spare frame of `len` bytes (content undefined), to be filled and given to
    /// [`Shared::originate`]. `None` when there is none left or it has no such room.
    pub(super) fn take_spare(&mut self, len: usize) -> Option<F> {
        if self.made.is_full() {
            return None;
        }
        let mut frame = self.spare.pop()?;
        frame.set_len(len).then_some(frame)
    }

    /// How many frames may be taken now.
    pub(super) fn room_to_originate(&self) -> usize {
        self.spare.len().min(self.made.remaining_capacity())
    }

    /// Sends a frame made of a spare one; it is counted as originated.
    pub(super) fn originate(&mut self, port: PortId, frame: F) {
        self.make(self.made.len(), port, frame);
    }

    /// The same, ahead of the burst that is being worked on.
    pub(super) fn originate_ahead(&mut self, port: PortId, frame: F) {
        self.make(self.ahead, port, frame);
        self.ahead += 1;
    }

    fn make(&mut self, at: usize, port: PortId, mut frame: F) {
        if self.snapshot.crosses {
            crossed::make_v4(&mut frame);
        }
        // There is room when it was taken, and frames are taken one at a time.
        let _ = self.made.try_insert(at, (port, frame));
    }

    /// Queues what goes ahead of the burst.
    #[inline(always)]
    fn flush_ahead(&mut self, out: &mut Outbox<F>) {
        if self.ahead != 0 {
            for (port, frame) in self.made.drain(..self.ahead) {
                out.to_port(port, frame, true);
            }
            self.ahead = 0;
        }
    }

    /// Queues what was made.
    fn flush(&mut self, out: &mut Outbox<F>) {
        for (port, frame) in self.made.drain(..) {
            out.to_port(port, frame, true);
        }
    }

    /// Tells the management thread; counts what it cannot be told.
    pub(super) fn notify(&mut self, notice: Notice) {
        if self.notices.try_push(notice).is_err() {
            self.counters.events_lost.add(1);
        }
    }

    /// The verdict that gives the packet to the kernel, if the port shares its addresses with it.
    pub(super) fn punt(&mut self, port: PortId, now: u32) -> Verdict {
        match self.snapshot.ports[usize::from(port.0)].role {
            PortRole::Wire { exception: Some(tap), .. } if self.punts.take(now) => {
                Verdict::Punt(tap)
            }
            PortRole::Wire { exception: Some(_), .. } => Verdict::Drop(DropReason::PuntLimited),
            _ => Verdict::Drop(DropReason::NoException),
        }
    }
}

/// What each family has of its own.
pub(super) struct Lane<A: Family> {
    pub(super) table: Table<A>,
    pub(super) balancer: Balancer,
    pub(super) local_ports: LocalPorts<A>,
    /// Where real servers answer from: tells an answer to nobody from a stray packet.
    pub(super) servers: HashSet<(A, u16)>,
    /// Those of them whose stray TCP segments are answered with a reset.
    pub(super) resets_strays: HashSet<(A, u16)>,
    pub(super) sweep: Sweep,
    /// Servers that the SYN proxy is to ask again.
    pub(super) syn_retries: Retries<A>,
    /// Where clients of persistent services were sent.
    pub(super) persistence: Persistence<A>,
    /// Where answers of one-packet services come from.
    pub(super) origins: Origins<A>,
}

/// The packets of a burst that are of one family.
type Batch<A> = ArrayVec<Item<A>, BURST>;

/// A packet of the burst on its way through the stages.
pub(super) struct Item<A> {
    /// Its place in the burst.
    slot: u8,
    pub(super) flow: Flow<A>,
    /// Whether the sender left the transport checksum unfinished.
    pub(super) fill_checksum: bool,
    pub(super) hash: u64,
    candidate: Option<(SessionId, Direction)>,
    /// Whether it came as IPv4 and was made IPv6.
    pub(super) crossed: bool,
}

impl<A> Item<A> {
    /// The same packet, made IPv6.
    pub(super) fn crossed(&self, flow: Flow<Ipv6Addr>) -> Item<Ipv6Addr> {
        let Item { slot, fill_checksum, .. } = *self;
        Item { crossed: true, ..Item::new(slot, flow, fill_checksum) }
    }
}

impl<A> Item<A> {
    #[inline(always)]
    fn new(slot: u8, flow: Flow<A>, fill_checksum: bool) -> Self {
        Item { slot, flow, fill_checksum, hash: 0, candidate: None, crossed: false }
    }

    /// A packet that is decided on by itself.
    pub(super) fn alone(flow: Flow<A>, hash: u64) -> Self {
        Item { hash, ..Item::new(0, flow, false) }
    }
}

impl<A: Family> Lane<A> {
    fn new(sessions: usize, setup: &Setup) -> Self {
        Lane {
            table: Table::with_advice(sessions, setup.seed, setup.advise),
            balancer: Balancer::new(u64::from(setup.worker)),
            local_ports: LocalPorts::default(),
            servers: HashSet::new(),
            resets_strays: HashSet::new(),
            sweep: Sweep::default(),
            syn_retries: Retries::new(),
            persistence: Persistence::new(setup.seed),
            origins: Origins::new(),
        }
    }

    fn configure(&mut self, snapshot: &Snapshot, toeplitz: &Toeplitz, worker: u8) {
        self.balancer.configure::<A>(snapshot);
        self.local_ports.configure(snapshot, toeplitz, worker);
        self.local_ports.snat.configure(snapshot, toeplitz, worker, &self.table);
        let of_family =
            snapshot.servers.iter().filter_map(|s| Some((A::from_ip(s.address)?, s.port)));
        self.servers = of_family.collect();
        self.resets_strays = new_flow::resets_strays(snapshot);
        self.origins = one_packet::origins(snapshot);
        let clients = persist::clients(snapshot, self.table.capacity());
        if clients != 0 {
            self.persistence.allocate(clients);
        }
    }

    /// Undoes what creating the session did outside the table.
    pub(super) fn closed(
        entry: &Entry<A>,
        balancer: &mut Balancer,
        local_ports: &mut LocalPorts<A>,
        limits: &mut Limiters,
        counters: &WorkerCounters,
    ) {
        limits.closed(entry, counters);
        balancer.closed(entry.server_id);
        local_ports.release(entry);
        counters.server(entry.server_id).ended.add(1);
        counters.service_sessions(entry.service).sub(1);
    }

    fn expire<F: Frame>(&mut self, shared: &mut Shared<F>, now: u32, budget: usize) {
        let Lane { table, balancer, local_ports, .. } = self;
        table.expire_if(now, budget, |entry: &Entry<A>, aside: &Aside| {
            if !reset::on_expiry(shared, entry, aside, now) {
                return false;
            }
            Self::closed(entry, balancer, local_ports, &mut shared.limits, &shared.counters);
            shared.counters.expired.add(1);
            if entry.state == TcpState::SynProxied {
                syn_proxy::expired(shared, entry, aside);
            }
            true
        });
        sweep::walk(self, shared, now);
        syn_proxy::retry(shared, self, now);
        self.persistence.sweep(now);
    }

    /// Stages 3 to 6 for the packets of this family.
    #[inline(always)]
    fn run<F: Frame>(
        &mut self,
        shared: &mut Shared<F>,
        batch: &mut Batch<A>,
        burst: &mut Burst<F>,
        verdicts: &mut [Verdict; BURST],
        now: u32,
    ) {
        for item in batch.iter_mut() {
            item.hash = self.table.hash(&item.flow.key);
            self.table.prefetch_bucket(item.hash);
        }
        for item in batch.iter_mut() {
            item.candidate = self.table.candidate(item.hash);
            if let Some((id, _)) = item.candidate {
                self.table.prefetch_entry(id);
            }
        }
        for item in batch.iter() {
            let slot = usize::from(item.slot);
            let frame = &mut burst[slot];
            let passed = match item.candidate {
                Some((id, direction)) if self.table.matches(id, direction, &item.flow.key) => {
                    established::forward(shared, self, frame, item, id, direction, now)
                }
                _ => Err(established::miss(shared, self, frame, item, now)),
            };
            match passed {
                Ok(port) => verdicts[slot] = Verdict::Forward(port),
                Err(verdict) => verdicts[slot] = verdict,
            }
        }
        batch.clear();
    }
}

/// The data path of one worker.
pub struct Pipeline<F> {
    pub(super) shared: Shared<F>,
    pub(super) v4: Lane<Ipv4Addr>,
    pub(super) v6: Lane<Ipv6Addr>,
    batch_v4: Batch<Ipv4Addr>,
    batch_v6: Batch<Ipv6Addr>,
    pub(super) fragments_v4: Fragments<Ipv4Addr, F>,
    pub(super) fragments_v6: Fragments<Ipv6Addr, F>,
}

impl<F: Frame> Pipeline<F> {
    /// Allocates everything the worker will ever need for packets.
    pub fn new(setup: &Setup, snapshot: Arc<Snapshot>, counters: Arc<WorkerCounters>) -> Self {
        let mut pipeline = Pipeline {
            shared: Shared {
                snapshot: snapshot.clone(),
                worker: setup.worker,
                several_workers: false,
                fits_all_ports: 0,
                toeplitz: &STEERING,
                hops: Hops::new(),
                counters,
                notices: ArrayVec::new(),
                icmp_errors: ICMP_ERRORS,
                punts: PUNTS,
                tunnels: Tunnels::new(setup.worker),
                trunks: Trunks::default(),
                spare: Burst::new(),
                made: ArrayVec::new(),
                guard: GuardState::default(),
                samplers: Samplers::default(),
                limits: Limiters::new(setup.seed),
                ahead: 0,
                syn: SynState::new(setup.cookie_secret),
                crossed: ArrayVec::new(),
                all_counters: setup.all_counters.clone(),
                steered: false,
            },
            v4: Lane::new(setup.sessions_v4, setup),
            v6: Lane::new(setup.sessions_v6, setup),
            batch_v4: ArrayVec::new(),
            batch_v6: ArrayVec::new(),
            fragments_v4: fragments(BITS_V4, setup),
            fragments_v6: fragments(BITS_V6, setup),
        };
        pipeline.configure(snapshot);
        pipeline
    }

    /// Takes a new configuration and gives the old one back. Not on the packet path: it allocates
    /// in proportion to the configuration, never to the session table.
    pub fn configure(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let old = std::mem::replace(&mut self.shared.snapshot, snapshot);
        let snapshot = &self.shared.snapshot;
        self.shared.several_workers = snapshot.worker_of.iter().any(|w| *w != self.shared.worker);
        let least_mtu = snapshot.ports.iter().map(|port| port.mtu).min().unwrap_or(0);
        self.shared.fits_all_ports = least_mtu + ETHERNET as u16;
        self.shared.tunnels.configure(snapshot);
        self.shared.trunks.configure(snapshot);
        self.shared.syn.gates.configure(snapshot, self.shared.worker);
        if self.shared.syn.gates.any() {
            self.v4.syn_retries.reserve();
            self.v6.syn_retries.reserve();
        }
        self.v4.configure(snapshot, self.shared.toeplitz, self.shared.worker);
        self.v6.configure(snapshot, self.shared.toeplitz, self.shared.worker);
        if sweep::needed(&old, snapshot) {
            self.v4.sweep.start();
            self.v6.sweep.start();
        }
        self.shared.guard.configure(&old, snapshot);
        self.shared.samplers.configure(snapshot);
        self.shared.limits.configure(snapshot);
        let workers = snapshot.worker_of.iter().max().map_or(1, |w| usize::from(*w) + 1);
        self.fragments_v4.idents().share(workers);
        self.fragments_v6.idents().share(workers);
        if old.routes_v4 != snapshot.routes_v4 || old.routes_v6 != snapshot.routes_v6 {
            self.shared.hops.invalidate();
        }
        old
    }

    /// The configuration in use.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.shared.snapshot
    }

    /// The counters.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.shared.counters
    }

    /// The IPv4 sessions.
    pub fn sessions_v4(&self) -> &Table<Ipv4Addr> {
        &self.v4.table
    }

    /// The IPv6 sessions.
    pub fn sessions_v6(&self) -> &Table<Ipv6Addr> {
        &self.v6.table
    }

    /// How many FullNAT ports are in use towards a server, and how many this worker has.
    pub fn local_ports(&self, server: ServerId) -> (usize, usize) {
        // A server has one family; in the other there are none.
        let (v4, v6) = (self.v4.local_ports.usage(server), self.v6.local_ports.usage(server));
        (v4.0 + v6.0, v4.1 + v6.1)
    }

    /// Whether frames that come in with this port belong to several ports ([`super::vlan`]).
    #[inline(always)]
    pub fn is_trunk(&self, port: PortId) -> bool {
        self.shared.trunks.carry(port)
    }

    /// Gives the frames that came in with the port of a trunk to their ports and counts them there.
    /// Those without a port are dropped and leave the burst.
    pub fn sort_vlans(&mut self, trunk: PortId, burst: &mut Burst<F>) {
        self.shared.trunks.sort(trunk, burst, &self.shared.counters);
    }

    /// Whether no mapping of egress SNAT is left.
    pub fn snat_is_empty(&self) -> bool {
        self.v4.local_ports.snat.is_empty() && self.v6.local_ports.snat.is_empty()
    }

    /// Takes a burst through all stages and leaves it empty. `steered` says that the packets come
    /// from another worker that found them to be ours. `now` is in milliseconds and wraps. The
    /// queues of `out` must be empty.
    pub fn process(&mut self, burst: &mut Burst<F>, steered: bool, now: u32, out: &mut Outbox<F>) {
        for frame in burst.iter() {
            frame.prefetch_bytes();
        }
        self.shared.steered = steered;
        let mut verdicts = [Verdict::Drop(DropReason::NoSession); BURST];
        let steer = self.shared.several_workers && !steered;
        let guard = self.shared.guard.on && !steered;
        for (slot, frame) in burst.iter_mut().enumerate() {
            if let Some(verdict) = self.classify(slot as u8, frame, steer, guard, steered, now) {
                verdicts[slot] = verdict;
            }
        }
        if !self.batch_v4.is_empty() {
            self.v4.run(&mut self.shared, &mut self.batch_v4, burst, &mut verdicts, now);
        }
        self.batch_v6.extend(self.shared.crossed.drain(..));
        if !self.batch_v6.is_empty() {
            self.v6.run(&mut self.shared, &mut self.batch_v6, burst, &mut verdicts, now);
        }
        self.shared.flush_ahead(out);
        for (frame, verdict) in burst.drain(..).zip(&verdicts) {
            self.queue(frame, *verdict, now, out);
        }
        self.shared.flush(out);
    }

    /// Stages 1 and 2. Flows that are ours go into their family's batch; all else is decided here.
    #[inline(always)]
    fn classify(
        &mut self,
        slot: u8,
        frame: &mut F,
        steer: bool,
        guard: bool,
        steered: bool,
        now: u32,
    ) -> Option<Verdict> {
        let port_id = frame.rx_port();
        let port = &self.shared.snapshot.ports[usize::from(port_id.0)];
        let role = port.role;
        if let PortRole::Exception { wire } = role {
            return Some(Verdict::Forward(wire));
        }
        if frame.is_segmented() {
            return Some(Verdict::Drop(DropReason::FrameTooLong));
        }
        let checksum = frame.rx_checksum();
        if checksum.ip_bad {
            return Some(Verdict::Drop(DropReason::BadIpChecksum));
        }
        if checksum.transport_bad {
            return Some(Verdict::Drop(DropReason::BadTransportChecksum));
        }
        let sink = Arrivals {
            v4: &mut self.batch_v4,
            v6: &mut self.batch_v6,
            slot,
            fill_checksum: checksum.transport_partial | port.full_checksums,
        };
        match flow::parse_into(frame.bytes(), &port.mac, checksum.ip_good, sink) {
            Ok(Parsed::V4(())) if !(guard | steer) => None,
            Ok(Parsed::V6(())) if !(guard | steer) => None,
            Ok(Parsed::V4(())) => {
                admit(&mut self.shared, &mut self.batch_v4, frame, guard, steer, now)
            }
            Ok(Parsed::V6(())) => {
                admit(&mut self.shared, &mut self.batch_v6, frame, guard, steer, now)
            }
            Ok(other) => {
                if guard && let Some(verdict) = guard::other(&mut self.shared, frame, now) {
                    return Some(verdict);
                }
                Some(self.not_a_flow(frame, other, steer, now))
            }
            Err(DropReason::VlanTagged) if vlan::strip_priority(frame) => {
                self.classify_stripped(slot, frame, steer, steered, guard, now)
            }
            Err(reason) => Some(self.refused(frame, reason, steered, now)),
        }
    }

    /// Once more, without the tag that said nothing but a priority. There is no second one.
    #[cold]
    #[inline(never)]
    fn classify_stripped(
        &mut self,
        slot: u8,
        frame: &mut F,
        steer: bool,
        steered: bool,
        guard: bool,
        now: u32,
    ) -> Option<Verdict> {
        self.classify(slot, frame, steer, steered, guard, now)
    }

    /// Decides on what is read but is neither TCP nor UDP.
    #[cold]
    #[inline(never)]
    fn not_a_flow(
        &mut self,
        frame: &mut F,
        parsed: Parsed<(), ()>,
        steer: bool,
        now: u32,
    ) -> Verdict {
        let Pipeline { shared, v4, v6, .. } = self;
        let passed_on = match parsed {
            Parsed::Icmpv4 { frame_len, .. } => {
                icmp_error::handle(shared, v4, frame, frame_len, steer, now)
                    .or_else(|| snat::echo::handle(shared, v4, frame, frame_len, steer, now))
            }
            Parsed::Icmpv6 { frame_len, .. } => {
                icmp_error::handle(shared, v6, frame, frame_len, steer, now)
                    .or_else(|| snat::echo::handle(shared, v6, frame, frame_len, steer, now))
            }
            _ => None,
        };
        passed_on.unwrap_or_else(|| local::handle(shared, frame, parsed, now))
    }

    /// Stage 7.
    #[inline(always)]
    pub(super) fn queue(&mut self, mut frame: F, verdict: Verdict, now: u32, out: &mut Outbox<F>) {
        let counters = &self.shared.counters;
        match verdict {
            Verdict::Forward(port) => out.to_port(port, frame, false),
            Verdict::HandOff(worker, note) => {
                frame.set_note(note.encode());
                out.to_worker(worker, frame);
            }
            Verdict::Drop(reason) => counters.drops_of(reason).add(1),
            Verdict::Punt(tap) => {
                counters.punted.add(1);
                out.to_port(tap, frame, false);
            }
            Verdict::Consume => counters.consumed.add(1),
            Verdict::Answer(port) => {
                counters.consumed.add(1);
                if self.shared.snapshot.crosses {
                    crossed::make_v4(&mut frame);
                }
                out.to_port(port, frame, true);
            }
            Verdict::Refuse(reason, port) => {
                counters.drops_of(reason).add(1);
                if self.shared.snapshot.crosses {
                    crossed::make_v4(&mut frame);
                }
                out.to_port(port, frame, true);
            }
            Verdict::Hold(hop) => {
                if self.shared.hops.hold(hop, frame, now).is_err() {
                    counters.drops_of(DropReason::NeighborQueueFull).add(1);
                }
                self.count_held();
            }
            Verdict::HoldFragment { v6, place } => self.hold_fragment(frame, v6, place, now),
        }
    }

    /// Sets the gauge of packets that wait.
    pub(super) fn count_held(&self) {
        let held = self.shared.hops.held() + self.fragments_held();
        self.shared.counters.held.set(held as u64);
    }

    /// Takes in what the management thread knows of a next hop. Call [`Pipeline::release`] after.
    pub fn neighbor(&mut self, port: PortId, address: std::net::IpAddr, mac: Option<Mac>) {
        let Some(own) = self.shared.snapshot.ports.get(usize::from(port.0)).map(|p| p.mac) else {
            return;
        };
        self.shared.hops.update(port, address, mac, &own);
    }

    /// Takes in what another worker has learnt ([`Notice::PathMtu`]).
    pub fn path_mtu(&mut self, address: std::net::IpAddr, mtu: u16, now: u32) {
        self.shared.tunnels.lower(address, mtu, now);
    }

    /// Queues packets whose wait for a next hop is over, at most a burst of them, and says whether
    /// there may be more. The queues of `out` must be empty.
    pub fn release(&mut self, now: u32, out: &mut Outbox<F>) -> bool {
        if self.shared.hops.held() == 0 {
            return false;
        }
        let counters = &self.shared.counters;
        let mut more = true;
        for _ in 0..BURST {
            match self.shared.hops.release(now) {
                Some(Released::Send(port, frame)) => out.to_port(port, frame, false),
                Some(Released::Drop(reason, _)) => counters.drops_of(reason).add(1),
                None => {
                    more = false;
                    break;
                }
            }
        }
        self.count_held();
        more
    }

    /// Ends sessions whose time has come: a bounded amount of work, `budget` entries per family.
    /// The queues of `out` must be empty.
    /// Returns whether it queued something.
    pub fn expire(&mut self, now: u32, budget: usize, out: &mut Outbox<F>) -> bool {
        syn_proxy::pass_gates(&mut self.shared, now);
        self.v4.expire(&mut self.shared, now, budget);
        self.v6.expire(&mut self.shared, now, budget);
        self.shared.counters.sessions_v4.set(self.v4.table.len() as u64);
        self.shared.counters.sessions_v6.set(self.v6.table.len() as u64);
        let rules = self.shared.snapshot.snat.list().len();
        if rules > 0 {
            self.v4.local_ports.snat.report(rules, &self.shared.counters);
            self.v6.local_ports.snat.report(rules, &self.shared.counters);
        }
        let persistent = self.v4.persistence.len() + self.v6.persistence.len();
        self.shared.counters.persistent_clients.set(persistent as u64);
        let made = !self.shared.made.is_empty();
        self.shared.flush(out);
        if self.fragments_held() != 0 {
            self.move_fragments(now, out);
            return true;
        }
        made
    }

    /// How many empty frames the pipeline could take: see [`Pipeline::restock`].
    #[inline]
    pub fn wants_frames(&self) -> usize {
        self.shared.spare.remaining_capacity()
    }

    /// Gives the pipeline an empty frame, for what Shunt sends without having received it.
    pub fn restock(&mut self, frame: F) {
        let _ = self.shared.spare.try_push(frame);
    }

    /// Takes the next notice for the management thread.
    pub fn notice(&mut self) -> Option<Notice> {
        self.shared.notices.pop_at(0)
    }
}

/// No fragments yet.
fn fragments<A: Address, F>(bits: u32, setup: &Setup) -> Fragments<A, F> {
    Fragments::new(Idents::new(bits, setup.worker, setup.seed), setup.seed)
}

/// Puts a flow into its family's batch.
struct Arrivals<'a> {
    v4: &'a mut Batch<Ipv4Addr>,
    v6: &'a mut Batch<Ipv6Addr>,
    slot: u8,
    fill_checksum: bool,
}

impl Sink for Arrivals<'_> {
    type V4 = ();
    type V6 = ();
    #[inline(always)]
    fn v4(self, flow: Flow<Ipv4Addr>) {
        self.v4.push(Item::new(self.slot, flow, self.fill_checksum));
    }
    #[inline(always)]
    fn v6(self, flow: Flow<Ipv6Addr>) {
        self.v6.push(Item::new(self.slot, flow, self.fill_checksum));
    }
}

/// Looks at the last flow of the batch; takes it out again when it ends here or is another worker's.
#[inline(always)]
fn admit<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    batch: &mut Batch<A>,
    frame: &mut F,
    guard: bool,
    steer: bool,
    now: u32,
) -> Option<Verdict> {
    let flow = &batch.last()?.flow;
    let mut verdict = None;
    if guard {
        verdict = guard::flow(shared, frame, flow, now);
    }
    if steer && verdict.is_none() {
        let role = shared.snapshot.ports[usize::from(frame.rx_port().0)].role;
        let owner = steer::owner(&shared.snapshot, shared.toeplitz, role, &flow.key);
        verdict = (owner != shared.worker).then_some(Verdict::HandOff(owner, Note::None));
    }
    if verdict.is_some() {
        batch.pop();
    }
    verdict
}

const _: () = assert!(Ipv4Addr::MIN_FRAME == 42 && Ipv6Addr::MIN_FRAME == 62);
