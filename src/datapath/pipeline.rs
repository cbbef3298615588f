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

use super::counters::WorkerCounters;
use super::crossed;
use super::family::Family;
use super::fragment_idents::{BITS_V4, BITS_V6, Idents};
use super::fragments::Fragments;
use super::frame::Frame;
use super::guard;
use super::ha::Masters;
use super::hops::Released;
use super::icmp_error;
use super::lane::{Batch, Item, Lane};
use super::local;
use super::note::Note;
use super::notice::Notice;
use super::outbox::Outbox;
use super::replica;
use super::setup::Setup;
use super::shared::Shared;
use super::snapshot::{Mac, PortId, PortRole, Snapshot};
use super::snat;
use super::steer;
use super::sweep;
use super::syn_proxy;
use super::verdict::Verdict;
use super::vlan;
use super::vrrp;
use crate::io::{BURST, Burst};
use crate::session::marks::Tally;
use crate::session::{ServerId, Table};
use crate::sync::keys::Keys;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{self, Flow, Parsed, Sink};
use crate::wire::{DropReason, flow::Address};

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
            shared: Shared::new(setup, snapshot.clone(), counters),
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
        let (workers, worker) = (snapshot.workers() as usize, usize::from(self.shared.worker));
        self.shared.idents.share(workers, worker);
        // Between families those of IPv6 become numbers of IPv4.
        let families = if snapshot.crosses { 2 } else { 1 };
        let v6 = workers * (families - 1) + worker;
        self.fragments_v4.idents().share(workers * families, worker);
        self.fragments_v6.idents().share(workers * families, v6);
        if let Some(replica) = &mut self.shared.replica {
            replica.configure(&self.shared.snapshot);
        }
        if old.routes_v4 != snapshot.routes_v4 || old.routes_v6 != snapshot.routes_v6 {
            self.shared.hops.invalidate();
        }
        self.shared.set_masters(self.shared.masters);
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

    /// Half-open sessions as the limits know them: by service, and by source where that is limited.
    pub fn half_open(&self) -> (u64, u64) {
        self.shared.limits.half_open()
    }

    /// The digests of a steering bucket, of own sessions and of copies of the peer's; for tests and
    /// simulation.
    pub fn tallies(&self, bucket: usize) -> (Tally, Tally) {
        let marks = [&self.v4.marks, &self.v6.marks].into_iter().flatten();
        marks.fold(Default::default(), |(own, copies): (Tally, Tally), marks| {
            (own.with(marks.own(bucket)), copies.with(marks.foreign(bucket)))
        })
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
            if let Some(verdict) = self.classify(slot as u8, frame, steer, guard, now) {
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
        replica::tell_changes(&mut self.shared, &mut self.v4, &mut self.v6, now);
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
        let mac = self.shared.virtual_macs.expected(frame.bytes(), &port.mac);
        match flow::parse_into(frame.bytes(), mac, checksum.ip_good, sink) {
            Ok(Parsed::V4(())) if !(guard | steer) => None,
            Ok(Parsed::V6(())) if !(guard | steer) => None,
            Ok(Parsed::V4(())) => {
                admit(&mut self.shared, &mut self.batch_v4, frame, guard, steer, now)
            }
            Ok(Parsed::V6(())) => {
                admit(&mut self.shared, &mut self.batch_v6, frame, guard, steer, now)
            }
            Ok(other) => {
                if guard
                    && !vrrp::is_advert(&self.shared, frame, &other)
                    && !replica::is_datagram(&self.shared, frame, &other)
                    && let Some(verdict) = guard::other(&mut self.shared, frame, now)
                {
                    return Some(verdict);
                }
                Some(self.not_a_flow(frame, other, steer, now))
            }
            Err(DropReason::VlanTagged) if vlan::strip_priority(frame) => {
                self.classify_stripped(slot, frame, steer, guard, now)
            }
            Err(reason) => Some(self.refused(frame, reason, now)),
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
        guard: bool,
        now: u32,
    ) -> Option<Verdict> {
        self.classify(slot, frame, steer, guard, now)
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
                icmp_error::handle(shared, v4, Some(v6), frame, frame_len, steer, now)
                    .or_else(|| snat::echo::handle(shared, v4, frame, frame_len, steer, now))
            }
            Parsed::Icmpv6 { frame_len, .. } => {
                icmp_error::handle(shared, v6, None, frame, frame_len, steer, now)
                    .or_else(|| snat::echo::handle(shared, v6, frame, frame_len, steer, now))
            }
            Parsed::OtherIp { dst } => replica::arrive(shared, v4, v6, frame, dst, now),
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

    /// Answers for the addresses of these groups from now on ([`super::ha`]).
    pub fn set_masters(&mut self, masters: Masters) {
        self.shared.set_masters(masters);
    }

    /// Signs what is for the peer with the first of these keys from now on, and accepts both.
    pub fn set_keys(&mut self, keys: &Keys) {
        self.shared.syn.set_keys(keys);
        replica::set_keys(&mut self.shared, keys);
    }

    /// Tells the peer that this node is about to stop.
    pub fn leave(&mut self, now: u32) {
        replica::leave(&mut self.shared, now);
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
        replica::tick(&mut self.shared, &mut self.v4, &mut self.v6, now);
        self.shared.counters.sessions_v4.set(self.v4.table.len() as u64);
        self.shared.counters.sessions_v6.set(self.v6.table.len() as u64);
        let rules = self.shared.snapshot.snat.list().len();
        if rules > 0 {
            self.v4.local_ports.snat.report(rules, &self.shared.counters);
            self.v6.local_ports.snat.report(rules, &self.shared.counters);
        }
        let persistent = self.v4.persistence.len() + self.v6.persistence.len();
        self.shared.counters.persistent_clients.set(persistent as u64);
        let fragments = self.fragments_held() != 0;
        if fragments {
            self.move_fragments(now, out);
        }
        let made = !self.shared.made.is_empty();
        self.shared.flush(out);
        fragments || made
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
    Fragments::new(Idents::new(bits, setup.seed), setup.seed)
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
    if guard && !replica::is_relayed(shared, frame.rx_port(), &flow.key) {
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
