//! One node of a pair: `shunt run` in a namespace.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::namespace::Namespace;
use crate::process::Process;

use super::view::HaView;

/// How long anything may take to come true before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    /// 0 or 1.
    pub(crate) number: usize,
    /// The program; another one is used from the next start on.
    pub(crate) shunt: PathBuf,
    /// Where its files are.
    pub(crate) directory: PathBuf,
    process: Option<Process>,
    starts: usize,
    pub(crate) namespace: Namespace,
}

impl Node {
    /// One that does not run yet.
    pub(crate) fn new(
        number: usize,
        shunt: &Path,
        directory: PathBuf,
        namespace: Namespace,
    ) -> Self {
        fs::create_dir(&directory).expect("the node's directory");
        let shunt = shunt.to_owned();
        Node { number, shunt, directory, process: None, starts: 0, namespace }
    }

    /// Writes its configuration and its key, which nobody else may read.
    pub(crate) fn configure(&self, config: &str, key: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.directory.join("shunt.toml"), config).expect("the configuration");
        let file = self.directory.join("sync.key");
        fs::write(&file, key).expect("the key");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its permissions");
    }

    /// Starts the process, which may take a while to do anything.
    pub(crate) fn spawn(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.number);
        self.starts += 1;
        let mut command = self.namespace.command(self.shunt.to_str().expect("UTF-8"));
        command.args(["run", "--config"]).arg(self.directory.join("shunt.toml"));
        command.env("RUST_LOG", "info");
        self.process = Some(Process::start(&mut command, &self.log()));
    }

    /// Waits until it answers and has found every server up.
    pub(crate) fn wait_ready(&mut self) {
        self.wait_for("it answers on its control socket", |node| {
            node.try_shunt(&["status"]).status.success()
        });
        self.wait_for("every server is up", |node| {
            let servers = node.json(&["servers"]);
            servers["servers"].as_array().is_some_and(|all| all.iter().all(|s| s["up"] == true))
        });
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Whether its process is there.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take().expect("the node runs"));
    }

    /// Ends it as an operator would; it must end by itself and say it went well.
    pub(crate) fn stop(&mut self) {
        self.ask_to_stop();
        let status = self.wait_end();
        assert_eq!(status.code(), Some(0), "node {} after SIGTERM", self.number);
    }

    /// Sends SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Sends its process a signal.
    pub(crate) fn signal(&self, signal: i32) {
        let process = self.process.as_ref().expect("the node runs");
        let pid = i32::try_from(process.0.id()).expect("a process id");
        // SAFETY: kill only sends a signal. The child is ours and not yet waited for, so its id
        // cannot belong to another process.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} to node {}", self.number);
    }

    /// Waits until the process has ended.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the node runs");
        let begin = Instant::now();
        loop {
            if let Some(status) = process.0.try_wait().expect("the state of a child") {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "node {} does not end", self.number);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a command of `shunt` against it.
    pub(crate) fn try_shunt(&self, arguments: &[&str]) -> Output {
        Command::new(&self.shunt)
            .args(arguments)
            .arg("--socket")
            .arg(self.directory.join("shunt.sock"))
            .output()
            .expect("the binary starts")
    }

    /// The output of a command of `shunt` that must succeed.
    pub(crate) fn shunt(&self, arguments: &[&str]) -> String {
        let output = self.try_shunt(arguments);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let error = String::from_utf8_lossy(&output.stderr);
        let node = self.number;
        assert!(output.status.success(), "node {node}: shunt {arguments:?}: {text}{error}");
        text
    }

    /// The same with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.shunt(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("shunt {arguments:?}: {e}\n{text}"))
    }

    /// What it says of the pair; none while it does not answer. Asked of the control socket itself,
    /// which is so quick that hardly anything can happen between two answers.
    pub(crate) fn ha(&self) -> Option<HaView> {
        let mut socket = UnixStream::connect(self.directory.join("shunt.sock")).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket
            .write_all(b"GET /v1/ha HTTP/1.1\r\nHost: shunt\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        Some(HaView::new(&serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))))
    }

    /// Whether it says that it is master of every group.
    pub(crate) fn is_master(&self) -> bool {
        self.ha().is_some_and(|ha| ha.is_master())
    }

    /// Whether it says that it has every session of its peer.
    pub(crate) fn is_synced(&self) -> bool {
        self.ha().is_some_and(|ha| ha.is_synced())
    }

    /// Its sessions, and its copies of the peer's.
    pub(crate) fn sessions(&self) -> u64 {
        self.ha().map_or(0, |ha| ha.sessions())
    }

    /// How many packets it dropped for that reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let drops = self.json(&["drops"]);
        let mut drops = drops["drops"].as_array().into_iter().flatten();
        let found = drops.find(|drop| drop["reason"] == reason);
        found.and_then(|drop| drop["packets"].as_u64()).unwrap_or_else(|| panic!("no {reason}"))
    }

    /// Waits until `condition` holds; the node must go on running.
    pub(crate) fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Node) -> bool) {
        let begin = Instant::now();
        loop {
            let node = self.number;
            if let Some(process) = &mut self.process
                && let Some(status) = process.0.try_wait().expect("the state of a child")
            {
                panic!("node {node} ended: {status}");
            }
            if condition(self) {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "node {node}: waited {PATIENCE:?} in vain until {what}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until its counters account for every packet.
    pub(crate) fn assert_balanced(&mut self) {
        // Counters are read while workers add to them; a true gap does not go away.
        self.wait_for("every worker accounts for every packet", |node| {
            let workers = node.json(&["workers"]);
            let workers = workers["workers"].as_array().cloned().unwrap_or_default();
            !workers.is_empty() && workers.iter().all(|w| w["unaccounted_packets"] == 0)
        });
    }

    /// None of the taps of the exception path exists.
    pub(crate) fn assert_no_taps(&self) {
        let links = self.namespace.ip("-oneline link show");
        assert!(!links.contains("sl-"), "taps of node {} are left behind:\n{links}", self.number);
    }

    /// What its process has said since its start.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("shunt{}.log", self.starts))
    }

    /// All it has said, for one who looks for the reason of a failure.
    pub(crate) fn tell(&self) {
        for start in 1..=self.starts {
            let log = self.directory.join(format!("shunt{start}.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            eprintln!("--- node {}, start {start}\n{log}", self.number);
        }
        if self.runs() {
            for command in ["status", "ha", "servers", "workers", "drops", "neighbors", "ports"] {
                let output = self.try_shunt(&[command]);
                let text = String::from_utf8_lossy(&output.stdout);
                eprintln!("--- node {}: shunt {command}\n{text}", self.number);
            }
        }
    }
}
