use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::entry::{HopRef, ServerId, ServiceId};
use super::*;
use crate::session::Mode;
use crate::wire::flow::Protocol;

type Result<T = SessionId> = std::result::Result<T, InsertError>;

/// A NAT session of client `n` with server `n % 16`.
fn nat(n: u32, timeout: u32) -> NewSession<Ipv4Addr> {
    let client = Ipv4Addr::from(0x0a00_0000 + n);
    NewSession {
        client,
        vip: Ipv4Addr::new(192, 0, 2, 10),
        local: client,
        server: Ipv4Addr::new(10, 99, 0, (n % 16) as u8),
        client_port: 40_000,
        vip_port: 80,
        local_port: 40_000,
        server_port: 8080,
        protocol: Protocol::Tcp,
        state: TcpState::SynSent,
        mode: Mode::Nat,
        timeout,
        service: ServiceId(1),
        server_id: ServerId((n % 16) as u16),
        forward_hop: HopRef { index: 3, generation: 4 },
        reply_hop: HopRef { index: 5, generation: 6 },
        delta_ip: 0x1234,
        delta_transport: 0x5678,
    }
}

fn forward_key(s: &NewSession<Ipv4Addr>) -> FlowKey<Ipv4Addr> {
    s.into_entry(0).forward_key()
}

fn reply_key(s: &NewSession<Ipv4Addr>) -> FlowKey<Ipv4Addr> {
    s.into_entry(0).reply_key()
}

fn find(table: &Table<Ipv4Addr>, key: &FlowKey<Ipv4Addr>) -> Option<(SessionId, Direction)> {
    table.find(table.hash(key), key)
}

/// Asserts that nothing is left of any session, in index, slab and wheel.
fn assert_nothing_left<A: Address>(table: &Table<A>) {
    assert_eq!(table.len(), 0);
    assert!(table.is_empty());
    assert_eq!(table.index.census(), (0, 0));
    assert!(table.slab.iter().all(|e| !e.live));
    assert!(table.wheel.is_empty());
    let mut free = 0;
    let mut at = table.free;
    while at != NIL {
        free += 1;
        at = table.asides[at as usize].next;
    }
    assert_eq!(free, table.fresh);
}

#[test]
fn both_directions_are_found_in_stages_and_at_once() -> Result<()> {
    let mut table = Table::<Ipv4Addr>::new(100, 1);
    let session = nat(7, 5000);
    let id = table.insert(session, 1_000)?;
    for (key, direction) in
        [(forward_key(&session), Direction::Forward), (reply_key(&session), Direction::Reply)]
    {
        let hash = table.hash(&key);
        table.prefetch_bucket(hash);
        assert_eq!(table.candidate(hash), Some((id, direction)));
        table.prefetch_entry(id);
        assert!(table.matches(id, direction, &key));
        assert_eq!(table.find(hash, &key), Some((id, direction)));
        for other in [
            FlowKey { src: Ipv4Addr::BROADCAST, ..key },
            FlowKey { dst: Ipv4Addr::BROADCAST, ..key },
            FlowKey { sport: 1, ..key },
            FlowKey { dport: 1, ..key },
            FlowKey { protocol: Protocol::Udp, ..key },
        ] {
            assert!(!table.matches(id, direction, &other), "{other}");
            assert_eq!(find(&table, &other), None);
        }
    }
    let entry = *table.get(id);
    assert_eq!((entry.last_seen, entry.timeout), (1_000, 5_000));
    assert_eq!(table.aside(id).created, 1_000);
    assert_eq!((entry.client, entry.server), (session.client, session.server));
    assert_eq!((entry.delta_ip, entry.delta_transport), (0x1234, 0x5678));
    assert_eq!(table.remove(id).client, session.client);
    assert!(!table.matches(id, Direction::Forward, &forward_key(&session)));
    assert_nothing_left(&table);
    Ok(())
}

