//! What one worker tells another with a packet it hands over: one word beside the frame.

/// A note to a packet; most packets have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The packet is yours; nothing else is known of it.
    None,
}

impl Note {
    /// As the word that the frame carries.
    pub const fn encode(self) -> u64 {
        match self {
            Note::None => 0,
        }
    }

    /// From the word that the frame carries.
    pub const fn decode(_word: u64) -> Self {
        Note::None
    }
}
