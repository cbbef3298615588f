//! The SYN proxy: Shunt completes the handshake with the client before it asks the server, so that a
//! flood of SYNs reaches neither the session table nor the servers.
//!
//! ```text
//!  client                           Shunt                            server
//!    │ SYN, ISN c ───────────────────▶│                                 │
//!    │◀──── SYN-ACK, ISN = cookie, window 0                             │   nothing is kept
//!    │ ACK of the cookie ────────────▶│ SYN, ISN c ────────────────────▶│   a session: SynProxied
//!    │                                │◀──────────────── SYN-ACK, ISN s │
//!    │◀─ window of the server, ACK c+1│ ACK s+1 ───────────────────────▶│   Established, SHIFTED
//!    │◀══════════ numbers of the server shifted by cookie − s ═════════▶│
//! ```
//!
//! The window of 0 keeps the client from sending data that nobody can take yet (as nft_synproxy
//! does): the first data then goes out one round trip to the server after the client's ACK, with
//! nothing lost and no timer involved.
//!
//! What the client offered comes back with its ACK ([`syn_cookie`](crate::session::syn_cookie)) and
//! stands in the SYN to the server. What the client is promised in the server's place is fixed
//! ([`WINDOW_SCALE`], the MTU of Shunt's ports, SACK, ECN); where the server decides otherwise, windows
//! are rescaled and ECN marks taken off in each packet ([`adapt`]).
//!
//! In state [`TcpState::SynProxied`] the session keeps
//!
//! | field | meaning |
//! |---|---|
//! | [`Entry::forward_end`] | the client's ISN + 1 |
//! | [`Aside::reply_shift`] | the cookie |
//! | [`Aside::time_shift`] | the timestamp that the client was answered with |
//! | [`Aside::shift_at`] | when the last SYN went to the server |
//! | [`Aside::note`] | [`Handshake`] |
//!
//! and afterwards, with [`Extras::PROXIED`], an [`Adaptation`] in the note.
//!
//! Lost packets: the client's SYN and our SYN-ACK by the client's timer. The client's ACK by its first
//! data, which it probes the window for (a client that waits for the server to speak first has none:
//! the price of keeping no state). Our SYN to the server by the client's window probes, and by a timer
//! of Shunt's ([`RETRY_MS`]) as long as it has room. Our ACK to the server by the server's timer, the
//! window update to the client by the client's probe, which by then the server answers.
//!
//! A server that refuses, or says nothing until `tcp_syn` is over, makes Shunt reset the client.

use std::collections::VecDeque;

use super::choose;
use super::crossed;
use super::established::{hold, next_hop};
use super::family::Family;
use super::frame::Frame;
use super::pipeline::{Item, Lane, Shared};
use super::policy::MidStream;
use super::refuse;
use super::segment;
use super::syn_gate::SynGates;
use super::verdict::Verdict;
use crate::rewrite::ethernet::{set_addresses, turn_round};
use crate::rewrite::nat::Deltas;
use crate::session::syn_cookie::{Claim, Offer, SynCookies};
use crate::session::{
    Aside, Direction, Entry, Extras, HopRef, ServiceId, SessionId, TcpState, tcp_state,
};
use crate::wire::checksum;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{FlowKey, tcp_flags};
use crate::wire::syn_options::{MAX_LEN, SynOptions, Timestamps};
use crate::wire::{DropReason, tcp};

/// The window scale that clients are answered with: that of a Linux server with its usual buffers,
/// whose windows then need no change.
const WINDOW_SCALE: u8 = 7;
/// The MSS of a client that does not say (RFC 9293 3.7.1), by family.
const DEFAULT_MSS: [u16; 2] = [536, 1220];
/// How soon the client can make Shunt ask the server again, in milliseconds.
const ASK_AGAIN_MS: u32 = 200;
/// When Shunt asks the server again by itself, in milliseconds after the time before.
const RETRY_MS: [u32; 2] = [1000, 2000];
/// How many handshakes each of these timers has room for.
const RETRIES: usize = 1024;
/// Timers looked at per turn.
const RETRY_BUDGET: usize = 32;

/// What a worker needs of the SYN proxy, for both families.
pub(super) struct SynState {
    pub(super) cookies: SynCookies,
    pub(super) gates: SynGates,
}

