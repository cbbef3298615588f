//! The worker: burst loop, control messages, affinity.

pub mod control;
