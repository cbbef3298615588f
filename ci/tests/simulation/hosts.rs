//! Clients and servers. A client asks, a server answers with what only the right server can know the
//! right answer to; both look at every byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shunt::datapath::snapshot::Introduction;

use crate::packet::{ACK, Packet, RST, SYN, Segment};
use crate::random::Random;
use crate::tcp::{State, Tcp};

/// Bytes before the data of a question: connection, number, length.
const QUESTION: usize = 8;

/// The bytes that a connection carries at a place.
fn pattern(id: u32, number: u16, at: usize) -> u8 {
    (id.wrapping_mul(31) ^ u32::from(number).wrapping_mul(7) ^ at as u32) as u8
}

fn question(id: u32, number: u16, length: usize) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend((0..length).map(|at| pattern(id, number, at)));
    bytes
}

/// Reads a whole question from the front of `bytes`: its connection, number and length.
fn read_question(bytes: &[u8]) -> Option<(u32, u16, usize)> {
    let head = bytes.get(..QUESTION)?;
    let id = u32::from_be_bytes(head[..4].try_into().unwrap());
    let number = u16::from_be_bytes([head[4], head[5]]);
    let length = usize::from(u16::from_be_bytes([head[6], head[7]]));
    let data = bytes.get(QUESTION..QUESTION + length)?;
    let right = data.iter().enumerate().all(|(at, byte)| *byte == pattern(id, number, at));
    assert!(right, "a question of connection {id} has other bytes than it was sent with");
    Some((id, number, QUESTION + length))
}

/// What the checks have to know of.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A connection got its first question to a server, behind this header.
    Served {
        server: usize,
        id: u32,
        remote: SocketAddr,
        header: Vec<u8>,
    },
    /// A reset came to a client, or to a server.
    ClientReset(u32),
    ServerReset(u32),
    /// The first answer came: from this server.
    Answered {
        id: u32,
        server: usize,
    },
    /// Addresses and ports were used while the connection that had them was not over.
    Clash(u32),
}

pub struct Client {
    pub id: u32,
    pub local: SocketAddr,
    pub vip: SocketAddr,
    /// `None` for UDP, and before it begins.
    pub tcp: Option<Tcp>,
    pub is_tcp: bool,
    pub start_at: u64,
    pub started: bool,
    /// When the handshake was complete; with UDP, and where the handshake is not the server's, when the
    /// first answer came.
    pub established_at: Option<u64>,
    pub server: Option<usize>,
    /// How many questions are left; [`u32::MAX`] of one that lasts.
    pub left: u32,
    pub number: u16,
    /// An answer is waited for.
    waits: bool,
    ask_at: u64,
    again_at: u64,
    pub think: u64,
    answered: Vec<u8>,
    pub done: bool,
    pub done_at: u64,
    /// By node: whether a packet went there that opens a session behind the SYN proxy.
    pub opens_at: [bool; 2],
    /// Why nothing is demanded of it any more.
    pub excuse: Option<&'static str>,
    /// The handshake says nothing of a session.
    is_answered_by_proxy: bool,
    random: Random,
}

impl Client {
    pub fn new(
        id: u32,
        local: SocketAddr,
        vip: SocketAddr,
        is_tcp: bool,
        start_at: u64,
        left: u32,
        mut random: Random,
    ) -> Self {
        // Some think for nearly as long as their session lives.
        let think = random.pick(&[5, 50, 300, 1_000, 2_500]);
        Client {
            id,
            local,
            vip,
            tcp: None,
            is_tcp,
            start_at,
            started: false,
            established_at: None,
            server: None,
            left,
            number: 0,
            waits: false,
            ask_at: start_at,
            again_at: 0,
            think: if is_tcp { think } else { think.min(1_500) },
            answered: Vec::new(),
            done: false,
            done_at: 0,
            opens_at: [false; 2],
            excuse: None,
            is_answered_by_proxy: false,
            random,
        }
    }

    /// Its handshake is with a node, if `so`.
    pub fn with_proxy(self, so: bool) -> Self {
        Client { is_answered_by_proxy: so && self.is_tcp, ..self }
    }

    /// Whether it has begun and is not over.
    pub fn is_active(&self) -> bool {
        self.established_at.is_some() && !self.done && self.excuse.is_none()
    }

    /// Whether it has said all it has to say: its session may then end before it does.
    pub fn is_closing(&self) -> bool {
        self.left == 0 && !self.waits
    }

    /// It ends after the answer it waits for.
    pub fn finish(&mut self) {
        self.left = 0;
        if self.ask_at != u64::MAX {
            self.ask_at = 0;
        }
    }

