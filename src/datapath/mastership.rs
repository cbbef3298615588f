//! Which addresses of the pair this node answers for: those of the groups it is master of.
//!
//! Mastership is about who draws the traffic (ARP, neighbor discovery, echo), not about who forwards
//! it: a packet for a service is forwarded whoever is master, since the peer may relay it.

use super::family::Family;
use super::ha::{Ha, Masters};
use super::shared::Shared;
use super::snapshot::{Mac, PortId};

/// The virtual MAC addresses (RFC 5798 7.3) of the groups that this node is master of: frames to them
/// are ours.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VirtualMacs {
    any: bool,
    /// A bit for each virtual router id; IPv4, IPv6.
    ids: [[u64; 4]; 2],
}

impl VirtualMacs {
    fn of(ha: Option<&Ha>, masters: Masters) -> Self {
        let mut macs = VirtualMacs::default();
        let groups = ha.map_or(&[][..], |ha| &ha.groups).iter().zip(0u8..);
        for (group, _) in groups.filter(|(g, index)| g.virtual_mac && masters.has(*index)) {
            macs.any = true;
            for ids in &mut macs.ids {
                ids[usize::from(group.vrid / 64)] |= 1 << (group.vrid % 64);
            }
        }
        macs
    }

    /// The MAC address that this frame has to be for to be ours: the port's, or the virtual one that
    /// it is for. One test when there is none.
    #[inline(always)]
    pub(super) fn expected<'a>(&self, frame: &'a [u8], port: &'a Mac) -> &'a Mac {
        if self.any { self.look_up(frame).unwrap_or(port) } else { port }
    }

    #[inline(always)]
    fn look_up<'a>(&self, frame: &'a [u8]) -> Option<&'a Mac> {
        let dst: &Mac = frame.first_chunk()?;
        let [0, 0, 0x5e, 0, family @ 1..=2, id] = *dst else { return None };
        let ids = &self.ids[usize::from(family - 1)];
        (ids[usize::from(id / 64)] >> (id % 64) & 1 != 0).then_some(dst)
    }
}

impl<F> Shared<F> {
    /// Answers for the addresses of these groups from now on.
    pub(super) fn set_masters(&mut self, masters: Masters) {
        self.masters = masters;
        self.virtual_macs = VirtualMacs::of(self.snapshot.ha.as_deref(), masters);
    }

    /// Whether it is the peer that answers for this address of ours at present, or nobody.
    pub(super) fn is_not_master_of<A: Family>(&self, address: A) -> bool {
        let group = self.snapshot.ha.as_deref().and_then(|ha| A::group(ha, address));
        group.is_some_and(|group| !self.masters.has(group))
    }

    /// The MAC address that an address of ours has on a port: the virtual one of its group, or the
    /// port's.
    pub(super) fn mac_of<A: Family>(&self, port: PortId, address: A) -> Mac {
        let own = self.snapshot.ports[usize::from(port.0)].mac;
        let Some(ha) = self.snapshot.ha.as_deref() else { return own };
        match A::group(ha, address).and_then(|group| ha.groups.get(usize::from(group))) {
            Some(group) if group.virtual_mac => A::virtual_mac(group),
            _ => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::ha::{Channel, Group};
    use hashbrown::HashMap;

    const PORT: Mac = [2, 0, 0, 0, 0, 1];

    fn ha(groups: &[(u8, bool)]) -> Ha {
        let group = |&(vrid, virtual_mac): &(u8, bool)| Group { vrid, virtual_mac };
        Ha {
            groups: groups.iter().map(group).collect(),
            group_of_v4: HashMap::new(),
            group_of_v6: HashMap::new(),
            channel: Channel {
                port: PortId(0),
                group: "239.255.19.19:8849".parse().unwrap(),
                source: [192, 0, 2, 2].into(),
                peer: [192, 0, 2, 3].into(),
                rate: 1000,
                relay: true,
                config_digest: 0,
            },
        }
    }

    fn takes(macs: &VirtualMacs, dst: Mac) -> bool {
        macs.expected(&[&dst[..], &[0; 8]].concat(), &PORT) == &dst
    }

    #[test]
    fn only_macs_of_groups_we_are_master_of_are_ours() {
        let ha = ha(&[(1, true), (64, true), (255, true), (7, false)]);
        for bits in 0..16u32 {
            let macs = VirtualMacs::of(Some(&ha), Masters(bits));
            for (index, group) in ha.groups.iter().enumerate() {
                let ours = bits >> index & 1 != 0 && group.virtual_mac;
                assert_eq!(takes(&macs, group.mac_v4()), ours, "{bits:b} {group:?}");
                assert_eq!(takes(&macs, group.mac_v6()), ours, "{bits:b} {group:?}");
            }
            assert!(takes(&macs, PORT));
            for other in [
                [0, 0, 0x5e, 0, 1, 2],
                [0, 0, 0x5e, 0, 0, 1],
                [0, 0, 0x5e, 0, 3, 1],
                [0, 0, 0x5e, 1, 1, 1],
                [2, 0, 0, 0, 0, 2],
            ] {
                assert!(!takes(&macs, other), "{bits:b} {other:?}");
            }
            assert_eq!(macs.expected(&[0; 5], &PORT), &PORT);
        }
        assert!(!VirtualMacs::of(None, Masters(1)).any);
    }
}
