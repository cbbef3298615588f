//! Packets that must not be: each is dropped with its own reason, and nothing else happens.

use std::net::{Ipv4Addr, Ipv6Addr};

use shunt::datapath::frame::RxChecksum;
use shunt::datapath::snapshot::PortId;
use shunt::io::memory::MemoryFrame;
use shunt::session::Mode;
use shunt::wire::DropReason::{self, *};

use crate::changes::Changes;
use crate::frames::{ACK, SYN, mend_ipv4_checksum, tcp, udp};
use crate::net::{FRONT, FRONT_MAC, Family, Net, endpoint};
use crate::rig::Rig;

fn good(rig: &Rig, family: Family, is_tcp: bool) -> Vec<u8> {
    let port = if is_tcp { 80 } else { 53 };
    let src = std::net::SocketAddr::new(family.client(), 40_000);
    let dst = std::net::SocketAddr::new(family.vip(), port);
    let packet = if is_tcp { tcp(src, dst, SYN) } else { udp(src, dst) };
    rig.by_client(packet).bytes()
}

struct Bench {
    rig: Rig,
}

impl Bench {
    fn expect(&mut self, what: &str, frame: &[u8], reason: DropReason) {
        self.rig.step(what, FRONT, frame, None, Changes::none().dropped(reason), &[]);
        assert_eq!(self.rig.sessions(), 0, "{what}");
    }

    /// A good packet with bytes changed, its IPv4 header checksum right again.
    fn changed(
        &mut self,
        what: &str,
        family: Family,
        is_tcp: bool,
        change: impl FnOnce(&mut Vec<u8>),
        reason: DropReason,
    ) {
        let mut frame = good(&self.rig, family, is_tcp);
        change(&mut frame);
        if family == Family::V4 && frame.len() >= 34 && frame[14] == 0x45 {
            mend_ipv4_checksum(&mut frame);
        }
        self.expect(what, &frame, reason);
    }
}

fn bench() -> Bench {
    // Two workers: what is malformed goes no further than the one that received it.
    Bench { rig: Rig::new(Net::two_armed(2).usual(Mode::Nat)) }
}

#[test]
fn frames_that_cannot_be_read() {
    let mut b = bench();
    for family in Family::BOTH {
        let frame = good(&b.rig, family, true);
        for len in [0, 1, 13, 14, 33, 41] {
            b.expect("cut", &frame[..len], FrameTooShort);
        }
        b.changed("another MAC", family, true, |f| f[5] ^= 1, NotOurMac);
        for tag in [0x8100u16, 0x88a8] {
            let vlan = |f: &mut Vec<u8>| {
                let tag = tag.to_be_bytes();
                f.splice(12..12, [tag[0], tag[1], 0, 7]);
            };
            let mut frame = good(&b.rig, family, true);
            vlan(&mut frame);
            b.expect("tagged", &frame, VlanTagged);
        }
        b.changed("EtherType", family, true, |f| f[12] = 0x22, UnknownEtherType);
    }
    let frame = good(&b.rig, Family::V6, true);
    b.expect("ends in the IPv6 header", &frame[..53], FrameTooShort);
}

