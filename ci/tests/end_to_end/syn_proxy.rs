//! Real kernels on both sides of the SYN proxy: curl and nginx, much data both ways, what the two
//! ends have agreed on; then the same under a flood of SYNs with forged sources.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use serde_json::Value;

use crate::http::requests;
use crate::namespace::{Namespace, run};
use crate::rig::{Family, Mode, Plan, Rig, WEB, vip};
use crate::servers::ECHO;

/// Bytes of a download and of an upload.
const LARGE: usize = 20_000_000;

/// A rig whose web service is always proxied and whose echo is while there are many SYNs.
fn start(mode: Mode, workers: usize) -> Rig {
    let mut rig = Rig::without_shunt(Plan::new(mode, workers));
    let after = |name: &str, keys: &str, text: String| {
        let head = format!("name = \"{name}\"\nprotocol = \"tcp\"\n");
        assert!(text.contains(&head));
        text.replace(&head, &format!("{head}{keys}\n"))
    };
    let text = after("web", "syn_proxy = \"on\"", rig.config());
    let text = after("echo", "syn_proxy = \"auto\"\nsyn_proxy_above = 2000", text);
    let path = rig.write_config("shunt.toml", &text);
    rig.run_shunt(&path);
    rig
}

fn proxy(rig: &Rig, service: &str) -> Value {
    let services: Value = rig.json(&["services"]);
    let of_name = |s: &&Value| s["name"] == service;
    services["services"].as_array().expect("services").iter().find(of_name).expect("it is there")
        ["syn_proxy"]
        .clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// A file from nginx, whole.
fn download(rig: &Rig, family: Family, expected: &[u8]) {
    let url = format!("http://{}/large", SocketAddr::new(vip(family), WEB));
    let copy = rig.directory().join("copy");
    let to = copy.to_str().expect("UTF-8");
    rig.on_client("curl", &["-sSf", "--globoff", "--max-time", "30", "-o", to, &url]);
    assert!(std::fs::read(copy).expect("the copy") == expected, "{family:?}");
}

/// As much to the echo and back at the same time, and what both ends say of the connection.
fn upload(rig: &Rig, family: Family, data: &[u8]) {
    let mut stream = rig.connect(family, ECHO, 1).remove(0);
    let mut back = stream.try_clone().expect("a second handle");
    let echoed = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut echoed = vec![0; LARGE];
            back.read_exact(&mut echoed).expect("all of it comes back");
            echoed
        });
        stream.write_all(data).expect("all of it is taken");
        reader.join().expect("the reader")
    });
    assert!(echoed == data, "{family:?}: what came back is not what was sent");
    stream.shutdown(Shutdown::Both).expect("the end");
}

/// What `ss` says of the connections of a host with that port at the other end or its own.
fn connections(namespace: &Namespace, filter: &str) -> String {
    run(namespace.command("ss").args(["-tinoH", "state", "established", filter]))
}

/// Window scaling, selective acknowledgments and timestamps are agreed on from end to end.
fn options(rig: &Rig, family: Family) {
    let mut stream = rig.connect(family, WEB, 1).remove(0);
    // Longer than what a window without a scale could have on its way.
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: vip\r\n\r\n").expect("a request");
    let mut some = vec![0; 1_000_000];
    stream.read_exact(&mut some).expect("the beginning of the answer");
    let client = connections(&rig.client, "( dport = :80 )");
    let server: String = rig
        .servers
        .iter()
        .map(|server| connections(&server.namespace, "( sport = :8080 )"))
        .filter(|text| text.contains("bytes_sent"))
        .collect();
    for (end, text) in [("client", &client), ("server", &server)] {
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(words.contains(&"ts") && words.contains(&"sack"), "{end}, {family:?}: {text}");
        let scale = words.iter().find_map(|word| word.strip_prefix("wscale:"));
        let (sends, receives) =
            scale.and_then(|s| s.split_once(',')).unwrap_or_else(|| panic!("{end}: {text}"));
        // What the client is told in the server's place is 7.
        assert!(end == "server" || sends == "7", "{end}, {family:?}: {text}");
        assert!(receives != "0", "{end}, {family:?}: {text}");
    }
}

/// A raw socket on the client's interface.
fn raw_socket() -> OwnedFd {
    // SAFETY: takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(socket >= 0, "a raw socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(socket) }
}

