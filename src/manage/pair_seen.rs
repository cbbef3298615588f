//! What the workers have counted of the channel to the peer, over all of them, at one instant.

use crate::datapath::counters::{Cell, WorkerCounters};
use crate::datapath::snapshot::BUCKETS;
use crate::datapath::sync_counters::SyncCounters;

/// The peer's flag that it has all sessions.
const SYNCED: u64 = 1;
/// The peer's flag that it is about to stop.
const LEAVING: u64 = 2;
/// The peer's flag that it has all sessions but those it could not take in.
const LACKING: u64 = 4;

/// The channel to the peer at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether the peer is there.
    pub(super) alive: bool,
    /// Its start, 0 before any is known.
    pub(super) boot: u64,
    /// Its workers.
    pub(super) workers: u64,
    /// The digest of its configuration.
    pub(super) config: u64,
    /// Its version.
    pub(super) version: String,
    /// Whether it says that it has all sessions of this node.
    pub(super) peer_synced: bool,
    /// Sessions of this node that it could not take in, once it has all others; 0 before.
    pub(super) peer_lacking: u64,
    /// Whether it said that it would stop.
    pub(super) leaving: bool,
    /// The version of the protocol in the last datagram of another one.
    pub(super) other_version: u64,
    /// Buckets in which the copies of the peer's sessions were found equal.
    pub(super) buckets_synced: u64,
    /// Those in which they differ since sessions could not be taken in.
    pub(super) buckets_lacking: u64,
    /// These sessions.
    pub(super) lacking: u64,
    /// Sessions sent in the present bulk walk.
    pub(super) walk_sent: u64,
    /// Sessions it has to send; 0 when there is none.
    pub(super) walk_total: u64,
    /// Sessions of the peer's walks that have come while this node lacks some, and how many it has said
    /// it would send.
    pub(super) joining: (u64, u64),
    /// Datagrams of another process with this node's id.
    pub(super) duplicate_node: u64,
    /// Datagrams with a wrong MAC or of another key.
    pub(super) bad_mac: u64,
    /// Datagrams of another version of the protocol.
    pub(super) wrong_version: u64,
    /// Records lost on their way between two workers.
    pub(super) records_lost: u64,
    /// Datagrams that came before, or too late.
    pub(super) replayed: u64,
    /// Datagrams that cannot be read.
    pub(super) malformed: u64,
    /// Leaps of this node's clock.
    pub(super) clock_jumps: u64,
    /// Milliseconds from one advert to the next by those of the peer, when they are heard. Not of the
    /// workers: [`super::ha`] knows it.
    pub(super) advert_interval_ms: Option<u32>,
}

impl Seen {
    /// What these workers, the first of which is worker 0, have counted.
    pub(super) fn of<'a>(workers: impl Iterator<Item = &'a WorkerCounters> + Clone) -> Self {
        let sum = |cell: fn(&SyncCounters) -> &Cell| {
            workers.clone().map(|w| cell(&w.sync).get()).fold(0, u64::wrapping_add)
        };
        let Some(first) = workers.clone().next().map(|w| &w.sync) else { return Seen::default() };
        let flags = first.peer_flags.get();
        Seen {
            alive: first.peer_alive.get() != 0,
            boot: first.peer_boot.get(),
            workers: first.peer_workers.get(),
            config: first.peer_config.get(),
            version: version_text([&first.peer_version[0], &first.peer_version[1]].map(Cell::get)),
            peer_synced: flags & SYNCED != 0,
            peer_lacking: if flags & LACKING != 0 { first.peer_lacking.get() } else { 0 },
            leaving: flags & LEAVING != 0,
            // Only the worker that such a datagram came to knows.
            other_version: workers
                .clone()
                .find(|w| w.sync.wrong_version.get() != 0)
                .map_or(0, |w| w.sync.other_version.get()),
            buckets_synced: sum(|c| &c.buckets_synced),
            buckets_lacking: sum(|c| &c.buckets_lacking),
            lacking: sum(|c| &c.sessions_lacking),
            walk_sent: sum(|c| &c.walk_sent),
            walk_total: sum(|c| &c.walk_total),
            joining: (sum(|c| &c.joining_imported), sum(|c| &c.joining_total)),
            duplicate_node: sum(|c| &c.duplicate_node),
            bad_mac: sum(|c| &c.bad_mac),
            wrong_version: sum(|c| &c.wrong_version),
            records_lost: sum(|c| &c.records_lost),
            replayed: sum(|c| &c.replayed),
            malformed: sum(|c| &c.malformed),
            clock_jumps: sum(|c| &c.clock_jumps),
            advert_interval_ms: None,
        }
    }

    /// Whether this node has all sessions of the peer.
    pub(super) fn synced(&self) -> bool {
        self.buckets_synced >= BUCKETS as u64
    }

    /// Whether it has all but some that it could not take in.
    pub(super) fn lacks(&self) -> bool {
        self.alive && self.settled() && self.lacking > 0
    }

    /// Whether the peer has all sessions of this node but some that it could not take in.
    pub(super) fn peer_lacks(&self) -> bool {
        self.alive && self.peer_lacking > 0
    }

    /// Whether it has all that it can take in.
    pub(super) fn settled(&self) -> bool {
        self.buckets_synced + self.buckets_lacking >= BUCKETS as u64
    }
}

