//! A client that holds many connections for a long time, and opens new ones all the while.
//!
//! Every held connection sends a line at a steady pace and checks every byte that comes back. What it
//! sees is what a user would see: a reset, an end, wrong data, or nothing at all for a while.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::namespace::{Namespace, Task};

use super::backend::{ANSWER, PATTERN, answer, line};

/// How long a connection may take to open, and an answer to come, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many connections open at once at the beginning.
const AT_ONCE: usize = 64;

/// What the load is made of.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    /// Where connections go, in turn.
    pub(crate) to: Vec<SocketAddr>,
    /// Held connections.
    pub(crate) held: usize,
    /// The time between two lines of one.
    pub(crate) pace: Duration,
    /// The time between two new connections besides.
    pub(crate) new_every: Duration,
}

/// How a held connection ended that should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It was never established.
    NotOpened(io::ErrorKind),
    /// An error, as a rule a reset.
    Error(io::ErrorKind),
    /// The other end closed it.
    Ended,
    /// An answer was not what it should have been.
    WrongData(u64),
    /// The answers never came.
    Silent,
}

/// What a held connection has seen.
#[derive(Clone, Debug, Default)]
struct Held {
    open: bool,
    sent: u64,
    answered: u64,
    /// When the last answer came.
    last: Option<Instant>,
    /// The longest time between two answers since the last mark.
    gap: Duration,
    broken: Option<Broken>,
    /// It was closed in good order at the end.
    closed: bool,
}

/// What the new connections have seen since the last mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct New {
    pub(crate) tried: u64,
    pub(crate) failed: u64,
    /// The longest that one of them took, from the SYN to the last byte.
    pub(crate) slowest: Duration,
    /// Why some of them failed.
    pub(crate) why: Vec<String>,
    under_way: u64,
    /// When the last mark was.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    held: Mutex<Vec<Held>>,
    new: Mutex<New>,
    /// No new connections.
    quiet: AtomicBool,
    /// The end: each held connection sends its last line.
    stop: AtomicBool,
}

/// The outcome since the last mark.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Held connections.
    pub(crate) held: usize,
    /// Those that broke, ever, with their numbers.
    pub(crate) broken: Vec<(usize, Broken)>,
    /// The longest time between two answers of one connection.
    pub(crate) gap: Duration,
    /// The answers of all.
    pub(crate) answers: u64,
    pub(crate) new: New,
}

impl Report {
    /// Nothing broke, nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_empty() && self.new.failed == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections held, {} broken, longest gap {} ms, {} answers; {} new, {} failed, \
             slowest {} ms",
            self.held,
            self.broken.len(),
            self.gap.as_millis(),
            self.answers,
            self.new.tried,
            self.new.failed,
            self.new.slowest.as_millis(),
        )?;
        for (n, how) in self.broken.iter().take(5) {
            write!(f, "\n  connection {n}: {how:?}")?;
        }
        for why in self.new.why.iter().take(5) {
            write!(f, "\n  new connection: {why}")?;
        }
        Ok(())
    }
}

/// A running load; dropping it cuts it off.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    _task: Task,
}

impl Load {
    /// Opens all connections from the namespace and returns when each has had its first answer.
    pub(crate) fn start(client: &Namespace, plan: LoadPlan) -> Self {
        let shared = Arc::new(Shared {
            held: Mutex::new(vec![Held::default(); plan.held]),
            new: Mutex::default(),
            quiet: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            plan,
        });
        let load = Load {
            _task: client.spawn({
                let shared = shared.clone();
                move || run(shared)
            }),
            shared,
        };
        let opened = |held: &Held| held.answered > 0 || held.broken.is_some();
        load.wait(PATIENCE * 2, |shared| shared.held().iter().all(opened));
        let report = load.report();
        assert!(report.is_good(), "before anything happened: {report}");
        load.mark();
        load
    }

    /// Forgets gaps and new connections so far; what broke stays broken.
    pub(crate) fn mark(&self) {
        for held in self.shared.held().iter_mut() {
            held.gap = Duration::ZERO;
        }
        let mut new = self.shared.new_ones();
        *new = New { under_way: new.under_way, since: Some(Instant::now()), ..New::default() };
    }

    /// The outcome since the last mark.
    pub(crate) fn report(&self) -> Report {
        let now = Instant::now();
        let held = self.shared.held();
        let gap = |held: &Held| match held.last {
            // One that still waits waits at least so long.
            Some(last) if !held.closed && held.broken.is_none() => held.gap.max(now - last),
            _ => held.gap,
        };
        let broken = |(n, held): (usize, &Held)| Some((n, held.broken.clone()?));
        Report {
            held: held.len(),
            broken: held.iter().enumerate().filter_map(broken).collect(),
            gap: held.iter().map(gap).max().unwrap_or_default(),
            answers: held.iter().map(|held| held.answered).sum(),
            new: self.shared.new_ones().clone(),
        }
    }

    /// Waits until every held connection that is not broken has had an answer to a line sent from now
    /// on: none is stuck.
    pub(crate) fn flows_again(&self) {
        let asked: Vec<_> = self.shared.held().iter().map(|held| held.sent).collect();
        self.wait(PATIENCE, |shared| {
            let answered =
                |(held, asked): (&Held, &u64)| held.broken.is_some() || held.answered > *asked;
            shared.held().iter().zip(&asked).all(answered)
        });
    }

