//! Shunt: a layer-4 switch. Clients talk to a **virtual server** (VIP, protocol, port); Shunt
//! forwards each connection to one of its **real servers** at the speed of the wire.
//!
//! # The map of the house
//!
//! ```text
//!  NIC rx queues            NIC tx queues
//!    │  │  │                   ▲  ▲  ▲
//!  ┌─▼──┴──┴───────────────────┴──┴──┴─┐   worker:   one thread per core, run to completion
//!  │ worker 0 │ worker 1 │ … worker N-1 │   datapath: what a worker does to a burst
//!  │  shard 0 │  shard 1 │    shard N-1 │   session:  the shard that only its worker touches
//!  └──┬───▲───┴──┬───▲───┴──────┬───▲───┘   dpdk:     ports, buffers, memory
//!     │   │ commands, snapshots  │   │ events
//!  ┌──▼───┴──────────────────────▼───┴──┐
//!  │ management thread (async runtime)   │   manage:   config, health, neighbours, control socket
//!  └──────────────┬─────────────────────┘   cli:      the commands' output
//!         exception path (net_tap ⇄ kernel)
//! ```
//!
//! | module | what it is | imports |
//! |---|---|---|
//! | [`wire`] | bytes on the wire, one file per protocol; [`wire::flow`] makes a flow of a frame | nothing of ours |
//! | [`session`] | session table, timing wheel, TCP states, FullNAT ports | `wire` |
//! | [`sched`] | which real server a new session gets | `wire` |
//! | [`rewrite`] | what forwarding changes in a packet | `wire`, `session` |
//! | [`sync`] | the protocol that keeps the sessions of two nodes alike | `wire`, `session` |
//! | [`vrrp`] | which of two nodes answers for the addresses: the state machine of RFC 5798 | `wire`, `session` |
//! | [`datapath`] | the pipeline: burst in, verdicts out; snapshots, counters, next hops | all of these |
//! | [`io`] | [`io::BurstIo`], the ports as a worker sees them; in memory for tests | `datapath::frame` |
//! | `dpdk` | the same over DPDK; the only module that names it (feature `dpdk`) | `datapath`, `io` |
//! | [`worker`] | the loop, the messages to and from management | `datapath`, `io` |
//! | [`manage`] | everything that is not per packet | reaches the data path by messages only |
//! | [`cli`] | arguments and tables | `manage::api` |
//!
//! # What is always true
//!
//! 1. **One owner.** A session lives in one shard, a shard belongs to one worker. Nothing on the
//!    packet path locks, allocates, reads a clock or logs.
//! 2. **Nothing vanishes.** Every packet is forwarded, consumed, held or dropped with one
//!    [`wire::DropReason`]; [`datapath::counters::WorkerCounters::balanced`] says so.
//! 3. **A connection never changes its real server** while that server is up.
//! 4. **The core is pure.** Everything from `wire` to `io` takes bytes, a time and a seed, and has
//!    no `unsafe`: the code that runs on the NIC is the code the tests run in virtual time.
//! 5. **Bad input costs a counter**, never a panic, a leak or another user's packet.
//!
//! # Where a packet goes
//!
//! [`worker::Worker::poll`] → [`datapath::pipeline::Pipeline::process`] → parse
//! ([`wire::flow::parse`]), steer ([`datapath::steer`]), look up ([`session::Table`]), rewrite
//! ([`rewrite::nat`]), next hop ([`datapath::hops`]) → [`datapath::outbox::Outbox`] → the port.

pub mod cli;
pub mod datapath;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod io;
pub mod manage;
pub mod prefetch;
pub mod rewrite;
pub mod sched;
pub mod session;
pub mod sync;
pub mod vrrp;
pub mod wire;
pub mod worker;
