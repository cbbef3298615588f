//! A digest of what must be alike in the configurations of both nodes of a pair.
//!
//! Sessions name services, real servers and persistence scopes, so these must stand in both files in
//! the same order; the addresses a session uses must be those of either node; and the groups must
//! have the same members, or both nodes or none would answer for an address.
//!
//! In it are services with all that decides what becomes of their sessions, LIPs, SNAT rules, and the
//! mode, virtual routers and their addresses of `[ha]`. Not in it is what may differ: the node, its
//! workers and capacity, devices, ports' own addresses, routes and neighbors, filters, mirrors and
//! protection (they look at packets, before any session), health checks, priorities, what is tracked,
//! and weights that were set by command.
//!
//! The digest is SipHash-2-4 with a key of zeros over text, a line for each thing. It must not change
//! from one version to the next for the same file, since two versions are a pair while they are
//! upgraded one after the other: what a new key adds is written only when it is not its default.

use std::fmt::{Debug, Write};
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::config::{Config, Ha, Selection, Server, Service, Snat, VirtualRouter};
use crate::datapath::limits::Limits;
use crate::datapath::policy::Policy;
use crate::datapath::snapshot::Timeouts;

/// The digest; never 0.
pub fn of(config: &Config) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(text(config).as_bytes());
    hasher.finish().max(1)
}

/// What is hashed.
fn text(config: &Config) -> String {
    let mut text = Text::default();
    for service in &config.services {
        add_service(&mut text, service);
    }
    for snat in &config.snats {
        add_snat(&mut text, snat);
    }
    let lips = config.ports.iter().flat_map(|port| &port.local_addresses);
    text.line("lips", &lips.collect::<Vec<_>>());
    if let Some(ha) = &config.ha {
        add_ha(&mut text, ha);
    }
    text.0
}

/// Lines `NAME VALUE`.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, value: &dyn Debug) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name} {value:?}");
    }
}

// Structures are taken apart by name, so that a field that is added does not compile until it is
// decided whether it belongs here.

fn add_service(text: &mut Text, service: &Service) {
    let Service {
        name,
        protocol,
        listen,
        mode,
        scheduler,
        timeouts,
        health: _,
        servers,
        policy,
        limits,
        mirror: _,
        introduction,
        selection,
        tunnel_port,
        vni,
        syn_proxy,
    } = service;
    text.line("service", name);
    text.line("protocol", protocol);
    text.line("listen", listen);
    text.line("mode", mode);
    text.line("scheduler", scheduler);
    text.line("introduction", introduction);
    text.line("tunnel", &(tunnel_port, vni));
    text.line("syn_proxy", syn_proxy);
    add_timeouts(text, timeouts);
    let Policy { mid_stream, reset_on_expiry, on_server_down, mss, dscp } = policy;
    text.line("policy", &(mid_stream, reset_on_expiry, on_server_down, mss, dscp));
    let Limits {
        connections_per_second,
        packets_per_second,
        half_open,
        source_connections_per_second,
        source_packets_per_second,
        source_half_open,
        source_mask,
        source_mask_v6,
    } = limits;
    text.line("limits", &(connections_per_second, packets_per_second, half_open));
    text.line(
        "source_limits",
        &(source_connections_per_second, source_packets_per_second, source_half_open),
    );
    text.line("source_masks", &(source_mask, source_mask_v6));
    let Selection { hash_on, max_connections, overflow, persistence, one_packet, quic } = selection;
    text.line("selection", &(hash_on, max_connections, overflow, one_packet));
    if let Some(p) = persistence {
        text.line("persistence", &(p.seconds, p.mask, p.mask_v6, &p.group));
    }
    if let Some(quic) = quic {
        text.line("quic", &(quic.server_id_length, quic.cid_length, quic.config_rotation));
    }
    for server in servers {
        let Server { address, weight, inner_mac, backup, max_connections, quic_server_id } = server;
        text.line("server", &(address, weight, inner_mac, backup, max_connections, quic_server_id));
    }
}

fn add_timeouts(text: &mut Text, timeouts: &Timeouts) {
    let Timeouts {
        tcp_syn,
        tcp_established,
        tcp_fin,
        udp,
        tcp_syn_received,
        tcp_fin_wait,
        tcp_time_wait,
        tcp_close,
    } = timeouts;
    text.line("timeouts", &(tcp_syn, tcp_established, tcp_fin, udp));
    text.line("timeouts", &(tcp_syn_received, tcp_fin_wait, tcp_time_wait, tcp_close));
}

fn add_snat(text: &mut Text, snat: &Snat) {
    let Snat {
        name,
        sources,
        pool,
        ports,
        mapping,
        filtering,
        ports_per_source,
        hairpin,
        timeouts,
        forwards,
    } = snat;
    text.line("snat", name);
    text.line("sources", sources);
    text.line("pool", pool);
    text.line("ports", ports);
    text.line("behavior", &(mapping, filtering, ports_per_source, hairpin));
    add_timeouts(text, timeouts);
    for forward in forwards {
        text.line("forward", &(forward.protocol, forward.external, forward.internal));
    }
}

fn add_ha(text: &mut Text, ha: &Ha) {
    text.line("ha", &(ha.mode, ha.virtual_mac));
    for VirtualRouter { vrid, priority: _, addresses } in &ha.groups {
        text.line("group", &(vrid, addresses));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing;

    #[test]
    fn what_must_be_alike_counts_and_nothing_else() {
        let digest = of(&testing::config());
        assert_eq!(digest, of(&testing::config()));
        let changed = |change: fn(&mut Config)| {
            let mut config = testing::config();
            change(&mut config);
            of(&config) != digest
        };
        type Change = fn(&mut Config);
        let alike: [Change; 9] = [
            |c| c.services.reverse(),
            |c| c.services[0].servers.reverse(),
            |c| c.services[0].servers[1].weight = 7,
            |c| c.services[1].name = "names".into(),
            |c| c.services[1].timeouts.udp += 1,
            |c| c.services[0].policy.mss = 1400,
            |c| c.services[0].selection.max_connections = 5,
            |c| c.ports[1].local_addresses.push("10.0.0.9".parse().unwrap()),
            |c| c.services[0].listen.push("192.0.2.11:80".parse().unwrap()),
        ];
        for (number, change) in alike.into_iter().enumerate() {
            assert!(changed(change), "{number}");
        }
        let own: [Change; 7] = [
            |c| c.node.name = "lb-b".into(),
            |c| c.node.id = 1,
            |c| c.node.workers.push(9),
            |c| c.node.sessions *= 2,
            |c| c.ports[0].device = "net_null9".into(),
            |c| c.ports[0].addresses = vec!["192.0.2.3/24".parse().unwrap()],
            |c| c.services[0].health = None,
        ];
        for (number, change) in own.into_iter().enumerate() {
            assert!(!changed(change), "{number}");
        }
    }
}
