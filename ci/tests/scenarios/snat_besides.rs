//! Egress SNAT besides whole TCP and UDP packets: fragments and ICMP errors.

use std::net::{IpAddr, SocketAddr};

use shunt::datapath::snapshot::PortId;
use shunt::session::mappings::Behavior::EndpointIndependent as Ei;
use shunt::wire::DropReason::{HopLimitExceeded, NotLocal, SnatNoMapping, SpoofedLocal};

use crate::changes::Changes;
use crate::fragments::{ident, split};
use crate::frames::{Packet, echo_of, icmp_error, time_exceeded, udp};
use crate::net::{BACK, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, ip, server_mac};
use crate::rig::Rig;
use crate::snat::{OUT, all_ends, goes_out, inside, is_dropped, pool, remote, rule, with_rule};

fn rigs(family: Family) -> impl Iterator<Item = Rig> {
    let nets = [1, 2, 4].into_iter().flat_map(|w| [Net::two_armed(w), Net::one_armed(w)]);
    nets.map(move |net| {
        let mut rig = Rig::new(with_rule(net, rule(Ei, Ei)));
        // Whichever worker receives the first frame.
        rig.turn = usize::from(family == Family::V6);
        rig
    })
}

/// Sends the pieces one by one; what goes out, and the number it has.
fn pass(rig: &mut Rig, port: PortId, packet: &Packet, number: u32) -> (Vec<Vec<u8>>, u32, PortId) {
    let mut out = Vec::new();
    let mut by = port;
    for piece in split(&packet.bytes(), number, 1400) {
        for (port, bytes) in rig.send(port, &piece) {
            by = port;
            out.push(bytes);
        }
    }
    assert!(!out.is_empty(), "{packet:?}: {:?}", rig.changes());
    let number = ident(&out[0]);
    (out, number, by)
}

#[test]
fn fragments() {
    let payload = &[7; 3000];
    for family in Family::BOTH {
        // The second is where a real server answers clients from.
        for (n, port) in [(12, 40_000), (11, 5353)] {
            for mut rig in rigs(family) {
                let side = rig.net.server_side();
                let (host, to) = (inside(family, n, port), remote(family, 7, 53));
                let packet = rig.by_server(n, udp(host, to).payload(payload));
                let (sent, number, by) = pass(&mut rig, side, &packet, 99);
                assert_eq!(by, FRONT);
                let at = if family == Family::V4 { 34 } else { 62 };
                let outer = u16::from_be_bytes([sent[0][at], sent[0][at + 1]]);
                let outer = SocketAddr::new(pool(family), outer);
                let out = rig.to_client(udp(outer, to).payload(payload).ttl(63)).bytes();
                // What is there of a datagram that steers by its client at first.
                assert_eq!(sent, split(&out, number, 1400), "{host}");

                let answer = rig.by_client(udp(to, outer).payload(payload));
                let (sent, number, by) = pass(&mut rig, FRONT, &answer, 5);
                assert_eq!(by, side);
                let back = rig.to_server(n, udp(to, host).payload(payload).ttl(63)).bytes();
                assert_eq!(sent, split(&back, number, 1400));
                assert_eq!(rig.sessions(), 1);
                all_ends(&mut rig);
            }
        }
    }
}

#[test]
fn fragments_round() {
    let payload = &[7; 3000];
    for family in Family::BOTH {
        for mut rig in rigs(family) {
            let side = rig.net.server_side();
            let (a, b) = (inside(family, 12, 40_000), inside(family, 13, 50_000));
            let outer_a = goes_out(&mut rig, 12, udp(a, remote(family, 7, 1)), true);
            let outer_b = goes_out(&mut rig, 13, udp(b, remote(family, 7, 1)), true);
            // A session at both ends is opened by whole datagrams only.
            let packet = rig.by_server(12, udp(a, outer_b).payload(payload));
            let first = &split(&packet.bytes(), 3, 1400)[0];
            rig.changes();
            assert_eq!(rig.send(side, first), []);
            assert_eq!(rig.changes().0[&format!("drop.{SpoofedLocal}")], 1);
            let whole = rig.by_server(12, udp(a, outer_b)).bytes();
            assert_eq!(rig.send(side, &whole).len(), 1);

            let (sent, number, by) = pass(&mut rig, side, &packet, 4);
            assert_eq!(by, side);
            let out = rig.to_server(13, udp(outer_a, b).payload(payload).ttl(62)).bytes();
            assert_eq!(sent, split(&out, number, 1400));
            let answer = rig.by_server(13, udp(b, outer_a).payload(payload));
            let (sent, number, _) = pass(&mut rig, side, &answer, 5);
            let back = rig.to_server(12, udp(outer_b, a).payload(payload).ttl(62)).bytes();
            assert_eq!(sent, split(&back, number, 1400));
            all_ends(&mut rig);
        }
    }
}

