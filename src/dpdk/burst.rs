//! One worker's queues of every port: [`BurstIo`] on DPDK. One call into DPDK per burst; nothing is
//! allocated.

use std::ptr::NonNull;

use super::mbuf::Mbuf;
use super::port::PortsInner;
use crate::datapath::counters::MAX_PORTS;
use crate::datapath::frame::Frame;
use crate::datapath::snapshot::PortId;
use crate::io::{Burst, BurstIo};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// The queues of a port that belong to one worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queues {
    /// DPDK's number of the port.
    pub(super) port: u16,
    /// The worker's transmit queue.
    pub(super) tx: u16,
    /// The receive queue to poll next.
    pub(super) rx: u16,
    /// The first of the worker's receive queues; its others follow in steps.
    pub(super) rx_first: u16,
    /// The distance from one of the worker's receive queues to the next: the number of workers.
    pub(super) rx_step: u16,
    /// The port's receive queues. A worker without any has `rx_first >= rx_end`.
    pub(super) rx_end: u16,
}

/// One worker's queues. Made by [`super::Ports::start`], one for each worker; it keeps the ports
/// open.
#[derive(Debug)]
pub struct DpdkIo {
    /// By [`PortId`].
    pub(super) queues: [Option<Queues>; MAX_PORTS],
    /// Owns the ports and the pool.
    pub(super) ports: Arc<PortsInner>,
}

impl BurstIo for DpdkIo {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, port: PortId, into: &mut Burst<Mbuf>) -> usize {
        let Some(Some(queues)) = self.queues.get_mut(usize::from(port.0)) else { return 0 };
        let queue = queues.rx;
        if queue >= queues.rx_end {
            return 0;
        }
        // Several queues are polled in turn; with one, the next is the same.
        let next = queue + queues.rx_step;
        queues.rx = if next < queues.rx_end { next } else { queues.rx_first };

        let old = into.len();
        let room = into.remaining_capacity();
        // SAFETY: the first `old` elements are initialised, so the pointer stays inside the array.
        let spare = unsafe { into.as_mut_ptr().add(old) };
        // SAFETY: an Mbuf is a pointer to an mbuf, and there is room for `room` of them. The port is
        // started and has this queue, which only this worker polls (`Ports::start`).
        let got =
            unsafe { dpdk_sys::rte_eth_rx_burst(queues.port, queue, spare.cast(), room as u16) };
        let got = usize::from(got);
        // SAFETY: the driver wrote `got` ≤ `room` pointers to mbufs that are ours now.
        unsafe { into.set_len(old + got) };
        for mbuf in &mut into[old..] {
            Frame::set_rx_port(mbuf, port);
        }
        got
    }

    #[inline]
    fn transmit<const N: usize>(&mut self, port: PortId, frames: &mut ArrayVec<Mbuf, N>) -> usize {
        let Some(Some(queues)) = self.queues.get(usize::from(port.0)) else { return 0 };
        let len = frames.len();
        if len == 0 {
            return 0;
        }
        let start = frames.as_mut_ptr();
        // SAFETY: `start` points to `len` mbuf pointers. The port is started and has this queue,
        // which only this worker uses (`Ports::start`).
        let sent =
            unsafe { dpdk_sys::rte_eth_tx_burst(queues.port, queues.tx, start.cast(), len as u16) };
        let sent = usize::from(sent);
        // SAFETY: the first `sent` ≤ `len` mbufs are the driver's now, so they must not be dropped
        // here: the length excludes everything before the rest is moved to the front.
        unsafe { frames.set_len(0) };
        if sent < len {
            // SAFETY: `sent` ≤ `len`: inside the array.
            let rest = unsafe { start.add(sent) };
            // SAFETY: `len - sent` initialised elements move to the front of the same array; copy
            // allows the overlap.
            unsafe { std::ptr::copy(rest, start, len - sent) };
            // SAFETY: these are initialised, and owned once: the originals are beyond the length or
            // overwritten.
            unsafe { frames.set_len(len - sent) };
        }
        sent
    }

    #[inline]
    fn allocate(&mut self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `ports`.
        let raw = unsafe { dpdk_sys::rte_pktmbuf_alloc(self.ports.pool.as_ptr()) };
        // SAFETY: a fresh mbuf belongs to the caller alone.
        let mbuf = unsafe { Mbuf::from_raw(NonNull::new(raw)?) };
        debug_assert!(mbuf.bytes().is_empty());
        Some(mbuf)
    }
}
