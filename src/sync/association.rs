//! Whether the peer is there, and that it is the peer of now: no recording of an earlier start.
//!
//! Each start of a process has a random number, its **boot**. The datagrams of a boot are accepted
//! only after it has proved to live: a HELLO carries a **challenge**, a keyed hash that this start of
//! ours alone can make, and the peer's next HELLO has to **echo** it. The hash is over a clock of
//! [`SLOT_MS`] and over how often the peer came and went, so an echo proves something only to us, only
//! for the next few seconds, and only until another boot is accepted or the peer is found dead. That it
//! is of this boot, the MAC says. A peer that was dead has to prove anew that it lives, though its boot
//! is the same.
//!
//! ```text
//! A                                                B
//!   HELLO challenge=a echo=0      →                  does not know A: answers at once
//!                                 ←   HELLO challenge=b echo=a
//!   accepts B: answers at once
//!   HELLO challenge=a' echo=b     →                  accepts A
//! ```
//!
//! When a boot is accepted, the one before is **superseded** and never accepted again, though it may
//! still run (a process that was stopped and goes on). Worker 0 of a node does this and tells the
//! other workers; their HELLOs only tell where their streams are.
//!
//! Who replays HELLOs of earlier starts keeps a node busy, since it cannot know which of them is of a
//! process that lives. Among all that it has heard between two of its own HELLOs it echoes one at
//! random, and by turns with that the peer's: that delays a proof, and does not prevent it.

use super::control::{Flags, Hello, VersionText};
use super::datagram::Header;

/// The time between two HELLOs, in milliseconds.
pub const INTERVAL_MS: u32 = 100;
/// The least time between two HELLOs when a proof is pending.
pub const HURRY_MS: u32 = 10;
/// The clock of challenges. An echo is good for one to two counts.
pub const SLOT_MS: u32 = 2048;
/// How many superseded boots are remembered.
pub const REMEMBERED: usize = 64;

/// What a node says of itself in its HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// [`Hello::workers`].
    pub workers: u8,
    /// [`Hello::flags`].
    pub flags: Flags,
    /// [`Hello::stream`].
    pub stream: u64,
    /// [`Hello::config`].
    pub config: u64,
    /// [`Hello::version`].
    pub version: VersionText,
    /// [`Hello::lacking`].
    pub lacking: u32,
}

/// What a HELLO means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is of the peer, and what else this boot sends is accepted.
    Accepted {
        /// This HELLO made it so, and the boot is another than before: every sequence of the peer
        /// starts anew. They go on when the peer was dead and has the same boot, or what was recorded
        /// of it before could be replayed.
        new: bool,
    },
    /// It is of a boot that has not proved to live. Nothing else of it is accepted.
    Unproven {
        /// A HELLO is to be sent now, so that it can ([`Association::hello`]).
        answer_now: bool,
    },
    /// It is ours, come back to us.
    Echo,
    /// It is of another process that has this node's id: a mistake in the configuration.
    OwnNode,
    /// It is of a node that is not in the pair: a mistake in the configuration.
    Stranger,
    /// It is of a boot after which another one was accepted.
    Superseded,
}

/// After so many milliseconds without a word a peer that has said that it stops has done so: it speaks
/// every 10 to 20 ms as long as it is there.
const LEFT_AFTER_MS: u32 = 200;

/// A boot that has not proved to live.
#[derive(Clone, Copy, Debug)]
struct Trial {
    boot: u64,
    /// Its challenge to us.
    challenge: u64,
}

/// The accepted peer.
#[derive(Clone, Copy, Debug)]
struct Peer {
    boot: u64,
    /// Its last HELLO of worker 0.
    hello: Hello,
}

