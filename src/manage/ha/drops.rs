//! What is taken off the priority of this node: tracked ports without a link, tracked services without
//! a server.

use std::collections::BTreeMap;

use crate::datapath::snapshot::{PortId, Snapshot};
use crate::session::ServiceId;

use super::PairConfig;

/// One thing that is tracked.
#[derive(Debug)]
struct Tracked {
    name: String,
    up: bool,
}

/// All that is tracked. Everything is up until it is said not to be.
#[derive(Debug)]
pub(super) struct Drops {
    ports: BTreeMap<PortId, Tracked>,
    port_drop: u8,
    services: BTreeMap<ServiceId, Tracked>,
    service_drop: u8,
}

impl Drops {
    pub(super) fn new(config: &PairConfig, snapshot: &Snapshot) -> Self {
        let up = |name: &str| Tracked { name: name.to_owned(), up: true };
        let ports = config.track_ports.iter();
        let ports = ports.filter_map(|id| Some((*id, snapshot.ports.get(usize::from(id.0))?)));
        let services = config.track_services.iter();
        let services =
            services.filter_map(|id| Some((*id, snapshot.services.get(usize::from(id.0))?)));
        Drops {
            ports: ports.map(|(id, port)| (id, up(&port.name))).collect(),
            port_drop: config.port_drop,
            services: services.map(|(id, service)| (id, up(&service.name))).collect(),
            service_drop: config.service_drop,
        }
    }

    /// Takes the state of a port's link in; `true` when it is tracked and has changed.
    pub(super) fn set_link(&mut self, port: PortId, up: bool) -> bool {
        set(self.ports.get_mut(&port), up)
    }

    /// The same with a service's health.
    pub(super) fn set_service(&mut self, service: ServiceId, up: bool) -> bool {
        set(self.services.get_mut(&service), up)
    }

    /// The services that are tracked.
    pub(super) fn services(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.services.keys().copied()
    }

    /// What is left of a priority.
    pub(super) fn effective(&self, priority: u8) -> u8 {
        let down = |count: usize, each: u8| count * usize::from(each);
        let ports = self.ports.values().filter(|t| !t.up).count();
        let services = self.services.values().filter(|t| !t.up).count();
        let drop = down(ports, self.port_drop) + down(services, self.service_drop);
        usize::from(priority).saturating_sub(drop) as u8
    }

    /// Why, in words.
    pub(super) fn reasons(&self) -> Vec<String> {
        let ports = self.ports.values().filter(|t| !t.up);
        let ports = ports.map(|t| format!("port {} has no link: -{}", t.name, self.port_drop));
        let services = self.services.values().filter(|t| !t.up);
        let services = services
            .map(|t| format!("service {} has no server up: -{}", t.name, self.service_drop));
        ports.chain(services).collect()
    }
}

fn set(tracked: Option<&mut Tracked>, up: bool) -> bool {
    tracked.is_some_and(|t| std::mem::replace(&mut t.up, up) != up)
}
