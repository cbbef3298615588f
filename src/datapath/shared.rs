//! What both families of a worker's data path share, and the frames that Shunt makes itself.

use std::net::Ipv6Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::counters::WorkerCounters;
use super::crossed;
use super::doubt;
use super::fragment_idents::{BITS_CUT, Idents};
use super::frame::Frame;
use super::guard::GuardState;
use super::ha::Masters;
use super::hops::Hops;
use super::lane::Batch;
use super::limiter::TokenBucket;
use super::limits::Limiters;
use super::mastership::VirtualMacs;
use super::mirror::Samplers;
use super::notice::Notice;
use super::outbox::Outbox;
use super::replica::Replica;
use super::setup::Setup;
use super::snapshot::{PortId, PortRole, Snapshot};
use super::syn_proxy::SynState;
use super::tunnel::Tunnels;
use super::verdict::Verdict;
use super::vlan::Trunks;
use crate::io::{BURST, Burst};
use crate::wire::DropReason;
use crate::wire::toeplitz::{STEERING, Toeplitz};

/// ICMP errors a worker sends per second, and at once.
const ICMP_ERRORS: TokenBucket = TokenBucket::new(1000, 100);
/// Resets a worker answers with per second, and at once. After a restart there is one due to each
/// connection; a reset is no longer than what it answers.
const RESETS: TokenBucket = TokenBucket::new(20_000, 2_000);
/// Packets a worker passes to the kernel per second, and at once: the kernel must not become the
/// way to stop the switch.
const PUNTS: TokenBucket = TokenBucket::new(50_000, 1000);
/// Notices kept for the management thread until the worker fetches them.
const NOTICES: usize = 2 * BURST;
/// As many of these only [`Notice::is_urgent`] may use.
const NOTICES_URGENT: usize = 16;

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
    pub(super) trunks: Trunks,
    /// Empty frames for what Shunt sends without having received it; the worker restocks them.
    pub(super) spare: Burst<F>,
    /// Such frames, complete, with the ports they leave by.
    pub(super) made: ArrayVec<(PortId, F), BURST>,
    pub(super) guard: GuardState,
    pub(super) samplers: Samplers,
    pub(super) limits: Limiters,
    /// How many of the frames `made`, the first, go ahead of the burst.
    pub(super) ahead: usize,
    /// How many of these, the first, go ahead of the others: what the peer has to know before.
    pub(super) foremost: usize,
    pub(super) syn: SynState,
    /// IPv4 packets of this burst that go on in the IPv6 lane.
    pub(super) crossed: Batch<Ipv6Addr>,
    /// See [`Setup::all_counters`].
    pub(super) all_counters: Arc<[Arc<WorkerCounters>]>,
    /// Whether the burst comes from another worker (or from this one, once more): its notes count.
    pub(super) steered: bool,
    /// Questions to ends of sessions in doubt.
    pub(super) questions: TokenBucket,
    /// Of packets that are cut where their family changes.
    pub(super) idents: Idents,
    /// For the resets that answer segments.
    pub(super) resets: TokenBucket,
    /// The groups whose addresses this node answers for.
    pub(super) masters: Masters,
    /// The channel to the peer.
    pub(super) replica: Option<Box<Replica>>,
    /// Frames to these are ours besides those to the port's own.
    pub(super) virtual_macs: VirtualMacs,
}

impl<F> Shared<F> {
    /// The MTU of a port, in bytes from the IP header on.
    pub(super) fn mtu(&self, port: PortId) -> u16 {
        self.snapshot.ports[usize::from(port.0)].mtu
    }
}

impl<F: Frame> Shared<F> {
    /// Not yet configured: see [`super::pipeline::Pipeline::configure`].
    pub(super) fn new(
        setup: &Setup,
        snapshot: Arc<Snapshot>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        Shared {
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
            foremost: 0,
            syn: SynState::new(setup),
            crossed: ArrayVec::new(),
            all_counters: setup.all_counters.clone(),
            steered: false,
            questions: doubt::QUESTIONS,
            idents: Idents::new(BITS_CUT, !setup.seed),
            resets: RESETS,
            masters: Masters::default(),
            replica: setup.pair.as_ref().map(|pair| {
                Box::new(Replica::new(pair, setup.worker, snapshot.node_id, setup.seed))
            }),
            snapshot,
            virtual_macs: VirtualMacs::default(),
        }
    }

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

    /// The same, ahead of these as well.
    pub(super) fn originate_foremost(&mut self, port: PortId, frame: F) {
        self.make(self.foremost, port, frame);
        self.foremost += 1;
        self.ahead += 1;
    }

    fn make(&mut self, at: usize, port: PortId, mut frame: F) {
        if self.snapshot.crosses {
            crossed::make_v4(&mut frame);
        }
        // There is room when it was taken, and frames are taken one at a time.
        let _ = self.made.try_insert(at, (port, frame));
    }

    /// Queues what goes ahead of the burst, or of the packet.
    #[inline(always)]
    pub(super) fn flush_ahead(&mut self, out: &mut Outbox<F>) {
        if self.ahead != 0 {
            for (port, frame) in self.made.drain(..self.ahead) {
                out.to_port(port, frame, true);
            }
            (self.ahead, self.foremost) = (0, 0);
        }
    }

    /// Queues what was made.
    pub(super) fn flush(&mut self, out: &mut Outbox<F>) {
        (self.ahead, self.foremost) = (0, 0);
        for (port, frame) in self.made.drain(..) {
            out.to_port(port, frame, true);
        }
    }

    /// Tells the management thread; counts what it cannot be told.
    pub(super) fn notify(&mut self, notice: Notice) {
        if !(notice.is_urgent() || self.has_room_to_notify())
            || self.notices.try_push(notice).is_err()
        {
            self.counters.events_lost.add(1);
        }
    }

    /// Whether the management thread can be told something that is not urgent.
    pub(super) fn has_room_to_notify(&self) -> bool {
        self.notices.remaining_capacity() > NOTICES_URGENT
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
