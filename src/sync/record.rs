//! Records: a type (1 byte), the length of the whole record (1 byte), and its fields in order, big
//! endian. The table is in [`super`].
//!
//! A record of a type that is not known is skipped. One that is longer than its fields is read as far
//! as they are known; one that is shorter, or has a field with a value that means nothing, is
//! malformed and skipped. So fields can be added at the end, and types, without a new version.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::control::{Ack, Begin, Digest, End, Gone, Hello, Nak, Port, Want};
use super::cursor::Take;
use super::session::{Close, Persist, Session, Touch};

/// The types of records. Those with an address are of IPv4; the number after them is the same of IPv6.
pub mod kind {
    use crate::sync::family::Wire;

    /// [`Session`](super::Session).
    pub const SESSION: u8 = 1;
    /// [`Close`](super::Close).
    pub const CLOSE: u8 = 3;
    /// [`Touch`](super::Touch).
    pub const TOUCH: u8 = 5;
    /// [`Persist`](super::Persist).
    pub const PERSIST: u8 = 7;
    /// [`Begin`](super::Begin).
    pub const BEGIN: u8 = 9;
    /// [`End`](super::End).
    pub const END: u8 = 10;
    /// [`Digest`](super::Digest).
    pub const DIGEST: u8 = 11;
    /// [`Hello`](super::Hello).
    pub const HELLO: u8 = 32;
    /// [`Ack`](super::Ack).
    pub const ACK: u8 = 33;
    /// [`Nak`](super::Nak).
    pub const NAK: u8 = 34;
    /// [`Gone`](super::Gone).
    pub const GONE: u8 = 35;
    /// [`Want`](super::Want).
    pub const WANT: u8 = 36;
    /// [`Port`](super::Port).
    pub const PORT: u8 = 37;

    /// The type of a record with addresses of this family.
    pub(in crate::sync) const fn of<A: Wire>(v4: u8) -> u8 {
        v4 + A::V6 as u8
    }
}

/// A record that can be written.
pub trait Emit {
    /// Its length in bytes, at most 255.
    fn length(&self) -> usize;
    /// Writes it to the start of `buffer` and says how long it is. Panics when there is no room.
    fn emit(&self, buffer: &mut [u8]) -> usize;
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the record of that name")]
pub enum Record {
    SessionV4(Session<Ipv4Addr>),
    SessionV6(Session<Ipv6Addr>),
    CloseV4(Close<Ipv4Addr>),
    CloseV6(Close<Ipv6Addr>),
    TouchV4(Touch<Ipv4Addr>),
    TouchV6(Touch<Ipv6Addr>),
    PersistV4(Persist<Ipv4Addr>),
    PersistV6(Persist<Ipv6Addr>),
    Begin(Begin),
    End(End),
    Digest(Digest),
    Hello(Hello),
    Ack(Ack),
    Nak(Nak),
    Gone(Gone),
    Want(Want),
    Port(Port),
    /// Of this type, which is not known.
    Unknown(u8),
}

/// A record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Its length is not right: nothing behind it can be read either.
    Length,
    /// Its fields, of this type, are not right. Those behind it can be read.
    Fields(u8),
}

/// The records in these bytes, in order.
pub const fn records(bytes: &[u8]) -> Records<'_> {
    Records { rest: bytes }
}

/// Iterator of [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let [kind, length, ..] = *rest else {
            return Some(Err(Malformed::Length));
        };
        let Some((record, rest)) = rest.split_at_checked(usize::from(length)) else {
            return Some(Err(Malformed::Length));
        };
        let Some(fields) = record.get(2..) else {
            return Some(Err(Malformed::Length));
        };
        self.rest = rest;
        Some(parse(kind, Take(fields)).ok_or(Malformed::Fields(kind)))
    }
}

impl std::iter::FusedIterator for Records<'_> {}

fn parse(kind: u8, fields: Take<'_>) -> Option<Record> {
    use kind::*;
    const SESSION_V6: u8 = SESSION + 1;
    const CLOSE_V6: u8 = CLOSE + 1;
    const TOUCH_V6: u8 = TOUCH + 1;
    const PERSIST_V6: u8 = PERSIST + 1;
    match kind {
        SESSION => Session::parse(fields).map(Record::SessionV4),
        SESSION_V6 => Session::parse(fields).map(Record::SessionV6),
        CLOSE => Close::parse(fields).map(Record::CloseV4),
        CLOSE_V6 => Close::parse(fields).map(Record::CloseV6),
        TOUCH => Touch::parse(fields).map(Record::TouchV4),
        TOUCH_V6 => Touch::parse(fields).map(Record::TouchV6),
        PERSIST => Persist::parse(fields).map(Record::PersistV4),
        PERSIST_V6 => Persist::parse(fields).map(Record::PersistV6),
        BEGIN => Begin::parse(fields).map(Record::Begin),
        END => End::parse(fields).map(Record::End),
        DIGEST => Digest::parse(fields).map(Record::Digest),
        HELLO => Hello::parse(fields).map(Record::Hello),
        ACK => Ack::parse(fields).map(Record::Ack),
        NAK => Nak::parse(fields).map(Record::Nak),
        GONE => Gone::parse(fields).map(Record::Gone),
        WANT => Want::parse(fields).map(Record::Want),
        PORT => Port::parse(fields).map(Record::Port),
        unknown => Some(Record::Unknown(unknown)),
    }
}
