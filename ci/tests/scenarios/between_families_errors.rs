//! ICMP errors of NAT64 and NAT46, byte for byte: each reaches the end that sent the packet, in its
//! family (RFC 7915 4.2, 4.3, 5.2, 5.3).

use std::net::IpAddr;

use proptest::prelude::*;
use shunt::datapath::snapshot::PortId;
use shunt::wire::DropReason;
use shunt::wire::flow::Protocol;

use crate::between_families::{Packet, Talk, talks};
use crate::changes::Changes;
use crate::fragments::part;
use crate::frames::{icmp_error, mend_ipv4_checksum, packet_too_big, with_class};
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, ROUTER_MAC, ip, server_mac};

/// Type, code and second word of an error.
type Kind = (u8, u8, u32);

/// What ICMPv4 errors become.
const TO_V6: [(Kind, Kind); 27] = [
    ((3, 0, 0), (1, 0, 0)),
    ((3, 1, 0), (1, 0, 0)),
    ((3, 2, 0), (4, 1, 6)),
    ((3, 3, 0), (1, 4, 0)),
    ((3, 4, 1400), (2, 0, 1420)),
    ((3, 5, 0), (1, 0, 0)),
    ((3, 6, 0), (1, 0, 0)),
    ((3, 7, 0), (1, 0, 0)),
    ((3, 8, 0), (1, 0, 0)),
    ((3, 9, 0), (1, 1, 0)),
    ((3, 10, 0), (1, 1, 0)),
    ((3, 11, 0), (1, 0, 0)),
    ((3, 12, 0), (1, 0, 0)),
    ((3, 13, 0), (1, 1, 0)),
    ((3, 15, 0), (1, 1, 0)),
    ((11, 0, 0), (3, 0, 0)),
    ((11, 1, 0), (3, 1, 0)),
    ((12, 0, 0), (4, 0, 0)),
    ((12, 0, 1 << 24), (4, 0, 1)),
    ((12, 0, 2 << 24), (4, 0, 4)),
    ((12, 2, 3 << 24), (4, 0, 4)),
    ((12, 0, 8 << 24), (4, 0, 7)),
    ((12, 0, 9 << 24), (4, 0, 6)),
    ((12, 0, 12 << 24), (4, 0, 8)),
    ((12, 0, 15 << 24), (4, 0, 8)),
    ((12, 0, 16 << 24), (4, 0, 24)),
    ((12, 2, 19 << 24), (4, 0, 24)),
];
/// What ICMPv6 errors become.
const TO_V4: [(Kind, Kind); 19] = [
    ((1, 0, 0), (3, 1, 0)),
    ((1, 1, 0), (3, 10, 0)),
    ((1, 2, 0), (3, 1, 0)),
    ((1, 3, 0), (3, 1, 0)),
    ((1, 4, 0), (3, 3, 0)),
    ((2, 0, 1400), (3, 4, 1380)),
    ((3, 0, 0), (11, 0, 0)),
    ((3, 1, 0), (11, 1, 0)),
    ((4, 0, 0), (12, 0, 0)),
    ((4, 0, 1), (12, 0, 1 << 24)),
    ((4, 0, 4), (12, 0, 2 << 24)),
    ((4, 0, 5), (12, 0, 2 << 24)),
    ((4, 0, 6), (12, 0, 9 << 24)),
    ((4, 0, 7), (12, 0, 8 << 24)),
    ((4, 0, 8), (12, 0, 12 << 24)),
    ((4, 0, 23), (12, 0, 12 << 24)),
    ((4, 0, 24), (12, 0, 16 << 24)),
    ((4, 0, 39), (12, 0, 16 << 24)),
    ((4, 1, 6), (3, 2, 0)),
];
/// What has no counterpart: of IPv4, of IPv6.
const NONE_V4: [Kind; 9] = [
    (3, 14, 0),
    (3, 16, 0),
    (12, 1, 0),
    (12, 3, 0),
    (12, 0, 4 << 24),
    (12, 0, 7 << 24),
    (12, 0, 10 << 24),
    (12, 0, 11 << 24),
    (12, 0, 20 << 24),
];
const NONE_V6: [Kind; 6] = [(1, 5, 0), (1, 6, 0), (4, 2, 0), (4, 0, 2), (4, 0, 3), (4, 0, 40)];
const PORT_UNREACHABLE: [Kind; 2] = [(3, 3, 0), (1, 4, 0)];

