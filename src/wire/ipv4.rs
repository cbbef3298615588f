//! IPv4 header (RFC 791).
//!
//! `new_checked` checks that the 20 bytes of the fixed header are there, the version, that the
//! header length is at least 20, and that header length ≤ total length ≤ buffer. It does not check
//! the header checksum ([`Packet::verify_checksum`]), addresses, TTL or options, and it takes
//! fragments. Bytes after the total length (Ethernet padding) are not part of the payload.

use std::net::Ipv4Addr;

use super::DropReason;
use super::bytes::{get, get_u16, set, set_u16};
use super::checksum;

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Version and header length.
    pub const VERSION_IHL: usize = 0;
    /// DSCP and ECN.
    pub const TRAFFIC_CLASS: usize = 1;
    /// Length of header and payload.
    pub const TOTAL_LEN: usize = 2;
    /// Identification.
    pub const IDENT: usize = 4;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTOCOL: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source.
    pub const SRC: usize = 12;
    /// Destination.
    pub const DST: usize = 16;
}

/// View of an IPv4 packet.
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

    /// A view of a packet whose lengths are sound.
    ///
    /// # Errors
    /// [`DropReason::FrameTooShort`], [`DropReason::BadIpVersion`],
    /// [`DropReason::BadIpHeaderLength`], [`DropReason::BadIpLength`]; the first that holds.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        let available = buffer.as_ref().len();
        if available < HEADER_LEN {
            return Err(DropReason::FrameTooShort);
        }
        let packet = Packet { buffer };
        if packet.version() != 4 {
            return Err(DropReason::BadIpVersion);
        }
        let (header, total) = (packet.header_len(), usize::from(packet.total_len()));
        if header < HEADER_LEN {
            return Err(DropReason::BadIpHeaderLength);
        }
        if total < header || total > available {
            return Err(DropReason::BadIpLength);
        }
        Ok(packet)
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref()
    }

    /// The version; 4 in a checked packet.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.bytes()[field::VERSION_IHL] >> 4
    }

    /// Length of the header in bytes, options included.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[field::VERSION_IHL] & 0x0f) * 4
    }

    /// DSCP (upper six bits) and ECN (RFC 2474, RFC 3168).
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        self.bytes()[field::TRAFFIC_CLASS]
    }

    /// Length of header and payload in bytes.
    #[inline(always)]
    pub fn total_len(&self) -> u16 {
        get_u16(self.bytes(), field::TOTAL_LEN)
    }

    /// Identification, common to the fragments of a packet.
    #[inline(always)]
    pub fn ident(&self) -> u16 {
        get_u16(self.bytes(), field::IDENT)
    }

    /// Whether the packet must not be fragmented.
    #[inline(always)]
    pub fn dont_fragment(&self) -> bool {
        get_u16(self.bytes(), field::FRAGMENT) & DONT_FRAGMENT != 0
    }

    /// Whether fragments follow this one.
    #[inline(always)]
    pub fn more_fragments(&self) -> bool {
        get_u16(self.bytes(), field::FRAGMENT) & MORE_FRAGMENTS != 0
    }

    /// Where the payload lies in the unfragmented one, in bytes.
    #[inline(always)]
    pub fn fragment_offset(&self) -> usize {
        usize::from(get_u16(self.bytes(), field::FRAGMENT) & FRAGMENT_OFFSET) * 8
    }

    /// Whether this is not the whole packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        get_u16(self.bytes(), field::FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Time to live.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.bytes()[field::TTL]
    }

    /// What the payload is ([`super::ip_protocol`]).
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.bytes()[field::PROTOCOL]
    }

    /// The header checksum.
    #[inline(always)]
    pub fn checksum(&self) -> u16 {
        get_u16(self.bytes(), field::CHECKSUM)
    }

    /// The source.
    #[inline(always)]
    pub fn src(&self) -> Ipv4Addr {
        get(self.bytes(), field::SRC).into()
    }

    /// The destination.
    #[inline(always)]
    pub fn dst(&self) -> Ipv4Addr {
        get(self.bytes(), field::DST).into()
    }

    /// The bytes from the header's end to the total length.
    #[inline(always)]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[self.header_len()..usize::from(self.total_len())]
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        let header_len = self.header_len();
        // Nearly always true, and a sum over a constant length needs no loop.
        let sum = if header_len == HEADER_LEN {
            checksum::sum(&self.bytes()[..HEADER_LEN])
        } else {
            checksum::sum(&self.bytes()[..header_len])
        };
        checksum::verify(sum)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the length of header and payload, in bytes.
    #[inline(always)]
    pub fn set_total_len(&mut self, len: u16) {
        set_u16(self.buffer.as_mut(), field::TOTAL_LEN, len);
    }

    /// Sets the identification.
    #[inline(always)]
    pub fn set_ident(&mut self, ident: u16) {
        set_u16(self.buffer.as_mut(), field::IDENT, ident);
    }

    /// Sets the time to live.
    #[inline(always)]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.buffer.as_mut()[field::TTL] = ttl;
    }

    /// Sets the header checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Sets the source.
    #[inline(always)]
    pub fn set_src(&mut self, src: Ipv4Addr) {
        set(self.buffer.as_mut(), field::SRC, src.octets());
    }

    /// Sets the destination.
    #[inline(always)]
    pub fn set_dst(&mut self, dst: Ipv4Addr) {
        set(self.buffer.as_mut(), field::DST, dst.octets());
    }

    /// Computes the header checksum in full.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let sum = checksum::sum(&self.bytes()[..self.header_len()]);
        self.set_checksum(!sum);
    }

    /// Takes one off the time to live and updates the checksum. The time to live must not be 0.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        self.set_ttl(self.ttl() - 1);
        self.set_checksum(checksum::apply(self.checksum(), checksum::TTL_DECREMENT));
    }

    /// The payload, writable.
    #[inline(always)]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.header_len(), usize::from(self.total_len()));
        &mut self.buffer.as_mut()[start..end]
    }
}

