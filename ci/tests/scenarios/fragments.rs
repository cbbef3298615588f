//! Fragments: each follows the first of its packet, in any order, through any number of workers,
//! byte for byte.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::Range;

use shunt::datapath::policy::MidStream;
use shunt::datapath::snapshot::PortId;
use shunt::io::memory::MemoryFrame;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason;

use crate::changes::Changes;
use crate::frames::{
    ACK, Packet, SYN, SYN_ACK, mend_ipv4_checksum, packet_too_big, source_port, tcp, time_exceeded,
    udp,
};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, TAP};
use crate::rig::Rig;

/// Cuts the packet in `frame` into fragments of `size` bytes, a multiple of eight.
pub fn split(frame: &[u8], ident: u32, size: usize) -> Vec<Vec<u8>> {
    let len = frame.len() - header_len(frame);
    (0..len).step_by(size).map(|at| part(frame, ident, at..len.min(at + size))).collect()
}

/// The fragment with these bytes of what follows the IP header in `frame`.
pub fn part(frame: &[u8], ident: u32, range: Range<usize>) -> Vec<u8> {
    let header = header_len(frame);
    let piece = &frame[header..][range.clone()];
    let (offset, more) = (range.start as u16, header + range.end != frame.len());
    let mut bytes = frame[..header].to_vec();
    if frame[12] == 0x86 {
        bytes[18..20].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut bytes[20], 44);
        bytes.extend([next, 0]);
        bytes.extend((offset | u16::from(more)).to_be_bytes());
        bytes.extend(ident.to_be_bytes());
        bytes.extend(piece);
    } else {
        bytes.extend(piece);
        bytes[16..18].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
        bytes[18..20].copy_from_slice(&(ident as u16).to_be_bytes());
        bytes[20..22].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        mend_ipv4_checksum(&mut bytes);
    }
    bytes
}

fn header_len(frame: &[u8]) -> usize {
    if frame[12] == 0x86 { 54 } else { 34 }
}

/// The identification of a fragment.
pub fn ident(frame: &[u8]) -> u32 {
    match frame[12] {
        0x86 => u32::from_be_bytes(frame[58..62].try_into().unwrap()),
        _ => u32::from(u16::from_be_bytes([frame[18], frame[19]])),
    }
}

/// As [`Rig::step_frame`], where the packet may go from worker to worker on its way, to two at the
/// most.
pub fn step(
    rig: &mut Rig,
    what: &str,
    port: PortId,
    bytes: &[u8],
    changes: Changes,
    expected: impl FnOnce(&[(PortId, Vec<u8>)]) -> Vec<(PortId, Vec<u8>)>,
) {
    rig.changes();
    rig.sent();
    rig.arrive(MemoryFrame::new(port, bytes));
    rig.settle();
    let sent = rig.sent();
    assert_eq!(sent, expected(&sent), "{what}: frames");
    let mut seen = rig.changes();
    let handed = ["handed_off", "handed_in"].map(|n| seen.0.remove(n).unwrap_or(0));
    assert_eq!(handed[0], handed[1], "{what}");
    assert!(handed[0] <= 2 * (1 + sent.len() as i64), "{what}: {handed:?}");
    assert_eq!(seen, changes.rx(port, bytes), "{what}: counters");
}

/// A fragment comes in and nothing goes out.
pub fn refused(rig: &mut Rig, what: &str, port: PortId, bytes: &[u8], why: DropReason) {
    step(rig, what, port, bytes, Changes::none().dropped(why), |_| Vec::new());
}

/// One conversation by UDP.
struct Talk {
    family: Family,
    mode: Mode,
    client: SocketAddr,
    vip: SocketAddr,
    server: SocketAddr,
    local: SocketAddr,
    id: ServerId,
}

impl Talk {
    fn new(family: Family, mode: Mode) -> Self {
        let client = SocketAddr::new(family.client(), 40_003);
        let port = if mode == Mode::Dr { 53 } else { 5353 };
        Talk {
            family,
            mode,
            client,
            vip: SocketAddr::new(family.vip(), 53),
            server: SocketAddr::new(family.server(11), port),
            local: client,
            id: ServerId(2 + u16::from(family == Family::V6)),
        }
    }

    fn query(&self, rig: &Rig, payload: &[u8]) -> Packet {
        rig.by_client(udp(self.client, self.vip).payload(payload))
    }

