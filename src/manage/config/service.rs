//! The keys of `[[service]]` and of the tables in it.

use super::draft::{ServerDraft, ServiceDraft};
use super::guard;
use super::policy;
use super::reader::{At, Section};
use super::schema::{read_timeouts, value};
use super::syn_proxy;
use super::values::{
    boolean, choice, endpoint, http_host, http_path, integer, name as name_of, statuses, string,
};
use super::{Health, HealthCheck, introduction, selection, tunnel};
use crate::datapath::snapshot::{Introduction, Timeouts};
use crate::sched::SchedulerKind;
use crate::session::Mode;
use crate::wire::flow::Protocol;

/// The time a health check may take, in milliseconds, if the file says nothing and the interval is
/// not shorter.
const CHECK_TIMEOUT: u64 = 500;

/// Reads a service. `timeouts` is what `[timeouts]` says, `None` when that is wrong.
pub(super) fn read(mut s: Section<'_>, timeouts: Option<Timeouts>) -> ServiceDraft {
    let name = s.required("name", string(name_of), "a name, like \"web\"");
    let protocol = s.required(
        "protocol",
        choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], &[]),
        "\"tcp\" or \"udp\"",
    );
    let listen = s.required_list(
        "listen",
        string(endpoint),
        "virtual addresses with ports, like [\"192.0.2.10:80\"]",
    );
    let mode = s.optional(
        "mode",
        choice(
            &[
                ("nat", Mode::Nat),
                ("fullnat", Mode::FullNat),
                ("dr", Mode::Dr),
                ("ipip", Mode::Ipip),
                ("gre", Mode::Gre),
                ("gue", Mode::Gue),
                ("vxlan", Mode::Vxlan),
            ],
            &[],
        ),
        Mode::Nat,
    );
    let known_mode = mode.as_ref().map(|mode| mode.value);
    let (tunnel_port, vni) = tunnel::read(&mut s, known_mode);
    let scheduler = value(s.optional(
        "scheduler",
        choice(
            &[
                ("rr", SchedulerKind::Rr),
                ("wrr", SchedulerKind::Wrr),
                ("lc", SchedulerKind::Lc),
                ("wlc", SchedulerKind::Wlc),
                ("sed", SchedulerKind::Sed),
                ("nq", SchedulerKind::Nq),
                ("sh", SchedulerKind::Sh),
                ("maglev", SchedulerKind::Maglev),
            ],
            &[],
        ),
        SchedulerKind::Wrr,
    ));
    let selection = selection::read(&mut s);
    let introduction = introduction::read(&mut s, mode.as_ref(), protocol.as_ref());

    // Read even when `[timeouts]` is wrong, so that errors in it are found in the same run.
    let udp = protocol.as_ref().is_some_and(|p| p.value == Protocol::Udp);
    let sessionless = udp && selection.one_packet();
    let own = s.table("timeouts", "[service.timeouts]").and_then(|t| {
        if sessionless && t.has("udp") {
            t.error("udp", "a one_packet service has no session that could time out; leave it out");
        }
        read_timeouts(t, timeouts.unwrap_or_default())
    });
    if sessionless && s.has("on_server_down") {
        let message = "a one_packet service has no session that a server could lose; leave it out";
        s.error("on_server_down", message);
    }
    let health = match s.has("health") {
        true => s
            .table("health", "[service.health]")
            .and_then(|h| read_health(h, introduction.unwrap_or_default()))
            .map(Some),
        false => {
            s.accept("health");
            Some(None)
        }
    };

    let limits = s.table("limits", "[service.limits]").and_then(guard::read_limits);
    let mirror = s.optional("mirror", string(|text| name_of(text).map(Some)), None);
    let (servers, servers_whole) = s.tables("server", "[[service.server]]");
    if servers_whole && servers.is_empty() {
        s.missing("server", "at least one [[service.server]]");
    }
    let policy = policy::read(&mut s, protocol.as_ref(), mode.as_ref(), scheduler);
    let servers = servers.into_iter().map(|s| read_server(s, known_mode)).collect();
    let syn_proxy = syn_proxy::read(&mut s);
    let line = s.line();
    s.finish();
    ServiceDraft {
        line,
        name,
        protocol,
        listen,
        mode,
        scheduler,
        timeouts: timeouts.and(own),
        health,
        servers,
        servers_whole,
        policy,
        limits,
        mirror,
        introduction,
        tunnel_port,
        vni,
        syn_proxy,
        selection,
    }
}

fn read_server(mut s: Section<'_>, mode: Option<Mode>) -> ServerDraft {
    let id_given = s.has("quic_server_id");
    let quic_server_id = s.maybe("quic_server_id", string(selection::server_id));
    let draft = ServerDraft {
        address: s.required("address", string(endpoint), "ADDRESS:PORT, like \"10.0.0.11:8080\""),
        weight: value(s.optional("weight", integer(0..=65_535), 1)),
        inner_mac: tunnel::read_inner_mac(&mut s, mode),
        backup: value(s.optional("backup", boolean, false)),
        max_connections: value(s.optional("max_connections", integer(0..=u32::MAX), 0)),
        quic_server_id: match quic_server_id {
            None if id_given => None,
            id => Some(id),
        },
    };
    s.finish();
    draft
}

/// What `type` says.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tcp,
    Http,
}

/// `introduction` is the service's: a server that expects a PROXY protocol header expects it of a
/// check too, unless that asks another port.
fn read_health(mut s: Section<'_>, introduction: Introduction) -> Option<At<Health>> {
    let kind = s.required(
        "type",
        choice(&[("tcp", Kind::Tcp), ("http", Kind::Http)], &["icmp", "udp", "https", "exec"]),
        "\"tcp\" or \"http\"",
    );
    let path = s.optional("path", string(http_path), "/".to_owned());
    let host_given = s.has("host");
    let host = s.maybe("host", string(http_host));
    let expect = s.optional("expect", string(statuses), vec![(200, 299)]);
    if kind.as_ref().is_some_and(|k| k.value == Kind::Tcp) {
        for key in ["path", "host", "expect"] {
            if s.has(key) {
                s.error(key, "only for type = \"http\"; leave it out");
            }
        }
    }
    let interval = s.optional("interval_ms", integer(10..=3_600_000), 1_000);
    let default = interval.as_ref().map_or(CHECK_TIMEOUT, |i| CHECK_TIMEOUT.min(i.value));
    let timeout = s.optional("timeout_ms", integer(1..=3_600_000), default);
    if let (Some(interval), Some(timeout)) = (&interval, &timeout)
        && timeout.value > interval.value
    {
        let message = format!(
            "{} is longer than interval_ms; expected 1 to {}",
            timeout.value, interval.value
        );
        s.error("timeout_ms", message);
    }
    let rise = s.optional("rise", integer(1..=100), 2);
    let fall = s.optional("fall", integer(1..=100), 3);
    let port_given = s.has("port");
    let port = s.maybe("port", integer(1..=65_535_u16));
    let line = s.line();
    s.finish();

    if host_given && host.is_none() || port_given && port.is_none() {
        return None;
    }
    let check = match kind?.value {
        Kind::Tcp => HealthCheck::Tcp,
        Kind::Http => {
            HealthCheck::Http { path: path?.value, host: value(host), expect: expect?.value }
        }
    };
    let health = Health {
        check,
        interval_ms: interval?.value,
        timeout_ms: timeout?.value,
        rise: rise?.value,
        fall: fall?.value,
        proxy_protocol: if port_given { None } else { introduction.proxy_protocol() },
        port: value(port),
    };
    Some(At { value: health, line })
}
