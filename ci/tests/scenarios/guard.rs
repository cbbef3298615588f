//! The packet filter, prefix lists and sources that cannot be right.

use std::net::SocketAddr;
use std::sync::Arc;

use shunt::datapath::filter::{Action, Filters, FlagMatch, Rule};
use shunt::datapath::guard::Guard;
use shunt::datapath::prefix_set::PrefixSet;
use shunt::datapath::snapshot::{PortId, Side};
use shunt::session::{Mode, ServerId};
use shunt::wire::DropReason;

use crate::changes::Changes;
use crate::fragments::split;
use crate::frames::{
    ACK, Packet, RST, SYN, SYN_ACK, echo, icmp_error, mend_ipv4_checksum, ndp, tcp, time_exceeded,
    udp,
};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, TAP, endpoint, ip, server_mac};
use crate::rig::Rig;

fn set(prefixes: &[&str]) -> PrefixSet {
    prefixes.iter().map(|p| p.parse::<ipnet::IpNet>().unwrap()).collect()
}

fn rule(action: Action) -> Rule {
    Rule { action, ..Rule::default() }
}

fn guarded(workers: usize, guard: Guard) -> Rig {
    let mut net = Net::two_armed(workers).usual(Mode::Nat);
    net.snapshot.guard = Arc::new(guard);
    Rig::new(net)
}

fn filtered(workers: usize, rules: Vec<Rule>) -> Rig {
    guarded(workers, Guard { filters: Filters::new(rules), ..Guard::default() })
}

fn matched(rule: usize, bytes: &[u8]) -> Changes {
    Changes::none()
        .add(format!("filter{rule}.packets"), 1)
        .add(format!("filter{rule}.bytes"), bytes.len() as i64)
}

fn web(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(), 80)
}

fn dns(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(), 53)
}

