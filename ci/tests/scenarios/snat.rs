//! Egress SNAT: out and back byte for byte, who gets the same outer endpoint again, who is let in,
//! forwarded ports, hairpins, limits, and that nothing is left when all sessions have ended.

use std::net::SocketAddr;

use shunt::datapath::snapshot::{Forward, PortId, Snat};
use shunt::session::mappings::{Behavior, Policy};
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason::{self, *};
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{
    ACK, FIN_ACK, ISN, PSH_ACK, Packet, RST, SYN, SYN_ACK, arp, echo, ndp, source_port, tcp,
    time_exceeded, udp,
};
use crate::net::{
    BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, TIMEOUTS, ip, server_mac,
};
use crate::rig::Rig;

use Behavior::{AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei};

/// By these the sessions of the rule are counted: behind the four servers of [`Net::usual`].
pub const OUT: ServerId = ServerId(4);
pub const IN: ServerId = ServerId(5);

pub fn pool(family: Family) -> std::net::IpAddr {
    ip(if family == Family::V4 { "203.0.113.5" } else { "2001:db8:3::5" })
}

/// The remote host `n`, behind the router.
pub fn remote(family: Family, n: u8, port: u16) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("198.51.100.{n}"),
        Family::V6 => format!("2001:db8:99::{n}"),
    };
    SocketAddr::new(ip(&text), port)
}

pub fn inside(family: Family, n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(family.server(n), port)
}

pub fn rule(mapping: Behavior, filtering: Behavior) -> Snat {
    Snat {
        name: "egress".into(),
        sources: vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:2::/64".parse().unwrap()],
        pool: Family::BOTH.map(|family| (pool(family), FRONT)).to_vec(),
        policy: Policy { mapping, filtering },
        timeouts: TIMEOUTS,
        ..Default::default()
    }
}

pub fn with_rule(mut net: Net, rule: Snat) -> Net {
    net = net.usual(Mode::Nat);
    net.snapshot.set_snats(vec![rule]);
    net
}

fn rig(workers: usize, rule: Snat) -> Rig {
    Rig::new(with_rule(Net::two_armed(workers), rule))
}

fn v6(packet: &Packet) -> bool {
    packet.src.is_ipv6()
}

/// What a hand-off to the owner of `outer` adds.
fn handed(rig: &Rig, receiver: usize, outer: SocketAddr) -> Changes {
    let moved = i64::from(rig.net.owner(outer) != receiver);
    Changes::none().add("handed_off", moved).add("handed_in", moved)
}

/// Sends `packet` from host `n` inside; gives its outer endpoint. Everything but the port of that is
/// known, so the frame and all counters are compared exactly.
#[track_caller]
pub fn goes_out(rig: &mut Rig, n: u8, packet: Packet, opens: bool) -> SocketAddr {
    let packet = rig.by_server(n, packet);
    let bytes = packet.bytes();
    rig.changes();
    rig.sent();
    let receiver = rig.turn % rig.workers.len();
    let side = rig.net.server_side();
    let sent = rig.send(side, &bytes);
    assert_eq!(sent.len(), 1, "{packet:?}: {:?}", rig.changes());
    let family = if v6(&packet) { Family::V6 } else { Family::V4 };
    let outer = SocketAddr::new(pool(family), source_port(&sent[0].1));
    assert_eq!(rig.net.owner(outer), rig.net.owner(packet.src), "both ways meet on one worker");
    let out = Packet { src: outer, ttl: packet.ttl - 1, ..packet.clone() };
    let out = rig.to_client(out).bytes();
    assert_eq!(sent, [(FRONT, out.clone())], "{packet:?}");
    let mut changes =
        handed(rig, receiver, packet.src).rx(side, &bytes).forward(OUT, &bytes).tx(FRONT, &out);
    if opens {
        changes = changes.session(OUT, v6(&packet), 1);
    }
    assert_eq!(rig.changes(), changes, "{packet:?}");
    outer
}

/// An answer from outside to a session opened from inside, which reaches host `n`.
#[track_caller]
pub fn comes_back(rig: &mut Rig, packet: Packet, n: u8, to: SocketAddr) {
    let packet = rig.by_client(packet);
    let bytes = packet.bytes();
    let out = Packet { dst: to, ttl: packet.ttl - 1, ..packet.clone() };
    let (out, side) = (rig.to_server(n, out).bytes(), rig.net.server_side());
    let changes = Changes::none().reply(OUT, &bytes).tx(side, &out);
    rig.step("comes back", FRONT, &bytes, Some(packet.dst), changes, &[(side, out)]);
}

