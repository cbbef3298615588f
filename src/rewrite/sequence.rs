//! TCP sequence numbers of a connection whose two sides count differently: something was put into
//! the stream on its way to the server, or the client was answered before the server was asked.
//!
//! | field | client to server | server to client |
//! |---|---|---|
//! | sequence number | + `forward` | + `reply` |
//! | acknowledgment number (only with ACK) | − `reply` | − `forward` |
//! | both edges of every SACK block (RFC 2018) | − `reply` | − `forward` |
//! | TSval (RFC 7323) | | + `time` |
//! | TSecr (RFC 7323, only with ACK) | − `time` | |
//!
//! All modulo 2^32; the checksum is updated by difference (RFC 1624), so a wrong one stays wrong.
//! Options stand at any alignment (RFC 9293 3.1): where one begins at an odd byte, its difference
//! counts with the bytes of each word exchanged (RFC 1071 2.B).

use crate::session::{Aside, Direction};
use crate::wire::checksum;
use crate::wire::flow::Address;
use crate::wire::tcp::{self, field, flags};

/// Option kind: end of the list.
const END: u8 = 0;
/// Option kind: one byte of nothing.
const NOP: u8 = 1;
/// Option kind: selective acknowledgments (RFC 2018 3).
const SACK: u8 = 5;
/// Option kind: timestamps (RFC 7323 3.2).
const TIMESTAMPS: u8 = 8;

/// By how much the two sides of a connection differ, modulo 2^32. The fields of the same names in
/// [`crate::session::Aside`] say what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Shifts {
    /// Added to the client's sequence numbers on their way to the server.
    pub forward: u32,
    /// Added to the server's sequence numbers on their way to the client.
    pub reply: u32,
    /// Added to the server's timestamps on their way to the client.
    pub time: u32,
}

impl Shifts {
    /// What undoes these shifts.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Shifts {
            forward: self.forward.wrapping_neg(),
            reply: self.reply.wrapping_neg(),
            time: self.time.wrapping_neg(),
        }
    }
}

impl From<&Aside> for Shifts {
    fn from(aside: &Aside) -> Self {
        Shifts { forward: aside.forward_shift, reply: aside.reply_shift, time: aside.time_shift }
    }
}

/// Gives a TCP segment that goes in this direction the numbers of the side it goes to.
///
/// The frame must be one that parsing returned as a TCP flow of this family; another one is left
/// alone. Options are read up to the first one whose length is wrong.
pub fn shift<A: Address>(frame: &mut [u8], direction: Direction, shifts: Shifts) {
    let Some(segment) = frame.get_mut(A::TRANSPORT..) else { return };
    let Some(header_len) = segment.get(field::DATA_OFFSET).map(|b| usize::from(b >> 4) * 4) else {
        return;
    };
    let Some(header) = segment.get_mut(..header_len) else { return };
    if header_len < field::URGENT + 2 {
        return;
    }
    let (own, others) = match direction {
        Direction::Forward => (shifts.forward, shifts.reply),
        Direction::Reply => (shifts.reply, shifts.forward),
    };
    let mut delta = add32(header, field::SEQ, own);
    let acknowledges = header[field::FLAGS] & flags::ACK != 0;
    if acknowledges {
        delta = checksum::add(delta, add32(header, field::ACK, others.wrapping_neg()));
    }
    let mut at = field::URGENT + 2;
    while let Some((kind, len)) = option(header, at) {
        match kind {
            SACK => {
                let edges = at + 2..at + len - (len - 2) % 8;
                for edge in edges.step_by(4) {
                    delta = checksum::add(delta, add32(header, edge, others.wrapping_neg()));
                }
            }
            TIMESTAMPS if len == 10 && direction == Direction::Reply => {
                delta = checksum::add(delta, add32(header, at + 2, shifts.time));
            }
            TIMESTAMPS if len == 10 && acknowledges => {
                delta = checksum::add(delta, add32(header, at + 6, shifts.time.wrapping_neg()));
            }
            _ => {}
        }
        at += len;
    }
    let sum = &mut header[field::CHECKSUM..field::CHECKSUM + 2];
    let new = checksum::apply(u16::from_be_bytes([sum[0], sum[1]]), delta);
    sum.copy_from_slice(&new.to_be_bytes());
}

