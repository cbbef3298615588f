//! Much data, many connections: a large download, iperf3, a thousand connections, datagrams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::namespace::run;
use crate::rig::{Family, Mode, Plan, Rig, client, vip};
use crate::servers::{ECHO, IPERF};

fn sha256(file: &Path) -> String {
    let output = run(std::process::Command::new("sha256sum").arg(file));
    output.split(' ').next().expect("a hash").to_owned()
}

/// 100 MB of random bytes arrive as they were sent.
fn download(mode: Mode) {
    let rig = Rig::start(Plan::new(mode, 2));
    let original = rig.directory().join("large");
    let mut random = File::open("/dev/urandom").expect("random bytes").take(100_000_000);
    let mut file = File::create(&original).expect("a file");
    assert_eq!(io::copy(&mut random, &mut file).expect("100 MB of room"), 100_000_000);
    let expected = sha256(&original);
    for family in Family::BOTH {
        let url = format!("http://{}/large", SocketAddr::new(vip(family), 80));
        let copy = rig.directory().join("copy");
        let to = copy.to_str().expect("UTF-8");
        rig.on_client("curl", &["-sSf", "--globoff", "--max-time", "60", "-o", to, &url]);
        assert_eq!(sha256(&copy), expected, "{family:?}");
    }
    rig.finish();
}

#[test]
fn download_nat() {
    download(Mode::Nat);
}

#[test]
fn download_fullnat() {
    download(Mode::FullNat);
}

#[test]
fn download_dr() {
    download(Mode::Dr);
}

/// iperf3 both ways, TCP and UDP, both families.
fn iperf(mode: Mode) {
    let rig = Rig::start(Plan::new(mode, 2));
    let port = IPERF.to_string();
    for family in Family::BOTH {
        let to = vip(family).to_string();
        for direction in [&[][..], &["--reverse"]] {
            let json = |more: &[&str]| -> Value {
                let common = ["--json", "--time", "1", "--port", &port, "--client", &to];
                let text = rig.on_client("iperf3", &[&common, direction, more].concat());
                serde_json::from_str(&text).expect("iperf3 prints JSON")
            };
            let tcp = json(&[]);
            let bytes = tcp["end"]["sum_received"]["bytes"].as_u64();
            assert!(bytes > Some(100_000), "TCP {family:?} {direction:?}: {:#}", tcp["end"]);

            let udp = json(&["--udp", "--bandwidth", "10M", "--length", "1200"]);
            let sum = &udp["end"]["sum"];
            let (sent, lost) = (sum["packets"].as_u64(), sum["lost_packets"].as_u64());
            assert!(sent > Some(100), "UDP {family:?} {direction:?}: {:#}", udp["end"]);
            // A kernel may lose some to a busy core; a wrong rewrite would lose them all.
            assert!(lost.zip(sent).is_some_and(|(lost, sent)| lost * 10 < sent), "{sum:#}");
        }
    }
    let udp = rig.service_view("iperf-udp");
    assert_eq!(udp.sessions_created, 4, "one session for each UDP run");
    rig.finish();
}

#[test]
fn iperf_nat() {
    iperf(Mode::Nat);
}

#[test]
fn iperf_fullnat() {
    iperf(Mode::FullNat);
}

#[test]
fn iperf_dr() {
    iperf(Mode::Dr);
}

/// A thousand connections open at once, both families; each carries data before and after all the
/// others are open, and none is reset.
fn thousand_connections(mode: Mode, workers: usize) {
    let rig = Rig::start(Plan::new(mode, workers));
    let mut streams = rig.connect(Family::V4, ECHO, 500);
    streams.extend(rig.connect(Family::V6, ECHO, 500));
    for round in 0..2 {
        for (n, stream) in streams.iter_mut().enumerate() {
            let message = format!("round {round}, connection {n:4}");
            stream.write_all(message.as_bytes()).unwrap_or_else(|e| panic!("{message}: {e}"));
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            let message = format!("round {round}, connection {n:4}");
            let mut answer = vec![0; message.len()];
            stream.read_exact(&mut answer).unwrap_or_else(|e| panic!("{message}: {e}"));
            assert_eq!(String::from_utf8_lossy(&answer), message);
        }
        let active = rig.service_view("echo").sessions_active;
        assert_eq!(active, 1_000, "sessions in round {round}");
    }
    drop(streams);
    rig.finish();
}

#[test]
fn thousand_connections_nat() {
    thousand_connections(Mode::Nat, 2);
}

#[test]
fn thousand_connections_fullnat() {
    thousand_connections(Mode::FullNat, 2);
}

#[test]
fn thousand_connections_dr() {
    thousand_connections(Mode::Dr, 1);
}

/// Datagrams from many source ports are echoed, and the answer comes from the VIP.
fn datagrams(mode: Mode) {
    let rig = Rig::start(Plan::new(mode, 2));
    for family in Family::BOTH {
        let to = SocketAddr::new(vip(family), ECHO);
        let from = SocketAddr::new(client(family), 0);
        let answered = rig.client.enter(|| {
            let sockets: Vec<_> = (0..64)
                .map(|n: usize| {
                    let socket = UdpSocket::bind(from).expect("a socket");
                    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
                    let message = vec![n as u8; 1 + n * 20];
                    socket.send_to(&message, to).expect("sent");
                    (socket, message)
                })
                .collect();
            let answer = |(socket, message): &(UdpSocket, Vec<u8>)| {
                let mut buffer = [0; 2048];
                let (length, sender) = socket.recv_from(&mut buffer).expect("an answer");
                assert_eq!((sender, &buffer[..length]), (to, &message[..]));
            };
            sockets.iter().map(answer).count()
        });
        assert_eq!(answered, 64);
    }
    assert_eq!(rig.service_view("echo-udp").sessions_created, 128);
    rig.finish();
}

#[test]
fn datagrams_nat() {
    datagrams(Mode::Nat);
}

#[test]
fn datagrams_fullnat() {
    datagrams(Mode::FullNat);
}

#[test]
fn datagrams_dr() {
    datagrams(Mode::Dr);
}
