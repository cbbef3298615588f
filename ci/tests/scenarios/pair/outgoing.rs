//! Egress SNAT on two nodes: a host inside has the same outer endpoint on both, and whoever may send to
//! it may do so through either.

use std::net::SocketAddr;

use shunt::datapath::snapshot::Snat;
use shunt::session::Mode;
use shunt::session::mappings::{Behavior, Policy};
use shunt::sync::datagram::Kind;
use shunt::wire::DropReason::SnatNoMapping;

use super::relay::hops;
use super::talk::Talk;
use super::{Pair, Wire, mac};
use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, ISN, PSH_ACK, Packet, SYN, SYN_ACK, source_port, tcp, udp};
use crate::net::{BACK, FRONT, Family, Net, SHORT_TIMEOUTS, ip};
use crate::rig::{Rig, hex};

pub fn pool(family: Family) -> std::net::IpAddr {
    ip(if family == Family::V4 { "203.0.113.5" } else { "2001:db8:3::5" })
}

pub fn remote(family: Family, n: u8, port: u16) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("198.51.100.{n}"),
        Family::V6 => format!("2001:db8:99::{n}"),
    };
    SocketAddr::new(ip(&text), port)
}

pub fn make(mapping: Behavior, filtering: Behavior) -> impl Fn(usize) -> Net + Clone {
    move |workers| {
        let mut net = Net::two_armed(workers).usual(Mode::Nat);
        net.snapshot.set_snats(vec![Snat {
            name: "egress".into(),
            sources: vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:2::/64".parse().unwrap()],
            pool: Family::BOTH.map(|family| (pool(family), FRONT)).to_vec(),
            policy: Policy { mapping, filtering },
            timeouts: SHORT_TIMEOUTS,
            ..Default::default()
        }]);
        net
    }
}

fn is_empty(pair: &Pair) -> bool {
    pair.nodes.iter().flat_map(|node| &node.workers).all(|w| w.pipeline().snat_is_empty())
}

impl Talk {
    /// A packet of host 11 opens a session; gives its outer endpoint.
    #[track_caller]
    fn goes_out(&mut self, node: usize, packet: Packet) -> SocketAddr {
        let (inside, v6) = (packet.src, packet.src.is_ipv6());
        let make = move |rig: &Rig| rig.by_server(11, packet.clone()).bytes();
        let sent = self.open("goes out", node, BACK, inside, make);
        let family = if v6 { Family::V6 } else { Family::V4 };
        SocketAddr::new(pool(family), source_port(&sent[0].1))
    }

    #[track_caller]
    fn comes_in(&mut self, node: usize, packet: Packet) {
        let outer = packet.dst;
        let make = move |rig: &Rig| rig.by_client(packet.clone()).bytes();
        self.open("comes in", node, FRONT, outer, make);
    }

    #[track_caller]
    fn inside(&mut self, what: &str, node: usize, packet: Packet, outer: SocketAddr) {
        let make = move |rig: &Rig| rig.by_server(11, packet.clone()).bytes();
        self.send(what, node, BACK, outer, make, [Changes::none(), Changes::none()]);
    }

    #[track_caller]
    fn outside(&mut self, what: &str, node: usize, packet: Packet) {
        let outer = packet.dst;
        let make = move |rig: &Rig| rig.by_client(packet.clone()).bytes();
        self.send(what, node, FRONT, outer, make, [Changes::none(), Changes::none()]);
    }
}

#[test]
fn an_inside_endpoint_has_one_outer_endpoint_on_both_nodes() {
    use Behavior::EndpointIndependent as Ei;
    for workers in [[1, 1], [1, 2], [2, 3]] {
        for opener in 0..2 {
            let mut talk = Talk::new(workers, Wire::Own, opener, make(Ei, Ei));
            let (a, b) = (opener, 1 - opener);
            for family in Family::BOTH {
                let host = SocketAddr::new(family.server(11), 5000);
                let (first, second) = (remote(family, 20, 443), remote(family, 21, 443));
                let outer = talk.goes_out(a, tcp(host, first, SYN));
                talk.outside("SYN-ACK", b, tcp(first, outer, SYN_ACK));
                talk.inside("ACK", b, tcp(host, first, ACK), host);
                talk.inside("data", a, tcp(host, first, PSH_ACK).payload(b"hello"), host);
                talk.outside("data", b, tcp(first, outer, PSH_ACK).ack(ISN + 6).payload(b"ho"));
                // The other node opens the next ones: to somebody else, and from somebody else.
                assert_eq!(talk.goes_out(b, tcp(host, second, SYN)), outer);
                talk.outside("SYN-ACK", a, tcp(second, outer, SYN_ACK));
                talk.inside("ACK", b, tcp(host, second, ACK), host);
                let third = remote(family, 22, 9000);
                talk.comes_in(b, tcp(third, outer, SYN));
                talk.inside("SYN-ACK", a, tcp(host, third, SYN_ACK), host);
                talk.outside("ACK", a, tcp(third, outer, ACK));
                talk.inside("FIN", b, tcp(host, first, FIN_ACK).seq(ISN + 6), host);

                let host = SocketAddr::new(family.server(11), 5001);
                let outer = talk.goes_out(a, udp(host, remote(family, 20, 53)));
                talk.outside("answer", b, udp(remote(family, 20, 53), outer));
                assert_eq!(talk.goes_out(b, udp(host, remote(family, 21, 53))), outer);
                talk.outside("answer", a, udp(remote(family, 21, 53), outer));
            }
            talk.pair.settle();
            assert!(!is_empty(&talk.pair));
            talk.pair.pass(9_000, 10);
            assert_eq!([talk.pair.owns(0), talk.pair.owns(1)], [(0, 0), (0, 0)]);
            assert!(is_empty(&talk.pair));
        }
    }
}