/// An IPv4 header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The source.
    pub src: Ipv4Addr,
    /// The destination.
    pub dst: Ipv4Addr,
    /// What the payload is ([`super::ip_protocol`]).
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification; of no meaning when `dont_fragment` is set (RFC 6864 4.1).
    pub ident: u16,
    /// Whether the packet must not be fragmented.
    pub dont_fragment: bool,
    /// Length of the payload in bytes, at most 65,515.
    pub payload_len: u16,
}

impl Repr {
    /// Writes the header with its checksum to the first [`HEADER_LEN`] bytes of `buffer`.
    pub fn emit(&self, buffer: &mut [u8]) {
        buffer[field::VERSION_IHL] = 0x45;
        buffer[field::TRAFFIC_CLASS] = 0;
        set_u16(buffer, field::TOTAL_LEN, HEADER_LEN as u16 + self.payload_len);
        set_u16(buffer, field::IDENT, self.ident);
        set_u16(buffer, field::FRAGMENT, if self.dont_fragment { DONT_FRAGMENT } else { 0 });
        buffer[field::TTL] = self.ttl;
        buffer[field::PROTOCOL] = self.protocol;
        set(buffer, field::SRC, self.src.octets());
        set(buffer, field::DST, self.dst.octets());
        Packet::new_unchecked(buffer).fill_checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip_protocol;
    use proptest::prelude::*;

    const REPR: Repr = Repr {
        src: Ipv4Addr::new(192, 0, 2, 1),
        dst: Ipv4Addr::new(198, 51, 100, 2),
        protocol: ip_protocol::UDP,
        ttl: 64,
        ident: 0x1234,
        dont_fragment: true,
        payload_len: 4,
    };

    fn packet() -> [u8; 24] {
        let mut bytes = [0xab; 24];
        REPR.emit(&mut bytes);
        bytes
    }

    #[test]
    fn emitted_header() {
        #[rustfmt::skip]
        assert_eq!(packet(), [
            0x45, 0, 0, 24, 0x12, 0x34, 0x40, 0, 64, 17, 0x3c, 0x6a,
            192, 0, 2, 1, 198, 51, 100, 2, 0xab, 0xab, 0xab, 0xab,
        ]);
    }

    #[test]
    fn checks_in_order() {
        let check = |bytes: &[u8]| Packet::new_checked(bytes).map(|_| ());
        let good = packet();
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&good[..19]), Err(DropReason::FrameTooShort));
        assert_eq!(check(&good[..23]), Err(DropReason::BadIpLength));
        // Offset, value, verdict.
        let faults = [
            (0, 0x65, DropReason::BadIpVersion),
            (0, 0x44, DropReason::BadIpHeaderLength),
            (0, 0x47, DropReason::BadIpLength),
            (3, 19, DropReason::BadIpLength),
            (3, 25, DropReason::BadIpLength),
        ];
        for (at, value, reason) in faults {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(check(&bytes), Err(reason), "{value} at {at}");
        }
        let mut padded = good.to_vec();
        padded.extend([0; 22]);
        assert_eq!(Packet::new_checked(&padded).unwrap().payload(), [0xab; 4]);
    }

    #[test]
    fn fragments() {
        let mut bytes = packet();
        for (flags, fragment, more, offset) in
            [(0x4000u16, false, false, 0), (0x2000, true, true, 0), (0x0003, true, false, 24)]
        {
            bytes[6..8].copy_from_slice(&flags.to_be_bytes());
            let packet = Packet::new_checked(&bytes).unwrap();
            assert_eq!(packet.is_fragment(), fragment);
            assert_eq!(packet.more_fragments(), more);
            assert_eq!(packet.fragment_offset(), offset);
        }
    }

    proptest! {
        #[test]
        fn emitted_headers_are_read_by_etherparse(
            src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl in 1u8.., ident: u16,
            dont_fragment: bool, len in 0usize..100,
        ) {
            let repr = Repr { src, dst, protocol, ttl, ident, dont_fragment, payload_len: len as u16 };
            let mut bytes = vec![0xff; HEADER_LEN + len];
            repr.emit(&mut bytes);
            for ttl in [ttl, ttl - 1] {
                let (header, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
                prop_assert_eq!(header.source, src.octets());
                prop_assert_eq!(header.destination, dst.octets());
                prop_assert_eq!(header.protocol.0, protocol);
                prop_assert_eq!(header.time_to_live, ttl);
                prop_assert_eq!(header.identification, ident);
                prop_assert_eq!(header.dont_fragment, dont_fragment);
                prop_assert_eq!(usize::from(header.total_len), HEADER_LEN + len);
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
                prop_assert!(packet.verify_checksum());
                if packet.ttl() == repr.ttl {
                    packet.decrement_ttl();
                }
            }
            bytes[8] ^= 0x10;
            prop_assert!(!Packet::new_checked(&bytes).unwrap().verify_checksum());
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..80), ihl in 0u8..16, len: u8) {
            if bytes.len() >= HEADER_LEN {
                bytes[0] = 0x40 | ihl;
                bytes[2..4].copy_from_slice(&[0, len % 96]);
            }
            if let Ok(mut packet) = Packet::new_checked(&mut bytes[..]) {
                prop_assert_eq!(
                    packet.payload().len(),
                    usize::from(packet.total_len()) - packet.header_len()
                );
                packet.payload_mut().fill(0);
                packet.fill_checksum();
                prop_assert!(packet.verify_checksum());
                let _ = (packet.traffic_class(), packet.ident(), packet.dont_fragment());
                let _ = (packet.is_fragment(), packet.fragment_offset(), packet.more_fragments());
                let _ = (packet.ttl(), packet.protocol(), packet.src(), packet.dst());
            }
        }
    }
}
