//! `[ha]`, its groups and its key file.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A file that its owner alone can read, and the directory that holds it.
fn key_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sync.key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

/// 64 hex digits.
fn key(digit: char) -> String {
    format!("0123456789abcde{digit}").repeat(4) + "\n"
}

/// Replaces the key file of an example by one that exists.
pub(super) fn with_key_file(text: &str) -> (tempfile::TempDir, String) {
    let (dir, path) = key_file(&key('a'));
    assert_eq!(text.matches("key_file = \"/etc/shunt/sync.key\"").count(), 1);
    (dir, text.replace("/etc/shunt/sync.key", &path))
}

/// The base file with these lines at its end: `[ha]` is line 52.
fn with(path: &str, keys: &str) -> String {
    format!("{BASE}[ha]\nsync_port = \"front\"\nkey_file = \"{path}\"\n{keys}")
}

/// Expects these errors, each without the name of the file, of `[ha]` with `keys` from line 55 on.
#[track_caller]
fn wrong(keys: &str, expected: &[&str]) {
    let (_dir, path) = key_file(&key('a'));
    let expected: Vec<_> = expected.iter().map(|line| format!("f.toml:{line}")).collect();
    assert_eq!(errors(&with(&path, keys)), expected);
}

/// The warnings of the same.
fn warnings(keys: &str) -> Vec<String> {
    let (_dir, path) = key_file(&key('a'));
    let config = parse(&with(&path, keys), "f.toml").unwrap();
    config.warnings.iter().map(|w| w.to_string().replace("f.toml:", "")).collect()
}

const RIGHT: &str = "group = 10\npeer = \"192.0.2.3\"\n";

#[test]
fn the_defaults() {
    let (_dir, path) = key_file(&key('a'));
    let config = parse(&with(&path, RIGHT), "f.toml").unwrap();
    assert_eq!(config.warnings, []);
    let ha = config.ha.unwrap();
    let expected = Ha {
        mode: PairMode::ActiveBackup,
        groups: vec![VirtualRouter {
            vrid: 10,
            priority: 100,
            addresses: vec![ip("192.0.2.10"), ip("10.0.0.100")],
        }],
        peer: ip("192.0.2.3"),
        source: ip("192.0.2.2"),
        advert_interval_ms: 1_000,
        preempt: true,
        preempt_delay_s: 0,
        preempt_unsynced: false,
        virtual_mac: true,
        track_ports: vec!["front".into(), "back".into()],
        port_drop: 255,
        track_services: vec![],
        service_drop: 50,
        sync_group: "239.255.19.19:8849".parse().unwrap(),
        sync_port: "front".into(),
        key_file: path.into(),
        keys: ha.keys.clone(),
        sync_rate: 200_000,
        relay: true,
    };
    assert_eq!(ha, expected);
    assert_eq!(parse(BASE, "f.toml").unwrap().ha, None);
}

#[test]
fn every_key_arrives() {
    let (_dir, path) = key_file(&format!("# of May\n{}{}", key('a'), key('b')));
    let keys = r#"
mode = "active-backup"
group = 10
priority = 200
peer = "2001:db8::3"
advert_interval_ms = 40_950
preempt = true
preempt_delay_s = 30
preempt_unsynced = true
virtual_mac = false
track_ports = ["back"]
port_drop = 0
track_services = ["web", "dns"]
service_drop = 10
sync_group = "[ff15::7]:9000"
sync_rate = 1_000
relay = false
[[ha.extra_group]]
group = 11
priority = 50
addresses = ["10.0.0.100", "203.0.113.5"]
[[ha.extra_group]]
group = 255
addresses = ["203.0.113.6"]
[[snat]]
name = "egress"
sources = ["10.0.0.0/24"]
pool = ["203.0.113.5", "203.0.113.6", "203.0.113.7"]
"#;
    let config = parse(&with(&path, keys), "f.toml").unwrap();
    assert_eq!(config.warnings, []);
    let ha = config.ha.unwrap();
    let group = |vrid, priority, addresses: &[&str]| VirtualRouter {
        vrid,
        priority,
        addresses: addresses.iter().map(|a| ip(a)).collect(),
    };
    assert_eq!(
        ha.groups,
        [
            group(10, 200, &["192.0.2.10", "203.0.113.7"]),
            group(11, 50, &["10.0.0.100", "203.0.113.5"]),
            group(255, 100, &["203.0.113.6"]),
        ]
    );
    assert_eq!((ha.peer, ha.source), (ip("2001:db8::3"), ip("2001:db8::2")));
    assert_eq!((ha.advert_interval_ms, ha.preempt, ha.preempt_delay_s), (40_950, true, 30));
    assert!(ha.preempt_unsynced);
    assert_eq!((ha.virtual_mac, ha.relay, ha.sync_rate), (false, false, 1_000));
    assert_eq!((ha.track_ports, ha.port_drop), (vec!["back".to_owned()], 0));
    assert_eq!(ha.track_services, ["web", "dns"]);
    assert_eq!(ha.service_drop, 10);
    assert_eq!(ha.sync_group.to_string(), "[ff15::7]:9000");
}

