//! The local ports of FullNAT (design §3).
//!
//! A reply from a real server goes to (LIP, local port), and it must reach the worker that owns the
//! session: so the local port is chosen such that (LIP, port) falls into the same steering bucket
//! as the client. [`LipPorts`] lists, once per LIP, which ports those are. [`Pools`] keeps, for each
//! pair of a LIP and a [`Backend`], which of them are in use; one port serves many backends at the
//! same time.
//!
//! All memory is allocated by the constructors. Allocation looks at the few words of the bucket's
//! bitmap (about 250 ports), also when it is exhausted. Ports are taken in turn, so that a port
//! rests as long as possible before its next use (the server may hold it in TIME-WAIT); where that
//! begins should be another place at each start of a node ([`Pools::beginning_at`]).

use std::sync::Arc;

use hashbrown::HashMap;

use super::key::split_mix;
use crate::wire::flow::{Address, Protocol};
use crate::wire::toeplitz::BUCKETS;

/// The lowest local port that is given out.
pub const FIRST_PORT: u16 = 1024;
/// No position.
const NONE: u16 = u16::MAX;

/// The local ports of one LIP that this node may use (those whose lowest bit is its node id), by
/// steering bucket. Each has a position; the positions of a bucket begin at a multiple of 64.
#[derive(Debug)]
pub struct LipPorts<A> {
    lip: A,
    /// Position of the first port of each bucket, in units of 64; one more for the end.
    starts: [u16; BUCKETS + 1],
    /// By position; 0 where there is no port.
    ports: Box<[u16]>,
    /// By port / 2; [`NONE`] for a port that is not ours.
    positions: Box<[u16]>,
    /// A set bit for each position without a port, so that it never looks free.
    blocked: Box<[u64]>,
    count: u32,
}

impl<A: Address> LipPorts<A> {
    /// Lists the ports of `lip` for the node with this id (0 or 1). `bucket_of` gives the steering
    /// bucket, below 128, of an address and port; buckets that `owns` denies get no ports: a worker
    /// needs only its own.
    pub fn new(
        lip: A,
        node_id: u8,
        owns: impl Fn(usize) -> bool,
        bucket_of: impl Fn(A, u16) -> usize,
    ) -> Self {
        let mut by_bucket = vec![Vec::new(); BUCKETS];
        for port in (FIRST_PORT..=u16::MAX).filter(|port| port & 1 == u16::from(node_id)) {
            let bucket = bucket_of(lip, port);
            if owns(bucket) {
                by_bucket[bucket].push(port);
            }
        }
        let (mut starts, mut ports) = ([0; BUCKETS + 1], Vec::new());
        let (mut positions, mut count) = (vec![NONE; 1 << 15].into_boxed_slice(), 0);
        for (bucket, list) in by_bucket.into_iter().enumerate() {
            starts[bucket] = (ports.len() / 64) as u16;
            for port in list {
                positions[usize::from(port / 2)] = ports.len() as u16;
                ports.push(port);
                count += 1;
            }
            ports.resize(ports.len().next_multiple_of(64), 0);
        }
        starts[BUCKETS] = (ports.len() / 64) as u16;
        let blocked = ports
            .chunks(64)
            .map(|chunk| (0..64).filter(|&bit| chunk[bit] == 0).fold(0, |w, bit| w | 1 << bit))
            .collect();
        LipPorts { lip, starts, ports: ports.into(), positions, blocked, count }
    }

    /// The address.
    pub fn lip(&self) -> A {
        self.lip
    }

    /// How many ports of a bucket there are.
    pub fn in_bucket(&self, bucket: usize) -> usize {
        self.ports[self.words(bucket).start * 64..self.words(bucket).end * 64]
            .iter()
            .filter(|&&port| port != 0)
            .count()
    }

    /// The words of a bitmap that belong to a bucket.
    fn words(&self, bucket: usize) -> std::ops::Range<usize> {
        usize::from(self.starts[bucket])..usize::from(self.starts[bucket + 1])
    }

