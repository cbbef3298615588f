//! The keys of `[[filter]]`, `[[list]]`, `[[mirror]]`, `[protection]` and `[service.limits]`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use toml::de::DeValue;

use super::list_file;
use super::reader::{At, List, Section, described};
use super::schema::value;
use super::values::{boolean, choice, integer, name, network, port_number, string, unmapped};
use super::{Filter, Guard, Mirror, PrefixList};
use crate::datapath::filter::{Action, FlagMatch};
use crate::datapath::limits::Limits;
use crate::datapath::prefix_set::PrefixSet;
use crate::wire::flow::tcp_flags;
use crate::wire::ip_protocol;

/// The largest rate, per second.
const MAX_RATE: u32 = 1_000_000_000;

/// All of it but `[service.limits]`.
pub(super) struct GuardDraft {
    pub(super) filters: Vec<FilterDraft>,
    pub(super) lists: Vec<ListDraft>,
    pub(super) mirrors: Vec<MirrorDraft>,
    /// Whether every `[[list]]` and every `[[mirror]]` is a table.
    pub(super) whole: bool,
    pub(super) bogons: Option<At<bool>>,
    pub(super) reverse_path: Option<At<bool>>,
}

/// `[[filter]]`
pub(super) struct FilterDraft {
    pub(super) line: usize,
    pub(super) name: Option<At<String>>,
    pub(super) action: Option<At<ActionName>>,
    pub(super) rate: Option<At<Option<u32>>>,
    pub(super) burst: Option<At<Option<u32>>>,
    pub(super) sources: List<IpNet>,
    pub(super) destinations: List<IpNet>,
    pub(super) list: Option<At<Option<String>>>,
    pub(super) protocol: Option<At<Option<u8>>>,
    pub(super) source_ports: List<(u16, u16)>,
    pub(super) destination_ports: List<(u16, u16)>,
    pub(super) tcp_flags: Option<At<Option<FlagMatch>>>,
    pub(super) port: Option<At<Option<String>>>,
}

/// What `action` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActionName {
    Allow,
    Drop,
    Reject,
    Limit,
}

/// `[[list]]`
pub(super) struct ListDraft {
    pub(super) name: Option<At<String>>,
    prefixes: Option<Arc<PrefixSet>>,
    pub(super) line: usize,
}

/// `[[mirror]]`
pub(super) struct MirrorDraft {
    pub(super) line: usize,
    pub(super) name: Option<At<String>>,
    pub(super) port: Option<At<String>>,
    sample: Option<u32>,
    pub(super) matching: List<IpNet>,
}

impl GuardDraft {
    /// Whether a mirror names this port.
    pub(super) fn has_sensor_on(&self, port: &str) -> bool {
        self.mirrors.iter().any(|mirror| mirror.port.as_ref().is_some_and(|p| p.value == port))
    }

    pub(super) fn into_guard(self) -> Option<Guard> {
        Some(Guard {
            filters: self
                .filters
                .into_iter()
                .map(FilterDraft::into_filter)
                .collect::<Option<_>>()?,
            lists: self.lists.into_iter().map(ListDraft::into_list).collect::<Option<_>>()?,
            mirrors: self
                .mirrors
                .into_iter()
                .map(MirrorDraft::into_mirror)
                .collect::<Option<_>>()?,
            bogons: self.bogons?.value,
            reverse_path: self.reverse_path?.value,
        })
    }
}

impl FilterDraft {
    fn into_filter(self) -> Option<Filter> {
        let rate = self.rate?.value;
        Some(Filter {
            name: self.name?.value,
            action: match self.action?.value {
                ActionName::Allow => Action::Allow,
                ActionName::Drop => Action::Drop,
                ActionName::Reject => Action::Reject,
                ActionName::Limit => {
                    Action::Limit { rate: rate?, burst: self.burst?.value.or(rate)? }
                }
            },
            sources: self.sources.into_values()?,
            destinations: self.destinations.into_values()?,
            list: self.list?.value,
            protocol: self.protocol?.value,
            source_ports: self.source_ports.into_values()?,
            destination_ports: self.destination_ports.into_values()?,
            tcp_flags: self.tcp_flags?.value,
            port: self.port?.value,
        })
    }
}

impl ListDraft {
    fn into_list(self) -> Option<PrefixList> {
        Some(PrefixList { name: self.name?.value, prefixes: self.prefixes? })
    }
}

