//! Frames and ports in memory: the test rig of the data path, and the network of the simulation.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Burst, BurstIo};
use crate::datapath::frame::{Frame, RxChecksum};
use crate::datapath::snapshot::PortId;

/// Headroom of a new frame in bytes, as in DPDK.
pub const HEADROOM: usize = 128;
/// The longest frame in bytes.
pub const ROOM: usize = 2048;

/// A frame on the heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFrame {
    room: Box<[u8]>,
    start: usize,
    len: usize,
    port: PortId,
    note: u64,
    checksum: RxChecksum,
    segmented: bool,
    /// When it went out: its place among all frames of its [`MemoryIo`].
    place: u64,
    /// Shared with the [`MemoryIo`] that gave the frame away: how many of those live.
    tally: Option<Arc<()>>,
}

impl MemoryFrame {
    /// A frame received on `port`. At most [`ROOM`] bytes.
    pub fn new(port: PortId, bytes: &[u8]) -> Self {
        let mut room = vec![0; HEADROOM + ROOM].into_boxed_slice();
        room[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        MemoryFrame {
            room,
            start: HEADROOM,
            len: bytes.len(),
            port,
            note: 0,
            checksum: RxChecksum::default(),
            segmented: false,
            place: 0,
            tally: None,
        }
    }

    /// The same frame with what its port says of the checksums.
    pub fn with_checksum(mut self, checksum: RxChecksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// The same frame, said to continue in another buffer.
    pub fn segmented(mut self) -> Self {
        self.segmented = true;
        self
    }

    /// Makes this frame another one without allocating: for benches.
    pub fn reset(&mut self, port: PortId, bytes: &[u8]) {
        self.start = HEADROOM;
        self.len = bytes.len();
        self.port = port;
        self.room[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
    }
}

impl Frame for MemoryFrame {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }
    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.len]
    }
    fn is_segmented(&self) -> bool {
        self.segmented
    }
    fn prepend(&mut self, n: usize) -> bool {
        if n > self.start {
            return false;
        }
        self.start -= n;
        self.len += n;
        true
    }
    fn trim_front(&mut self, n: usize) -> bool {
        if n > self.len {
            return false;
        }
        self.start += n;
        self.len -= n;
        true
    }
    fn set_len(&mut self, len: usize) -> bool {
        if self.start + len > self.room.len() {
            return false;
        }
        self.len = len;
        true
    }
    fn rx_port(&self) -> PortId {
        self.port
    }
    fn set_rx_port(&mut self, port: PortId) {
        self.port = port;
    }
    fn note(&self) -> u64 {
        self.note
    }
    fn set_note(&mut self, note: u64) {
        self.note = note;
    }
    fn rx_checksum(&self) -> RxChecksum {
        self.checksum
    }
}

/// Ports whose wires are queues in memory.
#[derive(Debug, Default)]
pub struct MemoryIo {
    /// Frames on their way in, by port.
    pub rx: Vec<VecDeque<MemoryFrame>>,
    /// Frames that went out, by port, oldest first.
    pub tx: Vec<Vec<MemoryFrame>>,
    /// How many more frames each port takes; `None` for any number.
    pub tx_room: Vec<Option<usize>>,
    /// Empty frames to give away before new ones are made.
    pub pool: Vec<MemoryFrame>,
    /// How many of the new ones may live at a time; `None` for any number.
    pub most: Option<usize>,
    /// How many frames went out.
    transmitted: u64,
    tally: Arc<()>,
}

impl MemoryIo {
    /// That many ports.
    pub fn new(ports: usize) -> Self {
        MemoryIo {
            rx: vec![VecDeque::new(); ports],
            tx: vec![Vec::new(); ports],
            tx_room: vec![None; ports],
            pool: Vec::new(),
            most: None,
            transmitted: 0,
            tally: Arc::default(),
        }
    }

    /// How many of the frames live that were made to give away.
    pub fn given_away(&self) -> usize {
        Arc::strong_count(&self.tally) - 1
    }

