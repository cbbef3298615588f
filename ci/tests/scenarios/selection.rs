//! Which server a session gets: hashes, backups, limits, persistence, and what comes next when a
//! server cannot have it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use etherparse::PacketBuilder;
use shunt::datapath::selection::{Overflow, Persistence};
use shunt::sched::{HashOn, SchedulerKind};
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::DropReason;
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{ACK, Packet, SYN, SYN_ACK, tcp, udp};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC};
use crate::rig::Rig;

/// A service on `port` in nat, for both families, with servers 11 and on.
fn add(net: &mut Net, protocol: Protocol, port: u16, servers: u8) -> ServiceId {
    let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), port));
    let id = net.service(protocol, &listen, Mode::Nat);
    for n in 0..servers {
        for family in Family::BOTH {
            net.server(id, family.server(11 + n), 8000 + port);
        }
    }
    id
}

/// TCP port 80, so many servers.
fn net(workers: usize, servers: u8) -> Net {
    let mut net = Net::two_armed(workers);
    add(&mut net, Protocol::Tcp, 80, servers);
    net
}

fn from(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

fn id_of(net: &Net, service: u16, server: SocketAddr) -> ServerId {
    let is_it = |s: &shunt::datapath::snapshot::Server| {
        s.service == ServiceId(service) && (s.address, s.port) == (server.ip(), server.port())
    };
    ServerId(net.snapshot.servers.iter().position(is_it).unwrap() as u16)
}

/// A client opens a session with service `service` on `port`, byte for byte; the last byte of the
/// server's address. `hops` is how often the packet is handed over beyond the way to its worker,
/// `more` what else changes.
fn open(
    rig: &mut Rig,
    (service, protocol, port): (u16, Protocol, u16),
    client: SocketAddr,
    hops: i64,
    more: Changes,
) -> u8 {
    let vip = if client.is_ipv4() { Family::V4 } else { Family::V6 }.vip();
    let vip = SocketAddr::new(vip, port);
    let packet = match protocol {
        Protocol::Tcp => tcp(client, vip, SYN),
        _ => udp(client, vip),
    };
    let packet = rig.by_client(packet);
    let bytes = packet.bytes();
    rig.changes();
    let receiver = rig.turn % rig.workers.len();
    let hops = hops + i64::from(rig.net.owner(client) != receiver);
    let sent = rig.send(FRONT, &bytes);
    assert_eq!(sent.len(), 1, "{client}: {:?}", rig.changes());
    let n = sent[0].1[5];
    let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
    let server = SocketAddr::new(family.server(n), 8000 + port);
    let out = rig.to_server(n, Packet { dst: server, ttl: 63, ..packet }).bytes();
    let id = id_of(&rig.net, service, server);
    let mut changes = more
        .rx(FRONT, &bytes)
        .tx(BACK, &out)
        .forward(id, &bytes)
        .session(id, client.is_ipv6(), 1)
        .add("handed_in", hops)
        .add("handed_off", hops);
    changes.0.retain(|_, n| *n != 0);
    assert_eq!(sent, [(BACK, out)]);
    assert_eq!(rig.changes(), changes, "{client}");
    n
}

const WEB: (u16, Protocol, u16) = (0, Protocol::Tcp, 80);

fn web(rig: &mut Rig, client: SocketAddr) -> u8 {
    open(rig, WEB, client, 0, Changes::none())
}

#[test]
fn hashes_place_alike_on_all_workers_and_nodes() {
    for kind in [SchedulerKind::Sh, SchedulerKind::Maglev] {
        for family in Family::BOTH {
            for hash_on in [HashOn::Source, HashOn::SourcePort, HashOn::Destination] {
                let mut first: Option<Vec<u8>> = None;
                for workers in [1, 2, 4] {
                    let mut net = net(workers, 4);
                    net.snapshot.services[0].scheduler = kind;
                    net.snapshot.services[0].selection.hash_on = hash_on;
                    let mut rig = Rig::new(net);
                    let picks: Vec<u8> =
                        (0..40).map(|n| web(&mut rig, from(family, 40_000 + n))).collect();
                    let mut distinct = picks.clone();
                    distinct.sort_unstable();
                    distinct.dedup();
                    let expected = if hash_on == HashOn::SourcePort { 4 } else { 1 };
                    assert_eq!(distinct.len(), expected, "{kind} {hash_on:?}: {picks:?}");
                    assert_eq!(first.get_or_insert(picks.clone()), &picks, "{workers} workers");
                }
            }
        }
    }
}

#[test]
fn clients_spread_by_weight_and_stay_when_another_server_goes() {
    for kind in [SchedulerKind::Sh, SchedulerKind::Maglev] {
        let mut net = net(2, 3);
        net.snapshot.services[0].scheduler = kind;
        // Servers 11, 12, 13 of IPv4 are 0, 2, 4.
        net.snapshot.servers[4].weight = 2;
        let mut rig = Rig::new(net);
        let client = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + n), 5000));
        let before: Vec<u8> = (0..400).map(|n| web(&mut rig, client(n))).collect();
        let share = |n: u8| before.iter().filter(|s| **s == n).count();
        assert!((70..130).contains(&share(11)), "{kind}: {}", share(11));
        assert!((170..230).contains(&share(13)), "{kind}: {}", share(13));

        rig.net.snapshot.servers[0].up = false;
        rig.reconfigure();
        let again = |n: u32| SocketAddr::new(client(n).ip(), 5001);
        let mut moved = 0;
        for (n, before) in before.iter().enumerate() {
            let after = web(&mut rig, again(n as u32));
            assert_ne!(after, 11);
            moved += usize::from(*before != 11 && *before != after);
        }
        // sh moves none of the others; maglev a few.
        assert!(moved <= if kind == SchedulerKind::Sh { 0 } else { 12 }, "{kind}: {moved}");
    }
}

