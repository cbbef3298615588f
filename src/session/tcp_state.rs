//! How long a session in each state may be idle. What leads from one state to the next is
//! [`super::connection`]'s.

use super::entry::TcpState;
use crate::wire::tcp::flags::{ACK, FIN, RST, SYN};

/// Idle times after which a session ends, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The client's SYN was seen, no answer.
    pub tcp_syn: u32,
    /// Established.
    pub tcp_established: u32,
    /// Both have sent FIN, the last acknowledgement is missing.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
    /// The server's SYN-ACK was seen, the client's acknowledgement not.
    pub tcp_syn_received: u32,
    /// One side has sent FIN, the other may go on (half-closed).
    pub tcp_fin_wait: u32,
    /// Both have sent FIN and the last one was acknowledged.
    pub tcp_time_wait: u32,
    /// RST was seen.
    pub tcp_close: u32,
}

impl Timeouts {
    /// What holds when the configuration says nothing. A half-closed connection lives as long as
    /// with IPVS; a SYN-ACK is waited for as long as a server waits before it sends it the fourth
    /// time.
    pub const DEFAULT: Timeouts = Timeouts {
        tcp_syn: 5_000,
        tcp_established: 900_000,
        tcp_fin: 10_000,
        udp: 30_000,
        tcp_syn_received: 10_000,
        tcp_fin_wait: 120_000,
        tcp_time_wait: 10_000,
        tcp_close: 10_000,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Whether a packet with these TCP flags leaves `state` as it is, for certain: an established
/// connection with ACK and without SYN, FIN or RST, or UDP (where `flags` is ignored).
#[inline(always)]
pub fn is_steady(state: TcpState, flags: u8) -> bool {
    match state {
        TcpState::Established => flags & (SYN | FIN | RST | ACK) == ACK,
        TcpState::Udp => true,
        _ => false,
    }
}

/// How long a session in this state may be idle, in milliseconds.
#[inline]
pub fn timeout(state: TcpState, timeouts: &Timeouts) -> u32 {
    match state {
        TcpState::Udp => timeouts.udp,
        TcpState::SynSent | TcpState::SynProxied => timeouts.tcp_syn,
        TcpState::SynReceived => timeouts.tcp_syn_received,
        TcpState::Established => timeouts.tcp_established,
        TcpState::FinClient | TcpState::FinServer => timeouts.tcp_fin_wait,
        TcpState::FinBoth => timeouts.tcp_fin,
        TcpState::TimeWait => timeouts.tcp_time_wait,
        TcpState::Closed | TcpState::Contested => timeouts.tcp_close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TcpState::*;

    const ALL: [TcpState; 11] = [
        Udp,
        SynSent,
        SynReceived,
        Established,
        FinClient,
        FinServer,
        FinBoth,
        Closed,
        TimeWait,
        Contested,
        SynProxied,
    ];

    #[test]
    fn few_are_steady() {
        let steady = (0..=255)
            .flat_map(|flags| ALL.map(|state| is_steady(state, flags)))
            .filter(|steady| *steady)
            .count();
        assert_eq!(steady, 256 + 16); // UDP always; Established with four of eight flags as they must be
    }

    #[test]
    fn each_state_has_its_timeout() {
        let timeouts = Timeouts {
            tcp_syn: 1,
            tcp_established: 2,
            tcp_fin: 3,
            udp: 4,
            tcp_syn_received: 5,
            tcp_fin_wait: 6,
            tcp_time_wait: 7,
            tcp_close: 8,
        };
        assert_eq!(ALL.map(|s| timeout(s, &timeouts)), [4, 1, 5, 2, 6, 6, 3, 8, 7, 8, 1]);
    }
}
