//! Bytes put into a TCP segment, in front of its data or of its options, and data taken out of it.
//!
//! Lengths and checksums follow by difference (RFC 1624), so a wrong checksum stays wrong. Frames
//! must be such as parsing returned as a TCP flow of the family, without Ethernet padding.

use crate::wire::checksum;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Address;
use crate::wire::tcp::{self, field, flags};

/// The longest TCP header, in bytes.
pub const MAX_TCP_HEADER: usize = 60;

/// Puts `bytes` in front of a segment's data and sets PSH, so that the receiver's application gets
/// them at once. The sequence number stays: it becomes that of the first byte put in.
///
/// `frame` begins with as many bytes of room (content undefined) as there are `bytes`, and the
/// frame follows.
pub fn data<A: Address>(frame: &mut [u8], bytes: &[u8]) {
    let Some(header_len) = header_len::<A>(&frame[bytes.len()..]) else { return };
    let at = A::TRANSPORT + header_len;
    move_up(frame, at, bytes);
    let (header, data) = frame[A::TRANSPORT..].split_at_mut(header_len);
    let mut delta = checksum::sum(bytes);
    if !bytes.len().is_multiple_of(2) {
        // What follows has changed from even to odd (RFC 1071 2.B).
        let behind = checksum::sum(&data[bytes.len()..]);
        delta = checksum::add(delta, checksum::delta16(behind, behind.swap_bytes()));
    }
    let offset = set_word(header, field::DATA_OFFSET, |word| word | u16::from(flags::PSH));
    delta = checksum::add(delta, offset);
    if header[field::FLAGS] & flags::URG != 0 {
        let urgent =
            set_word(header, field::URGENT, |word| word.saturating_add(bytes.len() as u16));
        delta = checksum::add(delta, urgent);
    }
    lengthen::<A>(frame, bytes.len() as i32, delta);
}

/// Puts an option in front of a segment's options. Its length is a multiple of 4 and the header is
/// with it no longer than [`MAX_TCP_HEADER`]. `frame` begins with room, as in [`data`].
pub fn option<A: Address>(frame: &mut [u8], option: &[u8]) {
    move_up(frame, A::TRANSPORT + tcp::HEADER_LEN, option);
    let header = &mut frame[A::TRANSPORT..];
    let offset =
        set_word(header, field::DATA_OFFSET, |word| word + ((option.len() as u16 / 4) << 12));
    let delta = checksum::add(checksum::sum(option), offset);
    lengthen::<A>(frame, option.len() as i32, delta);
}

/// Takes a segment's data away. The length that remains, for the frame to be cut to; `None` when
/// there was none to take.
pub fn cut_data<A: Address>(frame: &mut [u8]) -> Option<usize> {
    let end = A::TRANSPORT + header_len::<A>(frame)?;
    let data = frame.get(end..).filter(|data| !data.is_empty())?;
    let delta = checksum::negate(checksum::sum(data));
    lengthen::<A>(frame, -(data.len() as i32), delta);
    Some(end)
}

/// The length of the TCP header; `None` in a frame that has not all of it.
fn header_len<A: Address>(frame: &[u8]) -> Option<usize> {
    let segment = frame.get(A::TRANSPORT..)?;
    Some(tcp::Packet::new_checked(segment).ok()?.header_len())
}

