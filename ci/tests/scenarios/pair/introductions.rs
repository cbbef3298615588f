//! Connections whose numbers or headers the switch changes: PROXY protocol, TOA, SYN proxy; and clients
//! that stay with their server.

use std::net::{IpAddr, SocketAddr};

use shunt::datapath::selection::Persistence;
use shunt::datapath::snapshot::{Introduction, SynProxy};
use shunt::session::Mode;
use shunt::wire::DropReason::Joining;
use shunt::wire::flow::Protocol;

use super::talk::Talk;
use super::{Pair, Wire, mac};
use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, RST, SYN, SYN_ACK, tcp};
use crate::net::{BACK, FRONT, Family, Net, SHORT_TIMEOUTS};
use crate::rig::Rig;

/// The server's first number.
const SERVER: u32 = 0x0bad_cafe;
/// The timestamps option, and two bytes before it.
fn stamps(value: u32, echo: u32) -> Vec<u8> {
    let mut option = vec![1, 1, 8, 10];
    option.extend(value.to_be_bytes());
    option.extend(echo.to_be_bytes());
    option
}

fn introducing(how: Introduction) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers).usual(Mode::FullNat);
        net.snapshot.services[0].introduction = how;
        net
    }
}

fn header_len(how: Introduction, client: SocketAddr, vip: SocketAddr) -> u32 {
    let v6 = client.is_ipv6();
    match how {
        Introduction::ProxyV1 => {
            let family = if v6 { "TCP6" } else { "TCP4" };
            let line = format!(
                "PROXY {family} {} {} {} {}\r\n",
                client.ip(),
                vip.ip(),
                client.port(),
                vip.port()
            );
            line.len() as u32
        }
        Introduction::ProxyV2 => 16 + if v6 { 36 } else { 12 },
        _ => 0,
    }
}

#[test]
fn a_client_is_introduced_by_either_node() {
    let all = [Introduction::ProxyV1, Introduction::ProxyV2, Introduction::Toa];
    for (how, workers) in all.into_iter().flat_map(|how| [(how, [1, 1]), (how, [2, 3])]) {
        for opener in 0..2 {
            let mut talk = Talk::new(workers, Wire::Back, opener, introducing(how));
            for (n, route) in (0u16..).zip([0xfffu32, 0b0101_0101_0101, 0b0011_1100_1001, 0b1110]) {
                for family in Family::BOTH {
                    let client = SocketAddr::new(family.client(), 40_000 + n);
                    let vip = SocketAddr::new(family.vip(), 80);
                    introduce(&mut talk, how, route, client, vip);
                }
            }
            talk.pair.settle();
        }
    }
}

fn introduce(talk: &mut Talk, how: Introduction, route: u32, client: SocketAddr, vip: SocketAddr) {
    let ends = talk.begin(tcp(client, vip, SYN));
    let (mut step, opener) = (0, talk.opener);
    let mut next = || {
        step += 1;
        if route >> (step - 1) & 1 == 1 { 1 - opener } else { opener }
    };
    let n = header_len(how, client, vip);
    let c =
        |flags, seq, ack: u32| tcp(client, vip, flags).seq(ISN + seq).ack(SERVER.wrapping_add(ack));
    let s = |flags, seq: u32, ack| {
        tcp(ends.server, ends.local, flags).seq(SERVER.wrapping_add(seq)).ack(ISN + ack)
    };
    talk.server("SYN-ACK", next(), s(SYN_ACK, 0, 1));
    talk.client("ACK", next(), c(ACK, 1, 1));
    talk.client("ACK again", next(), c(ACK, 1, 1));
    talk.client("request", next(), c(PSH_ACK, 1, 1).payload(b"GET /"));
    // What ends the introduction the owner has to see: it tells.
    talk.server("a part of the header", opener, s(ACK, 1, 1 + n / 2));
    talk.server("response", opener, s(PSH_ACK, 1, 6 + n).payload(b"200 OK"));
    talk.client("ACK of it", next(), c(ACK, 6, 7));
    talk.client("more", next(), c(PSH_ACK, 6, 7).payload(b"GET /2"));
    talk.server("the next", next(), s(PSH_ACK, 7, 12 + n).payload(b"404"));
    talk.client("FIN", next(), c(FIN_ACK, 12, 10));
    talk.server("FIN", next(), s(FIN_ACK, 10, 13 + n));
    talk.client("the last ACK", next(), c(ACK, 13, 11));
}

