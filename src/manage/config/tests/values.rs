//! The values of each key.

use super::*;

#[test]
fn node() {
    let node = |given: &str, expected: &str| one("[node]", &format!("[node]\n{given}"), expected);
    node("id = 2", "f.toml:2: [node] id: 2 is out of range; expected 0 to 1");
    node("id = \"a\"", "f.toml:2: [node] id: is a string; expected 0 to 1");
    node("id = -1", "f.toml:2: [node] id: -1 is out of range; expected 0 to 1");
    node(
        "sessions = 1000",
        "f.toml:2: [node] sessions: 1000 is out of range; expected 1024 to 1000000000",
    );
    node("name = 5", "f.toml:2: [node] name: is an integer; expected a string");
    node(
        "name = \"a b\"",
        "f.toml:2: [node] name: \"a b\" is not a name; expected 1 to 63 letters, digits, \"-\", \"_\" or \".\"",
    );
    node(
        "idle = \"sleep\"",
        "f.toml:2: [node] idle: \"sleep\" is unknown; expected \"spin\", \"yield\"",
    );
    one("[1, 2]", "[]", "f.toml:2: [node] workers: is empty; give CPU cores, like [1]");
    one("[1, 2]", "1", "f.toml:2: [node] workers: an integer is not a list; write [ … ]");
    one(
        "[1, 2]",
        "[1,\n1]",
        "f.toml:3: [node] workers: core 1 stands twice; workers share a core only with idle = \"yield\"",
    );
    expect(&[("[1, 2]", "[1, 1]\nidle = \"yield\"")], &[]);
    let cores = (0..65).map(|c| c.to_string()).collect::<Vec<_>>().join(",");
    one(
        "[1, 2]",
        &format!("[{cores}]"),
        "f.toml:2: [node] workers: 65 workers are too many; at most 64 are possible",
    );
    expect(&[("[node]", "[node]\nsessions = 0x10_0000")], &[]);
}

#[test]
fn dpdk() {
    let dpdk = |given: &str, expected: &str| one("[dpdk]", &format!("[dpdk]\n{given}"), expected);
    dpdk("memory_mb = 1", "f.toml:4: [dpdk] memory_mb: 1 is out of range; expected 64 to 1048576");
    dpdk("hugepages = 1", "f.toml:4: [dpdk] hugepages: is an integer; expected true or false");
    dpdk(
        "allow = [\"eth0\"]",
        "f.toml:4: [dpdk] allow: \"eth0\" is not a PCI address; expected one like 0000:3b:00.0",
    );
    dpdk("extra_args = [1]", "f.toml:4: [dpdk] extra_args: is an integer; expected a string");
    one(
        "\"net_tap0\", \"net_tap1\"",
        "\"net_tap0\", \"net_tap1\", \",iface=x\"",
        "f.toml:4: [dpdk] vdevs: \",iface=x\" is not a vdev; expected one like net_af_packet0,iface=eth0",
    );
}

#[test]
fn port() {
    let front = |from: &str, to: &str, expected: &str| one(from, to, &format!("f.toml:{expected}"));
    front("name = \"front\"\n", "", "5: [[port]] name: missing; give a name, like \"front\"");
    front(
        "device = \"net_tap0\"",
        "device = \"\"",
        "7: [[port]] device: \"\" is no device; expected a PCI address or the name of a vdev",
    );
    front(
        "device = \"net_tap0\"\n",
        "",
        "5: [[port]] device: missing; give a PCI address or the name of a vdev, like \"net_af_packet0\"",
    );
    front(
        "side = \"client\"",
        "side = \"left\"",
        "8: [[port]] side: \"left\" is unknown; expected \"client\", \"server\", \"both\"",
    );
    front(
        "addresses = [\"10.0.0.2/24\", \"2001:db8:1::2/64\"]\n",
        "",
        "11: [[port]] addresses: missing; give the port's addresses, like [\"192.0.2.2/24\"]",
    );
    let address = |given: &str, expected: &str| {
        one("192.0.2.2/24", given, &format!("f.toml:9: [[port]] addresses: {expected}"));
    };
    address(
        "192.0.2.2",
        "\"192.0.2.2\" has no prefix length; expected ADDRESS/LENGTH, like 192.0.2.2/24",
    );
    address(
        "192.0.2/24",
        "\"192.0.2/24\" is not ADDRESS/LENGTH; expected one like 192.0.2.2/24 or 2001:db8::2/64",
    );
    address(
        "192.0.2.0/24",
        "192.0.2.0/24 is the network address; expected the port's own, like 192.0.2.1/24",
    );
    address(
        "192.0.2.255/24",
        "192.0.2.255/24 is the broadcast address; expected the port's own, like 192.0.2.1/24",
    );
    address("127.0.0.1/8", "127.0.0.1 is a loopback address; expected a unicast address");
    address("240.0.0.1/8", "240.0.0.1 is a reserved address; expected a unicast address");
    address("::/0", ":: is the unspecified address; expected a unicast address");
    let lip = |given: &str, expected: &str| {
        one("10.0.0.100", given, &format!("f.toml:16: [[port]] local_addresses: {expected}"));
    };
    lip(
        "10.0.0.100/24",
        "\"10.0.0.100/24\" is not an IP address; expected one like 10.0.0.11 or 2001:db8::11",
    );
    lip("239.0.0.1", "239.0.0.1 is a multicast address; expected a unicast address");
    front(
        "exception = \"sl-front\"",
        "mtu = 10_000",
        "10: [[port]] mtu: 10000 is out of range; expected 576 to 9216",
    );
    front(
        "exception = \"sl-front\"",
        "full_checksums = \"yes\"",
        "10: [[port]] full_checksums: is a string; expected true or false",
    );
    front(
        "sl-front",
        "sixteen-letters-",
        "10: [[port]] exception: \"sixteen-letters-\" cannot name an interface; expected 1 to 15 letters, digits, \"-\", \"_\" or \".\"",
    );
    front(
        "sl-front",
        "a/b",
        "10: [[port]] exception: \"a/b\" cannot name an interface; expected 1 to 15 letters, digits, \"-\", \"_\" or \".\"",
    );
    expect(&[("sl-front", "")], &[]);
}

