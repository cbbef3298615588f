//! The server's side: it is asked, it answers, and from then on the session is an ordinary one.

use super::close;
use super::notes::{Adaptation, Handshake};
use super::segments::{Made, Segment, read};
use crate::datapath::crossed;
use crate::datapath::established::next_hop;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::{Item, Lane};
use crate::datapath::onward;
use crate::datapath::refuse;
use crate::datapath::replica;
use crate::datapath::segment;
use crate::datapath::shared::Shared;
use crate::datapath::verdict::Verdict;
use crate::rewrite::ethernet::{set_addresses, turn_round};
use crate::session::{Aside, Direction, Entry, Extras, HopRef, SessionId, TcpState, tcp_state};
use crate::wire::DropReason;
use crate::wire::flow::tcp_flags;
use crate::wire::syn_options::{MAX_LEN, SynOptions, Timestamps};

/// The window scale that clients are answered with: that of a Linux server with its usual buffers,
/// whose windows then need no change.
pub(super) const WINDOW_SCALE: u8 = 7;

/// The SYN to the server. `timestamp` is the client's.
pub(super) fn syn<A>(entry: &Entry<A>, aside: &Aside, timestamp: u32) -> Made {
    use tcp_flags::{CWR, ECE, SYN};
    let handshake = Handshake::unpack(aside.note);
    let offer = handshake.offer(aside.time_shift);
    let flags = if offer.ecn { SYN | ECE | CWR } else { SYN };
    // The window of a SYN is not scaled (RFC 7323 2.2).
    let window = u32::from(handshake.window) << offer.window_scale.unwrap_or(0);
    Made {
        seq: entry.forward_end.wrapping_sub(1),
        ack: 0,
        flags,
        window: window.min(0xffff) as u16,
        options: SynOptions {
            mss: Some(handshake.mss),
            window_scale: offer.window_scale,
            sack_permitted: offer.sack,
            timestamps: handshake.timestamps.then_some(Timestamps { value: timestamp, echo: 0 }),
        },
        dscp: None,
    }
}

/// Makes of a frame from the client the SYN to the server.
pub(super) fn ask_server<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    id: SessionId,
    timestamp: u32,
    now: u32,
) -> Verdict {
    lane.table.aside_mut(id).shift_at = now;
    let entry = lane.table.get(id);
    let syn = syn(entry, lane.table.aside(id), timestamp).of(shared, entry.service);
    if !syn.write(frame, &entry.forward_key()) {
        return Verdict::Drop(DropReason::NoBuffer);
    }
    pass(shared, lane, frame, id, Direction::Forward, now)
}

/// A segment from a server that was sent a SYN.
pub(super) fn from_server<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    now: u32,
) -> Verdict {
    use tcp_flags::{ACK, RST, SYN};
    let segment = match read(frame, item) {
        Ok(segment) => segment,
        Err(reason) => return Verdict::Drop(reason),
    };
    let Entry { forward_end, service, .. } = *lane.table.get(id);
    let cookie = lane.table.aside(id).reply_shift;
    let ours = segment.flags & ACK != 0 && segment.ack == forward_end;
    match segment.flags & (SYN | ACK | RST) {
        f if f & RST != 0 && ours => {
            close(shared, lane, id, now);
            let reset = Made::plain(cookie.wrapping_add(1), forward_end, RST | ACK);
            let reset = reset.of(shared, service);
            if !reset.write(frame, &item.flow.key) {
                return Verdict::Drop(DropReason::NoBuffer);
            }
            pass(shared, lane, frame, id, Direction::Reply, now)
        }
        f if f == SYN | ACK && ours => complete(shared, lane, frame, item, id, &segment, now),
        // It answers for an older connection of this client: a reset makes it give that up
        // (RFC 9293 3.10.7.3), and our SYN comes again.
        f if f & RST == 0 && f & ACK != 0 => {
            refuse::refuse(shared, frame, &item.flow, DropReason::SynProxyWaiting, now)
        }
        _ => Verdict::Drop(DropReason::SynProxyWaiting),
    }
}

