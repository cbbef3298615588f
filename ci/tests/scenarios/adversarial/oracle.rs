//! What may leave the switch: frames that etherparse reads, with right checksums, no longer than the
//! port takes. Fragments are put together, and then the same holds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{Ipv4Header, Ipv6Header, TcpHeader};
use shunt::datapath::snapshot::{Port, PortId, PortRole, Snapshot};

/// The tunnels of the scenarios.
pub const GUE_PORT: u16 = 6080;
pub const VXLAN_PORT: u16 = 4789;

/// What is wrong with a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It cannot be read.
    Malformed(String),
    /// A TCP, UDP or ICMP checksum.
    Checksum(String),
    /// The packet that an ICMP error quotes, as far as it can be told.
    Quote(Box<Wrong>),
}

/// What may be wrong with a frame that leaves, since it came in so.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    /// Transport checksums.
    pub checksums: bool,
    /// Quotes.
    pub quotes: bool,
}

/// Source, destination, protocol and number of a packet in fragments.
type Whole = (IpAddr, IpAddr, u8, u32);

/// Fragments by packet and offset: whether more follow, and their bytes.
#[derive(Debug, Default)]
pub struct Pieces(BTreeMap<Whole, BTreeMap<usize, (bool, Vec<u8>)>>);

impl Pieces {
    /// Takes the fragment in a frame that has left, or in the tunnel there, if it holds one.
    pub fn take(&mut self, snapshot: &Snapshot, port: PortId, frame: &[u8]) {
        let of = &snapshot.ports[usize::from(port.0)];
        if !is_judged(of) {
            return;
        }
        let packet = within(&frame[if of.vlan == 0 { 14 } else { 18 }..]);
        let be16 = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let (key, at, word, end);
        match packet.first().map(|byte| byte >> 4) {
            Some(4) if be16(6) & 0x3fff != 0 => {
                key = (ends(packet).0, ends(packet).1, packet[9], u32::from(be16(4)));
                (at, word, end) = (20, be16(6) << 3 | be16(6) >> 13, be16(2));
            }
            Some(6) if packet[6] == 44 => {
                let ident = u32::from(be16(44)) << 16 | u32::from(be16(46));
                key = (ends(packet).0, ends(packet).1, packet[40], ident);
                (at, word, end) = (48, be16(42), 40 + be16(4));
            }
            _ => return,
        }
        let piece = (word & 1 != 0, packet[at..usize::from(end)].to_vec());
        self.0.entry(key).or_default().insert(usize::from(word & !7), piece);
    }

    /// Puts all packets together that are complete; how many there were.
    pub fn judge(&mut self) -> Result<usize, String> {
        let mut complete = 0;
        for ((src, dst, protocol, ident), pieces) in std::mem::take(&mut self.0) {
            let (mut packet, mut done) = (Vec::new(), false);
            for (offset, (more, bytes)) in pieces {
                if offset != packet.len() {
                    break;
                }
                packet.extend(bytes);
                done = !more;
            }
            if done {
                complete += 1;
                transport(protocol, (src, dst), &packet, false)
                    .map_err(|wrong| format!("{src} to {dst}, number {ident}: {wrong:?}"))?;
            }
        }
        Ok(complete)
    }
}

fn malformed<T>(what: impl std::fmt::Debug) -> Result<T, Wrong> {
    Err(Wrong::Malformed(format!("{what:?}")))
}

/// Judges a frame that comes in: whether its headers are whole and every checksum is right.
pub fn is_sound(frame: &[u8]) -> bool {
    let mut at = 12;
    while frame.get(at..at + 2) == Some(&[0x81, 0]) {
        at += 4;
    }
    match frame.get(at..at + 2) {
        Some([8, 0] | [0x86, 0xdd]) => ip(&frame[at + 2..], false).is_ok(),
        // Nothing that is forwarded.
        _ => true,
    }
}

/// Whether what leaves by this port is the switch's own work: the kernel gets what came, and so does a
/// sensor.
fn is_judged(port: &Port) -> bool {
    matches!(port.role, PortRole::Wire { .. }) && port.name != "sensor"
}