    /// What the server gets of it.
    fn forwarded(&self, rig: &Rig, payload: &[u8]) -> Packet {
        let packet = match self.mode {
            Mode::Dr => udp(self.client, self.vip),
            _ => udp(self.local, self.server).ttl(63),
        };
        rig.to_server(11, packet.payload(payload))
    }

    /// Opens the session with a whole datagram.
    fn open(&mut self, rig: &mut Rig) {
        let sent = rig.send(FRONT, &self.query(rig, b"hello").bytes());
        assert_eq!(sent.len(), 1);
        if self.mode == Mode::FullNat {
            self.local = SocketAddr::new(self.family.lip(), source_port(&sent[0].1));
        }
    }
}

/// The number that the fragments of a packet left with: the one they came with, or in translating
/// modes a new one, the same for all.
fn number(known: &mut Option<u32>, old: u32, mode: Mode, sent: &[(PortId, Vec<u8>)]) -> u32 {
    if mode == Mode::Dr {
        return old;
    }
    *known.get_or_insert_with(|| ident(&sent[0].1))
}

pub const ORDERS: [[usize; 3]; 6] =
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Sends the fragments in this order. Those before the first wait and then follow it.
#[allow(clippy::too_many_arguments)]
fn in_order(
    rig: &mut Rig,
    what: &str,
    mode: Mode,
    old: u32,
    (from, pieces): (PortId, &[Vec<u8>]),
    (to, whole): (PortId, &[u8]),
    order: [usize; 3],
    count: impl Fn(Changes, &[u8]) -> Changes,
) {
    let mut known = None;
    let mut early: Vec<usize> = Vec::new();
    for &n in &order {
        let first_seen = early.is_empty() && (n == 0 || known.is_some());
        if n != 0 && !first_seen {
            let changes = Changes::none().held(1).add("fragments_held", 1);
            step(rig, what, from, &pieces[n], changes, |_| Vec::new());
            early.push(n);
            continue;
        }
        let gone: Vec<usize> = std::iter::once(n).chain(early.drain(..)).collect();
        let mut changes = Changes::none().held(1 - gone.len() as i64);
        let out_lengths = split(whole, 0, 1448);
        for &n in &gone {
            changes = count(changes, &pieces[n]).tx(to, &out_lengths[n]).add("fragments", 1);
        }
        step(rig, what, from, &pieces[n], changes, |sent| {
            assert!(!sent.is_empty(), "{what}: nothing went out");
            let ident = number(&mut known, old, mode, sent);
            let out = split(whole, ident, 1448);
            gone.iter().map(|&n| (to, out[n].clone())).collect()
        });
        known.get_or_insert(old);
    }
}

#[test]
fn every_order_mode_family_and_number_of_workers() {
    let payload: Vec<u8> = (0..4000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    for net in [Net::two_armed(1), Net::two_armed(2), Net::two_armed(4), Net::one_armed(3)] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
            for family in Family::BOTH {
                let mut rig = Rig::new(net.clone().usual(mode));
                let mut talk = Talk::new(family, mode);
                talk.open(&mut rig);
                for (round, order) in ORDERS.into_iter().enumerate() {
                    for turn in 0..rig.workers.len() {
                        rig.turn = turn;
                        let old = 0x0001_2340 + (round * 8 + turn) as u32;
                        let back = rig.net.server_side();
                        let what = format!("{mode:?} {family:?} {order:?}");
                        let pieces = split(&talk.query(&rig, &payload).bytes(), old, 1448);
                        let whole = talk.forwarded(&rig, &payload).bytes();
                        assert_eq!(pieces.len(), 3);
                        let (from, to) = ((FRONT, &pieces[..]), (back, &whole[..]));
                        let id = talk.id;
                        let count = |changes: Changes, bytes: &[u8]| changes.forward(id, bytes);
                        in_order(&mut rig, &what, mode, old, from, to, order, count);
                        if mode == Mode::Dr {
                            continue;
                        }
                        let answer = udp(talk.server, talk.local).payload(&payload);
                        let pieces = split(&rig.by_server(11, answer).bytes(), old, 1448);
                        let answer = udp(talk.vip, talk.client).payload(&payload).ttl(63);
                        let whole = rig.to_client(answer).bytes();
                        let (from, to) = ((back, &pieces[..]), (FRONT, &whole[..]));
                        let count = |changes: Changes, bytes: &[u8]| changes.reply(id, bytes);
                        in_order(&mut rig, &what, mode, old, from, to, order, count);
                    }
                }
            }
        }
    }
}

