//! What services and sources may do at most.

use std::net::SocketAddr;

use shunt::datapath::limits::Limits;
use shunt::datapath::policy::MidStream;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason;

use crate::changes::Changes;
use crate::fragments::split;
use crate::frames::{ACK, FIN_ACK, Packet, RST, SYN, SYN_ACK, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net, TIMEOUTS};
use crate::rig::Rig;

fn limited(workers: usize, mode: Mode, limits: Limits) -> Rig {
    let mut net = Net::two_armed(workers).usual(mode);
    for service in &mut net.snapshot.services {
        service.limits = limits;
    }
    Rig::new(net)
}

fn half_open(rig: &Rig) -> u64 {
    rig.counters.iter().map(|c| c.half_open.get()).sum()
}

/// A client and the service it talks to.
#[derive(Clone, Copy)]
struct Talk {
    family: Family,
    client: SocketAddr,
    is_tcp: bool,
}

impl Talk {
    fn new(family: Family, host: u16, port: u16) -> Self {
        let ip = match family {
            Family::V4 => format!("198.51.{}.{}", host >> 8, host & 255),
            Family::V6 => format!("2001:db8:99:{:x}::{:x}", host >> 8, host & 255),
        };
        Talk { family, client: SocketAddr::new(ip.parse().unwrap(), port), is_tcp: true }
    }

    fn udp(self) -> Self {
        Talk { is_tcp: false, ..self }
    }

    fn v6(self) -> bool {
        self.family == Family::V6
    }

    fn id(self) -> ServerId {
        ServerId(u16::from(self.v6()) + if self.is_tcp { 0 } else { 2 })
    }

    fn packet(self, flags: u8) -> Packet {
        let vip = SocketAddr::new(self.family.vip(), if self.is_tcp { 80 } else { 53 });
        if self.is_tcp { tcp(self.client, vip, flags) } else { udp(self.client, vip) }
    }

    fn server(self) -> SocketAddr {
        SocketAddr::new(self.family.server(11), if self.is_tcp { 8080 } else { 5353 })
    }

    /// A packet of the client that passes.
    fn passes(self, rig: &mut Rig, flags: u8, opens: bool) {
        let packet = rig.by_client(self.packet(flags));
        let (bytes, mut out) = (packet.bytes(), packet);
        if rig.net.snapshot.services[0].mode == Mode::Nat {
            (out.dst, out.ttl) = (self.server(), 63);
        }
        let out = rig.to_server(11, out).bytes();
        let mut changes = Changes::none().forward(self.id(), &bytes).tx(BACK, &out);
        if opens {
            changes = changes.session(self.id(), self.v6(), 1);
        }
        rig.step("passes", FRONT, &bytes, Some(self.client), changes, &[(BACK, out)]);
    }

    fn opens(self, rig: &mut Rig) {
        self.passes(rig, SYN, true);
    }

    /// A packet of the client that is dropped.
    fn fails(self, rig: &mut Rig, flags: u8, reason: DropReason) {
        let bytes = rig.by_client(self.packet(flags)).bytes();
        let changes = Changes::none().dropped(reason);
        rig.step("fails", FRONT, &bytes, Some(self.client), changes, &[]);
    }

    /// A packet of the server that passes.
    fn answers(self, rig: &mut Rig, flags: u8) {
        let packet = self.packet(flags);
        let answer = Packet { src: self.server(), dst: packet.src, ..packet.clone() };
        let out = Packet { src: packet.dst, ttl: 63, ..answer.clone() };
        let (bytes, out) = (rig.by_server(11, answer).bytes(), rig.to_client(out).bytes());
        let changes = Changes::none().reply(self.id(), &bytes).tx(FRONT, &out);
        rig.step("answers", BACK, &bytes, Some(self.client), changes, &[(FRONT, out)]);
    }
}

#[test]
fn connections_per_second_of_a_service() {
    for family in Family::BOTH {
        let limits = Limits { connections_per_second: 2, ..Limits::default() };
        let mut rig = limited(1, Mode::Nat, limits);
        let tcp = |port| Talk::new(family, port, 5);
        tcp(1).opens(&mut rig);
        tcp(2).opens(&mut rig);
        tcp(3).fails(&mut rig, SYN, DropReason::ConnectionRate);
        // A packet of an old connection is none of a new one, nor is a SYN again.
        tcp(1).passes(&mut rig, SYN, false);
        // Another service has its own.
        tcp(3).udp().opens(&mut rig);
        tcp(4).udp().opens(&mut rig);
        tcp(5).udp().fails(&mut rig, 0, DropReason::ConnectionRate);
        tcp(4).udp().passes(&mut rig, 0, false);
        rig.pass(499);
        tcp(3).fails(&mut rig, SYN, DropReason::ConnectionRate);
        rig.pass(1);
        tcp(3).opens(&mut rig);
        tcp(4).fails(&mut rig, SYN, DropReason::ConnectionRate);
    }
}

