//! What must be true after every step (of sessions: whenever one has come or gone) and in the end.
//!
//! A connection is **excused** when it may be lost: its handshake was at a time when the nodes were
//! apart, or the only node that knew it is gone before it could tell the other. Of all others everything
//! is demanded: no reset, no other server, every byte, and an end.

use std::collections::BTreeMap;

use shunt::datapath::policy::MidStream;
use shunt::datapath::snapshot::BUCKETS;
use shunt::rewrite::proxy_protocol;
use shunt::wire::flow::Protocol;

use crate::hosts::Seen;
use crate::network;
use crate::node::Node;
use crate::world::World;

/// Why a connection is excused that both nodes have opened: see `World::excuse_if_opened_twice`.
pub const OPENED_TWICE: &str = "its SYN is sent to both nodes before one hears of the other";

/// How long the nodes have for what one tells the other, in milliseconds: where nothing goes wrong
/// between them, and where it does.
const PROMPT_MS: u64 = 20;
const LATE_MS: u64 = 2_000;
/// How many sessions a node may have for each client, those that are over included.
const SESSIONS_EACH: usize = 3;
/// Frames that a worker may have for itself.
const FRAMES: usize = 512;

impl World {
    fn allowance(&self) -> u64 {
        let good = self.plan.between == crate::plan::Wire::GOOD && !self.plan.slow;
        if good { PROMPT_MS } else { LATE_MS }
    }

    fn protocol(is_tcp: bool) -> Protocol {
        if is_tcp { Protocol::Tcp } else { Protocol::Udp }
    }

    /// Whether what one node knows the other must know as well.
    fn is_linked(&self) -> bool {
        let since = self.linked_since.max(self.synced_since);
        let is_old = since.is_some_and(|at| self.now >= at + self.allowance());
        self.linked_since.is_some() && self.synced_since.is_some() && is_old
    }

    /// Takes notice of how the nodes stand to each other.
    pub fn watch(&mut self) {
        let now = self.now;
        let [Some(a), Some(b)] = &self.nodes else {
            (self.linked_since, self.synced_since) = (None, None);
            for id in 0..2 {
                self.complete[id] = self.nodes[id].is_some();
            }
            // Who is alone is not apart from anybody.
            self.split = false;
            return;
        };
        let apart = self.cut[0] || self.cut[1] || a.is_frozen(now) || b.is_frozen(now);
        let linked = !apart && a.has_peer() && b.has_peer();
        let synced = linked && a.is_synced() && b.is_synced();
        if !linked {
            (self.linked_since, self.synced_since) = (None, None);
        } else {
            self.linked_since = self.linked_since.or(Some(now));
            if synced {
                self.synced_since = self.synced_since.or(Some(now));
            }
        }
        if synced {
            self.complete = [true; 2];
        }
        if apart && self.complete != [true; 2] {
            for client in &mut self.clients {
                if client.started && client.excuse.is_none() {
                    client.excuse = Some("a node that began does not hear of it");
                }
            }
        }
        self.split = apart || self.split && !self.is_linked();
        if self.split {
            let before = now.saturating_sub(self.allowance());
            for client in &mut self.clients {
                let young = client.established_at.is_none_or(|at| at >= before);
                if client.started && young && client.excuse.is_none() {
                    client.excuse = Some("began while the nodes were apart");
                }
            }
        }
    }

    /// A node is lost, or out of reach: the other has what it needs.
    pub fn lose(&mut self, id: usize) {
        if self.nodes[id].is_none() {
            return;
        }
        let must = self.is_linked();
        let allowance = self.allowance();
        for client in self.clients.iter_mut().filter(|client| client.started && !client.done) {
            let protocol = Self::protocol(client.is_tcp);
            let other = self.nodes[1 - id].as_ref().filter(|node| !node.is_frozen(self.now));
            let row = other.and_then(|n| n.session(client.local, client.vip, protocol));
            let server = client.server.map(|index| network::server(&self.plan, index, protocol));
            let has = row.is_some_and(|row| server.is_none_or(|server| server == row.server));
            if has || client.excuse.is_some() {
                continue;
            }
            let is_old = client.established_at.is_some_and(|at| self.now >= at + allowance);
            assert!(
                !(must && is_old && client.is_active() && !client.is_closing()),
                "at {}: node {id} is lost and the other does not know connection {}: {row:?}",
                self.now,
                client.id
            );
            client.excuse = Some("only the lost node knew it");
        }
    }

