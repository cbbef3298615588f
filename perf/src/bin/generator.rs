//! A packet generator on one core: many flows to a virtual server, and what comes back.
//!
//! It takes any DPDK device. It waits for the link, opens a session for each flow at a moderate rate
//! (the warm-up), then sends as fast as the device under test takes frames and counts what it gives
//! back, second by second. The result is one JSON object on standard output.
//!
//! - `forward`: clients to the virtual server;
//! - `reply`: real servers to clients: what the warm-up delivered to the servers tells which
//!   addresses and ports to answer to, also in FullNAT;
//! - `both`: as `forward`, and the servers send back each frame they get.
//!
//! Each frame is copied from a table of finished heads, one cache line each. The table is read in
//! order, the sessions were opened in another one, so that neighbours in the table are not
//! neighbours in the session table of the device under test.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Parser, ValueEnum};
use perf::port::{Device, PORT};
use perf::traffic::{
    self, CLIENT_MAC, DUT_MAC, Head, Kind, MAX_FLOWS, SERVER_MAC, Way, answer, flow_of,
};
use serde::Serialize;
use shunt::datapath::frame::Frame;
use shunt::dpdk::{DpdkIo, Mbuf};
use shunt::io::{BURST, Burst, BurstIo};

/// Frames kept for reuse beyond those in a burst.
const STOCK: usize = 256;
/// How often the warm-up asks again for flows that did not come back.
const MAX_PASSES: u32 = 5;
/// After this long without a frame, no more are on their way.
const SILENCE: Duration = Duration::from_millis(50);
/// Loop turns between two looks at the clock.
const CLOCK_INTERVAL: u32 = 64;

/// Sends many flows to a virtual server as fast as it takes them and counts what comes back.
#[derive(Parser)]
#[command(name = "generator")]
struct Arguments {
    #[command(flatten)]
    device: Device,
    /// How many flows.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FLOWS)))]
    flows: u32,
    /// What they carry.
    #[arg(long, value_enum, default_value_t = Traffic::Udp)]
    traffic: Traffic,
    /// Who sends.
    #[arg(long, value_enum, default_value_t = Direction::Forward)]
    direction: Direction,
    /// Bytes of a frame on the wire, FCS included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    frame_bytes: u16,
    /// Frames per second of the warm-up.
    #[arg(long, default_value_t = 1_000_000)]
    warm_up_pps: u32,
    /// Turns of a pause that follows a burst which was not taken in full.
    #[arg(long, default_value_t = 0)]
    pause: u32,
    /// Seconds at full speed before the measurement.
    #[arg(long, default_value_t = 0.5)]
    settle: f64,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Seconds that the start of the device under test and the warm-up may take together.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Traffic {
    /// UDP datagrams.
    Udp,
    /// Segments of TCP connections that the warm-up has opened.
    Tcp,
    /// Nothing but SYN segments.
    Syn,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Clients.
    Forward,
    /// Real servers.
    Reply,
    /// Clients, and servers send back what they get.
    Both,
}

/// Frames received, by the MAC address they are sent to.
#[derive(Clone, Copy, Default, Serialize)]
struct Received {
    /// To the real servers.
    server_side: u64,
    /// To the clients' gateway.
    client_side: u64,
    /// To the device under test itself: it has not changed them.
    unchanged: u64,
    /// Frames of its own, like ARP.
    other: u64,
}

impl Received {
    /// Those that were ours.
    fn passed(&self) -> u64 {
        self.server_side + self.client_side + self.unchanged
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    sent: u64,
    received: Received,
}

#[derive(Serialize)]
struct Second {
    sent_mpps: f64,
    received_mpps: f64,
}

#[derive(Serialize)]
struct WarmUp {
    /// Flows of which a frame came back.
    flows_passed: u32,
    passes: u32,
}

#[derive(Serialize)]
struct Outcome {
    flows: u32,
    frame_bytes: u16,
    warm_up: WarmUp,
    seconds: Vec<Second>,
    /// Means over the measured seconds.
    sent_mpps: f64,
    received_mpps: f64,
    /// From the end of the warm-up until nothing came any more.
    sent: u64,
    received: Received,
    lost: u64,
    loss_percent: f64,
}

fn main() -> anyhow::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let deadline = Instant::now() + Duration::from_secs(arguments.patience);
    let outcome =
        arguments.device.with(deadline, |io| Generator::new(io, &arguments).run(deadline))?;
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    Ok(())
}

struct Generator<'a> {
    arguments: &'a Arguments,
    io: DpdkIo,
    /// Bytes of a frame without FCS.
    frame_len: usize,
    /// What is sent, by flow.
    heads: Vec<Head>,
    /// Where `heads` is read next.
    next: usize,
    /// Answers of the real servers, by flow.
    replies: Vec<Option<Head>>,
    rx: Burst<Mbuf>,
    tx: Burst<Mbuf>,
    /// Frames that servers send back.
    echo: Burst<Mbuf>,
    stock: Vec<Mbuf>,
    counts: Counts,
}

