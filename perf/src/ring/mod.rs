//! A worker's ports in memory, between two threads: frames that are used again and again, and a wire.
//!
//! Each thread has a stock of empty frames ([`stock_up`]); a frame that is dropped goes back to the
//! stock of the thread that drops it. Over a wire frames go to the other thread for good, so the
//! receiver gives an empty one of its own for each that it takes. Nothing is allocated for a packet.

mod io;

use std::cell::RefCell;

use arrayvec::ArrayVec;
use rtrb::{Consumer, Producer, RingBuffer};
use shunt::datapath::frame::{Frame, RxChecksum};
use shunt::datapath::snapshot::PortId;
use shunt::io::{BURST, Burst};
use shunt::prefetch;

pub use self::io::{CHANNEL, FRONT, Feed, RingIo, Told};

/// Bytes before a new frame.
const HEADROOM: usize = 128;
/// Bytes from its start on: the longest datagram of the channel has 1,442.
const ROOM: usize = 1536;

/// A packet buffer. An odd number of cache lines, so that they do not all begin in the same ones.
#[repr(align(64))]
struct Buffer {
    start: u16,
    len: u16,
    port: PortId,
    note: u64,
    bytes: [u8; HEADROOM + ROOM],
}

const _: () = assert!(size_of::<Buffer>() / 64 % 2 == 1);

/// A frame: a pointer, as of a network card. Dropped, it goes back to the stock.
pub struct RingFrame(Option<Box<Buffer>>);

thread_local! {
    static STOCK: RefCell<Vec<RingFrame>> = const { RefCell::new(Vec::new()) };
}

/// Gives this thread so many empty frames, and room for as many as it may ever hold.
pub fn stock_up(frames: usize, room: usize) {
    STOCK.with_borrow_mut(|stock| {
        stock.reserve(room.max(frames));
        stock.extend((0..frames).map(|_| RingFrame::new()));
    });
}

/// How many empty frames this thread has.
pub fn stock() -> usize {
    STOCK.with_borrow(Vec::len)
}

impl RingFrame {
    fn new() -> Self {
        let (start, port) = (HEADROOM as u16, PortId(0));
        RingFrame(Some(Box::new(Buffer { start, len: 0, port, note: 0, bytes: [0; _] })))
    }

    /// An empty frame of the stock.
    #[inline(always)]
    pub fn take() -> Option<Self> {
        let mut frame = STOCK.with_borrow_mut(Vec::pop)?;
        frame.clear(PortId(0), 0);
        Some(frame)
    }

    /// Makes it a frame of that length which came by `port`; what is in it is undefined.
    #[inline(always)]
    pub fn clear(&mut self, port: PortId, len: usize) {
        let buffer = self.buffer_mut();
        (buffer.start, buffer.len, buffer.port) = (HEADROOM as u16, len as u16, port);
    }

    #[inline(always)]
    fn buffer(&self) -> &Buffer {
        self.0.as_deref().expect("only a dropped frame has none")
    }

    #[inline(always)]
    fn buffer_mut(&mut self) -> &mut Buffer {
        self.0.as_deref_mut().expect("only a dropped frame has none")
    }
}

impl Drop for RingFrame {
    #[inline(always)]
    fn drop(&mut self) {
        let Some(buffer) = self.0.take() else { return };
        let mut back = Some(RingFrame(Some(buffer)));
        // At the end of its thread the stock is gone.
        let _ = STOCK.try_with(|stock| {
            if let Ok(mut stock) = stock.try_borrow_mut()
                && stock.len() < stock.capacity()
            {
                stock.extend(back.take());
            }
        });
        if let Some(mut frame) = back {
            frame.0 = None;
        }
    }
}

impl Frame for RingFrame {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        let buffer = self.buffer();
        let start = usize::from(buffer.start);
        &buffer.bytes[start..start + usize::from(buffer.len)]
    }
    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let buffer = self.buffer_mut();
        let start = usize::from(buffer.start);
        &mut buffer.bytes[start..start + usize::from(buffer.len)]
    }
    fn is_segmented(&self) -> bool {
        false
    }
    fn prepend(&mut self, n: usize) -> bool {
        let buffer = self.buffer_mut();
        if n > usize::from(buffer.start) {
            return false;
        }
        buffer.start -= n as u16;
        buffer.len += n as u16;
        true
    }
    fn trim_front(&mut self, n: usize) -> bool {
        let buffer = self.buffer_mut();
        if n > usize::from(buffer.len) {
            return false;
        }
        buffer.start += n as u16;
        buffer.len -= n as u16;
        true
    }
    fn set_len(&mut self, len: usize) -> bool {
        let buffer = self.buffer_mut();
        if usize::from(buffer.start) + len > buffer.bytes.len() {
            return false;
        }
        buffer.len = len as u16;
        true
    }
    #[inline(always)]
    fn rx_port(&self) -> PortId {
        self.buffer().port
    }
    fn set_rx_port(&mut self, port: PortId) {
        self.buffer_mut().port = port;
    }
    fn note(&self) -> u64 {
        self.buffer().note
    }
    fn set_note(&mut self, note: u64) {
        self.buffer_mut().note = note;
    }
    #[inline(always)]
    fn rx_checksum(&self) -> RxChecksum {
        RxChecksum::default()
    }
    #[inline(always)]
    fn prefetch_bytes(&self) {
        prefetch::read(self.bytes());
    }
}