#[test]
fn ipv6_sessions() -> Result<()> {
    let mut table = Table::<Ipv6Addr>::new(1000, 1);
    let address = |n: u128| Ipv6Addr::from(0x2001_0db8 << 96 | n);
    let old = nat(0, 100);
    let session = |n: u128| NewSession::<Ipv6Addr> {
        client: address(n),
        vip: address(1 << 70),
        local: address(n),
        server: address(2 << 70),
        client_port: 1,
        vip_port: 2,
        local_port: 1,
        server_port: 4,
        protocol: old.protocol,
        state: old.state,
        mode: old.mode,
        timeout: 100,
        service: old.service,
        server_id: old.server_id,
        forward_hop: old.forward_hop,
        reply_hop: old.reply_hop,
        delta_ip: 0,
        delta_transport: 0,
    };
    for n in 0..1000 {
        table.insert(session(n), 0)?;
    }
    for n in 0..1000 {
        let entry = session(n).into_entry(0);
        let (id, direction) =
            table.find(table.hash(&entry.reply_key()), &entry.reply_key()).unwrap();
        assert_eq!((table.get(id).client, direction), (address(n), Direction::Reply));
        table.prefetch_entry(id);
    }
    assert_eq!(table.expire(256, 10_000, |_, _| ()), 1000);
    assert_nothing_left(&table);
    Ok(())
}

#[test]
fn a_key_in_use_is_refused_in_either_role() -> Result<()> {
    let mut table = Table::<Ipv4Addr>::new(100, 1);
    let first = nat(1, 1000);
    let id = table.insert(first, 0)?;
    let index_before = table.index.census();

    assert_eq!(table.insert(first, 0), Err(InsertError::ForwardInUse));
    let other_client = NewSession { client_port: 1, ..first };
    assert_eq!(table.insert(other_client, 0), Err(InsertError::ReplyInUse));
    // A client whose packets look like the server's replies.
    let mimic = NewSession {
        client: first.server,
        client_port: first.server_port,
        vip: first.local,
        vip_port: first.local_port,
        ..nat(2, 1000)
    };
    assert_eq!(table.insert(mimic, 0), Err(InsertError::ForwardInUse));
    // A session that would be its own reply.
    let same = NewSession {
        server: Ipv4Addr::new(1, 1, 1, 1),
        client: Ipv4Addr::new(1, 1, 1, 1),
        local: first.vip,
        local_port: 80,
        server_port: 40_000,
        ..nat(3, 1000)
    };
    assert_eq!(table.insert(same, 0), Err(InsertError::ReplyInUse));
    // UDP with the same addresses is another flow.
    let udp = table.insert(NewSession { protocol: Protocol::Udp, ..first }, 0)?;

    table.remove(udp);
    assert_eq!(table.index.census(), index_before);
    assert_eq!(table.len(), 1);
    table.remove(id);
    table.insert(other_client, 0)?;
    Ok(())
}

#[test]
fn direct_return_indexes_the_forward_key_only() -> Result<()> {
    let mut table = Table::<Ipv4Addr>::new(100, 1);
    let session = NewSession { mode: Mode::Dr, ..nat(1, 1000) };
    let id = table.insert(session, 0)?;
    assert_eq!(find(&table, &forward_key(&session)), Some((id, Direction::Forward)));
    assert_eq!(find(&table, &reply_key(&session)), None);
    assert_eq!(table.index.census().0, 1);
    // Another port of the same server may have the same reply tuple: it is never looked up.
    table.insert(NewSession { vip_port: 81, ..session }, 0)?;
    assert_eq!(table.expire(2000, 10, |_, _| ()), 2);
    assert_nothing_left(&table);
    Ok(())
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() -> Result<()> {
    for capacity in [0, 1, 2, 3, 10, 100, 50_000] {
        let mut table = Table::<Ipv4Addr>::new(capacity, 9);
        for n in 0..capacity as u32 {
            table.insert(nat(n, 1000), 0)?;
        }
        assert_eq!(table.insert(nat(1 << 20, 1000), 0), Err(InsertError::Full));
        assert_eq!((table.len(), table.capacity()), (capacity, capacity));
        for n in 0..capacity as u32 {
            let (id, _) = find(&table, &reply_key(&nat(n, 0))).unwrap();
            assert_eq!(table.get(id).client, nat(n, 0).client);
        }
        let mut expired = 0;
        assert_eq!(table.expire(5000, usize::MAX, |_, _| expired += 1), capacity);
        assert_eq!(expired, capacity);
        assert_nothing_left(&table);
    }
    Ok(())
}

#[test]
fn memory_per_session() {
    let v4 = Table::<Ipv4Addr>::new(100_000, 0).memory_bytes() as f64 / 100_000.0;
    assert!((112.0..113.0).contains(&v4), "{v4} bytes per IPv4 session");
    let v6 = Table::<Ipv6Addr>::new(100_000, 0).memory_bytes() as f64 / 100_000.0;
    assert!((176.0..177.0).contains(&v6), "{v6} bytes per IPv6 session");
}

#[test]
fn advice_names_the_blocks_that_the_table_keeps() {
    let mut advised = Vec::new();
    let table =
        Table::<Ipv4Addr>::with_advice(1000, 0, |address, len| advised.push((address, len)));
    assert_eq!(advised, table.memory_blocks());
    // The spare entry included.
    assert_eq!(advised[1].1, 64_064);
}

#[test]
fn a_packet_prolongs_and_a_shorter_timeout_ends_sooner() -> Result<()> {
    let start = u32::MAX - 10_000; // the clock wraps while the sessions live
    let at = |ms: u32| start.wrapping_add(ms);
    let mut table = Table::<Ipv4Addr>::new(10, 1);
    let busy = table.insert(nat(1, 5_000), start)?;
    let closing = table.insert(nat(2, 900_000), start)?;
    let growing = table.insert(nat(3, 5_000), start)?;
    let mut ended = Vec::new();
    for ms in (0..1_000_000).step_by(100) {
        if ms <= 12_000 {
            table.get_mut(busy).last_seen = at(ms);
        }
        if ms == 2_000 {
            table.set_state(closing, TcpState::FinBoth, 10_000, at(ms));
            table.set_state(growing, TcpState::Established, 900_000, at(ms));
            assert_eq!(table.get(closing).state, TcpState::FinBoth);
        }
        table.expire(at(ms), 16, |entry, _| ended.push((entry.client.octets()[3], ms)));
    }
    // Never early; late by less than a tick of 128 ms and a step of 100 ms.
    assert_eq!(ended.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 1, 3]);
    for ((_, ended), due) in ended.into_iter().zip([12_000, 17_000, 902_000]) {
        assert!((due..due + 228).contains(&ended), "due {due}, ended {ended}");
    }
    assert_nothing_left(&table);
    Ok(())
}