/// A packet from outside that opens a session to host `n`, or belongs to one that was so opened.
#[track_caller]
pub fn comes_in(rig: &mut Rig, packet: Packet, n: u8, to: SocketAddr, opens: bool) {
    let packet = rig.by_client(packet);
    let bytes = packet.bytes();
    let out = Packet { dst: to, ttl: packet.ttl - 1, ..packet.clone() };
    let (out, side) = (rig.to_server(n, out).bytes(), rig.net.server_side());
    let mut changes = Changes::none().forward(IN, &bytes).tx(side, &out);
    if opens {
        changes = changes.session(IN, v6(&packet), 1);
    }
    rig.step("comes in", FRONT, &bytes, Some(packet.dst), changes, &[(side, out)]);
}

/// The answer of host `n` to a session opened from outside.
#[track_caller]
fn answers(rig: &mut Rig, n: u8, packet: Packet, from: SocketAddr) {
    let packet = rig.by_server(n, packet);
    let bytes = packet.bytes();
    let out = Packet { src: from, ttl: packet.ttl - 1, ..packet.clone() };
    let (out, side) = (rig.to_client(out).bytes(), rig.net.server_side());
    let changes = Changes::none().reply(IN, &bytes).tx(FRONT, &out);
    rig.step("answers", side, &bytes, Some(from), changes, &[(FRONT, out)]);
}

#[track_caller]
pub fn is_dropped(
    rig: &mut Rig,
    port: PortId,
    bytes: &[u8],
    outer: SocketAddr,
    reason: DropReason,
) {
    let changes = Changes::none().dropped(reason);
    rig.step("is dropped", port, bytes, Some(outer), changes, &[]);
}

/// All sessions end, and with them every mapping.
#[track_caller]
pub fn all_ends(rig: &mut Rig) {
    rig.pass(901_000);
    assert_eq!(rig.sessions(), 0);
    for (worker, counters) in rig.workers.iter().zip(&rig.counters) {
        assert!(worker.pipeline().snat_is_empty());
        let snat = counters.snat(0);
        assert_eq!((snat.mappings_v4.get(), snat.mappings_v6.get()), (0, 0));
        for id in [OUT, IN] {
            let server = counters.server(id);
            assert_eq!(server.created.get(), server.ended.get());
        }
    }
}

fn policies() -> impl Iterator<Item = (Behavior, Behavior)> {
    Behavior::ALL.into_iter().flat_map(|m| Behavior::ALL.map(|f| (m, f)))
}

#[test]
fn out_and_back() {
    for workers in [1, 2, 4] {
        for net in [Net::two_armed(workers), Net::one_armed(workers)] {
            for (mapping, filtering) in policies() {
                for family in Family::BOTH {
                    let mut rig = Rig::new(with_rule(net.clone(), rule(mapping, filtering)));
                    let (host, to) = (inside(family, 12, 40_000), remote(family, 7, 443));
                    let outer = goes_out(&mut rig, 12, tcp(host, to, SYN), true);
                    comes_back(&mut rig, tcp(to, outer, SYN_ACK), 12, host);
                    for (flags, payload) in
                        [(ACK, &b""[..]), (PSH_ACK, b"GET /"), (ACK, &[0xa5; 1401])]
                    {
                        let packet = tcp(host, to, flags).payload(payload);
                        assert_eq!(goes_out(&mut rig, 12, packet, false), outer);
                    }
                    comes_back(&mut rig, tcp(to, outer, PSH_ACK).payload(b"200"), 12, host);
                    comes_back(&mut rig, tcp(to, outer, FIN_ACK), 12, host);
                    assert_eq!(goes_out(&mut rig, 12, tcp(host, to, FIN_ACK), false), outer);
                    // UDP from the same port is another mapping.
                    let to = remote(family, 7, 53);
                    let outer = goes_out(&mut rig, 12, udp(host, to), true);
                    comes_back(&mut rig, udp(to, outer), 12, host);
                    assert_eq!(goes_out(&mut rig, 12, udp(host, to), false), outer);
                    all_ends(&mut rig);
                }
            }
        }
    }
}

/// RFC 4787 4.1: to whom does the same inside endpoint look the same?
#[test]
fn mapping_behaviors() {
    for (mapping, filtering) in policies() {
        let same = |other: SocketAddr, first: SocketAddr| match mapping {
            Ei => true,
            Ad => other.ip() == first.ip(),
            Apd => other == first,
        };
        for family in Family::BOTH {
            for workers in [1, 2] {
                let mut rig = rig(workers, rule(mapping, filtering));
                let host = inside(family, 12, 40_000);
                let first = remote(family, 7, 3478);
                let outer = goes_out(&mut rig, 12, udp(host, first), true);
                for other in
                    [remote(family, 7, 3479), remote(family, 8, 3478), remote(family, 8, 3479)]
                {
                    let seen = goes_out(&mut rig, 12, udp(host, other), true);
                    let what = format!("{mapping:?} {filtering:?} {family:?}: {other}");
                    assert_eq!(seen == outer, same(other, first), "{what}");
                    comes_back(&mut rig, udp(other, seen), 12, host);
                }
                // Another port inside never has the same.
                let neighbor = inside(family, 12, 40_128);
                let seen = goes_out(&mut rig, 12, udp(neighbor, first), true);
                assert_ne!(seen, outer);
                all_ends(&mut rig);
            }
        }
    }
}

