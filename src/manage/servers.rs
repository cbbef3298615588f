//! The health of every real server: what is checked, what came of it, what it means for the snapshot.

use std::net::SocketAddr;

use log::{info, warn};

use crate::datapath::snapshot::{PortRole, Snapshot};
use crate::manage::config::{Config, Health, HealthCheck};
use crate::manage::health::{CheckResult, HealthState, Target};
use crate::session::ServerId;

/// The checks of one server.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) kind: &'static str,
    pub(super) checks: u64,
    pub(super) changed_ms: u64,
    pub(super) latency_ms: Option<f64>,
    pub(super) error: Option<String>,
    state: HealthState,
}

/// The checks of all servers, by [`ServerId`].
#[derive(Debug, Default)]
pub(super) struct Checks {
    checked: Vec<Option<Checked>>,
}

/// What [`Checks::record`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) server: ServerId,
    pub(super) up: bool,
}

impl Checks {
    /// No checks done yet. Returns also what has to be checked.
    pub(super) fn new(now_ms: u64, config: &Config, snapshot: &Snapshot) -> (Self, Vec<Target>) {
        let mut checked: Vec<Option<Checked>> = snapshot.servers.iter().map(|_| None).collect();
        let mut targets = Vec::new();
        for (server, health) in checked_servers(config, snapshot) {
            let at = &snapshot.servers[usize::from(server.0)];
            checked[usize::from(server.0)] = Some(Checked {
                kind: match health.check {
                    HealthCheck::Tcp => "tcp",
                    HealthCheck::Http { .. } => "http",
                },
                checks: 0,
                changed_ms: now_ms,
                latency_ms: None,
                error: None,
                state: HealthState::new(health.rise, health.fall),
            });
            targets.push(Target {
                server,
                address: SocketAddr::new(at.address, health.port.unwrap_or(at.port)),
                device: exception_of(config, snapshot, server),
                health: health.clone(),
            });
        }
        (Checks { checked }, targets)
    }

    /// The checks of a server; `None` when it is not checked.
    pub(super) fn of(&self, server: ServerId) -> Option<&Checked> {
        self.checked.get(usize::from(server.0))?.as_ref()
    }

    /// Whether every server that is checked has been found up or down.
    pub(super) fn are_decided(&self) -> bool {
        self.checked.iter().flatten().all(|checked| checked.state.is_decided())
    }

    /// Whether a server has been found up or down, or is not checked.
    pub(super) fn is_decided(&self, server: ServerId) -> bool {
        self.of(server).is_none_or(|checked| checked.state.is_decided())
    }

    /// Takes the outcome of a check in and logs a new verdict.
    pub(super) fn record(
        &mut self,
        now_ms: u64,
        snapshot: &Snapshot,
        result: &CheckResult,
    ) -> Option<Verdict> {
        let checked = self.checked.get_mut(usize::from(result.server.0))?.as_mut()?;
        checked.checks += 1;
        match &result.outcome {
            Ok(took) => {
                checked.latency_ms = Some(took.as_secs_f64() * 1_000.0);
                checked.error = None;
            }
            Err(cause) => checked.error = Some(cause.clone()),
        }
        let up = checked.state.record(result.outcome.is_ok())?;
        checked.changed_ms = now_ms;
        let name = server_name(snapshot, result.server);
        match &result.outcome {
            Ok(took) => info!("{name} is up ({} check, {} ms)", checked.kind, took.as_millis()),
            Err(cause) => warn!("{name} is down ({} check: {cause})", checked.kind),
        }
        Some(Verdict { server: result.server, up })
    }

    /// What the service of a server that has just gone down lost with it: its last server, or the
    /// last of that address family. Nothing is lost as long as others wait for their first check.
    pub(super) fn lost(&self, snapshot: &Snapshot, down: ServerId) -> Option<String> {
        let server = snapshot.servers.get(usize::from(down.0))?;
        let service = snapshot.services.get(usize::from(server.service.0))?;
        if service.servers.iter().any(|&id| !self.is_decided(id)) {
            return None;
        }
        let mut left =
            service.servers.iter().filter(|&&id| takes_sessions(snapshot, id)).peekable();
        let name = &service.name;
        if left.peek().is_none() {
            return Some(format!("service {name} has no server left: new connections are dropped"));
        }
        let v4 = server.address.is_ipv4();
        let same = |id: &ServerId| snapshot.servers[usize::from(id.0)].address.is_ipv4() == v4;
        let family = if v4 { "IPv4" } else { "IPv6" };
        (!left.any(same)).then(|| {
            format!(
                "service {name} has no {family} server left: new {family} connections are dropped"
            )
        })
    }
}

/// Takes the servers that have a check down, until their first check has passed. For the snapshot
/// the workers start with. `true` when something changed.
pub fn await_first_check(config: &Config, snapshot: &mut Snapshot) -> bool {
    let mut changed = false;
    for (server, _) in checked_servers(config, snapshot) {
        let up = &mut snapshot.servers[usize::from(server.0)].up;
        changed |= std::mem::replace(up, false);
    }
    changed
}

