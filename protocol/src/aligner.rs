//! Aligns checkpoint barriers over the input channels of one subtask.
//!
//! A barrier divides each channel into what belongs to a checkpoint and what does not (Carbone et
//! al., arXiv:1506.08603). Aligned, a channel whose barrier has come is not read until the others'
//! have come too, so that the snapshot holds exactly what preceded the barriers. Unaligned, the
//! first barrier overtakes what is in flight, and what it overtook on the other channels becomes
//! part of the snapshot (FLIP-76). At-least-once, nothing is blocked and nothing captured: after a
//! restore some records are seen twice.
//!
//! A channel that has ended counts as one whose barrier has come: nothing follows on it that could
//! belong to a later checkpoint. A subtask without open channels (a source, or one all of whose
//! inputs have ended) takes part by [`Aligner::on_trigger`].
//!
//! A job that is restored with records in flight sends these again, each subtask before anything else, and behind
//! them the barrier of the checkpoint that they are from. Nothing that comes behind it is read before it has come
//! on all channels ([`Aligner::recovering`]): so no record overtakes one that was sent before the checkpoint,
//! even if it comes by another channel now, as its source or its key has moved. For what comes of records in
//! flight further up, a subtask that has aligned the barrier sends it once more, and so on, as many rounds as
//! there are channels on the longest way through the job; in round `n` all has come that was in flight less
//! than `n` channels away. Sources, which wait for nobody, send all of them at once.
//!
//! # Invariants
//! - While a checkpoint aligns, a channel whose barrier has come is blocked, and no other is.
//! - The ids of [`Aligned`](Alignment::Aligned) and [`Overtake`](Alignment::Overtake) strictly
//!   increase.
//! - A checkpoint that has begun here ends in exactly one of `Aligned`, `Captured`, `Abandoned` and
//!   [`cancel`](Aligner::cancel).
//! - No checkpoint begins here before all that was in flight has been received.
//! - A channel that brings a newer barrier without the pending one has lost the pending one: it is
//!   abandoned, so that no channel stays blocked for a barrier that cannot come.

use millstream_types::{Barrier, CheckpointId};
use std::collections::{BTreeSet, VecDeque};

/// How a job's checkpoints relate to the records in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CheckpointMode {
    /// Exactly-once: channels wait for each other's barriers.
    #[default]
    ExactlyOnce,
    /// Exactly-once: barriers overtake, and what they overtook is part of the snapshot.
    Unaligned,
    /// Channels do not wait, and some records are processed twice after a restore.
    AtLeastOnce,
}

/// What has come of an input to an [`Aligner`], and what its caller must do now, before it reads
/// another element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "barriers are forwarded and snapshots taken as this says"]
pub enum Alignment {
    /// Nothing to do, or nothing more.
    Waiting,
    /// Every channel has the barrier or has ended, and none is blocked any more: forward it behind
    /// what was emitted, and take the snapshot.
    Aligned(Barrier),
    /// Forward the barrier ahead of what was emitted, take the snapshot with the emitted batches that
    /// it overtook, and add to it what comes on each channel that
    /// [`is_captured`](Aligner::is_captured).
    Overtake(Barrier),
    /// The last barrier behind an [`Overtake`](Self::Overtake) has come: the snapshot is whole.
    Captured(CheckpointId),
    /// The checkpoint cannot complete here any more: decline it, and drop what was captured for it.
    Abandoned(CheckpointId),
    /// A round of what was in flight in the checkpoint that the job began with has been received, and there
    /// are more: forward the barrier behind what was emitted.
    Recovering(Barrier),
    /// All that was in flight has been received: tell the coordinator.
    Recovered,
    /// The barrier or trigger is of a checkpoint that is over or was cancelled.
    Ignored,
}

