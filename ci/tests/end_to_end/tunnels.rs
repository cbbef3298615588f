//! Tunnels: a Linux server takes the outer headers off, has the VIP on its loopback and answers the
//! client itself. Clients and servers of both families, in all four combinations.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::decapsulate::{self, kernel_devices, kernel_gue};
use crate::namespace::Task;
use crate::rig::{Family, Mode, Plan, Rig, WEB};
use crate::servers::{ECHO, RealServer};

const MODES: [&str; 4] = ["ipip", "gre", "gue", "vxlan"];
const INNER_MAC: &str = "02:00:00:00:03:11";

/// The VIP of a mode's services.
fn vip_of(mode: &str, family: Family) -> IpAddr {
    let n = 31 + MODES.iter().position(|m| *m == mode).expect("a mode");
    family.pick(&format!("192.0.2.{n}"), &format!("2001:db8:1::{n}"))
}

/// A web service and an echo by tunnel, with both servers in both families.
fn services(mode: &str, servers: &[RealServer]) -> String {
    let mut text = String::new();
    for (name, port) in [("web", WEB), ("echo", ECHO)] {
        let listen = Family::BOTH
            .map(|family| format!("\"{}\"", SocketAddr::new(vip_of(mode, family), port)));
        text += &format!(
            "[[service]]\nname = \"{mode}-{name}\"\nprotocol = \"tcp\"\nlisten = [{}]\n\
             mode = \"{mode}\"\n",
            listen.join(", ")
        );
        if mode == "vxlan" {
            text += "vni = 77\n";
        }
        text += "[service.health]\ntype = \"tcp\"\ntimeout_ms = 1000\n";
        for address in servers.iter().flat_map(|server| server.addresses) {
            let at = SocketAddr::new(address, port);
            text += &format!("[[service.server]]\naddress = \"{at}\"\n");
            if mode == "vxlan" {
                text += &format!("inner_mac = \"{INNER_MAC}\"\n");
            }
        }
    }
    text
}

/// Makes a server the end of all tunnels.
fn far_end(server: &RealServer) -> Option<Task> {
    let namespace = &server.namespace;
    let [v4, v6] = server.addresses;
    namespace.sysctl("net.ipv4.conf.all.rp_filter", "0");
    for mode in MODES {
        namespace.ip(&format!("addr add {}/32 dev lo", vip_of(mode, Family::V4)));
        namespace.ip(&format!("addr add {}/128 dev lo nodad", vip_of(mode, Family::V6)));
    }
    let vxlan = |local| format!("address {INNER_MAC} type vxlan id 77 dstport 4789 local {local}");
    assert!(
        kernel_devices(namespace, &[("vxlan4", vxlan(v4)), ("vxlan6", vxlan(v6))]),
        "vxlan is tested with the kernel's own device only"
    );
    let any = |kind: &str, local| format!("type {kind} local {local} remote any");
    let devices = [
        ("t4in4", any("ipip", v4)),
        ("t6in4", any("sit", v4)),
        ("tin6", any("ip6tnl", v6) + " mode any"),
        ("gre4", any("gre", v4)),
        ("gre6", any("ip6gre", v6)),
    ];
    if kernel_devices(namespace, &devices) && kernel_gue(namespace) {
        return None;
    }
    for (name, _) in &devices {
        let _ = namespace.command("ip").args(["link", "del", name]).output();
    }
    Some(decapsulate::program(namespace))
}

/// Enough requests for each server address to get some.
fn curl(rig: &Rig, mode: &str, family: Family) {
    let vip = vip_of(mode, family);
    let resolve = format!("vip:{WEB}:{vip}");
    let output = rig.on_client(
        "curl",
        &[
            "-sSf",
            "--max-time",
            "10",
            "--resolve",
            &resolve,
            "-H",
            "Connection: close",
            "http://vip/?[1-16]",
        ],
    );
    assert_eq!(output.matches("server").count(), 16, "{mode} {family:?}: {output}");
}

/// A stream larger than anything that is buffered, so that the client sends full packets: they do
/// not fit with their outer headers, and the client learns by ICMP what does.
fn large_packets(rig: &Rig, mode: &str, family: Family) {
    const LENGTH: usize = 200_000;
    let to = SocketAddr::new(vip_of(mode, family), ECHO);
    rig.client.enter(|| {
        let limit = Duration::from_secs(20);
        let mut stream = TcpStream::connect_timeout(&to, limit).expect("a connection");
        stream.set_read_timeout(Some(limit)).expect("a timeout");
        let sent: Vec<u8> = (0..LENGTH).map(|n| (n * 31 % 251) as u8).collect();
        let mut writer = stream.try_clone().expect("a second handle");
        let copy = sent.clone();
        let write = thread::spawn(move || writer.write_all(&copy).expect("room for it"));
        let mut back = vec![0; LENGTH];
        stream.read_exact(&mut back).unwrap_or_else(|e| panic!("{mode} {family:?}: {e}"));
        assert!(back == sent, "{mode} {family:?}: other bytes came back");
        write.join().expect("all was sent");
    });
}

#[test]
fn linux_servers_decapsulate() {
    let mut rig = Rig::without_shunt(Plan::new(Mode::Dr, 2));
    let _far_ends: Vec<_> = rig.servers.iter().map(far_end).collect();
    rig.plan.sections = MODES.iter().map(|mode| services(mode, &rig.servers)).collect();
    let config = rig.write_config("shunt.toml", &rig.config());
    rig.run_shunt(&config);
    for mode in MODES {
        for family in Family::BOTH {
            curl(&rig, mode, family);
            large_packets(&rig, mode, family);
        }
        let service = rig.service_view(&format!("{mode}-web"));
        assert_eq!((service.mode.as_str(), service.sessions_created), (mode, 32));
        assert_eq!(service.reply_packets, 0, "replies go to the client directly");
        let of_service = |s: &&crate::view::Server| s.service == format!("{mode}-web");
        let servers = rig.servers_view();
        let created: Vec<_> =
            servers.iter().filter(of_service).map(|s| s.sessions_created).collect();
        // Two workers rotate on their own.
        assert_eq!(created.len(), 4);
        assert!(created.iter().all(|n| (4..=12).contains(n)), "{mode}: {created:?}");
    }
    assert!(rig.dropped("packet_too_big") > 0, "full packets do not fit");
    rig.finish();
}
