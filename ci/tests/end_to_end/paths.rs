//! What lies between: routers with a smaller MTU, traceroute, fragments.
//!
//! ```text
//!  far ──1400── client (a router now) ── Shunt ── server1 (a router too) ──1400── deep
//!  198.51.100.7                                                             10.9.0.2
//!  2001:db8:99::7                                                           2001:db8:9::2
//! ```
//!
//! The links have an MTU of 1500; that of 1400 is the routers' alone, so that no end knows of it
//! before it is told.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::namespace::{Namespace, Task, run};
use crate::rig::{Family, Mode, Plan, Rig, WEB, client, veth, vip};
use crate::servers::ECHO;
use crate::view;

/// The port of the service whose server is behind a router; TCP counts what it gets.
const COUNT: u16 = 9;
/// The port of a UDP service on which its server does not listen.
const CLOSED: u16 = 10;
/// Ports of services whose server is of the other family: the web server, the one that counts, the
/// one that echoes datagrams.
const OTHER_WEB: u16 = 11;
const OTHER_COUNT: u16 = 12;
const OTHER_ECHO: u16 = 13;
const MEGABYTE: usize = 1_000_000;
/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rig with a router and a host more at each end.
struct Paths {
    rig: Rig,
    far: Namespace,
    _counter: Option<Task>,
    _deep: Option<Namespace>,
}

impl Paths {
    fn start(mode: Mode) -> Self {
        let mut plan = Plan::new(mode, 2);
        plan.taps = mode != Mode::Dr;
        for family in Family::BOTH {
            let to = family.pick("198.51.100.0", "2001:db8:99::");
            plan.sections += &route(family, to, client(family));
        }
        if mode != Mode::Dr {
            for family in Family::BOTH {
                let to = family.pick("10.9.0.0", "2001:db8:9::");
                let via = family.pick("10.0.0.11", "2001:db8:2::11");
                plan.sections += &route(family, to, via);
            }
            plan.sections += &service(mode, "tcp", COUNT);
            plan.sections += &service(mode, "udp", CLOSED);
        }
        if mode == Mode::FullNat {
            for family in Family::BOTH {
                // Of the other one.
                let near = family.pick("2001:db8:2::11", "10.0.0.11");
                let deep = family.pick("2001:db8:9::2", "10.9.0.2");
                plan.sections += &other(family, "tcp", OTHER_WEB, SocketAddr::new(near, 8080));
                plan.sections += &other(family, "tcp", OTHER_COUNT, SocketAddr::new(deep, COUNT));
                plan.sections += &other(family, "udp", OTHER_ECHO, SocketAddr::new(near, ECHO));
            }
        }
        let mut rig = Rig::without_shunt(plan);
        let name = |what: &str| format!("{}-{what}", rig.client.name());
        let far = Namespace::new(name("far"));
        behind(&rig.client, &far, "198.51.100", "2001:db8:99");
        let deep = (mode != Mode::Dr).then(|| {
            let deep = Namespace::new(name("deep"));
            behind(&rig.servers[0].namespace, &deep, "10.9.0", "2001:db8:9");
            deep
        });
        for server in rig.servers.iter().filter(|_| mode == Mode::Dr) {
            server.namespace.ip("route add 198.51.100.0/24 via 192.0.2.100");
            server.namespace.ip("-6 route add 2001:db8:99::/64 via 2001:db8:1::100");
        }
        let counter = deep.as_ref().map(|deep| deep.spawn(count));
        let config = rig.write_config("shunt.toml", &rig.config());
        rig.run_shunt(&config);
        Paths { rig, far, _counter: counter, _deep: deep }
    }

    fn sum(&self, of: fn(&view::Worker) -> u64) -> u64 {
        let workers = self.rig.json::<view::Workers>(&["workers"]).workers;
        workers.iter().map(of).sum()
    }

    /// Makes the ends forget what they have learnt of the paths.
    fn forget(&self) {
        for end in [&self.far, &self.rig.servers[0].namespace] {
            end.ip("route flush cache");
            end.ip("-6 route flush cache");
        }
    }

