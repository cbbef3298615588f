//! Counters of one worker: plain cells that only the worker writes and the management thread reads.
//!
//! A cell is an `AtomicU64` used with relaxed load and store, never read-modify-write: on the
//! hardware that is an ordinary add to memory, and the reader sees whole values.
//!
//! The invariant (design §1), per worker, at any instant between two bursts:
//! `rx + handed_in = tx + handed_off + consumed + held + Σ drops`.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::filter::MAX_FILTERS;
use super::snapshot::PortId;
use super::snat::rules::MAX_SNATS;
use super::sync_counters::SyncCounters;
use crate::session::{ServerId, ServiceId};
use crate::wire::DropReason;

/// The most ports a node can have, exception taps included.
pub const MAX_PORTS: usize = 32;
/// The most real servers a node can have, over all services.
pub const MAX_SERVERS: usize = 16_384;
/// The most services a node can have: each has a server.
pub const MAX_SERVICES: usize = MAX_SERVERS;

/// A counter or gauge with one writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the owner calls it.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    /// Takes `n` from a gauge. Only the owner calls it.
    #[inline(always)]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }
    /// Sets a gauge. Only the owner calls it.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes (Ethernet frames without FCS) of one port, as this worker saw them.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: Cell,
    /// Bytes received.
    pub rx_bytes: Cell,
    /// Frames transmitted.
    pub tx_packets: Cell,
    /// Bytes transmitted.
    pub tx_bytes: Cell,
    /// Frames the port did not take.
    pub tx_refused: Cell,
}

/// One real server, as this worker saw it.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Sessions created.
    pub created: Cell,
    /// Sessions ended; active = created − ended.
    pub ended: Cell,
    /// Packets from clients.
    pub forward_packets: Cell,
    /// Bytes from clients (frames).
    pub forward_bytes: Cell,
    /// Packets from the server.
    pub reply_packets: Cell,
    /// Bytes from the server (frames).
    pub reply_bytes: Cell,
}

/// One rule of egress SNAT, as this worker saw it.
#[derive(Debug, Default)]
pub struct SnatCounters {
    /// Gauge: IPv4 mappings.
    pub mappings_v4: Cell,
    /// Gauge: IPv6 mappings.
    pub mappings_v6: Cell,
    /// Packets from inside for which no port was free.
    pub exhausted: Cell,
    /// Packets from inside whose host has as many ports as it may.
    pub limited: Cell,
    /// Packets from outside that no mapping or filter lets in.
    pub refused: Cell,
}

/// A rule of the packet filter, as this worker saw it.
#[derive(Debug, Default)]
pub struct FilterCounters {
    /// Packets it was the first to match.
    pub packets: Cell,
    /// Their bytes (frames).
    pub bytes: Cell,
}

