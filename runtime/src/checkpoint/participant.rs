//! A subtask's part in checkpoints: what its aligner decides is done here.

use super::SubtaskCheckpoints;
use crate::chain::OpenError;
use crate::operator::{Passing, Signal};
use crate::subtask::SubtaskContext;
use millstream_protocol::{Aligner, Alignment};
use millstream_state::OperatorList;
use millstream_types::{CheckpointId, Timestamp};
use std::rc::Rc;

const WATERMARK: &str = "input watermark";

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
///   changes any more. Where the barrier overtakes, it is whole when what it has overtaken has come.
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
    /// The snapshot has been taken, and what its barrier has overtaken is still coming.
    capturing: Option<CheckpointId>,
    /// The newest checkpoint that was announced and is not whole here, if its barrier is to overtake
    /// after a while.
    aligning: Option<Aligning>,
}

#[derive(Clone, Copy, Debug)]
struct Aligning {
    checkpoint: CheckpointId,
    /// When its barrier overtakes; set by the first poll after it was announced.
    due: Timestamp,
    is_due: bool,
}

/// Where the watermark is kept, and what it was at the checkpoint that the job began with, if it did.
fn open_watermark(
    context: &SubtaskContext,
) -> Result<(OperatorList<i64>, Option<Timestamp>), OpenError> {
    let (mut kept, mut before) = (OperatorList::default(), None);
    // Who remembers nothing, and to whom nothing is in flight, takes up the watermarks that come: in a
    // changed program it may be another one.
    if context.checkpoints.may_overtake() || !context.state.operators().is_empty() {
        kept = context.list(context.anchor, WATERMARK)?;
        before = kept.take_restored();
        // Operators may have been given uids since.
        for operator in &context.operators {
            if before.is_none() {
                before = context.restored_items(*operator, WATERMARK)?;
            }
        }
    }
    if !context.checkpoints.is_restored() {
        return Ok((kept, None));
    }
    // Barriers follow watermarks in every channel, so all subtasks of a vertex that reads from
    // all of another's have the same watermark at a barrier, unless barriers overtook. Then, and where
    // each reads from one only, the least is safe for all.
    let watermark = before.and_then(|all: Vec<i64>| {
        let own =
            (all.len() == context.parallelism as usize).then(|| all[context.subtask.0 as usize]);
        own.or_else(|| all.iter().copied().min())
    });
    Ok((kept, Some(watermark.map_or(Timestamp::MIN, Timestamp::from_nanos))))
}

impl Participant {
    /// The part of the subtask that is being built, whose operators have been, and which reads
    /// `channels` channels.
    pub(crate) fn open(context: &SubtaskContext, channels: usize) -> Result<Self, OpenError> {
        let (kept, restored) = open_watermark(context)?;
        Ok(Self {
            aligner: context.checkpoints.aligner(channels),
            checkpoints: Rc::clone(&context.checkpoints),
            kept,
            restored,
            at_the_end: None,
            capturing: None,
            aligning: None,
        })
    }

    /// A part in checkpoints that nobody coordinates, for tests of subtasks.
    #[cfg(test)]
    pub(crate) fn of_no_job(
        channels: usize,
        settings: millstream_protocol::CheckpointSettings,
        beginning: super::Beginning,
    ) -> (Self, std::sync::mpsc::Receiver<super::Report>) {
        let (checkpoints, reports) = SubtaskCheckpoints::of_no_job(settings, beginning);
        let participant = Self {
            aligner: checkpoints.aligner(channels),
            checkpoints,
            kept: OperatorList::default(),
            restored: (beginning.rounds > 0).then_some(Timestamp::MIN),
            at_the_end: None,
            capturing: None,
            aligning: None,
        };
        (participant, reports)
    }

    /// What the gates are polled with.
    #[inline]
    pub(crate) fn aligner(&mut self) -> &mut Aligner {
        &mut self.aligner
    }

    /// Where what barriers overtake is captured, if they may overtake.
    pub(crate) fn captures(&self) -> Option<Rc<SubtaskCheckpoints>> {
        self.checkpoints.may_overtake().then(|| Rc::clone(&self.checkpoints))
    }

    /// The checkpoint that has been aligning for too long: its barriers overtake wherever they are.
    pub(crate) fn overdue(&mut self, now: Timestamp) -> Option<CheckpointId> {
        let aligning = self.aligning.as_mut()?;
        if aligning.due == Timestamp::MAX {
            aligning.due = now + self.checkpoints.alignment_timeout()?;
        }
        aligning.is_due |= now >= aligning.due;
        aligning.is_due.then_some(aligning.checkpoint)
    }