#[test]
fn ipv4_headers() {
    let v4 = Family::V4;
    let mut b = bench();
    for version in [0, 5, 6, 15] {
        b.changed("version", v4, true, |f| f[14] = version << 4 | 5, BadIpVersion);
    }
    b.changed("header length", v4, true, |f| f[14] = 0x44, BadIpHeaderLength);
    b.changed("header length", v4, true, |f| f[14] = 0x40, BadIpHeaderLength);
    b.changed("options", v4, true, |f| f[14] = 0x46, IpOptions);
    for (options, reason) in [
        (&[1, 131, 3, 0][..], SourceRoute),
        (&[137, 3, 0, 0], SourceRoute),
        // An option that is skipped by its length, and what it holds is no option.
        (&[7, 4, 131, 0, 137, 3, 0, 0], SourceRoute),
        (&[7, 4, 131, 137], IpOptions),
        (&[0, 131, 137, 0], IpOptions),
        (&[7, 0, 131, 137], IpOptions),
        (&[7, 200, 0, 0], IpOptions),
        (&[1, 1, 1, 7], IpOptions),
    ] {
        let write = |f: &mut Vec<u8>| {
            f[14] = 0x45 + (options.len() / 4) as u8;
            f[34..34 + options.len()].copy_from_slice(options);
        };
        b.changed("options", v4, true, write, reason);
    }
    b.changed("options", v4, true, |f| f[14] = 0x4f, IpOptions);
    b.changed("total length of 19", v4, true, |f| f[17] = 19, BadIpLength);
    b.changed("total length of 0", v4, true, |f| f[17] = 0, BadIpLength);
    b.changed("one byte too long", v4, true, |f| f[17] += 1, BadIpLength);
    b.changed("far too long", v4, true, |f| f[16] = 0xff, BadIpLength);
    let frame = good(&b.rig, v4, true);
    for byte in 16..34 {
        // Any bit of the header that the checksum alone protects.
        if matches!(byte, 16 | 17) {
            continue;
        }
        let mut frame = frame.clone();
        frame[byte] ^= 4;
        b.expect("header checksum", &frame, BadIpChecksum);
    }
    b.changed("more fragments", v4, true, |f| f[20] = 0x20, BadFragment);
    b.changed("an offset", v4, true, |f| f[21] = 1, TinyFragment);
    b.changed("the last offset", v4, false, |f| (f[20], f[21]) = (0x1f, 0xff), BadFragment);
}

#[test]
fn ipv6_headers() {
    let v6 = Family::V6;
    let mut b = bench();
    for version in [0, 4, 5, 7] {
        b.changed("version", v6, true, |f| f[14] = version << 4, BadIpVersion);
    }
    b.changed("one byte too long", v6, true, |f| f[19] += 1, BadIpLength);
    b.changed("far too long", v6, true, |f| f[18] = 0xff, BadIpLength);
    for header in [0, 43, 51, 60, 135, 139, 140] {
        b.changed("extension header", v6, true, |f| f[20] = header, ExtensionHeader);
    }
    b.changed("fragment", v6, true, |f| f[20] = 44, Fragment);
}

#[test]
fn addresses_that_cannot_be_on_a_wire() {
    let mut b = bench();
    for source in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
        let address: Ipv4Addr = source.parse().unwrap();
        let change = |f: &mut Vec<u8>| f[26..30].copy_from_slice(&address.octets());
        b.changed(source, Family::V4, true, change, Martian);
        b.changed(source, Family::V4, false, change, Martian);
    }
    for destination in ["0.0.0.0", "127.0.0.1"] {
        let address: Ipv4Addr = destination.parse().unwrap();
        let change = |f: &mut Vec<u8>| f[30..34].copy_from_slice(&address.octets());
        b.changed(destination, Family::V4, true, change, Martian);
    }
    for source in ["::", "::1", "ff02::1"] {
        let address: Ipv6Addr = source.parse().unwrap();
        let change = |f: &mut Vec<u8>| f[22..38].copy_from_slice(&address.octets());
        b.changed(source, Family::V6, true, change, Martian);
        b.changed(source, Family::V6, false, change, Martian);
    }
    for destination in ["::", "::1"] {
        let address: Ipv6Addr = destination.parse().unwrap();
        let change = |f: &mut Vec<u8>| f[38..54].copy_from_slice(&address.octets());
        b.changed(destination, Family::V6, true, change, Martian);
    }
    // A VIP's packet in a broadcast frame is for nobody's session.
    b.changed("broadcast", Family::V4, true, |f| f[..6].fill(0xff), NoService);
    b.changed("multicast", Family::V6, true, |f| f[..2].fill(0x33), NoService);
}

