//! The data path: from a burst of frames to verdicts.
//!
//! Pure: bytes, a `now` and a seed go in, bytes and verdicts come out. [`pipeline`] is the place to
//! start reading.
#![forbid(unsafe_code)]

pub mod balancer;
mod bogons;
mod choose;
mod connection;
mod connection_limit;
pub mod counters;
mod crossed;
mod crossed_error;
mod crossed_fragment;
mod doubt;
mod established;
mod extras;
pub mod family;
pub mod filter;
pub mod fragment_idents;
mod fragment_path;
mod fragment_ranges;
mod fragment_room;
pub mod fragments;
pub mod frame;
pub mod guard;
pub mod ha;
pub mod hops;
mod icmp;
mod icmp_error;
mod introduce;
mod lane;
pub mod limiter;
pub mod limits;
mod local;
pub mod local_ports;
mod mastership;
pub mod mirror;
mod new_flow;
pub mod note;
pub mod notice;
mod one_packet;
mod onward;
pub mod outbox;
mod persist;
pub mod pipeline;
pub mod policy;
pub mod prefix_set;
pub mod quic_route;
mod refuse;
mod reset;
mod segment;
pub mod selection;
pub mod setup;
mod shared;
pub mod snapshot;
pub mod snat;
mod source_limits;
pub mod steer;
mod sweep;
mod syn_gate;
mod syn_proxy;
pub mod sync_counters;
mod tunnel;
mod tunnel_path;
pub mod verdict;
pub mod vlan;
mod vrrp;
