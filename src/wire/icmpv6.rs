//! ICMPv6 (RFC 4443).
//!
//! `new_checked` checks that the 8 bytes are there that every message Shunt knows has. It does not
//! check the checksum ([`Packet::verify_checksum`], over the whole buffer: give it the IP payload
//! and no padding), nor type and code, nor what an error quotes. Neighbor discovery is in
//! [`super::ndp`].

use std::net::Ipv6Addr;

use super::DropReason;
use super::bytes::{get_u16, set_u16, set_u32};
use super::{checksum, ip_protocol, ipv6};

/// Length of the header in bytes: type, code, checksum and four bytes whose meaning depends on the
/// type.
pub const HEADER_LEN: usize = 8;

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Router solicitation (RFC 4861 4.1).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement (RFC 4861 4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbor solicitation (RFC 4861 4.3).
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Neighbor advertisement (RFC 4861 4.4).
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Redirect (RFC 4861 4.5).
pub const REDIRECT: u8 = 137;

/// The largest IP packet that an error may be, in bytes: the least MTU (RFC 4443 2.4 c).
const ERROR_PACKET_MAX: usize = 1280;
/// How much of the packet an error can quote, in bytes.
const QUOTE_MAX: usize = ERROR_PACKET_MAX - ipv6::HEADER_LEN - HEADER_LEN;

mod field {
    pub(super) const KIND: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: usize = 2;
    pub(super) const REST: usize = 4;
    pub(super) const ECHO_IDENT: usize = 4;
    pub(super) const ECHO_SEQUENCE: usize = 6;
}

/// View of an ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// A view without any check.
    pub const fn new_unchecked(buffer: T) -> Self {
        Packet { buffer }
    }

    /// A view of a message whose header is complete.
    ///
    /// # Errors
    /// [`DropReason::BadIcmp`].
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        if buffer.as_ref().len() < HEADER_LEN {
            return Err(DropReason::BadIcmp);
        }
        Ok(Packet { buffer })
    }

    /// The type.
    pub fn kind(&self) -> u8 {
        self.buffer.as_ref()[field::KIND]
    }

    /// The code.
    pub fn code(&self) -> u8 {
        self.buffer.as_ref()[field::CODE]
    }

    /// The checksum.
    pub fn checksum(&self) -> u16 {
        get_u16(self.buffer.as_ref(), field::CHECKSUM)
    }

    /// Identifier of an echo.
    pub fn echo_ident(&self) -> u16 {
        get_u16(self.buffer.as_ref(), field::ECHO_IDENT)
    }

    /// Sequence number of an echo.
    pub fn echo_sequence(&self) -> u16 {
        get_u16(self.buffer.as_ref(), field::ECHO_SEQUENCE)
    }

    /// The bytes after the header: the data of an echo, the packet quoted in an error.
    pub fn payload(&self) -> &[u8] {
        &self.buffer.as_ref()[HEADER_LEN..]
    }

    /// Whether the message is an error (type below 128), about which no error may be sent.
    pub fn is_error(&self) -> bool {
        self.kind() < 128
    }

    /// Whether this is an echo request.
    pub fn is_echo_request(&self) -> bool {
        self.kind() == ECHO_REQUEST && self.code() == 0
    }

    /// Whether this is a neighbor solicitation or advertisement, to be read by [`super::ndp`].
    pub fn is_neighbor_discovery(&self) -> bool {
        matches!(self.kind(), NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT)
    }

    /// Whether the checksum is right in a packet from `src` to `dst`.
    pub fn verify_checksum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        checksum::verify(self.sum(src, dst))
    }

    /// Pseudo header (RFC 8200 8.1) and message.
    fn sum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> u16 {
        let bytes = self.buffer.as_ref();
        let pseudo = checksum::pseudo_v6(src, dst, ip_protocol::ICMPV6, bytes.len() as u32);
        checksum::add(pseudo, checksum::sum(bytes))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Computes the checksum in full, for a packet from `src` to `dst`.
    pub fn fill_checksum(&mut self, src: Ipv6Addr, dst: Ipv6Addr) {
        set_u16(self.buffer.as_mut(), field::CHECKSUM, 0);
        let sum = self.sum(src, dst);
        set_u16(self.buffer.as_mut(), field::CHECKSUM, !sum);
    }

    /// Turns an echo request into its reply (RFC 4443 4.2); the data stays. The caller swaps the
    /// IP addresses, which the checksum does not notice. The checksum is updated, so one that was
    /// wrong stays wrong.
    pub fn make_echo_reply(&mut self) {
        let old = get_u16(self.buffer.as_ref(), field::KIND);
        let new = u16::from_be_bytes([ECHO_REPLY, 0]);
        let updated = checksum::apply(self.checksum(), checksum::delta16(old, new));
        set_u16(self.buffer.as_mut(), field::KIND, new);
        set_u16(self.buffer.as_mut(), field::CHECKSUM, updated);
    }
}