/// RFC 4787 5: who may send to a mapping that was opened towards 7:3478?
#[test]
fn filtering_behaviors() {
    #[rustfmt::skip]
    let table = [
        // mapping, filtering, from 7:3479, from 8:3478: let in, or why not
        (Ei,  Ei,  None,                None),
        (Ei,  Ad,  None,                Some(SnatFiltered)),
        (Ei,  Apd, Some(SnatFiltered),  Some(SnatFiltered)),
        (Ad,  Ei,  None,                None),
        (Ad,  Ad,  None,                Some(SnatNoMapping)),
        (Ad,  Apd, Some(SnatFiltered),  Some(SnatNoMapping)),
        (Apd, Ei,  None,                None),
        (Apd, Ad,  None,                Some(SnatNoMapping)),
        (Apd, Apd, Some(SnatNoMapping), Some(SnatNoMapping)),
    ];
    for (mapping, filtering, port, address) in table {
        for family in Family::BOTH {
            for workers in [1, 2] {
                for protocol in [Protocol::Udp, Protocol::Tcp] {
                    let packet = |from, to| match protocol {
                        Protocol::Udp => udp(from, to),
                        _ => tcp(from, to, SYN),
                    };
                    let mut rig = rig(workers, rule(mapping, filtering));
                    let host = inside(family, 12, 40_000);
                    let first = remote(family, 7, 3478);
                    let outer = goes_out(&mut rig, 12, packet(host, first), true);
                    let senders =
                        [(remote(family, 7, 3479), port), (remote(family, 8, 3478), address)];
                    for (sender, reason) in senders {
                        let Some(reason) = reason else {
                            comes_in(&mut rig, packet(sender, outer), 12, host, true);
                            let answer = match protocol {
                                Protocol::Udp => udp(host, sender),
                                _ => tcp(host, sender, SYN_ACK),
                            };
                            answers(&mut rig, 12, answer, outer);
                            comes_in(&mut rig, packet(sender, outer), 12, host, false);
                            continue;
                        };
                        let bytes = rig.by_client(packet(sender, outer)).bytes();
                        is_dropped(&mut rig, FRONT, &bytes, outer, reason);
                    }
                    // Nobody is behind the other ports, and nobody has the other protocol.
                    let other = SocketAddr::new(outer.ip(), outer.port() ^ 1);
                    let bytes = rig.by_client(packet(first, other)).bytes();
                    is_dropped(&mut rig, FRONT, &bytes, other, SnatNoMapping);
                    let refused: u64 = rig.counters.iter().map(|c| c.snat(0).refused.get()).sum();
                    assert_eq!(
                        refused,
                        1 + u64::from(port.is_some()) + u64::from(address.is_some())
                    );
                    all_ends(&mut rig);
                    let bytes = rig.by_client(packet(first, outer)).bytes();
                    is_dropped(&mut rig, FRONT, &bytes, outer, SnatNoMapping);
                }
            }
        }
    }
}

/// A connection that comes from outside is followed as one from inside is: it gets the long timeout
/// once it is established.
#[test]
fn tcp_from_outside_is_established() {
    for family in Family::BOTH {
        let mut rig = rig(2, rule(Ei, Ei));
        let host = inside(family, 12, 40_000);
        let outer = goes_out(&mut rig, 12, tcp(host, remote(family, 7, 80), SYN), true);
        let sender = remote(family, 8, 50_000);
        let bytes = rig.by_client(tcp(sender, outer, PSH_ACK)).bytes();
        is_dropped(&mut rig, FRONT, &bytes, outer, NoSession);
        comes_in(&mut rig, tcp(sender, outer, SYN), 12, host, true);
        answers(&mut rig, 12, tcp(host, sender, SYN_ACK), outer);
        comes_in(&mut rig, tcp(sender, outer, ACK), 12, host, false);
        rig.pass(600_000);
        assert_eq!(rig.sessions(), 1, "the mapping lives as long as a session");
        comes_in(&mut rig, tcp(sender, outer, PSH_ACK), 12, host, false);
        answers(&mut rig, 12, tcp(host, sender, FIN_ACK), outer);
        comes_in(&mut rig, tcp(sender, outer, FIN_ACK), 12, host, false);
        all_ends(&mut rig);
    }
}

