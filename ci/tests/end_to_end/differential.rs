//! The same recorded traffic through Shunt and through the Linux kernel's own NAT (nftables): both
//! ends must see the same packets, byte for byte.
//!
//! Client and server are scripts on packet sockets, with addresses that no kernel has, so that
//! nobody else answers. A conversation is a list of steps; each is sent when the one before has
//! arrived, and what the other end received is written down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};

use crate::namespace::Namespace;
use crate::raw::Wire;
use crate::rig::{Family, Mode, Plan, Rig};

const VPORT: u16 = 7070;
const RPORT: u16 = 9090;
/// How long a packet may take through either switch.
const PATIENCE: Duration = Duration::from_secs(5);
const TTL: u8 = 57;

fn client(family: Family) -> IpAddr {
    family.pick("192.0.2.101", "2001:db8:1::101")
}
fn vip(family: Family) -> IpAddr {
    family.pick("192.0.2.20", "2001:db8:1::20")
}
fn server(family: Family) -> IpAddr {
    family.pick("10.0.0.50", "2001:db8:2::50")
}
fn lip(family: Family) -> IpAddr {
    family.pick("10.0.0.201", "2001:db8:2::201")
}

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Client,
    Server,
}

/// A packet to be, without its endpoints.
#[derive(Clone, Debug)]
enum Body {
    Tcp { seq: u32, ack: Option<u32>, flags: &'static str, data: Vec<u8>, options: bool },
    Udp { data: Vec<u8> },
}

#[derive(Clone, Debug)]
struct Step {
    from: From,
    body: Body,
}

/// One conversation of a client port.
#[derive(Clone, Debug)]
struct Conversation {
    family: Family,
    port: u16,
    steps: Vec<Step>,
}

/// What arrived at the other end, from the IP header on; `None` for nothing.
type Record = Vec<Option<Vec<u8>>>;

#[test]
fn nat_as_the_kernel_does_it() {
    the_kernel_and_shunt_agree(Mode::Nat);
}

#[test]
fn fullnat_as_the_kernel_does_it() {
    the_kernel_and_shunt_agree(Mode::FullNat);
}

fn the_kernel_and_shunt_agree(mode: Mode) {
    let traffic = traffic();
    let by_kernel = {
        let rig = Rig::without_shunt(Plan::new(mode, 1).weights(&[1]));
        kernel_forwards(&rig, mode);
        replay(&rig, mode, &traffic)
    };
    let mut rig = Rig::without_shunt(Plan::new(mode, 1).weights(&[1]));
    rig.plan.sections = sections(&rig, mode);
    let config = rig.write_config("shunt.toml", &rig.config());
    rig.run_shunt(&config);
    let by_shunt = replay(&rig, mode, &traffic);
    rig.finish();

    let mut compared = 0;
    for ((conversation, kernel), shunt) in traffic.iter().zip(&by_kernel).zip(&by_shunt) {
        for (n, step) in conversation.steps.iter().enumerate() {
            assert!(kernel[n].is_some(), "the kernel lost step {n} of {conversation:#?}");
            assert_eq!(
                shunt[n], kernel[n],
                "step {n}, {:?}, of port {}: {step:#?}",
                conversation.family, conversation.port
            );
            compared += 1;
        }
    }
    assert!(compared > 500, "{compared} packets are too few to say anything");
}

/// Further configuration: the service, and where its two scripts are.
fn sections(rig: &Rig, mode: Mode) -> String {
    let (client_wire, server_wire) = wires(rig);
    let mut text = String::new();
    for family in Family::BOTH {
        for (address, mac, port) in
            [(client(family), client_wire.mac, "front"), (server(family), server_wire.mac, "back")]
        {
            text += &format!(
                "[[neighbor]]\naddress = \"{address}\"\nmac = \"{}\"\nport = \"{port}\"\n",
                mac_text(mac)
            );
        }
    }
    for protocol in ["tcp", "udp"] {
        let endpoints = |address: fn(Family) -> IpAddr, port| {
            Family::BOTH.map(|family| std::net::SocketAddr::new(address(family), port))
        };
        let [v4, v6] = endpoints(vip, VPORT);
        text += &format!(
            "[[service]]\nname = \"script-{protocol}\"\nprotocol = \"{protocol}\"\n\
             listen = [\"{v4}\", \"{v6}\"]\nmode = \"{}\"\n",
            mode.name()
        );
        for server in endpoints(server, RPORT) {
            text += &format!("[[service.server]]\naddress = \"{server}\"\n");
        }
    }
    text
}

/// The kernel of the switch's namespace forwards and translates.
fn kernel_forwards(rig: &Rig, mode: Mode) {
    let lb = &rig.lb;
    lb.sysctl("net.ipv4.ip_forward", "1");
    lb.sysctl("net.ipv6.conf.all.forwarding", "1");
    lb.sysctl("net.ipv4.conf.all.rp_filter", "0");
    for (address, interface) in [("192.0.2.2/24", "front"), ("10.0.0.1/24", "back")] {
        lb.ip(&format!("addr add {address} dev {interface}"));
    }
    for (address, interface) in [("2001:db8:1::2/64", "front"), ("2001:db8:2::1/64", "back")] {
        lb.ip(&format!("addr add {address} dev {interface} nodad"));
    }
    let (client_wire, server_wire) = wires(rig);
    let mut rules = String::new();
    for family in Family::BOTH {
        for (address, mac, interface) in
            [(client(family), client_wire.mac, "front"), (server(family), server_wire.mac, "back")]
        {
            lb.ip(&format!("neigh add {address} lladdr {} dev {interface}", mac_text(mac)));
        }
        let (table, selector) = match family {
            Family::V4 => ("ip", "ip"),
            Family::V6 => ("ip6", "ip6"),
        };
        let to = std::net::SocketAddr::new(server(family), RPORT);
        rules += &format!(
            "table {table} translate {{\n chain in {{\n type nat hook prerouting priority -100;\n"
        );
        for protocol in ["tcp", "udp"] {
            rules += &format!(
                " {selector} daddr {} {protocol} dport {VPORT} dnat to {to}\n",
                vip(family)
            );
        }
        rules += " }\n chain out {\n type nat hook postrouting priority 100;\n";
        if mode == Mode::FullNat {
            rules += &format!(" {selector} daddr {} snat to {}\n", server(family), lip(family));
        }
        rules += " }\n}\n";
    }
    nft(lb, &rules);
}

fn nft(namespace: &Namespace, rules: &str) {
    let mut child = namespace
        .command("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft starts");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, rules.as_bytes()).expect("rules");
    drop(input);
    assert!(child.wait().expect("nft ends").success(), "{rules}");
}

