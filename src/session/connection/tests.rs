use super::super::sequence::STRIDE;
use super::*;
use Direction::{Forward, Reply};
use Outcome::{Drop, Pass, Reopen};
use TcpState::*;
use proptest::prelude::*;

const PSH: u8 = 0x08;
/// Initial sequence numbers; the client's stream crosses zero.
const CLIENT: u32 = 0xffff_fff0;
const SERVER: u32 = 5_000;

fn segment(flags: u8, seq: u32, len: u32, ack: u32) -> Segment {
    Segment { flags, seq, len, ack, scale: if flags & SYN != 0 { 7 } else { 0 } }
}

/// A new session, in front of its SYN.
fn fresh(mode: Mode) -> Connection {
    let scales = Scales::UNKNOWN;
    Connection { mode, state: SynSent, forward_end: 0, reply_end: 0, scales, doubt: Doubt::NONE }
}

fn client(flags: u8, after: u32, len: u32, acked: u32) -> Segment {
    segment(flags, CLIENT.wrapping_add(1 + after), len, SERVER.wrapping_add(1 + acked))
}

fn server(flags: u8, after: u32, len: u32, acked: u32) -> Segment {
    segment(flags, SERVER.wrapping_add(1 + after), len, CLIENT.wrapping_add(1 + acked))
}

const fn syn() -> Segment {
    Segment { flags: SYN, seq: CLIENT, len: 1, ack: 0, scale: 7 }
}

const fn syn_ack() -> Segment {
    Segment { flags: SYN | ACK, seq: SERVER, len: 1, ack: CLIENT.wrapping_add(1), scale: 7 }
}

/// After the handshake.
fn established(mode: Mode) -> Connection {
    let mut c = fresh(mode);
    assert_eq!(follow(&mut c, Forward, &syn()), Pass);
    if !mode.one_way() {
        assert_eq!(follow(&mut c, Reply, &syn_ack()), Pass);
        assert_eq!(c.state, SynReceived);
    }
    assert_eq!(follow(&mut c, Forward, &client(ACK, 0, 0, 0)), Pass);
    assert_eq!(c.state, Established);
    assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(1), SERVER + 1));
    c
}

type Step = (Direction, Segment, Outcome, TcpState);

fn conversation(c: &mut Connection, steps: &[Step]) {
    for (i, (direction, segment, outcome, state)) in steps.iter().enumerate() {
        assert_eq!(follow(c, *direction, segment), *outcome, "step {i}");
        assert_eq!(c.state, *state, "step {i}");
    }
}

#[test]
fn a_connection_from_handshake_to_close() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut c = fresh(mode);
        conversation(
            &mut c,
            &[
                (Forward, syn(), Pass, SynSent),
                (Forward, syn(), Pass, SynSent),
                (Reply, syn_ack(), Pass, SynReceived),
                (Reply, syn_ack(), Pass, SynReceived),
                (Forward, syn(), Pass, SynReceived),
                (Forward, client(ACK, 0, 0, 0), Pass, Established),
                (Reply, syn_ack(), Pass, Established),
                (Forward, client(FIN | PSH | ACK, 0, 101, 0), Pass, FinClient),
                (Forward, client(FIN | PSH | ACK, 0, 101, 0), Pass, FinClient),
                (Reply, server(ACK, 0, 1000, 101), Pass, FinClient),
                (Forward, client(ACK, 101, 0, 1000), Pass, FinClient),
                (Reply, server(FIN | ACK, 1000, 1, 101), Pass, FinBoth),
                (Reply, server(FIN | ACK, 1000, 1, 101), Pass, FinBoth),
                (Forward, client(ACK, 101, 0, 1000), Pass, FinBoth),
                (Forward, client(ACK, 101, 0, 1001), Pass, TimeWait),
                (Reply, server(FIN | ACK, 1000, 1, 101), Pass, TimeWait),
            ],
        );
        assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(102), SERVER + 1002));
        assert_eq!(c.scales.window(Forward), STRIDE);
    }
}

