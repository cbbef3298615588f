//! NAT64 and NAT46: clients of one family, servers of the other, byte for byte.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use shunt::datapath::limits::Limits;
use shunt::datapath::mirror::MirrorId;
use shunt::datapath::selection::Persistence;
use shunt::datapath::snapshot::Mac;
use shunt::sched::SchedulerKind;
use shunt::session::{Mode, ServerId, ServiceId};
use shunt::wire::DropReason;
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{mend_ipv4_checksum, packet_too_big, source_port, time_exceeded};
use crate::mirror::{SENSOR, with_sensor};
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, server_mac};
use crate::rig::{Rig, without_headroom};

/// TCP on port 80 and UDP on port 53 of the VIP of the clients' family; server 11 of the other, or
/// of one family alone for clients of both.
pub fn net(workers: usize, servers: Family, both: bool) -> Net {
    let mut net = Net::two_armed(workers);
    for (protocol, port, rport) in [(Protocol::Tcp, 80, 8080), (Protocol::Udp, 53, 5353)] {
        let clients = Family::BOTH.into_iter().filter(|f| both || *f != servers);
        let listen: Vec<_> = clients.map(|f| SocketAddr::new(f.vip(), port)).collect();
        let service = net.service(protocol, &listen, Mode::FullNat);
        net.server(service, servers.server(11), rport);
        net.snapshot.services[usize::from(service.0)].crossed = true;
    }
    net.lip(BACK, servers.lip());
    net.snapshot.crosses = true;
    net
}

/// A packet with all that the two families have in different places.
#[derive(Clone, Debug)]
pub struct Packet {
    pub macs: (Mac, Mac),
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: Protocol,
    /// Traffic class or type of service.
    pub class: u8,
    pub ttl: u8,
    pub syn: bool,
    pub data: Vec<u8>,
}

impl Packet {
    /// As a host sends it: IPv4 with an identification and DF.
    pub fn sent(&self) -> Vec<u8> {
        self.bytes(|_| 0x1234, true)
    }

    /// As the switch makes it: IPv4 with the transport checksum as identification, and DF when it
    /// is longer than an IPv6 packet of 1280 bytes becomes.
    pub fn made(&self) -> Vec<u8> {
        let long = self.bytes(|sum| sum, false).len() - 14 > 1260;
        self.bytes(|sum| sum, long)
    }

    /// As the switch quotes it where it was IPv4.
    pub fn quoted(&self) -> Vec<u8> {
        let long = self.bytes(|sum| sum, false).len() - 14 > 1260;
        self.bytes(|_| 0, long)[14..].to_vec()
    }

    pub fn bytes(&self, ident: impl Fn(u16) -> u16, dont_fragment: bool) -> Vec<u8> {
        let start = PacketBuilder::ethernet2(self.macs.0, self.macs.1);
        let headers = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (src.octets(), dst.octets());
                let mut header = Ipv4Header::new(0, self.ttl, IpNumber(0), src, dst).unwrap();
                header.dscp = (self.class >> 2).try_into().unwrap();
                header.ecn = (self.class & 3).try_into().unwrap();
                header.dont_fragment = dont_fragment;
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: self.class,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Default::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            _ => panic!("two families"),
        };
        let (ip, mut bytes) = (start.ip(headers), Vec::new());
        let (sport, dport) = (self.src.port(), self.dst.port());
        match self.protocol {
            Protocol::Udp => ip.udp(sport, dport).write(&mut bytes, &self.data).unwrap(),
            Protocol::Tcp => {
                let tcp = ip.tcp(sport, dport, 0x1020_3040, 4096);
                let tcp = if self.syn { tcp.syn() } else { tcp.ack(0x5060_7080) };
                tcp.write(&mut bytes, &self.data).unwrap();
            }
            Protocol::Icmp => panic!("no service has it"),
        }
        if self.src.is_ipv4() {
            let at = 34 + if self.protocol == Protocol::Udp { 6 } else { 16 };
            let sum = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[18..20].copy_from_slice(&ident(sum).to_be_bytes());
            mend_ipv4_checksum(&mut bytes);
        }
        bytes
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }
}

