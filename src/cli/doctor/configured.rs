//! Findings about what the configuration asks of the machine: cores, memory, PCI devices, the
//! control socket.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Finding, Machine};
use crate::cli::format::{bytes, count};
use crate::manage::config::{Config, Idle};
use crate::manage::memory;

pub(super) fn findings(machine: &Machine, config: &Config) -> Vec<Finding> {
    let mut found = cores(machine, config);
    found.push(memory_finding(machine, config));
    found.extend(config.dpdk.allow.iter().map(|address| pci(machine, address)));
    found.push(socket(&config.api.socket));
    found
}

fn cores(machine: &Machine, config: &Config) -> Vec<Finding> {
    const SUBJECT: &str = "cores";
    let set = |file: &str| {
        let text = machine.read(&format!("sys/devices/system/cpu/{file}")).unwrap_or_default();
        core_list(&text)
    };
    let online = set("online");
    let workers = &config.node.workers;
    let missing: Vec<String> =
        workers.iter().filter(|core| !online.contains(core)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        let text = format!("not on this machine: {}; it has {}", missing.join(", "), online.len());
        return vec![Finding::bad(SUBJECT, text, "change node.workers")];
    }
    let mut found = vec![Finding::ok(SUBJECT, format!("all of {workers:?} are there"))];
    if config.node.idle == Idle::Spin {
        if online.iter().all(|core| workers.contains(core)) {
            found.push(Finding::warn(
                SUBJECT,
                "every core spins: management and the rest of the machine have none",
                "leave a core out of node.workers, or set node.idle = \"yield\"",
            ));
        }
        let isolated = set("isolated");
        let shared: Vec<String> = workers
            .iter()
            .filter(|core| !isolated.contains(core))
            .map(ToString::to_string)
            .collect();
        if !shared.is_empty() {
            let shared = shared.join(",");
            found.push(Finding::warn(
                SUBJECT,
                format!("not isolated: {shared}; other processes may interrupt the workers"),
                format!("boot with isolcpus={shared} nohz_full={shared}"),
            ));
        }
    }
    found
}

/// `0-3,8` as the kernel writes lists of cores.
fn core_list(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cores.extend(first..=last);
        }
    }
    cores
}

/// Session tables, and the packet buffers when they do not lie on hugepages.
fn memory_finding(machine: &Machine, config: &Config) -> Finding {
    const SUBJECT: &str = "memory";
    let sessions = config.node.sessions as u64;
    let (v4, v6) = memory::session_tables(config);
    let mut parts: Vec<String> = [("IPv4", v4), ("IPv6", v6)]
        .into_iter()
        .filter(|&(_, table)| table > 0)
        .map(|(name, table)| format!("{} for {name}", bytes(table)))
        .collect();
    if parts.is_empty() {
        parts.push("no service".into());
    }
    let mut text = format!("{} sessions: {}", count(sessions), parts.join(", "));
    let buffers = memory::buffers(config);
    if buffers > 0 {
        text.push_str(&format!("; packet buffers: {}", bytes(buffers)));
    }
    let rings = memory::sync_rings(config);
    if rings > 0 {
        text.push_str(&format!("; kept for the other node: {}", bytes(rings)));
    }
    let Some(available) = memory::available(&machine.root) else {
        return Finding::ok(SUBJECT, text);
    };
    text.push_str(&format!("; available: {}", bytes(available)));
    if memory::check(&machine.root, config).is_err() {
        Finding::bad(SUBJECT, text, "lower node.sessions or dpdk.memory_mb")
    } else {
        Finding::ok(SUBJECT, text)
    }
}

fn pci(machine: &Machine, address: &str) -> Finding {
    let subject = format!("device {address}");
    let device = format!("sys/bus/pci/devices/{address}");
    if !machine.exists(&device) {
        return Finding::bad(
            &subject,
            "there is no such PCI device",
            "dpdk-devbind.py --status lists them; change dpdk.allow",
        );
    }
    match machine.link_name(&format!("{device}/driver")).as_deref() {
        Some(driver @ ("vfio-pci" | "uio_pci_generic" | "igb_uio")) => {
            Finding::ok(&subject, format!("bound to {driver}"))
        }
        // DPDK drives these through their kernel drivers.
        Some(driver @ ("mlx4_core" | "mlx5_core" | "mana")) => {
            Finding::ok(&subject, format!("driven through {driver}"))
        }
        other => Finding::bad(
            &subject,
            format!("bound to {}, not to DPDK", other.unwrap_or("no driver")),
            format!("modprobe vfio-pci && dpdk-devbind.py -b vfio-pci {address}"),
        ),
    }
}

