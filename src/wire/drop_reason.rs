//! Why a packet was dropped: one named reason for each drop, the vocabulary of the whole house.
//!
//! Operators meet these names in `shunt drops`; each has a sentence that says what it means for
//! them.

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $help:literal;)*) => {
        /// The reason why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in counters and in the output of `shunt drops`.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What it means, in one sentence for the operator.
            pub const fn help(self) -> &'static str {
                match self { $(DropReason::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    // Frames that cannot be read.
    FrameTooShort, "frame_too_short", "The frame ends before its headers do.";
    FrameTooLong, "frame_too_long", "The frame came in several buffers: it is longer than the port's mtu.";
    NotOurMac, "not_our_mac", "The destination MAC address is not this port's.";
    VlanTagged, "vlan_tagged", "The frame carries a VLAN tag and the port is untagged.";
    VlanUnknown, "vlan_unknown", "The frame carries a VLAN that no port of its device has.";
    VlanMissing, "vlan_missing", "The frame carries no VLAN tag and every port of its device has a VLAN.";
    UnknownEtherType, "unknown_ether_type", "Neither IPv4, IPv6 nor ARP, and the port has no exception path.";
    BadArp, "bad_arp", "An ARP packet with wrong lengths, types or addresses.";
    BadNdp, "bad_ndp", "A neighbor discovery packet that RFC 4861 says to ignore.";
    ArpNotForUs, "arp_not_for_us", "An ARP request or neighbor solicitation for an address that is not ours.";
    NotMaster, "not_master", "An ICMP message for an address that the peer answers for at present (VRRP).";
    VrrpInvalid, "vrrp_invalid", "A VRRP advert with a wrong TTL, version, length or checksum (RFC 5798 7.1).";
    // IP headers.
    BadIpVersion, "bad_ip_version", "The version field contradicts the EtherType.";
    BadIpHeaderLength, "bad_ip_header_length", "The IPv4 header length is below 20 bytes.";
    BadIpLength, "bad_ip_length", "The IP length is larger than the frame or smaller than the header.";
    BadIpChecksum, "bad_ip_checksum", "The IPv4 header checksum is wrong.";
    IpOptions, "ip_options", "An IPv4 packet with options other than source routing.";
    ExtensionHeader, "extension_header", "An IPv6 packet with extension headers.";
    Fragment, "fragment", "A fragment of a packet that is neither TCP nor UDP, or of a TCP stream that is changed on its way.";
    BadFragment, "bad_fragment", "A fragment whose length or offset cannot be, or a fragmented SYN or RST.";
    TinyFragment, "tiny_fragment", "A first fragment without the whole TCP or UDP header, or another that begins inside it (RFC 1858, RFC 3128).";
    FragmentOverlap, "fragment_overlap", "Fragments of one packet overlap (RFC 5722), or the network has doubled one.";
    FragmentExpired, "fragment_expired", "The first fragment of its packet did not come.";
    FragmentTableFull, "fragment_table_full", "No room to remember another fragmented packet.";
    FragmentBetweenFamilies, "fragment_between_families", "The first fragment of an IPv4 datagram without checksum, for an IPv6 server: one cannot be computed without the others (RFC 7915 4.5).";
    FragmentQueueFull, "fragment_queue_full", "Too many fragments wait for the first one of their packet.";
    Martian, "martian", "A source or destination address that cannot be on a wire (RFC 1812 5.3.7).";
    Land, "land", "Source and destination are the same address and port.";
    Joining, "joining", "A new connection that needs a port of this node, while it has yet to learn from its peer which are in use; clients try again.";
    SyncRefused, "sync_refused", "A datagram of the channel between two nodes that is not the peer's, not new or not readable; `shunt ha` says which.";
    SpoofedLocal, "spoofed_local", "The source is one of our own addresses.";
    Bogon, "bogon", "A client's source address that is not globally reachable (protection.bogons).";
    SpoofedInside, "spoofed_inside", "The source is reached by another port than the packet came by (protection.reverse_path).";
    SourceRoute, "source_route", "An IPv4 packet that asks for a route of its own (source routing).";
    HopLimitExceeded, "hop_limit_exceeded", "TTL or hop limit ran out here; Time Exceeded was sent, as often as its limit allows.";
    PacketTooBig, "packet_too_big", "Longer than the mtu of the port it would leave by; if it may not be fragmented, the sender was told as often as the limit of ICMP errors allows.";
    // Transport headers.
    BadTcpHeader, "bad_tcp_header", "The TCP header is cut short or its data offset is wrong.";
    BadTcpFlags, "bad_tcp_flags", "A combination of TCP flags that no stack sends, other than those below.";
    NullScan, "null_scan", "A TCP segment without flags.";
    FinScan, "fin_scan", "A TCP segment with FIN alone.";
    XmasScan, "xmas_scan", "A TCP segment with FIN, PSH and URG alone.";
    SynFin, "syn_fin", "A TCP segment with both SYN and FIN.";
    SynRst, "syn_rst", "A TCP segment with both SYN and RST.";
    PortZero, "port_zero", "TCP or UDP from or to port 0.";
    BadUdpHeader, "bad_udp_header", "The UDP header is cut short or its length is wrong.";
    BadTransportChecksum, "bad_transport_checksum", "The port reports a wrong TCP or UDP checksum.";
    BadIcmp, "bad_icmp", "An ICMP packet that is cut short or whose checksum is wrong.";
    IcmpNotHandled, "icmp_not_handled", "An ICMP message for a VIP that is not an echo request.";
    // Packet filter and limits.
    Filtered, "filtered", "A rule of the packet filter drops it; shunt filters tells which.";
    FilterRejected, "filter_rejected", "A rule of the packet filter rejects it; the sender was told as often as the limits of resets and ICMP errors allow.";
    FilterLimited, "filter_limited", "Above the rate that a rule of the packet filter allows.";
    ConnectionRate, "connection_rate", "More new connections per second than the service allows.";
    PacketRate, "packet_rate", "More packets per second than the service allows.";
    HalfOpenLimit, "half_open_limit", "As many handshakes are incomplete as the service allows.";
    SourceConnectionRate, "source_connection_rate", "More new connections per second than the service allows one source.";
    SourcePacketRate, "source_packet_rate", "More packets per second than the service allows one source.";
    SourceHalfOpenLimit, "source_half_open_limit", "As many handshakes of one source are incomplete as the service allows it.";
    BadIcmpQuote, "bad_icmp_quote", "An ICMP error that does not quote enough of the packet it is about, or a later fragment.";
    IcmpNoSession, "icmp_no_session", "An ICMP error about a packet of no known session.";
    IcmpOutOfWindow, "icmp_out_of_window", "An ICMP error about a TCP segment that its sender cannot have in flight (RFC 5927).";
    IcmpNotTranslatable, "icmp_not_translatable", "An ICMP error between the families that has no counterpart in the other one (RFC 7915).";
    // Sessions and services.
    NoService, "no_service", "The address is a VIP, but no service listens on this protocol and port.";
    NoSession, "no_session", "In mid-stream and no session is known for it.";
    NoServer, "no_server", "No real server of the service is up and has weight.";
    ServerLimit, "server_limit", "The real server has as many connections as it may (max_connections), and so has every other; the client was refused as often as the limits of resets and ICMP errors allow.";
    ServiceLimit, "service_limit", "The service has as many connections as it may (max_connections); the client was refused as often as the limits of resets and ICMP errors allow.";
    SessionTableFull, "session_table_full", "The session table is at its capacity (node.sessions).";
    ReplyTupleInUse, "reply_tuple_in_use", "Another session already uses the reply addresses and ports.";
    LocalPortsExhausted, "local_ports_exhausted", "FullNAT: no free local port towards the real server; add local_addresses.";
    SnatPortsExhausted, "snat_ports_exhausted", "SNAT: no free port for a host inside; add addresses to the pool.";
    SnatSourceLimit, "snat_source_limit", "SNAT: the host inside holds as many ports as it may (ports_per_source).";
    SnatNoMapping, "snat_no_mapping", "SNAT: from outside to a pool address and port behind which nobody is, or not for this sender.";
    SnatFiltered, "snat_filtered", "SNAT: from outside, and the filtering of the mapping does not let this sender in.";
    SnatNoHairpin, "snat_no_hairpin", "SNAT: from inside to a pool address, and hairpin is off.";
    SynCookieInvalid, "syn_cookie_invalid", "SYN proxy: in mid-stream, no session is known, and it acknowledges no SYN cookie of this node that is still good.";
    SynProxyWaiting, "syn_proxy_waiting", "SYN proxy: the client is connected and the server has not yet answered Shunt's SYN; the sender will send this again.";
    NotLocal, "not_local", "Neither for a service nor for an address of this node.";
    TcpOutOfWindow, "tcp_out_of_window", "A TCP reset whose sequence number its connection cannot have: forged, or very late.";
    NoException, "no_exception", "For an address of this node, but the port has no exception path to the kernel.";
    PuntLimited, "punt_limited", "More packets for the kernel than it is given per second.";
    // Next hops.
    NoRoute, "no_route", "No route leads to the destination.";
    NeighborUnresolved, "neighbor_unresolved", "The next hop did not answer ARP or neighbor discovery.";
    NeighborQueueFull, "neighbor_queue_full", "Too many packets wait for the next hop to be resolved.";
    NeighborTableFull, "neighbor_table_full", "No room for another next hop.";
    // Out of the worker.
    HandOffFull, "hand_off_full", "The ring to the worker that owns the packet is full.";
    TxRefused, "tx_refused", "The port did not take the packet: its transmit queue is full.";
    NoBuffer, "no_buffer", "No packet buffer was free, or the packet's own was too small for its answer.";
    NoHeadroom, "no_headroom", "The packet's buffer has no room for the headers to go before it: a tunnel's, IPv6 ones in the place of IPv4, or a VLAN tag.";
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_ordered() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(DropReason::ALL[..i].iter().all(|r| r.name() != reason.name()));
        }
    }
}
