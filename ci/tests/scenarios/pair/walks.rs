//! What the peer has sent anew stays and what it has not goes, whatever else is said at the same time. The
//! test speaks in the place of node 0, so that everything comes exactly when it matters.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shunt::datapath::ha::{Channel, Ha};
use shunt::io::memory::MemoryFrame;
use shunt::session::Mode;
use shunt::sync::control::{Begin, Digest, End};
use shunt::sync::datagram::{Header, Kind, SERVING};
use shunt::sync::record::{Emit, Record};
use shunt::sync::session::Session;
use shunt::sync::{HEADER, MAX};
use shunt::wire::toeplitz::{BUCKETS, STEERING};

use super::states::short;
use super::{BOOTS, Pair, Wire, forged, keys};
use crate::frames::udp;
use crate::net::{FRONT, Family, Net};

/// Sessions of node 0, and how many of them are over without a word of their end.
const ALL: usize = 300;
const OVER: usize = 10;

fn long(workers: usize) -> Net {
    let mut net = short(Mode::Nat)(workers);
    net.snapshot.services[1].timeouts.udp = 60_000;
    net
}

fn bytes(record: &impl Emit) -> Vec<u8> {
    let mut bytes = vec![0; record.length()];
    record.emit(&mut bytes);
    bytes
}

fn bucket(session: &Session<Ipv4Addr>) -> usize {
    STEERING.bucket_v4(session.client, session.client_port)
}

/// The buckets of these sessions.
fn buckets(sessions: &[Session<Ipv4Addr>]) -> u128 {
    sessions.iter().fold(0, |set, session| set | 1 << bucket(session))
}

fn begin(buckets: u128) -> Vec<Vec<u8>> {
    vec![bytes(&Begin { buckets, total: 0 })]
}

fn end(buckets: u128) -> Vec<Vec<u8>> {
    vec![bytes(&End(buckets))]
}

fn all_of(sessions: &[Session<Ipv4Addr>]) -> Vec<Vec<u8>> {
    sessions.iter().map(bytes).collect()
}

/// The digests of all buckets when these sessions are all there are.
fn digests(sessions: &[Session<Ipv4Addr>]) -> Vec<Vec<u8>> {
    let digest = |number: usize| {
        let of_bucket = sessions.iter().filter(|session| bucket(session) == number);
        let (count, xor) = of_bucket.fold((0, 0), |(n, xor), s| (n + 1, xor ^ s.identity()));
        bytes(&Digest { bucket: number as u8, count, xor })
    };
    (0..BUCKETS).map(digest).collect()
}

/// Node 1, and a voice that is node 0's to it.
struct Voice {
    pair: Pair,
    /// The last of the stream.
    sequence: u64,
    kept: Vec<Session<Ipv4Addr>>,
    over: Vec<Session<Ipv4Addr>>,
}

/// A datagram of node 0 to the other.
fn sealed(kind: Kind, sequence: u64, records: &[u8]) -> Vec<u8> {
    let boot = BOOTS[0];
    let header = Header { kind, node: 0, worker: 0, to: SERVING, repeated: false, boot, sequence };
    forged(Wire::Own, 0, &header, records, &keys())
}

impl Voice {
    fn new() -> Self {
        let mut pair = Pair::new([1, 1], Wire::Own, long);
        for n in 0..ALL as u16 {
            let client = SocketAddr::new(Family::V4.client(), 1024 + 7 * n);
            let vip = SocketAddr::new(Family::V4.vip(), 53);
            let packet = pair.nodes[0].by_client(udp(client, vip)).bytes();
            pair.inject(0, FRONT, &packet);
        }
        pair.pass(2, 1);
        assert_eq!(pair.owns(1), (0, ALL as u64));
        let stream = pair.said[0].iter().filter(|said| said.is_stream());
        let sequence = stream.map(|said| said.header.sequence).max().unwrap();
        let records = pair.said[0].iter().flat_map(|said| &said.records);
        let session = |record: &Record| match record {
            Record::SessionV4(session) => Some(*session),
            _ => None,
        };
        let sessions: Vec<_> = records.filter_map(session).collect();
        assert_eq!(sessions.len(), ALL);
        pair.cut();
        pair.begin();
        let (kept, over) = sessions.split_at(ALL - OVER);
        let (kept, over) = (kept.to_vec(), over.to_vec());
        Voice { pair, sequence, kept, over }
    }

