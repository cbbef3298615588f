//! The virtual routers of this node.

use std::net::IpAddr;

use log::Level;

use super::announce::{self, Addresses, Outgoing, WirePort};
use super::drops::Drops;
use super::source::Sources;
use super::view::{GroupView, PairView};
use crate::datapath::ha::Masters;
use crate::datapath::notice;
use crate::datapath::snapshot::{PortId, Snapshot};
use crate::session::ServiceId;
use crate::vrrp::{self, Machine, Reason, State};

/// For how many milliseconds from the start a node counts as joining though it has not heard the
/// peer: it may not have had the time to. At least as long as a master may be silent.
const GRACE_MS: u64 = 5_000;

/// What the configuration says of the pair beyond the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairConfig {
    /// The priority of each group, 1 to 254, by index in [`crate::datapath::ha::Ha::groups`].
    pub priorities: Vec<u8>,
    /// Milliseconds from one advert to the next: 10 to 40,950, a multiple of 10.
    pub advert_interval_ms: u32,
    /// Whether to take over from a master of lower priority.
    pub preempt: bool,
    /// For how many milliseconds to leave such a master alone.
    pub preempt_delay_ms: u64,
    /// Whether to do so, too, when nothing was ever heard of that master on the channel.
    pub preempt_unsynced: bool,
    /// The ports whose link counts.
    pub track_ports: Vec<PortId>,
    /// What each of them without a link takes off the priority.
    pub port_drop: u8,
    /// The services whose health counts.
    pub track_services: Vec<ServiceId>,
    /// What each of them without a server takes off the priority.
    pub service_drop: u8,
}

impl PairConfig {
    /// The defaults, for groups of these priorities; every wire port that has addresses is tracked.
    pub fn new(snapshot: &Snapshot, priorities: Vec<u8>) -> Self {
        let ports = announce::wire_ports(snapshot);
        PairConfig {
            priorities,
            advert_interval_ms: 1000,
            preempt: true,
            preempt_delay_ms: 0,
            preempt_unsynced: false,
            track_ports: ports.iter().filter(|p| p.has_addresses()).map(|p| p.id()).collect(),
            port_drop: 255,
            track_services: Vec::new(),
            service_drop: 50,
        }
    }
}

/// What the owner of a [`Pair`] has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a frame.
    Transmit {
        /// The port to send it by.
        port: PortId,
        /// The frame, from the Ethernet header on.
        frame: Vec<u8>,
    },
    /// Tell every worker which groups' addresses to answer for.
    Masters(Masters),
    /// Log a line.
    Log(Level, String),
}

#[derive(Debug)]
struct Router {
    vrid: u8,
    priority: u8,
    machine: Machine,
    addresses: Addresses,
    /// The other router that is master, by its last advert, and when that came.
    master: Option<(IpAddr, u64)>,
    sent: u64,
    heard: u64,
    ignored: u64,
}

impl Router {
    /// Whether another router is master and not silent for too long.
    fn hears_master(&self, now_ms: u64) -> bool {
        self.master.is_some_and(|(_, then)| now_ms < then + self.machine.master_down_ms())
    }
}

/// The virtual routers of this node. Times are in milliseconds; none of them may be before the last.
#[derive(Debug)]
pub struct Pair {
    routers: Vec<Router>,
    ports: Vec<WirePort>,
    drops: Drops,
    sources: Sources,
    /// Our own address on the channel.
    own: IpAddr,
    peer_wins_ties: bool,
    preempt_unsynced: bool,
    /// Until when a silent peer may just not have had the time to speak.
    grace_until_ms: u64,
    now_ms: u64,
    synced: bool,
    peer_heard: bool,
    /// Whether the peer was ever heard on the channel.
    peer_was_heard: bool,
    /// Whether this node has ever had all sessions, or found that there was nobody to have them from.
    was_free: bool,
    masters: Masters,
    other_routers: u64,
    actions: Vec<Action>,
}

