//! A client and a server, each a small TCP of its own, on both sides of the SYN proxy, over links
//! that lose, repeat and reorder packets, in virtual time: what one sends the other gets, whatever
//! happens to the handshake.
//!
//! The ends check what they are sent as a real one would: timestamps do not go back (PAWS, RFC 7323
//! 5), echoes are of timestamps they have sent, no data lies beyond the window they have opened.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shunt::datapath::snapshot::{PortId, SynProxy};
use shunt::session::Mode;
use shunt::wire::syn_options::{SynOptions, Timestamps};
use shunt::wire::tcp;

use crate::frames::{ACK, RST, SYN};
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, server_mac};
use crate::rig::Rig;
use crate::syn_proxy::Segment;

const FIN: u8 = 1;
/// The room of both ends, always free: data is taken at once.
const ROOM: u32 = 8192;
/// Retransmission timeout, and that of window probes.
const RTO: u64 = 250;
/// The largest segment that an end sends, and how many are on their way at the most.
const CHUNK: u32 = 900;
const FLIGHT: u32 = 6 * CHUNK;

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Listen,
    SynSent,
    SynReceived,
    Established,
}

/// One end of the connection.
struct End {
    name: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    state: State,
    /// What it offers; reduced to what both have.
    offer: SynOptions,
    scaling: Option<(u8, u8)>,
    timestamps: bool,
    clock: u32,
    recent: u32,
    iss: u32,
    irs: u32,
    data: Vec<u8>,
    got: Vec<u8>,
    /// In units of the stream; its last unit is the FIN.
    acked: u32,
    sent: u32,
    most_sent: u32,
    fin_got: bool,
    /// Where the window of the other side ends.
    window_end: u32,
    timer: Option<u64>,
    probes_with_data: bool,
}

impl End {
    fn length(&self) -> u32 {
        self.data.len() as u32 + 1
    }
    fn next_expected(&self) -> u32 {
        self.irs.wrapping_add(1 + self.got.len() as u32 + u32::from(self.fin_got))
    }
    fn done(&self) -> bool {
        self.state == State::Established && self.acked == self.length() && self.fin_got
    }
    fn time(&self, now: u64) -> u32 {
        self.clock.wrapping_add(now as u32)
    }

    fn segment(&self, now: u64, flags: u8, at: u32, payload: &[u8]) -> Segment {
        let seq = self.iss.wrapping_add(1).wrapping_add(at);
        let mut options = SynOptions::default();
        let mut window = ROOM;
        if flags & SYN != 0 {
            options = self.offer;
        } else if let Some((own, _)) = self.scaling {
            window >>= own;
        }
        options.timestamps =
            self.timestamps.then_some(Timestamps { value: self.time(now), echo: self.recent });
        let mut bytes = [0; 20];
        let len = options.emit(&mut bytes);
        let seq = if flags & SYN != 0 { self.iss } else { seq };
        let ack = if flags & ACK != 0 { self.next_expected() } else { 0 };
        Segment::new(self.local, self.remote, flags, seq, ack)
            .window(window as u16)
            .options(&bytes[..len])
            .payload(payload)
    }

    /// What the end sends of itself.
    fn turn(&mut self, now: u64) -> Vec<Segment> {
        let due = self.timer.is_some_and(|at| now >= at);
        let mut out = Vec::new();
        match self.state {
            State::Listen => {}
            State::SynSent | State::SynReceived => {
                if self.timer.is_none() || due {
                    let flags = if self.state == State::SynSent { SYN } else { SYN | ACK };
                    out.push(self.segment(now, flags, 0, b""));
                    self.timer = Some(now + RTO);
                }
            }
            State::Established => {
                if due {
                    self.sent = self.acked;
                    self.timer = None;
                }
                while self.sent < self.length()
                    && self.sent < self.window_end
                    && self.sent - self.acked < FLIGHT
                {
                    let end = (self.sent + CHUNK).min(self.window_end).min(self.data.len() as u32);
                    let payload = self.data[self.sent as usize..end as usize].to_vec();
                    let fin = end == self.data.len() as u32 && end < self.window_end;
                    let flags = if fin { ACK | FIN } else { ACK };
                    if payload.is_empty() && !fin {
                        break;
                    }
                    out.push(self.segment(now, flags, self.sent, &payload));
                    self.sent = end + u32::from(fin);
                    self.most_sent = self.most_sent.max(self.sent);
                }
                if due && out.is_empty() && self.acked < self.length() {
                    // The window is shut: a probe, as Linux or as others send it.
                    if self.probes_with_data && self.acked < self.data.len() as u32 {
                        let byte = [self.data[self.acked as usize]];
                        out.push(self.segment(now, ACK, self.acked, &byte));
                        self.most_sent = self.most_sent.max(self.acked + 1);
                    } else {
                        out.push(self.segment(now, ACK, self.acked.wrapping_sub(1), b""));
                    }
                }
                if self.acked < self.length() && self.timer.is_none() {
                    self.timer = Some(now + RTO);
                }
            }
        }
        out
    }

