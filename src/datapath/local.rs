//! Packets that are not TCP or UDP: ARP and neighbor discovery, ICMP, and what only the kernel
//! understands.
//!
//! Shunt answers ARP, neighbor discovery and echo requests for its own addresses. It learns MAC
//! addresses from what it hears and passes answers on to the kernel too, which shares the port's
//! addresses through the exception tap and asks questions of its own.
//!
//! One of a pair answers for the addresses of a group only as its master ([`super::mastership`]); what it
//! hears of them from the master is no forgery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::family::Family;
use super::frame::Frame;
use super::icmp;
use super::notice::Notice;
use super::shared::Shared;
use super::snapshot::{LocalAddress, PortId, PortRole};
use super::tunnel_path::learn_path_mtu;
use super::verdict::Verdict;
use super::vrrp;
use crate::wire::ethernet::{self, HEADER_LEN as ETHERNET};
use crate::wire::flow::{Address, Parsed};
use crate::wire::{DropReason, arp, icmpv4, icmpv6, ipv6, ndp};

/// Decides on a packet that is not a flow.
#[cold]
pub(super) fn handle<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    parsed: Parsed<(), ()>,
    now: u32,
) -> Verdict {
    match parsed {
        Parsed::Arp => arp(shared, frame, now),
        Parsed::Icmpv4 { src, dst, frame_len } => icmpv4(shared, frame, src, dst, frame_len, now),
        Parsed::Icmpv6 { src, dst, frame_len } => icmpv6(shared, frame, src, dst, frame_len, now),
        Parsed::OtherIp { dst } => vrrp::handle(shared, frame, dst)
            .unwrap_or_else(|| other_ip(shared, frame.rx_port(), dst, now)),
        Parsed::OtherEtherType => match shared.punt(frame.rx_port(), now) {
            Verdict::Drop(DropReason::NoException) => Verdict::Drop(DropReason::UnknownEtherType),
            verdict => verdict,
        },
        // Flows are the pipeline's.
        Parsed::V4(_) | Parsed::V6(_) => Verdict::Drop(DropReason::NotLocal),
    }
}

/// RFC 826. Requests for our addresses are answered in place; whoever asks or answers us is learnt.
fn arp<F: Frame>(shared: &mut Shared<F>, frame: &mut F, now: u32) -> Verdict {
    let port = frame.rx_port();
    let packet = match arp::Packet::new_checked(&frame.bytes()[ETHERNET..]) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(reason),
    };
    let (sender, sender_mac) = (packet.sender_ip(), packet.sender_mac());
    let own_mac = shared.snapshot.ports[usize::from(port.0)].mac;
    if sender_mac == own_mac {
        return Verdict::Drop(DropReason::SpoofedLocal);
    }
    if Ipv4Addr::local(&shared.snapshot, sender).is_some() {
        return from_our_address(shared, sender);
    }
    let for_us = answers_for(shared, port, packet.target_ip());
    // A gratuitous packet tells of a move.
    if (for_us || packet.is_gratuitous()) && !sender.is_unspecified() {
        shared.notify(Notice::Seen(port, sender.into(), sender_mac));
    }
    match packet.operation() {
        arp::Operation::Request if for_us => {
            let mac = shared.mac_of(port, packet.target_ip());
            let reply = arp::Repr::reply(&packet, mac).frame(sender_mac);
            answer(frame, port, &reply)
        }
        _ if packet.is_gratuitous() => Verdict::Consume,
        arp::Operation::Request => Verdict::Drop(DropReason::ArpNotForUs),
        arp::Operation::Reply if for_us => to_kernel_too(shared, port, now),
        arp::Operation::Reply => Verdict::Drop(DropReason::ArpNotForUs),
    }
}

fn icmpv4<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    frame_len: u16,
    now: u32,
) -> Verdict {
    let port = frame.rx_port();
    let Some(local) = Ipv4Addr::local(&shared.snapshot, dst) else {
        return Verdict::Drop(DropReason::NotLocal);
    };
    if Ipv4Addr::local(&shared.snapshot, src).is_some() {
        return Verdict::Drop(DropReason::SpoofedLocal);
    }
    if shared.is_not_master_of(dst) {
        return Verdict::Drop(DropReason::NotMaster);
    }
    if matches!(local, LocalAddress::Port(_)) {
        too_long_v4(shared, frame, frame_len, now);
    }
    let own_mac = shared.snapshot.ports[usize::from(port.0)].mac;
    let replied = icmp::echo_reply_v4(frame.bytes_mut(), frame_len, &own_mac);
    after_echo(shared, port, local, replied, now)
}

