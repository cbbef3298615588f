//! What the peer tells: its sessions become copies here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::gauges;
use super::settle;
use super::state::first;
use super::tell::{self, bucket_of};
use super::upkeep;
use crate::datapath::crossed;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::introduce;
use crate::datapath::lane::Lane;
use crate::datapath::note::Place;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::Snapshot;
use crate::rewrite::nat::Deltas;
use crate::session::persistence::{Client, Placed};
use crate::session::{
    Doubt, Extras, HopRef, InsertError, Mode, NewSession, ServerId, ServiceId, SessionId, TcpState,
    Timeouts, tcp_state,
};
use crate::sync::identity::identity;
use crate::sync::record::{self, Record};
use crate::sync::session::{Close, Persist, Reason, Session, Touch};
use crate::wire::flow::{FlowKey, Protocol};

/// No next hop: it is looked up with the first packet.
const NO_HOP: HopRef = HopRef { index: u16::MAX, generation: 0 };

/// A copy lives on when its owner lets it expire, if that would be so many milliseconds early by what
/// was seen here.
const EXPIRY_SLACK_MS: u32 = 300;

/// What a session has of its own, whoever forwards it; the rest of its extras follows from the
/// configuration.
const INTRINSIC: [Extras; 7] = [
    Extras::SHIFTED,
    Extras::INTRODUCED,
    Extras::TOLD,
    Extras::PROXIED,
    Extras::PROXY_V1,
    Extras::PROXY_V2,
    Extras::HAIRPIN,
];

/// Takes in the records of a datagram that are this worker's.
pub(super) fn records<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    bytes: &[u8],
    place: Place,
    now: u32,
) {
    for record in record::records(bytes) {
        match record {
            Ok(Record::SessionV4(session)) => take(shared, v4, &session, place, now),
            Ok(Record::SessionV6(session)) => take(shared, v6, &session, place, now),
            Ok(Record::CloseV4(close)) => end(shared, v4, &close, now),
            Ok(Record::CloseV6(close)) => end(shared, v6, &close, now),
            Ok(Record::TouchV4(touch)) => touched(shared, v4, &touch, now),
            Ok(Record::TouchV6(touch)) => touched(shared, v6, &touch, now),
            Ok(Record::PersistV4(persist)) => persists(shared, v4, &persist, now),
            Ok(Record::PersistV6(persist)) => persists(shared, v6, &persist, now),
            // Some of what comes after it has come before: nothing can be told from that walk.
            Ok(Record::Begin(_)) if place == Place::Late => {}
            Ok(Record::Begin(begin)) => upkeep::walk_begins(shared, begin),
            Ok(Record::End(end)) => upkeep::walk_ends(shared, end.0),
            Ok(Record::Digest(digest)) if place == Place::Next => {
                upkeep::compare(shared, v4, v6, &digest)
            }
            Ok(Record::Digest(_)) => {}
            Ok(Record::Unknown(_)) => {}
            Ok(_) | Err(_) => shared.counters.sync.malformed.add(1),
        }
    }
}

/// A session of the peer's is there, or has changed.
fn take<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    record: &Session<A>,
    place: Place,
    now: u32,
) {
    if !is_ours(shared, record) {
        return;
    }
    let key = record.forward_key();
    let hash = lane.table.hash(&key);
    if let Some((id, direction)) = lane.table.find(hash, &key) {
        let same = direction == crate::session::Direction::Forward
            && lane.marks.as_ref().is_some_and(|marks| {
                identity(lane.table.get(id), marks.born(id)) == record.identity()
            });
        if same {
            settle::merge(shared, lane, id, record, place, now);
            return;
        }
        if !settle::gives_way(shared, lane, id, record, now) {
            refuse(shared, record);
            return;
        }
    }
    match insert(shared, lane, record, now) {
        Err(InsertError::ReplyInUse) if is_two_way(record) => {
            // Another session has its endpoints towards the server.
            let reply = reply_key(record);
            let found = lane.table.find(lane.table.hash(&reply), &reply);
            let taken = found.is_some_and(|(id, _)| {
                settle::gives_way(shared, lane, id, record, now)
                    && insert(shared, lane, record, now).is_ok()
            });
            if !taken {
                refuse(shared, record);
            }
        }
        Err(_) => refuse(shared, record),
        Ok(()) => {}
    }
}

/// Takes notice of a session that cannot be taken in: no digest of its bucket will be equal meanwhile.
fn refuse<A: Family, F>(shared: &mut Shared<F>, record: &Session<A>) {
    shared.counters.sync.import_refused.add(1);
    let bucket = bucket(shared, record);
    if let Some(replica) = &mut shared.replica {
        replica.refused |= 1 << bucket;
    }
}

