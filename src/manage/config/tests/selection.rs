//! How a service selects its servers.

use super::*;
use crate::datapath::selection::Overflow;
use crate::sched::HashOn;

const WEB: &str = "name = \"web\"";
const DNS: &str = "name = \"dns\"";
const LAST: &str = "address = \"10.0.0.11:53\"";

/// The configuration with these lines after the names of the services.
fn with(web: &str, dns: &str) -> Config {
    let text = BASE.replacen(WEB, &format!("{WEB}\n{web}"), 1);
    let text = text.replacen(DNS, &format!("{DNS}\n{dns}"), 1);
    parse(&text, "f.toml").unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn web(line: &str, expected: &str) {
    one(WEB, &format!("{WEB}\n{line}"), expected);
}

#[test]
fn what_is_read() {
    let persistence = "persistence = { seconds = 300, mask = 24, mask_v6 = 64, group = \"site\" }";
    let config = with(
        &format!(
            "scheduler = \"maglev\"\nhash_on = \"source_port\"\nmax_connections = 1_000\n{persistence}"
        ),
        "hash_on = \"quic_cid\"\nquic = { server_id_length = 2, cid_length = 8, config_rotation = 3 }\nscheduler = \"sh\"",
    );
    let (web, dns) = (&config.services[0], &config.services[1]);
    assert_eq!(web.scheduler, SchedulerKind::Maglev);
    assert_eq!(
        web.selection,
        Selection {
            hash_on: HashOn::SourcePort,
            max_connections: 1_000,
            overflow: Overflow::Next,
            persistence: Some(Persistence {
                seconds: 300,
                mask: 24,
                mask_v6: 64,
                group: Some("site".into()),
            }),
            one_packet: false,
            quic: None,
        }
    );
    let quic = Quic { server_id_length: 2, cid_length: 8, config_rotation: 3 };
    assert_eq!((dns.selection.hash_on, dns.selection.quic), (HashOn::QuicCid, Some(quic)));

    let off = with("persistence = { seconds = 0, mask = 24 }", "");
    assert_eq!(off.services[0].selection, Selection::default());
    for scheduler in ["sed", "nq", "sh"] {
        let config = with(&format!("scheduler = {scheduler:?}"), "");
        assert_eq!(config.services[0].scheduler.name(), scheduler);
    }
    let text = BASE.replace("weight = 10", "backup = true\nmax_connections = 7");
    let text = text.replacen(WEB, &format!("{WEB}\noverflow = \"refuse\""), 1);
    let config = parse(&text, "f.toml").unwrap();
    let servers = &config.services[0].servers;
    assert_eq!((servers[0].backup, servers[0].max_connections), (true, 7));
    assert_eq!((servers[1].backup, servers[1].max_connections), (false, 0));
    assert_eq!(config.services[0].selection.overflow, Overflow::Refuse);
}

#[test]
fn hash_keys() {
    web(
        "hash_on = \"destination\"",
        "f.toml:31: [[service]] hash_on: only for scheduler = \"sh\" or \"maglev\"; leave it out",
    );
    web(
        "hash_on = \"cookie\"",
        "f.toml:31: [[service]] hash_on: \"cookie\" is unknown; expected \"source\", \"source_port\", \"destination\", \"quic_cid\"",
    );
    web(
        "hash_on = \"quic_cid\"",
        "f.toml:31: [[service]] hash_on: \"quic_cid\" is for protocol = \"udp\"; leave it out",
    );
    one(
        DNS,
        &format!("{DNS}\nhash_on = \"quic_cid\""),
        "f.toml:45: [[service]] hash_on: \"quic_cid\" needs [service.quic], or scheduler = \"sh\" or \"maglev\"",
    );
}

#[test]
fn limits() {
    web(
        "overflow = \"next\"",
        "f.toml:31: [[service]] overflow: says nothing without max_connections of a server; give one, or leave it out",
    );
    web(
        "max_connections = -1",
        "f.toml:31: [[service]] max_connections: -1 is out of range; expected 0 to 4294967295",
    );
}

#[test]
fn persistence() {
    web(
        "persistence = { mask = 24 }",
        "f.toml:31: [service.persistence] seconds: missing; give seconds, like 300; 0 for none",
    );
    web(
        "persistence = { seconds = 5, mask = 33 }",
        "f.toml:31: [service.persistence] mask: 33 is out of range; expected 1 to 32",
    );
    web(
        "persistence = { seconds = 5, group = \"a b\" }",
        "f.toml:31: [service.persistence] group: \"a b\" is not a name; expected 1 to 63 letters, digits, \"-\", \"_\" or \".\"",
    );
    web(
        "persistence = 5",
        "f.toml:31: [service.persistence]: is an integer; write [service.persistence]",
    );
    let group = |mask: u8| format!("persistence = {{ seconds = 5, mask = {mask}, group = \"g\" }}");
    expect(
        &[(WEB, &format!("{WEB}\n{}", group(24))), (DNS, &format!("{DNS}\n{}", group(25)))],
        &[
            "f.toml:46: [service.persistence]: the services of group \"g\" need the same masks; expected mask = 24 and mask_v6 = 128, as in line 31",
        ],
    );
}

#[test]
fn one_packet() {
    const NAT: (&str, &str) = ("mode = \"fullnat\"", "mode = \"nat\"\none_packet = true");
    web(
        "one_packet = true",
        "f.toml:31: [[service]] one_packet: is for protocol = \"udp\"; leave it out",
    );
    one(
        "mode = \"fullnat\"",
        "mode = \"fullnat\"\none_packet = true",
        "f.toml:48: [[service]] one_packet: fullnat needs a session for the server's answer; use mode = \"nat\", \"dr\" or a tunnel, or leave it out",
    );
    expect(&[NAT], &[]);
    expect(
        &[NAT, ("[\"192.0.2.10:53\"]", "[\"192.0.2.10:53\", \"192.0.2.11:53\"]")],
        &[
            "f.toml:48: [[service]] one_packet: an answer of a server could be from 192.0.2.10:53 or 192.0.2.11:53; in nat listen on one address of a family",
        ],
    );
    expect(
        &[NAT, (LAST, &format!("{LAST}\nmax_connections = 5"))],
        &[
            "f.toml:48: [[service]] one_packet: there are no connections to limit; leave max_connections or one_packet out",
        ],
    );
    expect(
        &[NAT, (DNS, &format!("{DNS}\npersistence = {{ seconds = 9 }}"))],
        &[
            "f.toml:49: [[service]] one_packet: every datagram is a decision of its own; leave persistence or one_packet out",
        ],
    );
    let other = "[[service]]\nname = \"other\"\nprotocol = \"udp\"\nlisten = [\"192.0.2.10:54\"]\n\
                 [[service.server]]\naddress = \"10.0.0.11:53\"\n[api]";
    expect(
        &[NAT, ("[api]", other)],
        &[
            "f.toml:56: [[service.server]] address: 10.0.0.11:53 is a server of another udp service (line 50), and an answer of a one_packet service says by that alone which service it is of; use another port",
        ],
    );
}

#[test]
fn quic() {
    let quic = |keys: &str| format!("{DNS}\nhash_on = \"quic_cid\"\nquic = {{ {keys} }}");
    expect(
        &[
            (DNS, &quic("server_id_length = 2")),
            (LAST, &format!("{LAST}\nquic_server_id = \"0a0b\"")),
        ],
        &[],
    );
    one(
        DNS,
        &quic("cid_length = 8"),
        "f.toml:46: [service.quic] server_id_length: missing; give octets, like 2",
    );
    one(
        DNS,
        &quic("server_id_length = 4, cid_length = 4"),
        "f.toml:46: [service.quic] cid_length: 4 has no room for the server id; expected 5 to 20",
    );
    one(
        DNS,
        &quic("server_id_length = 4, config_rotation = 7"),
        "f.toml:46: [service.quic] config_rotation: 7 is out of range; expected 0 to 6",
    );
    one(
        DNS,
        &format!("{DNS}\nquic = {{ server_id_length = 4 }}"),
        "f.toml:45: [service.quic]: only with hash_on = \"quic_cid\" of the service",
    );
    one(
        LAST,
        &format!("{LAST}\nquic_server_id = \"0a\""),
        "f.toml:50: [[service.server]] quic_server_id: only with [service.quic]; add that, or leave it out",
    );
    expect(
        &[
            (DNS, &quic("server_id_length = 2")),
            (LAST, &format!("{LAST}\nquic_server_id = \"0a\"")),
        ],
        &[
            "f.toml:52: [[service.server]] quic_server_id: has 1 octets; expected 2, as server_id_length says",
        ],
    );
    let twice = format!(
        "{LAST}\nquic_server_id = \"0a0b\"\n[[service.server]]\naddress = \"10.0.0.12:53\"\nquic_server_id = \"0A0B\""
    );
    expect(
        &[(DNS, &quic("server_id_length = 2")), (LAST, &twice)],
        &[
            "f.toml:55: [[service.server]] quic_server_id: is another server's (line 52); give each its own",
        ],
    );
    for wrong in ["", "0", "0x", "aé"] {
        one(
            LAST,
            &format!("{LAST}\nquic_server_id = {wrong:?}"),
            &format!(
                "f.toml:50: [[service.server]] quic_server_id: {wrong:?} is no server id; expected hexadecimal octets, like \"0a0b\""
            ),
        );
    }
}

#[test]
fn one_packet_services_have_no_connections_to_count() {
    let dns = |keys: &str| format!("mode = \"nat\"\none_packet = true\n{keys}");
    for scheduler in ["lc", "wlc", "sed", "nq"] {
        one(
            "mode = \"fullnat\"",
            &dns(&format!("scheduler = {scheduler:?}")),
            &format!(
                "f.toml:48: [[service]] one_packet: {scheduler:?} counts connections, of which there are none; expected scheduler = \"rr\", \"wrr\", \"sh\" or \"maglev\""
            ),
        );
    }
    for limit in ["connections_per_second", "source_connections_per_second"] {
        one(
            "mode = \"fullnat\"",
            &dns(&format!("[service.limits]\n{limit} = 5")),
            "f.toml:48: [[service]] one_packet: there are no connections to limit; expected packets_per_second and source_packets_per_second in [service.limits]",
        );
    }
    let keys = "[service.limits]\npackets_per_second = 5\nsource_packets_per_second = 5";
    expect(&[("mode = \"fullnat\"", &dns(keys))], &[]);
}

#[test]
fn one_packet_services_have_no_sessions_to_end() {
    for (keys, error) in [
        (
            "on_server_down = \"keep\"",
            "49: [[service]] on_server_down: a one_packet service has no session that a server could lose; leave it out",
        ),
        (
            "[service.timeouts]\nudp = 5",
            "50: [service.timeouts] udp: a one_packet service has no session that could time out; leave it out",
        ),
    ] {
        one(
            "mode = \"fullnat\"",
            &format!("mode = \"nat\"\none_packet = true\n{keys}"),
            &format!("f.toml:{error}"),
        );
        let sessions = format!("mode = \"nat\"\none_packet = false\n{keys}");
        expect(&[("mode = \"fullnat\"", &sessions)], &[]);
    }
}

#[test]
fn services_of_a_group_have_servers_in_common() {
    let group = "persistence = { seconds = 5, group = \"g\" }";
    let both = [(WEB, &*format!("{WEB}\n{group}")), (DNS, &*format!("{DNS}\n{group}"))];
    expect(&both, &[]);
    expect(
        &[both[0], both[1], (LAST, "address = \"10.0.0.13:53\"")],
        &[
            "f.toml:46: [service.persistence] group: no server has an address of those of another service of group \"g\", so they would forget each other's clients; leave group out, or give it such servers",
        ],
    );
}

#[test]
fn quic_without_ids_and_what_else_is_wrong_beside() {
    let quic = |keys: &str| format!("{DNS}\nhash_on = \"quic_cid\"\nquic = {{ {keys} }}");
    one(
        DNS,
        &quic("server_id_length = 2"),
        "f.toml:46: [service.quic]: no server has a quic_server_id, so no packet is routed by it; give each its own",
    );
    // A hash of the connection id needs none.
    let hashed = quic("server_id_length = 2, cid_length = 8") + "\nscheduler = \"sh\"";
    expect(&[(DNS, &hashed)], &[]);
    expect(
        &[(DNS, &quic("server_id_length = 4, cid_length = 4, foo = 1"))],
        &[
            "f.toml:46: [service.quic] cid_length: 4 has no room for the server id; expected 5 to 20",
            "f.toml:46: [service.quic] foo: unknown key; known here: server_id_length, cid_length, config_rotation",
        ],
    );
}

/// In NAT64 clients of the other family are routed by connection id too.
#[test]
fn quic_ids_are_known_to_the_clients_of_a_nat64_service() {
    use crate::manage::compile::{PortFacts, ServerState, compile};
    let keys = "hash_on = \"quic_cid\"\nquic = { server_id_length = 2 }";
    let ids = |listen: &str| {
        let text = BASE.replacen(DNS, &format!("{DNS}\n{keys}"), 1);
        let text = text.replacen(LAST, &format!("{LAST}\nquic_server_id = \"0a0b\""), 1);
        let text = text.replacen("[\"192.0.2.10:53\"]", listen, 1);
        let config = parse(&text, "f.toml").unwrap();
        let facts = [PortFacts { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }; 3];
        let snapshot = compile(&config, &facts, &[ServerState::UP; 3], 1);
        snapshot.services[1].selection.quic.clone().unwrap()
    };
    let known = |v6: &[bool]| {
        let mut quic = crate::datapath::quic_route::Quic::new(0, 2, 0);
        v6.iter().for_each(|v6| quic.add(*v6, &[0x0a, 0x0b], crate::session::ServerId(2)));
        quic
    };
    assert_eq!(*ids("[\"192.0.2.10:53\"]"), known(&[false]));
    let both = "[\"192.0.2.10:53\", \"[2001:db8::10]:53\"]";
    assert_eq!(*ids(both), known(&[false, true]));
}