#[test]
fn expiry_is_bounded_by_budget_and_ticks() -> Result<()> {
    let mut table = Table::<Ipv4Addr>::new(1000, 1);
    for n in 0..1000 {
        table.insert(nat(n, 1_000), 0)?;
    }
    assert_eq!(table.expire(999, 100, |_, _| ()), 0);
    assert_eq!(table.expire(1_024, 100, |_, _| ()), 100);
    assert_eq!(table.expire(1_024, 0, |_, _| ()), 0);
    // Sessions come and go while a slot is half worked off.
    let (id, _) = find(&table, &forward_key(&nat(3, 0))).unwrap();
    table.remove(id);
    table.insert(nat(5000, 100_000), 1_024)?;
    assert_eq!(table.expire(1_024, 10_000, |_, _| ()), 899);
    assert_eq!(table.len(), 1);
    // After a pause of an hour it catches up 64 ticks at a time, and finds the session where a slot
    // of the second level begins: at 98,304 ms.
    let mut calls = 0;
    while table.expire(3_600_000, 10, |_, _| ()) == 0 {
        calls += 1;
    }
    assert_eq!(calls, (98_304 - 1_024) / 128 / 64);
    assert_nothing_left(&table);
    Ok(())
}

#[test]
fn a_walk_visits_each_session_once_in_bounded_steps() -> Result<()> {
    let mut table = Table::<Ipv4Addr>::new(100, 1);
    let ids: Vec<_> = (0..50).map(|n| table.insert(nat(n, 1000), 0).unwrap()).collect();
    for id in ids.iter().step_by(3) {
        table.remove(*id);
    }
    let (mut cursor, mut seen, mut calls) = (0, Vec::new(), 1);
    while !table.walk(&mut cursor, 8, |id, entry| {
        assert_eq!(table.get(id).client, entry.client);
        seen.push(id);
    }) {
        calls += 1;
    }
    let kept: Vec<_> =
        ids.iter().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, id)| *id).collect();
    assert_eq!((seen, calls), (kept, 7));
    Ok(())
}

/// The table's behaviour, as a list.
#[derive(Default)]
struct Model {
    sessions: Vec<ModelSession>,
}

struct ModelSession {
    id: SessionId,
    new: NewSession<Ipv4Addr>,
    last_seen: u32,
    timeout: u32,
}

impl ModelSession {
    /// Milliseconds that it has been due for; negative: still to go.
    fn overdue(&self, now: u32) -> i32 {
        now.wrapping_sub(self.last_seen.wrapping_add(self.timeout)) as i32
    }