fn wires(rig: &Rig) -> (Wire, Wire) {
    (Wire::open(&rig.client, "eth0"), Wire::open(&rig.servers[0].namespace, "eth0"))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Plays all conversations, one after the other, and writes down what arrived.
fn replay(rig: &Rig, mode: Mode, traffic: &[Conversation]) -> Vec<Record> {
    let (client_wire, server_wire) = wires(rig);
    let switch = [Wire::open(&rig.lb, "front").mac, Wire::open(&rig.lb, "back").mac];
    let mut records = Vec::new();
    for conversation in traffic {
        let family = conversation.family;
        // Where the server's packets go to: in fullnat it is known from what arrived.
        let mut peer = (client(family), conversation.port);
        let mut record = Record::new();
        for step in &conversation.steps {
            let (from, to, macs, out, into) = match step.from {
                From::Client => (
                    (client(family), conversation.port),
                    (vip(family), VPORT),
                    (client_wire.mac, switch[0]),
                    &client_wire,
                    &server_wire,
                ),
                From::Server => (
                    (server(family), RPORT),
                    peer,
                    (server_wire.mac, switch[1]),
                    &server_wire,
                    &client_wire,
                ),
            };
            out.send(&frame(macs, from, to, &step.body));
            let sent_by_us = |endpoint: (IpAddr, u16)| {
                move |frame: &[u8]| {
                    endpoints(frame).is_some_and(|(src, dst)| src == endpoint || dst == endpoint)
                }
            };
            let expected = match step.from {
                From::Client => (server(family), RPORT),
                From::Server => (client(family), conversation.port),
            };
            let arrived = into.receive(PATIENCE, sent_by_us(expected));
            record.push(arrived.map(|frame| {
                assert_sound(&frame);
                if step.from == From::Client
                    && let Some((src, _)) = endpoints(&frame)
                {
                    peer = src;
                }
                normalised(&frame, mode, family, step.from)
            }));
        }
        records.push(record);
    }
    records
}

/// Source and destination of a TCP or UDP packet.
fn endpoints(frame: &[u8]) -> Option<((IpAddr, u16), (IpAddr, u16))> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst): (IpAddr, IpAddr) = match packet.net? {
        etherparse::NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return None,
    };
    let (sport, dport) = match packet.transport? {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        _ => return None,
    };
    Some(((src, sport), (dst, dport)))
}

