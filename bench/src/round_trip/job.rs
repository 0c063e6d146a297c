//! A job that a record goes through by way of the other host.

use super::Recorder;
use crate::process::tell;
use crate::two_hosts::Place;
use crate::{BenchError, Session};
use millstream::connector::{
    Sink, SinkContext, SinkWriter, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
use millstream::prelude::*;
use millstream::{Environment, record};
use std::cell::Cell;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How often it is looked whether the job has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// 40 bytes.
#[record]
#[derive(Clone, Copy)]
struct Record {
    number: u64,
    rest: [u64; 4],
}

thread_local! {
    /// When the record that is on its way was emitted. The source and the sink of the first host share its
    /// only slot, and so a thread.
    static EMITTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs the job, tells what the first host has recorded, and goes on until it is killed.
pub(super) fn run(place: &Place, duration: Duration, session: &Session) -> Result<(), BenchError> {
    let config = session.config.clone().set("idle", "spin")?.set("latency_interval", "off")?;
    let env = Environment::new(config);
    let (recorded, done) = channel();
    env.from_source("one", OneAtATime)
        .partition_custom(|_, _| 1)
        .map(|record| Record { number: record.number + 1, ..record })
        .partition_custom(|_, _| 0)
        .sink_to("back", Back { recorded, duration });
    let job = env.start("round trip")?;
    session.interrupt.cancel(job.canceller());
    while !job.has_ended() {
        session.check()?;
        if let Ok(recorder) = done.recv_timeout(LOOK_INTERVAL) {
            let recorder: Recorder = recorder;
            debug_assert_eq!(place.member, 0);
            tell(&recorder.percentiles())?;
        }
    }
    job.wait()?;
    Err(BenchError::Different("the job has ended before its time".to_owned()))
}

/// Emits a record when the one before has come back; on the first host alone.
#[derive(Clone)]
struct OneAtATime;

impl Source for OneAtATime {
    type Out = Record;
    type Reader = OneAtATimeReader;

    fn open(self, context: &SourceContext) -> Result<OneAtATimeReader, BoxError> {
        Ok(OneAtATimeReader { is_first: context.subtask.0 == 0, number: 0 })
    }
}

struct OneAtATimeReader {
    is_first: bool,
    number: u64,
}

impl SourceReader for OneAtATimeReader {
    type Out = Record;

    fn poll(&mut self, out: &mut impl SourceOutput<Record>) -> Result<SourceStatus, BoxError> {
        if !self.is_first {
            return Ok(SourceStatus::Pending { until: Timestamp::MAX });
        }
        if EMITTED.get().is_none() {
            EMITTED.set(Some(Instant::now()));
            self.number += 1;
            out.collect(Record { number: self.number, rest: [0; 4] });
        }
        // It spins.
        Ok(SourceStatus::Pending { until: Timestamp::MIN })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(Vec::new())
    }
}

#[derive(Clone)]
struct Back {
    recorded: Sender<Recorder>,
    duration: Duration,
}

impl Sink<Record> for Back {
    type Writer = BackWriter;

    fn open(self, _: &SinkContext) -> Result<BackWriter, BoxError> {
        Ok(BackWriter { sink: self, recorder: None })
    }
}

struct BackWriter {
    sink: Back,
    /// From the first record on.
    recorder: Option<Recorder>,
}

impl SinkWriter<Record> for BackWriter {
    fn write(&mut self, _: Record, _: Timestamp) -> Result<(), BoxError> {
        let emitted = EMITTED.take().ok_or("a record has come back that was not emitted here")?;
        let recorder = self.recorder.get_or_insert_with(|| Recorder::start(self.sink.duration));
        if !recorder.record(emitted)
            && let Some(recorder) = self.recorder.take()
        {
            // Whoever wanted to know may have given up.
            let _ = self.sink.recorded.send(recorder);
        }
        Ok(())
    }
}
