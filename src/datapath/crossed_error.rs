//! ICMP errors about packets of sessions between families: translated as RFC 7915 has it, and sent
//! to the end that sent the packet ([`super::icmp_error`]).
//!
//! A router of one family has no address in the other. Its error comes from the address of the port
//! by which it leaves, as if Shunt were the router (RFC 6791), or where the port has none from the
//! address that the receiver knows for its peer.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::established::next_hop;
use super::family::Family;
use super::frame::Frame;
use super::icmp_error::{is_plausible, translation};
use super::lane::Lane;
use super::onward;
use super::shared::Shared;
use super::verdict::Verdict;
use crate::rewrite::crossing_error::{self, Buffer, Mtus};
use crate::rewrite::icmp_error::{IcmpError, Translation};
use crate::session::{Aside, Direction, Entry, HopRef};
use crate::wire::DropReason;
use crate::wire::flow::{Address, FlowKey};
use crate::wire::icmpv6::HEADER_LEN;
use crate::wire::quoted::Quoted;

/// Passes an error of IPv4 on to the IPv6 end of a session. `None` when it is about none.
#[cold]
#[inline(never)]
pub(super) fn to_v6<A: Family + IcmpError, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<Ipv6Addr>,
    frame: &mut F,
    end: usize,
    quoted: &Quoted<A>,
    now: u32,
) -> Option<Verdict> {
    let FlowKey { src, dst, sport, dport, protocol } = quoted.key;
    let (src, dst) = (Ipv6Addr::adopt(src.into())?, Ipv6Addr::adopt(dst.into())?);
    let key = FlowKey { src, dst, sport, dport, protocol };
    let Quoted { transport, available, sequence, .. } = *quoted;
    let mapped = Quoted { key, transport, available, sequence };
    let turned = key.reversed();
    let (id, direction) = lane.table.find(lane.table.hash(&turned), &turned)?;
    let bytes = frame.bytes();
    if !A::is_sound(bytes, end) {
        return Some(Verdict::Drop(DropReason::BadIcmp));
    }
    let (aside, entry) = (*lane.table.aside(id), lane.table.get_mut(id));
    if !is_plausible(entry, &aside, direction, &mapped) {
        return Some(Verdict::Drop(DropReason::IcmpOutOfWindow));
    }
    if A::hop_limit(bytes) <= 1 {
        return Some(Verdict::Drop(DropReason::HopLimitExceeded));
    }
    let (hop_ref, hop) = match next_hop(shared, entry, direction) {
        Ok(found) => found,
        Err(reason) => return Some(Verdict::Drop(reason)),
    };
    let mtus = Mtus { v4: shared.mtu(frame.rx_port()), v6: shared.mtu(hop.port) };
    let mut made: Buffer = [0; size_of::<Buffer>()];
    let untranslatable = Some(Verdict::Drop(DropReason::IcmpNotTranslatable));
    let Some(len) = crossing_error::to_v6(bytes, end, quoted, mtus, &mut made) else {
        return untranslatable;
    };
    let made = &mut made[..len];
    let Ok(quoted) = Ipv6Addr::quoted(&made[Ipv6Addr::TRANSPORT + HEADER_LEN..]) else {
        return untranslatable;
    };
    let reporter = Ipv6Addr::endpoints(made).0;
    let own = Ipv6Addr::of_port(&shared.snapshot, hop.port);
    let to = translation_from(entry, &aside, direction, reporter, own, &quoted);
    Ipv6Addr::translate_error(made, len, &quoted, &to);
    Some(send(shared, frame, made, hop_ref, now))
}

/// Passes an error of IPv6 on to the IPv4 end of its session. It is sound, and its hop limit has not
/// been looked at.
#[cold]
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "the parts of one packet and its session")]
pub(super) fn to_v4<A: Family + IcmpError, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    aside: &Aside,
    direction: Direction,
    frame: &mut F,
    end: usize,
    quoted: &Quoted<A>,
    now: u32,
) -> Verdict {
    if A::hop_limit(frame.bytes()) <= 1 {
        return Verdict::Drop(DropReason::HopLimitExceeded);
    }
    let (hop_ref, hop) = match next_hop(shared, entry, direction) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    let reporter = A::endpoints(frame.bytes()).0;
    let own = Ipv4Addr::of_port(&shared.snapshot, hop.port).and_then(|own| A::adopt(own.into()));
    let to = translation_from(entry, aside, direction, reporter, own, quoted);
    A::translate_error(frame.bytes_mut(), end, quoted, &to);
    let mtus = Mtus { v4: shared.mtu(hop.port), v6: shared.mtu(frame.rx_port()) };
    let mut made: Buffer = [0; size_of::<Buffer>()];
    match crossing_error::to_v4(frame.bytes(), end, quoted, mtus, &mut made) {
        Some(len) => send(shared, frame, &made[..len], hop_ref, now),
        None => Verdict::Drop(DropReason::IcmpNotTranslatable),
    }
}

/// What an error becomes; `own` is our address on the port it leaves by.
fn translation_from<A: Family>(
    entry: &Entry<A>,
    aside: &Aside,
    direction: Direction,
    reporter: A,
    own: Option<A>,
    quoted: &Quoted<A>,
) -> Translation<A> {
    let mut to = translation(entry, aside, direction, reporter, quoted);
    if to.src == reporter {
        to.src = own.unwrap_or(match direction {
            Direction::Forward => entry.local,
            Direction::Reply => entry.vip,
        });
    }
    to
}

/// Sends what was made in the place of the frame.
fn send<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    made: &[u8],
    hop_ref: HopRef,
    now: u32,
) -> Verdict {
    if !frame.set_len(made.len()) {
        return Verdict::Drop(DropReason::NoBuffer);
    }
    frame.bytes_mut().copy_from_slice(made);
    shared.counters.icmp_errors.add(1);
    onward::send(shared, frame, hop_ref, now)
}
