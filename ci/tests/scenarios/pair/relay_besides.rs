//! Packets in mid-stream that only the other node knows, where more is to be thought of: behind the SYN
//! proxy, between families, and in egress SNAT.

use std::net::SocketAddr;

use shunt::datapath::policy::MidStream;
use shunt::datapath::snapshot::SynProxy;
use shunt::datapath::sync_counters::SyncCounters;
use shunt::session::mappings::Behavior;
use shunt::session::{Mode, ServerId};
use shunt::sync::datagram::Kind;
use shunt::wire::DropReason::{self, NoSession, SynCookieInvalid};

use super::forwarding::{crossed, ends};
use super::outgoing::{self, pool, remote};
use super::relay::{hops, known_to_one};
use super::states::short;
use super::{Pair, Wire, mac};
use crate::changes::Changes;
use crate::frames::{
    ACK, ISN, PSH_ACK, Packet, RST, SYN, SYN_ACK, mend_ipv4_checksum, source_port, tcp,
};
use crate::net::{BACK, FRONT, Family, Net};

/// The server's first number.
const SERVER: u32 = 0x0bad_cafe;
const WORKERS: [[usize; 2]; 4] = [[1, 1], [1, 2], [2, 1], [2, 3]];
/// On only while there are more SYNs than there ever are here.
const AUTO: SynProxy = SynProxy::Auto { above: 1_000_000 };

fn proxied(syn_proxy: SynProxy, mid_stream: MidStream) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = short(Mode::Nat)(workers);
        net.snapshot.services[0].syn_proxy = syn_proxy;
        net.snapshot.services[0].policy.mid_stream = mid_stream;
        net
    }
}

fn of_client(family: Family) -> [SocketAddr; 2] {
    [SocketAddr::new(family.client(), 40_001), SocketAddr::new(family.vip(), 80)]
}

fn id_of(family: Family) -> ServerId {
    ServerId(u16::from(family == Family::V6))
}

/// Node 0 completes a handshake in the server's place; what it says of it is lost. Gives the cookie, and
/// the server.
fn known_behind_the_proxy(pair: &mut Pair, family: Family) -> (u32, SocketAddr) {
    pair.lose = Box::new(|node, said| node == 0 && said.is_stream());
    let [client, vip] = of_client(family);
    let by_client = |pair: &mut Pair, packet: Packet| {
        pair.begin();
        let bytes = pair.nodes[0].by_client(packet).bytes();
        pair.inject(0, FRONT, &bytes);
        assert_eq!(pair.sent[0].len(), 1);
        pair.sent[0][0].1.clone()
    };
    let challenge = by_client(pair, tcp(client, vip, SYN));
    let at = if family == Family::V6 { 58 } else { 38 };
    let cookie = u32::from_be_bytes(challenge[at..at + 4].try_into().unwrap());
    let ack = tcp(client, vip, ACK).ack(cookie.wrapping_add(1));
    let (local, server) = ends(&by_client(pair, ack));
    let answer = tcp(server, local, SYN_ACK).seq(SERVER);
    let bytes = pair.nodes[0].by_server(11, answer).bytes();
    pair.inject(0, BACK, &bytes);
    pair.pass(1, 1);
    assert_eq!((pair.nodes[0].sessions(), pair.nodes[1].sessions()), (1, 0));
    (cookie, server)
}

/// A segment in mid-stream is no cookie: before it is taken for a forged one, the peer is asked.
#[test]
fn behind_the_syn_proxy_the_peer_gets_what_is_no_cookie() {
    for workers in WORKERS {
        for family in Family::BOTH {
            let mut pair = Pair::new(workers, Wire::Own, proxied(SynProxy::On, MidStream::Reset));
            let (cookie, server) = known_behind_the_proxy(&mut pair, family);
            let [client, vip] = of_client(family);
            let segment = tcp(client, vip, PSH_ACK).seq(ISN + 6).ack(cookie.wrapping_add(7));
            let segment = segment.payload(b"GET /2");
            let came = pair.nodes[1].by_client(segment.clone());
            let given = came.clone().macs(mac(1, FRONT), mac(0, FRONT)).bytes();
            let changes = Changes::none().tx(FRONT, &given).add("sync.relayed", 1);
            pair.step(
                "given",
                1,
                (FRONT, &came.bytes()),
                Some(client),
                &vec![(FRONT, given.clone())],
                [changes, Changes::none()],
            );

            let out = Packet { dst: server, ack: SERVER.wrapping_add(7), ttl: 63, ..segment };
            let out = pair.nodes[0].to_server(11, out).bytes();
            let changes = Changes::none()
                .forward(id_of(family), &given)
                .tx(BACK, &out)
                .add("sync.relay_answered", 1);
            pair.step(
                "answered",
                0,
                (FRONT, &given),
                Some(client),
                &vec![(BACK, out)],
                [changes, Changes::none()],
            );
            pair.heal();
            pair.settle();
        }
    }
}

