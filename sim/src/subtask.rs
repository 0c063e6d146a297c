//! One simulated subtask: a source, a keyed operator or a sink, and its part in checkpoints.

use crate::Bug;
use crate::channel::{Channel, Element};
use crate::disk::Operation;
use crate::message::{Context, Ghost, ToCoordinator, ToSubtask, Token};
use crate::names;
use crate::part::{Part, snapshot_path};
use crate::plan::{Stage, assignment, group_of};
use crate::record::Record;
use crate::sink::{self, Sink};
use crate::store::{Store, Write};
use millstream_protocol::manifest::layout;
use millstream_protocol::{Aligner, Alignment, CheckpointKind, SubtaskId};
use millstream_types::{Barrier, CheckpointId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A part of the input, and how far it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) index: u32,
    pub(crate) offset: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Role {
    Source {
        splits: Vec<Split>,
        /// A stop was announced: nothing is emitted any more.
        stopped: bool,
    },
    Keyed {
        store: Store,
        stage: Stage,
    },
    Sink(Sink),
}

/// What a subtask is connected with: channels, as the job numbers them, its outputs by the target's
/// index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiring {
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
}

/// A snapshot that was taken, until its checkpoint is over.
#[derive(Clone, Debug)]
struct Snapshot {
    part: Part,
    ghost: Ghost,
    /// Files that are not durable yet.
    waiting: BTreeSet<String>,
    /// What its barrier has overtaken is still coming.
    capturing: bool,
    /// It is whole, and its file is being written, or was.
    stored: bool,
    acknowledged: bool,
}

#[derive(Debug)]
pub(crate) struct Subtask {
    pub(crate) id: SubtaskId,
    pub(crate) role: Role,
    aligner: Aligner,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    pub(crate) mail: VecDeque<ToSubtask>,
    pub(crate) sent: VecDeque<ToCoordinator>,
    snapshots: BTreeMap<CheckpointId, Snapshot>,
    /// Being made durable; it has no checkpoint.
    last: Option<Snapshot>,
    open_inputs: usize,
    /// The end was emitted, or read by a sink.
    pub(crate) ended: bool,
    /// Gone, and its final snapshot is with the coordinator.
    pub(crate) finished: bool,
    aligning_since: Option<u64>,
}

impl Subtask {
    pub(crate) fn new(id: SubtaskId, role: Role, wiring: Wiring, aligner: Aligner) -> Self {
        Self {
            id,
            role,
            aligner,
            open_inputs: wiring.inputs.len(),
            inputs: wiring.inputs,
            outputs: wiring.outputs,
            mail: VecDeque::new(),
            sent: VecDeque::new(),
            snapshots: BTreeMap::new(),
            last: None,
            ended: false,
            finished: false,
            aligning_since: None,
        }
    }

    /// Does a little of what there is to do.
    pub(crate) fn step(&mut self, channels: &mut [Channel], cx: &mut Context<'_>) {
        if self.finished {
            return;
        }
        if cx.random.one_in(2)
            && let Some(message) = self.mail.pop_front()
        {
            self.on_message(message, channels, cx);
        }
        self.time_out(channels, cx);
        for index in 0..self.inputs.len() {
            if let Some((barrier, overtaken)) = channels[self.inputs[index]].take_ahead() {
                self.on_overtaking(index, barrier, &overtaken, channels, cx);
            }
        }
        for _ in 0..cx.random.between(1, 4) {
            if !self.has_credit(channels) {
                break;
            }
            self.work(channels, cx);
        }
        self.has_credit(channels);
        self.maintain(cx);
        self.finish(channels, cx);
    }

