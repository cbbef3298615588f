//! What a port can do and what is used of it: printed at start and by `shunt ports`.

use std::ffi::CStr;
use std::fmt;

use serde::Serialize;

use super::error::{self, Error};
use super::rss;

/// The packet fields that a port's RSS hash covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RssFields {
    /// No RSS: all packets arrive on one queue, or are spread by the driver in its own way.
    None,
    /// Both endpoints.
    All,
    /// Source address and port.
    SourceOnly,
    /// Destination address and port.
    DestinationOnly,
}

impl RssFields {
    const fn name(self) -> &'static str {
        match self {
            RssFields::None => "none",
            RssFields::All => "both endpoints",
            RssFields::SourceOnly => "source only",
            RssFields::DestinationOnly => "destination only",
        }
    }
}

/// Which checksums a port computes or verifies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checksums {
    /// IPv4 header.
    pub ipv4: bool,
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl fmt::Display for Checksums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.ipv4, "ipv4"), (self.tcp, "tcp"), (self.udp, "udp")];
        let names: Vec<&str> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join("+"))
    }
}

/// What a port can do. The `…_in_use` fields are zero or none until it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The device's name: a PCI address or a vdev.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Its MAC address, as text.
    #[serde(serialize_with = "mac_text")]
    pub mac: [u8; 6],
    /// The NUMA node it is attached to, if it says so.
    pub numa_node: Option<u32>,
    /// Receive queues it can have.
    pub max_rx_queues: u16,
    /// Transmit queues it can have.
    pub max_tx_queues: u16,
    /// Receive queues that are polled.
    pub rx_queues_in_use: u16,
    /// Transmit queues, one for each worker.
    pub tx_queues_in_use: u16,
    /// The RSS hashes it offers.
    pub rss_offered: Vec<RssFields>,
    /// The one that is used.
    pub rss_in_use: RssFields,
    /// Entries of its redirection table; 0: none.
    pub reta_size: u16,
    /// Whether the table holds Shunt's buckets, so that the hardware steers to the owner.
    pub reta_programmed: bool,
    /// Checksums verified on receive. Of these, those that are in use.
    pub rx_checksums: Checksums,
    /// Checksums it can compute on transmit.
    pub tx_checksums: Checksums,
    /// The smallest MTU in bytes (the IP packet).
    pub min_mtu: u16,
    /// The largest.
    pub max_mtu: u16,
    /// The one in use.
    pub mtu: u16,
    /// Speed of the link in Mbit/s, if it says so.
    pub speed_mbps: Option<u32>,
}

impl Capabilities {
    /// Reads what the driver says.
    pub(super) fn read(
        device: &str,
        port: u16,
        info: &dpdk_sys::rte_eth_dev_info,
    ) -> Result<Capabilities, Error> {
        let driver = if info.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: drivers give a static NUL-terminated name.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
        };
        let mut mac = dpdk_sys::rte_ether_addr::default();
        // SAFETY: `mac` is writable; a port that does not exist is an error.
        let result = unsafe { dpdk_sys::rte_eth_macaddr_get(port, &raw mut mac) };
        if result != 0 {
            return Err(Error::Port {
                device: device.to_owned(),
                step: "reading its MAC address",
                cause: error::text(result),
            });
        }
        // SAFETY: takes any port number.
        let node = unsafe { dpdk_sys::rte_eth_dev_socket_id(port) };
        let rss_offered = if rss::is_pretence(&driver) {
            Vec::new()
        } else {
            rss::offered(info.flow_type_rss_offloads)
        };
        Ok(Capabilities {
            device: device.to_owned(),
            driver,
            mac: mac.addr_bytes,
            numa_node: u32::try_from(node).ok(),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            rx_queues_in_use: 0,
            tx_queues_in_use: 0,
            rss_offered,
            rss_in_use: RssFields::None,
            reta_size: info.reta_size,
            reta_programmed: false,
            rx_checksums: Checksums {
                ipv4: info.rx_offload_capa & dpdk_sys::DPDK_ETH_RX_OFFLOAD_IPV4_CKSUM != 0,
                tcp: info.rx_offload_capa & dpdk_sys::DPDK_ETH_RX_OFFLOAD_TCP_CKSUM != 0,
                udp: info.rx_offload_capa & dpdk_sys::DPDK_ETH_RX_OFFLOAD_UDP_CKSUM != 0,
            },
            tx_checksums: Checksums {
                ipv4: info.tx_offload_capa & dpdk_sys::DPDK_ETH_TX_OFFLOAD_IPV4_CKSUM != 0,
                tcp: info.tx_offload_capa & dpdk_sys::DPDK_ETH_TX_OFFLOAD_TCP_CKSUM != 0,
                udp: info.tx_offload_capa & dpdk_sys::DPDK_ETH_TX_OFFLOAD_UDP_CKSUM != 0,
            },
            min_mtu: info.min_mtu,
            max_mtu: max_mtu(info),
            mtu: 0,
            speed_mbps: None,
        })
    }
}

