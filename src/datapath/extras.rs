//! What is done to the packets of some sessions beyond the rewrite ([`Extras`]): one call from the
//! established path, before addresses and ports are rewritten.

use super::family::Family;
use super::frame::Frame;
use super::pipeline::{Item, Shared};
use super::syn_proxy;
use super::verdict::Verdict;
use crate::rewrite::sequence::{self, Shifts};
use crate::session::{Direction, Extras, SessionId, Table};

/// Does what the session's extras say. The verdict, if the packet ends here.
#[inline(never)]
pub(super) fn apply<A: Family, F: Frame>(
    _shared: &mut Shared<F>,
    table: &mut Table<A>,
    frame: &mut F,
    _item: &Item<A>,
    id: SessionId,
    direction: Direction,
    _now: u32,
) -> Option<Verdict> {
    let extras = table.get(id).extras;
    if extras.has(Extras::SHIFTED) {
        let aside = table.aside(id);
        let shifts = Shifts {
            forward: aside.forward_shift,
            reply: aside.reply_shift,
            time: aside.time_shift,
        };
        sequence::shift::<A>(frame.bytes_mut(), direction, shifts);
    }
    if extras.has(Extras::PROXIED) {
        syn_proxy::adapt::<A>(frame.bytes_mut(), table.aside(id).note, direction);
    }
    None
}
