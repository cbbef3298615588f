//! What a service, and each source prefix that uses it, may do at most: new connections per second,
//! packets per second, and sessions whose handshake is not complete.
//!
//! A limit is split evenly over the workers: each allows its part of the rate and of the half-open
//! sessions, and at least one at once. With one worker it is exact. The connections of one source
//! reach all workers, since its ports choose the worker, so its share adds up as well. Rates allow a
//! second's worth at once.

use std::net::IpAddr;

use super::counters::WorkerCounters;
use super::limiter::{Refill, TokenBucket};
use super::snapshot::Snapshot;
use super::source_limits::{SOURCES, SourceKey, SourceRefills, SourceTable};
use crate::session::key::KeyHasher;
use crate::session::{Entry, Extras, ServiceId, TcpState};
use crate::wire::DropReason;
use crate::wire::flow::Address;

/// The limits of a service, over all workers; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// New sessions per second.
    pub connections_per_second: u32,
    /// Packets of clients per second, those that open a session included.
    pub packets_per_second: u32,
    /// TCP sessions whose handshake is not complete.
    pub half_open: u32,
    /// The same of one source prefix.
    pub source_connections_per_second: u32,
    /// The same of one source prefix.
    pub source_packets_per_second: u32,
    /// The same of one source prefix.
    pub source_half_open: u32,
    /// Bits of an IPv4 address that make a source.
    pub source_mask: u8,
    /// Bits of an IPv6 address that make a source.
    pub source_mask_v6: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_per_second: 0,
            packets_per_second: 0,
            half_open: 0,
            source_connections_per_second: 0,
            source_packets_per_second: 0,
            source_half_open: 0,
            source_mask: 32,
            source_mask_v6: 64,
        }
    }
}

impl Limits {
    /// Whether there is a limit for a source.
    fn has_source(&self) -> bool {
        self.source_connections_per_second != 0
            || self.source_packets_per_second != 0
            || self.source_half_open != 0
    }
}

/// One worker's part in the limits of a service.
#[derive(Debug)]
struct ServiceState {
    limits: Limits,
    workers: u32,
    connections: Option<TokenBucket>,
    packets: Option<TokenBucket>,
    source: SourceRefills,
    /// Half-open sessions of this worker, counted whether there is a limit or not.
    half_open: u32,
    /// What its packets need.
    extras: Extras,
}

impl ServiceState {
    fn new(limits: Limits, workers: u32, half_open: u32) -> Self {
        let refill = |rate: u32| (rate != 0).then(|| Refill::shared(rate, rate, workers));
        ServiceState {
            limits,
            workers,
            connections: refill(limits.connections_per_second).map(TokenBucket::full),
            packets: refill(limits.packets_per_second).map(TokenBucket::full),
            source: SourceRefills {
                connections: refill(limits.source_connections_per_second),
                packets: refill(limits.source_packets_per_second),
            },
            half_open,
            extras: Extras::NONE,
        }
    }

    /// This worker's part of a number of half-open sessions.
    fn part(&self, limit: u32) -> u32 {
        limit.div_ceil(self.workers.max(1))
    }
}

/// What one worker keeps for the limits of all services.
pub(super) struct Limiters {
    hasher: KeyHasher,
    services: Vec<ServiceState>,
    sources: SourceTable,
}

impl Limiters {
    pub(super) fn new(seed: u64) -> Self {
        Limiters {
            // Not the session table's secret, though it comes from the same seed.
            hasher: KeyHasher::new(!seed),
            services: Vec::new(),
            sources: SourceTable::default(),
        }
    }

    /// Takes a new configuration. A service whose limits change begins anew with them; half-open
    /// sessions are still known, by service but no longer by source.
    pub(super) fn configure(&mut self, snapshot: &Snapshot) {
        let workers = snapshot.workers();
        let mut source_changed = false;
        for (index, service) in snapshot.services.iter().enumerate() {
            let limits = service.limits;
            match self.services.get_mut(index) {
                Some(state) if state.limits == limits && state.workers == workers => {}
                Some(state) => {
                    source_changed |= state.limits.has_source();
                    *state = ServiceState::new(limits, workers, state.half_open);
                }
                None => self.services.push(ServiceState::new(limits, workers, 0)),
            }
            let policed = limits.packets_per_second != 0 || limits.source_packets_per_second != 0;
            let choose = |on, extras| if on { extras } else { Extras::NONE };
            self.services[index].extras = choose(policed, Extras::POLICED)
                .with(choose(service.mirror.is_some(), Extras::MIRRORED))
                .with(choose(service.policy.dscp.is_some(), Extras::MARKED));
        }
        let used = snapshot.services.iter().any(|service| service.limits.has_source());
        if !used {
            // What ends from now on is not counted.
            self.sources = SourceTable::default();
        } else if source_changed || self.sources.is_unused() {
            self.sources = SourceTable::new(SOURCES);
        }
    }

