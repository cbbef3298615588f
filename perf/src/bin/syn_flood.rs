//! A SYN flood from one core, and good clients that try to get through it.
//!
//! It is the clients and the real servers of one port at the same time: it floods the virtual server
//! with SYNs from 65,536 forged addresses, each time from another port, and never answers for them.
//! Meanwhile a number of good clients open one connection after the other. A connection is good when
//! the server's first data reached its client within a second; the client then resets it and begins
//! another. Real servers answer good clients only, at once.
//!
//! The result is one JSON object on standard output; `perf/syn-flood` runs it against Shunt.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Parser;
use perf::port::{Device, PORT};
use perf::traffic::{self, CLIENT_MAC, DUT_MAC, Head, Kind, SERVER_MAC, VIP, VIP_PORT, Way};
use serde::Serialize;
use shunt::datapath::frame::Frame;
use shunt::dpdk::{DpdkIo, Mbuf};
use shunt::io::{BURST, Burst, BurstIo};
use shunt::wire::flow::tcp_flags::{ACK, PSH, RST, SYN};
use shunt::wire::{checksum, ip_protocol, ipv4, tcp};

/// Forged sources.
const FORGED: u32 = 1 << 16;
/// Good client n is 100.127.0.0 + n, in no network of the forged ones.
const GOOD: u32 = 0x647f_0000;
/// The most good clients.
const MAX_GOOD: u32 = 1 << 12;
/// A connection that has no data by then has failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Length of a good frame, without FCS: padded to the least there is.
const FRAME: usize = 60;
const TRANSPORT: usize = 34;
/// Frames kept for reuse.
const STOCK: usize = 256;
/// Turns between two looks at the clock.
const CLOCK_INTERVAL: u32 = 16;
/// The good clients' and servers' initial sequence numbers; their values do not matter.
const CLIENT_ISN: u32 = 0x1000_0000;
const SERVER_ISN: u32 = 0x2000_0000;

/// Floods a virtual server with SYNs and counts the good connections that get through.
#[derive(Parser)]
#[command(name = "syn_flood")]
struct Arguments {
    #[command(flatten)]
    device: Device,
    /// Forged SYNs per second; above what the core can send, as many as that.
    #[arg(long, default_value_t = 0)]
    flood_pps: u64,
    /// Good clients, each with one connection at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_GOOD)))]
    clients: u32,
    /// Seconds of flood before the measurement.
    #[arg(long, default_value_t = 2.0)]
    settle: f64,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds that the device under test may take to start.
    #[arg(long, default_value_t = 20.0)]
    patience: f64,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    /// Forged SYNs that the port took.
    flood: u64,
    /// Answers to forged SYNs.
    flood_answers: u64,
    /// Forged SYNs that reached a real server.
    flood_at_servers: u64,
    /// Connections that good clients began.
    begun: u64,
    /// Of those, the ones that got data.
    good: u64,
    /// And the ones that did not, in time.
    failed: u64,
}

#[derive(Serialize)]
struct Outcome {
    seconds: f64,
    flood_pps: f64,
    flood_answers_pps: f64,
    flood_at_servers_pps: f64,
    good_per_second: f64,
    /// Of those that ended in the measured time.
    failed_percent: f64,
    counts: Counts,
}

/// A good client.
#[derive(Clone, Copy)]
struct Client {
    /// Its port; another for each connection.
    port: u16,
    since: Option<Instant>,
}

struct Flood<'a> {
    arguments: &'a Arguments,
    io: DpdkIo,
    heads: Vec<Head>,
    next: usize,
    /// The source port of this round of the forged addresses.
    port: u16,
    clients: Vec<Client>,
    rx: Burst<Mbuf>,
    tx: Burst<Mbuf>,
    stock: Vec<Mbuf>,
    /// Good segments to send: their frames, complete.
    due: Vec<[u8; FRAME]>,
    counts: Counts,
}

fn main() -> anyhow::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let deadline = Instant::now() + Duration::from_secs_f64(arguments.patience);
    let outcome = arguments.device.with(deadline, |io| Flood::new(io, &arguments).run(deadline))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

