//! ICMP (RFC 792; errors as RFC 1812 4.3 wants them of a router).
//!
//! `new_checked` checks that the 8 bytes every message has are there. It does not check the
//! checksum ([`Packet::verify_checksum`], over the whole buffer: give it the IP payload and no
//! padding), nor type and code, nor what an error quotes.

use super::DropReason;
use super::bytes::{get_u16, set_u16, set_u32};
use super::{checksum, ip_protocol, ipv4};

/// Length of the header in bytes: type, code, checksum and four bytes whose meaning depends on the
/// type.
pub const HEADER_LEN: usize = 8;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench (deprecated by RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// The largest IP packet that an error may be, in bytes (RFC 1812 4.3.2.3).
const ERROR_PACKET_MAX: usize = 576;
/// How much of the packet an error can quote, in bytes.
const QUOTE_MAX: usize = ERROR_PACKET_MAX - ipv4::HEADER_LEN - HEADER_LEN;

mod field {
    pub(super) const KIND: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: usize = 2;
    pub(super) const REST: usize = 4;
    pub(super) const ECHO_IDENT: usize = 4;
    pub(super) const ECHO_SEQUENCE: usize = 6;
}

/// View of an ICMP message.
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

    /// Whether the message is an error (RFC 1122 3.2.2), about which no error may be sent.
    pub fn is_error(&self) -> bool {
        is_error(self.kind())
    }

    /// Whether this is an echo request.
    pub fn is_echo_request(&self) -> bool {
        self.kind() == ECHO_REQUEST && self.code() == 0
    }

    /// Whether the checksum is right.
    pub fn verify_checksum(&self) -> bool {
        checksum::verify(checksum::sum(self.buffer.as_ref()))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Computes the checksum in full.
    pub fn fill_checksum(&mut self) {
        set_u16(self.buffer.as_mut(), field::CHECKSUM, 0);
        let sum = checksum::sum(self.buffer.as_ref());
        set_u16(self.buffer.as_mut(), field::CHECKSUM, !sum);
    }

    /// Turns an echo request into its reply (RFC 792); the data stays. The caller swaps the IP
    /// addresses. The checksum is updated, so one that was wrong stays wrong.
    pub fn make_echo_reply(&mut self) {
        let old = get_u16(self.buffer.as_ref(), field::KIND);
        let new = u16::from_be_bytes([ECHO_REPLY, 0]);
        let updated = checksum::apply(self.checksum(), checksum::delta16(old, new));
        set_u16(self.buffer.as_mut(), field::KIND, new);
        set_u16(self.buffer.as_mut(), field::CHECKSUM, updated);
        // There is no pseudo header, so a reply may be all zeros: its checksum is 0xffff, where
        // the update gives the other zero. Any other reply with a checksum of 0 keeps it.
        if updated == 0 && self.buffer.as_ref().iter().all(|&b| b == 0) {
            set_u16(self.buffer.as_mut(), field::CHECKSUM, 0xffff);
        }
    }
}

/// An error about a packet that could not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The TTL ran out in transit.
    TimeExceeded,
    /// No route to the destination's network.
    NetUnreachable,
    /// The next hop or the host does not answer.
    HostUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// Larger than the next hop's MTU, in bytes, and not to be fragmented (RFC 1191 4).
    FragmentationNeeded {
        /// The next hop's MTU in bytes.
        mtu: u16,
    },
    /// Forbidden by configuration (RFC 1812 5.2.7.1).
    AdministrativelyProhibited,
}

impl Error {
    const fn kind_code_rest(self) -> (u8, u8, u32) {
        match self {
            Error::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            Error::NetUnreachable => (UNREACHABLE, 0, 0),
            Error::HostUnreachable => (UNREACHABLE, 1, 0),
            Error::PortUnreachable => (UNREACHABLE, 3, 0),
            Error::FragmentationNeeded { mtu } => (UNREACHABLE, 4, mtu as u32),
            Error::AdministrativelyProhibited => (UNREACHABLE, 13, 0),
        }
    }

    /// Writes the whole message about `packet` (from its IP header on, without padding) to the
    /// first [`error_len`] bytes of `buffer`.
    pub fn emit(self, packet: &[u8], buffer: &mut [u8]) {
        let message = &mut buffer[..error_len(packet.len())];
        let (kind, code, rest) = self.kind_code_rest();
        message[field::KIND] = kind;
        message[field::CODE] = code;
        set_u32(message, field::REST, rest);
        let quote = &mut message[HEADER_LEN..];
        quote.copy_from_slice(&packet[..quote.len()]);
        Packet::new_unchecked(message).fill_checksum();
    }
}

/// Length in bytes of the error about a packet of `packet_len` bytes: it quotes as much of it as
/// fits into an IP packet of 576 bytes (RFC 1812 4.3.2.3).
pub const fn error_len(packet_len: usize) -> usize {
    HEADER_LEN + if packet_len < QUOTE_MAX { packet_len } else { QUOTE_MAX }
}

/// Whether an error may be sent about `packet` (RFC 1812 4.3.2.7): not about an ICMP error, a
/// fragment but the first, to or from a group, or from an address that is not one host's. The
/// caller knows, and checks, whether it came as a link-layer broadcast.
pub fn may_report<T: AsRef<[u8]>>(packet: &ipv4::Packet<T>) -> bool {
    let (src, dst) = (packet.src(), packet.dst());
    let one_host = !src.is_unspecified()
        && !src.is_multicast()
        && !src.is_loopback()
        && src.octets()[0] < 240
        && !dst.is_multicast()
        && !dst.is_broadcast();
    let about_error = packet.protocol() == ip_protocol::ICMP
        && packet.payload().first().is_none_or(|&kind| is_error(kind));
    one_host && packet.fragment_offset() == 0 && !about_error
}

