//! Watches the pair: once a second it looks at what the workers have counted, says in the log what has
//! changed, and keeps what `shunt ha` calls problems.
//!
//! Nothing is said more than once a minute; what changed meanwhile is said then, if it still holds.

use log::{Level, log};

use super::pair_problem::{Facts, Kind, Severity};
use super::pair_seen::Seen;

/// The least time between two lines of a kind.
const QUIET_MS: u64 = 60_000;
/// How long the peer may take to be heard after the start before that is a problem.
const GRACE_MS: u64 = 10_000;

/// What has been seen of the pair, and what has been said of it.
#[derive(Debug, Default)]
pub(super) struct PairWatch {
    /// The last look; `None` before the first.
    seen: Option<Seen>,
    started_ms: u64,
    /// When the peer came or went.
    changed_ms: u64,
    /// When each counted kind last rose, by place in [`Kind::ALL`].
    risen_ms: [Option<u64>; Kind::ALL.len()],
    said: Said,
}

/// What the log has been told last.
#[derive(Debug, Default)]
struct Said {
    alive: Option<bool>,
    boot: u64,
    config_equal: Option<bool>,
    synced: bool,
    /// Sessions of the peer that could not be taken in here, and the other way round.
    lacking: u64,
    peer_lacking: u64,
    /// When, by line.
    at_ms: [Option<u64>; LINES],
}

/// Places in [`Said::at_ms`] after those of [`Kind::ALL`].
const CAME: usize = Kind::ALL.len();
const RESTARTED: usize = CAME + 1;
const EQUAL: usize = CAME + 2;
const SYNCED: usize = CAME + 3;
const LINES: usize = CAME + 4;

/// A problem that there is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) mend: Option<String>,
}

impl PairWatch {
    /// Looks at what is counted now and logs what has changed.
    pub(super) fn sample(&mut self, now_ms: u64, facts: &Facts, seen: Seen) {
        for (level, line) in self.news(now_ms, facts, seen) {
            log!(level, "{line}");
        }
    }