/// To which end an error goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Client,
    Server,
}

/// An error on its way.
struct Error {
    to: To,
    from: IpAddr,
    kind: Kind,
    quote: Vec<u8>,
}

impl Error {
    fn port(&self) -> PortId {
        if self.to == To::Client { BACK } else { FRONT }
    }

    fn bytes(&self, talk: &Talk) -> Vec<u8> {
        let (macs, dst) = match self.to {
            To::Client => ((server_mac(11), BACK_MAC), talk.local.ip()),
            To::Server => ((ROUTER_MAC, FRONT_MAC), talk.vip.ip()),
        };
        let (kind, code, rest) = self.kind;
        icmp_error(macs, self.from, dst, 64, [(kind, code); 2], rest, &self.quote)
    }
}

/// A packet of each direction, as its sender sent it.
fn packet(talk: &Talk, to: To, data: &[u8]) -> Packet {
    match to {
        To::Client => talk.by_client(true).data(data),
        To::Server => talk.by_server().data(data),
    }
}

/// The family that errors to this end come in with.
fn family_of(talk: &Talk, to: To) -> Family {
    match (talk.clients, to) {
        (Family::V4, To::Client) | (Family::V6, To::Server) => Family::V6,
        _ => Family::V4,
    }
}

fn router(family: Family) -> IpAddr {
    ip(if family == Family::V4 { "203.0.113.9" } else { "2001:db8:77::9" })
}

/// What was sent of this packet, as a router quotes it.
fn as_sent(talk: &Talk, to: To, packet: &Packet) -> Vec<u8> {
    let forwarded = match to {
        To::Client => talk.to_server(packet),
        To::Server => talk.to_client(packet),
    };
    forwarded.made()[14..].to_vec()
}

/// What its sender knows of it.
fn as_known(packet: &Packet) -> Vec<u8> {
    packet.clone().ttl(63).quoted()
}

/// The frame of the error that leaves.
fn out(talk: &Talk, to: To, shown: IpAddr, (kind, code, rest): Kind, quote: &[u8]) -> Vec<u8> {
    let (macs, dst) = match to {
        To::Client => ((FRONT_MAC, ROUTER_MAC), talk.client.ip()),
        To::Server => ((BACK_MAC, server_mac(11)), talk.server.ip()),
    };
    icmp_error(macs, shown, dst, 63, [(kind, code); 2], rest, quote)
}

/// Our address on the port by which errors to this end leave.
fn own(talk: &Talk, to: To) -> IpAddr {
    match to {
        To::Client => talk.clients.front(),
        To::Server if talk.clients == Family::V4 => Family::V6.back(),
        To::Server => Family::V4.back(),
    }
}

fn passed(talk: &mut Talk, what: &str, error: &Error, out: Vec<u8>) {
    let (port, outer) = match error.to {
        To::Client => (FRONT, talk.local),
        To::Server => (BACK, talk.client),
    };
    let bytes = error.bytes(talk);
    let changes = Changes::none().tx(port, &out).add("icmp_errors", 1);
    talk.rig.step(what, error.port(), &bytes, Some(outer), changes, &[(port, out)]);
}

fn refused(talk: &mut Talk, what: &str, error: &Error, bytes: &[u8], why: DropReason) {
    let outer = if error.to == To::Client { talk.local } else { talk.client };
    let changes = Changes::none().dropped(why);
    talk.rig.step(what, error.port(), bytes, Some(outer), changes, &[]);
}