/// Raises what a segment acknowledges, the edges of its SACK blocks included, to at least `floor`,
/// and lowers its window by `taken`: for the client of a connection whose server has not yet
/// acknowledged what was put into the stream at `floor`, and for which that window counts. The scale
/// of the window is not known here; with one it is lowered by more.
///
/// The frame must be one that parsing returned as a TCP flow of this family and has ACK set.
pub fn raise<A: Address>(frame: &mut [u8], floor: u32, taken: u16) {
    let Some(segment) = frame.get_mut(A::TRANSPORT..) else { return };
    let Ok(packet) = tcp::Packet::new_checked(&*segment) else { return };
    let (ack, window, header_len) = (packet.ack(), packet.window(), packet.header_len());
    let header = &mut segment[..header_len];
    let missing = |number: u32| (floor.wrapping_sub(number) as i32).max(0) as u32;
    let mut delta = add32(header, field::ACK, missing(ack));
    let lower = window.saturating_sub(taken);
    header[field::WINDOW..field::WINDOW + 2].copy_from_slice(&lower.to_be_bytes());
    delta = checksum::add(delta, checksum::delta16(window, lower));
    let mut at = tcp::HEADER_LEN;
    while let Some((kind, len)) = option(header, at) {
        if kind == SACK {
            for edge in (at + 2..at + len - (len - 2) % 8).step_by(4) {
                let Some(number) = header[edge..].first_chunk::<4>() else { break };
                let n = missing(u32::from_be_bytes(*number));
                delta = checksum::add(delta, add32(header, edge, n));
            }
        }
        at += len;
    }
    let sum = &mut header[field::CHECKSUM..field::CHECKSUM + 2];
    let new = checksum::apply(u16::from_be_bytes([sum[0], sum[1]]), delta);
    sum.copy_from_slice(&new.to_be_bytes());
}

/// Kind and length of the option that begins at `at` of a TCP header; `None` at the end of the list
/// and where an option does not lie within the header.
pub(super) fn option(header: &[u8], at: usize) -> Option<(u8, usize)> {
    match *header.get(at)? {
        END => None,
        NOP => Some((NOP, 1)),
        kind => {
            let len = usize::from(*header.get(at + 1)?);
            (len >= 2 && at + len <= header.len()).then_some((kind, len))
        }
    }
}

