//! The parts of the data path, each for itself: parse, lookup, rewrite, schedule.
#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use perf::rig::VIP_V6;
use perf::traffic::{CLIENT_MAC, DUT_MAC, VIP, VIP_PORT, client, server_address, shuffled};
use shunt::datapath::filter::{Filters, Packet, Rule};
use shunt::datapath::prefix_set::PrefixSet;
use shunt::datapath::snapshot::PortId;
use shunt::io::BURST;
use shunt::rewrite::nat::{Deltas, Translate};
use shunt::rewrite::transport_checksum;
use shunt::sched::{Candidate, Member, Placement, Scheduler, SchedulerKind, hash, maglev};
use shunt::session::{HopRef, Mode, NewSession, ServerId, ServiceId, SessionId, Table, TcpState};
use shunt::wire::flow::{Flow, FlowKey, Parsed, Protocol, parse};

const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 6);
const CLIENT: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 5);

/// A frame of each family and protocol.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let ethernet = || PacketBuilder::ethernet2(CLIENT_MAC, DUT_MAC);
    let v4 = || ethernet().ipv4(CLIENT.octets(), VIP.octets(), 64);
    let v6 = || ethernet().ipv6(CLIENT_V6.octets(), VIP_V6.octets(), 64);
    let mut frames = vec![("v4 udp", Vec::new()), ("v4 tcp", Vec::new())];
    frames.extend([("v6 udp", Vec::new()), ("v6 tcp", Vec::new())]);
    let payload = &[0; 18];
    for (name, out) in &mut frames {
        match *name {
            "v4 udp" => v4().udp(5000, VIP_PORT).write(out, payload),
            "v4 tcp" => v4().tcp(5000, VIP_PORT, 1, 1024).ack(1).write(out, payload),
            "v6 udp" => v6().udp(5000, VIP_PORT).write(out, payload),
            _ => v6().tcp(5000, VIP_PORT, 1, 1024).ack(1).write(out, payload),
        }
        .expect("a Vec takes it");
    }
    frames
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    let mut frames = frames();
    let mut bad = |name, at: usize, value: u8| {
        let mut frame = frames[0].1.clone();
        frame[at] = value;
        assert!(parse(&frame, &DUT_MAC, false).is_err(), "{name}");
        frames.push((name, frame));
    };
    bad("bad checksum", 24, 0xff);
    bad("bad length", 16, 0xff);
    bad("not our mac", 0, 0x04);
    for (name, frame) in &frames {
        group.bench_function(*name, |b| {
            b.iter(|| parse(black_box(frame), &DUT_MAC, false));
        });
    }
    group.finish();
}

fn key(flow: u32) -> FlowKey<Ipv4Addr> {
    let (src, sport) = client(flow);
    FlowKey { src, dst: VIP, sport, dport: VIP_PORT, protocol: Protocol::Udp }
}

fn session(flow: u32) -> NewSession<Ipv4Addr> {
    let key = key(flow);
    NewSession {
        client: key.src,
        vip: key.dst,
        local: key.src,
        server: server_address(flow as usize % 16),
        client_port: key.sport,
        vip_port: key.dport,
        local_port: key.sport,
        server_port: 8080,
        protocol: Protocol::Udp,
        state: TcpState::Udp,
        mode: Mode::Nat,
        timeout: 900_000,
        service: ServiceId(0),
        server_id: ServerId(0),
        forward_hop: HopRef::default(),
        reply_hop: HopRef::default(),
        delta_ip: 0,
        delta_transport: 0,
    }
}

/// The staged lookup of a burst, as the pipeline does it; returns how many sessions were found.
#[inline(always)]
fn look_up(table: &Table<Ipv4Addr>, keys: &[FlowKey<Ipv4Addr>]) -> usize {
    let mut hashes = [0; BURST];
    let mut candidates = [None; BURST];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
        table.prefetch_bucket(*hash);
    }
    for (candidate, &hash) in candidates.iter_mut().zip(&hashes) {
        *candidate = table.candidate(hash);
        if let Some((id, _)) = *candidate {
            table.prefetch_entry(id);
        }
    }
    let mut found = 0;
    for ((candidate, key), &hash) in candidates.iter().zip(keys).zip(&hashes) {
        let hit: Option<SessionId> = match *candidate {
            Some((id, direction)) if table.matches(id, direction, key) => Some(id),
            _ => table.find(hash, key).map(|(id, _)| id),
        };
        found += usize::from(black_box(hit).is_some());
    }
    found
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BURST as u64));
    for sessions in [1 << 10, 1 << 16, 1_000_000, 10_000_000_u32] {
        let mut table = Table::new(sessions as usize, 7);
        for flow in shuffled(sessions, 1) {
            table.insert(session(flow), 0).expect("there is room");
        }
        // Keys scattered over the table, made beforehand; enough of them to defeat the caches.
        let count = sessions.min(1 << 20) / BURST as u32 * BURST as u32;
        let step = sessions / count;
        for (name, offset, found) in [("hit", 0, BURST), ("miss", sessions, 0)] {
            let keys: Vec<_> = (0..count).map(|i| key(offset + i * step)).collect();
            let mut bursts = keys.chunks_exact(BURST).cycle();
            group.bench_function(BenchmarkId::new(name, sessions), |b| {
                b.iter(|| {
                    let keys = bursts.next().unwrap_or(&[]);
                    assert_eq!(look_up(&table, keys), found);
                });
            });
        }
    }
    group.finish();
}

