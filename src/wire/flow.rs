//! From the bytes of a frame to the [`Flow`] the data path works on, or the reason to drop it.
//!
//! [`parse`] is the first tier of the hot path and the only place where bytes from the wire are
//! judged. A [`Flow`] it returns promises that
//! - the Ethernet destination is the port's MAC address,
//! - IPv4 has no options and is no fragment, IPv6 has no extension headers: the transport header
//!   is at [`Address::TRANSPORT`],
//! - the IP length lies within the frame, the transport header within the IP length, and the frame
//!   holds at least [`Address::MIN_FRAME`] bytes,
//! - the IPv4 header checksum is right, the addresses can be on a wire, the TCP flags make sense.
//!
//! Transport checksums are not verified: a rewrite keeps a wrong one wrong, and the receiver drops
//! the packet. Where the NIC verifies them the pipeline drops what it calls bad.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::drop_reason::DropReason;
pub use super::tcp::flags as tcp_flags;

use super::ethernet::HEADER_LEN as ETHERNET;

/// An IP address of one family: [`Ipv4Addr`] or [`Ipv6Addr`]. The data path is generic over it, so
/// each family has its own compact session table and its own machine code.
pub trait Address:
    Copy + Eq + Ord + Hash + fmt::Debug + fmt::Display + Into<IpAddr> + Send + 'static
{
    /// The all-zero address.
    const UNSPECIFIED: Self;
    /// Offset of the transport header in a frame without IP options or extension headers.
    const TRANSPORT: usize;
    /// The shortest frame that holds a UDP header of this family.
    const MIN_FRAME: usize = Self::TRANSPORT + 8;
    /// Whether this is the IPv6 family.
    const V6: bool;
    /// The address as two 64-bit words, for hashing.
    fn folded(self) -> [u64; 2];
    /// The address in that family, if `ip` is of it.
    fn from_ip(ip: IpAddr) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const UNSPECIFIED: Self = Ipv4Addr::UNSPECIFIED;
    const V6: bool = false;
    const TRANSPORT: usize = ETHERNET + 20;
    #[inline(always)]
    fn folded(self) -> [u64; 2] {
        [u64::from(u32::from_ne_bytes(self.octets())), 0]
    }
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for Ipv6Addr {
    const UNSPECIFIED: Self = Ipv6Addr::UNSPECIFIED;
    const V6: bool = true;
    const TRANSPORT: usize = ETHERNET + 40;
    #[inline(always)]
    fn folded(self) -> [u64; 2] {
        let v = u128::from_ne_bytes(self.octets());
        [v as u64, (v >> 64) as u64]
    }
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        }
    }
}

/// The transport protocols that have sessions. The value is the IP protocol number.
///
/// Services and flows are TCP or UDP. Only egress SNAT has sessions of ICMP echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp = 6,
    /// UDP (RFC 768).
    Udp = 17,
    /// ICMP or ICMPv6 echo, with the identifier as the port of the side that asks and 0 as that of the
    /// other.
    Icmp = 1,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        self as u8
    }
    /// The protocol with this IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            1 => Some(Protocol::Icmp),
            _ => None,
        }
    }
    /// "tcp" or "udp", as in the configuration; "icmp".
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Addresses, ports and protocol of a packet, as it stands on the wire: the key of the session
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, host order.
    pub sport: u16,
    /// Destination port, host order.
    pub dport: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl<A: Address> FlowKey<A> {
    /// The key of a packet the other way round.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        FlowKey {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            protocol: self.protocol,
        }
    }
}

impl<A: Address> fmt::Display for FlowKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst): (IpAddr, IpAddr) = (self.src.into(), self.dst.into());
        write!(
            f,
            "{} {} -> {}",
            self.protocol,
            std::net::SocketAddr::new(src, self.sport),
            std::net::SocketAddr::new(dst, self.dport)
        )
    }
}