/// One conversation.
pub struct Talk {
    pub rig: Rig,
    pub clients: Family,
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub local: SocketAddr,
    pub server: SocketAddr,
}

impl Talk {
    pub fn new(workers: usize, clients: Family, protocol: Protocol, port: u16, both: bool) -> Self {
        let servers = if clients == Family::V4 { Family::V6 } else { Family::V4 };
        let net = net(workers, servers, both);
        let (vip, rport) = if protocol == Protocol::Tcp { (80, 8080) } else { (53, 5353) };
        let mut talk = Talk {
            rig: Rig::new(net.clone()),
            clients,
            protocol,
            client: SocketAddr::new(clients.client(), port),
            vip: SocketAddr::new(clients.vip(), vip),
            local: SocketAddr::new(servers.lip(), 0),
            server: SocketAddr::new(servers.server(11), rport),
        };
        let mut twin = Rig::new(net);
        let sent = twin.send(FRONT, &talk.by_client(true).sent());
        assert_eq!(sent.len(), 1);
        talk.local.set_port(source_port(&sent[0].1));
        // The answer finds its worker: one rule in both families.
        assert_eq!(talk.rig.net.owner(talk.local), talk.rig.net.owner(talk.client));
        talk
    }

    fn packet(&self, syn: bool) -> Packet {
        Packet {
            macs: (ROUTER_MAC, FRONT_MAC),
            src: self.client,
            dst: self.vip,
            protocol: self.protocol,
            class: 0xb9,
            ttl: 64,
            syn,
            data: b"odd".to_vec(),
        }
    }

    pub fn by_client(&self, syn: bool) -> Packet {
        if syn { self.packet(syn).data(b"") } else { self.packet(syn) }
    }

    pub fn to_server(&self, packet: &Packet) -> Packet {
        let macs = (BACK_MAC, server_mac(11));
        Packet { macs, src: self.local, dst: self.server, ttl: packet.ttl - 1, ..packet.clone() }
    }

    pub fn by_server(&self) -> Packet {
        let macs = (server_mac(11), BACK_MAC);
        Packet { macs, src: self.server, dst: self.local, ..self.packet(false) }
    }

    pub fn to_client(&self, packet: &Packet) -> Packet {
        let macs = (FRONT_MAC, ROUTER_MAC);
        Packet { macs, src: self.vip, dst: self.client, ttl: packet.ttl - 1, ..packet.clone() }
    }

    pub fn id(&self) -> ServerId {
        ServerId(if self.protocol == Protocol::Tcp { 0 } else { 1 })
    }

    pub fn forward(&mut self, what: &str, bytes: &[u8], out: Vec<u8>, opens: bool) {
        let mut changes = Changes::none().forward(self.id(), &out).tx(BACK, &out);
        if opens {
            changes = changes.session(self.id(), true, 1);
        }
        self.rig.step(what, FRONT, bytes, Some(self.client), changes, &[(BACK, out)]);
    }

    pub fn reply(&mut self, what: &str, bytes: &[u8], out: Vec<u8>) {
        let changes = Changes::none().reply(self.id(), &out).tx(FRONT, &out);
        self.rig.step(what, BACK, bytes, Some(self.local), changes, &[(FRONT, out)]);
    }
}

pub fn talks() -> impl Iterator<Item = Talk> {
    [1, 2, 4].into_iter().flat_map(|workers| {
        Family::BOTH.into_iter().flat_map(move |clients| {
            [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| Talk::new(workers, clients, protocol, 40_000, false))
        })
    })
}

