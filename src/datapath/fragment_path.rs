//! The way of a fragment through the workers.
//!
//! ```text
//!  receiver ──hash of (src, dst, id, protocol)──▶ home ──ports of the first fragment──▶ owner
//! ```
//!
//! All fragments of a packet meet at its **home**, whoever receives them: only the first has ports,
//! and the home learns them from it ([`super::fragments`]). From there each goes to the worker that
//! owns the session, with the ports in its [`Note`], and is forwarded as the session says. Receiver,
//! home and owner may be the same.
//!
//! A first fragment opens a session as a whole datagram does; a TCP connection is opened by whole
//! segments only. Where every datagram is decided on by itself, all fragments of one go to the server
//! of the first, straight from the home ([`super::one_packet`]).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::choose;
use super::crossed;
use super::crossed_fragment;
use super::established::next_hop;
use super::extras;
use super::family::Family;
use super::fragments::{Binding, Fragments, Seen};
use super::frame::Frame;
use super::guard;
use super::hops::Hop;
use super::icmp;
use super::lane::{Crossed, Item, Lane};
use super::local;
use super::new_flow;
use super::note::Note;
use super::one_packet;
use super::onward;
use super::outbox::Outbox;
use super::pipeline::Pipeline;
use super::shared::Shared;
use super::snat::{self, hairpin};
use super::steer;
use super::tunnel;
use super::verdict::Verdict;
use crate::io::BURST;
use crate::rewrite::fragment::TranslateFragment;
use crate::session::{Direction, Entry, Extras, SessionId, TcpState};
use crate::wire::DropReason;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{self, Flow, FlowKey, Protocol};
use crate::wire::fragment::{self, Fragment, Parsed};

