//! The table against a list of sessions from which everything follows.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

type Endpoint = (Ipv4Addr, u16);

/// A session as the model keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Session {
    inside: Endpoint,
    pool: Endpoint,
    remote: Endpoint,
    protocol: Protocol,
    /// The mapping it belongs to, by number.
    mapping: usize,
}

/// A mapping as the model keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mapping {
    inside: Endpoint,
    pool: Endpoint,
    /// The remote endpoint it was opened towards.
    remote: Endpoint,
    protocol: Protocol,
    number: usize,
}

/// Whether two remote endpoints are the same to a behavior.
fn same(behavior: Behavior, a: Endpoint, b: Endpoint) -> bool {
    match behavior {
        Behavior::EndpointIndependent => true,
        Behavior::AddressDependent => a.0 == b.0,
        Behavior::AddressAndPortDependent => a == b,
    }
}

struct Model {
    policy: Policy,
    limit: Option<u32>,
    mappings: Vec<Mapping>,
    sessions: Vec<Session>,
    next: usize,
}

impl Model {
    fn is_free(&self, pool: Endpoint, remote: Endpoint, protocol: Protocol) -> bool {
        let bound = self.policy.mapping.min(self.policy.filtering);
        let taken =
            |m: &Mapping| m.pool == pool && m.protocol == protocol && same(bound, m.remote, remote);
        !self.mappings.iter().any(taken)
    }

    fn take(&mut self, key: &FlowKey<Ipv4Addr>, pools: &[Endpoint]) -> Result<Endpoint, Refusal> {
        let (inside, remote) = ((key.src, key.sport), (key.dst, key.dport));
        let found = self.mappings.iter().copied().find(|m| {
            m.inside == inside
                && m.protocol == key.protocol
                && same(self.policy.mapping, m.remote, remote)
        });
        let mapping = match found {
            Some(mapping) => mapping,
            None => {
                let held = self.mappings.iter().filter(|m| m.inside.0 == inside.0).count();
                if self.limit.is_some_and(|limit| held >= limit as usize) {
                    return Err(Refusal::SourceLimit);
                }
                if self.mappings.len() == CAPACITY {
                    return Err(Refusal::Full);
                }
                let free = pools.iter().find(|pool| self.is_free(**pool, remote, key.protocol));
                let pool = *free.ok_or(Refusal::Exhausted)?;
                let number = self.next;
                self.next += 1;
                let mapping = Mapping { inside, pool, remote, protocol: key.protocol, number };
                self.mappings.push(mapping);
                mapping
            }
        };
        self.session(mapping, remote);
        Ok(mapping.pool)
    }

    fn admit(&mut self, key: &FlowKey<Ipv4Addr>) -> Result<Endpoint, Refusal> {
        let (remote, pool) = ((key.src, key.sport), (key.dst, key.dport));
        let bound = self.policy.mapping.min(self.policy.filtering);
        let found = self.mappings.iter().copied().find(|m| {
            m.pool == pool && m.protocol == key.protocol && same(bound, m.remote, remote)
        });
        let mapping = found.ok_or(Refusal::NoMapping)?;
        // Whom has this inside endpoint a session with, by this mapping?
        let lets_in = match self.policy.filtering {
            Behavior::AddressAndPortDependent => false,
            filtering => {
                let of_mapping = |s: &&Session| s.mapping == mapping.number;
                self.sessions.iter().filter(of_mapping).any(|s| same(filtering, s.remote, remote))
            }
        };
        if !lets_in {
            return Err(Refusal::Filtered);
        }
        self.session(mapping, remote);
        Ok(mapping.inside)
    }

    fn session(&mut self, m: Mapping, remote: Endpoint) {
        let Mapping { inside, pool, protocol, number, .. } = m;
        self.sessions.push(Session { inside, pool, remote, protocol, mapping: number });
    }

    /// Whether such a session exists, so that its packets would not come here.
    fn has(
        &self,
        inside: Option<Endpoint>,
        pool: Option<Endpoint>,
        key: &FlowKey<Ipv4Addr>,
    ) -> bool {
        self.sessions.iter().any(|s| {
            let remote = if inside.is_some() { (key.dst, key.dport) } else { (key.src, key.sport) };
            s.remote == remote
                && s.protocol == key.protocol
                && inside.is_none_or(|i| s.inside == i)
                && pool.is_none_or(|p| s.pool == p)
        })
    }

    fn end(&mut self, at: usize) -> Session {
        let session = self.sessions.swap_remove(at);
        if !self.sessions.iter().any(|s| s.mapping == session.mapping) {
            self.mappings.retain(|m| m.number != session.mapping);
        }
        session
    }
}

const CAPACITY: usize = 24;

fn host(n: u8) -> Ipv4Addr {
    [10, 0, 0, n % 3].into()
}

fn remote(n: u8) -> Endpoint {
    ([198, 51, 100, n % 3].into(), u16::from(n / 3 % 3) + 1)
}

fn protocol(udp: bool) -> Protocol {
    if udp { Protocol::Udp } else { Protocol::Tcp }
}

