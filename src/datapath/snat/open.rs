//! The first packet of an SNAT session, from inside or from outside.

use super::state::SnatState;
use crate::datapath::established::{self, hop_to};
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::icmp;
use crate::datapath::new_flow::opens_connection;
use crate::datapath::note::Note;
use crate::datapath::pipeline::{Item, Lane, Shared};
use crate::datapath::snapshot::{LocalAddress, PortRole, Side};
use crate::datapath::verdict::Verdict;
use crate::rewrite::nat::Deltas;
use crate::session::mappings::Refusal;
use crate::session::{
    Direction, Extras, InsertError, Mode, NewSession, SessionId, TcpState, tcp_state,
};
use crate::wire::DropReason;
use crate::wire::flow::{FlowKey, Protocol};

/// A session to be.
struct Opening<A> {
    rule: u16,
    from_inside: bool,
    /// How the packet leaves.
    to: FlowKey<A>,
    /// Both ends are inside.
    hairpin: bool,
}

/// Decides on a packet without a session whose destination is not ours: if a host inside sent it, it
/// may leave. `None` when no rule is for it.
#[cold]
#[inline(never)]
pub(in crate::datapath) fn from_inside<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Option<Verdict> {
    let key = &item.flow.key;
    let inside = A::inside(&shared.snapshot);
    let rule = inside.rule_of(key.src)?;
    let port = &shared.snapshot.ports[usize::from(frame.rx_port().0)];
    // From outside such a source is forged; what stays inside is no business of ours.
    if matches!(port.role, PortRole::Wire { side: Side::Client, .. })
        || inside.rule_of(key.dst).is_some()
    {
        return None;
    }
    // An answer of a real server looks the same and is steered by its client.
    let (address, port) = inside.steers_by(key.src, key.sport, key.protocol);
    let owner = shared.snapshot.worker_of[A::bucket(shared.toeplitz, address, port)];
    if owner != shared.worker {
        return Some(Verdict::HandOff(owner, Note::None));
    }
    Some(open_from_inside(shared, lane, frame, item, rule, now))
}

/// Decides on a packet without a session for an address of a pool.
#[cold]
#[inline(never)]
pub(in crate::datapath) fn to_pool<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Verdict {
    let key = &item.flow.key;
    let inside = A::inside(&shared.snapshot);
    let Some(pool_rule) = inside.rule_of_pool(key.dst) else {
        return Verdict::Drop(DropReason::SnatNoMapping);
    };
    let Some(rule) = inside.rule_of(key.src) else {
        return open_from_outside(shared, lane, frame, item, pool_rule, now);
    };
    let port = &shared.snapshot.ports[usize::from(frame.rx_port().0)];
    if matches!(port.role, PortRole::Wire { side: Side::Client, .. }) {
        return Verdict::Drop(DropReason::SnatFiltered);
    }
    if !shared.snapshot.snat.list()[usize::from(pool_rule)].hairpin {
        return Verdict::Drop(DropReason::SnatNoHairpin);
    }
    open_from_inside(shared, lane, frame, item, rule, now)
}

fn open_from_inside<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    rule: u16,
    now: u32,
) -> Verdict {
    if let Some(verdict) = may_not_open(shared, lane, frame, item, now) {
        return verdict;
    }
    let key = &item.flow.key;
    let state: &mut SnatState<A> = &mut lane.local_ports.snat;
    let snapshot = &shared.snapshot;
    // A host uses the external endpoint of its forwarded port for what it sends from there as well.
    let forwarded = A::inside(snapshot).internal.get(&(key.src, key.sport, key.protocol));
    let outer = match forwarded {
        Some(external) => Ok(*external),
        None => state.take(snapshot, shared.toeplitz, item.hash, key, rule),
    };
    let (src, sport) = match outer {
        Ok(outer) => outer,
        Err(refusal) => return refuse(shared, rule, refusal),
    };
    let hairpin = matches!(A::local(snapshot, key.dst), Some(LocalAddress::Pool(_)));
    let to = FlowKey { src, sport, ..*key };
    let opening = Opening { rule, from_inside: true, to, hairpin };
    open(shared, lane, frame, item, &opening, now)
}

fn open_from_outside<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    rule: u16,
    now: u32,
) -> Verdict {
    if let Some(verdict) = may_not_open(shared, lane, frame, item, now) {
        return verdict;
    }
    let key = &item.flow.key;
    let snapshot = &shared.snapshot;
    let forwarded = A::inside(snapshot).external.get(&(key.dst, key.dport, key.protocol));
    let inside = match forwarded {
        Some(internal) => Ok(*internal),
        None => lane.local_ports.snat.admit(snapshot, key, rule),
    };
    let (dst, dport) = match inside {
        Ok(inside) => inside,
        Err(refusal) => return refuse(shared, rule, refusal),
    };
    // Only what a host inside sent by way of the pool has such a source.
    let hairpin = A::local(snapshot, key.src).is_some();
    let to = FlowKey { dst, dport, ..*key };
    let opening = Opening { rule, from_inside: false, to, hairpin };
    open(shared, lane, frame, item, &opening, now)
}

