//! The state machine of a virtual router (RFC 5798 6.4).
//!
//! There is no state Initialize: a machine begins as backup and listens for a while. Nobody owns the
//! addresses (priority 255), so nobody begins as master.
//!
//! | state | event | next | besides |
//! |---|---|---|---|
//! | backup | advert with priority 0 | backup | the wait is cut to Skew_Time |
//! | backup | advert of no lower priority | backup | the wait begins anew, in its interval |
//! | backup | advert of lower priority; no preemption, or not yet, or held | backup | the same |
//! | backup | advert of lower priority; preemption | backup | none: the wait runs on |
//! | backup | the wait is over (Master_Down_Interval) | master | advert, announcement |
//! | master | an interval has passed | master | advert |
//! | master | advert with priority 0 | master | advert |
//! | master | advert of lower priority, or the same from a smaller address | master | advert, later an announcement |
//! | master | advert of higher priority, or the same from a larger address | backup | the wait begins |
//! | master, that never was free | advert of any other master | backup | the wait begins |
//! | any | effective priority becomes 0 | backup | as master: advert with priority 0 |
//! | fault (effective priority 0) | the wait is over | fault | |
//! | fault | effective priority becomes another | backup | the wait begins |
//! | any | leave | backup for ever | as master: advert with priority 0 |
//! | any | the clock leaps | backup | the wait begins |
//!
//! Beyond the RFC:
//!
//! - **Announcements** (gratuitous ARP, unsolicited neighbor advertisements) go out at once and
//!   again a second later: the first may be lost, or met a switch that was learning. When another
//!   master was heard, there is one more an interval later: hosts may have believed the other.
//! - An **advert of lower priority** is answered with one at once (so RFC 9568 6.4.3), at most four
//!   times in an interval: the other yields sooner, and bridges learn the right port.
//! - **Preemption delay**: a master of lower priority is left alone for so long after it was first
//!   heard.
//! - **Held** ([`Machine::hold`]): a node that has yet to learn the sessions takes over from nobody, but
//!   from a master that is gone. If it has become master since it heard nobody, and was never free, it
//!   yields to any master it hears: that one has the sessions.
//! - **Leaps of the clock**: when nothing was called for more than three intervals and a second, the
//!   process stood still, and the other is master by now. A master then does not speak before it has
//!   listened.

/// The least time in milliseconds without a call that is a leap of the clock, besides three intervals.
const LEAP_MS: u64 = 1_000;
/// Milliseconds from an announcement to its repetition.
const REPEAT_MS: u64 = 1_000;

/// What does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The priority without any fault, 1 to 254.
    pub priority: u8,
    /// Milliseconds from one advert to the next: 10 to 40,950, a multiple of 10.
    pub advert_interval_ms: u32,
    /// Whether to take over from a master of lower priority.
    pub preempt: bool,
    /// For how many milliseconds to leave such a master alone.
    pub preempt_delay_ms: u64,
}

/// An advert of the same virtual router that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The sender's priority; 0 when it leaves.
    pub priority: u8,
    /// Its interval in milliseconds, not 0.
    pub interval_ms: u32,
    /// Whether the sender's address is larger than ours: it wins when the priorities are the same.
    pub wins_ties: bool,
}

/// Who answers for the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Another router, if there is one.
    Backup,
    /// This one.
    Master,
}

/// Why the state is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The machine has begun.
    Start,
    /// No master was heard for Master_Down_Interval.
    MasterDown,
    /// The master said that it leaves.
    MasterLeft,
    /// The master had a lower priority.
    Preempted,
    /// A master of higher priority was heard.
    HigherPriority,
    /// A master of the same priority with a larger address was heard.
    LargerAddress,
    /// A master was heard, and this node does not have the sessions yet.
    Joining,
    /// The effective priority is 0.
    Fault,
    /// The node is about to stop.
    Left,
    /// The clock has leapt: the process stood still.
    ClockJump,
}