/// A TCP or UDP packet that passed every check of [`parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Addresses, ports and protocol.
    pub key: FlowKey<A>,
    /// TCP flags (see [`tcp_flags`]); 0 for UDP.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Bytes of the frame from the Ethernet header to the end of the IP packet; what the frame
    /// holds beyond is Ethernet padding.
    pub frame_len: u16,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<V4 = Flow<Ipv4Addr>, V6 = Flow<Ipv6Addr>> {
    /// TCP or UDP over IPv4.
    V4(V4),
    /// TCP or UDP over IPv6.
    V6(V6),
    /// ARP; not looked into.
    Arp,
    /// ICMP over a valid IPv4 header; the message is not looked into.
    Icmpv4 {
        /// Source address.
        src: Ipv4Addr,
        /// Destination address.
        dst: Ipv4Addr,
        /// As in [`Flow`].
        frame_len: u16,
    },
    /// ICMPv6 over a valid IPv6 header; the message is not looked into.
    Icmpv6 {
        /// Source address.
        src: Ipv6Addr,
        /// Destination address.
        dst: Ipv6Addr,
        /// As in [`Flow`].
        frame_len: u16,
    },
    /// Another protocol, or a multicast or broadcast destination.
    OtherIp {
        /// Destination address.
        dst: IpAddr,
    },
    /// Not IP and not ARP.
    OtherEtherType,
}

/// Takes the flows that [`parse_into`] reads.
///
/// The hot path keeps a flow where it is put, field by field, as it is read. Returned in an enum it
/// would be written to the stack in pieces and copied from there as a whole, and a CPU does not
/// forward several small writes to one larger read: it waits until they have reached the cache.
pub trait Sink {
    /// What becomes of an IPv4 flow.
    type V4;
    /// What becomes of an IPv6 flow.
    type V6;
    /// Takes an IPv4 flow.
    fn v4(self, flow: Flow<Ipv4Addr>) -> Self::V4;
    /// Takes an IPv6 flow.
    fn v6(self, flow: Flow<Ipv6Addr>) -> Self::V6;
}

/// Reads a frame. `mac` is the port's address. `ip_checksum_good` says that the port has verified
/// the IPv4 header checksum.
pub fn parse(frame: &[u8], mac: &[u8; 6], ip_checksum_good: bool) -> Result<Parsed, DropReason> {
    struct Return;
    impl Sink for Return {
        type V4 = Flow<Ipv4Addr>;
        type V6 = Flow<Ipv6Addr>;
        fn v4(self, flow: Self::V4) -> Self::V4 {
            flow
        }
        fn v6(self, flow: Self::V6) -> Self::V6 {
            flow
        }
    }
    parse_into(frame, mac, ip_checksum_good, Return)
}

/// The same; the flow goes into `sink`.
#[inline(always)]
pub fn parse_into<S: Sink>(
    frame: &[u8],
    mac: &[u8; 6],
    ip_checksum_good: bool,
    sink: S,
) -> Result<Parsed<S::V4, S::V6>, DropReason> {
    let Some(head) = frame.first_chunk::<{ Ipv4Addr::MIN_FRAME }>() else {
        return Err(DropReason::FrameTooShort);
    };
    // A group address (lowest bit of the first byte) is for everybody; parsing decides by protocol.
    let group = head[0] & 1 != 0;
    if !group && head[..6] != *mac {
        return Err(DropReason::NotOurMac);
    }
    match be16(head, 12) {
        0x0800 => parse_ipv4(frame, head, group, ip_checksum_good, sink),
        0x86dd => parse_ipv6(frame, group, sink),
        0x0806 => Ok(Parsed::Arp),
        0x8100 | 0x88a8 => Err(DropReason::VlanTagged),
        _ => Ok(Parsed::OtherEtherType),
    }
}

#[inline(always)]
fn parse_ipv4<S: Sink>(
    frame: &[u8],
    head: &[u8; Ipv4Addr::MIN_FRAME],
    group: bool,
    checksum_good: bool,
    sink: S,
) -> Result<Parsed<S::V4, S::V6>, DropReason> {
    if head[14] != 0x45 {
        return Err(bad_ipv4_start(frame));
    }
    let total = usize::from(be16(head, 16));
    let frame_len = ETHERNET + total;
    if total < 20 || frame_len > frame.len() {
        return Err(DropReason::BadIpLength);
    }
    if !checksum_good && !ipv4_checksum_is_right(head) {
        return Err(DropReason::BadIpChecksum);
    }
    // More Fragments or an offset; Don't Fragment and the reserved bit do not matter.
    if be16(head, 20) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    let src = Ipv4Addr::new(head[26], head[27], head[28], head[29]);
    let dst = Ipv4Addr::new(head[30], head[31], head[32], head[33]);
    if is_martian_v4(head[26]) || matches!(head[30], 0 | 127) {
        return Err(DropReason::Martian);
    }
    let protocol = head[23];
    if group || head[30] >= 224 {
        return Ok(Parsed::OtherIp { dst: dst.into() });
    }
    let transport =
        transport(protocol, &frame[Ipv4Addr::TRANSPORT..frame_len.max(Ipv4Addr::TRANSPORT)]);
    let (protocol, tcp_flags) = match transport {
        Transport::Session(protocol, tcp_flags) => (protocol, tcp_flags),
        Transport::Icmp(1) => {
            return Ok(Parsed::Icmpv4 { src, dst, frame_len: frame_len as u16 });
        }
        Transport::Icmp(_) | Transport::Other => {
            return Ok(Parsed::OtherIp { dst: dst.into() });
        }
        Transport::Bad(reason) => return Err(reason),
    };
    let (sport, dport) = (be16(head, 34), be16(head, 36));
    if src == dst && sport == dport {
        return Err(DropReason::Land);
    }
    Ok(Parsed::V4(sink.v4(Flow {
        key: FlowKey { src, dst, sport, dport, protocol },
        tcp_flags,
        hop_limit: head[22],
        frame_len: frame_len as u16,
    })))
}