impl SynState {
    /// `secret` is that of the node's cookies.
    pub(super) fn new(secret: u128) -> Self {
        SynState { cookies: SynCookies::new(secret), gates: SynGates::default() }
    }
}

/// A handshake with a server that is to be asked again.
#[derive(Clone, Copy, Debug)]
struct Retry<A> {
    due: u32,
    key: FlowKey<A>,
    forward_end: u32,
    /// The client's timestamp.
    timestamp: u32,
}

/// The timers of handshakes with servers: a queue for each of [`RETRY_MS`], in the order in which they
/// are due. What finds no room is not asked again but by the client.
#[derive(Debug)]
pub(super) struct Retries<A> {
    queues: [VecDeque<Retry<A>>; RETRY_MS.len()],
}

impl<A: Family> Retries<A> {
    /// None, and no room.
    pub(super) const fn new() -> Self {
        Retries { queues: [VecDeque::new(), VecDeque::new()] }
    }

    /// Makes room. Allocates.
    pub(super) fn reserve(&mut self) {
        for queue in &mut self.queues {
            queue.reserve_exact(RETRIES.saturating_sub(queue.len()));
        }
    }

    fn push(&mut self, stage: usize, retry: Retry<A>) {
        if let Some(queue) = self.queues.get_mut(stage)
            && queue.len() < RETRIES.min(queue.capacity())
        {
            queue.push_back(retry);
        }
    }

    fn pop_due(&mut self, now: u32) -> Option<(usize, Retry<A>)> {
        self.queues.iter_mut().enumerate().find_map(|(stage, queue)| {
            let due = queue.front().is_some_and(|r| now.wrapping_sub(r.due) as i32 >= 0);
            Some((stage, due.then(|| queue.pop_front()).flatten()?))
        })
    }
}

/// What [`Aside::note`] holds until the server has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handshake {
    /// The window field of the client's ACK.
    window: u16,
    /// The client's MSS.
    mss: u16,
    /// Whether timestamps are in use, and with them what [`Offer`] says.
    timestamps: bool,
}

impl Handshake {
    fn pack(self) -> u32 {
        u32::from(self.window) | u32::from(self.mss) << 16 | u32::from(self.timestamps) << 31
    }
    fn unpack(note: u32) -> Self {
        Handshake {
            window: note as u16,
            mss: (note >> 16) as u16 & 0x7fff,
            timestamps: note >> 31 == 1,
        }
    }
    /// What the client offered; `timestamp` is what it was answered with.
    fn offer(self, timestamp: u32) -> Offer {
        if self.timestamps { Offer::of_timestamp(timestamp) } else { Offer::default() }
    }
}

/// What [`Aside::note`] holds afterwards: where the server differs from what the client was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Adaptation {
    /// The window field of the client's first ACK.
    window: u16,
    /// Bits by which the server's windows are shifted left, or if negative right: its scale less
    /// that of the client's SYN-ACK.
    reply: i8,
    /// Bits by which the client's windows are shifted left, since the server does not scale.
    forward: u8,
    /// The server does not do ECN: the client's marks are taken off.
    no_ecn: bool,
}

impl Adaptation {
    fn pack(self) -> u32 {
        u32::from(self.window)
            | (self.reply as u32 & 0x1f) << 16
            | u32::from(self.forward) << 21
            | u32::from(self.no_ecn) << 25
    }
    fn unpack(note: u32) -> Self {
        Adaptation {
            window: note as u16,
            reply: (((note >> 16) as u8) << 3) as i8 >> 3,
            forward: (note >> 21) as u8 & 15,
            no_ecn: note >> 25 & 1 == 1,
        }
    }
}

/// What a segment says beyond its flow.
struct Segment {
    seq: u32,
    ack: u32,
    /// All eight.
    flags: u8,
    window: u16,
    has_data: bool,
    options: SynOptions,
}

/// Reads a segment that Shunt takes part in itself. Its checksum is verified, unless the sender
/// left it unfinished: what it says goes into packets with a checksum of their own.
fn read<A: Family, F: Frame>(frame: &F, item: &Item<A>) -> Result<Segment, DropReason> {
    let bytes = &frame.bytes()[A::TRANSPORT..usize::from(item.flow.frame_len)];
    let packet = tcp::Packet::new_checked(bytes)?;
    if !item.fill_checksum && !packet.verify_checksum(item.flow.key.src, item.flow.key.dst) {
        return Err(DropReason::BadTransportChecksum);
    }
    Ok(Segment {
        seq: packet.seq(),
        ack: packet.ack(),
        flags: packet.flags(),
        window: packet.window(),
        has_data: !packet.payload().is_empty(),
        options: SynOptions::parse(packet.options()),
    })
}

