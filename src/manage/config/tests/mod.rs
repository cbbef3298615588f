//! Reading a whole file, what is unknown or comes later, and the files in `conf/`. Each error is
//! compared with the exact line it prints.

mod checks;
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
                    port: None,
                }),
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
    let (path, text) = example("full.toml");
    load(&path).unwrap();

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
