//! The checks of one section against another.

use super::*;
use crate::datapath::counters::{MAX_PORTS, MAX_SERVERS};

#[test]
fn names_and_devices_stand_once() {
    one(
        "\"net_tap0\", \"net_tap1\"",
        "\"net_tap0\", \"net_tap1\", \"net_tap1,iface=x\"",
        "f.toml:4: [dpdk] vdevs: \"net_tap1\" is a vdev already (line 4); give another name",
    );
    expect(
        &[
            ("name = \"back\"", "name = \"front\""),
            ("port = \"back\"", "port = \"front\""),
            ("10.0.0.12", "192.0.2.12"),
        ],
        &["f.toml:12: [[port]] name: \"front\" is another port's name (line 6); give each its own"],
    );
    one(
        "device = \"net_tap1\"",
        "device = \"net_tap0\"",
        "f.toml:13: [[port]] device: \"net_tap0\" is another port's device (line 7); give each a device or a vlan of its own",
    );
    let same = ("device = \"net_tap1\"", "device = \"net_tap0\"\nvlan = 7");
    expect(&[same], &[]);
    expect(
        &[same, ("side = \"client\"", "side = \"client\"\nvlan = 7")],
        &[
            "f.toml:14: [[port]] device: \"net_tap0\" with vlan 7 is another port's (line 7); give each a device or a vlan of its own",
        ],
    );
    one(
        "side = \"client\"",
        "side = \"client\"\nvlan = 4095",
        "f.toml:9: [[port]] vlan: 4095 is out of range; expected 0 to 4094",
    );
    one(
        "side = \"server\"",
        "side = \"server\"\nexception = \"sl-front\"",
        "f.toml:15: [[port]] exception: \"sl-front\" is another port's tap (line 10); give each its own",
    );
    one(
        "name = \"dns\"",
        "name = \"web\"",
        "f.toml:44: [[service]] name: \"web\" is another service's name (line 30); give each its own",
    );
}

#[test]
fn devices_are_known_to_dpdk() {
    one(
        "device = \"net_tap1\"",
        "device = \"net_tap2\"",
        "f.toml:13: [[port]] device: \"net_tap2\" is not in dpdk.vdevs; add it there",
    );
    let pci = ("device = \"net_tap1\"", "device = \"0000:3B:00.0\"");
    expect(&[pci], &[]);
    expect(&[pci, ("[dpdk]", "[dpdk]\nallow = [\"3b:00.0\"]")], &[]);
    expect(
        &[pci, ("[dpdk]", "[dpdk]\nallow = [\"3b:00.1\"]")],
        &["f.toml:14: [[port]] device: \"0000:3b:00.0\" is not in dpdk.allow; add it there"],
    );
    // Extra arguments may bring the device.
    let extra = ("[dpdk]", "[dpdk]\nextra_args = [\"--vdev=net_tap2\"]");
    expect(&[extra, ("device = \"net_tap1\"", "device = \"net_tap2\"")], &[]);
}

#[test]
fn ports_in_number_and_size() {
    let ports = |n: usize, exception: &str| {
        (0..n)
            .map(|i| {
                format!(
                    "[[port]]\nname = \"p{i}\"\ndevice = \"net_tap{}\"\nside = \"both\"\naddresses = [\"10.{i}.1.1/24\"]\n{}",
                    i + 2,
                    exception.replace('#', &i.to_string())
                )
            })
            .collect::<String>()
    };
    let vdevs = (0..40).map(|i| format!("\"net_tap{i}\"")).collect::<Vec<_>>().join(", ");
    let vdevs = ("\"net_tap0\", \"net_tap1\"", vdevs.as_str());
    // The base file has two ports and a tap.
    let fits = ports(MAX_PORTS - 3, "");
    let memory = ("[dpdk]", "[dpdk]\nmemory_mb = 1024");
    expect(&[vdevs, memory, ("[timeouts]", &format!("{fits}[timeouts]"))], &[]);
    let too_many = ports(15, "exception = \"x#\"\n");
    expect(
        &[vdevs, ("[timeouts]", &format!("{too_many}[timeouts]"))],
        &[
            "f.toml:111: [[port]]: is one too many; at most 32 ports are possible, exception taps included",
        ],
    );
    expect(&[("\nexception = \"sl-front\"", "\nmtu = 1280")], &[]);
    one(
        "exception = \"sl-front\"",
        "mtu = 1279",
        "f.toml:10: [[port]] mtu: 1279 is too small for the port's IPv6 address; expected 1280 to 9216",
    );
}