/// The numbers of a segment that Shunt makes.
#[derive(Clone, Copy)]
struct Made {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: SynOptions,
}

impl Made {
    const fn plain(seq: u32, ack: u32, flags: u8) -> Self {
        let options =
            SynOptions { mss: None, window_scale: None, sack_permitted: false, timestamps: None };
        Made { seq, ack, flags, window: 0, options }
    }

    /// Makes the frame this segment. The MAC addresses are left alone.
    fn write<A: Family, F: Frame>(&self, frame: &mut F, key: &FlowKey<A>) -> bool {
        let mut options = [0; MAX_LEN];
        let len = self.options.emit(&mut options);
        if !frame.set_len(segment::frame_len::<A>(len)) {
            return false;
        }
        let bytes = frame.bytes_mut();
        let at = segment::frame_len::<A>(0);
        bytes[at..].copy_from_slice(&options[..len]);
        segment::emit(bytes, key, self.seq, self.ack, self.flags, self.window, len);
        true
    }

    /// Makes the frame this segment and sends it back where it came from.
    fn answer<A: Family, F: Frame>(
        &self,
        shared: &Shared<F>,
        frame: &mut F,
        key: &FlowKey<A>,
    ) -> Verdict {
        if !self.write(frame, &key.reversed()) {
            return Verdict::Drop(DropReason::NoBuffer);
        }
        let port = frame.rx_port();
        turn_round(frame.bytes_mut(), &shared.snapshot.ports[usize::from(port.0)].mac);
        Verdict::Answer(port)
    }
}

/// Looks at a TCP segment to a service for which there is no session. The verdict, if the SYN proxy
/// has one.
#[cold]
#[inline(never)]
pub(super) fn admit<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    service: ServiceId,
    now: u32,
) -> Option<Verdict> {
    use tcp_flags::{ACK, FIN, RST, SYN};
    let flags = item.flow.tcp_flags;
    if flags & (SYN | ACK | RST | FIN) == SYN {
        // A full table refuses at once, and not when the client thinks it is connected.
        let answers =
            shared.syn.gates.answers::<A>(service, now) && lane.table.len() < lane.table.capacity();
        return answers.then(|| challenge(shared, frame, item, service, now));
    }
    let may_carry = flags & (SYN | ACK | RST) == ACK;
    (may_carry && shared.syn.gates.expects_cookies(service, now))
        .then(|| redeem(shared, lane, frame, item, service, now))
}

/// Looks at a segment of a session that may change its state. The verdict, if the SYN proxy has one.
#[cold]
#[inline(never)]
pub(super) fn follow<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    item: &Item<A>,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Option<Verdict> {
    use tcp_flags::{ACK, FIN, RST, SYN};
    let flags = item.flow.tcp_flags;
    let entry = lane.table.get(id);
    match (entry.state, direction) {
        (TcpState::SynProxied, Direction::Forward) => {
            Some(from_client(shared, lane, frame, item, id, now))
        }
        (TcpState::SynProxied, Direction::Reply) => {
            Some(from_server(shared, lane, frame, item, id, now))
        }
        // Our ACK was lost.
        (TcpState::Established | TcpState::FinClient | TcpState::FinServer, Direction::Reply)
            if entry.extras.has(Extras::PROXIED) && flags & (SYN | ACK) == SYN | ACK =>
        {
            Some(acknowledge_again(shared, lane, frame, item, id))
        }
        // The client begins anew: the old session gives way to who returns a cookie, not to a SYN.
        (TcpState::FinBoth | TcpState::TimeWait | TcpState::Closed, Direction::Forward) => {
            let service = entry.service;
            if flags & (SYN | ACK | RST | FIN) == SYN {
                let answers = shared.syn.gates.answers::<A>(service, now);
                return answers.then(|| challenge(shared, frame, item, service, now));
            }
            if flags & (SYN | ACK | RST | FIN) != ACK
                || !shared.syn.gates.expects_cookies(service, now)
            {
                return None;
            }
            let segment = read(frame, item).ok()?;
            let redeemed = verify(shared, item, &segment, now)?;
            end(shared, lane, id);
            Some(open(shared, lane, frame, item, service, &segment, redeemed, now))
        }
        _ => None,
    }
}

