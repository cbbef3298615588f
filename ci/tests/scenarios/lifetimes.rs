//! Sessions: how long they live in each state, which server they get, what happens when servers,
//! tables and configurations change.

use std::net::SocketAddr;

use shunt::session::{Mode, ServerId, ServiceId, TcpState};
use shunt::wire::DropReason::{NoServer, ReplyTupleInUse, SessionTableFull};
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, RST, SYN, SYN_ACK, client, tcp, udp};
use crate::net::{BACK, FRONT, Net, endpoint, ip};
use crate::rig::Rig;

const VIP: &str = "192.0.2.10:80";
/// How late a session may end: a tick of the timing wheel and a turn of the rig.
const LATE: u32 = 300;

/// A side that speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Peer {
    Client,
    Server,
}
use Peer::{Client, Server};

fn net(mode: Mode, servers: u8) -> Net {
    let mut net = Net::two_armed(1);
    let web = net.service(Protocol::Tcp, &[endpoint(VIP)], mode);
    let dns = net.service(Protocol::Udp, &[endpoint("192.0.2.10:53")], mode);
    let (web_port, dns_port) = if mode == Mode::Dr { (80, 53) } else { (8080, 5353) };
    for n in 0..servers {
        net.server(web, ip(&format!("10.0.0.{}", 11 + n)), web_port);
    }
    net.server(dns, ip("10.0.0.11"), dns_port);
    if mode == Mode::FullNat {
        net.lip(BACK, ip("10.0.0.200"));
    }
    net
}

fn from_client(rig: &mut Rig, port: u16, flags: u8) -> usize {
    let frame = rig.by_client(tcp(client(port), endpoint(VIP), flags)).bytes();
    rig.send(FRONT, &frame).len()
}

/// The server (the last byte of its address) that gets the packet.
fn server_of(rig: &mut Rig, port: u16, flags: u8) -> Option<u8> {
    let frame = rig.by_client(tcp(client(port), endpoint(VIP), flags)).bytes();
    let sent = rig.send(FRONT, &frame);
    assert!(sent.len() <= 1);
    sent.first().map(|(_, bytes)| bytes[5])
}

fn udp_server_of(rig: &mut Rig, port: u16) -> Option<u8> {
    let frame = rig.by_client(udp(client(port), endpoint("192.0.2.10:53"))).bytes();
    rig.send(FRONT, &frame).first().map(|(_, bytes)| bytes[5])
}

fn from_server(rig: &mut Rig, n: u8, port: u16, flags: u8) -> usize {
    let server = SocketAddr::new(ip(&format!("10.0.0.{n}")), 8080);
    let frame = rig.by_server(n, tcp(server, client(port), flags)).bytes();
    rig.send(BACK, &frame).len()
}

fn state(rig: &Rig) -> Option<TcpState> {
    let mut found = None;
    rig.workers[0].pipeline().sessions_v4().walk(&mut 0, 1 << 20, |_, e| found = Some(e.state));
    found
}