/// Established sessions see nothing of changes of weight and of drains.
#[test]
fn weights_and_drains_leave_sessions_alone() {
    for kind in SchedulerKind::ALL {
        let mut net = net(2, 3);
        net.snapshot.services[0].scheduler = kind;
        let mut rig = Rig::new(net);
        let opened: Vec<(SocketAddr, u8)> = (0..30)
            .map(|n| from(Family::V4, 41_000 + n))
            .map(|client| (client, web(&mut rig, client)))
            .collect();
        for (server, weight) in [(0, 0), (2, 50), (4, 0), (0, 7)] {
            rig.net.snapshot.servers[server].weight = weight;
            rig.reconfigure();
            for (client, n) in &opened {
                let vip = SocketAddr::new(Family::V4.vip(), 80);
                let packet = rig.by_client(tcp(*client, vip, ACK));
                let bytes = packet.bytes();
                let server = SocketAddr::new(Family::V4.server(*n), 8080);
                let out = rig.to_server(*n, Packet { dst: server, ttl: 63, ..packet }).bytes();
                let id = id_of(&rig.net, 0, server);
                let changes = Changes::none().forward(id, &bytes).tx(BACK, &out);
                rig.step("established", FRONT, &bytes, Some(*client), changes, &[(BACK, out)]);
            }
        }
    }
}

#[test]
fn a_backup_serves_when_no_other_can() {
    for kind in SchedulerKind::ALL {
        for family in Family::BOTH {
            let mut net = net(2, 3);
            net.snapshot.services[0].scheduler = kind;
            net.snapshot.services[0].selection.hash_on = HashOn::SourcePort;
            // Both families of server 12.
            (net.snapshot.servers[2].backup, net.snapshot.servers[3].backup) = (true, true);
            let mut rig = Rig::new(net);
            let mut port = 42_000;
            let mut picks = |rig: &mut Rig| -> Vec<u8> {
                let list = (0..12).map(|_| {
                    port += 1;
                    web(rig, from(family, port))
                });
                let mut list: Vec<u8> = list.collect();
                list.sort_unstable();
                list.dedup();
                list
            };
            assert_eq!(picks(&mut rig), [11, 13], "{kind}");
            let v6 = usize::from(family == Family::V6);
            rig.net.snapshot.servers[v6].up = false;
            rig.reconfigure();
            assert_eq!(picks(&mut rig), [13], "{kind}");
            rig.net.snapshot.servers[4 + v6].weight = 0;
            rig.reconfigure();
            assert_eq!(picks(&mut rig), [12], "{kind}");
            rig.net.snapshot.servers[v6].up = true;
            rig.reconfigure();
            assert_eq!(picks(&mut rig), [11], "{kind}");
        }
    }
}

