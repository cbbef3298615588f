//! A configuration that has been read but not yet found right: what was wrong is `None`, and each
//! value that takes part in a check across sections knows its line.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::guard::GuardDraft;
use super::ha::HaDraft;
use super::reader::{At, List};
use super::selection::SelectionDraft;
use super::snat::SnatDraft;
use super::{Api, Config, Dpdk, Health, Idle, Neighbor, Node, Port, Route, Server, Service};
use crate::datapath::limits::Limits;
use crate::datapath::policy::Policy;
use crate::datapath::snapshot::{Introduction, Mac, Side, SynProxy, Timeouts};
use crate::sched::SchedulerKind;
use crate::session::Mode;
use crate::wire::flow::Protocol;

/// The whole file.
pub(super) struct Draft {
    pub(super) node: NodeDraft,
    pub(super) dpdk: DpdkDraft,
    pub(super) ports: Vec<PortDraft>,
    pub(super) routes: Vec<RouteDraft>,
    pub(super) neighbors: Vec<NeighborDraft>,
    pub(super) services: Vec<ServiceDraft>,
    pub(super) api: Option<Api>,
    pub(super) snats: Vec<SnatDraft>,
    pub(super) guard: GuardDraft,
    /// `Some(None)`: the section is not there.
    pub(super) ha: Option<Option<HaDraft>>,
    /// Whether every `[[port]]` and `[[route]]` is a table.
    pub(super) whole: bool,
}

/// `[node]`
pub(super) struct NodeDraft {
    pub(super) name: Option<String>,
    pub(super) id: Option<u8>,
    pub(super) workers: List<usize>,
    pub(super) idle: Option<Idle>,
    pub(super) sessions: Option<usize>,
}

/// `[dpdk]`
pub(super) struct DpdkDraft {
    pub(super) memory_mb: Option<At<usize>>,
    pub(super) hugepages: Option<bool>,
    pub(super) allow: List<String>,
    pub(super) vdevs: List<String>,
    pub(super) extra_args: List<String>,
}

/// `[[port]]`
pub(super) struct PortDraft {
    pub(super) line: usize,
    pub(super) name: Option<At<String>>,
    pub(super) device: Option<At<String>>,
    pub(super) side: Option<At<Side>>,
    pub(super) addresses: List<IpNet>,
    pub(super) local_addresses: List<IpAddr>,
    pub(super) mtu: Option<At<u16>>,
    pub(super) exception: Option<At<Option<String>>>,
    pub(super) full_checksums: Option<bool>,
    pub(super) vlan: Option<At<u16>>,
}

/// `[[route]]`
pub(super) struct RouteDraft {
    pub(super) to: Option<At<IpNet>>,
    pub(super) via: Option<At<IpAddr>>,
}

/// `[[neighbor]]`
pub(super) struct NeighborDraft {
    pub(super) address: Option<At<IpAddr>>,
    pub(super) mac: Option<Mac>,
    pub(super) port: Option<At<String>>,
}

/// `[[service]]`
pub(super) struct ServiceDraft {
    pub(super) line: usize,
    pub(super) name: Option<At<String>>,
    pub(super) protocol: Option<At<Protocol>>,
    pub(super) listen: List<SocketAddr>,
    pub(super) mode: Option<At<Mode>>,
    pub(super) scheduler: Option<SchedulerKind>,
    pub(super) timeouts: Option<Timeouts>,
    /// `Some(None)`: it has none.
    pub(super) health: Option<Option<At<Health>>>,
    pub(super) servers: Vec<ServerDraft>,
    /// Whether every `[[service.server]]` is a table.
    pub(super) servers_whole: bool,
    pub(super) policy: Option<Policy>,
    pub(super) limits: Option<At<Limits>>,
    pub(super) mirror: Option<At<Option<String>>>,
    pub(super) introduction: Option<Introduction>,
    pub(super) tunnel_port: Option<u16>,
    pub(super) vni: Option<u32>,
    pub(super) syn_proxy: Option<At<SynProxy>>,
    pub(super) selection: SelectionDraft,
}

