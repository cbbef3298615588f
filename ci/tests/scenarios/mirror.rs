//! Copies for a sensor.

use std::net::SocketAddr;
use std::sync::Arc;

use shunt::datapath::guard::Guard;
use shunt::datapath::mirror::{Mirror, MirrorId};
use shunt::datapath::prefix_set::PrefixSet;
use shunt::datapath::snapshot::{LocalAddresses, Port, PortId, PortRole, Side};
use shunt::io::memory::MemoryFrame;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason;

use crate::changes::Changes;
use crate::fragments::split;
use crate::frames::{ACK, Packet, SYN, SYN_ACK, echo, tcp, udp};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC};
use crate::rig::Rig;

pub const SENSOR: PortId = PortId(2);

fn rig(workers: usize, mode: Mode, sample: u32, matching: Option<PrefixSet>) -> Rig {
    Rig::new(with_sensor(Net::two_armed(workers).usual(mode), sample, matching))
}

/// A sensor on a third port, and a mirror (0) to it.
pub fn with_sensor(mut net: Net, sample: u32, matching: Option<PrefixSet>) -> Net {
    net.snapshot.ports.push(Port {
        name: "sensor".into(),
        mac: [2, 0, 0, 0, 0, 0xc0],
        role: PortRole::Wire { side: Side::Both, exception: None },
        ..Port::default()
    });
    net.snapshot.lips.push(LocalAddresses::default());
    let mirror = Mirror { name: "ids".into(), port: SENSOR, sample, matching };
    net.snapshot.guard = Arc::new(Guard { mirrors: vec![mirror], ..Guard::default() });
    net
}

pub fn copied(changes: Changes, bytes: &[u8]) -> Changes {
    changes.add("mirrored", 1).originated(SENSOR, bytes)
}

/// A connection through a service that is mirrored: the sensor sees both ways as they came.
#[test]
fn a_mirrored_service() {
    for workers in [1, 2] {
        for mode in [Mode::Nat, Mode::Dr] {
            for family in Family::BOTH {
                let mut rig = rig(workers, mode, 1, None);
                rig.net.snapshot.services[0].mirror = Some(MirrorId(0));
                rig.reconfigure();
                let id = ServerId(u16::from(family == Family::V6));
                let client = SocketAddr::new(family.client(), 40_000);
                let vip = SocketAddr::new(family.vip(), 80);
                let server = SocketAddr::new(family.server(11), 8080);
                for flags in [SYN, ACK] {
                    let packet = rig.by_client(tcp(client, vip, flags).payload(b"data"));
                    let out = match mode {
                        Mode::Dr => packet.clone(),
                        _ => Packet { dst: server, ttl: 63, ..packet.clone() },
                    };
                    let (bytes, out) = (packet.bytes(), rig.to_server(11, out).bytes());
                    let mut changes =
                        copied(Changes::none().forward(id, &bytes).tx(BACK, &out), &bytes);
                    if flags == SYN {
                        changes = changes.session(id, family == Family::V6, 1);
                    }
                    let expected = [(BACK, out), (SENSOR, bytes.clone())];
                    rig.step("forward", FRONT, &bytes, Some(client), changes, &expected);
                    if flags == SYN && mode == Mode::Nat {
                        let answer = tcp(server, client, SYN_ACK);
                        let out = Packet { src: vip, ttl: 63, ..answer.clone() };
                        let bytes = rig.by_server(11, answer).bytes();
                        let out = rig.to_client(out).bytes();
                        let changes =
                            copied(Changes::none().reply(id, &bytes).tx(FRONT, &out), &bytes);
                        let expected = [(FRONT, out), (SENSOR, bytes.clone())];
                        rig.step("reply", BACK, &bytes, Some(client), changes, &expected);
                    }
                }
                // The other service is not, and of this one a packet without a session is not.
                let stray = rig.by_client(tcp(SocketAddr::new(client.ip(), 9), vip, ACK)).bytes();
                let outer = Some(SocketAddr::new(client.ip(), 9));
                let changes = Changes::none().dropped(DropReason::NoSession);
                rig.step("stray", FRONT, &stray, outer, changes, &[]);
                // Sessions that were mirrored go on when no mirror is left.
                rig.net.snapshot.services[0].mirror = None;
                rig.reconfigure();
                let bytes = rig.by_client(tcp(client, vip, ACK)).bytes();
                assert_eq!(rig.send(FRONT, &bytes).len(), 1);
            }
        }
    }
}

