//! The query of `GET /v1/sessions` → what the workers are asked.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::types::{DEFAULT_SESSION_LIMIT, MAX_SESSION_LIMIT, SessionParameters};
use crate::datapath::snapshot::Snapshot;
use crate::session::{ServerId, ServiceId};
use crate::worker::control::SessionFilter;

/// The filter and the limit, or a sentence that says what is wrong with the query.
pub(super) fn parse(
    parameters: &SessionParameters,
    snapshot: &Snapshot,
) -> Result<(SessionFilter, usize), String> {
    let mut filter = SessionFilter::default();
    if let Some(name) = &parameters.service {
        let at = snapshot.services.iter().position(|s| &s.name == name);
        let at = at.ok_or_else(|| {
            let known: Vec<&str> = snapshot.services.iter().map(|s| s.name.as_str()).collect();
            format!("no service is called {name}; there are: {}", known.join(", "))
        })?;
        filter.service = Some(ServiceId(at as u16));
    }
    if let Some(text) = &parameters.server {
        filter.servers = servers(text, snapshot)?;
    }
    if let Some(text) = &parameters.client {
        filter.client = Some(network(text)?);
    }
    let limit = parameters.limit.unwrap_or(DEFAULT_SESSION_LIMIT);
    if !(1..=MAX_SESSION_LIMIT).contains(&limit) {
        return Err(format!("limit {limit} is not between 1 and {MAX_SESSION_LIMIT}"));
    }
    Ok((filter, limit))
}

fn servers(text: &str, snapshot: &Snapshot) -> Result<Vec<ServerId>, String> {
    let (address, port) = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(address), _) => (address, None),
        (_, Ok(both)) => (both.ip(), Some(both.port())),
        _ => return Err(format!("server {text} is neither ADDRESS nor ADDRESS:PORT")),
    };
    let matching: Vec<ServerId> = snapshot
        .servers
        .iter()
        .enumerate()
        .filter(|(_, s)| s.address == address && port.is_none_or(|port| s.port == port))
        .map(|(id, _)| ServerId(id as u16))
        .collect();
    // An empty list would mean all of them.
    if matching.is_empty() {
        Err(format!("no server has the address {text}"))
    } else {
        Ok(matching)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpAddr>()
        .map(IpNet::from)
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| format!("client {text} is neither ADDRESS nor ADDRESS/LENGTH"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::testing::snapshot;

    fn asked(service: &str, server: &str, client: &str) -> SessionParameters {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_string());
        SessionParameters {
            service: some(service),
            server: some(server),
            client: some(client),
            limit: None,
        }
    }

    #[test]
    fn filters() {
        let s = snapshot();
        assert_eq!(parse(&asked("", "", ""), &s), Ok((SessionFilter::default(), 100)));
        let (filter, _) = parse(&asked("dns", "10.0.0.11", "198.51.100.7"), &s).unwrap();
        assert_eq!(
            filter,
            SessionFilter {
                service: Some(ServiceId(1)),
                servers: vec![ServerId(0)],
                client: Some("198.51.100.7/32".parse().unwrap()),
            }
        );
        let (filter, _) = parse(&asked("", "10.9.0.12:8080", "2001:db8::/32"), &s).unwrap();
        assert_eq!(filter.servers, [ServerId(1)]);
        assert_eq!(filter.client, Some("2001:db8::/32".parse().unwrap()));
        let all = SessionParameters { limit: Some(10_000), ..SessionParameters::default() };
        assert_eq!(parse(&all, &s).unwrap().1, 10_000);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let s = snapshot();
        let error = |p: SessionParameters| parse(&p, &s).unwrap_err();
        assert_eq!(error(asked("wep", "", "")), "no service is called wep; there are: web, dns");
        assert_eq!(error(asked("", "10.0.0.99", "")), "no server has the address 10.0.0.99");
        assert_eq!(error(asked("", "10.0.0.11:1", "")), "no server has the address 10.0.0.11:1");
        assert_eq!(error(asked("", "x", "")), "server x is neither ADDRESS nor ADDRESS:PORT");
        assert_eq!(
            error(asked("", "", "1.2.3")),
            "client 1.2.3 is neither ADDRESS nor ADDRESS/LENGTH"
        );
        for limit in [0, 10_001] {
            let p = SessionParameters { limit: Some(limit), ..SessionParameters::default() };
            assert_eq!(error(p), format!("limit {limit} is not between 1 and 10000"));
        }
    }
}
