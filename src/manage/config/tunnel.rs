//! The keys of services whose servers are reached by a tunnel, and what such a service asks of the
//! rest.

use super::draft::{Draft, ServiceDraft};
use super::reader::{At, Report, Section};
use super::schema::value;
use super::values::{integer, mac, string};
use crate::datapath::snapshot::{Mac, PortId, Route};
use crate::manage::config::network::lookup;
use crate::rewrite::tunnel::Encapsulation;
use crate::session::Mode;

/// Where Linux's `ip fou … gue` and its documentation have GUE (IANA).
const GUE_PORT: u16 = 6080;
/// RFC 7348 5.
const VXLAN_PORT: u16 = 4789;
/// The smallest MTU of a link with IPv6 (RFC 8200 5).
const LEAST_V6: u16 = 1280;

/// Reads `tunnel_port` and `vni` of a service.
pub(super) fn read(s: &mut Section<'_>, mode: Option<Mode>) -> (Option<u16>, Option<u32>) {
    let default = match mode {
        Some(Mode::Gue) => GUE_PORT,
        Some(Mode::Vxlan) => VXLAN_PORT,
        _ => 0,
    };
    let port = value(s.optional("tunnel_port", integer(1..=65_535_u16), default));
    if mode.is_some() && default == 0 && s.has("tunnel_port") {
        s.error("tunnel_port", "only for mode = \"gue\" or \"vxlan\"; leave it out");
    }
    let vni = value(s.optional("vni", integer(0..=0xff_ffff_u32), 0));
    match mode {
        Some(Mode::Vxlan) if !s.has("vni") => {
            s.missing("vni", "the VXLAN network identifier, like 100");
        }
        Some(mode) if mode != Mode::Vxlan && s.has("vni") => {
            s.error("vni", "only for mode = \"vxlan\"; leave it out");
        }
        _ => {}
    }
    (port, vni)
}

/// Reads `inner_mac` of a server.
pub(super) fn read_inner_mac(s: &mut Section<'_>, mode: Option<Mode>) -> Option<Option<Mac>> {
    const KEY: &str = "inner_mac";
    let given = s.has(KEY);
    let inner_mac = value(s.maybe(KEY, string(mac)));
    match mode {
        Some(Mode::Vxlan) if !given => {
            s.missing(KEY, "the MAC address of its vxlan device, like \"02:00:00:00:00:11\"");
        }
        Some(mode) if mode != Mode::Vxlan && given => {
            s.error(KEY, "only for mode = \"vxlan\"; leave it out");
        }
        _ => {}
    }
    (inner_mac.is_some() || !given).then_some(inner_mac)
}

/// A port towards servers must take IPv6's smallest packet with the outer headers around it: no
/// sender can be told to send less.
pub(super) fn mtu(draft: &Draft, table: &[Route], report: &Report<'_>) {
    for service in &draft.services {
        let Some(encapsulation) = encapsulation(service) else { continue };
        if !service.listen.items.iter().any(|l| l.value.is_ipv6()) {
            continue;
        }
        for server in &service.servers {
            let Some(At { value: server, line }) = server.address else { continue };
            let Some(target) = lookup(table, server.ip()) else { continue };
            let PortId(port) = target.port;
            let port = &draft.ports[usize::from(port)];
            let needed = LEAST_V6 + encapsulation.overhead(server.is_ipv6());
            if let Some(mtu) = port.mtu.as_ref().filter(|mtu| mtu.value < needed) {
                let message = format!(
                    "{} is reached with mtu {}, too small for IPv6 in a tunnel; make the port's mtu \
                     {needed} or more",
                    server.ip(),
                    mtu.value
                );
                report.error(line, "[[service.server]]", "address", message);
            }
        }
    }
}

fn encapsulation(service: &ServiceDraft) -> Option<Encapsulation> {
    let (port, vni) = (0, 0);
    match service.mode.as_ref()?.value {
        Mode::Nat | Mode::FullNat | Mode::Dr | Mode::Snat => None,
        Mode::Ipip => Some(Encapsulation::Ipip),
        Mode::Gre => Some(Encapsulation::Gre),
        Mode::Gue => Some(Encapsulation::Gue { port }),
        Mode::Vxlan => Some(Encapsulation::Vxlan { port, vni, src: [0; 6], dst: [0; 6] }),
    }
}
