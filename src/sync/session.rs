//! The records about sessions: that one is there, that one has ended, that one was seen, and where
//! the next connection of a client goes.

use std::net::IpAddr;

use super::cursor::{Put, Take};
use super::family::Wire;
use super::record::{Emit, kind};
use crate::session::{Aside, Doubt, Entry, Extras, Mode, Scales, TcpState};
use crate::wire::flow::{Address, FlowKey, Protocol};

/// In [`Session`]'s presence byte: the shifts follow.
const HAS_SHIFTS: u8 = 1;
/// The same: the real server's address follows.
const HAS_SERVER_IP: u8 = 2;

/// What few sessions have beside their entry ([`Aside`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Shifts {
    /// [`Aside::forward_shift`].
    pub forward: u32,
    /// [`Aside::reply_shift`].
    pub reply: u32,
    /// [`Aside::time_shift`].
    pub time: u32,
    /// [`Aside::shift_at`].
    pub at: u32,
    /// [`Aside::note`].
    pub note: u32,
}

impl Shifts {
    /// Those of a session, if it has any.
    pub fn of(aside: &Aside) -> Option<Self> {
        let shifts = Shifts {
            forward: aside.forward_shift,
            reply: aside.reply_shift,
            time: aside.time_shift,
            at: aside.shift_at,
            note: aside.note,
        };
        (shifts != Shifts::default()).then_some(shifts)
    }

    /// Gives them to a session.
    pub const fn put(self, aside: &mut Aside) {
        aside.forward_shift = self.forward;
        aside.reply_shift = self.reply;
        aside.time_shift = self.time;
        aside.shift_at = self.at;
        aside.note = self.note;
    }
}

/// A session is there, or has changed: everything the other node needs to go on with it. Services,
/// servers and next hops have other numbers there, so it finds them by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session<A> {
    /// Tells this session from an earlier one of the same addresses and ports.
    pub born: u32,
    /// Transport protocol.
    pub protocol: Protocol,
    /// TCP state; [`TcpState::Udp`] of other protocols, and only of those.
    pub state: TcpState,
    /// Forwarding mode.
    pub mode: Mode,
    /// [`Entry::doubt`].
    pub doubt: Doubt,
    /// [`Entry::scales`].
    pub scales: Scales,
    /// [`Entry::extras`].
    pub extras: Extras,
    /// Time since the last packet, in milliseconds.
    pub idle: u32,
    /// Time since the session was created, in milliseconds.
    pub age: u32,
    /// Idle time after which it ends, in milliseconds.
    pub timeout: u32,
    /// The client's address.
    pub client: A,
    /// The virtual address.
    pub vip: A,
    /// Source address towards the server.
    pub local: A,
    /// The real server's address; unspecified when that is of the other family.
    pub server: A,
    /// The client's port.
    pub client_port: u16,
    /// The virtual port.
    pub vip_port: u16,
    /// Source port towards the server.
    pub local_port: u16,
    /// The real server's port.
    pub server_port: u16,
    /// [`Entry::forward_end`].
    pub forward_end: u32,
    /// [`Entry::reply_end`].
    pub reply_end: u32,
    /// What few sessions have.
    pub shifts: Option<Shifts>,
    /// The real server's address when it is of the other family.
    pub server_ip: Option<IpAddr>,
}

impl<A: Wire> Session<A> {
    /// Length of the record without what few sessions have.
    pub const BASE_LEN: usize = 2 + 24 + 4 * A::LEN + 8 + 8;
    /// The greatest length of the record.
    pub const MAX_LEN: usize = Self::BASE_LEN + 20 + 16;

    /// The record of a session at `now`. `server_ip` is left out: the caller knows whether the server
    /// is of the other family, and which one it is.
    pub fn from_entry(entry: &Entry<A>, aside: &Aside, born: u32, now: u32) -> Self {
        // A session of this very burst may have been seen after `now`.
        let idle = now.wrapping_sub(entry.last_seen);
        Session {
            born,
            protocol: entry.protocol,
            state: entry.state,
            mode: entry.mode,
            doubt: entry.doubt,
            scales: entry.scales,
            extras: entry.extras,
            idle: if idle > u32::MAX / 2 { 0 } else { idle },
            age: now.wrapping_sub(aside.created),
            timeout: entry.timeout,
            client: entry.client,
            vip: entry.vip,
            local: entry.local,
            server: entry.server,
            client_port: entry.client_port,
            vip_port: entry.vip_port,
            local_port: entry.local_port,
            server_port: entry.server_port,
            forward_end: entry.forward_end,
            reply_end: entry.reply_end,
            shifts: Shifts::of(aside),
            server_ip: None,
        }
    }