/// The channels of one subtask and the checkpoints that they are in. A two-input subtask has one
/// aligner over the channels of both gates.
///
/// An input can have several outcomes: after anything but [`Alignment::Waiting`] and
/// [`Alignment::Ignored`], call [`follow_up`](Self::follow_up) until it returns `Waiting`.
#[derive(Debug)]
pub struct Aligner {
    mode: CheckpointMode,
    channels: Vec<Channel>,
    /// The channels that have not ended.
    open: usize,
    /// The newest checkpoint that ended or was overtaken here. Nothing up to it begins again.
    floor: CheckpointId,
    /// By id, oldest first; more than one only in [`CheckpointMode::AtLeastOnce`].
    pending: VecDeque<Pending>,
    /// Announced, newer than `floor`, not pending yet.
    announced: BTreeSet<CheckpointId>,
    /// Cancelled, newer than `floor`: their barriers are still to come.
    cancelled: BTreeSet<CheckpointId>,
    /// The rounds of what was in flight in the restored checkpoint that have not all come.
    rounds: u32,
    /// The open channels on which the present round has not.
    recovering: usize,
    outcomes: VecDeque<Alignment>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    /// The newest barrier that came on it.
    newest: CheckpointId,
    ended: bool,
    blocked: bool,
    captured: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    checkpoint: CheckpointId,
    /// The open channels without its barrier.
    missing: usize,
    /// Its barrier has been forwarded, and the missing channels are captured.
    overtaken: bool,
}

/// The most cancelled checkpoints that are remembered singly. What is older than all of these is
/// taken for cancelled too: far more than a coordinator has pending.
const CANCELLED_COUNT_MAX: usize = 64;

impl Aligner {
    /// An aligner over `channels` open channels, none for a source; checkpoints begin after
    /// `restored`, which is 0 for a job that starts empty.
    pub fn new(mode: CheckpointMode, channels: usize, restored: CheckpointId) -> Self {
        Self {
            mode,
            channels: vec![Channel { newest: restored, ..Channel::default() }; channels],
            open: channels,
            floor: restored,
            pending: VecDeque::new(),
            announced: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            rounds: 0,
            recovering: 0,
            outcomes: VecDeque::new(),
        }
    }

    /// As [`new`](Self::new), of a job in whose `restored` checkpoint records were in flight, if there are
    /// `rounds`: each channel brings so many barriers of that checkpoint, and they are aligned, whatever the
    /// mode. No checkpoint may begin before every subtask that has channels has said
    /// [`Recovered`](Alignment::Recovered).
    pub fn recovering(
        mode: CheckpointMode,
        channels: usize,
        restored: CheckpointId,
        rounds: u32,
    ) -> Self {
        Self { rounds, recovering: channels, ..Self::new(mode, channels, restored) }
    }

