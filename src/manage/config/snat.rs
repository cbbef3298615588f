//! `[[snat]]` and `[[snat.forward]]`: their keys, and the checks against the other sections.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::addresses::Ours;
use super::draft::Draft;
use super::network::lookup;
use super::reader::{At, List, Report, Section};
use super::schema::{read_timeouts, value};
use super::validate::{Once, family};
use super::values::{
    boolean, choice, endpoint, integer, name, network, port_number, routed_address, string,
};
use super::{Forward, Snat};
use crate::datapath::snapshot::{Route, Side, Timeouts};
use crate::datapath::snat::rules::MAX_SNATS;
use crate::session::mappings::Behavior;
use crate::wire::flow::Protocol;

const SNAT: &str = "[[snat]]";
const FORWARD: &str = "[[snat.forward]]";
/// The most addresses that all pools have together.
const MAX_POOL: usize = 4_096;
/// A shorter range would leave steering buckets without a port: see `session::bucket_ports`.
const FEWEST_PORTS: usize = 2_048;

/// What holds when the file says nothing: RFC 4787 REQ-5 and RFC 5382 REQ-5, whose 4 minutes are
/// those of every state that is not established.
pub(super) fn default_timeouts() -> Timeouts {
    const TRANSITORY: u32 = 240_000;
    Timeouts {
        tcp_syn: TRANSITORY,
        tcp_established: 7_440_000,
        tcp_fin: TRANSITORY,
        udp: 300_000,
        tcp_syn_received: TRANSITORY,
        tcp_fin_wait: TRANSITORY,
        tcp_time_wait: TRANSITORY,
        tcp_close: TRANSITORY,
    }
}

/// `[[snat]]`
pub(super) struct SnatDraft {
    line: usize,
    pub(super) name: Option<At<String>>,
    sources: List<IpNet>,
    pool: List<Vec<IpAddr>>,
    ports: Option<At<RangeInclusive<u16>>>,
    mapping: Option<Behavior>,
    filtering: Option<Behavior>,
    ports_per_source: Option<u32>,
    hairpin: Option<bool>,
    timeouts: Option<Timeouts>,
    forwards: Vec<ForwardDraft>,
}

/// `[[snat.forward]]`
struct ForwardDraft {
    protocol: Option<Protocol>,
    external: Option<At<SocketAddr>>,
    internal: Option<At<SocketAddr>>,
}

/// Reads a rule.
pub(super) fn read(mut s: Section<'_>) -> SnatDraft {
    let behavior = choice(
        &[
            ("endpoint_independent", Behavior::EndpointIndependent),
            ("address_dependent", Behavior::AddressDependent),
            ("address_and_port_dependent", Behavior::AddressAndPortDependent),
        ],
        &[],
    );
    let draft = SnatDraft {
        line: s.line(),
        name: s.required("name", string(name), "a name, like \"egress\""),
        sources: s.required_list(
            "sources",
            string(network),
            "the networks inside, like [\"10.0.0.0/8\"]",
        ),
        pool: s.required_list(
            "pool",
            string(pool),
            "the addresses they get outside, like [\"203.0.113.5\", \"203.0.113.16/30\"]",
        ),
        ports: s.optional("ports", string(ports), 1024..=u16::MAX),
        mapping: value(s.optional("mapping", &behavior, Behavior::EndpointIndependent)),
        filtering: value(s.optional("filtering", &behavior, Behavior::AddressAndPortDependent)),
        ports_per_source: value(s.optional("ports_per_source", integer(0..=1_000_000), 0)),
        hairpin: value(s.optional("hairpin", boolean, true)),
        timeouts: s
            .table("timeouts", "[snat.timeouts]")
            .and_then(|t| read_timeouts(t, default_timeouts())),
        forwards: s.tables("forward", FORWARD).0.into_iter().map(read_forward).collect(),
    };
    s.finish();
    draft
}

fn read_forward(mut s: Section<'_>) -> ForwardDraft {
    let draft = ForwardDraft {
        protocol: value(s.required(
            "protocol",
            choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], &[]),
            "\"tcp\" or \"udp\"",
        )),
        external: s.required(
            "external",
            string(endpoint),
            "an address of the pool with a port, like \"203.0.113.5:8080\"",
        ),
        internal: s.required(
            "internal",
            string(endpoint),
            "the host inside with its port, like \"10.0.0.7:80\"",
        ),
    };
    s.finish();
    draft
}

/// An address, or all addresses of a prefix.
fn pool(text: &str) -> Result<Vec<IpAddr>, String> {
    if !text.contains('/') {
        return routed_address(text).map(|address| vec![address]);
    }
    let net = network(text)?;
    let bits = if net.addr().is_ipv4() { 32 } else { 128 } - net.prefix_len();
    if bits > 12 {
        let longest = net.max_prefix_len() - 12;
        return Err(format!(
            "{text} has more than {MAX_POOL} addresses; expected /{longest} or longer"
        ));
    }
    routed_address(&net.addr().to_string())?;
    let nth = |n: u32| match net.addr() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + n).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(n)).into()),
    };
    Ok((0..1 << bits).map(nth).collect())
}

