//! The session table of one worker and one address family.
//!
//! A slab of fixed capacity holds the entries, an [`Index`] leads to them by either of their keys,
//! a [`Wheel`] ends them. All memory is allocated and touched when the table is made; afterwards no
//! operation depends on how many sessions there are. A full table refuses: it never ends a live
//! session to make room.
//!
//! A burst is looked up in stages, so that the memory fetches of its packets overlap:
//! [`Table::prefetch_bucket`] for all, [`Table::candidate`] and [`Table::prefetch_entry`] for all,
//! then [`Table::matches`]. When that fails, [`Table::find`] has the last word.
//!
//! Beyond the capacity there is one spare entry, which is in no index and no timer: it lends a packet
//! that leaves no session behind the shape of one ([`Table::borrow_spare`]).
//!
//! `now` is milliseconds on a clock that wraps (every 49.7 days); all calls for a table take it
//! from the same clock, and [`Table::expire`] is called at least every 24 days. Timeouts above
//! [`MAX_TIMEOUT`] count as that.

use std::hint::select_unpredictable;

use super::aside::Aside;
use super::entry::{Direction, Entry, TcpState};
use super::index::{Index, Ref};
use super::key::KeyHasher;
use super::new_session::{MAX_TIMEOUT, NewSession, unused_entry};
use super::wheel::{Links, NIL, TICK, Wheel};
use crate::prefetch;
use crate::wire::flow::{Address, FlowKey};

/// Empty ticks of the wheel that one call of [`Table::expire`] may pass: 8.2 s.
const TICKS_PER_CALL: u32 = 64;

/// A session of a [`Table`]; valid until the session is removed or expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// Why a session was refused. The table is then as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// As many sessions as the table has room for; raise `node.sessions`.
    #[error("the session table is full")]
    Full,
    /// A session has a key equal to the new one's forward key.
    #[error("a session with this client and virtual address exists")]
    ForwardInUse,
    /// A session has a key equal to the new one's reply key (or the new one's two keys are equal).
    #[error("another session uses the same addresses and ports towards the real server")]
    ReplyInUse,
    /// Both index buckets of a key are full and cannot be relieved: hardly ever happens.
    #[error("the index of the session table has no room for this key")]
    IndexFull,
}

/// Why a session is asked about ([`Table::expire_if`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Half of its timeout or more has passed since it was asked about last, and it is not over:
    /// packets came, or will be waited for. Only with [`Table::halve`].
    Half,
    /// It was idle for its timeout.
    Over,
}

/// What becomes of a session that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It ends; after [`Due::Half`] the same as `GoesOn`.
    Ends,
    /// It does not end now. It may have got more time (`last_seen`, `timeout`); otherwise it is asked
    /// about again a tick (128 ms) later, unless a packet comes for it.
    GoesOn,
    /// It does not end now, and is asked about again after that many milliseconds.
    After(u32),
}

/// The session table. See the module.
pub struct Table<A> {
    hasher: KeyHasher,
    index: Index,
    slab: Box<[Entry<A>]>,
    /// The other half of each entry.
    asides: Box<[Aside]>,
    wheel: Wheel,
    /// Whether entries come due at half of their timeout as well.
    halves: bool,
    /// First of the entries that were used and are free, linked by `next`.
    free: u32,
    /// Entries from here on were never used.
    fresh: u32,
    live: usize,
}