#[test]
fn each_state_lives_its_time() {
    use TcpState::*;
    #[rustfmt::skip]
    type Conversation<'a> = (&'a [(Peer, u8)], TcpState, u32);
    let conversations: &[Conversation<'_>] = &[
        (&[(Client, SYN)], SynSent, 5_000),
        (&[(Client, SYN), (Client, ACK)], SynSent, 5_000),
        (&[(Client, SYN), (Server, SYN_ACK)], SynReceived, 10_000),
        (&[(Client, SYN), (Server, SYN_ACK), (Client, ACK)], Established, 900_000),
        (
            &[(Client, SYN), (Server, SYN_ACK), (Client, PSH_ACK), (Server, ACK)],
            Established,
            900_000,
        ),
        (&[(Client, SYN), (Server, SYN_ACK), (Client, ACK), (Client, FIN_ACK)], FinClient, 120_000),
        (&[(Client, SYN), (Server, SYN_ACK), (Client, ACK), (Server, FIN_ACK)], FinServer, 120_000),
        (
            &[
                (Client, SYN),
                (Server, SYN_ACK),
                (Client, ACK),
                (Server, FIN_ACK),
                (Client, FIN_ACK),
                (Server, ACK),
            ],
            FinBoth,
            10_000,
        ),
        (&[(Client, SYN), (Server, SYN_ACK), (Client, ACK), (Client, RST)], Closed, 10_000),
        (&[(Client, SYN), (Server, SYN_ACK), (Client, ACK), (Server, RST)], Closed, 10_000),
        (&[(Client, SYN), (Server, RST | ACK)], Closed, 10_000),
    ];
    for (packets, reached, timeout) in conversations {
        let mut rig = Rig::new(net(Mode::Nat, 1));
        for &(from, flags) in *packets {
            let sent = match from {
                Client => from_client(&mut rig, 40_000, flags),
                Server => from_server(&mut rig, 11, 40_000, flags),
            };
            assert_eq!(sent, 1, "{packets:?}");
        }
        assert_eq!(state(&rig), Some(*reached), "{packets:?}");
        let what = format!("{reached:?}");
        rig.wait(&what, timeout - 1, Changes::none());
        let ended = Changes::none().session(ServerId(0), false, -1).add("expired", 1);
        rig.wait(&what, LATE, ended);
        assert_eq!(from_server(&mut rig, 11, 40_000, ACK), 0, "the session is gone");
    }
}

#[test]
fn udp_lives_as_long_as_somebody_speaks() {
    let mut rig = Rig::new(net(Mode::Nat, 1));
    let opened = |rig: &mut Rig| {
        assert_eq!(udp_server_of(rig, 40_000), Some(11));
    };
    opened(&mut rig);
    let answer = udp(endpoint("10.0.0.11:5353"), client(40_000));
    let answer = rig.by_server(11, answer).bytes();
    for _ in 0..5 {
        rig.pass(29_000);
        assert_eq!(rig.send(BACK, &answer).len(), 1, "an answer keeps it");
        rig.pass(29_000);
        opened(&mut rig);
    }
    rig.wait("not yet", 29_999, Changes::none());
    let ended = Changes::none().session(ServerId(1), false, -1).add("expired", 1);
    rig.wait("idle", LATE, ended);
}

#[test]
fn direct_return_sees_the_client_only() {
    let mut rig = Rig::new(net(Mode::Dr, 1));
    for (flags, reached) in
        [(SYN, TcpState::SynSent), (ACK, TcpState::Established), (FIN_ACK, TcpState::FinBoth)]
    {
        assert_eq!(from_client(&mut rig, 40_000, flags), 1);
        assert_eq!(state(&rig), Some(reached));
    }
    // An answer that comes by here all the same is nobody's: the server answers the client itself.
    let stray = tcp(endpoint(VIP), client(40_000), SYN_ACK);
    let stray = rig.by_server(11, stray).bytes();
    let changes = Changes::none().dropped(shunt::wire::DropReason::SpoofedLocal);
    rig.step("a stray answer", BACK, &stray, None, changes, &[]);
    let ended = Changes::none().session(ServerId(0), false, -1).add("expired", 1);
    rig.wait("idle", 10_000 + LATE, ended);
}

#[test]
fn a_syn_on_a_finished_connection_opens_a_new_one() {
    for end in [&[(Client, RST)][..], &[(Client, FIN_ACK), (Server, FIN_ACK)]] {
        let mut rig = Rig::new(net(Mode::Nat, 2));
        let first = server_of(&mut rig, 40_000, SYN).unwrap();
        from_server(&mut rig, first, 40_000, SYN_ACK);
        from_client(&mut rig, 40_000, ACK);
        for &(from, flags) in end {
            match from {
                Client => from_client(&mut rig, 40_000, flags),
                Server => from_server(&mut rig, first, 40_000, flags),
            };
        }
        assert_eq!(server_of(&mut rig, 40_000, ACK), Some(first), "what is left of the old one");
        rig.changes();
        // A later number than any the old one had.
        let syn = tcp(client(40_000), endpoint(VIP), SYN).seq(ISN + 1_000);
        let syn = rig.by_client(syn).bytes();
        let second = rig.send(FRONT, &syn).first().map(|(_, bytes)| bytes[5]).unwrap();
        assert_ne!(first, second, "it is scheduled anew, and that server had its turn");
        let (old, new) = (ServerId(u16::from(first) - 11), ServerId(u16::from(second) - 11));
        let (packet, out) = (vec![0; 54], vec![0; 54]);
        let changes = Changes::none()
            .rx(FRONT, &packet)
            .tx(BACK, &out)
            .forward(new, &packet)
            .add(format!("server{}.ended", old.0), 1)
            .add(format!("server{}.created", new.0), 1);
        assert_eq!(rig.changes(), changes);
        assert_eq!(state(&rig), Some(TcpState::SynSent));
        assert_eq!(from_server(&mut rig, second, 40_000, SYN_ACK), 1);
    }
}

