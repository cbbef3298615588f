//! Frames put on a wire and taken off it by hand: what no kernel would send, or send again.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::namespace::{Namespace, run};

/// A packet socket on one interface of a namespace.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: OwnedFd,
    /// The interface's MAC address.
    pub(crate) mac: [u8; 6],
}

impl Wire {
    /// Opens it. It sees what comes in, and not what the kernel or another socket sends.
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> Self {
        let (index, mac) = describe(namespace, interface);
        let socket = namespace.enter(|| packet_socket(index)).expect("a packet socket");
        Wire { socket, mac }
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the descriptor is open, and pointer and length are those of a slice.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }

    /// The first frame that `wanted` accepts, within `patience`.
    pub(crate) fn receive(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        let mut frame = vec![0; 65_536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll =
                libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, as said.
            let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32 + 1) };
            assert!(ready >= 0, "poll: {}", io::Error::last_os_error());
            if ready == 0 {
                return None;
            }
            // SAFETY: the descriptor is open, and pointer and length are those of a slice.
            let got = unsafe {
                libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0)
            };
            let got = usize::try_from(got)
                .unwrap_or_else(|_| panic!("recv: {}", io::Error::last_os_error()));
            if wanted(&frame[..got]) {
                frame.truncate(got);
                return Some(frame);
            }
            if left.is_zero() {
                return None;
            }
        }
    }
}

/// Index and MAC address of an interface.
fn describe(namespace: &Namespace, interface: &str) -> (i32, [u8; 6]) {
    let text = run(namespace.command("ip").args(["-j", "link", "show", "dev", interface]));
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
    let index = links[0]["ifindex"].as_i64().expect("an index") as i32;
    let mac = links[0]["address"].as_str().expect("a MAC address");
    let mut bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    (index, std::array::from_fn(|_| bytes.next().expect("six bytes")))
}

fn packet_socket(index: i32) -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: takes numbers and makes a descriptor.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all)) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let one: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the option is an int and its size is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const one).cast(),
            size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: all,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the address is a whole sockaddr_ll and its size is said.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
