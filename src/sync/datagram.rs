//! A datagram: a header of [`HEADER`] bytes with a MAC over everything, and records behind it.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | magic 0x5348, "SH" |
//! | 2 | 1 | [`VERSION`] |
//! | 3 | 1 | [`Kind`] |
//! | 4 | 1 | node id of the sender |
//! | 5 | 1 | worker of the sender |
//! | 6 | 1 | worker of the receiver, or [`SERVING`] |
//! | 7 | 1 | flags: bit 0 repeated |
//! | 8 | 8 | boot: the start of the sender's process |
//! | 16 | 8 | sequence |
//! | 24 | 4 | names the key ([`Keys::id`]) |
//! | 28 | 4 | reserved: 0 when sent, not looked at |
//! | 32 | 16 | MAC: the first half of the BLAKE3 keyed hash of the datagram with this field zero |
//!
//! [`open`] checks in the order of [`Refused`]. It does not judge sender, boot and sequence: that is
//! for [`Association`](super::Association), [`Receiver`](super::Receiver) and
//! [`Replay`](super::Replay).

use super::keys::{KeyId, Keys, MAC_LEN};
use super::record::Emit;
use crate::wire::bytes::{get, get_u16, set, set_u16};

/// Length of the header in bytes.
pub const HEADER: usize = 48;
/// Length of the longest datagram of records. One that carries a frame is as long as that needs.
pub const MAX: usize = 1400;
/// The version of the protocol that this is.
pub const VERSION: u8 = 1;
/// Instead of a worker of the receiver: the one that serves the sender's worker, whose number is that
/// of the sender's modulo the receiver's workers.
pub const SERVING: u8 = 255;

const MAGIC: u16 = 0x5348;
const REPEATED: u8 = 1;

mod field {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 2;
    pub(super) const KIND: usize = 3;
    pub(super) const NODE: usize = 4;
    pub(super) const WORKER: usize = 5;
    pub(super) const TO: usize = 6;
    pub(super) const FLAGS: usize = 7;
    pub(super) const BOOT: usize = 8;
    pub(super) const SEQUENCE: usize = 16;
    pub(super) const KEY_ID: usize = 24;
    pub(super) const RESERVED: usize = 28;
    pub(super) const MAC: usize = 32;
}

/// What is in a datagram, and how it is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Records of the worker's stream. They are numbered from 1 without a gap and can be asked for
    /// again.
    Stream = 0,
    /// Records about the streams and the nodes. Numbered by a counter per worker that only rises;
    /// what is lost is lost.
    Control = 1,
    /// A frame of the wire, from its Ethernet header on, behind a byte that names the port it came
    /// by. Numbered like control.
    Relay = 2,
}

impl Kind {
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Kind::Stream),
            1 => Some(Kind::Control),
            2 => Some(Kind::Relay),
            _ => None,
        }
    }
}

/// The header of a datagram, without what the MAC needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is in the datagram.
    pub kind: Kind,
    /// Node id of the sender.
    pub node: u8,
    /// Worker of the sender.
    pub worker: u8,
    /// Worker of the receiver, or [`SERVING`].
    pub to: u8,
    /// Whether the datagram is sent once more because it was asked for.
    pub repeated: bool,
    /// Names this start of the sender's process: random, never 0.
    pub boot: u64,
    /// The place of the datagram; see [`Kind`].
    pub sequence: u64,
}

/// Why a datagram is not accepted, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is shorter than magic and version, or else than the header.
    TooShort,
    /// It is not of this protocol.
    NotOurs,
    /// It is of this version of the protocol, which is not ours. Told before the MAC is looked at, so
    /// anybody can say so: only to be counted and shown.
    Version(u8),
    /// It is signed with a key that this node does not have.
    UnknownKey(KeyId),
    /// The MAC is wrong.
    BadMac,
    /// There is no such [`Kind`]; the MAC is right.
    BadKind(u8),
}

