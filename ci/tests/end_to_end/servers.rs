//! The real servers: nginx, iperf3 and an echo, each in a namespace.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::namespace::{Namespace, Task};
use crate::process::Process;

/// The port of the echo, TCP and UDP.
pub(crate) const ECHO: u16 = 7;
/// The port of iperf3, TCP and UDP.
pub(crate) const IPERF: u16 = 5201;

/// The port where nginx expects a PROXY protocol header and answers with what it says.
pub(crate) const PROXIED: u16 = 8091;

/// One real server with everything that runs on it.
#[derive(Debug)]
pub(crate) struct RealServer {
    /// Its name: what it answers at `/`.
    pub(crate) name: String,
    /// Its IPv4 and IPv6 address.
    pub(crate) addresses: [IpAddr; 2],
    nginx: Option<Process>,
    directory: PathBuf,
    // Before the namespace, so that they end before it is deleted.
    _iperf: Vec<Process>,
    _echo: Task,
    /// Where it runs.
    pub(crate) namespace: Namespace,
}

impl RealServer {
    /// Starts all of it. `bind` is where datagrams come to: its own addresses, or the VIPs in
    /// direct return, since an answer leaves with the address its socket is bound to.
    pub(crate) fn start(
        name: String,
        namespace: Namespace,
        addresses: [IpAddr; 2],
        bind: [IpAddr; 2],
        http_port: u16,
        files: &Path,
    ) -> Self {
        let directory = files.join(&name);
        fs::create_dir(&directory).expect("the server's directory");
        fs::write(directory.join("nginx.conf"), nginx_conf(&name, &directory, files, http_port))
            .expect("nginx.conf");
        let iperf = bind
            .iter()
            .map(|address| {
                let mut command = namespace.command("iperf3");
                command.args(["-s", "-p", &IPERF.to_string(), "-B", &address.to_string()]);
                let family = if address.is_ipv4() { "4" } else { "6" };
                Process::start(&mut command, &directory.join(format!("iperf3-{family}.log")))
            })
            .collect();
        let echo = namespace.spawn(move || echo(bind));
        let mut server = RealServer {
            name,
            addresses,
            nginx: None,
            directory,
            _iperf: iperf,
            _echo: echo,
            namespace,
        };
        server.start_http();
        server
    }

    /// Starts nginx.
    pub(crate) fn start_http(&mut self) {
        let mut command = self.namespace.command("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(self.directory.join("nginx.conf"));
        self.nginx = Some(Process::start(&mut command, &self.directory.join("nginx.log")));
    }

    /// Kills nginx, as a crash would.
    pub(crate) fn kill_http(&mut self) {
        self.nginx = None;
    }
}

fn nginx_conf(name: &str, directory: &Path, files: &Path, port: u16) -> String {
    let (directory, files) = (directory.display(), files.display());
    format!(
        "daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
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
        root {files};
        location = / {{ return 200 \"{name}\"; }}
        location = /healthz {{ return 200 \"ok\"; }}
    }}
    server {{
        listen 0.0.0.0:{PROXIED} proxy_protocol;
        listen [::]:{PROXIED} proxy_protocol;
        location / {{
            return 200 \"$proxy_protocol_addr $proxy_protocol_port of $proxy_protocol_server_addr $proxy_protocol_server_port\";
        }}
        location = /healthz {{ return 200 \"ok\"; }}
    }}
}}
"
    )
}

/// Sends back every byte of every connection and every datagram.
async fn echo(bind: [IpAddr; 2]) {
    // One listener takes both families.
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, ECHO));
    let listener = TcpListener::bind(at).await.unwrap_or_else(|e| panic!("listen {at}: {e}"));
    for address in bind {
        let at = SocketAddr::new(address, ECHO);
        let socket = UdpSocket::bind(at).await.unwrap_or_else(|e| panic!("bind {at}: {e}"));
        tokio::spawn(async move {
            let mut buffer = [0; 65_536];
            loop {
                if let Ok((n, from)) = socket.recv_from(&mut buffer).await {
                    let _ = socket.send_to(&buffer[..n], from).await;
                }
            }
        });
    }
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}
