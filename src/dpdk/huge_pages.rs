//! Huge pages for the large tables: fewer TLB misses when sessions are many.

/// The size of a huge page on x86-64 and most of arm64.
const HUGE_PAGE: usize = 2 << 20;

/// Asks the kernel to back a block of memory with transparent huge pages, as far as whole ones lie
/// in it. Best called before the memory is touched. A kernel that has none goes on without.
pub fn advise(address: usize, len: usize) {
    let start = address.next_multiple_of(HUGE_PAGE);
    let end = (address + len) / HUGE_PAGE * HUGE_PAGE;
    if start >= end {
        return;
    }
    // SAFETY: MADV_HUGEPAGE changes how memory is backed and never what it holds; a range that is
    // not mapped is an error the kernel returns.
    let result = unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_HUGEPAGE)
    };
    if result != 0 {
        log::debug!("no transparent huge pages: {}", std::io::Error::last_os_error());
    }
}
