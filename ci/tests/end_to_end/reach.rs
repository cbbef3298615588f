//! Addresses that answer, hop limits, and ports where nothing listens.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::namespace::run;
use crate::rig::{Family, Mode, Plan, Rig, WEB, vip};
use crate::view;

fn ping(mode: Mode) {
    let rig = Rig::start(Plan::new(mode, 2));
    let addresses = ["192.0.2.10", "192.0.2.2", "2001:db8:1::10", "2001:db8:1::2"];
    for address in addresses {
        for size in ["8", "56", "1400"] {
            let text =
                rig.on_client("ping", &["-c", "3", "-i", "0.05", "-W", "2", "-s", size, address]);
            assert!(text.contains("3 received"), "{address}, {size} bytes: {text}");
            assert!(!text.contains("DUP"), "answered twice: {text}");
        }
    }
    // The servers reach Shunt's own address on their side.
    if mode != Mode::Dr {
        for address in ["10.0.0.1", "2001:db8:2::1"] {
            let server = &rig.servers[0].namespace;
            run(server.command("ping").args(["-c", "1", "-W", "2", address]));
        }
    }
    rig.finish();
}

#[test]
fn ping_two_ports() {
    ping(Mode::Nat);
}

#[test]
fn ping_one_armed() {
    ping(Mode::Dr);
}

fn connect(rig: &Rig, family: Family, port: u16) -> Result<(), ErrorKind> {
    let to = SocketAddr::new(vip(family), port);
    rig.client.enter(|| match TcpStream::connect_timeout(&to, Duration::from_secs(2)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.kind()),
    })
}

fn one_hop_left(rig: &Rig) {
    rig.client.sysctl("net.ipv4.ip_default_ttl", "1");
    rig.client.sysctl("net.ipv6.conf.eth0.hop_limit", "1");
}

/// Shunt is a router in the routed modes: with one hop left the packet ends here, and the client's
/// kernel learns it from Time Exceeded.
fn hop_limit_runs_out(mode: Mode) {
    let rig = Rig::start(Plan::new(mode, 1));
    one_hop_left(&rig);
    for family in Family::BOTH {
        assert_eq!(connect(&rig, family, WEB), Err(ErrorKind::HostUnreachable), "{family:?}");
    }
    assert_eq!(rig.dropped("hop_limit_exceeded"), 2);
    rig.finish();
}

#[test]
fn hop_limit_nat() {
    hop_limit_runs_out(Mode::Nat);
}

#[test]
fn hop_limit_fullnat() {
    hop_limit_runs_out(Mode::FullNat);
}

/// Direct return is a bridge to the packet: the hop limit stays.
#[test]
fn hop_limit_dr() {
    let rig = Rig::start(Plan::new(Mode::Dr, 1));
    one_hop_left(&rig);
    for family in Family::BOTH {
        assert_eq!(connect(&rig, family, WEB), Ok(()), "{family:?}");
    }
    assert_eq!(rig.dropped("hop_limit_exceeded"), 0);
    rig.finish();
}

/// A port of the VIP where no service listens drops by that name and makes no session.
#[test]
fn no_service() {
    let rig = Rig::start(Plan::new(Mode::Nat, 2));
    for family in Family::BOTH {
        assert!(connect(&rig, family, 81).is_err(), "{family:?}");
    }
    assert!(rig.dropped("no_service") >= 2);
    let sessions: view::Sessions = rig.json(&["sessions", "--client", "0.0.0.0/0"]);
    assert!(sessions.sessions.iter().all(|s| s.vip.port() != 81), "{sessions:?}");
    rig.finish();
}
