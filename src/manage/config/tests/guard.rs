//! Filters, lists, mirrors, limits and protection.

use super::*;
use crate::manage::guard::{compile, mirror_id};

/// The base file with these sections before `[api]`, which stands on line 50.
fn with(sections: &str) -> String {
    BASE.replace("[api]", &format!("{sections}[api]"))
}

#[track_caller]
fn wrong(sections: &str, expected: &[&str]) {
    assert_eq!(errors(&with(sections)), expected);
}

/// A file of prefixes, and the directory that holds it.
fn list_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list.txt");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

#[test]
fn every_key_arrives() {
    let (_dir, path) = list_file("203.0.113.0/24 # a network\n2001:db8:bad::1\n");
    let text = with(&format!(
        r#"[[filter]]
name = "a"
action = "limit"
rate = 100
burst = 7
source = ["10.0.0.0/8", "::1"]
destination = ["192.0.2.10"]
list = "blocked"
protocol = "tcp"
source_ports = ["1024-65535", 99]
destination_ports = [22]
tcp_flags = "syn,!ack"
port = "back"
[[filter]]
name = "b"
action = "limit"
rate = 5
protocol = 89
[[filter]]
name = "c"
action = "reject"
[[list]]
name = "blocked"
prefixes = ["198.51.100.7"]
file = "{path}"
[[mirror]]
name = "ids"
port = "sensor"
sample = 10
match = ["192.0.2.66"]
[[mirror]]
name = "other"
port = "probe"
[[port]]
name = "sensor"
device = "net_tap2"
side = "both"
addresses = []
[[port]]
name = "probe"
device = "net_tap3"
side = "both"
addresses = []
[protection]
bogons = true
"#
    ));
    let text = text.replace("\"net_tap1\"]", "\"net_tap1\", \"net_tap2\", \"net_tap3\"]");
    let text = text.replace(
        "[service.timeouts]",
        "mirror = \"other\"\n[service.limits]\nhalf_open = 9\nsource_mask = 24\n[service.timeouts]",
    );
    let config = parse(&text, "f.toml").unwrap();
    let guard = compile(&config);
    let rules = guard.filters.rules();
    assert_eq!(rules.len(), 3);
    let first = &rules[0];
    assert_eq!((first.name.as_str(), first.action), ("a", Action::Limit { rate: 100, burst: 7 }));
    assert_eq!(first.sources.as_ref().map(PrefixSet::len), Some(2));
    assert!(first.destinations.as_ref().unwrap().contains("192.0.2.10".parse().unwrap()));
    let list = first.list.as_ref().unwrap();
    assert_eq!(list.len(), 3);
    for inside in ["203.0.113.9", "198.51.100.7", "2001:db8:bad::1"] {
        assert!(list.contains(inside.parse().unwrap()), "{inside}");
    }
    assert_eq!((first.protocol, first.port.map(|p| p.0)), (Some(6), Some(1)));
    assert_eq!(first.source_ports, [(1024, 65_535), (99, 99)]);
    assert_eq!(first.destination_ports, [(22, 22)]);
    assert_eq!(first.tcp_flags, Some(FlagMatch { mask: 0x12, value: 0x02 }));
    assert_eq!(rules[1].action, Action::Limit { rate: 5, burst: 5 });
    assert_eq!(rules[1].protocol, Some(89));
    let third = &rules[2];
    assert_eq!(third.action, Action::Reject);
    assert!(third.sources.is_none() && third.list.is_none() && third.port.is_none());
    assert_eq!(
        guard
            .mirrors
            .iter()
            .map(|m| (m.port.0, m.sample, m.matching.is_some()))
            .collect::<Vec<_>>(),
        [(2, 10, true), (3, 1, false)]
    );
    assert_eq!((guard.bogons, guard.reverse_path), (true, false));
    assert_eq!(mirror_id(&config, "other").map(|id| id.0), Some(1));
    let web = &config.services[0];
    assert_eq!(web.mirror.as_deref(), Some("other"));
    assert_eq!(web.limits, Limits { half_open: 9, source_mask: 24, ..Limits::default() });
    assert_eq!(config.services[1].limits, Limits::default());
}

