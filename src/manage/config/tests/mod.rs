//! Reading a whole file, what is unknown or comes later, and the files in `conf/`. Each error is
//! compared with the exact line it prints.

mod checks;
mod guard;
mod ha;
mod policies;
mod selection;
mod snat;
mod tunnels;
mod values;

use super::*;

/// A valid file. Tests replace a part of it and expect exact errors.
const BASE: &str = r#"[node]
workers = [1, 2]
[dpdk]
vdevs = ["net_tap0", "net_tap1"]
[[port]]
name = "front"
device = "net_tap0"
side = "client"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
exception = "sl-front"
[[port]]
name = "back"
device = "net_tap1"
side = "server"
addresses = ["10.0.0.2/24", "2001:db8:1::2/64"]
local_addresses = ["10.0.0.100"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[route]]
to = "10.9.0.0/16"
via = "10.0.0.1"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:12"
port = "back"
[timeouts]
udp = 40
[[service]]
name = "web"
protocol = "tcp"
listen = ["192.0.2.10:80"]
[service.timeouts]
tcp_fin = 20
[service.health]
type = "http"
path = "/healthz"
[[service.server]]
address = "10.0.0.11:8080"
weight = 10
[[service.server]]
address = "10.9.0.12:8080"
[[service]]
name = "dns"
protocol = "udp"
listen = ["192.0.2.10:53"]
mode = "fullnat"
[[service.server]]
address = "10.0.0.11:53"
[api]
socket = "/run/test.sock"
"#;

/// The errors of `text`, as they are printed.
fn errors(text: &str) -> Vec<String> {
    match parse(text, "f.toml") {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

/// Replaces each `from`, which stands in the base file exactly once, and expects these errors.
#[track_caller]
fn expect(changes: &[(&str, &str)], expected: &[&str]) {
    let mut text = BASE.to_owned();
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from:?} must be unique");
        text = text.replacen(from, to, 1);
    }
    assert_eq!(errors(&text), expected);
}

