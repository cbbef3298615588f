//! Fragments of sessions between families (RFC 7915 4.1, 5.1.1), and what has to be cut on its way
//! to IPv6.
//!
//! As whole packets do, an IPv4 fragment without a session of its own becomes an IPv6 fragment
//! between mapped addresses ([`enter`]), and towards IPv4 it becomes one when all else has been done
//! ([`leave`]).
//!
//! In IPv6 a fragment is 28 bytes longer and a packet 20, and then perhaps too long for its way.
//! What its sender lets be fragmented is cut in two, the first of 1280 bytes, which every path
//! takes.

use std::net::Ipv6Addr;

use super::crossed::{leaves_as_v4, make_v4};
use super::established;
use super::family::Family;
use super::fragment_path::{self, Lanes};
use super::fragments::Binding;
use super::frame::Frame;
use super::hops::Hop;
use super::icmp;
use super::lane::Lane;
use super::onward;
use super::shared::Shared;
use super::verdict::Verdict;
use crate::rewrite::crossing::{self, DIFFERENCE, FRAGMENT_DIFFERENCE};
use crate::rewrite::ethernet;
use crate::session::{Direction, Entry, HopRef, ServerId};
use crate::wire::DropReason;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Address, Flow, Protocol};
use crate::wire::fragment::{self, Fragment, HEADER_LEN_V6 as FRAGMENT_HEADER};

/// The longest IPv6 packet that every path takes (RFC 8200 5), in bytes.
const LEAST_V6: usize = 1280;
/// Identifications of whole packets that are cut: fragments that come as such have 24 bits.
const OF_WHOLE: u32 = 1 << 31;

/// Makes an IPv6 fragment of an IPv4 one and goes on with it in the IPv6 lane.
#[cold]
#[inline(never)]
pub(super) fn enter<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<Ipv6Addr>,
    frame: &mut F,
    fragment: &Fragment<A>,
    flow: &Flow<A>,
    binding: Binding,
    now: u32,
) -> Verdict {
    // While it is as its sender knows it.
    if fragment.hop_limit <= 1 {
        return icmp::time_exceeded(shared, frame, flow, now);
    }
    // RFC 7915 4.5: a checksum that is missing can be computed of whole datagrams only.
    let udp = fragment.ports.is_some() && fragment.packet.protocol == Protocol::Udp;
    if udp && frame.bytes().get(fragment.at + 6..fragment.at + 8) == Some(&[0, 0]) {
        return Verdict::Drop(DropReason::FragmentBetweenFamilies);
    }
    let fragment::Packet { src, dst, ident, protocol } = fragment.packet;
    let (Some(src), Some(dst)) = (Ipv6Addr::adopt(src.into()), Ipv6Addr::adopt(dst.into())) else {
        return Verdict::Drop(DropReason::NoSession);
    };
    frame.set_len(usize::from(fragment.frame_len));
    if !frame.prepend(FRAGMENT_DIFFERENCE) {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    crossing::fragment_to_v6(frame.bytes_mut());
    let &Fragment { offset, len, more, at, ports, hop_limit, frame_len, .. } = fragment;
    let fragment = Fragment {
        packet: fragment::Packet { src, dst, ident, protocol },
        offset,
        len,
        more,
        at: at + FRAGMENT_DIFFERENCE,
        ports,
        hop_limit,
        frame_len: frame_len.saturating_add(FRAGMENT_DIFFERENCE as u16),
    };
    let mut lanes = Lanes { own: lane, between: None };
    fragment_path::forward(shared, &mut lanes, frame, &fragment, binding, now)
}

/// How long a packet may be whose fragments leave by a port of this MTU, in bytes, if the fragment
/// of `frame_len` bytes is too long for it and its sender is to be told.
pub(super) fn exceeded_mtu<A: Family>(
    entry: &Entry<A>,
    direction: Direction,
    frame_len: u16,
    mtu: u16,
) -> Option<u16> {
    let to_v4 = leaves_as_v4(entry, direction);
    let longest = ETHERNET + usize::from(mtu) + FRAGMENT_DIFFERENCE;
    (to_v4 && usize::from(frame_len) > longest).then(|| mtu.saturating_add(DIFFERENCE as u16))
}

/// The end of the way of a fragment of such a session, which has been translated within IPv6.
#[cold]
#[inline(never)]
pub(super) fn leave<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    frame: &mut F,
    direction: Direction,
    (hop_ref, hop): (HopRef, Hop),
    now: u32,
) -> Verdict {
    make_v4(frame);
    shared.counters.fragments.add(1);
    let room = usize::from(shared.mtu(hop.port));
    if frame.bytes().len() > ETHERNET + room {
        return send_in_two(shared, frame, (entry.server_id, direction), (hop_ref, hop), now);
    }
    shared.counters.server(entry.server_id).count(direction, frame.bytes().len());
    onward::send(shared, frame, hop_ref, now)
}