#[test]
fn a_first_fragment_opens_a_session() {
    for workers in [1, 2, 4] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
            for family in Family::BOTH {
                let mut rig = Rig::new(Net::two_armed(workers).usual(mode));
                let talk = Talk::new(family, mode);
                let pieces = split(&talk.query(&rig, &[3; 3000]).bytes(), 9, 1448);
                // The last one first, all in one burst of one worker.
                for piece in [&pieces[2], &pieces[0], &pieces[1]] {
                    rig.workers[0].io().rx[0].push_back(MemoryFrame::new(FRONT, piece));
                }
                rig.settle();
                let sent = rig.sent();
                assert_eq!(sent.len(), 3, "{workers} {mode:?} {family:?}");
                assert_eq!(rig.sessions(), 1);
                let local = match mode {
                    Mode::FullNat => {
                        let at = if family == Family::V4 { 34 } else { 62 };
                        let first = sent.iter().find(|s| s.1[at + 2..at + 4] == [0x14, 0xe9]);
                        let port = &first.expect("the first fragment").1[at..at + 2];
                        let port = u16::from_be_bytes([port[0], port[1]]);
                        SocketAddr::new(family.lip(), port)
                    }
                    _ => talk.client,
                };
                let talk = Talk { local, ..talk };
                let number = ident(&sent[0].1);
                let whole = talk.forwarded(&rig, &[3; 3000]).bytes();
                let mut expected: Vec<_> =
                    split(&whole, number, 1448).into_iter().map(|b| (BACK, b)).collect();
                let mut sent = sent;
                sent.sort();
                expected.sort();
                assert_eq!(sent, expected);
            }
        }
    }
}

/// Clients that share a source address towards the server number their packets as they like.
#[test]
fn packets_of_many_clients_get_numbers_of_their_own() {
    for workers in [1, 3] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(workers).usual(Mode::FullNat));
            let mut seen = HashSet::new();
            for n in 0..100 {
                let mut talk = Talk::new(family, Mode::FullNat);
                talk.client.set_port(20_000 + n);
                let pieces = split(&talk.query(&rig, &[3; 2000]).bytes(), 7, 1448);
                let sent: Vec<_> = pieces.iter().flat_map(|p| rig.send(FRONT, p)).collect();
                assert_eq!(sent.len(), 2);
                assert_eq!(ident(&sent[0].1), ident(&sent[1].1));
                assert!(seen.insert(ident(&sent[0].1)), "a number twice");
            }
        }
    }
}

#[test]
fn fragments_of_tcp_segments() {
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(workers).usual(Mode::Nat));
            let client = SocketAddr::new(family.client(), 40_003);
            let vip = SocketAddr::new(family.vip(), 80);
            let server = SocketAddr::new(family.server(11), 8080);
            let data = |rig: &Rig, from, to| rig.by_client(tcp(from, to, ACK).payload(&[5; 2000]));
            let pieces = split(&data(&rig, client, vip).bytes(), 1, 1448);
            refused(&mut rig, "no session", FRONT, &pieces[0], DropReason::NoSession);
            refused(&mut rig, "no session", FRONT, &pieces[1], DropReason::NoSession);
            let syn = rig.by_client(tcp(client, vip, SYN).payload(&[0; 100])).bytes();
            refused(&mut rig, "SYN", FRONT, &split(&syn, 1, 80)[0], DropReason::BadFragment);

            rig.send(FRONT, &rig.by_client(tcp(client, vip, SYN)).bytes());
            rig.send(BACK, &rig.by_server(11, tcp(server, client, SYN_ACK)).bytes());
            rig.send(FRONT, &rig.by_client(tcp(client, vip, ACK)).bytes());
            let pieces = split(&data(&rig, client, vip).bytes(), 2, 1448);
            let sent: Vec<_> = pieces.iter().flat_map(|p| rig.send(FRONT, p)).collect();
            let out = rig.to_server(11, tcp(client, server, ACK).payload(&[5; 2000]).ttl(63));
            let out = split(&out.bytes(), ident(&sent[0].1), 1448);
            assert_eq!(sent, [(BACK, out[0].clone()), (BACK, out[1].clone())]);
        }
    }
}

