//! NAT64 and NAT46: curl of one family, nginx of the other, with and without a PROXY protocol header.

use std::fs;
use std::net::SocketAddr;

use crate::rig::{Family, Mode, Plan, Rig, client, vip};
use crate::servers::{ECHO, PROXIED};

/// Bytes of a download and of an upload.
const LENGTH: usize = 1_000_000;

fn service(name: &str, protocol: &str, listen: SocketAddr, server: &str, keys: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = [\"{listen}\"]\n\
         mode = \"fullnat\"\n{keys}[[service.server]]\naddress = \"{server}\"\n\n"
    )
}

/// What curl prints; it must succeed.
fn curl(rig: &Rig, clients: Family, port: u16, path: &str, more: &[&str]) -> String {
    let resolve = format!("vip:{port}:{}", vip(clients));
    let url = format!("http://vip:{port}{path}");
    let usual = ["--silent", "--show-error", "--fail", "--max-time", "20", "--resolve", &resolve];
    rig.on_client("curl", &[&usual, more, &[&url]].concat())
}

#[test]
fn clients_of_one_family_and_servers_of_the_other() {
    let mut plan = Plan::new(Mode::FullNat, 2).weights(&[1]);
    for (clients, server) in [(Family::V6, "10.0.0.11"), (Family::V4, "[2001:db8:2::11]")] {
        let at = |port| SocketAddr::new(vip(clients), port);
        let name = |what: &str| format!("{what}-{clients:?}");
        let check = "[service.health]\ntype = \"http\"\npath = \"/healthz\"\nrise = 1\n\
                     timeout_ms = 1000\n";
        plan.sections += &service(&name("web"), "tcp", at(86), &format!("{server}:8080"), check);
        let proxied = format!("proxy_protocol = \"v2\"\n{check}");
        let to = format!("{server}:{PROXIED}");
        plan.sections += &service(&name("proxied"), "tcp", at(87), &to, &proxied);
        let to = format!("{server}:{ECHO}");
        plan.sections += &service(&name("echo"), "udp", at(88), &to, "");
    }
    let rig = Rig::start(plan);
    let file: Vec<u8> = (0..LENGTH).map(|i| (i ^ (i >> 8)) as u8).collect();
    fs::write(rig.directory().join("file"), &file).expect("a file");
    let copy = rig.directory().join("copy");
    for clients in Family::BOTH {
        for _ in 0..20 {
            assert_eq!(curl(&rig, clients, 86, "/", &[]), "server1");
        }
        // nginx hears of the client as it is in its own family.
        let seen = curl(&rig, clients, 87, "/", &["--write-out", " from %{local_port}"]);
        let (seen, port) = seen.split_once(" from ").expect("two parts");
        assert_eq!(seen, format!("{} {port} of {} 87", client(clients), vip(clients)));
        // Full segments in both directions.
        curl(&rig, clients, 86, "/file", &["--output", &copy.display().to_string()]);
        assert!(fs::read(&copy).expect("the copy") == file, "{clients:?}: the file has changed");
        let upload = format!("@{}", rig.directory().join("file").display());
        assert_eq!(curl(&rig, clients, 86, "/", &["--data-binary", &upload]), "server1");
        // Datagrams of all sizes up to a full packet.
        let to = SocketAddr::new(vip(clients), 88);
        rig.client.enter(|| {
            let any = SocketAddr::new(client(clients), 0);
            let socket = std::net::UdpSocket::bind(any).expect("a socket");
            socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
            socket.connect(to).expect("the service");
            for length in [0, 1, 7, 1452] {
                socket.send(&file[..length]).expect("a datagram");
                let mut answer = [0; 2048];
                let got = socket.recv(&mut answer).expect("the answer");
                assert_eq!(answer[..got], file[..length]);
            }
        });
    }
    rig.finish();
}