impl Reason {
    /// In words for the log and for `shunt ha`.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Start => "start",
            Reason::MasterDown => "no master was heard",
            Reason::MasterLeft => "the master left",
            Reason::Preempted => "the master had a lower priority",
            Reason::HigherPriority => "a master of higher priority was heard",
            Reason::LargerAddress => {
                "a master of the same priority with a larger address was heard"
            }
            Reason::Joining => "a master was heard and the sessions are not known yet",
            Reason::Fault => "the effective priority is 0",
            Reason::Left => "the node stops",
            Reason::ClockJump => "the process stood still",
        }
    }
}

/// What the owner of a machine has to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an advert.
    Send {
        /// With this priority.
        priority: u8,
        /// With this interval, in milliseconds.
        interval_ms: u32,
    },
    /// Answer for the addresses, or no more.
    Become(State, Reason),
    /// Tell every host on the link whose the addresses are: gratuitous ARP, unsolicited neighbor
    /// advertisements.
    Announce,
}

/// A virtual router on this node. Times are milliseconds from any origin; a time before the last one
/// counts as the last one.
#[derive(Clone, Debug)]
pub struct Machine {
    config: Config,
    /// The priority less what is taken off for faults.
    effective: u8,
    state: State,
    /// Why, and since when.
    reason: Reason,
    since_ms: u64,
    now_ms: u64,
    /// As master: when the next advert is due. As backup: when the wait is over.
    due_ms: u64,
    /// Why this node is master when the wait is over.
    wait_for: Reason,
    /// Master_Adver_Interval: that of the master that was heard last.
    master_interval_ms: u32,
    /// Since when a master of lower priority is heard.
    lower_since_ms: Option<u64>,
    sent_ms: u64,
    announce_ms: Option<u64>,
    held: bool,
    /// Whether it was ever not held.
    was_free: bool,
    left: bool,
    actions: Vec<Action>,
}

impl Machine {
    /// A backup that begins to listen.
    pub fn new(config: Config, now_ms: u64) -> Self {
        let mut machine = Machine {
            config,
            effective: config.priority,
            state: State::Backup,
            reason: Reason::Start,
            since_ms: now_ms,
            now_ms,
            due_ms: 0,
            wait_for: Reason::MasterDown,
            master_interval_ms: config.advert_interval_ms,
            lower_since_ms: None,
            sent_ms: now_ms,
            announce_ms: None,
            held: false,
            was_free: false,
            left: false,
            actions: Vec::new(),
        };
        machine.wait();
        machine
    }

    /// Lets the time pass. Call it at least ten times in an interval.
    pub fn tick(&mut self, now_ms: u64) {
        self.pass(now_ms);
        if self.state == State::Master {
            if self.now_ms >= self.due_ms {
                self.send();
            }
            if self.announce_ms.is_some_and(|at| self.now_ms >= at) {
                self.announce_ms = None;
                self.actions.push(Action::Announce);
            }
        } else if self.now_ms >= self.due_ms && self.may_be_master() {
            self.take_over();
        }
    }

    /// Takes in an advert that was heard.
    pub fn handle(&mut self, now_ms: u64, advert: &Advert) {
        self.pass(now_ms);
        match self.state {
            State::Backup => self.heard_as_backup(advert),
            State::Master => self.heard_as_master(advert),
        }
    }

    /// Sets the effective priority; 0 is a fault.
    pub fn set_priority(&mut self, now_ms: u64, effective: u8) {
        self.pass(now_ms);
        let before = std::mem::replace(&mut self.effective, effective);
        if before == effective || self.left {
            return;
        }
        match (self.state, before, effective) {
            (State::Master, _, 0) => self.resign(Reason::Fault),
            // The other learns of it, and may be the better one now.
            (State::Master, ..) => self.send(),
            (State::Backup, 0, _) => self.wait(),
            (State::Backup, ..) => {}
        }
    }