    /// The position of a port, if it is one of ours.
    fn position(&self, port: u16) -> Option<usize> {
        let position = self.positions[usize::from(port / 2)];
        (position != NONE && self.ports[usize::from(position)] == port)
            .then_some(usize::from(position))
    }
}

/// A real server as the ports see it: several services with the same one share its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend<A> {
    /// RIP.
    pub address: A,
    /// rport.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Which ports towards it are given out here.
    pub share: Share,
}

/// Which ports towards a backend are given out by these pools, where other pools give out the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Share {
    /// All of this node's.
    #[default]
    All,
    /// Those whose second lowest bit is 0.
    First,
    /// Those whose second lowest bit is 1.
    Second,
}

impl Share {
    const fn has(self, port: u16) -> bool {
        match self {
            Share::All => true,
            Share::First => port & 2 == 0,
            Share::Second => port & 2 != 0,
        }
    }
}

/// The ports in use of one LIP towards one backend.
#[derive(Debug)]
struct Pool {
    /// By position.
    used: Box<[u64]>,
    /// Per bucket: the position within the bucket where the search begins.
    cursors: Box<[u16; BUCKETS]>,
    /// How many ports are in use.
    count: u32,
    /// How many there are.
    capacity: u32,
    share: Share,
}

/// All pools of one worker and address family. LIPs and backends are named by their positions in
/// the lists given to [`Pools::new`].
#[derive(Debug)]
pub struct Pools<A> {
    lips: Vec<Arc<LipPorts<A>>>,
    backends: HashMap<Backend<A>, usize>,
    /// LIP by LIP, in it backend by backend.
    pools: Vec<Pool>,
    /// The length of the list of backends.
    stride: usize,
}

impl<A: Address> Pools<A> {
    /// Pools with no port in use: about 5 kB for each pair when all buckets are owned, in
    /// proportion less for a part of them. A backend that stands twice in the list is found at its
    /// first position.
    pub fn new(lips: Vec<Arc<LipPorts<A>>>, backends: &[Backend<A>]) -> Self {
        let mut positions = HashMap::with_capacity(backends.len());
        for (i, backend) in backends.iter().enumerate() {
            positions.entry(*backend).or_insert(i);
        }
        let pools = lips
            .iter()
            .flat_map(|lip| backends.iter().map(|backend| Pool::new(lip, backend.share)))
            .collect();
        Pools { lips, backends: positions, pools, stride: backends.len() }
    }

    /// Begins the turns at a place that follows from `start`; 0 is the first port. A node that has just
    /// begun would otherwise give out again what it gave out first the last time.
    #[must_use]
    pub fn beginning_at(mut self, start: u64) -> Self {
        if start == 0 {
            return self;
        }
        let lips = self.lips.iter().flat_map(|lip| std::iter::repeat_n(lip, self.stride));
        for (pool, lip) in self.pools.iter_mut().zip(lips) {
            let mut state = start;
            for (bucket, cursor) in pool.cursors.iter_mut().enumerate() {
                let places = (lip.words(bucket).len() * 64) as u64;
                *cursor = split_mix(&mut state).checked_rem(places).unwrap_or(0) as u16;
            }
        }
        self
    }

    /// The position of a LIP.
    pub fn find_lip(&self, address: A) -> Option<usize> {
        self.lips.iter().position(|lip| lip.lip == address)
    }

    /// The position of a backend.
    pub fn find_backend(&self, backend: &Backend<A>) -> Option<usize> {
        self.backends.get(backend).copied()
    }

    /// Takes a free port whose (LIP, port) is in `bucket`. `None` when all are in use.
    pub fn allocate(&mut self, lip: usize, backend: usize, bucket: usize) -> Option<u16> {
        let ports = &self.lips[lip];
        let pool = &mut self.pools[lip * self.stride + backend];
        let words = ports.words(bucket);
        let cursor = usize::from(pool.cursors[bucket]);
        let first = words.start + cursor / 64;
        // From the cursor to the end, then from the beginning up to and with the cursor's word.
        let before_cursor = (1u64 << (cursor % 64)) - 1;
        let (word, free) = (first..words.end)
            .map(|w| (w, if w == first { before_cursor } else { 0 }))
            .chain((words.start..words.end.min(first + 1)).map(|w| (w, 0)))
            .map(|(w, mask)| (w, !(pool.used[w] | mask)))
            .find(|&(_, free)| free != 0)?;
        let position = word * 64 + free.trailing_zeros() as usize;
        pool.used[word] |= 1 << (position % 64);
        pool.count += 1;
        let following = position + 1 - words.start * 64;
        pool.cursors[bucket] = if following < words.len() * 64 { following as u16 } else { 0 };
        Some(ports.ports[position])
    }

