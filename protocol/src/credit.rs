//! Credits between hosts: how much a sender may send before the receiver has made room again.
//!
//! Within a process a credit *is* an empty batch that comes back. Between hosts it is the right to send
//! one frame, and what comes back is a number: how many frames, since the channel was opened, the
//! receiver has granted in all. A number that only grows needs no order among grants and no memory of
//! the last one: the greatest counts (the credit-based flow control of ATM, by Kung and Chapman, and of
//! Flink's network stack, FLINK-7282, with running totals as in TCP's window).
//!
//! Each channel has two budgets of credits, for data and for control, so that a barrier never waits for
//! room among batches.
//!
//! # Invariants
//! - At most as many frames as the window has are with the sender's transport, on the wire, or with the
//!   receiver and not consumed.
//! - When all that was sent is consumed and all grants have arrived, the sender has the whole window but
//!   for what the receiver has not announced yet, which is less than half of it: so a sender waits for
//!   ever only if the receiver does not consume.

use thiserror::Error;

/// A sender's end of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendCredits {
    window: u64,
    granted: u64,
    sent: u64,
}

impl SendCredits {
    /// A channel of which both ends know the window: so many frames may be sent at once.
    ///
    /// # Panics
    /// If the window is zero: nothing would ever be sent.
    pub fn new(window: u32) -> Self {
        assert!(window > 0, "a window has room for one frame at least");
        let window = u64::from(window);
        Self { window, granted: window, sent: 0 }
    }

    /// How many frames may be sent now.
    pub fn available(self) -> u64 {
        self.granted - self.sent
    }

    /// Uses a credit. Returns the number of the frame, from 0 on, or `None` if there is no credit.
    pub fn send(&mut self) -> Option<u64> {
        (self.sent < self.granted).then(|| {
            self.sent += 1;
            self.sent - 1
        })
    }

    /// The receiver says how many frames it has granted in all. One that says less than another did is
    /// late, and changes nothing.
    ///
    /// # Errors
    /// If it grants more than the window beyond what was sent: then the peers do not speak of the same
    /// channel.
    pub fn grant(&mut self, total: u64) -> Result<(), CreditViolation> {
        if total > self.sent + self.window {
            return Err(CreditViolation::GrantedTooMuch {
                granted: total,
                most: self.sent + self.window,
            });
        }
        self.granted = self.granted.max(total);
        Ok(())
    }
}

/// A receiver's end of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCredits {
    window: u64,
    /// What the sender has been told, or is being told.
    announced: u64,
    received: u64,
    consumed: u64,
}

impl ReceiveCredits {
    /// The other end of [`SendCredits::new`].
    ///
    /// # Panics
    /// If the window is zero.
    pub fn new(window: u32) -> Self {
        assert!(window > 0, "a window has room for one frame at least");
        let window = u64::from(window);
        Self { window, announced: window, received: 0, consumed: 0 }
    }

    /// A frame has come, with its number.
    ///
    /// # Errors
    /// If it is not the next one, or nothing had granted it.
    pub fn receive(&mut self, number: u64) -> Result<(), CreditViolation> {
        if number != self.received {
            return Err(CreditViolation::OutOfOrder { found: number, expected: self.received });
        }
        if number >= self.announced {
            return Err(CreditViolation::SentTooMuch { number, granted: self.announced });
        }
        self.received += 1;
        Ok(())
    }

    /// Frames that were received and are not consumed.
    pub fn held(self) -> u64 {
        self.received - self.consumed
    }

    /// The room of the frame that was received first is free again. Returns the total to announce to the
    /// sender, if enough has gathered that it is worth a message: half of the window.
    ///
    /// # Panics
    /// If nothing is held.
    pub fn consume(&mut self) -> Option<u64> {
        assert!(self.consumed < self.received, "a frame is consumed once");
        self.consumed += 1;
        let gathered = self.consumed + self.window - self.announced;
        if gathered * 2 >= self.window { self.announce() } else { None }
    }

