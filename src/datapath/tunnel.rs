//! Packets on their way to a real server through a tunnel ([`crate::rewrite::tunnel`]): the outer
//! headers of every server, and what a path takes.
//!
//! A packet that does not fit with its outer headers is never fragmented outside: its sender is told
//! the size that does, or, if it is IPv4 and may be fragmented, it goes in two fragments, each with
//! outer headers of its own, which the real server puts together. Only an IPv6 packet that its sender
//! need not make smaller (1280 bytes, RFC 8200 5) is left to be fragmented on an IPv4 path that takes
//! less (RFC 4213 3.2.1).

use super::established;
use super::family::Family;
use super::frame::Frame;
use super::hops::Hop;
use super::icmp;
use super::shared::Shared;
use super::snapshot::{Server, Service, Snapshot};
use super::tunnel_path::{Outer, Paths};
use super::verdict::Verdict;
use crate::rewrite::ethernet;
use crate::rewrite::tunnel::{Encapsulation, Template};
use crate::session::{Direction, HopRef, Mode, ServerId};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Flow, FlowKey};
use crate::wire::{DropReason, ip_protocol, ipv4};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// In [`Tunnels::places`]: not reached by a tunnel.
const NONE: u16 = u16::MAX;
/// The longest packet that IPv6 hosts may send without asking (RFC 8200 5).
const LEAST_V6: u16 = 1280;
/// Identifications are counted by each worker, this far apart at the start.
const IDENT_STEP: u16 = 1024;

/// The way to one real server.
#[derive(Clone, Copy, Debug)]
struct Tunnel {
    /// For IPv4 packets and for IPv6 packets.
    templates: [Template; 2],
    /// The longest outer packet in bytes.
    limit: u16,
}

/// The tunnels of a worker.
#[derive(Debug)]
pub(super) struct Tunnels {
    /// By server: its place in `tunnels`.
    places: Vec<u16>,
    tunnels: Vec<Tunnel>,
    /// By the same place.
    pub(super) paths: Paths,
    /// The identification of the next packet that may be fragmented on its way.
    ident: u16,
}

impl Tunnels {
    /// None.
    pub(super) fn new(worker: u8) -> Self {
        let ident = u16::from(worker).wrapping_mul(IDENT_STEP);
        Tunnels { places: Vec::new(), tunnels: Vec::new(), paths: Paths::default(), ident }
    }

    /// Takes a new configuration. What was learnt of paths to addresses that remain is kept.
    pub(super) fn configure(&mut self, snapshot: &Snapshot) {
        let old = std::mem::take(&mut self.paths);
        self.tunnels.clear();
        self.places.clear();
        for server in &snapshot.servers {
            let service = snapshot.services.get(usize::from(server.service.0));
            let place = match service.and_then(|service| tunnel(snapshot, service, server)) {
                Some((tunnel, outer)) => {
                    let limit = self.paths.add(&outer, tunnel.limit, &old);
                    self.tunnels.push(Tunnel { limit, ..tunnel });
                    (self.tunnels.len() - 1) as u16
                }
                None => NONE,
            };
            self.places.push(place);
        }
    }

    /// Lowers the longest outer packet towards `address`, as learnt at `now`. Whether it was longer.
    pub(super) fn lower(&mut self, address: IpAddr, mtu: u16, now: u32) -> bool {
        let mut lowered = false;
        for place in self.paths.learn(address, mtu, now) {
            let tunnel = &mut self.tunnels[place];
            lowered |= mtu < tunnel.limit;
            tunnel.limit = tunnel.limit.min(mtu);
        }
        lowered
    }

    fn get(&self, server: ServerId) -> Option<&Tunnel> {
        let place = *self.places.get(usize::from(server.0))?;
        self.tunnels.get(usize::from(place))
    }