fn client(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

/// The packet is dropped by a filter on the worker that received it.
fn dropped(rig: &mut Rig, port: PortId, bytes: &[u8], rule: usize, reason: DropReason) {
    let changes = matched(rule, bytes).dropped(reason);
    rig.step("dropped", port, bytes, None, changes, &[]);
}

/// The packet opens a session with the TCP service.
fn opens(rig: &mut Rig, packet: &Packet, family: Family, matched: Changes) {
    let server = SocketAddr::new(family.server(11), 8080);
    let out = Packet { dst: server, ttl: packet.ttl - 1, ..packet.clone() };
    let out = rig.to_server(11, out).bytes();
    let bytes = packet.bytes();
    let id = ServerId(u16::from(family == Family::V6));
    let changes = matched.session(id, family == Family::V6, 1).forward(id, &bytes).tx(BACK, &out);
    rig.step("passes", FRONT, &bytes, Some(packet.src), changes, &[(BACK, out)]);
}

#[test]
fn the_first_rule_that_matches_decides() {
    for workers in [1, 2] {
        for family in Family::BOTH {
            let network = match family {
                Family::V4 => "198.51.100.0/24",
                Family::V6 => "2001:db8:99::/48",
            };
            let mut rig = filtered(
                workers,
                vec![
                    Rule {
                        source_ports: vec![(40_000, 40_000)],
                        protocol: Some(6),
                        ..rule(Action::Allow)
                    },
                    Rule {
                        sources: Some(set(&[network])),
                        tcp_flags: Some(FlagMatch { mask: SYN | ACK, value: SYN }),
                        protocol: Some(6),
                        ..rule(Action::Drop)
                    },
                    Rule { protocol: Some(17), port: Some(FRONT), ..rule(Action::Drop) },
                ],
            );
            let syn = |port| tcp(client(family, port), web(family), SYN);
            let packet = rig.by_client(syn(40_000));
            opens(&mut rig, &packet, family, matched(0, &packet.bytes()));
            for port in [40_001, 40_002] {
                let bytes = rig.by_client(syn(port)).bytes();
                dropped(&mut rig, FRONT, &bytes, 1, DropReason::Filtered);
            }
            // Another flag, another rule; none matches.
            let stray = rig.by_client(tcp(client(family, 7), web(family), ACK)).bytes();
            let changes = Changes::none().dropped(DropReason::NoSession);
            rig.step("mid-stream", FRONT, &stray, Some(client(family, 7)), changes, &[]);
            let query = rig.by_client(udp(client(family, 40_000), dns(family))).bytes();
            dropped(&mut rig, FRONT, &query, 2, DropReason::Filtered);
            // On the other port it is another thing.
            let from_server = udp(SocketAddr::new(family.server(11), 99), client(family, 5));
            let bytes = rig.by_server(11, from_server).bytes();
            let changes = Changes::none().dropped(DropReason::NotLocal);
            rig.step("from a server", BACK, &bytes, Some(client(family, 5)), changes, &[]);
            // The answers of a session pass the same filters.
            let server = SocketAddr::new(family.server(11), 8080);
            let answer = tcp(server, client(family, 40_000), SYN_ACK);
            let bytes = rig.by_server(11, answer.clone()).bytes();
            let out = rig.to_client(Packet { src: web(family), ttl: 63, ..answer }).bytes();
            let id = ServerId(u16::from(family == Family::V6));
            let changes = Changes::none().reply(id, &bytes).tx(FRONT, &out);
            let outer = Some(client(family, 40_000));
            rig.step("the answer", BACK, &bytes, outer, changes, &[(FRONT, out)]);
        }
    }
}

#[test]
fn rejected_senders_are_told() {
    for family in Family::BOTH {
        let mut rig = filtered(1, vec![rule(Action::Reject)]);
        let syn = rig.by_client(tcp(client(family, 5), web(family), SYN));
        let sent = rig.send(FRONT, &syn.bytes());
        assert_eq!(sent.len(), 1);
        // The answer of a closed port: RST and ACK of the SYN.
        let transport = if family == Family::V4 { 34 } else { 54 };
        assert_eq!(sent[0].1[transport + 13], RST | ACK);
        assert_eq!(sent[0].1[transport + 8..transport + 12], 0x1020_3041u32.to_be_bytes());
        assert_eq!(sent[0].1[..12], [ROUTER_MAC, FRONT_MAC].concat());
        let all = rig.changes();
        assert_eq!(all.0["drop.filter_rejected"], 1);
        assert_eq!(all.0["filter0.packets"], 1);
        assert_eq!(all.0["originated"], 1);
        // What comes with a reset is not answered.
        let rst = rig.by_client(tcp(client(family, 5), web(family), RST)).bytes();
        dropped(&mut rig, FRONT, &rst, 0, DropReason::FilterRejected);
        // UDP: port unreachable, which quotes the datagram.
        let query = rig.by_client(udp(client(family, 5), dns(family))).bytes();
        let sent = rig.send(FRONT, &query);
        assert_eq!(sent.len(), 1);
        let kind = if family == Family::V4 { [3, 3] } else { [1, 4] };
        assert_eq!(sent[0].1[transport..transport + 2], kind);
        rig.assert_balanced();
    }
}

/// Other protocols and first fragments: the sender is told that they are forbidden.
#[test]
fn other_rejected_senders_are_told() {
    const PROHIBITED: [(u8, u8); 2] = [(3, 13), (1, 1)];
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut rig = filtered(workers, vec![rule(Action::Reject)]);
            let (macs, why) = ((ROUTER_MAC, FRONT_MAC), DropReason::FilterRejected);
            let told = |rig: &mut Rig, what: &str, bytes: &[u8]| {
                let (own, to, macs) = (family.front(), family.client(), (FRONT_MAC, ROUTER_MAC));
                let most = if family == Family::V4 { 576 - 28 } else { 1280 - 48 };
                let end = bytes.len().min(14 + most);
                let error = icmp_error(macs, own, to, 64, PROHIBITED, 0, &bytes[14..end]);
                let changes = matched(0, bytes).dropped(why).originated(FRONT, &error);
                rig.step(what, FRONT, bytes, None, changes, &[(FRONT, error)]);
            };
            let at = if family == Family::V4 { 23 } else { 20 };
            let with_protocol = |frame: &[u8], at: usize, protocol| {
                let mut frame = frame.to_vec();
                frame[at] = protocol;
                if family == Family::V4 {
                    mend_ipv4_checksum(&mut frame);
                }
                frame
            };
            for reply in [false, true] {
                let ping = echo(macs, family.client(), family.vip(), reply, 64);
                told(&mut rig, "a ping", &ping);
                // Of another host than us, and of another protocol.
                let through = echo(macs, family.client(), family.server(11), reply, 64);
                told(&mut rig, "a ping of a server", &through);
                told(&mut rig, "ESP", &with_protocol(&ping, at, 50));
            }
            let query = udp(client(family, 5), dns(family)).payload(&[7; 3000]);
            let pieces = split(&rig.by_client(query).bytes(), 9, 1448);
            told(&mut rig, "a first fragment", &pieces[0]);
            dropped(&mut rig, FRONT, &pieces[1], 0, why);
            let segment = tcp(client(family, 5), web(family), ACK).payload(&[7; 3000]);
            let pieces = split(&rig.by_client(segment).bytes(), 9, 1448);
            told(&mut rig, "a first fragment of TCP", &pieces[0]);
            dropped(&mut rig, FRONT, &pieces[2], 0, why);
            // About an error there is no error; nor about what goes to a group.
            let about = echo(macs, family.vip(), family.client(), false, 64);
            let error = time_exceeded(macs, family.client(), family.vip(), &about);
            dropped(&mut rig, FRONT, &error, 0, why);
            let mut broadcast = echo(macs, family.client(), family.vip(), false, 64);
            broadcast[..6].fill(0xff);
            dropped(&mut rig, FRONT, &broadcast, 0, why);
            let group = ip(if family == Family::V4 { "224.0.0.18" } else { "ff02::12" });
            let vrrp = echo((ROUTER_MAC, FRONT_MAC), family.client(), group, false, 64);
            dropped(&mut rig, FRONT, &with_protocol(&vrrp, at, 112), 0, why);
            if family == Family::V6 {
                // A fragment of a ping: perhaps of an error.
                let piece = split(&echo(macs, family.client(), family.vip(), false, 64), 9, 16);
                dropped(&mut rig, FRONT, &piece[0], 0, why);
            }
            // Nobody speaks without an address.
            (rig.net.snapshot.ports[0].ipv4, rig.net.snapshot.ports[0].ipv6) = (None, None);
            rig.reconfigure();
            let ping = echo(macs, family.client(), family.vip(), false, 64);
            dropped(&mut rig, FRONT, &ping, 0, why);
        }
    }
}

