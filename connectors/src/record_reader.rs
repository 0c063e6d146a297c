//! A reader on a slot: takes blocks from its thread, parses them in place and emits records.

use crate::block_reader::{Block, BlockReader, Inputs, Message, Next, Origin};
use crate::emission::Emission;
use crate::error::ReadError;
use crate::format::{Format, Malformed, OnMalformed, Problem};
use crate::line_count::LineCount;
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
    /// Records that may still be emitted.
    remaining: u64,
    origin: Arc<Origin>,
    /// The position in the input of the first block since `Begin`.
    begin: u64,
    /// Lines before `begin`, once they have been counted.
    lines_before_begin: Option<u64>,
    block: Option<Block>,
    /// Bytes of the block that have been parsed.
    parsed: usize,
    /// A malformed record that waits until the lines before its split have been counted.
    locating: Option<(Malformed, LineCount)>,
    emission: PhantomData<E>,
}

/// Why parsing stopped within a block.
struct Stopped {
    /// Where the record starts in the block.
    start: usize,
    problem: Problem,
}

impl<F: Format, E: Emission<F::Record>> RecordReader<F, E> {
    /// Starts to read `inputs`; `name` stands for them before the first is open.
    pub(crate) fn open(
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
            remaining: limit.unwrap_or(u64::MAX),
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
        if self.parsed >= bytes.len()
            && let Some(block) = self.block.take()
        {
            self.blocks.recycle(block);
        }
        (emitted, None)
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
        let malformed = self.describe(stopped);
        match (self.lines_before_begin, &self.origin.path) {
            (Some(lines), _) => self.emit_malformed(out, malformed, lines),
            (None, Some(path)) => {
                let (name, path) = (self.origin.name.clone(), path.clone());
                let count = LineCount::start(name, path, self.begin, self.waker.clone())?;
                self.locating = Some((malformed, count));
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
        self.remaining -= 1;
        Ok(())
    }

    /// Takes one message of the thread; false if there is none yet.
    fn receive(&mut self) -> Result<Received, ReadError> {
        match self.blocks.try_next(&self.origin.name)? {
            Next::Nothing => return Ok(Received::Nothing),
            Next::Message(Message::Begin { origin, position, head }) => {
                self.format.begin(head.as_deref());
                self.origin = origin;
                self.begin = position;
                self.lines_before_begin = (position == 0).then_some(0);
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
        if let Some((malformed, mut count)) = self.locating.take() {
            let Some(lines) = count.try_get()? else {
                self.locating = Some((malformed, count));
                return Ok(UNTIL_WOKEN);
            };
            self.lines_before_begin = Some(lines);
            self.emit_malformed(out, malformed, lines)?;
        }
        let mut budget = RECORDS_PER_POLL;
        while budget > 0 {
            if self.remaining == 0 {
                return Ok(SourceStatus::Finished);
            }
            if out.is_blocked() {
                return Ok(SourceStatus::More);
            }
            if self.block.is_none() {
                match self.receive()? {
                    Received::Nothing => return Ok(UNTIL_WOKEN),
                    Received::Something => {}
                    Received::End => self.remaining = 0,
                }
                continue;
            }
            let most = RECORDS_PER_RUN.min(budget);
            let most = usize::try_from(self.remaining).map_or(most, |left| most.min(left));
            let (emitted, stopped) = self.parse(out, most);
            self.remaining -= emitted as u64;
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
        Ok(Vec::new())
    }
}
