//! What benches and measurements share: the traffic ([`traffic`]), and a worker on ports that cost
//! nothing ([`rig`]).

pub mod rig;
pub mod traffic;
