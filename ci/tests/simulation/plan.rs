//! What a seed stands for: the pair, its services, its clients, and what goes wrong when.

use shunt::datapath::policy::{MidStream, OnServerDown, Policy};
use shunt::datapath::snapshot::{Introduction, Timeouts};
use shunt::sched::SchedulerKind;
use shunt::session::Mode;

use crate::random::Random;

/// When clients begin, in milliseconds.
pub const TRAFFIC_MS: u64 = 2_000;

/// Short ones, so that little time has to pass for all states.
pub const TIMEOUTS: Timeouts = Timeouts {
    tcp_syn: 2_000,
    tcp_established: 4_000,
    tcp_fin: 1_000,
    udp: 3_000,
    tcp_syn_received: 2_000,
    tcp_fin_wait: 3_000,
    tcp_time_wait: 1_000,
    tcp_close: 1_000,
};

/// What a wire does to frames, in thousandths and milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    pub loss: u64,
    pub duplicates: u64,
    /// Frames are late by up to so much, each by another time: they overtake each other.
    pub jitter: u64,
}

impl Wire {
    pub const GOOD: Wire = Wire { loss: 0, duplicates: 0, jitter: 0 };
}

/// Something that happens to the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node is gone from one moment to the next.
    Crash(usize),
    /// It says that it stops, and stops after so many milliseconds.
    Leave(usize, u64),
    /// It starts, with another number of workers.
    Start(usize, usize),
    /// It stands still for so many milliseconds and goes on.
    Freeze(usize, u64),
    /// What this node sends does not reach the other, until [`Action::Join`].
    Cut(usize),
    Join(usize),
    /// A server goes down or comes up, as this node sees it.
    Server(usize, usize, bool),
    /// The configuration of this node is changed.
    Change(usize, Change),
    /// The node gets other keys: [`KEYS`] of this number.
    Keys(usize, usize),
}

/// A change of a node's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A server gets another weight; with 0 it is drained.
    Weight(usize, u16),
    Scheduler(SchedulerKind),
}

/// What may be changed of a node's configuration, and what it finds of its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub down: Vec<bool>,
    pub weights: Vec<u16>,
    pub scheduler: SchedulerKind,
}

impl Settings {
    pub fn of(plan: &Plan) -> Self {
        Settings {
            down: vec![false; plan.servers],
            weights: vec![1; plan.servers],
            scheduler: plan.scheduler,
        }
    }

    pub fn change(&mut self, change: Change) {
        match change {
            Change::Weight(server, weight) => self.weights[server] = weight,
            Change::Scheduler(scheduler) => self.scheduler = scheduler,
        }
    }
}

/// How keys are changed: each is what one node may have while the other has the one before or behind.
pub const KEYS: [&str; 4] = [
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
     ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
     00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
];

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub mode: Mode,
    pub v6: bool,
    pub introduction: Introduction,
    /// Handshakes with clients are the nodes'.
    pub syn_proxy: bool,
    /// A client stays with its server.
    pub persistence: bool,
    pub workers: [usize; 2],
    /// Packets come to either node, each to another one.
    pub active_active: bool,
    pub virtual_mac: bool,
    pub scheduler: SchedulerKind,
    pub policy: Policy,
    pub servers: usize,
    /// TCP connections and UDP flows.
    pub connections: usize,
    pub datagrams: usize,
    /// How many of the connections last until the end.
    pub lasting: usize,
    /// Between the nodes; between them and hosts.
    pub between: Wire,
    pub hosts: Wire,
    /// The time that a frame takes, in milliseconds.
    pub latency: u64,
    /// Workers do not keep up: what is to be done in a millisecond is done by and by.
    pub slow: bool,
    pub script: Vec<(u64, Action)>,
    /// From here on all is well.
    pub heal_at: u64,
}

impl Plan {
    /// Nothing goes wrong.
    pub fn plain(seed: u64, mode: Mode) -> Self {
        Plan {
            seed,
            mode,
            v6: false,
            introduction: Introduction::None,
            syn_proxy: false,
            persistence: false,
            workers: [1, 1],
            active_active: false,
            virtual_mac: true,
            scheduler: SchedulerKind::Wrr,
            policy: Policy {
                mid_stream: MidStream::Reset,
                reset_on_expiry: true,
                on_server_down: OnServerDown::Keep,
                ..Policy::default()
            },
            servers: 3,
            connections: 12,
            datagrams: if mode == Mode::Dr { 0 } else { 4 },
            lasting: 4,
            between: Wire::GOOD,
            hosts: Wire::GOOD,
            latency: 0,
            slow: false,
            script: Vec::new(),
            heal_at: 5_000,
        }
    }