#[test]
fn a_tuple_is_used_anew_after_both_have_closed() {
    let family = Family::V4;
    let mut rig = rig(1, rule(Apd, Apd));
    let (host, to) = (inside(family, 12, 40_000), remote(family, 7, 443));
    let outer = goes_out(&mut rig, 12, tcp(host, to, SYN), true);
    comes_back(&mut rig, tcp(to, outer, SYN_ACK), 12, host);
    goes_out(&mut rig, 12, tcp(host, to, ACK), false);
    goes_out(&mut rig, 12, tcp(host, to, FIN_ACK), false);
    comes_back(&mut rig, tcp(to, outer, FIN_ACK), 12, host);
    let later = ISN + 100;
    let bytes = rig.by_server(12, tcp(host, to, SYN).seq(later)).bytes();
    assert_eq!(rig.send(BACK, &bytes).len(), 1);
    assert_eq!((rig.sessions(), rig.active(OUT)), (1, 1));
    assert_eq!(rig.counters[0].server(OUT).created.get(), 2);
    all_ends(&mut rig);
}

/// The steering bucket: with as many workers as buckets, it is the owner.
fn bucket(net: &Net, endpoint: SocketAddr) -> usize {
    let mut net = net.clone();
    net.snapshot.worker_of = std::array::from_fn(|bucket| bucket as u8);
    net.owner(endpoint)
}

/// So many endpoints of host `n` that are in one bucket.
fn of_bucket(net: &Net, wanted: usize, family: Family, n: u8, count: usize) -> Vec<SocketAddr> {
    (1024..=u16::MAX)
        .map(|port| inside(family, n, port))
        .filter(|at| bucket(net, *at) == wanted)
        .take(count)
        .collect()
}

#[test]
fn ports_run_out_and_come_back() {
    for family in Family::BOTH {
        // Four ports of a bucket are this node's.
        let short = |mapping, filtering| Snat { ports: 1024..=2047, ..rule(mapping, filtering) };
        let (a, b) = (remote(family, 7, 53), remote(family, 8, 53));
        let mut rig = rig(2, short(Ei, Apd));
        let hosts = of_bucket(&rig.net, 9, family, 12, 5);
        for host in &hosts[..4] {
            let outer = goes_out(&mut rig, 12, udp(*host, a), true);
            assert!((1024..2048).contains(&outer.port()) && outer.port().is_multiple_of(2));
        }
        let late = rig.by_server(12, udp(hosts[4], a)).bytes();
        is_dropped(&mut rig, BACK, &late, hosts[4], SnatPortsExhausted);
        let elsewhere = rig.by_server(12, udp(hosts[4], b)).bytes();
        is_dropped(&mut rig, BACK, &elsewhere, hosts[4], SnatPortsExhausted);
        // TCP has ports of its own, and so has another bucket; a mapping takes further sessions.
        goes_out(&mut rig, 12, tcp(hosts[4], a, SYN), true);
        let other = of_bucket(&rig.net, 10, family, 12, 1)[0];
        goes_out(&mut rig, 12, udp(other, a), true);
        goes_out(&mut rig, 12, udp(hosts[0], b), true);
        let exhausted: u64 = rig.counters.iter().map(|c| c.snat(0).exhausted.get()).sum();
        assert_eq!(exhausted, 2);
        rig.pass(31_000);
        goes_out(&mut rig, 12, udp(hosts[4], a), true);
        all_ends(&mut rig);

        // Bound to the remote endpoint, the same four serve every remote endpoint.
        let mut rig = self::rig(2, short(Apd, Apd));
        for to in [a, b] {
            for host in &hosts[..4] {
                goes_out(&mut rig, 12, udp(*host, to), true);
            }
            let late = rig.by_server(12, udp(hosts[4], to)).bytes();
            is_dropped(&mut rig, BACK, &late, hosts[4], SnatPortsExhausted);
        }
        all_ends(&mut rig);
    }
}

/// Nobody is refused as long as some address of the pool has a free port, however many are full.
#[test]
fn every_address_of_a_pool_is_tried() {
    for family in Family::BOTH {
        let address = |n: u8| match family {
            Family::V4 => ip(&format!("203.0.113.{n}")),
            Family::V6 => ip(&format!("2001:db8:3::{n}")),
        };
        let pool = (16..32).map(|n| (address(n), FRONT)).collect();
        let net = with_rule(Net::two_armed(1), Snat { pool, ..rule(Ei, Apd) });
        let mut rig = Rig::warmed(Rig::with_sessions(net, 4_100));
        let mut buckets = rig.net.clone();
        buckets.snapshot.worker_of = std::array::from_fn(|bucket| bucket as u8);
        let hosts = (11..20).flat_map(|n| (1024..=u16::MAX).map(move |port| (n, port)));
        let mut hosts = hosts
            .map(|(n, port)| (n, inside(family, n, port)))
            .filter(|(_, host)| buckets.owner(*host) == 9);
        let to = remote(family, 7, 53);
        // 252 ports of each address are this node's in a bucket.
        for count in 0..16 * 252 {
            let (n, host) = hosts.next().unwrap();
            let bytes = rig.by_server(n, udp(host, to)).bytes();
            assert_eq!(rig.send(BACK, &bytes).len(), 1, "{count}: {:?}", rig.changes());
        }
        let (n, host) = hosts.next().unwrap();
        let late = rig.by_server(n, udp(host, to)).bytes();
        is_dropped(&mut rig, BACK, &late, host, SnatPortsExhausted);
    }
}

