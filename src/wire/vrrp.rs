//! VRRP version 3 (RFC 5798): adverts of virtual routers, over IPv4 and IPv6.
//!
//! `new_checked` checks what section 7.1 asks of a receiver as far as it can be seen in the message:
//! version 3, type 1 (advertisement), and as many bytes as the number of addresses calls for. Beyond
//! that it wants a virtual router id and an advertisement interval that are not 0: the first is not
//! one, and with the second the sender would have died as soon as it had spoken. It does not check
//! the checksum ([`Packet::verify_checksum`], over the whole buffer: give it the IP payload and no
//! padding), nor TTL or hop limit, nor whose the message is.
//!
//! An advert of an IPv6 virtual router has to name the router's link-local address first (5.2.9).
//! That is not checked, and [`Repr`] names what it is given.
//!
//! Version 2 (RFC 3768) is not read: it has another timer field, and an authentication.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::DropReason;
use super::bytes::{get, get_u16, set, set_u16};
use super::ethernet::{self, EtherType, Mac};
use super::{checksum, ip_protocol, ipv4, ipv6};

/// Length of the header in bytes; the addresses follow.
pub const HEADER_LEN: usize = 8;
/// TTL or hop limit of every advert (5.1.1.3, 5.1.2.3): one that has passed a router is not heeded.
pub const HOP_LIMIT: u8 = 255;
/// Where adverts go over IPv4 (5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where adverts go over IPv6 (5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The MAC address of [`GROUP_V4`] (RFC 1112 6.4).
pub const GROUP_V4_MAC: Mac = [0x01, 0, 0x5e, 0, 0, 18];
/// The MAC address of [`GROUP_V6`] (RFC 2464 7).
pub const GROUP_V6_MAC: Mac = ethernet::multicast_v6(GROUP_V6);
/// The longest advertisement interval, in centiseconds: 12 bits.
pub const MAX_INTERVAL_CS: u16 = 0x0fff;
/// The most addresses an IPv4 advert can name.
pub const MAX_ADDRESSES_V4: usize = 255;
/// The most addresses an IPv6 advert can name within the least MTU of IPv6, 1,280 bytes.
pub const MAX_ADDRESSES_V6: usize = (1280 - ipv6::HEADER_LEN - HEADER_LEN) / 16;

/// Version 3, type 1.
const ADVERTISEMENT: u8 = 0x31;

mod field {
    use std::ops::Range;

    pub(super) const VERSION_TYPE: usize = 0;
    pub(super) const VRID: usize = 1;
    pub(super) const PRIORITY: usize = 2;
    pub(super) const COUNT: usize = 3;
    /// Four reserved bits and twelve of the interval.
    pub(super) const INTERVAL: usize = 4;
    pub(super) const CHECKSUM: usize = 6;

    /// The bytes of `count` addresses of `len` bytes each.
    pub(super) const fn addresses(count: usize, len: usize) -> Range<usize> {
        super::HEADER_LEN..super::HEADER_LEN + count * len
    }
}

/// View of an advert.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
    v6: bool,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// A view without any check; `v6` says that it came over IPv6.
    pub const fn new_unchecked(buffer: T, v6: bool) -> Self {
        Packet { buffer, v6 }
    }

    /// A view of a sound advert. `buffer` is the payload of the IP packet; `v6` says of which family.
    ///
    /// # Errors
    /// [`DropReason::VrrpInvalid`].
    pub fn new_checked(buffer: T, v6: bool) -> Result<Self, DropReason> {
        let packet = Packet { buffer, v6 };
        let bytes = packet.buffer.as_ref();
        let sound = bytes.len() >= HEADER_LEN
            && bytes[field::VERSION_TYPE] == ADVERTISEMENT
            && bytes.len() >= packet.address_range().end
            && packet.vrid() != 0
            && packet.interval_cs() != 0;
        if sound { Ok(packet) } else { Err(DropReason::VrrpInvalid) }
    }

    /// The version; 3 in a checked packet.
    pub fn version(&self) -> u8 {
        self.buffer.as_ref()[field::VERSION_TYPE] >> 4
    }

    /// The type; 1 in a checked packet.
    pub fn kind(&self) -> u8 {
        self.buffer.as_ref()[field::VERSION_TYPE] & 0x0f
    }

    /// The virtual router id, 1 to 255.
    pub fn vrid(&self) -> u8 {
        self.buffer.as_ref()[field::VRID]
    }

    /// The sender's priority: 255 when it owns the addresses, 0 when it leaves.
    pub fn priority(&self) -> u8 {
        self.buffer.as_ref()[field::PRIORITY]
    }

    /// How many addresses it names.
    pub fn count(&self) -> u8 {
        self.buffer.as_ref()[field::COUNT]
    }

    /// The advertisement interval in centiseconds, at most [`MAX_INTERVAL_CS`].
    pub fn interval_cs(&self) -> u16 {
        get_u16(self.buffer.as_ref(), field::INTERVAL) & MAX_INTERVAL_CS
    }

    /// The checksum.
    pub fn checksum(&self) -> u16 {
        get_u16(self.buffer.as_ref(), field::CHECKSUM)
    }

    /// The addresses it names.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let bytes = &self.buffer.as_ref()[self.address_range()];
        bytes.chunks_exact(self.address_len()).map(|octets| match octets.len() {
            4 => IpAddr::from(get::<4>(octets, 0)),
            _ => IpAddr::from(get::<16>(octets, 0)),
        })
    }

    /// Whether the checksum is right for an IP packet from `src` to `dst` (5.2.8: with a pseudo
    /// header). Over IPv4 one that is right without the pseudo header is taken too: so version 2 had
    /// it, and implementations are about that kept to it in version 3.
    pub fn verify_checksum(&self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> bool {
        let bytes = self.buffer.as_ref();
        let sum = checksum::sum(bytes);
        let pseudo = checksum::pseudo(src, dst, ip_protocol::VRRP, bytes.len());
        checksum::verify(checksum::add(pseudo, sum)) || !self.v6 && checksum::verify(sum)
    }

    fn address_len(&self) -> usize {
        if self.v6 { 16 } else { 4 }
    }

    fn address_range(&self) -> std::ops::Range<usize> {
        field::addresses(usize::from(self.count()), self.address_len())
    }
}

