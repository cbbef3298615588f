//! What a service does with its sessions beyond forwarding them: resets when they expire or their
//! server goes down, segments in mid-stream, maximum segment size, DSCP.

use std::net::SocketAddr;

use shunt::datapath::policy::{MidStream, OnServerDown, Policy};
use shunt::session::{Mode, ServerId, TcpState};
use shunt::wire::DropReason::NoSession;
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::connections::{Peer, Talk};
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, RST, SYN, SYN_ACK, client, tcp, udp, with_class};
use crate::net::{BACK, FRONT, Family, Net, endpoint, ip};
use crate::rig::{Rig, Sent};

const LATE: u32 = 300;
const RST_ACK: u8 = RST | ACK;

/// The usual services with this policy of the TCP one.
fn net(mode: Mode, workers: usize, policy: Policy) -> Net {
    let mut net = Net::two_armed(workers).usual(mode);
    net.snapshot.services[0].policy = policy;
    net
}

/// The resets to both ends, each with the next number of the other.
fn resets(talk: &Talk, seq: (u32, u32)) -> Sent {
    let (forward, reply) = seq;
    let to_client = tcp(talk.vip(), talk.client(), RST_ACK).seq(reply).ack(forward).window(0);
    let inside = if talk.mode == Mode::Dr { talk.vip() } else { talk.server() };
    let to_server = tcp(talk.client(), inside, RST_ACK).seq(forward).ack(reply).window(0);
    vec![
        (FRONT, talk.rig.to_client(to_client).bytes()),
        (BACK, talk.rig.to_server(11, to_server).bytes()),
    ]
}

fn told(changes: Changes, frames: &Sent) -> Changes {
    frames
        .iter()
        .fold(changes, |changes, (port, bytes)| changes.originated(*port, bytes).add("resets", 1))
}

#[test]
fn both_ends_are_told_when_a_session_expires() {
    let policy = Policy { reset_on_expiry: true, ..Policy::default() };
    for (mode, family, workers) in [
        (Mode::Nat, Family::V4, 1),
        (Mode::Nat, Family::V6, 2),
        (Mode::Dr, Family::V4, 2),
        (Mode::Dr, Family::V6, 1),
    ] {
        let mut talk = Talk::new(net(mode, workers, policy), family);
        talk.establish();
        talk.passes(Peer::Client, PSH_ACK, |p| p.payload(b"GET /").ack(ISN + 1));
        let mut seq = (ISN + 6, ISN + 1);
        if mode == Mode::Nat {
            talk.passes(Peer::Server, PSH_ACK, |p| p.payload(b"200 OK").ack(ISN + 6));
            talk.passes(Peer::Client, ACK, |p| p.seq(ISN + 6).ack(ISN + 7));
            seq.1 = ISN + 7;
        } else {
            talk.passes(Peer::Client, ACK, |p| p.seq(ISN + 6).ack(ISN + 500));
            seq.1 = ISN + 500;
        }
        talk.rig.wait("not yet", 899_999, Changes::none());
        talk.rig.changes();
        talk.rig.pass(LATE);
        let frames = resets(&talk, seq);
        assert_eq!(talk.rig.sent(), frames, "{mode:?} {family:?}");
        let ended = Changes::none().session(talk.server_id(), family == Family::V6, -1);
        assert_eq!(talk.rig.changes(), told(ended.add("expired", 1), &frames));
    }
}

/// In FullNAT the server knows the client by its local address and port.
#[test]
fn both_ends_are_told_in_fullnat() {
    let policy = Policy { reset_on_expiry: true, ..Policy::default() };
    let mut rig = Rig::new(net(Mode::FullNat, 1, policy));
    let (from, vip) = (client(40_000), endpoint("192.0.2.10:80"));
    let server = endpoint("10.0.0.11:8080");
    let mut local = 0;
    for (peer, flags) in [(0, SYN), (1, SYN_ACK), (0, ACK)] {
        let bytes = match peer {
            0 => rig.by_client(tcp(from, vip, flags)).bytes(),
            _ => {
                let lip = SocketAddr::new(ip("10.0.0.200"), local);
                rig.by_server(11, tcp(server, lip, flags)).bytes()
            }
        };
        let sent = rig.send(if peer == 0 { FRONT } else { BACK }, &bytes);
        if peer == 0 {
            local = crate::frames::source_port(&sent[0].1);
        }
    }
    rig.pass(900_000 + LATE);
    let lip = SocketAddr::new(ip("10.0.0.200"), local);
    let packet = |src, dst| tcp(src, dst, RST_ACK).seq(ISN + 1).ack(ISN + 1).window(0);
    let expected = [
        (FRONT, rig.to_client(packet(vip, from)).bytes()),
        (BACK, rig.to_server(11, packet(lip, server)).bytes()),
    ];
    assert_eq!(rig.sent(), expected);
}

