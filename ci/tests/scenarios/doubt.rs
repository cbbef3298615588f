//! Resets that are perhaps forged: who is asked whether it lives, and what becomes of the session.
//! The attacker is off the path: it knows addresses and ports and sees nothing.

use std::net::SocketAddr;

use shunt::datapath::limits::Limits;
use shunt::datapath::policy::{MidStream, Policy};
use shunt::datapath::snapshot::PortId;
use shunt::session::{Mode, ServerId, ServiceId, TcpState};
use shunt::wire::DropReason::{ConnectionRate, PacketRate};
use shunt::wire::flow::Protocol;

use crate::changes::Changes;
use crate::connections::Peer::{self, Client, Server};
use crate::connections::Talk;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, Packet, RST, SYN, SYN_ACK, source_port, tcp};
use crate::net::{BACK, FRONT, Family, Net};
use crate::rig::{Rig, Sent};
use crate::snat;

/// A tick of the timing wheel and a turn of the rig.
const LATE: u32 = 300;
/// What that comes to when one follows another.
const SLACK: u32 = 800;
const CLOSE: u32 = 10_000;
const ANSWER: u32 = 3_000;
const WINDOW: u32 = 1 << 24;

fn each(mode: Mode, test: impl Fn(Talk)) {
    for family in Family::BOTH {
        for workers in [1, 2] {
            test(Talk::new(Net::two_armed(workers).usual(mode), family));
        }
    }
}

/// The question to `peer`, which expects `seq` of its peer and whose own mark is `ack`.
fn question(talk: &Talk, peer: Peer, seq: u32, ack: u32) -> (PortId, Vec<u8>) {
    let packet = |src, dst| tcp(src, dst, ACK).seq(seq).ack(ack).window(512);
    match peer {
        Client => (FRONT, talk.rig.to_client(packet(talk.vip(), talk.client())).bytes()),
        Server => (BACK, talk.rig.to_server(11, packet(talk.client(), talk.server())).bytes()),
    }
}

/// Time passes, nothing happens, and then exactly these frames of Shunt's own leave.
fn sends(talk: &mut Talk, after: u32, frames: &[(PortId, Vec<u8>)], changes: Changes) {
    talk.rig.wait("not yet", after - 1, Changes::none());
    talk.rig.changes();
    talk.rig.pass(SLACK);
    assert_eq!(talk.rig.sent(), frames);
    let changes =
        frames.iter().fold(changes, |changes, (port, bytes)| changes.originated(*port, bytes));
    assert_eq!(talk.rig.changes(), changes);
}

fn forged(talk: &mut Talk, flags: u8, seq: u32, ack: u32) {
    let packet = tcp(talk.client(), talk.vip(), flags).seq(seq).ack(ack);
    let bytes = talk.rig.by_client(packet).bytes();
    talk.rig.send(FRONT, &bytes);
}

/// Time passes at a client that lives and has these numbers: it answers what no peer of its would say.
/// How often it did.
fn lives(talk: &mut Talk, ms: u32, next: u32, expected: u32) -> usize {
    let mut answers = 0;
    for _ in 0..ms / 100 {
        talk.rig.pass(100);
        for (port, frame) in talk.rig.sent() {
            let tcp_at = if talk.family == Family::V4 { 34 } else { 54 };
            let word = |at: usize| {
                u32::from_be_bytes(frame[tcp_at + at..tcp_at + at + 4].try_into().unwrap())
            };
            assert_eq!((port, frame[tcp_at + 13]), (FRONT, ACK), "{frame:02x?}");
            // RFC 9293 3.10.7.4, with a window of 64 KiB.
            if word(4).wrapping_sub(expected) >= 1 << 16 {
                answers += 1;
                forged(talk, ACK, next, expected);
            }
        }
    }
    answers
}

