//! Two nodes, their hosts and the wires between them, in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt::datapath::snapshot::{Mac, PortId};
use shunt::session::Mode;
use shunt::sync::{Record, records};
use shunt::wire::flow::Protocol;

use crate::check::OPENED_TWICE;
use crate::hosts::{Client, Seen, Server};
use crate::net::{BACK, FRONT, ROUTER_MAC, server_mac};
use crate::network;
use crate::node::Node;
use crate::packet::{ACK, Packet, SYN};
use crate::plan::{Action, Plan, Settings, TRAFFIC_MS, Wire};
use crate::random::Random;

/// The longest time between two turns, in milliseconds.
const IDLE_MS: u64 = 5;
/// Rounds of deliveries in one millisecond, at the most: beyond that frames go in circles.
const ROUNDS: usize = 1000;
/// From one question of hosts who has an address to the next.
const ASK_MS: u64 = 2_000;

enum Delivery {
    Node(usize, PortId, Vec<u8>),
    Client(Packet),
    Server(usize, Packet),
}

pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub nodes: [Option<Node>; 2],
    pub clients: Vec<Client>,
    pub servers: Vec<Server>,
    by_address: BTreeMap<(bool, SocketAddr), usize>,
    on_wire: BTreeMap<(u64, u64), Delivery>,
    sent: u64,
    random: Random,
    /// The node behind which a MAC address was seen last, by wire.
    behind: BTreeMap<(PortId, Mac), usize>,
    /// What hosts know of addresses, by wire.
    known: BTreeMap<(PortId, IpAddr), Mac>,
    asked_at: u64,
    /// What a node sends does not reach the other.
    pub cut: [bool; 2],
    /// Nodes that stop, and when.
    stops: [Option<u64>; 2],
    settings: [Settings; 2],
    /// What keys each has, of [`KEYS`](crate::plan::KEYS).
    keys: [usize; 2],
    script: Vec<(u64, Action)>,
    /// Since when the nodes have each other; since when both have all sessions.
    pub linked_since: Option<u64>,
    pub synced_since: Option<u64>,
    /// The nodes are apart, though both are there.
    pub split: bool,
    /// By node: whether it has known all sessions since its start, or is the only one.
    pub complete: [bool; 2],
    pub healed: bool,
    busy_at: u64,
    checked_at: u64,
    /// What [`Node::changes`] said of each then.
    sessions_checked: [Option<u64>; 2],
    pub seen: Vec<Seen>,
    pub trace: bool,
    /// How many frames went over wires.
    pub frames: u64,
}

impl World {
    pub fn new(plan: Plan, trace: bool) -> Self {
        let mut random = Random::new(plan.seed ^ 0xabcd_ef01);
        let settings = [0, 1].map(|_| Settings::of(&plan));
        let nodes = [0, 1].map(|id| {
            Some(Node::start(&plan, id, plan.workers[id], &settings[id], 0, &mut random.fork()))
        });
        let servers = (0..plan.servers)
            .map(|index| Server::new(index, plan.introduction, random.fork()))
            .collect();
        let mut world = World {
            now: 0,
            nodes,
            clients: Vec::new(),
            servers,
            by_address: BTreeMap::new(),
            on_wire: BTreeMap::new(),
            sent: 0,
            behind: BTreeMap::new(),
            known: BTreeMap::new(),
            asked_at: 0,
            cut: [false; 2],
            stops: [None; 2],
            settings,
            keys: [0; 2],
            script: plan.script.iter().rev().copied().collect(),
            linked_since: None,
            synced_since: None,
            split: false,
            complete: [false; 2],
            healed: false,
            busy_at: 0,
            checked_at: 0,
            sessions_checked: [None; 2],
            seen: Vec::new(),
            trace,
            frames: 0,
            random,
            plan,
        };
        world.add_clients();
        world
    }

