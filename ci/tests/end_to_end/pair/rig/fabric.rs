//! The network between clients, nodes and servers, and what can go wrong with it.
//!
//! ```text
//!            front bridge                          back bridge
//!  client ──────┬────────── front [node 0] back ───────┬────── server1
//!               └────────── front [node 1] back ───────┴────── server2 …
//! ```
//!
//! In direct return the servers are on the front bridge. Both bridges are in one namespace; a port
//! of theirs has the name of what is plugged into it: `front0`, `back1`, `client`, `server2`.

use std::process::Command;

use crate::namespace::{Namespace, run};

use super::config::{self, Forwarding, Plan, SYNC};

/// The client's addresses.
pub(crate) const CLIENTS: [&str; 2] = ["192.0.2.100", "2001:db8:1::100"];
/// The client's MAC address.
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x64];

/// The namespaces. Dropping it removes them and all that is in them.
#[derive(Debug)]
pub(crate) struct Fabric {
    prefix: String,
    pub(crate) bridges: Namespace,
    pub(crate) client: Namespace,
}

impl Fabric {
    /// The bridges and the client; `prefix` begins the name of every namespace.
    pub(crate) fn new(prefix: String) -> Self {
        let bridges = Namespace::new(format!("{prefix}-bridges"));
        for bridge in ["front", "back"] {
            bridges.ip(&format!("link add name {bridge} type bridge mcast_snooping 0"));
            bridges.ip(&format!("link set {bridge} up"));
        }
        let client = Namespace::new(format!("{prefix}-client"));
        let fabric = Fabric { prefix, bridges, client };
        fabric.plug(&fabric.client, "eth0", "front", "client");
        fabric.client.ip(&format!("link set eth0 address {}", text(CLIENT_MAC)));
        fabric.client.ip(&format!("addr add {}/24 dev eth0", CLIENTS[0]));
        fabric.client.ip(&format!("addr add {}/64 dev eth0 nodad", CLIENTS[1]));
        // A download comes in small bursts: larger ones overflow the rings of af_packet, and take the
        // packets of all other connections with them.
        fabric.client.sysctl("net.ipv4.tcp_rmem", "4096 65536 131072");
        // Ports for tens of thousands of connections.
        fabric.client.sysctl("net.ipv4.ip_local_port_range", "1024 65000");
        fabric
    }

    /// A namespace of this installation.
    pub(crate) fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(format!("{}-{name}", self.prefix))
    }

    /// The namespace of a node, with its ports.
    pub(crate) fn node(&self, plan: &Plan, node: usize) -> Namespace {
        let namespace = self.namespace(&format!("node{node}"));
        // What arrives must leave by Shunt and not by the kernel.
        namespace.sysctl("net.ipv4.ip_forward", "0");
        namespace.sysctl("net.ipv6.conf.all.forwarding", "0");
        for name in plan.ports() {
            self.plug(&namespace, name, name, &format!("{name}{node}"));
            namespace.ip(&format!("link set {name} address {}", text(config::mac(node, name))));
        }
        namespace
    }

    /// The namespace of server `n`, from 1.
    pub(crate) fn server(&self, plan: &Plan, n: usize) -> Namespace {
        let namespace = self.namespace(&format!("server{n}"));
        let bridge = if plan.forwarding == Forwarding::Dr { "front" } else { "back" };
        self.plug(&namespace, "eth0", bridge, &format!("server{n}"));
        if plan.forwarding == Forwarding::Dr {
            // The VIP is the server's own, but it must not tell anybody.
            for scope in ["all", "eth0"] {
                namespace.sysctl(&format!("net.ipv4.conf.{scope}.arp_ignore"), "1");
                namespace.sysctl(&format!("net.ipv4.conf.{scope}.arp_announce"), "2");
            }
            namespace.ip(&format!("addr add {}/32 dev lo", config::vip(0)));
            namespace.ip(&format!("addr add {}/128 dev lo nodad", config::vip(1)));
        }
        let addresses = plan.forwarding.server(n);
        namespace.ip(&format!("addr add {}/24 dev eth0", addresses[0]));
        namespace.ip(&format!("addr add {}/64 dev eth0 nodad", addresses[1]));
        if plan.forwarding == Forwarding::Nat {
            namespace.ip(&format!("route add default via {}", config::GATEWAYS[0]));
            namespace.ip(&format!("-6 route add default via {}", config::GATEWAYS[1]));
        }
        namespace
    }

    /// Joins a namespace to a bridge. A veth would leave checksums and segmentation to hardware
    /// that does not exist, so both ends are told not to.
    pub(crate) fn plug(&self, to: &Namespace, interface: &str, bridge: &str, port: &str) {
        let bridges = &self.bridges;
        to.ip(&format!(
            "link add name {interface} type veth peer name {port} netns {}",
            bridges.name()
        ));
        for (namespace, name) in [(to, interface), (bridges, port)] {
            namespace.no_offload(name);
            namespace.ip(&format!("link set {name} up"));
        }
        bridges.ip(&format!("link set {port} master {bridge}"));
    }

    /// Pulls a cable out of its bridge, or puts it back: both ends see the link go and come.
    pub(crate) fn cable(&self, port: &str, plugged: bool) {
        self.bridges.ip(&format!("link set {port} {}", if plugged { "up" } else { "down" }));
    }

    /// Lets nothing of session sync through between the nodes, or lets it through again.
    pub(crate) fn sync(&self, passes: bool) {
        let mut nft = self.bridges.command("nft");
        if passes {
            run(nft.args(["delete", "table", "bridge", "cut"]));
            return;
        }
        nft.arg(format!(
            "add table bridge cut; \
             add chain bridge cut forward {{ type filter hook forward priority 0; }}; \
             add rule bridge cut forward udp dport {SYNC} drop"
        ));
        run(&mut nft);
    }

    /// Lets nothing through that a node itself sends to a port of the servers, which are on the back bridge,
    /// or lets it through again: its health checks, but no client's packet.
    pub(crate) fn checks(&self, node: usize, port: u16, passes: bool) {
        let mut nft = self.bridges.command("nft");
        if passes {
            run(nft.args(["delete", "table", "bridge", "checks"]));
            return;
        }
        let [v4, v6] = config::back(node);
        nft.arg(format!(
            "add table bridge checks; \
             add chain bridge checks forward {{ type filter hook forward priority 0; }}; \
             add rule bridge checks forward ip saddr {v4} tcp dport {port} drop; \
             add rule bridge checks forward ip6 saddr {v6} tcp dport {port} drop"
        ));
        run(&mut nft);
    }

    /// Lets nothing at all through between two ports, though clients and servers reach both; or lets
    /// it through again.
    pub(crate) fn apart(&self, ports: &[&str], apart: bool) {
        let isolated = if apart { "on" } else { "off" };
        for port in ports {
            self.bridges.ip(&format!("link set {port} type bridge_slave isolated {isolated}"));
        }
    }

    /// The port of the front bridge where that MAC address was last seen as a source.
    pub(crate) fn port_of(&self, mac: [u8; 6]) -> Option<String> {
        let mut bridge = Command::new("bridge");
        let table = run(bridge.args(["-n", self.bridges.name(), "fdb", "show", "br", "front"]));
        let mac = text(mac);
        let mut ports = table.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let here = words.next() == Some(&mac) && !line.contains("permanent");
            if here { words.nth(1).map(str::to_owned) } else { None }
        });
        ports.next()
    }
}

/// A MAC address as `ip` writes it.
pub(crate) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
