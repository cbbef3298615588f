//! Checks of filters, lists, mirrors and limits against the rest of the file.

use std::net::IpAddr;

use ipnet::IpNet;

use super::draft::{Draft, PortDraft};
use super::guard::{FilterDraft, MirrorDraft};
use super::network::lookup;
use super::reader::{At, List, Report};
use super::snat;
use super::validate::Once;
use crate::datapath::filter::MAX_FILTERS;
use crate::datapath::mirror::MAX_MIRRORS;
use crate::datapath::snapshot::{Route, RouteTarget, Side};
use crate::wire::flow::Protocol;
use crate::wire::ip_protocol;

/// Checks all of it.
pub(super) fn check(draft: &Draft, report: &Report<'_>) {
    let guard = &draft.guard;
    unique("[[filter]]", guard.filters.iter().map(|f| &f.name), report);
    unique("[[list]]", guard.lists.iter().map(|l| &l.name), report);
    unique("[[mirror]]", guard.mirrors.iter().map(|m| &m.name), report);
    if let Some(filter) = guard.filters.get(MAX_FILTERS) {
        let message = format!("is one too many; at most {MAX_FILTERS} filters are possible");
        report.error(filter.line, "[[filter]]", "", message);
    }
    if let Some(mirror) = guard.mirrors.get(MAX_MIRRORS) {
        let message = format!("is one too many; at most {MAX_MIRRORS} mirrors are possible");
        report.error(mirror.line, "[[mirror]]", "", message);
    }
    protection(draft, report);
    for filter in &guard.filters {
        transport(filter, report);
        families(filter, report);
        if guard.whole {
            let lists: Vec<_> = guard.lists.iter().map(|l| &l.name).collect();
            known(filter.list.as_ref(), &lists, ("[[filter]]", "list", "list"), report);
        }
        let ports: Vec<_> = draft.ports.iter().map(|p| &p.name).collect();
        known(filter.port.as_ref(), &ports, ("[[filter]]", "port", "port"), report);
    }
    for mirror in &guard.mirrors {
        sensor_port(draft, mirror, report);
    }
    services(draft, report);
    unused(draft, report);
}

/// What nothing asks for is right, but hardly meant.
fn unused(draft: &Draft, report: &Report<'_>) {
    let guard = &draft.guard;
    let names = |given: Option<&At<Option<String>>>, name: &str| {
        given.is_none_or(|at| at.value.as_deref() == Some(name))
    };
    for list in &guard.lists {
        if let Some(name) = &list.name
            && !guard.filters.iter().any(|filter| names(filter.list.as_ref(), &name.value))
        {
            let message = format!("{:?} is used by no filter (key list)", name.value);
            report.warning(list.line, "[[list]]", "", message);
        }
    }
    for mirror in &guard.mirrors {
        if let Some(name) = &mirror.name
            && mirror.matching.whole
            && mirror.matching.items.is_empty()
            && !draft.services.iter().any(|service| names(service.mirror.as_ref(), &name.value))
        {
            let message = format!(
                "{:?} gets no packet: it has no match, and no service names it (key mirror)",
                name.value
            );
            report.warning(mirror.line, "[[mirror]]", "", message);
        }
    }
}

/// Nothing else is at a sensor's port: what leads there would be lost at the sensor, which answers
/// nothing. All ports and routes are right; `connected` has the networks of the ports alone.
pub(super) fn sensor_reach(
    draft: &Draft,
    connected: &[Route],
    table: &[Route],
    report: &Report<'_>,
) {
    for mirror in &draft.guard.mirrors {
        let Some(port) = &mirror.port else { continue };
        let at_sensor = |table: &[Route], ip: IpAddr| {
            let port_of = |target: RouteTarget| &draft.ports[usize::from(target.port.0)];
            let name = lookup(table, ip).and_then(|target| port_of(target).name.as_ref());
            name.is_some_and(|name| name.value == port.value)
        };
        let servers = draft.services.iter().flat_map(|service| &service.servers);
        let servers = servers.filter_map(|server| server.address.as_ref());
        let servers = servers.map(|at| ("server", at.value.ip(), at.line, table));
        let gateways = draft.routes.iter().filter_map(|route| route.via.as_ref());
        let gateways = gateways.map(|at| ("gateway", at.value, at.line, connected));
        let listens = draft.services.iter().flat_map(|service| &service.listen.items);
        let listens = listens.map(|at| ("virtual address", at.value.ip(), at.line, connected));
        let pools = snat::pool_addresses(draft);
        let pools = pools.map(|(ip, line)| ("pool address", ip, line, connected));
        for (what, ip, line, table) in servers.chain(gateways).chain(listens).chain(pools) {
            if at_sensor(table, ip) {
                let message = format!(
                    "the {what} {ip} (line {line}) is reached by {:?}, and a sensor's port carries \
                     nothing but copies; give the sensor a port of its own",
                    port.value
                );
                report.error(port.line, "[[mirror]]", "port", message);
                break;
            }
        }
    }
}

/// Each name once.
fn unique<'a>(
    section: &str,
    names: impl Iterator<Item = &'a Option<At<String>>>,
    report: &Report<'_>,
) {
    let mut once = Once::new();
    for name in names.flatten() {
        if let Some(line) = once.repeated(&name.value, name.line) {
            let message = format!("{:?} stands already (line {line})", name.value);
            report.error(name.line, section, "name", message + "; give each its own");
        }
    }
}

