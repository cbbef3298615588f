//! Neighbor discovery (RFC 4861): neighbor solicitations and advertisements.
//!
//! `new_checked` checks all that sections 7.1.1 and 7.1.2 ask of a receiver: hop limit 255 (so the
//! packet was not forwarded), the checksum, code 0, at least 24 bytes, a target that is not
//! multicast, no option of length 0 or past the end; for a solicitation from the unspecified
//! address, a solicited-node destination and no source link-layer address; for an advertisement to
//! a group, the solicited flag clear. Beyond them it wants link-layer address options to be of
//! Ethernet's length and to hold a unicast address, and an advertisement's source not to be the
//! unspecified address or a group. Options it does not know are skipped.
//!
//! It does not check that the target is on the link or ours.

use std::net::Ipv6Addr;

use super::DropReason;
use super::bytes::{get, get_u32, set, set_u32};
use super::ethernet::{self, EtherType, Mac};
use super::icmpv6::{NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION};
use super::{icmpv6, ip_protocol, ipv6};

/// The hop limit that neighbor discovery is sent with.
pub const HOP_LIMIT: u8 = 255;
/// Length in bytes of the messages that Shunt makes: with one link-layer address option.
pub const LEN: usize = field::OPTIONS + OPTION_LEN;
/// Length in bytes of a frame with such a message.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + LEN;
/// All nodes on the link (RFC 4291 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ROUTER: u32 = 1 << 31;
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;

const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// Length of a link-layer address option for Ethernet (RFC 2464 6), in bytes.
const OPTION_LEN: usize = 8;

mod field {
    pub(super) const KIND: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const FLAGS: usize = 4;
    pub(super) const TARGET: usize = 8;
    pub(super) const OPTIONS: usize = 24;
}

/// The group that a host with this address listens on for solicitations (RFC 4291 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    let low = u16::from_be_bytes([o[14], o[15]]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | o[13] as u16, low)
}

/// Whether an address is a solicited-node group: ff02::1:ff00:0/104.
pub fn is_solicited_node(address: Ipv6Addr) -> bool {
    address == solicited_node(address)
}

/// View of a neighbor solicitation or advertisement.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// A view without any check.
    pub const fn new_unchecked(buffer: T) -> Self {
        Packet { buffer }
    }

    /// A view of a message that RFC 4861 says to heed. `buffer` is the ICMPv6 message (no padding)
    /// of an IP packet with this hop limit, source and destination.
    ///
    /// # Errors
    /// [`DropReason::BadNdp`], also when the message is of another type.
    pub fn new_checked(
        buffer: T,
        hop_limit: u8,
        src: Ipv6Addr,
        dst: Ipv6Addr,
    ) -> Result<Self, DropReason> {
        let bytes = buffer.as_ref();
        let sound = bytes.len() >= field::OPTIONS
            && hop_limit == HOP_LIMIT
            && bytes[field::CODE] == 0
            && icmpv6::Packet::new_unchecked(bytes).verify_checksum(src, dst);
        let packet = Packet { buffer };
        if !sound || packet.target().is_multicast() || !packet.options_are_sound() {
            return Err(DropReason::BadNdp);
        }
        let heeded = match packet.buffer.as_ref()[field::KIND] {
            NEIGHBOR_SOLICITATION if src.is_unspecified() => {
                is_solicited_node(dst) && packet.source_mac().is_none()
            }
            NEIGHBOR_SOLICITATION => !src.is_multicast(),
            NEIGHBOR_ADVERTISEMENT if src.is_unspecified() || src.is_multicast() => false,
            NEIGHBOR_ADVERTISEMENT => !dst.is_multicast() || !packet.is_solicited(),
            _ => false,
        };
        if heeded { Ok(packet) } else { Err(DropReason::BadNdp) }
    }

    /// Whether this is a solicitation; an advertisement otherwise.
    pub fn is_solicitation(&self) -> bool {
        self.buffer.as_ref()[field::KIND] == NEIGHBOR_SOLICITATION
    }

    /// The address that is asked for, or whose MAC address is told.
    pub fn target(&self) -> Ipv6Addr {
        get(self.buffer.as_ref(), field::TARGET).into()
    }

    fn flags(&self) -> u32 {
        get_u32(self.buffer.as_ref(), field::FLAGS)
    }

    /// Advertisement: the sender is a router.
    pub fn is_router(&self) -> bool {
        self.flags() & ROUTER != 0
    }

    /// Advertisement: it answers a solicitation.
    pub fn is_solicited(&self) -> bool {
        self.flags() & SOLICITED != 0
    }

    /// Advertisement: it replaces a MAC address that is known already.
    pub fn is_override(&self) -> bool {
        self.flags() & OVERRIDE != 0
    }

    /// The source link-layer address option: the sender's MAC address, in a solicitation.
    pub fn source_mac(&self) -> Option<Mac> {
        self.mac_option(SOURCE_LINK_LAYER_ADDRESS)
    }

    /// The target link-layer address option: the target's MAC address, in an advertisement.
    pub fn target_mac(&self) -> Option<Mac> {
        self.mac_option(TARGET_LINK_LAYER_ADDRESS)
    }

    /// The options in order: type, and the option's bytes from its type on. Ends early at an
    /// option of length 0 or past the end.
    fn options(&self) -> Options<'_> {
        Options { rest: self.buffer.as_ref().get(field::OPTIONS..).unwrap_or_default() }
    }

    /// The first such option of the right length.
    fn mac_option(&self, kind: u8) -> Option<Mac> {
        self.options().find(|o| o[0] == kind && o.len() == OPTION_LEN).map(|o| get(o, 2))
    }

    fn options_are_sound(&self) -> bool {
        let mut options = self.options();
        let known_are_sound = options.by_ref().all(|option| match option[0] {
            SOURCE_LINK_LAYER_ADDRESS | TARGET_LINK_LAYER_ADDRESS => {
                option.len() == OPTION_LEN && ethernet::is_unicast(&get(option, 2))
            }
            _ => true,
        });
        known_are_sound && options.rest.is_empty()
    }
}