impl MirrorDraft {
    fn into_mirror(self) -> Option<Mirror> {
        Some(Mirror {
            name: self.name?.value,
            port: self.port?.value,
            sample: self.sample?,
            matching: self.matching.into_values()?,
        })
    }
}

/// Reads the sections of the file.
pub(super) fn read(file: &mut Section<'_>) -> GuardDraft {
    let filters = file.tables("filter", "[[filter]]").0;
    let filters = filters.into_iter().map(read_filter).collect();
    let (lists, lists_whole) = file.tables("list", "[[list]]");
    let lists = lists.into_iter().map(read_list).collect();
    let (mirrors, mirrors_whole) = file.tables("mirror", "[[mirror]]");
    let mirrors = mirrors.into_iter().map(read_mirror).collect();
    let protection = file.table("protection", "[protection]").map(|mut s| {
        let bogons = s.optional("bogons", boolean, false);
        let reverse_path = s.optional("reverse_path", boolean, false);
        s.finish();
        (bogons, reverse_path)
    });
    let (bogons, reverse_path) = protection.unwrap_or_default();
    let whole = lists_whole && mirrors_whole;
    GuardDraft { filters, lists, mirrors, whole, bogons, reverse_path }
}

fn read_filter(mut s: Section<'_>) -> FilterDraft {
    let rate = || integer(1..=MAX_RATE);
    let some_name = || string(|text| name(text).map(Some));
    let draft = FilterDraft {
        line: s.line(),
        name: s.required("name", string(name), "a name, like \"no-telnet\""),
        action: s.required(
            "action",
            choice(
                &[
                    ("allow", ActionName::Allow),
                    ("drop", ActionName::Drop),
                    ("reject", ActionName::Reject),
                    ("limit", ActionName::Limit),
                ],
                &[],
            ),
            "\"allow\", \"drop\", \"reject\" or \"limit\"",
        ),
        rate: s.optional("rate", some(rate()), None),
        burst: s.optional("burst", some(rate()), None),
        sources: s.list("source", string(prefix)),
        destinations: s.list("destination", string(prefix)),
        list: s.optional("list", some_name(), None),
        protocol: s.optional("protocol", some(protocol), None),
        source_ports: s.list("source_ports", port_range),
        destination_ports: s.list("destination_ports", port_range),
        tcp_flags: s.optional("tcp_flags", some(string(flags)), None),
        port: s.optional("port", some_name(), None),
    };
    if let (Some(action), Some(rate), Some(burst)) = (&draft.action, &draft.rate, &draft.burst) {
        match (action.value, rate.value, burst.value) {
            (ActionName::Limit, None, _) => s.missing("rate", "packets per second, like 1000"),
            (ActionName::Limit, ..) | (_, None, None) => {}
            (_, Some(_), _) => s.error("rate", "only for action = \"limit\"; leave it out"),
            (_, None, Some(_)) => s.error("burst", "only for action = \"limit\"; leave it out"),
        }
    }
    s.finish();
    draft
}

fn read_list(mut s: Section<'_>) -> ListDraft {
    let line = s.line();
    let name = s.required("name", string(name), "a name, like \"blocked\"");
    if !s.has("prefixes") && !s.has("file") {
        s.missing("prefixes", "prefixes, like [\"198.51.100.0/24\"], or a file of them");
    }
    let prefixes = s.list("prefixes", string(prefix));
    let file = s.optional("file", string(file_path), None);
    let of_file = file.and_then(|file| match file.value {
        None => Some(Vec::new()),
        Some(path) => match list_file::read(Path::new(&path)) {
            Ok(prefixes) => Some(prefixes),
            Err(errors) => {
                for error in errors {
                    s.error("file", error);
                }
                None
            }
        },
    });
    s.finish();
    let all = prefixes.into_values().zip(of_file);
    let prefixes =
        all.map(|(listed, of_file)| Arc::new(PrefixSet::new(listed.into_iter().chain(of_file))));
    ListDraft { name, prefixes, line }
}

fn read_mirror(mut s: Section<'_>) -> MirrorDraft {
    let draft = MirrorDraft {
        line: s.line(),
        name: s.required("name", string(name), "a name, like \"ids\""),
        port: s.required("port", string(name), "the name of the port the sensor is on"),
        sample: value(s.optional("sample", integer(1..=1_000_000), 1)),
        matching: s.list("match", string(prefix)),
    };
    s.finish();
    draft
}

