//! The keys of every section but `[[service]]`: their types, ranges and defaults.

use std::path::PathBuf;

use toml::de::DeTable;

use super::draft::{DpdkDraft, Draft, NeighborDraft, NodeDraft, PortDraft, RouteDraft};
use super::guard::{self, GuardDraft};
use super::reader::{At, List, Report, Section};
use super::values::{
    address, any, boolean, choice, integer, interface, interface_address, mac, name, network, pci,
    routed_address, socket_path, string, vdev,
};
use super::{Api, Idle};
use super::{ha, service, snat};
use crate::datapath::snapshot::{Side, Timeouts};

/// The most workers a node can have: one ring joins each ordered pair of them.
pub const MAX_WORKERS: usize = 64;

/// Reads the whole file.
pub(super) fn read<'a>(root: &'a DeTable<'a>, report: &'a Report<'a>) -> Draft {
    let mut file = Section::new("", 1, Some(root), report);
    let node = read_node(file.table("node", "[node]"));
    let dpdk = read_dpdk(file.table("dpdk", "[dpdk]"));

    let guard = guard::read(&mut file);
    let (ports, ports_whole) = file.tables("port", "[[port]]");
    if ports_whole && ports.is_empty() {
        report.error(1, "[[port]]", "", "missing; give at least one port");
    }
    let ports = ports.into_iter().map(|s| read_port(s, &guard)).collect();
    let (routes, routes_whole) = file.tables("route", "[[route]]");
    let routes = routes.into_iter().map(read_route).collect();
    let neighbors = file.tables("neighbor", "[[neighbor]]").0;
    let neighbors = neighbors.into_iter().map(read_neighbor).collect();

    let timeouts =
        file.table("timeouts", "[timeouts]").and_then(|t| read_timeouts(t, Timeouts::default()));
    let services = file.tables("service", "[[service]]").0;
    let services = services.into_iter().map(|s| service::read(s, timeouts)).collect();
    let snats = file.tables("snat", "[[snat]]").0.into_iter().map(snat::read).collect();
    let ha = match file.has("ha") {
        true => file.table("ha", ha::HA).map(|s| Some(ha::read(s))),
        false => {
            file.accept("ha");
            Some(None)
        }
    };
    let api = read_api(file.table("api", "[api]"));

    file.finish();
    Draft {
        node,
        dpdk,
        ports,
        routes,
        neighbors,
        services,
        api,
        snats,
        guard,
        ha,
        whole: ports_whole && routes_whole,
    }
}

fn read_node(section: Option<Section<'_>>) -> NodeDraft {
    let Some(mut s) = section else {
        let workers = List { items: Vec::new(), whole: false };
        return NodeDraft { name: None, id: None, workers, idle: None, sessions: None };
    };
    let draft = NodeDraft {
        name: value(s.optional("name", string(name), "shunt".to_owned())),
        id: value(s.optional("id", integer(0..=1), 0)),
        workers: s.required_list("workers", integer(0..=1023), "CPU cores, like [1]"),
        idle: value(s.optional(
            "idle",
            choice(&[("spin", Idle::Spin), ("yield", Idle::Yield)], &[]),
            Idle::Spin,
        )),
        sessions: value(s.optional("sessions", integer(1_024..=1_000_000_000), 1_000_000)),
    };
    s.finish();
    draft
}

fn read_dpdk(section: Option<Section<'_>>) -> DpdkDraft {
    let Some(mut s) = section else {
        let none = || List { items: Vec::new(), whole: false };
        return DpdkDraft {
            memory_mb: None,
            hugepages: None,
            allow: none(),
            vdevs: none(),
            extra_args: none(),
        };
    };
    let draft = DpdkDraft {
        memory_mb: s.optional("memory_mb", integer(64..=1_048_576), 512),
        hugepages: value(s.optional("hugepages", boolean, true)),
        allow: s.list("allow", string(pci)),
        vdevs: s.list("vdevs", string(vdev)),
        extra_args: s.list("extra_args", string(any)),
    };
    s.finish();
    draft
}