/// An answer by the node that has not heard of what it answers, and one that nobody has asked for.
#[test]
fn what_only_the_other_node_knows_is_given_to_it() {
    use Behavior::EndpointIndependent as Ei;
    for workers in [[1, 1], [1, 2], [2, 3]] {
        for family in Family::BOTH {
            let mut pair = Pair::new(workers, Wire::Own, make(Ei, Ei));
            pair.lose = Box::new(|node, said| node == 0 && said.header.kind == Kind::Stream);
            let (host, far) = (SocketAddr::new(family.server(11), 5001), remote(family, 20, 53));
            pair.begin();
            let bytes = pair.nodes[0].by_server(11, udp(host, far)).bytes();
            pair.inject(0, BACK, &bytes);
            let outer = SocketAddr::new(pool(family), source_port(&pair.sent[0][0].1));
            pair.pass(1, 1);
            assert_eq!((pair.nodes[0].sessions(), pair.nodes[1].sessions()), (1, 0));

            let nobodys = SocketAddr::new(outer.ip(), outer.port() ^ 1);
            for (to, is_known) in [(outer, true), (nobodys, false)] {
                let came = pair.nodes[1].by_client(udp(far, to));
                let given = came.clone().macs(mac(1, FRONT), mac(0, FRONT)).bytes();
                pair.begin();
                // It goes through the pipeline once more before it is given away.
                let hops = 1 + hops(&pair, 1, to);
                let changes = Changes::none().tx(FRONT, &given).add("sync.relayed", 1);
                let changes = changes.add("handed_off", hops).add("handed_in", hops);
                let expected = vec![(FRONT, given.clone())];
                let changes = [changes, Changes::none()];
                pair.step("given", 1, (FRONT, &came.bytes()), None, &expected, changes);

                pair.begin();
                pair.inject(0, FRONT, &given);
                let counts = [
                    pair.sum(0, |c| c.sync.relay_answered.get()),
                    pair.sum(0, |c| c.sync.relay_refused.get()),
                    pair.sum(0, |c| c.drops_of(SnatNoMapping).get()),
                ];
                let inside = udp(far, host);
                let sent = match is_known {
                    true => {
                        let out = Packet { ttl: 63, ..inside };
                        vec![(BACK, pair.nodes[0].to_server(11, out).bytes())]
                    }
                    false => Vec::new(),
                };
                assert_eq!(hex(&pair.sent[0]), hex(&sent), "{workers:?} {family:?} {is_known}");
                assert_eq!(counts, if is_known { [1, 0, 0] } else { [1, 1, 1] });
            }
        }
    }
}

/// With mappings of one remote endpoint each, too, nobody gets the outer endpoint of another's session.
#[test]
fn outer_endpoints_of_the_other_node_are_not_given_out() {
    use Behavior::AddressAndPortDependent as Apd;
    let mut pair = Pair::new([1, 2], Wire::Own, make(Apd, Apd));
    let to = remote(Family::V4, 20, 53);
    let mut seen = std::collections::HashSet::new();
    for n in 0..400u16 {
        let node = usize::from(n % 2);
        pair.begin();
        let host = SocketAddr::new(Family::V4.server(11 + (n % 5) as u8), 3000 + n);
        let bytes = pair.nodes[node].by_server(11 + (n % 5) as u8, udp(host, to)).bytes();
        pair.inject(node, BACK, &bytes);
        pair.pass(1, 1);
        assert_eq!(pair.sent[node].len(), 1, "{n}");
        assert!(seen.insert(source_port(&pair.sent[node][0].1)), "{n}: used twice");
    }
    assert_eq!([pair.owns(0), pair.owns(1)], [(200, 200), (200, 200)]);
    assert_eq!(pair.sum(0, |c| c.sync.import_refused.get()), 0);
    assert_eq!(pair.sum(1, |c| c.sync.import_refused.get()), 0);
}

/// A node that has just begun does not know what the other one has given out: a datagram in the middle of a
/// conversation that the other knows opens nothing.
#[test]
fn a_node_that_begins_gives_no_host_another_outer_endpoint() {
    use Behavior::EndpointIndependent as Ei;
    let mut wrong = Vec::new();
    for owner in 0..2 {
        let mut pair = Pair::new([1, 1], Wire::Own, make(Ei, Ei));
        let (host, far) =
            (SocketAddr::new(Family::V4.server(11), 5001), remote(Family::V4, 20, 53));
        pair.begin();
        let bytes = pair.nodes[owner].by_server(11, udp(host, far)).bytes();
        pair.inject(owner, BACK, &bytes);
        let outer = source_port(&pair.sent[owner][0].1);
        pair.pass(5, 1);
        let other = 1 - owner;
        pair.restart(other);
        let again = pair.nodes[other].by_server(11, udp(host, far)).bytes();
        let mut seen = Vec::new();
        for ms in 0..700 {
            pair.begin();
            if ms % 10 == 0 {
                pair.inject(other, BACK, &again);
            }
            pair.pass(1, 1);
            for (port, frame) in &pair.sent[other] {
                let sport = source_port(frame);
                if *port == FRONT && sport != outer && !seen.contains(&(ms, sport)) && sport != 5001
                {
                    seen.push((ms, sport));
                }
            }
        }
        pair.begin();
        pair.inject(owner, BACK, &bytes);
        let now = source_port(&pair.sent[owner][0].1);
        if !seen.is_empty() || now != outer {
            wrong.push((owner, outer, seen.first().copied(), seen.len(), now));
        }
    }
    assert!(
        wrong.is_empty(),
        "(owner, endpoint, (first at ms, as), how often, afterwards at the owner): {wrong:?}"
    );
}
