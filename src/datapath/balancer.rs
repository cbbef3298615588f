//! Which real server a new session gets: one scheduler per service and family, fed with the number
//! of sessions each server has on this worker.

use super::family::Family;
use super::selection;
use super::snapshot::Snapshot;
use crate::sched::{Candidate, Scheduler, SchedulerKind};
use crate::session::{ServerId, ServiceId};

/// The servers of one service that serve this family.
#[derive(Debug)]
struct Group {
    kind: SchedulerKind,
    scheduler: Scheduler,
    servers: Vec<ServerId>,
    candidates: Vec<Candidate>,
    /// Whether one of them is excluded.
    excluded: bool,
}

/// The schedulers of one family on one worker.
#[derive(Debug)]
pub struct Balancer {
    seed: u64,
    groups: Vec<Group>,
    /// By server: its place in its group's lists.
    places: Vec<(ServiceId, u16)>,
}

impl Balancer {
    /// Without services. The seed makes workers start their rotations at different servers.
    pub fn new(seed: u64) -> Self {
        Balancer { seed, groups: Vec::new(), places: Vec::new() }
    }

    /// Takes a new configuration: weights and health come from it, the counts of open sessions and
    /// the rotation of services whose servers stay the same are kept.
    pub fn configure<A: Family>(&mut self, snapshot: &Snapshot) {
        let mut groups = Vec::with_capacity(snapshot.services.len());
        let mut places = vec![(ServiceId(0), u16::MAX); snapshot.servers.len()];
        for (index, service) in snapshot.services.iter().enumerate() {
            let id = ServiceId(index as u16);
            let mut servers = Vec::new();
            let mut candidates = Vec::new();
            for (id, on_duty) in selection::servers(snapshot, service, A::V6) {
                let server = &snapshot.servers[usize::from(id.0)];
                servers.push(id);
                candidates.push(Candidate {
                    weight: u32::from(server.weight),
                    active: self.active(id),
                    available: server.up && on_duty,
                    excluded: false,
                });
            }
            for (place, server) in servers.iter().enumerate() {
                places[usize::from(server.0)] = (id, place as u16);
            }
            let mut scheduler = match self.groups.get_mut(index) {
                Some(old) if old.kind == service.scheduler && old.servers == servers => {
                    std::mem::replace(&mut old.scheduler, Scheduler::new(old.kind, self.seed))
                }
                _ => Scheduler::new(service.scheduler, self.seed.wrapping_add(index as u64)),
            };
            scheduler.place(service.selection.placements[usize::from(A::V6)].as_deref());
            // All that picking needs is allocated here.
            scheduler.resize(servers.len());
            groups.push(Group {
                kind: service.scheduler,
                scheduler,
                servers,
                candidates,
                excluded: false,
            });
        }
        self.groups = groups;
        self.places = places;
    }

    /// The server for a new session of `service`; `None` when none is up and has weight. `hash` is
    /// that of what the service places sessions by, and only schedulers that
    /// [hash](SchedulerKind::hashes) look at it.
    pub fn pick(&mut self, service: ServiceId, hash: u64) -> Option<ServerId> {
        let group = self.groups.get_mut(usize::from(service.0))?;
        let place = group.scheduler.pick(&group.candidates, hash)?;
        Some(group.servers[place])
    }

    /// The server is not picked for its service until [`Balancer::readmit`].
    pub fn exclude(&mut self, server: ServerId) {
        if let Some(candidate) = self.candidate(server) {
            candidate.excluded = true;
            let (service, _) = self.places[usize::from(server.0)];
            self.groups[usize::from(service.0)].excluded = true;
        }
    }

    /// All servers of the service may be picked again.
    pub fn readmit(&mut self, service: ServiceId) {
        if let Some(group) = self.groups.get_mut(usize::from(service.0))
            && std::mem::take(&mut group.excluded)
        {
            group.candidates.iter_mut().for_each(|candidate| candidate.excluded = false);
        }
    }

    /// Whether the scheduler may give this server new sessions: it is up, has weight and is on duty.
    pub fn takes_sessions(&mut self, server: ServerId) -> bool {
        self.candidate(server).is_some_and(|c| c.available && c.weight != 0)
    }

    /// A session of this server was created.
    pub fn opened(&mut self, server: ServerId) {
        if let Some(candidate) = self.candidate(server) {
            candidate.active += 1;
        }
    }

    /// A session of this server has ended.
    pub fn closed(&mut self, server: ServerId) {
        if let Some(candidate) = self.candidate(server) {
            candidate.active = candidate.active.saturating_sub(1);
        }
    }

    /// How many sessions of this server are open.
    pub fn active(&self, server: ServerId) -> u32 {
        let Some(&(service, place)) = self.places.get(usize::from(server.0)) else { return 0 };
        self.groups
            .get(usize::from(service.0))
            .and_then(|group| group.candidates.get(usize::from(place)))
            .map_or(0, |candidate| candidate.active)
    }

    fn candidate(&mut self, server: ServerId) -> Option<&mut Candidate> {
        let &(service, place) = self.places.get(usize::from(server.0))?;
        self.groups.get_mut(usize::from(service.0))?.candidates.get_mut(usize::from(place))
    }
}