fn read_port(mut s: Section<'_>, guard: &GuardDraft) -> PortDraft {
    let name = s.required("name", string(name), "a name, like \"front\"");
    let example = "the port's addresses, like [\"192.0.2.2/24\"]";
    let for_sensor = name.as_ref().is_some_and(|name| guard.has_sensor_on(&name.value));
    let draft = PortDraft {
        line: s.line(),
        device: s.required(
            "device",
            string(device),
            "a PCI address or the name of a vdev, like \"net_af_packet0\"",
        ),
        side: s.required(
            "side",
            choice(
                &[("client", Side::Client), ("server", Side::Server), ("both", Side::Both)],
                &[],
            ),
            "\"client\", \"server\" or \"both\"",
        ),
        addresses: match for_sensor {
            true => s.list("addresses", string(interface_address)),
            false => s.required_list("addresses", string(interface_address), example),
        },
        local_addresses: s.list("local_addresses", string(routed_address)),
        mtu: s.optional("mtu", integer(576..=9_216), 1_500),
        exception: s.optional("exception", string(interface), None),
        full_checksums: value(s.optional("full_checksums", boolean, false)),
        vlan: s.optional("vlan", integer(0..=4_094_u16), 0),
        name,
    };
    s.finish();
    draft
}

/// A PCI address in full, or the name of a vdev.
fn device(text: &str) -> Result<String, String> {
    pci(text)
        .or_else(|_| name(text))
        .map_err(|_| format!("{text:?} is no device; expected a PCI address or the name of a vdev"))
}

fn read_route(mut s: Section<'_>) -> RouteDraft {
    let draft = RouteDraft {
        to: s.required("to", string(network), "a network, like \"0.0.0.0/0\""),
        via: s.required("via", string(address), "the gateway's address, like \"192.0.2.1\""),
    };
    s.finish();
    draft
}

fn read_neighbor(mut s: Section<'_>) -> NeighborDraft {
    let draft = NeighborDraft {
        address: s.required("address", string(address), "its address, like \"10.0.0.12\""),
        mac: value(s.required("mac", string(mac), "its MAC address, like \"02:00:00:00:00:12\"")),
        port: s.required("port", string(any), "the name of the port it is on"),
    };
    s.finish();
    draft
}

/// Reads `[timeouts]` or `[service.timeouts]`: whole seconds, at most a day each.
pub(super) fn read_timeouts(mut s: Section<'_>, otherwise: Timeouts) -> Option<Timeouts> {
    let mut milliseconds = |key, otherwise: u32| {
        s.optional(key, integer(1..=86_400_u32), otherwise / 1_000).map(|s| s.value * 1_000)
    };
    let timeouts = (
        milliseconds("tcp_syn", otherwise.tcp_syn),
        milliseconds("tcp_established", otherwise.tcp_established),
        milliseconds("tcp_fin", otherwise.tcp_fin),
        milliseconds("udp", otherwise.udp),
        milliseconds("tcp_syn_received", otherwise.tcp_syn_received),
        milliseconds("tcp_fin_wait", otherwise.tcp_fin_wait),
        milliseconds("tcp_time_wait", otherwise.tcp_time_wait),
        milliseconds("tcp_close", otherwise.tcp_close),
    );
    s.finish();
    Some(Timeouts {
        tcp_syn: timeouts.0?,
        tcp_established: timeouts.1?,
        tcp_fin: timeouts.2?,
        udp: timeouts.3?,
        tcp_syn_received: timeouts.4?,
        tcp_fin_wait: timeouts.5?,
        tcp_time_wait: timeouts.6?,
        tcp_close: timeouts.7?,
    })
}

fn read_api(section: Option<Section<'_>>) -> Option<Api> {
    let mut s = section?;
    let socket = s.optional("socket", string(socket_path), "/run/shunt.sock".to_owned());
    s.not_yet_but("listen", "listen = \"\"", |v| v.as_str() == Some(""));
    s.finish();
    Some(Api { socket: PathBuf::from(socket?.value) })
}

/// The value alone, where no check needs the line.
pub(super) fn value<T>(at: Option<At<T>>) -> Option<T> {
    at.map(|at| at.value)
}
