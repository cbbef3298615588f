//! What is due without a packet: acknowledgements, requests for what is missing, digests, and whether the
//! peer is there.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::channel;
use super::gauges;
use super::greet;
use super::state::{self, Joining, Records, Replica, first};
use super::tell;
use super::walk;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Lane;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::BUCKETS;
use crate::session::marks::Tally;
use crate::sync::control::{Begin, Digest, Gone, Want};
use crate::sync::keys::Keys;
use crate::sync::record::Emit;

/// From one list of our ports to the next.
const PORTS_MS: u32 = 1_000;
/// From one acknowledgement to the next.
const ACK_MS: u32 = 20;
/// From one digest of all buckets to the next.
const DIGEST_MS: u32 = 500;
/// A turn that comes so much after the one before: the node stood still.
const LEAP_MS: u32 = 1_000;
/// How long a node that begins, or stood still, waits for a word of the peer before it takes itself for
/// the only one, in milliseconds.
const LISTENING_MS: u32 = 5_000;
/// A peer that acknowledges nothing for so long, in milliseconds, does not hear this node, or is not heard:
/// it acknowledges every [`ACK_MS`].
const SILENCE_MS: u32 = 200;
/// When it no longer matters that a peer was lost: no timeout is longer, in milliseconds.
const FORGOTTEN_MS: u32 = 1 << 30;
/// How long it waits for all sessions of a peer that is there.
const JOINING_MS: u32 = 60_000;
/// Datagrams repeated for one request.
const REPEATS: u16 = 16;

/// Does what is due. To be called often; it does nothing twice in a millisecond.
#[inline]
pub(in crate::datapath) fn tick<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    now: u32,
) {
    if let Some(replica) = &mut shared.replica
        && replica.due.tick != Some(now)
    {
        every_millisecond(shared, v4, v6, now);
    }
}

#[cold]
#[inline(never)]
fn every_millisecond<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    now: u32,
) {
    if let Some(replica) = &mut shared.replica {
        replica.due.tick = Some(now);
    }
    tell::tell_changes(shared, v4, v6, now);
    watch(shared, v4, v6, now);
    if shared.replica.as_ref().is_some_and(|replica| replica.association.is_due(now)) {
        greet::hello(shared, now);
    }
    let Some(replica) = &mut shared.replica else { return };
    join(replica, now);
    replica.lost_at.take_if(|lost_at| now.wrapping_sub(*lost_at) > FORGOTTEN_MS);
    if replica.has_peer() {
        let acknowledge = is_due(shared, now, ACK_MS, |dues| &mut dues.ack);
        mind_losses(shared);
        follow_streams(shared, acknowledge, now);
        if is_due(shared, now, DIGEST_MS, |dues| &mut dues.digest) {
            // Of those that are being walked when that is over.
            let buckets = !walk::present(shared);
            digests(shared, v4, v6, buckets, now);
        }
        if shared.worker == 0 && is_due(shared, now, PORTS_MS, |dues| &mut dues.ports) {
            greet::tell_ports(shared);
        }
        ask(shared, now);
        walk::step(shared, v4, v6, now);
        walk::purge(shared, v4, v6, now);
    }
    let Some(replica) = &mut shared.replica else { return };
    if replica.sender.is_due(now) {
        channel::send_open(shared, now);
    }
    gauges::set(shared, v4, v6, now);
}

/// Whether this node is about to learn sessions of a peer that is there: a port it gives out now may be in
/// use by one of them.
pub(in crate::datapath) fn is_learning<F>(shared: &Shared<F>) -> bool {
    is_joining(shared) && shared.replica.as_ref().is_some_and(|replica| replica.has_peer())
}

/// Finds out whether this node still waits for sessions. It does until it has found its copies equal, or
/// as equal as they can be here, unless there is no peer, or the two do not come to terms.
fn join(replica: &mut Replica, now: u32) {
    let since = match replica.joining {
        Joining::Over => return,
        Joining::Begins => now,
        Joining::Since(since) => since,
    };
    let longest = if replica.has_peer() { JOINING_MS } else { LISTENING_MS };
    let settled = replica.has_peer() && replica.is_settled();
    replica.joining = match settled || now.wrapping_sub(since) >= longest {
        true => Joining::Over,
        false => Joining::Since(since),
    };
}

