//! Tunnels: the client's packet goes unchanged, with headers around it, to a real server anywhere,
//! which takes them off, has the virtual address on its loopback and answers the client itself.
//!
//! | mode | between the outer IP header and the packet | source |
//! |---|---|---|
//! | `ipip` | nothing: protocol 4 or 41 | RFC 2003, RFC 2473, RFC 4213 |
//! | `gre` | 4 bytes, neither checksum, key nor sequence number | RFC 2784 |
//! | `gue` | UDP and 4 bytes, variant 0 without flags | draft-ietf-intarea-gue |
//! | `vxlan` | UDP, 8 bytes with the VNI, an Ethernet header | RFC 7348 |
//!
//! What does not depend on the packet is a [`Template`] of each server; a packet costs its copy and
//! the lengths, identification, checksums and flow hash in it. The outer header:
//!
//! - DSCP and ECN are copied (RFC 2983 uniform model, RFC 6040 normal mode), TTL is 64. The inner
//!   TTL stays: the packet has arrived at its virtual address, the tunnel is behind that.
//! - Don't Fragment is copied from IPv4 and set for IPv6, which nobody may fragment.
//! - UDP carries the flow hash in its source port, 49152 to 65535 (RFC 7348 4.1, RFC 8086 3.1), and
//!   IPv6 in its flow label (RFC 6438), so that routers spread flows over equal paths.
//! - The UDP checksum is 0 over IPv4 (RFC 7348 4.1). Over IPv6 it is computed, since receivers need
//!   not take a zero there (RFC 6936; Linux refuses it without `udp6zerocsumrx`). A TCP or UDP packet
//!   with its checksum right has a sum that follows from its headers, so the payload is not read; of
//!   a packet whose checksum is wrong the outer one is wrong too, and it is dropped a step earlier.

use std::net::IpAddr;

use crate::wire::checksum;
use crate::wire::ethernet::{EtherType, HEADER_LEN as ETHERNET, Mac};
use crate::wire::flow::{Address, FlowKey, Protocol};
use crate::wire::{ethernet, ip_protocol, ipv4, ipv6};

/// TTL and hop limit of the outer header.
const HOP_LIMIT: u8 = 64;
/// Lengths of headers in bytes.
const UDP: usize = 8;
const GRE: usize = 4;
const GUE: usize = 4;
const VXLAN: usize = 8;
/// The longest run of outer headers, the frame's Ethernet header included.
const LONGEST: usize = ETHERNET + ipv6::HEADER_LEN + UDP + VXLAN + ETHERNET;
/// IPv4: Don't Fragment.
const DONT_FRAGMENT: u16 = 0x4000;
/// The first port of those that carry the flow hash, and how many there are.
const FIRST_PORT: u16 = 49_152;
const PORTS_MASK: u32 = 0x3fff;

/// What is between the outer IP header and the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing.
    Ipip,
    /// Generic routing encapsulation.
    Gre,
    /// Generic UDP encapsulation.
    Gue {
        /// UDP destination port.
        port: u16,
    },
    /// Virtual extensible LAN.
    Vxlan {
        /// UDP destination port.
        port: u16,
        /// Network identifier, 24 bits.
        vni: u32,
        /// Source of the inner Ethernet header.
        src: Mac,
        /// Destination of the inner Ethernet header: the MAC address of the server's device.
        dst: Mac,
    },
}

impl Encapsulation {
    /// How many bytes longer a packet gets when it goes from or to an IPv4 (or IPv6) address.
    pub const fn overhead(self, outer_v6: bool) -> u16 {
        let ip = if outer_v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
        let rest = match self {
            Encapsulation::Ipip => 0,
            Encapsulation::Gre => GRE,
            Encapsulation::Gue { .. } => UDP + GUE,
            Encapsulation::Vxlan { .. } => UDP + VXLAN + ETHERNET,
        };
        (ip + rest) as u16
    }
}

/// The outer headers of packets of one family to one server, but for the frame's MAC addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    bytes: [u8; LONGEST],
    /// Bytes in front of the packet, the frame's Ethernet header not counted.
    overhead: u16,
    outer_v6: bool,
    udp: bool,
    /// IPv4: the sum of the outer header without length, identification, traffic class and flags.
    /// IPv6 with UDP: that of addresses, protocol, destination port and what follows the UDP header.
    sum: u16,
}

