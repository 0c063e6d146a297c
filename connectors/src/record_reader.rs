//! A reader on a slot: takes blocks from its thread, parses them in place and emits records.

use crate::block_reader::{Block, BlockReader, Inputs, Message, Next, Origin};
use crate::emission::Emission;
use crate::error::ReadError;
use crate::format::{Format, Malformed, OnMalformed, Problem};
use crate::line_count::LineCount;
use crate::unread::Position;
use millstream::connector::{
    BoxError, JobCounters, SlotWaker, SourceContext, SourceOutput, SourceReader, SourceStatus,
    Timestamp,
};
use std::marker::PhantomData;
use std::sync::Arc;

/// Records that one poll emits at most.
const RECORDS_PER_POLL: usize = 1024;
/// Records emitted between two looks at the outputs.
const RECORDS_PER_RUN: usize = 128;

/// What the readers of a source have in common.
#[derive(Clone, Debug)]
pub(crate) struct ReadOptions<F> {
    pub(crate) format: F,
    pub(crate) on_malformed: OnMalformed,
    /// Records to emit at most.
    pub(crate) limit: Option<u64>,
}

/// Reads the records of one subtask.
pub struct RecordReader<F: Format, E> {
    blocks: BlockReader,
    format: F,
    on_malformed: OnMalformed,
    counters: Arc<JobCounters>,
    waker: SlotWaker,
    /// Records that may be emitted in all.
    limit: u64,
    /// Records that were emitted, by this job and before it was restored.
    emitted: u64,
    is_at_end: bool,
    /// What has not been read, as far as the last block that is done with.
    position: Position,
    origin: Arc<Origin>,
    /// The position in the input of the first block since `Begin`.
    begin: u64,
    /// Lines before `begin`, once they have been counted.
    lines_before_begin: Option<u64>,
    block: Option<Block>,
    /// Bytes of the block that have been parsed.
    parsed: usize,
    /// A malformed record that waits until the lines before its split have been counted.
    locating: Option<Locating>,
    emission: PhantomData<E>,
}

/// A malformed record of which the line is being found out.
struct Locating {
    malformed: Malformed,
    lines: LineCount,
    /// Where it starts in the input: nothing from there on has been emitted.
    position: u64,
}

/// Why parsing stopped within a block.
struct Stopped {
    /// Where the record starts in the block.
    start: usize,
    problem: Problem,
}

impl<F: Format, E: Emission<F::Record>> RecordReader<F, E> {
    /// Starts to read `inputs`, which cannot be read again; `name` stands for them before the first
    /// is open.
    pub(crate) fn open(
        inputs: impl Inputs,
        name: &str,
        options: ReadOptions<F>,
        context: &SourceContext,
    ) -> Result<Self, BoxError> {
        Self::open_at(Position::default(), 0, inputs, name, options, context)
    }

    /// Starts to read `inputs`, which begin at this position, behind so many records that were
    /// emitted before.
    pub(crate) fn open_at(
        position: Position,
        emitted: u64,
        inputs: impl Inputs,
        name: &str,
        options: ReadOptions<F>,
        context: &SourceContext,
    ) -> Result<Self, BoxError> {
        let ReadOptions { format, on_malformed, limit } = options;
        let blocks =
            BlockReader::spawn(inputs, format.clone(), context.waker.clone()).map_err(|error| {
                ReadError::Io {
                    name: name.to_owned(),
                    action: "start the thread that reads it",
                    error,
                }
            })?;
        Ok(Self {
            blocks,
            format,
            on_malformed,
            counters: context.counters.clone(),
            waker: context.waker.clone(),
            limit: limit.unwrap_or(u64::MAX),
            emitted,
            is_at_end: false,
            position,
            origin: Arc::new(Origin { name: name.into(), path: None }),
            begin: 0,
            lines_before_begin: Some(0),
            block: None,
            parsed: 0,
            locating: None,
            emission: PhantomData,
        })
    }

    /// Parses and emits up to `most` records of the block; returns how many, and why it stopped
    /// before.
    #[inline]
    fn parse(
        &mut self,
        out: &mut impl SourceOutput<E::Out>,
        most: usize,
    ) -> (usize, Option<Stopped>) {
        let Some(block) = &self.block else { return (0, None) };
        let bytes = block.bytes();
        let mut emitted = 0;
        while emitted < most && self.parsed < bytes.len() {
            let start = self.parsed;
            let (consumed, record) = self.format.next(&bytes[start..]);
            assert!(consumed > 0, "a format consumes something of what it is given");
            self.parsed += consumed;
            match record {
                Some(Ok(record)) => {
                    out.collect(E::record(record, &self.origin.name));
                    emitted += 1;
                }
                Some(Err(problem)) => return (emitted, Some(Stopped { start, problem })),
                None => {}
            }
        }
        self.recycle_if_parsed();
        (emitted, None)
    }

    /// Hands back a block that is done with.
    fn recycle_if_parsed(&mut self) {
        if let Some(block) = self.block.take_if(|block| self.parsed >= block.bytes().len()) {
            self.position.reach(block.position(self.parsed));
            self.blocks.recycle(block);
        }
    }

