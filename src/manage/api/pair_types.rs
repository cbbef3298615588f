//! What the control socket says of the pair; units as in [`super::types`].

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `GET /v1/ha`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ha {
    /// `null` for a node without a peer.
    pub pair: Option<Pair>,
}

/// The pair, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// `active-backup` or `active-active`.
    pub mode: String,
    /// This node.
    pub node: Node,
    /// The virtual routers, that of `[ha]` first; none in active-active.
    pub groups: Vec<Group>,
    /// Who else sends VRRP adverts, which this node ignores; those that were heard last.
    pub ignored_adverts: Vec<IgnoredAdverts>,
    /// Such adverts of senders that are not listed any more.
    pub ignored_adverts_of_others: u64,
    /// The other node.
    pub peer: Peer,
    /// How sessions are kept alike.
    pub sync: Sync,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `node.name`.
    pub name: String,
    /// `node.id`.
    pub id: u8,
    /// Shunt's version.
    pub version: String,
    /// What names this start of the process, 16 hexadecimal digits; `null` when not known.
    pub boot: Option<String>,
    /// Its address on the port to the peer.
    pub address: IpAddr,
    /// The digest of its configuration, 16 hexadecimal digits.
    pub config: String,
    /// Whether it has all sessions of the peer.
    pub synced: bool,
    /// Steering buckets in which its copies of the peer's sessions were found equal.
    pub buckets_synced: u64,
    /// Those in which they differ since sessions could not be taken in ([`Sync::lacking_sessions`]).
    pub buckets_lacking: u64,
    /// All steering buckets.
    pub buckets: u64,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub vrid: u8,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `master`, `backup`, `joining` (waits for the sessions of the peer or the first health checks), or
    /// `fault` (gives way since something that is tracked is down).
    pub state: String,
    /// The configured priority.
    pub priority: u8,
    /// What is left of it; 0 in `fault`.
    pub effective_priority: u8,
    /// Why the state is what it is, and what lowers the priority.
    pub why: String,
    /// Time since the state last changed.
    pub since_ms: u64,
    /// The master's own address; `null` when none is known.
    pub master: Option<IpAddr>,
    /// Adverts sent, one for each port and family.
    pub adverts_sent: u64,
    /// Adverts of the peer heard.
    pub adverts_heard: u64,
    /// Adverts of this group from elsewhere, ignored.
    pub adverts_ignored: u64,
}

/// A sender of sound adverts that are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredAdverts {
    /// Its address.
    pub source: IpAddr,
    /// The virtual router it speaks for.
    pub vrid: u8,
    /// Whether that is a group of this node.
    pub of_this_node: bool,
    /// Whether the sender is the peer after all, which had not told all its addresses yet.
    pub of_peer: bool,
    /// How many came.
    pub adverts: u64,
    /// Time since the last came.
    pub last_ago_ms: u64,
}

/// The other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its id.
    pub id: u8,
    /// Whether it is there.
    pub alive: bool,
    /// Time since it came, went or restarted, or since this node's start.
    pub since_ms: u64,
    /// Its version; empty before it was heard.
    pub version: String,
    /// What names its start, 16 hexadecimal digits; `null` before it was heard.
    pub boot: Option<String>,
    /// How often it has restarted since this node's start.
    pub restarts: u64,
    /// Time since the last of these was noticed; `null` without any.
    pub restarted_ago_ms: Option<u64>,
    /// Its workers; 0 before it was heard.
    pub workers: u64,
    /// Whether it has all sessions of this node.
    pub synced: bool,
    /// Sessions of this node that it could not take in, once it has all others; 0 before.
    pub lacking_sessions: u64,
    /// Whether it said that it would stop.
    pub leaving: bool,
    /// Whether its configuration says the same of all that must be alike; `null` while it is not
    /// there.
    pub config_equal: Option<bool>,
}