/// NAT of one packet, there and back again.
fn rewrite(c: &mut Criterion) {
    let mut group = c.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(1));
    for (name, mut frame) in frames() {
        match parse(&frame, &DUT_MAC, false).expect("a sound frame") {
            Parsed::V4(flow) => {
                let to = FlowKey { dst: server_address(0), dport: 8080, ..flow.key };
                nat(&mut group, name, &mut frame, &flow, &to);
            }
            Parsed::V6(flow) => {
                let to = FlowKey { dst: SERVER_V6, dport: 8080, ..flow.key };
                nat(&mut group, name, &mut frame, &flow, &to);
            }
            other => panic!("{name} is {other:?}"),
        }
    }
    group.finish();
}

fn nat<A: Translate>(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    frame: &mut [u8],
    flow: &Flow<A>,
    to: &FlowKey<A>,
) {
    let deltas = Deltas::between(&flow.key, to);
    group.bench_function(name, |b| {
        b.iter(|| A::translate(black_box(&mut *frame), black_box(to), black_box(deltas)));
    });
    group.bench_function(format!("{name}, full checksum"), |b| {
        b.iter(|| transport_checksum::fill::<A>(black_box(&mut *frame), black_box(flow)));
    });
}

fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    group.throughput(Throughput::Elements(1));
    for kind in SchedulerKind::ALL {
        for servers in [4, 64, 1024_u32] {
            let mut scheduler = Scheduler::new(kind, 1);
            scheduler.resize(servers as usize);
            let mut candidates: Vec<Candidate> = (0..servers)
                .map(|i| Candidate {
                    weight: 1 + i % 10,
                    available: i % 16 != 3,
                    ..Candidate::default()
                })
                .collect();
            let members = members(&candidates);
            scheduler.place(Placement::make(kind, members, None).as_deref());
            let (mut ends, mut hash) = (0, 0_u64);
            group.bench_function(BenchmarkId::new(kind.name(), servers), |b| {
                b.iter(|| {
                    hash = hash::bytes(&hash.to_be_bytes());
                    let i = scheduler.pick(black_box(&candidates), hash).expect("some are up");
                    candidates[i].active += 1;
                    // As many sessions end as begin.
                    ends = (ends + 7) % candidates.len();
                    candidates[ends].active = candidates[ends].active.saturating_sub(1);
                });
            });
        }
    }
    group.finish();
}

/// As many servers as candidates, with their weights; those that are down take no part.
fn members(candidates: &[Candidate]) -> Vec<Member> {
    let member = |(n, c): (usize, &Candidate)| Member {
        server: (server_address(n), 80).into(),
        weight: if c.available { c.weight } else { 0 },
        position: n as u16,
    };
    candidates.iter().enumerate().map(member).collect()
}

/// Making the table of `maglev`, which the management thread does.
fn maglev_table(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev table");
    for servers in [3, 100, 600, 5000_u32] {
        let candidates: Vec<Candidate> = (0..servers)
            .map(|i| Candidate { weight: 1 + i % 10, ..Candidate::default() })
            .collect();
        let members = members(&candidates);
        let size = maglev::size_for(members.len());
        group.bench_function(format!("{servers} servers, {size} entries"), |b| {
            b.iter(|| maglev::Table::new(black_box(&members), size));
        });
    }
    group.finish();
}

/// Is this source in a list of so many prefixes? Half are.
fn prefix_set(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefix set");
    group.throughput(Throughput::Elements(1));
    let spread = |i: u32| i.wrapping_mul(0x9e37_79b1);
    let wide = |i: u32| Ipv6Addr::from_bits(0x2001 << 112 | u128::from(spread(i)) << 64);
    for prefixes in [10, 10_000, 1_000_000_u32] {
        let nets = |v6: bool| {
            (0..prefixes).map(move |i| -> ipnet::IpNet {
                match v6 {
                    true => ipnet::Ipv6Net::new_assert(wide(i), 64).into(),
                    false => ipnet::Ipv4Net::new_assert(spread(i).into(), 32).into(),
                }
            })
        };
        for (family, v6) in [("v4", false), ("v6", true)] {
            let list: Vec<_> = nets(v6).collect();
            group.bench_function(BenchmarkId::new(format!("build {family}"), prefixes), |b| {
                b.iter(|| PrefixSet::new(list.iter().copied()));
            });
            let set = PrefixSet::new(list);
            let asked = shuffled(2 * prefixes, 1);
            let mut next = asked.iter().copied().cycle();
            group.bench_function(BenchmarkId::new(format!("look up {family}"), prefixes), |b| {
                b.iter(|| {
                    let i = next.next().unwrap_or_default();
                    let found = match v6 {
                        true => set.contains_v6(wide(i)),
                        false => set.contains_v4(spread(i).into()),
                    };
                    assert_eq!(found, i < prefixes);
                });
            });
        }
    }
    group.finish();
}

/// A packet that none of so many rules matches.
fn filters(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(1));
    let packet = Packet {
        src: CLIENT,
        dst: VIP,
        protocol: 17,
        transport: Some((5000, VIP_PORT, 0)),
        port: PortId(0),
    };
    let by_port =
        |n: u16| Rule { destination_ports: vec![(n + 10_000, n + 10_000)], ..Rule::default() };
    let by_source = |n: u16| Rule {
        sources: Some(PrefixSet::new([ipnet::Ipv4Net::new_assert(
            Ipv4Addr::from_bits(0xc000_0000 | u32::from(n) << 8),
            24,
        )
        .into()])),
        ..Rule::default()
    };
    for rules in [1, 10, 100, 1000] {
        let ports = Filters::new((0..rules).map(by_port).collect());
        let sources = Filters::new((0..rules).map(by_source).collect());
        for (name, filters) in [("by port", ports), ("by source", sources)] {
            group.bench_function(BenchmarkId::new(name, rules), |b| {
                b.iter(|| assert_eq!(filters.first(black_box(&packet)), None));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, parsing, rewrite, schedule, maglev_table, lookup, prefix_set, filters);
criterion_main!(benches);
