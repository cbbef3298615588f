//! The ports of one node: [`FRONT`], where clients and servers are, and [`CHANNEL`], the wire to the
//! peer. What leaves by the front goes nowhere; what comes by it is made on the spot ([`Feed`]), as by
//! a network card that always has more, or comes over a wire from another thread.

use arrayvec::ArrayVec;
use shunt::datapath::frame::Frame;
use shunt::datapath::snapshot::PortId;
use shunt::io::{Burst, BurstIo};
use shunt::sync::datagram::HEADER;
use shunt::sync::record::kind;
use shunt::wire::flow::tcp_flags;
use shunt::wire::{ethernet, ip_protocol};

use super::{Inlet, Outlet, RingFrame};
use crate::template::Template;

/// Clients and servers.
pub const FRONT: PortId = PortId(0);
/// The channel to the peer, over IPv4.
pub const CHANNEL: PortId = PortId(1);

/// Headers before a datagram of the channel.
const OVERHEAD: usize = ethernet::HEADER_LEN + 20 + 8;
/// Packets that may be due at a time: those that were due earlier and found the node busy are not sent.
const BACKLOG: u64 = 64;
/// Odd, so that steps of it reach all flows of a power of two; neighbours in time are then none in the
/// session table.
const STEP: u32 = 0x9e37_79b1;

/// What comes in at the front.
#[derive(Debug, Default)]
pub enum Feed {
    /// Nothing.
    #[default]
    Nothing,
    /// One frame of each of the flows from `next` to `end`, as fast as the node takes them.
    New {
        /// What they carry.
        template: Template,
        /// The next flow.
        next: u32,
        /// Where to stop.
        end: u32,
    },
    /// The same flows again and again.
    Known {
        /// What they carry.
        template: Template,
        /// Of how many flows; a power of two.
        flows: u32,
        /// Counts packets.
        turn: u32,
        /// Packets per second; `None` for as many as the node takes.
        rate: Option<u64>,
        /// How many were due until now.
        due: u64,
        /// How many were sent or left out.
        past: u64,
    },
}

impl Feed {
    /// Packets that open one session each.
    pub const fn new_flows(template: Template, from: u32, end: u32) -> Self {
        Feed::New { template, next: from, end }
    }

    /// Packets of known sessions: of `flows` flows, a power of two.
    ///
    /// # Panics
    /// When it is no power of two.
    pub const fn known_flows(template: Template, flows: u32, rate: Option<u64>) -> Self {
        assert!(flows.is_power_of_two());
        Feed::Known { template, flows, turn: 0, rate, due: 0, past: 0 }
    }

    /// Whether all is sent.
    pub const fn is_over(&self) -> bool {
        match self {
            Feed::Nothing => true,
            Feed::New { next, end, .. } => *next >= *end,
            Feed::Known { .. } => false,
        }
    }

    /// Tells how late it is, in nanoseconds since any time.
    #[inline(always)]
    pub fn tick(&mut self, nanoseconds: u64) {
        if let Feed::Known { rate: Some(rate), due, past, .. } = self {
            *due = (u128::from(nanoseconds) * u128::from(*rate) / 1_000_000_000) as u64;
            *past = (*past).max(due.saturating_sub(BACKLOG));
        }
    }

    #[inline(always)]
    fn fill(&mut self, into: &mut Burst<RingFrame>) {
        let room = into.remaining_capacity();
        match self {
            Feed::Nothing => {}
            Feed::New { template, next, end } => {
                let n = room.min((*end - *next) as usize);
                for _ in 0..n {
                    let Some(frame) = made(template, *next) else { return };
                    *next += 1;
                    into.push(frame);
                }
            }
            Feed::Known { template, flows, turn, rate, due, past } => {
                let n = rate.map_or(room, |_| room.min((*due - *past) as usize));
                for _ in 0..n {
                    let flow = turn.wrapping_mul(STEP) & (*flows - 1);
                    let Some(frame) = made(template, flow) else { return };
                    *turn = turn.wrapping_add(1);
                    *past += 1;
                    into.push(frame);
                }
            }
        }
    }
}

