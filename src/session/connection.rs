//! A TCP connection as seen from the middle: what a segment says about its state, and whether the
//! segment may belong to it at all.
//!
//! A switch in the middle sees the segments but not what the ends make of them, so it is strict
//! where trust would cost something and lenient everywhere else:
//!
//! - The long timeout of an established connection takes the server's SYN-ACK and the client's
//!   acknowledgement of it: a client with a forged address, which does not see the SYN-ACK, cannot
//!   get it.
//! - A reset is believed only when its number is exactly what its receiver has acknowledged. One in
//!   the window is passed on and doubted ([`TcpState::Contested`]): a receiver that does not accept it
//!   answers with an acknowledgement (RFC 5961 3.2), which restores the connection, and its peer, if
//!   it is gone, answers that with an exact reset. One outside the window is dropped; but the client's
//!   before the server has answered with a SYN is the server's to judge, which may know an old connection
//!   with the same endpoints (FullNAT gives local ports out again) and has asked about that.
//! - A receiver says nothing about a reset that is out of its own window, which is smaller than what
//!   the middle must take for it. So doubt does not end a session: its side is asked first ([`Doubt`]),
//!   and any living end answers with an acknowledgement.
//! - In one-way modes the numbers of the client are all there is to judge it by, and forged segments
//!   may have moved them: its resets are doubted even when they are exact.
//! - A SYN on a living connection is passed on and changes nothing: the server answers it with an
//!   acknowledgement (RFC 5961 4.2), and a client that began anew answers that with a reset.
//! - A FIN counts when its number and its acknowledgement are in the window.
//!
//! | state | segment | next |
//! |---|---|---|
//! | `SynSent` | SYN from the server (simultaneous open), SYN-ACK | `SynReceived` |
//! | `SynSent`, one-way | ACK from the client; with FIN | `Established`; `FinBoth` |
//! | `SynReceived` | ACK of the SYN-ACK from the client; with FIN | `Established`; `FinClient` |
//! | `SynReceived`, `Established` | FIN | `FinClient`, `FinServer`; one-way `FinBoth` |
//! | `FinClient`, `FinServer` | FIN of the other side | `FinBoth` |
//! | `FinBoth` | ACK of everything the other side has sent | `TimeWait` |
//! | any | RST with the next number (`SynSent`: with the right acknowledgement) | `Closed` |
//! | any but `SynSent`, one-way | RST with the next number | as another in the window |
//! | `Established` | another RST in the window | `Contested` |
//! | `Contested` | a segment in the window | `Established` |
//! | `Contested`, asked | ACK without FIN, its own number in the window; one-way any | `Established` |
//! | `FinBoth`, one-way | SYN from the client | `SynSent` |
//! | `Closed`; `FinBoth`, `TimeWait` | SYN from the client; only with a later number | a new session |
//! | `FinBoth`, `TimeWait`, `Closed`, `Contested` | SYN-ACK | `SynReceived` |
//! | `Established`, `FinClient`, `FinServer` | SYN-ACK far from the stream | unchanged, numbers unknown |
//!
//! A connection may also begin in mid-stream ([`adopt`]), in `Contested`. In [`Mode::Snat`] a SYN from
//! the other side opens a new session as well.
//!
//! In one-way modes only the client's segments are seen. Its FIN then means `FinBoth`, though the server
//! may still send: a SYN, which may be forged, begins anew in place, and its server remains.

use super::doubt::Doubt;
use super::entry::{Direction, Mode, TcpState};
use super::sequence::{MAX_SCALE, Scales, later, near};
use crate::wire::tcp::flags::{ACK, FIN, RST, SYN};

/// How far a client's acknowledgement of the SYN-ACK may be behind what the server has sent: a
/// server sends before it only with TCP Fast Open (RFC 7413), and windows are not scaled yet.
const EARLY_DATA: u32 = 0xffff;

/// The window scale of a server whose SYN-ACK is not seen: its windows count as [`super::sequence::STRIDE`].
/// With the largest, half of all numbers would be in the client's window.
const UNSEEN_SCALE: u8 = 8;

/// What a session knows of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The mode of the session.
    pub mode: Mode,
    /// Its state; not [`TcpState::Udp`].
    pub state: TcpState,
    /// See [`super::Entry::forward_end`].
    pub forward_end: u32,
    /// See [`super::Entry::reply_end`].
    pub reply_end: u32,
    /// See [`super::Entry::scales`].
    pub scales: Scales,
    /// See [`super::Entry::doubt`].
    pub doubt: Doubt,
}

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The flags byte of the header.
    pub flags: u8,
    /// Sequence number, in its sender's own numbering.
    pub seq: u32,
    /// Sequence space it takes: its data, and one each for SYN and FIN.
    pub len: u32,
    /// Acknowledgement number, in the numbering of the side that it acknowledges.
    pub ack: u32,
    /// Of a SYN: its window scale option, 0 without.
    pub scale: u8,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It belongs to the connection, or its receiver has to judge.
    Pass,
    /// It does not belong to the connection and would do harm.
    Drop,
    /// It opens a new connection; this one is over.
    Reopen,
}

