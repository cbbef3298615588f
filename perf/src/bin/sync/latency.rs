//! How long after the first packet of a session the peer has it.
//!
//! The client is on node B's thread: it puts a SYN into node A's ring and reads the clock, node B
//! turns, and once the session is in its table the clock is read again: one clock, on one core.

use std::time::{Duration, Instant};

use perf::report::percentile;
use perf::ring::{FRONT, Feed, RingFrame};
use perf::template::{Carries, Template};
use shunt::datapath::frame::Frame;
use shunt::session::Mode;

use crate::node::{self, DEFAULT_RATE, Node, PATIENCE, Plan};

/// Flows of the background load.
const BACKGROUND: u32 = 1024;
/// The longest pause before a session, in nanoseconds.
const MAX_PAUSE: u64 = 40_000;
/// A session that is not there by then was lost.
const LOST: Duration = Duration::from_millis(100);

/// What else node A has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Nothing.
    Idle,
    /// So many packets of established sessions per second.
    Paced(u64),
    /// As many as its core takes: the SYN is one of a full burst.
    Full,
}

/// What came out.
pub(crate) struct Latency {
    /// Nanoseconds, sorted.
    samples: Vec<u32>,
    /// Sessions that did not come within [`LOST`].
    pub(crate) lost: u64,
    /// SYNs that left before their record.
    pub(crate) late: u64,
    /// SYNs that left.
    pub(crate) syns: u64,
    /// Packets of the background load per second that node A forwarded meanwhile.
    pub(crate) background: f64,
}

impl Latency {
    /// In microseconds.
    pub(crate) fn percentile(&self, share: f64) -> Option<f64> {
        percentile(&self.samples, share).map(|nanoseconds| f64::from(nanoseconds) / 1000.0)
    }

    /// How many sessions were timed.
    pub(crate) fn samples(&self) -> usize {
        self.samples.len()
    }
}

/// Times so many sessions.
pub(crate) fn measure(mode: Mode, v6: bool, load: Load, count: u32) -> anyhow::Result<Latency> {
    let room = (count + BACKGROUND) as usize * 9 / 8;
    let rooms = |is_it: bool| if is_it { room } else { 16 };
    let (sessions_v4, sessions_v6) = (rooms(!v6), rooms(v6));
    let plan = Plan { mode, sessions_v4, sessions_v6, pair: true, rate: DEFAULT_RATE };
    let known = Template::new(v6, Carries::Udp);
    let opens = Template::new(v6, Carries::Syn);
    let first = move |node: &mut Node| {
        node.turn_until_synced()?;
        node.io().told.on = true;
        let rate = match load {
            Load::Idle => None,
            Load::Paced(rate) => Some(rate),
            Load::Full => None,
        };
        if load != Load::Idle {
            node.io().feed = Feed::known_flows(known, BACKGROUND, rate);
        }
        let (start, before) = (Instant::now(), node.counters.tx.get());
        while !node.is_over() {
            node.turn();
        }
        let background = match load {
            Load::Idle => 0.0,
            _ => (node.counters.tx.get() - before) as f64 / start.elapsed().as_secs_f64(),
        };
        Ok((node.io().told, background))
    };
    let ((told, background), (mut samples, lost)) =
        node::run(plan, first, move |node, mut clients| {
            node.turn_until_synced()?;
            if load != Load::Idle {
                let all = |node: &mut Node| node.sessions() == BACKGROUND as usize;
                node.turn_until("the background's sessions", PATIENCE, all)?;
            }
            let mut samples = Vec::with_capacity(count as usize);
            let (mut lost, mut random) = (0, 0x2545_f491_4f6c_dd1d_u64);
            for flow in 0..count {
                // xorshift64: the SYN comes at any place of node A's turn.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                node.turn_for(Duration::from_nanos(random % MAX_PAUSE));
                let Some(mut frame) = RingFrame::take() else { continue };
                frame.clear(FRONT, opens.len());
                opens.write(flow, frame.bytes_mut());
                let before = node.sessions();
                let start = Instant::now();
                clients.send_one(frame);
                let taken = loop {
                    node.turn();
                    let taken = start.elapsed();
                    if node.sessions() > before || taken > LOST {
                        break taken;
                    }
                };
                match taken > LOST {
                    true => lost += 1,
                    false => samples.push(taken.as_nanos() as u32),
                }
            }
            Ok((samples, lost))
        })?;
    samples.sort_unstable();
    Ok(Latency { samples, lost, late: told.late, syns: told.syns, background })
}
