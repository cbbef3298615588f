//! The addresses of a group and where they live, and the frames that are sent for it: adverts, gratuitous
//! ARP (RFC 5227 2.3), unsolicited neighbor advertisements (RFC 4861 7.2.6).

use std::net::IpAddr;

use crate::datapath::ha::{Group, Ha};
use crate::datapath::snapshot::{LocalAddress, Mac, Port, PortId, PortRole, Snapshot};
use crate::wire::{arp, ethernet, ndp, vrrp};

/// A frame and the port it is to leave by.
pub(super) type Outgoing = (PortId, Vec<u8>);

/// A port on the wire, as far as it matters here.
#[derive(Debug)]
pub(super) struct WirePort {
    id: PortId,
    mac: Mac,
    /// The sources of adverts; `None` without an address of the family.
    sources: [Option<IpAddr>; 2],
}

impl WirePort {
    pub(super) fn id(&self) -> PortId {
        self.id
    }

    pub(super) fn has_addresses(&self) -> bool {
        self.sources.iter().any(Option::is_some)
    }
}

/// All ports on the wire.
pub(super) fn wire_ports(snapshot: &Snapshot) -> Vec<WirePort> {
    let ports = (0u8..).zip(&snapshot.ports);
    let wire = ports.filter(|(_, port)| matches!(port.role, PortRole::Wire { .. }));
    wire.map(|(id, port)| WirePort { id: PortId(id), mac: port.mac, sources: sources(port) })
        .collect()
}

fn sources(port: &Port) -> [Option<IpAddr>; 2] {
    let v6 = port.ipv6.map(|_| IpAddr::V6(vrrp::link_local(port.mac)));
    [port.ipv4.map(IpAddr::V4), v6]
}

/// The addresses of a group.
#[derive(Debug)]
pub(super) struct Addresses {
    group: Group,
    /// Each with the port it lives on; a VIP lives on all of them. Sorted.
    homes: Vec<(IpAddr, Option<PortId>)>,
    /// What adverts name; each family takes its own.
    named: Vec<IpAddr>,
}

impl Addresses {
    /// Those of the group with this index.
    pub(super) fn new(snapshot: &Snapshot, ha: &Ha, index: u8, group: Group) -> Self {
        let mut homes = Vec::new();
        let mut add = |address: IpAddr, local: Option<&LocalAddress>| match local {
            Some(LocalAddress::Vip) => homes.push((address, None)),
            Some(LocalAddress::Lip(port) | LocalAddress::Pool(port) | LocalAddress::Port(port)) => {
                homes.push((address, Some(*port)))
            }
            None => {}
        };
        for (address, _) in ha.group_of_v4.iter().filter(|(_, of)| **of == index) {
            add((*address).into(), snapshot.local_v4.get(address));
        }
        for (address, _) in ha.group_of_v6.iter().filter(|(_, of)| **of == index) {
            add((*address).into(), snapshot.local_v6.get(address));
        }
        homes.sort();
        let vips = homes.iter().filter(|(_, port)| port.is_none()).map(|(address, _)| *address);
        let mut named: Vec<IpAddr> = vips.collect();
        for v6 in [false, true] {
            if !named.iter().any(|a| a.is_ipv6() == v6) {
                named.extend(homes.iter().map(|(a, _)| *a).filter(|a| a.is_ipv6() == v6));
            }
        }
        Addresses { group, homes, named }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.homes.len()
    }

    /// The adverts, one for each port and family.
    pub(super) fn adverts<'a>(
        &'a self,
        ports: &'a [WirePort],
        priority: u8,
        interval_ms: u32,
    ) -> impl Iterator<Item = Outgoing> + 'a {
        let interval_cs = u16::try_from(interval_ms / 10).unwrap_or(vrrp::MAX_INTERVAL_CS);
        let ports =
            ports.iter().flat_map(|port| port.sources.iter().flatten().map(move |s| (port, s)));
        let spoken = move |src: &IpAddr| self.named.iter().any(|a| a.is_ipv6() == src.is_ipv6());
        ports.filter(move |(_, src)| spoken(src)).map(move |(port, src)| {
            let vrid = self.group.vrid;
            let addresses = &self.named;
            let advert = vrrp::Repr { src: *src, vrid, priority, interval_cs, addresses };
            (port.id, advert.frame(self.mac(port, src)))
        })
    }

    /// What tells hosts whose the addresses are, on every port or on one.
    pub(super) fn announcements<'a>(
        &'a self,
        ports: &'a [WirePort],
        only: Option<PortId>,
    ) -> impl Iterator<Item = Outgoing> + 'a {
        let ports = ports.iter().filter(move |port| only.is_none_or(|only| only == port.id));
        ports.flat_map(move |port| {
            let here = self.homes.iter().filter(|(_, home)| home.is_none_or(|at| at == port.id));
            here.map(move |(address, _)| (port.id, announcement(*address, self.mac(port, address))))
        })
    }

    fn mac(&self, port: &WirePort, family_of: &IpAddr) -> Mac {
        match (self.group.virtual_mac, family_of) {
            (false, _) => port.mac,
            (true, IpAddr::V4(_)) => self.group.mac_v4(),
            (true, IpAddr::V6(_)) => self.group.mac_v6(),
        }
    }
}

fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            arp::Repr::gratuitous(mac, address).frame(ethernet::BROADCAST).into()
        }
        IpAddr::V6(address) => {
            let told = ndp::Repr::unsolicited(mac, address);
            told.frame(ethernet::multicast_v6(told.dst)).into()
        }
    }
}
