//! The local endpoints of FullNAT on one worker: which LIPs lead to which real server, and a free
//! port on one of them.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::family::Family;
use super::snapshot::{BUCKETS, PortId, Snapshot};
use super::snat::state::SnatState;
use crate::session::ports::{Backend, LipPorts, Pools, Share};
use crate::session::{Entry, Mode, ServerId};
use crate::wire::toeplitz::Toeplitz;

/// How a server's sessions get their local endpoint.
#[derive(Clone, Debug, Default)]
struct Source {
    /// Position of the server among the backends.
    backend: usize,
    /// Positions of the LIPs of the port by which the server is reached.
    lips: std::ops::Range<usize>,
    /// The LIP that is tried first next time: sessions spread over all.
    turn: usize,
}

/// What the pools are made of: they are made anew only when it changes, not with the health or the
/// weight of a server, for listing the ports of a LIP takes a while.
#[derive(Debug, PartialEq)]
struct Basis<A> {
    node_id: u8,
    worker_of: [u8; BUCKETS],
    /// The LIPs, by their position in the pools.
    addresses: Vec<A>,
    backends: Vec<Backend<A>>,
}

/// The pools of one family on one worker.
#[derive(Debug)]
pub struct LocalPorts<A> {
    /// See [`Pools::beginning_at`].
    start: u64,
    basis: Option<Basis<A>>,
    pools: Pools<A>,
    /// By server; `None` for those that are not FullNAT of this family.
    sources: Vec<Option<Source>>,
    /// The endpoints of egress SNAT.
    pub snat: SnatState<A>,
}

impl<A: Family> LocalPorts<A> {
    /// Those of no server. `start` is that of [`Pools::beginning_at`].
    pub fn new(start: u64) -> Self {
        LocalPorts {
            start,
            basis: None,
            pools: Pools::new(Vec::new(), &[]),
            sources: Vec::new(),
            snat: SnatState::default(),
        }
    }

    /// Takes a new configuration; the ports in use stay so. `worker` owns the buckets.
    pub fn configure(&mut self, snapshot: &Snapshot, toeplitz: &Toeplitz, worker: u8) {
        // The LIPs of a port stand together, so that a server's are a range.
        let mut addresses = Vec::new();
        let mut ranges = Vec::new();
        for port in (0..snapshot.ports.len()).map(|port| PortId(port as u8)) {
            let own = addresses.len();
            addresses.extend_from_slice(A::lips(snapshot, port));
            let adopted = addresses.len();
            addresses.extend(A::adopted_lips(snapshot, port));
            ranges.push([own..adopted, adopted..addresses.len()]);
        }
        let shared = between_families(snapshot);
        let mut backends: Vec<Backend<A>> = Vec::new();
        let mut positions = HashMap::new();
        let sources = snapshot
            .servers
            .iter()
            .map(|server| {
                let service = &snapshot.services[usize::from(server.service.0)];
                let own = A::from_ip(server.address);
                let address = own.or(A::adopt(server.address).filter(|_| service.crossed))?;
                if service.mode != Mode::FullNat {
                    return None;
                }
                let share = match shared.contains(&(server.address, server.port)) {
                    true if own.is_none() => Share::Second,
                    true if !A::V6 => Share::First,
                    _ => Share::All,
                };
                let backend =
                    Backend { address, port: server.port, protocol: service.protocol, share };
                let position = *positions.entry(backend).or_insert_with(|| {
                    backends.push(backend);
                    backends.len() - 1
                });
                let [own_lips, adopted_lips] = &ranges[usize::from(server.route.port.0)];
                let lips = if own.is_some() { own_lips.clone() } else { adopted_lips.clone() };
                Some(Source { backend: position, lips, turn: 0 })
            })
            .collect();
        self.sources = sources;
        let basis =
            Basis { node_id: snapshot.node_id, worker_of: snapshot.worker_of, addresses, backends };
        if self.basis.as_ref() == Some(&basis) {
            return;
        }
        let owns = |bucket: usize| bucket < BUCKETS && snapshot.worker_of[bucket] == worker;
        let list = |&lip| {
            let bucket_of = |address, port| A::outer_bucket(toeplitz, address, port);
            Arc::new(LipPorts::new(lip, snapshot.node_id, owns, bucket_of))
        };
        let mut pools = Pools::new(basis.addresses.iter().map(list).collect(), &basis.backends)
            .beginning_at(self.start);
        pools.take_over(&mut self.pools);
        self.pools = pools;
        self.basis = Some(basis);
    }

    /// A free local endpoint towards the server, in the client's steering bucket. The LIPs of the
    /// port take turns.
    pub fn allocate(&mut self, server: ServerId, bucket: usize) -> Option<(A, u16)> {
        let source = self.sources.get_mut(usize::from(server.0))?.as_mut()?;
        let addresses = &self.basis.as_ref()?.addresses;
        let count = source.lips.len();
        for i in 0..count {
            let lip = source.lips.start + (source.turn + i) % count;
            if let Some(port) = self.pools.allocate(lip, source.backend, bucket) {
                source.turn = (source.turn + i + 1) % count;
                return Some((addresses[lip], port));
            }
        }
        None
    }

    /// Gives back the endpoint of a session that has ended; nothing to do in other modes.
    pub fn release(&mut self, entry: &Entry<A>) {
        match entry.mode {
            Mode::FullNat => self.give_back(entry.server_id, entry.local, entry.local_port),
            Mode::Snat => self.snat.release(entry),
            _ => {}
        }
    }

    /// Marks the endpoint of a session that the peer has made as in use, if it is one of those that are
    /// given out here.
    pub fn claim(&mut self, server: ServerId, local: A, port: u16) {
        if let Some(Some(source)) = self.sources.get(usize::from(server.0))
            && let Some(lip) = self.pools.find_lip(local)
        {
            self.pools.claim(lip, source.backend, port);
        }
    }

    /// Gives back an endpoint.
    pub fn give_back(&mut self, server: ServerId, local: A, port: u16) {
        if let Some(Some(source)) = self.sources.get(usize::from(server.0))
            && let Some(lip) = self.pools.find_lip(local)
        {
            self.pools.release(lip, source.backend, port);
        }
    }

    /// How many local ports are in use towards a server, and how many there are on this worker.
    pub fn usage(&self, server: ServerId) -> (usize, usize) {
        let Some(Some(source)) = self.sources.get(usize::from(server.0)) else { return (0, 0) };
        source.lips.clone().fold((0, 0), |(used, all), lip| {
            (
                used + self.pools.used(lip, source.backend),
                all + self.pools.capacity(lip, source.backend),
            )
        })
    }
}

/// The servers that sessions of both tables may lead to: each table then has its share of the ports
/// towards them, since neither sees what the other uses.
fn between_families(snapshot: &Snapshot) -> HashSet<(IpAddr, u16)> {
    snapshot
        .services
        .iter()
        .filter(|service| service.crossed)
        .flat_map(|service| &service.servers)
        .map(|id| &snapshot.servers[usize::from(id.0)])
        .map(|server| (server.address, server.port))
        .collect()
}
