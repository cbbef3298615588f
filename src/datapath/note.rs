//! What one worker tells another with a packet it hands over: one word beside the frame.

/// A note to a packet; most packets have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The packet is yours; nothing else is known of it.
    None,
    /// A host inside sent the packet to an outer endpoint of another; its source is already its own
    /// outer endpoint.
    Hairpin,
}

impl Note {
    /// As the word that the frame carries.
    pub const fn encode(self) -> u64 {
        match self {
            Note::None => 0,
            Note::Hairpin => 32,
        }
    }

    /// From the word that the frame carries.
    pub const fn decode(word: u64) -> Self {
        match word {
            32 => Note::Hairpin,
            _ => Note::None,
        }
    }
}
