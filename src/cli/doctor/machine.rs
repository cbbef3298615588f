//! Findings about the machine: privileges, memory, cores' power, tun.

use super::{Finding, Machine};
use crate::cli::format::bytes;
use crate::manage::config::Config;

/// Capabilities by their bit (capabilities(7)), and what each is needed for.
const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (14, "CAP_IPC_LOCK"), (21, "CAP_SYS_ADMIN")];

pub(super) fn findings(machine: &Machine, config: Option<&Config>) -> Vec<Finding> {
    let mut found = vec![
        privileges(machine),
        hugepages(machine, config),
        transparent_hugepages(machine),
        tun(machine, config),
    ];
    found.extend(governor(machine, config));
    found
}

fn privileges(machine: &Machine) -> Finding {
    let status = machine.read("proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|&(_, name)| name)
        .collect();
    if missing.is_empty() {
        Finding::ok("privileges", "all that DPDK and the taps need")
    } else {
        let mend = "run as root, or give the process these capabilities";
        Finding::bad("privileges", format!("missing: {}", missing.join(", ")), mend)
    }
}

fn hugepages(machine: &Machine, config: Option<&Config>) -> Finding {
    const SUBJECT: &str = "hugepages";
    if config.is_some_and(|c| !c.dpdk.hugepages) {
        return Finding::ok(SUBJECT, "not used (dpdk.hugepages = false)");
    }
    let (total, free) = hugepage_bytes(machine);
    let needed = config.map_or(0, |c| c.dpdk.memory_mb as u64 * 1024 * 1024);
    let state = format!("{} free of {}", bytes(free), bytes(total));
    if total == 0 || free < needed {
        let pages = (total - free + needed.max(512 << 20)).div_ceil(2 << 20);
        let mend = format!("sysctl -w vm.nr_hugepages={pages} (or dpdk.hugepages = false)");
        return match config {
            Some(_) => {
                let text = format!("{state}; dpdk.memory_mb wants {}", bytes(needed));
                Finding::bad(SUBJECT, text, mend)
            }
            None => Finding::warn(SUBJECT, "none", mend),
        };
    }
    let mounts = machine.read("proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs")) {
        let mend = "mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages";
        return Finding::bad(SUBJECT, format!("{state}, but no hugetlbfs is mounted"), mend);
    }
    Finding::ok(SUBJECT, state)
}

/// All hugepages and the free ones, in bytes, over all page sizes.
fn hugepage_bytes(machine: &Machine) -> (u64, u64) {
    const DIR: &str = "sys/kernel/mm/hugepages";
    let mut sums = (0, 0);
    for name in machine.list(DIR) {
        let size = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB"));
        let Some(kib) = size.and_then(|n| n.parse::<u64>().ok()) else { continue };
        let pages = |file: &str| machine.number(&format!("{DIR}/{name}/{file}")).unwrap_or(0);
        sums.0 += pages("nr_hugepages") * kib * 1024;
        sums.1 += pages("free_hugepages") * kib * 1024;
    }
    sums
}

fn transparent_hugepages(machine: &Machine) -> Finding {
    const SUBJECT: &str = "transparent hugepages";
    let path = "sys/kernel/mm/transparent_hugepage/enabled";
    let chosen = machine.read(path).and_then(|text| {
        let chosen = text.split(' ').find_map(|w| w.strip_prefix('[')?.strip_suffix(']'));
        chosen.map(str::to_string)
    });
    match chosen.as_deref() {
        Some("never") => {
            let mend = format!("echo madvise > /{path}");
            Finding::warn(SUBJECT, "never: the session tables lie on small pages", mend)
        }
        Some(mode) => Finding::ok(SUBJECT, mode),
        None => Finding::ok(SUBJECT, "not in this kernel"),
    }
}

fn tun(machine: &Machine, config: Option<&Config>) -> Finding {
    const SUBJECT: &str = "tun device";
    let needed = config.is_none_or(|c| {
        c.ports.iter().any(|p| p.exception.is_some())
            || c.dpdk.vdevs.iter().any(|v| v.starts_with("net_tap"))
    });
    let mend = "modprobe tun (in a container: --device /dev/net/tun)";
    match (machine.exists("dev/net/tun"), needed) {
        (true, _) => Finding::ok(SUBJECT, "/dev/net/tun is there"),
        (false, false) => Finding::ok(SUBJECT, "/dev/net/tun is not there and not needed"),
        (false, true) if config.is_some() => {
            Finding::bad(SUBJECT, "there is no /dev/net/tun for the taps", mend)
        }
        (false, true) => Finding::warn(SUBJECT, "there is no /dev/net/tun for taps", mend),
    }
}

