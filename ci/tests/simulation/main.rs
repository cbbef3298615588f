//! Two nodes in a simulated network, in virtual time: whole workers on wires in memory, the virtual
//! routers, clients and servers, and whatever a seed says goes wrong.
//!
//! ```text
//! cargo test --no-default-features --test simulation
//! SHUNT_SIM_SEEDS=5000 cargo test --no-default-features --test simulation seeds
//! SHUNT_SIM_SEED=17 cargo test --no-default-features --test simulation seeds -- --nocapture
//! ```
//! Everything follows from the seed: the second runs more of them, the third one with every packet
//! shown. What is checked stands in `check`, what can go wrong in `plan`.
#![allow(unreachable_pub, reason = "modules of a test binary have no outside")]

mod check;
mod hosts;
#[allow(dead_code, reason = "the scenarios use more of it")]
#[path = "../scenarios/net.rs"]
mod net;
mod network;
mod node;
mod packet;
mod plain;
mod plan;
mod random;
mod seeds;
mod tcp;
mod world;