impl<'a> Flood<'a> {
    fn new(io: DpdkIo, arguments: &'a Arguments) -> Self {
        let head = |flow| traffic::head(&Way::of_client(flow), Kind::SYN, flow, FRAME);
        Flood {
            io,
            heads: (0..FORGED).map(head).collect(),
            next: 0,
            port: 1024,
            clients: vec![Client { port: 1023, since: None }; arguments.clients as usize],
            rx: Burst::new(),
            tx: Burst::new(),
            stock: Vec::with_capacity(STOCK),
            due: Vec::new(),
            counts: Counts::default(),
            arguments,
        }
    }

    fn run(mut self, deadline: Instant) -> anyhow::Result<Outcome> {
        // Until Shunt forwards, without a flood.
        while self.counts.good == 0 {
            self.turns(0, Duration::from_millis(10));
            if Instant::now() > deadline {
                bail!("no connection gets through, even without a flood: {:?}", self.counts.begun);
            }
        }
        let pps = self.arguments.flood_pps;
        self.turns(pps, Duration::from_secs_f64(self.arguments.settle));
        self.counts = Counts::default();
        let begin = Instant::now();
        self.turns(pps, Duration::from_secs_f64(self.arguments.seconds));
        let seconds = begin.elapsed().as_secs_f64();
        let counts = self.counts;
        let rate = |n: u64| n as f64 / seconds;
        Ok(Outcome {
            seconds,
            flood_pps: rate(counts.flood),
            flood_answers_pps: rate(counts.flood_answers),
            flood_at_servers_pps: rate(counts.flood_at_servers),
            good_per_second: rate(counts.good),
            failed_percent: 100.0 * counts.failed as f64
                / (counts.good + counts.failed).max(1) as f64,
            counts,
        })
    }

    /// Takes turns for so long, with so many forged SYNs per second.
    fn turns(&mut self, flood_pps: u64, how_long: Duration) {
        let begin = Instant::now();
        let before = self.counts.flood;
        let mut now = begin;
        while now - begin < how_long {
            self.begin_connections(now);
            let allowed = (now - begin).as_secs_f64() * flood_pps as f64;
            for _ in 0..CLOCK_INTERVAL {
                self.receive();
                let sent = self.counts.flood - before;
                self.send((allowed as u64).saturating_sub(sent) as usize);
            }
            now = Instant::now();
        }
    }

    /// Gives up what has waited too long, and lets every idle client begin.
    fn begin_connections(&mut self, now: Instant) {
        for n in 0..self.clients.len() {
            let client = &mut self.clients[n];
            match client.since {
                Some(since) if now - since < PATIENCE => continue,
                Some(_) => self.counts.failed += 1,
                None => {}
            }
            client.port = if client.port == u16::MAX { 1024 } else { client.port + 1 };
            client.since = Some(now);
            self.counts.begun += 1;
            let port = client.port;
            self.client_sends(n as u32, port, CLIENT_ISN, 0, SYN);
        }
    }

    fn client_sends(&mut self, n: u32, port: u16, seq: u32, ack: u32, flags: u8) {
        let from = (Ipv4Addr::from_bits(GOOD + n), port);
        self.due.push(segment([DUT_MAC, CLIENT_MAC], from, (VIP, VIP_PORT), seq, ack, flags, 0));
    }

    fn receive(&mut self) {
        self.io.receive(PORT, &mut self.rx);
        for at in 0..self.rx.len() {
            let mut bytes = [0; FRAME];
            let frame = self.rx[at].bytes();
            let len = frame.len().min(FRAME);
            bytes[..len].copy_from_slice(&frame[..len]);
            if bytes[12..14] == [0x08, 0x00] && bytes[23] == ip_protocol::TCP {
                self.take(&bytes);
            }
        }
        for frame in self.rx.drain(..) {
            if self.stock.len() < STOCK {
                self.stock.push(frame);
            }
        }
    }

