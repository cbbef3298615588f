//! The conversations: what a client and a server send each other, without addresses and ports. Made
//! from one seed, so that they are the same in every run.

use etherparse::{TcpHeader, TcpOptionElement};

use super::connection::{Connection, any_connection};

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

use self::Checksum::Plain;
use self::Side::{Client, Server};

impl Side {
    pub(super) fn other(self) -> Self {
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
    pub(super) steps: Vec<Step>,
}

impl Conversation {
    /// Whether it cannot be had over IPv6, whose datagrams have a checksum (RFC 8200 8.1).
    pub(super) fn is_ipv4_only(&self) -> bool {
        let absent =
            |step: &Step| matches!(step.body, Body::Udp { checksum: Checksum::Absent, .. });
        self.steps.iter().any(absent)
    }
}

/// Payload of a fragment; what is cut makes three of them.
pub(super) const PIECE: usize = 1208;
const THREE_PIECES: usize = 2 * PIECE + 500;

/// What an ICMP error over IPv4 may quote, at most 576 bytes long itself (RFC 1812 4.3.2.3).
const LONG_QUOTE: usize = 548;
/// The IPv6 header and the 8 bytes that have the ports.
const SHORT_QUOTE: usize = 48;

/// All of them.
pub(super) fn conversations() -> Vec<Conversation> {
    let mut random = Random(0x5eed);
    let mut all = Vec::new();
    let mut add = |name: String, steps| all.push(Conversation { name, steps });
    for n in 0..6 {
        add(format!("tcp {n}"), any_connection(&mut random));
        add(format!("udp {n}"), any_datagrams(&mut random));
    }
    for (name, script) in CONNECTIONS {
        let mut connection = Connection::new(&mut random);
        script(&mut connection);
        add(format!("tcp, {name}"), connection.steps);
    }
    for checksum in [Checksum::Absent, Checksum::Extreme] {
        let lengths = [(Client, 0), (Server, 0), (Client, 33), (Server, 34), (Server, 501)];
        let mut steps =
            lengths.map(|(from, length)| datagram(from, vec![0x7b; length], checksum)).to_vec();
        steps.push(complaint(Client, Complaint::Unreachable, LONG_QUOTE));
        add(format!("udp, checksum {checksum:?}"), steps);
    }
    let orders: [&'static [usize]; 3] = [&[0, 1, 2], &[2, 1, 0], &[1, 0, 2]];
    for pieces in orders {
        let mut long = |from| datagram(from, random.bytes(THREE_PIECES, THREE_PIECES), Plain);
        let steps = [Client, Server, Client, Server].map(|from| Step { pieces, ..long(from) });
        add(format!("udp, fragments in the order {pieces:?}"), steps.into());
    }
    for (what, quoted) in [
        (Complaint::Unreachable, LONG_QUOTE),
        (Complaint::TooBig, LONG_QUOTE),
        (Complaint::Unreachable, SHORT_QUOTE),
    ] {
        let mut steps = Vec::new();
        for from in [Client, Server, Client] {
            steps.push(datagram(from, random.bytes(20, 900), Plain));
            steps.push(complaint(from.other(), what, quoted));
        }
        add(format!("udp, {what:?} quoting up to {quoted} bytes"), steps);
    }
    all
}

type Script = fn(&mut Connection<'_>);

/// Connections in which something befalls.
const CONNECTIONS: [(&str, Script); 11] = [
    ("refused", |c| {
        c.send(Client, "S", 0);
        c.send(Server, "RA", 0);
    }),
    ("a SYN with another number", |c| {
        let number = c.next[0];
        c.send(Client, "S", 0);
        c.next[0] = number.wrapping_add(0x10_0000);
        c.open();
        c.send(Client, "PA", 100);
        c.close(Server);
    }),
    ("both open at once", |c| {
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
    ("the same port again", |c| {
        for first in [Client, Server, Client] {
            c.open();
            c.send(Server, "PA", 10);
            c.close(first);
            // A later number than any of the old connection (RFC 9293 3.6.1).
            c.next = c.next.map(|next| next.wrapping_add(0x10_0000));
        }
    }),
    ("data with the SYN's acknowledgement and with the FIN", |c| {
        c.send(Client, "S", 0);
        c.send(Server, "SA", 0);
        c.send(Client, "PA", 1400);
        c.send(Server, "FPA", 700);
        c.send(Client, "FPA", 700);
        c.send(Server, "A", 0);
    }),
    ("keep-alives and probes of a closed window", |c| {
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
    ("congestion, urgent data and a selective acknowledgement", |c| {
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
    ("a reset that is not believed", |c| {
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
    ("packets too big", |c| {
        c.open();
        for (from, quoted) in [
            (Client, LONG_QUOTE),
            (Server, LONG_QUOTE),
            (Client, SHORT_QUOTE),
            (Server, SHORT_QUOTE),
        ] {
            let long = c.make(from, "PA", 1400);
            c.push_all([long]);
            c.push_all([complaint(from.other(), Complaint::TooBig, quoted)]);
            c.send(from, "PA", 1100);
            c.send(from.other(), "A", 0);
        }
        c.close(Server);
    }),
    ("unreachable", |c| {
        c.send(Client, "S", 0);
        c.push_all([complaint(Server, Complaint::Unreachable, LONG_QUOTE)]);
    }),
    ("fragments", |c| {
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

fn any_datagrams(random: &mut Random) -> Vec<Step> {
    // The first one opens the session.
    let mut steps = vec![datagram(Client, random.bytes(0, 1400), Plain)];
    for _ in 0..1 + random.below(5) {
        steps.push(datagram(random.side(), random.bytes(0, 1400), Plain));
    }
    steps
}

fn complaint(from: Side, complaint: Complaint, quoted: usize) -> Step {
    Step { from, body: Body::Error { complaint, quoted }, pieces: &[] }
}

fn datagram(from: Side, data: Vec<u8>, checksum: Checksum) -> Step {
    Step { from, body: Body::Udp { data, checksum }, pieces: &[] }
}

/// SplitMix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn side(&mut self) -> Side {
        if self.below(2) == 0 { Client } else { Server }
    }

    pub(super) fn bytes(&mut self, least: usize, most: usize) -> Vec<u8> {
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }
}