    /// A script of this subtask's has ended.
    pub(crate) fn on_disk(&mut self, token: &Token, ok: bool, cx: &mut Context<'_>) -> Vec<String> {
        match (token, &mut self.role) {
            (Token::Segment(_, name), Role::Keyed { store, .. }) => {
                // What is taken for durable is not written again.
                store.on_written(name, ok || cx.setup.bug == Some(Bug::LostChanges));
                self.on_file(name, ok, cx);
                if ok { Vec::new() } else { vec![name.clone()] }
            }
            (Token::Compaction(..), Role::Keyed { store, .. }) => {
                let replaced = store.on_compacted(ok);
                cx.trace.line(cx.now, || format!("{}: compacted {replaced:?}", self.id));
                replaced
            }
            (Token::Prepare(_, name), Role::Sink(sink)) => {
                sink.on_prepared(name, ok);
                self.on_file(name, ok, cx);
                Vec::new()
            }
            (Token::Snapshot(_, path), _) => {
                self.on_file(path, ok, cx);
                Vec::new()
            }
            (Token::Commit(_, name), Role::Sink(sink)) => {
                sink.on_committed(name, ok);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// What is still to be copied of the checkpoint that it was restored from.
    pub(crate) fn uncopied_files(&self) -> Vec<Token> {
        let Role::Keyed { store, .. } = &self.role else { return Vec::new() };
        store.unwritten().map(|name| Token::Segment(self.id, name.to_owned())).collect()
    }

    /// The segments that a checkpoint may yet name.
    pub(crate) fn needed_files(&self) -> impl Iterator<Item = &str> {
        let live = match &self.role {
            Role::Keyed { store, .. } => Some(store.live()),
            Role::Source { .. } | Role::Sink(_) => None,
        };
        let snapshots = self.snapshots.values().chain(&self.last);
        let named = snapshots.flat_map(|snapshot| &snapshot.part.segments);
        live.into_iter().flatten().chain(named.map(|segment| segment.name.as_str()))
    }

    fn on_message(&mut self, message: ToSubtask, channels: &mut [Channel], cx: &mut Context<'_>) {
        match message {
            ToSubtask::Announce(checkpoint, kind) => {
                let outcome = self.aligner.on_trigger(checkpoint);
                self.perform(outcome, None, channels, cx);
                if let Role::Source { stopped, .. } = &mut self.role {
                    *stopped |= kind == CheckpointKind::Stop;
                }
            }
            ToSubtask::Complete(checkpoint) => {
                self.snapshots.retain(|id, _| *id > checkpoint);
                match &mut self.role {
                    Role::Sink(sink) => sink.on_complete(checkpoint),
                    _ => self.sent.push_back(ToCoordinator::Committed(checkpoint)),
                }
            }
            ToSubtask::Abort(checkpoint) => {
                self.snapshots.remove(&checkpoint);
                self.aligner.cancel(checkpoint);
                self.note_alignment(cx.now);
            }
        }
    }

    fn time_out(&mut self, channels: &mut [Channel], cx: &mut Context<'_>) {
        if let (Some(since), Some(limit)) =
            (self.aligning_since, cx.plan.settings.alignment_timeout)
            && cx.now - since >= limit.as_millis() as u64
        {
            self.aligning_since = None;
            let outcome = self.aligner.on_timeout();
            self.perform(outcome, None, channels, cx);
        }
    }

    fn on_overtaking(
        &mut self,
        index: usize,
        barrier: Barrier,
        overtaken: &[Record],
        channels: &mut [Channel],
        cx: &mut Context<'_>,
    ) {
        let checkpoint = barrier.checkpoint;
        self.capture(index, checkpoint, overtaken, channels);
        let begun = self.snapshots.contains_key(&checkpoint);
        let outcome = self.aligner.on_overtaking_barrier(index, barrier);
        self.perform(outcome, (!begun).then_some((index, overtaken)), channels, cx);
    }

    /// One record, one barrier, or one end.
    fn work(&mut self, channels: &mut [Channel], cx: &mut Context<'_>) {
        if let Role::Source { .. } = self.role {
            self.emit(channels, cx);
            return;
        }
        let ready = |index: &usize| {
            !self.aligner.is_blocked(*index) && !channels[self.inputs[*index]].is_empty()
        };
        let ready: Vec<_> = (0..self.inputs.len()).filter(ready).collect();
        if ready.is_empty() {
            return;
        }
        let index = ready[cx.random.index(ready.len())];
        match channels[self.inputs[index]].take() {
            Some(Element::Record(record)) => {
                if self.aligner.is_captured(index)
                    && cx.setup.bug != Some(Bug::NothingCaptured)
                    && let Some(pending) = self.aligner.pending()
                {
                    self.capture(index, pending, &[record], channels);
                }
                self.process(record, channels, cx);
            }
            Some(Element::Barrier(barrier)) => {
                let outcome = self.aligner.on_barrier(index, barrier);
                self.perform(outcome, None, channels, cx);
            }
            Some(Element::End) => {
                self.open_inputs -= 1;
                let outcome = self.aligner.on_end(index);
                self.perform(outcome, None, channels, cx);
                if self.open_inputs == 0 {
                    self.flush(channels, cx);
                }
            }
            None => {}
        }
    }

    fn emit(&mut self, channels: &mut [Channel], cx: &mut Context<'_>) {
        let Role::Source { splits, stopped } = &mut self.role else { return };
        if *stopped || self.ended || !cx.random.one_in(cx.plan.pace) {
            return;
        }
        let unread = |split: &&mut Split| split.offset < cx.plan.splits[split.index as usize];
        let mut unread: Vec<_> = splits.iter_mut().filter(unread).collect();
        if unread.is_empty() {
            self.end(channels);
            return;
        }
        let at = cx.random.index(unread.len());
        let split = &mut unread[at];
        let record = cx.plan.record(split.index, split.offset);
        split.offset += 1;
        self.send(record, channels);
    }

    fn process(&mut self, record: Record, channels: &mut [Channel], cx: &mut Context<'_>) {
        match &mut self.role {
            Role::Source { .. } => {}
            Role::Sink(sink) => sink.push(record),
            Role::Keyed { store, stage } => {
                let window = stage.window;
                let fired = store.update(record.key, |value| {
                    value.count += 1;
                    let fires = value.count.is_multiple_of(window);
                    fires.then(|| {
                        value.emitted = value.count;
                        value.count
                    })
                });
                if let Some(count) = fired {
                    let row = cx.plan.emitted(self.id.vertex, *stage, record.key, count);
                    self.send(row, channels);
                }
            }
        }
    }

    /// All input has ended: what was counted and not emitted is emitted.
    fn flush(&mut self, channels: &mut [Channel], cx: &mut Context<'_>) {
        if let Role::Keyed { store, stage } = &mut self.role {
            let (stage, mut rows) = (*stage, Vec::new());
            for key in store.unemitted() {
                let count = store.update(key, |value| {
                    value.emitted = value.count;
                    value.count
                });
                rows.push(cx.plan.emitted(self.id.vertex, stage, key, count));
            }
            rows.into_iter().for_each(|row| self.send(row, channels));
        }
        self.end(channels);
    }

    fn end(&mut self, channels: &mut [Channel]) {
        self.ended = true;
        for channel in &self.outputs {
            channels[*channel].push(Element::End);
        }
    }

    fn send(&self, record: Record, channels: &mut [Channel]) {
        let target = assignment(self.outputs.len() as u32).owner(group_of(record.key));
        channels[self.outputs[target.0 as usize]].push(Element::Record(record));
    }

    fn has_credit(&self, channels: &mut [Channel]) -> bool {
        // Every channel sends what it can, whatever the others do.
        let full = self.outputs.iter().filter(|channel| !channels[**channel].send()).count();
        full == 0
    }

    /// Does what the aligner says. `overtaken` belongs to the snapshot that begins, if one does.
    fn perform(
        &mut self,
        first: Alignment,
        overtaken: Option<(usize, &[Record])>,
        channels: &mut [Channel],
        cx: &mut Context<'_>,
    ) {
        let mut outcome = first;
        loop {
            match outcome {
                Alignment::Waiting | Alignment::Ignored => break,
                Alignment::Aligned(barrier) => self.snapshot(barrier, false, channels, cx),
                Alignment::Overtake(barrier) => {
                    self.snapshot(barrier, true, channels, cx);
                    if let Some((index, records)) = overtaken {
                        self.capture(index, barrier.checkpoint, records, channels);
                    }
                }
                Alignment::Captured(checkpoint) => {
                    if let Some(snapshot) = self.snapshots.get_mut(&checkpoint) {
                        snapshot.capturing = false;
                    }
                    self.acknowledge(cx);
                }
                Alignment::Abandoned(checkpoint) => {
                    self.decline(checkpoint, "a newer barrier came");
                }
                Alignment::Recovering(barrier) => {
                    for channel in &self.outputs {
                        channels[*channel].push(Element::Barrier(barrier));
                    }
                }
                Alignment::Recovered => self.sent.push_back(ToCoordinator::Recovered),
            }
            outcome = self.aligner.follow_up();
        }
        self.note_alignment(cx.now);
    }

    fn note_alignment(&mut self, now: u64) {
        let capturing = self.snapshots.values().any(|snapshot| snapshot.capturing);
        let aligning = self.aligner.pending().is_some() && !capturing;
        self.aligning_since = aligning.then(|| self.aligning_since.unwrap_or(now));
    }

    /// Forwards the barrier and takes the snapshot, in one go.
    fn snapshot(
        &mut self,
        barrier: Barrier,
        overtakes: bool,
        channels: &mut [Channel],
        cx: &mut Context<'_>,
    ) {
        let checkpoint = barrier.checkpoint;
        cx.trace
            .line(cx.now, || format!("{}: snapshot {checkpoint}, overtakes: {overtakes}", self.id));
        let mut snapshot = self.cut(checkpoint, channels, cx);
        for channel in &self.outputs {
            let channel = &mut channels[*channel];
            if overtakes {
                let overtaken = channel.push_ahead(barrier);
                let to = channel.to.vertex;
                *snapshot.ghost.sent.entry((channel.from, channel.to)).or_default() -=
                    overtaken.len() as u64;
                snapshot.part.in_flight.extend(overtaken.into_iter().map(|record| (to, record)));
            } else {
                channel.push(Element::Barrier(barrier));
            }
        }
        snapshot.capturing = overtakes;
        self.snapshots.insert(checkpoint, snapshot);
        self.acknowledge(cx);
    }

    /// The state as it is now; what it needs on disk is begun to be written.
    fn cut(
        &mut self,
        checkpoint: CheckpointId,
        channels: &[Channel],
        cx: &mut Context<'_>,
    ) -> Snapshot {
        let mut part = Part::new(self.id);
        let mut waiting = BTreeSet::new();
        match &mut self.role {
            Role::Source { splits, .. } => {
                part.offsets = splits.iter().map(|split| (split.index, split.offset)).collect();
            }
            Role::Keyed { store, .. } => {
                let cut = store.cut(checkpoint);
                (part.segments, waiting) = (cut.segments, cut.waiting);
                for write in cut.writes {
                    let token = Token::Segment(self.id, write.name.clone());
                    cx.submit(token, write_segment(write, cx.setup.bug));
                }
            }
            Role::Sink(sink) => {
                let cut = sink.cut(checkpoint);
                (part.transactions, waiting) = (cut.transactions, cut.waiting);
                if let Some((name, bytes)) = cut.prepare {
                    let mut script = write_durably(&name, bytes);
                    script.push(Operation::SyncDirectory);
                    cx.submit(Token::Prepare(self.id, name), script);
                }
            }
        }
        let count = |channel: &Channel, records| ((channel.from, channel.to), records);
        let sent = self.outputs.iter().map(|at| &channels[*at]);
        let received = self.inputs.iter().map(|at| &channels[*at]);
        let ghost = Ghost {
            sent: sent.map(|channel| count(channel, channel.sent())).collect(),
            received: received.map(|channel| count(channel, channel.received())).collect(),
        };
        Snapshot { part, ghost, waiting, capturing: false, stored: false, acknowledged: false }
    }

    /// Adds records of a channel to a snapshot, if it has begun.
    fn capture(
        &mut self,
        index: usize,
        checkpoint: CheckpointId,
        records: &[Record],
        channels: &[Channel],
    ) {
        let channel = &channels[self.inputs[index]];
        let Some(snapshot) = self.snapshots.get_mut(&checkpoint) else { return };
        let vertex = self.id.vertex;
        snapshot.part.in_flight.extend(records.iter().map(|record| (vertex, *record)));
        *snapshot.ghost.received.entry((channel.from, channel.to)).or_default() +=
            records.len() as u64;
    }

    /// A file is durable, or will not be.
    fn on_file(&mut self, name: &str, ok: bool, cx: &mut Context<'_>) {
        let mut failed = Vec::new();
        for (id, snapshot) in &mut self.snapshots {
            if snapshot.waiting.remove(name) && !ok {
                failed.push(*id);
            }
        }
        for id in failed {
            self.decline(id, "a file could not be written");
        }
        if let Some(last) = &mut self.last
            && last.waiting.remove(name)
            && !ok
        {
            self.last = None;
        }
        self.acknowledge(cx);
    }

    /// Stores the snapshots that are whole, and reports those that are durable.
    fn acknowledge(&mut self, cx: &mut Context<'_>) {
        for (id, snapshot) in &mut self.snapshots {
            if !snapshot.capturing && !snapshot.stored {
                snapshot.stored = true;
                let path = snapshot_path(*id, self.id);
                snapshot.waiting.insert(path.clone());
                let mut script = write_durably(&path, snapshot.part.encode());
                script.push(Operation::SyncDirectory);
                cx.submit(Token::Snapshot(self.id, path), script);
            }
            if snapshot.stored && snapshot.waiting.is_empty() && !snapshot.acknowledged {
                snapshot.acknowledged = true;
                let (part, ghost) = (snapshot.part.clone(), snapshot.ghost.clone());
                self.sent.push_back(ToCoordinator::Acknowledge(*id, part, ghost));
            }
        }
    }

    fn decline(&mut self, checkpoint: CheckpointId, reason: &str) {
        self.snapshots.remove(&checkpoint);
        self.sent.push_back(ToCoordinator::Decline(checkpoint, reason.to_owned()));
    }

    /// What is not on the way of a record: compaction, commits.
    fn maintain(&mut self, cx: &mut Context<'_>) {
        match &mut self.role {
            Role::Source { .. } => {}
            Role::Keyed { store, .. } => {
                if let Some(write) = store.compact() {
                    let token = Token::Compaction(self.id, write.name.clone());
                    cx.submit(token, write_segment(write, cx.setup.bug));
                }
            }
            Role::Sink(sink) => {
                if let Some(name) = sink.commit() {
                    let published = cx.disks.output().read(&names::output(&name)).is_some();
                    let script = sink::commit(&name, published);
                    cx.submit(Token::Commit(self.id, name), script);
                }
                if let Some(checkpoint) = sink.take_committed() {
                    self.sent.push_back(ToCoordinator::Committed(checkpoint));
                }
            }
        }
    }

    /// A subtask that has ended, and whose output is out, leaves with a final snapshot.
    fn finish(&mut self, channels: &mut [Channel], cx: &mut Context<'_>) {
        let may = cx.plan.finishes && self.ended && !matches!(self.role, Role::Sink(_));
        if !may || !self.has_credit(channels) {
            return;
        }
        if self.snapshots.values().any(|snapshot| !snapshot.acknowledged) {
            return;
        }
        match &self.last {
            // Labelled with the newest epoch that this subtask knows of.
            None => self.last = Some(self.cut(CheckpointId(0), channels, cx)),
            Some(last) if last.waiting.is_empty() => {
                let (part, ghost) = (last.part.clone(), last.ghost.clone());
                self.sent.push_back(ToCoordinator::Finished(part, ghost));
                self.finished = true;
                cx.trace.line(cx.now, || format!("{}: finished", self.id));
            }
            Some(_) => {}
        }
    }
}

/// What makes a new file durable, but for its name.
pub(crate) fn write_durably(path: &str, bytes: Vec<u8>) -> Vec<Operation> {
    let path = path.to_owned();
    vec![
        Operation::Create(path.clone()),
        Operation::Append(path.clone(), bytes),
        Operation::Sync(path),
    ]
}

fn write_segment(write: Write, bug: Option<Bug>) -> Vec<Operation> {
    let mut script = write_durably(&layout::state_path(&write.name), write.bytes);
    if bug == Some(Bug::AcknowledgeBeforeSync) {
        script.pop();
    } else {
        script.push(Operation::SyncDirectory);
    }
    script
}
