//! The rules of egress SNAT and what the data path looks up in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use crate::datapath::family::Family;
use crate::datapath::policy::{MidStream, OnServerDown, Policy as SessionPolicy};
use crate::datapath::snapshot::{LocalAddress, PortId, Server, Service, Snapshot, Timeouts};
use crate::session::mappings::{Behavior, Policy};
use crate::session::{Mode, ServerId, ServiceId};
use crate::wire::flow::{Address, FlowKey, Protocol};

/// The most rules a node can have.
pub const MAX_SNATS: usize = 64;

/// Its sessions have no server that goes down, and end in silence.
const NO_POLICY: SessionPolicy = SessionPolicy {
    mid_stream: MidStream::Drop,
    reset_on_expiry: false,
    on_server_down: OnServerDown::Keep,
    mss: 0,
    dscp: None,
};

/// A rule: who is translated to what.
#[derive(Clone, Debug)]
pub struct Snat {
    /// Its name in the configuration.
    pub name: String,
    /// The hosts inside.
    pub sources: Vec<IpNet>,
    /// The addresses they get, and the port of each that answers for it.
    pub pool: Vec<(IpAddr, PortId)>,
    /// The ports they get.
    pub ports: RangeInclusive<u16>,
    /// How it behaves.
    pub policy: Policy,
    /// The most ports of the pool a host may hold, over all workers; 0 for no limit.
    pub ports_per_source: u32,
    /// Whether hosts inside reach each other by the pool.
    pub hairpin: bool,
    /// Ports that are open to everybody.
    pub forwards: Vec<Forward>,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

/// A forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Transport protocol.
    pub protocol: Protocol,
    /// An address of the pool and a port.
    pub external: SocketAddr,
    /// Who gets its packets.
    pub internal: SocketAddr,
}

impl Default for Snat {
    fn default() -> Self {
        Snat {
            name: String::new(),
            sources: Vec::new(),
            pool: Vec::new(),
            ports: 1024..=u16::MAX,
            policy: Policy {
                mapping: Behavior::EndpointIndependent,
                filtering: Behavior::AddressAndPortDependent,
            },
            ports_per_source: 0,
            hairpin: true,
            forwards: Vec::new(),
            timeouts: Timeouts::default(),
        }
    }
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct SnatRules {
    list: Vec<Snat>,
    pub(crate) v4: Inside<Ipv4Addr>,
    pub(crate) v6: Inside<Ipv6Addr>,
    first_service: u16,
    first_server: u16,
}

/// What the data path looks up, in one family.
#[derive(Clone, Debug)]
pub struct Inside<A> {
    sources: Vec<(IpNet, u16)>,
    /// The rule of each address of a pool.
    pools: HashMap<A, u16>,
    /// The pool of each rule.
    pub(super) pool_of: Vec<Vec<A>>,
    /// From external to internal endpoints of forwarded ports.
    pub(super) external: HashMap<(A, u16, Protocol), (A, u16)>,
    /// The other way round.
    pub(super) internal: HashMap<(A, u16, Protocol), (A, u16)>,
    /// Where real servers answer clients from: such a packet may be an answer.
    servers: HashSet<(A, u16)>,
}

impl<A> Default for Inside<A> {
    fn default() -> Self {
        Inside {
            sources: Vec::new(),
            pools: HashMap::new(),
            pool_of: Vec::new(),
            external: HashMap::new(),
            internal: HashMap::new(),
            servers: HashSet::new(),
        }
    }
}

impl SnatRules {
    /// Whether there is no rule.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The rules, in the order of the configuration.
    pub fn list(&self) -> &[Snat] {
        &self.list
    }

    /// The entry among the services that sessions of a rule have: its name and timeouts.
    pub fn service_id(&self, rule: u16) -> ServiceId {
        ServiceId(self.first_service + rule)
    }

    /// The entry among the servers by which sessions of a rule are counted: those opened from
    /// inside, and those from outside.
    pub fn server_id(&self, rule: u16, from_inside: bool) -> ServerId {
        ServerId(self.first_server + 2 * rule + u16::from(!from_inside))
    }

