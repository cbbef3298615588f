//! The pair as `shunt ha` shows it.

use std::net::IpAddr;

use super::strangers::Stranger;

/// All virtual routers of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairView {
    /// By index of the group.
    pub groups: Vec<GroupView>,
    /// Whether this node does not have the peer's sessions, and so takes over from nobody.
    pub joining: bool,
    /// Who sends adverts of virtual routers that are none of ours, or of ours without being the peer.
    pub strangers: Vec<Stranger>,
    /// Such adverts of senders that are not listed.
    pub other_strangers: u64,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its id.
    pub vrid: u8,
    /// "master", "backup", "fault" (the effective priority is 0) or "joining".
    pub state: &'static str,
    /// How many addresses it has.
    pub addresses: usize,
    /// The priority in the configuration.
    pub priority: u8,
    /// What is left of it.
    pub effective: u8,
    /// What is taken off, and why.
    pub drops: Vec<String>,
    /// For how many milliseconds it has been master or not.
    pub since_ago_ms: u64,
    /// Why.
    pub reason: &'static str,
    /// The address of the master, when it is known: our own on the channel, or the sender of the last
    /// advert.
    pub master: Option<IpAddr>,
    /// Adverts sent: one for each port and family.
    pub sent: u64,
    /// Adverts of the peer heard.
    pub heard: u64,
    /// Adverts from elsewhere.
    pub ignored: u64,
}