impl<'a> Generator<'a> {
    fn new(io: DpdkIo, arguments: &'a Arguments) -> Self {
        let frame_len = usize::from(arguments.frame_bytes) - 4;
        let kind = match arguments.traffic {
            Traffic::Udp => Kind::Udp,
            Traffic::Tcp | Traffic::Syn => Kind::SYN,
        };
        Generator {
            io,
            frame_len,
            heads: client_heads(arguments.flows, kind, frame_len),
            next: 0,
            replies: Vec::new(),
            rx: Burst::new(),
            tx: Burst::new(),
            echo: Burst::new(),
            stock: Vec::with_capacity(STOCK),
            counts: Counts::default(),
            arguments,
        }
    }

    fn run(mut self, deadline: Instant) -> anyhow::Result<Outcome> {
        let warm_up = self.warm_up(deadline)?;
        if self.arguments.traffic == Traffic::Tcp {
            self.open_connections(deadline)?;
        }
        if self.arguments.direction == Direction::Reply {
            self.heads = self.replies.iter().flatten().copied().collect();
            if self.heads.is_empty() {
                bail!("no frame reached a server in the warm-up: there is nothing to answer");
            }
        }
        self.replies = Vec::new();
        self.next = 0;
        self.counts = Counts::default();
        let seconds = match self.arguments.direction {
            Direction::Both => self.measure::<true>(),
            Direction::Forward | Direction::Reply => self.measure::<false>(),
        };
        self.settle();
        let mean = |f: fn(&Second) -> f64| {
            seconds.iter().map(f).sum::<f64>() / seconds.len().max(1) as f64
        };
        let Counts { sent, received } = self.counts;
        let lost = sent.saturating_sub(received.passed());
        Ok(Outcome {
            flows: self.arguments.flows,
            frame_bytes: self.arguments.frame_bytes,
            warm_up,
            sent_mpps: mean(|s| s.sent_mpps),
            received_mpps: mean(|s| s.received_mpps),
            seconds,
            sent,
            received,
            lost,
            loss_percent: 100.0 * lost as f64 / sent.max(1) as f64,
        })
    }

    /// Sends as fast as the port takes frames.
    fn measure<const ECHO: bool>(&mut self) -> Vec<Second> {
        let mut samples = Vec::new();
        let second = Duration::from_secs(1);
        let mut start = Instant::now();
        let mut end = start + Duration::from_secs_f64(self.arguments.settle);
        let mut before = self.counts;
        let mut settled = false;
        loop {
            for _ in 0..CLOCK_INTERVAL {
                let got = self.receive::<ECHO>();
                let sent = self.send();
                if got.min(sent) < BURST {
                    for _ in 0..self.arguments.pause {
                        std::hint::spin_loop();
                    }
                }
            }
            let now = Instant::now();
            if now < end {
                continue;
            }
            if settled {
                let mpps = |n: u64| n as f64 / (now - start).as_secs_f64() / 1e6;
                let passed = self.counts.received.passed() - before.received.passed();
                samples.push(Second {
                    sent_mpps: mpps(self.counts.sent - before.sent),
                    received_mpps: mpps(passed),
                });
            }
            settled = true;
            if samples.len() == self.arguments.seconds as usize {
                return samples;
            }
            (start, end, before) = (now, now + second, self.counts);
        }
    }

