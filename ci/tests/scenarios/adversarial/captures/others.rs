//! Sources that cannot be, long packets, ICMP, QUIC, and what goes out by SNAT.

use std::net::SocketAddr;

use super::{Arrival, Scene, endpoint, pool};
use crate::fragments::split;
use crate::frames::{
    ACK, FIN_ACK, PSH_ACK, RST, SYN, SYN_ACK, echo, echo_of, icmp_error, mend_ipv4_checksum, tcp,
    udp, with_class,
};
use crate::net::{FRONT, Family, ROUTER_MAC, ip, server_mac};

pub fn sources(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn long_ones(scene: &mut Scene) -> Vec<Arrival> {
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
pub fn icmp(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn quic(scene: &mut Scene) -> Vec<Arrival> {
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
pub fn inside_and_outside(scene: &mut Scene) -> Vec<Arrival> {
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
