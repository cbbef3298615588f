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
