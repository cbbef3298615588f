//! Runs in which nothing goes wrong but what the test says.

use shunt::session::Mode;

use crate::plan::{Action, Plan};
use crate::world::World;

const MODES: [Mode; 3] = [Mode::Nat, Mode::FullNat, Mode::Dr];

fn run(plan: Plan) -> World {
    let mut world = World::new(plan, std::env::var_os("SHUNT_SIM_TRACE").is_some());
    world.run();
    world
}

#[test]
fn nothing_goes_wrong() {
    for (seed, mode) in (1..).zip(MODES) {
        for (active_active, workers) in
            [(false, [1, 1]), (true, [1, 1]), (false, [2, 3]), (true, [3, 2])]
        {
            let plan = Plan { active_active, workers, ..Plan::plain(seed, mode) };
            let world = run(plan);
            assert!(world.clients.iter().all(|c| c.excuse.is_none() && c.done));
            for node in world.nodes.iter().flatten() {
                let count = |what: &str, value: u64| {
                    assert_eq!(value, 0, "{what}, {mode:?}, active/active {active_active}");
                };
                count("mismatches", node.count(|c| c.sync.digest_mismatches.get()));
                count("missed", node.count(|c| c.sync.missed.get()));
                count("conflicts", node.count(|c| c.sync.conflicts.get()));
                count("refused", node.count(|c| c.sync.import_refused.get()));
                count("malformed", node.count(|c| c.sync.malformed.get()));
                count("replayed", node.count(|c| c.sync.replayed.get()));
                count("relayed", node.count(|c| c.sync.relayed.get()));
            }
        }
    }
}

#[test]
fn the_master_crashes() {
    for (seed, mode) in (1..).zip(MODES) {
        let script = vec![(3_000, Action::Crash(0)), (7_500, Action::Start(0, 2))];
        let plan = Plan { script, heal_at: 8_000, ..Plan::plain(seed, mode) };
        let world = run(plan);
        assert!(world.clients.iter().all(|c| c.done));
    }
}