/// Whether this node perhaps lacks sessions that the peer has: it then says of no connection that it does
/// not exist.
pub(in crate::datapath) fn is_joining<F>(shared: &Shared<F>) -> bool {
    shared.replica.as_ref().is_some_and(|replica| replica.joining != Joining::Over)
}

/// Whether something is due again, which counts from now on.
fn is_due<F>(
    shared: &mut Shared<F>,
    now: u32,
    interval: u32,
    which: impl Fn(&mut state::Dues) -> &mut Option<u32>,
) -> bool {
    let Some(replica) = &mut shared.replica else { return false };
    let last = which(&mut replica.due);
    let due = last.is_none_or(|last| now.wrapping_sub(last) >= interval);
    if due {
        *last = Some(now);
    }
    due
}

/// Whether the peer is there, and whether it is the one it was.
pub(super) fn watch<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    now: u32,
) {
    let Some(replica) = &mut shared.replica else { return };
    let leapt = replica.due.watch.is_some_and(|last| now.wrapping_sub(last) > LEAP_MS);
    replica.due.watch = Some(now);
    if leapt {
        replica.joining = Joining::Begins;
    }
    let keeps = replica.worker == 0;
    if keeps {
        if leapt {
            shared.counters.sync.clock_jumps.add(1);
        }
        let alive = replica.association.alive(now)
            // What went past meanwhile is found out from the beginning.
            && !(leapt && replica.has_peer());
        let boot = replica.association.peer_boot().unwrap_or(0);
        let sync = &shared.counters.sync;
        sync.peer_boot.set(boot);
        sync.peer_alive.set(u64::from(alive));
    }
    let sync = &first(shared).sync;
    let peer = (sync.peer_alive.get() != 0).then(|| sync.peer_boot.get());
    let Some(replica) = &mut shared.replica else { return };
    if replica.peer != peer {
        if replica.has_peer() {
            replica.lost_at = Some(now);
        }
        replica.begin_with(peer);
        (replica.came_at, replica.acked_at, replica.silent_at) = (now, now, None);
        shared.counters.sync.joining_imported.set(0);
        shared.counters.sync.joining_total.set(0);
        for marks in [&mut v4.marks, &mut v6.marks].into_iter().flatten() {
            marks.begin_term();
        }
        // What was the peer's to end is now this node's.
        v4.sweep.start();
        v6.sweep.start();
        return;
    }
    if replica.has_peer() && now.wrapping_sub(replica.acked_at) > SILENCE_MS {
        replica.silent_at = Some(now);
    }
    replica.silent_at.take_if(|at| now.wrapping_sub(*at) > tell::ANSWER_MS);
}

/// The peer was heard.
pub(super) fn heard<F>(shared: &mut Shared<F>, now: u32) {
    if let Some(replica) = &mut shared.replica {
        replica.association.refresh(now);
    }
}

/// Takes notice of what is lost for good of the peer's streams, whichever worker has missed it: on the
/// way here, or on the way from one worker to the next.
fn mind_losses<F>(shared: &mut Shared<F>) {
    let losses = [
        state::sum(shared, |sync| &sync.streams_lost),
        state::sum(shared, |sync| &sync.records_lost),
    ];
    let Some(replica) = &mut shared.replica else { return };
    let before = std::mem::replace(&mut replica.losses, losses);
    if losses == before {
        return;
    }
    // It was perhaps part of a walk, which then has not confirmed all that there is.
    (replica.walking, replica.walked, replica.purge.buckets) = (0, 0, 0);
    if losses[0] != before[0] {
        // Whatever was in it: everything is looked at anew.
        replica.wanted |= replica.owned;
        (replica.synced, replica.lacking) = (0, 0);
    }
}

