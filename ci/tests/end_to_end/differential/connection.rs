//! TCP connections for the scripts: segment by segment, with the numbers that two ends would use.

use etherparse::{TcpHeader, TcpOptionElement};

use super::script::Side::{self, Client, Server};
use super::script::{Body, Random, Step};

/// A connection, as far as a script needs it. Where two have an entry each, the client's is first.
pub(super) struct Connection<'a> {
    random: &'a mut Random,
    pub(super) steps: Vec<Step>,
    /// The sequence number each sends next.
    pub(super) next: [u32; 2],
    /// The sequence number each expects.
    expected: [u32; 2],
}

impl<'a> Connection<'a> {
    pub(super) fn new(random: &'a mut Random) -> Self {
        let next = [random.next() as u32, random.next() as u32];
        Connection { random, steps: Vec::new(), next, expected: [0; 2] }
    }

    /// A segment that acknowledges what has arrived. `flags` are those of tcpdump.
    pub(super) fn make(&mut self, from: Side, flags: &str, length: usize) -> Step {
        let has = |flag| flags.contains(flag);
        let me = from as usize;
        // A SYN's window is not scaled. Conntrack drops what exceeds it before another is announced.
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
    pub(super) fn push_all<const N: usize>(&mut self, steps: [Step; N]) {
        self.steps.extend(steps);
        self.expected = [self.next[1], self.next[0]];
    }

    pub(super) fn send(&mut self, from: Side, flags: &str, length: usize) {
        let step = self.make(from, flags, length);
        self.push_all([step]);
    }

    pub(super) fn open(&mut self) {
        self.send(Client, "S", 0);
        self.send(Server, "SA", 0);
        self.send(Client, "A", 0);
    }

    /// One after the other, with data in between.
    pub(super) fn close(&mut self, first: Side) {
        self.send(first, "FA", 0);
        self.send(first.other(), "PA", 200);
        self.send(first, "A", 0);
        self.send(first.other(), "FA", 0);
        self.send(first, "A", 0);
    }
}

impl Step {
    pub(super) fn tcp(&mut self) -> &mut TcpHeader {
        match &mut self.body {
            Body::Tcp { header, .. } => header,
            other => panic!("{other:?} is no segment"),
        }
    }
}

/// Data both ways; some of it is sent twice, some is overtaken. Ends in one of the usual ways.
pub(super) fn any_connection(random: &mut Random) -> Vec<Step> {
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