    /// Looks at what hosts have seen.
    pub fn judge(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        self.watch();
        for seen in std::mem::take(&mut self.seen) {
            let now = self.now;
            match seen {
                Seen::Served { server, id, remote, header } => {
                    let client = &self.clients[id as usize];
                    assert!(
                        client.excuse.is_some()
                            || client.server.is_none_or(|known| known == server),
                        "at {now}: connection {id} reaches server {server}, it was {:?}'s",
                        client.server
                    );
                    if let Some(version) =
                        self.plan.introduction.proxy_protocol().filter(|_| client.is_tcp)
                    {
                        let right = proxy_protocol::header(version, client.local, client.vip);
                        assert_eq!(header, right[..], "connection {id} from {remote}");
                    }
                }
                Seen::Answered { id, server } => {
                    if self.trace {
                        eprintln!("{now:6} connection {id} is of server {server}");
                    }
                }
                Seen::ClientReset(id) | Seen::ServerReset(id) => {
                    // A segment that is not the one with the cookie may come first, and proves nothing.
                    let is_good = self.plan.hosts == crate::plan::Wire::GOOD;
                    let overtakes = self.plan.syn_proxy && (!is_good || self.plan.persistence);
                    let client = &mut self.clients[id as usize];
                    if client.done {
                        continue;
                    }
                    if overtakes && client.established_at.is_none() && client.excuse.is_none() {
                        client.excuse = Some("its cookie was overtaken");
                    }
                    if client.is_closing() || client.excuse.is_some() {
                        client.give_up(now);
                        continue;
                    }
                    panic!("at {now}: connection {id} is reset ({seen:?})");
                }
                Seen::Clash(id) => {
                    panic!("at {now}: addresses and ports of connection {id} are used twice");
                }
            }
        }
    }

    /// What must be true after every step: no packet is lost without a counter.
    pub fn check_balance(&self) {
        for node in self.nodes.iter().flatten() {
            for (number, counters) in node.counters.iter().enumerate() {
                assert!(counters.balanced(), "node {}, worker {number}: {counters:?}", node.id);
            }
        }
    }

    /// What must be true whenever a session comes or goes, and in between.
    pub fn check(&self) {
        for node in self.nodes.iter().flatten() {
            self.check_node(node);
        }
        let [Some(a), Some(b)] = &self.nodes else { return };
        if !self.is_linked() {
            return;
        }
        // Whoever crashed now would take no connection along.
        for client in self.clients.iter().filter(|client| client.is_active()) {
            let is_old = client.established_at.is_some_and(|at| self.now >= at + self.allowance());
            if !is_old || client.is_closing() {
                continue;
            }
            let protocol = Self::protocol(client.is_tcp);
            let [row, other] = [a, b].map(|node| node.session(client.local, client.vip, protocol));
            assert!(
                row.is_some() && row == other,
                "at {}: connection {} is not the same on both nodes: {row:?}, {other:?}",
                self.now,
                client.id
            );
        }
    }

    fn check_node(&self, node: &Node) {
        let id = node.id;
        let rows = node.sessions();
        let most = self.clients.len() * SESSIONS_EACH;
        assert!(rows.len() <= most, "node {id} has {} sessions", rows.len());
        // Towards a server each address and port is one client's.
        let mut used = BTreeMap::new();
        for row in &rows {
            let before = used.insert((row.tcp, row.local, row.server), row);
            assert!(
                before.is_none() || self.plan.mode == shunt::session::Mode::Dr,
                "at {}: node {id} uses addresses twice: {before:?} and {row:?}",
                self.now
            );
        }
    }

    /// Whether both nodes have the same sessions and know that they do.
    pub fn difference(&self) -> Option<String> {
        let [Some(a), Some(b)] = &self.nodes else { return Some("a node is down".into()) };
        for (id, node) in [a, b].into_iter().enumerate() {
            if !node.is_synced() {
                let synced = node.count(|c| c.sync.buckets_synced.get());
                return Some(format!(
                    "node {id} is not synced: peer {}, {synced} buckets",
                    node.has_peer()
                ));
            }
        }
        for bucket in 0..BUCKETS {
            let (of_a, of_b) = (a.tallies(bucket), b.tallies(bucket));
            if of_a[0] != of_b[1] || of_a[1] != of_b[0] {
                return Some(format!("bucket {bucket}: {of_a:?} and {of_b:?}"));
            }
        }
        let (a, b) = (a.sessions(), b.sessions());
        (a != b).then(|| format!("sessions: {a:?} and {b:?}"))
    }

