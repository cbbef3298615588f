//! What becomes of a packet. Each packet that comes in gets exactly one verdict.

use super::note::Note;
use super::snapshot::PortId;
use crate::session::HopRef;
use crate::wire::DropReason;

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes out by this port.
    Forward(PortId),
    /// Goes to the kernel by this exception tap.
    Punt(PortId),
    /// Belongs to this worker, which is told so much about it. Given to oneself, it goes through
    /// the pipeline once more.
    HandOff(u8, Note),
    /// Waits for its next hop.
    Hold(HopRef),
    /// Ends here: what it said was taken in.
    Consume,
    /// Ends here, and the frame now holds the answer, which goes out by this port.
    Answer(PortId),
    /// Ends here.
    Drop(DropReason),
    /// Ends here, and the frame now holds the ICMP error, which goes out by this port.
    Refuse(DropReason, PortId),
    /// Waits for the first fragment of its packet.
    HoldFragment {
        /// Whether it is IPv6.
        v6: bool,
        /// Where its packet is remembered.
        place: u16,
    },
}
