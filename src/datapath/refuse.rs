//! A packet that is dropped and whose sender is told at once: a TCP segment is answered with a
//! reset, a UDP datagram with an ICMP error. The frame becomes its answer and goes back to the MAC
//! address it came from, by the same port; a reset for a segment that the peer of a pair has given to
//! this node goes to the sender by the routes.

use super::established::hop_to;
use super::family::Family;
use super::frame::Frame;
use super::icmp;
use super::replica;
use super::segment;
use super::shared::Shared;
use super::verdict::Verdict;
use crate::rewrite::ethernet::{set_addresses, turn_round};
use crate::wire::flow::{Flow, Protocol, tcp_flags};
use crate::wire::{DropReason, tcp};

/// Drops the packet for `reason` and tells its sender, as often as the limit of resets or of ICMP errors
/// allows.
///
/// The reset has numbers that the sender accepts: those of the segment it answers (RFC 9293
/// 3.10.7.1). A reset is not answered, and neither is a fragment, which has no flags in its flow.
#[cold]
#[inline(never)]
pub(super) fn refuse<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    reason: DropReason,
    now: u32,
) -> Verdict {
    match flow.key.protocol {
        Protocol::Udp => icmp::port_unreachable(shared, frame, flow, reason, now),
        Protocol::Tcp => reset(shared, frame, flow, reason, now),
        // No service has it.
        Protocol::Icmp => Verdict::Drop(reason),
    }
}

fn reset<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    reason: DropReason,
    now: u32,
) -> Verdict {
    use tcp_flags::{ACK, RST};
    let port = frame.rx_port();
    let is_whole = flow.tcp_flags != 0;
    if !is_whole || flow.tcp_flags & RST != 0 || !shared.resets.take(now) {
        return Verdict::Drop(reason);
    }
    let segment =
        tcp::Packet::new_unchecked(&frame.bytes()[A::TRANSPORT..usize::from(flow.frame_len)]);
    let (seq, ack, flags) = if flow.tcp_flags & ACK != 0 {
        (segment.ack(), 0, RST)
    } else {
        (0, segment.seq().wrapping_add(segment.sequence_len()), RST | ACK)
    };
    let by_routes = match replica::is_given(shared, frame) {
        false => None,
        // Back to the peer, which would take its own address for forged.
        true => {
            let Shared { hops, snapshot, .. } = &mut *shared;
            let hop = hop_to(hops, snapshot, flow.key.src).ok().and_then(|hop| hops.get(hop));
            match hop.filter(|hop| hop.ready) {
                Some(hop) => Some((hop.port, hop.addresses)),
                None => return Verdict::Drop(reason),
            }
        }
    };
    if !frame.set_len(segment::frame_len::<A>(0)) {
        return Verdict::Drop(reason);
    }
    segment::emit(frame.bytes_mut(), &flow.key.reversed(), seq, ack, flags, 0, 0);
    if let Some((port, addresses)) = by_routes {
        set_addresses(frame.bytes_mut(), &addresses);
        return Verdict::Refuse(reason, port);
    }
    turn_round(frame.bytes_mut(), &shared.snapshot.ports[usize::from(port.0)].mac);
    Verdict::Refuse(reason, port)
}