/// The frame of a flow; `None` when the stock is empty.
#[inline(always)]
fn made(template: &Template, flow: u32) -> Option<RingFrame> {
    let mut frame = RingFrame::take()?;
    frame.clear(FRONT, template.len());
    template.write(flow, frame.bytes_mut());
    Some(frame)
}

/// What the peer was told of TCP sessions, and which SYNs have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Whether anything is counted.
    pub on: bool,
    /// Records of TCP sessions that have left, repetitions left out.
    pub sessions: u64,
    /// SYNs that have left.
    pub syns: u64,
    /// SYNs that left before the peer was told of their sessions.
    pub late: u64,
}

impl Told {
    fn datagram(&mut self, frame: &[u8]) {
        let Some(datagram) = frame.get(OVERHEAD..) else { return };
        // A stream's, not repeated.
        let Some(([_, _, _, 0, _, _, _, 0, ..], mut records)) =
            datagram.split_first_chunk::<HEADER>()
        else {
            return;
        };
        while let [of, length, ..] = *records {
            // Its first field is `born`, the second the protocol.
            if of == kind::SESSION || of == kind::SESSION + 1 {
                let protocol = records.get(6).copied();
                self.sessions += u64::from(protocol == Some(ip_protocol::TCP));
            }
            records = records.get(usize::from(length).max(2)..).unwrap_or_default();
        }
    }

    #[inline(always)]
    fn packet(&mut self, frame: &[u8]) {
        let (protocol_at, flags_at) = if frame[12] == 0x08 { (23, 47) } else { (20, 67) };
        if frame[protocol_at] == ip_protocol::TCP && frame[flags_at] == tcp_flags::SYN {
            self.syns += 1;
            self.late += u64::from(self.sessions < self.syns);
        }
    }
}

/// The ports of a node.
pub struct RingIo {
    /// What comes in at the front, made on the spot.
    pub feed: Feed,
    /// What comes in there from another thread; it goes first.
    pub from_clients: Option<Inlet>,
    /// In what order records and SYNs leave.
    pub told: Told,
    /// Every so many frames to the peer one is lost on the wire; 0 for none.
    pub lose_each: u32,
    sent: u32,
    to_peer: Outlet,
    from_peer: Inlet,
}

impl RingIo {
    /// With the ends of the wires to and from the peer.
    pub fn new(to_peer: Outlet, from_peer: Inlet) -> Self {
        let (feed, told) = (Feed::Nothing, Told::default());
        RingIo { feed, from_clients: None, told, lose_each: 0, sent: 0, to_peer, from_peer }
    }
}

impl BurstIo for RingIo {
    type Frame = RingFrame;

    #[inline(always)]
    fn receive(&mut self, port: PortId, into: &mut Burst<RingFrame>) -> usize {
        if port == CHANNEL {
            return self.from_peer.receive(CHANNEL, into);
        }
        let before = into.len();
        if let Some(inlet) = &mut self.from_clients {
            inlet.receive(FRONT, into);
        }
        self.feed.fill(into);
        into.len() - before
    }

    #[inline(always)]
    fn transmit<const N: usize>(
        &mut self,
        port: PortId,
        frames: &mut ArrayVec<RingFrame, N>,
    ) -> usize {
        if port == CHANNEL {
            if self.told.on {
                for frame in frames.iter() {
                    self.told.datagram(frame.bytes());
                }
            }
            let n = frames.len();
            if self.lose_each != 0 {
                frames.retain(|_| {
                    self.sent = self.sent.wrapping_add(1);
                    !self.sent.is_multiple_of(self.lose_each)
                });
            }
            let lost = n - frames.len();
            return lost + self.to_peer.send(frames);
        }
        if self.told.on {
            for frame in frames.iter() {
                self.told.packet(frame.bytes());
            }
        }
        let n = frames.len();
        frames.clear();
        n
    }

