//! What can be wrong with the pair: each kind in plain words, with what mends it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::config::Config;
use super::digest;
use super::pair_seen::Seen;
use crate::datapath::snapshot::Snapshot;

/// What the texts name of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    node_id: u8,
    pub(super) peer: IpAddr,
    pub(super) group: SocketAddr,
    port: String,
    key_file: PathBuf,
    /// Whether this node leaves the addresses to the peer as long as it lacks sessions.
    pub(super) waits: bool,
    /// The digest of this node's configuration.
    pub(super) config: u64,
    advert_interval_ms: u32,
}

impl Facts {
    /// Those of a node of a pair.
    pub(super) fn of(config: &Config, snapshot: &Snapshot) -> Option<Self> {
        let ha = config.ha.as_ref()?;
        Some(Facts {
            node_id: config.node.id,
            peer: ha.peer,
            group: ha.sync_group,
            port: ha.sync_port.clone(),
            key_file: ha.key_file.clone(),
            waits: !ha.groups.is_empty() && ha.preempt && !ha.preempt_unsynced,
            config: snapshot.ha.as_ref()?.channel.config_digest,
            advert_interval_ms: ha.advert_interval_ms.into(),
        })
    }

    /// Whether the peer's configuration is like this node's; `None` while it is not known.
    pub(super) fn config_equal(&self, seen: &Seen) -> Option<bool> {
        (seen.alive && seen.config != 0).then_some(seen.config == self.config)
    }

    /// The same of the interval of adverts: it is known while the peer is heard to be master.
    pub(super) fn interval_equal(&self, seen: &Seen) -> Option<bool> {
        seen.advert_interval_ms.map(|theirs| theirs == self.advert_interval_ms)
    }

    /// What the configurations differ in.
    fn differing(&self, seen: &Seen) -> String {
        let named = digest::differing(self.config, seen.config).join(", ");
        if named.is_empty() { digest::all_parts().join(", ") } else { named }
    }
}

/// A kind of problem, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Another process has this node's id.
    DuplicateNode,
    /// Datagrams are signed with another key, or not at all.
    WrongKey,
    /// Datagrams of another version of the protocol.
    WrongVersion,
    /// The peer is not heard.
    PeerGone,
    /// The configurations differ in what must be alike.
    ConfigDiffers,
    /// Sessions of the peer find no place here.
    ImportRefused,
    /// Sessions of this node find no place at the peer.
    PeerLacks,
    /// The peer sends adverts in another interval.
    AdvertInterval,
    /// Records were lost between workers.
    RecordsLost,
    /// Old datagrams came again.
    Replayed,
    /// Datagrams that cannot be read.
    Malformed,
    /// The clock leapt.
    ClockJump,
    /// This node does not have all sessions of the peer yet.
    Joining,
    /// The peer is being told all sessions.
    Walk,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Sessions are not protected, or worse.
    Bad,
    /// It works, with something lost or odd.
    Warn,
    /// Passes by itself.
    Info,
}

/// What mends it that a node cannot take in all sessions of the other.
const ALIKE: &str = "give both nodes the same services and servers, and as large a node.sessions";

impl Severity {
    /// As in the API.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Severity::Bad => "bad",
            Severity::Warn => "warn",
            Severity::Info => "info",
        }
    }
}

impl Kind {
    /// All of them, the worst first.
    pub(super) const ALL: [Kind; 14] = [
        Kind::DuplicateNode,
        Kind::WrongKey,
        Kind::WrongVersion,
        Kind::PeerGone,
        Kind::ConfigDiffers,
        Kind::ImportRefused,
        Kind::PeerLacks,
        Kind::AdvertInterval,
        Kind::RecordsLost,
        Kind::Replayed,
        Kind::Malformed,
        Kind::ClockJump,
        Kind::Joining,
        Kind::Walk,
    ];

