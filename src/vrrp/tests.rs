//! The rows of the state table one by one, and two nodes in virtual time.

use super::{Action, Advert, Config, Machine, Reason, State};

const CONFIG: Config =
    Config { priority: 100, advert_interval_ms: 1000, preempt: true, preempt_delay_ms: 0 };
/// Master_Down_Interval at priority 100: 3 s and 156/256 s.
const DOWN: u64 = 3_609;
const SKEW: u64 = 609;

const fn send(priority: u8) -> Action {
    Action::Send { priority, interval_ms: 1000 }
}

const fn advert(priority: u8) -> Advert {
    Advert { priority, interval_ms: 1000, wins_ties: false }
}

const fn tie() -> Advert {
    Advert { priority: 100, interval_ms: 1000, wins_ties: true }
}

fn to_master(reason: Reason) -> [Action; 3] {
    [Action::Become(State::Master, reason), send(100), Action::Announce]
}

fn to_backup(reason: Reason) -> [Action; 1] {
    [Action::Become(State::Backup, reason)]
}

fn done(machine: &mut Machine) -> Vec<Action> {
    machine.drain().collect()
}

/// Everything that happens up to and including `until`, with its time, in steps of 1 ms.
fn run(machine: &mut Machine, until: u64) -> Vec<(u64, Action)> {
    let mut all = Vec::new();
    for now in machine.now_ms() + 1..=until {
        machine.tick(now);
        all.extend(machine.drain().map(|action| (now, action)));
    }
    all
}

fn backup() -> Machine {
    Machine::new(CONFIG, 0)
}

/// Master since [`DOWN`], at 10 s.
fn master() -> Machine {
    let mut machine = backup();
    run(&mut machine, 10_000);
    assert_eq!(machine.state(), State::Master);
    machine
}

#[test]
fn a_backup_that_hears_nothing_becomes_master_and_announces_twice() {
    let mut m = backup();
    let [first, second, third] = to_master(Reason::MasterDown);
    assert_eq!(
        run(&mut m, DOWN + 3_000),
        [
            (DOWN, first),
            (DOWN, second),
            (DOWN, third),
            (DOWN + 1000, send(100)),
            (DOWN + 1000, Action::Announce),
            (DOWN + 2000, send(100)),
            (DOWN + 3000, send(100)),
        ]
    );
    assert_eq!(m.since(), (Reason::MasterDown, DOWN));
}

#[test]
fn the_better_router_waits_less() {
    for (priority, down) in [(254, 3_007), (200, 3_218), (100, DOWN), (1, 3_996)] {
        let m = Machine::new(Config { priority, ..CONFIG }, 0);
        assert_eq!(m.master_down_ms(), down);
    }
    let fast = Config { advert_interval_ms: 10, ..CONFIG };
    assert_eq!(Machine::new(fast, 0).master_down_ms(), 36);
    let slow = Config { advert_interval_ms: 40_950, ..CONFIG };
    assert_eq!(Machine::new(slow, 0).master_down_ms(), 3 * 40_950 + 24_953);
}

#[test]
fn backup_adverts() {
    // What is heard at 1 s, and when the wait is over and why.
    let no_preemption = Config { preempt: false, ..CONFIG };
    let delay = Config { preempt_delay_ms: 1, ..CONFIG };
    for (what, config, heard, over, reason) in [
        ("the master leaves", CONFIG, advert(0), 1000 + SKEW, Reason::MasterLeft),
        ("higher", CONFIG, advert(101), 1000 + DOWN, Reason::MasterDown),
        ("the same", CONFIG, advert(100), 1000 + DOWN, Reason::MasterDown),
        ("the same, larger address", CONFIG, tie(), 1000 + DOWN, Reason::MasterDown),
        ("lower", CONFIG, advert(99), DOWN, Reason::Preempted),
        ("lower, no preemption", no_preemption, advert(99), 1000 + DOWN, Reason::MasterDown),
        ("lower, not yet", delay, advert(99), 1000 + DOWN, Reason::MasterDown),
    ] {
        let mut m = Machine::new(config, 0);
        assert_eq!(run(&mut m, 999), []);
        m.handle(1000, &heard);
        let [first, ..] = to_master(reason);
        assert_eq!(run(&mut m, over)[0], (over, first), "{what}");
    }
}