#[test]
fn route_and_neighbor() {
    one(
        "10.9.0.0/16",
        "10.9.0.1/16",
        "f.toml:21: [[route]] to: 10.9.0.1/16 has bits set behind its prefix; expected 10.9.0.0/16",
    );
    one(
        "to = \"10.9.0.0/16\"\n",
        "",
        "f.toml:20: [[route]] to: missing; give a network, like \"0.0.0.0/0\"",
    );
    one(
        "via = \"10.0.0.1\"\n",
        "",
        "f.toml:20: [[route]] via: missing; give the gateway's address, like \"192.0.2.1\"",
    );
    let mac = |given: &str, expected: &str| {
        one("02:00:00:00:00:12", given, &format!("f.toml:25: [[neighbor]] mac: {expected}"));
    };
    mac(
        "01:00:5e:00:00:01",
        "01:00:5e:00:00:01 is a multicast MAC address; expected one like 02:00:00:00:00:12",
    );
    mac(
        "ff:ff:ff:ff:ff:ff",
        "ff:ff:ff:ff:ff:ff is a multicast MAC address; expected one like 02:00:00:00:00:12",
    );
    mac(
        "00:00:00:00:00:00",
        "00:00:00:00:00:00 is no host's MAC address; expected one like 02:00:00:00:00:12",
    );
    mac(
        "02:00:00:00:00",
        "\"02:00:00:00:00\" is not a MAC address; expected one like 02:00:00:00:00:12",
    );
    mac(
        "02:00:00:00:00:+1",
        "\"02:00:00:00:00:+1\" is not a MAC address; expected one like 02:00:00:00:00:12",
    );
    one(
        "port = \"back\"\n",
        "",
        "f.toml:23: [[neighbor]] port: missing; give the name of the port it is on",
    );
}

#[test]
fn timeouts() {
    one(
        "udp = 40",
        "udp = 86_401",
        "f.toml:28: [timeouts] udp: 86401 is out of range; expected 1 to 86400",
    );
    one(
        "tcp_fin = 20",
        "tcp_fin = 1.5",
        "f.toml:34: [service.timeouts] tcp_fin: is a float; expected 1 to 86400",
    );
    one(
        "tcp_fin = 20",
        "tcp_fim = 20",
        "f.toml:34: [service.timeouts] tcp_fim: unknown key; did you mean \"tcp_fin\"?",
    );
}

