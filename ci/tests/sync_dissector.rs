//! The Wireshark dissector in `conf/shunt-sync.lua` reads what the library writes: every field of the
//! header and of every type of record.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use etherparse::PacketBuilder;
use serde_json::Value;
use shunt::session::{Doubt, Extras, Mode, Scales, TcpState};
use shunt::sync::{
    About, Ack, Association, Begin, Builder, Close, Digest, Emit, End, Flags, Gone, HEADER, Header,
    Hello, Keys, Kind, MAX, Nak, Persist, Port, Reason, SERVING, Session, Shifts, Touch,
    VersionText, Want, Wire, seal,
};
use shunt::wire::flow::Protocol;

const DEFAULT_PORT: u16 = 8849;

fn keys() -> Keys {
    Keys::parse(&"0123456789abcdef".repeat(4)).unwrap()
}

fn header(kind: Kind) -> Header {
    Header {
        kind,
        node: 1,
        worker: 3,
        to: SERVING,
        repeated: kind == Kind::Stream,
        boot: 0x0102_0304_0506_0708,
        sequence: 0xffff_ffff_ffff,
    }
}

/// Appends something to a datagram; says whether there was room.
type Push<'a> = &'a dyn Fn(&mut Builder<[u8; MAX]>) -> bool;

fn sealed(kind: Kind, records: &[Push<'_>]) -> Vec<u8> {
    let mut builder = Builder::new([0; MAX]);
    for push in records {
        assert!(push(&mut builder));
    }
    builder.seal(&header(kind), &keys()).to_vec()
}

/// Writes UDP datagrams, each with its destination port, as a capture file.
fn write_pcap(path: &Path, datagrams: &[(u16, Vec<u8>)]) {
    let mut file = Vec::new();
    // Magic, version 2.4, zone, accuracy, snapshot length, Ethernet.
    for word in [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65_535, 1_u32] {
        file.extend(word.to_be_bytes());
    }
    for (port, datagram) in datagrams {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 0x7f, 0x13, 0x13])
            .ipv4([192, 0, 2, 2], [239, 255, 19, 19], 1)
            .udp(40_000, *port)
            .write(&mut frame, datagram)
            .unwrap();
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_be_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

/// What tshark makes of these datagrams, as its JSON.
fn dissect(datagrams: &[(u16, Vec<u8>)]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("sync.pcap");
    write_pcap(&capture, datagrams);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/shunt-sync.lua");
    let output = Command::new("tshark")
        // Nobody's own settings or plugins.
        .env("HOME", folder.path())
        .env("XDG_CONFIG_HOME", folder.path())
        .arg("-X")
        .arg(format!("lua_script:{}", script.display()))
        .arg("-r")
        .arg(&capture)
        .args(["-n", "-T", "json", "--no-duplicate-keys"])
        .output()
        .unwrap_or_else(|error| {
            panic!("tshark cannot be started ({error}): install it with ci/setup")
        });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("Lua"), "tshark: {errors}");
    let packets: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("tshark's JSON: {error}; it says: {errors}"));
    assert_eq!(packets.len(), datagrams.len());
    packets
        .iter()
        .map(|packet| {
            let layers = &packet["_source"]["layers"];
            assert!(
                layers.get("shuntsync").is_some(),
                "the dissector was not used. A tshark that runs no Lua for root needs \
                 run_user_scripts_when_superuser = true in its global init.lua. {errors} {layers}"
            );
            layers.clone()
        })
        .collect()
}

/// Every value of the field `name`, at whatever depth, in order.
fn values(tree: &Value, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(tree, name, &mut found);
    found
}

fn collect(tree: &Value, name: &str, found: &mut Vec<String>) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match tree {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == name {
                    match value {
                        Value::Array(all) => found.extend(all.iter().filter_map(text)),
                        one => found.extend(text(one)),
                    }
                }
                collect(value, name, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|one| collect(one, name, found)),
        _ => {}
    }
}

/// Asserts that each of these fields has these values, in order.
fn assert_fields(tree: &Value, expected: &[(&str, &[&str])]) {
    for (name, expected) in expected {
        let found = values(tree, &format!("shuntsync.{name}"));
        assert_eq!(found, *expected, "{name} in {tree:#}");
    }
}