/// Reads `[service.limits]`; what is left out is no limit.
pub(super) fn read_limits(mut s: Section<'_>) -> Option<At<Limits>> {
    let mut rate = |key| value(s.optional(key, integer(0..=MAX_RATE), 0));
    let (connections, packets, half_open) =
        (rate("connections_per_second"), rate("packets_per_second"), rate("half_open"));
    let (source_connections, source_packets, source_half_open) = (
        rate("source_connections_per_second"),
        rate("source_packets_per_second"),
        rate("source_half_open"),
    );
    let source_mask = value(s.optional("source_mask", integer(1..=32_u8), 32));
    let source_mask_v6 = value(s.optional("source_mask_v6", integer(1..=128_u8), 64));
    let line = s.line();
    s.finish();
    let limits = Limits {
        connections_per_second: connections?,
        packets_per_second: packets?,
        half_open: half_open?,
        source_connections_per_second: source_connections?,
        source_packets_per_second: source_packets?,
        source_half_open: source_half_open?,
        source_mask: source_mask?,
        source_mask_v6: source_mask_v6?,
    };
    Some(At { value: limits, line })
}

/// A value that may be absent.
fn some<T>(
    parse: impl Fn(&DeValue<'_>) -> Result<T, String>,
) -> impl Fn(&DeValue<'_>) -> Result<Option<T>, String> {
    move |value| parse(value).map(Some)
}

/// A network, or one address.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => unmapped(address.into()),
        Err(_) => network(text),
    }
}

fn file_path(text: &str) -> Result<Option<String>, String> {
    if text.starts_with('/') {
        return Ok(Some(text.to_owned()));
    }
    Err(format!("{text:?} is not an absolute path; expected one like \"/etc/shunt/blocked.txt\""))
}

/// A protocol by name or number.
fn protocol(value: &DeValue<'_>) -> Result<u8, String> {
    const NAMES: [(&str, u8); 4] = [
        ("tcp", ip_protocol::TCP),
        ("udp", ip_protocol::UDP),
        ("icmp", ip_protocol::ICMP),
        ("icmpv6", ip_protocol::ICMPV6),
    ];
    if let DeValue::Integer(_) = value {
        return integer(0..=255_u8)(value);
    }
    let known = |text: &str| NAMES.iter().find(|(name, _)| *name == text).map(|(_, n)| *n);
    let wrong = |what: String| {
        format!("{what}; expected \"tcp\", \"udp\", \"icmp\", \"icmpv6\" or a number from 0 to 255")
    };
    match value.as_str() {
        Some(text) => known(text).ok_or_else(|| wrong(format!("{text:?} is unknown"))),
        None => Err(wrong(format!("is {}", described(value)))),
    }
}

/// A port, `80`, or a range of them, `"8000-8080"`.
fn port_range(value: &DeValue<'_>) -> Result<(u16, u16), String> {
    let Some(text) = value.as_str() else {
        return integer(0..=65_535_u16)(value).map(|port| (port, port));
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (port_number(low), port_number(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err(format!(
            "{text:?} is no range of ports; expected one like 80 or \"8000-8080\", 0 to 65535"
        )),
    }
}

/// TCP flags with commas between, `!` before those that must not be set.
fn flags(text: &str) -> Result<FlagMatch, String> {
    const NAMES: [(&str, u8); 6] = [
        ("fin", tcp_flags::FIN),
        ("syn", tcp_flags::SYN),
        ("rst", tcp_flags::RST),
        ("psh", tcp_flags::PSH),
        ("ack", tcp_flags::ACK),
        ("urg", tcp_flags::URG),
    ];
    let mut flags = FlagMatch::default();
    for word in text.split(',').map(str::trim) {
        let (name, set) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
        let Some((_, bit)) = NAMES.iter().find(|(known, _)| *known == name) else {
            return Err(format!(
                "{word:?} is no TCP flag; expected fin, syn, rst, psh, ack, urg with commas \
                 between, like \"syn,!ack\""
            ));
        };
        if flags.mask & bit != 0 {
            return Err(format!("{name} stands twice; name each flag once"));
        }
        flags.mask |= bit;
        flags.value |= if set { *bit } else { 0 };
    }
    Ok(flags)
}