    /// How long the peer has been there, or away.
    pub(super) fn peer_since_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.changed_ms)
    }

    /// What is wrong now, the worst first. What is counted is wrong for a minute.
    pub(super) fn problems(&self, now_ms: u64, facts: &Facts) -> Vec<Problem> {
        let Some(seen) = &self.seen else { return Vec::new() };
        let waited = now_ms >= self.started_ms + GRACE_MS;
        let holds = |(place, kind): (usize, &Kind)| match kind {
            Kind::PeerGone => !seen.alive && (waited || seen.boot != 0),
            Kind::ConfigDiffers => facts.config_equal(seen) == Some(false),
            Kind::ImportRefused => seen.lacks(),
            Kind::PeerLacks => seen.peer_lacks(),
            Kind::Joining => seen.alive && !seen.settled(),
            Kind::Walk => seen.walk_total > 0,
            _ => self.risen_ms[place].is_some_and(|then| now_ms < then + QUIET_MS),
        };
        let kinds = Kind::ALL.iter().enumerate().filter(|&of| holds(of)).map(|(_, kind)| *kind);
        kinds
            .map(|kind| Problem {
                kind,
                text: kind.text(facts, seen),
                mend: kind.mend(facts, seen),
            })
            .collect()
    }

    /// Takes in what is seen; the lines for the log.
    fn news(&mut self, now_ms: u64, facts: &Facts, seen: Seen) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        match &self.seen {
            None => (self.started_ms, self.changed_ms) = (now_ms, now_ms),
            Some(last) if last.alive != seen.alive => self.changed_ms = now_ms,
            Some(_) => {}
        }
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            let Some(count) = kind.count(&seen) else { continue };
            let before = self.seen.as_ref().and_then(|last| kind.count(last)).unwrap_or(0);
            if count == before {
                continue;
            }
            self.risen_ms[place] = Some(now_ms);
            if self.said.may(place, now_ms) {
                lines.push((level(kind), line(kind, facts, &seen)));
            }
        }
        self.peer_news(now_ms, facts, &seen, &mut lines);
        self.seen = Some(seen);
        lines
    }

    fn peer_news(
        &mut self,
        now_ms: u64,
        facts: &Facts,
        seen: &Seen,
        lines: &mut Vec<(Level, String)>,
    ) {
        let (said, peer) = (&mut self.said, facts.peer);
        let waited = now_ms >= self.started_ms + GRACE_MS;
        if seen.alive && said.alive != Some(true) && said.may(CAME, now_ms) {
            lines.push((
                Level::Info,
                format!(
                    "the peer {peer} is there: shunt {}, start {:016x}, workers: {}",
                    seen.version, seen.boot, seen.workers
                ),
            ));
            (said.alive, said.boot) = (Some(true), seen.boot);
        }
        let gone = said.alive == Some(true) || said.alive.is_none() && waited;
        if !seen.alive && gone && said.may(Kind::PeerGone as usize, now_ms) {
            let level = if seen.leaving { Level::Info } else { Level::Warn };
            lines.push((level, line(Kind::PeerGone, facts, seen)));
            said.alive = Some(false);
        }
        if seen.alive
            && said.alive == Some(true)
            && seen.boot != said.boot
            && said.may(RESTARTED, now_ms)
        {
            let boots = format!("start {:016x}, before {:016x}", seen.boot, said.boot);
            lines.push((Level::Warn, format!("the peer {peer} has restarted ({boots})")));
            said.boot = seen.boot;
        }
        match facts.config_equal(seen) {
            Some(false)
                if said.config_equal != Some(false)
                    && said.may(Kind::ConfigDiffers as usize, now_ms) =>
            {
                lines.push((Level::Warn, line(Kind::ConfigDiffers, facts, seen)));
                said.config_equal = Some(false);
            }
            Some(true) if said.config_equal == Some(false) && said.may(EQUAL, now_ms) => {
                let text = "the configurations of the two nodes are alike again";
                lines.push((Level::Info, text.to_owned()));
                said.config_equal = Some(true);
            }
            Some(true) if said.config_equal.is_none() => said.config_equal = Some(true),
            _ => {}
        }
        for (kind, lacks, count, before) in [
            (Kind::ImportRefused, seen.lacks(), seen.lacking, &mut said.lacking),
            (Kind::PeerLacks, seen.peer_lacks(), seen.peer_lacking, &mut said.peer_lacking),
        ] {
            if !lacks {
                *before = 0;
            } else if *before != count && may(&mut said.at_ms, kind as usize, now_ms) {
                lines.push((level(kind), line(kind, facts, seen)));
                *before = count;
            }
        }
        let synced = seen.alive && seen.synced();
        if synced && !said.synced && said.may(SYNCED, now_ms) {
            lines.push((Level::Info, format!("this node has all sessions of the peer {peer}")));
            said.synced = true;
        }
        // A new start of the peer, or its return, begins anew.
        if !seen.synced() {
            said.synced = false;
        }
    }
}

impl Said {
    /// Whether a line may be said now; notes that it is.
    fn may(&mut self, place: usize, now_ms: u64) -> bool {
        may(&mut self.at_ms, place, now_ms)
    }
}

fn may(at_ms: &mut [Option<u64>; LINES], place: usize, now_ms: u64) -> bool {
    let may = at_ms[place].is_none_or(|then| now_ms >= then + QUIET_MS);
    if may {
        at_ms[place] = Some(now_ms);
    }
    may
}

fn level(kind: Kind) -> Level {
    match kind.severity() {
        Severity::Bad | Severity::Warn => Level::Warn,
        Severity::Info => Level::Info,
    }
}