#[test]
fn no_sweep_ends_a_session_whose_client_lives() {
    for mode in [Mode::Nat, Mode::Dr] {
        each(mode, |mut talk| {
            talk.establish();
            talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
            let sweeps: [&dyn Fn(&mut Talk); 4] = [
                // Resets.
                &|talk| (0..128).for_each(|n| forged(talk, RST, n << 25, 0)),
                // A segment that tells a number, and a reset with it.
                &|talk| {
                    for n in 0..=255 {
                        forged(talk, ACK, n << 24, 7);
                        forged(talk, RST, n << 24, 7);
                    }
                },
                // Acknowledgements, so that no number of the server's is right, and resets.
                &|talk| {
                    (0..=255).for_each(|n| forged(talk, ACK, n << 24, n << 24));
                    (0..=255).for_each(|n| forged(talk, ACK, ISN + 1, n << 24));
                    (0..512).for_each(|n| forged(talk, RST, n << 23, 0));
                },
                // The server's number a little ahead, in the client's window.
                &|talk| {
                    forged(talk, ACK, ISN + 101, ISN + 1_000);
                    (0..128).for_each(|n| forged(talk, RST, n << 25, 0));
                },
            ];
            for (n, sweep) in sweeps.into_iter().enumerate() {
                sweep(&mut talk);
                assert_eq!(talk.state(), Some(TcpState::Contested), "{mode:?} {n}");
                let answers = lives(&mut talk, CLOSE + 2 * ANSWER + 1_000, ISN + 101, ISN + 1);
                assert_eq!(answers, 1, "{mode:?} {n}");
                assert_eq!(talk.state(), Some(TcpState::Established), "{mode:?} {n}");
            }
            // It has its full time again.
            assert_eq!(lives(&mut talk, 800_000, ISN + 101, ISN + 1), 0);
            assert_eq!(talk.state(), Some(TcpState::Established));
        });
    }
}

/// Who does not answer is asked twice, the second time from far behind.
#[test]
fn a_silent_end_is_asked_twice() {
    for from in [Client, Server] {
        each(Mode::Nat, |mut talk| {
            talk.establish();
            talk.passes(Client, PSH_ACK, |p| p.payload(&[7; 100]));
            talk.passes(Server, PSH_ACK, |p| p.payload(&[7; 50]).ack(ISN + 101));
            talk.passes(Client, ACK, |p| p.seq(ISN + 101).ack(ISN + 51));
            talk.passes(from, RST, |p| p.seq(ISN + 500));
            let (expected, own) =
                if from == Client { (ISN + 51, ISN + 101) } else { (ISN + 101, ISN + 51) };
            let first = question(&talk, from, expected - 1, own);
            sends(&mut talk, CLOSE, &[first], Changes::none());
            assert_eq!(talk.state(), Some(TcpState::Contested));
            let second = question(&talk, from, expected - WINDOW - 1, own);
            sends(&mut talk, ANSWER - SLACK, &[second], Changes::none());
            let (id, v6) = (talk.server_id(), talk.family == Family::V6);
            let ended = Changes::none().session(id, v6, -1).add("expired", 1);
            sends(&mut talk, ANSWER - SLACK, &[], ended);
        });
    }
    // Whoever is to be told is told then.
    let mut net = Net::two_armed(1).usual(Mode::Nat);
    net.snapshot.services[0].policy.reset_on_expiry = true;
    let mut talk = Talk::new(net, Family::V4);
    talk.establish();
    talk.passes(Client, RST, |p| p.seq(ISN + 500));
    talk.rig.pass(CLOSE + ANSWER + SLACK);
    assert_eq!(talk.rig.sent().len(), 2);
    talk.rig.pass(ANSWER);
    assert_eq!((talk.rig.sent().len(), talk.rig.sessions()), (2, 0));
}

#[test]
fn an_end_that_is_gone_says_so() {
    for from in [Client, Server] {
        each(Mode::Nat, |mut talk| {
            talk.establish();
            talk.passes(from, RST, |p| p.seq(ISN + 500));
            let asked = question(&talk, from, ISN, ISN + 1);
            sends(&mut talk, CLOSE, &[asked], Changes::none());
            talk.passes(from, RST, |p| p);
            assert_eq!(talk.state(), Some(TcpState::Closed));
            talk.expires(CLOSE);
        });
    }
    // Where one side is seen only it may be forged, too: a living one has its time to answer.
    each(Mode::Dr, |mut talk| {
        talk.establish();
        talk.passes(Client, RST, |p| p);
        let asked = question(&talk, Client, ISN, ISN + 1);
        sends(&mut talk, CLOSE, &[asked], Changes::none());
        talk.passes(Client, RST, |p| p);
        assert_eq!(talk.state(), Some(TcpState::Contested));
        talk.expires(ANSWER);
    });
}

