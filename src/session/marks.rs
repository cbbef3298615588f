//! What a node that has a peer knows of each session beside the session itself: who owns it and what
//! the peer was told; and a digest of the sessions of each steering bucket, by which two nodes find out
//! whether they have the same.
//!
//! A session is **own** or **foreign**. The node that made it owns it: it alone ends the session by
//! timeout, and tells. The peer has a copy, which is foreign there. When the peer is gone for good
//! ([`Marks::begin_term`]), all its sessions become own, without a walk: a foreign mark counts only in
//! the term in which it was made.

use super::table::SessionId;
use crate::wire::toeplitz::BUCKETS;

/// How many sessions there are, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub count: u32,
    /// The XOR of their identities.
    pub xor: u64,
}

impl Tally {
    /// The tally of both.
    #[must_use]
    pub const fn with(self, other: Tally) -> Tally {
        Tally { count: self.count.wrapping_add(other.count), xor: self.xor ^ other.xor }
    }

    fn add(&mut self, identity: u64) {
        self.count = self.count.wrapping_add(1);
        self.xor ^= identity;
    }

    fn remove(&mut self, identity: u64) {
        self.count = self.count.wrapping_sub(1);
        self.xor ^= identity;
    }
}

/// The peer was told of it: it is in the digest.
const TOLD: u8 = 1;
/// It is a copy of the peer's.
const FOREIGN: u8 = 2;
/// Packets of it are perhaps seen by both nodes, or were seen by the other one for long.
const LOOSE: u8 = 4;
/// It stands in the list of changes.
const PENDING: u8 = 8;
/// Beside the bucket, which is below 128: the peer was asked whether the session lives.
const ASKED: u8 = 0x80;
/// The number of the walk of its bucket that confirmed it last, modulo 16.
const WALK_SHIFT: u8 = 4;

#[derive(Clone, Copy, Debug)]
struct Mark {
    born: u32,
    /// When the peer told of it or was told, in milliseconds (wrapping).
    told: u32,
    term: u16,
    bucket: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Mark>() == 12);

/// The marks of one table, by session, and the digests.
#[derive(Debug)]
pub struct Marks {
    marks: Box<[Mark]>,
    own: Box<[Tally; BUCKETS]>,
    foreign: Box<[Tally; BUCKETS]>,
    term: u16,
    owns: usize,
    copies: usize,
}

impl Marks {
    /// Memory for each session, in bytes.
    pub const BYTES: usize = size_of::<Mark>();

    /// For a table of this capacity.
    pub fn new(capacity: usize) -> Self {
        let mark = Mark { born: 0, told: 0, term: 0, bucket: 0, flags: 0 };
        Marks {
            marks: vec![mark; capacity + 1].into(),
            own: Box::new([Tally::default(); BUCKETS]),
            foreign: Box::new([Tally::default(); BUCKETS]),
            term: 1,
            owns: 0,
            copies: 0,
        }
    }

    fn mark(&self, id: SessionId) -> &Mark {
        &self.marks[id.0 as usize]
    }

    fn mark_mut(&mut self, id: SessionId) -> &mut Mark {
        &mut self.marks[id.0 as usize]
    }

    /// A session of this node begins; the peer does not know it yet. `born` tells it from others with
    /// the same key, before and after.
    pub fn begin(&mut self, id: SessionId, born: u32, bucket: usize, now: u32) {
        *self.mark_mut(id) = Mark { born, told: now, term: 0, bucket: bucket as u8, flags: 0 };
        self.owns += 1;
    }

    /// A copy of a session of the peer's begins.
    pub fn import(&mut self, id: SessionId, born: u32, bucket: usize, identity: u64, now: u32) {
        let term = self.term;
        let flags = FOREIGN | LOOSE;
        *self.mark_mut(id) = Mark { born, told: now, term, bucket: bucket as u8, flags };
        self.foreign[bucket].add(identity);
        self.copies += 1;
    }

    /// A session ends. Whether the peer has to be told: it is own, and the peer knows it.
    pub fn end(&mut self, id: SessionId, identity: u64) -> bool {
        let (foreign, told, bucket) = (self.is_foreign(id), self.is_told(id), self.bucket(id));
        self.mark_mut(id).flags = 0;
        if foreign {
            self.foreign[bucket].remove(identity);
            self.copies -= 1;
            return false;
        }
        if told {
            self.own[bucket].remove(identity);
        }
        self.owns -= 1;
        told
    }

