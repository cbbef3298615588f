//! The management thread: configuration, health checks, neighbours, control socket.
#![forbid(unsafe_code)]

pub mod compile;
pub mod config;
