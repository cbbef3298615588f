//! A packet buffer as the pipeline sees it: bytes, room in front, a little metadata.
//!
//! DPDK's mbuf implements it in production, [`crate::io::memory::MemoryFrame`] in tests,
//! simulation, fuzzing and benches, so all of them run the identical pipeline.

use super::snapshot::PortId;

/// What the receiving port says about the checksums of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RxChecksum {
    /// The IPv4 header checksum was verified by the port and is good.
    pub ip_good: bool,
    /// The IPv4 header checksum was verified by the port and is wrong.
    pub ip_bad: bool,
    /// The TCP/UDP checksum was verified by the port and is wrong.
    pub transport_bad: bool,
    /// The data is good, but the sender left the TCP/UDP checksum unfinished (virtio, veth): it
    /// must be computed in full before the packet leaves.
    pub transport_partial: bool,
}

/// A packet buffer that is owned: dropping it frees it.
pub trait Frame {
    /// The frame's bytes, from the Ethernet header on, without FCS.
    fn bytes(&self) -> &[u8];
    /// The same, writable.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Whether the frame's bytes continue in another buffer (it is then dropped).
    fn is_segmented(&self) -> bool;
    /// Makes `n` bytes of room in front of the frame; their content is undefined. `false`, and
    /// nothing changed, when there is no headroom.
    fn prepend(&mut self, n: usize) -> bool;
    /// Takes `n` bytes off the front. `false`, and nothing changed, when the frame is shorter.
    fn trim_front(&mut self, n: usize) -> bool;
    /// Sets the length in bytes, growing into the tailroom (content undefined) or cutting the end.
    /// `false`, and nothing changed, when there is no tailroom.
    fn set_len(&mut self, len: usize) -> bool;
    /// The port the frame was received on.
    fn rx_port(&self) -> PortId;
    /// Says that the frame came by another port: the VLAN of the device it was received on.
    fn set_rx_port(&mut self, port: PortId);
    /// What one worker tells the next with a packet it hands over (see [`super::note`]). Undefined
    /// on a frame that was just received.
    fn note(&self) -> u64;
    /// Sets the note.
    fn set_note(&mut self, note: u64);
    /// What the receiving port said about the checksums.
    fn rx_checksum(&self) -> RxChecksum;
    /// Hints that the frame's metadata is read soon.
    fn prefetch_meta(&self) {}
    /// Hints that the frame's first cache line is read soon.
    fn prefetch_bytes(&self) {}
}
