//! What is for the switch itself: ARP, neighbor discovery, echo, and what goes to the kernel.

use etherparse::{ArpOperation, PacketBuilder};
use shunt::datapath::frame::RxChecksum;
use shunt::datapath::snapshot::{LocalAddress, Mac, PortId};
use shunt::io::memory::MemoryFrame;
use shunt::session::Mode;
use shunt::wire::DropReason;
use shunt::worker::control::Event;

use crate::changes::Changes;
use crate::frames::{SYN, arp, echo, ndp, tcp, udp};
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, TAP, endpoint, ip};
use crate::rig::Rig;

const BROADCAST: Mac = [0xff; 6];
const HOST: Mac = [2, 0, 0, 0, 9, 9];
const NO_MAC: Mac = [0; 6];
/// A neighbor discovery option.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

fn rig(workers: usize) -> Rig {
    Rig::new(Net::two_armed(workers).usual(Mode::FullNat).with_tap())
}

/// The one neighbor that the switch has told the management thread about, if any.
fn seen(rig: &mut Rig) -> Option<(PortId, std::net::IpAddr, Mac)> {
    let mut events = rig.events();
    assert!(events.len() <= 1, "{events:?}");
    events.pop().map(|event| match event {
        Event::NeighborSeen { port, address, mac } => (port, address, mac),
        other => panic!("{other:?}"),
    })
}

#[test]
fn arp_requests_for_our_addresses_are_answered() {
    for workers in [1, 2] {
        let mut rig = rig(workers);
        for (port, own, ours, asker) in [
            (FRONT, FRONT_MAC, "192.0.2.10", "192.0.2.77"), // a VIP
            (FRONT, FRONT_MAC, "192.0.2.2", "192.0.2.77"),  // the port's address
            (BACK, BACK_MAC, "10.0.0.1", "10.0.0.77"),
            (BACK, BACK_MAC, "10.0.0.200", "10.0.0.77"), // a LIP
            (BACK, BACK_MAC, "192.0.2.10", "10.0.0.77"), // a VIP, on any port
        ] {
            for to in [BROADCAST, own] {
                let request = arp(ArpOperation::REQUEST, (HOST, to), asker, ours, NO_MAC);
                let reply = arp(ArpOperation::REPLY, (own, HOST), ours, asker, HOST);
                let changes = Changes::none().consumed().originated(port, &reply);
                rig.step(ours, port, &request, None, changes, &[(port, reply)]);
                assert_eq!(seen(&mut rig), Some((port, ip(asker), HOST)));
            }
        }
        // Padded to the length of an Ethernet frame, the answer is not.
        let mut request =
            arp(ArpOperation::REQUEST, (HOST, BROADCAST), "192.0.2.77", "192.0.2.10", NO_MAC);
        request.resize(60, 0);
        let reply = arp(ArpOperation::REPLY, (FRONT_MAC, HOST), "192.0.2.10", "192.0.2.77", HOST);
        let changes = Changes::none().consumed().originated(FRONT, &reply);
        rig.step("padded", FRONT, &request, None, changes, &[(FRONT, reply)]);
        seen(&mut rig);
        // A probe (RFC 5227) is answered, and nothing is learnt from it.
        let probe = arp(ArpOperation::REQUEST, (HOST, BROADCAST), "0.0.0.0", "192.0.2.10", NO_MAC);
        let reply = arp(ArpOperation::REPLY, (FRONT_MAC, HOST), "192.0.2.10", "0.0.0.0", HOST);
        let changes = Changes::none().consumed().originated(FRONT, &reply);
        rig.step("probe", FRONT, &probe, None, changes, &[(FRONT, reply)]);
        assert_eq!(seen(&mut rig), None);
    }
}

