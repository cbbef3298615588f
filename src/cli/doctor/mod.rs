//! `shunt doctor`: is this machine ready, and if not, what mends it?
//!
//! Only looks; changes nothing. What is looked at is below `/proc` and `/sys`, found under
//! [`Machine::root`] so that the tests can bring a machine of their own.

mod configured;
mod interface;
mod machine;
mod offload;
mod pair;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::output;
use crate::manage::config;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not in every case.
    Warn,
    /// `shunt run` will fail or misbehave.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    subject: String,
    level: Level,
    text: String,
    /// The command or the configuration that mends it.
    mend: Option<String>,
}

impl Finding {
    fn ok(subject: &str, text: impl Into<String>) -> Self {
        Finding { subject: subject.into(), level: Level::Ok, text: text.into(), mend: None }
    }

    fn warn(subject: &str, text: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Finding { subject: subject.into(), level: Level::Warn, text: text.into(), mend }
    }

    fn bad(subject: &str, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { level: Level::Bad, ..Finding::warn(subject, text, mend) }
    }
}

/// The machine: its files.
#[derive(Clone, Debug)]
struct Machine {
    /// `/`, or where a test has its own `proc` and `sys`.
    root: PathBuf,
}

impl Machine {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The trimmed content of a file; `None` when it cannot be read.
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_string())
    }

    /// Whether this process may write a file. It is opened, nothing more.
    fn writable(&self, path: &str) -> bool {
        fs::OpenOptions::new().write(true).open(self.path(path)).is_ok()
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a directory, sorted.
    fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Where a symbolic link points: the last part of the path.
    fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// Looks at the machine and prints what was found. Exit status 1 when something is bad.
pub(super) fn run(config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let config = match config {
        Some(file) => Some(config::load(file).map_err(|errors| {
            anyhow!("the configuration is not valid; see \"shunt check\":\n{errors}")
        })?),
        None => None,
    };
    let machine = Machine { root: PathBuf::from("/") };
    let mut findings = machine::findings(&machine, config.as_ref());
    if let Some(config) = &config {
        findings.extend(configured::findings(&machine, config));
        findings.extend(interface::findings(&machine, config, &offload::features));
        findings.extend(pair::findings(&machine, config));
    }
    if json {
        output::print_json(&serde_json::json!({ "findings": findings }))?;
    } else {
        output::print(&text(&findings))?;
    }
    let bad = findings.iter().any(|f| f.level == Level::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.subject.len()).max().unwrap_or(0);
    let mut out = String::new();
    for f in findings {
        let level = match f.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Bad => "BAD",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{level:<4}  {:<width$}  {}", f.subject, f.text);
        if let Some(mend) = &f.mend {
            let _ = writeln!(out, "{:<width$}  mend: {mend}", "", width = width + 6);
        }
    }
    out
}

#[cfg(test)]
mod testing {
    use super::*;

    /// A machine made of the given files (a path that ends in `/` is a directory).
    pub(super) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path_in = dir.path().join(path);
            if path.ends_with('/') {
                fs::create_dir_all(path_in).unwrap();
            } else {
                fs::create_dir_all(path_in.parent().unwrap()).unwrap();
                fs::write(path_in, content).unwrap();
            }
        }
        let machine = Machine { root: dir.path().to_path_buf() };
        (dir, machine)
    }

    /// The findings as lines `LEVEL subject: text [mend]`.
    pub(super) fn lines(findings: &[Finding]) -> Vec<String> {
        findings
            .iter()
            .map(|f| {
                let mend = f.mend.as_ref().map(|m| format!(" [{m}]")).unwrap_or_default();
                format!("{:?} {}: {}{mend}", f.level, f.subject, f.text)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_text() {
        let findings = [
            Finding::ok("tun device", "present"),
            Finding::warn("governor", "core 1: powersave", "cpupower frequency-set -g performance"),
            Finding::bad("core", "7 is not on this machine", "change node.workers"),
        ];
        assert_eq!(
            text(&findings),
            "\
ok    tun device  present
warn  governor    core 1: powersave
                  mend: cpupower frequency-set -g performance
BAD   core        7 is not on this machine
                  mend: change node.workers
"
        );
        assert_eq!(
            serde_json::to_string(&findings[0]).unwrap(),
            r#"{"subject":"tun device","level":"ok","text":"present","mend":null}"#
        );
    }
}