#[track_caller]
fn one(from: &str, to: &str, expected: &str) {
    expect(&[(from, to)], &[expected]);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server(address: &str, weight: u16) -> Server {
    Server { address: address.parse().unwrap(), weight, ..Default::default() }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_valid_file_with_its_defaults() {
    let port = |name: &str, device: &str, side| Port {
        name: name.into(),
        device: device.into(),
        side,
        addresses: Vec::new(),
        local_addresses: Vec::new(),
        mtu: 1500,
        exception: None,
        full_checksums: false,
        vlan: 0,
    };
    let timeouts = Timeouts { udp: 40_000, ..Timeouts::DEFAULT };
    let expected = Config {
        node: Node {
            name: "shunt".into(),
            id: 0,
            workers: vec![1, 2],
            idle: Idle::Spin,
            sessions: 1_000_000,
        },
        dpdk: Dpdk {
            memory_mb: 512,
            hugepages: true,
            allow: vec![],
            vdevs: vec!["net_tap0".into(), "net_tap1".into()],
            extra_args: vec![],
        },
        ports: vec![
            Port {
                addresses: vec![net("192.0.2.2/24"), net("2001:db8::2/64")],
                exception: Some("sl-front".into()),
                ..port("front", "net_tap0", Side::Client)
            },
            Port {
                addresses: vec![net("10.0.0.2/24"), net("2001:db8:1::2/64")],
                local_addresses: vec![ip("10.0.0.100")],
                ..port("back", "net_tap1", Side::Server)
            },
        ],
        routes: vec![
            Route { to: net("0.0.0.0/0"), via: ip("192.0.2.1") },
            Route { to: net("10.9.0.0/16"), via: ip("10.0.0.1") },
        ],
        neighbors: vec![Neighbor {
            address: ip("10.0.0.12"),
            mac: [2, 0, 0, 0, 0, 0x12],
            port: "back".into(),
        }],
        services: vec![
            Service {
                name: "web".into(),
                protocol: Protocol::Tcp,
                listen: vec!["192.0.2.10:80".parse().unwrap()],
                mode: Mode::Nat,
                scheduler: SchedulerKind::Wrr,
                timeouts: Timeouts { tcp_fin: 20_000, ..timeouts },
                health: Some(Health {
                    check: HealthCheck::Http {
                        path: "/healthz".into(),
                        host: None,
                        expect: vec![(200, 299)],
                    },
                    interval_ms: 1_000,
                    timeout_ms: 500,
                    rise: 2,
                    fall: 3,
                    proxy_protocol: None,
                    port: None,
                }),
                servers: vec![server("10.0.0.11:8080", 10), server("10.9.0.12:8080", 1)],
                ..Default::default()
            },
            Service {
                name: "dns".into(),
                protocol: Protocol::Udp,
                listen: vec!["192.0.2.10:53".parse().unwrap()],
                mode: Mode::FullNat,
                scheduler: SchedulerKind::Wrr,
                timeouts,
                health: None,
                servers: vec![server("10.0.0.11:53", 1)],
                policy: Policy::of(Protocol::Udp),
                ..Default::default()
            },
        ],
        api: Api { socket: "/run/test.sock".into() },
        snats: Vec::new(),
        guard: Guard::default(),
        ha: None,
        warnings: Vec::new(),
    };
    assert_eq!(parse(BASE, "f.toml"), Ok(expected));
}

#[test]
fn five_errors_are_five() {
    expect(
        &[
            ("[1, 2]", "[1, 2000]"),
            ("side = \"client\"", "sides = \"client\""),
            ("mac = \"02:00:00:00:00:12\"", "mac = \"02-00\""),
            ("udp = 40", "udp = 0"),
        ],
        &[
            "f.toml:2: [node] workers: 2000 is out of range; expected 0 to 1023",
            "f.toml:5: [[port]] side: missing; give \"client\", \"server\" or \"both\"",
            "f.toml:8: [[port]] sides: unknown key; did you mean \"side\"?",
            "f.toml:25: [[neighbor]] mac: \"02-00\" is not a MAC address; expected one like 02:00:00:00:00:12",
            "f.toml:28: [timeouts] udp: 0 is out of range; expected 1 to 86400",
        ],
    );
}

#[test]
fn a_file_that_says_nothing() {
    assert_eq!(
        errors(""),
        [
            "f.toml:1: [node] workers: missing; give CPU cores, like [1]",
            "f.toml:1: [[port]]: missing; give at least one port",
        ]
    );
}

#[test]
fn syntax_errors() {
    let list = errors("[node]\nworkers =\nname = \"x\nid = 0\nidle = yield\n");
    assert_eq!(
        list,
        [
            "f.toml:2: not TOML: string values must be quoted, expected literal string",
            "f.toml:3: not TOML: invalid basic string, expected `\"`",
            "f.toml:5: not TOML: string values must be quoted, expected literal string",
        ]
    );
    one("udp = 40", "udp = 40\nudp = 50", "f.toml:29: not TOML: duplicate key \"udp\"; keep one");
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    let error = load(&path).unwrap_err().to_string();
    let expected =
        format!("{}: cannot be read: No such file or directory (os error 2)", path.display());
    assert_eq!(error, expected);

    std::fs::write(&path, b"[node]\nname = \"\xff\"\n").unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2: not UTF-8; save the file in that encoding", path.display()));
}

#[test]
fn sections_and_keys_that_are_unknown() {
    one("[api]", "[apis]", "f.toml:50: [apis]: unknown section; did you mean \"api\"?");
    one("[node]", "nodes = 1\n[node]", "f.toml:1: nodes: unknown section; did you mean \"node\"?");
    one(
        "[api]",
        "[[zebra]]\n[api]",
        "f.toml:50: [[zebra]]: unknown section; known here: node, dpdk, filter, list, mirror, protection, port, route, neighbor, timeouts, service, snat, ha, api",
    );
    one(
        "path = \"/",
        "paht = \"/",
        "f.toml:37: [service.health] paht: unknown key; did you mean \"path\"?",
    );
    one(
        "via = \"10.0.0.1\"",
        "via = \"10.0.0.1\"\nmetric = 5",
        "f.toml:23: [[route]] metric: unknown key; known here: to, via",
    );
}

#[test]
fn tables_of_another_kind() {
    expect(
        &[("[[neighbor]]", "[neighbor]")],
        &["f.toml:23: [[neighbor]]: is a table; write [[neighbor]]"],
    );
    expect(
        &[("[api]\nsocket = \"/run/test.sock\"", "[[api]]")],
        &["f.toml:50: [api]: is a list; write [api]"],
    );
    expect(
        &[
            ("[node]\nworkers = [1, 2]", "node = 1\nport = [1]"),
            (&BASE[BASE.find("[[port]]").unwrap()..BASE.find("[[route]]").unwrap()], ""),
        ],
        &[
            "f.toml:1: [node]: is an integer; write [node]",
            "f.toml:2: [[port]]: is an integer; write [[port]]",
        ],
    );
}

#[test]
fn what_comes_later_is_not_supported_yet() {
    let (off, at) = ("listen = \"\"", "socket = \"/run/test.sock\"");
    expect(&[(at, &format!("{at}\n{off}"))], &[]);
    one(
        at,
        &format!("{at}\nlisten = \"127.0.0.1:1\""),
        &format!("f.toml:52: [api] listen: not supported yet; only {off} is accepted"),
    );
    for kind in ["icmp", "udp", "https", "exec"] {
        one(
            "type = \"http\"",
            &format!("type = {kind:?}"),
            &format!(
                "f.toml:36: [service.health] type: {kind:?} is not supported yet; expected \"tcp\", \"http\""
            ),
        );
    }
}

/// A file of `conf/`.
fn example(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

#[test]
fn the_minimal_example() {
    let config = load(&example("minimal.toml").0).unwrap();
    assert_eq!(config.ports.len(), 1);
    assert_eq!(config.services.len(), 1);
    assert_eq!(config.services[0].servers.len(), 2);
}

#[test]
fn the_full_example_has_every_key() {
    let (_dir, text) = ha::with_key_file(&example("full.toml").1);
    assert_eq!(parse(&text, "full.toml").unwrap().warnings, []);

    let report = Report::new("full.toml", &text);
    let table = DeTable::parse(&text).unwrap();
    schema::read(table.get_ref(), &report);
    let asked = report.asked();
    assert!(asked.len() > 50, "the schema asks for every key");
    for (section, key) in asked {
        // The lines from the first such header to the next header.
        let after = text.split_once(&format!("\n{section}\n")).map(|(_, after)| after);
        let body = after.unwrap_or_else(|| panic!("{section} is not in full.toml"));
        let body = body.split("\n[").next().unwrap();
        let is_key = |line: &str| {
            line.trim_start_matches("# ").split_once(" =").is_some_and(|(before, _)| before == key)
        };
        assert!(body.lines().any(is_key), "{section} {key} is not in full.toml");
    }
}
