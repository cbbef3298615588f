//! VLANs: clients on VLAN 100 and servers on VLAN 200 of one trunk.
//!
//! The trunk is a tap interface, on which Shunt has its af_packet port; what holds its other end is
//! the switch that joins VLAN 100 to the client and VLAN 200 to the servers. The kernel takes the tags
//! off and DPDK puts them back, as with any interface.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::http::requests;
use crate::namespace::{Namespace, Task};
use crate::raw::{self, Carries};
use crate::rig::{Family, Mode, Plan, Rig};
use crate::view;

const VLANS: [u16; 2] = [100, 200];

/// Moves the ends that Shunt would have had to the switch and gives Shunt the trunk.
fn switch(rig: &Rig) -> (Namespace, Task) {
    let switch = Namespace::new(format!("{}-switch", rig.lb.name()));
    // It has nothing to say of its own.
    switch.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    switch.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
    for end in ["front", "back"] {
        rig.lb.ip(&format!("link set {end} netns {}", switch.name()));
        switch.ip(&format!("link set {end} up"));
    }
    let trunk = rig.lb.enter(|| raw::interface("trunk", Carries::Frames));
    rig.lb.ip("link set trunk up");
    let legs = switch.enter(|| ["front", "back"].map(raw::frames_of));
    let task = switch.spawn(move || forward(trunk, legs));
    (switch, task)
}

async fn forward(trunk: File, legs: [OwnedFd; 2]) {
    let mut buffer = [0_u8; 2048];
    loop {
        while let Some(frame) = raw::take(&trunk, &mut buffer) {
            let (Some(start), Some(tag)) = (frame.get(..12), frame.get(12..16)) else { continue };
            let vlan = u16::from_be_bytes([tag[2], tag[3]]);
            let leg = VLANS.iter().position(|v| tag[..2] == [0x81, 0] && *v == vlan);
            if let Some(leg) = leg {
                raw::give(&legs[leg], &[start, &frame[16..]].concat());
            }
        }
        for (leg, vlan) in legs.iter().zip(VLANS) {
            while let Some(frame) = raw::take(leg, &mut buffer) {
                let Some((start, rest)) = frame.split_at_checked(12) else { continue };
                let [high, low] = vlan.to_be_bytes();
                raw::give(&trunk, &[start, &[0x81, 0, high, low], rest].concat());
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn clients_and_servers_on_two_vlans_of_a_trunk() {
    let mut plan = Plan::new(Mode::Nat, 2);
    plan.front_keys = format!("vlan = {}\n", VLANS[0]);
    plan.back_keys = format!("vlan = {}\n", VLANS[1]);
    let mut rig = Rig::without_shunt(plan);
    let (_namespace, _task) = switch(&rig);
    let config = rig.config();
    let vdevs = config.lines().find(|line| line.starts_with("vdevs")).expect("devices");
    let config = config
        .replace(vdevs, "vdevs = [\"net_af_packet0,iface=trunk,qpairs=2\"]")
        .replace("\"net_af_packet1\"", "\"net_af_packet0\"");
    let config = rig.write_config("shunt.toml", &config);
    // Health checks pass by the taps, so ARP and neighbor discovery do.
    rig.run_shunt(&config);
    for family in Family::BOTH {
        let answers = requests(&rig, family, 20);
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["server1", "server2"], "{family:?}");
    }
    // A page of several full frames: they are four bytes longer on this wire.
    let file = rig.directory().join("page");
    std::fs::write(&file, vec![b'x'; 100_000]).expect("a page");
    for host in ["192.0.2.10", "[2001:db8:1::10]"] {
        let url = format!("http://{host}/page");
        let page = rig.on_client("curl", &["-sSf", "--globoff", "--max-time", "20", &url]);
        assert_eq!(page.len(), 100_000);
    }
    let ports = rig.json::<view::Ports>(&["ports"]).ports;
    let of: Vec<_> = ports.iter().map(|p| (p.name.as_str(), p.vlan, p.mtu_bytes)).collect();
    assert_eq!(
        of,
        [("front", 100, 1500), ("back", 200, 1500), ("sl-front", 0, 1500), ("sl-back", 0, 1500)]
    );
    for port in &ports[..2] {
        assert_eq!(port.device, "net_af_packet0");
        assert!(port.rx_packets > 200 && port.tx_packets > 200, "{port:?}");
    }
    for reason in ["vlan_tagged", "vlan_unknown"] {
        assert_eq!(rig.dropped(reason), 0);
    }
    rig.finish();
}
