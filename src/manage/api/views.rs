//! What [`State`] knows, in the types of the control socket.

use std::net::SocketAddr;

use super::local_ports;
use super::names::{behavior_name, mac_text, mode_name, scheduler_name, state_name};
use super::types::{
    Drop, DropCount, Drops, Filter, Filters, Health, LocalPorts, Neighbor, Neighbors, Port, Ports,
    Server, Servers, Service, Services, Session, Sessions, Snat, Snats, Status, SynProxy, Traffic,
    Worker, WorkerBalance, Workers,
};
use crate::datapath::counters::{Cell, WorkerCounters};
use crate::datapath::snapshot::{self, PortRole, Side};
use crate::manage::neighbors;
use crate::manage::servers::takes_sessions;
use crate::manage::session_list::SessionList;
use crate::manage::state::{PORT_RATES, SERVER_RATES, State, WORKER_RATES};
use crate::session::{Mode, ServerId, ServiceId};
use crate::wire::DropReason;

/// How many drop reasons the status names.
const WORST: usize = 3;

impl State {
    /// `GET /v1/status`
    pub(super) fn status(&self) -> Status {
        let workers = 0..self.workers.len();
        let worker_rate = |at: usize| {
            workers.clone().map(|w| self.rates.workers.get(w * WORKER_RATES + at)).sum()
        };
        let port_bps = |at: usize| -> u64 {
            let ports = 0..self.ports.len();
            ports.map(|p| self.rates.ports.get(p * PORT_RATES + at) * 8).sum()
        };
        let servers = self.servers().servers;
        let services = self.services().services;
        let proxies =
            services.iter().filter(|s| s.syn_proxy.as_ref().is_some_and(|p| p.workers_on > 0));
        let syn_proxy_on = proxies.map(|s| s.name.clone()).collect();
        let mut drops: Vec<DropCount> = self.drops().drops.into_iter().map(|d| d.count).collect();
        let dropped_pps = drops.iter().map(|d| d.pps).sum();
        drops.retain(|d| d.packets > 0);
        drops.sort_by_key(|d| std::cmp::Reverse(d.packets));
        drops.truncate(WORST);
        Status {
            version: env!("SHUNT_VERSION").into(),
            node: self.config.node.name.clone(),
            node_id: self.config.node.id,
            uptime_ms: self.now_ms,
            generation: self.snapshot.generation,
            sessions_v4: self.sum(|c| &c.sessions_v4),
            sessions_v6: self.sum(|c| &c.sessions_v6),
            sessions_capacity: self.config.node.sessions as u64,
            sessions_per_second: servers.iter().map(|s| s.traffic.sessions_per_second).sum::<u64>()
                + self.snat().snats.iter().map(|s| s.traffic.sessions_per_second).sum::<u64>(),
            rx_pps: worker_rate(0),
            rx_bps: port_bps(1),
            tx_pps: worker_rate(1),
            tx_bps: port_bps(3),
            services_up: services.iter().filter(|s| s.up).count() as u64,
            services_down: services.iter().filter(|s| !s.up).count() as u64,
            servers_up: servers.iter().filter(|s| s.up).count() as u64,
            servers_down: servers.iter().filter(|s| !s.up && !s.is_unknown()).count() as u64,
            workers: self
                .workers
                .iter()
                .enumerate()
                .map(|(worker, w)| WorkerBalance {
                    worker,
                    core: w.core(),
                    unaccounted_packets: w.unaccounted(),
                })
                .collect(),
            dropped_packets: self.workers.iter().map(|w| w.counters().dropped()).sum(),
            dropped_pps,
            worst_drops: drops,
            syn_proxy_on,
            servers_unknown: servers.iter().filter(|s| s.is_unknown()).count() as u64,
            pair: self.pair_summary(),
        }
    }

