//! VLANs: ports that share a device. Frames come in with the id of one port, tagged, and go out with
//! the tag of the port they leave by.

use std::net::SocketAddr;

use etherparse::ArpOperation;
use shunt::datapath::snapshot::PortId;
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason::{VlanMissing, VlanTagged, VlanUnknown};

use crate::changes::Changes;
use crate::frames::{ACK, Packet, SYN, SYN_ACK, arp, echo, ndp, tcp};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, TAP, server_mac};
use crate::rig::Rig;

const FRONT_VLAN: u16 = 100;
const BACK_VLAN: u16 = 4094;

/// Front and back on one device, whose frames come in as those of `trunk`.
fn trunk(workers: usize, mode: Mode, vlans: [u16; 2], trunk: PortId) -> Net {
    let mut net = Net::two_armed(workers).usual(mode);
    for (port, vlan) in net.snapshot.ports.iter_mut().zip(vlans) {
        port.mac = FRONT_MAC;
        port.vlan = vlan;
        port.trunk = Some(trunk);
    }
    net
}

fn tagged(bytes: &[u8], tag: u16) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    if tag != 0 {
        frame.splice(12..12, [0x81, 0x00, (tag >> 8) as u8, tag as u8]);
    }
    frame
}

/// What comes in with the id of the trunk belongs to `port`.
fn of_port(changes: Changes, trunk: PortId, port: PortId, frame: &[u8]) -> Changes {
    let len = frame.len() as i64;
    changes
        .add(format!("port{}.rx_packets", trunk.0), -1)
        .add(format!("port{}.rx_bytes", trunk.0), -len)
        .add(format!("port{}.rx_packets", port.0), 1)
        .add(format!("port{}.rx_bytes", port.0), len)
}

struct Talk {
    family: Family,
    mode: Mode,
    client: SocketAddr,
    vip: SocketAddr,
    server: SocketAddr,
}

impl Talk {
    fn new(family: Family, mode: Mode) -> Self {
        let port = if mode == Mode::Dr { 80 } else { 8080 };
        Talk {
            family,
            mode,
            client: SocketAddr::new(family.client(), 40_001),
            vip: SocketAddr::new(family.vip(), 80),
            server: SocketAddr::new(family.server(11), port),
        }
    }

    fn id(&self) -> ServerId {
        ServerId(u16::from(self.family == Family::V6))
    }

    /// A packet from the client comes in with one tag and leaves with the other.
    fn forward(&self, rig: &mut Rig, tags: [u16; 2], trunk: PortId, flags: u8, opens: bool) {
        let packet = rig.by_client(tcp(self.client, self.vip, flags).payload(b"abc"));
        let out = match self.mode {
            Mode::Dr => packet.clone(),
            _ => Packet { dst: self.server, ttl: 63, ..packet.clone() },
        };
        let (bytes, out) = (packet.bytes(), rig.to_server(11, out).bytes());
        let (frame, out) = (tagged(&bytes, tags[0]), tagged(&out, tags[1]));
        let mut changes = Changes::none().forward(self.id(), &bytes).tx(BACK, &out);
        changes = of_port(changes, trunk, FRONT, &frame);
        if opens {
            changes = changes.session(self.id(), self.family == Family::V6, 1);
        }
        rig.step("forward", trunk, &frame, Some(self.client), changes, &[(BACK, out)]);
    }

    fn reply(&self, rig: &mut Rig, tags: [u16; 2], trunk: PortId, flags: u8) {
        let packet = rig.by_server(11, tcp(self.server, self.client, flags));
        let out = Packet { src: self.vip, ttl: 63, ..packet.clone() };
        let (bytes, out) = (packet.bytes(), rig.to_client(out).bytes());
        let (frame, out) = (tagged(&bytes, tags[1]), tagged(&out, tags[0]));
        let changes = Changes::none().reply(self.id(), &bytes).tx(FRONT, &out);
        let changes = of_port(changes, trunk, BACK, &frame);
        rig.step("reply", trunk, &frame, Some(self.client), changes, &[(FRONT, out)]);
    }
}

