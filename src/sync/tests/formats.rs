//! Records are read as they were written, and nothing that is read does harm.

use super::*;
use crate::session::{NewSession, Table};
use proptest::strategy::BoxedStrategy;

/// What is read of a record, and that its length is what it says.
fn read(record: &impl Emit) -> Record {
    let mut bytes = [0xee; 300];
    let length = record.emit(&mut bytes);
    assert_eq!((length, usize::from(bytes[1])), (record.length(), record.length()));
    assert_eq!(bytes[length], 0xee, "wrote behind its end");
    let mut all = records(&bytes[..length]);
    let read = all.next().unwrap().unwrap();
    assert_eq!(all.next(), None);
    read
}

fn close<A: Wire + Arbitrary>() -> BoxedStrategy<Close<A>> {
    (session::<A>(), any::<u8>())
        .prop_map(|(s, reason)| Close {
            born: s.born,
            reason: Reason(reason),
            protocol: s.protocol,
            client: s.client,
            vip: s.vip,
            client_port: s.client_port,
            vip_port: s.vip_port,
        })
        .boxed()
}

fn touch<A: Wire + Arbitrary>() -> BoxedStrategy<Touch<A>> {
    session::<A>()
        .prop_map(|s| Touch {
            born: s.born,
            idle: s.idle,
            protocol: s.protocol,
            state: s.state,
            client: s.client,
            vip: s.vip,
            client_port: s.client_port,
            vip_port: s.vip_port,
            forward_end: s.forward_end,
            reply_end: s.reply_end,
        })
        .boxed()
}

fn persist<A: Wire + Arbitrary>() -> BoxedStrategy<Persist<A>> {
    (any::<u64>(), any::<u32>(), any::<A>(), ip())
        .prop_map(|(scope, life, client, server_ip)| Persist { scope, life, client, server_ip })
        .boxed()
}

fn hello() -> BoxedStrategy<Hello> {
    (1u64.., any::<[u64; 4]>(), 1u8.., any::<u8>(), any::<[u8; 16]>(), any::<u32>())
        .prop_map(
            |(challenge, [echo, peer_boot, stream, config], workers, flags, version, lacking)| {
                Hello {
                    challenge,
                    echo,
                    peer_boot,
                    workers,
                    flags: Flags(flags),
                    stream,
                    config,
                    version: VersionText(version),
                    lacking,
                }
            },
        )
        .boxed()
}

fn port() -> BoxedStrategy<Port> {
    let v4 = any::<Ipv4Addr>().prop_filter("means none", |a| !a.is_unspecified());
    let v6 = any::<Ipv6Addr>().prop_filter("means none", |a| !a.is_unspecified());
    (
        any::<u8>(),
        any::<[u8; 6]>(),
        prop::option::of((v4, 0u8..=32)),
        prop::option::of((v6, 0u8..=128)),
    )
        .prop_map(|(index, mac, v4, v6)| Port { index, mac, v4, v6 })
        .boxed()
}

