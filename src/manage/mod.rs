//! The management thread: configuration, health checks, neighbors, control socket.
//!
//! It reaches the data path by messages and snapshots only (design §9). [`run::Manager`] is the whole
//! of it, and `state` holds what it knows.
#![forbid(unsafe_code)]

pub mod api;
pub mod compile;
pub mod config;
pub mod digest;
pub mod exception;
mod guard;
pub mod ha;
pub mod health;
mod key_change;
pub mod memory;
pub mod neighbors;
mod pair_problem;
mod pair_seen;
mod pair_watch;
pub mod port_view;
pub mod probe;
pub(crate) mod quiet;
mod rates;
pub mod run;
mod selection;
mod servers;
mod session_list;
mod state;
mod workers;

#[cfg(test)]
pub(crate) mod testing;

pub use port_view::PortView;
pub use run::{ManageError, Manager};
pub use servers::await_first_check;
pub use workers::WorkerHandle;