/// Whether the session steers to this worker.
fn is_ours<A: Family, F>(shared: &Shared<F>, record: &Session<A>) -> bool {
    let bucket = bucket(shared, record);
    shared.snapshot.worker_of[bucket] == shared.worker
}

fn bucket<A: Family, F>(shared: &Shared<F>, record: &Session<A>) -> usize {
    // The entry it will be, as far as steering looks at it.
    match record.mode {
        Mode::Snat => {
            let from_inside =
                (record.local, record.local_port) != (record.client, record.client_port);
            let (address, port) = match from_inside {
                true => (record.client, record.client_port),
                false => (record.server, record.server_port),
            };
            let inside = A::inside(&shared.snapshot);
            let (address, port) = inside.steers_by(address, port, record.protocol);
            A::bucket(shared.toeplitz, address, port)
        }
        _ => A::outer_bucket(shared.toeplitz, record.client, record.client_port),
    }
}

fn is_two_way<A>(record: &Session<A>) -> bool {
    record.mode.translates()
}

fn reply_key<A: Family>(record: &Session<A>) -> FlowKey<A> {
    FlowKey {
        src: record.server,
        dst: record.local,
        sport: record.server_port,
        dport: record.local_port,
        protocol: record.protocol,
    }
}

/// Makes the copy.
fn insert<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    record: &Session<A>,
    now: u32,
) -> Result<(), InsertError> {
    let Some((service, server_id, timeouts)) = place(&shared.snapshot, lane, record) else {
        // As good as no room: the configurations differ.
        return Err(InsertError::Full);
    };
    let key = record.forward_key();
    let towards_server = reply_key(record).reversed();
    let deltas = Deltas::between(&key, &towards_server);
    let state = settle::state_of(record);
    let session = NewSession {
        client: record.client,
        vip: record.vip,
        local: record.local,
        server: record.server,
        client_port: record.client_port,
        vip_port: record.vip_port,
        local_port: record.local_port,
        server_port: record.server_port,
        protocol: record.protocol,
        state,
        mode: record.mode,
        timeout: tcp_state::timeout(state, &timeouts),
        service,
        server_id,
        forward_hop: NO_HOP,
        reply_hop: NO_HOP,
        delta_ip: deltas.ip,
        delta_transport: deltas.transport,
    };
    let id = lane.table.insert(session, now)?;
    if !take_endpoint(shared, lane, id) {
        lane.table.remove(id);
        return Err(InsertError::ReplyInUse);
    }
    complete(shared, lane, id, record, now);
    lane.balancer.opened(server_id);
    shared.counters.server(server_id).created.add(1);
    shared.counters.service_sessions(service).add(1);
    let entry = lane.table.get_mut(id);
    entry.extras = entry.extras.with(shared.limits.opened(entry, &shared.counters));
    let bucket = bucket_of(&shared.snapshot, shared.toeplitz, entry);
    if let (Some(replica), Some(marks)) = (&shared.replica, &mut lane.marks) {
        marks.import(id, record.born, bucket, record.identity(), now);
        marks.confirm(id, replica.walk_of[bucket]);
    }
    gauges::has_come(shared, bucket);
    shared.counters.sync.imported.add(1);
    Ok(())
}

/// Takes the endpoint towards the server, in the modes that give out such: nobody else may get it.
fn take_endpoint<A: Family, F>(shared: &Shared<F>, lane: &mut Lane<A>, id: SessionId) -> bool {
    let entry = lane.table.get(id);
    match entry.mode {
        Mode::FullNat => {
            // Those of the peer's share are not among ours.
            lane.local_ports.claim(entry.server_id, entry.local, entry.local_port);
            true
        }
        Mode::Snat => lane.local_ports.snat.claim(&shared.snapshot, entry),
        _ => true,
    }
}

/// Gives the copy what the record says beyond what a new session has.
fn complete<A: Family, F>(
    shared: &Shared<F>,
    lane: &mut Lane<A>,
    id: SessionId,
    record: &Session<A>,
    now: u32,
) {
    let service = usize::from(lane.table.get(id).service.0);
    if let Some(service) = shared.snapshot.services.get(service) {
        introduce::begin(service, &mut lane.table, id);
    }
    crossed::begin(&mut lane.table, id);
    update(lane, id, record);
    let entry = lane.table.get_mut(id);
    entry.last_seen = now.wrapping_sub(record.idle.min(i32::MAX as u32));
    lane.table.aside_mut(id).created = now.wrapping_sub(record.age);
}

