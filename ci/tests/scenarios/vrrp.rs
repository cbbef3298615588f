//! One of a pair: adverts that are heard, and what changes with mastership.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use etherparse::ArpOperation;
use hashbrown::HashMap;
use shunt::datapath::ha::{Channel, Group, Ha, Masters};
use shunt::datapath::notice::Advert;
use shunt::datapath::snapshot::{LocalAddress, Mac, PortId};
use shunt::io::memory::MemoryFrame;
use shunt::manage::ha::{Action, Pair, PairConfig};
use shunt::session::{Mode, ServerId};
use shunt::wire::{DropReason, vrrp};
use shunt::worker::control::{Command, Event};

use crate::changes::Changes;
use crate::frames::{SYN, arp, echo, ndp, tcp};
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, TAP, endpoint, ip};
use crate::rig::Rig;

const BROADCAST: Mac = [0xff; 6];
const HOST: Mac = [2, 0, 0, 0, 9, 9];
const NO_MAC: Mac = [0; 6];
const PEER: &str = "192.0.2.3";
const PEER_LINK_LOCAL: &str = "fe80::3";
/// Group 0 has the VIPs, with a virtual MAC address; group 1 the LIPs, with the port's.
const VIPS: Masters = Masters(1);
const BOTH: Masters = Masters(3);
const NONE: Masters = Masters(0);
const VIRTUAL_V4: Mac = [0, 0, 0x5e, 0, 1, 10];
const VIRTUAL_V6: Mac = [0, 0, 0x5e, 0, 2, 10];

fn net(workers: usize) -> Net {
    let mut net = Net::two_armed(workers).usual(Mode::FullNat).with_tap();
    let (mut v4, mut v6) = (HashMap::new(), HashMap::new());
    for family in Family::BOTH {
        for (address, group) in [(family.vip(), 0), (family.lip(), 1)] {
            match address {
                IpAddr::V4(a) => v4.insert(a, group),
                IpAddr::V6(a) => v6.insert(a, group),
            };
        }
    }
    net.snapshot.ha = Some(Arc::new(Ha {
        groups: vec![Group { vrid: 10, virtual_mac: true }, Group { vrid: 11, virtual_mac: false }],
        group_of_v4: v4,
        group_of_v6: v6,
        channel: Channel {
            port: FRONT,
            group: endpoint("239.255.19.19:8849"),
            source: ip("192.0.2.2"),
            peer: ip(PEER),
            rate: 200_000,
            relay: true,
            config_digest: 1,
        },
    }));
    net
}

fn rig(workers: usize, masters: Masters) -> Rig {
    let mut rig = Rig::new(net(workers));
    rig.command(|| Command::Masters(masters));
    rig
}

fn advert(src: &str, priority: u8) -> Vec<u8> {
    let addresses = [Family::V4.vip(), Family::V6.vip()];
    vrrp::Repr { src: ip(src), vrid: 10, priority, interval_cs: 100, addresses: &addresses }
        .frame(if ip(src).is_ipv6() { VIRTUAL_V6 } else { VIRTUAL_V4 })
}

/// Makes the checksum of the IPv4 header right again.
fn mend(frame: &mut [u8]) {
    crate::frames::mend_ipv4_checksum(frame);
}

