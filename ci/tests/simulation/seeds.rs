//! One run for each seed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::plan::Plan;
use crate::world::World;

/// How many are run when nothing else is said.
const SEEDS: u64 = 2_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What the runs of one thread have come to.
#[derive(Default)]
struct Tally {
    connections: usize,
    frames: u64,
    /// Connections of which nothing was demanded any more, by the reason.
    excused: BTreeMap<&'static str, usize>,
    failed: Vec<u64>,
}

impl Tally {
    fn add(&mut self, world: &World) {
        self.connections += world.clients.len();
        self.frames += world.frames;
        for excuse in world.clients.iter().filter_map(|client| client.excuse) {
            *self.excused.entry(excuse).or_default() += 1;
        }
    }

    fn merge(&mut self, other: Tally) {
        self.connections += other.connections;
        self.frames += other.frames;
        for (excuse, count) in other.excused {
            *self.excused.entry(excuse).or_default() += count;
        }
        self.failed.extend(other.failed);
    }
}

#[test]
fn seeds() {
    if let Some(seed) = variable("SHUNT_SIM_SEED") {
        let plan = Plan::of(seed);
        eprintln!("{plan:#?}");
        World::new(plan, true).run();
        return;
    }
    let first = variable("SHUNT_SIM_FIRST").unwrap_or(1);
    let end = first + variable("SHUNT_SIM_SEEDS").unwrap_or(SEEDS);
    let keep_going = variable("SHUNT_SIM_KEEP_GOING").is_some();
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let work = || {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let result = catch_unwind(AssertUnwindSafe(|| {
                let mut world = World::new(Plan::of(seed), false);
                world.run();
                tally.add(&world);
            }));
            if result.is_err() {
                eprintln!(
                    "seed {seed} fails; to replay it:\n  SHUNT_SIM_SEED={seed} cargo test \
                     --no-default-features --test simulation seeds -- --nocapture"
                );
                tally.failed.push(seed);
                stop.store(!keep_going, Ordering::Relaxed);
            }
        }
        tally
    };
    let mut all = Tally::default();
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.merge(thread.join().expect("panics are caught"));
        }
    });
    let Tally { connections, frames, excused, failed } = all;
    eprintln!("{connections} connections, {frames} frames; excused: {excused:#?}");
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
}
