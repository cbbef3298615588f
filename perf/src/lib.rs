//! What benches and measurements share: the traffic ([`traffic`], [`template`]), a worker on ports
//! that cost nothing ([`rig`]), two of them on a wire in memory ([`ring`]), a generator's port (`port`),
//! and what is printed of the machine and of numbers ([`report`]).

#[cfg(feature = "dpdk")]
pub mod port;
pub mod report;
pub mod rig;
pub mod ring;
pub mod template;
pub mod traffic;
