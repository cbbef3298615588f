//! `shunt ha --json`: the one place that knows its fields.

use serde_json::Value;

/// What a node says of the pair.
#[derive(Clone, Debug)]
pub(crate) struct HaView(Value);

impl HaView {
    pub(crate) fn new(answer: &Value) -> Self {
        HaView(answer["pair"].clone())
    }

    /// Master of every group. In active/active there is none, and nobody is.
    pub(crate) fn is_master(&self) -> bool {
        let groups = self.0["groups"].as_array().map_or(&[][..], Vec::as_slice);
        !groups.is_empty() && groups.iter().all(|group| group["state"] == "master")
    }

    /// The groups that it is master of.
    pub(crate) fn masters(&self) -> Vec<u64> {
        let groups = self.0["groups"].as_array().map_or(&[][..], Vec::as_slice);
        let masters = groups.iter().filter(|group| group["state"] == "master");
        masters.filter_map(|group| group["vrid"].as_u64()).collect()
    }

    /// What is left of the priority of a group, and why it is what it is.
    pub(crate) fn priority(&self, vrid: u8) -> (u64, String) {
        let groups = self.0["groups"].as_array().map_or(&[][..], Vec::as_slice);
        let group = groups.iter().find(|group| group["vrid"] == vrid);
        let group = group.unwrap_or_else(|| panic!("no group {vrid}: {}", self.0));
        let why = group["why"].as_str().unwrap_or_default().to_owned();
        (group["effective_priority"].as_u64().unwrap_or_default(), why)
    }

    /// How often its peer has restarted.
    pub(crate) fn peer_restarts(&self) -> u64 {
        self.0["peer"]["restarts"].as_u64().unwrap_or_default()
    }

    /// Whether its peer is configured alike, if it knows.
    pub(crate) fn is_alike(&self) -> Option<bool> {
        self.0["peer"]["config_equal"].as_bool()
    }

    /// Has every session of its peer.
    pub(crate) fn is_synced(&self) -> bool {
        self.0["node"]["synced"] == true
    }

    /// Hears its peer on the channel.
    pub(crate) fn has_peer(&self) -> bool {
        self.0["peer"]["alive"] == true
    }

    /// Its own sessions, and the copies of the peer's.
    pub(crate) fn sessions(&self) -> u64 {
        self.counter("own_sessions") + self.counter("foreign_sessions")
    }

    /// A counter or gauge of the channel, over all workers.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.0["sync"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {}", self.0))
    }

    /// What names the key that it signs with, and the other that it accepts.
    pub(crate) fn keys(&self) -> (String, Option<String>) {
        let name = |key: &str| self.0["sync"][key].as_str().map(str::to_owned);
        (name("signing_key").expect("a key signs"), name("other_key"))
    }

    /// The sentence about something that is wrong, if it is.
    pub(crate) fn problem(&self, kind: &str) -> Option<String> {
        let problems = self.0["problems"].as_array()?;
        let problem = problems.iter().find(|problem| problem["kind"] == kind)?;
        problem["text"].as_str().map(str::to_owned)
    }
}