    /// The key of packets from the client.
    pub fn forward_key(&self) -> FlowKey<A> {
        forward_key(self.protocol, self.client, self.vip, self.client_port, self.vip_port)
    }

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        let born = record.u32()?;
        let protocol = Protocol::from_number(record.u8()?)?;
        let state = state(&mut record, protocol)?;
        let mode = Mode::from_bits(record.u8()?)?;
        let doubt = Doubt::from_bits(record.u8()?)?;
        let scales = Scales::from_bits(record.u8()?);
        let presence = record.u8()?;
        Some(Session {
            born,
            protocol,
            state,
            mode,
            doubt,
            scales,
            extras: Extras::from_bits(record.u16()?)?,
            idle: record.u32()?,
            age: record.u32()?,
            timeout: record.u32()?,
            client: record.address()?,
            vip: record.address()?,
            local: record.address()?,
            server: record.address()?,
            client_port: record.u16()?,
            vip_port: record.u16()?,
            local_port: record.u16()?,
            server_port: record.u16()?,
            forward_end: record.u32()?,
            reply_end: record.u32()?,
            shifts: if presence & HAS_SHIFTS == 0 {
                None
            } else {
                Some(Shifts {
                    forward: record.u32()?,
                    reply: record.u32()?,
                    time: record.u32()?,
                    at: record.u32()?,
                    note: record.u32()?,
                })
            },
            server_ip: if presence & HAS_SERVER_IP == 0 { None } else { Some(record.ip()?) },
        })
    }
}

impl<A: Wire> Emit for Session<A> {
    fn length(&self) -> usize {
        Self::BASE_LEN
            + if self.shifts.is_some() { 20 } else { 0 }
            + if self.server_ip.is_some() { 16 } else { 0 }
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::of::<A>(kind::SESSION), self.length());
        put.u32(self.born);
        put.u8(self.protocol.number());
        put.u8(self.state as u8);
        put.u8(self.mode as u8);
        put.u8(self.doubt.to_bits());
        put.u8(self.scales.to_bits());
        let shifts = if self.shifts.is_some() { HAS_SHIFTS } else { 0 };
        let server_ip = if self.server_ip.is_some() { HAS_SERVER_IP } else { 0 };
        put.u8(shifts | server_ip);
        put.u16(self.extras.to_bits());
        for time in [self.idle, self.age, self.timeout] {
            put.u32(time);
        }
        for address in [self.client, self.vip, self.local, self.server] {
            put.address(address);
        }
        for port in [self.client_port, self.vip_port, self.local_port, self.server_port] {
            put.u16(port);
        }
        put.u32(self.forward_end);
        put.u32(self.reply_end);
        if let Some(shifts) = self.shifts {
            for value in [shifts.forward, shifts.reply, shifts.time, shifts.at, shifts.note] {
                put.u32(value);
            }
        }
        if let Some(ip) = self.server_ip {
            put.ip(ip);
        }
        put.written()
    }
}

/// Why a session has ended. Only told: whatever it is, the session is no more. Numbers without a name
/// are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// It was idle for its timeout, in whatever state.
    pub const EXPIRED: Reason = Reason(0);
    /// Another took its place.
    pub const REPLACED: Reason = Reason(1);
    /// Its server or its service went away.
    pub const WITHDRAWN: Reason = Reason(2);
    /// Nobody answered for it ([`TcpState::Contested`]).
    pub const UNANSWERED: Reason = Reason(3);
}

/// A session has ended on the node that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<A> {
    /// [`Session::born`].
    pub born: u32,
    /// Why.
    pub reason: Reason,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client's address.
    pub client: A,
    /// The virtual address.
    pub vip: A,
    /// The client's port.
    pub client_port: u16,
    /// The virtual port.
    pub vip_port: u16,
}

impl<A: Wire> Close<A> {
    /// Length of the record.
    pub const LEN: usize = 2 + 6 + 2 * A::LEN + 4;

    /// The record of a session.
    pub fn from_entry(entry: &Entry<A>, born: u32, reason: Reason) -> Self {
        Close {
            born,
            reason,
            protocol: entry.protocol,
            client: entry.client,
            vip: entry.vip,
            client_port: entry.client_port,
            vip_port: entry.vip_port,
        }
    }

    /// The key of packets from the client.
    pub fn forward_key(&self) -> FlowKey<A> {
        forward_key(self.protocol, self.client, self.vip, self.client_port, self.vip_port)
    }

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        Some(Close {
            born: record.u32()?,
            reason: Reason(record.u8()?),
            protocol: Protocol::from_number(record.u8()?)?,
            client: record.address()?,
            vip: record.address()?,
            client_port: record.u16()?,
            vip_port: record.u16()?,
        })
    }
}