fn session<A: Wire>(client: A, vip: A, local: A, server: A) -> Session<A> {
    Session {
        born: 0x1011_1213,
        protocol: Protocol::Tcp,
        state: TcpState::Contested,
        mode: Mode::FullNat,
        doubt: Doubt::OF_ADOPTION,
        scales: Scales::WIDEST,
        extras: Extras::SHIFTED.with(Extras::HAIRPIN),
        idle: 101,
        age: 102,
        timeout: 103,
        client,
        vip,
        local,
        server,
        client_port: 1001,
        vip_port: 1002,
        local_port: 1003,
        server_port: 1004,
        forward_end: 0xa000_0001,
        reply_end: 0xa000_0002,
        shifts: None,
        server_ip: None,
    }
}

fn session_v4() -> Session<Ipv4Addr> {
    let ip = |host| Ipv4Addr::new(192, 0, 2, host);
    Session {
        shifts: Some(Shifts { forward: 201, reply: 202, time: 203, at: 204, note: 0x205 }),
        ..session(ip(1), ip(2), ip(3), ip(4))
    }
}

fn session_v6() -> Session<Ipv6Addr> {
    let ip = |host| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host);
    Session {
        server_ip: Some(Ipv4Addr::new(10, 0, 0, 9).into()),
        ..session(ip(1), ip(2), ip(3), ip(4))
    }
}

fn push<R: Emit>(record: R) -> impl Fn(&mut Builder<[u8; MAX]>) -> bool {
    move |builder| builder.push(&record)
}