    /// The longest packet that goes to the server, after what was learnt too long ago is forgotten.
    #[cold]
    fn room_anew(&mut self, server: ServerId, overhead: u16, now: u32) -> u16 {
        let place = usize::from(self.places[usize::from(server.0)]);
        if let Some(limit) = self.paths.forget(place, now) {
            self.tunnels[place].limit = limit;
        }
        self.tunnels[place].limit.saturating_sub(overhead)
    }

    fn next_ident(&mut self) -> u16 {
        let ident = self.ident;
        self.ident = ident.wrapping_add(1);
        ident
    }
}

/// The tunnel to a server, and what its outer packets are.
fn tunnel(snapshot: &Snapshot, service: &Service, server: &Server) -> Option<(Tunnel, Outer)> {
    let port = snapshot.ports.get(usize::from(server.route.port.0))?;
    let udp_port = service.tunnel_port;
    let encapsulation = match service.mode {
        Mode::Nat | Mode::FullNat | Mode::Dr | Mode::Snat => return None,
        Mode::Ipip => Encapsulation::Ipip,
        Mode::Gre => Encapsulation::Gre,
        Mode::Gue => Encapsulation::Gue { port: udp_port },
        Mode::Vxlan => Encapsulation::Vxlan {
            port: udp_port,
            vni: service.vni,
            src: port.mac,
            dst: server.inner_mac,
        },
    };
    let src = match server.address {
        IpAddr::V4(_) => IpAddr::V4(port.ipv4?),
        IpAddr::V6(_) => IpAddr::V6(port.ipv6?),
    };
    let dst = server.address;
    let templates = [
        Template::new::<Ipv4Addr>(src, dst, encapsulation)?,
        Template::new::<Ipv6Addr>(src, dst, encapsulation)?,
    ];
    let protocols = templates.map(|template| template.protocol());
    let udp_port = (protocols[0] == ip_protocol::UDP).then_some(udp_port);
    Some((Tunnel { templates, limit: port.mtu }, Outer { src, dst, protocols, udp_port }))
}

/// Sends the packet of a session to its server, as [`established::act`] does in the other modes.
#[inline(never)]
pub(super) fn forward<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    server: ServerId,
    hop: (HopRef, Hop),
    now: u32,
) -> Verdict {
    let received = frame.bytes().len();
    match send(shared, frame, flow, server, hop, now) {
        Ok(verdict) => {
            shared.counters.server(server).count(Direction::Forward, received);
            verdict
        }
        Err(Refused::TooLong(room)) => icmp::packet_too_big(shared, frame, flow, room, now),
        Err(Refused::For(reason)) => Verdict::Drop(reason),
    }
}

/// Why a packet does not go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// It may have this many bytes, and must not be fragmented.
    TooLong(u16),
    /// Another reason.
    For(DropReason),
}