    fn keys(&self) -> Vec<(FlowKey<Ipv4Addr>, Direction)> {
        let mut keys = vec![(forward_key(&self.new), Direction::Forward)];
        if self.new.mode != Mode::Dr {
            keys.push((reply_key(&self.new), Direction::Reply));
        }
        keys
    }
}

impl Model {
    fn find(&self, key: &FlowKey<Ipv4Addr>) -> Option<(SessionId, Direction)> {
        self.sessions.iter().find_map(|s| {
            s.keys().iter().find(|(k, _)| k == key).map(|&(_, direction)| (s.id, direction))
        })
    }

    fn refusal(&self, new: &NewSession<Ipv4Addr>, capacity: usize) -> Option<InsertError> {
        if self.sessions.len() == capacity {
            Some(InsertError::Full)
        } else if self.find(&forward_key(new)).is_some() {
            Some(InsertError::ForwardInUse)
        } else if new.mode != Mode::Dr
            && (self.find(&reply_key(new)).is_some() || forward_key(new) == reply_key(new))
        {
            Some(InsertError::ReplyInUse)
        } else {
            None
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(NewSession<Ipv4Addr>),
    Remove(usize),
    Packet(usize),
    SetState(usize, u32),
    Lookup(NewSession<Ipv4Addr>),
    /// Time passes; then `expire` with this budget, as often as it takes when `None`.
    Pass(u32, Option<usize>),
    Walk(usize),
}

mod strategies {
    use super::*;
    use proptest::prelude::*;

    /// Sessions out of so few addresses that their keys often meet, also in the other role.
    pub(super) fn session() -> impl Strategy<Value = NewSession<Ipv4Addr>> {
        let address = || (0u8..3).prop_map(|n| Ipv4Addr::new(10, 0, 0, n));
        let port = || 0u16..3;
        (
            (address(), address(), address(), address()),
            (port(), port(), port(), port()),
            prop::sample::select(&[Mode::Nat, Mode::FullNat, Mode::Dr][..]),
            prop::sample::select(&[Protocol::Tcp, Protocol::Udp][..]),
            timeout(),
        )
            .prop_map(|(addresses, ports, mode, protocol, timeout)| {
                let mut new = nat(0, timeout);
                (new.client, new.vip, new.local, new.server) = addresses;
                (new.client_port, new.vip_port, new.local_port, new.server_port) = ports;
                (new.mode, new.protocol) = (mode, protocol);
                if mode != Mode::FullNat {
                    (new.local, new.local_port) = (new.client, new.client_port);
                }
                new
            })
    }

    fn timeout() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..500, 1_000u32..100_000, 100_000u32..20_000_000]
    }

    pub(super) fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => session().prop_map(Op::Insert),
            2 => any::<usize>().prop_map(Op::Remove),
            4 => any::<usize>().prop_map(Op::Packet),
            3 => (any::<usize>(), timeout()).prop_map(|(n, t)| Op::SetState(n, t)),
            3 => session().prop_map(Op::Lookup),
            2 => (0u32..400, prop::option::of(0usize..6)).prop_map(|(t, b)| Op::Pass(t, b)),
            2 => (0u32..40_000, prop::option::of(0usize..6)).prop_map(|(t, b)| Op::Pass(t, b)),
            1 => (0u32..9_000_000).prop_map(|t| Op::Pass(t, None)),
            1 => (1usize..20).prop_map(Op::Walk),
        ]
    }
}

/// Calls `expire` and compares with the model; with a budget of `None`, until it has caught up.
fn expire(
    table: &mut Table<Ipv4Addr>,
    model: &mut Model,
    now: u32,
    behind: &mut u32,
    budget: Option<usize>,
) {
    let calls = if budget.is_some() { 1 } else { *behind / (TICKS_PER_CALL * 128) + 2 };
    for _ in 0..calls {
        let mut ended = Vec::new();
        let count = table.expire(now, budget.unwrap_or(1000), |entry, _| ended.push(*entry));
        assert_eq!(count, ended.len());
        assert!(count <= budget.unwrap_or(1000));
        for entry in ended {
            let i = model
                .sessions
                .iter()
                .position(|s| forward_key(&s.new) == entry.forward_key())
                .expect("only sessions that exist expire");
            let session = model.sessions.swap_remove(i);
            assert!(session.overdue(now) >= 0, "{} ms early", -session.overdue(now));
        }
    }
    if budget.is_none() {
        *behind = 0;
        for session in &model.sessions {
            assert!(session.overdue(now) < 128, "{} ms late", session.overdue(now));
        }
    }
}