#[derive(Clone, Debug)]
enum Step {
    Take { host: u8, port: u16, remote: u8, udp: bool },
    Admit { pool: usize, remote: u8, udp: bool },
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, 0u16..4, 0u8..9, any::<bool>())
            .prop_map(|(host, port, remote, udp)| Step::Take { host, port, remote, udp }),
        3 => (0usize..6, 0u8..9, any::<bool>())
            .prop_map(|(pool, remote, udp)| Step::Admit { pool, remote, udp }),
        2 => any::<usize>().prop_map(Step::End),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_the_model(
        steps in prop::collection::vec(step(), 0..300),
        mapping in 0usize..3,
        filtering in 0usize..3,
        limit in prop::option::of(1u32..6),
        few in 1usize..7,
    ) {
        let policy =
            Policy { mapping: Behavior::ALL[mapping], filtering: Behavior::ALL[filtering] };
        let pools: Vec<Endpoint> =
            (0..few as u16).map(|n| ([203, 0, 113, (n / 3) as u8].into(), 5000 + n % 3)).collect();
        let peers = Mappings::<Ipv4Addr>::needs_peers(policy);
        let mut table =
            Mappings::new(CAPACITY, 4, KeyHasher::new(5), limit.is_some(), peers);
        let mut model =
            Model { policy, limit, mappings: Vec::new(), sessions: Vec::new(), next: 0 };
        for step in steps {
            match step {
                Step::Take { host: h, port, remote: r, udp } => {
                    let (dst, dport) = remote(r);
                    let key = FlowKey { src: host(h), dst, sport: port, dport, protocol: protocol(udp) };
                    if model.has(Some((key.src, port)), None, &key) || model.sessions.len() == CAPACITY {
                        continue;
                    }
                    let request = Request { key, rule: 2, policy, limit };
                    prop_assert_eq!(
                        table.take(&request, pools.iter().copied()),
                        model.take(&key, &pools)
                    );
                }
                Step::Admit { pool, remote: r, udp } => {
                    let ((src, sport), (dst, dport)) = (remote(r), pools[pool % pools.len()]);
                    let key = FlowKey { src, dst, sport, dport, protocol: protocol(udp) };
                    if model.has(None, Some((dst, dport)), &key) || model.sessions.len() == CAPACITY {
                        continue;
                    }
                    prop_assert_eq!(table.admit(&key, policy), model.admit(&key));
                }
                Step::End(at) if !model.sessions.is_empty() => {
                    let s = model.end(at % model.sessions.len());
                    let (src, sport) = s.remote;
                    let (dst, dport) = s.pool;
                    table.release(s.inside, &FlowKey { src, dst, sport, dport, protocol: s.protocol });
                }
                Step::End(_) => {}
            }
            prop_assert_eq!(table.len(), model.mappings.len());
            prop_assert_eq!(table.of_rule(2) as usize, model.mappings.len());
            prop_assert_eq!(table.is_empty(), model.mappings.is_empty());
        }
        while !model.sessions.is_empty() {
            let s = model.end(0);
            let ((src, sport), (dst, dport)) = (s.remote, s.pool);
            table.release(s.inside, &FlowKey { src, dst, sport, dport, protocol: s.protocol });
        }
        prop_assert!(table.is_empty());
    }
}

fn request(policy: Policy, source: u8, port: u16) -> Request<Ipv4Addr> {
    let (dst, dport) = remote(0);
    let key = FlowKey { src: host(source), dst, sport: port, dport, protocol: Protocol::Udp };
    Request { key, rule: 0, policy, limit: None }
}

const FULL_CONE: Policy =
    Policy { mapping: Behavior::EndpointIndependent, filtering: Behavior::EndpointIndependent };

#[test]
fn a_full_table_refuses() {
    let mut table = Mappings::new(4, 1, KeyHasher::new(1), false, false);
    let pools: Vec<Endpoint> = (0..8).map(|n| ([203, 0, 113, 5].into(), n)).collect();
    for port in 0..4 {
        assert!(table.take(&request(FULL_CONE, 1, port), pools.clone()).is_ok());
    }
    assert_eq!(table.take(&request(FULL_CONE, 1, 4), pools.clone()), Err(Refusal::Full));
    let outer = pools[0];
    let (src, sport) = remote(0);
    let key = FlowKey { src, dst: outer.0, sport, dport: outer.1, protocol: Protocol::Udp };
    table.release((host(1), 0), &key);
    assert_eq!(table.take(&request(FULL_CONE, 1, 4), pools), Ok(outer));
}

/// A session may end after its rule has changed.
#[test]
fn what_ends_under_another_policy_is_found() {
    for mapping in Behavior::ALL {
        for filtering in Behavior::ALL {
            let policy = Policy { mapping, filtering };
            let mut table = Mappings::new(4, 1, KeyHasher::new(1), false, true);
            let outer = table.take(&request(policy, 1, 9), [([203, 0, 113, 5].into(), 5)]).unwrap();
            let (src, sport) = remote(0);
            let key = FlowKey { src, dst: outer.0, sport, dport: outer.1, protocol: Protocol::Udp };
            table.release((host(2), 9), &key);
            assert_eq!(table.len(), 1, "that is not its host");
            table.release((host(1), 9), &key);
            assert!(table.is_empty(), "{policy:?}");
        }
    }
}
