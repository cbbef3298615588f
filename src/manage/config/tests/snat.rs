//! `[[snat]]`: what it says, and what is wrong with it.

use super::*;
use crate::manage::config::snat::default_timeouts;

const SNAT: &str = r#"[[snat]]
name = "egress"
sources = ["10.0.0.0/24", "2001:db8:1::/64"]
pool = ["192.0.2.5", "192.0.2.16/30", "2001:db8::5"]
[[snat.forward]]
protocol = "tcp"
external = "192.0.2.5:8080"
internal = "10.0.0.7:80"
[[snat.forward]]
protocol = "udp"
external = "[2001:db8::5]:53"
internal = "[2001:db8:1::7]:53"
"#;

/// The line of `[[snat]]`, which is put before `[api]`.
const FIRST: usize = 50;

/// Puts the section into the base file, with one part of it replaced; line numbers in `expected`
/// count from `[[snat]]`, which is line 1.
#[track_caller]
fn snat(from: &str, to: &str, expected: &[(usize, &str)]) {
    assert_eq!(SNAT.matches(from).count(), 1, "{from:?} must be unique");
    let text = BASE.replacen("[api]", &(SNAT.replacen(from, to, 1) + "[api]"), 1);
    assert_eq!(text.lines().position(|line| line == "[[snat]]"), Some(FIRST - 1));
    let expected: Vec<_> = expected
        .iter()
        .map(|(line, message)| format!("f.toml:{}: {message}", FIRST - 1 + line))
        .collect();
    assert_eq!(errors(&text), expected);
}

#[test]
fn values_and_defaults() {
    let text = BASE.replacen("[api]", &(SNAT.to_owned() + "[api]"), 1);
    let config = parse(&text, "f.toml").unwrap();
    let pool = ["192.0.2.5", "192.0.2.16", "192.0.2.17", "192.0.2.18", "192.0.2.19", "2001:db8::5"];
    let forward = |protocol, external: &str, internal: &str| Forward {
        protocol,
        external: external.parse().unwrap(),
        internal: internal.parse().unwrap(),
    };
    let expected = Snat {
        name: "egress".into(),
        sources: vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        pool: pool.map(ip).to_vec(),
        ports: 1024..=65_535,
        mapping: Behavior::EndpointIndependent,
        filtering: Behavior::AddressAndPortDependent,
        ports_per_source: 0,
        hairpin: true,
        timeouts: default_timeouts(),
        forwards: vec![
            forward(Protocol::Tcp, "192.0.2.5:8080", "10.0.0.7:80"),
            forward(Protocol::Udp, "[2001:db8::5]:53", "[2001:db8:1::7]:53"),
        ],
    };
    assert_eq!(config.snats, std::slice::from_ref(&expected));

    let all = "pool = [\"192.0.2.5\", \"192.0.2.16/30\", \"2001:db8::5\"]\nports = \"2000-9000\"\n\
               mapping = \"address_dependent\"\nfiltering = \"endpoint_independent\"\n\
               ports_per_source = 500\nhairpin = false\n[snat.timeouts]\nudp = 120";
    let pool_line = SNAT.lines().nth(3).unwrap();
    let text = text.replacen(pool_line, all, 1);
    let config = parse(&text, "f.toml").unwrap();
    let expected = Snat {
        ports: 2000..=9000,
        mapping: Behavior::AddressDependent,
        filtering: Behavior::EndpointIndependent,
        ports_per_source: 500,
        hairpin: false,
        timeouts: Timeouts { udp: 120_000, ..default_timeouts() },
        ..expected
    };
    assert_eq!(config.snats, [expected]);
}

#[test]
fn wrong_values() {
    let one = |from: &str, to: &str, line, message: &str| snat(from, to, &[(line, message)]);
    one(
        "name = \"egress\"",
        "name = \"egress\"\nports = \"1024\"",
        3,
        "[[snat]] ports: \"1024\" is no range of ports; expected one like \"1024-65535\"",
    );
    one(
        "name = \"egress\"",
        "name = \"egress\"\nports = \"0-65535\"",
        3,
        "[[snat]] ports: \"0-65535\" is no range of ports; expected one like \"1024-65535\"",
    );
    one(
        "name = \"egress\"",
        "name = \"egress\"\nports = \"1024-2048\"",
        3,
        "[[snat]] ports: 1024-2048 are 1025 ports; expected 2048 or more, so that every worker has some",
    );
    one(
        "192.0.2.16/30",
        "198.18.0.0/15",
        4,
        "[[snat]] pool: 198.18.0.0/15 has more than 4096 addresses; expected /20 or longer",
    );
    one(
        "name = \"egress\"",
        "name = \"egress\"\nmapping = \"symmetric\"",
        3,
        "[[snat]] mapping: \"symmetric\" is unknown; expected \"endpoint_independent\", \
         \"address_dependent\", \"address_and_port_dependent\"",
    );
    one(
        "protocol = \"tcp\"",
        "protocol = \"icmp\"",
        6,
        "[[snat.forward]] protocol: \"icmp\" is unknown; expected \"tcp\", \"udp\"",
    );
}

