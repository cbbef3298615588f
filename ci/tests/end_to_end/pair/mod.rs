//! Two nodes: one goes away, by every way there is, and nobody notices.
//!
//! The tests hold hundreds of connections, open new ones and download a file all the while; at the end
//! none may have been reset, closed, or have had a wrong byte. Who is master is asked of Shunt and,
//! apart from that, by ARP.

mod asymmetric;
mod groups;
mod interop;
mod itself;
mod keys;
mod mistakes;
mod partition;
pub(crate) mod rig;
mod takeover;
mod upgrade;

use std::sync::MutexGuard;
use std::time::Duration;

pub(crate) use crate::rig::SHUNT;

/// The pace of new connections where there shall be none.
const NONE: Duration = Duration::from_secs(3600);

/// Rigs stand one after the other, since they share the machine's cores.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    crate::rig::one_at_a_time()
}

fn plan(forwarding: rig::Forwarding) -> rig::Plan {
    rig::Plan::new(SHUNT, forwarding)
}