    fn allocate(&mut self) -> Option<RingFrame> {
        RingFrame::take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{stock, stock_up, wire};
    use crate::template::Carries;
    use std::collections::HashSet;

    fn io() -> RingIo {
        let ((to_peer, _), (_, from_peer)) = (wire(4), wire(4));
        RingIo::new(to_peer, from_peer)
    }

    #[test]
    fn a_flood_ends_and_known_flows_come_again() {
        stock_up(64, 64);
        let mut io = io();
        let mut burst = Burst::new();
        let udp = Template::new(false, Carries::Udp);
        io.feed = Feed::new_flows(udp.clone(), 7, 47);
        assert_eq!((io.receive(FRONT, &mut burst), io.feed.is_over()), (32, false));
        assert_eq!(io.transmit(FRONT, &mut burst), 32);
        assert_eq!((io.receive(FRONT, &mut burst), io.feed.is_over()), (8, true));
        burst.clear();
        assert_eq!((io.receive(FRONT, &mut burst), stock()), (0, 64));
        io.feed = Feed::known_flows(udp, 64, None);
        let mut seen = HashSet::new();
        for _ in 0..4 {
            assert_eq!(io.receive(FRONT, &mut burst), 32);
            seen.extend(burst.drain(..).map(|frame| frame.bytes().to_vec()));
        }
        assert_eq!(seen.len(), 64);
    }

    #[test]
    fn a_rate_is_kept_and_what_was_late_is_left_out() {
        stock_up(64, 64);
        let mut io = io();
        let mut burst = Burst::new();
        io.feed = Feed::known_flows(Template::new(false, Carries::Udp), 64, Some(1_000_000));
        let mut received = |io: &mut RingIo, nanoseconds| {
            io.feed.tick(nanoseconds);
            burst.clear();
            io.receive(FRONT, &mut burst)
        };
        assert_eq!(received(&mut io, 0), 0);
        assert_eq!(received(&mut io, 3_999), 3);
        assert_eq!(received(&mut io, 4_000), 1);
        assert_eq!(received(&mut io, 4_999), 0);
        assert_eq!(received(&mut io, 1_000_000_000), 32);
        assert_eq!(received(&mut io, 1_000_000_000), 32);
        assert_eq!(received(&mut io, 1_000_000_000), 0);
    }

    #[test]
    fn a_frame_that_is_lost_on_the_wire_has_left() {
        stock_up(8, 8);
        let ((to_peer, mut at_peer), (_, from_peer)) = (wire(8), wire(8));
        let mut io = RingIo::new(to_peer, from_peer);
        io.lose_each = 3;
        let mut frames: Burst<_> = (0..7).filter_map(|_| RingFrame::take()).collect();
        assert_eq!((io.transmit(CHANNEL, &mut frames), frames.len()), (7, 0));
        assert_eq!(stock(), 3, "two were lost, and one was never taken");
        let mut came = Burst::new();
        assert_eq!(at_peer.receive(CHANNEL, &mut came), 3, "one of ours for each that comes");
        assert_eq!(at_peer.receive(CHANNEL, &mut came), 0);
    }

    #[test]
    fn a_syn_that_leaves_before_its_record_is_late() {
        stock_up(8, 8);
        let mut told = Told { on: true, ..Told::default() };
        for v6 in [false, true] {
            let mut syn = [0; 128];
            let template = Template::new(v6, Carries::Syn);
            template.write(1, &mut syn);
            let mut datagram = [0; OVERHEAD + HEADER + 3 * 8 + 4];
            let records = &mut datagram[OVERHEAD + HEADER..];
            let session = kind::SESSION + u8::from(v6);
            records[..8].copy_from_slice(&[session, 8, 0, 0, 0, 0, ip_protocol::TCP, 0]);
            records[8..12].copy_from_slice(&[kind::DIGEST, 4, 6, 6]);
            records[12..20].copy_from_slice(&[session, 8, 0, 0, 0, 0, ip_protocol::UDP, 0]);
            records[20..28].copy_from_slice(&[kind::CLOSE, 8, 0, 0, 0, 0, ip_protocol::TCP, 0]);
            told = Told { on: true, ..Told::default() };
            told.datagram(&datagram);
            told.packet(&syn[..template.len()]);
            assert_eq!((told.sessions, told.syns, told.late), (1, 1, 0), "{v6}");
            told.packet(&syn[..template.len()]);
            assert_eq!((told.syns, told.late), (2, 1));
            datagram[OVERHEAD + 7] = 1;
            told.datagram(&datagram);
            assert_eq!(told.sessions, 1, "a repetition");
        }
        Template::new(false, Carries::Udp).write(1, &mut [0; 128]);
        told.packet(&[0; 60]);
        assert_eq!(told.syns, 2, "no SYN");
    }
}