#[test]
fn a_backup_learns_the_masters_interval() {
    let mut m = backup();
    m.handle(0, &Advert { priority: 200, interval_ms: 2000, wins_ties: false });
    assert_eq!(m.master_down_ms(), 6_000 + 1_218);
    m.handle(500, &advert(200));
    assert_eq!(m.master_down_ms(), DOWN);
    m.handle(500, &Advert { priority: 200, interval_ms: 0, wins_ties: false });
    assert!(m.master_down_ms() > 0);
}

#[test]
fn preemption_waits_its_delay_from_when_the_master_was_first_heard() {
    let mut m = Machine::new(Config { preempt_delay_ms: 10_000, ..CONFIG }, 0);
    let mut taken = None;
    for now in 0..30_000 {
        if now % 1000 == 500 && m.state() == State::Backup {
            m.handle(now, &advert(50));
        }
        m.tick(now);
        if taken.is_none() && m.state() == State::Master {
            taken = Some(now);
        }
    }
    // First heard at 500; left alone until 10,500, the last that counts is at 9,500.
    assert_eq!(taken, Some(9_500 + DOWN));
    assert_eq!(m.since().0, Reason::Preempted);
    // A master of higher priority in between makes the delay begin anew.
    let mut m = Machine::new(Config { preempt_delay_ms: 2_000, ..CONFIG }, 0);
    m.handle(0, &advert(50));
    m.handle(1_000, &advert(150));
    m.handle(2_500, &advert(50));
    assert_eq!(run(&mut m, 2_500 + DOWN - 1), []);
    assert_eq!(run(&mut m, 2_500 + DOWN)[0].1, to_master(Reason::MasterDown)[0]);
}

#[test]
fn master_adverts() {
    for (what, heard, expected) in [
        ("the other leaves", advert(0), &[send(100)][..]),
        ("lower", advert(99), &[send(100)]),
        ("the same, smaller address", advert(100), &[send(100)]),
        ("higher", advert(101), &to_backup(Reason::HigherPriority)),
        ("the same, larger address", tie(), &to_backup(Reason::LargerAddress)),
    ] {
        let mut m = master();
        m.handle(10_000, &heard);
        assert_eq!(done(&mut m), expected, "{what}");
        if m.state() == State::Backup {
            let [first, ..] = to_master(Reason::MasterDown);
            assert_eq!(run(&mut m, 10_000 + DOWN)[0], (10_000 + DOWN, first), "{what}");
        }
    }
}

#[test]
fn another_master_of_lower_priority_is_contradicted_now_and_then_and_at_the_end_hosts_are_told() {
    let mut m = master();
    for now in 10_000..11_000 {
        m.handle(now, &advert(50));
        m.tick(now);
    }
    let all = done(&mut m);
    assert_eq!(all, [send(100); 4]);
    let announced: Vec<u64> =
        run(&mut m, 15_000).iter().filter(|(_, a)| *a == Action::Announce).map(|a| a.0).collect();
    assert_eq!(announced, [11_000]);
}

#[test]
fn faults() {
    let mut m = master();
    m.set_priority(10_000, 40);
    assert_eq!(done(&mut m), [send(40)], "told at once");
    m.set_priority(10_000, 40);
    assert_eq!(done(&mut m), []);
    m.set_priority(10_001, 0);
    assert_eq!(done(&mut m), [send(0), to_backup(Reason::Fault)[0]]);
    assert_eq!(run(&mut m, 60_000), [], "it stays so");
    m.handle(60_000, &advert(0));
    assert_eq!(run(&mut m, 70_000), []);
    m.set_priority(70_000, 100);
    assert_eq!(run(&mut m, 70_000 + DOWN - 1), [], "listens first");
    assert_eq!(run(&mut m, 70_000 + DOWN)[0].1, to_master(Reason::MasterDown)[0]);

    let mut m = backup();
    m.set_priority(100, 0);
    assert_eq!(run(&mut m, 60_000), []);
}

#[test]
fn leaving() {
    let mut m = master();
    m.leave(10_000);
    assert_eq!(done(&mut m), [send(0), to_backup(Reason::Left)[0]]);
    m.set_priority(10_001, 0);
    m.set_priority(10_002, 200);
    assert_eq!(run(&mut m, 60_000), []);
    let mut m = backup();
    m.leave(0);
    assert_eq!(run(&mut m, 60_000), []);
}

