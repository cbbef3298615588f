//! Findings about the kernel interfaces that a port uses (`net_af_packet`, `net_af_xdp`): there, up,
//! long enough, and neither offloading nor forwarding what Shunt is to see.

use super::{Finding, Machine};
use crate::manage::config::{Config, Port};
use crate::manage::exception::loose_check_of_all;
use crate::manage::quiet::wanted;

/// The offloads of an interface that are on, by name; `None` when they cannot be read.
pub(super) type Features<'a> = &'a dyn Fn(&str) -> Option<Vec<String>>;

/// Offloads that merge received frames into longer ones than the port's mtu.
const MERGING: [&str; 3] = ["rx-gro", "rx-gro-hw", "rx-lro"];
/// Offloads that make a veth peer leave checksums unfinished.
const CHECKSUMMING: [&str; 3] = ["tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"];
/// Offloads that make a veth peer send frames longer than the mtu.
const SEGMENTING: [&str; 3] =
    ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation"];

/// The driver asks the kernel for it (`PACKET_FANOUT_FLAG_DEFRAG`).
const READY_AF_PACKET: &str = "ready; IPv4 fragments arrive put together by the kernel, and are lost \
    when that makes them longer than the port's mtu: net_af_xdp leaves them as they are";

pub(super) fn findings(machine: &Machine, config: &Config, features: Features<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for vdev in &config.dpdk.vdevs {
        let Some(interface) = interface_of(vdev) else { continue };
        let device = vdev.split(',').next().unwrap_or(vdev);
        // Of several VLANs the one that asks the most of it.
        let of_device = config.ports.iter().filter(|p| p.device == device);
        let port = of_device.max_by_key(|p| (p.mtu, p.exception.is_some()));
        let mut of_interface = interface_findings(machine, interface, (config, port), features);
        if of_interface.is_empty() {
            let text = if vdev.starts_with("net_af_packet") { READY_AF_PACKET } else { "ready" };
            of_interface.push(Finding::ok(&format!("interface {interface}"), text));
        }
        found.extend(of_interface);
    }
    found
}

/// The interface of `net_af_packet0,iface=eth0`.
fn interface_of(vdev: &str) -> Option<&str> {
    if !vdev.starts_with("net_af_packet") && !vdev.starts_with("net_af_xdp") {
        return None;
    }
    vdev.split(',').find_map(|argument| argument.strip_prefix("iface="))
}

