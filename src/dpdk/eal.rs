//! EAL, DPDK's environment: memory, devices, threads. Started once per process.
//!
//! Shunt's EAL leaves nothing behind that could block the next start, even after SIGKILL: with huge
//! pages it works in memory (`--in-memory`, in one file descriptor per memory type so that
//! virtio_user can share it), without them it keeps no shared files (`--no-shconf`). So there are no
//! secondary processes and no telemetry socket.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{self, Error};
use super::preflight::{self, device_name, driver_name};
use super::{log_stream, port};

/// Whether `rte_eal_init` was called in this process.
static STARTED: AtomicBool = AtomicBool::new(false);

/// What EAL is started with: the section `[dpdk]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalOptions {
    /// Megabytes for packet buffers and queues.
    pub memory_mb: u32,
    /// Take the memory from huge pages. Without, PCI devices do not work and all is slower.
    pub hugepages: bool,
    /// PCI devices, with device arguments if any: `0000:3b:00.0`. All others are left alone.
    pub allow: Vec<String>,
    /// Virtual devices with their arguments: `net_af_packet0,iface=eth0`.
    pub vdevs: Vec<String>,
    /// More EAL arguments, as they are.
    pub extra_args: Vec<String>,
}

impl Default for EalOptions {
    fn default() -> Self {
        EalOptions {
            memory_mb: 512,
            hugepages: true,
            allow: Vec::new(),
            vdevs: Vec::new(),
            extra_args: Vec::new(),
        }
    }
}

/// The running EAL. Clones are handles; EAL is cleaned up when the last of them, and of the pools
/// and ports made with it, is dropped.
#[derive(Clone, Debug)]
pub struct Eal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory_mb: u32,
    /// Set when buffers outlived their pool: their memory must stay mapped.
    keep_memory: AtomicBool,
}

impl Eal {
    /// Starts EAL with all devices of `options`. The calling thread becomes EAL's main thread and
    /// keeps its CPU affinity.
    ///
    /// # Errors
    /// See [`Error`]; after an error EAL cannot be started again in this process, except when the
    /// error was found before EAL was called (huge pages, PCI devices that are not there).
    pub fn init(options: &EalOptions) -> Result<Eal, Error> {
        if options.hugepages {
            preflight::hugepages(options.memory_mb)?;
        }
        for device in &options.allow {
            preflight::pci(device_name(device))?;
        }
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyInitialised);
        }
        for path in preflight::release_stale_sockets(&options.vdevs) {
            log::info!("removed {}, which a dead process had left behind", path.display());
        }

        let affinity = Affinity::of_this_thread();
        let prefix = format!("shunt-{}", std::process::id());
        let arguments = arguments(options, &prefix, &affinity.cpus());
        log::debug!(target: "dpdk", "EAL arguments: {}", arguments.join(" "));

        log_stream::install();
        log_stream::capture();
        let result = call_init(&arguments);
        let log = log_stream::captured();
        affinity.restore();
        remove_runtime_dir(&prefix);

        if result < 0 {
            return Err(init_error(options, &log, error::last()));
        }
        let eal = Eal(Arc::new(Inner {
            memory_mb: options.memory_mb,
            keep_memory: AtomicBool::new(false),
        }));
        // A device that fails does not make rte_eal_init fail.
        check_devices(options, &log)?;
        Ok(eal)
    }

    /// DPDK's version, as in "DPDK 22.11.11".
    pub fn version() -> String {
        // SAFETY: it returns a static string and works before EAL does.
        let version = unsafe { dpdk_sys::rte_version() };
        // SAFETY: the string is NUL-terminated.
        let version = unsafe { CStr::from_ptr(version) };
        version.to_string_lossy().into_owned()
    }

    /// Makes the calling thread known to EAL, which gives it caches of its own in the packet pool,
    /// until the guard is dropped. A worker calls it first of all.
    ///
    /// # Errors
    /// [`Error::Thread`] when EAL has no slot left (128 threads).
    pub fn register_thread(&self) -> Result<ThreadGuard, Error> {
        // SAFETY: EAL is initialised as long as `self` exists.
        if unsafe { dpdk_sys::rte_thread_register() } != 0 {
            return Err(Error::Thread { cause: error::text(error::last()) });
        }
        Ok(ThreadGuard { _eal: self.clone(), _this_thread: PhantomData })
    }

    /// `dpdk.memory_mb`.
    pub(super) fn memory_mb(&self) -> u32 {
        self.0.memory_mb
    }

    /// Leaves the memory mapped for good: somebody still holds packet buffers.
    pub(super) fn keep_memory(&self) {
        self.0.keep_memory.store(true, Ordering::Release);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.keep_memory.load(Ordering::Acquire) {
            log::debug!(target: "dpdk", "packet buffers are still in use: EAL is not cleaned up");
            return;
        }
        // SAFETY: EAL was initialised, and ports, pools and registered threads, which hold a
        // handle, are gone.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// A thread's membership in EAL; see [`Eal::register_thread`].
#[derive(Debug)]
pub struct ThreadGuard {
    _eal: Eal,
    /// Only the thread that registered can leave.
    _this_thread: PhantomData<*const ()>,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        // SAFETY: this thread is registered, and EAL lives while `_eal` does.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

/// The arguments of `rte_eal_init`.
fn arguments(options: &EalOptions, prefix: &str, cpus: &[usize]) -> Vec<String> {
    let mut arguments = vec!["shunt".to_owned()];
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&w| w.to_owned()));
    // One lcore for the main thread, on every CPU it may use. EAL's own threads go there too.
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    add(&["--lcores", &format!("0@({})", cpus.join(","))]);
    add(&["-m", &options.memory_mb.to_string(), "--no-telemetry", "--file-prefix", prefix]);
    if options.hugepages {
        add(&["--in-memory", "--single-file-segments"]);
    } else {
        add(&["--no-huge", "--no-shconf"]);
    }
    if options.allow.is_empty() {
        add(&["--no-pci"]);
    }
    for device in &options.allow {
        add(&["-a", device]);
    }
    for vdev in &options.vdevs {
        add(&["--vdev", vdev]);
    }
    if log::log_enabled!(target: "dpdk", log::Level::Trace) {
        add(&["--log-level", "*:debug"]);
    }
    arguments.extend(options.extra_args.iter().cloned());
    arguments
}

