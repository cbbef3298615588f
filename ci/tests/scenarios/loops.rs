//! The worker's loop: what ports and rings refuse, bursts, lists of sessions, frames of the
//! management thread.

use std::net::SocketAddr;

use shunt::io::memory::MemoryFrame;
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::DropReason::{HandOffFull, TxRefused};
use shunt::wire::flow::Protocol;
use shunt::worker::HAND_OFF_PACKETS;
use shunt::worker::control::{Command, Event, SessionFilter, SessionQuery, SessionRow};

use crate::changes::Changes;
use crate::frames::{ACK, SYN, client, echo, tcp, udp};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, endpoint, ip};
use crate::rig::Rig;

#[test]
fn what_a_port_does_not_take_is_a_drop() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let query = rig.by_client(udp(client(1), endpoint("192.0.2.10:53"))).bytes();
    let out = rig.to_server(11, udp(client(1), endpoint("10.0.0.11:5353")).ttl(63)).bytes();
    rig.send(FRONT, &query);
    rig.workers[0].io().tx_room[1] = Some(0);
    let id = ServerId(2);
    let changes = Changes::none().forward(id, &query).dropped(TxRefused).add("port1.tx_refused", 1);
    rig.step("refused", FRONT, &query, None, changes, &[]);
    // Of a burst the port takes the first.
    rig.workers[0].io().tx_room[1] = Some(2);
    for _ in 0..5 {
        rig.workers[0].io().arrive(FRONT, &query);
    }
    rig.changes();
    rig.settle();
    assert_eq!(rig.sent(), [(BACK, out.clone()), (BACK, out.clone())]);
    let mut changes = Changes::none();
    for n in 0..5 {
        changes = changes.rx(FRONT, &query).forward(id, &query);
        changes = match n {
            0 | 1 => changes.tx(BACK, &out),
            _ => changes.dropped(TxRefused).add("port1.tx_refused", 1),
        };
    }
    assert_eq!(rig.changes(), changes);
    // An answer of our own that is refused was never a received packet.
    rig.workers[0].io().tx_room[0] = Some(0);
    let vip = ip("192.0.2.10");
    let ping = echo((ROUTER_MAC, FRONT_MAC), ip("198.51.100.7"), vip, false, 9);
    let changes = Changes::none().consumed().add("port0.tx_refused", 1);
    rig.step("an answer refused", FRONT, &ping, None, changes, &[]);
}

#[test]
fn a_mixed_burst_is_accounted_for_packet_by_packet() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let ping = echo((ROUTER_MAC, FRONT_MAC), ip("198.51.100.7"), ip("192.0.2.10"), false, 9);
    let pong = echo((FRONT_MAC, ROUTER_MAC), ip("192.0.2.10"), ip("198.51.100.7"), true, 64);
    let syn = rig.by_client(tcp(client(1), endpoint("192.0.2.10:80"), SYN)).bytes();
    let to = endpoint("10.0.0.11:8080");
    let out = rig.to_server(11, tcp(client(1), to, SYN).ttl(63)).bytes();
    let stray = rig.by_client(tcp(client(2), endpoint("192.0.2.10:80"), ACK)).bytes();
    // The same SYN twice in one burst opens one session.
    for frame in [&ping, &syn, &stray, &syn, &ping, &syn] {
        rig.workers[0].io().arrive(FRONT, frame);
    }
    rig.changes();
    rig.settle();
    let sent = rig.sent();
    assert_eq!(
        sent,
        [
            (FRONT, pong.clone()),
            (FRONT, pong.clone()),
            (BACK, out.clone()),
            (BACK, out.clone()),
            (BACK, out.clone())
        ]
    );
    let id = ServerId(0);
    let mut changes = Changes::none().session(id, false, 1);
    for _ in 0..3 {
        changes = changes.rx(FRONT, &syn).tx(BACK, &out).forward(id, &syn);
    }
    for _ in 0..2 {
        changes = changes.rx(FRONT, &ping).consumed().originated(FRONT, &pong);
    }
    changes = changes.rx(FRONT, &stray).dropped(shunt::wire::DropReason::NoSession);
    assert_eq!(rig.changes(), changes);
}

