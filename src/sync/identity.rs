//! What a session is, in 64 bits: the same on both nodes and from its first to its last packet, so
//! that two sets of sessions can be compared by the XOR of these.

use super::family::Wire;
use super::session::Session;
use crate::session::{Entry, Mode};
use crate::wire::flow::Protocol;

/// The identity of a session that was created at `born` ([`Session::born`]): addresses, ports,
/// protocol and mode, which never change. Not keyed: it protects against loss, not against malice,
/// which the MAC keeps out.
#[inline]
pub fn identity<A: Wire>(entry: &Entry<A>, born: u32) -> u64 {
    mix(
        [entry.client, entry.vip, entry.local, entry.server],
        [entry.client_port, entry.vip_port, entry.local_port, entry.server_port],
        entry.protocol,
        entry.mode,
        born,
    )
}

impl<A: Wire> Session<A> {
    /// The same of a session in a record: equal to the [`identity`] of the entry that is made of it.
    #[inline]
    pub fn identity(&self) -> u64 {
        mix(
            [self.client, self.vip, self.local, self.server],
            [self.client_port, self.vip_port, self.local_port, self.server_port],
            self.protocol,
            self.mode,
            self.born,
        )
    }
}

#[inline(always)]
fn mix<A: Wire>(
    addresses: [A; 4],
    ports: [u16; 4],
    protocol: Protocol,
    mode: Mode,
    born: u32,
) -> u64 {
    let [a, b, c, d] = ports.map(u64::from);
    let kind = u64::from(protocol.number()) << 8 | u64::from(mode as u8);
    let mut hash = fold(0x9e37_79b9_7f4a_7c15, a << 48 | b << 32 | c << 16 | d);
    hash = fold(hash, u64::from(born) << 16 | kind);
    let [client, vip, local, server] = addresses.map(A::words);
    if A::V6 {
        for words in [client, vip, local, server] {
            hash = fold(fold(hash, words[0]), words[1]);
        }
    } else {
        hash = fold(hash, client[0] << 32 | vip[0]);
        hash = fold(hash, local[0] << 32 | server[0]);
    }
    // Once more, so that the last word reaches every bit too.
    fold(hash, 0)
}

/// One step: both halves of the product of what is known, with the word, and an odd constant.
#[inline(always)]
const fn fold(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word) as u128 * 0xa076_1d64_78bd_642f;
    product as u64 ^ (product >> 64) as u64 ^ word.rotate_left(32)
}
