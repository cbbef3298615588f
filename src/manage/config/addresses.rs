//! Whose address is it? Ports' own addresses, LIPs, VIPs and other hosts must all differ.

use std::collections::HashMap;
use std::net::IpAddr;

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
    for (section, key, ip, line, what) in servers.chain(neighbors).chain(gateways) {
        if let Some(owner) = ours.owner(ip) {
            let message = format!("{ip} is {owner}; {what} is another host");
            report.error(line, section, key, message);
        }
    }
}
