//! Tunnels to real servers, byte for byte: every mode, with either family inside and outside.
//!
//! The expected outer headers are etherparse's, with every checksum; the flow hash is the switch's
//! choice and learnt from a twin.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason::{NeighborUnresolved, NoBuffer, NoHeadroom, PacketTooBig};
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::fragments::split;
use crate::frames::{
    ACK, FIN_ACK, PSH_ACK, SYN, icmp_error, mend_ipv4_checksum, packet_too_big, tcp, udp,
};
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, server_mac};
use crate::rig::{Rig, Sent, without_headroom};
use shunt::datapath::snapshot::PortId;
use shunt::io::memory::MemoryFrame;
use shunt::worker::control::{Command, Event, SessionQuery};

const MODES: [Mode; 4] = [Mode::Ipip, Mode::Gre, Mode::Gue, Mode::Vxlan];
const INNER_MAC: [u8; 6] = [2, 0, 0, 0, 3, 11];
const VNI: u32 = 0x01_0203;

fn tunnel_port(mode: Mode) -> u16 {
    if mode == Mode::Gue { 6080 } else { 4789 }
}

fn overhead(mode: Mode, outer: Family) -> usize {
    let ip = if outer == Family::V4 { 20 } else { 40 };
    ip + match mode {
        Mode::Ipip => 0,
        Mode::Gre => 4,
        Mode::Gue => 12,
        _ => 30,
    }
}

/// Services for both families: TCP port 80 with server 0, UDP port 53 with server 1, both of them of
/// the family `outer`.
fn net(mut net: Net, mode: Mode, outer: Family) -> Net {
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        let listen = Family::BOTH.map(|f| SocketAddr::new(f.vip(), port));
        let service = net.service(protocol, &listen, mode);
        let id = net.server(service, outer.server(11), port);
        net.snapshot.servers[usize::from(id.0)].inner_mac = INNER_MAC;
        let service = &mut net.snapshot.services[usize::from(service.0)];
        (service.tunnel_port, service.vni) = (tunnel_port(mode), VNI);
    }
    net
}

/// A conversation of a client of the family `inner`.
#[derive(Clone, Copy)]
struct Talk {
    mode: Mode,
    inner: Family,
    outer: Family,
    protocol: Protocol,
    client: SocketAddr,
}

impl Talk {
    fn new(mode: Mode, inner: Family, outer: Family, protocol: Protocol) -> Self {
        let client = SocketAddr::new(inner.client(), 40_001);
        Talk { mode, inner, outer, protocol, client }
    }

    fn id(&self) -> ServerId {
        ServerId(u16::from(self.protocol == Protocol::Udp))
    }

    /// A frame as it comes in.
    fn packet(&self, rig: &Rig, flags: u8, payload: &[u8]) -> Vec<u8> {
        let port = if self.protocol == Protocol::Tcp { 80 } else { 53 };
        let vip = SocketAddr::new(self.inner.vip(), port);
        let packet = match self.protocol {
            Protocol::Tcp => tcp(self.client, vip, flags),
            _ => udp(self.client, vip),
        };
        rig.by_client(packet.payload(payload)).bytes()
    }

