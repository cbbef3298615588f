//! Which server real clients get: hashes, backups, limits, persistence, one-packet datagrams, QUIC.
//! One installation shows all of it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::http::requests;
use crate::namespace::Task;
use crate::rig::{Family, Mode, Plan, Rig, client, vip};
use crate::servers::RealServer;

const HTTP: u16 = 81;
const HTTPS: u16 = 82;
const LIMITED: u16 = 83;
const BACKUP: u16 = 84;
const DNS: u16 = 53;
const QUIC: u16 = 443;
/// Where the servers answer datagrams of `DNS` and `QUIC`.
const DNS_SERVER: u16 = 5300;
const QUIC_SERVER: u16 = 4433;
/// Where they answer connections of `HTTP`, `HTTPS` and `BACKUP`. Each has its own: two services
/// cannot have the same client port at one server's.
const HTTP_SERVER: u16 = 9001;
const HTTPS_SERVER: u16 = 9002;
const BACKUP_SERVER: u16 = 9003;

/// A service of both families on `port`, with these keys; `server_keys` of servers 1 and 2.
fn service(port: u16, protocol: &str, to: u16, keys: &str, server_keys: [&str; 2]) -> String {
    let listen = Family::BOTH.map(|f| format!("\"{}\"", SocketAddr::new(vip(f), port))).join(", ");
    let mut text = format!(
        "[[service]]\nname = \"port-{port}\"\nprotocol = \"{protocol}\"\nlisten = [{listen}]\n\
         mode = \"nat\"\n{keys}\n"
    );
    for (n, keys) in (1..).zip(server_keys) {
        for family in Family::BOTH {
            let address = family.pick(&format!("10.0.0.1{n}"), &format!("2001:db8:2::1{n}"));
            let address = SocketAddr::new(address, to);
            text += &format!("[[service.server]]\naddress = \"{address}\"\n{keys}\n");
        }
    }
    text
}

fn plan() -> Plan {
    let mut plan = Plan::new(Mode::Nat, 2);
    plan.service_keys = "scheduler = \"maglev\"\nhash_on = \"source\"\n".into();
    let group = "persistence = { seconds = 60, group = \"site\" }";
    let health =
        "[service.health]\ntype = \"tcp\"\ninterval_ms = 200\ntimeout_ms = 200\nfall = 2\n";
    let quic = "hash_on = \"quic_cid\"\nquic = { server_id_length = 1 }";
    let ids = ["quic_server_id = \"01\"", "quic_server_id = \"02\""];
    plan.sections = [
        service(HTTP, "tcp", HTTP_SERVER, group, ["", ""]),
        service(HTTPS, "tcp", HTTPS_SERVER, group, ["", ""]),
        service(LIMITED, "tcp", 7, "max_connections = 2", ["", ""]),
        service(BACKUP, "tcp", BACKUP_SERVER, health, ["", "backup = true"]),
        service(DNS, "udp", DNS_SERVER, "one_packet = true", ["", ""]),
        service(QUIC, "udp", QUIC_SERVER, quic, ids),
    ]
    .concat();
    plan
}

/// Answers every datagram at `port` with the server's name.
fn answer_with_name(server: &RealServer, port: u16) -> Task {
    let (name, addresses) = (server.name.clone(), server.addresses);
    server.namespace.spawn(move || async move {
        let answer = |address| {
            let name = name.clone();
            async move {
                let at = SocketAddr::new(address, port);
                let socket = tokio::net::UdpSocket::bind(at).await.expect("a socket");
                let mut buffer = [0; 2048];
                while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                    let _ = socket.send_to(name.as_bytes(), from).await;
                }
            }
        };
        tokio::join!(answer(addresses[0]), answer(addresses[1]));
    })
}

/// The same for connections: the name, and the end.
fn serve_name(server: &RealServer, port: u16) -> Task {
    let name = server.name.clone();
    server.namespace.spawn(move || async move {
        let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(at).await.expect("a listener");
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let _ = stream.write_all(name.as_bytes()).await;
        }
    })
}

