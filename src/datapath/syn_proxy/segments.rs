//! The segments that Shunt takes part in itself: read from one side, made for the other.

use crate::datapath::family::Family;
use crate::datapath::frame::Frame;
use crate::datapath::lane::Item;
use crate::datapath::segment;
use crate::datapath::shared::Shared;
use crate::datapath::verdict::Verdict;
use crate::rewrite::dscp;
use crate::rewrite::ethernet::turn_round;
use crate::session::ServiceId;
use crate::wire::flow::FlowKey;
use crate::wire::syn_options::{MAX_LEN, SynOptions};
use crate::wire::{DropReason, tcp};

/// What a segment says beyond its flow.
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// All eight.
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) has_data: bool,
    pub(super) options: SynOptions,
}

/// Reads a segment that Shunt takes part in itself. Its checksum is verified, unless the sender
/// left it unfinished: what it says goes into packets with a checksum of their own.
pub(super) fn read<A: Family, F: Frame>(frame: &F, item: &Item<A>) -> Result<Segment, DropReason> {
    let bytes = &frame.bytes()[A::TRANSPORT..usize::from(item.flow.frame_len)];
    let packet = tcp::Packet::new_checked(bytes)?;
    if !item.fill_checksum && !packet.verify_checksum(item.flow.key.src, item.flow.key.dst) {
        return Err(DropReason::BadTransportChecksum);
    }
    Ok(Segment {
        seq: packet.seq(),
        ack: packet.ack(),
        flags: packet.flags(),
        window: packet.window(),
        has_data: !packet.payload().is_empty(),
        options: SynOptions::parse(packet.options()),
    })
}

/// The numbers of a segment that Shunt makes.
#[derive(Clone, Copy)]
pub(super) struct Made {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) options: SynOptions,
    /// What the service marks its packets with.
    pub(super) dscp: Option<u8>,
}

impl Made {
    pub(super) const fn plain(seq: u32, ack: u32, flags: u8) -> Self {
        let options =
            SynOptions { mss: None, window_scale: None, sack_permitted: false, timestamps: None };
        Made { seq, ack, flags, window: 0, options, dscp: None }
    }

    /// The same, marked as packets of the service are.
    pub(super) fn of<F>(mut self, shared: &Shared<F>, service: ServiceId) -> Self {
        let service = shared.snapshot.services.get(usize::from(service.0));
        self.dscp = service.and_then(|service| service.policy.dscp);
        self
    }

    /// Makes the frame this segment. The MAC addresses are left alone.
    pub(super) fn write<A: Family, F: Frame>(&self, frame: &mut F, key: &FlowKey<A>) -> bool {
        let mut options = [0; MAX_LEN];
        let len = self.options.emit(&mut options);
        if !frame.set_len(segment::frame_len::<A>(len)) {
            return false;
        }
        let bytes = frame.bytes_mut();
        let at = segment::frame_len::<A>(0);
        bytes[at..].copy_from_slice(&options[..len]);
        segment::emit(bytes, key, self.seq, self.ack, self.flags, self.window, len);
        if let Some(dscp) = self.dscp {
            dscp::set::<A>(bytes, dscp);
        }
        true
    }

    /// Makes the frame this segment and sends it back where it came from.
    pub(super) fn answer<A: Family, F: Frame>(
        &self,
        shared: &Shared<F>,
        frame: &mut F,
        key: &FlowKey<A>,
    ) -> Verdict {
        if !self.write(frame, &key.reversed()) {
            return Verdict::Drop(DropReason::NoBuffer);
        }
        let port = frame.rx_port();
        turn_round(frame.bytes_mut(), &shared.snapshot.ports[usize::from(port.0)].mac);
        Verdict::Answer(port)
    }
}
