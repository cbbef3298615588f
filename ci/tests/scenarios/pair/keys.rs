//! The keys of the channel change while both nodes run.

use std::net::SocketAddr;

use shunt::datapath::snapshot::SynProxy;
use shunt::io::memory::MemoryFrame;
use shunt::session::{Mode, ServerId};
use shunt::sync::keys::Keys;
use shunt::wire::DropReason::SyncRefused;
use shunt::worker::control::Command;

use super::states::short;
use super::{KEY, Pair, Wire, is_session};
use crate::changes::Changes;
use crate::frames::{ACK, SYN, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net};

const NEW: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
const UDP: ServerId = ServerId(2);

fn keys(list: &[&str]) -> Keys {
    Keys::parse(&list.join("\n")).unwrap()
}

fn give(pair: &mut Pair, node: usize, list: &[&str]) {
    let keys = keys(list);
    pair.nodes[node].command(|| Command::Keys(Box::new(keys.clone())));
}

fn net(workers: usize) -> Net {
    let mut net = short(Mode::Nat)(workers);
    net.snapshot.services[0].syn_proxy = SynProxy::On;
    net.snapshot.services[1].timeouts.udp = 60_000;
    net
}

fn client(n: u16) -> SocketAddr {
    SocketAddr::new(Family::V4.client(), 40_000 + n)
}

fn open(pair: &mut Pair, node: usize, n: u16) {
    let vip = SocketAddr::new(Family::V4.vip(), 53);
    let bytes = pair.nodes[node].by_client(udp(client(n), vip)).bytes();
    pair.inject(node, FRONT, &bytes);
}

/// A client gets a cookie of a node.
fn challenge(pair: &mut Pair, node: usize, n: u16) -> u32 {
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    pair.begin();
    let bytes = pair.nodes[node].by_client(tcp(client(n), vip, SYN)).bytes();
    pair.inject(node, FRONT, &bytes);
    u32::from_be_bytes(pair.sent[node][0].1[38..42].try_into().unwrap())
}

/// Whether the cookie is good on a node: the server is asked.
fn is_good(pair: &mut Pair, node: usize, n: u16, cookie: u32) -> bool {
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    pair.begin();
    let ack = tcp(client(n), vip, ACK).ack(cookie.wrapping_add(1));
    let bytes = pair.nodes[node].by_client(ack).bytes();
    pair.inject(node, FRONT, &bytes);
    pair.sent[node].iter().any(|(port, _)| *port == BACK)
}

/// What a node has refused of the other's words, for whatever reason.
fn refused(pair: &Pair, node: usize) -> [u64; 4] {
    [
        pair.sum(node, |c| c.drops_of(SyncRefused).get()),
        pair.sum(node, |c| c.sync.bad_mac.get()),
        pair.sum(node, |c| c.sync.unproven.get()),
        pair.sum(node, |c| c.sync.malformed.get()),
    ]
}

/// In the order that the key file names, one node at a time: no word of either is refused, what is
/// repeated is signed anew, and cookies stay good.
#[test]
fn keys_change_without_a_gap() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, net);
        pair.keys = keys(&[KEY, NEW]);
        let before = [0, 1].map(|node| refused(&pair, node));
        let steps: [&[&str]; 3] = [&[KEY, NEW], &[NEW, KEY], &[NEW]];
        let mut opened = [0, 0];
        for (n, (list, node)) in
            (0u16..).zip(steps.into_iter().flat_map(|list| [(list, 0), (list, 1)]))
        {
            let what = format!("{workers:?}, step {n}");
            let cookie = challenge(&mut pair, 0, 100 + n);
            // Lost with the key of before, repeated with the one that follows.
            pair.lose = Box::new(move |from, said| from == node && said.count(is_session) > 0);
            open(&mut pair, node, 4 * n);
            pair.heal();
            pair.begin();
            give(&mut pair, node, list);
            assert!(is_good(&mut pair, 1, 100 + n, cookie), "{what}");
            open(&mut pair, 0, 4 * n + 1);
            open(&mut pair, 1, 4 * n + 2);
            opened = opened.map(|opened| opened + 1);
            opened[node] += 1;
            pair.pass(300, 1);
            let repeated = pair.sum(node, |c| c.sync.repeated.get());
            assert_eq!(repeated, u64::from(n / 2 + 1), "{what}");
            assert!(pair.has_peer(0) && pair.has_peer(1), "{what}");
            assert_eq!([0, 1].map(|node| refused(&pair, node)), before, "{what}");
            // The handshake behind the proxy comes to nothing.
            pair.pass(1_500, 10);
            assert_eq!(pair.owns(0), (opened[0], opened[1]), "{what}");
            assert_eq!(pair.owns(1), (opened[1], opened[0]), "{what}");
        }
        pair.settle();
    }
}

/// A node that has not got the new key refuses what is signed with it, each datagram once, and takes it
/// when it knows the key.
#[test]
fn an_unknown_key_is_refused_until_it_is_known() {
    let mut pair = Pair::new([1, 1], Wire::Own, net);
    pair.keys = keys(&[KEY, NEW]);
    let cookie = challenge(&mut pair, 0, 100);
    pair.begin();
    give(&mut pair, 0, &[NEW]);
    // Carried by hand.
    pair.cut();
    open(&mut pair, 0, 1);
    let said = pair.said[0].iter().find(|said| said.count(is_session) > 0).unwrap().clone();
    pair.begin();
    let came = |pair: &mut Pair| {
        pair.nodes[1].changes();
        pair.nodes[1].arrive(MemoryFrame::new(Wire::Own.port(), &said.frame));
        pair.nodes[1].settle();
        pair.nodes[1].changes()
    };
    let rx = Changes::none().rx(Wire::Own.port(), &said.frame);
    for _ in 0..2 {
        let refused = rx.clone().dropped(SyncRefused).add("sync.bad_mac", 1);
        assert_eq!(came(&mut pair), refused);
    }
    assert_eq!(pair.nodes[1].sessions(), 0);
    give(&mut pair, 1, &[NEW, KEY]);
    let taken = rx
        .consumed()
        .session(UDP, false, 1)
        .add("sync.received_datagrams", 1)
        .add("sync.received_records", said.records.len() as i64)
        .add("sync.imported", 1);
    assert_eq!(came(&mut pair), taken);
    pair.heal();
    pair.settle();
    assert_eq!([pair.owns(0), pair.owns(1)], [(1, 0), (0, 1)]);
    // Cookies go with the keys: one of before the change is good to who still has the old key.
    let good = [0, 1].map(|node| is_good(&mut pair, node, 100, cookie));
    assert_eq!(good, [false, true]);
}
