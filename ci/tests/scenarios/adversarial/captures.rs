//! What an adversary sends, as captures: frames and the ports they come in by. All of it is made of
//! well-formed conversations of both families and a seed.

use std::net::{IpAddr, SocketAddr};

use etherparse::ArpOperation;
use shunt::datapath::snapshot::{Mac, PortId};

use super::oracle::mend;
use crate::fragments::split;
use crate::frames::{
    ACK, FIN_ACK, PSH_ACK, RST, SYN, SYN_ACK, arp, echo, echo_of, icmp_error, mend_ipv4_checksum,
    ndp, tcp, udp, with_class,
};
use crate::net::{FRONT, Family, ROUTER_MAC, ip, server_mac};

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
    fn shuffle<T>(&mut self, of: &mut [T]) {
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
    ("cut at every length", cut),
    ("lengths that lie", lengths),
    ("flipped bits", flipped),
    ("fragments", fragments),
    ("fragments that do not fit together", bad_fragments),
    ("a flood of fragments", fragment_flood),
    ("options and extension headers", options_and_extensions),
    ("a flood of SYNs", syn_flood),
    ("all TCP flags", all_flags),
    ("sources that cannot be", sources),
    ("numbers out of any window", numbers),
    ("TCP options", tcp_options),
    ("first segments", first_segments),
    ("lengths about the MTU", long_ones),
    ("ICMP", icmp),
    ("ARP and neighbor discovery", link),
    ("VLAN tags", tags),
    ("QUIC", quic),
    ("from inside to outside and back", inside_and_outside),
    ("one flow all at once", at_once),
];

pub fn endpoint(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The address of SNAT's pool.
pub fn pool(family: Family) -> IpAddr {
    crate::snat::pool(family)
}

const MSS: [u8; 4] = [2, 4, 5, 0xb4];
/// As Linux sends them: MSS, SACK permitted, timestamps, window scale.
pub const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];

impl Scene {
    fn client(&mut self, family: Family) -> SocketAddr {
        endpoint(family.client(), 40_000 + self.rng.below(24) as u16)
    }
    /// The service by TCP, now and then that on the next port.
    fn web(&mut self, family: Family) -> SocketAddr {
        endpoint(family.vip(), if self.rng.once_in(6) { 81 } else { 80 })
    }
    /// A frame from the client's side.
    fn front(&self, packet: crate::frames::Packet) -> Arrival {
        (FRONT, packet.macs(ROUTER_MAC, self.macs[0]).bytes())
    }
    /// A frame from server 11's side.
    fn inner(&self, packet: crate::frames::Packet) -> Arrival {
        (self.back, packet.macs(server_mac(11), self.macs[1]).bytes())
    }
    /// One of each kind of packet a client sends.
    fn samples(&mut self, family: Family) -> Vec<Vec<u8>> {
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

fn cut(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        for mut frame in scene.samples(family) {
            while frame.pop().is_some() {
                arrivals.push((FRONT, frame.clone()));
            }
        }
        // The packet itself is cut, so that all lengths are right but the last header's.
        for frame in scene.samples(family) {
            let header = if family == Family::V4 { 34 } else { 54 };
            for len in header..frame.len() {
                let mut frame = frame[..len].to_vec();
                set_length(&mut frame, (len - 14) as u16);
                mend(&mut frame);
                arrivals.push((FRONT, frame));
            }
        }
    }
    arrivals
}

/// Sets the length in the IP header to `n`, which counts that header.
fn set_length(frame: &mut [u8], n: u16) {
    match frame[12] {
        8 => frame[16..18].copy_from_slice(&n.to_be_bytes()),
        _ => frame[18..20].copy_from_slice(&n.wrapping_sub(40).to_be_bytes()),
    }
}

fn lengths(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        let header = if family == Family::V4 { 34 } else { 54 };
        for frame in scene.samples(family) {
            let len = (frame.len() - 14) as u16;
            let mut lies = Vec::new();
            let mut lie = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut frame = frame.clone();
                change(&mut frame);
                lies.push(frame.clone());
                mend(&mut frame);
                lies.push(frame);
            };
            for n in [0, 1, 19, 20, 21, 27, 28, 39, 40, 41, len - 1, len + 1, 1500, 65_535] {
                lie(&|frame| set_length(frame, n));
                // The UDP length, or part of a sequence number.
                lie(&|frame| frame[header + 4..header + 6].copy_from_slice(&n.to_be_bytes()));
            }
            for n in 0..16 {
                lie(&|frame| frame[14] = frame[14] & 0xf0 | n);
                lie(&|frame| frame[14] = frame[14] & 0x0f | n << 4);
                // The TCP header's length, or a byte of data.
                if frame.len() > header + 12 {
                    lie(&|frame| frame[header + 12] = n << 4);
                }
            }
            // Of the quote in an ICMP error.
            if frame.len() > header + 8 + 20 {
                for n in [0u16, 1, 20, 39, 40, 41, 1500, 65_535] {
                    let at = header + 8 + if family == Family::V4 { 2 } else { 4 };
                    lie(&|frame| frame[at..at + 2].copy_from_slice(&n.to_be_bytes()));
                }
                for n in 0..=255 {
                    lie(&|frame| frame[header + 8] = n);
                }
            }
            arrivals.extend(lies.into_iter().map(|frame| (FRONT, frame)));
        }
    }
    arrivals
}