proptest! {
    #[test]
    fn sessions_v4(s in session::<Ipv4Addr>()) {
        prop_assert_eq!(read(&s), Record::SessionV4(s));
        prop_assert!(s.length() <= Session::<Ipv4Addr>::MAX_LEN);
    }

    #[test]
    fn sessions_v6(s in session::<Ipv6Addr>()) {
        prop_assert_eq!(read(&s), Record::SessionV6(s));
        prop_assert!(s.length() <= Session::<Ipv6Addr>::MAX_LEN);
    }

    #[test]
    fn about_sessions_v4(c in close(), t in touch(), p in persist()) {
        prop_assert_eq!(read(&c), Record::CloseV4(c));
        prop_assert_eq!(read(&t), Record::TouchV4(t));
        prop_assert_eq!(read(&p), Record::PersistV4(p));
    }

    #[test]
    fn about_sessions_v6(c in close(), t in touch(), p in persist()) {
        prop_assert_eq!(read(&c), Record::CloseV6(c));
        prop_assert_eq!(read(&t), Record::TouchV6(t));
        prop_assert_eq!(read(&p), Record::PersistV6(p));
    }

    #[test]
    fn about_buckets(buckets: u128, bucket in 0u8..128, count: u32, xor: u64) {
        let begin = Begin { buckets, total: count };
        prop_assert_eq!(read(&begin), Record::Begin(begin));
        prop_assert_eq!(read(&End(buckets)), Record::End(End(buckets)));
        prop_assert_eq!(read(&Want(buckets)), Record::Want(Want(buckets)));
        let digest = Digest { bucket, count, xor };
        prop_assert_eq!(read(&digest), Record::Digest(digest));
    }

    #[test]
    fn about_streams(worker: u8, a: u64, b: u64, count in 1u16..) {
        let ack = Ack { worker, contiguous: a, highest: b };
        prop_assert_eq!(read(&ack), Record::Ack(ack));
        let nak = Nak { worker, from: a, count };
        prop_assert_eq!(read(&nak), Record::Nak(nak));
        prop_assert_eq!(read(&Gone { through: a }), Record::Gone(Gone { through: a }));
    }

    #[test]
    fn about_nodes(h in hello(), p in port()) {
        prop_assert_eq!(read(&h), Record::Hello(h));
        prop_assert_eq!(read(&p), Record::Port(p));
    }

    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(records(&bytes).count() <= bytes.len() / 2 + 1);
    }

    /// Records of all types with any fields: whatever can be read can be written, and is then read the
    /// same.
    #[test]
    fn any_fields(
        kind in prop_oneof![1u8..=11, 32u8..=37],
        mut bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 2..256),
    ) {
        bytes[0] = kind;
        bytes[1] = bytes.len() as u8;
        let all: Vec<_> = records(&bytes).collect();
        prop_assert_eq!(all.len(), 1);
        match all[0] {
            Err(malformed) => prop_assert_eq!(malformed, Malformed::Fields(kind)),
            Ok(record) => prop_assert_eq!(again(&record), record),
        }
    }

    /// A record that a later version made longer is read as far as it is known; none that ends too
    /// soon is.
    #[test]
    fn longer_and_shorter(s in session::<Ipv6Addr>(), more in 0usize..100, less in 1usize..142) {
        let mut bytes = [0; 256];
        let length = s.emit(&mut bytes);
        let longer = (length + more).min(255);
        bytes[1] = longer as u8;
        prop_assert_eq!(records(&bytes[..longer]).next(), Some(Ok(Record::SessionV6(s))));
        let shorter = length.saturating_sub(less).max(2);
        bytes[1] = shorter as u8;
        prop_assert_eq!(records(&bytes[..shorter]).next(), Some(Err(Malformed::Fields(2))));
    }
}

fn again(record: &Record) -> Record {
    match record {
        Record::SessionV4(r) => read(r),
        Record::SessionV6(r) => read(r),
        Record::CloseV4(r) => read(r),
        Record::CloseV6(r) => read(r),
        Record::TouchV4(r) => read(r),
        Record::TouchV6(r) => read(r),
        Record::PersistV4(r) => read(r),
        Record::PersistV6(r) => read(r),
        Record::Begin(r) => read(r),
        Record::End(r) => read(r),
        Record::Digest(r) => read(r),
        Record::Hello(r) => read(r),
        Record::Ack(r) => read(r),
        Record::Nak(r) => read(r),
        Record::Gone(r) => read(r),
        Record::Want(r) => read(r),
        Record::Port(r) => read(r),
        Record::Unknown(_) => *record,
    }
}

#[test]
fn what_cannot_be_read_is_skipped_as_far_as_possible() {
    let nak = |count: u16| {
        let mut bytes = [0; Nak::LEN];
        Nak { worker: 1, from: 2, count }.emit(&mut bytes);
        bytes.to_vec()
    };
    let good = Ok(Record::Nak(Nak { worker: 1, from: 2, count: 3 }));
    let all = |parts: &[&[u8]]| records(&parts.concat()).collect::<Vec<_>>();
    assert_eq!(all(&[]), []);
    assert_eq!(
        all(&[&nak(3), &[200, 2], &nak(0), &[99, 4, 1, 2], &nak(3)]),
        [good, Ok(Record::Unknown(200)), Err(Malformed::Fields(34)), Ok(Record::Unknown(99)), good]
    );
    // A length that cannot be: nothing behind it is read.
    for bad in [&[34][..], &[34, 0], &[34, 1], &[34, 14, 0]] {
        assert_eq!(all(&[&nak(3), bad]), [good, Err(Malformed::Length)], "{bad:?}");
    }
    assert_eq!(all(&[&[34, 0], &nak(3)]), [Err(Malformed::Length)]);
}