#[test]
fn servers_in_number() {
    let servers = |n: usize| {
        (0..n)
            .map(|i| {
                let (a, b) = (i / 250, i % 250 + 1);
                format!("[[service.server]]\naddress = \"10.9.{a}.{b}:1\"\n")
            })
            .collect::<String>()
    };
    // The base file has three.
    expect(&[("[api]", &format!("{}[api]", servers(MAX_SERVERS - 3)))], &[]);
    expect(
        &[("[api]", &format!("{}[api]", servers(MAX_SERVERS - 2)))],
        &[
            "f.toml:43: [[service]]: servers up to this service are 16385; at most 16384 are possible in all",
        ],
    );
}

#[test]
fn listen_addresses_stand_once() {
    one(
        "[\"192.0.2.10:80\"]",
        "[\"192.0.2.10:80\",\n\"192.0.2.10:80\"]",
        "f.toml:33: [[service]] listen: tcp 192.0.2.10:80 is listened on already (line 32); one service can have it",
    );
    // The same address and port with another protocol is another service.
    expect(&[("[\"192.0.2.10:80\"]", "[\"192.0.2.10:53\"]")], &[]);
}

#[test]
fn an_address_has_one_owner() {
    one(
        "\"2001:db8:1::2/64\"",
        "\"10.0.0.2/16\"",
        "f.toml:15: [[port]] addresses: 10.0.0.2 is an address of port \"back\" (line 15); give another address",
    );
    one(
        "\"2001:db8:1::2/64\"",
        "\"192.0.2.3/24\"",
        "f.toml:15: [[port]] addresses: 192.0.2.0/24 is the network of port \"front\" (line 9); give each port its own network",
    );
    one(
        "\"10.0.0.100\"",
        "\"10.0.0.100\", \"10.0.0.2\"",
        "f.toml:16: [[port]] local_addresses: 10.0.0.2 is an address of port \"back\" (line 15); give another address",
    );
    one(
        "exception = \"sl-front\"",
        "local_addresses = [\"10.0.0.100\"]",
        "f.toml:16: [[port]] local_addresses: 10.0.0.100 is a local address of port \"front\" (line 10); give another address",
    );
    one(
        "192.0.2.10:80",
        "192.0.2.2:80",
        "f.toml:32: [[service]] listen: 192.0.2.2 is an address of port \"front\" (line 9); give the service an address of its own",
    );
    one(
        "192.0.2.10:80",
        "10.0.0.100:80",
        "f.toml:32: [[service]] listen: 10.0.0.100 is a local address of port \"back\" (line 16); give the service an address of its own",
    );
    one(
        "10.0.0.11:8080",
        "192.0.2.10:8080",
        "f.toml:39: [[service.server]] address: 192.0.2.10 is a virtual address of service \"web\" (line 32); a server is another host",
    )
}

#[test]
fn gateways_and_neighbors_are_other_hosts() {
    one(
        "via = \"10.0.0.1\"",
        "via = \"10.0.0.2\"",
        "f.toml:22: [[route]] via: 10.0.0.2 is an address of port \"back\" (line 15); a gateway is another host",
    );
    one(
        "address = \"10.0.0.12\"",
        "address = \"10.0.0.100\"",
        "f.toml:24: [[neighbor]] address: 10.0.0.100 is a local address of port \"back\" (line 16); a neighbor is another host",
    );
}

#[test]
fn routes() {
    one(
        "10.9.0.0/16",
        "0.0.0.0/0",
        "f.toml:21: [[route]] to: 0.0.0.0/0 has a route already (line 18); keep one",
    );
    one(
        "10.9.0.0/16",
        "10.0.0.0/24",
        "f.toml:21: [[route]] to: 10.0.0.0/24 is the network of port \"back\"; leave it out",
    );
    one(
        "10.9.0.0/16",
        "2001:db8:9::/48",
        "f.toml:22: [[route]] via: 10.0.0.1 is not of the family of 2001:db8:9::/48; expected IPv6",
    );
    // That 10.9.0.12 has no route now is only a consequence.
    expect(
        &[("via = \"10.0.0.1\"", "via = \"10.7.0.1\""), ("0.0.0.0/0", "10.99.0.0/16")],
        &["f.toml:22: [[route]] via: 10.7.0.1 is on no port's network; expected a neighbor"],
    );
}