    /// Whether `source` may open a session with the service now, which then counts.
    #[cold]
    #[inline(never)]
    pub(super) fn admit(
        &mut self,
        service: ServiceId,
        tcp: bool,
        source: IpAddr,
        counters: &WorkerCounters,
        now: u32,
    ) -> Result<(), DropReason> {
        let Some(state) = self.services.get_mut(usize::from(service.0)) else { return Ok(()) };
        let limits = state.limits;
        if limits == Limits::default() {
            return Ok(());
        }
        if tcp && limits.half_open != 0 && state.half_open >= state.part(limits.half_open) {
            return Err(DropReason::HalfOpenLimit);
        }
        let mut own = None;
        if limits.has_source() {
            let key = source_key(&self.hasher, &limits, service, source);
            own = self.sources.enter(key, &state.source, now);
            match &own {
                Some(own) => {
                    let most = state.part(limits.source_half_open);
                    if tcp && most != 0 && own.half_open >= most {
                        return Err(DropReason::SourceHalfOpenLimit);
                    }
                    if !own.has_connection(&state.source) {
                        return Err(DropReason::SourceConnectionRate);
                    }
                }
                None => counters.sources_untracked.add(1),
            }
        }
        // The source's token is taken only when the service has one too.
        if state.connections.as_mut().is_some_and(|bucket| !bucket.take(now)) {
            return Err(DropReason::ConnectionRate);
        }
        if let Some(own) = own {
            own.take_connection(&state.source);
        }
        Ok(())
    }

    /// What packets of the service's sessions need: to be counted, copied, marked.
    pub(super) fn extras(&self, service: ServiceId) -> Extras {
        self.services.get(usize::from(service.0)).map_or(Extras::NONE, |state| state.extras)
    }

    /// Takes notice of a session that has begun, and says what its packets need from now on.
    pub(super) fn opened<A: Address>(
        &mut self,
        entry: &Entry<A>,
        counters: &WorkerCounters,
    ) -> Extras {
        if is_half_open(entry.state) {
            self.count_half_open(entry, 1, counters);
        }
        self.extras(entry.service)
    }

    /// Takes notice of a session that goes from `state` to the state in its entry.
    pub(super) fn moved<A: Address>(
        &mut self,
        entry: &Entry<A>,
        state: TcpState,
        counters: &WorkerCounters,
    ) {
        match (is_half_open(state), is_half_open(entry.state)) {
            (true, false) => self.count_half_open(entry, -1, counters),
            (false, true) => self.count_half_open(entry, 1, counters),
            _ => {}
        }
    }

    /// Takes notice of a session that has ended.
    pub(super) fn closed<A: Address>(&mut self, entry: &Entry<A>, counters: &WorkerCounters) {
        if is_half_open(entry.state) {
            self.count_half_open(entry, -1, counters);
        }
    }

    #[cold]
    fn count_half_open<A: Address>(&mut self, entry: &Entry<A>, n: i32, counters: &WorkerCounters) {
        let Some(state) = self.services.get_mut(usize::from(entry.service.0)) else { return };
        state.half_open = state.half_open.saturating_add_signed(n);
        if state.limits.source_half_open != 0 {
            let key = source_key(&self.hasher, &state.limits, entry.service, entry.client.into());
            // Without a place it was not counted when it began either, but for a source that got
            // one meanwhile: its number must then not go below none.
            if let Some(source) = self.sources.find(key) {
                source.half_open = source.half_open.saturating_add_signed(n);
            }
        }
        counters.half_open.set(counters.half_open.get().saturating_add_signed(i64::from(n)));
    }

    /// The half-open sessions counted, by service and by source.
    pub(super) fn half_open(&self) -> (u64, u64) {
        (self.services.iter().map(|s| u64::from(s.half_open)).sum(), self.sources.half_open())
    }

    /// Why a client's packet of a session exceeds the rate of its service or source, if it does.
    #[inline(never)]
    pub(super) fn police<A: Address>(
        &mut self,
        entry: &Entry<A>,
        counters: &WorkerCounters,
        now: u32,
    ) -> Option<DropReason> {
        let state = self.services.get_mut(usize::from(entry.service.0))?;
        if state.source.packets.is_some() {
            let key = source_key(&self.hasher, &state.limits, entry.service, entry.client.into());
            match self.sources.enter(key, &state.source, now) {
                Some(source) => {
                    if !source.take_packet(&state.source) {
                        return Some(DropReason::SourcePacketRate);
                    }
                }
                None => counters.sources_untracked.add(1),
            }
        }
        let bucket = state.packets.as_mut()?;
        (!bucket.take(now)).then_some(DropReason::PacketRate)
    }
}

fn source_key(
    hasher: &KeyHasher,
    limits: &Limits,
    service: ServiceId,
    source: IpAddr,
) -> SourceKey {
    SourceKey::new(hasher, service, source, limits.source_mask, limits.source_mask_v6)
}

/// Whether the handshake is not complete.
fn is_half_open(state: TcpState) -> bool {
    matches!(state, TcpState::SynSent | TcpState::SynReceived)
}
