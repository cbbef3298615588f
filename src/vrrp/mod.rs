//! VRRP version 3 (RFC 5798): which of the routers of a virtual router is its master.
//!
//! Sans-IO: adverts and the time go in, [`Action`]s come out. One [`Machine`] is one virtual router on one
//! node. [`crate::wire::vrrp`] has the bytes, `manage::ha` the ports and addresses.
#![forbid(unsafe_code)]

mod machine;

#[cfg(test)]
mod tests;

pub use machine::{Action, Advert, Config, Machine, Reason, State};
