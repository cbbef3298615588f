//! What forwarding changes in a packet: addresses, ports, MAC addresses, checksums.
//!
//! Everything here works in place on frames that [`crate::wire::flow::parse`] has judged, and
//! updates checksums by difference (RFC 1624), so the cost does not depend on the packet's length.
#![forbid(unsafe_code)]

pub mod crossing;
pub mod crossing_error;
pub mod dscp;
pub mod ethernet;
pub mod fragment;
pub mod icmp_error;
pub mod insert;
pub mod mss;
pub mod nat;
pub mod proxy_protocol;
pub mod sequence;
pub mod toa;
pub mod transport_checksum;
pub mod tunnel;
