//! ICMP errors about packets that Shunt has forwarded: each goes to the end that sent the packet,
//! and speaks of the packet as that end knows it.
//!
//! ```text
//!  a packet client→VIP, forwarded as local→server, fails behind Shunt:
//!      router or server ──(local→server)──▶ Shunt ──(client→VIP)──▶ client
//!  a packet server→local, forwarded as VIP→client, fails in front of Shunt:
//!      router or client ──(VIP→client)──▶ Shunt ──(server→local)──▶ server
//! ```
//!
//! A router's error keeps the router's address, so that a traceroute shows it. An error of the
//! server itself comes from the VIP. In direct return and through tunnels only errors about replies
//! pass, and they go the way of the client's packets, as they are.
//!
//! Between families it is translated as RFC 7915 has it ([`super::crossed_error`]).
//!
//! The quoted packet steers the error (design §3): turned round it has the key of the session.

use std::net::{IpAddr, Ipv6Addr};

use super::crossed_error;
use super::established::next_hop;
use super::family::Family;
use super::frame::Frame;
use super::introduce;
use super::lane::Lane;
use super::note::Note;
use super::onward;
use super::shared::Shared;
use super::snapshot::LocalAddress;
use super::snat::hairpin;
use super::steer;
use super::tunnel::{self, Refused};
use super::verdict::Verdict;
use crate::rewrite::icmp_error::{IcmpError, Translation};
use crate::session::sequence::near;
use crate::session::{Aside, Direction, Entry, Extras, TcpState};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Flow, Protocol};
use crate::wire::quoted::{Quoted, Unusable};
use crate::wire::{DropReason, icmpv4};

/// Passes an ICMP error on. `None` when the message is no error, or one that is not about a
/// session's packet and may be for this node itself. `between` is the lane of the sessions between
/// families, when it is another one; `steer` says that the packet may have to go to another worker
/// first.
#[cold]
#[inline(never)]
pub(super) fn handle<A: Family + IcmpError, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    between: Option<&mut Lane<Ipv6Addr>>,
    frame: &mut F,
    frame_len: u16,
    steer: bool,
    now: u32,
) -> Option<Verdict> {
    let end = usize::from(frame_len);
    let bytes = frame.bytes();
    let (src, dst) = A::endpoints(bytes);
    let message = &bytes[A::TRANSPORT..end];
    // Groups are for nobody in particular (only IPv6 brings them here).
    if !A::is_error(message) || bytes[0] & 1 != 0 || dst.into().is_multicast() {
        return None;
    }
    if A::local(&shared.snapshot, src).is_some() && !hairpin::is_on_its_way(shared, frame) {
        return Some(Verdict::Drop(DropReason::SpoofedLocal));
    }
    if src == A::UNSPECIFIED {
        return Some(Verdict::Drop(DropReason::Martian));
    }
    // The kernel has link-local addresses on its tap that are none of ours.
    let for_kernel = match A::local(&shared.snapshot, dst) {
        Some(local) => matches!(local, LocalAddress::Port(_)),
        None => is_link_local(dst.into()),
    };
    let quoted = match message.get(icmpv4::HEADER_LEN..).map(A::quoted) {
        Some(Ok(quoted)) => quoted,
        Some(Err(Unusable::OtherProtocol)) => return None,
        _ if for_kernel => return None,
        Some(Err(Unusable::Malformed)) => return Some(Verdict::Drop(DropReason::BadIcmpQuote)),
        None => return Some(Verdict::Drop(DropReason::BadIcmp)),
    };
    let key = quoted.key.reversed();
    if steer {
        let role = shared.snapshot.ports[usize::from(frame.rx_port().0)].role;
        let owner = steer::owner(&shared.snapshot, shared.toeplitz, role, &key);
        if owner != shared.worker {
            return Some(Verdict::HandOff(owner, Note::None));
        }
    }
    let Some((id, direction)) = lane.table.find(lane.table.hash(&key), &key) else {
        if let Some(between) = between
            && shared.snapshot.crosses
            && let Some(verdict) = crossed_error::to_v6(shared, between, frame, end, &quoted, now)
        {
            return Some(verdict);
        }
        return (!for_kernel).then_some(Verdict::Drop(DropReason::IcmpNoSession));
    };
    if !A::is_sound(bytes, end) {
        return Some(Verdict::Drop(DropReason::BadIcmp));
    }
    let (aside, entry) = (*lane.table.aside(id), lane.table.get_mut(id));
    if !is_plausible(entry, &aside, direction, &quoted) {
        return Some(Verdict::Drop(DropReason::IcmpOutOfWindow));
    }
    if entry.extras.has(Extras::CROSSED) {
        let verdict =
            crossed_error::to_v4(shared, entry, &aside, direction, frame, end, &quoted, now);
        return Some(verdict);
    }
    Some(pass_on(shared, entry, &aside, direction, frame, end, &quoted, now))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Sends the error of a session to the end in `direction`.
#[allow(clippy::too_many_arguments, reason = "the parts of one packet and its session")]
fn pass_on<A: Family + IcmpError, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    aside: &Aside,
    direction: Direction,
    frame: &mut F,
    end: usize,
    quoted: &Quoted<A>,
    now: u32,
) -> Verdict {
    let translates = entry.mode.translates();
    // About an error there is no error (RFC 1122 3.2.2).
    if translates && A::hop_limit(frame.bytes()) <= 1 {
        return Verdict::Drop(DropReason::HopLimitExceeded);
    }
    let (hop_ref, hop) = match next_hop(shared, entry, direction) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    if entry.mode.tunnels() {
        let (key, frame_len) = (entry.forward_key(), end as u16);
        let flow = Flow { key, tcp_flags: 0, hop_limit: A::hop_limit(frame.bytes()), frame_len };
        return match tunnel::send(shared, frame, &flow, entry.server_id, (hop_ref, hop), now) {
            Ok(verdict) => {
                shared.counters.icmp_errors.add(1);
                verdict
            }
            Err(Refused::TooLong(_)) => Verdict::Drop(DropReason::PacketTooBig),
            Err(Refused::For(reason)) => Verdict::Drop(reason),
        };
    }
    if end > ETHERNET + usize::from(shared.mtu(hop.port)) {
        return Verdict::Drop(DropReason::PacketTooBig);
    }
    // Ethernet padding ends here.
    frame.set_len(end);
    if translates {
        let to = translation(entry, aside, direction, A::endpoints(frame.bytes()).0, quoted);
        A::translate_error(frame.bytes_mut(), end, quoted, &to);
    }
    if entry.extras.has(Extras::HAIRPIN)
        && let Some(to) = hairpin::leaves_by(entry, direction)
    {
        // The other session of the hairpin passes it on.
        let owner = shared.snapshot.worker_of[A::bucket(shared.toeplitz, to.dst, to.dport)];
        return Verdict::HandOff(owner, Note::Hairpin);
    }
    shared.counters.icmp_errors.add(1);
    onward::send(shared, frame, hop_ref, now)
}

