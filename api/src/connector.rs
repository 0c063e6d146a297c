//! What sources and sinks are made of; for those who write connectors.

pub use millstream_runtime::clock::ProcessingClock;
pub use millstream_runtime::error::BoxError;
pub use millstream_runtime::metrics::JobCounters;
pub use millstream_runtime::operator::Collector;
pub use millstream_runtime::sink::{PreCommit, Prepared, Sink, SinkContext, SinkWriter};
pub use millstream_runtime::source::{
    SlotWaker, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
pub use millstream_types::{SubtaskIndex, Timestamp};
