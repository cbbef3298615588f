//! The data path: from a burst of frames to verdicts.
//!
//! Pure: bytes, a `now` and a seed go in, bytes and verdicts come out. [`pipeline`] is the place to
//! start reading.
#![forbid(unsafe_code)]

pub mod balancer;
mod bogons;
mod choose;
mod connection;
pub mod counters;
mod established;
mod extras;
pub mod family;
pub mod filter;
pub mod fragment_idents;
mod fragment_path;
mod fragment_ranges;
mod fragment_room;
pub mod fragments;
pub mod frame;
pub mod guard;
pub mod hops;
mod icmp;
mod icmp_error;
pub mod limiter;
pub mod limits;
mod local;
pub mod local_ports;
pub mod mirror;
mod new_flow;
pub mod note;
pub mod outbox;
pub mod pipeline;
pub mod prefix_set;
mod refuse;
mod segment;
pub mod selection;
pub mod snapshot;
mod source_limits;
pub mod steer;
mod tunnel;
pub mod verdict;
