//! Ports: finds the devices, configures and starts them with one queue pair for each worker, and
//! closes them. Also their statistics and links, for the management thread.

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use serde::Serialize;

use super::burst::{DpdkIo, Queues};
use super::capabilities::{Capabilities, RssFields};
use super::eal::Eal;
use super::error::{self, Error};
use super::log_stream;
use super::mempool::{FRAME_OVERHEAD, Mempool};
use super::rss::{self, Key};
use crate::datapath::counters::MAX_PORTS;
use crate::datapath::snapshot::{BUCKETS, PortId, Side};

/// A port to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its id in the house.
    pub id: PortId,
    /// The device: a PCI address or the name of a vdev.
    pub device: String,
    /// The largest IP packet in bytes.
    pub mtu: u16,
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
    capabilities: Vec<(PortId, u16, Capabilities)>,
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
struct Opened(Vec<u16>);

impl Drop for Opened {
    fn drop(&mut self) {
        for &port in &self.0 {
            // SAFETY: nobody uses a queue of the port any more: this is dropped with the last
            // owner. A port that was never started is not harmed.
            unsafe { dpdk_sys::rte_eth_dev_stop(port) };
        }
        for &port in &self.0 {
            // SAFETY: the port is stopped and ours; its number is not used after this.
            let result = unsafe { dpdk_sys::rte_eth_dev_close(port) };
            if result != 0 {
                log::debug!(target: "dpdk", "closing port {port}: {}", error::text(result));
            }
        }
    }
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
        let mut opened = Opened(Vec::new());
        let mut capabilities: Vec<(PortId, u16, Capabilities)> = Vec::new();
        for config in configs {
            let port = find(&config.device).ok_or_else(|| Error::UnknownDevice {
                device: config.device.clone(),
                existing: device_names(pool.eal()),
            })?;
            check_unique(config, port, &capabilities)?;
            opened.0.push(port);
            let caps = start_port(pool, config, port, steering)?;
            capabilities.push((config.id, port, caps));
        }
        let inner = Arc::new(PortsInner { _opened: opened, pool: pool.clone() });
        let ios = (0..steering.workers)
            .map(|worker| DpdkIo {
                queues: queues_of(worker, steering.workers, &capabilities),
                ports: Arc::clone(&inner),
            })
            .collect();
        Ok((Ports { inner, capabilities }, ios))
    }

    /// What each port can do, in the order they were given.
    pub fn capabilities(&self) -> impl Iterator<Item = (PortId, &Capabilities)> {
        self.capabilities.iter().map(|(id, _, caps)| (*id, caps))
    }

    /// A handle to read statistics and link of a port.
    pub fn handle(&self, id: PortId) -> Option<PortHandle> {
        let &(_, port, _) = self.capabilities.iter().find(|(i, _, _)| *i == id)?;
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

fn link(port: u16) -> Link {
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

fn info(device: &str, port: u16) -> Result<dpdk_sys::rte_eth_dev_info, Error> {
    let mut info = dpdk_sys::rte_eth_dev_info::default();
    // SAFETY: `info` is writable; a port that does not exist is an error.
    let result = unsafe { dpdk_sys::rte_eth_dev_info_get(port, &raw mut info) };
    done(device, "reading its capabilities", result)?;
    Ok(info)
}

/// Makes an error of a negative result; the cause is what DPDK logged, if it did.
fn done(device: &str, step: &'static str, result: i32) -> Result<(), Error> {
    if result >= 0 {
        return Ok(());
    }
    let cause = log_stream::captured().pop().unwrap_or_else(|| error::text(result));
    Err(Error::Port { device: device.to_owned(), step, cause })
}

/// A device or an id that is used twice would break the ownership of queues.
fn check_unique(
    config: &PortConfig,
    port: u16,
    started: &[(PortId, u16, Capabilities)],
) -> Result<(), Error> {
    let what = if started.iter().any(|(_, p, _)| *p == port) {
        format!("device `{}`", config.device)
    } else if usize::from(config.id.0) >= MAX_PORTS
        || started.iter().any(|(id, _, _)| *id == config.id)
    {
        format!("port id {}", config.id.0)
    } else {
        return Ok(());
    };
    Err(Error::Duplicate { what })
}

/// Configures and starts one port.
fn start_port(
    pool: &Mempool,
    config: &PortConfig,
    port: u16,
    steering: Steering<'_>,
) -> Result<Capabilities, Error> {
    log_stream::capture();
    let result = start_captured(pool, config, port, steering);
    log_stream::captured();
    result
}

fn start_captured(
    pool: &Mempool,
    config: &PortConfig,
    port: u16,
    steering: Steering<'_>,
) -> Result<Capabilities, Error> {
    let device = config.device.as_str();
    let info = info(device, port)?;
    let mut caps = Capabilities::read(device, port, &info)?;
    check_queues(&caps, steering.workers)?;
    check_mtu(&caps, config.mtu, pool)?;

    caps.tx_queues_in_use = steering.workers;
    caps.rx_queues_in_use = if spreads_over_all_queues(&caps.driver) {
        caps.max_rx_queues
    } else {
        caps.max_rx_queues.min(steering.workers)
    };
    if checksums_in_software(&caps.driver) {
        caps.rx_checksums = super::capabilities::Checksums::default();
    }
    let offloads = configure(config, port, &info, &mut caps, steering.key)?;
    set_up_queues(pool, config, port, &info, &caps, offloads)?;
    set_mtu(config, port, &caps)?;

    // SAFETY: the port is configured and its queues are set up.
    let result = unsafe { dpdk_sys::rte_eth_dev_start(port) };
    done(device, "starting", result)?;

    // Some drivers take the table only from a started port.
    program_table(port, &mut caps, steering.worker_of);
    receive_multicast(device, port);
    caps.mtu = config.mtu;
    caps.speed_mbps = link(port).speed_mbps;
    Ok(caps)
}

/// Each worker must have a transmit queue of its own. Receive queues may be fewer.
fn check_queues(caps: &Capabilities, workers: u16) -> Result<(), Error> {
    if caps.max_tx_queues >= workers {
        return Ok(());
    }
    let mend = match caps.driver.as_str() {
        "net_af_packet" => format!("add qpairs={workers} to its vdev"),
        "net_virtio_user" | "net_vhost" => format!("add queues={workers} to its vdev"),
        "net_af_xdp" => format!("add queue_count={workers} to its vdev"),
        "net_pcap" => format!("give its vdev {workers} times tx_pcap, tx_iface or rx_iface"),
        _ => "it cannot have more".to_owned(),
    };
    Err(Error::TooFewQueues {
        device: caps.device.clone(),
        driver: caps.driver.clone(),
        has: caps.max_tx_queues,
        workers,
        mend,
    })
}

fn check_mtu(caps: &Capabilities, mtu: u16, pool: &Mempool) -> Result<(), Error> {
    let device = caps.device.clone();
    if mtu < caps.min_mtu || mtu > caps.max_mtu {
        return Err(mtu_error(caps, mtu));
    }
    let data_room = pool.data_room();
    if mtu > data_room - FRAME_OVERHEAD {
        return Err(Error::MtuPool { device, mtu, data_room });
    }
    Ok(())
}

fn mtu_error(caps: &Capabilities, mtu: u16) -> Error {
    let mend = match caps.driver.as_str() {
        "net_af_packet" => {
            let frame = (u32::from(mtu) + 256).next_power_of_two();
            format!(": add framesz={frame},blocksz={} to its vdev", frame.max(4096))
        }
        _ => String::new(),
    };
    let (min, max) = (caps.min_mtu, caps.max_mtu);
    Error::Mtu { device: caps.device.clone(), mtu, min, max, mend }
}

/// Drivers whose number of queues is given by their arguments and whose peer or kernel spreads over
/// all of them, whatever is configured: a queue that is not polled would swallow packets.
fn spreads_over_all_queues(driver: &str) -> bool {
    matches!(driver, "net_af_packet" | "net_af_xdp" | "net_vhost" | "net_pcap")
}

/// Drivers that offer to verify checksums and then do it on the CPU. The kernel, at the other side
/// of these, does not send wrong ones.
fn checksums_in_software(driver: &str) -> bool {
    driver == "net_tap"
}

/// Calls `rte_eth_dev_configure` with the best RSS hash that the device takes. Returns the receive
/// and transmit offloads in use.
fn configure(
    config: &PortConfig,
    port: u16,
    info: &dpdk_sys::rte_eth_dev_info,
    caps: &mut Capabilities,
    key: &Key,
) -> Result<(u64, u64), Error> {
    let sums = caps.rx_checksums;
    let mut rx = 0;
    for (on, bit) in [
        (sums.ipv4, dpdk_sys::DPDK_ETH_RX_OFFLOAD_IPV4_CKSUM),
        (sums.tcp, dpdk_sys::DPDK_ETH_RX_OFFLOAD_TCP_CKSUM),
        (sums.udp, dpdk_sys::DPDK_ETH_RX_OFFLOAD_UDP_CKSUM),
    ] {
        rx |= if on { bit } else { 0 };
    }
    // All buffers come from one pool, are whole and have one owner: what FAST_FREE asks for.
    let tx = info.tx_offload_capa & dpdk_sys::DPDK_ETH_TX_OFFLOAD_MBUF_FAST_FREE;

    let candidates = if caps.rx_queues_in_use > 1 {
        rss::candidates(info.flow_type_rss_offloads, config.side)
    } else {
        vec![(RssFields::None, 0)]
    };
    let mut key = rss::key_of_length(key, usize::from(info.hash_key_size));
    let mut result = 0;
    for (fields, hash) in candidates {
        let mut conf = dpdk_sys::rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(config.mtu);
        conf.rxmode.offloads = rx;
        conf.txmode.offloads = tx;
        if hash != 0 {
            conf.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = hash;
            if let Some(key) = key.as_mut() {
                conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
                conf.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
            }
        }
        let (nb_rx, nb_tx) = (caps.rx_queues_in_use, caps.tx_queues_in_use);
        // SAFETY: the port is not started; `conf` and the key it points to live through the call,
        // in which DPDK copies them or hands them to the driver, which copies the key.
        result = unsafe { dpdk_sys::rte_eth_dev_configure(port, nb_rx, nb_tx, &raw const conf) };
        if result == 0 {
            caps.rss_in_use = fields;
            return Ok((rx, tx));
        }
    }
    done(&caps.device, "configuring", result.min(-1))?;
    Ok((rx, tx))
}

fn set_up_queues(
    pool: &Mempool,
    config: &PortConfig,
    port: u16,
    info: &dpdk_sys::rte_eth_dev_info,
    caps: &Capabilities,
    (rx_offloads, tx_offloads): (u64, u64),
) -> Result<(), Error> {
    let device = config.device.as_str();
    let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
    // SAFETY: two writable numbers; a port that does not exist is an error.
    let result = unsafe {
        dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &raw mut rx_desc, &raw mut tx_desc)
    };
    done(device, "choosing queue sizes", result)?;
    let node = caps.numa_node.unwrap_or(u32::MAX);
    let mut rx_conf = info.default_rxconf;
    rx_conf.offloads = rx_offloads;
    for queue in 0..caps.rx_queues_in_use {
        // SAFETY: the port is configured with this many queues and not started; the pool outlives
        // it (`PortsInner`).
        let result = unsafe {
            dpdk_sys::rte_eth_rx_queue_setup(
                port,
                queue,
                rx_desc,
                node,
                &raw const rx_conf,
                pool.as_ptr(),
            )
        };
        done(device, "setting up a receive queue", result)?;
    }
    let mut tx_conf = info.default_txconf;
    tx_conf.offloads = tx_offloads;
    for queue in 0..caps.tx_queues_in_use {
        // SAFETY: the port is configured with this many queues and not started.
        let result = unsafe {
            dpdk_sys::rte_eth_tx_queue_setup(port, queue, tx_desc, node, &raw const tx_conf)
        };
        done(device, "setting up a transmit queue", result)?;
    }
    Ok(())
}

/// Sets the MTU where the driver can; elsewhere it is only what Shunt promises to send.
fn set_mtu(config: &PortConfig, port: u16, caps: &Capabilities) -> Result<(), Error> {
    // SAFETY: takes any numbers.
    let result = unsafe { dpdk_sys::rte_eth_dev_set_mtu(port, config.mtu) };
    match -result {
        0 | libc::ENOTSUP => Ok(()),
        libc::EINVAL => Err(mtu_error(caps, config.mtu)),
        other => {
            let cause = error::text(other);
            log::warn!("{}: the device keeps its own mtu: {cause}", config.device);
            Ok(())
        }
    }
}

/// Fills the redirection table with the owners of the buckets.
fn program_table(port: u16, caps: &mut Capabilities, worker_of: &[u8; BUCKETS]) {
    if caps.rss_in_use == RssFields::None || caps.reta_size == 0 {
        return;
    }
    let mut table = rss::table(caps.reta_size, worker_of, caps.rx_queues_in_use);
    // SAFETY: `table` holds `reta_size` entries in groups of 64.
    let result =
        unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(port, table.as_mut_ptr(), caps.reta_size) };
    caps.reta_programmed = result == 0 && usize::from(caps.reta_size) % BUCKETS == 0;
    if result != 0 {
        let cause = error::text(result);
        log::info!("{}: its RSS table is fixed ({cause}); steering in software", caps.device);
    }
}

/// NDP and VRRP come by multicast.
fn receive_multicast(device: &str, port: u16) {
    // SAFETY: takes any port.
    if unsafe { dpdk_sys::rte_eth_allmulticast_enable(port) } == 0 {
        return;
    }
    // SAFETY: takes any port.
    let result = unsafe { dpdk_sys::rte_eth_promiscuous_enable(port) };
    if result != 0 {
        let cause = error::text(result);
        log::debug!(target: "dpdk", "{device}: neither all multicast nor promiscuous: {cause}");
    }
}

/// The queues of one worker: transmit queue w; receive queues w, w + workers, …
fn queues_of(
    worker: u16,
    workers: u16,
    ports: &[(PortId, u16, Capabilities)],
) -> [Option<Queues>; MAX_PORTS] {
    let mut queues = [None; MAX_PORTS];
    for (id, port, caps) in ports {
        queues[usize::from(id.0)] = Some(Queues {
            port: *port,
            tx: worker,
            rx: worker,
            rx_first: worker,
            rx_step: workers,
            rx_end: caps.rx_queues_in_use,
        });
    }
    queues
}
