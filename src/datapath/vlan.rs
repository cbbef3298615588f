//! VLANs (IEEE 802.1Q): a device that carries several networks is several ports.
//!
//! Frames of such a device, a trunk, come in with one [`PortId`]: that of its untagged port, or of the
//! first. [`Trunks::sort`] gives each to the port of its VLAN and takes the tag off, before anything
//! else looks at it; on the way out [`PortQueue::tag`] puts the tag of the port on. In between a VLAN
//! port is a port like any other, and ports of devices without VLANs pay nothing.
//!
//! A tag with VLAN 0 only carries a priority: the frame counts as untagged, on every device. Frames
//! with two tags are dropped.

use arrayvec::ArrayVec;

use super::counters::{MAX_PORTS, WorkerCounters};
use super::frame::Frame;
use super::outbox::PortQueue;
use super::snapshot::{PortId, Snapshot};
use crate::io::Burst;
use crate::wire::DropReason;
use crate::wire::ethernet::{EtherType, HEADER_LEN as ETHERNET};

/// Length of a tag in bytes.
pub const TAG_LEN: usize = 4;
/// The VLAN in a tag; the other bits are priority.
const VLAN_MASK: u16 = 0x0fff;
/// The length of both MAC addresses.
const ADDRESSES: usize = 12;

/// Which ports share a device.
#[derive(Debug, Default)]
pub(super) struct Trunks {
    /// Bit p: frames of a trunk come in with port p.
    mask: u32,
    /// The port that a trunk's frames come in with, the VLAN (0 untagged) and its port.
    ports: ArrayVec<(PortId, u16, PortId), MAX_PORTS>,
}

const _: () = assert!(MAX_PORTS <= u32::BITS as usize);

impl Trunks {
    /// Takes a new configuration.
    pub(super) fn configure(&mut self, snapshot: &Snapshot) {
        *self = Trunks::default();
        for (port, id) in snapshot.ports.iter().zip(0..) {
            if let Some(trunk) = port.trunk {
                self.mask |= 1 << trunk.0;
                let _ = self.ports.try_push((trunk, port.vlan, PortId(id)));
            }
        }
    }

    /// Whether the frames that come in with this port are a trunk's.
    #[inline(always)]
    pub(super) fn carry(&self, port: PortId) -> bool {
        self.mask >> port.0 & 1 != 0
    }

    /// Gives the frames of a trunk, just received, to their ports and counts them there. Those that
    /// have none are dropped; they count for the trunk.
    #[cold]
    pub(super) fn sort<F: Frame>(
        &self,
        trunk: PortId,
        burst: &mut Burst<F>,
        counters: &WorkerCounters,
    ) {
        for frame in burst.iter() {
            frame.prefetch_bytes();
        }
        burst.retain(|frame| {
            let bytes = frame.bytes().len() as u64;
            let port = self.port_of(trunk, frame);
            let of_port = counters.port(*port.as_ref().unwrap_or(&trunk));
            of_port.rx_packets.add(1);
            of_port.rx_bytes.add(bytes);
            match port {
                Ok(port) => frame.set_rx_port(port),
                Err(reason) => counters.drops_of(reason).add(1),
            }
            port.is_ok()
        });
    }

    /// The port of a frame, which then has no tag.
    fn port_of<F: Frame>(&self, trunk: PortId, frame: &mut F) -> Result<PortId, DropReason> {
        let vlan = match tag(frame.bytes()) {
            Some(_) if has_two_tags(frame.bytes()) => return Err(DropReason::VlanTagged),
            Some(tag) => {
                strip(frame);
                tag & VLAN_MASK
            }
            None => 0,
        };
        let found = self.ports.iter().find(|(of, v, _)| *of == trunk && *v == vlan);
        match found {
            Some((.., port)) => Ok(*port),
            None if vlan == 0 => Err(DropReason::VlanMissing),
            None => Err(DropReason::VlanUnknown),
        }
    }
}

/// Takes a tag off that only carries a priority, from a frame of a port without VLANs. `false` when
/// it has none, or another tag behind it.
#[cold]
pub(super) fn strip_priority<F: Frame>(frame: &mut F) -> bool {
    if tag(frame.bytes()).is_none_or(|tag| tag & VLAN_MASK != 0) || has_two_tags(frame.bytes()) {
        return false;
    }
    strip(frame);
    true
}

/// Whether a frame that has a tag has another one behind it.
fn has_two_tags(bytes: &[u8]) -> bool {
    let inner = EtherType(be16(bytes, ADDRESSES + TAG_LEN));
    matches!(inner, EtherType::VLAN | EtherType::SERVICE_VLAN)
}

/// The tag of a frame that has one, and an EtherType behind it.
fn tag(bytes: &[u8]) -> Option<u16> {
    let tagged =
        bytes.len() >= ETHERNET + TAG_LEN && EtherType(be16(bytes, ADDRESSES)) == EtherType::VLAN;
    tagged.then(|| be16(bytes, ADDRESSES + 2))
}

fn strip<F: Frame>(frame: &mut F) {
    frame.bytes_mut().copy_within(..ADDRESSES, TAG_LEN);
    frame.trim_front(TAG_LEN);
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl<F: Frame> PortQueue<F> {
    /// Puts the tag of the port on the frames that wait for it. Returns how many packets are dropped
    /// since they have no headroom, which frames of an ordinary buffer do not come to.
    #[cold]
    #[inline(never)]
    pub fn tag(&mut self) -> u64 {
        let mut dropped = 0;
        for at in (0..self.frames.len()).rev() {
            let frame = &mut self.frames[at];
            if frame.prepend(TAG_LEN) {
                let bytes = frame.bytes_mut();
                bytes.copy_within(TAG_LEN..TAG_LEN + ADDRESSES, 0);
                bytes[ADDRESSES..][..2].copy_from_slice(&EtherType::VLAN.0.to_be_bytes());
                bytes[ADDRESSES + 2..][..2].copy_from_slice(&self.vlan.to_be_bytes());
                self.bytes += TAG_LEN;
                continue;
            }
            self.bytes -= frame.bytes().len();
            self.frames.remove(at);
            dropped += !self.originated >> at & 1;
            let before = self.originated & ((1 << at) - 1);
            self.originated = before | (self.originated >> at >> 1 << at);
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::outbox::Outbox;
    use crate::io::memory::{HEADROOM, MemoryFrame};

    #[test]
    fn a_frame_without_headroom_is_dropped_and_the_others_keep_their_marks() {
        let mut out: Outbox<MemoryFrame> = Outbox::new(1, 1);
        out.ports[0].vlan = 0x123;
        let frame = |n: u8| MemoryFrame::new(PortId(0), &[n; 60]);
        let full = |n: u8| {
            let mut frame = frame(n);
            assert!(frame.prepend(HEADROOM));
            frame
        };
        for (frame, originated) in [
            (frame(0), true),
            (full(1), false),
            (frame(2), false),
            (full(3), true),
            (frame(4), true),
        ] {
            out.to_port(PortId(0), frame, originated);
        }
        let queue = &mut out.ports[0];
        assert_eq!(queue.tag(), 1, "the packet; the frame of our own was never received");
        assert_eq!(queue.originated, 0b101);
        assert_eq!(queue.bytes, 3 * 64);
        for (frame, n) in queue.frames.iter().zip([0, 2, 4]) {
            assert_eq!(frame.bytes()[..12], [n; 12]);
            assert_eq!(frame.bytes()[12..18], [0x81, 0, 1, 0x23, n, n]);
            assert_eq!(frame.bytes().len(), 64);
        }
    }
}
