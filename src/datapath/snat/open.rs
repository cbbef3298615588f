//! The first packet of an SNAT session, from inside or from outside.

use super::state::SnatState;
use crate::datapath::established::hop_to;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::icmp;
use crate::datapath::lane::{Item, Lane};
use crate::datapath::new_flow::opens_connection;
use crate::datapath::note::Note;
use crate::datapath::replica;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::{LocalAddress, PortRole, Side};
use crate::datapath::verdict::Verdict;
use crate::rewrite::nat::Deltas;
use crate::session::mappings::Refusal;
use crate::session::{Extras, InsertError, Mode, NewSession, SessionId, TcpState, tcp_state};
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

/// Opens a session for a packet without one, if it is SNAT's. `None` when no rule is for it, else the
/// session or what becomes of the packet instead. `may_open` is `false` for a packet that opens no
/// session whoever it is for (a fragment without ports).
#[cold]
#[inline(never)]
pub(in crate::datapath) fn session<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    may_open: bool,
    now: u32,
) -> Option<Result<SessionId, Verdict>> {
    if shared.snapshot.snat.is_empty() {
        return None;
    }
    let side = match who(shared, frame, &item.flow.key)? {
        Ok(side) => side,
        Err(verdict) => return Some(Err(verdict)),
    };
    let flow = &item.flow;
    if flow.key.protocol == Protocol::Tcp
        && may_open
        && !opens_connection(flow.tcp_flags)
        && let Some(given) = replica::give(shared, frame, false, now)
    {
        return Some(Err(given));
    }
    if (flow.key.protocol != Protocol::Tcp || opens_connection(flow.tcp_flags))
        && may_open
        && let Some(verdict) = replica::postpone(shared, frame, now)
    {
        return Some(Err(verdict));
    }
    let verdict = match flow.key.protocol {
        _ if !may_open => Verdict::Drop(DropReason::NoSession),
        Protocol::Tcp if !opens_connection(flow.tcp_flags) => Verdict::Drop(DropReason::NoSession),
        _ if flow.hop_limit <= 1 => icmp::time_exceeded(shared, frame, flow, now),
        _ if replica::is_learning(shared) => Verdict::Drop(DropReason::Joining),
        _ if lane.table.len() == lane.table.capacity() => {
            Verdict::Drop(DropReason::SessionTableFull)
        }
        _ => return Some(open(shared, lane, frame, item, side, now)),
    };
    Some(Err(verdict))
}

/// Who opens a session, and the rule that is for it.
#[derive(Clone, Copy)]
enum Opener {
    Inside(u16),
    Outside(u16),
}

/// Who has sent a packet without a session. `None` when no rule is for it.
fn who<A: Family, F: Frame>(
    shared: &Shared<F>,
    frame: &F,
    key: &FlowKey<A>,
) -> Option<Result<Opener, Verdict>> {
    let inside = A::inside(&shared.snapshot);
    let port = &shared.snapshot.ports[usize::from(frame.rx_port().0)];
    let outside_port = matches!(port.role, PortRole::Wire { side: Side::Client, .. });
    let source = inside.rule_of(key.src);
    let drop = |reason| Some(Err(Verdict::Drop(reason)));
    match A::local(&shared.snapshot, key.dst) {
        Some(LocalAddress::Pool(_)) => {
            let Some(rule) = inside.rule_of_pool(key.dst) else {
                return drop(DropReason::SnatNoMapping);
            };
            match source {
                None => Some(Ok(Opener::Outside(rule))),
                // From outside such a source is forged.
                Some(_) if outside_port => drop(DropReason::SnatFiltered),
                Some(_) if !shared.snapshot.snat.list()[usize::from(rule)].hairpin => {
                    drop(DropReason::SnatNoHairpin)
                }
                Some(rule) => Some(Ok(Opener::Inside(rule))),
            }
        }
        // What stays inside is no business of ours.
        None if !outside_port && inside.rule_of(key.dst).is_none() => {
            let rule = source?;
            // An answer of a real server looks the same and was steered by its client.
            let (address, port) = inside.steers_by(key.src, key.sport, key.protocol);
            let owner = shared.snapshot.worker_of[A::bucket(shared.toeplitz, address, port)];
            Some(if owner == shared.worker {
                Ok(Opener::Inside(rule))
            } else {
                Err(Verdict::HandOff(owner, Note::None))
            })
        }
        _ => None,
    }
}

fn open<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    opener: Opener,
    now: u32,
) -> Result<SessionId, Verdict> {
    let key = &item.flow.key;
    let state: &mut SnatState<A> = &mut lane.local_ports.snat;
    let snapshot = &shared.snapshot;
    let inside = A::inside(snapshot);
    let opening = match opener {
        Opener::Inside(rule) => {
            // A host uses the external endpoint of its forwarded port for what it sends from there.
            let forwarded = inside.internal.get(&(key.src, key.sport, key.protocol));
            let outer = match forwarded {
                Some(external) => Ok(*external),
                None => state.take(snapshot, shared.toeplitz, item.hash, key, rule),
            };
            let (src, sport) = outer.map_err(|refusal| refuse(shared, rule, refusal))?;
            let hairpin = A::local(snapshot, key.dst).is_some();
            Opening { rule, from_inside: true, to: FlowKey { src, sport, ..*key }, hairpin }
        }
        Opener::Outside(rule) => {
            let forwarded = inside.external.get(&(key.dst, key.dport, key.protocol));
            let internal = match forwarded {
                Some(internal) => Ok(*internal),
                None => state.admit(snapshot, key, rule),
            };
            let (dst, dport) = match internal {
                Ok(endpoint) => endpoint,
                // Perhaps the peer knows what it answers, and its word of that is on the way.
                Err(refusal) => {
                    let given = replica::give(shared, frame, true, now);
                    return Err(given.unwrap_or_else(|| refuse(shared, rule, refusal)));
                }
            };
            // Only what a host inside sent by way of the pool has such a source.
            let hairpin = A::local(snapshot, key.src).is_some();
            Opening { rule, from_inside: false, to: FlowKey { dst, dport, ..*key }, hairpin }
        }
    };
    create(shared, lane, key, &opening, now).map_err(|reason| {
        let to = &opening.to;
        let (inside, outer) = match opening.from_inside {
            true => ((key.src, key.sport), to.reversed()),
            false => ((to.dst, to.dport), *key),
        };
        lane.local_ports.snat.give_back(inside, &outer);
        Verdict::Drop(reason)
    })
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

fn create<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    key: &FlowKey<A>,
    opening: &Opening<A>,
    now: u32,
) -> Result<SessionId, DropReason> {
    let Shared { snapshot, hops, counters, limits, .. } = shared;
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
        Protocol::Udp | Protocol::Icmp => TcpState::Udp,
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
            let entry = lane.table.get_mut(id);
            entry.extras = entry.extras.with(limits.opened(entry, counters));
            if hairpin {
                entry.extras = entry.extras.with(Extras::HAIRPIN);
            }
            counters.server(server_id).created.add(1);
            counters.service_sessions(service).add(1);
            replica::created(shared, lane, id, now);
            Ok(id)
        }
        Err(InsertError::Full | InsertError::IndexFull) => Err(DropReason::SessionTableFull),
        Err(InsertError::ForwardInUse | InsertError::ReplyInUse) => {
            Err(DropReason::ReplyTupleInUse)
        }
    }
}