impl<A: Address> Table<A> {
    /// An empty table for `capacity` sessions (below 2^31). `seed` keys the hash: it must not be
    /// known to clients.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self::with_advice(capacity, seed, |_, _| ())
    }

    /// As [`Table::new`]; `advise` is called with the address and the length in bytes of each large
    /// block of memory after its allocation and before it is touched: the moment to ask the
    /// operating system for huge pages.
    pub fn with_advice(capacity: usize, seed: u64, mut advise: impl FnMut(usize, usize)) -> Self {
        assert!(capacity < 1 << 31, "more sessions than a table can number");
        let index = Index::new(capacity * 2, &mut advise);
        // One more: the spare entry.
        let entries = capacity + 1;
        let mut slab = Vec::with_capacity(entries);
        let spare = slab.spare_capacity_mut();
        advise(spare.as_ptr().addr(), size_of_val(spare));
        slab.resize(entries, unused_entry());
        let mut asides = Vec::with_capacity(entries);
        let spare = asides.spare_capacity_mut();
        advise(spare.as_ptr().addr(), size_of_val(spare));
        asides.resize(entries, Aside::new(0));
        Table {
            hasher: KeyHasher::new(seed),
            index,
            slab: slab.into_boxed_slice(),
            asides: asides.into_boxed_slice(),
            wheel: Wheel::new(),
            halves: false,
            free: NIL,
            fresh: 0,
            live: 0,
        }
    }

    /// The hash function, for other tables of the same worker.
    pub fn hasher(&self) -> KeyHasher {
        self.hasher
    }

    /// The hash of a key, for the calls below.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey<A>) -> u64 {
        self.hasher.hash(key)
    }

    /// Hints that [`Table::candidate`] is called soon.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The session that a packet with this hash most likely belongs to, and the way the packet
    /// goes. Its key is not verified.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<(SessionId, Direction)> {
        self.index.candidate(hash).map(|r| (SessionId(r.index()), r.direction()))
    }

    /// Hints that the entry is used soon.
    #[inline(always)]
    pub fn prefetch_entry(&self, id: SessionId) {
        let entry = &self.slab[id.0 as usize];
        prefetch::read(&entry.client);
        if A::V6 {
            prefetch::read(&entry.client_port);
        }
    }

    /// Whether a packet with this key belongs to that session in that direction. `id` may be that
    /// of a session that has ended meanwhile.
    #[inline(always)]
    pub fn matches(&self, id: SessionId, direction: Direction, key: &FlowKey<A>) -> bool {
        let entry = &self.slab[id.0 as usize];
        // Directions mix at random and a wrong guess costs more than both comparisons.
        let forward = difference(&entry.forward_key(), key);
        let reply = difference(&entry.reply_key(), key);
        let difference = select_unpredictable(direction == Direction::Forward, forward, reply);
        (difference == 0) & entry.live
    }

    /// The session with this key, and the way a packet with it goes.
    #[inline]
    pub fn find(&self, hash: u64, key: &FlowKey<A>) -> Option<(SessionId, Direction)> {
        self.index
            .find(hash, |r| self.matches(SessionId(r.index()), r.direction(), key))
            .map(|r| (SessionId(r.index()), r.direction()))
    }

    /// A session.
    #[inline(always)]
    pub fn get(&self, id: SessionId) -> &Entry<A> {
        let entry = &self.slab[id.0 as usize];
        debug_assert!(entry.live, "no session {}", id.0);
        entry
    }

    /// A session. A packet sets `last_seen`; the addresses, ports, protocol and mode never change,
    /// and state and timeout only by [`Table::set_state`].
    #[inline(always)]
    pub fn get_mut(&mut self, id: SessionId) -> &mut Entry<A> {
        let entry = &mut self.slab[id.0 as usize];
        debug_assert!(entry.live, "no session {}", id.0);
        entry
    }

    /// The other half of a session.
    #[inline]
    pub fn aside(&self, id: SessionId) -> &Aside {
        debug_assert!(self.slab[id.0 as usize].live, "no session {}", id.0);
        &self.asides[id.0 as usize]
    }

    /// The other half of a session, writable.
    #[inline]
    pub fn aside_mut(&mut self, id: SessionId) -> &mut Aside {
        debug_assert!(self.slab[id.0 as usize].live, "no session {}", id.0);
        &mut self.asides[id.0 as usize]
    }

    /// Adds a session. The reply key is indexed unless the mode is
    /// [one-way](super::Mode::one_way).
    pub fn insert(&mut self, new: NewSession<A>, now: u32) -> Result<SessionId, InsertError> {
        let Some(index) = self.free_entry() else {
            return Err(InsertError::Full);
        };
        let entry = new.into_entry(now);
        let replies = has_reply_key(&entry);
        let (forward_key, reply_key) = (entry.forward_key(), entry.reply_key());
        let (forward_hash, reply_hash) = (self.hash(&forward_key), self.hash(&reply_key));
        if replies {
            self.prefetch_bucket(reply_hash);
        }
        if self.find(forward_hash, &forward_key).is_some() {
            return Err(InsertError::ForwardInUse);
        }
        if replies && (forward_key == reply_key || self.find(reply_hash, &reply_key).is_some()) {
            return Err(InsertError::ReplyInUse);
        }

        let forward = Ref::new(index, Direction::Forward);
        let (slab, hasher) = (&mut self.slab, &self.hasher);
        let hash_of =
            |slab: &[Entry<A>], r: Ref| hasher.hash(&slab[r.index() as usize].key(r.direction()));
        if !self.index.insert(forward_hash, forward, |r| hash_of(slab, r)) {
            return Err(InsertError::IndexFull);
        }
        // The reply key may have to move the forward key: its entry must say what that is.
        slab[index as usize] = entry;
        let reply = Ref::new(index, Direction::Reply);
        if replies && !self.index.insert(reply_hash, reply, |r| hash_of(slab, r)) {
            self.slab[index as usize].live = false;
            self.index.remove(forward_hash, forward);
            return Err(InsertError::IndexFull);
        }

        self.use_entry(index);
        self.asides[index as usize] = Aside::new(now);
        if self.live == 0 {
            self.wheel.restart(now);
        }
        self.live += 1;
        let ahead = self.ahead(entry.timeout);
        self.wheel.file(&mut *self.asides, index, now.wrapping_add(ahead));
        Ok(SessionId(index))
    }

    /// Makes a session that is in no index and has no timer, in the spare entry, until
    /// [`Table::return_spare`]: for a packet that leaves no session behind. There is one.
    pub fn borrow_spare(&mut self, new: NewSession<A>, now: u32) -> SessionId {
        let index = self.capacity();
        self.slab[index] = new.into_entry(now);
        self.asides[index] = Aside::new(now);
        SessionId(index as u32)
    }

    /// Ends the session in the spare entry.
    pub fn return_spare(&mut self) {
        let index = self.capacity();
        self.slab[index].live = false;
    }

    /// Ends a session.
    pub fn remove(&mut self, id: SessionId) -> Entry<A> {
        assert!(self.slab[id.0 as usize].live, "no session {}", id.0);
        self.wheel.unlink(&mut *self.asides, id.0);
        self.release(id.0)
    }

    /// Changes the state of a session whose packet has just been seen, and its idle timeout
    /// (milliseconds, at most [`MAX_TIMEOUT`]), which counts from `now`.
    #[inline]
    pub fn set_state(&mut self, id: SessionId, state: TcpState, timeout_ms: u32, now: u32) {
        let entry = self.get_mut(id);
        let timeout = timeout_ms.min(MAX_TIMEOUT);
        // As long as timeouts only grow and packets only come later, the entry's slot comes due
        // before its deadline, and the wheel then files it again.
        let earlier = timeout < entry.timeout;
        entry.state = state;
        entry.timeout = timeout;
        entry.last_seen = now;
        if earlier {
            self.wheel.unlink(&mut *self.asides, id.0);
            let ahead = self.ahead(timeout);
            self.wheel.file(&mut *self.asides, id.0, now.wrapping_add(ahead));
        }
    }

    /// Ends sessions that have been idle for their timeout, calling `expired` with each. Looks at
    /// no more than `budget` entries and a bounded number of ticks: after a long pause it catches
    /// up over several calls. Returns how many sessions ended.
    ///
    /// A session never ends early; it ends at most 128 ms late, plus the time until the call that
    /// reaches it.
    pub fn expire(
        &mut self,
        now: u32,
        budget: usize,
        mut expired: impl FnMut(&Entry<A>, &Aside),
    ) -> usize {
        self.expire_if(now, budget, |due, _, entry, aside| {
            if due == Due::Over {
                expired(entry, aside);
            }
            Then::Ends
        })
    }

    /// Has sessions asked about when half of their timeout has passed as well, from the next time on
    /// that they are: for whoever tells others of them.
    pub fn halve(&mut self) {
        self.halves = true;
    }

    /// As [`Table::expire`]; `ask` says what becomes of a session that came due.
    pub fn expire_if(
        &mut self,
        now: u32,
        budget: usize,
        mut ask: impl FnMut(Due, SessionId, &mut Entry<A>, &Aside) -> Then,
    ) -> usize {
        if self.live == 0 {
            self.wheel.restart(now);
            return 0;
        }
        let mut ticks = TICKS_PER_CALL;
        let mut ended = 0;
        for _ in 0..budget {
            let Some(index) = self.wheel.next_due(&mut *self.asides, now, &mut ticks) else {
                break;
            };
            let id = SessionId(index);
            let entry = &mut self.slab[index as usize];
            let deadline = entry.last_seen.wrapping_add(entry.timeout);
            let left = deadline.wrapping_sub(now) as i32;
            let then = match left > 0 {
                true if self.halves => ask(Due::Half, id, entry, &self.asides[index as usize]),
                true => Then::GoesOn,
                false => ask(Due::Over, id, entry, &self.asides[index as usize]),
            };
            let (entry_timeout, last_seen) = (entry.timeout, entry.last_seen);
            match then {
                Then::Ends if left <= 0 => {
                    self.release(index);
                    ended += 1;
                }
                Then::After(ms) => {
                    self.wheel.file(&mut *self.asides, index, now.wrapping_add(ms.max(TICK)));
                }
                Then::Ends | Then::GoesOn => {
                    let deadline = last_seen.wrapping_add(entry_timeout);
                    let least = if left > 0 { 1 } else { TICK as i32 };
                    let ahead = (deadline.wrapping_sub(now) as i32).max(least) as u32;
                    let ahead = ahead.min(self.ahead(entry_timeout).max(TICK));
                    self.wheel.file(&mut *self.asides, index, now.wrapping_add(ahead));
                }
            }
        }
        ended
    }

    /// In how many milliseconds a session with this timeout is asked about.
    #[inline]
    fn ahead(&self, timeout: u32) -> u32 {
        if self.halves { timeout / 2 } else { timeout }
    }

    /// How many sessions there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no session.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many sessions there can be.
    pub fn capacity(&self) -> usize {
        self.slab.len() - 1
    }

    /// Visits the sessions in at most `budget` entries from `cursor` on, which starts at 0 and is
    /// moved on. Returns whether it has come to the end. A session that lives from the first call to
    /// the last is visited exactly once.
    pub fn walk(
        &self,
        cursor: &mut usize,
        budget: usize,
        mut visit: impl FnMut(SessionId, &Entry<A>),
    ) -> bool {
        let used = self.fresh as usize;
        let start = (*cursor).min(used);
        let end = start.saturating_add(budget).min(used);
        for (index, entry) in (start..end).zip(&self.slab[start..end]) {
            if entry.live {
                visit(SessionId(index as u32), entry);
            }
        }
        *cursor = end;
        end == used
    }

    /// The memory of the table, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_blocks().iter().map(|&(_, bytes)| bytes).sum::<usize>()
            + size_of::<Self>()
            + Wheel::MEMORY_BYTES
    }

    /// Address and length in bytes of its large blocks of memory: index and both
    /// halves of the slab.
    pub fn memory_blocks(&self) -> [(usize, usize); 3] {
        [
            self.index.memory(),
            (self.slab.as_ptr().addr(), size_of_val(&*self.slab)),
            (self.asides.as_ptr().addr(), size_of_val(&*self.asides)),
        ]
    }

    /// The entry that the next session will have; [`Table::use_entry`] takes it.
    fn free_entry(&self) -> Option<u32> {
        if self.free != NIL {
            Some(self.free)
        } else if (self.fresh as usize) < self.capacity() {
            Some(self.fresh)
        } else {
            None
        }
    }

    fn use_entry(&mut self, index: u32) {
        if index == self.free {
            self.free = self.asides[index as usize].next;
        } else {
            self.fresh += 1;
        }
    }

    /// Takes an entry that is out of the wheel from the index and puts it on the free list.
    fn release(&mut self, index: u32) -> Entry<A> {
        let entry = self.slab[index as usize];
        let (forward, reply) = (self.hash(&entry.forward_key()), self.hash(&entry.reply_key()));
        let replies = has_reply_key(&entry);
        if replies {
            self.prefetch_bucket(reply);
        }
        let mut indexed = self.index.remove(forward, Ref::new(index, Direction::Forward));
        if replies {
            indexed &= self.index.remove(reply, Ref::new(index, Direction::Reply));
        }
        debug_assert!(indexed, "session {index} was not in the index");
        let slot = &mut self.slab[index as usize];
        slot.live = false;
        let aside = &mut self.asides[index as usize];
        aside.next = self.free;
        aside.prev = NIL;
        self.free = index;
        self.live -= 1;
        entry
    }
}