/// What an error from `src` becomes on its way in `direction`.
pub(super) fn translation<A: Family>(
    entry: &Entry<A>,
    aside: &Aside,
    direction: Direction,
    src: A,
    quoted: &Quoted<A>,
) -> Translation<A> {
    let (forward, reply) = shifts(entry, aside);
    let mut to = match direction {
        Direction::Forward => Translation {
            src: if src == entry.client { entry.local } else { src },
            dst: entry.server,
            quoted: entry.reply_key(),
            sequence: reply.wrapping_neg(),
            acknowledgement: forward,
        },
        Direction::Reply => Translation {
            src: if src == entry.server { entry.vip } else { src },
            dst: entry.client,
            quoted: entry.forward_key(),
            sequence: forward.wrapping_neg(),
            acknowledgement: reply,
        },
    };
    if entry.extras.has(Extras::INTRODUCED) && direction == Direction::Reply {
        to.sequence = introduce::quoted_shift(entry, aside, quoted.sequence);
    }
    to
}

/// What is added to the sequence numbers of the client and of the server on their way.
fn shifts<A>(entry: &Entry<A>, aside: &Aside) -> (u32, u32) {
    if entry.extras.has(Extras::SHIFTED) {
        (aside.forward_shift, aside.reply_shift)
    } else {
        (0, 0)
    }
}

/// Whether the quoted segment can be one that its sender has in flight: a blind attacker does not
/// know the sequence numbers (RFC 5927). `direction` is that of the error.
pub(super) fn is_plausible<A>(
    entry: &Entry<A>,
    aside: &Aside,
    direction: Direction,
    quoted: &Quoted<A>,
) -> bool {
    let (forward, reply) = shifts(entry, aside);
    // The quoted segment went the other way. Its sender's mark is as the sender counts, the quote as
    // the receiver does.
    let (sender, mark, shift) = match direction {
        Direction::Forward => (Direction::Reply, entry.reply_end, reply),
        Direction::Reply => (Direction::Forward, entry.forward_end, forward),
    };
    // The server has seen nothing of the client yet, and the marks mean something else.
    if entry.state == TcpState::SynProxied {
        return false;
    }
    if quoted.key.protocol != Protocol::Tcp || !entry.scales.known(sender) {
        return true;
    }
    let sequence = quoted.sequence.wrapping_sub(shift);
    let window = entry.scales.window(direction);
    // The mark is what was acknowledged: its sender may be ahead of it.
    near(sequence, mark, window)
}
