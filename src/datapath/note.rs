//! What one worker tells another with a packet it hands over: one word beside the frame.

use super::fragments::Binding;

/// The lowest byte of the word says what the rest is.
const KIND: u64 = 0xff;
/// Source port, destination port, and 24 bits of identification.
const FRAGMENT: u64 = 1;
/// Nothing else.
const HAIRPIN: u64 = 2;

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
}

impl Note {
    /// As the word that the frame carries.
    pub const fn encode(self) -> u64 {
        match self {
            Note::None => 0,
            Note::Hairpin => HAIRPIN,
            Note::Fragment(Binding { sport, dport, ident }) => {
                FRAGMENT | (sport as u64) << 8 | (dport as u64) << 24 | (ident as u64) << 40
            }
        }
    }

    /// From the word that the frame carries.
    pub const fn decode(word: u64) -> Self {
        match word & KIND {
            FRAGMENT => Note::Fragment(Binding {
                sport: (word >> 8) as u16,
                dport: (word >> 24) as u16,
                ident: (word >> 40) as u32,
            }),
            HAIRPIN => Note::Hairpin,
            _ => Note::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let binding = Binding { sport: 0xfedc, dport: 0xba98, ident: 0x76_5432 };
        for note in [Note::None, Note::Hairpin, Note::Fragment(binding)] {
            assert_eq!(Note::decode(note.encode()), note);
        }
    }
}
