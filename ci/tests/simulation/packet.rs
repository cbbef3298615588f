//! Frames of hosts: TCP segments and UDP datagrams, built and read with all checksums.

use std::net::{IpAddr, SocketAddr};

use shunt::datapath::snapshot::Mac;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// The TCP fields of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
}

/// A TCP segment, or a UDP datagram when it has no TCP fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub tcp: Option<Segment>,
    pub payload: Vec<u8>,
}

impl Packet {
    /// The frame that carries it.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let transport = if self.tcp.is_some() { 20 } else { 8 } + self.payload.len();
        let protocol = if self.tcp.is_some() { 6 } else { 17 };
        let mut frame = Vec::with_capacity(54 + transport);
        frame.extend(to);
        frame.extend(from);
        let mut sum = Sum::default();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend((20 + transport as u16).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                let checksum = Sum::of(&frame[14..34]).finish();
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
                sum.add(&frame[26..34]);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((transport as u16).to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                sum.add(&frame[22..54]);
            }
            _ => panic!("a packet between families: {self:?}"),
        }
        sum.add(&[0, protocol]);
        sum.add(&(transport as u16).to_be_bytes());
        let start = frame.len();
        frame.extend(self.src.port().to_be_bytes());
        frame.extend(self.dst.port().to_be_bytes());
        let checksum_at = match self.tcp {
            Some(tcp) => {
                frame.extend(tcp.seq.to_be_bytes());
                frame.extend(tcp.ack.to_be_bytes());
                frame.extend([0x50, tcp.flags, 0x10, 0, 0, 0, 0, 0]);
                start + 16
            }
            None => {
                frame.extend((transport as u16).to_be_bytes());
                frame.extend([0, 0]);
                start + 6
            }
        };
        frame.extend(&self.payload);
        sum.add(&frame[start..]);
        let checksum = match (sum.finish(), self.tcp) {
            (0, None) => 0xffff,
            (sum, _) => sum,
        };
        frame[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// Reads a frame. `None` when it is neither TCP nor UDP. Panics when a checksum is wrong: the
    /// switch has made it so.
    pub fn read(frame: &[u8]) -> Option<Packet> {
        let (src, dst, protocol, start, end): (IpAddr, IpAddr, u8, usize, usize) =
            match frame.get(12..14)? {
                [8, 0] => {
                    assert_eq!(Sum::of(&frame[14..34]).finish(), 0, "IPv4 checksum: {frame:02x?}");
                    let src: [u8; 4] = frame[26..30].try_into().unwrap();
                    let dst: [u8; 4] = frame[30..34].try_into().unwrap();
                    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                    (src.into(), dst.into(), frame[23], 34, 14 + length)
                }
                [0x86, 0xdd] => {
                    let src: [u8; 16] = frame[22..38].try_into().unwrap();
                    let dst: [u8; 16] = frame[38..54].try_into().unwrap();
                    let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
                    (src.into(), dst.into(), frame[20], 54, 54 + length)
                }
                _ => return None,
            };
        if protocol != 6 && protocol != 17 {
            return None;
        }
        let transport = &frame[start..end];
        let mut sum = Sum::default();
        sum.add(&frame[if src.is_ipv4() { 26..34 } else { 22..54 }]);
        sum.add(&[0, protocol]);
        sum.add(&(transport.len() as u16).to_be_bytes());
        sum.add(transport);
        assert_eq!(sum.finish(), 0, "transport checksum: {frame:02x?}");
        let word = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        let tcp =
            (protocol == 6).then(|| Segment { flags: transport[13], seq: long(4), ack: long(8) });
        let header = if protocol == 6 { usize::from(transport[12] >> 4) * 4 } else { 8 };
        Some(Packet {
            src: SocketAddr::new(src, word(0)),
            dst: SocketAddr::new(dst, word(2)),
            tcp,
            payload: transport[header..].to_vec(),
        })
    }
}

impl std::fmt::Display for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} > {} ", self.src, self.dst)?;
        if let Some(tcp) = self.tcp {
            for (bit, name) in [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, '.')] {
                if tcp.flags & bit != 0 {
                    write!(f, "{name}")?;
                }
            }
            write!(f, " {} ack {} ", tcp.seq, tcp.ack)?;
        }
        write!(f, "({})", self.payload.len())
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes, and more at the end.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u32);

impl Sum {
    fn of(bytes: &[u8]) -> Self {
        let mut sum = Sum::default();
        sum.add(bytes);
        sum
    }

    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            self.0 += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}
