//! The management thread's ends of the queues to and from the workers.

use std::collections::VecDeque;
use std::sync::Arc;

use rtrb::{Consumer, Producer, PushError};

use crate::datapath::counters::WorkerCounters;
use crate::worker::control::{Command, Event};

/// What the management thread holds of one worker.
#[derive(Debug)]
pub struct WorkerHandle {
    /// To the worker.
    pub commands: Producer<Command>,
    /// From the worker.
    pub events: Consumer<Event>,
    /// Its counters; only the worker writes them.
    pub counters: Arc<WorkerCounters>,
    /// The CPU core it is pinned to.
    pub core: usize,
}

/// The most events taken from one worker at a time, so that no worker can keep management busy.
const EVENTS_AT_A_TIME: usize = 4_096;

/// A worker with the commands that its queue had no room for yet.
#[derive(Debug)]
pub(super) struct Worker {
    handle: WorkerHandle,
    waiting: VecDeque<Command>,
}

impl Worker {
    pub(super) fn new(handle: WorkerHandle) -> Self {
        Worker { handle, waiting: VecDeque::new() }
    }

    pub(super) fn core(&self) -> usize {
        self.handle.core
    }

    pub(super) fn counters(&self) -> &WorkerCounters {
        &self.handle.counters
    }

    /// Whether the worker has let go of its ends of the queues.
    pub(super) fn is_gone(&self) -> bool {
        self.handle.commands.is_abandoned()
    }

    /// How many commands wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends a command, after those that wait. It is never lost.
    pub(super) fn send(&mut self, command: Command) {
        self.waiting.push_back(command);
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(PushError::Full(command)) = self.handle.commands.push(command) {
                self.waiting.push_front(command);
                return;
            }
        }
    }

    /// Moves the events that have come to `into`.
    pub(super) fn take_events(&mut self, into: &mut Vec<Event>) {
        for _ in 0..EVENTS_AT_A_TIME {
            match self.handle.events.pop() {
                Ok(event) => into.push(event),
                Err(_) => return,
            }
        }
    }

    /// Received minus transmitted, handed off, consumed, held and dropped.
    ///
    /// The cells cannot be read all at one instant, so packets in flight show; of several readings
    /// the one nearest to 0 is returned. A packet that is really lost shows in all of them.
    pub(super) fn unaccounted(&self) -> i64 {
        let c = self.counters();
        let once = || {
            let seen = c.rx.get().wrapping_add(c.handed_in.get());
            let known =
                [c.tx.get(), c.handed_off.get(), c.consumed.get(), c.held.get(), c.dropped()]
                    .into_iter()
                    .fold(0u64, u64::wrapping_add);
            seen.wrapping_sub(known) as i64
        };
        let mut least = once();
        for _ in 0..15 {
            if least == 0 {
                break;
            }
            let again = once();
            if again.unsigned_abs() < least.unsigned_abs() {
                least = again;
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::snapshot::PortId;
    use rtrb::RingBuffer;

    fn transmit(n: u8) -> Command {
        Command::Transmit { port: PortId(0), frame: vec![n] }
    }

    #[test]
    fn a_full_queue_delays_commands_but_keeps_them_in_order() {
        let (commands, mut at_worker) = RingBuffer::new(2);
        let (mut from_worker, events) = RingBuffer::new(2);
        let mut worker =
            Worker::new(WorkerHandle { commands, events, counters: Arc::default(), core: 3 });
        for n in 0..5 {
            worker.send(transmit(n));
        }
        assert_eq!(worker.waiting(), 3);
        let mut got = Vec::new();
        while let Ok(command) = at_worker.pop() {
            let Command::Transmit { frame, .. } = command else { panic!("{command:?}") };
            got.extend(frame);
            worker.flush();
        }
        assert_eq!(got, [0, 1, 2, 3, 4]);
        assert_eq!(worker.waiting(), 0);

        from_worker.push(Event::Transmitted(vec![7])).unwrap();
        let mut taken = Vec::new();
        worker.take_events(&mut taken);
        assert!(matches!(&taken[..], [Event::Transmitted(f)] if f == &[7]));

        assert!(!worker.is_gone());
        drop((at_worker, from_worker));
        assert!(worker.is_gone());
    }

    #[test]
    fn unaccounted_packets_are_what_the_equation_leaves_over() {
        let (commands, _c) = RingBuffer::new(1);
        let (_e, events) = RingBuffer::new(1);
        let worker =
            Worker::new(WorkerHandle { commands, events, counters: Arc::default(), core: 0 });
        let c = worker.counters();
        c.rx.add(10);
        c.handed_in.add(2);
        c.tx.add(5);
        c.handed_off.add(1);
        c.consumed.add(1);
        c.held.set(2);
        c.drops[3].add(1);
        assert_eq!(worker.unaccounted(), 2);
        c.drops[4].add(3);
        assert_eq!(worker.unaccounted(), -1);
    }
}