#[test]
fn there_and_back() {
    for mut talk in talks() {
        let what = format!("{:?} {}", talk.clients, talk.protocol);
        let first = talk.by_client(true);
        let out = talk.to_server(&first).made();
        talk.forward(&what, &first.sent(), out, true);
        // The last is one byte longer, with the headers of TCP, than may be fragmented on its way.
        for data in [&b""[..], b"x", b"GET / HTTP/1.1\r\n", &[7; 1220], &[7; 1221], &[7; 1400]] {
            let answer = talk.by_server().data(data);
            let out = talk.to_client(&answer).made();
            talk.reply(&what, &answer.sent(), out);
            let more = talk.by_client(false).data(data);
            let out = talk.to_server(&more).made();
            talk.forward(&what, &more.sent(), out, false);
        }
        // With Ethernet padding.
        let mut padded = talk.by_client(false).data(b"").sent();
        let out = talk.to_server(&talk.by_client(false).data(b"")).made();
        padded.resize(padded.len() + 7, 0xee);
        assert_eq!(talk.rig.send(FRONT, &padded)[0].1[..out.len()], out);
    }
}

#[test]
fn a_datagram_without_a_checksum_gets_one() {
    let mut talk = Talk::new(2, Family::V4, Protocol::Udp, 40_000, false);
    let query = talk.by_client(false);
    let mut without = query.sent();
    without[40..42].fill(0);
    let out = talk.to_server(&query).made();
    talk.forward("without", &without, out, true);
}

/// IPv6 headers are longer than those of IPv4.
#[test]
fn without_headroom_ipv4_does_not_become_ipv6() {
    let mut talk = Talk::new(1, Family::V4, Protocol::Udp, 40_000, false);
    let query = talk.by_client(false);
    let changes = Changes::none().dropped(DropReason::NoHeadroom);
    let frame = without_headroom(FRONT, &query.sent());
    talk.rig.step_frame("no headroom", frame, Some(talk.client), changes, &[]);
    let out = talk.to_server(&query).made();
    talk.forward("with", &query.sent(), out, true);
}

#[test]
fn servers_of_one_family_serve_both() {
    for workers in [1, 2] {
        for servers in Family::BOTH {
            let mut rig = Rig::new(net(workers, servers, true));
            let mut used = std::collections::HashSet::new();
            for n in 0..150 {
                for clients in Family::BOTH {
                    let macs = (ROUTER_MAC, FRONT_MAC);
                    let query = Packet {
                        macs,
                        src: SocketAddr::new(clients.client(), 20_000 + n),
                        dst: SocketAddr::new(clients.vip(), 53),
                        protocol: Protocol::Udp,
                        class: 0,
                        ttl: 64,
                        syn: false,
                        data: b"query".to_vec(),
                    };
                    let sent = rig.send(FRONT, &query.sent());
                    assert_eq!(sent.len(), 1);
                    let local = SocketAddr::new(servers.lip(), source_port(&sent[0].1));
                    assert!(used.insert(local), "{local} is used by both");
                    let answer = Packet {
                        macs: (server_mac(11), BACK_MAC),
                        src: SocketAddr::new(servers.server(11), 5353),
                        dst: local,
                        ..query.clone()
                    };
                    let out = Packet {
                        macs: (FRONT_MAC, ROUTER_MAC),
                        src: query.dst,
                        dst: query.src,
                        ttl: 63,
                        ..query
                    };
                    let plain = clients == servers;
                    let out = if plain { out.sent() } else { out.made() };
                    assert_eq!(rig.send(BACK, &answer.sent()), [(FRONT, out)]);
                }
            }
            assert_eq!(rig.sessions(), 300);
            rig.pass(33_000);
            assert_eq!(rig.sessions(), 0);
            assert_eq!(rig.active(ServerId(1)), 0);
        }
    }
}

