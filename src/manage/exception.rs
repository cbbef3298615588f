//! Exception taps: the interfaces by which the kernel shares a port.
//!
//! DPDK creates the tap; this gives it the port's MAC address, MTU and addresses and the routes that
//! leave by the port, and sets it up. It all goes away with the tap, when the process ends.
//!
//! The tap is a guest on the host. Its routes, the connected ones included, have a high metric, so
//! that none of the host's own is displaced; a socket bound to the tap (a health check, a routing
//! daemon) sees only these.
//!
//! A port on `net_af_packet` has an interface that the kernel listens on too. It must not: a packet
//! for the port's address would reach it twice, first where no socket expects it, and it would answer
//! with a reset. `quiet` sees to it while Shunt runs.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use log::{debug, info, warn};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::config::Config;
use crate::datapath::snapshot::{Mac, Snapshot};

/// The largest MTU that DPDK's net_tap takes, in bytes.
pub const TAP_MTU: u16 = 1504;

/// The metric of the routes by a tap: larger than what hosts give their own.
const METRIC: u32 = 20_000;

/// Why an exception tap cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ExceptionError {
    /// The kernel's netlink socket cannot be opened.
    #[error("cannot talk to the kernel about interfaces: {0}")]
    Netlink(#[from] io::Error),
    /// DPDK has not created the tap.
    #[error("port {port}: there is no interface {tap}, its exception tap")]
    Missing {
        /// The port.
        port: String,
        /// The tap.
        tap: String,
    },
    /// The kernel refused. Without CAP_NET_ADMIN it refuses everything.
    #[error("port {port}: cannot {what} on its exception tap {tap}: {cause}")]
    Refused {
        /// The port.
        port: String,
        /// The tap.
        tap: String,
        /// What was asked.
        what: String,
        /// What the kernel said.
        cause: String,
    },
}

/// What a tap becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The port's name in the configuration.
    pub port: String,
    /// The interface.
    pub name: String,
    /// The port's MAC address.
    pub mac: Mac,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The port's addresses.
    pub addresses: Vec<IpNet>,
    /// Destinations and gateways on the port's links.
    pub routes: Vec<(IpNet, IpAddr)>,
}

/// Sets up the taps of all ports that have one.
///
/// # Errors
/// See [`ExceptionError`].
pub async fn set_up_all(config: &Config, snapshot: &Snapshot) -> Result<(), ExceptionError> {
    let taps = taps(config, snapshot);
    if taps.is_empty() {
        return Ok(());
    }
    warn_of_overheard(config);
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut result = Ok(());
    for tap in &taps {
        result = set_up(&handle, tap).await;
        if result.is_err() {
            break;
        }
        info!("port {}: the kernel shares it by interface {}", tap.port, tap.name);
    }
    connection.abort();
    result
}

/// Whether the host forces the loose reverse path check on every interface: the larger of
/// `conf/all` and `conf/IF` counts, and 2 is the loose check. The strict one cannot be set then.
pub fn loose_check_of_all(root: &Path) -> bool {
    let setting = root.join("proc/sys/net/ipv4/conf/all/rp_filter");
    fs::read_to_string(setting).is_ok_and(|text| text.trim().parse::<u32>().is_ok_and(|v| v > 1))
}

/// The kernel interface of a vdev such as `net_af_packet0,iface=eth0`, when the kernel goes on
/// receiving from it.
pub fn shared_interface(vdev: &str) -> Option<&str> {
    let of_af_packet = vdev.starts_with("net_af_packet");
    of_af_packet.then(|| vdev.split(',').find_map(|argument| argument.strip_prefix("iface=")))?
}

/// The kernel's interface below a device, if it is one that leaves the kernel receiving.
pub fn interface_below<'a>(config: &'a Config, device: &str) -> Option<&'a str> {
    let is_it = |vdev: &&String| vdev.split(',').next() == Some(device);
    shared_interface(config.dpdk.vdevs.iter().find(is_it)?)
}

