//! The control socket: HTTP/1.1 over a Unix socket, read-only, JSON.
//!
//! `GET /v1/` and `status`, `services`, `servers`, `sessions?service=&server=&client=&limit=`,
//! `snat`, `ports`, `workers`, `neighbors`, `ha`, `drops` or `filters`. A handler sends a `Call` to the
//! management loop, which alone has the state, and waits for its answer.

mod filter;
mod local_ports;
mod names;
mod pair;
pub mod pair_types;
mod socket;
pub mod types;
mod views;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

pub use socket::{ControlSocket, SocketError};

use super::state::State;
use types::{API_VERSION, ErrorBody, SessionParameters, Sessions, Versioned};

/// Something to do with the state, done by the management loop.
pub(super) type Call = Box<dyn FnOnce(&mut State) + Send>;

/// An error of a request: its status and a sentence.
#[derive(Debug)]
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

/// The way to the management loop.
#[derive(Clone)]
struct Loop(mpsc::Sender<Call>);

impl Loop {
    /// Has `question` answered by the management loop.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let stopping = || Failure(StatusCode::SERVICE_UNAVAILABLE, "shunt is stopping".to_string());
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |state| {
            // The client may have hung up meanwhile.
            let _ = reply.send(question(state));
        });
        self.0.send(call).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

type Answer<T> = Result<Json<Versioned<T>>, Failure>;

fn versioned<T: Serialize>(body: T) -> Json<Versioned<T>> {
    Json(Versioned { api_version: API_VERSION, body })
}

/// The routes; calls go to `calls`.
pub(super) fn router(calls: mpsc::Sender<Call>) -> Router {
    Router::new()
        .route("/v1/status", plain(State::status))
        .route("/v1/services", plain(State::services))
        .route("/v1/servers", plain(State::servers))
        .route("/v1/sessions", get(sessions))
        .route("/v1/snat", plain(State::snat))
        .route("/v1/ports", plain(State::ports))
        .route("/v1/workers", plain(State::workers))
        .route("/v1/neighbors", plain(State::neighbors))
        .route("/v1/drops", plain(State::drops))
        .route("/v1/ha", plain(State::ha))
        .route("/v1/filters", plain(State::filters))
        .fallback(unknown)
        .method_not_allowed_fallback(read_only)
        .with_state(Loop(calls))
}

/// A route that is answered from the state alone.
fn plain<T: Serialize + Send + 'static>(
    view: fn(&State) -> T,
) -> axum::routing::MethodRouter<Loop> {
    get(move |Shared(management): Shared<Loop>| async move {
        let answer: Answer<T> = management.ask(move |state| view(state)).await.map(versioned);
        answer
    })
}

async fn sessions(
    Shared(management): Shared<Loop>,
    parameters: Result<Query<SessionParameters>, QueryRejection>,
) -> Answer<Sessions> {
    let Query(parameters) =
        parameters.map_err(|e| Failure(StatusCode::BAD_REQUEST, e.body_text()))?;
    let list = management
        .ask(move |state| {
            let (filter, limit) = filter::parse(&parameters, &state.snapshot)
                .map_err(|error| Failure(StatusCode::BAD_REQUEST, error))?;
            state.list_sessions(filter, limit).ok_or_else(|| {
                let busy = "too many session lists are being made; try again";
                Failure(StatusCode::TOO_MANY_REQUESTS, busy.to_string())
            })
        })
        .await??;
    let list = list
        .await
        .map_err(|_| Failure(StatusCode::SERVICE_UNAVAILABLE, "shunt is stopping".to_string()))?;
    management.ask(move |state| state.sessions(list)).await.map(versioned)
}

async fn unknown(uri: Uri) -> Failure {
    Failure(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
}

async fn read_only(uri: Uri) -> Failure {
    Failure(StatusCode::METHOD_NOT_ALLOWED, format!("{} can only be read (GET)", uri.path()))
}
