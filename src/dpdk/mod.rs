//! DPDK: the only place that names `dpdk_sys`. It gives the rest of the house a packet buffer
//! ([`Mbuf`], a [`crate::datapath::frame::Frame`]) and one worker's queues ([`DpdkIo`], a
//! [`crate::io::BurstIo`]).
//!
//! The order of a start is the order of the files: [`Eal::init`], [`Mempool::create`],
//! [`Ports::start`]; then each worker thread takes its [`DpdkIo`] and holds a
//! [`Eal::register_thread`] guard while it runs. Each of them keeps alive what it stands on, so
//! dropping them in any order stops and closes the ports, frees the pool and cleans EAL up in the
//! right one.
//!
//! Every error is one sentence for the operator, with the mend.

mod burst;
mod capabilities;
mod capture;
mod eal;
mod error;
mod huge_pages;
mod log_stream;
mod mbuf;
mod mempool;
mod port;
mod port_start;
mod preflight;
mod rss;

pub use burst::DpdkIo;
pub use capabilities::{Capabilities, Checksums, RssFields};
pub use capture::preloaded;
pub use eal::{Eal, EalOptions, ThreadGuard};
pub use error::Error;
pub use huge_pages::advise as advise_huge_pages;
pub use mbuf::Mbuf;
pub use mempool::{Mempool, PoolOptions};
pub use port::{Link, PortConfig, PortHandle, PortStats, Ports, Steering, device_names, probe};
