//! The packet filter: ordered rules that look at one packet and know no session. The first rule
//! that matches decides; what none matches passes.
//!
//! Rules are tried one after the other, 16 bytes each for what most packets fail on; prefixes are
//! looked up in sets, in a number of steps that does not grow with them. A rule that a packet fails
//! by port costs it about 5 ns and one that it fails by prefix about 15 ns (`perf/benches/parts.rs`),
//! so the most there can be ([`MAX_FILTERS`]) cost 5 to 15 µs.

use std::sync::Arc;

use super::family::Family;
use super::limiter::Refill;
use super::prefix_set::PrefixSet;
use super::snapshot::PortId;

/// The most rules there can be.
pub const MAX_FILTERS: usize = 1000;

/// What is done to the packets that a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// They pass.
    #[default]
    Allow,
    /// They are dropped.
    Drop,
    /// They are dropped and their sender is told: TCP by a reset, UDP by port unreachable, all else
    /// and first fragments by administratively prohibited.
    Reject,
    /// So many pass, the others are dropped. Packets per second and at once, over all workers.
    Limit {
        /// Packets per second.
        rate: u32,
        /// Packets at once.
        burst: u32,
    },
}

impl Action {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Drop => "drop",
            Action::Reject => "reject",
            Action::Limit { .. } => "limit",
        }
    }

    /// How the bucket of one of so many workers fills; for the other actions one that is not used.
    pub(super) fn refill(self, workers: u32) -> Refill {
        match self {
            Action::Limit { rate, burst } => Refill::shared(rate, burst, workers),
            _ => Refill::new(0, 1),
        }
    }
}

/// Which TCP flags must be set and which must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlagMatch {
    /// The flags that are looked at.
    pub mask: u8,
    /// What they must be.
    pub value: u8,
}

/// A rule. A packet matches when all that is said here is true of it.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Its name in the configuration.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// The source address is in one of these.
    pub sources: Option<PrefixSet>,
    /// The destination address is in one of these.
    pub destinations: Option<PrefixSet>,
    /// The source address is in this list.
    pub list: Option<Arc<PrefixSet>>,
    /// The IP protocol number.
    pub protocol: Option<u8>,
    /// The source port is in one of these ranges, both ends included. Empty: any, or none at all.
    pub source_ports: Vec<(u16, u16)>,
    /// The destination port, likewise.
    pub destination_ports: Vec<(u16, u16)>,
    /// The TCP flags.
    pub tcp_flags: Option<FlagMatch>,
    /// The port it was received on.
    pub port: Option<PortId>,
}

/// What a rule can see of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// IP protocol number.
    pub protocol: u8,
    /// Source and destination port and TCP flags; not of ICMP and the like, and only of the first
    /// fragment of a packet.
    pub transport: Option<(u16, u16, u8)>,
    /// The port it was received on.
    pub port: PortId,
}

/// The rules, in a form that is quick to try.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    heads: Vec<Head>,
    rules: Vec<Rule>,
}

/// What decides about most rules and most packets.
#[derive(Clone, Copy, Debug)]
struct Head {
    source_ports: (u16, u16),
    destination_ports: (u16, u16),
    flags: FlagMatch,
    /// 0 to 255, or [`ANY_PROTOCOL`].
    protocol: u16,
    /// The receiving port, or [`ANY_PORT`].
    port: u8,
    /// Whether it asks for ports or flags.
    asks_transport: bool,
    /// Whether the rule says more than this.
    asks_more: bool,
}

const ANY_PROTOCOL: u16 = 256;
const ANY_PORT: u8 = 255;