    fn add_clients(&mut self) {
        let (connections, datagrams) = (self.plan.connections, self.plan.datagrams);
        for id in 0..connections + datagrams {
            let is_tcp = id < connections;
            let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
            let lasts = id < self.plan.lasting;
            let end = self.plan.heal_at.max(TRAFFIC_MS + 1_000);
            let start_at = match lasts {
                true => TRAFFIC_MS + self.random.below(200),
                false => self.random.between(TRAFFIC_MS, end),
            };
            let left = if lasts { u32::MAX } else { self.random.between(1, 12) as u32 };
            let port = 20_000 + id as u16 * 7 + self.random.below(7) as u16;
            let local = SocketAddr::new(network::family(&self.plan).client(), port);
            let vip = network::listens(&self.plan, protocol);
            let random = self.random.fork();
            self.by_address.insert((is_tcp, local), self.clients.len());
            let mut client = Client::new(id as u32, local, vip, is_tcp, start_at, left, random)
                .with_proxy(self.plan.syn_proxy);
            // Nothing tells a datagram in the middle of its flow from the first one.
            let is_late = self.plan.between != Wire::GOOD || self.plan.slow;
            if !is_tcp && self.plan.active_active && is_late {
                client.excuse =
                    Some("its packets may be faster than what the nodes tell each other");
            }
            self.clients.push(client);
        }
    }

    /// Lets the time pass until then.
    pub fn run_until(&mut self, end: u64) {
        while self.now < end {
            self.step();
        }
    }

    /// Does what is due now and goes on to the next moment.
    pub fn step(&mut self) {
        self.act();
        self.refresh_addresses();
        self.tick_hosts();
        let mut due = [true; 2];
        for round in 0.. {
            assert!(round < ROUNDS, "at {}: frames go in circles", self.now);
            for (id, is_due) in due.iter_mut().enumerate() {
                if std::mem::take(is_due) {
                    self.turn(id);
                }
            }
            let later = self.on_wire.split_off(&(self.now + 1, 0));
            let deliveries = std::mem::replace(&mut self.on_wire, later);
            if deliveries.is_empty() {
                break;
            }
            self.busy_at = self.now;
            for delivery in deliveries.into_values() {
                self.deliver(delivery, &mut due);
            }
        }
        self.watch();
        self.check_balance();
        let sessions = self.nodes.each_ref().map(|node| node.as_ref().map(Node::changes));
        if self.now >= self.checked_at + 50 || sessions != self.sessions_checked {
            (self.checked_at, self.sessions_checked) = (self.now, sessions);
            self.check();
        }
        self.advance();
    }

    fn advance(&mut self) {
        let idle = match self.healed {
            _ if self.now < self.busy_at + 3 => 1,
            true => 2 * IDLE_MS,
            false => IDLE_MS,
        };
        let hosts = self.clients.iter().filter_map(Client::due);
        let hosts = hosts.chain(self.servers.iter().filter_map(Server::due)).min();
        let script = self.script.last().map(|(at, _)| *at);
        let wires = self.on_wire.first_key_value().map(|((at, _), _)| *at);
        let next = [hosts, script, wires].into_iter().flatten().min();
        self.now = next.unwrap_or(u64::MAX).min(self.now + idle).max(self.now + 1);
    }

    fn tick_hosts(&mut self) {
        let mut out = Vec::new();
        for client in &mut self.clients {
            if client.due().is_some_and(|due| due <= self.now) {
                client.tick(self.now, &mut out);
            }
        }
        self.clients_send(out);
        for index in 0..self.servers.len() {
            if self.servers[index].due().is_some_and(|due| due <= self.now) {
                let mut out = Vec::new();
                self.servers[index].tick(self.now, &mut out);
                self.server_sends(index, out);
            }
        }
    }

    fn turn(&mut self, id: usize) {
        let slow = (self.plan.slow && !self.healed).then_some(&mut self.random);
        let Some(node) = self.nodes[id].as_mut().filter(|node| !node.is_frozen(self.now)) else {
            return;
        };
        for (port, frame) in node.turn(self.now, slow) {
            self.node_sends(id, port, frame);
        }
    }