#[test]
fn fields_that_mean_nothing_are_malformed() {
    // The fields of a session by their offset: protocol, state, mode, doubt, extras.
    let session = example();
    let mut good = [0; 255];
    let length = session.emit(&mut good);
    for (at, value) in [(6, 5), (7, 11), (7, 0), (6, 17), (8, 8), (9, 3), (9, 0x40), (13, 0x40)] {
        let mut bytes = good;
        bytes[at] = value;
        assert_eq!(
            records(&bytes[..length]).collect::<Vec<_>>(),
            [Err(Malformed::Fields(1))],
            "{value} at {at}"
        );
    }
    // Bits of a later version say that more follows.
    let mut later = good;
    later[11] |= 0xfc;
    assert_eq!(records(&later[..length]).next(), Some(Ok(Record::SessionV4(session))));
    // A bucket, a challenge, no workers, nothing asked for, prefixes.
    let malformed = |record: &dyn Fn(&mut [u8]) -> usize, at: usize, value: u8| {
        let mut bytes = [0; 255];
        let length = record(&mut bytes);
        bytes[at] = value;
        let kind = bytes[0];
        assert_eq!(records(&bytes[..length]).next(), Some(Err(Malformed::Fields(kind))));
    };
    malformed(&|b| Digest { bucket: 0, count: 0, xor: 0 }.emit(b), 2, 128);
    let port = Port { index: 0, mac: [0; 6], v4: None, v6: None };
    malformed(&|b| port.emit(b), 13, 33);
    malformed(&|b| port.emit(b), 30, 129);
    let about = About {
        workers: 1,
        flags: Flags::default(),
        stream: 0,
        config: 0,
        version: VersionText::default(),
        lacking: 0,
    };
    let hello = Association::hello_of_stream(1, 0, &about);
    malformed(&|b| hello.emit(b), 9, 0);
    malformed(&|b| hello.emit(b), 26, 0);
}

/// The layout of the table in [`super::super`], byte by byte.
#[test]
fn layout_of_a_session() {
    let mut bytes = [0; 94];
    assert_eq!(example().emit(&mut bytes), 94);
    #[rustfmt::skip]
    assert_eq!(bytes, [
        1, 94, 0x10, 0x11, 0x12, 0x13, 6, 3, 1, 0x11, 0x7a, 3, 0, 0x34,
        0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0,
        192, 0, 2, 1, 192, 0, 2, 2, 10, 0, 0, 3, 0, 0, 0, 0,
        0x10, 1, 0x10, 2, 0x10, 3, 0x10, 4,
        0xa0, 0, 0, 1, 0xa0, 0, 0, 2,
        0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 8,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 4,
    ]);
}

fn example() -> Session<Ipv4Addr> {
    Session {
        born: 0x1011_1213,
        protocol: Protocol::Tcp,
        state: TcpState::Established,
        mode: Mode::FullNat,
        doubt: Doubt::from_bits(0x11).unwrap(),
        scales: Scales::from_bits(0x7a),
        extras: Extras::SHIFTED.with(Extras::PROXIED).with(Extras::MARKED),
        idle: 0x100,
        age: 0x200,
        timeout: 0x300,
        client: Ipv4Addr::new(192, 0, 2, 1),
        vip: Ipv4Addr::new(192, 0, 2, 2),
        local: Ipv4Addr::new(10, 0, 0, 3),
        server: Ipv4Addr::UNSPECIFIED,
        client_port: 0x1001,
        vip_port: 0x1002,
        local_port: 0x1003,
        server_port: 0x1004,
        forward_end: 0xa000_0001,
        reply_end: 0xa000_0002,
        shifts: Some(Shifts { forward: 4, reply: 5, time: 6, at: 7, note: 8 }),
        server_ip: Some(Ipv4Addr::new(10, 0, 0, 4).into()),
    }
}

/// Records of nodes that did not have the last field yet.
#[test]
fn what_was_added_at_the_end_may_be_missing() {
    let about = About {
        workers: 1,
        flags: Flags::LACKING,
        stream: 3,
        config: 4,
        version: VersionText::new("0.1.0"),
        lacking: 5,
    };
    let hello = Association::hello_of_stream(1, 2, &about);
    let mut bytes = [0; 255];
    assert_eq!((hello.emit(&mut bytes), bytes[63]), (64, 5));
    bytes[1] = 60;
    let earlier = Hello { lacking: 0, ..hello };
    assert_eq!(records(&bytes[..60]).next(), Some(Ok(Record::Hello(earlier))));
    let begin = Begin { buckets: 6, total: 7 };
    assert_eq!((begin.emit(&mut bytes), bytes[21]), (22, 7));
    bytes[1] = 18;
    let earlier = Begin { total: 0, ..begin };
    assert_eq!(records(&bytes[..18]).next(), Some(Ok(Record::Begin(earlier))));
}

#[test]
fn text_of_a_version() {
    for (text, shown) in
        [("0.1.0", "0.1.0"), ("", ""), ("0123456789abcdefgh", "0123456789abcdef"), ("1\né", "1")]
    {
        assert_eq!(VersionText::new(text).as_str(), shown);
    }
    // A character is not cut in two.
    assert_eq!(VersionText::new("0123456789abcdeé").0[15], 0);
}