#[test]
fn the_header() {
    let datagram = sealed(Kind::Stream, &[&push(End(1))]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key_id = format!("0x{}", hex(&datagram[24..28]));
    let mac = datagram[32..48].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
    // On its port, and on another by its magic.
    for port in [DEFAULT_PORT, 1234] {
        let layers = &dissect(&[(port, datagram.clone())])[0];
        assert_fields(
            layers,
            &[
                ("magic", &["0x5348"]),
                ("version", &["1"]),
                ("kind", &["0"]),
                ("node", &["1"]),
                ("from_worker", &["3"]),
                ("to", &["255"]),
                ("flags", &["0x01"]),
                ("flags.repeated", &["1"]),
                ("boot", &["0x0102030405060708"]),
                ("sequence", &["281474976710655"]),
                ("key_id", &[&key_id]),
                ("reserved", &["0x00000000"]),
                ("mac", &[&mac]),
                ("type", &["10"]),
                ("length", &["18"]),
            ],
        );
    }
}

#[test]
fn sessions() {
    let (v4, v6) = (session_v4(), session_v6());
    let layers = &dissect(&[(DEFAULT_PORT, sealed(Kind::Stream, &[&push(v4), &push(v6)]))])[0];
    assert_fields(
        layers,
        &[
            ("type", &["1", "2"]),
            ("born", &["269554195", "269554195"]),
            ("protocol", &["6", "6"]),
            ("state", &["9", "9"]),
            ("mode", &["1", "1"]),
            ("doubt", &["0x20", "0x20"]),
            ("doubt.adopted", &["1", "1"]),
            ("doubt.by_server", &["0", "0"]),
            ("scales", &["0xee", "0xee"]),
            ("presence", &["0x01", "0x02"]),
            ("extras", &["0x8004", "0x8004"]),
            ("extras.shifted", &["1", "1"]),
            ("extras.hairpin", &["1", "1"]),
            ("extras.told", &["0", "0"]),
            ("idle", &["101", "101"]),
            ("age", &["102", "102"]),
            ("timeout", &["103", "103"]),
            ("client4", &["192.0.2.1"]),
            ("vip4", &["192.0.2.2"]),
            ("local4", &["192.0.2.3"]),
            ("server4", &["192.0.2.4"]),
            ("client6", &["2001:db8::1"]),
            ("vip6", &["2001:db8::2"]),
            ("local6", &["2001:db8::3"]),
            ("server6", &["2001:db8::4"]),
            ("client_port", &["1001", "1001"]),
            ("vip_port", &["1002", "1002"]),
            ("local_port", &["1003", "1003"]),
            ("server_port", &["1004", "1004"]),
            ("forward_end", &["2684354561", "2684354561"]),
            ("reply_end", &["2684354562", "2684354562"]),
            ("forward_shift", &["201"]),
            ("reply_shift", &["202"]),
            ("time_shift", &["203"]),
            ("shift_at", &["204"]),
            ("note", &["0x00000205"]),
            ("server_ip", &["::ffff:10.0.0.9"]),
            ("unknown", &[]),
        ],
    );
}

#[test]
fn the_rest_of_a_stream() {
    let (v4, v6) = (session_v4(), session_v6());
    let close = |reason| (Reason(reason), 7);
    let ((reason_v4, born), (reason_v6, _)) = (close(0), close(3));
    let close_v4 = Close {
        born,
        reason: reason_v4,
        protocol: Protocol::Udp,
        client: v4.client,
        vip: v4.vip,
        client_port: 1,
        vip_port: 2,
    };
    let close_v6 = Close {
        born,
        reason: reason_v6,
        protocol: Protocol::Icmp,
        client: v6.client,
        vip: v6.vip,
        client_port: 3,
        vip_port: 4,
    };
    let touch_v4 = Touch {
        born: 8,
        idle: 9,
        protocol: Protocol::Tcp,
        state: TcpState::SynProxied,
        client: v4.client,
        vip: v4.vip,
        client_port: 5,
        vip_port: 6,
        forward_end: 10,
        reply_end: 11,
    };
    let touch_v6 = Touch {
        born: 8,
        idle: 9,
        protocol: Protocol::Udp,
        state: TcpState::Udp,
        client: v6.client,
        vip: v6.vip,
        client_port: 7,
        vip_port: 8,
        forward_end: 12,
        reply_end: 13,
    };
    let persist_v4 =
        Persist { scope: 0x1234, life: 14, client: v4.client, server_ip: v4.server.into() };
    let persist_v6 =
        Persist { scope: u64::MAX, life: 15, client: v6.client, server_ip: v6.server.into() };
    let digest = Digest { bucket: 127, count: 16, xor: 0x17 };
    let datagram = sealed(
        Kind::Stream,
        &[
            &push(close_v4),
            &push(close_v6),
            &push(touch_v4),
            &push(touch_v6),
            &push(persist_v4),
            &push(persist_v6),
            &push(Begin { buckets: 1 << 127, total: 0x1_0001 }),
            &push(End(2)),
            &push(digest),
        ],
    );
    let layers = &dissect(&[(DEFAULT_PORT, datagram)])[0];
    assert_fields(
        layers,
        &[
            ("type", &["3", "4", "5", "6", "7", "8", "9", "10", "11"]),
            ("born", &["7", "7", "8", "8"]),
            ("reason", &["0", "3"]),
            ("protocol", &["17", "1", "6", "17"]),
            ("state", &["10", "0"]),
            ("client4", &["192.0.2.1"; 3]),
            ("vip4", &["192.0.2.2"; 2]),
            ("client6", &["2001:db8::1"; 3]),
            ("vip6", &["2001:db8::2"; 2]),
            ("client_port", &["1", "3", "5", "7"]),
            ("vip_port", &["2", "4", "6", "8"]),
            ("idle", &["9", "9"]),
            ("forward_end", &["10", "12"]),
            ("reply_end", &["11", "13"]),
            ("scope", &["0x0000000000001234", "0xffffffffffffffff"]),
            ("life", &["14", "15"]),
            ("server_ip", &["::ffff:192.0.2.4", "2001:db8::4"]),
            (
                "buckets",
                &[
                    "80:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00",
                    "00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:02",
                ],
            ),
            ("total", &["65537"]),
            ("bucket", &["127"]),
            ("count", &["16"]),
            ("xor", &["0x0000000000000017"]),
            ("unknown", &[]),
        ],
    );
}

#[test]
fn control() {
    let about = About {
        workers: 4,
        flags: Flags::SYNCED,
        stream: 77,
        config: 0xc0ff_ee00,
        version: VersionText::new("0.1.0"),
        lacking: 0x1_0002,
    };
    let hello = Hello { echo: 0x55, ..Association::hello_of_stream(0x44, 0x66, &about) };
    let port = Port {
        index: 2,
        mac: [2, 0, 0, 0, 0, 0x12],
        v4: Some((Ipv4Addr::new(192, 0, 2, 9), 24)),
        v6: Some((Ipv6Addr::LOCALHOST, 64)),
    };
    let datagram = sealed(
        Kind::Control,
        &[
            &push(hello),
            &push(Ack { worker: 1, contiguous: 20, highest: 30 }),
            &push(Nak { worker: 2, from: 21, count: 9 }),
            &push(Gone { through: 19 }),
            &push(Want(1)),
            &push(port),
        ],
    );
    let layers = &dissect(&[(DEFAULT_PORT, datagram)])[0];
    assert_fields(
        layers,
        &[
            ("kind", &["1"]),
            ("flags.repeated", &["0"]),
            ("type", &["32", "33", "34", "35", "36", "37"]),
            ("challenge", &["0x0000000000000044"]),
            ("echo", &["0x0000000000000055"]),
            ("peer_boot", &["0x0000000000000066"]),
            ("workers", &["4"]),
            ("hello.synced", &["1"]),
            ("hello.leaving", &["0"]),
            ("hello.lacking", &["0"]),
            ("stream", &["77"]),
            ("config", &["0x00000000c0ffee00"]),
            ("release", &["0.1.0"]),
            ("lacking", &["65538"]),
            ("worker", &["1", "2"]),
            ("contiguous", &["20"]),
            ("highest", &["30"]),
            ("from", &["21"]),
            ("asked", &["9"]),
            ("through", &["19"]),
            ("index", &["2"]),
            ("ether", &["02:00:00:00:00:12"]),
            ("address4", &["192.0.2.9"]),
            ("prefix4", &["24"]),
            ("address6", &["::1"]),
            ("prefix6", &["64"]),
            ("unknown", &[]),
        ],
    );
}

#[test]
fn a_relayed_frame_is_dissected_too() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4])
        .ipv4([198, 51, 100, 7], [192, 0, 2, 10], 63)
        .tcp(4711, 80, 1, 1000)
        .write(&mut frame, b"hello")
        .unwrap();
    let mut datagram = vec![0; HEADER];
    datagram.push(5);
    datagram.extend(&frame);
    seal(&mut datagram, &header(Kind::Relay), &keys());
    let layers = &dissect(&[(DEFAULT_PORT, datagram)])[0];
    assert_fields(layers, &[("kind", &["2"]), ("port", &["5"])]);
    assert_eq!(values(layers, "tcp.srcport"), ["4711"]);
    assert!(values(layers, "ip.src").contains(&"198.51.100.7".to_owned()));
}

