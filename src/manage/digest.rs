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
//! The digest is SipHash-2-4 with a key of zeros over text, a line for each thing: the upper 24 bits of
//! it over all, below them 8 of each [`Part`]. It must not change from one version to the next for the
//! same file, since two versions are a pair while they are upgraded one after the other: what a new
//! key adds is written only when it is not its default. Values are written as `Debug` has them, so a
//! type that is renamed or gets a field changes it: a test pins the digest of a whole configuration.

use std::fmt::{Debug, Write};
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::config::{Config, Ha, Selection, Server, Service, Snat, VirtualRouter};
use crate::datapath::limits::Limits;
use crate::datapath::policy::Policy;
use crate::datapath::snapshot::Timeouts;

/// Bits of the digest that are of a [`Part`].
const PART_BITS: u32 = 8;

/// What is digested by itself, so that a node can say in what the other differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Services,
    Servers,
    LocalAddresses,
    Snat,
    Ha,
}

impl Part {
    const ALL: [Part; 5] =
        [Part::Services, Part::Servers, Part::LocalAddresses, Part::Snat, Part::Ha];

    /// As the configuration has it.
    const fn name(self) -> &'static str {
        match self {
            Part::Services => "services",
            Part::Servers => "servers",
            Part::LocalAddresses => "local_addresses",
            Part::Snat => "[[snat]]",
            Part::Ha => "[ha] (mode, virtual_mac, groups)",
        }
    }

    /// What is hashed.
    fn text(self, config: &Config) -> String {
        let mut text = Text::default();
        match self {
            Part::Services => config.services.iter().for_each(|s| add_service(&mut text, s)),
            Part::Servers => config.services.iter().for_each(|s| add_servers(&mut text, s)),
            Part::LocalAddresses => {
                let lips = config.ports.iter().flat_map(|port| &port.local_addresses);
                text.line("lips", &lips.collect::<Vec<_>>());
            }
            Part::Snat => config.snats.iter().for_each(|snat| add_snat(&mut text, snat)),
            Part::Ha => config.ha.iter().for_each(|ha| add_ha(&mut text, ha)),
        }
        text.0
    }
}

/// The digest; never 0.
pub fn of(config: &Config) -> u64 {
    let texts = Part::ALL.map(|part| part.text(config));
    let all = hash(&texts.concat()) & u64::MAX << (PART_BITS * Part::ALL.len() as u32);
    let parts = texts
        .iter()
        .rev()
        .fold(0, |parts, text| parts << PART_BITS | hash(text) >> (u64::BITS - PART_BITS));
    (all | parts).max(1)
}

/// In what two configurations differ that have these digests, as far as it can be told: one in 256
/// differing parts is not named.
pub fn differing(a: u64, b: u64) -> Vec<&'static str> {
    let part = |digest: u64, place: u32| digest >> (PART_BITS * place) & ((1 << PART_BITS) - 1);
    let parts = Part::ALL.into_iter().zip(0..);
    parts.filter(|(_, place)| part(a, *place) != part(b, *place)).map(|(p, _)| p.name()).collect()
}

/// All that there is to differ in.
pub fn all_parts() -> Vec<&'static str> {
    Part::ALL.map(Part::name).to_vec()
}

fn hash(text: &str) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(text.as_bytes());
    hasher.finish()
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
        // Of add_servers.
        servers: _,
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
}