/// Judges a frame that leaves by `port`.
pub fn leaves(
    snapshot: &Snapshot,
    port: PortId,
    mut frame: &[u8],
    excuse: Excuse,
) -> Result<(), String> {
    let of = &snapshot.ports[usize::from(port.0)];
    let longest = usize::from(of.mtu) + 14 + if of.vlan == 0 { 0 } else { 4 };
    // The kernel gets what came, however long it is.
    if frame.len() > longest && !matches!(of.role, PortRole::Exception { .. }) {
        return Err(format!("{} bytes on a port for {longest}", frame.len()));
    }
    if !is_judged(of) {
        return Ok(());
    }
    if frame.len() < 14 {
        return Err("shorter than an Ethernet header".into());
    }
    if frame[6..12] != of.mac {
        return Err(format!("from MAC address {:x?}", &frame[6..12]));
    }
    if frame[..6] == [0; 6] || frame[..6] == of.mac {
        return Err(format!("to MAC address {:x?}", &frame[..6]));
    }
    if of.vlan != 0 {
        let tag = [0x81, 0, (of.vlan >> 8) as u8, of.vlan as u8];
        if frame[12..16] != tag {
            return Err(format!("tag {:x?}", &frame[12..16]));
        }
        frame = &frame[4..];
    }
    match frame[12..14] {
        [8, 0] | [0x86, 0xdd] => match ip(&frame[14..], true) {
            Err(Wrong::Checksum(_)) if excuse.checksums => Ok(()),
            Err(Wrong::Quote(_)) if excuse.quotes => Ok(()),
            result => result.map_err(|wrong| format!("{wrong:?}")),
        },
        [8, 6] if frame.len() >= 42 => Ok(()),
        _ => Err(format!("EtherType {:x?}", &frame[12..14])),
    }
}

/// Source and destination of an IP packet.
fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    if packet[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

/// The packet in a tunnel, or else this one.
fn within(packet: &[u8]) -> &[u8] {
    let (protocol, at) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet[6] & 0x3f == 0 && packet[7] == 0 => (packet[9], 20),
        Some(6) => (packet[6], 40),
        _ => return packet,
    };
    let more = match protocol {
        4 | 41 => 0,
        47 => 4,
        17 => match tunnelled(&packet[at..]) {
            Some(at) => at,
            None => return packet,
        },
        _ => return packet,
    };
    &packet[at + more..]
}

/// Where the packet begins that a UDP datagram of a tunnel holds.
fn tunnelled(datagram: &[u8]) -> Option<usize> {
    let port = u16::from_be_bytes([datagram[2], datagram[3]]);
    match (port, datagram.get(8..12)?) {
        (GUE_PORT, [0, 4 | 41, 0, 0]) => Some(12),
        (VXLAN_PORT, [8, 0, 0, 0]) => Some(30),
        _ => None,
    }
}

/// Judges an IP packet, which may have padding behind it. `tunnels` are looked into.
fn ip(packet: &[u8], tunnels: bool) -> Result<(), Wrong> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            let (header, _) = Ipv4Header::from_slice(packet).or_else(malformed)?;
            if total(0, None, &packet[..header.header_len()]) != 0 {
                return malformed("IPv4 header checksum");
            }
            let payload = packet.get(header.header_len()..usize::from(header.total_len));
            let Some(payload) = payload else { return malformed("IPv4 total length") };
            if header.is_fragmenting_payload() {
                return Ok(());
            }
            let ends = (header.source.into(), header.destination.into());
            transport(header.protocol.0, ends, payload, tunnels)
        }
        Some(6) => {
            let (header, rest) = Ipv6Header::from_slice(packet).or_else(malformed)?;
            let payload = rest.get(..usize::from(header.payload_length));
            let Some(payload) = payload else { return malformed("IPv6 payload length") };
            let ends = (header.source.into(), header.destination.into());
            transport(header.next_header.0, ends, payload, tunnels)
        }
        _ => malformed("IP version"),
    }
}

fn transport(
    protocol: u8,
    ends: (IpAddr, IpAddr),
    payload: &[u8],
    tunnels: bool,
) -> Result<(), Wrong> {
    let v6 = ends.0.is_ipv6();
    match protocol {
        6 => {
            TcpHeader::from_slice(payload).or_else(malformed)?;
            sum(6, Some(ends), payload)
        }
        17 => {
            if payload.len() < 8 {
                return malformed("UDP header");
            }
            let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
            let Some(datagram) = payload.get(..usize::from(word(4))).filter(|d| d.len() >= 8)
            else {
                return malformed("UDP length");
            };
            let inner = if tunnels { tunnelled(payload) } else { None };
            // In IPv4, and around a tunnel, it may be left out.
            if word(6) != 0 || (v6 && inner.is_none()) {
                sum(17, Some(ends), datagram)?;
            }
            match inner {
                Some(at) => ip(payload.get(at..).unwrap_or_default(), false),
                None => Ok(()),
            }
        }
        1 if !v6 => {
            sum(1, None, payload)?;
            if matches!(payload.first(), Some(3 | 4 | 11 | 12)) { quote(payload) } else { Ok(()) }
        }
        58 if v6 => {
            sum(58, Some(ends), payload)?;
            if matches!(payload.first(), Some(1..=4)) { quote(payload) } else { Ok(()) }
        }
        4 | 41 if tunnels => ip(payload, false),
        47 if tunnels => ip(payload.get(4..).unwrap_or_default(), false),
        _ => Ok(()),
    }
}