    /// Receives a burst and counts it.
    #[inline(always)]
    fn receive<const ECHO: bool>(&mut self) -> usize {
        if ECHO && !self.echo.is_empty() {
            self.counts.sent += self.io.transmit(PORT, &mut self.echo) as u64;
            if !self.echo.is_empty() {
                return 0;
            }
        }
        let n = self.io.receive(PORT, &mut self.rx);
        for mut frame in self.rx.drain(..) {
            let to = destination(frame.bytes());
            let to_server = to == mac(&SERVER_MAC);
            let to_client = to == mac(&CLIENT_MAC);
            let to_dut = to == mac(&DUT_MAC);
            let received = &mut self.counts.received;
            received.server_side += u64::from(to_server);
            received.client_side += u64::from(to_client);
            received.unchanged += u64::from(to_dut);
            received.other += u64::from(!(to_server | to_client | to_dut));
            if ECHO && to_server {
                turn_round(frame.bytes_mut());
                self.echo.push(frame);
            } else if self.stock.len() < STOCK {
                self.stock.push(frame);
            }
        }
        if ECHO && !self.echo.is_empty() {
            self.counts.sent += self.io.transmit(PORT, &mut self.echo) as u64;
        }
        n
    }

    /// Sends a burst; what the port does not take goes first next time.
    #[inline(always)]
    fn send(&mut self) -> usize {
        while self.tx.len() < BURST {
            let head = self.heads[self.next];
            let Some(frame) = self.frame(&head) else { break };
            self.tx.push(frame);
            self.next += 1;
            if self.next == self.heads.len() {
                self.next = 0;
            }
        }
        let sent = self.io.transmit(PORT, &mut self.tx);
        self.counts.sent += sent as u64;
        sent
    }

    /// A frame with this head, from the stock or the pool.
    #[inline(always)]
    fn frame(&mut self, head: &Head) -> Option<Mbuf> {
        let mut frame = match self.stock.pop() {
            Some(frame) => frame,
            None => self.io.allocate()?,
        };
        // Buffers hold 2 KiB: neither length is refused. All of the line is copied, since a copy of
        // fixed length is two instructions.
        frame.set_len(self.frame_len.max(64));
        let (start, rest) = frame.bytes_mut().split_at_mut(64);
        start.copy_from_slice(&head.0);
        rest.fill(0);
        frame.set_len(self.frame_len);
        Some(frame)
    }

    /// Sends a frame of each flow until one of each came back, and learns the servers' answers.
    fn warm_up(&mut self, deadline: Instant) -> anyhow::Result<WarmUp> {
        let flows = self.arguments.flows;
        let mut passed = vec![false; flows as usize];
        self.replies = vec![None; flows as usize];
        // The device under test may still be starting.
        while !passed[0] {
            if Instant::now() > deadline {
                bail!("nothing comes back from the device under test");
            }
            let head = self.heads[0];
            self.send_slowly(std::iter::once(head), &mut passed, deadline)?;
        }
        let order = traffic::shuffled(flows, 1);
        let mut passes = 0;
        while passes < MAX_PASSES && passed.iter().any(|p| !p) {
            let missing: Vec<u32> =
                order.iter().copied().filter(|&f| !passed[f as usize]).collect();
            let heads: Vec<Head> = missing.iter().map(|&f| self.heads[f as usize]).collect();
            self.send_slowly(heads.into_iter(), &mut passed, deadline)?;
            passes += 1;
        }
        let flows_passed = passed.iter().filter(|p| **p).count() as u32;
        Ok(WarmUp { flows_passed, passes })
    }

    /// Completes the handshakes that the warm-up began: the servers' SYN-ACK, the clients' ACK.
    fn open_connections(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let mut ignored = Vec::new();
        let answers: Vec<Head> = self.replies.iter().flatten().copied().collect();
        self.send_slowly(answers.into_iter(), &mut ignored, deadline)?;
        self.heads = client_heads(self.arguments.flows, Kind::ACK, self.frame_len);
        let heads = self.heads.clone();
        self.send_slowly(heads.into_iter(), &mut ignored, deadline)?;
        // From now on servers send data.
        for reply in self.replies.iter_mut().flatten() {
            *reply = answer(&turned(reply)[..60], Kind::ACK, self.frame_len).unwrap_or(*reply);
        }
        Ok(())
    }

