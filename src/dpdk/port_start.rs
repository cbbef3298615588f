//! The start of one port: checks, configuration, queues, RSS. What the device can do is used, what it
//! cannot is left to software.

use super::capabilities::{Capabilities, Checksums, RssFields};
use super::error::{self, Error};
use super::log_stream;
use super::mempool::Mempool;
use super::port::{PortConfig, Steering, link};
use super::rss::{self, Key};
use crate::datapath::snapshot::BUCKETS;
use crate::io::pool::FRAME_OVERHEAD;

/// Configures and starts one port.
pub(super) fn start_port(
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
        caps.rx_checksums = Checksums::default();
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

/// The mtu to ask the device for. Most drivers count a tag besides; for those that do not it is made
/// part of the mtu, as far as they go: where that is no further than the mtu there is room for it, or
/// the frame is counted as a reception error.
fn device_mtu(config: &PortConfig, caps: &Capabilities) -> u16 {
    const TAG: u16 = 4;
    match config.tagged {
        true => (config.mtu + TAG).min(caps.max_mtu).max(config.mtu),
        false => config.mtu,
    }
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

    let candidates = if caps.rx_queues_in_use > 1 && !rss::is_pretence(&caps.driver) {
        rss::candidates(info.flow_type_rss_offloads, config.side)
    } else {
        vec![(RssFields::None, 0)]
    };
    let mut key = rss::key_of_length(key, usize::from(info.hash_key_size));
    let mut result = 0;
    for (fields, hash) in candidates {
        let mut conf = dpdk_sys::rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(device_mtu(config, caps));
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
    let result = unsafe { dpdk_sys::rte_eth_dev_set_mtu(port, device_mtu(config, caps)) };
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

/// What the driver says of a device.
pub(super) fn info(device: &str, port: u16) -> Result<dpdk_sys::rte_eth_dev_info, Error> {
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
