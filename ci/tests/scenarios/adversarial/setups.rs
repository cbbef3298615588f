//! What the captures are replayed at: every mode, with every feature somewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use shunt::datapath::filter::{Action, Filters, FlagMatch, Rule};
use shunt::datapath::guard::Guard;
use shunt::datapath::limits::Limits;
use shunt::datapath::mirror::{Mirror, MirrorId};
use shunt::datapath::policy::{MidStream, OnServerDown, Policy};
use shunt::datapath::quic_route::Quic;
use shunt::datapath::selection::{Overflow, Persistence};
use shunt::datapath::snapshot::{
    Forward, Introduction, LocalAddresses, Port, PortRole, Side, Snat, SynProxy,
};
use shunt::sched::{HashOn, SchedulerKind};
use shunt::session::Mode;
use shunt::session::mappings::Behavior;
use shunt::wire::flow::Protocol;

use super::captures::{endpoint, pool};
use super::oracle::{GUE_PORT, VXLAN_PORT};
use crate::net::{FRONT, Family, Net, SHORT_TIMEOUTS};
use crate::snat::rule;

/// A name and how the network is made for so many workers.
pub type Setup = (&'static str, fn(usize) -> Net);

/// The services of a mode on both VIPs, each with two servers of each family.
fn two_armed(workers: usize, mode: Mode) -> Net {
    finish(Net::two_armed(workers).with_tap().usual(mode))
}

fn finish(mut net: Net) -> Net {
    for service in 0..net.snapshot.services.len() {
        let id = shunt::session::ServiceId(service as u16);
        let service = &mut net.snapshot.services[service];
        service.timeouts = SHORT_TIMEOUTS;
        let Some(first) = service.servers.first() else { continue };
        let first = net.snapshot.servers[usize::from(first.0)].clone();
        for family in Family::BOTH {
            if net.snapshot.services[usize::from(id.0)].crossed
                && first.address.is_ipv6() != (family == Family::V6)
            {
                continue;
            }
            let server = net.server(id, family.server(12), first.port);
            net.snapshot.servers[usize::from(server.0)].inner_mac = first.inner_mac;
        }
    }
    net
}

fn each(mut net: Net, change: impl Fn(&mut shunt::datapath::snapshot::Service)) -> Net {
    net.snapshot.services.iter_mut().for_each(change);
    net
}

fn policy(net: Net, mid_stream: MidStream) -> Net {
    each(net, |service| {
        service.policy = Policy {
            mid_stream,
            reset_on_expiry: true,
            on_server_down: OnServerDown::End,
            mss: 1000,
            dscp: Some(46),
        };
    })
}

/// With a sensor, limits, persistence and a packet filter.
fn loaded(net: Net) -> Net {
    let mut net = each(net, |service| {
        service.mirror = Some(MirrorId(0));
        service.limits = Limits {
            connections_per_second: 400,
            packets_per_second: 900,
            half_open: 150,
            source_connections_per_second: 150,
            source_packets_per_second: 2000,
            source_half_open: 30,
            source_mask: 24,
            source_mask_v6: 56,
        };
        service.selection.persistence =
            Some(Persistence { life_ms: 2000, mask_v4: 26, mask_v6: 60, scope: 0 });
        service.selection.max_connections = 300;
        service.selection.overflow = Overflow::Next;
    });
    for server in &mut net.snapshot.servers {
        server.max_connections = 120;
    }
    let sensor = net.snapshot.ports.len();
    net.snapshot.ports.push(Port {
        name: "sensor".into(),
        mac: [2, 0, 0, 0, 0, 0xc0],
        mtu: 600,
        role: PortRole::Wire { side: Side::Both, exception: None },
        ..Port::default()
    });
    net.snapshot.lips.push(LocalAddresses::default());
    let of = |prefix: &str| [prefix.parse::<ipnet::IpNet>().unwrap()].into_iter().collect();
    let mirrors = vec![
        Mirror {
            name: "ids".into(),
            port: shunt::datapath::snapshot::PortId(sensor as u8),
            sample: 2,
            matching: None,
        },
        Mirror {
            name: "all".into(),
            port: shunt::datapath::snapshot::PortId(sensor as u8),
            sample: 1,
            matching: Some(of("198.51.100.0/24")),
        },
    ];
    let action = |action| Rule { action, ..Rule::default() };
    let filters = Filters::new(vec![
        Rule { sources: Some(of("203.7.0.0/16")), ..action(Action::Reject) },
        Rule { sources: Some(of("203.8.0.0/16")), protocol: Some(6), ..action(Action::Drop) },
        Rule {
            tcp_flags: Some(FlagMatch { mask: 0x28, value: 0x28 }),
            protocol: Some(6),
            ..action(Action::Reject)
        },
        Rule { source_ports: vec![(40_003, 40_004)], protocol: Some(17), ..action(Action::Reject) },
        Rule {
            port: Some(FRONT),
            protocol: Some(58),
            ..action(Action::Limit { rate: 100, burst: 50 })
        },
    ]);
    net.snapshot.guard =
        Arc::new(Guard { filters, mirrors, reverse_path: true, ..Guard::default() });
    net
}

fn syn_proxy(net: Net, how: SynProxy) -> Net {
    each(net, |service| {
        if service.protocol == Protocol::Tcp {
            service.syn_proxy = how;
        }
    })
}

fn introduced(net: Net, how: Introduction) -> Net {
    each(net, |service| {
        if service.protocol == Protocol::Tcp {
            service.introduction = how;
        }
    })
}

fn tunnels(workers: usize, mode: Mode, outer: Family) -> Net {
    let mut net = Net::two_armed(workers).with_tap();
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        let listen = Family::BOTH.map(|family| SocketAddr::new(family.vip(), port));
        let service = net.service(protocol, &listen, mode);
        let server = net.server(service, outer.server(11), port);
        net.snapshot.servers[usize::from(server.0)].inner_mac = [2, 0, 0, 0, 3, 11];
        let service = &mut net.snapshot.services[usize::from(service.0)];
        service.tunnel_port = if mode == Mode::Gue { GUE_PORT } else { VXLAN_PORT };
        service.vni = 77;
    }
    finish(net)
}

