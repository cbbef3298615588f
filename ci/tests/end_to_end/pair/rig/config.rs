//! What a pair is made of, and the configuration file of each of its nodes.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::backend::{LINES, LINES_QUICK};

/// The port of the web service.
pub(crate) const WEB: u16 = 80;
/// The virtual router of the pair's addresses.
pub(crate) const GROUP: u8 = 10;
/// The UDP port of session sync.
pub(crate) const SYNC: u16 = 8849;
/// The virtual router of the second group.
pub(crate) const SECOND_GROUP: u8 = 11;
/// The virtual addresses.
pub(crate) const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8:1::10"];
/// Those of the second group.
pub(crate) const SECOND_VIPS: [&str; 2] = ["192.0.2.11", "2001:db8:1::11"];
/// What the servers see as the source in fullnat.
pub(crate) const LOCALS: [&str; 4] =
    ["10.0.0.201", "10.0.0.202", "2001:db8:2::201", "2001:db8:2::202"];
/// The servers' gateway in nat, which moves with the virtual addresses.
pub(crate) const GATEWAYS: [&str; 2] = ["10.0.0.1", "2001:db8:2::1"];

/// A virtual address: IPv4 or IPv6.
pub(crate) fn vip(family: usize) -> IpAddr {
    VIPS[family].parse().expect("an address")
}

/// Where a service listens, in both families.
pub(crate) fn listen(port: u16) -> [SocketAddr; 2] {
    [0, 1].map(|family| SocketAddr::new(vip(family), port))
}

/// The same in the second group.
pub(crate) fn second_listen(port: u16) -> [SocketAddr; 2] {
    SECOND_VIPS.map(|vip| SocketAddr::new(vip.parse().expect("an address"), port))
}

/// The forwarding mode of every service of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarding {
    Nat,
    FullNat,
    /// One port for clients and servers.
    Dr,
}

impl Forwarding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Forwarding::Nat => "nat",
            Forwarding::FullNat => "fullnat",
            Forwarding::Dr => "dr",
        }
    }

    /// Where the servers' nginx listens: another port than the service's where Shunt rewrites it.
    pub(crate) fn web_port(self) -> u16 {
        if self == Forwarding::Dr { WEB } else { 8080 }
    }

    /// The addresses of server `n`, from 1.
    pub(crate) fn server(self, n: usize) -> [IpAddr; 2] {
        let [v4, v6] = match self {
            Forwarding::Dr => [format!("192.0.2.{}", 20 + n), format!("2001:db8:1::{:x}", 32 + n)],
            _ => [format!("10.0.0.{}", 10 + n), format!("2001:db8:2::{:x}", 16 + n)],
        };
        [v4, v6].map(|text| text.parse().expect("an address"))
    }
}

/// The addresses of a node's ports, `front` (or `lan`) and `back`.
pub(crate) fn front(node: usize) -> [IpAddr; 2] {
    [format!("192.0.2.{}", 2 + node), format!("2001:db8:1::{}", 2 + node)]
        .map(|text| text.parse().expect("an address"))
}

pub(crate) fn back(node: usize) -> [IpAddr; 2] {
    [format!("10.0.0.{}", 2 + node), format!("2001:db8:2::{}", 2 + node)]
        .map(|text| text.parse().expect("an address"))
}

/// The MAC address of a node's port.
pub(crate) fn mac(node: usize, port: &str) -> [u8; 6] {
    [2, 0, 0, 0, 0x10 + node as u8, u8::from(port == "back")]
}

/// What a pair is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The program of both nodes.
    pub(crate) shunt: PathBuf,
    pub(crate) forwarding: Forwarding,
    pub(crate) servers: usize,
    /// Workers of each node; they share the machine's first two cores.
    pub(crate) workers: [usize; 2],
    /// Whether the nodes have a section `[ha]`; a node without one is alone.
    pub(crate) ha: bool,
    /// Both nodes serve at the same time, without VRRP.
    pub(crate) active_active: bool,
    pub(crate) advert_interval_ms: u32,
    pub(crate) priorities: [u8; 2],
    /// Their numbers.
    pub(crate) ids: [u8; 2],
    /// Further keys of `[ha]` of both, each line ended.
    pub(crate) ha_keys: String,
    /// The same of each by itself.
    pub(crate) node_keys: [String; 2],
    /// The priorities of each in a second group, if there is one: every service then listens on its
    /// addresses as well. Not in direct return.
    pub(crate) second: Option<[u8; 2]>,
    /// Further arguments of every port's device, each begun by a comma.
    pub(crate) vdev_keys: String,
    /// How servers are checked, each line ended.
    pub(crate) health_keys: String,
    /// Further keys of every service, each line ended.
    pub(crate) service_keys: String,
    /// Whether servers, clients and VIPs have IPv6 addresses as well.
    pub(crate) ipv6: bool,
    /// Sessions that a node has room for.
    pub(crate) sessions: u32,
}

impl Plan {
    /// Node 0 is the master when both are well, and nothing is slow.
    pub(crate) fn new(shunt: impl Into<PathBuf>, forwarding: Forwarding) -> Self {
        Plan {
            shunt: shunt.into(),
            forwarding,
            servers: 2,
            workers: [1, 1],
            ha: true,
            active_active: false,
            advert_interval_ms: 100,
            priorities: [200, 100],
            ids: [0, 1],
            ha_keys: String::new(),
            node_keys: Default::default(),
            second: None,
            vdev_keys: String::new(),
            // Slow enough that a machine busy with something else does not take a server down.
            health_keys: "timeout_ms = 1000\nrise = 1\nfall = 5\n".to_owned(),
            service_keys: String::new(),
            ipv6: true,
            sessions: 65_536,
        }
    }