/// Takes over from a record of the owner what can change about a session, but its state and times.
pub(super) fn update<A: Family>(lane: &mut Lane<A>, id: SessionId, record: &Session<A>) {
    let entry = lane.table.get_mut(id);
    for extra in INTRINSIC {
        entry.extras = match record.extras.has(extra) {
            true => entry.extras.with(extra),
            false => entry.extras.without(extra),
        };
    }
    entry.forward_end = record.forward_end;
    entry.reply_end = record.reply_end;
    entry.scales = record.scales;
    // Doubts are settled where they arose.
    entry.doubt = Doubt::NONE;
    record.shifts.unwrap_or_default().put(lane.table.aside_mut(id));
}

/// The service and server of a session here, and its timeouts: found by address, for numbers may differ.
fn place<A: Family>(
    snapshot: &Snapshot,
    lane: &Lane<A>,
    record: &Session<A>,
) -> Option<(ServiceId, ServerId, Timeouts)> {
    if record.mode == Mode::Snat {
        let from_inside = (record.local, record.local_port) != (record.client, record.client_port);
        let inside = A::inside(snapshot);
        let rule = match from_inside {
            true => inside.rule_of(record.client)?,
            false => inside.rule_of_pool(record.vip)?,
        };
        let timeouts = snapshot.snat.list().get(usize::from(rule))?.timeouts;
        return Some((
            snapshot.snat.service_id(rule),
            snapshot.snat.server_id(rule, from_inside),
            timeouts,
        ));
    }
    let service_id = A::listener(snapshot, &record.forward_key())?;
    let service = snapshot.services.get(usize::from(service_id.0))?;
    let address: IpAddr = match record.server_ip {
        Some(address) => address,
        None => record.server.into().to_canonical(),
    };
    let server = *lane.server_ids.get(&(service_id, address, record.server_port))?;
    (service.mode == record.mode).then_some((service_id, server, service.timeouts))
}

/// The owner has ended a session.
fn end<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    close: &Close<A>,
    now: u32,
) {
    let Some(id) = copy(lane, &close.forward_key(), close.born) else { return };
    if !lane.marks.as_ref().is_some_and(|marks| marks.is_foreign(id)) {
        return;
    }
    let entry = lane.table.get(id);
    let idle = now.wrapping_sub(entry.last_seen);
    // Its packets came here, and the owner did not hear of them in time: it goes on, as this node's.
    let lives = close.reason == Reason::EXPIRED
        && tell::asks(entry)
        && idle.saturating_add(EXPIRY_SLACK_MS) < entry.timeout;
    match lives {
        true => tell::adopted(shared, lane, id, now),
        false => settle::remove(shared, lane, id, now),
    }
}

/// The other node has seen packets of a session.
fn touched<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    touch: &Touch<A>,
    now: u32,
) {
    let Some(id) = copy(lane, &touch.forward_key(), touch.born) else { return };
    settle::touch(shared, lane, id, touch, now);
}

/// The session of this key, if it is the one that was meant.
fn copy<A: Family>(lane: &Lane<A>, key: &FlowKey<A>, born: u32) -> Option<SessionId> {
    let (id, direction) = lane.table.find(lane.table.hash(key), key)?;
    let marks = lane.marks.as_ref()?;
    (direction == crate::session::Direction::Forward && marks.born(id) == born).then_some(id)
}

/// Where the next connection of a client goes.
fn persists<A: Family, F>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    record: &Persist<A>,
    now: u32,
) {
    let bucket = A::bucket(shared.toeplitz, record.client, 0);
    let alike = state_of_peer_alike(shared);
    if shared.snapshot.worker_of[bucket] != shared.worker || !alike {
        return;
    }
    let Ok(scope) = u16::try_from(record.scope) else { return };
    // The server's number here is found when the client comes.
    let placed = Placed { server_id: ServerId(u16::MAX), server: record.server_ip };
    let client = Client { address: record.client, scope };
    if !lane.persistence.put_if_later(client, placed, record.life, now) {
        shared.counters.persistence_full.add(1);
    }
}

/// Whether the peer's configuration is this node's, so that its numbers mean the same here.
fn state_of_peer_alike<F>(shared: &Shared<F>) -> bool {
    let own = shared.snapshot.ha.as_ref().map(|ha| ha.channel.config_digest);
    own == Some(first(shared).sync.peer_config.get())
}

/// The state in a protocol.
pub(super) const fn is_tcp(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp)
}

/// A state that a copy may be in.
pub(super) const fn of_a_copy(state: TcpState) -> TcpState {
    match state {
        TcpState::Contested | TcpState::SynProxied => TcpState::Established,
        state => state,
    }
}
