//! What the control socket says, as the JSON that the command line and other programs read.
//!
//! Times are in milliseconds (`_ms`), sizes in bytes (`_bytes`), rates per second over the last second
//! (`_pps` packets, `_bps` bits, `_per_second` else). Packets and bytes count since the start; bytes
//! are Ethernet frames without FCS.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The version of these types; it rises when a field is removed or changes its meaning.
pub const API_VERSION: u32 = 1;

/// An answer with the version of its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`API_VERSION`] of the process that answers.
    pub api_version: u32,
    /// The answer; its fields stand next to `api_version`.
    #[serde(flatten)]
    pub body: T,
}

/// What went wrong, with an HTTP status of 4xx or 5xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
}

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Shunt's version.
    pub version: String,
    /// `node.name`.
    pub node: String,
    /// `node.id`.
    pub node_id: u8,
    /// Time since the start.
    pub uptime_ms: u64,
    /// Counts up with every change of the data path's configuration, health included.
    pub generation: u64,
    /// IPv4 sessions.
    pub sessions_v4: u64,
    /// IPv6 sessions.
    pub sessions_v6: u64,
    /// `node.sessions`.
    pub sessions_capacity: u64,
    /// New sessions.
    pub sessions_per_second: u64,
    /// Received from ports.
    pub rx_pps: u64,
    /// See `rx_pps`.
    pub rx_bps: u64,
    /// Transmitted to ports.
    pub tx_pps: u64,
    /// See `tx_pps`.
    pub tx_bps: u64,
    /// Services with a server that takes new sessions.
    pub services_up: u64,
    /// Services without one.
    pub services_down: u64,
    /// Servers that are up.
    pub servers_up: u64,
    /// Servers that are down: a check has failed.
    pub servers_down: u64,
    /// Whether each worker accounts for every packet.
    pub workers: Vec<WorkerBalance>,
    /// Dropped since the start.
    pub dropped_packets: u64,
    /// Dropped in the last second.
    pub dropped_pps: u64,
    /// The reasons that dropped most, most first.
    pub worst_drops: Vec<DropCount>,
    /// Services whose SYNs are answered with cookies now.
    pub syn_proxy_on: Vec<String>,
    /// Servers that wait for their first check; no session goes there yet.
    #[serde(default)]
    pub servers_unknown: u64,
    /// The pair; `null` for a node without a peer.
    #[serde(default)]
    pub pair: Option<PairSummary>,
}

/// The pair in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairSummary {
    /// The peer's address.
    pub peer: IpAddr,
    /// Whether it is there.
    pub peer_alive: bool,
    /// Whether this node has all its sessions.
    pub synced: bool,
    /// The groups and their states, as in [`super::pair_types::Group`].
    pub groups: Vec<(u8, String)>,
    /// Problems that `GET /v1/ha` explains and that do not pass by themselves.
    pub problems: u64,
}

/// Whether a worker accounts for every packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerBalance {
    /// The worker.
    pub worker: usize,
    /// The CPU core it is pinned to.
    pub core: usize,
    /// Received minus transmitted, consumed, held and dropped. While packets flow, those in the
    /// worker's hands at the moment of reading; at rest it must be 0.
    pub unaccounted_packets: i64,
}

/// One drop reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// Its name.
    pub reason: String,
    /// What it means.
    pub help: String,
    /// Packets since the start.
    pub packets: u64,
    /// Packets in the last second.
    pub pps: u64,
}

/// What went through a service or a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Sessions there are now.
    pub sessions_active: u64,
    /// Sessions since the start.
    pub sessions_created: u64,
    /// New sessions.
    pub sessions_per_second: u64,
    /// Packets from clients.
    pub forward_packets: u64,
    /// Bytes from clients.
    pub forward_bytes: u64,
    /// Packets from clients.
    pub forward_pps: u64,
    /// Bits from clients.
    pub forward_bps: u64,
    /// Packets from servers.
    pub reply_packets: u64,
    /// Bytes from servers.
    pub reply_bytes: u64,
    /// Packets from servers.
    pub reply_pps: u64,
    /// Bits from servers.
    pub reply_bps: u64,
}