#[test]
fn arp_that_is_not_for_us() {
    let mut rig = rig(2);
    let request = ArpOperation::REQUEST;
    for (what, port, frame, reason) in [
        (
            "for another host",
            FRONT,
            arp(request, (HOST, BROADCAST), "192.0.2.77", "192.0.2.78", NO_MAC),
            DropReason::ArpNotForUs,
        ),
        (
            "for the other port's address",
            FRONT,
            arp(request, (HOST, BROADCAST), "192.0.2.77", "10.0.0.1", NO_MAC),
            DropReason::ArpNotForUs,
        ),
        (
            "for the other port's LIP",
            FRONT,
            arp(request, (HOST, BROADCAST), "192.0.2.77", "10.0.0.200", NO_MAC),
            DropReason::ArpNotForUs,
        ),
        (
            "a reply to somebody else",
            FRONT,
            arp(ArpOperation::REPLY, (HOST, FRONT_MAC), "192.0.2.77", "192.0.2.78", HOST),
            DropReason::ArpNotForUs,
        ),
        (
            "somebody has our VIP",
            FRONT,
            arp(request, (HOST, BROADCAST), "192.0.2.10", "192.0.2.10", NO_MAC),
            DropReason::SpoofedLocal,
        ),
        (
            "our own frame comes back",
            FRONT,
            arp(request, (FRONT_MAC, BROADCAST), "192.0.2.2", "192.0.2.1", NO_MAC),
            DropReason::SpoofedLocal,
        ),
        (
            "an unknown operation",
            FRONT,
            arp(ArpOperation(3), (HOST, BROADCAST), "192.0.2.77", "192.0.2.10", NO_MAC),
            DropReason::BadArp,
        ),
        (
            "a sender that is a group",
            FRONT,
            arp(request, (BROADCAST, BROADCAST), "192.0.2.77", "192.0.2.10", NO_MAC),
            DropReason::BadArp,
        ),
    ] {
        rig.step(what, port, &frame, None, Changes::none().dropped(reason), &[]);
        assert_eq!(seen(&mut rig), None, "{what}");
    }
}

#[test]
fn arp_replies_and_announcements_are_learnt_from() {
    let mut rig = rig(1);
    // The kernel behind `front` may have asked: it gets the reply too.
    let reply = arp(ArpOperation::REPLY, (HOST, FRONT_MAC), "192.0.2.77", "192.0.2.2", FRONT_MAC);
    let changes = Changes::none().punted(TAP, &reply);
    rig.step("reply", FRONT, &reply, None, changes, &[(TAP, reply.clone())]);
    assert_eq!(seen(&mut rig), Some((FRONT, ip("192.0.2.77"), HOST)));
    // `back` has no kernel.
    let reply = arp(ArpOperation::REPLY, (HOST, BACK_MAC), "10.0.0.77", "10.0.0.1", BACK_MAC);
    rig.step("reply", BACK, &reply, None, Changes::none().consumed(), &[]);
    assert_eq!(seen(&mut rig), Some((BACK, ip("10.0.0.77"), HOST)));
    for operation in [ArpOperation::REQUEST, ArpOperation::REPLY] {
        let frame = arp(operation, (HOST, BROADCAST), "10.0.0.77", "10.0.0.77", NO_MAC);
        rig.step("gratuitous", BACK, &frame, None, Changes::none().consumed(), &[]);
        assert_eq!(seen(&mut rig), Some((BACK, ip("10.0.0.77"), HOST)));
    }
}

/// The group of a solicited node on the wire.
const fn group_mac(a: u8, b: u8, c: u8) -> Mac {
    [0x33, 0x33, 0xff, a, b, c]
}

#[test]
fn neighbor_solicitations_for_our_addresses_are_answered() {
    const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
    const ROUTER_OVERRIDE: u8 = 0xa0;
    for workers in [1, 2] {
        let mut rig = rig(workers);
        for (port, own, ours, group, mac, asker) in [
            (FRONT, FRONT_MAC, "2001:db8:1::10", "ff02::1:ff00:10", 0x10, "2001:db8:1::77"),
            (FRONT, FRONT_MAC, "2001:db8:1::2", "ff02::1:ff00:2", 0x02, "fe80::77"),
            (BACK, BACK_MAC, "2001:db8:2::200", "ff02::1:ff00:200", 0x00, "2001:db8:2::77"),
            (BACK, BACK_MAC, "2001:db8:1::10", "ff02::1:ff00:10", 0x10, "2001:db8:2::77"),
        ] {
            let third = if ours.ends_with("200") { 2 } else { 0 };
            let option = Some((SOURCE, HOST));
            let macs = (HOST, group_mac(0, third, mac));
            let answer = ndp(
                136,
                (own, HOST),
                ours,
                asker,
                ROUTER_SOLICITED_OVERRIDE,
                ours,
                Some((TARGET, own)),
            );
            let changes = || Changes::none().consumed().originated(port, &answer);
            let out = [(port, answer.clone())];
            let request = ndp(135, macs, asker, group, 0, ours, option);
            rig.step(ours, port, &request, None, changes(), &out);
            assert_eq!(seen(&mut rig), Some((port, ip(asker), HOST)));
            // To the host itself, with and without the option (RFC 4861 4.3).
            let request = ndp(135, (HOST, own), asker, ours, 0, ours, option);
            rig.step(ours, port, &request, None, changes(), &out);
            assert_eq!(seen(&mut rig), Some((port, ip(asker), HOST)));
            let request = ndp(135, (HOST, own), asker, ours, 0, ours, None);
            rig.step(ours, port, &request, None, changes(), &out);
            assert_eq!(seen(&mut rig), None);
        }
        // Duplicate address detection: the answer goes to all nodes.
        let macs = (HOST, group_mac(0, 0, 0x10));
        let ours = "2001:db8:1::10";
        let probe = ndp(135, macs, "::", "ff02::1:ff00:10", 0, ours, None);
        let all_nodes = (FRONT_MAC, [0x33, 0x33, 0, 0, 0, 1]);
        let option = Some((TARGET, FRONT_MAC));
        let answer = ndp(136, all_nodes, ours, "ff02::1", ROUTER_OVERRIDE, ours, option);
        let changes = Changes::none().consumed().originated(FRONT, &answer);
        rig.step("detection", FRONT, &probe, None, changes, &[(FRONT, answer)]);
        assert_eq!(seen(&mut rig), None);
    }
}