/// Acknowledges the peer's streams, and asks for what is missing of them.
fn follow_streams<F: Frame>(shared: &mut Shared<F>, acknowledge: bool, now: u32) {
    let workers = usize::from(shared.snapshot.workers() as u8).max(1);
    let peers = first(shared).sync.peer_workers.get() as usize;
    for worker in (usize::from(shared.worker)..peers.min(state::MAX_WORKERS)).step_by(workers) {
        let Some(replica) = &mut shared.replica else { return };
        let Some(receiver) = &mut replica.receivers[worker] else { continue };
        let mut records: Records = [0; 1280];
        let mut length = 0;
        if acknowledge {
            length += receiver.ack().emit(&mut records);
        }
        while let Some(nak) = receiver.missing(now) {
            length += nak.emit(&mut records[length..]);
            shared.counters.sync.naks_sent.add(1);
        }
        if length != 0 {
            channel::control(shared, worker as u8, &records[..length]);
        }
    }
}

/// Puts the digests of our sessions into the stream, of those of our buckets that are in `buckets`.
pub(super) fn digests<F: Frame>(
    shared: &mut Shared<F>,
    v4: &Lane<Ipv4Addr>,
    v6: &Lane<Ipv6Addr>,
    buckets: u128,
    now: u32,
) {
    let Some(replica) = &shared.replica else { return };
    let owned = replica.owned & buckets;
    for bucket in (0..BUCKETS).filter(|bucket| owned >> bucket & 1 != 0) {
        let tally = |marks: &Option<crate::session::marks::Marks>| {
            marks.as_ref().map_or(Tally::default(), |marks| marks.own(bucket))
        };
        let Tally { count, xor } = tally(&v4.marks).with(tally(&v6.marks));
        let record = Digest { bucket: bucket as u8, count, xor };
        channel::push(shared, &record, now);
    }
}

/// The peer's digest of a bucket: are our copies the same?
pub(super) fn compare<F>(
    shared: &mut Shared<F>,
    v4: &Lane<Ipv4Addr>,
    v6: &Lane<Ipv6Addr>,
    digest: &Digest,
) {
    mind_losses(shared);
    let Some(replica) = &mut shared.replica else { return };
    let bit = 1u128 << digest.bucket;
    if replica.owned & bit == 0 {
        return;
    }
    let tally = |marks: &Option<crate::session::marks::Marks>| {
        let bucket = usize::from(digest.bucket);
        marks.as_ref().map_or(Tally::default(), |marks| marks.foreign(bucket))
    };
    let copies = tally(&v4.marks).with(tally(&v6.marks));
    if (copies.count, copies.xor) == (digest.count, digest.xor) {
        // Before the peer has begun to send it, it perhaps does not know this start of the node yet, and
        // takes the sessions of an earlier one for copies.
        if replica.answered & bit == 0 {
            return;
        }
        replica.synced |= bit;
        replica.differing &= !bit;
        replica.wanted &= !bit;
        replica.refused &= !bit;
        replica.lacking &= !bit;
        replica.purge.buckets &= !bit;
        return;
    }
    if replica.purge.buckets & bit != 0 {
        return;
    }
    shared.counters.sync.digest_mismatches.add(1);
    if replica.refused & replica.walked & bit != 0 {
        // All that this node can take it has; it asks again now and then. Whether it has more than that
        // nobody can tell by the digest: after each walk goes what that has not confirmed.
        if replica.wanted & bit == 0 {
            walk::begin_purge(replica, bit);
        }
        replica.synced &= !bit;
        replica.wanted |= bit;
        replica.lacking |= bit;
        let lacks = digest.count.saturating_sub(copies.count).max(1);
        replica.lacks[usize::from(digest.bucket)] = lacks;
        return;
    }
    replica.lacking &= !bit;
    if replica.differing & bit != 0 {
        replica.wanted |= bit;
        replica.synced &= !bit;
        return;
    }
    // Once may be a session that both have just begun to make room for, or one too many: of those that
    // the last walk has not confirmed.
    replica.differing |= bit;
    if copies.count > digest.count && replica.walked & bit != 0 {
        walk::begin_purge(replica, bit);
    }
}