/// What a node knows of its peer.
#[derive(Debug)]
pub struct Association {
    node: u8,
    boot: u64,
    secret: [u8; 32],
    dead_after_ms: u32,
    /// How often a boot was accepted, or the peer found dead.
    changes: u64,
    peer: Option<Peer>,
    /// When something was accepted last; none when the peer is dead.
    last_accepted: Option<u32>,
    /// One that was heard of and is not accepted.
    trial: Option<Trial>,
    /// HELLOs of others than the peer since the last one of ours. With any, ours is pending.
    strange_hellos: u32,
    /// A HELLO is pending for the peer, which does not know yet that we live.
    peer_waits: bool,
    /// 0 where there is none; the place of the next one is `superseded_at`.
    superseded: [u64; REMEMBERED],
    superseded_at: usize,
    /// When the last HELLO was made.
    last_hello: Option<u32>,
    /// It was for one on trial: the next one is for the peer, if that waits too.
    was_for_trial: bool,
}

impl Association {
    /// Nothing is known yet. `boot` and `secret` are random: 0 is no boot, and nobody else is to know
    /// the secret. The peer counts as dead `dead_after_ms` after it was heard last, and much sooner
    /// when it has said that it stops.
    pub fn new(node: u8, boot: u64, secret: u128, dead_after_ms: u32) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&secret.to_be_bytes());
        key[16..24].copy_from_slice(&boot.to_be_bytes());
        Association {
            node,
            boot: boot.max(1),
            secret: key,
            dead_after_ms,
            changes: 0,
            peer: None,
            last_accepted: None,
            trial: None,
            strange_hellos: 0,
            peer_waits: false,
            superseded: [0; REMEMBERED],
            superseded_at: 0,
            last_hello: None,
            was_for_trial: false,
        }
    }

    /// This node's boot.
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Whether a HELLO is to be sent.
    pub fn is_due(&self, now: u32) -> bool {
        let is_waiting = self.peer_waits || self.strange_hellos > 0;
        let interval = if is_waiting { HURRY_MS } else { INTERVAL_MS };
        self.last_hello.is_none_or(|last| now.wrapping_sub(last) >= interval)
    }

    /// The HELLO of worker 0 that is sent now.
    pub fn hello(&mut self, now: u32, about: &About) -> Hello {
        self.last_hello = Some(now);
        let (peer_boot, echo) = self.addressee();
        Hello {
            challenge: self.challenge(slot(now)),
            echo,
            peer_boot,
            workers: about.workers,
            flags: about.flags,
            stream: about.stream,
            config: about.config,
            version: about.version,
            lacking: about.lacking,
        }
    }

    /// The HELLO of another worker, that has no part in proofs.
    pub const fn hello_of_stream(boot: u64, peer_boot: u64, about: &About) -> Hello {
        Hello {
            challenge: boot,
            echo: 0,
            peer_boot,
            workers: about.workers,
            flags: about.flags,
            stream: about.stream,
            config: about.config,
            version: about.version,
            lacking: about.lacking,
        }
    }

    /// A HELLO came in a sound datagram with this header. If the boot is accepted
    /// ([`Association::accepts`]), the caller has asked its [`Replay`](super::Replay) before.
    pub fn heard(&mut self, now: u32, header: &Header, hello: &Hello) -> Heard {
        if header.node == self.node {
            return if header.boot == self.boot { Heard::Echo } else { Heard::OwnNode };
        }
        if header.node > 1 {
            return Heard::Stranger;
        }
        // 0 is no boot; its place among the superseded is any that is free.
        if header.boot == 0 || self.superseded.contains(&header.boot) {
            return Heard::Superseded;
        }
        let is_alive = self.alive(now);
        if let Some(peer) = &mut self.peer
            && peer.boot == header.boot
            && is_alive
        {
            self.last_accepted = Some(now);
            if header.worker == 0 {
                peer.hello = *hello;
            }
            return Heard::Accepted { new: false };
        }
        if header.worker != 0 {
            return Heard::Unproven { answer_now: false };
        }
        if self.is_proof(hello.echo, now) {
            return Heard::Accepted { new: self.accept(now, header.boot, hello) };
        }
        self.try_on(Trial { boot: header.boot, challenge: hello.challenge });
        Heard::Unproven { answer_now: self.is_due(now) }
    }

    /// Something else of the accepted boot came that had not come before. A peer that was found dead
    /// is not alive again by that.
    pub fn refresh(&mut self, now: u32) {
        if self.alive(now) {
            self.last_accepted = Some(now);
        }
    }

    /// Whether the peer is there. To be asked often: it is then that the peer is found dead.
    pub fn alive(&mut self, now: u32) -> bool {
        // One that has said that it stops is not waited for.
        let dead_after_ms = if self.is_leaving() { LEFT_AFTER_MS } else { self.dead_after_ms };
        if self.last_accepted.is_some_and(|last| now.wrapping_sub(last) >= dead_after_ms) {
            self.last_accepted = None;
            self.changes += 1;
        }
        self.last_accepted.is_some()
    }

    /// The boot of the peer that was accepted last, dead or alive.
    pub fn peer_boot(&self) -> Option<u64> {
        self.peer.map(|peer| peer.boot)
    }

    /// Whether datagrams of this boot are accepted: it is the peer's, which was not found dead.
    pub fn accepts(&self, boot: u64) -> bool {
        self.last_accepted.is_some() && self.peer_boot() == Some(boot)
    }

    /// The last HELLO of the accepted peer's worker 0.
    pub fn peer_hello(&self) -> Option<Hello> {
        self.peer.map(|peer| peer.hello)
    }

    /// What the accepted peer wants echoed; 0 without a peer.
    pub fn peer_challenge(&self) -> u64 {
        self.peer.map_or(0, |peer| peer.hello.challenge)
    }

    /// Whether the peer has said that it is about to stop.
    fn is_leaving(&self) -> bool {
        self.peer.is_some_and(|peer| peer.hello.flags.has(Flags::LEAVING))
    }

    /// Whom the next HELLO is for, and what it echoes.
    fn addressee(&mut self) -> (u64, u64) {
        let peer = self.peer.map(|peer| Trial { boot: peer.boot, challenge: peer.hello.challenge });
        let is_trials_turn = self.strange_hellos > 0 && !self.was_for_trial;
        let chosen = if is_trials_turn { self.trial } else { peer.or(self.trial) };
        self.was_for_trial = is_trials_turn;
        self.strange_hellos = 0;
        // The peer's turn comes again after one for a trial.
        self.peer_waits &= is_trials_turn;
        chosen.map_or((0, 0), |one| (one.boot, one.challenge))
    }

    /// What is to be echoed in this slot of time; never 0.
    fn challenge(&self, slot: u32) -> u64 {
        self.hash(b'c', self.changes, slot).max(1)
    }

    fn is_proof(&self, echo: u64, now: u32) -> bool {
        let slot = slot(now);
        let before = slot.checked_sub(1).unwrap_or(MAX_SLOT);
        echo == self.challenge(slot) || echo == self.challenge(before)
    }

    /// What nobody else can guess, of a use and two numbers.
    fn hash(&self, usage: u8, a: u64, b: u32) -> u64 {
        let mut message = [0; 13];
        message[0] = usage;
        message[1..9].copy_from_slice(&a.to_be_bytes());
        message[9..].copy_from_slice(&b.to_be_bytes());
        let hash = blake3::keyed_hash(&self.secret, &message);
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Says whether the boot is another than before.
    fn accept(&mut self, now: u32, boot: u64, hello: &Hello) -> bool {
        let before = self.peer_boot();
        if let Some(before) = before.filter(|before| *before != boot) {
            self.superseded[self.superseded_at] = before;
            self.superseded_at = (self.superseded_at + 1) % REMEMBERED;
        }
        self.changes += 1;
        self.trial = None;
        self.strange_hellos = 0;
        self.peer = Some(Peer { boot, hello: *hello });
        self.peer_waits = true;
        self.last_accepted = Some(now);
        before != Some(boot)
    }

    /// Puts a boot on trial: of all that are heard of between two HELLOs of ours one stays, each with
    /// the same chance.
    fn try_on(&mut self, trial: Trial) {
        self.strange_hellos = self.strange_hellos.saturating_add(1);
        let drawn = self.hash(b't', trial.challenge, self.strange_hellos);
        if drawn.is_multiple_of(u64::from(self.strange_hellos)) {
            self.trial = Some(trial);
        }
    }
}

const MAX_SLOT: u32 = u32::MAX / SLOT_MS;

const fn slot(now: u32) -> u32 {
    now / SLOT_MS
}
