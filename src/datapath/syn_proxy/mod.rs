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
//! are rescaled and ECN marks taken off in each packet ([`adapt()`]).
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

mod adapt;
mod client;
mod notes;
mod retries;
mod segments;
mod server;

pub(super) use self::adapt::adapt;
use self::client::{challenge, from_client, open, redeem, verify};
pub(super) use self::retries::{Retries, retry};
use self::segments::{Made, read};
use self::server::{acknowledge_again, from_server, originate};
#[cfg(doc)]
use self::{
    notes::{Adaptation, Handshake},
    retries::RETRY_MS,
    server::WINDOW_SCALE,
};
use super::connection;
use super::family::Family;
use super::frame::Frame;
use super::lane::{Item, Lane};
use super::mirror;
use super::persist;
use super::setup::Setup;
use super::shared::Shared;
use super::snapshot::{Service, SynProxy};
use super::syn_gate::SynGates;
use super::verdict::Verdict;
use crate::session::sequence::near;
use crate::session::syn_cookie::SynCookies;
use crate::session::{Aside, Direction, Entry, Extras, ServiceId, SessionId, TcpState, tcp_state};
use crate::sync::keys::{KEY_LEN, Keys};
use crate::sync::session::Reason;
use crate::wire::flow::tcp_flags;

/// What a worker needs of the SYN proxy, for both families.
pub(super) struct SynState {
    pub(super) cookies: SynCookies,
    pub(super) gates: SynGates,
    /// Added to `now`, it is the clock of the cookies.
    pub(super) clock: u32,
}

impl SynState {
    /// The nodes of a pair accept each other's cookies; a node without a peer has a secret of its own.
    pub(super) fn new(setup: &Setup) -> Self {
        let mut state = SynState {
            cookies: SynCookies::new(setup.cookie_secret),
            gates: SynGates::default(),
            clock: setup.pair.as_ref().map_or(0, |pair| pair.clock_ms),
        };
        if let Some(pair) = &setup.pair {
            state.set_keys(&pair.keys);
        }
        state
    }

    /// Uses the cookies of the pair's keys from now on.
    pub(super) fn set_keys(&mut self, keys: &Keys) {
        let (secret, other) = keys.derive("shunt SYN cookies");
        let number =
            |key: [u8; KEY_LEN]| key.iter().fold(0, |n: u128, byte| n << 8 | u128::from(*byte));
        self.cookies.change(number(secret), other.map(number));
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
        // One that comes back from another worker was counted when it went there.
        let answers = !persist::is_answered(shared, frame)
            && shared.syn.gates.answers::<A>(service, now)
            && lane.table.len() < lane.table.capacity();
        return answers.then(|| {
            show(shared, service, frame);
            challenge(shared, frame, item, service, now)
        });
    }
    let may_carry = flags & (SYN | ACK | RST) == ACK;
    if may_carry && shared.syn.gates.expects_cookies(service, now) {
        show(shared, service, frame);
        return Some(redeem(shared, lane, frame, item, service, now));
    }
    // Of the peer's; what is none goes the way of any segment without a session.
    if may_carry && expects_cookies(shared, service, now) {
        let segment = read(frame, item).ok()?;
        let redeemed = verify(shared, item, &segment, now)?;
        show(shared, service, frame);
        return Some(open(shared, lane, frame, item, service, &segment, redeemed, now));
    }
    None
}

/// Whether an ACK without a session may carry a cookie, of this node or its peer.
fn expects_cookies<F>(shared: &Shared<F>, service: ServiceId, now: u32) -> bool {
    let proxies = |service: &Service| service.syn_proxy != SynProxy::Off;
    let of_peer = || shared.snapshot.services.get(usize::from(service.0)).is_some_and(proxies);
    shared.syn.gates.expects_cookies(service, now) || shared.replica.is_some() && of_peer()
}

/// Shows the service's sensor a segment as it was received, before it becomes something else.
fn show<F: Frame>(shared: &mut Shared<F>, service: ServiceId, frame: &F) {
    if !persist::is_answered(shared, frame) {
        mirror::of_service(shared, service, frame);
    }
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
            show(shared, entry.service, frame);
            Some(from_client(shared, lane, frame, item, id, now))
        }
        (TcpState::SynProxied, Direction::Reply) => {
            show(shared, entry.service, frame);
            Some(from_server(shared, lane, frame, item, id, now))
        }
        // Our ACK was lost.
        (TcpState::Established | TcpState::FinClient | TcpState::FinServer, Direction::Reply)
            if entry.extras.has(Extras::PROXIED)
                && flags & (SYN | ACK) == SYN | ACK
                && is_of_this_connection(entry, frame, item) =>
        {
            show(shared, entry.service, frame);
            Some(acknowledge_again(shared, lane, frame, item, id))
        }
        // The client begins anew: the old session gives way to who returns a cookie, not to a SYN.
        (TcpState::FinBoth | TcpState::TimeWait | TcpState::Closed, Direction::Forward) => {
            let service = entry.service;
            if flags & (SYN | ACK | RST | FIN) == SYN {
                let answers = shared.syn.gates.answers::<A>(service, now);
                return answers.then(|| {
                    show(shared, service, frame);
                    challenge(shared, frame, item, service, now)
                });
            }
            if flags & (SYN | ACK | RST | FIN) != ACK || !expects_cookies(shared, service, now) {
                return None;
            }
            let segment = read(frame, item).ok()?;
            let redeemed = verify(shared, item, &segment, now)?;
            show(shared, service, frame);
            end(shared, lane, id, now);
            Some(open(shared, lane, frame, item, service, &segment, redeemed, now))
        }
        _ => None,
    }
}

/// Whether a server's SYN-ACK is one of the connection that the session knows, sent again. Far from its
/// stream it answers a SYN of the client's to a server that has forgotten the connection.
fn is_of_this_connection<A: Family, F: Frame>(entry: &Entry<A>, frame: &F, item: &Item<A>) -> bool {
    let seq = connection::first(frame.bytes(), &item.flow).seq;
    let window = entry.scales.window(Direction::Forward);
    entry.scales.known(Direction::Reply) && near(seq, entry.reply_end, window)
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
    let reset = reset.of(shared, entry.service);
    originate(shared, entry, entry.reply_hop, &reset, Direction::Reply);
}

/// Lets time pass for the gates: a bounded amount of work.
pub(super) fn pass_gates<F>(shared: &mut Shared<F>, now: u32) {
    if let Some((service, on)) = shared.syn.gates.pass(now) {
        shared.counters.service(service).syn_proxy_on.set(u64::from(on));
    }
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
fn end<A: Family, F: Frame>(shared: &mut Shared<F>, lane: &mut Lane<A>, id: SessionId, now: u32) {
    lane.end(shared, id, Reason::REPLACED, now);
}
