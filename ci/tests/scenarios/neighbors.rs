//! Next hops that are not known yet, or no longer: packets are held, sent, or given up.

use std::net::SocketAddr;

use shunt::datapath::hops::{MAX_HELD, MAX_HELD_PER_HOP, MAX_WAIT_MS};
use shunt::datapath::snapshot::PortId;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason::{NeighborQueueFull, NeighborTableFull, NeighborUnresolved, NoRoute};
use shunt::worker::control::{Event, NeighborUpdate};

use crate::changes::Changes;
use crate::frames::{SYN, SYN_ACK, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net, ROUTER_MAC, endpoint, ip, server_mac};
use crate::rig::{Rig, Sent};

const S0: ServerId = ServerId(0);

fn client(port: u16) -> SocketAddr {
    SocketAddr::new(ip("198.51.100.7"), port)
}

fn wanted(rig: &mut Rig) -> Vec<(PortId, std::net::IpAddr)> {
    rig.events()
        .into_iter()
        .map(|event| match event {
            Event::NeighborWanted { port, address } => (port, address),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// A UDP datagram of `client` to the service, and what goes to the server for it.
fn datagram(rig: &Rig, port: u16, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let packet = rig.by_client(udp(client(port), endpoint("192.0.2.10:53")).payload(payload));
    let to = udp(client(port), endpoint("10.0.0.11:5353")).payload(payload).ttl(63);
    (packet.bytes(), rig.to_server(11, to).bytes())
}

#[test]
fn held_until_the_neighbor_is_known() {
    for workers in [1, 2, 4] {
        for family in Family::BOTH {
            let mut rig = Rig::cold(Net::two_armed(workers).usual(Mode::Nat));
            let v6 = family == Family::V6;
            let id = ServerId(u16::from(v6));
            let from = SocketAddr::new(family.client(), 40_000);
            let vip = SocketAddr::new(family.vip(), 80);
            let server = SocketAddr::new(family.server(11), 8080);
            let mut syn = rig.by_client(tcp(from, vip, SYN)).bytes();
            let to_server = rig.to_server(11, tcp(from, server, SYN).ttl(63)).bytes();
            let opened = Changes::none().session(id, v6, 1).forward(id, &syn).held(1);
            rig.step("held", FRONT, &syn, Some(from), opened, &[]);
            assert_eq!(wanted(&mut rig), [(BACK, family.server(11))]);
            // The same again, padded to tell them apart: held too, nobody is asked again.
            syn.push(1);
            let again = Changes::none().forward(id, &syn).held(1);
            rig.step("held too", FRONT, &syn, Some(from), again, &[]);
            assert_eq!(wanted(&mut rig), []);

            rig.changes();
            rig.resolve(BACK, family.server(11), server_mac(11));
            let mut second = to_server.clone();
            second.push(1);
            let changes = Changes::none().held(-2).tx(BACK, &to_server).tx(BACK, &second);
            assert_eq!(rig.sent(), [(BACK, to_server), (BACK, second)], "in order");
            assert_eq!(rig.changes(), changes);

            // The way back: the router is unknown.
            let answer = rig.by_server(11, tcp(server, from, SYN_ACK)).bytes();
            let held = Changes::none().reply(id, &answer).held(1);
            rig.step("held on the way back", BACK, &answer, Some(from), held, &[]);
            assert_eq!(wanted(&mut rig), [(FRONT, family.router())]);
            rig.changes();
            rig.resolve(FRONT, family.router(), ROUTER_MAC);
            let to_client = rig.to_client(tcp(vip, from, SYN_ACK).ttl(63)).bytes();
            let changes = Changes::none().held(-1).tx(FRONT, &to_client);
            assert_eq!(rig.sent(), [(FRONT, to_client)]);
            assert_eq!(rig.changes(), changes);
        }
    }
}

#[test]
fn given_up_when_the_neighbor_does_not_answer() {
    let mut rig = Rig::cold(Net::two_armed(1).usual(Mode::Nat));
    let (packet, out) = datagram(&rig, 40_000, b"x");
    for _ in 0..3 {
        rig.send(FRONT, &packet);
    }
    assert_eq!(wanted(&mut rig), [(BACK, ip("10.0.0.11"))]);
    rig.changes();
    rig.neighbor(BACK, ip("10.0.0.11"), NeighborUpdate::Failed);
    let lost = Changes::none().held(-3).add("drop.neighbor_unresolved", 3);
    assert_eq!(rig.changes(), lost);
    assert_eq!(rig.sent(), Sent::new());
    // The next packet asks again, at once.
    rig.send(FRONT, &packet);
    assert_eq!(wanted(&mut rig), [(BACK, ip("10.0.0.11"))]);
    rig.resolve(BACK, ip("10.0.0.11"), server_mac(11));
    assert_eq!(rig.sent(), [(BACK, out.clone())]);
    // A neighbor that was known may fail, and come back with another MAC address.
    rig.neighbor(BACK, ip("10.0.0.11"), NeighborUpdate::Failed);
    assert_eq!(rig.send(FRONT, &packet), []);
    rig.resolve(BACK, ip("10.0.0.11"), [2, 9, 9, 9, 9, 9]);
    let mut moved = out;
    moved[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    assert_eq!(rig.sent(), [(BACK, moved.clone())]);
    assert_eq!(rig.send(FRONT, &packet), [(BACK, moved)]);
    // What nobody asked about may fail too.
    rig.neighbor(BACK, ip("10.0.0.99"), NeighborUpdate::Failed);
}

#[test]
fn given_up_after_a_while() {
    let mut rig = Rig::cold(Net::two_armed(1).usual(Mode::Nat));
    let (packet, _) = datagram(&rig, 40_000, b"x");
    rig.send(FRONT, &packet);
    rig.pass(1000);
    rig.send(FRONT, &packet);
    let asked = [(BACK, ip("10.0.0.11"))];
    assert_eq!(wanted(&mut rig), [asked, asked].concat(), "asked again after a second");
    rig.wait("not yet", MAX_WAIT_MS - 1001, Changes::none());
    rig.wait("the first", 1, Changes::none().held(-1).dropped(NeighborUnresolved));
    rig.wait("not yet", 999, Changes::none());
    rig.wait("the second", 1, Changes::none().held(-1).dropped(NeighborUnresolved));
}

#[test]
fn a_bounded_number_of_packets_waits() {
    let mut net = Net::two_armed(1).usual(Mode::Nat);
    let service = shunt::session::ServiceId(1);
    for n in 12..30 {
        net.server(service, ip(&format!("10.0.0.{n}")), 5353);
    }
    let mut rig = Rig::cold(net);
    // One server: as many as one hop may have.
    for other in 4..22 {
        rig.net.snapshot.servers[other].weight = 0;
    }
    rig.reconfigure();
    let (packet, _) = datagram(&rig, 40_000, b"x");
    for _ in 0..MAX_HELD_PER_HOP {
        rig.send(FRONT, &packet);
    }
    let id = ServerId(2);
    let full = Changes::none().forward(id, &packet).dropped(NeighborQueueFull);
    rig.step("one too many", FRONT, &packet, Some(client(40_000)), full, &[]);
    // All servers: as many as there may be at all.
    for other in 4..22 {
        rig.net.snapshot.servers[other].weight = 1;
    }
    rig.reconfigure();
    for n in 0..3000 {
        let (packet, _) = datagram(&rig, 41_000 + n % 500, b"x");
        rig.send(FRONT, &packet);
    }
    assert_eq!(rig.counters[0].held.get(), MAX_HELD as u64);
    rig.pass(MAX_WAIT_MS + 100);
    assert_eq!(rig.counters[0].held.get(), 0);
    assert_eq!(rig.counters[0].drops_of(NeighborUnresolved).get(), MAX_HELD as u64);
}

#[test]
fn no_route_to_the_client() {
    let mut net = Net::two_armed(2).usual(Mode::Nat);
    net.snapshot.routes_v4.retain(|route| route.to.prefix_len() != 0);
    let mut rig = Rig::new(net);
    let from = client(40_000);
    let syn = rig.by_client(tcp(from, endpoint("192.0.2.10:80"), SYN)).bytes();
    let changes = Changes::none().dropped(NoRoute);
    rig.step("no session without a way back", FRONT, &syn, Some(from), changes, &[]);
    // In direct return the switch needs none.
    let mut net = Net::two_armed(2).usual(Mode::Dr);
    net.snapshot.routes_v4.retain(|route| route.to.prefix_len() != 0);
    let mut rig = Rig::new(net);
    assert_eq!(rig.send(FRONT, &syn).len(), 1);
}

#[test]
fn the_longest_prefix_wins_and_new_routes_are_used_at_once() {
    let mut net = Net::two_armed(2).usual(Mode::Nat);
    net.route("198.51.100.0/24", FRONT, Some("192.0.2.5"));
    let mut rig = Rig::new(net);
    let near: [u8; 6] = [2, 0, 0, 0, 5, 5];
    let nearer: [u8; 6] = [2, 0, 0, 0, 6, 6];
    rig.resolve(FRONT, ip("192.0.2.5"), near);
    rig.resolve(FRONT, ip("192.0.2.6"), nearer);
    let from = client(40_000);
    let syn = rig.by_client(tcp(from, endpoint("192.0.2.10:80"), SYN)).bytes();
    rig.send(FRONT, &syn);
    let answer = rig.by_server(11, tcp(endpoint("10.0.0.11:8080"), from, SYN_ACK)).bytes();
    let via = |rig: &mut Rig, mac: [u8; 6]| {
        let out = tcp(endpoint("192.0.2.10:80"), from, SYN_ACK).ttl(63);
        let out = rig.to_client(out).macs_to(mac);
        assert_eq!(rig.send(BACK, &answer), [(FRONT, out)]);
    };
    via(&mut rig, near);
    rig.net.route("198.51.100.0/25", FRONT, Some("192.0.2.6"));
    rig.reconfigure();
    via(&mut rig, nearer);
    rig.net.snapshot.routes_v4.retain(|route| route.to.prefix_len() != 25);
    rig.reconfigure();
    via(&mut rig, near);
    // The same for the way to the server: it moves behind a gateway.
    rig.resolve(BACK, ip("10.0.0.254"), [2, 0, 0, 0, 7, 7]);
    rig.net.route("10.0.0.11/32", BACK, Some("10.0.0.254"));
    rig.net.snapshot.servers[0].route.via = Some(ip("10.0.0.254"));
    rig.reconfigure();
    let sent = rig.send(FRONT, &syn);
    assert_eq!(sent[0].1[..6], [2, 0, 0, 0, 7, 7]);
    // And when there is no way left.
    rig.net.snapshot.routes_v4.retain(|route| !matches!(route.to.prefix_len(), 0 | 24));
    rig.reconfigure();
    let changes = Changes::none().dropped(NoRoute);
    rig.step("no way left", BACK, &answer, Some(from), changes, &[]);
}

#[test]
fn the_table_of_next_hops_is_bounded() {
    let mut rig = Rig::with_sessions(Net::two_armed(1).usual(Mode::Nat), 100);
    rig.resolve(BACK, ip("10.0.0.11"), server_mac(11));
    // Every host of the client's network is a next hop of its own, and each is resolved.
    rig.net.route("172.16.0.0/12", FRONT, None);
    rig.reconfigure();
    for n in 0..16_383u32 {
        let host = std::net::Ipv4Addr::from(0xac10_0000 + n);
        rig.resolve(FRONT, host.into(), ROUTER_MAC);
    }
    let from = endpoint("172.31.0.1:4000");
    let syn = rig.by_client(tcp(from, endpoint("192.0.2.10:80"), SYN)).bytes();
    let changes = Changes::none().dropped(NeighborTableFull);
    rig.step("no room", FRONT, &syn, Some(from), changes, &[]);
    // One that has failed makes room (it is found within a few packets' searches).
    rig.neighbor(FRONT, ip("172.16.0.9"), NeighborUpdate::Failed);
    let opened = (0..=16_384 / 64).any(|_| rig.send(FRONT, &syn).len() == 1);
    assert!(opened);
    assert_eq!(rig.active(S0), 1);
}
