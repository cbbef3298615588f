//! The packets of a session whose server differs from what the client was promised.

use super::notes::Adaptation;
use crate::datapath::family::Family;
use crate::session::Direction;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::tcp_flags;
use crate::wire::{checksum, tcp};

/// Makes good in a packet of an established session what the client was promised and the server
/// does not keep. Before addresses are rewritten.
pub(in crate::datapath) fn adapt<A: Family>(frame: &mut [u8], note: u32, direction: Direction) {
    let adaptation = Adaptation::unpack(note);
    let Some(header) = frame.get_mut(A::TRANSPORT..).and_then(|t| t.first_chunk_mut::<20>()) else {
        return;
    };
    if header[tcp::field::FLAGS] & tcp_flags::SYN != 0 {
        return;
    }
    let bits = match direction {
        Direction::Forward => adaptation.forward as i8,
        Direction::Reply => adaptation.reply,
    };
    if bits != 0 {
        let old = u16::from_be_bytes([header[14], header[15]]);
        let new = match bits {
            0.. => (u32::from(old) << bits).min(0xffff) as u16,
            _ => old >> bits.unsigned_abs(),
        };
        header[14..16].copy_from_slice(&new.to_be_bytes());
        let sum = u16::from_be_bytes([header[16], header[17]]);
        let sum = checksum::apply(sum, checksum::delta16(old, new));
        header[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    if adaptation.no_ecn && direction == Direction::Forward {
        take_ecn_off::<A>(frame);
    }
}

/// Not-ECT (RFC 3168 5) in the lowest bits of the IPv4 DSCP byte or the IPv6 traffic class.
fn take_ecn_off<A: Family>(frame: &mut [u8]) {
    let header = &mut frame[ETHERNET..A::TRANSPORT];
    let word = |header: &[u8]| u16::from_be_bytes([header[0], header[1]]);
    let old = word(header);
    if A::V6 {
        header[1] &= !0x30;
    } else {
        header[1] &= !0x03;
        let sum = u16::from_be_bytes([header[10], header[11]]);
        let sum = checksum::apply(sum, checksum::delta16(old, word(header)));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