    /// Runs to the end and checks all on the way.
    pub fn run(&mut self) {
        self.run_until(self.plan.heal_at + 4_000);
        self.finish_others();
        let mut difference = None;
        for _ in 0..120 {
            difference = self.difference();
            if difference.is_none() {
                break;
            }
            self.run_until(self.now + 50);
        }
        assert_eq!(difference, None, "at {}: the nodes do not become alike", self.now);
        for client in &mut self.clients {
            client.finish();
        }
        let end = self.now + 8_000;
        while self.clients.iter().any(|c| !c.done && c.excuse.is_none()) {
            let open: Vec<u32> = self
                .clients
                .iter()
                .filter(|c| !c.done && c.excuse.is_none())
                .map(|c| c.id)
                .collect();
            assert!(self.now < end, "at {}: connections {open:?} do not go on", self.now);
            self.step();
        }
        if self.plan.script.is_empty() && !self.plan.syn_proxy {
            let mut excused = self.clients.iter().filter(|client| client.is_tcp);
            let excused = excused.find_map(|client| Some((client.id, client.excuse?)));
            let excused = excused.filter(|(_, why)| *why != OPENED_TWICE);
            assert_eq!(excused, None, "nothing has happened that excuses anything");
        }
        for client in &mut self.clients {
            client.give_up(0);
        }
        self.drain();
    }

    /// All connections but those that last come to their end.
    fn finish_others(&mut self) {
        let end = self.now + 40_000;
        loop {
            self.forget_unanswered();
            let open: Vec<(u32, u32)> = self
                .clients
                .iter()
                .filter(|c| !c.done && c.excuse.is_none() && c.left != u32::MAX)
                .map(|c| (c.id, c.left))
                .collect();
            if open.is_empty() {
                return;
            }
            assert!(self.now < end, "at {}: connections {open:?} do not go on", self.now);
            self.step();
        }
    }

    /// Where nobody is reset, who lost its session while it was closing waits for an answer for good.
    fn forget_unanswered(&mut self) {
        let nodes = &self.nodes;
        for client in self.clients.iter_mut().filter(|client| client.is_closing()) {
            let protocol = Self::protocol(client.is_tcp);
            let knows = |node: &Node| node.session(client.local, client.vip, protocol).is_some();
            if self.plan.policy.mid_stream == MidStream::Drop && !nodes.iter().flatten().any(knows)
            {
                client.give_up(self.now);
            }
        }
    }

    /// Nothing is left when all is over.
    fn drain(&mut self) {
        let end = self.now + 25_000;
        loop {
            self.run_until(self.now + 200);
            let left: Vec<_> = self
                .nodes
                .iter()
                .flatten()
                .flat_map(|n| n.sessions().into_iter().map(|row| (n.id, row)))
                .collect();
            if left.is_empty() {
                break;
            }
            assert!(
                self.now < end,
                "at {}: sessions are left: {left:?}, {:?}",
                self.now,
                self.nodes.iter().flatten().map(Node::summary).collect::<Vec<_>>()
            );
        }
        self.run_until(self.now + 1_500);
        assert_eq!(self.difference(), None, "at {}: in the end", self.now);
        for node in self.nodes.iter_mut().flatten() {
            for server in 0..2 * self.plan.servers {
                let server = shunt::session::ServerId(server as u16);
                let used: usize =
                    node.workers.iter().map(|w| w.pipeline().local_ports(server).0).sum();
                assert_eq!(used, 0, "node {}: local ports are left", node.id);
            }
            assert_eq!(node.count(|c| c.half_open.get()), 0, "node {}", node.id);
            assert_eq!(node.count(|c| c.sync.own_sessions.get()), 0, "node {}", node.id);
            assert_eq!(node.count(|c| c.sync.foreign_sessions.get()), 0, "node {}", node.id);
            for worker in &mut node.workers {
                let frames = worker.io().given_away();
                assert!(frames <= FRAMES, "a worker has {frames} frames");
            }
        }
    }
}
