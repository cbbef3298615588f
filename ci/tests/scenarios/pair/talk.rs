//! Conversations whose packets pass through either node, compared with single nodes that see all of
//! them: each node has to do with a packet exactly what one does that has seen the whole connection.

use std::net::SocketAddr;

use shunt::datapath::snapshot::PortId;

use super::{Pair, Wire, place, seed};
use crate::changes::Changes;
use crate::net::Net;
use crate::rig::{Rig, Sent};

pub struct Talk {
    pub pair: Pair,
    /// By node: one without a peer that has its addresses. It makes the choices of `opener`.
    pub single: [Rig; 2],
    pub opener: usize,
}

impl Talk {
    /// The sessions are opened on `opener`.
    pub fn new(
        workers: [usize; 2],
        wire: Wire,
        opener: usize,
        make: impl Fn(usize) -> Net + Clone + 'static,
    ) -> Self {
        let pair = Pair::new(workers, wire, make.clone());
        let single = [0, 1].map(|node| {
            let mut net = place(make(workers[opener]), node, wire);
            net.snapshot.node_id = opener as u8;
            let mut rig = Rig::build(net, 1000, seed(opener), None).warmed();
            // Both have node 0's clock, as the pair's cookies have.
            rig.now = pair.nodes[0].now;
            rig
        });
        let mut talk = Talk { pair, single, opener };
        for rig in &mut talk.single {
            rig.changes();
            rig.sent();
        }
        talk
    }

    /// A packet comes in at a node: it does what the one without a peer does. `make` makes the packet
    /// for a node; what both nodes' counters change beyond that is given. Returns what left.
    #[track_caller]
    pub fn send(
        &mut self,
        what: &str,
        node: usize,
        port: PortId,
        outer: SocketAddr,
        make: impl Fn(&Rig) -> Vec<u8>,
        [own, other]: [Changes; 2],
    ) -> Sent {
        let (expected, changes) = self.ask(node, port, &make);
        let bytes = make(&self.pair.nodes[node]);
        self.pair.step(
            what,
            node,
            (port, &bytes),
            Some(outer),
            &expected,
            [changes.with(&own), other],
        );
        self.pass();
        expected
    }

    /// The packet opens a session: the other node hears of it before anything leaves.
    #[track_caller]
    pub fn open(
        &mut self,
        what: &str,
        node: usize,
        port: PortId,
        outer: SocketAddr,
        make: impl Fn(&Rig) -> Vec<u8>,
    ) -> Sent {
        let sent = self.open_untold(what, node, port, outer, make);
        self.pair.assert_told_first(node);
        sent
    }

    #[track_caller]
    pub fn open_untold(
        &mut self,
        what: &str,
        node: usize,
        port: PortId,
        outer: SocketAddr,
        make: impl Fn(&Rig) -> Vec<u8>,
    ) -> Sent {
        let (expected, changes) = self.ask(node, port, &make);
        let sessions = changes.clone().of_sessions();
        assert!(sessions != Changes::none(), "{what}: no session was opened");
        let own = changes.add("sync.own_sessions", 1);
        let other = sessions.add("sync.foreign_sessions", 1).add("sync.imported", 1);
        let bytes = make(&self.pair.nodes[node]);
        self.pair.step(what, node, (port, &bytes), Some(outer), &expected, [own, other]);
        self.pass();
        expected
    }

    /// What the single nodes make of a packet: what the one that stands for `node` sends, and what
    /// changes there. The time of `Pair::step` has still to pass.
    fn ask(
        &mut self,
        node: usize,
        port: PortId,
        make: impl Fn(&Rig) -> Vec<u8>,
    ) -> (Sent, Changes) {
        let mut answers = [0, 1].map(|n| {
            let rig = &mut self.single[n];
            rig.changes();
            let bytes = make(rig);
            rig.arrive(shunt::io::memory::MemoryFrame::new(port, &bytes));
            rig.settle();
            let sent = rig.sent_in_order();
            let changes = rig.changes();
            let p = port.0;
            // The pair's step adds what was received and handed over.
            let changes = changes
                .without("handed_")
                .add("rx", -1)
                .add(format!("port{p}.rx_packets"), -1)
                .add(format!("port{p}.rx_bytes"), -(bytes.len() as i64));
            (sent, changes)
        });
        std::mem::take(&mut answers[node])
    }

    /// Time passes for all of them.
    pub fn wait(&mut self, ms: u32) {
        self.pair.pass(ms, 10);
        for rig in &mut self.single {
            rig.pass(ms);
        }
    }

    fn pass(&mut self) {
        for rig in &mut self.single {
            rig.now = rig.now.wrapping_add(1);
            rig.settle();
        }
    }
}