    /// Takes a frame in; what it is answered with.
    fn receive(&mut self, now: u64, frame: &[u8]) -> Vec<Segment> {
        let at = if frame[12] == 0x08 { 34 } else { 54 };
        let packet = tcp::Packet::new_checked(&frame[at..]).unwrap();
        let options = SynOptions::parse(packet.options());
        let flags = packet.flags();
        if flags & RST != 0 {
            panic!("{}: reset in {:?}", self.name, self.state);
        }
        match self.state {
            State::Listen | State::SynReceived if flags & (SYN | ACK) == SYN => {
                let ip = |at: usize, len: usize| frame[at..at + len].to_vec();
                let from: std::net::IpAddr = if at == 34 {
                    <[u8; 4]>::try_from(ip(26, 4)).unwrap().into()
                } else {
                    <[u8; 16]>::try_from(ip(22, 16)).unwrap().into()
                };
                self.remote = SocketAddr::new(from, packet.sport());
                self.irs = packet.seq();
                self.agree(&options);
                self.window_end = u32::from(packet.window());
                self.state = State::SynReceived;
                self.timer = None;
                return self.turn(now);
            }
            State::SynSent => {
                if flags & (SYN | ACK) != SYN | ACK || packet.ack() != self.iss.wrapping_add(1) {
                    return Vec::new();
                }
                self.irs = packet.seq();
                self.agree(&options);
                self.window_end = u32::from(packet.window());
                self.state = State::Established;
                self.timer = Some(now + RTO);
                return vec![self.segment(now, ACK, 0, b"")];
            }
            State::Listen => return Vec::new(),
            _ => {}
        }
        if flags & SYN != 0 {
            return vec![self.segment(now, ACK, self.sent, b"")];
        }
        if self.timestamps {
            let timestamps = options.timestamps.unwrap_or_else(|| {
                panic!("{}: a segment without the timestamps that were agreed on", self.name)
            });
            let age = self.time(now).wrapping_sub(timestamps.echo);
            assert!(age <= now as u32, "{}: echo of a time it never sent: {age}", self.name);
            if (timestamps.value.wrapping_sub(self.recent) as i32) < 0 {
                // PAWS.
                return vec![self.segment(now, ACK, self.sent, b"")];
            }
        } else {
            assert_eq!(options.timestamps, None, "{}", self.name);
        }
        let acked = packet.ack().wrapping_sub(self.iss.wrapping_add(1));
        assert!(acked <= self.most_sent, "{}: {acked} of {} acked", self.name, self.most_sent);
        if self.state == State::SynReceived {
            self.state = State::Established;
            self.timer = None;
        }
        if acked > self.acked {
            self.acked = acked;
            self.sent = self.sent.max(acked);
            self.timer = None;
        }
        if acked >= self.acked {
            let scale = self.scaling.map_or(0, |(_, other)| other);
            let end = acked + (u32::from(packet.window()) << scale);
            self.window_end = self.window_end.max(end);
        }
        let offset = packet.seq().wrapping_sub(self.next_expected());
        let takes = packet.payload().len() as u32 + u32::from(flags & FIN != 0);
        if takes == 0 && offset == 0 {
            if let Some(t) = options.timestamps.filter(|_| self.timestamps) {
                self.recent = t.value;
            }
            return Vec::new();
        }
        if (offset as i32) > 0 {
            assert!(offset + takes <= ROOM, "{}: beyond the window", self.name);
        }
        if offset == 0 {
            if let Some(t) = options.timestamps.filter(|_| self.timestamps) {
                self.recent = t.value;
            }
            self.got.extend_from_slice(packet.payload());
            self.fin_got |= flags & FIN != 0;
        }
        vec![self.segment(now, ACK, self.sent, b"")]
    }

    /// Of what it offers, that which the other side has too.
    fn agree(&mut self, other: &SynOptions) {
        self.timestamps = self.offer.timestamps.is_some() && other.timestamps.is_some();
        self.recent = other.timestamps.map_or(0, |t| t.value);
        self.scaling = self.offer.window_scale.zip(other.window_scale);
        if self.state != State::SynSent {
            self.offer.window_scale = self.offer.window_scale.filter(|_| self.scaling.is_some());
            self.offer.sack_permitted &= other.sack_permitted;
        }
    }
}

/// Frames on their way, by the time at which they arrive.
struct Links {
    random: Random,
    frames: BTreeMap<(u64, u64), (Hop, Vec<u8>)>,
    number: u64,
    lost: u64,
}

#[derive(Clone, Copy)]
enum Hop {
    Switch(PortId),
    Client,
    Server,
}

