//! The pair in virtual time.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{Action, Pair, PairConfig};
use crate::datapath::ha::{Group, Ha, Masters};
use crate::datapath::notice::Advert;
use crate::datapath::snapshot::{PortId, Snapshot};
use crate::manage::testing::paired_snapshot;
use crate::session::ServiceId;
use crate::wire::{arp, ipv4, ndp, vrrp};

const FRONT: PortId = PortId(0);
const BACK: PortId = PortId(1);
const VIRTUAL_V4: [u8; 6] = [0, 0, 0x5e, 0, 1, 10];
const VIRTUAL_V6: [u8; 6] = [0, 0, 0x5e, 0, 2, 10];
/// Master_Down_Interval at priority 200.
const DOWN: u64 = 3_218;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(snapshot: &Snapshot) -> PairConfig {
    PairConfig::new(snapshot, vec![200])
}

fn pair() -> Pair {
    let snapshot = paired_snapshot();
    Pair::new(&config(&snapshot), &snapshot, 0).unwrap()
}

/// What an action says, in short.
fn said(action: &Action) -> String {
    let Action::Transmit { port, frame } = action else {
        return match action {
            Action::Masters(masters) => format!("masters {:b}", masters.0),
            Action::Log(level, line) => format!("{level}: {line}"),
            Action::Transmit { .. } => unreachable!(),
        };
    };
    let mac = match &frame[6..12] {
        mac if mac == VIRTUAL_V4 => "v4".to_owned(),
        mac if mac == VIRTUAL_V6 => "v6".to_owned(),
        mac => format!("{mac:?}"),
    };
    let what = match (&frame[12..14], frame.get(20), frame.get(23)) {
        ([8, 6], ..) => {
            let packet = arp::Packet::new_checked(&frame[14..]).unwrap();
            assert!(packet.is_gratuitous() && frame[..6] == [0xff; 6]);
            format!("arp {}", packet.sender_ip())
        }
        ([8, 0], _, Some(112)) => {
            let packet = ipv4::Packet::new_checked(&frame[14..]).unwrap();
            let advert = vrrp::Packet::new_checked(packet.payload(), false).unwrap();
            assert!(advert.verify_checksum(packet.src(), packet.dst()));
            let vips: Vec<String> = advert.addresses().map(|a| a.to_string()).collect();
            let (src, priority) = (packet.src(), advert.priority());
            format!("advert {src} {priority} {}", vips.join(","))
        }
        ([0x86, 0xdd], Some(112), _) => {
            let src: [u8; 16] = frame[22..38].try_into().unwrap();
            let src = Ipv6Addr::from(src);
            let advert = vrrp::Packet::new_checked(&frame[54..], true).unwrap();
            assert!(advert.verify_checksum(src, vrrp::GROUP_V6));
            let vips: Vec<String> = advert.addresses().map(|a| a.to_string()).collect();
            format!("advert {src} {} {}", advert.priority(), vips.join(","))
        }
        ([0x86, 0xdd], Some(58), _) => {
            let target = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[62..78]).unwrap());
            assert!(ndp::Packet::new_checked(&frame[54..], 255, target, ndp::ALL_NODES).is_ok());
            format!("na {target}")
        }
        other => panic!("{other:?}"),
    };
    format!("@{} from {mac}: {what}", port.0)
}

fn heard(pair: &mut Pair) -> Vec<String> {
    pair.drain().map(|a| said(&a)).collect()
}

/// Ticks each 10 ms up to and including `until`.
fn run(pair: &mut Pair, from: u64, until: u64) -> Vec<String> {
    let mut all = Vec::new();
    for now in (from..until).step_by(10).chain([until]) {
        pair.tick(now);
        all.extend(heard(pair));
    }
    all
}

fn advert(source: &str, vrid: u8, priority: u8) -> Advert {
    Advert { port: FRONT, source: ip(source), vrid, priority, interval_cs: 100, addresses: 1 }
}

fn adverts(priority: u8) -> Vec<String> {
    let vips = "192.0.2.9,192.0.2.10";
    vec![
        format!("@0 from v4: advert 192.0.2.2 {priority} {vips}"),
        format!("@0 from v6: advert fe80::ff:fe00:0 {priority} 2001:db8:1::10"),
        format!("@1 from v4: advert 10.0.0.1 {priority} {vips}"),
        format!("@1 from v6: advert fe80::ff:fe00:1 {priority} 2001:db8:1::10"),
    ]
}

