//! How many new sessions per second one worker makes while it tells the peer of each, and how many
//! the peer takes in.

use std::time::{Duration, Instant};

use perf::ring::Feed;
use perf::template::{Carries, Template};
use shunt::session::Mode;

use crate::node::{self, DEFAULT_RATE, Node, Plan};

/// How long node B may take for the rest when node A is through.
const REST: Duration = Duration::from_secs(10);
/// How long node B's table may stay as it is before nothing more is waited for.
const SILENCE: Duration = Duration::from_secs(3);

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// Sessions per second that node A made.
    pub(crate) created: f64,
    /// Sessions per second that node B took in, from its first to its last.
    pub(crate) imported: f64,
    /// How many node B lacked in the end.
    pub(crate) lacking: u64,
    /// Milliseconds that node B was behind when node A had made its last session.
    pub(crate) behind_ms: f64,
    /// Datagrams that had not been acknowledged then.
    pub(crate) lag: u64,
    /// Datagrams that node B found missing.
    pub(crate) missed: u64,
    /// Datagrams sent once more.
    pub(crate) repeated: u64,
    /// Datagrams for which node A had no buffer.
    pub(crate) failed: u64,
    /// SYNs that left before their record.
    pub(crate) late: u64,
    /// Packets that node A dropped.
    pub(crate) dropped: u64,
}

/// Floods node A with the SYNs of so many connections.
pub(crate) fn measure(mode: Mode, v6: bool, pair: bool, count: u32) -> anyhow::Result<Rate> {
    // A table that is nearly full is another measurement.
    let room = count as usize * 5 / 4;
    let rooms = |is_it: bool| if is_it { room } else { 16 };
    let (sessions_v4, sessions_v6) = (rooms(!v6), rooms(v6));
    let plan = Plan { mode, sessions_v4, sessions_v6, pair, rate: DEFAULT_RATE };
    let syn = Template::new(v6, Carries::Syn);
    let first = move |node: &mut Node| {
        node.turn_until_synced()?;
        node.io().told.on = pair;
        node.io().feed = Feed::new_flows(syn, 0, count);
        let dropped = node::dropped(&node.counters);
        let start = Instant::now();
        while !node.io().feed.is_over() {
            node.turn();
        }
        let end = Instant::now();
        let made = node.sessions();
        // The gauge is set each millisecond.
        node.turn_for(Duration::from_millis(1));
        let lag = node.counters.sync.lag.get();
        if pair {
            let (mut came, mut since) = (0, Instant::now());
            while came < made as u64 && since.elapsed() < SILENCE && end.elapsed() < REST {
                node.turn_for(Duration::from_micros(100));
                let now = node.peer.sync.imported.get();
                if now != came {
                    (came, since) = (now, Instant::now());
                }
            }
        }
        let created = made as f64 / (end - start).as_secs_f64();
        let dropped = node::dropped(&node.counters) - dropped;
        let told = node.io().told;
        Ok((Rate { created, lag, dropped, late: told.late, ..Rate::default() }, made, end))
    };
    let second = move |node: &mut Node, _| {
        node.turn_until_synced()?;
        let (mut begun, mut last, mut came) = (None, Instant::now(), 0);
        while !node.is_over() {
            node.turn();
            let now = node.sessions();
            if now != came {
                came = now;
                last = Instant::now();
                begun.get_or_insert(last);
            }
        }
        let sync = &node.counters.sync;
        Ok((begun.unwrap_or(last), last, came, sync.missed.get(), node.peer.clone()))
    };
    let ((mut rate, made, end), (begun, last, came, missed, counters)) =
        node::run(plan, first, second)?;
    if pair {
        rate.imported = came as f64 / (last - begun).as_secs_f64();
        rate.lacking = (made - came.min(made)) as u64;
        rate.behind_ms = last.saturating_duration_since(end).as_secs_f64() * 1e3;
        rate.missed = missed;
        rate.repeated = counters.sync.repeated.get();
        rate.failed = counters.sync.send_failed.get();
    }
    Ok(rate)
}
