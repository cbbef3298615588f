//! What benches and measurements share: the traffic ([`traffic`]), a worker on ports that cost
//! nothing ([`rig`]), and a generator's port (`port`).

#[cfg(feature = "dpdk")]
pub mod port;
pub mod rig;
pub mod traffic;
