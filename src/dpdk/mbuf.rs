//! A packet buffer of DPDK as a [`Frame`]. Its fields are read and written here, in Rust: no call
//! into DPDK but the one that frees it.

use std::ptr::NonNull;

use crate::datapath::frame::{Frame, RxChecksum};
use crate::datapath::snapshot::PortId;
use crate::prefetch;
use dpdk_sys::rte_mbuf;

const _: () = assert!(size_of::<rte_mbuf>() == 128 && align_of::<rte_mbuf>() == 64);
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut rte_mbuf>());

/// An owned packet buffer. `repr(transparent)` over the pointer, so that a burst of them is the
/// array of pointers that DPDK fills and empties.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: the buffer has one owner, and its pool may be used by all threads.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership of a buffer.
    ///
    /// # Safety
    /// `raw` is a valid mbuf that nobody else uses: not cloned, not attached, and of a pool that
    /// outlives it (the memory of a pool whose buffers are in use stays mapped).
    #[inline(always)]
    pub(super) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Mbuf {
        Mbuf(raw)
    }

    #[inline(always)]
    fn get(&self) -> &rte_mbuf {
        // SAFETY: valid and owned (`from_raw`).
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn get_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: valid and owned (`from_raw`), and `self` is borrowed mutably.
        unsafe { self.0.as_mut() }
    }

    /// The first byte of the frame.
    #[inline(always)]
    fn data(&self) -> *mut u8 {
        let mbuf = self.get();
        // SAFETY: `data_off` never exceeds `buf_len`, so this stays inside the buffer.
        unsafe { mbuf.buf_addr.cast::<u8>().add(usize::from(mbuf.data_off)) }
    }

    /// Bytes of room in front.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        usize::from(self.get().data_off)
    }

    /// Bytes of room behind.
    #[inline(always)]
    pub fn tailroom(&self) -> usize {
        let mbuf = self.get();
        usize::from(mbuf.buf_len) - usize::from(mbuf.data_off) - usize::from(mbuf.data_len)
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: owned, so it goes back to its pool exactly once.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl Frame for Mbuf {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data_len` bytes from `data` on lie inside the buffer and are initialised: the
        // driver filled them, or the pool zeroed the memory when it was made.
        unsafe { std::slice::from_raw_parts(self.data(), usize::from(self.get().data_len)) }
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data(), usize::from(self.get().data_len)) }
    }

    #[inline(always)]
    fn is_segmented(&self) -> bool {
        self.get().nb_segs > 1
    }

    #[inline(always)]
    fn prepend(&mut self, n: usize) -> bool {
        let mbuf = self.get_mut();
        if n > usize::from(mbuf.data_off) {
            return false;
        }
        // `n` fits 16 bits, and data_off + data_len ≤ buf_len: neither can wrap.
        mbuf.data_off -= n as u16;
        mbuf.data_len += n as u16;
        mbuf.pkt_len += n as u32;
        true
    }

    #[inline(always)]
    fn trim_front(&mut self, n: usize) -> bool {
        let mbuf = self.get_mut();
        if n > usize::from(mbuf.data_len) {
            return false;
        }
        mbuf.data_off += n as u16;
        mbuf.data_len -= n as u16;
        mbuf.pkt_len -= n as u32;
        true
    }

    /// Of a segmented frame only the first buffer can change, and it stays segmented.
    #[inline(always)]
    fn set_len(&mut self, len: usize) -> bool {
        let mbuf = self.get_mut();
        if len > usize::from(mbuf.buf_len) - usize::from(mbuf.data_off) {
            return false;
        }
        mbuf.pkt_len = mbuf.pkt_len - u32::from(mbuf.data_len) + len as u32;
        mbuf.data_len = len as u16;
        true
    }

    #[inline(always)]
    fn rx_port(&self) -> PortId {
        PortId(self.get().port as u8)
    }

    #[inline(always)]
    fn set_rx_port(&mut self, port: PortId) {
        self.get_mut().port = u16::from(port.0);
    }

    /// In the last words of the dynamic fields, which nobody has registered.
    #[inline(always)]
    fn note(&self) -> u64 {
        let words = &self.get().dynfield1;
        u64::from(words[7]) << 32 | u64::from(words[8])
    }

    #[inline(always)]
    fn set_note(&mut self, note: u64) {
        let words = &mut self.get_mut().dynfield1;
        words[7] = (note >> 32) as u32;
        words[8] = note as u32;
    }

    #[inline(always)]
    fn rx_checksum(&self) -> RxChecksum {
        let flags = self.get().ol_flags;
        let ip = flags & dpdk_sys::DPDK_MBUF_F_RX_IP_CKSUM_MASK;
        let transport = flags & dpdk_sys::DPDK_MBUF_F_RX_L4_CKSUM_MASK;
        RxChecksum {
            ip_good: ip == dpdk_sys::DPDK_MBUF_F_RX_IP_CKSUM_GOOD,
            ip_bad: ip == dpdk_sys::DPDK_MBUF_F_RX_IP_CKSUM_BAD,
            transport_bad: transport == dpdk_sys::DPDK_MBUF_F_RX_L4_CKSUM_BAD,
            transport_partial: transport == dpdk_sys::DPDK_MBUF_F_RX_L4_CKSUM_NONE,
        }
    }

    #[inline(always)]
    fn prefetch_meta(&self) {
        prefetch::read(self.get());
    }

    #[inline(always)]
    fn prefetch_bytes(&self) {
        prefetch::read(self.bytes());
    }
}