fn flipped(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for round in 0..60 {
        for family in Family::BOTH {
            for mut frame in scene.samples(family) {
                for _ in 0..=scene.rng.below(3) {
                    // The destination stays; all else is a header.
                    let bit = 48 + scene.rng.below((frame.len().min(90) - 6) * 8);
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
                if round % 3 != 0 {
                    mend(&mut frame);
                }
                arrivals.push((FRONT, frame));
            }
        }
    }
    arrivals
}

fn long_datagram(scene: &mut Scene, family: Family, port: u16, len: usize) -> Vec<u8> {
    let from = endpoint(family.client(), port);
    let payload = scene.rng.bytes(len);
    let (_, mut frame) = scene.front(udp(from, endpoint(family.vip(), 53)).payload(&payload));
    if family == Family::V4 {
        frame[20] &= !0x40;
        mend_ipv4_checksum(&mut frame);
    }
    frame
}

/// Honest fragments, in all orders and sizes, some of them doubled.
fn fragments(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..60 {
        for family in Family::BOTH {
            let len = scene.rng.pick(&[9usize, 100, 1473, 2000, 2952, 4000]);
            let frame = long_datagram(scene, family, 41_000 + n, len);
            let size = scene.rng.pick(&[8usize, 16, 512, 1232, 1440, 1480]).max(len / 40 / 8 * 8);
            let mut pieces = split(&frame, 7 + u32::from(n), size);
            match scene.rng.below(4) {
                0 => pieces.reverse(),
                1 => scene.rng.shuffle(&mut pieces),
                2 => pieces = pieces.iter().flat_map(|p| [p.clone(), p.clone()]).collect(),
                _ => {}
            }
            arrivals.extend(pieces.into_iter().map(|piece| (FRONT, piece)));
            // The same of a server's answer, and of a connection.
            let server = endpoint(family.server(11), 5353);
            let answer = udp(server, endpoint(family.client(), 41_000 + n)).payload(&[3; 64]);
            let (port, answer) = scene.inner(answer);
            arrivals.extend(split(&answer, u32::from(n), 32).into_iter().map(|p| (port, p)));
            let from = scene.client(family);
            let data = tcp(from, endpoint(family.vip(), 80), PSH_ACK).payload(&[5; 64]);
            let (_, data) = scene.front(data);
            arrivals.extend(split(&data, 999 + u32::from(n), 32).into_iter().map(|p| (FRONT, p)));
        }
    }
    arrivals
}

fn bad_fragments(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..50u16 {
        for family in Family::BOTH {
            let frame = long_datagram(scene, family, 42_000 + n, 200);
            let other = long_datagram(scene, family, 42_100 + n, 200);
            let ident = 5000 + u32::from(n);
            let mut pieces = split(&frame, ident, 40);
            match n % 8 {
                // Overlaps.
                0 => pieces.extend(split(&frame, ident, 48)),
                // Another first piece.
                1 => pieces.insert(1, split(&other, ident, 40)[0].clone()),
                // No first, no last, none but the last.
                2 => drop(pieces.remove(0)),
                3 => drop(pieces.pop()),
                4 => drop(pieces.drain(..pieces.len() - 1)),
                // Tiny ones, the first without its header, and the last without anything.
                5 => pieces = split(&frame[..frame.len() - 4], ident, 8),
                6 => {
                    let header = if family == Family::V4 { 34 } else { 62 };
                    for piece in &mut pieces {
                        let cut = scene.rng.below(12);
                        piece.truncate(header + cut);
                        let len = (piece.len() - 14) as u16;
                        set_length(piece, len);
                    }
                }
                // Offsets and flags at random, up to 65,535 bytes.
                _ => {
                    for piece in &mut pieces {
                        let at = if family == Family::V4 { 20 } else { 56 };
                        let word = scene.rng.number() as u16;
                        piece[at..at + 2].copy_from_slice(&word.to_be_bytes());
                    }
                }
            }
            for mut piece in pieces {
                if family == Family::V4 {
                    mend_ipv4_checksum(&mut piece);
                }
                arrivals.push((FRONT, piece));
            }
            // Strays of a server, and of whoever says it is one.
            let server = endpoint(family.server(11), 8080);
            let to = scene.rng.pick(&[family.lip(), family.client(), pool(family)]);
            let stray = tcp(server, endpoint(to, 1024 + n), PSH_ACK).payload(&[4; 28]);
            let (port, stray) =
                if scene.rng.once_in(2) { scene.inner(stray) } else { scene.front(stray) };
            arrivals.extend(split(&stray, ident + 2, 24).into_iter().map(|p| (port, p)));
            arrivals.extend(split(&stray, ident + 3, 40).into_iter().map(|p| (port, p)));
            // TCP, ICMP and unknown protocols in fragments; a SYN in two.
            for protocol in [1, 6, 58, 132, 0, 60] {
                let mut pieces = split(&frame, ident + 1, 48);
                for piece in &mut pieces {
                    piece[if family == Family::V4 { 23 } else { 54 }] = protocol;
                    if family == Family::V4 {
                        mend_ipv4_checksum(piece);
                    }
                }
                arrivals.extend(pieces.into_iter().map(|piece| (FRONT, piece)));
            }
        }
    }
    arrivals
}

/// More packets than wait, and more of one packet than may.
fn fragment_flood(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        let frame = long_datagram(scene, family, 43_000, 800);
        let pieces = split(&frame, 0, 8);
        for n in 0..700u32 {
            let mut late = pieces[3].clone();
            let at = if family == Family::V4 { 18 } else { 60 };
            late[at..at + 2].copy_from_slice(&(n as u16).to_be_bytes());
            if family == Family::V4 {
                mend_ipv4_checksum(&mut late);
            }
            arrivals.push((FRONT, late));
        }
        for n in 0..3000u32 {
            let mut first = pieces[0].clone();
            let at = if family == Family::V4 { 18 } else { 60 };
            first[at..at + 2].copy_from_slice(&(10_000 + n as u16).to_be_bytes());
            if family == Family::V4 {
                mend_ipv4_checksum(&mut first);
            }
            arrivals.push((FRONT, first));
        }
        // One after the other from the second on, and every second one.
        arrivals.extend(pieces[2..].iter().map(|piece| (FRONT, piece.clone())));
        let other = split(&frame, 12_345, 8);
        arrivals.extend(other[2..].iter().step_by(2).map(|piece| (FRONT, piece.clone())));
    }
    scene.rng.shuffle(&mut arrivals);
    arrivals
}

