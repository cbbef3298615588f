//! Malformed and adversarial captures, replayed at every mode with servers and clients that answer,
//! more or less as they should: never a panic, every packet accounted for, what leaves is well-formed,
//! and after all timeouts a worker is as empty as it was.

mod captures;
mod oracle;
mod setups;

use std::collections::BTreeMap;

use etherparse::TcpHeaderSlice;
use shunt::datapath::frame::RxChecksum;
use shunt::datapath::snapshot::{PortId, PortRole};
use shunt::io::BURST;
use shunt::io::memory::MemoryFrame;
use shunt::session::{Entry, Mode, ServerId, ServiceId, Table, TcpState};
use shunt::wire::flow::{Address, Flow, Parsed, Protocol, parse, tcp_flags};
use shunt::worker::control::{Command, Event, NeighborUpdate};

use crate::frames::{ACK, FIN_ACK, PSH_ACK, Packet, RST, SYN, SYN_ACK, icmp_error, tcp, udp};
use crate::net::{FRONT, Family, Net, ROUTER_MAC, server_mac};
use crate::rig::{Rig, Sent};
use captures::{ALL, Arrival, Rng, Scene};
use oracle::{Excuse, Pieces};
use setups::Setup;

/// Sessions that a worker has room for, in each family.
const SESSIONS: usize = 300;

/// The configurations between captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Day {
    Whole,
    /// Server 11 fails, wherever it serves.
    Down,
    /// Server 12 takes no new sessions.
    Drained,
    /// Server 12 serves nowhere any more.
    Gone,
    /// Nobody listens for the first service.
    Silent,
    /// There is no way out.
    Cut,
}

const DAYS: [Day; 8] =
    [Day::Whole, Day::Down, Day::Whole, Day::Drained, Day::Silent, Day::Gone, Day::Cut, Day::Whole];

const FINE: Excuse = Excuse { checksums: false, quotes: false };

struct Replay {
    name: String,
    rig: Rig,
    whole: Net,
    scene: Scene,
    rng: Rng,
    /// What packets that may be on their way had wrong when they came in.
    excuse: Excuse,
    pieces: Pieces,
    /// Whether ports receive all frames as they should.
    calm: bool,
    /// Whether next hops are not looked for.
    deaf: bool,
    /// How many packets were put together of fragments.
    whole_packets: usize,
    /// Frames that have left.
    left: u64,
    /// Whether all local ports in use are known: those towards servers that left are not.
    exact: bool,
    /// Frames that came in or left not long ago.
    seen: Vec<Arrival>,
}

impl Replay {
    fn new(setup: &Setup, workers: usize, warm: bool, spare: Option<usize>, seed: u64) -> Self {
        let whole = setup.1(workers);
        let mut rig = Rig::with_sessions(whole.clone(), SESSIONS);
        for worker in &mut rig.workers {
            worker.io().most = spare;
        }
        if warm {
            rig = rig.warmed();
        }
        let scene = Scene {
            macs: [rig.net.snapshot.ports[0].mac, rig.net.server_side_mac()],
            back: rig.net.server_side(),
            rng: Rng(seed),
        };
        let name = format!("{}, {workers} workers", setup.0);
        Replay {
            name,
            rig,
            whole,
            scene,
            rng: Rng(!seed),
            excuse: FINE,
            pieces: Pieces::default(),
            calm: false,
            deaf: false,
            whole_packets: 0,
            left: 0,
            exact: true,
            seen: Vec::new(),
        }
    }

