//! The client's side: cookies given and returned, and what else comes from it before the server has
//! answered.

use super::notes::Handshake;
use super::retries::{RETRY_MS, Retry};
use super::segments::{Made, Segment, read};
use super::server::{WINDOW_SCALE, ask_server, pass};
use super::{close, end};
use crate::datapath::choose;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::{Item, Lane};
use crate::datapath::policy::MidStream;
use crate::datapath::refuse;
use crate::datapath::replica;
use crate::datapath::shared::Shared;
use crate::datapath::verdict::Verdict;
use crate::session::syn_cookie::{Claim, Offer};
use crate::session::{Direction, ServiceId, SessionId, TcpState, tcp_state};
use crate::wire::flow::tcp_flags;
use crate::wire::syn_options::Timestamps;
use crate::wire::{DropReason, tcp};

/// The MSS of a client that does not say (RFC 9293 3.7.1), by family.
const DEFAULT_MSS: [u16; 2] = [536, 1220];

/// How soon the client can make Shunt ask the server again, in milliseconds.
const ASK_AGAIN_MS: u32 = 200;

/// Answers a SYN with a cookie.
pub(super) fn challenge<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    item: &Item<A>,
    service: ServiceId,
    now: u32,
) -> Verdict {
    use tcp_flags::{ACK, CWR, ECE, SYN};
    let syn = match read(frame, item) {
        Ok(syn) => syn,
        Err(reason) => return Verdict::Drop(reason),
    };
    let key = item.flow.key;
    let claim = Claim { key, isn: syn.seq, timestamps: syn.options.timestamps.is_some() };
    let policy = shared.snapshot.services[usize::from(service.0)].policy;
    let mss = policy.clamp_mss(syn.options.mss.unwrap_or(DEFAULT_MSS[usize::from(A::V6)]));
    let clock = now.wrapping_add(shared.syn.clock);
    let cookie = shared.syn.cookies.mint(&claim, mss, clock);
    let headers = (A::TRANSPORT + tcp::HEADER_LEN) as u16;
    let mut answer = Made::plain(cookie, syn.seq.wrapping_add(1), SYN | ACK).of(shared, service);
    answer.options.mss = Some(policy.clamp_mss(shared.fits_all_ports.saturating_sub(headers)));
    if let Some(timestamps) = syn.options.timestamps {
        let offer = Offer {
            window_scale: syn.options.window_scale,
            sack: syn.options.sack_permitted,
            ecn: syn.flags & (ECE | CWR) == ECE | CWR,
        };
        answer.options.window_scale = offer.window_scale.map(|_| WINDOW_SCALE);
        answer.options.sack_permitted = offer.sack;
        answer.options.timestamps =
            Some(Timestamps { value: offer.timestamp(now), echo: timestamps.value });
        if offer.ecn {
            answer.flags |= ECE;
        }
    }
    shared.syn.gates.answered(service, now);
    shared.counters.service(service).syn_cookies_sent.add(1);
    answer.answer(shared, frame, &key)
}

/// What a cookie has told.
#[derive(Clone, Copy)]
pub(super) struct Redeemed {
    isn: u32,
    mss: u16,
}

/// Whether the segment acknowledges a cookie of ours.
pub(super) fn verify<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    item: &Item<A>,
    segment: &Segment,
    now: u32,
) -> Option<Redeemed> {
    let cookie = segment.ack.wrapping_sub(1);
    let timestamps = segment.options.timestamps.is_some();
    let mut try_isn = |isn: u32| {
        let claim = Claim { key: item.flow.key, isn, timestamps };
        let mss = shared.syn.cookies.verify(&claim, cookie, now.wrapping_add(shared.syn.clock))?;
        Some(Redeemed { isn, mss })
    };
    // A window probe of Linux has the number before the next, as a keep-alive does.
    try_isn(segment.seq.wrapping_sub(1))
        .or_else(|| if segment.has_data { None } else { try_isn(segment.seq) })
}

/// Opens a session for an ACK that returns a cookie.
pub(super) fn redeem<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service: ServiceId,
    now: u32,
) -> Verdict {
    let segment = match read(frame, item) {
        Ok(segment) => segment,
        Err(reason) => return Verdict::Drop(reason),
    };
    match verify(shared, item, &segment, now) {
        Some(redeemed) => open(shared, lane, frame, item, service, &segment, redeemed, now),
        None => {
            if let Some(given) = replica::give(shared, frame, false, now) {
                return given;
            }
            if replica::is_joining(shared) {
                return reject(shared, service);
            }
            // Perhaps of a connection from before a restart.
            let resets = shared.snapshot.services[usize::from(service.0)].policy.mid_stream
                == MidStream::Reset;
            match reject(shared, service) {
                Verdict::Drop(reason) if resets => {
                    refuse::refuse(shared, frame, &item.flow, reason, now)
                }
                verdict => verdict,
            }
        }
    }
}

