//! Sessions between families (NAT64, NAT46): a FullNAT service whose servers are all of one family
//! has clients of the other.
//!
//! Such a session lives in the IPv6 table, its IPv4 side with mapped addresses. The IPv6 lane sees
//! IPv6 packets only: an IPv4 packet that has no session of its own, and is for such a service or
//! comes back to a local address, becomes an IPv6 packet between mapped addresses and goes on there
//! ([`enter`]). Towards IPv4 a packet is made one when all else has been done to it ([`leave`]).
//! ICMP errors about packets of these sessions: [`super::crossed_error`]; fragments:
//! [`super::crossed_fragment`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::crossed_fragment;
use super::family::Family;
use super::frame::Frame;
use super::icmp;
use super::lane::{Crossed, Item};
use super::note::Note;
use super::onward;
use super::shared::Shared;
use super::snapshot::{LocalAddress, Snapshot};
use super::verdict::Verdict;
use crate::rewrite::crossing::{self, DIFFERENCE};
use crate::rewrite::transport_checksum;
use crate::session::{Direction, Entry, Extras, ServerId, ServiceId, SessionId, Table};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Flow, FlowKey};
use crate::wire::{DropReason, ipv4};

/// Whether an address is an IPv4 one in IPv6's clothes.
pub(super) fn is_mapped<A: Family>(address: A) -> bool {
    matches!(address.into(), IpAddr::V6(a) if a.to_ipv4_mapped().is_some())
}

/// Whether a packet that has no session is for a session between families, or opens one.
pub(super) fn takes<A: Family, F>(shared: &Shared<F>, key: &FlowKey<A>) -> bool {
    if A::V6 || !shared.snapshot.crosses {
        return false;
    }
    match A::listener(&shared.snapshot, key) {
        Some(service) => leads_over::<A>(&shared.snapshot, service),
        None => matches!(A::local(&shared.snapshot, key.dst), Some(LocalAddress::Lip(_))),
    }
}

/// Whether clients of this family get servers of the other.
pub(super) fn leads_over<A: Family>(snapshot: &Snapshot, service: ServiceId) -> bool {
    let service = &snapshot.services[usize::from(service.0)];
    let other = |id: &ServerId| snapshot.servers[usize::from(id.0)].address.is_ipv6() != A::V6;
    service.crossed && service.servers.first().is_some_and(other)
}

/// Whether a packet without a session has an address that nothing on a wire has (RFC 4942 2.2), and
/// did not get it here: in this burst, or before another worker was asked about its client.
pub(super) fn is_forged<A: Family, F: Frame>(
    shared: &Shared<F>,
    frame: &F,
    item: &Item<A>,
) -> bool {
    (is_mapped(item.flow.key.src) || is_mapped(item.flow.key.dst))
        && item.crossed == Crossed::No
        && !(shared.steered && Note::decode(frame.note()) != Note::None)
}

/// Marks a new session that is one between families.
pub(super) fn begin<A: Family>(table: &mut Table<A>, id: SessionId) {
    let entry = table.get_mut(id);
    if is_mapped(entry.client) || is_mapped(entry.server) {
        entry.extras = entry.extras.with(Extras::CROSSED);
    }
}

/// Makes an IPv6 packet of an IPv4 one and puts it into the line of the IPv6 lane, which decides on
/// it before the burst is over.
#[cold]
#[inline(never)]
pub(super) fn enter<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Verdict {
    let key = &item.flow.key;
    // While the packet is as its sender knows it.
    if item.flow.hop_limit <= 1 {
        return icmp::time_exceeded(shared, frame, &item.flow, now);
    }
    let (Some(src), Some(dst)) = (Ipv6Addr::adopt(key.src.into()), Ipv6Addr::adopt(key.dst.into()))
    else {
        return Verdict::Drop(DropReason::NoSession);
    };
    let dont_fragment = ipv4::Packet::new_unchecked(&frame.bytes()[ETHERNET..]).dont_fragment();
    let crossed = if dont_fragment { Crossed::Whole } else { Crossed::Divisible };
    // Without Ethernet padding: the length of the frame is that of the packet.
    frame.set_len(usize::from(item.flow.frame_len));
    if !frame.prepend(DIFFERENCE) {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    crossing::to_v6(frame.bytes_mut());
    let flow = Flow {
        key: FlowKey { src, dst, sport: key.sport, dport: key.dport, protocol: key.protocol },
        tcp_flags: item.flow.tcp_flags,
        hop_limit: item.flow.hop_limit,
        frame_len: item.flow.frame_len.saturating_add(DIFFERENCE as u16),
    };
    shared.crossed.push(item.in_v6(flow, crossed));
    // Until the IPv6 lane has run.
    Verdict::Drop(DropReason::NoSession)
}

/// The end of the established path for a packet of such a session.
#[cold]
#[inline(never)]
pub(super) fn leave<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Verdict {
    let entry = table.get(id);
    let hop_ref = entry.hop(direction);
    onward::translate(entry, frame.bytes_mut(), direction);
    if item.fill_checksum {
        transport_checksum::fill::<A>(frame.bytes_mut(), &item.flow);
    }
    if leaves_as_v4(entry, direction) {
        make_v4(frame);
    }
    let server = entry.server_id;
    if item.crossed == Crossed::Divisible
        && let Some(verdict) =
            crossed_fragment::divide(shared, frame, (server, direction), hop_ref, now)
    {
        return verdict;
    }
    shared.counters.server(server).count(direction, frame.bytes().len());
    onward::send(shared, frame, hop_ref, now)
}

/// How many bytes shorter a packet of the session leaves than it is in the lane.
pub(super) fn shortened<A: Family>(entry: &Entry<A>, direction: Direction) -> u16 {
    let crossed = entry.extras.has(Extras::CROSSED);
    if crossed && leaves_as_v4(entry, direction) { DIFFERENCE as u16 } else { 0 }
}

/// Whether packets of the session in this direction go to an IPv4 host.
pub(super) fn leaves_as_v4<A: Family>(entry: &Entry<A>, direction: Direction) -> bool {
    is_mapped(entry.key(direction.turned()).src)
}

/// Makes an IPv4 frame of an IPv6 frame between mapped addresses; another one stays. Returns by how
/// many bytes it is shorter.
pub(super) fn make_v4<F: Frame>(frame: &mut F) -> usize {
    let shorter = crossing::to_v4(frame.bytes_mut()).unwrap_or(0);
    frame.trim_front(shorter);
    shorter
}

/// Makes of a packet that came as IPv4 what it was, for the answer to its sender. `None` when it
/// came as IPv6.
pub(super) fn back<A: Family, F: Frame>(frame: &mut F, flow: &Flow<A>) -> Option<Flow<Ipv4Addr>> {
    let v4 = |address: A| match address.into() {
        IpAddr::V6(a) => a.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    let key = &flow.key;
    let key = FlowKey {
        src: v4(key.src)?,
        dst: v4(key.dst)?,
        sport: key.sport,
        dport: key.dport,
        protocol: key.protocol,
    };
    let shorter = make_v4(frame) as u16;
    Some(Flow {
        key,
        tcp_flags: flow.tcp_flags,
        hop_limit: flow.hop_limit,
        frame_len: flow.frame_len - shorter,
    })
}
