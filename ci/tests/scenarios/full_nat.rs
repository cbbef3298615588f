//! FullNAT's local ports: found again by the answers on any number of workers, used again towards
//! other servers, exhausted and given back.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::DropReason::LocalPortsExhausted;
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{source_port, udp};
use crate::net::{BACK, FRONT, Family, Net, endpoint, ip};
use crate::rig::Rig;

/// One UDP service with servers 11 and on; so many LIPs.
fn net(workers: usize, servers: u8, lips: u8) -> Net {
    let mut net = Net::two_armed(workers);
    for family in Family::BOTH {
        let listen = SocketAddr::new(family.vip(), 53);
        let dns = net.service(Protocol::Udp, &[listen], Mode::FullNat);
        for n in 0..servers {
            net.server(dns, family.server(11 + n), 5353);
        }
    }
    for n in 0..lips {
        net.lip(BACK, ip(&format!("10.0.0.{}", 200 + n)));
        net.lip(BACK, ip(&format!("2001:db8:2::{}", 200 + n)));
    }
    net
}

/// The source and the last byte of the server's MAC address of a frame that left for a server.
fn local(frame: &[u8]) -> (SocketAddr, u8) {
    let ip = match frame[12] {
        0x08 => <[u8; 4]>::try_from(&frame[26..30]).unwrap().into(),
        _ => std::net::IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap()),
    };
    (SocketAddr::new(ip, source_port(frame)), frame[5])
}

#[test]
fn an_answer_needs_one_hand_off_at_most_and_finds_its_session() {
    for workers in [1, 2, 3, 4, 8] {
        for family in Family::BOTH {
            let mut rig = Rig::with_sessions(net(workers, 3, 2), 2000).warmed();
            let vip = SocketAddr::new(family.vip(), 53);
            for n in 0..500u16 {
                let from = SocketAddr::new(family.client(), 20_000 + 7 * n);
                let query = rig.by_client(udp(from, vip)).bytes();
                let sent = rig.send(FRONT, &query);
                assert_eq!(sent.len(), 1);
                let (local, n) = local(&sent[0].1);
                assert_eq!(rig.net.owner(local), rig.net.owner(from));
                let server = SocketAddr::new(family.server(n), 5353);
                let out = rig.to_client(udp(vip, from).ttl(63)).bytes();
                let answer = rig.by_server(n, udp(server, local)).bytes();
                // Whichever worker's queue it comes in: `step` allows a hand-off only to the owner.
                let base = if family == Family::V6 { 3 } else { 0 };
                let id = ServerId(base + u16::from(n) - 11);
                let changes = Changes::none().reply(id, &answer).tx(FRONT, &out);
                rig.step("answer", BACK, &answer, Some(local), changes, &[(FRONT, out)]);
            }
            assert_eq!(rig.sessions(), 500);
        }
    }
}

#[test]
fn the_local_addresses_take_turns() {
    let mut rig = Rig::new(net(1, 1, 3));
    let mut count = HashMap::new();
    for n in 0..300 {
        let from = SocketAddr::new(ip("198.51.100.7"), 20_000 + n);
        let query = rig.by_client(udp(from, endpoint("192.0.2.10:53"))).bytes();
        let (local, _) = local(&rig.send(FRONT, &query)[0].1);
        *count.entry(local.ip()).or_insert(0) += 1;
    }
    let each = [200, 201, 202].map(|n| count[&ip(&format!("10.0.0.{n}"))]);
    assert_eq!(each, [100, 100, 100]);
}

/// The steering bucket: with as many workers as buckets, it is the owner.
fn bucket(net: &Net, endpoint: SocketAddr) -> usize {
    let mut net = net.clone();
    net.snapshot.worker_of = std::array::from_fn(|bucket| bucket as u8);
    net.owner(endpoint)
}

/// Clients of one address whose endpoints are in one bucket, as many as wanted.
fn clients_of_bucket(net: &Net, wanted: usize, ip: std::net::IpAddr) -> Vec<SocketAddr> {
    (1024..=u16::MAX)
        .map(|port| SocketAddr::new(ip, port))
        .filter(|client| bucket(net, *client) == wanted)
        .collect()
}

#[test]
fn a_real_server_may_be_a_client_of_another_service() {
    for workers in [1, 2, 4] {
        for family in Family::BOTH {
            let mut rig = Rig::new(net(workers, 2, 1));
            let vip = SocketAddr::new(family.vip(), 53);
            for n in 0..40u16 {
                let from = SocketAddr::new(family.server(15), 20_000 + n);
                let query = rig.by_server(15, udp(from, vip)).bytes();
                let sent = rig.send(BACK, &query);
                assert_eq!(sent.len(), 1, "{workers} workers, {from}");
                let (local, n) = local(&sent[0].1);
                let server = SocketAddr::new(family.server(n), 5353);
                let answer = rig.by_server(n, udp(server, local)).bytes();
                let out = rig.to_server(15, udp(vip, from).ttl(63)).bytes();
                assert_eq!(rig.send(BACK, &answer), [(BACK, out)], "{workers} workers, {from}");
            }
        }
    }
}

