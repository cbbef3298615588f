//! The other node is keepalived: the two understand each other's adverts.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::process::Process;

use super::rig::{Forwarding, Pair, Plan, config};
use super::{one_at_a_time, plan};

/// Its interfaces with the virtual MAC addresses, of IPv4 and of IPv6.
const VMACS: [&str; 2] = ["vrrp10", "vrrp10v6"];

/// keepalived in a namespace on the front bridge, where node 1 would be.
struct Keepalived {
    // Before the namespace it lives in.
    process: Option<Process>,
    directory: PathBuf,
    namespace: Namespace,
}

impl Keepalived {
    fn new(pair: &Pair, priority: u8, vmac: bool) -> Self {
        let namespace = pair.fabric.namespace("keepalived");
        pair.fabric.plug(&namespace, "eth0", "front", "keepalived");
        namespace.ip(&format!("addr add {}/24 dev eth0", config::front(1)[0]));
        namespace.ip(&format!("addr add {}/64 dev eth0 nodad", config::front(1)[1]));
        // The interface of IPv6's MAC address does not answer for IPv4's address.
        namespace.sysctl("net.ipv4.conf.all.arp_ignore", "1");
        let directory = pair.directory().join("keepalived");
        fs::create_dir(&directory).expect("its directory");
        let mut text = "global_defs {
    vrrp_version 3
    vrrp_garp_master_delay 0
}
vrrp_sync_group pair {
    group {
        v4
        v6
    }
}
"
        .to_owned();
        for (family, length) in [(0, 24), (1, 64)] {
            let interface = match vmac {
                true => format!("use_vmac {}", VMACS[family]),
                false => String::new(),
            };
            text += &format!(
                "vrrp_instance v{} {{
    state BACKUP
    interface eth0
    {interface}
    virtual_router_id {}
    priority {priority}
    advert_int 0.1
    virtual_ipaddress {{
        {}/{length}
    }}
}}
",
                if family == 0 { 4 } else { 6 },
                config::GROUP,
                config::vip(family),
            );
        }
        fs::write(directory.join("keepalived.conf"), text).expect("its configuration");
        Keepalived { process: None, directory, namespace }
    }

    fn start(&mut self) {
        let mut command = self.namespace.command("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        for (option, file) in
            [("--use-file", "keepalived.conf"), ("--pid", "pid"), ("--vrrp_pid", "vrrp.pid")]
        {
            command.arg(option).arg(self.directory.join(file));
        }
        self.process = Some(Process::start(&mut command, &self.directory.join("log")));
    }

    /// Whether it has the VIP of a family.
    fn has(&self, family: usize) -> bool {
        self.namespace.ip("-oneline addr show").contains(&format!(" {}/", config::vip(family)))
    }

    fn is_master(&self) -> bool {
        self.has(0) && self.has(1)
    }

    fn is_backup(&self) -> bool {
        !self.has(0) && !self.has(1)
    }

    /// Ends it at once. Its parent would start the worker anew, so that stands still meanwhile.
    fn kill(&mut self) {
        let Some(parent) = self.process.take() else { return };
        let signal = |pid: i32, signal| {
            // SAFETY: kill only sends a signal. Both are processes of ours that have not ended.
            unsafe { libc::kill(pid, signal) };
        };
        signal(i32::try_from(parent.0.id()).expect("a process id"), libc::SIGSTOP);
        let worker = fs::read_to_string(self.directory.join("vrrp.pid")).unwrap_or_default();
        if let Ok(pid) = worker.trim().parse() {
            signal(pid, libc::SIGKILL);
        }
        drop(parent);
        // It refuses to start while it takes another for alive.
        for file in ["pid", "vrrp.pid"] {
            let _ = fs::remove_file(self.directory.join(file));
        }
        // A machine without power has no address either.
        for (family, length) in [(0, 24), (1, 64)] {
            if self.has(family) {
                let vmac = self.namespace.ip("-oneline link show").contains(VMACS[family]);
                self.namespace.ip(&match vmac {
                    true => format!("link del {}", VMACS[family]),
                    false => format!("addr del {}/{length} dev eth0", config::vip(family)),
                });
            }
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            eprintln!("--- keepalived\n{log}");
        }
        self.kill();
    }
}

/// Only the VIPs move, one of each family.
fn one_address(priority: u8) -> Plan {
    let mut plan = plan(Forwarding::Dr);
    plan.priorities = [priority, 0];
    // keepalived has no sessions to wait for.
    plan.ha_keys = "preempt_unsynced = true\n".to_owned();
    plan
}

fn stays(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        assert!(condition(), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Shunt has the higher priority: keepalived takes over when it dies and gives back when it returns.
#[test]
fn keepalived_is_the_backup() {
    let _alone = one_at_a_time();
    let mut pair = Pair::new(one_address(150));
    let mut other = Keepalived::new(&pair, 100, false);
    pair.nodes[0].start();
    pair.wait_for("Shunt is master", |pair| pair.nodes[0].is_master());
    other.start();
    stays("keepalived is backup", || other.is_backup() && pair.nodes[0].is_master());
    pair.assert_answering(0);

    pair.nodes[0].kill();
    pair.wait_for("keepalived is master", |_| other.is_master());
    assert_eq!(pair.answering(), ["keepalived"]);

    pair.nodes[0].start();
    pair.wait_for("Shunt has taken back", |pair| pair.nodes[0].is_master() && other.is_backup());
    pair.assert_answering(0);
    drop(other);
    pair.finish();
}

/// keepalived has the higher priority, with the virtual MAC address: Shunt takes over when it dies and
/// yields when it returns; of two masters the one of the higher priority remains.
#[test]
fn keepalived_is_the_master() {
    let _alone = one_at_a_time();
    let mut pair = Pair::new(one_address(100));
    let mut other = Keepalived::new(&pair, 200, true);
    other.start();
    pair.wait_for("keepalived is master", |_| other.is_master());
    pair.nodes[0].start();
    stays("Shunt is backup", || other.is_master() && !pair.nodes[0].is_master());
    assert_eq!(pair.answering(), ["keepalived"]);

    other.kill();
    pair.wait_for("Shunt is master", |pair| pair.nodes[0].is_master());
    pair.assert_answering(0);

    other.start();
    pair.wait_for("Shunt has yielded", |pair| other.is_master() && !pair.nodes[0].is_master());
    assert_eq!(pair.answering(), ["keepalived"]);

    let ports = ["front0", "keepalived"];
    pair.fabric.apart(&ports, true);
    pair.wait_for("both are master", |pair| other.is_master() && pair.nodes[0].is_master());
    pair.fabric.apart(&ports, false);
    pair.wait_for("one has yielded", |pair| !pair.nodes[0].is_master());
    stays("exactly one is master", || other.is_master() && !pair.nodes[0].is_master());
    assert_eq!(pair.answering(), ["keepalived"]);
    drop(other);
    pair.finish();
}
