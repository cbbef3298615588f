//! The whole table for a peer that lacks it, a bounded stretch each millisecond; and the removal of
//! copies that the peer's own walk has not confirmed.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::channel;
use super::settle;
use super::state::{self, Purge, Replica, first};
use super::tell::{session, told_of};
use super::upkeep;
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Lane;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::BUCKETS;
use crate::session::SessionId;
use crate::session::marks::Marks;
use crate::sync::control::{Begin, End, Flags};
use crate::sync::session::Persist;

/// Entries looked at before those found are sent or removed.
const STRETCH: usize = 32;
/// Stretches in a millisecond.
const STRETCHES: usize = 64;
/// For how long a peer that has come may still say that it has all sessions though it has not compared
/// them, in milliseconds.
const KNOWS_MS: u32 = 2_000;
/// Frames left to others.
const SPARE: usize = 8;

/// What the peer has asked for, and how far that has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    /// Buckets to walk when the present walk is over.
    asked: u128,
    /// Those of the present walk.
    buckets: u128,
    at: At,
    /// When it began, in milliseconds (wrapping).
    since: u32,
    /// How many of the sessions that there were then have not been sent, as far as they live.
    left: u32,
    /// Sessions that may be sent now, in thousandths.
    credit: u64,
    last: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Nothing,
    V4(usize),
    V6(usize),
    ClientsV4(usize),
    ClientsV6(usize),
}

/// The peer wants these buckets.
pub(super) fn want<F>(shared: &mut Shared<F>, buckets: u128) {
    // A peer that has all others wants what it could not take in, and says how many those are.
    let retries = Flags(first(shared).sync.peer_flags.get() as u8).has(Flags::LACKING);
    if let Some(replica) = &mut shared.replica {
        replica.own_walk.asked |= buckets & replica.owned;
        if !retries {
            replica.untold |= buckets & replica.owned;
        }
    }
}

/// The sessions of this node in these buckets that the peer is, or was, told of.
fn own(v4: &Lane<Ipv4Addr>, v6: &Lane<Ipv6Addr>, buckets: u128) -> u32 {
    let count = |bucket: usize| {
        let of = |marks: &Option<Marks>| marks.as_ref().map_or(0, |marks| marks.own(bucket).count);
        of(&v4.marks) + of(&v6.marks)
    };
    (0..BUCKETS).filter(|bucket| buckets >> bucket & 1 != 0).map(count).sum()
}

/// How many sessions of this node the peer was not told of yet, in a walk. Of those that have changed since,
/// it perhaps knows.
pub(super) fn untold<F>(
    shared: &mut Shared<F>,
    v4: &Lane<Ipv4Addr>,
    v6: &Lane<Ipv6Addr>,
    now: u32,
) -> u64 {
    let flags = Flags(first(shared).sync.peer_flags.get() as u8);
    let Some(replica) = &mut shared.replica else { return 0 };
    if replica.untold == 0 {
        return 0;
    }
    let walk = replica.own_walk;
    if walk.at == At::Nothing {
        // It has found its copies equal and did not need a walk; but perhaps it said so before it looked.
        let knows = flags.has(Flags::SYNCED.with(Flags::LACKING));
        if knows && walk.asked == 0 && now.wrapping_sub(replica.came_at) > KNOWS_MS {
            replica.untold = 0;
        }
        return u64::from(own(v4, v6, replica.untold & replica.owned));
    }
    let left = if walk.buckets & replica.untold == 0 { 0 } else { walk.left };
    u64::from(left) + u64::from(own(v4, v6, replica.untold & replica.owned & !walk.buckets))
}

/// The buckets that are being walked.
pub(super) fn present<F>(shared: &Shared<F>) -> u128 {
    let walk = shared.replica.as_ref().map(|replica| replica.own_walk);
    walk.filter(|walk| walk.at != At::Nothing).map_or(0, |walk| walk.buckets)
}

/// Walks on.
pub(super) fn step<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    now: u32,
) {
    let Some(channel) = state::channel(shared) else { return };
    let workers = u64::from(shared.snapshot.workers()).max(1);
    let Some(replica) = &mut shared.replica else { return };
    let walk = &mut replica.own_walk;
    if walk.at == At::Nothing {
        if walk.asked == 0 {
            return;
        }
        walk.buckets = std::mem::take(&mut walk.asked);
        walk.at = At::V4(0);
        walk.credit = 0;
        (walk.since, walk.last) = (now, Some(now));
        let total = own(v4, v6, walk.buckets);
        walk.left = total;
        let begin = Begin { buckets: walk.buckets, total };
        channel::push(shared, &begin, now);
        shared.counters.sync.walks.add(1);
        shared.counters.sync.walk_sent.set(0);
        shared.counters.sync.walk_total.set(u64::from(total));
    }
    let Some(replica) = &mut shared.replica else { return };
    let walk = &mut replica.own_walk;
    let passed = walk.last.map_or(0, |last| now.wrapping_sub(last)).min(100);
    walk.last = Some(now);
    let each = u64::from(channel.rate).max(1).div_ceil(workers);
    walk.credit = (walk.credit + each * u64::from(passed)).min(each * 100);
    for _ in 0..STRETCHES {
        let Some(replica) = &shared.replica else { return };
        let walk = replica.own_walk;
        if walk.credit < 1000 * STRETCH as u64 && walk.credit < each * 50 {
            break;
        }
        if shared.room_to_originate() < SPARE {
            break;
        }
        let next = match walk.at {
            At::Nothing => break,
            At::V4(cursor) => match stretch(shared, v4, cursor, now) {
                Some(cursor) => At::V4(cursor),
                None => At::V6(0),
            },
            At::V6(cursor) => match stretch(shared, v6, cursor, now) {
                Some(cursor) => At::V6(cursor),
                None => At::ClientsV4(0),
            },
            At::ClientsV4(cursor) => match clients(shared, v4, cursor, now) {
                Some(cursor) => At::ClientsV4(cursor),
                None => At::ClientsV6(0),
            },
            At::ClientsV6(cursor) => match clients(shared, v6, cursor, now) {
                Some(cursor) => At::ClientsV6(cursor),
                None => At::Nothing,
            },
        };
        let Some(replica) = &mut shared.replica else { return };
        replica.own_walk.at = next;
        if next == At::Nothing {
            let Walk { buckets, asked, .. } = replica.own_walk;
            replica.untold &= !buckets | asked;
            channel::push(shared, &End(buckets), now);
            upkeep::digests(shared, v4, v6, buckets, now);
            shared.counters.sync.walk_total.set(0);
            channel::send_open(shared, now);
            break;
        }
    }
}