/// The reset that a SYN of `frames::tcp` is answered with.
fn reset(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let start = PacketBuilder::ethernet2(FRONT_MAC, ROUTER_MAC);
    let ip = match (vip.ip(), client.ip()) {
        (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => {
            start.ipv4(a.octets(), b.octets(), 64)
        }
        (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
            start.ipv6(a.octets(), b.octets(), 64)
        }
        _ => panic!("two families"),
    };
    let mut bytes = Vec::new();
    let segment = ip.tcp(vip.port(), client.port(), 0, 0).rst().ack(0x1020_3041);
    segment.write(&mut bytes, &[]).unwrap();
    bytes
}

fn refused(rig: &mut Rig, client: SocketAddr, reason: DropReason) {
    let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
    let vip = SocketAddr::new(family.vip(), 80);
    let bytes = rig.by_client(tcp(client, vip, SYN)).bytes();
    let answer = reset(client, vip);
    let changes = Changes::none().dropped(reason).originated(FRONT, &answer);
    rig.step("refused", FRONT, &bytes, Some(client), changes, &[(FRONT, answer)]);
}

#[test]
fn a_server_that_is_full_gives_way_and_a_full_service_refuses() {
    for kind in SchedulerKind::ALL {
        for workers in [1, 2, 4] {
            for family in Family::BOTH {
                let mut net = net(workers, 3);
                let service = &mut net.snapshot.services[0];
                service.scheduler = kind;
                net.snapshot.servers.iter_mut().for_each(|s| s.max_connections = 4);
                let mut rig = Rig::new(net);
                let mut counts = BTreeMap::new();
                for n in 0..12 {
                    *counts.entry(web(&mut rig, from(family, 43_000 + n))).or_insert(0) += 1;
                }
                assert_eq!(counts, [(11, 4), (12, 4), (13, 4)].into(), "{kind}");
                refused(&mut rig, from(family, 43_100), DropReason::ServerLimit);
                // They end, all but the one that was refused.
                rig.pass(6_000);
                assert_eq!(rig.sessions(), 0);
                web(&mut rig, from(family, 43_101));
            }
        }
    }
}

#[test]
fn refuse_does_not_look_for_another_server() {
    for workers in [1, 2] {
        let mut net = net(workers, 2);
        net.snapshot.services[0].scheduler = SchedulerKind::Maglev;
        net.snapshot.services[0].selection.overflow = Overflow::Refuse;
        net.snapshot.servers.iter_mut().for_each(|s| s.max_connections = 2);
        let mut rig = Rig::new(net);
        let first = web(&mut rig, from(Family::V4, 44_000));
        assert_eq!(web(&mut rig, from(Family::V4, 44_001)), first);
        refused(&mut rig, from(Family::V4, 44_002), DropReason::ServerLimit);
    }
}

#[test]
fn the_limit_of_a_service_is_over_all_servers_families_and_workers() {
    for workers in [1, 2, 4] {
        let mut net = net(workers, 3);
        net.snapshot.services[0].selection.max_connections = 5;
        let mut rig = Rig::new(net);
        for n in 0..5 {
            web(&mut rig, from(Family::BOTH[usize::from(n) % 2], 45_000 + n));
        }
        for family in Family::BOTH {
            refused(&mut rig, from(family, 45_010), DropReason::ServiceLimit);
        }
        // What is known goes on.
        let client = from(Family::V4, 45_000);
        let vip = SocketAddr::new(Family::V4.vip(), 80);
        let again = rig.by_client(tcp(client, vip, SYN)).bytes();
        assert_eq!(rig.send(FRONT, &again).len(), 1);
        rig.pass(6_000);
        web(&mut rig, from(Family::V4, 45_011));
    }
}

#[test]
fn many_full_servers_are_passed_over_at_once() {
    let mut net = Net::two_armed(1);
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    let service = net.service(Protocol::Tcp, &[vip], Mode::Nat);
    for n in 0..40u16 {
        let id = net.server(service, Family::V4.server(11), 9000 + n);
        net.snapshot.servers[usize::from(id.0)].max_connections = 1;
    }
    let mut rig = Rig::new(net);
    for n in 0..40 {
        let client = from(Family::V4, 46_000 + n);
        let packet = rig.by_client(tcp(client, vip, SYN)).bytes();
        assert_eq!(rig.send(FRONT, &packet).len(), 1, "connection {n}");
    }
    refused(&mut rig, from(Family::V4, 46_100), DropReason::ServerLimit);
}

/// Two services lead to one server: the second cannot have the same client port there, and takes its
/// other server.
#[test]
fn a_server_whose_reply_tuple_is_in_use_gives_way() {
    for family in Family::BOTH {
        let mut net = Net::two_armed(1);
        let shared = SocketAddr::new(family.server(11), 8080);
        for port in [80, 81] {
            let vip = SocketAddr::new(family.vip(), port);
            let service = net.service(Protocol::Tcp, &[vip], Mode::Nat);
            net.server(service, shared.ip(), shared.port());
        }
        let other = net.server(ServiceId(1), family.server(12), 8080);
        net.snapshot.servers[usize::from(other.0)].weight = 1;
        let mut rig = Rig::new(net);
        let to = |rig: &mut Rig, port: u16| {
            let vip = SocketAddr::new(family.vip(), port);
            let bytes = rig.by_client(tcp(from(family, 47_000), vip, SYN)).bytes();
            rig.send(FRONT, &bytes)
        };
        assert_eq!(to(&mut rig, 80)[0].1[5], 11);
        assert_eq!(to(&mut rig, 81)[0].1[5], 12);
        // And when there is no other one, the reason is the first one's.
        rig.net.snapshot.servers[usize::from(other.0)].up = false;
        rig.reconfigure();
        rig.pass(6_000);
        assert_eq!(to(&mut rig, 80)[0].1[5], 11);
        rig.changes();
        assert_eq!(to(&mut rig, 81), []);
        assert_eq!(rig.changes().0["drop.reply_tuple_in_use"], 1);
    }
}

fn persistent(net: &mut Net, service: usize, seconds: u32, scope: u16) {
    net.snapshot.services[service].selection.persistence =
        Some(Persistence { life_ms: seconds * 1_000, mask_v4: 24, mask_v6: 64, scope });
}

/// The worker that knows a client: by its network and port 0.
fn knows(net: &Net, client: SocketAddr) -> usize {
    let network = if client.is_ipv4() { "198.51.100.0" } else { "2001:db8:99::" };
    net.owner(SocketAddr::new(network.parse().unwrap(), 0))
}

fn web_of_known(rig: &mut Rig, which: (u16, Protocol, u16), client: SocketAddr, new: i64) -> u8 {
    let hops = if knows(&rig.net, client) == rig.net.owner(client) { 0 } else { 2 };
    open(rig, which, client, hops, Changes::none().add("persistent_clients", new))
}

#[test]
fn a_client_stays_on_its_server_over_all_workers() {
    for kind in SchedulerKind::ALL {
        for workers in [1, 2, 4] {
            for family in Family::BOTH {
                let mut net = net(workers, 4);
                net.snapshot.services[0].scheduler = kind;
                net.snapshot.services[0].selection.hash_on = HashOn::SourcePort;
                persistent(&mut net, 0, 60, 0);
                let mut rig = Rig::new(net);
                let first = web_of_known(&mut rig, WEB, from(family, 48_000), 1);
                for n in 1..20 {
                    let client = from(family, 48_000 + n);
                    assert_eq!(web_of_known(&mut rig, WEB, client, 0), first, "{kind}");
                }
                // Another address of the same network is the same client.
                let neighbour =
                    if family == Family::V4 { "198.51.100.200" } else { "2001:db8:99::aa" };
                let neighbour = SocketAddr::new(neighbour.parse().unwrap(), 48_000);
                assert_eq!(web_of_known(&mut rig, WEB, neighbour, 0), first);
                // The 60 s begin with the last new connection.
                rig.pass(59_000);
                assert_eq!(web_of_known(&mut rig, WEB, from(family, 48_100), 0), first);
                rig.pass(59_000);
                assert_eq!(web_of_known(&mut rig, WEB, from(family, 48_101), 0), first);
                assert_eq!(rig.sessions(), 1);
                // The places of those that ended are swept one by one.
                rig.pass(80_000);
                let gone: u64 = rig.counters.iter().map(|c| c.persistent_clients.get()).sum();
                assert_eq!(gone, 0);
            }
        }
    }
}

#[test]
fn a_server_that_is_down_loses_its_clients_and_a_drained_one_keeps_them_for_a_while() {
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut net = net(workers, 3);
            persistent(&mut net, 0, 60, 0);
            let mut rig = Rig::new(net);
            let v6 = usize::from(family == Family::V6);
            let place = |n: u8| usize::from(n - 11) * 2 + v6;
            let first = web_of_known(&mut rig, WEB, from(family, 49_000), 1);
            rig.net.snapshot.servers[place(first)].up = false;
            rig.reconfigure();
            let second = web_of_known(&mut rig, WEB, from(family, 49_001), 0);
            assert_ne!(second, first);
            // The first is back; the client has a new home.
            rig.net.snapshot.servers[place(first)].up = true;
            rig.reconfigure();
            assert_eq!(web_of_known(&mut rig, WEB, from(family, 49_002), 0), second);
            // Drained: its clients come, but are not renewed.
            rig.net.snapshot.servers[place(second)].weight = 0;
            rig.reconfigure();
            rig.pass(40_000);
            assert_eq!(web_of_known(&mut rig, WEB, from(family, 49_003), 0), second);
            rig.pass(41_000);
            let third = web_of_known(&mut rig, WEB, from(family, 49_004), 1);
            assert_ne!(third, second);
        }
    }
}

