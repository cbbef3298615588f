//! Datagrams of the channel, to the wire and from it.

use std::net::{IpAddr, SocketAddr};

use super::greet;
use super::import;
use super::relay;
use super::state::{self, Replica};
use super::upkeep;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::ha::Channel;
use crate::datapath::lane::Lane;
use crate::datapath::note::{Note, Place};
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::{Mac, PortId};
use crate::datapath::verdict::Verdict;
use crate::sync::Replay;
use crate::sync::datagram::{self, HEADER, Header, Kind, Refused, SERVING};
use crate::sync::receiver::Receiver;
use crate::sync::record::{self, Emit};
use crate::sync::sender::Sender;
use crate::wire::ethernet::{self, HEADER_LEN as ETHERNET, multicast_v6};
use crate::wire::flow::{FlowKey, Parsed, Protocol};
use crate::wire::{DropReason, ip_protocol, ipv4, ipv6, udp};

/// Adds a record to the stream. A datagram that is full is sent.
pub(super) fn push<F: Frame>(shared: &mut Shared<F>, record: &impl Emit, now: u32) {
    put(shared, now, |sender| sender.push(record, now));
}

/// The same with a session that the peer does not know yet.
pub(super) fn push_new<F: Frame>(shared: &mut Shared<F>, record: &impl Emit, now: u32) {
    put(shared, now, |sender| sender.push_new(record, now));
}

fn put<F: Frame>(shared: &mut Shared<F>, now: u32, mut push: impl FnMut(&mut Sender) -> bool) {
    let Some(replica) = &mut shared.replica else { return };
    if !push(&mut replica.sender) {
        send_open(shared, now);
        if let Some(replica) = &mut shared.replica {
            push(&mut replica.sender);
        }
    }
    shared.counters.sync.sent_records.add(1);
}

/// Sends the datagram that is being filled, ahead of the burst. Without a frame the peer finds it
/// missing and asks for it.
pub(super) fn send_open<F: Frame>(shared: &mut Shared<F>, _now: u32) {
    let Some(channel) = state::channel(shared) else { return };
    let Some(mut replica) = shared.replica.take() else { return };
    if let Some(datagram) = replica.sender.close(&replica.setup.keys) {
        transmit(shared, &channel, datagram);
    }
    shared.replica = Some(replica);
}

/// Sends a finished datagram to the group.
pub(super) fn transmit<F: Frame>(
    shared: &mut Shared<F>,
    channel: &Channel,
    datagram: &[u8],
) -> bool {
    let start = overhead(channel);
    let Some(mut frame) = shared.take_spare(start + datagram.len()) else {
        shared.counters.sync.send_failed.add(1);
        return false;
    };
    frame.bytes_mut()[start..].copy_from_slice(datagram);
    send(shared, channel, frame);
    true
}

/// Sends records outside the stream to a worker of the peer.
pub(super) fn control<F: Frame>(shared: &mut Shared<F>, to: u8, records: &[u8]) -> bool {
    let Some(channel) = state::channel(shared) else { return false };
    let start = overhead(&channel);
    let Some(mut frame) = shared.take_spare(start + HEADER + records.len()) else {
        shared.counters.sync.send_failed.add(1);
        return false;
    };
    let Some(replica) = &mut shared.replica else { return false };
    frame.bytes_mut()[start + HEADER..].copy_from_slice(records);
    let header = next_header(replica, Kind::Control, to);
    let count = record::records(records).count() as u64;
    shared.counters.sync.sent_records.add(count);
    datagram::seal(&mut frame.bytes_mut()[start..], &header, &replica.setup.keys);
    send(shared, &channel, frame);
    true
}

/// The header of the next datagram outside the stream.
pub(super) fn next_header(replica: &mut Replica, kind: Kind, to: u8) -> Header {
    replica.control += 1;
    Header {
        kind,
        node: replica.node,
        worker: replica.worker,
        to,
        repeated: false,
        boot: replica.setup.boot,
        sequence: replica.control,
    }
}

/// Sends a frame whose datagram is complete to the group.
pub(super) fn send<F: Frame>(shared: &mut Shared<F>, channel: &Channel, mut frame: F) {
    let port_mac = shared.snapshot.ports[usize::from(channel.port.0)].mac;
    address(frame.bytes_mut(), channel, port_mac, None);
    shared.counters.sync.sent_datagrams.add(1);
    shared.originate_foremost(channel.port, frame);
}

/// Length of the headers before a datagram.
pub(super) const fn overhead(channel: &Channel) -> usize {
    ETHERNET + udp::HEADER_LEN + if channel.source.is_ipv4() { 20 } else { 40 }
}

