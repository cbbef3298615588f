//! Checks of one section against another, but for those of `addresses` and `reach`.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use super::draft::{Draft, PortDraft, ServerDraft, ServiceDraft};
use super::reader::{At, Report};
use super::schema::MAX_WORKERS;
use super::values::{canonical_pci, vdev_name};
use super::{Idle, addresses, guard_checks, ha_checks, reach, selection, snat, syn_proxy};
use crate::datapath::counters::{MAX_PORTS, MAX_SERVERS};
use crate::session::Mode;
use crate::wire::flow::Protocol;

/// Checks the whole draft. What could not be read takes part in no check, so that one mistake is
/// not reported twice.
pub(super) fn check(draft: &Draft, report: &Report<'_>) {
    workers(draft, report);
    devices(draft, report);
    ports(draft, report);
    services(draft, report);
    snat::check(draft, report);
    guard_checks::check(draft, report);
    selection::check(draft, report);
    let ours = addresses::check(draft, report);
    reach::check(draft, &ours, report);
    ha_checks::check(draft, &ours, report);
}

/// Things that may stand only once, and the line where each stood first.
pub(super) struct Once<K>(HashMap<K, usize>);

impl<K: Eq + Hash> Once<K> {
    /// None so far.
    pub(super) fn new() -> Self {
        Once(HashMap::new())
    }
    /// Whether `key` was noted.
    pub(super) fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
    /// Notes `key`; the line where it stood already, if it did.
    pub(super) fn repeated(&mut self, key: K, line: usize) -> Option<usize> {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(line);
                None
            }
        }
    }
}

/// "IPv4" or "IPv6".
pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn workers(draft: &Draft, report: &Report<'_>) {
    let cores = &draft.node.workers.items;
    if let Some(first_too_many) = cores.get(MAX_WORKERS) {
        let message =
            format!("{} workers are too many; at most {MAX_WORKERS} are possible", cores.len());
        report.error(first_too_many.line, "[node]", "workers", message);
    }
    if draft.node.idle != Some(Idle::Spin) {
        return;
    }
    let mut once = Once::new();
    for core in cores {
        if once.repeated(core.value, core.line).is_some() {
            let message = format!(
                "core {} stands twice; workers share a core only with idle = \"yield\"",
                core.value
            );
            report.error(core.line, "[node]", "workers", message);
        }
    }
}

fn devices(draft: &Draft, report: &Report<'_>) {
    let dpdk = &draft.dpdk;
    let mut vdevs = Once::new();
    for vdev in &dpdk.vdevs.items {
        let name = vdev_name(&vdev.value);
        if let Some(line) = vdevs.repeated(name.to_owned(), vdev.line) {
            let message = format!("{name:?} is a vdev already (line {line}); give another name");
            report.error(vdev.line, "[dpdk]", "vdevs", message);
        }
    }
    let mut once = Once::new();
    for port in &draft.ports {
        let Some(At { value: device, line }) = &port.device else { continue };
        let pci = canonical_pci(device);
        if let Some(vlan) = &port.vlan
            && let key = (pci.clone().unwrap_or_else(|| device.clone()), vlan.value)
            && let Some(first) = once.repeated(key, *line)
        {
            let whose = match vlan.value {
                0 => format!("{device:?} is another port's device (line {first})"),
                n => format!("{device:?} with vlan {n} is another port's (line {first})"),
            };
            let message = whose + "; give each a device or a vlan of its own";
            report.error(*line, "[[port]]", "device", message);
        }
        // Extra arguments may bring devices that cannot be seen here.
        if !dpdk.extra_args.whole || !dpdk.extra_args.items.is_empty() {
            continue;
        }
        let known = match &pci {
            // With an empty list, EAL takes every device that is bound to a driver of its own.
            Some(pci) => {
                !dpdk.allow.whole
                    || dpdk.allow.items.is_empty()
                    || dpdk.allow.items.iter().any(|a| a.value == *pci)
            }
            None => {
                !dpdk.vdevs.whole || dpdk.vdevs.items.iter().any(|v| vdev_name(&v.value) == device)
            }
        };
        if !known {
            let list = if pci.is_some() { "allow" } else { "vdevs" };
            let message = format!("{device:?} is not in dpdk.{list}; add it there");
            report.error(*line, "[[port]]", "device", message);
        }
    }
}

fn ports(draft: &Draft, report: &Report<'_>) {
    let (mut names, mut taps) = (Once::new(), Once::new());
    let mut count = 0;
    for port in &draft.ports {
        if let Some(name) = &port.name
            && let Some(line) = names.repeated(&name.value, name.line)
        {
            let message = format!("{:?} is another port's name (line {line})", name.value);
            report.error(name.line, "[[port]]", "name", message + "; give each its own");
        }
        if let Some(At { value: Some(tap), line }) = &port.exception
            && let Some(first) = taps.repeated(tap, *line)
        {
            let message = format!("{tap:?} is another port's tap (line {first})");
            report.error(*line, "[[port]]", "exception", message + "; give each its own");
        }
        mtu(port, report);

        let before = count;
        count += 1 + usize::from(port.exception.as_ref().is_some_and(|e| e.value.is_some()));
        if before <= MAX_PORTS && count > MAX_PORTS {
            let message = format!(
                "is one too many; at most {MAX_PORTS} ports are possible, exception taps included"
            );
            report.error(port.line, "[[port]]", "", message);
        }
    }
}

