//! The records about buckets, streams and nodes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::cursor::{Put, Take};
use super::record::{Emit, kind};
use crate::wire::Mac;

/// The number of steering buckets.
pub const BUCKETS: usize = 128;

/// Defines records that hold a set of buckets.
macro_rules! bucket_sets {
    ($($(#[$doc:meta])* $name:ident = $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub u128);

        impl $name {
            /// Length of the record.
            pub const LEN: usize = 18;

            pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
                record.u128().map($name)
            }
        }

        impl Emit for $name {
            fn length(&self) -> usize {
                Self::LEN
            }

            fn emit(&self, buffer: &mut [u8]) -> usize {
                let mut put = Put::record(buffer, kind::$kind, Self::LEN);
                put.u128(self.0);
                put.written()
            }
        }
    )*};
}

bucket_sets! {
    /// Stream: the sessions of the last [`Begin`] have all come. What the receiver has of that worker
    /// in these buckets and was not told since is no more.
    End = END;
    /// Control: the sender wants these buckets anew.
    Want = WANT;
}

/// Stream: from here on all sessions that the sender's worker owns in these buckets follow, whether they
/// were sent before or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Bit i is bucket i.
    pub buckets: u128,
    /// How many sessions there are, as those come and go; 0 where the record ends before it.
    pub total: u32,
}

impl Begin {
    /// Length of the record.
    pub const LEN: usize = 2 + 20;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        Some(Begin { buckets: record.u128()?, total: record.u32().unwrap_or(0) })
    }
}

impl Emit for Begin {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::BEGIN, Self::LEN);
        put.u128(self.buckets);
        put.u32(self.total);
        put.written()
    }
}

/// Stream: the sessions the sender owns in a bucket, at this place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The bucket, below [`BUCKETS`].
    pub bucket: u8,
    /// How many there are.
    pub count: u32,
    /// Their identities ([`super::identity()`]), XORed.
    pub xor: u64,
}

impl Digest {
    /// Length of the record.
    pub const LEN: usize = 2 + 13;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        let digest = Digest { bucket: record.u8()?, count: record.u32()?, xor: record.u64()? };
        (usize::from(digest.bucket) < BUCKETS).then_some(digest)
    }
}

impl Emit for Digest {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::DIGEST, Self::LEN);
        put.u8(self.bucket);
        put.u32(self.count);
        put.u64(self.xor);
        put.written()
    }
}

/// What a node says of itself in a [`Hello`]. Bits without a name are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// It has the whole table of its peer.
    pub const SYNCED: Flags = Flags(1);
    /// It is about to stop.
    pub const LEAVING: Flags = Flags(2);
    /// It has all of its peer's table but what it could not take in ([`Hello::lacking`]).
    pub const LACKING: Flags = Flags(4);

    /// Whether one of `those` is set.
    pub const fn has(self, those: Flags) -> bool {
        self.0 & those.0 != 0
    }

    /// With `those`.
    #[must_use]
    pub const fn with(self, those: Flags) -> Flags {
        Flags(self.0 | those.0)
    }
}

/// The version of Shunt that a node runs: text, zero padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VersionText(pub [u8; 16]);

impl VersionText {
    /// As much of `text` as has room.
    pub fn new(text: &str) -> Self {
        let mut version = [0; 16];
        let mut end = text.len().min(version.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        version[..end].copy_from_slice(&text.as_bytes()[..end]);
        VersionText(version)
    }

    /// The text up to the first byte that is no printable ASCII character.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| !(b' '..=b'~').contains(byte)).unwrap_or(16);
        std::str::from_utf8(&self.0[..end]).unwrap_or("")
    }
}

/// Control: a worker is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the peer must echo, to prove that it is not a recording; never 0.
    pub challenge: u64,
    /// The peer's challenge; 0 when none is known.
    pub echo: u64,
    /// The peer's boot that was seen last; 0 when none was.
    pub peer_boot: u64,
    /// How many workers the node has, at least 1.
    pub workers: u8,
    /// More about it.
    pub flags: Flags,
    /// The sequence of the last stream datagram this worker has sent; 0 when it has sent none.
    pub stream: u64,
    /// A digest of what must be alike in both configurations.
    pub config: u64,
    /// The node's version.
    pub version: VersionText,
    /// How many sessions of its peer it could not take in; 0 where the record ends before it.
    pub lacking: u32,
}

