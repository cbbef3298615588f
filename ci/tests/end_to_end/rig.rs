//! A whole installation in network namespaces, with `shunt run` in the middle.
//!
//! ```text
//!  nat, fullnat                                       dr
//!
//!  client ───── front [lb] back ──┬── server1         client ──┬── lan [lb]
//!  192.0.2.100    .2      10.0.0.1├── server2                  ├── server1  VIP on lo
//!                                 └── …10.0.0.11…              └── …192.0.2.11…
//! ```
//!
//! The same with IPv6: 2001:db8:1::/64 in front, 2001:db8:2::/64 behind. The lines that fork are a
//! bridge in a namespace of its own. The VIP is 192.0.2.10 and 2001:db8:1::10.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::namespace::{Namespace, raise_open_files, run};
use crate::process::Process;
use crate::servers::{ECHO, IPERF, RealServer};
use crate::view;

/// The binary under test.
pub(crate) const SHUNT: &str = env!("CARGO_BIN_EXE_shunt");
/// The port of the web service.
pub(crate) const WEB: u16 = 80;
/// How long anything may take to come true before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The virtual address.
pub(crate) fn vip(family: Family) -> IpAddr {
    family.pick("192.0.2.10", "2001:db8:1::10")
}

/// The client's address.
pub(crate) fn client(family: Family) -> IpAddr {
    family.pick("192.0.2.100", "2001:db8:1::100")
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// One of two addresses.
    pub(crate) fn pick(self, v4: &str, v6: &str) -> IpAddr {
        let text = if self == Family::V4 { v4 } else { v6 };
        text.parse().expect("an address")
    }
}

/// The forwarding mode of every service of a rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nat,
    FullNat,
    Dr,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Nat => "nat",
            Mode::FullNat => "fullnat",
            Mode::Dr => "dr",
        }
    }

    /// Where the servers' nginx listens: another port than the service's where Shunt rewrites it.
    pub(crate) fn web_port(self) -> u16 {
        if self == Mode::Dr { WEB } else { 8080 }
    }

    fn server_address(self, family: Family, n: usize) -> IpAddr {
        let (v4, v6) = match self {
            Mode::Dr => (format!("192.0.2.{}", 10 + n), format!("2001:db8:1::{:x}", 0x10 + n)),
            _ => (format!("10.0.0.{}", 10 + n), format!("2001:db8:2::{:x}", 0x10 + n)),
        };
        family.pick(&v4, &v6)
    }
}

/// What a rig is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// How many workers; they share the machine's first two cores.
    pub(crate) workers: usize,
    /// One server each.
    pub(crate) weights: Vec<u16>,
    /// Further keys of every `[[service]]`, each line ended.
    pub(crate) service_keys: String,
    /// Further keys of every `[[service]]` of TCP.
    pub(crate) tcp_keys: String,
    /// Further keys of every `[[service.server]]`.
    pub(crate) server_keys: String,
    /// Further keys of the port towards clients.
    pub(crate) front_keys: String,
    /// Further keys of the port towards servers.
    pub(crate) back_keys: String,
    /// Further sections of the file.
    pub(crate) sections: String,
    /// The two ports are taps, each bridged to its line: the kernel puts IPv4 fragments together
    /// before af_packet sees them. Not in direct return.
    pub(crate) taps: bool,
}

impl Plan {
    pub(crate) fn new(mode: Mode, workers: usize) -> Self {
        Plan {
            mode,
            workers,
            weights: vec![1, 1],
            service_keys: String::new(),
            tcp_keys: String::new(),
            server_keys: String::new(),
            front_keys: String::new(),
            back_keys: String::new(),
            sections: String::new(),
            taps: false,
        }
    }

    pub(crate) fn weights(mut self, weights: &[u16]) -> Self {
        self.weights = weights.to_vec();
        self
    }
}