/// Walks over options (RFC 4861 4.6): type, length in units of 8 bytes, value.
struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(*self.rest.get(1)?) * 8;
        if len == 0 {
            return None;
        }
        let (option, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(option)
    }
}

/// A message, with the addresses it is sent from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source of the IP packet.
    pub src: Ipv6Addr,
    /// Destination of the IP packet.
    pub dst: Ipv6Addr,
    /// The address that is asked for, or told.
    pub target: Ipv6Addr,
    /// The sender's MAC address, told in the option.
    pub mac: Mac,
    /// What the message is.
    pub kind: Kind,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who has the target?
    Solicitation,
    /// The sender has it.
    Advertisement {
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation that was sent to one host.
        solicited: bool,
        /// It replaces a MAC address that is known already.
        replace: bool,
    },
}

impl Repr {
    /// The question who has `target`, to its solicited-node group. `src` must not be unspecified.
    pub const fn solicitation(mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> Self {
        Repr { src, dst: solicited_node(target), target, mac, kind: Kind::Solicitation }
    }

    /// The same question to the host itself, to refresh what is known of it (RFC 4861 7.3.3).
    pub const fn unicast_solicitation(mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> Self {
        Repr { src, dst: target, target, mac, kind: Kind::Solicitation }
    }

    /// The answer to a solicitation from `asker` that `target` is at `mac` (RFC 4861 7.2.4), from
    /// a router. When the asker is the unspecified address (it probes for a duplicate) the answer
    /// goes to all nodes.
    pub const fn answer(mac: Mac, target: Ipv6Addr, asker: Ipv6Addr) -> Self {
        let probe = asker.is_unspecified();
        let dst = if probe { ALL_NODES } else { asker };
        let kind = Kind::Advertisement { router: true, solicited: !probe, replace: true };
        Repr { src: target, dst, target, mac, kind }
    }

    /// The announcement to all nodes that `target` is now at `mac` (RFC 4861 7.2.6), from a router.
    pub const fn unsolicited(mac: Mac, target: Ipv6Addr) -> Self {
        Self::answer(mac, target, Ipv6Addr::UNSPECIFIED)
    }

    /// Writes the ICMPv6 message with its checksum to the first [`LEN`] bytes of `buffer`.
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = &mut buffer[..LEN];
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let (kind, flags, option) = match self.kind {
            Kind::Solicitation => (NEIGHBOR_SOLICITATION, 0, SOURCE_LINK_LAYER_ADDRESS),
            Kind::Advertisement { router, solicited, replace } => (
                NEIGHBOR_ADVERTISEMENT,
                flag(router, ROUTER) | flag(solicited, SOLICITED) | flag(replace, OVERRIDE),
                TARGET_LINK_LAYER_ADDRESS,
            ),
        };
        message[field::KIND] = kind;
        message[field::CODE] = 0;
        set_u32(message, field::FLAGS, flags);
        set(message, field::TARGET, self.target.octets());
        set(message, field::OPTIONS, [option, 1]);
        set(message, field::OPTIONS + 2, self.mac);
        icmpv6::Packet::new_unchecked(message).fill_checksum(self.src, self.dst);
    }

    /// The whole frame, from `mac` to `dst_mac`; a group's MAC address is
    /// [`ethernet::multicast_v6`].
    pub fn frame(&self, dst_mac: Mac) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        ethernet::Repr { dst: dst_mac, src: self.mac, ether_type: EtherType::IPV6 }
            .emit(&mut frame);
        let packet = &mut frame[ethernet::HEADER_LEN..];
        ipv6::Repr {
            src: self.src,
            dst: self.dst,
            next_header: ip_protocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            payload_len: LEN as u16,
        }
        .emit(packet);
        self.emit(&mut packet[ipv6::HEADER_LEN..]);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];
    const A: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