/// Follows the connection through a segment.
pub fn follow(connection: &mut Connection, direction: Direction, segment: &Segment) -> Outcome {
    match segment.flags {
        flags if flags & RST != 0 => reset(connection, direction, segment),
        flags if flags & SYN != 0 => synchronise(connection, direction, segment),
        _ => {
            ordinary(connection, direction, segment);
            Outcome::Pass
        }
    }
}

/// Takes up the mark of a side again after a leap: nothing was known of it, or so many segments went
/// past somewhere else. The segment must know how far its own side has come, or in one-way modes, for
/// the client's mark, the other.
pub fn resume(connection: &mut Connection, direction: Direction, segment: &Segment) {
    let own = connection.in_window(direction, segment.end());
    if !connection.mode.one_way() {
        let other = direction.turned();
        let known = connection.scales.known(other);
        if segment.flags & ACK != 0 && (!known || own) {
            *connection.mark(other) = segment.ack;
            if !known {
                connection.scales.set(other, MAX_SCALE);
            }
        }
        return;
    }
    let known = connection.scales.known(direction);
    if !known || connection.acknowledges(direction, segment) {
        *connection.mark(direction) = segment.end();
    }
    if !known {
        connection.scales.set(direction, MAX_SCALE);
    }
    // Where the server is not seen, the client's acknowledgements may be what has leapt.
    if own && segment.flags & ACK != 0 {
        connection.reply_end = segment.ack;
        if !connection.scales.known(Direction::Reply) {
            connection.scales.set(Direction::Reply, UNSEEN_SCALE);
        }
    }
}

/// What is known of the connection may be old, since segments went past on another node: numbers that a
/// segment is far from are forgotten, and one with data or an acknowledgement that follows the handshake
/// says that it was completed. To be called before [`follow`] or [`resume`] with the same segment.
pub fn loosen(connection: &mut Connection, direction: Direction, segment: &Segment) {
    let plain = segment.flags & (SYN | RST | ACK) == ACK;
    if plain && matches!(connection.state, TcpState::SynSent | TcpState::SynReceived) {
        connection.state = TcpState::Established;
        connection.scales = Scales::UNKNOWN;
        return;
    }
    if segment.flags & SYN != 0 {
        return;
    }
    if !connection.in_window(direction, segment.end()) {
        connection.scales.forget(direction);
    }
    if segment.flags & ACK != 0 && !connection.in_window(direction.turned(), segment.ack) {
        connection.scales.forget(direction.turned());
    }
}

/// Whether a client has acknowledged the SYN-ACK that ends at `syn_ack_end` before this node, whose
/// session is still [`TcpState::SynSent`] and has this mark of the server, came to hear of it. The
/// mark is then the client's first acknowledgement.
pub const fn confirmed(reply_end: u32, syn_ack_end: u32) -> bool {
    reply_end != 0 && syn_ack_end.wrapping_sub(reply_end) <= EARLY_DATA
}

/// Begins with a segment of the client in mid-stream. Its server either knows the connection or
/// answers with an exact reset; until another segment comes, the connection is in doubt, so that
/// forged ones do not fill the table for long.
pub fn adopt(connection: &mut Connection, segment: &Segment) {
    connection.state = match segment.flags & FIN {
        0 => TcpState::Contested,
        _ if connection.mode.one_way() => TcpState::FinBoth,
        _ => TcpState::FinClient,
    };
    connection.doubt = Doubt::OF_ADOPTION;
    let finishes = segment.flags & FIN != 0;
    connection.forward_end =
        if finishes || connection.mode.one_way() { segment.end() } else { segment.seq };
    connection.reply_end = segment.ack;
    connection.scales = Scales::WIDEST;
}

impl Segment {
    /// The number after it.
    pub const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len)
    }
}

impl Connection {
    fn mark(&mut self, direction: Direction) -> &mut u32 {
        match direction {
            Direction::Forward => &mut self.forward_end,
            Direction::Reply => &mut self.reply_end,
        }
    }