fn mtu(port: &PortDraft, report: &Report<'_>) {
    // RFC 8200 5: every link that carries IPv6 has an MTU of at least 1280.
    let v6 = port.addresses.items.iter().any(|a| a.value.addr().is_ipv6());
    if let Some(mtu) = &port.mtu
        && v6
        && mtu.value < 1_280
    {
        let message = format!(
            "{} is too small for the port's IPv6 address; expected 1280 to 9216",
            mtu.value
        );
        report.error(mtu.line, "[[port]]", "mtu", message);
    }
}

fn services(draft: &Draft, report: &Report<'_>) {
    let (mut names, mut listens) = (Once::new(), Once::new());
    let mut servers = 0;
    // The sessions of a rule of SNAT are counted like those of two servers.
    let most = MAX_SERVERS.saturating_sub(2 * draft.snats.len());
    for service in &draft.services {
        if let Some(name) = &service.name
            && let Some(line) = names.repeated(&name.value, name.line)
        {
            let message = format!("{:?} is another service's name (line {line})", name.value);
            report.error(name.line, "[[service]]", "name", message + "; give each its own");
        }
        if let Some(protocol) = &service.protocol {
            for listen in &service.listen.items {
                let key = (protocol.value, listen.value);
                if let Some(line) = listens.repeated(key, listen.line) {
                    let message = format!(
                        "{} {} is listened on already (line {line}); one service can have it",
                        protocol.value, listen.value
                    );
                    report.error(listen.line, "[[service]]", "listen", message);
                }
            }
        }
        health(service, report);
        syn_proxy::check(service, report);
        server_list(service, report);

        let before = servers;
        servers += service.servers.len();
        if before <= most && servers > most {
            let message = format!(
                "servers up to this service are {servers}; at most {most} are possible in all"
            );
            report.error(service.line, "[[service]]", "", message);
        }
    }
}

fn health(service: &ServiceDraft, report: &Report<'_>) {
    if let Some(Some(health)) = &service.health
        && let Some(protocol) = &service.protocol
        && protocol.value == Protocol::Udp
        && health.value.port.is_none()
    {
        let message = "missing; a udp service is asked over TCP, so give the port to ask";
        report.error(health.line, "[service.health]", "port", message);
    }
}

fn server_list(service: &ServiceDraft, report: &Report<'_>) {
    const SECTION: &str = "[[service.server]]";
    let error = |line, message| report.error(line, SECTION, "address", message);
    let listens = &service.listen.items;
    let mode = service.mode.as_ref().map(|mode| mode.value);
    let tunnels = mode.is_some_and(Mode::tunnels);
    // In fullnat servers of one family serve both.
    let of_family = |v4: bool| {
        let is = |s: &ServerDraft| s.address.as_ref().is_none_or(|a| a.value.is_ipv4() == v4);
        service.servers.iter().all(is)
    };
    let between_families = mode == Some(Mode::FullNat) && (of_family(true) || of_family(false));
    let mut once = Once::new();
    let mut all_match = service.servers_whole;
    for server in &service.servers {
        let Some(At { value: server, line }) = &server.address else {
            all_match = false;
            continue;
        };
        if let Some(first) = once.repeated(*server, *line) {
            let message = format!("{server} is a server of this service already (line {first})");
            error(*line, message + "; give it a larger weight instead");
        }
        // A tunnel takes either family to either.
        let family_of = |at: &At<SocketAddr>| tunnels || at.value.is_ipv4() == server.is_ipv4();
        if service.listen.whole && !between_families && !listens.iter().any(family_of) {
            let family = family(server.ip());
            error(
                *line,
                format!(
                    "{server} is {family}, but the service has no {family} listen address; add one, \
                     or leave the server out"
                ),
            );
            all_match = false;
        }
        if let Some(mode) = mode.filter(|mode| mode.one_way())
            && let Some(other) =
                listens.iter().find(|l| family_of(l) && l.value.port() != server.port())
        {
            let what = if mode == Mode::Dr { "dr" } else { "a tunnel" };
            let one = listens.iter().all(|l| !family_of(l) || l.value.port() == other.value.port());
            let mend = match one {
                true => {
                    format!("expected {}", SocketAddr::new(server.ip(), other.value.port()))
                }
                false => "give each port of listen a service of its own".to_owned(),
            };
            error(*line, format!("{server}: {what} does not rewrite the port; {mend}"));
        }
    }
    if !all_match || tunnels || between_families {
        return;
    }
    for v4 in [true, false] {
        if let Some(listen) = listens.iter().find(|l| l.value.is_ipv4() == v4)
            && !service.servers.is_empty()
            && !once.0.keys().any(|s| s.is_ipv4() == v4)
        {
            let family = family(listen.value.ip());
            let message = format!(
                "{} is {family}, but the service has no {family} server; add one",
                listen.value
            );
            report.error(listen.line, "[[service]]", "listen", message);
        }
    }
}
