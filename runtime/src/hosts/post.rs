//! Orders for all slots of a job, wherever they are.

use super::message::{MailMessage, Order};
use crate::checkpoint::{Mail, Mailbox};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The mailboxes of the slots of this process, and the ways to the other members.
#[derive(Clone, Default)]
pub(crate) struct Post {
    mailboxes: Vec<Arc<Mailbox>>,
    attempt: u64,
    members: Vec<Sender<Order>>,
}

impl Post {
    /// For slots of this process alone.
    pub(crate) fn to_slots(mailboxes: Vec<Arc<Mailbox>>) -> Self {
        Self { mailboxes, ..Self::default() }
    }

    /// For those of other members, too.
    pub(super) fn and_members(mut self, attempt: u64, members: Vec<Sender<Order>>) -> Self {
        (self.attempt, self.members) = (attempt, members);
        self
    }

    /// Tells every slot.
    pub(crate) fn send(&self, mail: Mail) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(mail));
        let order = Order::Mail { attempt: self.attempt, mail: MailMessage::from(mail) };
        self.order(&order);
    }

    /// All members but this one are to let their slots run.
    pub(crate) fn release(&self) {
        self.order(&Order::Release { attempt: self.attempt });
    }

    /// All members but this one are to end the attempt.
    pub(crate) fn stop(&self) {
        self.order(&Order::Stop { attempt: self.attempt });
    }

    fn order(&self, order: &Order) {
        for member in &self.members {
            // Whose link is gone has ended the attempt by itself.
            let _ = member.send(order.clone());
        }
    }
}

impl From<Mail> for MailMessage {
    fn from(mail: Mail) -> Self {
        match mail {
            Mail::Announce(checkpoint, kind) => {
                Self::Announce { checkpoint: checkpoint.0, kind: kind.code() }
            }
            Mail::Complete { checkpoint, oldest } => {
                Self::Complete { checkpoint: checkpoint.0, oldest: oldest.0 }
            }
            Mail::Abort(checkpoint) => Self::Abort { checkpoint: checkpoint.0 },
            Mail::Exit => Self::Exit,
        }
    }
}
