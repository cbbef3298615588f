//! What the commands say about a running Shunt.

use crate::rig::{Family, Mode, Plan, Rig, WEB, client, vip};
use crate::servers::ECHO;
use crate::{http, view};

#[test]
fn sessions_and_their_filters() {
    let rig = Rig::start(Plan::new(Mode::FullNat, 2));
    let mut streams = rig.connect(Family::V4, ECHO, 10);
    streams.extend(rig.connect(Family::V6, ECHO, 5));
    let sessions = |arguments: &[&str]| -> view::Sessions {
        rig.json(&[&["sessions", "--service", "echo"], arguments].concat())
    };

    let all = sessions(&[]);
    assert_eq!((all.matching, all.truncated, all.sessions.len()), (15, false, 15), "{all:?}");
    for stream in &streams {
        let address = stream.local_addr().expect("an address");
        let found: Vec<_> = all.sessions.iter().filter(|s| s.client == address).collect();
        assert_eq!(found.len(), 1, "sessions of {address}");
        let session = found[0];
        assert_eq!(session.vip, stream.peer_addr().expect("an address"));
        assert_eq!(session.server.port(), ECHO);
        assert!(rig.servers.iter().any(|s| s.addresses.contains(&session.server.ip())));
        let lips = ["10.0.0.201", "10.0.0.202", "2001:db8:2::201", "2001:db8:2::202"];
        assert!(lips.contains(&session.local.ip().to_string().as_str()), "{session:?}");
        let text = [&session.service, &session.protocol, &session.state, &session.mode];
        assert_eq!(text, ["echo", "tcp", "established", "fullnat"]);
    }

    assert_eq!(sessions(&["--client", "192.0.2.100"]).matching, 10);
    assert_eq!(sessions(&["--client", "192.0.2.0/24"]).matching, 10);
    assert_eq!(sessions(&["--client", "2001:db8:1::/64"]).matching, 5);
    assert_eq!(sessions(&["--client", "198.51.100.0/24"]).matching, 0);
    let by_server = ["10.0.0.11:7", "10.0.0.12:7", "[2001:db8:2::11]:7", "[2001:db8:2::12]:7"]
        .map(|server| sessions(&["--server", server]).matching);
    assert_eq!((by_server[0] + by_server[1], by_server[2] + by_server[3]), (10, 5));
    assert!(by_server.iter().all(|n| *n > 0), "{by_server:?}");
    assert_eq!(sessions(&["--server", "10.0.0.11"]).matching, by_server[0]);

    let few = sessions(&["--limit", "3"]);
    assert_eq!((few.matching, few.truncated, few.sessions.len()), (15, true, 3));

    let table = rig.shunt(&["sessions", "--client", "192.0.2.100"]);
    assert!(table.contains("192.0.2.100") && !table.contains("2001:db8"), "{table}");
    let wrong = rig.try_shunt(&["sessions", "--service", "eco"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("eco"));
    let wrong = rig.try_shunt(&["sessions", "--limit", "many"]);
    assert_eq!(wrong.status.code(), Some(2));
    drop(streams);
    rig.finish();
}

#[test]
fn services_ports_and_neighbors() {
    let rig = Rig::start(Plan::new(Mode::Nat, 2));
    for family in Family::BOTH {
        http::requests(&rig, family, 10);
    }

    let web = rig.service_view("web");
    assert_eq!([&web.protocol, &web.mode, &web.scheduler], ["tcp", "nat", "wrr"]);
    assert_eq!((web.up, web.servers_total, web.sessions_created), (true, 4, 20));
    assert_eq!(web.listen, Family::BOTH.map(|family| (vip(family), WEB).into()));

    let ports: view::Ports = rig.json(&["ports"]);
    for (name, role) in [("front", "client"), ("back", "server")] {
        let port = ports.ports.iter().find(|p| p.name == name).expect("the port is listed");
        assert_eq!((port.role.as_str(), port.link_up), (role, true));
        // 20 connections of at least four packets each way pass both ports.
        assert!(port.rx_packets >= 80 && port.tx_packets >= 80, "{port:?}");
    }
    assert_eq!(ports.ports.iter().filter(|p| p.role == "exception").count(), 2);

    let neighbors: view::Neighbors = rig.json(&["neighbors"]);
    let mac = |namespace: &crate::namespace::Namespace| {
        let link = namespace.ip("-oneline link show eth0");
        let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        mac.expect("a MAC address").to_owned()
    };
    let mut hosts: Vec<_> =
        rig.servers.iter().map(|s| (s.addresses, "back", mac(&s.namespace))).collect();
    hosts.push((Family::BOTH.map(client), "front", mac(&rig.client)));
    for (addresses, port, mac) in hosts {
        for address in addresses {
            let found = neighbors.neighbors.iter().find(|n| n.address == address);
            let found = found.unwrap_or_else(|| panic!("{address} is not listed"));
            assert_eq!((found.port.as_str(), found.mac.as_ref()), (port, Some(&mac)), "{address}");
            assert!(["reachable", "probing"].contains(&found.state.as_str()), "{found:?}");
        }
    }

    for command in ["status", "services", "servers", "ports", "workers", "neighbors", "drops"] {
        let table = rig.shunt(&[command]);
        // A heading and a row; one sentence may be all there is to say of drops.
        let least = if command == "drops" { 1 } else { 2 };
        assert!(table.lines().count() >= least, "shunt {command}:\n{table}");
        assert!(!table.contains('\u{1b}'), "colours in a pipe: shunt {command}");
    }
    rig.finish();
}

/// A reader that nobody answers says so in one sentence, and does not wait.
#[test]
fn nobody_answers() {
    let rig = Rig::without_shunt(Plan::new(Mode::Nat, 1));
    let output = rig.try_shunt(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("shunt.sock") && error.trim().lines().count() == 1, "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}
