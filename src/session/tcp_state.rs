//! The state of a TCP connection as seen from the middle, and how long each state may be idle.
//!
//! A switch in the middle sees every segment but not what the ends make of it, so this machine is
//! lenient: it follows the flags and trusts no sequence number. Its only use is to choose a
//! timeout. What it must not do is give the long timeout of an established connection to one that
//! the server has not agreed to: that takes the server's SYN-ACK and the client's ACK to it.

use super::entry::{Direction, Mode, TcpState};
use crate::wire::tcp::flags::{ACK, FIN, RST, SYN};

/// Idle times after which a session ends, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Handshake not complete.
    pub tcp_syn: u32,
    /// Established.
    pub tcp_established: u32,
    /// A FIN or RST was seen.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

impl Default for Timeouts {
    /// What holds when the configuration says nothing.
    fn default() -> Self {
        Timeouts { tcp_syn: 5_000, tcp_established: 900_000, tcp_fin: 10_000, udp: 30_000 }
    }
}

/// Whether a packet with these TCP flags leaves `state` as it is, for certain: an established
/// connection without SYN, FIN or RST, or UDP (where `flags` is ignored).
#[inline(always)]
pub fn is_steady(state: TcpState, flags: u8) -> bool {
    match state {
        TcpState::Established => flags & (SYN | FIN | RST) == 0,
        TcpState::Udp => true,
        _ => false,
    }
}

/// The state after a segment with these flags (the flags byte of the TCP header) has passed.
///
/// | state | segment | next |
/// |---|---|---|
/// | any | RST, from either side | `Closed` |
/// | `SynSent` | SYN-ACK from the server | `SynReceived` |
/// | `SynReceived` | ACK from the client | `Established` |
/// | `SynReceived`, `Established` | FIN | `FinClient` or `FinServer` |
/// | `FinClient`, `FinServer` | FIN from the other side | `FinBoth` |
/// | `FinBoth`, `Closed` | SYN from the client: the tuple is used anew | `SynSent` |
///
/// In [`Mode::Dr`] only the client's segments are seen: its ACK in `SynSent` makes `Established`,
/// its FIN makes `FinBoth`. Everything else leaves the state as it is.
pub fn next(mode: Mode, state: TcpState, direction: Direction, flags: u8) -> TcpState {
    use Direction::{Forward, Reply};
    use TcpState::*;
    if state == Udp {
        return Udp;
    }
    if flags & RST != 0 {
        return Closed;
    }
    let one_way = mode.one_way();
    match (state, direction, flags & (SYN | ACK | FIN)) {
        // The SYN proxy's to change.
        (SynProxied, ..) => state,
        (FinBoth | Closed, Forward, SYN) => SynSent,
        (FinBoth | Closed, ..) => state,
        (SynSent, Reply, f) if f & (SYN | ACK) == SYN | ACK => SynReceived,
        (SynSent, Forward, f) if one_way && f & (SYN | ACK) == ACK => {
            if f & FIN != 0 {
                FinBoth
            } else {
                Established
            }
        }
        (SynSent, ..) => SynSent,
        (_, _, f) if f & FIN != 0 => match (state, direction) {
            _ if one_way => FinBoth,
            (FinServer, Forward) | (FinClient, Reply) => FinBoth,
            (_, Forward) => FinClient,
            (_, Reply) => FinServer,
        },
        (SynReceived, Forward, ACK) => Established,
        _ => state,
    }
}