fn options_and_extensions(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for frame in scene.samples(Family::V4) {
        for options in [
            &[7u8, 7, 4, 0, 0, 0, 0, 0][..],
            &[131, 7, 4, 192, 0, 2, 1, 0],
            &[137, 7, 4, 192, 0, 2, 1, 0],
            &[148, 4, 0, 0],
            &[1, 1, 1, 0],
            &[7, 0, 4, 0],
            &[131, 255, 4, 0],
            &[68, 40, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let mut long = frame.clone();
            long.splice(34..34, options.iter().copied());
            long[14] = 0x45 + (options.len() / 4) as u8;
            let len = (long.len() - 14) as u16;
            set_length(&mut long, len);
            mend_ipv4_checksum(&mut long);
            arrivals.push((FRONT, long));
        }
    }
    for frame in scene.samples(Family::V6) {
        for chain in [
            &[0u8][..],
            &[43],
            &[60],
            &[51],
            &[44],
            &[135],
            &[139],
            &[140],
            &[59],
            &[0, 60, 43, 60, 51],
            &[60, 44],
            &[44, 60],
            &[44, 44],
            &[0; 20],
            &[253, 254],
        ] {
            let mut long = frame.clone();
            let last = long[20];
            for (n, _) in chain.iter().enumerate().rev() {
                let next = chain.get(n + 1).copied().unwrap_or(last);
                long.splice(54..54, [next, 0, 0, 0, 0, 0, 0, 0]);
            }
            long[20] = chain[0];
            let len = (long.len() - 14) as u16;
            set_length(&mut long, len);
            arrivals.push((FRONT, long));
        }
    }
    arrivals
}

/// More sources than there is room for.
fn syn_flood(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..900u32 {
        let (a, b) = ((n >> 8) as u8, n as u8);
        let v4 = ip(&format!("203.{}.{a}.{b}", 1 + scene.rng.below(90)));
        let v6 = ip(&format!("2001:db8:77:{a:x}::{b:x}"));
        for (from, family) in [(v4, Family::V4), (v6, Family::V6)] {
            let from = endpoint(from, 1024 + scene.rng.below(60_000) as u16);
            let web = endpoint(family.vip(), 80);
            let mut packet = tcp(from, web, SYN).seq(scene.rng.number() as u32);
            if scene.rng.once_in(2) {
                packet = packet.options(&LINUX);
            }
            arrivals.push(scene.front(packet));
            if scene.rng.once_in(8) {
                arrivals.push(scene.front(udp(from, endpoint(family.vip(), 53))));
            }
        }
    }
    arrivals
}

/// Each set of flags, without a session and with one, from both sides.
fn all_flags(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for flags in 0..=255 {
        for family in Family::BOTH {
            let web = endpoint(family.vip(), 80);
            let fresh = endpoint(family.client(), 50_000 + u16::from(flags));
            let known = scene.client(family);
            let server = endpoint(family.server(11), 8080);
            arrivals.push(scene.front(tcp(fresh, web, flags)));
            arrivals.push(scene.front(tcp(known, web, flags)));
            arrivals.push(scene.inner(tcp(server, known, flags)));
            if flags % 16 == 0 {
                arrivals.push(scene.front(tcp(known, web, SYN)));
                let lip = endpoint(family.lip(), 1024 + scene.rng.below(60_000) as u16);
                arrivals.push(scene.inner(tcp(server, lip, flags | ACK)));
            }
        }
    }
    arrivals
}

fn sources(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        let mut forged = vec![
            family.vip(),
            family.front(),
            family.back(),
            family.lip(),
            family.router(),
            family.server(11),
            pool(family),
        ];
        forged.extend(match family {
            Family::V4 => ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"]
                .map(ip)
                .to_vec(),
            Family::V6 => {
                ["::", "::1", "ff02::1", "fe80::9", "::ffff:198.51.100.7", "::ffff:0.0.0.0"]
                    .map(ip)
                    .to_vec()
            }
        });
        let targets = [forged.clone(), vec![family.client()]].concat();
        for src in forged {
            for dst in &targets {
                for (sport, dport) in [(80, 80), (0, 80), (40_000, 0), (40_001, 80)] {
                    let (src, dst) = (endpoint(src, sport), endpoint(*dst, dport));
                    for packet in [tcp(src, dst, SYN), tcp(src, dst, ACK)] {
                        arrivals.push(scene.front(packet.clone()));
                        arrivals.push(scene.inner(packet));
                    }
                    let dns = SocketAddr::new(dst.ip(), if dport == 80 { 53 } else { dport });
                    arrivals.push(scene.front(udp(src, dns)));
                    arrivals.push(scene.inner(udp(src, dns)));
                }
                let macs = (ROUTER_MAC, scene.macs[0]);
                arrivals.push((FRONT, echo(macs, src, *dst, false, 64)));
                let quote = tcp(endpoint(*dst, 80), endpoint(src, 40_001), ACK).bytes();
                let error = [(3, 3), (1, 4)];
                arrivals.push((FRONT, icmp_error(macs, src, *dst, 64, error, 0, &quote[14..])));
            }
        }
    }
    arrivals
}