    /// Puts a frame on the wire towards `port`.
    pub fn arrive(&mut self, port: PortId, bytes: &[u8]) {
        self.rx[usize::from(port.0)].push_back(MemoryFrame::new(port, bytes));
    }

    /// Takes what `port` has sent.
    pub fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.tx[usize::from(port.0)].drain(..).map(|f| f.bytes().to_vec()).collect()
    }

    /// Takes what all ports have sent, in the order in which it went out.
    pub fn sent_in_order(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let ports = (0u8..).map(PortId).zip(&mut self.tx);
        let mut frames: Vec<_> =
            ports.flat_map(|(port, queue)| queue.drain(..).map(move |f| (port, f))).collect();
        frames.sort_by_key(|(_, frame)| frame.place);
        frames.into_iter().map(|(port, frame)| (port, frame.bytes().to_vec())).collect()
    }
}

impl BurstIo for MemoryIo {
    type Frame = MemoryFrame;

    fn receive(&mut self, port: PortId, into: &mut Burst<MemoryFrame>) -> usize {
        let queue = &mut self.rx[usize::from(port.0)];
        let n = queue.len().min(into.remaining_capacity());
        into.extend(queue.drain(..n));
        n
    }

    fn transmit<const N: usize>(
        &mut self,
        port: PortId,
        frames: &mut ArrayVec<MemoryFrame, N>,
    ) -> usize {
        let port = usize::from(port.0);
        let n = frames.len().min(self.tx_room[port].unwrap_or(usize::MAX));
        if let Some(room) = &mut self.tx_room[port] {
            *room -= n;
        }
        for mut frame in frames.drain(..n) {
            self.transmitted += 1;
            frame.place = self.transmitted;
            self.tx[port].push(frame);
        }
        n
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.pool.pop().or_else(|| {
            let one_more = self.most.is_none_or(|most| self.given_away() < most);
            one_more.then(|| MemoryFrame {
                tally: Some(self.tally.clone()),
                ..MemoryFrame::new(PortId(0), &[])
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_frame_stays_in_the_burst() {
        let mut io = MemoryIo::new(1);
        io.tx_room[0] = Some(1);
        let mut burst = Burst::new();
        burst.push(MemoryFrame::new(PortId(0), b"one"));
        burst.push(MemoryFrame::new(PortId(0), b"two"));
        assert_eq!(io.transmit(PortId(0), &mut burst), 1);
        assert_eq!(io.sent(PortId(0)), [b"one"]);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst[0].bytes(), b"two");
    }

    #[test]
    fn frames_given_away_are_counted_until_they_are_gone() {
        let mut io = MemoryIo::new(1);
        io.most = Some(2);
        let (first, second) = (io.allocate(), io.allocate());
        assert!(first.is_some() && second.is_some() && io.allocate().is_none());
        assert_eq!(io.given_away(), 2);
        drop(first);
        assert_eq!(io.given_away(), 1);
        assert!(io.allocate().is_some());
    }

    #[test]
    fn the_order_of_frames_on_several_ports_is_kept() {
        let mut io = MemoryIo::new(2);
        for (port, bytes) in [(1, b"a"), (0, b"b"), (1, b"c")] {
            let mut burst = Burst::new();
            burst.push(MemoryFrame::new(PortId(0), bytes));
            io.transmit(PortId(port), &mut burst);
        }
        let sent = io.sent_in_order();
        assert_eq!(sent, [(1, b"a"), (0, b"b"), (1, b"c")].map(|(p, b)| (PortId(p), b.to_vec())));
        assert!(io.sent_in_order().is_empty());
    }

    #[test]
    fn headroom_and_tailroom_are_bounded() {
        let mut frame = MemoryFrame::new(PortId(0), b"abc");
        assert!(frame.trim_front(1));
        assert_eq!(frame.bytes(), b"bc");
        assert!(!frame.trim_front(3));
        assert!(frame.prepend(HEADROOM + 1));
        assert!(!frame.prepend(1));
        assert!(frame.set_len(HEADROOM + ROOM));
        assert!(!frame.set_len(HEADROOM + ROOM + 1));
    }
}