#[test]
fn who_is_told_of_what() {
    use Peer::{Client, Server};
    let policy = Policy { reset_on_expiry: true, ..Policy::default() };
    type Case<'a> = (&'a [(Peer, u8)], TcpState, u32, bool);
    let cases: &[Case<'_>] = &[
        (&[], TcpState::SynSent, 5_000, false),
        (&[(Server, SYN_ACK)], TcpState::SynReceived, 10_000, true),
        (
            &[(Server, SYN_ACK), (Client, ACK), (Client, FIN_ACK)],
            TcpState::FinClient,
            120_000,
            true,
        ),
        (&[(Server, SYN_ACK), (Client, ACK), (Client, RST)], TcpState::Closed, 10_000, false),
        (
            &[(Server, SYN_ACK), (Client, ACK), (Client, FIN_ACK), (Server, FIN_ACK)],
            TcpState::FinBoth,
            10_000,
            false,
        ),
    ];
    for (segments, state, timeout, tells) in cases {
        let mut talk = Talk::new(net(Mode::Nat, 1, policy), Family::V4);
        talk.opens(ISN);
        for (from, flags) in *segments {
            talk.passes(*from, *flags, |p| p);
        }
        assert_eq!(talk.state(), Some(*state));
        talk.rig.pass(timeout + LATE);
        assert_eq!(talk.rig.sent().len(), if *tells { 2 } else { 0 }, "{state:?}");
        assert_eq!(talk.rig.sessions(), 0);
    }
    // Without the key nobody is told.
    let mut talk = Talk::new(net(Mode::Nat, 1, Policy::default()), Family::V4);
    talk.establish();
    talk.expires(900_000);
}

fn open_and_establish(rig: &mut Rig, ports: std::ops::Range<u16>) {
    let (vip, server) = (endpoint("192.0.2.10:80"), endpoint("10.0.0.11:8080"));
    for port in ports {
        let from = client(port);
        let frames = [
            (FRONT, rig.by_client(tcp(from, vip, SYN)).bytes()),
            (BACK, rig.by_server(11, tcp(server, from, SYN_ACK)).bytes()),
            (FRONT, rig.by_client(tcp(from, vip, ACK)).bytes()),
        ];
        for (at, bytes) in frames {
            assert_eq!(rig.send(at, &bytes).len(), 1);
        }
    }
}

/// More sessions expire at once than a turn has frames for: the rest wait for the next turns.
#[test]
fn many_are_told_a_few_each_turn() {
    let policy = Policy { reset_on_expiry: true, ..Policy::default() };
    let mut rig = Rig::new(net(Mode::Nat, 1, policy));
    open_and_establish(&mut rig, 1_000..1_100);
    rig.sent();
    rig.now = rig.now.wrapping_add(900_000);
    // The wheel goes a bounded number of ticks each turn.
    let mut most = 0;
    for _ in 0..1_000 {
        rig.now = rig.now.wrapping_add(u32::from(rig.sessions() < 100));
        let now = rig.now;
        rig.workers[0].poll(now);
        let sent = rig.sent().len();
        most = most.max(sent);
        if rig.sessions() < 100 {
            rig.now = rig.now.wrapping_add(20);
        }
    }
    assert_eq!(rig.sessions(), 0);
    assert_eq!(rig.counters[0].resets.get(), 200);
    assert_eq!(rig.counters[0].originated.get(), 200);
    assert!(most <= 32, "{most}");
}

