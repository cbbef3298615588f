//! Health checks: is a real server fit for new sessions?
//!
//! [`HealthState`] is the verdict (pure); [`check`] asks one server once; [`run`] asks it for ever
//! and reports every outcome to the management loop.

pub mod check;
mod state;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

pub use state::HealthState;

use crate::manage::config::Health;
use crate::session::ServerId;

/// The first checks of all servers are spread over at most this time.
const FIRST_CHECKS_WITHIN: Duration = Duration::from_secs(1);

/// A server to be checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub server: ServerId,
    /// The address and port that are asked.
    pub address: SocketAddr,
    /// The interface to ask by: an exception tap; `None` for the host's own network.
    pub device: Option<String>,
    /// How it is asked.
    pub health: Health,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The server.
    pub server: ServerId,
    /// How long it took to answer, or why it is not fit.
    pub outcome: Result<Duration, String>,
}

/// Checks one server for ever, or until nobody listens to `results`.
///
/// It is the `index`-th of `total` targets; they take their turns spread over the interval.
pub async fn run(target: Target, index: usize, total: usize, results: mpsc::Sender<CheckResult>) {
    let interval = Duration::from_millis(target.health.interval_ms.max(1));
    let (first, phase) = turns(interval, index, total);
    let start = Instant::now();
    let mut ticks = interval_at(start + phase, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

    sleep(first).await;
    loop {
        let outcome = check::check(&target).await;
        let result = CheckResult { server: target.server, outcome };
        if results.send(result).await.is_err() {
            return;
        }
        ticks.tick().await;
    }
}

/// When the first and the second check of a target are due, from the start: the first soon, so that
/// healthy servers are up within a second; the second in the target's own part of the interval.
fn turns(interval: Duration, index: usize, total: usize) -> (Duration, Duration) {
    let part = |whole: Duration| whole.mul_f64(index as f64 / total.max(1) as f64);
    (part(interval.min(FIRST_CHECKS_WITHIN)), interval + part(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread() {
        let ms = Duration::from_millis;
        assert_eq!(turns(ms(500), 0, 2), (ms(0), ms(500)));
        assert_eq!(turns(ms(500), 1, 2), (ms(250), ms(750)));
        assert_eq!(turns(ms(60_000), 3, 4), (ms(750), ms(105_000)));
        assert_eq!(turns(ms(500), 0, 0), (ms(0), ms(500)));
    }
}
