//! The far end of a tunnel on a real server: the kernel's own device where this kernel has it, else
//! a program that takes the outer headers off and gives the packet to the kernel by a tun interface.
//! The kernel's sockets check the outer headers in both cases.

use std::fs::File;
use std::net::{Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::namespace::{Namespace, Task};
use crate::raw::{self, Carries};

/// The port of GUE.
const GUE: u16 = 6080;

/// A device of Linux: the arguments of `ip link add NAME` and what comes after it.
pub(crate) type Device<'a> = (&'a str, String);

/// Makes the devices, or nothing when this kernel lacks one of their types.
pub(crate) fn kernel_devices(namespace: &Namespace, devices: &[Device<'_>]) -> bool {
    for (at, (name, arguments)) in devices.iter().enumerate() {
        let mut command = Command::new("ip");
        command.args(["-n", namespace.name(), "link", "add", "name", name]);
        let made = command.args(arguments.split(' ')).output().expect("ip starts");
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            eprintln!("no kernel device `{arguments}` here: {}", why.trim());
            for (name, _) in &devices[..at] {
                namespace.ip(&format!("link del {name}"));
            }
            return false;
        }
        namespace.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
        namespace.ip(&format!("link set {name} up"));
    }
    true
}

/// Has the kernel take GUE on [`GUE`] of both families; `false` when it cannot.
pub(crate) fn kernel_gue(namespace: &Namespace) -> bool {
    ["-4", "-6"].into_iter().all(|family| {
        let mut command = Command::new("ip");
        command.args([family, "-n", namespace.name(), "fou", "add", "port", "6080", "gue"]);
        command.output().expect("ip starts").status.success()
    })
}

/// Takes IP in IP, GRE and GUE off in the place of a kernel that cannot.
pub(crate) fn program(namespace: &Namespace) -> Task {
    let tun = namespace.enter(|| raw::interface("tun0", Carries::Packets));
    namespace.sysctl("net.ipv4.conf.tun0.rp_filter", "0");
    namespace.ip("link set tun0 up");
    namespace.spawn(move || serve(tun))
}

async fn serve(tun: File) {
    const GRE: libc::c_int = 47;
    let mut sockets = Vec::new();
    for protocol in [libc::IPPROTO_IPIP, libc::IPPROTO_IPV6, GRE] {
        // Only over IPv4 does a raw socket give the outer IP header, which has no options.
        let header = if protocol == GRE { 4 } else { 0 };
        sockets.push((raw::socket(libc::AF_INET, protocol), 20 + header));
        sockets.push((raw::socket(libc::AF_INET6, protocol), header));
    }
    let gue = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, GUE)).expect("the port of GUE");
    gue.set_nonblocking(true).expect("a socket that does not block");
    sockets.push((gue.into(), 4));
    let mut buffer = [0_u8; 2048];
    loop {
        for (socket, header) in &sockets {
            while let Some(packet) = raw::take(socket, &mut buffer) {
                raw::give(&tun, packet.get(*header..).unwrap_or_default());
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
