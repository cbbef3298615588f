//! Services whose servers are reached by a tunnel.

use super::*;

/// The base file with the web service's name replaced by these lines, its servers on the port of
/// `listen`, and `of_server` after each server's address.
fn file(service: &str, of_server: &str) -> String {
    let mut text = BASE.replacen("name = \"web\"", &format!("name = \"web\"\n{service}"), 1);
    for server in ["10.0.0.11", "10.9.0.12"] {
        let (from, to) = (format!("\"{server}:8080\""), format!("\"{server}:80\"{of_server}"));
        text = text.replacen(&from, &to, 1);
    }
    text
}

#[test]
fn every_mode_with_its_defaults() {
    const MAC: &str = "\ninner_mac = \"02:00:00:00:00:11\"";
    for (mode, service, of_server, port, vni, mac) in [
        (Mode::Ipip, "mode = \"ipip\"", "", 0, 0, None),
        (Mode::Gre, "mode = \"gre\"", "", 0, 0, None),
        (Mode::Gue, "mode = \"gue\"", "", 6080, 0, None),
        (Mode::Gue, "mode = \"gue\"\ntunnel_port = 5555", "", 5555, 0, None),
        (
            Mode::Vxlan,
            "mode = \"vxlan\"\nvni = 0xabcdef",
            MAC,
            4789,
            0xab_cdef,
            Some([2, 0, 0, 0, 0, 0x11]),
        ),
    ] {
        let config = parse(&file(service, of_server), "f.toml").unwrap();
        let web = &config.services[0];
        assert_eq!((web.mode, web.tunnel_port, web.vni), (mode, port, vni));
        assert_eq!(web.servers[1].inner_mac, mac);
    }
}

#[test]
fn keys_of_one_mode_only() {
    let expect = |service: &str, of_server: &str, expected: &[&str]| {
        assert_eq!(errors(&file(service, of_server)), expected, "{service} {of_server}");
    };
    expect(
        "mode = \"gre\"\ntunnel_port = 6080\nvni = 1",
        "\ninner_mac = \"02:00:00:00:00:11\"",
        &[
            "f.toml:32: [[service]] tunnel_port: only for mode = \"gue\" or \"vxlan\"; leave it out",
            "f.toml:33: [[service]] vni: only for mode = \"vxlan\"; leave it out",
            "f.toml:43: [[service.server]] inner_mac: only for mode = \"vxlan\"; leave it out",
            "f.toml:47: [[service.server]] inner_mac: only for mode = \"vxlan\"; leave it out",
        ],
    );
    expect(
        "mode = \"vxlan\"",
        "",
        &[
            "f.toml:29: [[service]] vni: missing; give the VXLAN network identifier, like 100",
            "f.toml:39: [[service.server]] inner_mac: missing; give the MAC address of its vxlan device, like \"02:00:00:00:00:11\"",
            "f.toml:42: [[service.server]] inner_mac: missing; give the MAC address of its vxlan device, like \"02:00:00:00:00:11\"",
        ],
    );
    expect(
        "mode = \"vxlan\"\nvni = 16777216",
        "\ninner_mac = \"ff:ff:ff:ff:ff:ff\"",
        &[
            "f.toml:32: [[service]] vni: 16777216 is out of range; expected 0 to 16777215",
            "f.toml:42: [[service.server]] inner_mac: ff:ff:ff:ff:ff:ff is a multicast MAC address; expected one like 02:00:00:00:00:12",
            "f.toml:46: [[service.server]] inner_mac: ff:ff:ff:ff:ff:ff is a multicast MAC address; expected one like 02:00:00:00:00:12",
        ],
    );
    expect(
        "mode = \"gue\"\ntunnel_port = 0",
        "",
        &["f.toml:32: [[service]] tunnel_port: 0 is out of range; expected 1 to 65535"],
    );
}

#[test]
fn any_family_to_any_and_anywhere_but_the_port_stays() {
    let mode = ("name = \"web\"", "name = \"web\"\nmode = \"ipip\"");
    let listens = ("[\"192.0.2.10:80\"]", "[\"192.0.2.10:80\", \"[2001:db8::10]:80\"]");
    // Both families listen, one server is IPv4 behind a gateway, the other IPv6 on the clients' port.
    expect(
        &[
            mode,
            listens,
            ("10.0.0.11:8080", "10.9.0.11:80"),
            ("10.9.0.12:8080", "[2001:db8::11]:80"),
        ],
        &[],
    );
    // One IPv6 server for IPv4 clients.
    expect(
        &[mode, ("10.0.0.11:8080", "10.0.0.11:80"), ("10.9.0.12:8080", "[2001:db8:1::11]:8080")],
        &[
            "f.toml:43: [[service.server]] address: [2001:db8:1::11]:8080: a tunnel does not rewrite the port; expected [2001:db8:1::11]:80",
        ],
    );
}

#[test]
fn ipv6_in_a_tunnel_needs_room() {
    let mode = ("name = \"web\"", "name = \"web\"\nmode = \"ipip\"");
    let listens = ("[\"192.0.2.10:80\"]", "[\"192.0.2.10:80\", \"[2001:db8::10]:80\"]");
    let servers = [("10.0.0.11:8080", "10.0.0.11:80"), ("10.9.0.12:8080", "[2001:db8:1::11]:80")];
    let mtu = |mtu: &'static str| ("side = \"server\"", mtu);
    expect(&[mode, listens, servers[0], servers[1], mtu("side = \"server\"\nmtu = 1320")], &[]);
    expect(
        &[mode, listens, servers[0], servers[1], mtu("side = \"server\"\nmtu = 1319")],
        &[
            "f.toml:44: [[service.server]] address: 2001:db8:1::11 is reached with mtu 1319, too small for IPv6 in a tunnel; make the port's mtu 1320 or more",
        ],
    );
    // IPv4 alone can be told less.
    expect(&[mode, servers[0], servers[1], mtu("side = \"server\"\nmtu = 1280")], &[]);
}