    /// A large answer arrives although its first packets are too long for a router in front.
    fn download(&self, family: Family, port: u16) {
        let before = self.sum(|w| w.icmp_errors);
        let url = format!("http://{}/large", SocketAddr::new(vip(family), port));
        let mut curl = self.far.command("curl");
        curl.args(["-sSf", "--globoff", "--max-time", "10", "-o", "/dev/null"]);
        let size = run(curl.args(["--write-out", "%{size_download}", &url]));
        assert_eq!(size, MEGABYTE.to_string(), "{family:?}");
        assert!(self.sum(|w| w.icmp_errors) > before, "{family:?}: the server was told");
    }

    /// A large upload arrives although its first packets are too long for a router behind.
    fn upload(&self, family: Family, port: u16) {
        let before = self.sum(|w| w.icmp_errors);
        let to = SocketAddr::new(vip(family), port);
        let counted = self.far.enter(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(&vec![7; MEGABYTE]).expect("sent");
            stream.shutdown(std::net::Shutdown::Write).expect("the end");
            let mut counted = String::new();
            stream.read_to_string(&mut counted).expect("an answer");
            counted
        });
        assert_eq!(counted, MEGABYTE.to_string(), "{family:?}");
        assert!(self.sum(|w| w.icmp_errors) > before, "{family:?}: the client was told");
    }

    /// The hops that a traceroute from the far host sees; `behind` is how the router behind the
    /// switch is shown.
    fn trace(&self, family: Family, kind: &str, port: u16, behind: IpAddr) {
        let mut traceroute = self.far.command("traceroute");
        let version = if family == Family::V4 { "-4" } else { "-6" };
        traceroute.args([version, "-n", "-q", "1", "-w", "3", "-m", "6", kind, "-p"]);
        traceroute.args([&port.to_string(), &vip(family).to_string()]);
        let text = run(&mut traceroute);
        let hops: Vec<_> =
            text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        let expected =
            [family.pick("198.51.100.1", "2001:db8:99::1"), front(family), behind, vip(family)];
        assert_eq!(hops, expected.map(|hop| hop.to_string()), "{kind}:\n{text}");
    }

    /// Datagrams that are fragmented on both ways are echoed, from many ports.
    fn fragments(&self, family: Family, port: u16) {
        let to = SocketAddr::new(vip(family), port);
        let from = SocketAddr::new(client(family), 0);
        self.rig.client.enter(|| {
            for n in 0..16u8 {
                let socket = UdpSocket::bind(from).expect("a socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let message: Vec<u8> = (0..4000u32).map(|i| (i / 3) as u8 ^ n).collect();
                socket.send_to(&message, to).expect("sent");
                let mut buffer = [0; 65_536];
                let (length, sender) = socket.recv_from(&mut buffer).expect("an answer");
                assert!(sender == to && buffer[..length] == message, "{family:?}: {sender}");
            }
        });
        // And in the opposite order.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/tests/end_to_end/fragments.py");
        let (from, to, port) = (from.ip().to_string(), to.ip().to_string(), port.to_string());
        let text = self.rig.on_client("python3", &[script, &from, &to, &port]);
        assert_eq!(text, "8 datagrams\n");
    }
}

fn route(family: Family, to: IpAddr, via: IpAddr) -> String {
    let length = if family == Family::V4 { 24 } else { 64 };
    format!("[[route]]\nto = \"{to}/{length}\"\nvia = \"{via}\"\n\n")
}

/// The switch's own address in front.
fn front(family: Family) -> IpAddr {
    family.pick("192.0.2.2", "2001:db8:1::2")
}

/// A service for clients of one family whose server is of the other.
fn other(family: Family, protocol: &str, port: u16, server: SocketAddr) -> String {
    format!(
        "[[service]]\nname = \"other-{port}-{family:?}\"\nprotocol = \"{protocol}\"\n\
         mode = \"fullnat\"\nlisten = [\"{}\"]\n[[service.server]]\naddress = \"{server}\"\n\n",
        SocketAddr::new(vip(family), port),
    )
}

