//! The packet filter, a list of a million prefixes, limits and a mirror, between real kernels.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::namespace::{Namespace, run};
use crate::process::Process;
use crate::rig::{Family, Mode, Plan, Rig, WEB, veth, vip};
use crate::servers::ECHO;

/// `shunt filters --json`
#[derive(Debug, Deserialize)]
struct Filters {
    filters: Vec<Filter>,
}

#[derive(Debug, Deserialize)]
struct Filter {
    name: String,
    packets: u64,
}

/// A million prefixes, among them the client's second IPv4 address and second IPv6 address.
fn million_prefixes(path: &std::path::Path) {
    let mut text = Vec::with_capacity(16_000_000);
    for n in 0..999_998u32 {
        // Scattered over 16.0.0.0/4, where nobody is.
        let bits = 0x1000_0000 | n.wrapping_mul(0x9e37_79b1) >> 4;
        writeln!(text, "{}", Ipv4Addr::from_bits(bits)).expect("a Vec takes it");
    }
    text.extend(b"192.0.2.101\n2001:db8:1::101 # the client's other addresses\n");
    fs::write(path, text).expect("the list");
}

/// curl from a local port or address: its exit status and what it printed.
fn curl(rig: &Rig, family: Family, more: &[&str]) -> (Option<i32>, String) {
    let url = format!("http://{}/", SocketAddr::new(vip(family), WEB));
    let output = rig
        .client
        .command("curl")
        .args(["--silent", "--globoff", "--connect-timeout", "0.4", "--max-time", "5"])
        .args(more)
        .arg(url)
        .output()
        .expect("curl starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

const CONNECTION_REFUSED: Option<i32> = Some(7);
const TIMEOUT: Option<i32> = Some(28);

const SECTIONS: &str = r#"
[[filter]]
name = "dropped"
action = "drop"
protocol = "tcp"
port = "front"
source_ports = ["41000-41099"]
destination_ports = [80]
[[filter]]
name = "rejected"
action = "reject"
protocol = "tcp"
port = "front"
source_ports = ["41100-41199"]
tcp_flags = "syn,!ack"
[[filter]]
name = "blocked"
action = "drop"
list = "million"
[[port]]
name = "sensor"
device = "net_af_packet2"
side = "both"
addresses = []
[[mirror]]
name = "ids"
port = "sensor"
"#;

#[test]
fn filters_lists_limits_and_a_mirror() {
    let mut plan = Plan::new(Mode::Nat, 2);
    plan.service_keys = "mirror = \"ids\"\n".into();
    let mut rig = Rig::without_shunt(plan);
    let list = rig.directory().join("million.txt");
    million_prefixes(&list);
    rig.client.ip("addr add 192.0.2.101/24 dev eth0");
    // Deprecated, so that it is nobody's choice unless asked for.
    rig.client.ip("addr add 2001:db8:1::101/64 dev eth0 nodad preferred_lft 0");
    let sensor = Namespace::new(format!("{}-sensor", rig.lb.name()));
    veth(&rig.lb, "sensor", &sensor, "eth0");

    let list_section = format!("[[list]]\nname = \"million\"\nfile = \"{}\"\n", list.display());
    // The echo alone is limited: the only service that is checked so.
    let checked = "[service.health]\ntype = \"tcp\"";
    let limits = "[service.limits]\nsource_connections_per_second = 2\n";
    let vdevs = "\"net_af_packet1,iface=back,qpairs=2\"";
    let text = (rig.config() + SECTIONS + &list_section)
        .replacen(checked, &format!("{limits}{checked}"), 1)
        .replacen(vdevs, &format!("{vdevs}, \"net_af_packet2,iface=sensor,qpairs=2\""), 1);
    assert!(text.contains(limits) && text.contains("iface=sensor"), "{text}");
    let config = rig.write_config("shunt.toml", &text);
    let begin = Instant::now();
    run(rig.lb.command(crate::rig::SHUNT).arg("check").arg(&config));
    println!("shunt check with a million prefixes: {:?}", begin.elapsed());
    rig.run_shunt(&config);

    let capture = rig.directory().join("sensor.pcap");
    let mut tcpdump = sensor.command("tcpdump");
    tcpdump
        .args(["-i", "eth0", "-Q", "in", "-U", "--immediate-mode", "-Z", "root", "-w"])
        .arg(&capture);
    let tcpdump_log = rig.directory().join("tcpdump.log");
    let tcpdump = Process::start(&mut tcpdump, &tcpdump_log);
    rig.wait_for("tcpdump listens", |_| {
        fs::read_to_string(&tcpdump_log).is_ok_and(|text| text.contains("listening on"))
    });

    for family in Family::BOTH {
        // A timeout, a refusal, and an answer.
        assert_eq!(curl(&rig, family, &["--local-port", "41000-41099"]).0, TIMEOUT, "{family:?}");
        let refused = curl(&rig, family, &["--local-port", "41100-41199"]);
        assert_eq!(refused.0, CONNECTION_REFUSED, "{family:?}");
        let (status, page) = curl(&rig, family, &["--local-port", "41200-41299"]);
        assert!(status == Some(0) && page.starts_with("server"), "{family:?}: {status:?} {page}");
        // From an address in the list, and from one that is not.
        let blocked = family.pick("192.0.2.101", "2001:db8:1::101").to_string();
        assert_eq!(curl(&rig, family, &["--interface", &blocked]).0, TIMEOUT, "{family:?}");
        let own = crate::rig::client(family).to_string();
        assert_eq!(curl(&rig, family, &["--interface", &own]).0, Some(0), "{family:?}");
    }
    let filters: BTreeMap<String, u64> = rig
        .json::<Filters>(&["filters"])
        .filters
        .into_iter()
        .map(|f| (f.name, f.packets))
        .collect();
    assert!(filters.values().all(|&packets| packets >= 2), "{filters:?}");
    assert_eq!(filters["rejected"], 2);
    assert_eq!(rig.dropped("filter_rejected"), 2);
    assert_eq!(rig.dropped("filtered"), filters["dropped"] + filters["blocked"]);

    // Two connections a second: sooner or later one of many has to wait.
    let to = SocketAddr::new(vip(Family::V4), ECHO);
    let outcomes: Vec<bool> = rig.client.enter(|| {
        (0..12)
            .map(|_| TcpStream::connect_timeout(&to, Duration::from_millis(100)).is_ok())
            .collect()
    });
    assert!(outcomes[0], "{outcomes:?}");
    assert!(outcomes.contains(&false), "{outcomes:?}");
    assert!(rig.dropped("source_connection_rate") >= 1);

    // Every packet of every session of the web service, and no other, has come to the sensor.
    fs::write(rig.directory().join("large"), vec![b'x'; 1_000_000]).expect("a megabyte");
    for family in Family::BOTH {
        let url = format!("http://{}/large", SocketAddr::new(vip(family), WEB));
        rig.on_client("curl", &["-sSf", "--globoff", "--max-time", "20", "-o", "/dev/null", &url]);
    }
    rig.wait_for("the sensor has seen every packet of the web service", |rig| {
        let web = rig.service_view("web");
        let file = capture.to_str().expect("UTF-8");
        let filter = "tcp port 80 or tcp port 8080";
        let seen = sensor.command("tcpdump").args(["-nr", file, filter]).output().expect("tcpdump");
        let seen = String::from_utf8_lossy(&seen.stdout).lines().count() as u64;
        let sent = web.forward_packets + web.reply_packets;
        assert!(sent > 200, "a megabyte takes so many packets");
        seen == sent
    });
    drop(tcpdump);
    rig.finish();
}