#[test]
fn the_server_closes_first() {
    let mut c = established(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Reply, server(FIN | ACK, 0, 11, 0), Pass, FinServer),
            (Forward, client(ACK, 0, 500, 11), Pass, FinServer),
            (Reply, server(ACK, 11, 0, 500), Pass, FinServer),
            (Forward, client(FIN | ACK, 500, 1, 11), Pass, FinBoth),
            (Reply, server(ACK, 11, 0, 501), Pass, TimeWait),
        ],
    );
}

#[test]
fn both_close_at_once() {
    let mut c = established(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Forward, client(FIN | ACK, 0, 1, 0), Pass, FinClient),
            (Reply, server(FIN | ACK, 0, 1, 0), Pass, FinBoth),
            (Forward, client(ACK, 1, 0, 1), Pass, TimeWait),
            (Reply, server(ACK, 1, 0, 1), Pass, TimeWait),
        ],
    );
}

#[test]
fn both_open_at_once() {
    let mut c = fresh(Mode::Nat);
    let server_syn = Segment { flags: SYN, ack: 0, ..syn_ack() };
    let client_syn_ack = Segment { flags: SYN | ACK, ack: SERVER + 1, ..syn() };
    conversation(
        &mut c,
        &[
            (Forward, syn(), Pass, SynSent),
            (Reply, server_syn, Pass, SynReceived),
            (Forward, client_syn_ack, Pass, Established),
            (Reply, syn_ack(), Pass, Established),
        ],
    );
    assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(1), SERVER + 1));
}

#[test]
fn reordered_segments_are_nothing_new() {
    let mut c = established(Mode::Nat);
    // The FIN overtakes the data before it.
    conversation(
        &mut c,
        &[
            (Forward, client(FIN | ACK, 3000, 1, 0), Pass, FinClient),
            (Forward, client(ACK, 0, 1500, 0), Pass, FinClient),
            (Forward, client(ACK, 1500, 1500, 0), Pass, FinClient),
            (Reply, server(ACK, 0, 0, 1500), Pass, FinClient),
        ],
    );
    assert_eq!(c.forward_end, CLIENT.wrapping_add(3002));
}

#[test]
fn a_client_alone_cannot_establish() {
    let mut c = fresh(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Forward, syn(), Pass, SynSent),
            (Forward, client(ACK, 0, 0, 0), Pass, SynSent),
            (Forward, client(FIN | ACK, 0, 1, 0), Pass, SynSent),
            (Forward, Segment { flags: SYN | ACK, ..syn() }, Pass, SynSent),
            (Reply, server(ACK, 0, 0, 0), Pass, SynSent),
            (Reply, syn_ack(), Pass, SynReceived),
            (Reply, server(ACK, 0, 0, 0), Pass, SynReceived),
        ],
    );
    for guess in [SERVER.wrapping_add(2), SERVER.wrapping_sub(EARLY_DATA), 0x8000_0000] {
        conversation(
            &mut c,
            &[
                (Forward, segment(ACK, CLIENT.wrapping_add(1), 0, guess), Pass, SynReceived),
                (Forward, segment(FIN | ACK, CLIENT.wrapping_add(1), 1, guess), Pass, SynReceived),
            ],
        );
    }
    conversation(&mut c, &[(Forward, client(FIN | ACK, 0, 1, 0), Pass, FinClient)]);
}