fn icmpv6<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    frame_len: u16,
    now: u32,
) -> Verdict {
    let port = frame.rx_port();
    let kind = match icmpv6::Packet::new_checked(
        &frame.bytes()[Ipv6Addr::TRANSPORT..usize::from(frame_len)],
    ) {
        Ok(message) => message.kind(),
        Err(reason) => return Verdict::Drop(reason),
    };
    if matches!(kind, icmpv6::NEIGHBOR_SOLICITATION | icmpv6::NEIGHBOR_ADVERTISEMENT) {
        return neighbor_discovery(shared, frame, src, dst, frame_len, now);
    }
    if dst.is_multicast() {
        return other_ip(shared, port, dst.into(), now);
    }
    let Some(local) = Ipv6Addr::local(&shared.snapshot, dst) else {
        // The kernel has link-local addresses on its tap that are none of ours.
        return other_ip(shared, port, dst.into(), now);
    };
    if Ipv6Addr::local(&shared.snapshot, src).is_some() {
        return Verdict::Drop(DropReason::SpoofedLocal);
    }
    // Nobody to answer (RFC 4291 2.5.2); parsing lets it through for duplicate address detection.
    if src.is_unspecified() {
        return Verdict::Drop(DropReason::Martian);
    }
    if shared.is_not_master_of(dst) {
        return Verdict::Drop(DropReason::NotMaster);
    }
    if matches!(local, LocalAddress::Port(_)) {
        too_long_v6(shared, frame, (src, dst), frame_len, now);
    }
    let own_mac = shared.snapshot.ports[usize::from(port.0)].mac;
    let replied = icmp::echo_reply_v6(frame.bytes_mut(), frame_len, &own_mac);
    after_echo(shared, port, local, replied, now)
}

/// Takes Fragmentation Needed in, in case it is about an outer packet of a tunnel (RFC 1191 4). The
/// kernel gets it as well.
fn too_long_v4<F: Frame>(shared: &mut Shared<F>, frame: &F, frame_len: u16, now: u32) {
    const FRAGMENTATION_NEEDED: u8 = 4;
    let bytes = &frame.bytes()[Ipv4Addr::TRANSPORT..usize::from(frame_len)];
    let Ok(message) = icmpv4::Packet::new_checked(bytes) else { return };
    if (message.kind(), message.code()) == (icmpv4::UNREACHABLE, FRAGMENTATION_NEEDED)
        && message.verify_checksum()
    {
        let mtu = u16::from_be_bytes([bytes[6], bytes[7]]);
        learn_path_mtu(shared, message.payload(), u32::from(mtu), now);
    }
}

/// The same with Packet Too Big (RFC 4443 3.2).
fn too_long_v6<F: Frame>(
    shared: &mut Shared<F>,
    frame: &F,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    frame_len: u16,
    now: u32,
) {
    let bytes = &frame.bytes()[Ipv6Addr::TRANSPORT..usize::from(frame_len)];
    let Ok(message) = icmpv6::Packet::new_checked(bytes) else { return };
    if message.kind() == icmpv6::PACKET_TOO_BIG && message.verify_checksum(src, dst) {
        let mtu = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        learn_path_mtu(shared, message.payload(), mtu, now);
    }
}

/// What becomes of an ICMP message for an address of ours once it was tried as an echo request.
fn after_echo<F: Frame>(
    shared: &mut Shared<F>,
    port: PortId,
    local: LocalAddress,
    replied: Result<bool, DropReason>,
    now: u32,
) -> Verdict {
    match replied {
        Ok(true) => Verdict::Answer(port),
        Ok(false) => match local {
            LocalAddress::Port(_) => shared.punt(port, now),
            LocalAddress::Vip | LocalAddress::Lip(_) | LocalAddress::Pool(_) => {
                Verdict::Drop(DropReason::IcmpNotHandled)
            }
        },
        Err(reason) => Verdict::Drop(reason),
    }
}

