//! Findings about the pair: the key file's owner, links that count for the priority, bridges that
//! would keep multicast from the other node.
//!
//! A key file that is missing, open to others or wrong is an error of the configuration already.

use std::os::unix::fs::MetadataExt;

use super::{Finding, Machine};
use crate::manage::config::{Config, Ha, PairMode};
use crate::manage::exception::{has_carrier, interface_below};

pub(super) fn findings(machine: &Machine, config: &Config) -> Vec<Finding> {
    let Some(ha) = &config.ha else { return Vec::new() };
    let mut found = vec![key_file(machine, ha)];
    found.extend(links(machine, config, ha));
    found.extend(snooping(machine, config, ha));
    found
}

/// A file that another user than root owns can be changed by that user.
fn key_file(machine: &Machine, ha: &Ha) -> Finding {
    const SUBJECT: &str = "key file";
    let shown = ha.key_file.display();
    let path = ha.key_file.strip_prefix("/").unwrap_or(&ha.key_file);
    let status = machine.read("proc/self/status").unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let own = own.and_then(|ids| ids.split_whitespace().nth(1)?.parse::<u32>().ok());
    match std::fs::metadata(machine.root.join(path)).map(|file| file.uid()) {
        Ok(owner) if owner != 0 && Some(owner) != own => Finding::warn(
            SUBJECT,
            format!("{shown} belongs to user {owner}, who can read and change it"),
            format!("chown root: {shown}"),
        ),
        Ok(_) => Finding::ok(SUBJECT, format!("{shown} can be read by its owner alone")),
        Err(cause) => Finding::bad(
            SUBJECT,
            format!("{shown}: {cause}"),
            "copy it from the other node, mode 600",
        ),
    }
}

/// Ports without a link lower the priority from the start.
fn links(machine: &Machine, config: &Config, ha: &Ha) -> Vec<Finding> {
    let tracked = |port: &&crate::manage::config::Port| {
        let counts = ha.mode == PairMode::ActiveBackup && ha.port_drop > 0;
        counts && ha.track_ports.contains(&port.name) || port.name == ha.sync_port
    };
    let finding = |port: &crate::manage::config::Port| {
        let interface = interface_below(config, &port.device)?;
        // That there is none is said elsewhere.
        let exists = machine.exists(&format!("sys/class/net/{interface}"));
        if !exists || has_carrier(&machine.root, interface) {
            return None;
        }
        let what = match port.name == ha.sync_port {
            true => "the other node is not reached".to_owned(),
            false => format!("the priority is lowered by {}", ha.port_drop),
        };
        Some(Finding::warn(
            &format!("port {}", port.name),
            format!("{interface} has no carrier: {what}"),
            format!("ip link set {interface} up, and see to its cable or its other end"),
        ))
    };
    config.ports.iter().filter(tracked).filter_map(finding).collect()
}

/// A bridge that snoops on multicast and hears no querier passes a group to nobody after a while, but
/// for link-local ones.
fn snooping(machine: &Machine, config: &Config, ha: &Ha) -> Option<Finding> {
    let port = config.ports.iter().find(|port| port.name == ha.sync_port)?;
    let interface = interface_below(config, &port.device)?;
    let bridge = bridge_of(machine, interface)?;
    let setting = |name: &str| machine.number(&format!("sys/class/net/{bridge}/bridge/{name}"));
    let (snoops, asks) = (setting("multicast_snooping")?, setting("multicast_querier"));
    (snoops != 0 && asks == Some(0)).then(|| {
        Finding::warn(
            &format!("port {}", port.name),
            format!(
                "the bridge {bridge} below it snoops on multicast and is no querier: unless another is \
                 in that network, {} does not reach the other node",
                ha.sync_group.ip()
            ),
            format!("ip link set {bridge} type bridge mcast_snooping 0 (or mcast_querier 1)"),
        )
    })
}

