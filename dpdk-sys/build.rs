//! Makes the bindings to the libdpdk that pkg-config finds.
//!
//! - The flags of `pkg-config --cflags libdpdk` go to clang and to cc as they are: the header
//!   layout depends on `-include rte_config.h` and `-march`, which the pkg-config crate drops.
//! - DPDK's static inline functions get wrappers in C (`wrap_static_fns`) that Rust can call.
//! - The link arguments reach the final binary by `DEP_DPDK_LINK_ARGS` (see `links` in Cargo.toml),
//!   which the root build.rs reads: `rustc-link-arg` of a library does not go further than itself.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// Functions, as regular expressions of whole names.
const FUNCTIONS: &[&str] = &[
    // EAL
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_has_hugepages",
    "rte_eal_iova_mode",
    "rte_eal_process_type",
    "dpdk_errno",
    "rte_strerror",
    "rte_version",
    "rte_openlog_stream",
    "rte_log_cur_msg_loglevel",
    "rte_log_set_global_level",
    "rte_log_set_level_pattern",
    "fopencookie",
    // Threads and time
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_lcore_id",
    "rte_lcore_count",
    "rte_socket_id",
    "rte_get_main_lcore",
    "rte_rdtsc",
    "rte_get_tsc_hz",
    // Buffers
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_mempool_free",
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_alloc",
    "rte_pktmbuf_alloc_bulk",
    "rte_pktmbuf_free",
    "rte_pktmbuf_free_bulk",
    // Ports
    "rte_eth_dev_count_avail",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_find_next",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_socket_id",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_macaddr_get",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_mac_addr_add",
    "rte_eth_promiscuous_enable",
    "rte_eth_allmulticast_enable",
    "rte_eth_link_get_nowait",
    "rte_eth_stats_get",
    "rte_eth_stats_reset",
    "rte_eth_rx_burst",
    "rte_eth_tx_burst",
];

/// Types that no allowed function brings along.
const TYPES: &[&str] = &["rte_eth_rss_reta_entry64", "cookie_io_functions_t"];

/// Types whose inside is nobody's business.
const OPAQUE: &[&str] = &["_IO_FILE", "rte_mempool", "rte_device", "rte_eth_dev"];

/// Constants.
const CONSTANTS: &[&str] = &[
    "RTE_MAX_LCORE",
    "RTE_MAX_ETHPORTS",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_ETH_LINK_UP",
    "RTE_ETH_LINK_FULL_DUPLEX",
    "RTE_ETHER_HDR_LEN",
    "RTE_ETHER_CRC_LEN",
    "RTE_LOG_(EMERG|ALERT|CRIT|ERR|WARNING|NOTICE|INFO|DEBUG)",
    "DPDK_(ETH|MBUF)_.*",
    "RTE_VER_(YEAR|MONTH|MINOR)",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_LIBDIR");

    let cflags = pkg_config("--cflags");
    let libs = pkg_config("--libs");
    require_libclang();

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    generate(&cflags, &out);
    compile_wrappers(&cflags, &out);
    link(&libs);
}

/// The words that `pkg-config WHAT libdpdk` prints.
fn pkg_config(what: &str) -> Vec<String> {
    let output = match Command::new("pkg-config").args([what, "libdpdk"]).output() {
        Ok(output) => output,
        Err(error) => fail(&format!(
            "pkg-config does not run ({error}). Install it: apt-get install pkg-config"
        )),
    };
    if !output.status.success() {
        fail("pkg-config does not find libdpdk. Install DPDK: apt-get install libdpdk-dev");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().map(str::to_owned).collect()
}

/// bindgen panics at length when it finds no libclang; this says what to install.
fn require_libclang() {
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    if clang_sys::load().is_err() {
        fail("libclang is missing. Install it: apt-get install libclang-dev clang");
    }
}

/// Writes `bindings.rs` and, for the static inline functions, `inlines.c` into `out`.
fn generate(cflags: &[String], out: &std::path::Path) {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .wrap_static_fns(true)
        .wrap_static_fns_path(out.join("inlines"))
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(false)
        .derive_default(true)
        .use_core();
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    match builder.generate() {
        Ok(bindings) => {
            bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR is writable")
        }
        Err(error) => fail(&format!(
            "clang does not parse DPDK's headers: {error}. Packages: apt-get install libdpdk-dev \
             libclang-dev clang"
        )),
    }
}

/// Compiles the wrappers of the static inline functions.
fn compile_wrappers(cflags: &[String], out: &std::path::Path) {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut build = cc::Build::new();
    // DPDK's inline functions are meant for an optimising compiler, in every profile.
    build.file(out.join("inlines.c")).include(here).opt_level(3).warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    if let Err(error) = build.try_compile("dpdk_inlines") {
        fail(&format!("the C compiler fails: {error}. Packages: apt-get install gcc libdpdk-dev"));
    }
}

/// Tells cargo what to link. The libraries reach every binary by cargo itself; the other words
/// (search paths, linker flags) do not, so they are handed to the root package as `LINK_ARGS`.
///
/// The drivers are no link dependencies: EAL loads them as plugins from the directory that was
/// compiled into libdpdk.
fn link(libs: &[String]) {
    let mut others = Vec::new();
    for word in libs {
        if let Some(name) = word.strip_prefix("-l") {
            println!("cargo::rustc-link-lib=dylib={name}");
        } else if let Some(dir) = word.strip_prefix("-L") {
            // pkg-config prints -L only for a DPDK outside the system's own directories; the
            // loader does not look there either.
            println!("cargo::rustc-link-search=native={dir}");
            others.push(format!("-Wl,-rpath,{dir}"));
        } else {
            others.push(word.clone());
        }
    }
    println!("cargo::metadata=LINK_ARGS={}", others.join(" "));
}

/// Ends the build with one clear line.
fn fail(why: &str) -> ! {
    println!("cargo::error=dpdk-sys: {why}");
    exit(1)
}