#[test]
fn both_active() {
    let (_dir, path) = key_file(&key('a'));
    let keys = "mode = \"active-active\"\npeer = \"2001:db8::3\"\n";
    let config = parse(&with(&path, keys), "f.toml").unwrap();
    assert_eq!(config.warnings, []);
    let ha = config.ha.unwrap();
    assert_eq!((ha.mode, ha.groups.len()), (PairMode::ActiveActive, 0));
    assert_eq!(ha.sync_group.to_string(), "[ff12::8849]:8849");

    let only = "only in mode \"active-backup\": in active-active both nodes answer for every address \
                and no VRRP runs; leave it out";
    wrong(
        &format!(
            "{keys}group = 10\npriority = 5\n[[ha.extra_group]]\ngroup = 1\naddresses = [\"10.0.0.100\"]\n"
        ),
        &[
            &format!("57: [ha] group: {only}"),
            &format!("58: [ha] priority: {only}"),
            &format!("59: [ha] extra_group: {only}"),
        ],
    );
    assert_eq!(
        warnings(&format!("{keys}track_ports = []\nvirtual_mac = true\n")),
        [
            "57: [ha] track_ports: does nothing in mode \"active-active\", where no VRRP runs",
            "58: [ha] virtual_mac: does nothing in mode \"active-active\", where no VRRP runs",
        ]
    );
}

#[test]
fn what_is_missing() {
    assert_eq!(
        errors(&format!("{BASE}[ha]\n")),
        [
            "f.toml:52: [ha] group: missing; give a virtual router id from 1 to 255, the same on both nodes, like 10",
            "f.toml:52: [ha] key_file: missing; give an absolute path, the same key on both nodes, like \"/etc/shunt/sync.key\"",
            "f.toml:52: [ha] peer: missing; give the address of the other node on the network of sync_port, like \"192.0.2.3\"",
            "f.toml:52: [ha] sync_port: missing; give the name of the [[port]] to the other node, like \"front\"",
        ]
    );
    wrong(
        &format!("{RIGHT}[[ha.extra_group]]\n"),
        &[
            "57: [[ha.extra_group]] group: missing; give a virtual router id from 1 to 255 that no other group has, like 11",
            "57: [[ha.extra_group]] addresses: missing; give addresses of services, LIPs or pools, like [\"192.0.2.20\"]",
        ],
    );
    assert_eq!(errors(&format!("ha = 1\n{BASE}")), ["f.toml:1: [ha]: is an integer; write [ha]"]);
}

