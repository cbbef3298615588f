//! Ports as the worker loop sees them: [`BurstIo`], and an implementation in memory.
//!
//! DPDK's is in `crate::dpdk`. The worker is generic over the trait and monomorphised.
#![forbid(unsafe_code)]

pub mod memory;
pub mod pool;

use crate::datapath::frame::Frame;
use crate::datapath::snapshot::PortId;
use arrayvec::ArrayVec;

/// How many frames a worker takes at a time.
pub const BURST: usize = 32;

/// A burst of frames.
pub type Burst<F> = ArrayVec<F, BURST>;

/// How many frames may wait for one port or worker after a burst: each packet of it leaves at most
/// once, and as many again may be made on the way (copies for a sensor, resets).
pub const QUEUE: usize = 2 * BURST;

/// Frames on their way to one port or worker.
pub type Queue<F> = ArrayVec<F, QUEUE>;

/// One worker's queues of every port: it receives from its own rx queues and transmits on its own
/// tx queues, and shares neither.
pub trait BurstIo {
    /// The packet buffer.
    type Frame: Frame;

    /// Receives up to the free room of `into` from this worker's queue of `port`, appending.
    /// Returns how many came. A port without a queue for this worker gives none.
    fn receive(&mut self, port: PortId, into: &mut Burst<Self::Frame>) -> usize;

    /// Transmits frames from the front of `frames` on this worker's queue of `port` and removes
    /// those that the port took. Returns how many; what remains was refused.
    fn transmit<const N: usize>(
        &mut self,
        port: PortId,
        frames: &mut ArrayVec<Self::Frame, N>,
    ) -> usize;

    /// A new frame of length 0 with headroom, for packets that Shunt makes itself.
    fn allocate(&mut self) -> Option<Self::Frame>;
}