/// Answers a SYN with a cookie.
fn challenge<A: Family, F: Frame>(
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
    let cookie = shared.syn.cookies.mint(&claim, mss, now);
    let headers = (A::TRANSPORT + tcp::HEADER_LEN) as u16;
    let mut answer = Made::plain(cookie, syn.seq.wrapping_add(1), SYN | ACK);
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
struct Redeemed {
    isn: u32,
    mss: u16,
}

/// Whether the segment acknowledges a cookie of ours.
fn verify<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    item: &Item<A>,
    segment: &Segment,
    now: u32,
) -> Option<Redeemed> {
    let cookie = segment.ack.wrapping_sub(1);
    let timestamps = segment.options.timestamps.is_some();
    let mut try_isn = |isn: u32| {
        let claim = Claim { key: item.flow.key, isn, timestamps };
        let mss = shared.syn.cookies.verify(&claim, cookie, now)?;
        Some(Redeemed { isn, mss })
    };
    // A window probe of Linux has the number before the next, as a keep-alive does.
    try_isn(segment.seq.wrapping_sub(1))
        .or_else(|| if segment.has_data { None } else { try_isn(segment.seq) })
}

/// Opens a session for an ACK that returns a cookie.
fn redeem<A: Family, F: Frame>(
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
fn open<A: Family, F: Frame>(
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

/// The SYN to the server. `timestamp` is the client's.
fn syn<A>(entry: &Entry<A>, aside: &Aside, timestamp: u32) -> Made {
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
    }
}

/// Makes of a frame from the client the SYN to the server.
fn ask_server<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    id: SessionId,
    timestamp: u32,
    now: u32,
) -> Verdict {
    lane.table.aside_mut(id).shift_at = now;
    let entry = lane.table.get(id);
    let syn = syn(entry, lane.table.aside(id), timestamp);
    if !syn.write(frame, &entry.forward_key()) {
        return Verdict::Drop(DropReason::NoBuffer);
    }
    pass(shared, lane, frame, id, Direction::Forward, now)
}

/// A segment from a client whose server has not answered yet.
fn from_client<A: Family, F: Frame>(
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
        let reset = Made::plain(forward_end, 0, RST);
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
            end(shared, lane, id);
            open(shared, lane, frame, item, service, &segment, redeemed, now)
        }
        None => reject(shared, service),
    }
}