#[inline(always)]
fn parse_ipv6<S: Sink>(
    frame: &[u8],
    group: bool,
    sink: S,
) -> Result<Parsed<S::V4, S::V6>, DropReason> {
    let Some(head) = frame.first_chunk::<{ Ipv6Addr::TRANSPORT }>() else {
        return Err(DropReason::FrameTooShort);
    };
    if head[14] >> 4 != 6 {
        return Err(DropReason::BadIpVersion);
    }
    // A jumbogram (payload length 0, RFC 2675) cannot be in a frame of ours.
    let frame_len = ETHERNET + 40 + usize::from(be16(head, 18));
    if frame_len > frame.len() || frame_len > usize::from(u16::MAX) {
        return Err(DropReason::BadIpLength);
    }
    let src = Ipv6Addr::from(*chunk16(head, 22));
    let dst = Ipv6Addr::from(*chunk16(head, 38));
    // The unspecified address is a source in duplicate address detection, which is ICMPv6.
    if src.is_multicast() || src.is_loopback() || dst.is_loopback() || dst.is_unspecified() {
        return Err(DropReason::Martian);
    }
    let next_header = head[20];
    if group || dst.is_multicast() {
        return Ok(match next_header {
            58 => Parsed::Icmpv6 { src, dst, frame_len: frame_len as u16 },
            44 => return Err(DropReason::Fragment),
            _ => Parsed::OtherIp { dst: dst.into() },
        });
    }
    let (protocol, tcp_flags) = match transport(next_header, &frame[Ipv6Addr::TRANSPORT..frame_len])
    {
        Transport::Session(protocol, tcp_flags) => (protocol, tcp_flags),
        Transport::Icmp(58) => {
            return Ok(Parsed::Icmpv6 { src, dst, frame_len: frame_len as u16 });
        }
        Transport::Icmp(_) => return Ok(Parsed::OtherIp { dst: dst.into() }),
        Transport::Bad(reason) => return Err(reason),
        Transport::Other => {
            return match next_header {
                44 => Err(DropReason::Fragment),
                // Hop-by-hop, routing, authentication, destination options, mobility (RFC 7045).
                0 | 43 | 51 | 60 | 135 | 139 | 140 => Err(DropReason::ExtensionHeader),
                _ => Ok(Parsed::OtherIp { dst: dst.into() }),
            };
        }
    };
    if src.is_unspecified() {
        return Err(DropReason::Martian);
    }
    let ports = &frame[Ipv6Addr::TRANSPORT..];
    let (sport, dport) =
        (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
    if src == dst && sport == dport {
        return Err(DropReason::Land);
    }
    Ok(Parsed::V6(sink.v6(Flow {
        key: FlowKey { src, dst, sport, dport, protocol },
        tcp_flags,
        hop_limit: head[21],
        frame_len: frame_len as u16,
    })))
}

enum Transport {
    Session(Protocol, u8),
    Icmp(u8),
    Other,
    Bad(DropReason),
}

/// Judges the transport header at the start of `payload`, which ends where the IP packet does.
#[inline(always)]
fn transport(protocol: u8, payload: &[u8]) -> Transport {
    match protocol {
        6 => {
            let Some(tcp) = payload.first_chunk::<20>() else {
                return Transport::Bad(DropReason::BadTcpHeader);
            };
            let header_len = usize::from(tcp[12] >> 4) * 4;
            if header_len < 20 || header_len > payload.len() {
                return Transport::Bad(DropReason::BadTcpHeader);
            }
            let flags = tcp[13] & 0x3f;
            if is_bad_tcp_flags(flags) {
                return Transport::Bad(bad_tcp_flags(flags));
            }
            Transport::Session(Protocol::Tcp, flags)
        }
        17 => {
            let Some(udp) = payload.first_chunk::<8>() else {
                return Transport::Bad(DropReason::BadUdpHeader);
            };
            let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            if length < 8 || length > payload.len() {
                return Transport::Bad(DropReason::BadUdpHeader);
            }
            Transport::Session(Protocol::Udp, 0)
        }
        1 | 58 => Transport::Icmp(protocol),
        _ => Transport::Other,
    }
}

/// One bit for each combination of the six TCP flags that no stack sends: none of SYN, ACK and RST
/// (null, FIN and Xmas scans), or SYN together with FIN or RST.
const BAD_TCP_FLAGS: u64 = {
    use tcp_flags::{ACK, FIN, RST, SYN};
    let mut bad = 0;
    let mut flags = 0;
    while flags < 64 {
        let none = flags & (SYN | ACK | RST) == 0;
        let contradictory = flags & SYN != 0 && flags & (FIN | RST) != 0;
        if none || contradictory {
            bad |= 1 << flags;
        }
        flags += 1;
    }
    bad
};

/// Whether no stack sends a segment with these of the six flags.
#[inline(always)]
pub(super) const fn is_bad_tcp_flags(flags: u8) -> bool {
    BAD_TCP_FLAGS >> (flags & 0x3f) & 1 != 0
}

/// Source networks that cannot be on a wire: this network, loopback, multicast, reserved
/// (RFC 1812 5.3.7, RFC 6890). `first` is the first byte of the address.
#[inline(always)]
pub(super) fn is_martian_v4(first: u8) -> bool {
    first == 0 || first == 127 || first >= 224
}

/// What is wrong with an IPv4 header that does not begin with version 4 and 20 bytes.
#[cold]
fn bad_ipv4_start(frame: &[u8]) -> DropReason {
    let (version, words) = (frame[ETHERNET] >> 4, usize::from(frame[ETHERNET] & 15));
    let end = ETHERNET + words * 4;
    if version != 4 {
        DropReason::BadIpVersion
    } else if words < 5 {
        DropReason::BadIpHeaderLength
    } else if frame.get(ETHERNET + 20..end).is_some_and(asks_for_a_route) {
        DropReason::SourceRoute
    } else {
        DropReason::IpOptions
    }
}

/// Whether one of these IPv4 options is a loose or strict source route (RFC 791 3.1).
fn asks_for_a_route(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    while let [kind, rest @ ..] = options {
        options = match *kind {
            END => return false,
            LOOSE | STRICT => return true,
            NO_OPERATION => rest,
            _ => match rest.first() {
                Some(length @ 2..) => options.get(usize::from(*length)..).unwrap_or(&[]),
                _ => return false,
            },
        };
    }
    false
}

/// Which of the [`BAD_TCP_FLAGS`] these are.
#[cold]
pub(super) fn bad_tcp_flags(flags: u8) -> DropReason {
    use tcp_flags::{FIN, PSH, RST, SYN, URG};
    const XMAS: u8 = FIN | PSH | URG;
    match flags {
        0 => DropReason::NullScan,
        FIN => DropReason::FinScan,
        XMAS => DropReason::XmasScan,
        _ if flags & (SYN | FIN) == SYN | FIN => DropReason::SynFin,
        _ if flags & (SYN | RST) == SYN | RST => DropReason::SynRst,
        _ => DropReason::BadTcpFlags,
    }
}

/// Whether the ten 16-bit words of the header at offset 14 add up to zero (RFC 1071).
#[inline(always)]
fn ipv4_checksum_is_right(head: &[u8; Ipv4Addr::MIN_FRAME]) -> bool {
    // One's complement sums do not depend on the word size or byte order they are taken in.
    let word = |at: usize| {
        u64::from(u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
    };
    let sum = word(14) + word(18) + word(22) + word(26) + word(30);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum == 0xffff
}

#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn chunk16(head: &[u8; Ipv6Addr::TRANSPORT], at: usize) -> &[u8; 16] {
    head[at..].first_chunk().expect("within the IPv6 header")
}
