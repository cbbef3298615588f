//! That counters and gauges say what is there, and that in the end nothing is.

use std::collections::{BTreeMap, BTreeSet};

use shunt::session::{Entry, Mode, ServerId, ServiceId, Table, TcpState};
use shunt::wire::DropReason::{self, *};
use shunt::wire::flow::Address;

use super::captures::endpoint;
use super::{Day, Replay};
use crate::frames::{SYN, tcp};
use crate::net::{FRONT, Family, ROUTER_MAC, server_mac};

/// Reasons to drop a packet that each group of setups has.
const EVERYWHERE: &[DropReason] = &[
    FrameTooShort,
    FrameTooLong,
    NotOurMac,
    VlanTagged,
    BadArp,
    BadNdp,
    ArpNotForUs,
    BadIpVersion,
    BadIpHeaderLength,
    BadIpLength,
    BadIpChecksum,
    IpOptions,
    ExtensionHeader,
    Fragment,
    BadFragment,
    TinyFragment,
    FragmentOverlap,
    FragmentExpired,
    FragmentQueueFull,
    Martian,
    Land,
    SpoofedLocal,
    SourceRoute,
    PacketTooBig,
    BadTcpHeader,
    BadTcpFlags,
    NullScan,
    FinScan,
    XmasScan,
    SynFin,
    SynRst,
    PortZero,
    BadUdpHeader,
    BadTransportChecksum,
    BadIcmp,
    IcmpNotHandled,
    BadIcmpQuote,
    IcmpNoSession,
    IcmpOutOfWindow,
    NoService,
    NoSession,
    SessionTableFull,
    NotLocal,
    TcpOutOfWindow,
    NoException,
    NeighborUnresolved,
    TxRefused,
];
/// Those of setups with limits and a packet filter.
const LOADED: &[DropReason] =
    &[SpoofedInside, Filtered, FilterRejected, FilterLimited, SourceHalfOpenLimit];

impl Replay {
    /// That every gauge says what is in the tables.
    pub fn assert_counted(&mut self, what: &str) {
        for (worker, counters) in self.rig.workers.iter().zip(&self.rig.counters) {
            let mut tally = Tally::default();
            tally.add(worker.pipeline().sessions_v4());
            tally.add(worker.pipeline().sessions_v6());
            let name = format!("{} after {what}", self.name);
            assert_eq!(counters.half_open.get(), tally.half_open, "half-open, {name}");
            for n in 0..self.whole.snapshot.servers.len() {
                let server = ServerId(n as u16);
                let c = counters.server(server);
                let sessions = tally.servers.get(&server).copied().unwrap_or(0);
                assert_eq!(c.created.get() - c.ended.get(), sessions, "server {n}, {name}");
                let ports = tally.ports.get(&server).copied().unwrap_or(0);
                let used = worker.pipeline().local_ports(server).0;
                assert!(
                    used == ports || !self.exact && used < ports,
                    "server {n}, {name}: {used} {ports}"
                );
            }
            for n in 0..self.whole.snapshot.services.len() {
                let service = ServiceId(n as u16);
                let sessions = tally.services.get(&service).copied().unwrap_or(0);
                assert_eq!(counters.service_sessions(service).get(), sessions, "{n}, {name}");
            }
        }
    }

    /// After all timeouts nothing is left, and the switch works.
    pub fn assert_empty(&mut self) {
        (self.calm, self.deaf) = (true, false);
        for worker in &mut self.rig.workers {
            worker.io().tx_room.fill(None);
        }
        self.reconfigure(Day::Whole);
        self.rig.warm();
        self.pass(30_000);
        let name = &self.name;
        assert_eq!(self.rig.sessions(), 0, "{name}");
        self.assert_counted("all timeouts");
        let name = &self.name;
        for (worker, counters) in self.rig.workers.iter().zip(&self.rig.counters) {
            let pipeline = worker.pipeline();
            assert!(pipeline.snat_is_empty(), "{name}");
            let sessions = (counters.sessions_v4.get(), counters.sessions_v6.get());
            assert_eq!(sessions, (0, 0), "{name}: sessions");
            let held = (counters.held.get(), counters.persistent_clients.get());
            assert_eq!(held, (0, 0), "{name}: held packets, persistent clients");
            assert_eq!(pipeline.half_open(), (0, 0), "{name}: half-open, in limits");
            for rule in 0..self.whole.snapshot.snat.list().len() {
                let snat = counters.snat(rule as u16);
                assert_eq!((snat.mappings_v4.get(), snat.mappings_v6.get()), (0, 0), "{name}");
            }
        }
        for n in 0..10 {
            let family = Family::BOTH[n % 2];
            let from = endpoint(family.client(), 60_000 + n as u16);
            let packet = match self.whole.snapshot.services.first() {
                Some(service) if service.mode != Mode::Snat => {
                    tcp(from, endpoint(family.vip(), 80), SYN)
                }
                // The way out.
                _ => tcp(endpoint(family.server(11), 7000 + n as u16), from, SYN),
            };
            let port = if packet.src == from { FRONT } else { self.scene.back };
            let macs = match port == FRONT && packet.src == from {
                true => (ROUTER_MAC, self.scene.macs[0]),
                false => (server_mac(11), self.scene.macs[1]),
            };
            let bytes = packet.macs(macs.0, macs.1).bytes();
            let sent = self.burst(&[(port, bytes)]);
            if !self.name.contains("bogons") {
                assert!(!sent.is_empty(), "{}: a connection after all", self.name);
            }
        }
    }
}

/// What is in the tables of a worker.
#[derive(Default)]
struct Tally {
    half_open: u64,
    servers: BTreeMap<ServerId, u64>,
    services: BTreeMap<ServiceId, u64>,
    /// Local ports of FullNAT.
    ports: BTreeMap<ServerId, usize>,
}

impl Tally {
    fn add<A: Address>(&mut self, table: &Table<A>) {
        let mut cursor = 0;
        while !table.walk(&mut cursor, 1000, |_, entry: &Entry<A>| {
            let half_open = matches!(entry.state, TcpState::SynSent | TcpState::SynReceived);
            self.half_open += u64::from(half_open);
            *self.servers.entry(entry.server_id).or_default() += 1;
            *self.services.entry(entry.service).or_default() += 1;
            if entry.mode == Mode::FullNat {
                *self.ports.entry(entry.server_id).or_default() += 1;
            }
        }) {}
    }
}

/// Asserts that packets were dropped for all these reasons, besides those of all groups: what is replayed
/// reaches what it is meant for.
#[track_caller]
pub fn assert_met(met: &BTreeSet<DropReason>, reasons: &[DropReason]) {
    let all = EVERYWHERE.iter().chain(LOADED).chain(reasons);
    let missing: Vec<_> = all.filter(|reason| !met.contains(reason)).collect();
    eprintln!(
        "NEVER {:?}",
        DropReason::ALL.iter().filter(|r| !met.contains(r)).collect::<Vec<_>>()
    );
    assert_eq!(missing, [] as [&DropReason; 0]);
}
