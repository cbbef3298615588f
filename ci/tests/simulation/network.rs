//! The two nodes' configurations.
//!
//! ```text
//!  clients ── router ── front wire ──┬── node 0 ──┬── back wire ── servers 11, 12, …
//!                                    └── node 1 ──┘
//! ```
//! The channel of the pair is on the front wire.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashMap;
use shunt::datapath::ha::{Channel, Group, Ha};
use shunt::datapath::selection::Persistence;
use shunt::datapath::snapshot::{LocalAddress, Mac, PortId, Snapshot, SynProxy};
use shunt::session::Mode;
use shunt::wire::flow::Protocol;

use crate::net::{BACK, FRONT, Family, Net, endpoint, ip};
use crate::plan::{Plan, Settings, TIMEOUTS};

pub const VRID: u8 = 10;

pub const fn family(plan: &Plan) -> Family {
    if plan.v6 { Family::V6 } else { Family::V4 }
}

/// The MAC address of a node's port.
pub const fn port_mac(node: usize, port: PortId) -> Mac {
    [2, 0, 0, 0, 0, 0xa0 + 0x10 * port.0 + node as u8]
}

/// The address of a node's port.
pub fn address(node: usize, port: PortId, v6: bool) -> IpAddr {
    let host = 2 + node;
    match (port, v6) {
        (FRONT, false) => ip(&format!("192.0.2.{host}")),
        (FRONT, true) => ip(&format!("2001:db8:1::{host}")),
        (_, false) => ip(&format!("10.0.0.{host}")),
        (_, true) => ip(&format!("2001:db8:2::{host}")),
    }
}

/// Where a service listens.
pub fn listens(plan: &Plan, protocol: Protocol) -> SocketAddr {
    SocketAddr::new(family(plan).vip(), if protocol == Protocol::Tcp { 80 } else { 53 })
}

/// Where server `index` does.
pub fn server(plan: &Plan, index: usize, protocol: Protocol) -> SocketAddr {
    let port = match (plan.mode, protocol) {
        (Mode::Dr, _) => listens(plan, protocol).port(),
        (_, Protocol::Tcp) => 8080,
        _ => 5353,
    };
    SocketAddr::new(family(plan).server(11 + index as u8), port)
}

/// The configuration of a node with so many workers.
pub fn snapshot(plan: &Plan, node: usize, workers: usize, settings: &Settings) -> Arc<Snapshot> {
    let mut net = Net::two_armed(workers);
    net.snapshot.node_id = node as u8;
    net.snapshot.local_v4.clear();
    net.snapshot.local_v6.clear();
    for port in [FRONT, BACK] {
        for v6 in [false, true] {
            let address = address(node, port, v6);
            let entry = &mut net.snapshot.ports[usize::from(port.0)];
            entry.mac = port_mac(node, port);
            match address {
                IpAddr::V4(a) => entry.ipv4 = Some(a),
                IpAddr::V6(a) => entry.ipv6 = Some(a),
            }
            net.local(address, LocalAddress::Port(port));
        }
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let service = net.service(protocol, &[listens(plan, protocol)], plan.mode);
        for index in 0..plan.servers {
            let at = server(plan, index, protocol);
            let id = net.server(service, at.ip(), at.port());
            let server = &mut net.snapshot.servers[usize::from(id.0)];
            (server.up, server.weight) = (!settings.down[index], settings.weights[index]);
        }
        let service = &mut net.snapshot.services[usize::from(service.0)];
        service.timeouts = TIMEOUTS;
        service.scheduler = settings.scheduler;
        service.policy = plan.policy;
        if plan.persistence {
            let life_ms = TIMEOUTS.tcp_established;
            service.selection.persistence =
                Some(Persistence { life_ms, mask_v4: 32, mask_v6: 128, scope: 1 });
        }
        if protocol == Protocol::Tcp {
            service.introduction = plan.introduction;
            service.syn_proxy = if plan.syn_proxy { SynProxy::On } else { SynProxy::Off };
        }
    }
    let mut moving = vec![family(plan).vip()];
    if plan.mode == Mode::FullNat {
        net.lip(BACK, family(plan).lip());
        moving.push(family(plan).lip());
    }
    let (mut v4, mut v6) = (HashMap::new(), HashMap::new());
    for address in moving.into_iter().filter(|_| !plan.active_active) {
        match address {
            IpAddr::V4(a) => v4.insert(a, 0),
            IpAddr::V6(a) => v6.insert(a, 0),
        };
    }
    let group = Group { vrid: VRID, virtual_mac: plan.virtual_mac };
    net.snapshot.ha = Some(Arc::new(Ha {
        groups: if plan.active_active { vec![] } else { vec![group] },
        group_of_v4: v4,
        group_of_v6: v6,
        channel: Channel {
            port: FRONT,
            group: endpoint("239.255.19.19:8849"),
            source: address(node, FRONT, false),
            peer: address(1 - node, FRONT, false),
            rate: 200_000,
            relay: true,
            config_digest: 1,
        },
    }));
    net.snapshot.prepare();
    Arc::new(net.snapshot)
}
