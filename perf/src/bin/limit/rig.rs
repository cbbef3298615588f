//! One measurement: starts the device under test (and the generator), reads the rate, ends both.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use super::config;
use super::process::Process;

/// How long a device under test may take to start.
const START: Duration = Duration::from_secs(20);
/// Packet buffers of testpmd beyond a capture's: rings, caches and bursts.
const TESTPMD_BUFFERS: u32 = 16_384;

/// Where frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rig {
    /// virtio_user ⇄ vhost.
    Virtio,
    /// net_pcap with infinite_rx.
    Pcap,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Device {
    /// testpmd in this forwarding mode.
    Testpmd(&'static str),
    /// Shunt in this mode.
    Shunt {
        /// `nat`, `fullnat` or `dr`.
        mode: &'static str,
        /// Which of the binaries.
        build: usize,
        /// Whether it has a channel to a peer.
        sync: bool,
    },
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// Where frames come from.
    pub(crate) rig: Rig,
    /// What is measured.
    pub(crate) device: Device,
    /// How many flows.
    pub(crate) flows: u32,
    /// `forward` or `reply`.
    pub(crate) direction: &'static str,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Testpmd(mode) => write!(f, "testpmd {mode}"),
            Device::Shunt { mode, build, sync } => {
                let sync = if *sync { " + ha" } else { "" };
                match build {
                    0 => write!(f, "shunt {mode}{sync}"),
                    build => write!(f, "shunt {mode}{sync} (build {})", build + 1),
                }
            }
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rig = match self.rig {
            Rig::Virtio => "rig 1",
            Rig::Pcap => "rig 2",
        };
        write!(f, "{rig}: {}, {} flows, {}", self.device, self.flows, self.direction)
    }
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// Million packets per second that the device under test has forwarded; NaN when it failed.
    pub(crate) mpps: f64,
    /// Of what the device had accepted.
    pub(crate) loss_percent: Option<f64>,
    /// What is not as it should be.
    pub(crate) problem: Option<String>,
}

impl Measured {
    /// Nothing came out.
    pub(crate) fn failed(why: String) -> Self {
        Measured { mpps: f64::NAN, loss_percent: None, problem: Some(why) }
    }

    /// Loss and problems, to be printed behind the rate.
    pub(crate) fn remark(&self) -> String {
        let loss = self.loss_percent.map(|l| format!(", {l:.2} % lost")).unwrap_or_default();
        let problem = self.problem.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
        loss + &problem
    }
}