#[test]
fn other_neighbor_discovery() {
    let mut rig = rig(1);
    let asker = "2001:db8:2::77";
    let group = (HOST, group_mac(0, 0, 0x78));
    let option = Some((SOURCE, HOST));
    // On `back`, which has no kernel behind it.
    let not_ours = "2001:db8:2::78";
    let frame = ndp(135, group, asker, "ff02::1:ff00:78", 0, not_ours, option);
    let changes = Changes::none().dropped(DropReason::ArpNotForUs);
    rig.step("for another", BACK, &frame, None, changes, &[]);
    assert_eq!(seen(&mut rig), None);
    // On `front` it may be for a link-local address of the kernel's.
    let frame = ndp(135, group, "fe80::77", "ff02::1:ff00:78", 0, "fe80::78", option);
    let changes = Changes::none().punted(TAP, &frame);
    rig.step("for the kernel", FRONT, &frame, None, changes, &[(TAP, frame.clone())]);
    assert_eq!(seen(&mut rig), None);

    let told = Some((TARGET, HOST));
    let frame = ndp(136, (HOST, BACK_MAC), asker, "2001:db8:2::1", 0x60, asker, told);
    rig.step("advertisement", BACK, &frame, None, Changes::none().consumed(), &[]);
    assert_eq!(seen(&mut rig), Some((BACK, ip(asker), HOST)));
    let address = "2001:db8:1::77";
    let frame = ndp(136, (HOST, FRONT_MAC), address, "2001:db8:1::2", 0x60, address, told);
    let changes = Changes::none().punted(TAP, &frame);
    rig.step("to the kernel too", FRONT, &frame, None, changes, &[(TAP, frame.clone())]);
    assert_eq!(seen(&mut rig), Some((FRONT, ip(address), HOST)));

    // Linux leaves the option out when the question was put to it alone; unasked, that tells nothing.
    let frame = ndp(136, (HOST, BACK_MAC), asker, "2001:db8:2::1", 0x40, asker, None);
    rig.step("a short answer", BACK, &frame, None, Changes::none().consumed(), &[]);
    assert_eq!(seen(&mut rig), Some((BACK, ip(asker), HOST)));
    let frame = ndp(136, (HOST, BACK_MAC), asker, "2001:db8:2::1", 0x20, asker, None);
    rig.step("tells nothing", BACK, &frame, None, Changes::none().consumed(), &[]);
    assert_eq!(seen(&mut rig), None);

    let good = ndp(135, group, asker, "ff02::1:ff00:10", 0, "2001:db8:1::10", option);
    let mut forwarded = good.clone();
    forwarded[21] = 254;
    let mut checksum = good.clone();
    checksum[57] ^= 1;
    let group_target = ndp(135, group, asker, "ff02::1:ff00:10", 0, "ff02::10", option);
    let solicited = ndp(136, group, asker, "ff02::1", 0x60, asker, told);
    for (what, frame) in [
        ("forwarded", forwarded),
        ("a wrong checksum", checksum),
        ("for a group", group_target),
        ("a solicited answer to a group", solicited),
    ] {
        let changes = Changes::none().dropped(DropReason::BadNdp);
        rig.step(what, BACK, &frame, None, changes, &[]);
        assert_eq!(seen(&mut rig), None, "{what}");
    }
    // Somebody claims our addresses.
    let ours = "2001:db8:1::10";
    for frame in [
        ndp(136, (HOST, BACK_MAC), ours, "2001:db8:2::1", 0x20, ours, told),
        ndp(136, (HOST, BACK_MAC), "fe80::77", "2001:db8:2::1", 0x20, ours, told),
        ndp(135, group, ours, "ff02::1:ff00:78", 0, not_ours, option),
    ] {
        let changes = Changes::none().dropped(DropReason::SpoofedLocal);
        rig.step("claims our address", BACK, &frame, None, changes, &[]);
        assert_eq!(seen(&mut rig), None);
    }
}

