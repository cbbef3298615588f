//! Real DPDK ports, without huge pages and without privileges: vdevs that need no kernel interface.
//!
//! EAL can be started once per process, so one test runs all that needs it, and each failure of its
//! start is provoked in a child process of its own.

use std::process::Command;

use shunt::datapath::frame::{Frame, RxChecksum};
use shunt::datapath::snapshot::{PortId, Side};
use shunt::dpdk::{
    Capabilities, DpdkIo, Eal, EalOptions, Error, Mempool, PoolOptions, PortConfig, Ports,
    RssFields, Steering, device_names, probe,
};
use shunt::io::{BURST, Burst, BurstIo};

const KEY: [u8; 40] = [0x6d; 40];
const RING: PortId = PortId(0);
const NULL: PortId = PortId(7);
const CAPTURE: PortId = PortId(3);

fn options(vdevs: &[&str]) -> EalOptions {
    EalOptions {
        memory_mb: 64,
        hugepages: false,
        vdevs: vdevs.iter().map(|&v| v.to_owned()).collect(),
        ..EalOptions::default()
    }
}

fn port(id: PortId, device: &str) -> PortConfig {
    PortConfig {
        id,
        aliases: Vec::new(),
        device: device.to_owned(),
        mtu: 1500,
        tagged: false,
        side: Side::Both,
        rx_desc: 256,
        tx_desc: 256,
    }
}

fn start(
    pool: &Mempool,
    ports: &[PortConfig],
    workers: u16,
) -> Result<(Ports, Vec<DpdkIo>), Error> {
    Ports::start(pool, ports, Steering { workers, worker_of: &[0; 128], key: &KEY })
}

/// A pcap file (microseconds, Ethernet) of these frames.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [1, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of a pcap file.
fn frames_of(file: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// 60 to 1514 bytes, each frame different.
fn sample(i: usize) -> Vec<u8> {
    let len = [60, 61, 64, 590, 1513, 1514][i % 6];
    (0..len).map(|j| (i * 7 + j) as u8).collect()
}

fn frame(io: &mut DpdkIo, bytes: &[u8]) -> <DpdkIo as BurstIo>::Frame {
    let mut frame = io.allocate().expect("the pool has buffers");
    assert!(frame.set_len(bytes.len()));
    frame.bytes_mut().copy_from_slice(bytes);
    frame
}

#[test]
fn frames_pass_through_ports() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let samples: Vec<Vec<u8>> = (0..40).map(sample).collect();
    std::fs::write(&input, pcap(&samples)).unwrap();
    let capture = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());

    let eal = Eal::init(&options(&["net_ring0", "net_null0,size=80", &capture])).unwrap();
    assert_eq!(device_names(&eal), ["net_ring0", "net_null0", "net_pcap0"]);
    assert_eq!(Eal::init(&options(&[])).unwrap_err(), Error::AlreadyInitialised);
    assert!(Eal::version().starts_with("DPDK "));

    let pool_options = PoolOptions { packets: 4095, cache: 64, mtu: 1500 };
    let pool = Mempool::create(&eal, pool_options).unwrap();
    pool_errors(&eal, pool_options);
    let caps = probe(&eal, "net_null0").unwrap();
    assert_eq!((caps.driver.as_str(), caps.tx_queues_in_use), ("net_null", 0));
    port_errors(&pool);

    let configs = [port(RING, "net_ring0"), port(NULL, "net_null0"), port(CAPTURE, "net_pcap0")];
    let (ports, mut ios) = start(&pool, &configs, 1).unwrap();
    assert_eq!(ios.len(), 1);
    let io = ios.remove(0);
    let capabilities: Vec<(PortId, &Capabilities)> = ports.capabilities().collect();
    assert!(capabilities.is_sorted_by_key(|(id, _)| *id));
    let null = capabilities.iter().find(|(id, _)| *id == NULL).unwrap().1;
    assert_eq!((null.rx_queues_in_use, null.mtu), (1, 1500));
    assert_eq!(null.rss_in_use, RssFields::None);

    // The worker's part runs in a registered thread, as in production.
    let pool_in_use = pool.in_use();
    std::thread::scope(|scope| {
        let (eal, ports) = (&eal, &ports);
        scope.spawn(move || {
            let guard = eal.register_thread().unwrap();
            let mut io = io;
            mbufs(&mut io);
            ring_loops_back(&mut io, ports);
            null_gives_and_takes(&mut io);
            capture_is_copied(&mut io, &samples);
            no_such_port(&mut io);
            drop(guard);
        });
    });
    assert_eq!(pool.in_use(), pool_in_use, "every buffer came back");

    assert!(ports.handle(RING).unwrap().link().up);
    assert!(ports.handle(PortId(9)).is_none());
    drop(ports);
    assert_eq!(
        frames_of(&std::fs::read(&output).unwrap()),
        (0..40).map(sample).collect::<Vec<_>>()
    );
    assert_eq!(device_names(&eal), Vec::<String>::new(), "dropping the ports closed them");
    assert_eq!(pool.in_use(), 0);
}

