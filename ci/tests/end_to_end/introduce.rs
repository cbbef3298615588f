//! Servers that know their clients in fullnat: nginx reads PROXY protocol headers, Python a saved
//! SYN with the TOA option, and uploads arrive whole behind their header though packets get lost.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::namespace::{Namespace, run};
use crate::process::Process;
use crate::rig::{Family, Mode, Plan, Rig, client, vip};
use crate::servers::PROXIED;

/// Where the servers below listen.
const SINK: u16 = 8092;
const SAVER: u16 = 8093;
/// Bytes of an upload.
const UPLOAD: usize = 300_000;

/// A service on that port of both VIPs, in front of that port of the first server.
fn service(name: &str, port: u16, server_port: u16, keys: &str) -> String {
    let listen = Family::BOTH.map(|family| format!("\"{}\"", SocketAddr::new(vip(family), port)));
    let mut text = format!(
        "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = [{}]\nmode = \"fullnat\"\n{keys}\n",
        listen.join(", ")
    );
    for server in ["10.0.0.11", "[2001:db8:2::11]"] {
        text += &format!("[[service.server]]\naddress = \"{server}:{server_port}\"\n");
    }
    text
}

fn plan(workers: usize) -> Plan {
    // The check of a server that expects a header has one too, or it would not come up.
    let health = "[service.health]\ntype = \"http\"\npath = \"/healthz\"\nrise = 1\n\
                  timeout_ms = 1000\n";
    let (v1, v2) = ("proxy_protocol = \"v1\"\n", "proxy_protocol = \"v2\"\n");
    let mut plan = Plan::new(Mode::FullNat, workers).weights(&[1]);
    plan.sections = [
        service("v1", 81, PROXIED, &format!("{v1}{health}")),
        service("v2", 82, PROXIED, &format!("{v2}{health}")),
        service("sink-v1", 83, SINK, v1),
        service("sink-v2", 84, SINK, v2),
        service("saver", 85, SAVER, "toa = true\n"),
    ]
    .concat();
    plan
}

/// nginx says who it thinks the client is.
fn seen_by_nginx(rig: &Rig, family: Family, port: u16) {
    let resolve = format!("vip:{port}:{}", vip(family));
    let url = format!("http://vip:{port}/?[1-20]");
    let text = rig.on_client(
        "curl",
        &[
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--resolve",
            &resolve,
            "--header",
            "Connection: close",
            "--write-out",
            " from %{local_port}\\n",
            &url,
        ],
    );
    assert_eq!(text.lines().count(), 20);
    for line in text.lines() {
        let (seen, local_port) = line.split_once(" from ").expect("two parts");
        let expected = format!("{} {local_port} of {} {port}", client(family), vip(family));
        assert_eq!(seen, expected);
    }
}

