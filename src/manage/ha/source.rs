//! Whose adverts are heeded (see [`super`]).

use std::net::IpAddr;

use crate::datapath::snapshot::PortId;

/// Milliseconds from one line in the log about strangers to the next.
const LOG_MS: u64 = 60_000;

/// What is known of the peer's addresses.
#[derive(Debug)]
pub(super) struct Sources {
    peer: IpAddr,
    /// The port that `peer` is on.
    port: PortId,
    others: Vec<IpAddr>,
    logged_ms: Option<u64>,
}

impl Sources {
    pub(super) fn new(peer: IpAddr, port: PortId) -> Self {
        Sources { peer, port, others: Vec::new(), logged_ms: None }
    }

    /// The addresses of the peer's ports, link-local ones included.
    pub(super) fn set(&mut self, addresses: Vec<IpAddr>) {
        self.others = addresses;
    }

    /// Whether an advert from there is the peer's.
    pub(super) fn is_peer(&self, source: IpAddr) -> bool {
        let known = || std::iter::once(&self.peer).chain(&self.others);
        known().any(|address| *address == source)
            || is_link_local(&source) && !known().any(is_link_local)
    }

    /// Whether the log should tell of an advert from elsewhere. On another port than that of the channel
    /// it is most likely the peer's, as long as its addresses there are not known.
    pub(super) fn is_news(&mut self, now_ms: u64, port: PortId) -> bool {
        let strange = port == self.port || !self.others.is_empty();
        let due = strange && self.logged_ms.is_none_or(|then| now_ms >= then + LOG_MS);
        if due {
            self.logged_ms = Some(now_ms);
        }
        due
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}
