//! IP protocol numbers: the IPv4 protocol field and the IPv6 next header field (IANA "Protocol
//! Numbers").

/// ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// IPv4 inside (RFC 2003).
pub const IPV4: u8 = 4;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// IPv6 inside (RFC 2473, RFC 4213).
pub const IPV6: u8 = 41;
/// Generic routing encapsulation (RFC 2784).
pub const GRE: u8 = 47;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// VRRP (RFC 5798).
pub const VRRP: u8 = 112;

/// Hop-by-hop options (RFC 8200 4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Routing header (RFC 8200 4.4).
pub const ROUTING: u8 = 43;
/// Fragment header (RFC 8200 4.5).
pub const FRAGMENT: u8 = 44;
/// Encapsulating security payload (RFC 4303).
pub const ESP: u8 = 50;
/// Authentication header (RFC 4302).
pub const AUTHENTICATION: u8 = 51;
/// Destination options (RFC 8200 4.6).
pub const DESTINATION_OPTIONS: u8 = 60;
/// Mobility header (RFC 6275).
pub const MOBILITY: u8 = 135;
/// Host Identity Protocol (RFC 7401).
pub const HIP: u8 = 139;
/// Shim6 (RFC 5533).
pub const SHIM6: u8 = 140;

/// Whether an IPv6 next header value names an extension header (IANA "IPv6 Extension Header
/// Types", without the experimental 253 and 254).
pub const fn is_extension_header(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | ESP
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HIP
            | SHIM6
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_headers_are_those_of_iana() {
        let found: Vec<u8> = (0..=255).filter(|&n| is_extension_header(n)).collect();
        assert_eq!(found, [0, 43, 44, 50, 51, 60, 135, 139, 140]);
    }
}