/// An error about a packet that could not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The hop limit ran out in transit.
    TimeExceeded,
    /// No route to the destination.
    NoRoute,
    /// Forbidden by configuration.
    AdministrativelyProhibited,
    /// The next hop or the host does not answer.
    AddressUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// Larger than the next hop's MTU.
    PacketTooBig {
        /// The next hop's MTU in bytes.
        mtu: u32,
    },
}

impl Error {
    const fn kind_code_rest(self) -> (u8, u8, u32) {
        match self {
            Error::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            Error::NoRoute => (UNREACHABLE, 0, 0),
            Error::AdministrativelyProhibited => (UNREACHABLE, 1, 0),
            Error::AddressUnreachable => (UNREACHABLE, 3, 0),
            Error::PortUnreachable => (UNREACHABLE, 4, 0),
            Error::PacketTooBig { mtu } => (PACKET_TOO_BIG, 0, mtu),
        }
    }

    /// Writes the whole message about `packet` (from its IP header on, without padding) to the
    /// first [`error_len`] bytes of `buffer`, to be sent from `src` to `dst`.
    pub fn emit(self, packet: &[u8], src: Ipv6Addr, dst: Ipv6Addr, buffer: &mut [u8]) {
        let message = &mut buffer[..error_len(packet.len())];
        let (kind, code, rest) = self.kind_code_rest();
        message[field::KIND] = kind;
        message[field::CODE] = code;
        set_u32(message, field::REST, rest);
        let quote = &mut message[HEADER_LEN..];
        quote.copy_from_slice(&packet[..quote.len()]);
        Packet::new_unchecked(message).fill_checksum(src, dst);
    }
}

/// Length in bytes of the error about a packet of `packet_len` bytes: it quotes as much of it as
/// fits into the least MTU (RFC 4443 2.4 c).
pub const fn error_len(packet_len: usize) -> usize {
    HEADER_LEN + if packet_len < QUOTE_MAX { packet_len } else { QUOTE_MAX }
}