    /// What this seed stands for.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let r = &mut random;
        let mode = r.pick(&[Mode::Nat, Mode::FullNat, Mode::FullNat, Mode::Dr]);
        let mut plan = Plan::plain(seed, mode);
        plan.v6 = r.chance(400);
        if mode == Mode::FullNat && r.chance(400) {
            plan.introduction = r.pick(&[Introduction::ProxyV1, Introduction::ProxyV2]);
        }
        let may_proxy = mode != Mode::Dr && plan.introduction == Introduction::None;
        plan.syn_proxy = may_proxy && r.chance(300);
        plan.persistence = r.chance(150);
        plan.workers = [r.pick(&[1, 1, 2, 3]), r.pick(&[1, 1, 2, 3])];
        plan.active_active = r.chance(400);
        plan.virtual_mac = r.chance(600);
        plan.scheduler = r.pick(&SchedulerKind::ALL);
        plan.policy.mid_stream = r.pick(&[MidStream::Reset, MidStream::Reset, MidStream::Drop]);
        plan.policy.reset_on_expiry = r.chance(700);
        plan.servers = r.between(2, 4) as usize;
        plan.connections = r.between(6, 24) as usize;
        plan.lasting = r.between(2, 5) as usize;
        plan.latency = r.below(3) / 2;
        plan.slow = r.chance(250);
        let wire = |r: &mut Random| Wire {
            loss: r.pick(&[0, 0, 20, 100, 300]),
            duplicates: r.pick(&[0, 0, 50, 200]),
            jitter: r.pick(&[0, 0, 2, 20]),
        };
        if r.chance(500) {
            plan.between = wire(r);
        }
        if r.chance(400) {
            plan.hosts = wire(r);
        }
        plan.write_script(r);
        plan
    }

    fn write_script(&mut self, r: &mut Random) {
        let mut at = TRAFFIC_MS + 500;
        for _ in 0..r.between(0, 3) {
            at += r.between(10, 2_500);
            let node = r.below(2) as usize;
            let for_ms = r.pick(&[5, 30, 400, 2_000, 4_000, 7_000]);
            let for_ms = r.between(1, for_ms);
            let end = at + for_ms;
            let workers = r.between(1, 3) as usize;
            match r.below(10) {
                0..4 => {
                    self.script.push((at, Action::Crash(node)));
                    self.script.push((end, Action::Start(node, workers)));
                }
                4 => {
                    let stop = r.between(1, 300);
                    self.script.push((at, Action::Leave(node, stop)));
                    self.script.push((end + stop, Action::Start(node, workers)));
                }
                5 => self.script.push((at, Action::Freeze(node, for_ms))),
                6..8 => {
                    self.script.push((at, Action::Cut(node)));
                    self.script.push((end, Action::Join(node)));
                }
                8 => {
                    self.script.push((at, Action::Cut(0)));
                    self.script.push((at, Action::Cut(1)));
                    self.script.push((end, Action::Join(0)));
                    self.script.push((end, Action::Join(1)));
                }
                _ => {
                    let server = r.below(self.servers as u64) as usize;
                    for node in 0..2 {
                        let (down, up) = (at + r.below(50), end + r.below(50));
                        self.script.push((down, Action::Server(node, server, false)));
                        self.script.push((up.max(down + 1), Action::Server(node, server, true)));
                    }
                }
            }
            // At times one comes after the other, at times all at once.
            if r.chance(700) {
                at = end;
            }
        }
        if r.chance(200) {
            let mut at = TRAFFIC_MS;
            for keys in 1..KEYS.len() {
                for node in 0..2 {
                    at += r.between(1, 400);
                    self.script.push((at, Action::Keys(node, keys)));
                }
            }
        }
        if r.chance(300) {
            self.change_configurations(r);
        }
        self.script.sort_by_key(|(at, _)| *at);
        let last = self.script.last().map_or(at, |(at, action)| match action {
            Action::Freeze(_, ms) | Action::Leave(_, ms) => at + ms,
            _ => *at,
        });
        self.heal_at = last.max(at) + 500;
    }

    /// One node gets each change some time before the other.
    fn change_configurations(&mut self, r: &mut Random) {
        let loses_servers =
            self.script.iter().any(|(_, action)| matches!(action, Action::Server(..)));
        // One that takes sessions is always left.
        let least = u64::from(loses_servers);
        let mut at = TRAFFIC_MS + r.below(1_000);
        for _ in 0..r.between(1, 4) {
            let change = match r.chance(600) {
                true => Change::Weight(
                    r.below(self.servers as u64 - 1) as usize,
                    r.between(least, 3) as u16,
                ),
                false => Change::Scheduler(r.pick(&SchedulerKind::ALL)),
            };
            let first = r.below(2) as usize;
            for node in [first, 1 - first] {
                at += r.between(1, 500);
                self.script.push((at, Action::Change(node, change)));
            }
        }
    }
}
