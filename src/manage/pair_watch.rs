//! Watches the pair: once a second it looks at what the workers have counted, says in the log what has
//! changed, and keeps what `shunt ha` calls problems.
//!
//! What is counted is said at most once a minute; what changed meanwhile is said then, if it still holds.
//! Whether the peer is there, has restarted, or is configured otherwise is said at once, always: who
//! reads the last word of it must find it true. It cannot change often, since a peer takes seconds to be
//! found gone.

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
    /// When the peer came, went or restarted.
    changed_ms: u64,
    restarts: u64,
    restarted_ms: u64,
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
    interval_equal: Option<bool>,
    synced: bool,
    /// Sessions of the peer that could not be taken in here, and the other way round.
    lacking: u64,
    peer_lacking: u64,
    /// When, by line that is not said too often.
    at_ms: [Option<u64>; LINES],
}

/// The place in [`Said::at_ms`] after those of [`Kind::ALL`].
const SYNCED: usize = Kind::ALL.len();
const LINES: usize = SYNCED + 1;

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

    /// How often the peer has restarted since this node started, and for how long the last start has
    /// been known.
    pub(super) fn peer_restarts(&self, now_ms: u64) -> (u64, Option<u64>) {
        let ago = (self.restarts > 0).then(|| now_ms.saturating_sub(self.restarted_ms));
        (self.restarts, ago)
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
            Kind::AdvertInterval => facts.interval_equal(seen) == Some(false),
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
            Some(last) => {
                let restarted = last.boot != 0 && last.boot != seen.boot;
                if restarted {
                    self.restarts += 1;
                    self.restarted_ms = now_ms;
                }
                if restarted || last.alive != seen.alive {
                    self.changed_ms = now_ms;
                }
            }
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
        let gone = said.alive == Some(true) || said.alive.is_none() && waited;
        let start = format!("start {:016x}", seen.boot);
        let before = said.boot;
        let restarted = before != 0 && before != seen.boot;
        match seen.alive {
            true if said.alive != Some(true) => {
                let (there, before) = match restarted {
                    true => ("there, restarted", format!(", before {before:016x}")),
                    false => ("there", String::new()),
                };
                let (version, workers) = (&seen.version, seen.workers);
                let text = format!(
                    "the peer {peer} is {there}: shunt {version}, {start}{before}, workers: {workers}"
                );
                lines.push((Level::Info, text));
            }
            true if restarted => {
                let text = format!("the peer {peer} has restarted ({start}, before {before:016x})");
                lines.push((Level::Warn, text));
            }
            true => {}
            false if gone => {
                let level = if seen.leaving { Level::Info } else { Level::Warn };
                lines.push((level, line(Kind::PeerGone, facts, seen)));
                said.alive = Some(false);
            }
            false => {}
        }
        if seen.alive {
            if said.alive != Some(true) || restarted {
                (said.synced, said.at_ms[SYNCED]) = (false, None);
            }
            (said.alive, said.boot) = (Some(true), seen.boot);
        }
        let differs = [
            (
                Kind::ConfigDiffers,
                facts.config_equal(seen),
                &mut said.config_equal,
                "the configurations of the two nodes are alike again",
            ),
            (
                Kind::AdvertInterval,
                facts.interval_equal(seen),
                &mut said.interval_equal,
                "the peer sends adverts in the interval of this node again",
            ),
        ];
        for (kind, equal, said, again) in differs {
            let before = *said;
            *said = equal.or(before);
            match (before, equal) {
                (None | Some(true), Some(false)) => {
                    lines.push((level(kind), line(kind, facts, seen)));
                }
                (Some(false), Some(true)) => lines.push((Level::Info, again.to_owned())),
                _ => {}
            }
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
        // The last word is true, however soon.
        assert_eq!(w.news(7, &synced), [CAME, "INFO this node has all sessions of the"]);
        assert_eq!(w.news(8, &gone), [GONE]);
        assert_eq!(w.news(9, &gone), NOTHING);
        assert_eq!(w.watch.peer_restarts(9_000), (0, None));
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
        assert_eq!(
            (w.watch.peer_restarts(4_000), w.watch.peer_since_ms(4_000)),
            ((1, Some(3_000)), 3_000)
        );
        let stopped = Seen { alive: false, leaving: true, ..restarted };
        assert_eq!(w.news(3, &stopped), ["INFO the peer 192.0.2.3 was stopped: new sessions"]);
        // It is back at once, and then restarted again, by way of nothing.
        let back = Seen { boot: 0xb3, ..there() };
        let lines = w.watch.news(4_000, &w.facts, back.clone());
        let text = "the peer 192.0.2.3 is there, restarted: shunt 0.1.0, start 00000000000000b3, before \
                    00000000000000b2, workers: 2";
        assert_eq!(lines, [(Level::Info, text.to_owned())]);
        let again = Seen { boot: 0xb4, ..back };
        assert_eq!(
            w.news(5, &again),
            ["WARN the peer 192.0.2.3 has restarted (start 00000000000000b4,"]
        );
        assert_eq!(w.watch.peer_restarts(7_000), (3, Some(2_000)));
    }

    /// Killed, and back while the peer is still taken for gone: as a pair was seen to do.
    #[test]
    fn a_peer_that_is_killed_and_returns_within_a_minute() {
        let mut w = Watched::new();
        assert_eq!(w.news(43, &there()), [CAME]);
        let gone = Seen { alive: false, ..there() };
        assert_eq!(w.news(56, &gone), [GONE]);
        let back = Seen { boot: 0xb2, ..there() };
        assert_eq!(w.news(59, &back), ["INFO the peer 192.0.2.3 is there, restarted: shunt"]);
        assert_eq!(w.problems(59), ["joining"]);
        assert_eq!(w.watch.peer_restarts(60_000), (1, Some(1_000)));
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
        // The part of the services.
        let other = Seen { config: OWN ^ 1, buckets_synced: 128, ..there() };
        let lines = w.news(1, &other);
        assert_eq!(lines[0], "WARN the configurations of the two nodes differ");
        assert_eq!(w.problems(1), ["config_differs"]);
        let text = |w: &Watched| w.watch.problems(1_000, &w.facts)[0].text.clone();
        let all = "the configurations of the two nodes differ in what must be alike: ";
        assert_eq!(text(&w), format!("{all}services"));
        assert_eq!(w.news(2, &other), NOTHING);
        let alike = Seen { config: OWN, ..other };
        assert_eq!(w.news(3, &alike), ["INFO the configurations of the two nodes are"]);
        assert_eq!(w.problems(3), NOTHING);
        // Soon again, in two parts, and in what cannot be named.
        let other = Seen { config: OWN ^ 0x1_0000_0100, ..alike.clone() };
        assert_eq!(w.news(4, &other).len(), 1);
        assert_eq!(text(&w), format!("{all}servers, [ha] (mode, virtual_mac, groups)"));
        let other = Seen { config: OWN ^ 1 << 63, ..alike };
        assert_eq!(w.news(5, &other), NOTHING);
        assert_eq!(
            text(&w),
            format!(
                "{all}services, servers, local_addresses, [[snat]], [ha] (mode, virtual_mac, groups)"
            )
        );
    }

    #[test]
    fn adverts_come_in_another_interval() {
        let mut w = Watched::new();
        let heard =
            |advert_interval_ms| Seen { advert_interval_ms, buckets_synced: 128, ..there() };
        w.news(0, &heard(None));
        assert_eq!(
            w.news(1, &heard(Some(100))),
            ["WARN the peer 192.0.2.3 sends adverts every 100"]
        );
        assert_eq!(w.problems(1), ["advert_interval_differs"]);
        // This node is master, and hears none.
        assert_eq!(w.news(2, &heard(None)), NOTHING);
        assert_eq!(w.problems(2), NOTHING);
        assert_eq!(w.news(3, &heard(Some(100))), NOTHING);
        assert_eq!(w.news(4, &heard(Some(1_000))), ["INFO the peer sends adverts in the interval"]);
        assert_eq!(w.problems(4), NOTHING);
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
        // Without a restart, which would break connections of a master.
        let mend = w.watch.problems(2_000, &w.facts)[0].mend.clone().unwrap();
        assert!(mend.contains("`kill -HUP`") && !mend.contains("restart"), "{mend}");
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
