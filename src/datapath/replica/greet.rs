//! What the nodes say of themselves outside the streams: hellos, ports; and what becomes of a control
//! datagram of the peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::channel;
use super::state::{self, Records, Replica, first};
use super::{upkeep, walk};
use crate::datapath::frame::Frame;
use crate::datapath::lane::Lane;
use crate::datapath::notice::Notice;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::PortRole;
use crate::datapath::verdict::Verdict;
use crate::sync::association::{About, Association, Heard};
use crate::sync::control::{Flags, Hello, Port, VersionText};
use crate::sync::datagram::{Header, SERVING};
use crate::sync::receiver::Receiver;
use crate::sync::record::{self, Emit, Record};
use crate::wire::{DropReason, vrrp};

/// Says that this worker is there, and how far its stream has come.
pub(super) fn hello<F: Frame>(shared: &mut Shared<F>, now: u32) {
    let (flags, lacking) = whole(shared);
    let workers = shared.snapshot.workers() as u8;
    let Some(config) = state::channel(shared).map(|channel| channel.config_digest) else { return };
    let peer_boot = first(shared).sync.peer_boot.get();
    let Some(replica) = &mut shared.replica else { return };
    let version = replica.setup.version;
    let about =
        About { workers, flags, stream: replica.sender.highest(), config, version, lacking };
    let mut hello = replica.association.hello(now, &about);
    if replica.worker != 0 {
        hello = Association::hello_of_stream(replica.setup.boot, peer_boot, &about);
    }
    let mut records = [0; Hello::LEN];
    hello.emit(&mut records);
    channel::control(shared, SERVING, &records);
}

/// Tells every worker of the peer which ports this node has.
pub(super) fn tell_ports<F: Frame>(shared: &mut Shared<F>) {
    let mut records: Records = [0; 1280];
    let mut length = 0;
    for port in ports(shared) {
        if length + port.length() <= records.len() {
            length += port.emit(&mut records[length..]);
        }
    }
    let peers = first(shared).sync.peer_workers.get() as u8;
    for worker in 0..peers {
        channel::control(shared, worker, &records[..length]);
    }
}

/// What is to be said of this node as a whole, and how many sessions it could not take in.
fn whole<F>(shared: &Shared<F>) -> (Flags, u32) {
    let mut flags = Flags::default();
    let Some(replica) = &shared.replica else { return (flags, 0) };
    if replica.leaving {
        flags = flags.with(Flags::LEAVING);
    }
    if !replica.has_peer() {
        return (flags, 0);
    }
    let (synced, owned) =
        (state::sum(shared, |c| &c.buckets_synced), state::sum(shared, |c| &c.buckets_owned));
    if synced == owned {
        flags = flags.with(Flags::SYNCED);
    } else if synced + state::sum(shared, |c| &c.buckets_lacking) == owned {
        flags = flags.with(Flags::LACKING);
    }
    (flags, state::sum(shared, |c| &c.sessions_lacking).min(u64::from(u32::MAX)) as u32)
}

/// The ports of this node that are on the wire.
fn ports<F>(shared: &Shared<F>) -> arrayvec::ArrayVec<Port, { state::MAX_PORTS }> {
    let ports = shared.snapshot.ports.iter().zip(0u8..);
    let on_wire = ports.filter(|(port, _)| matches!(port.role, PortRole::Wire { .. }));
    on_wire
        .filter(|(port, _)| port.ipv4.is_some() || port.ipv6.is_some())
        .take(state::MAX_PORTS)
        .map(|(port, index)| Port {
            index,
            mac: port.mac,
            v4: port.ipv4.map(|address| (address, prefix_of(shared, address.into()))),
            v6: port.ipv6.map(|address| (address, prefix_of(shared, address.into()))),
        })
        .collect()
}

/// The length of the prefix of the network that an address of ours is in.
fn prefix_of<F>(shared: &Shared<F>, address: IpAddr) -> u8 {
    let routes = match address {
        IpAddr::V4(_) => &shared.snapshot.routes_v4,
        IpAddr::V6(_) => &shared.snapshot.routes_v6,
    };
    let connected = routes.iter().filter(|route| route.target.via.is_none());
    let length = connected.filter(|route| route.to.contains(&address)).map(|r| r.to.prefix_len());
    length.max().unwrap_or(if address.is_ipv4() { 32 } else { 128 })
}

