//! Next hops of one worker: the Ethernet header towards each, and the packets that wait for it.
//!
//! A session keeps a [`HopRef`]; the hop itself is 16 bytes in a small table that stays in the
//! cache, so a host that changes its MAC address is one write here and not one per session. The
//! management thread does the asking (ARP, neighbor discovery): an unknown hop is reported with
//! [`Notice::Wanted`](super::notice::Notice::Wanted), and [`Hops::update`] brings the answer.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::frame::Frame;
use super::snapshot::{Mac, PortId};
use crate::rewrite::ethernet::{self, Addresses};
use crate::session::HopRef;
use crate::wire::DropReason;

/// How many next hops a worker knows at the most.
pub const MAX_HOPS: usize = 16_384;
/// How many packets wait at the most, for all hops.
pub const MAX_HELD: usize = 1024;
/// How many packets wait at the most for one hop.
pub const MAX_HELD_PER_HOP: u16 = 128;
/// How long a packet waits, in milliseconds.
pub const MAX_WAIT_MS: u32 = 3000;
/// How often an unresolved hop is asked for again, in milliseconds.
const ASK_AGAIN_MS: u32 = 1000;
/// How many entries are looked at for one to reuse when the table is full.
const EVICTION_SCAN: usize = 64;

/// A next hop as the hot path uses it.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Its MAC address and that of the port.
    pub addresses: Addresses,
    /// The port to leave by.
    pub port: PortId,
    /// Whether the MAC address is known.
    pub ready: bool,
    generation: u16,
}

const _: () = assert!(size_of::<Hop>() == 16);

/// What the hot path does not need of a hop.
#[derive(Clone, Copy, Debug)]
struct Details {
    address: IpAddr,
    asked: Option<u32>,
    held: u16,
}

#[derive(Debug)]
struct Held<F> {
    hop: u16,
    since: u32,
    frame: F,
}

/// What has become of held packets.
pub enum Released<F> {
    /// It goes out by this port.
    Send(PortId, F),
    /// It is dropped.
    Drop(DropReason, F),
}

/// The next hops of a worker.
#[derive(Debug)]
pub struct Hops<F> {
    hops: Vec<Hop>,
    details: Vec<Details>,
    by_address: HashMap<(PortId, IpAddr), u16>,
    held: Vec<Held<F>>,
    eviction_hand: usize,
}

impl<F: Frame> Default for Hops<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Frame> Hops<F> {
    /// None known. Allocates all it will ever need.
    pub fn new() -> Self {
        Hops {
            hops: Vec::with_capacity(MAX_HOPS),
            details: Vec::with_capacity(MAX_HOPS),
            // Twice the room: at half of it a map that entries come and go in outgrows itself.
            by_address: HashMap::with_capacity(2 * MAX_HOPS),
            held: Vec::with_capacity(MAX_HELD),
            eviction_hand: 0,
        }
    }

    /// The hop, unless it was given up since the reference was made.
    #[inline(always)]
    pub fn get(&self, hop: HopRef) -> Option<&Hop> {
        let found = self.hops.get(usize::from(hop.index))?;
        (found.generation == hop.generation).then_some(found)
    }

    /// The reference of a next hop, made when it is new. `port_mac` is the source address of frames
    /// towards it.
    pub fn resolve(
        &mut self,
        port: PortId,
        address: IpAddr,
        port_mac: &Mac,
    ) -> Result<HopRef, DropReason> {
        if let Some(&index) = self.by_address.get(&(port, address)) {
            return Ok(self.reference(index));
        }
        let index = if self.hops.len() < MAX_HOPS {
            self.hops.push(Hop { addresses: [0; 12], port, ready: false, generation: 0 });
            self.details.push(Details { address, asked: None, held: 0 });
            (self.hops.len() - 1) as u16
        } else {
            self.evict().ok_or(DropReason::NeighborTableFull)?
        };
        let hop = &mut self.hops[usize::from(index)];
        hop.addresses = [0; 12];
        hop.addresses[6..].copy_from_slice(port_mac);
        hop.port = port;
        hop.ready = false;
        self.details[usize::from(index)] = Details { address, asked: None, held: 0 };
        self.by_address.insert((port, address), index);
        Ok(self.reference(index))
    }

    /// Whether it is time to ask the management thread for this hop; notes that it was asked.
    pub fn should_ask(&mut self, hop: HopRef, now: u32) -> Option<(PortId, IpAddr)> {
        let details = &mut self.details[usize::from(hop.index)];
        if details.asked.is_some_and(|asked| now.wrapping_sub(asked) < ASK_AGAIN_MS) {
            return None;
        }
        details.asked = Some(now);
        Some((self.hops[usize::from(hop.index)].port, details.address))
    }

