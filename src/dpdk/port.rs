//! Ports: finds the devices, starts them with one queue pair for each worker, and closes them. Also
//! their statistics and links, for the management thread.

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use serde::Serialize;

use super::burst::{DpdkIo, Queues};
use super::capabilities::Capabilities;
use super::eal::Eal;
use super::error::{self, Error};
use super::mempool::Mempool;
use super::port_start::{info, start_port};
use crate::datapath::counters::MAX_PORTS;
use crate::datapath::snapshot::{BUCKETS, Mac, PortId, Side};

/// A port to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its id in the house; frames of the device come in with it.
    pub id: PortId,
    /// Further ids that transmit by the device and receive nothing: its VLANs.
    pub aliases: Vec<PortId>,
    /// The device: a PCI address or the name of a vdev.
    pub device: String,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// Whether frames carry a VLAN tag besides.
    pub tagged: bool,
    /// Where clients and servers are: chooses the hash for hardware steering.
    pub side: Side,
    /// Receive descriptors of a queue; the driver's limits are kept.
    pub rx_desc: u16,
    /// Transmit descriptors of a queue; the driver's limits are kept.
    pub tx_desc: u16,
}

/// How packets are steered to workers; the same for all ports.
#[derive(Clone, Copy, Debug)]
pub struct Steering<'a> {
    /// How many workers there are.
    pub workers: u16,
    /// The owner of each bucket.
    pub worker_of: &'a [u8; BUCKETS],
    /// The key of the Toeplitz hash, the one that software steering uses.
    pub key: &'a [u8; 40],
}

/// The started ports. They stop and close when this, all handles and all workers' queues are gone.
#[derive(Debug)]
pub struct Ports {
    inner: Arc<PortsInner>,
    /// In the order of their ids.
    started: Vec<Started>,
}

/// A port that was started, or an alias of one.
#[derive(Debug)]
struct Started {
    id: PortId,
    /// DPDK's number of the device.
    port: u16,
    capabilities: Capabilities,
    /// Whether frames of the device come in with this id.
    receives: bool,
}

/// What must live as long as a queue is used.
#[derive(Debug)]
pub(super) struct PortsInner {
    /// Before the pool: closing a port gives its buffers back. Held for its `Drop`.
    _opened: Opened,
    pub(super) pool: Mempool,
}

/// DPDK's numbers of the ports that were opened.
#[derive(Debug)]
struct Opened {
    ports: Vec<u16>,
    eal: Eal,
}

impl Drop for Opened {
    fn drop(&mut self) {
        for &port in &self.ports {
            // SAFETY: nobody uses a queue of the port any more: this is dropped with the last
            // owner. A port that was never started is not harmed.
            unsafe { dpdk_sys::rte_eth_dev_stop(port) };
        }
        for &port in &self.ports {
            if closing_is_a_race(port) {
                self.eal.keep_memory();
                continue;
            }
            // SAFETY: the port is stopped and ours; its number is not used after this.
            let result = unsafe { dpdk_sys::rte_eth_dev_close(port) };
            if result != 0 {
                log::debug!(target: "dpdk", "closing port {port}: {}", error::text(result));
            }
        }
    }
}

/// Whether closing the port may abort the process. virtio_user closes its listening socket while
/// EAL's interrupt thread still watches it, which that thread takes for a reason to panic (seen
/// with DPDK 22.11, `server=1`, after the peer went). The end of the process closes it as well.
fn closing_is_a_race(port: u16) -> bool {
    let mut info = dpdk_sys::rte_eth_dev_info::default();
    // SAFETY: `info` is writable; a port that does not exist is an error.
    let result = unsafe { dpdk_sys::rte_eth_dev_info_get(port, &raw mut info) };
    if result != 0 || info.driver_name.is_null() {
        return false;
    }
    // SAFETY: drivers give a static NUL-terminated name.
    unsafe { CStr::from_ptr(info.driver_name) == c"net_virtio_user" }
}

