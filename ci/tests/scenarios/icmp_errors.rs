//! ICMP errors about packets that were forwarded, byte for byte: each reaches the end that sent the
//! packet and quotes it as that end knows it.

use std::net::{IpAddr, SocketAddr};

use shunt::datapath::snapshot::Mac;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason;
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::frames::{Packet, SYN, SYN_ACK, icmp_error, mend_ipv4_checksum, source_port, tcp, udp};
use crate::net::{FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, ip, server_mac};
use crate::rig::Rig;

/// Type and code in IPv4 and IPv6, and the second word: each kind of error that is passed on.
const KINDS: [([(u8, u8); 2], u32); 5] = [
    ([(3, 1), (1, 3)], 0),
    ([(3, 3), (1, 4)], 0),
    ([(3, 4), (2, 0)], 1300),
    ([(11, 0), (3, 0)], 0),
    ([(12, 0), (4, 1)], 40 << 24),
];
const UNREACHABLE: [(u8, u8); 2] = [(3, 1), (1, 3)];

/// A session with a packet each way.
struct Session {
    family: Family,
    mode: Mode,
    client: SocketAddr,
    vip: SocketAddr,
    local: SocketAddr,
    server: SocketAddr,
    /// The client's packet, and as it went to the server.
    sent: [Packet; 2],
    /// The server's packet, and as it went to the client.
    answered: [Packet; 2],
}

impl Session {
    fn open(rig: &mut Rig, family: Family, protocol: Protocol, mode: Mode) -> Self {
        let (vip, server) = match (protocol, mode) {
            (Protocol::Tcp, Mode::Dr) => (80, 80),
            (Protocol::Udp, Mode::Dr) => (53, 53),
            (Protocol::Tcp, _) => (80, 8080),
            _ => (53, 5353),
        };
        let client = SocketAddr::new(family.client(), 40_001);
        let vip = SocketAddr::new(family.vip(), vip);
        let server = SocketAddr::new(family.server(11), server);
        let packet = |src, dst, flags| match protocol {
            Protocol::Tcp => tcp(src, dst, flags),
            _ => udp(src, dst),
        };
        let query = packet(client, vip, SYN);
        let out = rig.send(FRONT, &rig.by_client(query.clone()).bytes());
        assert_eq!(out.len(), 1);
        let local = match mode {
            Mode::FullNat => SocketAddr::new(family.lip(), source_port(&out[0].1)),
            _ => client,
        };
        let answer = packet(server, local, SYN_ACK);
        if mode.translates() {
            let answer = rig.by_server(11, answer.clone()).bytes();
            assert_eq!(rig.send(rig.net.server_side(), &answer).len(), 1);
        }
        let forwarded = Packet { src: local, dst: server, ttl: 63, ..query.clone() };
        let returned = Packet { src: vip, dst: client, ttl: 63, ..answer.clone() };
        let sent = [Packet { ttl: 63, ..query }, forwarded];
        let answered = [Packet { ttl: 63, ..answer }, returned];
        Session { family, mode, client, vip, local, server, sent, answered }
    }

    /// A router between the switch and the server.
    fn inner_router(&self) -> IpAddr {
        ip(if self.family == Family::V4 { "10.0.0.99" } else { "2001:db8:2::99" })
    }

    /// A router between the switch and the client.
    fn outer_router(&self) -> IpAddr {
        ip(if self.family == Family::V4 { "203.0.113.9" } else { "2001:db8:77::9" })
    }

    /// An error about the client's packet comes in; exactly this goes to the client.
    #[allow(clippy::too_many_arguments)]
    fn to_client(
        &self,
        rig: &mut Rig,
        what: &str,
        from: IpAddr,
        shown: IpAddr,
        kind: ([(u8, u8); 2], u32),
        quote: &dyn Fn(&Packet) -> Vec<u8>,
    ) {
        let port = rig.net.server_side();
        let macs = (server_mac(11), rig.net.server_side_mac());
        let dst = self.local.ip();
        let error = icmp_error(macs, from, dst, 64, kind.0, kind.1, &quote(&self.sent[1]));
        let macs = (FRONT_MAC, ROUTER_MAC);
        let quote = quote(&self.sent[0]);
        let out = icmp_error(macs, shown, self.client.ip(), 63, kind.0, kind.1, &quote);
        let changes = Changes::none().tx(FRONT, &out).add("icmp_errors", 1);
        rig.step(what, port, &error, Some(self.local), changes, &[(FRONT, out)]);
    }

