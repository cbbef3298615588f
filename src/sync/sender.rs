//! The sending side of one worker's stream.
//!
//! Records are written straight into the ring that keeps the last datagrams, so nothing is copied
//! when a datagram is sent or repeated. The ring has a place for the datagram that is being filled
//! and for those before it; what is older cannot be had any more.

use super::control::Gone;
use super::datagram::{HEADER, Header, Kind, MAX, SERVING, seal};
use super::keys::Keys;
use super::record::Emit;

/// How many datagrams are kept when nothing else is said.
pub const KEPT: usize = 1024;
/// How long a record waits for others to fill its datagram, in milliseconds.
pub const WAIT_MS: u32 = 1;
/// The most datagrams that one call repeats. Whoever misses more asks again.
pub const MAX_REPEATED: u16 = 64;

/// What is known of a datagram in the ring.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Its length in bytes.
    length: u16,
    /// New sessions of the stream up to and with it (wrapping).
    sessions: u32,
}

/// What became of a request for datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Repeated {
    /// How many were sent once more.
    pub datagrams: u16,
    /// What is to be told, since some are not kept any more.
    pub gone: Option<Gone>,
}

/// The sending side of one worker's stream.
#[derive(Debug)]
pub struct Sender {
    node: u8,
    worker: u8,
    boot: u64,
    /// [`MAX`] bytes for each of `slots`; a datagram is in the place of its sequence.
    bytes: Box<[u8]>,
    slots: Box<[Slot]>,
    /// The sequence of the datagram that is being filled.
    open: u64,
    /// Its length in bytes, with the header.
    length: usize,
    /// When its first record was written.
    since: u32,
    /// New sessions of the stream (wrapping), those of the open datagram included.
    sessions: u32,
    /// Whether there is a peer that has to acknowledge.
    has_peer: bool,
    /// Everything up to and with this sequence is acknowledged, or was sent before there was a peer.
    acknowledged: u64,
    /// [`Slot::sessions`] of that one.
    sessions_acknowledged: u32,
}

impl Sender {
    /// A stream that begins. Takes the memory for `kept` datagrams, at least 2.
    pub fn new(node: u8, worker: u8, boot: u64, kept: usize) -> Self {
        let kept = kept.max(2);
        Sender {
            node,
            worker,
            boot,
            bytes: vec![0; kept * MAX].into(),
            slots: vec![Slot::default(); kept].into(),
            open: 1,
            length: HEADER,
            since: 0,
            sessions: 0,
            has_peer: false,
            acknowledged: 0,
            sessions_acknowledged: 0,
        }
    }

    /// Appends a record to the open datagram, if there is room; says whether there was. If not, the
    /// caller takes the datagram by [`Sender::close`], sends it and tries again.
    #[must_use]
    pub fn push(&mut self, record: &impl Emit, now: u32) -> bool {
        let length = record.length();
        if length > MAX - self.length {
            return false;
        }
        if self.is_empty() {
            self.since = now;
        }
        let start = self.place(self.open) * MAX + self.length;
        record.emit(&mut self.bytes[start..start + length]);
        self.length += length;
        true
    }

    /// The same of a session that the peer does not know yet: it counts as unacknowledged until the
    /// datagram is acknowledged.
    #[must_use]
    pub fn push_new(&mut self, record: &impl Emit, now: u32) -> bool {
        let pushed = self.push(record, now);
        self.sessions = self.sessions.wrapping_add(u32::from(pushed));
        pushed
    }

    /// Whether nothing waits to be sent.
    pub const fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    /// How many bytes of records the open datagram still takes.
    pub const fn room(&self) -> usize {
        MAX - self.length
    }

    /// Whether the oldest record that was not sent has waited for [`WAIT_MS`].
    pub const fn is_due(&self, now: u32) -> bool {
        !self.is_empty() && now.wrapping_sub(self.since) >= WAIT_MS
    }