#[test]
fn neighbors() {
    one(
        "port = \"back\"",
        "port = \"rear\"",
        "f.toml:26: [[neighbor]] port: \"rear\" is no port; expected \"front\", \"back\"",
    );
    one(
        "address = \"10.0.0.12\"",
        "address = \"10.0.1.12\"",
        "f.toml:24: [[neighbor]] address: 10.0.1.12 is on no network of port \"back\"; expected an address on its link",
    );
    one(
        "[timeouts]",
        "[[neighbor]]\naddress = \"10.0.0.12\"\nmac = \"02:00:00:00:00:13\"\nport = \"back\"\n[timeouts]",
        "f.toml:28: [[neighbor]] address: 10.0.0.12 is a neighbor already (line 24); keep one",
    );
}

#[test]
fn servers_fit_their_service() {
    one(
        "10.9.0.12:8080",
        "10.0.0.11:8080",
        "f.toml:42: [[service.server]] address: 10.0.0.11:8080 is a server of this service already (line 39); give it a larger weight instead",
    );
    one(
        "10.9.0.12:8080",
        "[2001:db8:1::11]:80",
        "f.toml:42: [[service.server]] address: [2001:db8:1::11]:80 is IPv6, but the service has no IPv6 listen address; add one, or leave the server out",
    );
    one(
        "[\"192.0.2.10:80\"]",
        "[\"192.0.2.10:80\", \"[2001:db8::10]:80\"]",
        "f.toml:32: [[service]] listen: [2001:db8::10]:80 is IPv6, but the service has no IPv6 server; add one",
    );
    one(
        "mode = \"fullnat\"",
        "mode = \"fullnat\"\n[service.health]\ntype = \"tcp\"",
        "f.toml:48: [service.health] port: missing; a udp service is asked over TCP, so give the port to ask",
    );
    expect(
        &[(
            "mode = \"fullnat\"",
            "mode = \"fullnat\"\n[service.health]\ntype = \"http\"\nport = 80",
        )],
        &[],
    );
}

#[test]
fn in_fullnat_servers_of_one_family_serve_both() {
    let fullnat = ("name = \"web\"", "name = \"web\"\nmode = \"fullnat\"");
    let both = ("[\"192.0.2.10:80\"]", "[\"192.0.2.10:80\", \"[2001:db8::10]:80\"]");
    let v6 = ("[\"192.0.2.10:80\"]", "[\"[2001:db8::10]:80\"]");
    expect(&[fullnat, both], &[]);
    expect(&[fullnat, v6], &[]);
    let lip = ("[\"10.0.0.100\"]", "[\"10.0.0.100\", \"2001:db8:1::100\"]");
    let mixed = ("10.9.0.12:8080", "[2001:db8:1::11]:80");
    expect(&[fullnat, both, lip, mixed], &[]);
    // One of each: the one of the other family would never serve.
    expect(
        &[fullnat, lip, mixed],
        &[
            "f.toml:43: [[service.server]] address: [2001:db8:1::11]:80 is IPv6, but the service has no IPv6 listen address; add one, or leave the server out",
        ],
    );
    // Local addresses are those of the servers' family.
    expect(
        &[("[\"192.0.2.10:53\"]", "[\"192.0.2.10:53\"]"), ("10.0.0.11:53", "[2001:db8:1::11]:53")],
        &[
            "f.toml:49: [[service.server]] address: 2001:db8:1::11 is reached by port \"back\", which has no IPv6 local_addresses; add one there",
        ],
    );
}

#[test]
fn servers_are_reached() {
    expect(
        &[("to = \"0.0.0.0/0\"", "to = \"10.88.0.0/16\""), ("10.9.0.12:8080", "10.8.0.12:8080")],
        &[
            "f.toml:42: [[service.server]] address: 10.8.0.12 cannot be reached; expected an address on a port's network or behind a [[route]]",
        ],
    );
    one(
        "10.9.0.12:8080",
        "192.0.2.12:8080",
        "f.toml:42: [[service.server]] address: 192.0.2.12 is reached by port \"front\", whose side is \"client\"; make that \"both\" or \"server\"",
    );
    one(
        "local_addresses = [\"10.0.0.100\"]\n",
        "",
        "f.toml:48: [[service.server]] address: 10.0.0.11 is reached by port \"back\", which has no IPv4 local_addresses; add one there",
    );
    expect(
        &[
            ("[\"192.0.2.10:53\"]", "[\"[2001:db8::10]:53\"]"),
            ("10.0.0.11:53", "[2001:db8:1::11]:53"),
        ],
        &[
            "f.toml:49: [[service.server]] address: 2001:db8:1::11 is reached by port \"back\", which has no IPv6 local_addresses; add one there",
        ],
    );
}