/// Two VLANs, or one and an untagged port, which need not be the first; handed from worker to worker.
#[test]
fn there_and_back_between_two_ports_of_a_device() {
    for workers in [1, 2, 4] {
        for (tags, receives) in
            [([FRONT_VLAN, BACK_VLAN], FRONT), ([0, BACK_VLAN], FRONT), ([FRONT_VLAN, 0], BACK)]
        {
            for mode in [Mode::Nat, Mode::Dr] {
                for family in Family::BOTH {
                    let mut rig = Rig::new(trunk(workers, mode, tags, receives));
                    let talk = Talk::new(family, mode);
                    talk.forward(&mut rig, tags, receives, SYN, true);
                    if mode == Mode::Nat {
                        talk.reply(&mut rig, tags, receives, SYN_ACK);
                    }
                    talk.forward(&mut rig, tags, receives, ACK, false);
                    // Priority and drop eligibility are not part of the VLAN, nor passed on.
                    let marked = [tags[0] | 0xf000, tags[1]];
                    talk.forward(&mut rig, marked, receives, ACK, false);
                    assert_eq!(rig.sessions(), 1);
                }
            }
        }
    }
}

#[test]
fn frames_that_belong_to_no_port() {
    let mut rig = Rig::new(trunk(1, Mode::Nat, [FRONT_VLAN, BACK_VLAN], FRONT));
    let talk = Talk::new(Family::V4, Mode::Nat);
    let bytes = rig.by_client(tcp(talk.client, talk.vip, SYN)).bytes();
    for (what, frame, reason) in [
        ("another VLAN", tagged(&bytes, 101), VlanUnknown),
        ("the reserved VLAN", tagged(&bytes, 4095), VlanUnknown),
        ("untagged", bytes.clone(), VlanMissing),
        ("a priority alone", tagged(&bytes, 0xe000), VlanMissing),
        ("two tags", tagged(&tagged(&bytes, BACK_VLAN), FRONT_VLAN), VlanTagged),
        ("a priority in a VLAN", tagged(&tagged(&bytes, 0xe000), FRONT_VLAN), VlanTagged),
        ("an end after the tag", tagged(&bytes, FRONT_VLAN)[..17].to_vec(), VlanMissing),
    ] {
        let mut changes = Changes::none().dropped(reason);
        if reason == VlanTagged {
            changes = of_port(changes, FRONT, FRONT, &frame);
        }
        rig.step(what, FRONT, &frame, None, changes, &[]);
    }
    let mut service = tagged(&bytes, FRONT_VLAN);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    let changes = Changes::none().dropped(VlanMissing);
    rig.step("a service tag", FRONT, &service, None, changes, &[]);
}

/// A tag with VLAN 0 is none (IEEE 802.1Q 6.8): on a device without VLANs and on one with an untagged
/// port.
#[test]
fn a_tag_with_a_priority_alone_counts_as_none() {
    for workers in [1, 2] {
        let talk = Talk::new(Family::V4, Mode::Nat);
        let plain = Net::two_armed(workers).usual(Mode::Nat);
        for net in [plain, trunk(workers, Mode::Nat, [0, BACK_VLAN], FRONT)] {
            let back = net.snapshot.ports[1].vlan;
            let mut rig = Rig::new(net);
            talk.forward(&mut rig, [0, back], FRONT, SYN, true);
            let mut packet = rig.by_client(tcp(talk.client, talk.vip, ACK)).bytes();
            packet.splice(12..12, [0x81, 0, 0xe0, 0]);
            let sent = rig.send(FRONT, &packet);
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0].0, BACK);
        }
    }
    // A second tag behind it is one too many.
    let mut rig = Rig::new(Net::two_armed(1).usual(Mode::Nat));
    let talk = Talk::new(Family::V4, Mode::Nat);
    let mut frame = rig.by_client(tcp(talk.client, talk.vip, SYN)).bytes();
    for _ in 0..2 {
        frame.splice(12..12, [0x81, 0, 0, 0]);
    }
    rig.step("two", FRONT, &frame, None, Changes::none().dropped(VlanTagged), &[]);
}

