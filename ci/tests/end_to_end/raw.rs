//! Packets and frames in the hands of a test: tun and tap interfaces, raw and packet sockets, none of
//! which blocks.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// What a program reads from and writes to an interface of its own (linux/if_tun.h).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Carries {
    Packets,
    Frames,
}

/// Makes an interface in the namespace of the calling thread; it lasts as long as the file is open.
pub(crate) fn interface(name: &str, carries: Carries) -> File {
    const IFF_NO_PI: libc::c_short = 0x1000;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let kind: libc::c_short = match carries {
        Carries::Packets => 1,
        Carries::Frames => 2,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // An ifreq: 16 bytes of name, the flags, and room for the rest of the union.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(kind | IFF_NO_PI).to_ne_bytes());
    // SAFETY: `file` is open over the call and `request` is as large as an ifreq and writable.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert!(result >= 0, "interface {name}: {}", io::Error::last_os_error());
    file
}

/// A raw socket for a protocol.
pub(crate) fn socket(family: libc::c_int, protocol: libc::c_int) -> OwnedFd {
    // SAFETY: socket touches no memory of ours.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol) };
    assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A socket for the frames of an interface in the namespace of the calling thread.
pub(crate) fn frames_of(interface: &str) -> OwnedFd {
    frames_of_type(interface, libc::ETH_P_ALL as u16)
}

/// The same for frames of one EtherType alone, so that no others fill its buffer.
pub(crate) fn frames_of_type(interface: &str, ethertype: u16) -> OwnedFd {
    let name = CString::new(interface).expect("a name");
    // SAFETY: `name` is a C string over the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {interface}");
    let protocol = ethertype.to_be();
    let socket = socket(libc::AF_PACKET, libc::c_int::from(protocol));
    // SAFETY: all zero is a value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is valid for `size` bytes over the call, the descriptor is open.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    assert_eq!(bound, 0, "frames of {interface}: {}", io::Error::last_os_error());
    socket
}

/// Takes a packet or frame, if one has come.
pub(crate) fn take<'a>(from: &impl AsRawFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: `buffer` is writable for its length over the call, the descriptor is open.
    let n = unsafe { libc::read(from.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Some(&buffer[..usize::try_from(n).ok()?])
}

/// Waits until there is something to take, at most so long.
pub(crate) fn wait(from: &impl AsRawFd, at_most: Duration) {
    let mut poll = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is the one pollfd that is told, writable over the call.
    unsafe { libc::poll(&raw mut poll, 1, at_most.as_millis() as libc::c_int) };
}

/// Gives a packet or frame. One that is not taken is lost, as on any wire.
pub(crate) fn give(to: &impl AsRawFd, bytes: &[u8]) {
    // SAFETY: `bytes` is readable for its length over the call, the descriptor is open.
    let _ = unsafe { libc::write(to.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
}