#[test]
fn a_client_that_began_anew() {
    let other = CLIENT.wrapping_add(0x5000_0000);
    let again = Segment { seq: other, ..syn() };
    let answer = Segment { ack: other.wrapping_add(1), ..syn_ack() };
    let ack = segment(ACK, other.wrapping_add(1), 0, SERVER + 1);
    // Before the server has answered, and after.
    let mut c = fresh(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Forward, syn(), Pass, SynSent),
            (Forward, again, Pass, SynSent),
            (Reply, answer, Pass, SynReceived),
            (Forward, ack, Pass, Established),
        ],
    );
    assert_eq!(c.forward_end, other.wrapping_add(1));
    let mut c = fresh(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Forward, syn(), Pass, SynSent),
            (Reply, syn_ack(), Pass, SynReceived),
            (Forward, again, Pass, SynReceived),
            // The server resets what it had, or answers the new one.
            (Reply, Segment { seq: 9_000_000, ..answer }, Pass, SynReceived),
            (Forward, segment(ACK, other.wrapping_add(1), 7, 9_000_001), Pass, Established),
        ],
    );
    assert_eq!((c.forward_end, c.reply_end), (other.wrapping_add(1), 9_000_001));
    // On a living connection the server asks whether that is meant, and the client resets.
    let mut c = established(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Forward, again, Pass, Established),
            (Forward, segment(RST, CLIENT.wrapping_add(1), 0, 0), Pass, Closed),
            (Forward, again, Reopen, Closed),
        ],
    );
}

#[test]
fn the_same_client_port_again() {
    let mut over = established(Mode::Nat);
    conversation(
        &mut over,
        &[
            (Forward, client(FIN | ACK, 0, 1, 0), Pass, FinClient),
            (Reply, server(FIN | ACK, 0, 1, 1), Pass, FinBoth),
        ],
    );
    let mut waiting = over;
    conversation(&mut waiting, &[(Forward, client(ACK, 1, 0, 1), Pass, TimeWait)]);
    for c in [over, waiting] {
        for ahead in [0, 1, 1000, 0x7fff_ffff] {
            let mut c = c;
            let seq = c.forward_end.wrapping_add(ahead);
            assert_eq!(follow(&mut c, Forward, &Segment { seq, ..syn() }), Reopen);
        }
        for behind in [1, 2, 0x8000_0000] {
            let mut c = c;
            let seq = c.forward_end.wrapping_sub(behind);
            assert_eq!(follow(&mut c, Forward, &Segment { seq, ..syn() }), Pass);
            // The server knows better: it accepts.
            let answer = Segment { seq: 77, ack: seq.wrapping_add(1), ..syn_ack() };
            conversation(
                &mut c,
                &[
                    (Reply, answer, Pass, SynReceived),
                    (Forward, segment(ACK, seq.wrapping_add(1), 0, 78), Pass, Established),
                ],
            );
            assert_eq!((c.forward_end, c.reply_end), (seq.wrapping_add(1), 78));
        }
    }
}

#[test]
fn a_reset_answers_a_syn() {
    let refused = segment(RST | ACK, 0, 0, CLIENT.wrapping_add(1));
    let mut c = fresh(Mode::Nat);
    conversation(&mut c, &[(Forward, syn(), Pass, SynSent)]);
    for wrong in [CLIENT.wrapping_add(2), CLIENT.wrapping_sub(0x1_0000), 0x5000_0000] {
        conversation(&mut c, &[(Reply, segment(RST | ACK, 0, 0, wrong), Drop, SynSent)]);
    }
    conversation(&mut c, &[(Reply, segment(RST, 0, 0, CLIENT.wrapping_add(1)), Drop, SynSent)]);
    let mut answered = c;
    conversation(&mut c, &[(Reply, refused, Pass, Closed), (Forward, syn(), Reopen, Closed)]);
    // It has answered, and is gone when the SYN comes again.
    conversation(
        &mut answered,
        &[(Reply, syn_ack(), Pass, SynReceived), (Reply, refused, Pass, Closed)],
    );
    // The client gives up.
    let mut c = fresh(Mode::Nat);
    conversation(
        &mut c,
        &[
            (Forward, syn(), Pass, SynSent),
            (Forward, segment(RST, CLIENT.wrapping_add(1), 0, 0), Pass, Closed),
        ],
    );
}