#[test]
fn ports_run_out_per_server_and_bucket_and_come_back() {
    for family in Family::BOTH {
        let net = net(1, 2, 1);
        let base = if family == Family::V6 { 2 } else { 0 };
        let v6 = family == Family::V6;
        // 504 ports of a bucket from 1024 on, half of them node 0's, towards each of two servers.
        let per_server = 252;
        let clients = clients_of_bucket(&net, 5, family.client());
        assert_eq!(clients.len(), 504);
        let mut rig = Rig::new(net);
        let vip = SocketAddr::new(family.vip(), 53);
        let mut used = HashSet::new();
        for client in &clients {
            let query = rig.by_client(udp(*client, vip)).bytes();
            let sent = rig.send(FRONT, &query);
            assert_eq!(sent.len(), 1, "{client}");
            assert!(used.insert(local(&sent[0].1)), "used twice towards one server");
        }
        let of = |n: u8| used.iter().filter(|u| u.1 == n).map(|u| u.0).collect::<HashSet<_>>();
        assert_eq!(of(11).len(), per_server);
        assert_eq!(of(11), of(12), "the same ports serve both servers");

        let late = ip(if v6 { "2001:db8:99::8" } else { "198.51.100.8" });
        let late = clients_of_bucket(&rig.net, 5, late)[0];
        let query = rig.by_client(udp(late, vip)).bytes();
        let changes = Changes::none().dropped(LocalPortsExhausted);
        rig.step("exhausted", FRONT, &query, None, changes, &[]);
        // Another bucket has ports of its own.
        let elsewhere = SocketAddr::new(late.ip(), late.port() + 1);
        let aside = rig.by_client(udp(elsewhere, vip)).bytes();
        assert_eq!(rig.send(FRONT, &aside).len(), 1);
        // One session ends, one port is free.
        rig.pass(15_000);
        for client in &clients[1..] {
            let query = rig.by_client(udp(*client, vip)).bytes();
            assert_eq!(rig.send(FRONT, &query).len(), 1);
        }
        // (The wheel looks at a bounded number of entries each turn.)
        rig.pass(17_000);
        assert_eq!(rig.sessions(), 503);
        let sent: Vec<_> = (0..2).flat_map(|_| rig.send(FRONT, &query)).collect();
        assert!(!sent.is_empty());
        let (reused, n) = local(&sent[0].1);
        assert!(used.contains(&(reused, n)));
        rig.pass(33_000);
        assert_eq!(rig.sessions(), 0);
        for server in [base, base + 1] {
            assert_eq!(rig.active(ServerId(server)), 0);
        }
        // All are free again: as many sessions as at first.
        for client in &clients {
            let query = rig.by_client(udp(*client, vip)).bytes();
            assert_eq!(rig.send(FRONT, &query).len(), 1, "{client}");
        }
    }
}

#[test]
fn ports_in_use_stay_so_in_a_new_configuration() {
    let mut rig = Rig::new(net(1, 1, 1));
    let clients = &clients_of_bucket(&rig.net, 5, ip("198.51.100.7"))[..252];
    let vip = endpoint("192.0.2.10:53");
    let ask = |rig: &mut Rig, client: SocketAddr| {
        let query = rig.by_client(udp(client, vip)).bytes();
        rig.send(FRONT, &query).pop().map(|(_, bytes)| local(&bytes).0)
    };
    let before: Vec<_> = clients[..100].iter().map(|c| ask(&mut rig, *c).unwrap()).collect();
    // Another server, another LIP in front of the old one, another node's id for none of them.
    rig.net.snapshot.lips[1].v4.insert(0, "10.0.0.210".parse().unwrap());
    rig.net.server(ServiceId(0), ip("10.0.0.12"), 5353);
    rig.net.snapshot.servers[2].weight = 0;
    rig.reconfigure();
    let after: Vec<_> = clients[..100].iter().map(|c| ask(&mut rig, *c).unwrap()).collect();
    assert_eq!(before, after, "no session changes its source");
    let new: Vec<_> = clients[100..].iter().map(|c| ask(&mut rig, *c).unwrap()).collect();
    let all: HashSet<_> = before.iter().chain(&new).collect();
    assert_eq!(all.len(), 252, "no port twice");
    assert!(new.iter().any(|l| l.ip() == ip("10.0.0.210")), "the new LIP is used");
    // Sessions that were opened before give their ports back after.
    rig.pass(33_000);
    assert_eq!(rig.sessions(), 0);
    rig.net.snapshot.lips[1].v4.remove(0);
    rig.reconfigure();
    let again: HashSet<_> = clients.iter().map(|c| ask(&mut rig, *c).unwrap()).collect();
    assert_eq!(again.len(), 252);
}

#[test]
fn the_other_node_has_the_other_ports() {
    for node in [0, 1] {
        let mut net = net(2, 1, 1);
        net.snapshot.node_id = node;
        let mut rig = Rig::new(net);
        for n in 0..50 {
            let from = SocketAddr::new(ip("198.51.100.7"), 20_000 + n);
            let query = rig.by_client(udp(from, endpoint("192.0.2.10:53"))).bytes();
            let (local, _) = local(&rig.send(FRONT, &query)[0].1);
            assert_eq!(local.port() % 2, u16::from(node));
        }
    }
}

#[test]
fn without_a_local_address_there_is_no_session() {
    let mut rig = Rig::new(net(1, 1, 0));
    let from = endpoint("198.51.100.7:4000");
    let query = rig.by_client(udp(from, endpoint("192.0.2.10:53"))).bytes();
    let changes = Changes::none().dropped(LocalPortsExhausted);
    rig.step("no LIP", FRONT, &query, None, changes, &[]);
}