#[test]
fn a_syn_again_is_the_same_connection() {
    let mut rig = Rig::new(net(Mode::Nat, 2));
    let server = server_of(&mut rig, 40_000, SYN);
    for _ in 0..3 {
        assert_eq!(server_of(&mut rig, 40_000, SYN), server, "sent again");
    }
    from_server(&mut rig, server.unwrap(), 40_000, SYN_ACK);
    assert_eq!(server_of(&mut rig, 40_000, SYN), server, "the SYN-ACK was lost");
    from_client(&mut rig, 40_000, ACK);
    assert_eq!(server_of(&mut rig, 40_000, SYN), server, "established: the server's to judge");
    assert_eq!(rig.sessions(), 1);
}

#[test]
fn a_failed_server_gets_no_new_connection_and_keeps_the_old_ones() {
    let mut rig = Rig::new(net(Mode::Nat, 2));
    let mut at = Vec::new();
    for port in 0..8 {
        let server = server_of(&mut rig, 40_000 + port, SYN).unwrap();
        from_server(&mut rig, server, 40_000 + port, SYN_ACK);
        from_client(&mut rig, 40_000 + port, ACK);
        at.push(server);
    }
    assert_eq!(at.iter().filter(|&&s| s == 11).count(), 4);
    rig.net.snapshot.servers[0].up = false;
    rig.reconfigure();
    for (port, &server) in (40_000..).zip(&at) {
        assert_eq!(server_of(&mut rig, port, ACK), Some(server));
        assert_eq!(from_server(&mut rig, server, port, ACK), 1);
    }
    for port in 0..8 {
        assert_eq!(server_of(&mut rig, 41_000 + port, SYN), Some(12));
    }
    rig.net.snapshot.servers[0].up = true;
    rig.reconfigure();
    let back: Vec<_> = (0..8).map(|port| server_of(&mut rig, 42_000 + port, SYN)).collect();
    assert_eq!(back.iter().filter(|s| **s == Some(11)).count(), 4, "{back:?}");
    // Weight 0 is the same, from the operator's side.
    rig.net.snapshot.servers[1].weight = 0;
    rig.reconfigure();
    for port in 0..8 {
        assert_eq!(server_of(&mut rig, 43_000 + port, SYN), Some(11));
    }
    assert_eq!(server_of(&mut rig, 41_000, SYN), Some(12), "a SYN again, to a server that is up");
    rig.net.snapshot.servers[0].up = false;
    rig.reconfigure();
    let syn = rig.by_client(tcp(client(44_000), endpoint(VIP), SYN)).bytes();
    let changes = Changes::none().dropped(NoServer);
    rig.step("nobody left", FRONT, &syn, None, changes, &[]);
}

#[test]
fn a_syn_again_to_a_dead_server_goes_to_another() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        let mut rig = Rig::new(net(mode, 2));
        let first = server_of(&mut rig, 40_000, SYN).unwrap();
        rig.net.snapshot.servers[usize::from(first) - 11].up = false;
        rig.reconfigure();
        let second = server_of(&mut rig, 40_000, SYN).unwrap();
        assert_eq!(first + second, 11 + 12, "{mode:?}");
        assert_eq!(rig.sessions(), 1);
        assert_eq!(rig.active(ServerId(u16::from(first) - 11)), 0);
        assert_eq!(server_of(&mut rig, 40_000, SYN), Some(second));
    }
}