    /// The frame that leaves for this one. `like` has the flow hash.
    fn outer(&self, rig: &Rig, frame: &[u8], ident: u16, like: &[u8]) -> Vec<u8> {
        let own =
            if rig.net.server_side() == FRONT { self.outer.front() } else { self.outer.back() };
        let packet = &frame[14..];
        let (class, may_fragment) = match self.inner {
            Family::V4 => (packet[1], packet[6] & 0x40 == 0),
            Family::V6 => (packet[0] << 4 | packet[1] >> 4, false),
        };
        let v6 = self.inner == Family::V6;
        let ether_type: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
        let protocol = if v6 { 41 } else { 4 };
        let mut within = match self.mode {
            Mode::Gre => vec![0, 0, ether_type[0], ether_type[1]],
            Mode::Gue => vec![0, protocol, 0, 0],
            Mode::Vxlan => {
                let mut header = vec![8, 0, 0, 0, 1, 2, 3, 0];
                header.extend(INNER_MAC);
                header.extend(rig.net.server_side_mac());
                header.extend(ether_type);
                header
            }
            _ => vec![],
        };
        within.extend(packet);
        let with_udp = matches!(self.mode, Mode::Gue | Mode::Vxlan);
        let ip_number = match self.mode {
            Mode::Ipip => IpNumber(protocol),
            Mode::Gre => IpNumber::GRE,
            _ => IpNumber::UDP,
        };
        let length = within.len() + if with_udp { 8 } else { 0 };
        let port_at = if self.outer == Family::V4 { 34 } else { 54 };
        let source_port = u16::from_be_bytes([like[port_at], like[port_at + 1]]);
        let udp_port = tunnel_port(self.mode);
        assert!(!with_udp || source_port >= 49_152);

        let mut out = Vec::new();
        out.extend(server_mac(11));
        out.extend(rig.net.server_side_mac());
        match (own, self.outer.server(11)) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend([8, 0]);
                let mut ip =
                    Ipv4Header::new(length as u16, 64, ip_number, src.octets(), dst.octets())
                        .unwrap();
                ip.dscp = (class >> 2).try_into().unwrap();
                ip.ecn = (class & 3).try_into().unwrap();
                ip.dont_fragment = !may_fragment;
                ip.identification = if may_fragment { ident } else { 0 };
                ip.fragment_offset = IpFragOffset::ZERO;
                ip.header_checksum = ip.calc_header_checksum();
                ip.write(&mut out).unwrap();
                if with_udp {
                    let mut udp =
                        UdpHeader::without_ipv4_checksum(source_port, udp_port, within.len())
                            .unwrap();
                    udp.checksum = 0;
                    udp.write(&mut out).unwrap();
                }
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend([0x86, 0xdd]);
                let label = u32::from_be_bytes([0, like[15] & 15, like[16], like[17]]);
                let ip = Ipv6Header {
                    traffic_class: class,
                    flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
                    payload_length: length as u16,
                    next_header: ip_number,
                    hop_limit: 64,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                ip.write(&mut out).unwrap();
                if with_udp {
                    assert_eq!(u32::from(source_port - 49_152), label & 0x3fff, "one hash");
                    UdpHeader::with_ipv6_checksum(source_port, udp_port, &ip, &within)
                        .unwrap()
                        .write(&mut out)
                        .unwrap();
                }
            }
            _ => panic!("two families"),
        }
        out.extend(within);
        assert_eq!(out.len(), frame.len() + overhead(self.mode, self.outer));
        out
    }

    /// A frame that is not longer than its packet goes through.
    fn passes(&self, rig: &mut Rig, what: &str, frame: &[u8], opens: bool) {
        self.passes_as(rig, what, frame, frame, opens);
    }

    /// A frame goes through; `packet` is what it holds without padding.
    fn passes_as(&self, rig: &mut Rig, what: &str, frame: &[u8], packet: &[u8], opens: bool) {
        let like = self.learn(rig);
        let out = self.outer(rig, packet, 0, &like);
        let port = rig.net.server_side();
        let mut changes = Changes::none().forward(self.id(), frame).tx(port, &out);
        if opens {
            changes = changes.session(self.id(), self.inner == Family::V6, 1);
        }
        let what = format!("{:?} {:?} in {:?}, {what}", self.mode, self.inner, self.outer);
        rig.step(&what, FRONT, frame, Some(self.client), changes, &[(port, out)]);
    }

    /// What a twin makes of the first packet of the connection: the flow hash is in it.
    fn learn(&self, rig: &Rig) -> Vec<u8> {
        let mut twin = Rig::new(rig.net.clone());
        let opening = self.packet(&twin, SYN, b"");
        let sent = twin.send(FRONT, &opening);
        assert_eq!(sent.len(), 1);
        sent[0].1.clone()
    }
}

fn talks() -> impl Iterator<Item = Talk> {
    MODES.into_iter().flat_map(|mode| {
        Family::BOTH.into_iter().flat_map(move |inner| {
            Family::BOTH.into_iter().flat_map(move |outer| {
                [Protocol::Tcp, Protocol::Udp]
                    .into_iter()
                    .map(move |protocol| Talk::new(mode, inner, outer, protocol))
            })
        })
    })
}

#[test]
fn every_mode_and_family() {
    for talk in talks() {
        for base in [Net::two_armed(1), Net::two_armed(2), Net::one_armed(2)] {
            let mut rig = Rig::new(net(base, talk.mode, talk.outer));
            let mut pass =
                |what: &str, frame: &[u8], opens| talk.passes(&mut rig, what, frame, opens);
            let twin = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
            pass("first", &talk.packet(&twin, SYN, b""), true);
            pass("second", &talk.packet(&twin, ACK, b""), false);
            pass("odd", &talk.packet(&twin, PSH_ACK, &[0xa5; 1001]), false);
            pass("even", &talk.packet(&twin, PSH_ACK, &[0xff; 1000]), false);
            pass("last", &talk.packet(&twin, FIN_ACK, b""), false);
            assert_eq!(rig.sessions(), 1);
        }
    }
}

/// Where the sum of the packet does not follow from its headers it is computed.
#[test]
fn datagrams_without_a_checksum_or_with_more_behind() {
    for talk in talks().filter(|t| t.protocol == Protocol::Udp) {
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let start = if talk.inner == Family::V4 { 34 } else { 54 };
        let opening = talk.packet(&rig, 0, b"x");
        talk.passes(&mut rig, "first", &opening, true);
        if talk.inner == Family::V4 {
            let mut frame = talk.packet(&rig, 0, b"abcde");
            frame[start + 6..start + 8].fill(0);
            talk.passes(&mut rig, "no checksum", &frame, false);
        }
        // The datagram ends before the packet does.
        let mut frame = talk.packet(&rig, 0, b"abcdefgh");
        let length = u16::from_be_bytes([frame[start + 4], frame[start + 5]]);
        frame[start + 4..start + 6].copy_from_slice(&(length - 3).to_be_bytes());
        talk.passes(&mut rig, "bytes behind", &frame, false);
    }
}

