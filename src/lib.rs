//! Shunt: a layer-4 switch on DPDK.

pub mod datapath;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod io;
pub mod manage;
pub mod prefetch;
pub mod sched;
pub mod session;
pub mod wire;
pub mod worker;
