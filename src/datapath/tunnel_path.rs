//! What the paths to real servers take that are reached by a tunnel (RFC 1191, RFC 8201): routers
//! between say so in ICMP errors to the outer source, which is an address of ours.
//!
//! A worker that learns of a shorter path tells the others by way of the management thread
//! ([`Notice::PathMtu`]). What was learnt is forgotten after [`LIFETIME_MS`], so that a path that has
//! become longer is used again. There is one entry for each server, whatever comes in.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::frame::Frame;
use super::notice::Notice;
use super::shared::Shared;
use crate::wire::{ip_protocol, ipv4, ipv6};

/// How long a path is taken to be as short as learnt, in milliseconds (RFC 1191 6.3: 10 minutes).
const LIFETIME_MS: u32 = 600_000;
/// The least that is believed of an IPv4 path: what every host takes (RFC 791), so that a forged error
/// does no great harm.
const LEAST_V4: u16 = 576;
/// The least that an IPv6 path takes (RFC 8200 5).
const LEAST_V6: u16 = 1280;
/// Paths there are, from RFC 1191 7.1: the next lower one is meant by a router that gives no size.
const PLATEAUS: [u16; 5] = [8166, 4352, 2002, 1492, 1006];

/// The outer packets to one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    /// Our address.
    pub(super) src: IpAddr,
    /// The server's.
    pub(super) dst: IpAddr,
    /// Around IPv4 and around IPv6.
    pub(super) protocols: [u8; 2],
    /// The UDP destination port, if they are UDP.
    pub(super) udp_port: Option<u16>,
}

/// The way to one server.
#[derive(Clone, Copy, Debug)]
struct Path {
    outer: Outer,
    /// What the port takes.
    port_mtu: u16,
    /// What the path takes, and since when that is known.
    learnt: Option<(u16, u32)>,
}

/// The paths of all tunnels of a worker.
#[derive(Debug, Default)]
pub(super) struct Paths {
    paths: Vec<Path>,
    /// Those to an address.
    by_address: HashMap<IpAddr, Vec<u16>>,
}

impl Paths {
    /// Adds the path of the next tunnel; `old` is what was known before. Returns the longest packet.
    pub(super) fn add(&mut self, outer: &Outer, port_mtu: u16, old: &Paths) -> u16 {
        let known = old.by_address.get(&outer.dst).and_then(|places| places.first());
        let learnt = known.and_then(|place| old.paths[usize::from(*place)].learnt);
        self.by_address.entry(outer.dst).or_default().push(self.paths.len() as u16);
        self.paths.push(Path { outer: *outer, port_mtu, learnt });
        learnt.map_or(port_mtu, |(mtu, _)| mtu.min(port_mtu))
    }

    /// Notes what the paths to an address take, unless less is known. Returns their places.
    pub(super) fn learn(
        &mut self,
        address: IpAddr,
        mtu: u16,
        now: u32,
    ) -> impl Iterator<Item = usize> {
        let places = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        for place in places {
            let path = &mut self.paths[usize::from(*place)];
            if mtu < path.port_mtu && path.learnt.is_none_or(|(known, _)| mtu <= known) {
                path.learnt = Some((mtu, now));
            }
        }
        places.iter().map(|place| usize::from(*place))
    }

    /// Forgets what was learnt of a path if that is long ago; what the port takes then holds.
    pub(super) fn forget(&mut self, place: usize, now: u32) -> Option<u16> {
        let path = &mut self.paths[place];
        let (_, since) = path.learnt?;
        if now.wrapping_sub(since) < LIFETIME_MS {
            return None;
        }
        path.learnt = None;
        Some(path.port_mtu)
    }

    /// The server that an outer packet was sent to, if we can have sent it.
    fn destination(&self, quote: &Quote) -> Option<IpAddr> {
        let ours = |place: &u16| {
            let outer = &self.paths[usize::from(*place)].outer;
            outer.src == quote.src
                && outer.protocols.contains(&quote.protocol)
                && (outer.udp_port.is_none() || outer.udp_port == quote.udp_port)
        };
        self.by_address.get(&quote.dst)?.iter().any(ours).then_some(quote.dst)
    }
}

/// What the quote in an ICMP error says of the packet.
struct Quote {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    udp_port: Option<u16>,
    len: u16,
}

impl Quote {
    fn read(bytes: &[u8]) -> Option<Quote> {
        let (src, dst, protocol, header, len): (IpAddr, IpAddr, _, _, _);
        match bytes.first()? >> 4 {
            4 if bytes.len() >= ipv4::HEADER_LEN => {
                let packet = ipv4::Packet::new_unchecked(bytes);
                (src, dst) = (packet.src().into(), packet.dst().into());
                (protocol, header, len) =
                    (packet.protocol(), packet.header_len(), packet.total_len());
            }
            6 if bytes.len() >= ipv6::HEADER_LEN => {
                let packet = ipv6::Packet::new_unchecked(bytes);
                (src, dst) = (packet.src().into(), packet.dst().into());
                let total = packet.payload_len().saturating_add(ipv6::HEADER_LEN as u16);
                (protocol, header, len) = (packet.next_header(), ipv6::HEADER_LEN, total);
            }
            _ => return None,
        }
        let ports = bytes.get(header..header + 4).filter(|_| protocol == ip_protocol::UDP);
        let udp_port = ports.map(|ports| u16::from_be_bytes([ports[2], ports[3]]));
        Some(Quote { src, dst, protocol, udp_port, len })
    }
}

/// Takes in that a packet of ours was too long for its path. `quoted` is the packet as the ICMP error
/// quotes it, from its IP header on; `mtu` is what the error says, 0 if nothing (RFC 1191 5). The
/// error itself has been checked and was sent to the quoted source. Packets that were none of a tunnel
/// are ignored.
pub(super) fn learn_path_mtu<F: Frame>(shared: &mut Shared<F>, quoted: &[u8], mtu: u32, now: u32) {
    let Some(quote) = Quote::read(quoted) else { return };
    let Some(address) = shared.tunnels.paths.destination(&quote) else { return };
    let least = if address.is_ipv4() { LEAST_V4 } else { LEAST_V6 };
    let mtu = match u16::try_from(mtu) {
        Ok(0) => PLATEAUS.into_iter().find(|plateau| *plateau < quote.len).unwrap_or(least),
        Ok(mtu) => mtu,
        Err(_) => return,
    };
    let mtu = mtu.max(least);
    if shared.tunnels.lower(address, mtu, now) {
        shared.notify(Notice::PathMtu(address, mtu));
    }
}
