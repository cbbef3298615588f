//! Fragments, translated: as [`super::nat`] does it to whole packets. Ports and transport checksum,
//! which covers the whole packet, are in the first fragment alone; its difference is that of the
//! whole packet.
//!
//! All fragments of a packet get a new identification, since a translated source address speaks for
//! several hosts whose numbers are not told apart (RFC 6864 5.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::nat::{Deltas, set_transport};
use crate::wire::bytes::set_u32;
use crate::wire::checksum;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::{Address, FlowKey};
use crate::wire::fragment::{self, Fragment};
use crate::wire::{ipv4, ipv6};

/// The rewrite of one address family.
pub trait TranslateFragment: Address {
    /// Gives the fragment the addresses and ports of `to` and the identification `ident` (in IPv4
    /// its lower 16 bits), takes one from its hop limit and updates its checksums by `deltas`. The
    /// frame must be the one that `fragment` was read from.
    fn translate_fragment(
        frame: &mut [u8],
        fragment: &Fragment<Self>,
        to: &FlowKey<Self>,
        deltas: Deltas,
        ident: u32,
    );
}

impl TranslateFragment for Ipv4Addr {
    fn translate_fragment(
        frame: &mut [u8],
        fragment: &Fragment<Self>,
        to: &FlowKey<Self>,
        deltas: Deltas,
        ident: u32,
    ) {
        let mut packet = ipv4::Packet::new_unchecked(&mut frame[ETHERNET..]);
        let numbers = checksum::delta16(packet.ident(), ident as u16);
        packet.set_ident(ident as u16);
        packet.decrement_ttl();
        packet.set_src(to.src);
        packet.set_dst(to.dst);
        let delta = checksum::add(deltas.ip, numbers);
        packet.set_checksum(checksum::apply(packet.checksum(), delta));
        if fragment.ports.is_some() {
            set_transport(&mut frame[fragment.at..], to, deltas.transport);
        }
    }
}

impl TranslateFragment for Ipv6Addr {
    fn translate_fragment(
        frame: &mut [u8],
        fragment: &Fragment<Self>,
        to: &FlowKey<Self>,
        deltas: Deltas,
        ident: u32,
    ) {
        let mut packet = ipv6::Packet::new_unchecked(&mut frame[ETHERNET..]);
        packet.set_hop_limit(packet.hop_limit() - 1);
        packet.set_src(to.src);
        packet.set_dst(to.dst);
        set_u32(frame, fragment.at - fragment::HEADER_LEN_V6 + fragment::IDENT_V6, ident);
        if fragment.ports.is_some() {
            set_transport(&mut frame[fragment.at..], to, deltas.transport);
        }
    }
}
