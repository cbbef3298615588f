//! The way there and back, byte for byte: every mode, protocol and family, one to four workers, two
//! ports and one.

use std::net::SocketAddr;

use shunt::session::{Mode, ServerId};
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{
    ACK, FIN_ACK, PSH_ACK, Packet, SYN, SYN_ACK, packet_too_big, source_port, tcp, time_exceeded,
    udp,
};
use crate::net::{FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, server_mac};
use crate::rig::Rig;

const MODES: [Mode; 3] = [Mode::Nat, Mode::FullNat, Mode::Dr];

/// One conversation of a client with a service.
struct Talk {
    family: Family,
    protocol: Protocol,
    mode: Mode,
    client: SocketAddr,
    vip: SocketAddr,
    server: SocketAddr,
    id: ServerId,
    /// Source towards the server: known once the first packet has passed.
    local: SocketAddr,
}

impl Talk {
    fn new(family: Family, protocol: Protocol, mode: Mode, client_port: u16) -> Self {
        let (port, rport, id) = match protocol {
            Protocol::Tcp => (80, 8080, 0),
            _ => (53, 5353, 2),
        };
        let client = SocketAddr::new(family.client(), client_port);
        Talk {
            family,
            protocol,
            mode,
            client,
            vip: SocketAddr::new(family.vip(), port),
            server: SocketAddr::new(family.server(11), rport),
            id: ServerId(id + u16::from(family == Family::V6)),
            local: client,
        }
    }

    fn packet(&self, src: SocketAddr, dst: SocketAddr, flags: u8, payload: &[u8]) -> Packet {
        match self.protocol {
            Protocol::Tcp => tcp(src, dst, flags),
            _ => udp(src, dst),
        }
        .payload(payload)
    }

    /// What goes to the server for a packet from the client.
    fn forwarded(&self, rig: &Rig, packet: &Packet) -> Packet {
        let packet = match self.mode {
            Mode::Dr => packet.clone(),
            _ => {
                Packet { src: self.local, dst: self.server, ttl: packet.ttl - 1, ..packet.clone() }
            }
        };
        rig.to_server(11, packet)
    }

    /// A packet from the client, established or with `opens` the first.
    fn forward(&mut self, rig: &mut Rig, flags: u8, payload: &[u8], opens: bool) {
        let packet = rig.by_client(self.packet(self.client, self.vip, flags, payload));
        let bytes = packet.bytes();
        if opens && self.mode == Mode::FullNat {
            self.local = self.learn_local_port(rig);
        }
        let out = self.forwarded(rig, &packet).bytes();
        let mut changes = Changes::none().forward(self.id, &bytes).tx(rig.net.server_side(), &out);
        if opens {
            changes = changes.session(self.id, self.family == Family::V6, 1);
        }
        let what = format!("{:?} {:?} {} forward", self.family, self.mode, self.protocol);
        let port = rig.net.server_side();
        rig.step(&what, FRONT, &bytes, Some(self.client), changes, &[(port, out)]);
    }

    /// The local port is the switch's choice: any of its own in the client's bucket. Found by
    /// asking a twin, which makes the same choice.
    fn learn_local_port(&self, rig: &Rig) -> SocketAddr {
        let mut twin = Rig::new(rig.net.clone());
        twin.turn = rig.turn;
        let packet = twin.by_client(self.packet(self.client, self.vip, SYN, b""));
        let sent = twin.send(FRONT, &packet.bytes());
        assert_eq!(sent.len(), 1);
        let local = SocketAddr::new(self.family.lip(), source_port(&sent[0].1));
        assert_eq!(rig.net.owner(local), rig.net.owner(self.client), "the reply's worker");
        assert!(
            local.port() >= 1024 && local.port().is_multiple_of(2),
            "a port of node 0: {local}"
        );
        local
    }

    fn reply(&self, rig: &mut Rig, flags: u8, payload: &[u8]) {
        let packet = rig.by_server(11, self.packet(self.server, self.local, flags, payload));
        let bytes = packet.bytes();
        let out = self.packet(self.vip, self.client, flags, payload).ttl(packet.ttl - 1);
        let out = rig.to_client(out).bytes();
        let changes = Changes::none().reply(self.id, &bytes).tx(FRONT, &out);
        let what = format!("{:?} {:?} {} reply", self.family, self.mode, self.protocol);
        let port = rig.net.server_side();
        rig.step(&what, port, &bytes, Some(self.local), changes, &[(FRONT, out)]);
    }
}