/// Resets, SYNs and data with numbers of all kinds for connections in every state; windows of zero.
fn numbers(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..700usize {
        let family = Family::BOTH[n % 2];
        let (from, web) = (scene.client(family), scene.web(family));
        let flags = scene.rng.pick(&[SYN, SYN, RST, RST | ACK, ACK, PSH_ACK, FIN_ACK, SYN_ACK]);
        let seq = scene.rng.number() as u32;
        let near = crate::frames::ISN.wrapping_add(scene.rng.below(200_000) as u32).wrapping_sub(9);
        let packet = tcp(from, web, flags)
            .seq(scene.rng.pick(&[seq, near, crate::frames::ISN, crate::frames::ISN + 1]))
            .ack(scene.rng.pick(&[seq, near, 0, crate::frames::ISN + 1]))
            .window(scene.rng.pick(&[0, 0, 1, 65_535]))
            .ttl(scene.rng.pick(&[0, 1, 2, 64, 255]));
        let data = scene.rng.pick(&[0usize, 0, 1, 1000]);
        arrivals.push(scene.front(packet.payload(&vec![1; data])));
    }
    arrivals
}

fn tcp_options(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..320usize {
        let family = Family::BOTH[n % 2];
        let (from, web) = (scene.client(family), scene.web(family));
        let mut options = Vec::new();
        while options.len() < 40 && !scene.rng.once_in(5) {
            let kind = scene.rng.pick(&[0u8, 1, 2, 3, 4, 5, 8, 28, 30, 34, 253, 254, 255]);
            let length = scene.rng.pick(&[0u8, 1, 2, 3, 4, 8, 10, 20, 41, 255]);
            options.push(kind);
            options.push(length);
            let body = scene.rng.below(10);
            options.extend(scene.rng.bytes(body));
        }
        options.truncate(40);
        while options.len() % 4 != 0 {
            options.push(scene.rng.pick(&[0u8, 1, 2, 8]));
        }
        let flags = scene.rng.pick(&[SYN, SYN, SYN, ACK, PSH_ACK, FIN_ACK]);
        let data = vec![2; scene.rng.pick(&[0usize, 0, 1, 1400])];
        arrivals.push(scene.front(tcp(from, web, flags).options(&options).payload(&data)));
        let server = endpoint(family.server(11), 8080);
        arrivals.push(scene.inner(tcp(server, from, flags | ACK).options(&options)));
    }
    arrivals
}

