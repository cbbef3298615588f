//! ICMP and ICMPv6 that Shunt answers itself: echo requests for our addresses, and errors about
//! packets it cannot forward.
//!
//! An answer goes back to the MAC address its question came from, by the same port, so it needs no
//! next hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::crossed;
use super::family::Family;
use super::frame::Frame;
use super::segment::HOP_LIMIT;
use super::shared::Shared;
use super::verdict::Verdict;
use crate::rewrite::crossing::DIFFERENCE;
use crate::rewrite::ethernet::turn_round;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Address, Flow, FlowKey, Protocol};
use crate::wire::{DropReason, ethernet, icmpv4, icmpv6, ip_protocol, ipv4, ipv6};

/// An error of both families.
#[derive(Clone, Copy)]
enum Error {
    TimeExceeded,
    PacketTooBig { mtu: u16 },
    PortUnreachable,
    Prohibited,
}

/// Drops a packet whose hop limit has run out and tells its sender, as often as the limit for ICMP
/// errors allows.
#[cold]
pub(super) fn time_exceeded<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    now: u32,
) -> Verdict {
    refuse(shared, frame, flow, DropReason::HopLimitExceeded, Error::TimeExceeded, now)
}

/// Drops a packet that is longer than the port it would leave by takes. Its sender is told, unless
/// it is IPv4 and may be fragmented: Shunt does not fragment, and RFC 1191 has no error for that.
#[cold]
pub(super) fn packet_too_big<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    mtu: u16,
    now: u32,
) -> Verdict {
    let reason = DropReason::PacketTooBig;
    if !A::V6 && !ipv4::Packet::new_unchecked(&frame.bytes()[ETHERNET..]).dont_fragment() {
        return Verdict::Drop(reason);
    }
    refuse(shared, frame, flow, reason, Error::PacketTooBig { mtu }, now)
}

/// Drops a datagram that its destination does not take, and tells its sender so in the name of the
/// destination.
pub(super) fn port_unreachable<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    reason: DropReason,
    now: u32,
) -> Verdict {
    refuse(shared, frame, flow, reason, Error::PortUnreachable, now)
}

/// Drops a packet that is neither TCP nor UDP, or a fragment, and tells its sender that it is
/// forbidden, unless it is a fragment but the first.
#[cold]
pub(super) fn prohibited<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    reason: DropReason,
    now: u32,
) -> Verdict {
    let packet = &frame.bytes()[ETHERNET..];
    if ethernet::is_multicast(&ethernet::Packet::new_unchecked(frame.bytes()).dst()) {
        return Verdict::Drop(reason);
    }
    match frame.bytes().get(12..14) {
        Some(&[0x08, 0x00]) => {
            let Ok(header) = ipv4::Packet::new_checked(packet) else {
                return Verdict::Drop(reason);
            };
            let flow = bare_flow(header.src(), header.dst(), usize::from(header.total_len()));
            refuse(shared, frame, &flow, reason, Error::Prohibited, now)
        }
        Some(&[0x86, 0xdd]) => {
            let Ok(header) = ipv6::Packet::new_checked(packet) else {
                return Verdict::Drop(reason);
            };
            let (src, dst) = (header.src(), header.dst());
            // RFC 4443 2.4 e would have later fragments answered, RFC 1812 4.3.2.7 would not; and
            // what a fragment of ICMPv6 is of is not known.
            let quiet = header.next_header() == ip_protocol::FRAGMENT
                && match header.payload() {
                    [ip_protocol::ICMPV6, ..] => true,
                    [_, _, high, low, ..] => u16::from_be_bytes([*high, *low]) >> 3 != 0,
                    _ => true,
                };
            if quiet || crossed::is_mapped(src) {
                return Verdict::Drop(reason);
            }
            let len = ipv6::HEADER_LEN + usize::from(header.payload_len());
            refuse(shared, frame, &bare_flow(src, dst, len), reason, Error::Prohibited, now)
        }
        _ => Verdict::Drop(reason),
    }
}

/// As much of a flow as an error needs that is about a packet without one. The length in bytes is
/// that of the packet; the frame holds it.
fn bare_flow<A: Family>(src: A, dst: A, len: usize) -> Flow<A> {
    let key = FlowKey { src, dst, sport: 0, dport: 0, protocol: Protocol::Icmp };
    Flow { key, tcp_flags: 0, hop_limit: 0, frame_len: (ETHERNET + len).min(0xffff) as u16 }
}

/// Drops a packet and makes of its frame the error to its sender.
fn refuse<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    reason: DropReason,
    error: Error,
    now: u32,
) -> Verdict {
    if let Some(flow) = crossed::back(frame, flow) {
        let error = match error {
            Error::PacketTooBig { mtu } => Error::PacketTooBig { mtu: mtu - DIFFERENCE as u16 },
            other => other,
        };
        return refuse(shared, frame, &flow, reason, error, now);
    }
    let port = frame.rx_port();
    let own_mac = shared.snapshot.ports[usize::from(port.0)].mac;
    let own = match error {
        Error::PortUnreachable => flow.key.dst,
        _ => match A::of_port(&shared.snapshot, port) {
            Some(own) => own,
            None => return Verdict::Drop(reason),
        },
    };
    if !may_report::<A>(&frame.bytes()[ETHERNET..]) || !shared.icmp_errors.take(now) {
        return Verdict::Drop(reason);
    }
    let made = match (own.into(), flow.key.src.into()) {
        (IpAddr::V4(own), IpAddr::V4(to)) => error_v4(frame, flow.frame_len, own, to, error),
        (IpAddr::V6(own), IpAddr::V6(to)) => error_v6(frame, flow.frame_len, own, to, error),
        _ => false,
    };
    if !made {
        return Verdict::Drop(reason);
    }
    turn_round(frame.bytes_mut(), &own_mac);
    Verdict::Refuse(reason, port)
}