/// Sends SYNs from everywhere to both services, a few thousand in a burst, until told to stop.
fn flood(lb: [u8; 6], stop: &AtomicBool, sent: &AtomicU64) {
    let socket = raw_socket();
    // SAFETY: the name is a valid C string; the call has no other effect.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    // SAFETY: all zeros is a value of this plain structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    to.sll_halen = 6;
    let mut frames = Vec::new();
    for n in 0..2048u32 {
        let start = PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], lb);
        let from = [198, 18, (n >> 8) as u8, n as u8];
        let mut from6 = [0x20, 0x01, 0x0d, 0xb8, 0x00, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        from6[12..].copy_from_slice(&n.to_be_bytes());
        let family = if n % 2 == 0 { Family::V4 } else { Family::V6 };
        let ip = match vip(family) {
            IpAddr::V4(vip) => start.ipv4(from, vip.octets(), 60),
            IpAddr::V6(vip) => start.ipv6(from6, vip.octets(), 60),
        };
        let to_port = if n / 2 % 2 == 0 { WEB } else { ECHO };
        let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let mut bytes = Vec::new();
        ip.tcp(1024 + n as u16, to_port, n.wrapping_mul(0x9e37_79b9), 64_240)
            .syn()
            .options_raw(&options)
            .expect("options")
            .write(&mut bytes, b"")
            .expect("a frame");
        frames.push(bytes);
    }
    while !stop.load(Ordering::Relaxed) {
        for frame in frames.chunks(64) {
            for frame in frame {
                let (address, length) = ((&raw const to).cast(), size_of_val(&to) as u32);
                // SAFETY: frame and address are valid for reading over the call.
                let taken = unsafe {
                    libc::sendto(
                        socket.as_raw_fd(),
                        frame.as_ptr().cast(),
                        frame.len(),
                        0,
                        address,
                        length,
                    )
                };
                sent.fetch_add(u64::from(taken > 0), Ordering::Relaxed);
            }
            // About 60,000 a second: the machine's two cores have others to serve as well.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn mac_of(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let text = namespace.ip(&format!("-oneline link show {interface}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether").expect("a MAC address");
    let bytes: Vec<u8> =
        words[at + 1].split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

/// Good clients get through a flood, which leaves nothing in the session table.
fn under_flood(rig: &mut Rig) {
    let before = rig.service_view("web").sessions_created;
    let lb = mac_of(&rig.lb, "front");
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| rig.client.enter(|| flood(lb, &stop, &sent)));
        let begin = Instant::now();
        while number(&proxy(rig, "echo")["workers_on"]) < rig.plan.workers as u64 {
            assert!(begin.elapsed() < Duration::from_secs(20), "auto does not turn on");
            std::thread::sleep(Duration::from_millis(20));
        }
        for family in Family::BOTH {
            requests(rig, family, 30);
            // Held open through the flood.
            let mut streams = rig.connect(family, ECHO, 10);
            for stream in &mut streams {
                stream.write_all(b"hello").expect("sent");
                let mut answer = [0; 5];
                stream.read_exact(&mut answer).expect("an answer");
                assert_eq!(&answer, b"hello");
            }
        }
        // A quick machine is done before there was a flood to speak of.
        while sent.load(Ordering::Relaxed) <= 10_000 {
            assert!(begin.elapsed() < Duration::from_secs(40), "{sent:?} SYNs sent");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (web, echo) = (proxy(rig, "web"), proxy(rig, "echo"));
    assert!(number(&web["cookies_sent"]) > 3_000, "{web}");
    assert!(number(&echo["cookies_sent"]) > 1_000, "{echo}");
    assert_eq!(rig.service_view("web").sessions_created - before, 60, "one for each request");
    let status: Value = rig.json(&["status"]);
    let on: Vec<_> = status["syn_proxy_on"].as_array().expect("names").clone();
    assert!(on.contains(&Value::from("web")) && on.contains(&Value::from("echo")), "{status}");
    assert!(rig.shunt(&["services"]).contains("auto: on"));
    // Before `auto` turned on, SYNs opened sessions: at most its limit, and what one second more
    // brought to a worker that had fewer.
    let sessions = number(&status["sessions_v4"]) + number(&status["sessions_v6"]);
    assert!(sessions < 5_000, "{sessions} sessions");
}

fn whole(mode: Mode, workers: usize) {
    let mut rig = start(mode, workers);
    let mut large = vec![0; LARGE];
    File::open("/dev/urandom").expect("random bytes").read_exact(&mut large).expect("20 MB");
    std::fs::write(rig.directory().join("large"), &large).expect("a file");
    for family in Family::BOTH {
        requests(&rig, family, 30);
        download(&rig, family, &large);
        upload(&rig, family, &large);
        options(&rig, family);
    }
    let web = proxy(&rig, "web");
    let counts = ["cookies_sent", "cookies_accepted", "cookies_rejected", "connections"];
    assert_eq!(counts.map(|count| number(&web[count])), [64, 64, 0, 64], "{web}");
    assert_eq!(number(&proxy(&rig, "echo")["cookies_sent"]), 0, "auto is off");
    under_flood(&mut rig);
    rig.finish();
}

#[test]
fn nat_1_worker() {
    whole(Mode::Nat, 1);
}

#[test]
fn fullnat_2_workers() {
    whole(Mode::FullNat, 2);
}