impl Traffic {
    /// With the two directions exchanged.
    #[must_use]
    pub fn reversed(self) -> Traffic {
        Traffic {
            forward_packets: self.reply_packets,
            forward_bytes: self.reply_bytes,
            forward_pps: self.reply_pps,
            forward_bps: self.reply_bps,
            reply_packets: self.forward_packets,
            reply_bytes: self.forward_bytes,
            reply_pps: self.forward_pps,
            reply_bps: self.forward_bps,
            ..self
        }
    }

    /// Adds another's figures.
    pub fn add(&mut self, other: &Traffic) {
        self.sessions_active += other.sessions_active;
        self.sessions_created += other.sessions_created;
        self.sessions_per_second += other.sessions_per_second;
        self.forward_packets += other.forward_packets;
        self.forward_bytes += other.forward_bytes;
        self.forward_pps += other.forward_pps;
        self.forward_bps += other.forward_bps;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
        self.reply_pps += other.reply_pps;
        self.reply_bps += other.reply_bps;
    }
}

/// `GET /v1/services`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// In the order of the configuration.
    pub services: Vec<Service>,
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// As in the configuration: `nat`, `fullnat`, `dr`, `ipip`, `gre`, `gue` or `vxlan`.
    pub mode: String,
    /// Its scheduler.
    pub scheduler: String,
    /// Whether a server takes new sessions.
    pub up: bool,
    /// What `sh` and `maglev` place a session by; `null` for other schedulers.
    pub hash_on: Option<String>,
    /// The most open sessions; 0 for no limit.
    pub max_connections: u32,
    /// Seconds that a client is remembered; 0 without persistence.
    pub persistence_seconds: u32,
    /// Servers that are up and have weight.
    pub servers_up: u64,
    /// All servers.
    pub servers_total: u64,
    /// What went through it.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Its SYN proxy; `null` when it has none.
    pub syn_proxy: Option<SynProxy>,
}

/// The SYN proxy of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynProxy {
    /// `on` or `auto`.
    pub policy: String,
    /// Workers that answer SYNs with cookies now.
    pub workers_on: u64,
    /// SYNs that were answered with a cookie.
    pub cookies_sent: u64,
    /// ACKs that returned one.
    pub cookies_accepted: u64,
    /// Segments without a session that returned none that is good.
    pub cookies_rejected: u64,
    /// Connections that a server has accepted, after Shunt's handshake with the client.
    pub connections: u64,
}

/// `GET /v1/servers`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Servers {
    /// By service, in the order of the configuration.
    pub servers: Vec<Server>,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// The service's name.
    pub service: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// The port packets leave by.
    pub port: String,
    /// The gateway to it; `null` when it is on the link.
    pub via: Option<IpAddr>,
    /// 0 takes no new sessions.
    pub weight: u16,
    /// Whether it takes new sessions only when no other can.
    pub backup: bool,
    /// The most open sessions; 0 for no limit.
    pub max_connections: u32,
    /// Whether its check passes, or it has none.
    pub up: bool,
    /// Its check; `null` when it has none.
    pub health: Option<Health>,
    /// The local ports towards it, in FullNAT; `null` in other modes.
    pub local_ports: Option<LocalPorts>,
    /// What went through it.
    #[serde(flatten)]
    pub traffic: Traffic,
}

impl Server {
    /// Whether it waits for its first check.
    pub fn is_unknown(&self) -> bool {
        !self.up && self.health.as_ref().is_some_and(|health| health.checks == 0)
    }
}

/// How many local ports of FullNAT there are towards a real server. When all are used, new sessions
/// to it are dropped (`local_ports_exhausted`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPorts {
    /// In use, by all services that have this real server.
    pub used: u64,
    /// On all LIPs of the port by which it is reached.
    pub total: u64,
}

impl LocalPorts {
    /// Whether it is time for more LIPs: three quarters are used. Clients do not spread evenly over
    /// the steering buckets, so the first new session may be dropped well before all are.
    pub fn are_scarce(&self) -> bool {
        self.used * 4 >= self.total * 3
    }
}

/// The health check of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `tcp` or `http`.
    pub check: String,
    /// Checks since the start.
    pub checks: u64,
    /// Time since `up` last changed, or since the start.
    pub changed_ago_ms: u64,
    /// How long the last good check took; `null` before the first.
    pub latency_ms: Option<f64>,
    /// Why the last check failed; `null` when it did not.
    pub error: Option<String>,
}