    /// Whether a rule has addresses of that family.
    pub fn has_family(&self, v6: bool) -> bool {
        self.list.iter().any(|snat| snat.pool.iter().any(|(address, _)| address.is_ipv6() == v6))
    }
}

impl Snapshot {
    /// Puts the rules in. All services and servers must be there: the rules get entries behind theirs,
    /// by which their sessions find timeouts and counters like those of any service.
    pub fn set_snats(&mut self, list: Vec<Snat>) {
        let mut rules = SnatRules {
            first_service: self.services.len() as u16,
            first_server: self.servers.len() as u16,
            ..Default::default()
        };
        rules.v4.fill(&list, self);
        rules.v6.fill(&list, self);
        for (number, snat) in list.iter().enumerate() {
            let id = rules.service_id(number as u16);
            self.services.push(Service {
                name: snat.name.clone(),
                mode: Mode::Snat,
                timeouts: snat.timeouts,
                policy: NO_POLICY,
                ..Default::default()
            });
            for _ in 0..2 {
                self.servers.push(Server { service: id, weight: 0, ..Default::default() });
            }
            for &(address, port) in &snat.pool {
                match address {
                    IpAddr::V4(a) => self.local_v4.insert(a, LocalAddress::Pool(port)),
                    IpAddr::V6(a) => self.local_v6.insert(a, LocalAddress::Pool(port)),
                };
            }
        }
        rules.list = list;
        self.snat = rules;
    }
}

impl<A: Address> Inside<A> {
    fn fill(&mut self, list: &[Snat], snapshot: &Snapshot) {
        let endpoint = |at: SocketAddr| Some((A::from_ip(at.ip())?, at.port()));
        for (snat, rule) in list.iter().zip(0u16..) {
            let of_family = |net: &&IpNet| A::from_ip(net.addr()).is_some();
            self.sources.extend(snat.sources.iter().filter(of_family).map(|net| (*net, rule)));
            let pool: Vec<A> = snat.pool.iter().filter_map(|(ip, _)| A::from_ip(*ip)).collect();
            self.pools.extend(pool.iter().map(|address| (*address, rule)));
            self.pool_of.push(pool);
            for forward in &snat.forwards {
                if let (Some(out), Some(to)) =
                    (endpoint(forward.external), endpoint(forward.internal))
                {
                    self.external.insert((out.0, out.1, forward.protocol), to);
                    self.internal.insert((to.0, to.1, forward.protocol), out);
                }
            }
        }
        let in_nat = |s: &&Server| {
            let service = snapshot.services.get(usize::from(s.service.0));
            service.is_some_and(|service| service.mode == Mode::Nat)
        };
        let servers = snapshot.servers.iter().filter(in_nat);
        self.servers.extend(servers.filter_map(|s| Some((A::from_ip(s.address)?, s.port))));
    }

    /// The first rule for a host inside; `None` when the address is not inside.
    pub fn rule_of(&self, source: A) -> Option<u16> {
        let source = source.into();
        self.sources.iter().find(|(net, _)| net.contains(&source)).map(|(_, rule)| *rule)
    }

    /// The rule that has the address in its pool.
    pub fn rule_of_pool(&self, address: A) -> Option<u16> {
        self.pools.get(&address).copied()
    }

    /// The endpoint by which a host inside steers: its own, or the external one of its forwarded
    /// port.
    pub fn steers_by(&self, source: A, port: u16, protocol: Protocol) -> (A, u16) {
        self.internal.get(&(source, port, protocol)).copied().unwrap_or((source, port))
    }
}

/// The endpoint by which a packet steers that came in on a port with hosts inside and does not go to
/// a VIP. `local` is what its destination is of ours.
#[inline(never)]
pub fn steers_by<A: Family>(
    snapshot: &Snapshot,
    key: &FlowKey<A>,
    local: Option<LocalAddress>,
) -> (A, u16) {
    let inside = A::inside(snapshot);
    let goes_out = match local {
        Some(LocalAddress::Pool(_)) => inside.rule_of(key.src).is_some(),
        // A real server's packet may be an answer to a client, which steers by the client. If it is
        // not, the worker that gets it finds no session and passes it on.
        None => {
            inside.rule_of(key.src).is_some() && !inside.servers.contains(&(key.src, key.sport))
        }
        Some(_) => false,
    };
    if goes_out { inside.steers_by(key.src, key.sport, key.protocol) } else { (key.dst, key.dport) }
}