#[test]
fn a_reset_ends_an_introduced_connection_on_both_nodes() {
    let mut talk = Talk::new([1, 2], Wire::Own, 0, introducing(Introduction::ProxyV1));
    let client = SocketAddr::new(Family::V4.client(), 40_001);
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    let ends = talk.begin(tcp(client, vip, SYN));
    let n = header_len(Introduction::ProxyV1, client, vip);
    talk.server("SYN-ACK", 0, tcp(ends.server, ends.local, SYN_ACK));
    talk.client("ACK", 1, tcp(client, vip, ACK));
    talk.server("all of the header", 0, tcp(ends.server, ends.local, ACK).ack(ISN + 1 + n));
    talk.client("RST", 1, tcp(client, vip, RST));
    talk.pair.pass(5, 1);
    assert_eq!(super::states::states(&talk.pair, 0), super::states::states(&talk.pair, 1));
}

fn proxied(mode: Mode) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers).usual(mode);
        net.snapshot.services[0].syn_proxy = SynProxy::On;
        net
    }
}

/// The handshake with the client is one node's or both's, the other one forwards what follows: with
/// shifted numbers, timestamps, windows of another scale and SACK.
#[test]
fn behind_the_syn_proxy_either_node_forwards() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for workers in [[1, 1], [1, 2], [2, 3]] {
            for (challenger, opener) in [(0, 0), (0, 1), (1, 1)] {
                for wire in [Wire::Back, Wire::Own] {
                    let mut talk = Talk::new(workers, wire, opener, proxied(mode));
                    for family in Family::BOTH {
                        handshake_and_data(&mut talk, challenger, family);
                    }
                    talk.pair.settle();
                }
            }
        }
    }
}

fn handshake_and_data(talk: &mut Talk, challenger: usize, family: Family) {
    let client = SocketAddr::new(family.client(), 40_001);
    let vip = SocketAddr::new(family.vip(), 80);
    let opener = talk.opener;
    // MSS, SACK permitted, timestamps, window scale 5.
    let mut options = vec![2, 4, 5, 180, 4, 2, 8, 10];
    options.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 1, 3, 3, 5]);
    let syn = tcp(client, vip, SYN).options(&options);
    // The clocks of the two differ, and with them the timestamps: that of node 0 is the single one's.
    let make = |rig: &Rig| rig.by_client(syn.clone()).bytes();
    let none = || [Changes::none(), Changes::none()];
    let sent = match challenger {
        0 => talk.send("SYN", 0, FRONT, client, make, none()),
        node => {
            talk.pair.begin();
            let bytes = make(&talk.pair.nodes[node]);
            talk.pair.inject(node, FRONT, &bytes);
            talk.pair.sent[node].clone()
        }
    };
    let challenge = &sent[0].1;
    let at = if family == Family::V6 { 54 } else { 34 };
    let word = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let cookie = word(challenge, at + 4);
    // Behind MSS and SACK permitted.
    let own_time = (0..20)
        .map(|i| at + 20 + i)
        .find(|&i| challenge[i..i + 2] == [8, 10])
        .map(|i| word(challenge, i + 2))
        .unwrap();
    let c = |flags, seq: u32, ack: u32, time: u32| {
        tcp(client, vip, flags)
            .seq(ISN.wrapping_add(seq))
            .ack(cookie.wrapping_add(ack))
            .options(&stamps(0x1234_5679, own_time.wrapping_add(time)))
    };
    let ack = c(ACK, 1, 1, 0);
    let make = move |rig: &Rig| rig.by_client(ack.clone()).bytes();
    let own = Changes::none().add("sync.own_sessions", 1);
    let sent = talk.send("ACK", opener, FRONT, client, make, [own, Changes::none()]);
    let (local, server) = super::forwarding::ends(&sent[0].1);
    let s = |flags, seq: u32, ack| {
        tcp(server, local, flags).seq(SERVER.wrapping_add(seq)).ack(ISN + ack)
    };
    let mut options = vec![2, 4, 5, 180, 4, 2, 8, 10];
    options.extend([0x70, 0, 0, 0, 0x12, 0x34, 0x56, 0x78, 1, 3, 3, 9]);
    let syn_ack = s(SYN_ACK, 0, 1).options(&options);
    let make = move |rig: &Rig| rig.by_server(11, syn_ack.clone()).bytes();
    let v6 = family == Family::V6;
    let id = shunt::session::ServerId(u16::from(v6));
    let other =
        Changes::none().session(id, v6, 1).add("sync.imported", 1).add("sync.foreign_sessions", 1);
    talk.send("SYN-ACK", opener, BACK, local, make, [Changes::none(), other]);
    talk.pair.assert_told_first(opener);
    let s = |flags, seq: u32, ack| {
        s(flags, seq, ack).options(&stamps(0x7000_0001 + seq, 0x1234_5679)).window(0x0400)
    };
    let mut node = opener;
    let mut next = || {
        node = 1 - node;
        node
    };
    talk.client("request", next(), c(PSH_ACK, 1, 1, 0).payload(b"GET /"));
    talk.server("response", next(), s(PSH_ACK, 1, 6).payload(b"200 OK"));
    talk.server("more of it", next(), s(PSH_ACK, 7, 6).payload(b"body"));
    talk.client("ACK", next(), c(ACK, 6, 11, 10));
    // Something behind a gap is reported.
    let mut sack = stamps(0x1234_5679, own_time.wrapping_add(10));
    sack.extend([1, 1, 5, 10]);
    sack.extend(cookie.wrapping_add(20).to_be_bytes());
    sack.extend(cookie.wrapping_add(30).to_be_bytes());
    talk.client("SACK", next(), c(ACK, 6, 11, 10).options(&sack));
    talk.client("SACK again", next(), c(ACK, 6, 11, 10).options(&sack));
    talk.client("FIN", next(), c(FIN_ACK, 6, 11, 11));
    talk.server("FIN", next(), s(FIN_ACK, 11, 7));
    talk.client("the last ACK", next(), c(ACK, 7, 12, 12));
}

