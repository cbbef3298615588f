//! IPv6 header (RFC 8200).
//!
//! `new_checked` checks that the 40 bytes of the fixed header are there, the version, and that the
//! payload length fits into the buffer. It does not check addresses or the hop limit and does not
//! follow extension headers: the payload begins right after the fixed header. A jumbogram (RFC
//! 2675) is a packet without payload here. Bytes after the payload length (Ethernet padding) are
//! not part of the payload.

use std::net::Ipv6Addr;

use super::DropReason;
use super::bytes::{get, get_u16, get_u32, set, set_u16, set_u32};

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 40;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Version, traffic class and flow label.
    pub const VERSION_CLASS_LABEL: usize = 0;
    /// Length of what follows the header.
    pub const PAYLOAD_LEN: usize = 4;
    /// Next header.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source.
    pub const SRC: usize = 8;
    /// Destination.
    pub const DST: usize = 24;
}

/// View of an IPv6 packet.
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
    /// [`DropReason::FrameTooShort`], [`DropReason::BadIpVersion`], [`DropReason::BadIpLength`];
    /// the first that holds.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        let available = buffer.as_ref().len();
        if available < HEADER_LEN {
            return Err(DropReason::FrameTooShort);
        }
        let packet = Packet { buffer };
        if packet.version() != 6 {
            return Err(DropReason::BadIpVersion);
        }
        if HEADER_LEN + usize::from(packet.payload_len()) > available {
            return Err(DropReason::BadIpLength);
        }
        Ok(packet)
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref()
    }

    /// The version; 6 in a checked packet.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.bytes()[field::VERSION_CLASS_LABEL] >> 4
    }

    /// DSCP (upper six bits) and ECN (RFC 2474, RFC 3168).
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (get_u16(self.bytes(), field::VERSION_CLASS_LABEL) >> 4) as u8
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline(always)]
    pub fn flow_label(&self) -> u32 {
        get_u32(self.bytes(), field::VERSION_CLASS_LABEL) & 0x000f_ffff
    }

    /// Length of what follows the fixed header, in bytes.
    #[inline(always)]
    pub fn payload_len(&self) -> u16 {
        get_u16(self.bytes(), field::PAYLOAD_LEN)
    }

    /// What follows the fixed header ([`super::ip_protocol`]).
    #[inline(always)]
    pub fn next_header(&self) -> u8 {
        self.bytes()[field::NEXT_HEADER]
    }

    /// Hop limit.
    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        self.bytes()[field::HOP_LIMIT]
    }

    /// The source.
    #[inline(always)]
    pub fn src(&self) -> Ipv6Addr {
        get(self.bytes(), field::SRC).into()
    }

    /// The destination.
    #[inline(always)]
    pub fn dst(&self) -> Ipv6Addr {
        get(self.bytes(), field::DST).into()
    }

    /// The bytes after the fixed header, as many as the payload length says.
    #[inline(always)]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..HEADER_LEN + usize::from(self.payload_len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the length of what follows the fixed header, in bytes.
    #[inline(always)]
    pub fn set_payload_len(&mut self, len: u16) {
        set_u16(self.buffer.as_mut(), field::PAYLOAD_LEN, len);
    }

    /// Sets the hop limit.
    #[inline(always)]
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        self.buffer.as_mut()[field::HOP_LIMIT] = hop_limit;
    }

    /// Sets the source.
    #[inline(always)]
    pub fn set_src(&mut self, src: Ipv6Addr) {
        set(self.buffer.as_mut(), field::SRC, src.octets());
    }

    /// Sets the destination.
    #[inline(always)]
    pub fn set_dst(&mut self, dst: Ipv6Addr) {
        set(self.buffer.as_mut(), field::DST, dst.octets());
    }

    /// The payload, writable.
    #[inline(always)]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = HEADER_LEN + usize::from(self.payload_len());
        &mut self.buffer.as_mut()[HEADER_LEN..end]
    }
}

/// An IPv6 header; traffic class and flow label are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The source.
    pub src: Ipv6Addr,
    /// The destination.
    pub dst: Ipv6Addr,
    /// What follows ([`super::ip_protocol`]).
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Length of what follows, in bytes.
    pub payload_len: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes of `buffer`.
    pub fn emit(&self, buffer: &mut [u8]) {
        set_u32(buffer, field::VERSION_CLASS_LABEL, 6 << 28);
        set_u16(buffer, field::PAYLOAD_LEN, self.payload_len);
        buffer[field::NEXT_HEADER] = self.next_header;
        buffer[field::HOP_LIMIT] = self.hop_limit;
        set(buffer, field::SRC, self.src.octets());
        set(buffer, field::DST, self.dst.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checks_in_order() {
        let check = |bytes: &[u8]| Packet::new_checked(bytes).map(|_| ());
        let mut good = [0xab; 44];
        let repr = Repr {
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
            next_header: 17,
            hop_limit: 64,
            payload_len: 4,
        };
        repr.emit(&mut good);
        assert_eq!(good[..8], [0x60, 0, 0, 0, 0, 4, 17, 64]);
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&good[..39]), Err(DropReason::FrameTooShort));
        assert_eq!(check(&good[..43]), Err(DropReason::BadIpLength));
        let mut bytes = good;
        bytes[0] = 0x45;
        assert_eq!(check(&bytes), Err(DropReason::BadIpVersion));
        bytes = good;
        bytes[5] = 3;
        assert_eq!(Packet::new_checked(&bytes).unwrap().payload(), [0xab; 3]);
    }

    #[test]
    fn class_and_label() {
        let mut bytes = [0; 40];
        bytes[..4].copy_from_slice(&[0x6a, 0xbc, 0xde, 0xf1]);
        let packet = Packet::new_checked(&bytes).unwrap();
        assert_eq!((packet.traffic_class(), packet.flow_label()), (0xab, 0xcdef1));
    }

    proptest! {
        #[test]
        fn emitted_headers_are_read_by_etherparse(
            src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, hop_limit: u8, len in 0usize..100,
        ) {
            let repr = Repr { src, dst, next_header, hop_limit, payload_len: len as u16 };
            let mut bytes = vec![0xff; HEADER_LEN + len];
            repr.emit(&mut bytes);
            let (header, _) = etherparse::Ipv6Header::from_slice(&bytes).unwrap();
            prop_assert_eq!(header.source, src.octets());
            prop_assert_eq!(header.destination, dst.octets());
            prop_assert_eq!(header.next_header.0, next_header);
            prop_assert_eq!(header.hop_limit, hop_limit);
            prop_assert_eq!(usize::from(header.payload_length), len);
            prop_assert_eq!((header.traffic_class, header.flow_label.value()), (0, 0));
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..80), len: u8) {
            if bytes.len() >= HEADER_LEN {
                bytes[0] = 0x60 | (bytes[0] & 0x0f);
                bytes[4..6].copy_from_slice(&[0, len % 48]);
            }
            if let Ok(mut packet) = Packet::new_checked(&mut bytes[..]) {
                prop_assert_eq!(packet.payload().len(), usize::from(packet.payload_len()));
                packet.payload_mut().fill(0);
                let _ = (packet.traffic_class(), packet.flow_label(), packet.next_header());
                let _ = (packet.hop_limit(), packet.src(), packet.dst());
            }
        }
    }
}