/// An advert, with the address it is sent from, which gives its family. Over IPv6 that has to be a
/// link-local address (5.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr<'a> {
    /// Source of the IP packet: an address of the port it leaves by.
    pub src: IpAddr,
    /// The virtual router id, 1 to 255.
    pub vrid: u8,
    /// The sender's priority; 0 when it leaves.
    pub priority: u8,
    /// The advertisement interval in centiseconds, 1 to [`MAX_INTERVAL_CS`].
    pub interval_cs: u16,
    /// The addresses it names: of the family of `src` (others are left out) and no more than
    /// [`MAX_ADDRESSES_V4`] or [`MAX_ADDRESSES_V6`] (those beyond are left out).
    pub addresses: &'a [IpAddr],
}

impl Repr<'_> {
    /// Length of the message in bytes.
    pub fn message_len(&self) -> usize {
        field::addresses(self.named().count(), self.address_len()).end
    }

    /// Writes the message with its checksum to the first [`Repr::message_len`] bytes of `buffer`.
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = &mut buffer[..self.message_len()];
        message[field::VERSION_TYPE] = ADVERTISEMENT;
        message[field::VRID] = self.vrid;
        message[field::PRIORITY] = self.priority;
        set_u16(message, field::INTERVAL, self.interval_cs & MAX_INTERVAL_CS);
        let mut count = 0;
        for address in self.named() {
            let at = field::addresses(count, self.address_len()).end;
            match address {
                IpAddr::V4(address) => set(message, at, address.octets()),
                IpAddr::V6(address) => set(message, at, address.octets()),
            }
            count += 1;
        }
        message[field::COUNT] = count as u8;
        set_u16(message, field::CHECKSUM, 0);
        let pseudo = checksum::pseudo(self.src, self.dst(), ip_protocol::VRRP, message.len());
        let sum = checksum::add(pseudo, checksum::sum(message));
        set_u16(message, field::CHECKSUM, !sum);
    }

    /// The whole frame, from `mac` (the virtual MAC address, or the port's) to the group.
    pub fn frame(&self, mac: Mac) -> Vec<u8> {
        let payload_len = self.message_len();
        let (dst_mac, ether_type, header_len) = match self.src {
            IpAddr::V4(_) => (GROUP_V4_MAC, EtherType::IPV4, ipv4::HEADER_LEN),
            IpAddr::V6(_) => (GROUP_V6_MAC, EtherType::IPV6, ipv6::HEADER_LEN),
        };
        let mut frame = vec![0; ethernet::HEADER_LEN + header_len + payload_len];
        ethernet::Repr { dst: dst_mac, src: mac, ether_type }.emit(&mut frame);
        let packet = &mut frame[ethernet::HEADER_LEN..];
        let payload_len = payload_len as u16;
        match self.src {
            IpAddr::V4(src) => ipv4::Repr {
                src,
                dst: GROUP_V4,
                protocol: ip_protocol::VRRP,
                ttl: HOP_LIMIT,
                ident: 0,
                dont_fragment: true,
                payload_len,
            }
            .emit(packet),
            IpAddr::V6(src) => ipv6::Repr {
                src,
                dst: GROUP_V6,
                next_header: ip_protocol::VRRP,
                hop_limit: HOP_LIMIT,
                payload_len,
            }
            .emit(packet),
        }
        self.emit(&mut packet[header_len..]);
        frame
    }

    fn dst(&self) -> IpAddr {
        if self.src.is_ipv6() { GROUP_V6.into() } else { GROUP_V4.into() }
    }

    fn address_len(&self) -> usize {
        if self.src.is_ipv6() { 16 } else { 4 }
    }

    /// The addresses that it does name.
    fn named(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.src.is_ipv6();
        let most = if v6 { MAX_ADDRESSES_V6 } else { MAX_ADDRESSES_V4 };
        self.addresses.iter().copied().filter(move |a| a.is_ipv6() == v6).take(most)
    }
}

