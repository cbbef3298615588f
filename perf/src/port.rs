//! The one port of a generator: any DPDK device, polled by the thread that opens it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use shunt::datapath::snapshot::{BUCKETS, PortId, Side};
use shunt::dpdk::{DpdkIo, Eal, EalOptions, Mempool, PoolOptions, PortConfig, Ports, Steering};
use shunt::wire::toeplitz;
use shunt::worker::affinity;

/// The port.
pub const PORT: PortId = PortId(0);

/// Which device, and where it is polled.
#[derive(Args, Debug)]
pub struct Device {
    /// A vdev to make, as DPDK takes it: net_vhost0,iface=/tmp/a.sock
    #[arg(long, value_name = "VDEV")]
    vdev: Vec<String>,
    /// A PCI device to use.
    #[arg(long, value_name = "PCI")]
    allow: Vec<String>,
    /// The device to send on: one of the above.
    #[arg(long)]
    device: String,
    /// The core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Memory for packet buffers, in MiB.
    #[arg(long, default_value_t = 64)]
    memory_mb: u32,
    /// Do without huge pages.
    #[arg(long)]
    no_huge: bool,
}

impl Device {
    /// Starts the device, puts the calling thread on its core, waits for the link until `deadline`
    /// and runs `work` with it.
    pub fn with<T>(
        &self,
        deadline: Instant,
        work: impl FnOnce(DpdkIo) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let eal = Eal::init(&EalOptions {
            memory_mb: self.memory_mb,
            hugepages: !self.no_huge,
            allow: self.allow.clone(),
            vdevs: self.vdev.clone(),
            extra_args: Vec::new(),
        })?;
        // A small pool stays in the cache.
        let pool = Mempool::create(&eal, PoolOptions { packets: 4095, cache: 512, mtu: 1500 })?;
        let config = PortConfig {
            id: PORT,
            aliases: Vec::new(),
            device: self.device.clone(),
            mtu: 1500,
            tagged: false,
            side: Side::Both,
            rx_desc: 1024,
            tx_desc: 1024,
        };
        let steering = Steering { workers: 1, worker_of: &[0; BUCKETS], key: &toeplitz::KEY };
        let (ports, mut ios) = Ports::start(&pool, &[config], steering)?;
        let io = ios.pop().context("one worker has one set of queues")?;
        if !affinity::pin(self.core) {
            bail!("there is no core {} on this machine", self.core);
        }
        let handle = ports.handle(PORT).context("the port was started")?;
        while !handle.link().up {
            if Instant::now() > deadline {
                bail!("{}: the link did not come up in time", self.device);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        work(io)
    }
}
