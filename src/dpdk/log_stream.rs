//! DPDK's log output: kept while EAL starts, so that its last words become the cause in an error,
//! and passed to the `log` crate under the target `dpdk`.
//!
//! While the program runs, DPDK's errors appear as warnings and all else at level debug. Nothing is
//! written to syslog.

use std::ffi::{c_char, c_long, c_void};
use std::sync::Mutex;

/// Lines since [`capture`], if it is on.
static CAPTURED: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Sends DPDK's log here for the rest of the process. Call it before `rte_eal_init`.
pub(super) fn install() {
    let functions =
        dpdk_sys::cookie_io_functions_t { read: None, write: Some(write), seek: None, close: None };
    // SAFETY: the mode is a C string; the cookie is not used by `write`.
    let stream = unsafe { dpdk_sys::fopencookie(std::ptr::null_mut(), c"w".as_ptr(), functions) };
    if !stream.is_null() {
        // SAFETY: `stream` is an open stream that is never closed, so DPDK may keep it.
        unsafe { dpdk_sys::rte_openlog_stream(stream) };
    }
}

/// Starts to keep lines.
pub(super) fn capture() {
    *lock() = Some(Vec::new());
}

/// Stops it and returns them, each without the name of the C function that wrote it.
pub(super) fn captured() -> Vec<String> {
    lock().take().unwrap_or_default()
}

fn lock() -> std::sync::MutexGuard<'static, Option<Vec<String>>> {
    CAPTURED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The stream's write function: DPDK flushes after every message, so `bytes` are whole lines.
unsafe extern "C" fn write(_cookie: *mut c_void, bytes: *const c_char, len: usize) -> c_long {
    // SAFETY: stdio passes `len` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    // SAFETY: it reads a thread-local integer.
    let level = unsafe { dpdk_sys::rte_log_cur_msg_loglevel() };
    for line in String::from_utf8_lossy(bytes).lines().filter(|l| !l.trim().is_empty()) {
        let line = without_function(line.trim());
        let mut kept = lock();
        // While EAL starts, its complaints end up in the error: once is enough.
        if let Some(kept) = kept.as_mut() {
            log::debug!(target: "dpdk", "{line}");
            kept.push(line.to_owned());
        } else if level <= dpdk_sys::RTE_LOG_ERR as i32 {
            log::warn!(target: "dpdk", "{line}");
        } else {
            log::debug!(target: "dpdk", "{line}");
        }
    }
    len as c_long
}

/// `open_packet_iface(): text`, `EAL: text` → `text`.
fn without_function(line: &str) -> &str {
    if let Some((head, tail)) = line.split_once("(): ")
        && head.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return tail.trim();
    }
    line.strip_prefix("EAL: ").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::without_function;

    #[test]
    fn prefixes_are_taken_off() {
        assert_eq!(without_function("vdev_probe(): failed to x"), "failed to x");
        assert_eq!(without_function("EAL: No free 2048 kB"), "No free 2048 kB");
        assert_eq!(without_function("net_tap (x y(): z"), "net_tap (x y(): z");
    }
}
