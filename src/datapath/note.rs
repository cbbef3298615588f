//! What one worker tells another with a packet it hands over: one word beside the frame.
//!
//! The lowest byte says what it is; see [`Note::encode`].

use crate::session::{ServerId, ServiceId};

use super::fragments::Binding;

/// The lowest byte of the word says what the rest is.
const KIND: u64 = 0xff;
/// Source port, destination port, and 24 bits of identification.
const FRAGMENT: u64 = 1;
/// Nothing else.
const HAIRPIN: u64 = 2;
/// Two numbers of 16 bits: see [`words`].
const WHICH_SERVER: u64 = 16;
/// The same.
const SERVER: u64 = 17;
/// Two numbers of 16 bits.
const RECORDS: u64 = 18;
/// Nothing else.
const AGAIN: u64 = 3;
/// Nothing else.
const RELAYED: u64 = 4;

/// A note to a packet; most packets have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The packet is yours; nothing else is known of it.
    None,
    /// A host inside sent the packet to an outer endpoint of another; its source is already its own
    /// outer endpoint.
    Hairpin,
    /// The packet is a fragment of a session that is yours, and has these ports.
    Fragment(Binding),
    /// You know this packet's client: which server of the service is its?
    WhichServer {
        /// The service it comes for.
        service_id: ServiceId,
        /// The worker that gets the answer.
        asked_by: u8,
    },
    /// The answer to [`Note::WhichServer`].
    Server {
        /// The service asked for.
        service_id: ServiceId,
        /// The server of this packet's client.
        server_id: ServerId,
    },
    /// It found no session and has come back once, since what the peer says may have come meanwhile.
    Again,
    /// The peer has given it to us since it has no session for it.
    Relayed,
    /// A datagram of the peer's that a worker has verified: its records go round.
    Records {
        /// The worker that has verified it, and the last one to see it.
        first: u8,
        /// Where it stands among all that the peer has said.
        place: Place,
    },
}

/// Where a datagram of the peer stands among those that have come of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All before it have come, none after it.
    Next,
    /// Some before it are missing.
    Ahead,
    /// Some after it have come.
    Late,
}

impl Place {
    const fn from_word(word: u16) -> Self {
        match word {
            0 => Place::Next,
            1 => Place::Ahead,
            _ => Place::Late,
        }
    }
}

impl Note {
    /// As the word that the frame carries.
    pub const fn encode(self) -> u64 {
        match self {
            Note::None => 0,
            Note::Hairpin => HAIRPIN,
            Note::Again => AGAIN,
            Note::Relayed => RELAYED,
            Note::Records { first, place } => words(RECORDS, first as u16, place as u16),
            Note::Fragment(Binding { sport, dport, ident, .. }) => {
                FRAGMENT | (sport as u64) << 8 | (dport as u64) << 24 | (ident as u64) << 40
            }
            Note::WhichServer { service_id, asked_by } => {
                words(WHICH_SERVER, service_id.0, asked_by as u16)
            }
            Note::Server { service_id, server_id } => words(SERVER, service_id.0, server_id.0),
        }
    }

    /// From the word that the frame carries.
    pub const fn decode(word: u64) -> Self {
        let (first, second) = ((word >> 16) as u16, (word >> 32) as u16);
        match word & KIND {
            FRAGMENT => Note::Fragment(Binding {
                sport: (word >> 8) as u16,
                dport: (word >> 24) as u16,
                ident: (word >> 40) as u32,
                server: None,
            }),
            HAIRPIN => Note::Hairpin,
            AGAIN => Note::Again,
            RELAYED => Note::Relayed,
            RECORDS => Note::Records { first: first as u8, place: Place::from_word(second) },
            WHICH_SERVER => {
                Note::WhichServer { service_id: ServiceId(first), asked_by: second as u8 }
            }
            SERVER => Note::Server { service_id: ServiceId(first), server_id: ServerId(second) },
            _ => Note::None,
        }
    }
}

/// The kind in the lowest byte, two numbers of 16 bits from bit 16 on.
const fn words(kind: u64, first: u16, second: u16) -> u64 {
    kind | (first as u64) << 16 | (second as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let binding = Binding { sport: 0xfedc, dport: 0xba98, ident: 0x76_5432, server: None };
        for note in [
            Note::None,
            Note::Hairpin,
            Note::Fragment(binding),
            Note::WhichServer { service_id: ServiceId(0xfedc), asked_by: 63 },
            Note::Server { service_id: ServiceId(1), server_id: ServerId(0xffff) },
            Note::Again,
            Note::Relayed,
            Note::Records { first: 63, place: Place::Next },
            Note::Records { first: 1, place: Place::Ahead },
            Note::Records { first: 0, place: Place::Late },
        ] {
            assert_eq!(Note::decode(note.encode()), note);
        }
    }
}
