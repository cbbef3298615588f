//! Network address translation, NAT and FullNAT: a packet with one key leaves with another.
//!
//! FullNAT is NAT with a local endpoint in the client's place, so one rewrite serves both: the
//! packet's four endpoints become those of the session's other side. The checksum differences are
//! computed once per session; a packet costs two additions. The reply's difference is the
//! forward's, negated.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::checksum;
use crate::wire::flow::{Address, FlowKey, Protocol};

/// One's-complement differences that a rewrite makes (RFC 1624).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Deltas {
    /// Of the IPv4 header checksum; unused for IPv6.
    pub ip: u16,
    /// Of the TCP or UDP checksum, pseudo header included.
    pub transport: u16,
}

impl Deltas {
    /// The differences when a packet with key `from` becomes one with key `to`.
    pub fn between<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> Self {
        let ip = checksum::add(
            checksum::delta_address(from.src, to.src),
            checksum::delta_address(from.dst, to.dst),
        );
        let ports = checksum::add(
            checksum::delta16(from.sport, to.sport),
            checksum::delta16(from.dport, to.dport),
        );
        Deltas { ip, transport: checksum::add(ip, ports) }
    }

    /// The differences of the opposite rewrite.
    #[inline(always)]
    pub fn reversed(self) -> Self {
        Deltas { ip: checksum::negate(self.ip), transport: checksum::negate(self.transport) }
    }
}

/// The rewrite of one address family. The frame must be one that parsing returned as a flow of this
/// family; a shorter one is left alone.
pub trait Translate: Address {
    /// Gives the packet the addresses and ports of `to`, takes one from its hop limit and updates
    /// its checksums by `deltas`. A UDP checksum of zero (none, RFC 768) stays zero.
    fn translate(frame: &mut [u8], to: &FlowKey<Self>, deltas: Deltas);
}

impl Translate for Ipv4Addr {
    #[inline(always)]
    fn translate(frame: &mut [u8], to: &FlowKey<Self>, deltas: Deltas) {
        let Some(head) = frame.first_chunk_mut::<{ Self::MIN_FRAME }>() else { return };
        head[22] = head[22].wrapping_sub(1);
        let header =
            checksum::apply(be16(&head[24..26]), checksum::add(deltas.ip, checksum::TTL_DECREMENT));
        head[24..26].copy_from_slice(&header.to_be_bytes());
        head[26..30].copy_from_slice(&to.src.octets());
        head[30..34].copy_from_slice(&to.dst.octets());
        set_transport(&mut frame[Self::TRANSPORT..], to, deltas.transport);
    }
}

impl Translate for Ipv6Addr {
    #[inline(always)]
    fn translate(frame: &mut [u8], to: &FlowKey<Self>, deltas: Deltas) {
        let Some(head) = frame.first_chunk_mut::<{ Self::MIN_FRAME }>() else { return };
        head[21] = head[21].wrapping_sub(1);
        head[22..38].copy_from_slice(&to.src.octets());
        head[38..54].copy_from_slice(&to.dst.octets());
        set_transport(&mut frame[Self::TRANSPORT..], to, deltas.transport);
    }
}

/// Sets the ports of a transport header, and its checksum by difference.
#[inline(always)]
pub(super) fn set_transport<A: Address>(transport: &mut [u8], to: &FlowKey<A>, delta: u16) {
    match to.protocol {
        // Does not come in flows.
        Protocol::Icmp => {}
        Protocol::Udp => {
            let Some(udp) = transport.first_chunk_mut::<8>() else { return };
            set_ports(&mut udp[..4], to);
            let old = be16(&udp[6..8]);
            if old != 0 {
                udp[6..8].copy_from_slice(&checksum::apply_udp(old, delta).to_be_bytes());
            }
        }
        Protocol::Tcp => {
            let Some(tcp) = transport.first_chunk_mut::<20>() else { return };
            set_ports(&mut tcp[..4], to);
            let new = checksum::apply(be16(&tcp[16..18]), delta);
            tcp[16..18].copy_from_slice(&new.to_be_bytes());
        }
    }
}

#[inline(always)]
fn set_ports<A: Address>(ports: &mut [u8], to: &FlowKey<A>) {
    ports[..2].copy_from_slice(&to.sport.to_be_bytes());
    ports[2..4].copy_from_slice(&to.dport.to_be_bytes());
}

#[inline(always)]
fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}