    fn take(&mut self, bytes: &[u8; FRAME]) {
        let header = ipv4::Packet::new_unchecked(&bytes[14..]);
        let (src, dst) = (header.src(), header.dst());
        let total = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        let packet = tcp::Packet::new_unchecked(&bytes[TRANSPORT..]);
        let has_data = total > 20 + packet.header_len();
        let (flags, seq, ack) = (packet.flags(), packet.seq(), packet.ack());
        let clients = self.arguments.clients;
        let good = |address: Ipv4Addr| address.to_bits().checked_sub(GOOD).filter(|n| *n < clients);
        if bytes[..6] == SERVER_MAC {
            if good(src).is_none() {
                self.counts.flood_at_servers += 1;
                return;
            }
            let macs = [DUT_MAC, SERVER_MAC];
            let (from, to) = ((dst, packet.dport()), (src, packet.sport()));
            if flags & SYN != 0 {
                let next = seq.wrapping_add(1);
                self.due.push(segment(macs, from, to, SERVER_ISN, next, SYN | ACK, 0));
            } else if flags & RST == 0 && ack == SERVER_ISN + 1 {
                self.due.push(segment(macs, from, to, SERVER_ISN + 1, seq, PSH | ACK, 1));
            }
        } else if bytes[..6] == CLIENT_MAC {
            let Some(n) = good(dst) else {
                self.counts.flood_answers += 1;
                return;
            };
            let port = packet.dport();
            let client = &mut self.clients[n as usize];
            if client.port != port || client.since.is_none() {
                return;
            }
            if flags & SYN != 0 {
                self.client_sends(n, port, CLIENT_ISN + 1, seq.wrapping_add(1), ACK);
            } else if has_data {
                client.since = None;
                self.counts.good += 1;
                self.client_sends(n, port, CLIENT_ISN + 1, 0, RST);
            }
        }
    }

    /// Sends what is due to good ends, then so many of the flood as fit into the burst.
    fn send(&mut self, mut flood: usize) {
        let mut forged = 0;
        while self.tx.len() < BURST {
            let Some(mut frame) = self.stock.pop().or_else(|| self.io.allocate()) else { break };
            frame.set_len(64);
            if let Some(bytes) = self.due.pop() {
                frame.bytes_mut()[..FRAME].copy_from_slice(&bytes);
            } else if flood > 0 {
                flood -= 1;
                forged += 1;
                frame.bytes_mut().copy_from_slice(&self.heads[self.next].0);
                set_source_port(frame.bytes_mut(), self.port);
                self.next = (self.next + 1) % self.heads.len();
                if self.next == 0 {
                    self.port = self.port.checked_add(1).unwrap_or(1024);
                }
            } else {
                self.stock.push(frame);
                break;
            }
            frame.set_len(FRAME);
            self.tx.push(frame);
        }
        // What the port does not take goes first the next time; it counts as sent now.
        self.counts.flood += forged;
        self.io.transmit(PORT, &mut self.tx);
    }
}

/// Gives a TCP frame another source port, and the checksum that goes with it.
fn set_source_port(frame: &mut [u8], port: u16) {
    let Some(start) = frame.get_mut(TRANSPORT..).and_then(|t| t.first_chunk_mut::<20>()) else {
        return;
    };
    let old = u16::from_be_bytes([start[0], start[1]]);
    let sum = u16::from_be_bytes([start[16], start[17]]);
    let sum = checksum::apply(sum, checksum::delta16(old, port));
    start[..2].copy_from_slice(&port.to_be_bytes());
    start[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// A TCP segment with so many bytes of data.
fn segment(
    macs: [[u8; 6]; 2],
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    data: usize,
) -> [u8; FRAME] {
    let mut bytes = [0; FRAME];
    bytes[..6].copy_from_slice(&macs[0]);
    bytes[6..12].copy_from_slice(&macs[1]);
    bytes[12] = 0x08;
    let length = tcp::HEADER_LEN + data;
    ipv4::Repr {
        src: src.0,
        dst: dst.0,
        protocol: ip_protocol::TCP,
        ttl: 64,
        ident: 0,
        dont_fragment: true,
        payload_len: length as u16,
    }
    .emit(&mut bytes[14..]);
    tcp::Repr { sport: src.1, dport: dst.1, seq, ack, flags, window: 8192 }.emit(
        src.0,
        dst.0,
        &mut bytes[TRANSPORT..TRANSPORT + length],
    );
    bytes
}