#[test]
fn the_other_node_has_the_other_ports() {
    let mut net = with_rule(Net::two_armed(1), rule(Ei, Ei));
    net.snapshot.node_id = 1;
    let mut rig = Rig::new(net);
    for port in 0..20 {
        let host = inside(Family::V4, 12, 40_000 + port);
        let outer = goes_out(&mut rig, 12, udp(host, remote(Family::V4, 7, 53)), true);
        assert_eq!(outer.port() % 2, 1);
    }
}

#[test]
fn a_source_has_so_many_ports() {
    for family in Family::BOTH {
        for (mapping, filtering) in policies() {
            let mut rig = rig(1, Snat { ports_per_source: 3, ..rule(mapping, filtering) });
            let to = remote(family, 7, 53);
            for port in [1, 2] {
                goes_out(&mut rig, 12, udp(inside(family, 12, 40_000 + port), to), true);
            }
            goes_out(&mut rig, 12, tcp(inside(family, 12, 40_000), to, SYN), true);
            let late = inside(family, 12, 40_003);
            let bytes = rig.by_server(12, udp(late, to)).bytes();
            is_dropped(&mut rig, BACK, &bytes, late, SnatSourceLimit);
            assert_eq!(rig.counters[0].snat(0).limited.get(), 1);
            // Others have their own.
            goes_out(&mut rig, 13, udp(inside(family, 13, 40_003), to), true);
            rig.pass(31_000);
            goes_out(&mut rig, 12, udp(late, to), true);
            all_ends(&mut rig);
        }
    }
    // Two workers have a half of it each, rounded up.
    let mut rig = rig(2, Snat { ports_per_source: 3, ..rule(Ei, Apd) });
    let to = remote(Family::V4, 7, 53);
    let passed = (0..200u16)
        .filter(|port| {
            let bytes = rig.by_server(12, udp(inside(Family::V4, 12, 40_000 + port), to)).bytes();
            rig.send(BACK, &bytes).len() == 1
        })
        .count();
    assert_eq!(passed, 4);
}

/// The hosts spread over the addresses, and each keeps its own (RFC 4787 REQ-2).
#[test]
fn pooling_is_paired() {
    for workers in [1, 4] {
        let mut net = Net::two_armed(workers).usual(Mode::Nat);
        let pool: Vec<_> = (0..4).map(|n| (ip(&format!("203.0.113.{}", 16 + n)), FRONT)).collect();
        let sources = vec!["10.0.0.0/24".parse().unwrap()];
        let rule = Snat { pool, sources, ..rule(Ei, Apd) };
        net.snapshot.set_snats(vec![rule]);
        let mut rig = Rig::new(net);
        let mut used = std::collections::HashSet::new();
        for n in 11..20 {
            let addresses: std::collections::HashSet<_> = (0..40)
                .map(|port| {
                    let packet =
                        udp(inside(Family::V4, n, 40_000 + port), remote(Family::V4, 7, 53));
                    let bytes = rig.by_server(n, packet).bytes();
                    let sent = rig.send(BACK, &bytes);
                    <[u8; 4]>::try_from(&sent[0].1[26..30]).unwrap()
                })
                .collect();
            assert_eq!(addresses.len(), 1, "host {n}: {addresses:?}");
            used.extend(addresses);
        }
        assert!(used.len() > 1, "{used:?}");
    }
}

pub fn forwarding(protocol: Protocol, family: Family, port: u16, to: SocketAddr) -> Snat {
    let external = SocketAddr::new(pool(family), port);
    let forwards = vec![Forward { protocol, external, internal: to }];
    Snat { forwards, ..rule(Apd, Apd) }
}

