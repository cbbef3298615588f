//! How long a node that joins empty takes until it has all sessions of the other, and what that costs
//! the other's forwarding meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use perf::ring::Feed;
use perf::template::{Carries, Template};
use shunt::session::Mode;

use crate::node::{self, Node, Plan};

/// Established flows that are forwarded meanwhile.
const FLOWS: u32 = 1 << 16;
/// How long the whole walk may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    /// Seconds from node B's first turn until it had found all buckets equal.
    pub(crate) synced: f64,
    /// Seconds from the first session it took in to the last.
    pub(crate) took_in: f64,
    /// Sessions it then had.
    pub(crate) sessions: usize,
    /// How often node A had to walk.
    pub(crate) walks: u64,
    /// Datagrams that node B found missing.
    pub(crate) missed: u64,
    /// Million packets per second that node A forwarded before.
    pub(crate) before: f64,
    /// The same while it walked its table.
    pub(crate) during: f64,
    /// The same when all was over.
    pub(crate) after: f64,
}

/// A node that has heard no peer for so long opens sessions.
const ALONE: Duration = Duration::from_millis(700);

/// Has node B join when node A has so many sessions. `busy`: node A forwards as much as it can.
pub(crate) fn measure(rate: u32, count: u32, busy: bool, sample: Duration) -> anyhow::Result<Bulk> {
    let (sessions_v4, sessions_v6) = (count as usize * 5 / 4, 16);
    let plan = Plan { mode: Mode::Nat, sessions_v4, sessions_v6, pair: true, rate };
    let joins = AtomicBool::new(false);
    let udp = Template::new(false, Carries::Udp);
    let first = |node: &mut Node| {
        // At first it listens for a peer, and opens nothing.
        node.turn_for(ALONE);
        node.io().feed = Feed::new_flows(udp.clone(), 0, count);
        let all = |node: &mut Node| node.sessions() == count as usize;
        node.turn_until("sessions on node A", node::PATIENCE, all)?;
        node.io().feed = match busy {
            true => Feed::known_flows(udp.clone(), FLOWS.min(1 << count.ilog2()), None),
            false => Feed::Nothing,
        };
        let forwarded = |node: &mut Node| {
            let (start, tx) = (Instant::now(), node.counters.tx.get());
            node.turn_for(sample);
            (node.counters.tx.get() - tx) as f64 / start.elapsed().as_secs_f64() / 1e6
        };
        let before = forwarded(node);
        joins.store(true, Ordering::Relaxed);
        let walks = |node: &mut Node| node.counters.sync.walks.get() != 0;
        node.turn_until("a walk begins", node::PATIENCE, walks)?;
        let (start, tx) = (Instant::now(), node.counters.tx.get());
        let walked = |node: &mut Node| node.counters.sync.walk_total.get() == 0;
        node.turn_until("the walk ends", PATIENCE, walked)?;
        let packets = node.counters.tx.get() - tx;
        let during = packets as f64 / start.elapsed().as_secs_f64() / 1e6;
        let synced = |node: &mut Node| node::is_synced(&node.peer);
        node.turn_until("node B synced", PATIENCE, synced)?;
        let after = forwarded(node);
        Ok((before, during, after, node.counters.sync.walks.get()))
    };
    let second = |node: &mut Node, _| {
        while !joins.load(Ordering::Relaxed) {
            if node.is_over() {
                anyhow::bail!("node A ended before node B could join");
            }
            // Its core is as busy as it will be: node A's does not get faster by that.
            std::hint::spin_loop();
        }
        let start = Instant::now();
        let (mut begun, mut last, mut came) = (start, start, 0);
        node.turn_until("synced", PATIENCE, |node| {
            let now = node.sessions();
            if now != came {
                last = Instant::now();
                if came == 0 {
                    begun = last;
                }
                came = now;
            }
            node::is_synced(&node.counters)
        })?;
        let synced = start.elapsed().as_secs_f64();
        let result = (synced, (last - begun).as_secs_f64(), node.sessions());
        while !node.is_over() {
            node.turn();
        }
        Ok((result, node.counters.sync.missed.get()))
    };
    let ((before, during, after, walks), ((synced, took_in, sessions), missed)) =
        node::run(plan, first, second)?;
    Ok(Bulk { synced, took_in, sessions, walks, missed, before, during, after })
}