impl Template {
    /// The headers from `src` to `dst`, which are of one family, around packets of family `A`. `None`
    /// when they are not.
    pub fn new<A: Address>(src: IpAddr, dst: IpAddr, encapsulation: Encapsulation) -> Option<Self> {
        let outer_v6 = dst.is_ipv6();
        let ether_type = |v6| if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
        let (inner_type, inner_protocol) =
            (ether_type(A::V6), if A::V6 { ip_protocol::IPV6 } else { ip_protocol::IPV4 });
        let protocol = match encapsulation {
            Encapsulation::Ipip => inner_protocol,
            Encapsulation::Gre => ip_protocol::GRE,
            Encapsulation::Gue { .. } | Encapsulation::Vxlan { .. } => ip_protocol::UDP,
        };
        let mut bytes = [0; LONGEST];
        let ethernet =
            ethernet::Repr { dst: [0; 6], src: [0; 6], ether_type: ether_type(outer_v6) };
        ethernet.emit(&mut bytes);
        let payload_len = 0;
        let ip_len = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (ident, dont_fragment) = (0, false);
                let ttl = HOP_LIMIT;
                ipv4::Repr { src, dst, protocol, ttl, ident, dont_fragment, payload_len }
                    .emit(&mut bytes[ETHERNET..]);
                ipv4::HEADER_LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (next_header, hop_limit) = (protocol, HOP_LIMIT);
                ipv6::Repr { src, dst, next_header, hop_limit, payload_len }
                    .emit(&mut bytes[ETHERNET..]);
                ipv6::HEADER_LEN
            }
            _ => return None,
        };
        let rest = &mut bytes[ETHERNET + ip_len..];
        match encapsulation {
            Encapsulation::Ipip => {}
            Encapsulation::Gre => rest[2..4].copy_from_slice(&inner_type.0.to_be_bytes()),
            Encapsulation::Gue { port } => {
                rest[2..4].copy_from_slice(&port.to_be_bytes());
                rest[UDP + 1] = inner_protocol;
            }
            Encapsulation::Vxlan { port, vni, src, dst } => {
                rest[2..4].copy_from_slice(&port.to_be_bytes());
                // The VNI is valid.
                rest[UDP] = 0x08;
                rest[UDP + 4..UDP + 8].copy_from_slice(&(vni << 8).to_be_bytes());
                let inner = ethernet::Repr { dst, src, ether_type: inner_type };
                inner.emit(&mut rest[UDP + VXLAN..]);
            }
        }
        let overhead = encapsulation.overhead(outer_v6);
        let udp = protocol == ip_protocol::UDP;
        let sum = if outer_v6 {
            // The addresses, and all that follows the IPv6 header.
            let header = &bytes[ETHERNET + 8..ETHERNET + usize::from(overhead)];
            checksum::add(checksum::sum(header), u16::from(protocol))
        } else {
            let header = &mut bytes[ETHERNET..ETHERNET + ipv4::HEADER_LEN];
            header[ipv4::field::TOTAL_LEN..ipv4::field::TTL].fill(0);
            header[ipv4::field::CHECKSUM..ipv4::field::SRC].fill(0);
            checksum::sum(header)
        };
        Some(Template { bytes, overhead, outer_v6, udp, sum })
    }

    /// How many bytes longer a packet gets.
    #[inline(always)]
    pub fn overhead(&self) -> u16 {
        self.overhead
    }

    /// Whether the outer packet is IPv6.
    #[inline(always)]
    pub fn outer_v6(&self) -> bool {
        self.outer_v6
    }

    /// The protocol in the outer IP header.
    pub fn protocol(&self) -> u8 {
        let at = if self.outer_v6 { ipv6::field::NEXT_HEADER } else { ipv4::field::PROTOCOL };
        self.bytes[ETHERNET + at]
    }

    /// Writes the headers over the start of a frame whose packet begins [`Template::overhead`] bytes
    /// after an Ethernet header and ends with the frame. The packet is of family `A`, its header has
    /// been checked, `key` is that of its flow. With an identification the outer packet may be
    /// fragmented on its way, if it is IPv4.
    #[inline]
    pub fn write<A: Address>(&self, frame: &mut [u8], key: &FlowKey<A>, ident: Option<u16>) {
        let start = ETHERNET + usize::from(self.overhead);
        if frame.len() < start + (A::TRANSPORT - ETHERNET) {
            return;
        }
        let (head, packet) = frame.split_at_mut(start);
        head.copy_from_slice(&self.bytes[..start]);
        let hash = flow_hash(key);
        let outer = &mut head[ETHERNET..];
        let traffic_class = if A::V6 { packet[0] << 4 | packet[1] >> 4 } else { packet[1] };
        if self.outer_v6 {
            let first = 6 << 28 | u32::from(traffic_class) << 20 | hash & 0xf_ffff;
            outer[..4].copy_from_slice(&first.to_be_bytes());
            let length = outer.len() - ipv6::HEADER_LEN + packet.len();
            outer[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            if self.udp {
                self.write_udp_v6(outer, packet, key, hash, length as u16);
            }
        } else {
            use ipv4::field::{CHECKSUM, FRAGMENT, IDENT, TOTAL_LEN, TRAFFIC_CLASS};
            let (ident, flags) = ident.map_or((0, DONT_FRAGMENT), |ident| (ident, 0));
            let length = (outer.len() + packet.len()) as u16;
            outer[TRAFFIC_CLASS] = traffic_class;
            outer[TOTAL_LEN..TOTAL_LEN + 2].copy_from_slice(&length.to_be_bytes());
            outer[IDENT..IDENT + 2].copy_from_slice(&ident.to_be_bytes());
            outer[FRAGMENT..FRAGMENT + 2].copy_from_slice(&flags.to_be_bytes());
            let sum = [u16::from(traffic_class), length, ident, flags]
                .into_iter()
                .fold(u64::from(self.sum), |sum, word| sum + u64::from(word));
            let checksum = !checksum::fold(sum);
            outer[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
            if self.udp {
                let udp = &mut outer[ipv4::HEADER_LEN..];
                udp[..2].copy_from_slice(&source_port(hash).to_be_bytes());
                let length = length - ipv4::HEADER_LEN as u16;
                udp[4..6].copy_from_slice(&length.to_be_bytes());
            }
        }
    }

    #[inline]
    fn write_udp_v6<A: Address>(
        &self,
        outer: &mut [u8],
        packet: &[u8],
        key: &FlowKey<A>,
        hash: u32,
        length: u16,
    ) {
        let udp = &mut outer[ipv6::HEADER_LEN..];
        let port = source_port(hash);
        // The length counts twice: in the pseudo header and in the header.
        let sum = u64::from(self.sum)
            + u64::from(port)
            + 2 * u64::from(length)
            + u64::from(sum_of_packet(packet, key));
        let checksum = match !checksum::fold(sum) {
            0 => 0xffff,
            checksum => checksum,
        };
        udp[..2].copy_from_slice(&port.to_be_bytes());
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The UDP source port that carries this hash.
#[inline(always)]
fn source_port(hash: u32) -> u16 {
    FIRST_PORT + (hash & PORTS_MASK) as u16
}

/// A hash of the flow that may be seen outside: without a secret, so the same on every node.
#[inline]
pub fn flow_hash<A: Address>(key: &FlowKey<A>) -> u32 {
    // Odd constants of wyhash; the high half of a product depends on all lower bits of its factors.
    const FACTORS: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];
    let (src, dst) = (key.src.folded(), key.dst.folded());
    let ports = u64::from(key.sport) << 32 | u64::from(key.dport) << 16;
    let addresses =
        (src[0] ^ src[1].rotate_left(23)) ^ (dst[0] ^ dst[1].rotate_left(41)).rotate_left(31);
    let mixed = (addresses ^ ports ^ u64::from(key.protocol.number())).wrapping_mul(FACTORS[0]);
    ((mixed ^ mixed >> 32).wrapping_mul(FACTORS[1]) >> 32) as u32
}

/// The one's-complement sum of a packet. Of a whole TCP or UDP packet with a checksum it follows from
/// the headers: the segment and its pseudo header add up to zero, and so does an IPv4 header.
#[inline]
fn sum_of_packet<A: Address>(packet: &[u8], key: &FlowKey<A>) -> u16 {
    let header = A::TRANSPORT - ETHERNET;
    let segment = packet.len() - header;
    let protocol = key.protocol.number();
    let simple = if A::V6 {
        packet[6] == protocol
    } else {
        // No options, no fragment, no ICMP error about the flow.
        packet[0] == 0x45
            && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0
            && packet[9] == protocol
    };
    let summed = match key.protocol {
        Protocol::Tcp => simple,
        // Does not come in flows.
        Protocol::Icmp => false,
        Protocol::Udp => {
            let udp = packet[header..].first_chunk::<UDP>();
            simple
                && udp.is_some_and(|udp| {
                    usize::from(u16::from_be_bytes([udp[4], udp[5]])) == segment
                        && udp[6..8] != [0, 0]
                })
        }
    };
    if !summed {
        return checksum::sum(packet);
    }
    let pseudo = pseudo(packet, A::V6, protocol, segment);
    let header = if A::V6 { checksum::sum(&packet[..header]) } else { 0 };
    checksum::add(header, !pseudo)
}

fn pseudo(packet: &[u8], v6: bool, protocol: u8, segment: usize) -> u16 {
    let addresses = if v6 { checksum::sum(&packet[8..40]) } else { checksum::sum(&packet[12..20]) };
    checksum::fold(u64::from(addresses) + u64::from(protocol) + segment as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// A packet of the key's family with right checksums, in a frame with room for the headers.
    fn frame<A: Address>(key: &FlowKey<A>, overhead: usize, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xee; ETHERNET + overhead];
        let udp = key.protocol == Protocol::Udp;
        macro_rules! write {
            ($builder:expr) => {
                match udp {
                    true => $builder.udp(key.sport, key.dport).write(&mut bytes, payload),
                    false => $builder.tcp(key.sport, key.dport, 7, 9).write(&mut bytes, payload),
                }
            };
        }
        match (key.src.into(), key.dst.into()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                write!(etherparse::PacketBuilder::ipv4(src.octets(), dst.octets(), 3))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                write!(etherparse::PacketBuilder::ipv6(src.octets(), dst.octets(), 3))
            }
            _ => panic!("two families"),
        }
        .unwrap();
        bytes
    }

    fn sum_is_right<A: Address>(key: FlowKey<A>, payload: &[u8]) {
        let packet = &frame(&key, 0, payload)[ETHERNET..];
        assert_eq!(sum_of_packet(packet, &key) % 0xffff, checksum::sum(packet) % 0xffff);
    }

    proptest! {
        #[test]
        fn the_sum_follows_from_the_headers(
            v4: (Ipv4Addr, Ipv4Addr), v6: (Ipv6Addr, Ipv6Addr), ports: (u16, u16), udp: bool,
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let (sport, dport) = ports;
            sum_is_right(FlowKey { src: v4.0, dst: v4.1, sport, dport, protocol }, &payload);
            sum_is_right(FlowKey { src: v6.0, dst: v6.1, sport, dport, protocol }, &payload);
        }
    }

    /// Over many clients some outer checksum comes out as zero, which is sent as 0xffff.
    #[test]
    fn udp_over_ipv6_has_the_checksum_of_a_recomputation() {
        let (src, dst): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let around = Encapsulation::Gue { port: 6080 };
        let template = Template::new::<Ipv4Addr>(src.into(), dst.into(), around).unwrap();
        let overhead = usize::from(template.overhead());
        let mut all_ones = 0;
        for (sport, last) in (1..=u16::MAX).flat_map(|port| (0..8).map(move |n| (port, n))) {
            let key = FlowKey {
                // The packet's ports do not show in its sum, its addresses do.
                src: Ipv4Addr::new(1 + (sport as u8 & 3) * 64, 51, 100, 7),
                dst: Ipv4Addr::new(192, 0, 2, last),
                sport,
                dport: 80,
                protocol: Protocol::Tcp,
            };
            let mut bytes = frame(&key, overhead, b"abc");
            template.write(&mut bytes, &key, None);
            let udp = &bytes[ETHERNET + ipv6::HEADER_LEN..];
            let pseudo = checksum::pseudo_v6(src, dst, ip_protocol::UDP, udp.len() as u32);
            assert!(checksum::verify(checksum::add(pseudo, checksum::sum(udp))), "port {sport}");
            assert_ne!(udp[6..8], [0, 0]);
            all_ones += u32::from(udp[6..8] == [0xff, 0xff]);
        }
        assert!(all_ones > 0);
    }

    #[test]
    fn addresses_of_two_families_make_no_tunnel() {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(Template::new::<Ipv4Addr>(v4, v6, Encapsulation::Ipip), None);
        assert_eq!(Template::new::<Ipv6Addr>(v6, v4, Encapsulation::Ipip), None);
    }

    #[test]
    fn overheads() {
        let vxlan = Encapsulation::Vxlan { port: 0, vni: 0, src: [0; 6], dst: [0; 6] };
        let gue = Encapsulation::Gue { port: 0 };
        let all = [Encapsulation::Ipip, Encapsulation::Gre, gue, vxlan];
        assert_eq!(all.map(|e| e.overhead(false)), [20, 24, 32, 50]);
        assert_eq!(all.map(|e| e.overhead(true)), [40, 44, 52, 70]);
    }
}