/// Writes the headers before the datagram.
pub(super) fn address(bytes: &mut [u8], channel: &Channel, port_mac: Mac, peer: Option<Mac>) {
    let port = channel.group.port();
    let to = match peer {
        Some(_) => channel.peer,
        None => channel.group.ip(),
    };
    let mac = peer.unwrap_or_else(|| group_mac(to));
    let payload_len = (bytes.len() - overhead(channel) + udp::HEADER_LEN) as u16;
    let ether_type = match to {
        IpAddr::V4(_) => ethernet::EtherType::IPV4,
        IpAddr::V6(_) => ethernet::EtherType::IPV6,
    };
    ethernet::Repr { dst: mac, src: port_mac, ether_type }.emit(bytes);
    // One hop: the channel does not leave its network.
    match (channel.source, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::Repr {
            src,
            dst,
            protocol: ip_protocol::UDP,
            ttl: 1,
            ident: 0,
            dont_fragment: true,
            payload_len,
        }
        .emit(&mut bytes[ETHERNET..]),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6::Repr { src, dst, next_header: ip_protocol::UDP, hop_limit: 1, payload_len }
                .emit(&mut bytes[ETHERNET..]);
        }
        _ => return,
    }
    let start = overhead(channel) - udp::HEADER_LEN;
    udp::Repr { sport: port, dport: port }.emit(channel.source, to, &mut bytes[start..]);
}

/// The MAC address of a multicast group (RFC 1112 6.4, RFC 2464 7).
fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => multicast_v6(group),
    }
}

/// A packet to a multicast group came: `None` if it is not of the channel.
pub(in crate::datapath) fn arrive<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<std::net::Ipv4Addr>,
    v6: &mut Lane<std::net::Ipv6Addr>,
    frame: &mut F,
    dst: IpAddr,
    now: u32,
) -> Option<Verdict> {
    let channel = state::channel(shared)?;
    shared.replica.as_ref()?;
    let group = channel.group;
    if dst != group.ip() || frame.rx_port() != channel.port {
        return None;
    }
    let range = payload(frame.bytes(), group)?;
    Some(take(shared, v4, v6, frame, range, now))
}

/// A packet to this node's own address came: `None` if it is not of the channel.
pub(in crate::datapath) fn arrive_unicast<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    dst: A,
    dport: u16,
    now: u32,
) -> Option<Verdict> {
    let channel = state::channel(shared)?;
    shared.replica.as_ref()?;
    if dport != channel.group.port() || dst.into() != channel.source {
        return None;
    }
    let own = SocketAddr::new(channel.source, channel.group.port());
    let range = payload(frame.bytes(), own)?;
    Some(relay::arrive(shared, frame, range, now))
}

/// Whether a packet that is no flow is of the channel. Like adverts, these are not for the packet filter:
/// a rule that drops them would leave the peer without sessions, and they prove themselves by their MAC.
pub(in crate::datapath) fn is_datagram<F, G: Frame>(
    shared: &Shared<F>,
    frame: &G,
    parsed: &Parsed<(), ()>,
) -> bool {
    let Parsed::OtherIp { dst } = *parsed else { return false };
    let Some(ha) = shared.snapshot.ha.as_deref() else { return false };
    let Channel { group, port, .. } = ha.channel;
    shared.replica.is_some()
        && dst == group.ip()
        && frame.rx_port() == port
        && payload(frame.bytes(), group).is_some()
}

/// The same of a flow: a packet that the peer gives to this node in a datagram.
pub(in crate::datapath) fn is_relayed<A: Family, F>(
    shared: &Shared<F>,
    port: PortId,
    key: &FlowKey<A>,
) -> bool {
    let Some(ha) = shared.snapshot.ha.as_deref() else { return false };
    let Channel { group, source, peer, .. } = ha.channel;
    key.dport == group.port()
        && key.protocol == Protocol::Udp
        && port == ha.channel.port
        && key.dst.into() == source
        && key.src.into() == peer
        && shared.replica.is_some()
}

/// The place of the payload of a UDP datagram to `to`, if that is what the frame is.
fn payload(bytes: &[u8], to: SocketAddr) -> Option<std::ops::Range<usize>> {
    let ip = bytes.get(ETHERNET..)?;
    let (start, end) = match to.ip() {
        IpAddr::V4(group) => {
            let packet = ipv4::Packet::new_checked(ip).ok()?;
            if packet.dst() != group
                || packet.protocol() != ip_protocol::UDP
                || packet.is_fragment()
                || !packet.verify_checksum()
            {
                return None;
            }
            let start = ETHERNET + packet.header_len();
            (start, ETHERNET + usize::from(packet.total_len()))
        }
        IpAddr::V6(group) => {
            let packet = ipv6::Packet::new_checked(ip).ok()?;
            if packet.dst() != group || packet.next_header() != ip_protocol::UDP {
                return None;
            }
            let start = ETHERNET + ipv6::HEADER_LEN;
            (start, start + usize::from(packet.payload_len()))
        }
    };
    // Its own MAC says more than the checksum, which some senders leave unfinished.
    let datagram = udp::Packet::new_checked(bytes.get(start..end)?).ok()?;
    (datagram.dport() == to.port())
        .then(|| start + udp::HEADER_LEN..start + datagram.datagram_len())
}

