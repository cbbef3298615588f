//! Whether this node has the sessions of the master it hears, and knows its servers: until then it takes
//! over from nobody but from a master that is gone.

use super::config::PairConfig;

/// For how many milliseconds from the start a node counts as joining though it has not heard the
/// peer: it may not have had the time to. At least as long as a master may be silent.
const GRACE_MS: u64 = 5_000;

/// What is known of it. Times are in milliseconds.
#[derive(Debug)]
pub(super) struct Joining {
    preempt_unsynced: bool,
    /// Until when a silent peer may just not have had the time to speak.
    grace_until_ms: u64,
    /// Whether this node has all sessions of the peer.
    pub(super) synced: bool,
    /// Whether it has all of them but those that it could not take in.
    pub(super) lacking: bool,
    /// Whether it knows its servers: without, it has nowhere to send new connections to, and is no better
    /// than a node without the sessions.
    pub(super) servers_known: bool,
    /// Whether the peer is heard on the channel, and ever was.
    peer_heard: bool,
    peer_was_heard: bool,
    /// Whether this node has ever had all sessions, or found that there was nobody to have them from.
    was_free: bool,
}

impl Joining {
    pub(super) fn new(config: &PairConfig, now_ms: u64) -> Self {
        Joining {
            preempt_unsynced: config.preempt_unsynced,
            grace_until_ms: now_ms + GRACE_MS.max(4 * u64::from(config.advert_interval_ms)),
            synced: false,
            lacking: false,
            servers_known: true,
            peer_heard: false,
            peer_was_heard: false,
            was_free: false,
        }
    }

    pub(super) fn set_peer_heard(&mut self, heard: bool) {
        self.peer_heard = heard;
        self.peer_was_heard |= heard;
    }

    /// Whether this node lacks sessions that the peer has, or may have, or does not know the health of its
    /// servers; `hears_master`: whether another
    /// router is master of one of the groups.
    pub(super) fn is_joining(&self, now_ms: u64, hears_master: bool) -> bool {
        let begins = || now_ms < self.grace_until_ms || hears_master && self.master_counts();
        let has_all = self.synced || self.lacking && self.preempt_unsynced;
        let ready = has_all && self.servers_known;
        !ready && (self.peer_heard || !self.was_free && begins())
    }

    /// The same, and remembers it.
    pub(super) fn hold(&mut self, now_ms: u64, hears_master: bool) -> bool {
        let joining = self.is_joining(now_ms, hears_master);
        self.was_free |= !joining;
        joining
    }

    /// Why a joining node takes over from nobody.
    pub(super) fn waits_for(&self, hears_master: bool) -> &'static str {
        match self.peer_heard {
            _ if self.synced && !self.servers_known => "waits for the first health checks",
            true if self.lacking => "lacks sessions of the peer that it could not take in",
            true => "waits for the sessions of the peer",
            false if hears_master && self.master_counts() => {
                "a master is heard, but nothing of its sessions: the channel is silent"
            }
            false => "has just started, listens for the peer",
        }
    }

    /// Whether the peer need not be heard on the channel.
    pub(super) fn preempt_unsynced(&self) -> bool {
        self.preempt_unsynced
    }

    /// Whether a master has sessions, though perhaps nothing of it is heard on the channel.
    fn master_counts(&self) -> bool {
        self.peer_was_heard || !self.preempt_unsynced
    }
}
