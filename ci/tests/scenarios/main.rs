//! Scenarios: whole workers on wires in memory, in virtual time. A packet in, exactly these bytes
//! out, exactly these counters changed.
#![allow(unreachable_pub, reason = "modules of a test binary have no outside")]

mod adversarial;
mod between_families;
mod between_families_errors;
mod between_families_fragments;
mod changes;
mod connections;
mod doubt;
mod forwarding;
mod fragments;
mod fragments_besides;
mod frames;
mod full_nat;
mod guard;
mod icmp_errors;
mod introduce;
mod lifetimes;
mod limits;
mod local;
mod loops;
mod malformed;
mod mirror;
mod neighbors;
mod net;
mod pair;
mod parsing;
mod policies;
mod random;
mod rig;
mod selection;
mod snat;
mod snat_besides;
mod syn_proxy;
mod syn_proxy_streams;
mod tunnels;
mod vlans;
mod vrrp;
