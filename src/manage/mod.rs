//! The management thread: configuration, health checks, neighbours, control socket.
#![forbid(unsafe_code)]

pub mod config;
pub mod health;
pub mod neighbors;
pub mod probe;

#[cfg(test)]
pub(crate) mod testing;