#[test]
fn weights_are_shares() {
    for family_mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        let mut net = net(family_mode, 3);
        for (server, weight) in [5, 3, 2].into_iter().enumerate() {
            net.snapshot.servers[server].weight = weight;
        }
        let mut rig = Rig::new(net);
        let picks: Vec<u8> =
            (0..100).map(|n| server_of(&mut rig, 10_000 + n, SYN).unwrap()).collect();
        let count = |server| picks.iter().filter(|&&s| s == server).count();
        assert_eq!([count(11), count(12), count(13)], [50, 30, 20]);
        assert!(!picks.windows(3).any(|three| three == [11, 11, 11]), "no bursts: {picks:?}");
        for (server, sessions) in [50, 30, 20].into_iter().enumerate() {
            assert_eq!(rig.active(ServerId(server as u16)), sessions);
        }
    }
}

#[test]
fn a_change_of_weights_keeps_every_session_where_it_is() {
    let mut rig = Rig::new(net(Mode::FullNat, 3));
    let at: Vec<_> = (0..60).map(|n| server_of(&mut rig, 10_000 + n, SYN)).collect();
    for weights in [[0, 1, 9], [7, 0, 0], [1, 1, 1]] {
        for (server, weight) in weights.into_iter().enumerate() {
            rig.net.snapshot.servers[server].weight = weight;
        }
        rig.net.snapshot.generation += 1;
        rig.reconfigure();
        for (n, server) in (0..).zip(&at) {
            assert_eq!(server_of(&mut rig, 10_000 + n, SYN), *server);
        }
    }
    assert_eq!(rig.sessions(), 60);
}

#[test]
fn least_connections_counts_open_sessions() {
    let mut net = net(Mode::Nat, 2);
    net.snapshot.services[0].scheduler = shunt::sched::SchedulerKind::Lc;
    let mut rig = Rig::new(net);
    let at: Vec<u8> = (0..20).map(|n| server_of(&mut rig, 10_000 + n, SYN).unwrap()).collect();
    assert_eq!(at.iter().filter(|&&s| s == 11).count(), 10);
    // The sessions of server 12 live on, those of 11 end.
    for (n, &server) in (0..).zip(&at) {
        if server == 12 {
            from_server(&mut rig, 12, 10_000 + n, SYN_ACK);
            from_client(&mut rig, 10_000 + n, ACK);
        }
    }
    rig.pass(5_000 + LATE);
    assert_eq!((rig.active(ServerId(0)), rig.active(ServerId(1))), (0, 10));
    for n in 0..10 {
        assert_eq!(server_of(&mut rig, 11_000 + n, SYN), Some(11));
    }
}

#[test]
fn a_full_table_refuses_and_ends_nobody() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut rig = Rig::with_sessions(net(mode, 1), 50).warmed();
        for n in 0..50 {
            assert_eq!(server_of(&mut rig, 10_000 + n, SYN), Some(11));
        }
        let syn = rig.by_client(tcp(client(9_999), endpoint(VIP), SYN)).bytes();
        let full = Changes::none().dropped(SessionTableFull);
        rig.step("full", FRONT, &syn, None, full.clone(), &[]);
        rig.step("still full", FRONT, &syn, None, full, &[]);
        for n in 0..50 {
            assert_eq!(server_of(&mut rig, 10_000 + n, SYN), Some(11));
        }
        rig.pass(5_000 + LATE);
        assert_eq!(rig.sessions(), 0);
        assert_eq!(server_of(&mut rig, 9_999, SYN), Some(11));
    }
}