/// Reads a datagram: its header, and the records or the relayed frame behind it.
///
/// # Errors
/// [`Refused`].
pub fn open<'a>(bytes: &'a [u8], keys: &Keys) -> Result<(Header, &'a [u8]), Refused> {
    if bytes.len() <= field::VERSION {
        return Err(Refused::TooShort);
    }
    if get_u16(bytes, field::MAGIC) != MAGIC {
        return Err(Refused::NotOurs);
    }
    if bytes[field::VERSION] != VERSION {
        return Err(Refused::Version(bytes[field::VERSION]));
    }
    let Some((head, records)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(Refused::TooShort);
    };
    let id = get(head, field::KEY_ID);
    let mac = get(head, field::MAC);
    let mut signed = *head;
    set(&mut signed, field::MAC, [0; MAC_LEN]);
    match keys.verify(id, [&signed, records], &mac) {
        Some(true) => {}
        Some(false) => return Err(Refused::BadMac),
        None => return Err(Refused::UnknownKey(id)),
    }
    let Some(kind) = Kind::from_bits(head[field::KIND]) else {
        return Err(Refused::BadKind(head[field::KIND]));
    };
    let header = Header {
        kind,
        node: head[field::NODE],
        worker: head[field::WORKER],
        to: head[field::TO],
        repeated: head[field::FLAGS] & REPEATED != 0,
        boot: u64::from_be_bytes(get(head, field::BOOT)),
        sequence: u64::from_be_bytes(get(head, field::SEQUENCE)),
    };
    Ok((header, records))
}

/// Writes the header to the first [`HEADER`] bytes of `datagram` and signs all of it. What is behind
/// the header stays, so that a datagram can be sealed again with another header.
///
/// Panics when `datagram` is shorter than the header.
pub fn seal(datagram: &mut [u8], header: &Header, keys: &Keys) {
    let (head, records) = datagram.split_at_mut(HEADER);
    set_u16(head, field::MAGIC, MAGIC);
    head[field::VERSION] = VERSION;
    head[field::KIND] = header.kind as u8;
    head[field::NODE] = header.node;
    head[field::WORKER] = header.worker;
    head[field::TO] = header.to;
    head[field::FLAGS] = if header.repeated { REPEATED } else { 0 };
    set(head, field::BOOT, header.boot.to_be_bytes());
    set(head, field::SEQUENCE, header.sequence.to_be_bytes());
    set(head, field::KEY_ID, keys.id());
    set(head, field::RESERVED, [0; 4]);
    set(head, field::MAC, [0; MAC_LEN]);
    let mac = keys.sign([head, records]);
    set(head, field::MAC, mac);
}