impl Links {
    fn send(&mut self, now: u64, to: Hop, frame: &[u8]) {
        if self.random.next(100) < 10 {
            self.lost += 1;
            return;
        }
        let copies = if self.random.next(100) < 3 { 2 } else { 1 };
        for _ in 0..copies {
            self.number += 1;
            let at = now + 1 + self.random.next(30);
            self.frames.insert((at, self.number), (to, frame.to_vec()));
        }
    }

    fn arrived(&mut self, now: u64) -> Option<(Hop, Vec<u8>)> {
        let first = self.frames.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// A whole connection; the number of frames that were lost.
fn connection(family: Family, mode: Mode, workers: usize, seed: u64) -> u64 {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut net = Net::two_armed(workers).usual(mode);
    net.snapshot.services[0].syn_proxy = SynProxy::On;
    let mut rig = Rig::new(net);
    let mut bytes = |most: u64| -> Vec<u8> {
        (0..1 + random.next(most)).map(|n| (n * 7) as u8 ^ seed as u8).collect()
    };
    let (up, down) = (bytes(20_000), bytes(40_000));
    let offer = |scales: &[Option<u8>], random: &mut Random| SynOptions {
        mss: Some(1460),
        window_scale: scales[random.next(scales.len() as u64) as usize],
        sack_permitted: random.next(2) == 0,
        timestamps: (random.next(4) > 0).then_some(Timestamps::default()),
    };
    let end =
        |name, local, remote, state, data: &[u8], offer: SynOptions, random: &mut Random| End {
            name,
            local,
            remote,
            state,
            offer,
            scaling: None,
            timestamps: offer.timestamps.is_some(),
            clock: random.next(1 << 32) as u32,
            recent: 0,
            iss: random.next(1 << 32) as u32,
            irs: 0,
            data: data.into(),
            got: Vec::new(),
            acked: 0,
            sent: 0,
            most_sent: 0,
            fin_got: false,
            window_end: 0,
            timer: None,
            probes_with_data: random.next(2) == 0,
        };
    let port = 20_000 + (seed % 1000) as u16;
    let client_at = SocketAddr::new(family.client(), port);
    let (vip, server_at) =
        (SocketAddr::new(family.vip(), 80), SocketAddr::new(family.server(11), 8080));
    let client_offer = offer(&[None, Some(0), Some(5), Some(8)], &mut random);
    let mut server_offer = offer(&[None, Some(0), Some(3), Some(7), Some(9)], &mut random);
    // What the client was promised must be kept where nothing can be mended on the way.
    server_offer.timestamps = Some(Timestamps::default());
    let mut client = end("client", client_at, vip, State::SynSent, &up, client_offer, &mut random);
    let mut server =
        end("server", server_at, client_at, State::Listen, &down, server_offer, &mut random);
    server.timestamps = false;

    let mut links = Links { random, frames: BTreeMap::new(), number: 0, lost: 0 };
    let mut now = 0;
    while !(client.done() && server.done()) {
        assert!(
            now < 120_000,
            "client {}/{} {:?}, server {}/{} {:?}",
            client.acked,
            client.length(),
            client.state,
            server.acked,
            server.length(),
            server.state
        );
        let mut from_client = client.turn(now);
        let mut from_server = server.turn(now);
        while let Some((hop, frame)) = links.arrived(now) {
            match hop {
                Hop::Client => from_client.extend(client.receive(now, &frame)),
                Hop::Server => from_server.extend(server.receive(now, &frame)),
                Hop::Switch(port) => {
                    for (port, frame) in rig.send(port, &frame) {
                        let to = if port == FRONT { Hop::Client } else { Hop::Server };
                        links.send(now, to, &frame);
                    }
                }
            }
        }
        for segment in from_client {
            links.send(now, Hop::Switch(FRONT), &segment.bytes(ROUTER_MAC, FRONT_MAC));
        }
        for segment in from_server {
            links.send(now, Hop::Switch(BACK), &segment.bytes(server_mac(11), BACK_MAC));
        }
        rig.pass(5);
        for (port, frame) in rig.sent() {
            let to = if port == FRONT { Hop::Client } else { Hop::Server };
            links.send(now, to, &frame);
        }
        now += 5;
    }
    assert!(client.got == down, "what the server sent, {seed}");
    assert!(server.got == up, "what the client sent, {seed}");
    rig.pass(140_000);
    assert_eq!(rig.sessions(), 0);
    links.lost
}

#[test]
fn streams_arrive_whole() {
    let mut lost = 0;
    for seed in 0..60 {
        let family = Family::BOTH[seed as usize % 2];
        let mode = if seed % 4 < 2 { Mode::Nat } else { Mode::FullNat };
        lost += connection(family, mode, 1 + seed as usize % 3, seed);
    }
    assert!(lost > 1000, "{lost} frames were lost");
}