/// What comes first after a handshake, or instead of one.
fn first_segments(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..200u16 {
        for family in Family::BOTH {
            let (from, web) = (endpoint(family.client(), 44_000 + n), endpoint(family.vip(), 80));
            arrivals.push(scene.front(tcp(from, web, SYN).options(&LINUX)));
            let seq = crate::frames::ISN.wrapping_add(scene.rng.below(5) as u32).wrapping_sub(1);
            let flags =
                scene.rng.pick(&[ACK, PSH_ACK, FIN_ACK, RST, RST | ACK, 0x30, SYN, SYN_ACK]);
            let data = vec![7; scene.rng.pick(&[0usize, 0, 1, 500, 1300, 1460, 1440])];
            let packet = tcp(from, web, flags).seq(seq).payload(&data);
            for _ in 0..=scene.rng.below(3) {
                arrivals.push(scene.front(packet.clone()));
            }
            arrivals.push(scene.front(tcp(from, web, FIN_ACK).seq(seq + 1)));
        }
    }
    arrivals
}

fn long_ones(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        let headers = if family == Family::V4 { 20 } else { 40 };
        for len in (1380..=1500)
            .step_by(8)
            .chain([1279, 1280, 1281, 1495, 1499, 1500, 1501, 1514])
            .chain([1600, 1900])
        {
            for may_fragment in [false, true] {
                let (from, size) = (scene.client(family), len - headers);
                let class = scene.rng.number() as u8;
                for packet in [
                    udp(from, endpoint(family.vip(), 53)).payload(&vec![1; size - 8]),
                    tcp(from, endpoint(family.vip(), 80), PSH_ACK).payload(&vec![1; size - 20]),
                    tcp(from, endpoint(family.vip(), 80), SYN).payload(&vec![1; size - 20]),
                ] {
                    let mut frame = with_class(scene.front(packet).1, class);
                    if may_fragment && family == Family::V4 {
                        frame[20] &= !0x40;
                        mend_ipv4_checksum(&mut frame);
                    }
                    arrivals.push((FRONT, frame));
                }
                let server = endpoint(family.server(11), 8080);
                arrivals.push(scene.inner(tcp(server, from, ACK).payload(&vec![1; size - 20])));
            }
        }
        // Padding of Ethernet.
        for mut frame in scene.samples(family) {
            frame.resize(frame.len().max(60) + scene.rng.below(30), 0xaa);
            arrivals.push((FRONT, frame));
        }
    }
    arrivals
}

