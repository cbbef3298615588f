//! Ethernet II header (IEEE 802.3, RFC 894).
//!
//! `new_checked` checks that the 14 bytes of the header are there. It does not check that the
//! EtherType is one (0x0600 and above), that the source is unicast, or that there is any payload.

use std::net::Ipv6Addr;

use super::DropReason;
use super::bytes::{get, get_u16, set, set_u16};

/// Length of the header in bytes, without a VLAN tag.
pub const HEADER_LEN: usize = 14;

/// A MAC address, in the order of the wire.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// Whether a MAC address is a group address: multicast, or broadcast.
#[inline(always)]
pub const fn is_multicast(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Whether a MAC address is the broadcast address.
#[inline(always)]
pub fn is_broadcast(mac: &Mac) -> bool {
    *mac == BROADCAST
}

/// Whether a host can have this MAC address: neither a group address nor all zero.
#[inline(always)]
pub fn is_unicast(mac: &Mac) -> bool {
    !is_multicast(mac) && *mac != [0; 6]
}

/// The MAC address that an IPv6 multicast address is sent to (RFC 2464 7): 33:33 and the last four
/// bytes.
pub const fn multicast_v6(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = EtherType(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = EtherType(0x0806);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = EtherType(0x86dd);
    /// A VLAN tag (IEEE 802.1Q) follows.
    pub const VLAN: Self = EtherType(0x8100);
    /// A service VLAN tag (IEEE 802.1ad) follows.
    pub const SERVICE_VLAN: Self = EtherType(0x88a8);
}

mod field {
    pub(super) const DST: usize = 0;
    pub(super) const SRC: usize = 6;
    pub(super) const ETHER_TYPE: usize = 12;
}

/// View of an Ethernet frame, without FCS.
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

    /// A view of a frame whose header is complete.
    ///
    /// # Errors
    /// [`DropReason::FrameTooShort`].
    #[inline(always)]
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        if buffer.as_ref().len() < HEADER_LEN {
            return Err(DropReason::FrameTooShort);
        }
        Ok(Packet { buffer })
    }

    /// The destination.
    #[inline(always)]
    pub fn dst(&self) -> Mac {
        get(self.buffer.as_ref(), field::DST)
    }

    /// The source.
    #[inline(always)]
    pub fn src(&self) -> Mac {
        get(self.buffer.as_ref(), field::SRC)
    }

    /// What follows the header.
    #[inline(always)]
    pub fn ether_type(&self) -> EtherType {
        EtherType(get_u16(self.buffer.as_ref(), field::ETHER_TYPE))
    }

    /// The bytes after the header, padding included.
    #[inline(always)]
    pub fn payload(&self) -> &[u8] {
        &self.buffer.as_ref()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the destination.
    #[inline(always)]
    pub fn set_dst(&mut self, mac: Mac) {
        set(self.buffer.as_mut(), field::DST, mac);
    }

    /// Sets the source.
    #[inline(always)]
    pub fn set_src(&mut self, mac: Mac) {
        set(self.buffer.as_mut(), field::SRC, mac);
    }

    /// Sets what follows the header.
    #[inline(always)]
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        set_u16(self.buffer.as_mut(), field::ETHER_TYPE, ether_type.0);
    }

    /// The bytes after the header, writable.
    #[inline(always)]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut()[HEADER_LEN..]
    }
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The destination.
    pub dst: Mac,
    /// The source.
    pub src: Mac,
    /// What follows.
    pub ether_type: EtherType,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes of `buffer`.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) {
        let mut packet = Packet::new_unchecked(buffer);
        packet.set_dst(self.dst);
        packet.set_src(self.src);
        packet.set_ether_type(self.ether_type);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn emitted_header_is_read_by_etherparse() {
        let mut bytes = [0; HEADER_LEN];
        let repr =
            Repr { dst: [2, 0, 0, 0, 0, 1], src: [2, 0, 0, 0, 0, 2], ether_type: EtherType::IPV6 };
        repr.emit(&mut bytes);
        let (header, rest) = etherparse::Ethernet2Header::from_slice(&bytes).unwrap();
        assert_eq!(header.destination, repr.dst);
        assert_eq!(header.source, repr.src);
        assert_eq!(header.ether_type, etherparse::EtherType::IPV6);
        assert!(rest.is_empty());
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(is_broadcast(&BROADCAST) && is_multicast(&BROADCAST) && !is_unicast(&BROADCAST));
        assert!(is_multicast(&[0x01, 0, 0x5e, 0, 0, 1]));
        assert!(!is_multicast(&[0x02, 0, 0, 0, 0, 1]) && is_unicast(&[0x02, 0, 0, 0, 0, 1]));
        assert!(!is_unicast(&[0; 6]));
        let group = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(multicast_v6(group), [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let len = bytes.len();
            let original = bytes.clone();
            match Packet::new_checked(&mut bytes[..]) {
                Err(reason) => {
                    prop_assert_eq!(reason, DropReason::FrameTooShort);
                    prop_assert!(len < HEADER_LEN);
                }
                Ok(packet) => {
                    prop_assert_eq!(packet.payload(), &original[14..]);
                    let repr = Repr {
                        dst: packet.dst(),
                        src: packet.src(),
                        ether_type: packet.ether_type(),
                    };
                    let mut emitted = [0; HEADER_LEN];
                    repr.emit(&mut emitted);
                    prop_assert_eq!(&emitted[..], &original[..14]);
                }
            }
        }
    }
}
