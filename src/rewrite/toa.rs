//! TOA, "TCP option address": an option that tells the server the client's address and port, for
//! servers with a `toa` kernel module (Alibaba's, also DPVS's and Huawei's).
//!
//! | client | kind | length | content |
//! |---|---|---|---|
//! | IPv4 | 254 | 8 | port, address |
//! | IPv6 | 253 | 20 | port, address |
//!
//! Both kinds are reserved for experiments (RFC 4727): no stack sends them by itself.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use super::sequence::option;
use crate::wire::checksum;
use crate::wire::flow::Address;
use crate::wire::tcp::{self, field};

/// Option kind of an IPv4 client.
pub const KIND_V4: u8 = 254;
/// Option kind of an IPv6 client.
pub const KIND_V6: u8 = 253;
/// Option kind: maximum segment size (RFC 9293 3.2).
const MSS: u8 = 2;
const NOP: u8 = 1;

/// The option as it goes over the wire.
pub fn of(client: SocketAddr) -> ArrayVec<u8, 20> {
    let mut bytes = ArrayVec::new();
    let mut put = |part: &[u8]| _ = bytes.try_extend_from_slice(part);
    put(match client.ip() {
        IpAddr::V4(_) => &[KIND_V4, 8],
        IpAddr::V6(_) => &[KIND_V6, 20],
    });
    put(&client.port().to_be_bytes());
    match client.ip() {
        IpAddr::V4(a) => put(&a.octets()),
        IpAddr::V6(a) => put(&a.octets()),
    }
    bytes
}

/// Overwrites options of these kinds with nothing (NOP), so that a client cannot claim to be
/// somebody else. The frame must be a TCP flow of this family.
pub fn strip<A: Address>(frame: &mut [u8]) {
    change_options::<A>(frame, |option| {
        if matches!(option[0], KIND_V4 | KIND_V6) {
            option.fill(NOP);
        }
    });
}

/// Lowers the maximum segment size that a SYN announces by `n`, so that there is room for an option
/// of that length in every segment of the other side. The frame must be a TCP flow of this family.
pub fn lower_mss<A: Address>(frame: &mut [u8], n: u16) {
    change_options::<A>(frame, |option| {
        if let [MSS, 4, high, low] = option {
            [*high, *low] = u16::from_be_bytes([*high, *low]).saturating_sub(n).to_be_bytes();
        }
    });
}

/// Lets `change` change the bytes of every option, and corrects the checksum.
fn change_options<A: Address>(frame: &mut [u8], change: impl Fn(&mut [u8])) {
    let Some(segment) = frame.get_mut(A::TRANSPORT..) else { return };
    let Ok(packet) = tcp::Packet::new_checked(&*segment) else { return };
    let header_len = packet.header_len();
    let header = &mut segment[..header_len];
    let old = checksum::sum(&header[tcp::HEADER_LEN..]);
    let mut at = tcp::HEADER_LEN;
    while let Some((_, len)) = option(header, at) {
        change(&mut header[at..at + len]);
        at += len;
    }
    let delta = checksum::delta16(old, checksum::sum(&header[tcp::HEADER_LEN..]));
    let sum = u16::from_be_bytes([header[field::CHECKSUM], header[field::CHECKSUM + 1]]);
    header[field::CHECKSUM..field::CHECKSUM + 2]
        .copy_from_slice(&checksum::apply(sum, delta).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::insert::tests::frame;
    use super::*;
    use crate::wire::tcp::flags::SYN;

    fn both(options: &[u8], expected: &[u8], change: fn(&mut [u8]), change_v6: fn(&mut [u8])) {
        for v6 in [false, true] {
            let mut bytes = frame(v6, SYN, 0, options, b"x");
            if v6 {
                change_v6(&mut bytes)
            } else {
                change(&mut bytes)
            }
            assert_eq!(bytes, frame(v6, SYN, 0, expected, b"x"));
        }
    }

    #[test]
    fn options_of_both_families() {
        let v4 = of("198.51.100.7:40000".parse().unwrap());
        assert_eq!(v4.as_slice(), [254, 8, 0x9c, 0x40, 198, 51, 100, 7]);
        let v6 = of("[2001:db8::7]:40000".parse().unwrap());
        assert_eq!(v6[..8], [253, 20, 0x9c, 0x40, 0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(v6[8..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_claim_of_the_client_is_taken_out() {
        both(
            &[1, 254, 8, 1, 2, 3, 4, 5, 6, 253, 3, 9, 2, 4, 5, 180],
            &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180],
            strip::<Ipv4Addr>,
            strip::<Ipv6Addr>,
        );
        both(&[0, 254, 2, 9], &[0, 254, 2, 9], strip::<Ipv4Addr>, strip::<Ipv6Addr>);
    }

    #[test]
    fn the_segment_size_makes_room() {
        both(
            &[1, 1, 1, 2, 4, 5, 180, 0],
            &[1, 1, 1, 2, 4, 5, 160, 0],
            |frame| lower_mss::<Ipv4Addr>(frame, 20),
            |frame| lower_mss::<Ipv6Addr>(frame, 20),
        );
        both(
            &[2, 4, 0, 7],
            &[2, 4, 0, 0],
            |frame| lower_mss::<Ipv4Addr>(frame, 8),
            |frame| lower_mss::<Ipv6Addr>(frame, 8),
        );
    }
}