/// Asks the peer for the buckets that are wanted; ever more seldom for those that lack what this node
/// could not take in: each time the peer sends all that is in them.
fn ask<F: Frame>(shared: &mut Shared<F>, now: u32) {
    let Some(replica) = &mut shared.replica else { return };
    let (all, wait) = (replica.wanted, replica.want_wait);
    let soon = all & !replica.lacking;
    if replica.is_settled() {
        replica.want_wait = state::WANT_MS;
    }
    if replica.lacking == 0 {
        replica.retry_wait = state::RETRY_MS;
    }
    if all == 0 {
        return;
    }
    let retry_wait = replica.retry_wait;
    let (wanted, due) = match soon {
        0 => (all, is_due(shared, now, retry_wait, |dues| &mut dues.retry)),
        _ => (soon, is_due(shared, now, wait, |dues| &mut dues.want)),
    };
    if !due {
        return;
    }
    if let Some(replica) = &mut shared.replica {
        if soon != 0 {
            replica.want_wait = (2 * wait).min(state::WANT_MOST_MS);
        }
        // What is asked for now may turn out to be too much.
        if wanted == all {
            replica.due.retry = Some(now);
        }
        if soon == 0 {
            replica.retry_wait = (2 * retry_wait).min(state::WANT_MOST_MS);
        }
    }
    let mut records = [0; Want::LEN];
    Want(wanted).emit(&mut records);
    let peers = first(shared).sync.peer_workers.get() as u8;
    for worker in 0..peers {
        channel::control(shared, worker, &records);
    }
}

/// The peer begins to send all its sessions of these buckets.
pub(super) fn walk_begins<F>(shared: &mut Shared<F>, begin: Begin) {
    mind_losses(shared);
    let is_settled = gauges::is_settled(shared);
    let Some(replica) = &mut shared.replica else { return };
    // All workers see it: of the one that owns the first of them.
    let first = begin.buckets & begin.buckets.wrapping_neg();
    if !is_settled && first & replica.owned != 0 {
        shared.counters.sync.joining_total.add(u64::from(begin.total));
    }
    let buckets = begin.buckets & replica.owned;
    replica.counted = replica.counted & !buckets | if is_settled { 0 } else { buckets };
    replica.wanted &= !buckets;
    replica.refused &= !buckets;
    replica.walked &= !buckets;
    replica.walking |= buckets;
    replica.answered |= buckets;
    // It would take away what is about to be confirmed.
    replica.purge.buckets &= !buckets;
    for bucket in (0..BUCKETS).filter(|bucket| buckets >> bucket & 1 != 0) {
        replica.walk_of[bucket] = (replica.walk_of[bucket] + 1) & 0xf;
    }
}

/// It has sent all.
pub(super) fn walk_ends<F>(shared: &mut Shared<F>, buckets: u128) {
    mind_losses(shared);
    let Some(replica) = &mut shared.replica else { return };
    let buckets = buckets & replica.owned;
    replica.walked |= buckets & replica.walking;
    replica.walking &= !buckets;
    replica.counted &= !buckets;
    // The digest behind it finds what is too much.
    replica.differing &= !buckets;
}

/// Sends datagrams of our stream once more.
pub(super) fn repeat<F: Frame>(shared: &mut Shared<F>, to: u8, from: u64, count: u16) {
    let Some(channel) = state::channel(shared) else { return };
    let Some(mut replica) = shared.replica.take() else { return };
    let count = count.min(REPEATS);
    let repeated = replica.sender.repeat(from, count, &replica.setup.keys, |datagram| {
        if channel::transmit(shared, &channel, datagram) {
            shared.counters.sync.repeated.add(1);
        }
    });
    shared.replica = Some(replica);
    if let Some(gone) = repeated.gone {
        shared.counters.sync.gone.add(1);
        let mut records = [0; Gone::LEN];
        gone.emit(&mut records);
        channel::control(shared, to, &records);
    }
}

/// Uses these keys from now on. What was sent is signed anew when it is sent again.
pub(in crate::datapath) fn set_keys<F>(shared: &mut Shared<F>, keys: &Keys) {
    if let Some(replica) = &mut shared.replica {
        replica.setup.keys.clone_from(keys);
    }
}
