//! Everything that can take the active node away, several times each, under a steady load.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use crate::pair::load::Report;
use crate::pair::{Forwarding, Load, Pair, Plan};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Connections held all the while.
    #[arg(long, default_value_t = 1_000)]
    held: usize,
    /// Milliseconds between two lines of each.
    #[arg(long, default_value_t = 100)]
    pace_ms: u64,
    /// Milliseconds between two new connections.
    #[arg(long, default_value_t = 10)]
    new_every_ms: u64,
    /// How often each event happens.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Advert intervals of VRRP in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    intervals_ms: Vec<u32>,
    /// What happens.
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "kill,stop,pull-front,pull-back,channel"
    )]
    events: Vec<Event>,
    /// Workers of each node.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Event {
    /// The active node is killed.
    Kill,
    /// It is asked to stop.
    Stop,
    /// Its cable towards the clients is pulled.
    PullFront,
    /// Its cable towards the servers is pulled.
    PullBack,
    /// The channel is cut for two seconds.
    Channel,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Kill => "active node killed",
            Event::Stop => "active node stopped",
            Event::PullFront => "front cable pulled",
            Event::PullBack => "back cable pulled",
            Event::Channel => "channel cut for 2 s",
        }
    }

    /// What the return of the node is called; there is none where no node went away.
    fn back(self) -> Option<&'static str> {
        match self {
            Event::Kill => Some("… started again, takes back"),
            Event::Stop => Some("… started again, takes back"),
            Event::PullFront | Event::PullBack => Some("… plugged in, takes back"),
            Event::Channel => None,
        }
    }

    fn begin(self, pair: &mut Pair) {
        match self {
            Event::Kill => pair.nodes[0].kill(),
            Event::Stop => pair.nodes[0].stop(),
            Event::PullFront => pair.fabric.cable("front0", false),
            Event::PullBack => pair.fabric.cable("back0", false),
            Event::Channel => pair.fabric.sync(false),
        }
    }

    fn end(self, pair: &mut Pair) {
        match self {
            Event::Kill | Event::Stop => pair.nodes[0].start(),
            Event::PullFront => pair.fabric.cable("front0", true),
            Event::PullBack => pair.fabric.cable("back0", true),
            Event::Channel => pair.fabric.sync(true),
        }
    }
}

/// The rounds of one event.
#[derive(Default)]
struct Rounds {
    held: usize,
    broken: usize,
    tried: u64,
    failed: u64,
    slowest: Vec<Duration>,
    gaps: Vec<Duration>,
    examples: Vec<String>,
}

impl Rounds {
    fn add(&mut self, report: &Report) {
        self.held += report.held;
        self.broken += report.broken.len();
        self.tried += report.new.tried;
        self.failed += report.new.failed;
        self.slowest.push(report.new.slowest);
        self.gaps.push(report.gap);
        if !report.is_good() {
            self.examples.push(report.to_string());
        }
    }

    fn print(mut self, interval_ms: u32, what: &str) {
        let median_and_max = |times: &mut Vec<Duration>| {
            times.sort();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let max = times.last().copied().unwrap_or_default();
            [median.as_millis(), max.as_millis()]
        };
        let [gap, worst_gap] = median_and_max(&mut self.gaps);
        let [slowest, worst_slowest] = median_and_max(&mut self.slowest);
        println!(
            "| {interval_ms} ms | {what} | {} | {} | {} | {} | {} | {gap} | {worst_gap} | {slowest} \
             | {worst_slowest} |",
            self.gaps.len(),
            self.held,
            self.broken,
            self.tried,
            self.failed,
        );
        for example in self.examples {
            eprintln!("{interval_ms} ms, {what}: {example}");
        }
    }
}

pub(crate) fn measure(shunt: PathBuf, arguments: &Arguments) {
    println!(
        "{} connections with a line every {} ms, a new one every {} ms; fullnat, {} worker(s) each, \
         IPv4 and IPv6. Times in ms; each of the rounds has a longest gap between two answers of one \
         connection, and a slowest new connection.\n",
        arguments.held, arguments.pace_ms, arguments.new_every_ms, arguments.workers,
    );
    println!(
        "| adverts | event | rounds | held | broken | new | failed | gap, median | gap, max | \
         slowest new, median | max |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for interval in &arguments.intervals_ms {
        let mut plan = Plan::new(&shunt, Forwarding::FullNat);
        plan.advert_interval_ms = *interval;
        plan.workers = [arguments.workers; 2];
        let mut pair = Pair::start(plan);
        for event in &arguments.events {
            let [mut away, mut back] = [Rounds::default(), Rounds::default()];
            for _ in 0..arguments.rounds {
                round(&mut pair, arguments, *event, &mut away, &mut back);
            }
            away.print(*interval, event.name());
            if let Some(name) = event.back() {
                back.print(*interval, name);
            }
        }
        pair.finish();
    }
}

/// One event and the way back from it.
fn round(
    pair: &mut Pair,
    arguments: &Arguments,
    event: Event,
    away: &mut Rounds,
    back: &mut Rounds,
) {
    let pace = Duration::from_millis(arguments.pace_ms);
    let load = pair.load(arguments.held, pace, Duration::from_millis(arguments.new_every_ms));
    let broken = |report: &Report| report.broken.len();
    // What was opened just before the event is a part of it.
    thread::sleep(Duration::from_millis(500));
    load.mark();
    event.begin(pair);
    if event.back().is_some() {
        pair.wait_for("the other node is master", |pair| pair.nodes[1].is_master());
    } else {
        thread::sleep(Duration::from_secs(2));
        event.end(pair);
        pair.wait_settled(0);
    }
    let report = settled(&load);
    let before = broken(&report);
    away.add(&report);
    if event.back().is_none() {
        end(load, before, away);
        return;
    }
    load.mark();
    event.end(pair);
    pair.wait_settled(0);
    let mut report = settled(&load);
    // A connection breaks once.
    report.broken.drain(..before);
    let all = before + broken(&report);
    back.add(&report);
    end(load, all, back);
}

/// The outcome when every connection is in motion again, and a little later.
fn settled(load: &Load) -> Report {
    load.flows_again();
    thread::sleep(Duration::from_millis(500));
    load.flows_again();
    load.report()
}

/// Closes all connections; one that cannot be closed in good order is broken too.
fn end(load: Load, broken: usize, rounds: &mut Rounds) {
    load.mark();
    let report = load.finish();
    let late = report.broken.len() - broken.min(report.broken.len());
    rounds.broken += late;
    rounds.failed += report.new.failed;
    if late > 0 || report.new.failed > 0 {
        rounds.examples.push(report.to_string());
    }
}