/// Answers leave with the tag of the port that was asked, for the addresses of that port.
#[test]
fn arp_neighbor_discovery_and_echo() {
    let mut rig = Rig::new(trunk(1, Mode::Nat, [FRONT_VLAN, BACK_VLAN], FRONT));
    let broadcast = [0xff; 6];
    for (port, vlan, asker, own) in
        [(FRONT, FRONT_VLAN, "192.0.2.1", "192.0.2.2"), (BACK, BACK_VLAN, "10.0.0.11", "10.0.0.1")]
    {
        let mac = if port == FRONT { ROUTER_MAC } else { server_mac(11) };
        let request = arp(ArpOperation::REQUEST, (mac, broadcast), asker, own, [0; 6]);
        let answer = arp(ArpOperation::REPLY, (FRONT_MAC, mac), own, asker, mac);
        let (request, answer) = (tagged(&request, vlan), tagged(&answer, vlan));
        let changes = Changes::none().consumed().originated(port, &answer);
        let changes = of_port(changes, FRONT, port, &request);
        rig.step("arp", FRONT, &request, None, changes, &[(port, answer)]);

        // The other port's address is not this one's.
        let other = if port == FRONT { "10.0.0.1" } else { "192.0.2.2" };
        let request = arp(ArpOperation::REQUEST, (mac, broadcast), asker, other, [0; 6]);
        assert_eq!(rig.send(FRONT, &tagged(&request, vlan)), []);
    }
    let group = [0x33, 0x33, 0xff, 0, 0, 1];
    let (asker, own) = ("2001:db8:2::11", "2001:db8:2::1");
    let macs = (server_mac(11), group);
    let question = ndp(135, macs, asker, "ff02::1:ff00:1", 0, own, Some((1, server_mac(11))));
    let macs = (FRONT_MAC, server_mac(11));
    let answer = ndp(136, macs, own, asker, 0xe0, own, Some((2, FRONT_MAC)));
    let sent = rig.send(FRONT, &tagged(&question, BACK_VLAN));
    assert_eq!(sent, [(BACK, tagged(&answer, BACK_VLAN))]);

    for family in Family::BOTH {
        let ask = echo((server_mac(11), FRONT_MAC), family.server(11), family.vip(), false, 64);
        let reply = echo((FRONT_MAC, server_mac(11)), family.vip(), family.server(11), true, 64);
        let sent = rig.send(FRONT, &tagged(&ask, BACK_VLAN));
        assert_eq!(sent, [(BACK, tagged(&reply, BACK_VLAN))]);
    }
}

/// The kernel shares a VLAN port by a tap of its own and sees no tags there.
#[test]
fn the_exception_tap_of_a_vlan() {
    let mut net = trunk(1, Mode::Nat, [FRONT_VLAN, BACK_VLAN], FRONT).with_tap();
    // The tap is a device of its own.
    let tap = &mut net.snapshot.ports[usize::from(TAP.0)];
    (tap.vlan, tap.trunk) = (0, None);
    let mut rig = Rig::new(net);
    let (client, own) = (SocketAddr::new(Family::V4.client(), 5000), Family::V4.front());
    let ssh = rig.by_client(tcp(client, SocketAddr::new(own, 22), SYN)).bytes();
    let frame = tagged(&ssh, FRONT_VLAN);
    let changes = of_port(Changes::none().punted(TAP, &ssh), FRONT, FRONT, &frame);
    rig.step("to the kernel", FRONT, &frame, None, changes, &[(TAP, ssh)]);

    let answer = rig.to_client(tcp(SocketAddr::new(own, 22), client, SYN_ACK)).bytes();
    let out = tagged(&answer, FRONT_VLAN);
    let changes = Changes::none().tx(FRONT, &out);
    rig.step("from the kernel", TAP, &answer, None, changes, &[(FRONT, out)]);
}

#[test]
fn what_waited_for_its_next_hop_leaves_with_the_tag() {
    let mut rig = Rig::cold(trunk(1, Mode::Nat, [FRONT_VLAN, BACK_VLAN], FRONT));
    let talk = Talk::new(Family::V6, Mode::Nat);
    let packet = rig.by_client(tcp(talk.client, talk.vip, SYN));
    assert_eq!(rig.send(FRONT, &tagged(&packet.bytes(), FRONT_VLAN)), []);
    rig.resolve(BACK, Family::V6.server(11), server_mac(11));
    let out = rig.to_server(11, Packet { dst: talk.server, ttl: 63, ..packet }).bytes();
    assert_eq!(rig.sent(), [(BACK, tagged(&out, BACK_VLAN))]);
}
