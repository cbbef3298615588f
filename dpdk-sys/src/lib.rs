//! Raw bindings to DPDK, made at build time over a tight allowlist (see `build.rs`).
//!
//! Names, arguments and return values are DPDK's own: see its API documentation at
//! <https://doc.dpdk.org/api-22.11/>. Functions that DPDK has as `static inline` are here too, as
//! calls to compiled wrappers: a call costs a few nanoseconds, so call them per burst. Fields of
//! `rte_mbuf` are read and written in Rust.
//!
//! Only `shunt::dpdk` and the packet generator in `perf` use this crate.
#![no_std]

#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    rustdoc::all,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// `RTE_ETH_RSS_L3_SRC_ONLY`; see `wrapper.h`.
pub const DPDK_ETH_RSS_L3_SRC_ONLY: u64 = 1 << DPDK_ETH_RSS_L3_SRC_ONLY_BIT;
