//! Keeps the kernel from answering on an interface that Shunt has taken over.
//!
//! With net_af_packet the kernel still sees every frame of the interface below the port. When the
//! port shares its addresses with the kernel by an exception tap, each packet for the kernel would
//! reach it twice: by the tap, and by the interface, where no socket waits for it and the kernel
//! answers with a reset. So the interface is made deaf while Shunt runs: IPv4 by a strict reverse
//! path check (the addresses are routed by the tap) and no ARP, IPv6 by switching it off. Frames
//! that Shunt receives are not touched by any of this.

use std::fs;
use std::path::PathBuf;

use log::{debug, warn};

use super::config::Config;
use super::exception::shared_interface;

/// What is set on such an interface.
const SETTINGS: [(&str, &str); 3] = [
    ("ipv4/conf/{}/rp_filter", "1"),
    ("ipv4/conf/{}/arp_ignore", "8"),
    ("ipv6/conf/{}/disable_ipv6", "1"),
];

/// Interfaces that are deaf as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// What to write back, and where.
    before: Vec<(PathBuf, String)>,
}

impl Quiet {
    /// Makes the interfaces below all ports with an exception tap deaf.
    pub(super) fn interfaces(config: &Config) -> Self {
        let mut quiet = Quiet::default();
        for port in config.ports.iter().filter(|port| port.exception.is_some()) {
            if let Some(interface) = interface_below(config, &port.device) {
                quiet.interface(interface, &port.name);
            }
        }
        quiet
    }

    fn interface(&mut self, interface: &str, port: &str) {
        for (setting, value) in SETTINGS {
            let path = PathBuf::from("/proc/sys/net").join(setting.replace("{}", interface));
            let Ok(before) = fs::read_to_string(&path) else {
                debug!("{} is not there", path.display());
                continue;
            };
            if before.trim() == value {
                continue;
            }
            match fs::write(&path, value) {
                Ok(()) => self.before.push((path, before)),
                Err(cause) => warn!(
                    "port {port}: cannot write {}: {cause}; the kernel may reset connections of \
                     health checks that it sees twice",
                    path.display()
                ),
            }
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

/// The kernel's interface below a device, if it is one that leaves the kernel listening.
fn interface_below<'a>(config: &'a Config, device: &str) -> Option<&'a str> {
    let is_it = |vdev: &&String| vdev.split(',').next() == Some(device);
    shared_interface(config.dpdk.vdevs.iter().find(is_it)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_that_of_af_packet() {
        let text = r#"
            [node]
            workers = [0]
            [dpdk]
            vdevs = ["net_af_packet0,qpairs=2,iface=eth7", "net_tap1,iface=eth8"]
            [[port]]
            name = "a"
            device = "net_af_packet0"
            side = "both"
            addresses = ["192.0.2.2/24"]
            [[service]]
            name = "web"
            protocol = "tcp"
            listen = ["192.0.2.10:80"]
            [[service.server]]
            address = "192.0.2.11:80"
        "#;
        let config = crate::manage::config::parse(text, "test").expect("a valid configuration");
        assert_eq!(interface_below(&config, "net_af_packet0"), Some("eth7"));
        assert_eq!(interface_below(&config, "net_tap1"), None);
        assert_eq!(interface_below(&config, "0000:3b:00.0"), None);
    }
}