/// A packet has gone each way.
fn opened(mut talk: Talk) -> Talk {
    let first = talk.by_client(true);
    talk.rig.send(FRONT, &first.sent());
    let answer = Packet { syn: true, ..talk.by_server() };
    assert_eq!(talk.rig.send(BACK, &answer.sent()).len(), 1);
    talk
}

/// Every test of an error, in both directions, in every conversation.
fn all(test: impl Fn(&mut Talk, To)) {
    for talk in talks() {
        let mut talk = opened(talk);
        for to in [To::Client, To::Server] {
            test(&mut talk, to);
        }
    }
}

#[test]
fn every_error_of_routers_and_of_the_ends() {
    all(|talk, to| {
        let from = router(family_of(talk, to));
        let (end, peer) = match to {
            To::Client => (talk.server.ip(), talk.vip.ip()),
            To::Server => (talk.client.ip(), talk.local.ip()),
        };
        let packet = packet(talk, to, b"");
        let table = if from.is_ipv4() { &TO_V6[..] } else { &TO_V4 };
        for &(kind, becomes) in table {
            let what = format!("{:?} {} {to:?} {kind:?}", talk.clients, talk.protocol);
            for (from, shown) in [(from, own(talk, to)), (end, peer)] {
                let error = Error { to, from, kind, quote: as_sent(talk, to, &packet) };
                let out = out(talk, to, shown, becomes, &as_known(&packet));
                passed(talk, &what, &error, out);
            }
        }
    });
}

#[test]
fn what_has_no_counterpart() {
    all(|talk, to| {
        let from = router(family_of(talk, to));
        let quote = as_sent(talk, to, &packet(talk, to, b""));
        let kinds = if from.is_ipv4() { &NONE_V4[..] } else { &NONE_V6 };
        for &kind in kinds {
            let error = Error { to, from, kind, quote: quote.clone() };
            let bytes = error.bytes(talk);
            refused(talk, "no counterpart", &error, &bytes, DropReason::IcmpNotTranslatable);
        }
    });
}

/// The least that a router quotes, and more; longer than an ICMPv6 error may be.
#[test]
fn quotes_of_every_length() {
    all(|talk, to| {
        let family = family_of(talk, to);
        let kind = PORT_UNREACHABLE[usize::from(family == Family::V6)];
        let becomes = PORT_UNREACHABLE[usize::from(family == Family::V4)];
        let (from, shown) = (router(family), own(talk, to));
        let packet = packet(talk, to, &[7; 1400]);
        let (sent, known) = (as_sent(talk, to, &packet), as_known(&packet));
        let header = |v4| if v4 { 20 } else { 40 };
        let (header_in, header_out) = (header(from.is_ipv4()), header(shown.is_ipv4()));
        // Of a TCP segment with the checksum or without, and all that fits into the packet.
        for transport in [8, 9, 16, 18, 20, 21, 500, 1192] {
            let quote = sent[..header_in + transport].to_vec();
            let error = Error { to, from, kind, quote };
            let out = out(talk, to, shown, becomes, &known[..header_out + transport]);
            passed(talk, "cut", &error, out);
        }
        if from.is_ipv4() {
            let error = Error { to, from, kind, quote: sent };
            let out = out(talk, to, shown, becomes, &known[..1280 - 48]);
            passed(talk, "too long", &error, out);
        }
    });
}

