//! CPU cores: which there are, and putting the calling thread on one.

use core_affinity::CoreId;

/// The cores this process may run on.
pub fn cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Keeps the calling thread on `core`. `false` when the system refused.
pub fn pin(core: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: core })
}
