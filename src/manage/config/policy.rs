//! The keys of `[[service]]` that say what it does with its sessions beyond forwarding them.

use super::reader::{At, Section};
use super::values::{boolean, choice, integer};
use crate::datapath::policy::{MidStream, OnServerDown, Policy};
use crate::sched::SchedulerKind;
use crate::session::Mode;
use crate::wire::flow::Protocol;

/// The least maximum segment size that Linux takes (TCP_MIN_MSS), and what an mtu of 9216 leaves.
const MSS: std::ops::RangeInclusive<u16> = 88..=9_176;

/// Reads them and checks them against the service's other keys. `None` when one is wrong.
pub(super) fn read(
    s: &mut Section<'_>,
    protocol: Option<&At<Protocol>>,
    mode: Option<&At<Mode>>,
    scheduler: Option<SchedulerKind>,
) -> Option<Policy> {
    let default = Policy::of(protocol.map_or(Protocol::Tcp, |p| p.value));
    let mid_stream = s.optional(
        "mid_stream",
        choice(
            &[("drop", MidStream::Drop), ("reset", MidStream::Reset), ("adopt", MidStream::Adopt)],
            &[],
        ),
        default.mid_stream,
    );
    let reset_on_expiry = s.optional("reset_on_expiry", boolean, default.reset_on_expiry);
    let on_server_down = s.optional(
        "on_server_down",
        choice(&[("keep", OnServerDown::Keep), ("end", OnServerDown::End)], &[]),
        default.on_server_down,
    );
    let mss = s.optional(
        "mss",
        |value| match integer(0..=*MSS.end())(value)? {
            mss if mss == 0 || MSS.contains(&mss) => Ok(mss),
            mss => Err(format!(
                "{mss} is out of range; expected 0 or {} to {}",
                MSS.start(),
                MSS.end()
            )),
        },
        default.mss,
    );
    let dscp = s.maybe("dscp", integer(0..=63_u8));
    if s.has("dscp") && dscp.is_none() {
        return None;
    }
    let mid_stream = mid_stream?.value;
    if protocol.is_some_and(|p| p.value == Protocol::Udp) {
        for key in ["mid_stream", "reset_on_expiry", "mss"] {
            if s.has(key) {
                s.error(key, "only for protocol = \"tcp\"; leave it out");
            }
        }
    } else if mid_stream == MidStream::Adopt {
        adopt(s, mode, scheduler);
    }
    Some(Policy {
        mid_stream,
        reset_on_expiry: reset_on_expiry?.value,
        on_server_down: on_server_down?.value,
        mss: mss?.value,
        dscp: dscp.map(|dscp| dscp.value),
    })
}

/// A connection can be adopted only when its server can be told from the packet alone, and when that
/// server knows the client by the packet's own source.
fn adopt(s: &Section<'_>, mode: Option<&At<Mode>>, scheduler: Option<SchedulerKind>) {
    if mode.is_some_and(|m| m.value == Mode::FullNat) {
        let message = "\"adopt\" cannot find the local port of a connection in mode \"fullnat\"; \
                       expected \"drop\", \"reset\"";
        s.error("mid_stream", message);
    }
    if let Some(kind) = scheduler
        && !kind.hashes()
    {
        let message = format!(
            "\"adopt\" needs a scheduler that gives a client the same server every time, and \
             {:?} does not; expected scheduler = \"sh\" or \"maglev\"",
            kind.name()
        );
        s.error("mid_stream", message);
    }
}
