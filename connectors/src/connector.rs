//! The traits that this crate implements, by the one path through which it knows them.

pub(crate) use millstream_runtime::Timestamp;
pub(crate) use millstream_runtime::error::BoxError;
pub(crate) use millstream_runtime::metrics::JobCounters;
pub(crate) use millstream_runtime::sink::{Sink, SinkContext, SinkWriter};
pub(crate) use millstream_runtime::source::{
    SlotWaker, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
