//! One end of a TCP connection that speaks just enough of it: one segment in flight, sent again until
//! it is acknowledged.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::packet::{ACK, FIN, PSH, Packet, RST, SYN, Segment};

/// The first time that is waited for an acknowledgement, and the longest, in milliseconds.
const WAIT_MS: u64 = 100;
const LONGEST_MS: u64 = 400;
/// The longest segment in bytes.
const MSS: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    SynSent,
    SynReceived,
    Established,
    /// A reset came.
    Reset,
}

#[derive(Clone, Debug)]
struct InFlight {
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
}

impl InFlight {
    fn end(&self) -> u32 {
        let flags = u32::from(self.flags & (SYN | FIN) != 0);
        self.seq.wrapping_add(self.payload.len() as u32 + flags)
    }
}

#[derive(Clone, Debug)]
pub struct Tcp {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: State,
    /// What came, in order; whoever reads it takes it out.
    pub received: Vec<u8>,
    /// The peer has sent all, and it came.
    pub peer_finished: bool,
    /// How often the segment in flight was sent again.
    pub repeats: u32,
    una: u32,
    next: u32,
    expected: u32,
    /// The number of the peer's SYN.
    pub peer_isn: u32,
    unsent: VecDeque<u8>,
    finish: bool,
    finish_sent: bool,
    in_flight: Option<InFlight>,
    wait: u64,
    again_at: u64,
}

impl Tcp {
    fn new(local: SocketAddr, remote: SocketAddr, state: State, isn: u32) -> Self {
        Tcp {
            local,
            remote,
            state,
            received: Vec::new(),
            peer_finished: false,
            repeats: 0,
            una: isn,
            next: isn,
            expected: 0,
            peer_isn: 0,
            unsent: VecDeque::new(),
            finish: false,
            finish_sent: false,
            in_flight: None,
            wait: WAIT_MS,
            again_at: 0,
        }
    }

    /// Sends a SYN.
    pub fn connect(
        local: SocketAddr,
        remote: SocketAddr,
        isn: u32,
        now: u64,
        out: &mut Vec<Packet>,
    ) -> Self {
        let mut tcp = Tcp::new(local, remote, State::SynSent, isn);
        tcp.send(SYN, Vec::new(), now, out);
        tcp
    }

    /// Answers a SYN.
    pub fn accept(syn: &Packet, isn: u32, now: u64, out: &mut Vec<Packet>) -> Self {
        let mut tcp = Tcp::new(syn.dst, syn.src, State::SynReceived, isn);
        tcp.peer_isn = syn.tcp.unwrap().seq;
        tcp.expected = tcp.peer_isn.wrapping_add(1);
        tcp.send(SYN | ACK, Vec::new(), now, out);
        tcp
    }

    /// Sends data.
    pub fn write(&mut self, data: &[u8], now: u64, out: &mut Vec<Packet>) {
        self.unsent.extend(data);
        self.pump(now, out);
    }

    /// Sends FIN after all data.
    pub fn close(&mut self, now: u64, out: &mut Vec<Packet>) {
        self.finish = true;
        self.pump(now, out);
    }

    /// Both have sent all, and know that it came.
    pub fn is_over(&self) -> bool {
        self.peer_finished && self.finish_sent && self.in_flight.is_none()
    }

    /// When [`Tcp::tick`] has something to do.
    pub fn due(&self) -> Option<u64> {
        self.in_flight.as_ref().filter(|_| self.state != State::Reset).map(|_| self.again_at)
    }

