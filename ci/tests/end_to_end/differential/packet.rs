//! IP packets of the scripts as bytes: built by `etherparse`, checked by sums of their own. No IP
//! options, and of IPv6's extension headers only the fragment header.

use std::net::{IpAddr, SocketAddr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder,
};

use super::script::{Body, Checksum, Complaint};

pub(super) const TTL: u8 = 57;
/// Of every packet: whether it is kept can be seen.
const TRAFFIC_CLASS: u8 = 0x2a << 2;
const FLOW_LABEL: u32 = 0x5_1234;
const IDENT: u16 = 0x1d1d;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

/// What a script's packet is made of besides its body.
pub(super) struct Surroundings<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Source and destination it is to arrive with, as far as the switch has no choice.
    pub(super) arrives_as: (SocketAddr, SocketAddr),
    /// What its sender received last.
    pub(super) received: &'a [u8],
}

/// The packet.
pub(super) fn build(body: &Body, around: &Surroundings<'_>) -> Vec<u8> {
    let (from, to) = (around.source, around.destination);
    let mut packet = Vec::new();
    let builder = PacketBuilder::ip(ip_headers(from.ip(), to.ip()));
    let written = match body {
        Body::Tcp { header, data } => {
            let mut header = header.clone();
            (header.source_port, header.destination_port) = (from.port(), to.port());
            builder.tcp_header(header).write(&mut packet, data)
        }
        Body::Udp { data, checksum } => {
            let mut data = data.clone();
            if *checksum == Checksum::Extreme {
                complete_extreme(&mut data, around);
            }
            builder.udp(from.port(), to.port()).write(&mut packet, &data)
        }
        Body::Error { complaint, quoted } => {
            let quote = &around.received[..around.received.len().min(*quoted)];
            let mtu = 1280;
            if from.is_ipv4() {
                let kind = Icmpv4Type::DestinationUnreachable(match complaint {
                    Complaint::Unreachable => DestUnreachableHeader::Port,
                    Complaint::TooBig => {
                        DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu }
                    }
                });
                builder.icmpv4(kind).write(&mut packet, quote)
            } else {
                let kind = match complaint {
                    Complaint::Unreachable => {
                        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port)
                    }
                    Complaint::TooBig => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
                };
                builder.icmpv6(kind).write(&mut packet, quote)
            }
        }
    };
    written.expect("a Vec takes it");
    if let Body::Udp { checksum: Checksum::Absent, .. } = body {
        let at = transport(&packet) + 6;
        packet[at..at + 2].fill(0);
    }
    packet
}

/// Adds to a datagram its own checksum, as it is to arrive: that makes the sum 0xffff and its inverse,
/// the checksum, 0.
fn complete_extreme(data: &mut Vec<u8>, around: &Surroundings<'_>) {
    let (source, destination) = around.arrives_as;
    let arrived = Surroundings { source, destination, ..*around };
    let checksum = |data: &[u8]| {
        let body = Body::Udp { data: data.to_vec(), checksum: Checksum::Plain };
        let packet = build(&body, &arrived);
        let at = transport(&packet) + 6;
        [packet[at], packet[at + 1]]
    };
    let end = data.len().next_multiple_of(2);
    data.resize(end + 2, 0);
    let sum = checksum(data);
    data[end..].copy_from_slice(&sum);
    assert_eq!(checksum(data), [0xff; 2], "0 stands for no checksum");
}

fn ip_headers(from: IpAddr, to: IpAddr) -> IpHeaders {
    let later = IpNumber::UDP;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header::new(0, TTL, later, from.octets(), to.octets());
            let mut header = header.expect("a short packet");
            header.identification = IDENT;
            header.dscp = (TRAFFIC_CLASS >> 2).try_into().expect("six bits");
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: TRAFFIC_CLASS,
                flow_label: FLOW_LABEL.try_into().expect("20 bits"),
                payload_length: 0,
                next_header: later,
                hop_limit: TTL,
                source: from.octets(),
                destination: to.octets(),
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{from} and {to} are of different families"),
    }
}

fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Where the transport header begins.
fn transport(packet: &[u8]) -> usize {
    if is_v4(packet) { 20 } else { 40 }
}

fn protocol(packet: &[u8]) -> u8 {
    if is_v4(packet) { packet[9] } else { packet[6] }
}

/// Which end of a packet.
#[derive(Clone, Copy)]
pub(super) enum End {
    Source,
    Destination,
}

fn address_field(packet: &[u8], end: End) -> std::ops::Range<usize> {
    match (is_v4(packet), end) {
        (true, End::Source) => 12..16,
        (true, End::Destination) => 16..20,
        (false, End::Source) => 8..24,
        (false, End::Destination) => 24..40,
    }
}

/// The IP packet in an Ethernet frame, without padding.
pub(super) fn of_frame(frame: &[u8]) -> Option<&[u8]> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    let at =
        |n: usize| Some(usize::from(u16::from_be_bytes([*packet.get(n)?, *packet.get(n + 1)?])));
    let length = match ethernet[12..] {
        [0x08, 0x00] => at(2)?,
        [0x86, 0xdd] => at(4)? + 40,
        _ => return None,
    };
    packet.get(..length)
}

/// Its address at one end.
pub(super) fn address(packet: &[u8], end: End) -> IpAddr {
    let field = &packet[address_field(packet, end)];
    match <[u8; 4]>::try_from(field) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(field).expect("16 bytes").into(),
    }
}

/// Its source, unless it is an ICMP message.
pub(super) fn source(packet: &[u8]) -> Option<SocketAddr> {
    let at = transport(packet);
    let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
    let has_ports = matches!(protocol(packet), TCP | UDP);
    has_ports.then(|| SocketAddr::new(address(packet, End::Source), port))
}

/// The packet that an ICMP error is about, as far as it is quoted.
pub(super) fn quote(packet: &[u8]) -> Option<&[u8]> {
    let icmp = matches!(protocol(packet), ICMPV4 | ICMPV6);
    icmp.then(|| &packet[transport(packet) + 8..])
}

/// The Internet checksum (RFC 1071) before it is inverted: 0xffff over what has a right one.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn header_is_sound(packet: &[u8]) -> bool {
    !is_v4(packet) || sum(&[&packet[..20]]) == 0xffff
}

/// Whether every checksum of it is right that can be known.
pub(super) fn is_sound(packet: &[u8]) -> bool {
    let (at, protocol) = (transport(packet), protocol(packet));
    let payload = &packet[at..];
    let absent = is_v4(packet) && protocol == UDP && payload[6..8] == [0, 0];
    let addresses = match protocol {
        ICMPV4 => &[],
        _ => &packet[address_field(packet, End::Source).start..at],
    };
    let pseudo = match protocol {
        ICMPV4 => [0; 2],
        _ => [payload.len() as u32, u32::from(protocol)],
    };
    let pseudo = pseudo.map(u32::to_be_bytes);
    header_is_sound(packet)
        && (absent || sum(&[addresses, pseudo.as_flattened(), payload]) == 0xffff)
        && !(protocol == UDP && !absent && payload[6..8] == [0, 0])
        && quote(packet).is_none_or(header_is_sound)
}

/// Whether an ICMP error quotes `sent`, which has been forwarded once or not at all.
pub(super) fn quotes(error: &[u8], sent: &[u8]) -> bool {
    let Some(quote) = quote(error) else { return false };
    let timeless = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        let hops = if is_v4(&packet) { 8 } else { 7 };
        packet[hops] = 0;
        if is_v4(&packet) {
            packet[10..12].fill(0);
        }
        packet
    };
    timeless(sent).starts_with(&timeless(quote))
}