impl<A: Wire> Emit for Close<A> {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::of::<A>(kind::CLOSE), Self::LEN);
        put.u32(self.born);
        put.u8(self.reason.0);
        put.u8(self.protocol.number());
        put.address(self.client);
        put.address(self.vip);
        put.u16(self.client_port);
        put.u16(self.vip_port);
        put.written()
    }
}

/// The node that does not own a session has seen packets of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch<A> {
    /// [`Session::born`].
    pub born: u32,
    /// Time since the last packet, in milliseconds.
    pub idle: u32,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The state there; see [`Session::state`].
    pub state: TcpState,
    /// The client's address.
    pub client: A,
    /// The virtual address.
    pub vip: A,
    /// The client's port.
    pub client_port: u16,
    /// The virtual port.
    pub vip_port: u16,
    /// [`Entry::forward_end`].
    pub forward_end: u32,
    /// [`Entry::reply_end`].
    pub reply_end: u32,
}

impl<A: Wire> Touch<A> {
    /// Length of the record.
    pub const LEN: usize = 2 + 10 + 2 * A::LEN + 4 + 8;

    /// The record of a session at `now`.
    pub fn from_entry(entry: &Entry<A>, born: u32, now: u32) -> Self {
        let idle = now.wrapping_sub(entry.last_seen);
        Touch {
            born,
            idle: if idle > u32::MAX / 2 { 0 } else { idle },
            protocol: entry.protocol,
            state: entry.state,
            client: entry.client,
            vip: entry.vip,
            client_port: entry.client_port,
            vip_port: entry.vip_port,
            forward_end: entry.forward_end,
            reply_end: entry.reply_end,
        }
    }

    /// The key of packets from the client.
    pub fn forward_key(&self) -> FlowKey<A> {
        forward_key(self.protocol, self.client, self.vip, self.client_port, self.vip_port)
    }

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        let born = record.u32()?;
        let idle = record.u32()?;
        let protocol = Protocol::from_number(record.u8()?)?;
        Some(Touch {
            born,
            idle,
            protocol,
            state: state(&mut record, protocol)?,
            client: record.address()?,
            vip: record.address()?,
            client_port: record.u16()?,
            vip_port: record.u16()?,
            forward_end: record.u32()?,
            reply_end: record.u32()?,
        })
    }
}

impl<A: Wire> Emit for Touch<A> {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::of::<A>(kind::TOUCH), Self::LEN);
        put.u32(self.born);
        put.u32(self.idle);
        put.u8(self.protocol.number());
        put.u8(self.state as u8);
        put.address(self.client);
        put.address(self.vip);
        put.u16(self.client_port);
        put.u16(self.vip_port);
        put.u32(self.forward_end);
        put.u32(self.reply_end);
        put.written()
    }
}

/// Where the next connection of a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persist<A> {
    /// The number of the service's group of clients. Both nodes have the same numbers only while
    /// their configurations are alike.
    pub scope: u64,
    /// For how long it still holds, in milliseconds.
    pub life: u32,
    /// The client's address, masked.
    pub client: A,
    /// The real server's address.
    pub server_ip: IpAddr,
}

impl<A: Wire> Persist<A> {
    /// Length of the record.
    pub const LEN: usize = 2 + 12 + A::LEN + 16;

    pub(super) fn parse(mut record: Take<'_>) -> Option<Self> {
        Some(Persist {
            scope: record.u64()?,
            life: record.u32()?,
            client: record.address()?,
            server_ip: record.ip()?,
        })
    }
}

impl<A: Wire> Emit for Persist<A> {
    fn length(&self) -> usize {
        Self::LEN
    }

    fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut put = Put::record(buffer, kind::of::<A>(kind::PERSIST), Self::LEN);
        put.u64(self.scope);
        put.u32(self.life);
        put.address(self.client);
        put.ip(self.server_ip);
        put.written()
    }
}

/// The state that comes next in a record, if it is one of `protocol`.
fn state(record: &mut Take<'_>, protocol: Protocol) -> Option<TcpState> {
    let state = TcpState::from_bits(record.u8()?)?;
    ((protocol == Protocol::Tcp) != (state == TcpState::Udp)).then_some(state)
}

fn forward_key<A: Address>(
    protocol: Protocol,
    client: A,
    vip: A,
    client_port: u16,
    vip_port: u16,
) -> FlowKey<A> {
    FlowKey { src: client, dst: vip, sport: client_port, dport: vip_port, protocol }
}
