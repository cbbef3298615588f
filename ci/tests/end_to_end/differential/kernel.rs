//! The kernel of the switch's namespace in Shunt's place.

use std::io::Write;
use std::process::Stdio;

use super::{MODES, neighbors, server, service};
use crate::namespace::Namespace;
use crate::rig::{Family, Mode, Rig};

/// It forwards and translates.
pub(super) fn take_over(rig: &Rig) {
    let lb = &rig.lb;
    lb.sysctl("net.ipv4.ip_forward", "1");
    lb.sysctl("net.ipv6.conf.all.forwarding", "1");
    lb.ip("addr add 192.0.2.2/24 dev front");
    lb.ip("addr add 10.0.0.1/24 dev back");
    lb.ip("addr add 2001:db8:1::2/64 dev front nodad");
    lb.ip("addr add 2001:db8:2::1/64 dev back nodad");
    for (address, mac, interface) in neighbors(rig) {
        lb.ip(&format!("neigh add {address} lladdr {mac} dev {interface}"));
    }
    let (mut inward, mut outward) = (String::new(), String::new());
    for family in Family::BOTH {
        let (ip, local) = match family {
            Family::V4 => ("ip", "10.0.0.201"),
            Family::V6 => ("ip6", "2001:db8:2::201"),
        };
        for mode in MODES {
            let (service, server) = (service(family, mode), server(family, mode));
            for protocol in ["tcp", "udp"] {
                inward += &format!(
                    "{ip} daddr {} {protocol} dport {} dnat {ip} to {server}\n",
                    service.ip(),
                    service.port()
                );
                if mode == Mode::FullNat {
                    outward += &format!(
                        "{ip} daddr {} {protocol} dport {} snat {ip} to {local}\n",
                        server.ip(),
                        server.port()
                    );
                }
            }
        }
    }
    nft(
        lb,
        &format!(
            "table inet translate {{\n\
             chain inward {{\ntype nat hook prerouting priority dstnat\n{inward}}}\n\
             chain outward {{\ntype nat hook postrouting priority srcnat\n{outward}}}\n}}\n"
        ),
    );
}

/// It leaves both interfaces to Shunt.
pub(super) fn retire(rig: &Rig) {
    nft(&rig.lb, "flush ruleset");
    rig.lb.sysctl("net.ipv4.ip_forward", "0");
    rig.lb.sysctl("net.ipv6.conf.all.forwarding", "0");
    for interface in ["front", "back"] {
        rig.lb.ip(&format!("addr flush dev {interface}"));
    }
}

fn nft(namespace: &Namespace, rules: &str) {
    let mut nft = namespace.command("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
    let mut input = nft.stdin.take().expect("a pipe");
    input.write_all(rules.as_bytes()).expect("nft reads");
    drop(input);
    assert!(nft.wait().expect("nft ends").success(), "nft refuses\n{rules}");
}
