//! What one worker keeps of the channel to the peer.

use arrayvec::ArrayVec;

use crate::datapath::counters::{Cell, WorkerCounters};
use crate::datapath::ha::Channel;
use crate::datapath::limiter::TokenBucket;
use crate::datapath::shared::Shared;
use crate::datapath::snapshot::{BUCKETS, Mac, Snapshot};
use crate::datapath::sync_counters::SyncCounters;
use crate::session::SessionId;
use crate::sync::Replay;
use crate::sync::association::Association;
use crate::sync::control::{Port, VersionText};
use crate::sync::keys::Keys;
use crate::sync::receiver::Receiver;
use crate::sync::sender::{KEPT, Sender};

/// Packets without a session that a worker gives to the peer per second, and at once: whoever sends
/// such must not keep both nodes busy.
const RELAYS: TokenBucket = TokenBucket::new(100_000, 10_000);
/// From one request for buckets to the next, in milliseconds; twice as long each time that it did not
/// help, up to [`WANT_MOST_MS`].
pub(super) const WANT_MS: u32 = 100;
/// The same of buckets with sessions that this node could not take in.
pub(super) const RETRY_MS: u32 = 1_000;
/// See [`WANT_MS`].
pub(super) const WANT_MOST_MS: u32 = 60_000;
/// Without a word of the peer for so long, in milliseconds, it is gone.
const DEAD_MS: u32 = 3_000;
/// The most workers that a node can have.
pub(super) const MAX_WORKERS: usize = 64;
/// Sessions that may change in a burst: each of its packets changes one or two.
pub(super) const CHANGES: usize = 128;
/// Ports of the peer that are remembered.
pub(super) const MAX_PORTS: usize = 32;

/// Room for the records of a control datagram.
pub(super) type Records = [u8; 1280];

/// What a node needs to talk to its peer, from its start on; the same for all its workers. Of these
/// only the keys change while it runs.
#[derive(Clone, Debug)]
pub struct PairSetup {
    /// The keys of the channel.
    pub keys: Keys,
    /// Names this start of the node: random, not 0.
    pub boot: u64,
    /// Random, known to this node alone: what the peer has to echo follows from it.
    pub secret: u128,
    /// The version of this node.
    pub version: VersionText,
    /// Added to this node's clock it is that of both nodes, to a minute or so: milliseconds of the
    /// time of day, wrapping. SYN cookies of one node are good on the other.
    pub clock_ms: u32,
}

/// A session that is to be told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) v6: bool,
    pub(super) id: SessionId,
}

