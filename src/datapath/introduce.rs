//! FullNAT hides the client's address from the server; here the server is told: by a header of the
//! PROXY protocol at the beginning of the stream, or by the TOA option.
//!
//! **PROXY protocol.** The header takes the first `n` sequence numbers after the client's SYN, and
//! everything the client sends is shifted by `n`. What makes it as reliable as the client's own
//! data is that it needs no timer: until the server has acknowledged all of it
//! ([`Extras::INTRODUCED`]), every segment that the client sends from the beginning of its stream
//! (the last acknowledgment of the handshake, its first data, each retransmission of those,
//! keep-alives and window probes) carries the header again, and the client is told of no byte
//! acknowledged that the server does not have. A lost header thus looks to the client like its own
//! loss. Data that would make a long packet with the header follows in a segment of its own: a
//! packet that is longer than the path behind takes would be the client's fault in no way, and the
//! client could not mend it.
//!
//! **TOA.** The option is on the SYN and on every segment from the client until the server has
//! sent something other than its SYN-ACK; on a long one only while no other had it, for the same
//! reason. Where the header has no room for it, or the packet would exceed the MTU, it is left out
//! and counted. The segment size the server announces is lowered such that the latter does not
//! happen.

use std::net::{IpAddr, SocketAddr};

use super::family::Family;
use super::frame::Frame;
use super::hops::Hop;
use super::lane::Item;
use super::segment;
use super::shared::Shared;
use super::snapshot::{Introduction, Service};
use crate::rewrite::ethernet::set_addresses;
use crate::rewrite::proxy_protocol::{self, Header, Version};
use crate::rewrite::sequence::{self, Shifts};
use crate::rewrite::{insert, toa};
use crate::session::{Aside, Direction, Entry, Extras, SessionId, Table, TcpState};
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use crate::wire::tcp;

/// Prepares a new session for what its service says. The numbers follow with the client's SYN;
/// whoever answers that himself sets [`crate::session::Aside::shift_at`] to the number after it.
pub(super) fn begin<A: Family>(service: &Service, table: &mut Table<A>, id: SessionId) {
    let how = match service.introduction {
        Introduction::None => return,
        Introduction::ProxyV1 => Extras::PROXY_V1.with(Extras::SHIFTED),
        Introduction::ProxyV2 => Extras::PROXY_V2.with(Extras::SHIFTED),
        Introduction::Toa => Extras::NONE,
    };
    let entry = table.get_mut(id);
    entry.extras = entry.extras.with(Extras::INTRODUCED).with(how);
    let length = header(entry).map_or(0, |header| header.len() as u32);
    table.aside_mut(id).forward_shift = length;
}

/// Deals with a packet of a session whose server is still to be told.
#[cold]
#[inline(never)]
pub(super) fn apply<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
) {
    let proxied = header(table.get(id));
    match (proxied, direction) {
        (Some(header), Direction::Forward) => {
            proxy_forward(shared, table, frame, item, id, &header);
        }
        (Some(header), Direction::Reply) => proxy_reply(table, frame, item, id, header.len()),
        (None, Direction::Forward) => toa_forward(shared, table.get_mut(id), frame, item),
        (None, Direction::Reply) => toa_reply(table.get_mut(id), frame, item),
    }
}

/// The client and the virtual address of a session.
fn endpoints<A: Family>(entry: &Entry<A>) -> (SocketAddr, SocketAddr) {
    let (client, vip): (IpAddr, IpAddr) = (entry.client.into(), entry.vip.into());
    // Sessions between families have both mapped or neither.
    let (client, vip) = match (client.to_canonical(), vip.to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => (client.into(), vip.into()),
        _ => (client, vip),
    };
    (SocketAddr::new(client, entry.client_port), SocketAddr::new(vip, entry.vip_port))
}

/// The header of a session that has one. It is made anew each time: that is seldom more than
/// twice, and a session has no room to keep it.
fn header<A: Family>(entry: &Entry<A>) -> Option<Header> {
    let version = match entry.extras {
        e if e.has(Extras::PROXY_V1) => Version::V1,
        e if e.has(Extras::PROXY_V2) => Version::V2,
        _ => return None,
    };
    let (client, vip) = endpoints(entry);
    Some(proxy_protocol::header(version, client, vip))
}