fn add_servers(text: &mut Text, service: &Service) {
    text.line("servers", &service.servers.len());
    for server in &service.servers {
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
    let Ha {
        mode,
        groups,
        virtual_mac,
        peer: _,
        source: _,
        // VRRP notices.
        advert_interval_ms: _,
        preempt: _,
        preempt_delay_s: _,
        preempt_unsynced: _,
        track_ports: _,
        port_drop: _,
        track_services: _,
        service_drop: _,
        // Without the same of these, the nodes do not hear each other.
        sync_group: _,
        key_file: _,
        keys: _,
        sync_port: _,
        sync_rate: _,
        relay: _,
    } = ha;
    text.line("ha", &(mode, virtual_mac));
    for (index, VirtualRouter { vrid, priority: _, addresses }) in groups.iter().enumerate() {
        // The first group has what the other parts name and no other group has.
        let addresses = if index == 0 { &[][..] } else { addresses };
        text.line("group", &(vrid, addresses));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::manage::config;
    use crate::session::mappings::Behavior;

    /// Something of everything that counts.
    const FILE: &str = r#"
[node]
name = "lb-a"
id = 0
workers = [1, 2]

[dpdk]
memory_mb = 2048
vdevs = ["net_af_packet0,iface=eth0", "net_af_packet1,iface=eth1"]

[[port]]
name = "front"
device = "net_af_packet0"
side = "client"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]

[[port]]
name = "back"
device = "net_af_packet1"
side = "server"
addresses = ["10.0.0.2/24", "2001:db8:1::2/64"]
local_addresses = ["10.0.0.100", "2001:db8:1::100"]

[[service]]
name = "web"
protocol = "tcp"
listen = ["192.0.2.10:80", "[2001:db8::10]:80"]
mode = "nat"
scheduler = "wrr"
mid_stream = "reset"
reset_on_expiry = true
on_server_down = "keep"
mss = 1400
dscp = 46
max_connections = 100_000
syn_proxy = "auto"
syn_proxy_above = 10_000
[service.timeouts]
tcp_established = 3600
[service.limits]
source_connections_per_second = 200
source_half_open = 100
[service.persistence]
seconds = 300
group = "shop"
[service.health]
type = "http"
path = "/healthz"
[[service.server]]
address = "10.0.0.11:8080"
weight = 10
[[service.server]]
address = "10.0.0.12:8080"
weight = 5
backup = true
[[service.server]]
address = "[2001:db8:1::11]:8080"
max_connections = 50_000

[[service]]
name = "shop"
protocol = "tcp"
listen = ["192.0.2.20:443"]
mode = "fullnat"
scheduler = "maglev"
proxy_protocol = "v2"
[[service.server]]
address = "10.0.0.11:8443"

[[service]]
name = "dns"
protocol = "udp"
listen = ["192.0.2.10:53"]
mode = "vxlan"
scheduler = "rr"
one_packet = true
vni = 77
[[service.server]]
address = "10.0.0.11:53"
inner_mac = "02:00:00:00:00:11"

[[service]]
name = "quic"
protocol = "udp"
listen = ["192.0.2.10:443"]
mode = "dr"
scheduler = "maglev"
hash_on = "quic_cid"
[service.quic]
server_id_length = 2
cid_length = 8
[[service.server]]
address = "10.0.0.11:443"
quic_server_id = "0a0b"

[[snat]]
name = "egress"
sources = ["10.0.0.0/24", "2001:db8:1::/64"]
pool = ["192.0.2.5", "192.0.2.16/30", "2001:db8::5"]
ports_per_source = 1000
[[snat.forward]]
protocol = "tcp"
external = "192.0.2.5:8080"
internal = "10.0.0.7:80"

[ha]
group = 10
priority = 200
peer = "192.0.2.3"
sync_port = "front"
key_file = "KEY"

[[ha.extra_group]]
group = 11
addresses = ["192.0.2.20"]

[api]
socket = "/run/shunt.sock"
"#;

    /// What the file says.
    fn whole() -> Config {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), "0123456789abcdef".repeat(4)).unwrap();
        std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = FILE.replace("KEY", key.path().to_str().unwrap());
        config::parse(&text, "whole.toml").unwrap()
    }

    /// When this fails, a node of this version and one of the version before, with the same file, each say
    /// that the configurations differ, until both are upgraded: there is no good reason for that but
    /// a wrong digest. A type that was renamed, a field more in one that is written whole, and a line
    /// that is written without need do it.
    #[test]
    fn the_digest_of_a_file_stays_as_it_is() {
        assert_eq!(format!("{:016x}", of(&whole())), "2fe9b9ad5d9fa3dc");
    }

    type Change = fn(&mut Config);

    fn ha(config: &mut Config) -> &mut Ha {
        config.ha.as_mut().unwrap()
    }

    #[test]
    fn what_must_be_alike_counts_and_the_part_is_named() {
        let digest = of(&whole());
        let [services, servers, lips, snat, pair] = Part::ALL.map(Part::name);
        let changes: [(Change, &[&str]); 33] = [
            (|c| c.services.reverse(), &[services, servers]),
            (|c| c.services[1].name = "names".into(), &[services]),
            (|c| c.services[1].timeouts.udp += 1, &[services]),
            (|c| c.services[0].policy.mss = 1401, &[services]),
            (|c| c.services[0].policy.dscp = None, &[services]),
            (|c| c.services[0].selection.max_connections = 5, &[services]),
            (|c| c.services[0].selection.persistence = None, &[services]),
            (|c| c.services[0].limits.source_half_open = 5, &[services]),
            (|c| c.services[0].syn_proxy = c.services[1].syn_proxy, &[services]),
            (|c| c.services[0].listen.push("192.0.2.11:80".parse().unwrap()), &[services]),
            (|c| c.services[1].introduction = c.services[0].introduction, &[services]),
            (|c| c.services[2].vni += 1, &[services]),
            (|c| c.services[3].selection.quic = None, &[services]),
            (|c| c.services[0].servers.reverse(), &[servers]),
            (|c| c.services[0].servers[1].weight = 7, &[servers]),
            (|c| c.services[0].servers[1].backup = false, &[servers]),
            (|c| c.services[2].servers[0].inner_mac = None, &[servers]),
            (|c| c.services[3].servers[0].address.set_port(1), &[servers]),
            (|c| c.ports[1].local_addresses.push("10.0.0.9".parse().unwrap()), &[lips]),
            (|c| c.ports[1].local_addresses.reverse(), &[lips]),
            (|c| c.snats.clear(), &[snat]),
            (|c| c.snats[0].name = "out".into(), &[snat]),
            (|c| c.snats[0].sources.reverse(), &[snat]),
            (|c| c.snats[0].pool.truncate(1), &[snat]),
            (|c| c.snats[0].ports = 2_000..=65_535, &[snat]),
            (|c| c.snats[0].mapping = Behavior::AddressAndPortDependent, &[snat]),
            (|c| c.snats[0].timeouts.udp += 1, &[snat]),
            (|c| c.snats[0].forwards.clear(), &[snat]),
            (|c| ha(c).mode = config::PairMode::ActiveActive, &[pair]),
            (|c| ha(c).virtual_mac = false, &[pair]),
            (|c| ha(c).groups[0].vrid = 12, &[pair]),
            (|c| ha(c).groups[1].addresses.clear(), &[pair]),
            (|c| c.ha = None, &[pair]),
        ];
        for (number, (change, named)) in changes.into_iter().enumerate() {
            let mut config = whole();
            change(&mut config);
            assert_eq!(differing(digest, of(&config)), named, "{number}");
            assert_ne!(digest >> 40, of(&config) >> 40, "{number}");
        }
    }

    #[test]
    fn what_is_the_nodes_own_does_not_count() {
        let digest = of(&whole());
        let own: [Change; 17] = [
            |c| c.node.name = "lb-b".into(),
            |c| c.node.id = 1,
            |c| c.node.workers.push(9),
            |c| c.node.sessions *= 2,
            |c| c.ports[0].device = "net_null9".into(),
            |c| c.ports[0].addresses = vec!["192.0.2.3/24".parse().unwrap()],
            |c| c.services[0].health = None,
            |c| ha(c).groups[0].priority = 1,
            |c| ha(c).peer = "192.0.2.2".parse().unwrap(),
            |c| ha(c).source = "192.0.2.3".parse().unwrap(),
            |c| ha(c).advert_interval_ms = 100,
            |c| ha(c).preempt = false,
            |c| ha(c).preempt_delay_s = 5,
            |c| ha(c).track_ports.clear(),
            |c| ha(c).port_drop = 5,
            |c| ha(c).track_services.push("web".into()),
            |c| ha(c).sync_rate = 1_000,
        ];
        for (number, change) in own.into_iter().enumerate() {
            let mut config = whole();
            change(&mut config);
            assert_eq!(of(&config), digest, "{number}");
        }
    }
}