#[test]
fn echo_is_answered_for_vips_and_port_addresses() {
    for workers in [1, 2] {
        let mut rig = rig(workers);
        for family in Family::BOTH {
            let client = family.client();
            for ours in [family.vip(), family.front(), family.back(), family.lip()] {
                for ttl in [1, 57] {
                    let request = echo((ROUTER_MAC, FRONT_MAC), client, ours, false, ttl);
                    let reply = echo((FRONT_MAC, ROUTER_MAC), ours, client, true, 64);
                    let changes = Changes::none().consumed().originated(FRONT, &reply);
                    rig.step("echo", FRONT, &request, None, changes, &[(FRONT, reply)]);
                }
            }
        }
    }
}

#[test]
fn other_icmp() {
    use DropReason::{BadIcmp, FrameTooShort, IcmpNotHandled, Martian, NotLocal, SpoofedLocal};
    let mut rig = rig(1);
    let macs = (ROUTER_MAC, FRONT_MAC);
    for family in Family::BOTH {
        let (client, vip) = (family.client(), family.vip());
        let transport = if family == Family::V4 { 34 } else { 54 };
        let good = echo(macs, client, vip, false, 64);
        let mut checksum = good.clone();
        *checksum.last_mut().unwrap() ^= 1;
        // The IP packet ends within the ICMP header.
        let mut short = good[..transport + 7].to_vec();
        if family == Family::V4 {
            short[17] = 27;
            crate::frames::mend_ipv4_checksum(&mut short);
        } else {
            short[19] = 7;
        }
        let short_reason = if family == Family::V4 { FrameTooShort } else { BadIcmp };
        for (what, frame, reason) in [
            ("a reply to a VIP", echo(macs, client, vip, true, 64), IcmpNotHandled),
            ("a reply to a LIP", echo(macs, client, family.lip(), true, 64), IcmpNotHandled),
            ("for nobody here", echo(macs, client, family.server(11), false, 64), NotLocal),
            ("from ourselves", echo(macs, family.front(), vip, false, 64), SpoofedLocal),
            ("a wrong checksum", checksum, BadIcmp),
            ("cut short", short.clone(), short_reason),
        ] {
            rig.step(what, FRONT, &frame, None, Changes::none().dropped(reason), &[]);
        }
        short.resize(70, 0);
        rig.step("cut short", FRONT, &short, None, Changes::none().dropped(BadIcmp), &[]);
        // The kernel's ping is answered by the kernel.
        let reply = echo(macs, client, family.front(), true, 64);
        let changes = Changes::none().punted(TAP, &reply);
        rig.step("a reply to the kernel", FRONT, &reply, None, changes, &[(TAP, reply.clone())]);
    }
    let nobody = echo(macs, ip("::"), Family::V6.vip(), false, 64);
    let changes = Changes::none().dropped(Martian);
    rig.step("from the unspecified address", FRONT, &nobody, None, changes, &[]);
}

#[test]
fn to_the_kernel_and_from_it() {
    for workers in [1, 2] {
        let mut rig = rig(workers);
        for family in Family::BOTH {
            let (client, own) = (endpoint_of(family.client(), 4000), family.front());
            let from_router = |packet| rig_packet(&rig, packet);
            let ssh = from_router(tcp(client, endpoint_of(own, 22), SYN));
            let bgp = from_router(udp(client, endpoint_of(own, 179)));
            for frame in [ssh, bgp] {
                let changes = Changes::none().punted(TAP, &frame);
                let out = [(TAP, frame.clone())];
                rig.step("for the kernel", FRONT, &frame, Some(client), changes, &out);
            }
            // Whatever the kernel sends goes out by the tap's port as it is.
            let answer = tcp(endpoint_of(own, 22), client, 0x12).macs(FRONT_MAC, ROUTER_MAC);
            let frame = answer.bytes();
            let changes = Changes::none().tx(FRONT, &frame);
            rig.step("from the kernel", TAP, &frame, None, changes, &[(FRONT, frame.clone())]);
        }
        for garbage in [vec![0; 14], vec![0xff; 60]] {
            let changes = Changes::none().tx(FRONT, &garbage);
            let out = [(FRONT, garbage.clone())];
            rig.step("anything from the kernel", TAP, &garbage, None, changes, &out);
        }
    }
}

