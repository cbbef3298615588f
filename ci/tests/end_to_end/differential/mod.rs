//! The same client traffic through Shunt and through the Linux kernel's own NAT (nftables): servers
//! and clients must get the same packets.
//!
//! ```text
//!  client's script ── eth0 ── front [kernel, then Shunt] back ── eth0 ── server's script
//!  192.0.2.101                VIP 192.0.2.20                            10.0.0.50
//! ```
//!
//! Client and server are scripts on packet sockets, with addresses that no kernel has, so that
//! nobody else answers. [`script`] holds the conversations: TCP and UDP of all sorts, retransmitted,
//! overtaken, fragmented, complained about by ICMP errors. Each is played in both families against a
//! service in `nat` (the kernel: `dnat`) and one in `fullnat` (`dnat` and `snat`). A packet is sent
//! when the one before it has arrived, and what arrives is written down.
//!
//! **Compared** is every packet from the IP header to its end: TTL, addresses, ports, sequence
//! numbers, options, data. So is that nothing else arrives. Besides, for each switch: all checksums
//! are right, an ICMP error quotes what its receiver had sent, and a connection keeps its local
//! endpoint.
//!
//! **What may differ** and is not compared: the MAC addresses; in fullnat the local address and port
//! towards the server, which each switch chooses, with the checksums over them; the identification
//! of fragments, which IPv6 in Linux and fullnat in Shunt choose anew, and their order, since Linux
//! puts them together and sends them off in theirs.

mod connection;
mod kernel;
mod packet;
mod script;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use packet::{End, Surroundings};
use script::{Body, Conversation, Side, Step};

use crate::namespace::Namespace;
use crate::raw;
use crate::rig::{Family, Mode, Plan, Rig};

/// How long a packet may take through either switch.
const PATIENCE: Duration = Duration::from_secs(5);
const MODES: [Mode; 2] = [Mode::Nat, Mode::FullNat];

fn client(family: Family) -> IpAddr {
    family.pick("192.0.2.101", "2001:db8:1::101")
}

fn server(family: Family, mode: Mode) -> SocketAddr {
    let port = if mode == Mode::Nat { 9090 } else { 9091 };
    SocketAddr::new(family.pick("10.0.0.50", "2001:db8:2::50"), port)
}

fn service(family: Family, mode: Mode) -> SocketAddr {
    let port = if mode == Mode::Nat { 7070 } else { 7071 };
    SocketAddr::new(family.pick("192.0.2.20", "2001:db8:1::20"), port)
}

/// The rig's local addresses.
fn is_local(address: IpAddr) -> bool {
    let local = [("10.0.0.201", "2001:db8:2::201"), ("10.0.0.202", "2001:db8:2::202")];
    local.iter().any(|(v4, v6)| Family::BOTH.iter().any(|family| family.pick(v4, v6) == address))
}

/// A conversation over a family and through a service.
#[derive(Clone, Copy)]
struct Case<'a> {
    family: Family,
    mode: Mode,
    client: SocketAddr,
    conversation: &'a Conversation,
}

/// What arrived for a step: the packet, put together and normalised, and its pieces.
type Arrival = (Vec<u8>, Vec<usize>);

#[test]
fn the_kernel_and_shunt_deliver_the_same() {
    let conversations = script::conversations();
    let cases = cases(&conversations);
    let mut plan = Plan::new(Mode::FullNat, 2).weights(&[1]);
    // For the kernel puts fragments together before af_packet sees them.
    plan.taps = true;
    let mut rig = Rig::without_shunt(plan);
    for end in [&rig.client, &rig.servers[0].namespace] {
        // What comes for a script is the script's alone.
        end.sysctl("net.ipv4.ip_forward", "0");
    }

    kernel::take_over(&rig);
    let by_kernel = Bench::new("the kernel", &rig, ["front", "back"].map(|i| mac(&rig.lb, i)));
    let by_kernel: Vec<_> = cases.iter().map(|case| by_kernel.play(case)).collect();
    kernel::retire(&rig);

    rig.plan.sections = sections(&rig);
    let config = rig.write_config("shunt.toml", &rig.config());
    rig.run_shunt(&config);
    let by_shunt = Bench::new("Shunt", &rig, ["front", "back"].map(|port| port_mac(&rig, port)));
    let by_shunt: Vec<_> = cases.iter().map(|case| by_shunt.play(case)).collect();

    let mut compared = 0;
    for ((case, kernel), shunt) in cases.iter().zip(&by_kernel).zip(&by_shunt) {
        for (n, (kernel, shunt)) in kernel.iter().zip(shunt).enumerate() {
            assert!(
                kernel == shunt,
                "{}:\n the kernel {}\n Shunt      {}\n (pieces {:?}, {:?})",
                case.describe(n),
                hex(&kernel.0),
                hex(&shunt.0),
                kernel.1,
                shunt.1,
            );
            compared += 1;
        }
    }
    eprintln!("{} conversations, {compared} packets", cases.len());
    assert!(cases.len() > 100 && compared > 1000, "too few to say anything");
    rig.finish();
}