#[test]
fn land() {
    let mut b = bench();
    for (vip, other) in [("192.0.2.10:80", "198.51.100.7:9"), ("[2001:db8:1::10]:80", "[::9]:9")] {
        let (vip, other) = (endpoint(vip), endpoint(other));
        for both in [vip, other] {
            let frame = b.rig.by_client(tcp(both, both, SYN)).bytes();
            b.expect("land", &frame, Land);
            let frame = b.rig.by_client(udp(both, both)).bytes();
            b.expect("land", &frame, Land);
        }
    }
}

#[test]
fn transport_headers() {
    let mut b = bench();
    for family in Family::BOTH {
        let at = if family == Family::V4 { 34 } else { 54 };
        // Sets the IP length so that the packet has `n` bytes of transport.
        let cut = |f: &mut Vec<u8>, n: u8| match family {
            Family::V4 => f[17] = 20 + n,
            Family::V6 => f[19] = n,
        };
        for n in [0, 8, 19] {
            b.changed("TCP cut", family, true, |f| cut(f, n), BadTcpHeader);
        }
        for offset in [0, 1, 4] {
            b.changed("data offset", family, true, |f| f[at + 12] = offset << 4, BadTcpHeader);
        }
        b.changed("options past the end", family, true, |f| f[at + 12] = 0x60, BadTcpHeader);
        for n in [0, 7] {
            b.changed("UDP cut", family, false, |f| cut(f, n), BadUdpHeader);
        }
        for length in [0, 7, 14, 255] {
            b.changed("UDP length", family, false, |f| f[at + 5] = length, BadUdpHeader);
        }
        for (flags, reason) in [
            (0, NullScan),
            (0xc0, NullScan),
            (0x01, FinScan),
            (0x29, XmasScan),
            (0x03, SynFin),
            (0x07, SynFin),
            (0x13, SynFin),
            (0x3f, SynFin),
            (0x06, SynRst),
            (0x16, SynRst),
            (0x08, BadTcpFlags),
            (0x09, BadTcpFlags),
            (0x28, BadTcpFlags),
        ] {
            b.changed("flags", family, true, |f| f[at + 13] = flags, reason);
        }
    }
}

#[test]
fn what_the_port_says() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    for family in Family::BOTH {
        let bytes = good(&rig, family, true);
        let frame = MemoryFrame::new(FRONT, &bytes);
        let transport = RxChecksum { transport_bad: true, ..RxChecksum::default() };
        let ip = RxChecksum { ip_bad: true, ..RxChecksum::default() };
        for (frame, reason) in [
            (frame.clone().with_checksum(transport), BadTransportChecksum),
            (frame.clone().with_checksum(ip), BadIpChecksum),
            (frame.clone().segmented(), FrameTooLong),
        ] {
            rig.step_frame("offload", frame, None, Changes::none().dropped(reason), &[]);
        }
    }
    // The port has looked at the header checksum, so nobody does again.
    let mut bytes = good(&rig, Family::V4, true);
    bytes[24] ^= 0xff;
    let said = RxChecksum { ip_good: true, ..RxChecksum::default() };
    rig.arrive(MemoryFrame::new(FRONT, &bytes).with_checksum(said));
    rig.settle();
    assert_eq!(rig.sent().len(), 1);
}