    /// Sends at the rate of the warm-up, then waits until no more comes back. Notes which flows
    /// came back.
    fn send_slowly(
        &mut self,
        mut heads: impl Iterator<Item = Head>,
        passed: &mut [bool],
        deadline: Instant,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut sent: u64 = 0;
        let mut more = true;
        while more || !self.tx.is_empty() {
            while more && self.tx.len() < BURST {
                let Some(head) = heads.next() else {
                    more = false;
                    break;
                };
                let Some(frame) = self.frame(&head) else { break };
                self.tx.push(frame);
            }
            sent += self.io.transmit(PORT, &mut self.tx) as u64;
            let due = Duration::from_secs_f64(sent as f64 / f64::from(self.arguments.warm_up_pps));
            loop {
                self.learn(passed);
                if start.elapsed() >= due {
                    break;
                }
            }
            if Instant::now() > deadline {
                bail!("the device under test does not take the frames of the warm-up in time");
            }
        }
        let mut last = Instant::now();
        while last.elapsed() < SILENCE {
            if self.learn(passed) != 0 {
                last = Instant::now();
            }
        }
        Ok(())
    }

    /// Receives a burst in the warm-up.
    fn learn(&mut self, passed: &mut [bool]) -> usize {
        let answer_kind = match self.arguments.traffic {
            Traffic::Udp => Kind::Udp,
            Traffic::Tcp | Traffic::Syn => Kind::SYN_ACK,
        };
        let n = self.io.receive(PORT, &mut self.rx);
        for frame in self.rx.drain(..) {
            let bytes = frame.bytes();
            if let Some(flow) = flow_of(bytes)
                && let Some(passed) = passed.get_mut(flow as usize)
            {
                *passed = true;
                if destination(bytes) == mac(&SERVER_MAC)
                    && let Some(reply) = self.replies.get_mut(flow as usize)
                {
                    *reply = answer(bytes, answer_kind, self.frame_len);
                }
            }
            if self.stock.len() < STOCK {
                self.stock.push(frame);
            }
        }
        n
    }

    /// Receives until nothing comes any more.
    fn settle(&mut self) {
        self.tx.clear();
        self.echo.clear();
        let mut last = Instant::now();
        while last.elapsed() < SILENCE {
            let before = self.counts.received;
            self.receive::<false>();
            if self.counts.received.passed() != before.passed() {
                last = Instant::now();
            }
        }
    }
}

fn client_heads(flows: u32, kind: Kind, frame_len: usize) -> Vec<Head> {
    (0..flows).map(|flow| traffic::head(&Way::of_client(flow), kind, flow, frame_len)).collect()
}

/// The first six bytes of a frame as a number.
#[inline(always)]
fn destination(frame: &[u8]) -> u64 {
    frame.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b) & 0xffff_ffff_ffff)
}

#[inline(always)]
const fn mac(m: &[u8; 6]) -> u64 {
    u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0])
}

/// The frame a head answers to: its addresses and ports the other way round.
fn turned(head: &Head) -> [u8; 64] {
    let mut bytes = head.0;
    turn_round(&mut bytes);
    bytes
}

/// Exchanges MAC addresses, IP addresses and ports; no checksum changes by that.
#[inline(always)]
fn turn_round(frame: &mut [u8]) {
    let Some(head) = frame.first_chunk_mut::<38>() else { return };
    let old = *head;
    head[..6].copy_from_slice(&old[6..12]);
    head[6..12].copy_from_slice(&old[..6]);
    head[26..30].copy_from_slice(&old[30..34]);
    head[30..34].copy_from_slice(&old[26..30]);
    head[34..36].copy_from_slice(&old[36..38]);
    head[36..38].copy_from_slice(&old[34..36]);
}
