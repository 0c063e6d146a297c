//! A subtask's part in checkpoints: what its aligner decides is done here.

use super::SubtaskCheckpoints;
use crate::chain::OpenError;
use crate::subtask::SubtaskContext;
use millstream_protocol::{Aligner, Alignment};
use millstream_state::OperatorList;
use millstream_types::{Barrier, CheckpointId, Timestamp};
use std::rc::Rc;

/// How far a subtask has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It reads.
    Running,
    /// Its input has ended, and its chain is yet to hand over what it holds.
    Ended,
    /// It does nothing any more.
    Finished,
}

/// Aligns the barriers of one subtask, and takes its snapshots.
///
/// # Invariants
/// - A snapshot is taken when the chain has passed the barrier on and nothing since, or when nothing
///   changes any more.
/// - A subtask whose input has ended takes its next snapshots when its chain has finished: until then
///   its sinks are not final.
pub(crate) struct Participant {
    aligner: Aligner,
    checkpoints: Rc<SubtaskCheckpoints>,
    /// The watermark of the input, for restored subtasks to go on with.
    kept: OperatorList<i64>,
    restored: Option<Timestamp>,
    /// To be taken when the chain has finished.
    at_the_end: Option<CheckpointId>,
}

impl Participant {
    /// The part of the subtask that is being built, which reads `channels` channels.
    pub(crate) fn open(context: &SubtaskContext, channels: usize) -> Result<Self, OpenError> {
        let mut kept = context.list::<i64>(context.first, "input watermark")?;
        // Barriers follow watermarks in every channel, so all subtasks of a vertex that reads from
        // all of another's have the same watermark at a barrier. Where each reads from one only, the
        // least is safe for all.
        let restored = kept.take_restored().map(|all| {
            let own = (all.len() == context.parallelism as usize)
                .then(|| all[context.subtask.0 as usize]);
            let least = || all.iter().copied().min();
            own.or_else(least).map_or(Timestamp::MIN, Timestamp::from_nanos)
        });
        Ok(Self {
            aligner: context.checkpoints.aligner(channels),
            checkpoints: Rc::clone(&context.checkpoints),
            kept,
            restored,
            at_the_end: None,
        })
    }

    /// A part in no checkpoints, for tests of subtasks.
    #[cfg(test)]
    pub(crate) fn of_no_job(channels: usize) -> Self {
        let checkpoints = SubtaskCheckpoints::of_no_job();
        Self {
            aligner: checkpoints.aligner(channels),
            checkpoints: Rc::new(checkpoints),
            kept: OperatorList::default(),
            restored: None,
            at_the_end: None,
        }
    }

    /// What the gates are polled with.
    #[inline]
    pub(crate) fn aligner(&mut self) -> &mut Aligner {
        &mut self.aligner
    }

    /// The watermark at the checkpoint that the job began with, if it did.
    pub(crate) fn restored(&self) -> Option<Timestamp> {
        self.restored
    }

    /// The coordinator has announced a checkpoint.
    pub(crate) fn on_announce(
        &mut self,
        checkpoint: CheckpointId,
        phase: Phase,
        watermark: Timestamp,
        forward: impl FnMut(Barrier),
    ) {
        let alignment = self.aligner.on_trigger(checkpoint);
        self.perform(alignment, phase, watermark, forward);
    }

    /// The coordinator has given up a checkpoint.
    pub(crate) fn on_abort(&mut self, checkpoint: CheckpointId) {
        self.aligner.cancel(checkpoint);
    }

    /// Does what the aligner has decided. `forward` passes a barrier on to the chain.
    pub(crate) fn perform(
        &mut self,
        mut alignment: Alignment,
        phase: Phase,
        watermark: Timestamp,
        mut forward: impl FnMut(Barrier),
    ) {
        loop {
            match alignment {
                Alignment::Waiting | Alignment::Ignored => return,
                Alignment::Aligned(barrier) => match phase {
                    Phase::Running => {
                        forward(barrier);
                        self.snapshot(barrier.checkpoint, watermark);
                    }
                    Phase::Ended => self.at_the_end = Some(barrier.checkpoint),
                    Phase::Finished => self.snapshot(barrier.checkpoint, watermark),
                },
                Alignment::Abandoned(checkpoint) => self.checkpoints.decline(
                    checkpoint,
                    "a newer barrier came before the last of this checkpoint's",
                ),
                Alignment::Overtake(_) | Alignment::Captured(_) => {
                    unreachable!("barriers overtake only in the unaligned mode")
                }
            }
            alignment = self.aligner.follow_up();
        }
    }

    /// The chain has handed over everything.
    pub(crate) fn on_finished(&mut self) {
        if let Some(checkpoint) = self.at_the_end.take() {
            self.snapshot(checkpoint, Timestamp::MAX);
        }
    }

    fn snapshot(&mut self, checkpoint: CheckpointId, watermark: Timestamp) {
        if let Err(error) = self.kept.set([watermark.as_nanos()]) {
            unreachable!("an integer cannot be archived: {error}");
        }
        self.checkpoints.snapshot(checkpoint);
    }
}
