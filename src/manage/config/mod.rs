//! The configuration file (design §7): what it says, once it has been read and found right.
//!
//! [`load`] and [`parse`] report every error at once: the keys and values of each section
//! (`schema`, `service`, `values`), then what one section says against another (`validate`,
//! `addresses`, `reach`). A file that is not TOML is reported as that alone, since nothing sure can
//! be said about the rest.

mod addresses;
mod draft;
mod error;
mod guard;
mod guard_checks;
pub(crate) mod ha;
mod ha_checks;
mod introduction;
pub(crate) mod key_file;
mod list_file;
pub(in crate::manage) mod network;
mod policy;
mod reach;
mod reader;
mod schema;
mod selection;
mod service;
mod snat;
mod syn_proxy;
#[cfg(test)]
mod tests;
mod tunnel;
mod validate;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use toml::de::DeTable;

pub use error::{ConfigError, ConfigErrors};
pub use ha::{Ha, PairMode, VirtualRouter};
pub use schema::MAX_WORKERS;
pub use selection::{Persistence, Quic, Selection};

use super::memory;
use draft::Draft;
use reader::Report;

use crate::datapath::filter::{Action, FlagMatch};
use crate::datapath::limits::Limits;
use crate::datapath::policy::Policy;
use crate::datapath::prefix_set::PrefixSet;
pub use crate::datapath::snapshot::Forward;
use crate::datapath::snapshot::{Introduction, Mac, Side, SynProxy, Timeouts};
use crate::rewrite::proxy_protocol::Version;
use crate::sched::SchedulerKind;
use crate::session::Mode;
use crate::session::mappings::Behavior;
use crate::wire::flow::Protocol;
pub use crate::worker::Idle;

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[dpdk]`
    pub dpdk: Dpdk,
    /// `[[port]]`, at least one
    pub ports: Vec<Port>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[neighbor]]`
    pub neighbors: Vec<Neighbor>,
    /// `[[service]]`
    pub services: Vec<Service>,
    /// `[api]`
    pub api: Api,
    /// `[[snat]]`
    pub snats: Vec<Snat>,
    /// `[[filter]]`, `[[list]]`, `[[mirror]]` and `[protection]`
    pub guard: Guard,
    /// `[ha]`; `None` for a node without a peer.
    pub ha: Option<Ha>,
    /// What of the file does nothing, in the order of its lines.
    pub warnings: Vec<ConfigError>,
}

/// What is looked at before any session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guard {
    /// `[[filter]]`
    pub filters: Vec<Filter>,
    /// `[[list]]`
    pub lists: Vec<PrefixList>,
    /// `[[mirror]]`
    pub mirrors: Vec<Mirror>,
    /// `protection.bogons`
    pub bogons: bool,
    /// `protection.reverse_path`
    pub reverse_path: bool,
}

/// `[[filter]]`: a rule of the packet filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Its name.
    pub name: String,
    /// What is done (keys `action`, `rate` and `burst`).
    pub action: Action,
    /// Source prefixes (key `source`); empty is any.
    pub sources: Vec<IpNet>,
    /// Destination prefixes (key `destination`); empty is any.
    pub destinations: Vec<IpNet>,
    /// The name of a list the source must be in.
    pub list: Option<String>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Ranges of source ports; empty is any.
    pub source_ports: Vec<(u16, u16)>,
    /// Ranges of destination ports; empty is any.
    pub destination_ports: Vec<(u16, u16)>,
    /// TCP flags.
    pub tcp_flags: Option<FlagMatch>,
    /// The name of the receiving port.
    pub port: Option<String>,
}

/// `[[list]]`: its prefixes and those of its file.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixList {
    /// Its name.
    pub name: String,
    /// The prefixes.
    pub prefixes: Arc<PrefixSet>,
}

/// `[[mirror]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Its name.
    pub name: String,
    /// The name of the sensor's port.
    pub port: String,
    /// One packet in so many is copied.
    pub sample: u32,
    /// Packets from and to these are copied (key `match`).
    pub matching: Vec<IpNet>,
}

/// `[node]`: this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// 0 or 1.
    pub id: u8,
    /// CPU cores, one worker on each. A core may stand twice only with `idle = "yield"`.
    pub workers: Vec<usize>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// Capacity of the session table, over all workers.
    pub sessions: usize,
}

/// `[dpdk]`: the Environment Abstraction Layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Dpdk {
    /// Memory for packet buffers, MiB.
    pub memory_mb: usize,
    /// Whether to use hugepages.
    pub hugepages: bool,
    /// PCI devices, each in full and in lower case.
    pub allow: Vec<String>,
    /// Virtual devices, each `NAME,ARG=VALUE,…`.
    pub vdevs: Vec<String>,
    /// Passed to EAL as they are.
    pub extra_args: Vec<String>,
}

/// `[[port]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// PCI address in full and in lower case, or vdev name.
    pub device: String,
    /// Where clients and servers are.
    pub side: Side,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// LIPs for FullNAT.
    pub local_addresses: Vec<IpAddr>,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The tap the kernel sees; `None` for none.
    pub exception: Option<String>,
    /// Compute TCP/UDP checksums in full (key `full_checksums`, default false).
    pub full_checksums: bool,
    /// The VLAN of its frames; 0 for none.
    pub vlan: u16,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// The gateway, on a link of one of the ports.
    pub via: IpAddr,
}

/// `[[neighbor]]`: a fixed next hop.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
    /// The name of the port.
    pub port: String,
}