    /// Numbers and signs the open datagram and gives it to be sent; `None` when it is empty.
    pub fn close(&mut self, keys: &Keys) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        let place = self.place(self.open);
        self.slots[place] = Slot { length: self.length as u16, sessions: self.sessions };
        self.open += 1;
        self.length = HEADER;
        let header = self.header(self.open - 1, false);
        let datagram = datagram(&mut self.bytes, &self.slots, place);
        seal(datagram, &header, keys);
        Some(datagram)
    }

    /// The sequence of the last datagram that was closed; 0 when none was.
    pub const fn highest(&self) -> u64 {
        self.open - 1
    }

    /// There is a new peer: what was sent up to now is not for it, since it asks for all sessions. Those
    /// count again as they are sent.
    pub fn associate(&mut self) {
        self.has_peer = true;
        self.acknowledged = self.highest();
        self.sessions_acknowledged = self.sessions;
    }

    /// There is no peer any more, so nothing needs to be acknowledged.
    pub const fn dissociate(&mut self) {
        self.has_peer = false;
    }

    /// The peer has everything up to and with this sequence. Less than was known, or more than was
    /// sent, is ignored.
    pub fn acknowledged(&mut self, contiguous: u64) {
        if contiguous <= self.acknowledged || contiguous > self.highest() {
            return;
        }
        // What is acknowledged later than it is kept counts as the oldest that is.
        let kept = contiguous.max(self.oldest());
        self.acknowledged = contiguous;
        if kept <= self.highest() {
            self.sessions_acknowledged = self.slots[self.place(kept)].sessions;
        }
    }

    /// Datagrams sent and not yet acknowledged; 0 without a peer.
    pub const fn lag(&self) -> u64 {
        if self.has_peer { self.highest() - self.acknowledged } else { 0 }
    }

    /// New sessions of the stream that are not yet acknowledged, those in the open datagram included; 0
    /// without a peer, when nobody acknowledges anything. What was never put into the stream for the
    /// present peer is not among them.
    pub const fn unacknowledged(&self) -> u32 {
        if self.has_peer { self.sessions.wrapping_sub(self.sessions_acknowledged) } else { 0 }
    }

    /// Gives `out` the datagrams `from` and the next ones, `count` of them and at most
    /// [`MAX_REPEATED`], signed anew as repetitions. Those that were not sent yet are ignored.
    pub fn repeat(
        &mut self,
        from: u64,
        count: u16,
        keys: &Keys,
        mut out: impl FnMut(&[u8]),
    ) -> Repeated {
        let mut result = Repeated::default();
        let (from, end) = (from.max(1), from.saturating_add(u64::from(count)));
        let oldest = self.oldest();
        if from < oldest && from < end {
            result.gone = Some(Gone { through: oldest - 1 });
        }
        let end = end.min(self.open);
        for sequence in (from.max(oldest)..end).take(usize::from(MAX_REPEATED)) {
            let header = self.header(sequence, true);
            let place = self.place(sequence);
            let datagram = datagram(&mut self.bytes, &self.slots, place);
            seal(datagram, &header, keys);
            out(datagram);
            result.datagrams += 1;
        }
        result
    }

    /// The sequence of the oldest datagram that is kept. The place of the open one counts as taken.
    fn oldest(&self) -> u64 {
        self.open.saturating_sub(self.slots.len() as u64 - 1).max(1)
    }

    fn place(&self, sequence: u64) -> usize {
        (sequence % self.slots.len() as u64) as usize
    }

    const fn header(&self, sequence: u64, repeated: bool) -> Header {
        Header {
            kind: Kind::Stream,
            node: self.node,
            worker: self.worker,
            to: SERVING,
            repeated,
            boot: self.boot,
            sequence,
        }
    }
}

/// The datagram in this place of the ring.
fn datagram<'a>(bytes: &'a mut [u8], slots: &[Slot], place: usize) -> &'a mut [u8] {
    let start = place * MAX;
    &mut bytes[start..start + usize::from(slots[place].length)]
}

#[cfg(test)]
mod tests {
    use super::super::control::Digest;
    use super::super::datagram::open;
    use super::*;

    fn keys() -> Keys {
        Keys::parse(&"0123456789abcdef".repeat(4)).unwrap()
    }

    fn record(xor: u64) -> Digest {
        Digest { bucket: 1, count: 1, xor }
    }

    /// Closes a datagram with one new session.
    fn send(sender: &mut Sender) -> Vec<u8> {
        assert!(sender.push_new(&record(sender.highest()), 0));
        sender.close(&keys()).unwrap().to_vec()
    }