/// Sends the sessions of a stretch of the table. `None` when it was the last.
fn stretch<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    mut cursor: usize,
    now: u32,
) -> Option<usize> {
    let replica = shared.replica.as_ref()?;
    let Walk { buckets, since, .. } = replica.own_walk;
    let untold = replica.untold;
    let marks = lane.marks.as_ref()?;
    let mut found = ArrayVec::<SessionId, STRETCH>::new();
    let at_end = lane.table.walk(&mut cursor, STRETCH, |id, entry| {
        if buckets >> marks.bucket(id) & 1 != 0 && !marks.is_foreign(id) && told_of(entry) {
            found.push(id);
        }
    });
    let (count, mut old) = (found.len() as u64, 0);
    for id in found {
        let record = session(&shared.snapshot, lane, id, now);
        // A newer one was told when it began.
        let is_old = record.age > now.wrapping_sub(since);
        old += u32::from(is_old);
        let Some(marks) = &mut lane.marks else { return None };
        marks.tell(id, record.identity(), now);
        match is_old && untold >> marks.bucket(id) & 1 != 0 {
            true => channel::push_new(shared, &record, now),
            false => channel::push(shared, &record, now),
        }
    }
    if let Some(replica) = &mut shared.replica {
        // Entries without a session cost a little as well.
        let cost = count * 1000 + (STRETCH as u64 - count) * 20;
        replica.own_walk.credit = replica.own_walk.credit.saturating_sub(cost);
        replica.own_walk.left = replica.own_walk.left.saturating_sub(old);
    }
    let sent = &shared.counters.sync.walk_sent;
    sent.add(count);
    (!at_end).then_some(cursor)
}

/// The same with the clients of persistent services.
fn clients<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    mut cursor: usize,
    now: u32,
) -> Option<usize> {
    let buckets = shared.replica.as_ref()?.own_walk.buckets;
    let toeplitz = shared.toeplitz;
    let mut found = ArrayVec::<Persist<A>, STRETCH>::new();
    let at_end = lane.persistence.walk(&mut cursor, STRETCH, now, |client, placed, life| {
        if buckets >> A::bucket(toeplitz, client.address, 0) & 1 != 0 {
            found.push(Persist {
                scope: u64::from(client.scope),
                life,
                client: client.address,
                server_ip: placed.server,
            });
        }
    });
    for record in &found {
        channel::push(shared, record, now);
    }
    if let Some(replica) = &mut shared.replica {
        let cost = found.len() as u64 * 1000 + (STRETCH - found.len()) as u64 * 20;
        replica.own_walk.credit = replica.own_walk.credit.saturating_sub(cost);
    }
    (!at_end).then_some(cursor)
}

/// Begins to remove the copies of a bucket that the peer's last walk has not confirmed.
pub(super) fn begin_purge(replica: &mut Replica, bucket: u128) {
    let Purge { buckets, .. } = replica.purge;
    replica.purge = Purge { buckets: buckets | bucket, cursor_v4: 0, cursor_v6: 0 };
}

/// Goes on with it.
pub(super) fn purge<F: Frame>(
    shared: &mut Shared<F>,
    v4: &mut Lane<Ipv4Addr>,
    v6: &mut Lane<Ipv6Addr>,
    now: u32,
) {
    for _ in 0..STRETCHES {
        let Some(replica) = &shared.replica else { return };
        let mut purge = replica.purge;
        if purge.buckets == 0 {
            return;
        }
        let v4_done = purge_stretch(shared, v4, &mut purge.cursor_v4, now);
        let v6_done = purge_stretch(shared, v6, &mut purge.cursor_v6, now);
        if v4_done && v6_done {
            purge = Purge::default();
        }
        if let Some(replica) = &mut shared.replica {
            replica.purge = purge;
        }
    }
}

fn purge_stretch<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    cursor: &mut usize,
    now: u32,
) -> bool {
    let (Some(replica), Some(marks)) = (&shared.replica, &lane.marks) else { return true };
    let mut found = ArrayVec::<SessionId, STRETCH>::new();
    let at_end = lane.table.walk(cursor, STRETCH, |id, _| {
        let bucket = marks.bucket(id);
        if replica.purge.buckets >> bucket & 1 != 0
            && marks.is_foreign(id)
            && marks.walk(id) != replica.walk_of[bucket % BUCKETS]
        {
            found.push(id);
        }
    });
    for id in found {
        settle::remove(shared, lane, id, now);
    }
    at_end
}