#[test]
fn services_of_a_group_share_their_clients_and_others_do_not() {
    for workers in [1, 2, 4] {
        for family in Family::BOTH {
            let mut net = Net::two_armed(workers);
            for (service, port) in [(0, 80), (1, 443), (2, 8443)] {
                add(&mut net, Protocol::Tcp, port, 4);
                // The first two are a group.
                persistent(&mut net, service, 60, if service < 2 { 0x8000 } else { 2 });
            }
            let https = (1, Protocol::Tcp, 443);
            let mut rig = Rig::new(net);
            let home = web_of_known(&mut rig, WEB, from(family, 50_000), 1);
            for n in 0..10 {
                let client = from(family, 50_000 + n);
                assert_eq!(web_of_known(&mut rig, https, client, 0), home);
            }
            let other = (2, Protocol::Tcp, 8443);
            let alone = web_of_known(&mut rig, other, from(family, 50_100), 1);
            assert_eq!(web_of_known(&mut rig, other, from(family, 50_101), 0), alone);
        }
    }
}

#[test]
fn a_full_persistent_server_keeps_its_client() {
    for overflow in [Overflow::Next, Overflow::Refuse] {
        let mut net = net(1, 2);
        persistent(&mut net, 0, 60, 0);
        net.snapshot.services[0].selection.overflow = overflow;
        net.snapshot.servers.iter_mut().for_each(|s| s.max_connections = 2);
        let mut rig = Rig::new(net);
        let home = web_of_known(&mut rig, WEB, from(Family::V4, 51_000), 1);
        assert_eq!(web_of_known(&mut rig, WEB, from(Family::V4, 51_001), 0), home);
        let third = from(Family::V4, 51_002);
        match overflow {
            Overflow::Next => assert_ne!(web_of_known(&mut rig, WEB, third, 0), home),
            Overflow::Refuse => refused(&mut rig, third, DropReason::ServerLimit),
        }
        rig.pass(6_000);
        assert_eq!(web_of_known(&mut rig, WEB, from(Family::V4, 51_003), 0), home);
    }
}

