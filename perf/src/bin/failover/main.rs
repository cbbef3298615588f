//! What users notice when a node of a pair goes away, and when packets go by one node and come back by
//! the other: the rig of the end-to-end tests (`ci/tests/end_to_end/pair/rig`), with a release build
//! and many more connections.
//!
//! `perf/failover` and `perf/asymmetric` build it and run it. It needs root and what `ci/setup`
//! installs.

mod asymmetric;
mod events;
// Only part of each is used here.
#[allow(dead_code)]
#[path = "../../../../ci/tests/end_to_end/namespace.rs"]
mod namespace;
#[allow(dead_code, unused_imports)]
#[path = "../../../../ci/tests/end_to_end/pair/rig/mod.rs"]
mod pair;
#[path = "../../../../ci/tests/end_to_end/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../../../../ci/tests/end_to_end/raw.rs"]
mod raw;

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, Subcommand};

/// Measures a pair of Shunt nodes between real kernels.
#[derive(Parser)]
#[command(name = "failover")]
struct Arguments {
    /// The `shunt` to measure.
    #[arg(long)]
    shunt: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Held and new connections while nodes, cables and the channel fail.
    Events(events::Arguments),
    /// New connections forward through one node and back through the other.
    Asymmetric(asymmetric::Arguments),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.shunt.is_absolute(), "--shunt must be an absolute path");
    // SAFETY: geteuid reads the process's own credentials and cannot fail.
    ensure!(unsafe { libc::geteuid() } == 0, "network namespaces need root");
    namespace::raise_open_files();
    match arguments.what {
        What::Events(what) => events::measure(arguments.shunt, &what),
        What::Asymmetric(what) => asymmetric::measure(arguments.shunt, &what),
    }
    Ok(())
}