/// A sender that left its checksum to a NIC that never came: it is computed here, and whatever it
/// was is not used.
#[test]
fn unfinished_checksums_are_computed() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        for by_port in [false, true] {
            for family in Family::BOTH {
                for is_tcp in [true, false] {
                    let mut net = Net::two_armed(1).usual(mode);
                    net.snapshot.ports[0].full_checksums = by_port;
                    let mut rig = Rig::new(net.clone());
                    let whole = good(&rig, family, is_tcp);
                    let expected = Rig::new(net).send(FRONT, &whole);
                    assert_eq!(expected.len(), 1);
                    let mut partial = whole.clone();
                    let at = match (family, is_tcp) {
                        (Family::V4, true) => 50,
                        (Family::V4, false) => 40,
                        (Family::V6, true) => 70,
                        (Family::V6, false) => 60,
                    };
                    partial[at..at + 2].copy_from_slice(&[0x12, 0x34]);
                    let said = RxChecksum { transport_partial: !by_port, ..RxChecksum::default() };
                    rig.arrive(MemoryFrame::new(FRONT, &partial).with_checksum(said));
                    rig.settle();
                    assert_eq!(rig.sent(), expected, "{mode:?} {family:?} tcp: {is_tcp}");
                }
            }
        }
    }
}

/// A UDP datagram may be shorter than its IP packet; what follows is in no checksum (RFC 768).
#[test]
fn an_unfinished_checksum_of_a_datagram_shorter_than_its_packet() {
    for family in Family::BOTH {
        let mut net = Net::two_armed(1).usual(Mode::Dr);
        net.snapshot.ports[0].full_checksums = true;
        let mut rig = Rig::new(net);
        let mut frame = good(&rig, family, false);
        frame.extend([9; 6]);
        match family {
            Family::V4 => {
                frame[17] += 6;
                mend_ipv4_checksum(&mut frame);
            }
            Family::V6 => frame[19] += 6,
        }
        let sent = rig.send(FRONT, &frame);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].1[12..], frame[12..], "{family:?}");
    }
}

/// Bytes of the checksum and of the payload may be anything: that is the receiver's to judge.
#[test]
fn a_wrong_transport_checksum_stays_wrong() {
    for family in Family::BOTH {
        let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
        let at = if family == Family::V4 { 50 } else { 70 };
        let right = good(&rig, family, true);
        let expected = rig.send(FRONT, &right).remove(0).1;
        let mut wrong = right.clone();
        // A difference of one in the sum before is a difference of one after.
        let sum = u16::from_be_bytes([wrong[at], wrong[at + 1]]);
        wrong[at..at + 2].copy_from_slice(&(sum - 1).to_be_bytes());
        let got = rig.send(FRONT, &wrong).remove(0).1;
        let field = |f: &[u8]| u16::from_be_bytes([f[at], f[at + 1]]);
        assert_eq!(field(&got), field(&expected) - 1);
        assert_eq!(got[..at], expected[..at]);
        assert_eq!(got[at + 2..], expected[at + 2..]);
    }
}

#[test]
fn flags_that_do_not_matter() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let client = endpoint("198.51.100.7:40000");
    // ECN's flags on a SYN (RFC 3168), a push, urgent data.
    for flags in [SYN | 0xc0, SYN | 0x08, SYN | 0x20, ACK | 0x40] {
        let frame = rig.by_client(tcp(client, endpoint("192.0.2.10:80"), flags)).bytes();
        assert_eq!(rig.send(FRONT, &frame).len(), 1, "{flags:#x}");
    }
    assert_eq!(rig.sessions(), 1);
    // A reserved bit and "don't fragment" in IPv4; traffic class and flow label in IPv6.
    let mut frame = good(&rig, Family::V4, true);
    frame[20] = 0xc0;
    frame[15] = 0xb8;
    mend_ipv4_checksum(&mut frame);
    let sent = rig.send(FRONT, &frame);
    assert_eq!((sent[0].1[20], sent[0].1[15]), (0xc0, 0xb8));
    let mut frame = good(&rig, Family::V6, true);
    frame[14..18].copy_from_slice(&[0x6b, 0x8a, 0xbc, 0xde]);
    let sent = rig.send(FRONT, &frame);
    assert_eq!(sent[0].1[14..18], [0x6b, 0x8a, 0xbc, 0xde]);
    assert_eq!(sent[0].0, PortId(1));
    assert_eq!(FRONT_MAC, frame[..6]);
}
