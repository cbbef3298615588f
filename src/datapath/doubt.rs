//! Sessions in doubt ([`TcpState::Contested`]) do not end before the side that is in doubt was asked: a
//! segment that any living TCP answers with an acknowledgement (RFC 9293 3.10.7.4), as a keep-alive
//! is (RFC 9293 3.8.4), with the number before the one that this side expects of its peer. The answer
//! restores the session ([`crate::session::connection`]). An end that is gone answers with a reset,
//! whose number is exactly its mark, or not at all; the session then ends.
//!
//! Forged acknowledgements may have moved the number ahead, into the window of a receiver, who then
//! has nothing to say: the second question stands as far back as windows reach.
//!
//! Questions are bounded in number. What finds no room waits for it, as long as resets do
//! ([`reset::PATIENCE_MS`]).

use super::family::Family;
use super::frame::Frame;
use super::limiter::TokenBucket;
use super::reset;
use super::shared::Shared;
use super::snat::hairpin;
use crate::session::{Aside, Entry, Extras, TcpState};
use crate::wire::flow::tcp_flags;

/// Questions a worker asks per second, and at once.
pub(super) const QUESTIONS: TokenBucket = TokenBucket::new(10_000, 1000);
/// How long an answer is waited for, in milliseconds.
const ANSWER_MS: u32 = 3_000;
/// The window in a question: small in any scale, and not 0, which would stop a sender that believes it.
const WINDOW: u16 = 512;

/// Asks about a session that expires, if it is in doubt. `false` when it should go on for now: it may
/// have got more time.
#[inline]
pub(super) fn on_expiry<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    aside: &Aside,
    now: u32,
) -> bool {
    entry.state != TcpState::Contested || !goes_on(shared, entry, aside, now)
}

#[cold]
#[inline(never)]
fn goes_on<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    aside: &Aside,
    now: u32,
) -> bool {
    let doubt = entry.doubt;
    if doubt.asked() >= doubt.tries() {
        return false;
    }
    if shared.room_to_originate() == 0 || !shared.questions.take(now) {
        let late = now.wrapping_sub(entry.last_seen.wrapping_add(entry.timeout));
        return !doubt.is_of_adoption() && late < reset::PATIENCE_MS;
    }
    ask(shared, entry, aside, now);
    entry.doubt = doubt.once_more();
    entry.last_seen = now;
    entry.timeout = ANSWER_MS;
    true
}

/// Asks the side in doubt. Without a next hop the question counts as one that was lost.
fn ask<A: Family, F: Frame>(shared: &mut Shared<F>, entry: &Entry<A>, aside: &Aside, now: u32) {
    let mut to = entry.doubt.question();
    // Of a hairpin session only the end inside is reached from here.
    if entry.extras.has(Extras::HAIRPIN) && hairpin::leaves_by(entry, to).is_some() {
        to = to.turned();
    }
    let (expected, acked) = reset::numbers(entry, aside, to);
    let back = match entry.doubt.asked() {
        0 => 1,
        _ => entry.scales.window(to.turned()) + 1,
    };
    let seq = expected.wrapping_sub(back);
    reset::send(shared, entry, to, (seq, acked), tcp_flags::ACK, WINDOW, now);
}
