//! `[ha]` and `[[ha.extra_group]]`: the pair this node is one of.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::key_file;
use super::reader::{At, List, Section};
use super::schema::value;
use super::values::{address, boolean, choice, integer, name, string};
use super::{Port, Service, Snat};
use crate::sync::keys::Keys;

pub(super) const HA: &str = "[ha]";
pub(super) const EXTRA: &str = "[[ha.extra_group]]";

/// The multicast group when the file names none, for a peer of either family.
const GROUP_V4: &str = "239.255.19.19:8849";
/// See [`GROUP_V4`]: transient, link-local scope (RFC 4291 2.7).
const GROUP_V6: &str = "[ff12::8849]:8849";

/// How the two nodes share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairMode {
    /// VRRP decides which node answers for a group of addresses.
    ActiveBackup,
    /// Both nodes answer for all addresses; routers share packets out among them.
    ActiveActive,
}

impl PairMode {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            PairMode::ActiveBackup => "active-backup",
            PairMode::ActiveActive => "active-active",
        }
    }
}

/// `[ha]`
#[derive(Clone, Debug, PartialEq)]
pub struct Ha {
    /// Who answers for the addresses.
    pub mode: PairMode,
    /// The virtual routers: that of `group`, then the extra ones in the order of the file. None in
    /// active/active.
    pub groups: Vec<VirtualRouter>,
    /// The peer's address.
    pub peer: IpAddr,
    /// Our address in the network of `peer`, on `sync_port`.
    pub source: IpAddr,
    /// Milliseconds from one advert to the next: 10 to 40,950, a multiple of 10.
    pub advert_interval_ms: u16,
    /// Whether the node with the higher priority takes the addresses back.
    pub preempt: bool,
    /// Seconds that it waits before it does.
    pub preempt_delay_s: u32,
    /// Whether it does so, too, when it has not heard the peer on the channel, or could not take in all of
    /// its sessions.
    pub preempt_unsynced: bool,
    /// Whether the addresses have the virtual MAC address of their group.
    pub virtual_mac: bool,
    /// The names of the ports whose link counts; by default every port that has addresses.
    pub track_ports: Vec<String>,
    /// By how much each of these that is down lowers the priority.
    pub port_drop: u8,
    /// The names of the services that count.
    pub track_services: Vec<String>,
    /// By how much each of these without a server lowers the priority.
    pub service_drop: u8,
    /// The multicast group of session sync, of the family of `peer`.
    pub sync_group: SocketAddr,
    /// The name of the port to the peer.
    pub sync_port: String,
    /// The file of the keys.
    pub key_file: PathBuf,
    /// What it says.
    pub keys: Keys,
    /// Sessions per second in a bulk walk, over all workers.
    pub sync_rate: u32,
    /// Whether packets in mid-stream without a session are given to the peer.
    pub relay: bool,
}

/// A group of addresses that one node at a time answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualRouter {
    /// The virtual router id, 1 to 255 (key `group`).
    pub vrid: u8,
    /// This node's priority, 1 to 254.
    pub priority: u8,
    /// Virtual addresses, LIPs and addresses of SNAT pools; those of `[ha]` itself are all that no
    /// extra group has.
    pub addresses: Vec<IpAddr>,
}

/// `[ha]`
pub(super) struct HaDraft {
    pub(super) line: usize,
    pub(super) mode: Option<At<PairMode>>,
    /// `None` in active/active, too.
    pub(super) group: Option<At<u8>>,
    priority: Option<u8>,
    pub(super) peer: Option<At<IpAddr>>,
    advert_interval_ms: Option<u16>,
    preempt: Option<bool>,
    preempt_delay_s: Option<u32>,
    preempt_unsynced: Option<bool>,
    virtual_mac: Option<bool>,
    /// `None`: those that have addresses.
    pub(super) track_ports: Option<List<String>>,
    port_drop: Option<u8>,
    pub(super) track_services: List<String>,
    service_drop: Option<u8>,
    /// `Some(None)`: the default for the family of `peer`.
    pub(super) sync_group: Option<At<Option<SocketAddr>>>,
    pub(super) sync_port: Option<At<String>>,
    key_file: Option<At<PathBuf>>,
    keys: Option<Keys>,
    sync_rate: Option<u32>,
    relay: Option<bool>,
    pub(super) extra: Vec<GroupDraft>,
}

/// `[[ha.extra_group]]`
pub(super) struct GroupDraft {
    pub(super) line: usize,
    pub(super) group: Option<At<u8>>,
    priority: Option<u8>,
    pub(super) addresses: List<IpAddr>,
}