/// The link-local address that goes with a MAC address (RFC 4291 appendix A): the source of IPv6
/// adverts.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [0, 0, 0x5e, 0, 1, 10];
    const SRC_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const SRC_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1));
    const VIPS: [IpAddr; 3] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11)),
    ];

    fn repr(src: IpAddr) -> Repr<'static> {
        Repr { src, vrid: 10, priority: 200, interval_cs: 100, addresses: &VIPS }
    }

    #[test]
    fn an_advert_byte_by_byte() {
        let frame = repr(SRC_V4).frame(MAC);
        // The checksums were computed by hand. Words of the message: 310a c802 0064 c000 020a c000
        // 020b; of the pseudo header: c000 0202 e000 0012 0070 0010.
        #[rustfmt::skip]
        assert_eq!(frame, [
            0x01, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 10, 0x08, 0x00,
            0x45, 0, 0, 36, 0, 0, 0x40, 0, 255, 112, 0xd9, 0x54,
            192, 0, 2, 2, 224, 0, 0, 18,
            0x31, 10, 200, 2, 0, 100, 0xdf, 0xe2,
            192, 0, 2, 10, 192, 0, 2, 11,
        ]);
    }

    #[test]
    fn an_advert_of_another_router() {
        // As keepalived sends it: router id 51, priority 100, 1 s, VIP 192.168.1.100, from
        // 192.168.1.1.
        let message = [0x31, 51, 100, 1, 0, 100, 0x06, 0x22, 192, 168, 1, 100];
        let packet = Packet::new_checked(&message[..], false).unwrap();
        assert!(packet.verify_checksum([192, 168, 1, 1], GROUP_V4));
        assert!(!packet.verify_checksum([192, 168, 1, 2], GROUP_V4));
        assert_eq!((packet.version(), packet.kind(), packet.vrid()), (3, 1, 51));
        assert_eq!((packet.priority(), packet.count(), packet.interval_cs()), (100, 1, 100));
        assert_eq!(packet.addresses().collect::<Vec<_>>(), [IpAddr::from([192, 168, 1, 100])]);
    }

    #[test]
    fn ipv4_without_the_pseudo_header_is_taken_and_ipv6_is_not() {
        for (v6, src, dst) in
            [(false, SRC_V4, IpAddr::from(GROUP_V4)), (true, SRC_V6, IpAddr::from(GROUP_V6))]
        {
            let mut message = vec![0; repr(src).message_len()];
            repr(src).emit(&mut message);
            set_u16(&mut message, field::CHECKSUM, 0);
            let sum = checksum::sum(&message);
            set_u16(&mut message, field::CHECKSUM, !sum);
            let packet = Packet::new_checked(&message[..], v6).unwrap();
            assert_eq!(packet.verify_checksum(src, dst), !v6);
        }
    }

    #[test]
    fn emitted_frames_are_read_by_etherparse() {
        for (src, dst, count, mac) in [
            (SRC_V4, IpAddr::from(GROUP_V4), 2, GROUP_V4_MAC),
            (SRC_V6, IpAddr::from(GROUP_V6), 1, [0x33, 0x33, 0, 0, 0, 0x12]),
        ] {
            let frame = repr(src).frame(MAC);
            assert_eq!((&frame[..6], &frame[6..12]), (&mac[..], &MAC[..]));
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let payload = match sliced.net.as_ref().unwrap() {
                etherparse::NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    assert_eq!(IpAddr::from(header.source_addr()), src);
                    assert_eq!(IpAddr::from(header.destination_addr()), dst);
                    assert_eq!((header.ttl(), header.protocol().0), (255, 112));
                    assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
                    assert!(header.options().is_empty());
                    ip.payload().payload
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    let header = ip.header();
                    assert_eq!(IpAddr::from(header.source_addr()), src);
                    assert_eq!(IpAddr::from(header.destination_addr()), dst);
                    assert_eq!((header.hop_limit(), header.next_header().0), (255, 112));
                    ip.payload().payload
                }
                other => panic!("{other:?}"),
            };
            let packet = Packet::new_checked(payload, src.is_ipv6()).unwrap();
            assert!(packet.verify_checksum(src, dst));
            assert_eq!((packet.vrid(), packet.priority(), packet.interval_cs()), (10, 200, 100));
            assert_eq!(usize::from(packet.count()), count);
            assert!(packet.addresses().all(|a| VIPS.contains(&a) && a.is_ipv6() == src.is_ipv6()));
        }
    }

    #[test]
    fn malformed() {
        let mut good = vec![0; 16];
        repr(SRC_V4).emit(&mut good);
        let check = |bytes: &[u8]| Packet::new_checked(bytes, false).map(|_| ());
        assert_eq!(check(&good), Ok(()));
        // More bytes than it takes are covered by the checksum, and no harm.
        assert_eq!(check(&[&good[..], &[0; 2]].concat()), Ok(()));
        for short in [0, 7, 8, 15] {
            assert_eq!(check(&good[..short]), Err(DropReason::VrrpInvalid), "{short} bytes");
        }
        // Offset and what is written there: version, type, id, addresses, interval.
        for (at, fault) in [(0, 0x21), (0, 0x32), (1, 0), (3, 3), (5, 0)] {
            let mut bytes = good.clone();
            bytes[at] = fault;
            assert_eq!(check(&bytes), Err(DropReason::VrrpInvalid), "{fault} at {at}");
        }
        let mut none = good.clone();
        none[3] = 0;
        assert_eq!(check(&none), Ok(()));
        let mut reserved = good;
        reserved[4] |= 0xf0;
        assert_eq!(Packet::new_checked(&reserved[..], false).unwrap().interval_cs(), 100);
    }

    #[test]
    fn too_many_addresses_are_left_out() {
        let v4: Vec<IpAddr> = (0..300u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n).into()).collect();
        let v6: Vec<IpAddr> = (0..300u128).map(|n| Ipv6Addr::from(n << 96 | 1).into()).collect();
        for (src, addresses, most) in [(SRC_V4, v4, 255), (SRC_V6, v6, 77)] {
            let frame = Repr { addresses: &addresses, ..repr(src) }.frame(MAC);
            assert!(frame.len() <= 1294);
            let at = if src.is_ipv6() { 54 } else { 34 };
            let packet = Packet::new_checked(&frame[at..], src.is_ipv6()).unwrap();
            assert_eq!(usize::from(packet.count()), most);
            assert!(packet.addresses().eq(addresses[..most].iter().copied()));
        }
    }

    #[test]
    fn link_local_of_a_mac_address() {
        let expected: Ipv6Addr = "fe80::34:56ff:fe78:9abc".parse().unwrap();
        assert_eq!(link_local([2, 0x34, 0x56, 0x78, 0x9a, 0xbc]), expected);
        let expected: Ipv6Addr = "fe80::200:5eff:fe00:10a".parse().unwrap();
        assert_eq!(link_local(MAC), expected);
    }

    proptest! {
        #[test]
        fn any_bytes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            sound: bool, v6: bool, count in 0u8..6,
        ) {
            if sound && bytes.len() >= HEADER_LEN {
                bytes[field::VERSION_TYPE] = ADVERTISEMENT;
                bytes[field::COUNT] = count;
            }
            let src = if v6 { SRC_V6 } else { SRC_V4 };
            if let Ok(packet) = Packet::new_checked(&bytes, v6) {
                let _ = (packet.verify_checksum(src, src), packet.checksum());
                let addresses: Vec<IpAddr> = packet.addresses().collect();
                prop_assert_eq!(addresses.len(), usize::from(packet.count()));
                let (vrid, priority) = (packet.vrid(), packet.priority());
                let interval_cs = packet.interval_cs();
                let repr = Repr { src, vrid, priority, interval_cs, addresses: &addresses };
                let frame = repr.frame(MAC);
                let message = &frame[if v6 { 54 } else { 34 }..];
                let dst = if v6 { IpAddr::from(GROUP_V6) } else { GROUP_V4.into() };
                let again = Packet::new_checked(message, v6).unwrap();
                prop_assert!(again.verify_checksum(src, dst));
                prop_assert_eq!((again.vrid(), again.priority()), (vrid, priority));
                prop_assert_eq!(again.interval_cs(), interval_cs);
                prop_assert!(again.addresses().eq(addresses.iter().copied()));
            }
        }
    }
}