/// `LOW-HIGH`
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("{text:?} is no range of ports; expected one like \"1024-65535\"");
    let (low, high) = text.split_once('-').ok_or_else(wrong)?;
    let number = |s: &str| port_number(s).filter(|port| *port > 0);
    let range = number(low).ok_or_else(wrong)?..=number(high).ok_or_else(wrong)?;
    if range.len() < FEWEST_PORTS {
        return Err(format!(
            "{text} are {} ports; expected {FEWEST_PORTS} or more, so that every worker has some",
            range.len()
        ));
    }
    Ok(range)
}

impl SnatDraft {
    /// Whether every entry of the pool could be read.
    pub(super) fn pool_is_whole(&self) -> bool {
        self.pool.whole
    }

    pub(super) fn into_snat(self) -> Option<Snat> {
        let forward = |f: ForwardDraft| {
            Some(Forward {
                protocol: f.protocol?,
                external: f.external?.value,
                internal: f.internal?.value,
            })
        };
        Some(Snat {
            name: self.name?.value,
            sources: self.sources.into_values()?,
            pool: self.pool.into_values()?.concat(),
            ports: self.ports?.value,
            mapping: self.mapping?,
            filtering: self.filtering?,
            ports_per_source: self.ports_per_source?,
            hairpin: self.hairpin?,
            timeouts: self.timeouts?,
            forwards: self.forwards.into_iter().map(forward).collect::<Option<_>>()?,
        })
    }
}

/// Enters the addresses of the pools, each of which must be nobody else's.
pub(super) fn add_pools(draft: &Draft, ours: &mut Ours, report: &Report<'_>) {
    for snat in &draft.snats {
        let owner = match &snat.name {
            Some(name) => format!("an address of the pool of snat {:?}", name.value),
            None => "an address of an snat pool".to_owned(),
        };
        for entry in &snat.pool.items {
            for address in &entry.value {
                if let Some(other) = ours.owner(*address) {
                    let message = format!("{address} is {other}; give another address");
                    report.error(entry.line, SNAT, "pool", message);
                }
                ours.add(*address, owner.clone(), entry.line);
            }
        }
    }
}

/// The addresses of all pools with their lines.
pub(super) fn pool_addresses(draft: &Draft) -> impl Iterator<Item = (IpAddr, usize)> {
    let entries = draft.snats.iter().flat_map(|snat| &snat.pool.items);
    entries.flat_map(|entry| entry.value.iter().map(|address| (*address, entry.line)))
}

/// The hosts that have forwarded ports, with their lines.
pub(super) fn inside_hosts(draft: &Draft) -> impl Iterator<Item = (IpAddr, usize)> {
    let forwards = draft.snats.iter().flat_map(|snat| &snat.forwards);
    forwards.filter_map(|f| f.internal.as_ref()).map(|at| (at.value.ip(), at.line))
}

/// Checks what needs no routes.
pub(super) fn check(draft: &Draft, report: &Report<'_>) {
    let mut names = Once::new();
    for name in draft.services.iter().filter_map(|s| s.name.as_ref()) {
        names.repeated(&name.value, name.line);
    }
    let mut addresses = 0;
    let mut sources: Vec<(IpNet, usize)> = Vec::new();
    let (mut externals, mut internals) = (Once::new(), Once::new());
    for (number, snat) in draft.snats.iter().enumerate() {
        let error = |line, key, message: String| report.error(line, SNAT, key, message);
        if number == MAX_SNATS {
            error(snat.line, "", format!("is one too many; at most {MAX_SNATS} are possible"));
        }
        if let Some(name) = &snat.name
            && let Some(line) = names.repeated(&name.value, name.line)
        {
            let message = format!("{:?} is another's name (line {line})", name.value);
            error(name.line, "name", message + "; give each service and snat its own");
        }
        let before = addresses;
        addresses += snat.pool.items.iter().map(|entry| entry.value.len()).sum::<usize>();
        if before <= MAX_POOL && addresses > MAX_POOL {
            error(
                snat.line,
                "pool",
                format!(
                    "addresses up to this pool are {addresses}; at most {MAX_POOL} are possible"
                ),
            );
        }
        for source in &snat.sources.items {
            let within = sources.iter().find(|(net, _)| net.contains(&source.value));
            if let Some((net, line)) = within {
                let message =
                    format!("{} is within {net} (line {line}), which comes first", source.value);
                error(source.line, "sources", message + "; put the smaller network before it");
            }
            sources.push((source.value, source.line));
        }
        families(snat, report);
        forwards(snat, &mut externals, &mut internals, report);
    }
    for snat in &draft.snats {
        for entry in &snat.pool.items {
            let inside = |at: &&(IpNet, usize)| entry.value.iter().any(|a| at.0.contains(a));
            if let Some((net, line)) = sources.iter().find(inside) {
                let message = format!("is within the sources {net} (line {line})");
                let message = message + "; give addresses outside of them";
                report.error(entry.line, SNAT, "pool", message);
            }
        }
    }
}