impl Ports {
    /// Starts ports with their buffers in `pool`. Returns them and the queues of each worker, in
    /// the order of the workers.
    ///
    /// # Errors
    /// See [`Error`]; the ports that were started are closed again and cannot be reopened in this
    /// process.
    pub fn start(
        pool: &Mempool,
        configs: &[PortConfig],
        steering: Steering<'_>,
    ) -> Result<(Ports, Vec<DpdkIo>), Error> {
        let mut opened = Opened { ports: Vec::new(), eal: pool.eal().clone() };
        let mut started: Vec<Started> = Vec::new();
        for config in configs {
            let port = find(&config.device).ok_or_else(|| Error::UnknownDevice {
                device: config.device.clone(),
                existing: device_names(pool.eal()),
            })?;
            check_unique(config, port, &started)?;
            opened.ports.push(port);
            let capabilities = start_port(pool, config, port, steering)?;
            for &id in &config.aliases {
                let capabilities = capabilities.clone();
                started.push(Started { id, port, capabilities, receives: false });
            }
            started.push(Started { id: config.id, port, capabilities, receives: true });
        }
        started.sort_by_key(|port| port.id);
        let inner = Arc::new(PortsInner { _opened: opened, pool: pool.clone() });
        let ios = (0..steering.workers)
            .map(|worker| DpdkIo {
                queues: queues_of(worker, steering.workers, &started),
                ports: Arc::clone(&inner),
            })
            .collect();
        Ok((Ports { inner, started }, ios))
    }

    /// What each port can do, in the order of their ids.
    pub fn capabilities(&self) -> impl Iterator<Item = (PortId, &Capabilities)> {
        self.started.iter().map(|port| (port.id, &port.capabilities))
    }

    /// A handle to read statistics and link of a port.
    pub fn handle(&self, id: PortId) -> Option<PortHandle> {
        let port = self.started.iter().find(|port| port.id == id)?.port;
        Some(PortHandle { port, _open: Arc::clone(&self.inner) })
    }
}

/// Reads a port's statistics and link.
#[derive(Clone, Debug)]
pub struct PortHandle {
    port: u16,
    _open: Arc<PortsInner>,
}

/// What the device counted since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Frames lost since the receive queue was full: the worker was too slow.
    pub rx_missed: u64,
    /// Frames received with errors.
    pub rx_errors: u64,
    /// Frames lost since no packet buffer was free.
    pub rx_no_buffer: u64,
    /// Frames that were not transmitted because of errors.
    pub tx_errors: u64,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Mbit/s, if the device knows.
    pub speed_mbps: Option<u32>,
    /// Whether both directions work at once.
    pub full_duplex: bool,
}

impl PortHandle {
    /// Lets frames to these MAC addresses in besides those to the device's own: by its filters, or where
    /// it has none (left) by taking all frames.
    pub fn accept(&self, macs: &[Mac]) {
        for &addr_bytes in macs {
            let mut address = dpdk_sys::rte_ether_addr { addr_bytes };
            // SAFETY: `address` is read during the call only; the port is open while we are.
            let result =
                unsafe { dpdk_sys::rte_eth_dev_mac_addr_add(self.port, &raw mut address, 0) };
            if result != 0 {
                // SAFETY: takes any port.
                let result = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.port) };
                if result != 0 {
                    let cause = error::text(result);
                    log::warn!(
                        target: "dpdk",
                        "port {}: neither a further MAC address nor promiscuous: {cause}; mend: \
                         virtual_mac = false",
                        self.port
                    );
                }
                return;
            }
        }
    }

    /// The device's counters; zero when it has none.
    pub fn stats(&self) -> PortStats {
        let mut raw = dpdk_sys::rte_eth_stats::default();
        // SAFETY: the port is open (`_open`) and `raw` is writable.
        if unsafe { dpdk_sys::rte_eth_stats_get(self.port, &raw mut raw) } != 0 {
            return PortStats::default();
        }
        PortStats {
            rx_packets: raw.ipackets,
            rx_bytes: raw.ibytes,
            tx_packets: raw.opackets,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            rx_no_buffer: raw.rx_nombuf,
            tx_errors: raw.oerrors,
        }
    }

    /// The link; down when the device does not say.
    pub fn link(&self) -> Link {
        link(self.port)
    }
}

