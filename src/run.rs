//! `shunt run`: from a configuration file to a running switch, and down again.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use log::{info, warn};
use rtrb::RingBuffer;
use shunt::datapath::counters::WorkerCounters;
use shunt::datapath::pipeline::Pipeline;
use shunt::datapath::replica::PairSetup;
use shunt::datapath::setup::Setup;
use shunt::datapath::snapshot::{BUCKETS, Mac, PortId, PortRole, Side, Snapshot};
use shunt::dpdk::{
    Capabilities, DpdkIo, Eal, EalOptions, Mempool, PortConfig, Ports, Steering, advise_huge_pages,
    preloaded,
};
use shunt::manage::api::ControlSocket;
use shunt::manage::compile::{self, PortFacts, PortUse, ServerState};
use shunt::manage::config::{self, Config};
use shunt::manage::exception::{self, TAP_MTU};
use shunt::manage::memory::{self, TAP_DESC, WIRE_DESC};
use shunt::manage::port_view::{HardwareStatistics, Link};
use shunt::manage::{Manager, PortView, WorkerHandle, await_first_check};
use shunt::sync::control::VersionText;
use shunt::wire::toeplitz;
use shunt::worker::{Idle, Peers, Worker, affinity};

/// Commands and events that wait between the management thread and a worker.
const CONTROL_QUEUE: usize = 4096;
/// Sessions of a family that no service listens on: none is ever needed.
const UNUSED_FAMILY: usize = 64;

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    check_cores(&config)?;
    memory::check(Path::new("/"), &config)?;
    // Before anything is touched that another process with this configuration may be using.
    let socket = ControlSocket::bind(&config.api.socket)?;
    check_taps(&config)?;

    let eal = Eal::init(&eal_options(&config))?;
    info!("shunt {} with {}, node {}", env!("SHUNT_VERSION"), Eal::version(), config.node.name);
    let worker_of = compile::worker_of(config.node.workers.len());
    let (pool, ports, ios) = start_ports(&eal, &config, &worker_of)?;
    let capabilities: Vec<Capabilities> = ports.capabilities().map(|(_, c)| c.clone()).collect();
    for (use_, capabilities) in compile::port_uses(&config).iter().zip(&capabilities) {
        info!("port {}: {capabilities}", port_name(&config, *use_));
    }

    let snapshot = Arc::new(first_snapshot(&config, &capabilities));
    let channel = config.ha.as_ref().map(pair_setup);
    let boot = channel.as_ref().map(|channel| channel.boot);
    let (threads, workers) = start_workers(&eal, &config, &snapshot, ios, channel)?;
    accept_virtual_macs(&ports, &snapshot);
    let port_views = port_views(&config, &ports, &capabilities);
    let pair = compile::pair(&config).zip(boot);
    let manager = Manager { config, socket, snapshot, workers, ports: port_views, pair };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the management thread")?;
    let (hang_up, reread) = tokio::sync::mpsc::channel(1);
    let result = runtime
        .block_on(async { manager.run(stopped(hang_up)?, reread).await.map_err(|e| anyhow!(e)) });

    // In the reverse order: workers, ports, pool, EAL.
    drop(runtime);
    drop(threads);
    drop((ports, pool, eal));
    result?;
    info!("stopped");
    Ok(())
}

/// The worker threads. Dropping it, on whichever way out, stops them and waits for them: no worker
/// may poll a port while the process ends.
#[derive(Default)]
struct WorkerThreads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so, and management has ended because of it.
            let _ = thread.join();
        }
    }
}

/// Completes at SIGINT or SIGTERM; passes SIGHUP on.
fn stopped(to: tokio::sync::mpsc::Sender<()>) -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return info!("SIGINT: stopping"),
                _ = terminate.recv() => return info!("SIGTERM: stopping"),
                // One that waits already will do.
                _ = hang_up.recv() => drop(to.try_send(())),
            }
        }
    })
}

fn check_cores(config: &Config) -> anyhow::Result<()> {
    let cores = affinity::cores();
    for core in &config.node.workers {
        if !cores.contains(core) {
            bail!(
                "node.workers: there is no core {core} on this machine (or this process may not use \
                 it); it has {cores:?}"
            );
        }
    }
    Ok(())
}

/// DPDK would join a tap that exists, and take it down with it when it ends.
fn check_taps(config: &Config) -> anyhow::Result<()> {
    for port in &config.ports {
        let Some(tap) = &port.exception else { continue };
        if Path::new("/sys/class/net").join(tap).exists() {
            bail!(
                "port {}: there is an interface {tap} already; if another shunt made it, stop that, \
                 else give exception another name",
                port.name
            );
        }
    }
    Ok(())
}