#[test]
fn a_segment_in_mid_stream() {
    for family in Family::BOTH {
        for workers in [1, 2] {
            let from = SocketAddr::new(family.client(), 40_000);
            let vip = SocketAddr::new(family.vip(), 80);
            let server = SocketAddr::new(family.server(11), 8080);
            let steps = |rig: &mut Rig, answered: bool| {
                let no_session = Changes::none().dropped(NoSession);
                for (flags, answer) in [
                    (ACK, tcp(vip, from, RST).seq(0x5000_0000)),
                    (PSH_ACK, tcp(vip, from, RST).seq(0x5000_0000)),
                    (FIN_ACK, tcp(vip, from, RST).seq(0x5000_0000)),
                    (SYN_ACK, tcp(vip, from, RST).seq(0x5000_0000)),
                    // A SYN with the urgent bit opens nothing.
                    (SYN | 0x20, tcp(vip, from, RST_ACK).seq(0).ack(ISN + 1)),
                ] {
                    let bytes = rig.by_client(tcp(from, vip, flags).ack(0x5000_0000)).bytes();
                    let answer = rig.to_client(answer.window(0)).bytes();
                    let (changes, out) = match answered {
                        true => {
                            (no_session.clone().originated(FRONT, &answer), vec![(FRONT, answer)])
                        }
                        false => (no_session.clone(), vec![]),
                    };
                    rig.step("client", FRONT, &bytes, Some(from), changes, &out);
                }
                let bytes = rig.by_client(tcp(from, vip, RST)).bytes();
                rig.step("a reset", FRONT, &bytes, Some(from), no_session.clone(), &[]);
                let bytes = rig.by_server(11, tcp(server, from, PSH_ACK).ack(77)).bytes();
                let answer = rig.to_server(11, tcp(from, server, RST).seq(77).window(0)).bytes();
                let (changes, out) = match answered {
                    true => (no_session.clone().originated(BACK, &answer), vec![(BACK, answer)]),
                    false => (no_session.clone(), vec![]),
                };
                rig.step("server", BACK, &bytes, Some(from), changes, &out);
                // A server of a UDP service.
                let bytes = udp(SocketAddr::new(server.ip(), 5353), from);
                let bytes = rig.by_server(11, bytes).bytes();
                rig.step("datagram", BACK, &bytes, Some(from), no_session.clone(), &[]);
                assert_eq!(rig.sessions(), 0);
            };
            let policy = Policy { mid_stream: MidStream::Reset, ..Policy::default() };
            steps(&mut Rig::new(net(Mode::Nat, workers, policy)), true);
            steps(&mut Rig::new(net(Mode::Nat, workers, Policy::default())), false);
        }
    }
}

#[test]
fn a_server_goes_down_and_its_sessions_end() {
    let policy = Policy { on_server_down: OnServerDown::End, ..Policy::default() };
    for (mode, family, workers) in [
        (Mode::Nat, Family::V4, 1),
        (Mode::Nat, Family::V6, 2),
        (Mode::Dr, Family::V4, 2),
        (Mode::Dr, Family::V6, 1),
    ] {
        let mut talk = Talk::new(net(mode, workers, policy), family);
        talk.establish();
        talk.rig.changes();
        talk.rig.sent();
        let id = usize::from(talk.server_id().0);
        // Another server's fate is not ours.
        talk.rig.net.snapshot.servers[1 - id].up = false;
        talk.rig.reconfigure();
        assert_eq!((talk.rig.sent(), talk.rig.sessions()), (vec![], 1));
        talk.rig.net.snapshot.servers[id].up = false;
        talk.rig.reconfigure();
        talk.rig.pass(1);
        let frames = resets(&talk, (ISN + 1, ISN + 1));
        assert_eq!(talk.rig.sent(), frames, "{mode:?} {family:?}");
        let ended = Changes::none().session(talk.server_id(), family == Family::V6, -1);
        assert_eq!(talk.rig.changes(), told(ended.add("ended_with_server", 1), &frames));
    }
}

#[test]
fn a_server_goes_down_and_its_sessions_stay() {
    let mut talk = Talk::new(net(Mode::Nat, 1, Policy::default()), Family::V4);
    talk.establish();
    talk.rig.net.snapshot.servers[0].up = false;
    talk.rig.reconfigure();
    talk.rig.wait("kept", 1_000, Changes::none());
    talk.passes(Peer::Client, ACK, |p| p);
    // The policy changes while it is down.
    talk.rig.net.snapshot.services[0].policy.on_server_down = OnServerDown::End;
    talk.rig.reconfigure();
    talk.rig.pass(1);
    assert_eq!((talk.rig.sent().len(), talk.rig.sessions()), (2, 0));
}