    /// `GET /v1/services`
    pub(super) fn services(&self) -> Services {
        let service = |(id, s): (usize, &crate::datapath::snapshot::Service)| {
            let id = ServiceId(id as u16);
            let mut traffic = Traffic::default();
            for &id in &s.servers {
                traffic.add(&self.traffic(id));
            }
            let servers_up =
                s.servers.iter().filter(|&&id| takes_sessions(&self.snapshot, id)).count() as u64;
            Service {
                name: s.name.clone(),
                protocol: s.protocol.name().into(),
                listen: s.listen.clone(),
                mode: mode_name(s.mode).into(),
                scheduler: scheduler_name(s.scheduler).into(),
                hash_on: s.scheduler.hashes().then(|| s.selection.hash_on.name().into()),
                max_connections: s.selection.max_connections,
                persistence_seconds: s.selection.persistence.map_or(0, |p| p.life_ms / 1_000),
                up: servers_up > 0,
                servers_up,
                servers_total: s.servers.len() as u64,
                traffic,
                syn_proxy: self.syn_proxy(id, s.syn_proxy),
            }
        };
        // The rules of egress SNAT have an entry there as well.
        let services = self.snapshot.services.iter().enumerate();
        let services = services.filter(|(_, s)| s.mode != Mode::Snat);
        Services { services: services.map(service).collect() }
    }

    fn syn_proxy(&self, id: ServiceId, policy: snapshot::SynProxy) -> Option<SynProxy> {
        let policy = match policy {
            snapshot::SynProxy::Off => return None,
            snapshot::SynProxy::On => "on",
            snapshot::SynProxy::Auto { .. } => "auto",
        };
        Some(SynProxy {
            policy: policy.into(),
            workers_on: self.sum(|c| &c.service(id).syn_proxy_on),
            cookies_sent: self.sum(|c| &c.service(id).syn_cookies_sent),
            cookies_accepted: self.sum(|c| &c.service(id).syn_cookies_accepted),
            cookies_rejected: self.sum(|c| &c.service(id).syn_cookies_rejected),
            connections: self.sum(|c| &c.service(id).syn_proxied),
        })
    }

    /// `GET /v1/servers`
    pub(super) fn servers(&self) -> Servers {
        let ids = self.snapshot.services.iter().flat_map(|s| s.servers.iter().copied());
        let local_ports = local_ports::usage(&self.snapshot, |id| self.active(id));
        Servers { servers: ids.map(|id| self.server(id, local_ports[usize::from(id.0)])).collect() }
    }

    fn server(&self, id: ServerId, local_ports: Option<LocalPorts>) -> Server {
        let server = &self.snapshot.servers[usize::from(id.0)];
        let health = self.checks.of(id).map(|checked| Health {
            check: checked.kind.into(),
            checks: checked.checks,
            changed_ago_ms: self.now_ms.saturating_sub(checked.changed_ms),
            latency_ms: checked.latency_ms,
            error: checked.error.clone(),
        });
        Server {
            service: self.service_name(server.service),
            address: SocketAddr::new(server.address, server.port),
            port: self.port_name(server.route.port),
            via: server.route.via,
            weight: server.weight,
            backup: server.backup,
            max_connections: server.max_connections,
            up: server.up,
            health,
            local_ports,
            traffic: self.traffic(id),
        }
    }

    /// A merged list as `GET /v1/sessions`
    pub(super) fn sessions(&self, list: SessionList) -> Sessions {
        let sessions: Vec<Session> = list
            .rows
            .into_iter()
            .map(|(worker, row)| Session {
                worker,
                service: self.service_name(row.service),
                protocol: row.protocol.name().into(),
                client: row.client,
                vip: row.vip,
                local: row.local,
                server: row.server,
                state: state_name(row.state).into(),
                mode: mode_name(row.mode).into(),
                age_ms: row.age_ms.into(),
                idle_ms: row.idle_ms.into(),
                expires_ms: row.expires_ms.into(),
            })
            .collect();
        Sessions {
            matching: list.matching,
            truncated: list.matching > sessions.len() as u64,
            silent_workers: list.silent,
            sessions,
        }
    }

    /// `GET /v1/snat`
    pub(super) fn snat(&self) -> Snats {
        let rules = &self.snapshot.snat;
        let snat = |(rule, number): (&crate::datapath::snapshot::Snat, u16)| {
            let mut traffic = self.traffic(rules.server_id(number, true));
            traffic.add(&self.traffic(rules.server_id(number, false)).reversed());
            // The two nodes of a pair share the ports.
            let node_id = u16::from(self.snapshot.node_id);
            let ports = rule.ports.clone().filter(|port| port & 1 == node_id).count();
            Snat {
                name: rule.name.clone(),
                mapping: behavior_name(rule.policy.mapping).into(),
                filtering: behavior_name(rule.policy.filtering).into(),
                addresses: rule.pool.len() as u64,
                ports: (rule.pool.len() * ports) as u64,
                mappings_v4: self.sum(|c| &c.snat(number).mappings_v4),
                mappings_v6: self.sum(|c| &c.snat(number).mappings_v6),
                traffic,
                exhausted_packets: self.sum(|c| &c.snat(number).exhausted),
                limited_packets: self.sum(|c| &c.snat(number).limited),
                refused_packets: self.sum(|c| &c.snat(number).refused),
            }
        };
        Snats { snats: rules.list().iter().zip(0..).map(snat).collect() }
    }

