//! Bytes on the wire: one file per protocol, and [`flow`] which makes a flow of a frame.
//!
//! Imports nothing else of Shunt. All integers are in network byte order on the wire and in host
//! order in Rust.
//!
//! Each protocol file follows one template: the module documentation says what the checked
//! constructor checks and what it leaves to the caller; `field` names the offsets; `Packet` is a
//! view over bytes (`new_checked`, `new_unchecked`, getters, and setters when the bytes are
//! writable); `Repr` is the header of a packet that Shunt makes itself. After `new_checked` no
//! getter panics. After `new_unchecked` a getter panics when its field lies beyond the buffer, and
//! so does every `emit` into a buffer that is too short.
#![forbid(unsafe_code)]

pub mod arp;
pub(crate) mod bytes;
pub mod checksum;
pub mod drop_reason;
pub mod ethernet;
pub mod flow;
pub mod fragment;
pub mod icmpv4;
pub mod icmpv6;
pub mod ip_protocol;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod quic;
pub mod quoted;
pub mod syn_options;
pub mod tcp;
pub mod tcp_option;
pub mod toeplitz;
pub mod udp;
pub mod vrrp;

pub use drop_reason::DropReason;
pub use ethernet::Mac;