#[test]
fn limits_let_a_burst_and_a_rate_through() {
    for family in Family::BOTH {
        let limit = Action::Limit { rate: 10, burst: 3 };
        let mut rig = filtered(1, vec![Rule { protocol: Some(6), ..rule(limit) }]);
        let pass = |rig: &mut Rig, port| {
            let packet = rig.by_client(tcp(client(family, port), web(family), SYN));
            opens(rig, &packet, family, matched(0, &packet.bytes()));
        };
        let fail = |rig: &mut Rig, port| {
            let bytes = rig.by_client(tcp(client(family, port), web(family), SYN)).bytes();
            dropped(rig, FRONT, &bytes, 0, DropReason::FilterLimited);
        };
        (1..4).for_each(|port| pass(&mut rig, port));
        fail(&mut rig, 4);
        rig.pass(99);
        fail(&mut rig, 4);
        rig.pass(1);
        pass(&mut rig, 4);
        fail(&mut rig, 5);
        // A new configuration with the same rules does not fill the bucket; other rules do.
        rig.net.snapshot.servers[0].weight = 7;
        rig.reconfigure();
        fail(&mut rig, 5);
        let rules = vec![Rule { protocol: Some(6), ..rule(limit) }];
        rig.net.snapshot.guard =
            Arc::new(Guard { filters: Filters::new(rules), ..Guard::default() });
        rig.reconfigure();
        pass(&mut rig, 5);
        // Other protocols are not counted.
        let ping = echo((ROUTER_MAC, FRONT_MAC), family.client(), family.vip(), false, 64);
        let answer = echo((FRONT_MAC, ROUTER_MAC), family.vip(), family.client(), true, 64);
        let changes = Changes::none().consumed().originated(FRONT, &answer);
        rig.step("a ping", FRONT, &ping, None, changes, &[(FRONT, answer)]);
    }
}

#[test]
fn the_rate_is_split_over_the_workers_that_receive() {
    let limit = Action::Limit { rate: 4, burst: 4 };
    let mut rig = filtered(2, vec![rule(limit)]);
    let mut passed = [0, 0];
    for port in 1..9 {
        let packet = rig.by_client(tcp(client(Family::V4, port), web(Family::V4), SYN));
        let receiver = rig.turn % 2;
        passed[receiver] += rig.send(FRONT, &packet.bytes()).len();
    }
    assert_eq!(passed, [2, 2]);
    assert_eq!(rig.changes().0["drop.filter_limited"], 4);
}

