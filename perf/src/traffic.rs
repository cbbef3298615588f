//! The traffic of every measurement: N flows, from as many clients, to one virtual server.
//!
//! Flow i comes from the client 100.64.0.0 + (i mod 2^16), port 1024 + i / 2^16. Each frame carries
//! the number of its flow, so that a receiver knows it again after its addresses were rewritten.

use std::net::Ipv4Addr;

use shunt::wire::checksum;
use shunt::wire::flow::{Protocol, tcp_flags};

/// The MAC address of the device under test.
pub const DUT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC address of the gateway that all clients are behind.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The MAC address of all real servers.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The virtual port, and that of the real servers.
pub const VIP_PORT: u16 = 80;
/// The address of the gateway to the clients.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The most flows there can be.
pub const MAX_FLOWS: u32 = 64_000 << 16;
/// Stands behind the number of the flow.
const MAGIC: [u8; 4] = *b"SHNT";
/// Offset of the transport header.
const TRANSPORT: usize = 34;

/// The address of real server `i`, below 65,000: 10.0.0.11 and on.
pub fn server_address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_000b + i as u32)
}

/// The FullNAT local address `i`, below 200: 10.1.0.1 and on.
pub fn local_address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a01_0001 + i as u32)
}

/// Address and port of the client of a flow below [`MAX_FLOWS`].
pub fn client(flow: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0x6440_0000 + (flow & 0xffff)), 1024 + (flow >> 16) as u16)
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A UDP datagram.
    Udp,
    /// A TCP segment with these flags.
    Tcp(u8),
}

impl Kind {
    /// Opens a connection.
    pub const SYN: Kind = Kind::Tcp(tcp_flags::SYN);
    /// The server's answer to [`Kind::SYN`].
    pub const SYN_ACK: Kind = Kind::Tcp(tcp_flags::SYN | tcp_flags::ACK);
    /// Any segment of an established connection.
    pub const ACK: Kind = Kind::Tcp(tcp_flags::ACK);

    fn protocol(self) -> Protocol {
        match self {
            Kind::Udp => Protocol::Udp,
            Kind::Tcp(_) => Protocol::Tcp,
        }
    }

    fn header_len(self) -> usize {
        match self {
            Kind::Udp => 8,
            Kind::Tcp(_) => 20,
        }
    }
}

/// The start of a frame, one cache line; whatever the frame holds beyond is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Head(pub [u8; 64]);

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Destination and source MAC address.
    pub macs: [[u8; 6]; 2],
    /// Source address and port.
    pub src: (Ipv4Addr, u16),
    /// Destination address and port.
    pub dst: (Ipv4Addr, u16),
}

impl Way {
    /// From the client of `flow` to the virtual server.
    pub fn of_client(flow: u32) -> Self {
        Way { macs: [DUT_MAC, CLIENT_MAC], src: client(flow), dst: (VIP, VIP_PORT) }
    }
}

/// A frame of `frame_len` bytes without FCS (at least 60) with right checksums.
pub fn head(way: &Way, kind: Kind, flow: u32, frame_len: usize) -> Head {
    let mut bytes = [0; 64];
    let ip_len = (frame_len - 14) as u16;
    bytes[..6].copy_from_slice(&way.macs[0]);
    bytes[6..12].copy_from_slice(&way.macs[1]);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    // Version and header length, then Don't Fragment, hop limit and protocol.
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&ip_len.to_be_bytes());
    bytes[20..24].copy_from_slice(&[0x40, 0, 64, kind.protocol().number()]);
    bytes[26..30].copy_from_slice(&way.src.0.octets());
    bytes[30..34].copy_from_slice(&way.dst.0.octets());
    let sum = !checksum::sum(&bytes[14..TRANSPORT]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());

    let transport = &mut bytes[TRANSPORT..];
    transport[..2].copy_from_slice(&way.src.1.to_be_bytes());
    transport[2..4].copy_from_slice(&way.dst.1.to_be_bytes());
    let checksum_at = match kind {
        Kind::Udp => {
            transport[4..6].copy_from_slice(&(ip_len - 20).to_be_bytes());
            6
        }
        Kind::Tcp(flags) => {
            transport[12..16].copy_from_slice(&[5 << 4, flags, 0x40, 0]);
            16
        }
    };
    let payload = &mut transport[kind.header_len()..];
    let room = payload.len().min(frame_len - TRANSPORT - kind.header_len());
    payload[..4].copy_from_slice(&flow.to_be_bytes());
    // A TCP frame of 60 bytes has room for half of the mark.
    let mark = MAGIC.len().min(room - 4);
    payload[4..4 + mark].copy_from_slice(&MAGIC[..mark]);
    let pseudo = checksum::pseudo_v4(way.src.0, way.dst.0, kind.protocol().number(), ip_len - 20);
    let sum = !checksum::add(checksum::sum(transport), pseudo);
    let sum = if sum == 0 && kind == Kind::Udp { 0xffff } else { sum };
    transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    Head(bytes)
}