#[test]
fn filters_that_are_wrong() {
    let filter = |keys: &str| format!("[[filter]]\nname = \"a\"\n{keys}\n");
    for (keys, error) in [
        (
            "action = \"deny\"",
            "52: [[filter]] action: \"deny\" is unknown; expected \"allow\", \"drop\", \"reject\", \"limit\"",
        ),
        ("action = \"limit\"", "50: [[filter]] rate: missing; give packets per second, like 1000"),
        (
            "action = \"drop\"\nrate = 5",
            "53: [[filter]] rate: only for action = \"limit\"; leave it out",
        ),
        (
            "action = \"drop\"\nburst = 5",
            "53: [[filter]] burst: only for action = \"limit\"; leave it out",
        ),
        (
            "action = \"drop\"\nsource = [\"10.0.0.1/8\"]",
            "53: [[filter]] source: 10.0.0.1/8 has bits set behind its prefix; expected 10.0.0.0/8",
        ),
        (
            "action = \"drop\"\nlist = \"x\"",
            "53: [[filter]] list: \"x\" is unknown; there is no [[list]] in the file",
        ),
        (
            "action = \"drop\"\nport = \"x\"",
            "53: [[filter]] port: \"x\" is unknown; expected \"front\", \"back\"",
        ),
        (
            "action = \"drop\"\nprotocol = \"sctp\"",
            "53: [[filter]] protocol: \"sctp\" is unknown; expected \"tcp\", \"udp\", \"icmp\", \"icmpv6\" or a number from 0 to 255",
        ),
        (
            "action = \"drop\"\nprotocol = 256",
            "53: [[filter]] protocol: 256 is out of range; expected 0 to 255",
        ),
        (
            "action = \"drop\"\ndestination_ports = [80]",
            "53: [[filter]] destination_ports: only for protocol = \"tcp\" or \"udp\"; add that",
        ),
        (
            "action = \"drop\"\nprotocol = \"udp\"\nsource_ports = [\"9-5\"]",
            "54: [[filter]] source_ports: \"9-5\" is no range of ports; expected one like 80 or \"8000-8080\", 0 to 65535",
        ),
        (
            "action = \"drop\"\nprotocol = \"udp\"\ndestination_ports = [\"+80\"]",
            "54: [[filter]] destination_ports: \"+80\" is no range of ports; expected one like 80 or \"8000-8080\", 0 to 65535",
        ),
        (
            "action = \"drop\"\nsource = [\"::ffff:10.0.0.0/104\"]",
            "53: [[filter]] source: ::ffff:10.0.0.0/104 is IPv4-mapped; expected 10.0.0.0/8",
        ),
        (
            "action = \"drop\"\ndestination = [\"::ffff:192.0.2.7\"]",
            "53: [[filter]] destination: ::ffff:192.0.2.7/128 is IPv4-mapped; expected 192.0.2.7",
        ),
        (
            "action = \"drop\"\nprotocol = \"udp\"\ntcp_flags = \"syn\"",
            "54: [[filter]] tcp_flags: only for protocol = \"tcp\"; add that",
        ),
        (
            "action = \"drop\"\nprotocol = \"tcp\"\ntcp_flags = \"syn,cwr\"",
            "54: [[filter]] tcp_flags: \"cwr\" is no TCP flag; expected fin, syn, rst, psh, ack, urg with commas between, like \"syn,!ack\"",
        ),
        (
            "action = \"drop\"\nprotocol = \"tcp\"\ntcp_flags = \"syn,!syn\"",
            "54: [[filter]] tcp_flags: syn stands twice; name each flag once",
        ),
    ] {
        wrong(&filter(keys), &[&format!("f.toml:{error}")]);
    }
    wrong(
        &filter("action = \"drop\"").repeat(2),
        &["f.toml:54: [[filter]] name: \"a\" stands already (line 51); give each its own"],
    );
    let many: String =
        (0..=1000).map(|n| format!("[[filter]]\nname = \"f{n}\"\naction = \"drop\"\n")).collect();
    wrong(&many, &["f.toml:3050: [[filter]]: is one too many; at most 1000 filters are possible"]);
}