/// Whether the kernel says that an interface is up and has a carrier. DPDK's driver for such
/// interfaces knows the former at most. `root` is `/`.
pub fn has_carrier(root: &Path, interface: &str) -> bool {
    // It cannot be read while the interface is down.
    let carrier = root.join("sys/class/net").join(interface).join("carrier");
    fs::read_to_string(carrier).is_ok_and(|text| text.trim() == "1")
}

fn warn_of_overheard(config: &Config) {
    for vdev in &config.dpdk.vdevs {
        let Some(interface) = shared_interface(vdev) else { continue };
        let device = vdev.split(',').next();
        let port = config.ports.iter().find(|p| Some(p.device.as_str()) == device);
        let Some(port) = port.filter(|p| p.exception.is_some()) else { continue };
        if loose_check_of_all(Path::new("/")) {
            warn!(
                "port {}: net.ipv4.conf.all.rp_filter is loose: the kernel receives packets from \
                 {interface} besides the tap and would reset connections; mend: sysctl -w \
                 net.ipv4.conf.all.rp_filter=0",
                port.name
            );
        }
    }
}

/// The taps that the configuration asks for.
fn taps(config: &Config, snapshot: &Snapshot) -> Vec<Tap> {
    let tap = |port: &super::config::Port| {
        let name = port.exception.clone()?;
        let compiled = snapshot.ports.iter().find(|p| p.name == port.name)?;
        let routes = config
            .routes
            .iter()
            .filter(|r| port.addresses.iter().any(|net| net.contains(&r.via)))
            .map(|r| (r.to.trunc(), r.via))
            .collect();
        Some(Tap {
            port: port.name.clone(),
            name,
            mac: compiled.mac,
            mtu: port.mtu.min(TAP_MTU),
            addresses: port.addresses.clone(),
            routes,
        })
    };
    config.ports.iter().filter_map(tap).collect()
}

async fn set_up(handle: &Handle, tap: &Tap) -> Result<(), ExceptionError> {
    let refused = |what: String| {
        move |cause: rtnetlink::Error| ExceptionError::Refused {
            port: tap.port.clone(),
            tap: tap.name.clone(),
            what,
            cause: netlink_cause(&cause),
        }
    };
    let index = link_index(handle, &tap.name)
        .await
        .ok_or_else(|| ExceptionError::Missing { port: tap.port.clone(), tap: tap.name.clone() })?;
    quiet_kernel(&tap.name);
    let link = LinkUnspec::new_with_index(index)
        .address(tap.mac.to_vec())
        .mtu(u32::from(tap.mtu))
        .up()
        .build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .map_err(refused("set MAC address and MTU".to_string()))?;
    for net in &tap.addresses {
        let mut request = handle.address().add(index, net.addr(), net.prefix_len());
        // The address was ours before the tap was: no duplicate address detection.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        request.replace().execute().await.map_err(refused(format!("set the address {net}")))?;
        add_route(handle, route(index, net.trunc(), None))
            .await
            .map_err(refused(format!("set the route to {}", net.trunc())))?;
    }
    for &(to, via) in &tap.routes {
        add_route(handle, route(index, to, Some(via)))
            .await
            .map_err(refused(format!("set the route to {to} via {via}")))?;
    }
    Ok(())
}

async fn add_route(handle: &Handle, route: RouteMessage) -> Result<(), rtnetlink::Error> {
    handle.route().add(route).replace().execute().await
}

fn route(index: u32, to: IpNet, via: Option<IpAddr>) -> RouteMessage {
    match to {
        IpNet::V4(to) => {
            let mut r = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .output_interface(index)
                .priority(METRIC);
            match via {
                Some(IpAddr::V4(via)) => r = r.gateway(via),
                Some(IpAddr::V6(via)) => r = r.via(via),
                None => r = r.scope(rtnetlink::packet_route::route::RouteScope::Link),
            }
            r.build()
        }
        IpNet::V6(to) => {
            let mut r = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .output_interface(index)
                .priority(METRIC);
            if let Some(IpAddr::V6(via)) = via {
                r = r.gateway(via);
            }
            r.build()
        }
    }
}