    /// Skips a malformed record or passes it on; [`OnMalformed::Fail`] ends here.
    #[cold]
    fn on_problem(
        &mut self,
        out: &mut impl SourceOutput<E::Out>,
        stopped: Stopped,
    ) -> Result<(), ReadError> {
        if !E::TAKES_MALFORMED && self.on_malformed == OnMalformed::Skip {
            self.counters.add_malformed(1);
            return Ok(());
        }
        let block = self.block.as_ref().expect("a problem lies in a block");
        let position = block.position(stopped.start);
        let malformed = self.describe(stopped);
        match (self.lines_before_begin, &self.origin.path) {
            (Some(lines), _) => self.emit_malformed(out, malformed, lines),
            (None, Some(path)) => {
                let (name, path) = (self.origin.name.clone(), path.clone());
                let lines = LineCount::start(name, path, self.begin, self.waker.clone())?;
                self.locating = Some(Locating { malformed, lines, position });
                Ok(())
            }
            (None, None) => unreachable!("what cannot be read again is read from its beginning"),
        }
    }

    /// The malformed record, its line counted from `begin`.
    fn describe(&self, Stopped { start, problem }: Stopped) -> Malformed {
        let block = self.block.as_ref().expect("a problem lies in a block");
        let bytes = block.bytes();
        let raw = &bytes[start..self.parsed];
        let at = start + problem.at.min(raw.len());
        let line_start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1);
        let lines = memchr::memchr_iter(b'\n', &bytes[..at]).count() as u64;
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        Malformed {
            file: self.origin.name.to_string(),
            line: block.lines_before + lines + 1,
            column: String::from_utf8_lossy(&bytes[line_start..at]).chars().count() as u64 + 1,
            message: problem.message,
            raw: raw.strip_suffix(b"\r").unwrap_or(raw).to_vec(),
        }
    }

    fn emit_malformed(
        &mut self,
        out: &mut impl SourceOutput<E::Out>,
        mut malformed: Malformed,
        lines_before_begin: u64,
    ) -> Result<(), ReadError> {
        malformed.line += lines_before_begin;
        out.collect(E::malformed(malformed)?);
        self.emitted += 1;
        Ok(())
    }

    /// Takes one message of the thread; false if there is none yet.
    fn receive(&mut self) -> Result<Received, ReadError> {
        match self.blocks.try_next(&self.origin.name)? {
            Next::Nothing => return Ok(Received::Nothing),
            Next::Message(Message::Begin { origin, position, lines_before, head }) => {
                self.format.begin(head.as_deref());
                self.origin = origin;
                self.begin = position;
                self.lines_before_begin = lines_before;
                self.position.begin(position);
            }
            Next::Message(Message::Block(block)) => {
                self.block = Some(block);
                self.parsed = 0;
            }
            Next::Message(Message::Failed(error)) => return Err(error),
            Next::Message(Message::End) => return Ok(Received::End),
        }
        Ok(Received::Something)
    }
}

enum Received {
    Nothing,
    Something,
    End,
}

impl<F: Format, E: Emission<F::Record>> SourceReader for RecordReader<F, E> {
    type Out = E::Out;

    fn poll(&mut self, out: &mut impl SourceOutput<E::Out>) -> Result<SourceStatus, BoxError> {
        const UNTIL_WOKEN: SourceStatus = SourceStatus::Pending { until: Timestamp::MAX };
        if let Some(locating) = &mut self.locating {
            let Some(lines) = locating.lines.try_get()? else { return Ok(UNTIL_WOKEN) };
            self.lines_before_begin = Some(lines);
            if let Some(Locating { malformed, .. }) = self.locating.take() {
                self.emit_malformed(out, malformed, lines)?;
            }
        }
        let mut budget = RECORDS_PER_POLL;
        while budget > 0 {
            if self.is_at_end || self.emitted >= self.limit {
                return Ok(SourceStatus::Finished);
            }
            let room = out.room().min(self.limit - self.emitted);
            if room == 0 || out.is_blocked() {
                return Ok(SourceStatus::More);
            }
            if self.block.is_none() {
                match self.receive()? {
                    Received::Nothing => return Ok(UNTIL_WOKEN),
                    Received::Something => {}
                    Received::End => {
                        self.position.end();
                        self.is_at_end = true;
                    }
                }
                continue;
            }
            let most = RECORDS_PER_RUN.min(budget);
            let most = usize::try_from(room).map_or(most, |room| most.min(room));
            let (emitted, stopped) = self.parse(out, most);
            self.emitted += emitted as u64;
            // Skipped records count too, so that a poll ends even if it emits nothing.
            budget = budget.saturating_sub(emitted.max(1));
            if let Some(stopped) = stopped {
                self.on_problem(out, stopped)?;
                if self.locating.is_some() {
                    return Ok(UNTIL_WOKEN);
                }
            }
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        let mut position = self.position.clone();
        match (&self.locating, &self.block) {
            (Some(locating), _) => position.reach(locating.position),
            (None, Some(block)) => position.reach(block.position(self.parsed)),
            (None, None) => {}
        }
        if self.emitted >= self.limit {
            position.end();
        }
        position.items(self.emitted)
    }
}
