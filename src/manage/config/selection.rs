//! The keys of `[[service]]` that say how it selects its servers, and the checks of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::draft::{Draft, ServerDraft, ServiceDraft};
use super::reader::{At, Report, Section};
use super::validate::Once;
use super::values::{any, boolean, choice, integer, name, string};
use crate::datapath::selection::Overflow;
use crate::sched::{HashOn, SchedulerKind};
use crate::session::Mode;
use crate::wire::flow::Protocol;
use crate::wire::quic::{MAX_CONNECTION_ID, MAX_ROTATION, MAX_SERVER_ID};

/// How a service selects its servers beyond its scheduler.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// What `sh` and `maglev` place a session by (key `hash_on`).
    pub hash_on: HashOn,
    /// The most open connections of the service; 0 for no limit.
    pub max_connections: u32,
    /// What happens when a server has as many connections as it may.
    pub overflow: Overflow,
    /// `persistence`; `None` for none.
    pub persistence: Option<Persistence>,
    /// Whether every datagram is a decision of its own.
    pub one_packet: bool,
    /// `[service.quic]`
    pub quic: Option<Quic>,
}

/// `persistence`
#[derive(Clone, Debug, PartialEq)]
pub struct Persistence {
    /// How long a client is remembered after its last new connection.
    pub seconds: u32,
    /// Bits of an IPv4 address that make a client.
    pub mask: u8,
    /// The same for IPv6.
    pub mask_v6: u8,
    /// Services of the same group send a client to the same address.
    pub group: Option<String>,
}

/// `[service.quic]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quic {
    /// Octets of a server id.
    pub server_id_length: u8,
    /// Octets of the servers' connection ids; 0 when not known.
    pub cid_length: u8,
    /// The first three bits of the servers' connection ids.
    pub config_rotation: u8,
}

/// [`Selection`] as it was read.
#[derive(Debug)]
pub(super) struct SelectionDraft {
    hash_on: Option<At<HashOn>>,
    max_connections: Option<At<u32>>,
    overflow: Option<At<Overflow>>,
    overflow_given: bool,
    persistence: Option<Option<At<Persistence>>>,
    one_packet: Option<At<bool>>,
    quic: Option<Option<At<Quic>>>,
}

/// Reads the keys.
pub(super) fn read(s: &mut Section<'_>) -> SelectionDraft {
    let words = &[
        ("source", HashOn::Source),
        ("source_port", HashOn::SourcePort),
        ("destination", HashOn::Destination),
        ("quic_cid", HashOn::QuicCid),
    ];
    let hash_on = s.optional("hash_on", choice(words, &[]), HashOn::Source);
    let max_connections = s.optional("max_connections", integer(0..=u32::MAX), 0);
    let overflow_given = s.has("overflow");
    let overflows = &[("next", Overflow::Next), ("refuse", Overflow::Refuse)];
    let overflow = s.optional("overflow", choice(overflows, &[]), Overflow::Next);
    let persistence = match s.has("persistence") {
        true => s.table("persistence", "[service.persistence]").and_then(read_persistence),
        false => {
            s.accept("persistence");
            Some(None)
        }
    };
    let one_packet = s.optional("one_packet", boolean, false);
    let quic = match s.has("quic") {
        true => s.table("quic", "[service.quic]").and_then(read_quic).map(Some),
        false => {
            s.accept("quic");
            Some(None)
        }
    };
    SelectionDraft {
        hash_on,
        max_connections,
        overflow,
        overflow_given,
        persistence,
        one_packet,
        quic,
    }
}

/// `Some(None)`: off.
fn read_persistence(mut s: Section<'_>) -> Option<Option<At<Persistence>>> {
    let line = s.line();
    // 12 days are as long as an entry can live.
    let seconds = s.required("seconds", integer(0..=1_000_000), "seconds, like 300; 0 for none");
    let mask = s.optional("mask", integer(1..=32), 32);
    let mask_v6 = s.optional("mask_v6", integer(1..=128), 128);
    let group_or_none = |text: &str| if text.is_empty() { any(text) } else { name(text) };
    let group = s.optional("group", string(group_or_none), String::new());
    s.finish();
    let (seconds, mask, mask_v6) = (seconds?.value, mask?.value, mask_v6?.value);
    let group = Some(group?.value).filter(|text| !text.is_empty());
    let persistence = Persistence { seconds, mask, mask_v6, group };
    Some((seconds != 0).then_some(At { value: persistence, line }))
}

fn read_quic(mut s: Section<'_>) -> Option<At<Quic>> {
    let line = s.line();
    let ids = 1..=MAX_SERVER_ID as u8;
    let server_id_length = s.required("server_id_length", integer(ids), "octets, like 2");
    let cid_length = s.optional("cid_length", integer(0..=MAX_CONNECTION_ID as u8), 0);
    let config_rotation = s.optional("config_rotation", integer(0..=MAX_ROTATION), 0);
    let mut has_room = true;
    if let (Some(id), Some(cid)) = (&server_id_length, &cid_length)
        && cid.value != 0
        && cid.value <= id.value
    {
        has_room = false;
        let least = id.value + 1;
        let message =
            format!("{} has no room for the server id; expected {least} to 20", cid.value);
        s.error("cid_length", message);
    }
    s.finish();
    let value = Quic {
        server_id_length: server_id_length?.value,
        cid_length: cid_length?.value,
        config_rotation: config_rotation?.value,
    };
    has_room.then_some(At { value, line })
}