    /// The families of its addresses: 0 is IPv4, 1 is IPv6.
    pub(crate) fn families(&self) -> std::ops::Range<usize> {
        0..if self.ipv6 { 2 } else { 1 }
    }

    /// The names of the ports of a node.
    pub(crate) fn ports(&self) -> &'static [&'static str] {
        if self.forwarding == Forwarding::Dr { &["front"] } else { &["front", "back"] }
    }

    /// The configuration of a node, whose files are in `directory`.
    pub(crate) fn config(&self, node: usize, directory: &Path) -> String {
        let mut text = String::new();
        self.node(node, directory, &mut text).expect("written to a string");
        for (n, name) in self.ports().iter().enumerate() {
            self.port(node, n, name, &mut text).expect("written to a string");
        }
        if self.ha {
            self.pair(node, directory, &mut text).expect("written to a string");
        }
        let check = |kind: &str| format!("[service.health]\n{kind}{}", self.health_keys);
        let (http, tcp) =
            (check("type = \"http\"\npath = \"/healthz\"\n"), check("type = \"tcp\"\n"));
        for (name, port, server_port, health) in [
            ("web", WEB, self.forwarding.web_port(), &http[..]),
            ("lines", LINES, LINES, &tcp),
            ("lines-quick", LINES_QUICK, LINES_QUICK, ""),
        ] {
            self.service(name, port, server_port, health, &mut text).expect("written to a string");
        }
        text
    }

    fn node(&self, node: usize, directory: &Path, text: &mut String) -> std::fmt::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        let workers = self.workers[node];
        let list: Vec<_> = (0..workers).map(|n| ((node + n) % cores).to_string()).collect();
        let vdevs: Vec<_> = self
            .ports()
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let keys = &self.vdev_keys;
                format!("\"net_af_packet{n},iface={name},qpairs={workers}{keys}\"")
            })
            .collect();
        write!(
            text,
            "[node]\nname = \"lb-{node}\"\nid = {}\nworkers = [{}]\nidle = \"yield\"\n\
             sessions = {}\n\n[dpdk]\nmemory_mb = 384\nhugepages = false\nvdevs = [{}]\n\n\
             [api]\nsocket = \"{}\"\n\n",
            self.ids[node],
            list.join(", "),
            self.sessions,
            vdevs.join(", "),
            directory.join("shunt.sock").display(),
        )
    }

    fn port(&self, node: usize, n: usize, name: &str, text: &mut String) -> std::fmt::Result {
        let addresses = if name == "front" { front(node) } else { back(node) };
        let addresses: Vec<_> = self
            .families()
            .map(|family| format!("\"{}/{}\"", addresses[family], [24, 64][family]))
            .collect();
        let side = match (self.forwarding, name) {
            (Forwarding::Dr, _) => "both",
            (_, "front") => "client",
            _ => "server",
        };
        let locals = match self.forwarding {
            Forwarding::FullNat if name == "back" => &LOCALS[..],
            Forwarding::Nat if name == "back" => &GATEWAYS,
            _ => &[],
        };
        let wanted = |address: &&&str| self.ipv6 || !address.contains(':');
        let locals: Vec<_> =
            locals.iter().filter(wanted).map(|address| format!("\"{address}\"")).collect();
        write!(
            text,
            "[[port]]\nname = \"{name}\"\ndevice = \"net_af_packet{n}\"\nside = \"{side}\"\n\
             addresses = [{}]\nlocal_addresses = [{}]\nexception = \"sl-{name}\"\n\n",
            addresses.join(", "),
            locals.join(", "),
        )
    }

    fn pair(&self, node: usize, directory: &Path, text: &mut String) -> std::fmt::Result {
        let role = if self.active_active {
            "mode = \"active-active\"\n".to_owned()
        } else {
            format!(
                "group = {GROUP}\npriority = {}\nadvert_interval_ms = {}\n",
                self.priorities[node], self.advert_interval_ms,
            )
        };
        write!(
            text,
            "[ha]\n{role}peer = \"{}\"\nsync_port = \"front\"\nkey_file = \"{}\"\n{}{}\n",
            front(1 - node)[0],
            directory.join("sync.key").display(),
            self.ha_keys,
            self.node_keys[node],
        )?;
        if let Some(priorities) = self.second {
            let vips: Vec<_> =
                self.families().map(|family| format!("\"{}\"", SECOND_VIPS[family])).collect();
            write!(
                text,
                "[[ha.extra_group]]\ngroup = {SECOND_GROUP}\npriority = {}\naddresses = [{}]\n\n",
                priorities[node],
                vips.join(", "),
            )?;
        }
        Ok(())
    }

    fn service(
        &self,
        name: &str,
        port: u16,
        server_port: u16,
        health: &str,
        text: &mut String,
    ) -> std::fmt::Result {
        let second = self.second.map(|_| second_listen(port));
        let listen: Vec<_> = self
            .families()
            .flat_map(|family| [Some(listen(port)[family]), second.map(|second| second[family])])
            .flatten()
            .map(|at| format!("\"{at}\""))
            .collect();
        write!(
            text,
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = [{}]\nmode = \"{}\"\n\
             {}{health}",
            listen.join(", "),
            self.forwarding.name(),
            self.service_keys,
        )?;
        for n in 1..=self.servers {
            for family in self.families() {
                let address = SocketAddr::new(self.forwarding.server(n)[family], server_port);
                write!(text, "[[service.server]]\naddress = \"{address}\"\n")?;
            }
        }
        writeln!(text)
    }
}
