//! What a service does with its sessions beyond forwarding them.

use crate::wire::flow::Protocol;

/// The policy of a service. The default is to do nothing of its own accord; what holds when the file
/// says nothing is [`Policy::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// TCP segments that no session is known for.
    pub mid_stream: MidStream,
    /// Whether both ends of a TCP connection get a reset when its session expires.
    pub reset_on_expiry: bool,
    /// Sessions of a server that is down or gone.
    pub on_server_down: OnServerDown,
    /// The largest maximum segment size that either end of a TCP connection may announce, in bytes;
    /// 0 for any.
    pub mss: u16,
    /// The DSCP of all packets of its sessions, 0 to 63; `None` leaves them as they come.
    pub dscp: Option<u8>,
}

impl Policy {
    /// What holds for a service of this protocol when the file says nothing.
    pub const fn of(protocol: Protocol) -> Self {
        let (mid_stream, on_server_down) = match protocol {
            Protocol::Tcp => (MidStream::Reset, OnServerDown::Keep),
            Protocol::Udp | Protocol::Icmp => (MidStream::Drop, OnServerDown::End),
        };
        let reset_on_expiry = matches!(protocol, Protocol::Tcp);
        Policy { mid_stream, reset_on_expiry, on_server_down, mss: 0, dscp: None }
    }

    /// A maximum segment size as it may be announced.
    pub const fn clamp_mss(&self, announced: u16) -> u16 {
        if self.mss != 0 && self.mss < announced { self.mss } else { announced }
    }
}

/// What becomes of a TCP segment in mid-stream that no session is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MidStream {
    /// It is dropped.
    #[default]
    Drop,
    /// It is dropped and its sender gets a reset (RFC 9293 3.10.7.1).
    Reset,
    /// A session is made from it, with the server that the deterministic scheduler gives to this
    /// client.
    Adopt,
}

/// What becomes of the sessions of a server that is down, or that left the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnServerDown {
    /// They stay with it until they end or expire.
    #[default]
    Keep,
    /// They end at once: both ends of a TCP connection get a reset, the next UDP datagram is
    /// scheduled anew.
    End,
}