    /// The datagrams that these records fill, with the next numbers of the stream.
    fn datagrams(&mut self, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut payloads = vec![Vec::new()];
        for record in records {
            if HEADER + payloads.last().unwrap().len() + record.len() > MAX {
                payloads.push(Vec::new());
            }
            payloads.last_mut().unwrap().extend(record);
        }
        let seal = |payload: Vec<u8>| {
            self.sequence += 1;
            sealed(Kind::Stream, self.sequence, &payload)
        };
        payloads.into_iter().map(seal).collect()
    }

    /// Says this outside the stream, as the control datagram of this number among those that a test makes.
    fn control(&mut self, number: u64, record: &impl Emit) {
        // Behind all that the node itself has said.
        let datagram = sealed(Kind::Control, (1 << 40) + number, &bytes(record));
        self.deliver(&[datagram]);
    }

    fn deliver(&mut self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.pair.nodes[1].arrive(MemoryFrame::new(Wire::Own.port(), datagram));
            self.pair.nodes[1].settle();
        }
        self.pair.carry();
    }

    fn say(&mut self, records: &[Vec<u8>]) {
        let datagrams = self.datagrams(records);
        self.deliver(&datagrams);
    }

    /// Copies, sessions taken in, and buckets found different up to now.
    fn seen(&self) -> (usize, u64, u64) {
        let imported = self.pair.sum(1, |c| c.sync.imported.get());
        let different = self.pair.sum(1, |c| c.sync.digest_mismatches.get());
        (self.pair.owns(1).1 as usize, imported, different)
    }
}

/// The end of one walk has shown that there are too many, and the next walk begins before those are gone:
/// nothing that it is about to confirm goes, and after it exactly those go.
#[test]
fn a_walk_that_begins_stops_the_removal_of_what_it_will_confirm() {
    let mut voice = Voice::new();
    let (kept, over) = (voice.kept.clone(), voice.over.clone());
    let different = u64::from(buckets(&over).count_ones());
    for records in [begin(u128::MAX), all_of(&kept), end(u128::MAX), digests(&kept)] {
        voice.say(&records);
    }
    assert_eq!(voice.seen(), (ALL, ALL as u64, different));
    voice.say(&begin(u128::MAX));
    voice.pair.pass(5, 1);
    assert_eq!(voice.seen(), (ALL, ALL as u64, different), "nothing is lost");
    for records in [all_of(&kept), end(u128::MAX), digests(&kept)] {
        voice.say(&records);
    }
    assert_eq!(voice.seen(), (ALL, ALL as u64, 2 * different));
    voice.pair.pass(5, 1);
    assert_eq!(voice.seen(), (ALL - OVER, ALL as u64, 2 * different), "just those that are over");
    voice.say(&digests(&kept));
    assert_eq!(voice.seen(), (ALL - OVER, ALL as u64, 2 * different), "and now all is equal");
    assert!(voice.pair.is_synced(1));
}

/// A walk of other buckets does not keep what is over.
#[test]
fn a_walk_that_begins_leaves_other_buckets_to_their_removal() {
    let mut voice = Voice::new();
    let (kept, over) = (voice.kept.clone(), voice.over.clone());
    for records in [begin(u128::MAX), all_of(&kept), end(u128::MAX), digests(&kept)] {
        voice.say(&records);
    }
    let again = buckets(&over[..OVER / 2]);
    let stay = over.iter().filter(|session| again >> bucket(session) & 1 != 0).count();
    assert!(stay < OVER);
    voice.say(&begin(again));
    voice.pair.pass(5, 1);
    let (copies, imported, _) = voice.seen();
    assert_eq!((copies, imported), (ALL - OVER + stay, ALL as u64));
    let walked: Vec<_> = kept.iter().filter(|s| again >> bucket(s) & 1 != 0).copied().collect();
    for records in [all_of(&walked), end(again), digests(&kept)] {
        voice.say(&records);
    }
    voice.pair.pass(5, 1);
    let (copies, imported, _) = voice.seen();
    assert_eq!((copies, imported), (ALL - OVER, ALL as u64));
}