/// Whether there may be an error about this packet.
fn may_report<A: Family>(packet: &[u8]) -> bool {
    if A::V6 {
        icmpv6::may_report(&ipv6::Packet::new_unchecked(packet))
    } else {
        icmpv4::may_report(&ipv4::Packet::new_unchecked(packet))
    }
}

/// Makes of the frame the error about itself. The Ethernet header stays as it came.
fn error_v4<F: Frame>(
    frame: &mut F,
    frame_len: u16,
    own: Ipv4Addr,
    to: Ipv4Addr,
    error: Error,
) -> bool {
    let packet_len = usize::from(frame_len) - ETHERNET;
    let message_len = icmpv4::error_len(packet_len);
    let mut quote = [0; icmpv4::error_len(usize::MAX)];
    let quoted = message_len - icmpv4::HEADER_LEN;
    quote[..quoted].copy_from_slice(&frame.bytes()[ETHERNET..ETHERNET + quoted]);
    if !frame.set_len(ETHERNET + ipv4::HEADER_LEN + message_len) {
        return false;
    }
    let packet = &mut frame.bytes_mut()[ETHERNET..];
    ipv4::Repr {
        src: own,
        dst: to,
        protocol: ip_protocol::ICMP,
        ttl: HOP_LIMIT,
        ident: 0,
        dont_fragment: true,
        payload_len: message_len as u16,
    }
    .emit(packet);
    let error = match error {
        Error::TimeExceeded => icmpv4::Error::TimeExceeded,
        Error::PacketTooBig { mtu } => icmpv4::Error::FragmentationNeeded { mtu },
        Error::PortUnreachable => icmpv4::Error::PortUnreachable,
        Error::Prohibited => icmpv4::Error::AdministrativelyProhibited,
    };
    error.emit(&quote[..quoted], &mut packet[ipv4::HEADER_LEN..]);
    true
}

fn error_v6<F: Frame>(
    frame: &mut F,
    frame_len: u16,
    own: Ipv6Addr,
    to: Ipv6Addr,
    error: Error,
) -> bool {
    let packet_len = usize::from(frame_len) - ETHERNET;
    let message_len = icmpv6::error_len(packet_len);
    let mut quote = [0; icmpv6::error_len(usize::MAX)];
    let quoted = message_len - icmpv6::HEADER_LEN;
    quote[..quoted].copy_from_slice(&frame.bytes()[ETHERNET..ETHERNET + quoted]);
    if !frame.set_len(ETHERNET + ipv6::HEADER_LEN + message_len) {
        return false;
    }
    let packet = &mut frame.bytes_mut()[ETHERNET..];
    ipv6::Repr {
        src: own,
        dst: to,
        next_header: ip_protocol::ICMPV6,
        hop_limit: HOP_LIMIT,
        payload_len: message_len as u16,
    }
    .emit(packet);
    let error = match error {
        Error::TimeExceeded => icmpv6::Error::TimeExceeded,
        Error::PacketTooBig { mtu } => icmpv6::Error::PacketTooBig { mtu: u32::from(mtu) },
        Error::PortUnreachable => icmpv6::Error::PortUnreachable,
        Error::Prohibited => icmpv6::Error::AdministrativelyProhibited,
    };
    error.emit(&quote[..quoted], own, to, &mut packet[ipv6::HEADER_LEN..]);
    true
}

/// Turns an ICMP echo request for an address of ours into its reply. `false` when it is not one;
/// the frame is then as it was.
pub(super) fn echo_reply_v4(
    bytes: &mut [u8],
    frame_len: u16,
    own_mac: &[u8; 6],
) -> Result<bool, DropReason> {
    let end = usize::from(frame_len);
    let message = icmpv4::Packet::new_checked(&bytes[Ipv4Addr::TRANSPORT..end])?;
    if !message.is_echo_request() {
        return Ok(false);
    }
    if !message.verify_checksum() {
        return Err(DropReason::BadIcmp);
    }
    icmpv4::Packet::new_unchecked(&mut bytes[Ipv4Addr::TRANSPORT..end]).make_echo_reply();
    let mut header = ipv4::Packet::new_unchecked(&mut bytes[ETHERNET..]);
    let (src, dst) = (header.src(), header.dst());
    header.set_src(dst);
    header.set_dst(src);
    header.set_ttl(HOP_LIMIT);
    header.fill_checksum();
    turn_round(bytes, own_mac);
    Ok(true)
}

/// The same for ICMPv6.
pub(super) fn echo_reply_v6(
    bytes: &mut [u8],
    frame_len: u16,
    own_mac: &[u8; 6],
) -> Result<bool, DropReason> {
    let end = usize::from(frame_len);
    let (src, dst) = {
        let header = ipv6::Packet::new_unchecked(&bytes[ETHERNET..]);
        (header.src(), header.dst())
    };
    let message = icmpv6::Packet::new_checked(&bytes[Ipv6Addr::TRANSPORT..end])?;
    if !message.is_echo_request() {
        return Ok(false);
    }
    if !message.verify_checksum(src, dst) {
        return Err(DropReason::BadIcmp);
    }
    icmpv6::Packet::new_unchecked(&mut bytes[Ipv6Addr::TRANSPORT..end]).make_echo_reply();
    let mut header = ipv6::Packet::new_unchecked(&mut bytes[ETHERNET..]);
    header.set_src(dst);
    header.set_dst(src);
    header.set_hop_limit(HOP_LIMIT);
    turn_round(bytes, own_mac);
    Ok(true)
}