fn pool_errors(eal: &Eal, options: PoolOptions) {
    let error = Mempool::create(eal, PoolOptions { packets: 1 << 20, ..options }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1048576 packet buffers need about 2384 MB and dpdk.memory_mb = 64 has not that much left \
         (Cannot allocate memory): raise memory_mb"
    );
    let error = Mempool::create(eal, PoolOptions { cache: 513, ..options }).unwrap_err();
    assert!(matches!(error, Error::PoolOptions { cache: 513, .. }), "{error}");
}

/// Found before any device is opened: a failed start closes those it opened.
fn port_errors(pool: &Mempool) {
    assert_eq!(
        start(pool, &[port(RING, "net_rong0")], 1).unwrap_err().to_string(),
        "no DPDK device is called `net_rong0`; there are: net_ring0, net_null0, net_pcap0"
    );
}

fn mbufs(io: &mut DpdkIo) {
    let mut mbuf = io.allocate().unwrap();
    assert!(mbuf.bytes().is_empty());
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (128, 2048));
    assert!(!mbuf.is_segmented());
    assert_eq!(mbuf.rx_checksum(), RxChecksum::default());

    assert!(mbuf.set_len(4));
    mbuf.bytes_mut().copy_from_slice(b"tail");
    assert!(mbuf.prepend(5));
    mbuf.bytes_mut()[..5].copy_from_slice(b"head-");
    assert_eq!(mbuf.bytes(), b"head-tail");
    assert!(!mbuf.prepend(124), "123 bytes of headroom are left");
    assert!(mbuf.prepend(123));
    assert_eq!(mbuf.headroom(), 0);
    assert!(mbuf.trim_front(123));
    assert!(mbuf.trim_front(5));
    assert_eq!(mbuf.bytes(), b"tail");
    assert!(!mbuf.trim_front(5));
    assert!(!mbuf.set_len(2049));
    assert!(mbuf.set_len(2048));
    assert_eq!(mbuf.tailroom(), 0);
    assert!(mbuf.set_len(2));
    assert_eq!(mbuf.bytes(), b"ta");
    mbuf.prefetch_meta();
    mbuf.prefetch_bytes();
}

/// net_ring gives back what it took, and refuses what its ring does not hold.
fn ring_loops_back(io: &mut DpdkIo, ports: &Ports) {
    let mut burst = Burst::new();
    for i in 0..20 {
        let mut frame = frame(io, &sample(i));
        // As after an encapsulation: the length that counts is the one of the whole packet.
        assert!(frame.prepend(4) && frame.trim_front(4));
        burst.push(frame);
    }
    assert_eq!(io.transmit(RING, &mut burst), 20);
    assert!(burst.is_empty());
    let mut back = Burst::new();
    back.push(frame(io, b"already here"));
    assert_eq!(io.receive(RING, &mut back), 20);
    assert_eq!(back[0].bytes(), b"already here");
    for (i, frame) in back[1..].iter().enumerate() {
        assert_eq!(frame.bytes(), sample(i));
        assert_eq!(frame.rx_port(), RING);
    }
    back.clear();

    // The ring holds 1023: what it refuses stays in the burst, in order.
    let (mut sent, mut refused) = (0, 0);
    for round in 0..40_usize {
        let mut burst: Burst<_> =
            (0..BURST).map(|i| frame(io, &(round * BURST + i).to_be_bytes())).collect();
        let took = io.transmit(RING, &mut burst);
        assert_eq!(burst.len(), BURST - took);
        for (i, frame) in burst.iter().enumerate() {
            assert_eq!(frame.bytes(), (round * BURST + took + i).to_be_bytes());
        }
        sent += took;
        refused += burst.len();
    }
    assert_eq!((sent, refused), (1023, 40 * BURST - 1023));
    let mut received = 0_usize;
    loop {
        let mut burst = Burst::new();
        if io.receive(RING, &mut burst) == 0 {
            break;
        }
        for frame in &burst {
            assert_eq!(frame.bytes(), received.to_be_bytes());
            received += 1;
        }
    }
    assert_eq!(received, 1023);
    let stats = ports.handle(RING).unwrap().stats();
    assert_eq!((stats.tx_packets, stats.rx_packets), (1043, 1043));
}

fn null_gives_and_takes(io: &mut DpdkIo) {
    let mut burst = Burst::new();
    assert_eq!(io.receive(NULL, &mut burst), BURST);
    assert!(burst.iter().all(|f| f.bytes().len() == 80 && f.rx_port() == NULL));
    // No room, nothing received.
    assert_eq!(io.receive(NULL, &mut burst), 0);
    assert_eq!(io.transmit(NULL, &mut burst), BURST);
    assert_eq!(io.transmit(NULL, &mut burst), 0);
}

/// What net_pcap reads is what was written, and the other way.
fn capture_is_copied(io: &mut DpdkIo, samples: &[Vec<u8>]) {
    let mut seen = 0;
    while seen < samples.len() {
        let mut burst = Burst::new();
        let got = io.receive(CAPTURE, &mut burst);
        assert!(got > 0);
        for frame in &burst {
            assert_eq!(frame.bytes(), samples[seen]);
            assert_eq!(frame.rx_port(), CAPTURE);
            seen += 1;
        }
        assert_eq!(io.transmit(CAPTURE, &mut burst), got);
    }
}