#[test]
fn lists_that_are_wrong() {
    wrong(
        "[[list]]\nname = \"l\"\n",
        &[
            "f.toml:50: [[list]] prefixes: missing; give prefixes, like [\"198.51.100.0/24\"], or a file of them",
        ],
    );
    wrong(
        "[[list]]\nname = \"l\"\nfile = \"list.txt\"\n",
        &[
            "f.toml:52: [[list]] file: \"list.txt\" is not an absolute path; expected one like \"/etc/shunt/blocked.txt\"",
        ],
    );
    let (_dir, path) = list_file("10.0.0.0/8\n\nten\n10.0.0.300\n");
    let kind = "is not ADDRESS/LENGTH; expected one like 192.0.2.2/24 or 2001:db8::2/64";
    wrong(
        &format!("[[list]]\nname = \"l\"\nfile = \"{path}\"\n"),
        &[
            &format!("f.toml:52: [[list]] file: {path}:3: \"ten\" {kind}"),
            &format!("f.toml:52: [[list]] file: {path}:4: \"10.0.0.300\" {kind}"),
        ],
    );
}

#[test]
fn mirrors_and_sensor_ports() {
    wrong(
        "[[mirror]]\nname = \"m\"\nport = \"x\"\nsample = 0\n",
        &[
            "f.toml:52: [[mirror]] port: \"x\" is unknown; expected \"front\", \"back\"",
            "f.toml:53: [[mirror]] sample: 0 is out of range; expected 1 to 1000000",
        ],
    );
    one(
        "name = \"web\"",
        "name = \"web\"\nmirror = \"m\"",
        "f.toml:31: [[service]] mirror: \"m\" is unknown; there is no [[mirror]] in the file",
    );
    // A port without addresses is a sensor's or wrong.
    let sensor =
        "[[port]]\nname = \"sensor\"\ndevice = \"net_tap2\"\nside = \"both\"\naddresses = []\n";
    let vdevs = ("\"net_tap1\"]", "\"net_tap1\", \"net_tap2\"]");
    let mirror = "[[mirror]]\nname = \"m\"\nport = \"sensor\"\n";
    expect(
        &[vdevs, ("[api]", &format!("{sensor}[api]"))],
        &[
            "f.toml:54: [[port]] addresses: is empty; give the port's addresses, like [\"192.0.2.2/24\"]",
        ],
    );
    expect(&[vdevs, ("[api]", &format!("{sensor}{mirror}[api]"))], &[]);
    expect(
        &[vdevs, ("[api]", &format!("{sensor}mtu = 1400\n{mirror}[api]"))],
        &[
            "f.toml:58: [[mirror]] port: the mtu of \"sensor\" is 1400, but another port's is 1500; give both 1500",
        ],
    );
}

/// What else is reached by the port would be lost at the sensor.
#[test]
fn a_sensor_has_a_port_of_its_own() {
    let mirror = |port: &str| format!("[[mirror]]\nname = \"m\"\nport = {port:?}\n");
    let copies = "and a sensor's port carries nothing but copies;";
    let own = "give the sensor a port of its own";
    let at = "[[mirror]] port:";
    wrong(
        &mirror("back"),
        &[
            &format!(
                "f.toml:52: {at} \"back\" has local_addresses (line 16), {copies} leave that out, or {own}"
            ),
            &format!(
                "f.toml:52: {at} the server 10.0.0.11 (line 39) is reached by \"back\", {copies} {own}"
            ),
        ],
    );
    wrong(
        &mirror("front"),
        &[
            &format!(
                "f.toml:52: {at} \"front\" has an exception (line 10), {copies} leave that out, or {own}"
            ),
            &format!(
                "f.toml:52: {at} the gateway 192.0.2.1 (line 19) is reached by \"front\", {copies} {own}"
            ),
        ],
    );
    let sensor = "[[port]]\nname = \"sensor\"\ndevice = \"net_tap2\"\nside = \"both\"\n\
                  addresses = [\"203.0.113.2/24\"]\n";
    let vdevs = ("\"net_tap1\"]", "\"net_tap1\", \"net_tap2\"]");
    let sections = ("[api]", &*format!("{sensor}{}[api]", mirror("sensor")));
    expect(&[vdevs, sections], &[]);
    expect(
        &[vdevs, sections, ("\"192.0.2.10:53\"", "\"203.0.113.10:53\"")],
        &[&format!(
            "f.toml:57: {at} the virtual address 203.0.113.10 (line 46) is reached by \"sensor\", {copies} {own}"
        )],
    );
    let pool = "[[snat]]\nname = \"s\"\nsources = [\"10.0.0.0/24\"]\npool = [\"203.0.113.5\"]\n";
    let sections = ("[api]", &*format!("{sensor}{}{pool}[api]", mirror("sensor")));
    expect(
        &[vdevs, sections],
        &[&format!(
            "f.toml:57: {at} the pool address 203.0.113.5 (line 61) is reached by \"sensor\", {copies} {own}"
        )],
    );
}