impl Hello {
    /// Length of the record.
    pub const LEN: usize = 2 + 24 + 2 + 16 + 16 + 4;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        let hello = Hello {
            challenge: record.u64()?,
            echo: record.u64()?,
            peer_boot: record.u64()?,
            workers: record.u8()?,
            flags: Flags(record.u8()?),
            stream: record.u64()?,
            config: record.u64()?,
            version: VersionText(record.bytes()?),
            lacking: record.u32().unwrap_or(0),
        };
        (hello.challenge != 0 && hello.workers != 0).then_some(hello)
    }
}

impl Emit for Hello {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::HELLO, Self::LEN);
        put.u64(self.challenge);
        put.u64(self.echo);
        put.u64(self.peer_boot);
        put.u8(self.workers);
        put.u8(self.flags.0);
        put.u64(self.stream);
        put.u64(self.config);
        put.bytes(&self.version.0);
        put.u32(self.lacking);
        put.written()
    }
}

/// Control: how much of a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Whose stream: the worker of the node that this is sent to.
    pub worker: u8,
    /// Everything up to and with this sequence has come, or is given up.
    pub contiguous: u64,
    /// The highest sequence that is known of.
    pub highest: u64,
}

impl Ack {
    /// Length of the record.
    pub const LEN: usize = 2 + 17;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        Some(Ack { worker: record.u8()?, contiguous: record.u64()?, highest: record.u64()? })
    }
}

impl Emit for Ack {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::ACK, Self::LEN);
        put.u8(self.worker);
        put.u64(self.contiguous);
        put.u64(self.highest);
        put.written()
    }
}

/// Control: these datagrams of a stream have not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nak {
    /// Whose stream: the worker of the node that this is sent to.
    pub worker: u8,
    /// The first one.
    pub from: u64,
    /// How many, one after the other; at least 1.
    pub count: u16,
}

impl Nak {
    /// Length of the record.
    pub const LEN: usize = 2 + 11;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        let nak = Nak { worker: record.u8()?, from: record.u64()?, count: record.u16()? };
        (nak.count != 0).then_some(nak)
    }
}

impl Emit for Nak {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::NAK, Self::LEN);
        put.u8(self.worker);
        put.u64(self.from);
        put.u16(self.count);
        put.written()
    }
}

/// Control: the stream of the worker that sends this is not to be had any more up to and with this
/// sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The last one that is gone.
    pub through: u64,
}

impl Gone {
    /// Length of the record.
    pub const LEN: usize = 2 + 8;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        Some(Gone { through: record.u64()? })
    }
}

impl Emit for Gone {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::GONE, Self::LEN);
        put.u64(self.through);
        put.written()
    }
}

/// Control: a wire port of the sender that has addresses. One record per port, so a node has as many
/// as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index among the sender's ports.
    pub index: u8,
    /// Its own MAC address.
    pub mac: Mac,
    /// Its first IPv4 address and the length of that network's prefix.
    pub v4: Option<(Ipv4Addr, u8)>,
    /// The same of IPv6.
    pub v6: Option<(Ipv6Addr, u8)>,
}

impl Port {
    /// Length of the record.
    pub const LEN: usize = 2 + 29;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        let (index, mac) = (record.u8()?, record.bytes()?);
        let (v4, v4_prefix): (Ipv4Addr, _) = (record.address()?, record.u8()?);
        let (v6, v6_prefix): (Ipv6Addr, _) = (record.address()?, record.u8()?);
        (v4_prefix <= 32 && v6_prefix <= 128).then_some(Port {
            index,
            mac,
            v4: (!v4.is_unspecified()).then_some((v4, v4_prefix)),
            v6: (!v6.is_unspecified()).then_some((v6, v6_prefix)),
        })
    }
}

impl Emit for Port {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::PORT, Self::LEN);
        put.u8(self.index);
        put.bytes(&self.mac);
        let (v4, v4_prefix) = self.v4.unwrap_or((Ipv4Addr::UNSPECIFIED, 0));
        put.address(v4);
        put.u8(v4_prefix);
        let (v6, v6_prefix) = self.v6.unwrap_or((Ipv6Addr::UNSPECIFIED, 0));
        put.address(v6);
        put.u8(v6_prefix);
        put.written()
    }
}
