//! Writing and reading the fields of a record one after the other.

use std::net::{IpAddr, Ipv6Addr};

use super::family::Wire;

/// Writes fields. Panics when the buffer is too short: the caller has asked how long the record is.
pub(super) struct Put<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Put<'a> {
    /// Begins a record of this type and length.
    pub(super) fn record(buffer: &'a mut [u8], kind: u8, length: usize) -> Self {
        debug_assert!(length <= usize::from(u8::MAX));
        let mut put = Put { buffer, at: 0 };
        put.u8(kind);
        put.u8(length as u8);
        put
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }
    pub(super) fn u128(&mut self, value: u128) {
        self.bytes(&value.to_be_bytes());
    }
    pub(super) fn address<A: Wire>(&mut self, address: A) {
        address.put(&mut self.buffer[self.at..self.at + A::LEN]);
        self.at += A::LEN;
    }
    /// 16 bytes; an IPv4 address is mapped (RFC 4291 2.5.5.2).
    pub(super) fn ip(&mut self, address: IpAddr) {
        let v6 = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        self.bytes(&v6.octets());
    }
    /// How many bytes were written.
    pub(super) const fn written(&self) -> usize {
        self.at
    }
}

/// Reads fields; `None` when the record ends before.
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl Take<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes().map(u8::from_be_bytes)
    }
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }
    pub(super) fn u128(&mut self) -> Option<u128> {
        self.bytes().map(u128::from_be_bytes)
    }
    pub(super) fn address<A: Wire>(&mut self) -> Option<A> {
        let address = A::get(self.0)?;
        self.0 = &self.0[A::LEN..];
        Some(address)
    }
    pub(super) fn ip(&mut self) -> Option<IpAddr> {
        self.bytes().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
    }
}
