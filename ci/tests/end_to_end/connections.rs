//! TCP connections between real kernels: forged resets, resets that Shunt sends, segment sizes and
//! DSCP.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::rig::{Family, Mode, Plan, Rig, WEB, client, vip};
use crate::servers::ECHO;
use crate::view;

fn echo(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).expect("sent");
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).expect("echoed");
    assert_eq!(back, message);
}

/// The connection ends with a reset, without a word from this side.
fn assert_reset(stream: &mut TcpStream, what: &str) {
    let error = stream.read(&mut [0; 10]).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
}

/// The sockets of a namespace that are connected with `address`, one on a line, with their details.
fn sockets(namespace: &Namespace, address: IpAddr) -> String {
    let mut ss = namespace.command("ss");
    let output = ss.args(["-HtinO", "state", "established"]).output().expect("ss starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // [2001:db8::1]:7, 192.0.2.1:7 or, on a socket for both families, [::ffff:192.0.2.1]:7
    let shown = [format!("{address}:"), format!("{address}]:")];
    let of_peer = |line: &&str| shown.iter().any(|shown| line.contains(shown));
    text.lines().filter(of_peer).map(|line| format!("{line}\n")).collect()
}

/// The segment size that a socket uses.
fn segment_size(details: &str) -> usize {
    let size = details.split_whitespace().find_map(|word| word.strip_prefix("mss:"));
    size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("no mss in {details:?}"))
}

/// tcpdump that ends by itself with the first packet that matches.
struct Watch {
    process: Process,
    log: PathBuf,
}

impl Watch {
    fn start(rig: &mut Rig, namespace: fn(&Rig) -> &Namespace, name: &str, filter: &str) -> Watch {
        let log = rig.directory().join(format!("{name}.log"));
        let mut command = namespace(rig).command("tcpdump");
        command.args(["-i", "eth0", "-nn", "--immediate-mode", "-c", "1", filter]);
        let process = Process::start(&mut command, &log);
        let watch = Watch { process, log };
        rig.wait_for("tcpdump listens", |_| watch.text().contains("listening on"));
        watch
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait(mut self, rig: &mut Rig) {
        rig.wait_for("a packet matches", |_| {
            self.process.0.try_wait().expect("the state of a child").is_some()
        });
        assert!(self.text().contains("1 packet captured"), "{}", self.text());
    }
}

/// An idle connection expires and both ends learn it; while it lived, its segments were small and
/// its packets marked.
#[test]
fn expiry_segment_size_and_dscp() {
    let mut plan = Plan::new(Mode::Nat, 1).weights(&[1]);
    plan.tcp_keys = "mss = 1000\n".into();
    plan.service_keys = "dscp = 46\n[service.timeouts]\ntcp_established = 2\n".into();
    let mut rig = Rig::start(plan);
    for family in Family::BOTH {
        let (from, class) = match family {
            Family::V4 => (client(family), "ip[1] & 0xfc == 46 << 2"),
            Family::V6 => (client(family), "ip6[0:2] & 0x0fc0 == 46 << 6"),
        };
        let to_server = format!("src host {from} and tcp port {ECHO} and {class}");
        let to_client = format!("src host {} and tcp port {ECHO} and {class}", vip(family));
        let server = Watch::start(&mut rig, |rig| &rig.servers[0].namespace, "server", &to_server);
        let near = Watch::start(&mut rig, |rig| &rig.client, "client", &to_client);
        let mut stream = rig.connect(family, ECHO, 1).remove(0);
        echo(&mut stream, &[7; 5_000]);
        let at_client = sockets(&rig.client, vip(family));
        let at_server = sockets(&rig.servers[0].namespace, from);
        for details in [at_client, at_server] {
            // Timestamps take 12 bytes of it.
            assert_eq!(segment_size(&details), 988, "{details}");
        }
        server.wait(&mut rig);
        near.wait(&mut rig);
        assert_reset(&mut stream, "it expires");
        rig.wait_for("the server has let go too", |rig| {
            sockets(&rig.servers[0].namespace, from).is_empty()
        });
    }
    let worker = &rig.json::<view::Workers>(&["workers"]).workers[0];
    assert_eq!(worker.resets_sent, 4);
    rig.finish();
}

/// Forged resets all over the number space leave a connection alone, the right one closes it. Then a
/// server disappears, and its clients learn it as soon as the health check does.
#[test]
fn forged_resets_and_a_dead_server() {
    const FORGED: u64 = 4_000;
    let mut plan = Plan::new(Mode::Nat, 1).weights(&[1]);
    plan.service_keys = "on_server_down = \"end\"\n".into();
    let mut rig = Rig::start(plan);
    let script = rig.write_config("forge.py", include_str!("forge.py"));
    let arguments = [
        script.to_str().expect("UTF-8"),
        &vip(Family::V4).to_string(),
        &ECHO.to_string(),
        &FORGED.to_string(),
    ];
    let output = rig.on_client("python3", &arguments);
    let port: u16 = output.lines().last().and_then(|l| l.parse().ok()).expect("the client's port");
    assert!(output.starts_with("survived\n"), "{output}");
    // 16 MiB to either side of the connection's number pass, 1 in 128.
    let dropped = rig.dropped("tcp_out_of_window");
    assert!(dropped > FORGED / 2 && dropped <= FORGED * 127 / 128 + 1, "{dropped}");
    let sessions = rig.json::<view::Sessions>(&["sessions", "--service", "echo"]).sessions;
    let session = sessions.iter().find(|s| s.client.port() == port).expect("not yet expired");
    assert_eq!(session.state, "closed");

    let mut streams = Family::BOTH.map(|family| rig.connect(family, WEB, 1).remove(0));
    rig.servers[0].namespace.ip("link set eth0 down");
    for stream in &mut streams {
        assert_reset(stream, "its server is down");
    }
    rig.wait_for("shunt says so", |rig| rig.web_down(1));
    assert!(rig.json::<view::Workers>(&["workers"]).workers[0].sessions_ended_with_server >= 2);
    rig.finish();
}