#[test]
fn dscp_and_ecn_are_copied() {
    for talk in talks().filter(|t| t.protocol == Protocol::Tcp) {
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let opening = talk.packet(&rig, SYN, b"");
        talk.passes(&mut rig, "first", &opening, true);
        // Not-ECT, ECT(1), ECT(0), CE (RFC 6040 4.1), and expedited forwarding.
        for class in [0, 1, 2, 3, 0xb8, 0xbb, 0xff] {
            let mut frame = talk.packet(&rig, ACK, b"abc");
            if talk.inner == Family::V4 {
                frame[15] = class;
                mend_ipv4_checksum(&mut frame);
            } else {
                frame[14] = 0x60 | class >> 4;
                frame[15] = class << 4;
            }
            talk.passes(&mut rig, "traffic class", &frame, false);
        }
    }
}

#[test]
fn padding_stays_behind_and_the_hop_limit_is_left_alone() {
    for talk in talks().filter(|t| t.protocol == Protocol::Udp) {
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let mut packet = talk.packet(&rig, 0, b"x");
        if talk.inner == Family::V4 {
            packet[22] = 1;
            mend_ipv4_checksum(&mut packet);
        } else {
            packet[21] = 1;
        }
        let mut frame = packet.clone();
        frame.resize(packet.len() + 9, 0xee);
        talk.passes_as(&mut rig, "padded", &frame, &packet, true);
    }
}

/// The largest packet that fits with its outer headers goes; one byte more is answered with the size
/// that fits.
#[test]
fn the_edge_of_the_mtu() {
    for talk in talks().filter(|t| t.protocol == Protocol::Udp) {
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let room = 1500 - overhead(talk.mode, talk.outer);
        let headers = if talk.inner == Family::V4 { 28 } else { 48 };
        let frame = talk.packet(&rig, 0, &vec![7; room - headers]);
        talk.passes(&mut rig, "fits", &frame, true);

        let frame = talk.packet(&rig, 0, &vec![7; room - headers + 1]);
        let quoted = if talk.inner == Family::V4 { 576 - 28 } else { 1280 - 48 };
        let (macs, own) = ((FRONT_MAC, ROUTER_MAC), talk.inner.front());
        let quote = &frame[..14 + quoted];
        let error = packet_too_big(macs, own, talk.inner.client(), quote, room as u16);
        let changes = Changes::none().dropped(PacketTooBig).originated(FRONT, &error);
        let outer = Some(talk.client);
        rig.step("one more", FRONT, &frame, outer, changes, &[(FRONT, error)]);
    }
}

/// The same packet with Don't Fragment cleared.
fn fragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] &= !0x40;
    mend_ipv4_checksum(&mut frame);
    frame
}

