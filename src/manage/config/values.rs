//! Parsers of single values. An error is "what is wrong; what would be right".

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::de::DeValue;

use super::reader::described;
use crate::datapath::snapshot::Mac;

/// An integer of a range.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&DeValue<'_>) -> Result<T, String>
where
    T: Copy + Display + PartialOrd + TryFrom<i128>,
{
    move |value| {
        let (low, high) = (range.start(), range.end());
        let DeValue::Integer(given) = value else {
            return Err(format!("is {}; expected {low} to {high}", described(value)));
        };
        i128::from_str_radix(given.as_str(), given.radix())
            .ok()
            .and_then(|n| T::try_from(n).ok())
            .filter(|n| range.contains(n))
            .ok_or_else(|| format!("{given} is out of range; expected {low} to {high}"))
    }
}

/// A boolean.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("is {}; expected true or false", described(value)))
}

/// A string that `parse` understands.
pub(super) fn string<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| match value.as_str() {
        Some(text) => parse(text),
        None => Err(format!("is {}; expected a string", described(value))),
    }
}

/// One of some words; `later` are those that a later version will know.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
    later: &'static [&'static str],
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    string(move |text| {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let expected = words.iter().map(|(w, _)| format!("{w:?}")).collect::<Vec<_>>().join(", ");
        let wrong = if later.contains(&text) { "is not supported yet" } else { "is unknown" };
        Err(format!("{text:?} {wrong}; expected {expected}"))
    })
}

/// Any string.
pub(super) fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A name that can be typed on a command line and printed in a table.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        return any(text);
    }
    Err(format!("{text:?} is not a name; expected 1 to 63 letters, digits, \"-\", \"_\" or \".\""))
}

/// A name of a network interface, or "" for none. Linux allows 15 bytes (IFNAMSIZ).
pub(super) fn interface(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() <= 15 && text != "." && text != ".." && name(text).is_ok() {
        return Ok(Some(text.to_owned()));
    }
    Err(format!(
        "{text:?} cannot name an interface; expected 1 to 15 letters, digits, \"-\", \"_\" or \".\""
    ))
}

/// A path of a Unix socket: absolute, and at most 107 bytes (unix(7)).
pub(super) fn socket_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.len() <= 107 && !text.contains('\0') {
        return any(text);
    }
    Err(format!("{text:?} cannot be a socket; expected an absolute path of at most 107 bytes"))
}

/// A PCI address in full: domain, bus, device, function.
pub(super) fn pci(text: &str) -> Result<String, String> {
    canonical_pci(text)
        .ok_or_else(|| format!("{text:?} is not a PCI address; expected one like 0000:3b:00.0"))
}

/// The PCI address with its domain and in lower case, if it is one.
pub(super) fn canonical_pci(text: &str) -> Option<String> {
    let hex = |part: &str, digits: RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let (rest, function) = text.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    let valid = hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1);
    valid.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// `NAME` or `NAME,ARGUMENTS` of a virtual device.
pub(super) fn vdev(text: &str) -> Result<String, String> {
    if name(vdev_name(text)).is_ok() {
        return any(text);
    }
    Err(format!("{text:?} is not a vdev; expected one like net_af_packet0,iface=eth0"))
}

/// The name in a vdev string.
pub(super) fn vdev_name(text: &str) -> &str {
    text.split_once(',').map_or(text, |(name, _)| name)
}

/// A MAC address of one host.
pub(super) fn mac(text: &str) -> Result<Mac, String> {
    const EXAMPLE: &str = "expected one like 02:00:00:00:00:12";
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|pair| match pair.as_bytes() {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                u8::from_str_radix(pair, 16).ok()
            }
            _ => None,
        })
        .collect();
    let mac: Mac = octets
        .and_then(|o| o.try_into().ok())
        .ok_or_else(|| format!("{text:?} is not a MAC address; {EXAMPLE}"))?;
    if mac[0] & 1 != 0 {
        return Err(format!("{text} is a multicast MAC address; {EXAMPLE}"));
    }
    if mac == [0; 6] {
        return Err(format!("{text} is no host's MAC address; {EXAMPLE}"));
    }
    Ok(mac)
}

/// An address of one host on some wire.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let ip = text.parse().map_err(|_| {
        format!("{text:?} is not an IP address; expected one like 10.0.0.11 or 2001:db8::11")
    })?;
    unicast(ip)
}