/// The programs and a directory for their files, which is removed at the end.
pub(crate) struct Bench {
    programs: PathBuf,
    /// The shunt binaries.
    pub(crate) builds: Vec<PathBuf>,
    directory: PathBuf,
    seconds: u32,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Bench {
    /// `programs` is the directory of the generator and its kin.
    pub(crate) fn new(
        programs: PathBuf,
        builds: Vec<PathBuf>,
        seconds: u32,
    ) -> anyhow::Result<Self> {
        for build in &builds {
            if !build.exists() {
                bail!("{} is not there; build it", build.display());
            }
        }
        let directory = std::env::temp_dir().join(format!("shunt-limit-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Bench { programs, builds, directory, seconds })
    }

    /// Measures one row.
    pub(crate) fn measure(&self, row: &Row) -> anyhow::Result<Measured> {
        match row.rig {
            Rig::Virtio => self.virtio(row),
            Rig::Pcap => self.pcap(row),
        }
    }

    fn virtio(&self, row: &Row) -> anyhow::Result<Measured> {
        let socket = self.directory.join("vhost.sock");
        let _ = fs::remove_file(&socket);
        let generator_arguments = words(&format!(
            "--vdev net_vhost0,iface={} --device net_vhost0 --core 0 --flows {} --direction {} \
             --seconds {}",
            socket.display(),
            row.flows,
            row.direction,
            self.seconds
        ));
        let mut generator = Process::start(
            &self.directory,
            &self.programs.join("generator"),
            &generator_arguments,
        )?;
        let start = Instant::now();
        while !socket.exists() {
            generator.check_running()?;
            if start.elapsed() > START {
                bail!("the generator does not open {}", socket.display());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let vdev = format!(
            "net_virtio_user0,mac=02:00:00:00:00:01,path={},queues=1,queue_size=1024",
            socket.display()
        );
        let mut device = self.start_device(row, &vdev, "net_virtio_user0")?;
        // Opening the sessions, filling the tables, and time to spare.
        let patience = START + Duration::from_secs(u64::from(self.seconds) + 10);
        generator.wait(patience, || device.check_running())?;
        let outcome: Value = serde_json::from_str(&generator.output()?)?;
        let number = |name: &str| outcome[name].as_f64().unwrap_or(f64::NAN);
        let passed = outcome["warm_up"]["flows_passed"].as_u64().unwrap_or(0);
        let mut problem = None;
        if passed != u64::from(row.flows) {
            problem = Some(format!("{passed} flows passed the warm-up"));
        }
        if let Device::Shunt { build, .. } = row.device {
            let (sessions, _) = self.counters(build)?;
            if sessions != u64::from(row.flows) {
                problem = Some(format!("{sessions} sessions"));
            }
        }
        Ok(Measured {
            mpps: number("received_mpps"),
            loss_percent: Some(number("loss_percent")),
            problem,
        })
    }

    fn pcap(&self, row: &Row) -> anyhow::Result<Measured> {
        let capture = self.directory.join(format!("{}-flows.pcap", row.flows));
        if !capture.exists() {
            let made = Command::new(self.programs.join("make_pcap"))
                .args(["--flows", &row.flows.to_string(), "--out"])
                .arg(&capture)
                .status()?;
            if !made.success() {
                bail!("make_pcap failed");
            }
        }
        let vdev = format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display());
        let mut device = self.start_device(row, &vdev, "net_pcap0")?;
        match row.device {
            Device::Testpmd(_) => {
                // The first two figures are those of the start.
                let enough = 2 + self.seconds as usize;
                let start = Instant::now();
                let rates = loop {
                    std::thread::sleep(Duration::from_millis(50));
                    device.check_running()?;
                    let rates = testpmd_rates(&device.output()?);
                    if rates.len() >= enough {
                        break rates[2..enough].to_vec();
                    }
                    if start.elapsed() > START + Duration::from_secs(u64::from(self.seconds)) {
                        bail!("testpmd prints no rates");
                    }
                };
                let mean = rates.iter().sum::<f64>() / rates.len() as f64;
                Ok(Measured { mpps: mean / 1e6, loss_percent: None, problem: None })
            }
            Device::Shunt { build, .. } => {
                std::thread::sleep(Duration::from_secs(1));
                let (_, before) = self.counters(build)?;
                let start = Instant::now();
                std::thread::sleep(Duration::from_secs(u64::from(self.seconds)));
                let (sessions, after) = self.counters(build)?;
                let elapsed = start.elapsed().as_secs_f64();
                let problem = (sessions != u64::from(row.flows))
                    .then(|| format!("{sessions} sessions instead of {}", row.flows));
                let mpps = (after - before) as f64 / elapsed / 1e6;
                Ok(Measured { mpps, loss_percent: None, problem })
            }
        }
    }

    fn start_device(&self, row: &Row, vdev: &str, device: &str) -> anyhow::Result<Process> {
        match row.device {
            Device::Testpmd(mode) => {
                let buffers = TESTPMD_BUFFERS
                    + match row.rig {
                        Rig::Virtio => 0,
                        Rig::Pcap => row.flows,
                    };
                let arguments = words(&format!(
                    "-l 0,1 --main-lcore=0 --no-pci --no-telemetry --in-memory \
                     --single-file-segments -m 384 --file-prefix limit{} --vdev {vdev} -- \
                     --forward-mode={mode} --auto-start --stats-period=1 --no-flush-rx \
                     --total-num-mbufs={buffers} --rxd=1024 --txd=1024",
                    std::process::id()
                ));
                Process::start(&self.directory, Path::new("dpdk-testpmd"), &arguments)
            }
            Device::Shunt { mode, build, sync } => {
                let path = self.directory.join("shunt.toml");
                let mut text = config::text(mode, vdev, device, &self.socket());
                if sync {
                    text += &config::channel(&self.key_file()?);
                }
                fs::write(&path, text)?;
                let arguments =
                    ["run".to_owned(), "--config".to_owned(), path.display().to_string()];
                let mut process = Process::start(&self.directory, &self.builds[build], &arguments)?;
                let start = Instant::now();
                while self.counters(build).is_err() {
                    process.check_running()?;
                    if start.elapsed() > START {
                        bail!("shunt does not answer on its control socket");
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(process)
            }
        }
    }

    /// The keys of a peer that is not there: nobody else may read them.
    fn key_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.directory.join("sync.key");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        writeln!(options.open(&path)?, "{}", "0123456789abcdef".repeat(4))?;
        Ok(path)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("shunt.sock")
    }

    /// IPv4 sessions and transmitted packets of the running Shunt.
    fn counters(&self, build: usize) -> anyhow::Result<(u64, u64)> {
        let output = Command::new(&self.builds[build])
            .args(["workers", "--json", "--socket"])
            .arg(self.socket())
            .output()?;
        if !output.status.success() {
            bail!("shunt workers: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let workers: Value = serde_json::from_slice(&output.stdout)?;
        let number = |name: &str| workers["workers"][0][name].as_u64();
        number("sessions_v4")
            .zip(number("tx_packets"))
            .context("shunt workers prints no such counters")
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The packets per second that testpmd has printed, one for each second.
fn testpmd_rates(output: &str) -> Vec<f64> {
    output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Rx-pps:")?.split_whitespace().next())
        .filter_map(|rate| rate.parse().ok())
        .collect()
}