#[test]
fn the_kernel_gets_checksums_that_are_finished() {
    for by_port in [true, false] {
        for family in Family::BOTH {
            let mut net = Net::two_armed(1).usual(Mode::Nat).with_tap();
            net.snapshot.ports[0].full_checksums = by_port;
            let mut rig = Rig::new(net);
            let (server, own) =
                (endpoint_of(family.client(), 80), endpoint_of(family.front(), 4000));
            let whole = rig_packet(&rig, tcp(server, own, 0x12));
            let at = if family == Family::V4 { 50 } else { 70 };
            let mut partial = whole.clone();
            partial[at..at + 2].copy_from_slice(&[0x12, 0x34]);
            let said = RxChecksum { transport_partial: !by_port, ..RxChecksum::default() };
            let frame = MemoryFrame::new(FRONT, &partial).with_checksum(said);
            let changes = Changes::none().punted(TAP, &whole);
            rig.step_frame("unfinished", frame, None, changes, &[(TAP, whole.clone())]);
        }
    }
}

fn endpoint_of(ip: std::net::IpAddr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip, port)
}

fn rig_packet(rig: &Rig, packet: crate::frames::Packet) -> Vec<u8> {
    rig.by_client(packet).bytes()
}

/// An IP packet of a protocol that has no sessions.
fn other_protocol(to_mac: Mac, src: &str, dst: &str, protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = PacketBuilder::ethernet2(ROUTER_MAC, to_mac);
    let payload = [1; 30];
    match (ip(src), ip(dst)) {
        (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
            let step = start.ipv4(s.octets(), d.octets(), 1);
            step.write(&mut bytes, protocol.into(), &payload).unwrap();
        }
        (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => {
            let step = start.ipv6(s.octets(), d.octets(), 1);
            step.write(&mut bytes, protocol.into(), &payload).unwrap();
        }
        _ => panic!("two families"),
    }
    bytes
}

#[test]
fn other_protocols_and_groups() {
    use DropReason::{NoException, NoService, NotLocal, UnknownEtherType};
    let group_v4 = [1, 0, 0x5e, 0, 0, 18];
    let group_v6 = [0x33, 0x33, 0, 0, 0, 18];
    let mut lldp = vec![0; 60];
    lldp[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0x0e]);
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let cases = |mac| {
        [
            ("OSPF", other_protocol(mac, "192.0.2.1", "192.0.2.2", 89), NoException),
            ("OSPF", other_protocol(mac, "2001:db8:1::1", "2001:db8:1::2", 89), NoException),
            ("VRRP", other_protocol(group_v4, "192.0.2.1", "224.0.0.18", 112), NotLocal),
            ("VRRP", other_protocol(group_v6, "fe80::1", "ff02::12", 112), NotLocal),
            ("LLDP", lldp.clone(), UnknownEtherType),
        ]
    };
    let mut rig = rig(2);
    // With a kernel behind the port it gets them; without, each has its reason.
    for (what, frame, _) in cases(FRONT_MAC) {
        let changes = Changes::none().punted(TAP, &frame);
        rig.step(what, FRONT, &frame, None, changes, &[(TAP, frame.clone())]);
    }
    for (what, frame, reason) in cases(BACK_MAC) {
        rig.step(what, BACK, &frame, None, Changes::none().dropped(reason), &[]);
    }
    for (what, frame, reason) in [
        ("GRE to a VIP", other_protocol(FRONT_MAC, "192.0.2.1", "192.0.2.10", 47), NoService),
        ("GRE to a VIP", other_protocol(FRONT_MAC, "fe80::1", "2001:db8:1::10", 47), NoService),
        ("GRE to a LIP", other_protocol(FRONT_MAC, "192.0.2.1", "10.0.0.200", 47), NoService),
        ("transit", other_protocol(FRONT_MAC, "192.0.2.1", "203.0.113.5", 47), NotLocal),
        ("transit", other_protocol(FRONT_MAC, "fe80::1", "2001:db8:77::1", 47), NotLocal),
    ] {
        rig.step(what, FRONT, &frame, None, Changes::none().dropped(reason), &[]);
    }
}