/// A node that has yet to learn which local ports are in use cannot go on after the handshake; the client
/// does not hear of it, and tries again.
#[test]
fn behind_the_syn_proxy_a_joining_node_lets_the_client_wait() {
    for workers in [[1, 1], [2, 3]] {
        let mut pair = Pair::new(workers, Wire::Own, proxied(Mode::FullNat));
        pair.restart(1);
        pair.lose = Box::new(|node, said| node == 0 && said.is_stream());
        pair.pass(1_500, 5);
        assert!(pair.has_peer(1) && !pair.is_synced(1));
        let client = SocketAddr::new(Family::V4.client(), 40_001);
        let vip = SocketAddr::new(Family::V4.vip(), 80);
        pair.begin();
        let bytes = pair.nodes[0].by_client(tcp(client, vip, SYN)).bytes();
        pair.inject(0, FRONT, &bytes);
        let cookie = u32::from_be_bytes(pair.sent[0][0].1[38..42].try_into().unwrap());
        // By the peer, which does not know its session either.
        let ack = tcp(client, vip, ACK).ack(cookie.wrapping_add(1));
        let given = ack.macs(mac(0, FRONT), mac(1, FRONT)).bytes();
        let waits = Changes::none().dropped(Joining).add("service0.syn_cookies_accepted", 1);
        let changes = [waits, Changes::none()];
        pair.step("too early", 1, (FRONT, &given), Some(client), &vec![], changes);
        pair.heal();
        pair.join();
        pair.inject(1, FRONT, &given);
        assert_eq!((pair.sent[1].len(), pair.sent[1][0].0), (1, BACK));
    }
}

