//! Which worker a packet belongs to (design §3): the one that owns its outer endpoint, the one that
//! is not on the real servers' side. Both directions of a session give the same answer.

use super::family::Family;
use super::snapshot::{LocalAddress, PortRole, Side, Snapshot};
use super::snat::rules;
use crate::wire::flow::FlowKey;
use crate::wire::toeplitz::Toeplitz;

/// The worker that owns a packet with this key, received on a port of this role.
#[inline]
pub fn owner<A: Family>(
    snapshot: &Snapshot,
    toeplitz: &Toeplitz,
    role: PortRole,
    key: &FlowKey<A>,
) -> u8 {
    let from_client = match role {
        PortRole::Wire { side: Side::Client, .. } => {
            // What goes to an address pool of SNAT belongs to the host inside that stands behind it.
            snapshot.snat.is_empty()
                || !matches!(A::local(snapshot, key.dst), Some(LocalAddress::Pool(_)))
        }
        PortRole::Wire { side: Side::Server | Side::Both, .. } | PortRole::Exception { .. } => {
            match A::local(snapshot, key.dst) {
                // A real server may be the client of a service as well.
                Some(LocalAddress::Vip) => true,
                local if !snapshot.snat.is_empty() => {
                    let (address, port) = rules::steers_by(snapshot, key, local);
                    return snapshot.worker_of[A::bucket(toeplitz, address, port)];
                }
                _ => false,
            }
        }
    };
    let (address, port) = if from_client { (key.src, key.sport) } else { (key.dst, key.dport) };
    snapshot.worker_of[A::bucket(toeplitz, address, port)]
}