#[test]
fn later_fragments_open_nothing() {
    for family in Family::BOTH {
        let mut rig = Rig::new(with_rule(Net::two_armed(1), rule(Ei, Ei)));
        let (host, to) = (inside(family, 12, 40_000), remote(family, 7, 53));
        let packet = rig.by_server(12, udp(host, to).payload(&[7; 3000]));
        let pieces = split(&packet.bytes(), 9, 1400);
        assert_eq!(rig.send(BACK, &pieces[0]).len(), 1);
        rig.pass(901_000);
        assert_eq!(rig.sessions(), 0);
        // Its first is forgotten by now, so it waits in vain.
        assert_eq!(rig.send(BACK, &pieces[1]), []);
        assert_eq!(rig.sessions(), 0);
    }
}

/// Destination or port unreachable.
const UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];

fn quote(packet: &Packet) -> Vec<u8> {
    packet.bytes()[14..].to_vec()
}

#[test]
fn errors_reach_the_host_inside_and_the_one_outside() {
    for family in Family::BOTH {
        for mut rig in rigs(family) {
            let side = rig.net.server_side();
            let (host, to) = (inside(family, 12, 40_000), remote(family, 7, 53));
            let outer = goes_out(&mut rig, 12, udp(host, to), true);
            let router: IpAddr =
                ip(if family == Family::V4 { "192.0.2.77" } else { "2001:db8:1::77" });
            for from in [router, to.ip()] {
                let about = quote(&udp(outer, to).ttl(63));
                let macs = (ROUTER_MAC, FRONT_MAC);
                let error = icmp_error(macs, from, outer.ip(), 64, UNREACHABLE, 0, &about);
                let about = quote(&udp(host, to).ttl(63));
                let macs = (rig.net.server_side_mac(), server_mac(12));
                let out = icmp_error(macs, from, host.ip(), 63, UNREACHABLE, 0, &about);
                assert_eq!(rig.send(FRONT, &error), [(side, out)]);
            }
            // The host's own error about an answer comes from its outer address.
            let about = quote(&udp(to, host).ttl(63));
            let macs = (server_mac(12), rig.net.server_side_mac());
            let error = icmp_error(macs, host.ip(), to.ip(), 64, UNREACHABLE, 0, &about);
            let about = quote(&udp(to, outer).ttl(63));
            let macs = (FRONT_MAC, ROUTER_MAC);
            let out = icmp_error(macs, outer.ip(), to.ip(), 63, UNREACHABLE, 0, &about);
            assert_eq!(rig.send(side, &error), [(FRONT, out)]);
            all_ends(&mut rig);
        }
    }
}

/// RFC 5508 REQ-7: from inside to inside the error takes the way of the packets.
#[test]
fn errors_go_round() {
    for family in Family::BOTH {
        for mut rig in rigs(family) {
            let side = rig.net.server_side();
            let (a, b) = (inside(family, 12, 40_000), inside(family, 13, 50_000));
            let outer_a = goes_out(&mut rig, 12, udp(a, remote(family, 7, 1)), true);
            let outer_b = goes_out(&mut rig, 13, udp(b, remote(family, 7, 1)), true);
            let whole = rig.by_server(12, udp(a, outer_b)).bytes();
            assert_eq!(rig.send(side, &whole).len(), 1);
            let about = quote(&udp(outer_a, b).ttl(62));
            let macs = (server_mac(13), rig.net.server_side_mac());
            let error = icmp_error(macs, b.ip(), outer_a.ip(), 64, UNREACHABLE, 0, &about);
            let about = quote(&udp(a, outer_b).ttl(62));
            let macs = (rig.net.server_side_mac(), server_mac(12));
            let out = icmp_error(macs, outer_b.ip(), a.ip(), 62, UNREACHABLE, 0, &about);
            assert_eq!(rig.send(side, &error), [(side, out)]);
            all_ends(&mut rig);
        }
    }
}

