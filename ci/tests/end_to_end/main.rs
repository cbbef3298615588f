//! End-to-end tests: the real binary between real kernels.
//!
//! Each test builds a [`rig::Rig`]: network namespaces with a client, real servers (nginx, iperf3,
//! echo) and `shunt run` on af_packet between them. It needs root, `/dev/net/tun` and the packages
//! of `ci/setup`. Rigs stand one after the other, since they share the machine's cores.
//!
//! ```text
//! cargo test --test end_to_end -- --nocapture http::nat
//! ```

mod between_families;
mod bulk;
mod commands;
mod connections;
mod decapsulate;
mod differential;
mod failure;
mod guard;
mod http;
mod introduce;
mod lifecycle;
mod namespace;
mod pair;
mod paths;
mod process;
mod raw;
mod reach;
mod rig;
mod rig_itself;
mod selection;
mod servers;
mod snat;
mod syn_proxy;
mod tunnels;
mod view;
mod vlans;