fn no_such_port(io: &mut DpdkIo) {
    let mut burst = Burst::new();
    burst.push(frame(io, b"x"));
    for port in [PortId(1), PortId(200)] {
        assert_eq!(io.receive(port, &mut burst), 0);
        assert_eq!(io.transmit(port, &mut burst), 0);
        assert_eq!(burst.len(), 1);
    }
}

/// Runs `child` in a process of its own with `case` and returns what it printed.
fn in_child(case: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("DPDK_PORTS_CASE", case)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|l| l.split_once("RESULT: "));
    line.unwrap_or_else(|| panic!("{case}: {output:?}")).1.to_owned()
}

/// Not a test: the body of the child processes.
#[test]
#[ignore = "started by the test start_up_errors_are_sentences"]
fn child() {
    let Ok(case) = std::env::var("DPDK_PORTS_CASE") else { return };
    let started = |vdevs: &[&str]| Eal::init(&options(vdevs)).map(|_| ());
    let ports = |vdev: &str, configs: &[PortConfig], workers: u16| {
        let eal = Eal::init(&options(&[vdev]))?;
        let pool = Mempool::create(&eal, PoolOptions { packets: 4095, cache: 64, mtu: 1500 })?;
        start(&pool, configs, workers).map(|_| ())
    };
    let result = match case.as_str() {
        "driver" => started(&["net_foo0"]),
        "interface" => started(&["net_null0", "net_af_packet0,iface=nosuch0"]),
        "no iface" => started(&["net_af_packet0"]),
        "file" => started(&["net_pcap0,rx_pcap=/nonexistent"]),
        "socket" => started(&["net_virtio_user0,path=/nonexistent"]),
        "argument" => started(&["net_null0,bogus=1"]),
        "pci" => Eal::init(&EalOptions { allow: vec!["0000:ff:1f.7".into()], ..options(&[]) })
            .map(|_| ()),
        "memory" => Eal::init(&EalOptions { memory_mb: 1 << 30, ..options(&[]) }).map(|_| ()),
        "option" => Eal::init(&EalOptions { extra_args: vec!["--bogus".into()], ..options(&[]) })
            .map(|_| ()),
        "queues" => {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("in.pcap");
            std::fs::write(&file, pcap(&[sample(0)])).unwrap();
            let vdev = format!("net_pcap0,rx_pcap={},tx_pcap=/dev/null", file.display());
            ports(&vdev, &[port(CAPTURE, "net_pcap0")], 2)
        }
        "mtu" => ports("net_null0", &[PortConfig { mtu: 9000, ..port(NULL, "net_null0") }], 1),
        "twice" => ports("net_null0", &[port(NULL, "net_null0"), port(RING, "net_null0")], 1),
        other => panic!("{other}"),
    };
    match result {
        Ok(()) => println!("RESULT: started"),
        Err(error) => println!("RESULT: {error}"),
    }
}

#[test]
fn start_up_errors_are_sentences() {
    for (case, sentence) in [
        (
            "driver",
            "no DPDK driver is called `net_foo` (vdev `net_foo0`): a vdev's name is its driver's \
             and a number, as in net_af_packet0, net_tap0, net_virtio_user0",
        ),
        (
            "interface",
            "vdev `net_af_packet0,iface=nosuch0` did not start: there is no network interface \
             `nosuch0`: `ip link` lists those that exist",
        ),
        ("no iface", "vdev `net_af_packet0` did not start: it needs the argument iface=NAME"),
        (
            "argument",
            "vdev `net_null0,bogus=1` did not start: its driver gives no reason; probably it does \
             not know one of the arguments",
        ),
        (
            "option",
            "EAL did not start: Invalid 'command line' arguments; check [dpdk] extra_args, vdevs \
             and allow",
        ),
        (
            "file",
            "vdev `net_pcap0,rx_pcap=/nonexistent` did not start: Couldn't open /nonexistent: \
             /nonexistent: No such file or directory",
        ),
        (
            "socket",
            "vdev `net_virtio_user0,path=/nonexistent` did not start: nothing listens on \
             `/nonexistent`: start the vhost side first, or let this side listen with server=1",
        ),
        (
            "pci",
            "PCI device `0000:ff:1f.7` is not in this machine: `dpdk-devbind.py --status` lists \
             those it has",
        ),
        (
            "memory",
            "EAL got no memory (Cannot allocate memory): lower dpdk.memory_mb (now 1073741824) or \
             give the machine more",
        ),
        (
            "queues",
            "`net_pcap0` (net_pcap) has 1 transmit queue and there are 2 workers: give its vdev 2 \
             times tx_pcap, tx_iface or rx_iface, or list fewer cores in node.workers",
        ),
        ("mtu", "mtu = 9000 of `net_null0` does not fit the packet buffers of 2048 bytes"),
        ("twice", "device `net_null0` is used by two ports: give each port its own device"),
    ] {
        assert_eq!(in_child(case), sentence, "{case}");
    }
}
