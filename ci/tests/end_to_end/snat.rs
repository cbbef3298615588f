//! Egress SNAT between real kernels: servers reach the world by the pool, the world reaches them where
//! it may, and they reach each other by the pool.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::requests;
use crate::namespace::{Namespace, Task, run};
use crate::process::Process;
use crate::rig::{Family, Mode, Plan, Rig, client};
use crate::view;

/// Server 2 is behind a symmetric NAT, all others behind a full cone.
const RULES: &str = r#"
[[snat]]
name = "symmetric"
sources = ["10.0.0.12/32", "2001:db8:2::12/128"]
pool = ["192.0.2.6", "2001:db8:1::6"]
mapping = "address_and_port_dependent"
filtering = "address_and_port_dependent"

[[snat]]
name = "cone"
sources = ["10.0.0.0/24", "2001:db8:2::/64"]
pool = ["192.0.2.5", "2001:db8:1::5"]
filtering = "endpoint_independent"

[[snat.forward]]
protocol = "tcp"
external = "192.0.2.5:8443"
internal = "10.0.0.11:8080"

[[snat.forward]]
protocol = "tcp"
external = "[2001:db8:1::5]:8443"
internal = "[2001:db8:2::11]:8080"
"#;

/// Where the client's host tells whoever asks what address it sees: HTTP, and UDP on several.
const WEB: u16 = 8000;
const STUN: u16 = 3478;
const OTHER: u16 = 3479;

fn second_address(family: Family) -> IpAddr {
    family.pick("192.0.2.101", "2001:db8:1::101")
}

fn pool(family: Family, server: usize) -> IpAddr {
    match server {
        1 => family.pick("192.0.2.5", "2001:db8:1::5"),
        _ => family.pick("192.0.2.6", "2001:db8:1::6"),
    }
}

/// The remote endpoints that say whom they see, the first with another port and another address.
fn observers(family: Family) -> [SocketAddr; 3] {
    let (first, second) = (client(family), second_address(family));
    [(first, STUN), (first, OTHER), (second, STUN)].map(SocketAddr::from)
}

/// Tells every TCP client and every sender of a datagram the address it is seen with.
fn observe(namespace: &Namespace) -> Task {
    namespace.spawn(|| async {
        for family in Family::BOTH {
            for at in observers(family) {
                let socket = tokio::net::UdpSocket::bind(at).await.expect("a socket");
                tokio::spawn(async move {
                    let mut buffer = [0; 100];
                    while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                        let _ = socket.send_to(from.to_string().as_bytes(), from).await;
                    }
                });
            }
        }
        let at = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, WEB));
        let listener = tokio::net::TcpListener::bind(at).await.expect("a listener");
        loop {
            let Ok((mut stream, from)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 2000]).await;
                let seen = from.ip().to_canonical().to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{seen}",
                    seen.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    })
}

fn curl(from: &Namespace, to: SocketAddr) -> String {
    let url = format!("http://{to}/");
    run(from.command("curl").args(["-sSf", "--globoff", "--max-time", "10", &url]))
}