    fn reconfigure(&mut self, day: Day) {
        let mut net = self.whole.clone();
        let snapshot = &mut net.snapshot;
        let n = |n: u8| Family::BOTH.map(|family| family.server(n));
        match day {
            Day::Whole => {}
            Day::Down => {
                for server in &mut snapshot.servers {
                    server.up = !n(11).contains(&server.address);
                }
            }
            Day::Drained => {
                for server in &mut snapshot.servers {
                    if n(12).contains(&server.address) {
                        server.weight = 0;
                    }
                }
            }
            Day::Gone => {
                self.exact = false;
                let servers = &mut snapshot.servers;
                for service in &mut snapshot.services {
                    service.servers.retain(|id| {
                        let server = &mut servers[usize::from(id.0)];
                        server.up = !n(12).contains(&server.address);
                        server.up
                    });
                }
                // They stand last, but for those by which SNAT counts.
                if snapshot.snat.is_empty() {
                    servers.truncate(servers.iter().position(|server| !server.up).unwrap());
                }
            }
            Day::Silent => {
                snapshot.listeners_v4.retain(|_, service| service.0 != 0);
                snapshot.listeners_v6.retain(|_, service| service.0 != 0);
            }
            Day::Cut => {
                snapshot.routes_v4.retain(|route| route.to.prefix_len() != 0);
                snapshot.routes_v6.retain(|route| route.to.prefix_len() != 0);
            }
        }
        self.rig.net = net;
        self.rig.reconfigure();
        self.manage();
    }

    /// What the management thread does with what it is told; it has a bad day now and then.
    fn manage(&mut self) {
        loop {
            let events = self.rig.events();
            if events.is_empty() {
                break;
            }
            for event in events {
                match event {
                    Event::NeighborWanted { port, address } => {
                        let last = match address {
                            std::net::IpAddr::V4(a) => a.octets()[3],
                            std::net::IpAddr::V6(a) => a.octets()[15],
                        };
                        let mac = if last == 1 { ROUTER_MAC } else { server_mac(last) };
                        let update = match self.rng.below(4) {
                            _ if self.deaf => continue,
                            0 => continue,
                            1 => NeighborUpdate::Failed,
                            _ => NeighborUpdate::Resolved(mac),
                        };
                        self.rig.neighbor(port, address, update);
                    }
                    Event::PathMtu { address, mtu } => {
                        self.rig.command(|| Command::PathMtu { address, mtu });
                    }
                    _ => {}
                }
            }
        }
    }

    /// The frames come in; what leaves is judged and returned.
    fn burst(&mut self, arrivals: &[Arrival]) -> Sent {
        for (port, frame) in arrivals {
            let of = &self.rig.net.snapshot.ports[usize::from(port.0)];
            let (mut frame, mut at, mut checksum) = (frame.clone(), *port, RxChecksum::default());
            match oracle::transport_checksum(&frame) {
                // Its sender leaves the checksum to the port. The kernel does not.
                Some(place) if !self.calm && of.name != "sl-front" && self.rng.once_in(16) => {
                    checksum.transport_partial = true;
                    frame[place] ^= 0x5a;
                    self.excuse.quotes = true;
                }
                place => {
                    let sound = place.is_some() || oracle::is_sound(&frame);
                    self.excuse.checksums |= !sound;
                    self.excuse.quotes |= !sound;
                }
            }
            if !self.calm && self.rng.once_in(200) {
                checksum.ip_bad = self.rng.once_in(2);
                checksum.transport_bad = !checksum.ip_bad;
            }
            if let Some(trunk) = of.trunk {
                let tag = self.rng.pick(&[of.vlan, of.vlan, of.vlan, of.vlan | 0xe000, 7]);
                let tag = if self.calm { of.vlan } else { tag };
                let bare = frame.get(12) == Some(&0x81) && self.rng.once_in(2);
                if frame.len() >= 12 && !bare {
                    let tag = tag.to_be_bytes();
                    frame.splice(12..12, [0x81, 0, tag[0], tag[1]]);
                }
                at = trunk;
            }
            let frame = MemoryFrame::new(at, &frame).with_checksum(checksum);
            let cut = !self.calm && self.rng.once_in(400);
            let frame = if cut { frame.segmented() } else { frame };
            self.rig.arrive(frame);
        }
        self.rig.settle();
        self.judge()
    }