/// The names of all devices.
pub fn device_names(_eal: &Eal) -> Vec<String> {
    let mut names = Vec::new();
    let mut next = 0;
    loop {
        // SAFETY: takes any number, returns RTE_MAX_ETHPORTS at the end.
        let found = unsafe { dpdk_sys::rte_eth_find_next(next) };
        if u32::from(found) >= dpdk_sys::RTE_MAX_ETHPORTS {
            return names;
        }
        let mut name = [0 as c_char; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize];
        // SAFETY: `name` has the size that DPDK asks for.
        let result = unsafe { dpdk_sys::rte_eth_dev_get_name_by_port(found, name.as_mut_ptr()) };
        if result == 0 {
            // SAFETY: DPDK wrote a NUL-terminated string.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) };
            names.push(name.to_string_lossy().into_owned());
        }
        next = found + 1;
    }
}

/// What a device can do, without starting it.
///
/// # Errors
/// [`Error::UnknownDevice`], or [`Error::Port`] when its driver does not say.
pub fn probe(eal: &Eal, device: &str) -> Result<Capabilities, Error> {
    let port = find(device).ok_or_else(|| Error::UnknownDevice {
        device: device.to_owned(),
        existing: device_names(eal),
    })?;
    Capabilities::read(device, port, &info(device, port)?)
}

/// DPDK's number of a device.
pub(super) fn find(device: &str) -> Option<u16> {
    let name = CString::new(device).ok()?;
    let mut port = 0;
    // SAFETY: a C string and a writable number.
    let result = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) };
    (result == 0).then_some(port)
}

pub(super) fn link(port: u16) -> Link {
    const UNKNOWN: u32 = u32::MAX;
    let mut raw = dpdk_sys::rte_eth_link::default();
    // SAFETY: `raw` is writable; a port that does not exist is an error.
    if unsafe { dpdk_sys::rte_eth_link_get_nowait(port, &raw mut raw) } != 0 {
        return Link::default();
    }
    Link {
        up: u32::from(raw.link_status()) == dpdk_sys::RTE_ETH_LINK_UP,
        speed_mbps: (raw.link_speed != 0 && raw.link_speed != UNKNOWN).then_some(raw.link_speed),
        full_duplex: u32::from(raw.link_duplex()) == dpdk_sys::RTE_ETH_LINK_FULL_DUPLEX,
    }
}

/// A device or an id that is used twice would break the ownership of queues.
fn check_unique(config: &PortConfig, port: u16, started: &[Started]) -> Result<(), Error> {
    if started.iter().any(|s| s.port == port) {
        return Err(Error::Duplicate { what: format!("device `{}`", config.device) });
    }
    let mut ids: Vec<PortId> = started.iter().map(|s| s.id).collect();
    for &id in config.aliases.iter().chain([&config.id]) {
        if usize::from(id.0) >= MAX_PORTS || ids.contains(&id) {
            return Err(Error::Duplicate { what: format!("port id {}", id.0) });
        }
        ids.push(id);
    }
    Ok(())
}

/// The queues of one worker: transmit queue w; receive queues w, w + workers, …
fn queues_of(worker: u16, workers: u16, ports: &[Started]) -> [Option<Queues>; MAX_PORTS] {
    let mut queues = [None; MAX_PORTS];
    for Started { id, port, capabilities, receives } in ports {
        queues[usize::from(id.0)] = Some(Queues {
            port: *port,
            tx: worker,
            rx: worker,
            rx_first: worker,
            rx_step: workers,
            rx_end: if *receives { capabilities.rx_queues_in_use } else { 0 },
        });
    }
    queues
}