    /// Keeps a packet, complete but for its Ethernet addresses, until the hop is known. Gives it
    /// back when too many wait or the hop was given up meanwhile.
    pub fn hold(&mut self, hop: HopRef, frame: F, now: u32) -> Result<(), F> {
        // Another packet of the same burst may have pushed the hop out of the table.
        let still_there = self.get(hop).is_some();
        let details = &mut self.details[usize::from(hop.index)];
        if !still_there || details.held >= MAX_HELD_PER_HOP || self.held.len() >= MAX_HELD {
            return Err(frame);
        }
        details.held += 1;
        self.held.push(Held { hop: hop.index, since: now, frame });
        Ok(())
    }

    /// How many packets wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes in what the management thread knows of a hop: its MAC address, or that it does not
    /// answer. [`Hops::release`] then gives the packets that waited for it.
    pub fn update(&mut self, port: PortId, address: IpAddr, mac: Option<Mac>, port_mac: &Mac) {
        let index = match mac {
            Some(_) => match self.resolve(port, address, port_mac) {
                Ok(hop) => hop.index,
                Err(_) => return,
            },
            None => match self.by_address.get(&(port, address)) {
                Some(&index) => index,
                None => return,
            },
        };
        let hop = &mut self.hops[usize::from(index)];
        hop.ready = mac.is_some();
        if let Some(mac) = mac {
            hop.addresses[..6].copy_from_slice(&mac);
        }
        let details = &mut self.details[usize::from(index)];
        details.asked = None;
        if mac.is_none() {
            // Marks the packets that wait as too old, so that `release` drops them.
            for held in self.held.iter_mut().filter(|held| held.hop == index) {
                held.since = held.since.wrapping_sub(MAX_WAIT_MS);
            }
        }
    }

    /// Takes one packet whose wait is over, the oldest first. Looks at [`MAX_HELD`] packets at most.
    pub fn release(&mut self, now: u32) -> Option<Released<F>> {
        let at = self.held.iter().position(|held| {
            self.hops[usize::from(held.hop)].ready || now.wrapping_sub(held.since) >= MAX_WAIT_MS
        })?;
        let Held { hop, mut frame, .. } = self.held.remove(at);
        self.details[usize::from(hop)].held -= 1;
        let hop = &self.hops[usize::from(hop)];
        Some(if hop.ready {
            ethernet::set_addresses(frame.bytes_mut(), &hop.addresses);
            Released::Send(hop.port, frame)
        } else {
            Released::Drop(DropReason::NeighborUnresolved, frame)
        })
    }

    /// Makes every reference stale, since routes changed: sessions then look their hops up again.
    pub fn invalidate(&mut self) {
        for hop in &mut self.hops {
            hop.generation = hop.generation.wrapping_add(1);
        }
    }

    fn reference(&self, index: u16) -> HopRef {
        HopRef { index, generation: self.hops[usize::from(index)].generation }
    }

    /// Gives up a hop that is not resolved and that no packet waits for.
    fn evict(&mut self) -> Option<u16> {
        for _ in 0..EVICTION_SCAN {
            let index = self.eviction_hand;
            self.eviction_hand = (index + 1) % self.hops.len();
            if !self.hops[index].ready && self.details[index].held == 0 {
                let hop = &mut self.hops[index];
                hop.generation = hop.generation.wrapping_add(1);
                self.by_address.remove(&(hop.port, self.details[index].address));
                return Some(index as u16);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    const PORT: PortId = PortId(0);

    fn host(n: usize) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n as u32).into()
    }

    /// In one burst a packet may be told to wait for a hop that a later packet pushes out. It must
    /// not then wait for the host that has the place now.
    #[test]
    fn nobody_waits_for_a_hop_that_was_given_up() {
        let mut hops = Hops::new();
        let own = [2; 6];
        let first = hops.resolve(PORT, host(0), &own).unwrap();
        let kept = hops.resolve(PORT, host(1), &own).unwrap();
        let frame = || MemoryFrame::new(PORT, &[0; 60]);
        assert_eq!(hops.hold(kept, frame(), 0), Ok(()));
        for n in 2..MAX_HOPS + 1 {
            hops.resolve(PORT, host(n), &own).unwrap();
        }
        assert!(hops.get(first).is_none() && hops.get(kept).is_some());
        assert_eq!(hops.hold(first, frame(), 0), Err(frame()));
        assert_eq!(hops.held(), 1);
        hops.update(PORT, host(MAX_HOPS), Some([4; 6]), &own);
        assert!(hops.release(0).is_none(), "it was not put to that host's packets");
    }
}
