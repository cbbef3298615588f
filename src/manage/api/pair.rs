//! The pair, in the types of the control socket.

use super::pair_types::{Group, Ha, IgnoredAdverts, Node, Pair, Peer, Problem, Sync};
use super::types::PairSummary;
use crate::datapath::counters::Cell;
use crate::datapath::snapshot::BUCKETS;
use crate::datapath::sync_counters::SyncCounters;
use crate::manage::config;
use crate::manage::ha::GroupView;
use crate::manage::pair_problem::Severity;
use crate::manage::pair_seen::Seen;
use crate::manage::state::State;
use crate::sync::keys::name as key_name;

impl State {
    /// `GET /v1/ha`
    pub(super) fn ha(&self) -> Ha {
        let view = |ha: &config::Ha| {
            let (facts, watch) = self.watched.as_ref()?;
            let seen = self.seen();
            let (restarts, restarted_ago_ms) = watch.peer_restarts(self.now_ms);
            let (ignored_adverts, ignored_adverts_of_others) = self.ignored_adverts();
            Some(Pair {
                mode: ha.mode.name().into(),
                node: Node {
                    name: self.config.node.name.clone(),
                    id: self.config.node.id,
                    version: env!("SHUNT_VERSION").into(),
                    boot: self.boot.map(hex),
                    address: ha.source,
                    config: hex(facts.config),
                    synced: seen.synced(),
                    buckets_synced: seen.buckets_synced,
                    buckets_lacking: seen.buckets_lacking,
                    buckets: BUCKETS as u64,
                },
                groups: self.groups(ha),
                ignored_adverts,
                ignored_adverts_of_others,
                peer: Peer {
                    address: ha.peer,
                    id: 1 - self.config.node.id.min(1),
                    alive: seen.alive,
                    since_ms: watch.peer_since_ms(self.now_ms),
                    version: seen.version.clone(),
                    boot: (seen.boot != 0).then(|| hex(seen.boot)),
                    restarts,
                    restarted_ago_ms,
                    workers: seen.workers,
                    synced: seen.alive && seen.peer_synced,
                    lacking_sessions: if seen.alive { seen.peer_lacking } else { 0 },
                    leaving: seen.leaving,
                    config_equal: facts.config_equal(&seen),
                },
                sync: self.sync(ha, &seen),
                problems: self.problems(),
            })
        };
        Ha { pair: self.config.ha.as_ref().and_then(view) }
    }

    /// The pair for `GET /v1/status`.
    pub(super) fn pair_summary(&self) -> Option<PairSummary> {
        let ha = self.config.ha.as_ref()?;
        let seen = self.seen();
        let passes = |problem: &&Problem| problem.severity == Severity::Info.name();
        Some(PairSummary {
            peer: ha.peer,
            peer_alive: seen.alive,
            synced: seen.synced(),
            groups: self.groups(ha).into_iter().map(|group| (group.vrid, group.state)).collect(),
            problems: self.problems().iter().filter(|p| !passes(p)).count() as u64,
        })
    }

    fn groups(&self, ha: &config::Ha) -> Vec<Group> {
        let Some(pair) = &self.pair else { return Vec::new() };
        let group = |(group, view): (&config::VirtualRouter, GroupView)| Group {
            vrid: view.vrid,
            addresses: group.addresses.clone(),
            state: view.state.into(),
            priority: view.priority,
            effective_priority: view.effective,
            why: match view.drops.is_empty() {
                true => view.reason.into(),
                false => format!("{}; {}", view.reason, view.drops.join(", ")),
            },
            since_ms: view.since_ago_ms,
            master: view.master,
            adverts_sent: view.sent,
            adverts_heard: view.heard,
            adverts_ignored: view.ignored,
        };
        ha.groups.iter().zip(pair.view(self.now_ms).groups).map(group).collect()
    }