#[test]
fn bursts_larger_than_a_burst() {
    for workers in [1, 2, 4] {
        for net in [Net::two_armed(workers), Net::one_armed(workers)] {
            let mut rig = Rig::new(net.usual(Mode::FullNat));
            let family = [Family::V4, Family::V6];
            for n in 0..200u16 {
                let family = family[usize::from(n % 2)];
                let from = SocketAddr::new(family.client(), 1000 + n % 50);
                let vip = SocketAddr::new(family.vip(), 53);
                let frame = rig.by_client(udp(from, vip)).bytes();
                rig.arrive(MemoryFrame::new(FRONT, &frame));
            }
            rig.settle();
            assert_eq!(rig.sent().len(), 200);
            assert_eq!(rig.sessions(), 50);
        }
    }
}

#[test]
fn a_full_ring_between_workers_is_a_drop() {
    let mut rig = Rig::new(Net::two_armed(2).usual(Mode::Nat));
    let foreign = (1..).map(client).find(|client| rig.net.owner(*client) == 1).unwrap();
    let frame = rig.by_client(udp(foreign, endpoint("192.0.2.10:53"))).bytes();
    for _ in 0..HAND_OFF_PACKETS + 5 {
        rig.workers[0].io().arrive(FRONT, &frame);
    }
    // Worker 1 does not get its turn.
    let now = rig.now;
    while rig.workers[0].poll(now) != 0 {}
    rig.assert_balanced();
    let counters = &rig.counters[0];
    assert_eq!(counters.handed_off.get(), HAND_OFF_PACKETS as u64);
    assert_eq!(counters.drops_of(HandOffFull).get(), 5);
    assert_eq!(counters.dropped(), 5);
    rig.settle();
    assert_eq!(rig.sent().len(), HAND_OFF_PACKETS);
    assert_eq!(rig.counters[1].handed_in.get(), HAND_OFF_PACKETS as u64);
}

#[test]
fn frames_of_the_management_thread() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    rig.changes();
    let frame = vec![7; 42];
    rig.command(|| Command::Transmit { port: BACK, frame: vec![7; 42] });
    assert_eq!(rig.sent(), [(BACK, frame.clone())]);
    assert_eq!(rig.changes(), Changes::none().originated(BACK, &frame));
    let events = rig.events();
    assert!(matches!(&events[..], [Event::Transmitted(back)] if *back == frame), "{events:?}");
    // A port that there is not, and a port that takes nothing: the buffer comes back all the same.
    rig.workers[0].io().tx_room[1] = Some(0);
    for port in [BACK, shunt::datapath::snapshot::PortId(9)] {
        rig.command(|| Command::Transmit { port, frame: vec![7; 42] });
        assert_eq!(rig.sent(), []);
        assert_eq!(rig.events().len(), 1);
    }
    assert_eq!(rig.changes(), Changes::none().add("port1.tx_refused", 1));
}

#[test]
fn the_old_configuration_comes_back() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    rig.net.snapshot.generation = 2;
    rig.commands[0].push(Command::Snapshot(std::sync::Arc::new(rig.net.snapshot.clone()))).unwrap();
    rig.settle();
    let event = rig.events[0].pop();
    assert!(matches!(&event, Ok(Event::Retired(old)) if old.generation == 1), "{event:?}");
    assert_eq!(rig.workers[0].pipeline().snapshot().generation, 2);
}

fn list(rig: &mut Rig, filter: SessionFilter, limit: usize) -> (Vec<SessionRow>, u64) {
    rig.command(|| {
        Command::ListSessions(Box::new(SessionQuery {
            id: 77,
            filter: filter.clone(),
            rows: Vec::with_capacity(limit),
            ..SessionQuery::default()
        }))
    });
    // A few entries each turn.
    rig.pass(3000);
    let (mut rows, mut matching) = (Vec::new(), 0);
    let events = rig.events();
    assert_eq!(events.len(), rig.workers.len());
    for event in events {
        match event {
            Event::Sessions(query) => {
                assert_eq!((query.id, query.rows.capacity()), (77, limit));
                rows.extend(query.rows);
                matching += query.matching;
            }
            other => panic!("{other:?}"),
        }
    }
    (rows, matching)
}