    fn pass(&mut self, ms: u32) -> Sent {
        self.rig.pass(ms);
        self.judge()
    }

    fn judge(&mut self) -> Sent {
        let mut sent = self.rig.sent();
        self.manage();
        sent.extend(self.rig.sent());
        for (port, frame) in &sent {
            let snapshot = &self.rig.net.snapshot;
            if let Err(wrong) = oracle::leaves(snapshot, *port, frame, self.excuse) {
                panic!("{}: port {}: {wrong}: {frame:02x?}", self.name, port.0);
            }
            self.pieces.take(snapshot, *port, frame);
        }
        self.left += sent.len() as u64;
        let counters = &self.rig.counters;
        let counted: u64 = counters.iter().map(|c| c.tx.get() + c.originated.get()).sum();
        assert_eq!(counted, self.left, "{}: frames that left", self.name);
        if counters.iter().all(|c| c.held.get() == 0) {
            self.excuse = FINE;
        }
        for (worker, n) in self.rig.workers.iter_mut().zip(0..) {
            let spare = BURST - worker.pipeline().wants_frames();
            assert_eq!(worker.io().given_away(), spare, "{}: frames of worker {n}", self.name);
        }
        sent
    }

    fn replay(&mut self, what: &str, arrivals: &[Arrival]) {
        let mut rest = arrivals;
        while !rest.is_empty() {
            let n = (1 + self.rng.below(40)).min(rest.len());
            let (now, later) = rest.split_at(n);
            rest = later;
            let mut now = now.to_vec();
            // Honest fragments are to be put together.
            for _ in 0..if what == "fragments" { 0 } else { self.rng.below(3) } {
                now.extend(self.seen_again());
            }
            self.remember(&now);
            let mut sent = self.burst(&now);
            self.remember(&sent);
            for _ in 0..3 {
                let answers: Vec<_> = sent.iter().filter_map(|s| self.answer(s)).collect();
                if answers.is_empty() {
                    break;
                }
                sent = self.burst(&answers);
            }
            match self.rng.below(64) {
                0..5 => {
                    let ms = self.rng.below(400) as u32;
                    self.pass(ms);
                }
                // Without a turn.
                5 => self.rig.now = self.rig.now.wrapping_add(self.rng.below(3000) as u32),
                // Ports that take no more, or no more than a few.
                6 => {
                    let room = self.rng.pick(&[Some(0), Some(5), Some(20), None, None]);
                    for worker in &mut self.rig.workers {
                        worker.io().tx_room.fill(room);
                    }
                }
                7..12 => {
                    for worker in &mut self.rig.workers {
                        worker.io().tx_room.fill(None);
                    }
                }
                _ => {}
            }
        }
        self.deaf = self.rng.once_in(3);
        self.assert_counted(what);
        // Numbers come again in the next one.
        match what {
            "fragments" => {
                self.whole_packets +=
                    self.pieces.judge().unwrap_or_else(|wrong| panic!("{}: {wrong}", self.name))
            }
            _ => self.pieces = Pieces::default(),
        }
    }

    fn remember(&mut self, frames: &[Arrival]) {
        for frame in frames.iter().take(8) {
            if self.seen.len() < 200 {
                self.seen.push(frame.clone());
            } else {
                let at = self.rng.below(self.seen.len());
                self.seen[at] = frame.clone();
            }
        }
    }

