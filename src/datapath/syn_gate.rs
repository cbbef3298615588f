//! Whether a service's SYNs are answered by Shunt itself: always, never, or while there are too many
//! of them.
//!
//! `auto` counts the SYNs of each second without a session. It turns on at once when a second has
//! as many as the service's limit, and off when [`QUIET_SECONDS`] in a row had less than half of
//! it. Each worker counts for itself, against its share of the limit.

use super::family::Family;
use super::snapshot::{Snapshot, SynProxy};
use crate::session::ServiceId;
use crate::session::syn_cookie::VALIDITY_MS;

/// Seconds below half the limit after which `auto` turns off.
pub(super) const QUIET_SECONDS: u32 = 10;
/// What is counted at once, in milliseconds.
const WINDOW_MS: u32 = 1000;

/// The gate of one service.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    policy: SynProxy,
    /// `auto`: this worker's share of the limit, in SYNs per second.
    limit: u32,
    /// Whether a server takes sessions, of IPv4 and of IPv6: nobody is answered in vain.
    serves: [bool; 2],
    /// `auto`: whether it is on.
    on: bool,
    /// When the present second began.
    window: u32,
    /// SYNs in it.
    syns: u32,
    /// Quiet seconds in a row before it.
    quiet: u32,
    /// When a cookie was last sent; `None` when none can be good any more.
    last_cookie: Option<u32>,
}

impl Gate {
    fn is_on(&self) -> bool {
        match self.policy {
            SynProxy::Off => false,
            SynProxy::On => true,
            SynProxy::Auto { .. } => self.on,
        }
    }

    /// Ends the seconds that have passed.
    fn pass(&mut self, now: u32) {
        let seconds = now.wrapping_sub(self.window) / WINDOW_MS;
        if seconds == 0 {
            return;
        }
        let was_quiet = self.syns < self.limit.div_ceil(2);
        // Of those after the first nothing was counted.
        self.quiet = if was_quiet { self.quiet.saturating_add(seconds) } else { seconds - 1 };
        self.on &= self.quiet < QUIET_SECONDS;
        // After a pause the next second begins with what ends the pause.
        self.window = if seconds == 1 { self.window.wrapping_add(WINDOW_MS) } else { now };
        self.syns = 0;
    }
}

/// The gates of one worker, by service.
#[derive(Debug, Default)]
pub(super) struct SynGates {
    gates: Vec<Gate>,
    /// Which one time passes for next.
    next: usize,
}

impl SynGates {
    /// Takes in a new configuration; gates that are on stay on.
    pub(super) fn configure(&mut self, snapshot: &Snapshot, worker: u8) {
        let buckets = snapshot.worker_of.iter().filter(|w| **w == worker).count() as u64;
        let all = snapshot.worker_of.len() as u64;
        self.gates.resize(snapshot.services.len(), Gate::default());
        for (gate, service) in self.gates.iter_mut().zip(&snapshot.services) {
            gate.policy = service.syn_proxy;
            if let SynProxy::Auto { above } = service.syn_proxy {
                gate.limit = (u64::from(above) * buckets).div_ceil(all).max(1) as u32;
            }
            let serves = |v6: bool| {
                service.servers.iter().any(|id| {
                    let server = &snapshot.servers[usize::from(id.0)];
                    server.address.is_ipv6() == v6 && server.up && server.weight > 0
                })
            };
            gate.serves = [serves(false), serves(true)];
        }
    }

    /// Counts a SYN without a session; whether it is to be answered with a cookie.
    pub(super) fn answers<A: Family>(&mut self, service: ServiceId, now: u32) -> bool {
        let Some(gate) = self.gates.get_mut(usize::from(service.0)) else { return false };
        if let SynProxy::Auto { .. } = gate.policy {
            gate.pass(now);
            gate.syns = gate.syns.saturating_add(1);
            gate.on |= gate.syns >= gate.limit;
        }
        gate.is_on() && gate.serves[usize::from(A::V6)]
    }

    /// A cookie was sent.
    pub(super) fn answered(&mut self, service: ServiceId, now: u32) {
        if let Some(gate) = self.gates.get_mut(usize::from(service.0)) {
            gate.last_cookie = Some(now);
        }
    }

    /// Whether an ACK without a session may carry a cookie: while SYNs are answered, and after that
    /// as long as a cookie can be good.
    pub(super) fn expects_cookies(&self, service: ServiceId, now: u32) -> bool {
        self.gates.get(usize::from(service.0)).is_some_and(|gate| {
            gate.is_on() || gate.last_cookie.is_some_and(|at| now.wrapping_sub(at) < VALIDITY_MS)
        })
    }