/// What neither node knows is judged by the one that was asked. While the service answers SYNs, only who
/// returns a cookie gets a session, whatever its policy; else the policy decides.
#[test]
fn what_neither_knows_behind_the_syn_proxy() {
    use MidStream::{Adopt, Drop, Reset};
    let dropped = |reason| (Some(reason), false);
    let refused = |reason| (Some(reason), true);
    for (syn_proxy, mid_stream, (reason, answered)) in [
        (SynProxy::On, Drop, dropped(SynCookieInvalid)),
        (SynProxy::On, Reset, refused(SynCookieInvalid)),
        (SynProxy::On, Adopt, dropped(SynCookieInvalid)),
        (AUTO, Drop, dropped(NoSession)),
        (AUTO, Reset, refused(NoSession)),
        (AUTO, Adopt, (None, false)),
    ] {
        for workers in WORKERS {
            for family in Family::BOTH {
                let mut pair = Pair::new(workers, Wire::Own, proxied(syn_proxy, mid_stream));
                judged(&mut pair, family, reason, answered);
            }
        }
    }
}

/// A segment comes in at node 1, which gives it to node 0: there it is dropped for this reason, `answered`
/// with a reset, or it opens a session.
fn judged(pair: &mut Pair, family: Family, reason: Option<DropReason>, answered: bool) {
    let ([client, vip], id, v6) = (of_client(family), id_of(family), family == Family::V6);
    let segment = tcp(client, vip, ACK);
    let came = pair.nodes[1].by_client(segment.clone());
    let given = came.clone().macs(mac(1, FRONT), mac(0, FRONT)).bytes();
    let changes = Changes::none().tx(FRONT, &given).add("sync.relayed", 1);
    let expected = vec![(FRONT, given.clone())];
    let came = came.bytes();
    pair.step("given", 1, (FRONT, &came), Some(client), &expected, [changes, Changes::none()]);

    let refused = Changes::none().add("sync.relay_refused", 1);
    let (expected, changes) = match reason {
        Some(reason) => {
            let rejected = i64::from(reason == SynCookieInvalid);
            let mut own = refused.dropped(reason).add("service0.syn_cookies_rejected", rejected);
            let mut sent = vec![];
            if answered {
                let reset = tcp(vip, client, RST).seq(ISN + 1).window(0);
                let reset = pair.nodes[0].to_client(reset).bytes();
                own = own.originated(FRONT, &reset);
                sent.push((FRONT, reset));
            }
            (sent, [own, Changes::none()])
        }
        None => {
            let server = SocketAddr::new(family.server(11), 8080);
            let out = Packet { dst: server, ttl: 63, ..segment };
            let out = pair.nodes[0].to_server(11, out).bytes();
            let session = Changes::none().session(id, v6, 1);
            let own = session.clone().with(&refused).forward(id, &given).tx(BACK, &out);
            let own = own.add("sync.own_sessions", 1);
            let other = session.add("sync.foreign_sessions", 1).add("sync.imported", 1);
            (vec![(BACK, out)], [own, other])
        }
    };
    pair.step("judged", 0, (FRONT, &given), Some(client), &expected, changes);
    if reason.is_none() {
        // The next segment is forwarded by either.
        let came = pair.nodes[1].by_client(tcp(client, vip, ACK)).bytes();
        pair.begin();
        pair.inject(1, FRONT, &came);
        assert_eq!((pair.sent[1].len(), pair.sent[1][0].0), (1, BACK));
    }
}

/// A TCP packet of less than 1260 bytes as it is made of one of the other family.
fn made(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [0x08, 0x00] {
        // The identification is the checksum, DF is not set.
        let sum = [frame[50], frame[51]];
        frame[18..20].copy_from_slice(&sum);
        frame[20] = 0;
        mend_ipv4_checksum(&mut frame);
    }
    frame
}