    /// True if nothing may be read from the channel now.
    ///
    /// # Panics
    /// If there is no such channel.
    #[inline]
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.channels[channel].blocked
    }

    /// True if what is read from the channel is also part of the pending snapshot, up to the
    /// channel's barrier.
    ///
    /// # Panics
    /// If there is no such channel.
    #[inline]
    pub fn is_captured(&self, channel: usize) -> bool {
        self.channels[channel].captured
    }

    /// True if the channel is open and no barrier of this checkpoint, or a newer one, has come on it.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn awaits(&self, channel: usize, checkpoint: CheckpointId) -> bool {
        let channel = &self.channels[channel];
        !channel.ended && channel.newest < checkpoint
    }

    /// The oldest checkpoint of which a barrier has come and another is missing.
    pub fn pending(&self) -> Option<CheckpointId> {
        self.pending.front().map(|pending| pending.checkpoint)
    }

    /// The open channels on which the oldest pending checkpoint's barrier has not come.
    pub fn missing(&self) -> impl Iterator<Item = usize> {
        let pending = self.pending();
        self.channels.iter().enumerate().filter_map(move |(index, channel)| {
            pending.is_some_and(|id| !channel.ended && channel.newest < id).then_some(index)
        })
    }

    /// A barrier has come on a channel, behind everything that was sent before it.
    ///
    /// Complexity: O(1), and O(channels) once per checkpoint.
    ///
    /// # Panics
    /// If there is no such channel, or it is blocked or has ended: it was not to be read.
    pub fn on_barrier(&mut self, channel: usize, barrier: Barrier) -> Alignment {
        assert!(!self.is_blocked(channel), "{barrier:?} on channel {channel}, which is blocked");
        if self.rounds > 0 {
            assert!(barrier.checkpoint <= self.floor, "{barrier:?} ahead of what was in flight");
            self.channels[channel].blocked = true;
            self.recover();
            return self.follow_up();
        }
        self.note(channel, barrier, self.mode == CheckpointMode::Unaligned)
    }

    /// A barrier has come on a channel ahead of what was sent before it, and overtakes here, too.
    /// What it overtook in the channel belongs to the snapshot; the caller adds it when it performs
    /// [`Alignment::Overtake`], or at once if that was performed before. In
    /// [`CheckpointMode::AtLeastOnce`] it is a barrier like any other.
    ///
    /// # Panics
    /// If there is no such channel, or it has ended.
    pub fn on_overtaking_barrier(&mut self, channel: usize, barrier: Barrier) -> Alignment {
        self.note(channel, barrier, self.mode != CheckpointMode::AtLeastOnce)
    }

    /// Nothing more of the present round comes by one of the channels.
    fn recover(&mut self) {
        self.recovering -= 1;
        while self.rounds > 0 && self.recovering == 0 {
            self.release_channels();
            self.rounds -= 1;
            self.recovering = self.open;
            self.outcomes.push_back(match self.rounds {
                0 => Alignment::Recovered,
                _ => Alignment::Recovering(Barrier { checkpoint: self.floor }),
            });
        }
    }

    fn note(&mut self, channel: usize, barrier: Barrier, overtaking: bool) -> Alignment {
        let id = barrier.checkpoint;
        let before = self.channels[channel];
        assert!(!before.ended, "{barrier:?} on channel {channel}, which has ended");
        if id <= before.newest {
            return Alignment::Ignored;
        }
        self.channels[channel].newest = id;
        // What the channel has passed without a barrier of its own cannot come any more.
        self.abandon_where(|lost| before.newest < lost && lost < id);
        if self.is_over(id) {
            return self.first_or(Alignment::Ignored);
        }
        if self.mode != CheckpointMode::AtLeastOnce {
            self.abandon_where(|older| older < id);
        }
        if self.note_barrier(id) {
            if self.mode != CheckpointMode::AtLeastOnce {
                let overtaken = self.pending.front().is_some_and(|pending| pending.overtaken);
                let channel = &mut self.channels[channel];
                (channel.blocked, channel.captured) = (!overtaken, false);
            }
            if overtaking {
                self.overtake();
            }
            self.settle();
        }
        self.follow_up()
    }

    /// A channel has ended; nothing follows on it. A channel that ends twice has ended once.
    ///
    /// # Panics
    /// If there is no such channel, or it is blocked: it was not to be read.
    pub fn on_end(&mut self, channel: usize) -> Alignment {
        let state = &mut self.channels[channel];
        assert!(!state.blocked, "the end of channel {channel}, which is blocked");
        if state.ended {
            return Alignment::Waiting;
        }
        (state.ended, state.captured) = (true, false);
        let newest = state.newest;
        self.open -= 1;
        if self.rounds > 0 {
            self.recover();
        }
        for pending in self.pending.iter_mut().filter(|pending| newest < pending.checkpoint) {
            pending.missing -= 1;
        }
        self.admit_announced();
        self.settle();
        self.follow_up()
    }

    /// A checkpoint was announced to this subtask. Without open channels it is aligned at once; else
    /// barriers will come, or all channels end before any does, and then it is aligned.
    pub fn on_trigger(&mut self, checkpoint: CheckpointId) -> Alignment {
        if self.is_over(checkpoint) {
            return Alignment::Ignored;
        }
        if !self.is_pending(checkpoint) {
            self.announced.insert(checkpoint);
        }
        self.admit_announced();
        self.settle();
        self.follow_up()
    }

    /// The pending alignment takes too long: its barrier overtakes what it waits for. Says
    /// `Waiting` if nothing is pending, if it has overtaken already, and at-least-once.
    pub fn on_timeout(&mut self) -> Alignment {
        if self.mode != CheckpointMode::AtLeastOnce {
            self.overtake();
        }
        self.follow_up()
    }

    /// The coordinator has aborted a checkpoint: unblocks its channels and ignores the barriers of it
    /// that are still to come. Returns true if it was pending here.
    pub fn cancel(&mut self, checkpoint: CheckpointId) -> bool {
        self.announced.remove(&checkpoint);
        if self.is_over(checkpoint) {
            return false;
        }
        if checkpoint > self.floor {
            self.cancelled.insert(checkpoint);
        }
        if self.cancelled.len() > CANCELLED_COUNT_MAX
            && let Some(oldest) = self.cancelled.pop_first()
        {
            self.raise_floor(oldest);
        }
        let before = self.pending.len();
        self.pending.retain(|pending| pending.checkpoint != checkpoint);
        let was_pending = self.pending.len() < before;
        if was_pending {
            self.release_channels();
        }
        was_pending
    }

    /// The next outcome of the last input; `Waiting` if there is none left.
    pub fn follow_up(&mut self) -> Alignment {
        self.first_or(Alignment::Waiting)
    }

    fn first_or(&mut self, otherwise: Alignment) -> Alignment {
        self.outcomes.pop_front().unwrap_or(otherwise)
    }

    fn is_pending(&self, checkpoint: CheckpointId) -> bool {
        self.pending.iter().any(|pending| pending.checkpoint == checkpoint)
    }

    /// True if a checkpoint is not pending and must not begin here (any more). What has overtaken, or
    /// waits while a newer one was abandoned, is pending below the floor.
    fn is_over(&self, checkpoint: CheckpointId) -> bool {
        !self.is_pending(checkpoint)
            && (checkpoint <= self.floor || self.cancelled.contains(&checkpoint))
    }

    /// Counts a barrier, the first or a further one. False if a channel has passed this checkpoint
    /// without its barrier, which then cannot begin any more.
    fn note_barrier(&mut self, id: CheckpointId) -> bool {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.checkpoint == id) {
            pending.missing -= 1;
            return true;
        }
        self.announced.remove(&id);
        if self.channels.iter().any(|channel| !channel.ended && channel.newest > id) {
            self.outcomes.push_back(Alignment::Abandoned(id));
            self.raise_floor(id);
            return false;
        }
        let missing = self.open - 1;
        self.pending.push_back(Pending { checkpoint: id, missing, overtaken: false });
        true
    }

    /// Without open channels, what was announced has all its barriers.
    fn admit_announced(&mut self) {
        if self.open > 0 {
            return;
        }
        for checkpoint in std::mem::take(&mut self.announced) {
            self.pending.push_back(Pending { checkpoint, missing: 0, overtaken: false });
        }
        self.pending.make_contiguous().sort_by_key(|pending| pending.checkpoint);
    }

    /// Ends the checkpoints that miss nothing. They are the oldest: who has a newer barrier on every
    /// channel has the older one too, or has abandoned it.
    fn settle(&mut self) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.missing == 0) {
            let barrier = Barrier { checkpoint: pending.checkpoint };
            if self.mode == CheckpointMode::Unaligned && !pending.overtaken {
                self.outcomes.push_back(Alignment::Overtake(barrier));
            }
            self.outcomes.push_back(
                if self.mode == CheckpointMode::Unaligned || pending.overtaken {
                    Alignment::Captured(pending.checkpoint)
                } else {
                    Alignment::Aligned(barrier)
                },
            );
            self.raise_floor(pending.checkpoint);
            self.release_channels();
        }
    }

    fn overtake(&mut self) {
        let Some(pending) = self.pending.front_mut().filter(|pending| !pending.overtaken) else {
            return;
        };
        pending.overtaken = true;
        let checkpoint = pending.checkpoint;
        for channel in &mut self.channels {
            channel.blocked = false;
            channel.captured = !channel.ended && channel.newest < checkpoint;
        }
        self.raise_floor(checkpoint);
        self.outcomes.push_back(Alignment::Overtake(Barrier { checkpoint }));
    }

    /// Gives up what is pending or announced and lost.
    fn abandon_where(&mut self, is_lost: impl Fn(CheckpointId) -> bool) {
        let pending = self.pending.iter().map(|pending| pending.checkpoint);
        let lost: BTreeSet<_> =
            pending.chain(self.announced.iter().copied()).filter(|id| is_lost(*id)).collect();
        let Some(newest) = lost.last().copied() else { return };
        let before = self.pending.len();
        self.pending.retain(|pending| !lost.contains(&pending.checkpoint));
        self.announced.retain(|id| !lost.contains(id));
        self.outcomes.extend(lost.into_iter().map(Alignment::Abandoned));
        self.raise_floor(newest);
        if self.pending.len() < before {
            self.release_channels();
        }
    }

    fn release_channels(&mut self) {
        for channel in &mut self.channels {
            (channel.blocked, channel.captured) = (false, false);
        }
    }

    fn raise_floor(&mut self, to: CheckpointId) {
        self.floor = self.floor.max(to);
        self.cancelled.retain(|id| *id > to);
        self.announced.retain(|id| *id > to);
    }
}

#[cfg(test)]
mod tests;