/// Clients that find no room are scheduled, and counted.
#[test]
fn the_table_of_clients_is_bounded() {
    let mut net = net(1, 2);
    persistent(&mut net, 0, 60, 0);
    let mut rig = Rig::with_sessions(net, 4_096).warmed();
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    for n in 0..3_000u32 {
        let client = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + (n << 8)), 5000));
        let bytes = rig.by_client(tcp(client, vip, SYN)).bytes();
        assert_eq!(rig.send(FRONT, &bytes).len(), 1);
    }
    let (known, full) =
        (rig.counters[0].persistent_clients.get(), rig.counters[0].persistence_full.get());
    assert_eq!(known + full, 3_000);
    assert!((1_000..=1_024).contains(&known), "{known}");
}

/// One-packet services: each datagram a decision, both ways without a session.
mod one_packet {
    use super::*;

    const DNS: u16 = 53;

    fn net(workers: usize, mode: Mode, servers: u8) -> Net {
        let mut net = Net::two_armed(workers);
        let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), DNS));
        let id = net.service(Protocol::Udp, &listen, mode);
        let port = if mode == Mode::Dr { DNS } else { 5353 };
        for n in 0..servers {
            for family in Family::BOTH {
                net.server(id, family.server(11 + n), port);
            }
        }
        net.snapshot.services[0].selection.one_packet = true;
        net
    }

    /// A datagram of the client; the server it went to.
    fn ask(rig: &mut Rig, mode: Mode, client: SocketAddr) -> u8 {
        let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
        let packet = rig.by_client(udp(client, SocketAddr::new(family.vip(), DNS)));
        let bytes = packet.bytes();
        rig.changes();
        let hops = i64::from(rig.net.owner(client) != rig.turn % rig.workers.len());
        let sent = rig.send(FRONT, &bytes);
        assert_eq!(sent.len(), 1);
        let n = sent[0].1[5];
        let server = SocketAddr::new(family.server(n), 5353);
        let out = match mode {
            Mode::Dr => packet,
            _ => Packet { dst: server, ttl: 63, ..packet },
        };
        let out = rig.to_server(n, out).bytes();
        let id = ServerId(u16::from(n - 11) * 2 + u16::from(family == Family::V6));
        let mut changes = Changes::none()
            .rx(FRONT, &bytes)
            .tx(BACK, &out)
            .forward(id, &bytes)
            .add("handed_in", hops)
            .add("handed_off", hops);
        changes.0.retain(|_, n| *n != 0);
        assert_eq!(sent, [(BACK, out)]);
        assert_eq!(rig.changes(), changes);
        assert_eq!(rig.sessions(), 0);
        n
    }

    #[test]
    fn datagrams_of_one_socket_spread_and_leave_nothing() {
        for workers in [1, 2, 4] {
            for mode in [Mode::Nat, Mode::Dr] {
                for family in Family::BOTH {
                    let mut rig = Rig::new(net(workers, mode, 2));
                    let client = from(family, 52_000);
                    let picks: Vec<u8> = (0..8).map(|_| ask(&mut rig, mode, client)).collect();
                    assert_eq!(picks.iter().filter(|n| **n == 11).count(), 4, "{picks:?}");
                }
            }
        }
    }

    #[test]
    fn answers_find_their_virtual_address() {
        for workers in [1, 2] {
            for family in Family::BOTH {
                let mut rig = Rig::new(net(workers, Mode::Nat, 2));
                let vip = SocketAddr::new(family.vip(), DNS);
                for n in 0..20u16 {
                    let client = from(family, 52_100 + n);
                    let at = 11 + (n % 2) as u8;
                    let server = SocketAddr::new(family.server(at), 5353);
                    let answer = rig.by_server(at, udp(server, client)).bytes();
                    let out = rig.to_client(udp(vip, client).ttl(63)).bytes();
                    let id = ServerId((n % 2) * 2 + u16::from(family == Family::V6));
                    let changes = Changes::none().reply(id, &answer).tx(FRONT, &out);
                    rig.step("answer", BACK, &answer, Some(client), changes, &[(FRONT, out)]);
                }
                assert_eq!(rig.sessions(), 0);
                // Another port of the server is none of the service's.
                let client = from(family, 52_200);
                let other = SocketAddr::new(family.server(11), 5354);
                let stray = rig.by_server(11, udp(other, client)).bytes();
                let changes = Changes::none().dropped(DropReason::NotLocal);
                rig.step("stray", BACK, &stray, Some(client), changes, &[]);
            }
        }
    }

    /// Towards the server and back, as in other services.
    #[test]
    fn datagrams_are_marked() {
        for family in Family::BOTH {
            let mut net = net(1, Mode::Nat, 1);
            net.snapshot.services[0].policy.dscp = Some(46);
            let mut rig = Rig::new(net);
            let client = from(family, 52_050);
            let (vip, server) = (family.vip(), family.server(11));
            let (vip, server) = (SocketAddr::new(vip, DNS), SocketAddr::new(server, 5353));
            let dscp = |frame: &[u8]| match family {
                Family::V4 => frame[15] >> 2,
                Family::V6 => (frame[14] << 2 | frame[15] >> 6) & 0x3f,
            };
            let question = rig.by_client(udp(client, vip)).bytes();
            let answer = rig.by_server(11, udp(server, client)).bytes();
            for (port, packet) in [(FRONT, question), (BACK, answer)] {
                assert_eq!(dscp(&packet), 0);
                let sent = rig.send(port, &packet);
                assert_eq!(sent.iter().map(|(_, frame)| dscp(frame)).collect::<Vec<_>>(), [46]);
            }
        }
    }

    #[test]
    fn no_server_and_no_hops_left() {
        let mut rig = Rig::new(net(1, Mode::Nat, 1));
        let client = from(Family::V4, 52_300);
        let vip = SocketAddr::new(Family::V4.vip(), DNS);
        let bytes = rig.by_client(udp(client, vip).ttl(1)).bytes();
        rig.changes();
        assert_eq!(rig.send(FRONT, &bytes).len(), 1, "Time Exceeded");
        assert_eq!(rig.changes().0["drop.hop_limit_exceeded"], 1);
        rig.net.snapshot.servers[0].up = false;
        rig.reconfigure();
        let bytes = rig.by_client(udp(client, vip)).bytes();
        let changes = Changes::none().dropped(DropReason::NoServer);
        rig.step("no server", FRONT, &bytes, Some(client), changes, &[]);
    }

    /// A full table keeps nobody from being answered.
    #[test]
    fn a_full_table_does_not_matter() {
        let mut net = net(1, Mode::Nat, 2);
        add(&mut net, Protocol::Tcp, 80, 1);
        let mut rig = Rig::with_sessions(net, 8).warmed();
        let vip = SocketAddr::new(Family::V4.vip(), 80);
        for n in 0..8 {
            let bytes = rig.by_client(tcp(from(Family::V4, 52_400 + n), vip, SYN)).bytes();
            assert_eq!(rig.send(FRONT, &bytes).len(), 1);
        }
        rig.changes();
        let client = from(Family::V4, 52_500);
        let packet = rig.by_client(udp(client, SocketAddr::new(Family::V4.vip(), DNS))).bytes();
        assert_eq!(rig.send(FRONT, &packet).len(), 1);
        assert_eq!(rig.sessions(), 8);
    }
}