#[test]
fn the_path_mtu() {
    all(|talk, to| {
        let family = family_of(talk, to);
        let (from, shown) = (router(family), own(talk, to));
        let packet = packet(talk, to, b"");
        let cases: &[(u32, u32)] = match family {
            // No less than every IPv6 path takes, no more than the ports take; what a router means
            // that says nothing about a packet of 1500 bytes.
            Family::V4 => &[(1300, 1320), (68, 1280), (1259, 1280), (1261, 1281), (9000, 1500)],
            Family::V6 => &[(1280, 1260), (1400, 1380), (500, 1260), (70_000, 1480)],
        };
        let (kind, becomes) = if from.is_ipv4() { ((3, 4), (2, 0)) } else { ((2, 0), (3, 4)) };
        for &(mtu, told) in cases {
            let kind = (kind.0, kind.1, mtu);
            let error = Error { to, from, kind, quote: as_sent(talk, to, &packet) };
            let becomes = (becomes.0, becomes.1, told);
            let out = out(talk, to, shown, becomes, &as_known(&packet));
            passed(talk, &format!("{mtu}"), &error, out);
        }
        if from.is_ipv4() {
            for (length, told) in [(1500u16, 1500), (1492, 1300), (1000, 1300)] {
                let mut quote = as_sent(talk, to, &packet);
                quote[2..4].copy_from_slice(&length.to_be_bytes());
                let mut known = as_known(&packet);
                known[4..6].copy_from_slice(&(length - 20).to_be_bytes());
                let error = Error { to, from, kind: (3, 4, 0), quote };
                let out = out(talk, to, shown, (2, 0, told), &known);
                passed(talk, "an old router", &error, out);
            }
        }
    });
}

/// A first fragment is quoted as one, and makes a difference to the path MTU.
#[test]
fn quotes_of_first_fragments() {
    all(|talk, to| {
        let family = family_of(talk, to);
        let (from, shown) = (router(family), own(talk, to));
        let packet = packet(talk, to, b"");
        let (mut sent, mut known) = (as_sent(talk, to, &packet), as_known(&packet));
        let protocol = talk.protocol.number();
        let insert = |quote: &mut Vec<u8>| {
            let payload_len = u16::from_be_bytes([quote[4], quote[5]]) + 8;
            quote[4..6].copy_from_slice(&payload_len.to_be_bytes());
            quote[6] = 44;
            quote.splice(40..40, [protocol, 0, 0, 1, 0, 0, 0xab, 0xcd]);
        };
        let mark = |quote: &mut Vec<u8>| {
            quote[4..8].copy_from_slice(&[0xab, 0xcd, 0x20, 0]);
            let mut frame = [&[0; 14][..], quote].concat();
            mend_ipv4_checksum(&mut frame);
            *quote = frame.split_off(14);
        };
        let (kind, becomes) = match family {
            Family::V4 => ((3, 4, 1400), (2, 0, 1420)),
            Family::V6 => ((2, 0, 1400), (3, 4, 1372)),
        };
        if family == Family::V4 {
            mark(&mut sent);
            insert(&mut known);
        } else {
            insert(&mut sent);
            mark(&mut known);
        }
        let error = Error { to, from, kind, quote: sent };
        let out = out(talk, to, shown, becomes, &known);
        passed(talk, "first fragment", &error, out);
    });
}

/// RFC 4884: the length of the quote is counted in other units, and what follows it is kept.
#[test]
fn extensions_go_along() {
    const EXTENSION: [u8; 12] = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xaa, 0xbb, 0xcc, 0xdd];
    all(|talk, to| {
        let family = family_of(talk, to);
        let (from, shown) = (router(family), own(talk, to));
        let packet = packet(talk, to, b"");
        let padded = |mut quote: Vec<u8>, length: usize| {
            assert!(quote.len() <= length);
            quote.resize(length, 0);
            quote.extend(EXTENSION);
            quote
        };
        let (sent, known) = (as_sent(talk, to, &packet), as_known(&packet));
        // 128 bytes with the padding, and with 20 more a multiple of eight; with 20 less the least.
        let (length, becomes) = if family == Family::V4 { (128, 152) } else { (128, 128) };
        let unit = |v4, length: u32| if v4 { (length / 4) << 16 } else { (length / 8) << 24 };
        let rest = unit(from.is_ipv4(), length as u32);
        let kinds = PORT_UNREACHABLE;
        let kind = (kinds[usize::from(family == Family::V6)].0, 3, rest);
        let kind = if family == Family::V6 { (1, 4, rest) } else { kind };
        let told = unit(shown.is_ipv4(), becomes as u32);
        let told = if family == Family::V4 { (1, 4, told) } else { (3, 3, told) };
        let error = Error { to, from, kind, quote: padded(sent.clone(), length) };
        let out_frame = out(talk, to, shown, told, &padded(known.clone(), becomes));
        passed(talk, "extended", &error, out_frame);
        // There is no length in a Packet Too Big or a Parameter Problem: the extension ends here.
        if family == Family::V4 {
            let kind = (12, 0, 8 << 24 | rest);
            let error = Error { to, from, kind, quote: padded(sent, length) };
            let mut quote = known;
            quote.resize(length + 20, 0);
            let out = out(talk, to, shown, (4, 0, 7), &quote);
            passed(talk, "without", &error, out);
        }
    });
}