/// The bridge that an interface, or the other end of its veth pair, is in.
fn bridge_of(machine: &Machine, interface: &str) -> Option<String> {
    let index = |name: &str, file: &str| machine.number(&format!("sys/class/net/{name}/{file}"));
    let master = |name: &str| machine.link_name(&format!("sys/class/net/{name}/master"));
    if let Some(bridge) = master(interface) {
        return Some(bridge);
    }
    let (own, other) = (index(interface, "ifindex")?, index(interface, "iflink")?);
    let is_peer = |name: &&String| {
        own != other && index(name, "ifindex") == Some(other) && index(name, "iflink") == Some(own)
    };
    master(machine.list("sys/class/net").iter().find(is_peer)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lines, machine};
    use super::*;
    use crate::manage::testing;

    fn config() -> Config {
        let mut config = testing::config();
        config.dpdk.vdevs =
            vec!["net_af_packet0,iface=eth0".into(), "net_af_packet1,iface=eth1".into()];
        config.ports[0].device = "net_af_packet0".into();
        config.ports[1].device = "net_af_packet1".into();
        config.ha = Some(testing::ha());
        config
    }

    /// A machine on which all is well; the owner of its files is this process's user.
    fn well() -> Vec<(&'static str, &'static str)> {
        vec![
            ("etc/shunt/sync.key", "x"),
            ("sys/class/net/eth0/carrier", "1\n"),
            ("sys/class/net/eth0/ifindex", "5\n"),
            ("sys/class/net/eth0/iflink", "6\n"),
            ("sys/class/net/eth1/carrier", "1\n"),
            ("sys/class/net/v0/ifindex", "6\n"),
            ("sys/class/net/v0/iflink", "5\n"),
            ("sys/class/net/br0/bridge/multicast_snooping", "1\n"),
            ("sys/class/net/br0/bridge/multicast_querier", "0\n"),
        ]
    }

    /// Makes this process, in the machine's eyes, the owner of its files.
    fn own(machine: &Machine) {
        let owner = std::fs::metadata(machine.path("etc/shunt/sync.key")).unwrap().uid();
        std::fs::create_dir_all(machine.path("proc/self")).unwrap();
        let status = format!("Name:\tshunt\nUid:\t7\t{owner}\t7\t7\n");
        std::fs::write(machine.path("proc/self/status"), status).unwrap();
    }

    const KEY: &str = "Ok key file: /etc/shunt/sync.key can be read by its owner alone";

    #[test]
    fn a_node_without_a_peer_and_one_where_all_is_well() {
        let (_dir, m) = machine(&well());
        own(&m);
        assert_eq!(findings(&m, &testing::config()), []);
        assert_eq!(lines(&findings(&m, &config())), [KEY]);
    }

    #[test]
    fn links_that_are_down() {
        let mut files = well();
        files[1].1 = "0\n";
        files[4].1 = "0\n";
        let (_dir, m) = machine(&files);
        own(&m);
        let sync = "Warn port front: eth0 has no carrier: the other node is not reached [ip link set eth0 \
                    up, and see to its cable or its other end]";
        assert_eq!(
            lines(&findings(&m, &config())),
            [
                KEY,
                sync,
                "Warn port back: eth1 has no carrier: the priority is lowered by 255 [ip link set eth1 \
                 up, and see to its cable or its other end]",
            ]
        );
        let mut config = config();
        config.ha.as_mut().unwrap().port_drop = 0;
        assert_eq!(lines(&findings(&m, &config)), [KEY, sync]);
    }

    #[test]
    fn a_bridge_without_a_querier() {
        let (dir, m) = machine(&well());
        own(&m);
        let net = dir.path().join("sys/class/net");
        std::os::unix::fs::symlink("../br0", net.join("v0/master")).unwrap();
        assert_eq!(
            lines(&findings(&m, &config())),
            [
                KEY,
                "Warn port front: the bridge br0 below it snoops on multicast and is no querier: unless \
                 another is in that network, 239.255.19.19 does not reach the other node [ip link set \
                 br0 type bridge mcast_snooping 0 (or mcast_querier 1)]",
            ]
        );
        for (file, value) in [("multicast_snooping", "0"), ("multicast_querier", "1")] {
            let path = net.join("br0/bridge").join(file);
            let before = std::fs::read(&path).unwrap();
            std::fs::write(&path, value).unwrap();
            assert_eq!(lines(&findings(&m, &config())), [KEY], "{file}");
            std::fs::write(&path, before).unwrap();
        }
    }

    #[test]
    fn key_files() {
        let (_dir, m) = machine(&well());
        own(&m);
        std::fs::remove_file(m.path("etc/shunt/sync.key")).unwrap();
        assert_eq!(
            lines(&findings(&m, &config())),
            ["Bad key file: /etc/shunt/sync.key: No such file or directory (os error 2) [copy it \
                 from the other node, mode 600]"]
        );
    }
}
