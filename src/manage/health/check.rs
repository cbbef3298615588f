//! One check of one server: TCP connect, or an HTTP/1.1 GET whose status is expected.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Target;
use crate::manage::config::HealthCheck;
use crate::rewrite::proxy_protocol;

/// Asks the server once. The time it took, or why it is not fit in a few words. Takes no longer
/// than the check's timeout.
pub async fn check(target: &Target) -> Result<Duration, String> {
    let limit = Duration::from_millis(target.health.timeout_ms);
    let start = Instant::now();
    match timeout(limit, ask(target)).await {
        Ok(Ok(())) => Ok(start.elapsed()),
        Ok(Err(cause)) => Err(cause),
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn ask(target: &Target) -> Result<(), String> {
    let mut stream = connect(target.address, target.device.as_deref()).await?;
    if let Some(version) = target.health.proxy_protocol {
        let header = proxy_protocol::of_ourselves(version);
        stream.write_all(header).await.map_err(|e| cause(&e))?;
    }
    match &target.health.check {
        HealthCheck::Tcp => Ok(()),
        HealthCheck::Http { path, host, expect } => {
            let host = host.clone().unwrap_or_else(|| host_header(target.address));
            let status = get(stream, path, &host).await?;
            if expect.iter().any(|&(low, high)| (low..=high).contains(&status)) {
                Ok(())
            } else {
                Err(format!("HTTP status {status}"))
            }
        }
    }
}

async fn connect(address: SocketAddr, device: Option<&str>) -> Result<TcpStream, String> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
        .map_err(|e| format!("no socket: {e}"))?;
    if let Some(device) = device {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(|e| format!("cannot bind to {device}: {}", cause(&e)))?;
    }
    socket.connect(address).await.map_err(|e| cause(&e))
}

/// GETs `path` and returns the status. The connection is closed when the head of the answer has come;
/// the body is not waited for.
async fn get(stream: TcpStream, path: &str, host: &str) -> Result<u16, String> {
    let not_http = |e: hyper::Error| format!("not an HTTP answer: {e}");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("shunt/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("cannot ask for {path}: {e}"))?;

    // Both run in this task: when the check is over or times out, the connection goes with it.
    let exchange = sender.send_request(request);
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let response = tokio::select! {
        biased;
        response = &mut exchange => response,
        // The connection may end just before the exchange has seen the answer.
        _ = &mut connection => exchange.await,
    };
    Ok(response.map_err(not_http)?.status().as_u16())
}

/// The Host header of an address: without the port when it is HTTP's (RFC 9110 section 7.2).
fn host_header(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(a) if a.port() == 80 => a.ip().to_string(),
        SocketAddr::V6(a) if a.port() == 80 => format!("[{}]", a.ip()),
        other => other.to_string(),
    }
}

/// An I/O error in the words of the field, without "(os error 111)".
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::config::Health;
    use crate::session::ServerId;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    fn target(address: SocketAddr, check: HealthCheck) -> Target {
        Target {
            server: ServerId(0),
            address,
            device: None,
            health: Health {
                check,
                interval_ms: 1_000,
                timeout_ms: 2_000,
                rise: 1,
                fall: 1,
                proxy_protocol: None,
                port: None,
            },
        }
    }

    fn http(path: &str) -> HealthCheck {
        HealthCheck::Http { path: path.into(), host: None, expect: vec![(200, 299), (404, 404)] }
    }

    /// Serves one connection: waits for the end of the request's head, then says `answer`. Returns
    /// the request and whether the client closed.
    async fn serve_once(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
            // The end of the stream (or a reset): the checker has closed.
            let _ = stream.read(&mut [0; 16]).await;
            String::from_utf8(head).unwrap()
        });
        (address, task)
    }

    #[tokio::test]
    async fn tcp_connects_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(check(&target(address, HealthCheck::Tcp)).await.is_ok());
        drop(listener);
        assert_eq!(
            check(&target(address, HealthCheck::Tcp)).await,
            Err("connection refused".to_string())
        );
    }

    #[tokio::test]
    async fn http_statuses_in_and_out_of_the_expected_ranges() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], Ok(())),
            (b"HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Ok(())),
            // A body without a length ends with the connection, which this server keeps open.
            (b"HTTP/1.0 503 Busy\r\n\r\n", Err("HTTP status 503".to_string())),
            (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", Err("HTTP status 302".into())),
        ] {
            let (address, server) = serve_once(answer).await;
            assert_eq!(check(&target(address, http("/healthz"))).await.map(|_| ()), expected);
            let head = server.await.unwrap();
            assert!(head.starts_with("GET /healthz HTTP/1.1\r\n"), "{head}");
            assert!(head.to_lowercase().contains(&format!("\r\nhost: {address}\r\n")), "{head}");
            assert!(head.to_lowercase().contains("\r\nconnection: close\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn the_host_header_may_be_given() {
        let (address, server) = serve_once(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let check_of = HealthCheck::Http {
            path: "/".into(),
            host: Some("www.example.org".into()),
            expect: vec![(200, 200)],
        };
        assert!(check(&target(address, check_of)).await.is_ok());
        let head = server.await.unwrap().to_lowercase();
        assert!(head.contains("\r\nhost: www.example.org\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_silent_or_babbling_server_is_not_fit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut t = target(listener.local_addr().unwrap(), http("/"));
        t.health.timeout_ms = 50;
        assert_eq!(check(&t).await, Err("no answer within 50 ms".to_string()));

        let (address, _server) = serve_once(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        let cause = check(&target(address, http("/"))).await.unwrap_err();
        assert!(cause.starts_with("not an HTTP answer: "), "{cause}");
    }

    #[tokio::test]
    async fn an_interface_that_does_not_exist_is_named() {
        let mut t = target("127.0.0.1:9".parse().unwrap(), HealthCheck::Tcp);
        t.device = Some("sl-missing".into());
        let cause = check(&t).await.unwrap_err();
        assert!(cause.starts_with("cannot bind to sl-missing: "), "{cause}");
    }

    #[test]
    fn host_headers() {
        assert_eq!(host_header("10.0.0.1:80".parse().unwrap()), "10.0.0.1");
        assert_eq!(host_header("10.0.0.1:8080".parse().unwrap()), "10.0.0.1:8080");
        assert_eq!(host_header("[2001:db8::1]:80".parse().unwrap()), "[2001:db8::1]");
        assert_eq!(host_header("[2001:db8::1]:81".parse().unwrap()), "[2001:db8::1]:81");
    }
}