/// Calls `rte_eal_init`.
fn call_init(arguments: &[String]) -> i32 {
    let owned: Vec<CString> =
        arguments.iter().map(|a| CString::new(a.replace('\0', "")).unwrap_or_default()).collect();
    let mut argv: Vec<*mut c_char> = owned.iter().map(|a| a.as_ptr().cast_mut()).collect();
    let argc = argv.len() as i32;
    argv.push(std::ptr::null_mut());
    // SAFETY: `argv` holds `argc` pointers to NUL-terminated strings and a null. EAL permutes the
    // pointers, writes to no string and copies what it keeps, so all of it may be freed after the
    // call.
    unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) }
}

/// EAL makes a directory for files it then does not write. It is removed when it is empty.
fn remove_runtime_dir(prefix: &str) {
    let base = std::env::var_os("RUNTIME_DIRECTORY")
        .or_else(|| std::env::var_os("XDG_RUNTIME_DIR"))
        .map(PathBuf::from);
    let bases = [Some(PathBuf::from("/var/run")), base, Some(PathBuf::from("/tmp"))];
    for base in bases.into_iter().flatten() {
        // Not there, or not empty: then it stays.
        let _ = fs::remove_dir(base.join("dpdk").join(prefix));
    }
}

/// Makes an error of what EAL said before it gave up.
fn init_error(options: &EalOptions, log: &[String], errno: i32) -> Error {
    let unparsed = log.iter().find_map(|l| {
        let rest = l.strip_prefix("failed to parse device \"")?;
        rest.strip_suffix('"')
    });
    if let Some(name) = unparsed {
        let device = name.to_owned();
        return Error::UnknownDriver { driver: driver_name(name).to_owned(), device };
    }
    let cause = match log.iter().rev().find(|l| !is_progress(l)) {
        Some(line) => line.trim_end_matches('.').to_owned(),
        None => error::text(errno),
    };
    let memory =
        |l: &String| l.contains("Cannot init memory") || l.contains("memseg") || l.contains("mmap");
    if errno == libc::ENOMEM || log.iter().any(memory) {
        return Error::NoMemory { memory_mb: options.memory_mb, cause: error::text(errno) };
    }
    Error::Eal { cause }
}