fn eal_options(config: &Config) -> EalOptions {
    let mut vdevs = config.dpdk.vdevs.clone();
    for (index, port) in config.ports.iter().enumerate() {
        if let Some(tap) = &port.exception {
            vdevs.push(format!("{},iface={tap}", tap_device(index)));
        }
    }
    // A PCI device that a port names is wanted, whether the list has it or not. Others stay alone.
    let mut allow = config.dpdk.allow.clone();
    for port in &config.ports {
        if is_pci_address(&port.device) && !allow.contains(&port.device) {
            allow.push(port.device.clone());
        }
    }
    EalOptions {
        memory_mb: config.dpdk.memory_mb as u32,
        hugepages: config.dpdk.hugepages,
        allow,
        vdevs,
        extra_args: config.dpdk.extra_args.clone(),
    }
}

/// Whether a device is named by PCI address (domain:bus:device.function) and not a vdev.
fn is_pci_address(device: &str) -> bool {
    device.contains(':')
}

/// The vdev of the exception tap of the port at this place in the configuration.
fn tap_device(index: usize) -> String {
    format!("net_tap_exception{index}")
}

fn port_name(config: &Config, use_: PortUse) -> &str {
    match use_ {
        PortUse::Wire { index } => &config.ports[index].name,
        PortUse::Exception { index } => {
            config.ports[index].exception.as_deref().unwrap_or(&config.ports[index].name)
        }
    }
}

fn start_ports(
    eal: &Eal,
    config: &Config,
    worker_of: &[u8; BUCKETS],
) -> anyhow::Result<(Mempool, Ports, Vec<DpdkIo>)> {
    let workers = config.node.workers.len();
    let configs: Vec<PortConfig> = compile::port_uses(config)
        .into_iter()
        .enumerate()
        .filter_map(|(id, use_)| {
            let id = PortId(id as u8);
            Some(match use_ {
                PortUse::Wire { index } => device_config(config, id, index)?,
                PortUse::Exception { index } => PortConfig {
                    id,
                    aliases: Vec::new(),
                    device: tap_device(index),
                    mtu: config.ports[index].mtu.min(TAP_MTU),
                    tagged: false,
                    side: Side::Both,
                    rx_desc: TAP_DESC,
                    tx_desc: TAP_DESC,
                },
            })
        })
        .collect();
    let pool = Mempool::create(eal, memory::pool(config, preloaded(&config.dpdk.vdevs)))?;
    let steering = Steering { workers: workers as u16, worker_of, key: &toeplitz::KEY };
    let (ports, ios) = Ports::start(&pool, &configs, steering)?;
    Ok((pool, ports, ios))
}

/// How to start the device of the port at this place in the configuration; `None` when it is started
/// with another port of the device.
fn device_config(config: &Config, id: PortId, index: usize) -> Option<PortConfig> {
    if compile::receiving_port(config, index) != id {
        return None;
    }
    let first = &config.ports[index];
    let of_device = || config.ports.iter().zip(0..).filter(|(port, _)| port.device == first.device);
    let one_side = of_device().all(|(port, _)| port.side == first.side);
    Some(PortConfig {
        id,
        aliases: of_device().map(|(_, id)| PortId(id)).filter(|alias| *alias != id).collect(),
        device: first.device.clone(),
        mtu: of_device().map(|(port, _)| port.mtu).max().unwrap_or(first.mtu),
        tagged: of_device().any(|(port, _)| port.vlan != 0),
        side: if one_side { first.side } else { Side::Both },
        rx_desc: WIRE_DESC,
        tx_desc: WIRE_DESC,
    })
}

/// Lets frames to the virtual MAC addresses of the groups in; the data path takes those of the groups it
/// is master of.
fn accept_virtual_macs(ports: &Ports, snapshot: &Snapshot) {
    let Some(ha) = &snapshot.ha else { return };
    let groups = ha.groups.iter().filter(|group| group.virtual_mac);
    let macs: Vec<Mac> = groups.flat_map(|group| [group.mac_v4(), group.mac_v6()]).collect();
    for (id, port) in (0u8..).zip(&snapshot.ports) {
        if matches!(port.role, PortRole::Wire { .. })
            && let Some(handle) = ports.handle(PortId(id))
        {
            handle.accept(&macs);
        }
    }
}

fn first_snapshot(config: &Config, capabilities: &[Capabilities]) -> Snapshot {
    let facts: Vec<PortFacts> =
        capabilities.iter().map(|c| PortFacts { mac: c.mac, mtu: c.mtu }).collect();
    let servers: usize = config.services.iter().map(|service| service.servers.len()).sum();
    let mut snapshot = compile::compile(config, &facts, &vec![ServerState::UP; servers], 1);
    await_first_check(config, &mut snapshot);
    snapshot.prepare();
    snapshot
}

