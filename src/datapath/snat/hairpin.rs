//! Hairpinning (RFC 4787 section 6, RFC 5382 section 7.2): a host inside sends to the outer endpoint
//! of another. Its packet gets its own outer endpoint as source, as it would on the way out, and then
//! goes through the pipeline of the worker that has the other's session, as if it came from outside.
//! So there are two sessions, and each end sees only outer endpoints.

use super::state::Ends;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Item;
use crate::datapath::note::Note;
use crate::datapath::onward;
use crate::datapath::shared::Shared;
use crate::datapath::verdict::Verdict;
use crate::rewrite::transport_checksum;
use crate::session::{Direction, Entry, SessionId, Table};
use crate::wire::flow::FlowKey;

/// Rewrites a packet of a hairpin session that goes towards the pool and hands it on. `None` when it
/// comes from there: it is then like any other.
#[cold]
#[inline(never)]
pub(in crate::datapath) fn apply<A: Family, F: Frame>(
    shared: &Shared<F>,
    table: &Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
) -> Option<Verdict> {
    let entry = table.get(id);
    let to = leaves_by(entry, direction)?;
    shared.counters.server(entry.server_id).count(direction, frame.bytes().len());
    onward::translate(entry, frame.bytes_mut(), direction);
    if item.fill_checksum {
        transport_checksum::fill::<A>(frame.bytes_mut(), &item.flow);
    }
    let bucket = A::bucket(shared.toeplitz, to.dst, to.dport);
    Some(Verdict::HandOff(shared.snapshot.worker_of[bucket], Note::Hairpin))
}

/// With which key a packet of a hairpin session in this direction leaves, if that is towards the
/// pool.
pub(in crate::datapath) fn leaves_by<A: Family>(
    entry: &Entry<A>,
    direction: Direction,
) -> Option<FlowKey<A>> {
    let to = match direction {
        Direction::Forward => entry.reply_key(),
        Direction::Reply => entry.forward_key(),
    };
    (Ends::of(entry).from_inside == (direction == Direction::Forward)).then(|| to.reversed())
}

/// Whether this packet was sent by a host inside by way of the pool, so that its source is an address
/// of ours.
pub(in crate::datapath) fn is_on_its_way<F: Frame>(shared: &Shared<F>, frame: &F) -> bool {
    shared.steered && Note::decode(frame.note()) == Note::Hairpin
}