    /// `GET /v1/ports`
    pub(super) fn ports(&self) -> Ports {
        let port = |(index, view): (usize, &crate::manage::PortView)| {
            let rate = |at: usize| self.rates.ports.get(index * PORT_RATES + at);
            let link = (view.link)();
            let port = self.snapshot.ports.get(usize::from(view.id.0));
            let role = port.map(|p| p.role);
            Port {
                vlan: port.map_or(0, |p| p.vlan),
                name: view.name.clone(),
                device: view.device.clone(),
                driver: view.driver.clone(),
                role: match role {
                    Some(PortRole::Wire { side: Side::Client, .. }) => "client",
                    Some(PortRole::Wire { side: Side::Server, .. }) => "server",
                    Some(PortRole::Wire { side: Side::Both, .. }) => "both",
                    Some(PortRole::Exception { .. }) => "exception",
                    None => "unused",
                }
                .into(),
                mac: mac_text(view.mac),
                mtu_bytes: view.mtu,
                link_up: link.up,
                speed_mbps: link.speed_mbps,
                capabilities_text: view.capabilities_text.clone(),
                capabilities: view.capabilities.clone(),
                rx_packets: self.sum(|c| &c.port(view.id).rx_packets),
                rx_bytes: self.sum(|c| &c.port(view.id).rx_bytes),
                rx_pps: rate(0),
                rx_bps: rate(1) * 8,
                tx_packets: self.sum(|c| &c.port(view.id).tx_packets),
                tx_bytes: self.sum(|c| &c.port(view.id).tx_bytes),
                tx_pps: rate(2),
                tx_bps: rate(3) * 8,
                tx_refused_packets: self.sum(|c| &c.port(view.id).tx_refused),
                hardware: (view.statistics)(),
            }
        };
        Ports { ports: self.ports.iter().enumerate().map(port).collect() }
    }

    /// `GET /v1/workers`
    pub(super) fn workers(&self) -> Workers {
        let worker = |(worker, w): (usize, &crate::manage::workers::Worker)| {
            let c = w.counters();
            let rate = |at: usize| self.rates.workers.get(worker * WORKER_RATES + at);
            Worker {
                worker,
                core: w.core(),
                rx_packets: c.rx.get(),
                rx_pps: rate(0),
                handed_in_packets: c.handed_in.get(),
                tx_packets: c.tx.get(),
                tx_pps: rate(1),
                handed_off_packets: c.handed_off.get(),
                punted_packets: c.punted.get(),
                consumed_packets: c.consumed.get(),
                held_packets: c.held.get(),
                dropped_packets: c.dropped(),
                originated_packets: c.originated.get(),
                unaccounted_packets: w.unaccounted(),
                sessions_v4: c.sessions_v4.get(),
                sessions_v6: c.sessions_v6.get(),
                sessions_expired: c.expired.get(),
                persistent_clients: c.persistent_clients.get(),
                persistence_full: c.persistence_full.get(),
                busy_percent: match rate(2) {
                    0 => 0.0,
                    polls => rate(3) as f64 * 100.0 / polls as f64,
                },
                icmp_errors: c.icmp_errors.get(),
                fragments: c.fragments.get(),
                fragments_held: c.fragments_held.get(),
                events_lost: c.events_lost.get(),
                toa_no_room: c.toa_no_room.get(),
                commands_waiting: w.waiting(),
                resets_sent: c.resets.get(),
                sessions_ended_with_server: c.ended_with_server.get(),
                sessions_half_open: c.half_open.get(),
                sources_untracked: c.sources_untracked.get(),
                mirrored_packets: c.mirrored.get(),
                mirror_missed_packets: c.mirror_missed.get(),
            }
        };
        Workers { workers: self.workers.iter().enumerate().map(worker).collect() }
    }