    fn deliver(&mut self, delivery: Delivery, due: &mut [bool; 2]) {
        let now = self.now;
        match delivery {
            Delivery::Node(id, port, frame) => {
                if let Some(node) = &mut self.nodes[id] {
                    node.arrive(port, &frame);
                    due[id] = true;
                }
            }
            Delivery::Client(packet) => {
                let key = (packet.tcp.is_some(), packet.dst);
                let Some(client) = self.by_address.get(&key).map(|i| &mut self.clients[*i]) else {
                    panic!("a packet to no client: {packet}");
                };
                let mut out = Vec::new();
                client.arrive(&packet, now, &mut out, &mut self.seen);
                self.clients_send(out);
                self.judge();
            }
            Delivery::Server(index, packet) => {
                let mut out = Vec::new();
                let clients = &self.clients;
                let is_lost = |id: u32| {
                    let client = &clients[id as usize];
                    client.done || client.excuse.is_some()
                };
                self.servers[index].arrive(&packet, now, is_lost, &mut out, &mut self.seen);
                self.server_sends(index, out);
                self.judge();
            }
        }
    }

    /// Puts something on a wire.
    fn put(&mut self, wire: Wire, mut make: impl FnMut() -> Delivery) {
        let wire = if self.healed { Wire::GOOD } else { wire };
        if self.random.chance(wire.loss) {
            return;
        }
        for _ in 0..1 + u64::from(self.random.chance(wire.duplicates)) {
            let jitter = if wire.jitter == 0 { 0 } else { self.random.below(wire.jitter + 1) };
            self.sent += 1;
            self.frames += 1;
            self.on_wire.insert((self.now + self.plan.latency + jitter, self.sent), make());
        }
    }

    fn clients_send(&mut self, packets: Vec<Packet>) {
        for packet in packets {
            let vip = packet.dst.ip();
            self.reach_nodes(FRONT, vip, ROUTER_MAC, &packet);
        }
    }

    fn server_sends(&mut self, index: usize, packets: Vec<Packet>) {
        for packet in packets {
            if self.plan.mode == Mode::Dr {
                self.put(self.plan.hosts, || Delivery::Client(packet.clone()));
                continue;
            }
            // Behind NAT the switch is the gateway, by an address that moves with the VIP.
            let to = match self.plan.mode {
                Mode::FullNat => packet.dst.ip(),
                _ => network::family(&self.plan).vip(),
            };
            self.reach_nodes(BACK, to, server_mac(11 + index as u8), &packet);
        }
    }

    /// A host sends a packet to whoever has an address of the nodes.
    fn reach_nodes(&mut self, port: PortId, address: IpAddr, from: Mac, packet: &Packet) {
        if self.trace {
            eprintln!(
                "{:6} {} {packet}",
                self.now,
                if port == FRONT { "client" } else { "server" }
            );
        }
        let wire = self.plan.hosts;
        let mac = if self.plan.active_active {
            let there =
                |id: &usize| self.nodes[*id].as_ref().is_some_and(|n| n.is_reached(self.now));
            let nodes: Vec<usize> = (0..2).filter(there).collect();
            if nodes.is_empty() {
                return;
            }
            let id = self.random.pick(&nodes);
            self.excuse_if_opened_twice(id, packet);
            network::port_mac(id, port)
        } else {
            match self.known.get(&(port, address)) {
                Some(mac) => *mac,
                None => return,
            }
        };
        let frame = packet.frame(from, mac);
        for id in self.reached(port, mac) {
            self.put(wire, || Delivery::Node(id, port, frame.clone()));
        }
    }

