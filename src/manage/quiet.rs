//! Keeps the kernel from answering on an interface that Shunt has taken over.
//!
//! With net_af_packet the kernel still sees every frame of the interface below the port. It must not
//! forward them, for they would arrive twice, nor complain that it cannot: its "network unreachable"
//! resets the connection at the real server. When the port shares its addresses with the kernel by
//! an exception tap, each packet for the kernel would also reach it twice: by the tap, and by the
//! interface, where no socket waits for it and the kernel answers with a reset. So such an interface
//! is made deaf while Shunt runs: IPv4 by a strict reverse path check (the addresses are routed by
//! the tap) and no ARP, IPv6 by switching it off. Frames that Shunt receives are not touched by any
//! of this.

use std::fs;
use std::path::{Path, PathBuf};

use log::{debug, info, warn};

use super::config::{Config, Port};
use super::exception::interface_below;

/// What is set on every interface below a port.
const NO_FORWARDING: &[(&str, &str)] = &[("ipv4/conf/{}/forwarding", "0")];
/// What is set besides when the kernel has a tap for its own packets.
const DEAF: &[(&str, &str)] = &[
    ("ipv4/conf/{}/rp_filter", "1"),
    ("ipv4/conf/{}/arp_ignore", "8"),
    ("ipv6/conf/{}/disable_ipv6", "1"),
];

/// A setting of the kernel that is not as it has to be while Shunt runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its file below `/proc/sys`, which `sysctl` takes as a key.
    pub(crate) key: String,
    /// What it has to be.
    pub(crate) value: &'static str,
    /// What it is.
    before: String,
}

/// What has to be set on the interface below a port; nothing when the kernel does not listen on
/// it. `root` is `/`.
pub(crate) fn wanted(root: &Path, config: &Config, port: &Port) -> Vec<Wanted> {
    let Some(interface) = interface_below(config, &port.device) else { return Vec::new() };
    let deaf = if port.exception.is_some() { DEAF } else { &[] };
    let of = |&(setting, value): &(&str, &'static str)| {
        let key = format!("net/{}", setting.replace("{}", interface));
        let before = fs::read_to_string(root.join("proc/sys").join(&key)).ok()?;
        (before.trim() != value).then_some(Wanted { key, value, before })
    };
    NO_FORWARDING.iter().chain(deaf).filter_map(of).collect()
}

/// Interfaces that are quiet as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// What to write back, and where.
    before: Vec<(PathBuf, String)>,
}

impl Quiet {
    /// Keeps the kernel quiet on the interfaces below all ports.
    pub(super) fn interfaces(config: &Config) -> Self {
        let mut quiet = Quiet::default();
        for port in &config.ports {
            for setting in wanted(Path::new("/"), config, port) {
                quiet.set(&port.name, setting);
            }
        }
        quiet
    }

    fn set(&mut self, port: &str, Wanted { key, value, before }: Wanted) {
        let path = Path::new("/proc/sys").join(&key);
        match fs::write(&path, value) {
            Ok(()) => {
                info!("port {port}: {key} is {value} while shunt runs");
                self.before.push((path, before));
            }
            Err(cause) => warn!(
                "port {port}: cannot set {key}: {cause}; the kernel may reset connections whose \
                 packets it sees too; mend: sysctl -w {key}={value}"
            ),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        for (path, before) in self.before.drain(..) {
            if let Err(cause) = fs::write(&path, &before) {
                debug!("{}: {cause}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: &str = r#"
        [node]
        workers = [0]
        [dpdk]
        vdevs = ["net_af_packet0,qpairs=2,iface=eth7", "net_tap1,iface=eth8"]
        [[port]]
        name = "a"
        device = "net_af_packet0"
        side = "both"
        addresses = ["192.0.2.2/24"]
        TAP
        [[service]]
        name = "web"
        protocol = "tcp"
        listen = ["192.0.2.10:80"]
        [[service.server]]
        address = "192.0.2.11:80"
    "#;

    fn config(tap: &str) -> Config {
        let text = PORT.replace("TAP", tap);
        crate::manage::config::parse(&text, "test").expect("a valid configuration")
    }

    #[test]
    fn a_port_must_not_forward_and_one_with_a_tap_is_deaf_too() {
        let root = tempfile::tempdir().unwrap();
        for (setting, value) in NO_FORWARDING.iter().chain(DEAF) {
            let path = root.path().join("proc/sys/net").join(setting.replace("{}", "eth7"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // One is as it must be already.
            let before = if setting.ends_with("disable_ipv6") { *value } else { "7" };
            fs::write(path, before).unwrap();
        }
        let keys = |tap: &str| -> Vec<String> {
            let config = config(tap);
            let wanted = wanted(root.path(), &config, &config.ports[0]);
            wanted.into_iter().map(|w| format!("{}={}", w.key, w.value)).collect()
        };
        let forwarding = "net/ipv4/conf/eth7/forwarding=0";
        assert_eq!(keys(""), [forwarding]);
        assert_eq!(
            keys("exception = \"sl-a\""),
            [forwarding, "net/ipv4/conf/eth7/rp_filter=1", "net/ipv4/conf/eth7/arp_ignore=8"]
        );
    }
}