#[test]
fn the_class_goes_along() {
    all(|talk, to| {
        let family = family_of(talk, to);
        let kind = PORT_UNREACHABLE[usize::from(family == Family::V6)];
        let becomes = PORT_UNREACHABLE[usize::from(family == Family::V4)];
        let packet = packet(talk, to, b"");
        let quote = as_sent(talk, to, &packet);
        let error = Error { to, from: router(family), kind, quote };
        let bytes = with_class(error.bytes(talk), 0xb9);
        let out = with_class(out(talk, to, own(talk, to), becomes, &as_known(&packet)), 0xb9);
        let port = if to == To::Client { FRONT } else { BACK };
        assert_eq!(talk.rig.send(error.port(), &bytes), [(port, out)]);
    });
}

/// A port without an address of the family speaks in the name of the peer.
#[test]
fn without_an_address_of_our_own() {
    for clients in Family::BOTH {
        let mut talk = opened(Talk::new(1, clients, Protocol::Udp, 40_000, false));
        for port in &mut talk.rig.net.snapshot.ports {
            (port.ipv4, port.ipv6) = (None, None);
        }
        talk.rig.reconfigure();
        for (to, shown) in [(To::Client, talk.vip.ip()), (To::Server, talk.local.ip())] {
            let family = family_of(&talk, to);
            let kind = PORT_UNREACHABLE[usize::from(family == Family::V6)];
            let becomes = PORT_UNREACHABLE[usize::from(family == Family::V4)];
            let packet = packet(&talk, to, b"");
            let quote = as_sent(&talk, to, &packet);
            let error = Error { to, from: router(family), kind, quote };
            let out = out(&talk, to, shown, becomes, &as_known(&packet));
            passed(&mut talk, "no address", &error, out);
        }
    }
}

#[test]
fn errors_that_are_not_passed_on() {
    all(|talk, to| {
        let family = family_of(talk, to);
        let kind = PORT_UNREACHABLE[usize::from(family == Family::V6)];
        let packet = packet(talk, to, b"");
        let quote = as_sent(talk, to, &packet);
        let error = |quote: Vec<u8>| Error { to, from: router(family), kind, quote };

        let good = error(quote.clone());
        let mut damaged = good.bytes(talk);
        *damaged.last_mut().unwrap() ^= 1;
        refused(talk, "checksum", &good, &damaged, DropReason::BadIcmp);

        let mut spent = good.bytes(talk);
        if family == Family::V4 {
            spent[22] = 1;
            mend_ipv4_checksum(&mut spent);
        } else {
            spent[21] = 1;
        }
        refused(talk, "hop limit", &good, &spent, DropReason::HopLimitExceeded);

        let header = if family == Family::V4 { 20 } else { 40 };
        if talk.protocol == Protocol::Tcp {
            let mut late = quote.clone();
            late[header + 4] ^= 0x80;
            let late = error(late);
            let bytes = late.bytes(talk);
            refused(talk, "not in flight", &late, &bytes, DropReason::IcmpOutOfWindow);
        }
        // Of another session: the port of the service's side.
        let mut other = quote;
        let at = header + if to == To::Client { 2 } else { 0 };
        other[at] ^= 0x40;
        let other = error(other);
        let bytes = other.bytes(talk);
        refused(talk, "no session", &other, &bytes, DropReason::IcmpNoSession);
    });
}

