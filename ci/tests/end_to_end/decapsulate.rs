//! The far end of a tunnel on a real server: the kernel's own device where this kernel has it, else
//! a program that takes the outer headers off and gives the packet to the kernel by a tun interface.
//! The kernel's sockets check the outer headers in both cases.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use crate::namespace::{Namespace, Task};

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
    let tun = namespace.enter(|| tun("tun0").expect("a tun interface"));
    namespace.sysctl("net.ipv4.conf.tun0.rp_filter", "0");
    namespace.ip("link set tun0 up");
    namespace.spawn(move || serve(tun))
}

/// A tun interface (linux/if_tun.h) without a header before its packets.
fn tun(name: &str) -> io::Result<File> {
    const IFF_TUN_NO_PI: libc::c_short = 0x1001;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // An ifreq: 16 bytes of name, the flags, and room for the rest of the union.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
    // SAFETY: `file` is open over the call and `request` is as large as an ifreq and writable.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// A raw socket for a protocol.
fn raw(family: libc::c_int, protocol: libc::c_int) -> OwnedFd {
    // SAFETY: socket touches no memory of ours.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol) };
    assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

async fn serve(mut tun: File) {
    const GRE: libc::c_int = 47;
    let mut sockets = Vec::new();
    for protocol in [libc::IPPROTO_IPIP, libc::IPPROTO_IPV6, GRE] {
        // Only over IPv4 does a raw socket give the outer IP header, which has no options.
        let header = if protocol == GRE { 4 } else { 0 };
        sockets.push((raw(libc::AF_INET, protocol), 20 + header));
        sockets.push((raw(libc::AF_INET6, protocol), header));
    }
    let gue = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, GUE)).expect("the port of GUE");
    gue.set_nonblocking(true).expect("a socket that does not block");
    sockets.push((gue.into(), 4));
    let mut buffer = [0_u8; 2048];
    loop {
        for (socket, header) in &sockets {
            loop {
                // SAFETY: `buffer` is writable for its length over the call.
                let n = unsafe {
                    libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
                };
                let Ok(n) = usize::try_from(n) else { break };
                // A packet that the kernel does not take is lost, as on any link.
                let _ = tun.write(buffer.get(*header..n).unwrap_or_default());
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