    #[test]
    fn records_fill_a_datagram() {
        let mut sender = Sender::new(0, 2, 7, 4);
        assert_eq!(sender.close(&keys()), None);
        assert!(!sender.is_due(0));
        let full = (MAX - HEADER) / Digest::LEN;
        for n in 0..full {
            assert!(sender.push(&record(n as u64), u32::MAX));
        }
        assert!(!sender.push(&record(0), 0) && sender.room() < Digest::LEN);
        assert!(!sender.is_due(u32::MAX));
        assert!(sender.is_due(0));
        let (header, records) = open(sender.close(&keys()).unwrap(), &keys()).unwrap();
        assert_eq!(records.len(), full * Digest::LEN);
        let expected = Header {
            kind: Kind::Stream,
            node: 0,
            worker: 2,
            to: SERVING,
            repeated: false,
            boot: 7,
            sequence: 1,
        };
        assert_eq!(header, expected);
        assert_eq!((sender.highest(), sender.is_empty()), (1, true));
    }

    #[test]
    fn what_is_asked_for_is_repeated_as_far_as_it_is_kept() {
        let mut sender = Sender::new(0, 0, 7, 4);
        let sent: Vec<_> = (0..6).map(|_| send(&mut sender)).collect();
        let mut ask = |from, count| {
            let mut got = Vec::new();
            let result = sender.repeat(from, count, &keys(), |datagram| {
                let (header, records) = open(datagram, &keys()).unwrap();
                assert!(header.repeated);
                assert_eq!(records, &sent[header.sequence as usize - 1][HEADER..]);
                got.push(header.sequence);
            });
            assert_eq!(usize::from(result.datagrams), got.len());
            (got, result.gone.map(|gone| gone.through))
        };
        // Of four places one is for the datagram that comes next.
        assert_eq!(ask(4, 3), (vec![4, 5, 6], None));
        assert_eq!(ask(5, 1), (vec![5], None));
        assert_eq!(ask(1, 2), (vec![], Some(3)));
        assert_eq!(ask(2, 4), (vec![4, 5], Some(3)));
        assert_eq!(ask(6, u16::MAX), (vec![6], None));
        assert_eq!(ask(7, 10), (vec![], None));
        assert_eq!(ask(0, 0), (vec![], None));
        assert_eq!(ask(u64::MAX, u16::MAX), (vec![], None));
    }

    #[test]
    fn a_call_is_bounded() {
        let mut sender = Sender::new(0, 0, 7, 1000);
        for _ in 0..500 {
            send(&mut sender);
        }
        let mut count = 0;
        assert_eq!(sender.repeat(1, 500, &keys(), |_| count += 1).datagrams, MAX_REPEATED);
        assert_eq!(count, MAX_REPEATED);
    }

    #[test]
    fn what_is_not_acknowledged() {
        let mut sender = Sender::new(0, 0, 7, 4);
        let gauges = |sender: &Sender| (sender.lag(), sender.unacknowledged());
        send(&mut sender);
        assert_eq!(gauges(&sender), (0, 0), "nobody is there to acknowledge");
        sender.associate();
        assert_eq!(gauges(&sender), (0, 0), "that was before");
        for _ in 0..3 {
            send(&mut sender);
        }
        assert!(sender.push_new(&record(0), 0) && sender.push(&record(0), 0));
        assert_eq!(gauges(&sender), (3, 4));
        sender.acknowledged(2);
        assert_eq!(gauges(&sender), (2, 3));
        for nonsense in [0, 1, 5, u64::MAX] {
            sender.acknowledged(nonsense);
            assert_eq!(gauges(&sender), (2, 3), "{nonsense}");
        }
        sender.acknowledged(4);
        assert_eq!(gauges(&sender), (0, 1));
        sender.close(&keys()).unwrap();
        for _ in 0..9 {
            send(&mut sender);
        }
        assert_eq!(gauges(&sender), (10, 10));
        // Acknowledged when it is long not kept any more: the sessions up to the oldest that is.
        sender.acknowledged(6);
        assert_eq!(gauges(&sender), (8, 2));
        sender.acknowledged(14);
        assert_eq!(gauges(&sender), (0, 0));
        send(&mut sender);
        sender.dissociate();
        assert_eq!(gauges(&sender), (0, 0));
    }
}