    /// An error about the server's packet comes in; exactly this goes to the server.
    #[allow(clippy::too_many_arguments)]
    fn to_server(
        &self,
        rig: &mut Rig,
        what: &str,
        from: IpAddr,
        shown: IpAddr,
        kind: ([(u8, u8); 2], u32),
        quote: &dyn Fn(&Packet) -> Vec<u8>,
    ) {
        let port = rig.net.server_side();
        let macs = (ROUTER_MAC, FRONT_MAC);
        let dst = self.vip.ip();
        let error = icmp_error(macs, from, dst, 64, kind.0, kind.1, &quote(&self.answered[1]));
        let macs = (rig.net.server_side_mac(), server_mac(11));
        let out = if self.mode.translates() {
            let quote = quote(&self.answered[0]);
            icmp_error(macs, shown, self.server.ip(), 63, kind.0, kind.1, &quote)
        } else {
            icmp_error(macs, from, dst, 64, kind.0, kind.1, &quote(&self.answered[1]))
        };
        let changes = Changes::none().tx(port, &out).add("icmp_errors", 1);
        rig.step(what, FRONT, &error, Some(self.client), changes, &[(port, out)]);
    }
}

/// All of a packet.
fn whole(packet: &Packet) -> Vec<u8> {
    packet.bytes()[14..].to_vec()
}

fn all_sessions(modes: &[Mode], test: impl Fn(&mut Rig, &Session)) {
    for net in [Net::two_armed(1), Net::two_armed(2), Net::two_armed(4), Net::one_armed(2)] {
        for &mode in modes {
            for family in Family::BOTH {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let mut rig = Rig::new(net.clone().usual(mode));
                    let session = Session::open(&mut rig, family, protocol, mode);
                    // Whichever worker receives it.
                    for turn in 0..rig.workers.len() {
                        rig.turn = turn;
                        test(&mut rig, &session);
                    }
                }
            }
        }
    }
}

#[test]
fn errors_about_the_client_s_packets_go_to_the_client() {
    all_sessions(&[Mode::Nat, Mode::FullNat], |rig, session| {
        let (router, server, vip) = (session.inner_router(), session.server.ip(), session.vip.ip());
        for kind in KINDS {
            session.to_client(rig, "of a router", router, router, kind, &whole);
            session.to_client(rig, "of the server", server, vip, kind, &whole);
        }
    });
}

#[test]
fn errors_about_the_server_s_packets_go_to_the_server() {
    all_sessions(&[Mode::Nat, Mode::FullNat, Mode::Dr], |rig, session| {
        let (router, client, local) =
            (session.outer_router(), session.client.ip(), session.local.ip());
        for kind in KINDS {
            session.to_server(rig, "of a router", router, router, kind, &whole);
            session.to_server(rig, "of the client", client, local, kind, &whole);
        }
    });
}

/// The least that a router quotes, and all lengths up to the whole TCP header.
#[test]
fn quotes_of_every_length() {
    all_sessions(&[Mode::Nat, Mode::FullNat], |rig, session| {
        let router = session.inner_router();
        let header = if session.family == Family::V4 { 20 } else { 40 };
        for transport in [8, 9, 11, 12, 13, 16, 18, 19, 20] {
            // Checksums that are cut off need no correction.
            let cut = |packet: &Packet| {
                let bytes = whole(packet);
                bytes[..(header + transport).min(bytes.len())].to_vec()
            };
            session.to_client(rig, "cut", router, router, KINDS[0], &cut);
            session.to_server(rig, "cut", router, router, KINDS[0], &cut);
        }
    });
}

/// IPv4 options or IPv6 extension headers before the quoted transport header.
#[test]
fn quotes_with_options_and_extension_headers() {
    all_sessions(&[Mode::Nat, Mode::FullNat], |rig, session| {
        let router = session.inner_router();
        let odd = |packet: &Packet| {
            let mut frame = packet.bytes();
            if session.family == Family::V4 {
                frame[14] = 0x47;
                frame.splice(34..34, [7, 7, 4, 0, 0, 0, 0, 0]);
                mend_ipv4_checksum(&mut frame);
            } else {
                let next = std::mem::replace(&mut frame[20], 0);
                frame.splice(54..54, [60, 0, 1, 4, 0, 0, 0, 0, next, 0, 1, 4, 0, 0, 0, 0]);
            }
            frame[14..].to_vec()
        };
        session.to_client(rig, "odd", router, router, KINDS[2], &odd);
        session.to_server(rig, "odd", router, router, KINDS[2], &odd);
    });
}

/// RFC 4884: what follows the quote stays as it is, even where a quoted checksum would be.
#[test]
fn extensions_after_the_quote_stay() {
    all_sessions(&[Mode::Nat], |rig, session| {
        let router = session.inner_router();
        let extended = |packet: &Packet| {
            let mut quote = whole(packet);
            quote.resize(128, 0);
            quote.extend([0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xaa, 0xbb, 0xcc, 0xdd]);
            quote
        };
        session.to_client(rig, "extended", router, router, KINDS[0], &extended);
    });
}