impl Filters {
    /// These rules in this order.
    ///
    /// # Panics
    /// With more than [`MAX_FILTERS`].
    pub fn new(rules: Vec<Rule>) -> Self {
        assert!(rules.len() <= MAX_FILTERS, "more filters than have counters");
        Filters { heads: rules.iter().map(Head::of).collect(), rules }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that matches.
    pub fn first<A: Family>(&self, packet: &Packet<A>) -> Option<usize> {
        let (sport, dport, flags) = packet.transport.unwrap_or_default();
        let none = packet.transport.is_none();
        self.heads.iter().enumerate().position(|(index, head)| {
            let good =
                (head.protocol == ANY_PROTOCOL) | (head.protocol == u16::from(packet.protocol));
            let good = good & ((head.port == ANY_PORT) | (head.port == packet.port.0));
            let good = good & (flags & head.flags.mask == head.flags.value);
            let good = good & within(sport, head.source_ports);
            let good = good & within(dport, head.destination_ports);
            good && !(none && head.asks_transport)
                && (!head.asks_more || self.rules[index].matches_rest(packet))
        })
    }
}

impl Head {
    fn of(rule: &Rule) -> Self {
        // The range from the first to the last; what lies between is looked at later.
        let hull = |ranges: &[(u16, u16)]| {
            let low = ranges.iter().map(|r| r.0).min().unwrap_or(0);
            (low, ranges.iter().map(|r| r.1).max().unwrap_or(u16::MAX))
        };
        Head {
            source_ports: hull(&rule.source_ports),
            destination_ports: hull(&rule.destination_ports),
            flags: rule.tcp_flags.unwrap_or_default(),
            protocol: rule.protocol.map_or(ANY_PROTOCOL, u16::from),
            port: rule.port.map_or(ANY_PORT, |port| port.0),
            asks_transport: !rule.source_ports.is_empty()
                || !rule.destination_ports.is_empty()
                || rule.tcp_flags.is_some(),
            asks_more: rule.sources.is_some()
                || rule.destinations.is_some()
                || rule.list.is_some()
                || rule.source_ports.len() > 1
                || rule.destination_ports.len() > 1,
        }
    }
}

impl Rule {
    fn matches_rest<A: Family>(&self, packet: &Packet<A>) -> bool {
        let holds = |set: &PrefixSet, address: A| set.contains(address.into());
        let (sport, dport, _) = packet.transport.unwrap_or_default();
        self.sources.as_ref().is_none_or(|set| holds(set, packet.src))
            && self.destinations.as_ref().is_none_or(|set| holds(set, packet.dst))
            && in_ranges(sport, &self.source_ports)
            && in_ranges(dport, &self.destination_ports)
            // Last, since it may be the largest.
            && self.list.as_ref().is_none_or(|set| holds(set, packet.src))
    }
}

fn within(port: u16, range: (u16, u16)) -> bool {
    (range.0 <= port) & (port <= range.1)
}

fn in_ranges(port: u16, ranges: &[(u16, u16)]) -> bool {
    ranges.len() < 2 || ranges.iter().any(|range| within(port, *range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// A rule as somebody would say it, and evaluated that way.
    #[derive(Clone, Debug)]
    struct Said {
        sources: Option<Vec<IpNet>>,
        destinations: Option<Vec<IpNet>>,
        list: Option<Vec<IpNet>>,
        protocol: Option<u8>,
        source_ports: Vec<(u16, u16)>,
        destination_ports: Vec<(u16, u16)>,
        set: u8,
        unset: u8,
        flags: bool,
        port: Option<u8>,
    }

    impl Said {
        fn rule(&self) -> Rule {
            let set = |nets: &Option<Vec<IpNet>>| nets.clone().map(PrefixSet::new);
            Rule {
                name: String::new(),
                action: Action::Drop,
                sources: set(&self.sources),
                destinations: set(&self.destinations),
                list: set(&self.list).map(Arc::new),
                protocol: self.protocol,
                source_ports: self.source_ports.clone(),
                destination_ports: self.destination_ports.clone(),
                tcp_flags: self
                    .flags
                    .then_some(FlagMatch { mask: self.set | self.unset, value: self.set }),
                port: self.port.map(PortId),
            }
        }

        fn matches<A: Family>(&self, p: &Packet<A>) -> bool {
            let (src, dst): (IpAddr, IpAddr) = (p.src.into(), p.dst.into());
            let inside = |nets: &Option<Vec<IpNet>>, ip: IpAddr| match nets {
                None => true,
                Some(nets) => nets.iter().any(|net| net.contains(&ip)),
            };
            if !(inside(&self.sources, src)
                && inside(&self.destinations, dst)
                && inside(&self.list, src))
                || self.protocol.is_some_and(|protocol| protocol != p.protocol)
                || self.port.is_some_and(|port| port != p.port.0)
            {
                return false;
            }
            let ports = |ranges: &[(u16, u16)], port: Option<u16>| {
                ranges.is_empty()
                    || port.is_some_and(|port| {
                        ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))
                    })
            };
            ports(&self.source_ports, p.transport.map(|t| t.0))
                && ports(&self.destination_ports, p.transport.map(|t| t.1))
                && (!self.flags
                    || p.transport
                        .is_some_and(|t| t.2 & self.set == self.set && t.2 & self.unset == 0))
        }
    }

    /// Addresses and prefixes of a small world, so that rules often match.
    fn address() -> impl Strategy<Value = u32> {
        (0..4u32, 0..4u32).prop_map(|(a, b)| 0x0a00_0000 | a << 16 | b)
    }

    fn net() -> impl Strategy<Value = IpNet> {
        (address(), 12..=32u8, any::<bool>()).prop_map(|(bits, len, v6)| {
            if v6 {
                IpNet::new(wide(bits).into(), len + 96).unwrap().trunc()
            } else {
                IpNet::new(Ipv4Addr::from_bits(bits).into(), len).unwrap().trunc()
            }
        })
    }

    fn wide(bits: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(bits))
    }

