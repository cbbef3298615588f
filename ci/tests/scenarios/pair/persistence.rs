//! Clients that stay with a server of the other family: what is known of them is kept by the worker of
//! the bucket of their masked address, on either node.

use std::net::{IpAddr, SocketAddr};

use shunt::datapath::selection::Persistence;
use shunt::session::Mode;
use shunt::sync::record::Record;
use shunt::wire::flow::Protocol;

use super::{Pair, Wire};
use crate::frames::{SYN, tcp};
use crate::net::{BACK, FRONT, Family, Net, SHORT_TIMEOUTS};

/// Networks of clients.
const CLIENTS: u8 = 16;

fn net(clients: Family, servers: Family) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers);
        let listen = SocketAddr::new(clients.vip(), 80);
        let id = net.service(Protocol::Tcp, &[listen], Mode::FullNat);
        for n in 11..15 {
            net.server(id, servers.server(n), 8080);
        }
        net.lip(BACK, servers.lip());
        let service = &mut net.snapshot.services[0];
        service.crossed = true;
        service.selection.persistence =
            Some(Persistence { life_ms: 20_000, mask_v4: 24, mask_v6: 64, scope: 7 });
        service.timeouts = SHORT_TIMEOUTS;
        net.snapshot.crosses = true;
        net
    }
}

/// A host of a client's network connects at a node. Gives the server's number.
fn connect(pair: &mut Pair, node: usize, family: Family, network: u8, host: u8) -> u8 {
    let address: IpAddr = match family {
        Family::V4 => [198, 51, 100 + network, host].into(),
        Family::V6 => format!("2001:db8:99:{network:x}::{host:x}").parse().unwrap(),
    };
    let client = SocketAddr::new(address, 1000 + u16::from(network));
    pair.begin();
    let bytes = pair.nodes[node].by_client(tcp(client, SocketAddr::new(family.vip(), 80), SYN));
    pair.inject(node, FRONT, &bytes.bytes());
    pair.pass(1, 1);
    assert_eq!(pair.sent[node].len(), 1, "network {network}");
    pair.sent[node][0].1[5]
}

fn is_persist(record: &Record) -> bool {
    matches!(record, Record::PersistV4(_) | Record::PersistV6(_))
}

#[test]
fn a_client_stays_with_its_server_of_the_other_family_on_both_nodes() {
    for workers in [[1, 1], [1, 2], [2, 1], [2, 3]] {
        for (clients, servers) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
            let what = format!("{workers:?}, {clients:?} to {servers:?}");
            let mut pair = Pair::new(workers, Wire::Own, net(clients, servers));
            let known = |pair: &Pair, node| pair.sum(node, |c| c.persistent_clients.get());
            let placed: Vec<u8> = (0..CLIENTS)
                .map(|network| {
                    let server = connect(&mut pair, usize::from(network % 2), clients, network, 1);
                    assert_eq!(pair.told(usize::from(network % 2), is_persist), 1, "{what}");
                    server
                })
                .collect();
            assert!(placed.iter().any(|server| *server != placed[0]), "{what}");
            let all = u64::from(CLIENTS);
            assert_eq!([known(&pair, 0), known(&pair, 1)], [all, all], "{what}");
            let mut host = 2;
            let mut same = |pair: &mut Pair, node| {
                host += 1;
                for (network, server) in (0..).zip(&placed) {
                    let to = connect(pair, node, clients, network, host);
                    assert_eq!(to, *server, "{what}: network {network}, node {node}");
                }
            };
            same(&mut pair, 1);
            same(&mut pair, 0);
            // A new node hears of each of them by one walk.
            for node in 0..2 {
                pair.restart(node);
                pair.join();
                assert_eq!([known(&pair, 0), known(&pair, 1)], [all, all], "{what}: {node}");
                same(&mut pair, node);
            }
        }
    }
}

/// While the nodes are apart a client gets another server, since its own is down for a moment. What the
/// other node still remembers is older.
#[test]
fn what_was_remembered_later_stays() {
    let make = |workers| {
        let mut net = Net::two_armed(workers);
        let listen = SocketAddr::new(Family::V4.vip(), 80);
        let id = net.service(Protocol::Tcp, &[listen], Mode::FullNat);
        for n in 11..15 {
            net.server(id, Family::V4.server(n), 8080);
        }
        net.lip(BACK, Family::V4.lip());
        let service = &mut net.snapshot.services[0];
        service.selection.persistence =
            Some(Persistence { life_ms: 60_000, mask_v4: 24, mask_v6: 64, scope: 7 });
        service.timeouts = SHORT_TIMEOUTS;
        net
    };
    let mut pair = Pair::new([1, 1], Wire::Own, make);
    let first = connect(&mut pair, 0, Family::V4, 1, 1);
    pair.part();
    let set_up = |pair: &mut Pair, up: bool| {
        for node in &mut pair.nodes {
            for server in &mut node.net.snapshot.servers {
                if server.address == Family::V4.server(first) {
                    server.up = up;
                }
            }
            node.reconfigure();
        }
    };
    set_up(&mut pair, false);
    let second = connect(&mut pair, 0, Family::V4, 1, 2);
    assert_ne!(first, second);
    set_up(&mut pair, true);
    assert_eq!(connect(&mut pair, 0, Family::V4, 1, 3), second);
    pair.heal();
    pair.settle();
    let at_0 = connect(&mut pair, 0, Family::V4, 1, 4);
    let at_1 = connect(&mut pair, 1, Family::V4, 1, 5);
    assert_eq!((at_0, at_1), (second, second), "first was {first}");
}