    const fn mark_of(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Forward => self.forward_end,
            Direction::Reply => self.reply_end,
        }
    }

    /// Whether a number of the side that sends in `direction` may be in the window that the other
    /// side has opened.
    fn in_window(&self, direction: Direction, number: u32) -> bool {
        !self.scales.known(direction)
            || near(number, self.mark_of(direction), self.scales.window(direction.turned()))
    }

    /// Whether a connection may begin from the side that sends in `direction`: of SNAT, from either.
    fn may_open(&self, direction: Direction) -> bool {
        direction == Direction::Forward || self.mode == Mode::Snat
    }

    /// Whether the acknowledgement may be of something the other side has sent lately.
    fn acknowledges(&self, direction: Direction, segment: &Segment) -> bool {
        segment.flags & ACK != 0 && self.in_window(direction.turned(), segment.ack)
    }

    /// Moves marks on: the other side's to what the segment acknowledges and, where nobody is seen to
    /// acknowledge it or it is the last one, the sender's to its end.
    fn move_on(&mut self, direction: Direction, segment: &Segment) {
        if self.mode.one_way() || segment.flags & FIN != 0 {
            self.move_mark(direction, segment.end());
        }
        if segment.flags & ACK != 0 {
            self.move_mark(direction.turned(), segment.ack);
        }
    }

    /// Whether the segment answers the question that the doubt has led to. Its own number must be in
    /// the window: where segments of both sides are seen, who forges those of one does not move it.
    fn is_answer(&self, direction: Direction, segment: &Segment) -> bool {
        self.state == TcpState::Contested
            && self.doubt.asked() != 0
            && segment.flags & (ACK | FIN) == ACK
            && (self.mode.one_way() || self.in_window(direction, segment.end()))
    }

    /// Takes the marks from a segment of an end that lives.
    fn believe(&mut self, direction: Direction, segment: &Segment) {
        let (own, acknowledges) =
            (self.in_window(direction, segment.end()), self.acknowledges(direction, segment));
        if !own && self.mode.one_way() {
            *self.mark(direction) = segment.end();
        }
        if !acknowledges {
            *self.mark(direction.turned()) = segment.ack;
        }
        self.move_on(direction, segment);
    }

    fn move_mark(&mut self, direction: Direction, end: u32) {
        let known = self.scales.known(direction);
        let mark = self.mark(direction);
        *mark = if known { later(*mark, end) } else { end };
        if !known {
            let unseen = self.mode.one_way() && direction == Direction::Reply;
            self.scales.set(direction, if unseen { UNSEEN_SCALE } else { MAX_SCALE });
        }
    }
}

/// RFC 5961 3.2, from the middle.
fn reset(connection: &mut Connection, direction: Direction, segment: &Segment) -> Outcome {
    use Direction::Reply;
    use TcpState::{Closed, Contested, Established, SynReceived, SynSent};
    let answers_syn =
        segment.flags & ACK != 0 && connection.forward_end.wrapping_sub(segment.ack) <= EARLY_DATA;
    match (connection.state, direction) {
        // The server knows an old connection with these endpoints and acknowledges that; the client
        // answers with a reset of that number (RFC 9293 3.10.7.3), and the server alone can tell
        // whether it is right. It says nothing of this connection.
        (SynSent, Direction::Forward)
            if !connection.scales.known(Direction::Forward)
                || segment.seq != connection.forward_end => {}
        // RFC 9293 3.10.7.3: the client judges by the acknowledgement, since the sender of the reset
        // has no number of its own.
        (SynSent, Reply) if connection.scales.known(Direction::Forward) => {
            if !answers_syn {
                return Outcome::Drop;
            }
            connection.state = Closed;
        }
        (SynReceived, Reply) if answers_syn => connection.state = Closed,
        _ if !connection.in_window(direction, segment.seq) => return Outcome::Drop,
        (state, _)
            if connection.scales.known(direction)
                && segment.seq == connection.mark_of(direction)
                && (!connection.mode.one_way() || state == SynSent) =>
        {
            connection.state = Closed;
        }
        (Established, _) => {
            connection.state = Contested;
            connection.doubt = Doubt::of_reset(direction);
        }
        // Perhaps its answer; one that lives sends another.
        (Contested, _) if connection.mode.one_way() && connection.doubt.asked() != 0 => {
            connection.doubt = connection.doubt.settled();
        }
        _ => {}
    }
    Outcome::Pass
}