/// RFC 4861. As ARP, for IPv6.
fn neighbor_discovery<F: Frame>(
    shared: &mut Shared<F>,
    frame: &mut F,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    frame_len: u16,
    now: u32,
) -> Verdict {
    let port = frame.rx_port();
    let bytes = frame.bytes();
    let hop_limit = ipv6::Packet::new_unchecked(&bytes[ETHERNET..]).hop_limit();
    let message = &bytes[Ipv6Addr::TRANSPORT..usize::from(frame_len)];
    let packet = match ndp::Packet::new_checked(message, hop_limit, src, dst) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(reason),
    };
    if Ipv6Addr::local(&shared.snapshot, src).is_some() {
        return from_our_address(shared, src);
    }
    let target = packet.target();
    if !packet.is_solicitation() {
        if Ipv6Addr::local(&shared.snapshot, target).is_some() {
            return from_our_address(shared, target);
        }
        // The answer to a question that was put to one host may leave the address out (RFC 4861
        // 7.2.4), and Linux does: then it is that of the frame.
        let of_frame = || ethernet::Packet::new_unchecked(bytes).src();
        let mac = packet.target_mac().or_else(|| packet.is_solicited().then(of_frame));
        if let Some(mac) = mac.filter(ethernet::is_unicast) {
            shared.notify(Notice::Seen(port, target.into(), mac));
        }
        return to_kernel_too(shared, port, now);
    }
    if shared.is_not_master_of(target) {
        return Verdict::Drop(DropReason::ArpNotForUs);
    }
    if !answers_for(shared, port, target) {
        // Perhaps a link-local address of the kernel's.
        return match shared.punt(port, now) {
            Verdict::Drop(DropReason::NoException) => Verdict::Drop(DropReason::ArpNotForUs),
            verdict => verdict,
        };
    }
    let asker_mac = match packet.source_mac() {
        Some(mac) => {
            shared.notify(Notice::Seen(port, src.into(), mac));
            mac
        }
        None => ethernet::Packet::new_unchecked(bytes).src(),
    };
    let answer_to = ndp::Repr::answer(shared.mac_of(port, target), target, src);
    let mac = if src.is_unspecified() { ethernet::multicast_v6(answer_to.dst) } else { asker_mac };
    answer(frame, port, &answer_to.frame(mac))
}

/// Protocols of the kernel (OSPF, VRRP, IGMP, …), and groups.
fn other_ip<F: Frame>(shared: &mut Shared<F>, port: PortId, dst: IpAddr, now: u32) -> Verdict {
    let local = match dst {
        IpAddr::V4(dst) => Ipv4Addr::local(&shared.snapshot, dst),
        IpAddr::V6(dst) => Ipv6Addr::local(&shared.snapshot, dst),
    };
    match local {
        Some(LocalAddress::Vip | LocalAddress::Lip(_) | LocalAddress::Pool(_)) => {
            Verdict::Drop(DropReason::NoService)
        }
        Some(LocalAddress::Port(_)) => shared.punt(port, now),
        None if is_group_or_link_local(dst) => match shared.punt(port, now) {
            Verdict::Drop(DropReason::NoException) => Verdict::Drop(DropReason::NotLocal),
            verdict => verdict,
        },
        None => Verdict::Drop(DropReason::NotLocal),
    }
}

/// Whether a packet to this address is the kernel's, whatever it says.
pub(super) fn is_for_kernel<F>(shared: &Shared<F>, dst: IpAddr) -> bool {
    let local = match dst {
        IpAddr::V4(dst) => Ipv4Addr::local(&shared.snapshot, dst),
        IpAddr::V6(dst) => Ipv6Addr::local(&shared.snapshot, dst),
    };
    matches!(local, Some(LocalAddress::Port(_))) || is_group_or_link_local(dst)
}

fn is_group_or_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
    }
}

/// What becomes of ARP or neighbor discovery that tells of an address of ours: the master of its group
/// may, when that is not this node.
fn from_our_address<A: Family, F>(shared: &Shared<F>, address: A) -> Verdict {
    match shared.is_not_master_of(address) {
        true => Verdict::Consume,
        false => Verdict::Drop(DropReason::SpoofedLocal),
    }
}

/// Whether Shunt answers for this address on this port: for VIPs on every port, for the others on
/// their own; for an address of a group only as its master.
fn answers_for<A: Family, F>(shared: &Shared<F>, port: PortId, address: A) -> bool {
    if shared.is_not_master_of(address) {
        return false;
    }
    match A::local(&shared.snapshot, address) {
        Some(LocalAddress::Vip) => true,
        Some(LocalAddress::Port(of) | LocalAddress::Lip(of) | LocalAddress::Pool(of)) => of == port,
        None => false,
    }
}

/// What Shunt has taken in goes on to the kernel where there is one that shares the port.
fn to_kernel_too<F: Frame>(shared: &mut Shared<F>, port: PortId, now: u32) -> Verdict {
    match shared.snapshot.ports[usize::from(port.0)].role {
        PortRole::Wire { exception: Some(_), .. } => shared.punt(port, now),
        _ => Verdict::Consume,
    }
}

/// Makes of the frame the answer.
fn answer<F: Frame>(frame: &mut F, port: PortId, bytes: &[u8]) -> Verdict {
    if !frame.set_len(bytes.len()) {
        return Verdict::Drop(DropReason::NoBuffer);
    }
    frame.bytes_mut().copy_from_slice(bytes);
    Verdict::Answer(port)
}