/// Messages of all types and codes, with quotes of all kinds.
fn icmp(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        let web = endpoint(family.vip(), 80);
        for n in 0..320u32 {
            let from = scene.client(family);
            let inward = scene.rng.once_in(3);
            let quoted = match (inward, scene.rng.below(4)) {
                (true, 0) => tcp(from, endpoint(family.server(11), 8080), ACK).bytes(),
                (true, _) => udp(from, endpoint(family.server(11), 5353)).bytes(),
                (false, 0) => udp(endpoint(family.vip(), 53), from).bytes(),
                (false, 1) => tcp(web, from, ACK).payload(&[1; 600]).bytes(),
                (false, 2) => echo((ROUTER_MAC, ROUTER_MAC), family.vip(), from.ip(), true, 9),
                (false, _) => tcp(web, from, SYN_ACK).bytes(),
            };
            let mut quote = quoted[14..].to_vec();
            match scene.rng.below(4) {
                0 => quote.truncate(scene.rng.below(quote.len() + 1)),
                1 => {
                    let at = scene.rng.below(quote.len().min(60));
                    quote[at] = scene.rng.number() as u8;
                }
                _ => {}
            }
            let (v4, v6) = match scene.rng.below(3) {
                0 => (((n % 20) as u8, (n / 20) as u8), ((n % 6) as u8, (n / 20) as u8)),
                1 => ((3, 4), (2, 0)),
                _ => ((11, 0), (3, 0)),
            };
            let mtu = scene.rng.pick(&[0u32, 1, 68, 575, 576, 1279, 1280, 1400, 65_535, u32::MAX]);
            let sender = scene.rng.pick(&[from.ip(), family.router(), family.server(11)]);
            let to = match inward {
                true => scene.rng.pick(&[from.ip(), family.lip(), family.back()]),
                false => {
                    scene.rng.pick(&[family.vip(), family.vip(), family.front(), pool(family)])
                }
            };
            let (port, macs) = match inward {
                true => (scene.back, (server_mac(11), scene.macs[1])),
                false => (FRONT, (ROUTER_MAC, scene.macs[0])),
            };
            let ttl = scene.rng.pick(&[0, 1, 2, 64]);
            let mut frame = icmp_error(macs, sender, to, ttl, [v4, v6], mtu, &quote);
            if scene.rng.once_in(5) {
                let last = frame.len() - 1;
                frame[last] ^= 1;
            }
            arrivals.push((port, frame));
        }
        let macs = (ROUTER_MAC, scene.macs[0]);
        for kind in 0..=255 {
            let to = scene.rng.pick(&[family.vip(), family.front(), family.lip()]);
            let types = [(kind, 0), (kind, 0)];
            arrivals
                .push((FRONT, icmp_error(macs, family.client(), to, 255, types, 1, b"12345678")));
        }
    }
    arrivals
}