/// The largest MTU that `rte_eth_dev_configure` accepts: both limits of the driver hold.
fn max_mtu(info: &dpdk_sys::rte_eth_dev_info) -> u16 {
    // As DPDK computes it: drivers that give no max_mtu count header and FCS into max_rx_pktlen.
    let overhead = if info.max_mtu != u16::MAX && info.max_rx_pktlen > u32::from(info.max_mtu) {
        info.max_rx_pktlen - u32::from(info.max_mtu)
    } else {
        dpdk_sys::RTE_ETHER_HDR_LEN + dpdk_sys::RTE_ETHER_CRC_LEN
    };
    let by_frame = info.max_rx_pktlen.saturating_sub(overhead);
    u16::try_from(by_frame).unwrap_or(u16::MAX).min(info.max_mtu)
}

/// `02:00:00:00:00:01`.
fn mac_string(mac: &[u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    parts.join(":")
}

fn mac_text<S: serde::Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&mac_string(mac))
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) {}: rx queues {} of {}, tx queues {} of {}, rss {}",
            self.device,
            self.driver,
            mac_string(&self.mac),
            self.rx_queues_in_use,
            self.max_rx_queues,
            self.tx_queues_in_use,
            self.max_tx_queues,
            self.rss_in_use.name(),
        )?;
        let steering = if self.reta_programmed && self.rss_in_use != RssFields::All {
            "hardware"
        } else {
            "software"
        };
        write!(
            f,
            " (steering in {steering}), checksums rx {} tx {}, mtu {}",
            self.rx_checksums, self.tx_checksums, self.mtu
        )?;
        match self.speed_mbps {
            Some(mbps) if mbps >= 1000 && mbps % 1000 == 0 => write!(f, ", {} Gbit/s", mbps / 1000),
            Some(mbps) => write!(f, ", {mbps} Mbit/s"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_json() {
        let mut caps = Capabilities {
            device: "0000:3b:00.0".into(),
            driver: "net_ice".into(),
            mac: [2, 0, 0, 0, 0, 0x1a],
            numa_node: Some(1),
            max_rx_queues: 64,
            max_tx_queues: 32,
            rx_queues_in_use: 2,
            tx_queues_in_use: 2,
            rss_offered: vec![RssFields::All, RssFields::SourceOnly],
            rss_in_use: RssFields::SourceOnly,
            reta_size: 512,
            reta_programmed: true,
            rx_checksums: Checksums { ipv4: true, tcp: true, udp: false },
            tx_checksums: Checksums::default(),
            min_mtu: 68,
            max_mtu: 9702,
            mtu: 1500,
            speed_mbps: Some(100_000),
        };
        assert_eq!(
            caps.to_string(),
            "0000:3b:00.0 (net_ice) 02:00:00:00:00:1a: rx queues 2 of 64, tx queues 2 of 32, rss \
             source only (steering in hardware), checksums rx ipv4+tcp tx none, mtu 1500, 100 Gbit/s"
        );
        let json = serde_json::to_value(&caps).unwrap();
        assert_eq!(json["mac"], "02:00:00:00:00:1a");
        assert_eq!(json["rss_in_use"], "source_only");
        caps.rss_in_use = RssFields::All;
        assert!(caps.to_string().contains("both endpoints (steering in software)"));
    }

    #[test]
    fn both_limits_of_the_mtu_hold() {
        let info = |max_rx_pktlen, max_mtu| dpdk_sys::rte_eth_dev_info {
            max_rx_pktlen,
            max_mtu,
            ..Default::default()
        };
        assert_eq!(max_mtu(&info(9728, 9702)), 9702);
        assert_eq!(max_mtu(&info(1518, u16::MAX)), 1500);
        assert_eq!(max_mtu(&info(u32::MAX, u16::MAX)), u16::MAX);
    }
}
