//! UDP header (RFC 768).
//!
//! `new_checked` checks that the 8 bytes of the header are there and that 8 ≤ length ≤ buffer; so a
//! length of 0 (a jumbogram, RFC 2675) is refused. It does not check the checksum
//! ([`Packet::verify_checksum`]) or ports. Bytes after the length are not part of the datagram.
//!
//! A checksum of 0 means that there is none: allowed over IPv4, forbidden over IPv6 (RFC 8200 8.1;
//! the exception of RFC 6935 is for tunnels that end here, and none does). A computed checksum of 0
//! is written as 0xffff.

use std::net::IpAddr;

use super::DropReason;
use super::bytes::{get_u16, set_u16};
use super::{checksum, ip_protocol};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Length of header and data.
    pub const LEN: usize = 4;
    /// Checksum.
    pub const CHECKSUM: usize = 6;
}

/// View of a UDP datagram.
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

    /// A view of a datagram whose length is sound.
    ///
    /// # Errors
    /// [`DropReason::BadUdpHeader`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        let available = buffer.as_ref().len();
        let packet = Packet { buffer };
        if available < HEADER_LEN || !(HEADER_LEN..=available).contains(&packet.datagram_len()) {
            return Err(DropReason::BadUdpHeader);
        }
        Ok(packet)
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref()
    }

    /// Source port; 0 when no reply is wanted.
    #[inline(always)]
    pub fn sport(&self) -> u16 {
        get_u16(self.bytes(), field::SPORT)
    }

    /// Destination port.
    #[inline(always)]
    pub fn dport(&self) -> u16 {
        get_u16(self.bytes(), field::DPORT)
    }

    /// The length field: header and data, in bytes.
    #[inline(always)]
    pub fn datagram_len(&self) -> usize {
        usize::from(get_u16(self.bytes(), field::LEN))
    }

    /// Checksum; 0 for none.
    #[inline(always)]
    pub fn checksum(&self) -> u16 {
        get_u16(self.bytes(), field::CHECKSUM)
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..self.datagram_len()]
    }

    /// Whether the checksum is right in a packet from `src` to `dst`, of one family: computed and
    /// correct, or none over IPv4.
    #[inline]
    pub fn verify_checksum(&self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> bool {
        let (src, dst) = (src.into(), dst.into());
        if self.checksum() == 0 { src.is_ipv4() } else { checksum::verify(self.sum(src, dst)) }
    }

    /// Pseudo header and datagram.
    #[inline]
    fn sum(&self, src: IpAddr, dst: IpAddr) -> u16 {
        let datagram = &self.bytes()[..self.datagram_len()];
        let pseudo = checksum::pseudo(src, dst, ip_protocol::UDP, datagram.len());
        checksum::add(pseudo, checksum::sum(datagram))
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

    /// Sets the checksum; 0 for none.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Computes the checksum in full, for a packet from `src` to `dst`, of one family.
    #[inline]
    pub fn fill_checksum(&mut self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) {
        self.set_checksum(0);
        let checksum = !self.sum(src.into(), dst.into());
        self.set_checksum(if checksum == 0 { 0xffff } else { checksum });
    }
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes of `datagram`, whose remaining bytes are
    /// the data (at most 65,527), and the checksum of all of it, for a packet from `src` to `dst`,
    /// of one family.
    pub fn emit(&self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>, datagram: &mut [u8]) {
        debug_assert!(datagram.len() <= usize::from(u16::MAX));
        set_u16(datagram, field::SPORT, self.sport);
        set_u16(datagram, field::DPORT, self.dport);
        set_u16(datagram, field::LEN, datagram.len() as u16);
        Packet::new_unchecked(datagram).fill_checksum(src, dst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
    const V6: (Ipv6Addr, Ipv6Addr) = (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    );

    #[test]
    fn lengths() {
        let check = |bytes: &[u8]| Packet::new_checked(bytes).map(|_| ());
        let mut bytes = [0; 12];
        for (len, expected) in [
            (0, Err(DropReason::BadUdpHeader)),
            (7, Err(DropReason::BadUdpHeader)),
            (8, Ok(())),
            (12, Ok(())),
            (13, Err(DropReason::BadUdpHeader)),
        ] {
            bytes[5] = len;
            assert_eq!(check(&bytes), expected, "{len}");
        }
        bytes[5] = 8;
        assert_eq!(check(&bytes[..7]), Err(DropReason::BadUdpHeader));
        bytes[5] = 10;
        assert_eq!(Packet::new_checked(&bytes).unwrap().payload().len(), 2);
    }

    #[test]
    fn no_checksum() {
        let mut bytes = [0; 12];
        Repr { sport: 1, dport: 2 }.emit(V4.0, V4.1, &mut bytes);
        let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
        assert!(packet.verify_checksum(V4.0, V4.1));
        packet.set_checksum(0);
        assert!(packet.verify_checksum(V4.0, V4.1));
        assert!(!packet.verify_checksum(V6.0, V6.1));
    }

    #[test]
    fn computed_zero_is_written_as_ones() {
        let mut bytes = [0; 10];
        let repr = Repr { sport: 1, dport: 2 };
        repr.emit(V4.0, V4.1, &mut bytes);
        // Data that completes the sum to 0xffff.
        let completing = Packet::new_checked(&bytes).unwrap().checksum();
        bytes[8..].copy_from_slice(&completing.to_be_bytes());
        repr.emit(V4.0, V4.1, &mut bytes);
        let packet = Packet::new_checked(&bytes).unwrap();
        assert_eq!(packet.checksum(), 0xffff);
        assert!(packet.verify_checksum(V4.0, V4.1));
    }

    /// Emits with Shunt, compares with what etherparse reads and computes.
    fn round_trip(repr: Repr, src: IpAddr, dst: IpAddr, data: &[u8]) {
        let mut bytes = vec![0xff; HEADER_LEN];
        bytes.extend(data);
        repr.emit(src, dst, &mut bytes);
        let (header, rest) = etherparse::UdpHeader::from_slice(&bytes).unwrap();
        assert_eq!(rest, data);
        assert_eq!((header.source_port, header.destination_port), (repr.sport, repr.dport));
        assert_eq!(usize::from(header.length), bytes.len());
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

        // Padding after the datagram does not count.
        bytes.extend([0xee; 3]);
        let packet = Packet::new_checked(&bytes).unwrap();
        assert!(packet.verify_checksum(src, dst));
        assert_eq!((packet.sport(), packet.dport()), (repr.sport, repr.dport));
        assert_eq!(packet.payload(), data);
        bytes[1] ^= 1;
        assert!(!Packet::new_checked(&bytes).unwrap().verify_checksum(src, dst));
    }

    proptest! {
        #[test]
        fn emitted_datagrams_are_read_by_etherparse(
            v4: (Ipv4Addr, Ipv4Addr), v6: (Ipv6Addr, Ipv6Addr), sport: u16, dport: u16,
            data in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            round_trip(Repr { sport, dport }, v4.0.into(), v4.1.into(), &data);
            round_trip(Repr { sport, dport }, v6.0.into(), v6.1.into(), &data);
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..40), len in 0u8..40) {
            if bytes.len() >= HEADER_LEN {
                bytes[4..6].copy_from_slice(&[0, len]);
            }
            if let Ok(mut packet) = Packet::new_checked(&mut bytes[..]) {
                prop_assert_eq!(packet.payload().len() + 8, usize::from(len));
                packet.set_sport(1);
                packet.set_dport(2);
                packet.fill_checksum(V6.0, V6.1);
                prop_assert!(packet.verify_checksum(V6.0, V6.1));
                prop_assert_ne!(packet.checksum(), 0);
                prop_assert_eq!((packet.sport(), packet.dport()), (1, 2));
            }
        }
    }
}