/// The server acknowledges something else: an old connection with the same endpoints. The client's reset
/// reaches it, whatever its number, and the next SYN is accepted.
#[test]
fn a_server_is_told_that_its_old_connection_is_gone() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
        let mut c = fresh(mode);
        let old = CLIENT.wrapping_add(0x6000_0000);
        conversation(&mut c, &[(Forward, syn(), Pass, SynSent)]);
        if mode != Mode::Dr {
            let asks = (Reply, segment(ACK, 0x1234_5678, 0, old), Pass, SynSent);
            conversation(&mut c, &[asks]);
        }
        conversation(&mut c, &[(Forward, segment(RST, old, 0, 0), Pass, SynSent)]);
        conversation(&mut c, &[(Forward, syn(), Pass, SynSent)]);
        if mode != Mode::Dr {
            conversation(&mut c, &[(Reply, syn_ack(), Pass, SynReceived)]);
            // By now it is not the server's alone to judge.
            conversation(&mut c, &[(Forward, segment(RST, old, 0, 0), Drop, SynReceived)]);
        }
    }
}

#[test]
fn a_reset_is_believed_doubted_or_dropped() {
    for direction in [Forward, Reply] {
        let next = if direction == Forward { CLIENT.wrapping_add(1) } else { SERVER + 1 };
        let reset = |at: u32| segment(RST, next.wrapping_add(at), 0, 0);
        for (at, outcome, state) in [
            (0, Pass, Closed),
            (1, Pass, Contested),
            (1_u32.wrapping_neg(), Pass, Contested),
            (STRIDE, Pass, Contested),
            (STRIDE.wrapping_neg(), Pass, Contested),
            (STRIDE + 1, Drop, Established),
            ((STRIDE + 1).wrapping_neg(), Drop, Established),
            (0x8000_0000, Drop, Established),
        ] {
            let mut c = established(Mode::Nat);
            conversation(&mut c, &[(direction, reset(at), outcome, state)]);
            assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(1), SERVER + 1));
            if state == Contested {
                let mut more = c;
                conversation(&mut more, &[(direction, reset(at), Pass, Contested)]);
                conversation(&mut more, &[(direction, reset(0), Pass, Closed)]);
                // Whoever it was meant for says that it has not accepted it.
                let challenge = match direction {
                    Forward => (Reply, server(ACK, 0, 0, 0), Pass, Established),
                    Reply => (Forward, client(ACK, 0, 0, 0), Pass, Established),
                };
                conversation(&mut c, &[challenge]);
            }
        }
    }
}

#[test]
fn what_is_out_of_the_window_restores_nothing() {
    let mut c = established(Mode::Nat);
    let far = 2 * STRIDE;
    conversation(
        &mut c,
        &[
            (Forward, segment(RST, CLIENT.wrapping_add(5), 0, 0), Pass, Contested),
            (Forward, client(ACK, far, 10, 0), Pass, Contested),
            (Forward, client(ACK, 0, 10, far), Pass, Contested),
            (Forward, syn(), Pass, Contested),
            (Reply, server(ACK, far, 10, 0), Pass, Contested),
            (Forward, client(FIN | ACK, 0, 1, 0), Pass, FinClient),
        ],
    );
}

#[test]
fn a_blind_fin_or_syn_does_nothing() {
    let blind = [
        (Forward, client(FIN | ACK, STRIDE + 1, 1, 0), Pass, Established),
        (Forward, client(FIN | ACK, 0, 1, STRIDE + 1), Pass, Established),
        (Reply, server(FIN | ACK, STRIDE + 1, 1, 0), Pass, Established),
        (Reply, server(FIN | ACK, 0, 1, STRIDE + 1), Pass, Established),
        (Forward, Segment { seq: 0x7777_7777, ..syn() }, Pass, Established),
        (Reply, Segment { flags: SYN, ..syn_ack() }, Pass, Established),
    ];
    let mut c = established(Mode::Nat);
    let before = c;
    conversation(&mut c, &blind);
    assert_eq!(c, before);
}

