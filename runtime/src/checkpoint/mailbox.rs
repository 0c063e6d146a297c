//! Orders for a slot, read between two passes over its subtasks.

use millstream_network::Wake;
use millstream_protocol::CheckpointKind;
use millstream_types::CheckpointId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mail {
    /// A checkpoint begins.
    Announce(CheckpointId, CheckpointKind),
    /// A checkpoint is complete; none before `oldest` will be restored.
    Complete { checkpoint: CheckpointId, oldest: CheckpointId },
    /// A checkpoint is given up.
    Abort(CheckpointId),
    /// The job is done: the loop may end.
    Exit,
}

/// The mail of one slot.
pub(crate) struct Mailbox {
    /// There is mail: read once per pass, so that an empty box costs a look at a line that is in the
    /// cache.
    full: AtomicBool,
    mail: Mutex<Vec<Mail>>,
    slot: Arc<dyn Wake>,
}

impl Mailbox {
    /// The mailbox of the slot that `slot` wakes.
    pub(crate) fn new(slot: Arc<dyn Wake>) -> Self {
        Self { full: AtomicBool::new(false), mail: Mutex::default(), slot }
    }

    pub(crate) fn post(&self, mail: Mail) {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        self.full.store(true, Ordering::Release);
        self.slot.wake();
    }

    /// True if there is mail.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// What there is, in order.
    pub(crate) fn take(&self) -> Vec<Mail> {
        // Before the mail is taken: what is posted behind it is seen by the next call.
        self.full.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self) {}
    }

    #[test]
    fn mail_is_read_once_and_in_order() {
        let mailbox = Mailbox::new(Arc::new(Nobody));
        assert!(!mailbox.is_full());
        mailbox.post(Mail::Abort(CheckpointId(1)));
        mailbox.post(Mail::Exit);
        assert!(mailbox.is_full());
        assert_eq!(mailbox.take(), [Mail::Abort(CheckpointId(1)), Mail::Exit]);
        assert!(!mailbox.is_full() && mailbox.take().is_empty());
    }
}