    /// Its name in the API.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::DuplicateNode => "duplicate_node",
            Kind::WrongKey => "wrong_key",
            Kind::WrongVersion => "wrong_version",
            Kind::PeerGone => "peer_gone",
            Kind::ConfigDiffers => "config_differs",
            Kind::ImportRefused => "import_refused",
            Kind::PeerLacks => "peer_lacks",
            Kind::AdvertInterval => "advert_interval_differs",
            Kind::RecordsLost => "records_lost",
            Kind::Replayed => "replayed",
            Kind::Malformed => "malformed",
            Kind::ClockJump => "clock_jump",
            Kind::Joining => "joining",
            Kind::Walk => "walk",
        }
    }

    /// How bad it is.
    pub(super) const fn severity(self) -> Severity {
        match self {
            Kind::DuplicateNode
            | Kind::WrongKey
            | Kind::WrongVersion
            | Kind::PeerGone
            | Kind::ConfigDiffers
            | Kind::ImportRefused
            | Kind::PeerLacks => Severity::Bad,
            Kind::AdvertInterval
            | Kind::RecordsLost
            | Kind::Replayed
            | Kind::Malformed
            | Kind::ClockJump => Severity::Warn,
            Kind::Joining | Kind::Walk => Severity::Info,
        }
    }

    /// What the workers count of it; `None` of what is a state.
    pub(super) const fn count(self, seen: &Seen) -> Option<u64> {
        Some(match self {
            Kind::DuplicateNode => seen.duplicate_node,
            Kind::WrongKey => seen.bad_mac,
            Kind::WrongVersion => seen.wrong_version,
            Kind::RecordsLost => seen.records_lost,
            Kind::Replayed => seen.replayed,
            Kind::Malformed => seen.malformed,
            Kind::ClockJump => seen.clock_jumps,
            Kind::PeerGone
            | Kind::ConfigDiffers
            | Kind::ImportRefused
            | Kind::PeerLacks
            | Kind::AdvertInterval
            | Kind::Joining
            | Kind::Walk => return None,
        })
    }

    /// What is wrong, in a sentence. Of what is counted: since the start.
    pub(super) fn text(self, facts: &Facts, seen: &Seen) -> String {
        let n = self.count(seen).unwrap_or(0);
        let Facts { peer, group, port, .. } = facts;
        match self {
            Kind::DuplicateNode => format!(
                "another node with the id {} sends to {group} on port {port} ({n} datagrams): both \
                 would use the same local ports",
                facts.node_id
            ),
            Kind::WrongKey => format!(
                "datagrams to {group} on port {port} are not signed with a key of this node ({n}): \
                 the nodes have different keys, or somebody forges"
            ),
            Kind::WrongVersion => format!(
                "the peer speaks version {} of the protocol, which this node does not ({n} datagrams)",
                seen.other_version
            ),
            Kind::PeerGone if seen.leaving => {
                format!("the peer {peer} was stopped: new sessions are on this node alone")
            }
            Kind::PeerGone if seen.boot == 0 => format!(
                "the peer {peer} has not been heard since this node started: sessions are on this node \
                 alone"
            ),
            Kind::PeerGone => {
                format!(
                    "the peer {peer} is not heard any more: new sessions are on this node alone"
                )
            }
            Kind::ConfigDiffers => format!(
                "the configurations of the two nodes differ in what must be alike: {}",
                facts.differing(seen)
            ),
            Kind::ImportRefused => format!(
                "this node has all sessions of the peer {peer} but {} that it could not take in: the table \
                 is full, or their service or server is unknown here; they would break if the peer \
                 stopped{}",
                seen.lacking,
                if facts.waits { ", so this node does not take the addresses back" } else { "" }
            ),
            Kind::PeerLacks => format!(
                "the peer {peer} has all sessions of this node but {} that it could not take in: they would \
                 break if this node stopped",
                seen.peer_lacking
            ),
            Kind::AdvertInterval => format!(
                "the peer {peer} sends adverts every {} ms, this node has advert_interval_ms = {}: how \
                 long a silent master is waited for depends on who it is",
                seen.advert_interval_ms.unwrap_or_default(),
                facts.advert_interval_ms
            ),
            Kind::RecordsLost => format!(
                "{n} records of the peer were lost between two workers, which were too busy; they are \
                 asked for again"
            ),
            Kind::Replayed => format!(
                "{n} datagrams came a second time, or too late: a loop in the network, or somebody \
                 repeats what he recorded; they were ignored"
            ),
            Kind::Malformed => {
                format!("{n} datagrams to {group} on port {port} cannot be read; they were ignored")
            }
            Kind::ClockJump => format!(
                "this node stood still {} (a paused virtual machine, or a core that is shared)",
                if n == 1 { "once".to_owned() } else { format!("{n} times") }
            ),
            Kind::Joining => format!(
                "this node does not have all sessions of the peer yet: {}{} of 128 buckets are equal; until \
                 then it takes no addresses over",
                match seen.joining {
                    (_, 0) => String::new(),
                    (imported, total) => format!("imported {} of {total}, ", imported.min(total)),
                },
                seen.buckets_synced
            ),
            Kind::Walk => format!(
                "the peer is being told all sessions: {} of {}",
                seen.walk_sent, seen.walk_total
            ),
        }
    }

    /// What mends it; `None` when nothing needs to be done.
    pub(super) fn mend(self, facts: &Facts, seen: &Seen) -> Option<String> {
        let Facts { peer, group, port, .. } = facts;
        Some(match self {
            Kind::DuplicateNode => format!(
                "set node.id = {} on one of the two, or give another pair on this network another \
                 ha.sync_group",
                1 - facts.node_id.min(1)
            ),
            Kind::WrongKey => format!(
                "copy {} of one node to the other and `kill -HUP` shunt there (with systemd: `systemctl \
                 reload shunt`), which interrupts nothing; another pair on this network needs another \
                 ha.sync_group",
                facts.key_file.display()
            ),
            Kind::WrongVersion => "run the same version of shunt on both nodes".to_owned(),
            Kind::PeerGone if seen.leaving => format!("start shunt on {peer} again"),
            Kind::PeerGone => format!(
                "is shunt running on {peer}, with the same ha.sync_group and key? Does the network of \
                 port {port} pass multicast to {group} (a switch that snoops on IGMP or MLD needs a \
                 querier)?"
            ),
            Kind::ConfigDiffers => {
                "compare the files, order included, then restart the node whose file was wrong"
                    .to_owned()
            }
            Kind::ImportRefused if facts.waits => format!(
                "{ALIKE}: it then takes them in, and the addresses back; or, if they may break, set \
                 ha.preempt_unsynced = true here and start it anew"
            ),
            Kind::ImportRefused | Kind::PeerLacks => ALIKE.to_owned(),
            Kind::AdvertInterval => {
                "give both nodes the same ha.advert_interval_ms, and restart the one that is changed"
                    .to_owned()
            }
            Kind::RecordsLost => "give the workers more cores if it goes on".to_owned(),
            Kind::Replayed | Kind::Malformed => {
                format!("see what else sends to {group} in the network of port {port}")
            }
            Kind::ClockJump => "give the node cores of its own".to_owned(),
            Kind::Joining | Kind::Walk => return None,
        })
    }
}
