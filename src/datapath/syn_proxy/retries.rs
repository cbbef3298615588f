//! Servers that have not answered are asked again.

use std::collections::VecDeque;

use super::server::{originate, syn};
use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Lane;
use crate::datapath::shared::Shared;
use crate::session::{Direction, TcpState};
use crate::wire::flow::FlowKey;

/// When Shunt asks the server again by itself, in milliseconds after the time before.
pub(super) const RETRY_MS: [u32; 2] = [1000, 2000];

/// How many handshakes each of these timers has room for.
const RETRIES: usize = 1024;

/// Timers looked at per turn.
const RETRY_BUDGET: usize = 32;

/// A handshake with a server that is to be asked again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry<A> {
    pub(super) due: u32,
    pub(super) key: FlowKey<A>,
    pub(super) forward_end: u32,
    /// The client's timestamp.
    pub(super) timestamp: u32,
}

/// The timers of handshakes with servers: a queue for each of [`RETRY_MS`], in the order in which they
/// are due. What finds no room is not asked again but by the client.
#[derive(Debug)]
pub(in crate::datapath) struct Retries<A> {
    queues: [VecDeque<Retry<A>>; RETRY_MS.len()],
}

impl<A: Family> Retries<A> {
    /// None, and no room.
    pub(in crate::datapath) const fn new() -> Self {
        Retries { queues: [VecDeque::new(), VecDeque::new()] }
    }

    /// Makes room. Allocates.
    pub(in crate::datapath) fn reserve(&mut self) {
        for queue in &mut self.queues {
            queue.reserve_exact(RETRIES.saturating_sub(queue.len()));
        }
    }

    pub(super) fn push(&mut self, stage: usize, retry: Retry<A>) {
        if let Some(queue) = self.queues.get_mut(stage)
            && queue.len() < RETRIES.min(queue.capacity())
        {
            queue.push_back(retry);
        }
    }

    fn pop_due(&mut self, now: u32) -> Option<(usize, Retry<A>)> {
        self.queues.iter_mut().enumerate().find_map(|(stage, queue)| {
            let due = queue.front().is_some_and(|r| now.wrapping_sub(r.due) as i32 >= 0);
            Some((stage, due.then(|| queue.pop_front()).flatten()?))
        })
    }
}

/// Asks servers again that have not answered: a bounded amount of work.
pub(in crate::datapath) fn retry<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    now: u32,
) {
    for _ in 0..RETRY_BUDGET {
        let Some((stage, retry)) = lane.syn_retries.pop_due(now) else { break };
        ask_again(shared, lane, stage, retry, now);
    }
}

#[cold]
#[inline(never)]
fn ask_again<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    lane: &mut Lane<A>,
    stage: usize,
    retry: Retry<A>,
    now: u32,
) {
    let hash = lane.table.hash(&retry.key);
    let Some((id, Direction::Forward)) = lane.table.find(hash, &retry.key) else { return };
    let entry = *lane.table.get(id);
    if entry.state != TcpState::SynProxied || entry.forward_end != retry.forward_end {
        return;
    }
    let aside = lane.table.aside_mut(id);
    aside.shift_at = now;
    let syn = syn(&entry, aside, retry.timestamp).of(shared, entry.service);
    originate(shared, &entry, entry.forward_hop, &syn, Direction::Forward);
    if let Some(wait) = RETRY_MS.get(stage + 1) {
        lane.syn_retries.push(stage + 1, Retry { due: now.wrapping_add(*wait), ..retry });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::flow::Protocol;

    #[test]
    fn timers_are_bounded_and_in_order() {
        let retry = |n: usize| Retry {
            due: 1000u32.wrapping_neg().wrapping_add(n as u32),
            key: FlowKey {
                src: Ipv4Addr::from_bits(n as u32),
                dst: Ipv4Addr::LOCALHOST,
                sport: 1,
                dport: 2,
                protocol: Protocol::Tcp,
            },
            forward_end: 0,
            timestamp: 0,
        };
        let mut retries = Retries::<Ipv4Addr>::new();
        retries.push(0, retry(0));
        assert!(retries.pop_due(0).is_none(), "no room was made");
        retries.reserve();
        let room = retries.queues[0].capacity();
        for n in 0..RETRIES + 10 {
            retries.push(0, retry(n));
        }
        retries.push(1, retry(5));
        retries.push(2, retry(5));
        assert_eq!(retries.queues[0].len(), RETRIES);
        assert_eq!(retries.queues[0].capacity(), room, "it has not grown");
        assert!(retries.pop_due(1001u32.wrapping_neg()).is_none());
        let first = retries.pop_due(1000u32.wrapping_neg()).unwrap();
        assert_eq!((first.0, first.1.key.src), (0, Ipv4Addr::from_bits(0)));
        let rest: Vec<_> = std::iter::from_fn(|| retries.pop_due(5000)).collect();
        assert_eq!(rest.len(), RETRIES);
        assert_eq!((rest[RETRIES - 1].0, rest[RETRIES - 1].1.due), (1, retry(5).due));
        assert!(rest[..RETRIES - 1].is_sorted_by_key(|(_, r)| r.key.src));
    }
}