/// Opens connections one after the other; how many each server has answered.
fn names(rig: &Rig, family: Family, port: u16, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for mut stream in rig.connect(family, port, count) {
        let mut name = String::new();
        stream.read_to_string(&mut name).expect("a name");
        *answers.entry(name).or_insert(0) += 1;
    }
    answers
}

fn socket(family: Family) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(client(family), 0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket
}

/// Sends a datagram; the name of the server that has answered, from the virtual address.
fn ask(socket: &UdpSocket, family: Family, port: u16, datagram: &[u8]) -> String {
    let to = SocketAddr::new(vip(family), port);
    socket.send_to(datagram, to).expect("sent");
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, to);
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn one_packet(rig: &Rig) {
    for family in Family::BOTH {
        let mut answers = BTreeMap::new();
        rig.client.enter(|| {
            let socket = socket(family);
            for _ in 0..20 {
                *answers.entry(ask(&socket, family, DNS, b"query")).or_insert(0) += 1;
            }
        });
        assert_eq!(answers, [("server1".into(), 10), ("server2".into(), 10)].into());
    }
    let view = rig.service_view("port-53");
    assert_eq!((view.sessions_created, view.forward_packets, view.reply_packets), (0, 40, 40));
}

/// A client that comes from another port with the same connection id stays on its server.
fn quic(rig: &Rig) {
    for family in Family::BOTH {
        for id in [1, 2] {
            let packet = [0x41, 7, id, 9, 8, 7, 6, 5, 4, 0, 0, 0];
            for _ in 0..8 {
                let answer = rig.client.enter(|| ask(&socket(family), family, QUIC, &packet));
                assert_eq!(answer, format!("server{id}"));
            }
        }
    }
}

fn limited(rig: &Rig) {
    let to = SocketAddr::new(vip(Family::V4), LIMITED);
    let mut open = rig.connect(Family::V4, LIMITED, 2);
    let third = rig.client.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
    assert_eq!(third.map(drop).map_err(|e| e.kind()), Err(ErrorKind::ConnectionRefused));
    let url = format!("http://{to}/");
    let curl = rig.client.command("curl").args(["--silent", &url]).output().expect("curl starts");
    assert_eq!(curl.status.code(), Some(7), "curl: could not connect");
    assert_eq!(rig.dropped("service_limit"), 2);
    for stream in &mut open {
        stream.write_all(b"still there").expect("sent");
        stream.read_exact(&mut [0; 11]).expect("echoed");
    }
}

#[test]
fn selection() {
    let mut rig = Rig::without_shunt(plan());
    let answering = |s: &RealServer| {
        [
            answer_with_name(s, DNS_SERVER),
            answer_with_name(s, QUIC_SERVER),
            serve_name(s, HTTP_SERVER),
            serve_name(s, HTTPS_SERVER),
        ]
    };
    let _answering: Vec<_> = rig.servers.iter().map(answering).collect();
    let mut primary_and_backup: Vec<Task> =
        rig.servers.iter().map(|s| serve_name(s, BACKUP_SERVER)).collect();
    let config = rig.write_config("shunt.toml", &rig.config());
    rig.run_shunt(&config);

    for family in Family::BOTH {
        // All from one address, over both workers.
        assert_eq!(requests(&rig, family, 40).len(), 1, "maglev by source");
        let home = names(&rig, family, HTTP, 30);
        assert_eq!(home.len(), 1, "persistence");
        assert_eq!(names(&rig, family, HTTPS, 30), home, "persistence of the group");
        let primary = names(&rig, family, BACKUP, 10);
        assert_eq!(primary.into_keys().collect::<Vec<_>>(), ["server1"]);
    }
    one_packet(&rig);
    quic(&rig);
    limited(&rig);

    drop(primary_and_backup.remove(0));
    rig.wait_for("the primary is down", |rig| {
        let down = |s: &crate::view::Server| s.service == "port-84" && !s.up;
        rig.servers_view().iter().filter(|s| down(s)).count() == 2
    });
    for family in Family::BOTH {
        let backup = names(&rig, family, BACKUP, 10);
        assert_eq!(backup.into_keys().collect::<Vec<_>>(), ["server2"]);
    }
    rig.finish();
}