fn proxy_forward<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    header: &Header,
) {
    let flags = item.flow.tcp_flags;
    // Without Ethernet padding, so that the frame can grow.
    frame.set_len(usize::from(item.flow.frame_len));
    let seq = segment_of::<A, F>(frame).seq();
    if flags & SYN != 0 {
        // Data on a SYN (RFC 7413) would come before the header: the server is not given it, and
        // the client sends it again once the handshake says that it did not arrive.
        cut_data::<A, F>(frame);
        // Once the client has acknowledged the server's SYN-ACK its number is fixed: another SYN is
        // forged, or the server has to judge.
        if matches!(table.get(id).state, TcpState::SynSent | TcpState::SynReceived) {
            table.aside_mut(id).shift_at = seq.wrapping_add(1);
        }
        return;
    }
    let aside = table.aside(id);
    let all = Shifts::from(aside);
    let at_start = Shifts { forward: 0, ..all };
    let from_start = seq.wrapping_sub(aside.shift_at) as i32;
    if from_start > 0 {
        // Beyond any window: the server has acknowledged the header, on the way by the peer.
        if from_start > 1 << 30 {
            let entry = table.get_mut(id);
            entry.extras = entry.extras.without(Extras::INTRODUCED.with(Extras::TOLD));
        }
        sequence::shift::<A>(frame.bytes_mut(), Direction::Forward, all);
        return;
    }
    if flags & RST != 0 {
        // It counts only with the very number the server expects (RFC 5961 3.2): the one before
        // the header as long as the server has not acknowledged that. Where the server may have
        // it meanwhile, the header goes along, so that it is the one behind it for certain.
        let told = flags & ACK != 0 && send_header(shared, table, frame, id, header);
        let shifts = if told { all } else { at_start };
        sequence::shift::<A>(frame.bytes_mut(), Direction::Forward, shifts);
        return;
    }
    if from_start < 0 {
        // A keep-alive or window probe (RFC 9293 3.8.4), perhaps with a byte of garbage.
        cut_data::<A, F>(frame);
        let up = Shifts { forward: from_start.unsigned_abs(), ..Shifts::default() };
        sequence::shift::<A>(frame.bytes_mut(), Direction::Forward, up);
    }
    let bare = segment_of::<A, F>(frame).payload().is_empty();
    if is_short::<A, F>(frame, header.len()) && frame.prepend(header.len()) {
        insert::data::<A>(frame.bytes_mut(), header);
        sequence::shift::<A>(frame.bytes_mut(), Direction::Forward, at_start);
        if bare && flags & FIN == 0 {
            set_told(table.get_mut(id), true);
        }
        return;
    }
    // The first long segment comes right after the acknowledgment that brought the header; when it
    // comes again, that was perhaps lost.
    if table.get(id).extras.has(Extras::TOLD) {
        set_told(table.get_mut(id), false);
    } else {
        send_header(shared, table, frame, id, header);
    }
    sequence::shift::<A>(frame.bytes_mut(), Direction::Forward, all);
}

/// Sends the header in a segment of its own, with acknowledgment, window and options of the
/// client's segment in `frame`. `false` when that is not possible.
fn send_header<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &Table<A>,
    frame: &F,
    id: SessionId,
    header: &Header,
) -> bool {
    let (entry, aside) = (table.get(id), table.aside(id));
    let Some(&Hop { addresses, port, ready: true, .. }) = shared.hops.get(entry.forward_hop) else {
        return false;
    };
    let packet = segment_of::<A, F>(frame);
    let (options, window) = (packet.options(), packet.window());
    let (ack, flags) = match packet.flags() & ACK {
        0 => return false,
        _ => (packet.ack(), PSH | ACK),
    };
    let length = segment::frame_len::<A>(options.len() + header.len());
    let Some(mut own) = shared.take_spare(length) else { return false };
    let bytes = own.bytes_mut();
    let data = segment::frame_len::<A>(options.len());
    bytes[segment::frame_len::<A>(0)..data].copy_from_slice(options);
    bytes[data..].copy_from_slice(header);
    let key = entry.reply_key().reversed();
    segment::emit(bytes, &key, aside.shift_at, ack, flags, window, options.len());
    let at_start = Shifts { forward: 0, ..Shifts::from(aside) };
    sequence::shift::<A>(bytes, Direction::Forward, at_start);
    set_addresses(bytes, &addresses);
    shared.originate_ahead(port, own);
    true
}