#[test]
fn a_quoted_udp_checksum_of_zero_stays_zero() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut rig = Rig::new(Net::two_armed(1).usual(mode));
        let session = Session::open(&mut rig, Family::V4, Protocol::Udp, mode);
        let router = session.inner_router();
        let none = |packet: &Packet| {
            let mut quote = whole(packet);
            quote[26..28].fill(0);
            quote
        };
        session.to_client(&mut rig, "no checksum", router, router, KINDS[0], &none);
    }
}

/// An error that comes in on the server side and is dropped.
fn refused(rig: &mut Rig, what: &str, bytes: &[u8], outer: Option<SocketAddr>, why: DropReason) {
    let port = rig.net.server_side();
    rig.step(what, port, bytes, outer, Changes::none().dropped(why), &[]);
}

#[test]
fn errors_that_are_not_passed_on() {
    for workers in [1, 2] {
        for mode in [Mode::Nat, Mode::FullNat] {
            for family in Family::BOTH {
                let mut rig = Rig::new(Net::two_armed(workers).usual(mode));
                let session = Session::open(&mut rig, family, Protocol::Tcp, mode);
                let macs: (Mac, Mac) = (server_mac(11), rig.net.server_side_mac());
                let (router, dst) = (session.inner_router(), session.local.ip());
                let quote = whole(&session.sent[1]);
                let error =
                    |src, ttl, kind, quote: &[u8]| icmp_error(macs, src, dst, ttl, kind, 0, quote);
                let (rig, local) = (&mut rig, session.local);
                let good = error(router, 64, UNREACHABLE, &quote);

                let mut damaged = good.clone();
                *damaged.last_mut().unwrap() ^= 1;
                refused(rig, "checksum", &damaged, Some(local), DropReason::BadIcmp);

                let mut other = session.sent[1].clone();
                other.src.set_port(local.port() ^ 2);
                let unknown = error(router, 64, UNREACHABLE, &whole(&other));
                refused(rig, "unknown", &unknown, Some(other.src), DropReason::IcmpNoSession);

                let spent = error(router, 1, UNREACHABLE, &quote);
                refused(rig, "hop limit", &spent, Some(local), DropReason::HopLimitExceeded);

                let spoofed = error(session.vip.ip(), 64, UNREACHABLE, &quote);
                refused(rig, "from the VIP", &spoofed, None, DropReason::SpoofedLocal);

                let header = quote.len() - 20;
                let cut = error(router, 64, UNREACHABLE, &quote[..header + 7]);
                refused(rig, "cut", &cut, None, DropReason::BadIcmpQuote);

                if family == Family::V4 {
                    let mut later = quote.clone();
                    later[7] = 9;
                    let later = error(router, 64, UNREACHABLE, &later);
                    refused(rig, "later fragment", &later, None, DropReason::BadIcmpQuote);
                    // Source quench and redirect are not passed on, whatever they quote.
                    for kind in [(4, 0), (5, 1)] {
                        let old = error(router, 64, [kind; 2], &quote);
                        let why = match mode {
                            Mode::Nat => DropReason::NotLocal,
                            _ => DropReason::IcmpNotHandled,
                        };
                        refused(rig, "deprecated", &old, None, why);
                    }
                }
                let mut quoted_echo = quote.clone();
                quoted_echo[if family == Family::V4 { 9 } else { 6 }] =
                    if family == Family::V4 { 1 } else { 58 };
                let echo = error(router, 64, UNREACHABLE, &quoted_echo);
                let why = match mode {
                    Mode::Nat => DropReason::NotLocal,
                    _ => DropReason::IcmpNotHandled,
                };
                refused(rig, "about an echo", &echo, None, why);

                // Nothing of it touched the session.
                session.to_client(rig, "good", router, router, (UNREACHABLE, 0), &whole);
            }
        }
    }
}