/// Takes out what depends on an endpoint that the switch was free to choose: address, port and the
/// checksums over them, also where an ICMP error quotes a packet *to* it.
pub(super) fn blank(packet: &mut [u8], end: End) {
    let (at, protocol) = (transport(packet), protocol(packet));
    let address = address_field(packet, end);
    packet[address].fill(0);
    if is_v4(packet) {
        packet[10..12].fill(0);
    }
    let (checksum, port) = match (protocol, end) {
        (TCP, End::Source) => (at + 16, Some(at)),
        (TCP, End::Destination) => (at + 16, Some(at + 2)),
        (UDP, End::Source) => (at + 6, Some(at)),
        (UDP, End::Destination) => (at + 6, Some(at + 2)),
        _ => (at + 2, None),
    };
    match port {
        Some(port) => packet[port..port + 2].fill(0),
        None => blank(&mut packet[at + 8..], End::Destination),
    }
    // Whether a datagram has one is none of the switch's choice.
    if let Some(field) = packet.get_mut(checksum..checksum + 2)
        && field != [0, 0]
    {
        field.fill(0xff);
    }
}

fn seal(header: &mut [u8], length: usize) {
    if is_v4(header) {
        header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        header[10..12].fill(0);
        let checksum = !sum(&[&header[..20]]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        header[4..6].copy_from_slice(&(length as u16 - 40).to_be_bytes());
    }
}

/// Cuts a packet into fragments with `size` bytes of payload, a multiple of 8.
pub(super) fn cut(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(transport(packet));
    let count = payload.len().div_ceil(size);
    let piece = |(n, bytes): (usize, &[u8])| {
        let more = n + 1 < count;
        let offset = (n * size) as u16;
        let mut piece = header.to_vec();
        if is_v4(packet) {
            let field = (offset / 8) | (u16::from(more) << 13);
            piece[6..8].copy_from_slice(&field.to_be_bytes());
        } else {
            piece[6] = FRAGMENT;
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            piece.extend([protocol(packet), 0, high, low, 0, 0, 0x1d, 0x1d]);
        }
        piece.extend(bytes);
        let length = piece.len();
        seal(&mut piece, length);
        piece
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// The packet that pieces came from, in any order, with the identification 0, and the payload's
/// length of each piece; `None` when they do not make one.
pub(super) fn join(mut pieces: Vec<Vec<u8>>) -> Option<(Vec<u8>, Vec<usize>)> {
    if let [whole] = &mut pieces[..] {
        return Some((std::mem::take(whole), Vec::new()));
    }
    let v4 = is_v4(&pieces[0]);
    let field = |piece: &[u8]| {
        let at = if v4 { 6 } else { 42 };
        let bits = u16::from_be_bytes([piece[at], piece[at + 1]]);
        if v4 {
            (usize::from(bits & 0x1fff) * 8, bits & 0x2000 != 0)
        } else {
            (usize::from(bits & !7), bits & 1 != 0)
        }
    };
    let ident = |piece: &[u8]| if v4 { piece[4..6].to_vec() } else { piece[44..48].to_vec() };
    pieces.sort_by_key(|piece| field(piece).0);
    let first = pieces[0].clone();
    let mut whole = first[..transport(&first)].to_vec();
    if v4 {
        whole[4..8].fill(0);
    } else {
        whole[6] = first[40];
    }
    let begin = if v4 { 20 } else { 48 };
    let mut lengths = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let (offset, more) = field(piece);
        let fits = lengths.iter().sum::<usize>() == offset && more == (n + 1 < pieces.len());
        let fragment = v4 || piece[6] == FRAGMENT;
        if !fits || !fragment || !header_is_sound(piece) || ident(piece) != ident(&first) {
            return None;
        }
        whole.extend(&piece[begin..]);
        lengths.push(piece.len() - begin);
    }
    let length = whole.len();
    seal(&mut whole, length);
    Some((whole, lengths))
}