    /// A frame that was seen before, by any port, with some bytes changed.
    fn seen_again(&mut self) -> Option<Arrival> {
        if self.seen.is_empty() {
            return None;
        }
        let (_, mut frame) = self.rng.pick(&self.seen);
        let port = self.rng.pick(&[FRONT, self.scene.back]);
        let mac = self.rig.net.snapshot.ports[usize::from(port.0)].mac;
        if frame.len() > 34 && !self.rng.once_in(10) {
            frame[..6].copy_from_slice(&mac);
            // An answer goes to whoever has sent the frame.
            frame[6..12].copy_from_slice(&ROUTER_MAC);
            for _ in 0..self.rng.below(4) {
                let at = 14 + self.rng.below(frame.len().min(100) - 14);
                frame[at] = self.rng.pick(&[0, 1, 255, frame[at] ^ 1, frame[at] ^ 0x80]);
            }
            if self.rng.once_in(4) {
                frame.truncate(14 + self.rng.below(frame.len() - 14));
            }
            if !self.rng.once_in(3) {
                oracle::mend(&mut frame);
            }
        }
        frame.truncate(1900);
        Some((port, frame))
    }

    /// What the world says to a frame that has left.
    fn answer(&mut self, (port, frame): &(PortId, Vec<u8>)) -> Option<Arrival> {
        let mut frame = frame.clone();
        let of = &self.rig.net.snapshot.ports[usize::from(port.0)];
        if of.vlan != 0 {
            drop(frame.drain(12..16));
        }
        let from: [u8; 6] = frame.get(..6)?.try_into().ok()?;
        let to = match of.role {
            // The kernel's answer goes by the router.
            PortRole::Exception { .. } => ROUTER_MAC,
            PortRole::Wire { .. } if of.name == "sensor" => return None,
            PortRole::Wire { .. } => of.mac,
        };
        let packet = match parse(&frame, &from, false).ok()? {
            Parsed::V4(flow) => self.reply(&flow, &frame)?,
            Parsed::V6(flow) => self.reply(&flow, &frame)?,
            _ if *port == self.scene.back && self.rng.once_in(6) => {
                // A router on the way to the end of a tunnel.
                let own = if frame[12] == 8 { Family::V4 } else { Family::V6 };
                let mtu = self.rng.pick(&[0, 600, 1280, 1400, 1480, 65_535]);
                let quote = &frame[14..frame.len().min(14 + 500)];
                let sender = own.server(19);
                let macs = (from, to);
                let error = icmp_error(macs, sender, own.back(), 9, [(3, 4), (2, 0)], mtu, quote);
                return Some((*port, error));
            }
            _ => return None,
        };
        if self.rng.once_in(12) {
            let family = if packet.src.is_ipv4() { Family::V4 } else { Family::V6 };
            let sender = self.rng.pick(&[packet.src.ip(), family.router()]);
            let mtu = self.rng.pick(&[0, 576, 1280, 1400]);
            let types = self.rng.pick(&[[(3, 4), (2, 0)], [(3, 3), (1, 4)], [(11, 0), (3, 0)]]);
            let end = self.rng.pick(&[14 + 28, 14 + 48, frame.len()]).min(frame.len()).min(800);
            let (to_ip, quote) = (packet.dst.ip(), &frame[14..end]);
            let error = icmp_error((from, to), sender, to_ip, 60, types, mtu, quote);
            return Some((*port, error));
        }
        Some((*port, packet.macs(from, to).bytes()))
    }

