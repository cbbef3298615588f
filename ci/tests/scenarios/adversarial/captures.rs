//! What an adversary sends, as captures: frames and the ports they come in by. All of it is made of
//! well-formed conversations of both families and a seed.

mod fragmented;
mod malformed;
mod others;
mod segments;

use std::net::{IpAddr, SocketAddr};

use shunt::datapath::snapshot::{Mac, PortId};

use crate::frames::{ACK, FIN_ACK, PSH_ACK, RST, SYN, SYN_ACK, echo, icmp_error, tcp, udp};
use crate::net::{FRONT, Family, ROUTER_MAC, server_mac};

/// A frame and the port it comes in by.
pub type Arrival = (PortId, Vec<u8>);

/// Numbers without end (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.number() as u8).collect()
    }
    pub fn shuffle<T>(&mut self, of: &mut [T]) {
        for i in (1..of.len()).rev() {
            let j = self.below(i + 1);
            of.swap(i, j);
        }
    }
}

/// Where the captures are made for.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The MAC addresses of the client's port and of the servers'.
    pub macs: [Mac; 2],
    pub back: PortId,
    pub rng: Rng,
}

/// A capture: its name and how it is made.
pub type Capture = (&'static str, fn(&mut Scene) -> Vec<Arrival>);

/// All of them, in the order in which they are replayed.
pub const ALL: &[Capture] = &[
    ("conversations", conversations),
    ("cut at every length", malformed::cut),
    ("lengths that lie", malformed::lengths),
    ("flipped bits", malformed::flipped),
    ("fragments", fragmented::fragments),
    ("fragments that do not fit together", fragmented::bad_fragments),
    ("a flood of fragments", fragmented::fragment_flood),
    ("options and extension headers", malformed::options_and_extensions),
    ("a flood of SYNs", segments::syn_flood),
    ("all TCP flags", segments::all_flags),
    ("sources that cannot be", others::sources),
    ("numbers out of any window", segments::numbers),
    ("TCP options", segments::tcp_options),
    ("first segments", segments::first_segments),
    ("lengths about the MTU", others::long_ones),
    ("ICMP", others::icmp),
    ("ARP and neighbor discovery", malformed::link),
    ("VLAN tags", malformed::tags),
    ("QUIC", others::quic),
    ("from inside to outside and back", others::inside_and_outside),
    ("one flow all at once", segments::at_once),
];

const MSS: [u8; 4] = [2, 4, 5, 0xb4];
/// As Linux sends them: MSS, SACK permitted, timestamps, window scale.
pub const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];

impl Scene {
    pub fn client(&mut self, family: Family) -> SocketAddr {
        endpoint(family.client(), 40_000 + self.rng.below(24) as u16)
    }
    /// The service by TCP, now and then that on the next port.
    pub fn web(&mut self, family: Family) -> SocketAddr {
        endpoint(family.vip(), if self.rng.once_in(6) { 81 } else { 80 })
    }
    /// A frame from the client's side.
    pub fn front(&self, packet: crate::frames::Packet) -> Arrival {
        (FRONT, packet.macs(ROUTER_MAC, self.macs[0]).bytes())
    }
    /// A frame from server 11's side.
    pub fn inner(&self, packet: crate::frames::Packet) -> Arrival {
        (self.back, packet.macs(server_mac(11), self.macs[1]).bytes())
    }
    /// One of each kind of packet a client sends.
    pub fn samples(&mut self, family: Family) -> Vec<Vec<u8>> {
        let from = self.client(family);
        let (web, dns) = (endpoint(family.vip(), 80), endpoint(family.vip(), 53));
        let mut frames = Vec::new();
        for packet in [
            tcp(from, web, SYN).options(&LINUX),
            tcp(from, web, SYN).options(&MSS).payload(b"data on a SYN"),
            tcp(from, web, ACK),
            tcp(from, web, PSH_ACK).payload(b"GET / HTTP/1.1\r\n\r\n"),
            tcp(from, web, FIN_ACK),
            tcp(from, web, RST),
            udp(from, dns),
        ] {
            frames.push(self.front(packet).1);
        }
        let macs = (ROUTER_MAC, self.macs[0]);
        frames.push(echo(macs, family.client(), family.vip(), false, 64));
        // About an answer of the service.
        let answer = tcp(web, from, SYN_ACK).bytes();
        let unreachable = [(3, 1), (1, 0)];
        frames.push(icmp_error(
            macs,
            family.client(),
            family.vip(),
            60,
            unreachable,
            0,
            &answer[14..],
        ));
        frames.push(icmp_error(
            macs,
            family.router(),
            family.vip(),
            60,
            unreachable,
            0,
            &answer[14..],
        ));
        frames
    }
}

pub fn endpoint(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The address of SNAT's pool.
pub fn pool(family: Family) -> IpAddr {
    crate::snat::pool(family)
}

/// Sets the length in the IP header to `n`, which counts that header.
pub fn set_length(frame: &mut [u8], n: u16) {
    match frame[12] {
        8 => frame[16..18].copy_from_slice(&n.to_be_bytes()),
        _ => frame[18..20].copy_from_slice(&n.wrapping_sub(40).to_be_bytes()),
    }
}

/// What honest clients and servers say, over several connections.
fn conversations(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        for _ in 0..12 {
            let frames = scene.samples(family);
            arrivals.extend(frames.into_iter().map(|frame| (FRONT, frame)));
            let (to, server) = (scene.client(family), family.server(11));
            for packet in [
                tcp(endpoint(server, 8080), to, SYN_ACK).options(&LINUX),
                tcp(endpoint(server, 8080), to, PSH_ACK).payload(b"200"),
                udp(endpoint(server, 5353), to),
            ] {
                arrivals.push(scene.inner(packet));
            }
        }
    }
    arrivals
}
