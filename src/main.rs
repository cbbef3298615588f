//! The `shunt` command: composition only. The library does the work.

#[cfg(feature = "dpdk")]
mod run;

use std::process::ExitCode;

use shunt::cli::{self, Hooks};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    cli::main(&Hooks { run: run_command })
}

#[cfg(feature = "dpdk")]
fn run_command(path: &std::path::Path) -> anyhow::Result<()> {
    run::run(path)
}

#[cfg(not(feature = "dpdk"))]
fn run_command(_: &std::path::Path) -> anyhow::Result<()> {
    anyhow::bail!("this shunt was built without DPDK; build it with the cargo feature \"dpdk\"")
}
