//! What is looked at before any session: mirrors by address, sources that cannot be right, and the
//! packet filter. One call for each packet from the wire, on the worker that receives it, made only
//! when the configuration asks for one of these.
//!
//! Neighbor discovery (like ARP) is never refused: a rule that drops ICMPv6 must not take the port
//! off its link. What the kernel sends passes unseen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::bogons::bogons;
use super::family::Family;
use super::filter::{Action, Filters, Packet};
use super::frame::Frame;
use super::icmp;
use super::limiter::TokenBucket;
use super::mirror::{self, Mirror};
use super::prefix_set::PrefixSet;
use super::refuse;
use super::shared::Shared;
use super::snapshot::{PortId, PortRole, Side, Snapshot};
use super::verdict::Verdict;
use crate::wire::DropReason;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Address, Flow};
use crate::wire::ip_protocol;

/// The configuration of all this.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The packet filter.
    pub filters: Filters,
    /// The mirrors, by [`super::mirror::MirrorId`].
    pub mirrors: Vec<Mirror>,
    /// Drop packets on client-side ports whose source is not globally reachable.
    pub bogons: bool,
    /// Drop packets on client-side ports whose source is reached by another port.
    pub reverse_path: bool,
}

impl Guard {
    /// Whether packets have to be looked at.
    fn watches(&self) -> bool {
        !self.filters.is_empty()
            || self.bogons
            || self.reverse_path
            || self.mirrors.iter().any(|mirror| mirror.matching.is_some())
    }
}

/// What a worker keeps for it.
#[derive(Debug, Default)]
pub(super) struct GuardState {
    /// Whether packets have to be looked at.
    pub(super) on: bool,
    /// By filter rule; only those that limit are used.
    limits: Vec<TokenBucket>,
    bogons: PrefixSet,
}

impl GuardState {
    /// Takes a new configuration. The limits begin anew when the rules were read anew.
    pub(super) fn configure(&mut self, old: &Snapshot, snapshot: &Snapshot) {
        let guard = &snapshot.guard;
        self.on = guard.watches();
        self.bogons = if guard.bogons { bogons() } else { PrefixSet::default() };
        let rules = guard.filters.rules();
        let workers = snapshot.workers();
        if self.limits.len() != rules.len()
            || old.workers() != workers
            || !Arc::ptr_eq(&old.guard, guard)
        {
            let bucket = |action: Action| TokenBucket::full(action.refill(workers));
            self.limits = rules.iter().map(|rule| bucket(rule.action)).collect();
        }
    }
}

/// Looks at a TCP or UDP packet. The verdict, if it ends here.
#[inline(never)]
pub(super) fn flow<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    now: u32,
) -> Option<Verdict> {
    let key = &flow.key;
    let packet = Packet {
        src: key.src,
        dst: key.dst,
        protocol: key.protocol.number(),
        transport: Some((key.sport, key.dport, flow.tcp_flags)),
        port: frame.rx_port(),
    };
    mirror::by_address(shared, frame, &packet);
    let reason =
        spoofed(shared, &packet).or_else(|| filter(shared, frame.bytes(), &packet, now))?;
    Some(match reason {
        DropReason::FilterRejected => refuse::refuse(shared, frame, flow, reason, now),
        _ => Verdict::Drop(reason),
    })
}

/// Looks at a frame that is no flow: other protocols and fragments.
#[cold]
#[inline(never)]
pub(super) fn other<F: Frame>(shared: &mut Shared<F>, frame: &mut F, now: u32) -> Option<Verdict> {
    let bytes = frame.bytes();
    let reason = if bytes.get(12..14) == Some(&[0x86, 0xdd]) {
        let packet = packet_v6(bytes, frame.rx_port())?;
        mirror::by_address(shared, frame, &packet);
        if is_neighbor_discovery(&packet, frame.bytes()) {
            return None;
        }
        spoofed(shared, &packet).or_else(|| filter(shared, frame.bytes(), &packet, now))
    } else if bytes.get(12..14) == Some(&[0x08, 0x00]) {
        let packet = packet_v4(bytes, frame.rx_port())?;
        mirror::by_address(shared, frame, &packet);
        spoofed(shared, &packet).or_else(|| filter(shared, frame.bytes(), &packet, now))
    } else {
        None
    };
    Some(match reason? {
        reason @ DropReason::FilterRejected => icmp::prohibited(shared, frame, reason, now),
        reason => Verdict::Drop(reason),
    })
}

