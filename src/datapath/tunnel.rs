//! Packets on their way to a real server through a tunnel ([`crate::rewrite::tunnel`]): the outer
//! headers of every server, and what a path takes.
//!
//! A packet that does not fit with its outer headers is never fragmented outside: its sender is told
//! the size that does, or, if it is IPv4 and may be fragmented, it goes in two fragments, each with
//! outer headers of its own, which the real server puts together.

use super::established;
use super::family::Family;
use super::frame::Frame;
use super::hops::Hop;
use super::icmp;
use super::pipeline::{Item, Shared};
use super::snapshot::{Server, Service, Snapshot};
use super::verdict::Verdict;
use crate::rewrite::ethernet;
use crate::rewrite::transport_checksum;
use crate::rewrite::tunnel::{Encapsulation, Template};
use crate::session::{HopRef, Mode, ServerId};
use crate::wire::DropReason;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::FlowKey;
use crate::wire::ipv4;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// In [`Tunnels::places`]: not reached by a tunnel.
const NONE: u16 = u16::MAX;
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
    /// The identification of the next packet that may be fragmented on its way.
    ident: u16,
}

impl Tunnels {
    /// None.
    pub(super) fn new(worker: u8) -> Self {
        let ident = u16::from(worker).wrapping_mul(IDENT_STEP);
        Tunnels { places: Vec::new(), tunnels: Vec::new(), ident }
    }

    /// Takes a new configuration.
    pub(super) fn configure(&mut self, snapshot: &Snapshot) {
        self.tunnels.clear();
        self.places.clear();
        for server in &snapshot.servers {
            let service = &snapshot.services[usize::from(server.service.0)];
            let place = match tunnel(snapshot, service, server) {
                Some(tunnel) => {
                    self.tunnels.push(tunnel);
                    (self.tunnels.len() - 1) as u16
                }
                None => NONE,
            };
            self.places.push(place);
        }
    }

    fn get(&self, server: ServerId) -> Option<&Tunnel> {
        let place = *self.places.get(usize::from(server.0))?;
        self.tunnels.get(usize::from(place))
    }

    fn next_ident(&mut self) -> u16 {
        let ident = self.ident;
        self.ident = ident.wrapping_add(1);
        ident
    }
}

fn tunnel(snapshot: &Snapshot, service: &Service, server: &Server) -> Option<Tunnel> {
    let port = snapshot.ports.get(usize::from(server.route.port.0))?;
    let encapsulation = match service.mode {
        Mode::Nat | Mode::FullNat | Mode::Dr | Mode::Snat => return None,
        Mode::Ipip => Encapsulation::Ipip,
        Mode::Gre => Encapsulation::Gre,
        Mode::Gue => Encapsulation::Gue { port: service.tunnel_port },
        Mode::Vxlan => Encapsulation::Vxlan {
            port: service.tunnel_port,
            vni: service.vni,
            src: port.mac,
            dst: server.inner_mac,
        },
    };
    let source = match server.address {
        IpAddr::V4(_) => IpAddr::V4(port.ipv4?),
        IpAddr::V6(_) => IpAddr::V6(port.ipv6?),
    };
    let templates = [
        Template::new::<Ipv4Addr>(source, server.address, encapsulation)?,
        Template::new::<Ipv6Addr>(source, server.address, encapsulation)?,
    ];
    Some(Tunnel { templates, limit: port.mtu })
}

/// Sends the packet of a session to its server.
#[inline(never)]
pub(super) fn forward<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    item: &Item<A>,
    server: ServerId,
    (hop_ref, hop): (HopRef, Hop),
    now: u32,
) -> Verdict {
    let flow = &item.flow;
    if item.fill_checksum {
        transport_checksum::fill::<A>(frame.bytes_mut(), flow);
    }
    let Some(&Tunnel { templates, limit }) = shared.tunnels.get(server) else {
        return Verdict::Drop(DropReason::NoServer);
    };
    let template = &templates[usize::from(A::V6)];
    let received = frame.bytes().len() as u64;
    let packet_len = flow.frame_len - ETHERNET as u16;
    let room = limit.saturating_sub(template.overhead());
    let mut second = None;
    if packet_len > room {
        if !may_fragment::<A>(frame.bytes()) {
            return icmp::packet_too_big(shared, frame, flow, room, now);
        }
        second = match fragment(shared, frame, packet_len, room) {
            Ok(second) => Some(second),
            Err(reason) => return Verdict::Drop(reason),
        };
    } else {
        // Ethernet padding ends here.
        frame.set_len(usize::from(flow.frame_len));
    }
    for frame in std::iter::once(&mut *frame).chain(&mut second) {
        let ident = if may_fragment::<A>(frame.bytes()) { shared.tunnels.next_ident() } else { 0 };
        if !frame.prepend(usize::from(template.overhead())) {
            return Verdict::Drop(DropReason::NoBuffer);
        }
        template.write(frame.bytes_mut(), &flow.key, ident);
        ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
    }
    let counters = shared.counters.server(server);
    counters.forward_packets.add(1);
    counters.forward_bytes.add(received);
    match (hop.ready, second) {
        (true, None) => {}
        (true, Some(second)) => shared.originate(hop.port, second),
        (false, None) => return established::hold(shared, hop_ref, now),
        // Two frames cannot wait for one verdict.
        (false, Some(_)) => {
            established::hold(shared, hop_ref, now);
            return Verdict::Drop(DropReason::NeighborUnresolved);
        }
    }
    Verdict::Forward(hop.port)
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
    template.write(frame.bytes_mut(), key, 0);
    true
}

/// Whether the frame holds an IPv4 packet without Don't Fragment.
fn may_fragment<A: Family>(bytes: &[u8]) -> bool {
    !A::V6 && bytes[ETHERNET + ipv4::field::FRAGMENT] & 0x40 == 0
}

/// Cuts an IPv4 packet without options in two that are at most `room` bytes each (RFC 791 3.2); the
/// second is in a spare frame.
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
    let second_len = payload - first_len;
    if second_len > room {
        return Err(DropReason::PacketTooBig);
    }
    let mut second = shared.take_spare(HEADERS + second_len).ok_or(DropReason::NoBuffer)?;
    second.bytes_mut()[..HEADERS].copy_from_slice(&frame.bytes()[..HEADERS]);
    second.bytes_mut()[HEADERS..]
        .copy_from_slice(&frame.bytes()[HEADERS + first_len..HEADERS + payload]);
    frame.set_len(HEADERS + first_len);

    let header = &frame.bytes()[ETHERNET..];
    let old = u16::from_be_bytes([header[FRAGMENT], header[FRAGMENT + 1]]);
    let of_second = old + (first_len / 8) as u16;
    for (frame, word) in [(frame, old | MORE), (&mut second, of_second)] {
        let header = &mut frame.bytes_mut()[ETHERNET..];
        header[FRAGMENT..FRAGMENT + 2].copy_from_slice(&word.to_be_bytes());
        let len = header.len() as u16;
        let mut header = ipv4::Packet::new_unchecked(header);
        header.set_total_len(len);
        header.fill_checksum();
    }
    Ok(second)
}
