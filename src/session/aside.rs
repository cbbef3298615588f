//! What a session has beside its [`Entry`](super::Entry): links of the timing wheel, and what few
//! sessions or only slow paths need. The established path of a plain session does not touch it.

use super::wheel::NIL;

/// The other half of a session, 32 bytes in either family, by the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Aside {
    /// Timing wheel: the next entry of the slot (or of the free list), or NIL.
    pub(super) next: u32,
    /// Timing wheel: the previous entry, or the slot when this is its first.
    pub(super) prev: u32,
    /// When the session was created, in milliseconds (wrapping).
    pub created: u32,
    /// Added to sequence numbers of the client on their way to the server (modulo 2^32), and taken
    /// from the server's acknowledgements on their way back: the length of what was put into the
    /// stream, when [`Extras::SHIFTED`](super::Extras::SHIFTED) is set.
    pub forward_shift: u32,
    /// The same of the server's sequence numbers on their way to the client: the difference of the
    /// initial sequence number the client was given to the server's.
    pub reply_shift: u32,
    /// Added to the server's timestamps on their way to the client (RFC 7323), taken from the
    /// client's echoes.
    pub time_shift: u32,
    /// The client's sequence number at which something was put into the stream.
    pub shift_at: u32,
    /// For whoever else needs to remember something of few sessions: the SYN proxy, of those with
    /// [`Extras::PROXIED`](super::Extras::PROXIED) or in state
    /// [`TcpState::SynProxied`](super::TcpState::SynProxied), which also lends it the fields above.
    pub note: u32,
}

const _: () = assert!(size_of::<Aside>() == 32);

impl Aside {
    /// Of a session that begins at `now`, in no list.
    pub(super) fn new(now: u32) -> Self {
        Aside {
            next: NIL,
            prev: NIL,
            created: now,
            forward_shift: 0,
            reply_shift: 0,
            time_shift: 0,
            shift_at: 0,
            note: 0,
        }
    }
}
