//! How far the two nodes are, in the gauges of a worker. They are set once in a millisecond, not by packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::walk;
use crate::datapath::lane::Lane;
use crate::datapath::shared::Shared;
use crate::datapath::sync_counters::SyncCounters;
use crate::session::marks::Marks;
use crate::sync::receiver::Receiver;

/// Sets the gauges of this worker.
pub(super) fn set<F>(shared: &mut Shared<F>, v4: &Lane<Ipv4Addr>, v6: &Lane<Ipv6Addr>, now: u32) {
    let untold = walk::untold(shared, v4, v6, now);
    let Some(replica) = &shared.replica else { return };
    let sync = &shared.counters.sync;
    sync.lag.set(replica.sender.lag());
    let missed = replica.receivers.iter().flatten().map(Receiver::missed).sum::<u64>();
    sync.missed.set(replica.missed_before + missed);
    sync.buckets_synced.set(u64::from((replica.synced & replica.owned).count_ones()));
    sync.buckets_lacking.set(u64::from((replica.lacking & replica.owned).count_ones()));
    sync.sessions_lacking.set(u64::from(replica.sessions_lacking()));
    sync.buckets_owned.set(u64::from(replica.owned.count_ones()));
    let count = |marks: &Option<Marks>| marks.as_ref().map_or((0, 0), |marks| marks.count());
    let (a, b) = (count(&v4.marks), count(&v6.marks));
    let own = (a.0 + b.0) as u64;
    sync.own_sessions.set(own);
    sync.unprotected.set(match replica.has_peer() {
        false => own,
        true => {
            let refused = if replica.worker == 0 { sync.peer_lacking.get() } else { 0 };
            (untold + u64::from(replica.sender.unacknowledged())).min(own) + refused
        }
    });
    sync.foreign_sessions.set((a.1 + b.1) as u64);
    if sync.joining_imported.get() + sync.joining_total.get() != 0 && is_settled(shared) {
        sync.joining_imported.set(0);
        sync.joining_total.set(0);
    }
}

/// A session of the peer's present walk is here.
pub(super) fn has_come<F>(shared: &Shared<F>, bucket: usize) {
    if shared.replica.as_ref().is_some_and(|replica| replica.counted >> bucket & 1 != 0) {
        shared.counters.sync.joining_imported.add(1);
    }
}

/// Whether all workers have all sessions of the peer that they can take in.
pub(super) fn is_settled<F>(shared: &Shared<F>) -> bool {
    let has = |c: &SyncCounters| c.buckets_synced.get() + c.buckets_lacking.get();
    let all = |c: &SyncCounters| has(c) == c.buckets_owned.get();
    shared.replica.as_ref().is_some_and(|replica| replica.is_settled())
        && shared.all_counters.iter().all(|counters| all(&counters.sync))
}