/// Adds to the 32 bits at `at` of a TCP header, which lie within it, and returns the difference
/// that this makes to the checksum.
fn add32(header: &mut [u8], at: usize, n: u32) -> u16 {
    let Some(word) = header[at..].first_chunk_mut::<4>() else { return 0 };
    let old = u32::from_be_bytes(*word);
    let new = old.wrapping_add(n);
    *word = new.to_be_bytes();
    let delta = checksum::add(
        checksum::delta16((old >> 16) as u16, (new >> 16) as u16),
        checksum::delta16(old as u16, new as u16),
    );
    if at.is_multiple_of(2) { delta } else { delta.swap_bytes() }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use etherparse::{PacketBuilder, TcpHeader};
    use proptest::prelude::*;

    use super::*;

    const SHIFTS: Shifts = Shifts { forward: 0x0001_0002, reply: 0xffff_0000, time: 0x0102_0304 };

    /// A segment with these options as they are and a right checksum.
    fn frame(v6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let start = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v6 {
            false => start.ipv4([192, 0, 2, 1], [198, 51, 100, 2], 64),
            true => start.ipv6([0x20; 16], [0x30; 16], 64),
        };
        let mut tcp = ip.tcp(1000, 80, 0xffff_fff0, 500).options_raw(options).unwrap();
        if flags & flags::ACK != 0 {
            tcp = tcp.ack(0x10);
        }
        if flags & flags::SYN != 0 {
            tcp = tcp.syn();
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn shifted(v6: bool, bytes: &mut [u8], direction: Direction, shifts: Shifts) {
        match v6 {
            false => shift::<Ipv4Addr>(bytes, direction, shifts),
            true => shift::<Ipv6Addr>(bytes, direction, shifts),
        }
    }

    /// The TCP header, after etherparse has found its checksum right.
    fn read(v6: bool, bytes: &[u8]) -> TcpHeader {
        let at = if v6 { 54 } else { 34 };
        let (header, payload) = TcpHeader::from_slice(&bytes[at..]).unwrap();
        let expected = match v6 {
            false => {
                header.calc_checksum_ipv4_raw([192, 0, 2, 1], [198, 51, 100, 2], payload).unwrap()
            }
            true => header.calc_checksum_ipv6_raw([0x20; 16], [0x30; 16], payload).unwrap(),
        };
        assert_eq!(header.checksum, expected);
        header
    }

    /// NOP, timestamps and two SACK blocks, each at an odd offset; two bytes of padding.
    fn options() -> Vec<u8> {
        let mut options = vec![NOP, TIMESTAMPS, 10];
        options.extend(0x0a00_0001u32.to_be_bytes());
        options.extend(0x0b00_0002u32.to_be_bytes());
        options.extend([SACK, 18]);
        for edge in [0x0000_0001u32, 0x0000_8000, 0x1000_0000, 0xffff_ffff] {
            options.extend(edge.to_be_bytes());
        }
        options.extend([END, 0xee, 0xee]);
        options
    }

    fn words(options: &[u8], at: [usize; 6]) -> [u32; 6] {
        at.map(|at| u32::from_be_bytes(options[at..at + 4].try_into().unwrap()))
    }

    const AT: [usize; 6] = [3, 7, 13, 17, 21, 25];

    #[test]
    fn a_segment_from_the_client() {
        for v6 in [false, true] {
            let mut bytes = frame(v6, flags::ACK, &options(), b"odd");
            shifted(v6, &mut bytes, Direction::Forward, SHIFTS);
            let header = read(v6, &bytes);
            assert_eq!(header.sequence_number, 0x0000_fff2);
            assert_eq!(header.acknowledgment_number, 0x0001_0010);
            assert_eq!(
                words(header.options.as_slice(), AT),
                [0x0a00_0001, 0x09fd_fcfe, 0x0001_0001, 0x0001_8000, 0x1001_0000, 0x0000_ffff]
            );
        }
    }

    #[test]
    fn a_segment_from_the_server() {
        for v6 in [false, true] {
            let mut bytes = frame(v6, flags::ACK, &options(), b"odd");
            shifted(v6, &mut bytes, Direction::Reply, SHIFTS);
            let header = read(v6, &bytes);
            assert_eq!(header.sequence_number, 0xfffe_fff0);
            assert_eq!(header.acknowledgment_number, 0xffff_000e);
            assert_eq!(
                words(header.options.as_slice(), AT),
                [0x0b02_0305, 0x0b00_0002, 0xfffe_ffff, 0xffff_7ffe, 0x0ffe_fffe, 0xfffe_fffd]
            );
        }
    }

    #[test]
    fn what_is_not_acknowledged_is_not_touched() {
        for v6 in [false, true] {
            let mut bytes = frame(v6, flags::SYN, &options(), b"");
            shifted(v6, &mut bytes, Direction::Forward, SHIFTS);
            let header = read(v6, &bytes);
            assert_eq!(header.sequence_number, 0x0000_fff2);
            assert_eq!(header.acknowledgment_number, 0);
            assert_eq!(words(header.options.as_slice(), AT)[..2], [0x0a00_0001, 0x0b00_0002]);
        }
    }

    #[test]
    fn an_option_that_is_cut_short_ends_the_list() {
        let whole = [TIMESTAMPS, 10, 0, 0, 0, 1, 0, 0, 0, 1, NOP, NOP];
        for wrong in [
            &[TIMESTAMPS, 9, 0, 0, 0, 1, 0, 0, 0, NOP, NOP, NOP][..],
            &[TIMESTAMPS, 13, 0, 0, 0, 1, 0, 0, 0, 1, NOP, NOP],
            &[7, 1, 0, 0, 0, 1, 0, 0, 0, 1, NOP, NOP],
            &[NOP, NOP, NOP, TIMESTAMPS],
            &[SACK, 6, 0, 0, 0, 0, NOP, NOP],
            &[SACK, 2, END, END],
        ] {
            let mut bytes = frame(false, flags::ACK, wrong, b"");
            shifted(false, &mut bytes, Direction::Reply, SHIFTS);
            let header = read(false, &bytes);
            assert_eq!(header.sequence_number, 0xfffe_fff0);
            assert_eq!(header.options.as_slice(), wrong);
        }
        let mut bytes = frame(false, flags::ACK, &whole, b"");
        shifted(false, &mut bytes, Direction::Reply, SHIFTS);
        assert_eq!(read(false, &bytes).options.as_slice()[2..6], [1, 2, 3, 5]);
    }

    #[test]
    fn an_acknowledgment_is_raised_and_the_window_lowered() {
        for v6 in [false, true] {
            for (floor, taken) in [(0x20, 45), (0x20, 501), (0x8, 0)] {
                let mut bytes = frame(v6, flags::ACK, &options(), b"odd");
                match v6 {
                    false => raise::<Ipv4Addr>(&mut bytes, floor, taken),
                    true => raise::<Ipv6Addr>(&mut bytes, floor, taken),
                }
                let header = read(v6, &bytes);
                assert_eq!(header.acknowledgment_number, floor.max(0x10));
                assert_eq!(header.window_size, 500u16.saturating_sub(taken));
                assert_eq!(
                    words(header.options.as_slice(), AT)[2..],
                    [floor, 0x0000_8000, 0x1000_0000, floor]
                );
            }
        }
    }

    #[test]
    fn frames_that_are_too_short_stay() {
        let whole = frame(false, flags::ACK, &options(), b"");
        for len in 0..whole.len() {
            let mut bytes = whole[..len].to_vec();
            shifted(false, &mut bytes, Direction::Forward, SHIFTS);
            assert_eq!(bytes, whole[..len], "{len}");
        }
        let mut bytes = whole.clone();
        bytes[34 + 12] = 0x40;
        let before = bytes.clone();
        shifted(false, &mut bytes, Direction::Forward, SHIFTS);
        assert_eq!(bytes, before);
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_identity(
            v6: bool, reply: bool, ack: bool, forward_shift: u32, reply_shift: u32, time: u32,
            words in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
            payload in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let direction = if reply { Direction::Reply } else { Direction::Forward };
            let shifts = Shifts { forward: forward_shift, reply: reply_shift, time };
            let flags = if ack { flags::ACK } else { flags::SYN };
            let before = frame(v6, flags, words.as_flattened(), &payload);
            let mut bytes = before.clone();
            shifted(v6, &mut bytes, direction, shifts);
            read(v6, &bytes);
            shifted(v6, &mut bytes, direction, shifts.reversed());
            prop_assert_eq!(bytes, before);
        }

        #[test]
        fn well_formed_options_there_and_back(
            v6: bool, reply: bool, shift_forward: u32, shift_reply: u32, time: u32,
            stamps: [u8; 8], edges: [u8; 16], odd in 0..3usize,
        ) {
            let mut options = vec![NOP; odd];
            options.extend([TIMESTAMPS, 10]);
            options.extend(stamps);
            options.extend([SACK, 18]);
            options.extend(edges);
            options.resize(options.len().next_multiple_of(4), END);
            let direction = if reply { Direction::Reply } else { Direction::Forward };
            let shifts = Shifts { forward: shift_forward, reply: shift_reply, time };
            let before = frame(v6, flags::ACK, &options, b"x");
            let mut bytes = before.clone();
            shifted(v6, &mut bytes, direction, shifts);
            read(v6, &bytes);
            shifted(v6, &mut bytes, direction, shifts.reversed());
            prop_assert_eq!(bytes, before);
        }
    }
}