/// `[[service.server]]`
pub(super) struct ServerDraft {
    pub(super) address: Option<At<SocketAddr>>,
    pub(super) weight: Option<u16>,
    /// `Some(None)`: not given.
    pub(super) inner_mac: Option<Option<Mac>>,
    pub(super) backup: Option<bool>,
    pub(super) max_connections: Option<u32>,
    /// `Some(None)`: it has none.
    pub(super) quic_server_id: Option<Option<At<Vec<u8>>>>,
}

impl Draft {
    /// The configuration, if nothing is missing.
    pub(super) fn into_config(self) -> Option<Config> {
        let ports = self.ports.into_iter().map(PortDraft::into_port).collect::<Option<Vec<_>>>()?;
        let services = self
            .services
            .into_iter()
            .map(ServiceDraft::into_service)
            .collect::<Option<Vec<_>>>()?;
        let snats = self.snats.into_iter().map(SnatDraft::into_snat).collect::<Option<Vec<_>>>()?;
        let ha = match self.ha? {
            Some(ha) => Some(ha.into_ha(&ports, &services, &snats)?),
            None => None,
        };
        Some(Config {
            node: self.node.into_node()?,
            dpdk: self.dpdk.into_dpdk()?,
            ports,
            routes: self.routes.into_iter().map(RouteDraft::into_route).collect::<Option<_>>()?,
            neighbors: self
                .neighbors
                .into_iter()
                .map(NeighborDraft::into_neighbor)
                .collect::<Option<_>>()?,
            services,
            api: self.api?,
            snats,
            guard: self.guard.into_guard()?,
            ha,
            warnings: Vec::new(),
        })
    }
}

impl NodeDraft {
    fn into_node(self) -> Option<Node> {
        Some(Node {
            name: self.name?,
            id: self.id?,
            workers: self.workers.into_values()?,
            idle: self.idle?,
            sessions: self.sessions?,
        })
    }
}

impl DpdkDraft {
    fn into_dpdk(self) -> Option<Dpdk> {
        Some(Dpdk {
            memory_mb: self.memory_mb?.value,
            hugepages: self.hugepages?,
            allow: self.allow.into_values()?,
            vdevs: self.vdevs.into_values()?,
            extra_args: self.extra_args.into_values()?,
        })
    }
}

impl PortDraft {
    fn into_port(self) -> Option<Port> {
        Some(Port {
            name: self.name?.value,
            device: self.device?.value,
            side: self.side?.value,
            addresses: self.addresses.into_values()?,
            local_addresses: self.local_addresses.into_values()?,
            mtu: self.mtu?.value,
            exception: self.exception?.value,
            full_checksums: self.full_checksums?,
            vlan: self.vlan?.value,
        })
    }
}

impl RouteDraft {
    fn into_route(self) -> Option<Route> {
        Some(Route { to: self.to?.value, via: self.via?.value })
    }
}

impl NeighborDraft {
    fn into_neighbor(self) -> Option<Neighbor> {
        Some(Neighbor { address: self.address?.value, mac: self.mac?, port: self.port?.value })
    }
}

impl ServiceDraft {
    fn into_service(self) -> Option<Service> {
        Some(Service {
            name: self.name?.value,
            protocol: self.protocol?.value,
            listen: self.listen.into_values()?,
            mode: self.mode?.value,
            scheduler: self.scheduler?,
            timeouts: self.timeouts?,
            health: self.health?.map(|h| h.value),
            servers: self
                .servers
                .into_iter()
                .map(ServerDraft::into_server)
                .collect::<Option<_>>()?,
            policy: self.policy?,
            limits: self.limits?.value,
            mirror: self.mirror?.value,
            introduction: self.introduction?,
            tunnel_port: self.tunnel_port?,
            vni: self.vni?,
            syn_proxy: self.syn_proxy?.value,
            selection: self.selection.into_selection()?,
        })
    }
}

impl ServerDraft {
    fn into_server(self) -> Option<Server> {
        Some(Server {
            address: self.address?.value,
            weight: self.weight?,
            backup: self.backup?,
            max_connections: self.max_connections?,
            quic_server_id: self.quic_server_id?.map(|id| id.value),
            inner_mac: self.inner_mac?,
        })
    }
}