#[test]
fn a_syn_ack_far_from_the_stream_makes_the_numbers_unknown() {
    let mut c = established(Mode::Nat);
    let accepts = Segment { seq: SERVER.wrapping_add(0x7777_7777), ack: 0x4444_4445, ..syn_ack() };
    assert_eq!(follow(&mut c, Reply, &accepts), Pass);
    let unknown = Connection { scales: Scales::UNKNOWN, ..established(Mode::Nat) };
    assert_eq!(c, unknown);
    resume(&mut c, Forward, &segment(ACK, 0x4444_4445, 0, accepts.end()));
    resume(&mut c, Reply, &segment(ACK, accepts.end(), 10, 0x4444_4445));
    assert_eq!((c.forward_end, c.reply_end), (0x4444_4445, accepts.end()));
    // Who knows them is believed again.
    let reset = segment(RST, c.reply_end, 0, 0);
    assert_eq!(follow(&mut c, Reply, &reset), Pass);
    assert_eq!(c.state, Closed);
}

#[test]
fn a_larger_window_is_wider() {
    let mut c = fresh(Mode::Nat);
    let wide = |segment: Segment| Segment { scale: 14, ..segment };
    follow(&mut c, Forward, &syn());
    follow(&mut c, Reply, &wide(syn_ack()));
    follow(&mut c, Forward, &client(ACK, 0, 0, 0));
    // What the client may send is what the server's window allows.
    let at = |base: u32, ahead: u32| segment(RST, base.wrapping_add(1 + ahead), 0, 0);
    conversation(
        &mut c,
        &[
            (Reply, at(SERVER, STRIDE + 1), Drop, Established),
            (Forward, at(CLIENT, (1 << 30) + 1), Drop, Established),
            (Forward, at(CLIENT, 1 << 30), Pass, Contested),
        ],
    );
}

#[test]
fn direct_return_sees_the_client_only() {
    for mode in [Mode::Dr, Mode::Ipip] {
        let mut c = established(mode);
        conversation(
            &mut c,
            &[
                (Forward, segment(RST, CLIENT.wrapping_add(0x6000_0000), 0, 0), Drop, Established),
                (Forward, segment(RST, CLIENT.wrapping_add(2), 0, 0), Pass, Contested),
                (Forward, client(ACK, 0, 0, 0), Pass, Established),
                (Forward, client(FIN | ACK, 0, 8, 9_000), Pass, FinBoth),
                (Forward, client(ACK, 8, 0, 10_000), Pass, FinBoth),
            ],
        );
        assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(9), SERVER + 10_001));
        let mut c = fresh(mode);
        conversation(
            &mut c,
            &[
                (Forward, syn(), Pass, SynSent),
                (Forward, client(FIN | ACK, 0, 1, 0), Pass, FinBoth),
            ],
        );
        let mut c = established(mode);
        conversation(
            &mut c,
            &[(Forward, segment(RST, CLIENT.wrapping_add(1), 0, 0), Pass, Contested)],
        );
        assert_eq!(c.doubt, Doubt::of_reset(Forward));
        // It gives up before anything else has come: so is the server told.
        let mut c = fresh(mode);
        conversation(
            &mut c,
            &[
                (Forward, syn(), Pass, SynSent),
                (Forward, segment(RST, CLIENT.wrapping_add(1), 0, 0), Pass, Closed),
            ],
        );
    }
}

/// Established, but the side that sends in `direction` is in doubt and was asked `n` times.
fn asked(mode: Mode, direction: Direction, n: u8) -> Connection {
    let mut c = established(mode);
    let at = if direction == Forward { CLIENT } else { SERVER };
    follow(&mut c, direction, &segment(RST, at.wrapping_add(3), 0, 0));
    assert_eq!((c.state, c.doubt), (Contested, Doubt::of_reset(direction)));
    for _ in 0..n {
        c.doubt = c.doubt.once_more();
    }
    c
}

