//! Frames, built by etherparse: it computes every length and checksum, so what the switch makes is
//! compared with what somebody else thinks is right.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv4Type, Icmpv6Type, PacketBuilder,
};
use shunt::datapath::snapshot::Mac;
use shunt::wire::flow::Protocol;

use crate::net::endpoint;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const SYN_ACK: u8 = SYN | ACK;
pub const FIN_ACK: u8 = 0x11;
pub const RST: u8 = 0x04;
pub const PSH_ACK: u8 = 0x18;

/// A TCP or UDP packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: Protocol,
    pub flags: u8,
    pub ttl: u8,
    pub payload: Vec<u8>,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub options: Vec<u8>,
}

/// The number of every SYN, from either side, unless a test says otherwise.
pub const ISN: u32 = 0x1020_3040;

/// A TCP segment without data, TTL 64. Its numbers are those of a connection that has carried none:
/// a SYN has [`ISN`], everything else the next number, and acknowledges it.
pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Packet {
    Packet {
        from_mac: [0; 6],
        to_mac: [0; 6],
        src,
        dst,
        protocol: Protocol::Tcp,
        flags,
        ttl: 64,
        payload: Vec::new(),
        seq: if flags & SYN != 0 { ISN } else { ISN + 1 },
        ack: ISN + 1,
        window: 4096,
        options: Vec::new(),
    }
}

/// A UDP datagram with a few bytes, an odd number of them, TTL 64.
pub fn udp(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet { protocol: Protocol::Udp, flags: 0, payload: b"hello".into(), ..tcp(src, dst, 0) }
}

impl Packet {
    pub fn macs(mut self, from: Mac, to: Mac) -> Self {
        (self.from_mac, self.to_mac) = (from, to);
        self
    }
    /// The bytes, but to another MAC address.
    pub fn macs_to(mut self, to: Mac) -> Vec<u8> {
        self.to_mac = to;
        self.bytes()
    }
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }
    pub fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }
    /// TCP options, a multiple of 4 bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.into();
        self
    }
    pub fn ack(mut self, ack: u32) -> Self {
        self.ack = ack;
        self
    }
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.into();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let start = PacketBuilder::ethernet2(self.from_mac, self.to_mac);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => start.ipv4(src.octets(), dst.octets(), self.ttl),
            (IpAddr::V6(src), IpAddr::V6(dst)) => start.ipv6(src.octets(), dst.octets(), self.ttl),
            _ => panic!("two families"),
        };
        let mut bytes = Vec::new();
        match self.protocol {
            Protocol::Icmp => panic!("no packet has it"),
            Protocol::Udp => {
                ip.udp(self.src.port(), self.dst.port()).write(&mut bytes, &self.payload).unwrap();
            }
            Protocol::Tcp => {
                let mut tcp = ip.tcp(self.src.port(), self.dst.port(), self.seq, self.window);
                for (bit, set) in (0..8).map(|bit| (bit, self.flags >> bit & 1 == 1)) {
                    tcp = match bit {
                        0 if set => tcp.fin(),
                        1 if set => tcp.syn(),
                        2 if set => tcp.rst(),
                        3 if set => tcp.psh(),
                        4 if set => tcp.ack(self.ack),
                        5 if set => tcp.urg(3),
                        6 if set => tcp.ece(),
                        7 if set => tcp.cwr(),
                        _ => tcp,
                    };
                }
                let tcp = tcp.options_raw(&self.options).unwrap();
                tcp.write(&mut bytes, &self.payload).unwrap();
            }
        }
        bytes
    }
}

/// An ICMP or ICMPv6 echo request or reply.
pub fn echo(macs: (Mac, Mac), src: IpAddr, dst: IpAddr, reply: bool, ttl: u8) -> Vec<u8> {
    echo_of(macs, src, dst, reply, ttl, 0x1234)
}