#[test]
fn packets_from_and_to_an_address_whatever_becomes_of_them() {
    for family in Family::BOTH {
        let watched = PrefixSet::new([family.client().into()]);
        let mut rig = rig(1, Mode::Nat, 1, Some(watched));
        let client = SocketAddr::new(family.client(), 40_000);
        let vip = SocketAddr::new(family.vip(), 80);
        let stray = rig.by_client(tcp(client, vip, ACK)).bytes();
        let changes = copied(Changes::none().dropped(DropReason::NoSession), &stray);
        rig.step("dropped", FRONT, &stray, None, changes, &[(SENSOR, stray.clone())]);
        let to_client = tcp(SocketAddr::new(family.server(11), 9), client, ACK);
        let bytes = rig.by_server(11, to_client).bytes();
        let changes = copied(Changes::none().dropped(DropReason::NotLocal), &bytes);
        rig.step("to it", BACK, &bytes, None, changes, &[(SENSOR, bytes.clone())]);
        let ping = echo((ROUTER_MAC, FRONT_MAC), family.client(), family.vip(), false, 64);
        let answer = echo((FRONT_MAC, ROUTER_MAC), family.vip(), family.client(), true, 64);
        let changes = copied(Changes::none().consumed().originated(FRONT, &answer), &ping);
        rig.step("ping", FRONT, &ping, None, changes, &[(FRONT, answer), (SENSOR, ping.clone())]);
        let other = SocketAddr::new(family.router(), 5);
        let bytes = rig.by_client(tcp(other, vip, ACK)).bytes();
        let changes = Changes::none().dropped(DropReason::NoSession);
        rig.step("another", FRONT, &bytes, None, changes, &[]);
        // The sensor's own packets do not come back to it.
        let own = tcp(client, vip, ACK).macs([7; 6], [2, 0, 0, 0, 0, 0xc0]).bytes();
        let changes = Changes::none().dropped(DropReason::NoSession);
        rig.step("by the sensor", SENSOR, &own, None, changes, &[]);
    }
}

/// The copy of a fragment that has waited for its first leaves in the turn in which that does.
#[test]
fn fragments_that_have_waited() {
    for family in Family::BOTH {
        let mut rig = rig(1, Mode::Dr, 1, None);
        rig.net.snapshot.services[1].mirror = Some(MirrorId(0));
        rig.reconfigure();
        let client = SocketAddr::new(family.client(), 40_000);
        let query = udp(client, SocketAddr::new(family.vip(), 53)).payload(&[7; 100]);
        let pieces = split(&rig.by_client(query).bytes(), 1, 56);
        assert_eq!(rig.send(FRONT, &pieces[1]), []);
        rig.arrive(MemoryFrame::new(FRONT, &pieces[0]));
        rig.workers[0].poll(rig.now);
        let sent = rig.sent();
        let copies: Vec<_> = sent.into_iter().filter(|(port, _)| *port == SENSOR).collect();
        assert_eq!(copies, [(SENSOR, pieces[0].clone()), (SENSOR, pieces[1].clone())]);
    }
}

#[test]
fn one_in_three() {
    let family = Family::V4;
    let mut rig = rig(1, Mode::Nat, 3, Some(PrefixSet::new([family.client().into()])));
    let stray = tcp(SocketAddr::new(family.client(), 5), SocketAddr::new(family.vip(), 80), ACK);
    let bytes = rig.by_client(stray).bytes();
    let copies: Vec<usize> = (0..9).map(|_| rig.send(FRONT, &bytes).len()).collect();
    assert_eq!(copies, [1, 0, 0, 1, 0, 0, 1, 0, 0]);
}

#[test]
fn without_room_there_is_no_copy() {
    let family = Family::V4;
    let everybody = PrefixSet::new(["0.0.0.0/0".parse().unwrap()]);
    let mut rig = rig(1, Mode::Nat, 1, Some(everybody));
    let from = |port| SocketAddr::new(family.client(), port);
    let vip = SocketAddr::new(family.vip(), 80);
    // Longer than the sensor's port takes.
    rig.net.snapshot.ports[2].mtu = 600;
    rig.reconfigure();
    let bytes = rig.by_client(tcp(from(5), vip, ACK).payload(&[1; 600])).bytes();
    let changes = Changes::none().dropped(DropReason::NoSession).add("mirror_missed", 1);
    rig.step("too long", FRONT, &bytes, None, changes, &[]);
    // A whole burst is copied, each time.
    for port in 0..96 {
        let bytes = rig.by_client(tcp(from(1000 + port), vip, ACK)).bytes();
        rig.arrive(shunt::io::memory::MemoryFrame::new(FRONT, &bytes));
    }
    rig.settle();
    assert_eq!(rig.sent().len(), 96);
    let changes = rig.changes();
    assert_eq!((changes.0["mirrored"], changes.0.get("mirror_missed")), (96, None));
    // Two mirrors of everything need twice the buffers there are; what is missed is counted, and
    // every packet goes its way.
    let mirror = rig.net.snapshot.guard.mirrors[0].clone();
    let mirrors = vec![mirror.clone(), mirror];
    rig.net.snapshot.guard = Arc::new(Guard { mirrors, ..Guard::default() });
    rig.reconfigure();
    rig.changes();
    for port in 0..32 {
        let bytes = rig.by_client(tcp(from(1000 + port), vip, SYN)).bytes();
        rig.arrive(shunt::io::memory::MemoryFrame::new(FRONT, &bytes));
    }
    rig.settle();
    let sent = rig.sent();
    assert_eq!(sent.iter().filter(|(port, _)| *port == BACK).count(), 32);
    let changes = rig.changes();
    assert_eq!((changes.0["mirrored"], changes.0["mirror_missed"]), (32, 32));
}
