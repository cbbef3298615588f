//! Checks of `[ha]` against the rest of the file.

use std::collections::HashSet;
use std::net::IpAddr;

use super::addresses::{Ours, called};
use super::draft::{Draft, PortDraft};
use super::guard_checks::known;
use super::ha::{EXTRA, HA, HaDraft, PairMode};
use super::reader::{At, List, Report};
use super::snat;
use super::validate::{Once, family};
use crate::datapath::ha::MAX_GROUPS;

/// The largest datagram of session sync with its UDP header, without that of IP.
const SYNC_DATAGRAM: u16 = 1_400 + 8;

/// Checks all of it.
pub(super) fn check(draft: &Draft, ours: &Ours, report: &Report<'_>) {
    let Some(Some(ha)) = &draft.ha else { return };
    sync_port(draft, ha, ours, report);
    sync_group(ha, report);
    tracked(draft, ha, report);
    groups(ha, report);
    addresses(draft, ha, report);
}

/// The port to the peer exists, has an address in its network and takes whole datagrams.
fn sync_port(draft: &Draft, ha: &HaDraft, ours: &Ours, report: &Report<'_>) {
    let Some(name) = &ha.sync_port else { return };
    let names: Vec<_> = draft.ports.iter().map(|p| &p.name).collect();
    let given = At { value: Some(name.value.clone()), line: name.line };
    known(Some(&given), &names, (HA, "sync_port", "port"), report);
    let is_it = |p: &&PortDraft| p.name.as_ref().is_some_and(|n| n.value == name.value);
    let Some(port) = draft.ports.iter().find(is_it) else { return };
    if draft.guard.has_sensor_on(&name.value) {
        let message = "is a sensor's port, which carries nothing but copies; name another port";
        report.error(name.line, HA, "sync_port", format!("{:?} {message}", name.value));
        return;
    }
    let Some(peer) = &ha.peer else { return };
    // That it is ours is said elsewhere.
    if port.addresses.whole && ours.owner(peer.value).is_none() {
        let networks = &port.addresses.items;
        if !networks.iter().any(|net| net.value.contains(&peer.value)) {
            let list: Vec<_> = networks.iter().map(|n| n.value.trunc().to_string()).collect();
            let message = format!(
                "{} is not on the network of {}; expected the other node's address in {}",
                peer.value,
                called(port),
                list.join(" or ")
            );
            report.error(peer.line, HA, "peer", message);
        }
    }
    let needed = SYNC_DATAGRAM + if peer.value.is_ipv4() { 20 } else { 40 };
    if let Some(mtu) = port.mtu.as_ref().filter(|mtu| mtu.value < needed) {
        let message = format!(
            "the mtu of {:?} is {} (line {}), and what the nodes tell each other comes in packets of \
             up to {needed} bytes; raise it, or name another port",
            name.value, mtu.value, mtu.line
        );
        report.error(name.line, HA, "sync_port", message);
    }
}

fn sync_group(ha: &HaDraft, report: &Report<'_>) {
    if let (Some(At { value: Some(group), line }), Some(peer)) = (&ha.sync_group, &ha.peer)
        && group.is_ipv4() != peer.value.is_ipv4()
    {
        let message = format!(
            "{group} is {}, but the peer {} is {}; give a group of that family",
            family(group.ip()),
            peer.value,
            family(peer.value)
        );
        report.error(*line, HA, "sync_group", message);
    }
}

/// What is tracked exists, and stands once.
fn tracked(draft: &Draft, ha: &HaDraft, report: &Report<'_>) {
    let ports: Vec<_> = draft.ports.iter().map(|p| &p.name).collect();
    let services: Vec<_> = draft.services.iter().map(|s| &s.name).collect();
    let each = |(key, table), list: &List<String>, names: &[&Option<At<String>>]| {
        let mut once = Once::new();
        for at in &list.items {
            let given = At { value: Some(at.value.clone()), line: at.line };
            known(Some(&given), names, (HA, key, table), report);
            if let Some(line) = once.repeated(&at.value, at.line) {
                let message = format!("{:?} stands already (line {line}); keep one", at.value);
                report.error(at.line, HA, key, message);
            }
        }
    };
    if let Some(list) = &ha.track_ports {
        each(("track_ports", "port"), list, &ports);
    }
    each(("track_services", "service"), &ha.track_services, &services);
}

/// Each virtual router id once, and not too many of them.
fn groups(ha: &HaDraft, report: &Report<'_>) {
    let mut vrids = Once::new();
    if let Some(group) = &ha.group {
        vrids.repeated(group.value, group.line);
    }
    for group in ha.extra.iter().filter_map(|extra| extra.group.as_ref()) {
        if let Some(line) = vrids.repeated(group.value, group.line) {
            let message = format!("{} is another group's id (line {line})", group.value);
            report.error(group.line, EXTRA, "group", message + "; give each its own");
        }
    }
    if let Some(extra) = ha.extra.get(MAX_GROUPS - 1) {
        let message = format!("is one too many; at most {MAX_GROUPS} groups are possible");
        report.error(extra.line, EXTRA, "", message);
    }
}

/// The addresses of extra groups are such as can move, and are in one group.
fn addresses(draft: &Draft, ha: &HaDraft, report: &Report<'_>) {
    let vips = draft.services.iter().flat_map(|s| &s.listen.items).map(|at| at.value.ip());
    let lips = draft.ports.iter().flat_map(|p| &p.local_addresses.items).map(|at| at.value);
    let pools = snat::pool_addresses(draft).map(|(ip, _)| ip);
    let movable: HashSet<IpAddr> = vips.chain(lips).chain(pools).collect();
    // Else one of those that could not be read may be meant.
    let whole = draft.services.iter().all(|s| s.listen.whole)
        && draft.ports.iter().all(|p| p.local_addresses.whole)
        && draft.snats.iter().all(snat::SnatDraft::pool_is_whole);
    let mut once = Once::new();
    for at in ha.extra.iter().flat_map(|extra| &extra.addresses.items) {
        if let Some(line) = once.repeated(at.value, at.line) {
            let message = format!("{} is in a group already (line {line}); keep one", at.value);
            report.error(at.line, EXTRA, "addresses", message);
        } else if whole && !movable.contains(&at.value) {
            let message = format!(
                "{} is no address that can move; expected one that a service listens on, one of \
                 local_addresses, or one of a pool of [[snat]]",
                at.value
            );
            report.error(at.line, EXTRA, "addresses", message);
        }
    }
    let backup = ha.mode.as_ref().is_some_and(|mode| mode.value == PairMode::ActiveBackup);
    let extra_whole = ha.extra.iter().all(|extra| extra.addresses.whole);
    let left = movable.iter().any(|ip| !once.has(ip));
    if backup && whole && extra_whole && !left {
        let message =
            "has no address: no service, LIP or pool is left to it; nothing moves with it";
        report.warning(ha.line, HA, "group", message);
    }
}
