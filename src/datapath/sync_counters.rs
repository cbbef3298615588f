//! What a worker counts of the channel to the peer.

use super::counters::Cell;

/// Counters and gauges of session sync of one worker.
#[derive(Debug, Default)]
pub struct SyncCounters {
    /// Datagrams sent, repetitions included; each is in `originated` too.
    pub sent_datagrams: Cell,
    /// Records in them.
    pub sent_records: Cell,
    /// Datagrams that could not be made for want of a buffer: the peer asks for them.
    pub send_failed: Cell,
    /// Datagrams sent once more since the peer asked for them.
    pub repeated: Cell,
    /// Datagrams of the peer taken in; each is in `consumed` too.
    pub received_datagrams: Cell,
    /// Records in them.
    pub received_records: Cell,
    /// Datagrams whose MAC is wrong, or whose key is none of ours.
    pub bad_mac: Cell,
    /// Datagrams that came before, or too late.
    pub replayed: Cell,
    /// Datagrams of another version of the protocol.
    pub wrong_version: Cell,
    /// Datagrams of another process with this node's id.
    pub duplicate_node: Cell,
    /// Datagrams of a start of the peer that has not proved to be the present one.
    pub unproven: Cell,
    /// Datagrams or records that cannot be read.
    pub malformed: Cell,
    /// Datagrams of the peer found missing.
    pub missed: Cell,
    /// Times that datagrams of the peer were given up: it did not keep them any more, or far too many
    /// others came. All its sessions are then asked for anew.
    pub streams_lost: Cell,
    /// Requests for missing datagrams sent.
    pub naks_sent: Cell,
    /// Requests for datagrams of ours that were not kept any more.
    pub gone: Cell,
    /// Sessions taken in from the peer.
    pub imported: Cell,
    /// Attempts to take in a session of the peer that failed (table full, service or server unknown here).
    /// Each is made again: see `sessions_lacking`.
    pub import_refused: Cell,
    /// Sessions for which both nodes had another server, settled by the rule for conflicts.
    pub conflicts: Cell,
    /// Records lost on their way between two workers.
    pub records_lost: Cell,
    /// Buckets whose digest differed.
    pub digest_mismatches: Cell,
    /// Walks through the table on behalf of the peer.
    pub walks: Cell,
    /// Packets in mid-stream given to the peer.
    pub relayed: Cell,
    /// Packets the peer gave to us that met a session here.
    pub relay_answered: Cell,
    /// Packets the peer gave to us that met none either.
    pub relay_refused: Cell,
    /// Packets that would have been given to the peer, and were too long or found no way to it.
    pub relay_failed: Cell,
    /// Leaps of this node's clock (it stood still, or the process did).
    pub clock_jumps: Cell,
    /// VRRP adverts that were ignored: wrong TTL, checksum, version or length.
    pub vrrp_invalid: Cell,
    /// Gauge: datagrams sent and not yet acknowledged by the peer.
    pub lag: Cell,
    /// Gauge: sessions of this node that the peer does not know, as far as this worker knows: all without a
    /// peer; with one those that it has not acknowledged, and those that are still to be told in a walk. On
    /// worker 0 also those of the whole node that the peer could not take in.
    pub unprotected: Cell,
    /// Gauge: sessions this node owns on this worker.
    pub own_sessions: Cell,
    /// Gauge: copies of the peer's sessions on this worker.
    pub foreign_sessions: Cell,
    /// Gauge: buckets of this worker in which the copies were found equal.
    pub buckets_synced: Cell,
    /// Gauge: buckets of this worker in which the copies differ since sessions could not be taken in, and
    /// for nothing else that is known.
    pub buckets_lacking: Cell,
    /// Gauge: those sessions, by the peer's last digests.
    pub sessions_lacking: Cell,
    /// Gauge: buckets this worker owns.
    pub buckets_owned: Cell,
    /// Gauge: sessions sent in the present bulk walk.
    pub walk_sent: Cell,
    /// Gauge: sessions it has to send, as it began; 0 when there is none.
    pub walk_total: Cell,
    /// Gauge: sessions of the peer's walks that have come while this node lacked some.
    pub joining_imported: Cell,
    /// Gauge: how many the peer has said it would send in these; each walk is in one worker's gauge.
    pub joining_total: Cell,
    /// Gauge, of worker 0: whether the peer is there, 0 or 1.
    pub peer_alive: Cell,
    /// Gauge, of worker 0: the start (boot) of the peer that has proved to be the present one, or 0.
    pub peer_boot: Cell,
    /// Gauge, of worker 0: the workers of the peer.
    pub peer_workers: Cell,
    /// Gauge, of worker 0: the digest of the peer's configuration.
    pub peer_config: Cell,
    /// Gauge, of worker 0: the peer's flags ([`crate::sync`]).
    pub peer_flags: Cell,
    /// Gauge, of worker 0: sessions of this node that the peer could not take in.
    pub peer_lacking: Cell,
    /// Gauges, of worker 0: the peer's version, 16 bytes of text in network byte order.
    pub peer_version: [Cell; 2],
    /// Gauge, of worker 0: the version of the protocol in the last datagram of another version.
    pub other_version: Cell,
}