/// Takes all that comes and says what it was: the header in hexadecimal, the length of the rest
/// and whether it is the pattern.
async fn sink() {
    let listener = TcpListener::bind(("::", SINK)).await.expect("the sink listens");
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut all = Vec::new();
            if stream.read_to_end(&mut all).await.is_err() {
                return;
            }
            let binary = all.starts_with(b"\r\n\r\n\0\r\nQUIT\n");
            let header = match binary {
                true => 16 + usize::from(*all.get(15).unwrap_or(&0)),
                false => all.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1),
            };
            let (header, rest) = all.split_at(header.min(all.len()));
            let whole = rest.iter().enumerate().all(|(i, b)| *b == pattern(i));
            let header: String = header.iter().map(|b| format!("{b:02x}")).collect();
            let answer = format!("{header} {} {whole}", rest.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

fn pattern(i: usize) -> u8 {
    (i ^ (i >> 8)) as u8
}

/// The header of a connection in hexadecimal.
fn header(port: u16, from: SocketAddr, to: SocketAddr) -> String {
    let bytes = if port == 83 {
        let family = if from.is_ipv4() { 4 } else { 6 };
        let (a, b) = (from.ip(), to.ip());
        format!("PROXY TCP{family} {a} {b} {} {}\r\n", from.port(), to.port()).into_bytes()
    } else {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
        bytes.extend(if from.is_ipv4() { [0x11, 0, 12] } else { [0x21, 0, 36] });
        for address in [from.ip(), to.ip()] {
            match address {
                IpAddr::V4(a) => bytes.extend(a.octets()),
                IpAddr::V6(a) => bytes.extend(a.octets()),
            }
        }
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        bytes
    };
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Uploads at the same time, some long and some short; the server must get all of it.
fn upload(rig: &Rig, lengths: &[usize]) {
    let one = |family: Family, port: u16, length: usize| {
        let to = SocketAddr::new(vip(family), port);
        let (from, answer) = rig.client.enter(|| {
            let mut stream = TcpStream::connect(to).expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            let data: Vec<u8> = (0..length).map(pattern).collect();
            stream.write_all(&data).expect("the upload");
            stream.shutdown(Shutdown::Write).expect("its end");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("the answer");
            (stream.local_addr().expect("our address"), answer)
        });
        assert_eq!(answer, format!("{} {length} true", header(port, from, to)), "{to}");
    };
    thread::scope(|scope| {
        for family in Family::BOTH {
            for port in [83, 84] {
                for &length in lengths {
                    scope.spawn(move || one(family, port, length));
                }
            }
        }
    });
}

/// Drops every so many packets to and from the sink.
fn lose(namespace: &Namespace) {
    for tables in ["iptables", "ip6tables"] {
        for (chain, side, every) in [("INPUT", "--dport", "7"), ("OUTPUT", "--sport", "9")] {
            run(namespace.command(tables).args(["-A", chain, "-p", "tcp", side]).args([
                &SINK.to_string(),
                "-m",
                "statistic",
                "--mode",
                "nth",
                "--every",
                every,
                "--packet",
                "3",
                "-j",
                "DROP",
            ]));
        }
    }
}

/// Answers each connection with the TCP header of its SYN, which the kernel has saved.
const SAVE_SYN: &str = "
import socket, sys
s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
s.setsockopt(socket.IPPROTO_TCP, 27, 1)
while True:
    c, _ = s.accept()
    packet = c.getsockopt(socket.IPPROTO_TCP, 28, 512)
    c.sendall(packet[20 if packet[0] >> 4 == 4 else 40:].hex().encode())
    c.close()
";

/// The SYN had the option with the client's address.
fn saved_syn(rig: &Rig, family: Family) {
    for mut stream in rig.connect(family, 85, 5) {
        let mut syn = String::new();
        stream.read_to_string(&mut syn).expect("the SYN");
        let port = stream.local_addr().expect("our address").port();
        let expected = match client(family) {
            IpAddr::V4(a) => format!("fe08{port:04x}{:08x}", u32::from(a)),
            IpAddr::V6(a) => format!("fd14{port:04x}{:032x}", u128::from(a)),
        };
        assert_eq!(&syn[40..40 + expected.len()], expected, "{syn}");
    }
}

fn introduced(workers: usize) {
    let mut rig = Rig::start(plan(workers));
    let server = &rig.servers[0].namespace;
    let _sink = server.spawn(sink);
    let mut saver = server.command("python3");
    saver.args(["-c", SAVE_SYN, &SAVER.to_string()]);
    let _saver = Process::start(&mut saver, &rig.directory().join("saver.log"));
    rig.wait_for("the servers listen", |rig| {
        let listening = run(rig.servers[0].namespace.command("ss").args(["-Htln"]));
        [SINK, SAVER].iter().all(|port| listening.contains(&format!(":{port} ")))
    });
    for family in Family::BOTH {
        seen_by_nginx(&rig, family, 81);
        seen_by_nginx(&rig, family, 82);
        saved_syn(&rig, family);
    }
    upload(&rig, &[UPLOAD, 0, 1]);
    lose(&rig.servers[0].namespace);
    upload(&rig, &[UPLOAD, 0, 1, 1400, 1448, 2000, 5000]);
    rig.finish();
}

#[test]
fn introduced_1_worker() {
    introduced(1);
}

#[test]
fn introduced_2_workers() {
    introduced(2);
}
