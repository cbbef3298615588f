//! The conversations: what a client and a server send each other, without addresses and ports. Made
//! from one seed, so that they are the same in every run.

use etherparse::{TcpHeader, TcpOptionElement};

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

use self::Side::{Client, Server};

impl Side {
    fn other(self) -> Self {
        if self == Client { Server } else { Client }
    }
}

/// The checksum of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Plain,
    /// There is none. Only over IPv4.
    Absent,
    /// As translated it comes to 0 and has to be sent as 0xffff (RFC 768).
    Extreme,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// Port unreachable.
    Unreachable,
    /// Fragmentation needed, packet too big.
    TooBig,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// The header's ports are those of the case.
    Tcp {
        header: TcpHeader,
        data: Vec<u8>,
    },
    Udp {
        data: Vec<u8>,
        checksum: Checksum,
    },
    /// About the packet that its sender received last, of which it quotes so many bytes at most.
    Error {
        complaint: Complaint,
        quoted: usize,
    },
}

/// A packet. The next one is sent when it has arrived.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) from: Side,
    pub(super) body: Body,
    /// In which order the fragments are sent; empty for a packet in one piece.
    pub(super) pieces: &'static [usize],
}

/// A conversation of one client port.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub(super) name: String,
    pub(super) ipv4_only: bool,
    pub(super) steps: Vec<Step>,
}

/// Payload of a fragment; what is cut makes three of them.
pub(super) const PIECE: usize = 1208;
const THREE_PIECES: usize = 2 * PIECE + 500;