    /// Lets time pass for one service; which, and whether its SYNs are answered. To be called all
    /// the time: it is how `auto` turns off when nothing comes any more.
    pub(super) fn pass(&mut self, now: u32) -> Option<(ServiceId, bool)> {
        let index = self.next;
        let next = if index + 1 < self.gates.len() { index + 1 } else { 0 };
        let gate = self.gates.get_mut(index)?;
        self.next = next;
        gate.pass(now);
        if gate.last_cookie.is_some_and(|at| now.wrapping_sub(at) >= VALIDITY_MS) {
            gate.last_cookie = None;
        }
        Some((ServiceId(index as u16), gate.is_on()))
    }

    /// Whether any service may be proxied.
    pub(super) fn any(&self) -> bool {
        self.gates.iter().any(|gate| gate.policy != SynProxy::Off)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::datapath::snapshot::{Server, Service};
    use crate::session::ServerId;

    const WEB: ServiceId = ServiceId(0);

    fn snapshot(syn_proxy: SynProxy) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.services.push(Service {
            syn_proxy,
            servers: vec![ServerId(0)],
            ..Default::default()
        });
        snapshot.servers.push(Server::default());
        snapshot
    }

    fn gates(syn_proxy: SynProxy) -> SynGates {
        let mut gates = SynGates::default();
        gates.configure(&snapshot(syn_proxy), 0);
        gates
    }

    /// So many SYNs, spread over the second from `now`; whether the last was answered.
    fn second(gates: &mut SynGates, syns: u32, now: u32) -> bool {
        (0..syns)
            .map(|n| gates.answers::<Ipv4Addr>(WEB, now.wrapping_add(n * 999 / syns)))
            .last()
            .unwrap_or(false)
    }

    #[test]
    fn on_and_off_are_what_they_say() {
        let mut off = gates(SynProxy::Off);
        let mut on = gates(SynProxy::On);
        assert!(!off.any() && on.any());
        for now in [0, 5, 100_000] {
            assert!(!off.answers::<Ipv4Addr>(WEB, now) && !off.expects_cookies(WEB, now));
            assert!(on.answers::<Ipv4Addr>(WEB, now) && on.expects_cookies(WEB, now));
            assert_eq!((off.pass(now), on.pass(now)), (Some((WEB, false)), Some((WEB, true))));
        }
        assert!(!on.answers::<Ipv6Addr>(WEB, 0), "no server of that family");
    }

    #[test]
    fn auto_turns_on_at_the_limit_and_off_well_below_it() {
        let mut gates = gates(SynProxy::Auto { above: 100 });
        // Just before the clock wraps.
        let mut now = 5_000u32.wrapping_neg();
        for _ in 0..10 {
            assert!(!second(&mut gates, 99, now));
            assert_eq!(gates.pass(now), Some((WEB, false)));
            now = now.wrapping_add(1000);
        }
        assert!(second(&mut gates, 100, now), "the hundredth");
        now = now.wrapping_add(1000);
        // Half the limit keeps it on for ever.
        for _ in 0..30 {
            assert!(second(&mut gates, 50, now));
            now = now.wrapping_add(1000);
        }
        for n in 0..QUIET_SECONDS {
            assert!(second(&mut gates, 49, now), "quiet second {n}");
            now = now.wrapping_add(1000);
        }
        assert!(!second(&mut gates, 49, now));
    }

    #[test]
    fn auto_turns_off_when_nothing_comes_any_more() {
        let mut gates = gates(SynProxy::Auto { above: 3 });
        assert!(second(&mut gates, 3, 0));
        assert_eq!(gates.pass(QUIET_SECONDS * 1000), Some((WEB, true)));
        assert_eq!(gates.pass((QUIET_SECONDS + 1) * 1000), Some((WEB, false)));
        assert!(!gates.answers::<Ipv4Addr>(WEB, 20_000));
    }

    #[test]
    fn late_acks_are_expected_as_long_as_a_cookie_is_good() {
        let mut gates = gates(SynProxy::On);
        assert!(gates.answers::<Ipv4Addr>(WEB, 7));
        gates.answered(WEB, 7);
        gates.configure(&snapshot(SynProxy::Off), 0);
        assert!(!gates.answers::<Ipv4Addr>(WEB, 8));
        assert!(gates.expects_cookies(WEB, 7 + VALIDITY_MS - 1));
        assert!(!gates.expects_cookies(WEB, 7 + VALIDITY_MS));
        gates.pass(7 + VALIDITY_MS);
        assert!(!gates.expects_cookies(WEB, 8), "nor when the clock comes round");
    }

    #[test]
    fn a_worker_has_its_share() {
        let mut snapshot = snapshot(SynProxy::Auto { above: 100 });
        snapshot.worker_of = std::array::from_fn(|bucket| (bucket % 4) as u8);
        let mut gates = SynGates::default();
        gates.configure(&snapshot, 2);
        assert!(!second(&mut gates, 24, 0));
        assert!(gates.answers::<Ipv4Addr>(WEB, 999));
        // No share at all counts as one.
        gates.configure(&snapshot, 9);
        assert_eq!(gates.gates[0].limit, 1);
    }
}
