//! The slow path: a packet without a session. It opens one, or it is for ourselves, or it is
//! dropped and the reason says why.

use hashbrown::HashSet;

use super::choose;
use super::connection;
use super::crossed;
use super::established::{self, hop_to, hop_to_server};
use super::family::Family;
use super::frame::Frame;
use super::introduce;
use super::lane::{Crossed, Item, Lane};
use super::one_packet;
use super::persist;
use super::policy::MidStream;
use super::refuse;
use super::replica;
use super::shared::Shared;
use super::snapshot::{LocalAddress, Server, Snapshot};
use super::snat;
use super::syn_proxy;
use super::verdict::Verdict;
use crate::rewrite::nat::Deltas;
use crate::rewrite::transport_checksum;
use crate::session::{
    Direction, InsertError, Mode, NewSession, ServerId, ServiceId, SessionId, TcpState, tcp_state,
};
use crate::sync::session::Reason;
use crate::wire::DropReason;
use crate::wire::flow::{Flow, FlowKey, Protocol, tcp_flags};

/// Opens a session for the packet if a service listens for it.
pub(super) fn open<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Verdict {
    if let Some(told) = persist::tell(shared, lane, frame, &item.flow, now) {
        return told;
    }
    let key = &item.flow.key;
    if A::local(&shared.snapshot, key.src).is_some() && !snat::hairpin::is_on_its_way(shared, frame)
    {
        return Verdict::Drop(DropReason::SpoofedLocal);
    }
    if key.sport == 0 || key.dport == 0 {
        return Verdict::Drop(DropReason::PortZero);
    }
    if crossed::takes(shared, key) {
        return crossed::enter(shared, frame, item, now);
    }
    if crossed::is_forged(shared, frame, item) {
        return Verdict::Drop(DropReason::Martian);
    }
    let Some(service) = A::listener(&shared.snapshot, key) else {
        if let Some(verdict) = one_packet::reply(shared, lane, frame, item, now) {
            return verdict;
        }
        return match snat::open::session(shared, lane, frame, item, true, now) {
            Some(Ok(id)) => {
                established::act(shared, lane, frame, item, id, Direction::Forward, now)
            }
            Some(Err(verdict)) => verdict,
            None => without_service(shared, lane, frame, item, now),
        };
    };
    if let Some(verdict) = replica::postpone(shared, frame, now) {
        return verdict;
    }
    if key.protocol == Protocol::Tcp
        && let Some(verdict) = syn_proxy::admit(shared, lane, frame, item, service, now)
    {
        return verdict;
    }
    if shared.snapshot.services[usize::from(service.0)].selection.one_packet {
        return one_packet::forward(shared, lane, frame, item, service, now);
    }
    if key.protocol == Protocol::Tcp && !opens_connection(item.flow.tcp_flags) {
        return mid_stream(shared, lane, frame, item, service, now);
    }
    match choose::session(shared, lane, frame, item, service, now) {
        Ok(id) => established::act(shared, lane, frame, item, id, Direction::Forward, now),
        Err(verdict) => verdict,
    }
}

/// Opens a new session in the place of one whose connection is over.
#[cold]
pub(super) fn replace<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    old: SessionId,
    now: u32,
) -> Verdict {
    lane.end(shared, old, Reason::REPLACED, now);
    open(shared, lane, frame, item, now)
}

/// Only a plain SYN opens a connection; that data comes with it does not matter, nor do the bits of
/// ECN, which parsing leaves out.
pub(super) fn opens_connection(flags: u8) -> bool {
    flags & !tcp_flags::PSH == tcp_flags::SYN
}

/// A segment of a connection that no session is known for.
#[cold]
#[inline(never)]
fn mid_stream<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service: ServiceId,
    now: u32,
) -> Verdict {
    use tcp_flags::{ACK, RST, SYN};
    if let Some(given) = replica::give(shared, frame, false, now) {
        return given;
    }
    if replica::is_joining(shared) {
        return Verdict::Drop(DropReason::NoSession);
    }
    let flow = &item.flow;
    match shared.snapshot.services[usize::from(service.0)].policy.mid_stream {
        MidStream::Reset => refuse::refuse(shared, frame, flow, DropReason::NoSession, now),
        MidStream::Adopt if flow.tcp_flags & (SYN | RST | ACK) == ACK => {
            match choose::session(shared, lane, frame, item, service, now) {
                Ok(id) => {
                    // Read before it is rewritten; taken up after, so that it does not confirm itself.
                    let segment = connection::first(frame.bytes(), flow);
                    let verdict =
                        established::act(shared, lane, frame, item, id, Direction::Forward, now);
                    connection::adopt(shared, &mut lane.table, id, &segment, now);
                    verdict
                }
                Err(verdict) => verdict,
            }
        }
        MidStream::Drop | MidStream::Adopt => Verdict::Drop(DropReason::NoSession),
    }
}

/// A segment of a real server that no session is known for.
fn stray<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &Lane<A>,
    frame: &mut F,
    flow: &Flow<A>,
    now: u32,
) -> Verdict {
    if let Some(given) = replica::give(shared, frame, true, now) {
        return given;
    }
    if replica::is_joining(shared) {
        return Verdict::Drop(DropReason::NoSession);
    }
    let FlowKey { src, sport, protocol, .. } = flow.key;
    if protocol == Protocol::Tcp && lane.resets_strays.contains(&(src, sport)) {
        return refuse::refuse(shared, frame, flow, DropReason::NoSession, now);
    }
    Verdict::Drop(DropReason::NoSession)
}