    /// The total to announce now, however little has gathered, if it is news: for a message that goes to
    /// the sender anyway.
    pub fn announce(&mut self) -> Option<u64> {
        let total = self.consumed + self.window;
        (total > self.announced).then(|| {
            self.announced = total;
            total
        })
    }
}

/// A peer does not keep to the protocol: the connection must end, and with it the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CreditViolation {
    /// A grant beyond the window.
    #[error("the receiver grants {granted} frames where {most} are the most")]
    GrantedTooMuch {
        /// In all.
        granted: u64,
        /// What could have been granted.
        most: u64,
    },
    /// A frame for which there was no credit.
    #[error("frame {number} was sent with {granted} granted")]
    SentTooMuch {
        /// Of the frame.
        number: u64,
        /// Frames granted in all.
        granted: u64,
    },
    /// A frame is missing, or came twice.
    #[error("frame {found} came where {expected} was expected")]
    OutOfOrder {
        /// The frame's number.
        found: u64,
        /// The number of the next frame.
        expected: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// What may happen next, where it is possible.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send,
        Deliver,
        Consume,
        /// Something else goes to the sender, and grants with it.
        Piggyback,
        /// One of the grants that are on their way arrives, in any order.
        Granted(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                4 => Just(Step::Send),
                3 => Just(Step::Deliver),
                3 => Just(Step::Consume),
                1 => Just(Step::Piggyback),
                2 => any::<usize>().prop_map(Step::Granted),
            ],
            0..400,
        )
    }

    proptest! {
        #[test]
        fn never_more_than_the_window_and_never_stuck(window in 1u32..20, steps in steps()) {
            let (mut sender, mut receiver) = (SendCredits::new(window), ReceiveCredits::new(window));
            let (mut wire, mut grants) = (VecDeque::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Send => wire.extend(sender.send()),
                    Step::Deliver => {
                        if let Some(number) = wire.pop_front() {
                            receiver.receive(number).unwrap();
                        }
                    }
                    Step::Consume if receiver.held() > 0 => grants.extend(receiver.consume()),
                    Step::Consume => {}
                    Step::Piggyback => grants.extend(receiver.announce()),
                    Step::Granted(at) if !grants.is_empty() => {
                        let total = grants.swap_remove(at % grants.len());
                        sender.grant(total).unwrap();
                    }
                    Step::Granted(_) => {}
                }
                prop_assert!(wire.len() as u64 + receiver.held() <= u64::from(window));
            }
            // Whatever has happened: once everything arrives and is consumed, more than half of the
            // window is free.
            for number in wire {
                receiver.receive(number).unwrap();
            }
            while receiver.held() > 0 {
                grants.extend(receiver.consume());
            }
            for total in grants {
                sender.grant(total).unwrap();
            }
            prop_assert!(sender.available() * 2 > u64::from(window));
        }
    }

    #[test]
    fn who_does_not_keep_to_it_is_found_out() {
        let mut sender = SendCredits::new(2);
        assert_eq!((sender.send(), sender.send(), sender.send()), (Some(0), Some(1), None));
        let too_much = CreditViolation::GrantedTooMuch { granted: 5, most: 4 };
        assert_eq!(sender.grant(5), Err(too_much));
        assert_eq!(sender.available(), 0, "nothing of it is believed");

        let mut receiver = ReceiveCredits::new(2);
        receiver.receive(0).unwrap();
        let twice = CreditViolation::OutOfOrder { found: 0, expected: 1 };
        assert_eq!(receiver.receive(0), Err(twice));
        receiver.receive(1).unwrap();
        let uninvited = CreditViolation::SentTooMuch { number: 2, granted: 2 };
        assert_eq!(receiver.receive(2), Err(uninvited));
        assert_eq!(receiver.consume(), Some(3), "half of the window");
        receiver.receive(2).unwrap();
    }
}