    /// A message with the given option bytes and a right checksum.
    fn message(
        kind: u8,
        flags: u8,
        target: Ipv6Addr,
        options: &[u8],
        ip: (Ipv6Addr, Ipv6Addr),
    ) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        bytes.extend(target.octets());
        bytes.extend(options);
        icmpv6::Packet::new_unchecked(&mut bytes[..]).fill_checksum(ip.0, ip.1);
        bytes
    }

    fn check(bytes: &[u8], hop_limit: u8, ip: (Ipv6Addr, Ipv6Addr)) -> bool {
        match Packet::new_checked(bytes, hop_limit, ip.0, ip.1) {
            Ok(_) => true,
            Err(reason) => {
                assert_eq!(reason, DropReason::BadNdp);
                false
            }
        }
    }

    #[test]
    fn groups() {
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(solicited_node(B), group);
        assert!(is_solicited_node(group));
        for other in ["ff02::1", "ff02::1:fe12:3456", "ff05::1:ff12:3456", "2001:db8::1"] {
            assert!(!is_solicited_node(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn solicitation_byte_by_byte() {
        let repr = Repr::solicitation(MAC, A, B);
        let frame = repr.frame(ethernet::multicast_v6(repr.dst));
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 7, 0x86, 0xdd,
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x12, 0x34, 0x56,
            135, 0, frame[56], frame[57], 0, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
            1, 1, 2, 0, 0, 0, 0, 7,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn emitted_frames_are_read_by_etherparse() {
        let unspecified = Ipv6Addr::UNSPECIFIED;
        // Message, type, router/solicited/override bits, destination.
        let cases = [
            (Repr::solicitation(MAC, A, B), 135, 0x00, solicited_node(B)),
            (Repr::unicast_solicitation(MAC, A, B), 135, 0x00, B),
            (Repr::answer(MAC, A, B), 136, 0xe0, B),
            (Repr::answer(MAC, A, unspecified), 136, 0xa0, ALL_NODES),
            (Repr::unsolicited(MAC, A), 136, 0xa0, ALL_NODES),
        ];
        for (repr, kind, flags, dst) in cases {
            let frame = repr.frame(MAC);
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
            assert_eq!(ip.header().source_addr(), repr.src);
            assert_eq!(ip.header().destination_addr(), dst);
            assert_eq!(ip.header().hop_limit(), 255);
            let Some(etherparse::TransportSlice::Icmpv6(icmp)) = sliced.transport else {
                panic!("not ICMPv6")
            };
            assert!(icmp.is_checksum_valid(repr.src.octets(), dst.octets()));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (kind, 0));
            assert_eq!(icmp.bytes5to8(), [flags, 0, 0, 0]);

            let packet =
                Packet::new_checked(&frame[54..], 255, repr.src, repr.dst).expect("own message");
            assert_eq!(packet.is_solicitation(), kind == 135);
            assert_eq!(packet.target(), repr.target);
            let macs = (packet.source_mac(), packet.target_mac());
            assert_eq!(macs, if kind == 135 { (Some(MAC), None) } else { (None, Some(MAC)) });
            let bits = (packet.is_router(), packet.is_solicited(), packet.is_override());
            assert_eq!(bits, (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0));
        }
    }

    #[test]
    fn validity() {
        let group = solicited_node(B);
        let none = Ipv6Addr::UNSPECIFIED;
        let multicast: Ipv6Addr = "ff02::5".parse().unwrap();
        let source = [1, 1, 2, 0, 0, 0, 0, 7];
        let target = [2, 1, 2, 0, 0, 0, 0, 7];
        let unknown = [14, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let unknown_first = [&unknown[..], &source[..]].concat();
        // Description, type, flags, target, options, source, destination, whether heeded.
        type Case<'a> = (&'a str, u8, u8, Ipv6Addr, &'a [u8], Ipv6Addr, Ipv6Addr, bool);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            ("solicitation", 135, 0, B, &source, A, group, true),
            ("without option", 135, 0, B, &[], A, group, true),
            ("after an unknown option", 135, 0, B, &unknown_first, A, group, true),
            ("probe", 135, 0, B, &[], none, group, true),
            ("probe to one host", 135, 0, B, &[], none, B, false),
            ("probe to all nodes", 135, 0, B, &[], none, ALL_NODES, false),
            ("probe with source address", 135, 0, B, &source, none, group, false),
            ("multicast target", 135, 0, multicast, &source, A, group, false),
            ("multicast source", 135, 0, B, &source, multicast, group, false),
            ("option of length 0", 135, 0, B, &[1, 0, 0, 0, 0, 0, 0, 0], A, group, false),
            ("option past the end", 135, 0, B, &[14, 2, 0, 0, 0, 0, 0, 0], A, group, false),
            ("half an option", 135, 0, B, &[14], A, group, false),
            ("long source address", 135, 0, B, &[1, 2, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0], A, group, false),
            ("group as source address", 135, 0, B, &[1, 1, 3, 0, 0, 0, 0, 7], A, group, false),
            ("zero source address", 135, 0, B, &[1, 1, 0, 0, 0, 0, 0, 0], A, group, false),
            ("solicited advertisement", 136, 0x60, B, &target, B, A, true),
            ("advertisement without option", 136, 0x40, B, &[], B, A, true),
            ("unsolicited advertisement", 136, 0x20, B, &target, B, ALL_NODES, true),
            ("solicited to a group", 136, 0x60, B, &target, B, ALL_NODES, false),
            ("advertisement of a group", 136, 0x20, multicast, &target, B, A, false),
            ("advertisement from nobody", 136, 0x20, B, &target, none, A, false),
            ("advertisement from a group", 136, 0x20, B, &target, multicast, A, false),
            ("router advertisement", 134, 0, B, &[], A, B, false),
        ];
        for &(what, kind, flags, asked, options, src, dst, heeded) in cases {
            let bytes = message(kind, flags, asked, options, (src, dst));
            assert_eq!(check(&bytes, 255, (src, dst)), heeded, "{what}");
        }

        let ip = (A, group);
        let mut bytes = message(135, 0, B, &source, ip);
        assert!(check(&bytes, 255, ip));
        assert!(!check(&bytes, 254, ip), "hop limit");
        assert!(!check(&bytes[..23], 255, ip), "short");
        assert!(!check(&bytes, 255, (B, group)), "checksum");
        bytes[1] = 1;
        icmpv6::Packet::new_unchecked(&mut bytes[..]).fill_checksum(ip.0, ip.1);
        assert!(!check(&bytes, 255, ip), "code");

        let bytes = message(135, 0, B, &unknown_first, ip);
        let packet = Packet::new_checked(&bytes, 255, ip.0, ip.1).unwrap();
        assert_eq!(packet.source_mac(), Some(MAC));
    }

    proptest! {
        #[test]
        fn any_bytes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            kind in 134u8..138, sound: bool, option_len in 0u8..4,
        ) {
            let ip = (A, B);
            if sound && bytes.len() >= 8 {
                bytes[0] = kind;
                bytes[1] = 0;
                for at in [25, 33, 41, 49] {
                    if let Some(len) = bytes.get_mut(at) {
                        *len = option_len;
                    }
                }
                icmpv6::Packet::new_unchecked(&mut bytes[..]).fill_checksum(ip.0, ip.1);
            }
            if let Ok(packet) = Packet::new_checked(&bytes, 255, ip.0, ip.1) {
                prop_assert!(matches!(kind, 135 | 136) || !sound);
                let _ = (packet.is_solicitation(), packet.target(), packet.is_router());
                let _ = (packet.is_solicited(), packet.is_override());
                let _ = (packet.source_mac(), packet.target_mac());
            }
        }
    }
}
