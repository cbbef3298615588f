//! Malformed and adversarial captures, replayed at every mode with servers and clients that answer,
//! more or less as they should: never a panic, every packet accounted for, what leaves is well-formed,
//! and after all timeouts a worker is as empty as it was.

mod audit;
mod captures;
mod oracle;
mod setups;
mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;

use shunt::datapath::frame::RxChecksum;
use shunt::io::BURST;
use shunt::io::memory::MemoryFrame;
use shunt::wire::DropReason::{self, *};
use shunt::worker::control::{Command, Event, NeighborUpdate};

use crate::net::{Family, Net, ROUTER_MAC, server_mac};
use crate::rig::{Rig, Sent};
use audit::assert_met;
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
                            IpAddr::V4(a) => a.octets()[3],
                            IpAddr::V6(a) => a.octets()[15],
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
        if what == "fragments" {
            // Those of before are forgotten: honest ones are to be put together.
            self.pass(6000);
            self.pieces = Pieces::default();
        }
        let mut rest = arrivals;
        while !rest.is_empty() {
            let n = (1 + self.rng.below(40)).min(rest.len());
            let (now, later) = rest.split_at(n);
            rest = later;
            let mut now = now.to_vec();
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
}

/// Replays everything at each of the setups; why packets were dropped there.
fn run(setups: &[Setup], seed: u64) -> BTreeSet<DropReason> {
    let mut met = BTreeSet::new();
    for (setup, n) in setups.iter().zip(seed..) {
        // The last one is short of frames of its own.
        for (workers, warm, spare) in [(1, true, None), (3, true, None), (3, false, Some(3))] {
            let mut replay = Replay::new(setup, workers, warm, spare, n);
            for ((what, make), at) in ALL.iter().zip(n as usize..) {
                let arrivals = make(&mut replay.scene);
                replay.replay(what, &arrivals);
                replay.reconfigure(DAYS[at % DAYS.len()]);
            }
            replay.assert_empty();
            let of = |reason: &DropReason| {
                replay.rig.counters.iter().any(|counters| counters.drops_of(*reason).get() != 0)
            };
            met.extend(DropReason::ALL.iter().copied().filter(of));
        }
    }
    met
}

#[test]
fn replayed_at_nat_and_fullnat() {
    let met = run(setups::TRANSLATING, 100);
    assert_met(&met, &[VlanUnknown, VlanMissing, Bogon, HopLimitExceeded, NoRoute]);
}

#[test]
fn replayed_at_one_way_modes() {
    let met = run(setups::ONE_WAY, 200);
    assert_met(&met, &[SourcePacketRate]);
}

#[test]
fn replayed_where_streams_are_changed() {
    let met = run(setups::STREAMS, 300);
    assert_met(&met, &[SynCookieInvalid, SynProxyWaiting, HopLimitExceeded, NoRoute]);
}

#[test]
fn replayed_between_families() {
    let met = run(setups::BETWEEN, 400);
    assert_met(&met, &[FragmentBetweenFamilies, SynCookieInvalid, SynProxyWaiting]);
}

#[test]
fn replayed_at_snat() {
    let met = run(setups::EGRESS, 500);
    assert_met(
        &met,
        &[SnatPortsExhausted, SnatSourceLimit, SnatNoMapping, SnatFiltered, SnatNoHairpin],
    );
}
