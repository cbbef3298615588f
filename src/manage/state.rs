//! What the management thread knows, and what it does when something happens. It does no waiting of
//! its own and takes the time as an argument; [`super::run`] is the loop around it.

use std::net::IpAddr;
use std::sync::Arc;

use log::{debug, error, info, log, warn};

use super::config::Config;
use super::ha::{self, Pair, PairConfig};
use super::health::{CheckResult, Target};
use super::neighbors::{Action, Neighbors};
use super::pair_problem::Facts;
use super::pair_seen::Seen;
use super::pair_watch::PairWatch;
use super::port_view::PortView;
use super::probe::probe_frame;
use super::rates::Rates;
use super::servers::{self, Checks};
use super::session_list::SessionLists;
use super::workers::{Worker, WorkerHandle};
use crate::datapath::counters::Cell;
use crate::datapath::ha::Masters;
use crate::datapath::snapshot::{PortId, PortRole, RouteTarget, Snapshot};
use crate::datapath::sync_counters::SyncCounters;
use crate::session::ServerId;
use crate::wire::DropReason;
use crate::worker::control::{Command, Event, SessionFilter};

use super::session_list::SessionList;
use tokio::sync::oneshot;

/// Milliseconds between two samples of the rates.
const SAMPLE_MS: u64 = 1_000;
/// Addresses of the peer's ports that are remembered.
const PEER_ADDRESSES: usize = 64;
/// For how many milliseconds a node goes on forwarding once the peer has the addresses: until the
/// neighbors have heard of it.
const HAND_OVER_MS: u64 = 500;
/// Milliseconds between two looks at what the pair tracks.
const TRACK_MS: u64 = 100;

/// The state of the management thread. Times are milliseconds since its start.
#[derive(Debug)]
pub(super) struct State {
    pub(super) now_ms: u64,
    pub(super) config: Config,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) workers: Vec<Worker>,
    pub(super) ports: Vec<PortView>,
    pub(super) neighbors: Neighbors,
    pub(super) checks: Checks,
    pub(super) rates: RateSet,
    /// What is seen of the pair; `None` without a peer.
    pub(super) watched: Option<(Facts, PairWatch)>,
    /// The virtual routers; `None` without a peer, and in active/active.
    pub(super) pair: Option<Pair>,
    /// Names this start of the node to its peer.
    pub(super) boot: Option<u64>,
    /// Of the peer's ports, the latest first.
    peer_addresses: Vec<IpAddr>,
    tracked_ms: Option<u64>,
    /// When the peer no longer needs this node, which is about to stop.
    handed_over_ms: Option<u64>,
    sessions: SessionLists,
    /// The next snapshot, when the workers' is out of date.
    changed: Option<Snapshot>,
    sampled_ms: Option<u64>,
    events: Vec<Event>,
}

/// The rates of everything that is shown with one.
#[derive(Debug, Default)]
pub(super) struct RateSet {
    /// [`WORKER_RATES`] of each worker.
    pub(super) workers: Rates,
    /// [`PORT_RATES`] of each port.
    pub(super) ports: Rates,
    /// [`SERVER_RATES`] of each server.
    pub(super) servers: Rates,
    /// Of each drop reason.
    pub(super) drops: Rates,
    /// [`SYNC_RATES`].
    pub(super) sync: Rates,
}

/// rx, tx, polls, busy polls.
pub(super) const WORKER_RATES: usize = 4;
/// rx packets, rx bytes, tx packets, tx bytes.
pub(super) const PORT_RATES: usize = 4;
/// Created, forward packets, forward bytes, reply packets, reply bytes.
pub(super) const SERVER_RATES: usize = 5;

/// Datagrams and records of session sync sent, datagrams and records received.
pub(super) const SYNC_RATES: usize = 4;