#[test]
fn a_client_stays_with_its_server_on_both_nodes() {
    for workers in [[1, 1], [1, 2], [2, 3]] {
        for family in Family::BOTH {
            let make = |workers| {
                let mut net = Net::two_armed(workers);
                let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), 80));
                let id = net.service(Protocol::Tcp, &listen, Mode::Nat);
                for n in 11..15 {
                    for family in Family::BOTH {
                        net.server(id, family.server(n), 8080);
                    }
                }
                let service = &mut net.snapshot.services[0];
                service.selection.persistence =
                    Some(Persistence { life_ms: 5_000, mask_v4: 32, mask_v6: 128, scope: 7 });
                service.timeouts = SHORT_TIMEOUTS;
                net
            };
            let mut pair = Pair::new(workers, Wire::Own, make);
            let connect = |pair: &mut Pair, node: usize, client: u8, port: u16| -> u8 {
                pair.begin();
                let address: IpAddr = match family {
                    Family::V4 => [198, 51, 100, client].into(),
                    Family::V6 => format!("2001:db8:99::{client}").parse().unwrap(),
                };
                let syn =
                    tcp(SocketAddr::new(address, port), SocketAddr::new(family.vip(), 80), SYN);
                let bytes = pair.nodes[node].by_client(syn).bytes();
                pair.inject(node, FRONT, &bytes);
                pair.pass(1, 1);
                assert_eq!(pair.sent[node].len(), 1);
                pair.sent[node][0].1[5]
            };
            let placed: Vec<u8> =
                (0..8).map(|n| connect(&mut pair, 0, 20 + n, 1000 + u16::from(n))).collect();
            let clients = |pair: &Pair, node| pair.sum(node, |c| c.persistent_clients.get());
            assert_eq!([clients(&pair, 0), clients(&pair, 1)], [8, 8]);
            assert!(placed.iter().any(|server| *server != placed[0]));
            for (n, server) in (0u8..).zip(&placed) {
                assert_eq!(connect(&mut pair, 1, 20 + n, 3000), *server, "client {n}");
                assert_eq!(connect(&mut pair, 0, 20 + n, 4000), *server, "client {n}");
            }
            // A new node hears of the clients by the walk.
            pair.restart(1);
            pair.join();
            assert_eq!(clients(&pair, 1), 8);
            for (n, server) in (0u8..).zip(&placed) {
                assert_eq!(connect(&mut pair, 1, 20 + n, 5000), *server, "client {n}");
            }
            pair.pass(6_000, 10);
            assert_eq!([clients(&pair, 0), clients(&pair, 1)], [0, 0]);
        }
    }
}

/// That the server has the header only the owner has seen, and its word of that is lost. From some number on
/// the other node finds it out by itself: the client would not send so far ahead.
#[test]
fn far_behind_the_header_nothing_is_introduced_again() {
    for how in [Introduction::ProxyV1, Introduction::ProxyV2] {
        for (workers, family) in [([1, 1], Family::V4), ([2, 3], Family::V6)] {
            let mut talk = Talk::new(workers, Wire::Own, 0, introducing(how));
            let client = SocketAddr::new(family.client(), 40_001);
            let vip = SocketAddr::new(family.vip(), 80);
            let n = header_len(how, client, vip);
            let ends = talk.begin(tcp(client, vip, SYN));
            talk.server("SYN-ACK", 0, tcp(ends.server, ends.local, SYN_ACK));
            talk.client("ACK", 0, tcp(client, vip, ACK));
            talk.pair.lose = Box::new(|node, _| node == 0);
            let all = tcp(ends.server, ends.local, ACK).ack(ISN + 1 + n);
            talk.server("all of the header", 0, all);
            // The last ones are before the header, as numbers wrap.
            for sent in [5, 1 << 30, (1 << 30) + 1, 1 << 31, (1 << 31) + 7, 3 << 30, u32::MAX] {
                let seq = (ISN + 1).wrapping_add(sent);
                let more = tcp(client, vip, PSH_ACK).seq(seq).payload(b"more");
                talk.client(&format!("{sent:#x}"), 1, more);
            }
        }
    }
}

/// The client has given up and begins anew with another number, at the owner or at the node that has the
/// copy: the header belongs behind that.
#[test]
fn a_syn_with_another_number_is_told() {
    for (how, again_at) in [Introduction::ProxyV1, Introduction::ProxyV2, Introduction::Toa]
        .into_iter()
        .flat_map(|how| [(how, 0), (how, 1)])
    {
        for workers in [[1, 1], [2, 3]] {
            let mut talk = Talk::new(workers, Wire::Own, 0, introducing(how));
            for family in Family::BOTH {
                let client = SocketAddr::new(family.client(), 40_001);
                let vip = SocketAddr::new(family.vip(), 80);
                let ends = talk.begin(tcp(client, vip, SYN));
                const AGAIN: u32 = 0x7777_0000;
                talk.client("SYN again", again_at, tcp(client, vip, SYN).seq(AGAIN));
                let c = |flags| tcp(client, vip, flags).seq(AGAIN + 1);
                talk.server("SYN-ACK", 1, tcp(ends.server, ends.local, SYN_ACK).ack(AGAIN + 1));
                talk.client("ACK", 1 - again_at, c(ACK));
                talk.client("request", 1 - again_at, c(PSH_ACK).payload(b"GET /"));
                talk.client("request again", again_at, c(PSH_ACK).payload(b"GET /"));
            }
        }
    }
}