    /// Sends again what was not acknowledged in time.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Packet>) {
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        let Some(InFlight { seq, flags, payload }) = self.in_flight.clone() else { return };
        self.repeats += 1;
        self.wait = (self.wait * 2).min(LONGEST_MS);
        self.again_at = now + self.wait;
        out.push(self.packet(flags, seq, payload));
    }

    /// Takes a segment. `true` when it was a reset.
    pub fn arrive(&mut self, packet: &Packet, now: u64, out: &mut Vec<Packet>) -> bool {
        let tcp = packet.tcp.unwrap();
        if tcp.flags & RST != 0 {
            let right = match self.state {
                State::SynSent => tcp.flags & ACK != 0 && tcp.ack == self.next,
                _ => tcp.seq == self.expected,
            };
            if right {
                self.state = State::Reset;
            }
            return true;
        }
        match self.state {
            State::Reset => return false,
            State::SynSent => {
                if tcp.flags & (SYN | ACK) != SYN | ACK || tcp.ack != self.next {
                    return false;
                }
                self.state = State::Established;
                self.peer_isn = tcp.seq;
                self.expected = tcp.seq.wrapping_add(1);
                self.acknowledged(tcp.ack);
                out.push(self.packet(ACK, self.next, Vec::new()));
                self.pump(now, out);
                return false;
            }
            State::SynReceived if tcp.flags & SYN != 0 => {
                if tcp.seq == self.peer_isn {
                    // It did not hear the answer.
                    out.push(self.packet(SYN | ACK, self.una, Vec::new()));
                }
                return false;
            }
            _ if tcp.flags & SYN != 0 => {
                out.push(self.packet(ACK, self.next, Vec::new()));
                return false;
            }
            State::SynReceived | State::Established => {}
        }
        if tcp.flags & ACK == 0 {
            return false;
        }
        if self.state == State::SynReceived {
            if tcp.ack.wrapping_sub(self.una).wrapping_sub(1) > 0 {
                // RFC 9293 3.10.7.4, fifth: what acknowledges nothing that was sent is reset.
                let tcp = Some(Segment { flags: RST, seq: tcp.ack, ack: 0 });
                let (src, dst) = (self.local, self.remote);
                out.push(Packet { src, dst, tcp, payload: Vec::new() });
                return false;
            }
            self.state = State::Established;
        }
        self.acknowledged(tcp.ack);
        let finishes = tcp.flags & FIN != 0;
        let behind = self.expected.wrapping_sub(tcp.seq) as i32;
        let length = packet.payload.len() as i32 + i32::from(finishes);
        if length != 0 {
            if behind >= 0 && behind < length {
                let new = &packet.payload[(behind as usize).min(packet.payload.len())..];
                self.received.extend(new);
                self.expected = tcp.seq.wrapping_add(length as u32);
                self.peer_finished |= finishes;
            }
            out.push(self.packet(ACK, self.next, Vec::new()));
        }
        self.pump(now, out);
        false
    }

    fn acknowledged(&mut self, ack: u32) {
        if ack.wrapping_sub(self.una) as i32 <= 0 || self.next.wrapping_sub(ack) as i32 > 0x7fff {
            return;
        }
        if self.next.wrapping_sub(ack) as i32 >= 0 {
            self.una = ack;
            if self.in_flight.as_ref().is_some_and(|f| ack.wrapping_sub(f.end()) as i32 >= 0) {
                self.in_flight = None;
                self.wait = WAIT_MS;
                self.repeats = 0;
            }
        }
    }

    fn pump(&mut self, now: u64, out: &mut Vec<Packet>) {
        if self.state != State::Established || self.in_flight.is_some() || self.finish_sent {
            return;
        }
        if !self.unsent.is_empty() {
            let length = self.unsent.len().min(MSS);
            let payload = self.unsent.drain(..length).collect();
            self.send(PSH | ACK, payload, now, out);
        } else if self.finish {
            self.finish_sent = true;
            self.send(FIN | ACK, Vec::new(), now, out);
        }
    }

    fn send(&mut self, flags: u8, payload: Vec<u8>, now: u64, out: &mut Vec<Packet>) {
        let in_flight = InFlight { seq: self.next, flags, payload: payload.clone() };
        self.next = in_flight.end();
        out.push(self.packet(flags, in_flight.seq, payload));
        self.in_flight = Some(in_flight);
        self.again_at = now + self.wait;
    }

    fn packet(&self, flags: u8, seq: u32, payload: Vec<u8>) -> Packet {
        let ack = if flags & ACK != 0 { self.expected } else { 0 };
        let tcp = Some(Segment { flags, seq, ack });
        Packet { src: self.local, dst: self.remote, tcp, payload }
    }
}