/// The ports of both tables towards one server are all there are, and come back.
#[test]
fn both_tables_have_half_of_the_ports() {
    let servers = Family::V4;
    let mut rig = Rig::with_sessions(net(1, servers, true), 70_000).warmed();
    let mut counts = [0, 0];
    for round in 0..2 {
        counts = [0, 0];
        for (clients, count) in Family::BOTH.into_iter().zip(&mut counts) {
            for port in 1024..=u16::MAX {
                let query = Packet {
                    macs: (ROUTER_MAC, FRONT_MAC),
                    src: SocketAddr::new(clients.client(), port),
                    dst: SocketAddr::new(clients.vip(), 53),
                    protocol: Protocol::Udp,
                    class: 0,
                    ttl: 64,
                    syn: false,
                    data: Vec::new(),
                };
                *count += rig.send(FRONT, &query.sent()).len();
            }
        }
        let usage = rig.workers[0].pipeline().local_ports(ServerId(1));
        assert_eq!(usage, (counts[0] + counts[1], 32_256), "round {round}");
        for _ in 0..60 {
            rig.pass(33_000);
        }
        assert_eq!(rig.sessions(), 0);
    }
    assert_eq!(counts, [16_128, 16_128]);
}

#[test]
fn errors_go_to_the_sender_in_its_family() {
    for mut talk in talks() {
        let (front, mtu) = (talk.clients.front(), 1500);
        let macs = (FRONT_MAC, ROUTER_MAC);
        // The hop limit runs out at the first packet: there is no session.
        let last = talk.by_client(true).ttl(1);
        let frame = last.sent();
        let out = time_exceeded(macs, front, talk.client.ip(), &frame);
        let dropped = Changes::none().dropped(DropReason::HopLimitExceeded).originated(FRONT, &out);
        talk.rig.step("TTL", FRONT, &frame, Some(talk.client), dropped, &[(FRONT, out)]);
        let first = talk.by_client(true);
        let out = talk.to_server(&first).made();
        talk.forward("first", &first.sent(), out, true);
        if talk.clients == Family::V4 {
            // As IPv6 it would be 20 bytes longer than the way out takes.
            let long = talk.by_client(false).data(&[7; 1480 - 20]);
            let frame = long.sent();
            assert!(frame.len() <= 1514 && frame.len() + 20 > 1514);
            let out = packet_too_big(macs, front, talk.client.ip(), &frame, mtu - 20);
            let out = out[..out.len().min(14 + 576)].to_vec();
            let sent = talk.rig.send(FRONT, &frame);
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0].1[..34], mended(&out)[..34]);
            assert_eq!(sent[0].1[34..36], [3, 4]);
            assert_eq!(sent[0].1[40..42], 1480u16.to_be_bytes());
        }
    }
}

/// The start of an error that was cut to 576 bytes.
fn mended(error: &[u8]) -> Vec<u8> {
    let mut error = error.to_vec();
    let length = (error.len() - 14) as u16;
    error[16..18].copy_from_slice(&length.to_be_bytes());
    mend_ipv4_checksum(&mut error);
    error
}

#[test]
fn what_is_of_no_session_is_dropped_by_name() {
    let mut talk = Talk::new(2, Family::V6, Protocol::Tcp, 40_000, false);
    // A stray answer.
    let stray = talk.by_server().sent();
    let changes = Changes::none().dropped(DropReason::NoSession);
    talk.rig.step("stray", BACK, &stray, Some(talk.local), changes, &[]);
    // Mid-stream.
    let middle = talk.by_client(false).sent();
    let changes = Changes::none().dropped(DropReason::NoSession);
    talk.rig.step("middle", FRONT, &middle, Some(talk.client), changes, &[]);
    // Addresses that no wire has.
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(a) => IpAddr::V6(a.to_ipv6_mapped()),
        v6 => v6,
    };
    for (src, dst) in [
        (mapped(Family::V4.client()), Family::V6.vip()),
        (Family::V6.client(), mapped(Family::V4.vip())),
        (mapped(Family::V4.server(11)), mapped(Family::V4.lip())),
    ] {
        let (src, dst) = (SocketAddr::new(src, 9999), SocketAddr::new(dst, 80));
        let forged = Packet { src, dst, ..talk.by_client(true) }.sent();
        let changes = Changes::none().dropped(DropReason::Martian);
        talk.rig.step("mapped", FRONT, &forged, Some(src), changes, &[]);
    }
}