/// A whole one is answered with a reset; of a fragment, the numbers for that are not known.
#[test]
fn stray_fragments_of_servers_are_not_answered() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for family in Family::BOTH {
            let mut net = Net::two_armed(1).usual(mode);
            net.snapshot.services[0].policy.mid_stream = MidStream::Reset;
            let mut rig = Rig::new(net);
            let to = if mode == Mode::Nat { family.client() } else { family.lip() };
            let server = SocketAddr::new(family.server(11), 8080);
            let segment = tcp(server, SocketAddr::new(to, 40_000), ACK).payload(&[5; 28]);
            let segment = rig.by_server(11, segment).bytes();
            for piece in split(&segment, 1, 40) {
                refused(&mut rig, "stray fragment", BACK, &piece, DropReason::NoSession);
            }
            assert_eq!(rig.send(BACK, &segment).len(), 1);
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let mut talk = Talk::new(Family::V4, Mode::Nat);
    talk.open(&mut rig);
    let mut whole = talk.query(&rig, &[1; 2000]).bytes();
    whole[40..42].fill(0);
    let sent = rig.send(FRONT, &split(&whole, 1, 1448)[0]);
    let mut out = talk.forwarded(&rig, &[1; 2000]).bytes();
    out[40..42].fill(0);
    assert_eq!(sent, [(BACK, split(&out, ident(&sent[0].1), 1448)[0].clone())]);
}

#[test]
fn fragments_that_are_dropped() {
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(workers).usual(Mode::Nat));
            let talk = Talk::new(family, Mode::Nat);
            let rig = &mut rig;
            let pieces =
                |rig: &Rig, ident| split(&talk.query(rig, &[9; 3000]).bytes(), ident, 1448);

            let syn = rig.by_client(tcp(talk.client, SocketAddr::new(family.vip(), 80), SYN));
            let mut tiny = split(&syn.bytes(), 1, 16).remove(0);
            tiny.resize(tiny.len().max(60), 0);
            refused(rig, "tiny", FRONT, &tiny, DropReason::TinyFragment);

            let mut odd = pieces(rig, 2)[0].clone();
            odd.pop();
            let at = if family == Family::V4 { 16 } else { 18 };
            let length = u16::from_be_bytes([odd[at], odd[at + 1]]) - 1;
            odd[at..at + 2].copy_from_slice(&length.to_be_bytes());
            if family == Family::V4 {
                mend_ipv4_checksum(&mut odd);
            }
            refused(rig, "no multiple of eight", FRONT, &odd, DropReason::BadFragment);

            let waiting = || Changes::none().held(1).add("fragments_held", 1);
            let late = pieces(rig, 3);
            step(rig, "second", FRONT, &late[1], waiting(), |_| Vec::new());
            rig.wait("not yet", 1900, Changes::none());
            let expired = Changes::none().held(-1).dropped(DropReason::FragmentExpired);
            rig.wait("expired", 200, expired);

            let overlapping = pieces(rig, 4);
            step(rig, "second", FRONT, &overlapping[1], waiting(), |_| Vec::new());
            let other = split(&talk.query(rig, &[9; 3000]).bytes(), 4, 1456);
            let changes = Changes::none()
                .held(-1)
                .dropped(DropReason::FragmentOverlap)
                .dropped(DropReason::FragmentOverlap);
            step(rig, "overlap", FRONT, &other[0], changes, |_| Vec::new());
            for piece in [0, 2] {
                let piece = &overlapping[piece];
                refused(rig, "all of it", FRONT, piece, DropReason::FragmentOverlap);
            }

            // For a port that no service listens on, from a local address, of no session.
            let ends = |from, to| {
                split(&rig.by_client(udp(from, to).payload(&[1; 2000])).bytes(), 5, 1448)
            };
            let no_service = ends(talk.client, SocketAddr::new(family.vip(), 54));
            let spoofed = ends(SocketAddr::new(family.front(), 5), talk.vip);
            let elsewhere = ends(talk.client, SocketAddr::new(family.router(), 54));
            for (pieces, why) in [
                (no_service, DropReason::NoService),
                (spoofed, DropReason::SpoofedLocal),
                (elsewhere, DropReason::NotLocal),
            ] {
                refused(rig, "first", FRONT, &pieces[0], why);
                refused(rig, "second", FRONT, &pieces[1], why);
            }
            let server = SocketAddr::new(family.server(11), 5353);
            let answer = rig.by_server(11, udp(server, talk.client).payload(&[1; 2000]));
            for piece in split(&answer.bytes(), 5, 1448) {
                refused(rig, "no session", BACK, &piece, DropReason::NoSession);
            }
            assert_eq!(rig.sessions(), 0);
        }
    }
}

