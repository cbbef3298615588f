//! Adverts that are sound and not heeded: of virtual routers that are none of ours, and of ours from
//! addresses that are not the peer's.

use std::net::IpAddr;

/// Senders that are remembered.
const REMEMBERED: usize = 16;

/// A sender of adverts that are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its address.
    pub source: IpAddr,
    /// The virtual router that it speaks for.
    pub vrid: u8,
    /// Whether that is a group of this node.
    pub is_ours: bool,
    /// Whether it turned out to be the peer, whose addresses were not all known then.
    pub is_peer: bool,
    /// How many came.
    pub count: u64,
    /// When the last came, in milliseconds.
    pub last_ms: u64,
}

/// Those that were heard last.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    list: Vec<Stranger>,
    /// Adverts of those that are not remembered any more.
    others: u64,
}

impl Strangers {
    /// Counts an advert.
    pub(super) fn count(&mut self, now_ms: u64, source: IpAddr, vrid: u8, is_ours: bool) {
        let known = self.list.iter().position(|s| (s.source, s.vrid) == (source, vrid));
        let at = known.unwrap_or_else(|| {
            let new = Stranger { source, vrid, is_ours, is_peer: false, count: 0, last_ms: now_ms };
            if self.list.len() < REMEMBERED {
                self.list.push(new);
                return self.list.len() - 1;
            }
            let oldest = (0..REMEMBERED).min_by_key(|&at| self.list[at].last_ms).unwrap_or(0);
            self.others += std::mem::replace(&mut self.list[oldest], new).count;
            oldest
        });
        self.list[at].count += 1;
        self.list[at].last_ms = now_ms;
    }

    /// Those that are remembered, those of our groups first.
    pub(super) fn list(&self, is_peer: impl Fn(IpAddr) -> bool) -> Vec<Stranger> {
        let mut list = self.list.clone();
        for stranger in &mut list {
            stranger.is_peer = stranger.is_ours && is_peer(stranger.source);
        }
        list.sort_by_key(|s| (!s.is_ours, s.vrid, s.source));
        list
    }

    /// Adverts of those that are not.
    pub(super) fn others(&self) -> u64 {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_all_are_counted() {
        let source = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut strangers = Strangers::default();
        for n in 0..20 {
            strangers.count(u64::from(n), source(n), 51, false);
            // This one goes on.
            strangers.count(u64::from(n), source(100), 10, true);
        }
        let list = strangers.list(|address| address == source(100));
        assert_eq!((list.len(), strangers.others()), (16, 5));
        let ours = Stranger {
            source: source(100),
            vrid: 10,
            is_ours: true,
            is_peer: true,
            count: 20,
            last_ms: 19,
        };
        assert_eq!(list[0], ours);
        assert!(!list[1].is_ours && !list[1].is_peer);
        assert_eq!((list[1].source, list[1].count, list[1].last_ms), (source(5), 1, 5));
        assert_eq!(list[15].source, source(19));
    }
}
