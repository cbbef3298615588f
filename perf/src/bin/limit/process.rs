//! Child processes that never outlive the measurement.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a process may take to stop after SIGTERM.
const STOP: Duration = Duration::from_secs(5);

/// A running program; dropping it ends it. Its output is in files.
pub(crate) struct Process {
    child: Child,
    name: String,
    output: PathBuf,
    errors: PathBuf,
}

impl Process {
    /// Starts a program ahead of all ordinary ones, in a session of its own (the kernel's autogroups
    /// weigh sessions before processes), and such that the kernel ends it should this program die
    /// first. Each of the helpers replaces itself by the next, so that the process id is the
    /// program's.
    pub(crate) fn start(
        directory: &Path,
        program: &Path,
        arguments: &[String],
    ) -> anyhow::Result<Process> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = directory.join(format!("{name}.out"));
        let errors = directory.join(format!("{name}.err"));
        let prefer = "echo -19 >/proc/self/autogroup; exec nice -n -19 \"$@\"";
        let child = Command::new("setsid")
            .args(["setpriv", "--pdeathsig", "TERM", "sh", "-c", prefer, "sh"])
            .arg(program)
            .args(arguments)
            // testpmd ends when its standard input does.
            .stdin(Stdio::piped())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process { child, name, output, errors })
    }

    /// What it has written to standard output.
    pub(crate) fn output(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.output)?).into_owned())
    }

    /// An error if it has ended.
    pub(crate) fn check_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended, {status}: {}", self.name, self.last_words()),
        }
    }

    /// Waits for its good end; `meanwhile` is called now and then and may end the wait.
    pub(crate) fn wait(
        &mut self,
        patience: Duration,
        mut meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} failed, {status}: {}", self.name, self.last_words()),
                None if Instant::now() > deadline => bail!("{} does not end", self.name),
                None => meanwhile()?,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what it wrote to standard error.
    fn last_words(&self) -> String {
        let text = fs::read(&self.errors).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(4)..].join(" | ")
    }

    fn stop(&mut self) {
        // It may have ended; its id stays its own until it is waited for.
        if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