/// The state of the channel.
pub(in crate::datapath) struct Replica {
    pub(super) setup: PairSetup,
    pub(super) node: u8,
    pub(super) worker: u8,
    pub(super) sender: Sender,
    /// By worker of the peer; only those whose streams come to this worker are used.
    pub(super) receivers: Box<[Option<Receiver>]>,
    /// What those of former peers have missed.
    pub(super) missed_before: u64,
    /// By worker of the peer: its control datagrams that came.
    pub(super) replays: Box<[Option<Replay>]>,
    /// The start of the peer that `receivers` and `replays` are of: kept while it is away, so that
    /// nothing of it is taken twice.
    pub(super) windows_of: u64,
    /// Of our own control datagrams.
    pub(super) control: u64,
    /// Only worker 0's is used.
    pub(super) association: Association,
    /// The start of the peer whose sessions the marks of this term are; `None` without a peer.
    pub(super) peer: Option<u64>,
    /// The buckets of this worker.
    pub(super) owned: u128,
    /// Those in which our copies were found equal since this peer is there.
    pub(super) synced: u128,
    /// Those whose digest differed the last time.
    pub(super) differing: u128,
    /// Those that the peer is to send anew.
    pub(super) wanted: u128,
    /// Those of which a session could not be taken in.
    pub(super) refused: u128,
    /// Those that differ because of that.
    pub(super) lacking: u128,
    /// By bucket: how many sessions it lacks, while it is among these.
    pub(super) lacks: [u32; BUCKETS],
    /// Those that the peer has begun to send since it is there.
    pub(super) answered: u128,
    /// Those that it is sending, of which nothing was lost so far.
    pub(super) walking: u128,
    /// Those that it has sent whole.
    pub(super) walked: u128,
    /// What was lost so far: datagrams on the way here, and records on the way between workers.
    pub(super) losses: [u64; 2],
    /// By bucket: how many walks of it the peer has begun, modulo 16.
    pub(super) walk_of: [u8; BUCKETS],
    /// Buckets whose unconfirmed copies are to go, and how far that has come.
    pub(super) purge: Purge,
    /// Those of which the peer's present walk counts in [`SyncCounters::joining_imported`].
    pub(super) counted: u128,
    /// Those of which the peer may lack any session: no walk has told it of them since it is there, or
    /// since it asked for them.
    pub(super) untold: u128,
    /// When the peer came, in milliseconds (wrapping).
    pub(super) came_at: u32,
    /// The walk that the peer has asked for.
    pub(super) own_walk: super::walk::Walk,
    pub(super) changes: ArrayVec<Change, CHANGES>,
    /// Whether one of them must leave ahead of this burst.
    pub(super) urgent: bool,
    /// The next session's [`Marks::born`](crate::session::marks::Marks::born).
    pub(super) born: u32,
    pub(super) due: Dues,
    pub(super) peer_ports: ArrayVec<Port, MAX_PORTS>,
    /// By port of ours: the peer's port on the same network.
    pub(super) neighbors: ArrayVec<Option<Mac>, MAX_PORTS>,
    /// The MAC address that the peer's datagrams come from.
    pub(super) peer_mac: Option<Mac>,
    pub(super) leaving: bool,
    /// When the peer was lost last, in milliseconds (wrapping): what it saw shortly before, it has told
    /// nobody.
    pub(super) lost_at: Option<u32>,
    /// When the peer last acknowledged this worker's stream, or came, in milliseconds (wrapping).
    pub(super) acked_at: u32,
    /// When it had not done so for a while, the last time.
    pub(super) silent_at: Option<u32>,
    /// Whether this node may lack sessions that the peer has.
    pub(super) joining: Joining,
    /// Packets given to the peer.
    pub(super) relays: TokenBucket,
    /// For how long the next request for buckets waits after the last one, in milliseconds.
    pub(super) want_wait: u32,
    /// The same of the next request for what this node could not take in.
    pub(super) retry_wait: u32,
}

/// Whether this node has yet to learn what sessions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joining {
    /// It has just begun, or stood still.
    Begins,
    /// Since this time, in milliseconds (wrapping).
    Since(u32),
    /// It knows all that is to be known.
    Over,
}

/// Copies that a walk has not confirmed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Purge {
    pub(super) buckets: u128,
    pub(super) cursor_v4: usize,
    pub(super) cursor_v6: usize,
}

/// When something was done last, in milliseconds (wrapping); `None` before the first time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dues {
    pub(super) digest: Option<u32>,
    pub(super) want: Option<u32>,
    /// The request for what this node could not take in.
    pub(super) retry: Option<u32>,
    pub(super) ports: Option<u32>,
    pub(super) ack: Option<u32>,
    pub(super) tick: Option<u32>,
    /// The look at the clock and at the peer, which a hello is the occasion for as well.
    pub(super) watch: Option<u32>,
}

impl Replica {
    pub(in crate::datapath) fn new(setup: &PairSetup, worker: u8, node: u8, seed: u64) -> Self {
        let sender = Sender::new(node, worker, setup.boot, KEPT);
        Replica {
            node,
            worker,
            sender,
            receivers: (0..MAX_WORKERS).map(|_| None).collect(),
            missed_before: 0,
            replays: (0..MAX_WORKERS).map(|_| None).collect(),
            windows_of: 0,
            control: 0,
            association: Association::new(node, setup.boot, setup.secret, DEAD_MS),
            peer: None,
            owned: 0,
            synced: 0,
            differing: 0,
            wanted: 0,
            refused: 0,
            lacking: 0,
            answered: 0,
            walking: 0,
            lacks: [0; BUCKETS],
            walked: 0,
            losses: [0; 2],
            walk_of: [0; BUCKETS],
            purge: Purge::default(),
            counted: 0,
            untold: 0,
            came_at: 0,
            own_walk: super::walk::Walk::default(),
            changes: ArrayVec::new(),
            urgent: false,
            born: (setup.boot ^ seed) as u32,
            due: Dues::default(),
            peer_ports: ArrayVec::new(),
            neighbors: ArrayVec::new(),
            peer_mac: None,
            leaving: false,
            joining: Joining::Begins,
            lost_at: None,
            acked_at: 0,
            silent_at: None,
            relays: RELAYS,
            want_wait: WANT_MS,
            retry_wait: RETRY_MS,
            setup: setup.clone(),
        }
    }

