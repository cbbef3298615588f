//! Session sync (design §6): the protocol that keeps the sessions of two nodes alike.
//!
//! Pure: bytes, a time in milliseconds (wrapping) and secrets come in, bytes and verdicts go out. What
//! is called per datagram or record allocates nothing.
//!
//! | file | what it is |
//! |---|---|
//! | [`datagram`] | the header: [`open`], [`seal`], [`Builder`] |
//! | [`keys`] | the keys, the MAC, secrets made of the keys |
//! | [`record`] | records: [`records`] reads them, [`Emit`] writes them |
//! | [`session`], [`control`] | the records about sessions; about buckets, streams and nodes |
//! | [`identity`](mod@identity) | a session in 64 bits, for digests |
//! | [`sender`], [`receiver`] | the two sides of a stream |
//! | [`replay`] | what came before, of datagrams that are not in a stream |
//! | [`association`] | whether the peer is there, and lives |
//!
//! # How it works
//!
//! **Owner.** A session is owned by the node that created it, or that took it over when its owner died.
//! The other node has a copy. Only the owner ends a session for want of packets, and says so
//! ([`Close`]). A node that sees packets of a copy tells the owner now and then ([`Touch`]).
//!
//! **Streams.** Each worker numbers the datagrams in which it tells of its sessions, from 1 in each
//! boot: its stream ([`Sender`]). The receiver applies what comes at once, in whatever order, and keeps
//! track of gaps ([`Receiver`]): it asks for them ([`Nak`]) and the sender repeats what it still has.
//! For the rest it says [`Gone`]; the receiver then wants all sessions of the stream anew ([`Want`]).
//! Now and then it tells how far it is ([`Ack`]).
//!
//! **Digests.** Between other records the sender puts the number and the XOR of the
//! [identities](identity()) of the sessions it owns in a bucket ([`Digest`]). A receiver without a gap
//! is at that very place of the stream and compares them with its copies. If they differ it wants
//! that bucket anew: the sender walks through its table and sends [`Begin`], every session it owns in
//! the bucket, and [`End`]; the receiver drops what was not among them.
//!
//! **Joining.** A node that starts wants all buckets. It has the whole table when each one's digest was
//! equal once. Where it cannot take a session in (no room, or no such server) the digest is never equal:
//! that node says how many it lacks ([`Hello::lacking`]), and asks for them ever more seldom.
//!
//! **Association.** Only datagrams of the peer's present start are accepted; see [`association`]. Of
//! those each sequence is accepted once: in a stream by [`Receiver`], in other datagrams by
//! [`Replay`], one per worker of the peer and kind of datagram.
//!
//! # The format
//!
//! UDP; all numbers are big endian. Header: see [`datagram`]. Behind it, in a stream or control
//! datagram, records: type (1 byte), length of the whole record (1 byte), fields. In a relay datagram:
//! the index of the port (1 byte) and the frame from its Ethernet header on.
//!
//! Types of records with addresses come in pairs, for IPv4 (A = 4 bytes) and IPv6 (A = 16 bytes).
//! "ip" is 16 bytes with IPv4 addresses mapped. Times are in milliseconds.
//!
//! | type | record | fields in their order (bytes, where it is not told by the name) |
//! |---|---|---|
//! | | **in a stream** | |
//! | 1, 2 | [`Session`] | born u32, protocol u8 (IP protocol number), state u8, mode u8, doubt u8, scales u8, presence u8, extras u16, idle u32, age u32, timeout u32, client A, vip A, local A, server A, their ports u16 × 4, forward_end u32, reply_end u32; if presence has bit 0: forward_shift, reply_shift, time_shift, shift_at, note u32 × 5; if it has bit 1: server ip |
//! | 3, 4 | [`Close`] | born u32, reason u8, protocol u8, client A, vip A, client_port u16, vip_port u16 |
//! | 5, 6 | [`Touch`] | born u32, idle u32, protocol u8, state u8, client A, vip A, client_port u16, vip_port u16, forward_end u32, reply_end u32 |
//! | 7, 8 | [`Persist`] | scope u64, life u32, client A, server ip |
//! | 9 | [`Begin`] | buckets u128 (bit i: bucket i), total u32 (sessions that follow; 0 where it ends before) |
//! | 10 | [`End`] | buckets u128 |
//! | 11 | [`Digest`] | bucket u8, count u32, xor u64 |
//! | | **control** | |
//! | 32 | [`Hello`] | challenge u64, echo u64, peer_boot u64, workers u8, flags u8 (bit 0 synced, bit 1 leaving, bit 2 lacking), stream u64, config u64, version 16 bytes of text, zero padded, lacking u32 (0 where it ends before) |
//! | 33 | [`Ack`] | worker u8, contiguous u64, highest u64 |
//! | 34 | [`Nak`] | worker u8, from u64, count u16 |
//! | 35 | [`Gone`] | through u64 |
//! | 36 | [`Want`] | buckets u128 |
//! | 37 | [`Port`] | index u8, MAC address 6, IPv4 address 4, prefix length u8, IPv6 address 16, prefix length u8 (address 0: none) |
//!
//! | number | is |
//! |---|---|
//! | state | [`TcpState`](crate::session::TcpState): 0 udp, 1 syn_sent, 2 syn_received, 3 established, 4 fin_client, 5 fin_server, 6 fin_both, 7 closed, 8 time_wait, 9 contested, 10 syn_proxied; 0 exactly when the protocol is not TCP |
//! | mode | [`Mode`](crate::session::Mode): 0 nat, 1 fullnat, 2 dr, 3 snat, 4 ipip, 5 gre, 6 gue, 7 vxlan |
//! | doubt | [`Doubt`](crate::session::Doubt): bits 0–1 how often was asked (at most 2; 1 with bit 5), bit 4 the server's reset, bit 5 adopted |
//! | scales | [`Scales`](crate::session::Scales): the client's window scale in the lower half, the server's in the upper, 15 unknown |
//! | extras | [`Extras`](crate::session::Extras): bit 0 policed, 1 mirrored, 2 shifted, 3 introduced, 4 marked, 5 proxied, 10 crossed, 11 proxy_v1, 12 proxy_v2, 13 told, 15 hairpin |
//! | reason | [`Reason`]: 0 expired, 1 replaced, 2 withdrawn, 3 unanswered; others are let through |
//!
//! `conf/shunt-sync.lua` shows all of this in Wireshark.
//!
//! # Versions
//!
//! A node ignores what it does not know: types of records, fields at the end of a record, bits of
//! presence, flags and reasons. So new types, new fields at the end, and new bits of these can be added
//! within a version, when a node that ignores them still does the right thing. Whatever else changes
//! what a datagram means (a new mode, state or extra too, since a session that has it would be taken
//! for another one) takes a new [`VERSION`]. A node reads no version but its own; it counts and names
//! the other's, which stands where it will always stand: in the byte after the magic. Two nodes of
//! different versions are two single nodes until both have the same.
#![forbid(unsafe_code)]

pub mod association;
pub mod control;
mod cursor;
pub mod datagram;
pub mod family;
pub mod identity;
pub mod keys;
pub mod receiver;
pub mod record;
pub mod replay;
pub mod sender;
pub mod session;

pub use association::{About, Association, Heard};
pub use control::{
    Ack, BUCKETS, Begin, Digest, End, Flags, Gone, Hello, Nak, Port, VersionText, Want,
};
pub use datagram::{Builder, HEADER, Header, Kind, MAX, Refused, SERVING, VERSION, open, seal};
pub use family::Wire;
pub use identity::identity;
pub use keys::{KeyError, KeyId, Keys};
pub use receiver::{Receiver, Taken};
pub use record::{Emit, Malformed, Record, records};
pub use replay::Replay;
pub use sender::{Repeated, Sender};
pub use session::{Close, Persist, Reason, Session, Shifts, Touch};

#[cfg(test)]
mod tests;