#[test]
fn an_answer_restores_a_connection_whatever_was_forged() {
    let far = 0x5000_0000;
    for direction in [Forward, Reply] {
        // Who forges segments of the side in doubt can move the mark of the other one.
        let (answer, exact) = match direction {
            Forward => (client(ACK, 500, 0, far), segment(RST, CLIENT.wrapping_add(1), 0, 0)),
            Reply => (server(ACK, 500, 0, far), segment(RST, SERVER + 1, 0, 0)),
        };
        let mut c = asked(Mode::Nat, direction, 0);
        conversation(&mut c, &[(direction, answer, Pass, Contested)]);
        let mut c = asked(Mode::Nat, direction, 1);
        conversation(
            &mut c.clone(),
            &[(direction, Segment { flags: FIN | ACK, ..answer }, Pass, Contested)],
        );
        let beside = Segment { seq: answer.seq.wrapping_add(far), ..answer };
        conversation(&mut c.clone(), &[(direction, beside, Pass, Contested)]);
        conversation(&mut c.clone(), &[(direction, exact, Pass, Closed)]);
        conversation(&mut c, &[(direction, answer, Pass, Established)]);
        let marks = match direction {
            Forward => (CLIENT.wrapping_add(1), SERVER.wrapping_add(1 + far)),
            Reply => (CLIENT.wrapping_add(1 + far), SERVER + 1),
        };
        assert_eq!((c.forward_end, c.reply_end), marks);
    }
    // And both where the server is not seen.
    let mut c = asked(Mode::Dr, Forward, 1);
    let exact = segment(RST, CLIENT.wrapping_add(1), 0, 0);
    conversation(&mut c, &[(Forward, exact, Pass, Contested)]);
    assert_eq!(c.doubt.asked(), c.doubt.tries(), "it may be gone");
    conversation(&mut c, &[(Forward, client(ACK, far, 0, far), Pass, Established)]);
    let marks = (CLIENT.wrapping_add(1 + far), SERVER.wrapping_add(1 + far));
    assert_eq!((c.forward_end, c.reply_end), marks);
}

#[test]
fn the_client_moves_the_servers_mark_only() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Snat] {
        let mut c = established(mode);
        for (flags, at) in [(ACK, 1000), (ACK | PSH, 100_000), (ACK, STRIDE - 9)] {
            conversation(&mut c, &[(Forward, client(flags, at, 8, 77), Pass, Established)]);
            resume(&mut c, Forward, &client(flags, at, 8, 77));
        }
        assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(1), SERVER + 78));
        conversation(&mut c, &[(Reply, server(ACK, 0, 9000, 1008), Pass, Established)]);
        assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(1009), SERVER + 78));
    }
}

#[test]
fn a_syn_behind_the_clients_fin_begins_anew_in_place() {
    for seq in [CLIENT.wrapping_add(0x1000_0000), CLIENT.wrapping_add(0x9000_0000)] {
        let mut c = established(Mode::Dr);
        let again = Segment { seq, ..syn() };
        conversation(
            &mut c,
            &[
                (Forward, client(FIN | ACK, 0, 4, 0), Pass, FinBoth),
                (Forward, again, Pass, SynSent),
            ],
        );
        assert_eq!(c.forward_end, again.end());
        assert!(c.scales.known(Forward) && !c.scales.known(Reply));
        let ack = segment(ACK, seq.wrapping_add(1), 0, 99);
        conversation(&mut c, &[(Forward, ack, Pass, Established)]);
        assert_eq!((c.forward_end, c.reply_end), (again.end(), 99));
    }
}

#[test]
fn a_leap_needs_proof() {
    let far = 0x3000_0000;
    let mut c = established(Mode::Nat);
    resume(&mut c, Forward, &client(ACK, 0x2000_0000, 10, far));
    assert_eq!(c.reply_end, SERVER + 1, "it does not know the client's numbers");
    resume(&mut c, Forward, &client(ACK, 500, 10, far));
    assert_eq!(c.reply_end, SERVER + 1 + far);
    resume(&mut c, Reply, &server(ACK, far + 100, 10, far));
    assert_eq!(c.forward_end, CLIENT.wrapping_add(1 + far));
    // Nothing is known of either side: the first segment tells.
    let mut c = Connection { state: Established, ..fresh(Mode::FullNat) };
    conversation(&mut c, &[(Forward, segment(RST, 1, 0, 0), Pass, Contested)]);
    c.state = Established;
    resume(&mut c, Reply, &server(ACK, 100, 10, 50));
    assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(51), 0));
    assert!(c.scales.known(Forward) && !c.scales.known(Reply));
    resume(&mut c, Forward, &client(ACK, 50, 0, 110));
    assert_eq!(c.reply_end, SERVER + 111);
    assert!(c.scales.known(Reply));
    // In direct return the client's acknowledgements may leap.
    let mut c = established(Mode::Dr);
    resume(&mut c, Forward, &client(ACK, 0, 0, far));
    assert_eq!(c.reply_end, SERVER + 1 + far);
    resume(&mut c, Forward, &client(ACK, 2 * far, 0, 0));
    assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(1), SERVER + 1 + far));
}

