//! Orders for all slots of a job, wherever they are.

use super::message::{MailMessage, Order};
use crate::checkpoint::{Mail, Mailbox};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The mailboxes of the slots of this process, and the ways to the other members.
#[derive(Clone, Default)]
pub(crate) struct Post {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Attempts, and the members that take part in each.
    members: Vec<(u64, Sender<Order>)>,
}

impl Post {
    /// For slots of this process alone.
    pub(crate) fn to_slots(mailboxes: Vec<Arc<Mailbox>>) -> Self {
        Self { mailboxes, ..Self::default() }
    }

    /// For slots of other members, which take part in an attempt.
    pub(super) fn to_members(attempt: u64, members: impl Iterator<Item = Sender<Order>>) -> Self {
        let members = members.map(|member| (attempt, member)).collect();
        Self { members, ..Self::default() }
    }

    /// For the slots of another, too.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.mailboxes.extend(other.mailboxes.iter().cloned());
        self.members.extend(other.members.iter().cloned());
        self
    }

    /// Tells every slot.
    pub(crate) fn send(&self, mail: Mail) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(mail));
        self.order(|attempt| Order::Mail { attempt, mail: MailMessage::from(mail) });
    }

    /// All members but this one are to let their slots run.
    pub(crate) fn release(&self) {
        self.order(|attempt| Order::Release { attempt });
    }

    /// All members but this one are to end the attempt.
    pub(crate) fn stop(&self) {
        self.order(|attempt| Order::Stop { attempt });
    }

    fn order(&self, order: impl Fn(u64) -> Order) {
        for (attempt, member) in &self.members {
            // Whose link is gone has ended the attempt by itself.
            let _ = member.send(order(*attempt));
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
