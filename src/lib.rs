//! Shunt: a layer-4 switch on DPDK.

pub mod cli;
pub mod datapath;
pub mod io;
pub mod manage;
pub mod prefetch;
pub mod sched;
pub mod session;
pub mod wire;
pub mod worker;
