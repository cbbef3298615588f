//! What is done to the packets of some sessions beyond the rewrite ([`Extras`]): one call from the
//! established path, before addresses and ports are rewritten.

use super::family::Family;
use super::frame::Frame;
use super::introduce;
use super::pipeline::{Item, Shared};
use super::snat::hairpin;
use super::syn_proxy;
use super::verdict::Verdict;
use crate::rewrite::sequence;
use crate::session::{Direction, Extras, SessionId, Table};

/// Does what the session's extras say. The verdict, if the packet ends here.
#[inline(never)]
pub(super) fn apply<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    _now: u32,
) -> Option<Verdict> {
    let extras = table.get(id).extras;
    debug_assert!(extras != Extras::NONE);
    if extras.has(Extras::INTRODUCED) {
        introduce::apply(shared, table, frame, item, id, direction);
    } else if extras.has(Extras::SHIFTED) {
        sequence::shift::<A>(frame.bytes_mut(), direction, table.aside(id).into());
    }
    if extras.has(Extras::PROXIED) {
        syn_proxy::adapt::<A>(frame.bytes_mut(), table.aside(id).note, direction);
    }
    // The last of all, for it rewrites the packet.
    if extras.has(Extras::HAIRPIN) {
        return hairpin::apply(shared, table, frame, item, id, direction);
    }
    None
}