    /// Gives a port back. `false` when it was not in use.
    pub fn release(&mut self, lip: usize, backend: usize, port: u16) -> bool {
        self.set_used(lip, backend, port, false)
    }

    /// Marks a port as in use that was not allocated here (a session learnt from the peer).
    /// `false` when it is in use already or not a port of this node and these buckets.
    pub fn claim(&mut self, lip: usize, backend: usize, port: u16) -> bool {
        self.set_used(lip, backend, port, true)
    }

    /// How many ports are in use.
    pub fn used(&self, lip: usize, backend: usize) -> usize {
        self.pools[lip * self.stride + backend].count as usize
    }

    /// How many ports there are, over all owned buckets.
    pub fn capacity(&self, lip: usize, backend: usize) -> usize {
        self.pools[lip * self.stride + backend].capacity as usize
    }

    /// Takes over which ports are in use from the pools of the configuration before, for the pairs
    /// of LIP and backend that both know. Where the LIP has the same ports as before this moves
    /// the bitmaps, so it costs a worker little; `old` is left without meaning, to be dropped by
    /// who may free memory.
    pub fn take_over(&mut self, old: &mut Pools<A>) {
        for (l, lip) in self.lips.iter().enumerate() {
            let Some(old_l) = old.find_lip(lip.lip) else { continue };
            let same_ports = lip.ports == old.lips[old_l].ports;
            for (backend, &b) in &self.backends {
                let Some(old_b) = old.find_backend(backend) else { continue };
                let from = &mut old.pools[old_l * old.stride + old_b];
                let to = &mut self.pools[l * self.stride + b];
                if same_ports {
                    std::mem::swap(to, from);
                } else {
                    to.claim_all(lip, from, &old.lips[old_l]);
                }
            }
        }
    }

    fn set_used(&mut self, lip: usize, backend: usize, port: u16, used: bool) -> bool {
        let Some(position) = self.lips[lip].position(port) else { return false };
        let pool = &mut self.pools[lip * self.stride + backend];
        pool.share.has(port) && pool.set(position, used)
    }
}

impl Pool {
    fn new<A>(ports: &LipPorts<A>, share: Share) -> Self {
        let (mut used, mut capacity) = (ports.blocked.clone(), ports.count);
        if share != Share::All {
            let others = |&(_, port): &(usize, &u16)| *port != 0 && !share.has(*port);
            for (position, _) in ports.ports.iter().enumerate().filter(others) {
                used[position / 64] |= 1 << (position % 64);
                capacity -= 1;
            }
        }
        Pool { used, cursors: Box::new([0; BUCKETS]), count: 0, capacity, share }
    }

    /// `false` when it was so already.
    fn set(&mut self, position: usize, used: bool) -> bool {
        let (word, bit) = (&mut self.used[position / 64], 1 << (position % 64));
        if (*word & bit != 0) == used {
            return false;
        }
        *word ^= bit;
        self.count = if used { self.count + 1 } else { self.count - 1 };
        true
    }

