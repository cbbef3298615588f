//! What the management thread and a worker say to each other, over two bounded single-producer
//! queues. Between two snapshots a worker neither frees nor allocates: what it is done with goes back
//! in an event.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::datapath::ha::Masters;
use crate::datapath::notice::Advert;
use crate::datapath::snapshot::{Mac, PortId, Snapshot};
use crate::session::{Mode, ServerId, ServiceId, TcpState};
use crate::sync::keys::Keys;
use crate::wire::flow::Protocol;

/// From the management thread to a worker.
#[derive(Debug)]
pub enum Command {
    /// Use this configuration from now on; the old one comes back as [`Event::Retired`].
    Snapshot(Arc<Snapshot>),
    /// A next hop changed.
    Neighbor {
        /// The port it is on.
        port: PortId,
        /// Its address.
        address: IpAddr,
        /// What is known of it.
        update: NeighborUpdate,
    },
    /// Send this frame (ARP and NDP probes); it comes back as [`Event::Transmitted`].
    Transmit {
        /// The port to send it on.
        port: PortId,
        /// The frame, from the Ethernet header on.
        frame: Vec<u8>,
    },
    /// The path to this server of a tunnel takes packets of this length, outer headers included, and
    /// no longer ones.
    PathMtu {
        /// The server's address.
        address: IpAddr,
        /// In bytes.
        mtu: u16,
    },
    /// List sessions; the query comes back filled as [`Event::Sessions`].
    ListSessions(Box<SessionQuery>),
    /// Answer for the addresses of these groups, and for those of no others.
    Masters(Masters),
    /// The keys of the channel to the peer from now on.
    Keys(Box<Keys>),
    /// The node is about to stop: tell the peer.
    Leave,
}

/// What the management thread knows of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborUpdate {
    /// It has this MAC address: packets that wait for it are sent.
    Resolved(Mac),
    /// It did not answer: packets that wait for it are dropped; the next packet asks again.
    Failed,
}

/// From a worker to the management thread.
#[derive(Debug)]
pub enum Event {
    /// A packet needs this next hop and it is unknown.
    NeighborWanted {
        /// The port it is on.
        port: PortId,
        /// Its address.
        address: IpAddr,
    },
    /// ARP or NDP told the MAC address of a host.
    NeighborSeen {
        /// The port it was heard on.
        port: PortId,
        /// Its address.
        address: IpAddr,
        /// Its MAC address.
        mac: Mac,
    },
    /// A router said that the path to this server of a tunnel takes no longer packets, outer headers
    /// included; the other workers do not know.
    PathMtu {
        /// The server's address.
        address: IpAddr,
        /// In bytes.
        mtu: u16,
    },
    /// A port of the peer's has this address.
    PeerAddress(IpAddr),
    /// A VRRP advert was heard.
    Vrrp(Advert),
    /// A filled query.
    Sessions(Box<SessionQuery>),
    /// A snapshot that is no longer used.
    Retired(Arc<Snapshot>),
    /// The buffer of a transmitted frame, to be freed.
    Transmitted(Vec<u8>),
    /// Keys that the worker has a copy of by now, to be freed.
    KeysTaken(Box<Keys>),
}

/// Which sessions to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionFilter {
    /// Of this service.
    pub service: Option<ServiceId>,
    /// Of these real servers; empty for all.
    pub servers: Vec<ServerId>,
    /// Of clients in this network.
    pub client: Option<IpNet>,
}

/// A request for a bounded list of sessions. The worker looks at a bounded number of entries per
/// loop, so that a table of millions is walked without a pause.
#[derive(Clone, Debug, Default)]
pub struct SessionQuery {
    /// Chosen by who asks.
    pub id: u64,
    /// Which sessions.
    pub filter: SessionFilter,
    /// The sessions found. Never grows past the capacity it came with.
    pub rows: Vec<SessionRow>,
    /// How many match, listed or not.
    pub matching: u64,
    /// How far the walk has come; the worker's own.
    pub cursor: usize,
}

/// One session, as listed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionRow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The virtual address and port.
    pub vip: SocketAddr,
    /// The source towards the server.
    pub local: SocketAddr,
    /// The real server.
    pub server: SocketAddr,
    /// TCP state.
    pub state: TcpState,
    /// Forwarding mode.
    pub mode: Mode,
    /// The service.
    pub service: ServiceId,
    /// The real server's id.
    pub server_id: ServerId,
    /// Milliseconds since it was created.
    pub age_ms: u32,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Milliseconds until it expires if no packet comes.
    pub expires_ms: u32,
}
