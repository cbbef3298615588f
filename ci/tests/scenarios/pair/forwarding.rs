//! Whichever node a packet of a connection passes through, the same bytes leave, in every mode.

use std::net::{IpAddr, SocketAddr};

use shunt::session::Mode;
use shunt::wire::flow::Protocol;

use super::Wire;
use super::talk::Talk;
use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, Packet, SYN, SYN_ACK, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net};
use crate::rig::Rig;

/// Which node gets the packets after the first one: a bit each.
const ROUTES: [u32; 4] = [0b1111_1111, 0b0101_0101, 0b0011_1001, 0b1000_0110];
const WORKERS: [[usize; 2]; 3] = [[1, 1], [1, 2], [2, 3]];

const TWO_WAY: [Mode; 2] = [Mode::Nat, Mode::FullNat];
const ONE_WAY: [Mode; 5] = [Mode::Dr, Mode::Ipip, Mode::Gre, Mode::Gue, Mode::Vxlan];

fn nothing() -> [Changes; 2] {
    [Changes::none(), Changes::none()]
}

/// The usual services of a mode; those of tunnels with what tunnels need.
pub fn usual(mode: Mode) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers).usual(mode);
        for service in &mut net.snapshot.services {
            (service.tunnel_port, service.vni) = (4789, 0x01_0203);
        }
        for server in &mut net.snapshot.servers {
            server.inner_mac = [2, 0, 0, 0, 3, 11];
        }
        net
    }
}

/// NAT64 (servers of IPv6) or NAT46.
pub fn crossed(servers: Family) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers);
        let clients = if servers == Family::V4 { Family::V6 } else { Family::V4 };
        for (protocol, port, rport) in [(Protocol::Tcp, 80, 8080), (Protocol::Udp, 53, 5353)] {
            let listen = SocketAddr::new(clients.vip(), port);
            let service = net.service(protocol, &[listen], Mode::FullNat);
            net.server(service, servers.server(11), rport);
            net.snapshot.services[usize::from(service.0)].crossed = true;
        }
        net.lip(BACK, servers.lip());
        net.snapshot.crosses = true;
        net
    }
}

/// Source and destination of a frame that left for a server.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12] == 0x08 {
        let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
        (SocketAddr::new(ip(26), port(34)), SocketAddr::new(ip(30), port(36)))
    } else {
        let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
        (SocketAddr::new(ip(22), port(54)), SocketAddr::new(ip(38), port(56)))
    }
}

/// What the server sees.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub local: SocketAddr,
    pub server: SocketAddr,
}

impl Talk {
    /// A packet of the client.
    #[track_caller]
    pub fn client(&mut self, what: &str, node: usize, packet: Packet) {
        let outer = packet.src;
        let make = move |rig: &Rig| rig.by_client(packet.clone()).bytes();
        self.send(what, node, FRONT, outer, make, nothing());
    }

    /// A packet of server 11.
    #[track_caller]
    pub fn server(&mut self, what: &str, node: usize, packet: Packet) {
        let outer = packet.dst;
        let make = move |rig: &Rig| rig.by_server(11, packet.clone()).bytes();
        self.send(what, node, BACK, outer, make, nothing());
    }

    /// The client's first packet. Gives what the server sees.
    #[track_caller]
    pub fn begin(&mut self, packet: Packet) -> Ends {
        let client = packet.src;
        let make = move |rig: &Rig| rig.by_client(packet.clone()).bytes();
        let sent = self.open("the first", self.opener, FRONT, client, make);
        assert_eq!(sent.len(), 1);
        let (local, server) = ends(&sent[0].1);
        Ends { local, server }
    }
}

/// A connection from its SYN to its last acknowledgment, with data both ways.
fn connection(talk: &mut Talk, route: u32, client: SocketAddr, vip: SocketAddr) {
    let ends = talk.begin(tcp(client, vip, SYN));
    let mut step = 0;
    let opener = talk.opener;
    let mut next = || {
        step += 1;
        if route >> (step - 1) & 1 == 1 { 1 - opener } else { opener }
    };
    let c = |flags, seq, ack| tcp(client, vip, flags).seq(ISN + seq).ack(ISN + ack);
    let s = |flags, seq, ack| tcp(ends.server, ends.local, flags).seq(ISN + seq).ack(ISN + ack);
    talk.server("SYN-ACK", next(), s(SYN_ACK, 0, 1));
    talk.client("ACK", next(), c(ACK, 1, 1));
    talk.client("request", next(), c(PSH_ACK, 1, 1).payload(b"GET /"));
    talk.server("response", next(), s(PSH_ACK, 1, 6).payload(b"200 OK"));
    talk.client("FIN", next(), c(FIN_ACK, 6, 7));
    talk.server("FIN", next(), s(FIN_ACK, 7, 7));
    talk.client("the last ACK", next(), c(ACK, 7, 8));
}

