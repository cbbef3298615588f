//! TCP connections: which segments are believed, which are passed on, which are dropped, and what
//! becomes of the session.

use std::net::SocketAddr;

use shunt::datapath::snapshot::PortId;
use shunt::session::{Mode, ServerId, TcpState};
use shunt::wire::DropReason::TcpOutOfWindow;

use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, Packet, RST, SYN, SYN_ACK, tcp};
use crate::net::{BACK, FRONT, Family, Net};
use crate::rig::Rig;

/// How far a number may be from where its side's stream is.
const WINDOW: u32 = 1 << 24;
const LATE: u32 = 300;

/// A side that speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Peer {
    Client,
    Server,
}
use Peer::{Client, Server};

/// One connection of a client to server 11, in `nat` or `dr`.
pub struct Talk {
    pub rig: Rig,
    pub family: Family,
    pub mode: Mode,
}

impl Talk {
    pub fn new(net: Net, family: Family) -> Self {
        let mode = net.snapshot.services[0].mode;
        Talk { rig: Rig::new(net), family, mode }
    }

    pub fn client(&self) -> SocketAddr {
        SocketAddr::new(self.family.client(), 40_000)
    }

    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.family.vip(), 80)
    }

    pub fn server(&self) -> SocketAddr {
        SocketAddr::new(self.family.server(11), 8080)
    }

    pub fn server_id(&self) -> ServerId {
        ServerId(u16::from(self.family == Family::V6))
    }

    /// A segment of `from` as it comes in, and as it leaves.
    fn segment(&self, from: Peer, change: impl Fn(Packet) -> Packet, flags: u8) -> [Vec<u8>; 2] {
        let packet = |src, dst| change(tcp(src, dst, flags));
        match from {
            Client if self.mode == Mode::Dr => [
                self.rig.by_client(packet(self.client(), self.vip())).bytes(),
                self.rig.to_server(11, packet(self.client(), self.vip())).bytes(),
            ],
            Client => [
                self.rig.by_client(packet(self.client(), self.vip())).bytes(),
                self.rig.to_server(11, packet(self.client(), self.server()).ttl(63)).bytes(),
            ],
            Server => [
                self.rig.by_server(11, packet(self.server(), self.client())).bytes(),
                self.rig.to_client(packet(self.vip(), self.client()).ttl(63)).bytes(),
            ],
        }
    }

    fn ports(from: Peer) -> [PortId; 2] {
        match from {
            Client => [FRONT, BACK],
            Server => [BACK, FRONT],
        }
    }

    /// A segment is passed on; no session comes or goes.
    pub fn passes(&mut self, from: Peer, flags: u8, change: impl Fn(Packet) -> Packet) {
        let [bytes, out] = self.segment(from, change, flags);
        let [at, to] = Self::ports(from);
        let id = self.server_id();
        let changes = Changes::none().tx(to, &out);
        let changes = match from {
            Client => changes.forward(id, &bytes),
            Server => changes.reply(id, &bytes),
        };
        let what = format!("{from:?} {flags:#x} {:?}", self.state());
        self.rig.step(&what, at, &bytes, Some(self.client()), changes, &[(to, out)]);
    }

    /// A segment is dropped as forged.
    pub fn drops(&mut self, from: Peer, flags: u8, change: impl Fn(Packet) -> Packet) {
        let [bytes, _] = self.segment(from, change, flags);
        let changes = Changes::none().dropped(TcpOutOfWindow);
        let what = format!("{from:?} {flags:#x} dropped");
        self.rig.step(&what, Self::ports(from)[0], &bytes, Some(self.client()), changes, &[]);
    }

    /// The SYN that makes the session.
    pub fn opens(&mut self, seq: u32) {
        let [bytes, out] = self.segment(Client, |p| p.seq(seq), SYN);
        let (id, v6) = (self.server_id(), self.family == Family::V6);
        let changes = Changes::none().tx(BACK, &out).forward(id, &bytes).session(id, v6, 1);
        self.rig.step("SYN", FRONT, &bytes, Some(self.client()), changes, &[(BACK, out)]);
        assert_eq!(self.state(), Some(TcpState::SynSent));
    }

    /// A handshake.
    pub fn establish(&mut self) {
        self.opens(ISN);
        if self.mode != Mode::Dr {
            self.passes(Server, SYN_ACK, |p| p);
        }
        self.passes(Client, ACK, |p| p);
        assert_eq!(self.state(), Some(TcpState::Established));
    }

    pub fn state(&self) -> Option<TcpState> {
        let mut found = None;
        for worker in &self.rig.workers {
            let pipeline = worker.pipeline();
            pipeline.sessions_v4().walk(&mut 0, 1 << 20, |_, e| found = Some(e.state));
            pipeline.sessions_v6().walk(&mut 0, 1 << 20, |_, e| found = Some(e.state));
        }
        found
    }

    /// How far client and server have come.
    pub fn marks(&self) -> (u32, u32) {
        let mut found = (0, 0);
        for worker in &self.rig.workers {
            let pipeline = worker.pipeline();
            let (v4, v6) = (pipeline.sessions_v4(), pipeline.sessions_v6());
            v4.walk(&mut 0, 1 << 20, |_, e| found = (e.forward_end, e.reply_end));
            v6.walk(&mut 0, 1 << 20, |_, e| found = (e.forward_end, e.reply_end));
        }
        found
    }

    /// The session ends by timeout.
    pub fn expires(&mut self, after: u32) {
        let (id, v6) = (self.server_id(), self.family == Family::V6);
        self.rig.wait("not yet", after - 1, Changes::none());
        let ended = Changes::none().session(id, v6, -1).add("expired", 1);
        self.rig.wait("idle", LATE, ended);
    }
}