fn cases(conversations: &[Conversation]) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for (conversation, port) in conversations.iter().zip(20_000..) {
        for family in Family::BOTH {
            for mode in MODES {
                let client = SocketAddr::new(client(family), port);
                if family == Family::V4 || !conversation.is_ipv4_only() {
                    cases.push(Case { family, mode, client, conversation });
                }
            }
        }
    }
    cases
}

impl Case<'_> {
    fn describe(&self, step: usize) -> String {
        let Case { family, mode, conversation: Conversation { name, steps, .. }, .. } = self;
        let Step { from, body, .. } = &steps[step];
        let what = match body {
            Body::Tcp { header, data } => format!("{header:?} and {} bytes", data.len()),
            Body::Udp { data, checksum } => format!("UDP, {} bytes, {checksum:?}", data.len()),
            Body::Error { .. } => format!("{body:?}"),
        };
        format!("{family:?} {mode:?} `{name}` step {step} from {from:?} ({what})")
    }
}

/// The two scripts' sockets around a switch.
struct Bench {
    switch: &'static str,
    client: Host,
    server: Host,
}

/// A script's socket.
struct Host {
    socket: OwnedFd,
    mac: [u8; 6],
    switch_mac: [u8; 6],
}

impl Bench {
    fn new(switch: &'static str, rig: &Rig, [front, back]: [[u8; 6]; 2]) -> Self {
        let host = |namespace: &Namespace, switch_mac| Host {
            socket: namespace.enter(|| raw::frames_of("eth0")),
            mac: mac(namespace, "eth0"),
            switch_mac,
        };
        let client = host(&rig.client, front);
        Bench { switch, client, server: host(&rig.servers[0].namespace, back) }
    }

    /// Plays a conversation: what arrived for each of its steps.
    fn play(&self, case: &Case<'_>) -> Vec<Arrival> {
        let mut state = State::default();
        let mut arrivals = Vec::new();
        for (n, step) in case.conversation.steps.iter().enumerate() {
            let arrival = self.step(case, step, &mut state);
            let complain = |what| panic!("{}: {}: {what}", self.switch, case.describe(n));
            arrivals.push(arrival.unwrap_or_else(complain));
        }
        let server = server(case.family, case.mode);
        for (host, address) in [(&self.client, case.client.ip()), (&self.server, server.ip())] {
            let more = host.receive_at_once(address);
            assert_eq!(more, None, "{}: after {}", self.switch, case.describe(arrivals.len() - 1));
        }
        arrivals
    }

    /// Sends a packet and receives it.
    ///
    /// # Errors
    /// What cannot be right, whatever the other switch does.
    fn step(&self, case: &Case<'_>, step: &Step, state: &mut State) -> Result<Arrival, String> {
        let (service, server) = (service(case.family, case.mode), server(case.family, case.mode));
        let (me, other) = (step.from as usize, 1 - step.from as usize);
        let (from, to, source, destination, arrives_as) = match step.from {
            Side::Client => {
                (&self.client, &self.server, case.client, service, (case.client, server))
            }
            Side::Server => {
                let peer = state.peer.unwrap_or(case.client);
                (&self.server, &self.client, server, peer, (service, case.client))
            }
        };
        let received = &state.received[me];
        let around = Surroundings { source, destination, arrives_as, received };
        let sent = packet::build(&step.body, &around);
        if step.pieces.is_empty() {
            from.send(&sent);
        } else {
            let pieces = packet::cut(&sent, script::PIECE);
            assert_eq!(pieces.len(), step.pieces.len());
            step.pieces.iter().for_each(|&n| from.send(&pieces[n]));
        }

        let expected = step.pieces.len().max(1);
        let pieces = to.receive(arrives_as.1.ip(), expected);
        if pieces.len() < expected {
            return Err(format!("{} of {expected} pieces arrived", pieces.len()));
        }
        let joined = packet::join(pieces);
        let (mut packet, lengths) = joined.ok_or("the fragments do not make a packet")?;
        if !packet::is_sound(&packet) {
            return Err(format!("a checksum is wrong in {}", hex(&packet)));
        }
        let about = &state.sent[other];
        if matches!(step.body, Body::Error { .. }) && !packet::quotes(&packet, about) {
            return Err(format!("{} does not quote {}", hex(&packet), hex(about)));
        }
        state.sent[me] = sent;
        state.received[other].clone_from(&packet);
        if step.from == Side::Client && case.mode == Mode::FullNat {
            state.meet_peer(&packet, step)?;
            packet::blank(&mut packet, End::Source);
        }
        Ok((packet, lengths))
    }
}

