//! What the benches share: a configuration, flows, and ports that cost nothing.

pub mod rig;