/// How sessions are kept alike. Counts are since the start, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// The port to the peer.
    pub port: String,
    /// The multicast group.
    pub group: Option<SocketAddr>,
    /// What names the key that this node signs with in its datagrams, 8 hexadecimal digits.
    pub signing_key: String,
    /// The same of the other key that it accepts; `null` when it accepts no other.
    pub other_key: Option<String>,
    /// Sessions of this node.
    pub own_sessions: u64,
    /// Copies of the peer's sessions.
    pub foreign_sessions: u64,
    /// Sessions of this node that the peer does not know, or may not: all while it is not there; with it
    /// those that it has not acknowledged, those that a bulk walk is still to tell it of, and those that it
    /// could not take in.
    pub unprotected_sessions: u64,
    /// Datagrams sent that the peer has not acknowledged yet.
    pub lag_datagrams: u64,
    /// Datagrams sent, those sent again included.
    pub sent_datagrams: u64,
    /// See `sent_datagrams`.
    pub sent_datagrams_per_second: u64,
    /// Records in them.
    pub sent_records: u64,
    /// See `sent_records`.
    pub sent_records_per_second: u64,
    /// Datagrams that could not be made for want of a buffer.
    pub send_failed: u64,
    /// Datagrams taken in.
    pub received_datagrams: u64,
    /// See `received_datagrams`.
    pub received_datagrams_per_second: u64,
    /// Records in them.
    pub received_records: u64,
    /// See `received_records`.
    pub received_records_per_second: u64,
    /// Datagrams sent again since the peer missed them.
    pub repeated_datagrams: u64,
    /// Datagrams of the peer found missing.
    pub missed_datagrams: u64,
    /// Requests for these.
    pub naks_sent: u64,
    /// Requests of the peer for datagrams that were not kept any more.
    pub gone: u64,
    /// Buckets whose digest differed, and that were told anew.
    pub digest_mismatches: u64,
    /// Sessions taken in.
    pub imported_sessions: u64,
    /// Sessions of the peer that this node lacks now since it could not take them in.
    pub lacking_sessions: u64,
    /// Attempts to take in a session that failed: each is made again and again, so there are more of these
    /// than sessions.
    pub refused_sessions: u64,
    /// Sessions for which both nodes had another server.
    pub conflicts: u64,
    /// Times that datagrams of the peer could not be had any more, so that all its sessions were asked for
    /// anew.
    pub streams_lost: u64,
    /// Records lost between workers.
    pub records_lost: u64,
    /// Bulk walks for the peer.
    pub walks: u64,
    /// Sessions sent in the present one.
    pub walk_sent: u64,
    /// Sessions it has to send; 0 when there is none.
    pub walk_total: u64,
    /// While this node joins: sessions of the peer's bulk walk that have come. 0 when it has all.
    pub joining_imported: u64,
    /// While this node joins: sessions that the peer has said it would send in it. 0 when this node has all,
    /// or before it is known.
    pub joining_total: u64,
    /// Packets in mid-stream given to the peer.
    pub relayed_packets: u64,
    /// Packets it gave that met a session here.
    pub relay_answered_packets: u64,
    /// Packets it gave that met none either.
    pub relay_refused_packets: u64,
    /// Packets that could not be given to it.
    pub relay_failed_packets: u64,
    /// Datagrams with a wrong MAC, or of a key that is none of this node's.
    pub bad_mac: u64,
    /// Datagrams that came before, or too late.
    pub replayed: u64,
    /// Datagrams of another version of the protocol.
    pub wrong_version: u64,
    /// Datagrams of another process with this node's id.
    pub duplicate_node: u64,
    /// Datagrams of a start of the peer that has not proved to be the present one.
    pub unproven: u64,
    /// Datagrams or records that cannot be read.
    pub malformed: u64,
    /// VRRP adverts that were ignored since their TTL, version, length or checksum is wrong.
    pub vrrp_invalid: u64,
    /// Leaps of this node's clock.
    pub clock_jumps: u64,
}

/// Something that is wrong with the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `duplicate_node`, `wrong_key`, `wrong_version`, `peer_gone`, `config_differs`,
    /// `import_refused`, `peer_lacks`, `advert_interval_differs`, `records_lost`, `replayed`, `malformed`,
    /// `clock_jump`, `joining` or `walk`.
    pub kind: String,
    /// `bad`, `warn` or `info`; the last passes by itself.
    pub severity: String,
    /// What it is, in a sentence.
    pub text: String,
    /// What mends it; `null` when nothing need be done.
    pub mend: Option<String>,
}