fn datagrams(talk: &mut Talk, route: u32, client: SocketAddr, vip: SocketAddr) {
    let ends = talk.begin(udp(client, vip));
    for step in 0..4 {
        let node = if route >> step & 1 == 1 { 1 - talk.opener } else { talk.opener };
        talk.server("answer", node, udp(ends.server, ends.local));
        talk.client("question", 1 - node, udp(client, vip).payload(b"another"));
    }
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.vip(), port)
}

fn client(family: Family, n: u16) -> SocketAddr {
    SocketAddr::new(family.client(), 40_000 + n)
}

fn two_way(workers: [usize; 2], wire: Wire, mode: Mode) {
    for opener in 0..2 {
        let mut talk = Talk::new(workers, wire, opener, usual(mode));
        for (n, route) in (0u16..).zip(ROUTES) {
            for family in Family::BOTH {
                connection(&mut talk, route, client(family, n), vip(family, 80));
                datagrams(&mut talk, route, client(family, n), vip(family, 53));
            }
        }
        let copies = 4 * ROUTES.len() as u64;
        assert_eq!(talk.pair.owns(opener), (copies, 0));
        assert_eq!(talk.pair.owns(1 - opener), (0, copies));
        talk.pair.settle();
    }
}

#[test]
fn in_nat_either_node_forwards() {
    for workers in WORKERS {
        two_way(workers, Wire::Own, Mode::Nat);
    }
}

#[test]
fn in_fullnat_either_node_forwards() {
    for workers in WORKERS {
        two_way(workers, Wire::Own, Mode::FullNat);
    }
}

#[test]
fn the_channel_may_be_on_any_port() {
    for wire in [Wire::Front, Wire::Back, Wire::OwnV6] {
        for mode in TWO_WAY {
            two_way([2, 1], wire, mode);
        }
    }
}

#[test]
fn in_one_way_modes_either_node_forwards() {
    for (workers, wire) in [([1, 1], Wire::Back), ([2, 3], Wire::Own)] {
        for mode in ONE_WAY {
            let mut talk = Talk::new(workers, wire, 0, usual(mode));
            for (n, route) in (0u16..).zip(ROUTES) {
                for family in Family::BOTH {
                    let (from, to) = (client(family, n), vip(family, 80));
                    let first = move |rig: &Rig| rig.by_client(tcp(from, to, SYN)).bytes();
                    talk.open("SYN", 0, FRONT, from, first);
                    let c = |flags, seq, ack| tcp(from, to, flags).seq(ISN + seq).ack(ISN + ack);
                    let node = |step: u32| (route >> step & 1) as usize;
                    talk.client("ACK", node(0), c(ACK, 1, 1));
                    talk.client("request", node(1), c(PSH_ACK, 1, 1).payload(b"GET /"));
                    talk.client("ACK of data", node(2), c(ACK, 6, 1000));
                    talk.client("FIN", node(3), c(FIN_ACK, 6, 2000));
                    talk.client("the last ACK", node(4), c(ACK, 7, 2001));
                    let (from, to) = (client(family, n), vip(family, 53));
                    let first = move |rig: &Rig| rig.by_client(udp(from, to)).bytes();
                    talk.open("question", 0, FRONT, from, first);
                    talk.client("another", node(5), udp(from, to));
                    talk.client("another", node(6), udp(from, to));
                }
            }
            talk.pair.settle();
        }
    }
}

#[test]
fn between_families_either_node_forwards() {
    for workers in [[1, 1], [2, 3]] {
        for (servers, clients) in [(Family::V6, Family::V4), (Family::V4, Family::V6)] {
            for opener in 0..2 {
                let mut talk = Talk::new(workers, Wire::Own, opener, crossed(servers));
                for (n, route) in (0u16..).zip(ROUTES) {
                    connection(&mut talk, route, client(clients, n), vip(clients, 80));
                    datagrams(&mut talk, route, client(clients, n), vip(clients, 53));
                }
                talk.pair.settle();
            }
        }
    }
}
