//! The client of the control socket: HTTP/1.1 over a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::manage::api::types::{ErrorBody, SessionParameters};

/// How long an answer may take; a list of sessions may wait 2 s for a silent worker.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of one control socket.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Client { socket: socket.to_path_buf() }
    }

    /// The body of `GET /v1/{path}`.
    pub(super) fn get(&self, path: &str) -> Result<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            timeout(PATIENCE, self.exchange(path)).await.unwrap_or_else(|_| {
                let seconds = PATIENCE.as_secs();
                bail!("no answer from {} within {seconds} s", self.socket.display())
            })
        })
    }

    async fn exchange(&self, path: &str) -> Result<Bytes> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let broken = || format!("{socket} does not answer as shunt does");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.with_context(broken)?;
        // It ends with the runtime.
        tokio::spawn(connection);
        let request = Request::get(format!("/v1/{path}"))
            .header(header::HOST, "shunt")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await.with_context(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.with_context(broken)?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => bail!("{error}"),
            Err(_) => bail!("{socket} answers {status}"),
        }
    }

    fn unreachable(&self, error: &io::Error) -> anyhow::Error {
        let (what, hint) = match error.kind() {
            io::ErrorKind::NotFound => ("no such file", "is \"shunt run\" running?"),
            io::ErrorKind::ConnectionRefused if self.socket.is_file() => {
                ("it is not a socket", "--socket takes what api.socket says")
            }
            io::ErrorKind::ConnectionRefused => ("connection refused", "is \"shunt run\" running?"),
            io::ErrorKind::PermissionDenied => ("permission denied", "are you root?"),
            _ => return anyhow!("cannot reach {}: {error}", self.socket.display()),
        };
        anyhow!("cannot reach {}: {what}; {hint}", self.socket.display())
    }
}

/// The answer in its type.
pub(super) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T> {
    serde_json::from_slice(answer)
        .context("the answer is not understood: the running shunt is of another version")
}

/// `path?service=…&…` with the parameters that are given.
pub(super) fn with_query(path: &str, parameters: &SessionParameters) -> Result<String> {
    query(path, parameters)
}

fn query(path: &str, parameters: &impl Serialize) -> Result<String> {
    let serde_json::Value::Object(fields) = serde_json::to_value(parameters)? else {
        bail!("parameters are not an object");
    };
    let mut out = path.to_string();
    for (i, (name, value)) in fields.iter().enumerate() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        out.push_str(&percent_encoded(&value));
    }
    Ok(out)
}

/// All but the unreserved characters of RFC 3986 section 2.3 as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let none = SessionParameters::default();
        assert_eq!(with_query("sessions", &none).unwrap(), "sessions");
        let some = SessionParameters {
            service: Some("a b&c=ü".into()),
            client: Some("10.0.0.0/8".into()),
            limit: Some(5),
            server: None,
        };
        assert_eq!(
            with_query("sessions", &some).unwrap(),
            "sessions?service=a%20b%26c%3D%C3%BC&client=10.0.0.0%2F8&limit=5"
        );
    }

    #[test]
    fn a_socket_that_nobody_serves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shunt.sock");
        let error = || Client::new(&path).get("status").unwrap_err().to_string();
        let p = path.display();
        assert_eq!(error(), format!("cannot reach {p}: no such file; is \"shunt run\" running?"));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(
            error(),
            format!("cannot reach {p}: connection refused; is \"shunt run\" running?")
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(
            error(),
            format!("cannot reach {p}: it is not a socket; --socket takes what api.socket says")
        );
    }
}