#[test]
fn a_held_node_takes_over_from_nobody_but_from_a_master_that_is_gone() {
    let mut m = backup();
    m.hold(true);
    for now in 0..20_000 {
        if now % 1000 == 0 {
            m.handle(now, &advert(50));
        }
        m.tick(now);
    }
    assert_eq!(done(&mut m), []);
    // 19,000 was the last one.
    let [first, ..] = to_master(Reason::MasterDown);
    assert_eq!(
        run(&mut m, 19_000 + DOWN),
        [(19_000 + DOWN, first), (19_000 + DOWN, send(100)), (19_000 + DOWN, Action::Announce)]
    );
    // Its master comes back: that one has the sessions.
    m.handle(25_000, &advert(50));
    assert_eq!(done(&mut m), to_backup(Reason::Joining));
    // Once free, it preempts, and is no such yielder any more.
    m.hold(false);
    for now in 25_000..30_000 {
        if now % 1000 == 0 {
            m.handle(now, &advert(50));
        }
        m.tick(now);
    }
    assert_eq!(done(&mut m)[0], to_master(Reason::Preempted)[0]);
    m.hold(true);
    m.handle(30_000, &advert(50));
    assert_eq!(m.state(), State::Master);
}

#[test]
fn after_a_leap_of_the_clock_a_master_listens_first() {
    let leap = 3 * 1000 + 1000;
    let mut m = master();
    m.tick(10_000 + leap);
    assert_eq!(m.state(), State::Master, "late, but not so late");
    let mut m = master();
    m.tick(10_001 + leap);
    assert_eq!(done(&mut m), to_backup(Reason::ClockJump));
    let [first, ..] = to_master(Reason::MasterDown);
    assert_eq!(run(&mut m, 10_001 + leap + DOWN)[0], (10_001 + leap + DOWN, first));
    // An advert that comes first finds a backup too.
    let mut m = master();
    m.handle(100_000, &advert(50));
    assert_eq!(done(&mut m), to_backup(Reason::ClockJump));
    // A backup waits anew: what was said meanwhile is still in the queues.
    let mut m = backup();
    m.tick(3_000);
    m.tick(100_000);
    assert_eq!(run(&mut m, 100_000 + DOWN - 1), []);
    // Backwards there is no time.
    let mut m = master();
    m.tick(5);
    assert_eq!((done(&mut m), m.now_ms()), (vec![], 10_000));
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % below
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }
}

struct Node {
    machine: Machine,
    config: Config,
    /// Until when it is not there: the process ended (it begins anew), or stands still.
    away_until: Option<u64>,
    begins_anew: bool,
    fault: bool,
}

impl Node {
    fn runs(&self) -> bool {
        self.away_until.is_none()
    }
    fn is_master(&self) -> bool {
        self.runs() && self.machine.state() == State::Master
    }
}

/// Two nodes on one link, in steps of 5 ms.
struct World {
    random: Random,
    nodes: [Node; 2],
    /// When it arrives, where, and what.
    flight: Vec<(u64, usize, Advert)>,
    now: u64,
    loss: u64,
    delay: u64,
    parted: bool,
}