/// The text in two cells: 16 bytes, padded with zeros. What is not printable ASCII was not written by
/// a Shunt and is left out.
fn version_text(cells: [u64; 2]) -> String {
    let bytes = cells.into_iter().flat_map(u64::to_be_bytes).take_while(|byte| *byte != 0);
    bytes.filter(|byte| byte.is_ascii_graphic() || *byte == b' ').map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_what_only_the_first_worker_knows() {
        let workers = [WorkerCounters::new(), WorkerCounters::new()];
        for (worker, n) in workers.iter().zip(1..) {
            worker.sync.bad_mac.add(n);
            worker.sync.buckets_synced.set(64);
            worker.sync.peer_alive.set(n % 2);
            worker.sync.peer_flags.set(n);
            worker.sync.peer_boot.set(n);
            worker.sync.peer_version[0].set(u64::from_be_bytes(*b"0.1.0\x1b\0x"));
        }
        let seen = Seen::of(workers.iter());
        assert_eq!((seen.bad_mac, seen.buckets_synced, seen.synced()), (3, 128, true));
        assert_eq!((seen.alive, seen.boot, seen.peer_synced, seen.leaving), (true, 1, true, false));
        assert_eq!(seen.version, "0.1.0");
        // How many the peer lacks is told when it has all others.
        assert_eq!((seen.settled(), seen.lacks(), seen.peer_lacks()), (true, false, false));
        workers[0].sync.peer_flags.set(4);
        workers[0].sync.peer_lacking.set(9);
        workers[1].sync.buckets_synced.set(62);
        workers[1].sync.buckets_lacking.set(2);
        workers[1].sync.sessions_lacking.set(3);
        let seen = Seen::of(workers.iter());
        assert_eq!((seen.synced(), seen.settled(), seen.lacks()), (false, true, true));
        assert_eq!((seen.lacking, seen.peer_lacks(), seen.peer_lacking), (3, true, 9));
        assert_eq!(Seen::of([].iter()), Seen::default());
    }

    #[test]
    fn a_version_fills_both_cells() {
        assert_eq!(
            version_text([*b"0.1.0-12", *b"-gabcdef"].map(u64::from_be_bytes)),
            "0.1.0-12-gabcdef"
        );
        assert_eq!(
            version_text([*b"0.1.0 (d", *b"b06838)\0"].map(u64::from_be_bytes)),
            "0.1.0 (db06838)"
        );
        assert_eq!(version_text([0, 0]), "");
    }

    #[test]
    fn the_other_version_is_known_to_the_worker_that_heard_it() {
        let workers = [WorkerCounters::new(), WorkerCounters::new()];
        assert_eq!(Seen::of(workers.iter()).other_version, 0);
        workers[1].sync.wrong_version.add(3);
        workers[1].sync.other_version.set(9);
        let seen = Seen::of(workers.iter());
        assert_eq!((seen.wrong_version, seen.other_version), (3, 9));
    }
}
