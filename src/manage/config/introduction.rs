//! How servers are told the client's address: the keys `proxy_protocol` and `toa`.

use super::reader::{At, Section};
use super::schema::value;
use super::values::{boolean, choice};
use crate::datapath::snapshot::Introduction;
use crate::session::Mode;
use crate::wire::flow::Protocol;

/// Reads them from a service, which is `fullnat` and `tcp` if it has one of them.
pub(super) fn read(
    s: &mut Section<'_>,
    mode: Option<&At<Mode>>,
    protocol: Option<&At<Protocol>>,
) -> Option<Introduction> {
    let proxy = value(s.optional(
        "proxy_protocol",
        choice(
            &[
                ("off", Introduction::None),
                ("v1", Introduction::ProxyV1),
                ("v2", Introduction::ProxyV2),
            ],
            &[],
        ),
        Introduction::None,
    ));
    let toa = value(s.optional("toa", boolean, false));
    let given = [
        ("proxy_protocol", "\"off\"", proxy.is_some_and(|p| p != Introduction::None)),
        ("toa", "false", toa == Some(true)),
    ];
    for (key, off, _) in given.iter().filter(|(.., on)| *on) {
        if mode.is_some_and(|m| m.value != Mode::FullNat) {
            let message = format!(
                "only in mode \"fullnat\", in the others servers see the client; \
                 expected {key} = {off}"
            );
            s.error(key, message);
        } else if protocol.is_some_and(|p| p.value != Protocol::Tcp) {
            s.error(key, format!("only for protocol = \"tcp\"; expected {key} = {off}"));
        }
    }
    if given.iter().all(|(.., on)| *on) {
        s.error("toa", "not together with proxy_protocol; choose one of them");
    }
    match (proxy?, toa?) {
        (Introduction::None, true) => Some(Introduction::Toa),
        (proxy, _) => Some(proxy),
    }
}