    fn range() -> impl Strategy<Value = (u16, u16)> {
        (0..20u16, 0..8u16).prop_map(|(low, more)| (low, low + more))
    }

    fn said() -> impl Strategy<Value = Said> {
        let nets = || prop::option::of(prop::collection::vec(net(), 0..4));
        let ranges = || prop::collection::vec(range(), 0..3);
        let protocol = prop::option::of(prop::sample::select(vec![1u8, 6, 17]));
        (
            (nets(), nets(), nets()),
            (protocol, prop::option::of(0..3u8)),
            (ranges(), ranges()),
            (any::<bool>(), 0..64u8, 0..64u8),
        )
            .prop_map(|(nets, (protocol, port), ranges, (flags, set, unset))| Said {
                sources: nets.0,
                destinations: nets.1,
                list: nets.2,
                protocol,
                source_ports: ranges.0,
                destination_ports: ranges.1,
                set: set & 0x12,
                unset: unset & 0x05,
                flags,
                port,
            })
    }

    proptest! {
        #[test]
        fn the_first_that_matches(
            rules in prop::collection::vec(said(), 0..12),
            packets in prop::collection::vec(
                (address(), address(), 0..30u16, 0..30u16, 0..64u8, 0..3u8, 0..4u8),
                50,
            ),
        ) {
            let filters = Filters::new(rules.iter().map(Said::rule).collect());
            for (src, dst, sport, dport, flags, port, kind) in packets {
                let port = PortId(port);
                let protocol = [1, 6, 6, 17][usize::from(kind)];
                let transport = (kind != 0).then_some((sport, dport, flags));
                let v4 = Packet {
                    src: Ipv4Addr::from_bits(src),
                    dst: Ipv4Addr::from_bits(dst),
                    protocol,
                    transport,
                    port,
                };
                let v6 = Packet { src: wide(src), dst: wide(dst), protocol, transport, port };
                prop_assert_eq!(filters.first(&v4), rules.iter().position(|r| r.matches(&v4)));
                prop_assert_eq!(filters.first(&v6), rules.iter().position(|r| r.matches(&v6)));
            }
        }
    }
}
