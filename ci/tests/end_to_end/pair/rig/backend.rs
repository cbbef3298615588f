//! The real servers: nginx for downloads, and a server of lines whose every answer can be checked.
//!
//! A line is 16 bytes; its answer is the line itself and 48 bytes of a pattern that goes on through
//! the whole connection. A byte too many, too few, twice or out of place is seen at once.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::namespace::{Namespace, Task};
use crate::process::Process;

/// The port of the lines.
pub(crate) const LINES: u16 = 7;
/// The same, without a health check.
pub(crate) const LINES_QUICK: u16 = 8;
/// Length of a line.
pub(crate) const LINE: usize = 16;
/// Length of its answer.
pub(crate) const ANSWER: usize = 64;

/// Line `n` of a connection. After the last one the server closes.
pub(crate) fn line(connection: usize, n: u64, last: bool) -> [u8; LINE] {
    let text = format!("{}{connection:06} {n:07}\n", if last { 'B' } else { 'L' });
    text.as_bytes().try_into().expect("16 bytes")
}

/// The answer to it, `position` bytes of pattern into the connection.
pub(crate) fn answer(line: &[u8; LINE], position: u64) -> [u8; ANSWER] {
    let mut bytes = [0; ANSWER];
    bytes[..LINE].copy_from_slice(line);
    for (at, byte) in bytes[LINE..].iter_mut().enumerate() {
        // A prime length, so that no packet or segment is a period of it.
        *byte = ((position + at as u64) % 251) as u8;
    }
    bytes
}

/// How much of the pattern an answer takes.
pub(crate) const PATTERN: u64 = (ANSWER - LINE) as u64;

/// One real server.
#[derive(Debug)]
pub(crate) struct Backend {
    // Before the namespace, so that they end before it is deleted.
    _nginx: Process,
    _lines: Task,
    pub(crate) namespace: Namespace,
}

impl Backend {
    /// Starts nginx, which serves the files of `files`, and the lines. Returns when both listen.
    pub(crate) fn start(name: &str, namespace: Namespace, web_port: u16, files: &Path) -> Self {
        let directory = files.join(name);
        fs::create_dir(&directory).expect("the server's directory");
        let conf = directory.join("nginx.conf");
        fs::write(&conf, nginx_conf(name, &directory, files, web_port)).expect("nginx.conf");
        let mut command = namespace.command("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&conf);
        let nginx = Process::start(&mut command, &directory.join("nginx.log"));
        // Answers to thousands of connections that the server itself closes.
        namespace.sysctl("net.ipv4.tcp_max_tw_buckets", "65536");
        let (ready, listens) = mpsc::channel();
        let lines = namespace.spawn(move || async move {
            tokio::join!(lines(LINES, ready.clone()), lines(LINES_QUICK, ready));
        });
        for _ in 0..2 {
            listens.recv().expect("the lines are served");
        }
        Backend { _nginx: nginx, _lines: lines, namespace }
    }
}

fn nginx_conf(name: &str, directory: &Path, files: &Path, port: u16) -> String {
    let (directory, files): (_, PathBuf) = (directory.display(), files.to_owned());
    format!(
        "daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 0.0.0.0:{port} backlog=1024;
        listen [::]:{port} backlog=1024;
        root {};
        location = / {{ return 200 \"{name}\"; }}
        location = /healthz {{ return 200 \"ok\"; }}
    }}
}}
",
        files.display()
    )
}

/// Serves the lines on a port of the namespace.
async fn lines(port: u16, ready: mpsc::Sender<()>) {
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listen = || -> std::io::Result<_> {
        let socket = TcpSocket::new_v6()?;
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(4096)
    };
    let listener = listen().unwrap_or_else(|e| panic!("listen {at}: {e}"));
    let _ = ready.send(());
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // An error is the client's to notice.
                let _ = serve(stream).await;
            });
        }
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut position = 0;
    let mut line = [0; LINE];
    loop {
        stream.read_exact(&mut line).await?;
        stream.write_all(&answer(&line, position)).await?;
        position += PATTERN;
        if line[0] == b'B' {
            return stream.shutdown().await;
        }
    }
}