fn line(kind: Kind, facts: &Facts, seen: &Seen) -> String {
    let text = kind.text(facts, seen);
    match kind.mend(facts, seen) {
        Some(mend) => format!("{text}; mend: {mend}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::datapath::ha::{Channel, Ha};
    use crate::datapath::snapshot::{PortId, Snapshot};
    use crate::manage::testing;

    const OWN: u64 = 77;

    fn facts() -> Facts {
        let mut config = testing::config();
        let pair = testing::ha();
        let channel = Channel {
            port: PortId(0),
            group: pair.sync_group,
            source: pair.source,
            peer: pair.peer,
            rate: pair.sync_rate,
            relay: true,
            config_digest: OWN,
        };
        config.ha = Some(pair);
        let ha = Ha { channel, groups: vec![], group_of_v4: [].into(), group_of_v6: [].into() };
        let snapshot = Snapshot { ha: Some(Arc::new(ha)), ..Snapshot::default() };
        Facts::of(&config, &snapshot).unwrap()
    }

    fn there() -> Seen {
        Seen {
            alive: true,
            boot: 0xb1,
            workers: 2,
            config: OWN,
            version: "0.1.0".into(),
            ..Seen::default()
        }
    }

    /// A pair that is watched.
    struct Watched {
        watch: PairWatch,
        facts: Facts,
    }

    impl Watched {
        fn new() -> Self {
            Watched { watch: PairWatch::default(), facts: facts() }
        }

        /// The first words of each line for the log.
        fn news(&mut self, second: u64, seen: &Seen) -> Vec<String> {
            let lines = self.watch.news(second * 1_000, &self.facts, seen.clone());
            lines
                .iter()
                .map(|(level, line)| {
                    let words: Vec<_> = line.split(' ').take(7).collect();
                    format!("{level} {}", words.join(" "))
                })
                .collect()
        }

        fn problems(&self, second: u64) -> Vec<&'static str> {
            let problems = self.watch.problems(second * 1_000, &self.facts);
            problems.iter().map(|problem| problem.kind.name()).collect()
        }
    }

    const NOTHING: [&str; 0] = [];
    const CAME: &str = "INFO the peer 192.0.2.3 is there: shunt 0.1.0,";
    const GONE: &str = "WARN the peer 192.0.2.3 is not heard any";

    #[test]
    fn kinds_stand_in_their_order() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        assert!(Kind::ALL.is_sorted());
    }

    #[test]
    fn a_peer_that_never_comes() {
        let mut w = Watched::new();
        let nobody = Seen::default();
        assert_eq!(w.news(5, &nobody), NOTHING);
        assert_eq!(w.problems(5), NOTHING);
        assert_eq!(w.news(14, &nobody), NOTHING);
        assert_eq!(w.news(15, &nobody), ["WARN the peer 192.0.2.3 has not been heard"]);
        assert_eq!(w.problems(15), ["peer_gone"]);
        assert_eq!(w.news(3_600, &nobody), NOTHING, "once");
        let text = &w.watch.problems(16_000, &w.facts)[0];
        assert_eq!(
            (text.text.as_str(), text.mend.as_deref()),
            (
                "the peer 192.0.2.3 has not been heard since this node started: sessions are on this \
                 node alone",
                Some(
                    "is shunt running on 192.0.2.3, with the same ha.sync_group and key? Does the \
                     network of port front pass multicast to 239.255.19.19:8849 (a switch that snoops \
                     on IGMP or MLD needs a querier)?"
                )
            )
        );
    }

    #[test]
    fn a_peer_comes_syncs_goes_and_returns() {
        let mut w = Watched::new();
        assert_eq!(w.news(0, &Seen::default()), NOTHING);
        assert_eq!(w.news(3, &there()), [CAME]);
        assert_eq!(w.problems(3), ["joining"]);
        let synced = Seen { buckets_synced: 128, ..there() };
        assert_eq!(w.news(4, &synced), ["INFO this node has all sessions of the"]);
        assert_eq!(w.news(5, &synced), NOTHING);
        assert_eq!(w.problems(5), NOTHING);
        assert_eq!(w.watch.peer_since_ms(5_000), 2_000);
        let gone = Seen { alive: false, ..synced.clone() };
        assert_eq!(w.news(6, &gone), [GONE]);
        assert_eq!(w.problems(6), ["peer_gone"]);
        assert_eq!(w.watch.peer_since_ms(7_000), 1_000);
        // A minute after it was said first, it may be said again.
        assert_eq!(w.news(7, &synced), NOTHING);
        assert_eq!(w.news(62, &synced), NOTHING);
        assert_eq!(w.news(63, &synced), [CAME]);
        assert_eq!(w.news(65, &gone), NOTHING);
        assert_eq!(w.news(66, &gone), [GONE]);
    }

    #[test]
    fn a_peer_that_is_stopped_or_restarted() {
        let mut w = Watched::new();
        assert_eq!(w.news(0, &there()), [CAME]);
        let restarted = Seen { boot: 0xb2, ..there() };
        assert_eq!(
            w.news(1, &restarted),
            ["WARN the peer 192.0.2.3 has restarted (start 00000000000000b2,"]
        );
        assert_eq!(w.news(2, &restarted), NOTHING);
        let stopped = Seen { alive: false, leaving: true, ..restarted };
        assert_eq!(w.news(3, &stopped), ["INFO the peer 192.0.2.3 was stopped: new sessions"]);
    }

    #[test]
    fn what_could_not_be_taken_in_is_said_on_both_sides() {
        let mut w = Watched::new();
        assert_eq!(w.news(0, &there()), [CAME]);
        let lacks = |lacking| Seen { buckets_synced: 126, buckets_lacking: 2, lacking, ..there() };
        // As long as it is not known what else is to come, it joins.
        let joins = Seen { buckets_synced: 100, ..lacks(2) };
        assert_eq!(w.news(1, &joins), NOTHING);
        assert_eq!(w.problems(1), ["joining"]);
        assert!(!lacks(2).synced());
        assert_eq!(w.news(2, &lacks(2)), ["WARN this node has all sessions of the"]);
        assert_eq!(w.problems(2), ["import_refused"]);
        let problem = &w.watch.problems(2_000, &w.facts)[0];
        assert_eq!(
            (problem.text.as_str(), problem.mend.as_deref()),
            (
                "this node has all sessions of the peer 192.0.2.3 but 2 that it could not take in: the table \
                 is full, or their service or server is unknown here; they would break if the peer stopped, \
                 so this node does not take the addresses back",
                Some(
                    "give both nodes the same services and servers, and as large a node.sessions: it \
                     then takes them in, and the addresses back; or, if they may break, set \
                     ha.preempt_unsynced = true here and start it anew"
                )
            )
        );
        // However often they are tried again.
        assert_eq!(w.news(60, &lacks(2)), NOTHING);
        assert_eq!(w.news(61, &lacks(3)), NOTHING);
        assert_eq!(w.news(62, &lacks(3)), ["WARN this node has all sessions of the"]);
        let all = Seen { buckets_synced: 128, ..there() };
        assert_eq!(w.news(63, &all), ["INFO this node has all sessions of the"]);
        assert_eq!(w.problems(63), NOTHING);
        // The other side.
        let other = Seen { peer_lacking: 2, ..all.clone() };
        assert_eq!(w.news(64, &other), ["WARN the peer 192.0.2.3 has all sessions of"]);
        assert_eq!(w.problems(64), ["peer_lacks"]);
        let gone = Seen { alive: false, ..other };
        assert_eq!(w.news(65, &gone), [GONE]);
        assert_eq!(w.problems(65), ["peer_gone"]);
        // Who takes the addresses back all the same, or never does, says nothing of it.
        w.facts.waits = false;
        w.news(66, &lacks(2));
        let problem = &w.watch.problems(66_000, &w.facts)[0];
        assert!(!problem.text.contains("addresses"), "{}", problem.text);
        assert!(!problem.mend.as_ref().unwrap().contains("preempt"), "{problem:?}");
    }

    #[test]
    fn configurations_differ_and_are_alike_again() {
        let mut w = Watched::new();
        assert_eq!(w.news(0, &there()), [CAME]);
        let other = Seen { config: 5, buckets_synced: 128, ..there() };
        let lines = w.news(1, &other);
        assert_eq!(lines[0], "WARN the configurations of the two nodes differ");
        assert_eq!(w.problems(1), ["config_differs"]);
        assert_eq!(w.news(2, &other), NOTHING);
        let alike = Seen { config: OWN, ..other };
        assert_eq!(w.news(3, &alike), ["INFO the configurations of the two nodes are"]);
        assert_eq!(w.problems(3), NOTHING);
    }

    #[test]
    fn what_is_counted_is_said_once_a_minute_and_is_a_problem_for_one() {
        let mut w = Watched::new();
        let seen =
            |bad_mac, clock_jumps| Seen { bad_mac, clock_jumps, buckets_synced: 128, ..there() };
        w.news(0, &seen(0, 0));
        assert_eq!(
            w.news(1, &seen(3, 1)),
            [
                "WARN datagrams to 239.255.19.19:8849 on port front are",
                "WARN this node stood still once (a paused",
            ]
        );
        assert_eq!(w.news(2, &seen(9, 1)), NOTHING);
        assert_eq!(w.problems(2), ["wrong_key", "clock_jump"]);
        assert_eq!(w.news(60, &seen(10, 1)), NOTHING);
        assert_eq!(w.news(61, &seen(11, 1)).len(), 1);
        assert_eq!(w.problems(61), ["wrong_key"]);
        assert_eq!(w.problems(121), NOTHING);
    }

    #[test]
    fn every_kind_has_words() {
        let (facts, seen) = (facts(), there());
        for kind in Kind::ALL {
            let text = line(kind, &facts, &seen);
            assert!(text.len() > 30 && !text.ends_with('.'), "{text}");
            assert_eq!(kind.mend(&facts, &seen).is_some(), kind.severity() != Severity::Info);
        }
    }
}
