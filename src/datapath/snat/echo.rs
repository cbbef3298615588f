//! Ping through SNAT (RFC 5508): an echo request from inside leaves with an address and an
//! identifier of the pool, and its replies find back. The identifier stands in a port's place, so the
//! session is like any other: `inside:identifier` to `remote:0`, with the timeout of UDP.
//!
//! An echo request from outside is for the pool's address itself, which Shunt answers.

use super::open;
use crate::datapath::established::next_hop;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::icmp;
use crate::datapath::lane::{Item, Lane};
use crate::datapath::note::Note;
use crate::datapath::onward;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::{LocalAddress, PortRole, Side};
use crate::datapath::verdict::Verdict;
use crate::rewrite::icmp_error::IcmpError;
use crate::session::Direction;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Flow, FlowKey, Protocol};
use crate::wire::{DropReason, checksum};

/// Where the checksum and the identifier stand in a message.
const CHECKSUM: usize = 2;
const IDENTIFIER: usize = 4;
/// The shortest echo message.
const ECHO_MIN: usize = 8;

/// Which echo message it is: request or reply.
fn direction<A: Family>(message: &[u8]) -> Option<Direction> {
    let (request, reply) = if A::V6 { (128, 129) } else { (8, 0) };
    match *message.first_chunk::<ECHO_MIN>()? {
        [kind, 0, ..] if kind == request => Some(Direction::Forward),
        [kind, 0, ..] if kind == reply => Some(Direction::Reply),
        _ => None,
    }
}

/// Passes an echo message between inside and outside. `None` when it is not one, or for this node
/// itself. `steer` says that the packet may have to go to another worker first.
#[cold]
#[inline(never)]
pub(in crate::datapath) fn handle<A: Family + IcmpError, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    frame_len: u16,
    steer: bool,
    now: u32,
) -> Option<Verdict> {
    if shared.snapshot.snat.is_empty() {
        return None;
    }
    let bytes = frame.bytes();
    let message = &bytes[A::TRANSPORT..usize::from(frame_len)];
    let direction = direction::<A>(message)?;
    let identifier = u16::from_be_bytes([message[IDENTIFIER], message[IDENTIFIER + 1]]);
    let (src, dst) = A::endpoints(bytes);
    let hop_limit = A::hop_limit(bytes);
    if !is_ours(shared, frame, direction, src, dst) {
        return None;
    }
    let (sport, dport) = match direction {
        Direction::Forward => (identifier, 0),
        Direction::Reply => (0, identifier),
    };
    let key = FlowKey { src, dst, sport, dport, protocol: Protocol::Icmp };
    if steer {
        let (address, port) = match direction {
            Direction::Forward => (src, identifier),
            Direction::Reply => (dst, identifier),
        };
        let owner = shared.snapshot.worker_of[A::bucket(shared.toeplitz, address, port)];
        if owner != shared.worker {
            return Some(Verdict::HandOff(owner, Note::None));
        }
    }
    let flow = Flow { key, tcp_flags: 0, hop_limit, frame_len };
    let hash = lane.table.hash(&key);
    let id = match (lane.table.find(hash, &key), direction) {
        (Some((id, _)), _) => id,
        (None, Direction::Reply) => return Some(Verdict::Drop(DropReason::SnatNoMapping)),
        (None, Direction::Forward) => {
            let item = Item::alone(flow, hash);
            match open::session(shared, lane, frame, &item, true, now)? {
                Ok(id) => id,
                Err(verdict) => return Some(verdict),
            }
        }
    };
    if hop_limit <= 1 {
        return Some(icmp::time_exceeded(shared, frame, &flow, now));
    }
    let entry = lane.table.get_mut(id);
    entry.last_seen = now;
    let (hop_ref, hop) = match next_hop(shared, entry, direction) {
        Ok(found) => found,
        Err(reason) => return Some(Verdict::Drop(reason)),
    };
    let mtu = shared.mtu(hop.port);
    if usize::from(frame_len) > ETHERNET + usize::from(mtu) {
        return Some(icmp::packet_too_big(shared, frame, &flow, mtu, now));
    }
    // Ethernet padding ends here.
    frame.set_len(usize::from(frame_len));
    let (to, _) = onward::translation(entry, direction);
    let identifier = match direction {
        Direction::Forward => to.sport,
        Direction::Reply => to.dport,
    };
    shared.counters.server(entry.server_id).count(direction, frame.bytes().len());
    translate(frame.bytes_mut(), to.src, to.dst, identifier);
    Some(onward::send(shared, frame, hop_ref, now))
}

/// Whether a request comes from inside and goes out, or a reply comes to a pool.
fn is_ours<A: Family, F: Frame>(
    shared: &Shared<F>,
    frame: &F,
    direction: Direction,
    src: A,
    dst: A,
) -> bool {
    let inside = A::inside(&shared.snapshot);
    let local = A::local(&shared.snapshot, dst);
    match direction {
        Direction::Forward => {
            let role = shared.snapshot.ports[usize::from(frame.rx_port().0)].role;
            local.is_none()
                && !dst.into().is_multicast()
                && !matches!(role, PortRole::Wire { side: Side::Client, .. })
                && inside.rule_of(src).is_some()
                && inside.rule_of(dst).is_none()
        }
        Direction::Reply => matches!(local, Some(LocalAddress::Pool(_))),
    }
}

/// Gives an echo message these addresses and this identifier, takes one off its hop limit and updates
/// its checksums by difference: a wrong one stays wrong.
fn translate<A: Family + IcmpError>(frame: &mut [u8], src: A, dst: A, identifier: u16) {
    let addresses = A::set_outer(frame, src, dst);
    let message = &mut frame[A::TRANSPORT..];
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let delta = checksum::add(addresses, checksum::delta16(word(IDENTIFIER), identifier));
    let sum = checksum::apply(word(CHECKSUM), delta);
    message[IDENTIFIER..IDENTIFIER + 2].copy_from_slice(&identifier.to_be_bytes());
    message[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}
