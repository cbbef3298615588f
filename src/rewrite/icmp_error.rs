//! ICMP errors, translated: the error about a packet that was rewritten becomes the error about the
//! packet as its sender knows it.
//!
//! Outside, the addresses change; inside, the addresses and ports of the quoted packet, its
//! sequence numbers where the two sides count differently, and its checksums as far as they are
//! quoted. Every change is made by difference (RFC 1624), so an extension after the quote (RFC
//! 4884) stays whole and a message that was damaged stays so.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::bytes::{get_u16, get_u32, set_u16};
use crate::wire::flow::{Address, FlowKey, Protocol, tcp_flags};
use crate::wire::quoted::{self, Quoted, Unusable};
use crate::wire::{checksum, icmpv4, icmpv6, ipv4, ipv6};

use crate::wire::ethernet::HEADER_LEN as ETHERNET;

/// Length of the ICMP header before the quote, in both families.
const ICMP_HEADER: usize = icmpv4::HEADER_LEN;
const _: () = assert!(icmpv4::HEADER_LEN == icmpv6::HEADER_LEN);

/// What an error becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<A> {
    /// Source address of the error.
    pub src: A,
    /// Destination address of the error.
    pub dst: A,
    /// Addresses and ports of the quoted packet; the protocol stays.
    pub quoted: FlowKey<A>,
    /// Added to the quoted TCP sequence number (modulo 2^32).
    pub sequence: u32,
    /// Added to the quoted TCP acknowledgement number, if it is quoted.
    pub acknowledgement: u32,
}

/// ICMP errors of one family. Frames are such as [`crate::wire::flow::parse`] has called ICMP of
/// this family: IP header without options or extension headers, `end` within the frame.
pub trait IcmpError: Address {
    /// Whether the message is an error about a packet that is to be passed on. Those that RFC 6633
    /// deprecates and redirects are not.
    fn is_error(message: &[u8]) -> bool;
    /// Reads the quoted packet.
    ///
    /// # Errors
    /// See [`Unusable`].
    fn quoted(quote: &[u8]) -> Result<Quoted<Self>, Unusable>;
    /// Source and destination of the error.
    fn endpoints(frame: &[u8]) -> (Self, Self);
    /// Whether the ICMP checksum is right.
    fn is_sound(frame: &[u8], end: usize) -> bool;
    /// TTL or hop limit.
    fn hop_limit(frame: &[u8]) -> u8;
    /// Sets the outer addresses, takes one off the hop limit and corrects the header checksum.
    /// Returns what the new addresses mean for the sum that the ICMP checksum is made of.
    fn set_outer(frame: &mut [u8], src: Self, dst: Self) -> u16;
    /// Sets the addresses of a quoted packet. Returns the difference of the addresses, and that of
    /// all that was changed.
    fn set_quoted(quote: &mut [u8], src: Self, dst: Self) -> (u16, u16);

    /// Translates the error in `frame`, which quotes `quoted` and whose ICMP message ends at `end`.
    fn translate_error(
        frame: &mut [u8],
        end: usize,
        quoted: &Quoted<Self>,
        to: &Translation<Self>,
    ) {
        let outer = Self::set_outer(frame, to.src, to.dst);
        let message = &mut frame[Self::TRANSPORT..end];
        let quote = &mut message[ICMP_HEADER..];
        let (addresses, inner) = Self::set_quoted(quote, to.quoted.src, to.quoted.dst);
        let transport = set_transport(&mut quote[quoted.transport..], to, addresses);
        let delta = checksum::add(outer, checksum::add(inner, transport));
        set_u16(message, 2, checksum::apply(get_u16(message, 2), delta));
    }
}

impl IcmpError for Ipv4Addr {
    fn is_error(message: &[u8]) -> bool {
        use icmpv4::{PARAMETER_PROBLEM, TIME_EXCEEDED, UNREACHABLE};
        matches!(message.first(), Some(&(UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)))
    }
    fn quoted(quote: &[u8]) -> Result<Quoted<Self>, Unusable> {
        quoted::parse_v4(quote)
    }
    fn endpoints(frame: &[u8]) -> (Self, Self) {
        let packet = ipv4::Packet::new_unchecked(&frame[ETHERNET..]);
        (packet.src(), packet.dst())
    }
    fn is_sound(frame: &[u8], end: usize) -> bool {
        icmpv4::Packet::new_unchecked(&frame[Self::TRANSPORT..end]).verify_checksum()
    }
    fn hop_limit(frame: &[u8]) -> u8 {
        ipv4::Packet::new_unchecked(&frame[ETHERNET..]).ttl()
    }
    fn set_outer(frame: &mut [u8], src: Self, dst: Self) -> u16 {
        let mut packet = ipv4::Packet::new_unchecked(&mut frame[ETHERNET..]);
        packet.set_src(src);
        packet.set_dst(dst);
        packet.set_ttl(packet.ttl().saturating_sub(1));
        packet.fill_checksum();
        0
    }
    fn set_quoted(quote: &mut [u8], src: Self, dst: Self) -> (u16, u16) {
        let mut packet = ipv4::Packet::new_unchecked(quote);
        let addresses = checksum::add(
            checksum::delta_address(packet.src(), src),
            checksum::delta_address(packet.dst(), dst),
        );
        packet.set_src(src);
        packet.set_dst(dst);
        let old = packet.checksum();
        let new = checksum::apply(old, addresses);
        packet.set_checksum(new);
        (addresses, checksum::add(addresses, checksum::delta16(old, new)))
    }
}

