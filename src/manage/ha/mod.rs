//! Which of the two nodes answers for the addresses: the virtual routers of this node (RFC 5798), one for
//! each group of addresses, and what they need besides [`crate::vrrp`]: ports, frames, tracking.
//!
//! [`Pair`] does no input or output and knows no time of its own: adverts, links, health and the time go
//! in, frames and mastership come out ([`Action`]).
//!
//! # Adverts
//!
//! They go out by every wire port that has an address of the family, in the families that the group's
//! addresses have, from the port's first IPv4 address or from the link-local address that goes with its
//! MAC address. One advert that comes through is enough to keep the other node quiet: a broken link
//! between the nodes is no reason for two masters as long as there is another.
//!
//! An advert names the VIPs of the group, sorted, and no other addresses, so that on a node with
//! keepalived `virtual_ipaddress` is the list of the VIPs. A group without VIPs names what it has. An
//! IPv6 advert has no virtual link-local address to name first (5.2.9).
//!
//! # Who is heard
//!
//! An advert counts when it comes from `peer` or another address of the peer's ports. IPv6 adverts come
//! from link-local addresses, which no configuration names: while none of the peer is known any is
//! taken, since a hop limit of 255 says that it is from this link, and then only those. Everything
//! else is counted by sender for `shunt ha`, and logged once a minute (from another port than the channel's only when the
//! peer's addresses are known: before, it is most likely the peer). None of this is protection against a forger on the link,
//! which VRRP does not have.
//!
//! When both have the same priority the larger address wins: that of `peer` against our own on the same
//! network, whichever ports the adverts took, so that both nodes decide alike.

mod announce;
mod config;
mod drops;
mod joining;
mod pair;
mod source;
mod strangers;
mod view;

#[cfg(test)]
mod tests;

pub use config::PairConfig;
pub use pair::{Action, Pair};
pub use strangers::Stranger;
pub use view::{GroupView, PairView};