/// A name that is given must be one of `names`, those of the `[[table]]`s. Not checked when one of these could not be read.
pub(super) fn known(
    given: Option<&At<Option<String>>>,
    names: &[&Option<At<String>>],
    (section, key, table): (&str, &str, &str),
    report: &Report<'_>,
) {
    let Some(At { value: Some(given), line }) = given else { return };
    let all: Option<Vec<&String>> =
        names.iter().map(|name| name.as_ref().map(|name| &name.value)).collect();
    let Some(all) = all.filter(|all| !all.contains(&given)) else { return };
    let quoted: Vec<_> = all.iter().map(|name| format!("{name:?}")).collect();
    let message = match quoted.is_empty() {
        true => format!("{given:?} is unknown; there is no [[{table}]] in the file"),
        false => format!("{given:?} is unknown; expected {}", quoted.join(", ")),
    };
    report.error(*line, section, key, message);
}

/// Ports and flags are those of a protocol that has them.
fn transport(filter: &FilterDraft, report: &Report<'_>) {
    let Some(protocol) = &filter.protocol else { return };
    let (tcp, udp) =
        (protocol.value == Some(ip_protocol::TCP), protocol.value == Some(ip_protocol::UDP));
    for (key, ports) in
        [("source_ports", &filter.source_ports), ("destination_ports", &filter.destination_ports)]
    {
        if let Some(port) = ports.items.first()
            && !tcp
            && !udp
        {
            let message = "only for protocol = \"tcp\" or \"udp\"; add that";
            report.error(port.line, "[[filter]]", key, message);
        }
    }
    if let Some(At { value: Some(_), line }) = filter.tcp_flags
        && !tcp
    {
        let message = "only for protocol = \"tcp\"; add that";
        report.error(line, "[[filter]]", "tcp_flags", message);
    }
}

/// Some packet can match: its addresses and its protocol are of one family.
fn families(filter: &FilterDraft, report: &Report<'_>) {
    let Some(protocol) = &filter.protocol else { return };
    let can_be = |v4: bool| {
        let has = |list: &List<IpNet>| {
            let of_family = |at: &At<IpNet>| at.value.addr().is_ipv4() == v4;
            !list.whole || list.items.is_empty() || list.items.iter().any(of_family)
        };
        let other = if v4 { ip_protocol::ICMPV6 } else { ip_protocol::ICMP };
        has(&filter.sources) && has(&filter.destinations) && protocol.value != Some(other)
    };
    if !can_be(true) && !can_be(false) {
        let message = "matches no packet: source, destination and protocol are not of one family; \
                       make them IPv4 or IPv6";
        report.error(filter.line, "[[filter]]", "", message);
    }
}

/// It looks at ports towards clients alone, so there must be one.
fn protection(draft: &Draft, report: &Report<'_>) {
    let towards_clients =
        |p: &PortDraft| p.side.as_ref().is_none_or(|side| side.value == Side::Client);
    if draft.ports.iter().any(towards_clients) {
        return;
    }
    for (key, on) in [("bogons", &draft.guard.bogons), ("reverse_path", &draft.guard.reverse_path)]
    {
        if let Some(At { value: true, line }) = on {
            let message =
                "looks only at ports whose side is \"client\", and there is none; leave it out";
            report.error(*line, "[protection]", key, message);
        }
    }
}

/// The sensor's port exists and takes every packet that can be copied.
fn sensor_port(draft: &Draft, mirror: &MirrorDraft, report: &Report<'_>) {
    let Some(port) = &mirror.port else { return };
    let names: Vec<_> = draft.ports.iter().map(|p| &p.name).collect();
    let given = At { value: Some(port.value.clone()), line: port.line };
    known(Some(&given), &names, ("[[mirror]]", "port", "port"), report);
    let sensor =
        draft.ports.iter().find(|p| p.name.as_ref().is_some_and(|name| name.value == port.value));
    let Some(sensor) = sensor else { return };
    let lips = sensor.local_addresses.items.first().map(|lip| ("local_addresses", lip.line));
    let tap = sensor.exception.as_ref().filter(|tap| tap.value.is_some());
    for (key, line) in lips.into_iter().chain(tap.map(|tap| ("an exception", tap.line))) {
        let message = format!(
            "{:?} has {key} (line {line}), and a sensor's port carries nothing but copies; leave that \
             out, or give the sensor a port of its own",
            port.value
        );
        report.error(port.line, "[[mirror]]", "port", message);
    }
    let Some(mtu) = &sensor.mtu else { return };
    let largest = draft.ports.iter().filter_map(|p| p.mtu.as_ref()).map(|mtu| mtu.value).max();
    if let Some(largest) = largest.filter(|largest| *largest > mtu.value) {
        let message = format!(
            "the mtu of {:?} is {}, but another port's is {largest}; give both {largest}",
            port.value, mtu.value
        );
        report.error(port.line, "[[mirror]]", "port", message);
    }
}

fn services(draft: &Draft, report: &Report<'_>) {
    let mirrors: Vec<_> = draft.guard.mirrors.iter().map(|m| &m.name).collect();
    for service in &draft.services {
        if draft.guard.whole {
            known(service.mirror.as_ref(), &mirrors, ("[[service]]", "mirror", "mirror"), report);
        }
        let udp = service.protocol.as_ref().is_some_and(|p| p.value == Protocol::Udp);
        let Some(limits) = service.limits.as_ref().filter(|_| udp) else { continue };
        for (key, limit) in [
            ("half_open", limits.value.half_open),
            ("source_half_open", limits.value.source_half_open),
        ] {
            if limit != 0 {
                let message = "only for a tcp service: udp has no handshake; leave it out";
                report.error(limits.line, "[service.limits]", key, message);
            }
        }
    }
}