fn reject<F>(shared: &Shared<F>, service: ServiceId) -> Verdict {
    shared.counters.service(service).syn_cookies_rejected.add(1);
    Verdict::Drop(DropReason::SynCookieInvalid)
}

/// Opens the session of a client that has returned its cookie, and asks the server.
#[expect(clippy::too_many_arguments, reason = "the packet's context and what was read of it")]
pub(super) fn open<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service: ServiceId,
    segment: &Segment,
    redeemed: Redeemed,
    now: u32,
) -> Verdict {
    let chosen = choose::session(shared, lane, frame, item, service, now);
    // Another worker is asked first which server; the segment then comes back.
    if let Err(asks @ Verdict::HandOff(..)) = chosen {
        return asks;
    }
    shared.counters.service(service).syn_cookies_accepted.add(1);
    let id = match chosen {
        Ok(id) => id,
        // In a moment there will be room: it comes again.
        Err(waits @ Verdict::Drop(DropReason::Joining)) => return waits,
        // The client thinks that it is connected.
        Err(Verdict::Drop(reason)) => {
            return refuse::refuse(shared, frame, &item.flow, reason, now);
        }
        Err(verdict) => return verdict,
    };
    let timeouts = &shared.snapshot.services[usize::from(service.0)].timeouts;
    let timeout = tcp_state::timeout(TcpState::SynProxied, timeouts);
    lane.table.set_state(id, TcpState::SynProxied, timeout, now);
    shared.limits.moved(lane.table.get(id), TcpState::SynSent, &shared.counters);
    let forward_end = redeemed.isn.wrapping_add(1);
    let timestamps = segment.options.timestamps;
    let offer = timestamps.map_or_else(Offer::default, |t| Offer::of_timestamp(t.echo));
    let entry = lane.table.get_mut(id);
    entry.forward_end = forward_end;
    entry.scales.set(Direction::Forward, offer.window_scale.unwrap_or(0));
    let handshake =
        Handshake { window: segment.window, mss: redeemed.mss, timestamps: timestamps.is_some() };
    let aside = lane.table.aside_mut(id);
    aside.reply_shift = segment.ack.wrapping_sub(1);
    aside.time_shift = timestamps.map_or(0, |t| t.echo);
    aside.note = handshake.pack();
    let timestamp = timestamps.map_or(0, |t| t.value);
    let due = now.wrapping_add(RETRY_MS[0]);
    lane.syn_retries.push(0, Retry { due, key: item.flow.key, forward_end, timestamp });
    ask_server(shared, lane, frame, id, timestamp, now)
}

/// A segment from a client whose server has not answered yet.
pub(super) fn from_client<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    now: u32,
) -> Verdict {
    use tcp_flags::{ACK, RST, SYN};
    let waiting = Verdict::Drop(DropReason::SynProxyWaiting);
    let segment = match read(frame, item) {
        Ok(segment) => segment,
        Err(reason) => return Verdict::Drop(reason),
    };
    let (service, forward_end) = {
        let entry = lane.table.get(id);
        (entry.service, entry.forward_end)
    };
    let aside = *lane.table.aside(id);
    if segment.flags & RST != 0 {
        if segment.seq != forward_end {
            return waiting;
        }
        // The client has given up; the server may have made a connection of its own.
        close(shared, lane, id, now);
        let reset = Made::plain(forward_end, 0, RST).of(shared, service);
        let key = item.flow.key;
        return if reset.write(frame, &key) {
            pass(shared, lane, frame, id, Direction::Forward, now)
        } else {
            Verdict::Drop(DropReason::NoBuffer)
        };
    }
    if segment.flags & SYN != 0 {
        // Late, or the client begins anew: then it will return this cookie.
        return if segment.flags & ACK == 0 {
            challenge(shared, frame, item, service, now)
        } else {
            waiting
        };
    }
    let same = segment.ack == aside.reply_shift.wrapping_add(1)
        && segment.seq.wrapping_sub(forward_end.wrapping_sub(1)) <= 0xffff
        && segment.options.timestamps.is_some() == Handshake::unpack(aside.note).timestamps;
    if same {
        if now.wrapping_sub(aside.shift_at) < ASK_AGAIN_MS {
            return waiting;
        }
        let timestamp = segment.options.timestamps.map_or(0, |t| t.value);
        return ask_server(shared, lane, frame, id, timestamp, now);
    }
    match verify(shared, item, &segment, now) {
        Some(redeemed) => {
            end(shared, lane, id, now);
            open(shared, lane, frame, item, service, &segment, redeemed, now)
        }
        None => reject(shared, service),
    }
}