fn link(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let everybody = [255; 6];
    for _ in 0..80 {
        let operation = ArpOperation(scene.rng.pick(&[0, 1, 1, 2, 2, 3, 65_535]));
        let mut address = || {
            scene.rng.pick(&[
                "192.0.2.1",
                "192.0.2.10",
                "192.0.2.2",
                "10.0.0.11",
                "0.0.0.0",
                "224.0.0.1",
                "255.255.255.255",
                "203.0.113.5",
                "10.0.0.200",
            ])
        };
        let (sender, target) = (address(), address());
        let from = scene.rng.pick(&[ROUTER_MAC, server_mac(11), scene.macs[0], everybody, [0; 6]]);
        let to = scene.rng.pick(&[everybody, scene.macs[0], scene.macs[1]]);
        let mut frame = arp(operation, (from, to), sender, target, [0; 6]);
        if scene.rng.once_in(3) {
            let at = 14 + scene.rng.below(frame.len() - 14);
            frame[at] = scene.rng.number() as u8;
        }
        if scene.rng.once_in(5) {
            frame.truncate(14 + scene.rng.below(28));
        }
        let port = scene.rng.pick(&[FRONT, scene.back]);
        arrivals.push((port, frame));
    }
    for _ in 0..120 {
        let mut address = || {
            scene.rng.pick(&[
                "2001:db8:1::1",
                "2001:db8:1::10",
                "2001:db8:1::2",
                "2001:db8:2::11",
                "::",
                "ff02::1",
                "fe80::1",
                "2001:db8:3::5",
            ])
        };
        let (src, dst, target) = (address(), address(), address());
        let kind = scene.rng.pick(&[133, 134, 135, 135, 136, 136, 137]);
        let option = scene.rng.pick(&[
            None,
            Some((1, ROUTER_MAC)),
            Some((2, ROUTER_MAC)),
            Some((1, everybody)),
        ]);
        let macs = (ROUTER_MAC, scene.rng.pick(&[scene.macs[0], [0x33, 0x33, 0xff, 0, 0, 0x10]]));
        let flags = scene.rng.number() as u8;
        let mut frame = ndp(kind, macs, src, dst, flags, target, option);
        if scene.rng.once_in(2) && frame.len() > 78 {
            frame[79] = scene.rng.pick(&[0, 2, 255]);
            mend(&mut frame);
        }
        if scene.rng.once_in(6) {
            frame[21] = 64;
        }
        arrivals.push((FRONT, frame));
    }
    for ether_type in [0u16, 0x0600, 0x0805, 0x8847, 0x88cc, 0xffff] {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&scene.macs[0]);
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        arrivals.push((scene.back, frame));
    }
    arrivals
}

fn tags(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for family in Family::BOTH {
        for frame in scene.samples(family) {
            for tags in [
                &[(0x8100u16, 0u16)][..],
                &[(0x8100, 0xe000)],
                &[(0x8100, 5)],
                &[(0x88a8, 0)],
                &[(0x8100, 0), (0x8100, 0)],
                &[(0x88a8, 5), (0x8100, 7)],
                &[(0x8100, 0), (0x88a8, 0), (0x8100, 0)],
            ] {
                let mut tagged = frame.clone();
                for (kind, tag) in tags.iter().rev() {
                    let [a, b] = kind.to_be_bytes();
                    let [c, d] = tag.to_be_bytes();
                    tagged.splice(12..12, [a, b, c, d]);
                }
                arrivals.push((FRONT, tagged.clone()));
                tagged.truncate(12 + scene.rng.below(12));
                arrivals.push((FRONT, tagged));
            }
        }
    }
    arrivals
}

