//! The last steps of every packet of a session, whichever path it took: the rewrite, the count, the
//! Ethernet header.

use super::counters::ServerCounters;
use super::established::hold;
use super::family::Family;
use super::frame::Frame;
use super::shared::Shared;
use super::verdict::Verdict;
use crate::rewrite::ethernet;
use crate::rewrite::nat::Deltas;
use crate::session::{Direction, Entry, HopRef};
use crate::wire::flow::FlowKey;

/// With which key a packet of the session leaves that came in this direction, and how that changes
/// its checksums.
#[inline(always)]
pub(super) fn translation<A: Family>(
    entry: &Entry<A>,
    direction: Direction,
) -> (FlowKey<A>, Deltas) {
    let deltas = Deltas { ip: entry.delta_ip, transport: entry.delta_transport };
    match direction {
        Direction::Forward => (entry.reply_key().reversed(), deltas),
        Direction::Reply => (entry.forward_key().reversed(), deltas.reversed()),
    }
}

/// Rewrites a packet of the session.
#[inline(always)]
pub(super) fn translate<A: Family>(entry: &Entry<A>, bytes: &mut [u8], direction: Direction) {
    let (to, deltas) = translation(entry, direction);
    A::translate(bytes, &to, deltas);
}

impl ServerCounters {
    /// Counts a packet of one of the server's sessions, and its bytes.
    #[inline(always)]
    pub(super) fn count(&self, direction: Direction, bytes: usize) {
        let (packets, of_bytes) = match direction {
            Direction::Forward => (&self.forward_packets, &self.forward_bytes),
            Direction::Reply => (&self.reply_packets, &self.reply_bytes),
        };
        packets.add(1);
        of_bytes.add(bytes as u64);
    }
}

/// Sends a rewritten packet to its next hop, or holds it until that is known.
#[inline(always)]
pub(super) fn send<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    hop: HopRef,
    now: u32,
) -> Verdict {
    match shared.hops.get(hop) {
        Some(hop) if hop.ready => {
            ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
            Verdict::Forward(hop.port)
        }
        _ => hold(shared, hop, now),
    }
}
