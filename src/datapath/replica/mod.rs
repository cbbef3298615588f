//! Keeps the sessions of two nodes alike (design §6).
//!
//! Each worker tells the peer of its sessions in a stream of datagrams ([`crate::sync`]), from the data
//! path: a new session leaves ahead of the packet that opened it.
//!
//! - `state`, what a worker keeps of the channel;
//! - `tell`, what the peer is told of sessions: new, changed, seen, ended;
//! - `import`, what the peer tells;
//! - `settle`, when both have a session of the same endpoints;
//! - `channel`, datagrams to and from the wire;
//! - `upkeep`, what is due without a packet: acknowledgements, digests, requests;
//! - `greet`, what the nodes say of themselves, and the peer's control datagrams;
//! - `walk`, the whole table for a peer that lacks it, and what the peer's walk did not confirm;
//! - `gauges`, how far the two nodes are;
//! - `relay`, packets of sessions that perhaps only the peer knows.
//!
//! | who | does |
//! |---|---|
//! | the owner of a session | tells of it when it begins and when its state changes; ends it; tells that |
//! | the peer | forwards its packets as well; tells the owner that it was seen, at half of its timeout |
//! | both, in the absence of the other | own all sessions ([`Marks::begin_term`]) |
//!
//! A worker without a peer has neither [`Replica`] nor [`Marks`]: nothing of this costs it anything.

mod channel;
mod gauges;
mod greet;
mod import;
mod relay;
mod settle;
mod state;
mod tell;
mod upkeep;
mod walk;

pub(super) use self::channel::{arrive, arrive_unicast, is_datagram, is_relayed};
pub(super) use self::greet::leave;
pub(super) use self::relay::{give, is_given, met, postpone};
pub use self::state::PairSetup;
pub(super) use self::state::Replica;
pub(super) use self::tell::{
    changed, created, due, ended, followed, is_unseen, placed, tell_changes,
};
pub(super) use self::upkeep::{is_joining, is_learning, set_keys, tick};
#[cfg(doc)]
use crate::session::marks::Marks;