impl State {
    /// The state at the start, and the servers that have to be checked. The workers already use
    /// `snapshot`; when it takes servers for up that were not checked yet, they get another.
    pub(super) fn new(
        config: Config,
        snapshot: Arc<Snapshot>,
        workers: Vec<WorkerHandle>,
        ports: Vec<PortView>,
    ) -> (Self, Vec<Target>) {
        let (checks, targets) = Checks::new(0, &config, &snapshot);
        let mut first = Snapshot::clone(&snapshot);
        let changed = servers::await_first_check(&config, &mut first).then_some(first);
        let watched = Facts::of(&config, &snapshot).map(|facts| (facts, PairWatch::default()));
        let mut state = State {
            now_ms: 0,
            config,
            snapshot,
            workers: workers.into_iter().map(Worker::new).collect(),
            ports,
            neighbors: Neighbors::default(),
            checks,
            rates: RateSet::default(),
            watched,
            pair: None,
            boot: None,
            peer_addresses: Vec::new(),
            tracked_ms: None,
            handed_over_ms: None,
            sessions: SessionLists::default(),
            changed,
            sampled_ms: None,
            events: Vec::new(),
        };
        state.keep_next_hops();
        (state, targets)
    }

    /// Runs the virtual routers of the snapshot from now on, if it has a pair.
    pub(super) fn join_pair(&mut self, config: &PairConfig, boot: u64) {
        self.boot = Some(boot);
        self.pair = Pair::new(config, &self.snapshot, self.now_ms);
    }

    /// Gives the addresses to the peer, since this node is about to stop; `false` when it has no peer.
    /// Packets are to be forwarded until [`State::is_handed_over`].
    pub(super) fn hand_over(&mut self, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        if self.snapshot.ha.is_none() {
            return false;
        }
        let seen = self.seen();
        let silent = self.pair.as_ref().is_some_and(Pair::has_silent_peer);
        // Nobody takes over who is not there.
        let mut wait_ms = 0;
        if seen.alive && !seen.leaving || silent {
            wait_ms = self.pair.as_ref().map_or(0, Pair::hand_over_ms).max(HAND_OVER_MS);
        }
        if let Some(pair) = &mut self.pair {
            pair.leave(now_ms);
        }
        self.handed_over_ms = Some(now_ms + wait_ms);
        self.act_on_pair();
        for worker in &mut self.workers {
            worker.flush();
        }
        true
    }

    /// Whether the peer has had the addresses for long enough, or has had the time to take them. Ask after
    /// every tick: it counts from when the peer was found to have them.
    pub(super) fn is_handed_over(&mut self) -> bool {
        let Some(at) = &mut self.handed_over_ms else { return false };
        if self.pair.as_ref().is_none_or(|pair| pair.masters() == Masters::default()) {
            *at = (*at).min(self.now_ms + HAND_OVER_MS);
        }
        self.now_ms >= *at
    }

    /// Tells the peer that this node is gone. The workers need a moment to do it.
    pub(super) fn leave(&mut self) {
        if let Some(pair) = &mut self.pair {
            pair.end();
        }
        self.act_on_pair();
        for worker in &mut self.workers {
            worker.send(Command::Leave);
        }
    }