#[test]
fn lists_hold_prefixes_of_both_families() {
    let list = Arc::new(set(&["198.51.100.0/28", "2001:db8:99::/125", "203.0.113.9/32"]));
    let mut rig = filtered(1, vec![Rule { list: Some(list), ..rule(Action::Drop) }]);
    for (family, inside, outside) in [
        (Family::V4, "198.51.100.15:5", "198.51.100.16:5"),
        (Family::V6, "[2001:db8:99::7]:5", "[2001:db8:99::8]:5"),
    ] {
        let bytes = rig.by_client(tcp(endpoint(inside), web(family), SYN)).bytes();
        dropped(&mut rig, FRONT, &bytes, 0, DropReason::Filtered);
        let packet = rig.by_client(tcp(endpoint(outside), web(family), SYN));
        opens(&mut rig, &packet, family, Changes::none());
    }
    // A list that is empty holds nobody.
    let empty = Some(Arc::new(PrefixSet::default()));
    let mut rig = filtered(1, vec![Rule { list: empty, ..rule(Action::Drop) }]);
    let packet = rig.by_client(tcp(client(Family::V4, 5), web(Family::V4), SYN));
    opens(&mut rig, &packet, Family::V4, Changes::none());
}

#[test]
fn icmp_and_other_protocols_are_filtered_and_neighbor_discovery_is_not() {
    for (family, protocol) in [(Family::V4, 1), (Family::V6, 58)] {
        let mut rig = filtered(1, vec![Rule { protocol: Some(protocol), ..rule(Action::Drop) }]);
        let ping = echo((ROUTER_MAC, FRONT_MAC), family.client(), family.vip(), false, 64);
        dropped(&mut rig, FRONT, &ping, 0, DropReason::Filtered);
    }
    let mut rig = filtered(
        1,
        vec![Rule {
            protocol: Some(89),
            sources: Some(set(&["192.0.2.1/32", "2001:db8:1::1/128"])),
            ..rule(Action::Drop)
        }],
    );
    for family in Family::BOTH {
        let mut ospf = rig
            .by_client(udp(SocketAddr::new(family.router(), 5), SocketAddr::new(family.front(), 6)))
            .bytes();
        match family {
            Family::V4 => {
                ospf[23] = 89;
                crate::frames::mend_ipv4_checksum(&mut ospf);
            }
            Family::V6 => ospf[20] = 89,
        }
        dropped(&mut rig, FRONT, &ospf, 0, DropReason::Filtered);
    }
    let mut rig = filtered(1, vec![rule(Action::Drop)]);
    let option = Some((1, ROUTER_MAC));
    let macs = (ROUTER_MAC, FRONT_MAC);
    let ask = ndp(135, macs, "2001:db8:1::1", "2001:db8:1::2", 0, "2001:db8:1::2", option);
    let answers = rig.send(FRONT, &ask);
    assert_eq!(answers.len(), 1, "neighbor discovery");
    assert_eq!(rig.changes().0.get("filter0.packets"), None);
}

#[test]
fn rules_can_name_the_first_packet_of_each_port_and_the_kernel_sends_what_it_likes() {
    let mut net = Net::two_armed(1).usual(Mode::Nat).with_tap();
    net.snapshot.guard =
        Arc::new(Guard { filters: Filters::new(vec![rule(Action::Drop)]), ..Guard::default() });
    let mut rig = Rig::new(net);
    let family = Family::V4;
    let from_kernel = udp(SocketAddr::new(family.front(), 5), client(family, 6));
    let bytes = rig.to_client(from_kernel).bytes();
    let changes = Changes::none().tx(FRONT, &bytes);
    rig.step("by the kernel", crate::net::TAP, &bytes, None, changes, &[(FRONT, bytes.clone())]);
    let to_kernel = udp(client(family, 6), SocketAddr::new(family.front(), 5));
    let bytes = rig.by_client(to_kernel).bytes();
    dropped(&mut rig, FRONT, &bytes, 0, DropReason::Filtered);
}