fn families(snat: &SnatDraft, report: &Report<'_>) {
    if !snat.sources.whole || !snat.pool.whole {
        return;
    }
    let (sources, pool) = (&snat.sources.items, &snat.pool.items);
    let alone = sources.iter().find(|source| {
        !pool.iter().any(|p| p.value.iter().any(|a| a.is_ipv4() == source.value.addr().is_ipv4()))
    });
    if let Some(source) = alone {
        let family = family(source.value.addr());
        let message = format!("{} is {family}, but the pool has no {family} address", source.value);
        report.error(source.line, SNAT, "sources", message + "; add one");
    }
    for entry in pool {
        if let Some(address) = entry.value.first()
            && !sources.iter().any(|s| s.value.addr().is_ipv4() == address.is_ipv4())
        {
            let family = family(*address);
            let message = format!("{address} is {family}, but no {family} network is in sources");
            report.error(entry.line, SNAT, "pool", message + "; leave it out");
        }
    }
}

fn forwards(
    snat: &SnatDraft,
    externals: &mut Once<(Protocol, SocketAddr)>,
    internals: &mut Once<(Protocol, SocketAddr)>,
    report: &Report<'_>,
) {
    let error = |line, key, message: String| report.error(line, FORWARD, key, message);
    for forward in &snat.forwards {
        let ForwardDraft { protocol: Some(protocol), external, internal } = forward else {
            continue;
        };
        if let Some(At { value: external, line }) = external {
            let in_pool = snat.pool.items.iter().any(|p| p.value.contains(&external.ip()));
            if snat.pool.whole && !in_pool {
                let message = format!("{} is not in the pool of this snat", external.ip());
                error(*line, "external", message + "; add it there");
            }
            if let Some(first) = externals.repeated((*protocol, *external), *line) {
                let message = format!("{protocol} {external} is forwarded already (line {first})");
                error(*line, "external", message + "; give another port");
            }
        }
        if let Some(At { value: internal, line }) = internal {
            let inside = snat.sources.items.iter().any(|s| s.value.contains(&internal.ip()));
            if snat.sources.whole && !inside {
                let message = format!("{} is not in the sources of this snat", internal.ip());
                error(*line, "internal", message + "; add its network there");
            }
            if let Some(first) = internals.repeated((*protocol, *internal), *line) {
                let message =
                    format!("{protocol} {internal} has a forwarded port already (line {first})");
                error(*line, "internal", message + "; keep one");
            }
        }
        if let (Some(external), Some(internal)) = (external, internal)
            && external.value.is_ipv4() != internal.value.is_ipv4()
        {
            let message = format!(
                "{} is not of the family of {}; expected {}",
                internal.value,
                external.value,
                family(external.value.ip())
            );
            error(internal.line, "internal", message);
        }
    }
}

/// Checks that inside and outside are where the routes say. All ports and routes are right.
pub(super) fn check_routes(draft: &Draft, table: &[Route], report: &Report<'_>) {
    let side = |port: crate::datapath::snapshot::PortId| {
        draft.ports[usize::from(port.0)].side.as_ref().map(|side| side.value)
    };
    let called = |port: crate::datapath::snapshot::PortId| {
        super::addresses::called(&draft.ports[usize::from(port.0)])
    };
    for snat in &draft.snats {
        for source in &snat.sources.items {
            // A route into the network, or the one that leads to it.
            let mut ways = table
                .iter()
                .filter(|route| source.value.contains(&route.to))
                .map(|route| route.target)
                .chain(lookup(table, source.value.addr()))
                .peekable();
            let message = if ways.peek().is_none() {
                format!("{} cannot be reached; add a [[route]]", source.value)
            } else if ways.all(|way| side(way.port) == Some(Side::Client)) {
                format!(
                    "{} is reached only by ports whose side is \"client\"; make that \"both\" or \
                     \"server\"",
                    source.value
                )
            } else {
                continue;
            };
            report.error(source.line, SNAT, "sources", message);
        }
        for entry in &snat.pool.items {
            let Some(first) = entry.value.first() else { continue };
            let message = match lookup(table, *first) {
                None => format!("{first} is on no port's network and behind no [[route]]; add one"),
                Some(way) if side(way.port) == Some(Side::Server) => format!(
                    "{first} is on the side of {}, which is \"server\"; expected an address outside",
                    called(way.port)
                ),
                Some(_) => continue,
            };
            report.error(entry.line, SNAT, "pool", message);
        }
        for forward in &snat.forwards {
            let Some(At { value: internal, line }) = &forward.internal else { continue };
            let message = match lookup(table, internal.ip()) {
                None => format!("{} cannot be reached; add a [[route]]", internal.ip()),
                Some(way) if side(way.port) == Some(Side::Client) => format!(
                    "{} is reached by {}, whose side is \"client\"; make that \"both\" or \"server\"",
                    internal.ip(),
                    called(way.port)
                ),
                Some(_) => continue,
            };
            report.error(*line, FORWARD, "internal", message);
        }
    }
}