/// What does not fit through the port it would leave by, in the sender's own numbers.
#[test]
fn the_mtu_of_our_own_ports() {
    for clients in Family::BOTH {
        let mut talk = Talk::new(1, clients, Protocol::Tcp, 40_000, false);
        talk.rig.net.snapshot.ports[1].mtu = 1400;
        talk.rig.reconfigure();
        let mut talk = opened(talk);
        let header = if clients == Family::V4 { 40 } else { 60 };
        let room = if clients == Family::V4 { 1380 } else { 1420 };
        let fits = talk.by_client(false).data(&vec![7; room - header]);
        let out = talk.to_server(&fits).made();
        assert_eq!(out.len(), 1414);
        talk.forward("fits", &fits.sent(), out, false);
        let long = talk.by_client(false).data(&vec![7; room - header + 1]);
        let quoted = if clients == Family::V4 { 576 - 28 } else { 1280 - 48 };
        let (own, to) = (clients.front(), talk.client.ip());
        let mut quote = [&[0; 14][..], &long.made()[14..]].concat();
        quote.truncate(14 + quoted);
        let error = packet_too_big((FRONT_MAC, ROUTER_MAC), own, to, &quote, room as u16);
        let why = DropReason::PacketTooBig;
        let changes = Changes::none().dropped(why).originated(FRONT, &error);
        let client = Some(talk.client);
        talk.rig.step("long", FRONT, &long.sent(), client, changes, &[(FRONT, error)]);
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Packets, fragments and errors of both sides, some bytes of them changed: nothing is lost, and
    /// nothing is left when all timeouts have passed.
    #[test]
    fn whatever_comes(
        workers in 1usize..3,
        v6: bool,
        udp: bool,
        ops in prop::collection::vec(
            (0u8..6, any::<bool>(), 0usize..200, any::<u8>(), 0usize..4, any::<u16>()), 1..120,
        ),
    ) {
        let clients = if v6 { Family::V6 } else { Family::V4 };
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let mut talk = Talk::new(workers, clients, protocol, 40_000, false);
        talk.rig.send(FRONT, &talk.by_client(true).sent());
        for (what, to_client, at, value, changes, ident) in ops {
            let to = if to_client { To::Client } else { To::Server };
            let data = vec![7; 1000 + usize::from(ident % 460)];
            let packet = packet(&talk, to, &data);
            // Errors to the client come from the other side than its packets.
            let own = if to_client { FRONT } else { BACK };
            let family = family_of(&talk, to);
            let kinds: &[Kind] = if family == Family::V4 {
                &[(3, 4, 1300), (3, 3, 0), (12, 0, 8 << 24), (3, 3, 32 << 16)]
            } else {
                &[(2, 0, 1300), (1, 4, 0), (4, 0, 7), (1, 4, 16 << 24)]
            };
            let (port, mut bytes) = match what {
                0 => (own, packet.sent()),
                1 => (own, packet.bytes(|_| ident, false)),
                2 => (own, part(&packet.sent(), ident.into(), 0..640)),
                3 => (own, part(&packet.sent(), ident.into(), 640..packet.sent().len() - 60)),
                _ => {
                    let kind = kinds[usize::from(ident % 4)];
                    let quote = as_sent(&talk, to, &packet);
                    let error = Error { to, from: router(family), kind, quote };
                    (error.port(), error.bytes(&talk))
                }
            };
            // Not the way to us.
            for n in 0..changes.saturating_sub(1) {
                let at = (14 + at + n * 7) % bytes.len();
                if at >= 14 {
                    bytes[at] ^= value;
                }
            }
            if bytes[12] == 8 {
                mend_ipv4_checksum(&mut bytes);
            }
            talk.rig.send(port, &bytes);
        }
        talk.rig.pass(1_200_000);
        prop_assert_eq!(talk.rig.sessions(), 0);
        prop_assert!(talk.rig.counters.iter().all(|counters| counters.held.get() == 0));
    }
}
