//! Sessions: keys, entries, the table a worker owns, its timers, TCP states and FullNAT ports.
//!
//! Imports only [`crate::wire`] (and the [`crate::prefetch`] hint). Time is an argument.
#![forbid(unsafe_code)]

pub mod aside;
pub mod bucket_ports;
pub mod connection;
pub mod counts;
pub mod doubt;
pub mod entry;
pub mod index;
pub mod key;
pub mod mappings;
pub mod marks;
pub mod new_session;
pub mod persistence;
pub mod ports;
pub mod sequence;
pub mod syn_cookie;
pub mod table;
pub mod tcp_state;
pub mod wheel;

pub use aside::Aside;
pub use doubt::Doubt;
pub use entry::{Direction, Entry, Extras, HopRef, Mode, ServerId, ServiceId, TcpState};
pub use new_session::NewSession;
pub use sequence::Scales;
pub use table::{Due, InsertError, SessionId, Table, Then};
pub use tcp_state::Timeouts;