#[test]
fn service() {
    one("name = \"web\"\n", "", "f.toml:29: [[service]] name: missing; give a name, like \"web\"");
    one(
        "protocol = \"tcp\"\n",
        "",
        "f.toml:29: [[service]] protocol: missing; give \"tcp\" or \"udp\"",
    );
    one(
        "protocol = \"udp\"",
        "protocol = \"sctp\"",
        "f.toml:45: [[service]] protocol: \"sctp\" is unknown; expected \"tcp\", \"udp\"",
    );
    one(
        "[\"192.0.2.10:80\"]",
        "[]",
        "f.toml:32: [[service]] listen: is empty; give virtual addresses with ports, like [\"192.0.2.10:80\"]",
    );
    let listen = |given: &str, expected: &str| {
        one("192.0.2.10:80", given, &format!("f.toml:32: [[service]] listen: {expected}"));
    };
    listen("192.0.2.10", "\"192.0.2.10\" has no port; expected ADDRESS:PORT, like 192.0.2.10:80");
    listen(
        "2001:db8::10",
        "\"2001:db8::10\" has no port; expected ADDRESS:PORT, like [2001:db8::10]:80",
    );
    listen("192.0.2.10:0", "192.0.2.10:0 has port 0; expected 1 to 65535");
    listen(
        "www:80",
        "\"www:80\" is not ADDRESS:PORT; expected one like 10.0.0.11:80 or [2001:db8::11]:80",
    );
    listen("0.0.0.0:80", "0.0.0.0 is the unspecified address; expected a unicast address");
    listen("[fe80::1]:80", "fe80::1 is a link-local address; expected a routed one");
    listen(
        "[::ffff:192.0.2.1]:80",
        "::ffff:192.0.2.1 is an IPv4-mapped address; expected a unicast address",
    );
    one(
        "weight = 10",
        "weight = 65_536",
        "f.toml:40: [[service.server]] weight: 65536 is out of range; expected 0 to 65535",
    );
    one(
        "address = \"10.0.0.11:8080\"\n",
        "",
        "f.toml:38: [[service.server]] address: missing; give ADDRESS:PORT, like \"10.0.0.11:8080\"",
    );
    one(
        "[[service.server]]\naddress = \"10.0.0.11:53\"\n",
        "",
        "f.toml:43: [[service]] server: missing; give at least one [[service.server]]",
    );
}

#[test]
fn health() {
    let health = |given: &str, expected: &str| {
        one("path = \"/healthz\"", given, &format!("f.toml:{expected}"));
    };
    health(
        "path = \"healthz\"",
        "37: [service.health] path: \"healthz\" is not a path; expected one like \"/healthz\", without spaces",
    );
    health(
        "path = \"/a b\"",
        "37: [service.health] path: \"/a b\" is not a path; expected one like \"/healthz\", without spaces",
    );
    health(
        "host = \"a\\r\\nb\"",
        "37: [service.health] host: \"a\\r\\nb\" is not a host; expected one like \"www.example.com\"",
    );
    for wrong in ["", "20", "299-200", "200-", "600", "200;204", "+20"] {
        health(
            &format!("expect = {wrong:?}"),
            &format!(
                "37: [service.health] expect: {wrong:?} is no list of status codes; expected one like \"200-299\" or \"200,204\""
            ),
        );
    }
    health(
        "interval_ms = 5",
        "37: [service.health] interval_ms: 5 is out of range; expected 10 to 3600000",
    );
    health(
        "timeout_ms = 1001",
        "37: [service.health] timeout_ms: 1001 is longer than interval_ms; expected 1 to 1000",
    );
    health("rise = 0", "37: [service.health] rise: 0 is out of range; expected 1 to 100");
    health("fall = 101", "37: [service.health] fall: 101 is out of range; expected 1 to 100");
    health("port = 0", "37: [service.health] port: 0 is out of range; expected 1 to 65535");
    one(
        "type = \"http\"\n",
        "",
        "f.toml:35: [service.health] type: missing; give \"tcp\" or \"http\"",
    );
    one(
        "type = \"http\"",
        "type = \"tcp\"",
        "f.toml:37: [service.health] path: only for type = \"http\"; leave it out",
    );
}

#[test]
fn health_in_full() {
    let text = BASE.replace(
        "path = \"/healthz\"",
        "path = \"/\"\nhost = \"www\"\nexpect = \"200, 300-399\"\ninterval_ms = 100\nrise = 1\nfall = 1\nport = 81",
    );
    let config = parse(&text, "f.toml").unwrap();
    let expected = Health {
        check: HealthCheck::Http {
            path: "/".into(),
            host: Some("www".into()),
            expect: vec![(200, 200), (300, 399)],
        },
        interval_ms: 100,
        timeout_ms: 100,
        rise: 1,
        fall: 1,
        proxy_protocol: None,
        port: Some(81),
    };
    assert_eq!(config.services[0].health, Some(expected));
}

#[test]
fn api() {
    one(
        "/run/test.sock",
        "test.sock",
        "f.toml:51: [api] socket: \"test.sock\" cannot be a socket; expected an absolute path of at most 107 bytes",
    );
}