#[test]
fn a_forwarded_port() {
    for workers in [1, 2, 4] {
        for net in [Net::two_armed(workers), Net::one_armed(workers)] {
            for family in Family::BOTH {
                // The second is a real server of a service as well: its answers to clients steer
                // by the client, and find no session there.
                for (n, port) in [(12, 80), (11, 8080)] {
                    let host = inside(family, n, port);
                    let external = SocketAddr::new(pool(family), 443);
                    let rule = forwarding(Protocol::Tcp, family, 443, host);
                    let mut rig = Rig::new(with_rule(net.clone(), rule));
                    for client_port in 50_000..50_004 {
                        let sender = remote(family, 9, client_port);
                        comes_in(&mut rig, tcp(sender, external, SYN), n, host, true);
                        let answer = rig.by_server(n, tcp(host, sender, SYN_ACK)).bytes();
                        let out = rig.to_client(tcp(external, sender, SYN_ACK).ttl(63)).bytes();
                        let side = rig.net.server_side();
                        assert_eq!(rig.send(side, &answer), [(FRONT, out)]);
                        comes_in(&mut rig, tcp(sender, external, ACK), n, host, false);
                        if n == 12 {
                            answers(&mut rig, n, tcp(host, sender, PSH_ACK), external);
                        }
                    }
                    // The other protocol is not forwarded.
                    let bytes = rig.by_client(udp(remote(family, 9, 1), external)).bytes();
                    is_dropped(&mut rig, FRONT, &bytes, external, SnatNoMapping);
                    all_ends(&mut rig);
                }
                // From its port the host is seen with the external endpoint, also outwards.
                let host = inside(family, 12, 5060);
                let rule = forwarding(Protocol::Udp, family, 5060, host);
                let mut rig = Rig::new(with_rule(net.clone(), rule));
                let external = SocketAddr::new(pool(family), 5060);
                let to = remote(family, 7, 5060);
                let packet = rig.by_server(12, udp(host, to)).bytes();
                let out = rig.to_client(udp(external, to).ttl(63)).bytes();
                let side = rig.net.server_side();
                let changes = Changes::none().forward(OUT, &packet).tx(FRONT, &out).session(
                    OUT,
                    family == Family::V6,
                    1,
                );
                let sent = [(FRONT, out)];
                rig.step("outwards", side, &packet, Some(external), changes, &sent);
                comes_back(&mut rig, udp(to, external), 12, host);
                all_ends(&mut rig);
            }
        }
    }
}

#[test]
fn a_forwarded_endpoint_is_never_given_out() {
    for family in Family::BOTH {
        let net = Net::two_armed(1);
        let forwards = (1024..2048)
            .map(|port| SocketAddr::new(pool(family), port))
            .filter(|external| bucket(&net, *external) == 9)
            .map(|external| Forward {
                protocol: Protocol::Udp,
                external,
                internal: inside(family, 13, external.port()),
            })
            .collect();
        let rule = Snat { ports: 1024..=2047, forwards, ..rule(Apd, Apd) };
        let mut rig = Rig::new(with_rule(net, rule));
        let host = of_bucket(&rig.net, 9, family, 12, 1)[0];
        let bytes = rig.by_server(12, udp(host, remote(family, 7, 53))).bytes();
        is_dropped(&mut rig, BACK, &bytes, host, SnatPortsExhausted);
        goes_out(&mut rig, 12, tcp(host, remote(family, 7, 53), SYN), true);
    }
}

/// One packet from `from` inside to `to`, an outer endpoint, that comes out at `host` as from
/// `source`. `first` and `second` are what it counts as in the two sessions it passes.
#[track_caller]
fn hairpins(
    rig: &mut Rig,
    (n, packet): (u8, Packet),
    source: SocketAddr,
    (m, host): (u8, SocketAddr),
    steers_by: SocketAddr,
    count: impl Fn(Changes, &[u8]) -> Changes,
) {
    let packet = rig.by_server(n, packet);
    let bytes = packet.bytes();
    let out = Packet { src: source, dst: host, ttl: packet.ttl - 2, ..packet };
    let (out, side) = (rig.to_server(m, out).bytes(), rig.net.server_side());
    let changes = count(Changes::none(), &bytes).tx(side, &out);
    // Whoever has the first session hands it on, also to itself.
    let changes = changes.add("handed_off", 1).add("handed_in", 1);
    rig.step("hairpin", side, &bytes, Some(steers_by), changes, &[(side, out)]);
}

#[test]
fn hairpin() {
    for workers in [1, 2, 4] {
        for net in [Net::two_armed(workers), Net::one_armed(workers)] {
            for family in Family::BOTH {
                let v6 = family == Family::V6;
                let mut rig = Rig::new(with_rule(net.clone(), rule(Ei, Ei)));
                let (a, b) = (inside(family, 12, 40_000), inside(family, 13, 50_000));
                let other = remote(family, 7, 3478);
                // Both learn their outer endpoints from a server outside.
                let outer_a = goes_out(&mut rig, 12, udp(a, other), true);
                let outer_b = goes_out(&mut rig, 13, udp(b, other), true);
                let there = |c: Changes, bytes: &[u8]| c.forward(OUT, bytes).forward(IN, bytes);
                let back = |c: Changes, bytes: &[u8]| c.reply(IN, bytes).reply(OUT, bytes);
                let opens = |c: Changes, bytes: &[u8]| {
                    there(c, bytes).session(OUT, v6, 1).session(IN, v6, 1)
                };
                hairpins(&mut rig, (12, udp(a, outer_b)), outer_a, (13, b), a, opens);
                hairpins(&mut rig, (13, udp(b, outer_a)), outer_b, (12, a), b, back);
                hairpins(&mut rig, (12, udp(a, outer_b)), outer_a, (13, b), a, there);
                all_ends(&mut rig);

                // To a forwarded port, with TCP.
                let web = inside(family, 13, 80);
                let external = SocketAddr::new(pool(family), 443);
                let rule = forwarding(Protocol::Tcp, family, 443, web);
                let mut rig = Rig::new(with_rule(net.clone(), rule));
                let syn = rig.by_server(12, tcp(a, external, SYN)).bytes();
                let sent = rig.send(rig.net.server_side(), &syn);
                let outer_a = SocketAddr::new(pool(family), source_port(&sent[0].1));
                let out = rig.to_server(13, tcp(outer_a, web, SYN).ttl(62)).bytes();
                assert_eq!(sent, [(rig.net.server_side(), out)]);
                let packet = tcp(web, outer_a, SYN_ACK);
                hairpins(&mut rig, (13, packet), external, (12, a), external, back);
                hairpins(&mut rig, (12, tcp(a, external, ACK)), outer_a, (13, web), a, there);
                let packet = tcp(a, external, PSH_ACK).payload(&[7; 1000]);
                hairpins(&mut rig, (12, packet), outer_a, (13, web), a, there);
                all_ends(&mut rig);
            }
        }
    }
}