/// A running installation. Dropping it ends what it started, and nothing else.
#[derive(Debug)]
pub(crate) struct Rig {
    // Processes before the namespaces they live in.
    shunt: Option<Process>,
    pub(crate) servers: Vec<RealServer>,
    pub(crate) client: Namespace,
    pub(crate) lb: Namespace,
    _fabric: Namespace,
    pub(crate) plan: Plan,
    directory: Option<TempDir>,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Rig {
    /// Builds it and waits until every server is up.
    pub(crate) fn start(plan: Plan) -> Self {
        let mut rig = Rig::without_shunt(plan);
        let config = rig.write_config("shunt.toml", &rig.config());
        rig.run_shunt(&config);
        rig
    }

    /// The namespaces and servers alone.
    pub(crate) fn without_shunt(plan: Plan) -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let one_at_a_time = one_at_a_time();

        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("shunt-{}-{number}", std::process::id());
        let namespace = |name: &str| Namespace::new(format!("{prefix}-{name}"));
        let directory =
            tempfile::Builder::new().prefix("shunt-e2e-").tempdir().expect("a directory");
        let fabric = namespace("fabric");
        fabric.ip("link add name bridge type bridge mcast_snooping 0");
        fabric.ip("link set bridge up");

        let lb = namespace("lb");
        // What arrives must leave by Shunt and not by the kernel.
        lb.sysctl("net.ipv4.ip_forward", "0");
        lb.sysctl("net.ipv6.conf.all.forwarding", "0");
        let client = namespace("client");
        if plan.mode == Mode::Dr {
            to_bridge(&fabric, &lb, "lan", "lb");
            to_bridge(&fabric, &client, "eth0", "client");
        } else {
            veth(&lb, "front", &client, "eth0");
            to_bridge(&fabric, &lb, "back", "lb");
        }
        client.ip("addr add 192.0.2.100/24 dev eth0");
        client.ip("addr add 2001:db8:1::100/64 dev eth0 nodad");

        let mut rig = Rig {
            shunt: None,
            servers: Vec::new(),
            client,
            lb,
            _fabric: fabric,
            plan,
            directory: Some(directory),
            _one_at_a_time: one_at_a_time,
        };
        for n in 1..=rig.plan.weights.len() {
            let namespace = namespace(&format!("server{n}"));
            to_bridge(&rig._fabric, &namespace, "eth0", &format!("server{n}"));
            let server = rig.real_server(n, namespace);
            rig.servers.push(server);
        }
        rig
    }

    fn real_server(&self, n: usize, namespace: Namespace) -> RealServer {
        let mode = self.plan.mode;
        let addresses = Family::BOTH.map(|family| mode.server_address(family, n));
        if mode == Mode::Dr {
            // The VIP is the server's own, but it must not tell anybody.
            for scope in ["all", "eth0"] {
                namespace.sysctl(&format!("net.ipv4.conf.{scope}.arp_ignore"), "1");
                namespace.sysctl(&format!("net.ipv4.conf.{scope}.arp_announce"), "2");
            }
            namespace.ip(&format!("addr add {}/32 dev lo", vip(Family::V4)));
            namespace.ip(&format!("addr add {}/128 dev lo nodad", vip(Family::V6)));
        }
        namespace.ip(&format!("addr add {}/24 dev eth0", addresses[0]));
        namespace.ip(&format!("addr add {}/64 dev eth0 nodad", addresses[1]));
        if mode == Mode::Nat {
            namespace.ip("route add default via 10.0.0.1");
            namespace.ip("-6 route add default via 2001:db8:2::1");
        }
        let bind = if mode == Mode::Dr { Family::BOTH.map(vip) } else { addresses };
        let files = self.directory();
        RealServer::start(format!("server{n}"), namespace, addresses, bind, mode.web_port(), &files)
    }