impl<F: Frame> Pipeline<F> {
    /// Decides on a frame that parsing has refused.
    #[cold]
    #[inline(never)]
    pub(super) fn refused(&mut self, frame: &mut F, reason: DropReason, now: u32) -> Verdict {
        if reason != DropReason::Fragment {
            return Verdict::Drop(reason);
        }
        if self.shared.guard.on
            && !self.shared.steered
            && let Some(verdict) = guard::other(&mut self.shared, frame, now)
        {
            return verdict;
        }
        let Pipeline { shared, v4, v6, fragments_v4, fragments_v6, .. } = self;
        if let Some(dst) = fragment::destination(frame.bytes())
            && local::is_for_kernel(shared, dst)
        {
            // The kernel puts it together: what hides its ports from the filter is not for it.
            if shared.guard.on
                && let Err(hides @ (DropReason::TinyFragment | DropReason::ExtensionHeader)) =
                    fragment::parse(frame.bytes())
            {
                return Verdict::Drop(hides);
            }
            return local::handle(shared, frame, flow::Parsed::OtherIp { dst }, now);
        }
        match fragment::parse(frame.bytes()) {
            Ok(Parsed::V4(f)) => take(shared, fragments_v4, &mut lanes(v4, v6), frame, &f, now),
            Ok(Parsed::V6(f)) => take(shared, fragments_v6, &mut alone(v6), frame, &f, now),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Keeps a fragment that came before its first.
    #[cold]
    #[inline(never)]
    pub(super) fn hold_fragment(&mut self, frame: F, v6: bool, place: u16, now: u32) {
        let dropped = if v6 {
            self.fragments_v6.hold(place, frame, now)
        } else {
            self.fragments_v4.hold(place, frame, now)
        };
        let counters = &self.shared.counters;
        counters.fragments_held.add(1);
        if let Some(reason) = dropped {
            counters.drops_of(reason).add(1);
        }
        self.count_held();
    }

    /// How many fragments wait.
    #[inline]
    pub(super) fn fragments_held(&self) -> usize {
        self.fragments_v4.held() + self.fragments_v6.held()
    }

    /// Sends fragments on whose first has come, and drops those that have waited for too long: a
    /// burst at most.
    #[cold]
    #[inline(never)]
    pub(super) fn move_fragments(&mut self, now: u32, out: &mut Outbox<F>) {
        for _ in 0..BURST {
            let released = self.fragments_v4.release().or_else(|| self.fragments_v6.release());
            if let Some((mut frame, binding)) = released {
                let verdict = self.follow(&mut frame, binding, now);
                // The first part of it, where a tunnel has cut it in two.
                self.shared.flush_ahead(out);
                self.queue(frame, verdict, now, out);
            } else if self.fragments_v4.expire(now) || self.fragments_v6.expire(now) {
                self.shared.counters.drops_of(DropReason::FragmentExpired).add(1);
            } else {
                break;
            }
        }
        self.count_held();
    }

    /// Decides on a fragment that has waited for its first.
    fn follow(&mut self, frame: &mut F, binding: Binding, now: u32) -> Verdict {
        let Pipeline { shared, v4, v6, .. } = self;
        match fragment::parse(frame.bytes()) {
            Ok(Parsed::V4(f)) => at_home(shared, &mut lanes(v4, v6), frame, &f, binding, now),
            Ok(Parsed::V6(f)) => at_home(shared, &mut alone(v6), frame, &f, binding, now),
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

/// Where the session of a fragment may be.
pub(super) struct Lanes<'a, A: Family> {
    /// The lane of its own family.
    pub(super) own: &'a mut Lane<A>,
    /// That of sessions between families, if it is another one.
    pub(super) between: Option<&'a mut Lane<Ipv6Addr>>,
}

fn lanes<'a>(v4: &'a mut Lane<Ipv4Addr>, v6: &'a mut Lane<Ipv6Addr>) -> Lanes<'a, Ipv4Addr> {
    Lanes { own: v4, between: Some(v6) }
}

fn alone(v6: &mut Lane<Ipv6Addr>) -> Lanes<'_, Ipv6Addr> {
    Lanes { own: v6, between: None }
}

/// A fragment that came in, or was handed over.
fn take<A: Family + TranslateFragment, F: Frame>(
    shared: &mut Shared<F>,
    fragments: &mut Fragments<A, F>,
    lanes: &mut Lanes<'_, A>,
    frame: &mut F,
    fragment: &Fragment<A>,
    now: u32,
) -> Verdict {
    let fragment::Packet { src, dst, .. } = fragment.packet;
    // As in packets: nothing on a wire has such an address (RFC 4942 2.2).
    if crossed::is_mapped(src) || crossed::is_mapped(dst) {
        return Verdict::Drop(DropReason::Martian);
    }
    if shared.steered
        && let Note::Fragment(binding) = Note::decode(frame.note())
    {
        return forward(shared, lanes, frame, fragment, binding, now);
    }
    if shared.several_workers && !shared.steered {
        let home = home(shared, fragment);
        if home != shared.worker {
            return Verdict::HandOff(home, Note::None);
        }
    }
    match fragments.see(fragment, now) {
        Seen::Bound(mut binding) => {
            if fragment.ports.is_some()
                && let Some(chosen) =
                    one_packet::choose(shared, lanes.own, frame, &flow(fragment, binding))
            {
                match chosen {
                    Ok(server) => {
                        fragments.decide(&fragment.packet, server);
                        binding.server = Some(server);
                    }
                    Err(reason) => return Verdict::Drop(reason),
                }
            }
            at_home(shared, lanes, frame, fragment, binding, now)
        }
        Seen::Early(place) => Verdict::HoldFragment { v6: A::V6, place },
        Seen::Refused(reason, held) => {
            let counters = &shared.counters;
            counters.drops_of(reason).add(held as u64);
            counters.held.set(counters.held.get() - held as u64);
            Verdict::Drop(reason)
        }
    }
}

/// The worker that all fragments of a packet meet at.
fn home<A: Family, F>(shared: &Shared<F>, fragment: &Fragment<A>) -> u8 {
    let packet = &fragment.packet;
    let bucket = |address, number| A::bucket(shared.toeplitz, address, number);
    let high = (packet.ident >> 16) as u16 ^ u16::from(packet.protocol.number());
    shared.snapshot.worker_of[bucket(packet.src, packet.ident as u16) ^ bucket(packet.dst, high)]
}

/// A fragment whose ports are known: it goes to the worker of its session.
fn at_home<A: Family + TranslateFragment, F: Frame>(
    shared: &mut Shared<F>,
    lanes: &mut Lanes<'_, A>,
    frame: &mut F,
    fragment: &Fragment<A>,
    binding: Binding,
    now: u32,
) -> Verdict {
    if let Some(verdict) = one_packet::fragment(shared, lanes.own, frame, fragment, binding, now) {
        return verdict;
    }
    if shared.several_workers {
        let role = shared.snapshot.ports[usize::from(frame.rx_port().0)].role;
        let key = key(fragment, binding);
        let owner = steer::owner(&shared.snapshot, shared.toeplitz, role, &key);
        if owner != shared.worker {
            return Verdict::HandOff(owner, Note::Fragment(binding));
        }
    }
    forward(shared, lanes, frame, fragment, binding, now)
}

fn key<A: Family>(fragment: &Fragment<A>, binding: Binding) -> FlowKey<A> {
    let fragment::Packet { src, dst, protocol, .. } = fragment.packet;
    FlowKey { src, dst, sport: binding.sport, dport: binding.dport, protocol }
}

/// The flow it is of.
pub(super) fn flow<A: Family>(fragment: &Fragment<A>, binding: Binding) -> Flow<A> {
    let Fragment { hop_limit, frame_len, .. } = *fragment;
    Flow { key: key(fragment, binding), tcp_flags: 0, hop_limit, frame_len }
}

/// Forwards a fragment of a session that is ours, or that it opens.
pub(super) fn forward<A: Family + TranslateFragment, F: Frame>(
    shared: &mut Shared<F>,
    lanes: &mut Lanes<'_, A>,
    frame: &mut F,
    fragment: &Fragment<A>,
    binding: Binding,
    now: u32,
) -> Verdict {
    let flow = flow(fragment, binding);
    let lane = &mut *lanes.own;
    let hash = lane.table.hash(&flow.key);
    let (id, direction) = match lane.table.find(hash, &flow.key) {
        Some(found) => found,
        None => {
            if let Some(between) = &mut lanes.between
                && crossed::takes(shared, &flow.key)
            {
                return crossed_fragment::enter(
                    shared, between, frame, fragment, &flow, binding, now,
                );
            }
            let mut item = Item::alone(flow, hash);
            if crossed::is_mapped(flow.key.dst) {
                item.crossed = Crossed::Whole;
            }
            match open(shared, lane, frame, fragment, binding, item, now) {
                Ok(id) => (id, Direction::Forward),
                Err(verdict) => return verdict,
            }
        }
    };
    act(shared, lane, frame, fragment, binding, (id, direction), now)
}

/// Forwards a fragment whose session is known, as [`super::established::act`] does with whole
/// packets.
pub(super) fn act<A: Family + TranslateFragment, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    fragment: &Fragment<A>,
    binding: Binding,
    (id, direction): (SessionId, Direction),
    now: u32,
) -> Verdict {
    let flow = flow(fragment, binding);
    let entry = lane.table.get_mut(id);
    let translates = entry.mode.translates();
    if translates && flow.hop_limit <= 1 {
        return icmp::time_exceeded(shared, frame, &flow, now);
    }
    // Who shifts sequence numbers needs whole segments.
    if entry.extras.has(Extras::SHIFTED.with(Extras::INTRODUCED))
        || entry.state == TcpState::SynProxied
    {
        return Verdict::Drop(DropReason::Fragment);
    }
    entry.last_seen = now;
    let (hop_ref, hop) = match next_hop(shared, entry, direction) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    let crosses = entry.extras.has(Extras::CROSSED);
    if let Some(mtu) = exceeded_mtu(shared, entry, hop, direction, flow.frame_len) {
        return icmp::packet_too_big(shared, frame, &flow, mtu, now);
    }
    if let Some(reason) = extras::police(shared, entry, frame, direction, now) {
        return Verdict::Drop(reason);
    }
    extras::to_any_packet(shared, entry, frame);
    if entry.mode.tunnels() {
        shared.counters.fragments.add(1);
        return tunnel::forward(shared, frame, &flow, entry.server_id, (hop_ref, hop), now);
    }
    // Ethernet padding ends here.
    frame.set_len(usize::from(flow.frame_len));
    if translates {
        let (to, deltas) = onward::translation(entry, direction);
        A::translate_fragment(frame.bytes_mut(), fragment, &to, deltas, binding.ident);
    }
    if crosses {
        return crossed_fragment::leave(shared, entry, frame, direction, (hop_ref, hop), now);
    }
    shared.counters.server(entry.server_id).count(direction, frame.bytes().len());
    if entry.extras.has(Extras::HAIRPIN)
        && let Some(to) = hairpin::leaves_by(entry, direction)
    {
        let owner = shared.snapshot.worker_of[A::bucket(shared.toeplitz, to.dst, to.dport)];
        let (sport, dport) = (to.sport, to.dport);
        return Verdict::HandOff(owner, Note::Fragment(Binding { sport, dport, ..binding }));
    }
    shared.counters.fragments.add(1);
    onward::send(shared, frame, hop_ref, now)
}

/// The MTU that the sender of a fragment is to be told if it is too long for the port it leaves by.
fn exceeded_mtu<A: Family, F>(
    shared: &Shared<F>,
    entry: &Entry<A>,
    hop: Hop,
    direction: Direction,
    frame_len: u16,
) -> Option<u16> {
    let mtu = shared.mtu(hop.port);
    if entry.extras.has(Extras::CROSSED) {
        return crossed_fragment::exceeded_mtu(entry, direction, frame_len, mtu);
    }
    // With its outer headers it is longer still: judged there.
    let judged = entry.mode.tunnels() || usize::from(frame_len) <= ETHERNET + usize::from(mtu);
    (!judged).then_some(mtu)
}

/// Opens the session of a datagram whose first fragment this is.
fn open<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    fragment: &Fragment<A>,
    binding: Binding,
    item: Item<A>,
    now: u32,
) -> Result<SessionId, Verdict> {
    let key = &item.flow.key;
    if A::local(&shared.snapshot, key.src).is_some() {
        return Err(Verdict::Drop(DropReason::SpoofedLocal));
    }
    let Some(service) = A::listener(&shared.snapshot, key) else {
        let may_open = fragment.ports.is_some() && key.protocol == Protocol::Udp;
        if let Some(opened) = snat::open::session(shared, lane, frame, &item, may_open, now) {
            return opened.map_err(|verdict| match verdict {
                Verdict::HandOff(owner, _) => Verdict::HandOff(owner, Note::Fragment(binding)),
                verdict => verdict,
            });
        }
        return Err(new_flow::without_service(shared, lane, frame, &item, now));
    };
    if fragment.ports.is_none() || key.protocol == Protocol::Tcp {
        return Err(Verdict::Drop(DropReason::NoSession));
    }
    choose::session_here(shared, lane, frame, &item, service, now)
}
