//! TCP header (RFC 9293 3.1).
//!
//! `new_checked` checks that the 20 bytes of the fixed header are there and that the data offset
//! is at least 20 and within the buffer. It does not check the checksum
//! ([`Packet::verify_checksum`], over the whole buffer: give it the IP payload and no padding),
//! flags, ports or options.

use std::net::IpAddr;

use super::DropReason;
use super::bytes::{get_u16, get_u32, set_u16, set_u32};
use super::{checksum, ip_protocol};

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Sequence number.
    pub const SEQ: usize = 4;
    /// Acknowledgment number.
    pub const ACK: usize = 8;
    /// Data offset, in the upper half of the byte.
    pub const DATA_OFFSET: usize = 12;
    /// Flags.
    pub const FLAGS: usize = 13;
    /// Window.
    pub const WINDOW: usize = 14;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
    /// Urgent pointer.
    pub const URGENT: usize = 18;
}

/// Bits of the flags byte.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// View of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// A view without any check.
    #[inline(always)]
    pub const fn new_unchecked(buffer: T) -> Self {
        Packet { buffer }
    }

    /// A view of a segment whose header is complete.
    ///
    /// # Errors
    /// [`DropReason::BadTcpHeader`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        let len = buffer.as_ref().len();
        let packet = Packet { buffer };
        if len < HEADER_LEN || packet.header_len() < HEADER_LEN || packet.header_len() > len {
            return Err(DropReason::BadTcpHeader);
        }
        Ok(packet)
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref()
    }

    /// Source port.
    #[inline(always)]
    pub fn sport(&self) -> u16 {
        get_u16(self.bytes(), field::SPORT)
    }

    /// Destination port.
    #[inline(always)]
    pub fn dport(&self) -> u16 {
        get_u16(self.bytes(), field::DPORT)
    }

    /// Sequence number.
    #[inline(always)]
    pub fn seq(&self) -> u32 {
        get_u32(self.bytes(), field::SEQ)
    }

    /// Acknowledgment number; of no meaning without [`flags::ACK`].
    #[inline(always)]
    pub fn ack(&self) -> u32 {
        get_u32(self.bytes(), field::ACK)
    }

    /// Length of the header in bytes, options included: the data offset.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[field::DATA_OFFSET] >> 4) * 4
    }

    /// The flags ([`flags`]).
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.bytes()[field::FLAGS]
    }

    /// Window, not scaled.
    #[inline(always)]
    pub fn window(&self) -> u16 {
        get_u16(self.bytes(), field::WINDOW)
    }

    /// Checksum.
    #[inline(always)]
    pub fn checksum(&self) -> u16 {
        get_u16(self.bytes(), field::CHECKSUM)
    }

    /// Urgent pointer; of no meaning without [`flags::URG`].
    #[inline(always)]
    pub fn urgent(&self) -> u16 {
        get_u16(self.bytes(), field::URGENT)
    }

    /// The options, padding included.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..self.header_len()]
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[self.header_len()..]
    }

    /// How much sequence space the segment takes: its data, and one each for SYN and FIN.
    #[inline]
    pub fn sequence_len(&self) -> u32 {
        let flags = self.flags();
        self.payload().len() as u32
            + u32::from(flags & flags::SYN != 0)
            + u32::from(flags & flags::FIN != 0)
    }

    /// Whether the checksum is right in a packet from `src` to `dst`, of one family.
    #[inline]
    pub fn verify_checksum(&self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> bool {
        checksum::verify(self.sum(src.into(), dst.into()))
    }

    /// Pseudo header and segment.
    #[inline]
    fn sum(&self, src: IpAddr, dst: IpAddr) -> u16 {
        let bytes = self.bytes();
        let pseudo = checksum::pseudo(src, dst, ip_protocol::TCP, bytes.len());
        checksum::add(pseudo, checksum::sum(bytes))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the source port.
    #[inline(always)]
    pub fn set_sport(&mut self, port: u16) {
        set_u16(self.buffer.as_mut(), field::SPORT, port);
    }

    /// Sets the destination port.
    #[inline(always)]
    pub fn set_dport(&mut self, port: u16) {
        set_u16(self.buffer.as_mut(), field::DPORT, port);
    }

    /// Sets the sequence number.
    #[inline(always)]
    pub fn set_seq(&mut self, seq: u32) {
        set_u32(self.buffer.as_mut(), field::SEQ, seq);
    }

    /// Sets the acknowledgment number.
    #[inline(always)]
    pub fn set_ack(&mut self, ack: u32) {
        set_u32(self.buffer.as_mut(), field::ACK, ack);
    }

    /// Sets the flags ([`flags`]).
    #[inline(always)]
    pub fn set_flags(&mut self, flags: u8) {
        self.buffer.as_mut()[field::FLAGS] = flags;
    }

    /// Sets the checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Computes the checksum in full, for a packet from `src` to `dst`, of one family.
    #[inline]
    pub fn fill_checksum(&mut self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) {
        self.set_checksum(0);
        let sum = self.sum(src.into(), dst.into());
        self.set_checksum(!sum);
    }
}

/// A TCP header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags ([`flags`]).
    pub flags: u8,
    /// Window.
    pub window: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes of `segment`, whose remaining bytes are
    /// the data, and the checksum of all of it, for a packet from `src` to `dst`, of one family.
    pub fn emit(&self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>, segment: &mut [u8]) {
        set_u16(segment, field::SPORT, self.sport);
        set_u16(segment, field::DPORT, self.dport);
        set_u32(segment, field::SEQ, self.seq);
        set_u32(segment, field::ACK, self.ack);
        segment[field::DATA_OFFSET] = (HEADER_LEN as u8 / 4) << 4;
        segment[field::FLAGS] = self.flags;
        set_u16(segment, field::WINDOW, self.window);
        set_u16(segment, field::URGENT, 0);
        Packet::new_unchecked(segment).fill_checksum(src, dst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn header_lengths() {
        let check = |bytes: &[u8]| Packet::new_checked(bytes).map(|_| ());
        let mut bytes = [0; 24];
        bytes[12] = 0x60;
        assert_eq!(check(&bytes), Ok(()));
        assert_eq!(check(&bytes[..23]), Err(DropReason::BadTcpHeader));
        assert_eq!(check(&bytes[..19]), Err(DropReason::BadTcpHeader));
        assert_eq!(check(&[]), Err(DropReason::BadTcpHeader));
        bytes[12] = 0x4f;
        assert_eq!(check(&bytes), Err(DropReason::BadTcpHeader));
    }

    #[test]
    fn sequence_space() {
        let mut bytes = [0; 23];
        let repr = Repr { sport: 1, dport: 2, seq: 0, ack: 0, flags: 0, window: 0 };
        repr.emit(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, &mut bytes);
        let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
        for (flags, len) in [
            (flags::ACK, 3),
            (flags::SYN, 4),
            (flags::FIN | flags::ACK, 4),
            (flags::SYN | flags::FIN, 5),
            (flags::RST | flags::PSH | flags::URG | flags::ECE | flags::CWR, 3),
        ] {
            packet.set_flags(flags);
            assert_eq!(packet.sequence_len(), len, "{flags:#x}");
        }
    }

    /// Emits with Shunt, compares with what etherparse reads and computes.
    fn round_trip(repr: Repr, src: IpAddr, dst: IpAddr, data: &[u8]) {
        let mut bytes = vec![0xff; HEADER_LEN];
        bytes.extend(data);
        repr.emit(src, dst, &mut bytes);
        let (header, rest) = etherparse::TcpHeader::from_slice(&bytes).unwrap();
        assert_eq!(rest, data);
        assert_eq!((header.source_port, header.destination_port), (repr.sport, repr.dport));
        assert_eq!((header.sequence_number, header.acknowledgment_number), (repr.seq, repr.ack));
        assert_eq!((header.window_size, header.urgent_pointer), (repr.window, 0));
        assert_eq!(header.fin, repr.flags & flags::FIN != 0);
        assert_eq!(header.syn, repr.flags & flags::SYN != 0);
        assert_eq!(header.rst, repr.flags & flags::RST != 0);
        assert_eq!(header.psh, repr.flags & flags::PSH != 0);
        assert_eq!(header.ack, repr.flags & flags::ACK != 0);
        assert_eq!(header.urg, repr.flags & flags::URG != 0);
        assert_eq!(header.ece, repr.flags & flags::ECE != 0);
        assert_eq!(header.cwr, repr.flags & flags::CWR != 0);
        let expected = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), data).unwrap()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), data).unwrap()
            }
            _ => unreachable!("one family"),
        };
        assert_eq!(header.checksum, expected);

        let packet = Packet::new_checked(&bytes).unwrap();
        assert!(packet.verify_checksum(src, dst));
        let read = Repr {
            sport: packet.sport(),
            dport: packet.dport(),
            seq: packet.seq(),
            ack: packet.ack(),
            flags: packet.flags(),
            window: packet.window(),
        };
        assert_eq!(read, repr);
        assert_eq!(packet.payload(), data);
        bytes[15] ^= 1;
        assert!(!Packet::new_checked(&bytes).unwrap().verify_checksum(src, dst));
    }

    proptest! {
        #[test]
        fn emitted_segments_are_read_by_etherparse(
            v4: (Ipv4Addr, Ipv4Addr), v6: (Ipv6Addr, Ipv6Addr), sport: u16, dport: u16,
            seq: u32, ack: u32, flags: u8, window: u16,
            data in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let repr = Repr { sport, dport, seq, ack, flags, window };
            round_trip(repr, v4.0.into(), v4.1.into(), &data);
            round_trip(repr, v6.0.into(), v6.1.into(), &data);
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..80), src: Ipv4Addr) {
            let len = bytes.len();
            if let Ok(mut packet) = Packet::new_checked(&mut bytes[..]) {
                prop_assert_eq!(packet.options().len() + packet.payload().len() + 20, len);
                let _ = (packet.sport(), packet.dport(), packet.seq(), packet.ack());
                let _ = (packet.flags(), packet.window(), packet.urgent(), packet.sequence_len());
                packet.set_sport(1);
                packet.set_dport(2);
                packet.set_seq(3);
                packet.set_ack(4);
                packet.fill_checksum(src, src);
                prop_assert!(packet.verify_checksum(src, src));
                prop_assert_eq!((packet.sport(), packet.dport()), (1, 2));
                prop_assert_eq!((packet.seq(), packet.ack()), (3, 4));
            }
        }
    }
}
