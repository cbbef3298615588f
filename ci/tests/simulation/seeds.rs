//! One run for each seed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::plan::Plan;
use crate::world::World;

/// How many are run when nothing else is said.
const SEEDS: u64 = 120;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
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
    let keep_going = variable("SHUNT_SIM_KEEP_GOING").is_some();
    let mut failed = Vec::new();
    let (mut clients, mut excused, mut frames) = (0, 0, 0);
    for seed in first..first + variable("SHUNT_SIM_SEEDS").unwrap_or(SEEDS) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(Plan::of(seed), false);
            world.run();
            clients += world.clients.len();
            excused += world.clients.iter().filter(|client| client.excuse.is_some()).count();
            frames += world.frames;
        }));
        if let Err(panic) = result {
            eprintln!(
                "seed {seed} fails; to replay it:\n  SHUNT_SIM_SEED={seed} cargo test \
                 --no-default-features --test simulation seeds -- --nocapture"
            );
            if !keep_going {
                resume_unwind(panic);
            }
            failed.push(seed);
        }
    }
    eprintln!("{clients} connections, {excused} of them excused; {frames} frames");
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
}