const FAMILIES: [(Family, Family); 2] = [(Family::V6, Family::V4), (Family::V4, Family::V6)];

/// A packet that would cross over is looked at as one of the other family: it is given to the peer as what
/// it was.
#[test]
fn between_families_the_peer_gets_what_came() {
    for workers in WORKERS {
        for (clients, servers) in FAMILIES {
            let mut pair = Pair::new(workers, Wire::Own, crossed(servers));
            let ends = known_to_one(&mut pair, clients);
            let c = tcp(ends.client, ends.vip, PSH_ACK).payload(b"GET /");
            let s = tcp(ends.server, ends.local, PSH_ACK).ack(ISN + 6).payload(b"200 OK");
            for (port, packet, outer) in [(FRONT, c, ends.client), (BACK, s, ends.local)] {
                let came = match port {
                    FRONT => pair.nodes[1].by_client(packet.clone()),
                    _ => pair.nodes[1].by_server(11, packet.clone()),
                };
                let given = made(came.clone().macs(mac(1, port), mac(0, port)).bytes());
                pair.begin();
                // A segment of a server goes through the pipeline once more.
                let moves = hops(&pair, 1, outer) + i64::from(port == BACK);
                let changes = Changes::none()
                    .tx(port, &given)
                    .add("sync.relayed", 1)
                    .add("handed_off", moves)
                    .add("handed_in", moves);
                let expected = vec![(port, given.clone())];
                let came = came.bytes();
                let what = format!("{clients:?} to {servers:?}");
                pair.step(&what, 1, (port, &came), None, &expected, [changes, Changes::none()]);

                let (to, src, dst) = match port {
                    FRONT => (BACK, ends.local, ends.server),
                    _ => (FRONT, ends.vip, ends.client),
                };
                let out = Packet { src, dst, ttl: 63, ..packet };
                let out = match port {
                    FRONT => pair.nodes[0].to_server(11, out),
                    _ => pair.nodes[0].to_client(out),
                };
                let out = made(out.bytes());
                let changes = Changes::none().tx(to, &out).add("sync.relay_answered", 1);
                // Counted as long as it leaves.
                let changes = match port {
                    FRONT => changes.forward(ServerId(0), &out),
                    _ => changes.reply(ServerId(0), &out),
                };
                let expected = vec![(to, out)];
                let outer = Some(outer);
                pair.step(&what, 0, (port, &given), outer, &expected, [changes, Changes::none()]);
            }
            pair.heal();
            pair.settle();
        }
    }
}

/// What neither node knows is refused by the one that was asked, in the family that it came in.
#[test]
fn between_families_a_refusal_goes_by_the_routes() {
    for workers in WORKERS {
        for (clients, servers) in FAMILIES {
            let make = move |workers| {
                let mut net = crossed(servers)(workers);
                net.snapshot.services[0].policy.mid_stream = MidStream::Reset;
                net
            };
            let mut pair = Pair::new(workers, Wire::Own, make);
            let [client, vip] = of_client(clients);
            let came = pair.nodes[1].by_client(tcp(client, vip, ACK));
            let given = made(came.clone().macs(mac(1, FRONT), mac(0, FRONT)).bytes());
            let changes = Changes::none().tx(FRONT, &given).add("sync.relayed", 1);
            let expected = vec![(FRONT, given.clone())];
            let came = came.bytes();
            let changes = [changes, Changes::none()];
            pair.step("given", 1, (FRONT, &came), Some(client), &expected, changes);
            let reset = tcp(vip, client, RST).seq(ISN + 1).window(0);
            let reset = made(pair.nodes[0].to_client(reset).bytes());
            let refused = Changes::none()
                .dropped(NoSession)
                .originated(FRONT, &reset)
                .add("sync.relay_refused", 1);
            let expected = vec![(FRONT, reset)];
            let changes = [refused, Changes::none()];
            pair.step("refused", 0, (FRONT, &given), Some(client), &expected, changes);
        }
    }
}