#[test]
fn what_no_service_listens_for() {
    use DropReason::{NoException, NoService, NoSession, NotLocal, SpoofedLocal};
    for workers in [1, 2, 4] {
        let mut rig = rig(workers);
        let client = endpoint("198.51.100.7:4000");
        for (what, to, reason) in [
            ("no such port", "192.0.2.10:81", NoService),
            ("an address of the other port", "10.0.0.1:22", NotLocal),
            ("transit", "203.0.113.5:80", NotLocal),
            ("a LIP without a session", "10.0.0.200:2000", NoSession),
        ] {
            let frame = rig_packet(&rig, tcp(client, endpoint(to), SYN));
            if reason == NotLocal && to.starts_with("10.0.0.1") {
                // An address of ours, whichever port the packet came by.
                let changes = Changes::none().punted(TAP, &frame);
                let out = [(TAP, frame.clone())];
                rig.step(what, FRONT, &frame, Some(client), changes, &out);
                continue;
            }
            let changes = Changes::none().dropped(reason);
            rig.step(what, FRONT, &frame, Some(client), changes, &[]);
        }
        for flags in [0x10, 0x11, 0x04, 0x12, 0x18] {
            let frame = rig_packet(&rig, tcp(client, endpoint("192.0.2.10:80"), flags));
            let changes = Changes::none().dropped(NoSession);
            rig.step("in mid-stream", FRONT, &frame, Some(client), changes, &[]);
        }
        for spoofed in ["192.0.2.10:80", "192.0.2.2:4000", "10.0.0.200:4000"] {
            let spoofed = endpoint(spoofed);
            let frame = rig_packet(&rig, tcp(spoofed, endpoint("192.0.2.10:53"), SYN));
            let changes = Changes::none().dropped(SpoofedLocal);
            rig.step("our own address", FRONT, &frame, Some(spoofed), changes, &[]);
        }
        // From the servers' side.
        let server = endpoint("10.0.0.11:8080");
        let frame = rig.by_server(11, tcp(server, client, 0x12)).bytes();
        let changes = Changes::none().dropped(NoSession);
        rig.step("an answer to nobody", BACK, &frame, Some(client), changes, &[]);
        let other = endpoint("10.0.0.11:9999");
        let frame = rig.by_server(11, tcp(other, client, SYN)).bytes();
        let changes = Changes::none().dropped(NotLocal);
        rig.step("a server on its own account", BACK, &frame, Some(client), changes, &[]);
        let own = endpoint("10.0.0.1:40000");
        let frame = rig.by_server(11, tcp(server, own, 0x12)).bytes();
        let changes = Changes::none().dropped(NoException);
        rig.step("to a kernel that is not there", BACK, &frame, Some(own), changes, &[]);
    }
}

#[test]
fn the_kernel_is_not_flooded() {
    let mut rig = rig(1);
    let frame = rig_packet(&rig, tcp(endpoint("198.51.100.7:4000"), endpoint("192.0.2.2:22"), SYN));
    for _ in 0..1000 {
        assert_eq!(rig.send(FRONT, &frame).len(), 1);
    }
    let changes = Changes::none().dropped(DropReason::PuntLimited);
    rig.step("one too many", FRONT, &frame, None, changes, &[]);
    rig.now = rig.now.wrapping_add(1);
    for _ in 0..50 {
        assert_eq!(rig.send(FRONT, &frame).len(), 1);
    }
    assert_eq!(rig.send(FRONT, &frame).len(), 0);
}

#[test]
fn a_vip_may_be_a_port_address() {
    // The operator listens on the port's own address: the service has its port, echo is answered.
    let mut net = Net::two_armed(1).usual(Mode::Nat);
    net.local(ip("192.0.2.2"), LocalAddress::Vip);
    let mut rig = Rig::new(net);
    let request = echo((ROUTER_MAC, FRONT_MAC), ip("198.51.100.7"), ip("192.0.2.2"), false, 9);
    let reply = echo((FRONT_MAC, ROUTER_MAC), ip("192.0.2.2"), ip("198.51.100.7"), true, 64);
    let changes = Changes::none().consumed().originated(FRONT, &reply);
    rig.step("echo", FRONT, &request, None, changes, &[(FRONT, reply)]);
}
