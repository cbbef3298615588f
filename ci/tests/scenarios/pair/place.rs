//! The two nodes on their networks: each with addresses of its own and a channel to the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use shunt::datapath::ha::{Channel, Ha};
use shunt::datapath::replica::PairSetup;
use shunt::datapath::snapshot::{LocalAddress, LocalAddresses, Mac, Port, PortId};
use shunt::sync::datagram::{self, Header};
use shunt::sync::keys::Keys;
use shunt::sync::{HEADER, VersionText};

use crate::net::{BACK, FRONT, Family, Net, ip};
use crate::rig::SEED;

pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Of each node.
pub const BOOTS: [u64; 2] = [0xb007_0000_0000_0001, 0xb007_0000_0000_0002];
const SECRETS: [u128; 2] = [0x5ec2_e700, 0x5ec2_e701];
pub const UDP_PORT: u16 = 8849;
/// The clock of node 1 is so far ahead of node 0's.
pub const AHEAD: u32 = 70_000;

pub fn keys() -> Keys {
    Keys::parse(KEY).unwrap()
}

/// The network of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// That of the clients.
    Front,
    /// That of the servers.
    Back,
    /// One of its own, on a third port.
    Own,
    /// The same, in IPv6.
    OwnV6,
    /// The same, and the nodes have no other network in common.
    Apart,
}

impl Wire {
    pub const ALL: [Wire; 5] = [Wire::Front, Wire::Back, Wire::Own, Wire::OwnV6, Wire::Apart];

    pub fn port(self) -> PortId {
        match self {
            Wire::Front => FRONT,
            Wire::Back => BACK,
            Wire::Own | Wire::OwnV6 | Wire::Apart => PortId(2),
        }
    }

    pub fn address(self, node: usize) -> IpAddr {
        match self {
            Wire::Front => front(Family::V4, node),
            Wire::Back => back(Family::V4, node),
            Wire::Own | Wire::Apart => ip(&format!("192.168.77.{}", 1 + node)),
            Wire::OwnV6 => ip(&format!("2001:db8:77::{}", 1 + node)),
        }
    }

    pub fn group(self) -> IpAddr {
        ip(if self == Wire::OwnV6 { "ff02::1319" } else { "239.255.19.19" })
    }
}

/// The address of a node in the network of the clients.
pub fn front(family: Family, node: usize) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("192.0.2.{}", 2 + node)),
        Family::V6 => ip(&format!("2001:db8:1::{}", 2 + node)),
    }
}

/// The same in that of the servers.
pub fn back(family: Family, node: usize) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("10.0.0.{}", 1 + node)),
        Family::V6 => ip(&format!("2001:db8:2::{}", 1 + node)),
    }
}

/// The MAC address of a node's port.
pub fn mac(node: usize, port: PortId) -> Mac {
    [2, 0, 0, 0, 0, [0xf0, 0xb0, 0xc0][usize::from(port.0)] + node as u8]
}

/// A node's own addresses and its id, in a net that was made for anybody.
pub fn place(mut net: Net, node: usize, wire: Wire) -> Net {
    let snapshot = &mut net.snapshot;
    snapshot.node_id = node as u8;
    let mine = |address: &LocalAddress| !matches!(address, LocalAddress::Port(_));
    snapshot.local_v4.retain(|_, what| mine(what));
    snapshot.local_v6.retain(|_, what| mine(what));
    if !matches!(wire, Wire::Front | Wire::Back) {
        snapshot.ports.push(Port { name: "sync".into(), ..Port::default() });
        snapshot.lips.push(LocalAddresses::default());
        net.route("192.168.77.0/24", PortId(2), None);
        net.route("2001:db8:77::/64", PortId(2), None);
    }
    for index in 0..net.snapshot.ports.len() {
        let id = PortId(index as u8);
        let (v4, v6) = match id {
            FRONT | BACK if wire == Wire::Apart && node == 1 => {
                (ip(&format!("198.18.{index}.2")), ip(&format!("2001:db8:f{index}::2")))
            }
            FRONT => (front(Family::V4, node), front(Family::V6, node)),
            BACK => (back(Family::V4, node), back(Family::V6, node)),
            _ => (Wire::Own.address(node), Wire::OwnV6.address(node)),
        };
        net.local(v4, LocalAddress::Port(id));
        net.local(v6, LocalAddress::Port(id));
        let port = &mut net.snapshot.ports[index];
        port.mac = mac(node, id);
        (port.ipv4, port.ipv6) = match (v4, v6) {
            (IpAddr::V4(v4), IpAddr::V6(v6)) => (Some(v4), Some(v6)),
            _ => unreachable!(),
        };
    }
    net
}

/// With the channel to the other node.
pub fn connected(mut net: Net, node: usize, wire: Wire) -> Net {
    net.snapshot.ha = Some(Arc::new(Ha {
        groups: Vec::new(),
        group_of_v4: Default::default(),
        group_of_v6: Default::default(),
        channel: Channel {
            port: wire.port(),
            group: SocketAddr::new(wire.group(), UDP_PORT),
            source: wire.address(node),
            peer: wire.address(1 - node),
            rate: 200_000,
            relay: true,
            config_digest: 0xc0f1,
        },
    }));
    net
}

pub fn setup(node: usize, boot: u64) -> PairSetup {
    PairSetup {
        keys: keys(),
        boot,
        secret: SECRETS[node] ^ u128::from(boot) << 64,
        version: VersionText::new("1.2.3"),
        // Both have the clock of node 0.
        clock_ms: if node == 0 { 0 } else { AHEAD.wrapping_neg() },
    }
}

pub const fn seed(node: usize) -> u64 {
    if node == 0 { SEED } else { 0xfeed }
}

pub fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(_) => [0x01, 0x00, 0x5e, 0x7f, 0x13, 0x13],
        IpAddr::V6(_) => [0x33, 0x33, 0, 0, 0x13, 0x19],
    }
}

/// A datagram of the channel on the wire: one hop.
pub fn datagram_frame(from: Mac, to_mac: Mac, src: IpAddr, to: IpAddr, datagram: &[u8]) -> Vec<u8> {
    let start = PacketBuilder::ethernet2(from, to_mac);
    let ip = match (src, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => start.ipv4(src.octets(), dst.octets(), 1),
        (IpAddr::V6(src), IpAddr::V6(dst)) => start.ipv6(src.octets(), dst.octets(), 1),
        _ => panic!("two families"),
    };
    let mut bytes = Vec::new();
    ip.udp(UDP_PORT, UDP_PORT).write(&mut bytes, datagram).unwrap();
    bytes
}

/// A frame of the channel, to the group, with this header and these records.
pub fn forged(wire: Wire, node: usize, header: &Header, records: &[u8], keys: &Keys) -> Vec<u8> {
    let mut datagram = vec![0; HEADER];
    datagram.extend(records);
    datagram::seal(&mut datagram, header, keys);
    let group = wire.group();
    datagram_frame(mac(node, wire.port()), group_mac(group), wire.address(node), group, &datagram)
}
