//! TCP segments that Shunt makes itself: resets, handshakes.

use std::net::IpAddr;

use super::family::Family;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::FlowKey;
use crate::wire::{ip_protocol, ipv4, ipv6, tcp};

/// TTL and hop limit of packets that Shunt makes (RFC 1700's recommendation).
pub(super) const HOP_LIMIT: u8 = 64;

/// Length of the frame that [`emit`] fills when there are so many bytes of options and data.
pub(super) const fn frame_len<A: Family>(after_header: usize) -> usize {
    A::TRANSPORT + tcp::HEADER_LEN + after_header
}

/// Writes EtherType, IP header and TCP header of a segment with the endpoints of `key` into a frame
/// of [`frame_len`] bytes. What follows the header (options, data) must be there already: `options`
/// says how many of those bytes are options, a multiple of 4; the checksum covers all of it. The
/// MAC addresses are left alone.
pub(super) fn emit<A: Family>(
    frame: &mut [u8],
    key: &FlowKey<A>,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: usize,
) {
    let (src, dst): (IpAddr, IpAddr) = (key.src.into(), key.dst.into());
    let length = frame.len() - A::TRANSPORT;
    let ether_type: u16 = if A::V6 { 0x86dd } else { 0x0800 };
    frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::Repr {
            src,
            dst,
            protocol: ip_protocol::TCP,
            ttl: HOP_LIMIT,
            ident: 0,
            dont_fragment: true,
            payload_len: length as u16,
        }
        .emit(&mut frame[ETHERNET..]),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::Repr {
            src,
            dst,
            next_header: ip_protocol::TCP,
            hop_limit: HOP_LIMIT,
            payload_len: length as u16,
        }
        .emit(&mut frame[ETHERNET..]),
        _ => return,
    }
    let segment = &mut frame[A::TRANSPORT..];
    tcp::Repr { sport: key.sport, dport: key.dport, seq, ack, flags, window }
        .emit(src, dst, segment);
    if options != 0 {
        segment[12] = (((tcp::HEADER_LEN + options) / 4) as u8) << 4;
        tcp::Packet::new_unchecked(segment).fill_checksum(src, dst);
    }
}