fn interface_findings(
    machine: &Machine,
    name: &str,
    (config, port): (&Config, Option<&Port>),
    features: Features<'_>,
) -> Vec<Finding> {
    let subject = format!("interface {name}");
    let dir = format!("sys/class/net/{name}");
    if !machine.exists(&dir) {
        let mend = "\"ip link\" lists them; change dpdk.vdevs";
        return vec![Finding::bad(&subject, "there is no such interface", mend)];
    }
    let mut found = Vec::new();
    let mut bad = |text: String, mend: String| found.push(Finding::bad(&subject, text, mend));

    let flags = machine.read(&format!("{dir}/flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
    const IFF_UP: u32 = 1;
    if flags & IFF_UP == 0 {
        bad("it is down".into(), format!("ip link set {name} up"));
    }
    if let (Some(port), Some(mtu)) = (port, machine.number(&format!("{dir}/mtu")))
        && u64::from(port.mtu) > mtu
    {
        let text = format!("its mtu is {mtu}, that of port {} is {}", port.name, port.mtu);
        bad(text, format!("ip link set {name} mtu {}", port.mtu));
    }
    for setting in port.map_or(Vec::new(), |port| wanted(&machine.root, config, port)) {
        // Else `shunt run` sets it.
        if !machine.writable(&format!("proc/sys/{}", setting.key)) {
            let text = "the kernel would handle packets that Shunt handles, and this process cannot \
                        forbid it";
            bad(text.into(), format!("sysctl -w {}={}", setting.key, setting.value));
        }
    }
    // `shunt run` switches IPv6 off on the interface of a port with a tap.
    let deaf = |port: &Port| port.exception.is_some() && port.device.starts_with("net_af_packet");
    let ipv6 = port.is_some_and(|p| !deaf(p) && p.addresses.iter().any(|a| a.addr().is_ipv6()));
    if ipv6 && machine.read("proc/sys/net/ipv6/conf/all/forwarding").as_deref() == Some("1") {
        let text = "the kernel forwards IPv6 packets from it too: they would arrive twice";
        bad(text.into(), "sysctl -w net.ipv6.conf.all.forwarding=0".into());
    }
    if port.is_some_and(deaf) && loose_check_of_all(&machine.root) {
        // The strict check on the interface itself is set by `shunt run`.
        let text = "net.ipv4.conf.all.rp_filter is loose: the kernel would receive packets from it \
                    besides the tap and reset connections";
        bad(text.into(), "sysctl -w net.ipv4.conf.all.rp_filter=0".into());
    }
    let merging = on(features, name, &MERGING);
    if !merging.is_empty() {
        let text = format!("{} on: received frames may be longer than the mtu", merging.join(", "));
        bad(text, format!("ethtool -K {name} gro off lro off"));
    }
    found.extend(peer_findings(machine, name, port, features));
    found
}

/// The other end of a veth pair, whose offloads decide what arrives at this one.
fn peer_findings(
    machine: &Machine,
    name: &str,
    port: Option<&Port>,
    features: Features<'_>,
) -> Option<Finding> {
    let subject = format!("interface {name}");
    let index = |name: &str, file: &str| machine.number(&format!("sys/class/net/{name}/{file}"));
    let (own, other) = (index(name, "ifindex")?, index(name, "iflink")?);
    if own == other || machine.exists(&format!("sys/class/net/{name}/lower_{other}")) {
        return None;
    }
    let full_checksums = port.is_some_and(|p| p.full_checksums);
    let command = |end: &str| format!("ethtool -K {end} tx off tso off gso off gro off");
    let peer = machine
        .list("sys/class/net")
        .into_iter()
        .find(|n| index(n, "ifindex") == Some(other) && index(n, "iflink") == Some(own));
    let Some(peer) = peer else {
        return Some(Finding::warn(
            &subject,
            "its other end is in another namespace: if that end offloads, checksums arrive \
             unfinished and frames too long",
            format!("there: {}", command("IF")),
        ));
    };
    let segmenting = on(features, &peer, &SEGMENTING);
    if !segmenting.is_empty() {
        let text = format!(
            "its other end {peer} has {} on: frames arrive too long",
            segmenting.join(", ")
        );
        return Some(Finding::bad(&subject, text, command(&peer)));
    }
    let checksumming = on(features, &peer, &CHECKSUMMING);
    if !checksumming.is_empty() && !full_checksums {
        let text = format!("its other end {peer} leaves checksums unfinished");
        let mend = format!("{}, or set full_checksums = true for the port", command(&peer));
        return Some(Finding::bad(&subject, text, mend));
    }
    None
}

/// Those of `names` that are on.
fn on(features: Features<'_>, interface: &str, names: &[&str]) -> Vec<String> {
    let mut on = features(interface).unwrap_or_default();
    on.retain(|feature| names.contains(&feature.as_str()));
    on
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lines, machine};
    use super::*;
    use crate::manage::testing;

    const ETH0: [(&str, &str); 5] = [
        ("sys/class/net/eth0/flags", "0x1003\n"),
        ("sys/class/net/eth0/mtu", "1500\n"),
        ("sys/class/net/eth0/ifindex", "5\n"),
        ("sys/class/net/eth0/iflink", "6\n"),
        ("proc/sys/net/ipv4/conf/eth0/forwarding", "0\n"),
    ];
    const PEER: [(&str, &str); 2] =
        [("sys/class/net/peer/ifindex", "6\n"), ("sys/class/net/peer/iflink", "5\n")];

    fn config() -> Config {
        let mut config = testing::config();
        config.dpdk.vdevs = vec!["net_af_packet0,iface=eth0".into(), "net_null0".into()];
        config.ports[0].device = "net_af_packet0".into();
        config
    }

    fn found(files: &[(&str, &str)], config: &Config, on: &[(&str, &str)]) -> Vec<String> {
        let (_dir, m) = machine(files);
        let features = |interface: &str| {
            let on = on.iter().filter(|(i, _)| *i == interface);
            Some(on.map(|(_, feature)| feature.to_string()).collect())
        };
        lines(&findings(&m, config, &features))
    }

    #[test]
    fn interfaces_of_vdevs() {
        assert_eq!(interface_of("net_af_packet0,iface=eth0,qpairs=1"), Some("eth0"));
        assert_eq!(interface_of("net_af_xdp1,start_queue=0,iface=eth1"), Some("eth1"));
        assert_eq!(interface_of("net_tap0,iface=sl-front"), None);
    }

    #[test]
    fn a_missing_and_a_ready_interface() {
        assert_eq!(
            found(&[], &config(), &[]),
            ["Bad interface eth0: there is no such interface [\"ip link\" lists them; change \
              dpdk.vdevs]"]
        );
        let files = [&ETH0[..], &PEER[..]].concat();
        assert_eq!(
            found(&files, &config(), &[("eth0", "tx-checksum-ip-generic")]),
            [format!("Ok interface eth0: {READY_AF_PACKET}")]
        );
    }

    #[test]
    fn everything_wrong() {
        let files = [
            ("sys/class/net/eth0/flags", "0x1002\n"),
            ("sys/class/net/eth0/mtu", "1400\n"),
            ("sys/class/net/eth0/ifindex", "5\n"),
            ("sys/class/net/eth0/iflink", "6\n"),
            ("proc/sys/net/ipv4/conf/eth0/forwarding", "1\n"),
            ("proc/sys/net/ipv6/conf/all/forwarding", "1\n"),
        ];
        let mut config = config();
        config.ports[0].addresses.push("2001:db8::2/64".parse().unwrap());
        assert_eq!(
            found(&files, &config, &[("eth0", "rx-gro")]),
            [
                "Bad interface eth0: it is down [ip link set eth0 up]",
                "Bad interface eth0: its mtu is 1400, that of port front is 1500 [ip link set eth0 \
                 mtu 1500]",
                "Bad interface eth0: the kernel forwards IPv6 packets from it too: they would \
                 arrive twice [sysctl -w net.ipv6.conf.all.forwarding=0]",
                "Bad interface eth0: rx-gro on: received frames may be longer than the mtu [ethtool \
                 -K eth0 gro off lro off]",
                "Warn interface eth0: its other end is in another namespace: if that end offloads, \
                 checksums arrive unfinished and frames too long [there: ethtool -K IF tx off tso \
                 off gso off gro off]",
            ]
        );
    }

    #[test]
    fn a_kernel_that_overhears_a_port_with_a_tap() {
        let files = [&ETH0[..], &PEER[..]].concat();
        let mut config = config();
        config.ports[0].exception = Some("sl-front".into());
        // What `shunt run` sets itself is no finding.
        assert_eq!(found(&files, &config, &[]), [format!("Ok interface eth0: {READY_AF_PACKET}")]);
        let files = [&files[..], &[("proc/sys/net/ipv4/conf/all/rp_filter", "2\n")]].concat();
        assert_eq!(
            found(&files, &config, &[]),
            ["Bad interface eth0: net.ipv4.conf.all.rp_filter is loose: the kernel would receive \
              packets from it besides the tap and reset connections [sysctl -w \
              net.ipv4.conf.all.rp_filter=0]"]
        );
    }

    #[test]
    fn a_setting_that_may_not_be_written() {
        let (dir, m) = machine(&[&ETH0[..4], &PEER[..]].concat());
        let conf = dir.path().join("proc/sys/net/ipv4/conf/eth0");
        std::fs::create_dir_all(&conf).unwrap();
        // Not even root may write this one.
        std::os::unix::fs::symlink("/proc/sys/kernel/ostype", conf.join("forwarding")).unwrap();
        assert_eq!(
            lines(&findings(&m, &config(), &|_| None)),
            ["Bad interface eth0: the kernel would handle packets that Shunt handles, and this \
                 process cannot forbid it [sysctl -w net/ipv4/conf/eth0/forwarding=0]"]
        );
    }

    #[test]
    fn a_veth_peer_that_offloads() {
        let files = [&ETH0[..], &PEER[..]].concat();
        let mut config = config();
        let checksums = [("peer", "tx-checksum-ip-generic")];
        assert_eq!(
            found(&files, &config, &checksums),
            [
                "Bad interface eth0: its other end peer leaves checksums unfinished [ethtool -K peer \
              tx off tso off gso off gro off, or set full_checksums = true for the port]"
            ]
        );
        config.ports[0].full_checksums = true;
        assert_eq!(
            found(&files, &config, &checksums),
            [format!("Ok interface eth0: {READY_AF_PACKET}")]
        );
        assert_eq!(
            found(&files, &config, &[("peer", "tx-tcp-segmentation")]),
            [
                "Bad interface eth0: its other end peer has tx-tcp-segmentation on: frames arrive too \
              long [ethtool -K peer tx off tso off gso off gro off]"
            ]
        );
    }
}