fn synchronise(connection: &mut Connection, direction: Direction, segment: &Segment) -> Outcome {
    use Direction::{Forward, Reply};
    use TcpState::{
        Closed, Contested, Established, FinBoth, FinClient, FinServer, SynReceived, SynSent,
        TimeWait,
    };
    let acknowledged = segment.flags & ACK != 0;
    match (connection.state, direction) {
        (SynSent, Forward) if !acknowledged => {
            // Perhaps with another number: the client gave up and began anew.
            connection.forward_end = segment.end();
            connection.scales.set(Forward, segment.scale);
        }
        (Closed, _) if !acknowledged && connection.may_open(direction) => return Outcome::Reopen,
        // The server may still send. Its acknowledgement of whatever it makes of this is not seen.
        (FinBoth, Forward) if !acknowledged && connection.mode.one_way() => {
            connection.state = SynSent;
            connection.forward_end = segment.end();
            connection.scales = Scales::UNKNOWN;
            connection.scales.set(Forward, segment.scale);
        }
        // RFC 9293 3.6.1: only a later number tells a new connection from a stray duplicate. The
        // server gets the others: when it knows nothing of the old connection, it accepts.
        (FinBoth | TimeWait, _) if !acknowledged && connection.may_open(direction) => {
            let mark = connection.mark_of(direction);
            let later = (segment.seq.wrapping_sub(mark) as i32) >= 0;
            if later || !connection.scales.known(direction) {
                return Outcome::Reopen;
            }
        }
        (SynReceived, Forward) if acknowledged && answers_syn_ack(connection, segment) => {
            connection.state = Established;
        }
        (SynSent, Reply) if !acknowledged => {
            connection.state = SynReceived;
            connection.reply_end = segment.end();
            connection.scales.set(Reply, segment.scale);
        }
        (SynSent | SynReceived | FinBoth | TimeWait | Closed | Contested, Reply)
            if acknowledged =>
        {
            // The server may have taken up a SYN with another number than the last one.
            let of_this_syn = matches!(connection.state, SynSent | SynReceived)
                && connection.scales.known(Forward)
                && connection.forward_end.wrapping_sub(segment.ack) <= EARLY_DATA;
            connection.state = SynReceived;
            connection.reply_end = segment.end();
            connection.scales.set(Reply, segment.scale);
            if !of_this_syn {
                connection.forward_end = segment.ack;
                connection.scales.set(Forward, MAX_SCALE);
            }
        }
        // Far from the stream it had: the server has forgotten that and accepts another connection,
        // whose segments tell the numbers. The state stays, so that a forged one ends nothing.
        (Established | FinClient | FinServer, Reply)
            if acknowledged && !connection.in_window(Reply, segment.seq) =>
        {
            connection.scales = Scales::UNKNOWN;
        }
        _ => {}
    }
    Outcome::Pass
}

fn answers_syn_ack(connection: &Connection, segment: &Segment) -> bool {
    !connection.scales.known(Direction::Reply)
        || connection.reply_end.wrapping_sub(segment.ack) <= EARLY_DATA
}

/// A segment without SYN and RST.
fn ordinary(connection: &mut Connection, direction: Direction, segment: &Segment) {
    use Direction::{Forward, Reply};
    use TcpState::{
        Closed, Contested, Established, FinBoth, FinClient, FinServer, SynReceived, SynSent,
        TimeWait,
    };
    let one_way = connection.mode.one_way();
    let acknowledged = segment.flags & ACK != 0;
    match (connection.state, direction) {
        (SynSent, Forward) if one_way && acknowledged => connection.state = Established,
        (SynReceived, Forward) if acknowledged && answers_syn_ack(connection, segment) => {
            connection.state = Established;
            if !connection.in_window(Forward, segment.end()) {
                connection.forward_end = segment.seq;
            }
        }
        // The SYN-ACK went past on another node, which has not said so yet ([`confirmed`]).
        (SynSent, Forward) if acknowledged && !connection.scales.known(Reply) => {
            if connection.reply_end == 0 {
                connection.reply_end = segment.ack;
            }
            return;
        }
        (SynSent | Closed | TimeWait, _) | (SynReceived, Forward) => return,
        _ => {}
    }
    if connection.is_answer(direction, segment) {
        connection.believe(direction, segment);
        connection.state = Established;
        return;
    }
    if !connection.in_window(direction, segment.end())
        || !connection.acknowledges(direction, segment)
    {
        return;
    }
    let all = segment.ack == connection.mark_of(direction.turned());
    connection.move_on(direction, segment);
    let finishes = segment.flags & FIN != 0;
    connection.state = match (connection.state, direction) {
        (SynReceived | Established | Contested, _) if finishes && one_way => FinBoth,
        (SynReceived | Established | Contested, Forward) if finishes => FinClient,
        (SynReceived | Established | Contested, Reply) if finishes => FinServer,
        (FinServer, Forward) | (FinClient, Reply) if finishes => FinBoth,
        (Contested, _) => Established,
        (FinBoth, _) if !finishes && !one_way && all => TimeWait,
        (state, _) => state,
    };
}

#[cfg(test)]
mod tests;