/// One service, as this worker saw it.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// SYNs that were answered with a cookie.
    pub syn_cookies_sent: Cell,
    /// ACKs that returned a cookie; each opened a session or was refused one.
    pub syn_cookies_accepted: Cell,
    /// ACKs without a session that returned no good cookie.
    pub syn_cookies_rejected: Cell,
    /// Sessions whose server has accepted, after Shunt's own handshake with the client.
    pub syn_proxied: Cell,
    /// Gauge: whether SYNs are answered with cookies, 0 or 1.
    pub syn_proxy_on: Cell,
    /// Gauge: its open sessions.
    pub sessions: Cell,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Packets received from ports.
    pub rx: CachePadded<Cell>,
    /// Packets received from other workers.
    pub handed_in: Cell,
    /// Packets given to other workers.
    pub handed_off: Cell,
    /// Packets received and transmitted (to the wire or to the kernel).
    pub tx: Cell,
    /// Packets for the kernel, by an exception tap: in `tx`, or in the drops if the tap was full.
    pub punted: Cell,
    /// Packets that ended here on purpose: ARP, NDP and echo that was answered or learnt from.
    pub consumed: Cell,
    /// Gauge: packets that wait, for their next hop or for the first fragment of their packet.
    pub held: Cell,
    /// Packets made by Shunt and transmitted (answers, ICMP errors, probes); not in `tx`.
    pub originated: Cell,
    /// Drops by reason.
    pub drops: [Cell; DropReason::COUNT],
    /// Gauge: IPv4 sessions.
    pub sessions_v4: Cell,
    /// Gauge: IPv6 sessions.
    pub sessions_v6: Cell,
    /// Sessions that ended by timeout.
    pub expired: Cell,
    /// Loop iterations.
    pub polls: Cell,
    /// Loop iterations that received something.
    pub busy_polls: Cell,
    /// Events to the management thread that found the queue full.
    pub events_lost: Cell,
    /// TCP resets sent to the ends of sessions that ended; each is in `originated` too.
    pub resets: Cell,
    /// Sessions that were ended since their server was down or gone.
    pub ended_with_server: Cell,
    /// Gauge: TCP sessions whose handshake is not complete.
    pub half_open: Cell,
    /// Packets of sources that found no place in the table of source limits.
    pub sources_untracked: Cell,
    /// Copies of packets made for sensors; in `originated` when transmitted.
    pub mirrored: Cell,
    /// Copies that could not be made: no spare buffer, or too long for the sensor's port.
    pub mirror_missed: Cell,
    filters: Box<[FilterCounters]>,
    /// Fragments forwarded; in `tx`.
    pub fragments: Cell,
    /// Fragments that came before the first of their packet and had to wait.
    pub fragments_held: Cell,
    /// Packets that went to the server without the TOA option for want of room.
    pub toa_no_room: Cell,
    /// ICMP errors passed on to the end they concern; in `tx`.
    pub icmp_errors: Cell,
    ports: Box<[PortCounters]>,
    servers: Box<[ServerCounters]>,
    snats: Box<[SnatCounters]>,
    services: Box<[ServiceCounters]>,
    /// Gauge: clients that services with persistence remember.
    pub persistent_clients: Cell,
    /// Connections of clients that could not be remembered, since the table was full.
    pub persistence_full: Cell,
    /// The channel to the peer.
    pub sync: SyncCounters,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerCounters {
    /// All zero.
    pub fn new() -> Self {
        WorkerCounters {
            rx: CachePadded::default(),
            handed_in: Cell::default(),
            handed_off: Cell::default(),
            tx: Cell::default(),
            punted: Cell::default(),
            consumed: Cell::default(),
            held: Cell::default(),
            originated: Cell::default(),
            drops: std::array::from_fn(|_| Cell::default()),
            sessions_v4: Cell::default(),
            sessions_v6: Cell::default(),
            expired: Cell::default(),
            polls: Cell::default(),
            busy_polls: Cell::default(),
            events_lost: Cell::default(),
            resets: Cell::default(),
            ended_with_server: Cell::default(),
            half_open: Cell::default(),
            sources_untracked: Cell::default(),
            mirrored: Cell::default(),
            mirror_missed: Cell::default(),
            filters: (0..MAX_FILTERS).map(|_| FilterCounters::default()).collect(),
            fragments: Cell::default(),
            fragments_held: Cell::default(),
            toa_no_room: Cell::default(),
            icmp_errors: Cell::default(),
            ports: (0..MAX_PORTS).map(|_| PortCounters::default()).collect(),
            servers: (0..MAX_SERVERS).map(|_| ServerCounters::default()).collect(),
            snats: (0..MAX_SNATS).map(|_| SnatCounters::default()).collect(),
            services: (0..MAX_SERVICES).map(|_| ServiceCounters::default()).collect(),
            persistent_clients: Cell::default(),
            persistence_full: Cell::default(),
            sync: SyncCounters::default(),
        }
    }

    /// The counters of a port.
    #[inline(always)]
    pub fn port(&self, port: PortId) -> &PortCounters {
        &self.ports[usize::from(port.0)]
    }

    /// The counters of a real server.
    #[inline(always)]
    pub fn server(&self, server: ServerId) -> &ServerCounters {
        &self.servers[usize::from(server.0)]
    }

    /// The counters of a rule of egress SNAT.
    pub fn snat(&self, rule: u16) -> &SnatCounters {
        &self.snats[usize::from(rule)]
    }

    /// The counters of a rule of the packet filter.
    pub fn filter(&self, rule: usize) -> &FilterCounters {
        &self.filters[rule]
    }

    /// The counters of a service.
    #[inline(always)]
    pub fn service(&self, service: ServiceId) -> &ServiceCounters {
        &self.services[usize::from(service.0)]
    }

    /// Gauge: the open sessions of a service.
    #[inline(always)]
    pub fn service_sessions(&self, service: ServiceId) -> &Cell {
        &self.service(service).sessions
    }

    /// The counter of a drop reason.
    #[inline(always)]
    pub fn drops_of(&self, reason: DropReason) -> &Cell {
        &self.drops[reason as usize]
    }

    /// Σ drops.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Cell::get).sum()
    }

    /// Whether every packet is accounted for. Exact only while the worker is between two bursts.
    pub fn balanced(&self) -> bool {
        self.rx.get() + self.handed_in.get()
            == self.tx.get()
                + self.handed_off.get()
                + self.consumed.get()
                + self.held.get()
                + self.dropped()
    }
}
