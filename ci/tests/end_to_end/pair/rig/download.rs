//! A large file that curl fetches slowly, so that something can happen meanwhile.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::namespace::{Namespace, run};
use crate::process::Process;

/// A running download.
#[derive(Debug)]
pub(crate) struct Download {
    curl: Process,
    original: PathBuf,
    copy: PathBuf,
    log: PathBuf,
}

/// Writes `megabytes` of bytes that do not repeat where nginx serves them, as `/large`.
pub(crate) fn make_file(directory: &Path, megabytes: usize) -> PathBuf {
    let path = directory.join("large");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).expect("a file"));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..megabytes * 1_000_000 / 8 {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_be_bytes()).expect("room for the file");
    }
    file.flush().expect("room for the file");
    path
}

impl Download {
    /// Starts curl from a virtual address at `megabytes` a second.
    pub(crate) fn start(
        client: &Namespace,
        vip: &str,
        original: PathBuf,
        megabytes: usize,
    ) -> Self {
        let url = format!("http://{vip}/large");
        let copy = original.with_file_name(format!("copy-{vip}"));
        let log = original.with_file_name(format!("curl-{vip}.log"));
        let mut curl = client.command("curl");
        curl.args(["-sSf", "--globoff", "--max-time", "120", "--limit-rate"])
            .arg(format!("{megabytes}M"))
            .arg("-o")
            .arg(&copy)
            .arg(&url);
        let curl = Process::start(&mut curl, &log);
        let mut download = Download { curl, original, copy, log };
        let begin = Instant::now();
        while download.received() == 0 {
            assert!(download.is_running(), "{}", download.trouble());
            assert!(begin.elapsed() < Duration::from_secs(20), "not a byte of {url}");
            std::thread::sleep(Duration::from_millis(20));
        }
        download
    }

    /// Bytes that have come so far.
    pub(crate) fn received(&self) -> u64 {
        fs::metadata(&self.copy).map_or(0, |file| file.len())
    }

    /// Whether it still goes on.
    pub(crate) fn is_running(&mut self) -> bool {
        self.curl.0.try_wait().expect("the state of a child").is_none()
    }

    /// Waits for its end; whether every byte is right, or what is not.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let status = self.curl.0.wait().expect("the end of a child");
        if !status.success() {
            return Err(format!(
                "curl: {status} after {} bytes: {}",
                self.received(),
                self.trouble()
            ));
        }
        let [original, copy] = [&self.original, &self.copy].map(|file| sha256(file));
        if original != copy {
            return Err(format!("sha256 {copy}, not {original}"));
        }
        Ok(())
    }

    fn trouble(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn sha256(file: &Path) -> String {
    let output = run(Command::new("sha256sum").arg(file));
    output.split(' ').next().expect("a hash").to_owned()
}
