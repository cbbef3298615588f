//! The management loop.
//!
//! Workers make no system calls, so nothing wakes this loop when they have something to say: it looks
//! at their queues every millisecond.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use log::{error, info};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::api;
use super::config::Config;
use super::exception::{self, ExceptionError};
use super::ha::PairConfig;
use super::health;
use super::port_view::PortView;
use super::quiet::Quiet;
use super::state::State;
use super::workers::WorkerHandle;
use crate::datapath::snapshot::Snapshot;

/// How often the workers' queues are looked at.
const TICK: Duration = Duration::from_millis(1);
/// How long the workers have at the end to tell the peer that this node leaves.
const LEAVE: Duration = Duration::from_millis(50);

/// Why management ended.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// The control socket cannot be served.
    #[error(transparent)]
    Socket(#[from] api::SocketError),
    /// An exception tap cannot be set up.
    #[error(transparent)]
    Exception(#[from] ExceptionError),
    /// A worker ended while the node was meant to run: its own last words are in the log above.
    #[error("worker {0} has ended unexpectedly")]
    WorkerGone(usize),
}

/// All that the management thread needs.
#[derive(Debug)]
pub struct Manager {
    /// The configuration.
    pub config: Config,
    /// Where `config.api.socket` says. It is removed when the manager has run.
    pub socket: api::ControlSocket,
    /// What the workers use at the start; best after [`super::await_first_check`].
    pub snapshot: Arc<Snapshot>,
    /// The workers, by number. The first must have a transmit queue on every port.
    pub workers: Vec<WorkerHandle>,
    /// The ports, by id.
    pub ports: Vec<PortView>,
    /// The virtual routers, and what names this start of the node to its peer; heeded when the snapshot
    /// has a pair.
    pub pair: Option<(PairConfig, u64)>,
}

impl Manager {
    /// Manages the node until `shutdown` completes, and reads the keys of the pair anew whenever
    /// something comes from `reread`. Needs a tokio runtime with I/O and time; one on this thread is
    /// enough.
    ///
    /// Sets up the exception taps (which DPDK must have created), serves the control socket, checks
    /// the servers and resolves their next hops.
    ///
    /// # Errors
    /// See [`ManageError`].
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()>,
        reread: mpsc::Receiver<()>,
    ) -> Result<(), ManageError> {
        let Manager { config, socket, snapshot, workers, ports, pair } = self;
        let _quiet = Quiet::interfaces(&config);
        exception::set_up_all(&config, &snapshot).await?;
        info!("control socket {}", socket.path().display());
        let (mut state, targets) = State::new(config, snapshot, workers, ports);
        if let Some((pair, boot)) = pair {
            state.join_pair(&pair, boot);
        }
        manage((state, targets), socket.listener()?, shutdown, reread).await
    }
}

async fn manage(
    (mut state, targets): (State, Vec<health::Target>),
    listener: tokio::net::UnixListener,
    shutdown: impl Future<Output = ()>,
    mut reread: mpsc::Receiver<()>,
) -> Result<(), ManageError> {
    let (calls_to, mut calls) = mpsc::channel(64);
    let (results_to, mut results) = mpsc::channel(1_024);
    // Aborted when it is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(e) = axum::serve(listener, api::router(calls_to)).await {
            error!("the control socket is no longer served: {e}");
        }
    });
    let total = targets.len();
    for (index, target) in targets.into_iter().enumerate() {
        tasks.spawn(health::run(target, index, total, results_to.clone()));
    }

    let start = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    // Whether the peer is being given the addresses: packets are still forwarded.
    let mut leaves = false;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown, if !leaves => {
                if !state.hand_over(start.elapsed().as_millis() as u64) {
                    return Ok(());
                }
                leaves = true;
            }
            _ = ticks.tick() => {
                state.tick(start.elapsed().as_millis() as u64);
                if state.is_handed_over() {
                    state.leave();
                    tokio::time::sleep(LEAVE).await;
                    return Ok(());
                }
                if let Some(worker) = state.gone_worker() {
                    return Err(ManageError::WorkerGone(worker));
                }
            }
            Some(call) = calls.recv() => call(&mut state),
            Some(()) = reread.recv() => state.read_keys_anew(),
            Some(result) = results.recv() => state.checked(&result),
        }
    }
}
