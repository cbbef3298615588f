//! Child processes that end with the test.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A child process that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts it, with its output in the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let out = fs::File::create(log).expect("a log file");
        let err = out.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Process(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
