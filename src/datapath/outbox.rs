//! Where a burst goes: one queue for each port and each other worker, emptied after every burst.

use arrayvec::ArrayVec;

use super::frame::Frame;
use super::snapshot::PortId;

/// How many packets a queue takes: as many as a burst has, since each packet that comes in leaves
/// at most once and the queues are emptied after each burst.
pub const ROOM: usize = 32;

/// Frames on their way to one port.
#[derive(Debug)]
pub struct PortQueue<F> {
    /// The frames, oldest first.
    pub frames: ArrayVec<F, ROOM>,
    /// Bit i: frame i was made by Shunt, it is not a packet passed on.
    pub originated: u32,
    /// Bytes of all frames.
    pub bytes: usize,
}

/// The queues.
#[derive(Debug)]
pub struct Outbox<F> {
    /// By [`PortId`].
    pub ports: Vec<PortQueue<F>>,
    /// By worker.
    pub workers: Vec<ArrayVec<F, ROOM>>,
}

impl<F: Frame> Outbox<F> {
    /// Empty queues to that many ports and workers.
    pub fn new(ports: usize, workers: usize) -> Self {
        Outbox {
            ports: (0..ports)
                .map(|_| PortQueue { frames: ArrayVec::new(), originated: 0, bytes: 0 })
                .collect(),
            workers: (0..workers).map(|_| ArrayVec::new()).collect(),
        }
    }

    /// Queues a frame for a port. There is room: see [`ROOM`].
    #[inline(always)]
    pub fn to_port(&mut self, port: PortId, frame: F, originated: bool) {
        let queue = &mut self.ports[usize::from(port.0)];
        queue.originated |= u32::from(originated) << queue.frames.len();
        queue.bytes += frame.bytes().len();
        queue.frames.push(frame);
    }

    /// Queues a frame for another worker.
    #[inline(always)]
    pub fn to_worker(&mut self, worker: u8, frame: F) {
        self.workers[usize::from(worker)].push(frame);
    }
}