/// The verdict on a packet that opens no session whoever it is for.
fn may_not_open<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    now: u32,
) -> Option<Verdict> {
    let flow = &item.flow;
    if flow.key.protocol == Protocol::Tcp && !opens_connection(flow.tcp_flags) {
        return Some(Verdict::Drop(DropReason::NoSession));
    }
    if flow.hop_limit <= 1 {
        return Some(icmp::time_exceeded(shared, frame, flow, now));
    }
    (lane.table.len() == lane.table.capacity())
        .then_some(Verdict::Drop(DropReason::SessionTableFull))
}

/// Drops a packet for which there is no mapping, and counts it with its rule.
fn refuse<F>(shared: &Shared<F>, rule: u16, refusal: Refusal) -> Verdict {
    let counters = shared.counters.snat(rule);
    let (cell, reason) = match refusal {
        Refusal::Exhausted => (&counters.exhausted, DropReason::SnatPortsExhausted),
        Refusal::SourceLimit => (&counters.limited, DropReason::SnatSourceLimit),
        Refusal::Full => (&counters.exhausted, DropReason::SessionTableFull),
        Refusal::NoMapping => (&counters.refused, DropReason::SnatNoMapping),
        Refusal::Filtered => (&counters.refused, DropReason::SnatFiltered),
    };
    cell.add(1);
    Verdict::Drop(reason)
}

/// Makes the session and acts on its first packet.
fn open<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    opening: &Opening<A>,
    now: u32,
) -> Verdict {
    let key = &item.flow.key;
    match create(shared, lane, key, opening, now) {
        Ok(id) => established::act(shared, lane, frame, item, id, Direction::Forward, now),
        Err(reason) => {
            let Opening { from_inside, ref to, .. } = *opening;
            let (inside, outer) = match from_inside {
                true => ((key.src, key.sport), to.reversed()),
                false => ((to.dst, to.dport), *key),
            };
            lane.local_ports.snat.give_back(inside, &outer);
            Verdict::Drop(reason)
        }
    }
}

fn create<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    key: &FlowKey<A>,
    opening: &Opening<A>,
    now: u32,
) -> Result<SessionId, DropReason> {
    let Shared { snapshot, hops, counters, .. } = shared;
    let &Opening { rule, from_inside, to, hairpin } = opening;
    // The way to an address of the pool is through this pipeline once more; the way inside stands in.
    let (forward_hop, reply_hop) = match (hairpin, from_inside) {
        (false, _) => (hop_to(hops, snapshot, to.dst)?, hop_to(hops, snapshot, key.src)?),
        (true, true) => [hop_to(hops, snapshot, key.src)?; 2].into(),
        (true, false) => [hop_to(hops, snapshot, to.dst)?; 2].into(),
    };
    let service = snapshot.snat.service_id(rule);
    let server_id = snapshot.snat.server_id(rule, from_inside);
    let timeouts = &snapshot.snat.list()[usize::from(rule)].timeouts;
    let state = match key.protocol {
        Protocol::Tcp => TcpState::SynSent,
        Protocol::Udp => TcpState::Udp,
    };
    let deltas = Deltas::between(key, &to);
    let session = NewSession {
        client: key.src,
        vip: key.dst,
        local: to.src,
        server: to.dst,
        client_port: key.sport,
        vip_port: key.dport,
        local_port: to.sport,
        server_port: to.dport,
        protocol: key.protocol,
        state,
        mode: Mode::Snat,
        timeout: tcp_state::timeout(state, timeouts),
        service,
        server_id,
        forward_hop,
        reply_hop,
        delta_ip: deltas.ip,
        delta_transport: deltas.transport,
    };
    match lane.table.insert(session, now) {
        Ok(id) => {
            if hairpin {
                let entry = lane.table.get_mut(id);
                entry.extras = entry.extras.with(Extras::HAIRPIN);
            }
            counters.server(server_id).created.add(1);
            Ok(id)
        }
        Err(InsertError::Full | InsertError::IndexFull) => Err(DropReason::SessionTableFull),
        Err(InsertError::ForwardInUse | InsertError::ReplyInUse) => {
            Err(DropReason::ReplyTupleInUse)
        }
    }
}