    fn reply<A: Address>(&mut self, flow: &Flow<A>, frame: &[u8]) -> Option<Packet> {
        let at = |ip: A, port| std::net::SocketAddr::new(ip.into(), port);
        let (src, dst) = (at(flow.key.dst, flow.key.dport), at(flow.key.src, flow.key.sport));
        let rng = &mut self.rng;
        if rng.once_in(8) {
            return None;
        }
        if flow.key.protocol == Protocol::Udp {
            let len = rng.pick(&[0, 5, 100]);
            return Some(udp(src, dst).payload(&vec![9; len]));
        }
        let bytes = &frame[A::TRANSPORT..usize::from(flow.frame_len)];
        let segment = TcpHeaderSlice::from_slice(bytes).ok()?;
        let flags = flow.tcp_flags;
        let length = (bytes.len() - segment.slice().len()) as u32
            + u32::from(flags & tcp_flags::SYN != 0)
            + u32::from(flags & tcp_flags::FIN != 0);
        let next = segment.sequence_number().wrapping_add(length);
        let known = segment.acknowledgment_number();
        let own = if flags & ACK != 0 { known } else { rng.number() as u32 };
        // The clock of the other side comes back.
        let mut options = Vec::new();
        if let Some(at) = segment.options().windows(2).position(|w| w == [8, 10])
            && let Some(value) = segment.options().get(at + 2..at + 6)
        {
            options.extend([1, 1, 8, 10, 0, 0, 1, 0]);
            options.extend(value);
        }
        let packet = |flags: u8| tcp(src, dst, flags).seq(own).ack(next).options(&options);
        Some(match rng.below(24) {
            0 => packet(RST | ACK),
            1 => packet(RST).seq(rng.number() as u32),
            2 => packet(SYN).seq(rng.number() as u32),
            3 => packet(SYN_ACK).seq(rng.number() as u32),
            4 => packet(FIN_ACK),
            5 => packet(rng.number() as u8).window(0),
            6 => packet(ACK).ttl(1),
            7 => packet(PSH_ACK).payload(&vec![8; rng.pick(&[1, 536, 1200, 1400])]),
            8 => packet(ACK).seq(own.wrapping_sub(1)).window(0),
            9 if flags == SYN => packet(SYN).seq(own),
            _ if flags & RST != 0 => return None,
            _ if flags == SYN => {
                if rng.once_in(2) {
                    packet(SYN_ACK).options(&captures::LINUX)
                } else {
                    packet(SYN_ACK)
                }
            }
            _ if flags & tcp_flags::FIN != 0 => packet(rng.pick(&[FIN_ACK, ACK])),
            _ if length == 0 && rng.once_in(2) => return None,
            _ => packet(rng.pick(&[ACK, PSH_ACK])).payload(&vec![6; rng.pick(&[0, 1, 300])]),
        })
    }

    /// That every gauge says what is in the tables.
    fn assert_counted(&mut self, what: &str) {
        for (worker, counters) in self.rig.workers.iter().zip(&self.rig.counters) {
            let mut tally = Tally::default();
            tally.add(worker.pipeline().sessions_v4());
            tally.add(worker.pipeline().sessions_v6());
            let name = format!("{} after {what}", self.name);
            assert_eq!(counters.half_open.get(), tally.half_open, "half-open, {name}");
            for n in 0..self.whole.snapshot.servers.len() {
                let server = ServerId(n as u16);
                let c = counters.server(server);
                let sessions = tally.servers.get(&server).copied().unwrap_or(0);
                assert_eq!(c.created.get() - c.ended.get(), sessions, "server {n}, {name}");
                let ports = tally.ports.get(&server).copied().unwrap_or(0);
                let used = worker.pipeline().local_ports(server).0;
                assert!(
                    used == ports || !self.exact && used < ports,
                    "server {n}, {name}: {used} {ports}"
                );
            }
            for n in 0..self.whole.snapshot.services.len() {
                let service = ServiceId(n as u16);
                let sessions = tally.services.get(&service).copied().unwrap_or(0);
                assert_eq!(counters.service_sessions(service).get(), sessions, "{n}, {name}");
            }
        }
    }

