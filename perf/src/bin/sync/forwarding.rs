//! What it costs each packet of an established session that its node has a peer.

use std::time::{Duration, Instant};

use perf::ring::Feed;
use perf::template::{Carries, Template};
use shunt::session::Mode;

use crate::node::{self, DEFAULT_RATE, Node, PATIENCE, Plan};

/// Million packets per second of so many flows through node A. `pair`: with node B as its peer, else
/// both are alone, and node B's core is as busy polling.
pub(crate) fn measure(mode: Mode, flows: u32, pair: bool, sample: Duration) -> anyhow::Result<f64> {
    let (sessions_v4, sessions_v6) = (flows as usize * 5 / 4, 16);
    let plan = Plan { mode, sessions_v4, sessions_v6, pair, rate: DEFAULT_RATE };
    let udp = Template::new(false, Carries::Udp);
    let first = move |node: &mut Node| {
        node.turn_until_synced()?;
        node.io().feed = Feed::known_flows(udp, flows, None);
        let all = |node: &mut Node| node.sessions() == flows as usize;
        node.turn_until("sessions on node A", PATIENCE, all)?;
        node.turn_for(sample / 4);
        let (start, before) = (Instant::now(), node.counters.tx.get());
        node.turn_for(sample);
        Ok((node.counters.tx.get() - before) as f64 / start.elapsed().as_secs_f64() / 1e6)
    };
    let second = |node: &mut Node, _| {
        while !node.is_over() {
            node.turn();
        }
        Ok(())
    };
    Ok(node::run(plan, first, second)?.0)
}