/// The servers whose stray segments are answered with a reset.
pub(super) fn resets_strays<A: Family>(snapshot: &Snapshot) -> HashSet<(A, u16)> {
    let of = |server: &Server| {
        let service = snapshot.services.get(usize::from(server.service.0))?;
        let resets =
            service.protocol == Protocol::Tcp && service.policy.mid_stream == MidStream::Reset;
        Some((A::from_ip(server.address).filter(|_| resets)?, server.port))
    };
    snapshot.servers.iter().filter_map(of).collect()
}

/// A packet that is for no service: perhaps for an address of ours.
pub(super) fn without_service<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Verdict {
    let key = &item.flow.key;
    match A::local(&shared.snapshot, key.dst) {
        Some(LocalAddress::Vip) => Verdict::Drop(DropReason::NoService),
        Some(LocalAddress::Lip(_) | LocalAddress::Pool(_)) => {
            stray(shared, lane, frame, &item.flow, now)
        }
        Some(LocalAddress::Port(_)) => {
            if key.protocol == Protocol::Udp
                && let Some(verdict) =
                    replica::arrive_unicast(shared, frame, key.dst, key.dport, now)
            {
                return verdict;
            }
            // The kernel drops what is not finished: the answers to health checks, for instance.
            if item.fill_checksum {
                transport_checksum::fill::<A>(frame.bytes_mut(), &item.flow);
            }
            shared.punt(frame.rx_port(), now)
        }
        // It came back to a local address.
        None if item.crossed != Crossed::No => stray(shared, lane, frame, &item.flow, now),
        None if lane.servers.contains(&(key.src, key.sport)) => {
            stray(shared, lane, frame, &item.flow, now)
        }
        None => Verdict::Drop(DropReason::NotLocal),
    }
}

/// Makes the session of the client's packet with this key, towards that server.
pub(super) fn create_with<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    key: &FlowKey<A>,
    service_id: ServiceId,
    server_id: ServerId,
    now: u32,
) -> Result<SessionId, DropReason> {
    let session = new_session(shared, lane, key, service_id, server_id)?;
    match lane.table.insert(session, now) {
        Ok(id) => {
            lane.balancer.opened(server_id);
            shared.counters.server(server_id).created.add(1);
            shared.counters.service_sessions(service_id).add(1);
            let service = &shared.snapshot.services[usize::from(service_id.0)];
            introduce::begin(service, &mut lane.table, id);
            crossed::begin(&mut lane.table, id);
            let entry = lane.table.get_mut(id);
            entry.extras = entry.extras.with(shared.limits.opened(entry, &shared.counters));
            replica::created(shared, lane, id, now);
            Ok(id)
        }
        Err(error) => {
            if session.mode == Mode::FullNat {
                lane.local_ports.give_back(server_id, session.local, session.local_port);
            }
            Err(match error {
                InsertError::Full | InsertError::IndexFull => DropReason::SessionTableFull,
                InsertError::ForwardInUse | InsertError::ReplyInUse => DropReason::ReplyTupleInUse,
            })
        }
    }
}

/// That session, which is in no table yet; in FullNAT it has its local port.
pub(super) fn new_session<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    key: &FlowKey<A>,
    service_id: ServiceId,
    server_id: ServerId,
) -> Result<NewSession<A>, DropReason> {
    let mode = shared.snapshot.services[usize::from(service_id.0)].mode;
    if mode == Mode::FullNat && replica::is_learning(shared) {
        return Err(DropReason::Joining);
    }
    let Shared { snapshot, hops, toeplitz, .. } = shared;
    let snapshot: &Snapshot = snapshot;
    let service = &snapshot.services[usize::from(service_id.0)];
    let server = &snapshot.servers[usize::from(server_id.0)];
    let server_address = match A::from_ip(server.address) {
        Some(address) => address,
        // Looked up by its id.
        None if service.mode.tunnels() => A::UNSPECIFIED,
        None => match A::adopt(server.address) {
            Some(address) if service.crossed => address,
            _ => return Err(DropReason::NoServer),
        },
    };
    let forward_hop = hop_to_server(hops, snapshot, server)?;
    let reply_hop = match service.mode {
        // The reply does not come this way.
        mode if mode.one_way() => forward_hop,
        _ => hop_to(hops, snapshot, key.src)?,
    };
    let (local, local_port) = match service.mode {
        Mode::FullNat => {
            let bucket = A::outer_bucket(toeplitz, key.src, key.sport);
            lane.local_ports.allocate(server_id, bucket).ok_or(DropReason::LocalPortsExhausted)?
        }
        _ => (key.src, key.sport),
    };
    let towards_server = FlowKey {
        src: local,
        dst: server_address,
        sport: local_port,
        dport: server.port,
        protocol: key.protocol,
    };
    let deltas = Deltas::between(key, &towards_server);
    let state = match key.protocol {
        Protocol::Tcp => TcpState::SynSent,
        Protocol::Udp | Protocol::Icmp => TcpState::Udp,
    };
    Ok(NewSession {
        client: key.src,
        vip: key.dst,
        local,
        server: server_address,
        client_port: key.sport,
        vip_port: key.dport,
        local_port,
        server_port: server.port,
        protocol: key.protocol,
        state,
        mode: service.mode,
        timeout: tcp_state::timeout(state, &service.timeouts),
        service: service_id,
        server_id,
        forward_hop,
        reply_hop,
        delta_ip: deltas.ip,
        delta_transport: deltas.transport,
    })
}
