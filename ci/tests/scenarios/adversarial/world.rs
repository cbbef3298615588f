//! The world around the switch: clients, servers and routers that answer what leaves it, more or less
//! as they should, and frames that come again.

use std::net::SocketAddr;

use etherparse::TcpHeaderSlice;
use shunt::datapath::snapshot::{PortId, PortRole};
use shunt::wire::flow::{Address, Flow, Parsed, Protocol, parse, tcp_flags};

use super::captures::{Arrival, LINUX};
use super::{Replay, oracle};
use crate::frames::{ACK, FIN_ACK, PSH_ACK, Packet, RST, SYN, SYN_ACK, icmp_error, tcp, udp};
use crate::net::{FRONT, Family, ROUTER_MAC};

impl Replay {
    pub fn remember(&mut self, frames: &[Arrival]) {
        for frame in frames.iter().take(8) {
            if self.seen.len() < 200 {
                self.seen.push(frame.clone());
            } else {
                let at = self.rng.below(self.seen.len());
                self.seen[at] = frame.clone();
            }
        }
    }

    /// A frame that was seen before, by any port, with some bytes changed.
    pub fn seen_again(&mut self) -> Option<Arrival> {
        if self.seen.is_empty() {
            return None;
        }
        let (_, mut frame) = self.rng.pick(&self.seen);
        let port = self.rng.pick(&[FRONT, self.scene.back]);
        let mac = self.rig.net.snapshot.ports[usize::from(port.0)].mac;
        if frame.len() > 34 && !self.rng.once_in(10) {
            frame[..6].copy_from_slice(&mac);
            // An answer goes to whoever has sent the frame.
            frame[6..12].copy_from_slice(&ROUTER_MAC);
            for _ in 0..self.rng.below(4) {
                let at = 14 + self.rng.below(frame.len().min(100) - 14);
                frame[at] = self.rng.pick(&[0, 1, 255, frame[at] ^ 1, frame[at] ^ 0x80]);
            }
            if self.rng.once_in(4) {
                frame.truncate(14 + self.rng.below(frame.len() - 14));
            }
            if !self.rng.once_in(3) {
                oracle::mend(&mut frame);
            }
        }
        frame.truncate(1900);
        Some((port, frame))
    }

    /// What the world says to a frame that has left.
    pub fn answer(&mut self, (port, frame): &(PortId, Vec<u8>)) -> Option<Arrival> {
        let mut frame = frame.clone();
        let of = &self.rig.net.snapshot.ports[usize::from(port.0)];
        if of.vlan != 0 {
            drop(frame.drain(12..16));
        }
        let from: [u8; 6] = frame.get(..6)?.try_into().ok()?;
        let to = match of.role {
            // The kernel's answer goes by the router.
            PortRole::Exception { .. } => ROUTER_MAC,
            PortRole::Wire { .. } if of.name == "sensor" => return None,
            PortRole::Wire { .. } => of.mac,
        };
        let packet = match parse(&frame, &from, false).ok()? {
            Parsed::V4(flow) => self.reply(&flow, &frame)?,
            Parsed::V6(flow) => self.reply(&flow, &frame)?,
            _ if *port == self.scene.back && self.rng.once_in(6) => {
                // A router on the way to the end of a tunnel.
                let own = if frame[12] == 8 { Family::V4 } else { Family::V6 };
                let mtu = self.rng.pick(&[0, 600, 1280, 1400, 1480, 65_535]);
                let quote = &frame[14..frame.len().min(14 + 500)];
                let sender = own.server(19);
                let macs = (from, to);
                let error = icmp_error(macs, sender, own.back(), 9, [(3, 4), (2, 0)], mtu, quote);
                return Some((*port, error));
            }
            _ => return None,
        };
        if self.rng.once_in(12) {
            let family = if packet.src.is_ipv4() { Family::V4 } else { Family::V6 };
            let sender = self.rng.pick(&[packet.src.ip(), family.router()]);
            let mtu = self.rng.pick(&[0, 576, 1280, 1400]);
            let types = self.rng.pick(&[[(3, 4), (2, 0)], [(3, 3), (1, 4)], [(11, 0), (3, 0)]]);
            let end = self.rng.pick(&[14 + 28, 14 + 48, frame.len()]).min(frame.len()).min(800);
            let (to_ip, quote) = (packet.dst.ip(), &frame[14..end]);
            let error = icmp_error((from, to), sender, to_ip, 60, types, mtu, quote);
            return Some((*port, error));
        }
        Some((*port, packet.macs(from, to).bytes()))
    }

    fn reply<A: Address>(&mut self, flow: &Flow<A>, frame: &[u8]) -> Option<Packet> {
        let at = |ip: A, port| SocketAddr::new(ip.into(), port);
        let (src, dst) = (at(flow.key.dst, flow.key.dport), at(flow.key.src, flow.key.sport));
        let rng = &mut self.rng;
        if rng.once_in(8) {
            return None;
        }
        if flow.key.protocol == Protocol::Udp {
            let len = rng.pick(&[0, 5, 100]);
            return Some(udp(src, dst).payload(&vec![9; len]));
        }
        let bytes = &frame[A::TRANSPORT..usize::from(flow.frame_len)];
        let segment = TcpHeaderSlice::from_slice(bytes).ok()?;
        let flags = flow.tcp_flags;
        let length = (bytes.len() - segment.slice().len()) as u32
            + u32::from(flags & tcp_flags::SYN != 0)
            + u32::from(flags & tcp_flags::FIN != 0);
        let next = segment.sequence_number().wrapping_add(length);
        let known = segment.acknowledgment_number();
        let own = if flags & ACK != 0 { known } else { rng.number() as u32 };
        // The clock of the other side comes back.
        let mut options = Vec::new();
        if let Some(at) = segment.options().windows(2).position(|w| w == [8, 10])
            && let Some(value) = segment.options().get(at + 2..at + 6)
        {
            options.extend([1, 1, 8, 10, 0, 0, 1, 0]);
            options.extend(value);
        }
        let packet = |flags: u8| tcp(src, dst, flags).seq(own).ack(next).options(&options);
        Some(match rng.below(24) {
            0 => packet(RST | ACK),
            1 => packet(RST).seq(rng.number() as u32),
            2 => packet(SYN).seq(rng.number() as u32),
            3 => packet(SYN_ACK).seq(rng.number() as u32),
            4 => packet(FIN_ACK),
            5 => packet(rng.number() as u8).window(0),
            6 => packet(ACK).ttl(1),
            7 => packet(PSH_ACK).payload(&vec![8; rng.pick(&[1, 536, 1200, 1400])]),
            8 => packet(ACK).seq(own.wrapping_sub(1)).window(0),
            9 if flags == SYN => packet(SYN).seq(own),
            _ if flags & RST != 0 => return None,
            _ if flags == SYN => {
                if rng.once_in(2) {
                    packet(SYN_ACK).options(&LINUX)
                } else {
                    packet(SYN_ACK)
                }
            }
            _ if flags & tcp_flags::FIN != 0 => packet(rng.pick(&[FIN_ACK, ACK])),
            _ if length == 0 && rng.once_in(2) => return None,
            _ => packet(rng.pick(&[ACK, PSH_ACK])).payload(&vec![6; rng.pick(&[0, 1, 300])]),
        })
    }
}
