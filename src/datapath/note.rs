//! What one worker tells another with a packet it hands over: one word beside the frame.
//!
//! The lowest byte says what it is; see [`Note::encode`].

use crate::session::{ServerId, ServiceId};

/// A note to a packet; most packets have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The packet is yours; nothing else is known of it.
    None,
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
}

const WHICH_SERVER: u8 = 16;
const SERVER: u8 = 17;

impl Note {
    /// As the word that the frame carries.
    pub const fn encode(self) -> u64 {
        match self {
            Note::None => 0,
            Note::WhichServer { service_id, asked_by } => {
                words(WHICH_SERVER, service_id.0, asked_by as u16)
            }
            Note::Server { service_id, server_id } => words(SERVER, service_id.0, server_id.0),
        }
    }

    /// From the word that the frame carries.
    pub const fn decode(word: u64) -> Self {
        let (first, second) = ((word >> 16) as u16, (word >> 32) as u16);
        match word as u8 {
            WHICH_SERVER => {
                Note::WhichServer { service_id: ServiceId(first), asked_by: second as u8 }
            }
            SERVER => Note::Server { service_id: ServiceId(first), server_id: ServerId(second) },
            _ => Note::None,
        }
    }
}

/// The kind in the lowest byte, two numbers of 16 bits from bit 16 on.
const fn words(kind: u8, first: u16, second: u16) -> u64 {
    kind as u64 | (first as u64) << 16 | (second as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_back() {
        for note in [
            Note::None,
            Note::WhichServer { service_id: ServiceId(0xfedc), asked_by: 63 },
            Note::Server { service_id: ServiceId(1), server_id: ServerId(0xffff) },
        ] {
            assert_eq!(Note::decode(note.encode()), note);
        }
    }
}