#[test]
fn limits_that_cannot_be() {
    expect(
        &[(
            "mode = \"fullnat\"",
            "mode = \"fullnat\"\n[service.limits]\nsource_half_open = 4\nsource_mask_v6 = 0",
        )],
        &["f.toml:50: [service.limits] source_mask_v6: 0 is out of range; expected 1 to 128"],
    );
    expect(
        &[(
            "mode = \"fullnat\"",
            "mode = \"fullnat\"\n[service.limits]\nhalf_open = 4\nsource_half_open = 4",
        )],
        &[
            "f.toml:48: [service.limits] half_open: only for a tcp service: udp has no handshake; leave it out",
            "f.toml:48: [service.limits] source_half_open: only for a tcp service: udp has no handshake; leave it out",
        ],
    );
}

#[test]
fn filters_that_match_nothing() {
    const WRONG: &str = "f.toml:50: [[filter]]: matches no packet: source, destination and protocol are not of one family; make them IPv4 or IPv6";
    let filter = |keys: &str| format!("[[filter]]\nname = \"a\"\naction = \"drop\"\n{keys}\n");
    for keys in [
        "source = [\"10.0.0.0/8\"]\ndestination = [\"2001:db8::/32\"]",
        "source = [\"2001:db8::1\"]\nprotocol = \"icmp\"",
        "destination = [\"10.0.0.0/8\"]\nprotocol = \"icmpv6\"",
    ] {
        wrong(&filter(keys), &[WRONG]);
    }
    for keys in [
        "source = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndestination = [\"2001:db8::1\"]",
        "source = [\"10.0.0.0/8\"]\nprotocol = \"icmp\"",
        "protocol = \"icmpv6\"",
    ] {
        wrong(&filter(keys), &[]);
    }
}

#[test]
fn protection_needs_a_port_towards_clients() {
    let on = ("[api]", "[protection]\nbogons = true\nreverse_path = true\n[api]");
    expect(&[on], &[]);
    let message = "looks only at ports whose side is \"client\", and there is none; leave it out";
    expect(
        &[on, ("side = \"client\"", "side = \"both\"")],
        &[
            &format!("f.toml:51: [protection] bogons: {message}"),
            &format!("f.toml:52: [protection] reverse_path: {message}"),
        ],
    );
    let off = ("[api]", "[protection]\nbogons = false\n[api]");
    expect(&[off, ("side = \"client\"", "side = \"both\"")], &[]);
}

/// Right, and without effect: hardly what was meant.
#[test]
fn what_nothing_uses_is_a_warning() {
    let sensor =
        "[[port]]\nname = \"sensor\"\ndevice = \"net_tap2\"\nside = \"both\"\naddresses = []\n";
    let warnings = |sections: &str, service: &str| -> Vec<String> {
        let sensor = if sections.contains("[[mirror]]") { sensor } else { "" };
        let text = with(&format!("{sections}{sensor}"))
            .replace("\"net_tap1\"]", "\"net_tap1\", \"net_tap2\"]")
            .replace("name = \"web\"", &format!("name = \"web\"{service}"));
        parse(&text, "f.toml").unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    let mirror = "[[mirror]]\nname = \"ids\"\nport = \"sensor\"\n";
    let list = "[[list]]\nname = \"l\"\nprefixes = [\"10.0.0.0/8\"]\n";
    assert_eq!(
        warnings(&format!("{mirror}{list}"), ""),
        [
            "f.toml:50: [[mirror]]: \"ids\" gets no packet: it has no match, and no service names it (key mirror)",
            "f.toml:53: [[list]]: \"l\" is used by no filter (key list)",
        ]
    );
    let matching = format!("{mirror}match = [\"192.0.2.66\"]\n");
    assert_eq!(warnings(&matching, ""), [""; 0]);
    assert_eq!(warnings(mirror, "\nmirror = \"ids\""), [""; 0]);
    let filter = "[[filter]]\nname = \"f\"\naction = \"drop\"\nlist = \"l\"\n";
    assert_eq!(warnings(&format!("{list}{filter}"), ""), [""; 0]);
}
