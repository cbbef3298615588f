//! How much memory a configuration takes, and whether the machine has it.

use std::fs;
use std::path::Path;

use super::config::Config;
use crate::datapath::hops::MAX_HELD;
use crate::datapath::selection::persistent_clients;
use crate::io::pool::PoolOptions;
use crate::worker::HAND_OFF_PACKETS;

/// Descriptors of a receive and of a transmit queue of a port.
pub const WIRE_DESC: u16 = 1024;
/// The same of an exception tap.
pub const TAP_DESC: u16 = 256;

/// Bytes of table for one IPv4 session, index included.
const SESSION_V4: u64 = 81;
/// The same for IPv6.
const SESSION_V6: u64 = 145;
/// The same for a client that services with persistence remember, index included.
const PERSISTENT_V4: u64 = 32;
/// The same for IPv6.
const PERSISTENT_V6: u64 = 44;
/// Bytes more for each session of a node of a pair: whose it is, and when the peer was told.
const SHARED: u64 = 12;
/// Bytes of the datagrams that each worker of such a node keeps, for when the peer asks again.
const SYNC_RING: u64 = 1_024 * 1_400;
const MIB: u64 = 1024 * 1024;

/// More memory is asked for than there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node.sessions and dpdk.memory_mb ask for {needed_mib} MiB of memory and {available_mib} MiB are \
     available: lower them"
)]
pub struct TooLittleMemory {
    /// MiB asked for, without hugepages.
    pub needed_mib: u64,
    /// MiB that the kernel has to give.
    pub available_mib: u64,
}

/// Bytes that egress SNAT takes besides for each session it could have.
const MAPPING_V4: u64 = 56;
/// The same for IPv6.
const MAPPING_V6: u64 = 112;

/// Bytes of the tables of sessions and of persistent clients for IPv4 and for IPv6, mappings of
/// egress SNAT included; 0 for a family that nothing needs.
pub fn session_tables(config: &Config) -> (u64, u64) {
    let workers = config.node.workers.len();
    let clients = persistent_clients(config.node.sessions.div_ceil(workers.max(1)));
    // The buckets are a power of two.
    let clients = (clients.next_power_of_two() * workers) as u64;
    let persistent = config.services.iter().any(|s| s.selection.persistence.is_some());
    let table = |v6: bool, session: u64, client: u64, mapping: u64| {
        let served = config.services.iter().any(|s| s.listen.iter().any(|at| at.is_ipv6() == v6));
        let snat = config.snats.iter().any(|s| s.pool.iter().any(|a| a.is_ipv6() == v6));
        let session = if snat { session + mapping } else { session };
        let session = if config.ha.is_some() { session + SHARED } else { session };
        let remembered = if persistent { clients * client } else { 0 };
        if served || snat { config.node.sessions as u64 * session + remembered } else { 0 }
    };
    (
        table(false, SESSION_V4, PERSISTENT_V4, MAPPING_V4),
        table(true, SESSION_V6, PERSISTENT_V6, MAPPING_V6),
    )
}

/// `dpdk.memory_mb` does not hold the packet buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{memory_mb} MiB do not hold the {packets} packet buffers that so many ports and workers need; \
     expected {needed_mb} or more"
)]
pub struct TooFewBuffers {
    /// What the key says.
    pub memory_mb: u64,
    /// Packet buffers.
    pub packets: u32,
    /// MiB they take.
    pub needed_mb: u64,
}

/// The packet pool of the node. `preloaded` are buffers that devices take for themselves.
pub fn pool(config: &Config, preloaded: u32) -> PoolOptions {
    let workers = config.node.workers.len() as u32;
    let mut devices: Vec<&str> = config.ports.iter().map(|port| port.device.as_str()).collect();
    devices.sort_unstable();
    devices.dedup();
    let queues = devices.len() as u32 * workers;
    let taps = config.ports.iter().filter(|port| port.exception.is_some()).count() as u32;
    let tap_buffers = taps * workers * 2 * u32::from(TAP_DESC);
    let held = (MAX_HELD + HAND_OFF_PACKETS) as u32 * workers;
    let held = held + tap_buffers + preloaded;
    let mtu = config.ports.iter().map(|port| port.mtu).max().unwrap_or(1500);
    PoolOptions::for_ports(queues, WIRE_DESC, WIRE_DESC, workers, held, mtu)
}

/// Whether `dpdk.memory_mb` holds the packet buffers.
///
/// # Errors
/// When it does not: DPDK would refuse the pool at the start.
pub fn check_buffers(config: &Config) -> Result<(), TooFewBuffers> {
    let (pool, memory_mb) = (pool(config, 0), config.dpdk.memory_mb as u64);
    match pool.memory_mb() {
        needed_mb if needed_mb > memory_mb => {
            Err(TooFewBuffers { memory_mb, packets: pool.packets, needed_mb })
        }
        _ => Ok(()),
    }
}

/// Bytes of the packet buffers when they do not lie on hugepages, else 0.
pub fn buffers(config: &Config) -> u64 {
    if config.dpdk.hugepages { 0 } else { config.dpdk.memory_mb as u64 * MIB }
}

/// Bytes that workers keep of what they told the other node of the pair.
pub fn sync_rings(config: &Config) -> u64 {
    if config.ha.is_some() { config.node.workers.len() as u64 * SYNC_RING } else { 0 }
}

/// Bytes that processes may still take. `root` is `/`.
pub fn available(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Whether the machine has the memory that the configuration takes. `root` is `/`.
///
/// # Errors
/// When it has not. Without this check EAL or a worker would fail late and in other words.
pub fn check(root: &Path, config: &Config) -> Result<(), TooLittleMemory> {
    let (v4, v6) = session_tables(config);
    let needed = v4 + v6 + buffers(config) + sync_rings(config);
    match available(root) {
        Some(available) if needed > available => Err(TooLittleMemory {
            needed_mib: needed.div_ceil(MIB),
            available_mib: available / MIB,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing;

    #[test]
    fn what_does_not_fit_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut config = testing::config();
        config.dpdk.hugepages = false;
        config.dpdk.memory_mb = 256;
        config.node.sessions = 1_000_000;
        assert_eq!(check(root.path(), &config), Ok(()), "not known");
        fs::create_dir(root.path().join("proc")).unwrap();
        let have = |text: &str| fs::write(root.path().join("proc/meminfo"), text).unwrap();
        have("MemFree: 5 kB\nMemAvailable:  400000 kB\n");
        assert_eq!(check(root.path(), &config), Ok(()));
        have("MemFree: 5 kB\nMemAvailable:  300000 kB\n");
        assert_eq!(
            check(root.path(), &config).unwrap_err().to_string(),
            "node.sessions and dpdk.memory_mb ask for 334 MiB of memory and 292 MiB are available: \
             lower them"
        );
        config.dpdk.hugepages = true;
        assert_eq!(check(root.path(), &config), Ok(()));
    }

    #[test]
    fn a_node_of_a_pair_takes_more() {
        let mut config = testing::config();
        let (alone, rings) = (session_tables(&config), sync_rings(&config));
        assert_eq!((alone, rings), ((8_100_000, 0), 0));
        config.ha = Some(testing::ha());
        assert_eq!(session_tables(&config), (9_300_000, 0));
        assert_eq!(sync_rings(&config), 2 * 1_433_600);
    }
}
