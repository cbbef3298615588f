//! Which bytes of a fragmented packet have been seen: enough to tell when it is complete and when
//! two fragments disagree (RFC 5722), without keeping a byte of it.

use arrayvec::ArrayVec;

/// Runs of bytes with gaps between them that are remembered. Fragments in order, or in the opposite
/// order, make one.
const RUNS: usize = 8;

/// What a fragment adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Bytes that were missing.
    New,
    /// Only bytes that are known: the network has doubled a fragment.
    Duplicate,
    /// Some bytes are known and some are not, or the end is not where it was.
    Overlap,
    /// More gaps than are remembered.
    TooManyGaps,
}

/// The bytes seen of one packet.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    /// Start and end in bytes, in order, none touching the next.
    runs: ArrayVec<(u32, u32), RUNS>,
    /// Where the packet ends, once its last fragment was seen.
    end: Option<u32>,
}

impl Ranges {
    /// Adds the `len` bytes (not none) from `offset` on; `more` unless the packet ends with them.
    /// Only [`Added::New`] changes anything.
    pub(super) fn add(&mut self, offset: u32, len: u32, more: bool) -> Added {
        let (start, end) = (offset, offset + len);
        let is_wrong = match self.end {
            Some(known) => end > known || (!more && end != known) || (more && end == known),
            None => !more && self.runs.last().is_some_and(|last| last.1 > end),
        };
        if is_wrong {
            return Added::Overlap;
        }
        // The first run that ends behind the start of the new one.
        let at = self.runs.partition_point(|run| run.1 <= start);
        if let Some(run) = self.runs.get(at)
            && run.0 < end
        {
            let known = run.0 <= start && end <= run.1;
            return if known { Added::Duplicate } else { Added::Overlap };
        }
        let joins_left = at > 0 && self.runs[at - 1].1 == start;
        let joins_right = self.runs.get(at).is_some_and(|run| run.0 == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.runs[at - 1].1 = self.runs[at].1;
                self.runs.remove(at);
            }
            (true, false) => self.runs[at - 1].1 = end,
            (false, true) => self.runs[at].0 = start,
            (false, false) if self.runs.is_full() => return Added::TooManyGaps,
            (false, false) => self.runs.insert(at, (start, end)),
        }
        if !more {
            self.end = Some(end);
        }
        Added::New
    }

    /// Whether every byte of the packet was seen.
    pub(super) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.runs[..] == [(0, end)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_order_and_backwards() {
        let pieces = [(0, 16, true), (16, 16, true), (32, 5, false)];
        let mut forwards = Ranges::default();
        let mut backwards = Ranges::default();
        for n in 0..3 {
            assert!(!forwards.is_complete() && !backwards.is_complete());
            let (f, b) = (pieces[n], pieces[2 - n]);
            assert_eq!(forwards.add(f.0, f.1, f.2), Added::New);
            assert_eq!(backwards.add(b.0, b.1, b.2), Added::New);
        }
        assert!(forwards.is_complete() && backwards.is_complete());
    }

    #[test]
    fn disagreement() {
        let mut seen = Ranges::default();
        assert_eq!(seen.add(16, 16, true), Added::New);
        for (offset, len, more, expected) in [
            (16, 16, true, Added::Duplicate),
            (24, 8, true, Added::Duplicate),
            (8, 16, true, Added::Overlap),
            (24, 16, true, Added::Overlap),
            (0, 64, true, Added::Overlap),
            // The end lies before what was seen.
            (0, 8, false, Added::Overlap),
        ] {
            assert_eq!(seen.add(offset, len, more), expected, "{offset} {len} {more}");
        }
        assert_eq!(seen.add(40, 8, false), Added::New);
        for (offset, len, more, expected) in [
            (48, 8, true, Added::Overlap),
            (48, 8, false, Added::Overlap),
            (32, 8, false, Added::Overlap),
            (40, 8, true, Added::Overlap),
            (40, 8, false, Added::Duplicate),
            (32, 8, true, Added::New),
            (0, 16, true, Added::New),
        ] {
            assert_eq!(seen.add(offset, len, more), expected, "{offset} {len} {more}");
        }
        assert!(seen.is_complete());
    }

    #[test]
    fn gaps_are_bounded() {
        let mut seen = Ranges::default();
        for n in 0..RUNS as u32 {
            assert_eq!(seen.add(n * 16, 8, true), Added::New);
        }
        assert_eq!(seen.add(16 * RUNS as u32, 8, true), Added::TooManyGaps);
        // What closes a gap has room, and makes room.
        assert_eq!(seen.add(8, 8, true), Added::New);
        assert_eq!(seen.add(16 * RUNS as u32, 8, true), Added::New);
    }

    proptest! {
        /// As a map of single bytes would have it.
        #[test]
        fn agrees_with_a_map_of_bytes(
            pieces in prop::collection::vec((0u32..12, 1u32..5, any::<bool>()), 1..40),
        ) {
            let mut seen = Ranges::default();
            let mut map = [false; 16];
            let mut last = None;
            for (start, len, more) in pieces {
                let end = start + len;
                let bytes = &map[start as usize..end as usize];
                let highest = map.iter().rposition(|b| *b).map_or(0, |n| n as u32 + 1);
                let expected = match last {
                    Some(last) if end > last || more == (end == last) => Added::Overlap,
                    None if !more && highest > end => Added::Overlap,
                    _ if bytes.iter().all(|b| *b) => Added::Duplicate,
                    _ if bytes.iter().any(|b| *b) => Added::Overlap,
                    _ => Added::New,
                };
                prop_assert_eq!(seen.add(start, len, more), expected);
                if expected == Added::New {
                    map[start as usize..end as usize].fill(true);
                    if !more {
                        last = Some(end);
                    }
                }
                let complete = last.is_some_and(|l| map[..l as usize].iter().all(|b| *b));
                prop_assert_eq!(seen.is_complete(), complete);
            }
        }
    }
}
