//! Bytes on the wire: one file per protocol, and [`flow`] which makes a flow of a frame.
//!
//! Imports nothing else of Shunt. All integers are in network byte order on the wire and in host
//! order in Rust.
#![forbid(unsafe_code)]

pub mod drop_reason;
pub mod flow;

pub use drop_reason::DropReason;