/// A query of an IPv4 client to a service with IPv6 servers, and how many packets that makes.
fn asks(rig: &mut Rig, client: &str) -> Vec<(shunt::datapath::snapshot::PortId, Vec<u8>)> {
    let query = Packet {
        macs: (ROUTER_MAC, FRONT_MAC),
        src: client.parse().unwrap(),
        dst: SocketAddr::new(Family::V4.vip(), 53),
        protocol: Protocol::Udp,
        class: 0,
        ttl: 64,
        syn: false,
        data: b"query".to_vec(),
    };
    rig.send(FRONT, &query.sent())
}

/// Mapped addresses have their first 96 bits in common: the masks are those of IPv4.
#[test]
fn ipv4_clients_of_ipv6_servers_are_limited_one_by_one() {
    let mut net = net(1, Family::V6, false);
    for service in &mut net.snapshot.services {
        service.limits = Limits { source_connections_per_second: 1, ..Limits::default() };
    }
    let mut rig = Rig::new(net);
    assert_eq!(asks(&mut rig, "198.51.100.7:1000").len(), 1);
    assert_eq!(asks(&mut rig, "198.51.100.7:1001").len(), 0);
    assert_eq!(rig.changes().0["drop.source_connection_rate"], 1);
    assert_eq!(asks(&mut rig, "198.51.100.8:1000").len(), 1);
}

#[test]
fn ipv4_clients_of_ipv6_servers_are_remembered_one_by_one() {
    for workers in [1, 2] {
        let mut net = net(workers, Family::V6, false);
        net.server(ServiceId(1), Family::V6.server(12), 5353);
        net.snapshot.services[1].scheduler = SchedulerKind::Rr;
        net.snapshot.services[1].selection.persistence =
            Some(Persistence { life_ms: 60_000, mask_v4: 24, mask_v6: 64, scope: 1 });
        let mut rig = Rig::new(net);
        let mut server_of = |client: &str| asks(&mut rig, client)[0].1[53];
        let servers: Vec<u8> = (0..8).map(|n| server_of(&format!("198.51.{n}.7:1000"))).collect();
        assert!(servers.iter().any(|s| *s != servers[0]), "{servers:?}");
        for (n, server) in servers.iter().enumerate() {
            assert_eq!(server_of(&format!("198.51.{n}.8:1001")), *server);
        }
    }
}

/// A sensor sees both families as they came, but for identification, Don't Fragment and checksum of
/// IPv4 headers.
#[test]
fn a_mirrored_service_between_families() {
    for clients in Family::BOTH {
        let mut talk = Talk::new(1, clients, Protocol::Udp, 40_000, false);
        let mut net = with_sensor(talk.rig.net.clone(), 1, None);
        for service in &mut net.snapshot.services {
            service.mirror = Some(MirrorId(0));
        }
        talk.rig = Rig::new(net);
        let (query, answer) = (talk.by_client(true).sent(), talk.by_server().sent());
        for (port, bytes) in [(FRONT, &query), (BACK, &answer), (FRONT, &query)] {
            let sent = talk.rig.send(port, bytes);
            let seen = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                if bytes[12..14] == [8, 0] {
                    bytes[18..22].fill(0);
                    bytes[24..26].fill(0);
                }
                bytes
            };
            let copies = sent.iter().filter(|(port, _)| *port == SENSOR);
            let copies: Vec<_> = copies.map(|(_, copy)| seen(copy)).collect();
            assert_eq!(copies, [seen(bytes)], "{clients:?}");
        }
    }
}