fn each(mode: Mode, test: impl Fn(Talk)) {
    for family in Family::BOTH {
        for workers in [1, 2] {
            test(Talk::new(Net::two_armed(workers).usual(mode), family));
        }
    }
}

#[test]
fn the_session_knows_how_far_both_sides_have_come() {
    each(Mode::Nat, |mut talk| {
        talk.establish();
        assert_eq!(talk.marks(), (ISN + 1, ISN + 1));
        talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
        talk.passes(Server, PSH_ACK, |p| p.payload(&[7; 333]).ack(ISN + 101));
        // What has arrived: the other side says so.
        assert_eq!(talk.marks(), (ISN + 101, ISN + 1));
        talk.passes(Client, ACK, |p| p.seq(ISN + 101).ack(ISN + 334));
        assert_eq!(talk.marks(), (ISN + 101, ISN + 334));
        // Sent again, reordered, keep-alive: nothing new.
        talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
        talk.passes(Client, ACK, |p| p.seq(ISN + 100).ack(ISN + 300));
        talk.passes(Client, PSH_ACK, |p| p.seq(ISN + 1_101).payload(&[7; 50]));
        talk.passes(Client, PSH_ACK, |p| p.seq(ISN + 101).payload(&[7; 1_000]));
        assert_eq!(talk.marks(), (ISN + 101, ISN + 334));
        talk.passes(Server, ACK, |p| p.seq(ISN + 334).ack(ISN + 1_151));
        assert_eq!(talk.marks(), (ISN + 1_151, ISN + 334));
        // Wildly out, and knowing nothing of its own side either.
        let wild = ISN.wrapping_add(0x7000_0000);
        talk.passes(Client, PSH_ACK, |p| p.seq(wild).ack(wild).payload(&[7; 50]));
        assert_eq!(talk.marks(), (ISN + 1_151, ISN + 334));
        // Much went past somewhere else.
        talk.passes(Client, PSH_ACK, |p| p.seq(ISN + 1_151).ack(wild).payload(&[7; 50]));
        assert_eq!(talk.marks(), (ISN + 1_151, wild));
        assert_eq!(talk.state(), Some(TcpState::Established));
    });
}

#[test]
fn the_client_tells_how_far_an_unseen_server_has_come() {
    each(Mode::Dr, |mut talk| {
        talk.establish();
        talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
        talk.passes(Client, ACK, |p| p.seq(ISN + 101).ack(ISN + 5_000));
        assert_eq!(talk.marks(), (ISN + 101, ISN + 5_000));
        talk.passes(Client, ACK, |p| p.seq(ISN + 101).ack(ISN + 4_000));
        assert_eq!(talk.marks(), (ISN + 101, ISN + 5_000));
        // Forged, but for one number.
        talk.drops(Client, RST, |p| p.seq(ISN.wrapping_add(0x7000_0000)));
        talk.passes(Client, RST, |p| p.seq(ISN + 102));
        assert_eq!(talk.state(), Some(TcpState::Contested));
        talk.passes(Client, ACK, |p| p.seq(ISN + 101).ack(ISN + 5_000));
        assert_eq!(talk.state(), Some(TcpState::Established));
        // Even that one can be forged: the number is one that the client has told.
        talk.passes(Client, RST, |p| p.seq(ISN + 101));
        assert_eq!(talk.state(), Some(TcpState::Contested));
    });
}

/// The window of a server that is not seen is no wider than others: a segment with any number does not
/// move the marks to where the reset behind it is exact.
#[test]
fn a_forged_segment_makes_no_reset_exact_where_the_server_is_not_seen() {
    each(Mode::Dr, |mut talk| {
        talk.establish();
        talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
        for far in [WINDOW + 200, 0x3000_0000, 0x8000_0000, 0xc000_0000] {
            let at = ISN.wrapping_add(far);
            for ack in [7, 8] {
                talk.passes(Client, ACK, |p| p.seq(at).ack(ack));
            }
            talk.drops(Client, RST, |p| p.seq(at));
            assert_eq!(talk.state(), Some(TcpState::Established));
            assert_eq!(talk.marks(), (ISN + 101, ISN + 1));
        }
    });
}