impl Pair {
    /// All groups of the snapshot, as backup. `None` when the snapshot has no pair.
    pub fn new(config: &PairConfig, snapshot: &Snapshot, now_ms: u64) -> Option<Self> {
        let ha = snapshot.ha.as_deref()?;
        let routers = ha.groups.iter().zip(0u8..).map(|(group, index)| {
            let priority = config.priorities.get(usize::from(index)).copied().unwrap_or(100);
            let machine = vrrp::Config {
                priority,
                advert_interval_ms: config.advert_interval_ms,
                preempt: config.preempt,
                preempt_delay_ms: config.preempt_delay_ms,
            };
            Router {
                vrid: group.vrid,
                priority,
                machine: Machine::new(machine, now_ms),
                addresses: Addresses::new(snapshot, ha, index, *group),
                master: None,
                sent: 0,
                heard: 0,
                ignored: 0,
            }
        });
        let mut pair = Pair {
            routers: routers.collect(),
            ports: announce::wire_ports(snapshot),
            drops: Drops::new(config, snapshot),
            sources: Sources::new(ha.channel.peer, ha.channel.port),
            own: ha.channel.source,
            peer_wins_ties: ha.channel.peer > ha.channel.source,
            preempt_unsynced: config.preempt_unsynced,
            grace_until_ms: now_ms + GRACE_MS.max(4 * u64::from(config.advert_interval_ms)),
            now_ms,
            synced: false,
            peer_heard: false,
            peer_was_heard: false,
            was_free: false,
            masters: Masters::default(),
            other_routers: 0,
            actions: vec![Action::Masters(Masters::default())],
        };
        pair.hold();
        pair.warn_of_silence();
        Some(pair)
    }