const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
    use etherparse::{Icmpv4Slice, Icmpv4Type};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn echo_request(ident: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = etherparse::IcmpEchoHeader { id: ident, seq: sequence };
        etherparse::Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), data)
            .write(&mut bytes)
            .unwrap();
        bytes.extend(data);
        bytes
    }

    /// Parses with etherparse and verifies the checksum with it.
    fn oracle(bytes: &[u8]) -> Icmpv4Type {
        let slice = Icmpv4Slice::from_slice(bytes).unwrap();
        let kind = slice.icmp_type();
        assert_eq!(slice.checksum(), kind.calc_checksum(slice.payload()));
        kind
    }

    fn ip_packet(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ipv4::HEADER_LEN];
        bytes.extend(payload);
        ipv4::Repr {
            src: src.into(),
            dst: dst.into(),
            protocol,
            ttl: 1,
            ident: 0,
            dont_fragment: false,
            payload_len: payload.len() as u16,
        }
        .emit(&mut bytes);
        bytes
    }

    #[test]
    fn reply_of_zeros() {
        let mut bytes = echo_request(0, 0, &[0; 5]);
        let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
        packet.make_echo_reply();
        assert!(packet.verify_checksum());
        assert_eq!(packet.checksum(), 0xffff);
        oracle(&bytes);
    }

    #[test]
    fn reply_with_checksum_zero() {
        let mut bytes = echo_request(0xffff, 0, &[]);
        let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
        packet.make_echo_reply();
        assert!(packet.verify_checksum());
        assert_eq!(packet.checksum(), 0);
        oracle(&bytes);
    }

    #[test]
    fn errors_are_read_by_etherparse() {
        let quoted = ip_packet([192, 0, 2, 1], [198, 51, 100, 2], 17, &[7; 9]);
        let next_hop_mtu = 1400;
        let cases = [
            (Error::TimeExceeded, Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit)),
            (
                Error::NetUnreachable,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network),
            ),
            (
                Error::HostUnreachable,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
            ),
            (
                Error::PortUnreachable,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
            ),
            (
                Error::FragmentationNeeded { mtu: next_hop_mtu },
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu,
                }),
            ),
            (
                Error::AdministrativelyProhibited,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited),
            ),
        ];
        for (error, expected) in cases {
            let mut bytes = [0xff; 100];
            error.emit(&quoted, &mut bytes);
            let message = &bytes[..error_len(quoted.len())];
            assert_eq!(message.len(), 8 + 29);
            assert_eq!(oracle(message), expected);
            let packet = Packet::new_checked(message).unwrap();
            assert!(packet.is_error() && packet.verify_checksum());
            assert_eq!(packet.payload(), quoted);
            assert_eq!(bytes[37..], [0xff; 63]);
        }
    }

    #[test]
    fn errors_quote_at_most_548_bytes() {
        assert_eq!(error_len(547), 555);
        assert_eq!(error_len(548), 556);
        assert_eq!(error_len(1500), 556);
        let mut bytes = [0; 556];
        Error::TimeExceeded.emit(&[9; 1500], &mut bytes);
        oracle(&bytes);
    }

    #[test]
    fn what_may_be_reported() {
        let (a, b) = ([192, 0, 2, 1], [198, 51, 100, 2]);
        let report =
            |bytes: &[u8]| may_report(&ipv4::Packet::new_checked(bytes).expect("a sound packet"));
        assert!(report(&ip_packet(a, b, 6, &[])));
        assert!(report(&ip_packet(a, b, 1, &[ECHO_REQUEST])));
        assert!(report(&ip_packet(a, b, 17, &[TIME_EXCEEDED])));
        for kind in [UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM] {
            assert!(!report(&ip_packet(a, b, 1, &[kind])), "{kind}");
        }
        assert!(!report(&ip_packet(a, b, 1, &[])));
        for src in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(!report(&ip_packet(src, b, 6, &[])), "{}", Ipv4Addr::from(src));
        }
        for dst in [[239, 1, 1, 1], [255; 4]] {
            assert!(!report(&ip_packet(a, dst, 6, &[])), "{}", Ipv4Addr::from(dst));
        }
        let mut fragment = ip_packet(a, b, 6, &[]);
        fragment[6] = 0x20;
        assert!(report(&fragment));
        fragment[7] = 1;
        assert!(!report(&fragment));
    }

    proptest! {
        #[test]
        fn echo(ident: u16, sequence: u16, data in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = echo_request(ident, sequence, &data);
            let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
            prop_assert!(packet.is_echo_request() && packet.verify_checksum());
            prop_assert_eq!((packet.echo_ident(), packet.echo_sequence()), (ident, sequence));
            packet.make_echo_reply();
            prop_assert_eq!(packet.payload(), &data[..]);
            let header = etherparse::IcmpEchoHeader { id: ident, seq: sequence };
            prop_assert_eq!(oracle(&bytes), Icmpv4Type::EchoReply(header));
            bytes[0] ^= 1;
            prop_assert!(!Packet::new_checked(&bytes).unwrap().verify_checksum());
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let len = bytes.len();
            match Packet::new_checked(&mut bytes[..]) {
                Err(reason) => {
                    prop_assert_eq!(reason, DropReason::BadIcmp);
                    prop_assert!(len < HEADER_LEN);
                }
                Ok(mut packet) => {
                    let _ = (packet.kind(), packet.code(), packet.is_error(), packet.payload());
                    let _ = (packet.echo_ident(), packet.echo_sequence(), packet.verify_checksum());
                    packet.make_echo_reply();
                    packet.fill_checksum();
                    prop_assert!(packet.verify_checksum());
                }
            }
        }
    }
}