    /// `GET /v1/neighbors`
    pub(super) fn neighbors(&self) -> Neighbors {
        let neighbor = |n: neighbors::Neighbor| Neighbor {
            port: self.port_name(n.port),
            address: n.address,
            mac: n.mac.map(mac_text),
            state: n.state.name().into(),
            heard_ago_ms: n.heard_ago_ms,
        };
        Neighbors {
            neighbors: self.neighbors.list(self.now_ms).into_iter().map(neighbor).collect(),
            capacity: neighbors::CAPACITY,
            refused: self.neighbors.refused(),
        }
    }

    /// `GET /v1/drops`
    pub(super) fn drops(&self) -> Drops {
        let drop = |(index, &reason): (usize, &DropReason)| {
            let by_worker: Vec<u64> =
                self.workers.iter().map(|w| w.counters().drops_of(reason).get()).collect();
            Drop {
                count: DropCount {
                    reason: reason.name().into(),
                    help: reason.help().into(),
                    packets: by_worker.iter().sum(),
                    pps: self.rates.drops.get(index),
                },
                packets_by_worker: by_worker,
            }
        };
        let drops: Vec<Drop> = DropReason::ALL.iter().enumerate().map(drop).collect();
        Drops { dropped_packets: drops.iter().map(|d| d.count.packets).sum(), drops }
    }

    /// `GET /v1/filters`
    pub(super) fn filters(&self) -> Filters {
        let filter = |(index, rule): (usize, &crate::datapath::filter::Rule)| Filter {
            name: rule.name.clone(),
            action: rule.action.name().into(),
            packets: self.sum(|c| &c.filter(index).packets),
            bytes: self.sum(|c| &c.filter(index).bytes),
        };
        let rules = self.snapshot.guard.filters.rules();
        Filters { filters: rules.iter().enumerate().map(filter).collect() }
    }

    fn traffic(&self, id: ServerId) -> Traffic {
        let rate = |at: usize| self.rates.servers.get(usize::from(id.0) * SERVER_RATES + at);
        Traffic {
            sessions_active: self.active(id),
            sessions_created: self.sum(|c| &c.server(id).created),
            sessions_per_second: rate(0),
            forward_packets: self.sum(|c| &c.server(id).forward_packets),
            forward_bytes: self.sum(|c| &c.server(id).forward_bytes),
            forward_pps: rate(1),
            forward_bps: rate(2) * 8,
            reply_packets: self.sum(|c| &c.server(id).reply_packets),
            reply_bytes: self.sum(|c| &c.server(id).reply_bytes),
            reply_pps: rate(3),
            reply_bps: rate(4) * 8,
        }
    }

    /// The open sessions of a server.
    fn active(&self, id: ServerId) -> u64 {
        // A session that begins between the two reads must not make it negative.
        self.sum(|c| &c.server(id).created).saturating_sub(self.sum(|c| &c.server(id).ended))
    }

    /// The sum of a counter over all workers.
    pub(super) fn sum<'a>(&'a self, cell: impl Fn(&'a WorkerCounters) -> &'a Cell) -> u64 {
        self.workers.iter().map(|w| cell(w.counters()).get()).sum()
    }

    fn service_name(&self, id: ServiceId) -> String {
        self.snapshot.services.get(usize::from(id.0)).map_or_else(String::new, |s| s.name.clone())
    }

    fn port_name(&self, id: crate::datapath::snapshot::PortId) -> String {
        self.snapshot.ports.get(usize::from(id.0)).map_or_else(String::new, |p| p.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::manage::health::CheckResult;
    use crate::manage::testing;

    #[test]
    fn a_server_is_unknown_until_its_first_check() {
        let (handles, _workers) = testing::workers(2);
        let mut snapshot = testing::snapshot();
        // Two of the three are checked, and so they begin down.
        for server in &mut snapshot.servers[..2] {
            server.up = false;
        }
        let (mut state, _) =
            State::new(testing::config(), Arc::new(snapshot), handles, testing::port_views());
        let servers = |state: &State| {
            let status = state.status();
            (status.servers_up, status.servers_down, status.servers_unknown)
        };
        assert_eq!(servers(&state), (1, 0, 2));
        state.checked(&CheckResult { server: ServerId(0), outcome: Err("refused".into()) });
        assert_eq!(servers(&state), (1, 1, 1));
    }
}