#[test]
fn direct_server_return() {
    let dr = ("name = \"web\"", "name = \"web\"\nmode = \"dr\"");
    expect(
        &[dr, ("10.0.0.11:8080", "10.0.0.11:80"), ("10.9.0.12:8080", "10.9.0.12:80")],
        &[
            "f.toml:43: [[service.server]] address: 10.9.0.12 is behind the gateway 10.0.0.1; dr needs a server on a port's network",
        ],
    );
    expect(
        &[dr, ("10.9.0.12:8080", "10.0.0.12:80")],
        &[
            "f.toml:40: [[service.server]] address: 10.0.0.11:8080: dr does not rewrite the port; expected 10.0.0.11:80",
        ],
    );
    // A port where only clients are said to be does for it: replies do not come back.
    expect(&[dr, ("10.0.0.11:8080", "10.0.0.11:80"), ("10.9.0.12:8080", "192.0.2.12:80")], &[]);
}

#[test]
fn what_could_not_be_read_has_no_consequences() {
    // Without that address no server, neighbor or gateway behind it can be judged.
    one(
        "10.0.0.2/24",
        "10.0.0.2",
        "f.toml:15: [[port]] addresses: \"10.0.0.2\" has no prefix length; expected ADDRESS/LENGTH, like 10.0.0.2/24",
    );
    one(
        "via = \"10.0.0.1\"",
        "via = \"gateway\"",
        "f.toml:22: [[route]] via: \"gateway\" is not an IP address; expected one like 10.0.0.11 or 2001:db8::11",
    );
    one(
        "192.0.2.10:53",
        "192.0.2.10",
        "f.toml:46: [[service]] listen: \"192.0.2.10\" has no port; expected ADDRESS:PORT, like 192.0.2.10:80",
    );
}

proptest::proptest! {
    /// Lines left out, doubled or moved: errors or a configuration, never a panic.
    #[test]
    fn shuffled_lines_never_panic(order in proptest::collection::vec(0..BASE.lines().count(), 0..60)) {
        let lines: Vec<_> = BASE.lines().collect();
        let text: String = order.iter().flat_map(|&i| [lines[i], "\n"]).collect();
        let _ = parse(&text, "f.toml");
    }

    /// A value of another type: errors or a configuration, never a panic.
    #[test]
    fn values_of_any_type_never_panic(
        line in 0..BASE.lines().count(),
        value in proptest::sample::select(vec!["1", "-1", "1.5", "\"\"", "true", "[]", "[1]", "{}", "[{}]", "1979-05-27"]),
    ) {
        let mut text = String::new();
        for (i, original) in BASE.lines().enumerate() {
            match original.split_once(" = ") {
                Some((key, _)) if i == line => text += &format!("{key} = {value}\n"),
                _ => text += &format!("{original}\n"),
            }
        }
        let _ = parse(&text, "f.toml");
    }
}

#[test]
fn who_may_be_told_the_clients_address() {
    let web = "name = \"web\"\nmode = \"fullnat\"";
    let expect_web = |keys: &str, expected: &[&str]| {
        expect(&[("name = \"web\"", &format!("{web}\n{keys}"))], expected);
    };
    for good in [
        "proxy_protocol = \"off\"\ntoa = true",
        "proxy_protocol = \"v1\"",
        "proxy_protocol = \"v2\"",
    ] {
        expect_web(good, &[]);
    }
    expect_web(
        "proxy_protocol = \"v3\"",
        &[
            "f.toml:32: [[service]] proxy_protocol: \"v3\" is unknown; expected \"off\", \"v1\", \"v2\"",
        ],
    );
    expect_web(
        "proxy_protocol = \"v1\"\ntoa = true",
        &["f.toml:33: [[service]] toa: not together with proxy_protocol; choose one of them"],
    );
    for (key, on, off) in [("proxy_protocol", "\"v2\"", "\"off\""), ("toa", "true", "false")] {
        one(
            "name = \"web\"",
            &format!("name = \"web\"\n{key} = {on}"),
            &format!(
                "f.toml:31: [[service]] {key}: only in mode \"fullnat\", in the others servers see the client; expected {key} = {off}"
            ),
        );
        one(
            "name = \"dns\"",
            &format!("name = \"dns\"\n{key} = {on}"),
            &format!(
                "f.toml:45: [[service]] {key}: only for protocol = \"tcp\"; expected {key} = {off}"
            ),
        );
    }
}