#[test]
fn two_services_on_one_server_cannot_have_the_same_client_port() {
    let mut net = net(Mode::Nat, 1);
    let other = net.service(Protocol::Tcp, &[endpoint("192.0.2.20:80")], Mode::Nat);
    let id = net.server(other, ip("10.0.0.11"), 8080);
    let mut rig = Rig::new(net);
    assert_eq!(server_of(&mut rig, 40_000, SYN), Some(11));
    let from = client(40_000);
    let syn = rig.by_client(tcp(from, endpoint("192.0.2.20:80"), SYN)).bytes();
    let changes = Changes::none().dropped(ReplyTupleInUse);
    rig.step("the answers would look alike", FRONT, &syn, None, changes, &[]);
    // Another port of the client is another answer; and when the first session has ended, so is it.
    let next = rig.by_client(tcp(client(40_001), endpoint("192.0.2.20:80"), SYN)).bytes();
    assert_eq!(rig.send(FRONT, &next).len(), 1);
    rig.pass(5_000 + LATE);
    assert_eq!(rig.send(FRONT, &syn).len(), 1);
    assert_eq!(rig.active(id), 1);
}

#[test]
fn services_are_told_apart_by_address_port_and_protocol() {
    let mut net = Net::two_armed(2);
    let mut expected = Vec::new();
    let listeners = [
        (Protocol::Tcp, "192.0.2.10:80"),
        (Protocol::Udp, "192.0.2.10:80"),
        (Protocol::Tcp, "192.0.2.10:443"),
        (Protocol::Tcp, "192.0.2.20:80"),
        (Protocol::Tcp, "[2001:db8:1::10]:80"),
    ];
    for (n, (protocol, listen)) in (11..).zip(listeners) {
        let service = net.service(protocol, &[endpoint(listen)], Mode::Nat);
        let six = listen.starts_with('[');
        let family = if six { crate::net::Family::V6 } else { crate::net::Family::V4 };
        net.server(service, family.server(n), 8000 + u16::from(n));
        expected.push((protocol, endpoint(listen), family, n));
    }
    let mut rig = Rig::new(net);
    for (protocol, listen, family, n) in expected {
        let from = SocketAddr::new(family.client(), 5000);
        let packet = |src, dst| match protocol {
            Protocol::Tcp => tcp(src, dst, SYN),
            _ => udp(src, dst),
        };
        let frame = rig.by_client(packet(from, listen)).bytes();
        let to = SocketAddr::new(family.server(n), 8000 + u16::from(n));
        let out = rig.to_server(n, packet(from, to).ttl(63)).bytes();
        assert_eq!(rig.send(FRONT, &frame), [(BACK, out)], "{protocol} {listen}");
    }
}

/// A service may go while its sessions live (the ids of what remains do not change).
#[test]
fn sessions_outlive_their_service_and_server() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        let mut net = Net::two_armed(1);
        let first = net.service(Protocol::Udp, &[endpoint("192.0.2.10:53")], mode);
        net.server(first, ip("10.0.0.11"), 53);
        if mode == Mode::FullNat {
            net.lip(BACK, ip("10.0.0.200"));
        }
        let bare = net.clone();
        let last = net.service(Protocol::Tcp, &[endpoint(VIP)], mode);
        net.server(last, ip("10.0.0.12"), 80);
        let mut rig = Rig::new(net);
        assert_eq!(server_of(&mut rig, 40_000, SYN), Some(12));
        rig.net = bare;
        // Also the routes change, so that the way to the server is looked up again.
        rig.net.route("10.9.0.0/16", BACK, None);
        rig.reconfigure();
        for flags in [ACK, PSH_ACK, RST, FIN_ACK] {
            assert_eq!(server_of(&mut rig, 40_000, flags), Some(12), "{mode:?}");
        }
        let sent = server_of(&mut rig, 40_000, SYN);
        assert_eq!(sent, None, "{mode:?}: nobody listens for a new one");
        // The SYN ended the old session.
        assert_eq!(rig.sessions(), 0);
    }
}

#[test]
fn the_service_ids_of_a_session_are_those_of_its_service() {
    let mut rig = Rig::new(net(Mode::Nat, 1));
    from_client(&mut rig, 1, SYN);
    udp_server_of(&mut rig, 2);
    let mut found = Vec::new();
    rig.workers[0].pipeline().sessions_v4().walk(&mut 0, 100, |_, e| {
        found.push((e.client_port, e.service, e.server_id));
    });
    assert_eq!(found, [(1, ServiceId(0), ServerId(0)), (2, ServiceId(1), ServerId(1))]);
}
