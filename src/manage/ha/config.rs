//! What the virtual routers are told by the configuration.

use super::announce;
use crate::datapath::snapshot::{PortId, Snapshot};
use crate::session::ServiceId;

/// What the configuration says of the pair beyond the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairConfig {
    /// The priority of each group, 1 to 254, by index in [`crate::datapath::ha::Ha::groups`].
    pub priorities: Vec<u8>,
    /// Milliseconds from one advert to the next: 10 to 40,950, a multiple of 10.
    pub advert_interval_ms: u32,
    /// Whether to take over from a master of lower priority.
    pub preempt: bool,
    /// For how many milliseconds to leave such a master alone.
    pub preempt_delay_ms: u64,
    /// Whether to do so, too, when nothing was ever heard of that master on the channel, or not all of its
    /// sessions could be taken in.
    pub preempt_unsynced: bool,
    /// The ports whose link counts.
    pub track_ports: Vec<PortId>,
    /// What each of them without a link takes off the priority.
    pub port_drop: u8,
    /// The services whose health counts.
    pub track_services: Vec<ServiceId>,
    /// What each of them without a server takes off the priority.
    pub service_drop: u8,
}

impl PairConfig {
    /// The defaults, for groups of these priorities; every wire port that has addresses is tracked.
    pub fn new(snapshot: &Snapshot, priorities: Vec<u8>) -> Self {
        let ports = announce::wire_ports(snapshot);
        PairConfig {
            priorities,
            advert_interval_ms: 1000,
            preempt: true,
            preempt_delay_ms: 0,
            preempt_unsynced: false,
            track_ports: ports.iter().filter(|p| p.has_addresses()).map(|p| p.id()).collect(),
            port_drop: 255,
            track_services: Vec::new(),
            service_drop: 50,
        }
    }
}