#[test]
fn a_hairpin_is_filtered_as_from_outside_and_may_be_off() {
    for family in Family::BOTH {
        let (a, b) = (inside(family, 12, 40_000), inside(family, 13, 50_000));
        let other = remote(family, 7, 3478);
        let mut rig = rig(1, rule(Ei, Apd));
        let outer_b = goes_out(&mut rig, 13, udp(b, other), true);
        let bytes = rig.by_server(12, udp(a, outer_b)).bytes();
        let changes = Changes::none()
            .session(OUT, family == Family::V6, 1)
            .forward(OUT, &bytes)
            .add("handed_off", 1)
            .add("handed_in", 1)
            .dropped(SnatFiltered);
        rig.step("filtered", BACK, &bytes, Some(a), changes, &[]);
        all_ends(&mut rig);

        let mut rig = self::rig(2, Snat { hairpin: false, ..rule(Ei, Ei) });
        let outer_b = goes_out(&mut rig, 13, udp(b, other), true);
        let bytes = rig.by_server(12, udp(a, outer_b)).bytes();
        is_dropped(&mut rig, BACK, &bytes, a, SnatNoHairpin);
        // To its own outer endpoint there is nothing to turn round.
        let mut rig = self::rig(1, rule(Ei, Ei));
        let outer_a = goes_out(&mut rig, 12, udp(a, other), true);
        let bytes = rig.by_server(12, udp(a, outer_a)).bytes();
        let changes = Changes::none()
            .session(OUT, family == Family::V6, 1)
            .forward(OUT, &bytes)
            .add("handed_off", 1)
            .add("handed_in", 1)
            .dropped(Land);
        rig.step("to itself", BACK, &bytes, Some(a), changes, &[]);
        all_ends(&mut rig);
    }
}

#[test]
fn what_is_not_for_it_is_dropped_as_without() {
    for family in Family::BOTH {
        let mut rig = rig(2, rule(Ei, Apd));
        let (host, to) = (inside(family, 12, 40_000), remote(family, 7, 443));
        // Only a SYN opens a connection.
        for flags in [ACK, SYN_ACK, RST, FIN_ACK] {
            let bytes = rig.by_server(12, tcp(host, to, flags)).bytes();
            is_dropped(&mut rig, BACK, &bytes, host, NoSession);
        }
        // From inside to inside; from a host that is none of the sources; a forged source.
        let bytes = rig.by_server(12, udp(host, inside(family, 13, 53))).bytes();
        is_dropped(&mut rig, BACK, &bytes, host, NotLocal);
        let stranger = remote(family, 55, 4000);
        let bytes = rig.by_server(12, udp(stranger, to)).bytes();
        is_dropped(&mut rig, BACK, &bytes, to, NotLocal);
        let bytes = rig.by_client(udp(host, to)).bytes();
        is_dropped(&mut rig, FRONT, &bytes, host, NotLocal);
        let outer = goes_out(&mut rig, 12, udp(host, to), true);
        let bytes = rig.by_client(udp(inside(family, 13, 53), outer)).bytes();
        is_dropped(&mut rig, FRONT, &bytes, outer, SnatFiltered);
        let bytes = rig.by_client(udp(outer, to)).bytes();
        is_dropped(&mut rig, FRONT, &bytes, outer, SpoofedLocal);
        // The last hop is here, whichever way.
        let packet = rig.by_server(12, udp(inside(family, 12, 41_000), to).ttl(1));
        let macs = (BACK_MAC, server_mac(12));
        let error = time_exceeded(macs, family.back(), host.ip(), &packet.bytes());
        let changes = Changes::none().dropped(HopLimitExceeded).originated(BACK, &error);
        let what = "hop limit";
        rig.step(what, BACK, &packet.bytes(), Some(packet.src), changes, &[(BACK, error)]);
        all_ends(&mut rig);
    }
}

