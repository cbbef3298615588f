//! Tests of several files together.

mod associations;
mod formats;
mod streams;

use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::session::{Doubt, Extras, Mode, Scales, TcpState};
use crate::wire::flow::Protocol;

pub(super) fn keys() -> Keys {
    Keys::parse(&"0123456789abcdef".repeat(4)).unwrap()
}

fn ip() -> impl Strategy<Value = IpAddr> {
    // A mapped IPv4 address is that IPv4 address.
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(|v6| IpAddr::V6(v6).to_canonical()),
    ]
}

/// A protocol, and a state that it can have.
fn protocol() -> impl Strategy<Value = (Protocol, TcpState)> {
    prop_oneof![
        (1u8..=10).prop_map(|bits| (Protocol::Tcp, TcpState::from_bits(bits).unwrap())),
        Just((Protocol::Udp, TcpState::Udp)),
        Just((Protocol::Icmp, TcpState::Udp)),
    ]
}

fn shifts() -> impl Strategy<Value = Shifts> {
    any::<[u32; 5]>().prop_map(|[forward, reply, time, at, note]| Shifts {
        forward,
        reply,
        time,
        at,
        note,
    })
}

pub(super) fn session<A: Wire + Arbitrary>() -> impl Strategy<Value = Session<A>> {
    (
        (any::<u32>(), protocol(), 0u8..8, any::<u8>(), any::<u8>(), any::<u16>()),
        (any::<[u32; 5]>(), any::<[A; 4]>(), any::<[u16; 4]>()),
        (prop::option::of(shifts()), prop::option::of(ip())),
    )
        .prop_map(
            |(
                (born, (protocol, state), mode, doubt, scales, extras),
                (numbers, addresses, ports),
                (shifts, server_ip),
            )| {
                let [idle, age, timeout, forward_end, reply_end] = numbers;
                let [client, vip, local, server] = addresses;
                let [client_port, vip_port, local_port, server_port] = ports;
                Session {
                    born,
                    protocol,
                    state,
                    mode: Mode::from_bits(mode).unwrap(),
                    doubt: Doubt::from_bits(doubt).unwrap_or_default(),
                    scales: Scales::from_bits(scales),
                    extras: Extras::from_bits(extras & 0xbc3f).unwrap(),
                    idle,
                    age,
                    timeout,
                    client,
                    vip,
                    local,
                    server,
                    client_port,
                    vip_port,
                    local_port,
                    server_port,
                    forward_end,
                    reply_end,
                    shifts,
                    server_ip,
                }
            },
        )
}