/// Finds the first device of the configuration that did not start.
fn check_devices(options: &EalOptions, log: &[String]) -> Result<(), Error> {
    for vdev in &options.vdevs {
        let name = device_name(vdev);
        // This one makes devices of other names.
        if driver_name(name) == "net_vdev_netvsc" || port::find(name).is_some() {
            continue;
        }
        // What is wrong with the arguments is wrong for root too.
        let said = said_about(name, log);
        let hint = preflight::vdev_hint(vdev);
        let privilege = ["net_af_packet", "eth_af_packet", "net_tap", "net_af_xdp"]
            .contains(&driver_name(name))
            .then(preflight::missing_capabilities)
            .flatten();
        if let (None, Some(missing)) = (&hint, privilege) {
            let cause = said.unwrap_or_else(|| "operation not permitted".to_owned());
            return Err(Error::NoPrivilege { device: name.to_owned(), missing, cause });
        }
        let cause = hint.or(said).unwrap_or_else(|| {
            "its driver gives no reason; probably it does not know one of the arguments".to_owned()
        });
        return Err(Error::Vdev { device: vdev.clone(), cause });
    }
    for device in &options.allow {
        let name = device_name(device);
        if port::find(name).is_none() && port::find(&format!("0000:{name}")).is_none() {
            let cause = preflight::pci_cause(name);
            return Err(Error::Pci { device: name.to_owned(), cause });
        }
    }
    Ok(())
}

/// The first thing a driver said about a vdev that failed: the lines since the previous failure.
fn said_about(name: &str, log: &[String]) -> Option<String> {
    let end =
        log.iter().position(|l| l.contains(&format!("failed to initialize {name} device")))?;
    let start =
        log[..end].iter().rposition(|l| l.contains("failed to initialize")).map_or(0, |i| i + 1);
    log[start..end].iter().find(|l| !is_progress(l)).cloned()
}

/// Lines that report progress, not a cause.
fn is_progress(line: &str) -> bool {
    [
        "Detected ",
        "Selected IOVA",
        "Physical addresses are",
        "VFIO support",
        "Probe PCI",
        "Bus (",
        "No available",
    ]
    .iter()
    .any(|start| line.starts_with(start))
        || line.starts_with("Initializing ")
}

/// The CPUs a thread may run on.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn of_this_thread() -> Affinity {
        // SAFETY: all-zero is a valid, empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is writable and of the given size; 0 is this thread.
        let result =
            unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
        if result != 0 {
            // SAFETY: CPU 0 is inside the set.
            unsafe { libc::CPU_SET(0, &mut set) };
        }
        Affinity(set)
    }

    /// Those that EAL can name.
    fn cpus(&self) -> Vec<usize> {
        // SAFETY: the index is below CPU_SETSIZE (1024).
        (0..dpdk_sys::RTE_MAX_LCORE as usize)
            .filter(|&c| unsafe { libc::CPU_ISSET(c, &self.0) })
            .collect()
    }

    /// Undoes what EAL did to this thread.
    fn restore(&self) {
        // SAFETY: the set is valid and of the given size; 0 is this thread.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&l| l.to_owned()).collect()
    }

    #[test]
    fn arguments_with_and_without_huge_pages() {
        let mut options = EalOptions { vdevs: vec!["net_null0".into()], ..EalOptions::default() };
        assert_eq!(
            arguments(&options, "p", &[0, 3]).join(" "),
            "shunt --lcores 0@(0,3) -m 512 --no-telemetry --file-prefix p --in-memory \
             --single-file-segments --no-pci --vdev net_null0"
        );
        options.hugepages = false;
        options.allow = vec!["0000:01:00.0".into()];
        options.extra_args = vec!["--x".into()];
        assert_eq!(
            arguments(&options, "p", &[1]).join(" "),
            "shunt --lcores 0@(1) -m 512 --no-telemetry --file-prefix p --no-huge --no-shconf \
             -a 0000:01:00.0 --vdev net_null0 --x"
        );
    }

    #[test]
    fn the_cause_of_each_vdev_is_its_own() {
        let log = lines(&[
            "Detected CPU lcores: 2",
            "net_af_packet0: ioctl failed (SIOCGIFINDEX):No such device",
            "failed to initialize net_af_packet0 device",
            "Unable to set TUNSETIFF for xx: Operation not permitted",
            "Unable to create TAP interface",
            "failed to initialize net_tap0 device",
            "failed to initialize net_pcap0 device",
        ]);
        let said = |name| said_about(name, &log);
        assert_eq!(
            said("net_af_packet0").as_deref(),
            Some("net_af_packet0: ioctl failed (SIOCGIFINDEX):No such device")
        );
        assert_eq!(
            said("net_tap0").as_deref(),
            Some("Unable to set TUNSETIFF for xx: Operation not permitted")
        );
        assert_eq!(said("net_pcap0"), None);
        assert_eq!(said("net_null0"), None);
    }

    #[test]
    fn an_unknown_driver_is_named() {
        let log =
            lines(&["failed to parse device \"net_foo1\"", "Unable to parse device 'net_foo1'"]);
        assert_eq!(
            init_error(&EalOptions::default(), &log, libc::ENODEV),
            Error::UnknownDriver { device: "net_foo1".into(), driver: "net_foo".into() }
        );
    }
}