/// Judges the packet that an ICMP error quotes: its checksums as far as all is there that they are
/// about.
fn quote(message: &[u8]) -> Result<(), Wrong> {
    let Some(quoted) = message.get(8..) else { return Ok(()) };
    let wrong = match quoted {
        [0x45, ..] if quoted.len() >= 20 && total(0, None, &quoted[..20]) != 0 => {
            Wrong::Checksum("IPv4 header".into())
        }
        _ => match ip(quoted, false) {
            Err(wrong @ Wrong::Checksum(_)) => wrong,
            _ => return Ok(()),
        },
    };
    Err(Wrong::Quote(Box::new(wrong)))
}

/// Whether an Internet checksum is right; over a pseudo header too if there are `ends`.
fn sum(protocol: u8, ends: Option<(IpAddr, IpAddr)>, bytes: &[u8]) -> Result<(), Wrong> {
    match total(protocol, ends, bytes) {
        0 => Ok(()),
        _ => Err(Wrong::Checksum(format!("protocol {protocol}"))),
    }
}

/// The checksum of the bytes as they are; 0 when they hold the right one.
fn total(protocol: u8, ends: Option<(IpAddr, IpAddr)>, bytes: &[u8]) -> u16 {
    let mut sum = Sum16BitWords::new();
    match ends {
        Some((IpAddr::V4(src), IpAddr::V4(dst))) => {
            sum = sum.add_4bytes(src.octets()).add_4bytes(dst.octets());
        }
        Some((IpAddr::V6(src), IpAddr::V6(dst))) => {
            sum = sum.add_16bytes(src.octets()).add_16bytes(dst.octets());
        }
        _ => {}
    }
    if ends.is_some() {
        sum = sum.add_2bytes([0, protocol]).add_2bytes((bytes.len() as u16).to_be_bytes());
    }
    sum.add_slice(bytes).ones_complement()
}

/// Where the transport checksum stands in a frame with a sound TCP or UDP packet that is no fragment.
pub fn transport_checksum(frame: &[u8]) -> Option<usize> {
    if !is_sound(frame) {
        return None;
    }
    let (protocol, at) = match frame.get(12..14)? {
        [8, 0] if frame[14] == 0x45 && frame[20] & 0x3f == 0 && frame[21] == 0 => (frame[23], 34),
        [0x86, 0xdd] => (frame[20], 54),
        _ => return None,
    };
    match protocol {
        6 => Some(at + 16),
        17 if frame[at + 6..at + 8] != [0, 0] => Some(at + 6),
        _ => None,
    }
}

/// Gives a frame without IP options, extension headers or fragments the checksums it should have, as
/// far as its lengths allow.
pub fn mend(frame: &mut [u8]) {
    let (protocol, ends, at, end): (u8, (IpAddr, IpAddr), usize, usize);
    match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 34 && frame[14] == 0x45 => {
            crate::frames::mend_ipv4_checksum(frame);
            let address = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into();
            ends = (IpAddr::V4(address(26)), IpAddr::V4(address(30)));
            (protocol, at) = (frame[23], 34);
            end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        }
        Some([0x86, 0xdd]) if frame.len() >= 54 => {
            let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into();
            ends = (IpAddr::V6(address(22)), IpAddr::V6(address(38)));
            (protocol, at) = (frame[20], 54);
            end = 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]));
        }
        _ => return,
    }
    let Some(payload) = frame.get_mut(at..end) else { return };
    let (place, ends) = match protocol {
        6 => (16, Some(ends)),
        17 => (6, Some(ends)),
        1 => (2, None),
        58 => (2, Some(ends)),
        _ => return,
    };
    if payload.len() < place + 2 {
        return;
    }
    payload[place..place + 2].fill(0);
    // etherparse gives the checksum in the byte order of memory.
    let sum = total(protocol, ends, payload).to_ne_bytes();
    payload[place..place + 2].copy_from_slice(&sum);
}