/// Puts the outer headers to a server around a packet and sends it, by next hop `hop`. `flow` has its
/// length and the flow it belongs to; it may be a fragment of that, or an ICMP error about it.
pub(super) fn send<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    flow: &Flow<A>,
    server: ServerId,
    (hop_ref, hop): (HopRef, Hop),
    now: u32,
) -> Result<Verdict, Refused> {
    let v6 = usize::from(A::V6);
    let Some(tunnel) = shared.tunnels.get(server) else {
        return Err(Refused::For(DropReason::NoServer));
    };
    let overhead = tunnel.templates[v6].overhead();
    let room = tunnel.limit.saturating_sub(overhead);
    let packet_len = flow.frame_len - ETHERNET as u16;
    let mut left_to_routers = may_fragment::<A>(frame.bytes());
    let mut first = None;
    // Ethernet padding ends here.
    frame.set_len(usize::from(flow.frame_len));
    if packet_len > room {
        let outer_v6 = tunnel.templates[v6].outer_v6();
        let room = shared.tunnels.room_anew(server, overhead, now);
        if packet_len <= room {
            // It was shorter once.
        } else if left_to_routers {
            first = Some(fragment(shared, frame, packet_len, room).map_err(Refused::For)?);
        } else if A::V6 && packet_len <= LEAST_V6 && !outer_v6 {
            left_to_routers = true;
        } else {
            return Err(Refused::TooLong(if A::V6 { room.max(LEAST_V6) } else { room }));
        }
    }
    for frame in first.iter_mut().chain([&mut *frame]) {
        let ident = left_to_routers.then(|| shared.tunnels.next_ident());
        if !frame.prepend(usize::from(overhead)) {
            return Err(Refused::For(DropReason::NoHeadroom));
        }
        if let Some(tunnel) = shared.tunnels.get(server) {
            tunnel.templates[v6].write(frame.bytes_mut(), &flow.key, ident);
        }
        ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
    }
    Ok(match (hop.ready, first) {
        (true, None) => Verdict::Forward(hop.port),
        (true, Some(first)) => {
            shared.originate_ahead(hop.port, first);
            Verdict::Forward(hop.port)
        }
        (false, None) => established::hold(shared, hop_ref, now),
        // Two frames cannot wait for one verdict.
        (false, Some(_)) => {
            established::hold(shared, hop_ref, now);
            Verdict::Drop(DropReason::NeighborUnresolved)
        }
    })
}

/// Puts the outer headers to a server around a packet that Shunt has made for it: one of `key` that
/// must not be fragmented. `false` when that is no tunnel's server.
#[cold]
pub(super) fn wrap<A: Family, F: Frame>(
    shared: &Shared<F>,
    frame: &mut F,
    key: &FlowKey<A>,
    server: ServerId,
) -> bool {
    let Some(tunnel) = shared.tunnels.get(server) else { return false };
    let template = &tunnel.templates[usize::from(A::V6)];
    if !frame.prepend(usize::from(template.overhead())) {
        return false;
    }
    template.write(frame.bytes_mut(), key, None);
    true
}

/// Whether the frame holds an IPv4 packet without Don't Fragment.
fn may_fragment<A: Family>(bytes: &[u8]) -> bool {
    !A::V6 && bytes[ETHERNET + ipv4::field::FRAGMENT] & 0x40 == 0
}

/// Cuts an IPv4 packet without options in two that are at most `room` bytes each (RFC 791 3.2). The
/// first is returned in a spare frame, which leaves before those of the burst.
#[cold]
fn fragment<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    packet_len: u16,
    room: u16,
) -> Result<F, DropReason> {
    use ipv4::field::FRAGMENT;
    const HEADERS: usize = ETHERNET + ipv4::HEADER_LEN;
    const MORE: u16 = 0x2000;
    let room = usize::from(room).saturating_sub(ipv4::HEADER_LEN);
    let payload = usize::from(packet_len) - ipv4::HEADER_LEN;
    // Offsets count in units of eight bytes.
    let first_len = room & !7;
    if payload - first_len > room {
        return Err(DropReason::PacketTooBig);
    }
    let mut first = shared.take_spare(HEADERS + first_len).ok_or(DropReason::NoBuffer)?;
    first.bytes_mut().copy_from_slice(&frame.bytes()[..HEADERS + first_len]);
    frame.bytes_mut().copy_within(..HEADERS, first_len);
    frame.trim_front(first_len);

    let header = &first.bytes()[ETHERNET..];
    let old = u16::from_be_bytes([header[FRAGMENT], header[FRAGMENT + 1]]);
    let of_second = old + (first_len / 8) as u16;
    for (frame, word) in [(&mut first, old | MORE), (frame, of_second)] {
        let header = &mut frame.bytes_mut()[ETHERNET..];
        header[FRAGMENT..FRAGMENT + 2].copy_from_slice(&word.to_be_bytes());
        let len = header.len() as u16;
        let mut header = ipv4::Packet::new_unchecked(header);
        header.set_total_len(len);
        header.fill_checksum();
    }
    Ok(first)
}