#[test]
fn names_sources_and_families() {
    snat(
        "\"egress\"",
        "\"web\"",
        &[(
            2,
            "[[snat]] name: \"web\" is another's name (line 30); give each service and snat its own",
        )],
    );
    let more = "[[snat]]\nname = \"more\"\nsources = [\"10.0.0.128/25\"]\npool = [\"192.0.2.6\"]\n";
    snat(
        "internal = \"[2001:db8:1::7]:53\"\n",
        &format!("internal = \"[2001:db8:1::7]:53\"\n{more}"),
        &[(
            15,
            "[[snat]] sources: 10.0.0.128/25 is within 10.0.0.0/24 (line 52), which comes first; put \
             the smaller network before it",
        )],
    );
    snat(
        "\"10.0.0.0/24\", ",
        "",
        &[
            (
                4,
                "[[snat]] pool: 192.0.2.5 is IPv4, but no IPv4 network is in sources; leave it out",
            ),
            (
                4,
                "[[snat]] pool: 192.0.2.16 is IPv4, but no IPv4 network is in sources; leave it out",
            ),
            (
                8,
                "[[snat.forward]] internal: 10.0.0.7 is not in the sources of this snat; add its \
                 network there",
            ),
        ],
    );
    snat(
        "\"2001:db8::5\"]",
        "]",
        &[
            (
                3,
                "[[snat]] sources: 2001:db8:1::/64 is IPv6, but the pool has no IPv6 address; add one",
            ),
            (
                11,
                "[[snat.forward]] external: 2001:db8::5 is not in the pool of this snat; add it there",
            ),
        ],
    );
}

#[test]
fn pool_addresses_are_nobody_elses_and_outside() {
    for (address, owner) in [
        ("192.0.2.2", "an address of port \"front\" (line 9)"),
        ("192.0.2.18", "an address of the pool of snat \"egress\" (line 53)"),
    ] {
        snat(
            "\"2001:db8::5\"]",
            &format!("\"2001:db8::5\", \"{address}\"]"),
            &[(4, &format!("[[snat]] pool: {address} is {owner}; give another address"))],
        );
    }
    let text = BASE.replacen("[api]", &(SNAT.to_owned() + "[api]"), 1);
    assert_eq!(
        errors(&text.replacen("192.0.2.5\", ", "192.0.2.10\", ", 1)),
        [
            "f.toml:32: [[service]] listen: 192.0.2.10 is an address of the pool of snat \"egress\" \
             (line 53); give the service an address of its own",
            "f.toml:46: [[service]] listen: 192.0.2.10 is an address of the pool of snat \"egress\" \
             (line 53); give the service an address of its own",
            "f.toml:56: [[snat.forward]] external: 192.0.2.5 is not in the pool of this snat; add it \
             there",
        ]
    );
    snat(
        "192.0.2.16/30",
        "10.0.0.16/30",
        &[
            (
                4,
                "[[snat]] pool: is within the sources 10.0.0.0/24 (line 52); give addresses outside \
                 of them",
            ),
            (
                4,
                "[[snat]] pool: 10.0.0.16 is on the side of port \"back\", which is \"server\"; \
                 expected an address outside",
            ),
        ],
    );
    snat(
        "\"10.0.0.0/24\", ",
        "\"10.0.0.0/24\", \"172.16.0.0/12\", ",
        &[(
            3,
            "[[snat]] sources: 172.16.0.0/12 is reached only by ports whose side is \"client\"; make \
             that \"both\" or \"server\"",
        )],
    );
}

#[test]
fn forwarded_ports() {
    snat(
        "external = \"[2001:db8::5]:53\"\ninternal = \"[2001:db8:1::7]:53\"",
        "external = \"192.0.2.5:53\"\ninternal = \"[2001:db8:1::7]:53\"",
        &[(
            12,
            "[[snat.forward]] internal: [2001:db8:1::7]:53 is not of the family of 192.0.2.5:53; \
             expected IPv4",
        )],
    );
    snat(
        "protocol = \"udp\"\nexternal = \"[2001:db8::5]:53\"\ninternal = \"[2001:db8:1::7]:53\"",
        "protocol = \"tcp\"\nexternal = \"192.0.2.5:8080\"\ninternal = \"10.0.0.7:80\"",
        &[
            (
                11,
                "[[snat.forward]] external: tcp 192.0.2.5:8080 is forwarded already (line 56); give \
                 another port",
            ),
            (
                12,
                "[[snat.forward]] internal: tcp 10.0.0.7:80 has a forwarded port already (line 57); \
                 keep one",
            ),
        ],
    );
}