/// QUIC by connection id.
mod quic {
    use super::*;
    use shunt::datapath::quic_route::Quic;
    use std::sync::Arc;

    const QUIC: (u16, Protocol, u16) = (0, Protocol::Udp, 443);

    /// Server 11+n has id 0a00+n. Rotation 1, connection ids of 8 octets.
    fn net(workers: usize, kind: SchedulerKind) -> Net {
        let mut net = Net::two_armed(workers);
        add(&mut net, Protocol::Udp, 443, 4);
        let mut ids = Quic::new(1, 2, 8);
        for n in 0..4u16 {
            for v6 in [false, true] {
                ids.add(v6, &(0x0a00 + n).to_be_bytes(), ServerId(n * 2 + u16::from(v6)));
            }
        }
        let service = &mut net.snapshot.services[0];
        service.scheduler = kind;
        service.selection.hash_on = HashOn::QuicCid;
        service.selection.quic = Some(Arc::new(ids));
        net
    }

    fn routable(n: u16, nonce: u8) -> [u8; 8] {
        let [high, low] = (0x0a00 + n).to_be_bytes();
        [0x20 | 7, high, low, nonce, 2, 3, 4, 5]
    }

    fn initial(id: &[u8]) -> Vec<u8> {
        [&[0xc3, 0, 0, 0, 1, id.len() as u8][..], id, &[0; 40]].concat()
    }

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x41][..], id, &[9; 20]].concat()
    }

    /// Sends a datagram; the server it went to.
    fn send(rig: &mut Rig, client: SocketAddr, datagram: &[u8]) -> u8 {
        let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
        let vip = SocketAddr::new(family.vip(), QUIC.2);
        let packet = rig.by_client(udp(client, vip).payload(datagram));
        let sent = rig.send(FRONT, &packet.bytes());
        assert_eq!(sent.len(), 1);
        let n = sent[0].1[5];
        let server = SocketAddr::new(family.server(n), 8443);
        let out = rig.to_server(n, Packet { dst: server, ttl: 63, ..packet }).bytes();
        assert_eq!(sent, [(BACK, out)]);
        n
    }

    #[test]
    fn a_client_that_changes_its_port_or_address_stays() {
        for workers in [1, 2, 4] {
            for kind in SchedulerKind::ALL {
                for family in Family::BOTH {
                    let mut rig = Rig::new(net(workers, kind));
                    for n in 0..4 {
                        for port in 0..6 {
                            let client = from(family, 53_000 + 100 * n + port);
                            let id = routable(n, port as u8);
                            assert_eq!(send(&mut rig, client, &short(&id)), 11 + n as u8);
                            // In a long header too: Handshake, 0-RTT after a Retry.
                            let client = from(family, 53_500 + 100 * n + port);
                            assert_eq!(send(&mut rig, client, &initial(&id)), 11 + n as u8);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_known_session_wins_and_a_server_that_is_down_is_not_meant() {
        for family in Family::BOTH {
            let mut rig = Rig::new(net(2, SchedulerKind::Maglev));
            let client = from(family, 54_000);
            assert_eq!(send(&mut rig, client, &short(&routable(2, 0))), 13);
            assert_eq!(send(&mut rig, client, &short(&routable(1, 0))), 13, "the session's");
            let v6 = usize::from(family == Family::V6);
            // Drained it keeps its connections.
            rig.net.snapshot.servers[4 + v6].weight = 0;
            rig.reconfigure();
            assert_eq!(send(&mut rig, from(family, 54_001), &short(&routable(2, 0))), 13);
            rig.net.snapshot.servers[4 + v6].up = false;
            rig.reconfigure();
            assert_ne!(send(&mut rig, from(family, 54_002), &short(&routable(2, 0))), 13);
        }
    }

    #[test]
    fn what_cannot_be_routed_is_placed_by_its_connection_id() {
        let mut first = None;
        for workers in [1, 2, 4] {
            let mut rig = Rig::new(net(workers, SchedulerKind::Maglev));
            let mut picks = Vec::new();
            for n in 0..40u8 {
                // Rotation 7: a client's choice, of any length.
                let id = [0xe0 | n, 1, 2, 3, n, 5, 6, 7];
                let by_initial =
                    send(&mut rig, from(Family::V4, 55_000 + u16::from(n)), &initial(&id));
                let by_short = send(&mut rig, from(Family::V4, 55_100 + u16::from(n)), &short(&id));
                assert_eq!(by_initial, by_short);
                picks.push(by_initial);
            }
            let mut distinct = picks.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct, [11, 12, 13, 14]);
            assert_eq!(first.get_or_insert(picks.clone()), &picks);
        }
        // No QUIC at all, or too short for it: placed by address and port, or scheduled.
        for kind in [SchedulerKind::Maglev, SchedulerKind::Wrr] {
            let mut rig = Rig::new(net(2, kind));
            for (n, datagram) in [&[][..], &[0xc0], &[0xc0, 0, 0, 0, 1, 30, 1], &[0x40, 0x27, 0x0a]]
                .into_iter()
                .enumerate()
            {
                let n = send(&mut rig, from(Family::V4, 56_000 + n as u16), datagram);
                assert!((11..15).contains(&n));
            }
        }
    }
}

/// A handshake goes through a persistent service on several workers as through any other.
#[test]
fn answers_of_a_persistent_service() {
    let mut net = net(4, 2);
    persistent(&mut net, 0, 60, 0);
    let mut rig = Rig::new(net);
    for n in 0..10 {
        let client = from(Family::V4, 57_000 + n);
        let at = web_of_known(&mut rig, WEB, client, i64::from(n == 0));
        let server = SocketAddr::new(Family::V4.server(at), 8080);
        let vip = SocketAddr::new(Family::V4.vip(), 80);
        let answer = rig.by_server(at, tcp(server, client, SYN_ACK)).bytes();
        let out = rig.to_client(tcp(vip, client, SYN_ACK).ttl(63)).bytes();
        let id = id_of(&rig.net, 0, server);
        let changes = Changes::none().reply(id, &answer).tx(FRONT, &out);
        rig.step("SYN-ACK", BACK, &answer, Some(client), changes, &[(FRONT, out)]);
    }
}