    /// Takes a new configuration.
    pub(in crate::datapath) fn configure(&mut self, snapshot: &Snapshot) {
        let owned = |bucket: &usize| snapshot.worker_of[*bucket] == self.worker;
        self.owned = (0..BUCKETS).filter(owned).fold(0, |set, bucket| set | 1 << bucket);
        // Perhaps it has the servers that were not to be found.
        (self.due.retry, self.retry_wait) = (None, RETRY_MS);
        self.pair_ports(snapshot);
    }

    /// Finds the peer's port on the network of each of ours.
    pub(super) fn pair_ports(&mut self, snapshot: &Snapshot) {
        let of_port = |port: &crate::datapath::snapshot::Port| {
            let same = |theirs: &&Port| {
                let v4 = port.ipv4.zip(theirs.v4).is_some_and(|(own, (other, length))| {
                    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                    (own.to_bits() ^ other.to_bits()) & mask == 0
                });
                let v6 = port.ipv6.zip(theirs.v6).is_some_and(|(own, (other, length))| {
                    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    (own.to_bits() ^ other.to_bits()) & mask == 0
                });
                v4 || v6
            };
            self.peer_ports.iter().find(same).map(|theirs| theirs.mac)
        };
        self.neighbors = snapshot.ports.iter().take(MAX_PORTS).map(of_port).collect();
    }

    /// Whether this worker has all sessions of the peer that it can take in.
    pub(super) fn is_settled(&self) -> bool {
        (self.synced | self.lacking) & self.owned == self.owned
    }

    /// How many it could not take in.
    pub(super) fn sessions_lacking(&self) -> u32 {
        if self.lacking == 0 {
            return 0;
        }
        let lacking = self.lacking & self.owned;
        let lacks = self.lacks.iter().enumerate();
        lacks.filter(|(bucket, _)| lacking >> bucket & 1 != 0).map(|(_, count)| count).sum()
    }

    /// Whether the peer is there.
    pub(super) fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// The number of the next session.
    pub(super) fn next_born(&mut self) -> u32 {
        self.born = self.born.wrapping_add(1);
        self.born
    }

    /// Forgets what was known of the peer's copy of anything: it begins anew.
    pub(super) fn begin_with(&mut self, peer: Option<u64>) {
        self.peer = peer;
        self.synced = 0;
        self.differing = 0;
        (self.refused, self.lacking) = (0, 0);
        (self.answered, self.walking, self.walked) = (0, 0, 0);
        self.wanted = if peer.is_some() { self.owned } else { 0 };
        (self.untold, self.counted) = (self.wanted, 0);
        self.purge = Purge::default();
        self.own_walk = super::walk::Walk::default();
        self.due.want = None;
        (self.want_wait, self.retry_wait) = (WANT_MS, RETRY_MS);
        self.due.digest = None;
        if let Some(boot) = peer
            && std::mem::replace(&mut self.windows_of, boot) != boot
        {
            for receiver in &mut self.receivers {
                self.missed_before += receiver.take().map_or(0, |receiver| receiver.missed());
            }
            self.replays.fill_with(|| None);
        }
        match peer {
            Some(_) => self.sender.associate(),
            None => self.sender.dissociate(),
        }
    }
}

/// The counters of the worker that keeps the association.
pub(super) fn first<F>(shared: &Shared<F>) -> &WorkerCounters {
    shared.all_counters.first().unwrap_or(&shared.counters)
}

/// The sum of a counter over all workers.
pub(super) fn sum<F>(shared: &Shared<F>, cell: impl Fn(&SyncCounters) -> &Cell) -> u64 {
    match shared.all_counters.is_empty() {
        true => cell(&shared.counters.sync).get(),
        false => shared.all_counters.iter().map(|counters| cell(&counters.sync).get()).sum(),
    }
}

/// The channel, if there is a peer in the configuration.
pub(super) fn channel<F>(shared: &Shared<F>) -> Option<Channel> {
    shared.snapshot.ha.as_ref().map(|ha| ha.channel)
}
