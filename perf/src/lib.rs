//! Benches and measurements.
