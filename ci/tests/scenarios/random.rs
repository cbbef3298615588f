//! Random histories of the whole switch: packets good, mutated and senseless, changes of
//! configuration and neighbors, jumps of time. Never a panic, always balanced, and when all is
//! quiet nothing is left behind.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::Index;
use shunt::datapath::frame::RxChecksum;
use shunt::datapath::policy::{MidStream, OnServerDown, Policy};
use shunt::datapath::snapshot::PortId;
use shunt::io::memory::MemoryFrame;
use shunt::session::{Mode, ServerId};
use shunt::wire::flow::{Parsed, parse};
use shunt::worker::control::NeighborUpdate;

use crate::frames::{echo, tcp, udp};
use crate::net::{FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, SHORT_TIMEOUTS, server_mac};
use crate::rig::Rig;

#[derive(Clone, Debug)]
enum Op {
    /// A packet of a client to a service.
    Client {
        v6: bool,
        client: u16,
        is_tcp: bool,
        flags: u8,
        ttl: u8,
    },
    /// The answer to one of the frames that went to the servers.
    Answer {
        of: Index,
        flags: u8,
        ttl: u8,
    },
    /// A frame that was seen before, with bytes changed.
    Mutated {
        of: Index,
        port: u8,
        at: Index,
        byte: u8,
        cut: Option<Index>,
        partial: bool,
    },
    Ping {
        v6: bool,
    },
    Garbage {
        port: u8,
        bytes: Vec<u8>,
    },
    Neighbor {
        v6: bool,
        n: u8,
        known: bool,
    },
    ServerUp {
        server: Index,
        up: bool,
    },
    Weight {
        server: Index,
        weight: u16,
    },
    /// The default routes come or go.
    Routes {
        present: bool,
    },
    /// The last service is in the configuration or not.
    LastService {
        present: bool,
    },
    TxRoom {
        port: u8,
        room: Option<u8>,
    },
    Time {
        ms: u16,
    },
    /// Time passes without a turn.
    Jump {
        ms: u16,
    },
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![4 => prop::sample::select(&[0x02u8, 0x10, 0x11, 0x12, 0x04, 0x18][..]), 1 => any::<u8>()]
}

fn ttl() -> impl Strategy<Value = u8> {
    prop_oneof![9 => 2u8..=255, 1 => 0u8..2]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<bool>(), 0u16..12, any::<bool>(), flags(), ttl())
            .prop_map(|(v6, client, is_tcp, flags, ttl)| Op::Client { v6, client, is_tcp, flags, ttl }),
        6 => (any::<Index>(), flags(), ttl()).prop_map(|(of, flags, ttl)| Op::Answer { of, flags, ttl }),
        4 => (any::<Index>(), 0u8..3, any::<Index>(), any::<u8>(),
              prop::option::weighted(0.2, any::<Index>()), any::<bool>())
            .prop_map(|(of, port, at, byte, cut, partial)| Op::Mutated { of, port, at, byte, cut, partial }),
        1 => any::<bool>().prop_map(|v6| Op::Ping { v6 }),
        1 => (0u8..3, prop::collection::vec(any::<u8>(), 0..100))
            .prop_map(|(port, bytes)| Op::Garbage { port, bytes }),
        2 => (any::<bool>(), 11u8..14, any::<bool>())
            .prop_map(|(v6, n, known)| Op::Neighbor { v6, n, known }),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(server, up)| Op::ServerUp { server, up }),
        1 => (any::<Index>(), 0u16..4).prop_map(|(server, weight)| Op::Weight { server, weight }),
        1 => any::<bool>().prop_map(|present| Op::Routes { present }),
        1 => any::<bool>().prop_map(|present| Op::LastService { present }),
        1 => (0u8..3, prop::option::of(0u8..3)).prop_map(|(port, room)| Op::TxRoom { port, room }),
        2 => (0u16..3000).prop_map(|ms| Op::Time { ms }),
        1 => any::<u16>().prop_map(|ms| Op::Jump { ms }),
    ]
}