    /// A client's packet goes to this node. Where the channel loses or delays what it is given, or a
    /// node is slow, the other may have opened a session by an earlier one without this node's
    /// knowledge: then servers, or two ports of one server, answer with two sequence numbers, and only
    /// one session can remain. Without the SYN proxy it is a SYN that opens one, with it any packet.
    fn excuse_if_opened_twice(&mut self, id: usize, packet: &Packet) {
        let is_late = self.plan.between != Wire::GOOD || self.plan.slow;
        let Some(tcp) = packet.tcp.filter(|_| is_late) else { return };
        let Some(index) = self.by_address.get(&(true, packet.src)) else { return };
        let client = &mut self.clients[*index];
        if client.excuse.is_some() || client.server.is_some() {
            return;
        }
        let knows = |id: usize| {
            let node: Option<&Node> = self.nodes[id].as_ref();
            node.is_some_and(|n| n.session(client.local, client.vip, Protocol::Tcp).is_some())
        };
        let twice = !knows(id)
            && match (tcp.flags & (SYN | ACK) == SYN, self.plan.syn_proxy) {
                (true, false) => knows(1 - id),
                (false, true) => {
                    client.opens_at[id] = true;
                    client.opens_at[1 - id]
                }
                _ => false,
            };
        if twice {
            client.excuse = Some(OPENED_TWICE);
        }
    }

    /// The nodes that a frame to this MAC address reaches: the one behind which it was seen, or all.
    fn reached(&self, port: PortId, mac: Mac) -> Vec<usize> {
        match (0..2).find(|id| network::port_mac(*id, port) == mac) {
            Some(id) => vec![id],
            None => self.behind.get(&(port, mac)).map_or(vec![0, 1], |id| vec![*id]),
        }
    }

    fn node_sends(&mut self, id: usize, port: PortId, frame: Vec<u8>) {
        let (to, from): (Mac, Mac) =
            (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap());
        self.behind.insert((port, from), id);
        let other = 1 - id;
        let packet = || Packet::read(&frame).expect("a host gets something else");
        if to == ROUTER_MAC {
            let packet = packet();
            assert_eq!(port, FRONT, "the router is not here: {packet}");
            if self.trace {
                eprintln!("{:6}   node {id} to client: {packet}", self.now);
            }
            self.put(self.plan.hosts, || Delivery::Client(packet.clone()));
        } else if let Some(index) = (0..self.plan.servers).find(|i| server_mac(11 + *i as u8) == to)
        {
            let packet = packet();
            assert_eq!(port, BACK, "no server is here: {packet}");
            if self.trace {
                eprintln!("{:6}   node {id} to server {index}: {packet}", self.now);
            }
            self.put(self.plan.hosts, || Delivery::Server(index, packet.clone()));
        } else {
            if to[0] & 1 != 0 {
                self.learn(port, &frame);
            }
            let for_other = to[0] & 1 != 0 || self.reached(port, to).contains(&other);
            if self.trace && to[0] & 1 == 0 {
                let packet = Packet::read(&frame).map(|packet| packet.to_string());
                eprintln!(
                    "{:6}   node {id} to the other: {}",
                    self.now,
                    packet.unwrap_or_default()
                );
            } else if self.trace
                && let Some(said) = said(&frame)
            {
                eprintln!("{:6}   node {id} says: {said}", self.now);
            }
            if for_other && !self.cut[id] {
                self.put(self.plan.between, || Delivery::Node(other, port, frame.clone()));
            }
        }
    }

    /// Hosts learn from gratuitous ARP and unsolicited neighbor advertisements.
    fn learn(&mut self, port: PortId, frame: &[u8]) {
        let (address, mac): (IpAddr, &[u8]) = match frame[12..14] {
            [8, 6] => {
                let address: [u8; 4] = frame[28..32].try_into().unwrap();
                (Ipv4Addr::from(address).into(), &frame[22..28])
            }
            [0x86, 0xdd] if frame[20] == 58 && frame[54] == 136 => {
                let address: [u8; 16] = frame[62..78].try_into().unwrap();
                (Ipv6Addr::from(address).into(), &frame[80..86])
            }
            _ => return,
        };
        self.known.insert((port, address), mac.try_into().unwrap());
    }