    /// It is over, however it stands.
    pub fn give_up(&mut self, now: u64) {
        if !self.done {
            (self.done, self.done_at, self.started, self.tcp) = (true, now, true, None);
        }
    }

    /// When [`Client::tick`] has something to do.
    pub fn due(&self) -> Option<u64> {
        if !self.started {
            return Some(self.start_at);
        }
        let repeat = match &self.tcp {
            Some(tcp) => tcp.due(),
            None => (self.waits && !self.done).then_some(self.again_at),
        };
        let ask = (!self.waits && !self.done && self.can_ask()).then_some(self.ask_at);
        repeat.into_iter().chain(ask).min()
    }

    fn can_ask(&self) -> bool {
        self.tcp.as_ref().is_none_or(|tcp| tcp.state == State::Established)
    }

    pub fn tick(&mut self, now: u64, out: &mut Vec<Packet>) {
        if !self.started {
            if now < self.start_at {
                return;
            }
            self.started = true;
            if self.is_tcp {
                let isn = self.random.next() as u32;
                self.tcp = Some(Tcp::connect(self.local, self.vip, isn, now, out));
            }
        }
        if let Some(tcp) = &mut self.tcp {
            tcp.tick(now, out);
        } else if self.waits && now >= self.again_at && !self.done {
            self.again_at = now + 200;
            self.send_datagram(out);
        }
        if !self.waits && !self.done && now >= self.ask_at && self.can_ask() {
            self.ask(now, out);
        }
    }

    fn ask(&mut self, now: u64, out: &mut Vec<Packet>) {
        if self.left == 0 {
            match &mut self.tcp {
                Some(tcp) => tcp.close(now, out),
                None => (self.done, self.done_at) = (true, now),
            }
            self.ask_at = u64::MAX;
            return;
        }
        if self.left != u32::MAX {
            self.left -= 1;
        }
        self.number += 1;
        self.waits = true;
        match &mut self.tcp {
            Some(tcp) => {
                let length = self.random.below(600) as usize;
                tcp.write(&question(self.id, self.number, length), now, out);
            }
            None => {
                self.again_at = now + 200;
                self.send_datagram(out);
            }
        }
    }

    fn send_datagram(&self, out: &mut Vec<Packet>) {
        let payload = question(self.id, self.number, 20);
        out.push(Packet { src: self.local, dst: self.vip, tcp: None, payload });
    }

    pub fn arrive(
        &mut self,
        packet: &Packet,
        now: u64,
        out: &mut Vec<Packet>,
        seen: &mut Vec<Seen>,
    ) {
        assert_eq!(
            packet.src, self.vip,
            "client {} hears from nobody it talks to: {packet}",
            self.id
        );
        if self.is_tcp && self.tcp.is_none() {
            return;
        }
        if let Some(tcp) = &mut self.tcp {
            if tcp.arrive(packet, now, out) && !self.done {
                seen.push(Seen::ClientReset(self.id));
            }
            let is_open = tcp.state == State::Established && !self.is_answered_by_proxy;
            if is_open && self.established_at.is_none() {
                self.established_at = Some(now);
            }
            if tcp.is_over() && !self.done {
                (self.done, self.done_at) = (true, now);
            }
            self.answered.append(&mut tcp.received);
        } else if !self.waits {
            return;
        } else {
            self.answered = packet.payload.clone();
        }
        self.read_answer(now, seen);
        if self.is_tcp {
            self.tick(now, out);
        }
    }

    fn read_answer(&mut self, now: u64, seen: &mut Vec<Seen>) {
        let Some(server) = self.answered.first().copied() else { return };
        let server = usize::from(server);
        let Some((id, number, length)) = read_question(&self.answered[1..]) else { return };
        self.answered.drain(..1 + length);
        assert_eq!(id, self.id, "the answer to another connection");
        if !self.is_tcp && number != self.number {
            // Late: it was asked again meanwhile.
            return;
        }
        assert_eq!((number, self.waits), (self.number, true), "connection {id}: another answer");
        if self.established_at.is_none() {
            self.established_at = Some(now);
        }
        if self.server.is_none() {
            seen.push(Seen::Answered { id, server });
            self.server = Some(server);
        }
        if self.server != Some(server) {
            assert!(
                self.excuse.is_some(),
                "connection {id} is answered by server {server}, it was {:?}'s",
                self.server
            );
            self.server = Some(server);
        }
        self.waits = false;
        self.ask_at = now + self.random.between(self.think / 2, self.think);
    }
}

