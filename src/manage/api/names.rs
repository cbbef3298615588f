//! The words of the control socket for the data path's enumerations.

use crate::datapath::snapshot::Mac;
use crate::sched::SchedulerKind;
use crate::session::mappings::Behavior;
use crate::session::{Mode, TcpState};

/// As in the configuration.
pub(super) const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nat => "nat",
        Mode::FullNat => "fullnat",
        Mode::Dr => "dr",
        Mode::Snat => "snat",
        Mode::Ipip => "ipip",
        Mode::Gre => "gre",
        Mode::Gue => "gue",
        Mode::Vxlan => "vxlan",
    }
}

/// As in the configuration.
pub(super) const fn behavior_name(behavior: Behavior) -> &'static str {
    match behavior {
        Behavior::EndpointIndependent => "endpoint_independent",
        Behavior::AddressDependent => "address_dependent",
        Behavior::AddressAndPortDependent => "address_and_port_dependent",
    }
}

/// As in the configuration.
pub(super) const fn scheduler_name(scheduler: SchedulerKind) -> &'static str {
    scheduler.name()
}

/// As in [`super::types::Session::state`].
pub(super) const fn state_name(state: TcpState) -> &'static str {
    match state {
        TcpState::Udp => "udp",
        TcpState::SynSent => "syn_sent",
        TcpState::SynReceived => "syn_received",
        TcpState::Established => "established",
        TcpState::FinClient => "fin_client",
        TcpState::FinServer => "fin_server",
        TcpState::FinBoth => "fin_both",
        TcpState::Closed => "closed",
        TcpState::TimeWait => "time_wait",
        TcpState::Contested => "contested",
        TcpState::SynProxied => "syn_proxied",
    }
}

/// `02:00:00:00:00:01`
pub(super) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