#[test]
fn a_check_has_the_header_that_the_server_expects() {
    use crate::rewrite::proxy_protocol::Version;
    let header = |port: &str| {
        let keys = "name = \"web\"\nmode = \"fullnat\"\nproxy_protocol = \"v2\"";
        let text = BASE
            .replace("name = \"web\"", keys)
            .replace("path = \"/healthz\"", &format!("path = \"/healthz\"\n{port}"));
        parse(&text, "f.toml").unwrap().services[0].health.clone().unwrap().proxy_protocol
    };
    assert_eq!(header(""), Some(Version::V2));
    assert_eq!(header("port = 8081"), None);
}

#[test]
fn the_syn_proxy_where_it_can_work() {
    let web = |keys: &str| {
        ("listen = [\"192.0.2.10:80\"]", format!("listen = [\"192.0.2.10:80\"]\n{keys}"))
    };
    let case = |keys: &str, expected: &[&str]| {
        let (from, to) = web(keys);
        expect(&[(from, &to)], expected);
    };
    for good in [
        "syn_proxy = \"off\"",
        "syn_proxy = \"on\"",
        "syn_proxy = \"auto\"",
        "syn_proxy = \"auto\"\nsyn_proxy_above = 100_000_000",
        "syn_proxy = \"on\"\nmode = \"nat\"",
    ] {
        case(good, &[]);
    }
    case(
        "syn_proxy = true",
        &["f.toml:33: [[service]] syn_proxy: is a boolean; expected a string"],
    );
    case(
        "syn_proxy = \"yes\"",
        &[
            "f.toml:33: [[service]] syn_proxy: \"yes\" is unknown; expected \"off\", \"on\", \"auto\"",
        ],
    );
    case(
        "syn_proxy = \"auto\"\nsyn_proxy_above = 0",
        &["f.toml:34: [[service]] syn_proxy_above: 0 is out of range; expected 1 to 100000000"],
    );
    case(
        "syn_proxy = \"on\"\nsyn_proxy_above = 5",
        &["f.toml:34: [[service]] syn_proxy_above: only for syn_proxy = \"auto\"; leave it out"],
    );
    one(
        "listen = [\"192.0.2.10:53\"]",
        "listen = [\"192.0.2.10:53\"]\nsyn_proxy = \"on\"",
        "f.toml:47: [[service]] syn_proxy: is for tcp services; leave it out",
    );
}

#[test]
fn the_syn_proxy_and_the_clients_address() {
    for told in ["proxy_protocol = \"v2\"", "toa = true"] {
        let keys = format!("name = \"web\"\nmode = \"fullnat\"\n{told}\nsyn_proxy = \"on\"");
        one(
            "name = \"web\"",
            &keys,
            "f.toml:33: [[service]] syn_proxy: not together with proxy_protocol or toa; choose one of them",
        );
    }
}

#[test]
fn the_syn_proxy_and_mid_stream() {
    let adopt = |policy: &str| {
        format!(
            "name = \"web\"\nscheduler = \"maglev\"\nmid_stream = \"adopt\"\nsyn_proxy = \"{policy}\""
        )
    };
    expect(&[("name = \"web\"", &adopt("auto"))], &[]);
    one(
        "name = \"web\"",
        &adopt("on"),
        "f.toml:33: [[service]] syn_proxy: \"on\" leaves nothing to adopt: a segment without a session must return a cookie; expected \"auto\", or another mid_stream",
    );
}

#[test]
fn the_syn_proxy_needs_the_replies() {
    // In direct return servers are on a port's network and serve on the service's own port.
    expect(
        &[
            (
                "listen = [\"192.0.2.10:80\"]",
                "listen = [\"192.0.2.10:80\"]\nmode = \"dr\"\nsyn_proxy = \"auto\"",
            ),
            ("address = \"10.0.0.11:8080\"", "address = \"10.0.0.11:80\""),
            ("address = \"10.9.0.12:8080\"", "address = \"10.0.0.12:80\""),
        ],
        &[
            "f.toml:34: [[service]] syn_proxy: needs the replies to pass here; expected mode = \"nat\" or \"fullnat\"",
        ],
    );
}