/// The whole configuration, of which [`Op::LastService`] and [`Op::Routes`] take parts away.
fn whole(workers: usize, mode: Mode, one_armed: bool, policy: Policy) -> Net {
    let net = if one_armed { Net::one_armed(workers) } else { Net::two_armed(workers) };
    let mut net = net.with_tap().usual(mode);
    for service in 0..2 {
        let port = net.snapshot.servers[usize::from(service) * 2].port;
        for family in Family::BOTH {
            net.server(shunt::session::ServiceId(service), family.server(12), port);
        }
    }
    for service in &mut net.snapshot.services {
        service.policy = policy;
        service.timeouts = SHORT_TIMEOUTS;
    }
    net
}

struct History {
    rig: Rig,
    whole: Net,
    /// Frames that came in or went out.
    seen: Vec<Vec<u8>>,
    /// Frames that went to the servers.
    queries: Vec<Vec<u8>>,
    routes: bool,
    last_service: bool,
}

impl History {
    fn arrive(&mut self, frame: MemoryFrame) {
        use shunt::datapath::frame::Frame;
        if self.seen.len() < 500 {
            self.seen.push(frame.bytes().to_vec());
        }
        self.rig.arrive(frame);
        self.rig.settle();
        let back = self.rig.net.server_side();
        for (port, bytes) in self.rig.sent() {
            // What came from the kernel may be anything.
            let is_flow = bytes.first_chunk().is_some_and(|mac| {
                matches!(parse(&bytes, mac, false), Ok(Parsed::V4(_) | Parsed::V6(_)))
            });
            if port == back && self.queries.len() < 500 && is_flow {
                self.queries.push(bytes);
            }
        }
    }

    fn port(&self, n: u8) -> PortId {
        PortId(n % self.rig.net.snapshot.ports.len() as u8)
    }