/// A tag that says nothing but a priority does not lead past the filter.
#[test]
fn a_priority_tag_does_not_help() {
    for workers in [1, 2] {
        for family in Family::BOTH {
            let mut rig = filtered(workers, vec![rule(Action::Drop)]);
            let plain = rig.by_client(tcp(client(family, 4000), web(family), SYN)).bytes();
            let mut tagged = plain.clone();
            tagged.splice(12..12, [0x81, 0, 0xe0, 0]);
            let changes = matched(0, &plain).dropped(DropReason::Filtered);
            rig.step("with a priority", FRONT, &tagged, None, changes, &[]);
        }
    }
}

#[test]
fn sources_that_are_not_reachable() {
    let mut rig = guarded(1, Guard { bogons: true, ..Guard::default() });
    let drops = |rig: &mut Rig, bytes: &[u8]| {
        let changes = Changes::none().dropped(DropReason::Bogon);
        rig.step("a bogon", FRONT, bytes, None, changes, &[]);
    };
    for (family, private, public, on_link) in [
        (Family::V4, "10.9.9.9:5", "9.9.9.9:5", "192.0.2.77:5"),
        (Family::V6, "[fd00::1]:5", "[2a00::1]:5", "[2001:db8:1::77]:5"),
    ] {
        for source in [private, if family == Family::V4 { "198.51.100.7:5" } else { "[fe80::5]:5" }]
        {
            let bytes = rig.by_client(tcp(endpoint(source), web(family), SYN)).bytes();
            drops(&mut rig, &bytes);
        }
        let ping = echo((ROUTER_MAC, FRONT_MAC), endpoint(private).ip(), family.vip(), false, 64);
        drops(&mut rig, &ping);
        let packet = rig.by_client(tcp(endpoint(public), web(family), SYN));
        opens(&mut rig, &packet, family, Changes::none());
        // A host on the link, whose addresses are documentation's here.
        rig.resolve(FRONT, endpoint(on_link).ip(), ROUTER_MAC);
        let packet = rig.by_client(tcp(endpoint(on_link), web(family), SYN));
        opens(&mut rig, &packet, family, Changes::none());
        // Servers have such addresses.
        let server = SocketAddr::new(family.server(11), 8080);
        let bytes = rig.by_server(11, tcp(server, endpoint(public), SYN_ACK)).bytes();
        assert_eq!(rig.send(BACK, &bytes).len(), 1, "{family:?}: the answer");
    }
}

#[test]
fn sources_that_are_reached_by_another_port() {
    for family in Family::BOTH {
        let mut rig = guarded(1, Guard { reverse_path: true, ..Guard::default() });
        let inside = SocketAddr::new(family.server(19), 5);
        let bytes = rig.by_client(tcp(inside, web(family), SYN)).bytes();
        let changes = Changes::none().dropped(DropReason::SpoofedInside);
        rig.step("from inside", FRONT, &bytes, None, changes, &[]);
        let packet = rig.by_client(tcp(client(family, 5), web(family), SYN));
        opens(&mut rig, &packet, family, Changes::none());
        // On the servers' port nothing is asked.
        let bytes = tcp(inside, web(family), SYN).macs(server_mac(19), rig.net.server_side_mac());
        assert_eq!(rig.send(BACK, &bytes.bytes()).len(), 1);
        // A source that no route leads to.
        rig.net.snapshot.routes_v4.retain(|route| route.to.prefix_len() > 0);
        rig.net.snapshot.routes_v6.retain(|route| route.to.prefix_len() > 0);
        rig.reconfigure();
        let bytes = rig.by_client(tcp(client(family, 6), web(family), SYN)).bytes();
        let changes = Changes::none().dropped(DropReason::SpoofedInside);
        rig.step("from nowhere", FRONT, &bytes, None, changes, &[]);
    }
    // One-armed, both are on one port, and nothing can be said.
    let mut net = Net::one_armed(1).usual(Mode::FullNat);
    let guard = Guard { reverse_path: true, bogons: true, ..Guard::default() };
    net.snapshot.guard = Arc::new(guard);
    assert!(matches!(
        net.snapshot.ports[0].role,
        shunt::datapath::snapshot::PortRole::Wire { side: Side::Both, .. }
    ));
    let mut rig = Rig::new(net);
    let bytes = rig.by_client(tcp(client(Family::V4, 5), web(Family::V4), SYN)).bytes();
    assert_eq!(rig.send(FRONT, &bytes).len(), 1);
}

