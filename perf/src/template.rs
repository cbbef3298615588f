//! Frames of many clients made from one: only the client changes, and the checksums with it.
//!
//! Flow i comes from the client whose address is that of flow 0 plus (i mod 2^16), port
//! 1024 + i / 2^16, as in [`crate::traffic`], of either family.

use etherparse::PacketBuilder;
use shunt::wire::checksum;

use crate::rig::{CLIENT_V6, VIP_V6};
use crate::traffic::{self, CLIENT_MAC, DUT_MAC, VIP, VIP_PORT};

/// Bytes of the longest frame, without FCS.
pub const MAX_LEN: usize = 128;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// What the frames carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A UDP datagram.
    Udp,
    /// A TCP SYN.
    Syn,
}

/// A frame from a client to the virtual server.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Box<[u8]>,
    /// Where the low half of the client's address is.
    address_at: usize,
    /// Where its port is.
    port_at: usize,
    /// The checksum of the IPv4 header.
    ip: Option<Sum>,
    transport: Sum,
    carries: Carries,
}

/// A checksum field, and the sum that it has without the client.
#[derive(Clone, Copy, Debug)]
struct Sum {
    at: usize,
    base: u16,
}

impl Sum {
    /// `holds`: the words of the client that are summed up.
    fn of(bytes: &[u8], at: usize, holds: &[u16]) -> Self {
        let sum = !u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Sum { at, base: holds.iter().fold(sum, |sum, word| checksum::add(sum, !word)) }
    }
}

impl Template {
    /// Of the shortest frame there is.
    ///
    /// # Panics
    /// Never: a vector takes any frame.
    pub fn new(v6: bool, carries: Carries) -> Self {
        let (client, port) = traffic::client(0);
        let link = PacketBuilder::ethernet2(CLIENT_MAC, DUT_MAC);
        let network = match v6 {
            false => link.ipv4(client.octets(), VIP.octets(), 64),
            true => link.ipv6(CLIENT_V6.octets(), VIP_V6.octets(), 64),
        };
        let mut bytes = Vec::with_capacity(MAX_LEN);
        let written = match carries {
            Carries::Udp => network.udp(port, VIP_PORT).write(&mut bytes, &[0; 18]),
            Carries::Syn => network.tcp(port, VIP_PORT, 0, 0xffff).syn().write(&mut bytes, &[]),
        };
        written.expect("a vector takes it");
        let (address_at, transport) = if v6 { (36, ETHERNET + 40) } else { (28, ETHERNET + 20) };
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (low, transport_sum) = (
            word(address_at),
            match carries {
                Carries::Udp => transport + 6,
                Carries::Syn => transport + 16,
            },
        );
        let ip = (!v6).then(|| Sum::of(&bytes, ETHERNET + 10, &[low]));
        let transport_sum = Sum::of(&bytes, transport_sum, &[low, word(transport)]);
        bytes.resize(bytes.len().max(60), 0);
        Template {
            bytes: bytes.into(),
            address_at,
            port_at: transport,
            ip,
            transport: transport_sum,
            carries,
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes the frame of a flow to the beginning of `frame`.
    ///
    /// # Panics
    /// When there is not room for [`Template::len`] bytes.
    #[inline(always)]
    pub fn write(&self, flow: u32, frame: &mut [u8]) {
        let frame = &mut frame[..self.bytes.len()];
        frame.copy_from_slice(&self.bytes);
        let (_, port) = traffic::client(flow);
        let low = flow as u16;
        let mut put = |at: usize, word: u16| frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
        put(self.address_at, low);
        put(self.port_at, port);
        if let Some(Sum { at, base }) = self.ip {
            put(at, !checksum::add(base, low));
        }
        let sum = !checksum::add(checksum::add(self.transport.base, low), port);
        // In UDP 0 says that there is none.
        let sum = if sum == 0 && self.carries == Carries::Udp { 0xffff } else { sum };
        put(self.transport.at, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn an_independent_builder_makes_the_same() {
        for v6 in [false, true] {
            for carries in [Carries::Udp, Carries::Syn] {
                let template = Template::new(v6, carries);
                for flow in [0, 1, 255, 4711, 65_535, 65_536, 3_000_000, 0x0f00_abcd] {
                    let (client, port) = traffic::client(flow);
                    let client_v6 =
                        Ipv6Addr::from(u128::from(CLIENT_V6) + u128::from(flow & 0xffff));
                    let link = PacketBuilder::ethernet2(CLIENT_MAC, DUT_MAC);
                    let network = match v6 {
                        false => link.ipv4(client.octets(), VIP.octets(), 64),
                        true => link.ipv6(client_v6.octets(), VIP_V6.octets(), 64),
                    };
                    let mut expected = Vec::new();
                    match carries {
                        Carries::Udp => network.udp(port, VIP_PORT).write(&mut expected, &[0; 18]),
                        Carries::Syn => {
                            network.tcp(port, VIP_PORT, 0, 0xffff).syn().write(&mut expected, &[])
                        }
                    }
                    .unwrap();
                    expected.resize(expected.len().max(60), 0);
                    let mut frame = [0xee; MAX_LEN];
                    template.write(flow, &mut frame);
                    assert_eq!(frame[..template.len()], expected, "{v6} {carries:?} {flow}");
                    assert_eq!(frame[template.len()..], [0xee; MAX_LEN][template.len()..]);
                }
            }
        }
    }
}
