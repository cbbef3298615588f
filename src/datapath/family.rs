//! What differs between IPv4 and IPv6 above the bytes: where the snapshot keeps their services,
//! addresses and routes, and how an endpoint steers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ha::{Group, Ha};
use super::snapshot::{LocalAddress, Mac, PortId, Route, RouteTarget, Snapshot};
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

    /// The group of an address of ours, as an index into [`Ha::groups`].
    fn group(ha: &Ha, address: Self) -> Option<u8>;
    /// The virtual MAC address of a group's addresses.
    fn virtual_mac(group: &Group) -> Mac;

    /// The address in this family; an IPv4 address is in IPv6 the mapped one, as sessions between
    /// families have it.
    fn adopt(address: IpAddr) -> Option<Self> {
        Self::from_ip(address)
    }
    /// The FullNAT addresses of the other family on a port that sessions of this one may use.
    fn adopted_lips(_snapshot: &Snapshot, _port: PortId) -> Vec<Self> {
        Vec::new()
    }
    /// The steering bucket of an endpoint whose address may be adopted.
    fn outer_bucket(toeplitz: &Toeplitz, address: Self, port: u16) -> usize {
        Self::bucket(toeplitz, address, port)
    }
    /// The rules of egress SNAT, as they are looked up.
    fn inside(snapshot: &Snapshot) -> &Inside<Self>;

    /// The way to `destination`: the port and the next hop's address. Longest prefix first.
    fn route(snapshot: &Snapshot, destination: Self) -> Option<(PortId, IpAddr)> {
        longest_match(Self::routes(snapshot), destination.into())
    }
}

fn longest_match(routes: &[Route], destination: IpAddr) -> Option<(PortId, IpAddr)> {
    routes
        .iter()
        .find(|route| route.to.contains(&destination))
        .map(|route| next_hop(route.target, destination))
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
    fn group(ha: &Ha, address: Self) -> Option<u8> {
        ha.group_of_v4.get(&address).copied()
    }
    fn virtual_mac(group: &Group) -> Mac {
        group.mac_v4()
    }
    fn inside(snapshot: &Snapshot) -> &Inside<Self> {
        &snapshot.snat.v4
    }
}

impl Family for Ipv6Addr {
    fn listener(snapshot: &Snapshot, key: &FlowKey<Self>) -> Option<ServiceId> {
        if let Some(dst) = key.dst.to_ipv4_mapped() {
            return snapshot.listeners_v4.get(&(dst, key.dport, key.protocol)).copied();
        }
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
    fn group(ha: &Ha, address: Self) -> Option<u8> {
        ha.group_of_v6.get(&address).copied()
    }
    fn virtual_mac(group: &Group) -> Mac {
        group.mac_v6()
    }
    fn adopt(address: IpAddr) -> Option<Self> {
        Some(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        })
    }
    fn adopted_lips(snapshot: &Snapshot, port: PortId) -> Vec<Self> {
        match snapshot.crosses {
            true => Ipv4Addr::lips(snapshot, port).iter().map(Ipv4Addr::to_ipv6_mapped).collect(),
            false => Vec::new(),
        }
    }
    fn outer_bucket(toeplitz: &Toeplitz, address: Self, port: u16) -> usize {
        match address.to_ipv4_mapped() {
            Some(address) => toeplitz.bucket_v4(address, port),
            None => toeplitz.bucket_v6(address, port),
        }
    }
    fn route(snapshot: &Snapshot, destination: Self) -> Option<(PortId, IpAddr)> {
        match destination.to_ipv4_mapped() {
            Some(destination) => Ipv4Addr::route(snapshot, destination),
            None => longest_match(&snapshot.routes_v6, destination.into()),
        }
    }
    fn inside(snapshot: &Snapshot) -> &Inside<Self> {
        &snapshot.snat.v6
    }
}
