//! Checks before EAL starts, for what EAL itself reports badly or not at all.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::Error;

/// The part of a vdev or PCI argument before the first comma: the device's name.
pub(super) fn device_name(argument: &str) -> &str {
    argument.split(',').next().unwrap_or_default().trim()
}

/// The driver part of a vdev's name: `net_tap0` → `net_tap`.
pub(super) fn driver_name(device: &str) -> &str {
    device.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// The value of an argument of a vdev.
pub(super) fn argument<'a>(vdev: &'a str, key: &str) -> Option<&'a str> {
    vdev.split(',').skip(1).find_map(|pair| {
        let (k, v) = pair.split_once('=')?;
        (k.trim() == key).then_some(v.trim())
    })
}

/// Whether the kernel has `memory_mb` in free huge pages of one size.
pub(super) fn hugepages(memory_mb: u32) -> Result<(), Error> {
    hugepages_in(Path::new("/sys/kernel/mm/hugepages"), memory_mb)
}

fn hugepages_in(dir: &Path, memory_mb: u32) -> Result<(), Error> {
    let number = |path: PathBuf| -> u64 {
        fs::read_to_string(path).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
    };
    let mut smallest: Option<(u64, u64, u64)> = None;
    let mut free_kb = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(kb) = name
            .to_str()
            .and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok())
        else {
            continue;
        };
        let free = number(entry.path().join("free_hugepages"));
        free_kb += kb * free;
        if smallest.is_none_or(|(s, _, _)| kb < s) {
            smallest = Some((kb, free, number(entry.path().join("nr_hugepages"))));
        }
    }
    if free_kb >= u64::from(memory_mb) * 1024 {
        return Ok(());
    }
    let (kb, free, total) = smallest.unwrap_or((2048, 0, 0));
    let needed = (u64::from(memory_mb) * 1024).div_ceil(kb);
    let suggested = total + needed.saturating_sub(free);
    Err(Error::NoHugepages { memory_mb, page_mb: kb / 1024, needed, free, suggested })
}

/// Whether a PCI device is there; EAL would ignore one that is not.
pub(super) fn pci(address: &str) -> Result<(), Error> {
    let missing = |cause: &str| Error::Pci { device: address.to_owned(), cause: cause.to_owned() };
    // EAL takes both forms; sysfs has the long one.
    let long =
        if address.matches(':').count() == 1 { format!("0000:{address}") } else { address.into() };
    if !Path::new("/sys/bus/pci/devices").join(&long).exists() {
        return Err(missing(
            "is not in this machine: `dpdk-devbind.py --status` lists those it has",
        ));
    }
    Ok(())
}

/// Why no DPDK driver took a PCI device that is there.
pub(super) fn pci_cause(address: &str) -> String {
    let driver = fs::read_link(Path::new("/sys/bus/pci/devices").join(address).join("driver"))
        .ok()
        .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    match driver.as_deref() {
        Some("vfio-pci" | "igb_uio" | "uio_pci_generic") => {
            "is bound to DPDK but no driver of DPDK knows it".to_owned()
        }
        Some(driver) => format!(
            "is held by the kernel driver {driver}: bind it with `dpdk-devbind.py -b vfio-pci \
             {address}`"
        ),
        None => {
            format!("is bound to no driver: bind it with `dpdk-devbind.py -b vfio-pci {address}`")
        }
    }
}

/// The capabilities that the drivers of kernel interfaces need and this process lacks.
pub(super) fn missing_capabilities() -> Option<&'static str> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_NET_RAW: u32 = 13;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(line.trim(), 16).ok()?;
    match (effective >> CAP_NET_ADMIN & 1, effective >> CAP_NET_RAW & 1) {
        (0, 0) => Some("CAP_NET_ADMIN and CAP_NET_RAW"),
        (0, _) => Some("CAP_NET_ADMIN"),
        (_, 0) => Some("CAP_NET_RAW"),
        _ => None,
    }
}

