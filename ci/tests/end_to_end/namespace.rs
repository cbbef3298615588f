//! Network namespaces, and code that runs inside them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::thread;

use tokio::sync::oneshot;

/// A named network namespace. Dropping it deletes it, and with it the interfaces inside.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates it, with the loopback up and no IPv6 address detection to wait for.
    pub(crate) fn new(name: String) -> Self {
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Namespace { name };
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0");
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0");
        namespace.sysctl("net.ipv6.conf.default.router_solicitations", "0");
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip ARGUMENTS` inside; the arguments are separated by spaces.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split(' ')))
    }

    /// Sets a kernel parameter of the namespace.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        run(self.command("sysctl").args(["-qw", &format!("{key}={value}")]));
    }

    /// Makes the kernel of the namespace finish what it sends over `interface`: whole checksums,
    /// no super-packets. A veth would otherwise leave that to hardware that does not exist.
    pub(crate) fn no_offload(&self, interface: &str) {
        let off = ["tx", "rx", "tso", "gso", "gro"].map(|what| [what, "off"]);
        run(self.command("ethtool").args(["-K", interface]).args(off.as_flattened()));
    }

    /// Runs `work` on a thread inside the namespace and waits for its result.
    pub(crate) fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let inside = || {
                move_this_thread(&self.name);
                work()
            };
            match scope.spawn(inside).join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts `work` in an asynchronous runtime on a thread inside the namespace. It is cancelled
    /// when the returned task is dropped.
    pub(crate) fn spawn<W>(&self, work: impl FnOnce() -> W + Send + 'static) -> Task
    where
        W: Future<Output = ()>,
    {
        let (stop, stopped) = oneshot::channel();
        let name = self.name.clone();
        let thread = thread::spawn(move || {
            move_this_thread(&name);
            runtime().block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = work() => {}
                }
            });
        });
        Task { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing to do about an error here; the message shows which one is left.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Work inside a namespace; ends when dropped.
#[derive(Debug)]
pub(crate) struct Task {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Task {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("a server in a namespace panicked");
        }
    }
}

/// A runtime on the calling thread, so that its sockets belong to the thread's namespace.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime")
}

fn move_this_thread(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).expect("the namespace's file");
    // SAFETY: setns takes a descriptor, which `file` keeps open over the call, and a flag; it
    // touches no memory of ours. It moves only the calling thread, which is ours alone.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns {name}: {}", std::io::Error::last_os_error());
}

/// Runs a command that must succeed; what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
    text
}

/// Allows this process the files that a thousand connections need at both ends.
pub(crate) fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing over the call.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(read, 0, "getrlimit");
    limit.rlim_cur = limit.rlim_cur.max(limit.rlim_max.min(16_384));
    // SAFETY: `limit` is valid for reading over the call.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(set, 0, "setrlimit");
}