#[test]
fn a_handshake_with_a_dead_server_starts_over() {
    let policy = Policy { on_server_down: OnServerDown::End, ..Policy::default() };
    let mut talk = Talk::new(net(Mode::Nat, 1, policy), Family::V4);
    talk.opens(ISN);
    talk.rig.net.snapshot.servers[0].up = false;
    talk.rig.reconfigure();
    talk.rig.pass(1);
    // The client will send its SYN again, to whoever is up then.
    assert_eq!((talk.rig.sent(), talk.rig.sessions()), (vec![], 0));
}

#[test]
fn datagrams_are_scheduled_anew() {
    let mut net = Net::two_armed(1);
    let dns = net.service(Protocol::Udp, &[endpoint("192.0.2.10:53")], Mode::Nat);
    net.snapshot.services[0].policy = Policy::of(Protocol::Udp);
    let ids = [11, 12].map(|n| net.server(dns, Family::V4.server(n), 5353));
    let mut rig = Rig::new(net);
    let query = |rig: &mut Rig, port| {
        let frame = rig.by_client(udp(client(port), endpoint("192.0.2.10:53"))).bytes();
        rig.send(FRONT, &frame)[0].1[5]
    };
    // More than the walk looks at in a turn.
    let at: Vec<u8> = (0..400).map(|n| query(&mut rig, 1_000 + n)).collect();
    assert_eq!(at.iter().filter(|server| **server == 11).count(), 200);
    rig.net.snapshot.servers[0].up = false;
    rig.reconfigure();
    rig.pass(1_000);
    assert_eq!((rig.active(ids[0]), rig.active(ids[1])), (0, 200));
    assert_eq!(rig.counters[0].ended_with_server.get(), 200);
    assert_eq!(rig.counters[0].originated.get(), 0);
    for (n, server) in (0..).zip(&at) {
        assert_eq!(query(&mut rig, 1_000 + n), 12, "was at {server}");
    }
    // It comes back, and the other leaves the configuration with its number.
    rig.net.snapshot.servers[0].up = true;
    rig.net.snapshot.servers.truncate(1);
    rig.net.snapshot.services[0].servers.truncate(1);
    rig.reconfigure();
    rig.pass(1_000);
    assert_eq!(rig.sessions(), 0);
    assert_eq!(query(&mut rig, 1_000), 11);
    assert_eq!(rig.active(ServerId(0)), 1);
}

#[test]
fn the_maximum_segment_size_is_clamped_both_ways() {
    let policy = Policy { mss: 1_400, ..Policy::default() };
    // At an even and at an odd place; larger, equal, smaller.
    let options = |mss: u16, odd: bool| {
        let [high, low] = mss.to_be_bytes();
        match odd {
            true => vec![1, 2, 4, high, low, 3, 3, 7],
            false => vec![2, 4, high, low, 1, 3, 3, 7],
        }
    };
    for family in Family::BOTH {
        for odd in [false, true] {
            for (announced, left) in [(1_460, 1_400), (1_400, 1_400), (536, 536), (0xffff, 1_400)] {
                let mut talk = Talk::new(net(Mode::Nat, 1, policy), family);
                let packet = |src, dst, flags, mss, ttl| {
                    tcp(src, dst, flags).options(&options(mss, odd)).ttl(ttl)
                };
                let (from, vip, server) = (talk.client(), talk.vip(), talk.server());
                let rig = &mut talk.rig;
                let syn = rig.by_client(packet(from, vip, SYN, announced, 64)).bytes();
                let out = rig.to_server(11, packet(from, server, SYN, left, 63)).bytes();
                assert_eq!(rig.send(FRONT, &syn), [(BACK, out)], "{announced} {odd}");
                let syn_ack = rig.by_server(11, packet(server, from, SYN_ACK, announced, 64));
                let out = rig.to_client(packet(vip, from, SYN_ACK, left, 63)).bytes();
                assert_eq!(rig.send(BACK, &syn_ack.bytes()), [(FRONT, out)], "{announced} {odd}");
                // What is no SYN may carry such bytes all the same.
                let data = rig.by_client(packet(from, vip, ACK, announced, 64)).bytes();
                let out = rig.to_server(11, packet(from, server, ACK, announced, 63)).bytes();
                assert_eq!(rig.send(FRONT, &data), [(BACK, out)]);
            }
        }
    }
}

