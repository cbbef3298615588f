//! The waiting room of fragments: frames in the order they came, those of one packet linked, and
//! those that may go in the order they go. Nothing here searches.

/// No place.
pub(super) const NIL: u16 = u16::MAX;

/// A place, in exactly one list: the free ones, those that wait, those that may go.
#[derive(Debug)]
struct Place<F> {
    frame: Option<F>,
    /// Whose it is.
    owner: u16,
    since: u32,
    /// Neighbours in the list.
    before: u16,
    after: u16,
    /// The next of the same owner, of those that wait.
    sibling: u16,
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u16,
    last: u16,
}

const EMPTY: List = List { first: NIL, last: NIL };

/// A room of fixed size.
#[derive(Debug)]
pub(super) struct Room<F> {
    places: Box<[Place<F>]>,
    free: List,
    waiting: List,
    ready: List,
    len: usize,
}

impl<F> Room<F> {
    /// An empty room of that many places, below 65,535.
    pub(super) fn new(size: usize) -> Self {
        let place =
            |_| Place { frame: None, owner: NIL, since: 0, before: NIL, after: NIL, sibling: NIL };
        let mut room = Room {
            places: (0..size).map(place).collect(),
            free: EMPTY,
            waiting: EMPTY,
            ready: EMPTY,
            len: 0,
        };
        for at in 0..size as u16 {
            append(&mut room.places, &mut room.free, at);
        }
        room
    }

    /// How many frames are in it.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no place free.
    pub(super) fn is_full(&self) -> bool {
        self.len == self.places.len()
    }

    /// Puts a frame in that waits. Returns its place. There must be one free.
    pub(super) fn put(&mut self, owner: u16, frame: F, now: u32) -> u16 {
        let at = self.occupy(owner, frame, now);
        append(&mut self.places, &mut self.waiting, at);
        at
    }

    /// Puts a frame in that may go. There must be a place free.
    pub(super) fn put_ready(&mut self, owner: u16, frame: F, now: u32) {
        let at = self.occupy(owner, frame, now);
        append(&mut self.places, &mut self.ready, at);
    }

    /// Says that `next` comes after `place` among those of their owner.
    pub(super) fn link(&mut self, place: u16, next: u16) {
        self.places[usize::from(place)].sibling = next;
    }

    /// Says that `first` and those linked behind it may go. NIL: none.
    pub(super) fn make_ready(&mut self, first: u16) {
        let mut at = first;
        while at != NIL {
            unlink(&mut self.places, &mut self.waiting, at);
            append(&mut self.places, &mut self.ready, at);
            at = self.places[usize::from(at)].sibling;
        }
    }

    /// Takes the next frame that may go, with its owner.
    pub(super) fn take_ready(&mut self) -> Option<(u16, F)> {
        let at = self.ready.first;
        if at == NIL {
            return None;
        }
        unlink(&mut self.places, &mut self.ready, at);
        let frame = self.vacate(at)?;
        Some((self.places[usize::from(at)].owner, frame))
    }

    /// The owner of the frame that has waited for longest, and since when.
    pub(super) fn oldest(&self) -> Option<(u16, u32)> {
        let place = self.places.get(usize::from(self.waiting.first))?;
        Some((place.owner, place.since))
    }

    /// Drops the waiting frame at this place. Returns the next of its owner.
    pub(super) fn remove_first(&mut self, at: u16) -> u16 {
        unlink(&mut self.places, &mut self.waiting, at);
        drop(self.vacate(at));
        self.places[usize::from(at)].sibling
    }

    /// Drops the waiting frame at this place and those linked behind it; how many. NIL: none.
    pub(super) fn remove(&mut self, first: u16) -> usize {
        let (mut at, mut removed) = (first, 0);
        while at != NIL {
            at = self.remove_first(at);
            removed += 1;
        }
        removed
    }

    fn occupy(&mut self, owner: u16, frame: F, now: u32) -> u16 {
        let at = self.free.first;
        unlink(&mut self.places, &mut self.free, at);
        let place = &mut self.places[usize::from(at)];
        place.frame = Some(frame);
        place.owner = owner;
        place.since = now;
        place.sibling = NIL;
        self.len += 1;
        at
    }

    fn vacate(&mut self, at: u16) -> Option<F> {
        append(&mut self.places, &mut self.free, at);
        self.len -= 1;
        self.places[usize::from(at)].frame.take()
    }

    /// Whether every place is in the list it should be in.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let count = |list: List, full: bool| {
            let mut n = 0;
            let mut at = list.first;
            while at != NIL {
                assert_eq!(self.places[usize::from(at)].frame.is_some(), full);
                n += 1;
                at = self.places[usize::from(at)].after;
            }
            n
        };
        let occupied = count(self.waiting, true) + count(self.ready, true);
        occupied == self.len && occupied + count(self.free, false) == self.places.len()
    }
}

fn append<F>(places: &mut [Place<F>], list: &mut List, at: u16) {
    places[usize::from(at)].before = list.last;
    places[usize::from(at)].after = NIL;
    match places.get_mut(usize::from(list.last)) {
        Some(last) => last.after = at,
        None => list.first = at,
    }
    list.last = at;
}

fn unlink<F>(places: &mut [Place<F>], list: &mut List, at: u16) {
    let Place { before, after, .. } = places[usize::from(at)];
    match places.get_mut(usize::from(before)) {
        Some(place) => place.after = after,
        None => list.first = after,
    }
    match places.get_mut(usize::from(after)) {
        Some(place) => place.before = before,
        None => list.last = before,
    }
}
