#![allow(missing_docs)] // criterion_group! makes a public function without any

//! The whole data path per packet: a burst of 32 through the pipeline, sessions established.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use perf::rig::{self, BenchFrame};
use shunt::datapath::outbox::Outbox;
use shunt::io::{BURST, Burst};
use shunt::session::Mode;

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, mode) in [("nat", Mode::Nat), ("fullnat", Mode::FullNat), ("dr", Mode::Dr)] {
        for flows in [1 << 10, 1 << 16, 1 << 20] {
            let mut pipeline = rig::pipeline(rig::snapshot(mode, 16, 8), flows * 5 / 4);
            let frames: Vec<[u8; 60]> = (0..flows).map(rig::client_frame).collect();
            let mut burst: Burst<BenchFrame> = Burst::new();
            let mut out: Outbox<BenchFrame> = Outbox::new(1, 1);
            let mut spare: Vec<BenchFrame> =
                (0..BURST).map(|_| BenchFrame { bytes: Box::new([0; 128]), len: 60 }).collect();
            let mut next = 0;
            let mut step = || {
                for mut frame in spare.drain(..) {
                    // A step that is no divisor of the number of flows scatters the accesses.
                    next = (next + 7919) & (flows - 1);
                    frame.bytes[..60].copy_from_slice(&frames[next]);
                    frame.len = 60;
                    burst.push(frame);
                }
                pipeline.process(&mut burst, false, 1, &mut out);
                spare.extend(out.ports[0].frames.drain(..));
                out.ports[0].originated = 0;
                assert_eq!(black_box(spare.len()), BURST);
            };
            for _ in 0..flows / BURST {
                step();
            }
            group.bench_function(BenchmarkId::new(name, flows), |b| b.iter(&mut step));
        }
    }
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