/// A bucket of which this node cannot take all is never found equal. What a walk has not confirmed in it goes
/// all the same.
#[test]
fn what_is_over_goes_where_another_session_is_refused() {
    let mut voice = Voice::new();
    let mut there = voice.kept.clone();
    let over = voice.over.clone();
    // In each of their buckets there is one with a server that this node does not have.
    there.extend(over.iter().zip(0u16..).map(|(session, n)| {
        let same = |port: &u16| STEERING.bucket_v4(session.client, *port) == bucket(session);
        let port = (30_000 + 1_000 * n..).find(same).unwrap();
        Session { client_port: port, local_port: port, server_port: 5354, born: 1, ..*session }
    }));
    let different = u64::from(buckets(&over).count_ones());
    for records in [begin(u128::MAX), all_of(&there), end(u128::MAX), digests(&there)] {
        voice.say(&records);
    }
    assert_eq!(voice.pair.sum(1, |c| c.sync.import_refused.get()), OVER as u64);
    voice.pair.pass(5, 1);
    assert_eq!(voice.seen(), (ALL - OVER, ALL as u64, different));
    assert!(voice.pair.is_settled(1), "it has all that it can take");
    assert_eq!(voice.pair.lacks(1), OVER as u64);
    voice.say(&digests(&there));
    voice.pair.pass(5, 1);
    assert_eq!(voice.seen(), (ALL - OVER, ALL as u64, 2 * different));
}

/// A walk that takes longer than it is from one digest to the next: what it has not come to is not compared,
/// all of it is as soon as it has come to the end.
#[test]
fn what_is_being_walked_is_not_compared() {
    let mut pair = Pair::new([1, 1], Wire::Own, long);
    for n in 0..700 {
        let client = SocketAddr::new(Family::V4.client(), 1024 + 7 * n);
        let packet = udp(client, SocketAddr::new(Family::V4.vip(), 53));
        let packet = pair.nodes[0].by_client(packet).bytes();
        pair.inject(0, FRONT, &packet);
    }
    let rig = &mut pair.nodes[0];
    let ha = rig.net.snapshot.ha.take().unwrap();
    // Sessions in a second.
    let channel = Channel { rate: 1_000, ..ha.channel };
    rig.net.snapshot.ha = Some(Arc::new(Ha { channel, ..Ha::clone(&ha) }));
    rig.reconfigure();
    pair.restart(1);
    pair.begin();
    pair.pass(1_500, 1);
    assert_eq!([pair.owns(0), pair.owns(1)], [(700, 0), (0, 700)]);
    assert!(pair.is_synced(1));
    let records = || pair.said[0].iter().flat_map(|said| &said.records);
    let of_walk = |record: &Record| match record {
        Record::SessionV4(session) => Some(*session),
        _ => None,
    };
    // All of them when the two have just met, and none since.
    let different =
        u64::from(buckets(&records().filter_map(of_walk).collect::<Vec<_>>()).count_ones());
    assert_eq!(pair.sum(1, |c| c.sync.digest_mismatches.get()), different);

    let said = pair.said[0].iter().filter(|said| said.is_stream() && !said.header.repeated);
    let (mut walked, mut sessions, mut behind) = (0, 0, 0);
    for record in said.flat_map(|said| &said.records) {
        match record {
            Record::Begin(begin) => {
                assert_eq!(begin.total, 700);
                walked = begin.buckets;
            }
            Record::SessionV4(_) => sessions += 1,
            Record::End(end) => {
                assert_eq!((end.0, sessions), (walked, 700));
                (walked, behind) = (0, end.0);
            }
            Record::Digest(digest) => {
                assert_eq!(walked >> digest.bucket & 1, 0, "after {sessions} sessions");
                behind &= !(1 << digest.bucket);
            }
            other => assert_eq!((walked, behind), (0, 0), "{other:?}"),
        }
    }
    assert_eq!((walked, behind, sessions), (0, 0, 700));
}