/// A LIP: an address that is routed, so not an IPv6 link-local one.
pub(super) fn routed_address(text: &str) -> Result<IpAddr, String> {
    address(text).and_then(routed)
}

/// A port's address with the length of its network's prefix.
pub(super) fn interface_address(text: &str) -> Result<IpNet, String> {
    let net = network_text(text)?;
    unicast(net.addr())?;
    let IpNet::V4(v4) = net else { return Ok(net) };
    if v4.prefix_len() < 31 && (v4.addr() == v4.network() || v4.addr() == v4.broadcast()) {
        let what = if v4.addr() == v4.network() { "network" } else { "broadcast" };
        let first = v4.hosts().next().unwrap_or(v4.addr());
        return Err(format!(
            "{text} is the {what} address; expected the port's own, like {first}/{}",
            v4.prefix_len()
        ));
    }
    Ok(net)
}

/// The destinations of a route: a network, so no host bits.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let net = network_text(text)?;
    unmapped(net)?;
    if net.addr() != net.network() {
        return Err(format!("{text} has bits set behind its prefix; expected {}", net.trunc()));
    }
    Ok(net)
}

/// Refuses IPv4-mapped IPv6: on a wire such addresses are IPv4, so a network of them has no packet.
pub(super) fn unmapped(net: IpNet) -> Result<IpNet, String> {
    let IpNet::V6(v6) = net else { return Ok(net) };
    let length = v6.prefix_len().checked_sub(96);
    let (Some(v4), Some(length)) = (v6.network().to_ipv4_mapped(), length) else {
        return Ok(net);
    };
    let right = if length == 32 { v4.to_string() } else { format!("{v4}/{length}") };
    Err(format!("{v6} is IPv4-mapped; expected {right}"))
}

/// A port number in digits alone.
pub(super) fn port_number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// An address and a port, where a service listens or a server serves.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 80);
        return Err(format!("{text:?} has no port; expected ADDRESS:PORT, like {example}"));
    }
    let at: SocketAddr = text.parse().map_err(|_| {
        format!("{text:?} is not ADDRESS:PORT; expected one like 10.0.0.11:80 or [2001:db8::11]:80")
    })?;
    if at.port() == 0 {
        return Err(format!("{text} has port 0; expected 1 to 65535"));
    }
    // Through the parsed address, so that a scope ("%1") does not survive into comparisons.
    unicast(at.ip()).and_then(routed).map(|ip| SocketAddr::new(ip, at.port()))
}

/// A path to ask for in an HTTP request line.
pub(super) fn http_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        return any(text);
    }
    Err(format!("{text:?} is not a path; expected one like \"/healthz\", without spaces"))
}

/// A value of the HTTP Host header.
pub(super) fn http_host(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        return any(text);
    }
    Err(format!("{text:?} is not a host; expected one like \"www.example.com\""))
}

/// HTTP status codes: `200`, `200-299` or several with commas between.
pub(super) fn statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let code = |s: &str| {
        let s = s.trim();
        let digits = s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| s.parse().ok()).flatten().filter(|c: &u16| (100..=599).contains(c))
    };
    text.split(',')
        .map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (code(low)?, code(high)?);
            (low <= high).then_some((low, high))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            format!(
                "{text:?} is no list of status codes; expected one like \"200-299\" or \"200,204\""
            )
        })
}

fn network_text(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(ip) => {
            let length = if ip.is_ipv4() { 24 } else { 64 };
            format!("{text:?} has no prefix length; expected ADDRESS/LENGTH, like {ip}/{length}")
        }
        Err(_) => format!(
            "{text:?} is not ADDRESS/LENGTH; expected one like 192.0.2.2/24 or 2001:db8::2/64"
        ),
    })
}

/// Refuses what cannot be one host's address on a wire (RFC 1812 5.3.7, RFC 4291 2.5).
fn unicast(ip: IpAddr) -> Result<IpAddr, String> {
    let wrong = match ip {
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => "a reserved address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4-mapped address",
        _ => return Ok(ip),
    };
    Err(format!("{ip} is {wrong}; expected a unicast address"))
}

fn routed(ip: IpAddr) -> Result<IpAddr, String> {
    match ip {
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            Err(format!("{ip} is a link-local address; expected a routed one"))
        }
        _ => Ok(ip),
    }
}
