//! A real server goes away and comes back.

use std::thread;
use std::time::Duration;

use crate::http::requests;
use crate::rig::{Family, Mode, Plan, Rig};

/// What happens to server 1.
#[derive(Clone, Copy)]
enum Fault {
    /// nginx dies; the kernel refuses connections.
    Process,
    /// The link goes down; nobody answers at all.
    Link,
}

fn outage(mode: Mode, workers: usize, fault: Fault) {
    let mut rig = Rig::start(Plan::new(mode, workers));
    for family in Family::BOTH {
        assert_eq!(requests(&rig, family, 20).len(), 2, "both servers serve");
    }

    match fault {
        Fault::Process => rig.servers[0].kill_http(),
        Fault::Link => {
            rig.servers[0].namespace.ip("link set eth0 down");
        }
    }
    rig.wait_for("the check sees that server1 is down", |rig| rig.web_down(1));
    for family in Family::BOTH {
        let answers = requests(&rig, family, 100);
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), [("server2".to_owned(), 100)]);
    }

    match fault {
        Fault::Process => rig.servers[0].start_http(),
        Fault::Link => {
            let server = &rig.servers[0];
            server.namespace.ip("link set eth0 up");
            // The kernel forgets IPv6 addresses, and routes of both families, with the link.
            server
                .namespace
                .ip(&format!("-6 addr replace {}/64 dev eth0 nodad", server.addresses[1]));
            if mode == Mode::Nat {
                server.namespace.ip("route replace default via 10.0.0.1");
                server.namespace.ip("-6 route replace default via 2001:db8:2::1");
            }
        }
    }
    rig.wait_for("the check sees that server1 is back", |rig| rig.web_up(1));
    for family in Family::BOTH {
        let answers = requests(&rig, family, 100);
        assert_eq!(answers.len(), 2, "both servers serve again: {answers:?}");
        let workers = workers as i64;
        let difference = answers["server1"] as i64 - answers["server2"] as i64;
        assert!(difference.abs() <= 2 * workers, "{answers:?}");
    }
    rig.finish();
}

#[test]
fn server_killed_nat() {
    outage(Mode::Nat, 2, Fault::Process);
}

#[test]
fn server_killed_fullnat() {
    outage(Mode::FullNat, 1, Fault::Process);
}

#[test]
fn server_killed_dr() {
    outage(Mode::Dr, 1, Fault::Process);
}

#[test]
fn link_lost_fullnat() {
    outage(Mode::FullNat, 2, Fault::Link);
}

/// With no server left, a new connection is dropped by that name, and the service says it is down.
#[test]
fn no_server_left() {
    let mut rig = Rig::start(Plan::new(Mode::Nat, 1));
    rig.servers.iter_mut().for_each(|server| server.kill_http());
    rig.wait_for("both servers are down", |rig| rig.web_down(1) && rig.web_down(2));
    assert!(!rig.service_view("web").up);
    let status = rig
        .client
        .command("curl")
        .args(["--silent", "--max-time", "1", "http://192.0.2.10/"])
        .status()
        .expect("curl starts");
    assert!(!status.success());
    // Other services of the same addresses go on.
    assert!(rig.service_view("echo").up);
    let mut dropped = 0;
    for _ in 0..40 {
        dropped = rig.dropped("no_server");
        if dropped > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert!(dropped > 0);
    rig.finish();
}