#[test]
fn adverts_are_told_to_the_management_thread() {
    for workers in [1, 2] {
        let mut rig = rig(workers, NONE);
        for (port, src) in [(FRONT, PEER), (BACK, PEER), (FRONT, PEER_LINK_LOCAL)] {
            for priority in [0, 1, 200, 255] {
                let mut frame = advert(src, priority);
                for padded in [false, true] {
                    if padded {
                        frame.resize(frame.len().max(60) + 2, 0xee);
                    }
                    rig.step("advert", port, &frame, None, Changes::none().consumed(), &[]);
                    let expected = Advert {
                        port,
                        source: ip(src),
                        vrid: 10,
                        priority,
                        interval_cs: 100,
                        addresses: 1,
                    };
                    match &rig.events()[..] {
                        [Event::Vrrp(heard)] => assert_eq!(*heard, expected),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_adverts_cost_a_counter() {
    let mut rig = rig(1, NONE);
    let wrong = |frame: Vec<u8>, at: usize, value: u8| {
        let mut frame = frame;
        frame[at] = value;
        if frame[12] == 8 {
            mend(&mut frame);
        }
        frame
    };
    for (v6, header, src) in [(false, 14, PEER), (true, 14, PEER_LINK_LOCAL)] {
        let good = advert(src, 200);
        let (hop_limit, message) = if v6 { (header + 7, 54) } else { (header + 8, 34) };
        let cut = |len: u8| match v6 {
            true => wrong(good.clone(), header + 5, len),
            false => wrong(good.clone(), header + 3, 20 + len),
        };
        for (what, frame) in [
            ("TTL", wrong(good.clone(), hop_limit, 254)),
            ("version", wrong(good.clone(), message, 0x21)),
            ("type", wrong(good.clone(), message, 0x32)),
            ("router id", wrong(good.clone(), message + 1, 0)),
            ("priority, so checksum", wrong(good.clone(), message + 2, 201)),
            ("count", wrong(good.clone(), message + 3, 2)),
            ("no interval", wrong(good.clone(), message + 5, 0)),
            ("checksum", wrong(good.clone(), message + 7, !good[message + 7])),
            ("no address", cut(8)),
            ("half a header", cut(7)),
            ("nothing", cut(0)),
        ] {
            let changes = Changes::none().dropped(DropReason::VrrpInvalid).add("vrrp_invalid", 1);
            rig.step(what, FRONT, &frame, None, changes, &[]);
            assert!(rig.events().is_empty(), "{what}");
        }
    }
    // What comes back of our own.
    let own = vrrp::link_local(FRONT_MAC).to_string();
    for src in ["192.0.2.2", "2001:db8:1::2", &own] {
        let changes = Changes::none().dropped(DropReason::SpoofedLocal);
        rig.step("our own", FRONT, &advert(src, 200), None, changes, &[]);
        assert!(rig.events().is_empty());
    }
}

#[test]
fn without_a_pair_adverts_are_the_kernels() {
    let mut rig = Rig::new(Net::two_armed(2).usual(Mode::FullNat).with_tap());
    for src in [PEER, PEER_LINK_LOCAL] {
        let frame = advert(src, 200);
        let changes = Changes::none().punted(TAP, &frame);
        rig.step("to the kernel", FRONT, &frame, None, changes, &[(TAP, frame.clone())]);
        let changes = Changes::none().dropped(DropReason::NotLocal);
        rig.step("no kernel", BACK, &frame, None, changes, &[]);
        assert!(rig.events().is_empty());
    }
}

/// A question who has `ours` on a port, and the answer with this MAC address.
fn question(ours: IpAddr, own: Mac) -> (Vec<u8>, Vec<u8>) {
    let text = ours.to_string();
    match ours {
        IpAddr::V4(_) => (
            arp(ArpOperation::REQUEST, (HOST, BROADCAST), "192.0.2.77", &text, NO_MAC),
            arp(ArpOperation::REPLY, (own, HOST), &text, "192.0.2.77", HOST),
        ),
        IpAddr::V6(_) => {
            let asker = "fe80::77";
            (
                ndp(135, (HOST, BROADCAST), asker, &text, 0, &text, Some((1, HOST))),
                ndp(136, (own, HOST), &text, asker, 0xe0, &text, Some((2, own))),
            )
        }
    }
}

#[test]
fn only_the_master_answers_for_the_addresses_of_a_group() {
    for (masters, vip, lip) in
        [(NONE, false, false), (VIPS, true, false), (BOTH, true, true), (Masters(2), false, true)]
    {
        let mut rig = rig(2, masters);
        for family in Family::BOTH {
            let virtual_mac = if family == Family::V4 { VIRTUAL_V4 } else { VIRTUAL_V6 };
            for (port, address, mac, answered) in [
                (FRONT, family.vip(), virtual_mac, vip),
                (BACK, family.vip(), virtual_mac, vip),
                (BACK, family.lip(), BACK_MAC, lip),
                (FRONT, family.front(), FRONT_MAC, true),
            ] {
                let what = format!("{address} of {masters:?}");
                let (question, answer) = question(address, mac);
                if answered {
                    let changes = Changes::none().consumed().originated(port, &answer);
                    rig.step(&what, port, &question, None, changes, &[(port, answer)]);
                } else {
                    let changes = Changes::none().dropped(DropReason::ArpNotForUs);
                    rig.step(&what, port, &question, None, changes, &[]);
                }
                rig.events();
                let own = rig.net.snapshot.ports[usize::from(port.0)].mac;
                let request = echo((ROUTER_MAC, own), family.client(), address, false, 9);
                if answered {
                    let reply = echo((own, ROUTER_MAC), address, family.client(), true, 64);
                    let changes = Changes::none().consumed().originated(port, &reply);
                    rig.step(&what, port, &request, None, changes, &[(port, reply)]);
                } else {
                    let changes = Changes::none().dropped(DropReason::NotMaster);
                    rig.step(&what, port, &request, None, changes, &[]);
                }
            }
        }
    }
}

#[test]
fn what_the_master_tells_of_the_addresses_is_no_forgery() {
    let vip_v4 = Family::V4.vip().to_string();
    let vip_v6 = Family::V6.vip().to_string();
    let (all_nodes, group) = ("ff02::1", [0x33, 0x33, 0, 0, 0, 1]);
    let told = Some((2, VIRTUAL_V6));
    for (masters, verdict) in [
        (NONE, Changes::none().consumed()),
        (VIPS, Changes::none().dropped(DropReason::SpoofedLocal)),
    ] {
        let mut rig = rig(1, masters);
        for frame in [
            arp(ArpOperation::REQUEST, (VIRTUAL_V4, BROADCAST), &vip_v4, &vip_v4, NO_MAC),
            ndp(136, (VIRTUAL_V6, group), &vip_v6, all_nodes, 0xa0, &vip_v6, told),
            ndp(136, (VIRTUAL_V6, group), "fe80::3", all_nodes, 0xa0, &vip_v6, told),
        ] {
            rig.step("announcement", FRONT, &frame, None, verdict.clone(), &[]);
            assert!(rig.events().is_empty(), "nothing is learnt");
        }
    }
}

#[test]
fn frames_to_the_virtual_mac_are_the_masters() {
    for workers in [1, 2] {
        let mut rig = rig(workers, VIPS);
        for family in Family::BOTH {
            let virtual_mac = if family == Family::V4 { VIRTUAL_V4 } else { VIRTUAL_V6 };
            let (client, vip) = (family.client(), family.vip());
            let request = echo((ROUTER_MAC, virtual_mac), client, vip, false, 9);
            let reply = echo((FRONT_MAC, ROUTER_MAC), vip, client, true, 64);
            let changes = Changes::none().consumed().originated(FRONT, &reply);
            rig.step("echo", FRONT, &request, None, changes, &[(FRONT, reply)]);
            for other in [[0, 0, 0x5e, 0, 1, 11], [0, 0, 0x5e, 0, 2, 11], [0, 0, 0x5e, 0, 1, 138]] {
                let request = echo((ROUTER_MAC, other), client, vip, false, 9);
                let changes = Changes::none().dropped(DropReason::NotOurMac);
                rig.step("another's", FRONT, &request, None, changes, &[]);
            }
        }
        // A connection goes on when mastership does; its packets come to another MAC address.
        let client = endpoint("198.51.100.7:4000");
        let syn = tcp(client, endpoint("192.0.2.10:80"), SYN);
        assert_eq!(rig.send(FRONT, &syn.clone().macs_to(VIRTUAL_V4)).len(), 1);
        assert_eq!((rig.sessions(), rig.active(ServerId(0))), (1, 1));
        rig.command(|| Command::Masters(NONE));
        let frame = syn.clone().macs_to(VIRTUAL_V4);
        let changes = Changes::none().dropped(DropReason::NotOurMac);
        rig.step("not master", FRONT, &frame, None, changes, &[]);
        assert_eq!(
            rig.send(FRONT, &syn.clone().macs_to(FRONT_MAC)).len(),
            1,
            "forwarded all the same"
        );
        // A new configuration changes nothing of it.
        rig.command(|| Command::Masters(VIPS));
        rig.reconfigure();
        assert_eq!(rig.send(FRONT, &syn.macs_to(VIRTUAL_V4)).len(), 1);
        assert_eq!(rig.sessions(), 1);
    }
}

#[test]
fn adverts_are_heard_in_a_flood_of_arp() {
    let mut rig = rig(1, NONE);
    rig.events();
    // More than there is room for, on the way to the management thread and before.
    for n in 0..200 {
        let host = format!("192.0.2.{}", 20 + n);
        let ask = arp(ArpOperation::REQUEST, (HOST, BROADCAST), &host, &host, NO_MAC);
        rig.arrive(MemoryFrame::new(FRONT, &ask));
    }
    for priority in 1..=16 {
        rig.arrive(MemoryFrame::new(FRONT, &advert(PEER, priority)));
    }
    rig.settle();
    assert!(rig.counters[0].events_lost.get() >= 100);
    let heard: Vec<u8> = rig
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Vrrp(advert) => Some(advert.priority),
            _ => None,
        })
        .collect();
    assert_eq!(heard, (1..=16).collect::<Vec<u8>>());
}

#[test]
fn the_packet_filter_does_not_see_adverts() {
    let mut net = net(1);
    // Everything comes from where it cannot.
    net.local(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9)), LocalAddress::Vip);
    net.snapshot.guard = Arc::new(shunt::datapath::guard::Guard {
        reverse_path: true,
        bogons: true,
        ..Default::default()
    });
    let mut rig = Rig::new(net);
    let frame = advert("10.99.0.3", 200);
    rig.step("advert", PortId(0), &frame, None, Changes::none().consumed(), &[]);
    assert_eq!(rig.events().len(), 1);
}

/// A node: its data path and its virtual routers.
struct Node {
    rig: Rig,
    pair: Pair,
}

impl Node {
    fn new(priority: u8, own: &str, peer: &str, mac: u8) -> Self {
        let mut net = net(2);
        let port = &mut net.snapshot.ports[0];
        let before = port.ipv4.replace(own.parse().unwrap()).unwrap();
        port.mac[5] = mac;
        net.snapshot.local_v4.remove(&before);
        net.local(ip(own), LocalAddress::Port(FRONT));
        let mut ha = Ha::clone(net.snapshot.ha.as_ref().unwrap());
        (ha.channel.source, ha.channel.peer) = (ip(own), ip(peer));
        net.snapshot.ha = Some(Arc::new(ha));
        let config = PairConfig::new(&net.snapshot, vec![priority; 2]);
        let pair = Pair::new(&config, &net.snapshot, 0).unwrap();
        Node { rig: Rig::new(net), pair }
    }

    /// What it sends by `front` and has to do besides.
    fn tick(&mut self, now: u64) -> Vec<Vec<u8>> {
        for event in self.rig.events() {
            if let Event::Vrrp(advert) = event {
                self.pair.heard(now, &advert);
            }
        }
        self.pair.tick(now);
        let mut frames = Vec::new();
        for action in self.pair.drain().collect::<Vec<_>>() {
            match action {
                Action::Transmit { port: FRONT, frame } => frames.push(frame),
                Action::Transmit { .. } | Action::Log(..) => {}
                Action::Masters(masters) => self.rig.command(|| Command::Masters(masters)),
            }
        }
        frames
    }
}

#[test]
fn two_nodes_hear_each_other_by_their_frames() {
    let mut nodes =
        [Node::new(200, "192.0.2.2", PEER, 0xf0), Node::new(100, PEER, "192.0.2.2", 0xf1)];
    let mut run = |from: u64, until: u64, cut: bool| {
        let mut before = None;
        for now in (from..until).step_by(20) {
            for from in 0..2 {
                let frames = nodes[from].tick(now);
                for frame in frames.iter().filter(|_| !cut) {
                    assert!(nodes[1 - from].rig.send(FRONT, frame).is_empty());
                }
            }
            before = Some([0, 1].map(|n| nodes[n].pair.masters().0));
        }
        before.unwrap()
    };
    assert_eq!(run(0, 8_000, false), [3, 0], "the better one");
    assert_eq!(run(8_000, 14_000, true), [3, 3], "each for itself");
    assert_eq!(run(14_000, 20_000, false), [3, 0], "healed");
    for node in &nodes {
        let view = node.pair.view(20_000);
        assert_eq!((view.strangers, view.other_strangers), (vec![], 0));
        for counters in &node.rig.counters {
            assert_eq!(counters.sync.vrrp_invalid.get(), 0);
            // Its announcements are dropped only while both are masters.
            assert_eq!(counters.drops_of(DropReason::NotOurMac).get(), 0);
        }
    }
    assert!(nodes[1].pair.view(20_000).groups.iter().all(|group| group.heard > 5));
}
