//! What a session keeps in [`Aside::note`]: before the server has answered, and afterwards.

#[cfg(doc)]
use crate::session::Aside;
use crate::session::syn_cookie::Offer;

/// What [`Aside::note`] holds until the server has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    /// The window field of the client's ACK.
    pub(super) window: u16,
    /// The client's MSS.
    pub(super) mss: u16,
    /// Whether timestamps are in use, and with them what [`Offer`] says.
    pub(super) timestamps: bool,
}

impl Handshake {
    pub(super) fn pack(self) -> u32 {
        u32::from(self.window) | u32::from(self.mss) << 16 | u32::from(self.timestamps) << 31
    }
    pub(super) fn unpack(note: u32) -> Self {
        Handshake {
            window: note as u16,
            mss: (note >> 16) as u16 & 0x7fff,
            timestamps: note >> 31 == 1,
        }
    }
    /// What the client offered; `timestamp` is what it was answered with.
    pub(super) fn offer(self, timestamp: u32) -> Offer {
        if self.timestamps { Offer::of_timestamp(timestamp) } else { Offer::default() }
    }
}

/// What [`Aside::note`] holds afterwards: where the server differs from what the client was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Adaptation {
    /// The window field of the client's first ACK.
    pub(super) window: u16,
    /// Bits by which the server's windows are shifted left, or if negative right: its scale less
    /// that of the client's SYN-ACK.
    pub(super) reply: i8,
    /// Bits by which the client's windows are shifted left, since the server does not scale.
    pub(super) forward: u8,
    /// The server does not do ECN: the client's marks are taken off.
    pub(super) no_ecn: bool,
}

impl Adaptation {
    pub(super) fn pack(self) -> u32 {
        u32::from(self.window)
            | (self.reply as u32 & 0x1f) << 16
            | u32::from(self.forward) << 21
            | u32::from(self.no_ecn) << 25
    }
    pub(super) fn unpack(note: u32) -> Self {
        Adaptation {
            window: note as u16,
            reply: (((note >> 16) as u8) << 3) as i8 >> 3,
            forward: (note >> 21) as u8 & 15,
            no_ecn: note >> 25 & 1 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn notes_are_read_back(
            window: u16, mss in 0..0x8000u16, flag: bool, reply in -7..=7i8, forward in 0..=14u8,
        ) {
            let handshake = Handshake { window, mss, timestamps: flag };
            prop_assert_eq!(Handshake::unpack(handshake.pack()), handshake);
            let adaptation = Adaptation { window, reply, forward, no_ecn: flag };
            prop_assert_eq!(Adaptation::unpack(adaptation.pack()), adaptation);
        }
    }
}