/// Whether a server gets new sessions.
pub(super) fn takes_sessions(snapshot: &Snapshot, server: ServerId) -> bool {
    snapshot.servers.get(usize::from(server.0)).is_some_and(|s| s.up && s.weight > 0)
}

/// The servers that have a check, with it. Services are found by name and servers by address.
fn checked_servers<'c>(config: &'c Config, snapshot: &Snapshot) -> Vec<(ServerId, &'c Health)> {
    let mut found = Vec::new();
    for service in &config.services {
        let Some(health) = &service.health else { continue };
        let Some(compiled) = snapshot.services.iter().find(|s| s.name == service.name) else {
            continue;
        };
        for &id in &compiled.servers {
            let at = &snapshot.servers[usize::from(id.0)];
            if service.servers.iter().any(|s| s.address == SocketAddr::new(at.address, at.port)) {
                found.push((id, health));
            }
        }
    }
    found
}

/// The exception tap of the port by which a server is reached.
fn exception_of(config: &Config, snapshot: &Snapshot, server: ServerId) -> Option<String> {
    let server = &snapshot.servers[usize::from(server.0)];
    let port = snapshot.ports.get(usize::from(server.route.port.0))?;
    let PortRole::Wire { .. } = port.role else { return None };
    config.ports.iter().find(|p| p.name == port.name)?.exception.clone()
}

/// `server 10.0.0.11:8080 of service web`, for logs.
fn server_name(snapshot: &Snapshot, id: ServerId) -> String {
    let server = &snapshot.servers[usize::from(id.0)];
    let service =
        snapshot.services.get(usize::from(server.service.0)).map_or("?", |s| s.name.as_str());
    format!("server {} of service {service}", SocketAddr::new(server.address, server.port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing;
    use std::time::Duration;

    #[test]
    fn targets_come_from_checked_services_only() {
        let (mut config, snapshot) = (testing::config(), testing::snapshot());
        config.ports[1].exception = Some("sl-back".into());
        config.services[0].health.as_mut().unwrap().port = Some(9_000);
        let (checks, targets) = Checks::new(0, &config, &snapshot);
        let seen: Vec<_> =
            targets.iter().map(|t| (t.server.0, t.address.to_string(), t.device.clone())).collect();
        let tap = Some("sl-back".to_string());
        assert_eq!(
            seen,
            [(0, "10.0.0.11:9000".to_string(), tap.clone()), (1, "10.9.0.12:9000".into(), tap)]
        );
        assert!(checks.of(ServerId(1)).is_some());
        assert!(checks.of(ServerId(2)).is_none());
    }

    #[test]
    fn checked_servers_start_down() {
        let (config, mut snapshot) = (testing::config(), testing::snapshot());
        assert!(await_first_check(&config, &mut snapshot));
        assert!(!await_first_check(&config, &mut snapshot));
        assert_eq!(snapshot.servers.iter().map(|s| s.up).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn outcomes_are_kept_and_become_verdicts() {
        let (config, snapshot) = (testing::config(), testing::snapshot());
        let (mut checks, _) = Checks::new(5, &config, &snapshot);
        let server = ServerId(1);
        let good = CheckResult { server, outcome: Ok(Duration::from_micros(1_500)) };
        let bad = CheckResult { server, outcome: Err("connection refused".into()) };
        let up = |up| Some(Verdict { server, up });
        assert_eq!(checks.record(10, &snapshot, &good), up(true));
        assert_eq!(checks.record(20, &snapshot, &bad), None);
        assert_eq!(checks.record(30, &snapshot, &bad), None);
        assert_eq!(checks.record(40, &snapshot, &bad), up(false));
        let c = checks.of(server).unwrap();
        assert_eq!((c.checks, c.changed_ms, c.latency_ms), (4, 40, Some(1.5)));
        assert_eq!(c.error.as_deref(), Some("connection refused"));
        assert_eq!(checks.record(50, &snapshot, &good), None);
        assert_eq!(checks.of(server).unwrap().error, None);
        let unknown = CheckResult { server: ServerId(99), outcome: Err(String::new()) };
        assert_eq!(checks.record(60, &snapshot, &unknown), None);
    }

    #[test]
    fn what_a_service_loses() {
        let (config, mut snapshot) = (testing::config(), testing::snapshot());
        let (mut checks, _) = Checks::new(0, &config, &snapshot);
        await_first_check(&config, &mut snapshot);
        let bad = |n| CheckResult { server: ServerId(n), outcome: Err("refused".into()) };
        checks.record(1, &snapshot, &bad(0));
        assert_eq!(checks.lost(&snapshot, ServerId(0)), None, "the other was not checked yet");
        checks.record(2, &snapshot, &bad(1));
        let all = "service web has no server left: new connections are dropped";
        assert_eq!(checks.lost(&snapshot, ServerId(1)).as_deref(), Some(all));
        snapshot.servers[0].up = true;
        assert_eq!(checks.lost(&snapshot, ServerId(1)), None);
        snapshot.servers[1].address = "2001:db8::12".parse().unwrap();
        let family = "service web has no IPv6 server left: new IPv6 connections are dropped";
        assert_eq!(checks.lost(&snapshot, ServerId(1)).as_deref(), Some(family));
    }
}