fn proxy_reply<A: Family, F: Frame>(
    table: &mut Table<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    length: usize,
) {
    let aside = table.aside(id);
    let (shifts, start) = (Shifts::from(aside), aside.shift_at);
    let ack = segment_of::<A, F>(frame).ack();
    sequence::shift::<A>(frame.bytes_mut(), Direction::Reply, shifts);
    if item.flow.tcp_flags & ACK == 0 {
        return;
    }
    let behind = start.wrapping_add(length as u32);
    if ack.wrapping_sub(behind) as i32 >= 0 {
        let entry = table.get_mut(id);
        let done = Extras::INTRODUCED.with(Extras::TOLD);
        entry.extras = entry.extras.without(done);
    } else {
        sequence::raise::<A>(frame.bytes_mut(), start, length as u16);
    }
}

/// What is added to the sequence number of a segment that an ICMP error quotes, so that the client
/// finds it among its own.
pub(super) fn quoted_shift<A: Family>(entry: &Entry<A>, aside: &Aside, quoted: u32) -> u32 {
    let header = if entry.extras.has(Extras::INTRODUCED) { aside.forward_shift } else { 0 };
    match quoted.wrapping_sub(aside.shift_at) as i32 {
        // Its SYN.
        before if before < 0 && header != 0 => 0,
        // In the header: the client's first byte.
        within if (within as u32) < header => (within as u32).wrapping_neg(),
        _ => aside.forward_shift.wrapping_neg(),
    }
}

fn toa_forward<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &mut Entry<A>,
    frame: &mut F,
    item: &Item<A>,
) {
    if item.flow.tcp_flags & RST != 0 {
        return;
    }
    frame.set_len(usize::from(item.flow.frame_len));
    toa::strip::<A>(frame.bytes_mut());
    let option = toa::of(endpoints(entry).0);
    let header_len = segment_of::<A, F>(frame).header_len();
    let told = entry.extras.has(Extras::TOLD);
    if told && !is_short::<A, F>(frame, option.len()) {
        return;
    }
    let fits = header_len + option.len() <= insert::MAX_TCP_HEADER
        && fits(shared, entry, frame, option.len());
    if fits && frame.prepend(option.len()) {
        insert::option::<A>(frame.bytes_mut(), &option);
        set_told(entry, item.flow.tcp_flags & SYN == 0);
    } else if !told {
        shared.counters.toa_no_room.add(1);
    }
}

fn toa_reply<A: Family, F: Frame>(entry: &mut Entry<A>, frame: &mut F, item: &Item<A>) {
    let flags = item.flow.tcp_flags;
    if flags & SYN != 0 {
        let option = toa::of(endpoints(entry).0);
        toa::lower_mss::<A>(frame.bytes_mut(), option.len() as u16);
    } else if flags & RST == 0 {
        entry.extras = entry.extras.without(Extras::INTRODUCED.with(Extras::TOLD));
    }
}

fn set_told<A>(entry: &mut Entry<A>, told: bool) {
    let without = entry.extras.without(Extras::TOLD);
    entry.extras = if told { without.with(Extras::TOLD) } else { without };
}

/// Whether a frame (without Ethernet padding) with `n` bytes more is short enough for any path: every
/// host takes 576 bytes of IPv4 (RFC 791 3.2), every link 1280 of IPv6 (RFC 8200 5).
fn is_short<A: Family, F: Frame>(frame: &F, n: usize) -> bool {
    frame.bytes().len() - ETHERNET + n <= if A::V6 { 1280 } else { 576 }
}

/// Whether a frame (without Ethernet padding) can grow by `n` bytes on its way to the server.
fn fits<A: Family, F: Frame>(shared: &Shared<F>, entry: &Entry<A>, frame: &F, n: usize) -> bool {
    shared.hops.get(entry.forward_hop).is_some_and(|hop| {
        let mtu = shared.mtu(hop.port);
        frame.bytes().len() - ETHERNET + n <= usize::from(mtu)
    })
}

/// The TCP segment in a frame that parsing returned as a flow, without Ethernet padding.
fn segment_of<A: Family, F: Frame>(frame: &F) -> tcp::Packet<&[u8]> {
    tcp::Packet::new_unchecked(&frame.bytes()[A::TRANSPORT..])
}

/// Cuts the data off.
fn cut_data<A: Family, F: Frame>(frame: &mut F) {
    if let Some(length) = insert::cut_data::<A>(frame.bytes_mut()) {
        frame.set_len(length);
    }
}
