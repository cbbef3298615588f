//! The keys `syn_proxy` and `syn_proxy_above` of `[[service]]`.

use super::draft::ServiceDraft;
use super::reader::{At, Report, Section};
use super::values::{choice, integer};
use crate::datapath::policy::MidStream;
use crate::datapath::snapshot::{Introduction, SynProxy};
use crate::wire::flow::Protocol;

/// SYNs per second from which `auto` is on, if the file says nothing.
const ABOVE: u32 = 10_000;

/// The words of `syn_proxy`.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Off,
    On,
    Auto,
}

/// Reads both keys.
pub(super) fn read(s: &mut Section<'_>) -> Option<At<SynProxy>> {
    let words = &[("off", Word::Off), ("on", Word::On), ("auto", Word::Auto)];
    let word = s.optional("syn_proxy", choice(words, &[]), Word::Off);
    let given = s.has("syn_proxy_above");
    let above = s.optional("syn_proxy_above", integer(1..=100_000_000), ABOVE);
    let At { value: word, line } = word?;
    if given && word != Word::Auto {
        s.error("syn_proxy_above", "only for syn_proxy = \"auto\"; leave it out");
    }
    let value = match word {
        Word::Off => SynProxy::Off,
        Word::On => SynProxy::On,
        Word::Auto => SynProxy::Auto { above: above?.value },
    };
    Some(At { value, line })
}

/// Refuses it where it cannot work.
pub(super) fn check(service: &ServiceDraft, report: &Report<'_>) {
    let Some(At { value, line }) = &service.syn_proxy else { return };
    if *value == SynProxy::Off {
        return;
    }
    let error = |message: &str| report.error(*line, "[[service]]", "syn_proxy", message);
    if service.protocol.as_ref().is_some_and(|p| p.value == Protocol::Udp) {
        error("is for tcp services; leave it out");
    }
    if service.mode.as_ref().is_some_and(|m| m.value.one_way()) {
        error("needs the replies to pass here; expected mode = \"nat\" or \"fullnat\"");
    }
    if *value == SynProxy::On && service.policy.is_some_and(|p| p.mid_stream == MidStream::Adopt) {
        error(
            "\"on\" leaves nothing to adopt: a segment without a session must return a cookie; expected \"auto\", or another mid_stream",
        );
    }
    // What goes into the stream goes in with the client's own handshake.
    if service.introduction.is_some_and(|i| i != Introduction::None) {
        error("not together with proxy_protocol or toa; choose one of them");
    }
}