struct Served {
    tcp: Tcp,
    id: Option<u32>,
    bytes: Vec<u8>,
    header: Option<Vec<u8>>,
    questions: u16,
}

pub struct Server {
    pub index: usize,
    introduction: Introduction,
    connections: BTreeMap<(SocketAddr, SocketAddr), Served>,
    random: Random,
}

impl Server {
    pub fn new(index: usize, introduction: Introduction, random: Random) -> Self {
        Server { index, introduction, connections: BTreeMap::new(), random }
    }

    pub fn due(&self) -> Option<u64> {
        self.connections.values().filter_map(|served| served.tcp.due()).min()
    }

    pub fn tick(&mut self, now: u64, out: &mut Vec<Packet>) {
        for served in self.connections.values_mut() {
            served.tcp.tick(now, out);
        }
        // Nobody is there any more.
        self.connections.retain(|_, served| served.tcp.repeats < 24);
    }

    /// `is_lost`: nothing is demanded of this connection, or it is over.
    pub fn arrive(
        &mut self,
        packet: &Packet,
        now: u64,
        is_lost: impl Fn(u32) -> bool,
        out: &mut Vec<Packet>,
        seen: &mut Vec<Seen>,
    ) {
        let Some(tcp) = packet.tcp else {
            if let Some((id, number, length)) = read_question(&packet.payload) {
                let mut payload = vec![self.index as u8];
                payload.extend(&packet.payload[..length]);
                if number == 1 {
                    seen.push(Seen::Served {
                        server: self.index,
                        id,
                        remote: packet.src,
                        header: Vec::new(),
                    });
                }
                out.push(Packet { src: packet.dst, dst: packet.src, tcp: None, payload });
            }
            return;
        };
        let key = (packet.src, packet.dst);
        let opens = tcp.flags & (SYN | ACK | RST) == SYN;
        if opens && let Some(served) = self.connections.get(&key) {
            let another = served.tcp.peer_isn != tcp.seq;
            if another {
                if let Some(id) = served.id.filter(|id| !served.tcp.is_over() && !is_lost(*id)) {
                    seen.push(Seen::Clash(id));
                }
                self.connections.remove(&key);
            }
        }
        let Some(served) = self.connections.get_mut(&key) else {
            if opens {
                let isn = self.random.next() as u32;
                let tcp = Tcp::accept(packet, isn, now, out);
                let header = (self.introduction == Introduction::None).then(Vec::new);
                let served = Served { tcp, id: None, bytes: Vec::new(), header, questions: 0 };
                self.connections.insert(key, served);
            } else if tcp.flags & RST == 0 {
                // RFC 9293 3.10.7.1.
                let tcp = Segment { flags: RST, seq: tcp.ack, ack: 0 };
                out.push(Packet {
                    src: packet.dst,
                    dst: packet.src,
                    tcp: Some(tcp),
                    payload: vec![],
                });
            }
            return;
        };
        if served.tcp.arrive(packet, now, out) {
            if let Some(id) = served.id.filter(|_| !served.tcp.is_over()) {
                seen.push(Seen::ServerReset(id));
            }
            if served.tcp.state == State::Reset {
                self.connections.remove(&key);
            }
            return;
        }
        served.bytes.append(&mut served.tcp.received);
        if served.header.is_none() {
            served.header = take_header(&mut served.bytes, self.introduction);
        }
        let Some(header) = &served.header else { return };
        while let Some((id, number, length)) = read_question(&served.bytes) {
            assert_eq!(number, served.questions + 1, "connection {id}: a question twice or never");
            assert!(served.id.is_none_or(|known| known == id), "a question of another connection");
            served.questions = number;
            if served.id.is_none() {
                served.id = Some(id);
                let (server, header) = (self.index, header.clone());
                seen.push(Seen::Served { server, id, remote: packet.src, header });
            }
            let mut answer = vec![self.index as u8];
            answer.extend(served.bytes.drain(..length));
            served.tcp.write(&answer, now, out);
        }
        if served.tcp.peer_finished {
            served.tcp.close(now, out);
        }
    }
}

/// Takes the header of the PROXY protocol from the beginning of a stream.
fn take_header(bytes: &mut Vec<u8>, introduction: Introduction) -> Option<Vec<u8>> {
    let length = match introduction {
        Introduction::ProxyV1 => bytes.windows(2).position(|pair| pair == b"\r\n")? + 2,
        _ => 16 + usize::from(u16::from_be_bytes([*bytes.get(14)?, *bytes.get(15)?])),
    };
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}
