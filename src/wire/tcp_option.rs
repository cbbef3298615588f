//! TCP options (RFC 9293 3.1): kind, length, data, one after the other, at any alignment.

/// No more options.
const END: u8 = 0;
/// A single byte that only fills.
const NO_OPERATION: u8 = 1;
/// Maximum segment size (RFC 9293 3.7.1): two bytes.
pub const MSS: u8 = 2;
/// Window scale (RFC 7323 2.2): one byte.
pub const WINDOW_SCALE: u8 = 3;

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Its kind; neither the end of the list nor a no-operation.
    pub kind: u8,
    /// Where its data begins, counted from the first option.
    pub at: usize,
    /// What follows its length.
    pub data: &'a [u8],
}

/// The options in `bytes`, which is what the data offset leaves after the header. Ends at the first
/// option whose length is wrong.
pub fn iter(bytes: &[u8]) -> impl Iterator<Item = TcpOption<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while bytes.get(at) == Some(&NO_OPERATION) {
            at += 1;
        }
        let (&kind, &len) = (bytes.get(at)?, bytes.get(at + 1)?);
        if kind == END {
            return None;
        }
        let data = bytes.get(at + 2..at + usize::from(len))?;
        let option = TcpOption { kind, at: at + 2, data };
        at += usize::from(len);
        Some(option)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_options_of_a_linux_syn() {
        let bytes = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let found: Vec<_> = iter(&bytes).collect();
        assert_eq!(
            found,
            [
                TcpOption { kind: MSS, at: 2, data: &[5, 180] },
                TcpOption { kind: 4, at: 6, data: &[] },
                TcpOption { kind: 8, at: 8, data: &[0, 0, 0, 1, 0, 0, 0, 0] },
                TcpOption { kind: WINDOW_SCALE, at: 19, data: &[7] },
            ]
        );
    }

    #[test]
    fn what_is_wrong_ends_the_list() {
        assert_eq!(iter(&[]).count(), 0);
        assert_eq!(iter(&[1, 1, 1]).count(), 0);
        assert_eq!(iter(&[1, 0, 3, 3, 7]).count(), 0);
        for len in [0, 1, 5, 255] {
            assert_eq!(iter(&[3, len, 7, 1]).count(), 0, "{len}");
        }
        assert_eq!(iter(&[3, 3, 7, 2, 4, 5]).count(), 1);
        assert_eq!(iter(&[2]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for option in iter(&bytes) {
                prop_assert_eq!(option.data, &bytes[option.at..option.at + option.data.len()]);
                prop_assert_eq!(usize::from(bytes[option.at - 1]), option.data.len() + 2);
            }
        }
    }
}