    fn ignored_adverts(&self) -> (Vec<IgnoredAdverts>, u64) {
        let Some(pair) = &self.pair else { return (Vec::new(), 0) };
        let view = pair.view(self.now_ms);
        let list = view.strangers.into_iter().map(|stranger| IgnoredAdverts {
            source: stranger.source,
            vrid: stranger.vrid,
            of_this_node: stranger.is_ours,
            of_peer: stranger.is_peer,
            adverts: stranger.count,
            last_ago_ms: self.now_ms.saturating_sub(stranger.last_ms),
        });
        (list.collect(), view.other_strangers)
    }

    fn problems(&self) -> Vec<Problem> {
        let Some((facts, watch)) = &self.watched else { return Vec::new() };
        let problems = watch.problems(self.now_ms, facts).into_iter();
        problems
            .map(|problem| Problem {
                kind: problem.kind.name().into(),
                severity: problem.kind.severity().name().into(),
                text: problem.text,
                mend: problem.mend,
            })
            .collect()
    }

    fn sync(&self, ha: &config::Ha, seen: &Seen) -> Sync {
        let rate = |at: usize| self.rates.sync.get(at);
        let sum = |cell: fn(&SyncCounters) -> &Cell| self.sum(|c| cell(&c.sync));
        Sync {
            port: ha.sync_port.clone(),
            group: Some(ha.sync_group),
            signing_key: key_name(ha.keys.id()),
            other_key: ha.keys.other_id().map(key_name),
            own_sessions: sum(|c| &c.own_sessions),
            foreign_sessions: sum(|c| &c.foreign_sessions),
            // What is not known in time may be counted twice.
            unprotected_sessions: sum(|c| &c.unprotected).min(sum(|c| &c.own_sessions)),
            lag_datagrams: sum(|c| &c.lag),
            sent_datagrams: sum(|c| &c.sent_datagrams),
            sent_datagrams_per_second: rate(0),
            sent_records: sum(|c| &c.sent_records),
            sent_records_per_second: rate(1),
            send_failed: sum(|c| &c.send_failed),
            received_datagrams: sum(|c| &c.received_datagrams),
            received_datagrams_per_second: rate(2),
            received_records: sum(|c| &c.received_records),
            received_records_per_second: rate(3),
            repeated_datagrams: sum(|c| &c.repeated),
            missed_datagrams: sum(|c| &c.missed),
            naks_sent: sum(|c| &c.naks_sent),
            gone: sum(|c| &c.gone),
            digest_mismatches: sum(|c| &c.digest_mismatches),
            imported_sessions: sum(|c| &c.imported),
            lacking_sessions: seen.lacking,
            refused_sessions: sum(|c| &c.import_refused),
            conflicts: sum(|c| &c.conflicts),
            streams_lost: sum(|c| &c.streams_lost),
            records_lost: sum(|c| &c.records_lost),
            walks: sum(|c| &c.walks),
            walk_sent: seen.walk_sent,
            walk_total: seen.walk_total,
            joining_imported: seen.joining.0.min(seen.joining.1),
            joining_total: seen.joining.1,
            relayed_packets: sum(|c| &c.relayed),
            relay_answered_packets: sum(|c| &c.relay_answered),
            relay_refused_packets: sum(|c| &c.relay_refused),
            relay_failed_packets: sum(|c| &c.relay_failed),
            bad_mac: sum(|c| &c.bad_mac),
            replayed: sum(|c| &c.replayed),
            wrong_version: sum(|c| &c.wrong_version),
            duplicate_node: sum(|c| &c.duplicate_node),
            unproven: sum(|c| &c.unproven),
            malformed: sum(|c| &c.malformed),
            vrrp_invalid: sum(|c| &c.vrrp_invalid),
            clock_jumps: sum(|c| &c.clock_jumps),
        }
    }
}

/// 16 digits: JSON's numbers lose the last of them.
fn hex(n: u64) -> String {
    format!("{n:016x}")
}