    /// Holds the node back from taking over from a master that is heard, or no longer.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        self.was_free |= !held;
    }

    /// Leaves: the other may take over at once. There is no way back.
    pub fn leave(&mut self, now_ms: u64) {
        self.pass(now_ms);
        self.left = true;
        if self.state == State::Master {
            self.resign(Reason::Left);
        }
    }

    /// What is to be done, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is in this state, and since when.
    pub fn since(&self) -> (Reason, u64) {
        (self.reason, self.since_ms)
    }

    /// The time it was told last.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The effective priority.
    pub fn priority(&self) -> u8 {
        self.effective
    }

    /// Master_Down_Interval: how long nobody has to be heard, in milliseconds.
    pub fn master_down_ms(&self) -> u64 {
        3 * u64::from(self.master_interval_ms) + self.skew_ms()
    }

    /// Skew_Time: the better router waits less.
    fn skew_ms(&self) -> u64 {
        (256 - u64::from(self.effective)) * u64::from(self.master_interval_ms) / 256
    }

    /// Takes the time in; after a leap the node listens first.
    fn pass(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.now_ms);
        self.now_ms += passed;
        if passed <= 3 * u64::from(self.config.advert_interval_ms) + LEAP_MS {
            return;
        }
        if self.state == State::Master {
            self.become_(State::Backup, Reason::ClockJump);
        }
        self.wait();
    }

    fn heard_as_backup(&mut self, advert: &Advert) {
        if advert.priority == 0 {
            self.wait_for = Reason::MasterLeft;
            self.due_ms = self.now_ms + self.skew_ms();
            return;
        }
        if advert.priority >= self.effective {
            self.lower_since_ms = None;
        } else if !self.held && self.config.preempt {
            let since = *self.lower_since_ms.get_or_insert(self.now_ms);
            if self.now_ms - since >= self.config.preempt_delay_ms {
                self.wait_for = Reason::Preempted;
                return;
            }
        }
        self.master_interval_ms = advert.interval_ms.max(1);
        self.wait();
    }

    fn heard_as_master(&mut self, advert: &Advert) {
        let yields_as = match advert.priority {
            0 => {
                self.send();
                return;
            }
            _ if self.held && !self.was_free => Some(Reason::Joining),
            theirs if theirs > self.effective => Some(Reason::HigherPriority),
            theirs if theirs == self.effective && advert.wins_ties => Some(Reason::LargerAddress),
            _ => None,
        };
        let interval_ms = u64::from(self.config.advert_interval_ms);
        match yields_as {
            Some(reason) => {
                self.become_(State::Backup, reason);
                self.master_interval_ms = advert.interval_ms.max(1);
                self.wait();
            }
            None => {
                if self.now_ms - self.sent_ms >= interval_ms / 4 {
                    self.send();
                }
                let _ = self.announce_ms.get_or_insert(self.now_ms + interval_ms);
            }
        }
    }

    fn may_be_master(&self) -> bool {
        self.effective != 0 && !self.left
    }

    fn take_over(&mut self) {
        self.become_(State::Master, self.wait_for);
        self.send();
        self.actions.push(Action::Announce);
        self.announce_ms = Some(self.now_ms + REPEAT_MS);
    }

    /// Leaves mastership and says so.
    fn resign(&mut self, reason: Reason) {
        let interval_ms = self.config.advert_interval_ms;
        self.actions.push(Action::Send { priority: 0, interval_ms });
        self.become_(State::Backup, reason);
        self.wait();
    }

    fn become_(&mut self, state: State, reason: Reason) {
        (self.state, self.reason, self.since_ms) = (state, reason, self.now_ms);
        self.lower_since_ms = None;
        self.announce_ms = None;
        self.master_interval_ms = self.config.advert_interval_ms;
        self.actions.push(Action::Become(state, reason));
    }

    /// Begins to wait for Master_Down_Interval.
    fn wait(&mut self) {
        self.wait_for = Reason::MasterDown;
        self.due_ms = self.now_ms + self.master_down_ms();
    }

    fn send(&mut self) {
        let interval_ms = self.config.advert_interval_ms;
        self.actions.push(Action::Send { priority: self.effective, interval_ms });
        self.sent_ms = self.now_ms;
        self.due_ms = self.now_ms + u64::from(interval_ms);
    }
}