    /// What is due at `now_ms`: events of the workers, the pair, neighbors, a changed snapshot, rates.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for index in 0..self.workers.len() {
            let mut events = std::mem::take(&mut self.events);
            self.workers[index].take_events(&mut events);
            for event in events.drain(..) {
                self.event(index, event);
            }
            self.events = events;
        }
        self.tick_pair();
        self.neighbors.tick(now_ms);
        self.sessions.tick(now_ms);
        self.publish();
        self.act_on_neighbors();
        for worker in &mut self.workers {
            worker.flush();
        }
        if self.sampled_ms.is_none_or(|then| now_ms >= then + SAMPLE_MS) {
            self.sampled_ms = Some(now_ms);
            self.sample();
            self.watch_pair();
        }
    }

    /// Takes the outcome of a health check in. The workers hear of it with the next tick.
    pub(super) fn checked(&mut self, result: &CheckResult) {
        let Some(verdict) = self.checks.record(self.now_ms, &self.snapshot, result) else { return };
        let next = self.changed.get_or_insert_with(|| Snapshot::clone(&self.snapshot));
        next.servers[usize::from(verdict.server.0)].up = verdict.up;
        if !verdict.up
            && let Some(lost) = self.checks.lost(next, verdict.server)
        {
            error!("{lost}");
        }
    }

    /// Asks every worker for its sessions. `None` when too many lists are being made already.
    pub(super) fn list_sessions(
        &mut self,
        filter: SessionFilter,
        limit: usize,
    ) -> Option<oneshot::Receiver<SessionList>> {
        let (queries, list) =
            self.sessions.start(self.now_ms, filter, limit, self.workers.len())?;
        for (worker, query) in self.workers.iter_mut().zip(queries) {
            worker.send(Command::ListSessions(Box::new(query)));
        }
        Some(list)
    }

    /// The first worker that has ended.
    pub(super) fn gone_worker(&self) -> Option<usize> {
        self.workers.iter().position(Worker::is_gone)
    }

    fn event(&mut self, worker: usize, event: Event) {
        match event {
            Event::NeighborWanted { port, address } if self.is_wire(port) => {
                self.neighbors.wanted(self.now_ms, port, address);
            }
            Event::NeighborSeen { port, address, mac } if self.is_wire(port) => {
                self.neighbors.seen(self.now_ms, port, address, mac);
            }
            Event::NeighborWanted { port, address } | Event::NeighborSeen { port, address, .. } => {
                debug!("worker {worker}: neighbor {address} on port {}, which has none", port.0);
            }
            Event::PathMtu { address, mtu } => {
                info!("server {address}: packets in a tunnel to it may have {mtu} bytes");
                for other in &mut self.workers {
                    other.send(Command::PathMtu { address, mtu });
                }
            }
            Event::PeerAddress(address) => self.peer_has(address),
            Event::Vrrp(advert) => {
                if let Some(pair) = &mut self.pair {
                    pair.heard(self.now_ms, &advert);
                }
            }
            Event::Sessions(query) => self.sessions.answer(worker, *query),
            // Both are freed here, where it costs no packet its time.
            Event::Retired(_) | Event::Transmitted(_) | Event::KeysTaken(_) => {}
        }
    }

    /// Looks after the pair, once a second.
    fn watch_pair(&mut self) {
        let seen = self.seen();
        if let Some((facts, watch)) = &mut self.watched {
            watch.sample(self.now_ms, facts, seen);
        }
    }

    /// What the workers and VRRP say of the peer now: what is shown together must be of one moment.
    pub(super) fn seen(&self) -> Seen {
        let mut seen = Seen::of(self.workers.iter().map(Worker::counters));
        seen.advert_interval_ms = self.pair.as_ref().and_then(Pair::other_interval_ms);
        seen
    }

    fn is_wire(&self, port: PortId) -> bool {
        let port = self.snapshot.ports.get(usize::from(port.0));
        port.is_some_and(|p| matches!(p.role, PortRole::Wire { .. }))
    }

    /// Puts the fixed neighbors in, and keeps the real servers' next hops and the gateways resolved.
    fn keep_next_hops(&mut self) {
        for fixed in &self.config.neighbors {
            match port_named(&self.snapshot, &fixed.port) {
                Some(port) => self.neighbors.fix(port, fixed.address, fixed.mac),
                None => warn!("neighbor {}: there is no port {}", fixed.address, fixed.port),
            }
        }
        let snapshot = &self.snapshot;
        // Those of SNAT rules are no hosts.
        let servers = snapshot.servers.iter().filter(|s| !s.address.is_unspecified());
        let servers = servers.map(|s| next_hop(s.route, s.address));
        let gateways = snapshot.routes_v4.iter().chain(&snapshot.routes_v6);
        let gateways = gateways.filter_map(|r| Some((r.target.port, r.target.via?)));
        for (port, address) in servers.chain(gateways) {
            self.neighbors.keep(self.now_ms, port, address);
        }
    }

    /// The peer has told of an address of its ports: adverts may come from there.
    fn peer_has(&mut self, address: IpAddr) {
        if let Some(pair) = &mut self.pair
            && !self.peer_addresses.contains(&address)
        {
            self.peer_addresses.truncate(PEER_ADDRESSES - 1);
            self.peer_addresses.insert(0, address);
            pair.set_peer_addresses(self.peer_addresses.clone());
        }
    }

    fn tick_pair(&mut self) {
        let Some(pair) = &mut self.pair else { return };
        let now_ms = self.now_ms;
        if self.tracked_ms.is_none_or(|then| now_ms >= then + TRACK_MS) {
            self.tracked_ms = Some(now_ms);
            for port in &self.ports {
                pair.set_link(now_ms, port.id, (port.link)().up);
            }
            let snapshot = self.changed.as_ref().unwrap_or(&self.snapshot);
            for id in pair.tracked_services() {
                let servers = &snapshot.services[usize::from(id.0)].servers;
                let up = servers.iter().any(|&id| servers::takes_sessions(snapshot, id));
                // One whose servers have yet to be checked is not down.
                if up || servers.iter().all(|&id| self.checks.is_decided(id)) {
                    pair.set_service_up(now_ms, id, up);
                }
            }
            let sum = |cell: &dyn Fn(&SyncCounters) -> &Cell| {
                self.workers.iter().map(|w| cell(&w.counters().sync).get()).sum::<u64>()
            };
            let (synced, owned) = (sum(&|c| &c.buckets_synced), sum(&|c| &c.buckets_owned));
            let settled = synced + sum(&|c| &c.buckets_lacking);
            pair.set_servers_known(self.checks.are_decided());
            pair.set_synced(owned > 0 && synced >= owned);
            pair.set_lacking(owned > 0 && synced < owned && settled >= owned);
            pair.set_peer_heard(sum(&|c| &c.peer_alive) > 0);
        }
        pair.tick(now_ms);
        self.act_on_pair();
    }

    fn act_on_pair(&mut self) {
        let Some(pair) = &mut self.pair else { return };
        for action in pair.drain() {
            match action {
                ha::Action::Masters(masters) => {
                    for worker in &mut self.workers {
                        worker.send(Command::Masters(masters));
                    }
                }
                // Any worker can send it; the first has a queue on every port.
                ha::Action::Transmit { port, frame } => {
                    if let Some(worker) = self.workers.first_mut() {
                        worker.send(Command::Transmit { port, frame });
                    }
                }
                ha::Action::Log(level, line) => log!(level, "{line}"),
            }
        }
    }

    fn act_on_neighbors(&mut self) {
        for action in self.neighbors.drain() {
            match action {
                Action::Tell { port, address, update } => {
                    for worker in &mut self.workers {
                        worker.send(Command::Neighbor { port, address, update });
                    }
                }
                Action::Probe { port, address, unicast } => {
                    let frame = probe_frame(&self.snapshot, port, address, unicast);
                    // Any worker can send it; the first has a queue on every port.
                    match (frame, self.workers.first_mut()) {
                        (Some(frame), Some(worker)) => {
                            worker.send(Command::Transmit { port, frame });
                        }
                        _ => debug!("port {} has no address to ask for {address} with", port.0),
                    }
                }
            }
        }
    }

    /// Gives the workers the changed snapshot, if there is one.
    fn publish(&mut self) {
        let Some(mut next) = self.changed.take() else { return };
        next.generation = self.snapshot.generation + 1;
        next.prepare();
        self.snapshot = Arc::new(next);
        for worker in &mut self.workers {
            worker.send(Command::Snapshot(Arc::clone(&self.snapshot)));
        }
    }

    fn sample(&mut self) {
        let now = self.now_ms;
        let counters = || self.workers.iter().map(Worker::counters);
        let sum = |cell: &dyn Fn(&crate::datapath::counters::WorkerCounters) -> &Cell| {
            counters().map(|c| cell(c).get()).fold(0u64, u64::wrapping_add)
        };
        let workers: Vec<u64> = counters()
            .flat_map(|c| [&*c.rx, &c.tx, &c.polls, &c.busy_polls].map(Cell::get))
            .collect();
        let ports: Vec<u64> = self
            .ports
            .iter()
            .flat_map(|p| {
                [
                    sum(&|c| &c.port(p.id).rx_packets),
                    sum(&|c| &c.port(p.id).rx_bytes),
                    sum(&|c| &c.port(p.id).tx_packets),
                    sum(&|c| &c.port(p.id).tx_bytes),
                ]
            })
            .collect();
        let servers: Vec<u64> = (0..self.snapshot.servers.len())
            .flat_map(|id| {
                let id = ServerId(id as u16);
                [
                    sum(&|c| &c.server(id).created),
                    sum(&|c| &c.server(id).forward_packets),
                    sum(&|c| &c.server(id).forward_bytes),
                    sum(&|c| &c.server(id).reply_packets),
                    sum(&|c| &c.server(id).reply_bytes),
                ]
            })
            .collect();
        let drops: Vec<u64> =
            DropReason::ALL.iter().map(|&reason| sum(&|c| c.drops_of(reason))).collect();
        let sync: [u64; SYNC_RATES] = [
            sum(&|c| &c.sync.sent_datagrams),
            sum(&|c| &c.sync.sent_records),
            sum(&|c| &c.sync.received_datagrams),
            sum(&|c| &c.sync.received_records),
        ];
        self.rates.sync.sample(now, sync);
        self.rates.workers.sample(now, workers);
        self.rates.ports.sample(now, ports);
        self.rates.servers.sample(now, servers);
        self.rates.drops.sample(now, drops);
    }
}