/// The number of the flow that a frame of [`head`] belongs to; `None` for other frames.
pub fn flow_of(frame: &[u8]) -> Option<u32> {
    let start = frame.first_chunk::<60>()?;
    let at = TRANSPORT
        + match start[23] {
            17 => 8,
            6 => 20,
            _ => return None,
        };
    if start[12..15] != [0x08, 0x00, 0x45] || start[at + 4..at + 6] != MAGIC[..2] {
        return None;
    }
    Some(u32::from_be_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]))
}

/// The answer to a frame of [`head`], as the host that received it would send it.
pub fn answer(frame: &[u8], kind: Kind, frame_len: usize) -> Option<Head> {
    let flow = flow_of(frame)?;
    let mac = |at: usize| frame[at..].first_chunk::<6>().copied();
    let address = |at: usize| frame[at..].first_chunk::<4>().map(|b| Ipv4Addr::from(*b));
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let way = Way {
        macs: [mac(6)?, mac(0)?],
        src: (address(30)?, port(36)),
        dst: (address(26)?, port(34)),
    };
    Some(head(&way, kind, flow, frame_len))
}

/// The numbers below `n` in an order that depends on the seed only.
pub fn shuffled(n: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    let mut state = seed;
    for i in (1..order.len()).rev() {
        // splitmix64; the bias of the reduction does not matter.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let j = (u128::from(z ^ (z >> 31)) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};
    use shunt::wire::flow::{Parsed, parse};

    #[test]
    fn an_independent_parser_finds_the_checksums_right() {
        for (kind, len) in [(Kind::Udp, 60), (Kind::SYN, 60), (Kind::ACK, 64), (Kind::Udp, 1514)] {
            for flow in [0, 1, 65_535, 65_536, 1_000_000] {
                let mut frame = head(&Way::of_client(flow), kind, flow, len).0.to_vec();
                frame.resize(len, 0);
                let sliced = SlicedPacket::from_ethernet(&frame).expect("a sound frame");
                let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!() };
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                let (got, right) = match sliced.transport {
                    Some(TransportSlice::Udp(udp)) => (
                        udp.checksum(),
                        udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap(),
                    ),
                    Some(TransportSlice::Tcp(tcp)) => (
                        tcp.checksum(),
                        tcp.calc_checksum_ipv4(header.source, header.destination).unwrap(),
                    ),
                    _ => panic!(),
                };
                assert_eq!(got, right, "{kind:?} {flow} {len}");
                assert_eq!(flow_of(&frame), Some(flow));
                let Ok(Parsed::V4(parsed)) = parse(&frame, &DUT_MAC, false) else { panic!() };
                assert_eq!((parsed.key.src, parsed.key.sport), client(flow));
                assert_eq!((parsed.key.dst, parsed.key.dport), (VIP, VIP_PORT));
            }
        }
    }

    #[test]
    fn an_answer_goes_back() {
        let frame = head(&Way::of_client(7), Kind::SYN, 7, 60).0;
        let back = answer(&frame[..60], Kind::SYN_ACK, 60).unwrap().0;
        assert_eq!(back[..6], CLIENT_MAC);
        assert_eq!(back[6..12], DUT_MAC);
        assert_eq!(back[26..30], VIP.octets());
        assert_eq!(back[34..38], [0, 80, 4, 0]);
        assert_eq!(back[47], 0x12);
        assert_eq!(flow_of(&back[..60]), Some(7));
    }

    #[test]
    fn an_order_is_complete_and_seeded() {
        let order = shuffled(1000, 1);
        assert_ne!(order, shuffled(1000, 2));
        assert_eq!(order, shuffled(1000, 1));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }
}