/// The client is reached by its own route wherever the server is.
#[test]
fn in_a_tunnel_the_client_is_asked() {
    for (mode, family) in [(Mode::Ipip, Family::V4), (Mode::Gue, Family::V6)] {
        let mut net = Net::two_armed(1);
        let vip = SocketAddr::new(family.vip(), 80);
        let web = net.service(Protocol::Tcp, &[vip], mode);
        net.server(web, Family::V4.server(11), 80);
        net.snapshot.services[0].tunnel_port = 6080;
        let mut rig = Rig::new(net);
        let from = SocketAddr::new(family.client(), 40_000);
        for flags in [SYN, ACK, RST] {
            let bytes = rig.by_client(tcp(from, vip, flags)).bytes();
            assert_eq!(rig.send(FRONT, &bytes).len(), 1);
        }
        rig.pass(CLOSE + LATE);
        let asked = tcp(vip, from, ACK).seq(ISN).ack(ISN + 1).window(512);
        assert_eq!(rig.sent(), [(FRONT, rig.to_client(asked).bytes())], "{mode:?}");
    }
}

/// In FullNAT the server is asked with the local address and port.
#[test]
fn in_fullnat_the_server_is_asked() {
    for family in Family::BOTH {
        let mut rig = Rig::new(Net::two_armed(1).usual(Mode::FullNat));
        let from = SocketAddr::new(family.client(), 40_000);
        let (vip, at) =
            (SocketAddr::new(family.vip(), 80), SocketAddr::new(family.server(11), 8080));
        let client = |rig: &mut Rig, flags| {
            let bytes = rig.by_client(tcp(from, vip, flags)).bytes();
            rig.send(FRONT, &bytes)
        };
        let opened = client(&mut rig, SYN);
        let ports = if family == Family::V4 { 34 } else { 54 };
        let port = u16::from_be_bytes([opened[0].1[ports], opened[0].1[ports + 1]]);
        let lip = SocketAddr::new(family.lip(), port);
        let server = |rig: &mut Rig, flags, seq| {
            let bytes = rig.by_server(11, tcp(at, lip, flags).seq(seq)).bytes();
            assert_eq!(rig.send(BACK, &bytes).len(), 1);
        };
        server(&mut rig, SYN | ACK, ISN);
        client(&mut rig, ACK);
        server(&mut rig, RST, ISN + 77);
        rig.pass(CLOSE + LATE);
        let asked = tcp(lip, at, ACK).seq(ISN).ack(ISN + 1).window(512);
        assert_eq!(rig.sent(), [(BACK, rig.to_server(11, asked).bytes())]);
        server(&mut rig, ACK, ISN + 1);
        rig.pass(800_000);
        assert_eq!((rig.sessions(), rig.sent()), (1, Sent::new()));
    }
}

/// Through SNAT either end is asked; of a hairpin both are, each by the session that leads to it.
#[test]
fn behind_snat_the_side_in_doubt_is_asked() {
    use shunt::session::mappings::Behavior::EndpointIndependent as Ei;
    for family in Family::BOTH {
        let (host, to) = (snat::inside(family, 12, 40_000), snat::remote(family, 7, 443));
        for from_host in [true, false] {
            let net = snat::with_rule(Net::two_armed(1), snat::rule(Ei, Ei));
            let mut rig = Rig::new(net);
            let outer = snat::goes_out(&mut rig, 12, tcp(host, to, SYN), true);
            snat::comes_back(&mut rig, tcp(to, outer, SYN_ACK), 12, host);
            snat::goes_out(&mut rig, 12, tcp(host, to, ACK), false);
            if from_host {
                snat::goes_out(&mut rig, 12, tcp(host, to, RST).seq(ISN + 9), false);
            } else {
                snat::comes_back(&mut rig, tcp(to, outer, RST).seq(ISN + 9), 12, host);
            }
            rig.pass(CLOSE + LATE);
            let asked = |src, dst| tcp(src, dst, ACK).seq(ISN).ack(ISN + 1).window(512);
            let asked = match from_host {
                true => (BACK, rig.to_server(12, asked(to, host)).bytes()),
                false => (FRONT, rig.to_client(asked(outer, to)).bytes()),
            };
            assert_eq!(rig.sent(), [asked]);
        }

        let (a, web) = (host, snat::inside(family, 13, 80));
        let external = SocketAddr::new(snat::pool(family), 443);
        let rule = snat::forwarding(Protocol::Tcp, family, 443, web);
        let mut rig = Rig::new(snat::with_rule(Net::two_armed(1), rule));
        let mut outer = a;
        for (n, packet) in [
            (12, tcp(a, external, SYN)),
            (13, tcp(web, a, SYN_ACK)),
            (12, tcp(a, external, ACK)),
            (12, tcp(a, external, RST).seq(ISN + 9)),
        ] {
            let packet = Packet { dst: if n == 13 { outer } else { packet.dst }, ..packet };
            let bytes = rig.by_server(n, packet).bytes();
            let sent = rig.send(BACK, &bytes);
            assert_eq!(sent.len(), 1);
            if outer == a {
                outer = SocketAddr::new(snat::pool(family), source_port(&sent[0].1));
            }
        }
        rig.pass(CLOSE + LATE);
        let asked = |src, dst| tcp(src, dst, ACK).seq(ISN).ack(ISN + 1).window(512);
        let mut sent = rig.sent();
        sent.sort();
        let both = [
            (BACK, rig.to_server(12, asked(external, a)).bytes()),
            (BACK, rig.to_server(13, asked(outer, web)).bytes()),
        ];
        assert_eq!(sent, both);
        let bytes = rig.by_server(12, tcp(a, external, ACK)).bytes();
        assert_eq!(rig.send(BACK, &bytes).len(), 1);
        rig.pass(800_000);
        assert_eq!((rig.sessions(), rig.sent()), (2, Sent::new()));
    }
}

