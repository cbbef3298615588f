//! Where a burst goes: one queue for each port and each worker, emptied after every burst.

use super::frame::Frame;
use super::snapshot::{PortId, Snapshot};
use crate::io::Queue;

/// Frames on their way to one port.
#[derive(Debug)]
pub struct PortQueue<F> {
    /// The frames, oldest first.
    pub frames: Queue<F>,
    /// Bit i: frame i was made by Shunt, it is not a packet passed on.
    pub originated: u64,
    /// Bytes of all frames.
    pub bytes: usize,
    /// The VLAN whose tag the frames get on their way out; 0 for none.
    pub vlan: u16,
}

/// The queues.
#[derive(Debug)]
pub struct Outbox<F> {
    /// By [`PortId`].
    pub ports: Vec<PortQueue<F>>,
    /// The port that is served first: of the channel to the peer, so that the peer hears of a session
    /// before its packet leaves by whatever port, and this node of its peer's before their answers.
    first: usize,
    /// By worker. What a worker puts into its own queue goes through its pipeline once more.
    pub workers: Vec<Queue<F>>,
}

impl<F: Frame> Outbox<F> {
    /// Empty queues to that many ports and workers.
    pub fn new(ports: usize, workers: usize) -> Self {
        Outbox {
            ports: (0..ports)
                .map(|_| PortQueue { frames: Queue::new(), originated: 0, bytes: 0, vlan: 0 })
                .collect(),
            first: 0,
            workers: (0..workers).map(|_| Queue::new()).collect(),
        }
    }

    /// Takes the ports' VLANs from a new configuration.
    pub fn configure(&mut self, snapshot: &Snapshot) {
        for (queue, port) in self.ports.iter_mut().zip(&snapshot.ports) {
            queue.vlan = port.vlan;
        }
        self.first = snapshot.ha.as_ref().map_or(0, |ha| usize::from(ha.channel.port.0));
    }

    /// The port that is served in this turn.
    #[inline(always)]
    pub fn in_turn(&self, turn: usize) -> usize {
        match turn {
            0 => self.first,
            turn if turn <= self.first => turn - 1,
            turn => turn,
        }
    }

    /// Queues a frame for a port. There is room: of a burst each packet leaves at most once, and the
    /// pipeline makes no more frames of its own than that.
    #[inline(always)]
    pub fn to_port(&mut self, port: PortId, frame: F, originated: bool) {
        let queue = &mut self.ports[usize::from(port.0)];
        queue.originated |= u64::from(originated) << queue.frames.len();
        queue.bytes += frame.bytes().len();
        queue.frames.push(frame);
    }

    /// Queues a frame for another worker.
    #[inline(always)]
    pub fn to_worker(&mut self, worker: u8, frame: F) {
        self.workers[usize::from(worker)].push(frame);
    }
}