#[test]
fn sessions_are_listed() {
    for workers in [1, 2] {
        let mut net = Net::two_armed(workers).usual(Mode::FullNat);
        net.server(ServiceId(1), ip("10.0.0.12"), 5353);
        net.snapshot.services[1].timeouts.udp = 600_000;
        net.snapshot.services[0].timeouts.tcp_syn = 600_000;
        let mut rig = Rig::new(net);
        for n in 0..600u16 {
            let from = client(1000 + n);
            let frame = rig.by_client(udp(from, endpoint("192.0.2.10:53"))).bytes();
            assert_eq!(rig.send(FRONT, &frame).len(), 1);
        }
        rig.pass(10_000);
        for (family, address) in [(Family::V4, "198.51.100.200"), (Family::V6, "2001:db8:99::200")]
        {
            let from = SocketAddr::new(ip(address), 555);
            let vip = SocketAddr::new(family.vip(), 80);
            let frame = rig.by_client(tcp(from, vip, SYN)).bytes();
            assert_eq!(rig.send(FRONT, &frame).len(), 1);
        }
        let all = SessionFilter::default();
        let (rows, matching) = list(&mut rig, all.clone(), 1000);
        assert_eq!((rows.len(), matching), (602, 602));
        let (rows, matching) = list(&mut rig, all.clone(), 10);
        assert_eq!((rows.len(), matching), (10 * workers, 602));
        let (rows, matching) = list(&mut rig, all, 0);
        assert_eq!((rows.len(), matching), (0, 602));

        let web = SessionFilter { service: Some(ServiceId(0)), ..SessionFilter::default() };
        let (rows, matching) = list(&mut rig, web, 10);
        assert_eq!((rows.len(), matching), (2, 2));
        let row = rows.iter().find(|row| row.client.is_ipv4()).unwrap();
        let expected = SessionRow {
            protocol: Protocol::Tcp,
            client: endpoint("198.51.100.200:555"),
            vip: endpoint("192.0.2.10:80"),
            local: SocketAddr::new(ip("10.0.0.200"), row.local.port()),
            server: endpoint("10.0.0.11:8080"),
            state: shunt::session::TcpState::SynSent,
            mode: Mode::FullNat,
            service: ServiceId(0),
            server_id: ServerId(0),
            age_ms: row.age_ms,
            idle_ms: row.age_ms,
            expires_ms: 600_000 - row.age_ms,
        };
        assert_eq!(*row, expected);
        assert!(row.age_ms >= 9_000 && row.age_ms <= 12_000, "{}", row.age_ms);

        let at = |servers: &[u16]| SessionFilter {
            servers: servers.iter().map(|s| ServerId(*s)).collect(),
            ..SessionFilter::default()
        };
        let (_, two) = list(&mut rig, at(&[2]), 10);
        let (_, four) = list(&mut rig, at(&[4]), 10);
        assert_eq!(two + four, 600);
        assert_eq!(rig.active(ServerId(2)), two);
        assert_eq!(list(&mut rig, at(&[2, 4]), 10).1, 600);
        assert_eq!(list(&mut rig, at(&[3]), 10).1, 0);
        for (network, count) in
            [("198.51.100.7/32", 600), ("198.51.100.128/25", 1), ("2001:db8::/32", 1), ("::/0", 1)]
        {
            let filter = SessionFilter {
                client: Some(network.parse().unwrap()),
                ..SessionFilter::default()
            };
            assert_eq!(list(&mut rig, filter, 5).1, count, "{network}");
        }
    }
}

#[test]
fn one_list_at_a_time() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    for id in [1, 2] {
        let query = SessionQuery { id, ..SessionQuery::default() };
        rig.commands[0].push(Command::ListSessions(Box::new(query))).unwrap();
    }
    rig.pass(1000);
    let ids: Vec<u64> = rig
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Sessions(query) => query.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn a_full_event_queue_loses_notices_and_never_an_answer() {
    let mut rig = Rig::cold(Net::two_armed(1).usual(Mode::Nat));
    // Nobody fetches events.
    for n in 0..200u16 {
        let host = format!("192.0.2.{}", 20 + n);
        let frame = crate::frames::arp(
            etherparse::ArpOperation::REQUEST,
            ([2, 0, 0, 0, 9, 9], [0xff; 6]),
            &host,
            "192.0.2.10",
            [0; 6],
        );
        assert_eq!(rig.send(FRONT, &frame).len(), 1);
    }
    let lost = rig.counters[0].events_lost.get();
    assert!(lost > 0);
    for _ in 0..30 {
        rig.commands[0].push(Command::Transmit { port: BACK, frame: vec![1; 60] }).unwrap();
    }
    rig.settle();
    // Those that found no room yet wait in the command queue.
    let mut transmitted = 0;
    for _ in 0..100 {
        let events = rig.events();
        transmitted += events.iter().filter(|e| matches!(e, Event::Transmitted(_))).count();
        rig.settle();
    }
    assert_eq!(transmitted, 30);
    assert_eq!(rig.counters[0].events_lost.get(), lost);
}