/// A segment from a server that was sent a SYN.
fn from_server<A: Family, F: Frame>(
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
    let forward_end = lane.table.get(id).forward_end;
    let cookie = lane.table.aside(id).reply_shift;
    let ours = segment.flags & ACK != 0 && segment.ack == forward_end;
    match segment.flags & (SYN | ACK | RST) {
        f if f & RST != 0 && ours => {
            close(shared, lane, id, now);
            let reset = Made::plain(cookie.wrapping_add(1), forward_end, RST | ACK);
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
    shared.counters.service(service).syn_proxied.add(1);

    let acknowledgment = acknowledgment(segment, adaptation);
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
    let mut update = Made::plain(cookie.wrapping_add(1), forward_end, ACK);
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
fn acknowledge_again<A: Family, F: Frame>(
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
    acknowledgment(&segment, adaptation).answer(shared, frame, &item.flow.key)
}

/// Marks a session whose handshake has failed as closed.
fn close<A: Family, F>(shared: &Shared<F>, lane: &mut Lane<A>, id: SessionId, now: u32) {
    let entry = lane.table.get(id);
    let configured = shared.snapshot.services.get(usize::from(entry.service.0));
    let timeout = configured
        .map_or(entry.timeout, |service| tcp_state::timeout(TcpState::Closed, &service.timeouts));
    lane.table.set_state(id, TcpState::Closed, timeout, now);
}

/// Ends a session that another takes the place of.
fn end<A: Family, F>(shared: &mut Shared<F>, lane: &mut Lane<A>, id: SessionId) {
    let entry = lane.table.remove(id);
    let Shared { counters, limits, .. } = shared;
    Lane::closed(&entry, &mut lane.balancer, &mut lane.local_ports, limits, counters);
}

/// Passes a frame on that Shunt has made of a packet of the session, with the addresses of the side it
/// came from.
fn pass<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    frame: &mut F,
    id: SessionId,
    direction: Direction,
    now: u32,
) -> Verdict {
    let entry = lane.table.get_mut(id);
    let (hop_ref, hop) = match next_hop(shared, entry, direction) {
        Ok(hop) => hop,
        Err(reason) => return Verdict::Drop(reason),
    };
    translate(entry, frame.bytes_mut(), direction);
    let crosses = entry.extras.has(Extras::CROSSED);
    let server = shared.counters.server(entry.server_id);
    let bytes = frame.bytes().len() as u64;
    match direction {
        Direction::Forward => {
            server.forward_packets.add(1);
            server.forward_bytes.add(bytes);
        }
        Direction::Reply => {
            server.reply_packets.add(1);
            server.reply_bytes.add(bytes);
        }
    }
    if crosses {
        crossed::make_v4(frame);
    }
    if !hop.ready {
        return hold(shared, hop_ref, now);
    }
    set_addresses(frame.bytes_mut(), &hop.addresses);
    Verdict::Forward(hop.port)
}

fn translate<A: Family>(entry: &Entry<A>, bytes: &mut [u8], direction: Direction) {
    let deltas = Deltas { ip: entry.delta_ip, transport: entry.delta_transport };
    match direction {
        Direction::Forward => A::translate(bytes, &entry.reply_key().reversed(), deltas),
        Direction::Reply => A::translate(bytes, &entry.forward_key().reversed(), deltas.reversed()),
    }
}

/// Sends a segment to one side of a session, if its next hop is known and a frame is left.
fn originate<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    hop: HopRef,
    made: &Made,
    direction: Direction,
) {
    let Some(hop) = shared.hops.get(hop).filter(|hop| hop.ready).copied() else { return };
    let Some(mut frame) = shared.take_spare(segment::frame_len::<A>(MAX_LEN)) else { return };
    let key = match direction {
        Direction::Forward => entry.forward_key(),
        Direction::Reply => entry.reply_key(),
    };
    if made.write(&mut frame, &key) {
        translate(entry, frame.bytes_mut(), direction);
        set_addresses(frame.bytes_mut(), &hop.addresses);
        shared.originate(hop.port, frame);
    }
}

/// Lets time pass for the gates: a bounded amount of work.
pub(super) fn pass_gates<F>(shared: &mut Shared<F>, now: u32) {
    if let Some((service, on)) = shared.syn.gates.pass(now) {
        shared.counters.service(service).syn_proxy_on.set(u64::from(on));
    }
}

/// Asks servers again that have not answered: a bounded amount of work.
pub(super) fn retry<A: Family, F: Frame>(shared: &mut Shared<F>, lane: &mut Lane<A>, now: u32) {
    for _ in 0..RETRY_BUDGET {
        let Some((stage, retry)) = lane.syn_retries.pop_due(now) else { break };
        ask_again(shared, lane, stage, retry, now);
    }
}

#[cold]
#[inline(never)]
fn ask_again<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    stage: usize,
    retry: Retry<A>,
    now: u32,
) {
    let hash = lane.table.hash(&retry.key);
    let Some((id, Direction::Forward)) = lane.table.find(hash, &retry.key) else { return };
    let entry = *lane.table.get(id);
    if entry.state != TcpState::SynProxied || entry.forward_end != retry.forward_end {
        return;
    }
    let aside = lane.table.aside_mut(id);
    aside.shift_at = now;
    let syn = syn(&entry, aside, retry.timestamp);
    originate(shared, &entry, entry.forward_hop, &syn, Direction::Forward);
    if let Some(wait) = RETRY_MS.get(stage + 1) {
        lane.syn_retries.push(stage + 1, Retry { due: now.wrapping_add(*wait), ..retry });
    }
}

/// A session has ended by timeout: a client whose server never answered is reset.
#[cold]
#[inline(never)]
pub(super) fn expired<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    entry: &Entry<A>,
    aside: &Aside,
) {
    let cookie = aside.reply_shift;
    let flags = tcp_flags::RST | tcp_flags::ACK;
    let reset = Made::plain(cookie.wrapping_add(1), entry.forward_end, flags);
    originate(shared, entry, entry.reply_hop, &reset, Direction::Reply);
}