#[test]
fn packets_are_marked_both_ways() {
    const EF: u8 = 46;
    let policy = Policy { dscp: Some(EF), ..Policy::default() };
    for family in Family::BOTH {
        for mode in [Mode::Nat, Mode::Dr] {
            let mut net = net(mode, 1, policy);
            net.snapshot.services[1].policy = policy;
            let mut rig = Rig::new(net);
            let from = SocketAddr::new(family.client(), 40_000);
            let (vip, dns) = (SocketAddr::new(family.vip(), 80), SocketAddr::new(family.vip(), 53));
            let inside = |port, outside| match mode {
                Mode::Dr => outside,
                _ => SocketAddr::new(family.server(11), port),
            };
            let ttl = if mode == Mode::Dr { 64 } else { 63 };
            // Whatever the sender said of its class, and what routers said of congestion stays.
            for ecn in 0..4 {
                for class in [0, 0x28, 0xfc] {
                    for (to, at, make) in [
                        (vip, inside(8080, vip), tcp as fn(_, _, u8) -> _),
                        (dns, inside(5353, dns), |src, dst, _| udp(src, dst)),
                    ] {
                        let bytes = rig.by_client(make(from, to, SYN)).bytes();
                        let out = rig.to_server(11, make(from, at, SYN).ttl(ttl)).bytes();
                        let sent = rig.send(FRONT, &with_class(bytes, class | ecn));
                        assert_eq!(sent, [(BACK, with_class(out, EF << 2 | ecn))]);
                        if mode == Mode::Dr {
                            continue;
                        }
                        let bytes = rig.by_server(11, make(at, from, SYN_ACK)).bytes();
                        let out = rig.to_client(make(to, from, SYN_ACK).ttl(63)).bytes();
                        let sent = rig.send(BACK, &with_class(bytes, class | ecn));
                        assert_eq!(sent, [(FRONT, with_class(out, EF << 2 | ecn))]);
                    }
                }
            }
            // The key is taken away: sessions that have it are left alone.
            for service in &mut rig.net.snapshot.services {
                service.policy = Policy::default();
            }
            rig.reconfigure();
            let bytes = rig.by_client(tcp(from, vip, ACK)).bytes();
            let out = rig.to_server(11, tcp(from, inside(8080, vip), ACK).ttl(ttl)).bytes();
            let sent = rig.send(FRONT, &with_class(bytes, 0x28));
            assert_eq!(sent, [(BACK, with_class(out, 0x28))]);
        }
    }
}

#[test]
fn a_connection_is_adopted_by_the_server_it_hashes_to() {
    use shunt::sched::SchedulerKind;
    let policy = Policy { mid_stream: MidStream::Adopt, ..Policy::default() };
    for kind in [SchedulerKind::Sh, SchedulerKind::Maglev] {
        let mut net = Net::two_armed(2);
        let vip = endpoint("192.0.2.10:80");
        let web = net.service(Protocol::Tcp, &[vip], Mode::Nat);
        for n in 11..15 {
            net.server(web, Family::V4.server(n), 8080);
        }
        net.snapshot.services[0].scheduler = kind;
        net.snapshot.services[0].policy = policy;
        net.snapshot.prepare();
        // Two nodes: the second takes over in mid-stream.
        let (mut first, mut second) = (Rig::new(net.clone()), Rig::new(net));
        for n in 0..40 {
            let from = SocketAddr::new(ip(&format!("198.51.100.{}", 7 + n)), 40_000);
            let syn = first.by_client(tcp(from, vip, SYN)).bytes();
            let server = first.send(FRONT, &syn)[0].1[5];
            let packet = |dst, ttl| tcp(from, dst, PSH_ACK).payload(b"more").ttl(ttl);
            let at = SocketAddr::new(Family::V4.server(server), 8080);
            let more = second.by_client(packet(vip, 64)).bytes();
            let out = second.to_server(server, packet(at, 63)).bytes();
            let id = ServerId(u16::from(server) - 11);
            let changes = Changes::none().tx(BACK, &out).forward(id, &more).session(id, false, 1);
            second.step("adopted", FRONT, &more, Some(from), changes, &[(BACK, out.clone())]);
            assert_eq!(states(&second), [TcpState::Contested]);
            let changes = Changes::none().tx(BACK, &out).forward(id, &more);
            second.step("goes on", FRONT, &more, Some(from), changes, &[(BACK, out)]);
            assert_eq!(states(&second), [TcpState::Established]);
            // The server does not know it: an exact reset, which the client gets.
            let packet = |src, ttl| tcp(src, from, RST).seq(ISN + 1).ttl(ttl);
            let reset = second.by_server(server, packet(at, 64)).bytes();
            let out = second.to_client(packet(vip, 63)).bytes();
            assert_eq!(second.send(BACK, &reset), [(FRONT, out)]);
            assert_eq!(states(&second), [TcpState::Closed]);
            second.pass(10_000 + LATE);
            assert_eq!(second.sessions(), 0);
            // Neither a reset nor half a handshake is a connection.
            for flags in [RST, RST_ACK, SYN_ACK] {
                let bytes = second.by_client(tcp(from, vip, flags)).bytes();
                let changes = Changes::none().dropped(NoSession);
                second.step("no connection", FRONT, &bytes, Some(from), changes, &[]);
            }
        }
    }
}