async fn link_index(handle: &Handle, name: &str) -> Option<u32> {
    let mut links = handle.link().get().match_name(name.to_string()).execute();
    links.try_next().await.ok().flatten().map(|link| link.header.index)
}

/// Keeps the kernel from what it does on interfaces of its own accord. A setting that does not exist
/// (no IPv6 in this kernel) is no loss.
fn quiet_kernel(tap: &str) {
    for (setting, value) in [
        // Some hosts (containers) switch IPv6 off for every new interface.
        ("ipv6/conf/{}/disable_ipv6", "0"),
        // No duplicate address detection, for the link-local address either.
        ("ipv6/conf/{}/accept_dad", "0"),
        // Shunt's routes are static.
        ("ipv6/conf/{}/accept_ra", "0"),
        ("ipv6/conf/{}/autoconf", "0"),
        // The host's better route to a server may leave by another interface: a strict check would
        // then drop what comes by the tap. 2 is the loose check.
        ("ipv4/conf/{}/rp_filter", "2"),
        // Answer for, and speak from, the tap's own addresses only.
        ("ipv4/conf/{}/arp_ignore", "1"),
        ("ipv4/conf/{}/arp_announce", "2"),
    ] {
        let path = Path::new("/proc/sys/net").join(setting.replace("{}", tap));
        if let Err(e) = fs::write(&path, value) {
            debug!("{}: {e}", path.display());
        }
    }
}

/// What the kernel said, in its words.
fn netlink_cause(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing;

    #[test]
    fn taps_take_after_their_ports() {
        let (mut config, snapshot) = (testing::config(), testing::snapshot());
        assert_eq!(taps(&config, &snapshot), []);
        config.ports[1].exception = Some("sl-back".into());
        assert_eq!(
            taps(&config, &snapshot),
            [Tap {
                port: "back".into(),
                name: "sl-back".into(),
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1500,
                addresses: vec!["10.0.0.1/24".parse().unwrap()],
                routes: vec![("10.9.0.0/16".parse().unwrap(), "10.0.0.254".parse().unwrap())],
            }]
        );
    }

    #[test]
    fn interfaces_the_kernel_shares() {
        assert_eq!(shared_interface("net_af_packet0,qpairs=1,iface=eth0"), Some("eth0"));
        assert_eq!(shared_interface("net_tap0,iface=sl-front"), None);
    }

    #[test]
    fn interfaces_below_devices() {
        let mut config = crate::manage::testing::config();
        config.dpdk.vdevs =
            vec!["net_af_packet0,qpairs=2,iface=eth7".into(), "net_tap1,iface=eth8".into()];
        assert_eq!(interface_below(&config, "net_af_packet0"), Some("eth7"));
        assert_eq!(interface_below(&config, "net_tap1"), None);
        assert_eq!(interface_below(&config, "0000:3b:00.0"), None);
    }

    #[test]
    fn carriers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_carrier(dir.path(), "eth0"), "no such interface, or it is down");
        let eth0 = dir.path().join("sys/class/net/eth0");
        fs::create_dir_all(&eth0).unwrap();
        for (text, up) in [("1\n", true), ("0\n", false), ("", false)] {
            fs::write(eth0.join("carrier"), text).unwrap();
            assert_eq!(has_carrier(dir.path(), "eth0"), up, "{text:?}");
        }
    }

    #[test]
    fn a_loose_check_of_all_interfaces() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("proc/sys/net/ipv4/conf/all");
        assert!(!loose_check_of_all(dir.path()));
        fs::create_dir_all(&conf).unwrap();
        for (value, loose) in [("0\n", false), ("1\n", false), ("2\n", true)] {
            fs::write(conf.join("rp_filter"), value).unwrap();
            assert_eq!(loose_check_of_all(dir.path()), loose, "{value}");
        }
    }

    #[tokio::test]
    async fn a_tap_that_is_missing_is_named() {
        let (mut config, snapshot) = (testing::config(), testing::snapshot());
        config.ports[0].exception = Some("sl-none-such".into());
        let error = set_up_all(&config, &snapshot).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "port front: there is no interface sl-none-such, its exception tap"
        );
    }
}