/// All of them.
pub(super) fn conversations() -> Vec<Conversation> {
    let mut random = Random(0x5eed);
    let mut all = Vec::new();
    let mut add = |name: &str, steps| {
        let ipv4_only = name.contains("checksum absent");
        all.push(Conversation { name: name.to_owned(), ipv4_only, steps });
    };
    for n in 0..16 {
        add(&format!("tcp {n}"), any_connection(&mut random));
        add(&format!("udp {n}"), any_datagrams(&mut random));
    }
    let connection = |random: &mut Random, script: fn(&mut Connection)| {
        let mut connection = Connection::new(random);
        script(&mut connection);
        connection.steps
    };
    for (name, script) in CONNECTIONS {
        add(name, connection(&mut random, script));
    }
    for (name, checksum) in [
        ("udp, checksum absent", Checksum::Absent),
        ("udp, checksum that comes to 0", Checksum::Extreme),
    ] {
        let datagram = |from, length| {
            let body = Body::Udp { data: vec![0x7b; length], checksum };
            Step { from, body, pieces: &[] }
        };
        let steps = [(Client, 0), (Server, 0), (Client, 33), (Server, 34), (Server, 1001)];
        add(name, steps.map(|(from, length)| datagram(from, length)).into());
    }
    let orders: [&'static [usize]; 3] = [&[0, 1, 2], &[2, 1, 0], &[1, 0, 2]];
    for pieces in orders {
        let steps = [Client, Server, Client, Server].map(|from| Step {
            pieces,
            ..datagram(from, random.bytes(THREE_PIECES, THREE_PIECES))
        });
        add(&format!("udp, fragments in the order {pieces:?}"), steps.into());
    }
    for (complaint, quoted) in [
        (Complaint::Unreachable, 576 - 28),
        (Complaint::TooBig, 576 - 28),
        (Complaint::Unreachable, 48),
    ] {
        let mut steps = Vec::new();
        for from in [Client, Server, Client] {
            steps.push(datagram(from, random.bytes(20, 900)));
            let body = Body::Error { complaint, quoted };
            steps.push(Step { from: from.other(), body, pieces: &[] });
        }
        add(&format!("udp, {complaint:?} with {quoted} bytes"), steps);
    }
    all
}

/// Connections in which something befalls.
const CONNECTIONS: [(&str, fn(&mut Connection<'_>)); 11] = [
    ("tcp, refused", |c| {
        c.send(Client, "S", 0);
        c.send(Server, "RA", 0);
    }),
    ("tcp, a SYN with another number", |c| {
        let number = c.next[0];
        c.send(Client, "S", 0);
        c.next[0] = number.wrapping_add(0x10_0000);
        c.open();
        c.send(Client, "PA", 100);
        c.close(Server);
    }),
    ("tcp, both open at once", |c| {
        let syns = [Client, Server].map(|from| c.make(from, "S", 0));
        c.push_all(syns);
        for from in [Client, Server] {
            // The same SYN, and now it acknowledges.
            c.next[from as usize] = c.next[from as usize].wrapping_sub(1);
            c.send(from, "SA", 0);
        }
        c.send(Client, "PA", 100);
        c.send(Server, "PA", 200);
        c.close(Client);
    }),
    ("tcp, the same port again", |c| {
        for first in [Client, Server, Client] {
            c.open();
            c.send(Server, "PA", 10);
            c.close(first);
            // A later number than any of the old connection (RFC 9293 3.6.1).
            c.next = c.next.map(|next| next.wrapping_add(0x10_0000));
        }
    }),
    ("tcp, data with the SYN's acknowledgement and with the FIN", |c| {
        c.send(Client, "S", 0);
        c.send(Server, "SA", 0);
        c.send(Client, "PA", 1400);
        c.send(Server, "FPA", 700);
        c.send(Client, "FPA", 700);
        c.send(Server, "A", 0);
    }),
    ("tcp, keep-alives and probes of a closed window", |c| {
        c.open();
        for from in [Client, Server] {
            let mut keep_alive = c.make(from, "A", 0);
            keep_alive.tcp().sequence_number = c.next[from as usize].wrapping_sub(1);
            c.push_all([keep_alive]);
            c.send(from.other(), "A", 0);
            let mut closed = c.make(from, "A", 0);
            closed.tcp().window_size = 0;
            let probe = c.make(from.other(), "A", 1);
            c.push_all([closed.clone(), probe.clone(), closed, probe]);
            c.send(from, "A", 0);
        }
        c.close(Server);
    }),
    ("tcp, congestion, urgent data and a selective acknowledgement", |c| {
        c.open();
        let mut congested = c.make(Client, "PA", 500);
        congested.tcp().cwr = true;
        congested.tcp().ece = true;
        let mut urgent = c.make(Client, "PA", 501);
        urgent.tcp().urg = true;
        urgent.tcp().urgent_pointer = 17;
        let mut sack = c.make(Server, "A", 0);
        let edge = urgent.tcp().sequence_number;
        let block = (edge, edge.wrapping_add(501));
        let nop = TcpOptionElement::Noop;
        let option = TcpOptionElement::SelectiveAcknowledgement(block, [None; 3]);
        sack.tcp().set_options(&[nop.clone(), nop, option]).expect("they fit");
        c.push_all([urgent, sack, congested]);
        c.send(Server, "A", 0);
        c.close(Client);
    }),
    ("tcp, a reset that is not believed", |c| {
        c.open();
        c.send(Client, "PA", 300);
        let mut forged = c.make(Client, "R", 0);
        forged.tcp().sequence_number = c.next[0].wrapping_add(100);
        c.push_all([forged]);
        c.send(Server, "A", 0);
        c.send(Client, "PA", 301);
        c.send(Server, "PA", 302);
        c.close(Client);
    }),
    ("tcp, packets too big", |c| {
        c.open();
        for (from, quoted) in [(Client, 548), (Server, 548), (Client, 48), (Server, 48)] {
            let long = c.make(from, "PA", 1400);
            c.push_all([long]);
            c.complain(from.other(), Complaint::TooBig, quoted);
            c.send(from, "PA", 1100);
            c.send(from.other(), "A", 0);
        }
        c.close(Server);
    }),
    ("tcp, unreachable", |c| {
        c.send(Client, "S", 0);
        c.complain(Server, Complaint::Unreachable, 548);
    }),
    ("tcp, fragments", |c| {
        c.open();
        for from in [Client, Server] {
            for pieces in [&[0, 1, 2], &[2, 0, 1]] {
                let long = c.make(from, "PA", THREE_PIECES);
                c.push_all([Step { pieces, ..long }]);
                c.send(from.other(), "A", 0);
            }
        }
        c.close(Client);
    }),
];

/// A connection, as far as a script needs it. Where two have an entry each, the client's is first.
struct Connection<'a> {
    random: &'a mut Random,
    steps: Vec<Step>,
    /// The sequence number each sends next.
    next: [u32; 2],
    /// The sequence number each expects.
    expected: [u32; 2],
}

impl<'a> Connection<'a> {
    fn new(random: &'a mut Random) -> Self {
        let next = [random.next() as u32, random.next() as u32];
        Connection { random, steps: Vec::new(), next, expected: [0; 2] }
    }

    /// A segment that acknowledges what has arrived. `flags` are those of tcpdump.
    fn make(&mut self, from: Side, flags: &str, length: usize) -> Step {
        let has = |flag| flags.contains(flag);
        let me = from as usize;
        // Windows are not scaled in a SYN.
        let window = if has('S') { 64_240 } else { 502 };
        let mut header = TcpHeader::new(0, 0, self.next[me], window);
        (header.syn, header.fin, header.rst) = (has('S'), has('F'), has('R'));
        (header.psh, header.ack) = (has('P'), has('A'));
        if header.ack {
            header.acknowledgment_number = self.expected[me];
        }
        let nop = TcpOptionElement::Noop;
        let timestamp = TcpOptionElement::Timestamp(self.random.next() as u32, 1);
        let options = if header.syn {
            vec![
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                timestamp,
                nop,
                TcpOptionElement::WindowScale(7),
            ]
        } else {
            vec![nop.clone(), nop, timestamp]
        };
        header.set_options(&options).expect("they fit");
        let taken = length as u32 + u32::from(header.syn) + u32::from(header.fin);
        self.next[me] = self.next[me].wrapping_add(taken);
        let data = self.random.bytes(length, length);
        Step { from, body: Body::Tcp { header, data }, pieces: &[] }
    }

    /// Sends segments one after the other; the ends then know all that was made until now.
    fn push_all<const N: usize>(&mut self, steps: [Step; N]) {
        self.steps.extend(steps);
        self.expected = [self.next[1], self.next[0]];
    }

    fn send(&mut self, from: Side, flags: &str, length: usize) {
        let step = self.make(from, flags, length);
        self.push_all([step]);
    }

    fn complain(&mut self, from: Side, complaint: Complaint, quoted: usize) {
        self.push_all([Step { from, body: Body::Error { complaint, quoted }, pieces: &[] }]);
    }

    fn open(&mut self) {
        self.send(Client, "S", 0);
        self.send(Server, "SA", 0);
        self.send(Client, "A", 0);
    }

    /// One after the other, with data in between.
    fn close(&mut self, first: Side) {
        self.send(first, "FA", 0);
        self.send(first.other(), "PA", 200);
        self.send(first, "A", 0);
        self.send(first.other(), "FA", 0);
        self.send(first, "A", 0);
    }
}

impl Step {
    fn tcp(&mut self) -> &mut TcpHeader {
        match &mut self.body {
            Body::Tcp { header, .. } => header,
            other => panic!("{other:?} is no segment"),
        }
    }
}

/// Data both ways; some of it is sent twice, some is overtaken. Ends in one of the usual ways.
fn any_connection(random: &mut Random) -> Vec<Step> {
    let mut c = Connection::new(random);
    let syn = c.make(Client, "S", 0);
    if c.random.below(4) == 0 {
        c.push_all([syn.clone()]);
    }
    c.push_all([syn]);
    c.send(Server, "SA", 0);
    c.send(Client, "A", 0);
    for _ in 0..1 + c.random.below(6) {
        let from = c.random.side();
        let length = 1 + c.random.below(1400);
        let segment = c.make(from, "PA", length);
        match c.random.below(4) {
            0 => {
                let later = c.make(from, "PA", 1 + length / 2);
                c.push_all([later, segment]);
            }
            1 => c.push_all([segment.clone(), segment]),
            _ => c.push_all([segment]),
        }
        c.send(from.other(), "A", 0);
    }
    let first = c.random.side();
    match c.random.below(4) {
        0 => c.send(first, "RA", 0),
        1 => {
            let both = [first, first.other()].map(|from| c.make(from, "FA", 0));
            c.push_all(both);
            c.send(first, "A", 0);
            c.send(first.other(), "A", 0);
        }
        _ => c.close(first),
    }
    c.steps
}

fn any_datagrams(random: &mut Random) -> Vec<Step> {
    // The first one opens the session.
    let mut steps = vec![datagram(Client, random.bytes(0, 1400))];
    for _ in 0..1 + random.below(5) {
        steps.push(datagram(random.side(), random.bytes(0, 1400)));
    }
    steps
}

fn datagram(from: Side, data: Vec<u8>) -> Step {
    Step { from, body: Body::Udp { data, checksum: Checksum::Plain }, pieces: &[] }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn side(&mut self) -> Side {
        if self.below(2) == 0 { Client } else { Server }
    }

    fn bytes(&mut self, least: usize, most: usize) -> Vec<u8> {
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }
}