/// The identifier of an echo message.
fn identifier(frame: &[u8]) -> u16 {
    let at = if frame[12] == 0x08 { 38 } else { 58 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn ping() {
    const ID: u16 = 0x4321;
    for family in Family::BOTH {
        let v6 = family == Family::V6;
        for mut rig in rigs(family) {
            let side = rig.net.server_side();
            let (host, to) = (family.server(12), remote(family, 7, 0).ip());
            let from_inside = (server_mac(12), rig.net.server_side_mac());
            let to_inside = (from_inside.1, from_inside.0);
            let (from_outside, to_outside) = ((ROUTER_MAC, FRONT_MAC), (FRONT_MAC, ROUTER_MAC));
            let ask = echo_of(from_inside, host, to, false, 64, ID);
            let mut outer = None;
            for opens in [true, false] {
                rig.changes();
                let receiver = rig.turn % rig.workers.len();
                let sent = rig.send(side, &ask);
                assert_eq!(sent.len(), 1);
                let id = identifier(&sent[0].1);
                assert_eq!(id, *outer.get_or_insert(id));
                let out = echo_of(to_outside, pool(family), to, false, 63, id);
                assert_eq!(sent, [(FRONT, out.clone())]);
                let owner = rig.net.owner(SocketAddr::new(host, ID));
                let handed = i64::from(owner != receiver);
                let mut changes = Changes::none()
                    .rx(side, &ask)
                    .forward(OUT, &ask)
                    .tx(FRONT, &out)
                    .add("handed_off", handed)
                    .add("handed_in", handed);
                if opens {
                    changes = changes.session(OUT, v6, 1);
                }
                assert_eq!(rig.changes(), changes);
            }
            let outer = outer.unwrap();
            let answer = echo_of(from_outside, to, pool(family), true, 64, outer);
            let back = echo_of(to_inside, to, host, true, 63, ID);
            let changes = Changes::none().reply(OUT, &answer).tx(side, &back);
            let steers_by = SocketAddr::new(pool(family), outer);
            rig.step("reply", FRONT, &answer, Some(steers_by), changes, &[(side, back)]);

            // Nobody asked that one, or asked so; a request is for the pool's address itself.
            let other = remote(family, 8, 0).ip();
            let stray = echo_of(from_outside, other, pool(family), true, 64, outer);
            is_dropped(&mut rig, FRONT, &stray, steers_by, SnatNoMapping);
            let stray = echo_of(from_outside, to, pool(family), true, 64, outer ^ 1);
            let at = SocketAddr::new(pool(family), outer ^ 1);
            is_dropped(&mut rig, FRONT, &stray, at, SnatNoMapping);
            let ask = echo_of(from_outside, to, pool(family), false, 64, outer);
            let answer = echo_of(to_outside, pool(family), to, true, 64, outer);
            assert_eq!(rig.send(FRONT, &ask), [(FRONT, answer)]);

            // A router on the way: traceroute by echo.
            let router = ip(if v6 { "2001:db8:1::77" } else { "192.0.2.77" });
            let about = echo_of(to_outside, pool(family), to, false, 1, outer);
            let error = time_exceeded(from_outside, router, pool(family), &about);
            let about = echo_of(from_inside, host, to, false, 1, ID);
            let mut out = time_exceeded(to_inside, router, host, &about);
            // The hop limit of the error, one less.
            let (at, one) = if v6 { (21, 63) } else { (22, 63) };
            out[at] = one;
            if !v6 {
                crate::frames::mend_ipv4_checksum(&mut out);
            }
            assert_eq!(rig.send(FRONT, &error), [(side, out)]);
            let last = echo_of(from_inside, host, to, false, 1, ID);
            let own = if side == FRONT { family.front() } else { family.back() };
            rig.changes();
            let error = time_exceeded(to_inside, own, host, &last);
            assert_eq!(rig.send(side, &last), [(side, error)]);
            assert_eq!(rig.changes().0[&format!("drop.{HopLimitExceeded}")], 1);

            // Another host with the same identifier has another, or another session at least.
            let ask =
                echo_of((server_mac(13), from_inside.1), family.server(13), to, false, 64, ID);
            let sent = rig.send(side, &ask);
            assert_ne!(identifier(&sent[0].1), outer);
            // What stays inside.
            let ask = echo_of(from_inside, host, family.server(13), false, 64, ID);
            rig.changes();
            assert_eq!(rig.send(side, &ask), []);
            assert_eq!(rig.changes().0[&format!("drop.{NotLocal}")], 1);
            all_ends(&mut rig);
        }
    }
}