/// The same with this identifier.
pub fn echo_of(
    macs: (Mac, Mac),
    src: IpAddr,
    dst: IpAddr,
    reply: bool,
    ttl: u8,
    id: u16,
) -> Vec<u8> {
    let header = etherparse::IcmpEchoHeader { id, seq: 7 };
    let start = PacketBuilder::ethernet2(macs.0, macs.1);
    let mut bytes = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let kind =
                if reply { Icmpv4Type::EchoReply(header) } else { Icmpv4Type::EchoRequest(header) };
            start
                .ipv4(src.octets(), dst.octets(), ttl)
                .icmpv4(kind)
                .write(&mut bytes, b"payload of a ping")
                .unwrap();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let kind =
                if reply { Icmpv6Type::EchoReply(header) } else { Icmpv6Type::EchoRequest(header) };
            start
                .ipv6(src.octets(), dst.octets(), ttl)
                .icmpv6(kind)
                .write(&mut bytes, b"payload of a ping")
                .unwrap();
        }
        _ => panic!("two families"),
    }
    bytes
}

/// The Time Exceeded about `frame`, quoting all of its packet.
pub fn time_exceeded(macs: (Mac, Mac), src: IpAddr, dst: IpAddr, frame: &[u8]) -> Vec<u8> {
    icmp_error(macs, src, dst, 64, [(11, 0), (3, 0)], 0, &frame[14..])
}

/// The Fragmentation Needed or Packet Too Big about `frame`, quoting all of it.
pub fn packet_too_big(
    macs: (Mac, Mac),
    src: IpAddr,
    dst: IpAddr,
    frame: &[u8],
    mtu: u16,
) -> Vec<u8> {
    icmp_error(macs, src, dst, 64, [(3, 4), (2, 0)], u32::from(mtu), &frame[14..])
}

/// An ICMP error with these type and code in IPv4 and in IPv6, `rest` in its second word, and this
/// quote.
pub fn icmp_error(
    macs: (Mac, Mac),
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    [v4, v6]: [(u8, u8); 2],
    rest: u32,
    quote: &[u8],
) -> Vec<u8> {
    let rest = rest.to_be_bytes();
    let start = PacketBuilder::ethernet2(macs.0, macs.1);
    let mut bytes = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => start
            .ipv4(src.octets(), dst.octets(), ttl)
            .icmpv4_raw(v4.0, v4.1, rest)
            .write(&mut bytes, quote)
            .unwrap(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => start
            .ipv6(src.octets(), dst.octets(), ttl)
            .icmpv6_raw(v6.0, v6.1, rest)
            .write(&mut bytes, quote)
            .unwrap(),
        _ => panic!("two families"),
    }
    bytes
}

/// An ARP packet; the sender's MAC address is the frame's source.
pub fn arp(
    operation: ArpOperation,
    macs: (Mac, Mac),
    sender: &str,
    target: &str,
    target_mac: Mac,
) -> Vec<u8> {
    let ip = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &macs.0,
        &ip(sender),
        &target_mac,
        &ip(target),
    )
    .unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1).arp(packet).write(&mut bytes).unwrap();
    bytes
}

/// A neighbor solicitation (type 135) or advertisement (136) with these flags and at most one
/// link-layer address option.
pub fn ndp(
    kind: u8,
    macs: (Mac, Mac),
    src: &str,
    dst: &str,
    flags: u8,
    target: &str,
    option: Option<(u8, Mac)>,
) -> Vec<u8> {
    let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut body = ip(target).to_vec();
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac);
    }
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(ip(src), ip(dst), 255)
        .icmpv6_raw(kind, 0, [flags, 0, 0, 0])
        .write(&mut bytes, &body)
        .unwrap();
    bytes
}

/// Recomputes the IPv4 header checksum of a frame whose header was tampered with.
pub fn mend_ipv4_checksum(frame: &mut [u8]) {
    let header = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..14 + header]);
    // etherparse gives the checksum in the byte order of memory.
    frame[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

/// The source port of a TCP or UDP frame without options or extension headers.
pub fn source_port(frame: &[u8]) -> u16 {
    let at = if frame[12] == 0x08 { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The frame with this type of service or traffic class.
pub fn with_class(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if frame[12] == 0x08 {
        frame[15] = class;
        mend_ipv4_checksum(&mut frame);
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4 | frame[15] & 15;
    }
    frame
}

/// A client endpoint of the usual client's network.
pub fn client(n: u16) -> SocketAddr {
    SocketAddr::new(endpoint("198.51.100.7:0").ip(), n)
}