    /// After all timeouts nothing is left, and the switch works.
    fn assert_empty(&mut self) {
        (self.calm, self.deaf) = (true, false);
        for worker in &mut self.rig.workers {
            worker.io().tx_room.fill(None);
        }
        self.reconfigure(Day::Whole);
        self.rig = std::mem::replace(&mut self.rig, Rig::cold(Net::two_armed(1))).warmed();
        self.pass(30_000);
        let name = &self.name;
        assert_eq!(self.rig.sessions(), 0, "{name}");
        self.assert_counted("all timeouts");
        let name = &self.name;
        for (worker, counters) in self.rig.workers.iter().zip(&self.rig.counters) {
            let pipeline = worker.pipeline();
            assert!(pipeline.snat_is_empty(), "{name}");
            let held = (counters.held.get(), counters.persistent_clients.get());
            assert_eq!(held, (0, 0), "{name}: held packets, persistent clients");
            assert_eq!(pipeline.half_open(), (0, 0), "{name}: half-open, in limits");
            for rule in 0..self.whole.snapshot.snat.list().len() {
                let snat = counters.snat(rule as u16);
                assert_eq!((snat.mappings_v4.get(), snat.mappings_v6.get()), (0, 0), "{name}");
            }
        }
        for n in 0..10 {
            let family = Family::BOTH[n % 2];
            let from = captures::endpoint(family.client(), 60_000 + n as u16);
            let packet = match self.whole.snapshot.services.first() {
                Some(service) if service.mode != Mode::Snat => {
                    tcp(from, captures::endpoint(family.vip(), 80), SYN)
                }
                // The way out.
                _ => tcp(captures::endpoint(family.server(11), 7000 + n as u16), from, SYN),
            };
            let port = if packet.src == from { FRONT } else { self.scene.back };
            let macs = match port == FRONT && packet.src == from {
                true => (ROUTER_MAC, self.scene.macs[0]),
                false => (server_mac(11), self.scene.macs[1]),
            };
            let bytes = packet.macs(macs.0, macs.1).bytes();
            let sent = self.burst(&[(port, bytes)]);
            if !self.name.contains("bogons") {
                assert!(!sent.is_empty(), "{}: a connection after all", self.name);
            }
        }
    }
}

/// What is in the tables of a worker.
#[derive(Default)]
struct Tally {
    half_open: u64,
    servers: BTreeMap<ServerId, u64>,
    services: BTreeMap<ServiceId, u64>,
    /// Local ports of FullNAT.
    ports: BTreeMap<ServerId, usize>,
}

impl Tally {
    fn add<A: Address>(&mut self, table: &Table<A>) {
        let mut cursor = 0;
        while !table.walk(&mut cursor, 1000, |_, entry: &Entry<A>| {
            let half_open = matches!(entry.state, TcpState::SynSent | TcpState::SynReceived);
            self.half_open += u64::from(half_open);
            *self.servers.entry(entry.server_id).or_default() += 1;
            *self.services.entry(entry.service).or_default() += 1;
            if entry.mode == Mode::FullNat {
                *self.ports.entry(entry.server_id).or_default() += 1;
            }
        }) {}
    }
}

fn run(setups: &[Setup], seed: u64) {
    for (setup, n) in setups.iter().zip(0..) {
        for (workers, warm, spare) in [(1, true, None), (3, false, Some(3))] {
            let more: u64 = std::env::var("MORE").ok().and_then(|m| m.parse().ok()).unwrap_or(0);
            let mut replay = Replay::new(setup, workers, warm, spare, seed + n + more * 1000);
            for ((what, make), at) in ALL.iter().zip(n as usize + more as usize..) {
                let arrivals = make(&mut replay.scene);
                replay.replay(what, &arrivals);
                replay.reconfigure(DAYS[at % DAYS.len()]);
            }
            replay.assert_empty();
            if std::env::var("SHOW").is_ok() {
                replay.rig.changes();
                let mut all = crate::changes::Changes::none();
                for counters in &replay.rig.counters {
                    all.read(counters, &replay.whole.snapshot);
                }
                eprintln!("SHOW {} {:?} whole {}", replay.name, all.0, replay.whole_packets);
            }
        }
    }
}

#[test]
fn replayed_at_nat_and_fullnat() {
    run(setups::TRANSLATING, 100);
}

#[test]
fn replayed_at_one_way_modes() {
    run(setups::ONE_WAY, 200);
}

#[test]
fn replayed_where_streams_are_changed() {
    run(setups::STREAMS, 300);
}

#[test]
fn replayed_between_families() {
    run(setups::BETWEEN, 400);
}

#[test]
fn replayed_at_snat() {
    run(setups::EGRESS, 500);
}
