//! The output of the read commands: one file and one function `text` for each.

pub(super) mod drops;
pub(super) mod filters;
pub(super) mod ha;
pub(super) mod neighbors;
pub(super) mod ports;
pub(super) mod servers;
pub(super) mod services;
pub(super) mod sessions;
pub(super) mod snat;
pub(super) mod status;
pub(super) mod workers;

/// A packet count that the workers' equation leaves over.
fn balance(unaccounted: i64) -> String {
    match unaccounted {
        0 => "balanced".into(),
        n => format!("{n} in flight"),
    }
}