/// Takes in a control datagram. `known`: of the peer that has proved itself; a hello in it may do that.
pub(super) fn control<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    header: &Header,
    records: &[u8],
    mut known: bool,
    now: u32,
) -> Verdict {
    let (mut ports_come, mut count) = (false, 0);
    for record in record::records(records) {
        count += 1;
        match record {
            Ok(Record::Hello(hello)) => {
                known |= greeted(shared, v4, v6, header, &hello, now);
            }
            Ok(Record::Unknown(_)) => {}
            Ok(_) if !known => {}
            Ok(Record::Ack(ack)) => {
                if let Some(replica) = &mut shared.replica
                    && ack.worker == replica.worker
                {
                    replica.sender.acknowledged(ack.contiguous);
                    replica.acked_at = now;
                }
            }
            Ok(Record::Nak(nak)) if nak.worker == shared.worker => {
                upkeep::repeat(shared, header.worker, nak.from, nak.count);
            }
            Ok(Record::Gone(gone)) => {
                if let Some(replica) = &mut shared.replica
                    && let Some(Some(receiver)) =
                        replica.receivers.get_mut(usize::from(header.worker))
                {
                    receiver.gone(gone.through);
                    shared.counters.sync.streams_lost.add(u64::from(receiver.lost()));
                }
            }
            Ok(Record::Want(want)) => walk::want(shared, want.0),
            Ok(Record::Port(port)) => {
                if let Some(replica) = &mut shared.replica {
                    if !std::mem::replace(&mut ports_come, true) {
                        replica.peer_ports.clear();
                    }
                    let _ = replica.peer_ports.try_push(port);
                }
            }
            Ok(_) | Err(_) => shared.counters.sync.malformed.add(1),
        }
    }
    if ports_come {
        ports_known(shared);
    }
    match known {
        true => {
            shared.counters.sync.received_datagrams.add(1);
            shared.counters.sync.received_records.add(count);
            upkeep::heard(shared, now);
            Verdict::Consume
        }
        false => Verdict::Drop(DropReason::SyncRefused),
    }
}

/// The peer has told of its ports.
fn ports_known<F: Frame>(shared: &mut Shared<F>) {
    let Some(replica) = &mut shared.replica else { return };
    replica.pair_ports(&shared.snapshot);
    if replica.worker != 0 {
        return;
    }
    for port in replica.peer_ports.clone() {
        let v4 = port.v4.map(|(address, _)| IpAddr::V4(address));
        let v6 = port.v6.map(|(address, _)| IpAddr::V6(address));
        let link_local = IpAddr::V6(vrrp::link_local(port.mac));
        for address in [v4, v6, Some(link_local)].into_iter().flatten() {
            shared.notify(Notice::PeerAddress(address));
        }
    }
}

/// The peer says hello. Whether it has proved itself by that.
fn greeted<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    header: &Header,
    hello: &Hello,
    now: u32,
) -> bool {
    let Some(replica) = &mut shared.replica else { return false };
    if replica.worker != 0 {
        let known = replica.peer == Some(header.boot);
        if known {
            stream_is_at(replica, header.worker, hello.stream);
        }
        return known;
    }
    let heard = replica.association.heard(now, header, hello);
    let sync = &shared.counters.sync;
    match heard {
        Heard::Accepted { new } => {
            if header.worker == 0 {
                sync.peer_workers.set(u64::from(hello.workers.min(state::MAX_WORKERS as u8)));
                sync.peer_config.set(hello.config);
                sync.peer_flags.set(u64::from(hello.flags.0));
                sync.peer_lacking.set(u64::from(hello.lacking));
                let VersionText(text) = hello.version;
                for (cell, half) in sync.peer_version.iter().zip(text.chunks_exact(8)) {
                    let mut word = [0; 8];
                    word.copy_from_slice(half);
                    cell.set(u64::from_be_bytes(word));
                }
            }
            upkeep::watch(shared, v4, v6, now);
            if let Some(replica) = &mut shared.replica
                && replica.peer == Some(header.boot)
            {
                stream_is_at(replica, header.worker, hello.stream);
                // Nothing that was sent before it is taken.
                return !new || channel::is_fresh(replica, header);
            }
        }
        Heard::Unproven { answer_now } => {
            sync.unproven.add(1);
            if answer_now {
                self::hello(shared, now);
            }
        }
        Heard::Echo => {}
        Heard::OwnNode | Heard::Stranger => sync.duplicate_node.add(1),
        Heard::Superseded => sync.replayed.add(1),
    }
    false
}

/// The last datagram of a stream of the peer's has this number.
fn stream_is_at(replica: &mut Replica, worker: u8, sequence: u64) {
    if let Some(receiver) = replica.receivers.get_mut(usize::from(worker)) {
        let begin = || Receiver::begin(worker, sequence.saturating_add(1));
        receiver.get_or_insert_with(begin).heard_highest(sequence);
    }
}

/// Tells the peer that this node stops.
pub(in crate::datapath) fn leave<F: Frame>(shared: &mut Shared<F>, now: u32) {
    if let Some(replica) = &mut shared.replica {
        replica.leaving = true;
        channel::send_open(shared, now);
        hello(shared, now);
    }
}