/// Whether an error may be sent about `packet` (RFC 4443 2.4 e): not about an ICMPv6 error or a
/// redirect, to a group, or from an address that is not one host's. Packet too big about a
/// multicast, which the RFC allows, is refused too: Shunt does not forward multicast. The caller
/// knows, and checks, whether it came as a link-layer multicast. Extension headers are not
/// followed.
pub fn may_report<T: AsRef<[u8]>>(packet: &ipv6::Packet<T>) -> bool {
    let (src, dst) = (packet.src(), packet.dst());
    let one_host =
        !src.is_unspecified() && !src.is_multicast() && !src.is_loopback() && !dst.is_multicast();
    let about_error = packet.next_header() == ip_protocol::ICMPV6
        && packet.payload().first().is_none_or(|&kind| kind < 128 || kind == REDIRECT);
    one_host && !about_error
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
    use etherparse::{Icmpv6Slice, Icmpv6Type};
    use proptest::prelude::*;

    const A: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    /// Parses with etherparse and verifies the checksum with it.
    fn oracle(bytes: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> Icmpv6Type {
        let slice = Icmpv6Slice::from_slice(bytes).unwrap();
        assert!(slice.is_checksum_valid(src.octets(), dst.octets()));
        let kind = slice.icmp_type();
        let expected = kind.calc_checksum(src.octets(), dst.octets(), slice.payload()).unwrap();
        assert_eq!(slice.checksum(), expected);
        kind
    }

    fn ip_packet(src: &str, dst: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ipv6::HEADER_LEN];
        bytes.extend(payload);
        ipv6::Repr {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            next_header,
            hop_limit: 1,
            payload_len: payload.len() as u16,
        }
        .emit(&mut bytes);
        bytes
    }

    #[test]
    fn errors_are_read_by_etherparse() {
        let quoted = ip_packet("2001:db8::7", "2001:db8::8", 17, &[7; 9]);
        let unreachable = Icmpv6Type::DestinationUnreachable;
        let cases = [
            (Error::TimeExceeded, Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded)),
            (Error::NoRoute, unreachable(DestUnreachableCode::NoRoute)),
            (Error::AdministrativelyProhibited, unreachable(DestUnreachableCode::Prohibited)),
            (Error::AddressUnreachable, unreachable(DestUnreachableCode::Address)),
            (Error::PortUnreachable, unreachable(DestUnreachableCode::Port)),
            (Error::PacketTooBig { mtu: 1400 }, Icmpv6Type::PacketTooBig { mtu: 1400 }),
        ];
        for (error, expected) in cases {
            let mut bytes = [0xff; 100];
            error.emit(&quoted, A, B, &mut bytes);
            let message = &bytes[..error_len(quoted.len())];
            assert_eq!(message.len(), 8 + 49);
            assert_eq!(oracle(message, A, B), expected);
            let packet = Packet::new_checked(message).unwrap();
            assert!(packet.is_error() && packet.verify_checksum(A, B));
            assert_eq!(packet.payload(), quoted);
            assert_eq!(bytes[57..], [0xff; 43]);
        }
    }

    #[test]
    fn errors_quote_at_most_1232_bytes() {
        assert_eq!(error_len(1231), 1239);
        assert_eq!(error_len(1232), 1240);
        assert_eq!(error_len(1500), 1240);
        let mut bytes = [0; 1240];
        Error::TimeExceeded.emit(&[9; 1500], A, B, &mut bytes);
        oracle(&bytes, A, B);
    }

    #[test]
    fn what_may_be_reported() {
        let (a, b) = ("2001:db8::1", "2001:db8::2");
        let report =
            |bytes: &[u8]| may_report(&ipv6::Packet::new_checked(bytes).expect("a sound packet"));
        assert!(report(&ip_packet(a, b, 6, &[])));
        assert!(report(&ip_packet(a, b, 58, &[ECHO_REQUEST])));
        assert!(report(&ip_packet(a, b, 17, &[TIME_EXCEEDED])));
        for kind in [UNREACHABLE, PACKET_TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM, REDIRECT] {
            assert!(!report(&ip_packet(a, b, 58, &[kind])), "{kind}");
        }
        assert!(!report(&ip_packet(a, b, 58, &[])));
        for src in ["::", "::1", "ff02::1"] {
            assert!(!report(&ip_packet(src, b, 6, &[])), "{src}");
        }
        assert!(!report(&ip_packet(a, "ff02::1", 6, &[])));
    }

    proptest! {
        #[test]
        fn echo(
            src: Ipv6Addr, dst: Ipv6Addr, ident: u16, sequence: u16,
            data in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let header = etherparse::IcmpEchoHeader { id: ident, seq: sequence };
            let mut bytes = Vec::new();
            Icmpv6Type::EchoRequest(header)
                .to_header(src.octets(), dst.octets(), &data)
                .unwrap()
                .write(&mut bytes)
                .unwrap();
            bytes.extend(&data);
            let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
            prop_assert!(packet.is_echo_request() && packet.verify_checksum(src, dst));
            prop_assert_eq!((packet.echo_ident(), packet.echo_sequence()), (ident, sequence));
            packet.make_echo_reply();
            prop_assert_eq!(packet.payload(), &data[..]);
            prop_assert_eq!(oracle(&bytes, dst, src), Icmpv6Type::EchoReply(header));
            bytes[0] ^= 1;
            prop_assert!(!Packet::new_checked(&bytes).unwrap().verify_checksum(dst, src));
        }

        #[test]
        fn any_bytes(
            src: Ipv6Addr, dst: Ipv6Addr, mut bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let len = bytes.len();
            match Packet::new_checked(&mut bytes[..]) {
                Err(reason) => {
                    prop_assert_eq!(reason, DropReason::BadIcmp);
                    prop_assert!(len < HEADER_LEN);
                }
                Ok(mut packet) => {
                    let _ = (packet.kind(), packet.code(), packet.is_error(), packet.payload());
                    let _ = (packet.echo_ident(), packet.echo_sequence());
                    let _ = (packet.is_neighbor_discovery(), packet.verify_checksum(src, dst));
                    packet.make_echo_reply();
                    packet.fill_checksum(src, dst);
                    prop_assert!(packet.verify_checksum(src, dst));
                }
            }
        }
    }
}