fn announcements() -> Vec<String> {
    [
        "@0 from v4: arp 192.0.2.9",
        "@0 from v4: arp 192.0.2.10",
        "@0 from v6: na 2001:db8:1::10",
        "@1 from v4: arp 10.0.0.200",
        "@1 from v4: arp 192.0.2.9",
        "@1 from v4: arp 192.0.2.10",
        "@1 from v6: na 2001:db8:1::10",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn all(parts: &[&[String]]) -> Vec<String> {
    parts.concat()
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|l| (*l).to_owned()).collect()
}

#[test]
fn take_over_every_frame() {
    let mut p = pair();
    assert_eq!(run(&mut p, 0, DOWN - 1), ["masters 0"]);
    p.tick(DOWN);
    let first = lines(&["masters 1", "INFO: VRRP group 10: master: no master was heard"]);
    assert_eq!(heard(&mut p), all(&[&first, &adverts(200), &announcements()]));
    p.tick(DOWN + 1000);
    assert_eq!(heard(&mut p), all(&[&adverts(200), &announcements()]));
    p.tick(DOWN + 2000);
    assert_eq!(heard(&mut p), adverts(200));
    let view = p.view(DOWN + 2000);
    let group = &view.groups[0];
    assert_eq!((group.state, group.master, group.sent), ("master", Some(ip("192.0.2.2")), 12));
    assert_eq!((group.since_ago_ms, group.reason), (2000, "no master was heard"));
    assert_eq!((group.addresses, group.priority, group.effective), (4, 200, 200));
    assert_eq!(p.masters(), Masters(1));
}

#[test]
fn a_master_that_leaves_answers_until_the_peer_is_master() {
    // Nobody takes over; the peer does.
    for peer in [false, true] {
        let mut p = pair();
        run(&mut p, 0, 10_000);
        assert_eq!(p.hand_over_ms(), 1_500);
        p.leave(10_000);
        let said = lines(&["INFO: VRRP group 10: backup: the node stops"]);
        assert_eq!(heard(&mut p), all(&[&adverts(0), &said]));
        assert_eq!(p.masters(), Masters(1), "packets for the addresses are still its own");
        // Whoever leaves as well is no master, and a switch that returns is told nothing.
        p.heard(10_100, &advert("192.0.2.3", 10, 0));
        p.set_link(10_200, BACK, false);
        p.set_link(10_300, BACK, true);
        let said = run(&mut p, 10_400, 10_600);
        assert!(said.iter().all(|line| line.contains("priority")), "{said:?}");
        assert_eq!(p.masters(), Masters(1));
        let group = &p.view(10_600).groups[0];
        assert_eq!((group.state, group.reason, group.master), ("backup", "the node stops", None));
        if peer {
            p.heard(10_609, &advert("192.0.2.3", 10, 100));
            let last = ["masters 0", "INFO: VRRP group 10: the peer answers for its addresses"];
            assert_eq!(heard(&mut p), last);
            p.heard(11_609, &advert("192.0.2.3", 10, 100));
        }
        assert!(run(&mut p, 11_610, 20_000).is_empty());
        p.end();
        assert_eq!(heard(&mut p), if peer { vec![] } else { lines(&["masters 0"]) });
        assert_eq!(p.masters(), Masters(0));
    }
}

#[test]
fn without_virtual_mac_and_without_vips() {
    let mut snapshot = paired_snapshot();
    let mut ha = Ha::clone(snapshot.ha.as_ref().unwrap());
    ha.groups = vec![Group { vrid: 10, virtual_mac: false }];
    ha.group_of_v4.retain(|address, _| address.octets()[0] == 10);
    ha.group_of_v6.clear();
    snapshot.ha = Some(Arc::new(ha));
    let mut p = Pair::new(&config(&snapshot), &snapshot, 0).unwrap();
    p.set_link(0, BACK, true);
    heard(&mut p);
    run(&mut p, 0, DOWN - 1);
    p.tick(DOWN);
    assert_eq!(
        heard(&mut p)[2..],
        [
            "@0 from [2, 0, 0, 0, 0, 0]: advert 192.0.2.2 200 10.0.0.200",
            "@1 from [2, 0, 0, 0, 0, 1]: advert 10.0.0.1 200 10.0.0.200",
            "@1 from [2, 0, 0, 0, 0, 1]: arp 10.0.0.200",
        ]
    );
}

#[test]
fn a_group_that_cannot_be_heard_is_told_at_once() {
    let mut snapshot = paired_snapshot();
    for port in &mut snapshot.ports {
        (port.ipv4, port.ipv6) = (None, None);
    }
    let mut p = Pair::new(&config(&snapshot), &snapshot, 0).unwrap();
    let said = heard(&mut p);
    assert!(said[1].starts_with("ERROR: VRRP group 10: no port has an address"), "{said:?}");
    snapshot.ha = None;
    assert!(Pair::new(&config(&snapshot), &snapshot, 0).is_none());
}

#[test]
fn who_is_heard() {
    let mut p = pair();
    heard(&mut p);
    // The peer, on whichever port.
    p.heard(100, &advert("192.0.2.3", 10, 250));
    p.heard(100, &Advert { port: BACK, ..advert("192.0.2.3", 10, 250) });
    // Link-local: nothing is known of the peer's.
    p.heard(100, &advert("fe80::3", 10, 250));
    let view = p.view(100);
    assert_eq!((view.groups[0].heard, view.strangers), (3, vec![]));
    assert_eq!(view.groups[0].master, Some(ip("fe80::3")));
    // Another router, and strangers.
    p.heard(100, &advert("192.0.2.3", 11, 250));
    let stranger = |source, vrid, is_ours, count, last_ms| {
        let source = ip(source);
        super::Stranger { source, vrid, is_ours, is_peer: false, count, last_ms }
    };
    let other = stranger("192.0.2.3", 11, false, 1, 100);
    assert_eq!(p.view(100).strangers, std::slice::from_ref(&other));
    for now in [100, 200, 60_099, 60_100] {
        p.heard(now, &advert("10.0.0.3", 10, 250));
    }
    // On another port that is most likely the peer.
    p.heard(60_100, &Advert { port: BACK, ..advert("10.0.0.3", 10, 250) });
    let line = "WARN: VRRP: adverts for group 10 from 10.0.0.3, which is not the peer, are ignored";
    let said = heard(&mut p);
    assert_eq!(said, [line, line], "once a minute");
    let view = p.view(60_100);
    assert_eq!((view.groups[0].heard, view.groups[0].ignored), (3, 5));
    let back = stranger("10.0.0.3", 10, true, 5, 60_100);
    assert_eq!(view.strangers, [back.clone(), other.clone()], "those of our groups first");
    // Once its ports are known, those are the peer's and no other.
    p.set_peer_addresses(vec![ip("192.0.2.3"), ip("10.0.0.3"), ip("fe80::33")]);
    p.heard(60_200, &advert("10.0.0.3", 10, 250));
    p.heard(60_200, &advert("fe80::33", 10, 250));
    p.heard(60_200, &advert("fe80::3", 10, 250));
    let view = p.view(60_200);
    assert_eq!((view.groups[0].heard, view.groups[0].ignored), (5, 6));
    let link_local = stranger("fe80::3", 10, true, 1, 60_200);
    let back = super::Stranger { is_peer: true, ..back };
    assert_eq!(view.strangers, [back, link_local, other]);
}

#[test]
fn the_larger_address_wins_ties_on_whichever_port() {
    for (source, peer, yields) in
        [("192.0.2.2", "192.0.2.3", true), ("192.0.2.2", "192.0.2.1", false)]
    {
        let mut snapshot = paired_snapshot();
        let mut ha = Ha::clone(snapshot.ha.as_ref().unwrap());
        (ha.channel.source, ha.channel.peer) = (ip(source), ip(peer));
        snapshot.ha = Some(Arc::new(ha));
        let mut p = Pair::new(&config(&snapshot), &snapshot, 0).unwrap();
        p.set_synced(true);
        run(&mut p, 0, DOWN);
        assert_eq!(p.masters(), Masters(1));
        p.heard(DOWN, &advert("fe80::1", 10, 200));
        assert_eq!(p.masters(), Masters(u32::from(!yields)));
    }
}

#[test]
fn links_and_services_take_off_the_priority() {
    let snapshot = paired_snapshot();
    let config = PairConfig {
        track_services: vec![ServiceId(0), ServiceId(1)],
        port_drop: 60,
        ..config(&snapshot)
    };
    assert_eq!(config.track_ports, [FRONT, BACK]);
    let mut p = Pair::new(&config, &snapshot, 0).unwrap();
    run(&mut p, 0, 5_000);
    p.set_service_up(5_000, ServiceId(1), false);
    p.set_service_up(5_000, ServiceId(1), false);
    let line = "WARN: VRRP group 10: priority 200 -> 150: service dns has no server up: -50";
    assert_eq!(heard(&mut p), all(&[&lines(&[line]), &adverts(150)]));
    p.set_link(5_000, BACK, false);
    assert_eq!(heard(&mut p)[1..], adverts(90));
    p.set_link(5_000, FRONT, false);
    p.set_link(5_000, PortId(77), false);
    assert_eq!(heard(&mut p)[1..], adverts(30));
    p.set_service_up(5_000, ServiceId(0), false);
    let said = heard(&mut p);
    assert!(
        said[0].starts_with("WARN: VRRP group 10: priority 30 -> 0: port front has no link: -60;")
    );
    let last = lines(&["masters 0", "WARN: VRRP group 10: backup: the effective priority is 0"]);
    assert_eq!(said[1..], all(&[&adverts(0), &last]));
    let group = &p.view(5_000).groups[0];
    assert_eq!((group.state, group.effective, group.drops.len()), ("fault", 0, 4));
    assert!(run(&mut p, 5_000, 20_000).is_empty(), "it stays so");
    p.set_link(20_000, FRONT, true);
    p.set_link(20_000, BACK, true);
    p.set_service_up(20_000, ServiceId(0), true);
    p.set_service_up(20_000, ServiceId(1), true);
    run(&mut p, 20_000, 20_000 + 4_000);
    assert_eq!(p.masters(), Masters(1));
    heard(&mut p);
    // A switch that comes back is told.
    p.set_link(24_000, BACK, false);
    heard(&mut p);
    p.set_link(24_010, BACK, true);
    let said = heard(&mut p);
    assert_eq!(said[said.len() - 4..], announcements()[3..]);
}

#[test]
fn a_joining_node_takes_over_only_when_it_has_the_sessions() {
    let mut p = pair();
    p.set_peer_heard(true);
    let listen = |p: &mut Pair, from: u64, until: u64| {
        for now in (from..until).step_by(10) {
            if now % 1000 == 0 {
                p.heard(now, &advert("192.0.2.3", 10, 100));
            }
            p.tick(now);
        }
    };
    listen(&mut p, 0, 20_000);
    assert_eq!((p.masters(), p.view(20_000).groups[0].state), (Masters(0), "joining"));
    assert_eq!(p.view(20_000).groups[0].master, Some(ip("192.0.2.3")));
    p.set_synced(true);
    listen(&mut p, 20_000, 25_000);
    assert_eq!((p.masters(), p.view(25_000).joining), (Masters(1), false));
    assert_eq!(p.view(25_000).groups[0].reason, "the master had a lower priority");
    // It has been free: a channel that falls silent, or a peer that joins, changes nothing of it.
    p.set_synced(false);
    p.set_peer_heard(false);
    listen(&mut p, 25_000, 30_000);
    assert_eq!((p.masters(), p.view(30_000).joining), (Masters(1), false));
}

#[test]
fn a_node_that_does_not_know_its_servers_says_so() {
    let mut p = pair();
    p.set_peer_heard(true);
    p.set_servers_known(false);
    beside_a_master(&mut p, 0, 10_000);
    assert_eq!(p.view(10_000).groups[0].reason, "waits for the sessions of the peer");
    p.set_synced(true);
    beside_a_master(&mut p, 10_000, 20_000);
    let group = &p.view(20_000).groups[0];
    assert_eq!((group.state, group.reason), ("joining", "waits for the first health checks"));
    assert_eq!(p.masters(), Masters(0));
    p.set_servers_known(true);
    beside_a_master(&mut p, 20_000, 25_000);
    assert_eq!((p.masters(), p.view(25_000).groups[0].state), (Masters(1), "master"));
}

#[test]
fn the_interval_of_another_master_is_known_while_it_is_heard() {
    let mut p = pair();
    p.set_synced(true);
    p.tick(0);
    assert_eq!(p.other_interval_ms(), None);
    p.heard(100, &Advert { interval_cs: 20, ..advert("192.0.2.3", 10, 250) });
    assert_eq!(p.other_interval_ms(), Some(200));
    // Three of them, and Skew_Time: it is gone.
    p.tick(100 + 3 * 200);
    assert_eq!(p.other_interval_ms(), Some(200));
    p.tick(100 + 4 * 200);
    assert_eq!((p.other_interval_ms(), p.masters()), (None, Masters(1)));
    // Who is answered and yields.
    p.heard(1_000, &Advert { interval_cs: 20, ..advert("192.0.2.3", 10, 100) });
    assert_eq!(p.other_interval_ms(), None);
    // Who leaves.
    p.heard(1_100, &advert("192.0.2.3", 10, 250));
    assert_eq!(p.other_interval_ms(), Some(1_000));
    p.heard(1_200, &advert("192.0.2.3", 10, 0));
    assert_eq!(p.other_interval_ms(), None);
}

/// Hears adverts of priority 100, one a second, and ticks.
fn beside_a_master(p: &mut Pair, from: u64, until: u64) {
    for now in (from..until).step_by(10) {
        if now % 1000 == 500 {
            p.heard(now, &advert("192.0.2.3", 10, 100));
        }
        p.tick(now);
    }
}

#[test]
fn a_master_whose_sessions_are_not_heard_is_not_preempted() {
    let mut p = pair();
    beside_a_master(&mut p, 0, 5_000);
    let why = "a master is heard, but nothing of its sessions: the channel is silent";
    beside_a_master(&mut p, 5_000, 60_000);
    assert_eq!(p.masters(), Masters(0));
    let group = &p.view(60_000).groups[0];
    assert_eq!((group.state, group.reason), ("joining", why));
    // The channel works for a while, too short to be told all.
    p.set_peer_heard(true);
    beside_a_master(&mut p, 60_000, 61_000);
    assert_eq!(p.view(61_000).groups[0].reason, "waits for the sessions of the peer");
    p.set_peer_heard(false);
    beside_a_master(&mut p, 61_000, 90_000);
    assert_eq!((p.masters(), p.view(90_000).groups[0].reason), (Masters(0), why));
    // From a master that is gone it takes over, and it stays so when that one returns with less.
    run(&mut p, 90_000, 89_500 + DOWN - 1);
    assert_eq!(p.masters(), Masters(0));
    run(&mut p, 89_500 + DOWN, 95_000);
    assert_eq!((p.masters(), p.view(95_000).joining), (Masters(1), false));
    beside_a_master(&mut p, 95_000, 99_000);
    assert_eq!(p.masters(), Masters(1));
}

#[test]
fn a_peer_without_sessions_is_preempted_where_that_is_said() {
    let snapshot = paired_snapshot();
    let config = PairConfig { preempt_unsynced: true, ..config(&snapshot) };
    let mut p = Pair::new(&config, &snapshot, 0).unwrap();
    beside_a_master(&mut p, 0, 4_990);
    let group = &p.view(4_990).groups[0];
    assert_eq!((group.state, group.reason), ("joining", "has just started, listens for the peer"));
    beside_a_master(&mut p, 5_000, 10_000);
    assert_eq!(p.masters(), Masters(1));
    // But a peer that was heard on the channel has some.
    let mut p = Pair::new(&config, &snapshot, 0).unwrap();
    p.set_peer_heard(true);
    beside_a_master(&mut p, 0, 3_000);
    p.set_peer_heard(false);
    beside_a_master(&mut p, 3_000, 20_000);
    assert_eq!((p.masters(), p.view(20_000).groups[0].state), (Masters(0), "joining"));
}

/// A server was taken out of its file, say: it would break what it could not take in.
#[test]
fn a_master_is_not_preempted_by_a_node_that_could_not_take_all_in() {
    let mut p = pair();
    p.set_peer_heard(true);
    p.set_lacking(true);
    beside_a_master(&mut p, 0, 60_000);
    let group = &p.view(60_000).groups[0];
    let why = "lacks sessions of the peer that it could not take in";
    assert_eq!((p.masters(), group.state, group.reason), (Masters(0), "joining", why));
    // A master that is gone is replaced, though the channel is not found silent yet, and the node
    // stays master when that one returns.
    let mut gone = pair();
    gone.set_peer_heard(true);
    gone.set_lacking(true);
    beside_a_master(&mut gone, 0, 20_000);
    run(&mut gone, 20_000, 19_500 + DOWN);
    assert_eq!(gone.masters(), Masters(1));
    gone.set_lacking(false);
    gone.set_peer_heard(false);
    run(&mut gone, 19_510 + DOWN, 30_000);
    gone.set_peer_heard(true);
    beside_a_master(&mut gone, 30_000, 40_000);
    assert_eq!(gone.masters(), Masters(1));
    // What it lacked is over, or its configuration is mended: it takes back by itself.
    p.set_lacking(false);
    p.set_synced(true);
    beside_a_master(&mut p, 60_000, 64_000);
    assert_eq!(p.masters(), Masters(1));
    // It stays so when it later lacks others.
    p.set_synced(false);
    p.set_lacking(true);
    beside_a_master(&mut p, 64_000, 70_000);
    assert_eq!(p.masters(), Masters(1));
}

#[test]
fn an_operator_may_do_without_what_could_not_be_taken_in() {
    let snapshot = paired_snapshot();
    let config = PairConfig { preempt_unsynced: true, ..config(&snapshot) };
    let mut p = Pair::new(&config, &snapshot, 0).unwrap();
    p.set_peer_heard(true);
    // But not without what has not been told yet.
    beside_a_master(&mut p, 0, 20_000);
    assert_eq!(p.masters(), Masters(0));
    p.set_lacking(true);
    beside_a_master(&mut p, 20_000, 24_000);
    assert_eq!(p.masters(), Masters(1));
}

#[test]
fn a_slow_master_is_waited_for() {
    let snapshot = paired_snapshot();
    let config = PairConfig { advert_interval_ms: 10_000, ..config(&snapshot) };
    let mut p = Pair::new(&config, &snapshot, 0).unwrap();
    run(&mut p, 0, 9_000);
    for now in (9_000..100_000).step_by(10) {
        if now % 10_000 == 9_000 {
            p.heard(now, &Advert { interval_cs: 1_000, ..advert("192.0.2.3", 10, 100) });
        }
        p.tick(now);
    }
    assert_eq!((p.masters(), p.view(100_000).groups[0].state), (Masters(0), "joining"));
}

#[test]
fn two_groups_move_apart() {
    let mut snapshot = paired_snapshot();
    let mut ha = Ha::clone(snapshot.ha.as_ref().unwrap());
    ha.groups.push(Group { vrid: 11, virtual_mac: false });
    ha.group_of_v4.insert([192, 0, 2, 9].into(), 1);
    snapshot.ha = Some(Arc::new(ha));
    let config = PairConfig::new(&snapshot, vec![200, 50]);
    let mut p = Pair::new(&config, &snapshot, 0).unwrap();
    p.set_synced(true);
    let mut states = Vec::new();
    for now in (0..10_000).step_by(10) {
        if now % 1000 == 0 {
            p.heard(now, &advert("192.0.2.3", 10, 100));
            p.heard(now, &advert("192.0.2.3", 11, 100));
        }
        p.tick(now);
        states.push(p.masters().0);
    }
    states.dedup();
    assert_eq!(states, [0, 1], "only the first is better here");
    // Active/active has no groups, and nothing to do.
    let mut ha = Ha::clone(snapshot.ha.as_ref().unwrap());
    ha.groups.clear();
    ha.group_of_v4.clear();
    ha.group_of_v6.clear();
    snapshot.ha = Some(Arc::new(ha));
    let mut p = Pair::new(&PairConfig::new(&snapshot, vec![]), &snapshot, 0).unwrap();
    assert_eq!(run(&mut p, 0, 10_000), ["masters 0"]);
}
