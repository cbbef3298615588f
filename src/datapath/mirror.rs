//! Port mirroring: copies of packets, as they were received, for a sensor out of the path.
//!
//! A copy is the whole frame with the Ethernet header it came with, made in a spare buffer. Where
//! no buffer is left, or the frame is longer than the sensor's port takes, there is no copy; that is
//! counted, and the packet itself goes its way.

use super::family::Family;
use super::filter::Packet;
use super::frame::Frame;
use super::prefix_set::PrefixSet;
use super::shared::Shared;
use super::snapshot::{PortId, Snapshot};
use crate::session::ServiceId;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;

/// Index of a mirror in [`super::guard::Guard::mirrors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorId(pub u8);

/// The most mirrors there can be.
pub const MAX_MIRRORS: usize = 32;

/// A mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Its name in the configuration.
    pub name: String,
    /// The port the sensor is on.
    pub port: PortId,
    /// One packet in so many is copied, at least 1. Each worker counts for itself.
    pub sample: u32,
    /// Packets from and to these addresses are copied, besides those of services that name the
    /// mirror.
    pub matching: Option<PrefixSet>,
}

/// How many packets each mirror has still to pass over.
#[derive(Debug, Default)]
pub(super) struct Samplers(Vec<u32>);

impl Samplers {
    pub(super) fn configure(&mut self, snapshot: &Snapshot) {
        self.0.resize(snapshot.guard.mirrors.len(), 0);
    }
}

/// Copies a packet to every mirror that asks for one of its addresses.
pub(super) fn by_address<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    frame: &F,
    packet: &Packet<A>,
) {
    for id in 0..shared.snapshot.guard.mirrors.len() {
        let mirror = &shared.snapshot.guard.mirrors[id];
        let asked = mirror
            .matching
            .as_ref()
            .is_some_and(|set| set.contains(packet.src.into()) || set.contains(packet.dst.into()));
        if asked {
            copy(shared, MirrorId(id as u8), frame);
        }
    }
}

/// Copies a packet of a session to the mirror of its service, if it has one by now.
pub(super) fn of_service<F: Frame>(shared: &mut Shared<F>, service: ServiceId, frame: &F) {
    let service = shared.snapshot.services.get(usize::from(service.0));
    if let Some(mirror) = service.and_then(|service| service.mirror) {
        copy(shared, mirror, frame);
    }
}

/// Copies the frame if it is its turn. What the sensor sends is not copied back to it.
#[inline(never)]
fn copy<F: Frame>(shared: &mut Shared<F>, id: MirrorId, frame: &F) {
    let Some(mirror) = shared.snapshot.guard.mirrors.get(usize::from(id.0)) else { return };
    let Some(passed_over) = shared.samplers.0.get_mut(usize::from(id.0)) else { return };
    let port = mirror.port;
    if frame.rx_port() == port {
        return;
    }
    if *passed_over > 0 {
        *passed_over -= 1;
        return;
    }
    *passed_over = mirror.sample.saturating_sub(1);
    let bytes = frame.bytes();
    let fits = bytes.len() <= usize::from(shared.mtu(port)) + ETHERNET;
    match fits.then(|| shared.take_spare(bytes.len())).flatten() {
        Some(mut copy) => {
            copy.bytes_mut().copy_from_slice(bytes);
            shared.originate(port, copy);
            shared.counters.mirrored.add(1);
        }
        None => shared.counters.mirror_missed.add(1),
    }
}
