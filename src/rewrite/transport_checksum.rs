//! The TCP or UDP checksum in full, for packets whose sender left it unfinished.

use crate::wire::checksum;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Address, Flow, Protocol};

/// Computes the checksum over the transport header and its payload and writes it. `flow` is what
/// parsing made of the frame before it was rewritten; addresses and length are taken from the
/// frame.
#[cold]
pub fn fill<A: Address>(frame: &mut [u8], flow: &Flow<A>) {
    let protocol = flow.key.protocol;
    let (at, end) = match protocol {
        Protocol::Tcp => (A::TRANSPORT + 16, ip_end::<A>(frame)),
        // Does not come in flows.
        Protocol::Icmp => return,
        // A datagram may be shorter than the IP packet: its own length counts (RFC 768).
        Protocol::Udp => {
            let Some(header) = frame.get(A::TRANSPORT..A::TRANSPORT + 8) else { return };
            let length = u16::from_be_bytes([header[4], header[5]]);
            (A::TRANSPORT + 6, A::TRANSPORT + usize::from(length))
        }
    };
    // Source and destination address stand right before the transport header, in both families.
    let addresses = if A::V6 { A::TRANSPORT - 32 } else { A::TRANSPORT - 8 };
    let Some(packet) = frame.get_mut(addresses..end) else { return };
    let at = at - addresses;
    let transport = A::TRANSPORT - addresses;
    if packet.len() < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    let length = (packet.len() - transport) as u16;
    // Addresses and transport are one run of bytes; protocol and length complete the pseudo header
    // (RFC 9293 3.1, RFC 768, RFC 8200 8.1).
    let pseudo = checksum::add(length, u16::from(protocol.number()));
    let sum = !checksum::add(checksum::sum(packet), pseudo);
    let sum = if sum == 0 && protocol == Protocol::Udp { 0xffff } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Where the IP packet ends, by its own account.
fn ip_end<A: Address>(frame: &[u8]) -> usize {
    // The length of IPv4 counts its header (RFC 791 3.1), that of IPv6 does not (RFC 8200 3).
    let (at, from) = if A::V6 { (18, A::TRANSPORT) } else { (16, ETHERNET) };
    match frame.get(at..at + 2) {
        Some(length) => from + usize::from(u16::from_be_bytes([length[0], length[1]])),
        None => usize::MAX,
    }
}