/// A server id: an even number of hexadecimal digits.
pub(super) fn server_id(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{text:?} is no server id; expected hexadecimal octets, like \"0a0b\"");
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(wrong());
    }
    let octet = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
    match text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => (0..text.len()).step_by(2).map(octet).collect(),
        false => Err(wrong()),
    }
}

impl SelectionDraft {
    /// What it says, if nothing is wrong.
    pub(super) fn into_selection(self) -> Option<Selection> {
        Some(Selection {
            hash_on: self.hash_on?.value,
            max_connections: self.max_connections?.value,
            overflow: self.overflow?.value,
            persistence: self.persistence?.map(|p| p.value),
            one_packet: self.one_packet?.value,
            quic: self.quic?.map(|q| q.value),
        })
    }

    /// Whether it has no sessions.
    pub(super) fn one_packet(&self) -> bool {
        self.one_packet.as_ref().is_some_and(|at| at.value)
    }

    fn is_on_cid(&self) -> bool {
        self.hash_on.as_ref().is_some_and(|at| at.value == HashOn::QuicCid)
    }
}

/// Checks what the keys of one service say against each other and against other services.
pub(super) fn check(draft: &Draft, report: &Report<'_>) {
    for service in &draft.services {
        hash_key(service, report);
        overflow(service, report);
        quic_servers(service, report);
        one_packet(service, report);
    }
    groups(draft, report);
    one_packet_servers(draft, report);
}

fn error(report: &Report<'_>, line: usize, key: &str, message: impl Into<String>) {
    report.error(line, "[[service]]", key, message);
}

fn is_udp(service: &ServiceDraft) -> bool {
    service.protocol.as_ref().is_none_or(|p| p.value == Protocol::Udp)
}

fn hash_key(service: &ServiceDraft, report: &Report<'_>) {
    let Some(hash_on) = &service.selection.hash_on else { return };
    let hashes = service.scheduler.is_none_or(SchedulerKind::hashes);
    match hash_on.value {
        HashOn::Source => {}
        HashOn::QuicCid if !is_udp(service) => {
            error(
                report,
                hash_on.line,
                "hash_on",
                "\"quic_cid\" is for protocol = \"udp\"; leave it out",
            );
        }
        HashOn::QuicCid if hashes || matches!(service.selection.quic, Some(Some(_)) | None) => {}
        HashOn::QuicCid => {
            let message = "\"quic_cid\" needs [service.quic], or scheduler = \"sh\" or \"maglev\"";
            error(report, hash_on.line, "hash_on", message);
        }
        _ if !hashes => {
            let message = "only for scheduler = \"sh\" or \"maglev\"; leave it out";
            error(report, hash_on.line, "hash_on", message);
        }
        _ => {}
    }
}

fn overflow(service: &ServiceDraft, report: &Report<'_>) {
    let limited = |s: &ServerDraft| s.max_connections.is_none_or(|most| most != 0);
    if let Some(overflow) = &service.selection.overflow
        && service.selection.overflow_given
        && service.servers_whole
        && !service.servers.iter().any(limited)
    {
        let message = "says nothing without max_connections of a server; give one, or leave it out";
        error(report, overflow.line, "overflow", message);
    }
}

fn quic_servers(service: &ServiceDraft, report: &Report<'_>) {
    let Some(quic) = &service.selection.quic else { return };
    if let Some(quic) = quic
        && !service.selection.is_on_cid()
        && service.selection.hash_on.is_some()
    {
        let message = "only with hash_on = \"quic_cid\" of the service";
        report.error(quic.line, "[service.quic]", "", message);
    }
    let nameless = |server: &ServerDraft| matches!(server.quic_server_id, Some(None));
    if let Some(quic) = quic
        && service.selection.is_on_cid()
        && !service.scheduler.is_none_or(SchedulerKind::hashes)
        && service.servers_whole
        && service.servers.iter().all(nameless)
    {
        let message =
            "no server has a quic_server_id, so no packet is routed by it; give each its own";
        report.error(quic.line, "[service.quic]", "", message);
    }
    let length = quic.as_ref().map(|q| usize::from(q.value.server_id_length));
    let tunnels = service.mode.as_ref().is_some_and(|mode| mode.value.tunnels());
    let v4 = |address: SocketAddr| tunnels || address.is_ipv4();
    let mut once = Once::new();
    for server in &service.servers {
        let Some(Some(id)) = &server.quic_server_id else { continue };
        let error = |message: String| {
            report.error(id.line, "[[service.server]]", "quic_server_id", message);
        };
        match length {
            None => error("only with [service.quic]; add that, or leave it out".into()),
            Some(length) if id.value.len() != length => error(format!(
                "has {} octets; expected {length}, as server_id_length says",
                id.value.len()
            )),
            Some(_) => {}
        }
        if let Some(address) = &server.address
            && let Some(line) = once.repeated((v4(address.value), &id.value), id.line)
        {
            error(format!("is another server's (line {line}); give each its own"));
        }
    }
}

