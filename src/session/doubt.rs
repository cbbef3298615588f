//! Doubt about a connection ([`TcpState::Contested`](super::TcpState::Contested)): whose reset caused
//! it, and how often that side was asked whether it lives.

use super::entry::Direction;

/// In a byte of the session; says nothing in other states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Doubt(u8);

/// How often somebody was asked.
const ASKED: u8 = 0x03;
/// The reset was the server's.
const BY_SERVER: u8 = 0x10;
/// There was no reset: nobody has confirmed the connection yet.
const ADOPTED: u8 = 0x20;

impl Doubt {
    /// None.
    pub const NONE: Doubt = Doubt(0);
    /// About a connection that was taken up in mid-stream with a segment of the client.
    pub const OF_ADOPTION: Doubt = Doubt(ADOPTED);

    /// Because of a reset that came in `direction`.
    pub const fn of_reset(direction: Direction) -> Self {
        match direction {
            Direction::Forward => Doubt(0),
            Direction::Reply => Doubt(BY_SERVER),
        }
    }

    /// As a number.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The doubt of a number that comes from elsewhere, unless it is none.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        let doubt = Doubt(bits);
        let known = bits & !(ASKED | BY_SERVER | ADOPTED) == 0;
        if known && doubt.asked() <= doubt.tries() { Some(doubt) } else { None }
    }

    /// Whether nobody has confirmed the connection yet.
    pub const fn is_of_adoption(self) -> bool {
        self.0 & ADOPTED != 0
    }

    /// The way a question goes to the side that is in doubt.
    pub const fn question(self) -> Direction {
        if self.0 & BY_SERVER != 0 { Direction::Forward } else { Direction::Reply }
    }

    /// How often it was asked.
    pub const fn asked(self) -> u8 {
        self.0 & ASKED
    }

    /// How often it is asked before the session ends. One that nobody has confirmed once: forged
    /// segments are not to fill the table for long.
    pub const fn tries(self) -> u8 {
        if self.is_of_adoption() { 1 } else { 2 }
    }

    /// It was asked once more.
    #[must_use]
    pub const fn once_more(self) -> Self {
        if self.asked() < self.tries() { Doubt(self.0 + 1) } else { self }
    }

    /// It need not be asked again.
    #[must_use]
    pub const fn settled(self) -> Self {
        Doubt(self.0 & !ASKED | self.tries())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reply};

    #[test]
    fn every_doubt_has_its_number() {
        for start in [Doubt::of_reset(Forward), Doubt::of_reset(Reply), Doubt::OF_ADOPTION] {
            for doubt in [start, start.once_more(), start.settled()] {
                assert_eq!(Doubt::from_bits(doubt.to_bits()), Some(doubt));
            }
        }
        for none in [0x03, 0x04, 0x13, 0x22, 0x40, 0xff] {
            assert_eq!(Doubt::from_bits(none), None, "{none:#x}");
        }
    }

    #[test]
    fn tries_are_counted() {
        for (doubt, question, tries) in [
            (Doubt::of_reset(Forward), Reply, 2),
            (Doubt::of_reset(Reply), Forward, 2),
            (Doubt::OF_ADOPTION, Reply, 1),
        ] {
            let mut asked = doubt;
            for n in 0..5 {
                assert_eq!((asked.asked(), asked.question()), (tries.min(n), question));
                asked = asked.once_more();
            }
            assert_eq!(doubt.settled(), asked);
            assert_eq!(asked.settled(), asked);
            assert_eq!(asked.is_of_adoption(), doubt.is_of_adoption());
        }
    }
}
