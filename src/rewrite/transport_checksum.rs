//! The TCP or UDP checksum in full, for packets whose sender left it unfinished.

use crate::wire::checksum;
use crate::wire::flow::{Address, Flow, Protocol};

/// Computes the checksum over the transport header and its payload and writes it. `flow` is what
/// parsing made of the frame before addresses were rewritten; the addresses are taken from the
/// frame.
#[cold]
pub fn fill<A: Address>(frame: &mut [u8], flow: &Flow<A>) {
    let end = usize::from(flow.frame_len);
    let (at, protocol) = match flow.key.protocol {
        Protocol::Tcp => (A::TRANSPORT + 16, Protocol::Tcp),
        Protocol::Udp => (A::TRANSPORT + 6, Protocol::Udp),
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