/// The checksums are right, as an independent parser computes them.
fn assert_sound(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let transport = packet.transport.expect("a transport header");
    match packet.net.expect("an IP header") {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "{frame:02x?}");
            match transport {
                TransportSlice::Tcp(tcp) => assert_eq!(
                    tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).expect("a length"),
                    tcp.checksum(),
                    "{frame:02x?}"
                ),
                TransportSlice::Udp(udp) => assert_eq!(
                    udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("a length"),
                    udp.checksum(),
                    "{frame:02x?}"
                ),
                _ => panic!("{frame:02x?}"),
            }
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => assert_eq!(
                    tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).expect("a length"),
                    tcp.checksum(),
                    "{frame:02x?}"
                ),
                TransportSlice::Udp(udp) => assert_eq!(
                    udp.to_header().calc_checksum_ipv6(&header, udp.payload()).expect("a length"),
                    udp.checksum(),
                    "{frame:02x?}"
                ),
                _ => panic!("{frame:02x?}"),
            }
        }
        _ => panic!("{frame:02x?}"),
    }
}

/// From the IP header to the end of the packet; in fullnat towards the server without the source
/// port, which each switch is free to choose, and the checksum that depends on it.
fn normalised(frame: &[u8], mode: Mode, family: Family, from: From) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    let (transport, length) = match family {
        Family::V4 => (20, usize::from(u16::from_be_bytes([packet[2], packet[3]]))),
        Family::V6 => (40, 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))),
    };
    packet.truncate(length);
    if mode == Mode::FullNat && from == From::Client {
        let protocol = if family == Family::V4 { packet[9] } else { packet[6] };
        let checksum = transport + if protocol == 6 { 16 } else { 6 };
        packet[transport..transport + 2].fill(0);
        packet[checksum..checksum + 2].fill(0);
    }
    packet
}

fn frame(
    (src_mac, dst_mac): ([u8; 6], [u8; 6]),
    (src, sport): (IpAddr, u16),
    (dst, dport): (IpAddr, u16),
    body: &Body,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ethernet = PacketBuilder::ethernet2(src_mac, dst_mac);
    let ip = match (src, dst) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(Ipv4Addr::octets(&a), b.octets(), TTL),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(Ipv6Addr::octets(&a), b.octets(), TTL),
        _ => panic!("{src} and {dst} are of different families"),
    };
    match body {
        Body::Udp { data } => ip.udp(sport, dport).write(&mut bytes, data).expect("a Vec"),
        Body::Tcp { seq, ack, flags, data, options } => {
            let mut tcp = TcpHeader::new(sport, dport, *seq, 502);
            if let Some(ack) = ack {
                tcp.ack = true;
                tcp.acknowledgment_number = *ack;
            }
            tcp.syn = flags.contains('S');
            tcp.fin = flags.contains('F');
            tcp.rst = flags.contains('R');
            tcp.psh = flags.contains('P');
            let timestamp = TcpOptionElement::Timestamp(*seq ^ 0x5a5a, ack.unwrap_or(0));
            if *options {
                tcp.set_options(&[
                    TcpOptionElement::MaximumSegmentSize(1460),
                    TcpOptionElement::SelectiveAcknowledgementPermitted,
                    timestamp,
                    TcpOptionElement::Noop,
                    TcpOptionElement::WindowScale(7),
                ])
                .expect("they fit");
            } else {
                tcp.set_options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, timestamp])
                    .expect("they fit");
            }
            ip.tcp_header(tcp).write(&mut bytes, data).expect("a Vec");
        }
    }
    bytes
}