/// Which sessions to list: the query of `GET /v1/sessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParameters {
    /// Of the service of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Of the real server `ADDRESS` or `ADDRESS:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Of clients in this network, `ADDRESS` or `ADDRESS/LENGTH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// At most so many, 1 to [`MAX_SESSION_LIMIT`]; [`DEFAULT_SESSION_LIMIT`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// How many sessions are listed when nothing is said.
pub const DEFAULT_SESSION_LIMIT: usize = 100;
/// The most sessions that are listed at once.
pub const MAX_SESSION_LIMIT: usize = 10_000;

/// `GET /v1/sessions`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// How many match, listed or not.
    pub matching: u64,
    /// Whether more match than are listed.
    pub truncated: bool,
    /// Workers that did not answer in time; their sessions are missing.
    pub silent_workers: Vec<usize>,
    /// By client.
    pub sessions: Vec<Session>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The worker that owns it.
    pub worker: usize,
    /// The name of the service, or of the rule of egress SNAT.
    pub service: String,
    /// `tcp` or `udp`; `icmp` in `snat`, for ping.
    pub protocol: String,
    /// The client; in `snat` whoever opened the session.
    pub client: SocketAddr,
    /// The virtual address and port; in `snat` whatever address and port the client talks to.
    pub vip: SocketAddr,
    /// The source towards the server: the client, or in `fullnat` the local address and port, or in
    /// `snat` that of the pool when it was opened from inside.
    pub local: SocketAddr,
    /// The real server; in `snat` the remote host, or the one inside when it was opened from outside.
    pub server: SocketAddr,
    /// `udp`, `syn_sent`, `syn_received`, `established`, `fin_client`, `fin_server`, `fin_both`,
    /// `time_wait`, `closed`, `contested` (a reset was seen that may be forged) or `syn_proxied`.
    pub state: String,
    /// The mode of its service, or `snat`.
    pub mode: String,
    /// Since it was created.
    pub age_ms: u64,
    /// Since its last packet.
    pub idle_ms: u64,
    /// Until it expires if no packet comes.
    pub expires_ms: u64,
}

/// `GET /v1/snat`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snats {
    /// In the order of the configuration.
    pub snats: Vec<Snat>,
}

/// A rule of egress SNAT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snat {
    /// Its name.
    pub name: String,
    /// `endpoint_independent`, `address_dependent` or `address_and_port_dependent`.
    pub mapping: String,
    /// The same of its filter.
    pub filtering: String,
    /// Addresses of the pool.
    pub addresses: u64,
    /// Ports that this node may use, on all addresses, for each protocol. A mapping takes one; unless
    /// mapping and filtering both depend on the remote address, nobody else can use it meanwhile.
    pub ports: u64,
    /// IPv4 mappings there are now.
    pub mappings_v4: u64,
    /// IPv6 mappings there are now.
    pub mappings_v6: u64,
    /// What went through it: `forward` is from inside to outside, `reply` from outside to inside,
    /// whoever opened the session.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Packets from inside for which no port was free.
    pub exhausted_packets: u64,
    /// Packets from hosts that hold as many ports as they may.
    pub limited_packets: u64,
    /// Packets from outside that no mapping or filter let in.
    pub refused_packets: u64,
}

/// `GET /v1/ports`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ports {
    /// Exception taps included.
    pub ports: Vec<Port>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// PCI address or vdev.
    pub device: String,
    /// DPDK's driver.
    pub driver: String,
    /// `client`, `server`, `both`, or `exception` for a tap to the kernel.
    pub role: String,
    /// Its MAC address.
    pub mac: String,
    /// The largest IP packet.
    pub mtu_bytes: u16,
    /// Whether the link is up.
    pub link_up: bool,
    /// The link's speed; `null` when it has none.
    pub speed_mbps: Option<u32>,
    /// What the device can do and what of it is used, in one line.
    pub capabilities_text: String,
    /// The same for programs.
    pub capabilities: serde_json::Value,
    /// Frames the workers received.
    pub rx_packets: u64,
    /// See `rx_packets`.
    pub rx_bytes: u64,
    /// See `rx_packets`.
    pub rx_pps: u64,
    /// See `rx_packets`.
    pub rx_bps: u64,
    /// Frames the port took from the workers.
    pub tx_packets: u64,
    /// See `tx_packets`.
    pub tx_bytes: u64,
    /// See `tx_packets`.
    pub tx_pps: u64,
    /// See `tx_packets`.
    pub tx_bps: u64,
    /// Frames the port did not take.
    pub tx_refused_packets: u64,
    /// What the device itself counted.
    pub hardware: HardwareStatistics,
    /// The VLAN of its frames; 0 for none.
    pub vlan: u16,
}

