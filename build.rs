//! Passes DPDK's link arguments on to the binaries and embeds the version.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by dpdk-sys (`links = "dpdk"`); absent without the feature `dpdk`.
    if let Ok(arguments) = env::var("DEP_DPDK_LINK_ARGS") {
        for argument in arguments.split_whitespace() {
            println!("cargo::rustc-link-arg={argument}");
        }
    }
    println!("cargo::rustc-env=SHUNT_VERSION={}", version());
}

/// The Cargo version, with the commit's short hash when this is a git checkout: `0.1.0 (1a2b3c4)`.
fn version() -> String {
    let cargo = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    match git_hash() {
        Some(hash) => format!("{cargo} ({hash})"),
        None => cargo,
    }
}

/// The hash, unless git is missing or these sources are not the top of a checkout (a tarball
/// unpacked inside somebody else's repository must not show that one's hash).
fn git_hash() -> Option<String> {
    let here = env::var("CARGO_MANIFEST_DIR").ok()?;
    if !std::path::Path::new(&here).join(".git").exists() {
        return None;
    }
    // HEAD names the branch; logs/HEAD grows with every commit and checkout.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&here, &["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&here, &["rev-parse", "--short", "HEAD"])
}

/// The first line that a git command prints.
fn git(dir: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(dir).args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
