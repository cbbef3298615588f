//! The whole data path per packet: bursts of 32 through the pipeline.
#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use perf::rig::{Rig, client_frame, client_frame_v6};
use perf::traffic;
use shunt::io::BURST;
use shunt::session::Mode;

const MODES: [(&str, Mode); 3] = [("nat", Mode::Nat), ("fullnat", Mode::FullNat), ("dr", Mode::Dr)];

/// Packets of known sessions. They come in another order than the sessions were opened in.
fn established(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, mode) in MODES {
        for flows in [1 << 10, 1 << 16, 1 << 20] {
            let frames: Vec<[u8; 60]> = (0..flows).map(client_frame).collect();
            group.bench_function(BenchmarkId::new(name, flows), |b| {
                let mut rig = Rig::new(mode, flows as usize * 5 / 4, 16);
                let mut frames = repeat(&mut rig, &frames);
                b.iter(|| rig.forward(&mut frames, 1));
            });
        }
    }
    let flows = 1 << 16;
    let frames: Vec<[u8; 66]> = (0..flows).map(client_frame_v6).collect();
    for (name, mode) in MODES {
        group.bench_function(BenchmarkId::new(format!("{name} IPv6"), flows), |b| {
            let mut rig = Rig::new(mode, 16, flows as usize * 5 / 4);
            let mut frames = repeat(&mut rig, &frames);
            b.iter(|| rig.forward(&mut frames, 1));
        });
    }
    group.finish();
}

/// Opens a session for each frame in a scattered order, then gives the frames in their own.
fn repeat<'a, const N: usize>(
    rig: &mut Rig,
    frames: &'a [[u8; N]],
) -> impl FnMut() -> &'a [u8] + use<'a, N> {
    let order = traffic::shuffled(frames.len() as u32, 1);
    let mut opening = order.iter().map(|&i| &frames[i as usize][..]);
    for _ in 0..frames.len() / BURST {
        rig.forward(|| opening.next().expect("a whole number of bursts"), 1);
    }
    assert_eq!(rig.sessions(), frames.len());
    let mut all = frames.iter().cycle();
    move || all.next().map_or(&[], |frame| &frame[..])
}

/// Every packet opens a session, which ends by timeout when as many others have been opened: the
/// table stays half full.
fn new_sessions(c: &mut Criterion) {
    const CAPACITY: usize = 1 << 17;
    /// More flows than sessions, so that those that come again have ended.
    const FLOWS: u32 = 1 << 18;
    const TIMEOUT_MS: u32 = 900_000;
    let mut group = c.benchmark_group("new sessions");
    group.throughput(Throughput::Elements(BURST as u64));
    let frames: Vec<[u8; 60]> = (0..FLOWS).map(client_frame).collect();
    for (name, mode) in MODES {
        group.bench_function(name, |b| {
            let mut rig = Rig::new(mode, CAPACITY, 16);
            let mut all = frames.iter().cycle();
            let mut now = 0_u32;
            b.iter(|| {
                // A burst every so often that a timeout passes while half the table is filled.
                now = now.wrapping_add(TIMEOUT_MS / (CAPACITY / 2 / BURST) as u32);
                rig.expire(now);
                rig.forward(|| all.next().map_or(&[], |frame| &frame[..]), now);
            });
            assert!(rig.sessions() >= BURST);
        });
    }
    group.finish();
}

criterion_group!(benches, established, new_sessions);
criterion_main!(benches);