fn quic(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..200usize {
        let family = Family::BOTH[n % 2];
        let from = scene.client(family);
        let len = scene.rng.pick(&[0usize, 1, 2, 5, 6, 7, 9, 20, 21, 30, 60, 1200]);
        let mut data = scene.rng.bytes(len);
        if let [first, _, _, _, _, cid_length, ..] = &mut data[..] {
            *first = scene.rng.pick(&[0x00, 0x40, 0x7f, 0x80, 0xc0, 0xd3, 0xff]);
            *cid_length = scene.rng.pick(&[0, 1, 8, 20, 21, 255]);
        }
        let port = scene.rng.pick(&[443, 443, 53]);
        arrivals.push(scene.front(udp(from, endpoint(family.vip(), port)).payload(&data)));
    }
    arrivals
}

/// Hosts inside to the world, to the pool and to themselves by way of it; the world to the pool.
fn inside_and_outside(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..500usize {
        let family = Family::BOTH[n % 2];
        let host = scene.rng.pick(&[11, 12, 13]);
        let inside = endpoint(family.server(host), 5000 + scene.rng.below(6) as u16);
        let world = endpoint(family.client(), 1000 + scene.rng.below(6) as u16);
        let outer = endpoint(pool(family), scene.rng.pick(&[8443, 1024, 2048, 5000, 40_000]));
        let ports = 1024 + scene.rng.below(64_000) as u16;
        let outer = if scene.rng.once_in(2) { outer } else { endpoint(pool(family), ports) };
        let flags = scene.rng.pick(&[SYN, SYN, ACK, RST, FIN_ACK]);
        let ttl = scene.rng.pick(&[64, 64, 64, 1, 2]);
        let (src, dst) = match scene.rng.below(5) {
            0 | 1 => (inside, world),
            2 => (inside, outer),
            3 => (outer, inside),
            _ => (world, outer),
        };
        let packet = if scene.rng.once_in(2) { tcp(src, dst, flags) } else { udp(src, dst) };
        let from_inside = src != world && !scene.rng.once_in(10);
        let mut arrival = match from_inside {
            true => (scene.back, packet.ttl(ttl).macs(server_mac(host), scene.macs[1]).bytes()),
            false => scene.front(packet.ttl(ttl)),
        };
        match scene.rng.below(8) {
            0 => {
                let (port, macs) = match from_inside {
                    true => (scene.back, (server_mac(host), scene.macs[1])),
                    false => (FRONT, (ROUTER_MAC, scene.macs[0])),
                };
                let reply = scene.rng.once_in(2);
                let id = (scene.rng.below(4) as u16).wrapping_mul(ports);
                arrival = (port, echo_of(macs, src.ip(), dst.ip(), reply, ttl, id));
            }
            1 => {
                let pieces = split(&arrival.1, n as u32, 16);
                arrivals.extend(pieces[1..].iter().map(|piece| (arrival.0, piece.clone())));
                arrival.1 = pieces[0].clone();
            }
            _ => {}
        }
        arrivals.push(arrival);
    }
    arrivals
}

/// Many packets of a flow that is new in one burst, with other flows among them.
fn at_once(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..6u16 {
        for family in Family::BOTH {
            let from = endpoint(family.client(), 45_000 + n);
            for _ in 0..32 {
                let flags = scene.rng.pick(&[SYN, SYN, SYN, ACK, RST]);
                arrivals.push(scene.front(tcp(from, endpoint(family.vip(), 80), flags)));
                arrivals.push(scene.front(udp(from, endpoint(family.vip(), 53))));
            }
        }
    }
    arrivals
}
