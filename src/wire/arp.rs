//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! `new_checked` checks the length, the hardware and protocol types and their address lengths, that
//! the operation is request or reply, and that the sender is one host: a unicast MAC address and an
//! IPv4 address that is neither multicast, broadcast nor loopback. 0.0.0.0 is let through as the
//! sender of an address probe (RFC 5227 2.1.1). It does not compare the sender with the Ethernet
//! header and does not look at the target: what a request is for is the caller's business.

use std::net::Ipv4Addr;

use super::DropReason;
use super::bytes::{get, get_u16, set, set_u16};
use super::ethernet::{self, EtherType, Mac};

/// Length of a packet in bytes; what follows in the frame is padding.
pub const LEN: usize = 28;
/// Length of a frame in bytes, Ethernet header included, without padding.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + LEN;

const HARDWARE_ETHERNET: u16 = 1;

mod field {
    pub(super) const HARDWARE_TYPE: usize = 0;
    pub(super) const PROTOCOL_TYPE: usize = 2;
    pub(super) const HARDWARE_LEN: usize = 4;
    pub(super) const PROTOCOL_LEN: usize = 5;
    pub(super) const OPERATION: usize = 6;
    pub(super) const SENDER_MAC: usize = 8;
    pub(super) const SENDER_IP: usize = 14;
    pub(super) const TARGET_MAC: usize = 18;
    pub(super) const TARGET_IP: usize = 24;
}

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Who has the target address?
    Request = 1,
    /// The sender has it.
    Reply = 2,
}