/// How long a session in this state may be idle, in milliseconds.
#[inline]
pub fn timeout(state: TcpState, timeouts: &Timeouts) -> u32 {
    match state {
        TcpState::Udp => timeouts.udp,
        TcpState::SynSent | TcpState::SynReceived | TcpState::SynProxied => timeouts.tcp_syn,
        TcpState::Established => timeouts.tcp_established,
        TcpState::FinClient | TcpState::FinServer | TcpState::FinBoth | TcpState::Closed => {
            timeouts.tcp_fin
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reply};
    use TcpState::*;

    const PSH: u8 = 0x08;
    const ALL: [TcpState; 9] =
        [Udp, SynSent, SynReceived, Established, FinClient, FinServer, FinBoth, Closed, SynProxied];

    /// Follows a conversation and checks the state after each segment.
    fn follow(mode: Mode, segments: &[(Direction, u8, TcpState)]) {
        let mut state = SynSent;
        for (i, &(direction, flags, expected)) in segments.iter().enumerate() {
            state = next(mode, state, direction, flags);
            assert_eq!(state, expected, "segment {i}");
        }
    }

    #[test]
    fn a_connection_from_handshake_to_close() {
        for mode in [Mode::Nat, Mode::FullNat] {
            follow(
                mode,
                &[
                    (Forward, SYN, SynSent),
                    (Reply, SYN | ACK, SynReceived),
                    (Reply, SYN | ACK, SynReceived),
                    (Forward, ACK, Established),
                    (Forward, PSH | ACK, Established),
                    (Reply, ACK, Established),
                    (Reply, SYN | ACK, Established),
                    (Forward, FIN | ACK, FinClient),
                    (Forward, FIN | ACK, FinClient),
                    (Reply, PSH | ACK, FinClient),
                    (Reply, FIN | ACK, FinBoth),
                    (Forward, ACK, FinBoth),
                    (Reply, FIN | ACK, FinBoth),
                    (Forward, SYN, SynSent),
                ],
            );
        }
    }

    #[test]
    fn the_server_closes_first() {
        follow(
            Mode::Nat,
            &[
                (Reply, SYN | ACK, SynReceived),
                (Forward, PSH | ACK, Established),
                (Reply, FIN | PSH | ACK, FinServer),
                (Forward, ACK, FinServer),
                (Forward, FIN | ACK, FinBoth),
                (Reply, RST, Closed),
                (Forward, ACK, Closed),
                (Forward, SYN, SynSent),
            ],
        );
    }

    #[test]
    fn a_client_alone_cannot_establish() {
        follow(
            Mode::Nat,
            &[
                (Forward, ACK, SynSent),
                (Forward, FIN | ACK, SynSent),
                (Forward, SYN | ACK, SynSent),
                (Reply, ACK, SynSent),
                (Reply, SYN | ACK, SynReceived),
                (Reply, ACK, SynReceived),
                (Forward, SYN, SynReceived),
                (Forward, FIN | ACK, FinClient),
            ],
        );
    }

    #[test]
    fn direct_return_sees_the_client_only() {
        follow(
            Mode::Dr,
            &[
                (Forward, SYN, SynSent),
                (Forward, ACK, Established),
                (Forward, PSH | ACK, Established),
                (Forward, FIN | ACK, FinBoth),
                (Forward, ACK, FinBoth),
                (Forward, SYN, SynSent),
                (Forward, FIN | ACK, FinBoth),
            ],
        );
    }

    #[test]
    fn reset_closes_from_either_side_and_udp_stays() {
        for direction in [Forward, Reply] {
            for mode in [Mode::Nat, Mode::FullNat, Mode::Dr] {
                for state in ALL {
                    for flags in [RST, RST | ACK] {
                        let expected = if state == Udp { Udp } else { Closed };
                        assert_eq!(next(mode, state, direction, flags), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn steady_means_that_nothing_changes() {
        let mut steady = 0;
        for flags in 0..=255 {
            for state in ALL {
                if is_steady(state, flags) {
                    steady += 1;
                    for direction in [Forward, Reply] {
                        assert_eq!(next(Mode::Nat, state, direction, flags), state);
                        assert_eq!(next(Mode::Dr, state, direction, flags), state);
                    }
                }
            }
        }
        assert_eq!(steady, 256 + 32); // UDP always; Established with three of eight flags clear
    }

    #[test]
    fn each_state_has_its_timeout() {
        let timeouts = Timeouts { tcp_syn: 1, tcp_established: 2, tcp_fin: 3, udp: 4 };
        assert_eq!(ALL.map(|s| timeout(s, &timeouts)), [4, 1, 1, 2, 3, 3, 3, 3, 1]);
    }
}