/// A table with the session that a record speaks of, but for what is not in [`NewSession`].
fn table_with(s: &Session<Ipv4Addr>, now: u32) -> (Table<Ipv4Addr>, crate::session::SessionId) {
    let mut table = Table::new(16, 1);
    let new = NewSession {
        client: s.client,
        vip: s.vip,
        local: s.local,
        server: s.server,
        client_port: s.client_port,
        vip_port: s.vip_port,
        local_port: s.local_port,
        server_port: s.server_port,
        protocol: s.protocol,
        state: s.state,
        mode: s.mode,
        timeout: s.timeout,
        service: Default::default(),
        server_id: Default::default(),
        forward_hop: Default::default(),
        reply_hop: Default::default(),
        delta_ip: 0,
        delta_transport: 0,
    };
    let id = table.insert(new, now).unwrap();
    (table, id)
}

#[test]
fn the_record_of_an_entry() {
    let expected = Session { server_ip: None, ..example() };
    let start = u32::MAX - 0x1ff;
    let (mut table, id) = table_with(&expected, start);
    let now = start.wrapping_add(expected.age);
    expected.shifts.unwrap().put(table.aside_mut(id));
    let entry = table.get_mut(id);
    entry.last_seen = now.wrapping_sub(expected.idle);
    (entry.doubt, entry.scales, entry.extras) = (expected.doubt, expected.scales, expected.extras);
    (entry.forward_end, entry.reply_end) = (expected.forward_end, expected.reply_end);
    let born = expected.born;
    assert_eq!(Session::from_entry(table.get(id), table.aside(id), born, now), expected);
    // Seen after now: it is not idle.
    table.get_mut(id).last_seen = now.wrapping_add(3);
    assert_eq!(Session::from_entry(table.get(id), table.aside(id), born, now).idle, 0);
    assert_eq!(Touch::from_entry(table.get(id), born, now).idle, 0);
    *table.aside_mut(id) = {
        let mut none = *table.aside(id);
        Shifts::default().put(&mut none);
        none
    };
    assert_eq!(Session::from_entry(table.get(id), table.aside(id), born, now).shifts, None);
    // All of them speak of the same key.
    let key = table.get(id).forward_key();
    assert_eq!(expected.forward_key(), key);
    assert_eq!(Touch::from_entry(table.get(id), born, now).forward_key(), key);
    assert_eq!(Close::from_entry(table.get(id), born, Reason::EXPIRED).forward_key(), key);
}

#[test]
fn identity_is_of_what_never_changes() {
    let s = example();
    let (mut table, id) = table_with(&s, 0);
    let is = identity(table.get(id), s.born);
    assert_eq!(is, s.identity());
    let entry = table.get_mut(id);
    (entry.last_seen, entry.state, entry.timeout) = (9, TcpState::FinBoth, 7);
    (entry.forward_end, entry.reply_end, entry.extras) = (1, 2, Extras::TOLD);
    (entry.doubt, entry.scales) = (Doubt::OF_ADOPTION, Scales::WIDEST);
    assert_eq!(identity(table.get(id), s.born), is);
    assert_ne!(identity(table.get(id), s.born + 1), is);
    // Both nodes have to agree on it, whatever they run on.
    assert_eq!(is, 0x3762_c9af_06ef_f50c);
}

proptest! {
    /// Whatever bit of it changes, about half of the bits of the identity do.
    #[test]
    fn identity_depends_on_every_bit(s in session::<Ipv6Addr>(), bit in 0u32..128, which in 0usize..11) {
        let mut other = s;
        let (wide, port, word) = (1u128 << bit, 1u16 << (bit % 16), 1u32 << (bit % 32));
        let flip = |a: &mut Ipv6Addr| *a = Ipv6Addr::from_bits(a.to_bits() ^ wide);
        match which {
            0 => flip(&mut other.client),
            1 => flip(&mut other.vip),
            2 => flip(&mut other.local),
            3 => flip(&mut other.server),
            4 => other.client_port ^= port,
            5 => other.vip_port ^= port,
            6 => other.local_port ^= port,
            7 => other.server_port ^= port,
            8 => other.born ^= word,
            9 => other.mode = Mode::from_bits(s.mode as u8 ^ 1 << (bit % 3)).unwrap(),
            _ => other.protocol =
                if s.protocol == Protocol::Icmp { Protocol::Udp } else { Protocol::Icmp },
        }
        let differ = (s.identity() ^ other.identity()).count_ones();
        prop_assert!((10..=54).contains(&differ), "{differ} bits");
    }
}

/// The identities of sessions that differ little: none is another's, and sets of them have other sums.
#[test]
fn identities_of_neighbours() {
    let mut seen = std::collections::HashSet::new();
    let mut sums = std::collections::HashSet::new();
    let mut sum = 0;
    for client in 0..64u32 {
        for client_port in 1000..1256 {
            let s = Session {
                client: Ipv4Addr::from_bits(0x0a00_0000 | client),
                client_port,
                born: u32::from(client_port) + client,
                ..example()
            };
            assert!(seen.insert(s.identity()));
            sum ^= s.identity();
            assert!(sums.insert(sum));
        }
    }
}