/// What a device counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareStatistics {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Frames that came while the receive queues were full.
    pub rx_missed_packets: u64,
    /// Broken frames.
    pub rx_errors: u64,
    /// Frames for which no buffer was free.
    pub rx_no_buffer: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

/// `GET /v1/workers`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// By number.
    pub workers: Vec<Worker>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub worker: usize,
    /// The CPU core it is pinned to.
    pub core: usize,
    /// Packets from ports.
    pub rx_packets: u64,
    /// See `rx_packets`.
    pub rx_pps: u64,
    /// Packets from other workers.
    pub handed_in_packets: u64,
    /// Received packets that were transmitted.
    pub tx_packets: u64,
    /// See `tx_packets`.
    pub tx_pps: u64,
    /// Packets given to other workers.
    pub handed_off_packets: u64,
    /// Of `tx_packets`, those that went to the kernel.
    pub punted_packets: u64,
    /// Packets answered or learnt from.
    pub consumed_packets: u64,
    /// Packets that wait, for their next hop or for the first fragment of their packet.
    pub held_packets: u64,
    /// Dropped packets.
    pub dropped_packets: u64,
    /// Packets Shunt made itself.
    pub originated_packets: u64,
    /// As in [`WorkerBalance`].
    pub unaccounted_packets: i64,
    /// IPv4 sessions.
    pub sessions_v4: u64,
    /// IPv6 sessions.
    pub sessions_v6: u64,
    /// Sessions that ended by timeout.
    pub sessions_expired: u64,
    /// Clients that services with persistence remember.
    pub persistent_clients: u64,
    /// Connections of clients that could not be remembered: the table was full.
    pub persistence_full: u64,
    /// Share of the loop iterations of the last second that found packets, 0 to 100.
    pub busy_percent: f64,
    /// ICMP errors passed on to the end they concern.
    pub icmp_errors: u64,
    /// Fragments forwarded.
    pub fragments: u64,
    /// Fragments that came before the first of their packet.
    pub fragments_held: u64,
    /// Events to management that found the queue full.
    pub events_lost: u64,
    /// Packets that went to a server without the TOA option for want of room.
    pub toa_no_room: u64,
    /// Commands from management that wait for room in the queue.
    pub commands_waiting: usize,
    /// TCP resets sent to the ends of sessions that ended.
    pub resets_sent: u64,
    /// Sessions that were ended since their server was down or gone.
    pub sessions_ended_with_server: u64,
    /// TCP sessions whose handshake is not complete.
    pub sessions_half_open: u64,
    /// Packets of sources that had no place in the table of source limits.
    pub sources_untracked: u64,
    /// Copies made for sensors; transmitted ones are in `originated_packets`.
    pub mirrored_packets: u64,
    /// Copies that could not be made.
    pub mirror_missed_packets: u64,
}

/// `GET /v1/neighbors`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbors {
    /// By port and address.
    pub neighbors: Vec<Neighbor>,
    /// The most there can be.
    pub capacity: usize,
    /// How often one was refused since the table was full.
    pub refused: u64,
}

/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// The port it is on.
    pub port: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, when known.
    pub mac: Option<String>,
    /// `fixed`, `incomplete`, `reachable`, `probing` or `failed`.
    pub state: String,
    /// Since it was last heard of.
    pub heard_ago_ms: Option<u64>,
}

/// `GET /v1/drops`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// All reasons together.
    pub dropped_packets: u64,
    /// All reasons, those with none too.
    pub drops: Vec<Drop>,
}

/// A drop reason, by worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Name, meaning and sum.
    #[serde(flatten)]
    pub count: DropCount,
    /// Packets since the start, by worker.
    pub packets_by_worker: Vec<u64>,
}

/// `GET /v1/filters`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// The rules of the packet filter, in their order.
    pub filters: Vec<Filter>,
}

/// A rule of the packet filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its name.
    pub name: String,
    /// `allow`, `drop`, `reject` or `limit`.
    pub action: String,
    /// Packets it was the first to match, since the start.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
