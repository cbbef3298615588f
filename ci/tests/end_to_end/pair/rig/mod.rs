//! A pair of Shunt nodes between a client and real servers, each in a network namespace.
//!
//! [`fabric`] draws the network. It is used by the end-to-end tests of two nodes and, as it is, by
//! `perf/failover`.

pub(crate) mod arp;
pub(crate) mod backend;
pub(crate) mod config;
pub(crate) mod download;
pub(crate) mod fabric;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod storm;
pub(crate) mod view;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::namespace::Namespace;

pub(crate) use self::backend::Backend;
pub(crate) use self::config::{Forwarding, Plan};
pub(crate) use self::download::Download;
pub(crate) use self::fabric::Fabric;
pub(crate) use self::load::{Load, LoadPlan};
pub(crate) use self::node::{Node, PATIENCE};

/// The key of a pair: nobody's but this rig's.
pub(crate) const KEY: &str =
    "# the key of a test\n5b1f0a3c9d7e2648b05a1cf37d9e8042611b5d3ea0c4f8729ab36de14c05f7e8\n";

/// A whole installation. Dropping it ends what it started, and nothing else.
#[derive(Debug)]
pub(crate) struct Pair {
    // Processes before the network they live in.
    pub(crate) nodes: [Node; 2],
    pub(crate) servers: Vec<Backend>,
    pub(crate) fabric: Fabric,
    pub(crate) plan: Plan,
    directory: Option<TempDir>,
}

impl Pair {
    /// The network and the servers; the nodes are configured and do not run.
    pub(crate) fn new(plan: Plan) -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let directory =
            tempfile::Builder::new().prefix("shunt-pair-").tempdir().expect("a directory");
        let fabric = Fabric::new(format!("shunt-pair-{}-{number}", std::process::id()));
        let nodes = [0, 1].map(|n| {
            let files = directory.path().join(format!("node{n}"));
            let node = Node::new(n, &plan.shunt, files, fabric.node(&plan, n));
            node.configure(&plan.config(n, &node.directory), KEY);
            node
        });
        let servers = (1..=plan.servers)
            .map(|n| {
                let namespace = fabric.server(&plan, n);
                let web_port = plan.forwarding.web_port();
                Backend::start(&format!("server{n}"), namespace, web_port, directory.path())
            })
            .collect();
        Pair { nodes, servers, fabric, plan, directory: Some(directory) }
    }

    /// The same with both nodes running: node 0, of the higher priority, is active, and each has
    /// what the other has.
    pub(crate) fn start(plan: Plan) -> Self {
        let mut pair = Pair::new(plan);
        pair.nodes.iter_mut().for_each(Node::spawn);
        pair.nodes.iter_mut().for_each(Node::wait_ready);
        pair.wait_settled(0);
        pair
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.as_ref().expect("kept until the end").path().to_owned()
    }

    /// Waits until `node` is the only master and both have all sessions.
    pub(crate) fn wait_settled(&mut self, node: usize) {
        self.wait_for(&format!("node {node} is the only master"), |pair| pair.active() == [node]);
        self.wait_for("both nodes have all sessions", |pair| pair.both_synced());
    }

    /// The nodes that say they are master.
    pub(crate) fn active(&self) -> Vec<usize> {
        (0..2).filter(|n| self.nodes[*n].is_master()).collect()
    }

    /// The nodes whose MAC address answers for the VIP, or, where it is that of the virtual router,
    /// behind whose cable it was seen: as the client knows it, not as Shunt says. More than one answer
    /// to one question is more than one master.
    pub(crate) fn answering(&self) -> Vec<String> {
        self.answering_for(config::VIPS[0])
    }

    /// The same for another virtual address.
    pub(crate) fn answering_for(&self, vip: &str) -> Vec<String> {
        let vip = vip.parse().expect("an IPv4 address");
        let answers = arp::answers(&self.fabric, vip);
        let whose = |mac: &[u8; 6]| {
            let node = (0..2).find(|node| config::mac(*node, "front") == *mac);
            match node {
                Some(node) => format!("front{node}"),
                None => self.fabric.port_of(*mac).unwrap_or_else(|| fabric::text(*mac)),
            }
        };
        answers.iter().map(whose).collect()
    }

    /// Exactly this node answers for the VIP.
    pub(crate) fn assert_answering(&self, node: usize) {
        assert_eq!(self.answering(), [format!("front{node}")], "who answers for the VIP");
    }

    /// Sends clients to node 0 and the servers' replies to node 1, whatever the nodes say: no packet's
    /// answer comes by the way the packet went. For active/active and fullnat.
    pub(crate) fn asymmetric(&self) {
        let to = |namespace: &Namespace, address: &str, mac: [u8; 6]| {
            let mac = fabric::text(mac);
            namespace.ip(&format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"));
        };
        for vip in config::VIPS {
            to(&self.fabric.client, vip, config::mac(0, "front"));
        }
        for server in &self.servers {
            for local in config::LOCALS {
                to(&server.namespace, local, config::mac(1, "back"));
            }
        }
    }

    /// Whether each node has all sessions of the other, which it hears.
    pub(crate) fn both_synced(&self) -> bool {
        self.nodes.iter().all(|node| node.ha().is_some_and(|ha| ha.has_peer() && ha.is_synced()))
    }

    /// Packets in mid-stream that a node without their session gave to the other.
    pub(crate) fn corrections(&self) -> u64 {
        self.nodes.iter().filter_map(Node::ha).map(|ha| ha.counter("relayed_packets")).sum()
    }

    /// Held connections, and new ones besides.
    pub(crate) fn load(&self, held: usize, pace: Duration, new_every: Duration) -> Load {
        let to = self.plan.families().map(|f| config::listen(backend::LINES)[f]).collect();
        Load::start(&self.fabric.client, LoadPlan { to, held, pace, new_every })
    }

    /// A download that takes `seconds` or a little longer, of `megabytes`.
    pub(crate) fn download(&self, megabytes: usize, seconds: usize) -> Download {
        let [download] = self.downloads([config::VIPS[0]], megabytes, seconds);
        download
    }

    /// The same from each of these virtual addresses, at the same time.
    pub(crate) fn downloads<const N: usize>(
        &self,
        vips: [&str; N],
        megabytes: usize,
        seconds: usize,
    ) -> [Download; N] {
        let original = download::make_file(&self.directory(), megabytes);
        let megabytes = megabytes.div_ceil(seconds);
        vips.map(|vip| Download::start(&self.fabric.client, vip, original.clone(), megabytes))
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Pair) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of every test: all packets accounted for, a clean stop, and no tap left behind.
    pub(crate) fn finish(mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            node.assert_balanced();
            node.ask_to_stop();
        }
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            let status = node.wait_end();
            assert_eq!(status.code(), Some(0), "exit status of node {}", node.number);
            node.assert_no_taps();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.nodes.iter().for_each(Node::tell);
        if let Some(directory) = self.directory.take() {
            eprintln!("--- logs and configuration are kept in {}", directory.keep().display());
        }
    }
}