/// A blind attacker does not know the sequence numbers (RFC 5927).
#[test]
fn errors_about_segments_that_cannot_be_in_flight() {
    // After the SYN; the least window that is granted is 16 MiB.
    const MARK: u32 = 0x1020_3041;
    const WINDOW: u32 = 1 << 24;
    for mode in [Mode::Nat, Mode::FullNat] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(1).usual(mode));
            let session = Session::open(&mut rig, family, Protocol::Tcp, mode);
            let router = session.inner_router();
            let at = if family == Family::V4 { 24 } else { 44 };
            for (sequence, plausible) in [
                (MARK, true),
                (MARK - WINDOW, true),
                (MARK + WINDOW, true),
                (MARK + WINDOW + 1, false),
                (MARK - WINDOW - 1, false),
                (MARK ^ (1 << 31), false),
            ] {
                let quote = |packet: &Packet| {
                    let mut quote = whole(packet);
                    quote[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
                    quote
                };
                if plausible {
                    session.to_client(&mut rig, "in flight", router, router, KINDS[2], &quote);
                    session.to_server(&mut rig, "in flight", router, router, KINDS[2], &quote);
                    continue;
                }
                let why = DropReason::IcmpOutOfWindow;
                let macs = (server_mac(11), rig.net.server_side_mac());
                let (dst, quoted) = (session.local.ip(), quote(&session.sent[1]));
                let error = icmp_error(macs, router, dst, 64, UNREACHABLE, 0, &quoted);
                refused(&mut rig, "not in flight", &error, Some(session.local), why);
                let (dst, quoted) = (session.vip.ip(), quote(&session.answered[1]));
                let error =
                    icmp_error((ROUTER_MAC, FRONT_MAC), router, dst, 64, UNREACHABLE, 0, &quoted);
                let changes = Changes::none().dropped(why);
                rig.step("not in flight", FRONT, &error, Some(session.client), changes, &[]);
            }
        }
    }
}

/// What is about the kernel's own packets goes to the kernel, as before.
#[test]
fn errors_for_the_node_itself_go_to_the_kernel() {
    use crate::net::TAP;
    // The exception tap is port 2 once both wires are there.
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(workers).usual(Mode::Nat).with_tap());
            let own = SocketAddr::new(family.front(), 40_000);
            let remote = SocketAddr::new(family.client(), 443);
            let macs = (ROUTER_MAC, FRONT_MAC);
            let quote = whole(&tcp(own, remote, SYN));
            let error = icmp_error(macs, family.router(), own.ip(), 64, UNREACHABLE, 0, &quote);
            let changes = Changes::none().punted(TAP, &error);
            // On the client side a packet steers by its source: that of the one quoted, turned round.
            rig.step("own", FRONT, &error, Some(remote), changes, &[(TAP, error.clone())]);
            let cut = icmp_error(macs, family.router(), own.ip(), 64, UNREACHABLE, 0, b"what?");
            let changes = Changes::none().punted(TAP, &cut);
            rig.step("cut", FRONT, &cut, None, changes, &[(TAP, cut.clone())]);
        }
    }
}

/// An error waits for its next hop like any packet, and does not keep its session alive.
#[test]
fn errors_wait_for_the_next_hop_and_are_no_sign_of_life() {
    for family in Family::BOTH {
        let mut rig = Rig::cold(Net::two_armed(1).usual(Mode::Nat));
        rig.resolve(rig.net.server_side(), family.server(11), server_mac(11));
        let client = SocketAddr::new(family.client(), 40_001);
        let vip = SocketAddr::new(family.vip(), 53);
        let server = SocketAddr::new(family.server(11), 5353);
        rig.send(FRONT, &rig.by_client(udp(client, vip)).bytes());
        let macs = (server_mac(11), rig.net.server_side_mac());
        let quote = whole(&udp(client, server).ttl(63));
        let error = icmp_error(macs, server.ip(), client.ip(), 64, KINDS[1].0, 0, &quote);
        let port = rig.net.server_side();
        let changes = Changes::none().held(1).add("icmp_errors", 1);
        rig.step("no neighbor yet", port, &error, None, changes, &[]);
        let macs = (FRONT_MAC, ROUTER_MAC);
        let quote = whole(&udp(client, vip).ttl(63));
        let out = icmp_error(macs, vip.ip(), client.ip(), 63, KINDS[1].0, 0, &quote);
        rig.resolve(FRONT, family.router(), ROUTER_MAC);
        assert_eq!(rig.sent(), [(FRONT, out)]);

        rig.pass(20_000);
        assert_eq!(rig.send(port, &error).len(), 1);
        rig.pass(11_000);
        assert_eq!(rig.sessions(), 0, "30 s after the last packet");
        let id = ServerId(2 + u16::from(family == Family::V6));
        assert_eq!(rig.active(id), 0);
    }
}

#[test]
fn an_error_longer_than_the_way_out_is_dropped() {
    for family in Family::BOTH {
        let mut net = Net::two_armed(1).usual(Mode::Nat);
        net.snapshot.ports[0].mtu = 1400;
        let mut rig = Rig::new(net);
        let session = Session::open(&mut rig, family, Protocol::Udp, Mode::Nat);
        let macs = (server_mac(11), rig.net.server_side_mac());
        let mut quote = whole(&session.sent[1]);
        quote.resize(1380, 0);
        let (router, dst) = (session.inner_router(), session.local.ip());
        let error = icmp_error(macs, router, dst, 64, UNREACHABLE, 0, &quote);
        refused(&mut rig, "long", &error, Some(session.local), DropReason::PacketTooBig);
    }
}
