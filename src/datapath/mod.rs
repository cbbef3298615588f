//! The data path: from a burst of frames to verdicts.
//!
//! Pure: bytes, a `now` and a seed go in, bytes and verdicts come out. [`pipeline`] is the place to
//! start reading.
#![forbid(unsafe_code)]

pub mod balancer;
pub mod counters;
mod established;
mod extras;
pub mod family;
pub mod frame;
pub mod hops;
mod icmp;
pub mod limiter;
mod local;
pub mod local_ports;
mod new_flow;
pub mod note;
pub mod outbox;
pub mod pipeline;
mod refuse;
mod segment;
pub mod snapshot;
pub mod snat;
pub mod steer;
pub mod verdict;