/// A socket on a port inside.
fn socket(namespace: &Namespace, family: Family, port: u16) -> UdpSocket {
    namespace.enter(|| {
        let any = family.pick("0.0.0.0", "::");
        let socket = UdpSocket::bind((any, port)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        socket
    })
}

/// The address that `observer` sees the socket with.
fn seen_by(socket: &UdpSocket, observer: SocketAddr) -> SocketAddr {
    let mut buffer = [0; 100];
    for _ in 0..20 {
        socket.send_to(b"who am I?", observer).expect("a way out");
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && from == observer
        {
            let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
            return text.parse().expect("an address");
        }
    }
    panic!("no answer from {observer}");
}

/// Whether a datagram from a stranger outside reaches the socket.
fn lets_in(rig: &Rig, socket: &UdpSocket, outer: SocketAddr, stranger: SocketAddr) -> bool {
    rig.client.enter(|| {
        let sender = UdpSocket::bind(stranger).expect("a socket");
        sender.send_to(b"hello from outside", outer).expect("a way in");
    });
    let mut buffer = [0; 100];
    match socket.recv_from(&mut buffer) {
        Ok((length, from)) => {
            assert_eq!((&buffer[..length], from), (&b"hello from outside"[..], stranger));
            true
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn out_in_and_round() {
    let mut plan = Plan::new(Mode::Nat, 2);
    plan.sections = RULES.to_owned();
    let rig = Rig::start(plan);
    rig.client.ip("addr add 192.0.2.101/24 dev eth0");
    rig.client.ip("addr add 2001:db8:1::101/64 dev eth0 nodad");
    let observers_task = observe(&rig.client);
    let listening = SocketAddr::new(client(Family::V4), WEB);
    while rig.client.enter(|| std::net::TcpStream::connect(listening)).is_err() {
        thread::sleep(Duration::from_millis(20));
    }
    let iperf_log = rig.directory().join("iperf3-client.log");
    let _iperf = Process::start(rig.client.command("iperf3").args(["-s"]), &iperf_log);

    for family in Family::BOTH {
        // Out: each server is seen with its pool's address.
        for n in [1, 2] {
            let server = &rig.servers[n - 1].namespace;
            for _ in 0..8 {
                let seen = curl(server, SocketAddr::new(client(family), WEB));
                assert_eq!(seen, pool(family, n).to_string(), "server{n}, {family:?}");
            }
        }
        let ping = ["-c", "3", "-i", "0.05", "-W", "2", &client(family).to_string()];
        let text = run(rig.servers[1].namespace.command("ping").args(ping));
        assert!(text.contains("3 received") && !text.contains("DUP"), "{text}");
        // A forwarded port in, from outside and from another server, while the same nginx serves
        // the VIP.
        let forwarded = SocketAddr::new(pool(family, 1), 8443);
        assert_eq!(curl(&rig.client, forwarded), "server1");
        assert_eq!(curl(&rig.servers[1].namespace, forwarded), "server1");
        let answers = requests(&rig, family, 40);
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["server1", "server2"], "{family:?}");

        // Full cone: one outer endpoint for all, and everybody may send to it.
        let [first, second, third] = observers(family);
        let cone = socket(&rig.servers[0].namespace, family, 40_000);
        let outer = seen_by(&cone, first);
        assert_eq!(outer.ip(), pool(family, 1));
        assert_eq!((seen_by(&cone, second), seen_by(&cone, third)), (outer, outer));
        let stranger = SocketAddr::new(second_address(family), 9_999);
        assert!(lets_in(&rig, &cone, outer, stranger));

        // Symmetric: others see other endpoints (by chance the same, but not again and again), and
        // nobody else may send.
        let server = &rig.servers[1].namespace;
        let others = (40_000..40_003).filter(|port| {
            let symmetric = socket(server, family, *port);
            let outer = seen_by(&symmetric, first);
            assert_eq!(outer.ip(), pool(family, 2));
            assert_eq!(seen_by(&symmetric, first), outer);
            let before = rig.dropped("snat_no_mapping");
            assert!(!lets_in(&rig, &symmetric, outer, stranger));
            assert!(rig.dropped("snat_no_mapping") > before);
            seen_by(&symmetric, second) != outer && seen_by(&symmetric, third) != outer
        });
        assert!(others.count() >= 1);

        // Round: two servers that know each other's outer endpoint.
        let other = socket(server, family, 41_000);
        seen_by(&other, first);
        other.send_to(b"round", outer).expect("a way out");
        let mut buffer = [0; 100];
        let (length, from) = cone.recv_from(&mut buffer).expect("a datagram from server2");
        assert_eq!((&buffer[..length], from.ip()), (&b"round"[..], pool(family, 2)));
        cone.send_to(b"and back", from).expect("a way out");
        let (length, from) = other.recv_from(&mut buffer).expect("a datagram from server1");
        assert_eq!((&buffer[..length], from), (&b"and back"[..], outer));

        // Much data, both ways.
        for direction in [&[][..], &["--reverse"]] {
            let to = client(family).to_string();
            let arguments = [&["-c", &to, "-n", "4M"][..], direction].concat();
            run(rig.servers[0].namespace.command("iperf3").args(arguments));
        }
    }
    drop(observers_task);

    let snats = rig.json::<view::Snats>(&["snat"]).snats;
    assert_eq!(snats.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["symmetric", "cone"]);
    for snat in &snats {
        assert!(snat.sessions_created > 20 && snat.mappings_v4 > 0 && snat.mappings_v6 > 0);
        assert!(snat.forward_packets > 40 && snat.reply_packets > 40, "{snat:?}");
    }
    assert!(snats[0].refused_packets >= 6, "{snats:?}");
    let sessions = rig.json::<view::Sessions>(&["sessions", "--service", "cone"]).sessions;
    assert!(sessions.iter().all(|s| s.mode == "snat" && s.service == "cone"), "{sessions:?}");
    assert!(sessions.iter().any(|s| s.local.ip() == pool(Family::V6, 1)), "{sessions:?}");
    let services = rig.json::<view::Services>(&["services"]).services;
    assert!(services.iter().all(|s| s.mode == "nat"), "rules are no services");
    rig.finish();
}