/// Makes good in a packet of an established session what the client was promised and the server
/// does not keep. Before addresses are rewritten.
pub(super) fn adapt<A: Family>(frame: &mut [u8], note: u32, direction: Direction) {
    let adaptation = Adaptation::unpack(note);
    let Some(header) = frame.get_mut(A::TRANSPORT..).and_then(|t| t.first_chunk_mut::<20>()) else {
        return;
    };
    if header[tcp::field::FLAGS] & tcp_flags::SYN != 0 {
        return;
    }
    let bits = match direction {
        Direction::Forward => adaptation.forward as i8,
        Direction::Reply => adaptation.reply,
    };
    if bits != 0 {
        let old = u16::from_be_bytes([header[14], header[15]]);
        let new = match bits {
            0.. => (u32::from(old) << bits).min(0xffff) as u16,
            _ => old >> bits.unsigned_abs(),
        };
        header[14..16].copy_from_slice(&new.to_be_bytes());
        let sum = u16::from_be_bytes([header[16], header[17]]);
        let sum = checksum::apply(sum, checksum::delta16(old, new));
        header[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    if adaptation.no_ecn && direction == Direction::Forward {
        take_ecn_off::<A>(frame);
    }
}

/// Not-ECT (RFC 3168 5) in the lowest bits of the IPv4 DSCP byte or the IPv6 traffic class.
fn take_ecn_off<A: Family>(frame: &mut [u8]) {
    let header = &mut frame[ETHERNET..A::TRANSPORT];
    let word = |header: &[u8]| u16::from_be_bytes([header[0], header[1]]);
    let old = word(header);
    if A::V6 {
        header[1] &= !0x30;
    } else {
        header[1] &= !0x03;
        let sum = u16::from_be_bytes([header[10], header[11]]);
        let sum = checksum::apply(sum, checksum::delta16(old, word(header)));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::flow::Protocol;

    proptest! {
        #[test]
        fn notes_are_read_back(
            window: u16, mss in 0..0x8000u16, flag: bool, reply in -7..=7i8, forward in 0..=14u8,
        ) {
            let handshake = Handshake { window, mss, timestamps: flag };
            prop_assert_eq!(Handshake::unpack(handshake.pack()), handshake);
            let adaptation = Adaptation { window, reply, forward, no_ecn: flag };
            prop_assert_eq!(Adaptation::unpack(adaptation.pack()), adaptation);
        }
    }

    #[test]
    fn timers_are_bounded_and_in_order() {
        let retry = |n: usize| Retry {
            due: 1000u32.wrapping_neg().wrapping_add(n as u32),
            key: FlowKey {
                src: Ipv4Addr::from_bits(n as u32),
                dst: Ipv4Addr::LOCALHOST,
                sport: 1,
                dport: 2,
                protocol: Protocol::Tcp,
            },
            forward_end: 0,
            timestamp: 0,
        };
        let mut retries = Retries::<Ipv4Addr>::new();
        retries.push(0, retry(0));
        assert!(retries.pop_due(0).is_none(), "no room was made");
        retries.reserve();
        let room = retries.queues[0].capacity();
        for n in 0..RETRIES + 10 {
            retries.push(0, retry(n));
        }
        retries.push(1, retry(5));
        retries.push(2, retry(5));
        assert_eq!(retries.queues[0].len(), RETRIES);
        assert_eq!(retries.queues[0].capacity(), room, "it has not grown");
        assert!(retries.pop_due(1001u32.wrapping_neg()).is_none());
        let first = retries.pop_due(1000u32.wrapping_neg()).unwrap();
        assert_eq!((first.0, first.1.key.src), (0, Ipv4Addr::from_bits(0)));
        let rest: Vec<_> = std::iter::from_fn(|| retries.pop_due(5000)).collect();
        assert_eq!(rest.len(), RETRIES);
        assert_eq!((rest[RETRIES - 1].0, rest[RETRIES - 1].1.due), (1, retry(5).due));
        assert!(rest[..RETRIES - 1].is_sorted_by_key(|(_, r)| r.key.src));
    }
}