/// Reads `[ha]`.
pub(super) fn read(mut s: Section<'_>) -> HaDraft {
    let mode = s.optional(
        "mode",
        choice(
            &[("active-backup", PairMode::ActiveBackup), ("active-active", PairMode::ActiveActive)],
            &[],
        ),
        PairMode::ActiveBackup,
    );
    let active_active = mode.as_ref().is_some_and(|mode| mode.value == PairMode::ActiveActive);
    let backup = mode.as_ref().is_some_and(|mode| mode.value == PairMode::ActiveBackup);
    if active_active {
        for key in ["group", "priority", "extra_group"] {
            if s.has(key) {
                let message = "only in mode \"active-backup\": in active-active both nodes answer for \
                               every address and no VRRP runs; leave it out";
                s.error(key, message);
            }
        }
        for key in VRRP_ALONE {
            if s.has(key) {
                s.warning(key, "does nothing in mode \"active-active\", where no VRRP runs");
            }
        }
    }
    let vrid = "a virtual router id from 1 to 255, the same on both nodes, like 10";
    let group = match backup {
        true => s.required("group", integer(1..=255_u8), vrid),
        false => s.maybe("group", integer(1..=255_u8)),
    };
    let preempt = value(s.optional("preempt", boolean, true));
    for key in ["preempt_delay_s", "preempt_unsynced"] {
        if preempt == Some(false) && s.has(key) {
            s.warning(key, "does nothing with preempt = false");
        }
    }
    let track_ports = s.has("track_ports");
    let track_ports = Some(s.list("track_ports", string(name))).filter(|_| track_ports);
    let (key_file, keys) = read_keys(&mut s);
    let draft = HaDraft {
        line: s.line(),
        group: group.filter(|_| !active_active),
        priority: value(s.optional("priority", integer(1..=254_u8), 100)),
        peer: s.required(
            "peer",
            string(address),
            "the address of the other node on the network of sync_port, like \"192.0.2.3\"",
        ),
        advert_interval_ms: value(s.optional("advert_interval_ms", advert_interval, 1_000)),
        preempt,
        preempt_delay_s: value(s.optional("preempt_delay_s", integer(0..=3_600), 0)),
        preempt_unsynced: value(s.optional("preempt_unsynced", boolean, false)),
        virtual_mac: value(s.optional("virtual_mac", boolean, true)),
        track_ports,
        port_drop: value(s.optional("port_drop", integer(0..=255_u8), 255)),
        track_services: s.list("track_services", string(name)),
        service_drop: value(s.optional("service_drop", integer(0..=255_u8), 50)),
        sync_group: s.optional("sync_group", string(|text| group_address(text).map(Some)), None),
        sync_port: s.required(
            "sync_port",
            string(name),
            "the name of the [[port]] to the other node, like \"front\"",
        ),
        key_file,
        keys,
        sync_rate: value(s.optional("sync_rate", integer(1_000..=10_000_000), 200_000)),
        relay: value(s.optional("relay", boolean, true)),
        extra: s.tables("extra_group", EXTRA).0.into_iter().map(read_group).collect(),
        mode,
    };
    s.finish();
    draft
}

/// The keys that say how VRRP is to work.
const VRRP_ALONE: [&str; 9] = [
    "advert_interval_ms",
    "preempt",
    "preempt_delay_s",
    "preempt_unsynced",
    "virtual_mac",
    "track_ports",
    "port_drop",
    "track_services",
    "service_drop",
];

fn read_group(mut s: Section<'_>) -> GroupDraft {
    let vrid = "a virtual router id from 1 to 255 that no other group has, like 11";
    let addresses = "addresses of services, LIPs or pools, like [\"192.0.2.20\"]";
    let draft = GroupDraft {
        line: s.line(),
        group: s.required("group", integer(1..=255_u8), vrid),
        priority: value(s.optional("priority", integer(1..=254_u8), 100)),
        addresses: s.required_list("addresses", string(address), addresses),
    };
    s.finish();
    draft
}

fn read_keys(s: &mut Section<'_>) -> (Option<At<PathBuf>>, Option<Keys>) {
    let path = s.required(
        "key_file",
        string(path),
        "an absolute path, the same key on both nodes, like \"/etc/shunt/sync.key\"",
    );
    let Some(at) = path else { return (None, None) };
    match keys_in(&at.value) {
        Ok(keys) => (Some(at), Some(keys)),
        Err(error) => {
            s.error("key_file", error);
            (Some(at), None)
        }
    }
}

/// The keys in this file.
///
/// # Errors
/// What is wrong with the file, where, and what mends it.
pub(crate) fn keys_in(path: &Path) -> Result<Keys, String> {
    let text = key_file::read(path)?;
    Keys::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') && !text.contains('\0') {
        return Ok(PathBuf::from(text));
    }
    Err(format!("{text:?} is not an absolute path; expected one like \"/etc/shunt/sync.key\""))
}