/// A datagram that is being filled, in a buffer of its own (`[u8; MAX]`) or a borrowed one (`&mut
/// [u8]`).
#[derive(Clone, Debug)]
pub struct Builder<B> {
    buffer: B,
    length: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Builder<B> {
    /// An empty one. It takes up to [`MAX`] bytes, or as many as the buffer holds.
    ///
    /// Panics when the buffer does not hold a header.
    pub fn new(buffer: B) -> Self {
        assert!(buffer.as_ref().len() >= HEADER, "no room for the header");
        Builder { buffer, length: HEADER }
    }

    /// How many bytes of records it still takes.
    pub fn room(&self) -> usize {
        self.buffer.as_ref().len().min(MAX) - self.length
    }

    /// Its length in bytes, with the header.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no records in it.
    pub const fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    /// Appends a record, if there is room; says whether there was.
    #[must_use]
    pub fn push(&mut self, record: &impl Emit) -> bool {
        let length = record.length();
        if length > self.room() {
            return false;
        }
        record.emit(&mut self.buffer.as_mut()[self.length..self.length + length]);
        self.length += length;
        true
    }

    /// Appends these bytes, if there is room; says whether there was.
    #[must_use]
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        self.buffer.as_mut()[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        true
    }

    /// Takes everything out.
    pub const fn clear(&mut self) {
        self.length = HEADER;
    }

    /// Writes and signs the header; gives the finished datagram. It can be filled on and sealed again.
    pub fn seal(&mut self, header: &Header, keys: &Keys) -> &mut [u8] {
        let datagram = &mut self.buffer.as_mut()[..self.length];
        seal(datagram, header, keys);
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(first: u8) -> Keys {
        Keys::parse(&format!("{first:02x}{}", "12".repeat(31))).unwrap()
    }

    fn header() -> Header {
        Header {
            kind: Kind::Control,
            node: 1,
            worker: 3,
            to: SERVING,
            repeated: false,
            boot: 0x0102_0304_0506_0708,
            sequence: 0x1112_1314_1516_1718,
        }
    }

    #[test]
    fn layout() {
        let keys = keys(1);
        let mut builder = Builder::new([0xee; MAX]);
        assert!(builder.push_bytes(&[9, 2]));
        let bytes = builder.seal(&header(), &keys).to_vec();
        #[rustfmt::skip]
        assert_eq!(bytes[..24], [
            b'S', b'H', 1, 1, 1, 3, 255, 0,
            1, 2, 3, 4, 5, 6, 7, 8,
            0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        ]);
        assert_eq!((&bytes[24..28], &bytes[28..32]), (&keys.id()[..], &[0; 4][..]));
        assert_eq!(bytes[48..], [9, 2]);
        // The MAC, computed in one piece.
        let mut key = [0x12; 32];
        key[0] = 1;
        let mut signed = bytes.clone();
        signed[32..48].fill(0);
        assert_eq!(bytes[32..48], blake3::keyed_hash(&key, &signed).as_bytes()[..16]);
        assert_eq!(open(&bytes, &keys), Ok((header(), &[9, 2][..])));
    }

    #[test]
    fn what_is_refused_and_in_which_order() {
        let ours = keys(1);
        let mut builder = Builder::new([0; MAX]);
        assert!(builder.push_bytes(&[9, 2]));
        let good = builder.seal(&header(), &ours).to_vec();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(open(&good[..2], &ours), Err(Refused::TooShort));
        assert_eq!(open(&good[..47], &ours), Err(Refused::TooShort));
        assert_eq!(open(&with(0, b'T'), &ours), Err(Refused::NotOurs));
        // Of another version nothing but that is known: not how long it must be, nor its MAC.
        assert_eq!(open(&with(2, 2)[..3], &ours), Err(Refused::Version(2)));
        assert_eq!(open(&with(2, 0), &ours), Err(Refused::Version(0)));
        assert_eq!(open(&good, &keys(2)), Err(Refused::UnknownKey(ours.id())));
        assert_eq!(open(&good[..49], &ours), Err(Refused::BadMac));
        let mut kind = with(3, 3);
        kind[32..48].fill(0);
        let mac = ours.sign([&kind, &[]]);
        kind[32..48].copy_from_slice(&mac);
        assert_eq!(open(&kind, &ours), Err(Refused::BadKind(3)));
        // Every bit behind the version counts.
        for bit in 24..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let refused = open(&bytes, &ours).unwrap_err();
            assert!(matches!(refused, Refused::BadMac | Refused::UnknownKey(_)), "bit {bit}");
        }
    }

    #[test]
    fn a_stored_datagram_is_sealed_again() {
        let keys = keys(1);
        let mut builder = Builder::new([0; MAX]);
        assert!(builder.push_bytes(&[9, 3, 7]));
        let mut stored = builder.seal(&header(), &keys).to_vec();
        let again = Header { to: 2, repeated: true, ..header() };
        seal(&mut stored, &again, &keys);
        assert_eq!(open(&stored, &keys), Ok((again, &[9, 3, 7][..])));
    }

    #[test]
    fn room() {
        let mut builder = Builder::new([0; 2 * MAX]);
        assert_eq!((builder.room(), builder.is_empty()), (MAX - HEADER, true));
        assert!(builder.push_bytes(&[0; MAX - HEADER]));
        assert!(!builder.push_bytes(&[0]));
        assert_eq!((builder.room(), builder.len()), (0, MAX));
        builder.clear();
        assert!(builder.is_empty());
        let mut small = [0; HEADER + 1];
        assert_eq!(Builder::new(&mut small[..]).room(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0usize..4) {
            let keys = keys(1);
            // Magic, version, and the name of the key: as far as a stranger can get.
            if bytes.len() >= HEADER {
                if start > 0 { bytes[..2].copy_from_slice(b"SH"); }
                if start > 1 { bytes[2] = VERSION; }
                if start > 2 { bytes[24..28].copy_from_slice(&keys.id()); }
            }
            prop_assert!(open(&bytes, &keys).is_err());
        }
    }
}
