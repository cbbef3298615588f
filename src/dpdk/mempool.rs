//! The packet pool: all packet buffers of a node, shared by its ports and workers.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::eal::Eal;
use super::error::{self, Error};

/// Bytes around a frame that mtu does not count: Ethernet header, two VLAN tags, FCS.
pub(super) const FRAME_OVERHEAD: u16 = 14 + 8 + 4;

/// The size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Packet buffers.
    pub packets: u32,
    /// Buffers that each registered thread keeps for itself: up to 512, and 1.5 times as many must
    /// fit in the pool.
    pub cache: u32,
    /// The largest MTU of any port; a buffer holds such a frame with its headroom in one piece.
    pub mtu: u16,
}

impl PoolOptions {
    /// The usual cache.
    pub const CACHE: u32 = 256;

    /// A pool that `queues` queue pairs (over all ports) and `workers` cannot exhaust, with
    /// `held` buffers on top for packets that wait.
    pub fn for_ports(
        queues: u32,
        rx_desc: u16,
        tx_desc: u16,
        workers: u32,
        held: u32,
        mtu: u16,
    ) -> Self {
        let rings = queues * (u32::from(rx_desc) + u32::from(tx_desc));
        // A cache grows to 1.5 times its size; the main thread has one too.
        let caches = (workers + 1) * Self::CACHE * 3 / 2;
        let bursts = (workers + 1) * 1024;
        // A power of two less one uses the ring below the pool best.
        let packets = (rings + caches + bursts + held).max(4096).next_power_of_two() - 1;
        PoolOptions { packets, cache: Self::CACHE, mtu }
    }

    /// Bytes of a buffer, headroom included, as DPDK wants it.
    fn buffer_bytes(&self) -> u32 {
        let frame = u32::from(self.mtu) + u32::from(FRAME_OVERHEAD);
        // Drivers hand out buffers in units of 1 KiB; 2 KiB is what they all expect at least.
        dpdk_sys::RTE_PKTMBUF_HEADROOM + frame.max(2048).next_multiple_of(1024)
    }

    /// Megabytes of the pool: buffers with their metadata, alignment and the ring of pointers.
    pub fn memory_mb(&self) -> u64 {
        let each =
            u64::from(self.buffer_bytes()) + size_of::<dpdk_sys::rte_mbuf>() as u64 + 64 + 16;
        (u64::from(self.packets) * each).div_ceil(1 << 20)
    }
}

/// A packet pool; clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: NonNull<dpdk_sys::rte_mempool>,
    options: PoolOptions,
    eal: Eal,
}

// SAFETY: a DPDK mempool made without the single-producer and single-consumer flags may be used by
// all threads at once.
unsafe impl Send for Inner {}
// SAFETY: see `Send`.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool.
    ///
    /// # Errors
    /// [`Error::PoolMemory`] when EAL's memory does not hold it, [`Error::PoolOptions`] when the
    /// options contradict each other.
    pub fn create(eal: &Eal, options: PoolOptions) -> Result<Mempool, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = CString::new(format!("shunt_{}", NEXT.fetch_add(1, Ordering::Relaxed)))
            .unwrap_or_default();
        let refused = |cause: &str| Error::PoolOptions {
            packets: options.packets,
            cache: options.cache,
            cause: cause.to_owned(),
        };
        if options.cache > 512 || u64::from(options.cache) * 3 > u64::from(options.packets) * 2 {
            return Err(refused("a cache holds at most 512 and two thirds of the pool"));
        }
        let Ok(buffer_bytes) = u16::try_from(options.buffer_bytes()) else {
            return Err(refused("no buffer is large enough for the mtu"));
        };
        // SAFETY: EAL is initialised (`eal`); the name is a C string that DPDK copies; -1 is
        // SOCKET_ID_ANY.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(
                name.as_ptr(),
                options.packets,
                options.cache,
                0,
                buffer_bytes,
                -1,
            )
        };
        match NonNull::new(pool) {
            Some(pool) => Ok(Mempool(Arc::new(Inner { pool, options, eal: eal.clone() }))),
            None if error::last() == libc::ENOMEM => Err(Error::PoolMemory {
                packets: options.packets,
                needed_mb: options.memory_mb(),
                memory_mb: eal.memory_mb(),
                cause: error::text(libc::ENOMEM),
            }),
            None => Err(refused(&error::text(error::last()))),
        }
    }

    /// The size it was made with.
    pub fn options(&self) -> PoolOptions {
        self.0.options
    }

    /// Buffers that are in use: in a port's rings, on the way, or held. Walks the caches of all
    /// threads, so it is for the management thread.
    pub fn in_use(&self) -> u32 {
        self.0.in_use()
    }

    /// Bytes of a frame that fit behind the headroom of a buffer.
    pub(super) fn data_room(&self) -> u16 {
        (self.0.options.buffer_bytes() - dpdk_sys::RTE_PKTMBUF_HEADROOM) as u16
    }

    pub(super) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.0.pool.as_ptr()
    }

    pub(super) fn eal(&self) -> &Eal {
        &self.0.eal
    }
}

impl Inner {
    fn in_use(&self) -> u32 {
        // SAFETY: the pool exists as long as `self`.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A buffer may still lie in a ring between threads or in a driver: then its memory stays.
        if self.in_use() != 0 {
            self.eal.keep_memory();
            return;
        }
        // SAFETY: all buffers are back and nobody can take one any more, since this was the last
        // handle.
        unsafe { dpdk_sys::rte_mempool_free(self.pool.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let options = PoolOptions::for_ports(2, 1024, 1024, 2, 1024, 1500);
        // 4096 in rings, 1152 in caches, 3072 on the way, 1024 held: 9344.
        assert_eq!(options, PoolOptions { packets: 16_383, cache: 256, mtu: 1500 });
        assert_eq!(options.buffer_bytes(), 2048 + 128);
        assert_eq!(options.memory_mb(), 38);
        assert_eq!(PoolOptions { mtu: 9000, ..options }.buffer_bytes(), 9216 + 128);
    }
}