    /// Sends the last line of every connection and waits until all have been closed in good order.
    pub(crate) fn finish(self) -> Report {
        self.shared.quiet.store(true, Ordering::Relaxed);
        self.wait(PATIENCE, |shared| shared.new_ones().under_way == 0);
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait(PATIENCE, |shared| {
            shared.held().iter().all(|held| held.closed || held.broken.is_some())
        });
        for held in self.shared.held().iter_mut() {
            if !held.closed && held.broken.is_none() {
                held.broken = Some(Broken::Silent);
            }
        }
        self.report()
    }

    fn wait(&self, at_most: Duration, mut until: impl FnMut(&Shared) -> bool) {
        let begin = Instant::now();
        while !until(&self.shared) && begin.elapsed() < at_most {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_ones(&self) -> MutexGuard<'_, New> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to(&self, n: usize) -> SocketAddr {
        self.plan.to[n % self.plan.to.len()]
    }
}

async fn run(shared: Arc<Shared>) {
    let gate = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    for n in 0..shared.plan.held {
        let (shared, gate) = (shared.clone(), gate.clone());
        tokio::spawn(async move {
            let Err(broken) = hold(&shared, n, &gate).await else { return };
            shared.held()[n].broken = Some(broken);
        });
    }
    open_new(shared).await;
}

/// One held connection, from the first line to the last.
async fn hold(shared: &Shared, n: usize, gate: &tokio::sync::Semaphore) -> Result<(), Broken> {
    let stream = {
        let _turn = gate.acquire().await;
        connect(shared.to(n)).await.map_err(|e| Broken::NotOpened(e.kind()))?
    };
    shared.held()[n].open = true;
    let (reader, writer) = stream.into_split();
    tokio::try_join!(write(shared, n, writer), read(shared, n, reader))?;
    shared.held()[n].closed = true;
    Ok(())
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a line at each tick, and the last one when it is over.
async fn write(shared: &Shared, n: usize, mut to: OwnedWriteHalf) -> Result<(), Broken> {
    let pace = shared.plan.pace;
    // They do not all send at the same moment.
    let first = pace.mul_f64((n % 97) as f64 / 97.0);
    let mut ticks = interval_at(tokio::time::Instant::now() + first, pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = false;
    for number in 0.. {
        ticks.tick().await;
        last |= shared.stop.load(Ordering::Relaxed);
        to.write_all(&line(n, number, last)).await.map_err(|e| Broken::Error(e.kind()))?;
        shared.held()[n].sent = number + 1;
        if last {
            break;
        }
    }
    Ok(())
}

/// Checks every answer, to the end of the stream.
async fn read(shared: &Shared, n: usize, mut from: OwnedReadHalf) -> Result<(), Broken> {
    let mut position = 0;
    for number in 0.. {
        let mut bytes = [0; ANSWER];
        if let Err(error) = from.read_exact(&mut bytes).await {
            return Err(match error.kind() {
                io::ErrorKind::UnexpectedEof => Broken::Ended,
                kind => Broken::Error(kind),
            });
        }
        let last = bytes[0] == b'B';
        if bytes != answer(&line(n, number, last), position) {
            return Err(Broken::WrongData(number));
        }
        position += PATTERN;
        {
            let mut held = shared.held();
            let held = &mut held[n];
            let now = Instant::now();
            if let Some(last) = held.last {
                held.gap = held.gap.max(now - last);
            }
            held.last = Some(now);
            held.answered = number + 1;
        }
        if last {
            break;
        }
    }
    match from.read(&mut [0; 1]).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(Broken::WrongData(u64::MAX)),
        Err(error) => Err(Broken::Error(error.kind())),
    }
}

/// Opens new connections at a steady pace, one line each.
async fn open_new(shared: Arc<Shared>) {
    let every = shared.plan.new_every;
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        ticks.tick().await;
        if shared.quiet.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let shared = shared.clone();
        {
            let mut new = shared.new_ones();
            new.tried += 1;
            new.under_way += 1;
        }
        tokio::spawn(async move {
            let begin = Instant::now();
            let outcome = timeout(PATIENCE, once(shared.to(number), number)).await;
            let mut new = shared.new_ones();
            new.under_way -= 1;
            // One that began before the mark has seen what was before it.
            if new.since.is_none_or(|since| begin >= since) {
                new.slowest = new.slowest.max(begin.elapsed());
            }
            if let Err(why) = outcome.map_err(io::Error::from).and_then(|outcome| outcome) {
                new.failed += 1;
                if new.why.len() < 5 {
                    new.why.push(format!("{}: {why}", shared.to(number)));
                }
            }
        });
    }
}

/// A whole connection: one line, its answer, and the end.
pub(crate) async fn once(to: SocketAddr, number: usize) -> io::Result<()> {
    let mut stream = connect(to).await?;
    talk(&mut stream, number).await
}

/// The one line of a short connection, its answer, and the end.
pub(crate) async fn talk(stream: &mut TcpStream, number: usize) -> io::Result<()> {
    let line = line(number % 1_000_000, 0, true);
    stream.write_all(&line).await?;
    let mut bytes = Vec::with_capacity(ANSWER);
    stream.read_to_end(&mut bytes).await?;
    if bytes != answer(&line, 0) {
        return Err(io::Error::other(format!("{} bytes, and not the answer", bytes.len())));
    }
    Ok(())
}
