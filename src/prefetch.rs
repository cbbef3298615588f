//! A hint to the CPU: fetch a cache line now, it is read soon.
//!
//! The pure modules forbid `unsafe`, and the stable standard library has no safe prefetch; this is
//! the one door. A prefetch never faults and changes nothing but the cache, so it is safe to call
//! with any reference.

/// Asks for the cache line that holds the first byte of `value`, to be read soon.
#[inline(always)]
pub fn read<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the x86_64 baseline; PREFETCHT0 takes any address, does not fault and
    // does not change memory.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
            core::ptr::from_ref(value).cast(),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