    /// Lets the time pass. Call it at least ten times in an advertisement interval.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for router in &mut self.routers {
            router.machine.tick(now_ms);
        }
        self.collect();
        // Who has just taken over from a master that is gone hears none any more.
        self.hold();
    }

    /// Takes in an advert that was heard and is formally right.
    pub fn heard(&mut self, now_ms: u64, advert: &notice::Advert) {
        self.now_ms = now_ms;
        let Some(index) = self.routers.iter().position(|r| r.vrid == advert.vrid) else {
            self.other_routers += 1;
            return;
        };
        let router = &mut self.routers[index];
        if !self.sources.is_peer(advert.source) {
            router.ignored += 1;
            if self.sources.ignore(now_ms, advert.port) {
                self.actions.push(Action::Log(
                    Level::Warn,
                    format!(
                        "VRRP: adverts for group {} from {}, which is not the peer, are ignored",
                        advert.vrid, advert.source
                    ),
                ));
            }
            return;
        }
        router.heard += 1;
        router.machine.handle(
            now_ms,
            &vrrp::Advert {
                priority: advert.priority,
                interval_ms: u32::from(advert.interval_cs) * 10,
                wins_ties: self.peer_wins_ties,
            },
        );
        let is_master = router.machine.state() == State::Master;
        let master = (advert.priority != 0 && !is_master).then_some((advert.source, now_ms));
        self.collect();
        self.routers[index].master = master;
    }

    /// Takes the state of a port's link in.
    pub fn set_link(&mut self, now_ms: u64, port: PortId, up: bool) {
        self.now_ms = now_ms;
        if !self.drops.set_link(port, up) {
            return;
        }
        self.reconsider();
        // A switch that was away has learnt nothing.
        for index in 0..self.routers.len() {
            if up && self.routers[index].machine.state() == State::Master {
                self.announce(index, Some(port));
            }
        }
    }

    /// Takes the health of a service in: up when some server of it is.
    pub fn set_service_up(&mut self, now_ms: u64, service: ServiceId, up: bool) {
        self.now_ms = now_ms;
        if self.drops.set_service(service, up) {
            self.reconsider();
        }
    }

    /// The services whose health counts.
    pub fn tracked_services(&self) -> Vec<ServiceId> {
        self.drops.services().collect()
    }

    /// Whether this node has all sessions of the peer.
    pub fn set_synced(&mut self, synced: bool) {
        self.synced = synced;
    }

    /// Whether the peer is heard on the channel.
    pub fn set_peer_heard(&mut self, heard: bool) {
        self.peer_heard = heard;
        self.peer_was_heard |= heard;
    }

    /// The addresses of the peer's ports, link-local ones included
    /// ([`crate::wire::vrrp::link_local`]); empty when they are not known.
    pub fn set_peer_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.sources.set(addresses);
    }

    /// Leaves mastership for good: the node is about to stop.
    pub fn leave(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for router in &mut self.routers {
            router.machine.leave(now_ms);
        }
        self.collect();
    }

    /// What has to be done, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// The groups this node is master of.
    pub fn masters(&self) -> Masters {
        self.masters
    }

    /// What `shunt ha` shows.
    pub fn view(&self, now_ms: u64) -> PairView {
        let joining = self.is_joining();
        let groups = self.routers.iter().map(|router| {
            let (reason, since_ms) = router.machine.since();
            let is_master = router.machine.state() == State::Master;
            let waits = joining && !is_master && router.machine.priority() != 0;
            let state = match router.machine.state() {
                State::Master => "master",
                State::Backup if router.machine.priority() == 0 => "fault",
                State::Backup if waits => "joining",
                State::Backup => "backup",
            };
            GroupView {
                vrid: router.vrid,
                state,
                addresses: router.addresses.len(),
                priority: router.priority,
                effective: router.machine.priority(),
                drops: self.drops.reasons(),
                since_ago_ms: now_ms.saturating_sub(since_ms),
                reason: if waits { self.waits_for() } else { reason.text() },
                master: if is_master { Some(self.own) } else { router.master.map(|(m, _)| m) },
                sent: router.sent,
                heard: router.heard,
                ignored: router.ignored,
            }
        });
        PairView {
            groups: groups.collect(),
            joining,
            other_routers: self.other_routers,
            ignored_source: self.sources.ignored,
        }
    }

    /// Whether this node lacks sessions that the peer has, or may have.
    fn is_joining(&self) -> bool {
        let begins = || self.now_ms < self.grace_until_ms || self.hears_sessions();
        !self.synced && (self.peer_heard || !self.was_free && begins())
    }

    /// Whether a master is heard that has sessions, though perhaps nothing of it on the channel.
    fn hears_sessions(&self) -> bool {
        (self.peer_was_heard || !self.preempt_unsynced)
            && self.routers.iter().any(|router| router.hears_master(self.now_ms))
    }

    /// Why a joining node takes over from nobody.
    fn waits_for(&self) -> &'static str {
        match self.peer_heard {
            true => "waits for the sessions of the peer",
            false if self.hears_sessions() => {
                "a master is heard, but nothing of its sessions: the channel is silent"
            }
            false => "has just started, listens for the peer",
        }
    }

    fn hold(&mut self) {
        let joining = self.is_joining();
        self.was_free |= !joining;
        for router in &mut self.routers {
            router.machine.hold(joining);
        }
    }

    /// Gives the machines what is left of their priorities.
    fn reconsider(&mut self) {
        for router in &mut self.routers {
            let (before, now) = (router.machine.priority(), self.drops.effective(router.priority));
            if before != now {
                let why = match self.drops.reasons() {
                    reasons if reasons.is_empty() => "all that is tracked is up".to_owned(),
                    reasons => reasons.join("; "),
                };
                let level = if now < before { Level::Warn } else { Level::Info };
                let line = format!("VRRP group {}: priority {before} -> {now}: {why}", router.vrid);
                self.actions.push(Action::Log(level, line));
            }
            router.machine.set_priority(self.now_ms, now);
        }
        self.collect();
    }

    /// Carries out what the machines want.
    fn collect(&mut self) {
        for index in 0..self.routers.len() {
            let wanted: Vec<vrrp::Action> = self.routers[index].machine.drain().collect();
            for action in wanted {
                match action {
                    vrrp::Action::Send { priority, interval_ms } => {
                        let router = &mut self.routers[index];
                        let before = self.actions.len();
                        let frames = router.addresses.adverts(&self.ports, priority, interval_ms);
                        self.actions.extend(frames.map(transmit));
                        router.sent += (self.actions.len() - before) as u64;
                    }
                    vrrp::Action::Become(state, reason) => self.become_(index, state, reason),
                    vrrp::Action::Announce => self.announce(index, None),
                }
            }
        }
    }

    fn become_(&mut self, index: usize, state: State, reason: Reason) {
        let router = &mut self.routers[index];
        let bit = 1 << index;
        let (name, level) = match (state, reason) {
            (State::Master, _) => ("master", Level::Info),
            (State::Backup, Reason::Fault | Reason::ClockJump) => ("backup", Level::Warn),
            (State::Backup, _) => ("backup", Level::Info),
        };
        match state {
            State::Master => self.masters.0 |= bit,
            State::Backup => self.masters.0 &= !bit,
        }
        router.master = None;
        self.actions.push(Action::Masters(self.masters));
        let line = format!("VRRP group {}: {name}: {}", router.vrid, reason.text());
        self.actions.push(Action::Log(level, line));
    }

    fn announce(&mut self, index: usize, only: Option<PortId>) {
        let addresses = &self.routers[index].addresses;
        self.actions.extend(addresses.announcements(&self.ports, only).map(transmit));
    }

    /// Says which groups cannot be heard.
    fn warn_of_silence(&mut self) {
        for router in &self.routers {
            if router.addresses.adverts(&self.ports, 1, 1000).next().is_none() {
                let line = format!(
                    "VRRP group {}: no port has an address of the family of its addresses, so no \
                     advert can be sent; mend: add one to addresses of a port",
                    router.vrid
                );
                self.actions.push(Action::Log(Level::Error, line));
            }
        }
    }
}

fn transmit((port, frame): Outgoing) -> Action {
    Action::Transmit { port, frame }
}
