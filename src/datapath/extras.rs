//! What is done to the packets of some sessions beyond the rewrite ([`Extras`]): one call from the
//! established path, before addresses and ports are rewritten.

use super::family::Family;
use super::frame::Frame;
use super::pipeline::{Item, Shared};
use super::verdict::Verdict;
use crate::session::{Direction, Extras, SessionId, Table};

/// Does what the session's extras say. The verdict, if the packet ends here.
#[inline(never)]
pub(super) fn apply<A: Family, F: Frame>(
    _shared: &mut Shared<F>,
    table: &mut Table<A>,
    _frame: &mut F,
    _item: &Item<A>,
    id: SessionId,
    _direction: Direction,
    _now: u32,
) -> Option<Verdict> {
    debug_assert!(table.get(id).extras != Extras::NONE);
    None
}