/// Counts a datagram that is not accepted.
pub(super) fn refuse<F>(shared: &Shared<F>, refused: Refused) -> Verdict {
    let sync = &shared.counters.sync;
    match refused {
        Refused::Version(version) => {
            sync.wrong_version.add(1);
            sync.other_version.set(u64::from(version));
        }
        Refused::UnknownKey(_) | Refused::BadMac => sync.bad_mac.add(1),
        Refused::TooShort | Refused::NotOurs | Refused::BadKind(_) => sync.malformed.add(1),
    }
    Verdict::Drop(DropReason::SyncRefused)
}

fn take<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<std::net::Ipv4Addr>,
    v6: &mut Lane<std::net::Ipv6Addr>,
    frame: &mut F,
    range: std::ops::Range<usize>,
    now: u32,
) -> Verdict {
    let workers = shared.snapshot.workers() as u8;
    // Another worker has looked at it and passes its records round.
    if shared.steered
        && let Note::Records { first, place } = Note::decode(frame.note())
    {
        let bytes = &frame.bytes()[range.start + HEADER..range.end];
        if shared.replica.as_ref().is_some_and(|replica| replica.has_peer()) {
            import::records(shared, v4, v6, bytes, place, now);
        }
        return pass_round(shared, workers, first, place);
    }
    // Whose it is stands at a fixed place; a forged one is found out there.
    if let Some(&[worker, to]) = frame.bytes().get(range.start + 5..range.start + 7) {
        let target = if to == SERVING { worker % workers } else { to % workers };
        if target != shared.worker {
            return match shared.steered {
                // It was ours before the number of workers changed.
                true => Verdict::Drop(DropReason::SyncRefused),
                false => Verdict::HandOff(target, Note::None),
            };
        }
    }
    let Some(replica) = &mut shared.replica else { return Verdict::Drop(DropReason::SyncRefused) };
    let bytes = &frame.bytes()[range];
    let (header, records) = match datagram::open(bytes, &replica.setup.keys) {
        Ok(opened) => opened,
        Err(refused) => return refuse(shared, refused),
    };
    if header.node == replica.node {
        if header.boot != replica.setup.boot {
            shared.counters.sync.duplicate_node.add(1);
        }
        // What a network sends back to its sender is no fault.
        return Verdict::Drop(DropReason::SyncRefused);
    }
    let from = usize::from(header.worker);
    let known = replica.peer == Some(header.boot);
    let sync = &shared.counters.sync;
    match header.kind {
        Kind::Stream if !known => {
            sync.unproven.add(1);
            Verdict::Drop(DropReason::SyncRefused)
        }
        Kind::Stream => {
            let Some(receiver) = replica.receivers.get_mut(from) else {
                sync.malformed.add(1);
                return Verdict::Drop(DropReason::SyncRefused);
            };
            let begin = || Receiver::begin(header.worker, header.sequence);
            let receiver = receiver.get_or_insert_with(begin);
            if !receiver.take(header.sequence).is_fresh() {
                // What was repeated for a loss that was none is no replay.
                if !header.repeated {
                    sync.replayed.add(1);
                }
                return Verdict::Drop(DropReason::SyncRefused);
            }
            sync.streams_lost.add(u64::from(receiver.lost()));
            // One that comes late says how things were before others that have come already.
            let place = match receiver.has_gap() {
                _ if header.sequence < receiver.highest() => Place::Late,
                true => Place::Ahead,
                false => Place::Next,
            };
            upkeep::heard(shared, now);
            shared.counters.sync.received_datagrams.add(1);
            shared.counters.sync.received_records.add(record::records(records).count() as u64);
            import::records(shared, v4, v6, records, place, now);
            pass_round(shared, workers, shared.worker, place)
        }
        Kind::Control => {
            // Also while that start of the peer is thought to be gone: a recording must not revive it.
            if replica.windows_of == header.boot && !is_fresh(replica, &header) {
                sync.replayed.add(1);
                return Verdict::Drop(DropReason::SyncRefused);
            }
            let source = ethernet::Packet::new_unchecked(frame.bytes()).src();
            if known {
                replica.peer_mac = Some(source);
            }
            greet::control(shared, v4, v6, &header, records, known, now)
        }
        Kind::Relay => {
            sync.malformed.add(1);
            Verdict::Drop(DropReason::SyncRefused)
        }
    }
}

/// Whether a datagram outside the streams, of a start of the peer that has proved itself, comes for the
/// first time.
pub(super) fn is_fresh(replica: &mut Replica, header: &Header) -> bool {
    let Some(replay) = replica.replays.get_mut(usize::from(header.worker)) else { return false };
    replay.get_or_insert_with(|| Replay::begin(header.sequence)).take(header.sequence)
}

/// The records of a datagram concern all workers: it goes from one to the next, always in the same
/// order, so that none sees them in another.
fn pass_round<F>(shared: &Shared<F>, workers: u8, first: u8, place: Place) -> Verdict {
    let next = (shared.worker + 1) % workers;
    if next == first {
        Verdict::Consume
    } else {
        Verdict::HandOff(next, Note::Records { first, place })
    }
}