#[test]
fn packets_per_second_of_a_service() {
    for family in Family::BOTH {
        let limits = Limits { packets_per_second: 3, ..Limits::default() };
        let mut rig = limited(1, Mode::Nat, limits);
        let talk = Talk::new(family, 1, 5);
        talk.opens(&mut rig);
        // The server may say what it likes.
        talk.answers(&mut rig, SYN_ACK);
        talk.answers(&mut rig, SYN_ACK);
        talk.passes(&mut rig, ACK, false);
        talk.passes(&mut rig, ACK, false);
        talk.fails(&mut rig, ACK, DropReason::PacketRate);
        talk.answers(&mut rig, ACK);
        rig.pass(334);
        talk.passes(&mut rig, ACK, false);
        talk.fails(&mut rig, ACK, DropReason::PacketRate);
    }
}

#[test]
fn half_open_sessions_are_counted_through_every_end() {
    for family in Family::BOTH {
        let limits = Limits { half_open: 2, ..Limits::default() };
        let mut rig = limited(1, Mode::Nat, limits);
        let talk = |port| Talk::new(family, 1, port);
        let is_full = |rig: &mut Rig| talk(99).fails(rig, SYN, DropReason::HalfOpenLimit);
        talk(1).opens(&mut rig);
        talk(2).opens(&mut rig);
        assert_eq!(half_open(&rig), 2);
        is_full(&mut rig);
        // UDP has no handshake.
        talk(3).udp().opens(&mut rig);
        assert_eq!(half_open(&rig), 2);
        // The server's part alone does not complete it.
        talk(1).answers(&mut rig, SYN_ACK);
        is_full(&mut rig);
        talk(1).passes(&mut rig, ACK, false);
        assert_eq!(half_open(&rig), 1);
        talk(3).opens(&mut rig);
        is_full(&mut rig);
        // Refused by the server.
        talk(3).answers(&mut rig, RST | ACK);
        assert_eq!(half_open(&rig), 1);
        // The rest of the first connection's life changes nothing.
        talk(1).answers(&mut rig, FIN_ACK);
        talk(1).passes(&mut rig, FIN_ACK, false);
        assert_eq!(half_open(&rig), 1);
        // Given up.
        rig.pass(TIMEOUTS.tcp_syn + 500);
        assert_eq!(half_open(&rig), 0);
        talk(5).opens(&mut rig);
        talk(6).opens(&mut rig);
        is_full(&mut rig);
        // A new limit counts those there are.
        rig.net.snapshot.services[0].limits.half_open = 3;
        rig.reconfigure();
        talk(7).opens(&mut rig);
        is_full(&mut rig);
        rig.pass(TIMEOUTS.tcp_established + 10_000);
        assert_eq!((half_open(&rig), rig.sessions()), (0, 0));
    }
}

#[test]
fn half_open_in_direct_return_ends_with_the_clients_ack() {
    let limits = Limits { half_open: 1, ..Limits::default() };
    let mut rig = limited(1, Mode::Dr, limits);
    let talk = |port| Talk::new(Family::V4, 1, port);
    talk(1).opens(&mut rig);
    talk(2).fails(&mut rig, SYN, DropReason::HalfOpenLimit);
    talk(1).passes(&mut rig, ACK, false);
    talk(2).opens(&mut rig);
    assert_eq!(half_open(&rig), 1);
}

#[test]
fn a_connection_taken_up_in_mid_stream_is_not_half_open() {
    let limits = Limits { half_open: 1, source_half_open: 1, ..Limits::default() };
    let mut rig = limited(1, Mode::Nat, limits);
    rig.net.snapshot.services[0].policy.mid_stream = MidStream::Adopt;
    rig.reconfigure();
    for port in 1..4 {
        Talk::new(Family::V4, 1, port).passes(&mut rig, ACK, true);
    }
    assert_eq!(half_open(&rig), 0);
    Talk::new(Family::V4, 1, 4).opens(&mut rig);
    Talk::new(Family::V4, 1, 5).fails(&mut rig, SYN, DropReason::HalfOpenLimit);
}

