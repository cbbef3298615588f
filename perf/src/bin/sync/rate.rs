//! How many new sessions per second one worker makes while it tells the peer of each, and how many
//! the peer takes in.

use std::time::{Duration, Instant};

use perf::ring::Feed;
use perf::template::{Carries, Template};
use shunt::session::Mode;

use crate::node::{self, DEFAULT_RATE, Node, Plan};

/// How long node B may take for the rest when node A is through: after losses node A may have to walk
/// its whole table.
const REST: Duration = Duration::from_secs(30);

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
    /// Walks through the table for node B, which lacked what could not be repeated any more.
    pub(crate) walks: u64,
    /// Datagrams for which node A had no buffer.
    pub(crate) failed: u64,
    /// SYNs that left before their record.
    pub(crate) late: u64,
    /// Packets that node A dropped.
    pub(crate) dropped: u64,
}

/// Floods node A with the SYNs of so many connections. Of `lose_each` datagrams in either direction one
/// is lost; 0 for none.
pub(crate) fn measure(
    mode: Mode,
    v6: bool,
    pair: bool,
    count: u32,
    lose_each: u32,
) -> anyhow::Result<Rate> {
    // A table that is nearly full is another measurement.
    let room = count as usize * 5 / 4;
    let rooms = |is_it: bool| if is_it { room } else { 16 };
    let (sessions_v4, sessions_v6) = (rooms(!v6), rooms(v6));
    let plan = Plan { mode, sessions_v4, sessions_v6, pair, rate: DEFAULT_RATE };
    let syn = Template::new(v6, Carries::Syn);
    let first = move |node: &mut Node| {
        node.turn_until_synced()?;
        node.io().told.on = pair;
        node.io().lose_each = lose_each;
        node.io().feed = Feed::new_flows(syn, 0, count);
        let of = |node: &Node| {
            let sync = &node.counters.sync;
            let failed = sync.send_failed.get();
            (node::dropped(&node.counters), failed, sync.walks.get(), sync.repeated.get())
        };
        let before = of(node);
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
            let has_all = |node: &Node| node.peer.sync.foreign_sessions.get() >= made as u64;
            while !has_all(node) && end.elapsed() < REST {
                node.turn_for(Duration::from_micros(100));
            }
        }
        let after = of(node);
        let rate = Rate {
            created: made as f64 / (end - start).as_secs_f64(),
            lag,
            dropped: after.0 - before.0,
            failed: after.1 - before.1,
            walks: after.2 - before.2,
            repeated: after.3 - before.3,
            late: node.io().told.late,
            ..Rate::default()
        };
        Ok((rate, made, end))
    };
    let second = move |node: &mut Node, _| {
        node.turn_until_synced()?;
        node.io().lose_each = lose_each;
        let missed = node.counters.sync.missed.get();
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
        Ok((begun.unwrap_or(last), last, came, node.counters.sync.missed.get() - missed))
    };
    let ((mut rate, made, end), (begun, last, came, missed)) = node::run(plan, first, second)?;
    if pair {
        rate.imported = came as f64 / (last - begun).as_secs_f64();
        rate.lacking = (made - came.min(made)) as u64;
        rate.behind_ms = last.saturating_duration_since(end).as_secs_f64() * 1e3;
        rate.missed = missed;
    }
    Ok(rate)
}