/// A connection that was taken up in mid-stream and that nobody confirms is asked about once.
#[test]
fn what_was_adopted_is_asked_about_once() {
    for mode in [Mode::Nat, Mode::Dr] {
        let mut net = Net::two_armed(1).usual(mode);
        net.snapshot.services[0].policy =
            Policy { mid_stream: MidStream::Adopt, ..Policy::default() };
        let mut talk = Talk::new(net, Family::V4);
        forged(&mut talk, PSH_ACK, ISN + 1, ISN + 1);
        assert_eq!(talk.state(), Some(TcpState::Contested));
        let ended = || Changes::none().session(ServerId(0), false, -1).add("expired", 1);
        let asked = question(&talk, Client, ISN, ISN + 1);
        sends(&mut talk, CLOSE, std::slice::from_ref(&asked), Changes::none());
        sends(&mut talk, ANSWER - SLACK, &[], ended());
        // One that lives is as good as confirmed.
        forged(&mut talk, PSH_ACK, ISN + 1, ISN + 1);
        sends(&mut talk, CLOSE, &[asked], Changes::none());
        talk.passes(Client, ACK, |p| p);
        assert_eq!(talk.state(), Some(TcpState::Established));
    }
}

/// A question for which there is no frame waits, and not for ever; what was adopted does not wait.
#[test]
fn without_a_frame_a_question_waits() {
    let mut net = Net::two_armed(1).usual(Mode::Nat);
    net.snapshot.services[0].policy = Policy { mid_stream: MidStream::Adopt, ..Policy::default() };
    let short = |net: &Net| {
        let mut rig = Rig::cold(net.clone());
        rig.workers[0].io().most = Some(0);
        Talk { rig: rig.warmed(), family: Family::V4, mode: Mode::Nat }
    };
    let mut talk = short(&net);
    forged(&mut talk, PSH_ACK, ISN + 1, ISN + 1);
    talk.expires(CLOSE);
    talk.establish();
    talk.passes(Client, RST, |p| p.seq(ISN + 5));
    talk.expires(2 * CLOSE);
    talk.establish();
    talk.passes(Client, RST, |p| p.seq(ISN + 5));
    talk.rig.wait("nobody is asked", CLOSE + LATE, Changes::none());
    talk.rig.workers[0].io().most = None;
    let asked = question(&talk, Client, ISN, ISN + 1);
    sends(&mut talk, 1, &[asked], Changes::none());
}

