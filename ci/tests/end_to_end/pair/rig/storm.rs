//! Many new connections, one after the other, and how many of their packets had to be sent again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::namespace::{Namespace, runtime};

use super::load::talk;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What became of the connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storm {
    pub(crate) tried: usize,
    pub(crate) failed: usize,
    /// Those of which the client sent something again, as TCP_INFO says.
    pub(crate) repeated: usize,
    pub(crate) elapsed: Duration,
    /// Why some failed.
    pub(crate) why: Vec<String>,
}

/// Opens so many connections in turn to `to`, `at_once` at a time, each with one line and its answer.
pub(crate) fn storm(
    client: &Namespace,
    to: &[SocketAddr],
    connections: usize,
    at_once: usize,
) -> Storm {
    let next = Arc::new(AtomicUsize::new(0));
    let outcome = Arc::new(Mutex::new(Storm::default()));
    let begin = Instant::now();
    client.enter(|| {
        runtime().block_on(async {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..at_once {
                let (next, outcome, to) = (next.clone(), outcome.clone(), to.to_vec());
                all.spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= connections {
                            break;
                        }
                        let one = one(to[n % to.len()], n);
                        let result = timeout(PATIENCE, one).await.map_err(io::Error::from);
                        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                        outcome.tried += 1;
                        match result.and_then(|result| result) {
                            Ok(0) => {}
                            Ok(_) => outcome.repeated += 1,
                            Err(why) => {
                                outcome.failed += 1;
                                if outcome.why.len() < 5 {
                                    outcome.why.push(format!("connection {n}: {why}"));
                                }
                            }
                        }
                    }
                });
            }
            all.join_all().await;
        });
    });
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
    outcome.elapsed = begin.elapsed();
    outcome
}

/// One connection; how many segments its client sent again.
async fn one(to: SocketAddr, n: usize) -> io::Result<u32> {
    let mut stream = TcpStream::connect(to).await?;
    talk(&mut stream, n).await?;
    Ok(sent_again(&stream))
}

fn sent_again(stream: &TcpStream) -> u32 {
    // SAFETY: all zero is a value of this plain structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    let into = (&raw mut info).cast();
    // SAFETY: `info` is writable for `size` bytes over the call, the descriptor is open.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &mut size) };
    if result == 0 { info.tcpi_total_retrans } else { 0 }
}

/// A counter of the kernel's TCP in a namespace, such as `TCPSynRetrans` or `RetransSegs`.
pub(crate) fn counter(namespace: &Namespace, name: &str) -> u64 {
    namespace.enter(|| {
        ["netstat", "snmp"]
            .iter()
            .find_map(|file| {
                let path = format!("/proc/thread-self/net/{file}");
                let text = std::fs::read_to_string(path).expect("the kernel's counters");
                let lines: Vec<_> = text.lines().collect();
                let mut tables = lines.chunks_exact(2);
                tables.find_map(|table| {
                    let at = table[0].split_whitespace().position(|word| word == name)?;
                    table[1].split_whitespace().nth(at)?.parse().ok()
                })
            })
            .unwrap_or_else(|| panic!("no counter {name}"))
    })
}