const STEP: u64 = 5;

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let interval = [10, 100, 300, 1000][random.next(4) as usize];
        // Mostly alike, as they should be configured.
        let intervals = if random.chance(70) { [interval; 2] } else { [interval, 2 * interval] };
        let preempt = random.chance(70);
        let preempt_delay_ms = if random.chance(50) { 0 } else { random.next(3_000) };
        let nodes = intervals.map(|advert_interval_ms| {
            let priority = [50, 100, 100, 254][random.next(4) as usize];
            let config = Config { priority, advert_interval_ms, preempt, preempt_delay_ms };
            let machine = Machine::new(config, 0);
            Node { machine, config, away_until: None, begins_anew: false, fault: false }
        });
        World { random, nodes, flight: Vec::new(), now: 0, loss: 0, delay: 1, parted: false }
    }

    /// Longer than Master_Down_Interval of either node may be.
    fn down(&self) -> u64 {
        let interval = self.nodes.iter().map(|n| n.config.advert_interval_ms).max().unwrap();
        4 * u64::from(interval) + 2 * STEP + self.delay
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        for node in &mut self.nodes {
            if node.away_until.is_some_and(|until| now >= until) {
                node.away_until = None;
                if node.begins_anew {
                    node.machine = Machine::new(node.config, now);
                    node.machine.hold(self.random.chance(50));
                    node.fault = false;
                }
            }
        }
        let (due, rest) = std::mem::take(&mut self.flight).into_iter().partition(|f| f.0 <= now);
        self.flight = rest;
        for (_, to, advert) in Vec::from_iter::<Vec<_>>(due) {
            if self.nodes[to].runs() {
                self.nodes[to].machine.handle(now, &advert);
            }
        }
        for from in 0..2 {
            if !self.nodes[from].runs() {
                continue;
            }
            self.nodes[from].machine.tick(now);
            let sent: Vec<Action> = self.nodes[from].machine.drain().collect();
            for action in sent {
                let Action::Send { priority, interval_ms } = action else { continue };
                if self.parted || self.random.chance(self.loss) {
                    continue;
                }
                let advert = Advert { priority, interval_ms, wins_ties: from == 1 };
                let at = now + 1 + self.random.next(self.delay);
                self.flight.push((at, 1 - from, advert));
            }
        }
    }

    fn masters(&self) -> usize {
        self.nodes.iter().filter(|n| n.is_master()).count()
    }

    fn mischief(&mut self) {
        let node = self.random.next(2) as usize;
        let now = self.now;
        let away = now + 100 + self.random.next(10_000);
        match self.random.next(9) {
            0 => self.loss = [0, 10, 30][self.random.next(3) as usize],
            1 => self.delay = [1, 20, 100][self.random.next(3) as usize],
            2 | 3 => self.parted = !self.parted,
            4 if self.nodes[node].runs() => {
                if self.random.chance(50) {
                    self.nodes[node].machine.leave(now);
                }
                self.nodes[node].away_until = Some(away);
                self.nodes[node].begins_anew = true;
            }
            5 if self.nodes[node].runs() => {
                self.nodes[node].away_until = Some(away);
                self.nodes[node].begins_anew = false;
            }
            6 | 7 if self.nodes[node].runs() => {
                let node = &mut self.nodes[node];
                node.fault = !node.fault;
                let priority = if node.fault { 0 } else { node.config.priority };
                node.machine.set_priority(now, priority);
            }
            8 => self.nodes[node].machine.hold(self.random.chance(30)),
            _ => {}
        }
    }
}

#[test]
fn two_nodes_have_a_master_and_after_healing_exactly_one() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        // Since when each node has been there and well, and since when there has been no master.
        let (mut well_since, mut none_since) = ([None; 2], None);
        let mut steps = 0u64;
        let check = |world: &World, well: &mut [Option<u64>; 2], none: &mut Option<u64>| {
            let now = world.now;
            *none = if world.masters() == 0 { none.or(Some(now)) } else { None };
            for (node, well) in world.nodes.iter().zip(well) {
                let is_well = node.runs() && !node.fault;
                *well = if is_well { well.or(Some(now)) } else { None };
                if let (Some(well), Some(none)) = (*well, *none) {
                    let alone = now - well.max(none);
                    assert!(alone <= world.down(), "seed {seed}, {now}: {alone} ms without master");
                }
            }
        };
        while steps < 12_000 {
            if world.random.next(400) == 0 {
                world.mischief();
            }
            world.step();
            check(&world, &mut well_since, &mut none_since);
            steps += 1;
        }
        // Healing.
        (world.loss, world.delay, world.parted) = (0, 1, false);
        let back = world.nodes.iter().filter_map(|n| n.away_until).max().unwrap_or(world.now);
        for node in 0..2 {
            let node = &mut world.nodes[node];
            if node.fault && node.runs() {
                node.fault = false;
                node.machine.set_priority(world.now, node.config.priority);
            }
        }
        while world.now < back {
            world.step();
        }
        for node in &mut world.nodes {
            node.machine.hold(false);
            // A node that stood still while it was in fault.
            node.fault = false;
            node.machine.set_priority(world.now, node.config.priority);
        }
        let delay = world.nodes[0].config.preempt_delay_ms;
        let bound = world.now + 3 * world.down() + delay;
        while world.now < bound {
            world.step();
        }
        let master = world.nodes.iter().position(Node::is_master);
        for _ in 0..2_000 {
            world.step();
            assert_eq!(world.masters(), 1, "seed {seed}, {}", world.now);
            assert_eq!(world.nodes.iter().position(Node::is_master), master, "seed {seed}");
        }
        let [a, b] = world.nodes.map(|n| n.config);
        if a.preempt && a.priority != b.priority {
            let best = usize::from(b.priority > a.priority);
            assert_eq!(master, Some(best), "seed {seed}: the better one");
        }
    }
}