/// Milliseconds that are whole centiseconds: adverts have 12 bits of these (RFC 5798 5.2.7).
fn advert_interval(value: &DeValue<'_>) -> Result<u16, String> {
    match integer(10..=40_950_u16)(value)? {
        given if given % 10 == 0 => Ok(given),
        given => Err(format!(
            "{given} is not a multiple of 10; expected {} or {}",
            given / 10 * 10,
            (given / 10 + 1) * 10
        )),
    }
}

/// A multicast address and a port.
fn group_address(text: &str) -> Result<SocketAddr, String> {
    let example = || format!("expected one like \"{GROUP_V4}\" or \"{GROUP_V6}\"");
    let at: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not a multicast ADDRESS:PORT; {}", example()))?;
    if at.port() == 0 {
        return Err(format!("{text} has port 0; expected 1 to 65535"));
    }
    // RFC 5771 4: what routers and hosts tell each other; RFC 4291 2.7: scope 1 leaves no interface,
    // and ff0 are the assigned groups.
    let wrong = match at.ip() {
        ip if !ip.is_multicast() => "is not a multicast address",
        IpAddr::V4(ip) if ip.octets()[..3] == [224, 0, 0] => "is a group of other protocols",
        IpAddr::V6(ip) if ip.octets()[1] & 0xf0 == 0 => "is a group of other protocols",
        IpAddr::V6(ip) if ip.octets()[1] & 0xf <= 1 => "never leaves the interface",
        ip => return Ok(SocketAddr::new(ip, at.port())),
    };
    Err(format!("{} {wrong}; {}", at.ip(), example()))
}

impl HaDraft {
    /// The group of session sync, the default included.
    pub(super) fn group_of_sync(&self) -> Option<SocketAddr> {
        let default = if self.peer.as_ref()?.value.is_ipv4() { GROUP_V4 } else { GROUP_V6 };
        self.sync_group.as_ref()?.value.or_else(|| default.parse().ok())
    }

    /// The pair, whose addresses and ports are those of the rest of the file.
    pub(super) fn into_ha(
        self,
        ports: &[Port],
        services: &[Service],
        snats: &[Snat],
    ) -> Option<Ha> {
        let sync_group = self.group_of_sync()?;
        let (mode, peer, sync_port) = (self.mode?.value, self.peer?.value, self.sync_port?.value);
        let extra = self.extra.into_iter().map(|group| {
            Some(VirtualRouter {
                vrid: group.group?.value,
                priority: group.priority?,
                addresses: group.addresses.into_values()?,
            })
        });
        let mut groups = extra.collect::<Option<Vec<_>>>()?;
        if mode == PairMode::ActiveBackup {
            let taken = |ip: &IpAddr| groups.iter().any(|group| group.addresses.contains(ip));
            let mut addresses = Vec::new();
            for ip in movable(ports, services, snats) {
                if !taken(&ip) && !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
            let main =
                VirtualRouter { vrid: self.group?.value, priority: self.priority?, addresses };
            groups.insert(0, main);
        }
        let on_sync_port = ports.iter().filter(|port| port.name == sync_port);
        let source = on_sync_port
            .flat_map(|port| &port.addresses)
            .find(|address| address.contains(&peer))
            .map(ipnet::IpNet::addr)?;
        let with_addresses = ports.iter().filter(|port| !port.addresses.is_empty());
        Some(Ha {
            mode,
            groups,
            peer,
            source,
            advert_interval_ms: self.advert_interval_ms?,
            preempt: self.preempt?,
            preempt_delay_s: self.preempt_delay_s?,
            preempt_unsynced: self.preempt_unsynced?,
            virtual_mac: self.virtual_mac?,
            track_ports: match self.track_ports {
                Some(ports) => ports.into_values()?,
                None => with_addresses.map(|port| port.name.clone()).collect(),
            },
            port_drop: self.port_drop?,
            track_services: self.track_services.into_values()?,
            service_drop: self.service_drop?,
            sync_group,
            sync_port,
            key_file: self.key_file?.value,
            keys: self.keys?,
            sync_rate: self.sync_rate?,
            relay: self.relay?,
        })
    }
}

/// The addresses that move between the nodes: virtual ones, LIPs and those of pools.
fn movable(ports: &[Port], services: &[Service], snats: &[Snat]) -> impl Iterator<Item = IpAddr> {
    let vips = services.iter().flat_map(|service| &service.listen).map(SocketAddr::ip);
    let lips = ports.iter().flat_map(|port| &port.local_addresses).copied();
    let pools = snats.iter().flat_map(|snat| &snat.pool).copied();
    vips.chain(lips).chain(pools)
}
