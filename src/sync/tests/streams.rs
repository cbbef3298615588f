//! A sender and a receiver with a bad line between them, in virtual time.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// A small random generator (xorshift), so that a failure can be had again by its seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What goes over the line, and when it arrives.
#[derive(Default)]
struct Line {
    under_way: BTreeMap<(u32, u64), Vec<u8>>,
    count: u64,
}

impl Line {
    fn send(&mut self, random: &mut Random, quality: &Quality, now: u32, bytes: &[u8]) {
        for _ in 0..if random.percent(quality.duplicates) { 2 } else { 1 } {
            if random.percent(quality.loss) {
                continue;
            }
            let late = random.below(u64::from(quality.delay) + 1) as u32;
            self.count += 1;
            self.under_way.insert((now + late, self.count), bytes.to_vec());
        }
    }

    fn arrived(&mut self, now: u32) -> Vec<Vec<u8>> {
        let later = self.under_way.split_off(&(now + 1, 0));
        std::mem::replace(&mut self.under_way, later).into_values().collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Quality {
    loss: u64,
    duplicates: u64,
    delay: u32,
}

struct Outcome {
    sent: u64,
    applied: BTreeSet<u64>,
    lost: bool,
    missed: u64,
    lag: (u64, u32),
}

/// Sends records for a second over a line of this quality, then half a second over a perfect one. The
/// receiver asks, acknowledges and is greeted over the same line.
fn run(seed: u64, quality: Quality, kept: usize, per_ms: u64) -> Outcome {
    const HEARD: u32 = 100;
    let (mut random, keys) = (Random::new(seed), keys());
    let mut sender = Sender::new(0, 0, 1, kept);
    sender.associate();
    let mut receiver = Receiver::begin(0, 1);
    let (mut there, mut back) = (Line::default(), Line::default());
    let mut outcome =
        Outcome { sent: 0, applied: BTreeSet::new(), lost: false, missed: 0, lag: (0, 0) };
    for now in 0..1500 {
        let perfect = Quality { loss: 0, duplicates: 0, delay: 0 };
        let quality = if now < 1000 { quality } else { perfect };
        if now < 1000 {
            for _ in 0..random.below(2 * per_ms + 1) {
                outcome.sent += 1;
                let record = Digest { bucket: 0, count: 0, xor: outcome.sent };
                if !sender.push_new(&record, now) {
                    let full = sender.close(&keys).unwrap();
                    there.send(&mut random, &quality, now, full);
                    assert!(sender.push_new(&record, now));
                }
            }
        }
        if sender.is_due(now) {
            let datagram = sender.close(&keys).unwrap();
            there.send(&mut random, &quality, now, datagram);
        }
        let control =
            |line: &mut Line, random: &mut Random, record: &dyn Fn(&mut [u8]) -> usize| {
                let mut bytes = [0; 100];
                let length = record(&mut bytes);
                line.send(random, &quality, now, &bytes[..length]);
            };
        // The highest sequence stands in a HELLO; here in an ACK of the sender's own stream.
        if now % HEARD == 0 {
            let highest = sender.highest();
            let ack = Ack { worker: 0, contiguous: 0, highest };
            control(&mut there, &mut random, &|b| ack.emit(b));
            let ack = receiver.ack();
            control(&mut back, &mut random, &|b| ack.emit(b));
        }
        for bytes in there.arrived(now) {
            if let Ok((header, content)) = open(&bytes, &keys) {
                if receiver.take(header.sequence).is_fresh() {
                    for record in records(content) {
                        let Ok(Record::Digest(digest)) = record else { panic!("{record:?}") };
                        assert!(outcome.applied.insert(digest.xor), "applied twice");
                    }
                }
                continue;
            }
            match records(&bytes).next() {
                Some(Ok(Record::Gone(gone))) => receiver.gone(gone.through),
                Some(Ok(Record::Ack(ack))) => receiver.heard_highest(ack.highest),
                other => panic!("{other:?}"),
            }
        }
        let mut asked = 0;
        while let Some(nak) = receiver.missing(now) {
            asked += 1;
            control(&mut back, &mut random, &|b| nak.emit(b));
        }
        assert!(asked <= 16);
        for bytes in back.arrived(now) {
            match records(&bytes).next() {
                Some(Ok(Record::Ack(ack))) => sender.acknowledged(ack.contiguous),
                Some(Ok(Record::Nak(nak))) => {
                    let repeated = sender.repeat(nak.from, nak.count, &keys, |datagram| {
                        there.send(&mut random, &quality, now, datagram);
                    });
                    if let Some(gone) = repeated.gone {
                        control(&mut there, &mut random, &|b| gone.emit(b));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        outcome.lost |= receiver.lost();
    }
    assert!(!receiver.has_gap(), "still waits for something");
    outcome.missed = receiver.missed();
    outcome.lag = (sender.lag(), sender.unacknowledged());
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// With as many datagrams kept as are sent everything arrives, and once.
    #[test]
    fn everything_arrives(
        seed: u64, loss in 0u64..40, duplicates in 0u64..30, delay in 0u32..20, per_ms in 1u64..30,
    ) {
        let outcome = run(seed, Quality { loss, duplicates, delay }, 2048, per_ms);
        prop_assert_eq!(outcome.applied.len() as u64, outcome.sent);
        prop_assert!(!outcome.lost);
        prop_assert_eq!(outcome.lag, (0, 0));
        if loss == 0 && delay == 0 {
            prop_assert_eq!(outcome.missed, 0);
        }
    }

    /// With few kept everything arrives once or the receiver knows that something is lost.
    #[test]
    fn everything_arrives_or_is_known_to_be_lost(
        seed: u64, loss in 0u64..90, delay in 0u32..50, per_ms in 1u64..30, kept in 2usize..100,
    ) {
        let outcome = run(seed, Quality { loss, duplicates: 10, delay }, kept, per_ms);
        prop_assert!(outcome.lost || outcome.applied.len() as u64 == outcome.sent);
        prop_assert_eq!(outcome.lag, (0, 0));
    }

    /// The receiver's bitmap agrees with a set of everything that has come.
    #[test]
    fn a_receiver_takes_each_once(
        first in 1u64..200,
        steps in prop::collection::vec((0u8..8, 0u64..6000, 0u32..30), 0..400),
    ) {
        let mut receiver = Receiver::begin(1, first);
        let (mut come, mut now) = (BTreeSet::new(), 0);
        for (what, back, ms) in steps {
            now += ms;
            let sequence = (receiver.highest() + 200).saturating_sub(back);
            match what {
                0 => receiver.gone(sequence.saturating_sub(250)),
                1 => receiver.heard_highest(sequence),
                _ => {
                    let (contiguous, highest) = (receiver.contiguous(), receiver.highest());
                    let taken = receiver.take(sequence);
                    if taken.is_fresh() {
                        prop_assert!(sequence > contiguous && come.insert(sequence));
                        prop_assert_eq!(taken == Taken::New, sequence > highest);
                    } else {
                        prop_assert!(sequence <= highest);
                        prop_assert!(taken == Taken::TooOld || come.contains(&sequence));
                        prop_assert!(sequence <= contiguous || come.contains(&sequence));
                    }
                }
            }
            let (contiguous, highest) = (receiver.contiguous(), receiver.highest());
            prop_assert!(contiguous <= highest && highest - contiguous <= 4096);
            prop_assert!(!receiver.has_gap() || !come.contains(&(contiguous + 1)));
            while let Some(nak) = receiver.missing(now) {
                prop_assert!((1..=64).contains(&nak.count));
                for sequence in nak.from..nak.from + u64::from(nak.count) {
                    prop_assert!(sequence > contiguous && sequence <= highest);
                    prop_assert!(!come.contains(&sequence));
                }
            }
        }
    }
}