/// The recorded traffic: made once, from one seed.
fn traffic() -> Vec<Conversation> {
    let mut random = Random(0x5eed);
    let mut all = Vec::new();
    for n in 0..24 {
        for family in Family::BOTH {
            let port = 20_000 + n;
            all.push(Conversation { family, port, steps: tcp_conversation(&mut random) });
            let port = 30_000 + n;
            all.push(Conversation { family, port, steps: udp_conversation(&mut random) });
        }
    }
    all
}

fn udp_conversation(random: &mut Random) -> Vec<Step> {
    (0..2 + random.below(4))
        .map(|n| {
            // The first one opens the session.
            let from = if n == 0 || random.below(2) == 0 { From::Client } else { From::Server };
            Step { from, body: Body::Udp { data: random.bytes(1400) } }
        })
        .collect()
}

/// One side of a TCP connection, as far as a script needs it.
#[derive(Clone, Copy)]
struct Side {
    next: u32,
    acked: u32,
}

fn tcp_conversation(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut sides =
        [random.next() as u32, random.next() as u32].map(|n| Side { next: n, acked: 0 });
    let of = |from: From| usize::from(from == From::Server);
    let other = |from: From| if from == From::Client { From::Server } else { From::Client };
    let tcp = |from, sides: &[Side; 2], flags, data: Vec<u8>, options| {
        let side = sides[of(from)];
        let ack = (flags != "S").then_some(side.acked);
        Step { from, body: Body::Tcp { seq: side.next, ack, flags, data, options } }
    };
    let take = |sides: &mut [Side; 2], from: From, n: u32| {
        let next = sides[of(from)].next.wrapping_add(n);
        sides[of(from)].next = next;
        sides[of(other(from))].acked = next;
    };

    let syn = tcp(From::Client, &sides, "S", Vec::new(), true);
    if random.below(4) == 0 {
        // Sent again.
        steps.push(syn.clone());
    }
    steps.push(syn);
    take(&mut sides, From::Client, 1);
    steps.push(tcp(From::Server, &sides, "SA", Vec::new(), true));
    take(&mut sides, From::Server, 1);
    steps.push(tcp(From::Client, &sides, "A", Vec::new(), false));

    for _ in 0..1 + random.below(6) {
        let from = if random.below(2) == 0 { From::Client } else { From::Server };
        let data = random.bytes(1400);
        let length = data.len() as u32;
        let segment = tcp(from, &sides, "PA", data, false);
        take(&mut sides, from, length);
        if random.below(4) == 0 {
            // Overtaken by the segment after it.
            let data = random.bytes(700);
            let length = data.len() as u32;
            let later = tcp(from, &sides, "PA", data, false);
            take(&mut sides, from, length);
            steps.extend([later, segment]);
        } else if random.below(4) == 0 {
            steps.extend([segment.clone(), segment]);
        } else {
            steps.push(segment);
        }
        steps.push(tcp(other(from), &sides, "A", Vec::new(), false));
    }

    let first = if random.below(2) == 0 { From::Client } else { From::Server };
    match random.below(4) {
        0 => {
            // A reset, with the number that is expected next.
            steps.push(tcp(first, &sides, "R", Vec::new(), false));
        }
        1 => {
            // Both close at once.
            let both = [first, other(first)].map(|from| tcp(from, &sides, "FA", Vec::new(), false));
            steps.extend(both);
            take(&mut sides, first, 1);
            take(&mut sides, other(first), 1);
            steps.push(tcp(first, &sides, "A", Vec::new(), false));
            steps.push(tcp(other(first), &sides, "A", Vec::new(), false));
        }
        _ => {
            // One after the other, data in between.
            steps.push(tcp(first, &sides, "FA", Vec::new(), false));
            take(&mut sides, first, 1);
            let data = random.bytes(300);
            let length = data.len() as u32;
            steps.push(tcp(other(first), &sides, "PA", data, false));
            take(&mut sides, other(first), length);
            steps.push(tcp(first, &sides, "A", Vec::new(), false));
            steps.push(tcp(other(first), &sides, "FA", Vec::new(), false));
            take(&mut sides, other(first), 1);
            steps.push(tcp(first, &sides, "A", Vec::new(), false));
        }
    }
    steps
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// 1 to `most` bytes.
    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = 1 + self.below(most);
        (0..length).map(|_| self.next() as u8).collect()
    }
}
