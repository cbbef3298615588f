//! TCP out of order: floods, scans, forged numbers, options that cannot be.

use super::{Arrival, LINUX, Scene, endpoint};
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, RST, SYN, SYN_ACK, tcp, udp};
use crate::net::{Family, ip};

/// More sources than there is room for.
pub fn syn_flood(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..900u32 {
        let (a, b) = ((n >> 8) as u8, n as u8);
        let v4 = ip(&format!("203.{}.{a}.{b}", 1 + scene.rng.below(90)));
        let v6 = ip(&format!("2001:db8:77:{a:x}::{b:x}"));
        // Of a network that is on the link: each is a next hop.
        let near = ip(&format!("2001:db8:1::{:x}:{b:x}", 0x100 + u32::from(a)));
        for (from, family) in [(v4, Family::V4), (v6, Family::V6), (near, Family::V6)] {
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
pub fn all_flags(scene: &mut Scene) -> Vec<Arrival> {
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

/// Resets, SYNs and data with numbers of all kinds for connections in every state; windows of zero.
pub fn numbers(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..700usize {
        let family = Family::BOTH[n % 2];
        let (from, web) = (scene.client(family), scene.web(family));
        let flags = scene.rng.pick(&[SYN, SYN, RST, RST | ACK, ACK, PSH_ACK, FIN_ACK, SYN_ACK]);
        let seq = scene.rng.number() as u32;
        let near = ISN.wrapping_add(scene.rng.below(200_000) as u32).wrapping_sub(9);
        let packet = tcp(from, web, flags)
            .seq(scene.rng.pick(&[seq, near, ISN, ISN + 1]))
            .ack(scene.rng.pick(&[seq, near, 0, ISN + 1]))
            .window(scene.rng.pick(&[0, 0, 1, 65_535]))
            .ttl(scene.rng.pick(&[0, 1, 2, 64, 255]));
        let data = scene.rng.pick(&[0usize, 0, 1, 1000]);
        arrivals.push(scene.front(packet.payload(&vec![1; data])));
    }
    arrivals
}

pub fn tcp_options(scene: &mut Scene) -> Vec<Arrival> {
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
pub fn first_segments(scene: &mut Scene) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for n in 0..200u16 {
        for family in Family::BOTH {
            let (from, web) = (endpoint(family.client(), 44_000 + n), endpoint(family.vip(), 80));
            arrivals.push(scene.front(tcp(from, web, SYN).options(&LINUX)));
            let seq = ISN.wrapping_add(scene.rng.below(5) as u32).wrapping_sub(1);
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

/// Many packets of a flow that is new in one burst, with other flows among them.
pub fn at_once(scene: &mut Scene) -> Vec<Arrival> {
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
