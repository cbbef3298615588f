//! What differs between IPv4 and IPv6 above the bytes: where the snapshot keeps their services,
//! addresses and routes, and how an endpoint steers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::snapshot::{LocalAddress, PortId, Route, RouteTarget, Snapshot};
use super::snat::rules::Inside;
use crate::rewrite::nat::Translate;
use crate::session::ServiceId;
use crate::wire::flow::FlowKey;
use crate::wire::toeplitz::Toeplitz;

/// An address family of the data path.
pub trait Family: Translate {
    /// The service that listens on the destination of `key`.
    fn listener(snapshot: &Snapshot, key: &FlowKey<Self>) -> Option<ServiceId>;
    /// Whether the address is ours, and how.
    fn local(snapshot: &Snapshot, address: Self) -> Option<LocalAddress>;
    /// Longest prefix first.
    fn routes(snapshot: &Snapshot) -> &[Route];
    /// The FullNAT addresses of a port.
    fn lips(snapshot: &Snapshot, port: PortId) -> &[Self];
    /// The steering bucket of an endpoint.
    fn bucket(toeplitz: &Toeplitz, address: Self, port: u16) -> usize;
    /// Our address on a port.
    fn of_port(snapshot: &Snapshot, port: PortId) -> Option<Self>;

    /// The rules of egress SNAT, as they are looked up.
    fn inside(snapshot: &Snapshot) -> &Inside<Self>;

    /// The way to `destination`: the port and the next hop's address. Longest prefix first.
    fn route(snapshot: &Snapshot, destination: Self) -> Option<(PortId, IpAddr)> {
        let destination = destination.into();
        Self::routes(snapshot)
            .iter()
            .find(|route| route.to.contains(&destination))
            .map(|route| next_hop(route.target, destination))
    }
}

/// The port and next hop of a way out towards `destination`.
pub fn next_hop(target: RouteTarget, destination: IpAddr) -> (PortId, IpAddr) {
    (target.port, target.via.unwrap_or(destination))
}

impl Family for Ipv4Addr {
    fn listener(snapshot: &Snapshot, key: &FlowKey<Self>) -> Option<ServiceId> {
        snapshot.listeners_v4.get(&(key.dst, key.dport, key.protocol)).copied()
    }
    #[inline]
    fn local(snapshot: &Snapshot, address: Self) -> Option<LocalAddress> {
        snapshot.local_v4.get(&address).copied()
    }
    fn routes(snapshot: &Snapshot) -> &[Route] {
        &snapshot.routes_v4
    }
    fn lips(snapshot: &Snapshot, port: PortId) -> &[Self] {
        snapshot.lips.get(usize::from(port.0)).map_or(&[], |lips| &lips.v4)
    }
    #[inline(always)]
    fn bucket(toeplitz: &Toeplitz, address: Self, port: u16) -> usize {
        toeplitz.bucket_v4(address, port)
    }
    fn of_port(snapshot: &Snapshot, port: PortId) -> Option<Self> {
        snapshot.ports[usize::from(port.0)].ipv4
    }
    fn inside(snapshot: &Snapshot) -> &Inside<Self> {
        &snapshot.snat.v4
    }
}

impl Family for Ipv6Addr {
    fn listener(snapshot: &Snapshot, key: &FlowKey<Self>) -> Option<ServiceId> {
        snapshot.listeners_v6.get(&(key.dst, key.dport, key.protocol)).copied()
    }
    #[inline]
    fn local(snapshot: &Snapshot, address: Self) -> Option<LocalAddress> {
        snapshot.local_v6.get(&address).copied()
    }
    fn routes(snapshot: &Snapshot) -> &[Route] {
        &snapshot.routes_v6
    }
    fn lips(snapshot: &Snapshot, port: PortId) -> &[Self] {
        snapshot.lips.get(usize::from(port.0)).map_or(&[], |lips| &lips.v6)
    }
    #[inline(always)]
    fn bucket(toeplitz: &Toeplitz, address: Self, port: u16) -> usize {
        toeplitz.bucket_v6(address, port)
    }
    fn of_port(snapshot: &Snapshot, port: PortId) -> Option<Self> {
        snapshot.ports[usize::from(port.0)].ipv6
    }
    fn inside(snapshot: &Snapshot) -> &Inside<Self> {
        &snapshot.snat.v6
    }
}