    /// The peer is told of a session, for the first time or once more.
    pub fn tell(&mut self, id: SessionId, identity: u64, now: u32) {
        if !self.is_foreign(id) && !self.is_told(id) {
            let bucket = self.bucket(id);
            self.own[bucket].add(identity);
            self.mark_mut(id).flags |= TOLD;
        }
        self.mark_mut(id).told = now;
    }

    /// The session goes over to the peer, which claims it too.
    pub fn cede(&mut self, id: SessionId, identity: u64, now: u32) {
        if self.is_foreign(id) {
            return;
        }
        let bucket = self.bucket(id);
        if self.is_told(id) {
            self.own[bucket].remove(identity);
        }
        let term = self.term;
        let mark = self.mark_mut(id);
        mark.flags = mark.flags & !TOLD | FOREIGN | LOOSE;
        mark.term = term;
        mark.told = now;
        self.foreign[bucket].add(identity);
        self.owns -= 1;
        self.copies += 1;
    }

    /// All sessions of the peer become own, and the peer counts as told of them as far as digests go.
    pub fn begin_term(&mut self) {
        for (own, foreign) in self.own.iter_mut().zip(self.foreign.iter_mut()) {
            *own = own.with(std::mem::take(foreign));
        }
        self.owns += std::mem::take(&mut self.copies);
        self.term = self.term.checked_add(1).unwrap_or(1);
    }

    /// Whether it is a copy of a session of the peer's.
    pub fn is_foreign(&self, id: SessionId) -> bool {
        let mark = self.mark(id);
        mark.flags & FOREIGN != 0 && mark.term == self.term
    }

    /// Whether it was the peer's at some time.
    pub fn was_foreign(&self, id: SessionId) -> bool {
        self.mark(id).flags & FOREIGN != 0
    }

    /// Whether the peer was told of it, or has told of it: it is in a digest.
    pub fn is_told(&self, id: SessionId) -> bool {
        let mark = self.mark(id);
        mark.flags & TOLD != 0 || mark.flags & FOREIGN != 0 && mark.term != self.term
    }

    /// What tells it from others with the same key.
    pub fn born(&self, id: SessionId) -> u32 {
        self.mark(id).born
    }

    /// Its steering bucket.
    pub fn bucket(&self, id: SessionId) -> usize {
        usize::from(self.mark(id).bucket & !ASKED)
    }

    /// Says whether the peer is asked, before the session ends, if it lives; returns what was said before.
    pub fn ask(&mut self, id: SessionId, asked: bool) -> bool {
        let mark = self.mark_mut(id);
        let before = mark.bucket & ASKED != 0;
        mark.bucket = mark.bucket & !ASKED | if asked { ASKED } else { 0 };
        before
    }

    /// When the peer was told of it, or told of it, in milliseconds (wrapping).
    pub fn told(&self, id: SessionId) -> u32 {
        self.mark(id).told
    }

    /// The peer has told of it again.
    pub fn heard(&mut self, id: SessionId, now: u32) {
        self.mark_mut(id).told = now;
    }

    /// Whether packets of it are perhaps seen by both nodes: what this one knows of its numbers may
    /// then be old.
    pub fn is_loose(&self, id: SessionId) -> bool {
        self.mark(id).flags & LOOSE != 0
    }

    /// The peer sees packets of it too.
    pub fn loosen(&mut self, id: SessionId) {
        self.mark_mut(id).flags |= LOOSE;
    }

    /// Puts it on the list of changes. `false` when it stands there already.
    pub fn queue(&mut self, id: SessionId) -> bool {
        let mark = self.mark_mut(id);
        let new = mark.flags & PENDING == 0;
        mark.flags |= PENDING;
        new
    }

    /// Takes it off the list. `false` when it has ended meanwhile.
    pub fn unqueue(&mut self, id: SessionId) -> bool {
        let mark = self.mark_mut(id);
        let pending = mark.flags & PENDING != 0;
        mark.flags &= !PENDING;
        pending
    }

    /// The walk of its bucket with this number (modulo 16) has confirmed it.
    pub fn confirm(&mut self, id: SessionId, walk: u8) {
        let mark = self.mark_mut(id);
        mark.flags = mark.flags & ((1 << WALK_SHIFT) - 1) | walk << WALK_SHIFT;
    }