/// Sends a packet that has become IPv6, and may be fragmented, in two fragments. `None` if that is
/// not necessary.
#[cold]
#[inline(never)]
pub(super) fn divide<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    of: (ServerId, Direction),
    hop_ref: HopRef,
    now: u32,
) -> Option<Verdict> {
    let hop = *shared.hops.get(hop_ref)?;
    let room = usize::from(shared.mtu(hop.port));
    if frame.bytes().len() <= ETHERNET + room {
        return None;
    }
    if !frame.prepend(FRAGMENT_HEADER) {
        return Some(Verdict::Drop(DropReason::NoHeadroom));
    }
    let ident = OF_WHOLE | shared.idents.take();
    crossing::insert_fragment_header(frame.bytes_mut(), ident);
    Some(send_in_two(shared, frame, of, (hop_ref, hop), now))
}

/// Cuts an IPv6 fragment in two and sends both. They count as the one packet that came.
fn send_in_two<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    (server, direction): (ServerId, Direction),
    (hop_ref, hop): (HopRef, Hop),
    now: u32,
) -> Verdict {
    if !hop.ready {
        // Two frames cannot wait for one verdict.
        established::ask(shared, hop_ref, now);
        return Verdict::Drop(DropReason::NeighborUnresolved);
    }
    let mut first = match cut(shared, frame) {
        Ok(first) => first,
        Err(reason) => return Verdict::Drop(reason),
    };
    let bytes = first.bytes().len() + frame.bytes().len();
    shared.counters.server(server).count(direction, bytes);
    for frame in [&mut first, frame] {
        ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
    }
    shared.originate_ahead(hop.port, first);
    Verdict::Forward(hop.port)
}

/// Takes the first part off an IPv6 fragment. It is returned in a spare frame; the rest, which stays,
/// is as long at the most.
fn cut<F: Frame>(shared: &mut Shared<F>, frame: &mut F) -> Result<F, DropReason> {
    const HEADERS: usize = Ipv6Addr::TRANSPORT + FRAGMENT_HEADER;
    // Offsets count in units of eight bytes.
    const PIECE: usize = (ETHERNET + LEAST_V6 - HEADERS) / 8 * 8;
    let payload = frame.bytes().len().saturating_sub(HEADERS);
    if payload <= PIECE || payload > 2 * PIECE {
        return Err(DropReason::PacketTooBig);
    }
    let mut first = shared.take_spare(HEADERS + PIECE).ok_or(DropReason::NoBuffer)?;
    first.bytes_mut().copy_from_slice(&frame.bytes()[..HEADERS + PIECE]);
    frame.bytes_mut().copy_within(..HEADERS, PIECE);
    frame.trim_front(PIECE);
    crossing::set_fragment(first.bytes_mut(), 0, true);
    crossing::set_fragment(frame.bytes_mut(), PIECE as u16, false);
    Ok(first)
}