#[test]
fn values_that_are_wrong() {
    for (line, error) in [
        (
            "mode = \"both\"",
            "mode: \"both\" is unknown; expected \"active-backup\", \"active-active\"",
        ),
        ("priority = 255", "priority: 255 is out of range; expected 1 to 254"),
        (
            "advert_interval_ms = 15",
            "advert_interval_ms: 15 is not a multiple of 10; expected 10 or 20",
        ),
        ("advert_interval_ms = 5", "advert_interval_ms: 5 is out of range; expected 10 to 40950"),
        ("preempt_delay_s = 3601", "preempt_delay_s: 3601 is out of range; expected 0 to 3600"),
        ("preempt_unsynced = 1", "preempt_unsynced: is an integer; expected true or false"),
        ("port_drop = 256", "port_drop: 256 is out of range; expected 0 to 255"),
        ("service_drop = -1", "service_drop: -1 is out of range; expected 0 to 255"),
        ("sync_rate = 999", "sync_rate: 999 is out of range; expected 1000 to 10000000"),
        ("relay = 1", "relay: is an integer; expected true or false"),
        (
            "vrid = 7",
            "vrid: unknown key; known here: mode, group, preempt, track_ports, key_file, priority, peer, advert_interval_ms, preempt_delay_s, preempt_unsynced, virtual_mac, port_drop, track_services, service_drop, sync_group, sync_port, sync_rate, relay, extra_group",
        ),
        (
            "sync_group = \"239.255.19.19\"",
            "sync_group: \"239.255.19.19\" is not a multicast ADDRESS:PORT; expected one like \"239.255.19.19:8849\" or \"[ff12::8849]:8849\"",
        ),
        (
            "sync_group = \"239.255.19.19:0\"",
            "sync_group: 239.255.19.19:0 has port 0; expected 1 to 65535",
        ),
        (
            "sync_group = \"192.0.2.7:8849\"",
            "sync_group: 192.0.2.7 is not a multicast address; expected one like \"239.255.19.19:8849\" or \"[ff12::8849]:8849\"",
        ),
        (
            "sync_group = \"224.0.0.18:8849\"",
            "sync_group: 224.0.0.18 is a group of other protocols; expected one like \"239.255.19.19:8849\" or \"[ff12::8849]:8849\"",
        ),
        (
            "sync_group = \"[ff11::1]:8849\"",
            "sync_group: ff11::1 never leaves the interface; expected one like \"239.255.19.19:8849\" or \"[ff12::8849]:8849\"",
        ),
        (
            "sync_group = \"[ff15::7]:9000\"",
            "sync_group: [ff15::7]:9000 is IPv6, but the peer 192.0.2.3 is IPv4; give a group of that family",
        ),
    ] {
        wrong(&format!("{RIGHT}{line}\n"), &[&format!("57: [ha] {error}")]);
    }
    wrong(
        "group = 256\npeer = \"peer\"\n",
        &[
            "55: [ha] group: 256 is out of range; expected 1 to 255",
            "56: [ha] peer: \"peer\" is not an IP address; expected one like 10.0.0.11 or 2001:db8::11",
        ],
    );
    assert_eq!(
        warnings(&format!(
            "{RIGHT}preempt = false\npreempt_delay_s = 5\npreempt_unsynced = false\n"
        )),
        [
            "58: [ha] preempt_delay_s: does nothing with preempt = false",
            "59: [ha] preempt_unsynced: does nothing with preempt = false"
        ]
    );
}

#[test]
fn the_peer_and_the_port_to_it() {
    for (peer, error) in [
        (
            "192.0.2.2",
            "192.0.2.2 is an address of port \"front\" (line 9); the peer is another host",
        ),
        (
            "192.0.2.10",
            "192.0.2.10 is a virtual address of service \"web\" (line 32); the peer is another host",
        ),
        (
            "10.0.0.100",
            "10.0.0.100 is a local address of port \"back\" (line 16); the peer is another host",
        ),
        (
            "10.0.0.3",
            "10.0.0.3 is not on the network of port \"front\"; expected the other node's address in 192.0.2.0/24 or 2001:db8::/64",
        ),
        (
            "192.0.2.255",
            "192.0.2.255 is the broadcast address of 192.0.2.0/24, the network of port \"front\"; give another address",
        ),
    ] {
        wrong(&format!("group = 10\npeer = \"{peer}\"\n"), &[&format!("56: [ha] peer: {error}")]);
    }
    let (_dir, path) = key_file(&key('a'));
    let text = |port: &str| {
        with(&path, RIGHT).replace("sync_port = \"front\"", &format!("sync_port = \"{port}\""))
    };
    assert_eq!(
        errors(&text("sync")),
        ["f.toml:53: [ha] sync_port: \"sync\" is unknown; expected \"front\", \"back\""]
    );
    let sensor = "[[mirror]]\nname = \"ids\"\nport = \"s\"\nmatch = [\"192.0.2.66\"]\n[[port]]\nname = \"s\"\ndevice = \"net_tap2\"\nside = \"both\"\naddresses = []\n";
    let with_sensor = text("s").replace("\"net_tap1\"]", "\"net_tap1\", \"net_tap2\"]") + sensor;
    assert_eq!(
        errors(&with_sensor),
        [
            "f.toml:53: [ha] sync_port: \"s\" is a sensor's port, which carries nothing but copies; name another port"
        ]
    );
    let small = text("front")
        .replace("exception = \"sl-front\"", "mtu = 1427")
        .replace(", \"2001:db8::2/64\"]", "]");
    assert_eq!(
        errors(&small),
        [
            "f.toml:53: [ha] sync_port: the mtu of \"front\" is 1427 (line 10), and what the nodes tell each other comes in packets of up to 1428 bytes; raise it, or name another port"
        ]
    );
}

