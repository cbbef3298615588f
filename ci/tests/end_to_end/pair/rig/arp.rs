//! Who answers for an address: asked on the wire, not of Shunt.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::raw;

use super::fabric::{CLIENT_MAC, CLIENTS, Fabric};

/// How long answers may take.
const PATIENCE: Duration = Duration::from_millis(300);

/// Asks for an IPv4 address by ARP from the client; the MAC address of every answer.
pub(crate) fn answers(fabric: &Fabric, address: Ipv4Addr) -> Vec<[u8; 6]> {
    let own: Ipv4Addr = CLIENTS[0].parse().expect("an address");
    let mut question = vec![0xff; 6];
    question.extend(CLIENT_MAC);
    // ARP for IPv4 on Ethernet, a request (RFC 826).
    question.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    question.extend(CLIENT_MAC);
    question.extend(own.octets());
    question.extend([0; 6]);
    question.extend(address.octets());
    fabric.client.enter(|| {
        let socket = raw::frames_of_type("eth0", libc::ETH_P_ARP as u16);
        // A question or an answer may be lost, as any frame.
        let mut answers = (0..3).map(|_| {
            raw::give(&socket, &question);
            heard(&socket, address)
        });
        answers.find(|answers| !answers.is_empty()).unwrap_or_default()
    })
}

/// The MAC address of every answer that comes in time.
fn heard(socket: &OwnedFd, address: Ipv4Addr) -> Vec<[u8; 6]> {
    let begin = Instant::now();
    let mut answers = Vec::new();
    while let Some(left) = PATIENCE.checked_sub(begin.elapsed()) {
        raw::wait(socket, left);
        let mut buffer = [0; 2048];
        while let Some(frame) = raw::take(socket, &mut buffer) {
            answers.extend(sender(frame, address));
        }
    }
    answers
}

/// The MAC address in a reply about the IPv4 address.
fn sender(frame: &[u8], address: Ipv4Addr) -> Option<[u8; 6]> {
    let is_reply = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 2];
    if is_reply && frame.get(28..32)? == address.octets() {
        frame[22..28].try_into().ok()
    } else {
        None
    }
}
