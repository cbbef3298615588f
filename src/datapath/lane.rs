//! What each family of a worker's data path has of its own, and the stages its packets go through.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use hashbrown::{HashMap, HashSet};

use super::balancer::Balancer;
use super::counters::WorkerCounters;
use super::doubt;
use super::established;
use super::family::Family;
use super::frame::Frame;
use super::limits::Limiters;
use super::local_ports::LocalPorts;
use super::new_flow;
use super::one_packet::{self, Origins};
use super::persist;
use super::replica;
use super::reset;
use super::setup::Setup;
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::sweep::{self, Sweep};
use super::syn_proxy::{self, Retries};
use super::verdict::Verdict;
use crate::io::{BURST, Burst};
use crate::session::marks::Marks;
use crate::session::persistence::Persistence;
use crate::session::{
    Aside, Direction, Entry, ServerId, ServiceId, SessionId, Table, TcpState, Then,
};
use crate::sync::session::Reason;
use crate::wire::flow::Flow;
use crate::wire::toeplitz::Toeplitz;

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
    /// Who owns the sessions, on a node that has a peer.
    pub(super) marks: Option<Marks>,
    /// The servers of services by address, for sessions that the peer tells of.
    pub(super) server_ids: HashMap<(ServiceId, IpAddr, u16), ServerId>,
}

/// The packets of a burst that are of one family.
pub(super) type Batch<A> = ArrayVec<Item<A>, BURST>;

/// A packet of the burst on its way through the stages.
pub(super) struct Item<A> {
    /// Its place in the burst.
    pub(super) slot: u8,
    pub(super) flow: Flow<A>,
    /// Whether the sender left the transport checksum unfinished.
    pub(super) fill_checksum: bool,
    pub(super) hash: u64,
    pub(super) candidate: Option<(SessionId, Direction)>,
    pub(super) crossed: Crossed,
}

/// Whether a packet came as IPv4 and was made IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crossed {
    /// No.
    No,
    /// It did, and must not be fragmented.
    Whole,
    /// It did, and may be fragmented.
    Divisible,
}

impl<A> Item<A> {
    /// The same packet, made IPv6.
    pub(super) fn in_v6(&self, flow: Flow<Ipv6Addr>, crossed: Crossed) -> Item<Ipv6Addr> {
        let Item { slot, fill_checksum, .. } = *self;
        Item { crossed, ..Item::new(slot, flow, fill_checksum) }
    }
}

impl<A> Item<A> {
    #[inline(always)]
    pub(super) fn new(slot: u8, flow: Flow<A>, fill_checksum: bool) -> Self {
        Item { slot, flow, fill_checksum, hash: 0, candidate: None, crossed: Crossed::No }
    }

    /// A packet that is decided on by itself.
    pub(super) fn alone(flow: Flow<A>, hash: u64) -> Self {
        Item { hash, ..Item::new(0, flow, false) }
    }
}

impl<A: Family> Lane<A> {
    pub(super) fn new(sessions: usize, setup: &Setup) -> Self {
        let mut table = Table::with_advice(sessions, setup.seed, setup.advise);
        let paired = setup.pair.is_some();
        if paired {
            table.halve();
        }
        Lane {
            marks: paired.then(|| Marks::new(table.capacity())),
            server_ids: HashMap::new(),
            table,
            balancer: Balancer::new(u64::from(setup.worker)),
            local_ports: LocalPorts::new(setup.ports_start),
            servers: HashSet::new(),
            resets_strays: HashSet::new(),
            sweep: Sweep::default(),
            syn_retries: Retries::new(),
            persistence: Persistence::new(setup.seed),
            origins: Origins::new(),
        }
    }

    pub(super) fn configure(&mut self, snapshot: &Snapshot, toeplitz: &Toeplitz, worker: u8) {
        self.balancer.configure::<A>(snapshot);
        self.local_ports.configure(snapshot, toeplitz, worker);
        self.local_ports.snat.configure(snapshot, toeplitz, worker, &self.table);
        let of_family =
            snapshot.servers.iter().filter_map(|s| Some((A::from_ip(s.address)?, s.port)));
        self.servers = of_family.collect();
        self.resets_strays = new_flow::resets_strays(snapshot);
        self.origins = one_packet::origins(snapshot);
        if self.marks.is_some() {
            let servers = snapshot.servers.iter().zip(0..);
            self.server_ids = servers
                .map(|(s, id)| ((s.service, s.address.to_canonical(), s.port), ServerId(id)))
                .collect();
        }
        let clients = persist::clients(snapshot, self.table.capacity());
        if clients != 0 {
            self.persistence.allocate(clients);
        }
    }

    /// Ends a session.
    pub(super) fn end<F: Frame>(
        &mut self,
        shared: &mut Shared<F>,
        id: SessionId,
        reason: Reason,
        now: u32,
    ) -> Entry<A> {
        let entry = *self.table.get(id);
        replica::ended(shared, &mut self.marks, id, &entry, reason, now);
        self.table.remove(id);
        let Shared { limits, counters, .. } = shared;
        Self::closed(&entry, &mut self.balancer, &mut self.local_ports, limits, counters);
        entry
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

    pub(super) fn expire<F: Frame>(&mut self, shared: &mut Shared<F>, now: u32, budget: usize) {
        let Lane { table, balancer, local_ports, marks, .. } = self;
        table.expire_if(now, budget, |due, id, entry: &mut Entry<A>, aside: &Aside| {
            if let Some(then) = replica::due(shared, marks, due, id, entry, now) {
                return then;
            }
            if !doubt::on_expiry(shared, entry, aside, now) {
                return Then::GoesOn;
            }
            let unseen = replica::is_unseen(shared, marks, id, entry, now);
            if !unseen && !reset::on_expiry(shared, entry, aside, now) {
                return Then::GoesOn;
            }
            replica::ended(shared, marks, id, entry, Reason::EXPIRED, now);
            Self::closed(entry, balancer, local_ports, &mut shared.limits, &shared.counters);
            shared.counters.expired.add(1);
            if entry.state == TcpState::SynProxied {
                syn_proxy::expired(shared, entry, aside);
            }
            Then::Ends
        });
        sweep::walk(self, shared, now);
        syn_proxy::retry(shared, self, now);
        self.persistence.sweep(now);
    }

    /// Stages 3 to 6 for the packets of this family.
    #[inline(always)]
    pub(super) fn run<F: Frame>(
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
                    replica::met(shared, frame);
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
