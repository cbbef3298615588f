//! What a session is made of before it has an entry in a table.

use super::doubt::Doubt;
use super::entry::{Entry, Extras, HopRef, Mode, ServerId, ServiceId, TcpState};
use super::sequence::Scales;
use crate::wire::flow::{Address, Protocol};

/// The largest idle timeout, in milliseconds (12.4 days).
pub const MAX_TIMEOUT: u32 = 1 << 30;

/// A session to be: the fields of [`Entry`] that are not times of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSession<A> {
    /// See [`Entry::client`].
    pub client: A,
    /// See [`Entry::vip`].
    pub vip: A,
    /// See [`Entry::local`].
    pub local: A,
    /// See [`Entry::server`].
    pub server: A,
    /// See [`Entry::client_port`].
    pub client_port: u16,
    /// See [`Entry::vip_port`].
    pub vip_port: u16,
    /// See [`Entry::local_port`].
    pub local_port: u16,
    /// See [`Entry::server_port`].
    pub server_port: u16,
    /// See [`Entry::protocol`].
    pub protocol: Protocol,
    /// See [`Entry::state`].
    pub state: TcpState,
    /// See [`Entry::mode`].
    pub mode: Mode,
    /// Idle timeout in milliseconds, at most [`MAX_TIMEOUT`].
    pub timeout: u32,
    /// See [`Entry::service`].
    pub service: ServiceId,
    /// See [`Entry::server_id`].
    pub server_id: ServerId,
    /// See [`Entry::forward_hop`].
    pub forward_hop: HopRef,
    /// See [`Entry::reply_hop`].
    pub reply_hop: HopRef,
    /// See [`Entry::delta_ip`].
    pub delta_ip: u16,
    /// See [`Entry::delta_transport`].
    pub delta_transport: u16,
}

impl<A: Address> NewSession<A> {
    /// The entry of this session, seen for the first time at `now` (milliseconds); in no list.
    pub(super) fn into_entry(self, now: u32) -> Entry<A> {
        Entry {
            client: self.client,
            vip: self.vip,
            local: self.local,
            server: self.server,
            client_port: self.client_port,
            vip_port: self.vip_port,
            local_port: self.local_port,
            server_port: self.server_port,
            protocol: self.protocol,
            state: self.state,
            mode: self.mode,
            live: true,
            last_seen: now,
            timeout: self.timeout.min(MAX_TIMEOUT),
            forward_end: 0,
            service: self.service,
            server_id: self.server_id,
            forward_hop: self.forward_hop,
            reply_hop: self.reply_hop,
            delta_ip: self.delta_ip,
            delta_transport: self.delta_transport,
            reply_end: 0,
            extras: Extras::NONE,
            scales: Scales::UNKNOWN,
            doubt: Doubt::NONE,
        }
    }
}

/// What the slab is filled with at first.
pub(super) fn unused_entry<A: Address>() -> Entry<A> {
    let session = NewSession {
        client: A::UNSPECIFIED,
        vip: A::UNSPECIFIED,
        local: A::UNSPECIFIED,
        server: A::UNSPECIFIED,
        client_port: 0,
        vip_port: 0,
        local_port: 0,
        server_port: 0,
        protocol: Protocol::Udp,
        state: TcpState::Udp,
        mode: Mode::Nat,
        timeout: 0,
        service: ServiceId(0),
        server_id: ServerId(0),
        forward_hop: HopRef::default(),
        reply_hop: HopRef::default(),
        delta_ip: 0,
        delta_transport: 0,
    };
    Entry { live: false, ..session.into_entry(0) }
}