#[test]
fn a_forged_reset_ends_no_session() {
    for from in [Client, Server] {
        each(Mode::Nat, |mut talk| {
            talk.establish();
            for distance in [WINDOW + 1, 0x4000_0000, 0x8000_0000, (WINDOW + 1).wrapping_neg()] {
                talk.drops(from, RST, |p| p.seq((ISN + 1).wrapping_add(distance)));
                assert_eq!(talk.state(), Some(TcpState::Established));
            }
            // In the window: its receiver judges, and says so.
            talk.passes(from, RST, |p| p.seq(ISN + 500));
            assert_eq!(talk.state(), Some(TcpState::Contested));
            let receiver = if from == Client { Server } else { Client };
            talk.passes(receiver, ACK, |p| p);
            assert_eq!(talk.state(), Some(TcpState::Established));
        });
        each(Mode::Nat, |mut talk| {
            talk.establish();
            talk.passes(from, RST, |p| p);
            assert_eq!(talk.state(), Some(TcpState::Closed));
            talk.passes(from, ACK, |p| p);
            assert_eq!(talk.state(), Some(TcpState::Closed), "an exact one is final");
            talk.expires(10_000);
        });
    }
}

#[test]
fn a_forged_fin_or_syn_ends_no_session() {
    each(Mode::Nat, |mut talk| {
        talk.establish();
        let far = ISN.wrapping_add(0x3000_0000);
        talk.passes(Client, FIN_ACK, |p| p.seq(far));
        talk.passes(Client, FIN_ACK, |p| p.ack(far));
        talk.passes(Server, FIN_ACK, |p| p.seq(far));
        talk.passes(Client, SYN, |p| p.seq(far));
        talk.passes(Server, SYN_ACK, |p| p.seq(far));
        assert_eq!((talk.state(), talk.marks()), (Some(TcpState::Established), (ISN + 1, ISN + 1)));
        talk.expires(900_000);
    });
}

#[test]
fn a_connection_closes_half_by_half() {
    each(Mode::Nat, |mut talk| {
        talk.establish();
        talk.passes(Client, FIN_ACK, |p| p.payload(b"last words"));
        assert_eq!((talk.state(), talk.marks().0), (Some(TcpState::FinClient), ISN + 12));
        talk.passes(Server, PSH_ACK, |p| p.payload(&[1; 1_000]).ack(ISN + 12));
        talk.passes(Server, FIN_ACK, |p| p.seq(ISN + 1_001).ack(ISN + 12));
        assert_eq!((talk.state(), talk.marks().1), (Some(TcpState::FinBoth), ISN + 1_002));
        talk.passes(Client, ACK, |p| p.seq(ISN + 12).ack(ISN + 1_002));
        assert_eq!(talk.state(), Some(TcpState::TimeWait));
        talk.expires(10_000);
    });
}

#[test]
fn a_refused_connection_is_closed_by_the_right_reset_only() {
    each(Mode::Nat, |mut talk| {
        talk.opens(ISN);
        talk.drops(Server, RST | ACK, |p| p.seq(0).ack(ISN + 2));
        talk.drops(Server, RST, |p| p.seq(0));
        assert_eq!(talk.state(), Some(TcpState::SynSent));
        talk.passes(Server, RST | ACK, |p| p.seq(0).ack(ISN + 1));
        assert_eq!(talk.state(), Some(TcpState::Closed));
    });
}

#[test]
fn a_client_begins_anew_with_another_number() {
    each(Mode::Nat, |mut talk| {
        let other = ISN.wrapping_add(0x1234_5678);
        talk.opens(ISN);
        talk.passes(Client, SYN, |p| p.seq(other));
        talk.passes(Server, SYN_ACK, |p| p.ack(other + 1));
        talk.passes(Client, ACK, |p| p.seq(other + 1));
        assert_eq!((talk.state(), talk.marks().0), (Some(TcpState::Established), other + 1));
    });
}

/// The numbers of the old connection say nothing about the new one: the server's SYN-ACK tells.
#[test]
fn a_connection_in_the_place_of_one_that_the_server_has_forgotten() {
    each(Mode::Nat, |mut talk| {
        talk.establish();
        talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
        // Both have rebooted, or a NAT in front has given the port to another host.
        let (client, server) = (ISN.wrapping_add(0x5000_0000), ISN.wrapping_add(0xb000_0000));
        talk.passes(Client, SYN, |p| p.seq(client));
        talk.passes(Server, SYN_ACK, |p| p.seq(server).ack(client + 1));
        talk.passes(Client, ACK, |p| p.seq(client + 1).ack(server + 1));
        talk.passes(Client, PSH_ACK, |p| p.seq(client + 1).ack(server + 1).payload(&[7; 100]));
        talk.passes(Server, ACK, |p| p.seq(server + 1).ack(client + 101));
        assert_eq!(talk.state(), Some(TcpState::Established));
        assert_eq!(talk.marks(), (client + 101, server + 1));
        talk.passes(Server, RST, |p| p.seq(server + 1));
        assert_eq!(talk.state(), Some(TcpState::Closed));
        talk.expires(10_000);
    });
}
