//! `shunt ha --json`: the one place that knows its fields.

use serde_json::Value;

/// What a node says of the pair.
#[derive(Clone, Debug)]
pub(crate) struct HaView(Value);

impl HaView {
    pub(crate) fn new(value: Value) -> Self {
        HaView(value)
    }

    /// Master of every group. In active/active there is none, and nobody is.
    pub(crate) fn is_master(&self) -> bool {
        let groups = self.0["groups"].as_array().map_or(&[][..], Vec::as_slice);
        !groups.is_empty() && groups.iter().all(|group| group["state"] == "master")
    }

    /// Has every session of its peer.
    pub(crate) fn is_synced(&self) -> bool {
        self.0["synced"] == true
    }

    /// Hears its peer on the channel.
    pub(crate) fn has_peer(&self) -> bool {
        self.0["peer"]["alive"] == true
    }

    /// A counter of the channel, over all workers.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.0["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {}", self.0))
    }
}