/// Clients of both families, servers of one.
fn crossed(workers: usize, servers: Family) -> Net {
    let mut net = Net::two_armed(workers).with_tap();
    for (protocol, port, rport) in [(Protocol::Tcp, 80, 8080), (Protocol::Udp, 53, 5353)] {
        let listen = Family::BOTH.map(|family| SocketAddr::new(family.vip(), port));
        let service = net.service(protocol, &listen, Mode::FullNat);
        net.server(service, servers.server(11), rport);
        net.snapshot.services[usize::from(service.0)].crossed = true;
    }
    let back = net.server_side();
    net.lip(back, servers.lip());
    net.snapshot.crosses = true;
    finish(net)
}

fn snat(net: Net, mapping: Behavior, filtering: Behavior) -> Net {
    let mut net = net;
    let forwards = Family::BOTH
        .map(|family| Forward {
            protocol: Protocol::Tcp,
            external: endpoint(pool(family), 8443),
            internal: endpoint(family.server(13), 5000),
        })
        .to_vec();
    let rule = Snat {
        forwards,
        ports_per_source: 25,
        ports: 1024..=1200,
        hairpin: filtering != Behavior::AddressAndPortDependent,
        timeouts: SHORT_TIMEOUTS,
        ..rule(mapping, filtering)
    };
    net.snapshot.set_snats(vec![rule]);
    net
}

fn quic(workers: usize) -> Net {
    let mut net = Net::two_armed(workers).with_tap().usual(Mode::Nat);
    let listen = Family::BOTH.map(|family| SocketAddr::new(family.vip(), 443));
    let service = net.service(Protocol::Udp, &listen, Mode::Nat);
    let mut ids = Quic::new(2, 2, 8);
    for family in Family::BOTH {
        let server = net.server(service, family.server(11), 443);
        ids.add(family == Family::V6, &[0, 11], server);
    }
    let service = &mut net.snapshot.services[usize::from(service.0)];
    service.scheduler = SchedulerKind::Maglev;
    service.selection.hash_on = HashOn::QuicCid;
    service.selection.quic = Some(Arc::new(ids));
    finish(net)
}

/// Both sides on one device.
fn vlans(workers: usize) -> Net {
    let mut net = two_armed(workers, Mode::Nat);
    for (port, vlan) in net.snapshot.ports.iter_mut().zip([100, 200]) {
        port.mac = crate::net::FRONT_MAC;
        port.vlan = vlan;
        port.trunk = Some(FRONT);
    }
    net
}