    /// When a checkpoint will be overdue that is not yet.
    pub(crate) fn overtake_at(&self) -> Timestamp {
        let waits = self.aligning.filter(|aligning| !aligning.is_due);
        waits.map_or(Timestamp::MAX, |aligning| aligning.due)
    }

    /// The watermark at the checkpoint that the job began with, if it did.
    pub(crate) fn restored(&self) -> Option<Timestamp> {
        self.restored
    }

    /// Emits what a subtask emits at its beginning, behind the records that were in flight: the end of a round.
    /// A source has received what others emit in further rounds.
    pub(crate) fn begin(&self, is_source: bool, mut forward: impl FnMut(Signal)) {
        let (barrier, rounds) = self.checkpoints.recovery();
        let at_once = if is_source { rounds } else { rounds.min(1) };
        (0..at_once).for_each(|_| forward(Signal::Recovering(barrier)));
    }

    /// The coordinator has announced a checkpoint.
    pub(crate) fn on_announce(
        &mut self,
        checkpoint: CheckpointId,
        phase: Phase,
        watermark: Timestamp,
        forward: impl FnMut(Signal),
    ) {
        let alignment = self.aligner.on_trigger(checkpoint);
        if self.checkpoints.alignment_timeout().is_some() {
            let due = Timestamp::MAX;
            self.aligning = Some(Aligning { checkpoint, due, is_due: false });
        }
        self.perform(alignment, phase, watermark, forward);
    }

    /// The coordinator has given up a checkpoint.
    pub(crate) fn on_abort(&mut self, checkpoint: CheckpointId) {
        self.aligner.cancel(checkpoint);
        self.give_up(checkpoint);
    }

    fn give_up(&mut self, checkpoint: CheckpointId) {
        self.checkpoints.forget_captured(checkpoint);
        self.capturing.take_if(|capturing| *capturing == checkpoint);
        self.aligning.take_if(|aligning| aligning.checkpoint == checkpoint);
        self.at_the_end.take_if(|at_the_end| *at_the_end == checkpoint);
    }

    /// Does what the aligner has decided. `forward` passes barriers on to the chain.
    pub(crate) fn perform(
        &mut self,
        mut alignment: Alignment,
        phase: Phase,
        watermark: Timestamp,
        mut forward: impl FnMut(Signal),
    ) {
        loop {
            match alignment {
                Alignment::Waiting | Alignment::Ignored => return,
                Alignment::Aligned(barrier) => match phase {
                    Phase::Running => {
                        forward(Signal::Barrier(barrier, Passing::InOrder));
                        self.take(barrier.checkpoint, watermark);
                    }
                    Phase::Ended => self.at_the_end = Some(barrier.checkpoint),
                    Phase::Finished => self.take(barrier.checkpoint, watermark),
                },
                Alignment::Overtake(barrier) => match phase {
                    Phase::Running => {
                        forward(Signal::Barrier(barrier, Passing::Overtaking));
                        self.snapshot(barrier.checkpoint, watermark);
                        self.capturing = Some(barrier.checkpoint);
                    }
                    // Nothing comes in any more, so nothing is captured.
                    Phase::Ended => self.at_the_end = Some(barrier.checkpoint),
                    Phase::Finished => self.take(barrier.checkpoint, watermark),
                },
                Alignment::Captured(checkpoint) => {
                    if self.capturing.take_if(|capturing| *capturing == checkpoint).is_some() {
                        self.complete(checkpoint);
                    }
                }
                Alignment::Abandoned(checkpoint) => {
                    self.give_up(checkpoint);
                    self.checkpoints.decline(
                        checkpoint,
                        "a newer barrier came before the last of this checkpoint's",
                    );
                }
                Alignment::Recovering(barrier) => forward(Signal::Recovering(barrier)),
                Alignment::Recovered => self.checkpoints.recovered(),
            }
            alignment = self.aligner.follow_up();
        }
    }

    /// The chain has handed over everything.
    pub(crate) fn on_finished(&mut self) {
        if let Some(checkpoint) = self.at_the_end.take() {
            self.take(checkpoint, Timestamp::MAX);
        }
    }

    /// Takes a snapshot of which nothing is in flight.
    fn take(&mut self, checkpoint: CheckpointId, watermark: Timestamp) {
        self.snapshot(checkpoint, watermark);
        self.complete(checkpoint);
    }

    fn snapshot(&mut self, checkpoint: CheckpointId, watermark: Timestamp) {
        if let Err(error) = self.kept.set([watermark.as_nanos()]) {
            unreachable!("an integer cannot be archived: {error}");
        }
        self.checkpoints.snapshot(checkpoint);
    }

    fn complete(&mut self, checkpoint: CheckpointId) {
        self.aligning.take_if(|aligning| aligning.checkpoint <= checkpoint);
        self.checkpoints.complete(checkpoint);
    }
}
