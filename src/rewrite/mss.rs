//! The maximum segment size that a SYN or SYN-ACK announces (RFC 9293 3.7.1), clamped: never raised,
//! never inserted.

use crate::wire::checksum;
use crate::wire::flow::Address;
use crate::wire::{tcp, tcp_option};

/// Lowers the maximum segment size in the options of a frame that parsing returned as a TCP flow of
/// family `A` to `most`, and updates the checksum. Says whether it changed something.
pub fn clamp<A: Address>(frame: &mut [u8], most: u16) -> bool {
    let Some(segment) = frame.get_mut(A::TRANSPORT..) else { return false };
    let Ok(header) = tcp::Packet::new_checked(&*segment) else { return false };
    let found = tcp_option::iter(header.options()).find_map(|option| match *option.data {
        [high, low] if option.kind == tcp_option::MSS => {
            Some((option.at, u16::from_be_bytes([high, low])))
        }
        _ => None,
    });
    let Some((at, announced)) = found else { return false };
    if announced <= most {
        return false;
    }
    // At an odd offset the value lies across two words of the sum, its bytes the other way round
    // (RFC 1071 2.B).
    let word = |value: u16| if at.is_multiple_of(2) { value } else { value.swap_bytes() };
    let delta = checksum::delta16(word(announced), word(most));
    let at = tcp::HEADER_LEN + at;
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    let mut header = tcp::Packet::new_unchecked(segment);
    header.set_checksum(checksum::apply(header.checksum(), delta));
    true
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    fn syn(v6: bool, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let start = etherparse::PacketBuilder::ethernet2([2; 6], [3; 6]);
        let ip = if v6 { start.ipv6([1; 16], [7; 16], 9) } else { start.ipv4([1; 4], [7; 4], 9) };
        let mut bytes = Vec::new();
        let tcp = ip.tcp(1000, 80, 77, 512).syn().options_raw(options).unwrap();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn clamped(v6: bool, frame: &mut [u8], most: u16) -> bool {
        if v6 { clamp::<Ipv6Addr>(frame, most) } else { clamp::<Ipv4Addr>(frame, most) }
    }

    #[test]
    fn lowered_and_never_raised_or_inserted() {
        for v6 in [false, true] {
            let mut frame = syn(v6, &[2, 4, 5, 180], b"");
            assert!(clamped(v6, &mut frame, 1400));
            assert_eq!(frame, syn(v6, &[2, 4, 5, 120], b""));
            for most in [1400, 1401, 9000] {
                assert!(!clamped(v6, &mut frame, most));
                assert_eq!(frame, syn(v6, &[2, 4, 5, 120], b""));
            }
            for options in [&[][..], &[1, 1, 4, 2], &[2, 3, 5, 1], &[2, 9, 5, 180], &[0, 2, 4, 5]] {
                let mut frame = syn(v6, options, b"x");
                assert!(!clamped(v6, &mut frame, 100), "{options:?}");
                assert_eq!(frame, syn(v6, options, b"x"));
            }
        }
    }

    proptest! {
        /// At every alignment, beside other options and data, the checksum is what the whole sum
        /// would be.
        #[test]
        fn the_checksum_is_kept(
            v6: bool, before in 0usize..8, announced: u16, most in 88u16..9177, scale: u8,
            payload in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let options = |mss: u16| {
                let mut options = vec![1; before];
                options.push(2);
                options.push(4);
                options.extend(mss.to_be_bytes());
                options.extend([3, 3, scale]);
                options
            };
            let mut frame = syn(v6, &options(announced), &payload);
            prop_assert_eq!(clamped(v6, &mut frame, most), announced > most);
            prop_assert_eq!(frame, syn(v6, &options(announced.min(most)), &payload));
        }
    }
}