#[test]
fn sources_have_limits_of_their_own() {
    for family in Family::BOTH {
        let limits = Limits {
            source_connections_per_second: 2,
            source_packets_per_second: 4,
            source_half_open: 3,
            source_mask: 24,
            source_mask_v6: 64,
            ..Limits::default()
        };
        let mut rig = limited(1, Mode::Nat, limits);
        // Two hosts of one network are one source.
        Talk::new(family, 0x0101, 5).opens(&mut rig);
        Talk::new(family, 0x0102, 5).opens(&mut rig);
        Talk::new(family, 0x0103, 5).fails(&mut rig, SYN, DropReason::SourceConnectionRate);
        Talk::new(family, 0x0201, 5).opens(&mut rig);
        // The third and fourth packet, then no more.
        Talk::new(family, 0x0101, 5).passes(&mut rig, SYN, false);
        Talk::new(family, 0x0102, 5).passes(&mut rig, SYN, false);
        Talk::new(family, 0x0101, 5).fails(&mut rig, SYN, DropReason::SourcePacketRate);
        Talk::new(family, 0x0201, 5).passes(&mut rig, SYN, false);
        rig.pass(1000);
        Talk::new(family, 0x0103, 5).opens(&mut rig);
        Talk::new(family, 0x0104, 5).fails(&mut rig, SYN, DropReason::SourceHalfOpenLimit);
        Talk::new(family, 0x0202, 5).opens(&mut rig);
        // One is refused, and there is room for another.
        Talk::new(family, 0x0101, 5).answers(&mut rig, RST | ACK);
        Talk::new(family, 0x0104, 5).opens(&mut rig);
        Talk::new(family, 0x0105, 5).fails(&mut rig, SYN, DropReason::SourceHalfOpenLimit);
        rig.pass(TIMEOUTS.tcp_syn + 500);
        for host in [0x0105, 0x0106] {
            Talk::new(family, host, 5).opens(&mut rig);
        }
    }
}

#[test]
fn a_source_that_is_refused_takes_nothing_from_the_others() {
    let limits =
        Limits { connections_per_second: 3, source_connections_per_second: 1, ..Limits::default() };
    let mut rig = limited(1, Mode::Nat, limits);
    let talk = |host| Talk::new(Family::V4, host, 5);
    talk(1).opens(&mut rig);
    for port in 6..20 {
        let again = Talk::new(Family::V4, 1, port);
        again.fails(&mut rig, SYN, DropReason::SourceConnectionRate);
    }
    talk(2).opens(&mut rig);
    talk(3).opens(&mut rig);
    // The fourth keeps its own token for when the service has one.
    talk(4).fails(&mut rig, SYN, DropReason::ConnectionRate);
    rig.pass(334);
    talk(4).opens(&mut rig);
}

#[test]
fn limits_are_split_over_the_workers() {
    let limits = Limits { connections_per_second: 20, half_open: 9, ..Limits::default() };
    let mut rig = limited(2, Mode::Nat, limits);
    let mut passed = [0; 2];
    for port in 1..200 {
        let talk = Talk::new(Family::V4, 1, port);
        let bytes = rig.by_client(talk.packet(SYN)).bytes();
        passed[rig.net.owner(talk.client)] += rig.send(FRONT, &bytes).len();
    }
    // Half of nine, rounded up, on each.
    assert_eq!(passed, [5, 5]);
    assert_eq!(half_open(&rig), 10);
    assert_eq!(rig.changes().0["drop.half_open_limit"], 189);
}

/// More sources than a worker remembers: the table stays as large as it is, a source that was
/// forgotten begins anew, and one with half-open sessions is not forgotten.
#[test]
fn more_sources_than_there_is_room_for() {
    let limits = Limits { source_half_open: 1, ..Limits::default() };
    let mut net = Net::two_armed(1).usual(Mode::Nat);
    net.snapshot.services[0].limits = limits;
    let mut rig = Rig::with_sessions(net, 100_000).warmed();
    // As many as there is room for and half as many again: some sets are full by then.
    let client = |n: u32| SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into(), 5);
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    const SOURCES: u32 = 98_304;
    for n in 0..SOURCES {
        let bytes = rig.by_client(tcp(client(n), vip, SYN)).bytes();
        rig.arrive(shunt::io::memory::MemoryFrame::new(FRONT, &bytes));
        if n % 4096 == 0 {
            rig.settle();
            rig.sent();
        }
    }
    rig.settle();
    assert_eq!(half_open(&rig), u64::from(SOURCES));
    let untracked = rig.changes().0["sources_untracked"];
    assert!((32_768..49_152).contains(&untracked), "{untracked}");
    // Every one that has a place is held to its limit, the others are not.
    for n in 0..1000 {
        let other_port = SocketAddr::new(client(n).ip(), 6);
        let bytes = rig.by_client(tcp(other_port, vip, SYN)).bytes();
        rig.arrive(shunt::io::memory::MemoryFrame::new(FRONT, &bytes));
    }
    rig.settle();
    let changes = rig.changes();
    assert!(changes.0["drop.source_half_open_limit"] >= 980, "{changes:?}");
    // All go as they came.
    for _ in 0..2000 {
        rig.pass(20);
    }
    assert_eq!((half_open(&rig), rig.sessions()), (0, 0));
    rig.sent();
    let again = rig.by_client(tcp(client(5), vip, SYN)).bytes();
    assert_eq!(rig.send(FRONT, &again).len(), 1);
}