#[test]
fn what_is_tracked_exists() {
    wrong(
        &format!(
            "{RIGHT}track_ports = [\"front\", \"sl-front\", \"front\"]\ntrack_services = [\"www\"]\n"
        ),
        &[
            "57: [ha] track_ports: \"sl-front\" is unknown; expected \"front\", \"back\"",
            "57: [ha] track_ports: \"front\" stands already (line 57); keep one",
            "58: [ha] track_services: \"www\" is unknown; expected \"web\", \"dns\"",
        ],
    );
}

#[test]
fn groups_and_their_addresses() {
    let extra = |group: u8, addresses: &str| {
        format!("[[ha.extra_group]]\ngroup = {group}\naddresses = {addresses}\n")
    };
    wrong(
        &format!(
            "{RIGHT}{}{}",
            extra(10, "[\"192.0.2.10\", \"192.0.2.2\"]"),
            extra(11, "[\"192.0.2.10\", \"10.0.0.11\"]")
        ),
        &[
            "58: [[ha.extra_group]] group: 10 is another group's id (line 55); give each its own",
            "59: [[ha.extra_group]] addresses: 192.0.2.2 is no address that can move; expected one that a service listens on, one of local_addresses, or one of a pool of [[snat]]",
            "62: [[ha.extra_group]] addresses: 192.0.2.10 is in a group already (line 59); keep one",
            "62: [[ha.extra_group]] addresses: 10.0.0.11 is no address that can move; expected one that a service listens on, one of local_addresses, or one of a pool of [[snat]]",
        ],
    );
    assert_eq!(
        warnings(&format!("{RIGHT}{}", extra(11, "[\"192.0.2.10\", \"10.0.0.100\"]"))),
        [
            "52: [ha] group: has no address: no service, LIP or pool is left to it; nothing moves with it"
        ]
    );
    let many: String = (0..32).map(|n| extra(20 + n, &format!("[\"203.0.113.{n}\"]"))).collect();
    let snat =
        "[[snat]]\nname = \"egress\"\nsources = [\"10.0.0.0/24\"]\npool = [\"203.0.113.0/27\"]\n";
    wrong(
        &format!("{RIGHT}{many}{snat}"),
        &["150: [[ha.extra_group]]: is one too many; at most 32 groups are possible"],
    );
}

#[test]
fn key_files() {
    let error = |keys: &str, change: &dyn Fn(&str)| {
        let (dir, path) = key_file(keys);
        change(&path);
        let list = errors(&with(&path, RIGHT));
        assert_eq!(list.len(), 1, "{list:?}");
        list[0].replace(&dir.path().display().to_string(), "D")
    };
    let leave = |_: &str| {};
    assert!(error(&key('a'), &|path| std::fs::remove_file(path).unwrap()).starts_with(
        "f.toml:54: [ha] key_file: D/sync.key does not exist; make it on one node, (umask 077; "
    ));
    let open = |path: &str| {
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    };
    assert_eq!(
        error(&key('a'), &open),
        "f.toml:54: [ha] key_file: D/sync.key is open to others (mode 644), who could forge or read \
         what the nodes tell each other; chmod 600 D/sync.key"
    );
    assert!(error("# none\n", &leave).starts_with("f.toml:54: [ha] key_file: D/sync.key: "));
    assert!(error("abc\n", &leave).starts_with("f.toml:54: [ha] key_file: D/sync.key: "));
    assert_eq!(
        errors(&with("sync.key", RIGHT)),
        [
            "f.toml:54: [ha] key_file: \"sync.key\" is not an absolute path; expected one like \"/etc/shunt/sync.key\""
        ]
    );
}

/// A pair is a pair: the files of both nodes say the same of all that must be alike.
#[test]
fn the_example_of_two_nodes() {
    let [a, b] = ["pair-a.toml", "pair-b.toml"].map(|name| {
        let (_dir, text) = with_key_file(&example(name).1);
        let config = parse(&text, name).unwrap();
        assert_eq!(config.warnings, [], "{name}");
        config
    });
    assert_eq!((a.node.id, b.node.id), (0, 1));
    assert_eq!(crate::manage::digest::of(&a), crate::manage::digest::of(&b));
    let (ha_a, ha_b) = (a.ha.unwrap(), b.ha.unwrap());
    assert_eq!((ha_a.peer, ha_b.peer), (ha_b.source, ha_a.source));
    assert_eq!(ha_a.sync_group, ha_b.sync_group);
    assert!(ha_a.groups[0].priority > ha_b.groups[0].priority);
}
