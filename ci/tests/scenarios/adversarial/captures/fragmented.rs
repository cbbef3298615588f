//! Fragments: honest ones in any order, such as do not fit together, and floods of them.

use super::{Arrival, Scene, endpoint, pool, set_length};
use crate::fragments::split;
use crate::frames::{PSH_ACK, mend_ipv4_checksum, tcp, udp};
use crate::net::{FRONT, Family};

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
pub fn fragments(scene: &mut Scene) -> Vec<Arrival> {
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

pub fn bad_fragments(scene: &mut Scene) -> Vec<Arrival> {
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
            // A datagram without a checksum.
            if family == Family::V4 {
                let mut without = long_datagram(scene, family, 42_200 + n, 200);
                without[40..42].fill(0);
                arrivals.extend(split(&without, ident + 4, 40).into_iter().map(|p| (FRONT, p)));
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
pub fn fragment_flood(scene: &mut Scene) -> Vec<Arrival> {
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