fn any_segment() -> impl Strategy<Value = Segment> {
    (any::<u8>(), any::<u32>(), 0u32..70_000, any::<u32>(), any::<u8>())
        .prop_map(|(flags, seq, len, ack, scale)| Segment { flags, seq, len, ack, scale })
}

proptest! {
    /// A blind attacker's segments close nothing and move no mark far, whatever their flags.
    #[test]
    fn blind_segments_do_not_end_a_connection(
        mode in prop::sample::select(&[Mode::Nat, Mode::FullNat, Mode::Dr][..]),
        forged in prop::collection::vec((any::<bool>(), any_segment()), 1..60),
    ) {
        let mut c = established(mode);
        let before = c;
        for (forward, segment) in forged {
            let direction = if forward || mode.one_way() { Forward } else { Reply };
            let exact = [c.forward_end, c.reply_end].contains(&segment.seq);
            let in_window = c.in_window(direction, segment.end());
            let acknowledges = c.acknowledges(direction, &segment);
            let (flags, state) = (segment.flags, c.state);
            let outcome = follow(&mut c, direction, &segment);
            prop_assert!(outcome != Reopen);
            if outcome == Drop {
                prop_assert!(flags & RST != 0);
                prop_assert_eq!(c.state, state);
            }
            prop_assume!(!(exact && flags & RST != 0 || in_window && acknowledges));
            // A SYN-ACK is the server's: a connection in doubt may be taken up by it.
            prop_assume!(!(state == Contested && flags & SYN != 0));
            prop_assert!(matches!(c.state, Established | Contested), "{:?}", c.state);
            prop_assert_eq!((c.forward_end, c.reply_end), (before.forward_end, before.reply_end));
        }
    }

    /// Whatever was forged before, a connection that goes on is an established one again.
    #[test]
    fn traffic_restores_it(forged in prop::collection::vec(any::<u32>(), 0..20), bytes in 1u32..1460) {
        let mut c = established(Mode::Nat);
        for seq in forged {
            prop_assume!(seq != c.forward_end);
            follow(&mut c, Forward, &segment(RST, seq, 0, 0));
        }
        follow(&mut c, Forward, &client(ACK | PSH, 0, bytes, 0));
        prop_assert!(c.state == Established);
    }
}

#[test]
fn an_adopted_connection_is_in_doubt_until_it_goes_on() {
    for mode in [Mode::Nat, Mode::Dr] {
        let mut c = fresh(mode);
        adopt(&mut c, &client(ACK | PSH, 100, 20, 50));
        let acked = if mode == Mode::Nat { 101 } else { 121 };
        assert_eq!((c.forward_end, c.reply_end), (CLIENT.wrapping_add(acked), SERVER + 51));
        assert_eq!((c.state, c.doubt), (Contested, Doubt::OF_ADOPTION));
        let mut refused = c;
        conversation(&mut c, &[(Forward, client(ACK, 120, 0, 90), Pass, Established)]);
        if mode == Mode::Nat {
            // The server knows nothing of it.
            let reset = segment(RST, SERVER + 51, 0, 0);
            conversation(&mut refused, &[(Reply, reset, Pass, Closed)]);
        }
        let mut c = fresh(mode);
        adopt(&mut c, &client(FIN | ACK, 100, 1, 50));
        assert_eq!(c.state, if mode == Mode::Nat { FinClient } else { FinBoth });
    }
}
