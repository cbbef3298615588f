//! The packet pool: all packet buffers of a node, shared by its ports and workers.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::eal::Eal;
use super::error::{self, Error};
pub use crate::io::pool::PoolOptions;
use crate::io::pool::{HEADROOM, METADATA};

// The size of a pool is computed where there is no DPDK, too.
const _: () = assert!(
    HEADROOM == dpdk_sys::RTE_PKTMBUF_HEADROOM
        && METADATA == size_of::<dpdk_sys::rte_mbuf>() as u64
);

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
        (self.0.options.buffer_bytes() - HEADROOM) as u16
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
