//! Sessions: keys, entries, the table a worker owns, its timers, TCP states and FullNAT ports.
//!
//! Imports only [`crate::wire`] (and the [`crate::prefetch`] hint). Time is an argument.
#![forbid(unsafe_code)]

pub mod entry;

pub use entry::{Direction, Entry, HopRef, Mode, ServerId, ServiceId, TcpState};
