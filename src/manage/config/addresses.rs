//! Whose address is it? Ports' own addresses, LIPs, VIPs and other hosts must all differ.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::draft::{Draft, PortDraft};
use super::reader::Report;

/// Addresses of this node: who has it, for the reader of an error, and on which line.
pub(super) struct Ours(HashMap<IpAddr, (String, usize)>);

impl Ours {
    /// Who has the address already.
    pub(super) fn owner(&self, ip: IpAddr) -> Option<String> {
        self.0.get(&ip).map(|(owner, line)| format!("{owner} (line {line})"))
    }
    /// Enters an address, unless it is there.
    pub(super) fn add(&mut self, ip: IpAddr, owner: String, line: usize) {
        self.0.entry(ip).or_insert((owner, line));
    }
}

/// Checks that no address means two things; gives the addresses of this node.
pub(super) fn check(draft: &Draft, report: &Report<'_>) -> Ours {
    let mut ours = Ours(HashMap::new());
    port_addresses(draft, &mut ours, report);
    networks(draft, report);
    for port in &draft.ports {
        for lip in &port.local_addresses.items {
            if let Some(owner) = ours.owner(lip.value) {
                let message = format!("{} is {owner}; give another address", lip.value);
                report.error(lip.line, "[[port]]", "local_addresses", message);
            }
            ours.add(lip.value, format!("a local address of {}", called(port)), lip.line);
        }
    }
    super::snat::add_pools(draft, &mut ours, report);
    virtual_addresses(draft, &mut ours, report);
    other_hosts(draft, &ours, report);
    no_hosts(draft, report);
    ours
}

/// How an error calls a port.
pub(super) fn called(port: &PortDraft) -> String {
    match &port.name {
        Some(name) => format!("port {:?}", name.value),
        None => "a port without a name".to_owned(),
    }
}

fn port_addresses(draft: &Draft, ours: &mut Ours, report: &Report<'_>) {
    for port in &draft.ports {
        for address in &port.addresses.items {
            let ip = address.value.addr();
            if let Some(owner) = ours.owner(ip) {
                let message = format!("{ip} is {owner}; give another address");
                report.error(address.line, "[[port]]", "addresses", message);
            }
            ours.add(ip, format!("an address of {}", called(port)), address.line);
        }
    }
}

/// A network on two ports would leave open by which one its hosts are reached.
fn networks(draft: &Draft, report: &Report<'_>) {
    let mut networks: HashMap<_, (usize, usize)> = HashMap::new();
    for (index, port) in draft.ports.iter().enumerate() {
        for address in &port.addresses.items {
            let network = address.value.trunc();
            let (first, line) = *networks.entry(network).or_insert((index, address.line));
            if first != index {
                let message = format!(
                    "{network} is the network of {} (line {line}); give each port its own network",
                    called(&draft.ports[first])
                );
                report.error(address.line, "[[port]]", "addresses", message);
            }
        }
    }
}

fn virtual_addresses(draft: &Draft, ours: &mut Ours, report: &Report<'_>) {
    for service in &draft.services {
        for listen in &service.listen.items {
            // Several services may share a VIP, so none of them is entered before all are checked.
            if let Some(owner) = ours.owner(listen.value.ip()) {
                let message = format!(
                    "{} is {owner}; give the service an address of its own",
                    listen.value.ip()
                );
                report.error(listen.line, "[[service]]", "listen", message);
            }
        }
    }
    for service in &draft.services {
        for listen in &service.listen.items {
            let owner = match &service.name {
                Some(name) => format!("a virtual address of service {:?}", name.value),
                None => "a virtual address".to_owned(),
            };
            ours.add(listen.value.ip(), owner, listen.line);
        }
    }
}

fn other_hosts(draft: &Draft, ours: &Ours, report: &Report<'_>) {
    let servers = draft.services.iter().flat_map(|s| &s.servers).filter_map(|s| {
        let at = s.address.as_ref()?;
        Some(("[[service.server]]", "address", at.value.ip(), at.line, "a server"))
    });
    let neighbors = draft.neighbors.iter().filter_map(|n| {
        let at = n.address.as_ref()?;
        Some(("[[neighbor]]", "address", at.value, at.line, "a neighbor"))
    });
    let gateways = draft.routes.iter().filter_map(|r| {
        let at = r.via.as_ref()?;
        Some(("[[route]]", "via", at.value, at.line, "a gateway"))
    });
    let inside = super::snat::inside_hosts(draft)
        .map(|(ip, line)| ("[[snat.forward]]", "internal", ip, line, "a host inside"));
    let peer = peer(draft).map(|(ip, line)| ("[ha]", "peer", ip, line, "the peer"));
    let hosts = servers.chain(neighbors).chain(gateways).chain(inside).chain(peer);
    for (section, key, ip, line, what) in hosts {
        if let Some(owner) = ours.owner(ip) {
            let message = format!("{ip} is {owner}; {what} is another host");
            report.error(line, section, key, message);
        }
    }
}

/// The other node of the pair, with its line.
fn peer(draft: &Draft) -> Option<(IpAddr, usize)> {
    let at = draft.ha.as_ref()?.as_ref()?.peer.as_ref()?;
    Some((at.value, at.line))
}

/// The first and the last address of a port's IPv4 network are nobody's: hosts there take them for
/// all of the network and do not ask who has them.
fn no_hosts(draft: &Draft, report: &Report<'_>) {
    let lips = draft.ports.iter().flat_map(|p| &p.local_addresses.items);
    let lips = lips.map(|at| ("[[port]]", "local_addresses", at.value, at.line));
    let listens = draft.services.iter().flat_map(|s| &s.listen.items);
    let listens = listens.map(|at| ("[[service]]", "listen", at.value.ip(), at.line));
    let servers = draft.services.iter().flat_map(|s| &s.servers).filter_map(|s| {
        let at = s.address.as_ref()?;
        Some(("[[service.server]]", "address", at.value.ip(), at.line))
    });
    let gateways = draft.routes.iter().filter_map(|r| r.via.as_ref());
    let gateways = gateways.map(|at| ("[[route]]", "via", at.value, at.line));
    let neighbors = draft.neighbors.iter().filter_map(|n| n.address.as_ref());
    let neighbors = neighbors.map(|at| ("[[neighbor]]", "address", at.value, at.line));
    let pools = super::snat::pool_addresses(draft).map(|(ip, line)| ("[[snat]]", "pool", ip, line));
    let peer = peer(draft).map(|(ip, line)| ("[ha]", "peer", ip, line));
    let all = lips.chain(listens).chain(servers).chain(gateways).chain(neighbors).chain(pools);
    let all = all.chain(peer);
    for (section, key, ip, line) in all {
        for (port, address) in
            draft.ports.iter().flat_map(|p| p.addresses.items.iter().map(move |a| (p, a)))
        {
            let IpNet::V4(net) = address.value.trunc() else { continue };
            let what = match ip {
                _ if net.prefix_len() > 30 => continue,
                IpAddr::V4(ip) if ip == net.network() => "network",
                IpAddr::V4(ip) if ip == net.broadcast() => "broadcast",
                _ => continue,
            };
            let message =
                format!("{ip} is the {what} address of {net}, the network of {}", called(port));
            report.error(line, section, key, message + "; give another address");
            break;
        }
    }
}