/// Moves what is before `at` into the room in front, and puts `bytes` behind it.
fn move_up(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame.copy_within(bytes.len()..bytes.len() + at, 0);
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Changes a word of a header and returns the difference that makes to the checksum.
fn set_word(header: &mut [u8], at: usize, change: impl Fn(u16) -> u16) -> u16 {
    let old = u16::from_be_bytes([header[at], header[at + 1]]);
    let new = change(old);
    header[at..at + 2].copy_from_slice(&new.to_be_bytes());
    checksum::delta16(old, new)
}

/// Corrects the IP length by `n` and the checksums by that and by `delta`.
fn lengthen<A: Address>(frame: &mut [u8], n: i32, delta: u16) {
    let change = |word: u16| (i32::from(word) + n) as u16;
    // What the IP length changes by, the length in the pseudo header does (RFC 9293 3.1).
    let at = if A::V6 { ETHERNET + 4 } else { ETHERNET + 2 };
    let length = set_word(frame, at, change);
    if !A::V6 {
        apply(frame, ETHERNET + 10, length);
    }
    // The pseudo header's length is another number, but changes by as much: modulo 0xffff, as
    // one's complement counts, that is the same.
    apply(frame, A::TRANSPORT + field::CHECKSUM, checksum::add(delta, length));
}

fn apply(frame: &mut [u8], at: usize, delta: u16) {
    let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&checksum::apply(old, delta).to_be_bytes());
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// A segment with these options and data, all checksums right.
    pub(in crate::rewrite) fn frame(
        v6: bool,
        flags: u8,
        urgent: u16,
        options: &[u8],
        data: &[u8],
    ) -> Vec<u8> {
        let start = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v6 {
            false => start.ipv4([192, 0, 2, 1], [198, 51, 100, 2], 64),
            true => start.ipv6([0x20; 16], [0x30; 16], 64),
        };
        let mut tcp = ip.tcp(1000, 80, 7, 500).options_raw(options).unwrap();
        for (bit, set) in (0..8).map(|bit| (bit, flags >> bit & 1 == 1)) {
            tcp = match bit {
                1 if set => tcp.syn(),
                3 if set => tcp.psh(),
                4 if set => tcp.ack(9),
                5 if set => tcp.urg(urgent),
                _ => tcp,
            };
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, data).unwrap();
        bytes
    }

    /// The frame with room in front, changed by `change`.
    pub(in crate::rewrite) fn with_room(frame: &[u8], n: usize) -> Vec<u8> {
        let mut roomy = vec![0xee; n];
        roomy.extend(frame);
        roomy
    }

    proptest! {
        #[test]
        fn data_as_if_it_had_been_sent_so(
            v6: bool, ack: bool, urg: bool, urgent in 0..60_000u16,
            options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
            before in prop::collection::vec(any::<u8>(), 0..108),
            after in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let f = if ack { flags::ACK } else { 0 } | if urg { flags::URG } else { 0 };
            let urgent = if urg { urgent } else { 0 };
            let options = options.as_flattened();
            let mut bytes = with_room(&frame(v6, f, urgent, options, &after), before.len());
            match v6 {
                false => data::<Ipv4Addr>(&mut bytes, &before),
                true => data::<Ipv6Addr>(&mut bytes, &before),
            }
            let whole = [before.as_slice(), &after].concat();
            let urgent = if urg { urgent + before.len() as u16 } else { 0 };
            prop_assert_eq!(bytes, frame(v6, f | flags::PSH, urgent, options, &whole));
        }

        #[test]
        fn an_option_as_if_it_had_been_sent_so(
            v6: bool, ack: bool,
            options in prop::collection::vec(any::<[u8; 4]>(), 0..=5),
            new in prop::collection::vec(any::<[u8; 4]>(), 1..=5),
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let f = if ack { flags::ACK } else { flags::SYN };
            let new = new.as_flattened();
            let old = frame(v6, f, 0, options.as_flattened(), &payload);
            let mut bytes = with_room(&old, new.len());
            match v6 {
                false => option::<Ipv4Addr>(&mut bytes, new),
                true => option::<Ipv6Addr>(&mut bytes, new),
            }
            let all = [new, options.as_flattened()].concat();
            prop_assert_eq!(bytes, frame(v6, f, 0, &all, &payload));
        }

        #[test]
        fn without_data_as_if_there_had_been_none(
            v6: bool,
            options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = frame(v6, flags::SYN, 0, options.as_flattened(), &payload);
            let len = match v6 {
                false => cut_data::<Ipv4Addr>(&mut bytes),
                true => cut_data::<Ipv6Addr>(&mut bytes),
            };
            prop_assert_eq!(len.is_none(), payload.is_empty());
            bytes.truncate(len.unwrap_or(bytes.len()));
            prop_assert_eq!(bytes, frame(v6, flags::SYN, 0, options.as_flattened(), b""));
        }
    }
}