#[test]
fn no_more_packets_than_the_table_holds() {
    for family in Family::BOTH {
        let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Dr));
        let talk = Talk::new(family, Mode::Dr);
        let whole = talk.query(&rig, &[9; 40]).bytes();
        rig.changes();
        for ident in 0..16_384 {
            rig.send(FRONT, &split(&whole, ident, 16)[0]);
        }
        let full = rig.changes().0["drop.fragment_table_full"];
        assert!((12_288..12_500).contains(&full), "4,096 have a place: {full} were refused");
        rig.pass(250);
        assert_eq!(rig.send(FRONT, &split(&whole, 20_000, 16)[0]).len(), 1, "the oldest goes");
    }
}

/// Errors about fragments: about the first only in IPv4.
#[test]
fn errors_about_fragments() {
    for family in Family::BOTH {
        let mut net = Net::two_armed(1).usual(Mode::Nat);
        net.snapshot.ports[1].mtu = 1400;
        let mut rig = Rig::new(net);
        let mut talk = Talk::new(family, Mode::Nat);
        talk.open(&mut rig);
        let spent = rig.by_client(udp(talk.client, talk.vip).payload(&[1; 2000]).ttl(1));
        let pieces = split(&spent.bytes(), 1, 400);
        let (own, to) = (family.front(), family.client());
        let error = time_exceeded((FRONT_MAC, ROUTER_MAC), own, to, &pieces[0]);
        let why = DropReason::HopLimitExceeded;
        let changes = Changes::none().dropped(why).originated(FRONT, &error);
        step(&mut rig, "spent", FRONT, &pieces[0], changes, |_| vec![(FRONT, error)]);
        if family == Family::V4 {
            refused(&mut rig, "spent, second", FRONT, &pieces[1], why);
        }

        let mut pieces = split(&talk.query(&rig, &[1; 3000]).bytes(), 2, 1448);
        let why = DropReason::PacketTooBig;
        if family == Family::V4 {
            refused(&mut rig, "may be fragmented again", FRONT, &pieces[0], why);
            for piece in &mut pieces {
                piece[18] = 3;
                piece[20] |= 0x40;
                mend_ipv4_checksum(piece);
            }
        }
        let quoted = if family == Family::V4 { 576 - 28 } else { 1280 - 48 };
        let quote = &pieces[0][..14 + quoted];
        let error = packet_too_big((FRONT_MAC, ROUTER_MAC), own, to, quote, 1400);
        let changes = Changes::none().dropped(why).originated(FRONT, &error);
        step(&mut rig, "too long", FRONT, &pieces[0], changes, |_| vec![(FRONT, error)]);
        // The last one is short enough.
        assert_eq!(rig.send(FRONT, &pieces[2]).len(), 1);
    }
}

/// Fragments for the node's own addresses are the kernel's, of any protocol.
#[test]
fn fragments_for_the_kernel() {
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut rig = Rig::new(Net::two_armed(workers).usual(Mode::Nat).with_tap());
            let own = SocketAddr::new(family.front(), 2000);
            let client = SocketAddr::new(family.client(), 40_000);
            let packet = rig.by_client(udp(client, own).payload(&[1; 2000]));
            for mut piece in split(&packet.bytes(), 5, 1448) {
                for protocol in [17, if family == Family::V4 { 1 } else { 58 }] {
                    piece[if family == Family::V4 { 23 } else { 54 }] = protocol;
                    if family == Family::V4 {
                        mend_ipv4_checksum(&mut piece);
                    }
                    let changes = Changes::none().punted(TAP, &piece);
                    let out = piece.clone();
                    step(&mut rig, "own", FRONT, &piece, changes, |_| vec![(TAP, out)]);
                }
            }
            let vip = rig.by_client(udp(client, SocketAddr::new(family.vip(), 53)));
            let mut ping = split(&vip.payload(&[1; 2000]).bytes(), 5, 1448).remove(0);
            ping[if family == Family::V4 { 23 } else { 54 }] =
                if family == Family::V4 { 1 } else { 58 };
            if family == Family::V4 {
                mend_ipv4_checksum(&mut ping);
            }
            refused(&mut rig, "a ping of the VIP", FRONT, &ping, DropReason::Fragment);
        }
    }
}
