//! The data path: from a burst of frames to verdicts. Pure; see [`frame`] and [`snapshot`].
#![forbid(unsafe_code)]

pub mod counters;
pub mod frame;
pub mod snapshot;