/// Packets of real servers are answers first of all.
#[test]
fn services_work_as_without_it() {
    for workers in [1, 2, 4] {
        for family in Family::BOTH {
            let mut rig = rig(workers, rule(Ei, Apd));
            let vip = SocketAddr::new(family.vip(), 53);
            let server = inside(family, 11, 5353);
            let id = ServerId(2 + u16::from(family == Family::V6));
            for port in 0..10 {
                let client = SocketAddr::new(family.client(), 20_000 + port);
                let query = rig.by_client(udp(client, vip)).bytes();
                assert_eq!(rig.send(FRONT, &query).len(), 1);
                let answer = rig.by_server(11, udp(server, client)).bytes();
                let out = rig.to_client(udp(vip, client).ttl(63)).bytes();
                let changes = Changes::none().reply(id, &answer).tx(FRONT, &out);
                rig.step("answer", BACK, &answer, Some(client), changes, &[(FRONT, out)]);
                // A host inside is a client like any other.
                let client = inside(family, 12, 30_000 + port);
                let query = rig.by_server(12, udp(client, vip)).bytes();
                let out = rig.to_server(11, udp(client, server).ttl(63)).bytes();
                assert_eq!(rig.send(BACK, &query), [(BACK, out)]);
            }
            // What a real server sends of its own, even from the port that serves, goes out.
            for port in 0..10 {
                let to = remote(family, 99, 30_000 + port);
                let bytes = rig.by_server(11, udp(server, to)).bytes();
                let sent = rig.send(BACK, &bytes);
                let outer = SocketAddr::new(pool(family), source_port(&sent[0].1));
                let out = rig.to_client(udp(outer, to).ttl(63)).bytes();
                assert_eq!(sent, [(FRONT, out.clone())]);
                assert_eq!(rig.send(BACK, &bytes), [(FRONT, out)]);
                comes_back(&mut rig, udp(to, outer), 11, server);
            }
            all_ends(&mut rig);
        }
    }
}

#[test]
fn pool_addresses_are_answered_for_outside() {
    let (request, reply) = (etherparse::ArpOperation::REQUEST, etherparse::ArpOperation::REPLY);
    let mut rig = rig(2, rule(Ei, Apd));
    let ask = arp(request, (ROUTER_MAC, [0xff; 6]), "192.0.2.1", "203.0.113.5", [0; 6]);
    let answer = arp(reply, (FRONT_MAC, ROUTER_MAC), "203.0.113.5", "192.0.2.1", ROUTER_MAC);
    let changes = Changes::none().consumed().originated(FRONT, &answer);
    rig.step("arp", FRONT, &ask, None, changes, &[(FRONT, answer)]);
    let ask = arp(request, (server_mac(12), [0xff; 6]), "10.0.0.12", "203.0.113.5", [0; 6]);
    rig.step("inside", BACK, &ask, None, Changes::none().dropped(ArpNotForUs), &[]);

    let group = [0x33, 0x33, 0xff, 0, 0, 5];
    let (router, target) = ("2001:db8:1::1", "2001:db8:3::5");
    let macs = (ROUTER_MAC, group);
    let ask = ndp(135, macs, router, "ff02::1:ff00:5", 0, target, Some((1, ROUTER_MAC)));
    let macs = (FRONT_MAC, ROUTER_MAC);
    let answer = ndp(136, macs, target, router, 0xe0, target, Some((2, FRONT_MAC)));
    let sent = rig.send(FRONT, &ask);
    assert_eq!(sent, [(FRONT, answer)]);

    for family in Family::BOTH {
        let (from, to) = (remote(family, 7, 0).ip(), pool(family));
        let ping = echo((ROUTER_MAC, FRONT_MAC), from, to, false, 64);
        let pong = echo((FRONT_MAC, ROUTER_MAC), to, from, true, 64);
        assert_eq!(rig.send(FRONT, &ping), [(FRONT, pong)]);
    }
}

#[test]
fn no_more_sessions_than_there_is_room_for() {
    let net = with_rule(Net::two_armed(1), rule(Ei, Ei));
    let mut rig = Rig::with_sessions(net, 50).warmed();
    let to = remote(Family::V4, 7, 53);
    for port in 0..50 {
        goes_out(&mut rig, 12, udp(inside(Family::V4, 12, 40_000 + port), to), true);
    }
    let late = inside(Family::V4, 12, 41_000);
    let bytes = rig.by_server(12, udp(late, to)).bytes();
    is_dropped(&mut rig, BACK, &bytes, late, SessionTableFull);
    all_ends(&mut rig);
    goes_out(&mut rig, 12, udp(late, to), true);
}