    /// Gives the workers the configuration of the day.
    fn reconfigure(&mut self) {
        let mut net = self.whole.clone();
        if !self.routes {
            net.snapshot.routes_v4.retain(|r| r.to.prefix_len() != 0);
            net.snapshot.routes_v6.retain(|r| r.to.prefix_len() != 0);
        }
        if !self.last_service {
            // Its servers are the last two and two in the middle: the ids of the others stay, those
            // at the end are no longer valid.
            net.snapshot.services.pop();
            net.snapshot.servers.truncate(6);
            net.snapshot.listeners_v4.retain(|_, service| service.0 == 0);
            net.snapshot.listeners_v6.retain(|_, service| service.0 == 0);
            for server in &mut net.snapshot.servers {
                if server.service.0 == 1 {
                    server.service.0 = 0;
                }
            }
        }
        self.rig.net = net;
        self.rig.reconfigure();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Client { v6, client, is_tcp, flags, ttl } => {
                let family = if v6 { Family::V6 } else { Family::V4 };
                let from = SocketAddr::new(family.client(), 40_000 + client);
                let vip = SocketAddr::new(family.vip(), if is_tcp { 80 } else { 53 });
                let packet = if is_tcp { tcp(from, vip, flags) } else { udp(from, vip) };
                let bytes = self.rig.by_client(packet.ttl(ttl)).bytes();
                self.arrive(MemoryFrame::new(FRONT, &bytes));
            }
            Op::Answer { of, flags, ttl } if !self.queries.is_empty() => {
                let mut frame = of.get(&self.queries).clone();
                let v6 = frame[12] == 0x86;
                let (mac, at, len) = (
                    self.rig.net.server_side_mac(),
                    if v6 { 22 } else { 26 },
                    if v6 { 16 } else { 4 },
                );
                frame.copy_within(0..6, 6);
                frame[..6].copy_from_slice(&mac);
                let (a, b) = frame[at..at + 2 * len].split_at_mut(len);
                a.swap_with_slice(b);
                let ports = at + 2 * len;
                let (a, b) = frame[ports..ports + 4].split_at_mut(2);
                a.swap_with_slice(b);
                frame[if v6 { 21 } else { 22 }] = ttl;
                if !v6 {
                    crate::frames::mend_ipv4_checksum(&mut frame);
                }
                if frame[if v6 { 20 } else { 23 }] == 6 {
                    frame[ports + 13] = flags;
                }
                let port = self.rig.net.server_side();
                self.arrive(MemoryFrame::new(port, &frame));
            }
            Op::Mutated { of, port, at, byte, cut, partial } if !self.seen.is_empty() => {
                let mut frame = of.get(&self.seen).clone();
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = byte;
                    if let Some(cut) = cut {
                        frame.truncate(cut.index(frame.len()));
                    }
                }
                if frame.len() >= 34 && frame[14] == 0x45 && byte & 1 == 0 {
                    crate::frames::mend_ipv4_checksum(&mut frame);
                }
                let checksum = RxChecksum { transport_partial: partial, ..RxChecksum::default() };
                let port = self.port(port);
                self.arrive(MemoryFrame::new(port, &frame).with_checksum(checksum));
            }
            Op::Answer { .. } | Op::Mutated { .. } => (),
            Op::Ping { v6 } => {
                let family = if v6 { Family::V6 } else { Family::V4 };
                let macs = (ROUTER_MAC, FRONT_MAC);
                let bytes = echo(macs, family.client(), family.vip(), false, 64);
                self.arrive(MemoryFrame::new(FRONT, &bytes));
            }
            Op::Garbage { port, bytes } => {
                let port = self.port(port);
                self.arrive(MemoryFrame::new(port, &bytes));
            }
            Op::Neighbor { v6, n, known } => {
                let family = if v6 { Family::V6 } else { Family::V4 };
                let (port, address, mac) = match n {
                    13 => (FRONT, family.router(), ROUTER_MAC),
                    _ => (self.rig.net.server_side(), family.server(n), server_mac(n)),
                };
                let update =
                    if known { NeighborUpdate::Resolved(mac) } else { NeighborUpdate::Failed };
                self.rig.neighbor(port, address, update);
            }
            Op::ServerUp { server, up } => {
                let at = server.index(self.whole.snapshot.servers.len());
                self.whole.snapshot.servers[at].up = up;
                self.reconfigure();
            }
            Op::Weight { server, weight } => {
                let at = server.index(self.whole.snapshot.servers.len());
                self.whole.snapshot.servers[at].weight = weight;
                self.reconfigure();
            }
            Op::Routes { present } => {
                self.routes = present;
                self.reconfigure();
            }
            Op::LastService { present } => {
                self.last_service = present;
                self.reconfigure();
            }
            Op::TxRoom { port, room } => {
                let port = usize::from(self.port(port).0);
                for worker in &mut self.rig.workers {
                    worker.io().tx_room[port] = room.map(usize::from);
                }
            }
            Op::Time { ms } => self.rig.pass(u32::from(ms)),
            Op::Jump { ms } => {
                self.rig.now = self.rig.now.wrapping_add(u32::from(ms));
                self.rig.settle();
            }
        }
        self.rig.events();
        self.rig.assert_balanced();
        let active: u64 = (0..self.whole.snapshot.servers.len())
            .map(|s| self.rig.active(ServerId(s as u16)))
            .sum();
        assert_eq!(active, self.rig.sessions() as u64, "sessions by server");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_is_left(
        workers in prop::sample::select(&[1usize, 2, 4][..]),
        mode in prop::sample::select(&[Mode::Nat, Mode::FullNat, Mode::Dr][..]),
        one_armed: bool,
        warm: bool,
        policies: bool,
        ops in prop::collection::vec(op(), 1..300),
    ) {
        let policy = match policies {
            true => Policy {
                mid_stream: MidStream::Reset,
                reset_on_expiry: true,
                on_server_down: OnServerDown::End,
                mss: 1_000,
                dscp: Some(46),
            },
            false => Policy::default(),
        };
        let whole = whole(workers, mode, one_armed, policy);
        let rig = Rig::with_sessions(whole.clone(), 20);
        let rig = if warm { rig.warmed() } else { rig };
        let mut history = History {
            rig, whole, seen: vec![], queries: vec![], routes: true, last_service: true,
        };
        for op in ops {
            history.apply(op);
        }
        // All timeouts pass.
        history.rig.pass(10_000);
        prop_assert_eq!(history.rig.sessions(), 0);
        history.last_service = true;
        history.reconfigure();
        for (worker, counters) in history.rig.workers.iter().zip(&history.rig.counters) {
            prop_assert_eq!(counters.held.get(), 0);
            for server in 0..8 {
                let (used, capacity) = worker.pipeline().local_ports(ServerId(server));
                prop_assert_eq!(used, 0, "server {}", server);
                prop_assert_eq!(capacity > 0, mode == Mode::FullNat);
            }
        }
    }
}