#[test]
fn port_zero_is_nobody() {
    for family in Family::BOTH {
        let mut rig = guarded(1, Guard::default());
        for (from, to) in [(0, 80), (5, 0)] {
            let (from, to) = (client(family, from), SocketAddr::new(family.vip(), to));
            for packet in [tcp(from, to, SYN), udp(from, to)] {
                let bytes = rig.by_client(packet).bytes();
                let changes = Changes::none().dropped(DropReason::PortZero);
                rig.step("port 0", FRONT, &bytes, Some(from), changes, &[]);
            }
        }
    }
}

/// A fragment of a UDP packet: the first has the ports, the others have not.
fn fragment(rig: &Rig, family: Family, first: bool) -> Vec<u8> {
    let mut bytes = rig.by_client(udp(client(family, 5), dns(family)).payload(&[7; 56])).bytes();
    match family {
        Family::V4 => {
            // More fragments, or what begins 64 bytes on.
            (bytes[20], bytes[21]) = if first { (0x20, 0) } else { (0, 8) };
            crate::frames::mend_ipv4_checksum(&mut bytes);
        }
        Family::V6 => {
            let offset = if first { 1 } else { 64 };
            bytes.splice(54..54, [17, 0, 0, offset, 0, 0, 0, 9]);
            bytes[20] = 44;
            bytes[19] += 8;
        }
    }
    bytes
}

#[test]
fn fragments_are_filtered_by_what_they_show() {
    for family in Family::BOTH {
        let by_port =
            Rule { protocol: Some(17), destination_ports: vec![(53, 53)], ..rule(Action::Drop) };
        let mut rig = filtered(1, vec![by_port]);
        let first = fragment(&rig, family, true);
        dropped(&mut rig, FRONT, &first, 0, DropReason::Filtered);
        // Without its first it goes nowhere, but no rule on ports matches it.
        let later = fragment(&rig, family, false);
        assert_eq!(rig.send(FRONT, &later), []);
        assert_eq!(rig.changes().0.get("filter0.packets"), None);
        let mut rig = filtered(1, vec![Rule { protocol: Some(17), ..rule(Action::Drop) }]);
        let later = fragment(&rig, family, false);
        dropped(&mut rig, FRONT, &later, 0, DropReason::Filtered);
    }
}

/// The kernel puts fragments together, so what hides a port from the filter does not reach it.
#[test]
fn fragments_for_the_kernel_show_their_ports() {
    for family in Family::BOTH {
        let ssh =
            Rule { protocol: Some(6), destination_ports: vec![(22, 22)], ..rule(Action::Drop) };
        let mut net = Net::two_armed(1).with_tap().usual(Mode::Nat);
        let filters = Filters::new(vec![ssh]);
        net.snapshot.guard = Arc::new(Guard { filters, ..Guard::default() });
        let mut rig = Rig::new(net);
        let shell = SocketAddr::new(family.front(), 22);
        let syn = rig.by_client(tcp(client(family, 5), shell, SYN)).bytes();
        dropped(&mut rig, FRONT, &syn, 0, DropReason::Filtered);
        // The flags are in the second fragment.
        let tiny = &split(&syn, 7, 8)[0];
        let changes = Changes::none().dropped(DropReason::TinyFragment);
        rig.step("tiny", FRONT, tiny, None, changes, &[]);
        if family == Family::V6 {
            // The only fragment, with destination options before the TCP header.
            let mut hidden = split(&syn, 7, 64).remove(0);
            hidden[54] = 60;
            hidden.splice(62..62, [6, 0, 1, 4, 0, 0, 0, 0]);
            hidden[19] += 8;
            let changes = Changes::none().dropped(DropReason::ExtensionHeader);
            rig.step("hidden", FRONT, &hidden, None, changes, &[]);
        }
        // Others pass, whole or not.
        let query = udp(client(family, 5), SocketAddr::new(family.front(), 68)).payload(&[7; 40]);
        let query = rig.by_client(query).bytes();
        for piece in split(&query, 8, 24) {
            let changes = Changes::none().punted(TAP, &piece);
            rig.step("a fragment", FRONT, &piece, None, changes, &[(TAP, piece.clone())]);
        }
    }
}