/// `[[service]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Forwarding mode.
    pub mode: Mode,
    /// Scheduler.
    pub scheduler: SchedulerKind,
    /// `[timeouts]`, with what `[service.timeouts]` overrides.
    pub timeouts: Timeouts,
    /// `[service.health]`
    pub health: Option<Health>,
    /// `[[service.server]]`
    pub servers: Vec<Server>,
    /// Keys `mid_stream`, `reset_on_expiry`, `on_server_down`, `mss` and `dscp`.
    pub policy: Policy,
    /// `[service.limits]`
    pub limits: Limits,
    /// The name of the mirror its packets are copied to.
    pub mirror: Option<String>,
    /// How servers are told the client's address (keys `proxy_protocol` and `toa`).
    pub introduction: Introduction,
    /// How it selects its servers beyond the scheduler.
    pub selection: Selection,
    /// UDP destination port of the tunnel; 0 where the mode has none.
    pub tunnel_port: u16,
    /// VXLAN network identifier; 0 in other modes.
    pub vni: u32,
    /// `syn_proxy` and `syn_proxy_above`
    pub syn_proxy: SynProxy,
}

/// `[[service.server]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Address and port.
    pub address: SocketAddr,
    /// 0 to 65535; 0 takes no new sessions.
    pub weight: u16,
    /// MAC address of its vxlan device (mode `vxlan`).
    pub inner_mac: Option<Mac>,
    /// Takes new sessions only when no other server is up with weight.
    pub backup: bool,
    /// The most open connections; 0 for no limit.
    pub max_connections: u32,
    /// What its QUIC connection ids say (key `quic_server_id`).
    pub quic_server_id: Option<Vec<u8>>,
}

/// `[service.health]`
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// How the server is asked.
    pub check: HealthCheck,
    /// Milliseconds from one check to the next.
    pub interval_ms: u64,
    /// Milliseconds until a check has failed.
    pub timeout_ms: u64,
    /// Good checks in a row that bring a server up.
    pub rise: u32,
    /// Bad checks in a row that take a server down.
    pub fall: u32,
    /// Another port to ask than the one that serves (key `port`).
    pub port: Option<u16>,
    /// The PROXY protocol header that the server expects of the check.
    pub proxy_protocol: Option<Version>,
}

/// How a health check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthCheck {
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP/1.1 GET is answered with an expected status.
    Http {
        /// The path asked for.
        path: String,
        /// The Host header (key `host`); the server's address when absent.
        host: Option<String>,
        /// Inclusive ranges of status codes.
        expect: Vec<(u16, u16)>,
    },
}

/// `[[snat]]`: hosts inside that reach the world with the addresses of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Snat {
    /// Its name.
    pub name: String,
    /// The hosts inside.
    pub sources: Vec<IpNet>,
    /// The addresses they get.
    pub pool: Vec<IpAddr>,
    /// The ports they get.
    pub ports: std::ops::RangeInclusive<u16>,
    /// When a mapping is used again.
    pub mapping: Behavior,
    /// Who may send to a mapping.
    pub filtering: Behavior,
    /// The most ports of the pool a host may hold; 0 for no limit.
    pub ports_per_source: u32,
    /// Whether hosts inside reach each other by the pool.
    pub hairpin: bool,
    /// `[snat.timeouts]`
    pub timeouts: Timeouts,
    /// `[[snat.forward]]`
    pub forwards: Vec<Forward>,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    /// Path of the control socket.
    pub socket: PathBuf,
}

/// Reads and checks a file.
///
/// # Errors
/// That the file cannot be read, or everything that is wrong in it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    let unreadable = |line, message: String| {
        let (section, key) = (String::new(), String::new());
        ConfigErrors::new(vec![ConfigError { file: file.clone(), line, section, key, message }])
    };
    let bytes =
        std::fs::read(path).map_err(|e| unreadable(None, format!("cannot be read: {e}")))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &file),
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
            Err(unreadable(Some(line), "not UTF-8; save the file in that encoding".to_owned()))
        }
    }
}

/// Reads and checks the text of a file; `file_name` is what errors call it.
///
/// # Errors
/// Everything that is wrong in it.
pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigErrors> {
    let report = Report::new(file_name, text);
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        for error in syntax_errors {
            let span = error.span().unwrap_or_default();
            let line = report.line_of(span.start);
            let mut message = format!("not TOML: {}", error.message());
            if error.message() == "duplicate key"
                && let Some(key) = text.get(span)
            {
                message += &format!(" {key:?}; keep one");
            }
            report.error(line, "", "", message);
        }
        return Err(ConfigErrors::new(report.into_errors()));
    }
    let draft: Draft = schema::read(table.get_ref(), &report);
    validate::check(&draft, &report);
    let memory_line = draft.dpdk.memory_mb.as_ref().map_or(1, |at| at.line);
    let config = draft.into_config();
    if report.is_good()
        && let Some(config) = &config
        && let Err(error) = memory::check_buffers(config)
    {
        report.error(memory_line, "[dpdk]", "memory_mb", error.to_string());
    }
    let warnings = report.take_warnings();
    let errors = report.into_errors();
    match config {
        Some(config) if errors.is_empty() => Ok(Config { warnings, ..config }),
        _ => Err(ConfigErrors::new(errors)),
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            address: SocketAddr::from(([0; 4], 0)),
            weight: 1,
            inner_mac: None,
            backup: false,
            max_connections: 0,
            quic_server_id: None,
        }
    }
}

impl Default for Service {
    fn default() -> Self {
        Service {
            name: String::new(),
            protocol: Protocol::Tcp,
            listen: Vec::new(),
            mode: Mode::Nat,
            scheduler: SchedulerKind::Wrr,
            timeouts: Timeouts::default(),
            health: None,
            servers: Vec::new(),
            policy: Policy::of(Protocol::Tcp),
            limits: Limits::default(),
            mirror: None,
            introduction: Introduction::None,
            tunnel_port: 0,
            vni: 0,
            syn_proxy: SynProxy::Off,
            selection: Selection::default(),
        }
    }
}