impl IcmpError for Ipv6Addr {
    fn is_error(message: &[u8]) -> bool {
        use icmpv6::{PACKET_TOO_BIG, PARAMETER_PROBLEM, TIME_EXCEEDED, UNREACHABLE};
        matches!(
            message.first(),
            Some(&(UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM))
        )
    }
    fn quoted(quote: &[u8]) -> Result<Quoted<Self>, Unusable> {
        quoted::parse_v6(quote)
    }
    fn endpoints(frame: &[u8]) -> (Self, Self) {
        let packet = ipv6::Packet::new_unchecked(&frame[ETHERNET..]);
        (packet.src(), packet.dst())
    }
    fn is_sound(frame: &[u8], end: usize) -> bool {
        let (src, dst) = Self::endpoints(frame);
        icmpv6::Packet::new_unchecked(&frame[Self::TRANSPORT..end]).verify_checksum(src, dst)
    }
    fn hop_limit(frame: &[u8]) -> u8 {
        ipv6::Packet::new_unchecked(&frame[ETHERNET..]).hop_limit()
    }
    fn set_outer(frame: &mut [u8], src: Self, dst: Self) -> u16 {
        let mut packet = ipv6::Packet::new_unchecked(&mut frame[ETHERNET..]);
        let delta = checksum::add(
            checksum::delta_address(packet.src(), src),
            checksum::delta_address(packet.dst(), dst),
        );
        packet.set_src(src);
        packet.set_dst(dst);
        packet.set_hop_limit(packet.hop_limit().saturating_sub(1));
        delta
    }
    fn set_quoted(quote: &mut [u8], src: Self, dst: Self) -> (u16, u16) {
        let mut packet = ipv6::Packet::new_unchecked(quote);
        let addresses = checksum::add(
            checksum::delta_address(packet.src(), src),
            checksum::delta_address(packet.dst(), dst),
        );
        packet.set_src(src);
        packet.set_dst(dst);
        (addresses, addresses)
    }
}

/// Sets ports and sequence numbers of a quoted transport header and corrects its checksum, as far
/// as they are there. `addresses` is the difference of the pseudo header. Returns the difference of
/// all that was changed.
fn set_transport<A: Address>(transport: &mut [u8], to: &Translation<A>, addresses: u16) -> u16 {
    let mut words = Words { bytes: transport, delta: 0 };
    if to.quoted.protocol == Protocol::Icmp {
        // An echo request: its checksum has a pseudo header in IPv6 only.
        words.set(4, to.quoted.sport);
        let addresses = if A::V6 { addresses } else { 0 };
        let delta = checksum::add(addresses, words.delta);
        words.set(2, checksum::apply(get_u16(words.bytes, 2), delta));
        return words.delta;
    }
    words.set(0, to.quoted.sport);
    words.set(2, to.quoted.dport);
    match to.quoted.protocol {
        Protocol::Icmp => {}
        Protocol::Udp => {
            let old = get_u16(words.bytes, 6);
            let delta = checksum::add(addresses, words.delta);
            words.set(6, checksum::apply_udp(old, delta));
        }
        Protocol::Tcp => {
            words.shift(4, to.sequence);
            // What is cut off is not there, and without the flag the number means nothing.
            let acknowledges = words.bytes.get(13).is_none_or(|flags| flags & tcp_flags::ACK != 0);
            if words.bytes.len() >= 12 && acknowledges {
                words.shift(8, to.acknowledgement);
            }
            if words.bytes.len() >= 18 {
                let delta = checksum::add(addresses, words.delta);
                words.set(16, checksum::apply(get_u16(words.bytes, 16), delta));
            }
        }
    }
    words.delta
}

/// Bytes whose words are changed, and the difference that makes to their sum.
struct Words<'a> {
    bytes: &'a mut [u8],
    delta: u16,
}

impl Words<'_> {
    fn set(&mut self, at: usize, new: u16) {
        let old = get_u16(self.bytes, at);
        self.delta = checksum::add(self.delta, checksum::delta16(old, new));
        set_u16(self.bytes, at, new);
    }

    fn shift(&mut self, at: usize, by: u32) {
        if by != 0 {
            let new = get_u32(self.bytes, at).wrapping_add(by);
            self.set(at, (new >> 16) as u16);
            self.set(at + 2, new as u16);
        }
    }
}