#[test]
fn between_families_what_came_goes_by_the_channel() {
    for workers in WORKERS {
        for (clients, servers) in FAMILIES {
            let mut pair = Pair::new(workers, Wire::Apart, crossed(servers));
            let ends = known_to_one(&mut pair, clients);
            pair.pass(200, 1);
            let c = tcp(ends.client, ends.vip, PSH_ACK).payload(b"GET /");
            let s = tcp(ends.server, ends.local, PSH_ACK).ack(ISN + 6).payload(b"200 OK");
            for (port, packet) in [(FRONT, c), (BACK, s)] {
                let came = match port {
                    FRONT => pair.nodes[1].by_client(packet.clone()),
                    _ => pair.nodes[1].by_server(11, packet.clone()),
                };
                let came = came.bytes();
                pair.begin();
                pair.inject(1, port, &came);
                let (to, src, dst) = match port {
                    FRONT => (BACK, ends.local, ends.server),
                    _ => (FRONT, ends.vip, ends.client),
                };
                let out = Packet { src, dst, ttl: 63, ..packet };
                let out = match port {
                    FRONT => pair.nodes[0].to_server(11, out),
                    _ => pair.nodes[0].to_client(out),
                };
                assert_eq!(pair.sent[0], [(to, made(out.bytes()))], "{workers:?} {clients:?}");
                assert_eq!(pair.sent[1], []);
                let relays = pair.said[1].iter().filter(|said| said.header.kind == Kind::Relay);
                let relays: Vec<_> = relays.collect();
                assert_eq!(relays.len(), 1);
                let datagram = &relays[0].frame[42 + 48..];
                assert_eq!(datagram[0], port.0);
                assert_eq!(datagram[1..], made(came));
            }
        }
    }
}

/// A host inside goes on with a connection of which this node knows nothing; so does who it speaks to.
#[test]
fn in_egress_snat_the_peer_gets_the_frame() {
    let make = outgoing::make(Behavior::EndpointIndependent, Behavior::EndpointIndependent);
    for workers in WORKERS {
        for family in Family::BOTH {
            let mut pair = Pair::new(workers, Wire::Own, make.clone());
            pair.lose = Box::new(|node, said| node == 0 && said.is_stream());
            let (host, to) = (SocketAddr::new(family.server(11), 5000), remote(family, 20, 443));
            pair.begin();
            let bytes = pair.nodes[0].by_server(11, tcp(host, to, SYN)).bytes();
            pair.inject(0, BACK, &bytes);
            let outer = SocketAddr::new(pool(family), source_port(&pair.sent[0][0].1));
            let bytes = pair.nodes[0].by_client(tcp(to, outer, SYN_ACK)).bytes();
            pair.inject(0, FRONT, &bytes);
            let bytes = pair.nodes[0].by_server(11, tcp(host, to, ACK)).bytes();
            pair.inject(0, BACK, &bytes);
            pair.pass(1, 1);
            assert_eq!((pair.nodes[0].sessions(), pair.nodes[1].sessions()), (1, 0));

            let out = tcp(host, to, PSH_ACK).payload(b"hello");
            let back = tcp(to, outer, PSH_ACK).ack(ISN + 6).payload(b"ho");
            for (port, packet) in [(BACK, out), (FRONT, back)] {
                let came = match port {
                    BACK => pair.nodes[1].by_server(11, packet.clone()),
                    _ => pair.nodes[1].by_client(packet.clone()),
                };
                let given = came.clone().macs(mac(1, port), mac(0, port)).bytes();
                pair.begin();
                pair.inject(1, port, &came.bytes());
                assert_eq!(pair.sent[1], [(port, given.clone())], "{workers:?} {family:?}");
                pair.begin();
                pair.inject(0, port, &given);
                let left = match port {
                    BACK => {
                        let packet = Packet { src: outer, ttl: 63, ..packet };
                        (FRONT, pair.nodes[0].to_client(packet).bytes())
                    }
                    _ => {
                        let packet = Packet { dst: host, ttl: 63, ..packet };
                        (BACK, pair.nodes[0].to_server(11, packet).bytes())
                    }
                };
                assert_eq!(pair.sent[0], [left], "{workers:?} {family:?}");
            }
            let counts = |node| {
                let sum = |cell: fn(&SyncCounters) -> u64| pair.sum(node, |c| cell(&c.sync));
                [
                    sum(|c| c.relayed.get()),
                    sum(|c| c.relay_answered.get()),
                    sum(|c| c.relay_refused.get()),
                ]
            };
            assert_eq!([counts(0), counts(1)], [[0, 2, 0], [2, 0, 0]], "{workers:?} {family:?}");
            pair.heal();
            pair.settle();
        }
    }
}