/// In direct return the server answers the client itself, with the key of the client's own flow
/// turned round: Shunt does not see it.
#[inline(always)]
fn has_reply_key<A>(entry: &Entry<A>) -> bool {
    !entry.mode.one_way()
}

/// 0 when the keys are equal; without a branch.
#[inline(always)]
fn difference<A: Address>(a: &FlowKey<A>, b: &FlowKey<A>) -> u64 {
    let address = |a: A, b: A| {
        let (a, b) = (a.folded(), b.folded());
        (a[0] ^ b[0]) | (a[1] ^ b[1])
    };
    let rest = |k: &FlowKey<A>| {
        u64::from(k.sport) | u64::from(k.dport) << 16 | u64::from(k.protocol.number()) << 32
    };
    address(a.src, b.src) | address(a.dst, b.dst) | (rest(a) ^ rest(b))
}

impl Links for [Aside] {
    #[inline(always)]
    fn next(&self, index: u32) -> u32 {
        self[index as usize].next
    }
    #[inline(always)]
    fn set_next(&mut self, index: u32, link: u32) {
        self[index as usize].next = link;
    }
    #[inline(always)]
    fn prev(&self, index: u32) -> u32 {
        self[index as usize].prev
    }
    #[inline(always)]
    fn set_prev(&mut self, index: u32, link: u32) {
        self[index as usize].prev = link;
    }
    #[inline(always)]
    fn prefetch(&self, index: u32) {
        prefetch::read(&self[index as usize].next);
    }
}

#[cfg(test)]
mod tests;