    /// Marks the ports that `old` has in use, as far as they are among `ports`.
    fn claim_all<A: Address>(&mut self, ports: &LipPorts<A>, old: &Pool, old_ports: &LipPorts<A>) {
        for (position, &port) in old_ports.ports.iter().enumerate() {
            if port != 0
                && old.used[position / 64] & 1 << (position % 64) != 0
                && let Some(position) = ports.position(port)
            {
                self.set(position, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    const LIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

    fn bucket_of(lip: Ipv4Addr, port: u16) -> usize {
        (u32::from(lip).wrapping_add(u32::from(port)).wrapping_mul(0x9e37_79b1) >> 25) as usize
    }

    fn ports(lip: Ipv4Addr, node_id: u8) -> Arc<LipPorts<Ipv4Addr>> {
        Arc::new(LipPorts::new(lip, node_id, |_| true, bucket_of))
    }

    fn backend(n: u8) -> Backend<Ipv4Addr> {
        Backend {
            address: Ipv4Addr::new(10, 0, 0, n),
            port: 80,
            protocol: Protocol::Tcp,
            share: Share::All,
        }
    }

    fn pools() -> Pools<Ipv4Addr> {
        Pools::new(vec![ports(LIP, 1)], &[backend(1), backend(2)])
    }

    #[test]
    fn another_start_gives_other_ports_first() {
        let first = |start: u64| -> Vec<u16> {
            let mut pools = pools().beginning_at(start);
            (0..BUCKETS).map(|bucket| pools.allocate(0, 1, bucket).unwrap()).collect()
        };
        assert_eq!(first(0), first(0));
        assert_eq!(first(7), first(7));
        let unlike = |a: u64, b: u64| {
            first(a).into_iter().zip(first(b)).filter(|(one, other)| one != other).count()
        };
        for (a, b) in [(0, 1), (1, 2), (7, u64::MAX), (1 << 40, 1 << 41)] {
            assert!(unlike(a, b) > BUCKETS / 2, "{a} and {b}: {}", unlike(a, b));
        }
        // None is left out.
        let mut pools = pools().beginning_at(7);
        let mut seen = HashSet::new();
        while let Some(port) = pools.allocate(0, 0, 5) {
            assert!(seen.insert(port));
        }
        assert_eq!(seen.len(), ports(LIP, 1).in_bucket(5));
    }

    #[test]
    fn the_nodes_share_all_ports_between_them() {
        let mut seen = HashSet::new();
        for node_id in [0, 1] {
            let pools = Pools::new(vec![ports(LIP, node_id)], &[backend(1)]);
            assert_eq!(pools.capacity(0, 0), 32_256);
            let ports = &pools.lips[0];
            for bucket in 0..BUCKETS {
                let words = ports.words(bucket);
                let list = &ports.ports[words.start * 64..words.end * 64];
                for &port in list.iter().filter(|&&port| port != 0) {
                    assert_eq!(port & 1, u16::from(node_id));
                    assert_eq!(bucket_of(LIP, port), bucket);
                    assert!(port >= 1024 && seen.insert(port));
                }
            }
        }
        assert_eq!(seen.len(), 64_512);
    }

    #[test]
    fn each_port_once_then_none_until_one_comes_back() {
        let mut pools = pools();
        for bucket in [0, 5, 127] {
            let capacity = pools.lips[0].in_bucket(bucket);
            assert!(capacity > 200);
            let before = pools.used(0, 0);
            let given: HashSet<u16> =
                (0..capacity).map(|_| pools.allocate(0, 0, bucket).unwrap()).collect();
            assert_eq!(given.len(), capacity);
            assert!(given.iter().all(|&p| bucket_of(LIP, p) == bucket && p & 1 == 1 && p >= 1024));
            assert_eq!(pools.allocate(0, 0, bucket), None);
            assert_eq!(pools.used(0, 0), before + capacity);
            // The other backend's ports are its own.
            assert!(pools.allocate(0, 1, bucket).is_some());

            for port in given.iter().copied().take(3) {
                assert!(pools.release(0, 0, port));
                assert!(!pools.release(0, 0, port));
                assert_eq!(pools.allocate(0, 0, bucket), Some(port));
                assert_eq!(pools.allocate(0, 0, bucket), None);
            }
        }
    }

    #[test]
    fn a_port_rests_until_the_others_had_their_turn() {
        let mut pools = pools();
        let capacity = pools.lips[0].in_bucket(9);
        let mut order = Vec::new();
        for _ in 0..2 * capacity {
            let port = pools.allocate(0, 0, 9).unwrap();
            pools.release(0, 0, port);
            order.push(port);
        }
        assert_eq!(order[..capacity], order[capacity..]);
        assert_eq!(order[..capacity].iter().collect::<HashSet<_>>().len(), capacity);
        assert_eq!(pools.used(0, 0), 0);
    }

    #[test]
    fn claimed_ports_are_not_given_out() {
        let mut pools = pools();
        let port = pools.allocate(0, 1, 77).unwrap();
        assert!(pools.claim(0, 0, port));
        assert!(!pools.claim(0, 0, port));
        assert!(!pools.claim(0, 0, port & !1), "a port of the other node");
        assert!(!pools.claim(0, 0, 1023), "a reserved port");
        assert!(!pools.release(0, 0, port & !1));
        for _ in 1..pools.lips[0].in_bucket(77) {
            assert_ne!(pools.allocate(0, 0, 77).unwrap(), port);
        }
        assert_eq!(pools.allocate(0, 0, 77), None);
    }

    #[test]
    fn a_worker_has_the_ports_of_its_buckets_only() {
        let mine = LipPorts::new(LIP, 0, |bucket| bucket % 2 == 0, bucket_of);
        let (even, odd) = (mine.in_bucket(4), mine.in_bucket(5));
        assert!(even > 200 && odd == 0);
        let mut pools = Pools::new(vec![Arc::new(mine)], &[backend(1)]);
        assert!(pools.allocate(0, 0, 4).is_some());
        assert_eq!(pools.allocate(0, 0, 5), None);
    }

    #[test]
    fn ports_in_use_survive_a_new_configuration() {
        let other = Ipv4Addr::new(192, 0, 2, 201);
        let mut old = Pools::new(vec![ports(LIP, 0), ports(other, 0)], &[backend(1), backend(2)]);
        let kept: Vec<u16> = (0..100).map(|i| old.allocate(1, 1, i % 128).unwrap()).collect();
        old.allocate(0, 0, 3).unwrap();
        // The order changes, LIP and backend 1 go, others come.
        let even = Arc::new(LipPorts::new(other, 0, |bucket| bucket % 2 == 0, bucket_of));
        for (lip, expected) in [(ports(other, 0), 100), (even, 50)] {
            let mut new = Pools::new(vec![lip], &[backend(3), backend(2)]);
            new.take_over(&mut old);
            assert_eq!(new.find_lip(LIP), None);
            assert_eq!(new.find_backend(&backend(2)), Some(1));
            assert_eq!((new.used(0, 0), new.used(0, 1)), (0, expected));
            let held = kept.iter().filter(|&&port| !new.claim(0, 1, port)).count();
            assert_eq!(held, 100); // in use, or in a bucket that went to another worker
            for &port in &kept {
                let mine = expected == 100 || bucket_of(other, port).is_multiple_of(2);
                assert_eq!(new.release(0, 1, port), mine);
            }
            assert_eq!(new.used(0, 1), 0);
            // For the second round: as it was.
            for &port in &kept {
                new.claim(0, 1, port);
                old.claim(1, 1, port);
            }
        }
    }

    proptest::proptest! {
        /// Random allocations, claims and releases against a set.
        #[test]
        fn pools_keep_a_set(ops in proptest::collection::vec((0u8..4, 0usize..3, 0u16..=u16::MAX), 1..2000)) {
            let mut pools = pools();
            let mut model = HashSet::new();
            let mut given = Vec::new();
            for (op, bucket, x) in ops {
                match op {
                    0 | 1 => match pools.allocate(0, 0, bucket) {
                        Some(port) => {
                            assert!(model.insert(port));
                            given.push(port);
                        }
                        None => assert_eq!(
                            model.iter().filter(|&&p| bucket_of(LIP, p) == bucket).count(),
                            pools.lips[0].in_bucket(bucket)
                        ),
                    },
                    2 if !given.is_empty() => {
                        let port = given.swap_remove(usize::from(x) % given.len());
                        assert_eq!(pools.release(0, 0, port), model.remove(&port));
                    }
                    _ => {
                        let ours = x >= 1024 && x & 1 == 1;
                        assert_eq!(pools.claim(0, 0, x), ours && model.insert(x));
                    }
                }
                assert_eq!(pools.used(0, 0), model.len());
            }
        }
    }
}
