//! The rig without Shunt: the kernel forwards in its place. When these fail, it is the machine
//! (packages, privileges, namespaces) and not Shunt that is wrong.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::rig::{Family, Mode, Plan, Rig, vip};
use crate::servers::ECHO;

fn answers(rig: &Rig, address: IpAddr, http_port: u16) {
    let url = format!("http://{}/", SocketAddr::new(address, http_port));
    let arguments = ["-sSf", "--globoff", "--retry", "20", "--retry-connrefused", &url];
    assert_eq!(rig.on_client("curl", &arguments), "server1");
    let ping = rig.on_client("ping", &["-c", "1", "-W", "2", &address.to_string()]);
    assert!(ping.contains("1 received"), "{ping}");
    let iperf = ["--json", "--time", "1", "--client", &address.to_string()];
    assert!(rig.on_client("iperf3", &iperf).contains("sum_received"));
    let udp = ["--udp", "--bandwidth", "10M", "--reverse"];
    assert!(rig.on_client("iperf3", &[&iperf[..], &udp].concat()).contains("lost_packets"));

    let to = SocketAddr::new(address, ECHO);
    rig.client.enter(|| {
        let mut stream = TcpStream::connect(to).expect("a connection");
        stream.write_all(b"over TCP").expect("written");
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"over TCP");

        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        socket.send_to(b"over UDP", to).expect("sent");
        let (length, from) = socket.recv_from(&mut answer).expect("an answer");
        assert_eq!((&answer[..length], from), (&b"over UDP"[..], to));
    });
}

/// Direct return by hand: the client sends packets for the VIP to server 1's MAC address.
#[test]
fn one_armed() {
    let rig = Rig::without_shunt(Plan::new(Mode::Dr, 1));
    for (family, via) in Family::BOTH.into_iter().zip(rig.servers[0].addresses) {
        rig.client.ip(&format!("route add {} via {via}", vip(family)));
        answers(&rig, vip(family), Mode::Dr.web_port());
    }
}

/// The kernel of the lb namespace routes between its two interfaces.
#[test]
fn two_ports() {
    let rig = Rig::without_shunt(Plan::new(Mode::Nat, 1));
    rig.lb.sysctl("net.ipv4.ip_forward", "1");
    rig.lb.sysctl("net.ipv6.conf.all.forwarding", "1");
    let ends = [
        ("front", "192.0.2.2/24", "2001:db8:1::2/64"),
        ("back", "10.0.0.1/24", "2001:db8:2::1/64"),
    ];
    for (interface, v4, v6) in ends {
        rig.lb.ip(&format!("addr add {v4} dev {interface}"));
        rig.lb.ip(&format!("addr add {v6} dev {interface} nodad"));
    }
    rig.client.ip("route add 10.0.0.0/24 via 192.0.2.2");
    rig.client.ip("-6 route add 2001:db8:2::/64 via 2001:db8:1::2");
    for address in rig.servers[0].addresses {
        answers(&rig, address, Mode::Nat.web_port());
    }
}
