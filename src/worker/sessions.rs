//! Listing sessions without stopping for it: a few entries per turn of the loop.

use std::net::{IpAddr, SocketAddr};

use super::control::{SessionFilter, SessionQuery, SessionRow};
use crate::datapath::frame::Frame;
use crate::datapath::pipeline::Pipeline;
use crate::datapath::snapshot::Snapshot;
use crate::session::{Entry, Table};
use crate::wire::flow::Address;

/// Added to the cursor once the IPv4 table has been walked.
const IN_V6: usize = 1 << (usize::BITS - 1);

/// Walks on by at most `budget` entries. `true` when the list is complete.
pub(super) fn list<F: Frame>(
    pipeline: &Pipeline<F>,
    query: &mut SessionQuery,
    budget: usize,
    now: u32,
) -> bool {
    if query.cursor & IN_V6 == 0 {
        let mut cursor = query.cursor;
        let done =
            walk(pipeline.snapshot(), pipeline.sessions_v4(), &mut cursor, query, budget, now);
        query.cursor = if done { IN_V6 } else { cursor };
        return false;
    }
    let mut cursor = query.cursor & !IN_V6;
    let done = walk(pipeline.snapshot(), pipeline.sessions_v6(), &mut cursor, query, budget, now);
    query.cursor = cursor | IN_V6;
    done
}

fn walk<A: Address>(
    snapshot: &Snapshot,
    table: &Table<A>,
    cursor: &mut usize,
    query: &mut SessionQuery,
    budget: usize,
    now: u32,
) -> bool {
    table.walk(cursor, budget, |id, entry| {
        if matches(&query.filter, entry) {
            query.matching += 1;
            // The rows came with their capacity; a worker does not allocate.
            if query.rows.len() < query.rows.capacity() {
                query.rows.push(row(
                    snapshot,
                    entry,
                    now.wrapping_sub(table.aside(id).created),
                    now,
                ));
            }
        }
    })
}

fn matches<A: Address>(filter: &SessionFilter, entry: &Entry<A>) -> bool {
    let client = ip(entry.client);
    filter.service.is_none_or(|service| service == entry.service)
        && (filter.servers.is_empty() || filter.servers.contains(&entry.server_id))
        && filter.client.is_none_or(|network| network.contains(&client))
}

fn row<A: Address>(snapshot: &Snapshot, entry: &Entry<A>, age_ms: u32, now: u32) -> SessionRow {
    // At the end of a tunnel it may be of the other family.
    let server = match snapshot.servers.get(usize::from(entry.server_id.0)) {
        Some(server) if entry.server == A::UNSPECIFIED => server.address,
        _ => ip(entry.server),
    };
    let idle_ms = now.wrapping_sub(entry.last_seen);
    SessionRow {
        protocol: entry.protocol,
        client: SocketAddr::new(ip(entry.client), entry.client_port),
        vip: SocketAddr::new(ip(entry.vip), entry.vip_port),
        local: SocketAddr::new(ip(entry.local), entry.local_port),
        server: SocketAddr::new(server, entry.server_port),
        state: entry.state,
        mode: entry.mode,
        service: entry.service,
        server_id: entry.server_id,
        age_ms,
        idle_ms,
        expires_ms: entry.timeout.saturating_sub(idle_ms),
    }
}

/// The address as it is on the wire: sessions between families have IPv4 addresses mapped.
fn ip<A: Address>(address: A) -> IpAddr {
    address.into().to_canonical()
}