fn nets() -> impl Iterator<Item = Net> {
    [1, 2, 4].into_iter().flat_map(|w| [Net::two_armed(w), Net::one_armed(w)])
}

#[test]
fn every_mode_protocol_family_and_number_of_workers() {
    for net in nets() {
        for mode in MODES {
            for family in Family::BOTH {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    for client_port in [40_000, 40_001, 40_003] {
                        let mut rig = Rig::new(net.clone().usual(mode));
                        let mut talk = Talk::new(family, protocol, mode, client_port);
                        let replies = mode != Mode::Dr;
                        talk.forward(&mut rig, SYN, b"", true);
                        if replies {
                            talk.reply(&mut rig, SYN_ACK, b"");
                        }
                        talk.forward(&mut rig, ACK, b"", false);
                        talk.forward(&mut rig, PSH_ACK, b"GET / HTTP/1.1\r\n\r\n", false);
                        // An odd length, and as long as a frame can be.
                        talk.forward(&mut rig, ACK, &[0xa5; 1401], false);
                        if replies {
                            talk.reply(&mut rig, PSH_ACK, b"HTTP/1.1 200 OK\r\n\r\n");
                            talk.reply(&mut rig, ACK, &[0xff; 1400]);
                            talk.reply(&mut rig, FIN_ACK, b"");
                        }
                        talk.forward(&mut rig, FIN_ACK, b"", false);
                        if replies {
                            talk.reply(&mut rig, ACK, b"");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    for mode in MODES {
        let mut rig = Rig::new(Net::two_armed(1).usual(mode));
        let mut talk = Talk::new(Family::V4, Protocol::Udp, mode, 1025);
        talk.forward(&mut rig, 0, b"x", true);
        let packet = rig.by_client(udp(talk.client, talk.vip));
        let (mut bytes, mut out) = (packet.bytes(), talk.forwarded(&rig, &packet).bytes());
        bytes[40..42].fill(0);
        out[40..42].fill(0);
        let port = rig.net.server_side();
        let changes = Changes::none().forward(talk.id, &bytes).tx(port, &out);
        rig.step("no checksum", FRONT, &bytes, Some(talk.client), changes, &[(port, out)]);
    }
}

/// A checksum that comes out as zero is sent as 0xffff in UDP (RFC 768) and as zero in TCP.
#[test]
fn checksums_around_zero() {
    for (family, protocol) in
        [(Family::V4, Protocol::Tcp), (Family::V4, Protocol::Udp), (Family::V6, Protocol::Udp)]
    {
        let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
        let mut talk = Talk::new(family, protocol, Mode::Nat, 1025);
        talk.forward(&mut rig, SYN, b"", true);
        talk.reply(&mut rig, SYN_ACK, b"");
        talk.forward(&mut rig, ACK, b"", false);
        let mut zeros = [0, 0];
        for word in 0..=u16::MAX {
            // Every value of the checksum comes up, before and after the rewrite.
            let payload = word.to_be_bytes();
            let packet = rig.by_client(talk.packet(talk.client, talk.vip, ACK, &payload));
            let expected = talk.forwarded(&rig, &packet).bytes();
            let bytes = packet.bytes();
            let at = bytes.len() - 2 - if protocol == Protocol::Tcp { 4 } else { 2 };
            for (count, frame) in zeros.iter_mut().zip([&bytes, &expected]) {
                let checksum = &frame[at..at + 2];
                *count += u32::from(checksum == [0, 0] || checksum == [0xff, 0xff]);
            }
            assert_eq!(rig.send(FRONT, &bytes), [(rig.net.server_side(), expected)]);
        }
        assert!(zeros[0] > 0 && zeros[1] > 0, "{zeros:?}");
    }
}

#[test]
fn the_hop_limit_runs_out() {
    use shunt::wire::DropReason::HopLimitExceeded;
    for net in [Net::two_armed(1), Net::two_armed(2), Net::one_armed(2)] {
        for mode in [Mode::Nat, Mode::FullNat] {
            for family in Family::BOTH {
                for ttl in [0, 1] {
                    let mut rig = Rig::new(net.clone().usual(mode));
                    let mut talk = Talk::new(family, Protocol::Tcp, mode, 50_000);
                    let spent = |rig: &mut Rig, talk: &Talk, what, flags| {
                        let packet = talk.packet(talk.client, talk.vip, flags, b"abc").ttl(ttl);
                        let bytes = rig.by_client(packet).bytes();
                        let (own, to) = (family.front(), family.client());
                        let error = time_exceeded((FRONT_MAC, ROUTER_MAC), own, to, &bytes);
                        let changes =
                            Changes::none().dropped(HopLimitExceeded).originated(FRONT, &error);
                        let out = [(FRONT, error)];
                        rig.step(what, FRONT, &bytes, Some(talk.client), changes, &out);
                    };
                    spent(&mut rig, &talk, "before there is a session", SYN);
                    talk.forward(&mut rig, SYN, b"", true);
                    talk.reply(&mut rig, SYN_ACK, b"");
                    talk.forward(&mut rig, ACK, b"", false);
                    spent(&mut rig, &talk, "in an established session", ACK);

                    let back = rig.net.server_side();
                    let own = if back == FRONT { family.front() } else { family.back() };
                    let packet = talk.packet(talk.server, talk.local, ACK, b"abc").ttl(ttl);
                    let bytes = rig.by_server(11, packet).bytes();
                    let macs = (rig.net.server_side_mac(), server_mac(11));
                    let error = time_exceeded(macs, own, family.server(11), &bytes);
                    let changes =
                        Changes::none().dropped(HopLimitExceeded).originated(back, &error);
                    let out = [(back, error)];
                    rig.step("on the way back", back, &bytes, Some(talk.local), changes, &out);
                }
            }
        }
    }
}

#[test]
fn a_packet_that_dies_here_does_not_touch_its_session() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let mut talk = Talk::new(Family::V4, Protocol::Tcp, Mode::Nat, 50_000);
    talk.forward(&mut rig, SYN, b"", true);
    talk.reply(&mut rig, SYN_ACK, b"");
    talk.forward(&mut rig, ACK, b"", false);
    let reset = talk.packet(talk.client, talk.vip, crate::frames::RST, b"").ttl(1);
    let reset = rig.by_client(reset).bytes();
    rig.send(FRONT, &reset);
    // Had the RST counted, the session would end after tcp_fin.
    rig.wait("established it stays", 60_000, Changes::none());
    talk.forward(&mut rig, ACK, b"", false);
}

#[test]
fn a_hop_limit_of_two_is_enough_and_direct_return_needs_none() {
    for family in Family::BOTH {
        for (mode, ttl) in [(Mode::Nat, 2), (Mode::FullNat, 2), (Mode::Dr, 1), (Mode::Dr, 0)] {
            let mut rig = Rig::new(Net::two_armed(1).usual(mode));
            let mut talk = Talk::new(family, Protocol::Tcp, mode, 50_000);
            talk.forward(&mut rig, SYN, b"", true);
            let packet = rig.by_client(talk.packet(talk.client, talk.vip, SYN, b"").ttl(ttl));
            let (bytes, out) = (packet.bytes(), talk.forwarded(&rig, &packet).bytes());
            let port = rig.net.server_side();
            let changes = Changes::none().forward(talk.id, &bytes).tx(port, &out);
            let outer = Some(talk.client);
            rig.step("the last hop", FRONT, &bytes, outer, changes, &[(port, out)]);
        }
    }
}

#[test]
fn time_exceeded_is_rate_limited_and_quotes_no_more_than_it_may() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    for (family, size) in [(Family::V4, 576), (Family::V6, 1280)] {
        let talk = Talk::new(family, Protocol::Tcp, Mode::Nat, 50_000);
        let packet = talk.packet(talk.client, talk.vip, SYN, &[7; 1400]).ttl(1);
        let bytes = rig.by_client(packet).bytes();
        rig.now = rig.now.wrapping_add(1000);
        let header = if family == Family::V4 { 28 } else { 48 };
        let quote = &bytes[..14 + size - header];
        let macs = (FRONT_MAC, ROUTER_MAC);
        let error = time_exceeded(macs, family.front(), family.client(), quote);
        assert_eq!(error.len(), 14 + size);
        for _ in 0..100 {
            assert_eq!(rig.send(FRONT, &bytes), [(FRONT, error.clone())]);
        }
        // The burst of 100 is spent; one token comes each millisecond.
        let changes = Changes::none().dropped(shunt::wire::DropReason::HopLimitExceeded);
        rig.step("one too many", FRONT, &bytes, Some(talk.client), changes, &[]);
        rig.now = rig.now.wrapping_add(1);
        assert_eq!(rig.send(FRONT, &bytes).len(), 1);
        assert_eq!(rig.send(FRONT, &bytes).len(), 0);
    }
}

/// A packet that the port it would leave by cannot take is not given to the port: the sender is told,
/// or, if it let the packet be fragmented, it is only dropped.
#[test]
fn a_packet_longer_than_the_way_out() {
    use shunt::wire::DropReason::PacketTooBig;
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        for family in Family::BOTH {
            let mut net = Net::two_armed(1).usual(mode);
            let back = usize::from(net.server_side().0);
            net.snapshot.ports[back].mtu = 1400;
            let mut rig = Rig::new(net);
            let mut talk = Talk::new(family, Protocol::Udp, mode, 50_000);
            talk.forward(&mut rig, 0, b"", true);
            let headers = if family == Family::V4 { 28 } else { 48 };
            let fits = vec![7; 1400 - headers];
            talk.forward(&mut rig, 0, &fits, false);

            let too_long = vec![7; 1400 - headers + 1];
            let packet = rig.by_client(talk.packet(talk.client, talk.vip, 0, &too_long));
            let mut bytes = packet.bytes();
            let quoted = if family == Family::V4 { 576 - 28 } else { 1280 - 48 };
            let (own, to) = (family.front(), family.client());
            let macs = (FRONT_MAC, ROUTER_MAC);
            let error = packet_too_big(macs, own, to, &bytes[..14 + quoted], 1400);
            let changes = Changes::none().dropped(PacketTooBig).originated(FRONT, &error);
            let out = [(FRONT, error)];
            rig.step("too long", FRONT, &bytes, Some(talk.client), changes, &out);

            if family == Family::V4 {
                // Don't Fragment taken away, and 0x4000 from the sum of the header's words.
                assert_eq!(bytes[20] & 0x40, 0x40);
                bytes[20] &= !0x40;
                let checksum = u32::from(u16::from_be_bytes([bytes[24], bytes[25]])) + 0x4000;
                let checksum = ((checksum >> 16) + (checksum & 0xffff)) as u16;
                bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
                let changes = Changes::none().dropped(PacketTooBig);
                rig.step("may be fragmented", FRONT, &bytes, Some(talk.client), changes, &[]);
            }
        }
    }
}

/// Ethernet padding after a short packet is passed on and belongs to no checksum.
#[test]
fn padding_is_not_part_of_the_packet() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let mut talk = Talk::new(Family::V4, Protocol::Udp, Mode::Nat, 50_000);
    talk.forward(&mut rig, 0, b"x", true);
    let packet = rig.by_client(talk.packet(talk.client, talk.vip, 0, b"x"));
    let (mut bytes, mut out) = (packet.bytes(), talk.forwarded(&rig, &packet).bytes());
    bytes.resize(60, 0xee);
    out.resize(60, 0xee);
    let port = rig.net.server_side();
    let changes = Changes::none().forward(talk.id, &bytes).tx(port, &out);
    rig.step("padded", FRONT, &bytes, Some(talk.client), changes, &[(port, out)]);
}

/// A frame that only padding makes longer than the way out leaves without it.
#[test]
fn padding_beyond_the_mtu_is_cut_off() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(1).usual(mode));
            let mut talk = Talk::new(family, Protocol::Udp, mode, 50_000);
            talk.forward(&mut rig, 0, b"x", true);
            let packet = rig.by_client(talk.packet(talk.client, talk.vip, 0, b"x"));
            let (mut bytes, out) = (packet.bytes(), talk.forwarded(&rig, &packet).bytes());
            bytes.resize(1515, 0xee);
            let port = rig.net.server_side();
            let changes = Changes::none().rx(FRONT, &bytes).forward(talk.id, &out).tx(port, &out);
            rig.changes();
            assert_eq!(rig.send(FRONT, &bytes), [(port, out)]);
            assert_eq!(rig.changes(), changes);
        }
    }
}
