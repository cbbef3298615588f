//! VRRP adverts (RFC 5798): read here, acted upon by the management thread.
//!
//! They are read only where there is a pair. Without one they are the kernel's, where something like
//! keepalived may run; with one they all are ours, those of other virtual routers too, and those that
//! cannot be ours (version 2, say) are dropped.

use std::net::IpAddr;

use super::frame::Frame;
use super::notice::{Advert, Notice};
use super::shared::Shared;
use super::snapshot::PortId;
use super::verdict::Verdict;
use crate::wire::ethernet::HEADER_LEN as ETHERNET;
use crate::wire::flow::Parsed;
use crate::wire::{DropReason, ip_protocol, ipv4, ipv6, vrrp};

/// Whether a packet is an advert to be read, right or wrong. The packet filter does not see it, as it
/// does not see ARP: a rule that drops it would make both nodes master.
pub(super) fn is_advert<F, G: Frame>(
    shared: &Shared<F>,
    frame: &G,
    parsed: &Parsed<(), ()>,
) -> bool {
    let Parsed::OtherIp { dst } = *parsed else { return false };
    shared.snapshot.ha.is_some() && message(frame.bytes(), dst).is_some()
}

/// Takes an advert in. `None` when the packet is none, or there is no pair.
pub(super) fn handle<F: Frame>(shared: &mut Shared<F>, frame: &F, dst: IpAddr) -> Option<Verdict> {
    shared.snapshot.ha.as_ref()?;
    let message = message(frame.bytes(), dst)?;
    let port = frame.rx_port();
    if is_own(shared, port, message.src) {
        return Some(Verdict::Drop(DropReason::SpoofedLocal));
    }
    Some(match read(&message, dst, port) {
        Ok(advert) => {
            shared.notify(Notice::Vrrp(advert));
            Verdict::Consume
        }
        Err(reason) => {
            shared.counters.sync.vrrp_invalid.add(1);
            Verdict::Drop(reason)
        }
    })
}

/// A VRRP message and what of its IP header counts.
struct Message<'a> {
    src: IpAddr,
    hop_limit: u8,
    bytes: &'a [u8],
}

/// The VRRP message in a frame whose IP header is sound, to a group of VRRP.
fn message(frame: &[u8], dst: IpAddr) -> Option<Message<'_>> {
    let packet = &frame[ETHERNET..];
    let (protocol, message) = if dst == IpAddr::V4(vrrp::GROUP_V4) {
        let ip = ipv4::Packet::new_unchecked(packet);
        let end = usize::from(ip.total_len());
        let bytes = &packet[ipv4::HEADER_LEN..end];
        (ip.protocol(), Message { src: ip.src().into(), hop_limit: ip.ttl(), bytes })
    } else if dst == IpAddr::V6(vrrp::GROUP_V6) {
        let ip = ipv6::Packet::new_unchecked(packet);
        let end = ipv6::HEADER_LEN + usize::from(ip.payload_len());
        let bytes = &packet[ipv6::HEADER_LEN..end];
        (ip.next_header(), Message { src: ip.src().into(), hop_limit: ip.hop_limit(), bytes })
    } else {
        return None;
    };
    (protocol == ip_protocol::VRRP).then_some(message)
}

/// RFC 5798 7.1, but for what depends on the configuration.
fn read(message: &Message<'_>, dst: IpAddr, port: PortId) -> Result<Advert, DropReason> {
    let packet = vrrp::Packet::new_checked(message.bytes, dst.is_ipv6())?;
    if message.hop_limit != vrrp::HOP_LIMIT || !packet.verify_checksum(message.src, dst) {
        return Err(DropReason::VrrpInvalid);
    }
    Ok(Advert {
        port,
        source: message.src,
        vrid: packet.vrid(),
        priority: packet.priority(),
        interval_cs: packet.interval_cs(),
        addresses: packet.count(),
    })
}

/// Whether an advert is one of ours that came back.
fn is_own<F>(shared: &Shared<F>, port: PortId, src: IpAddr) -> bool {
    match src {
        IpAddr::V4(src) => shared.snapshot.local_v4.contains_key(&src),
        IpAddr::V6(src) => {
            let mac = shared.snapshot.ports[usize::from(port.0)].mac;
            shared.snapshot.local_v6.contains_key(&src) || src == vrrp::link_local(mac)
        }
    }
}