    /// Hosts ask now and then who has an address; masters answer.
    fn refresh_addresses(&mut self) {
        if self.plan.active_active || self.now < self.asked_at + ASK_MS {
            return;
        }
        self.asked_at = self.now;
        let family = network::family(&self.plan);
        for id in 0..2 {
            let now = self.now;
            let node = self.nodes[id].as_ref();
            if !node.is_some_and(|node| node.masters.has(0) && !node.is_frozen(now)) {
                continue;
            }
            for (port, address) in
                [(FRONT, family.vip()), (BACK, family.vip()), (BACK, family.lip())]
            {
                let mac = match (self.plan.virtual_mac, self.plan.v6) {
                    (true, v6) => [0, 0, 0x5e, 0, 1 + u8::from(v6), network::VRID],
                    (false, _) => network::port_mac(id, port),
                };
                self.known.insert((port, address), mac);
                self.behind.insert((port, mac), id);
            }
        }
    }

    /// Does what the script says.
    fn act(&mut self) {
        for id in 0..2 {
            if self.stops[id].is_some_and(|at| at <= self.now) {
                self.stops[id] = None;
                self.lose(id);
                self.nodes[id] = None;
            }
        }
        while let Some((at, action)) = self.script.last().copied()
            && at <= self.now
        {
            self.script.pop();
            if self.trace {
                eprintln!("{:6} {action:?}", self.now);
            }
            self.perform(action);
        }
        if !self.healed && self.now >= self.plan.heal_at {
            if self.trace {
                eprintln!("{:6} all is well", self.now);
            }
            self.healed = true;
        }
    }

    fn perform(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Crash(id) => {
                self.lose(id);
                self.nodes[id] = None;
                self.stops[id] = None;
            }
            Action::Leave(id, ms) => {
                if let Some(node) = &mut self.nodes[id] {
                    node.leave(now);
                    self.stops[id] = Some(now + ms);
                }
            }
            Action::Start(id, workers) => {
                if self.nodes[id].is_none() {
                    // Perhaps it has stopped in this moment.
                    (self.linked_since, self.synced_since) = (None, None);
                    self.complete[id] = false;
                    let mut random = self.random.fork();
                    let node =
                        Node::start(&self.plan, id, workers, &self.settings[id], now, &mut random);
                    let node = node.with_keys(self.keys[id]);
                    self.nodes[id] = Some(node);
                }
            }
            Action::Freeze(id, ms) => {
                self.lose(id);
                if let Some(node) = &mut self.nodes[id] {
                    (node.frozen_at, node.frozen_until) = (now, now + ms);
                }
            }
            Action::Keys(id, keys) => {
                self.keys[id] = keys;
                if let Some(node) = &mut self.nodes[id] {
                    node.set_keys(keys);
                }
            }
            Action::Cut(id) => self.cut[id] = true,
            Action::Join(id) => self.cut[id] = false,
            Action::Server(id, server, up) => {
                self.settings[id].down[server] = !up;
                for client in &mut self.clients {
                    let opens = client.started && client.established_at.is_none();
                    if opens && client.excuse.is_none() {
                        client.excuse = Some("its SYN is sent to another server, and both answer");
                    }
                }
                self.configure(id);
            }
            Action::Change(id, change) => {
                self.settings[id].change(change);
                self.configure(id);
            }
        }
    }

    fn configure(&mut self, id: usize) {
        if let Some(node) = &mut self.nodes[id] {
            node.configure(&self.plan, &self.settings[id]);
        }
    }
}

/// What a datagram of the channel says.
fn said(frame: &[u8]) -> Option<String> {
    let packet = Packet::read(frame).filter(|packet| packet.tcp.is_none())?;
    let sequence = u64::from_be_bytes(packet.payload.get(16..24)?.try_into().unwrap());
    let (worker, to, again) = (packet.payload[5], packet.payload[6], packet.payload[7] & 1 != 0);
    let records: Vec<String> = records(&packet.payload[48..])
        .filter(|record| !matches!(record, Ok(Record::Digest(digest)) if digest.count == 0))
        .map(|record| format!("{record:?}"))
        .collect();
    Some(format!(
        "{worker} to {to}, {sequence}{}: {}",
        if again { " again" } else { "" },
        records.join("; ")
    ))
}
