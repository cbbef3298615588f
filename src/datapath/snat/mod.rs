//! Egress SNAT: hosts inside reach the world with an address of a pool, and the world reaches them
//! where a mapping or a forwarded port lets it.
//!
//! - `rules`, what the configuration says, as the data path looks it up;
//! - `state`, mappings and ports of one worker;
//! - `open`, the first packet of a session, from either side;
//! - `echo`, ping;
//! - `hairpin`, from inside to inside by way of the pool.
//!
//! A session of SNAT is an [`Entry`](crate::session::Entry) in [`Mode::Snat`](crate::session::Mode)
//! whose client is whoever sent the first packet, so that the established path and the TCP states
//! serve it as they serve any other:
//!
//! | opened from | client | vip | local | server |
//! |---|---|---|---|---|
//! | inside | inside | remote | pool | remote |
//! | outside | remote | pool | remote | inside |
//!
//! Both directions steer by the inside endpoint: the outer endpoint is chosen in the same bucket. An
//! endpoint with a forwarded port steers by its external endpoint instead.

pub mod echo;
pub mod hairpin;
pub mod open;
pub mod rules;
pub mod state;