/// The packet in a frame with an IPv4 header.
fn packet_v4(bytes: &[u8], port: PortId) -> Option<Packet<Ipv4Addr>> {
    let head = bytes.get(ETHERNET..Ipv4Addr::TRANSPORT)?;
    let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    let begins = u16::from_be_bytes([head[6], head[7]]) & 0x1fff == 0;
    Some(Packet {
        src: address(12),
        dst: address(16),
        protocol: head[9],
        transport: begins.then(|| transport(head[9], bytes, Ipv4Addr::TRANSPORT)).flatten(),
        port,
    })
}

/// The packet in a frame with an IPv6 header. Of extension headers only that of a fragment is
/// understood.
fn packet_v6(bytes: &[u8], port: PortId) -> Option<Packet<Ipv6Addr>> {
    let head = bytes.get(ETHERNET..Ipv6Addr::TRANSPORT)?;
    let address = |at: usize| head[at..].first_chunk::<16>().copied().map(Ipv6Addr::from);
    let (mut protocol, mut at, mut begins) = (head[6], Ipv6Addr::TRANSPORT, true);
    if protocol == ip_protocol::FRAGMENT {
        let fragment = bytes.get(at..at + 8)?;
        protocol = fragment[0];
        begins = u16::from_be_bytes([fragment[2], fragment[3]]) >> 3 == 0;
        at += 8;
    }
    Some(Packet {
        src: address(8)?,
        dst: address(24)?,
        protocol,
        transport: begins.then(|| transport(protocol, bytes, at)).flatten(),
        port,
    })
}

/// Ports and TCP flags of the TCP or UDP header at `at`.
fn transport(protocol: u8, bytes: &[u8], at: usize) -> Option<(u16, u16, u8)> {
    let header = bytes.get(at..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?]));
    match protocol {
        ip_protocol::TCP => Some((port(0)?, port(2)?, *header.get(13)? & 0x3f)),
        ip_protocol::UDP => Some((port(0)?, port(2)?, 0)),
        _ => None,
    }
}

/// RFC 4861: router and neighbor solicitations and advertisements, redirects.
fn is_neighbor_discovery(packet: &Packet<Ipv6Addr>, bytes: &[u8]) -> bool {
    packet.protocol == ip_protocol::ICMPV6
        && bytes.get(Ipv6Addr::TRANSPORT).is_some_and(|kind| (133..=137).contains(kind))
}

/// Why the source cannot be right, if it cannot. Only clients' ports are judged. The networks of the
/// port itself are right there, whatever their addresses are.
fn spoofed<A: Family, F>(shared: &Shared<F>, packet: &Packet<A>) -> Option<DropReason> {
    let Guard { bogons, reverse_path, .. } = *shared.snapshot.guard;
    if !bogons && !reverse_path {
        return None;
    }
    let role = shared.snapshot.ports[usize::from(packet.port.0)].role;
    if !matches!(role, PortRole::Wire { side: Side::Client, .. }) {
        return None;
    }
    let source: IpAddr = packet.src.into();
    if is_link_local(source) && packet.transport.is_none() {
        // What routers say to one another.
        return None;
    }
    let route = A::routes(&shared.snapshot).iter().find(|route| route.to.contains(&source));
    let target = route.map(|route| route.target);
    if bogons
        && shared.guard.bogons.contains(source)
        && !target.is_some_and(|t| t.via.is_none() && t.port == packet.port)
    {
        return Some(DropReason::Bogon);
    }
    (reverse_path && target.is_none_or(|t| t.port != packet.port))
        .then_some(DropReason::SpoofedInside)
}

fn is_link_local(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// Why the packet filter refuses the packet, if it does.
fn filter<A: Family, F>(
    shared: &mut Shared<F>,
    bytes: &[u8],
    packet: &Packet<A>,
    now: u32,
) -> Option<DropReason> {
    let filters = &shared.snapshot.guard.filters;
    let rule = filters.first(packet)?;
    let counters = shared.counters.filter(rule);
    counters.packets.add(1);
    counters.bytes.add(bytes.len() as u64);
    match filters.rules()[rule].action {
        Action::Allow => None,
        Action::Drop => Some(DropReason::Filtered),
        Action::Reject => Some(DropReason::FilterRejected),
        Action::Limit { .. } if shared.guard.limits[rule].take(now) => None,
        Action::Limit { .. } => Some(DropReason::FilterLimited),
    }
}