/// So many at once as there are tokens; the others wait and end not.
#[test]
fn questions_are_bounded() {
    let mut net = Net::two_armed(1).usual(Mode::Dr);
    net.snapshot.prepare();
    let mut rig = Rig::with_sessions(net, 2_300).warmed();
    let vip = SocketAddr::new(Family::V4.vip(), 80);
    for flags in [SYN, ACK, RST] {
        for n in 0..2_200 {
            let from = SocketAddr::new(Family::V4.client(), 10_000 + n);
            let bytes = rig.by_client(tcp(from, vip, flags)).bytes();
            rig.send(FRONT, &bytes);
        }
    }
    rig.pass(CLOSE - 1);
    assert_eq!(rig.sent().len(), 0);
    rig.now = rig.now.wrapping_add(200);
    for _ in 0..200 {
        rig.workers[0].poll(rig.now);
    }
    assert_eq!((rig.sent().len(), rig.sessions()), (1_000, 2_200));
    let mut asked = 1_000;
    while asked < 2_200 {
        assert_eq!(rig.sessions(), 2_200);
        rig.pass(100);
        asked += rig.sent().len();
    }
    assert_eq!(asked, 2_200);
}

/// Where the client is seen only, its FIN leaves the server sending: a forged SYN does not send the
/// client's acknowledgements to another server.
#[test]
fn a_syn_on_a_half_closed_download_stays_with_its_server() {
    for family in Family::BOTH {
        for seq in [0x1000_0000, 0x9000_0000] {
            let mut net = Net::two_armed(1).usual(Mode::Dr);
            net.server(ServiceId(0), family.server(12), 80);
            let mut talk = Talk::new(net, family);
            talk.establish();
            talk.passes(Client, FIN_ACK, |p| p.payload(b"GET"));
            assert_eq!(talk.state(), Some(TcpState::FinBoth));
            talk.passes(Client, SYN, |p| p.seq(seq));
            assert_eq!(talk.state(), Some(TcpState::SynSent));
            talk.passes(Client, ACK, |p| p.seq(ISN + 5).ack(ISN + 1_449));
            assert_eq!(talk.state(), Some(TcpState::Established));
        }
        // It counts as a connection.
        let mut net = Net::two_armed(1).usual(Mode::Dr);
        net.snapshot.services[0].limits = Limits { connections_per_second: 1, ..Limits::default() };
        let mut talk = Talk::new(net, family);
        talk.establish();
        talk.passes(Client, FIN_ACK, |p| p);
        let bytes = talk.rig.by_client(tcp(talk.client(), talk.vip(), SYN)).bytes();
        let changes = Changes::none().dropped(ConnectionRate);
        talk.rig.step("SYN", FRONT, &bytes, Some(talk.client()), changes, &[]);
        assert_eq!(talk.state(), Some(TcpState::FinBoth));
        // Its server is down.
        let mut net = Net::two_armed(1).usual(Mode::Dr);
        net.server(ServiceId(0), family.server(12), 80);
        let mut talk = Talk::new(net, family);
        talk.establish();
        talk.passes(Client, FIN_ACK, |p| p);
        let id = talk.server_id();
        talk.rig.net.snapshot.servers[usize::from(id.0)].up = false;
        talk.rig.reconfigure();
        let syn = |seq| tcp(talk.client(), talk.vip(), SYN).seq(seq);
        let (bytes, out) = (
            talk.rig.by_client(syn(ISN + 99)).bytes(),
            talk.rig.to_server(12, syn(ISN + 99)).bytes(),
        );
        assert_eq!(talk.rig.send(FRONT, &bytes), [(BACK, out)]);
        assert_eq!(talk.rig.active(ServerId(u16::from(family == Family::V6))), 0);
    }
}

/// What exceeds a rate has no effect.
#[test]
fn a_reset_beyond_the_rate_changes_nothing() {
    for mode in [Mode::Nat, Mode::Dr] {
        for flags in [RST, FIN_ACK, RST | ACK] {
            let mut net = Net::two_armed(1).usual(mode);
            net.snapshot.services[0].limits = Limits { packets_per_second: 2, ..Limits::default() };
            let mut talk = Talk::new(net, Family::V4);
            talk.establish();
            let bytes = talk.rig.by_client(tcp(talk.client(), talk.vip(), flags)).bytes();
            let changes = Changes::none().dropped(PacketRate);
            talk.rig.step("too many", FRONT, &bytes, Some(talk.client()), changes, &[]);
            assert_eq!(talk.state(), Some(TcpState::Established));
            // Counted once each.
            talk.rig.pass(1_000);
            talk.passes(Client, ACK, |p| p);
            talk.passes(Client, flags, |p| p);
            assert_ne!(talk.state(), Some(TcpState::Established));
        }
    }
}