fn states(rig: &Rig) -> Vec<TcpState> {
    let mut found = Vec::new();
    for worker in &rig.workers {
        worker.pipeline().sessions_v4().walk(&mut 0, 1 << 20, |_, e| found.push(e.state));
    }
    found
}

/// Through a tunnel the reset to the server goes with the same headers around it as the client's
/// own would.
#[test]
fn a_server_behind_a_tunnel_is_told() {
    let policy = Policy { reset_on_expiry: true, ..Policy::default() };
    for mode in [Mode::Ipip, Mode::Gre, Mode::Gue, Mode::Vxlan] {
        for (inner, outer) in
            [(Family::V4, Family::V4), (Family::V6, Family::V4), (Family::V4, Family::V6)]
        {
            let mut net = Net::two_armed(1);
            let vip = SocketAddr::new(inner.vip(), 80);
            let web = net.service(Protocol::Tcp, &[vip], mode);
            net.server(web, outer.server(11), 80);
            net.snapshot.services[0].policy = policy;
            (net.snapshot.services[0].tunnel_port, net.snapshot.services[0].vni) = (6000, 7);
            let from = SocketAddr::new(inner.client(), 40_000);
            let mut rig = Rig::new(net);
            for flags in [SYN, ACK] {
                let bytes = rig.by_client(tcp(from, vip, flags)).bytes();
                assert_eq!(rig.send(FRONT, &bytes).len(), 1);
            }
            let reset = tcp(from, vip, RST_ACK).seq(ISN + 1).ack(ISN + 1).window(0);
            rig.pass(900_000 + LATE);
            let sent = rig.sent();
            let own = tcp(vip, from, RST_ACK).seq(ISN + 1).ack(ISN + 1).window(0);
            assert_eq!(sent[0], (FRONT, rig.to_client(own).bytes()));
            // The client's own, of a session that has just begun.
            for flags in [SYN, ACK] {
                let bytes = rig.by_client(tcp(from, vip, flags)).bytes();
                rig.send(FRONT, &bytes);
            }
            let reset = rig.by_client(reset).bytes();
            assert_eq!(rig.send(FRONT, &reset), sent[1..], "{mode:?} {inner:?} in {outer:?}");
        }
    }
}

/// After a restart every client's next segment is in mid-stream. The limit of ICMP errors, which a
/// flood can keep exhausted, is not that of resets.
#[test]
fn resets_have_a_limit_of_their_own() {
    let policy = Policy { mid_stream: MidStream::Reset, ..Policy::default() };
    let mut rig = Rig::new(net(Mode::Nat, 1, policy));
    let spent = |rig: &mut Rig, n: u16| {
        let packet = udp(client(1_000 + n), endpoint("192.0.2.10:53")).ttl(1);
        let bytes = rig.by_client(packet).bytes();
        rig.send(FRONT, &bytes).len()
    };
    assert_eq!((0..110).map(|n| spent(&mut rig, n)).sum::<usize>(), 100);
    let stray = |rig: &mut Rig, n: u16| {
        let bytes = rig.by_client(tcp(client(1_000 + n), endpoint("192.0.2.10:80"), ACK)).bytes();
        rig.send(FRONT, &bytes).len()
    };
    assert_eq!((0..2_010).map(|n| stray(&mut rig, n)).sum::<usize>(), 2_000);
    // 20 and one more each millisecond.
    rig.now = rig.now.wrapping_add(1);
    assert_eq!((0..30).map(|n| stray(&mut rig, n)).sum::<usize>(), 20);
    assert_eq!((0..5).map(|n| spent(&mut rig, n)).sum::<usize>(), 1);
    // Who is told nothing is dropped for the same reason.
    let changes = rig.changes().0;
    assert_eq!((changes["drop.no_session"], changes["drop.hop_limit_exceeded"]), (2_040, 115));
}