/// The beginning of a walk comes after its end: what came in between has confirmed nothing, so nothing
/// goes, and the walk is asked for anew.
#[test]
fn a_beginning_that_comes_late_counts_for_nothing() {
    let mut voice = Voice::new();
    let (kept, over) = (voice.kept.clone(), voice.over.clone());
    let late = voice.datagrams(&begin(u128::MAX));
    for records in [all_of(&kept), end(u128::MAX)] {
        voice.say(&records);
    }
    voice.deliver(&late);
    voice.say(&digests(&kept));
    voice.pair.pass(5, 1);
    let different = u64::from(buckets(&over).count_ones());
    assert_eq!(voice.seen(), (ALL, ALL as u64, different));
    voice.pair.begin();
    voice.say(&digests(&kept));
    voice.pair.pass(1_000, 1);
    assert_eq!(voice.seen(), (ALL, ALL as u64, 2 * different));
    let records = voice.pair.said[1].iter().flat_map(|said| &said.records);
    let mut wanted = records.filter_map(|record| match record {
        Record::Want(want) => Some(want.0),
        _ => None,
    });
    assert_eq!(wanted.next_back(), Some(buckets(&over)));
    for records in [begin(u128::MAX), all_of(&kept), end(u128::MAX), digests(&kept)] {
        voice.say(&records);
    }
    voice.pair.pass(5, 1);
    assert_eq!(voice.seen().0, ALL - OVER);
}

/// Datagrams of a walk are lost for good: what they would have confirmed does not go because something else
/// in its bucket is over.
#[test]
fn what_was_lost_of_a_walk_takes_nothing_away() {
    let mut voice = Voice::new();
    let (kept, over) = (voice.kept.clone(), voice.over.clone());
    voice.say(&begin(u128::MAX));
    let half = kept.len() / 2;
    voice.datagrams(&all_of(&kept[..half]));
    let lost = voice.sequence;
    for records in [all_of(&kept[half..]), end(u128::MAX)] {
        voice.say(&records);
    }
    voice.control(0, &shunt::sync::control::Gone { through: lost });
    voice.say(&digests(&kept));
    voice.pair.pass(20, 1);
    let (copies, _, _) = voice.seen();
    let in_doubt = kept[..half].iter().filter(|s| buckets(&over) >> bucket(s) & 1 != 0).count();
    assert!(
        copies >= kept.len(),
        "{copies} copies of {} sessions that live; {in_doubt} unconfirmed in those buckets",
        kept.len()
    );
}

/// More copies become own in one burst than the list of changes holds: the peer is told of all of them, if not
/// at once.
#[test]
fn what_finds_the_list_of_changes_full_is_told_later() {
    use shunt::sync::session::{Close, Reason};
    let mut voice = Voice::new();
    let all: Vec<_> = voice.kept.iter().chain(&voice.over).copied().collect();
    let close = |s: &Session<Ipv4Addr>| {
        bytes(&Close {
            born: s.born,
            reason: Reason::EXPIRED,
            protocol: s.protocol,
            client: s.client,
            vip: s.vip,
            client_port: s.client_port,
            vip_port: s.vip_port,
        })
    };
    let closes: Vec<_> = all.iter().map(close).collect();
    let datagrams = voice.datagrams(&closes);
    for datagram in &datagrams {
        voice.pair.nodes[1].arrive(MemoryFrame::new(Wire::Own.port(), datagram));
    }
    voice.pair.nodes[1].settle();
    voice.pair.pass(1, 1);
    assert_eq!(voice.pair.owns(1), (ALL as u64, 0));
    let told = |voice: &Voice| voice.pair.told(1, super::is_session);
    let at_once = told(&voice);
    // More than half of the timeout; the peer is alive, and there is traffic.
    for n in 0..45 {
        voice.control(n, &shunt::sync::control::Ack { worker: 0, contiguous: 0, highest: 0 });
        for n in 0..ALL as u16 {
            let client = SocketAddr::new(Family::V4.client(), 1024 + 7 * n);
            let vip = SocketAddr::new(Family::V4.vip(), 53);
            let packet = voice.pair.nodes[1].by_client(udp(client, vip)).bytes();
            voice.pair.inject(1, FRONT, &packet);
        }
        voice.pair.pass(1_000, 50);
    }
    assert!(voice.pair.has_peer(1));
    assert_eq!((at_once, told(&voice)).1, ALL as i64, "at once {at_once}");
}