/// An IPv4 fragment: `payload` of the packet in `frame` from byte `at` on.
fn fragment(frame: &[u8], at: usize, payload: &[u8], more: bool) -> Vec<u8> {
    let mut out = frame[..34].to_vec();
    out[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    out[20..22].copy_from_slice(&((at / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
    mend_ipv4_checksum(&mut out);
    out.extend(payload);
    out
}

#[test]
fn ipv4_that_may_be_fragmented_goes_in_two() {
    for talk in talks().filter(|t| t.protocol == Protocol::Udp && t.inner == Family::V4) {
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let like = talk.learn(&rig);
        let room = 1500 - overhead(talk.mode, talk.outer);
        let frame = fragmentable(talk.packet(&rig, 0, &vec![7; room - 28]));
        let out = talk.outer(&rig, &frame, 0, &like);
        let (id, outer) = (talk.id(), Some(talk.client));
        let changes = Changes::none().forward(id, &frame).tx(BACK, &out).session(id, false, 1);
        rig.step("fits whole", FRONT, &frame, outer, changes, &[(BACK, out)]);

        let payload: Vec<u8> = (0..=255).cycle().take(room - 28 + 1).collect();
        let frame = fragmentable(talk.packet(&rig, 0, &payload));
        let cut = (room - 20) & !7;
        let parts = [
            fragment(&frame, 0, &frame[34..34 + cut], true),
            fragment(&frame, cut, &frame[34 + cut..], false),
        ];
        let outs = [1, 2].map(|n: u16| talk.outer(&rig, &parts[usize::from(n) - 1], n, &like));
        let changes =
            Changes::none().forward(id, &frame).originated(BACK, &outs[0]).tx(BACK, &outs[1]);
        let outs = outs.map(|out| (BACK, out));
        rig.step("one more", FRONT, &frame, outer, changes, &outs);
    }
}

/// The first part goes in a frame of Shunt's own. Without one the packet is dropped; a smaller one
/// passes.
#[test]
fn without_a_spare_frame_nothing_goes_in_two() {
    let talk = Talk::new(Mode::Ipip, Family::V4, Family::V4, Protocol::Udp);
    let mut rig = Rig::cold(net(Net::two_armed(1), talk.mode, talk.outer));
    rig.workers[0].io().most = Some(0);
    rig.warm();
    let opening = talk.packet(&rig, 0, b"x");
    talk.passes(&mut rig, "first", &opening, true);
    let frame = fragmentable(talk.packet(&rig, 0, &[7; 1453]));
    let outer = Some(talk.client);
    rig.step("in two", FRONT, &frame, outer, Changes::none().dropped(NoBuffer), &[]);
    talk.passes(&mut rig, "second", &opening, false);
    rig.workers[0].io().most = None;
    rig.settle();
    assert_eq!(rig.send(FRONT, &frame).len(), 2);
}

/// Outer headers need room before the packet.
#[test]
fn without_headroom_there_are_no_outer_headers() {
    for talk in talks() {
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let opening = talk.packet(&rig, SYN, b"");
        talk.passes(&mut rig, "first", &opening, true);
        let bytes = talk.packet(&rig, ACK, b"more");
        let changes = Changes::none().dropped(NoHeadroom);
        let frame = without_headroom(FRONT, &bytes);
        rig.step_frame("no headroom", frame, Some(talk.client), changes, &[]);
        talk.passes(&mut rig, "with", &bytes, false);
    }
}

/// A fragment that has waited for its first is as long as any other: it goes in two as well, first
/// part first, in the same turn.
#[test]
fn a_fragment_that_has_waited_goes_in_two() {
    let talk = Talk::new(Mode::Ipip, Family::V4, Family::V4, Protocol::Udp);
    let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
    rig.settle();
    let datagram = fragmentable(talk.packet(&rig, 0, &vec![7; 2 * 1480 - 8]));
    let pieces = split(&datagram, 9, 1480);
    assert_eq!(rig.send(FRONT, &pieces[1]), []);
    rig.arrive(MemoryFrame::new(FRONT, &pieces[0]));
    rig.workers[0].poll(rig.now);
    let inner = |(port, frame): (PortId, Vec<u8>)| (port, frame[34..].to_vec());
    let sent: Vec<_> = rig.sent().into_iter().map(inner).collect();
    let cut = |piece: &[u8], at: usize, more: bool| {
        let parts = [(0, 1456, true), (1456, 1480, more)];
        parts.map(|(from, to, more)| {
            let part = fragment(piece, at + from, &piece[34 + from..34 + to], more);
            (BACK, part[14..].to_vec())
        })
    };
    let expected = [cut(&pieces[0], 0, true), cut(&pieces[1], 1480, false)].concat();
    assert!(sent == expected, "{:?}", sent.iter().map(|s| s.1.len()).collect::<Vec<_>>());
    // Nothing is left of it when the next one comes.
    let next = talk.packet(&rig, 0, b"next");
    assert_eq!(rig.send(FRONT, &next).len(), 1);
    rig.assert_balanced();
}

/// Two fragments are the most.
#[test]
fn what_two_fragments_do_not_hold_is_dropped() {
    let talk = Talk::new(Mode::Vxlan, Family::V4, Family::V6, Protocol::Udp);
    let mut net = net(Net::two_armed(1), talk.mode, talk.outer);
    net.snapshot.ports[usize::from(BACK.0)].mtu = 700;
    let mut rig = Rig::new(net);
    let opening = talk.packet(&rig, 0, b"x");
    talk.passes(&mut rig, "first", &opening, true);
    // 630 bytes fit: 608 and 610 bytes of payload.
    let frame = fragmentable(talk.packet(&rig, 0, &[7; 608 + 610 - 8]));
    assert_eq!(rig.send(FRONT, &frame).len(), 2);
    let frame = fragmentable(talk.packet(&rig, 0, &[7; 608 + 610 - 8 + 1]));
    let changes = Changes::none().dropped(PacketTooBig);
    rig.step("too long for two", FRONT, &frame, Some(talk.client), changes, &[]);
}

#[test]
fn a_packet_waits_for_its_next_hop_with_its_outer_headers() {
    for talk in talks() {
        let mut rig = Rig::cold(net(Net::two_armed(1), talk.mode, talk.outer));
        let like = talk.learn(&rig);
        let frame = talk.packet(&rig, SYN, b"");
        let out = talk.outer(&rig, &frame, 0, &like);
        let id = talk.id();
        let v6 = talk.inner == Family::V6;
        let changes = Changes::none().forward(id, &frame).session(id, v6, 1).held(1);
        rig.step("unresolved", FRONT, &frame, Some(talk.client), changes, &[]);
        rig.resolve(BACK, talk.outer.server(11), server_mac(11));
        assert_eq!(rig.sent(), [(BACK, out)]);
    }
    // Two fragments cannot wait.
    let talk = Talk::new(Mode::Ipip, Family::V4, Family::V4, Protocol::Udp);
    let mut rig = Rig::cold(net(Net::two_armed(1), talk.mode, talk.outer));
    // The first turn stocks spare frames.
    rig.settle();
    let frame = fragmentable(talk.packet(&rig, 0, &[7; 1472]));
    let id = talk.id();
    let changes =
        Changes::none().forward(id, &frame).session(id, false, 1).dropped(NeighborUnresolved);
    rig.step("unresolved", FRONT, &frame, Some(talk.client), changes, &[]);
}

/// Routers on the way spread flows by what the switch puts there; a flow stays on one path.
#[test]
fn flows_are_told_apart_outside() {
    for (outer, at) in [(Family::V4, 34), (Family::V6, 54)] {
        for inner in Family::BOTH {
            let mut talk = Talk::new(Mode::Gue, inner, outer, Protocol::Udp);
            let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
            let mut ports = std::collections::HashSet::new();
            for n in 0..1000 {
                talk.client.set_port(1024 + n);
                let frame = talk.packet(&rig, 0, b"x");
                let of = |sent: Sent| u16::from_be_bytes([sent[0].1[at], sent[0].1[at + 1]]);
                let first = of(rig.send(FRONT, &frame));
                let again = of(rig.send(FRONT, &frame));
                assert_eq!(first, again);
                ports.insert(first);
            }
            // Of 16,384 ports, 1,000 throws hit 970 different ones on average, ± 5.
            assert!((940..=1000).contains(&ports.len()), "{}", ports.len());
        }
    }
}

/// Servers answer past the switch: it follows the connection by the client's segments alone.
#[test]
fn timeouts_of_a_connection_seen_one_way() {
    let talk = Talk::new(Mode::Ipip, Family::V6, Family::V4, Protocol::Tcp);
    let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
    let frame = |rig: &Rig, flags| talk.packet(rig, flags, b"");
    let (syn, ack, fin) = (frame(&rig, SYN), frame(&rig, ACK), frame(&rig, FIN_ACK));
    talk.passes(&mut rig, "syn", &syn, true);
    talk.passes(&mut rig, "ack", &ack, false);
    rig.wait("established", 899_000, Changes::none());
    talk.passes(&mut rig, "fin", &fin, false);
    let over = Changes::none().session(talk.id(), true, -1).add("expired", 1);
    rig.wait("closed", 11_000, over);
}

/// Both servers serve both families.
#[test]
fn servers_of_two_families_share_the_clients_of_each() {
    let mut net = net(Net::two_armed(1), Mode::Gue, Family::V4);
    let service = net.snapshot.servers[1].service;
    net.server(service, Family::V6.server(12), 53);
    let mut rig = Rig::new(net);
    for inner in Family::BOTH {
        let mut to = [0, 0];
        for n in 0..10 {
            let mut talk = Talk::new(Mode::Gue, inner, Family::V4, Protocol::Udp);
            talk.client.set_port(2000 + n);
            let frame = talk.packet(&rig, 0, b"x");
            let sent = rig.send(FRONT, &frame);
            assert_eq!(sent.len(), 1);
            to[usize::from(sent[0].1[12] == 0x86)] += 1;
        }
        assert_eq!(to, [5, 5]);
    }
    assert_eq!(rig.active(ServerId(1)), 10);
    assert_eq!(rig.active(ServerId(2)), 10);
    // Each session is listed with its server, of whichever family.
    rig.command(|| {
        let rows = Vec::with_capacity(20);
        Command::ListSessions(Box::new(SessionQuery { rows, ..SessionQuery::default() }))
    });
    rig.pass(1000);
    let events = rig.events();
    let Some(Event::Sessions(query)) = events.first() else { panic!("{events:?}") };
    assert_eq!(query.rows.len(), 20);
    for row in &query.rows {
        let server = &rig.net.snapshot.servers[usize::from(row.server_id.0)];
        assert_eq!(row.server, SocketAddr::new(server.address, 53));
    }
}

/// What a router says about an outer packet of ours, to the address it came from.
fn router_says(talk: &Talk, outer: &[u8], mtu: u16) -> Vec<u8> {
    let (own, router) = (talk.outer.back(), talk.outer.server(19));
    let quoted = &outer[..outer.len().min(14 + 548)];
    packet_too_big((server_mac(19), BACK_MAC), router, own, quoted, mtu)
}

/// The limits of a path: a packet that makes `room` with its headers goes, one byte more does not.
fn path_takes(talk: &Talk, rig: &mut Rig, mtu: usize, what: &str) {
    let headers = if talk.inner == Family::V4 { 28 } else { 48 };
    let room = mtu - overhead(talk.mode, talk.outer);
    let fits = talk.packet(rig, 0, &vec![7; room - headers]);
    let too_long = talk.packet(rig, 0, &vec![7; room - headers + 1]);
    let sent = rig.send(FRONT, &fits);
    assert_eq!((sent.len(), sent[0].0, sent[0].1.len()), (1, BACK, 14 + mtu), "{what}");
    let sent = rig.send(FRONT, &too_long);
    assert_eq!((sent.len(), sent[0].0), (1, FRONT), "{what}");
    let error = packet_too_big(
        (FRONT_MAC, ROUTER_MAC),
        talk.inner.front(),
        talk.inner.client(),
        &too_long[..14 + if talk.inner == Family::V4 { 548 } else { 1232 }],
        room as u16,
    );
    assert_eq!(sent[0].1, error, "{what}");
}

/// The path to a server is shorter than the port: learnt from a router, told to the other workers,
/// forgotten after ten minutes.
#[test]
fn the_path_to_a_server_is_learnt() {
    for talk in talks().filter(|t| t.protocol == Protocol::Udp) {
        let mut rig = Rig::new(net(Net::two_armed(2), talk.mode, talk.outer));
        let opening = talk.packet(&rig, 0, b"x");
        let outer = rig.send(FRONT, &opening)[0].1.clone();
        path_takes(&talk, &mut rig, 1500, "at first");
        rig.events();

        // What is not about a packet of ours teaches nothing: another server, another source.
        for at in [
            14 + if talk.outer == Family::V4 { 19 } else { 39 },
            14 + if talk.outer == Family::V4 { 15 } else { 23 },
        ] {
            let mut other = outer.clone();
            other[at] ^= 0x40;
            rig.send(BACK, &router_says(&talk, &other, 1400));
        }
        path_takes(&talk, &mut rig, 1500, "still");
        assert!(rig.events().is_empty());

        // Whichever worker it comes to, the others are to be told.
        rig.send(BACK, &router_says(&talk, &outer, 1400));
        let events = rig.events();
        let [Event::PathMtu { address, mtu }] = events[..] else { panic!("{events:?}") };
        assert_eq!((address, mtu), (talk.outer.server(11), 1400));
        rig.command(|| Command::PathMtu { address, mtu });
        path_takes(&talk, &mut rig, 1400, "learnt");
        // Neither a longer path nor the same again is news.
        for mtu in [1450, 1400] {
            rig.send(BACK, &router_says(&talk, &outer, mtu));
        }
        assert!(rig.events().is_empty());
        path_takes(&talk, &mut rig, 1400, "unchanged");
        // A reload does not forget it.
        rig.net.snapshot.generation += 1;
        rig.reconfigure();
        path_takes(&talk, &mut rig, 1400, "after a reload");

        rig.pass(599_000);
        path_takes(&talk, &mut rig, 1400, "not yet forgotten");
        rig.pass(1_100);
        path_takes(&talk, &mut rig, 1500, "forgotten");
    }
}

/// A router that gives no size means the next lower one of RFC 1191; nothing below what every host
/// takes is believed. An IPv6 packet that cannot be made smaller is left to the routers of an IPv4
/// path.
#[test]
fn the_least_that_a_path_takes() {
    let talk = Talk::new(Mode::Ipip, Family::V4, Family::V4, Protocol::Udp);
    let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
    let longest = talk.packet(&rig, 0, &[7; 1480 - 28]);
    let outer = rig.send(FRONT, &longest)[0].1.clone();
    rig.send(BACK, &router_says(&talk, &outer, 0));
    path_takes(&talk, &mut rig, 1492, "a plateau");
    rig.send(BACK, &router_says(&talk, &outer, 68));
    path_takes(&talk, &mut rig, 576, "the least");

    for outer in Family::BOTH {
        let talk = Talk::new(Mode::Gue, Family::V6, outer, Protocol::Udp);
        let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
        let frame = talk.packet(&rig, 0, &[7; 1280 - 48]);
        let sent = rig.send(FRONT, &frame)[0].1.clone();
        assert_eq!(sent[20] & 0x40 != 0, outer == Family::V4, "Don't Fragment");
        rig.send(BACK, &router_says(&talk, &sent, 1290));
        let sent = rig.send(FRONT, &frame);
        match outer {
            Family::V4 => {
                assert_eq!((sent.len(), sent[0].0), (1, BACK));
                assert_eq!(sent[0].1[20] & 0x40, 0, "routers may fragment it");
            }
            // Nobody fragments IPv6 on its way, and the sender is told what it must be able to send.
            Family::V6 => assert_eq!((sent.len(), sent[0].0), (1, FRONT)),
        }
    }
}

/// Errors about the server's answers come to the VIP: they are for the server, and so are fragments.
#[test]
fn errors_about_answers_and_fragments_go_the_same_way() {
    for talk in talks() {
        for workers in [1, 2] {
            let mut rig = Rig::new(net(Net::two_armed(workers), talk.mode, talk.outer));
            let opening = talk.packet(&rig, SYN, b"");
            talk.passes(&mut rig, "first", &opening, true);
            let like = talk.learn(&rig);
            let port = if talk.protocol == Protocol::Tcp { 80 } else { 53 };
            let vip = SocketAddr::new(talk.inner.vip(), port);
            let answer = match talk.protocol {
                Protocol::Tcp => tcp(vip, talk.client, ACK),
                _ => udp(vip, talk.client),
            };
            let (macs, router) = ((ROUTER_MAC, FRONT_MAC), talk.inner.router());
            let quote = &answer.bytes()[14..];
            let error = icmp_error(macs, router, vip.ip(), 64, [(3, 4), (2, 0)], 1300, quote);
            let out = talk.outer(&rig, &error, 0, &like);
            let changes = Changes::none().tx(BACK, &out);
            let changes = changes.add("icmp_errors", 1);
            let what = format!("{:?} {:?} in {:?}", talk.mode, talk.inner, talk.outer);
            rig.step(&what, FRONT, &error, Some(talk.client), changes, &[(BACK, out)]);

            if talk.protocol == Protocol::Tcp || workers != 1 {
                continue;
            }
            let whole = talk.packet(&rig, 0, &[5; 2000]);
            for (n, piece) in split(&whole, 7, 1208).into_iter().enumerate() {
                let out = talk.outer(&rig, &piece, n as u16, &like);
                let changes = Changes::none().forward(talk.id(), &piece).tx(BACK, &out);
                let changes = changes.add("fragments", 1);
                rig.step(&what, FRONT, &piece, Some(talk.client), changes, &[(BACK, out)]);
            }
        }
    }
}

/// Services whose every datagram is a decision of its own.
mod one_packet {
    use shunt::wire::DropReason::{HopLimitExceeded, IcmpNoSession, NoServer};

    use super::*;
    use crate::fragments::{ORDERS, ident, step};

    fn net(base: Net, mode: Mode, outer: Family) -> Net {
        let mut net = super::net(base, mode, outer);
        net.snapshot.services[1].selection.one_packet = true;
        net
    }

    fn talks() -> impl Iterator<Item = Talk> {
        super::talks().filter(|talk| talk.protocol == Protocol::Udp)
    }

    #[test]
    fn every_mode_and_family() {
        for talk in talks() {
            for base in [Net::two_armed(1), Net::two_armed(2), Net::one_armed(2)] {
                let mut rig = Rig::new(net(base, talk.mode, talk.outer));
                for (what, data) in [("first", &b""[..]), ("odd", b"abc"), ("long", &[0xa5; 1300])]
                {
                    let frame = talk.packet(&rig, 0, data);
                    talk.passes(&mut rig, what, &frame, false);
                }
                assert_eq!(rig.sessions(), 0);
                rig.net.snapshot.servers[1].up = false;
                rig.reconfigure();
                let frame = talk.packet(&rig, 0, b"abc");
                let changes = Changes::none().dropped(NoServer);
                rig.step("no server", FRONT, &frame, Some(talk.client), changes, &[]);
            }
        }
    }

    /// The hop limit is the server's to look at; an error about its answer has no way back, since
    /// nothing says which of the servers has answered.
    #[test]
    fn what_is_and_is_not_passed_on() {
        for talk in talks() {
            let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
            let vip = SocketAddr::new(talk.inner.vip(), 53);
            for ttl in [1, 2] {
                let frame = rig.by_client(udp(talk.client, vip).ttl(ttl)).bytes();
                talk.passes(&mut rig, "hop limit", &frame, false);
            }
            assert!(!rig.changes().0.contains_key(&format!("drop.{HopLimitExceeded}")));
            let answer = udp(vip, talk.client).bytes();
            let (macs, router) = ((ROUTER_MAC, FRONT_MAC), talk.inner.router());
            let kinds = [(3, 4), (2, 0)];
            let error = icmp_error(macs, router, vip.ip(), 64, kinds, 1300, &answer[14..]);
            let changes = Changes::none().dropped(IcmpNoSession);
            rig.step("about an answer", FRONT, &error, None, changes, &[]);
        }
    }

    #[test]
    fn what_does_not_fit_with_its_outer_headers() {
        for talk in talks() {
            let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
            let like = talk.learn(&rig);
            let room = 1500 - overhead(talk.mode, talk.outer);
            let headers = if talk.inner == Family::V4 { 28 } else { 48 };
            let fits = talk.packet(&rig, 0, &vec![7; room - headers]);
            talk.passes(&mut rig, "fits", &fits, false);
            let long = talk.packet(&rig, 0, &vec![7; room - headers + 1]);
            let quoted = if talk.inner == Family::V4 { 576 - 28 } else { 1280 - 48 };
            let (own, to) = (talk.inner.front(), talk.inner.client());
            let macs = (FRONT_MAC, ROUTER_MAC);
            let error = packet_too_big(macs, own, to, &long[..14 + quoted], room as u16);
            let changes = Changes::none().dropped(PacketTooBig).originated(FRONT, &error);
            rig.step("long", FRONT, &long, Some(talk.client), changes, &[(FRONT, error)]);
            if talk.inner == Family::V4 {
                let long = fragmentable(long);
                let cut = (room - 20) & !7;
                let parts = [
                    fragment(&long, 0, &long[34..34 + cut], true),
                    fragment(&long, cut, &long[34 + cut..], false),
                ];
                let [first, second] =
                    [0, 1].map(|n: u16| talk.outer(&rig, &parts[usize::from(n)], n, &like));
                let changes = Changes::none()
                    .forward(talk.id(), &long)
                    .originated(BACK, &first)
                    .tx(BACK, &second);
                let out = [(BACK, first), (BACK, second)];
                rig.step("in two", FRONT, &long, Some(talk.client), changes, &out);
            }
            assert_eq!(rig.sessions(), 0);
        }
    }

    /// All fragments of a datagram go to the server of the first, in any order, and of the next one
    /// to the next server.
    #[test]
    fn fragments() {
        for talk in talks() {
            for workers in [1, 2] {
                let mut net = net(Net::two_armed(workers), talk.mode, talk.outer);
                let other = net.server(shunt::session::ServiceId(1), talk.outer.server(12), 53);
                net.snapshot.servers[usize::from(other.0)].inner_mac = INNER_MAC;
                let mut rig = Rig::new(net);
                let mut chosen = [0, 0];
                for (number, order) in ORDERS.into_iter().enumerate() {
                    let whole = talk.packet(&rig, 0, &[5; 3000]);
                    let pieces = split(&whole, number as u32, 1208);
                    rig.changes();
                    let sent: Vec<_> =
                        order.iter().flat_map(|&n| rig.send(FRONT, &pieces[n])).collect();
                    assert_eq!(sent.len(), 3);
                    let n = sent[0].1[5];
                    assert!(sent.iter().all(|(port, frame)| *port == BACK && frame[5] == n));
                    chosen[usize::from(n - 11)] += 1;
                    // Each piece is in there as it was.
                    let mut inner: Vec<_> = sent
                        .iter()
                        .map(|(_, out)| &out[14 + overhead(talk.mode, talk.outer)..])
                        .collect();
                    inner.sort_by_key(|packet| {
                        let at = if talk.inner == Family::V4 { 6 } else { 42 };
                        u16::from_be_bytes([packet[at], packet[at + 1]]) & 0x1fff
                    });
                    for (inner, piece) in inner.iter().zip(&pieces) {
                        assert_eq!(*inner, &piece[14..]);
                    }
                    let id = ServerId(1 + u16::from(n - 11));
                    let mut seen = rig.changes();
                    for name in ["handed_off", "handed_in"] {
                        seen.0.remove(name);
                    }
                    let waited = order.iter().position(|n| *n == 0).unwrap() as i64;
                    let mut changes =
                        Changes::none().add("fragments", 3).add("fragments_held", waited);
                    for (piece, (_, out)) in pieces.iter().zip(&sent) {
                        changes = changes.rx(FRONT, piece).forward(id, piece);
                        changes = changes.tx(BACK, out);
                    }
                    assert_eq!(seen, changes);
                    assert_eq!(rig.sessions(), 0);
                }
                if workers == 1 {
                    assert_eq!(chosen, [3, 3]);
                }
            }
        }
    }

    /// Pieces that wait, and are cut again when their first comes.
    #[test]
    fn fragments_that_are_cut_again() {
        for talk in talks().filter(|talk| talk.inner == Family::V4) {
            let mut rig = Rig::new(net(Net::two_armed(1), talk.mode, talk.outer));
            let like = talk.learn(&rig);
            let whole = talk.packet(&rig, 0, &[5; 2952]);
            let pieces = split(&whole, 9, 1480);
            let waits = Changes::none().held(1).add("fragments_held", 1);
            step(&mut rig, "early", FRONT, &pieces[1], waits, |_| Vec::new());
            let room = (1500 - overhead(talk.mode, talk.outer) - 20) & !7;
            let mut out = Vec::new();
            for at in [0, 1480] {
                for part in [at..at + room, at + room..at + 1480] {
                    let piece = crate::fragments::part(&whole, 9, part);
                    out.push((BACK, talk.outer(&rig, &piece, out.len() as u16, &like)));
                }
            }
            assert_eq!(ident(&pieces[0]), 9);
            let mut changes = Changes::none().held(-1).add("fragments", 2);
            for (n, (port, frame)) in out.iter().enumerate() {
                changes = match n % 2 {
                    0 => changes.originated(*port, frame),
                    _ => changes.tx(*port, frame).forward(talk.id(), &pieces[n / 2]),
                };
            }
            step(&mut rig, "both", FRONT, &pieces[0], changes, |_| out.clone());
            // Nothing is left behind.
            rig.pass(1000);
            let frame = talk.packet(&rig, 0, b"abc");
            talk.passes(&mut rig, "whole", &frame, false);
        }
    }
}