#[test]
fn what_is_not_known_and_what_is_broken() {
    let session = session_v4();
    let longer = |builder: &mut Builder<[u8; MAX]>| {
        let mut bytes = [0xaa; 100];
        let length = session.emit(&mut bytes);
        bytes[1] = length as u8 + 2;
        builder.push_bytes(&bytes[..length + 2])
    };
    let bytes =
        |bytes: &'static [u8]| move |builder: &mut Builder<[u8; MAX]>| builder.push_bytes(bytes);
    // Of a node that did not have the last field of these yet.
    let shorter = |builder: &mut Builder<[u8; MAX]>| {
        let mut bytes = [0; 100];
        Begin { buckets: 1, total: 7 }.emit(&mut bytes);
        bytes[1] = 18;
        builder.push_bytes(&bytes[..18])
    };
    let mut other_version = sealed(Kind::Stream, &[]);
    other_version[2] = 9;
    let layers = dissect(&[
        (DEFAULT_PORT, sealed(Kind::Stream, &[&longer, &bytes(&[200, 3, 7]), &push(End(1))])),
        (DEFAULT_PORT, sealed(Kind::Stream, &[&bytes(&[34, 4, 0, 0]), &push(End(1))])),
        (DEFAULT_PORT, sealed(Kind::Stream, &[&bytes(&[34, 1]), &push(End(1))])),
        (DEFAULT_PORT, sealed(Kind::Stream, &[&bytes(&[1, 200, 0])])),
        (DEFAULT_PORT, sealed(Kind::Stream, &[&bytes(&[1])])),
        (DEFAULT_PORT, other_version),
        (DEFAULT_PORT, sealed(Kind::Stream, &[])[..47].to_vec()),
        (DEFAULT_PORT, sealed(Kind::Stream, &[&shorter, &push(End(1))])),
    ]);
    assert_fields(&layers[0], &[("unknown", &["aa:aa", "07"]), ("type", &["1", "200", "10"])]);
    let malformed = |layers: &Value| !values(layers, "_ws.expert.message").is_empty();
    assert!(!malformed(&layers[0]));
    assert_fields(&layers[1], &[("type", &["34", "10"])]);
    assert_fields(&layers[7], &[("type", &["9", "10"]), ("total", &[]), ("unknown", &[])]);
    assert!(!malformed(&layers[7]), "{:#}", layers[7]);
    for (at, layers) in layers.iter().enumerate().take(7).skip(1) {
        assert!(malformed(layers), "{at}: {layers:#}");
        assert!(!layers.to_string().contains("Lua"), "{at}: {layers:#}");
    }
    assert_fields(&layers[5], &[("version", &["9"]), ("kind", &[])]);
}