    /// The number of the walk that has confirmed it last, modulo 16.
    pub fn walk(&self, id: SessionId) -> u8 {
        self.mark(id).flags >> WALK_SHIFT
    }

    /// The digest of the own sessions of a bucket that the peer was told of.
    pub fn own(&self, bucket: usize) -> Tally {
        self.own[bucket]
    }

    /// The digest of the copies of a bucket.
    pub fn foreign(&self, bucket: usize) -> Tally {
        self.foreign[bucket]
    }

    /// How many own sessions there are, and how many copies.
    pub fn count(&self) -> (usize, usize) {
        (self.owns, self.copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(0);
    const B: SessionId = SessionId(1);

    #[test]
    fn only_what_was_told_is_in_the_digest() {
        let mut marks = Marks::new(4);
        marks.begin(A, 7, 3, 100);
        assert_eq!((marks.own(3), marks.count()), (Tally::default(), (1, 0)));
        marks.tell(A, 0xaa, 101);
        marks.tell(A, 0xaa, 102);
        assert_eq!((marks.own(3), marks.told(A)), (Tally { count: 1, xor: 0xaa }, 102));
        assert!(marks.end(A, 0xaa), "the peer must hear of it");
        assert_eq!((marks.own(3), marks.count()), (Tally::default(), (0, 0)));
        marks.begin(A, 8, 3, 200);
        assert!(!marks.end(A, 0xab), "nobody knows it");
    }

    #[test]
    fn the_peer_is_asked_once() {
        let mut marks = Marks::new(4);
        marks.begin(A, 7, 127, 100);
        assert!(!marks.ask(A, true) && marks.ask(A, true) && marks.bucket(A) == 127);
        assert!(marks.ask(A, false) && !marks.ask(A, true));
        marks.end(A, 0xaa);
        marks.begin(A, 8, 3, 200);
        assert!(!marks.ask(A, true), "another session");
    }

    #[test]
    fn copies_become_own_with_a_new_term() {
        let mut marks = Marks::new(4);
        marks.import(A, 7, 3, 0xaa, 100);
        marks.begin(B, 9, 3, 100);
        marks.tell(B, 0xbb, 100);
        assert!(marks.is_foreign(A) && !marks.is_foreign(B) && marks.is_loose(A));
        assert_eq!(marks.foreign(3), Tally { count: 1, xor: 0xaa });
        assert_eq!(marks.count(), (1, 1));
        marks.begin_term();
        assert!(!marks.is_foreign(A) && marks.was_foreign(A));
        assert_eq!(
            (marks.own(3), marks.foreign(3)),
            (Tally { count: 2, xor: 0x11 }, Tally::default())
        );
        assert_eq!(marks.count(), (2, 0));
        marks.tell(A, 0xaa, 200);
        assert_eq!(marks.own(3).count, 2, "it is there already");
        assert!(marks.end(A, 0xaa));
        assert_eq!(marks.own(3), Tally { count: 1, xor: 0xbb });
    }

    #[test]
    fn a_session_that_both_claim_goes_to_one() {
        let mut marks = Marks::new(4);
        marks.begin(A, 7, 5, 0);
        marks.tell(A, 0xaa, 0);
        marks.cede(A, 0xaa, 10);
        marks.cede(A, 0xaa, 20);
        assert!(marks.is_foreign(A));
        assert_eq!((marks.own(5), marks.foreign(5).count), (Tally::default(), 1));
        assert!(!marks.end(A, 0xaa));
        assert_eq!((marks.foreign(5), marks.count()), (Tally::default(), (0, 0)));
    }

    #[test]
    fn walks_confirm_and_changes_queue_once() {
        let mut marks = Marks::new(4);
        marks.import(A, 7, 5, 1, 0);
        marks.confirm(A, 3);
        assert_eq!(marks.walk(A), 3);
        assert!(marks.is_foreign(A) && marks.is_loose(A));
        assert!(marks.queue(A) && !marks.queue(A));
        assert!(marks.unqueue(A) && !marks.unqueue(A));
        marks.queue(A);
        marks.end(A, 1);
        assert!(!marks.unqueue(A));
    }
}
