//! The virtual routers of this node.

use std::net::IpAddr;

use log::Level;

use super::announce::{self, Addresses, Outgoing, WirePort};
use super::config::PairConfig;
use super::drops::Drops;
use super::joining::Joining;
use super::source::Sources;
use super::strangers::Strangers;
use super::view::{GroupView, PairView};
use crate::datapath::ha::Masters;
use crate::datapath::notice;
use crate::datapath::snapshot::{PortId, Snapshot};
use crate::session::ServiceId;
use crate::vrrp::{self, Machine, Reason, State};

/// Milliseconds for what is on its way to this node when the peer has become master. A peer that is told
/// to waits for less than an interval (Skew_Time) before it does.
const ON_THE_WAY_MS: u64 = 500;

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
    /// The other router that is master, by its last advert.
    master: Option<OtherMaster>,
    sent: u64,
    heard: u64,
    ignored: u64,
}

/// Another router that is master.
#[derive(Clone, Copy, Debug)]
struct OtherMaster {
    address: IpAddr,
    heard_ms: u64,
    interval_ms: u32,
}

impl Router {
    /// The other router that is master and not silent for too long.
    fn other_master(&self, now_ms: u64) -> Option<OtherMaster> {
        self.master.filter(|other| now_ms < other.heard_ms + self.machine.master_down_ms())
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
    advert_interval_ms: u32,
    now_ms: u64,
    joining: Joining,
    masters: Masters,
    strangers: Strangers,
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
            advert_interval_ms: config.advert_interval_ms,
            now_ms,
            joining: Joining::new(config, now_ms),
            masters: Masters::default(),
            strangers: Strangers::default(),
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
            self.strangers.count(now_ms, advert.source, advert.vrid, false);
            return;
        };
        let router = &mut self.routers[index];
        if !self.sources.is_peer(advert.source) {
            router.ignored += 1;
            self.strangers.count(now_ms, advert.source, advert.vrid, true);
            if self.sources.is_news(now_ms, advert.port) {
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
        let interval_ms = u32::from(advert.interval_cs) * 10;
        router.machine.handle(
            now_ms,
            &vrrp::Advert {
                priority: advert.priority,
                interval_ms,
                wins_ties: self.peer_wins_ties,
            },
        );
        let is_master = router.machine.state() == State::Master;
        let master = (advert.priority != 0 && !is_master).then_some(OtherMaster {
            address: advert.source,
            heard_ms: now_ms,
            interval_ms,
        });
        self.collect();
        self.routers[index].master = master;
        if master.is_some() {
            self.give_up(index);
        }
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
        self.joining.synced = synced;
    }

    /// Whether this node has all sessions of the peer but those that it could not take in. As long as
    /// that is so it takes over from nobody but from a master that is gone, unless the configuration says
    /// that it does without them.
    pub fn set_lacking(&mut self, lacking: bool) {
        self.joining.lacking = lacking;
    }

    /// Whether the health of every server that is checked is known; it is unless this is said.
    pub fn set_servers_known(&mut self, known: bool) {
        self.joining.servers_known = known;
    }

    /// The interval of the adverts of another router that is master, in milliseconds, while one is heard:
    /// one that is not our own rather than another.
    pub fn other_interval_ms(&self) -> Option<u32> {
        let heard = self.routers.iter().filter_map(|router| router.other_master(self.now_ms));
        heard.map(|other| other.interval_ms).max_by_key(|ms| *ms != self.advert_interval_ms)
    }

    /// Whether the peer is heard on the channel.
    pub fn set_peer_heard(&mut self, heard: bool) {
        self.joining.set_peer_heard(heard);
    }

    /// The addresses of the peer's ports, link-local ones included
    /// ([`crate::wire::vrrp::link_local`]); empty when they are not known.
    pub fn set_peer_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.sources.set(addresses);
    }

    /// Leaves mastership for good: the node is about to stop. It goes on answering for the addresses
    /// until the peer is heard to do so, or until [`Pair::end`]: packets for them come here so long, and
    /// nobody else would forward them.
    pub fn leave(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for router in &mut self.routers {
            router.machine.leave(now_ms);
        }
        self.collect();
    }

    /// Whether the peer may be there though it is not heard on the channel: a backup is silent, and one
    /// that is not Shunt has no sessions to tell of.
    pub fn has_silent_peer(&self) -> bool {
        self.joining.preempt_unsynced()
    }

    /// For how many milliseconds at most from [`Pair::leave`] to [`Pair::end`] a peer that is there may
    /// need this node.
    pub fn hand_over_ms(&self) -> u64 {
        u64::from(self.advert_interval_ms) + ON_THE_WAY_MS
    }

    /// Answers for no address any more, whether there is a peer or not.
    pub fn end(&mut self) {
        if self.masters != Masters::default() {
            self.masters = Masters::default();
            self.actions.push(Action::Masters(self.masters));
        }
    }

    /// What has to be done, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// The groups whose addresses this node answers for.
    pub fn masters(&self) -> Masters {
        self.masters
    }

    /// What `shunt ha` shows.
    pub fn view(&self, now_ms: u64) -> PairView {
        let hears_master = self.hears_master();
        let joining = self.joining.is_joining(self.now_ms, hears_master);
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
                reason: if waits { self.joining.waits_for(hears_master) } else { reason.text() },
                master: if is_master {
                    Some(self.own)
                } else {
                    router.master.map(|other| other.address)
                },
                sent: router.sent,
                heard: router.heard,
                ignored: router.ignored,
            }
        });
        PairView {
            groups: groups.collect(),
            joining,
            strangers: self.strangers.list(|source| self.sources.is_peer(source)),
            other_strangers: self.strangers.others(),
        }
    }

    /// Whether another router is master of one of the groups.
    fn hears_master(&self) -> bool {
        self.routers.iter().any(|router| router.other_master(self.now_ms).is_some())
    }

    fn hold(&mut self) {
        let joining = self.joining.hold(self.now_ms, self.hears_master());
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
        router.master = None;
        match (state, reason) {
            (State::Master, _) => self.masters.0 |= bit,
            // Until the peer has taken over.
            (State::Backup, Reason::Left) => {}
            (State::Backup, _) => self.masters.0 &= !bit,
        }
        if reason != Reason::Left {
            self.actions.push(Action::Masters(self.masters));
        }
        let line = format!("VRRP group {}: {name}: {}", router.vrid, reason.text());
        self.actions.push(Action::Log(level, line));
    }

    /// The peer is master of a group: if this node still answers for its addresses, which it has left,
    /// it does so no more.
    fn give_up(&mut self, index: usize) {
        let bit = 1 << index;
        if self.masters.0 & bit == 0 {
            return;
        }
        self.masters.0 &= !bit;
        self.actions.push(Action::Masters(self.masters));
        let vrid = self.routers[index].vrid;
        let line = format!("VRRP group {vrid}: the peer answers for its addresses");
        self.actions.push(Action::Log(Level::Info, line));
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