proptest::proptest! {
    /// Random operations with time, against the model; at the end all timeouts run out and nothing
    /// may be left.
    #[test]
    fn behaves_like_the_model(
        capacity in 1usize..40,
        seed: u64,
        start in proptest::prop_oneof![0u32.., proptest::prelude::Just(u32::MAX - 100_000)],
        ops in proptest::collection::vec(strategies::op(), 1..400),
    ) {
        let mut table = Table::<Ipv4Addr>::new(capacity, seed);
        let mut model = Model::default();
        let (mut now, mut behind) = (start, 0);
        for op in ops {
            let chosen = |n: usize| n.checked_rem(model.sessions.len());
            match op {
                Op::Insert(new) => {
                    let result = table.insert(new, now);
                    match model.refusal(&new, capacity) {
                        Some(error) => assert_eq!(result, Err(error)),
                        None => model.sessions.push(ModelSession {
                            id: result.unwrap(), new, last_seen: now, timeout: new.timeout,
                        }),
                    }
                }
                Op::Remove(n) => if let Some(i) = chosen(n) {
                    let session = model.sessions.swap_remove(i);
                    assert_eq!(table.remove(session.id).forward_key(), forward_key(&session.new));
                },
                Op::Packet(n) => if let Some(i) = chosen(n) {
                    let session = &mut model.sessions[i];
                    session.last_seen = now;
                    table.get_mut(session.id).last_seen = now;
                },
                Op::SetState(n, timeout) => if let Some(i) = chosen(n) {
                    let session = &mut model.sessions[i];
                    (session.last_seen, session.timeout) = (now, timeout);
                    table.set_state(session.id, TcpState::Established, timeout, now);
                },
                Op::Lookup(new) => for key in [forward_key(&new), reply_key(&new)] {
                    assert_eq!(find(&table, &key), model.find(&key));
                },
                Op::Pass(ms, budget) => {
                    now = now.wrapping_add(ms);
                    behind += ms;
                    expire(&mut table, &mut model, now, &mut behind, budget);
                }
                Op::Walk(budget) => {
                    let (mut cursor, mut seen) = (0, Vec::new());
                    while !table.walk(&mut cursor, budget, |id, _| seen.push(id)) {}
                    let mut ids: Vec<_> = model.sessions.iter().map(|s| s.id).collect();
                    ids.sort_unstable();
                    assert_eq!(seen, ids);
                }
            }
            assert_eq!(table.len(), model.sessions.len());
            for session in &model.sessions {
                for (key, direction) in session.keys() {
                    assert_eq!(find(&table, &key), Some((session.id, direction)));
                }
                let entry = table.get(session.id);
                assert_eq!((entry.last_seen, entry.timeout), (session.last_seen, session.timeout));
            }
        }
        now = now.wrapping_add(20_000_128);
        behind += 20_000_128;
        expire(&mut table, &mut model, now, &mut behind, None);
        assert_nothing_left(&table);
    }

    /// Far more keys in few buckets than any traffic has: what is refused leaves no trace.
    #[test]
    fn an_index_that_is_full_refuses(seed: u64, removals in proptest::collection::vec(0usize..60, 60)) {
        let mut table = Table::<Ipv4Addr>::new(60, seed);
        table.index = Index::new(1, |_, _| ());
        let mut ids = Vec::new();
        let (mut refused, mut n) = (0, 0);
        for removal in removals {
            while ids.len() < 60 {
                n += 1;
                match table.insert(nat(n, 1000), 0) {
                    Ok(id) => ids.push((n, id)),
                    Err(error) => {
                        assert_eq!(error, InsertError::IndexFull);
                        refused += 1;
                        break;
                    }
                }
            }
            assert_eq!(table.index.census().0, 2 * ids.len());
            for &(n, id) in &ids {
                let session = nat(n, 0);
                assert_eq!(find(&table, &forward_key(&session)), Some((id, Direction::Forward)));
                assert_eq!(find(&table, &reply_key(&session)), Some((id, Direction::Reply)));
            }
            let (_, id) = ids.swap_remove(removal % ids.len());
            table.remove(id);
        }
        assert!(refused > 0);
        assert_eq!(table.expire(5000, 100, |_, _| ()), ids.len());
        assert_nothing_left(&table);
    }
}
