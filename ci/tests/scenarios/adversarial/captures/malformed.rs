//! Frames that cannot be, and such as are not IP.

use etherparse::ArpOperation;

use super::super::oracle::mend;
use super::{Arrival, Scene, set_length};
use crate::frames::{arp, mend_ipv4_checksum, ndp};
use crate::net::{FRONT, Family, ROUTER_MAC, server_mac};

pub fn cut(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn lengths(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn flipped(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn options_and_extensions(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn link(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn tags(scene: &mut Scene) -> Vec<Arrival> {
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
