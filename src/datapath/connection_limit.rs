//! Limits of open connections, of a server and of a service, over all workers.
//!
//! Each worker counts its own; for a limited service, and only when a session is to be made, it
//! reads what the others have counted. Two workers that look at the same time may both find the last
//! place free: a limit is passed by one less than there are workers at the most.

use std::sync::Arc;

use super::counters::WorkerCounters;
use super::shared::Shared;
use crate::session::{ServerId, ServiceId};

/// Whether the server has as many connections as it may.
pub(super) fn server_is_full<F>(shared: &Shared<F>, server: ServerId) -> bool {
    let limit = shared.snapshot.servers[usize::from(server.0)].max_connections;
    limit != 0
        && open(shared, |counters| {
            let server = counters.server(server);
            server.created.get().wrapping_sub(server.ended.get())
        }) >= u64::from(limit)
}

/// Whether the service has.
pub(super) fn service_is_full<F>(shared: &Shared<F>, service: ServiceId) -> bool {
    let limit = shared.snapshot.services[usize::from(service.0)].selection.max_connections;
    limit != 0
        && open(shared, |counters| counters.service_sessions(service).get()) >= u64::from(limit)
}

/// The sum over all workers. A count that is read in the middle of two changes may be one below
/// zero.
fn open<F>(shared: &Shared<F>, count: impl Fn(&WorkerCounters) -> u64) -> u64 {
    let positive = |counters: &Arc<WorkerCounters>| (count(counters) as i64).max(0) as u64;
    if shared.all_counters.is_empty() {
        return positive(&shared.counters);
    }
    shared.all_counters.iter().map(positive).sum()
}
