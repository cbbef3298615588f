//! Can every gateway, neighbor and server be reached, and by a port that fits?
//!
//! These checks need all ports and routes: when one of those could not be read, what would only be
//! a consequence of that is not reported.

use super::addresses::{Ours, called};
use super::draft::{Draft, PortDraft, ServerDraft, ServiceDraft};
use super::network::{lookup, routes};
use super::reader::{At, Report};
use super::validate::{Once, family};
use super::{guard_checks, tunnel};
use crate::datapath::counters::MAX_PORTS;
use crate::datapath::snapshot::{PortId, Route, Side};
use crate::session::Mode;

/// Checks gateways, neighbors and servers.
pub(super) fn check(draft: &Draft, ours: &Ours, report: &Report<'_>) {
    neighbors(draft, report);
    let ports_whole = draft.ports.iter().all(|p| p.addresses.whole);
    if !draft.whole || !ports_whole || draft.ports.is_empty() || draft.ports.len() > MAX_PORTS {
        return;
    }
    let connected = routes(addresses(draft), []);
    let mut all_routes_good = true;
    let mut destinations = Once::new();
    for route in &draft.routes {
        let (Some(to), Some(via)) = (&route.to, &route.via) else {
            all_routes_good = false;
            continue;
        };
        let error = |key, line, message: String| report.error(line, "[[route]]", key, message);
        if let Some(line) = destinations.repeated(to.value, to.line) {
            let message = format!("{} has a route already (line {line})", to.value);
            error("to", to.line, message + "; keep one");
            all_routes_good = false;
        }
        if let Some(link) = connected.iter().find(|c| c.to == to.value) {
            let port = called(&draft.ports[usize::from(link.target.port.0)]);
            error("to", to.line, format!("{} is the network of {port}; leave it out", to.value));
            all_routes_good = false;
        }
        if family(to.value.addr()) != family(via.value) {
            let message = format!("{} is not of the family of {}", via.value, to.value);
            error("via", via.line, format!("{message}; expected {}", family(to.value.addr())));
            all_routes_good = false;
        } else if lookup(&connected, via.value).is_none() {
            let message = format!("{} is on no port's network; expected a neighbor", via.value);
            error("via", via.line, message);
            all_routes_good = false;
        }
    }
    if all_routes_good {
        let fixed = draft.routes.iter().filter_map(|r| Some((r.to.as_ref()?, r.via.as_ref()?)));
        let table = routes(addresses(draft), fixed.map(|(to, via)| (to.value, via.value)));
        servers(draft, &table, ours, report);
        super::snat::check_routes(draft, &table, report);
        tunnel::mtu(draft, &table, report);
        guard_checks::sensor_reach(draft, &connected, &table, report);
    }
}

fn addresses(draft: &Draft) -> impl Iterator<Item = (PortId, &ipnet::IpNet)> {
    draft.ports.iter().zip(0u8..).flat_map(|(port, id)| {
        port.addresses.items.iter().map(move |address| (PortId(id), &address.value))
    })
}

fn neighbors(draft: &Draft, report: &Report<'_>) {
    let mut once = Once::new();
    for neighbor in &draft.neighbors {
        let Some(port_name) = &neighbor.port else { continue };
        let named = |p: &&PortDraft| p.name.as_ref().is_some_and(|n| n.value == port_name.value);
        let Some(port) = draft.ports.iter().find(named) else {
            let names: Vec<_> = draft.ports.iter().filter_map(|p| p.name.as_ref()).collect();
            if names.len() == draft.ports.len() && draft.whole {
                let names = names.iter().map(|n| format!("{:?}", n.value)).collect::<Vec<_>>();
                let message = format!("{:?} is no port", port_name.value);
                let message = format!("{message}; expected {}", names.join(", "));
                report.error(port_name.line, "[[neighbor]]", "port", message);
            }
            continue;
        };
        let Some(address) = &neighbor.address else { continue };
        let error = |message| report.error(address.line, "[[neighbor]]", "address", message);
        if let Some(line) = once.repeated((address.value, &port_name.value), address.line) {
            error(format!("{} is a neighbor already (line {line}); keep one", address.value));
        }
        if port.addresses.whole
            && !port.addresses.items.iter().any(|a| a.value.contains(&address.value))
        {
            let message = format!("{} is on no network of {}", address.value, called(port));
            error(message + "; expected an address on its link");
        }
    }
}

fn servers(draft: &Draft, table: &[Route], ours: &Ours, report: &Report<'_>) {
    for service in &draft.services {
        for server in &service.servers {
            if let Some(address) = &server.address
                && ours.owner(address.value.ip()).is_none()
                && let Some(message) = wrong_way(draft, table, service, server)
            {
                report.error(address.line, "[[service.server]]", "address", message);
            }
        }
    }
}

/// What is wrong with the way to a server.
fn wrong_way(
    draft: &Draft,
    table: &[Route],
    service: &ServiceDraft,
    server: &ServerDraft,
) -> Option<String> {
    let At { value: server, .. } = server.address.as_ref()?;
    let ip = server.ip();
    let Some(target) = lookup(table, ip) else {
        return Some(format!(
            "{ip} cannot be reached; expected an address on a port's network or behind a [[route]]"
        ));
    };
    let port = &draft.ports[usize::from(target.port.0)];
    let mode = service.mode.as_ref()?.value;
    if mode == Mode::Dr {
        // The frame's destination MAC address is all that says which server is meant.
        return target.via.map(|via| {
            format!("{ip} is behind the gateway {via}; dr needs a server on a port's network")
        });
    }
    // Nothing comes back from it.
    if mode.tunnels() {
        return None;
    }
    if port.side.as_ref().is_some_and(|s| s.value == Side::Client) {
        let port = called(port);
        return Some(format!(
            "{ip} is reached by {port}, whose side is \"client\"; make that \"both\" or \"server\""
        ));
    }
    let lips = &port.local_addresses;
    let served = !lips.whole || lips.items.iter().any(|l| l.value.is_ipv4() == ip.is_ipv4());
    (mode == Mode::FullNat && !served).then(|| {
        let (port, family) = (called(port), family(ip));
        format!("{ip} is reached by {port}, which has no {family} local_addresses; add one there")
    })
}