fn socket(path: &Path) -> Finding {
    const SUBJECT: &str = "control socket";
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Finding::bad(
            SUBJECT,
            format!("{shown} exists and is not a socket"),
            format!("remove {shown}, or set another api.socket"),
        ),
        Ok(_) if UnixStream::connect(path).is_ok() => {
            Finding::ok(SUBJECT, format!("a shunt runs on {shown}"))
        }
        Ok(_) => Finding::ok(SUBJECT, format!("{shown} is left over and will be replaced")),
        Err(_) if path.parent().is_some_and(Path::is_dir) => {
            Finding::ok(SUBJECT, format!("{shown} can be made"))
        }
        Err(_) => Finding::bad(
            SUBJECT,
            format!("the directory of {shown} does not exist"),
            "make it, or set another api.socket",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lines, machine};
    use super::*;
    use crate::manage::testing;

    #[test]
    fn core_lists() {
        assert_eq!(core_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(core_list(""), [] as [usize; 0]);
    }

    #[test]
    fn cores_that_are_not_there() {
        let (_dir, m) = machine(&[("sys/devices/system/cpu/online", "0\n")]);
        assert_eq!(
            lines(&cores(&m, &testing::config())),
            ["Bad cores: not on this machine: 1; it has 1 [change node.workers]"]
        );
    }

    #[test]
    fn cores_that_spin() {
        let (_dir, m) = machine(&[
            ("sys/devices/system/cpu/online", "0-1\n"),
            ("sys/devices/system/cpu/isolated", "1\n"),
        ]);
        let mut config = testing::config();
        assert_eq!(lines(&cores(&m, &config)), ["Ok cores: all of [0, 1] are there"]);
        config.node.idle = Idle::Spin;
        assert_eq!(
            lines(&cores(&m, &config))[1..],
            [
                "Warn cores: every core spins: management and the rest of the machine have none \
                 [leave a core out of node.workers, or set node.idle = \"yield\"]",
                "Warn cores: not isolated: 0; other processes may interrupt the workers [boot with \
                 isolcpus=0 nohz_full=0]",
            ]
        );
    }

    #[test]
    fn memory_for_sessions_and_buffers() {
        let (_dir, m) = machine(&[("proc/meminfo", "MemFree: 5 kB\nMemAvailable:  300000 kB\n")]);
        let mut config = testing::config();
        assert_eq!(
            lines(&[memory_finding(&m, &config)]),
            [
                "Ok memory: 100.0 k sessions: 7.7 MiB for IPv4; packet buffers: 256.0 MiB; available: \
              293.0 MiB"
            ]
        );
        config.services[0].listen.push("[2001:db8::1]:80".parse().unwrap());
        config.node.sessions = 4_000_000;
        config.dpdk.hugepages = true;
        assert_eq!(
            lines(&[memory_finding(&m, &config)]),
            ["Bad memory: 4.0 M sessions: 309.0 MiB for IPv4, 553.1 MiB for IPv6; available: \
              293.0 MiB [lower node.sessions or dpdk.memory_mb]"]
        );
    }

    #[test]
    fn pci_devices() {
        let base = "sys/bus/pci/devices";
        let (dir, m) = machine(&[
            (&format!("{base}/0000:01:00.0/"), ""),
            (&format!("{base}/0000:02:00.0/"), ""),
        ]);
        let bind = |address: &str, driver: &str| {
            let link = dir.path().join(base).join(address).join("driver");
            std::os::unix::fs::symlink(format!("../drivers/{driver}"), link).unwrap();
        };
        bind("0000:01:00.0", "vfio-pci");
        bind("0000:02:00.0", "ixgbe");
        assert_eq!(
            lines(&["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"].map(|a| pci(&m, a))),
            [
                "Ok device 0000:01:00.0: bound to vfio-pci",
                "Bad device 0000:02:00.0: bound to ixgbe, not to DPDK [modprobe vfio-pci && \
                 dpdk-devbind.py -b vfio-pci 0000:02:00.0]",
                "Bad device 0000:03:00.0: there is no such PCI device [dpdk-devbind.py --status \
                 lists them; change dpdk.allow]",
            ]
        );
    }

    #[test]
    fn control_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let level = |path: &Path| socket(path).level;
        use super::super::Level::{Bad, Ok};
        assert_eq!(level(&path), Ok);
        assert_eq!(level(&dir.path().join("none/s")), Bad);
        std::fs::write(&path, "").unwrap();
        assert_eq!(level(&path), Bad);
        std::fs::remove_file(&path).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(socket(&path).text.starts_with("a shunt runs on "));
        drop(listener);
        assert!(socket(&path).text.ends_with(" is left over and will be replaced"));
    }
}