/// One mode each, with what it may be combined with.
pub const TRANSLATING: &[Setup] = &[
    ("nat, two services of the same servers", |n| {
        let mut net = Net::two_armed(n).with_tap().usual(Mode::Nat);
        let listen = Family::BOTH.map(|family| SocketAddr::new(family.vip(), 81));
        let service = net.service(Protocol::Tcp, &listen, Mode::Nat);
        for family in Family::BOTH {
            net.server(service, family.server(11), 8080);
        }
        finish(net)
    }),
    ("nat, one-armed, loaded", |n| {
        loaded(policy(finish(Net::one_armed(n).with_tap().usual(Mode::Nat)), MidStream::Adopt))
    }),
    ("nat, vlans", vlans),
    ("nat, quic", quic),
    ("nat, one packet, loaded", |n| {
        let net = each(two_armed(n, Mode::Nat), |service| {
            service.selection.one_packet = service.protocol == Protocol::Udp;
        });
        loaded(policy(net, MidStream::Reset))
    }),
    ("fullnat, adopt", |n| policy(two_armed(n, Mode::FullNat), MidStream::Adopt)),
    ("fullnat, small mtu, loaded", |n| {
        let mut net = policy(two_armed(n, Mode::FullNat), MidStream::Reset);
        net.snapshot.ports[1].mtu = 1280;
        loaded(net)
    }),
    ("nat, bogons", |n| {
        let mut net = two_armed(n, Mode::Nat);
        net.snapshot.guard =
            Arc::new(Guard { bogons: true, reverse_path: true, ..Guard::default() });
        net
    }),
];

pub const ONE_WAY: &[Setup] = &[
    ("dr", |n| two_armed(n, Mode::Dr)),
    ("dr, loaded", |n| loaded(policy(two_armed(n, Mode::Dr), MidStream::Adopt))),
    ("ipip", |n| policy(tunnels(n, Mode::Ipip, Family::V4), MidStream::Reset)),
    ("gre over IPv6, loaded", |n| {
        loaded(policy(tunnels(n, Mode::Gre, Family::V6), MidStream::Adopt))
    }),
    ("gue, loaded", |n| loaded(policy(tunnels(n, Mode::Gue, Family::V4), MidStream::Drop))),
    ("vxlan over IPv6", |n| policy(tunnels(n, Mode::Vxlan, Family::V6), MidStream::Adopt)),
];

pub const STREAMS: &[Setup] = &[
    ("nat, syn proxy, loaded", |n| {
        loaded(policy(syn_proxy(two_armed(n, Mode::Nat), SynProxy::On), MidStream::Reset))
    }),
    ("nat, syn proxy, auto", |n| syn_proxy(two_armed(n, Mode::Nat), SynProxy::Auto { above: 100 })),
    ("fullnat, v1", |n| {
        introduced(policy(two_armed(n, Mode::FullNat), MidStream::Adopt), Introduction::ProxyV1)
    }),
    ("fullnat, v2, syn proxy, loaded", |n| {
        let net = syn_proxy(two_armed(n, Mode::FullNat), SynProxy::On);
        loaded(introduced(policy(net, MidStream::Reset), Introduction::ProxyV2))
    }),
    ("fullnat, toa, loaded", |n| {
        let net = policy(two_armed(n, Mode::FullNat), MidStream::Adopt);
        loaded(introduced(net, Introduction::Toa))
    }),
    ("fullnat, toa, syn proxy", |n| {
        let net = syn_proxy(two_armed(n, Mode::FullNat), SynProxy::On);
        introduced(net, Introduction::Toa)
    }),
];

pub const BETWEEN: &[Setup] = &[
    ("nat64", |n| crossed(n, Family::V4)),
    ("nat64, v1, syn proxy, loaded", |n| {
        let net = policy(crossed(n, Family::V4), MidStream::Reset);
        loaded(syn_proxy(introduced(net, Introduction::ProxyV1), SynProxy::On))
    }),
    ("nat46, loaded", |n| loaded(policy(crossed(n, Family::V6), MidStream::Adopt))),
    ("nat46, toa, syn proxy", |n| {
        let net = policy(crossed(n, Family::V6), MidStream::Reset);
        syn_proxy(introduced(net, Introduction::Toa), SynProxy::On)
    }),
];

pub const EGRESS: &[Setup] = &[
    ("snat, endpoint-independent", |n| {
        use Behavior::EndpointIndependent as Ei;
        snat(Net::two_armed(n).with_tap(), Ei, Ei)
    }),
    ("snat beside nat, address-dependent, loaded", |n| {
        use Behavior::{AddressDependent as Ad, EndpointIndependent as Ei};
        snat(loaded(policy(two_armed(n, Mode::Nat), MidStream::Reset)), Ei, Ad)
    }),
    ("snat beside fullnat and syn proxy, one-armed", |n| {
        use Behavior::AddressAndPortDependent as Apd;
        let net = finish(Net::one_armed(n).with_tap().usual(Mode::FullNat));
        let net = introduced(syn_proxy(net, SynProxy::On), Introduction::ProxyV2);
        snat(policy(net, MidStream::Reset), Apd, Apd)
    }),
];