/// What is wrong with a vdev's arguments, where the driver says too little.
pub(super) fn vdev_hint(vdev: &str) -> Option<String> {
    match driver_name(device_name(vdev)) {
        "net_af_packet" | "eth_af_packet" | "net_af_xdp" => match argument(vdev, "iface") {
            None => Some("it needs the argument iface=NAME".to_owned()),
            Some(iface) if !Path::new("/sys/class/net").join(iface).exists() => Some(format!(
                "there is no network interface `{iface}`: `ip link` lists those that exist"
            )),
            Some(_) => None,
        },
        "net_virtio_user" | "virtio_user" => match argument(vdev, "path") {
            None => Some("it needs the argument path=SOCKET".to_owned()),
            Some(path) if argument(vdev, "server") != Some("1") && !Path::new(path).exists() => {
                Some(format!(
                    "nothing listens on `{path}`: start the vhost side first, or let this side \
                     listen with server=1"
                ))
            }
            Some(_) => None,
        },
        "net_vhost" if argument(vdev, "iface").is_none() => {
            Some("it needs the argument iface=SOCKET".to_owned())
        }
        "net_pcap" => ["rx_pcap", "rx_iface", "iface", "rx_iface_in"]
            .iter()
            .all(|key| argument(vdev, key).is_none())
            .then(|| "it needs rx_pcap=FILE or iface=NAME".to_owned()),
        "net_tap" => argument(vdev, "iface").filter(|name| name.len() > 15).map(|name| {
            format!("the interface name `{name}` is longer than the 15 bytes that Linux allows")
        }),
        _ => None,
    }
}

/// Removes the sockets that a killed process left behind and on which a vdev is going to listen:
/// its driver would find the address in use. A socket somebody listens on stays.
///
/// Returns those removed.
pub(super) fn release_stale_sockets(vdevs: &[String]) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    for vdev in vdevs {
        let Some((path, kind)) = listening_socket(vdev) else { continue };
        let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        if is_socket && !listened_on(Path::new(path), kind) && fs::remove_file(path).is_ok() {
            removed.push(PathBuf::from(path));
        }
    }
    removed
}

/// The socket file that a vdev listens on, with its type.
fn listening_socket(vdev: &str) -> Option<(&str, libc::c_int)> {
    match driver_name(device_name(vdev)) {
        "net_vhost" | "eth_vhost" if argument(vdev, "client") != Some("1") => {
            argument(vdev, "iface").map(|path| (path, libc::SOCK_STREAM))
        }
        "net_virtio_user" | "virtio_user" if argument(vdev, "server") == Some("1") => {
            argument(vdev, "path").map(|path| (path, libc::SOCK_STREAM))
        }
        "net_memif"
            if matches!(argument(vdev, "role"), Some("server" | "master"))
                && argument(vdev, "socket-abstract") == Some("no") =>
        {
            argument(vdev, "socket").map(|path| (path, libc::SOCK_SEQPACKET))
        }
        _ => None,
    }
}

/// Whether a process listens on a socket file. When in doubt, yes.
fn listened_on(path: &Path, kind: libc::c_int) -> bool {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return true;
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: plain system call.
    let fd =
        unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return true;
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is a valid sockaddr_un of `len` bytes.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ECONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vdev_arguments() {
        let vdev = "net_af_packet12,iface=eth0,qpairs=2";
        assert_eq!(device_name(vdev), "net_af_packet12");
        assert_eq!(driver_name(device_name(vdev)), "net_af_packet");
        assert_eq!(argument(vdev, "iface"), Some("eth0"));
        assert_eq!(argument(vdev, "qpairs"), Some("2"));
        assert_eq!(argument(vdev, "pairs"), None);
    }

    #[test]
    fn hugepages_are_counted_over_all_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let page = |name: &str, free: &str, total: &str| {
            let dir = dir.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("free_hugepages"), free).unwrap();
            fs::write(dir.join("nr_hugepages"), total).unwrap();
        };
        page("hugepages-2048kB", "10\n", "30\n");
        page("hugepages-1048576kB", "1\n", "1\n");
        assert_eq!(hugepages_in(dir.path(), 1044), Ok(()));
        assert_eq!(
            hugepages_in(dir.path(), 2048),
            Err(Error::NoHugepages {
                memory_mb: 2048,
                page_mb: 2,
                needed: 1024,
                free: 10,
                suggested: 1044
            })
        );
    }

    #[test]
    fn only_dead_sockets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (dead, alive, file) = (path("dead"), path("alive"), path("file"));
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let _listener = std::os::unix::net::UnixListener::bind(&alive).unwrap();
        fs::write(&file, "").unwrap();
        let vdevs = [
            format!("net_vhost0,iface={alive}"),
            format!("net_vhost1,iface={file}"),
            format!("net_virtio_user0,path={dead}"),
            format!("net_vhost2,iface={dead},client=1"),
        ];
        assert!(release_stale_sockets(&vdevs).is_empty());
        let vdevs = [format!("net_virtio_user0,path={dead},server=1")];
        assert_eq!(release_stale_sockets(&vdevs), [PathBuf::from(&dead)]);
        assert!(!Path::new(&dead).exists());
    }
}