    /// The directory of the rig's files.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.as_ref().expect("kept until the end").path().to_owned()
    }

    /// Writes a configuration file.
    pub(crate) fn write_config(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory().join(name);
        fs::write(&path, text).expect("the configuration");
        path
    }

    /// The configuration that `plan` asks for.
    pub(crate) fn config(&self) -> String {
        let Plan { mode, workers, .. } = self.plan;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|n| (n % cores.min(2)).to_string()).collect();
        let device = |n: usize, interface: &str| match self.plan.taps {
            true => format!("\"net_tap{n},iface=tap-{interface}\""),
            false => {
                format!("\"net_af_packet{n},iface={interface},qpairs={}\"", workers.len())
            }
        };
        let vdevs = match mode {
            Mode::Dr => device(0, "lan"),
            _ => format!("{}, {}", device(0, "front"), device(1, "back")),
        };
        let mut text = format!(
            "[node]\nname = \"end-to-end\"\nworkers = [{}]\nidle = \"yield\"\nsessions = 65_536\n\n\
             [dpdk]\nmemory_mb = 512\nhugepages = false\nvdevs = [{vdevs}]\n\n\
             [api]\nsocket = \"{}\"\n\n",
            workers.join(", "),
            self.socket().display(),
        );
        match mode {
            Mode::Dr => {
                text += &port(
                    "lan",
                    0,
                    "both",
                    "192.0.2.2/24",
                    "2001:db8:1::2/64",
                    "",
                    &self.plan.front_keys,
                )
            }
            _ => {
                text += &port(
                    "front",
                    0,
                    "client",
                    "192.0.2.2/24",
                    "2001:db8:1::2/64",
                    "",
                    &self.plan.front_keys,
                );
                let lips = match mode {
                    Mode::FullNat => {
                        "\"10.0.0.201\", \"10.0.0.202\", \"2001:db8:2::201\", \"2001:db8:2::202\""
                    }
                    _ => "",
                };
                text += &port(
                    "back",
                    1,
                    "server",
                    "10.0.0.1/24",
                    "2001:db8:2::1/64",
                    lips,
                    &self.plan.back_keys,
                );
            }
        }
        if self.plan.taps {
            text = text.replace("device = \"net_af_packet", "device = \"net_tap");
        }
        let all = self.plan.weights.len();
        // Slow enough that a machine busy with something else does not take a server down.
        let http = "[service.health]\ntype = \"http\"\npath = \"/healthz\"\nexpect = \"200\"\n\
                    interval_ms = 1000\ntimeout_ms = 1000\nrise = 1\nfall = 3\n";
        let tcp = "[service.health]\ntype = \"tcp\"\ntimeout_ms = 1000\n";
        text += &self.service("web", "tcp", WEB, mode.web_port(), http, all);
        text += &self.service("echo", "tcp", ECHO, ECHO, tcp, all);
        text += &self.service("echo-udp", "udp", ECHO, ECHO, "", all);
        // iperf3 uses a TCP and a UDP connection that must meet the same server.
        text += &self.service("iperf", "tcp", IPERF, IPERF, "", 1);
        text += &self.service("iperf-udp", "udp", IPERF, IPERF, "", 1);
        text + &self.plan.sections
    }

    fn service(
        &self,
        name: &str,
        protocol: &str,
        port: u16,
        server_port: u16,
        health: &str,
        servers: usize,
    ) -> String {
        let listen =
            Family::BOTH.map(|family| format!("\"{}\"", SocketAddr::new(vip(family), port)));
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = [{}]\n\
             mode = \"{}\"\n{}{}{health}",
            listen.join(", "),
            self.plan.mode.name(),
            if protocol == "tcp" { &self.plan.tcp_keys } else { "" },
            self.plan.service_keys,
        );
        for (n, weight) in self.plan.weights.iter().enumerate().take(servers) {
            for family in Family::BOTH {
                let address = self.plan.mode.server_address(family, n + 1);
                let address = SocketAddr::new(address, server_port);
                text += &format!(
                    "[[service.server]]\naddress = \"{address}\"\nweight = {weight}\n{}",
                    self.plan.server_keys
                );
            }
        }
        text + "\n"
    }

    /// Starts `shunt run` with the configuration and waits until every server is up.
    pub(crate) fn run_shunt(&mut self, config: &std::path::Path) {
        let mut command = self.lb.command(SHUNT);
        command.arg("run").arg("--config").arg(config).env("RUST_LOG", "info");
        self.shunt = Some(Process::start(&mut command, &self.log_file()));
        self.wait_for("shunt answers on its control socket", |rig| {
            rig.assert_running();
            rig.try_shunt(&["status", "--json"]).status.success()
        });
        if self.plan.taps {
            for line in ["front", "back"] {
                self.bridge_tap(line);
            }
        }
        self.wait_for("every server is up and was asked", |rig| {
            let good = |s: &view::Server| match &s.health {
                Some(health) => s.up && health.latency_ms.is_some(),
                None => s.up,
            };
            rig.servers_view().iter().all(good)
        });
    }

    /// Joins a line to the tap that stands for it.
    fn bridge_tap(&self, line: &str) {
        let (bridge, tap) = (format!("bridge-{line}"), format!("tap-{line}"));
        self.lb.ip(&format!("link add name {bridge} type bridge mcast_snooping 0"));
        self.lb.ip(&format!("link set {bridge} up"));
        // The tap has the address of Shunt's port, which the bridge would take for its own.
        let address = if line == "front" { "02:00:00:00:fe:01" } else { "02:00:00:00:fe:02" };
        self.lb.ip(&format!("link set {tap} address {address}"));
        for member in [&tap, line] {
            self.lb.ip(&format!("link set {member} master {bridge}"));
        }
    }

    fn log_file(&self) -> PathBuf {
        self.directory().join("shunt.log")
    }

    fn socket(&self) -> PathBuf {
        self.directory().join("shunt.sock")
    }

    fn assert_running(&mut self) {
        let shunt = self.shunt.as_mut().expect("shunt was started");
        if let Some(status) = shunt.0.try_wait().expect("the state of a child") {
            panic!("shunt ended: {status}");
        }
    }

    /// Runs a command of `shunt` against the running one.
    pub(crate) fn try_shunt(&self, arguments: &[&str]) -> Output {
        Command::new(SHUNT)
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .expect("the binary starts")
    }

    /// The output of a command of `shunt` that must succeed.
    pub(crate) fn shunt(&self, arguments: &[&str]) -> String {
        let output = self.try_shunt(arguments);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "shunt {arguments:?}: {}\n{text}{error}", output.status);
        text
    }

    /// The same with `--json`.
    pub(crate) fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let text = self.shunt(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("shunt {arguments:?}: {e}\n{text}"))
    }

    /// `shunt servers`
    pub(crate) fn servers_view(&self) -> Vec<view::Server> {
        self.json::<view::Servers>(&["servers"]).servers
    }

    /// The service of that name.
    pub(crate) fn service_view(&self, name: &str) -> view::Service {
        let services = self.json::<view::Services>(&["services"]).services;
        services.into_iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no service {name}"))
    }

    /// How many packets were dropped for that reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let drops = self.json::<view::Drops>(&["drops"]).drops;
        let found = drops.iter().find(|d| d.reason == reason);
        found.unwrap_or_else(|| panic!("no drop reason {reason}")).packets
    }

    /// Whether the web service has server `n` (from 1) up, in both families.
    pub(crate) fn web_up(&self, n: usize) -> bool {
        let addresses = self.servers[n - 1].addresses;
        let view = self.servers_view();
        view.iter()
            .filter(|s| s.service == "web" && addresses.contains(&s.address.ip()))
            .all(|s| s.up)
    }

    /// Whether the web service has server `n` (from 1) down, in both families.
    pub(crate) fn web_down(&self, n: usize) -> bool {
        let addresses = self.servers[n - 1].addresses;
        let view = self.servers_view();
        view.iter()
            .filter(|s| s.service == "web" && addresses.contains(&s.address.ip()))
            .all(|s| !s.up)
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Rig) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the counters of every worker account for every packet.
    pub(crate) fn assert_balanced(&mut self) {
        // Counters are read while workers add to them; a true gap does not go away.
        self.wait_for("every worker accounts for every packet", |rig| {
            let workers = rig.json::<view::Workers>(&["workers"]).workers;
            assert_eq!(workers.len(), rig.plan.workers);
            workers.iter().all(|w| w.unaccounted_packets == 0 && w.missing() == 0)
        });
    }

    /// Sends `shunt run` a signal.
    pub(crate) fn signal_shunt(&self, signal: i32) {
        let shunt = self.shunt.as_ref().expect("shunt was started");
        let pid = i32::try_from(shunt.0.id()).expect("a process id");
        // SAFETY: kill only sends a signal. The child is ours and not yet waited for, so its id
        // cannot belong to another process.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} to shunt");
    }

    /// Ends `shunt run` as an operator would; it must end by itself and say it went well.
    pub(crate) fn stop_shunt(&mut self) {
        self.signal_shunt(libc::SIGTERM);
        let mut shunt = self.shunt.take().expect("shunt was started");
        let mut status = None;
        self.wait_for("shunt ends on SIGTERM", |_| {
            status = shunt.0.try_wait().expect("the state of a child");
            status.is_some()
        });
        assert_eq!(status.and_then(|s| s.code()), Some(0), "exit status after SIGTERM");
    }

    /// The end of every test: all packets accounted for, a clean stop, and no tap left behind.
    pub(crate) fn finish(mut self) {
        self.assert_balanced();
        self.stop_shunt();
        self.assert_no_taps();
    }

    /// None of the taps of the exception path exists.
    pub(crate) fn assert_no_taps(&self) {
        let links = self.lb.ip("-oneline link show");
        assert!(!links.contains("sl-"), "taps are left behind:\n{links}");
    }

    /// Opens TCP connections from the client, one after the other.
    pub(crate) fn connect(&self, family: Family, port: u16, count: usize) -> Vec<TcpStream> {
        let to = SocketAddr::new(vip(family), port);
        self.client.enter(|| {
            let connect = |n| {
                let stream = TcpStream::connect_timeout(&to, PATIENCE)
                    .unwrap_or_else(|e| panic!("connection {n} to {to}: {e}"));
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                stream
            };
            (0..count).map(connect).collect()
        })
    }

    /// Runs a program in the client's namespace; it must succeed.
    pub(crate) fn on_client(&self, program: &str, arguments: &[&str]) -> String {
        run(self.client.command(program).args(arguments))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        if self.shunt.is_some() {
            for command in ["status", "servers", "workers", "drops", "neighbors"] {
                let output = self.try_shunt(&[command]);
                eprintln!("--- shunt {command}\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
        eprintln!("--- log of shunt run\n{log}---");
        if let Some(directory) = self.directory.take() {
            eprintln!("logs and configuration are kept in {}", directory.keep().display());
        }
    }
}

/// Waits for the machine: rigs stand one after the other, since they share its cores. Looks whether it
/// can carry one at all.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RIGS: Mutex<()> = Mutex::new(());
    let one_at_a_time = RIGS.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: geteuid reads the process's own credentials and cannot fail.
    let user = unsafe { libc::geteuid() };
    assert_eq!(user, 0, "the end-to-end tests need root; ci/test uses sudo");
    raise_open_files();
    one_at_a_time
}

/// `[[port]]`, with a tap to the kernel.
fn port(name: &str, n: usize, side: &str, v4: &str, v6: &str, lips: &str, keys: &str) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\ndevice = \"net_af_packet{n}\"\nside = \"{side}\"\n\
         addresses = [\"{v4}\", \"{v6}\"]\nlocal_addresses = [{lips}]\nexception = \"sl-{name}\"\n{keys}\n"
    )
}

/// Joins two namespaces.
pub(crate) fn veth(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) {
    a.ip(&format!("link add name {a_name} type veth peer name {b_name} netns {}", b.name()));
    for (namespace, name) in [(a, a_name), (b, b_name)] {
        namespace.no_offload(name);
        namespace.ip(&format!("link set {name} up"));
    }
}

/// Joins a namespace to the bridge.
fn to_bridge(fabric: &Namespace, namespace: &Namespace, interface: &str, port: &str) {
    veth(namespace, interface, fabric, port);
    fabric.ip(&format!("link set {port} master bridge"));
}