/// A packet that another worker is asked about takes one token, not two.
#[test]
fn what_comes_back_from_another_worker_is_counted_once() {
    use shunt::datapath::selection::Persistence;
    let none = Limits::default();
    let cases = [
        (Limits { connections_per_second: 8, ..none }, DropReason::ConnectionRate),
        (Limits { source_connections_per_second: 8, ..none }, DropReason::SourceConnectionRate),
        (Limits { packets_per_second: 8, ..none }, DropReason::PacketRate),
    ];
    for (limits, why) in cases {
        for family in Family::BOTH {
            let mut net = Net::two_armed(2).usual(Mode::Nat);
            let service = &mut net.snapshot.services[1];
            service.limits = limits;
            service.selection.persistence =
                Some(Persistence { life_ms: 60_000, mask_v4: 32, mask_v6: 128, scope: 0 });
            let mut rig = Rig::new(net);
            let client = |port| SocketAddr::new(family.client(), port);
            let knows = rig.net.owner(client(0));
            let ports: Vec<u16> =
                (40_000..).filter(|port| rig.net.owner(client(*port)) != knows).take(5).collect();
            for (n, port) in ports.into_iter().enumerate() {
                let packet = udp(client(port), SocketAddr::new(family.vip(), 53));
                let bytes = rig.by_client(packet).bytes();
                rig.changes();
                // Four are the worker's part of eight.
                assert_eq!(rig.send(FRONT, &bytes).len(), usize::from(n < 4), "{why} {n}");
                let dropped = rig.changes().0.remove(&format!("drop.{why}"));
                assert_eq!(dropped, (n == 4).then_some(1));
            }
        }
    }
}

/// What was counted by source is forgotten with the limit: sessions that end without one would
/// otherwise be counted for ever.
#[test]
fn a_source_limit_that_goes_and_comes_back_begins_anew() {
    for family in Family::BOTH {
        let limits = Limits { source_half_open: 2, source_mask_v6: 128, ..Limits::default() };
        let mut rig = limited(1, Mode::Nat, limits);
        for port in 0..2 {
            Talk::new(family, 1, 1000 + port).opens(&mut rig);
        }
        let limit = |rig: &mut Rig, limits| {
            rig.net.snapshot.services[0].limits = limits;
            rig.net.snapshot.services[1].limits = limits;
            rig.reconfigure();
        };
        limit(&mut rig, Limits::default());
        rig.pass(TIMEOUTS.tcp_syn + 1000);
        assert_eq!(rig.sessions(), 0);
        limit(&mut rig, limits);
        assert_eq!(rig.workers[0].pipeline().half_open(), (0, 0));
        for port in 0..2 {
            Talk::new(family, 1, 1000 + port).opens(&mut rig);
        }
    }
}

/// The ports of a first fragment are those of its session: it counts, and carries what it has to.
#[test]
fn fragments_count_as_packets() {
    for family in Family::BOTH {
        let limits = Limits { packets_per_second: 3, ..Limits::default() };
        let mut rig = limited(1, Mode::Nat, limits);
        let talk = Talk::new(family, 1, 5).udp();
        talk.opens(&mut rig);
        let query = rig.by_client(talk.packet(0).payload(&[7; 40])).bytes();
        let passed: usize = (0..4)
            .map(|ident| {
                let pieces = split(&query, ident, 24);
                pieces.iter().map(|piece| rig.send(FRONT, piece).len()).sum::<usize>()
            })
            .sum();
        assert_eq!(passed, 2);
        assert_eq!(rig.changes().0["drop.packet_rate"], 6);
        rig.assert_balanced();
    }
}
