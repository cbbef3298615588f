//! A port as management sees it: what the DPDK side supplies, in types that do not name DPDK.

use std::fmt;

use crate::datapath::snapshot::{Mac, PortId};

pub use crate::manage::api::types::HardwareStatistics;

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Its speed in Mbit/s; `None` when the device has none to tell.
    pub speed_mbps: Option<u32>,
}

/// A port, its fixed properties and how to ask for the changing ones.
pub struct PortView {
    /// Its id in the snapshot.
    pub id: PortId,
    /// Its name in the configuration; a tap's is that of its interface.
    pub name: String,
    /// PCI address or vdev name.
    pub device: String,
    /// DPDK's driver.
    pub driver: String,
    /// Its MAC address.
    pub mac: Mac,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// What the device can do and what of it is used, in one line for people.
    pub capabilities_text: String,
    /// The same for programs.
    pub capabilities: serde_json::Value,
    /// Reads the link's state; must not block.
    pub link: Box<dyn Fn() -> Link + Send>,
    /// Reads what the device counted; must not block.
    pub statistics: Box<dyn Fn() -> HardwareStatistics + Send>,
}

impl fmt::Debug for PortView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortView").field("id", &self.id).field("name", &self.name).finish()
    }
}