/// Of a conversation in progress.
#[derive(Default)]
struct State {
    /// How the server knows the client.
    peer: Option<SocketAddr>,
    /// The last packets of client and server.
    sent: [Vec<u8>; 2],
    /// The last packets to client and server.
    received: [Vec<u8>; 2],
}

impl State {
    /// A local endpoint stands for the client, the same over all of a connection.
    fn meet_peer(&mut self, packet: &[u8], step: &Step) -> Result<(), String> {
        let address = packet::address(packet, End::Source);
        if !is_local(address) {
            return Err(format!("{address} is no local address"));
        }
        // An ICMP error has no port.
        let source = packet::source(packet).or(self.peer);
        if source != self.peer && self.peer.is_some() && !step.opens() {
            return Err(format!("{source:?} was {:?}", self.peer));
        }
        self.peer = source;
        Ok(())
    }
}

impl Step {
    /// Whether it may open a connection.
    fn opens(&self) -> bool {
        matches!(&self.body, Body::Tcp { header, .. } if header.syn)
    }
}

impl Host {
    fn send(&self, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        raw::give(&self.socket, &[&self.switch_mac[..], &self.mac, &kind, packet].concat());
    }

    /// The next `count` packets to `address`, or as many as come in time.
    fn receive(&self, address: IpAddr, count: usize) -> Vec<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        let mut packets = Vec::new();
        while packets.len() < count {
            match self.receive_at_once(address) {
                Some(packet) => packets.push(packet),
                None if Instant::now() > end => break,
                None => raw::wait(&self.socket, PATIENCE),
            }
        }
        packets
    }

    /// The next packet to `address`, if it is there.
    fn receive_at_once(&self, address: IpAddr) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        loop {
            let frame = raw::take(&self.socket, &mut buffer)?;
            if let Some(packet) = packet::of_frame(frame)
                && frame.starts_with(&self.mac)
                && packet::address(packet, End::Destination) == address
            {
                return Some(packet.to_vec());
            }
        }
    }
}

/// The services for Shunt, and where their two scripts are.
fn sections(rig: &Rig) -> String {
    let mut text = String::new();
    for (address, mac, port) in neighbors(rig) {
        text +=
            &format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"{mac}\"\nport = \"{port}\"\n");
    }
    for mode in MODES {
        for protocol in ["tcp", "udp"] {
            let [v4, v6] = Family::BOTH.map(|family| service(family, mode));
            text += &format!(
                "[[service]]\nname = \"{protocol}-{0}\"\nprotocol = \"{protocol}\"\n\
                 listen = [\"{v4}\", \"{v6}\"]\nmode = \"{0}\"\n",
                mode.name()
            );
            for server in Family::BOTH.map(|family| server(family, mode)) {
                text += &format!("[[service.server]]\naddress = \"{server}\"\n");
            }
        }
    }
    text
}

/// Address, MAC address and port of the scripts.
fn neighbors(rig: &Rig) -> Vec<(IpAddr, String, &'static str)> {
    let text = |namespace| mac(namespace, "eth0").map(|byte| format!("{byte:02x}")).join(":");
    let (front, back) = (text(&rig.client), text(&rig.servers[0].namespace));
    let both = |family| {
        let server = server(family, Mode::Nat).ip();
        [(client(family), front.clone(), "front"), (server, back.clone(), "back")]
    };
    Family::BOTH.into_iter().flat_map(both).collect()
}

/// The MAC address of an interface.
fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let text = namespace.ip(&format!("-json link show dev {interface}"));
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
    parse_mac(&links[0]["address"])
}

/// The MAC address of a port of Shunt.
fn port_mac(rig: &Rig, name: &str) -> [u8; 6] {
    let view: serde_json::Value = rig.json(&["ports"]);
    let ports = view["ports"].as_array().expect("ports");
    parse_mac(&ports.iter().find(|port| port["name"] == name).expect("the port")["mac"])
}

fn parse_mac(value: &serde_json::Value) -> [u8; 6] {
    let text = value.as_str().expect("a MAC address");
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    std::array::from_fn(|_| bytes.next().expect("six bytes"))
}

/// The headers of a packet at least.
fn hex(packet: &[u8]) -> String {
    let shown = packet.iter().take(160).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{shown} ({} bytes)", packet.len())
}