/// Where the governor of the cores is visible: those that may slow down.
fn governor(machine: &Machine, config: Option<&Config>) -> Option<Finding> {
    const DIR: &str = "sys/devices/system/cpu";
    let cores: Vec<usize> = match config {
        Some(config) => config.node.workers.clone(),
        None => machine
            .list(DIR)
            .iter()
            .filter_map(|name| name.strip_prefix("cpu")?.parse().ok())
            .collect(),
    };
    let governors: Vec<(usize, String)> = cores
        .iter()
        .filter_map(|&core| {
            let governor = machine.read(&format!("{DIR}/cpu{core}/cpufreq/scaling_governor"))?;
            Some((core, governor))
        })
        .collect();
    if governors.is_empty() {
        return None;
    }
    let slow: Vec<String> = governors
        .iter()
        .filter(|(_, governor)| governor != "performance")
        .map(|(core, governor)| format!("core {core}: {governor}"))
        .collect();
    Some(if slow.is_empty() {
        Finding::ok("governor", "performance")
    } else {
        Finding::warn("governor", slow.join(", "), "cpupower frequency-set -g performance")
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lines, machine};
    use super::*;
    use crate::manage::testing;

    const TWO_MB: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
    const ROOT: (&str, &str) = ("proc/self/status", "Name:\tshunt\nCapEff:\t000001ffffffffff\n");

    fn config(hugepages: bool) -> Config {
        let mut config = testing::config();
        config.dpdk.hugepages = hugepages;
        config
    }

    #[test]
    fn a_bare_machine() {
        let (_dir, m) = machine(&[("proc/self/status", "CapEff:\t0000000000003000\n")]);
        assert_eq!(
            lines(&findings(&m, None)),
            [
                "Bad privileges: missing: CAP_IPC_LOCK, CAP_SYS_ADMIN [run as root, or give the \
                 process these capabilities]",
                "Warn hugepages: none [sysctl -w vm.nr_hugepages=256 (or dpdk.hugepages = false)]",
                "Ok transparent hugepages: not in this kernel",
                "Warn tun device: there is no /dev/net/tun for taps [modprobe tun (in a container: \
                 --device /dev/net/tun)]",
            ]
        );
    }

    #[test]
    fn a_ready_machine() {
        let (_dir, m) = machine(&[
            ROOT,
            (&format!("{TWO_MB}/nr_hugepages"), "256\n"),
            (&format!("{TWO_MB}/free_hugepages"), "128\n"),
            ("proc/mounts", "none /dev/hugepages hugetlbfs rw 0 0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("dev/net/tun", ""),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
        ]);
        assert_eq!(
            lines(&findings(&m, Some(&config(true)))),
            [
                "Ok privileges: all that DPDK and the taps need",
                "Ok hugepages: 256.0 MiB free of 512.0 MiB",
                "Ok transparent hugepages: madvise",
                "Ok tun device: /dev/net/tun is there",
                "Ok governor: performance",
            ]
        );
    }

    #[test]
    fn too_few_hugepages_and_sleepy_cores() {
        let (_dir, m) = machine(&[
            ROOT,
            (&format!("{TWO_MB}/nr_hugepages"), "100\n"),
            (&format!("{TWO_MB}/free_hugepages"), "90\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
        ]);
        let mut config = config(true);
        config.ports[0].exception = Some("sl-front".into());
        assert_eq!(
            lines(&findings(&m, Some(&config)))[1..],
            [
                "Bad hugepages: 180.0 MiB free of 200.0 MiB; dpdk.memory_mb wants 256.0 MiB \
                 [sysctl -w vm.nr_hugepages=266 (or dpdk.hugepages = false)]",
                "Warn transparent hugepages: never: the session tables lie on small pages [echo \
                 madvise > /sys/kernel/mm/transparent_hugepage/enabled]",
                "Bad tun device: there is no /dev/net/tun for the taps [modprobe tun (in a \
                 container: --device /dev/net/tun)]",
                "Warn governor: core 1: powersave [cpupower frequency-set -g performance]",
            ]
        );
    }

    #[test]
    fn pages_without_a_mount_are_of_no_use() {
        let (_dir, m) = machine(&[
            ROOT,
            (&format!("{TWO_MB}/nr_hugepages"), "256\n"),
            (&format!("{TWO_MB}/free_hugepages"), "256\n"),
            ("proc/mounts", "tmpfs /tmp tmpfs rw 0 0\n"),
        ]);
        assert_eq!(
            lines(&[hugepages(&m, Some(&config(true))), hugepages(&m, Some(&config(false)))]),
            [
                "Bad hugepages: 512.0 MiB free of 512.0 MiB, but no hugetlbfs is mounted [mkdir \
                 -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages]",
                "Ok hugepages: not used (dpdk.hugepages = false)",
            ]
        );
    }
}
