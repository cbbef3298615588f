//! What can go wrong between the configuration and running ports: one sentence each, with the mend.

use std::ffi::CStr;

/// Why EAL, the packet pool or a port did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`super::Eal::init`] was called a second time.
    #[error("EAL can be started only once in the life of a process")]
    AlreadyInitialised,
    /// Fewer huge pages are free than `dpdk.memory_mb` asks for.
    #[error(
        "dpdk.memory_mb = {memory_mb} needs {needed} huge pages of {page_mb} MB and {free} are \
         free: run `sysctl vm.nr_hugepages={suggested}`, or set `hugepages = false`"
    )]
    NoHugepages {
        /// `dpdk.memory_mb`.
        memory_mb: u32,
        /// Megabytes of one page.
        page_mb: u64,
        /// Pages that would do.
        needed: u64,
        /// Pages that are free.
        free: u64,
        /// What to set `vm.nr_hugepages` to.
        suggested: u64,
    },
    /// The kernel has no memory to give.
    #[error(
        "EAL got no memory ({cause}): lower dpdk.memory_mb (now {memory_mb}) or give the machine more"
    )]
    NoMemory {
        /// `dpdk.memory_mb`.
        memory_mb: u32,
        /// What EAL said.
        cause: String,
    },
    /// The process lacks a capability that a device needs.
    #[error("`{device}` needs {missing}: run shunt as root or give it that capability ({cause})")]
    NoPrivilege {
        /// The device.
        device: String,
        /// The capabilities that are missing.
        missing: &'static str,
        /// What the driver said.
        cause: String,
    },
    /// No driver has this name.
    #[error(
        "no DPDK driver is called `{driver}` (vdev `{device}`): a vdev's name is its driver's and \
         a number, as in net_af_packet0, net_tap0, net_virtio_user0"
    )]
    UnknownDriver {
        /// The vdev as configured.
        device: String,
        /// The driver part of its name.
        driver: String,
    },
    /// A vdev did not start.
    #[error("vdev `{device}` did not start: {cause}")]
    Vdev {
        /// The vdev as configured.
        device: String,
        /// The cause, with the mend where it is known.
        cause: String,
    },
    /// A PCI device that is not there, or that no DPDK driver took.
    #[error("PCI device `{device}` {cause}")]
    Pci {
        /// Its address.
        device: String,
        /// The cause, with the mend.
        cause: String,
    },
    /// Any other failure of `rte_eal_init`.
    #[error("EAL did not start: {cause}; check [dpdk] extra_args, vdevs and allow")]
    Eal {
        /// What EAL said.
        cause: String,
    },
    /// A thread could not be registered.
    #[error("EAL takes no more threads ({cause}): use fewer workers")]
    Thread {
        /// What EAL said.
        cause: String,
    },
    /// The packet pool does not fit.
    #[error(
        "{packets} packet buffers need about {needed_mb} MB and dpdk.memory_mb = {memory_mb} has \
         not that much left ({cause}): raise memory_mb"
    )]
    PoolMemory {
        /// Buffers asked for.
        packets: u32,
        /// Megabytes they take.
        needed_mb: u64,
        /// `dpdk.memory_mb`.
        memory_mb: u32,
        /// What DPDK said.
        cause: String,
    },
    /// The pool's numbers make no sense together.
    #[error("a packet pool of {packets} buffers with caches of {cache}: {cause}")]
    PoolOptions {
        /// Buffers asked for.
        packets: u32,
        /// Cache per thread.
        cache: u32,
        /// What is wrong.
        cause: String,
    },
    /// A port names a device that does not exist.
    #[error("no DPDK device is called `{device}`; there {}", list(existing))]
    UnknownDevice {
        /// The name in the configuration.
        device: String,
        /// Those that exist.
        existing: Vec<String>,
    },
    /// The same device or port id twice.
    #[error("{what} is used by two ports: give each port its own device")]
    Duplicate {
        /// The device or the id.
        what: String,
    },
    /// The device cannot give every worker its own transmit queue.
    #[error(
        "`{device}` ({driver}) has {has} transmit {} and there are {workers} workers: {mend}, or \
         list fewer cores in node.workers",
        if *.has == 1 { "queue" } else { "queues" }
    )]
    TooFewQueues {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
        /// Its transmit queues.
        has: u16,
        /// The workers.
        workers: u16,
        /// What would give it more.
        mend: String,
    },
    /// The MTU is out of the device's range.
    #[error("mtu = {mtu} is not possible on `{device}`, which takes {min} to {max}{mend}")]
    Mtu {
        /// The device.
        device: String,
        /// The MTU asked for.
        mtu: u16,
        /// The smallest.
        min: u16,
        /// The largest.
        max: u16,
        /// What would allow it.
        mend: String,
    },
    /// The MTU does not fit the pool's buffers.
    #[error("mtu = {mtu} of `{device}` does not fit the packet buffers of {data_room} bytes")]
    MtuPool {
        /// The device.
        device: String,
        /// The MTU asked for.
        mtu: u16,
        /// Bytes of a frame that a buffer holds.
        data_room: u16,
    },
    /// A step of the start of a port failed.
    #[error("`{device}` did not start: {step}: {cause}")]
    Port {
        /// The device.
        device: String,
        /// The step.
        step: &'static str,
        /// What DPDK said.
        cause: String,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "is none: name one in [dpdk] vdevs or allow".to_owned(),
        [one] => format!("is only `{one}`"),
        more => format!("are: {}", more.join(", ")),
    }
}

/// The text of a DPDK or system error; the sign does not matter.
pub(super) fn text(code: i32) -> String {
    // SAFETY: takes any number.
    let text = unsafe { dpdk_sys::rte_strerror(code.saturating_abs()) };
    // SAFETY: a NUL-terminated string that is static or belongs to this thread until its next call.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

/// `rte_errno` of this thread.
pub(super) fn last() -> i32 {
    // SAFETY: it reads a thread-local integer.
    unsafe { dpdk_sys::dpdk_errno() }
}