/// A service whose servers are behind a router.
fn service(mode: Mode, protocol: &str, port: u16) -> String {
    let listen = Family::BOTH.map(|f| format!("\"{}\"", SocketAddr::new(vip(f), port)));
    let mut text = format!(
        "[[service]]\nname = \"deep-{protocol}\"\nprotocol = \"{protocol}\"\nmode = \"{}\"\n\
         listen = [{}]\n",
        mode.name(),
        listen.join(", "),
    );
    for family in Family::BOTH {
        let server = SocketAddr::new(family.pick("10.9.0.2", "2001:db8:9::2"), port);
        text += &format!("[[service.server]]\naddress = \"{server}\"\n");
    }
    text + "\n"
}

/// Makes `router` one, with `host` behind it at .7 (.2 where it is a server), by a way that the
/// router takes for narrow.
fn behind(router: &Namespace, host: &Namespace, v4: &str, v6: &str) {
    let (last, limit) = (if v4 == "10.9.0" { 2 } else { 7 }, "mtu lock 1400");
    router.sysctl("net.ipv4.ip_forward", "1");
    router.sysctl("net.ipv6.conf.all.forwarding", "1");
    for namespace in [router, host] {
        namespace.sysctl("net.ipv4.icmp_ratelimit", "0");
        namespace.sysctl("net.ipv6.icmp.ratelimit", "0");
    }
    veth(router, "beyond", host, "eth0");
    router.ip(&format!("addr add {v4}.1/24 dev beyond"));
    router.ip(&format!("addr add {v6}::1/64 dev beyond nodad noprefixroute"));
    router.ip(&format!("route replace {v4}.0/24 dev beyond {limit}"));
    router.ip(&format!("-6 route replace {v6}::/64 dev beyond {limit}"));
    host.ip(&format!("addr add {v4}.{last}/24 dev eth0"));
    host.ip(&format!("addr add {v6}::{last}/64 dev eth0 nodad"));
    host.ip(&format!("route add default via {v4}.1"));
    host.ip(&format!("-6 route add default via {v6}::1"));
}

/// Answers every connection with the number of bytes that came.
async fn count() {
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, COUNT));
    let listener = TcpListener::bind(at).await.unwrap_or_else(|e| panic!("listen {at}: {e}"));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let (mut buffer, mut total) = ([0; 16_384], 0);
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                total += n;
            }
            let _ = stream.write_all(total.to_string().as_bytes()).await;
        });
    }
}

fn large_file(rig: &Rig) {
    std::fs::write(rig.directory().join("large"), vec![b'x'; MEGABYTE]).expect("a file");
}

fn both_ways(mode: Mode) {
    let paths = Paths::start(mode);
    large_file(&paths.rig);
    for family in Family::BOTH {
        paths.download(family, WEB);
        paths.upload(family, COUNT);
        let behind = family.pick("10.0.0.11", "2001:db8:2::11");
        paths.trace(family, "-T", COUNT, behind);
        paths.trace(family, "-U", CLOSED, behind);
        paths.fragments(family, ECHO);
    }
    assert!(paths.sum(|w| w.fragments) >= 2 * 24 * 6, "three pieces each way");
    assert!(paths.sum(|w| w.fragments_held) >= 2 * 8 * 2, "two of three came too early");
    if mode == Mode::FullNat {
        for family in Family::BOTH {
            paths.forget();
            paths.download(family, OTHER_WEB);
            paths.forget();
            paths.upload(family, OTHER_COUNT);
            // A router of the other family has no address in this one.
            paths.trace(family, "-T", OTHER_COUNT, front(family));
            paths.fragments(family, OTHER_ECHO);
        }
        assert!(paths.sum(|w| w.fragments) >= 2 * 2 * 24 * 6, "three pieces each way");
    }
    for reason in ["fragment_expired", "fragment_overlap", "icmp_no_session", "bad_icmp"] {
        assert_eq!(paths.rig.dropped(reason), 0, "{reason}");
    }
    paths.rig.finish();
}

#[test]
fn both_ways_nat() {
    both_ways(Mode::Nat);
}

#[test]
fn both_ways_fullnat() {
    both_ways(Mode::FullNat);
}

/// In direct return a router's error about an answer comes to the VIP, and so to Shunt.
#[test]
fn download_dr() {
    let paths = Paths::start(Mode::Dr);
    large_file(&paths.rig);
    for family in Family::BOTH {
        paths.download(family, WEB);
    }
    paths.rig.finish();
}