/// The server has accepted: makes it known to both and the session an ordinary one.
fn complete<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    segment: &Segment,
    now: u32,
) -> Verdict {
    use tcp_flags::{ACK, CWR, ECE};
    let aside = lane.table.aside_mut(id);
    let (cookie, own_time) = (aside.reply_shift, aside.time_shift);
    let handshake = Handshake::unpack(aside.note);
    let offer = handshake.offer(own_time);
    let timestamps = segment.options.timestamps.filter(|_| handshake.timestamps);
    let mut adaptation = Adaptation { window: handshake.window, ..Default::default() };
    let mut window = segment.window;
    if let Some(scale) = offer.window_scale {
        let server = segment.options.window_scale;
        adaptation.reply = server.unwrap_or(0) as i8 - WINDOW_SCALE as i8;
        adaptation.forward = if server.is_none() { scale } else { 0 };
        window >>= WINDOW_SCALE;
    }
    adaptation.no_ecn = offer.ecn && segment.flags & (ECE | CWR) != ECE;
    aside.reply_shift = cookie.wrapping_sub(segment.seq);
    aside.time_shift = timestamps.map_or(0, |t| own_time.wrapping_sub(t.value));
    aside.shift_at = 0;
    aside.note = adaptation.pack();

    let entry = lane.table.get_mut(id);
    entry.extras = entry.extras.with(Extras::SHIFTED).with(Extras::PROXIED);
    entry.reply_end = segment.seq.wrapping_add(1);
    entry.scales.set(Direction::Reply, segment.options.window_scale.unwrap_or(0));
    let (service, forward_end) = (entry.service, entry.forward_end);
    let configured = shared.snapshot.services.get(usize::from(service.0));
    let timeout = configured.map_or(entry.timeout, |service| {
        tcp_state::timeout(TcpState::Established, &service.timeouts)
    });
    lane.table.set_state(id, TcpState::Established, timeout, now);
    replica::changed(shared, lane, id, true);
    shared.counters.service(service).syn_proxied.add(1);

    let acknowledgment = acknowledgment(segment, adaptation).of(shared, service);
    let len = segment::frame_len::<A>(MAX_LEN);
    let Some(mut spare) = shared.take_spare(len) else {
        // The client's next segment has the same effect, or its probe.
        return acknowledgment.answer(shared, frame, &item.flow.key);
    };
    if acknowledgment.write(&mut spare, &item.flow.key.reversed()) {
        let port = frame.rx_port();
        spare.bytes_mut()[..12].copy_from_slice(&frame.bytes()[..12]);
        turn_round(spare.bytes_mut(), &shared.snapshot.ports[usize::from(port.0)].mac);
        shared.originate_ahead(port, spare);
    }
    let mut update = Made::plain(cookie.wrapping_add(1), forward_end, ACK).of(shared, service);
    update.window = window;
    update.options.timestamps = timestamps.map(|t| Timestamps { value: own_time, echo: t.echo });
    if !update.write(frame, &item.flow.key) {
        return Verdict::Drop(DropReason::NoBuffer);
    }
    pass(shared, lane, frame, id, Direction::Reply, now)
}

/// The ACK to a server's SYN-ACK, in the server's numbers.
fn acknowledgment(segment: &Segment, adaptation: Adaptation) -> Made {
    let window = u32::from(adaptation.window) << adaptation.forward;
    let mut ack = Made::plain(segment.ack, segment.seq.wrapping_add(1), tcp_flags::ACK);
    ack.window = window.min(0xffff) as u16;
    ack.options.timestamps =
        segment.options.timestamps.map(|t| Timestamps { value: t.echo, echo: t.value });
    ack
}

/// Answers a SYN-ACK that the server has sent again.
pub(super) fn acknowledge_again<A: Family, F: Frame>(
    shared: &Shared<F>,
    lane: &Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
) -> Verdict {
    let segment = match read(frame, item) {
        Ok(segment) => segment,
        Err(reason) => return Verdict::Drop(reason),
    };
    let adaptation = Adaptation::unpack(lane.table.aside(id).note);
    let acknowledgment = acknowledgment(&segment, adaptation);
    let service = lane.table.get(id).service;
    acknowledgment.of(shared, service).answer(shared, frame, &item.flow.key)
}

/// Passes a frame on that Shunt has made of a packet of the session, with the addresses of the side it
/// came from.
pub(super) fn pass<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Verdict {
    let entry = lane.table.get_mut(id);
    let hop_ref = match next_hop(shared, entry, direction) {
        Ok((hop_ref, _)) => hop_ref,
        Err(reason) => return Verdict::Drop(reason),
    };
    onward::translate(entry, frame.bytes_mut(), direction);
    let crosses = entry.extras.has(Extras::CROSSED);
    shared.counters.server(entry.server_id).count(direction, frame.bytes().len());
    if crosses {
        crossed::make_v4(frame);
    }
    onward::send(shared, frame, hop_ref, now)
}

/// Sends a segment to one side of a session, if its next hop is known and a frame is left.
pub(super) fn originate<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    hop: HopRef,
    made: &Made,
    direction: Direction,
) {
    let Some(hop) = shared.hops.get(hop).filter(|hop| hop.ready).copied() else { return };
    let Some(mut frame) = shared.take_spare(segment::frame_len::<A>(MAX_LEN)) else { return };
    let key = entry.key(direction);
    if made.write(&mut frame, &key) {
        onward::translate(entry, frame.bytes_mut(), direction);
        set_addresses(frame.bytes_mut(), &hop.addresses);
        shared.originate(hop.port, frame);
    }
}