/// Hosts of a network never ask who has its first or last address.
#[test]
fn addresses_that_no_host_has() {
    let network = |ip: &str, what: &str, net: &str, port: &str| {
        format!(
            "{ip} is the {what} address of {net}, the network of port {port:?}; give another address"
        )
    };
    let front = |ip: &str, what: &str| network(ip, what, "192.0.2.0/24", "front");
    let back = |ip: &str, what: &str| network(ip, what, "10.0.0.0/24", "back");
    one(
        "10.0.0.100",
        "10.0.0.255",
        &format!("f.toml:16: [[port]] local_addresses: {}", back("10.0.0.255", "broadcast")),
    );
    one(
        "[\"192.0.2.10:80\"]",
        "[\"192.0.2.0:80\"]",
        &format!("f.toml:32: [[service]] listen: {}", front("192.0.2.0", "network")),
    );
    one(
        "10.0.0.11:8080",
        "10.0.0.255:8080",
        &format!("f.toml:39: [[service.server]] address: {}", back("10.0.0.255", "broadcast")),
    );
    one(
        "via = \"10.0.0.1\"",
        "via = \"10.0.0.0\"",
        &format!("f.toml:22: [[route]] via: {}", back("10.0.0.0", "network")),
    );
    let snat =
        "[[snat]]\nname = \"e\"\nsources = [\"10.0.0.0/24\"]\npool = [\"192.0.2.252/30\"]\n[api]";
    one("[api]", snat, &format!("f.toml:53: [[snat]] pool: {}", front("192.0.2.255", "broadcast")));
    // Behind a gateway the last address may be a host's, and a pair of /31 has no other.
    expect(&[("10.9.0.12:8080", "10.9.255.255:8080")], &[]);
    expect(&[("192.0.2.2/24", "192.0.2.0/31")], &[]);
}

#[test]
fn a_forwarded_port_leads_to_another_host() {
    let snat = |internal: &str| {
        format!(
            "[[snat]]\nname = \"e\"\nsources = [\"10.0.0.0/24\"]\npool = [\"192.0.2.5\"]\n[[snat.forward]]\nprotocol = \"tcp\"\nexternal = \"192.0.2.5:80\"\ninternal = \"{internal}:80\"\n[api]"
        )
    };
    expect(&[("[api]", &snat("10.0.0.7"))], &[]);
    one(
        "[api]",
        &snat("10.0.0.2"),
        "f.toml:57: [[snat.forward]] internal: 10.0.0.2 is an address of port \"back\" (line 15); a host inside is another host",
    );
    one(
        "[api]",
        &snat("10.0.0.100"),
        "f.toml:57: [[snat.forward]] internal: 10.0.0.100 is a local address of port \"back\" (line 16); a host inside is another host",
    );
}

#[test]
fn a_port_that_is_not_rewritten_is_that_of_all_of_listen() {
    let dr = ("name = \"web\"", "name = \"web\"\nmode = \"dr\"");
    expect(
        &[
            dr,
            ("[\"192.0.2.10:80\"]", "[\"192.0.2.10:80\", \"192.0.2.10:443\"]"),
            ("10.0.0.11:8080", "10.0.0.11:80"),
            ("10.9.0.12:8080", "10.0.0.12:443"),
        ],
        &[
            "f.toml:40: [[service.server]] address: 10.0.0.11:80: dr does not rewrite the port; give each port of listen a service of its own",
            "f.toml:43: [[service.server]] address: 10.0.0.12:443: dr does not rewrite the port; give each port of listen a service of its own",
        ],
    );
}

/// 4 queue pairs and 2 workers take 32767 buffers of 2384 bytes.
#[test]
fn memory_holds_the_packet_buffers() {
    one(
        "[dpdk]",
        "[dpdk]\nmemory_mb = 74",
        "f.toml:4: [dpdk] memory_mb: 74 MiB do not hold the 32767 packet buffers that so many ports and workers need; expected 75 or more",
    );
    expect(&[("[dpdk]", "[dpdk]\nmemory_mb = 75")], &[]);
    // The default is no more than a default.
    let workers: Vec<String> = (0..64).map(|core| core.to_string()).collect();
    one(
        "[1, 2]",
        &format!("[{}]", workers.join(", ")),
        "f.toml:3: [dpdk] memory_mb: 512 MiB do not hold the 1048575 packet buffers that so many ports and workers need; expected 2384 or more",
    );
}