fn next_hop(route: RouteTarget, address: IpAddr) -> (PortId, IpAddr) {
    (route.port, route.via.unwrap_or(address))
}

/// The wire port of that name.
fn port_named(snapshot: &Snapshot, name: &str) -> Option<PortId> {
    let at = snapshot
        .ports
        .iter()
        .position(|p| p.name == name && matches!(p.role, PortRole::Wire { .. }))?;
    u8::try_from(at).ok().map(PortId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::notice::Advert;
    use crate::manage::testing::{self, FakeWorker};
    use crate::session::ServiceId;
    use crate::worker::control::NeighborUpdate;
    use std::time::Duration;

    fn state() -> (State, Vec<FakeWorker>) {
        let (handles, fakes) = testing::workers(2);
        let (state, targets) = State::new(
            testing::config(),
            Arc::new(testing::snapshot()),
            handles,
            testing::port_views(),
        );
        assert_eq!(targets.len(), 2);
        (state, fakes)
    }

    /// What a command says, in short.
    fn said(command: &Command) -> String {
        match command {
            Command::Snapshot(s) => {
                let up: String = s.servers.iter().map(|s| if s.up { 'U' } else { 'D' }).collect();
                format!("snapshot {} {up}", s.generation)
            }
            Command::Neighbor { port, address, update } => match update {
                NeighborUpdate::Resolved(mac) => format!("{address}@{} is {}", port.0, mac[5]),
                NeighborUpdate::Failed => format!("{address}@{} failed", port.0),
            },
            Command::Transmit { port, frame } => {
                format!("probe @{} for 10.0.0.{}", port.0, frame[41])
            }
            Command::PathMtu { address, mtu } => format!("path to {address} takes {mtu}"),
            Command::Masters(masters) => format!("masters {:b}", masters.0),
            Command::Keys(keys) => format!("{keys:?}"),
            Command::Leave => "leave".to_owned(),
            Command::ListSessions(q) => format!("list {}", q.rows.capacity()),
        }
    }

    fn heard(worker: &mut FakeWorker) -> Vec<String> {
        worker.commands().iter().map(said).collect()
    }

    #[test]
    fn at_the_start_checked_servers_go_down_and_next_hops_are_resolved() {
        let (mut state, mut workers) = state();
        state.tick(0);
        let news = ["snapshot 2 DDU", "10.0.0.13@1 is 19"];
        let probes = ["probe @1 for 10.0.0.11", "probe @1 for 10.0.0.254"];
        assert_eq!(heard(&mut workers[0]), [&news[..], &probes[..]].concat());
        assert_eq!(heard(&mut workers[1]), news);
    }

    #[test]
    fn a_verdict_reaches_every_worker_with_the_next_tick_and_several_go_together() {
        let (mut state, mut workers) = state();
        state.tick(0);
        heard(&mut workers[0]);
        heard(&mut workers[1]);
        let good = |n| CheckResult { server: ServerId(n), outcome: Ok(Duration::from_millis(1)) };
        let bad = |n| CheckResult { server: ServerId(n), outcome: Err("refused".into()) };
        state.checked(&good(0));
        state.checked(&good(1));
        state.tick(1);
        assert_eq!(heard(&mut workers[0]), ["snapshot 3 UUU"]);
        assert_eq!(heard(&mut workers[1]), ["snapshot 3 UUU"]);
        for _ in 0..2 {
            state.checked(&bad(1));
        }
        state.tick(2);
        assert_eq!(heard(&mut workers[0]), [] as [&str; 0]);
        state.checked(&bad(1));
        state.tick(3);
        assert_eq!(heard(&mut workers[1]), ["snapshot 4 UDU"]);
    }

    #[test]
    fn neighbors_that_workers_want_and_see() {
        let (mut state, mut workers) = state();
        state.tick(0);
        heard(&mut workers[0]);
        heard(&mut workers[1]);
        let address = "10.0.0.77".parse().unwrap();
        workers[1].event(Event::NeighborWanted { port: PortId(1), address });
        state.tick(1);
        assert_eq!(heard(&mut workers[0]), ["probe @1 for 10.0.0.77"]);
        workers[0].event(Event::NeighborSeen { port: PortId(1), address, mac: [7; 6] });
        workers[0].event(Event::NeighborSeen { port: PortId(200), address, mac: [7; 6] });
        state.tick(2);
        assert_eq!(heard(&mut workers[0]), ["10.0.0.77@1 is 7"]);
        assert_eq!(heard(&mut workers[1]), ["10.0.0.77@1 is 7"]);
    }

    #[test]
    fn what_one_worker_learns_of_a_path_all_know() {
        let (mut state, mut workers) = state();
        state.tick(0);
        heard(&mut workers[0]);
        heard(&mut workers[1]);
        let address = "10.0.0.11".parse().unwrap();
        workers[1].event(Event::PathMtu { address, mtu: 1400 });
        state.tick(1);
        for worker in &mut workers {
            assert_eq!(heard(worker), ["path to 10.0.0.11 takes 1400"]);
        }
    }

    #[test]
    fn one_of_a_pair_becomes_master_hears_the_peer_and_leaves() {
        let (handles, mut workers) = testing::workers(2);
        let (mut state, snapshot) = of_a_pair(testing::config(), handles);
        state.join_pair(&PairConfig::new(&snapshot, vec![200]), 7);
        let masters = |worker: &mut FakeWorker| -> Vec<u32> {
            let commands = worker.commands();
            let masters = commands.iter().filter_map(|c| match c {
                Command::Masters(masters) => Some(masters.0),
                _ => None,
            });
            masters.collect()
        };
        for now in (0..4_000).step_by(10) {
            state.tick(now);
            for worker in &mut workers {
                let expected = if now == 0 {
                    vec![0]
                } else if now == 3_220 {
                    vec![1]
                } else {
                    vec![]
                };
                assert_eq!(masters(worker), expected, "at {now}");
            }
        }
        // The peer of higher priority is heard.
        workers[1].event(Event::Vrrp(Advert {
            port: PortId(0),
            source: "192.0.2.3".parse().unwrap(),
            vrid: 10,
            priority: 250,
            interval_cs: 100,
            addresses: 1,
        }));
        state.tick(4_000);
        assert_eq!(masters(&mut workers[0]), [0]);
        assert_eq!(masters(&mut workers[1]), [0]);
        assert_eq!(state.seen().advert_interval_ms, Some(1_000));
        // It is silent from then on.
        for now in (4_010..8_000).step_by(10) {
            state.tick(now);
            for worker in &mut workers {
                worker.commands();
            }
        }
        workers[0].counters.sync.peer_alive.set(1);
        assert!(state.hand_over(8_000));
        // The peer may need an interval and the most skewed of waits before it is master.
        assert!(!state.is_handed_over());
        for now in (8_010..9_500).step_by(10) {
            state.tick(now);
            assert!(!state.is_handed_over(), "at {now}");
        }
        state.tick(9_500);
        assert!(state.is_handed_over());
        state.leave();
        let last = workers[0].commands();
        let [Command::Transmit { port, frame }, .., Command::Masters(masters), Command::Leave] =
            &last[..]
        else {
            panic!("{last:?}")
        };
        // By IPv4, router 10, priority 0.
        assert_eq!((port.0, &frame[34..37]), (0, &[0x31, 10, 0][..]));
        assert_eq!(masters.0, 0);
        assert_eq!(last.iter().filter(|c| matches!(c, Command::Masters(_))).count(), 1);
    }

    /// The state of a node with a peer, which has not joined it, and its configuration.
    fn of_a_pair(config: Config, workers: Vec<WorkerHandle>) -> (State, Snapshot) {
        let snapshot = testing::paired_snapshot();
        let ports = testing::port_views();
        (State::new(config, Arc::new(snapshot.clone()), workers, ports).0, snapshot)
    }

    /// The gauges of two workers say that all is there but what could not be taken in.
    #[test]
    fn a_node_that_lacks_sessions_leaves_the_master_alone() {
        for (synced, lacking, unsynced, takes) in
            [(64, 0, false, true), (63, 1, false, false), (63, 1, true, true), (63, 0, true, false)]
        {
            let (handles, mut workers) = testing::workers(2);
            let mut config = testing::config();
            config.services[0].health = None;
            let (mut state, snapshot) = of_a_pair(config, handles);
            let pair = PairConfig::new(&snapshot, vec![200]);
            state.join_pair(&PairConfig { preempt_unsynced: unsynced, ..pair }, 7);
            workers[0].counters.sync.peer_alive.set(1);
            for worker in &workers {
                worker.counters.sync.buckets_owned.set(64);
                worker.counters.sync.buckets_synced.set(64);
            }
            workers[1].counters.sync.buckets_synced.set(synced);
            workers[1].counters.sync.buckets_lacking.set(lacking);
            let mut masters = 0;
            for now in (0..10_000).step_by(10) {
                if now % 1_000 == 0 {
                    workers[1].event(Event::Vrrp(Advert {
                        port: PortId(0),
                        source: "192.0.2.3".parse().unwrap(),
                        vrid: 10,
                        priority: 100,
                        interval_cs: 100,
                        addresses: 1,
                    }));
                }
                state.tick(now);
                for command in workers[0].commands().iter().chain(&workers[1].commands()) {
                    if let Command::Masters(now) = command {
                        masters = now.0;
                    }
                }
            }
            assert_eq!(masters == 1, takes, "{synced} synced, {lacking} lacking, {unsynced}");
        }
    }

    #[test]
    fn what_is_on_its_way_when_the_peer_has_taken_over_is_waited_for() {
        let (handles, mut workers) = testing::workers(1);
        let (mut state, snapshot) = of_a_pair(testing::config(), handles);
        state.join_pair(&PairConfig::new(&snapshot, vec![200]), 7);
        for now in (0..8_000).step_by(10) {
            state.tick(now);
            workers[0].commands();
        }
        workers[0].counters.sync.peer_alive.set(1);
        assert!(state.hand_over(8_000));
        workers[0].event(Event::Vrrp(Advert {
            port: PortId(0),
            source: "192.0.2.3".parse().unwrap(),
            vrid: 10,
            priority: 100,
            interval_cs: 100,
            addresses: 1,
        }));
        for now in (8_100..8_600).step_by(10) {
            state.tick(now);
            assert!(!state.is_handed_over(), "at {now}");
        }
        state.tick(8_600);
        assert!(state.is_handed_over());
    }

    #[test]
    fn a_node_without_a_peer_that_is_there_does_not_wait_for_it() {
        // What may be there and is silent; and a peer that is about to stop as well.
        for (silent, leaving) in [(false, false), (true, false), (false, true)] {
            let (handles, mut workers) = testing::workers(1);
            let (mut state, snapshot) = of_a_pair(testing::config(), handles);
            let config = PairConfig {
                preempt_unsynced: silent,
                advert_interval_ms: 10_000,
                ..PairConfig::new(&snapshot, vec![200])
            };
            state.join_pair(&config, 7);
            for now in (0..50_000).step_by(10) {
                state.tick(now);
                workers[0].commands();
            }
            let sync = &workers[0].counters.sync;
            sync.peer_alive.set(u64::from(leaving));
            sync.peer_flags.set(2 * u64::from(leaving));
            assert!(state.hand_over(50_000));
            state.tick(50_001);
            assert_eq!(state.is_handed_over(), !silent);
            state.tick(60_500);
            assert!(state.is_handed_over());
            state.leave();
            let last = workers[0].commands();
            assert!(
                matches!(&last[..], [.., Command::Masters(Masters(0)), Command::Leave]),
                "{last:?}"
            );
        }
    }

    #[test]
    fn a_tracked_service_counts_from_its_first_verdict_on() {
        let (handles, mut workers) = testing::workers(1);
        let (mut state, snapshot) = of_a_pair(testing::config(), handles);
        let config = PairConfig {
            track_services: vec![ServiceId(0), ServiceId(1)],
            ..PairConfig::new(&snapshot, vec![200])
        };
        state.join_pair(&config, 7);
        workers[0].counters.sync.peer_alive.set(1);
        workers[0].counters.sync.buckets_owned.set(128);
        workers[0].counters.sync.buckets_synced.set(128);
        let mut group = |state: &mut State, now: u64| {
            for now in [now, now + TRACK_MS] {
                state.tick(now);
                workers[0].commands();
            }
            let view = state.pair.as_ref().unwrap().view(now);
            let group = view.groups.into_iter().next().unwrap();
            (group.effective, group.reason, group.drops.len())
        };
        let result = |n, good| CheckResult {
            server: ServerId(n),
            outcome: if good { Ok(Duration::from_millis(1)) } else { Err("refused".into()) },
        };
        // Nothing is known of either server of the first.
        let waits = "waits for the first health checks";
        assert_eq!(group(&mut state, 0), (200, waits, 0));
        state.checked(&result(0, false));
        assert_eq!(group(&mut state, 500), (200, waits, 0), "the other one may be up");
        state.checked(&result(1, false));
        let (effective, _, drops) = group(&mut state, 1_000);
        assert_eq!((effective, drops), (150, 1));
        for _ in 0..2 {
            state.checked(&result(1, true));
        }
        let (effective, _, drops) = group(&mut state, 1_500);
        assert_eq!((effective, drops), (200, 0));
    }

    #[test]
    fn a_node_of_an_active_pair_tells_that_it_leaves() {
        let (handles, mut workers) = testing::workers(1);
        let snapshot = Arc::new(testing::paired_snapshot());
        let (mut state, _) =
            State::new(testing::config(), snapshot, handles, testing::port_views());
        workers[0].counters.sync.peer_alive.set(1);
        assert!(state.hand_over(0));
        state.tick(499);
        assert!(!state.is_handed_over());
        state.tick(500);
        assert!(state.is_handed_over());
        state.leave();
        assert!(workers[0].commands().iter().any(|c| matches!(c, Command::Leave)));
    }

    #[test]
    fn retired_snapshots_are_freed() {
        let (mut state, mut workers) = state();
        let first = Arc::clone(&state.snapshot);
        state.tick(0);
        assert_eq!(Arc::strong_count(&first), 1, "replaced by the one with servers down");
        for worker in &mut workers {
            worker.event(Event::Retired(Arc::clone(&first)));
        }
        assert_eq!(Arc::strong_count(&first), 3);
        state.tick(1);
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn a_worker_that_ended_is_found() {
        let (state, mut workers) = state();
        assert_eq!(state.gone_worker(), None);
        workers.pop();
        assert_eq!(state.gone_worker(), Some(1));
    }

    #[test]
    fn rates_are_sampled_once_a_second() {
        let (mut state, workers) = state();
        state.tick(0);
        workers[1].counters.rx.add(500);
        state.tick(999);
        assert_eq!(state.rates.workers.get(WORKER_RATES), 0);
        state.tick(1_000);
        assert_eq!(state.rates.workers.get(WORKER_RATES), 500);
        state.tick(2_000);
        assert_eq!(state.rates.workers.get(WORKER_RATES), 0);
    }
}
