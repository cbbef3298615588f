//! The routing table that ports and static routes make: used to check the configuration and to
//! compile it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::datapath::snapshot::{PortId, Route, RouteTarget};

/// The routes of both families, longest prefix first. Of equal prefixes a connected network comes
/// before a static route, and then what stands first in the file.
///
/// `addresses` are those of the ports, `PortId(0)` first; `fixed` are destinations and gateways. A
/// gateway that is on no port's network gives no route.
pub(in crate::manage) fn routes<'a>(
    addresses: impl IntoIterator<Item = (PortId, &'a IpNet)>,
    fixed: impl IntoIterator<Item = (IpNet, IpAddr)>,
) -> Vec<Route> {
    let mut connected: Vec<Route> = Vec::new();
    for (port, address) in addresses {
        let route = Route { to: address.trunc(), target: RouteTarget { port, via: None } };
        if !connected.contains(&route) {
            connected.push(route);
        }
    }
    longest_first(&mut connected);

    let mut all = connected.clone();
    for (to, via) in fixed {
        if let Some(link) = lookup(&connected, via) {
            all.push(Route { to, target: RouteTarget { port: link.port, via: Some(via) } });
        }
    }
    longest_first(&mut all);
    all
}

/// The way to an address, `routes` being sorted as [`routes`] does it.
pub(in crate::manage) fn lookup(routes: &[Route], address: IpAddr) -> Option<RouteTarget> {
    routes.iter().find(|route| route.to.contains(&address)).map(|route| route.target)
}

fn longest_first(routes: &mut [Route]) {
    routes.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
}