/// Starts the worker threads and waits until all of them poll. Large tables take a while to make, and
/// what listens for the peer from then on would otherwise find that it is not there.
fn start_workers(
    eal: &Eal,
    config: &Config,
    snapshot: &Arc<Snapshot>,
    ios: Vec<DpdkIo>,
    channel: Option<PairSetup>,
) -> anyhow::Result<(WorkerThreads, Vec<WorkerHandle>)> {
    let cores = &config.node.workers;
    let share = config.node.sessions.div_ceil(cores.len());
    let sessions = |used: bool| if used { share } else { UNUSED_FAMILY };
    let seed = RandomState::new().hash_one("session table");
    let ports_start = RandomState::new().hash_one("local ports");
    let cookie_secret = random("SYN cookies");
    let mut workers = WorkerThreads::default();
    let mut handles = Vec::new();
    let (ready, all_ready) = mpsc::channel();
    let all_counters: Arc<[_]> = cores.iter().map(|_| Arc::new(WorkerCounters::new())).collect();
    for (index, ((&core, io), peers)) in
        cores.iter().zip(ios).zip(Peers::mesh(cores.len())).enumerate()
    {
        let (commands_to, commands) = RingBuffer::new(CONTROL_QUEUE);
        let (events_to, events) = RingBuffer::new(CONTROL_QUEUE);
        let counters = all_counters[index].clone();
        let setup = Setup {
            worker: index as u8,
            sessions_v4: sessions(
                !snapshot.listeners_v4.is_empty() || snapshot.snat.has_family(false),
            ),
            sessions_v6: sessions(
                !snapshot.listeners_v6.is_empty() || snapshot.snat.has_family(true),
            ),
            seed,
            ports_start,
            all_counters: all_counters.clone(),
            advise: advise_huge_pages,
            cookie_secret,
            pair: channel.clone(),
        };
        let (snapshot, stop, idle, eal) =
            (snapshot.clone(), workers.stop.clone(), config.node.idle, eal.clone());
        let ready = ready.clone();
        handles.push(WorkerHandle {
            commands: commands_to,
            events,
            counters: counters.clone(),
            core,
        });
        let body = move || {
            // Pinned before it allocates, so that the tables lie in the core's own memory.
            if !affinity::pin(core) {
                log::error!("worker {index} cannot be put on core {core}");
                return;
            }
            let _registered = match eal.register_thread() {
                Ok(guard) => guard,
                Err(error) => {
                    log::error!("worker {index}: {error}");
                    return;
                }
            };
            let pipeline = Pipeline::new(&setup, snapshot, counters);
            let mut worker = Worker::new(io, pipeline, peers, commands, events_to);
            // One that ends before it comes here drops its end.
            let _ = ready.send(());
            drop(ready);
            worker.run(idle, &stop);
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker{index}"))
            .spawn(body)
            .with_context(|| format!("cannot start worker {index}"))?;
        workers.threads.push(thread);
    }
    drop(ready);
    for () in all_ready.iter().take(cores.len()) {}
    if config.node.idle == Idle::Spin {
        info!("workers poll cores {cores:?} for ever (node.idle = \"spin\")");
    }
    Ok((workers, handles))
}

/// What the workers need to talk to the peer: everything but the keys is of this start alone.
fn pair_setup(ha: &config::Ha) -> PairSetup {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PairSetup {
        keys: ha.keys.clone(),
        boot: (random("boot") as u64).max(1),
        secret: random("proof of the peer"),
        version: VersionText::new(env!("SHUNT_VERSION")),
        clock_ms: since_1970.as_millis() as u32,
    }
}

/// A number that nobody can foretell.
fn random(purpose: &str) -> u128 {
    let half = |half: u8| u128::from(RandomState::new().hash_one((purpose, half)));
    half(0) << 64 | half(1)
}

fn port_views(config: &Config, ports: &Ports, capabilities: &[Capabilities]) -> Vec<PortView> {
    compile::port_uses(config)
        .into_iter()
        .zip(capabilities)
        .enumerate()
        .filter_map(|(id, (use_, capabilities))| {
            let id = PortId(id as u8);
            let link = ports.handle(id)?;
            let statistics = link.clone();
            let interface = match use_ {
                PortUse::Wire { index } => {
                    exception::interface_below(config, &config.ports[index].device)
                }
                PortUse::Exception { .. } => None,
            };
            let interface = interface.map(str::to_owned);
            Some(PortView {
                id,
                name: port_name(config, use_).to_owned(),
                device: capabilities.device.clone(),
                driver: capabilities.driver.clone(),
                mac: capabilities.mac,
                mtu: match use_ {
                    PortUse::Wire { index } => config.ports[index].mtu.min(capabilities.mtu),
                    PortUse::Exception { .. } => capabilities.mtu,
                },
                capabilities_text: capabilities.to_string(),
                capabilities: serde_json::to_value(capabilities).unwrap_or_default(),
                link: Box::new(move || {
                    let link = link.link();
                    let has_carrier =
                        |interface: &String| exception::has_carrier(Path::new("/"), interface);
                    let up = link.up && interface.as_ref().is_none_or(has_carrier);
                    Link { up, speed_mbps: link.speed_mbps }
                }),
                statistics: Box::new(move || {
                    let s = statistics.stats();
                    HardwareStatistics {
                        rx_packets: s.rx_packets,
                        rx_bytes: s.rx_bytes,
                        tx_packets: s.tx_packets,
                        tx_bytes: s.tx_bytes,
                        rx_missed_packets: s.rx_missed,
                        rx_errors: s.rx_errors,
                        rx_no_buffer: s.rx_no_buffer,
                        tx_errors: s.tx_errors,
                    }
                }),
            })
        })
        .collect()
}