/// The end of a wire that frames go in at.
pub struct Outlet {
    full: Producer<RingFrame>,
    empty: Consumer<RingFrame>,
}

/// The end of a wire that they come out at.
pub struct Inlet {
    full: Consumer<RingFrame>,
    empty: Producer<RingFrame>,
}

/// A wire one way, on which so many frames may be at a time.
pub fn wire(room: usize) -> (Outlet, Inlet) {
    let (full, full_out) = RingBuffer::new(room);
    // Each frame that was on it may have been given back since the sender looked last.
    let (empty_in, empty) = RingBuffer::new(room);
    (Outlet { full, empty }, Inlet { full: full_out, empty: empty_in })
}

impl Outlet {
    /// Sends frames from the front of `frames` and removes them. Returns how many; what remains found
    /// no room.
    pub fn send<const N: usize>(&mut self, frames: &mut ArrayVec<RingFrame, N>) -> usize {
        // What was given for those before goes to the stock.
        let given = self.empty.slots();
        if let Ok(chunk) = self.empty.read_chunk(given) {
            chunk.into_iter().for_each(drop);
        }
        let n = self.full.slots().min(frames.len());
        if let Ok(chunk) = self.full.write_chunk_uninit(n) {
            chunk.fill_from_iter(frames.drain(..n));
        }
        n
    }

    /// Sends one frame; `false` when it found no room and is gone.
    pub fn send_one(&mut self, frame: RingFrame) -> bool {
        let mut one = ArrayVec::<_, 1>::new();
        one.push(frame);
        self.send(&mut one) == 1
    }
}

impl Inlet {
    /// Receives frames up to the free room of `into`, as such that came by `port`. Returns how many.
    pub fn receive(&mut self, port: PortId, into: &mut Burst<RingFrame>) -> usize {
        let n = self.full.slots().min(into.remaining_capacity());
        if n == 0 {
            return 0;
        }
        // For each of them one of ours.
        let n = n.min(self.empty.slots()).min(stock()).min(BURST);
        let Ok(chunk) = self.full.read_chunk(n) else { return 0 };
        for mut frame in chunk {
            frame.set_rx_port(port);
            into.push(frame);
        }
        if let Ok(chunk) = self.empty.write_chunk_uninit(n) {
            STOCK.with_borrow_mut(|stock| {
                let from = stock.len() - n;
                chunk.fill_from_iter(stock.drain(from..));
            });
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &[u8]) -> RingFrame {
        let mut frame = RingFrame::take().unwrap();
        frame.clear(PortId(9), text.len());
        frame.bytes_mut().copy_from_slice(text);
        frame
    }

    #[test]
    fn a_dropped_frame_is_taken_again() {
        stock_up(2, 2);
        let (a, b) = (RingFrame::take().unwrap(), RingFrame::take().unwrap());
        assert!(RingFrame::take().is_none());
        let at = std::ptr::from_ref(a.buffer()).addr();
        drop(a);
        assert_eq!(stock(), 1);
        let a = RingFrame::take().unwrap();
        assert_eq!(std::ptr::from_ref(a.buffer()).addr(), at);
        // Beyond its room it takes none.
        stock_up(2, 2);
        let room = STOCK.with_borrow(Vec::capacity);
        drop((a, b));
        assert!(stock() <= room);
    }

    #[test]
    fn headroom_and_room_are_bounded() {
        stock_up(1, 1);
        let mut frame = frame(b"abc");
        assert!(frame.trim_front(1));
        assert_eq!(frame.bytes(), b"bc");
        assert!(!frame.trim_front(3));
        assert!(frame.prepend(HEADROOM + 1));
        assert!(!frame.prepend(1));
        assert!(frame.set_len(HEADROOM + ROOM));
        assert!(!frame.set_len(HEADROOM + ROOM + 1));
        drop(frame);
        let frame = RingFrame::take().unwrap();
        assert_eq!((frame.bytes().len(), frame.buffer().start), (0, HEADROOM as u16));
    }

    #[test]
    fn for_each_frame_that_comes_an_empty_one_goes_back() {
        stock_up(8, 64);
        let (mut outlet, inlet) = wire(4);
        let sends = |outlet: &mut Outlet, texts: &[&[u8]]| {
            let mut frames: ArrayVec<_, 8> = texts.iter().map(|text| frame(text)).collect();
            (outlet.send(&mut frames), frames.len())
        };
        assert_eq!(sends(&mut outlet, &[b"1", b"2", b"3", b"4", b"5"]), (4, 1));
        assert_eq!(stock(), 4, "the fifth came back");
        let inlet = std::thread::spawn(move || {
            let mut inlet = inlet;
            let mut burst = Burst::new();
            assert_eq!(
                inlet.receive(PortId(1), &mut burst),
                0,
                "there is nothing to give for them"
            );
            stock_up(3, 64);
            assert_eq!(inlet.receive(PortId(1), &mut burst), 3);
            let texts: Vec<_> = burst.iter().map(|frame| frame.bytes().to_vec()).collect();
            assert_eq!(texts, [b"1", b"2", b"3"]);
            assert!(burst.iter().all(|frame| frame.rx_port() == PortId(1)));
            burst.clear();
            assert_eq!(stock(), 3);
            inlet
        });
        let inlet = inlet.join().unwrap();
        assert_eq!(sends(&mut outlet, &[b"6", b"7"]), (2, 0));
        assert_eq!(stock(), 4 + 3 - 2);
        drop(inlet);
    }
}