/// View of an ARP packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// A view without any check.
    pub const fn new_unchecked(buffer: T) -> Self {
        Packet { buffer }
    }

    /// A view of a sound packet.
    ///
    /// # Errors
    /// [`DropReason::BadArp`].
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        let bytes = buffer.as_ref();
        let sound = bytes.len() >= LEN
            && get_u16(bytes, field::HARDWARE_TYPE) == HARDWARE_ETHERNET
            && get_u16(bytes, field::PROTOCOL_TYPE) == EtherType::IPV4.0
            && bytes[field::HARDWARE_LEN] == 6
            && bytes[field::PROTOCOL_LEN] == 4
            && matches!(get_u16(bytes, field::OPERATION), 1 | 2);
        let packet = Packet { buffer };
        if !sound || !ethernet::is_unicast(&packet.sender_mac()) {
            return Err(DropReason::BadArp);
        }
        let ip = packet.sender_ip();
        if ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
            return Err(DropReason::BadArp);
        }
        Ok(packet)
    }

    /// The operation. In an unchecked packet everything but a request counts as a reply.
    pub fn operation(&self) -> Operation {
        match get_u16(self.buffer.as_ref(), field::OPERATION) {
            1 => Operation::Request,
            _ => Operation::Reply,
        }
    }

    /// The sender's MAC address.
    pub fn sender_mac(&self) -> Mac {
        get(self.buffer.as_ref(), field::SENDER_MAC)
    }

    /// The sender's IP address; 0.0.0.0 in a probe.
    pub fn sender_ip(&self) -> Ipv4Addr {
        get(self.buffer.as_ref(), field::SENDER_IP).into()
    }

    /// The target's MAC address; of no meaning in a request.
    pub fn target_mac(&self) -> Mac {
        get(self.buffer.as_ref(), field::TARGET_MAC)
    }

    /// The target's IP address: in a request, the address that is asked for.
    pub fn target_ip(&self) -> Ipv4Addr {
        get(self.buffer.as_ref(), field::TARGET_IP).into()
    }

    /// Whether the sender tells its own address unasked (RFC 5227 3).
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip() == self.target_ip()
    }
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The operation.
    pub operation: Operation,
    /// The sender's MAC address.
    pub sender_mac: Mac,
    /// The sender's IP address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC address.
    pub target_mac: Mac,
    /// The target's IP address.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// The question who has `target`. Goes to the broadcast address, or to the host itself to
    /// refresh what is known of it.
    pub const fn request(sender_mac: Mac, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Repr { operation: Operation::Request, sender_mac, sender_ip, target_mac: [0; 6], target_ip }
    }

    /// The answer that the address asked for is at `mac`. Goes to the sender of the request.
    pub fn reply<T: AsRef<[u8]>>(request: &Packet<T>, mac: Mac) -> Self {
        Repr {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: request.target_ip(),
            target_mac: request.sender_mac(),
            target_ip: request.sender_ip(),
        }
    }

    /// The announcement that `ip` is at `mac` (RFC 5227 2.3: a request). Goes to the broadcast
    /// address.
    pub const fn gratuitous(mac: Mac, ip: Ipv4Addr) -> Self {
        Self::request(mac, ip, ip)
    }

    /// Writes the packet to the first [`LEN`] bytes of `buffer`.
    pub fn emit(&self, buffer: &mut [u8]) {
        set_u16(buffer, field::HARDWARE_TYPE, HARDWARE_ETHERNET);
        set_u16(buffer, field::PROTOCOL_TYPE, EtherType::IPV4.0);
        buffer[field::HARDWARE_LEN] = 6;
        buffer[field::PROTOCOL_LEN] = 4;
        set_u16(buffer, field::OPERATION, self.operation as u16);
        set(buffer, field::SENDER_MAC, self.sender_mac);
        set(buffer, field::SENDER_IP, self.sender_ip.octets());
        set(buffer, field::TARGET_MAC, self.target_mac);
        set(buffer, field::TARGET_IP, self.target_ip.octets());
    }

    /// The whole frame to `dst`, from the sender's MAC address.
    pub fn frame(&self, dst: Mac) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        let header = ethernet::Repr { dst, src: self.sender_mac, ether_type: EtherType::ARP };
        header.emit(&mut frame);
        self.emit(&mut frame[ethernet::HEADER_LEN..]);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const IP_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const IP_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn check(bytes: &[u8]) -> Result<(), DropReason> {
        Packet::new_checked(bytes).map(|_| ())
    }

    #[test]
    fn request_reply_gratuitous() {
        let frame = Repr::request(A, IP_A, IP_B).frame(ethernet::BROADCAST);
        #[rustfmt::skip]
        assert_eq!(frame, [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0, 0, 1, 192, 0, 2, 1,
            0, 0, 0, 0, 0, 0, 192, 0, 2, 2,
        ]);
        let request = Packet::new_checked(&frame[14..]).unwrap();
        assert_eq!(request.operation(), Operation::Request);
        assert!(!request.is_gratuitous());

        let reply = Repr::reply(&request, B);
        assert_eq!(
            reply,
            Repr {
                operation: Operation::Reply,
                sender_mac: B,
                sender_ip: IP_B,
                target_mac: A,
                target_ip: IP_A
            }
        );
        let frame = reply.frame(A);
        let packet = Packet::new_checked(&frame[14..]).unwrap();
        assert_eq!(packet.operation(), Operation::Reply);

        let frame = Repr::gratuitous(A, IP_A).frame(ethernet::BROADCAST);
        assert!(Packet::new_checked(&frame[14..]).unwrap().is_gratuitous());
    }

    #[test]
    fn emitted_frames_are_read_by_etherparse() {
        let frame = Repr {
            operation: Operation::Reply,
            sender_mac: B,
            sender_ip: IP_B,
            target_mac: A,
            target_ip: IP_A,
        }
        .frame(A);
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Arp(arp)) = sliced.net else { panic!("not ARP") };
        assert_eq!(arp.operation(), etherparse::ArpOperation::REPLY);
        assert_eq!(arp.sender_hw_addr(), B);
        assert_eq!(arp.sender_protocol_addr(), IP_B.octets());
        assert_eq!(arp.target_hw_addr(), A);
        assert_eq!(arp.target_protocol_addr(), IP_A.octets());
    }

    #[test]
    fn malformed() {
        let mut good = [0; LEN];
        Repr::request(A, IP_A, IP_B).emit(&mut good);
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&good[..27]), Err(DropReason::BadArp));
        // Offset and what is written there.
        let faults: [(usize, &[u8]); 9] = [
            (0, &[0, 6]),
            (2, &[0x86, 0xdd]),
            (4, &[8]),
            (5, &[16]),
            (6, &[0, 3]),
            (8, &[3]),
            (8, &[0; 6]),
            (14, &[224, 0, 0, 1]),
            (14, &[127, 0, 0, 1]),
        ];
        for (at, fault) in faults {
            let mut bytes = good;
            bytes[at..at + fault.len()].copy_from_slice(fault);
            assert_eq!(check(&bytes), Err(DropReason::BadArp), "{fault:?} at {at}");
        }
        let mut probe = good;
        probe[14..18].fill(0);
        assert_eq!(check(&probe), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..40),
            sound_start: bool,
            operation in 0u8..4,
        ) {
            if sound_start && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
            }
            if let Ok(packet) = Packet::new_checked(&bytes) {
                let repr = Repr {
                    operation: packet.operation(),
                    sender_mac: packet.sender_mac(),
                    sender_ip: packet.sender_ip(),
                    target_mac: packet.target_mac(),
                    target_ip: packet.target_ip(),
                };
                let mut emitted = [0; LEN];
                repr.emit(&mut emitted);
                prop_assert_eq!(&emitted[..], &bytes[..LEN]);
            }
        }
    }
}