fn one_packet(service: &ServiceDraft, report: &Report<'_>) {
    let selection = &service.selection;
    let Some(one_packet) = selection.one_packet.as_ref().filter(|at| at.value) else { return };
    let wrong = |message: &str| error(report, one_packet.line, "one_packet", message);
    if !is_udp(service) {
        wrong("is for protocol = \"udp\"; leave it out");
    }
    match service.mode.as_ref().map(|mode| mode.value) {
        Some(Mode::FullNat) => wrong(
            "fullnat needs a session for the server's answer; use mode = \"nat\", \"dr\" or a tunnel, \
             or leave it out",
        ),
        Some(Mode::Nat) => {
            for v4 in [true, false] {
                let listen: Vec<_> =
                    service.listen.items.iter().filter(|l| l.value.is_ipv4() == v4).collect();
                if let [first, second, ..] = listen[..] {
                    wrong(&format!(
                        "an answer of a server could be from {} or {}; in nat listen on one address \
                         of a family",
                        first.value, second.value
                    ));
                }
            }
        }
        _ => {}
    }
    if matches!(selection.persistence, Some(Some(_))) {
        wrong("every datagram is a decision of its own; leave persistence or one_packet out");
    }
    let limited = |s: &ServerDraft| s.max_connections.is_some_and(|most| most != 0);
    let service_limited = selection.max_connections.as_ref().is_some_and(|at| at.value != 0);
    if service_limited || service.servers.iter().any(limited) {
        wrong("there are no connections to limit; leave max_connections or one_packet out");
    }
    if let Some(limits) = &service.limits
        && (limits.value.connections_per_second, limits.value.source_connections_per_second)
            != (0, 0)
    {
        wrong(
            "there are no connections to limit; expected packets_per_second and \
             source_packets_per_second in [service.limits]",
        );
    }
    if let Some(kind) = service.scheduler
        && matches!(
            kind,
            SchedulerKind::Lc | SchedulerKind::Wlc | SchedulerKind::Sed | SchedulerKind::Nq
        )
    {
        wrong(&format!(
            "{:?} counts connections, of which there are none; expected scheduler = \"rr\", \"wrr\", \
             \"sh\" or \"maglev\"",
            kind.name()
        ));
    }
}

/// In `nat` the answer of a server says by its address and port alone which service it is of.
fn one_packet_servers(draft: &Draft, report: &Report<'_>) {
    let mut first: HashMap<SocketAddr, (usize, bool)> = HashMap::new();
    for service in draft.services.iter().filter(|s| is_udp(s)) {
        let translates = service.mode.as_ref().is_some_and(|m| m.value == Mode::Nat);
        let one_packet = service.selection.one_packet() && translates;
        for server in service.servers.iter().filter_map(|s| s.address.as_ref()) {
            let (line, other) = *first.entry(server.value).or_insert((server.line, one_packet));
            if line != server.line && (one_packet || other) {
                let message = format!(
                    "{} is a server of another udp service (line {line}), and an answer of a \
                     one_packet service says by that alone which service it is of; use another port",
                    server.value
                );
                report.error(server.line, "[[service.server]]", "address", message);
            }
        }
    }
}

/// Services of a group mean the same clients and have servers in common.
fn groups(draft: &Draft, report: &Report<'_>) {
    let mut masks: HashMap<&str, (u8, u8, usize)> = HashMap::new();
    let mut hosts: HashMap<&str, Vec<IpAddr>> = HashMap::new();
    for service in &draft.services {
        let Some(Some(At { value, line })) = &service.selection.persistence else { continue };
        let Some(group) = &value.group else { continue };
        let own: Option<Vec<IpAddr>> =
            service.servers.iter().map(|s| Some(s.address.as_ref()?.value.ip())).collect();
        if let Some(own) = own.filter(|own| service.servers_whole && !own.is_empty()) {
            let known = hosts.entry(group).or_insert_with(|| own.clone());
            if !own.iter().any(|host| known.contains(host)) {
                let message = format!(
                    "no server has an address of those of another service of group {group:?}, so they \
                     would forget each other's clients; leave group out, or give it such servers"
                );
                report.error(*line, "[service.persistence]", "group", message);
            }
            known.extend(own);
        }
        let (mask, mask_v6, first) =
            *masks.entry(group).or_insert((value.mask, value.mask_v6, *line));
        if (mask, mask_v6) != (value.mask, value.mask_v6) {
            let message = format!(
                "the services of group {group:?} need the same masks; expected mask = {mask} and \
                 mask_v6 = {mask_v6}, as in line {first}"
            );
            report.error(*line, "[service.persistence]", "", message);
        }
    }
}
