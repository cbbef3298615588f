//! Session sync: the protocol that keeps the sessions of two nodes alike.
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
