//! The header of the PROXY protocol, which tells a server at the beginning of the stream who the
//! client is and whom it connected to (HAProxy's "The PROXY protocol, versions 1 & 2").

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use arrayvec::ArrayVec;

/// The longest header: version 1 with IPv6 addresses (2.1), in bytes.
pub const MAX_LEN: usize = 107;

/// What version 2 begins with (2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// A header as it goes over the wire.
pub type Header = ArrayVec<u8, MAX_LEN>;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text, up to 56 bytes for IPv4 and 104 for IPv6.
    V1,
    /// Binary, 28 bytes for IPv4 and 52 for IPv6.
    V2,
}

/// The header of a TCP connection from `client` to `vip`. Addresses of two families go as IPv6, the
/// IPv4 one mapped.
pub fn header(version: Version, client: SocketAddr, vip: SocketAddr) -> Header {
    let mut header = Header::new();
    match (version, client.ip(), vip.ip()) {
        (Version::V1, IpAddr::V4(from), IpAddr::V4(to)) => {
            put(&mut header, b"PROXY TCP4 ");
            for address in [from, to] {
                for (i, octet) in address.octets().into_iter().enumerate() {
                    put(&mut header, if i == 0 { b"" } else { b"." });
                    decimal(&mut header, u16::from(octet));
                }
                put(&mut header, b" ");
            }
        }
        (Version::V1, from, to) => {
            put(&mut header, b"PROXY TCP6 ");
            for address in [from, to] {
                ipv6(&mut header, mapped(address));
                put(&mut header, b" ");
            }
        }
        (Version::V2, from, to) => {
            put(&mut header, &SIGNATURE);
            // Version 2, command PROXY; TCP over the family; the length of what follows.
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    put(&mut header, &[0x21, 0x11, 0, 12]);
                    put(&mut header, &from.octets());
                    put(&mut header, &to.octets());
                }
                _ => {
                    put(&mut header, &[0x21, 0x21, 0, 36]);
                    put(&mut header, &mapped(from).octets());
                    put(&mut header, &mapped(to).octets());
                }
            }
            put(&mut header, &client.port().to_be_bytes());
            put(&mut header, &vip.port().to_be_bytes());
            return header;
        }
    }
    decimal(&mut header, client.port());
    put(&mut header, b" ");
    decimal(&mut header, vip.port());
    put(&mut header, b"\r\n");
    header
}

/// The header of a connection that Shunt makes on its own behalf: a health check.
pub const fn of_ourselves(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n",
        // Command LOCAL, no addresses.
        Version::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// There is room: no header is longer than [`MAX_LEN`].
fn put(header: &mut Header, bytes: &[u8]) {
    let _ = header.try_extend_from_slice(bytes);
}

fn decimal(header: &mut Header, n: u16) {
    number(header, n, 10);
}

fn number(header: &mut Header, n: u16, base: u16) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if n >= base {
        number(header, n / base, base);
    }
    put(header, &[DIGITS[usize::from(n % base)]]);
}

/// As RFC 5952 has it: the longest run of at least two zero groups, the first of several, is "::".
fn ipv6(header: &mut Header, address: Ipv6Addr) {
    let groups = address.segments();
    let run = |from: usize| groups[from..].iter().take_while(|g| **g == 0).count();
    let longest = (0..8).rev().max_by_key(|&from| run(from)).unwrap_or(0);
    let zeros = if run(longest) >= 2 { longest..longest + run(longest) } else { 0..0 };
    for (i, group) in groups.into_iter().enumerate() {
        if zeros.contains(&i) {
            put(header, if i == zeros.start { b"::" } else { b"" });
            continue;
        }
        put(header, if i == 0 || i == zeros.end && !zeros.is_empty() { b"" } else { b":" });
        number(header, group, 16);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1() {
        let text = |client, vip| {
            String::from_utf8(header(Version::V1, at(client), at(vip)).to_vec()).unwrap()
        };
        assert_eq!(
            text("198.51.100.7:40000", "192.0.2.10:80"),
            "PROXY TCP4 198.51.100.7 192.0.2.10 40000 80\r\n"
        );
        assert_eq!(
            text("[2001:db8::7]:1", "[2001:db8:0:1:0:0:0:10]:65535"),
            "PROXY TCP6 2001:db8::7 2001:db8:0:1::10 1 65535\r\n"
        );
        let long = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert_eq!(text(long, long).len(), 104);
        let long = "255.255.255.255:65535";
        assert_eq!(text(long, long).len(), 56);
    }

    #[test]
    fn version_2() {
        let expected =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\x02\x0a\x9c\x40\0\x50";
        assert_eq!(
            header(Version::V2, at("198.51.100.7:40000"), at("192.0.2.10:80")).as_slice(),
            expected
        );
        let v6 = header(Version::V2, at("[2001:db8::7]:40000"), at("[2001:db8::10]:80"));
        assert_eq!(v6[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24");
        let (from, to): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::7".parse().unwrap(), "2001:db8::10".parse().unwrap());
        assert_eq!(v6[16..32], from.octets());
        assert_eq!(v6[32..48], to.octets());
        assert_eq!(v6[48..], [0x9c, 0x40, 0, 80]);
    }

    #[test]
    fn of_our_own() {
        assert_eq!(of_ourselves(Version::V1), b"PROXY UNKNOWN\r\n");
        assert_eq!(of_ourselves(Version::V2)[..12], SIGNATURE);
        assert_eq!(of_ourselves(Version::V2)[12..], [0x20, 0, 0, 0]);
    }

    #[test]
    fn two_families() {
        let both = header(Version::V1, at("1.2.3.4:5"), at("[2001:db8::1]:6"));
        assert_eq!(both.as_slice(), b"PROXY TCP6 ::ffff:102:304 2001:db8::1 5 6\r\n");
    }

    proptest! {
        #[test]
        fn text_is_what_the_standard_library_writes(
            client: [u16; 8], vip: [u16; 8], zeros: [u8; 2], sport: u16, dport: u16
        ) {
            // Zeros are rare by chance.
            let sparse = |groups: [u16; 8], zeros: u8| {
                let keep = |i: usize| zeros >> i & 1 == 0;
                Ipv6Addr::from(std::array::from_fn(|i| if keep(i) { groups[i] } else { 0 }))
            };
            let (from, to) = (sparse(client, zeros[0]), sparse(vip, zeros[1]));
            // Those are written half in decimal.
            prop_assume!(from.to_ipv4().is_none() && to.to_ipv4().is_none());
            let (a, b) = (SocketAddr::new(from.into(), sport), SocketAddr::new(to.into(), dport));
            let text = header(Version::V1, a, b);
            let expected = format!("PROXY TCP6 {from} {to} {sport} {dport}\r\n");
            prop_assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
        }
    }
}
