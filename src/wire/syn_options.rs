//! The options of a TCP SYN or SYN-ACK: maximum segment size (RFC 9293 3.7.1), window scale and
//! timestamps (RFC 7323), selective acknowledgments permitted (RFC 2018); and the timestamps of
//! every other segment.
//!
//! Reading is lenient as RFC 9293 3.1 asks: unknown options are passed over, an option whose length
//! is wrong ends the list, and what was read before it counts.

use super::bytes::{get_u32, set_u16, set_u32};
use super::tcp_option;

/// The most bytes that [`SynOptions::emit`] writes.
pub const MAX_LEN: usize = 20;
/// The largest window scale; a larger one counts as this (RFC 7323 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

/// Option kinds.
mod kind {
    pub(super) use super::tcp_option::{MSS, WINDOW_SCALE};
    pub(super) const NOP: u8 = 1;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const TIMESTAMPS: u8 = 8;
}

/// TSval and TSecr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The other side's clock as the sender last saw it.
    pub echo: u32,
}

/// The options of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SynOptions {
    /// The largest segment that the sender receives, in bytes.
    pub mss: Option<u16>,
    /// By how many bits the sender's windows are shifted, 0 to 14.
    pub window_scale: Option<u8>,
    /// Whether the sender understands selective acknowledgments.
    pub sack_permitted: bool,
    /// The timestamps.
    pub timestamps: Option<Timestamps>,
}

impl SynOptions {
    /// Reads the options of a TCP header.
    pub fn parse(options: &[u8]) -> Self {
        let mut read = SynOptions::default();
        for option in tcp_option::iter(options) {
            match (option.kind, option.data) {
                (kind::MSS, &[a, b]) => read.mss = Some(u16::from_be_bytes([a, b])),
                (kind::WINDOW_SCALE, &[scale]) => {
                    read.window_scale = Some(scale.min(MAX_WINDOW_SCALE));
                }
                (kind::SACK_PERMITTED, &[]) => read.sack_permitted = true,
                (kind::TIMESTAMPS, both) if both.len() == 8 => {
                    let (value, echo) = (get_u32(both, 0), get_u32(both, 4));
                    read.timestamps = Some(Timestamps { value, echo });
                }
                _ => {}
            }
        }
        read
    }

    /// Writes the options to the start of `out`, in the order in which Linux has them, and returns
    /// how many bytes that are: a multiple of 4, at most [`MAX_LEN`].
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        if let Some(mss) = self.mss {
            out[..2].copy_from_slice(&[kind::MSS, 4]);
            set_u16(out, 2, mss);
            at = 4;
        }
        // SACK permitted goes into what would be padding before the timestamps.
        match (self.sack_permitted, self.timestamps) {
            (sack, Some(timestamps)) => {
                let before = if sack { [kind::SACK_PERMITTED, 2] } else { [kind::NOP; 2] };
                out[at..at + 2].copy_from_slice(&before);
                out[at + 2..at + 4].copy_from_slice(&[kind::TIMESTAMPS, 10]);
                set_u32(out, at + 4, timestamps.value);
                set_u32(out, at + 8, timestamps.echo);
                at += 12;
            }
            (true, None) => {
                let padded = [kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2];
                out[at..at + 4].copy_from_slice(&padded);
                at += 4;
            }
            (false, None) => {}
        }
        if let Some(scale) = self.window_scale {
            out[at..at + 4].copy_from_slice(&[kind::NOP, kind::WINDOW_SCALE, 3, scale]);
            at += 4;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_linux_and_others_send() {
        let full = SynOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 0x0102_0304, echo: 0 }),
        };
        let linux = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(SynOptions::parse(&linux), full);
        let mut out = [0xee; MAX_LEN];
        assert_eq!(full.emit(&mut out), 20);
        assert_eq!(out, linux);
        // Windows' order; macOS ends with zeros.
        let windows = [2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2];
        let expected = SynOptions {
            mss: Some(1460),
            window_scale: Some(8),
            sack_permitted: true,
            timestamps: None,
        };
        assert_eq!(SynOptions::parse(&windows), expected);
        let macos =
            [2, 4, 5, 180, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 4, 2, 0, 0, 3, 3, 1, 0];
        let expected = SynOptions {
            window_scale: Some(6),
            timestamps: Some(Timestamps { value: 9, echo: 0 }),
            ..expected
        };
        assert_eq!(SynOptions::parse(&macos), expected);
    }

    #[test]
    fn wrong_options_end_the_list_or_count_for_nothing() {
        let parse = SynOptions::parse;
        assert_eq!(parse(&[]), SynOptions::default());
        let mss = SynOptions { mss: Some(0x0102), ..SynOptions::default() };
        for wrong in [&[3, 0][..], &[3, 1], &[3, 4, 1], &[3], &[0, 3, 3, 7], &[254, 200]] {
            let options = [&[2, 4, 1, 2], wrong].concat();
            assert_eq!(parse(&options), mss, "{wrong:?}");
        }
        // Of a wrong length for its kind, but one can pass over it.
        assert_eq!(parse(&[8, 6, 0, 0, 0, 0, 3, 2, 2, 4, 1, 2]), mss);
        assert_eq!(parse(&[3, 3, 200]).window_scale, Some(14));
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_read_back(
            mss: Option<u16>,
            window_scale in prop::option::of(0..=MAX_WINDOW_SCALE),
            sack_permitted: bool,
            timestamps: Option<(u32, u32)>,
        ) {
            let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
            let options = SynOptions { mss, window_scale, sack_permitted, timestamps };
            let mut out = [0xee; MAX_LEN];
            let len = options.emit(&mut out);
            prop_assert!(len.is_multiple_of(4) && out[len..].iter().all(|b| *b == 0xee));
            prop_assert_eq!(SynOptions::parse(&out[..len]), options);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = SynOptions::parse(&bytes);
        }
    }
}
