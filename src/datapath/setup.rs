//! What a worker's data path is built from, once.

use std::sync::Arc;

use super::counters::WorkerCounters;
use super::replica::PairSetup;

/// How to build a pipeline.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This worker's number, from 0.
    pub worker: u8,
    /// How many IPv4 sessions it can hold.
    pub sessions_v4: usize,
    /// How many IPv6 sessions it can hold.
    pub sessions_v6: usize,
    /// Secret of the session hash.
    pub seed: u64,
    /// Where FullNAT begins to give out local ports. Random: servers may still hold connections from
    /// those that the node gave out at its last start. 0 is the first port.
    pub ports_start: u64,
    /// The counters of all workers, this one's included; they are read where connections are
    /// limited. Empty when this one is alone.
    pub all_counters: Arc<[Arc<WorkerCounters>]>,
    /// Called with the address and length of each large block of memory before it is touched: the
    /// moment to ask for huge pages.
    pub advise: fn(usize, usize),
    /// Secret of the SYN cookies, the same for all workers of the node; those of a pair follow from its
    /// keys instead.
    pub cookie_secret: u128,
    /// Of a node that has a peer.
    pub pair: Option<PairSetup>,
}
